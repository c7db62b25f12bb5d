//! Any recording to what Azure Speech takes: 16 kHz mono 16-bit WAV, or Opus in Ogg. The format is told from the
//! content, never from a name. Only Opus stays coded. [`decoder`](super::decoder) says in which process this runs.

use std::{fmt, io::Cursor, time::Duration};

use bytes::Bytes;
use rubato::{Fft, FixedSync, Resampler, audioadapter_buffers::owned::InterleavedOwned};
use symphonia::core::{
    codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_FLAC, CODEC_ID_OPUS, CODEC_ID_VORBIS},
    errors::Error,
    formats::{FormatReader, Track, TrackType},
    io::MediaSourceStream,
    packet::Packet,
};

use super::{
    bounds::{self, DamagedPackets},
    decoder::{DecodeError, MediaDecoder},
    opus, vorbis,
};
use crate::{Failure, FailureClass};

mod codec;
mod complete;
#[cfg(test)]
mod tests;

/// Samples a second of the WAV that is made.
const SAMPLE_RATE: u32 = 16_000;

/// Sample rates that recordings have. Others are forged headers, and would cost memory.
pub(super) const SOURCE_RATES: std::ops::RangeInclusive<u32> = 4_000..=192_000;

/// Encoders add some silence before and after, and recorders stop a little late. A recording that is too long by no
/// more than this is cut.
pub(super) const PADDING: Duration = Duration::from_secs(1);

/// Packets of a file that are looked at. Real ones have hundreds; a forged table can name billions of empty ones.
const MAX_PACKETS: u32 = 200_000;

/// Audio that is ready to be sent.
#[derive(Clone)]
pub struct PreparedAudio {
    /// The file.
    pub bytes: Bytes,
    /// The format of the file.
    pub format: AudioFormat,
    /// How long it plays.
    pub duration: Duration,
}

impl fmt::Debug for PreparedAudio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audio")
            .field("bytes", &self.bytes.len())
            .field("format", &self.format)
            .field("duration", &self.duration)
            .finish()
    }
}

/// The two formats that Azure Speech takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudioFormat {
    /// WAV, 16-bit PCM, 16 kHz, one channel.
    Wav16kMono,
    /// Opus in Ogg.
    OggOpus,
}

impl AudioFormat {
    /// The `Content-Type` under which Azure Speech expects it.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Wav16kMono => "audio/wav; codecs=audio/pcm; samplerate=16000",
            Self::OggOpus => "audio/ogg; codecs=opus",
        }
    }
}

/// The cure for a recording that is too long.
const SHORTER: &str =
    "send a shorter one, or each part of it as a job of its own, with its part of the reference text";

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum AudioRejection {
    #[error("is no audio file that can be read (WAV, MP3, M4A, AAC, FLAC, Ogg, WebM, CAF and AIFF can): {0}")]
    Container(Error),
    #[error("holds no audio track")]
    NoTrack,
    #[error(
        "uses an audio codec that is not supported (PCM, ADPCM, A-law, µ-law, MP3, AAC, ALAC, FLAC, Vorbis and Opus are)"
    )]
    Codec,
    #[error(
        "is {0}, which is not supported: send the recording as M4A (AAC), MP3, WAV, FLAC, Ogg or WebM (Opus)"
    )]
    Named(&'static str),
    #[error("{0} recording is incomplete: its end is missing; send the whole file")]
    Incomplete(&'static str),
    #[error("audio is damaged: {0}")]
    Damaged(Error),
    #[error("audio has a sample rate of {0} Hz, {min} to {max} are supported", min = SOURCE_RATES.start(), max = SOURCE_RATES.end())]
    SampleRate(u32),
    #[error("audio has {0} channels, at most {max} are supported", max = bounds::MOST_CHANNELS)]
    Channels(usize),
    #[error("audio cannot be resampled: {0}")]
    Resample(Box<dyn std::error::Error + Send + Sync>),
    #[error("audio is empty")]
    Empty,
    #[error("audio is {:.1} s long, at most {} s are allowed: {SHORTER}", .0.as_secs_f64(), .1.as_secs_f64())]
    TooLong(Duration, Duration),
    #[error("audio is longer than {} s, the most that is allowed: {SHORTER}", .0.as_secs_f64())]
    LongerThan(Duration),
}

/// Makes any supported recording ready to be sent. `limit` is the longest duration allowed (30 s for assessment); up to
/// 1 s more, which encoders pad and recorders run over, is cut off.
///
/// # Errors
/// [`FailureClass::Permanent`], naming `field`, for audio that is not one, damaged, empty, too long, or too much for
/// its decoder; [`FailureClass::Transient`] when the host cut the decoding short; [`FailureClass::Cancelled`] when
/// the process is stopping.
pub async fn prepare(
    decoder: &dyn MediaDecoder,
    field: &str,
    bytes: Bytes,
    limit: Duration,
) -> Result<PreparedAudio, Failure> {
    decoder.decode(bytes, limit).await.map_err(|why| match why {
        DecodeError::Medium(why) => Failure::invalid_field(field, why),
        DecodeError::Interrupted(why) => Failure::transient(format!("payload field \"{field}\": {why}")),
        DecodeError::Stopped => Failure::new(FailureClass::Cancelled, why.to_string()),
    })
}

pub(super) fn convert(mut bytes: Bytes, limit: Duration) -> Result<PreparedAudio, AudioRejection> {
    let audio = bytes.split_off(bounds::skip_id3v2(&bytes));
    codec::refuse_foreign(&audio)?;
    let audio = complete::checked(audio)?;
    convert_complete(audio.clone(), limit).map_err(|why| codec::named(&audio, why))
}

fn convert_complete(audio: Bytes, limit: Duration) -> Result<PreparedAudio, AudioRejection> {
    let is_flac = audio.starts_with(b"fLaC");
    let stream = MediaSourceStream::new(Box::new(Cursor::new(audio)), Default::default());
    let format = symphonia::default::get_probe()
        .probe(
            &Default::default(),
            stream,
            Default::default(),
            Default::default(),
        )
        .map_err(AudioRejection::Container)?;
    bounds::check_tracks(&*format)?;
    let track = format
        .default_track(TrackType::Audio)
        .ok_or(AudioRejection::NoTrack)?
        .clone();
    let parameters = track
        .codec_params
        .as_ref()
        .and_then(|params| params.audio())
        .ok_or(AudioRejection::NoTrack)?;
    bounds::check_parameters(parameters)?;
    let codec = parameters.codec;
    let packets = TrackPackets {
        format,
        track: track.id,
        left: MAX_PACKETS,
        error: None,
        // Other containers are checked before, by their lengths.
        stated_end: track.num_frames.filter(|_| is_flac && codec == CODEC_ID_FLAC),
        end: 0,
    };
    if codec == CODEC_ID_OPUS {
        return opus::repack(packets, &track, limit);
    }
    let (mut samples, rate) = decode(packets, &track, limit)?;
    if rate != SAMPLE_RATE {
        samples = resample(samples, rate).map_err(AudioRejection::Resample)?;
    }
    samples.truncate(samples_in(limit, SAMPLE_RATE) as usize);
    Ok(PreparedAudio {
        duration: duration_of(samples.len() as u64, SAMPLE_RATE),
        bytes: wav(&samples),
        format: AudioFormat::Wav16kMono,
    })
}

/// The packets of one track, up to the end of the file or to where it cannot be read any further.
pub(super) struct TrackPackets {
    format: Box<dyn FormatReader>,
    track: u32,
    left: u32,
    /// The error that ended the packets, unless the file ended.
    pub(super) error: Option<Error>,
    /// Where the last packet has to end, in frames.
    stated_end: Option<u64>,
    /// Where the last packet ended, in frames.
    end: u64,
}

impl TrackPackets {
    pub(super) fn next_packet(&mut self) -> Option<Packet> {
        while self.left > 0 {
            self.left -= 1;
            match self.format.next_packet() {
                Ok(Some(packet)) if packet.track_id == self.track => {
                    if packet.data.len() > bounds::MOST_PACKET_BYTES {
                        self.error = Some(Error::LimitError("a packet is larger than 2 MiB"));
                        return None;
                    }
                    let start = u64::try_from(packet.pts.get()).unwrap_or_default();
                    self.end = self.end.max(start.saturating_add(packet.dur.get()));
                    return Some(packet);
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(e) => {
                    self.error = Some(e);
                    return None;
                }
            }
        }
        self.error = Some(Error::LimitError("too many packets"));
        None
    }
}

/// Decodes a track to mono samples from -1 to 1, and tells their rate.
fn decode(
    mut packets: TrackPackets,
    track: &Track,
    limit: Duration,
) -> Result<(Vec<f32>, u32), AudioRejection> {
    let params = track
        .codec_params
        .as_ref()
        .and_then(|params| params.audio())
        .ok_or(AudioRejection::NoTrack)?;
    let codecs = symphonia::default::get_codecs();
    if codecs.get_audio_decoder(params.codec).is_none() {
        return Err(AudioRejection::Codec);
    }
    let mut params = params.clone();
    if params.codec == CODEC_ID_AAC
        && let Some(config) = &params.extra_data
        && let Some(core) = codec::aac_core(config)?
    {
        params.extra_data = Some(core);
    }
    let params = &params;
    if params.codec == CODEC_ID_VORBIS && !params.extra_data.as_deref().is_some_and(vorbis::is_modest) {
        return Err(AudioRejection::Damaged(Error::DecodeError(
            "vorbis codebooks are too large",
        )));
    }
    let mut decoder = codecs
        .make_audio_decoder(params, &Default::default())
        .map_err(AudioRejection::Damaged)?;
    let (mut mono, mut rate, mut interleaved) = (Vec::new(), None, Vec::<f32>::new());
    let mut damage = DamagedPackets::default();
    while let Some(packet) = packets.next_packet() {
        let decoded = match decoder.decode(&packet) {
            Ok(decoded) => decoded,
            // A bad packet is left out, as a player would.
            Err(e @ (Error::DecodeError(_) | Error::IoError(_))) => {
                packets.error.get_or_insert(e);
                damage.add()?;
                continue;
            }
            Err(e) => return Err(AudioRejection::Damaged(e)),
        };
        let (channels, packet_rate) = (decoded.spec().channels().count(), decoded.spec().rate());
        if !SOURCE_RATES.contains(&packet_rate) || *rate.get_or_insert(packet_rate) != packet_rate {
            return Err(AudioRejection::SampleRate(packet_rate));
        }
        if channels > bounds::MOST_CHANNELS {
            return Err(AudioRejection::Channels(channels));
        }
        if channels == 0 || decoded.frames() == 0 {
            damage.add()?;
            continue;
        }
        decoded.copy_to_vec_interleaved(&mut interleaved);
        mono.extend(interleaved.chunks_exact(channels).map(|frame| {
            let mean = frame.iter().sum::<f32>() / channels as f32;
            // A float recording can hold anything; one NaN would silence a whole block in the resampler.
            if mean.is_finite() {
                mean.clamp(-1.0, 1.0)
            } else {
                0.0
            }
        }));
        if mono.len() as u64 > samples_in(limit.saturating_add(PADDING), packet_rate) {
            return Err(too_long(track, limit));
        }
    }
    if packets.stated_end.is_some_and(|end| packets.end < end) {
        return Err(AudioRejection::Incomplete("FLAC"));
    }
    match (rate, packets.error) {
        (Some(rate), _) if !mono.is_empty() => Ok((mono, rate)),
        (_, Some(e)) => Err(AudioRejection::Damaged(e)),
        _ => Err(AudioRejection::Empty),
    }
}

/// Says how long the audio is if the container states it. The statement is only shown, never relied upon.
pub(super) fn too_long(track: &Track, limit: Duration) -> AudioRejection {
    let stated = track
        .time_base
        .zip(track.duration)
        .and_then(|(base, ticks)| base.calc_duration(ticks));
    match stated.and_then(|time| Duration::try_from_secs_f64(time.as_secs_f64()).ok()) {
        Some(stated) if stated > limit => AudioRejection::TooLong(stated, limit),
        _ => AudioRejection::LongerThan(limit),
    }
}

/// How many samples fit into a time. Durations here are minutes at most, far from the ends of the types.
pub(super) fn samples_in(time: Duration, rate: u32) -> u64 {
    (time.as_nanos() * u128::from(rate) / 1_000_000_000) as u64
}

/// How long samples play.
pub(super) fn duration_of(samples: u64, rate: u32) -> Duration {
    Duration::from_nanos(samples * 1_000_000_000 / u64::from(rate))
}

fn resample(samples: Vec<f32>, rate: u32) -> Result<Vec<f32>, Box<dyn std::error::Error + Send + Sync>> {
    let frames = samples.len();
    let mut resampler = Fft::<f32>::new(rate as usize, SAMPLE_RATE as usize, 1024, 1, FixedSync::Both)?;
    let resampled = resampler.process_all(&InterleavedOwned::new_from(samples, 1, frames)?, frames, None)?;
    Ok(resampled.take_data())
}

/// A WAV file: the canonical header of 44 bytes, then the samples.
fn wav(samples: &[f32]) -> Bytes {
    const BYTES_PER_SAMPLE: u32 = 2;
    // Far below 4 GiB: the duration is limited.
    let data = samples.len() as u32 * BYTES_PER_SAMPLE;
    let mut file = Vec::with_capacity(44 + data as usize);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + data).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt ");
    file.extend_from_slice(&16_u32.to_le_bytes()); // length of the format
    file.extend_from_slice(&1_u16.to_le_bytes()); // PCM
    file.extend_from_slice(&1_u16.to_le_bytes()); // channels
    file.extend_from_slice(&SAMPLE_RATE.to_le_bytes());
    file.extend_from_slice(&(SAMPLE_RATE * BYTES_PER_SAMPLE).to_le_bytes());
    file.extend_from_slice(&(BYTES_PER_SAMPLE as u16).to_le_bytes()); // bytes per frame
    file.extend_from_slice(&16_u16.to_le_bytes()); // bits per sample
    file.extend_from_slice(b"data");
    file.extend_from_slice(&data.to_le_bytes());
    // The cast saturates: +1.0 becomes 32767.
    file.extend(
        samples
            .iter()
            .flat_map(|s| ((s * 32_768.0).round() as i16).to_le_bytes()),
    );
    file.into()
}
