//! Bad jobs: made out of the seeds, put into a queue with raw commands, and what the queue's events say of them.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use backend_worker::queue::Layout;

use crate::support::TestRedis;

/// Bad jobs of a test, in each layout.
pub(super) const BAD: usize = 300;

/// A job as it stands in Redis: its fields, its payload (apart from them in the apalis layout), its history.
pub(super) struct Raw {
    pub(super) id: String,
    pub(super) fields: HashMap<Vec<u8>, Vec<u8>>,
    pub(super) payload: Vec<u8>,
    pub(super) history: Vec<Vec<u8>>,
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.id, self.fields)
    }
}

/// Parts of a seed that would make the worker wait for the internet.
fn seeds(target: &str, prefix: &str) -> Vec<Vec<u8>> {
    let seeds = hostile::seeds(target)
        .into_iter()
        .filter(|(name, _)| name.starts_with(prefix));
    let seeds: Vec<_> = seeds
        .map(|(_, seed)| match String::from_utf8(seed) {
            Ok(text) => text.replace("example.com", "127.0.0.1").into_bytes(),
            Err(error) => error.into_bytes(),
        })
        .collect();
    assert!(!seeds.is_empty());
    seeds
}

pub(super) fn bad_jobs(layout: Layout) -> Vec<Raw> {
    let (hashes, payloads) = match layout {
        Layout::Bullmq => (seeds("bullmq_job", ""), seeds("delivery", "named_")),
        Layout::Apalis => (seeds("apalis_meta", ""), seeds("delivery", "task_")),
    };
    // Each seed as it is for each way to end a job, then what is made out of them.
    let as_they_are = hashes
        .iter()
        .flat_map(|hash| std::iter::repeat_n(hash.clone(), 4));
    let hashes = as_they_are.chain(hostile::inputs(hashes.clone(), BAD));
    let jobs = hashes.zip(hostile::inputs(payloads, BAD)).enumerate();
    let jobs = jobs.map(|(nth, (hash, payload))| {
        let mut lines = hash.split(|byte| *byte == b'\n');
        let fields = lines.by_ref().take_while(|line| !line.is_empty()).map(|line| {
            let at = line.iter().position(|byte| *byte == b'=').unwrap_or(line.len());
            (
                line[..at].to_vec(),
                line.get(at + 1..).unwrap_or_default().to_vec(),
            )
        });
        let mut fields: HashMap<_, _> = fields.collect();
        let mut payload = payload;
        if layout == Layout::Bullmq
            && nth % 2 == 0
            && let Some(rest) = payload.strip_prefix(b"type:")
            && let Some(at) = rest.iter().position(|byte| *byte == b'\n')
        {
            fields.insert(b"name".to_vec(), rest[..at].to_vec());
            payload = rest[at + 1..].to_vec();
            fields.insert(b"data".to_vec(), payload.clone());
        }
        // What says whose the job is would be another test's.
        for own in ["id", "due"] {
            fields.remove(own.as_bytes());
        }
        let history = lines.map(<[u8]>::to_vec).collect();
        Raw {
            id: format!("bad-{nth}"),
            fields,
            payload,
            history,
        }
    });
    jobs.collect()
}

pub(super) async fn put(redis: &TestRedis, layout: Layout, job: &Raw) {
    let (hash, log, line) = match layout {
        Layout::Bullmq => (
            format!("bull:q:{}", job.id),
            format!("bull:q:{}:logs", job.id),
            "bull:q:wait",
        ),
        Layout::Apalis => (
            format!("q:meta:{}", job.id),
            format!("q:history:{}", job.id),
            "q:active",
        ),
    };
    let mut pipeline = redis::pipe();
    for (field, value) in &job.fields {
        pipeline.hset(&hash, field, value).ignore();
    }
    for row in &job.history {
        pipeline.rpush(&log, row).ignore();
    }
    match layout {
        Layout::Bullmq => pipeline.lpush(line, &job.id).ignore(),
        Layout::Apalis => pipeline
            .hset("q:data", &job.id, &job.payload)
            .rpush(line, &job.id)
            .ignore(),
    };
    pipeline.query_async::<()>(&mut redis.raw.clone()).await.unwrap();
}

/// Entries of the queue's events.
pub(super) type Events = Vec<(String, HashMap<Vec<u8>, Vec<u8>>)>;

/// Which jobs have ended, and how.
pub(super) fn ended(events: Events) -> HashSet<(String, String)> {
    let text = |fields: &HashMap<Vec<u8>, Vec<u8>>, name: &str| {
        String::from_utf8_lossy(fields.get(name.as_bytes()).map_or(b"", Vec::as_slice)).into_owned()
    };
    let all = events
        .iter()
        .map(|(_, fields)| (text(fields, "jobId"), text(fields, "event")));
    all.filter(|(_, event)| matches!(event.as_str(), "completed" | "failed"))
        .collect()
}
