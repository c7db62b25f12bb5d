//! Compares what was enqueued with what the simulator saw, what Redis holds and what Node's classes read.

use std::{
    collections::{BTreeMap, HashMap},
    time::{SystemTime, UNIX_EPOCH},
};

use backend_worker::{
    queue::{JobState, Layout},
    simulator::{JournalEntry, Provider},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    field::{Field, QUEUE, Record, neighbour},
    jobs,
    keys::leftovers,
};

/// Deliveries without an outcome after which a job may fail as poison.
const POISON_AFTER: u32 = 3;
/// Tries of a job's first attempt; each further attempt has one.
const TRIES: u32 = 3;
/// Upper bound of an answer's travel time: a replica that dies within it may not have received the answer.
pub(crate) const ON_ITS_WAY_MS: f64 = 150.0;

/// What an onlooker reads of one job.
struct Seen {
    state: String,
    attempts: u32,
    reason: String,
    success: bool,
}

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Figures for the report, in order.
    pub(crate) figures: Vec<(&'static str, String)>,
    /// What must not be.
    pub(crate) findings: Vec<String>,
}

impl Verdict {
    pub(crate) fn figure(&mut self, name: &'static str, value: impl ToString) {
        self.figures.push((name, value.to_string()));
    }

    /// A figure that has to be zero; `which` says what stands in its way.
    pub(crate) fn zero(&mut self, name: &'static str, which: &[String]) {
        self.figure(name, which.len());
        let first = which.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
        if !which.is_empty() {
            self.findings.push(format!("{name}: {} ({first})", which.len()));
        }
    }
}

impl Verdict {
    /// Adds what another audit has found.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.figures.append(&mut other.figures);
        self.findings.append(&mut other.findings);
    }
}

/// What the simulator saw of one job.
#[derive(Default)]
struct Calls {
    failed: u32,
    /// From arrival to answer, of those that were answered well.
    good: Vec<(f64, f64)>,
}

/// Audits a run whose jobs have had time to end, and whose replicas have been stopped.
pub(crate) async fn audit(field: &Field, strict: bool) -> Verdict {
    let mut verdict = Verdict::default();
    let census = field.node.ask("census", json!({})).await;
    let mut seen = from_node(&census);
    seen.extend(from_broker(field).await);
    let calls = calls(field);

    let (mut lost, mut stranded, mut failed, mut wrong, mut consumed) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut completed, mut poisoned) = (0, Vec::new());
    let ids = Layout::ALL
        .into_iter()
        .flat_map(|layout| (0..field.settings.jobs).map(move |n| (layout, n)));
    let none = Calls::default();
    for (layout, n) in ids {
        let id = jobs::id(layout, n);
        let Some(job) = seen.get(&id) else {
            lost.push(id);
            continue;
        };
        let marker = jobs::asked_by(layout, n, field.settings.repeats);
        let calls = calls.get(&marker).unwrap_or(&none);
        match job.state.as_str() {
            "completed" if job.success => completed += 1,
            "completed" => wrong.push(id.clone()),
            "failed" if job.reason.contains("poison: ") && field.record().kills >= POISON_AFTER => {
                poisoned.push(format!("{id} {}", calls.failed + calls.good.len() as u32))
            }
            "failed" => failed.push(format!("{id}: {}", job.reason)),
            state => stranded.push(format!("{id} {state}")),
        }
        // Of n attempts n - 1 have failed: the first by all its tries, each further one by one.
        let allowed = 1 + (calls.failed + 1).saturating_sub(TRIES);
        if job.state == "completed" && job.attempts > allowed {
            consumed.push(format!(
                "{id}: {} attempts, {} failed calls",
                job.attempts, calls.failed
            ));
        }
    }
    let jobs = field.settings.jobs * Layout::ALL.len();
    verdict.figure("jobs", jobs);
    verdict.figure("completed", completed);
    let of_each = if poisoned.is_empty() {
        String::new()
    } else {
        format!(" (calls: {})", poisoned.join(", "))
    };
    verdict.figure("failed as poison", format!("{}{of_each}", poisoned.len()));
    verdict.zero("lost", &lost);
    verdict.zero("stranded", &stranded);
    verdict.zero("failed without a cause", &failed);
    verdict.zero("completed without a result", &wrong);
    verdict.zero("attempts wrongly consumed", &consumed);
    completions(field, &census, &seen, &mut verdict).await;
    paid(field, &calls, strict, &mut verdict);
    limits(field, &mut verdict);
    let left = leftovers(field).await;
    verdict.zero("keys, permits and slots left behind", &left);
    verdict
}

fn from_node(census: &Value) -> HashMap<String, Seen> {
    let jobs = census["jobs"].as_object().unwrap();
    let seen = |job: &Value| Seen {
        state: job["state"].as_str().unwrap_or_default().to_owned(),
        attempts: job["attemptsMade"]
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(u32::MAX),
        reason: job["failedReason"].as_str().unwrap_or_default().to_owned(),
        success: job["success"] == true,
    };
    jobs.iter().map(|(id, job)| (id.clone(), seen(job))).collect()
}

async fn from_broker(field: &Field) -> HashMap<String, Seen> {
    let broker = field.broker(Layout::Apalis);
    stream::iter(0..field.settings.jobs)
        .map(|n| {
            let broker = broker.clone();
            async move {
                let id = jobs::id(Layout::Apalis, n);
                let job = broker.find(&id).await.unwrap()?;
                let state = match job.state {
                    JobState::Completed => "completed",
                    JobState::Failed => "failed",
                    JobState::Active => "active",
                    JobState::Delayed => "delayed",
                    JobState::Waiting => "waiting",
                };
                let seen = Seen {
                    state: state.to_owned(),
                    attempts: job.attempts_made,
                    reason: job.error.unwrap_or_default(),
                    success: job.result.is_some_and(|result| result["success"] == true),
                };
                Some((id, seen))
            }
        })
        .buffer_unordered(64)
        .filter_map(async |found| found)
        .collect()
        .await
}

fn calls(field: &Field) -> HashMap<String, Calls> {
    let mut calls: HashMap<String, Calls> = HashMap::new();
    for entry in Provider::ALL
        .map(|provider| field.simulator.journal().of(provider))
        .into_iter()
        .flatten()
    {
        let (from, took) = (entry.at_ms, entry.took_ms.unwrap_or_default());
        let is_good = is_good(&entry);
        let of_job = calls.entry(entry.marker).or_default();
        if is_good {
            of_job.good.push((from, from + took));
        } else {
            of_job.failed += 1;
        }
    }
    calls
}

/// Whether the answer is one that a job can be completed with.
fn is_good(entry: &JournalEntry) -> bool {
    entry.status.is_some_and(|status| status < 300) && entry.fault.is_none()
}

/// A completed job has one `completed` event, in the stream and at QueueEvents. In runs without a kill, replicas have
/// counted each job once.
async fn completions(field: &Field, census: &Value, seen: &HashMap<String, Seen>, verdict: &mut Verdict) {
    let mut in_stream: BTreeMap<String, u32> = BTreeMap::new();
    let (key, mut from) = (format!("bull:{QUEUE}:events"), "-".to_owned());
    loop {
        let page: Vec<(String, Vec<String>)> =
            field.order(&["XRANGE", &key, &from, "+", "COUNT", "1000"]).await;
        let Some((last, _)) = page.last() else { break };
        from = format!("({last}");
        for (_, fields) in &page {
            let field = |name: &str| {
                fields
                    .chunks(2)
                    .find(|pair| pair[0] == name)
                    .map(|pair| pair[1].as_str())
            };
            if field("event") == Some("completed") {
                *in_stream
                    .entry(field("jobId").unwrap_or_default().to_owned())
                    .or_default() += 1;
            }
        }
    }
    let mut wrong = Vec::new();
    for n in 0..field.settings.jobs {
        let id = jobs::id(Layout::Bullmq, n);
        let expected = u64::from(seen.get(&id).is_some_and(|job| job.state == "completed"));
        let stream = u64::from(in_stream.get(&id).copied().unwrap_or(0));
        let node = census["completed"][&id].as_u64().unwrap_or(0);
        if (stream, node) != (expected, expected) {
            wrong.push(format!("{id}: {stream} events, Node saw {node}, not {expected}"));
        }
    }
    let (succeeded, kills) = {
        let record = field.record();
        (record.succeeded, record.kills)
    };
    let done = seen.values().filter(|job| job.state == "completed").count() as u64;
    verdict.figure(
        "completed, as the replicas that were not killed counted",
        succeeded,
    );
    if kills == 0 && succeeded != done {
        wrong.push(format!("replicas counted {succeeded}, {done} are completed"));
    }
    verdict.zero("completed not exactly once", &wrong);
}

/// The reason for which a call was made again although it had a good answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PaidAgain {
    /// Its replica said that Redis did not take the answer.
    NotKept,
    /// A replica was killed or frozen before Redis can have taken the answer.
    Interrupted,
    /// Redis was out of the reach of some replica.
    CutOff,
    /// The answer had arrived, and Redis could take it.
    Unexplained,
}

/// Calls that were repeated although they had a good answer.
fn paid(field: &Field, calls: &HashMap<String, Calls>, strict: bool, verdict: &mut Verdict) {
    let record = field.record();
    let (mut answered, mut again) = (0, Vec::new());
    for (job, calls) in calls {
        answered += calls.good.len();
        // Each line of a replica explains one call.
        let mut not_kept = record.not_kept.get(job).copied().unwrap_or(0);
        for (from, to) in calls.good.iter().rev().skip(1) {
            let latest = taken_by(&record.writes, *to) + ON_ITS_WAY_MS;
            let around = |(begun, over): &(f64, f64)| *begun <= latest && *over >= *from;
            let interrupted = match &record.bereaved {
                Some(bereaved) => bereaved.iter().any(|(id, at)| id == job && around(&(*at, *at))),
                None => record.interruptions.iter().any(around),
            };
            let why = if not_kept > 0 {
                not_kept -= 1;
                PaidAgain::NotKept
            } else if interrupted {
                PaidAgain::Interrupted
            } else if record.partitions.iter().any(around) {
                PaidAgain::CutOff
            } else if neighbour().is_some() && record.unwritten.contains(job) {
                // Earlier versions do not say that the ledger lacks an answer.
                PaidAgain::NotKept
            } else {
                PaidAgain::Unexplained
            };
            again.push((why, job.as_str(), *to, latest));
        }
    }
    let count = |kind| again.iter().filter(|(why, ..)| *why == kind).count();
    let failed: u32 = calls.values().map(|calls| calls.failed).sum();
    verdict.figure("calls answered well", answered);
    verdict.figure("calls that failed or were cut", failed);
    verdict.figure(
        "paid again, its replica killed or frozen around the answer",
        count(PaidAgain::Interrupted),
    );
    if !record.partitions.is_empty() {
        verdict.figure(
            "paid again, Redis out of a replica's reach around the answer",
            count(PaidAgain::CutOff),
        );
    }
    if !record.not_kept.is_empty() {
        verdict.figure(
            "paid again, its replica said that Redis did not take the answer",
            count(PaidAgain::NotKept),
        );
    }
    let unexplained = again.iter().filter(|(why, ..)| *why == PaidAgain::Unexplained);
    let twice: Vec<String> = unexplained.map(|(_, job, ..)| (*job).to_owned()).collect();
    if strict {
        verdict.zero("paid again, the answer had arrived", &twice);
    } else {
        verdict.figure("paid again, the answer had arrived", twice.len());
    }
    again.sort_by_key(|(why, ..)| *why);
    write_evidence(field, &record, &again);
}

/// When Redis had taken the first write that the onlooker began after an answer had left. It took none from a replica much
/// sooner: what delays one, an outage of Redis or a machine that stands still, delays the other.
pub(crate) fn taken_by(writes: &[(f64, f64)], answered: f64) -> f64 {
    let first = writes.partition_point(|(from, _)| *from < answered);
    writes.get(first).map_or(answered, |(_, to)| *to)
}

/// Writes down what is known about calls that were paid for again, beside the logs of the replicas.
fn write_evidence(field: &Field, record: &Record, again: &[(PaidAgain, &str, f64, f64)]) {
    let journal = field.simulator.journal();
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
        * 1000.0;
    let calls: Vec<JournalEntry> = Provider::ALL
        .into_iter()
        .flat_map(|provider| journal.of(provider))
        .filter(|entry| again.iter().any(|(_, job, ..)| *job == entry.marker))
        .collect();
    let evidence = json!({
        "again": again.iter().map(|(why, job, to, latest)| json!([format!("{why:?}"), job, to, latest])).collect::<Vec<_>>(),
        "calls": calls,
        "unix_ms_at_start": now_ms - journal.elapsed_ms(),
        "faults": record.times,
        "interruptions": record.interruptions,
        "partitions": record.partitions,
    });
    let path = field.folder.join("paid-again.json");
    let _ = std::fs::write(path, evidence.to_string()); // Only read when the folder is kept.
}

#[test]
fn an_answer_is_taken_with_the_first_write_that_redis_takes() {
    // The second write began before the answer came, and the third one waited for Redis.
    let writes = [(0.0, 2.0), (90.0, 110.0), (120.0, 950.0), (960.0, 962.0)];
    assert_eq!(taken_by(&writes, 100.0), 950.0);
    assert_eq!(taken_by(&writes, 2000.0), 2000.0, "the onlooker has left");
    assert_eq!(taken_by(&[], 7.0), 7.0);
}

/// What the provider saw at a time and in a minute. Only where Redis was there all the time is it one limit that all
/// replicas share; elsewhere what each grants by itself comes on top of what Redis had granted: four fifths more in
/// all.
fn limits(field: &Field, verdict: &mut Verdict) {
    let (settings, counts) = (
        &field.settings,
        field.simulator.journal().counts(Provider::OpenAi),
    );
    verdict.figure(
        "OpenAI calls at a time (limit)",
        format!("{} ({})", counts.peak, settings.calls),
    );
    verdict.figure(
        "OpenAI calls in a minute (limit)",
        format!("{} ({})", counts.max_per_minute, settings.rpm),
    );
    let only_kills = field.record().faults.keys().all(|name| *name == "SIGKILL");
    let most = |limit: u64| if only_kills { limit } else { limit * 9 / 5 };
    let over = counts.peak > most(settings.calls)
        || (settings.rpm > 0 && counts.max_per_minute > most(settings.rpm));
    if over {
        verdict.findings.push(format!(
            "limits overshot: {} at a time, {} a minute",
            counts.peak, counts.max_per_minute
        ));
    }
}
