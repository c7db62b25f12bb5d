//! The first step of every replica before it claims: it migrates, or waits until another replica has done so.

use std::time::Duration;

use tracing::{error, warn};

use super::{MigrateError, MigrationPlan, MigrationState, Migrator};
use crate::retry::LoopBackoff;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Brings the keyspace to this worker's version. While Redis is away it asks again, and `away` hears of it.
///
/// # Errors
/// When the keyspace is newer, or another replica does not come to an end: a restart may help with the latter.
pub(crate) async fn before_claiming(migrator: &Migrator, away: impl Fn(bool)) -> Result<(), MigrateError> {
    let mut backoff = LoopBackoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match migrate(migrator).await {
            Ok(()) => {
                away(false);
                return Ok(());
            }
            Err(MigrateError::Redis(error)) => {
                away(true);
                warn!(%error, "Redis is away or refuses: the keyspace cannot be looked at; trying again");
            }
            Err(MigrateError::Lost) => {
                warn!("the lock of the migrations ran out in the middle: trying again")
            }
            Err(error @ (MigrateError::Newer { .. } | MigrateError::Busy | MigrateError::Cluster)) => {
                return Err(error);
            }
        }
        backoff.wait().await;
    }
}

async fn migrate(migrator: &Migrator) -> Result<(), MigrateError> {
    if migrator.connection.is_untagged_cluster().await? {
        return Err(MigrateError::Cluster);
    }
    migrator.migrate(MigrationPlan::default()).await?;
    for row in migrator.status().await? {
        let (version, name) = (row.version, &row.name);
        match row.standing {
            MigrationState::Unknown => {
                warn!("the keyspace knows migration {version} ({name}) of a later version")
            }
            MigrationState::Differs => {
                error!("migration {version} ({name}) was done from another file than this worker's")
            }
            _ => {}
        }
    }
    Ok(())
}
