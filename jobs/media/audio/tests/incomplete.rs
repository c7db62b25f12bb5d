//! Recordings without their end, and files of unknown size.

use base64::{Engine, prelude::BASE64_STANDARD};
use proptest::prelude::*;

use super::*;
use crate::media::encoded::{
    decode,
    tests::{cases, spoilings, spoilt},
};

/// A recording that was cut is refused: its missing words would count as omissions.
#[tokio::test]
async fn a_recording_without_its_end_is_refused() {
    for name in [
        "good_morning.wav",
        "good_morning.mp3",
        "good_morning.flac",
        "good_morning.m4a",
        "good_morning_vorbis.ogg",
        "good_morning.ogg",
        "good_morning.webm",
        "good_morning_opus.mp4",
        "good_morning_mulaw.wav",
        "good_morning.aiff",
        "good_morning.caf",
        "good_morning_alac.m4a",
    ] {
        let file = sample(name);
        let cuts = (1..20)
            .map(|part| file.len() * part / 20)
            .chain(file.len() - 12..file.len());
        for length in cuts {
            let cut = prepare(&InProcessDecoder, "audioUrl", file.slice(..length), LIMIT).await;
            assert!(
                cut.is_err(),
                "{name}: {length} of {} bytes are {cut:?}",
                file.len()
            );
        }
    }
    // These state no length: a cut within a frame is found.
    for name in [
        "good_morning.aac",
        "good_morning_plain.mp3",
        "good_morning_live.webm",
    ] {
        let file = sample(name);
        let why = refusal(file.slice(..file.len() - 9)).await;
        assert!(
            why.ends_with("recording is incomplete: its end is missing; send the whole file"),
            "{name}: {why}"
        );
    }
    let mp3 = sample("good_morning.mp3");
    let why = refusal(mp3.slice(..mp3.len() * 6 / 10)).await;
    assert_eq!(
        why,
        "MP3 recording is incomplete: its end is missing; send the whole file"
    );
}

#[tokio::test]
async fn a_wav_of_unknown_size_goes_on_to_its_end() {
    let original = pcm(&prepared("good_morning.wav").await);
    let file = sample("good_morning.wav").to_vec();
    let data = file.windows(4).position(|w| w == b"data").unwrap();
    for (whole, size) in [
        (0_u32, 0_u32),
        (u32::MAX, u32::MAX),
        (36, 0),
        (0, u32::MAX),
        (0x7fff_f024, 0x7fff_f000),
        (u32::MAX, 0),
        (0x8000_0024, 0x8000_0000),
    ] {
        let mut file = file.clone();
        file[4..8].copy_from_slice(&whole.to_le_bytes());
        file[data + 4..data + 8].copy_from_slice(&size.to_le_bytes());
        let audio = prepare(&InProcessDecoder, "f", file.into(), LIMIT).await.unwrap();
        assert_eq!(pcm(&audio), original, "{whole:x} {size:x}");
    }
    let mut rf64 = file.clone();
    rf64[..4].copy_from_slice(b"RF64");
    rf64[data + 4..data + 8].copy_from_slice(&[0xff; 4]);
    assert_eq!(
        pcm(&prepare(&InProcessDecoder, "f", rf64.into(), LIMIT).await.unwrap()),
        original
    );
}

proptest! {
    #![proptest_config(cases(128))]

    /// A recording that was spoilt on its way, and cut at any byte of its text, is whole or is refused.
    #[test]
    fn a_spoilt_and_cut_recording_is_whole_or_refused(
        name in prop::sample::select(vec![
            "good_morning.wav", "good_morning.ogg", "good_morning.m4a", "good_morning.mp3", "good_morning.webm",
            "good_morning.aiff", "good_morning.caf", "good_morning_vorbis.ogg",
        ]),
        cut in prop::option::of(any::<prop::sample::Index>()),
        how in spoilings(),
    ) {
        let file = sample(name);
        let mut text = BASE64_STANDARD.encode(&file);
        if let Some(cut) = cut {
            text.truncate(cut.index(text.len()));
        }
        if let Ok(bytes) = decode("f", &spoilt(&text, &how), 1 << 24) {
            let is_refused = || convert(bytes.clone().into(), LIMIT).is_err();
            prop_assert!(bytes == file || is_refused(), "{}: {} of {}", name, bytes.len(), file.len());
        }
    }
}
