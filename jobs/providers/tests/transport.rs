//! What holds for every provider's call: one request, no redirect, and a verdict on every end of a connection.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpListener};
use url::Url;

use super::{OPENAI_KEY, PATIENT, SPEECH_KEY, VISION_KEY, audio, clients, settings};
use crate::{
    Failure, FailureClass, Provider, ProviderReply,
    providers::Clients,
    testing::server::{Play, Server, head},
};

/// Every kind of call, by name.
const CALLS: [&str; 5] = ["chat", "assess", "analyze", "submit", "poll"];

async fn call(clients: &Clients, name: &str) -> Result<ProviderReply, Failure> {
    let (openai, speech, vision) = (
        clients.openai.as_ref().unwrap(),
        clients.speech.as_ref().unwrap(),
        clients.vision.as_ref().unwrap(),
    );
    match name {
        "chat" => openai.chat(&json!({ "model": "gpt-4o-mini" })).await,
        "assess" => speech.assess("Good morning", "en-US", &audio()).await,
        "analyze" => vision.analyze(Bytes::from_static(b"an image")).await,
        "submit" => vision.submit(Bytes::from_static(b"an image")).await,
        "poll" => vision.poll("49a36324-fc4b-4387-aa06-090cfbf0064f").await,
        other => unreachable!("{other}"),
    }
}

async fn refused(server: &Server, name: &str, timeout: Duration) -> Failure {
    let failure = call(&clients(&server.url, timeout), name).await.unwrap_err();
    let provider = match name {
        "chat" => Provider::OpenAi,
        "assess" => Provider::AzureSpeech,
        _ => Provider::AzureVision,
    };
    assert_eq!(failure.provider(), Some(provider), "{name}: {failure}");
    failure
}

#[tokio::test]
async fn a_refusal_is_one_request_and_one_verdict() {
    for (status, class) in [
        (429, FailureClass::RateLimited),
        (500, FailureClass::Transient),
        (503, FailureClass::Transient),
    ] {
        for name in CALLS {
            let server = Server::start(Play::answer(status, "Retry-After: 7\r\n", "")).await;
            let failure = refused(&server, name, PATIENT).await;
            assert_eq!(
                (failure.class(), failure.status()),
                (class, Some(status)),
                "{name}: {failure}"
            );
            assert_eq!(failure.retry_after(), Some(Duration::from_secs(7)), "{name}");
            server.only_request();
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for name in CALLS {
        let elsewhere = Server::start(Play::answer(200, "", "{}")).await;
        let location = format!("Location: {}\r\n", elsewhere.url);
        let server = Server::start(Play::answer(307, &location, "")).await;
        let failure = refused(&server, name, PATIENT).await;
        assert_eq!(failure.class(), FailureClass::Deployment, "{name}: {failure}");
        assert!(failure.message().contains("redirect"), "{name}: {failure}");
        server.only_request();
        assert!(elsewhere.requests().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_transient_and_not_tried_again() {
    let plays = [
        ("reset before the answer", Play::Reset(Vec::new())),
        ("closed before the answer", Play::Write(Vec::new())),
        ("no HTTP", Play::Write(b"220 mail.example ESMTP\r\n".to_vec())),
        (
            "body cut",
            Play::Write([head(200, "", 900), b"{\"choices\":[".to_vec()].concat()),
        ),
        (
            "body reset",
            Play::Reset([head(200, "", 900), b"{\"choices\":[".to_vec()].concat()),
        ),
    ];
    for (what, play) in plays {
        for name in CALLS {
            let server = Server::start(play.clone()).await;
            let failure = refused(&server, name, PATIENT).await;
            assert_eq!(
                failure.class(),
                FailureClass::Transient,
                "{name}, {what}: {failure}"
            );
            server.only_request();
        }
    }
}

/// No decompression bomb: what calls itself compressed stays as it was sent.
#[tokio::test]
async fn a_compressed_answer_is_not_unpacked() {
    // `{}`, packed: unpacked it would be read.
    let packed = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0".as_slice();
    for name in CALLS {
        let head = head(200, "Content-Encoding: gzip\r\n", packed.len());
        let server = Server::start(Play::Write([head, packed.to_vec()].concat())).await;
        let failure = refused(&server, name, PATIENT).await;
        assert_eq!(failure.class(), FailureClass::Transient, "{name}: {failure}");
        let told = failure.message().contains("22 bytes that is not JSON");
        assert!(told || name == "submit", "{name}: {failure}");
    }
}

#[tokio::test]
async fn silence_ends_in_a_time_out() {
    let ends = [("no answer", Vec::new()), ("half an answer", head(200, "", 900))];
    // A poll has ten seconds of its own, whatever the settings say.
    let calls = ends
        .iter()
        .flat_map(|end| ["chat", "assess", "analyze", "submit"].map(|name| (end, name)));
    join_all(calls.map(async |((what, sent), name)| {
        let server = Server::start(Play::Hang(sent.clone())).await;
        let failure = refused(&server, name, Duration::from_secs(4)).await;
        assert_eq!(
            failure.class(),
            FailureClass::Transient,
            "{name}, {what}: {failure}"
        );
        assert!(failure.message().contains("in time"), "{name}, {what}: {failure}");
        server.only_request();
    }))
    .await;
}

/// Not one of the informational responses is the answer, and each could be followed by another.
#[tokio::test]
async fn informational_responses_without_an_answer_are_transient() {
    for name in CALLS {
        let server = Server::start(Play::Hang(b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100))).await;
        let failure = refused(&server, name, PATIENT).await;
        assert_eq!(failure.class(), FailureClass::Transient, "{name}: {failure}");
        assert!(failure.to_string().contains("informational"), "{name}: {failure}");
        assert!(failure.is_answer_lost(), "{name}: {failure}");
        server.only_request();
    }
}

#[tokio::test]
async fn openai_gets_its_time_for_the_whole_answer() {
    let body = ["{\"id\"", ":", " \"ch", "at", "-1", "\"}"];
    let mut parts = vec![head(200, "", body.concat().len())];
    parts.extend(body.map(Vec::from));
    let server = Server::start(Play::Drip(parts, Duration::from_millis(300))).await;
    // Never silent for as long as this, and not done by then either.
    let failure = refused(&server, "chat", Duration::from_secs(1)).await;
    assert_eq!(failure.class(), FailureClass::Transient, "{failure}");
    assert!(failure.message().contains("in time"), "{failure}");
    let reply = call(&clients(&server.url, PATIENT), "chat").await.unwrap();
    assert_eq!(reply.body.get(), body.concat());
}

#[tokio::test]
async fn a_paid_answer_that_is_no_json_is_transient() {
    for body in ["", "<html>welcome</html>", "{\"choices\":[{\"mess"] {
        for name in ["chat", "assess", "analyze", "poll"] {
            let server = Server::start(Play::answer(200, "", body)).await;
            let failure = refused(&server, name, PATIENT).await;
            assert_eq!(
                failure.class(),
                FailureClass::Transient,
                "{name} {body}: {failure}"
            );
            assert!(failure.message().contains("not JSON"), "{name} {body}: {failure}");
            server.only_request();
        }
    }
}

#[tokio::test]
async fn a_byte_order_mark_and_bytes_that_are_not_utf_8_cost_no_answer() {
    let sent = b"\xef\xbb\xbf {\"status\":\"a\xffb\"}";
    for name in ["chat", "analyze"] {
        let server = Server::start(Play::answer(200, "", sent)).await;
        let reply = call(&clients(&server.url, PATIENT), name).await.unwrap();
        assert_eq!(reply.body.get(), "{\"status\":\"a\u{fffd}b\"}", "{name}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_read_to_the_bound_only() {
    let nine_mebibytes = vec![b' '; 9 * 1024 * 1024];
    for name in CALLS {
        let server = Server::start(Play::answer(200, "", &nine_mebibytes)).await;
        let failure = refused(&server, name, PATIENT).await;
        assert_eq!(failure.class(), FailureClass::Transient, "{name}: {failure}");
        assert!(
            failure.message().contains("more than 8388608 bytes"),
            "{name}: {failure}"
        );
        // The status of a refusal says enough, however long its body.
        let server = Server::start(Play::answer(503, "", &nine_mebibytes)).await;
        assert_eq!(
            refused(&server, name, PATIENT).await.status(),
            Some(503),
            "{name}"
        );
    }
}

#[tokio::test]
async fn nobody_there_is_transient() {
    // Bound and dropped: nothing listens on this port now.
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let clients = clients(
        &Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap(),
        PATIENT,
    );
    for name in CALLS {
        let failure = call(&clients, name).await.unwrap_err();
        assert_eq!(failure.class(), FailureClass::Transient, "{name}: {failure}");
        assert!(
            failure.to_string().contains("was not reached: "),
            "{name}: {failure}"
        );
        assert!(
            !failure.to_string().contains("127.0.0.1"),
            "the URL shows: {failure}"
        );
    }
}

#[tokio::test]
async fn no_key_shows() {
    let keys = [OPENAI_KEY, SPEECH_KEY, VISION_KEY];
    // As it is, and as some JSON writers would put it.
    let plain = keys.join(" and ");
    let escaped = plain.replace('0', r"\u0030").replace('a', r"\u0061");
    for text in [plain, escaped] {
        let echo =
            format!(r#"{{"error": {{"code": "bad", "message": "bad key {text}"}}, "status": "failed"}}"#);
        for (name, key) in CALLS
            .into_iter()
            .zip([OPENAI_KEY, SPEECH_KEY, VISION_KEY, VISION_KEY, VISION_KEY])
        {
            for status in [400, 403, 500] {
                let server = Server::start(Play::answer(status, "", &echo)).await;
                let failure = refused(&server, name, PATIENT).await;
                assert!(failure.message().contains("[key]"), "{name}: {failure}");
                assert!(
                    !format!("{failure} {failure:?}").contains(key),
                    "{name}: {failure:?}"
                );
            }
            // An answer becomes a result, or the reason of a failure, further on.
            let server = Server::start(Play::answer(200, "", &echo)).await;
            if let Ok(reply) = call(&clients(&server.url, PATIENT), name).await {
                let said = reply.body.get();
                assert!(said.contains("[key]") && !said.contains(key), "{name}: {said}");
            }
        }
    }
    let debug = format!(
        "{:#?}",
        clients(&Url::parse("http://127.0.0.1:1").unwrap(), PATIENT)
    );
    for key in keys {
        assert!(!debug.contains(key), "{debug}");
    }
}

#[test]
fn no_user_name_or_password_of_a_url_shows() {
    let base = Url::parse("https://alice:hunter2@proxy.example:8443/openai?token=t0ken").unwrap();
    let settings = settings(&base, PATIENT);
    let clients = clients(&base, PATIENT);
    // Each by itself: one that shows must not hide behind the others.
    let shown = [
        format!("{:?}", settings.openai.unwrap()),
        format!("{:?}", settings.speech.unwrap()),
        format!("{:?}", settings.vision.unwrap()),
        format!("{:?}", clients.openai.unwrap()),
        format!("{:?}", clients.speech.unwrap()),
        format!("{:?}", clients.vision.unwrap()),
    ];
    for text in shown {
        assert!(text.contains("https://proxy.example:8443/openai"), "{text}");
        for secret in ["alice", "hunter2", "t0ken"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn a_key_that_no_header_can_carry_is_refused_at_the_start() {
    let base = Url::parse("http://127.0.0.1:1").unwrap();
    let good = clients(&base, PATIENT);
    assert!(good.openai.is_some() && good.speech.is_some() && good.vision.is_some());
    for provider in Provider::ALL {
        let mut settings = settings(&base, PATIENT);
        match provider {
            Provider::OpenAi => settings.openai.as_mut().unwrap().key = "sk-\nsecret".into(),
            Provider::AzureSpeech => settings.speech.as_mut().unwrap().key = "sk-\nsecret".into(),
            Provider::AzureVision => settings.vision.as_mut().unwrap().key = "sk-\nsecret".into(),
        }
        let error = format!("{:?}", Clients::new(&settings, None).unwrap_err());
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_provider_without_settings_has_no_client() {
    let mut settings = settings(&Url::parse("http://127.0.0.1:1").unwrap(), PATIENT);
    (settings.openai, settings.speech, settings.vision) = (None, None, None);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let clients = Clients::new(&settings, None).unwrap();
    assert!(clients.openai.is_none() && clients.speech.is_none() && clients.vision.is_none());
}

#[test]
fn no_proxy_of_the_environment_is_used() {
    // A process's environment cannot be changed safely while tests run: another one runs with a proxy that is not
    // there.
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "providers::tests::openai::a_completion"])
        .env("http_proxy", "http://127.0.0.1:1")
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

/// A provider that keeps connections open: what it does with each request, by the number of requests before.
async fn keeping_open(
    play: impl Fn(usize) -> Kept + Send + Sync + 'static,
) -> (Url, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let (play, seen) = (Arc::new(play), Arc::new(AtomicUsize::new(0)));
    let count = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (play, count) = (play.clone(), count.clone());
            tokio::spawn(async move {
                let mut stream = stream;
                while crate::testing::server::request_of(&mut stream).await.is_ok() {
                    match play(count.fetch_add(1, Ordering::SeqCst)) {
                        Kept::Answer(body) => {
                            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                            stream
                                .write_all(format!("{head}{body}").as_bytes())
                                .await
                                .unwrap();
                        }
                        Kept::Close(after, bytes) => {
                            tokio::time::sleep(after).await;
                            stream.write_all(bytes).await.unwrap();
                            return;
                        }
                        Kept::Reset => return stream.set_zero_linger().unwrap(),
                    }
                }
            });
        }
    });
    (url, seen)
}

enum Kept {
    Answer(&'static str),
    /// Writes this after a while, and closes.
    Close(Duration, &'static [u8]),
    Reset,
}

const DECK: &str = r#"{"choices":[{"message":{"content":"{}"}}]}"#;

/// The provider closes an idle connection just as the next call leaves: nothing was processed.
#[tokio::test]
async fn a_call_over_a_connection_that_was_closed_is_sent_once_more() {
    for reset in [false, true] {
        let (url, seen) = keeping_open(move |n| match n {
            1 if reset => Kept::Reset,
            1 => Kept::Close(Duration::ZERO, b""),
            _ => Kept::Answer(DECK),
        })
        .await;
        let clients = clients(&url, PATIENT);
        for _ in 0..3 {
            call(&clients, "chat").await.unwrap();
        }
        assert_eq!(
            seen.load(std::sync::atomic::Ordering::SeqCst),
            4,
            "reset: {reset}"
        );
    }
}

/// Once is enough: a provider that does it again has a fault.
#[tokio::test]
async fn a_call_is_sent_no_more_than_twice() {
    let (url, seen) = keeping_open(|n| match n {
        0 => Kept::Answer(DECK),
        _ => Kept::Close(Duration::ZERO, b""),
    })
    .await;
    let clients = clients(&url, PATIENT);
    call(&clients, "chat").await.unwrap();
    let failure = call(&clients, "chat").await.unwrap_err();
    assert_eq!(
        (failure.class(), failure.is_answer_lost()),
        (FailureClass::Transient, true),
        "{failure}"
    );
    assert_eq!(seen.load(std::sync::atomic::Ordering::SeqCst), 3);
}

/// A connection that closes later, or with something else than an answer: the provider may have worked on the call.
#[tokio::test]
async fn a_call_that_may_have_been_processed_is_not_sent_again() {
    for (after, bytes) in [
        (Duration::from_millis(1_500), b"".as_slice()),
        (Duration::ZERO, b"220 mail.example ESMTP\r\n\r\n"),
    ] {
        let (url, seen) = keeping_open(move |n| match n {
            0 => Kept::Answer(DECK),
            _ => Kept::Close(after, bytes),
        })
        .await;
        let clients = clients(&url, PATIENT);
        call(&clients, "chat").await.unwrap();
        let failure = call(&clients, "chat").await.unwrap_err();
        assert!(failure.is_answer_lost(), "{failure}");
        assert_eq!(seen.load(std::sync::atomic::Ordering::SeqCst), 2, "{after:?}");
    }
}
