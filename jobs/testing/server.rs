//! A stand-in for a provider or a media host on a real socket: plays a part for each connection, and keeps what it
//! was sent.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use url::Url;

/// The handling of a request, once it is read.
#[derive(Clone)]
pub(crate) enum Play {
    /// Write this and close.
    Write(Vec<u8>),
    /// Write these, with a pause before each, and close.
    Drip(Vec<Vec<u8>>, Duration),
    /// Write this and reset the connection.
    Reset(Vec<u8>),
    /// Write this, then nothing until the client leaves.
    Hang(Vec<u8>),
}

impl Play {
    /// A whole answer.
    pub(crate) fn answer(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = head(status, headers, body.len());
        bytes.extend_from_slice(body);
        Self::Write(bytes)
    }
}

/// The head of an answer of so many bytes; `headers` are whole lines, each with its end.
pub(crate) fn head(status: u16, headers: &str, length: usize) -> Vec<u8> {
    format!("HTTP/1.1 {status} Status\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n")
        .into()
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Method and target.
    pub(crate) line: String,
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }
}

/// Runs until it is dropped.
pub(crate) struct Server {
    pub(crate) url: Url,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Plays the same part for every connection.
    pub(crate) async fn start(play: Play) -> Self {
        Self::answering(move |_| play.clone()).await
    }

    /// Plays the part that is chosen by the request.
    pub(crate) async fn answering(choose: impl Fn(&Request) -> Play + Send + Sync + 'static) -> Self {
        let choose: Arc<Choose> = Arc::new(choose);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // The client may leave at any point: that is what some of the tests are about.
                tokio::spawn(serve(stream, Arc::clone(&choose), Arc::clone(&seen)));
            }
        });
        Self { url, requests, task }
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The one request that there must have been.
    pub(crate) fn only_request(&self) -> Request {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests[0].clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Choose = dyn Fn(&Request) -> Play + Send + Sync;

async fn serve(
    mut stream: TcpStream,
    choose: Arc<Choose>,
    requests: Arc<Mutex<Vec<Request>>>,
) -> io::Result<()> {
    let request = read(&mut stream).await?;
    let play = choose(&request);
    requests.lock().unwrap().push(request);
    match play {
        Play::Write(bytes) => stream.write_all(&bytes).await?,
        Play::Drip(parts, pause) => {
            for part in parts {
                tokio::time::sleep(pause).await;
                stream.write_all(&part).await?;
            }
        }
        Play::Reset(bytes) => {
            stream.write_all(&bytes).await?;
            return stream.set_zero_linger();
        }
        Play::Hang(bytes) => {
            stream.write_all(&bytes).await?;
            stream.read_u8().await?;
        }
    }
    stream.shutdown().await
}

/// Reads one request.
pub(crate) async fn request_of(stream: &mut TcpStream) -> io::Result<Request> {
    read(stream).await
}

async fn read(stream: &mut TcpStream) -> io::Result<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let line = head
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches(" HTTP/1.1")
        .to_owned();
    let mut request = Request {
        line,
        head,
        body: bytes.split_off(end + 4),
    };
    let length = request.header("content-length").map_or(0, |n| n.parse().unwrap());
    let mut rest = vec![0; length - request.body.len()];
    stream.read_exact(&mut rest).await?;
    request.body.append(&mut rest);
    Ok(request)
}
