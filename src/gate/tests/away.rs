//! The gates as callers see them while Redis is away, and when it is back.

use std::{net::Ipv4Addr, num::NonZeroU32, time::Duration};

use jobs::Provider;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    replica::{OPENAI, end, eventually, patient_for, permit, quick, rejection, replica, run, sent},
    rig::ms,
};
use crate::{
    demo::PrivateRedis,
    gate::{
        Admission, CallOutcome, DEADLINE, Effect, Gates, GatesSettings, Permit, ProviderGate, Reason,
        Settlement,
    },
};

fn signal(redis: &PrivateRedis, signal: Signal) {
    let pid = i32::try_from(redis.pid().unwrap()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

async fn die(redis: &PrivateRedis, gate: &ProviderGate) {
    signal(redis, Signal::SIGKILL);
    eventually("dead", async || gate.status().await.is_err()).await;
}

/// Redis hangs at the end of calls that were paid for: nothing is lost, nothing counts twice.
#[tokio::test]
async fn what_ends_while_redis_is_silent_is_settled_when_it_is_back() {
    let redis = PrivateRedis::start().await.unwrap();
    // Other tests keep the machine busy: only silence may look like silence.
    let gates = patient_for(ms(1500), &redis.url(), "r1", &GatesSettings::default());
    let gate = gates.gate(OPENAI);
    let _running = run(&gates);
    let (paid, failed) = (sent(gate).await, sent(gate).await);
    signal(&redis, Signal::SIGSTOP);

    let used = Settlement {
        tokens: Some(77),
        ..Settlement::new(CallOutcome::Success)
    };
    let (one, other) = tokio::join!(paid.settle(used), end(failed, CallOutcome::Failure));
    assert_eq!((one, other), (Effect::Queued, Effect::Queued));
    // Granted here; Redis will find the request when it wakes up, and its settlement after it.
    let local = sent(gate).await;
    assert_eq!(end(local, CallOutcome::Failure).await, Effect::Queued);
    assert!(gates.is_redis_away());

    signal(&redis, Signal::SIGCONT);
    eventually("all is settled", async || {
        let Ok(status) = gate.status().await else {
            return false;
        };
        (
            status.in_flight,
            status.requests,
            status.tokens,
            status.breaker.failures,
        ) == (0, 3, 77, 2)
    })
    .await;
    assert_eq!(
        end(permit(gate).await, CallOutcome::Success).await,
        Effect::Recorded
    );
    assert!(!gates.is_redis_away());
}

#[tokio::test]
async fn a_silent_redis_holds_no_call_up() {
    let redis = PrivateRedis::start().await.unwrap();
    let gates = patient_for(DEADLINE, &redis.url(), "r1", &GatesSettings::default());
    eventually("connected", async || gates.gate(OPENAI).status().await.is_ok()).await;
    signal(&redis, Signal::SIGSTOP);
    // It will not say a word before this is over.
    let permit = permit(gates.gate(OPENAI)).await;
    assert!(gates.is_redis_away());
    signal(&redis, Signal::SIGCONT);
    drop(permit);
}

#[tokio::test]
async fn without_redis_the_replica_goes_by_its_own_limits_and_its_own_breaker() {
    let mut redis = PrivateRedis::start().await.unwrap();
    let gates = replica(&redis.url(), "r1", &GatesSettings::default());
    let (gate, vision) = (gates.gate(OPENAI), gates.gate(Provider::AzureVision));
    let _running = run(&gates);
    let before = sent(gate).await;
    die(&redis, gate).await;

    // Of five slots four are this replica's, and one is taken since before.
    let mut held = vec![before];
    for _ in 0..3 {
        held.push(sent(gate).await);
    }
    let full = rejection(gate).await;
    assert_eq!(
        (full.reason, full.retry_after),
        (Reason::Concurrency, Some(ms(250)))
    );
    assert!(gates.is_redis_away());
    for permit in held {
        assert_eq!(end(permit, CallOutcome::Failure).await, Effect::Queued);
    }
    assert_eq!(end(sent(gate).await, CallOutcome::Failure).await, Effect::Queued);
    let open = rejection(gate).await;
    assert_eq!(
        open.to_string(),
        "Circuit breaker is OPEN for openai. Retry in 60s"
    );
    drop(permit(vision).await);

    redis.restart(&[]).await.unwrap();
    eventually("the fleet's breaker applies", async || {
        gate.status().await.is_ok() && matches!(gate.admit(0).await, crate::gate::Admission::Admitted(_))
    })
    .await;
    eventually("Redis is back", async || !gates.is_redis_away()).await;
}

/// Redis's grants count beside those of the replicas themselves, when Redis goes away and when it is back.
#[tokio::test]
async fn a_fleet_without_redis_is_above_its_limit_by_its_shares_at_most() {
    const LIMIT: u32 = 20;
    let redis = PrivateRedis::start().await.unwrap();
    let mut settings = GatesSettings {
        lease_ttl: ms(60_000), // No lease runs out during the test.
        ..GatesSettings::default()
    };
    settings.openai.limits.max_concurrent = NonZeroU32::new(LIMIT);
    settings.openai.limits.requests_per_minute = None;
    let fleet = ["r1", "r2", "r3", "r4"].map(|name| patient_for(ms(1500), &redis.url(), name, &settings));
    let _running = fleet.each_ref().map(run);
    for gates in &fleet {
        gates.counted().await;
        // Only the last to come knows of all at once; the others learn it with their next renewal.
        gates.appear(settings.lease_ttl).await;
    }
    for gates in &fleet {
        gates.appear(settings.lease_ttl).await;
    }
    /// Calls until the gate refuses one.
    async fn fill(gates: &Gates) -> Vec<Permit> {
        let mut held = Vec::new();
        while let Admission::Admitted(mut permit) = gates.gate(OPENAI).admit(0).await {
            permit.sent();
            held.push(permit);
        }
        held
    }
    // The worst case: all that Redis grants is in one hand, and the others have their shares untouched.
    let granted = fill(&fleet[0]).await;
    assert_eq!(granted.len(), 20);

    signal(&redis, Signal::SIGSTOP);
    let shares = futures_util::future::join_all(fleet.iter().map(|gates| fill(gates))).await;
    assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [0, 4, 4, 4]);

    signal(&redis, Signal::SIGCONT);
    eventually("Redis is back", async || {
        fleet[1].gate(OPENAI).status().await.is_ok()
    })
    .await;
    assert!(fill(&fleet[1]).await.is_empty(), "Redis knows of its own");
    for permit in granted {
        end(permit, CallOutcome::Success).await;
    }
    let again = fill(&fleet[1]).await;
    let in_flight = again.len() + shares.iter().map(Vec::len).sum::<usize>();
    assert_eq!(in_flight, 20 + 12, "and of none that was granted without it");
}

/// An open breaker stays open when Redis goes away, and a provider that wants a pause gets it.
#[tokio::test]
async fn what_redis_said_last_is_remembered() {
    let redis = PrivateRedis::start().await.unwrap();
    let gates = replica(&redis.url(), "r1", &GatesSettings::default());
    let (gate, vision) = (gates.gate(OPENAI), gates.gate(Provider::AzureVision));
    gate.open().await.unwrap();
    assert_eq!(rejection(gate).await.reason, Reason::Open);
    let pause = Settlement {
        throttle: Some(ms(60_000)),
        ..Settlement::new(CallOutcome::Ignored)
    };
    sent(vision).await.settle(pause).await;
    die(&redis, gate).await;
    assert_eq!(rejection(gate).await.reason, Reason::Open);
    assert_eq!(rejection(vision).await.reason, Reason::Throttled);
    assert!(gates.is_redis_away());
}

#[tokio::test]
async fn readonly_and_oom_are_away() {
    let redis = PrivateRedis::start().await.unwrap();
    let mut direct = redis::Client::open(redis.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let mut tell = async |words: &[&str]| {
        let _: () = redis::cmd(words[0])
            .arg(&words[1..])
            .query_async(&mut direct)
            .await
            .unwrap();
    };
    let gates = replica(&redis.url(), "r1", &GatesSettings::default());
    let gate = gates.gate(OPENAI);
    // Out of memory, what only frees some is still done.
    let troubles: [(&[&str], &[&str], Effect); 2] = [
        (
            &["CONFIG", "SET", "maxmemory", "1"],
            &["CONFIG", "SET", "maxmemory", "0"],
            Effect::Recorded,
        ),
        (
            &["REPLICAOF", "127.0.0.1", "1"],
            &["REPLICAOF", "NO", "ONE"],
            Effect::Queued,
        ),
    ];
    for (trouble, remedy, effect) in troubles {
        let before = sent(gate).await;
        assert!(!gates.is_redis_away());
        tell(trouble).await;
        assert_eq!(end(before, CallOutcome::Success).await, effect, "{trouble:?}");
        let local = permit(gate).await;
        assert!(gates.is_redis_away(), "{trouble:?}");
        tell(remedy).await;
        assert_eq!(
            end(local, CallOutcome::Success).await,
            Effect::Unknown,
            "{trouble:?}"
        );
    }
    drop(permit(gate).await);
    assert!(!gates.is_redis_away());
}

#[tokio::test]
async fn a_redis_that_is_loading_is_away() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 65_536];
                while let Ok(n) = client.read(&mut bytes).await
                    && n > 0
                {
                    // One answer to each command: each is an array.
                    for _ in bytes[..n].iter().filter(|byte| **byte == b'*') {
                        let _ = client
                            .write_all(b"-LOADING Redis is loading the dataset in memory\r\n")
                            .await;
                    }
                }
            });
        }
    });
    let gates = replica(
        &format!("redis://127.0.0.1:{port}"),
        "r1",
        &GatesSettings::default(),
    );
    let permit = permit(gates.gate(OPENAI)).await;
    assert!(gates.is_redis_away());
    assert_eq!(end(permit, CallOutcome::Success).await, Effect::Queued);
}

#[tokio::test]
async fn the_loop_makes_progress_while_redis_is_away() {
    // No server listens there.
    let gates = replica("redis://127.0.0.1:1", "r1", &quick(ms(60_000)));
    let running = run(&gates);
    for _ in 0..3 {
        let mut longest = Duration::ZERO;
        eventually("it beats", async || {
            let silence = gates.pulse().silence();
            let has_beaten = silence < longest;
            longest = silence;
            has_beaten
        })
        .await;
    }
    running.stop.cancel();
    running.task.await.unwrap();
    assert_eq!(gates.pulse().silence(), Duration::ZERO, "it has ended");
}
