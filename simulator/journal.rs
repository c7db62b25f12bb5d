//! Records the simulator's requests, their times and answers. Tests use the record to prove that the worker kept limits
//! and paid for no call twice. The journal keeps the last [`KEPT`] requests; the counters cover all.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, Method, Uri};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Bill, Provider};

/// How many requests are remembered.
pub const KEPT: usize = 100_000;

/// The headers that are copied: enough to see what a client sent, and no key among them.
const HEADERS: [&str; 10] = [
    "accept",
    "content-length",
    "content-type",
    "idempotency-key",
    "openai-organization",
    "openai-project",
    "traceparent",
    "user-agent",
    "x-client-request-id",
    "x-request-id",
];

/// One request to a provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Number of the request, from 0, in the order of arrival over all providers.
    pub seq: u64,
    /// Which provider was asked.
    pub provider: Provider,
    /// Arrival, milliseconds since the simulator started, by the monotonic clock.
    pub at_ms: f64,
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The first `job-…` name found in the request; else its body hash. A poll carries that of its image.
    pub marker: String,
    /// Sixteen hexadecimal digits of the body; empty until the body has been read.
    pub body_hash: String,
    /// Length of the body.
    pub body_bytes: usize,
    /// Request headers of interest; never a key.
    pub headers: BTreeMap<String, String>,
    /// Kind of the fault that was applied, if one was.
    pub fault: Option<String>,
    /// Status of the answer. `None` while the request is in progress; stays `None` if the connection was reset or the
    /// client left.
    pub status: Option<u16>,
    /// What the provider charges for the answer, also where it does not arrive as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bill: Option<Bill>,
    /// From arrival to answer, milliseconds; `None` as for `status`.
    pub took_ms: Option<f64>,
}

/// Counters of one provider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderCounts {
    /// Requests that arrived.
    pub requests: u64,
    /// Requests in progress now: from the arrival of the headers until the answer is ready, or its stream has ended.
    pub current: u64,
    /// Most requests that were ever in progress at once.
    pub peak: u64,
    /// Most requests that arrived within any 60 s, of those remembered.
    pub max_per_minute: u64,
    /// Requests that ended without an answer: reset, or the client left.
    pub unanswered: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Faults applied, by kind.
    pub faults: BTreeMap<String, u64>,
}

/// The record of requests. Cheap to clone; clones share the record.
#[derive(Clone)]
pub struct RequestJournal(Arc<JournalState>);

struct JournalState {
    started: Instant,
    record: Mutex<JournalRecord>,
    /// Wakes [`RequestJournal::wait_until`]; the value itself says nothing.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct JournalRecord {
    next: u64,
    entries: VecDeque<JournalEntry>,
    counts: [ProviderCounts; Provider::ALL.len()],
}

impl RequestJournal {
    pub(super) fn new() -> Self {
        Self(Arc::new(JournalState {
            started: Instant::now(),
            record: Mutex::default(),
            changed: watch::Sender::new(()),
        }))
    }

    /// The remembered requests from number `since` on, at most `limit` of them, oldest first.
    pub fn entries(&self, since: u64, limit: usize) -> Vec<JournalEntry> {
        let record = self.record();
        let skipped = usize::try_from(since.saturating_sub(record.first())).unwrap_or(usize::MAX);
        record.entries.iter().skip(skipped).take(limit).cloned().collect()
    }

    /// All remembered requests to one provider, oldest first.
    pub fn of(&self, provider: Provider) -> Vec<JournalEntry> {
        self.record()
            .entries
            .iter()
            .filter(|entry| entry.provider == provider)
            .cloned()
            .collect()
    }

    /// The counters of one provider.
    pub fn counts(&self, provider: Provider) -> ProviderCounts {
        let max_per_minute = self.peak_in_window(provider, Duration::from_secs(60)) as u64;
        ProviderCounts {
            max_per_minute,
            ..self.record().counts[provider as usize].clone()
        }
    }

    /// Most requests to the provider that arrived within any span of this length (the end not included), of
    /// those remembered.
    pub fn peak_in_window(&self, provider: Provider, window: Duration) -> usize {
        let record = self.record();
        let arrivals = record
            .entries
            .iter()
            .filter(|entry| entry.provider == provider)
            .map(|entry| entry.at_ms);
        widest(arrivals, window)
    }

    /// Milliseconds since the simulator started.
    pub fn elapsed_ms(&self) -> f64 {
        millis(self.0.started.elapsed())
    }

    /// Returns once the condition holds. It is looked at now, and after each change of the journal.
    pub async fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let mut changes = self.0.changed.subscribe();
        while !condition(self) {
            // Cannot fail: the sender lives as long as `self`.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Notes an arrival. The request counts as in progress until the visit is dropped.
    pub(super) fn open(
        &self,
        provider: Provider,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> OpenRequest {
        let headers = HEADERS
            .into_iter()
            .filter_map(|name| {
                let value = String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned();
                Some((name.to_owned(), value))
            })
            .collect();
        let mut record = self.record();
        let seq = record.next;
        record.next += 1;
        if record.entries.len() == KEPT {
            record.entries.pop_front();
        }
        record.entries.push_back(JournalEntry {
            seq,
            provider,
            // Taken under the lock, so that numbers and times have the same order.
            at_ms: self.elapsed_ms(),
            method: method.to_string(),
            path: uri
                .path_and_query()
                .map_or_else(|| uri.path().to_owned(), ToString::to_string),
            marker: String::new(),
            body_hash: String::new(),
            body_bytes: 0,
            headers,
            fault: None,
            status: None,
            bill: None,
            took_ms: None,
        });
        let counts = &mut record.counts[provider as usize];
        counts.requests += 1;
        counts.current += 1;
        counts.peak = counts.peak.max(counts.current);
        drop(record);
        self.0.changed.send_replace(());
        OpenRequest {
            journal: self.clone(),
            provider,
            seq,
            answered: false,
        }
    }

    fn record(&self) -> MutexGuard<'_, JournalRecord> {
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RequestJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("requests", &self.record().next)
            .finish_non_exhaustive()
    }
}

impl JournalRecord {
    fn first(&self) -> u64 {
        self.entries.front().map_or(self.next, |entry| entry.seq)
    }

    /// `None` when the request has been forgotten since.
    fn entry(&mut self, seq: u64) -> Option<&mut JournalEntry> {
        let index = usize::try_from(seq.checked_sub(self.first())?).ok()?;
        self.entries.get_mut(index)
    }
}

/// One request in progress. Dropped without an answer, the request counts as unanswered.
pub(super) struct OpenRequest {
    journal: RequestJournal,
    provider: Provider,
    pub(super) seq: u64,
    answered: bool,
}

impl OpenRequest {
    /// Notes what the body told.
    pub(super) fn read(&self, marker: String, body_hash: String, body_bytes: usize) {
        if let Some(entry) = self.journal.record().entry(self.seq) {
            (entry.marker, entry.body_hash, entry.body_bytes) = (marker, body_hash, body_bytes);
        }
        self.journal.0.changed.send_replace(());
    }

    /// Notes the fault that is about to be applied.
    pub(super) fn fault(&self, kind: &'static str) {
        let mut record = self.journal.record();
        if let Some(entry) = record.entry(self.seq) {
            entry.fault = Some(kind.to_owned());
        }
        *record.counts[self.provider as usize]
            .faults
            .entry(kind.to_owned())
            .or_default() += 1;
    }

    /// Notes what the provider will charge for an answer that is on its way.
    pub(super) fn bill(&self, bill: Option<Bill>) {
        if let Some(entry) = self.journal.record().entry(self.seq) {
            entry.bill = bill.map(|bill| bill.priced(self.provider));
        }
    }

    /// Notes the answer, and ends the visit.
    pub(super) fn answer(self, status: u16, bill: Option<Bill>) {
        self.bill(bill);
        self.end(status);
    }

    /// Ends the visit of a request that was answered.
    pub(super) fn end(mut self, status: u16) {
        self.answered = true;
        let now = self.journal.elapsed_ms();
        let mut record = self.journal.record();
        if let Some(entry) = record.entry(self.seq) {
            entry.status = Some(status);
            entry.took_ms = Some(((now - entry.at_ms) * 1000.0).round() / 1000.0);
        }
        *record.counts[self.provider as usize]
            .statuses
            .entry(status)
            .or_default() += 1;
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut record = self.journal.record();
        let counts = &mut record.counts[self.provider as usize];
        counts.current -= 1;
        counts.unanswered += u64::from(!self.answered);
        drop(record);
        self.journal.0.changed.send_replace(());
    }
}

/// Most of the ascending times (ms) that lie within any span `[t, t + window)`.
pub(super) fn widest(times: impl Iterator<Item = f64>, window: Duration) -> usize {
    let (window, mut span, mut most) = (millis(window), VecDeque::new(), 0);
    for time in times {
        span.push_back(time);
        while span.front().is_some_and(|first| time - first >= window) {
            span.pop_front();
        }
        most = most.max(span.len());
    }
    most
}

/// To the microsecond: such numbers survive being written as JSON and read again.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
