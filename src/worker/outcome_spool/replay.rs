//! Writes spooled outcomes to their queues, before a replica claims its first job.

use std::{path::Path, sync::Arc};

use tracing::{error, info, warn};

use super::{OutcomeSpool, SpooledFile, file, record::SpooledOutcome};
use crate::{
    queue::{OutcomeWriter, WriteResult},
    retry::LoopBackoff,
};

impl OutcomeSpool {
    /// Writes every outcome that waits to the broker that `broker_of` returns for it. Waits for Redis as long as it takes:
    /// a claim before that could hand out a job again whose outcome lies here.
    pub(crate) async fn replay(&self, broker_of: impl Fn(&SpooledOutcome) -> Option<Arc<dyn OutcomeWriter>>) {
        let files = match self.waiting() {
            Ok(files) => files,
            Err(error) => {
                error!(%error, "outcomes that an earlier run has left in SPOOL_DIR are not read: their jobs run again");
                return;
            }
        };
        for path in files {
            let outcome = match file::read(&path) {
                Ok(outcome) => outcome,
                // Another replica that shares the folder was faster.
                Err(file::DamageError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(damage) => {
                    set_aside(&path, &damage.to_string());
                    continue;
                }
            };
            let (id, queue) = (&outcome.id, &outcome.queue);
            match broker_of(&outcome) {
                Some(broker) => write(path, &outcome, &*broker).await,
                None => {
                    warn!(%id, %queue, layout = outcome.layout, file = %path.display(), "a spooled outcome stays in its file: \
                        this replica does not serve its queue; start one that does with this SPOOL_DIR");
                }
            }
        }
    }
}

async fn write(path: std::path::PathBuf, outcome: &SpooledOutcome, broker: &dyn OutcomeWriter) {
    let (id, queue) = (&outcome.id, &outcome.queue);
    let mut pause = LoopBackoff::new(
        std::time::Duration::from_millis(50),
        std::time::Duration::from_secs(2),
    );
    loop {
        match outcome.write_to(broker).await {
            Ok(WriteResult::Applied) => {
                info!(%id, %queue, "a spooled outcome of an earlier run is written");
                break;
            }
            Ok(WriteResult::Lost) => {
                warn!(%id, %queue, "a spooled outcome is dropped: the job was given to another replica since");
                break;
            }
            Err(error) if error.is_refusal() => {
                set_aside(&path, &error.to_string());
                return;
            }
            Err(error) => {
                warn!(%error, %id, %queue, "a spooled outcome is not written yet: this replica tries again, and claims no job before");
                pause.wait().await;
            }
        }
    }
    SpooledFile(path).remove().await;
}

fn set_aside(path: &Path, why: &str) {
    match file::set_aside(path) {
        Ok(aside) => error!(
            file = %aside.display(),
            "a spooled outcome is set aside: {why}. Its job runs again; remove the file when it is no longer of use"
        ),
        Err(error) => {
            error!(%error, file = %path.display(), "a spooled outcome cannot be read, nor set aside: {why}")
        }
    }
}
