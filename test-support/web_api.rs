//! The web API's own use of BullMQ: a Node process that speaks HTTP, see `tests/node/web-api.mjs`.

use serde_json::Value;
use tokio::process::{Child, ChildStdin};

use crate::{
    PATIENCE, Sse, TestRedis,
    driver::{self, script},
    eventually,
};

/// A running web API; it ends with its standard input.
pub struct WebApi {
    url: String,
    _stdin: ChildStdin,
    _process: Child,
}

impl WebApi {
    /// `backoff` is what its jobs wait between two attempts, ms.
    pub async fn start(redis: &TestRedis, backoff: u32) -> Self {
        let mut command = script("web-api.mjs");
        command
            .arg(redis.server.port().to_string())
            .env("BACKOFF", backoff.to_string())
            .kill_on_drop(true);
        let (process, stdin, mut lines) = driver::start(&mut command);
        let port = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let port = port.expect("the web API starts").unwrap().expect("its port");
        Self {
            url: format!("http://127.0.0.1:{port}"),
            _stdin: stdin,
            _process: process,
        }
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Asks for flashcards.
    pub async fn generate(&self, data: &Value) -> (u16, Value) {
        let request = reqwest::Client::new().post(format!("{}/api/ai/generate-flashcards", self.url));
        let answer = request.json(data).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Requests flashcards for the first time, and returns the job's id.
    pub async fn enqueue(&self, data: &Value) -> String {
        let (code, body) = self.generate(data).await;
        assert_eq!(code, 202, "{body}");
        body["jobId"].as_str().unwrap().to_owned()
    }

    /// Follows a job with BullMQ's `QueueEvents`.
    pub async fn events(&self, id: &str) -> Sse {
        let mut events = Sse::open(&format!("{}/api/job-events?jobId={id}", self.url)).await;
        events.until("connected").await;
        events
    }

    /// Polls a job until it is in this state.
    pub async fn until(&self, id: &str, status: &str) -> Value {
        eventually(&format!("the web API sees {id} {status}"), async || {
            let (_, job) = self.get(&format!("/api/job-status/{id}")).await;
            (job["status"] == status).then_some(job)
        })
        .await
    }
}
