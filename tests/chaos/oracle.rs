//! Compares what was enqueued with what the simulator saw, what Redis holds and what Node's classes read.

use std::collections::{BTreeMap, HashMap};

use backend_worker::{
    queue::{JobState, Layout},
    simulator::{JournalEntry, Provider},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    field::{Field, QUEUE},
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

/// Calls that were repeated although they had a good answer.
fn paid(field: &Field, calls: &HashMap<String, Calls>, strict: bool, verdict: &mut Verdict) {
    let record = field.record();
    let (mut answered, mut unknown, mut cut_off, mut unwritten, mut twice) = (0, 0, 0, 0, Vec::new());
    for (job, calls) in calls {
        answered += calls.good.len();
        for (from, to) in calls.good.iter().rev().skip(1) {
            let around = |(begun, over): &(f64, f64)| *begun <= to + ON_ITS_WAY_MS && *over >= *from;
            let interrupted = match &record.bereaved {
                Some(bereaved) => bereaved.iter().any(|(id, at)| id == job && around(&(*at, *at))),
                None => record.interruptions.iter().any(around),
            };
            if interrupted {
                unknown += 1;
            } else if record.partitions.iter().any(around) {
                cut_off += 1;
            } else if record.unwritten.contains(job) {
                unwritten += 1;
            } else {
                twice.push(job.clone());
            }
        }
    }
    let failed: u32 = calls.values().map(|calls| calls.failed).sum();
    verdict.figure("calls answered well", answered);
    verdict.figure("calls that failed or were cut", failed);
    verdict.figure(
        "paid again, its replica killed or frozen around the answer",
        unknown,
    );
    if !record.partitions.is_empty() {
        verdict.figure(
            "paid again, Redis out of a replica's reach around the answer",
            cut_off,
        );
    }
    if !record.unwritten.is_empty() {
        verdict.figure(
            "paid again, Redis did not take the answer while its replica had it",
            unwritten,
        );
    }
    if strict {
        verdict.zero("paid again, the answer had arrived", &twice);
    } else {
        verdict.figure("paid again, the answer had arrived", twice.len());
    }
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
