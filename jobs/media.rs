//! Media of a job: its bytes from base64, an https URL or the uploads folder, and what the providers need to
//! know of them before they are paid. Everything here comes from outside, so every source is limited in size and
//! place, and nothing is believed that was not checked.
//!
//! # Layout
//! - [`Media`]: loads the bytes of one [`MediaSource`].
//! - `encoded`: base64 and data URLs, in the forms in which they arrive.
//! - `fetch`: downloads; `address`: which hosts a download may reach. `files`: the uploads folder.
//! - [`decoder`]: where recordings are decoded. [`audio`]: any recording to 16 kHz mono WAV; `opus`: Opus, which is
//!   only repacked; `bounds`, `vorbis`: what is refused before it reaches a decoder.
//! - `formats`: names of formats that are refused.
//! - [`image`]: format and size of a picture, from its header.

use std::{
    fs::File,
    io::{Error, Read},
    path::Path,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use tokio::{
    task::{spawn_blocking, yield_now},
    time::sleep,
};

use crate::{ClientError, Failure, FailureClass, MediaSettings, MemoryBudget, MemoryReservation};

mod address;
pub mod audio;
mod bounds;
pub mod decoder;
mod encoded;
mod fetch;
mod files;
mod formats;
#[cfg(any(test, fuzzing))]
#[path = "../fuzz/targets/media.rs"]
pub(crate) mod fuzz;
pub mod image;
mod opus;
#[cfg(test)]
mod tests;
mod vorbis;

pub(crate) use encoded::{is_address, is_bare_base64, is_content};
pub(crate) use fetch::DisplayUrl;
use fetch::MediaFetcher;
use files::{OpenFileError, open_beneath};

/// Pauses before a download is tried again. A medium is small and free, a job that goes back to its queue is not.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];

/// Name of the web API's uploads folder, with which its paths begin.
const UPLOADS: &str = "uploads";

/// Where the bytes of one payload field are. Not `Debug`: a URL can be signed, and a payload can be long.
#[derive(Clone, Copy)]
pub enum MediaSource<'a> {
    /// An https URL.
    Url(&'a str),
    /// Base64 in any spelling (`encoded`), perhaps as a `data:` URL.
    Base64(&'a str),
    /// A path below the uploads folder: absolute, relative to it, or beginning with its name.
    FilePath(&'a str),
}

/// Loads media within the limits of [`MediaSettings`]. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Media {
    fetcher: MediaFetcher,
    uploads_dir: Option<Arc<Path>>,
    max_bytes: u64,
    memory: MemoryBudget,
    /// Pauses before a download is tried again; tests do without.
    pub(crate) pauses: [Duration; 2],
}

impl Media {
    /// Builds the HTTP clients. Opens no connection. Loaded media take room of `memory` for as long as they are held.
    ///
    /// # Errors
    /// When a client cannot be built (no TLS roots, say).
    ///
    /// # Panics
    /// When the process has installed no default crypto provider for rustls.
    pub fn new(settings: &MediaSettings, memory: MemoryBudget) -> Result<Self, ClientError> {
        Ok(Self {
            memory,
            fetcher: MediaFetcher::new(settings)?,
            uploads_dir: settings.uploads_dir.as_ref().map(|dir| Arc::from(dir.as_path())),
            max_bytes: settings.max_bytes,
            pauses: PAUSES,
        })
    }

    /// Bytes of one source; never none. A download that stumbles is tried twice more, after short pauses. `field` is
    /// the payload field's name for errors (`audioUrl`, `images[2].imageBase64`).
    ///
    /// # Errors
    /// [`FailureClass::Permanent`] for a source that is malformed, forbidden, missing, empty or
    /// too large; [`FailureClass::Transient`] when it could not be reached or read this time;
    /// [`FailureClass::Deployment`] when the uploads folder itself cannot be opened.
    pub async fn load(&self, field: &str, source: MediaSource<'_>) -> Result<Bytes, Failure> {
        let room = self.memory.room(self.size(source)).await;
        self.load_into(room, field, source).await
    }

    /// Waits for room for all of these sources, in one go: jobs that took it piece by piece could wait for each other.
    pub(crate) async fn rooms(
        &self,
        sources: impl Iterator<Item = MediaSource<'_>> + Clone,
    ) -> Vec<MemoryReservation> {
        let sizes = sources.map(|source| self.size(source));
        let mut all = self.memory.room(sizes.clone().sum()).await;
        sizes.map(|size| all.split(size)).collect()
    }

    /// As [`load`](Self::load), into room that was reserved before.
    pub(crate) async fn load_into(
        &self,
        mut room: MemoryReservation,
        field: &str,
        source: MediaSource<'_>,
    ) -> Result<Bytes, Failure> {
        let bytes = match source {
            MediaSource::Url(url) => self.download(field, url).await?,
            MediaSource::Base64(text) => self.decode(field, text).await?,
            MediaSource::FilePath(path) => self.read(field, path).await?,
        };
        if bytes.is_empty() {
            return Err(Failure::invalid_field(field, "is empty"));
        }
        room.shrink(bytes.len() as u64);
        Ok(room.hold(bytes))
    }

    /// Bytes that a source may come to.
    fn size(&self, source: MediaSource<'_>) -> u64 {
        match source {
            MediaSource::Base64(text) => (text.len() as u64 / 4 * 3).min(self.max_bytes),
            // Nothing tells before it is loaded.
            MediaSource::Url(_) | MediaSource::FilePath(_) => self.max_bytes,
        }
    }

    async fn download(&self, field: &str, url: &str) -> Result<Vec<u8>, Failure> {
        for pause in self.pauses {
            match self.fetcher.get(field, url).await {
                Err(failure) if failure.class() == FailureClass::Transient => sleep(pause).await,
                settled => return settled,
            }
        }
        self.fetcher.get(field, url).await
    }

    async fn decode(&self, field: &str, text: &str) -> Result<Vec<u8>, Failure> {
        if text.len() > DECODED_AT_ONCE
            && let Some(bytes) = in_slices(text, self.max_bytes).await
        {
            return Ok(bytes);
        }
        encoded::decode(field, text, self.max_bytes)
    }

    async fn read(&self, field: &str, path: &str) -> Result<Vec<u8>, Failure> {
        let Some(folder) = &self.uploads_dir else {
            return Err(Failure::invalid_field(
                field,
                "file paths are refused: UPLOADS_DIR is not set",
            ));
        };
        let (folder, path, field_name) = (folder.clone(), path.to_owned(), field.to_owned());
        let max_bytes = self.max_bytes;
        // Reading from a disk blocks, and must not hold up the jobs that wait for the network.
        let read = spawn_blocking(move || read_beneath(&folder, &path, &field_name, max_bytes));
        read.await.unwrap_or_else(|e| {
            Err(Failure::new(FailureClass::Cancelled, "stopped while a file was read").caused_by(e))
        })
    }
}

/// Longer base64 is decoded in slices between which other jobs go on: all of it takes too long for the thread that
/// the jobs share, and on another thread it would be in memory twice.
const DECODED_AT_ONCE: usize = 256 * 1024;
/// Characters of a slice.
const SLICE: usize = 128 * 1024;

/// The bytes of plain base64: its symbols, line breaks, padding at the end, and the head of a data URL. `None` for
/// anything else, which [`encoded`] reads or refuses.
async fn in_slices(text: &str, max_bytes: u64) -> Option<Vec<u8>> {
    let text = text.trim_ascii_start();
    let body = match text
        .get(..5)
        .filter(|scheme| scheme.eq_ignore_ascii_case("data:"))
    {
        Some(_) => {
            let (head, body) = text.split_once(',')?;
            head.to_ascii_lowercase().ends_with(";base64").then_some(body)?
        }
        None => text,
    };
    let body = body.trim_end_matches(|c: char| c == '=' || c.is_ascii_whitespace());
    let most = usize::try_from(max_bytes).unwrap_or(usize::MAX);
    // Line breaks count as symbols here, and may be most of the text.
    let mut bytes = Vec::with_capacity((body.len() / 4 * 3 + 3).min(most.saturating_add(SLICE)));
    let mut group = Vec::with_capacity(SLICE + 4);
    for slice in body.as_bytes().chunks(SLICE) {
        for symbol in slice {
            match symbol {
                b'\r' | b'\n' => {}
                b'-' => group.push(b'+'),
                b'_' => group.push(b'/'),
                other => group.push(*other), // The decoder refuses what is no symbol, blanks among them.
            }
        }
        let whole = group.len() / 4 * 4;
        STANDARD_NO_PAD.decode_vec(&group[..whole], &mut bytes).ok()?;
        if bytes.len() > most {
            return None;
        }
        group.drain(..whole);
        yield_now().await;
    }
    STANDARD_NO_PAD.decode_vec(&group, &mut bytes).ok()?;
    (bytes.len() <= most).then_some(bytes)
}

fn read_beneath(folder: &Path, path: &str, field: &str, max_bytes: u64) -> Result<Vec<u8>, Failure> {
    let unreadable =
        |e: Error| Failure::transient(format!("payload field \"{field}\": cannot be read")).caused_by(e);
    let file = open_upload(folder, path).map_err(|why| match why {
        OpenFileError::Folder(e) => Failure::deployment("UPLOADS_DIR cannot be opened").caused_by(e),
        OpenFileError::NoFile => Failure::invalid_field(field, "is no file below UPLOADS_DIR"),
        OpenFileError::Unreadable(e) => unreadable(e),
    })?;
    if file.metadata().map_err(unreadable)?.len() > max_bytes {
        return Err(too_large(field, max_bytes));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed shows a file that grew after it was measured.
    file.take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_large(field, max_bytes));
    }
    Ok(bytes)
}

/// Opens the file that a producer's path names, in any of the forms that producers use: absolute, relative to the
/// uploads folder, or relative to the folder around it (`uploads/a.m4a`), as the web API writes it.
fn open_upload(folder: &Path, path: &str) -> Result<File, OpenFileError> {
    let path = path.trim();
    match (open_beneath(folder, path), below_uploads(folder, path)) {
        (Err(OpenFileError::NoFile), Some(rest)) => open_beneath(folder, rest),
        (opened, _) => opened,
    }
}

/// A relative path without its first folder, where that is the uploads folder by its name, or by the web API's name for
/// it.
fn below_uploads<'a>(folder: &Path, path: &'a str) -> Option<&'a str> {
    let relative = path.trim_start_matches("./");
    let (first, rest) = relative.split_once('/')?;
    let is_uploads = first == UPLOADS || folder.file_name().is_some_and(|name| name == first);
    (is_uploads && !path.starts_with('/')).then(|| rest.trim_start_matches('/'))
}

fn too_large(field: &str, max_bytes: u64) -> Failure {
    Failure::invalid_field(field, format_args!("is larger than {max_bytes} bytes"))
}
