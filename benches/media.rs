//! What the media helper costs beside decoding in process: `cargo bench --bench media`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backend_worker::media_helper::{HelperLimits, HelperPool, HelperProgram};
use bytes::Bytes;
use jobs::media::decoder::{AudioDecoder, InProcess};

/// Decodings of each sample.
const ROUNDS: usize = 400;
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let program = HelperProgram::at(env!("CARGO_BIN_EXE_backend-worker"));
    let pool: Arc<dyn AudioDecoder> =
        HelperPool::new(program, HelperLimits::for_recordings_of(20 * 1024 * 1024));
    println!("| sample | in process, median | helper, median | difference | helper, p99 |");
    println!("|---|---|---|---|---|");
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
            inside.push(time(&InProcess, &recording).await?);
            outside.push(time(&*pool, &recording).await?);
        }
        inside.sort();
        outside.sort();
        let (a, b) = (inside[ROUNDS / 2], outside[ROUNDS / 2]);
        let p99 = outside[ROUNDS * 99 / 100];
        println!(
            "| {name} | {a:.2?} | {b:.2?} | {:.2?} | {p99:.2?} |",
            b.saturating_sub(a)
        );
    }
    Ok(())
}

async fn time(
    decoder: &dyn AudioDecoder,
    recording: &Bytes,
) -> Result<Duration, jobs::media::decoder::Undecoded> {
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
