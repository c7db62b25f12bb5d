//! Media servers that send without end before their answer, against a real worker: other jobs go on, and health
//! answers.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use backend_worker::{
    queue::{Broker, JobState, Layout},
    simulator::Provider,
};
use jobs::JobType;
use serde_json::{Value, json};

use crate::support::{self, Scene, ended};

/// Sends without end: informational responses, one header, many headers, or a head that comes byte by byte.
fn serve(mut socket: TcpStream) {
    let mut request = [0; 1_024];
    let Ok(length) = socket.read(&mut request) else {
        return;
    };
    let path = String::from_utf8_lossy(&request[..length]).into_owned();
    let rest = match path.split(' ').nth(1).unwrap() {
        "/informational" => "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000),
        "/header" => "a".repeat(100_000),
        "/headers" => "x: y\r\n".repeat(10_000),
        "/drip" => {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nx: ");
            while socket.write_all(b"a").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
            return;
        }
        other => panic!("{other} was asked for"),
    };
    if path.starts_with("GET /header") && socket.write_all(b"HTTP/1.1 200 OK\r\nx: ").is_err() {
        return;
    }
    while socket.write_all(rest.as_bytes()).is_ok() {}
}

async fn add(broker: &dyn Broker, id: &str, kind: JobType, payload: &Value) {
    support::add(broker, id, kind, &payload.to_string(), 1).await;
}

#[tokio::test]
async fn servers_that_send_without_end_hold_up_no_other_job() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for socket in listener.incoming() {
            thread::spawn(move || serve(socket.unwrap()));
        }
    });
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene
        .worker(&[
            ("MEDIA_ALLOWED_HOSTS", host.as_str()),
            ("MEDIA_TIMEOUT", "2s"),
            ("QUEUES", "apalis:audio-jobs=8,apalis:ai-jobs=4"),
        ])
        .await;
    let audio = scene.redis.broker(Layout::Apalis, "audio-jobs", "onlooker");
    let ai = scene.redis.broker(Layout::Apalis, "ai-jobs", "onlooker");
    let floods = [
        ("informational", "informational responses"),
        ("header", "cannot be fetched"),
        ("headers", "cannot be fetched"),
        ("drip", "took longer than 2s"),
    ];
    for n in 0..2 {
        for (name, _) in floods {
            let payload =
                json!({"referenceText": "Good morning", "audioUrl": format!("http://{host}/{name}")});
            add(
                &*audio,
                &format!("{name}-{n}"),
                JobType::AssessPronunciation,
                &payload,
            )
            .await;
        }
    }
    let beside = async {
        for n in 0..20 {
            let id = format!("deck-{n}");
            let payload = json!({"content": id, "subject": "s", "topic": "t", "userId": "u"});
            add(&*ai, &id, JobType::GenerateFlashcards, &payload).await;
            let job = ended(&*ai, &id).await;
            assert_eq!(job.state, JobState::Completed, "{id}: {:?}", job.error);
            let url = format!("http://127.0.0.1:{}/api/health", worker.port);
            assert_eq!(reqwest::get(url).await.unwrap().status(), 200);
        }
    };
    let flooded = async {
        for n in 0..2 {
            for (name, why) in floods {
                let job = ended(&*audio, &format!("{name}-{n}")).await;
                let error = job.error.unwrap_or_default();
                assert!(error.contains(why), "{name}: {error}");
            }
        }
    };
    tokio::join!(beside, flooded);
    assert!(scene.simulator.journal().of(Provider::AzureSpeech).is_empty());
}
