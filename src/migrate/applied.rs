//! Reads the ledger of the migrations that were applied to the keyspace.

use std::collections::BTreeMap;

use redis::Script;
use serde::{Deserialize, Serialize};

use super::{MigrateError, list};

/// One migration's entry.
#[derive(Debug, Clone, Deserialize)]
struct AppliedMigration {
    name: String,
    sha: String,
    /// ms of Redis's clock.
    at: f64,
    by: String,
    #[serde(default)]
    older: OlderWorkers,
    #[serde(default)]
    changed: f64,
}

/// True if a worker without the migration may run on the migrated keyspace. Any unknown value counts as false.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OlderWorkers {
    Run,
    #[default]
    #[serde(other)]
    Refuse,
}

/// State of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationState {
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
pub struct MigrationRow {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// Its state.
    pub standing: MigrationState,
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
pub(super) struct AppliedMigrations(BTreeMap<u32, AppliedMigration>);

impl AppliedMigrations {
    /// Reads the hash. An unreadable entry counts as a migration of a later version that older workers must refuse.
    pub(super) fn new(fields: Vec<(String, String)>) -> Self {
        let entries = fields.into_iter().map(|(version, text)| {
            let entry = serde_json::from_str(&text).unwrap_or_else(|_| AppliedMigration {
                name: "unreadable".to_owned(),
                sha: String::new(),
                at: 0.0,
                by: "unknown".to_owned(),
                older: OlderWorkers::Refuse,
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
        let newer = self
            .unknown()
            .find(|(_, entry)| entry.older == OlderWorkers::Refuse);
        match newer {
            None => Ok(()),
            Some((version, entry)) => Err(MigrateError::Newer {
                version: *version,
                name: entry.name.clone(),
                by: entry.by.clone(),
            }),
        }
    }

    fn unknown(&self) -> impl Iterator<Item = (&u32, &AppliedMigration)> {
        let known = |version: &u32| list::ALL.iter().any(|m| m.version == *version);
        self.0.iter().filter(move |(version, _)| !known(version))
    }

    /// Every migration, ours and those of later versions.
    pub(super) fn rows(&self) -> Vec<MigrationRow> {
        let ours = list::ALL.iter().map(|m| {
            let entry = self.0.get(&m.version);
            let standing = match entry {
                Some(entry) if entry.sha == Script::new(m.source).get_hash() => MigrationState::Applied,
                Some(_) => MigrationState::Differs,
                None if m.opt_in.is_some() => MigrationState::OptIn,
                None => MigrationState::Pending,
            };
            row(m.version, m.name, standing, m.opt_in, entry)
        });
        let theirs = self.unknown().map(|(version, entry)| {
            let standing = match entry.older {
                OlderWorkers::Run => MigrationState::Unknown,
                OlderWorkers::Refuse => MigrationState::Newer,
            };
            row(*version, &entry.name, standing, None, Some(entry))
        });
        ours.chain(theirs).collect()
    }
}

fn row(
    version: u32,
    name: &str,
    standing: MigrationState,
    option: Option<&'static str>,
    entry: Option<&AppliedMigration>,
) -> MigrationRow {
    MigrationRow {
        version,
        name: name.to_owned(),
        standing,
        option,
        at: entry.map(|e| e.at.max(0.0) as u64),
        by: entry.map(|e| e.by.clone()),
        changed: entry.map(|e| e.changed.max(0.0) as u64),
    }
}
