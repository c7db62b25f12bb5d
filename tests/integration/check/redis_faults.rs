//! What can be wrong with a Redis and the way to it, each provoked once: by a real one where that can be had, and by
//! one that is made up for an old version and a wrong clock.

use std::{net::Ipv4Addr, time::Duration};

use backend_worker::{check::rights::acl_rule, config::Config, keys::MigrationKeys};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{check, expect};
use crate::support::{Proxy, Scene, TestRedis, Weather, eventually};

#[tokio::test]
async fn a_cluster() {
    let redis = TestRedis::start_with(&["--cluster-enabled", "yes"]).await;
    let scene = Scene::over(redis, Duration::ZERO, 0).await;
    let (code, answer) = check(&scene, &[]).await;
    assert_eq!(code, Some(1));
    expect(
        &answer,
        "redis role",
        "failure",
        "a cluster",
        "set REDIS_CLUSTER_TAG",
    );
}

/// Redis closes the connection right behind its refusal, which must not read as a broken line.
#[tokio::test]
async fn a_redis_with_no_room_for_a_client() {
    let scene = Scene::set(Duration::ZERO).await;
    scene
        .redis
        .ask::<String>(&["CONFIG", "SET", "maxclients", "1"])
        .await;
    let (code, answer) = check(&scene, &[]).await;
    assert_eq!(code, Some(1));
    let (level, found, cure) = super::of(&answer, "redis");
    let told = format!("{found} {cure}");
    assert!(
        level == "failure" && told.contains("max number of clients"),
        "{told}"
    );
    assert!(!told.contains("roken pipe"), "{told}");
}

#[tokio::test]
async fn a_long_way_and_a_line_that_is_dead() {
    let scene = Scene::set(Duration::ZERO).await;
    let proxy = Proxy::before(scene.redis.server.port()).await;
    proxy.set(Weather {
        latency: Duration::from_millis(10),
        ..Weather::default()
    });
    let url = proxy.url();
    let (_, answer) = check(&scene, &[("REDIS_URL", &url)]).await;
    expect(
        &answer,
        "redis latency",
        "warning",
        "in the middle",
        "the same region",
    );
    proxy.set(Weather {
        is_half_open: true,
        ..Weather::default()
    });
    let (code, answer) = check(&scene, &[("REDIS_URL", &url)]).await;
    assert_eq!(code, Some(1));
    expect(&answer, "redis", "failure", "", "does not answer in 2 s");
}

#[tokio::test]
async fn rights_that_are_missing() {
    let scene = Scene::set(Duration::ZERO).await;
    let rule = acl_rule(&Config::from_lookup(|_| None).unwrap());
    let set_user = async |rule: &str| {
        let command = format!("ACL SETUSER worker on >pass {rule}");
        let words: Vec<&str> = command.split(' ').collect();
        scene.redis.ask::<String>(&words).await;
    };
    let url = format!("redis://worker:pass@127.0.0.1:{}", scene.redis.server.port());
    let user = [("REDIS_URL", url.as_str())];

    set_user(&format!("{rule} -info")).await;
    let (_, answer) = check(&scene, &user).await;
    expect(&answer, "redis info", "warning", "", "+info");
    expect(&answer, "redis rights", "failure", "lacks 1 rights", "+info");

    set_user("+info -acl").await;
    let (_, answer) = check(&scene, &user).await;
    expect(
        &answer,
        "redis rights",
        "warning",
        "cannot be looked at",
        "+acl|whoami",
    );

    set_user("-hgetall").await;
    let (_, answer) = check(&scene, &user).await;
    expect(&answer, "keyspace", "failure", "", "docs/operations.md");

    set_user("-@all").await;
    let (_, answer) = check(&scene, &user).await;
    expect(&answer, "redis", "failure", "", "docs/operations.md");
}

#[tokio::test]
async fn a_policy_that_waits_for_a_limit_and_memory_that_is_nearly_full() {
    let redis = TestRedis::start_with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let scene = Scene::over(redis, Duration::ZERO, 0).await;
    let (_, answer) = check(&scene, &[]).await;
    expect(
        &answer,
        "redis eviction",
        "warning",
        "without maxmemory",
        "noeviction",
    );
    scene
        .redis
        .ask::<String>(&[
            "CONFIG",
            "SET",
            "maxmemory-policy",
            "noeviction",
            "maxmemory",
            "1",
        ])
        .await;
    let (_, answer) = check(&scene, &[]).await;
    expect(&answer, "redis memory", "failure", "used", "more memory");
}

/// Its append-only file leads to a device that is always full.
#[tokio::test]
async fn an_append_only_file_that_takes_nothing() {
    let folder = std::env::temp_dir().join(format!("backend-worker-full-{}", std::process::id()));
    let files = folder.join("appendonlydir");
    std::fs::create_dir_all(&files).unwrap();
    let manifest = "file appendonly.aof.1.incr.aof seq 1 type i\n";
    std::fs::write(files.join("appendonly.aof.manifest"), manifest).unwrap();
    // The one is Redis 7's, the other that of older ones.
    for file in [
        files.join("appendonly.aof.1.incr.aof"),
        folder.join("appendonly.aof"),
    ] {
        std::os::unix::fs::symlink("/dev/full", file).unwrap();
    }
    let dir = folder.to_str().unwrap();
    let redis = TestRedis::start_with(&["--dir", dir, "--appendonly", "yes"]).await;
    let scene = Scene::over(redis, Duration::ZERO, 0).await;
    let (_, before) = check(&scene, &[]).await;
    expect(&before, "redis persistence", "ok", "append-only file", "");
    scene.redis.ask::<()>(&["SET", "any", "1"]).await;
    finds_a_failed_write(&scene, "aof_last_write_status:err").await;
    std::fs::remove_dir_all(folder).unwrap();
}

/// Waits until Redis says by `sign` that it could not write, and holds that `check` finds it.
async fn finds_a_failed_write(scene: &Scene, sign: &str) {
    eventually(sign, async || {
        let info: String = scene.redis.ask(&["INFO", "persistence"]).await;
        info.contains(sign).then_some(())
    })
    .await;
    let (code, answer) = check(scene, &[]).await;
    assert_eq!(code, Some(1));
    expect(
        &answer,
        "redis persistence",
        "failure",
        "the last write to disk failed",
        "disk of Redis",
    );
}

#[tokio::test]
async fn a_disk_that_takes_nothing() {
    let scene = Scene::set(Duration::ZERO).await;
    let folder: Vec<String> = scene.redis.ask(&["CONFIG", "GET", "dir"]).await;
    std::fs::remove_dir_all(&folder[1]).unwrap();
    scene.redis.ask::<String>(&["BGSAVE"]).await;
    finds_a_failed_write(&scene, "rdb_last_bgsave_status:err").await;
}

#[tokio::test]
async fn a_migration_that_was_another() {
    let scene = Scene::set(Duration::ZERO).await;
    let migrated = scene.command(&["migrate"]).output().await.unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    let entry = r#"{"name":"0002_repair_breakers","sha":"another","at":1,"by":"0.0.9"}"#;
    let known = scene
        .redis
        .ask::<u8>(&["HSET", MigrationKeys::LEDGER, "2", entry])
        .await;
    assert_eq!(known, 0, "it takes the place of the real one");
    let (code, answer) = check(&scene, &[]).await;
    assert_eq!(code, Some(1));
    expect(
        &answer,
        "keyspace",
        "failure",
        "0002_repair_breakers",
        "which build did it",
    );
}

#[tokio::test]
async fn an_old_version_and_a_clock_of_its_own() {
    let scene = Scene::set(Duration::ZERO).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(redis_5_of_1970(socket));
        }
    });
    let (code, answer) = check(&scene, &[("REDIS_URL", &url)]).await;
    assert_eq!(code, Some(1));
    expect(&answer, "redis version", "failure", "5.0.14", "6.2 or later");
    expect(&answer, "redis clock", "warning", "s from ours", "NTP");
}

/// Answers as a Redis 5 would whose clock stands at the beginning of 1970.
async fn redis_5_of_1970(socket: TcpStream) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let command = read_command(&mut socket).await?;
        let answer = match command[0].to_uppercase().as_str() {
            "PING" => "+PONG\r\n".to_owned(),
            "TIME" => "*2\r\n$2\r\n60\r\n$1\r\n0\r\n".to_owned(),
            "INFO" => {
                let info = "redis_version:5.0.14\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n";
                format!("${}\r\n{info}\r\n", info.len())
            }
            other => format!("-ERR unknown command `{other}`\r\n"),
        };
        socket.write_all(answer.as_bytes()).await?;
    }
}

/// Reads an array of bulk strings: what every client sends.
async fn read_command(socket: &mut BufReader<TcpStream>) -> std::io::Result<Vec<String>> {
    let mut words = Vec::new();
    for _ in 0..number(socket, '*').await? {
        let length = number(socket, '$').await?;
        let mut word = vec![0; length + 2];
        socket.read_exact(&mut word).await?;
        words.push(String::from_utf8_lossy(&word[..length]).into_owned());
    }
    Ok(words)
}

async fn number(socket: &mut BufReader<TcpStream>, mark: char) -> std::io::Result<usize> {
    let mut line = String::new();
    socket.read_line(&mut line).await?;
    let number = line.trim_end().strip_prefix(mark).and_then(|n| n.parse().ok());
    number.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}
