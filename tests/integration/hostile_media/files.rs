//! Recordings that were made to harm their decoder, out of the samples.

/// The samples' folder.
fn sample(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/samples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

/// A box of an MP4 file.
fn atom(name: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut atom = numbers(&[body.len() as u32 + 8]);
    atom.extend(name);
    atom.extend(body);
    atom
}

/// A box with version and flags.
fn full(name: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    atom(name, &[&[0; 4], &parts.concat()])
}

/// The box at this path.
fn find(file: &[u8], path: &[&[u8; 4]]) -> Vec<u8> {
    let mut at = 0;
    while at + 8 <= file.len() {
        let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        if &file[at + 4..at + 8] == path[0] {
            return match path {
                [_] => file[at..at + length].to_vec(),
                [_, rest @ ..] => find(&file[at + 8..at + length], rest),
                [] => unreachable!(),
            };
        }
        at += length;
    }
    panic!("the sample has no {path:?}")
}

/// The boxes of a sample that are put together again.
struct Mp4 {
    ftyp: Vec<u8>,
    mvhd: Vec<u8>,
    tkhd: Vec<u8>,
    mdhd: Vec<u8>,
    smhd: Vec<u8>,
    stsd: Vec<u8>,
}

impl Mp4 {
    fn of(name: &str) -> Self {
        let file = sample(name);
        let stbl = [b"moov", b"trak", b"mdia", b"minf"];
        Self {
            ftyp: find(&file, &[b"ftyp"]),
            mvhd: find(&file, &[b"moov", b"mvhd"]),
            tkhd: find(&file, &[b"moov", b"trak", b"tkhd"]),
            mdhd: find(&file, &[b"moov", b"trak", b"mdia", b"mdhd"]),
            smhd: find(&file, &[&stbl[..], &[b"smhd"]].concat()),
            stsd: find(&file, &[&stbl[..], &[b"stbl", b"stsd"]].concat()),
        }
    }

    /// A track whose `count` samples of `size` bytes lie behind `ftyp` and the head of `mdat`.
    fn track(&self, size: u32, count: u32, times: &[u8]) -> Vec<u8> {
        let offset = self.ftyp.len() as u32 + 8;
        let stbl = atom(
            b"stbl",
            &[
                &self.stsd,
                times,
                &full(b"stsc", &[&numbers(&[1, 1, count, 1])]),
                &full(b"stsz", &[&numbers(&[size, count])]),
                &full(b"stco", &[&numbers(&[1, offset])]),
            ],
        );
        let handler = full(b"hdlr", &[&numbers(&[0]), b"soun", &numbers(&[0, 0, 0]), b"\0"]);
        let minf = atom(b"minf", &[&self.smhd, &stbl]);
        let mdia = atom(b"mdia", &[&self.mdhd, &handler, &minf]);
        atom(b"trak", &[&self.tkhd, &mdia])
    }

    fn file(&self, data: &[u8], tracks: &[Vec<u8>]) -> Vec<u8> {
        let moov = atom(b"moov", &[&self.mvhd, &tracks.concat()]);
        [self.ftyp.clone(), atom(b"mdat", &[data]), moov].concat()
    }
}

fn times(count: u32, delta: u32) -> Vec<u8> {
    full(b"stts", &[&numbers(&[1, count, delta])])
}

/// QuickTime LPCM that claims `frames` frames a packet, for which a decoder would allocate at once.
pub(super) fn lpcm(frames: u32, channels: u32) -> Vec<u8> {
    let mut mp4 = Mp4::of("good_morning.m4a");
    let entry = atom(
        b"lpcm",
        &[
            &[0; 6],
            b"\0\x01\0\x02",
            &[0; 6],
            b"\0\x03\0\x10\xff\xfe\0\0\0\x01\0\0",
            &numbers(&[72]),
            &16_000_f64.to_be_bytes(),
            &numbers(&[channels, 0x7f00_0000, 32, 0, 4 * channels, frames]),
        ],
    );
    mp4.stsd = full(b"stsd", &[&numbers(&[1]), &entry]);
    mp4.file(&[0; 64], &[mp4.track(64, 1, &times(1, 1))])
}

/// As many tracks under one number, all with one sample of `bytes` bytes.
pub(super) fn same_track(tracks: usize, bytes: usize) -> Vec<u8> {
    let mp4 = Mp4::of("good_morning_opus.mp4");
    let mut data = vec![0; bytes];
    data[0] = 0x80; // Opus: one frame of 2.5 ms.
    let track = mp4.track(bytes as u32, 1, &times(1, 120));
    mp4.file(&data, &vec![track; tracks])
}

/// A time table whose `entries` say nothing, which is walked for each of `packets` packets.
pub(super) fn slow_times(entries: u32, packets: u32) -> Vec<u8> {
    let mp4 = Mp4::of("good_morning_opus.mp4");
    let mut table = numbers(&[entries + 1]);
    table.extend(numbers(&[0, 1]).repeat(entries as usize));
    table.extend(numbers(&[packets, 1]));
    let table = full(b"stts", &[&table]);
    let data = vec![0x80; packets as usize];
    mp4.file(&data, &[mp4.track(1, packets, &table)])
}

/// FLAC in MP4 whose every frame costs much and yields nothing.
pub(super) fn flac(packets: u32) -> Vec<u8> {
    let mut mp4 = Mp4::of("good_morning_opus.mp4");
    let frame = flac_frame(8, 65_535);
    let mut info = vec![0, 16, 0xff, 0xff, 0, 0, 0, 0, 0, 0];
    let format: u64 = 192_000 << 44 | 7 << 41 | 7 << 36;
    info.extend(format.to_be_bytes());
    info.extend([0; 16]);
    let config = full(b"dfLa", &[b"\x80\0\0\x22", &info]);
    let entry = atom(
        b"fLaC",
        &[
            &[0; 6],
            b"\0\x01",
            &[0; 8],
            b"\0\x08\0\x10\0\0\0\0",
            &numbers(&[48_000 << 16]),
            &config,
        ],
    );
    mp4.stsd = full(b"stsd", &[&numbers(&[1]), &entry]);
    let track = mp4.track(frame.len() as u32, packets, &times(packets, 1_024));
    mp4.file(&frame.repeat(packets as usize), &[track])
}

fn flac_frame(channels: u8, block: u16) -> Vec<u8> {
    let mut bits = Vec::new();
    let mut put = |value: u32, width: u32| bits.extend((0..width).rev().map(|bit| (value >> bit & 1) as u8));
    for _ in 1..channels {
        // Linear prediction of order 13, without residue.
        for (value, width) in [(0, 1), (0x20 | 12, 6), (0, 1)] {
            put(value, width);
        }
        (0..13).for_each(|warm_up| put(1 + warm_up, 8));
        put(0, 4);
        put(1, 5);
        (0..13).for_each(|_| put(1, 1));
        for (value, width) in [(0, 2), (0, 4), (15, 4), (0, 5)] {
            put(value, width);
        }
    }
    // The last channel is of a type that does not exist.
    for (value, width) in [(0, 1), (2, 6), (0, 1)] {
        put(value, width);
    }
    let mut frame = vec![0xff, 0xf8, 0x70, (channels - 1) << 4 | 2, 0];
    frame.extend((block - 1).to_be_bytes());
    let check = frame.iter().fold(0u8, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| {
            crc << 1 ^ if crc & 0x80 != 0 { 7 } else { 0 }
        })
    });
    frame.push(check);
    frame.extend(
        bits.chunks(8)
            .map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | bit) << (8 - byte.len())),
    );
    frame
}

/// An MP3 behind an ID3v2 tag of these frames.
fn tagged(frames: &[u8]) -> Vec<u8> {
    let digits = [21, 14, 7, 0].map(|shift| (frames.len() >> shift & 0x7f) as u8);
    let mp3 = sample("good_morning.mp3");
    let audio = match mp3.starts_with(b"ID3") {
        true => &mp3[10 + mp3[6..10].iter().fold(0, |n, b| n << 7 | usize::from(*b))..],
        false => &mp3[..],
    };
    [b"ID3\x03\0\0", &digits[..], frames, audio].concat()
}

fn id3_frame(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [name, &numbers(&[body.len() as u32])[..], &[0, 0], body].concat()
}

/// Chapters within chapters.
pub(super) fn nested_chapters(depth: usize) -> Vec<u8> {
    let fixed = [&[0][..], &numbers(&[0, 1, u32::MAX, u32::MAX])].concat();
    let innermost = id3_frame(b"TIT2", b"\0a");
    let frames = (0..depth).fold(innermost, |inner, _| {
        id3_frame(b"CHAP", &[&fixed[..], &inner].concat())
    });
    tagged(&frames)
}

/// Tables of contents, each of which names the next.
pub(super) fn chained_contents(length: usize) -> Vec<u8> {
    let name = |nth: usize| format!("{nth:x}\0").into_bytes();
    let table = |nth: usize| {
        let flags = [if nth == 0 { 2 } else { 0 }, 1];
        id3_frame(b"CTOC", &[&name(nth)[..], &flags, &name(nth + 1)].concat())
    };
    tagged(&(0..length).flat_map(table).collect::<Vec<u8>>())
}
