//! One event of the stream `usage`.

use crate::{spending::Usd, time_format::iso};

/// An entry of the stream: a call that costs, may cost, or turned out to cost nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its place in the stream.
    pub id: String,
    /// The call, the same in each event about it.
    pub call: String,
    /// `paid`, `unpriced`, `possible`, `nothing`.
    pub kind: String,
    /// The provider that was asked.
    pub provider: String,
    /// The model, as the provider names it.
    pub model: String,
    /// The type of the job.
    pub job_type: String,
    /// The student that the call was made for; empty where the payload names none.
    pub student: String,
    /// The cost, or the highest possible cost.
    pub amount: Usd,
    /// Tokens of the request.
    pub prompt_tokens: u64,
    /// Of these, tokens from the provider's cache.
    pub cached_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Of these, tokens of reasoning.
    pub reasoning_tokens: u64,
}

impl Event {
    /// Reads an entry; `None` for one that this worker's books have not written.
    pub(super) fn read(id: &str, fields: &[Vec<u8>]) -> Option<Self> {
        let mut event = Self {
            id: id.to_owned(),
            ..Self::default()
        };
        for [name, value] in fields.as_chunks().0 {
            let text = || String::from_utf8_lossy(value).into_owned();
            let number = || text().parse().unwrap_or(0);
            match name.as_slice() {
                b"call" => event.call = text(),
                b"kind" => event.kind = text(),
                b"provider" => event.provider = text(),
                b"model" => event.model = text(),
                b"type" => event.job_type = text(),
                b"student" => event.student = text(),
                b"nanoUsd" => event.amount = Usd::from_nanos(number()),
                b"promptTokens" => event.prompt_tokens = number(),
                b"cachedTokens" => event.cached_tokens = number(),
                b"completionTokens" => event.completion_tokens = number(),
                b"reasoningTokens" => event.reasoning_tokens = number(),
                _ => {}
            }
        }
        let is_ours = !event.call.is_empty() && !event.kind.is_empty();
        is_ours.then_some(event)
    }

    /// The idempotency key: each event has its own, and keeps it however often it is sent. Standard Webhooks allow no
    /// full stop in it, and names of hosts have some.
    pub fn key(&self) -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "-_:".contains(c) {
                c
            } else {
                '_'
            }
        };
        let key: String = self.call.chars().map(plain).take(100).collect();
        let kind: String = self.kind.chars().map(plain).take(20).collect();
        format!("{key}:{kind}")
    }

    /// When it was written, by Redis's clock.
    pub fn at(&self) -> String {
        let ms = self.id.split('-').next().and_then(|ms| ms.parse().ok());
        iso(ms.unwrap_or(0))
    }

    /// An event whose texts and numbers are as awkward as they can be, to try a template.
    pub(super) fn sample() -> Self {
        let text = || "a\"b\\\u{1}".to_owned();
        Self {
            id: "1764500000000-0".to_owned(),
            call: text(),
            kind: text(),
            provider: text(),
            model: text(),
            job_type: text(),
            student: text(),
            amount: Usd::from_nanos(u64::MAX),
            prompt_tokens: u64::MAX,
            cached_tokens: u64::MAX,
            completion_tokens: u64::MAX,
            reasoning_tokens: u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Vec<Vec<u8>> {
        let flat = pairs.iter().flat_map(|(name, value)| [name, value]);
        flat.map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn foreign_entries_are_no_events_and_broken_fields_are_nothing() {
        assert_eq!(Event::read("1-0", &fields(&[("hello", "world")])), None);
        assert_eq!(Event::read("1-0", &[b"call".to_vec()]), None);
        let event = Event::read(
            "1764500000000-3",
            &fields(&[
                ("call", "host.name-1:7"),
                ("kind", "paid"),
                ("nanoUsd", "-5"),
                ("promptTokens", "12"),
            ]),
        );
        let event = event.unwrap();
        assert_eq!(event.key(), "host_name-1:7:paid");
        assert_eq!((event.amount, event.prompt_tokens), (Usd::ZERO, 12));
        assert_eq!(event.at(), "2025-11-30T10:53:20.000Z");
    }
}
