//! Each outcome twice: a worker of BullMQ's own and this worker run the same job, by the same script, and what Node's
//! classes see of both is compared: fields, states, and all events in their order.
//!
//! - [`stage`]: a queue, an onlooker, and one of the two workers.
//! - [`cases`]: the outcomes.
//!
//! Where the two differ on purpose, [`DIFFERENCES`] says where and why. It holds both ways: a difference that it does
//! not name fails the test, and so does one that it names and that is not there.

mod cases;
mod stage;

use jobs::{FailureClass, student_sentence};
use serde_json::Value;

use stage::{Side, Stage};

/// Where this worker differs from Node's on purpose.
struct Difference {
    /// In these outcomes.
    outcomes: &'static [&'static str],
    /// What was compared, as [`compare`] names it: `*` stands for any number.
    at: &'static str,
    node: &'static str,
    ours: &'static str,
    why: &'static str,
}

#[rustfmt::skip]
const DIFFERENCES: &[Difference] = &[
    Difference {
        outcomes: &[
            "retried_at_once", "retried_after_a_fixed_wait", "retried_after_waits_that_double",
            "retried_after_a_wait_with_jitter", "failed_after_its_attempts", "failed_for_good",
            "paused_while_retries_come_due", "rate_limited_by_its_provider", "kept_by_age_and_count_when_failed",
        ],
        at: "/views/*/history", node: "false", ours: "true",
        why: "each failed attempt leaves a line in the job's log",
    },
    Difference {
        outcomes: &["rate_limited_by_its_provider"],
        at: "/views/0/state", node: r#""waiting""#, ours: r#""delayed""#,
        why: "a RateLimitError holds the whole queue up, whatever its jobs use; here only the jobs of that provider wait, \
            each until its time",
    },
    Difference {
        outcomes: &["rate_limited_by_its_provider"],
        at: "/views/0/delay", node: "0", ours: "60000",
        why: "as above: the job has a time of its own",
    },
    Difference {
        outcomes: &["rate_limited_by_its_provider"],
        at: "/events/4", node: r#"{"event":"waiting","jobId":"j1","prev":"active"}"#,
        ours: r#"{"event":"delayed","jobId":"j1","delay":"a time"}"#,
        why: "as above",
    },
    Difference {
        outcomes: &["rate_limited_by_its_provider"],
        at: "/events/5", node: "nothing",
        ours: r#"{"event":"waiting","jobId":"j1","prev":"delayed"}"#,
        why: "as above: one event more, when its time has come",
    },
    Difference {
        outcomes: &["kept_by_the_workers_own_rule"],
        at: "/views/0/state", node: r#""completed""#, ours: r#""gone""#,
        why: "where the producer says nothing Node keeps completed jobs for ever, this worker for KEEP_COMPLETED_FOR",
    },
    Difference {
        outcomes: &["kept_by_the_workers_own_rule"],
        at: "/counts/completed", node: "2", ours: "1",
        why: "as above",
    },
    Difference {
        outcomes: &["limited_by_its_queue"],
        at: "/events/18", node: "nothing", ours: r#"{"event":"drained"}"#,
        why: "Node forgets to say that the queue is empty when its limit is used up as well",
    },
];

/// Has both workers play an outcome, and holds the two records against each other.
async fn compare(outcome: &str, play: impl AsyncFn(&Stage)) {
    let record = async |side| {
        let stage = Stage::set(side).await;
        play(&stage).await;
        stage.end().await
    };
    let (node, mut ours) = tokio::join!(record(Side::Node), record(Side::Ours));
    take_sentences(&mut ours);
    let mut found = Vec::new();
    differ("", Some(&node), Some(&ours), &mut found);

    let listed: Vec<_> = DIFFERENCES
        .iter()
        .filter(|d| d.outcomes.contains(&outcome))
        .collect();
    let is = |d: &Difference, (at, node, ours): &(String, String, String)| {
        matches(d.at, at) && d.node == node && d.ours == ours
    };
    let surprises: Vec<_> = found
        .iter()
        .filter(|f| !listed.iter().any(|d| is(d, f)))
        .collect();
    let missed: Vec<_> = listed
        .iter()
        .filter(|d| !found.iter().any(|f| is(d, f)))
        .map(|d| (d.at, d.why))
        .collect();
    assert!(
        surprises.is_empty() && missed.is_empty(),
        "{outcome}\nnot in the table (where, Node, ours): {surprises:#?}\nin the table, not seen: {missed:#?}\n\
        Node: {node:#}\nours: {ours:#}"
    );
}

/// Takes the sentence for the student, with which each of our reasons starts, out of the record. Node's worker has
/// none.
fn take_sentences(record: &mut Value) {
    match record {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(reason) if name == "failedReason" => *reason = without_sentence(reason),
                    value => take_sentences(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(take_sentences),
        _ => {}
    }
}

fn without_sentence(reason: &str) -> String {
    FailureClass::ALL
        .into_iter()
        .find_map(|class| {
            reason
                .strip_prefix(student_sentence(class, None))?
                .strip_prefix(' ')
        })
        .unwrap_or_else(|| panic!("{reason:?} does not start with a sentence for the student"))
        .to_owned()
}

/// Collects where two records differ, and what stands there on either side.
fn differ(at: &str, node: Option<&Value>, ours: Option<&Value>, found: &mut Vec<(String, String, String)>) {
    match (node, ours) {
        (Some(Value::Object(a)), Some(Value::Object(b)))
            if at.matches('/').count() < 3 && !at.starts_with("/events/") =>
        {
            let mut keys: Vec<_> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                differ(&format!("{at}/{key}"), a.get(key), b.get(key), found);
            }
        }
        // One event more or less is one difference, not one in each event after it.
        (Some(Value::Array(a)), Some(Value::Array(b))) if at == "/events" => {
            let same_end = a
                .iter()
                .rev()
                .zip(b.iter().rev())
                .take_while(|(x, y)| x == y)
                .count();
            for i in 0..(a.len().max(b.len()) - same_end) {
                let within = |events: &[Value]| events.len() - same_end > i;
                let (x, y) = (a.get(i).filter(|_| within(a)), b.get(i).filter(|_| within(b)));
                differ(&format!("{at}/{i}"), x, y, found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if at == "/views" => {
            for i in 0..a.len().max(b.len()) {
                differ(&format!("{at}/{i}"), a.get(i), b.get(i), found);
            }
        }
        (node, ours) if node == ours => {}
        (node, ours) => {
            let text = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            found.push((at.to_owned(), text(node), text(ours)));
        }
    }
}

/// Whether a place is one that the pattern names: `*` is any number.
fn matches(pattern: &str, at: &str) -> bool {
    let (mut pattern, mut at) = (pattern.split('/'), at.split('/'));
    loop {
        match (pattern.next(), at.next()) {
            (None, None) => return true,
            (Some("*"), Some(number)) if number.parse::<usize>().is_ok() => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}
