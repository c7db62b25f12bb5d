//! Reads why a server closes connections.
//!
//! At `maxclients` Redis writes its refusal and closes the socket at once. The client has sent its greeting by then, so
//! the socket is reset, and the client reports a broken pipe instead. A connection that sends nothing gets the words.

use std::{
    io,
    time::{Duration, Instant},
};

use redis::{Client, ConnectionAddr, RedisError};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::Mutex, time::timeout};

/// How long a server may take to say why it closes a connection. One that accepts it says nothing.
const LONGEST_WAIT: Duration = Duration::from_millis(250);
/// How long an answer is used for the failures that follow.
const KEPT: Duration = Duration::from_secs(1);
/// Bytes of a refusal that are read.
const MOST_BYTES: u64 = 256;

/// The last refusal of a server, for all callers.
#[derive(Debug, Default)]
pub(super) struct RefusalReader(Mutex<Option<(Instant, Option<String>)>>);

impl RefusalReader {
    /// The error with the server's own words, if the server has closed the connection and says why. It remains an error
    /// without an answer: whether the call was carried out before, nothing tells.
    pub(super) async fn explain(&self, error: RedisError, client: &Client) -> RedisError {
        if !error.is_connection_dropped() {
            return error;
        }
        // TLS servers close without a word.
        let ConnectionAddr::Tcp(host, port) = client.get_connection_info().addr() else {
            return error;
        };
        let mut last = self.0.lock().await;
        let known = last.as_ref().filter(|(at, _)| at.elapsed() < KEPT);
        let words = match known {
            Some((_, words)) => words.clone(),
            None => {
                let words = timeout(LONGEST_WAIT, first_words(host, *port))
                    .await
                    .ok()
                    .flatten();
                *last = Some((Instant::now(), words.clone()));
                words
            }
        };
        words.map_or(error, |words| {
            let text = format!("Redis closes the connection: {words}");
            io::Error::new(io::ErrorKind::ConnectionReset, text).into()
        })
    }
}

/// The error that a server writes before it is asked for anything.
async fn first_words(host: &str, port: u16) -> Option<String> {
    let mut words = Vec::new();
    let mut stream = TcpStream::connect((host, port)).await.ok()?.take(MOST_BYTES);
    // The server closes; a reset behind the words does no harm.
    let _ = stream.read_to_end(&mut words).await;
    let line = words.strip_prefix(b"-")?.split(|byte| *byte == b'\r').next()?;
    let text = String::from_utf8_lossy(line);
    Some(text.chars().filter(|c| !c.is_control()).collect())
}
