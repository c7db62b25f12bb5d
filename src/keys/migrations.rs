//! Keys of the migrations, and those that they are about.

/// The keys of the migrations. One slot of a Redis cluster holds both.
#[derive(Debug)]
pub struct MigrationKeys;

impl MigrationKeys {
    /// Hash: version → JSON of what was done, and when.
    pub const LEDGER: &'static str = "{backend-worker:migrations}:ledger";
    /// String: who migrates.
    pub const LOCK: &'static str = "{backend-worker:migrations}:lock";
}

/// The keys that Bottleneck left, for the migration that retires them.
#[derive(Debug)]
pub struct BottleneckKeys;

impl BottleneckKeys {
    /// A pattern that matches them, and a few other keys.
    pub const PATTERN: &'static str = "b*";
    const PLAIN: &'static str = "bottleneck:";
    const KINDS: [&'static str; 8] = [
        "settings",
        "job_weights",
        "job_expirations",
        "job_clients",
        "client_running",
        "client_num_queued",
        "client_last_registered",
        "client_last_seen",
    ];

    /// The limiter whose key this is (`b_<limiter>_<kind>`), or the key itself where it is a `bottleneck:*`.
    pub fn limiter_of(key: &str) -> Option<&str> {
        if key.starts_with(Self::PLAIN) {
            return Some(key);
        }
        let rest = key.strip_prefix("b_")?;
        let mut limiters = Self::KINDS
            .iter()
            .filter_map(|kind| rest.strip_suffix(kind)?.strip_suffix('_'));
        limiters.find(|limiter| !limiter.is_empty())
    }

    /// All keys of what [`Self::limiter_of`] named.
    pub fn of(limiter: &str) -> Vec<String> {
        if limiter.starts_with(Self::PLAIN) {
            return vec![limiter.to_owned()];
        }
        Self::KINDS.map(|kind| format!("b_{limiter}_{kind}")).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::GateKeys;

    #[test]
    fn the_owners_of_foreign_keys_are_told() {
        let breakers = [
            ("circuit:openai:state", Some("openai")),
            ("circuit:{a:b}:failures", Some("{a:b}")),
            ("circuit:openai:meta", None),
            ("circuit::state", None),
            ("circuits:x:state", None),
        ];
        for (key, breaker) in breakers {
            assert_eq!(GateKeys::breaker_of(key), breaker, "{key}");
        }
        let limiters = [
            ("b_openai_settings", Some("openai")),
            ("b_azure_speech_client_last_seen", Some("azure_speech")),
            ("b__settings", None),
            ("b_openai_else", None),
            ("bull:ai-jobs:wait", None),
            ("bottleneck:openai:running", Some("bottleneck:openai:running")),
        ];
        for (key, limiter) in limiters {
            assert_eq!(BottleneckKeys::limiter_of(key), limiter, "{key}");
        }
        assert_eq!(
            BottleneckKeys::of("a").last().map(String::as_str),
            Some("b_a_client_last_seen")
        );
    }
}
