//! Checked settings of the gates. The constructors refuse contradictions, such as a breaker that could never close.

use std::{num::NonZeroU32, ops::RangeInclusive, time::Duration};

use jobs::Provider;

const DAY: Duration = Duration::from_secs(24 * 3600);
const COUNTS: RangeInclusive<u32> = 1..=1000;
/// Longest time between two probes of a deployment beside others.
const LONGEST_REOPENING: Duration = Duration::from_secs(30);

/// The prefix of the breakers of further deployments, in front of the deployment's name.
pub const DEPLOYMENT_PREFIX: &str = "llm-";

/// The name of the limits behind a breaker.
pub(super) fn limits_name(provider: Provider, breaker: &str) -> &str {
    match breaker.starts_with(DEPLOYMENT_PREFIX) {
        true => breaker,
        false => provider.as_str(),
    }
}

/// A breaker: one for each name, shared by every provider that names it, and by all replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerSettings {
    pub(super) name: String,
    pub(super) failure_threshold: u32,
    pub(super) success_threshold: u32,
    pub(super) open_for: Duration,
    pub(super) window: Duration,
    pub(super) half_open_max: u32,
    pub(super) share: FailureShare,
    pub(super) slow_after: Option<Duration>,
    /// How long it stays open after a failed probe; `None` doubles the time with each opening in a row.
    pub(super) reopen_for: Option<Duration>,
}

/// The share of failures among the last ten calls that opens a breaker, beside the count of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureShare(u8);

impl FailureShare {
    /// A share in percent; `None` above 100. With 0 the count of failures decides alone.
    pub const fn new(percent: u8) -> Option<Self> {
        if percent <= 100 { Some(Self(percent)) } else { None }
    }

    /// In percent.
    pub const fn percent(self) -> u8 {
        self.0
    }
}

impl Default for FailureShare {
    /// Half of the calls.
    fn default() -> Self {
        Self(50)
    }
}

/// The limits of one provider, over all replicas. `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// Requests in any minute.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens in any minute: estimated when a call is admitted, corrected when it is settled.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Calls in flight.
    pub max_concurrent: Option<NonZeroU32>,
}

/// One provider's gate: its own limits, and the breaker that it may share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateSettings {
    /// The breaker.
    pub breaker: BreakerSettings,
    /// The limits.
    pub limits: LimitSettings,
}

/// The gates of all providers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatesSettings {
    /// OpenAI's: that of the first deployment of the language model.
    pub openai: GateSettings,
    /// Those of the other deployments, in their order.
    pub fallbacks: Vec<GateSettings>,
    /// A deployment that would make a call wait for longer is passed over.
    pub fallback_after: Duration,
    /// The shares of the deployments, the first one's first, where calls are spread over them; empty where they go to
    /// the first that admits them.
    pub weights: Vec<u32>,
    /// Azure Speech's.
    pub azure_speech: GateSettings,
    /// Azure Vision's.
    pub azure_vision: GateSettings,
    /// How long a replica may be silent before the slots of its calls are given to others.
    pub lease_ttl: Duration,
}

/// Why gates cannot be what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGate {
    /// The name is part of key names.
    #[error("a breaker's name ({0:?}) has 1 to 64 letters, digits, - _ . or braces")]
    Name(String),
    /// A count that makes no sense.
    #[error("breaker {breaker}: the {what} ({count}) must be from 1 to 1000")]
    Count {
        /// Its name.
        breaker: String,
        /// Which.
        what: &'static str,
        /// The count.
        count: u32,
    },
    /// A time that makes no sense.
    #[error("{of}: the {what} ({time:?}) must be from {least:?} to one day")]
    Time {
        /// Whose.
        of: String,
        /// Which.
        what: &'static str,
        /// The time.
        time: Duration,
        /// The shortest.
        least: Duration,
    },
    /// It could never close.
    #[error(
        "breaker {breaker}: half-open attempts ({attempts}) must not be fewer than the successes that close it ({successes})"
    )]
    NeverCloses {
        /// Its name.
        breaker: String,
        /// The most probes.
        attempts: u32,
        /// The threshold.
        successes: u32,
    },
    /// Two providers share a breaker, and each says otherwise.
    #[error("breaker {0} is set up in two ways")]
    TwoWays(String),
}

impl BreakerSettings {
    /// Opens after `failure_threshold` failures within `window`, for `open_for`; then up to `half_open_max` probes
    /// pass, and `success_threshold` successes close it.
    ///
    /// # Errors
    /// When the numbers make no sense, naming which.
    pub fn new(
        name: &str,
        failure_threshold: u32,
        success_threshold: u32,
        open_for: Duration,
        window: Duration,
        half_open_max: u32,
    ) -> Result<Self, InvalidGate> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.{}".contains(c);
        if !(1..=64).contains(&name.len()) || !name.chars().all(is_plain) {
            return Err(InvalidGate::Name(name.to_owned()));
        }
        let counts = [
            ("failure threshold", failure_threshold),
            ("success threshold", success_threshold),
            ("half-open attempts", half_open_max),
        ];
        for (what, count) in counts {
            if !COUNTS.contains(&count) {
                return Err(InvalidGate::Count {
                    breaker: name.to_owned(),
                    what,
                    count,
                });
            }
        }
        if half_open_max < success_threshold {
            return Err(InvalidGate::NeverCloses {
                breaker: name.to_owned(),
                attempts: half_open_max,
                successes: success_threshold,
            });
        }
        for (what, time) in [("open time", open_for), ("failure window", window)] {
            check_time(format!("breaker {name}"), what, time, Duration::from_millis(1))?;
        }
        Ok(Self {
            name: name.to_owned(),
            failure_threshold,
            success_threshold,
            open_for,
            window,
            half_open_max,
            share: FailureShare::default(),
            slow_after: None,
            reopen_for: None,
        })
    }

    /// Sets the share of failures among the last ten calls that it takes to open the breaker.
    #[must_use]
    pub fn with_share(self, share: FailureShare) -> Self {
        Self { share, ..self }
    }

    /// Sets the time after which a call counts as a failure, even with an answer. `None`: never.
    #[must_use]
    pub fn with_slow_after(self, slow_after: Option<Duration>) -> Self {
        Self { slow_after, ..self }
    }

    /// Sets that it stays open after a failed probe for a fixed time, because other deployments take the calls:
    /// a probe then costs its job a moment, and the first deployment gets its calls back soon after it has recovered.
    #[must_use]
    pub fn beside_others(self) -> Self {
        let reopen_for = (self.open_for / 2).min(LONGEST_REOPENING);
        Self {
            reopen_for: Some(reopen_for.max(Duration::from_millis(1))),
            ..self
        }
    }

    /// `openai`: 5 failures, 2 successes, 60 s, window 60 s, 3 half-open.
    pub fn openai() -> Self {
        Self {
            name: "openai".to_owned(),
            failure_threshold: 5,
            success_threshold: 2,
            open_for: Duration::from_secs(60),
            window: Duration::from_secs(60),
            half_open_max: 3,
            share: FailureShare::default(),
            slow_after: None,
            reopen_for: None,
        }
    }

    /// `azure`: 3 failures, 2 successes, 30 s; the rest as [`Self::openai`].
    pub fn azure() -> Self {
        Self {
            name: "azure".to_owned(),
            failure_threshold: 3,
            open_for: Duration::from_secs(30),
            ..Self::openai()
        }
    }

    /// How long it stays open the first time.
    pub const fn open_for(&self) -> Duration {
        self.open_for
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same numbers under another name, which is valid for a breaker.
    pub(crate) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }
}

impl Default for GatesSettings {
    /// openai 50 requests a minute, 5 concurrent; azure-speech 20 concurrent; azure-vision 20 a minute, 5 concurrent;
    /// the Azure services share a breaker.
    fn default() -> Self {
        let gate = |breaker, requests, concurrent| GateSettings {
            breaker,
            limits: LimitSettings {
                requests_per_minute: NonZeroU32::new(requests),
                max_concurrent: NonZeroU32::new(concurrent),
                tokens_per_minute: None,
            },
        };
        Self {
            openai: gate(BreakerSettings::openai(), 50, 5),
            fallbacks: Vec::new(),
            fallback_after: Duration::from_secs(15),
            weights: Vec::new(),
            azure_speech: gate(BreakerSettings::azure(), 0, 20),
            azure_vision: gate(BreakerSettings::azure(), 20, 5),
            lease_ttl: Duration::from_secs(15),
        }
    }
}

impl GatesSettings {
    /// The settings of one provider.
    pub const fn of(&self, provider: Provider) -> &GateSettings {
        match provider {
            Provider::OpenAi => &self.openai,
            Provider::AzureSpeech => &self.azure_speech,
            Provider::AzureVision => &self.azure_vision,
        }
    }

    /// Checks what no part can check for itself.
    pub(crate) fn check(&self) -> Result<(), InvalidGate> {
        check_time(
            "gates".to_owned(),
            "lease",
            self.lease_ttl,
            Duration::from_secs(1),
        )?;
        let fallbacks = self.fallbacks.iter().map(|gate| &gate.breaker);
        let all: Vec<&BreakerSettings> = Provider::ALL
            .map(|provider| &self.of(provider).breaker)
            .into_iter()
            .chain(fallbacks)
            .collect();
        for (i, one) in all.iter().enumerate() {
            let is_shared = |other: &&&BreakerSettings| one.name == other.name && one != *other;
            if all.iter().skip(i + 1).any(|other| is_shared(&other)) {
                return Err(InvalidGate::TwoWays(one.name.clone()));
            }
        }
        Ok(())
    }
}

fn check_time(of: String, what: &'static str, time: Duration, least: Duration) -> Result<(), InvalidGate> {
    if (least..=DAY).contains(&time) {
        Ok(())
    } else {
        Err(InvalidGate::Time {
            of,
            what,
            time,
            least,
        })
    }
}
