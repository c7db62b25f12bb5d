//! Media that were made to harm the reader of their headers.

use jobs::JobType;

use jobs::JobType::{AssessPronunciation, ProcessImage};

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/samples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A chunk of a PNG; its checksum is not looked at.
fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&length[..], kind, body, &[0; 4]].concat()
}

fn png(width: u32, height: u32, more: &[u8]) -> Vec<u8> {
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = chunk(b"IHDR", &[&size[..], &[8, 6, 0, 0, 0]].concat());
    [b"\x89PNG\r\n\x1a\n", &header[..], more].concat()
}

fn wav(channels: u16, rate: u32, bits: u16, data: u32) -> Vec<u8> {
    let mut file = b"RIFF".to_vec();
    file.extend(u32::MAX.to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0");
    file.extend(channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend(u32::MAX.to_le_bytes());
    file.extend(u16::MAX.to_le_bytes());
    file.extend(bits.to_le_bytes());
    file.extend(b"data");
    file.extend(data.to_le_bytes());
    file.extend([0; 4_000]);
    file
}

/// A box of an MP4 file around another, so many times.
fn nested_boxes(name: &[u8; 4], depth: usize) -> Vec<u8> {
    let mut file = sample("good_morning_opus.mp4")[..32].to_vec();
    for level in 0..depth {
        file.extend(u32::try_from((depth - level) * 8).unwrap().to_be_bytes());
        file.extend(name);
    }
    file
}

/// EBML: a head of WebM, then elements within each other, each of unknown size.
fn nested_elements(element: &[u8], depth: usize) -> Vec<u8> {
    let mut file = b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm".to_vec();
    file.extend(b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff");
    for _ in 0..depth {
        file.extend(element);
        file.extend(b"\x01\xff\xff\xff\xff\xff\xff\xff");
    }
    file
}

/// Pages of Ogg without contents, each of another stream or all of one.
fn ogg_pages(count: u32, is_one: bool) -> Vec<u8> {
    let mut file = Vec::new();
    for n in 0..count {
        file.extend(b"OggS\0");
        file.push(u8::from(!is_one || n == 0) * 2);
        file.extend([0; 8]);
        file.extend(if is_one { 7_u32 } else { n }.to_le_bytes());
        file.extend(n.to_le_bytes());
        file.extend([0; 5]);
    }
    file
}

/// A FLAC file whose metadata blocks claim the most that they can.
fn flac_metadata(blocks: usize) -> Vec<u8> {
    let mut file = b"fLaC".to_vec();
    file.extend(b"\0\0\0\x22\x10\0\x10\0\0\0\0\0\0\0\x0a\xc4\x42\xf0\0\0\0\0");
    file.extend([0; 16]);
    for _ in 0..blocks {
        // A comment with 2^32 - 1 entries, and a picture with as long a name.
        file.extend(b"\x04\0\0\x08\0\0\0\0\xff\xff\xff\xff");
        file.extend(b"\x06\0\0\x08\0\0\0\0\xff\xff\xff\xff");
    }
    file.extend(b"\xff\xff\xff\xff");
    file
}

/// Name, job, file, and what the reason holds.
pub(super) fn media() -> Vec<(&'static str, JobType, Vec<u8>, &'static str)> {
    let end = chunk(b"IEND", &[]);
    let empty_chunks = [chunk(b"tEXt", &[]).repeat(500_000), end.clone()].concat();
    let bomb = [chunk(b"IDAT", &[0x78; 1_000_000]), end.clone()].concat();
    let frames = {
        let mut file = b"GIF89a\x64\0\x64\0\0\0\0".to_vec();
        file.extend(b"\x2c\0\0\0\0\x64\0\x64\0\0\x02\x00".repeat(500_000));
        file
    };
    let icon = [b"\0\0\x01\0\xff\xff".to_vec(), vec![0xff; 16 * 65_535]].concat();
    let webp = b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff".to_vec();
    let jpeg = [b"\xff\xd8\xff\xe0".to_vec(), vec![0xff; 5_000_000]].concat();
    let bmp = {
        let mut file = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        file.extend(b"\xff\xff\xff\x7f\0\0\0\x80\x01\0\x20\0");
        file.resize(100, 0);
        file
    };
    let audio = "payload field \"audioBase64\"";
    vec![
        (
            "png-size",
            ProcessImage,
            png(u32::MAX, u32::MAX, &end),
            "pixels, each side must have",
        ),
        (
            "png-bomb",
            ProcessImage,
            png(60_000, 60_000, &bomb),
            "pixels, each side must have",
        ),
        (
            "png-chunks",
            ProcessImage,
            png(20, 20, &empty_chunks),
            "pixels, each side must have",
        ),
        (
            "png-cut",
            ProcessImage,
            png(100, 100, &chunk(b"IDAT", b"x")[..9]),
            "incomplete",
        ),
        ("gif-frames", ProcessImage, frames, "incomplete"),
        ("ico-entries", ProcessImage, icon, "image"),
        ("webp-size", ProcessImage, webp, "image"),
        ("jpeg-fill", ProcessImage, jpeg, "damaged"),
        ("bmp-size", ProcessImage, bmp, "image"),
        (
            "wav-channels",
            AssessPronunciation,
            wav(65_535, 44_100, 16, 4_000),
            audio,
        ),
        (
            "wav-no-channels",
            AssessPronunciation,
            wav(0, 44_100, 16, 4_000),
            audio,
        ),
        (
            "wav-rate",
            AssessPronunciation,
            wav(1, u32::MAX, 16, 4_000),
            audio,
        ),
        (
            "wav-bits",
            AssessPronunciation,
            wav(1, 44_100, 65_535, 4_000),
            audio,
        ),
        (
            "wav-length",
            AssessPronunciation,
            wav(2, 44_100, 16, u32::MAX),
            "",
        ),
        (
            "mp4-boxes",
            AssessPronunciation,
            nested_boxes(b"moov", 100_000),
            audio,
        ),
        (
            "mp4-tracks",
            AssessPronunciation,
            nested_boxes(b"trak", 100_000),
            audio,
        ),
        (
            "mp4-data",
            AssessPronunciation,
            nested_boxes(b"udta", 100_000),
            audio,
        ),
        (
            "mkv-segments",
            AssessPronunciation,
            nested_elements(b"\x18\x53\x80\x67", 100_000),
            audio,
        ),
        (
            "mkv-tags",
            AssessPronunciation,
            nested_elements(b"\x12\x54\xc3\x67", 100_000),
            audio,
        ),
        (
            "mkv-chapters",
            AssessPronunciation,
            nested_elements(b"\xb6", 100_000),
            audio,
        ),
        ("ogg-pages", AssessPronunciation, ogg_pages(500_000, true), audio),
        (
            "ogg-streams",
            AssessPronunciation,
            ogg_pages(500_000, false),
            audio,
        ),
        (
            "flac-metadata",
            AssessPronunciation,
            flac_metadata(100_000),
            audio,
        ),
    ]
}
