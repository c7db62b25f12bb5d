//! The variables of how queues are kept and shared.

use std::{num::NonZeroU32, time::Duration};

use super::{HOUR, reader::EnvReader, vars};
use crate::queue::{BrokerOptions, PayloadField};

/// Reads how queues are kept.
pub(super) fn read(env: &mut EnvReader<'_>, lease_ttl: Duration) -> BrokerOptions {
    BrokerOptions {
        lease_ttl,
        keep_completed_for: env.duration(&vars::KEEP_COMPLETED_FOR, Duration::ZERO, 366 * 24 * HOUR),
        keep_completed_count: env.number(&vars::KEEP_COMPLETED_COUNT, 0..=10_000_000),
        leave_out_large: true,
        ..shares(env)
    }
}

/// How a queue is shared between owners. The cap on an owner's jobs needs owners.
fn shares(env: &mut EnvReader<'_>) -> BrokerOptions {
    let fairness = env.parse(&vars::FAIRNESS_KEY, fairness);
    let most_per_owner = NonZeroU32::new(env.number(&vars::USER_MAX_CONCURRENT, 0..=1_000));
    if most_per_owner.is_some() && fairness.is_none() {
        let fault =
            "is set, and FAIRNESS_KEY=off names no field that tells owners apart: unset one of the two";
        env.complain::<()>(&vars::USER_MAX_CONCURRENT, fault);
    }
    BrokerOptions {
        fairness,
        most_per_owner,
        ..BrokerOptions::default()
    }
}

/// The payload field that names a job's owner.
fn fairness(text: &str) -> Result<Option<PayloadField>, String> {
    if text == "off" {
        return Ok(None);
    }
    let name = PayloadField::new(text);
    let fault = || "off, or the name of a field: up to 64 letters, digits, `_`, `-` and `.`".to_owned();
    name.map(Some).ok_or_else(fault)
}
