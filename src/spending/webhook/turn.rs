//! The forwarder's steps in Redis.

use std::{sync::LazyLock, time::Duration};

use redis::RedisError;
use serde::Serialize;

use super::event::Event;
use crate::{
    connection::Connection,
    keys::{REFUSED_EVENTS, USAGE_EVENTS, WEBHOOK_STATE},
    script::Script,
};

static TURN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("forward_step.lua")));
static STANDING: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("forward_state.lua")));
static RESEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("resend.lua")));

/// Events of the stream without a webhook, about: readers of their own may follow it.
pub const KEPT_EVENTS: u64 = 10_000;
/// Events of the stream with a webhook, about: those that its receiver has not taken yet stay as well, up to this
/// number.
pub const MOST_EVENTS: u64 = 200_000;
/// Refused events that are kept.
const KEPT_REFUSED: u64 = 10_000;
/// Events that one script puts back.
const RESENT_AT_A_TIME: u64 = 200;

/// The webhook's scripts, each with the SHA that identifies it in Redis's SLOWLOG.
pub fn script_names() -> Vec<(String, String)> {
    [("turn", &TURN), ("standing", &STANDING), ("resend", &RESEND)]
        .map(|(name, script)| (format!("webhook {name}"), script.get_hash().to_owned()))
        .into()
}

/// The events that a step reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// The next events, so many at most.
    Next(usize),
    /// Nothing: the lease is renewed.
    Renew,
    /// Nothing: the lease is given up.
    Leave,
}

/// The events delivered since the last step: the last one with all before it, and their number.
#[derive(Debug, Clone, Default)]
pub(super) struct Delivered {
    pub(super) last: String,
    pub(super) count: usize,
    /// Those of them that the receiver refuses, and its status.
    pub(super) refused: Vec<(String, u16)>,
}

/// An entry of the stream; `None` for one that is no event.
pub(super) type Entry = (String, Option<Event>);

/// The answer to a step.
#[derive(Debug)]
pub(super) enum Turn {
    /// This replica forwards.
    Ours {
        entries: Vec<Entry>,
        /// Events were trimmed before they were delivered.
        overflowed: bool,
    },
    /// Another replica does, until then at least.
    Others(Duration),
}

pub(super) async fn take(
    connection: &Connection,
    replica: &str,
    lease: Duration,
    delivered: &Delivered,
    read: Read,
) -> Result<Turn, RedisError> {
    let mut call = TURN.prepare_invoke();
    call.key(connection.named(USAGE_EVENTS))
        .key(connection.named(WEBHOOK_STATE))
        .key(connection.named(REFUSED_EVENTS))
        .arg(replica)
        .arg(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX / 4))
        .arg(&delivered.last)
        .arg(delivered.count)
        .arg(match read {
            Read::Next(count) => i64::try_from(count).unwrap_or(i64::MAX),
            Read::Renew => 0,
            Read::Leave => -1,
        })
        .arg(KEPT_EVENTS)
        .arg(KEPT_REFUSED);
    for (id, status) in &delivered.refused {
        call.arg(id).arg(status);
    }
    let answer: redis::Value = connection.invoke(&call).await?;
    if let Ok((0, wait)) = redis::from_redis_value_ref::<(u8, u64)>(&answer) {
        return Ok(Turn::Others(Duration::from_millis(wait)));
    }
    type Entries = Vec<(String, Vec<Vec<u8>>)>;
    let (_, entries, overflowed): (u8, Entries, bool) = redis::from_redis_value(answer)?;
    let read = |(id, fields): (String, Vec<Vec<u8>>)| {
        let event = Event::read(&id, &fields);
        (id, event)
    };
    Ok(Turn::Ours {
        entries: entries.into_iter().map(read).collect(),
        overflowed,
    })
}

/// How far the forwarder is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Events that the receiver has not taken yet.
    pub waiting: u64,
    /// The age of the oldest one of them, ms.
    pub oldest_ms: u64,
    /// Events whose content the receiver has refused.
    pub refused: u64,
    /// Length of the stream of events.
    pub length: u64,
    /// The replica that forwards; empty if none does.
    pub forwarder: String,
}

impl Standing {
    /// Reads it.
    ///
    /// # Errors
    /// Redis's.
    pub async fn read(connection: &Connection) -> Result<Self, RedisError> {
        let mut call = STANDING.prepare_invoke();
        for key in [USAGE_EVENTS, WEBHOOK_STATE, REFUSED_EVENTS] {
            call.key(connection.named(key));
        }
        let (waiting, oldest_ms, refused, length, forwarder) = connection.invoke(&call).await?;
        Ok(Self {
            waiting,
            oldest_ms,
            refused,
            length,
            forwarder,
        })
    }
}

/// Puts all refused events back to the end of the stream; how many they were.
///
/// # Errors
/// Redis's.
pub async fn resend_refused(connection: &Connection) -> Result<u64, RedisError> {
    let mut sum = 0;
    // The receiver may refuse them again right away: no more than there can be.
    for _ in 0..KEPT_REFUSED / RESENT_AT_A_TIME + 1 {
        let mut call = RESEND.prepare_invoke();
        call.key(connection.named(USAGE_EVENTS))
            .key(connection.named(REFUSED_EVENTS))
            .arg(RESENT_AT_A_TIME)
            .arg(MOST_EVENTS);
        let moved: u64 = connection.invoke(&call).await?;
        sum += moved;
        if moved < RESENT_AT_A_TIME {
            break;
        }
    }
    Ok(sum)
}
