//! A server that answers each request in a way that was made to harm its client, named by the path, or by the contents
//! (`hostile:<name>:`). Other requests get a deck of flashcards.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use serde_json::json;

pub(super) struct HostileServer {
    pub(super) host: String,
}

impl HostileServer {
    pub(super) fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.unwrap();
                thread::spawn(move || {
                    let _ = serve(socket); // Clients leave, which is what they should do.
                });
            }
        });
        Self { host }
    }
}

/// One request: its head, and a body of its content length.
fn request(socket: &mut TcpStream) -> std::io::Result<String> {
    let (mut read, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let length = socket.read(&mut buffer)?;
        read.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&read).into_owned();
        let body = text.to_ascii_lowercase();
        let Some(head) = body.find("\r\n\r\n") else {
            if length == 0 {
                return Ok(text);
            }
            continue;
        };
        let stated = body[..head].lines().find_map(|line| {
            line.strip_prefix("content-length: ")?
                .trim()
                .parse::<usize>()
                .ok()
        });
        if length == 0 || read.len() >= head + 4 + stated.unwrap_or_default() {
            return Ok(text);
        }
    }
}

fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    let asked = request(&mut socket)?;
    let name = match asked.split_once("hostile:") {
        Some((_, rest)) => rest.split(':').next().unwrap_or_default(),
        None => asked
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .trim_start_matches('/'),
    };
    let ok = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let mut send = |text: &str| socket.write_all(text.as_bytes());
    let body = |text: &str| {
        format!(
            "{ok}content-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        )
    };
    let redirect = |to: &str| {
        format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    };
    match name {
        // Ten megabytes of zeros, of which a client that unpacks makes gigabytes.
        "gzip-bomb" => {
            send(&format!(
                "{ok}content-encoding: gzip, gzip\r\ncontent-length: 1000000\r\n\r\n\u{1f}"
            ))?;
            send(&"\0".repeat(999_999))
        }
        "deflate-lie" => send(&format!(
            "{ok}content-encoding: deflate\r\ncontent-length: 10\r\n\r\n0123456789"
        )),
        "huge-length" => {
            send(&format!("{ok}content-length: 4611686018427387904\r\n\r\n"))?;
            forever(&mut socket, "a".repeat(100_000).as_bytes())
        }
        "endless-length" => send(&format!("{ok}content-length: {}\r\n\r\n", "9".repeat(10_000))),
        "two-lengths" => send(&format!("{ok}content-length: 1\r\ncontent-length: 2\r\n\r\naa")),
        "chunk-extensions" => {
            send(&format!("{ok}transfer-encoding: chunked\r\n\r\n1;x="))?;
            forever(&mut socket, "a".repeat(100_000).as_bytes())
        }
        "trailers" => {
            send(&format!("{ok}transfer-encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\n"))?;
            forever(&mut socket, "x: y\r\n".repeat(10_000).as_bytes())
        }
        "tiny-chunks" => {
            send(&format!("{ok}transfer-encoding: chunked\r\n\r\n"))?;
            loop {
                socket.write_all(b"1\r\na\r\n")?;
                thread::sleep(Duration::from_millis(1));
            }
        }
        "endless-body" => {
            send(&format!("{ok}connection: close\r\n\r\n"))?;
            forever(&mut socket, "a".repeat(100_000).as_bytes())
        }
        "redirect-loop" => send(&redirect("/redirect-loop")),
        "redirect-long" => send(&redirect(&format!("https://example.com/{}", "a".repeat(60_000)))),
        "redirect-inside" => send(&redirect("https://[::ffff:169.254.169.254]/latest")),
        "redirect-scheme" => send(&redirect("file:///etc/passwd")),
        "many-headers" => send(&format!("{ok}{}\r\n", "x: y\r\n".repeat(5_000))),
        "slow-body" => {
            send(&format!("{ok}content-length: 1000000\r\n\r\n"))?;
            loop {
                socket.write_all(b" ")?;
                thread::sleep(Duration::from_millis(20));
            }
        }
        "silence" => {
            thread::sleep(Duration::from_secs(30));
            Ok(())
        }
        "reset" => Ok(()),
        "not-http" => send("220 mail.example ESMTP\r\n"),
        "http2" => send("\0\0\0\u{4}\0\0\0\0\0"),
        _ => send(&body(&answer(name))),
    }
}

fn forever(socket: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    loop {
        socket.write_all(bytes)?;
    }
}

/// An answer of OpenAI, by its name.
fn answer(name: &str) -> String {
    let card = json!({"front": "cell", "back": "The smallest unit of life.", "topic": "t", "difficulty": "beginner"});
    let cards = |count: usize| {
        let cards = vec![card.to_string(); count].join(",");
        format!(r#"{{"flashcards":[{cards}]}}"#)
    };
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let chat = |content: &str| {
        let content = json!(content);
        format!(
            r#"{{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":{content}}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}}}"#
        )
    };
    match name {
        "deep-answer" => nested(100_000),
        "deep-content" => chat(&format!(r#"{{"flashcards":{}}}"#, nested(100_000))),
        "many-cards" => chat(&cards(1_000_000 / 16)),
        "many-choices" => {
            let choice = r#"{"index":0,"message":{"role":"assistant","content":""},"finish_reason":"stop"}"#;
            format!(r#"{{"choices":[{}]}}"#, vec![choice; 80_000].join(","))
        }
        "open-braces" => chat(&"{[".repeat(1_500_000)),
        "open-objects" => chat(&r#"{"front":"#.repeat(400_000)),
        "open-quotes" => chat(&format!("{{\"front\":{}", "\"".repeat(3_000_000))),
        "quotes-and-blanks" => {
            let quotes = format!("{}\u{201d}{}", "\u{201c}".repeat(26), " ".repeat(100_000));
            chat(&format!("{{\"front\":{}", quotes.repeat(60)))
        }
        "fences" => chat(&"```json\n<think>".repeat(400_000)),
        "encoded" => chat(&format!("[{}]", vec![r#""[\"{\""#; 300_000].join(","))),
        "same-card" => chat(&format!(
            "[{}]",
            vec![r#"{"front":"a b c d e f g h i j k l m n o p","back":"b"}"#; 100_000].join(",")
        )),
        "long-strings" => chat(&"a".repeat(7_000_000)),
        "huge-numbers" => {
            chat("x").replace("\"created\":1", &format!("\"created\":{}", "9".repeat(1_000_000)))
        }
        _ => chat(&cards(12)),
    }
}
