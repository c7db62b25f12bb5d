//! Bytes that a server sends before its answer, over real sockets.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

use url::Url;

use super::*;

const EARLY: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";

/// Socket buffers take some megabytes that the client never reads.
const UNREAD: usize = 32 * 1024 * 1024;

fn client() -> HttpClient {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    HttpClient::new("test", ConnectOptions::default()).unwrap()
}

/// A server on a thread of its own, which sends as fast as it can: `first`, then `rest` until the client leaves, or
/// sixteen times what socket buffers may take. It returns how many bytes it has sent.
fn server(first: &str, rest: &str) -> (Url, JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let (first, rest) = (first.to_owned(), rest.repeat(1_000));
    let sends = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.read(&mut [0; 1_024]).unwrap();
        let send = |socket: &mut TcpStream, bytes: &[u8]| socket.write_all(bytes).map(|()| bytes.len());
        let mut sent = send(&mut socket, first.as_bytes()).unwrap();
        while !rest.is_empty() && sent < 16 * UNREAD {
            match send(&mut socket, rest.as_bytes()) {
                Ok(more) => sent += more,
                Err(_) => break,
            }
        }
        sent
    });
    (url, sends)
}

async fn get(url: Url) -> Result<Response, RequestError> {
    client().execute(Request::new(reqwest::Method::GET, url)).await
}

#[tokio::test]
async fn informational_responses_without_end_are_given_up() {
    let (url, sends) = server("", EARLY);
    let error = get(url).await.unwrap_err();
    assert!(matches!(error, RequestError::Flooded), "{error:?}");
    assert!(!error.is_connect());
    // The connection's task closes it once it is polled again.
    let sent = tokio::task::spawn_blocking(|| sends.join().unwrap())
        .await
        .unwrap();
    assert!(sent < UNREAD, "{sent} bytes were sent");
}

#[tokio::test]
async fn a_head_without_end_is_given_up() {
    for rest in ["a", "x: y\r\n"] {
        let (url, sends) = server("HTTP/1.1 200 OK\r\nx: ", rest);
        let error = get(url).await.unwrap_err();
        assert!(matches!(error, RequestError::Broken(_)), "{error:?}");
        let sent = tokio::task::spawn_blocking(|| sends.join().unwrap())
            .await
            .unwrap();
        assert!(sent < UNREAD, "{sent} bytes were sent");
    }
}

#[tokio::test]
async fn some_informational_responses_are_no_fault() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    let (url, sends) = server(&format!("{}{answer}", EARLY.repeat(MAX_INFORMATIONAL)), "");
    let answer = get(url).await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "hello");
    sends.join().unwrap();
}

/// Heads count even if each arrives alone and within the time of the request.
#[tokio::test]
async fn informational_responses_are_counted_however_slow_they_are() {
    use crate::testing::server::{Play, Server};
    let drip = vec![EARLY.as_bytes().to_vec(); MAX_INFORMATIONAL + 1];
    let server = Server::start(Play::Drip(drip, Duration::from_millis(10))).await;
    let error = get(server.url.clone()).await.unwrap_err();
    assert!(matches!(error, RequestError::Flooded), "{error:?}");
}

/// A server that speaks HTTP/2 unasked gets no more of the worker's time than any other bad answer.
#[tokio::test]
async fn http2_is_not_spoken() {
    let settings = "\0\0\0\u{4}\0\0\0\0\0";
    let (url, sends) = server(settings, settings);
    let error = get(url).await.unwrap_err();
    assert!(matches!(error, RequestError::Broken(_)), "{error:?}");
    let sent = tokio::task::spawn_blocking(|| sends.join().unwrap())
        .await
        .unwrap();
    assert!(sent < UNREAD, "{sent} bytes were sent");
}
