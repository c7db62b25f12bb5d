//! Migrations of the Redis keyspace: `migrations/NNNN_name.lua`, in the binary, each done once and in order.
//!
//! - The **ledger** ([`MigrationKeys::LEDGER`]) says what was done: by which version of the worker, when by Redis's
//!   clock, and with which SHA-1 of the file.
//! - The **lock** lets one replica migrate while the others wait. Every step checks the lock, so a replica that was
//!   paused for too long changes nothing. An interrupted migration restarts from its beginning, which is safe for each
//!   of them.
//! - A step works on one batch of keys, and no script runs for longer than a few milliseconds.
//! - A keyspace that a later version has changed so that this one may not run on it is refused
//!   ([`MigrateError::Newer`]).
//!
//! # Layout
//! - `list`: every migration. `scope`: which keys its steps are given.
//! - `applied`: what has been done, read.
//! - `start`: what every replica does before it claims.

mod applied;
mod key_scope;
mod list;
mod start;

use std::{
    collections::BTreeSet,
    sync::LazyLock,
    time::{Duration, Instant},
};

use redis::{RedisError, Script};
use serde::Serialize;
use tracing::info;

pub use applied::{MigrationRow, MigrationState};
pub(crate) use start::before_claiming;

use self::{applied::AppliedMigrations, key_scope::KeyScope, list::Migration};
use crate::{connection::Connection, keys::MigrationKeys};

/// Exit code for a keyspace of a later version (`EX_DATAERR`).
pub const EXIT_NEWER: u8 = 65;

/// How long the lock lasts without a sign of life.
const LOCK_TTL: Duration = Duration::from_secs(30);
/// How long to wait for another replica that migrates.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Keys that one SCAN looks at.
const SCAN_COUNT: usize = 500;
/// SCANs between two signs of life of the lock.
const SCANS_A_SIGN: usize = 200;
/// Of what a migration has to tell, so many lines are kept.
const NOTES: usize = 100;

static LOCK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lock.lua")));
static UNLOCK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("unlock.lua")));
static RECORD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("record.lua")));

/// Why the keyspace could not be migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A later version has changed it so that this one may not run on it.
    #[error(
        "the keyspace is newer than this worker: migration {version} ({name}) was made by backend-worker {by}; run \
         that version or a later one"
    )]
    Newer {
        /// The migration.
        version: u32,
        /// Its name.
        name: String,
        /// The worker that made it.
        by: String,
    },
    /// Another replica has held the lock for too long.
    #[error("another replica has been migrating the keyspace for more than {} s", PATIENCE.as_secs())]
    Busy,
    /// The lock ran out during the migration: another replica may have taken over.
    #[error("the lock of the migrations ran out in the middle")]
    Lost,
    /// Redis is a cluster, and the configuration names no tag.
    #[error(
        "Redis is a cluster, whose scripts work on the keys of one slot: set REDIS_CLUSTER_TAG, such as REDIS_CLUSTER_TAG=app, and have \
         producers use the prefix {{app}} (docs/redis-cluster.md)"
    )]
    Cluster,
    /// Redis is away, or refuses.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
}

/// The work of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct MigrationPlan {
    /// Change nothing, and say what would be changed.
    pub dry_run: bool,
    /// Retire Bottleneck's keys, even if that was done before.
    pub retire_bottleneck: bool,
}

impl MigrationPlan {
    fn wants(self, migration: &Migration, ledger: &AppliedMigrations) -> bool {
        match migration.scope {
            KeyScope::Bottleneck => self.retire_bottleneck,
            _ => !ledger.has(migration.version),
        }
    }
}

/// A migration that was done, or in a dry run would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigrationRun {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: &'static str,
    /// Keys that it changed.
    pub changed: u64,
    /// Notes for the operator.
    pub notes: Vec<String>,
}

/// Migrates the keyspace of one Redis.
#[derive(Debug)]
pub struct Migrator {
    connection: Connection,
    token: String,
}

impl Migrator {
    /// A migrator; `name` shows in Redis who holds the lock.
    pub fn new(connection: Connection, name: &str) -> Self {
        Self {
            connection,
            token: format!("{name}:{:08x}", rand::random::<u32>()),
        }
    }

    /// Every migration, and whether it has been done.
    ///
    /// # Errors
    /// Redis's.
    pub async fn status(&self) -> Result<Vec<MigrationRow>, MigrateError> {
        Ok(self.ledger().await?.rows())
    }

    /// Does what the ledger lacks, in order. Several replicas may ask at once: one works, the others wait.
    ///
    /// # Errors
    /// [`MigrateError`]. What was done before the error stays done; asking again goes on from there.
    pub async fn migrate(&self, plan: MigrationPlan) -> Result<Vec<MigrationRun>, MigrateError> {
        let asked = Instant::now();
        loop {
            let ledger = self.ledger().await?;
            ledger.admits_us()?;
            let wanted = list::ALL.iter().any(|m| plan.wants(m, &ledger));
            if !wanted {
                return Ok(Vec::new());
            }
            if plan.dry_run {
                return self.work(plan, &ledger).await;
            }
            if self.lock().await? {
                break;
            }
            if asked.elapsed() > PATIENCE {
                return Err(MigrateError::Busy);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // Read again: another may have migrated since.
        let done = match self.ledger().await {
            Ok(ledger) => self.work(plan, &ledger).await,
            Err(error) => Err(error.into()),
        };
        // Best effort: a lock that is not given back runs out.
        let _: Result<u8, RedisError> = self
            .connection
            .invoke(
                UNLOCK
                    .key(self.connection.named(MigrationKeys::LOCK))
                    .arg(&self.token),
            )
            .await;
        done
    }

    async fn work(
        &self,
        plan: MigrationPlan,
        ledger: &AppliedMigrations,
    ) -> Result<Vec<MigrationRun>, MigrateError> {
        ledger.admits_us()?;
        let mut all = Vec::new();
        for migration in list::ALL.iter().filter(|m| plan.wants(m, ledger)) {
            let done = self.apply(migration, plan.dry_run).await?;
            if !plan.dry_run {
                self.record(migration, done.changed).await?;
                let (name, changed, notes) = (done.name, done.changed, done.notes.join("; "));
                info!(migration = name, changed, notes, "keyspace migrated: {name}");
            }
            all.push(done);
        }
        Ok(all)
    }

    async fn apply(&self, migration: &Migration, dry_run: bool) -> Result<MigrationRun, MigrateError> {
        let script = Script::new(&format!("{}{}", include_str!("common.lua"), migration.source));
        let owners = self.owners(migration.scope, dry_run).await?;
        let mut done = MigrationRun {
            version: migration.version,
            name: migration.name,
            changed: 0,
            notes: Vec::new(),
        };
        for batch in migration.scope.batches(&owners) {
            let mut cursor = "0".to_owned();
            loop {
                let mut step = script.key(self.connection.named(MigrationKeys::LOCK));
                for key in &batch {
                    step.key(key);
                }
                step.arg(if dry_run { "" } else { &self.token })
                    .arg(LOCK_TTL.as_millis() as u64)
                    .arg(&cursor);
                if let Some(argument) = migration.scope.argument() {
                    step.arg(argument);
                }
                let (next, changed, notes): (String, u64, Vec<String>) =
                    self.connection.invoke(&step).await?;
                done.changed += changed;
                let room = NOTES.saturating_sub(done.notes.len());
                done.notes.extend(notes.into_iter().take(room));
                match next.as_str() {
                    "0" => break,
                    "lost" => return Err(MigrateError::Lost),
                    _ => cursor = next,
                }
            }
        }
        Ok(done)
    }

    /// Lists the owners of keys, in one walk over the keyspace in small batches.
    async fn owners(&self, scope: KeyScope, dry_run: bool) -> Result<BTreeSet<String>, MigrateError> {
        let mut owners = BTreeSet::new();
        let Some(pattern) = scope.pattern() else {
            return Ok(owners);
        };
        if self.connection.namespace().is_tagged() {
            return Ok(owners); // The layouts that these migrations change are older than the names of clusters.
        }
        let (mut cursor, mut scans) = (0_u64, 0_usize);
        loop {
            let mut scan = redis::pipe();
            scan.cmd("SCAN").arg(cursor);
            scan.arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
            let ((next, keys),): ((u64, Vec<Vec<u8>>),) = self.connection.query(&scan).await?;
            // All keys of this worker are text, so any other key belongs to another program.
            let keys = keys.iter().filter_map(|key| std::str::from_utf8(key).ok());
            owners.extend(keys.filter_map(|key| scope.owner(key)).map(str::to_owned));
            scans += 1;
            if !dry_run && scans.is_multiple_of(SCANS_A_SIGN) && !self.lock().await? {
                return Err(MigrateError::Lost);
            }
            if next == 0 {
                return Ok(owners);
            }
            cursor = next;
        }
    }

    async fn record(&self, migration: &Migration, changed: u64) -> Result<(), MigrateError> {
        let mut record = RECORD.key(self.connection.named(MigrationKeys::LOCK));
        record
            .key(self.connection.named(MigrationKeys::LEDGER))
            .arg(&self.token)
            .arg(migration.version)
            .arg(migration.name)
            .arg(Script::new(migration.source).get_hash())
            .arg(env!("CARGO_PKG_VERSION"))
            .arg(if migration.older_may_run { "run" } else { "refuse" })
            .arg(changed);
        let written: bool = self.connection.invoke(&record).await?;
        if written { Ok(()) } else { Err(MigrateError::Lost) }
    }

    async fn lock(&self) -> Result<bool, RedisError> {
        let mut lock = LOCK.key(self.connection.named(MigrationKeys::LOCK));
        lock.arg(&self.token).arg(LOCK_TTL.as_millis() as u64);
        self.connection.invoke(&lock).await
    }

    async fn ledger(&self) -> Result<AppliedMigrations, RedisError> {
        let mut read = redis::pipe();
        read.cmd("HGETALL")
            .arg(self.connection.named(MigrationKeys::LEDGER));
        let (fields,) = self.connection.query(&read).await?;
        Ok(AppliedMigrations::new(fields))
    }
}
