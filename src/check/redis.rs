//! The Redis server, as it describes itself.

mod cluster;
mod server_info;

use std::{
    error::Error,
    fmt::Write as _,
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use redis::{ErrorKind, RedisError, ServerErrorKind};

use self::server_info::{ServerInfo, connections, eviction, memory, persistence, role, version};
use super::{Finding, rights};
use crate::{
    config::Config,
    connection::Connection,
    migrate::{MigrationState, Migrator},
    unserved_queues::UnservedQueueWatch,
};
const PINGS: usize = 21;
/// A gate call gives up after 250 ms; from here on the way there eats into jobs.
const SLOW: Duration = Duration::from_millis(10);
/// Apart from Redis's clock by more than this, logs of replicas are hard to read together.
const CLOCKS_APART: Duration = Duration::from_secs(2);

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
                role(&info, connection.namespace()),
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
    findings.extend(cluster::look(&connection).await);
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
        _ if error.to_string().contains("of the cluster owns slot") => {
            "have all slots served: redis-cli --cluster check <node>, then --cluster fix"
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
