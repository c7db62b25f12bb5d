//! Reads the ledger of the migrations that were applied to the keyspace.

use std::collections::BTreeMap;

use redis::Script;
use serde::{Deserialize, Serialize};

use super::{MigrateError, list};

/// One migration's entry.
#[derive(Debug, Clone, Deserialize)]
struct Entry {
    name: String,
    sha: String,
    /// ms of Redis's clock.
    at: f64,
    by: String,
    #[serde(default)]
    older: Older,
    #[serde(default)]
    changed: f64,
}

/// Whether a worker without the migration may run on the migrated keyspace. Any unknown value counts as a no.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Older {
    Run,
    #[default]
    #[serde(other)]
    Refuse,
}

/// State of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Done.
    Applied,
    /// Done, from another file than this worker's.
    Differs,
    /// To be done at the next start, or by `migrate`.
    Pending,
    /// Done only when an operator says so.
    OptIn,
    /// Done by a later version; this one may run beside it.
    Unknown,
    /// Done by a later version; this one must not run.
    Newer,
}

/// A migration and its state.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// Its state.
    pub standing: Standing,
    /// The option that it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub option: Option<&'static str>,
    /// When it was done, ms of Redis's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// The version of the worker that did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Keys that it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<u64>,
}

/// The ledger.
#[derive(Debug)]
pub(super) struct Ledger(BTreeMap<u32, Entry>);

impl Ledger {
    /// Reads the hash. An unreadable entry counts as a migration of a later version that older workers must refuse.
    pub(super) fn new(fields: Vec<(String, String)>) -> Self {
        let entries = fields.into_iter().map(|(version, text)| {
            let entry = serde_json::from_str(&text).unwrap_or_else(|_| Entry {
                name: "unreadable".to_owned(),
                sha: String::new(),
                at: 0.0,
                by: "unknown".to_owned(),
                older: Older::Refuse,
                changed: 0.0,
            });
            (version.parse().unwrap_or(u32::MAX), entry)
        });
        Self(entries.collect())
    }

    pub(super) fn has(&self, version: u32) -> bool {
        self.0.contains_key(&version)
    }

    /// Checks that this worker may run on the keyspace.
    pub(super) fn admits_us(&self) -> Result<(), MigrateError> {
        let newer = self.unknown().find(|(_, entry)| entry.older == Older::Refuse);
        match newer {
            None => Ok(()),
            Some((version, entry)) => Err(MigrateError::Newer {
                version: *version,
                name: entry.name.clone(),
                by: entry.by.clone(),
            }),
        }
    }

    fn unknown(&self) -> impl Iterator<Item = (&u32, &Entry)> {
        let known = |version: &u32| list::ALL.iter().any(|m| m.version == *version);
        self.0.iter().filter(move |(version, _)| !known(version))
    }

    /// Every migration, ours and those of later versions.
    pub(super) fn rows(&self) -> Vec<Row> {
        let ours = list::ALL.iter().map(|m| {
            let entry = self.0.get(&m.version);
            let standing = match entry {
                Some(entry) if entry.sha == Script::new(m.source).get_hash() => Standing::Applied,
                Some(_) => Standing::Differs,
                None if m.opt_in.is_some() => Standing::OptIn,
                None => Standing::Pending,
            };
            row(m.version, m.name, standing, m.opt_in, entry)
        });
        let theirs = self.unknown().map(|(version, entry)| {
            let standing = match entry.older {
                Older::Run => Standing::Unknown,
                Older::Refuse => Standing::Newer,
            };
            row(*version, &entry.name, standing, None, Some(entry))
        });
        ours.chain(theirs).collect()
    }
}

fn row(
    version: u32,
    name: &str,
    standing: Standing,
    option: Option<&'static str>,
    entry: Option<&Entry>,
) -> Row {
    Row {
        version,
        name: name.to_owned(),
        standing,
        option,
        at: entry.map(|e| e.at.max(0.0) as u64),
        by: entry.map(|e| e.by.clone()),
        changed: entry.map(|e| e.changed.max(0.0) as u64),
    }
}
