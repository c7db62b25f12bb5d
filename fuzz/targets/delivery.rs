//! Fuzz targets of the way from a raw payload to an outcome that the queue can store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use std::{num::NonZeroU8, time::Duration};

use hostile::Target;
use jobs::{Failure, Jobs};

use super::outcome::{AccountWaits, DeliveryOutcome, OutcomeRules};
use crate::{
    queue::{Delivery, HistoryNote, PayloadRefusal},
    retry::{Backoff, RetryPolicy},
};

/// Longest text of a job's end, characters.
const LONGEST_REASON: usize = 1_001;

/// A task of the apalis layout, or after a line `type:` one of BullMQ's: it is opened and checked, or ends with a
/// reason and a note that fits a line.
pub(crate) static DELIVERY: Target = Target::new("delivery", |input| {
    let named = input.strip_prefix(b"type:").and_then(|rest| {
        let at = rest.iter().position(|byte| *byte == b'\n')?;
        Some((String::from_utf8_lossy(&rest[..at]).into_owned(), &rest[at + 1..]))
    });
    let (kind, payload) = match named {
        Some((kind, payload)) => (Some(kind), payload),
        None => (None, input),
    };
    let delivery = Delivery::first_of(kind, Some(payload.to_vec().into()));
    let failure = match delivery.open() {
        Ok((kind, data)) => Jobs::validate(kind, data).err(),
        Err(PayloadRefusal::Unknown(failure) | PayloadRefusal::Failure(failure)) => Some(failure),
    };
    if let Some(failure) = failure {
        expect_writable(&failure, &delivery);
    }
})
.with_factor(8);

#[test]
fn deliveries() {
    DELIVERY.run();
}

fn expect_writable(failure: &Failure, delivery: &Delivery) {
    let rules = OutcomeRules {
        retry: RetryPolicy {
            tries: NonZeroU8::MIN,
            backoff: Backoff::default(),
        },
        max_wait: Duration::from_secs(600),
        account_waits: AccountWaits::default(),
        spreads_retries: true,
        replica: "r".to_owned(),
    };
    let DeliveryOutcome::Failed {
        reason,
        note: Some(note),
    } = rules.of(failure, delivery, 0)
    else {
        panic!("{failure} is not final")
    };
    assert!(reason.chars().count() <= LONGEST_REASON, "{reason}");
    let line = serde_json::to_string(&note).expect("a note can be written");
    assert!(!line.contains('\n'));
    assert_eq!(serde_json::from_str::<HistoryNote>(&line).ok(), Some(note));
}
