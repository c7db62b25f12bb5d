//! The Redis server, as it describes itself.

use std::{
    collections::HashMap,
    error::Error,
    fmt::Write as _,
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::{Finding, rights};
use crate::{
    config::Config,
    connection::Connection,
    migrate::{MigrationState, Migrator},
    queue::Layout,
    unserved_queues::UnservedQueueWatch,
};

/// The oldest Redis that knows every command.
const OLDEST: (u32, u32) = (6, 2);
const PINGS: usize = 21;
/// A gate call gives up after 250 ms; from here on the way there eats into jobs.
const SLOW: Duration = Duration::from_millis(10);
/// Apart from Redis's clock by more than this, logs of replicas are hard to read together.
const CLOCKS_APART: Duration = Duration::from_secs(2);

/// The fields of INFO.
struct ServerInfo(HashMap<String, String>);

impl ServerInfo {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name).parse().ok()
    }
}

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let connection = match Connection::open(&config.redis) {
        Ok(connection) => connection,
        Err(error) => return vec![unreachable(&error)],
    };
    if let Err(error) = ping(&connection).await {
        return vec![unreachable(&error)];
    }
    let mut findings = vec![
        latency(&connection).await,
        clock(&connection).await,
        tls(config),
        commands(config),
    ];
    let mut pipe = redis::pipe();
    pipe.cmd("INFO").arg("everything");
    match connection.query::<(String,)>(&pipe).await {
        Ok((text,)) => {
            let pairs = text.lines().filter_map(|line| line.trim().split_once(':'));
            let info = ServerInfo(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
            findings.extend([
                version(&info),
                role(&info),
                eviction(&info),
                memory(&info),
                persistence(&info),
                connections(&info, config),
            ]);
        }
        Err(error) => findings.push(Finding::warning(
            "redis info",
            error.to_string(),
            "grant the ACL user +info: version, eviction and persistence cannot be looked at",
        )),
    }
    findings.push(rights::look(config, &connection).await);
    findings.push(rights::functions(&connection).await);
    findings.push(unserved(config, &connection).await);
    findings.push(keyspace(config, connection).await);
    findings
}

/// Checks that Redis answers. After a failed write to its disk Redis refuses PING like a write, but it still answers
/// the later checks, so this refusal counts as an answer.
async fn ping(connection: &Connection) -> Result<(), RedisError> {
    match connection.ping().await {
        Err(error) if error.code() == Some("MISCONF") => Ok(()),
        answer => answer,
    }
}

fn unreachable(error: &RedisError) -> Finding {
    let cure = match error.kind() {
        ErrorKind::AuthenticationFailed => "check user and password in REDIS_URL",
        ErrorKind::Server(ServerErrorKind::NoPerm) => "grant the ACL user what docs/operations.md lists",
        _ if error.to_string().contains("CaUsedAsEndEntity") => {
            "the certificate that Redis shows is that of an authority (CA:TRUE), which TLS does not accept of a server: give \
             Redis one with CA:FALSE for its host, signed by that authority, and name the authority in REDIS_CA_FILE; \
             where the host cannot be changed, REDIS_TLS_INSECURE=on accepts any certificate"
        }
        _ if error.to_string().contains("max number of clients") => {
            "raise maxclients, or the plan of the host; fewer QUEUES and fewer replicas need fewer connections"
        }
        _ if matches!(tls_fault(error), Some(rustls::Error::InvalidCertificate(_))) => {
            "name in REDIS_URL the host that its certificate is for, and its authority in REDIS_CA_FILE where the \
             system does not know it"
        }
        _ if tls_fault(error).is_some() => {
            "check that Redis speaks TLS on this port; redis:// where it does not"
        }
        _ if error.is_timeout() => {
            "it does not answer in 2 s: check host, port, firewall, and rediss:// for TLS"
        }
        _ => "check host and port in REDIS_URL, that Redis runs, and rediss:// where it wants TLS",
    };
    Finding::failure("redis", error.to_string(), cure)
}

/// The error of TLS, if TLS was the cause.
fn tls_fault(error: &RedisError) -> Option<&rustls::Error> {
    let inner: &Arc<dyn Error + Send + Sync> = error.source()?.downcast_ref()?;
    inner.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

async fn latency(connection: &Connection) -> Finding {
    const CHECK: &str = "redis latency";
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let asked = Instant::now();
        if let Err(error) = ping(connection).await {
            return unreachable(&error);
        }
        times.push(asked.elapsed());
    }
    times.sort();
    let (median, worst) = (times[PINGS / 2], times[PINGS - 1]);
    let found = format!("{median:.1?} in the middle, {worst:.1?} at worst");
    if median < SLOW {
        Finding::ok(CHECK, found)
    } else {
        let cure = "run Redis in the same region and on the private network: each call asks it twice";
        Finding::warning(CHECK, found, cure)
    }
}

async fn clock(connection: &Connection) -> Finding {
    const CHECK: &str = "redis clock";
    let mut pipe = redis::pipe();
    pipe.cmd("TIME");
    let (theirs, ours) = match connection.query::<((u64, u64),)>(&pipe).await {
        Ok(((seconds, micros),)) => (
            Duration::from_secs(seconds) + Duration::from_micros(micros),
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        ),
        Err(error) => return unreachable(&error),
    };
    let apart = theirs.abs_diff(ours);
    let found = format!("{:.1} s from ours", apart.as_secs_f64());
    if apart < CLOCKS_APART {
        Finding::ok(CHECK, found)
    } else {
        let cure = "switch NTP on here or there; jobs go by Redis's clock alone, logs by ours";
        Finding::warning(CHECK, found, cure)
    }
}

fn tls(config: &Config) -> Finding {
    const CHECK: &str = "redis tls";
    match (config.redis.is_tls(), config.redis.is_insecure()) {
        (_, true) => Finding::warning(
            CHECK,
            "REDIS_TLS_INSECURE=on: any certificate is accepted, so an attacker on the network path can read and change every job",
            "name the authority of Redis's certificate in REDIS_CA_FILE, and unset REDIS_TLS_INSECURE",
        ),
        (true, false) => Finding::ok(CHECK, "the certificate is checked"),
        (false, false) => Finding::ok(CHECK, "none: for a private network only"),
    }
}

fn version(info: &ServerInfo) -> Finding {
    const CHECK: &str = "redis version";
    let text = info.text("redis_version");
    let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version >= OLDEST {
        Finding::ok(CHECK, text)
    } else {
        Finding::failure(
            CHECK,
            text,
            format!("use Redis {}.{} or later, or Valkey", OLDEST.0, OLDEST.1),
        )
    }
}

fn role(info: &ServerInfo) -> Finding {
    const CHECK: &str = "redis role";
    if info.text("role") != "master" {
        return Finding::failure(
            CHECK,
            "a replica, which refuses writes",
            "point REDIS_URL to the primary, or to the address that follows it",
        );
    }
    if info.text("cluster_enabled") == "1" {
        return Finding::failure(
            CHECK,
            "a cluster",
            "use a single primary: the scripts of a queue touch keys of several slots",
        );
    }
    Finding::ok(CHECK, "primary")
}

fn eviction(info: &ServerInfo) -> Finding {
    const CHECK: &str = "redis eviction";
    let (policy, limit) = (
        info.text("maxmemory_policy"),
        info.number("maxmemory").unwrap_or(0),
    );
    let cure = "CONFIG SET maxmemory-policy noeviction";
    match (policy, limit) {
        ("noeviction", _) => Finding::ok(CHECK, policy),
        (_, 0) => Finding::warning(CHECK, format!("{policy}, without maxmemory"), cure),
        _ => Finding::failure(
            CHECK,
            format!("{policy}: when memory is full, jobs are thrown away"),
            cure,
        ),
    }
}

fn memory(info: &ServerInfo) -> Finding {
    const CHECK: &str = "redis memory";
    let (used, limit) = (
        info.number("used_memory").unwrap_or(0),
        info.number("maxmemory").unwrap_or(0),
    );
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let Some(percent) = (used * 100).checked_div(limit) else {
        return Finding::ok(CHECK, format!("{} used, no limit", megabytes(used)));
    };
    let found = format!("{} of {} used", megabytes(used), megabytes(limit));
    let cure = "give Redis more memory, or lower KEEP_COMPLETED_FOR and KEEP_COMPLETED_COUNT";
    match percent {
        0..80 => Finding::ok(CHECK, found),
        80..95 => Finding::warning(CHECK, found, cure),
        _ => Finding::failure(CHECK, found, cure),
    }
}

/// Counts the connections that a replica opens at most.
///
/// One carries all calls, one large payloads, and one a large result or an operator's command. Each queue has one that waits
/// for jobs, and each BullMQ queue another one while clients follow its jobs.
fn connections_of(config: &Config) -> u64 {
    let queues = &config.queues;
    let follows = queues.iter().filter(|spec| spec.layout == Layout::Bullmq).count();
    (3 + queues.len() + follows) as u64
}

fn connections(info: &ServerInfo, config: &Config) -> Finding {
    const CHECK: &str = "redis connections";
    let one = connections_of(config);
    let (Some(most), Some(used)) = (info.number("maxclients"), info.number("connected_clients")) else {
        return Finding::ok(
            CHECK,
            format!("up to {one} a replica; Redis does not say how many it takes"),
        );
    };
    let found = format!("up to {one} a replica; {used} of {most} used");
    // During a deployment the replicas of both versions run.
    match most.saturating_sub(used) {
        left if left < one => Finding::failure(
            CHECK,
            found,
            "raise maxclients, or the plan of the host; fewer QUEUES and fewer replicas need fewer",
        ),
        left if left < 2 * one => Finding::warning(
            CHECK,
            found,
            "raise maxclients, or the plan of the host: during a deployment twice as many replicas run",
        ),
        _ => Finding::ok(CHECK, found),
    }
}

/// Commands that an idle replica sends in a day, those inside of scripts included, as some hosts count them.
fn commands(config: &Config) -> Finding {
    const CHECK: &str = "redis commands";
    /// Of one queue, and of the replica itself, in a minute (measured; docs/operations.md).
    const OF_QUEUE: u64 = 77;
    const OF_REPLICA: u64 = 176;
    let idle = (OF_QUEUE * config.queues.len() as u64 + OF_REPLICA) * 60 * 24;
    let found = format!("about {:.1} million a day of an idle replica", idle as f64 / 1e6);
    match config.idle_rest.is_zero() {
        true => Finding::ok(
            CHECK,
            format!("{found}; where the host charges for them, IDLE_REST lowers them"),
        ),
        false => Finding::ok(
            CHECK,
            format!(
                "less than {}, because of IDLE_REST",
                found.trim_start_matches("about ")
            ),
        ),
    }
}

fn persistence(info: &ServerInfo) -> Finding {
    const CHECK: &str = "redis persistence";
    if info.text("rdb_last_bgsave_status") == "err" || info.text("aof_last_write_status") == "err" {
        let cure = "free the disk of Redis, and look into its log: it may refuse writes until then";
        return Finding::failure(CHECK, "the last write to disk failed", cure);
    }
    match info.text("aof_enabled") {
        "1" => Finding::ok(CHECK, "append-only file"),
        _ => Finding::warning(
            CHECK,
            "no append-only file: a restart of Redis loses the last jobs",
            "CONFIG SET appendonly yes, and the same in its configuration",
        ),
    }
}

/// Jobs that wait where no worker looks.
async fn unserved(config: &Config, connection: &Connection) -> Finding {
    const CHECK: &str = "unserved queues";
    let watch = UnservedQueueWatch::new(connection.clone(), &config.queues, &config.replica)
        .under_prefix(&config.bullmq_prefix);
    let found = match watch.look(0).await {
        Ok(found) => found,
        Err(error) => {
            let cure = "grant the ACL user what docs/operations.md lists";
            return Finding::warning(CHECK, error.to_string(), cure);
        }
    };
    let mut notes = String::new();
    if found.hidden > 0 {
        let _ = write!(
            notes,
            "; {} may not be looked into by this ACL user",
            found.hidden
        );
    }
    if !found.is_whole {
        notes.push_str("; the keyspace is large, and only a part of it was looked at");
    }
    match found.in_words() {
        None => Finding::ok(CHECK, format!("no jobs wait where no worker looks{notes}")),
        Some(words) => Finding::warning(
            CHECK,
            format!("{words}{notes}"),
            "correct the producer or QUEUES, then move the jobs with the producer's own tools",
        ),
    }
}

async fn keyspace(config: &Config, connection: Connection) -> Finding {
    const CHECK: &str = "keyspace";
    let rows = match Migrator::new(connection, &config.replica).status().await {
        Ok(rows) => rows,
        Err(error) => {
            return Finding::failure(
                CHECK,
                error.to_string(),
                "grant the ACL user what docs/operations.md lists",
            );
        }
    };
    let named = |standing| {
        let names: Vec<&str> = rows
            .iter()
            .filter(|row| row.standing == standing)
            .map(|row| row.name.as_str())
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(names) = named(MigrationState::Newer) {
        return Finding::failure(
            CHECK,
            format!("of a later version: {names}"),
            "run that version or a later one",
        );
    }
    if let Some(names) = named(MigrationState::Differs) {
        let cure = "find out which build did it: a released migration is never changed";
        return Finding::failure(CHECK, format!("done from another file: {names}"), cure);
    }
    match named(MigrationState::Pending) {
        Some(names) => Finding::warning(
            CHECK,
            format!("to be done: {names}"),
            "backend-worker migrate, or the next start of a worker",
        ),
        None => Finding::ok(CHECK, "of this version"),
    }
}
