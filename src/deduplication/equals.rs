//! The equals of a job, the answers of Redis about them, and results that are given to several jobs.

use std::{sync::Arc, time::Duration};

use jobs::JobType;
use rand::RngExt;
use serde_json::{Value, json};
use tracing::{debug, warn};

use super::{Entry, Joined, KEEP_FOR_PRODUCERS, LONGEST_WAIT, SHORTEST_WAIT, digest};
use crate::{
    keys::{IDEMPOTENCY_PREFIX, KeyNamespace, equal_jobs_prefix, equal_jobs_result},
    queue::{EqualJobs, OutcomeWriter},
    spending::Usd,
    telemetry::metrics::{PROCESS, labels::CellIndex},
};

/// The equals of a job by its producer's key. A key of the web API is where the web API looks for the result; any
/// other is unique in its queue only.
pub(super) fn by_key(namespace: &KeyNamespace, broker: &dyn OutcomeWriter, key: &Arc<str>) -> EqualJobs {
    if key.starts_with(IDEMPOTENCY_PREFIX) {
        let digest = digest::of_texts(&["key", key]);
        return EqualJobs {
            result_key: namespace.named(key).into(),
            prefix: namespace.named(&equal_jobs_prefix(&digest)).into(),
            keep_for: KEEP_FOR_PRODUCERS,
        };
    }
    let digest = digest::of_texts(&["key of a queue", broker.layout().as_str(), broker.queue(), key]);
    EqualJobs {
        result_key: namespace.named(&equal_jobs_result(&digest)).into(),
        prefix: namespace.named(&equal_jobs_prefix(&digest)).into(),
        keep_for: KEEP_FOR_PRODUCERS,
    }
}

pub(super) fn leads(answer: Option<(String, String)>, equal: &EqualJobs) -> Joined {
    match answer {
        Some((_, note)) => {
            if note == "foreign" {
                warn!(
                    key = &*equal.result_key,
                    "the key holds something of another program: the job runs, and its result takes that place"
                );
            }
            Joined::Leads
        }
        None => Joined::Unknown,
    }
}

/// A job waits until the leader's claim would have run out. Replicas keep apart from each other by a part of a second.
pub(super) fn waits(kind: JobType, left: &str) -> Joined {
    let left = Duration::from_millis(left.parse().unwrap_or(0));
    let apart = Duration::from_millis(rand::rng().random_range(50..500));
    PROCESS.deduplicated[kind.index()][1].add(1);
    debug!("an equal job runs: this one waits for its result");
    Joined::Waits((left + apart).clamp(SHORTEST_WAIT, LONGEST_WAIT))
}

/// The result in an entry, unless it is none of this type.
pub(super) fn usable(kind: JobType, entry: &str) -> Option<Value> {
    let entry: Entry<'_> = serde_json::from_str(entry).ok()?;
    let result = serde_json::from_str(entry.result.get()).ok()?;
    kind.is_reusable(&result).then_some(result)
}

/// Says in a result that nothing was paid for it: `usage.costUsd` is 0 and `usage.reused` is true. Returns what it
/// has cost the job that paid, zero where that is not known.
pub(super) fn mark_reused(result: &mut Value) -> Usd {
    let Some(fields) = result.as_object_mut() else {
        return Usd::ZERO;
    };
    let usage = fields.entry("usage").or_insert_with(|| json!({"calls": 0}));
    let Some(usage) = usage.as_object_mut() else {
        return Usd::ZERO;
    };
    let is_reused = usage.insert("reused".to_owned(), json!(true));
    let cost = usage.insert("costUsd".to_owned(), json!(0.0));
    let cost = cost
        .and_then(|cost| cost.as_f64())
        .filter(|_| is_reused.is_none());
    cost.and_then(|cost| format!("{cost:.9}").parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_result_says_so_and_what_it_has_saved() {
        let mut deck = json!({"success": true, "usage": {"promptTokens": 3, "calls": 2, "costUsd": 0.00183}});
        assert_eq!(mark_reused(&mut deck), "0.00183".parse().unwrap());
        let told = json!({"promptTokens": 3, "calls": 2, "costUsd": 0.0, "reused": true});
        assert_eq!(deck["usage"], told);
        assert_eq!(mark_reused(&mut deck), Usd::ZERO, "it was reused before");
        let mut bare = json!({"success": true, "usage": null});
        assert_eq!(mark_reused(&mut bare), Usd::ZERO);
        for cost in [json!(null), json!("x"), json!(-1), json!(1e300)] {
            assert_eq!(mark_reused(&mut json!({"usage": {"costUsd": cost}})), Usd::ZERO);
        }
        let mut none = json!({"success": true});
        assert_eq!(mark_reused(&mut none), Usd::ZERO);
        assert_eq!(none["usage"], json!({"calls": 0, "costUsd": 0.0, "reused": true}));
    }

    #[test]
    fn what_is_no_result_of_the_type_is_not_used() {
        let kind = JobType::GenerateFlashcards;
        let card = json!({"front": "a", "back": "b"});
        let good = json!({"jobId": "1", "result": {"success": true, "flashcards": [card]}, "cachedAt": 1});
        assert!(usable(kind, &good.to_string()).is_some());
        assert!(usable(JobType::ProcessImage, &good.to_string()).is_none());
        for entry in [
            "",
            "null",
            "7",
            "{",
            "[]",
            r#"{"result":null}"#,
            r#"{"result":{"success":true}}"#,
            r#"{"result":{"success":true,"flashcards":[]}}"#,
            r#"{"result":{"success":true,"flashcards":{"0":1}}}"#,
            r#"{"result":"success"}"#,
            r#"{"success":true,"flashcards":[1]}"#,
        ] {
            assert!(usable(kind, entry).is_none(), "{entry}");
        }
    }
}
