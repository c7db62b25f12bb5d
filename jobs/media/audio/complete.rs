//! Whether a recording is all there. One that was cut on its way would be scored, and the words that are missing
//! would count as omissions. Only lengths are followed; each step goes on from where the last one ended.

use bytes::{Bytes, BytesMut};

use super::AudioRejection;

/// Refuses a recording whose container says that more must follow, and gives one of unknown length its length.
///
/// A recording without any statement of its length (a stream of a browser, say) can be cut at the end of a block
/// without a trace.
pub(super) fn checked(file: Bytes) -> Result<Bytes, AudioRejection> {
    let (name, complete) = match file.get(..4).unwrap_or_default() {
        b"RIFF" | b"RF64" | b"BW64" => return wav(file),
        b"OggS" => ("Ogg", ogg(&file)),
        b"\x1a\x45\xdf\xa3" => ("WebM", webm(&file)),
        b"caff" => ("CAF", caf(&file)),
        b"FORM" => ("AIFF", big(&file, 4).map(|size| size as usize + 8 <= file.len())),
        _ if file.get(4..8) == Some(b"ftyp") => ("MP4", mp4(&file)),
        [0xff, second, ..] if second & 0xf6 == 0xf0 => ("AAC", frames(&file, adts_frame)),
        [0xff, second, ..] if second & 0xe0 == 0xe0 => ("MP3", mp3(&file)),
        _ => return Ok(file),
    };
    match complete {
        Some(true) => Ok(file),
        _ => Err(AudioRejection::Incomplete(name)),
    }
}

/// The samples of a WAV file. A recorder that streams leaves sizes open, and one that is killed leaves them at 0:
/// then the samples go on to the end of the file.
fn wav(file: Bytes) -> Result<Bytes, AudioRejection> {
    /// From here on a size is a stand-in: programs write the largest number, a sign bit, or round numbers below it.
    const OPEN: u32 = 0x7fff_0000;
    let incomplete = || AudioRejection::Incomplete("WAV");
    let mut at = 12;
    loop {
        let size = little(&file, at + 4).ok_or_else(incomplete)?;
        if file.get(at..at + 4) == Some(b"data") {
            break;
        }
        at += 8 + size as usize + (size & 1) as usize;
    }
    let (start, size) = (at + 8, little(&file, at + 4).ok_or_else(incomplete)?);
    let there = file.len() - start.min(file.len());
    let whole = little(&file, 4).unwrap_or_default();
    // A header that was written before the samples ends where they begin.
    let is_unwritten = size == 0 && (whole == 0 || whole >= OPEN || whole as usize + 8 <= start);
    let is_open = size >= OPEN || (is_unwritten && there > 0);
    if !is_open {
        let fits = size as usize <= there;
        return if fits { Ok(file) } else { Err(incomplete()) };
    }
    let (Ok(size), Ok(whole)) = (u32::try_from(there), u32::try_from(file.len() - 8)) else {
        return Ok(file);
    };
    let mut file = BytesMut::from(file);
    file[..4].copy_from_slice(b"RIFF");
    file[4..8].copy_from_slice(&whole.to_le_bytes());
    file[at + 4..at + 8].copy_from_slice(&size.to_le_bytes());
    Ok(file.freeze())
}

/// Pages, of which the last one of a stream says so.
fn ogg(file: &[u8]) -> Option<bool> {
    const LAST: u8 = 4;
    let (mut at, mut is_ended) = (0, false);
    let first = little(file, 14)?;
    while file.get(at..at + 4) == Some(b"OggS") {
        let Some(&segments) = file.get(at + 26) else {
            return Some(is_ended);
        };
        let Some(table) = file.get(at + 27..at + 27 + usize::from(segments)) else {
            return Some(is_ended);
        };
        let body: usize = table.iter().map(|length| usize::from(*length)).sum();
        let (flags, stream) = (file[at + 5], little(file, at + 14));
        at += 27 + table.len() + body;
        if at > file.len() {
            return Some(is_ended);
        }
        is_ended |= flags & LAST != 0 && stream == Some(first);
    }
    // The rest is not a page: the decoder judges it.
    Some(is_ended || file.len() - at >= 4)
}

/// Boxes, among them the one that describes the tracks.
fn mp4(file: &[u8]) -> Option<bool> {
    let (mut at, mut is_described) = (0, false);
    while at < file.len() {
        let Some(kind) = file.get(at + 4..at + 8) else {
            return Some(is_described && file[at..].iter().all(|byte| *byte == 0));
        };
        is_described |= kind == b"moov";
        let size = match big(file, at)? {
            0 => return Some(is_described),
            1 => {
                usize::try_from(u64::from(big(file, at + 8)?) << 32 | u64::from(big(file, at + 12)?)).ok()?
            }
            size => size as usize,
        };
        if size < 8 {
            return Some(is_described);
        }
        at = at.checked_add(size)?;
    }
    Some(at == file.len() && is_described)
}

/// Elements of a Matroska file. Those of a stream that was written live may leave their size open.
fn webm(file: &[u8]) -> Option<bool> {
    const SEGMENT: u64 = 0x1853_8067;
    const CLUSTER: u64 = 0x1f43_b675;
    let mut at = 0;
    while at < file.len() {
        if file[at] == 0 {
            return Some(true); // No element begins so: the decoder judges it.
        }
        let (id, width) = number(file, at)?;
        at += width;
        let (size, width) = number(file, at)?;
        at += width;
        let marker = 1 << (7 * width);
        let is_open = size == 2 * marker - 1;
        let end = at.checked_add(usize::try_from(size - marker).ok()?)?;
        match id {
            SEGMENT | CLUSTER if is_open || end <= file.len() => {}
            _ if is_open => return Some(true),
            _ if end <= file.len() => at = end,
            _ => return Some(false),
        }
    }
    Some(true)
}

/// A number of variable width, with the bit that marks its width.
fn number(file: &[u8], at: usize) -> Option<(u64, usize)> {
    let width = file.get(at)?.leading_zeros() as usize + 1;
    let bytes = file.get(at..at + width.min(8))?;
    let value = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    (width <= 8).then_some((value, width))
}

/// Chunks; the samples may go on to the end of the file.
fn caf(file: &[u8]) -> Option<bool> {
    let mut at = 8;
    while at < file.len() {
        let size = i64::from_be_bytes(file.get(at + 4..at + 12)?.try_into().ok()?);
        match usize::try_from(size) {
            Ok(size) => at = at.checked_add(12)?.checked_add(size)?,
            Err(_) => return Some(true),
        }
    }
    Some(at == file.len())
}

/// Frames of an MP3 file, and what its first one says of all.
fn mp3(file: &[u8]) -> Option<bool> {
    let header = file.get(..4)?;
    let (is_mpeg1, is_mono) = (header[1] & 0x18 == 0x18, header[3] >> 6 == 3);
    let side = match (is_mpeg1, is_mono) {
        (true, false) => 32,
        (true, true) | (false, false) => 17,
        (false, true) => 9,
    };
    let info = file.get(4 + side..).unwrap_or_default();
    if info.starts_with(b"Xing") || info.starts_with(b"Info") {
        let flags = big(info, 4)?;
        let stated = if flags & 1 == 1 { 12 } else { 8 };
        if flags & 2 == 2 && big(info, stated)? as usize > file.len() {
            return Some(false);
        }
    }
    frames(file, mp3_frame)
}

/// Follows frames to the end, or to what is none. `length` tells a frame's length from its first bytes.
fn frames(file: &[u8], length: fn(&[u8]) -> Option<usize>) -> Option<bool> {
    let mut at = 0;
    while at < file.len() {
        let rest = &file[at..];
        match length(rest) {
            Some(length) => at += length,
            // A tag or padding behind the last frame; a header that is cut off is neither.
            None => return Some(rest.len() > 8 || rest[0] != 0xff),
        }
    }
    Some(at == file.len())
}

fn mp3_frame(head: &[u8]) -> Option<usize> {
    const MPEG1: [u32; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
    const MPEG2: [u32; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
    const RATES: [u32; 3] = [44_100, 48_000, 32_000];
    let &[first, second, third, _] = head.first_chunk::<4>()?;
    // The third layer alone: the others have tables of their own.
    if first != 0xff || second & 0xe6 != 0xe2 {
        return None;
    }
    let (version, bitrate) = (second >> 3 & 3, usize::from(third >> 4));
    let rate = RATES.get(usize::from(third >> 2 & 3))?;
    let (rates, rate, samples) = match version {
        3 => (MPEG1, *rate, 144_000),
        2 => (MPEG2, rate / 2, 72_000),
        0 => (MPEG2, rate / 4, 72_000),
        _ => return None,
    };
    let bitrate = rates.get(bitrate).filter(|bitrate| **bitrate > 0)?;
    Some((samples * bitrate / rate + u32::from(third >> 1 & 1)) as usize)
}

fn adts_frame(head: &[u8]) -> Option<usize> {
    let head = head.first_chunk::<7>()?;
    let length = usize::from(head[3] & 3) << 11 | usize::from(head[4]) << 3 | usize::from(head[5] >> 5);
    (head[0] == 0xff && head[1] & 0xf6 == 0xf0 && length >= 7).then_some(length)
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
