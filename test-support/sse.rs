//! A reader of Server-Sent Events.

use std::collections::VecDeque;

use serde_json::Value;

use crate::PATIENCE;

/// An open stream.
pub struct Sse {
    response: reqwest::Response,
    unread: Vec<u8>,
    events: VecDeque<(String, Value)>,
    /// Blocks that were no event.
    pub comments: usize,
}

impl Sse {
    pub async fn open(url: &str) -> Self {
        Self::open_with(url, None).await
    }

    /// With a token, where one is named.
    pub async fn open_with(url: &str, token: Option<&str>) -> Self {
        let request = reqwest::Client::new().get(url);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{url}");
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        Self {
            response,
            unread: Vec::new(),
            events: VecDeque::new(),
            comments: 0,
        }
    }

    /// The next event and its body; `None` at the end of the stream. Comments are passed over.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        let next = async {
            loop {
                if let Some(event) = self.events.pop_front() {
                    return Some(event);
                }
                // A connection that breaks is an end too.
                let chunk = self.response.chunk().await.ok()??;
                self.unread.extend_from_slice(&chunk);
                self.read_blocks();
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an event")
    }

    /// Reads on until a comment has come. Events before it are kept.
    pub async fn until_comment(&mut self) {
        let so_far = self.comments;
        let reading = async {
            while self.comments == so_far {
                let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
                self.unread.extend_from_slice(&chunk);
                self.read_blocks();
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("a comment");
    }

    fn read_blocks(&mut self) {
        while let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
            let block: Vec<u8> = self.unread.drain(..end + 2).collect();
            match event(&String::from_utf8(block).unwrap()) {
                Some(event) => self.events.push_back(event),
                None => self.comments += 1,
            }
        }
    }

    /// Reads on up to the event of this name, and returns its body.
    pub async fn until(&mut self, name: &str) -> Value {
        let mut passed = Vec::new();
        while let Some((event, body)) = self.next().await {
            if event == name {
                return body;
            }
            passed.push(event);
        }
        panic!("the stream ended before {name}, after {passed:?}");
    }

    /// What comes before the end.
    pub async fn rest(&mut self) -> Vec<(String, Value)> {
        let mut rest = Vec::new();
        while let Some(event) = self.next().await {
            rest.push(event);
        }
        rest
    }
}

fn event(block: &str) -> Option<(String, Value)> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
    let name = field("event: ")?.to_owned();
    Some((name, serde_json::from_str(field("data: ")?).unwrap()))
}
