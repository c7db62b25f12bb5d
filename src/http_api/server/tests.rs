use axum::{
    body::Bytes,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
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
    let limits = ServerLimits {
        connections,
        per_address: connections,
        reserve: 16,
        head: Duration::from_millis(200),
        answer: Duration::from_millis(400),
        write: Duration::from_millis(200),
    };
    let endless = || async {
        let chunks =
            futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 65_536])));
        axum::body::Body::from_stream(chunks)
    };
    let routes = Router::new()
        .route("/", post(async |body: Bytes| body))
        .route("/health", get(async || "healthy"))
        .route("/endless", get(endless))
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

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

/// Every place is held, one caller with its request unanswered: health is still answered, on a connection of its
/// own that ends after it.
#[tokio::test]
async fn health_is_answered_when_every_place_is_taken() {
    let (address, _stop) = start(2).await;
    let endless = "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut reader = send(address, endless).await;
        reader.read_exact(&mut [0; 12]).await.unwrap();
        readers.push(tokio::spawn(async move {
            let mut sink = vec![0; 65_536];
            while reader.read(&mut sink).await.is_ok_and(|read| read > 0) {}
        }));
    }
    // More callers than the reserve holds: the oldest of them make room.
    let mut waiting = Vec::new();
    for _ in 0..40 {
        waiting.push(send(address, GOOD).await);
    }
    assert!(read(send(address, HEALTH).await).await.ends_with("healthy"));
    for reader in readers {
        assert!(!reader.is_finished(), "readers keep their places");
        reader.abort();
    }
    let last = waiting.pop().unwrap();
    assert!(
        read(last).await.starts_with("HTTP/1.1"),
        "a place has come free, or the wait is over"
    );
}

#[tokio::test]
async fn a_caller_that_does_not_read_is_cut_off() {
    let (address, _stop) = start(1).await;
    let deaf = send(address, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await;
    deaf.readable().await.unwrap();
    // It holds the one place until its write has waited for too long.
    let answered = async { while !read(send(address, GOOD).await).await.ends_with("hi") {} };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .expect("the place comes free");
    drop(deaf);
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
