//! The dashboard: its page, its stream, and what stands in the way of strangers; at last in a browser.

mod browser;
mod figures;
mod job;
mod strangers;
mod viewers;

use crate::support::{Sse, Worker};

const FLASHCARDS: &str = r#"{"content":"marzipan","subject":"s","topic":"t","userId":"u"}"#;

fn url(worker: &Worker, path: &str) -> String {
    format!("http://localhost:{}{path}", worker.port)
}

async fn stream(worker: &Worker) -> Sse {
    Sse::open(&url(worker, "/api/dashboard/events")).await
}
