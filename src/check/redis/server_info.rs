//! The findings that INFO alone shows: version, role, memory, connections, persistence.

use std::collections::HashMap;

use crate::{check::Finding, config::Config, keys::KeyNamespace, queue::Layout};

/// The oldest Redis that knows every command.
pub(super) const OLDEST: (u32, u32) = (6, 2);

/// The fields of INFO.
pub(super) struct ServerInfo(pub(super) HashMap<String, String>);

impl ServerInfo {
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name).parse().ok()
    }
}

pub(super) fn version(info: &ServerInfo) -> Finding {
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

pub(super) fn role(info: &ServerInfo, namespace: &KeyNamespace) -> Finding {
    const CHECK: &str = "redis role";
    if info.text("role") != "master" {
        return Finding::failure(
            CHECK,
            "a replica, which refuses writes",
            "point REDIS_URL to the primary, or to the address that follows it",
        );
    }
    if info.text("cluster_enabled") == "1" && !namespace.is_tagged() {
        return Finding::failure(
            CHECK,
            "a cluster",
            "set REDIS_CLUSTER_TAG, such as REDIS_CLUSTER_TAG=app: scripts work on the keys of one slot (docs/redis-cluster.md)",
        );
    }
    Finding::ok(CHECK, "primary")
}

pub(super) fn eviction(info: &ServerInfo) -> Finding {
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

pub(super) fn memory(info: &ServerInfo) -> Finding {
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
/// One carries all calls, one large payloads, and one a large result or an operator's command. Each BullMQ queue has one that
/// waits for jobs, and another one while clients follow its jobs; the apalis queues share one that waits.
pub(super) fn connections_of(config: &Config) -> u64 {
    let of = |layout| config.queues.iter().filter(|spec| spec.layout == layout).count();
    (3 + 2 * of(Layout::Bullmq) + of(Layout::Apalis).min(1)) as u64
}

pub(super) fn connections(info: &ServerInfo, config: &Config) -> Finding {
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

pub(super) fn persistence(info: &ServerInfo) -> Finding {
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
