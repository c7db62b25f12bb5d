//! Each protocol, each check and each fault, over real sockets.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use super::{Fault, Provider, RunningSimulator, Simulator, SimulatorOptions};

mod control;
mod faults;
mod journal;
mod openai;
mod speech;
mod vision;

/// A running simulator and a client that keeps to it.
struct Bench {
    sim: RunningSimulator,
    http: reqwest::Client,
}

impl Bench {
    async fn new() -> Self {
        Self::with(SimulatorOptions::default()).await
    }

    async fn with(options: SimulatorOptions) -> Self {
        let addr = "127.0.0.1:0".parse().unwrap();
        let sim = Simulator::bind(addr, options).await.unwrap().spawn();
        // reqwest is built without a crypto provider. An error means that another test has installed one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A connection each: a fault on one must not show on the next request.
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .retry(reqwest::retry::never());
        Self {
            sim,
            http: http.build().unwrap(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sim.addr())
    }

    fn chat(&self, body: &Value) -> RequestBuilder {
        let url = format!("{}/chat/completions", self.sim.openai_base_url());
        self.http.post(url).bearer_auth("sim-openai-key").json(body)
    }

    fn assess(&self, reference: &str, audio: Vec<u8>) -> RequestBuilder {
        let url = format!(
            "{}/speech/recognition/conversation/cognitiveservices/v1?language=en-US&format=detailed",
            self.sim.speech_endpoint()
        );
        self.http
            .post(url)
            .header("Ocp-Apim-Subscription-Key", "sim-speech-key")
            .header("Content-Type", "audio/wav; codecs=audio/pcm; samplerate=16000")
            .header("Accept", "application/json")
            .header("Pronunciation-Assessment", assessment(reference))
            .body(audio)
    }

    fn vision(&self, path: &str, image: Vec<u8>) -> RequestBuilder {
        self.http
            .post(format!("{}{path}", self.sim.vision_endpoint()))
            .header("Ocp-Apim-Subscription-Key", "sim-vision-key")
            .header("Content-Type", "application/octet-stream")
            .body(image)
    }

    fn analyze(&self, image: Vec<u8>) -> RequestBuilder {
        self.vision(
            "/computervision/imageanalysis:analyze?api-version=2024-02-01&features=read",
            image,
        )
    }

    fn script(&self, provider: Provider, fault: Fault) {
        self.sim.faults().script(provider, [fault]).unwrap();
    }
}

/// A prompt for plain text.
fn prompt(text: &str) -> Value {
    json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]})
}

fn assessment(reference: &str) -> String {
    let wanted = json!({
        "ReferenceText": reference, "GradingSystem": "HundredMark", "Granularity": "Phoneme",
        "Dimension": "Comprehensive", "EnableMiscue": "True",
    });
    BASE64_STANDARD.encode(wanted.to_string())
}

/// PCM with all samples alike.
fn wav(rate: u32, channels: u16, seconds: f64, sample: i16) -> Vec<u8> {
    let data = sample
        .to_le_bytes()
        .repeat((f64::from(rate) * seconds) as usize * usize::from(channels));
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * u32::from(channels) * 2).to_le_bytes());
    bytes.extend((channels * 2).to_le_bytes());
    bytes.extend(16u16.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

fn speech_wav() -> Vec<u8> {
    wav(16_000, 1, 1.5, 9000)
}

/// The head and the end of a PNG, which is all that is looked at, and a trailer to tell images apart.
fn png(width: u32, height: u32, trailer: &str) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend(b"\x08\x02\0\0\0");
    // The checksum of the head, which is not looked at, and the last chunk.
    bytes.extend(b"\0\0\0\0\0\0\0\0IEND\xae\x42\x60\x82");
    bytes.extend(trailer.as_bytes());
    bytes
}

async fn json_of(response: Response, status: u16) -> Value {
    assert_eq!(response.status(), status);
    response.json().await.unwrap()
}

async fn send(request: RequestBuilder, status: u16) -> Value {
    json_of(request.send().await.unwrap(), status).await
}

#[tokio::test]
async fn stops_and_frees_its_port() {
    let bench = Bench::new().await;
    let addr = bench.sim.addr();
    send(bench.chat(&prompt("hello")), 200).await;
    bench.sim.stop().await;
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    Simulator::bind(addr, SimulatorOptions::default()).await.unwrap();
}

#[tokio::test]
async fn dropping_it_stops_it_too() {
    let addr = Bench::new().await.sim.addr();
    let closed = async { while tokio::net::TcpStream::connect(addr).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), closed)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_share_of_faults_above_one_is_refused() {
    let options = SimulatorOptions {
        random_faults: 1.5,
        ..SimulatorOptions::default()
    };
    let error = Simulator::bind("127.0.0.1:0".parse().unwrap(), options)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn debug_shows_no_key() {
    let keys = super::SimulatorKeys {
        openai: "sk-real".to_owned(),
        ..Default::default()
    };
    let options = SimulatorOptions {
        keys,
        ..SimulatorOptions::default()
    };
    assert!(!format!("{options:?}").contains("sk-real"));
    let sim = Simulator::bind("127.0.0.1:0".parse().unwrap(), options)
        .await
        .unwrap();
    assert!(!format!("{sim:?}").contains("sk-real"));
}
