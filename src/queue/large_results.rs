//! Completes a job whose result is too large for a script.
//!
//! A script copies each of its arguments several times, and blocks all clients of Redis for that time
//! (docs/adr/0030-large-results-in-transactions.md). So plain commands put such a result in its place, with the claim's token beside it, and the script that completes the
//! job finds it there. The other copies of the result (an event, the entry of equal jobs, a parent's results) are written
//! by plain commands in the transaction that runs the script. WATCH on the job's hash fences both steps: they do nothing
//! if another claim has taken the job.

use redis::{Pipeline, RedisError, Script, ScriptInvocation, Value};

use super::{Answered, BrokerError, Completion, INLINE_BYTES, WriteResult, batch_replies};
use crate::connection::Connection;

/// Rounds of WATCH and transaction, after which the write counts as failed.
const TRIES: usize = 10;

/// A completion that is written in two transactions.
pub(super) struct LargeCompletion<'a> {
    /// The job's hash.
    pub(super) job: String,
    /// Reads the claim's standing and what `finish` needs, as a [`LargeResultState`].
    pub(super) look: ScriptInvocation<'a>,
    /// Puts the result in its place: a transaction.
    pub(super) place: Pipeline,
    /// The script that `finish` calls by its hash.
    pub(super) script: &'a Script,
    /// Completes the job: a transaction, whose only answer is that of the script.
    pub(super) finish: &'a (dyn Fn(&LargeResultState) -> Pipeline + Sync),
    /// Reads the script's answer.
    pub(super) settled: fn(Value) -> Result<WriteResult, BrokerError>,
}

/// The part of `large_result.lua`'s answer that `finish` needs. Empty keys stand for missing ones.
///
/// `cache` is the key of the web API's entry, `parent` the key of the parent's results, `events` the length of the event
/// stream, `now` the time in ms.
#[derive(Debug)]
pub(super) struct LargeResultState {
    pub(super) cache: String,
    pub(super) parent: String,
    pub(super) events: String,
    pub(super) now: String,
}

/// The answer of `large_result.lua`: 1 held, 0 lost, 2 written before; true if the result is in its place; then the fields of
/// [`LargeResultState`].
type StateReply = (u8, bool, String, String, String, String);

impl LargeCompletion<'_> {
    /// Writes the completion.
    pub(super) async fn write(&self, connection: &Connection) -> Result<WriteResult, BrokerError> {
        let mut socket = connection.transactions().await?;
        self.script.load_async(&mut socket).await?;
        for _ in 0..TRIES {
            redis::cmd("WATCH").arg(&self.job).exec_async(&mut socket).await?;
            let (standing, is_placed, cache, parent, events, now): StateReply =
                self.look.invoke_async(&mut socket).await?;
            match (standing, is_placed) {
                (0, _) => return Ok(WriteResult::Lost),
                (2, _) => return Ok(WriteResult::Applied),
                (_, false) => {
                    self.place.query_async::<Option<()>>(&mut socket).await?;
                }
                (_, true) => {
                    let state = LargeResultState {
                        cache,
                        parent,
                        events,
                        now,
                    };
                    let finish = (self.finish)(&state);
                    if let Some((answer,)) = finish.query_async::<Option<(Value,)>>(&mut socket).await? {
                        return (self.settled)(answer);
                    }
                }
            }
        }
        let changes = std::io::Error::other("the job's hash changes while its result is written");
        Err(BrokerError::Redis(changes.into()))
    }
}

/// Large completions of a batch that are written side by side. Each has a socket of its own.
pub(super) const AT_ONCE: usize = 4;

/// The results of a batch in the order of its completions, from those of the small and of the large ones.
pub(super) fn in_order(
    completions: &[Completion],
    of_small: Vec<Result<WriteResult, BrokerError>>,
    of_large: Vec<Result<WriteResult, BrokerError>>,
) -> Vec<Result<WriteResult, BrokerError>> {
    let (mut of_small, mut of_large) = (of_small.into_iter(), of_large.into_iter());
    let next = |completion| match is_large(completion) {
        true => of_large.next(),
        false => of_small.next(),
    };
    let results = completions.iter().map(next);
    results
        .map(|result| result.unwrap_or_else(|| Err(batch_replies::too_few().into())))
        .collect()
}

/// Returns true if a result must not pass a script.
pub(super) fn is_large(completion: &Completion) -> bool {
    completion.result.len() > INLINE_BYTES
}

/// Returns true if Redis or the user's rights exclude transactions. The result passes the script then.
pub(super) fn lacks_transactions(error: &BrokerError) -> bool {
    let BrokerError::Redis(error) = error else {
        return false;
    };
    error.code() == Some("NOPERM") || is_unknown_command(error)
}

fn is_unknown_command(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|detail| detail.starts_with("unknown command"))
}

/// Adds the entry under which equal jobs and the web API find the result, if the job has one.
pub(super) fn keep_for_equals(pipeline: &mut Pipeline, completion: &Completion, state: &LargeResultState) {
    let (key, keep_ms) = match &completion.equal {
        Some((equal, Answered::New)) => (&*equal.result_key, super::millis(equal.keep_for).max(1)),
        Some((_, Answered::Reused)) => return,
        _ if state.cache.is_empty() => return,
        _ => (&*state.cache, 86_400_000),
    };
    let id = serde_json::Value::from(&*completion.lease.id);
    let entry = format!(
        r#"{{"jobId":{id},"result":{},"cachedAt":{}}}"#,
        completion.result, state.now
    );
    pipeline
        .cmd("SET")
        .arg(key)
        .arg(entry)
        .arg("PX")
        .arg(keep_ms)
        .ignore();
}
