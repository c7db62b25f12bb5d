//! The rules of a URL, against a real server on the loopback interface.

use std::sync::{
    Once,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::FailureClass;

fn fetcher(allowed: &[&str]) -> MediaFetcher {
    static CRYPTO: Once = Once::new();
    CRYPTO.call_once(|| {
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    MediaFetcher::new(&MediaSettings {
        uploads_dir: None,
        allowed_hosts: allowed.iter().map(|&host| host.to_owned()).collect(),
        max_bytes: 1_000,
        timeout: Duration::from_secs(20),
    })
    .unwrap()
}

/// A server that sends the same bytes to everyone and keeps the connection open behind them.
struct Server {
    host: String,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, answer)
    }

    fn serve(listener: TcpListener, answer: impl Into<Vec<u8>>) -> Self {
        let host = listener.local_addr().unwrap().to_string();
        let (requests, answer) = (Arc::new(AtomicUsize::new(0)), answer.into());
        let counter = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let (answer, counter) = (answer.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    let mut buffer = [0; 1_024];
                    while socket.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        counter.fetch_add(1, Ordering::SeqCst);
                        if socket.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { host, requests }
    }

    fn url(&self, rest: &str) -> String {
        format!("http://{}{rest}", self.host)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn redirect_to(target: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n")
}

async fn failure(fetcher: &MediaFetcher, url: &str, class: FailureClass) -> String {
    let failure = fetcher.get("images[2].imageUrl", url).await.expect_err(url);
    assert_eq!(failure.class(), class, "{url}: {failure}");
    let text = failure.to_string();
    assert!(
        text.starts_with("payload field \"images[2].imageUrl\": "),
        "{text}"
    );
    text
}

#[tokio::test]
async fn an_allowed_host_is_fetched_over_http_and_at_a_private_address() {
    let server = Server::start(answer("200 OK", "hello")).await;
    assert_eq!(
        fetcher(&[&server.host])
            .get("f", &server.url("/a?b"))
            .await
            .unwrap(),
        b"hello"
    );
    assert_eq!(
        fetcher(&["127.0.0.1"]).get("f", &server.url("/")).await.unwrap(),
        b"hello"
    );
    let by_name = server.url("/").replace("127.0.0.1", "LocalHost");
    assert_eq!(
        fetcher(&["localhost"]).get("f", &by_name).await.unwrap(),
        b"hello"
    );
    assert_eq!(server.requests(), 3);
    // The same host at another port, and the same port at another host, are not allowed.
    failure(
        &fetcher(&["127.0.0.1:1"]),
        &server.url("/"),
        FailureClass::Permanent,
    )
    .await;
    failure(
        &fetcher(&["localhost"]),
        &server.url("/"),
        FailureClass::Permanent,
    )
    .await;
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn a_forbidden_url_is_refused_before_anything_is_sent() {
    let server = Server::start(answer("200 OK", "secret")).await;
    let port = server.host.rsplit(':').next().unwrap();
    let fetcher = fetcher(&["allowed.example"]);
    for url in [
        "",
        "nonsense",
        "/relative",
        "https://",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "data:text/plain,hello",
        "gopher://127.0.0.1/",
        "http://example.com/a",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://:password@example.com/",
        "http://user@allowed.example/",
        "ftp://allowed.example/",
        "https://0/",
        "https://0.0.0.0/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://017700000001/",
        "https://127.0.0.1./",
        "https://①②⑦.0.0.1/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.0.1/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://168.63.129.16/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://192.0.2.1/",
        "https://[::]/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1]/",
        "https://[2001:db8::1]/",
        "https://[ff02::1]/",
        "https://localhost/",
        "https://8.8.8.8:6379/",
        "https://[2606:4700::1111]:8443/",
    ] {
        failure(&fetcher, url, FailureClass::Permanent).await;
    }
    // Names are judged by what they resolve to, and nothing connects.
    let why = failure(
        &fetcher,
        &format!("https://localhost:{port}/"),
        FailureClass::Permanent,
    )
    .await;
    assert!(why.ends_with("leads to a private or reserved address"), "{why}");
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_redirect_is_judged_like_the_first_url() {
    let inside = Server::start(answer("200 OK", "secret")).await;
    let port = inside.host.rsplit(':').next().unwrap();
    for target in [
        inside.url("/"),
        format!("https://{}/", inside.host),
        format!("https://localhost:{port}/"),
        "https://169.254.169.254/latest/meta-data/".to_owned(),
        "//[::1]/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "https://user:password@example.com/".to_owned(),
        "http://".to_owned(),
    ] {
        let outside = Server::start(redirect_to(&target)).await;
        failure(
            &fetcher(&[&outside.host]),
            &outside.url("/"),
            FailureClass::Permanent,
        )
        .await;
        assert_eq!((outside.requests(), inside.requests()), (1, 0), "{target}");
    }
    let nowhere = Server::start("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await;
    failure(
        &fetcher(&[&nowhere.host]),
        &nowhere.url("/"),
        FailureClass::Permanent,
    )
    .await;
}

#[tokio::test]
async fn redirects_are_followed_five_times() {
    let end = Server::start(answer("200 OK", "hello")).await;
    let start = Server::start(redirect_to(&end.url("/b"))).await;
    let both = fetcher(&[&start.host, &end.host]);
    assert_eq!(both.get("f", &start.url("/a")).await.unwrap(), b"hello");

    let circle = Server::start(redirect_to("/again")).await;
    let why = failure(
        &fetcher(&[&circle.host]),
        &circle.url("/"),
        FailureClass::Permanent,
    )
    .await;
    assert!(why.ends_with("is redirected more than 5 times"), "{why}");
    assert_eq!(circle.requests(), 6);
}

#[tokio::test]
async fn a_status_says_whether_to_try_again() {
    for (status, class) in [
        ("304 Not Modified", FailureClass::Permanent),
        ("400 Bad Request", FailureClass::Permanent),
        ("401 Unauthorized", FailureClass::Permanent),
        ("403 Forbidden", FailureClass::Permanent),
        ("404 Not Found", FailureClass::Permanent),
        ("410 Gone", FailureClass::Permanent),
        ("408 Request Timeout", FailureClass::Transient),
        ("425 Too Early", FailureClass::Transient),
        ("429 Too Many Requests", FailureClass::Transient),
        ("500 Internal Server Error", FailureClass::Transient),
        ("503 Service Unavailable", FailureClass::Transient),
    ] {
        let server = Server::start(answer(status, "")).await;
        let why = failure(&fetcher(&[&server.host]), &server.url("/a"), class).await;
        assert!(why.contains(&status[..3]), "{why}");
        assert_eq!(server.requests(), 1, "{status} is not retried here");
    }
}

#[tokio::test]
async fn too_large_is_refused_by_its_header_or_as_it_comes() {
    let stated = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n").await;
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    // Neither body ends, so only a reader that stops by itself gets away.
    let unstated = Server::start(format!("{head}{chunk}{chunk}{chunk}")).await;
    for server in [stated, unstated] {
        let why = failure(
            &fetcher(&[&server.host]),
            &server.url("/"),
            FailureClass::Permanent,
        )
        .await;
        assert!(why.ends_with("is larger than 1000 bytes"), "{why}");
    }
    let most = Server::start(format!("{head}{chunk}{chunk}0\r\n\r\n")).await;
    assert_eq!(
        fetcher(&[&most.host])
            .get("f", &most.url("/"))
            .await
            .unwrap()
            .len(),
        1_000
    );
}

#[tokio::test]
async fn what_is_slow_cut_off_or_away_may_be_tried_again() {
    let silent = Server::start("").await;
    let stalled = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal").await;
    for server in [silent, stalled] {
        let mut fetcher = fetcher(&[&server.host]);
        fetcher.timeout = Duration::from_millis(300);
        let why = failure(&fetcher, &server.url("/"), FailureClass::Transient).await;
        assert!(why.ends_with("took longer than 300ms to load"), "{why}");
    }

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let cut = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 1_024]).await.unwrap();
        socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal")
            .await
            .unwrap();
    });
    failure(
        &fetcher(&[&host]),
        &format!("http://{host}/"),
        FailureClass::Transient,
    )
    .await;
    cut.await.unwrap();
    // The listener is closed.
    let why = failure(
        &fetcher(&[&host]),
        &format!("http://{host}/a"),
        FailureClass::Transient,
    )
    .await;
    assert!(
        why.contains(&format!("http://{host}/a cannot be fetched")),
        "{why}"
    );
}

#[tokio::test]
async fn a_name_that_does_not_resolve_may_be_tried_again() {
    failure(
        &fetcher(&[]),
        "https://no-such-host.invalid/a",
        FailureClass::Transient,
    )
    .await;
}

#[tokio::test]
async fn secrets_of_a_url_stay_out_of_every_message() {
    let server = Server::start(answer("403 Forbidden", "")).await;
    let hop = Server::start(redirect_to(&server.url("/b?sig=SECRET"))).await;
    let both = fetcher(&[&server.host, &hop.host]);
    let closed = fetcher(&["127.0.0.1:1"]);
    let mut hasty = fetcher(&[&server.host]);
    hasty.timeout = Duration::ZERO;
    for (fetcher, url) in [
        (&both, server.url("/a?sig=SECRET#SECRET")),
        (&both, hop.url("/a?sig=SECRET")),
        (&both, "http://user:SECRET@127.0.0.1/".to_owned()),
        (&both, "https://10.0.0.1/?sig=SECRET".to_owned()),
        (&both, "https://localhost/?sig=SECRET".to_owned()),
        (&both, "https://[SECRET".to_owned()),
        (&closed, "http://127.0.0.1:1/a?sig=SECRET".to_owned()),
        (&hasty, server.url("/a?sig=SECRET")),
    ] {
        let failure = fetcher.get("f", &url).await.unwrap_err();
        let text = format!("{failure} {failure:?}");
        assert!(!text.contains("SECRET"), "{text}");
    }
}

/// No decompression bomb: what a server calls compressed stays as it was sent, and counts as such.
#[tokio::test]
async fn a_compressed_answer_is_not_unpacked() {
    let body = "\u{1f}not unpacked";
    let head = format!("content-encoding: gzip\r\ncontent-length: {}", body.len());
    let server = Server::start(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}")).await;
    let bytes = fetcher(&[&server.host]).get("f", &server.url("/")).await.unwrap();
    assert_eq!(&bytes[..], body.as_bytes());
}
