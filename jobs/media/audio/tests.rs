//! Every sample in every format, forged headers, and noise.

mod incomplete;
mod noise;
mod opus;

use std::f64::consts::TAU;

use self::opus::opus_packets;
use super::*;
use crate::media::decoder::InProcessDecoder;

const LIMIT: Duration = Duration::from_secs(30);

/// How long the spoken sentence of the samples is, seconds.
const SENTENCE: f64 = 1.228;

fn sample(name: &str) -> Bytes {
    std::fs::read(format!("{}/../samples/{name}", env!("CARGO_MANIFEST_DIR")))
        .unwrap()
        .into()
}

async fn prepared(name: &str) -> PreparedAudio {
    prepare(&InProcessDecoder, "audioUrl", sample(name), LIMIT)
        .await
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

async fn refusal(bytes: impl Into<Bytes>) -> String {
    let failure = prepare(&InProcessDecoder, "audioUrl", bytes.into(), LIMIT)
        .await
        .unwrap_err();
    assert_eq!(failure.class(), FailureClass::Permanent, "{failure}");
    let text = failure.to_string();
    text.strip_prefix("payload field \"audioUrl\": ")
        .expect(&text)
        .to_owned()
}

/// The samples of a WAV that `prepare` made, after a look at its header.
fn pcm(audio: &PreparedAudio) -> Vec<i16> {
    assert_eq!(audio.format, AudioFormat::Wav16kMono);
    let (header, data) = audio.bytes.split_at(44);
    assert_eq!(header, wav_header(1, 1, 16_000, 16, data.len() as u32));
    data.chunks_exact(2)
        .map(|b| i16::from_le_bytes([b[0], b[1]]))
        .collect()
}

fn wav_header(format: u16, channels: u16, rate: u32, bits: u16, data: u32) -> Vec<u8> {
    let frame = channels * bits / 8;
    let mut h = b"RIFF".to_vec();
    h.extend((36 + data).to_le_bytes());
    h.extend(b"WAVEfmt \x10\0\0\0");
    h.extend([format.to_le_bytes(), channels.to_le_bytes()].concat());
    h.extend(
        [
            rate.to_le_bytes(),
            rate.wrapping_mul(u32::from(frame)).to_le_bytes(),
        ]
        .concat(),
    );
    h.extend([frame.to_le_bytes(), bits.to_le_bytes()].concat());
    h.extend(b"data");
    h.extend(data.to_le_bytes());
    h
}

/// A tone in 16-bit stereo, the right channel silent.
fn tone(rate: u32, hertz: f64, seconds: f64) -> Vec<u8> {
    let frames = (f64::from(rate) * seconds) as u32;
    let mut file = wav_header(1, 2, rate, 16, frames * 4);
    for i in 0..frames {
        let left = (f64::from(i) / f64::from(rate) * hertz * TAU).sin() * 20_000.0;
        file.extend((left as i16).to_le_bytes());
        file.extend(0_i16.to_le_bytes());
    }
    file
}

#[tokio::test]
async fn every_format_becomes_16_khz_mono_of_the_same_length() {
    let original = pcm(&prepared("good_morning.wav").await);
    let loudness = |samples: &[i16]| {
        let energy: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
        (energy / SENTENCE / 16_000.0).sqrt()
    };
    // AAC files carry the encoder's lead-in of one or two frames.
    for (name, lead) in [
        ("good_morning.mp3", 0.12),
        ("good_morning.flac", 0.0),
        ("good_morning.m4a", 0.14),
        ("good_morning_vorbis.ogg", 0.0),
        ("wrong_44k_stereo.wav", 0.0),
    ] {
        let audio = prepared(name).await;
        let samples = pcm(&audio);
        assert_eq!(audio.duration, duration_of(samples.len() as u64, 16_000));
        let seconds = audio.duration.as_secs_f64();
        assert!(
            (SENTENCE * 0.99..SENTENCE * 1.01 + lead).contains(&seconds),
            "{name} {seconds}"
        );
        let ratio = loudness(&samples) / loudness(&original);
        assert!((0.8..1.25).contains(&ratio), "{name} is {ratio} times as loud");
    }
}

#[tokio::test]
async fn what_is_right_already_stays_bit_for_bit() {
    let original = sample("good_morning.wav");
    let audio = prepared("good_morning.wav").await;
    assert!(original.ends_with(&audio.bytes[44..]));
    assert_eq!(
        prepare(&InProcessDecoder, "f", audio.bytes.clone(), LIMIT)
            .await
            .unwrap()
            .bytes,
        audio.bytes
    );
    assert_eq!(pcm(&prepared("good_morning.flac").await), pcm(&audio));
}

#[tokio::test]
async fn silence_is_audio_too() {
    let audio = prepared("silence5.wav").await;
    assert_eq!(audio.duration, Duration::from_secs(5));
    assert_eq!(pcm(&audio).len(), 80_000);
}

#[tokio::test]
async fn resampling_keeps_pitch_and_length() {
    for rate in [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 47_999] {
        let audio = prepare(&InProcessDecoder, "f", tone(rate, 1_000.0, 2.0).into(), LIMIT)
            .await
            .unwrap();
        let seconds = audio.duration.as_secs_f64();
        assert!((1.98..2.02).contains(&seconds), "{rate}: {seconds}");
        let samples = pcm(&audio);
        let crossings = samples.windows(2).filter(|w| (w[0] < 0) != (w[1] < 0)).count();
        assert!((3_960..4_040).contains(&crossings), "{rate}: {crossings}");
        // Half as loud as the one channel that sounded.
        let peak = samples[8_000..24_000].iter().max().unwrap();
        assert!((9_500..10_500).contains(peak), "{rate}: {peak}");
    }
}

#[tokio::test]
async fn too_long_is_refused_and_says_how_long() {
    let why = refusal(sample("long31.wav")).await;
    let wanted = "audio is 31.9 s long, at most 30 s are allowed: send a shorter one, or each part of it as a job of its own, \
                  with its part of the reference text";
    assert_eq!(why, wanted);
    let short = Duration::from_millis(200);
    for name in [
        "good_morning.ogg",
        "good_morning.webm",
        "good_morning.mp3",
        "good_morning.m4a",
    ] {
        let why = prepare(&InProcessDecoder, "f", sample(name), short)
            .await
            .unwrap_err()
            .to_string();
        assert!(why.contains(" 0.2 s"), "{name}: {why}");
    }
    // A recorder that streams cannot state a length.
    let mut streamed = sample("long31.wav").to_vec();
    let data = streamed.windows(4).position(|w| w == b"data").unwrap();
    streamed[data + 4..data + 8].copy_from_slice(&[0xff; 4]);
    streamed[4..8].copy_from_slice(&[0xff; 4]);
    let why = refusal(streamed).await;
    assert_eq!(why, wanted);
}

#[tokio::test]
async fn what_an_encoder_pads_is_cut_off() {
    let limit = Duration::from_millis(1_150);
    for name in ["good_morning.wav", "good_morning.ogg", "good_morning.webm"] {
        let audio = prepare(&InProcessDecoder, "f", sample(name), limit)
            .await
            .unwrap();
        assert_eq!(audio.duration, limit, "{name}");
        if audio.format == AudioFormat::OggOpus {
            let again = prepare(&InProcessDecoder, "f", audio.bytes.clone(), LIMIT)
                .await
                .unwrap();
            assert_eq!(again.duration, limit, "{name}");
            opus_packets(&audio);
        }
    }
}

#[tokio::test]
async fn what_is_no_audio_is_refused_with_the_reason() {
    for (what, bytes) in [
        ("nothing", Bytes::new()),
        ("text", sample("bad.wav")),
        ("a picture", sample("text.png")),
        ("a picture", sample("text.jpg")),
    ] {
        let why = refusal(bytes).await;
        assert!(
            why.starts_with("is no audio file")
                || why.starts_with("audio is")
                || why.contains("G, which is not supported"),
            "{what}: {why}"
        );
    }
    assert_eq!(refusal(wav_header(1, 1, 16_000, 16, 0)).await, "audio is empty");
    let why = refusal(b"\x1a\x45\xdf\xa3 webm".as_slice()).await;
    assert!(
        why.starts_with("is no audio file") || why.starts_with("WebM recording"),
        "{why}"
    );
    // 0x11 is ADPCM, which Symphonia's build here has no decoder for.
    let mut adpcm = wav_header(0x11, 1, 16_000, 4, 512);
    adpcm.extend([0; 512]);
    refusal(adpcm).await;
    let mut forged = tone(4_000_000_000, 1.0, 0.000_001);
    forged.extend([0; 64]);
    refusal(forged).await;
}

#[tokio::test]
async fn a_float_recording_may_hold_anything() {
    let mut file = wav_header(3, 1, 48_000, 32, 4 * 48_000);
    for i in 0..48_000_u32 {
        let value =
            [0.25, f32::NAN, f32::INFINITY, -1e30][if i % 1_000 == 0 { i as usize / 1_000 % 4 } else { 0 }];
        file.extend(value.to_le_bytes());
    }
    let samples = pcm(&prepare(&InProcessDecoder, "f", file.into(), LIMIT).await.unwrap());
    let middle = &samples[2_000..14_000];
    let mean = middle.iter().map(|s| f64::from(*s)).sum::<f64>() / middle.len() as f64;
    assert!((8_000.0..8_400.0).contains(&mean), "{mean}");
}

#[tokio::test]
async fn a_damaged_packet_is_left_out() {
    let mut file = sample("good_morning.flac").to_vec();
    let middle = file.len() / 2;
    file[middle..middle + 64].fill(0x55);
    let seconds = prepare(&InProcessDecoder, "f", file.into(), LIMIT)
        .await
        .unwrap()
        .duration
        .as_secs_f64();
    assert!((0.5..SENTENCE).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_large_tag_before_the_music_does_no_harm() {
    let mut file = b"ID3\x04\0\0\0\x60\0\0".to_vec(); // a tag of 1.5 MiB
    file.resize(10 + 0x60 * 0x4000, 0);
    file.extend(sample("good_morning.mp3"));
    let seconds = prepare(&InProcessDecoder, "f", file.into(), LIMIT)
        .await
        .unwrap()
        .duration
        .as_secs_f64();
    assert!(seconds > SENTENCE * 0.99, "{seconds}");
}

#[test]
fn content_types_are_azures() {
    assert_eq!(
        AudioFormat::Wav16kMono.content_type(),
        "audio/wav; codecs=audio/pcm; samplerate=16000"
    );
    assert_eq!(AudioFormat::OggOpus.content_type(), "audio/ogg; codecs=opus");
}

/// What phones and browsers record, beside the usual formats.
#[tokio::test]
async fn recordings_of_phones_and_browsers_are_decoded() {
    for name in [
        "good_morning_alac.m4a",
        "good_morning_mulaw.wav",
        "good_morning_alaw.wav",
        "good_morning_ima.wav",
        "good_morning.aiff",
        "good_morning.caf",
        "good_morning_fragmented.mp4",
        "good_morning_live.webm",
        "good_morning.aac",
        "good_morning_plain.mp3",
    ] {
        let seconds = prepared(name).await.duration.as_secs_f64();
        assert!(
            (SENTENCE * 0.97..SENTENCE + 0.2).contains(&seconds),
            "{name}: {seconds}"
        );
    }
}

/// An M4A whose decoder configuration is this one, of five bytes as the sample's is.
fn m4a_with(config: [u8; 5]) -> Vec<u8> {
    let mut file = sample("good_morning.m4a").to_vec();
    let at = file
        .windows(2)
        .rposition(|w| w == [0x56, 0xe5])
        .expect("a configuration of five bytes")
        - 2;
    file[at..at + 5].copy_from_slice(&config);
    file
}

#[tokio::test]
async fn he_aac_is_decoded_by_its_core() {
    let plain = prepared("good_morning.m4a").await;
    // The core at 16 kHz and one channel; SBR to 32 kHz, and PS.
    for kind in [5_u8, 29] {
        let bits: u64 = [
            (u64::from(kind), 5),
            (8, 4),
            (1, 4),
            (5, 4),
            (2, 5),
            (0, 3),
            (0, 15),
        ]
        .into_iter()
        .fold(0, |bits, (value, width)| bits << width | value);
        let config: [u8; 5] = bits.to_be_bytes()[3..].try_into().unwrap();
        let audio = prepare(&InProcessDecoder, "f", m4a_with(config).into(), LIMIT)
            .await
            .unwrap();
        assert_eq!(audio.bytes, plain.bytes, "{kind}");
    }
    // Object type 42, escaped: xHE-AAC has another core.
    let why = refusal(m4a_with([0xf9, 0x48, 0x40, 0, 0])).await;
    assert!(
        why.starts_with("is xHE-AAC, which is not supported: send"),
        "{why}"
    );
    let why = refusal(m4a_with([0x0c, 0x08, 0, 0, 0])).await;
    assert!(why.starts_with("is AAC Main, which is not supported"), "{why}");
}

#[tokio::test]
async fn formats_without_a_decoder_are_refused_by_name() {
    let mut threegp = sample("good_morning.m4a").to_vec();
    let at = threegp.windows(4).position(|w| w == b"mp4a").unwrap();
    for (codec, name) in [
        (b"samr", "AMR (3GP)"),
        (b"sawb", "AMR-WB (3GP)"),
        (b"drms", "a recording with copy protection"),
    ] {
        threegp[at..at + 4].copy_from_slice(codec);
        let why = refusal(threegp.clone()).await;
        assert_eq!(
            why,
            format!(
                "is {name}, which is not supported: send the recording as M4A (AAC), MP3, WAV, FLAC, Ogg or WebM (Opus)"
            )
        );
    }
    let speex = {
        let mut file = sample("good_morning.ogg").to_vec();
        file[28..36].copy_from_slice(b"Speex   ");
        file
    };
    let mut gsm = wav_header(0x31, 1, 8_000, 16, 65);
    gsm.extend([0; 65]);
    for (file, name) in [
        (b"#!AMR\n\x3c\x91\x17\x16\xbe".to_vec(), "AMR"),
        (b"#!AMR-WB\n\x44".to_vec(), "AMR-WB"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9".to_vec(), "WMA"),
        (b"%PDF-1.7".to_vec(), "PDF"),
        (b"<!doctype html><title>403</title>".to_vec(), "HTML"),
        (sample("text.png").to_vec(), "PNG"),
        (speex, "Speex"),
        (gsm, "GSM 6.10 (WAV)"),
    ] {
        let why = refusal(file).await;
        assert!(
            why.starts_with(&format!("is {name}, which is not supported: send")),
            "{name}: {why}"
        );
    }
}

#[tokio::test]
async fn a_recorder_that_stops_a_little_late_is_cut_to_the_limit() {
    for (seconds, is_taken) in [(30.3, true), (30.99, true), (31.2, false)] {
        let file = tone(8_000, 440.0, seconds);
        match prepare(&InProcessDecoder, "f", file.into(), LIMIT).await {
            Ok(audio) => assert!(is_taken && audio.duration == LIMIT, "{seconds}: {audio:?}"),
            Err(failure) => assert!(!is_taken, "{seconds}: {failure}"),
        }
    }
}
