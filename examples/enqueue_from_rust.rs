//! Enqueues a job from Rust with the stock `apalis-redis`, and waits for its result:
//! `cargo run --example enqueue_from_rust -- redis://127.0.0.1:6379`.
//!
//! A worker that serves `apalis:ai-jobs` has to run. A task is `{"type": …, "data": …}`; `jobs/schemas` describes the
//! data of every type.

use std::time::Duration;

use anyhow::Context;
use apalis::prelude::{TaskBuilder, TaskId, TaskResult, TaskSink, WaitForCompletion};
use apalis_redis::{Config, RedisStorage};
use serde_json::{Value, json};

const QUEUE: &str = "ai-jobs";
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let connection = apalis_redis::connect(url)
        .await
        .context("Redis cannot be reached")?;
    let mut storage: RedisStorage<Value> =
        RedisStorage::new(connection).with_config(Config::default().queue(QUEUE));

    let task = json!({
        "type": "generate-flashcards",
        "data": {
            "content": "Plants turn light, water and carbon dioxide into sugar and oxygen.",
            "subject": "Biology",
            "topic": "Photosynthesis",
            "userId": "42",
            "nativeLanguage": "Spanish",
            "targetLanguage": "English",
        },
    });
    let id = TaskId::from_string(format!("example-{}", std::process::id()));
    storage
        .push_task(TaskBuilder::new(task).task_id(id.clone()).build())
        .await
        .context("the task cannot be added")?;
    println!("enqueued {id}");

    let ended = async {
        loop {
            let results: Vec<TaskResult<Value>> = storage.clone().check_status([id.clone()]).await?;
            if let Some(result) = results.into_iter().next() {
                return anyhow::Ok(result);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let result = tokio::time::timeout(PATIENCE, ended)
        .await
        .context("no result in time: does a worker serve the queue?")??;
    let deck = result
        .result
        .map_err(|reason| anyhow::anyhow!("the job failed: {reason}"))?;
    println!("{}", serde_json::to_string_pretty(&deck)?);
    Ok(())
}
