//! Whether an image is all there: a file that was cut on its way would be read in part, and paid for.
//!
//! Only lengths and markers are followed. Each step goes on from where the last one ended, so a walk takes no longer
//! than the file.

mod tiff;

use imagesize::ImageType;

pub(super) use self::tiff::tiff_pages;

/// Whether the file ends where its format says that it ends, or later.
pub(super) fn is_complete(kind: ImageType, file: &[u8]) -> bool {
    let complete = match kind {
        ImageType::Png => png(file),
        ImageType::Jpeg => jpeg(file),
        ImageType::Gif => gif(file),
        ImageType::Webp => little(file, 4).map(|size| size as usize + 8 <= file.len()),
        ImageType::Bmp => bmp(file),
        ImageType::Ico => ico(file),
        ImageType::Tiff => Some(tiff::is_complete(file)),
        ImageType::Heif(_) => heif(file),
        _ => Some(true),
    };
    complete.unwrap_or(false)
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

pub(super) fn big(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_be_bytes)
}

pub(super) fn little(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
}
