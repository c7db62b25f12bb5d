//! The images on their way to the provider, over real sockets: one server is media host and provider at once, so that
//! its requests stand in one order.

use super::*;
use crate::{
    MediaSettings, Settings, VisionSettings,
    providers::Clients,
    testing::server::{Play, Request, Server},
};

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../samples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn choose(request: &Request) -> Play {
    match request.line.as_str() {
        "GET /good.png" => Play::answer(200, "", sample("text.png")),
        "GET /tiny.png" => Play::answer(200, "", sample("tiny49.png")),
        "GET /image.webp" => {
            let webp = [b"RIFF\0\0\0\0WEBPVP8 ".as_slice(), &[0; 10], &[100, 0, 100, 0]];
            Play::answer(200, "", webp.concat())
        }
        "GET /away.png" => Play::answer(503, "", ""),
        line if line.starts_with("POST /computervision/") => {
            let body = json!({ "readResult": { "blocks": [part(&["text"])] } });
            Play::answer(200, "", body.to_string())
        }
        _ => Play::answer(404, "", ""),
    }
}

/// Runs a job with these images; tells what it came to, and each request that it made.
async fn run(api: VisionApi, paths: &[&str]) -> (Result<Output, Failure>, Vec<String>) {
    let server = Server::answering(choose).await;
    let settings = Settings {
        openai: None,
        fallbacks: Vec::new(),
        speech: None,
        vision: Some(VisionSettings {
            endpoint: server.url.clone(),
            key: "key".into(),
            api,
            models: crate::providers::models::ModelTable::built_in(),
            timeout: Duration::from_secs(20),
            poll_interval: Duration::from_millis(1),
        }),
        media: MediaSettings {
            uploads_dir: None,
            allowed_hosts: vec!["127.0.0.1".to_owned()],
            max_bytes: 1_000_000,
            timeout: Duration::from_secs(20),
        },
    };
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut media = Media::new(&settings.media, crate::MemoryBudget::new(u64::MAX)).unwrap();
    media.pauses = [Duration::ZERO; 2];
    let handler = ProcessImage {
        vision: Clients::new(&settings, None).unwrap().vision,
        media,
        decoder: std::sync::Arc::new(crate::media::decoder::InProcessDecoder),
    };
    let images: Vec<Value> = paths
        .iter()
        .map(|path| json!({ "imageUrl": server.url.join(path).unwrap().as_str() }))
        .collect();
    let payload = serde_json::from_value(json!({ "images": images })).unwrap();
    let output = handler.run(payload, &FakeGuard::default()).await;
    let lines = server.requests().into_iter().map(|request| request.line);
    (output, lines.collect())
}

#[tokio::test]
async fn all_images_are_there_before_the_first_is_paid_for() {
    let (output, lines) = run(VisionApi::ImageAnalysis40, &["good.png", "good.png", "good.png"]).await;
    assert_eq!(output.unwrap().result.images_processed, 3);
    let paid: Vec<bool> = lines.iter().map(|line| line.starts_with("POST")).collect();
    assert_eq!(paid, [false, false, false, true, true, true], "{lines:?}");
}

#[tokio::test]
async fn an_image_that_stays_away_does_not_lose_the_others() {
    let (output, lines) = run(
        VisionApi::ImageAnalysis40,
        &["good.png", "away.png", "gone.png", "tiny.png", "good.png"],
    )
    .await;
    let result = output.unwrap().result;
    assert_eq!((result.images_processed, result.total_images), (2, 5));
    for (page, why) in result.pages[1..4].iter().zip(["503", "404", "49 × 49"]) {
        let error = page.error.as_deref().unwrap();
        assert!(error.contains(why), "{error}");
    }
    let asked = |path: &str| lines.iter().filter(|line| line.ends_with(path)).count();
    assert_eq!(
        (asked("/away.png"), asked("/gone.png"), asked("/tiny.png")),
        (3, 1, 1)
    );
}

#[tokio::test]
async fn nothing_is_paid_for_when_no_image_is_there() {
    for (paths, class) in [
        (&["gone.png", "away.png"][..], FailureClass::Transient),
        (&["gone.png", "tiny.png"], FailureClass::Permanent),
    ] {
        let (output, lines) = run(VisionApi::ImageAnalysis40, paths).await;
        let failure = output.unwrap_err();
        assert_eq!(failure.class(), class, "{failure}");
        assert!(!lines.iter().any(|line| line.starts_with("POST")), "{lines:?}");
    }
}

#[tokio::test]
async fn an_image_is_checked_for_the_service_that_shall_read_it() {
    let (output, _) = run(VisionApi::ImageAnalysis40, &["image.webp"]).await;
    assert_eq!(output.unwrap().result.images_processed, 1);
    let (output, lines) = run(VisionApi::Read32, &["image.webp"]).await;
    let failure = output.unwrap_err();
    assert!(
        failure.message().ends_with("is none of JPEG, PNG, BMP, TIFF"),
        "{failure}"
    );
    assert_eq!(lines, ["GET /image.webp"]);
}
