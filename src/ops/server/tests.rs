use axum::{body::Bytes, extract::DefaultBodyLimit, routing::post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A server that is patient for a moment only; its one route echoes a body of at most 1 KB.
async fn start(connections: usize) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits {
        connections,
        head: Duration::from_millis(200),
        answer: Duration::from_millis(200),
    };
    let routes = Router::new()
        .route("/", post(async |body: Bytes| body))
        .layer(DefaultBodyLimit::max(1024));
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, routes, limits, stop.clone()));
    (address, stop)
}

async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    socket
}

/// All that comes until the server hangs up.
async fn read(mut socket: TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut text));
    let _ = read.await.expect("the server hangs up"); // A reset is a way to hang up.
    String::from_utf8_lossy(&text).into_owned()
}

const GOOD: &str = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";

#[tokio::test]
async fn slow_heads_slow_bodies_and_idle_connections_are_cut_off() {
    let (address, _stop) = start(8).await;
    for slow in ["", "POST / HT", "POST / HTTP/1.1\r\nHost: x\r\nX: "] {
        let answer = read(send(address, slow).await).await;
        assert!(!answer.contains("200"), "{slow:?}: {answer}");
    }
    let slow = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhal";
    assert!(read(send(address, slow).await).await.starts_with("HTTP/1.1 408"));
    assert!(
        read(send(address, GOOD).await).await.ends_with("hi"),
        "others are served"
    );
}

/// A slowloris: all places are held by callers that never finish a head. They are cut off, and others get in.
#[tokio::test]
async fn a_slowloris_does_not_keep_others_out() {
    let (address, _stop) = start(4).await;
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(send(address, "POST / HTTP/1.1\r\nX-A: ").await);
    }
    assert!(read(send(address, GOOD).await).await.ends_with("hi"));
    drop(held);
}

#[tokio::test]
async fn large_heads_and_bodies_are_refused() {
    let (address, _stop) = start(8).await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "a".repeat(2 * MAX_HEAD)
    );
    assert!(read(send(address, &head).await).await.starts_with("HTTP/1.1 431"));
    let many = format!("POST / HTTP/1.1\r\n{}\r\n", "X: a\r\n".repeat(200));
    assert!(read(send(address, &many).await).await.starts_with("HTTP/1.1 431"));
    let body = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\nConnection: close\r\n\r\n{}",
        "a".repeat(2000)
    );
    assert!(read(send(address, &body).await).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn a_stop_ends_idle_connections() {
    let (address, stop) = start(8).await;
    let socket = send(address, &GOOD.replace("Connection: close\r\n", "")).await;
    stop.cancel();
    read(socket).await;
}
