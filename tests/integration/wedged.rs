//! A worker whose runtime is blocked ends by itself. The blocked one is this very binary, started again for it.

use std::{process::Stdio, time::Duration};

use backend_worker::{
    connection::Connection,
    queue::{BrokerOptions, apalis::ApalisBroker},
    telemetry::{self, LogFormat},
    watchdog,
    worker::RuntimeOptions,
};
use serde_json::Value;
use tokio::process::Command;

use crate::support::{PATIENCE, Script, TestRedis, enqueue, options, replica};

/// Tells the process that is started again where its Redis is.
const URL: &str = "WEDGED_REDIS_URL";

#[tokio::test]
#[ignore = "never ends: the test below starts it in a process of its own"]
async fn a_handler_that_never_lets_go() {
    let Ok(url) = std::env::var(URL) else { return };
    telemetry::init(LogFormat::Json, "info", None);
    let connection = Connection::open(&url.into()).unwrap();
    let broker = std::sync::Arc::new(ApalisBroker::new(connection, "q", "w", BrokerOptions::default()));
    // The runtime's only thread is its own: no loop, no timer and no signal handler runs any more.
    let script = Script::new(async |_| {
        loop {
            std::thread::park();
        }
    });
    let options = RuntimeOptions {
        wedged_after: Duration::from_secs(2),
        ..options()
    };
    let _running = replica(broker, 1, script, &options);
    std::future::pending().await
}

#[tokio::test]
async fn a_blocked_runtime_ends_the_process_and_says_why() {
    let redis = TestRedis::start().await;
    enqueue(&*redis.apalis("q", "onlooker"), "1").await;
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "wedged::a_handler_that_never_lets_go",
        ])
        .env(URL, redis.server.url())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let child = tokio::time::timeout(PATIENCE, child)
        .await
        .expect("it ends")
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert_eq!(child.status.code(), Some(watchdog::EXIT_CODE), "{text}");
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["level"], &last["message"]),
        (
            &"ERROR".into(),
            &"the claim loop of apalis:q has made no progress for 2 s: leaving, for a new process to take over"
                .into()
        )
    );
}
