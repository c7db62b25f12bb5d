//! Media, and where they are said to be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target panics when a promise is broken"
)]

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use hostile::{Target, contained};
use tokio::runtime::{Builder, Runtime};
use url::{Host, Url};

use super::{audio::convert, *};
use crate::{VisionApi, fuzzing::expect_modest};

/// Longest recording.
const LIMIT: Duration = Duration::from_secs(30);
/// Largest medium.
const MOST_BYTES: u64 = 4_096;

static MEDIA: LazyLock<Media> = LazyLock::new(|| {
    // The client makes no TLS connection here, but its construction needs a provider of cryptography.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = MediaSettings {
        uploads_dir: Some(samples()),
        allowed_hosts: vec!["allowed.example:8080".to_owned()],
        max_bytes: MOST_BYTES,
        timeout: Duration::from_secs(1),
    };
    Media::new(&settings, crate::MemoryBudget::new(u64::MAX)).expect("an HTTP client can be built")
});

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples")
}

/// A recording in any container: at most 30 s in one of the two formats, or a reason. A decoder that gives up with a
/// panic does so on a thread of its own; memory is bounded by the longest recording, whatever the file claims.
pub(crate) static AUDIO: Target = Target::new("audio", |input| {
    let bytes = Bytes::copy_from_slice(input);
    match contained(move || convert(bytes, LIMIT)) {
        Some(Ok(audio)) => {
            assert!(audio.duration <= LIMIT && !audio.duration.is_zero(), "{audio:?}");
        }
        Some(Err(why)) => expect_modest(&Failure::invalid_field("audioUrl", why)),
        None => {}
    }
})
// 30 s at 192 kHz as f32, twice while it grows, and once more resampled.
.with_room(96 * 1024 * 1024)
.with_cases(1_000);

#[test]
fn audio() {
    AUDIO.run();
}

/// A picture: sides that the service accepts, or a reason. Only its header is read.
pub(crate) static IMAGE: Target = Target::new("image", |input| {
    for api in VisionApi::ALL {
        let longest = if api == VisionApi::ImageAnalysis40 {
            16_000
        } else {
            10_000
        };
        match image::check("imageUrl", input, api) {
            Ok(info) => {
                let is_within = (50..=longest).contains(&info.width) && (50..=longest).contains(&info.height);
                assert!(is_within || matches!(info.fit, image::ImageFit::Scaled(_)));
            }
            Err(failure) => expect_modest(&failure),
        }
    }
})
// An icon's directory can announce 65,535 pictures, 16 bytes each.
.with_room(2 * 1024 * 1024);

#[test]
fn images() {
    IMAGE.run();
}

/// Base64 and data URLs: the bytes, within the limit, or a reason.
pub(crate) static BASE64: Target = Target::new("base64", |input| {
    let text = String::from_utf8_lossy(input);
    match encoded::decode("audioBase64", &text, MOST_BYTES) {
        Ok(bytes) => {
            assert!(bytes.len() as u64 <= MOST_BYTES);
            let again = encoded::decode("audioBase64", &STANDARD_NO_PAD.encode(&bytes), MOST_BYTES);
            assert_eq!(again.expect("what was decoded can be written again"), bytes);
        }
        Err(failure) => expect_modest(&failure),
    }
});

#[test]
fn base64() {
    BASE64.run();
}

/// A URL: refused unless it leads to the public internet over https, or to the one host that is allowed.
pub(crate) static MEDIA_URL: Target = Target::new("media_url", |input| {
    let Ok(url) = Url::parse(&String::from_utf8_lossy(input)) else {
        return;
    };
    if let Err(failure) = MEDIA.fetcher.client_for("audioUrl", &url) {
        return expect_modest(&failure);
    }
    assert!(url.username().is_empty() && url.password().is_none());
    if url.host_str() == Some("allowed.example") && url.port() == Some(8080) {
        return assert!(matches!(url.scheme(), "http" | "https"));
    }
    assert_eq!(url.scheme(), "https");
    // Judged once more, in the standard library's words.
    let inside = match url.host().expect("https has a host") {
        Host::Domain(_) => return,
        Host::Ipv4(v4) => is_inside(v4.into()),
        Host::Ipv6(v6) => is_inside(v6.into()),
    };
    assert!(!inside, "{url}");
})
// The client for https, made when a URL first needs it.
.with_room(2 * 1024 * 1024);

#[test]
fn media_urls() {
    MEDIA_URL.run();
}

fn is_inside(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
        }
    }
}

/// A path: a file below the folder, or a reason.
pub(crate) static FILE_PATH: Target = Target::new("file_path", |input| {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        Builder::new_current_thread()
            .build()
            .expect("a runtime can be built")
    });
    static FOLDER: LazyLock<PathBuf> =
        LazyLock::new(|| samples().canonicalize().expect("the samples are there"));
    let path = String::from_utf8_lossy(input);
    if let Ok(found) = open_beneath(&FOLDER, &path) {
        assert!(
            found.metadata().is_ok_and(|metadata| metadata.is_file()),
            "{path}"
        );
        let real = FOLDER
            .join(&*path)
            .canonicalize()
            .expect("what was opened is there");
        assert!(real.starts_with(&*FOLDER), "{}", real.display());
    }
    if let Err(failure) = RUNTIME.block_on(MEDIA.read("audioFilePath", &path)) {
        expect_modest(&failure);
    }
});

#[test]
fn file_paths() {
    FILE_PATH.run();
}
