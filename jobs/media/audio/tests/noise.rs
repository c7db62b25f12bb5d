//! Noise, and damaged samples.

use proptest::prelude::*;

use super::*;

/// Runs `prepare` on hostile bytes: whatever it says, it says in time and within the limit.
fn survives(bytes: Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    match runtime.block_on(prepare(&InProcessDecoder, "f", bytes.into(), LIMIT)) {
        Ok(audio) => assert!(audio.duration <= LIMIT && !audio.duration.is_zero()),
        Err(failure) => {
            assert_eq!(failure.class(), FailureClass::Permanent, "{failure}");
        }
    }
}

fn any_sample() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        "good_morning.wav",
        "good_morning.mp3",
        "good_morning.flac",
        "good_morning.m4a",
        "good_morning_vorbis.ogg",
        "good_morning.ogg",
        "good_morning.webm",
        "good_morning_opus.mp4",
    ])
    .prop_map(|name| sample(name).to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn noise_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..4_096)) {
        survives(bytes);
    }

    #[test]
    fn noise_behind_a_signature_is_survived(
        start in prop::sample::select(vec![
            b"OggS\0\x02".as_slice(), b"\x1a\x45\xdf\xa3", b"RIFF\0\x10\0\0WAVEfmt ", b"fLaC", b"\0\0\0\x20ftypM4A ",
            b"ID3\x04\0", b"\xff\xfb\x90", b"\xff\xf1\x50",
        ]),
        noise in prop::collection::vec(any::<u8>(), 0..2_048),
    ) {
        survives([start, &noise].concat());
    }

    #[test]
    fn cut_and_flipped_samples_are_survived(
        file in any_sample(),
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..16),
        near_start in any::<bool>(),
    ) {
        let mut file = file;
        file.truncate(cut.index(file.len()) + 1);
        // Headers hold the lengths and tables that do harm.
        let reach = if near_start { file.len().min(256) } else { file.len() };
        for (at, value) in flips {
            file[at.index(reach)] ^= value;
        }
        survives(file);
    }
}
