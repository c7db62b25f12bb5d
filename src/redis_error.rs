//! Classifies errors of Redis, in the wording of each version and of hosted services.
//!
//! Redis 7 answers an error inside of a script under the error's own code. Redis 6 wraps it: `ERR Error running
//! script (…): @user_script:1: -READONLY …`. Hosted services answer a used-up quota with `ERR` and words of their
//! own.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// The meaning of an error for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisErrorClass {
    /// There was no answer in time, or no connection. The command may have been carried out.
    NoAnswer,
    /// The server is a replica. Another connection to its address may lead to the primary.
    Replica,
    /// The key lies on another node of a Redis Cluster, which the error names. The command had no effect.
    AnotherNode,
    /// The server does not do it for now: its memory is full, its disk fails, it loads, a quota is used up, an account
    /// lacks a right, a slot of its cluster moves or has no owner. The same command can succeed later.
    RefusedForNow,
    /// The command cannot be done as it is: a key is of another type, an argument is wrong.
    Impossible,
}

impl RedisErrorClass {
    /// Classifies an error. An unknown code counts as refused for now, so that a paid outcome is not given up too
    /// early.
    pub fn of(error: &RedisError) -> Self {
        if error.is_timeout()
            || error.is_io_error()
            || error.is_connection_dropped()
            || error.kind() == ErrorKind::Io
        {
            return Self::NoAnswer;
        }
        if error.kind() == ErrorKind::UnexpectedReturnType {
            return Self::Impossible;
        }
        let Some(errors) = error.clone().into_server_errors() else {
            // A script's own error, or one of the client, which says nothing about the command.
            let is_of_script = error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError);
            return match is_of_script {
                true => Self::of_code("ERR", &error.to_string()),
                false => Self::NoAnswer,
            };
        };
        // Each command of a pipeline can have its own error. One that can pass decides: all are sent again.
        let meanings = errors
            .iter()
            .map(|(_, error)| Self::of_code(error.code(), error.details().unwrap_or_default()));
        let mut passing = meanings.filter(|meaning| *meaning != Self::Impossible);
        passing.next().unwrap_or(Self::Impossible)
    }

    fn of_code(code: &str, words: &str) -> Self {
        match code_inside(words).unwrap_or(code) {
            "READONLY" => Self::Replica,
            "MOVED" => Self::AnotherNode,
            "WRONGTYPE" => Self::Impossible,
            "ERR" if !is_for_now(words) => Self::Impossible,
            _ => Self::RefusedForNow,
        }
    }

    /// Returns true if the server answers, and takes no writes.
    pub const fn refuses_writes(self) -> bool {
        matches!(self, Self::Replica | Self::AnotherNode | Self::RefusedForNow)
    }
}

/// The error inside of one that Redis 6 has wrapped, in a script or around it: `@user_script: 1: -OOM command not …`.
pub fn unwrapped(text: &str) -> &str {
    const PLACE: &str = "@user_script:";
    let is_wrapped = text.starts_with(PLACE) || text.contains("Error running script");
    match text.rfind(PLACE).filter(|_| is_wrapped) {
        Some(at) => text[at + PLACE.len()..]
            .trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, ':' | ' ' | '-')),
        None => text,
    }
}

/// The code of a wrapped error.
fn code_inside(text: &str) -> Option<&str> {
    let inner = unwrapped(text);
    let code = inner.split_whitespace().next()?;
    let is_code = code.len() > 2 && code.bytes().all(|b| b.is_ascii_uppercase());
    (inner.len() < text.len() && is_code).then_some(code)
}

/// Returns true if an `ERR` reports a temporary state. The words are those of Redis and of hosted services.
fn is_for_now(text: &str) -> bool {
    const WORDS: [&str; 15] = [
        // Of a script, while the slot of its keys moves to another node.
        "non local key in a cluster node",
        "max number of clients",
        "max concurrent",
        "max daily request",
        "request limit",
        "requests limit",
        "limit exceeded",
        "limit reached",
        "quota",
        "rate limit",
        "too many requests",
        "bandwidth",
        "throttl",
        "script killed",
        "try again",
    ];
    let text = text.to_ascii_lowercase();
    WORDS.iter().any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error that a client makes of this line of a server.
    fn error(line: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    }

    #[test]
    fn errors_of_all_versions_mean_the_same() {
        let inside = |code: &str| {
            format!(
                "ERR Error running script (call to f_6d5d5a0478ec36188594baff9df780266c1c353c): @user_script:1: {code}"
            )
        };
        let cases = [
            (
                "READONLY You can't write against a read only replica.".to_owned(),
                RedisErrorClass::Replica,
            ),
            (
                "READONLY You can't write against a read only replica. script: 0a9f, on @user_script:1."
                    .to_owned(),
                RedisErrorClass::Replica,
            ),
            (
                inside("@user_script: 1: -READONLY You can't write against a read only replica."),
                RedisErrorClass::Replica,
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                inside("@user_script: 12: -OOM command not allowed when used memory > 'maxmemory'."),
                RedisErrorClass::RefusedForNow,
            ),
            (
                inside(
                    "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
                ),
                RedisErrorClass::RefusedForNow,
            ),
            (
                inside("@user_script: 1: -NOREPLICAS Not enough good replicas to write."),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "NOREPLICAS Not enough good replicas to write.".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "LOADING Redis is loading the dataset in memory".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "BUSY Redis is busy running a script.".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "CLUSTERDOWN The cluster is down".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "MOVED 3999 127.0.0.1:6381".to_owned(),
                RedisErrorClass::AnotherNode,
            ),
            (
                "ASK 3999 127.0.0.1:6381".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "CROSSSLOT Keys in request don't hash to the same slot".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "ERR Script attempted to access a non local key in a cluster node script: 0a9f, on @user_script:1.".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "NOPERM this user has no permissions to run the 'evalsha' command".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "ERR max number of clients reached".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "ERR max daily request limit exceeded. Limit: 10000, Usage: 10000.".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "ERR max requests limit exceeded. Limit: 500000, Usage: 500001".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "FUTURE a code that is not known".to_owned(),
                RedisErrorClass::RefusedForNow,
            ),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value".to_owned(),
                RedisErrorClass::Impossible,
            ),
            (
                inside("WRONGTYPE Operation against a key holding the wrong kind of value"),
                RedisErrorClass::Impossible,
            ),
            (
                inside("ERR value is not an integer or out of range"),
                RedisErrorClass::Impossible,
            ),
            (
                inside("@user_script: 3: Script attempted to access nonexistent global variable 'x'"),
                RedisErrorClass::Impossible,
            ),
            (
                "ERR wrong number of arguments for 'hset' command".to_owned(),
                RedisErrorClass::Impossible,
            ),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value script: bw_bullmq_claim_0a9f, on @user_function:12."
                    .to_owned(),
                RedisErrorClass::Impossible,
            ),
            (
                "ERR user_function:3: Script attempted to access nonexistent global variable 'x' script: bw_gate_settle_and_admit_0a9f, on @user_function:3."
                    .to_owned(),
                RedisErrorClass::Impossible,
            ),
            (
                "READONLY You can't write against a read only replica. script: bw_gate_settle_and_admit_0a9f, on @user_function:3."
                    .to_owned(),
                RedisErrorClass::Replica,
            ),
        ];
        for (line, meaning) in cases {
            assert_eq!(RedisErrorClass::of(&error(&line)), meaning, "{line}");
        }
    }

    #[test]
    fn silence_says_nothing_about_the_command() {
        let late = RedisError::from((ErrorKind::Io, "no answer in time"));
        assert_eq!(RedisErrorClass::of(&late), RedisErrorClass::NoAnswer);
        assert!(!RedisErrorClass::NoAnswer.refuses_writes());
    }
}
