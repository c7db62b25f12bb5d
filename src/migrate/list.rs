//! All migrations, in order. A released migration never changes; the next migration fixes its mistakes.

use super::key_scope::KeyScope;

/// A migration of the keyspace.
#[derive(Debug)]
pub(super) struct Migration {
    pub(super) version: u32,
    pub(super) name: &'static str,
    pub(super) source: &'static str,
    /// Which keys its steps are given.
    pub(super) scope: KeyScope,
    /// The option of `migrate` that it waits for; `None` for one that every start runs.
    pub(super) opt_in: Option<&'static str>,
    /// True if a worker that does not know this migration may run beside what it leaves.
    pub(super) older_may_run: bool,
}

macro_rules! migration {
    ($version:literal, $name:literal, $scope:expr, $opt_in:expr) => {
        Migration {
            version: $version,
            name: $name,
            source: include_str!(concat!("../../migrations/", $name, ".lua")),
            scope: $scope,
            opt_in: $opt_in,
            older_may_run: true,
        }
    };
}

pub(super) const ALL: &[Migration] = &[
    migration!(1, "0001_stamp", KeyScope::Nothing, None),
    migration!(2, "0002_repair_breakers", KeyScope::Breakers, None),
    migration!(
        3,
        "0003_retire_bottleneck",
        KeyScope::Bottleneck,
        Some("--retire-bottleneck")
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The SHA-1 of each file as it was released: a ledger remembers it.
    const RELEASED: &[(&str, &str)] = &[
        ("0001_stamp", "23352df1019269b23a09c238097e5b4ced373fa7"),
        ("0002_repair_breakers", "c6663fa2f1291b1d6d099d030b5ccccb0abc66ae"),
        (
            "0003_retire_bottleneck",
            "f85bd02cf316fc23019b268f810cb6c84a82cd8d",
        ),
    ];

    #[test]
    fn no_released_migration_is_changed() {
        let all: Vec<(&str, String)> = ALL
            .iter()
            .map(|m| (m.name, redis::Script::new(m.source).get_hash().to_owned()))
            .collect();
        let all: Vec<(&str, &str)> = all.iter().map(|(name, sha)| (*name, sha.as_str())).collect();
        assert_eq!(all, RELEASED);
    }

    #[test]
    fn every_file_is_listed_and_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| {
                Some(
                    entry
                        .unwrap()
                        .file_name()
                        .to_str()?
                        .strip_suffix(".lua")?
                        .to_owned(),
                )
            })
            .collect();
        files.sort();
        let names: Vec<&str> = ALL.iter().map(|m| m.name).collect();
        assert_eq!(files, names);
        for (migration, number) in ALL.iter().zip(1..) {
            assert_eq!(migration.version, number, "{}", migration.name);
            assert!(migration.name.starts_with(&format!("{number:04}_")));
        }
    }
}
