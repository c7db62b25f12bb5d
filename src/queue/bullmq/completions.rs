//! Jobs that have ended well, written together: most jobs do, and what they cost beside their work is this call.

use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use super::{BrokerError, BrokerOptions, Lease, Settled, millis, scripts};
use crate::{
    batch::{Batch, Load},
    connection::Connection,
    keys::BullKeys,
};

/// As much as Redis does in a few hundred microseconds, and writes into its journal at once.
const MOST: Load = Load {
    requests: 64,
    bytes: 1024 * 1024,
};

struct Completion {
    lease: Lease,
    result: String,
}

/// Writes the completions of one queue.
#[derive(Debug)]
pub(super) struct Completions(Batch<Completion, Result<Settled, RedisError>>);

impl Completions {
    pub(super) fn new(connection: Connection, keys: &BullKeys, options: BrokerOptions) -> Self {
        let prefix = keys.prefix.clone();
        let weigh = |completion: &Completion| completion.result.len();
        Self(Batch::new(MOST, weigh, move |completions| {
            let (connection, prefix) = (connection.clone(), prefix.clone());
            async move { write(&connection, &prefix, options, &completions).await }
        }))
    }

    /// Ends a job well. `result` is JSON.
    pub(super) async fn write(&self, lease: &Lease, result: &str) -> Result<Settled, BrokerError> {
        let completion = Completion {
            lease: lease.clone(),
            result: result.to_owned(),
        };
        let died = || (ErrorKind::Client, "the completion's call died").into();
        let settled: Result<Settled, RedisError> =
            self.0.ask(completion).await.unwrap_or_else(|| Err(died()));
        Ok(settled?)
    }
}

async fn write(
    connection: &Connection,
    prefix: &str,
    options: BrokerOptions,
    completions: &[Completion],
) -> Vec<Result<Settled, RedisError>> {
    let mut settled = Vec::with_capacity(completions.len());
    while settled.len() < completions.len() {
        let left = &completions[settled.len()..];
        let mut call = scripts::COMPLETE.prepare_invoke();
        call.key(prefix)
            .arg(millis(options.keep_completed_for))
            .arg(options.keep_completed_count);
        for Completion { lease, result } in left {
            call.arg(&*lease.id).arg(&*lease.token).arg(result);
        }
        let error = match connection.invoke::<Vec<Value>>(&call).await {
            Ok(answers) if (1..=left.len()).contains(&answers.len()) => {
                settled.extend(answers.into_iter().map(read));
                continue;
            }
            Ok(_) => (ErrorKind::UnexpectedReturnType, "not an answer for each job").into(),
            Err(error) => error,
        };
        settled.extend(vec![Err(error); left.len()]);
    }
    settled
}

/// What the script says of one job.
fn read(answer: Value) -> Result<Settled, RedisError> {
    match answer {
        Value::Int(1) => Ok(Settled::Applied),
        Value::Int(0) => Ok(Settled::Lost),
        Value::BulkString(text) => Err(refused(&String::from_utf8_lossy(&text))),
        _ => Err((
            ErrorKind::UnexpectedReturnType,
            "neither applied, nor lost, nor refused",
        )
            .into()),
    }
}

/// The error that Redis raised inside of the script, as if the job had travelled alone.
fn refused(text: &str) -> RedisError {
    match text.split_once(' ') {
        Some((code, detail)) if !code.is_empty() && code.bytes().all(|b| b.is_ascii_uppercase()) => {
            redis::make_extension_error(code.to_owned(), Some(detail.to_owned()))
        }
        _ => {
            let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
            (kind, "a job cannot be completed", text.to_owned()).into()
        }
    }
}
