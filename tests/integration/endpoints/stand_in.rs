//! A stand-in for an endpoint that is compatible with OpenAI, over plain sockets: it decides about each byte.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) target: String,
    /// Its head in lower case, values as they are.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Value,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        let named = self.headers.iter().find(|(own, _)| own == name);
        named.map_or("", |(_, value)| value)
    }
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) media_type: &'static str,
    pub(crate) body: String,
    /// It comes in chunks; otherwise it ends with the connection.
    pub(crate) is_chunked: bool,
}

impl Answer {
    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self {
            status,
            media_type: "application/json",
            body: body.to_owned(),
            is_chunked: true,
        }
    }

    pub(crate) fn events(body: String) -> Self {
        Self {
            status: 200,
            media_type: "text/event-stream; charset=utf-8",
            body,
            is_chunked: true,
        }
    }
}

type Answerer = dyn Fn(&Request, usize) -> Answer + Send + Sync;

/// Answers requests until it is dropped.
pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl StandIn {
    /// `answer` gets each request for a completion, and how many came before it.
    pub(crate) async fn answering(
        answer: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (seen, answer): (_, Arc<Answerer>) = (requests.clone(), Arc::new(answer));
        let server = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, seen.clone(), answer.clone()));
            }
        });
        Self {
            address,
            requests,
            server,
        }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(mut socket: TcpStream, seen: Arc<Mutex<Vec<Request>>>, answer: Arc<Answerer>) {
    socket.set_nodelay(true).unwrap();
    let mut input = Vec::new();
    while let Some(request) = read(&mut socket, &mut input).await {
        let answer = match request.target.contains("/chat/completions") {
            true => {
                let before = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(request.clone());
                    seen.len() - 1
                };
                answer(&request, before)
            }
            // The list of models, say.
            false => Answer::json(404, r#"{"error":{"message":"Not Found"}}"#),
        };
        if write(&mut socket, &answer).await.is_err() || !answer.is_chunked {
            return;
        }
    }
}

async fn read(socket: &mut TcpStream, input: &mut Vec<u8>) -> Option<Request> {
    loop {
        let text = String::from_utf8_lossy(input);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let target = lines.next()?.split(' ').nth(1)?.to_owned();
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
                .collect();
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
            let (begin, end) = (head.len() + 4, head.len() + 4 + length);
            if input.len() >= end {
                let body = serde_json::from_slice(&input[begin..end]).unwrap_or_default();
                drop(text);
                input.drain(..end);
                return Some(Request {
                    target,
                    headers,
                    body,
                });
            }
        }
        drop(text);
        if socket.read_buf(input).await.ok()? == 0 {
            return None;
        }
    }
}

/// Writes the body in pieces of several sizes, which cut lines, events and characters.
async fn write(socket: &mut TcpStream, answer: &Answer) -> std::io::Result<()> {
    let Answer {
        status, media_type, ..
    } = answer;
    let framing = match answer.is_chunked {
        true => "Transfer-Encoding: chunked",
        false => "Connection: close",
    };
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\n{framing}\r\n\r\n");
    socket.write_all(head.as_bytes()).await?;
    let mut rest = answer.body.as_bytes();
    for size in [1, 2, 3, 5, 211, 47, 1999, 17].into_iter().cycle() {
        let (piece, behind) = rest.split_at(rest.len().min(size));
        if piece.is_empty() {
            break;
        }
        rest = behind;
        let piece = match answer.is_chunked {
            true => [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat(),
            false => piece.to_vec(),
        };
        socket.write_all(&piece).await?;
        // The worker sees some of the cuts.
        tokio::task::yield_now().await;
    }
    if answer.is_chunked {
        socket.write_all(b"0\r\n\r\n").await?;
    }
    socket.flush().await
}
