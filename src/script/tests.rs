use std::path::Path;

use redis::aio::MultiplexedConnection;

use super::{
    Script,
    library::library,
    support::{is_missing, is_refused},
};
use crate::{connection::Connection, demo::PrivateRedis, gate, queue, spend_ledger};

const PRELUDE: &str = "\
local call, floor = redis.call, math.floor
local P, LONGEST = KEYS[1], 10
local seen = {}
local calls

-- Counts.
local function count(name)
  seen[name] = (seen[name] or 0) + 1 -- = 1
  calls = (calls or 0) + 1
  return seen[name]
end
";
const OPERATION: &str = "\
-- Counts a name once for each argument.
local many = #ARGV
local function both() return { count(P), many, LONGEST, floor(1.5), calls } end
if many == 0 then
  return 'none'
end
for i = 2, many do count(P) end
return both()
";

async fn open() -> (PrivateRedis, Connection, MultiplexedConnection) {
    let redis = PrivateRedis::start_with(&["--save", ""]).await.unwrap();
    let connection = Connection::open(&redis.url().into()).unwrap();
    let client = redis::Client::open(redis.url()).unwrap();
    let raw = client.get_multiplexed_async_connection().await.unwrap();
    (redis, connection, raw)
}

fn script() -> Script {
    Script::stored("test", PRELUDE, OPERATION)
}

async fn ask<T: redis::FromRedisValue>(raw: &mut MultiplexedConnection, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    command.query_async(raw).await.unwrap()
}

/// Calls of a command since the start.
async fn calls(raw: &mut MultiplexedConnection, command: &str) -> u64 {
    let info: String = ask(raw, &["INFO", "commandstats"]).await;
    let stem = format!("cmdstat_{command}:calls=");
    let calls = info.lines().find_map(|line| line.strip_prefix(&stem));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

async fn count(connection: &Connection, script: &Script) -> Vec<i64> {
    let mut call = script.prepare_invoke();
    call.key("k").arg(1).arg(2);
    connection.invoke(&call).await.unwrap()
}

#[tokio::test]
async fn a_function_begins_each_call_without_what_the_last_one_left() {
    let (redis, connection, mut raw) = open().await;
    let script = script();
    for _ in 0..3 {
        assert_eq!(count(&connection, &script).await, [2, 2, 10, 1, 2]);
    }
    let none: String = connection.invoke(script.prepare_invoke().key("k")).await.unwrap();
    assert_eq!(none, "none");
    assert_eq!(calls(&mut raw, "evalsha").await, 0);
    // A fail-over to a server without functions, or an operator, may remove it at any time.
    ask::<()>(&mut raw, &["FUNCTION", "FLUSH"]).await;
    assert_eq!(count(&connection, &script).await, [2, 2, 10, 1, 2]);
    redis.stop().await;
}

/// Redis blocks while it compiles a library, so calls in flight do not all load it.
#[tokio::test]
async fn calls_side_by_side_load_a_function_once() {
    let (redis, connection, mut raw) = open().await;
    let script = script();
    ask::<()>(&mut raw, &["CONFIG", "RESETSTAT"]).await;
    let all = futures_util::future::join_all((0..50).map(|_| count(&connection, &script))).await;
    assert!(all.iter().all(|answer| *answer == [2, 2, 10, 1, 2]));
    assert_eq!(calls(&mut raw, "function|load").await, 1);
    assert_eq!(count(&connection, &script).await, [2, 2, 10, 1, 2]);
    assert_eq!(calls(&mut raw, "function|load").await, 1);
    redis.stop().await;
}

#[tokio::test]
async fn without_the_rights_for_functions_scripts_are_evaluated() {
    for denied in ["-fcall", "-function|load"] {
        let (redis, _, mut raw) = open().await;
        ask::<()>(&mut raw, &["ACL", "SETUSER", "default", denied]).await;
        let connection = Connection::open(&redis.url().into()).unwrap();
        let script = script();
        for _ in 0..3 {
            assert_eq!(count(&connection, &script).await, [2, 2, 10, 1, 2], "{denied}");
        }
        assert!(calls(&mut raw, "evalsha").await >= 3, "{denied}");
        redis.stop().await;
    }
}

#[tokio::test]
async fn a_few_earlier_versions_stay() {
    let (redis, connection, mut raw) = open().await;
    for version in 0..8 {
        let operation = format!("{OPERATION}-- {version}\n");
        count(&connection, &Script::stored("test", PRELUDE, &operation)).await;
    }
    // Another script whose name begins like this one's.
    count(&connection, &Script::stored("test_more", PRELUDE, OPERATION)).await;
    let list = |pattern: &'static str| ["FUNCTION", "LIST", "LIBRARYNAME", pattern];
    let libraries: Vec<redis::Value> = ask(&mut raw, &list("bw_test_*")).await;
    assert_eq!(libraries.len(), super::KEPT_VERSIONS + 2);
    redis.stop().await;
}

/// A script as a function does the same as evaluated: all of them can be loaded.
#[tokio::test]
async fn every_script_that_is_to_be_a_function_is_one() {
    let (redis, _, mut raw) = open().await;
    let mut functions = 0;
    let names = [
        queue::script_names(),
        gate::script_names(),
        spend_ledger::script_names(),
    ];
    for (name, logged) in names.into_iter().flatten() {
        functions += usize::from(logged.starts_with("bw_"));
        assert!(!name.is_empty());
    }
    assert_eq!(functions, 18);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/script-libraries");
    std::fs::create_dir_all(&folder).unwrap();
    let codes = [
        queue::library_codes(),
        gate::library_codes(),
        spend_ledger::library_codes(),
    ];
    for code in codes.into_iter().flatten() {
        let name: String = ask(&mut raw, &["FUNCTION", "LOAD", &code]).await;
        // `scripts/script-instructions.py` measures these files.
        let (stem, _digest) = name.rsplit_once('_').unwrap();
        std::fs::write(folder.join(format!("{stem}.lua")), code).unwrap();
    }
    redis.stop().await;
}

/// Values that look like constants, and are counted down or chosen.
#[tokio::test]
async fn a_variable_that_begins_as_a_number_begins_so_at_each_call() {
    let (redis, connection, _) = open().await;
    let prelude = "local left, most = 2, math.huge\nlocal function take() left = left - 1 end\n";
    let operation = "local reason, wait = '', 0\nlocal function note(why) reason, wait = why, wait + 1 end\n\
                     take()\nif most > 7 then most = 7 end\nnote(reason .. 'x')\nreturn { left, most, reason, wait }\n";
    let script = Script::stored("changing", prelude, operation);
    for _ in 0..3 {
        let answer: (u32, u32, String, u32) = connection.invoke(&script.prepare_invoke()).await.unwrap();
        assert_eq!(answer, (1, 7, "x".to_owned(), 1));
    }
    redis.stop().await;
}

#[test]
fn a_name_that_is_declared_twice_makes_no_library() {
    assert!(
        library(
            "bw_a",
            "local a = 1\n",
            "local a = KEYS[1]\nlocal function f() return a end\nreturn f()\n",
        )
        .is_none()
    );
    assert!(library("bw_a", "local a = 1\n", "local b = KEYS[1]\nreturn b\n").is_some());
}

#[test]
fn answers_about_functions_are_told_apart() {
    let error = |line: &str| {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    };
    assert!(is_missing(&error("ERR Function not found")));
    for line in [
        "ERR unknown command `FCALL`, with args beginning with: `bw_a`, `1`, ",
        "ERR unknown command 'FCALL', with args beginning with: 'bw_a' '1'",
        "NOPERM this user has no permissions to run the 'fcall' command",
        "NOPERM User worker has no permissions to run the 'fcall' command",
    ] {
        assert!(is_refused(&error(line)) && !is_missing(&error(line)), "{line}");
    }
    for line in [
        "WRONGTYPE Operation against a key holding the wrong kind of value script: bw_a, on @user_function:3.",
        "NOPERM this user has no permissions to access one of the keys used as arguments",
        "OOM command not allowed when used memory > 'maxmemory'.",
    ] {
        assert!(!is_refused(&error(line)) && !is_missing(&error(line)), "{line}");
    }
}
