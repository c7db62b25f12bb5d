//! Opus out of Ogg, WebM or MP4 into an Ogg file of our own. The coded audio is not touched, only repacked: so
//! what is sent is what was measured, without tags, other tracks or further streams chained behind the first.
//! RFC 6716 describes the packets, RFC 7845 the file.

use std::time::Duration;

use ogg::{PacketWriteEndInfo, PacketWriter};
use symphonia::core::formats::Track;

use super::{
    audio::{
        AudioFormat, AudioRejection, PADDING, PreparedAudio, TrackPackets, duration_of, samples_in, too_long,
    },
    bounds::{DamagedPackets, damaged},
};

/// Opus counts time in samples at 48 kHz, whatever the recording had.
const SAMPLE_RATE: u32 = 48_000;

/// Longest packet, 120 ms.
const MAX_PACKET: u64 = 5_760;

/// Bytes of coded audio for a second: 510 kbit/s, the most that RFC 6716 knows.
const MAX_BYTES_PER_SECOND: u64 = 63_750;

/// Coded bytes for recordings of any length: the first packets of a stream may exceed the rate.
const EXTRA_BYTES: u64 = 16 * 1024;

/// The file has one stream; any number names it.
const SERIAL: u32 = 1;

/// Packs the Opus packets of a track into an Ogg file that plays no longer than `limit`.
pub(super) fn repack(
    mut packets: TrackPackets,
    track: &Track,
    limit: Duration,
) -> Result<PreparedAudio, AudioRejection> {
    let head = head(track).ok_or(damaged("the Opus header is missing or invalid"))?;
    let pre_skip = u64::from(u16::from_le_bytes([head[10], head[11]]));
    let last_sample = pre_skip + samples_in(limit, SAMPLE_RATE);
    let too_many = last_sample + samples_in(PADDING, SAMPLE_RATE);

    // Each packet with the position at which it ends; and how much of the last one is not to be played.
    let (mut kept, mut end, mut trimmed) = (Vec::new(), 0, 0);
    let (mut damage, mut bytes) = (DamagedPackets::default(), 0);
    while let Some(packet) = packets.next_packet() {
        let Some(samples) = samples_of(&packet.data) else {
            damage.add()?;
            continue;
        };
        let start = end;
        end += samples;
        if end > too_many + MAX_PACKET {
            return Err(too_long(track, limit));
        }
        let trim = track
            .time_base
            .and_then(|base| base.calc_duration(packet.trim_end));
        trimmed = trim.map_or(0, |time| {
            ((time.as_secs_f64() * f64::from(SAMPLE_RATE)).round() as u64).min(samples)
        });
        if start < last_sample {
            bytes += packet.data.len() as u64;
            if bytes > end * MAX_BYTES_PER_SECOND / u64::from(SAMPLE_RATE) + EXTRA_BYTES {
                return Err(damaged("Opus packets are larger than their audio can be"));
            }
            kept.push((packet.data, end));
        }
    }
    end -= trimmed;
    if end > too_many {
        return Err(too_long(track, limit));
    }
    end = end.min(last_sample);
    let played = end.saturating_sub(pre_skip);
    if played == 0 {
        return Err(packets
            .error
            .map_or(AudioRejection::Empty, AudioRejection::Damaged));
    }
    Ok(PreparedAudio {
        bytes: write(head, kept, end)
            .map_err(|e| AudioRejection::Damaged(e.into()))?
            .into(),
        format: AudioFormat::OggOpus,
        duration: duration_of(played, SAMPLE_RATE),
    })
}

fn write(head: Vec<u8>, packets: Vec<(Box<[u8]>, u64)>, end: u64) -> std::io::Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut writer = PacketWriter::new(&mut file);
    writer.write_packet(head, SERIAL, PacketWriteEndInfo::EndPage, 0)?;
    // No vendor, no comments: two empty lists.
    writer.write_packet(
        b"OpusTags\0\0\0\0\0\0\0\0".as_slice(),
        SERIAL,
        PacketWriteEndInfo::EndPage,
        0,
    )?;
    let last = packets.len().saturating_sub(1);
    for (i, (packet, position)) in packets.into_iter().enumerate() {
        let info = if i == last {
            PacketWriteEndInfo::EndStream
        } else {
            PacketWriteEndInfo::NormalPacket
        };
        writer.write_packet(packet.into_vec(), SERIAL, info, position.min(end))?;
    }
    Ok(file)
}

/// The identification header as Ogg wants it.
fn head(track: &Track) -> Option<Vec<u8>> {
    let mut head = track
        .codec_params
        .as_ref()?
        .audio()?
        .extra_data
        .as_ref()?
        .to_vec();
    if head.len() < 19 || !head.starts_with(b"OpusHead") || head[9] == 0 {
        return None;
    }
    match head[8] {
        1..=15 => {}
        // MP4 counts versions from 0, and stores pre-skip, rate and gain with the high byte first.
        0 => {
            head[8] = 1;
            head[10..12].reverse();
            head[12..16].reverse();
            head[16..18].reverse();
        }
        _ => return None,
    }
    Some(head)
}

/// How many samples a packet holds, from its first bytes; `None` for a packet that is not valid.
fn samples_of(packet: &[u8]) -> Option<u64> {
    let toc = *packet.first()?;
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1_920, 2_880][usize::from(config % 4)],
        config @ 12..=15 => [480, 960][usize::from(config % 2)],
        config => [120, 240, 480, 960][usize::from(config % 4)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u64::from(packet.get(1)? & 63),
    };
    let samples = frame * frames;
    (1..=MAX_PACKET).contains(&samples).then_some(samples)
}
