//! Migrations of the keyspace: their repairs, the replica that runs them, the workers that they refuse.

use std::{collections::BTreeMap, time::Duration};

use backend_worker::{
    keys::MigrationKeys,
    migrate::{MigrateError, MigrationPlan, MigrationRun, MigrationState, Migrator},
};
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Scene, TestRedis, eventually};

const RETIRE: MigrationPlan = MigrationPlan {
    dry_run: false,
    retire_bottleneck: true,
};

fn migrator(redis: &TestRedis) -> Migrator {
    Migrator::new(redis.connection(), "test")
}

async fn seed(redis: &TestRedis, commands: &[&str]) {
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        redis.ask::<redis::Value>(&words).await;
    }
}

/// Every key with its content and whether it expires, the migrations' own left out.
async fn keyspace(redis: &TestRedis) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for key in redis.ask::<Vec<String>>(&["KEYS", "*"]).await {
        if key == MigrationKeys::LEDGER || key == MigrationKeys::LOCK {
            continue;
        }
        let dump: Vec<u8> = redis.ask(&["DUMP", &key]).await;
        let expires = redis.ask::<i64>(&["PTTL", &key]).await > 0;
        all.insert(key, format!("{dump:?} {expires}"));
    }
    all
}

fn of(done: &[MigrationRun], version: u32) -> &MigrationRun {
    done.iter().find(|d| d.version == version).unwrap()
}

/// What a Node worker leaves that died between two commands of its breaker.
const LEFT_BY_NODE: &[&str] = &[
    // INCR without its EXPIRE.
    "SET circuit:openai:failures 4",
    "SET circuit:openai:state CLOSED",
    // OPEN without its time; its time in another clock's future.
    "SET circuit:azure:state OPEN",
    "SET circuit:later:state OPEN",
    "SET circuit:later:opened_at 99999999999999",
    // HALF_OPEN with all its probes gone.
    "SET circuit:stuck:state HALF_OPEN",
    "SET circuit:stuck:attempts 3",
    "SET circuit:stuck:successes 1",
    "SET circuit:stuck:opened_at 1700000000000",
    // Keys that a migration must not touch: a counter with its window, our own HALF_OPEN, a foreign type.
    "SET circuit:fine:failures 2 PX 60000",
    "SET circuit:ours:state HALF_OPEN",
    "SET circuit:ours:attempts 1",
    "HSET circuit:ours:meta seen HALF_OPEN epoch 7",
    "HSET circuit:odd:state a b",
    "SET circuit:odd:failures 1",
];

#[tokio::test]
async fn what_node_left_in_the_breakers_is_repaired() {
    let redis = TestRedis::start().await;
    seed(&redis, LEFT_BY_NODE).await;
    let before = keyspace(&redis).await;
    let dry = MigrationPlan {
        dry_run: true,
        ..MigrationPlan::default()
    };
    let would = migrator(&redis).migrate(dry).await.unwrap();
    assert_eq!(keyspace(&redis).await, before, "a dry run changes nothing");
    assert!(!redis.ask::<bool>(&["EXISTS", MigrationKeys::LEDGER]).await);

    let done = migrator(&redis).migrate(MigrationPlan::default()).await.unwrap();
    assert_eq!(done, would, "and tells what a real one does");
    let repair = of(&done, 2);
    assert_eq!(repair.changed, 4, "{repair:?}");
    assert!(
        repair.notes.iter().any(|n| n.starts_with("odd: left alone")),
        "{repair:?}"
    );

    let window: u64 = redis.ask(&["PTTL", "circuit:openai:failures"]).await;
    assert!((1..=60_000).contains(&window), "{window}");
    let (seconds, _): (u64, u64) = redis.ask(&["TIME"]).await;
    for name in ["azure", "later"] {
        let at: u64 = redis.ask(&["GET", &format!("circuit:{name}:opened_at")]).await;
        assert!(at / 1000 <= seconds && at / 1000 + 600 > seconds, "{name} {at}");
    }
    let stuck: Vec<Option<String>> = redis
        .ask(&[
            "MGET",
            "circuit:stuck:state",
            "circuit:stuck:opened_at",
            "circuit:stuck:attempts",
            "circuit:stuck:successes",
        ])
        .await;
    assert_eq!(
        stuck,
        [
            Some("OPEN".to_owned()),
            Some("1700000000000".to_owned()),
            None,
            None
        ]
    );
    let after = keyspace(&redis).await;
    for key in before.keys().filter(|k| {
        ["fine", "ours", "odd"]
            .iter()
            .any(|name| k.starts_with(&format!("circuit:{name}:")))
    }) {
        assert_eq!(after.get(key), before.get(key), "{key}");
    }
    assert!(
        migrator(&redis)
            .migrate(MigrationPlan::default())
            .await
            .unwrap()
            .is_empty(),
        "once"
    );
    assert_eq!(keyspace(&redis).await, after);
}

#[tokio::test]
async fn bottleneck_goes_only_by_order_and_only_when_it_is_silent() {
    let redis = TestRedis::start().await;
    let (seconds, _): (u64, u64) = redis.ask(&["TIME"]).await;
    let alive = format!("ZADD b_azure_client_last_seen {}000 client", seconds + 60);
    let left = [
        "HSET b_openai_settings id openai",
        "HSET b_openai_job_weights 1 1",
        "ZADD b_openai_client_last_seen 1700000000000 client",
        "HSET b_azure_settings id azure",
        &alive,
        "SET bottleneck:openai:running 15",
        // Theirs in name only.
        "SET b_openai_balance 1",
        "SET bull:ai-jobs:id 7",
        "SET backend b",
    ];
    seed(&redis, &left).await;
    migrator(&redis).migrate(MigrationPlan::default()).await.unwrap();
    let before = keyspace(&redis).await;
    assert_eq!(before.len(), left.len(), "a start leaves it alone");
    let rows = migrator(&redis).status().await.unwrap();
    assert_eq!(rows[2].standing, MigrationState::OptIn);

    let done = migrator(&redis).migrate(RETIRE).await.unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].changed, 4);
    assert_eq!(done[0].notes, ["azure: still in use, left alone"]);
    let after: Vec<String> = keyspace(&redis).await.into_keys().collect();
    let kept = [
        "b_azure_client_last_seen",
        "b_azure_settings",
        "b_openai_balance",
        "backend",
        "bull:ai-jobs:id",
    ];
    assert_eq!(after, kept);

    redis.ask::<u8>(&["DEL", "b_azure_client_last_seen"]).await;
    let again = migrator(&redis).migrate(RETIRE).await.unwrap();
    assert_eq!(
        again[0].changed, 1,
        "what came back, or was in use, goes with the next order"
    );
    assert_eq!(
        migrator(&redis).status().await.unwrap()[2].standing,
        MigrationState::Applied
    );
}

#[tokio::test]
async fn of_many_replicas_one_migrates_and_the_others_wait() {
    let redis = TestRedis::start().await;
    seed(&redis, LEFT_BY_NODE).await;
    let all: Vec<Migrator> = (0..8).map(|_| migrator(&redis)).collect();
    let done: Vec<Vec<MigrationRun>> = join_all(all.iter().map(|m| m.migrate(MigrationPlan::default())))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(done.iter().filter(|done| !done.is_empty()).count(), 1, "{done:?}");
    assert!(
        !redis.ask::<bool>(&["EXISTS", MigrationKeys::LOCK]).await,
        "the lock is given back"
    );
    for row in &migrator(&redis).status().await.unwrap()[..2] {
        assert_eq!(row.standing, MigrationState::Applied, "{row:?}");
        assert!(row.at.unwrap() > 0 && row.by.as_deref() == Some(env!("CARGO_PKG_VERSION")));
    }
}

#[tokio::test]
async fn a_dead_replicas_lock_runs_out() {
    let redis = TestRedis::start().await;
    redis
        .ask::<String>(&["SET", MigrationKeys::LOCK, "dead", "PX", "700"])
        .await;
    let done = migrator(&redis).migrate(MigrationPlan::default()).await.unwrap();
    assert_eq!(done.len(), 2);
}

#[tokio::test]
async fn who_has_lost_the_lock_changes_nothing() {
    let redis = TestRedis::start().await;
    seed(&redis, LEFT_BY_NODE).await;
    let before = keyspace(&redis).await;
    let source = concat!(
        include_str!("../../src/migrate/common.lua"),
        include_str!("../../migrations/0002_repair_breakers.lua")
    );
    redis
        .ask::<String>(&["SET", MigrationKeys::LOCK, "another"])
        .await;
    let keys: Vec<String> = ["state", "failures", "successes", "opened_at", "attempts", "meta"]
        .map(|kind| format!("circuit:stuck:{kind}"))
        .to_vec();
    let mut call = vec!["EVAL", source, "7", MigrationKeys::LOCK];
    call.extend(keys.iter().map(String::as_str));
    call.extend(["late", "30000", "0", "60000"]);
    let (cursor, changed, _): (String, u64, Vec<String>) = redis.ask(&call).await;
    assert_eq!((cursor.as_str(), changed), ("lost", 0));
    assert_eq!(keyspace(&redis).await, before);
}

#[tokio::test]
async fn a_large_keyspace_is_migrated_in_small_steps() {
    let redis = TestRedis::start().await;
    let fill = "for i = 1, 20000 do redis.call('SET', 'k' .. ARGV[1] .. i, i) end \
                for i = 1, 500 do redis.call('SET', 'circuit:b' .. ARGV[1] .. i .. ':failures', 1) end";
    for round in ["a", "b", "c", "d", "e"] {
        redis.ask::<redis::Value>(&["EVAL", fill, "0", round]).await;
    }
    redis.ask::<String>(&["CONFIG", "RESETSTAT"]).await;
    let done = migrator(&redis).migrate(MigrationPlan::default()).await.unwrap();
    assert_eq!(of(&done, 2).changed, 2500);
    let (scans, scripts) = (redis.calls("scan").await, redis.scripts().await);
    assert!(scans >= 102_500 / 1000, "{scans} looks at the whole keyspace");
    assert!(scripts >= 2500 / 50, "{scripts} scripts for all breakers");
}

#[tokio::test]
async fn a_newer_keyspace_is_refused_unless_it_says_that_older_workers_may_run() {
    let scene = Scene::set(Duration::ZERO).await;
    let entry = |older: &str| {
        format!(r#"{{"name":"9999_later","sha":"x","at":1700000000000,"by":"9.0.0","changed":0{older}}}"#)
    };
    let write = async |text: String| {
        scene
            .redis
            .ask::<u8>(&["HSET", MigrationKeys::LEDGER, "9999", &text])
            .await
    };
    write(entry(r#","older":"run""#)).await;
    let worker = scene.worker(&[]).await;
    worker.signal(Signal::SIGTERM);
    assert_eq!(
        worker.ended().await.0,
        Some(0),
        "an older worker may run beside it"
    );

    for refusing in [
        entry(r#","older":"refuse""#),
        entry(""),
        entry(r#","older":"?""#),
        "nonsense".to_owned(),
    ] {
        write(refusing.clone()).await;
        for command in ["run", "migrate"] {
            let output = scene.command(&[command]).output().await.unwrap();
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert_eq!(output.status.code(), Some(65), "{command} {refusing}: {text}");
            assert!(text.contains("newer than this worker: migration 9999"), "{text}");
        }
        let refused = migrator(&scene.redis).migrate(MigrationPlan::default()).await;
        assert!(matches!(refused, Err(MigrateError::Newer { version: 9999, .. })));
    }
}

#[tokio::test]
async fn the_command_shows_what_stands_and_does_it() {
    let scene = Scene::set(Duration::ZERO).await;
    seed(&scene.redis, LEFT_BY_NODE).await;
    let run = async |arguments: &[&str]| {
        let output = scene.command(arguments).output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let status: Value = serde_json::from_str(&run(&["migrate", "--status", "--json"]).await).unwrap();
    let standing: Vec<&str> = status
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["standing"].as_str().unwrap())
        .collect();
    assert_eq!(standing, ["pending", "pending", "opt-in"]);
    assert!(
        run(&["migrate", "--dry-run"])
            .await
            .contains("0002_repair_breakers would change 4 keys")
    );
    assert!(
        run(&["migrate"])
            .await
            .contains("0002_repair_breakers changed 4 keys")
    );
    assert_eq!(run(&["migrate"]).await.trim(), "nothing to do");
    let table = run(&["migrate", "--status"]).await;
    assert!(
        table.contains("applied") && table.contains("waits for --retire-bottleneck"),
        "{table}"
    );
}

#[tokio::test]
async fn a_replica_that_starts_without_redis_migrates_when_it_comes() {
    let mut scene = Scene::set(Duration::ZERO).await;
    let pid = nix::unistd::Pid::from_raw(scene.redis.server.pid().unwrap().cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    let mut starting = scene.command(&["run"]).spawn().unwrap();
    scene.redis.server.restart(&[]).await.unwrap();
    let onlooker = migrator(&scene.redis);
    eventually("it migrates", async || {
        let rows = onlooker.status().await.ok()?;
        (rows[1].standing == MigrationState::Applied).then_some(())
    })
    .await;
    starting.kill().await.unwrap();
}
