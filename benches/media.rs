//! What the media helper costs beside decoding in process, and how long the largest payload keeps other jobs waiting:
//! `cargo bench --bench media`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backend_worker::media_helper::{HelperLimits, HelperPool, HelperProgram};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use jobs::{
    JobType, Jobs, MediaSettings, MemoryBudget,
    media::{
        Media, MediaSource,
        decoder::{InProcessDecoder, MediaDecoder},
    },
};

/// Decodings of each sample.
const ROUNDS: usize = 400;
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let program = HelperProgram::at(env!("CARGO_BIN_EXE_backend-worker"));
    let pool: Arc<dyn MediaDecoder> =
        HelperPool::new(program, HelperLimits::for_recordings_of(20 * 1024 * 1024));
    println!(
        "| sample | in process, quartile | helper, quartile | difference | medians: difference | helper, p99 |"
    );
    println!("|---|---|---|---|---|---|");
    for name in [
        "good_morning.wav",
        "good_morning.mp3",
        "good_morning_opus.mp4",
        "30 s, 44.1 kHz stereo",
    ] {
        let recording: Bytes = match name.ends_with("stereo") {
            true => long().into(),
            false => std::fs::read(format!("{}/samples/{name}", env!("CARGO_MANIFEST_DIR")))?.into(),
        };
        // Side by side: other work on this machine slows both.
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            inside.push(time(&InProcessDecoder, &recording).await?);
            outside.push(time(&*pool, &recording).await?);
        }
        inside.sort();
        outside.sort();
        // A quarter of the rounds meets no other work, even on a machine that is busy.
        let (a, b) = (inside[ROUNDS / 4], outside[ROUNDS / 4]);
        let medians = outside[ROUNDS / 2].saturating_sub(inside[ROUNDS / 2]);
        let p99 = outside[ROUNDS * 99 / 100];
        println!(
            "| {name} | {a:.2?} | {b:.2?} | {:.2?} | {medians:.2?} | {p99:.2?} |",
            b.saturating_sub(a)
        );
    }
    large_payload().await
}

/// A picture of 20 MB, as base64 in a payload of 28 MB.
async fn large_payload() -> Result<(), Box<dyn std::error::Error>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let text = BASE64_STANDARD.encode(vec![7; 20 * 1024 * 1024]);
    let payload = serde_json::json!({ "imageBase64": text }).to_string();
    let settings = MediaSettings {
        uploads_dir: None,
        allowed_hosts: Vec::new(),
        max_bytes: 20 * 1024 * 1024,
        timeout: LIMIT,
    };
    let media = Media::new(&settings, MemoryBudget::new(u64::MAX))?;
    let (mut parsed, mut decoded, mut stalled) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..20 {
        let started = Instant::now();
        Jobs::validate(JobType::ProcessImage, payload.as_bytes())?;
        parsed.push(started.elapsed());
        let (started, mut longest) = (Instant::now(), Duration::ZERO);
        let others = async {
            loop {
                let left = Instant::now();
                tokio::task::yield_now().await;
                longest = longest.max(left.elapsed());
            }
        };
        tokio::select! {
            loaded = media.load("imageBase64", MediaSource::Base64(&text)) => { loaded?; }
            () = others => {}
        }
        decoded.push(started.elapsed());
        stalled.push(longest);
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    println!("\na payload of 28 MB, medians");
    println!("JSON, in one go: {:.1?}", median(parsed));
    println!(
        "base64: {:.1?}, other jobs wait for {:.1?} of it at most",
        median(decoded),
        median(stalled)
    );
    Ok(())
}

async fn time(
    decoder: &dyn MediaDecoder,
    recording: &Bytes,
) -> Result<Duration, jobs::media::decoder::DecodeError> {
    let started = Instant::now();
    decoder.decode(recording.clone(), LIMIT).await?;
    Ok(started.elapsed())
}

/// Half a minute of silence: 5 MB, the most that has to travel.
fn long() -> Vec<u8> {
    let data = vec![0; 30 * 44_100 * 4];
    let length = data.len() as u32;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + length).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x02\0");
    file.extend(44_100_u32.to_le_bytes());
    file.extend((44_100_u32 * 4).to_le_bytes());
    file.extend(b"\x04\0\x10\0data");
    file.extend(length.to_le_bytes());
    file.extend(data);
    file
}
