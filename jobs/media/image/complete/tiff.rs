//! The walk through a TIFF: its directories, and the strips or tiles that they name.
//!
//! Directories can lead back to earlier ones, and are bounded in number and size. BigTIFF is not read by the provider's
//! clients, nor here.

use super::{big, little};

/// Directories of a TIFF that are followed.
const MOST_PAGES: usize = 100;
/// Entries of all directories of a TIFF that are looked at. Real ones have some twenty each.
const MOST_ENTRIES: usize = 1 << 14;
/// Strips or tiles of all pages of a TIFF that are looked at.
const MOST_STRIPS: usize = 1 << 14;

/// The pages of a TIFF; reduced versions of a page do not count.
pub(in crate::media::image) fn tiff_pages(file: &[u8]) -> usize {
    walk(file).map_or(1, |tiff| tiff.pages)
}

/// Returns true if every directory, strip and tile lies within the file.
pub(super) fn is_complete(file: &[u8]) -> bool {
    walk(file).is_some_and(|tiff| tiff.is_complete)
}

struct TiffContents {
    pages: usize,
    is_complete: bool,
}

/// Walks through the directories; `None` where not even the first is named.
fn walk(file: &[u8]) -> Option<TiffContents> {
    let bytes = TiffBytes {
        file,
        is_little: file.starts_with(b"II"),
    };
    let mut found = TiffContents {
        pages: 0,
        is_complete: true,
    };
    if file.get(if bytes.is_little { 2 } else { 3 }) != Some(&42) {
        return Some(TiffContents { pages: 1, ..found });
    }
    let (mut at, mut entries_left, mut strips_left) = (bytes.long(4)? as usize, MOST_ENTRIES, MOST_STRIPS);
    for _ in 0..MOST_PAGES {
        let count = bytes.short(at).map(usize::from);
        let Some((count, rest)) = count.and_then(|count| Some((count, entries_left.checked_sub(count)?)))
        else {
            found.is_complete = false;
            break;
        };
        entries_left = rest;
        let directory = bytes.directory(at, count);
        found.is_complete &= directory.is_complete;
        found.pages += usize::from(!directory.is_reduced);
        if let (Some(offsets), Some(sizes)) = (&directory.offsets, &directory.sizes) {
            found.is_complete &= bytes.holds_strips(offsets, sizes, strips_left);
            strips_left = strips_left.saturating_sub(offsets.count);
        }
        match bytes.long(at + 2 + count * 12) {
            Some(0) => break,
            Some(next) => at = next as usize,
            None => {
                found.is_complete = false;
                break;
            }
        }
    }
    Some(found)
}

/// A directory: the places and the sizes of its strips or tiles.
#[derive(Default)]
struct TiffDirectory {
    offsets: Option<DirectoryValues>,
    sizes: Option<DirectoryValues>,
    is_reduced: bool,
    is_complete: bool,
}

/// An entry of a directory that lists numbers.
struct DirectoryValues {
    is_short: bool,
    count: usize,
    at: usize,
}

/// A TIFF, in the order of bytes that it states.
struct TiffBytes<'a> {
    file: &'a [u8],
    is_little: bool,
}

impl TiffBytes<'_> {
    fn short(&self, at: usize) -> Option<u16> {
        let bytes = [*self.file.get(at)?, *self.file.get(at + 1)?];
        Some(if self.is_little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    }

    fn long(&self, at: usize) -> Option<u32> {
        if self.is_little {
            little(self.file, at)
        } else {
            big(self.file, at)
        }
    }

    /// Reads the `count` entries of the directory at `start`.
    fn directory(&self, start: usize, count: usize) -> TiffDirectory {
        let mut directory = TiffDirectory {
            is_complete: true,
            ..TiffDirectory::default()
        };
        for entry in 0..count {
            let at = start + 2 + entry * 12;
            let values = DirectoryValues {
                is_short: self.short(at + 2) == Some(3),
                count: self.long(at + 4).unwrap_or_default() as usize,
                at: at + 8,
            };
            match self.short(at) {
                Some(254) => directory.is_reduced = self.long(at + 8).is_some_and(|kind| kind & 1 == 1),
                Some(273 | 324) => directory.offsets = Some(values),
                Some(279 | 325) => directory.sizes = Some(values),
                Some(_) => {}
                None => directory.is_complete = false,
            }
        }
        directory
    }

    /// Returns true if the strips lie within the file; looks at `most` of them.
    fn holds_strips(&self, offsets: &DirectoryValues, sizes: &DirectoryValues, most: usize) -> bool {
        (0..offsets.count.min(most)).all(|index| {
            let end = self.value(offsets, index).zip(self.value(sizes, index));
            end.is_some_and(|(start, size)| u64::from(start) + u64::from(size) <= self.file.len() as u64)
        })
    }

    /// The number at `index`: in the entry itself where all fit there, else where it points to.
    fn value(&self, values: &DirectoryValues, index: usize) -> Option<u32> {
        let size = if values.is_short { 2 } else { 4 };
        let fits = values.count * size <= 4;
        let start = if fits {
            values.at
        } else {
            self.long(values.at)? as usize
        };
        let at = start.checked_add(index * size)?;
        if values.is_short {
            self.short(at).map(u32::from)
        } else {
            self.long(at)
        }
    }
}
