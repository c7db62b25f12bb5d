use proptest::prelude::*;

use super::*;

const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The bytes that stand for those which arrive in these pieces.
fn merged<'a>(merger: &mut ChunkMerger, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut taken, mut put) = (0, Vec::new());
    for piece in pieces {
        taken += piece.len();
        merger.take(piece, &mut |bytes| put.extend_from_slice(bytes));
        assert!(put.len() <= taken, "more than has arrived");
    }
    put
}

/// The payload of a body in chunks, and how many chunks it has.
fn payload(mut body: &[u8]) -> (Vec<u8>, usize) {
    let (mut payload, mut chunks) = (Vec::new(), 0);
    loop {
        let line = memchr::memmem::find(body, b"\r\n").expect("a size line");
        let size = std::str::from_utf8(&body[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        body = &body[line + 2..];
        if size == 0 {
            assert_eq!(body, b"\r\n");
            return (payload, chunks);
        }
        payload.extend_from_slice(&body[..size]);
        assert_eq!(&body[size..size + 2], b"\r\n");
        body = &body[size + 2..];
        chunks += 1;
    }
}

fn chunked(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut body: Vec<u8> = Vec::new();
    for (n, chunk) in chunks.iter().enumerate() {
        let line = match n % 2 {
            0 => format!("{:x}\r\n", chunk.len()),
            _ => format!("0{:X}\r\n", chunk.len()),
        };
        body.extend_from_slice(line.as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    body
}

#[test]
fn chunks_that_arrive_together_become_one() {
    let mut merger = ChunkMerger::default();
    for _answer in 0..2 {
        merger.request();
        let chunks: Vec<Vec<u8>> = (0..100).map(|n| vec![b'x'; n + 1]).collect();
        let answer = [HEAD.as_bytes(), &chunked(&chunks)].concat();
        let put = merged(&mut merger, [answer.as_slice()]);
        let (payload, count) = payload(&put[HEAD.len()..]);
        assert_eq!((payload, count), (chunks.concat(), 1));
        assert!(merger.is_idle());
    }
}

#[test]
fn what_is_not_understood_passes_as_it_is() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n5\r\nhello\r\n".to_owned(),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhello\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n5\r\nhello\r\n".to_owned(),
        "not HTTP\r\n\r\n5\r\nhello\r\n5\r\nhello\r\n".to_owned(),
        format!("{HEAD}5;extension=1\r\nhello\r\n0\r\n\r\n"),
        format!("{HEAD}5\r\nhello\r\n0\r\nTrailer: 1\r\n\r\n"),
        format!("{HEAD}5\r\nhelloX\r\n5\r\nhello\r\n"),
        format!("{HEAD}size\r\nhello\r\n"),
        format!("{HEAD}0\r\nx\r\n"),
        format!("{HEAD}5\r\nhello\r\n12345678"),
        format!("{HEAD}5\r\nhello\r\n123456789abcdef0\r\n"),
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n", "x".repeat(2 * LONGEST_HEAD)),
    ] {
        for cut in [1, 2, 3, 7, 30, answer.len()] {
            let mut merger = ChunkMerger::default();
            merger.request();
            let mut put = merged(&mut merger, answer.as_bytes().chunks(cut));
            put.extend(merger.held_back());
            assert_eq!(String::from_utf8(put).unwrap(), answer, "in pieces of {cut}");
        }
    }
}

proptest! {
    /// However the bytes are cut: the payload is the same, and the next answer on the connection is understood as well.
    #[test]
    fn cuts_do_not_matter(
        chunks in prop::collection::vec(prop::collection::vec(prop::sample::select(b"\r\n0a;{".to_vec()), 1..40), 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        is_continued in any::<bool>(),
    ) {
        let begun = if is_continued { "HTTP/1.1 100 Continue\r\n\r\n" } else { "" };
        let head = format!("{begun}{HEAD}");
        let answer = [head.as_bytes(), &chunked(&chunks)].concat();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(answer.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(answer.len());
        let mut from = 0;
        let pieces: Vec<&[u8]> = ends.iter().map(|end| &answer[std::mem::replace(&mut from, *end)..*end]).collect();
        let mut merger = ChunkMerger::default();
        for pieces in [pieces, answer.chunks(1).collect()] {
            merger.request();
            let put = merged(&mut merger, pieces);
            prop_assert_eq!(&put[..head.len()], head.as_bytes());
            let (payload, count) = payload(&put[head.len()..]);
            prop_assert_eq!(payload, chunks.concat());
            prop_assert!(count <= chunks.len());
            prop_assert!(merger.is_idle());
        }
    }
}
