//! Base64 in all its spellings, and what a file path may reach.

use std::{fs, path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

use super::*;
use crate::testing::server::{Play, Server};

/// Media with the given uploads folder and a limit of ten bytes.
fn media(uploads_dir: Option<&Path>) -> Media {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = MediaSettings {
        uploads_dir: uploads_dir.map(Path::to_path_buf),
        allowed_hosts: Vec::new(),
        max_bytes: 10,
        timeout: Duration::from_secs(5),
    };
    Media::new(&settings, MemoryBudget::new(u64::MAX)).unwrap()
}

async fn refusal(media: &Media, source: MediaSource<'_>) -> String {
    let failure = media.load("imageX", source).await.unwrap_err();
    assert_eq!(failure.class(), FailureClass::Permanent, "{failure}");
    failure
        .to_string()
        .strip_prefix("payload field \"imageX\": ")
        .unwrap()
        .to_owned()
}

/// A folder of its own for one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("jobs-media-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("uploads/sub")).unwrap();
        fs::write(path.join("secret"), "secret").unwrap();
        fs::write(path.join("uploads/a"), "hello").unwrap();
        fs::write(path.join("uploads/sub/b"), "0123456789").unwrap();
        Self(path)
    }

    fn uploads(&self) -> PathBuf {
        self.0.join("uploads")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn base64_is_read_in_every_spelling() {
    let media = media(None);
    let bytes = [0xfb, 0xef, 0xff, 0xfe];
    for text in [
        "++///g==",
        "++///g",
        "--___g==",
        "--___g",
        " ++//\r\n/g==\n",
        "data:image/png;base64,++///g==",
        "data:audio/webm;codecs=opus;base64,--___g",
        "DATA:;BASE64,++///g",
    ] {
        assert_eq!(
            media.load("f", MediaSource::Base64(text)).await.unwrap(),
            bytes.as_slice(),
            "{text}"
        );
    }
}

/// A long text is read in slices, between which other jobs go on; no slice need hold whole groups of four.
#[tokio::test]
async fn long_base64_is_read_in_slices_between_which_others_go_on() {
    let mut media = media(None);
    media.max_bytes = 1_000_000;
    let bytes: Vec<u8> = (0..1_000_000_u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    let text = STANDARD_NO_PAD.encode(&bytes);
    for every in [usize::MAX, 76, 63, 1] {
        let lines: Vec<&[u8]> = text.as_bytes().chunks(every).collect();
        let text = String::from_utf8(lines.join(&b"\r\n"[..])).unwrap();
        let mut turns = 0;
        let others = async {
            loop {
                turns += 1;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            loaded = media.load("f", MediaSource::Base64(&text)) => assert!(loaded.unwrap() == bytes, "{every}"),
            () = others => {}
        }
        assert!(
            turns >= text.len() / SLICE,
            "{turns} turns in {} bytes",
            text.len()
        );
    }
    media.max_bytes -= 1;
    assert!(
        refusal(&media, MediaSource::Base64(&text))
            .await
            .contains("larger than")
    );
}

#[tokio::test]
async fn bad_base64_is_refused() {
    let media = media(None);
    for text in [
        "a",
        "ab=cd",
        "héllo",
        "????",
        "data:image/png,abcd",
        "data:image/png;base64",
    ] {
        let why = refusal(&media, MediaSource::Base64(text)).await;
        assert!(why.contains("base64"), "{text}: {why}");
    }
    for text in ["", "  ", "====", "data:;base64,"] {
        assert_eq!(
            refusal(&media, MediaSource::Base64(text)).await,
            "is empty",
            "{text}"
        );
    }
}

#[tokio::test]
async fn base64_is_measured_before_it_is_decoded() {
    let media = media(None);
    let ten = STANDARD_NO_PAD.encode([7; 10]);
    assert_eq!(
        media.load("f", MediaSource::Base64(&ten)).await.unwrap().len(),
        10
    );
    for (len, text) in (11..20).map(|len| (len, STANDARD_NO_PAD.encode(vec![7; len]))) {
        assert_eq!(
            refusal(&media, MediaSource::Base64(&text)).await,
            "is larger than 10 bytes",
            "{len}"
        );
    }
    // Not even base64, which only decoding could tell.
    assert_eq!(
        refusal(&media, MediaSource::Base64(&"?".repeat(1_000))).await,
        "is larger than 10 bytes"
    );
}

#[tokio::test]
async fn a_file_below_the_uploads_folder_is_read() {
    let folder = Folder::new("read");
    let uploads = folder.uploads();
    let media = media(Some(&uploads));
    let absolute = uploads.join("a");
    std::os::unix::fs::symlink("sub/b", uploads.join("inner-link")).unwrap();
    for (path, content) in [
        ("a", "hello"),
        ("./a", "hello"),
        ("sub/../a", "hello"),
        ("sub/b", "0123456789"),
        ("inner-link", "0123456789"),
        (absolute.to_str().unwrap(), "hello"),
        // As the web API writes them, relative to its own working directory.
        ("uploads/a", "hello"),
        ("./uploads/a", "hello"),
        ("uploads//a", "hello"),
        ("uploads/sub/b", "0123456789"),
        (" uploads/a\n", "hello"),
    ] {
        assert_eq!(
            media.load("f", MediaSource::FilePath(path)).await.unwrap(),
            content,
            "{path}"
        );
    }
}

#[tokio::test]
async fn no_path_leads_out_of_the_uploads_folder() {
    let folder = Folder::new("escape");
    let uploads = folder.uploads();
    let media = media(Some(&uploads));
    std::os::unix::fs::symlink("../secret", uploads.join("link")).unwrap();
    std::os::unix::fs::symlink("..", uploads.join("up")).unwrap();
    std::os::unix::fs::symlink("loop", uploads.join("loop")).unwrap();
    let sibling = folder.0.join("uploads-too");
    fs::create_dir(&sibling).unwrap();
    fs::write(sibling.join("c"), "other").unwrap();
    let pipe = std::os::unix::net::UnixListener::bind(uploads.join("socket")).unwrap();
    for path in [
        "../secret",
        "sub/../../secret",
        "link",
        "up/secret",
        "loop",
        "../uploads-too/c",
        folder.0.join("secret").to_str().unwrap(),
        "/etc/passwd",
        "/dev/zero",
        "uploads/../../secret",
        "uploads/link",
        "uploads//etc/passwd",
        "uploads/",
        "uploads",
        "/uploads/a",
        "other/a",
        "missing",
        "a/b",
        "sub",
        "socket",
        "",
        ".",
        "a\0b",
        &"x".repeat(10_000),
    ] {
        let why = refusal(&media, MediaSource::FilePath(path)).await;
        assert_eq!(why, "is no file below UPLOADS_DIR", "{path}");
    }
    drop(pipe);
}

#[tokio::test]
async fn a_file_is_measured_and_may_not_be_empty() {
    let folder = Folder::new("size");
    let uploads = folder.uploads();
    let media = media(Some(&uploads));
    fs::write(uploads.join("large"), "01234567890").unwrap();
    fs::write(uploads.join("empty"), "").unwrap();
    assert_eq!(
        refusal(&media, MediaSource::FilePath("large")).await,
        "is larger than 10 bytes"
    );
    assert_eq!(refusal(&media, MediaSource::FilePath("empty")).await, "is empty");
}

#[tokio::test]
async fn without_an_uploads_folder_there_are_no_files() {
    let why = refusal(&media(None), MediaSource::FilePath("/etc/passwd")).await;
    assert_eq!(why, "file paths are refused: UPLOADS_DIR is not set");
    let gone = media(Some(Path::new("/no/such/folder")));
    let failure = gone.load("f", MediaSource::FilePath("a")).await.unwrap_err();
    assert_eq!(failure.class(), FailureClass::Deployment, "{failure}");
}

#[tokio::test]
async fn a_download_that_stumbles_is_tried_twice_more() {
    for (statuses, class, requests) in [
        (&[503, 503, 200][..], None, 3),
        (&[503, 503, 503, 200], Some(FailureClass::Transient), 3),
        (&[503, 404, 200], Some(FailureClass::Permanent), 2),
        (&[200], None, 1),
    ] {
        let left = std::sync::Mutex::new(statuses.iter());
        let server = Server::answering(move |_| {
            Play::answer(*left.lock().unwrap().next().unwrap_or(&500), "", "bytes")
        })
        .await;
        let mut media = media(None);
        media.fetcher = MediaFetcher::new(&MediaSettings {
            uploads_dir: None,
            allowed_hosts: vec!["127.0.0.1".to_owned()],
            max_bytes: 10,
            timeout: Duration::from_secs(20),
        })
        .unwrap();
        media.pauses = [Duration::from_millis(20), Duration::from_millis(40)];
        let started = std::time::Instant::now();
        let loaded = media.load("f", MediaSource::Url(server.url.as_str())).await;
        assert_eq!(loaded.err().map(|failure| failure.class()), class, "{statuses:?}");
        assert_eq!(server.requests().len(), requests, "{statuses:?}");
        let pauses: Duration = media.pauses[..requests - 1].iter().sum();
        assert!(started.elapsed() >= pauses, "{statuses:?}");
    }
}
