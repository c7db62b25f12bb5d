//! Entries that come together are written together.

use std::{sync::LazyLock, time::Duration};

use redis::{FromRedisValue, RedisError, Script};
use tracing::warn;

use crate::{
    batch::{Batch, Bounds},
    connection::Connection,
    deadline::answered_within,
};

/// How long a call waits for its ledger, at most: then it is made without.
pub(super) const DEADLINE: Duration = Duration::from_millis(250);
/// Entries that one script writes at most.
const MOST: Bounds = Bounds {
    calls: 1,
    requests: 64,
    partial: 64,
    bytes: 1024 * 1024,
};

/// A write into an entry of a page: a mark, or an answer.
struct Writing {
    page: String,
    field: String,
    text: String,
}

/// Writings that travel together.
#[derive(Debug)]
pub(super) struct Writings<T>(Batch<Writing, Option<T>>);

impl<T: FromRedisValue + Clone + Send + 'static> Writings<T> {
    /// Writings by `script`, into pages that outlive their last entry by `keep_for`.
    pub(super) fn new(
        script: &'static LazyLock<Script>,
        connection: &Connection,
        keep_for: Duration,
    ) -> Self {
        let connection = connection.clone();
        let keep_ms = u64::try_from(keep_for.as_millis()).unwrap_or(u64::MAX / 4);
        Self(Batch::new(
            MOST,
            |writing: &Writing| writing.text.len(),
            move |writings: Vec<Writing>| {
                let connection = connection.clone();
                async move {
                    let mut call = script.prepare_invoke();
                    call.arg(keep_ms);
                    for Writing { page, field, text } in &writings {
                        call.key(page).arg(field).arg(text);
                    }
                    // A call that outlasts its askers' patience must not keep those who come after it waiting.
                    let warned = |error: &RedisError| warn!(%error, "the ledger is not written");
                    let answers = async { connection.invoke(&call).await.inspect_err(warned).ok() };
                    in_time(answers)
                        .await
                        .unwrap_or_else(|| vec![None; writings.len()])
                }
            },
        ))
    }

    /// Writes an entry; `None` when it could not be written.
    pub(super) async fn write(&self, page: &str, field: &str, text: String) -> Option<T> {
        let writing = Writing {
            page: page.to_owned(),
            field: field.to_owned(),
            text,
        };
        let answer = answered_within(DEADLINE, self.0.ask(writing)).await;
        answer.ok().flatten().flatten()
    }
}

/// Awaits the answer of a call to Redis, within the time that the provider's call may wait.
pub(super) async fn in_time<T>(answer: impl Future<Output = Option<T>>) -> Option<T> {
    let answered = answered_within(DEADLINE, answer).await;
    answered.unwrap_or_else(|_elapsed| {
        warn!("the ledger is not written: no answer in time");
        None
    })
}
