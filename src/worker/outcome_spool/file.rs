//! One spooled outcome a file: a first line with version, checksum and length, then JSON.
//!
//! A file appears under its name only when all of it is on the disk. Its name holds a time and a random number, nothing
//! of the job.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{MOST_BYTES, MOST_FILES, SpoolError, record::SpooledOutcome};

const EXTENSION: &str = "outcome";
const DAMAGED: &str = "damaged";
const UNFINISHED: &str = "tmp";
/// First words of a file. The number changes when older versions could not read it.
const FORMAT: &str = "backend-worker-outcome 1";
/// Age from which an unfinished file counts as abandoned.
const UNFINISHED_FOR: Duration = Duration::from_secs(3600);

/// Why a file is not replayed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DamageError {
    #[error("it cannot be read ({0})")]
    Io(#[from] io::Error),
    #[error("its first line is not \"{FORMAT} <sha256> <bytes>\"")]
    Header,
    #[error("it holds {found} bytes, its first line says {told}")]
    Length { found: usize, told: usize },
    #[error("its content does not match its checksum")]
    Checksum,
    // The error's own text could quote the content.
    #[error("its content is not an outcome as this version writes it")]
    Content,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SpoolError + '_ {
    |source| SpoolError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Writes and removes an empty file.
pub(super) fn probe(folder: &Path) -> Result<(), SpoolError> {
    let path = folder.join(format!(".{:016x}.{UNFINISHED}", rand::random::<u64>()));
    create(&path).map_err(at(folder))?;
    fs::remove_file(&path).map_err(at(&path))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Writes an outcome, and returns once it is on the disk.
pub(super) fn write(folder: &Path, outcome: &SpooledOutcome) -> Result<PathBuf, SpoolError> {
    let body = serde_json::to_vec(outcome)?;
    let (mut files, mut bytes) = (1, body.len() as u64);
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        files += 1;
        // A file that was removed since the listing takes no room.
        bytes += entry
            .and_then(|entry| entry.metadata())
            .map_or(0, |meta| meta.len());
    }
    if files > MOST_FILES || bytes > MOST_BYTES {
        return Err(SpoolError::Full(folder.to_owned()));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = format!("{:013}-{:016x}", now.as_millis(), rand::random::<u64>());
    let unfinished = folder.join(format!(".{name}.{UNFINISHED}"));
    let path = folder.join(format!("{name}.{EXTENSION}"));
    let written = (|| {
        let mut file = create(&unfinished)?;
        writeln!(file, "{FORMAT} {} {}", checksum(&body), body.len())?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(folder)?.sync_all()
    })();
    written.map_err(|source| {
        // An unfinished file would take room on a disk that may be full.
        let _ = fs::remove_file(&unfinished);
        at(&path)(source)
    })?;
    Ok(path)
}

/// Reads an outcome.
pub(super) fn read(path: &Path) -> Result<SpooledOutcome, DamageError> {
    let bytes = fs::read(path)?;
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or(DamageError::Header)?;
    let (header, body) = (&bytes[..end], &bytes[end + 1..]);
    let header = std::str::from_utf8(header).map_err(|_| DamageError::Header)?;
    let fields = header.strip_prefix(FORMAT).ok_or(DamageError::Header)?;
    let mut fields = fields.split_ascii_whitespace();
    let (Some(sum), Some(told), None) = (fields.next(), fields.next(), fields.next()) else {
        return Err(DamageError::Header);
    };
    let told = told.parse().map_err(|_| DamageError::Header)?;
    if body.len() != told {
        return Err(DamageError::Length {
            found: body.len(),
            told,
        });
    }
    if checksum(body) != sum {
        return Err(DamageError::Checksum);
    }
    serde_json::from_slice(body).map_err(|_| DamageError::Content)
}

/// The files of outcomes, the oldest first. Removes files that were never finished: their jobs run again.
pub(super) fn waiting(folder: &Path) -> Result<Vec<PathBuf>, SpoolError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(EXTENSION) => found.push(path),
            Some(UNFINISHED) if is_old(&path) => drop(fs::remove_file(&path)),
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

fn is_old(path: &Path) -> bool {
    let changed = fs::metadata(path).and_then(|meta| meta.modified());
    changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > UNFINISHED_FOR))
}

/// Gives a file a name under which no start reads it.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = path.with_extension(DAMAGED);
    fs::rename(path, &aside)?;
    Ok(aside)
}

fn checksum(body: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, body);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
