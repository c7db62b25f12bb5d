//! Requests of tests to a worker over HTTP.

use serde_json::{Value, json};

use crate::{Worker, eventually};

/// The token of a worker that [`Worker::enqueue`] may ask.
pub const ADMIN_TOKEN: &str = "adm1n-t0ken-of-tests";

/// A payload of `generate-flashcards`, which differs for each `n`.
pub fn cards(n: usize) -> Value {
    json!({ "content": format!("job-{n}"), "subject": "test", "topic": "test", "userId": "test" })
}

impl Worker {
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = reqwest::get(self.url(path)).await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub async fn post(
        &self,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> (reqwest::header::HeaderMap, u16, Value) {
        let mut request = reqwest::Client::new().post(self.url(path)).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        (
            answer.headers().clone(),
            answer.status().as_u16(),
            answer.json().await.unwrap(),
        )
    }

    /// Enqueues a flashcard job over HTTP; its id.
    pub async fn enqueue(&self, n: usize) -> String {
        let (_, code, body) = self
            .post("/api/ai/generate-flashcards", Some(ADMIN_TOKEN), &cards(n))
            .await;
        assert_eq!((code, &body["status"]), (202, &json!("queued")), "{body}");
        body["jobId"].as_str().unwrap().to_owned()
    }

    pub async fn breaker(&self) -> Value {
        self.get("/api/circuit-breakers/status").await.1["circuitBreakers"]["openai"].clone()
    }

    pub async fn until_state(&self, state: &str) -> Value {
        eventually(&format!("openai is {state}"), async || {
            Some(self.breaker().await).filter(|breaker| breaker["state"] == state)
        })
        .await
    }

    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/api/job-status/{id}")).await.1
    }

    pub async fn until_status(&self, id: &str, status: &str) -> Value {
        eventually(&format!("{id} is {status}"), async || {
            Some(self.job(id).await).filter(|job| job["status"] == status)
        })
        .await
    }
}
