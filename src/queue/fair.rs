//! The part of the fair line outside of its scripts: it calls for places, and reads owners from payloads that are too large
//! for `fair_line.lua`.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde::{
    Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use tracing::warn;

use super::{BrokerError, LinePosition};

/// Jobs that one script gives a place at most: it blocks Redis for everyone.
pub(super) const PLACES_CHUNK: usize = 500;
/// Largest payload that is read for its owner before the job is claimed, bytes. It is read outside of the memory
/// budget.
pub(super) const LARGEST_PAYLOAD: u64 = 8 * 1024 * 1024;
/// Longest time that a claim waits for all of them: after that it takes from those that have one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives the jobs of one queue their places.
#[async_trait]
pub(super) trait PlaceAssigner {
    /// Gives some of them their places; `known` is the owner of one. Returns whether there is more to do, and the id
    /// of a job whose owner has to be found first, or nothing.
    async fn give_some(&self, known: Option<(Vec<u8>, String)>) -> Result<(bool, Vec<u8>), BrokerError>;

    /// The owner of a job, out of its payload; empty for a payload of more than [`LARGEST_PAYLOAD`] bytes.
    async fn owner(&self, id: &[u8]) -> Result<String, BrokerError>;
}

/// Gives every job that waits its place.
async fn give_places(queue: &(impl PlaceAssigner + Sync)) -> Result<(), BrokerError> {
    let (started, mut known) = (Instant::now(), None);
    while started.elapsed() < PATIENCE {
        let (more, unknown) = queue.give_some(known.take()).await?;
        if !more {
            return Ok(());
        }
        if !unknown.is_empty() {
            // A payload that cannot be read must not hold up the claims of the others.
            let owner = queue.owner(&unknown).await.unwrap_or_else(|error| {
                warn!(%error, "the owner of a job with a large payload is not read: the job waits among those without an owner");
                String::new()
            });
            known = Some((unknown, owner));
        }
    }
    Ok(())
}

/// So many jobs get their places in less than a second: claims wait for it.
const LONG: u64 = 200_000;

/// How far the places of one queue are, as one replica knows it.
#[derive(Debug, Default)]
pub(super) struct PlacingProgress {
    /// Jobs of a long line have been claimed before all of its jobs had a place.
    has_begun: AtomicBool,
    under_way: Arc<Mutex<()>>,
}

impl PlacingProgress {
    /// Gives the jobs that have none their places, `unplaced` of them, before `count` are claimed. Returns how many are
    /// claimed then.
    ///
    /// A long line takes seconds: some of its first jobs, half of what was asked for, start at once, so that a job at
    /// the line's end is still among the next when its place is known. Later claims wait for it.
    pub(super) async fn give<P>(&self, places: &P, unplaced: u64, count: usize) -> Result<usize, BrokerError>
    where
        P: PlaceAssigner + Clone + Send + Sync + 'static,
    {
        if unplaced > LONG && !self.has_begun.swap(true, Ordering::Relaxed) {
            let (places, under_way) = (places.clone(), self.under_way.clone());
            tokio::spawn(async move {
                let _one_at_a_time = under_way.lock().await;
                if let Err(error) = give_places(&places).await {
                    warn!(%error, "the jobs of a long line have no places yet: the next claim gives them");
                }
            });
            return Ok(count.div_ceil(2));
        }
        let _one_at_a_time = self.under_way.lock().await;
        give_places(places).await?;
        Ok(count)
    }

    /// All jobs have a place.
    pub(super) fn done(&self) {
        self.has_begun.store(false, Ordering::Relaxed);
    }
}

/// The answer of `line_position.lua`.
pub(super) fn standing((ahead, waiting, owners): (i64, u64, u64)) -> LinePosition {
    LinePosition {
        ahead: u64::try_from(ahead).ok(), // -1: not known
        waiting,
        owners,
    }
}

/// An owner's name as it is compared outside of Redis, where no name is kept.
pub(super) fn hash(owner: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    owner.hash(&mut hasher);
    hasher.finish()
}

/// Longest name of an owner, bytes: as in `fair_line.lua`.
const LONGEST_OWNER: usize = 128;

/// The value of the field `key` of a JSON object, as `fair_line.lua` reads it; empty where there is none.
pub(crate) fn owner_of(payload: &[u8], key: &str) -> String {
    let mut parser = serde_json::Deserializer::from_slice(payload);
    let raw = parser.deserialize_map(OwnerField(key)).ok().flatten();
    let text = raw.as_deref().map(RawValue::get).unwrap_or_default();
    let text = match text.strip_prefix('"') {
        Some(string) => string.split('"').next().unwrap_or_default(),
        None if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => text,
        None => "",
    };
    let mut end = text.len().min(LONGEST_OWNER);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Reads one field of an object, and passes over the others.
struct OwnerField<'a>(&'a str);

impl<'de> Visitor<'de> for OwnerField<'_> {
    type Value = Option<Box<RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if found.is_none() && key == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_whatever_stands_around_it() {
        for (payload, owner) in [
            (r#"{"userId":"ann"}"#, "ann"),
            (r#"{"a":{"userId":"no"},"userId" : "ann"}"#, "ann"),
            (r#"{"userId":17}"#, "17"),
            (r#"{"userId":null}"#, ""),
            (r#"{"userId":{"userId":"no"}}"#, ""),
            (r#"{"a":1}"#, ""),
            ("[]", ""),
            ("{", ""),
            ("", ""),
        ] {
            assert_eq!(owner_of(payload.as_bytes(), "userId"), owner, "{payload}");
        }
        let long = format!(r#"{{"userId":"{}"}}"#, "ü".repeat(2_000_000));
        assert_eq!(owner_of(long.as_bytes(), "userId").len(), LONGEST_OWNER);
    }
}
