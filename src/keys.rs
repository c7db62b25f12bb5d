//! Names of every Redis key that the worker touches, in one place.
//!
//! In a Redis Cluster a fleet's tag stands in front of them, `{app}spend:reserved` ([`KeyNamespace`]); a page of the ledger
//! has it from its job.
//!
//! # The apalis-redis layout
//! [`ApalisKeys`] holds what `apalis_redis::Config` names, with the queue's name in front, and some names of our
//! own (marked so):
//!
//! | key | type | content |
//! |---|---|---|
//! | `<q>:active` | list | ids that wait, taken from the left |
//! | `<q>:scheduled` | zset | ids that wait for a time, score in seconds (ours carry milliseconds as a fraction) |
//! | `<q>:inflight:<worker>` | set | ids that the worker has claimed |
//! | `<q>:data` | hash | id → payload |
//! | `<q>:meta:<id>` | hash | attempts, max_attempts, status, result, …; ours: type (of what we enqueue), claim, settled, waited, progress, retried, awaited and reused (it waited for an equal job, and got its result), lost (deliveries without an outcome), begun (token of one that was noted to run), cut (lost ones that had begun), placed (token of the claim that has put a large result in its place) |
//! | `<q>:idempotency:<key>` | string | id of the task that holds the key |
//! | `<q>:done`, `<q>:dead` | set | ids that ended |
//! | `<q>:workers` | zset | worker → last seen, seconds |
//! | `<q>:leases` (ours) | zset | worker → when its lease ends, ms of Redis's clock |
//! | `<q>:ended:done`, `<q>:ended:dead` (ours) | zset | id → when it ended, ms: what retention and lists go by |
//! | `<q>:history:<id>` (ours) | list | one JSON line for each failed attempt, and each retry by hand |
//! | `<q>:session:<worker>` (ours) | hash | its last claim |
//! | `<q>:witness` (ours) | string | since when the fleet's renewals follow each other, ms; runs out where they do not |
//! | `<q>:paused` (ours) | string | present while the queue is paused |
//! | `<q>:parts:<id>`, `<q>:parts:<id>:followed` (ours) | string | the parts of a job's result so far; present while a client follows the job (`queue/partial_results.rs`) |
//! | `<q>:fair`, `:fair:turns`, `:fair:moved`, `:fair:line:<owner>` (ours) | hash, zset, hash, list | while jobs wait: whose turn it is (`queue/fair_line.lua`) |
//! | `<q>:fair:busy`, `:fair:full` (ours) | hash, string | with `USER_MAX_CONCURRENT`: owner → jobs in flight; and whether jobs wait for the end of one of these (`queue/owner_in_flight.lua`) |
//!
//! # The BullMQ layout
//! All names begin with `bull:<queue>:` (`BULLMQ_PREFIX` in the place of `bull`), and so does a job's hash. The scripts add
//! the rest of a name themselves, since they also write to the queues of parents. Our own fields of a job's hash are `bw:claim`, `bw:settled`
//! (tokens), `bw:waited` (ms), `bw:why`, `bw:gate`, `bw:retried` (the last order to retry it), `bw:awaited` and
//! `bw:reused` (it waited for an equal job, and got its result), `bw:owner` (of a large payload), `bw:placed` (token of the claim that has put a large result in its place), `bw:begun` and
//! `bw:cut` as `begun` and `cut`; one string a replica, `bw:session:<worker>`, with its last claim's number; the
//! string `bw:witness`, as `<q>:witness`; `bw:fair` and what begins with it, as `<q>:fair`; `bw:parts:<id>` and `bw:parts:<id>:followed`, as `<q>:parts:<id>`; and `bw:apart:<id>`, for
//! a moment, a hash that is to become a job with a large payload.
//!
//! | key | type | content |
//! |---|---|---|
//! | `wait`, `paused` | list | ids that wait, taken from the right |
//! | `prioritized`, `pc` | zset, string | ids that wait, by priority and then by that counter |
//! | `delayed` | zset | ids that wait for a time, score ms · 4096 + n |
//! | `waiting-children` | zset | parents that wait for children |
//! | `active` | list | claimed ids, pushed left |
//! | `completed`, `failed` | zset | id → when it ended, ms |
//! | `stalled` | set | suspects of BullMQ's own sweep |
//! | `marker` | zset | `0`: look now; `1`: when the next delayed job is due |
//! | `limiter` | string | claims of the current period |
//! | `meta` | hash | paused, concurrency, max, duration, opts.maxLenEvents, version |
//! | `events` | stream | what QueueEvents prints |
//! | `id` | string | counter of jobs |
//! | `repeat`, `repeat:<s>` | zset, hash | schedulers |
//! | `de:<d>`, `dn:<d>` | string, hash | who holds a deduplication id, and who follows |
//! | `<id>` | hash | the job |
//! | `<id>:lock` | string | the claim's token, for as long as it is renewed |
//! | `<id>:logs` | list | its log |
//! | `<id>:dependencies`, `:processed`, `:failed`, `:unsuccessful` | set, hash, hash, zset | its children |

mod migrations;
mod namespace;

use apalis_core::worker::context::WorkerContext;

pub use migrations::{BottleneckKeys, MigrationKeys};
pub use namespace::{KeyNamespace, slot_of};

/// String: written when a replica is asked for its health, to see whether Redis takes writes.
pub const FLEET_WRITE_PROBE: &str = "fleet:write-probe";
/// Hash: `<minute>:<count>` → what the fleet's jobs came to in that minute, `last:<replica>` → its last report.
pub const FLEET_MINUTES: &str = "fleet:minutes";
/// Zset: replica → when it was last heard of, ms.
pub const FLEET_SEEN: &str = "fleet:seen";
/// Hash: replica → what it said of itself then, JSON.
pub const FLEET_REPLICAS: &str = "fleet:replicas";

/// The keys of the hourly look for queues without a worker.
#[derive(Debug)]
pub struct UnservedKeys;

impl UnservedKeys {
    /// String: which replica has looked; it runs out when the next look is due.
    pub const LOOK: &'static str = "fleet:unserved:look";
    /// String: where the next walk over the keyspace goes on.
    pub const CURSOR: &'static str = "fleet:unserved:cursor";
}

/// The keys of one queue in the apalis-redis layout.
#[derive(Debug, Clone)]
pub struct ApalisKeys {
    /// List of ids that wait.
    pub active: String,
    /// Zset of ids that wait for a time.
    pub scheduled: String,
    /// Hash of payloads.
    pub data: String,
    /// Prefix of the meta hashes, with its colon.
    pub meta_prefix: String,
    /// Set of completed ids.
    pub done: String,
    /// Set of dead letters.
    pub dead: String,
    /// Zset of workers, as apalis knows them.
    pub workers: String,
    /// Prefix of the in-flight sets, with its colon.
    pub inflight_prefix: String,
    /// Zset of worker leases.
    pub leases: String,
    /// String that distinguishes an outage of Redis from dead workers.
    pub witness: String,
    /// Zset of completed ids by time.
    pub ended_done: String,
    /// Zset of dead letters by time.
    pub ended_dead: String,
    /// Prefix of the attempt histories, with its colon.
    pub history_prefix: String,
    /// Present while the queue is paused.
    pub paused: String,
    /// Hash: the state of the fair line, and what the names of its other keys begin with.
    pub fair: String,
    /// Prefix of the workers' session hashes, with its colon.
    pub session_prefix: String,
    /// Prefix of the strings that name who holds an idempotency key, with its colon.
    pub idempotency_prefix: String,
}

impl ApalisKeys {
    /// The keys of `queue`.
    pub fn new(queue: &str) -> Self {
        let config = apalis_redis::Config::default().queue(queue);
        Self {
            active: config.active_jobs_list(),
            scheduled: config.scheduled_jobs_set(),
            data: config.job_data_hash(),
            meta_prefix: format!("{}:", config.job_meta_hash()),
            done: config.done_jobs_set(),
            dead: config.dead_jobs_set(),
            workers: config.workers_set(),
            inflight_prefix: config.inflight_set_for(&WorkerContext::from("")),
            leases: format!("{queue}:leases"),
            witness: format!("{queue}:witness"),
            ended_done: format!("{queue}:ended:done"),
            ended_dead: format!("{queue}:ended:dead"),
            history_prefix: format!("{queue}:history:"),
            paused: format!("{queue}:paused"),
            fair: format!("{queue}:fair"),
            session_prefix: format!("{queue}:session:"),
            idempotency_prefix: format!("{}:", config.idempotency_key_set()),
        }
    }

    /// The in-flight set of one worker.
    pub fn inflight(&self, worker: &str) -> String {
        format!("{}{worker}", self.inflight_prefix)
    }

    /// The session hash of one worker.
    pub fn session(&self, worker: &str) -> String {
        format!("{}{worker}", self.session_prefix)
    }

    /// The meta hash of one job.
    pub fn meta(&self, id: &str) -> String {
        format!("{}{id}", self.meta_prefix)
    }

    /// The attempt history of one job.
    pub fn history(&self, id: &str) -> String {
        format!("{}{id}", self.history_prefix)
    }
}

/// A key that holds waiting jobs of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingLine {
    /// The key.
    pub key: String,
    /// The command that counts its jobs.
    pub counted_by: &'static str,
}

/// The keys of one queue in the BullMQ layout.
#[derive(Debug, Clone)]
pub struct BullKeys {
    /// The common prefix of the keys, with its colon.
    pub prefix: String,
    /// Zset that signals work to a blocked worker.
    pub marker: String,
    /// Ids that wait: the lists `wait` and `paused`, and the zset `prioritized`.
    pub waiting: [String; 3],
    /// List of claimed ids.
    pub active: String,
    /// Zset of completed ids.
    pub completed: String,
    /// Zset of dead letters.
    pub failed: String,
    /// Ids that wait for a time or for children: two zsets.
    pub delayed: [String; 2],
    /// Hash: the queue's own settings, and whether it is paused.
    pub meta: String,
    /// Stream of what happens.
    pub events: String,
}

impl BullKeys {
    /// Names behind the prefix that are not a job's.
    const RESERVED: &'static [&'static str] = &[
        "wait",
        "paused",
        "prioritized",
        "pc",
        "delayed",
        "waiting-children",
        "active",
        "completed",
        "failed",
        "stalled",
        "stalled-check",
        "marker",
        "limiter",
        "meta",
        "events",
        "id",
        "repeat",
    ];

    /// BullMQ's own prefix, where `BULLMQ_PREFIX` names no other.
    pub const DEFAULT_PREFIX: &'static str = "bull";

    /// The keys of `queue` under BullMQ's own prefix.
    pub fn new(queue: &str) -> Self {
        Self::under(Self::DEFAULT_PREFIX, queue)
    }

    /// The keys of `queue` under the `prefix` that its producers give BullMQ.
    pub fn under(prefix: &str, queue: &str) -> Self {
        let prefix = format!("{prefix}:{queue}:");
        let key = |name: &str| format!("{prefix}{name}");
        Self {
            marker: key("marker"),
            waiting: ["wait", "paused", "prioritized"].map(key),
            active: key("active"),
            completed: key("completed"),
            failed: key("failed"),
            delayed: ["delayed", "waiting-children"].map(key),
            meta: key("meta"),
            events: key("events"),
            prefix,
        }
    }

    /// A hash that is to become a job: its payload was too large for a script.
    pub fn apart(&self, id: &str) -> String {
        format!("{}bw:apart:{id}", self.prefix)
    }

    /// Returns true if `id` is valid for a job. Any other id would form keys of the queue, or of another job.
    pub fn is_job_id(id: &str) -> bool {
        !id.is_empty() && !id.contains(':') && !Self::RESERVED.contains(&id)
    }
}

/// Hash: the page of a job in the [ledger](crate::spend_ledger). `job` is the key of the job's own hash. Entry →
/// `?<mark>` of a call that was sent, or `=<tokens> <answer>`.
pub fn ledger_key(job: &str) -> String {
    format!("ledger:{job}")
}

/// Prefix of the keys under which the web API looks for results: `{jobId, result, cachedAt}`, JSON, 24 h. A
/// producer names one in a job's `opts.idempotencyKey`.
pub const IDEMPOTENCY_PREFIX: &str = "idempotency:";

/// Stands for the page of a call where the ledger is switched off. No key of this name exists.
pub const NO_PAGE: &str = "spend:no-page";

/// Prefix of the keys of equal jobs ([`crate::deduplication`]). `digest` is that of a producer's key, or of
/// type and payload:
///
/// | key | type | content | stays |
/// |---|---|---|---|
/// | `dedup:<digest>:result` | string | `{jobId, result, cachedAt}`, JSON, of jobs without a key of the web API | `DEDUPLICATE_TTL` |
/// | `dedup:<digest>:leader` | hash | the claim that runs: `claim` (key of its lock, or of its job), `token`, `leases`, `worker` | 4 h |
/// | `dedup:<digest>:waiting:<queue>` | zset | jobs that wait for it → since when, ms | 1 h after the last |
pub fn equal_jobs_prefix(digest: &str) -> String {
    format!("dedup:{digest}")
}

/// String: the result of equal jobs, where no key of the web API names another place.
pub fn equal_jobs_result(digest: &str) -> String {
    format!("dedup:{digest}:result")
}

/// The prefix of the keys of `spending`; `books.lua` puts the rest behind it:
///
/// | key | type | content | stays |
/// |---|---|---|---|
/// | `spend:day:<day>` | hash | `total` and `possible`; of each `<provider>\|<model>\|<type>`: `usd`, `calls`, `unpriced`, `possible`, `lost`, and tokens; of all jobs and of each `<type>`: `reused`, `awaited` (of these, jobs that waited), `saved` | 100 days |
/// | `spend:month:<month>` | hash | `total`, `possible`, `reused`, `awaited`, `saved` | 400 days |
/// | `spend:students:<day or month>` | hash | `p:<student>` spent, `l:<student>` possibly spent | as above |
/// | `spend:reserved` | hash | `total` and `s:<student>`: what calls in flight may cost | while there are any |
/// | `spend:open:<replica>` | hash | call → the most that it may cost, its student | while it is in flight |
/// | `spend:replicas` | zset | replica → when its calls count as lost, ms | |
/// | `spend:booked:<replica>` | string | the last booking | 2 days |
/// | `spend:lost:<replica>` | hash | calls that were booked as possibly paid while it was silent | 1 day |
/// | `spend:allows` | string | present once an operator has allowed anything to a student | |
/// | `spend:allowances` | hash | student → what an operator allows a month | |
pub const SPEND_PREFIX: &str = "spend:";
/// Stream, about 10,000 entries, with a webhook those that are not forwarded as well: one for each call that costs.
/// `call` (the same in each entry about a call), `kind` (`paid`, `unpriced`, `possible`, `nothing`), `provider`,
/// `model`, `type`, `student`, `nanoUsd`, `promptTokens`, `cachedTokens`, `completionTokens`, `reasoningTokens`.
pub const USAGE_EVENTS: &str = "usage";
/// Hash: `holder`, `until` (ms), `cursor` and `kept` of the forwarder of usage events.
pub const WEBHOOK_STATE: &str = "usage:webhook";
/// Stream, about 10,000 entries: events whose content the receiver has refused, with `event` and `why` before their
/// fields.
pub const REFUSED_EVENTS: &str = "usage:refused";
/// String: `true` stops all paid calls. The web API reads it too.
pub const KILL_SWITCH: &str = "system:budget_kill_switch";
/// String: what the fleet may spend in a month, USD. The web API reads it too.
pub const MONTHLY_LIMIT: &str = "system:monthly_budget_limit";

/// String: what the provider of a deployment takes of a request, as JSON.
pub fn dialect_key(deployment: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, deployment.as_bytes());
    let digest: String = digest
        .as_ref()
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("gate:dialect:{digest}")
}

/// The keys of one provider's gate. The first five are a contract with the web API and with `redis-cli`.
///
/// A breaker may be shared by several providers; windows and leases are the provider's own. All names carry the
/// breaker's: called `{azure}`, it keeps them in one slot of a Redis cluster.
#[derive(Debug, Clone)]
pub struct GateKeys {
    /// String: `CLOSED`, `OPEN` or `HALF_OPEN`.
    pub state: String,
    /// String: failures that count, gone with their window.
    pub failures: String,
    /// String: successes, in `HALF_OPEN` only.
    pub successes: String,
    /// String: when it opened, ms.
    pub opened_at: String,
    /// String: probes and successes, in `HALF_OPEN` only.
    pub attempts: String,
    /// Hash: epoch, the state last written, the times of the last failures, how the last calls ended, openings in a
    /// row, the epoch of the last recovery, the account's fault, high-water mark of the clock.
    pub meta: String,
    /// Zset: permit → when its probe ends, ms.
    pub probes: String,
    /// Hash: requests and tokens in buckets of 5 s, the spread of claims, throttle, high-water mark of the clock.
    pub win: String,
    /// Zset: permit → when its lease ends, ms.
    pub leases: String,
    /// Hash: permit → what it was charged.
    pub lease_data: String,
}

impl GateKeys {
    /// Zset: replica → when it counts as gone, ms.
    pub const REPLICAS: &'static str = "gate:replicas";

    /// The keys of `provider` behind `breaker`.
    pub fn new(breaker: &str, provider: &str) -> Self {
        Self::within(&KeyNamespace::default(), breaker, provider)
    }

    /// The same keys of a fleet in a cluster.
    pub fn within(namespace: &KeyNamespace, breaker: &str, provider: &str) -> Self {
        let fleet = namespace.prefix();
        let circuit = |key: &str| format!("{fleet}circuit:{breaker}:{key}");
        let gate = |key: &str| format!("{fleet}gate:{breaker}:{provider}:{key}");
        Self {
            state: circuit("state"),
            failures: circuit("failures"),
            successes: circuit("successes"),
            opened_at: circuit("opened_at"),
            attempts: circuit("attempts"),
            meta: circuit("meta"),
            probes: circuit("probes"),
            win: gate("win"),
            leases: gate("leases"),
            lease_data: gate("lease_data"),
        }
    }

    /// The pattern of the keys of every breaker.
    pub const PATTERN: &'static str = "circuit:*:*";

    /// The breaker whose key this is, one of the five of the contract.
    pub fn breaker_of(key: &str) -> Option<&str> {
        let (name, kind) = key.strip_prefix("circuit:")?.rsplit_once(':')?;
        let known = ["state", "failures", "successes", "opened_at", "attempts"].contains(&kind);
        (known && !name.is_empty()).then_some(name)
    }

    /// State, failures, successes, opened_at, attempts and meta of a breaker.
    pub fn of_breaker(name: &str) -> [String; 6] {
        let keys = Self::new(name, "");
        [
            keys.state,
            keys.failures,
            keys.successes,
            keys.opened_at,
            keys.attempts,
            keys.meta,
        ]
    }

    /// All of them, in the order in which the scripts take them.
    pub fn all(&self) -> [&str; 10] {
        [
            &self.state,
            &self.failures,
            &self.successes,
            &self.opened_at,
            &self.attempts,
            &self.meta,
            &self.probes,
            &self.win,
            &self.leases,
            &self.lease_data,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worker reads the keys that an `apalis_redis` producer writes, so their names are the same to the letter.
    #[test]
    fn names_are_those_of_apalis_redis() {
        let keys = ApalisKeys::new("ai-jobs");
        assert_eq!(keys.active, "ai-jobs:active");
        assert_eq!(keys.scheduled, "ai-jobs:scheduled");
        assert_eq!(keys.data, "ai-jobs:data");
        assert_eq!(keys.meta("007"), "ai-jobs:meta:007");
        assert_eq!(keys.inflight("w1"), "ai-jobs:inflight:w1");
        assert_eq!(
            (keys.done.as_str(), keys.dead.as_str()),
            ("ai-jobs:done", "ai-jobs:dead")
        );
        assert_eq!(keys.workers, "ai-jobs:workers");
    }
}
