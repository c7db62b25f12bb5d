//! The variables of the retries of provider calls.

use std::{collections::HashMap, num::NonZeroU8, time::Duration};

use jobs::JobType;

use super::{HOUR, reader::EnvReader, vars};
use crate::{
    retry::{Backoff, LONGEST_WAIT_IN_SLOT, RetryPolicy},
    worker::service_tier::TierRules,
};

/// Reads how provider calls are retried.
pub(super) fn policy(env: &mut EnvReader<'_>) -> RetryPolicy {
    let tries = env.number::<u8>(&vars::RETRY_MAX_ATTEMPTS, 1..=10);
    let base = env.duration(&vars::RETRY_BASE_DELAY, Duration::from_millis(1), HOUR);
    // A longer wait would not be sat out in the slot.
    let max = env.duration(
        &vars::RETRY_MAX_DELAY,
        Duration::from_millis(1),
        LONGEST_WAIT_IN_SLOT,
    );
    let jitter = env.parse(&vars::RETRY_JITTER, |text| {
        text.parse().map_err(|_| "a share from 0 to 1".to_owned())
    });
    let backoff = Backoff::new(base, 2.0, max, jitter).unwrap_or_else(|error| {
        env.complain::<()>(
            &vars::RETRY_BASE_DELAY,
            &format!("with RETRY_MAX_DELAY and RETRY_JITTER: {error}"),
        );
        Backoff::default()
    });
    RetryPolicy {
        tries: NonZeroU8::new(tries).unwrap_or(NonZeroU8::MIN),
        backoff,
    }
}

/// `process-image:5,generate-flashcards:2`.
pub(super) fn tries_by_type(text: &str) -> Result<HashMap<JobType, NonZeroU8>, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (kind, tries) = entry
                .split_once(':')
                .ok_or("a list of type:tries, such as process-image:5,generate-flashcards:2")?;
            let kind = kind.trim().parse().map_err(|_| {
                let known = JobType::ALL.map(JobType::as_str).join(", ");
                format!("the types of job are {known}")
            })?;
            let tries = tries.trim().parse().ok().filter(|tries| (1..=10).contains(tries));
            let tries = tries.and_then(NonZeroU8::new).ok_or("tries from 1 to 10")?;
            Ok((kind, tries))
        })
        .collect()
}

/// Which jobs use the cheaper tier of their provider.
pub(super) fn tiers(env: &mut EnvReader<'_>) -> TierRules {
    TierRules {
        flex_queues: env.parse(&vars::FLEX_QUEUES, |text| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            Ok(names.map(str::to_owned).collect())
        }),
        flex_from_priority: env.number(&vars::FLEX_FROM_PRIORITY, 0..=2_097_152),
        patience: env.duration(&vars::FLEX_TIMEOUT, Duration::from_millis(100), HOUR),
        usual_call: env.duration(&vars::OPENAI_TIMEOUT, Duration::from_millis(100), HOUR),
    }
}
