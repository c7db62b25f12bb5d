//! Local files for outcomes that Redis does not take while the replica stops (`SPOOL_DIR`). The next start writes them to
//! their queues, as long as no other replica has been given the job.
//!
//! # Layout
//! - [`record`]: an outcome, and the claim that it belongs to, as JSON.
//! - `file`: one file for each outcome: its name, its checksum, its rights.
//! - `replay`: writes the outcomes to their queues at the start.
//!
//! The worker goes on sending an outcome after it is in a file, and removes the file when Redis takes the outcome. Scripts
//! apply an outcome once however often it is sent, so a kill at any moment neither loses it nor applies it twice.

mod file;
pub mod record;
mod replay;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use record::SpooledOutcome;

/// Files in the folder at most. A replica has no more outcomes to write than it has jobs in flight.
const MOST_FILES: usize = 20_000;
/// Bytes in the folder at most.
const MOST_BYTES: u64 = 1 << 30;

/// Why an outcome is not in the spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder holds as much as it may.
    #[error("{0} holds {MOST_FILES} files or {MOST_BYTES} bytes, the most that it may")]
    Full(PathBuf),
    /// The file system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
    /// The outcome cannot be written as JSON.
    #[error("an outcome that is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The task that writes the file has died.
    #[error("the task that writes the file has died")]
    Died,
}

/// The folder of a replica's spooled outcomes. Several replicas may share one.
#[derive(Debug, Clone)]
pub struct OutcomeSpool(Arc<Path>);

impl OutcomeSpool {
    /// The spool in `folder`, which has to exist and to take files.
    ///
    /// # Errors
    /// When a file cannot be written there.
    pub fn open(folder: &Path) -> Result<Self, SpoolError> {
        file::probe(folder)?;
        Ok(Self(folder.into()))
    }

    /// Writes an outcome to a file of its own, and returns once it is on the disk.
    pub(crate) async fn keep(&self, outcome: SpooledOutcome) -> Result<SpooledFile, SpoolError> {
        let folder = self.0.clone();
        let written = tokio::task::spawn_blocking(move || file::write(&folder, &outcome)).await;
        written.map_err(|_died| SpoolError::Died)?.map(SpooledFile)
    }

    /// The outcomes that wait, the oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn waiting(&self) -> Result<Vec<PathBuf>, SpoolError> {
        file::waiting(&self.0)
    }
}

/// An outcome in its file.
#[derive(Debug)]
pub(crate) struct SpooledFile(PathBuf);

impl SpooledFile {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes the file, because the outcome is written or its claim has lost the job. A file that stays does no
    /// harm: its outcome is applied once.
    pub(crate) async fn remove(self) {
        let path = self.0.clone();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_file(path)).await;
        match removed {
            Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %self.0.display(), "the file of a written outcome is not removed: the next start does so");
            }
            _ => {}
        }
    }
}
