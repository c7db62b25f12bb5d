//! The log lines that operators grep for.

use std::sync::{Arc, Mutex};

use super::{
    replica::{OPENAI, end, eventually, permit, quick, replica, sent},
    rig::ms,
};
use crate::{
    demo::PrivateRedis,
    gate::{Admission, CallOutcome, Effect, State},
};

/// Where the log of a test goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let messages = text
            .lines()
            .filter_map(|line| line.split_once("Circuit breaker "));
        messages
            .map(|(_, message)| message.split(" breaker=").next().unwrap_or_default().to_owned())
            .collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn two_replicas_share_one_breaker_and_each_change_is_logged_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let redis = PrivateRedis::start().await.unwrap();
    let settings = quick(ms(100));
    let (one, other) = (
        replica(&redis.url(), "r1", &settings),
        replica(&redis.url(), "r2", &settings),
    );
    let (one, other) = (one.gate(OPENAI), other.gate(OPENAI));
    let late = sent(other).await;
    for n in 1..=5 {
        let effect = end(
            sent(if n % 2 == 0 { one } else { other }).await,
            CallOutcome::Failure,
        )
        .await;
        assert_eq!(effect, if n == 5 { Effect::Opened } else { Effect::Recorded });
    }
    assert_eq!(end(late, CallOutcome::Failure).await, Effect::Stale);
    assert_eq!(one.status().await.unwrap().breaker.state, State::Open);

    let mut probes = Vec::new();
    eventually("half open", async || {
        if let Admission::Admitted(permit) = one.admit(0).await {
            probes.push(permit);
        }
        !probes.is_empty()
    })
    .await;
    let mut probe = probes.remove(0);
    probe.sent();
    assert_eq!(end(probe, CallOutcome::Failure).await, Effect::Reopened);
    eventually("half open", async || {
        if let Admission::Admitted(permit) = other.admit(0).await {
            probes.push(permit);
        }
        !probes.is_empty()
    })
    .await;
    probes.push(permit(one).await);
    let second = probes.remove(1);
    assert_eq!(end(second, CallOutcome::Success).await, Effect::Recorded);
    assert_eq!(end(probes.remove(0), CallOutcome::Success).await, Effect::Closed);
    other.open().await.unwrap();
    one.reset().await.unwrap();
    one.reset().await.unwrap();

    let expected = [
        "openai: Failure 1/5",
        "openai: Failure 2/5",
        "openai: Failure 3/5",
        "openai: Failure 4/5",
        "openai: Failure 5/5",
        "openai: CLOSED → OPEN (5 failures)",
        "openai: OPEN → HALF_OPEN (timeout passed)",
        "openai: HALF_OPEN → OPEN",
        "openai: OPEN → HALF_OPEN (timeout passed)",
        "openai: HALF_OPEN success 1/2",
        "openai: HALF_OPEN success 2/2",
        "openai: HALF_OPEN → CLOSED",
        "openai: CLOSED → OPEN (by hand)",
        "openai: OPEN → CLOSED (by hand)",
    ];
    assert_eq!(log.lines(), expected);
}
