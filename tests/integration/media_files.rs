//! Files as people send them, made from the samples, through a worker, its helpers and the simulated providers: each
//! is sent once, or refused before anything is paid.

use std::{path::Path, time::Duration};

use backend_worker::{
    queue::{Broker, JobSnapshot, JobState, NewJob},
    simulator::Provider,
};
use jobs::JobType;
use serde_json::{Value, json};

use crate::support::{Scene, eventually};

/// What becomes of a file.
enum Outcome {
    /// The provider gets it; the result holds this.
    Sent(&'static str),
    /// Its job fails without a call, for a reason that holds this.
    Refused(&'static str),
}
use Outcome::{Refused, Sent};

type File = (String, Vec<u8>, Outcome);

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/samples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The first so many percent of a sample.
fn cut(name: &str, percent: usize) -> Vec<u8> {
    let mut file = sample(name);
    file.truncate(file.len() * percent / 100);
    file
}

/// A WAV of a tone of 16 kHz, whose header says that it has `size` bytes of sound.
fn wav(seconds: usize, size: Option<u32>) -> Vec<u8> {
    let sound: Vec<u8> = (0..seconds * 16_000)
        .flat_map(|at| (((at as f64 / 10.0).sin() * 9_000.0) as i16).to_le_bytes())
        .collect();
    let stated = size.unwrap_or(u32::try_from(sound.len()).unwrap());
    let mut file = sample("good_morning.wav")[..44].to_vec();
    file[4..8].copy_from_slice(&stated.saturating_add(36).to_le_bytes());
    file[40..44].copy_from_slice(&stated.to_le_bytes());
    [file, sound].concat()
}

/// A second of a tone at 44.1 kHz in stereo, as `bits` of PCM (3 is float), in the long form of the header or the short.
fn wav_of(kind: u16, bits: u16, is_extensible: bool) -> Vec<u8> {
    let frame = 2 * bits / 8;
    let sound: Vec<u8> = (0..44_100_u32)
        .map(|at| (f64::from(at) / 20.0).sin() * 0.4)
        .flat_map(|value| {
            let sample = match (kind, bits) {
                (3, 32) => (value as f32).to_le_bytes().to_vec(),
                (_, 8) => vec![(value * 127.0 + 128.0) as u8],
                _ => {
                    ((value * f64::from(i32::MAX)) as i32).to_le_bytes()[4 - usize::from(bits / 8)..].to_vec()
                }
            };
            sample.repeat(2)
        })
        .collect();
    let named = if is_extensible { 0xfffe } else { kind };
    let mut format: Vec<u8> = [named, 2].into_iter().flat_map(u16::to_le_bytes).collect();
    format.extend(
        [44_100, 44_100 * u32::from(frame)]
            .into_iter()
            .flat_map(u32::to_le_bytes),
    );
    format.extend([frame, bits].into_iter().flat_map(u16::to_le_bytes));
    if is_extensible {
        format.extend([22, bits, 3, 0, kind].into_iter().flat_map(u16::to_le_bytes));
        format.extend(b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71");
    }
    let chunk = |name: &[u8], content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        [name, &length, content].concat()
    };
    // Editors put their name and a note in front of the sound.
    let chunks = [
        b"WAVE".to_vec(),
        chunk(b"fmt ", &format),
        chunk(b"LIST", b"INFOISFT\x06\0\0\0Lavf1 "),
        chunk(b"data", &sound),
    ];
    chunk(b"RIFF", &chunks.concat())
}

/// An M4A under another brand, and with another name of its codec.
fn m4a_as(brand: &[u8; 4], codec: &[u8; 4]) -> Vec<u8> {
    let mut file = sample("good_morning.m4a");
    file[8..12].copy_from_slice(brand);
    let at = file.windows(4).position(|name| name == b"mp4a").unwrap();
    file[at..at + 4].copy_from_slice(codec);
    file
}

fn recordings() -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    for (kind, bits) in [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32)] {
        for is_extensible in [false, true] {
            let name = format!("wav of kind {kind}, {bits} bits, extensible: {is_extensible}");
            files.push((name, wav_of(kind, bits, is_extensible), Sent("\"success\":true")));
        }
    }
    for brand in [b"3gp4", b"3g2a", b"qt  ", b"M4A ", b"isom", b"mp42", b"M4B "] {
        let name = format!("aac under the brand {}", brand.escape_ascii());
        files.push((name, m4a_as(brand, b"mp4a"), Sent("\"success\":true")));
    }
    for (codec, name) in [
        (b"samr", "is AMR (3GP), which"),
        (b"sawb", "is AMR-WB (3GP), which"),
        (b"drms", "is a recording with copy protection, which"),
    ] {
        files.push((
            codec.escape_ascii().to_string(),
            m4a_as(b"3gp5", codec),
            Refused(name),
        ));
    }
    for name in [
        "good_morning.aac",
        "good_morning.aiff",
        "good_morning.caf",
        "good_morning.flac",
        "good_morning.m4a",
        "good_morning.mp3",
        "good_morning.ogg",
        "good_morning.wav",
        "good_morning.webm",
        "good_morning_alac.m4a",
        "good_morning_alaw.wav",
        "good_morning_fragmented.mp4",
        "good_morning_ima.wav",
        "good_morning_live.webm",
        "good_morning_mulaw.wav",
        "good_morning_opus.mp4",
        "good_morning_plain.mp3",
        "good_morning_vorbis.ogg",
        "wrong_44k_stereo.wav",
    ] {
        files.push((name.to_owned(), sample(name), Sent("\"success\":true")));
    }
    for name in [
        "good_morning.aiff",
        "good_morning.caf",
        "good_morning.flac",
        "good_morning.m4a",
        "good_morning.mp3",
        "good_morning.ogg",
        "good_morning.wav",
        "good_morning_alac.m4a",
        "good_morning_opus.mp4",
        "good_morning_vorbis.ogg",
    ] {
        files.push((format!("half of {name}"), cut(name, 50), Refused("incomplete")));
    }
    let amr = [b"#!AMR\n".as_slice(), &[0x3c; 320]].concat();
    let wide = [b"#!AMR-WB\n".as_slice(), &[0x24; 320]].concat();
    let wma = [b"\x30\x26\xb2\x75\x8e\x66\xcf\x11".as_slice(), &[0; 99]].concat();
    let video = b"\0\0\0\x18ftyp3gp4\0\0\0\0isom3gp4\0\0\0\x08moov".to_vec();
    for (name, file, outcome) in [
        ("a tone", wav(2, None), Sent("\"success\":true")),
        ("a streamed tone", wav(2, Some(0)), Sent("\"success\":true")),
        (
            "a tone without an end",
            wav(2, Some(u32::MAX - 36)),
            Sent("\"success\":true"),
        ),
        (
            "a long tone",
            wav(32, None),
            Refused("at most 30 s are allowed: send a shorter one"),
        ),
        ("31 s", wav(31, None), Sent("\"success\":true")),
        (
            "long31.wav",
            sample("long31.wav"),
            Refused("31.9 s long, at most 30 s"),
        ),
        ("silence", sample("silence5.wav"), Sent("No speech recognized")),
        ("bad.wav", sample("bad.wav"), Refused("audio")),
        ("amr", amr, Refused("AMR, which is not supported")),
        ("amr-wb", wide, Refused("AMR-WB, which is not supported")),
        ("wma", wma, Refused("WMA, which is not supported")),
        ("3gp", video, Refused("audioFilePath")),
        (
            "a page",
            b"<!DOCTYPE html><html>gone</html>".to_vec(),
            Refused("HTML"),
        ),
        ("nothing", Vec::new(), Refused("is empty")),
        ("an image", sample("text.png"), Refused("PNG")),
    ] {
        files.push((name.to_owned(), file, outcome));
    }
    files
}

/// A JPEG with EXIF data that turn it.
fn turned(orientation: u8) -> Vec<u8> {
    let exif = [
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(),
        &[orientation, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    let file = sample("text.jpg");
    [&file[..2], &[0xff, 0xe1], &length, &exif, &file[2..]].concat()
}

/// A BMP of one shade.
fn bmp(width: u32, height: u32) -> Vec<u8> {
    let row = (width * 24).div_ceil(32) * 4;
    let mut file = b"BM".to_vec();
    for number in [
        54 + row * height,
        0,
        54,
        40,
        width,
        height,
        1 | 24 << 16,
        0,
        row * height,
        0,
        0,
        0,
        0,
    ] {
        file.extend(number.to_le_bytes());
    }
    file.resize(file.len() + (row * height) as usize, 0xdd);
    file
}

/// A TIFF of so many grey pages, which says how they are turned.
fn tiff(width: u32, height: u32, orientation: u32, pages: u32) -> Vec<u8> {
    const ENTRIES: u32 = 9;
    let (size, directory) = (width * height, 2 + ENTRIES * 12 + 4);
    let mut file = b"II*\0\x08\0\0\0".to_vec();
    let pixels = 8 + directory * pages;
    for page in 1..=pages {
        file.extend((ENTRIES as u16).to_le_bytes());
        for (tag, value) in [
            (256_u16, width),
            (257, height),
            (258, 8),
            (259, 1),
            (262, 1),
            (273, pixels),
            (274, orientation),
            (278, height),
            (279, size),
        ] {
            let kind: u16 = if matches!(tag, 258 | 259 | 262 | 274) {
                3
            } else {
                4
            };
            file.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
            file.extend([1_u32.to_le_bytes(), value.to_le_bytes()].concat());
        }
        let next = if page < pages { 8 + directory * page } else { 0 };
        file.extend(next.to_le_bytes());
    }
    file.resize(file.len() + size as usize, 0xdd);
    file
}

fn images() -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    for orientation in 1..=8 {
        let size = if orientation < 5 { " 800x240" } else { " 240x800" };
        let name = format!("tiff of orientation {orientation}");
        files.push((name, tiff(800, 240, orientation, 1), Sent(size)));
    }
    for name in [
        "text.png",
        "text.jpg",
        "text.gif",
        "text.bmp",
        "text.webp",
        "text.tiff",
    ] {
        files.push((name.to_owned(), sample(name), Sent("\"imagesProcessed\":1")));
        files.push((format!("half of {name}"), cut(name, 50), Refused("imageFilePath")));
    }
    for orientation in 1..=8 {
        let size = if orientation < 5 { " 800x240" } else { " 240x800" };
        files.push((
            format!("orientation {orientation}"),
            turned(orientation),
            Sent(size),
        ));
    }
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec();
    let avif = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf".to_vec();
    for (name, file, outcome) in [
        ("a long screenshot", bmp(200, 20_000), Sent(" 160x16000")),
        ("a long scan", tiff(200, 20_000, 1, 1), Sent(" 160x16000")),
        (
            "a long scan on its side",
            tiff(20_000, 200, 6, 1),
            Sent(" 160x16000"),
        ),
        (
            "long scans",
            tiff(200, 20_000, 1, 2),
            Refused("TIFF has 2 pages, only one can be read"),
        ),
        ("a heavy scan", tiff(3_000, 7_000, 1, 1), Sent(" 3000x7000")),
        (
            "a ribbon",
            bmp(20_000, 60),
            Refused("each side must have 50 to 16000"),
        ),
        ("tiny49.png", sample("tiny49.png"), Refused("49 × 49 pixels")),
        ("bad.png", sample("bad.png"), Refused("imageFilePath")),
        ("two pages", sample("two_pages.tiff"), Refused("TIFF has 2 pages")),
        ("heic", heic, Refused("is a HEIC image, which is not supported")),
        ("avif", avif, Refused("is a AVIF image, which is not supported")),
        ("pdf", b"%PDF-1.7\n".to_vec(), Refused("is a PDF")),
        (
            "svg",
            b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec(),
            Refused("is a SVG file"),
        ),
        ("a page", b"<html>gone</html>".to_vec(), Refused("is a HTML file")),
        (
            "a recording",
            sample("good_morning.wav"),
            Refused("is a WAV file"),
        ),
        ("nothing", Vec::new(), Refused("is empty")),
    ] {
        files.push((name.to_owned(), file, outcome));
    }
    files
}

async fn ended(broker: &dyn Broker, id: &str) -> JobSnapshot {
    eventually(&format!("{id} has ended"), async || {
        let view = broker.find(id).await.unwrap()?;
        matches!(view.state, JobState::Completed | JobState::Failed).then_some(view)
    })
    .await
}

/// Runs a job for each file, one after the other, and holds its outcome and its calls against what is wanted.
async fn run(kind: JobType, provider: Provider, payload: fn(&str) -> Value, files: Vec<File>) {
    let scene = Scene::set(Duration::ZERO).await;
    let folder = std::env::temp_dir().join(format!("media-files-{}", scene.redis.server.port()));
    std::fs::create_dir_all(&folder).unwrap();
    let place = folder.to_str().unwrap();
    let _worker = scene
        .worker(&[("UPLOADS_DIR", place), ("MEDIA_MAX_BYTES", "40000000")])
        .await;
    let broker = scene.redis.bullmq("ai-jobs", "producer");
    let mut wrong = Vec::new();
    for (index, (name, file, outcome)) in files.into_iter().enumerate() {
        std::fs::write(Path::new(place).join(index.to_string()), file).unwrap();
        let (id, before) = (
            format!("file-{index}"),
            scene.simulator.journal().of(provider).len(),
        );
        let payload = serde_json::value::to_raw_value(&payload(&index.to_string())).unwrap();
        let job = NewJob {
            id: &id,
            kind,
            payload: &payload,
            max_attempts: 1,
            delay: Duration::ZERO,
        };
        assert!(broker.enqueue(&job).await.unwrap());
        let view = ended(&*broker, &id).await;
        let calls = scene.simulator.journal().of(provider).len() - before;
        let result = view.result.map(|result| result.to_string()).unwrap_or_default();
        let reason = view.error.unwrap_or_default();
        let is_right = match outcome {
            Sent(part) => calls == 1 && result.contains(part),
            Refused(part) => calls == 0 && reason.contains(part),
        };
        if !is_right {
            wrong.push(format!("{name}: {calls} call(s), {result}{reason}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn each_recording_is_scored_or_refused_unpaid() {
    let files = recordings();
    assert!(files.len() >= 40, "{}", files.len());
    let payload = |name: &str| json!({ "referenceText": "Good morning", "audioFilePath": name });
    run(
        JobType::AssessPronunciation,
        Provider::AzureSpeech,
        payload,
        files,
    )
    .await;
}

#[tokio::test]
async fn each_image_is_read_or_refused_unpaid() {
    let files = images();
    assert!(files.len() >= 30, "{}", files.len());
    let payload = |name: &str| json!({ "imageFilePath": name });
    run(JobType::ProcessImage, Provider::AzureVision, payload, files).await;
}
