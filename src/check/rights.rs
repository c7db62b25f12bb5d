//! The rights that the worker needs of a Redis ACL user, and the check that its user has them.

use std::fmt::Write as _;

use super::Finding;
use crate::{
    config::Config,
    connection::Connection,
    keys::{BullKeys, MigrationKeys},
};

/// Every command, with arguments for a dry run behind its key (`@`).
const COMMANDS: &[&str] = &[
    "get @",
    "mget @",
    "set @ v",
    "del @",
    "unlink @",
    "exists @",
    "type @",
    "rename @ @",
    "object|encoding @",
    "incr @",
    "pttl @",
    "pexpire @ 1",
    "persist @",
    "hget @ f",
    "hmget @ f",
    "hgetall @",
    "hset @ f v",
    "hsetnx @ f v",
    "hdel @ f",
    "hexists @ f",
    "hincrby @ f 1",
    "hlen @",
    "hkeys @",
    "hscan @ 0",
    "hrandfield @",
    "strlen @",
    "hstrlen @ f",
    "llen @",
    "lrange @ 0 1",
    "lpush @ v",
    "rpush @ v",
    "lpop @",
    "rpop @",
    "lmove @ @ LEFT RIGHT",
    "lpos @ v",
    "lrem @ 1 v",
    "lset @ 0 v",
    "ltrim @ 0 1",
    "sadd @ m",
    "scard @",
    "sismember @ m",
    "srandmember @",
    "srem @ m",
    "zadd @ 1 m",
    "zcard @",
    "zcount @ 0 1",
    "zpopmin @",
    "bzpopmin @ 1",
    "zrange @ 0 1",
    "zrangebyscore @ 0 1",
    "zrevrange @ 0 1",
    "zrevrangebyscore @ 1 0",
    "zrem @ m",
    "zremrangebyscore @ 0 1",
    "zincrby @ 1 m",
    "zmscore @ m",
    "zscore @ m",
    "xadd @ * f v",
    "xrange @ - +",
    "xrevrange @ + -",
    "xtrim @ MAXLEN 1",
    "xdel @ 1-0",
    "xlen @",
    "xread COUNT 1 STREAMS @ 0",
    "scan 0",
    "expire @ 1",
    "lindex @ 0",
    "sscan @ 0",
    "evalsha s 0",
    "script|load s",
    "time",
    "ping",
    "info",
    "client|tracking ON",
    "client|setname n",
    "watch @",
    "multi",
    "exec",
    "acl|whoami",
    "acl|dryrun u ping",
];

/// Commands without which the worker does with less: a name for BullMQ's list of workers, large results beside the scripts.
const OPTIONAL: &[&str] = &["client|setname n", "watch @", "multi", "exec"];

/// Commands that the worker does without where it has to: it evaluates the scripts of each job then.
const FUNCTION_COMMANDS: &[&str] = &["fcall", "function|load", "function|list", "function|delete"];

/// Commands that find the owner of a slot, and the state of a cluster.
const CLUSTER_COMMANDS: &[&str] = &["cluster|slots", "cluster|info"];

/// The keys that a worker of these queues touches. The last two are Bottleneck's, for their retirement.
fn patterns(config: &Config) -> Vec<String> {
    let mut patterns: Vec<String> = Vec::new();
    for spec in &config.queues {
        let bullmq = BullKeys::under(&config.bullmq_prefix, &spec.name).prefix;
        let apalis = config.redis.namespace().of_queue(&spec.name);
        for pattern in [format!("{bullmq}*"), format!("{apalis}:*")] {
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
    }
    let namespace = config.redis.namespace();
    if let Some(tag) = namespace.tag() {
        patterns.extend([format!("{tag}*"), format!("ledger:{tag}*")]);
        return patterns;
    }
    let own = MigrationKeys::LEDGER.trim_end_matches("ledger");
    patterns.extend(
        [
            "circuit:*",
            "gate:*",
            "ratelimit:*",
            "idempotency:*",
            "dedup:*",
            "ledger:*",
            "spend:*",
            "system:*",
            "usage*",
            "fleet:*",
        ]
        .map(str::to_owned),
    );
    patterns.extend([format!("{own}*"), "b_*".to_owned(), "bottleneck:*".to_owned()]);
    patterns
}

/// The rules for `ACL SETUSER <name> on ><password>`: all that the worker needs, and nothing else.
pub fn acl_rule(config: &Config) -> String {
    let mut rule = "resetkeys resetchannels -@all".to_owned();
    for pattern in patterns(config) {
        let _ = write!(rule, " ~{pattern}"); // A String takes everything.
    }
    for command in COMMANDS {
        let _ = write!(rule, " +{}", command.split(' ').next().unwrap_or_default());
    }
    let of_clusters = CLUSTER_COMMANDS
        .iter()
        .filter(|_| config.redis.namespace().is_tagged());
    for command in FUNCTION_COMMANDS.iter().chain(of_clusters) {
        let _ = write!(rule, " +{command}");
    }
    rule
}

/// Asks Redis what the user at hand may do.
pub(super) async fn look(config: &Config, connection: &Connection) -> Finding {
    const CHECK: &str = "redis rights";
    let mut whoami = redis::pipe();
    whoami.cmd("ACL").arg("WHOAMI");
    let user = match connection.query::<(String,)>(&whoami).await {
        Ok((user,)) => user,
        Err(error) => return unknown(CHECK, &error),
    };
    let mut lacks: Vec<String> = Vec::new();
    for command in COMMANDS {
        let key = format!("{}x", patterns(config)[0].trim_end_matches('*'));
        match may(connection, &user, &command.replace('@', &key)).await {
            Ok(true) => {}
            Ok(false) if OPTIONAL.contains(command) => {}
            Ok(false) => lacks.push(format!("+{}", command.split(' ').next().unwrap_or_default())),
            Err(error) => return unknown(CHECK, &error),
        }
    }
    for pattern in patterns(config) {
        let key = format!("{}x", pattern.trim_end_matches('*'));
        // Missing rights for the keys of Bottleneck are not a fault: only `--retire-bottleneck` needs them.
        let optional = pattern == "b_*" || pattern == "bottleneck:*";
        match may(connection, &user, &format!("set {key} v")).await {
            Ok(false) if !optional => lacks.push(format!("~{pattern}")),
            Ok(_) => {}
            Err(error) => return unknown(CHECK, &error),
        }
    }
    if lacks.is_empty() {
        return Finding::ok(CHECK, format!("user {user} may do all that is needed"));
    }
    let cure = format!("ACL SETUSER {user} {}", lacks.join(" "));
    Finding::failure(CHECK, format!("user {user} lacks {} rights", lacks.len()), cure)
}

/// Says how the scripts of each job are run.
pub(super) async fn functions(connection: &Connection) -> Finding {
    const CHECK: &str = "redis functions";
    let mut list = redis::pipe();
    list.cmd("FUNCTION").arg("LIST").arg("LIBRARYNAME").arg("bw_*");
    match connection.query::<(redis::Value,)>(&list).await {
        Ok(_) => Finding::ok(CHECK, "the scripts of each job run as functions"),
        Err(error) => Finding::ok(
            CHECK,
            format!("the scripts of each job are evaluated, which takes Redis more time: {error}"),
        ),
    }
}

async fn may(connection: &Connection, user: &str, command: &str) -> Result<bool, redis::RedisError> {
    let mut dry_run = redis::pipe();
    dry_run.cmd("ACL").arg("DRYRUN").arg(user);
    for (n, word) in command.split(' ').enumerate() {
        match word.split_once('|').filter(|_| n == 0) {
            Some((command, sub)) => dry_run.arg(command).arg(sub),
            None => dry_run.arg(word),
        };
    }
    let (answer,): (String,) = connection.query(&dry_run).await?;
    Ok(answer == "OK")
}

fn unknown(check: &'static str, error: &redis::RedisError) -> Finding {
    let cure = "Redis 7 tells it to a user with +acl|whoami +acl|dryrun; docs/operations.md lists all rights";
    Finding::warning(check, format!("cannot be looked at: {error}"), cure)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn scripts(folder: &Path, all: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                scripts(&path, all);
            } else if path.extension().is_some_and(|e| e == "lua") {
                all.push(fs::read_to_string(path).unwrap());
            }
        }
    }

    /// Words in capitals that are no commands: options, states.
    const WORDS: &[&str] = &[
        "OPEN",
        "CLOSED",
        "WITHSCORES",
        "LIMIT",
        "LEFT",
        "RIGHT",
        "MAXLEN",
        "MINID",
        "NX",
        "XX",
        "BYSCORE",
        "REV",
        "COUNT",
        "EX",
        "PX",
        "GT",
        "LT",
        "RANK",
        "KEEPTTL",
        "WITHVALUES",
        "BEFORE",
        "AFTER",
        "ENCODING",
    ];

    /// A script that calls a command which the rule lacks would end at an ACL user.
    #[test]
    fn the_rule_covers_every_command_of_every_script() {
        let mut all = Vec::new();
        for folder in ["src", "migrations"] {
            scripts(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut all);
        }
        assert!(all.len() > 30);
        for script in all {
            // Scripts have wrappers around `call`, so the test checks every quoted word in capitals.
            for word in script.split('\'').skip(1) {
                let capitals = word.len() > 2 && word.bytes().all(|b| b.is_ascii_uppercase());
                if capitals && !WORDS.contains(&word) {
                    let known = COMMANDS
                        .iter()
                        .any(|c| c.split([' ', '|']).next() == Some(&word.to_lowercase()));
                    assert!(known, "COMMANDS lacks {word}");
                }
            }
        }
    }

    #[test]
    fn the_rule_is_the_one_in_the_documents() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
        let rule = acl_rule(&Config::from_lookup(|_| None).unwrap());
        let text = fs::read_to_string(docs).unwrap().replace(" \\\n    ", " ");
        assert!(text.contains(&rule), "docs/operations.md must hold:\n{rule}");
    }
}
