//! Finds jobs that wait where no worker looks. The queue's name is misspelt, its BullMQ prefix is not served, or `QUEUES`
//! leaves its layout out.
//!
//! A walk over the keyspace in small batches picks keys by their names, then looks at their types and lengths. It never
//! holds Redis up, and ends after a bounded number of keys; the next walk goes on from there. A queue counts as served
//! if any worker has left a sign of life, so a queue of another program is not named. One replica of the whole fleet walks
//! once an hour, and warns of the queues that it finds.

use std::{collections::BTreeMap, fmt, time::Duration};

use rand::RngExt;
use redis::RedisError;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    config::QueueSpec,
    connection::Connection,
    keys::{ApalisKeys, BullKeys, UnservedKeys},
    queue::Layout,
    redis_error::RedisErrorClass,
};

/// Matches the endings of keys that hold waiting jobs, and few others. Ids of jobs, decimal or hexadecimal, do not match.
const PATTERN: &str = "*:[wpdas][aerc][iulth]*[tde]";
/// Keys that one SCAN looks at.
const SCAN_COUNT: usize = 500;
/// SCANs of one walk, and the pause between two of them.
const MOST_SCANS: usize = 2_000;
const SCAN_PAUSE: Duration = Duration::from_millis(2);
/// Queues that one walk looks into.
const MOST_QUEUES: usize = 100;
/// Queues that a message names.
const MOST_NAMED: usize = 10;
/// Characters of a name in a message. A stranger has chosen the name.
const LONGEST_NAME: usize = 80;
/// Random delay of the first walk, because replicas start together.
const FIRST_LOOK: std::ops::Range<Duration> = Duration::from_secs(1)..Duration::from_secs(10);
const HOUR: Duration = Duration::from_hours(1);
/// How often a replica asks whether the fleet's next walk is due.
const ASK_EVERY: Duration = Duration::from_mins(5);
/// How long a replica may walk until another one does, where it has died or Redis has not answered it.
const WALK_TAKES: Duration = Duration::from_mins(4);
/// Workers of apalis-redis that were seen within this time serve their queue.
const WORKER_GONE_AFTER: Duration = Duration::from_mins(2);

/// Jobs that wait where no worker looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnservedQueue {
    /// How the queue is laid out.
    pub layout: Layout,
    /// The prefix of its keys' names.
    pub base: String,
    /// Jobs that wait, delayed ones included.
    pub jobs: u64,
    /// The likely fault and its cure.
    pub advice: String,
}

impl fmt::Display for UnservedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            layout,
            base,
            jobs,
            advice,
        } = self;
        write!(
            f,
            "{jobs} job(s) wait in {} (layout {layout}): {advice}",
            shown(base)
        )
    }
}

/// The result of a walk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnservedJobs {
    /// The queues.
    pub queues: Vec<UnservedQueue>,
    /// False if the walk ended before the end of the keyspace.
    pub is_whole: bool,
    /// Queues that this user of Redis may not look into.
    pub hidden: usize,
    /// Where the next walk goes on.
    cursor: u64,
}

impl UnservedJobs {
    /// The queues in one line; `None` where there are none.
    pub fn in_words(&self) -> Option<String> {
        let mut words: Vec<String> = self
            .queues
            .iter()
            .take(MOST_NAMED)
            .map(ToString::to_string)
            .collect();
        let more = self.queues.len().saturating_sub(MOST_NAMED);
        if more > 0 {
            words.push(format!("and {more} more queue(s)"));
        }
        (!words.is_empty()).then(|| words.join("; "))
    }
}

/// Looks for jobs that no worker serves.
#[derive(Debug, Clone)]
pub struct UnservedQueueWatch {
    connection: Connection,
    served: Vec<(Layout, String)>,
    /// The prefix of BullMQ that is served.
    prefix: String,
    replica: String,
}

impl UnservedQueueWatch {
    /// A watch of a replica called `replica`, which serves these queues.
    pub fn new(connection: Connection, queues: &[QueueSpec], replica: &str) -> Self {
        Self {
            served: queues
                .iter()
                .map(|queue| match queue.layout {
                    Layout::Apalis => (queue.layout, connection.namespace().of_queue(&queue.name)),
                    Layout::Bullmq => (queue.layout, queue.name.clone()),
                })
                .collect(),
            connection,
            prefix: BullKeys::DEFAULT_PREFIX.to_owned(),
            replica: replica.to_owned(),
        }
    }

    /// The same watch where BullMQ's queues are served under another prefix.
    #[must_use]
    pub fn under_prefix(self, prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            ..self
        }
    }

    /// Warns once an hour in the whole fleet, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut pause = rand::rng().random_range(FIRST_LOOK);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let looked = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                looked = self.look_for_fleet() => looked,
            };
            match looked {
                Ok(found) => {
                    for queue in found.iter().flat_map(|found| &found.queues).take(MOST_NAMED) {
                        let (name, jobs) = (shown(&queue.base), queue.jobs);
                        warn!(queue = name, jobs, "no worker serves a queue: {queue}");
                    }
                }
                Err(error) => {
                    debug!(%error, "queues without a worker were not looked for: Redis did not answer, and a replica looks again within minutes")
                }
            }
            pause = ASK_EVERY;
        }
    }

    /// Makes a walk, if no replica of the fleet has made one within the hour.
    ///
    /// # Errors
    /// Redis's. The next replica that asks makes the walk then.
    pub async fn look_for_fleet(&self) -> Result<Option<UnservedJobs>, RedisError> {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut claim = redis::pipe();
        claim
            .cmd("SET")
            .arg(self.connection.named(UnservedKeys::LOOK))
            .arg(&self.replica)
            .arg("NX")
            .arg("PX")
            .arg(milliseconds(WALK_TAKES));
        claim.cmd("GET").arg(self.connection.named(UnservedKeys::CURSOR));
        let (is_ours, cursor): (Option<String>, Option<u64>) = self.connection.query(&claim).await?;
        if is_ours.is_none() {
            return Ok(None);
        }
        let walk = tokio::time::timeout(WALK_TAKES, self.look(cursor.unwrap_or_default()));
        let Ok(found) = walk.await else {
            return Ok(None); // Its claim has expired.
        };
        let found = found?;
        // Only a walk that was made counts for the hour.
        let mut keep = redis::pipe();
        keep.cmd("SET")
            .arg(self.connection.named(UnservedKeys::LOOK))
            .arg(&self.replica)
            .arg("PX")
            .arg(milliseconds(HOUR));
        keep.cmd("SET")
            .arg(self.connection.named(UnservedKeys::CURSOR))
            .arg(found.cursor)
            .arg("PX")
            .arg(milliseconds(HOUR).saturating_mul(2));
        self.connection.query::<()>(&keep).await?;
        Ok(Some(found))
    }

    /// Makes a walk from this cursor of SCAN.
    ///
    /// # Errors
    /// Redis's.
    pub async fn look(&self, mut cursor: u64) -> Result<UnservedJobs, RedisError> {
        // The keys with waiting jobs, by the names of their queues.
        let mut candidates: BTreeMap<(&'static str, String), Vec<String>> = BTreeMap::new();
        for _ in 0..MOST_SCANS {
            let mut scan = redis::pipe();
            scan.cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(PATTERN)
                .arg("COUNT")
                .arg(SCAN_COUNT);
            let ((next, keys),): ((u64, Vec<Vec<u8>>),) = self.connection.query(&scan).await?;
            let keys = keys.into_iter().filter_map(|key| String::from_utf8(key).ok());
            // A node of a cluster has keys of other fleets too.
            for key in keys.filter(|key| self.connection.namespace().holds(key)) {
                let Some((layout, base)) = queue_of(&key) else {
                    continue;
                };
                let name = (layout.as_str(), base.to_owned());
                let is_one_too_many = candidates.len() == MOST_QUEUES && !candidates.contains_key(&name);
                if self.serves(layout, base) || is_one_too_many {
                    continue;
                }
                // SCAN may return a key twice.
                let keys = candidates.entry(name).or_default();
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
            tokio::time::sleep(SCAN_PAUSE).await;
        }
        let mut found = UnservedJobs {
            is_whole: cursor == 0,
            cursor,
            ..UnservedJobs::default()
        };
        for ((layout, base), keys) in candidates {
            let layout = Layout::ALL.into_iter().find(|known| known.as_str() == layout);
            let Some(layout) = layout else { continue };
            match self.waiting(layout, &base, &keys).await {
                Ok(0) => {}
                Ok(jobs) => {
                    let advice = self.advice(layout, &base);
                    found.queues.push(UnservedQueue {
                        layout,
                        base,
                        jobs,
                        advice,
                    });
                }
                Err(error) if RedisErrorClass::of(&error) == RedisErrorClass::NoAnswer => return Err(error),
                Err(_) => found.hidden += 1,
            }
        }
        Ok(found)
    }

    fn serves(&self, layout: Layout, base: &str) -> bool {
        self.served
            .iter()
            .any(|(known, queue)| *known == layout && base_of(*known, &self.prefix, queue) == base)
    }

    /// Counts the jobs that wait in these keys; 0 if a worker serves the queue, or if the keys belong to no queue.
    async fn waiting(&self, layout: Layout, base: &str, keys: &[String]) -> Result<u64, RedisError> {
        if self.is_served(layout, base).await? {
            return Ok(0);
        }
        let mut jobs: u64 = 0;
        for key in keys {
            let mut ask = redis::pipe();
            ask.cmd("TYPE").arg(key);
            let (kind,): (String,) = self.connection.query(&ask).await?;
            let length = match kind.as_str() {
                "list" => "LLEN",
                "zset" => "ZCARD",
                _ => continue,
            };
            let mut ask = redis::pipe();
            ask.cmd(length).arg(key);
            let (count,): (u64,) = self.connection.query(&ask).await?;
            jobs = jobs.saturating_add(count);
        }
        Ok(jobs)
    }

    /// Returns true if a worker has left a sign of life. Keys without payloads are no apalis queue, and count as served.
    async fn is_served(&self, layout: Layout, base: &str) -> Result<bool, RedisError> {
        match layout {
            Layout::Bullmq => {
                // BullMQ's own workers renew the first, this worker the second.
                let signs = [format!("{base}:stalled-check"), format!("{base}:bw:witness")];
                let mut ask = redis::pipe();
                ask.cmd("EXISTS").arg(&signs);
                let (signs,): (u64,) = self.connection.query(&ask).await?;
                Ok(signs > 0)
            }
            Layout::Apalis => {
                let keys = ApalisKeys::new(base);
                let mut ask = redis::pipe();
                ask.cmd("EXISTS").arg(&keys.data);
                ask.cmd("EXISTS").arg(&keys.witness);
                ask.cmd("TIME");
                let (has_payloads, witness, (now, _)): (bool, bool, (u64, u64)) =
                    self.connection.query(&ask).await?;
                if !has_payloads || witness {
                    return Ok(true);
                }
                let mut ask = redis::pipe();
                let since = now.saturating_sub(WORKER_GONE_AFTER.as_secs());
                ask.cmd("ZCOUNT").arg(&keys.workers).arg(since).arg("+inf");
                let (workers,): (u64,) = self.connection.query(&ask).await?;
                Ok(workers > 0)
            }
        }
    }

    /// Names the likely fault and its cure.
    fn advice(&self, layout: Layout, base: &str) -> String {
        let (prefix, name) = match layout {
            Layout::Bullmq => base.rsplit_once(':').unwrap_or(("", base)),
            Layout::Apalis => (&*self.prefix, base),
        };
        if prefix != self.prefix {
            return format!(
                "its producer uses the prefix {}; this worker serves the prefix {}: give both the same, as the producer's \
                 option `prefix` and as BULLMQ_PREFIX",
                shown(prefix),
                self.prefix
            );
        }
        let served: Vec<&str> = self.served.iter().map(|(_, queue)| queue.as_str()).collect();
        let near = served
            .iter()
            .filter(|queue| **queue != name)
            .min_by_key(|queue| distance(queue, name));
        match near {
            _ if served.contains(&name) => {
                format!(
                    "QUEUES serves this queue in the other layout alone: add {layout}:{}",
                    shown(name)
                )
            }
            Some(queue) if distance(queue, name) <= most_typos(queue) => format!(
                "perhaps a misspelling of {queue}: correct the producer, or add {layout}:{} to QUEUES",
                shown(name)
            ),
            _ => format!(
                "add {layout}:{} to QUEUES, or start the worker that serves it",
                shown(name)
            ),
        }
    }
}

fn base_of(layout: Layout, prefix: &str, queue: &str) -> String {
    match layout {
        Layout::Bullmq => format!("{prefix}:{queue}"),
        Layout::Apalis => queue.to_owned(),
    }
}

/// The queue whose waiting jobs a key of this name holds.
fn queue_of(key: &str) -> Option<(Layout, &str)> {
    let (base, state) = key.rsplit_once(':').filter(|(base, _)| !base.is_empty())?;
    match state {
        "wait" | "paused" | "prioritized" | "delayed" => {
            // The keys of a fair line, and BullMQ's other keys, begin with the queue's name too, and end differently.
            base.contains(':').then_some((Layout::Bullmq, base))
        }
        "active" | "scheduled" => Some((Layout::Apalis, base)),
        _ => None,
    }
}

/// Typing errors up to which a name is suggested.
fn most_typos(name: &str) -> usize {
    (name.len() / 4).clamp(1, 3)
}

/// Characters to insert, remove or replace (Levenshtein). Long names are far from each other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().max(b.len()) > LONGEST_NAME {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Shortens a stranger's name for a message, and drops its control characters.
fn shown(name: &str) -> String {
    let mut shown: String = name
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_NAME)
        .collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_waiting_jobs_are_told_by_their_names() {
        for (key, queue) in [
            ("bull:ai-jobs:wait", Some((Layout::Bullmq, "bull:ai-jobs"))),
            (
                "{my:app}:ai-jobs:prioritized",
                Some((Layout::Bullmq, "{my:app}:ai-jobs")),
            ),
            ("ai-job:active", Some((Layout::Apalis, "ai-job"))),
            ("ai-job:scheduled", Some((Layout::Apalis, "ai-job"))),
            // A key of one queue alone is no queue of BullMQ: those have a prefix.
            ("ai-jobs:wait", None),
            ("bull:ai-jobs:completed", None),
            ("bull:ai-jobs:bw:fair", None),
            (":active", None),
            ("active", None),
        ] {
            assert_eq!(queue_of(key), queue, "{key}");
        }
    }

    #[test]
    fn misspelt_names_are_near() {
        assert_eq!(distance("ai-jobs", "ai-jobs"), 0);
        assert_eq!(distance("ai-jobs", "ai-job"), 1);
        assert_eq!(distance("ai-jobs", "ia-jobs"), 2);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("a", &"b".repeat(200)), usize::MAX);
        assert!(distance("audio-jobs", "email") > most_typos("audio-jobs"));
    }
}
