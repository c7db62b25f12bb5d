//! Whether an image is all there: a file that was cut on its way would be read in part, and paid for.
//!
//! Only lengths and markers are followed. Each step goes on from where the last one ended, so a walk takes no longer
//! than the file; the directories of a TIFF can lead back, and are bounded in number and size.

use imagesize::ImageType;

/// Directories of a TIFF that are followed.
const MOST_PAGES: usize = 100;
/// Entries of all directories of a TIFF that are looked at. Real ones have some twenty each.
const MOST_ENTRIES: usize = 1 << 14;
/// Strips or tiles of all pages of a TIFF that are looked at.
const MOST_STRIPS: usize = 1 << 14;

/// Whether the file ends where its format says that it ends, or later.
pub(super) fn is_complete(kind: ImageType, file: &[u8]) -> bool {
    let complete = match kind {
        ImageType::Png => png(file),
        ImageType::Jpeg => jpeg(file),
        ImageType::Gif => gif(file),
        ImageType::Webp => little(file, 4).map(|size| size as usize + 8 <= file.len()),
        ImageType::Bmp => bmp(file),
        ImageType::Ico => ico(file),
        ImageType::Tiff => tiff(file).map(|tiff| tiff.is_complete),
        ImageType::Heif(_) => heif(file),
        _ => Some(true),
    };
    complete.unwrap_or(false)
}

/// Pages of a TIFF; reduced versions of a page do not count.
pub(super) fn tiff_pages(file: &[u8]) -> usize {
    tiff(file).map_or(1, |tiff| tiff.pages)
}

/// Chunks up to `IEND`.
fn png(file: &[u8]) -> Option<bool> {
    let mut at = 8;
    loop {
        let length = big(file, at)? as usize;
        let kind = file.get(at + 4..at + 8)?;
        at = at.checked_add(length)?.checked_add(12)?;
        if at > file.len() {
            return Some(false);
        }
        if kind == b"IEND" {
            return Some(true);
        }
    }
}

/// Boxes up to the end of the file; the pictures are in `mdat`, and `meta` says where.
fn heif(file: &[u8]) -> Option<bool> {
    let (mut at, mut has_meta, mut has_pictures) = (0_usize, false, false);
    while at < file.len() {
        let kind = file.get(at + 4..at + 8)?;
        (has_meta, has_pictures) = (has_meta || kind == b"meta", has_pictures || kind == b"mdat");
        let length = match big(file, at)? {
            0 => file.len() - at,
            1 => {
                let high = usize::try_from(big(file, at + 8)?).ok()?;
                let low = usize::try_from(big(file, at + 12)?).ok()?;
                high.checked_shl(32)?
                    .checked_add(low)
                    .filter(|length| *length >= 16)?
            }
            length => usize::try_from(length).ok().filter(|length| *length >= 8)?,
        };
        at = at.checked_add(length)?;
    }
    Some(at == file.len() && has_meta && has_pictures)
}

/// Segments up to the end of the image. A thumbnail within a segment has an end of its own.
fn jpeg(file: &[u8]) -> Option<bool> {
    let mut at = 2;
    loop {
        // Any number of fill bytes stands before a marker; what else stands there, decoders skip.
        at += file.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        at += file[at..].iter().position(|byte| *byte != 0xff)?;
        let marker = file[at];
        at += 1;
        match marker {
            0xd9 => return Some(true),
            // Stuffed data, restarts and others that have no length.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => at += usize::from(u16::from_be_bytes([*file.get(at)?, *file.get(at + 1)?])),
        }
    }
}

/// Blocks up to the trailer.
fn gif(file: &[u8]) -> Option<bool> {
    let table = |flags: u8| {
        if flags & 0x80 == 0 {
            0
        } else {
            3 << ((flags & 7) + 1)
        }
    };
    let mut at = 13 + table(*file.get(10)?);
    loop {
        match *file.get(at)? {
            0x3b => return Some(true),
            0x21 => at += 2,
            0x2c => at += 10 + table(*file.get(at + 9)?) + 1,
            _ => return Some(false),
        }
        loop {
            let length = usize::from(*file.get(at)?);
            at += 1 + length;
            if length == 0 {
                break;
            }
        }
    }
}

/// The pixels, where they are not compressed; else the size that is stated for them.
fn bmp(file: &[u8]) -> Option<bool> {
    let start = u64::from(little(file, 10)?);
    let (width, height) = (little(file, 18)?, little(file, 22)?);
    let (bits, compression) = (little(file, 28)? & 0xffff, little(file, 30)?);
    let pixels = match compression {
        0 | 3 | 6 => {
            let row = (u64::from(width) * u64::from(bits)).div_ceil(32) * 4;
            row.saturating_mul(u64::from(height.cast_signed().unsigned_abs()))
        }
        _ => u64::from(little(file, 34).unwrap_or_default()),
    };
    Some(start.saturating_add(pixels) <= file.len() as u64)
}

/// The pictures of the directory.
fn ico(file: &[u8]) -> Option<bool> {
    let count = usize::from(u16::from_le_bytes([*file.get(4)?, *file.get(5)?]));
    for entry in file.get(6..)?.chunks_exact(16).take(count) {
        let (size, start) = (little(entry, 8)?, little(entry, 12)?);
        if u64::from(size) + u64::from(start) > file.len() as u64 {
            return Some(false);
        }
    }
    Some(file.len() >= 6 + 16 * count)
}

struct TiffReader {
    pages: usize,
    is_complete: bool,
}

/// The directories and the strips or tiles that they name. BigTIFF is not read by the provider's clients, nor here.
fn tiff(file: &[u8]) -> Option<TiffReader> {
    let is_little = file.starts_with(b"II");
    if file.get(if is_little { 2 } else { 3 }) != Some(&42) {
        return Some(TiffReader {
            pages: 1,
            is_complete: true,
        });
    }
    let short = |at: usize| {
        let bytes = [*file.get(at)?, *file.get(at + 1)?];
        Some(if is_little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    };
    let long = |at: usize| {
        if is_little {
            little(file, at)
        } else {
            big(file, at)
        }
    };
    let mut strips = MOST_STRIPS;
    let mut found = TiffReader {
        pages: 0,
        is_complete: true,
    };
    let (mut at, mut left) = (long(4)? as usize, MOST_ENTRIES);
    for _ in 0..MOST_PAGES {
        let entries = short(at).map(usize::from);
        let Some((entries, rest)) = entries.and_then(|entries| Some((entries, left.checked_sub(entries)?)))
        else {
            found.is_complete = false;
            break;
        };
        left = rest;
        let (mut offsets, mut counts, mut is_reduced) = (None, None, false);
        for entry in 0..entries {
            let at = at + 2 + entry * 12;
            let values = DirectoryValues {
                is_short: short(at + 2) == Some(3),
                count: long(at + 4).unwrap_or_default() as usize,
                at: at + 8,
            };
            match short(at) {
                Some(254) => is_reduced = long(at + 8).is_some_and(|kind| kind & 1 == 1),
                Some(273 | 324) => offsets = Some(values),
                Some(279 | 325) => counts = Some(values),
                Some(_) => {}
                None => found.is_complete = false,
            }
        }
        found.pages += usize::from(!is_reduced);
        if let (Some(offsets), Some(counts)) = (offsets, counts) {
            let value = |values: &DirectoryValues, index: usize| {
                let size = if values.is_short { 2 } else { 4 };
                let fits = values.count * size <= 4;
                let start = if fits {
                    values.at
                } else {
                    long(values.at)? as usize
                };
                let at = start.checked_add(index * size)?;
                if values.is_short {
                    short(at).map(u32::from)
                } else {
                    long(at)
                }
            };
            for index in 0..offsets.count.min(strips) {
                let end = value(&offsets, index).zip(value(&counts, index));
                let fits =
                    end.is_some_and(|(start, size)| u64::from(start) + u64::from(size) <= file.len() as u64);
                if !fits {
                    found.is_complete = false;
                    break;
                }
            }
            strips = strips.saturating_sub(offsets.count);
        }
        match long(at + 2 + entries * 12) {
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

/// An entry of a directory that lists numbers.
struct DirectoryValues {
    is_short: bool,
    count: usize,
    at: usize,
}

fn big(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_be_bytes)
}

fn little(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
}
