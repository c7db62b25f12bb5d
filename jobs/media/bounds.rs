//! Bounds on what a container claims, checked before memory or time is spent on the claim. Each is far above what
//! recordings of speech have, and far below what would harm the decoding process.

use symphonia::core::{
    codecs::audio::AudioCodecParameters,
    errors::Error,
    formats::{FormatReader, TrackType},
};

use super::audio::{AudioRejection, SOURCE_RATES};

/// Tracks of a file, of any kind. Each costs memory, and its packets are walked through.
const MOST_TRACKS: usize = 8;

/// Channels of a recording: 7.1 surround sound.
pub(super) const MOST_CHANNELS: usize = 8;

/// Frames that a packet may be said to hold. Decoders allocate for them at once; FLAC's largest block has 65,535.
const MOST_FRAMES_PER_PACKET: u64 = 65_536;

/// Bytes of a packet: a FLAC block of the largest size, eight channels and 24 bits, hardly compressed.
pub(super) const MOST_PACKET_BYTES: usize = 2 * 1024 * 1024;

/// Packets that may be damaged. A damaged packet yields no audio, so the duration limit does not bound their number.
pub(super) const MOST_DAMAGED: u32 = 64;

/// The file behind its ID3v2 tags, which hold nothing that is needed. Their frames nest, and a parser of them would
/// follow as deep as the file says.
pub(super) fn skip_id3v2(file: &[u8]) -> usize {
    let mut start = 0;
    while let Some(length) = id3v2_length(&file[start..]) {
        // A tag can claim more bytes than the file has. The rest of the file is then checked without it.
        start = start.saturating_add(length).min(file.len());
    }
    start
}

/// Length of the tag at the beginning, header and footer included.
fn id3v2_length(file: &[u8]) -> Option<usize> {
    const HEADER: usize = 10;
    const FOOTER_FLAG: u8 = 0x10;
    let (header, _) = file.split_at_checked(HEADER)?;
    let size = &header[6..];
    let is_tag = header.starts_with(b"ID3") && header[3] != 0xff && header[4] != 0xff;
    if !is_tag || size.iter().any(|byte| *byte > 0x7f) {
        return None;
    }
    let body = size.iter().fold(0, |sum, byte| sum << 7 | usize::from(*byte));
    let footer = if header[5] & FOOTER_FLAG != 0 { HEADER } else { 0 };
    Some(HEADER + body + footer)
}

/// Refuses files with more tracks than recordings have, and several tracks under one number: their packets could not
/// be told apart.
pub(super) fn check_tracks(format: &dyn FormatReader) -> Result<(), AudioRejection> {
    let tracks = format.tracks();
    if tracks.len() > MOST_TRACKS {
        return Err(damaged("more than 8 tracks"));
    }
    for (index, track) in tracks.iter().enumerate() {
        if tracks[..index].iter().any(|other| other.id == track.id) {
            return Err(damaged("several tracks have the same number"));
        }
    }
    match format.default_track(TrackType::Audio) {
        Some(_) => Ok(()),
        None => Err(AudioRejection::NoTrack),
    }
}

/// Refuses parameters that no recording has. A decoder allocates by them when it is built.
pub(super) fn check_parameters(parameters: &AudioCodecParameters) -> Result<(), AudioRejection> {
    if let Some(rate) = parameters.sample_rate
        && !SOURCE_RATES.contains(&rate)
    {
        return Err(AudioRejection::SampleRate(rate));
    }
    let channels = parameters
        .channels
        .as_ref()
        .map_or(0, |channels| channels.count());
    if channels > MOST_CHANNELS {
        return Err(AudioRejection::Channels(channels));
    }
    if parameters
        .max_frames_per_packet
        .is_some_and(|frames| frames > MOST_FRAMES_PER_PACKET)
    {
        return Err(damaged("a packet claims more than 65,536 frames"));
    }
    Ok(())
}

/// Counts damaged packets, and refuses a recording with too many.
#[derive(Debug, Default)]
pub(super) struct DamagedPackets {
    packets: u32,
}

impl DamagedPackets {
    pub(super) fn add(&mut self) -> Result<(), AudioRejection> {
        self.packets += 1;
        if self.packets > MOST_DAMAGED {
            return Err(damaged("more than 64 packets cannot be decoded"));
        }
        Ok(())
    }
}

pub(super) fn damaged(why: &'static str) -> AudioRejection {
    AudioRejection::Damaged(Error::DecodeError(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(body: &[u8], flags: u8) -> Vec<u8> {
        let size = body.len();
        let digits = [21, 14, 7, 0].map(|shift| (size >> shift & 0x7f) as u8);
        [b"ID3\x03\0", [flags].as_slice(), &digits, body].concat()
    }

    #[test]
    fn tags_are_skipped_by_their_length() {
        let tagged = [tag(&[7; 300], 0), tag(b"x", 0), b"audio".to_vec()].concat();
        assert_eq!(&tagged[skip_id3v2(&tagged)..], b"audio");
        let with_footer = [tag(b"x", 0x10), vec![b'3'; 10], b"audio".to_vec()].concat();
        assert_eq!(&with_footer[skip_id3v2(&with_footer)..], b"audio");
        for untagged in [
            b"audio".as_slice(),
            b"",
            b"ID3",
            b"ID3\x03\0\0\0\0\0\xff.....",
            b"ID3\xff\0\0\0\0\0\x01.....",
        ] {
            assert_eq!(skip_id3v2(untagged), 0, "{untagged:?}");
        }
        let endless = tag(&[0; 5], 0);
        assert_eq!(skip_id3v2(&endless[..12]), 12);
    }
}
