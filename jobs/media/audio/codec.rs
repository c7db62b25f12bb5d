//! Names of codecs that no decoder here reads, and the core of AAC that one does.

use super::{super::formats::name_of, AudioRejection};

/// Names the format of a recording if the name helps more than the reason why it cannot be read.
pub(super) fn named(file: &[u8], why: AudioRejection) -> AudioRejection {
    if !matches!(
        why,
        AudioRejection::Container(_)
            | AudioRejection::NoTrack
            | AudioRejection::Codec
            | AudioRejection::Damaged(_)
    ) {
        return why;
    }
    let codec = in_mp4(file).or_else(|| in_wav(file)).or_else(|| in_ogg(file));
    codec.map_or(why, AudioRejection::Named)
}

/// Refuses a file of a format that has no decoder here, before one of another format takes it for its own.
pub(super) fn refuse_foreign(file: &[u8]) -> Result<(), AudioRejection> {
    match name_of(file) {
        None
        | Some(
            "WAV" | "MP3" | "M4A" | "MP4" | "3GP" | "QuickTime" | "FLAC" | "Ogg" | "WebM" | "CAF" | "AIFF",
        ) => Ok(()),
        Some(name) => Err(AudioRejection::Named(name)),
    }
}

/// The codec of a sample description.
fn in_mp4(file: &[u8]) -> Option<&'static str> {
    const CODECS: &[(&[u8; 4], &str)] = &[
        (b"samr", "AMR (3GP)"),
        (b"sawb", "AMR-WB (3GP)"),
        (b"sawp", "AMR-WB+ (3GP)"),
        (b"ac-3", "AC-3"),
        (b"ec-3", "E-AC-3"),
        (b"sqcp", "QCELP"),
        (b"sevc", "EVRC"),
        (b"ssmv", "SMV"),
        (b"drms", "a recording with copy protection"),
        (b"QDM2", "QDesign audio"),
        (b"agsm", "GSM"),
        (b"mha1", "MPEG-H audio"),
        (b"mhm1", "MPEG-H audio"),
        (b"dtsc", "DTS"),
    ];
    if file.get(4..8) != Some(b"ftyp") {
        return None;
    }
    let descriptions = file.windows(4).enumerate().filter(|(_, kind)| *kind == b"stsd");
    descriptions.take(16).find_map(|(at, _)| {
        let codec = file.get(at + 16..at + 20)?;
        let known = CODECS.iter().find(|(known, _)| *known == codec);
        known.map(|(_, name)| *name)
    })
}

/// The codec of a WAV file.
fn in_wav(file: &[u8]) -> Option<&'static str> {
    if !file.starts_with(b"RIFF") || file.get(12..16) != Some(b"fmt ") {
        return None;
    }
    Some(match u16::from_le_bytes([*file.get(20)?, *file.get(21)?]) {
        0x0031 => "GSM 6.10 (WAV)",
        0x0040 | 0x0045 | 0x0064 => "G.726 (WAV)",
        0x0050 | 0x0055 => "MP3 (within WAV)",
        0x00ff | 0x1600 | 0x1610 => "AAC (within WAV)",
        0x0160..=0x0163 => "WMA (within WAV)",
        0x2000 => "AC-3 (within WAV)",
        _ => return None,
    })
}

/// The codec of the first stream of an Ogg file.
fn in_ogg(file: &[u8]) -> Option<&'static str> {
    if !file.starts_with(b"OggS") {
        return None;
    }
    let head = file.get(28..36)?;
    [
        (&b"Speex   "[..], "Speex"),
        (b"\x80theora", "Theora video"),
        (b"PCM     ", "PCM (within Ogg)"),
        (b"CELT    ", "CELT"),
    ]
    .into_iter()
    .find_map(|(magic, name)| head.starts_with(magic).then_some(name))
}

/// The configuration of an AAC decoder for the core of a recording: what HE-AAC adds to it (the upper half of the
/// spectrum, and the second channel of its second version) matters to no recognition of speech, and no decoder here
/// knows it.
///
/// # Errors
/// The name of an object type whose core is not AAC-LC.
pub(super) fn aac_core(config: &[u8]) -> Result<Option<Box<[u8]>>, AudioRejection> {
    const LC: u32 = 2;
    const SBR: u32 = 5;
    const PS: u32 = 29;
    const EXPLICIT_RATE: u32 = 15;
    let mut bits = BitReader { bytes: config, at: 0 };
    let core = (|| {
        let outer = bits.object_type()?;
        let rate = bits.take(4)?;
        if rate == EXPLICIT_RATE {
            return None;
        }
        let channels = bits.take(4)?;
        let mut kind = outer;
        if matches!(outer, SBR | PS) {
            if bits.take(4)? == EXPLICIT_RATE {
                bits.take(24)?;
            }
            kind = bits.object_type()?;
        }
        Some((kind, rate, channels, bits.take(1).unwrap_or_default()))
    })();
    let Some((kind, rate, channels, short)) = core else {
        return Ok(None);
    };
    if kind == LC {
        // A channel configuration of 0 names a table that follows; such a recording stays as it is.
        let core = (LC << 11 | rate << 7 | channels << 3 | short << 2) as u16;
        return Ok((channels > 0).then(|| Box::from(core.to_be_bytes())));
    }
    Err(AudioRejection::Named(match kind {
        1 => "AAC Main",
        3 => "AAC-SSR",
        4 => "AAC-LTP",
        23 => "AAC-LD",
        39 => "AAC-ELD",
        42 => "xHE-AAC",
        _ => "AAC of a rare kind",
    }))
}

struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BitReader<'_> {
    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn object_type(&mut self) -> Option<u32> {
        const ESCAPE: u32 = 31;
        match self.take(5)? {
            ESCAPE => Some(32 + self.take(6)?),
            kind => Some(kind),
        }
    }
}
