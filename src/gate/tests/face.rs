//! The gates as callers see them while Redis answers: real time, a real Redis, several replicas.

use std::sync::atomic::Ordering;

use jobs::{Failure, FailureClass, Provider};
use redis::AsyncCommands;
use test_support::Proxy;

use super::{
    replica::{OPENAI, end, eventually, in_use, permit, quick, rejection, replica, run, sent},
    rig::{limit, ms},
};
use crate::{
    demo::PrivateRedis,
    gate::{Admission, CallOutcome, Effect, Gates, GatesSettings, Reason, Settlement, State},
    keys::GateKeys,
};

#[tokio::test]
async fn a_call_is_admitted_counted_and_settled() {
    let redis = PrivateRedis::start().await.unwrap();
    let gates = replica(&redis.url(), "r1", &GatesSettings::default());
    let gate = gates.gate(OPENAI);
    let first = sent(gate).await;
    let second = sent(gate).await;
    assert_ne!(first.id(), second.id());
    assert_eq!(in_use(&gate.status().await.unwrap()), (2, 2, 0));
    let used = Settlement {
        tokens: Some(1234),
        ..Settlement::new(CallOutcome::Success)
    };
    assert_eq!(first.settle(used).await, Effect::Recorded);
    assert_eq!(end(second, CallOutcome::Failure).await, Effect::Recorded);
    let status = gate.status().await.unwrap();
    assert_eq!((in_use(&status), status.tokens), ((0, 2, 1), 1234));
    assert!(!gates.is_redis_away());
}

#[tokio::test]
async fn a_dropped_permit_costs_nothing_unless_it_was_sent() {
    let redis = PrivateRedis::start().await.unwrap();
    let gates = replica(&redis.url(), "r1", &GatesSettings::default());
    let gate = gates.gate(OPENAI);
    let (unsent, sent) = (permit(gate).await, sent(gate).await);
    assert_eq!(in_use(&gate.status().await.unwrap()), (2, 2, 0));
    let _running = run(&gates);
    drop(unsent);
    eventually("refunded", async || {
        in_use(&gate.status().await.unwrap()) == (1, 1, 0)
    })
    .await;
    drop(sent);
    eventually("a failure", async || {
        in_use(&gate.status().await.unwrap()) == (0, 1, 1)
    })
    .await;
    // Ended without a verdict on the provider, and never sent: refunded too.
    assert_eq!(
        end(permit(gate).await, CallOutcome::Ignored).await,
        Effect::Ignored
    );
    assert_eq!(in_use(&gate.status().await.unwrap()), (0, 1, 1));
}

/// Redis has done its part; the job is stopped before it hears of it.
#[tokio::test]
async fn an_admission_or_a_settlement_that_is_dropped_midway_leaks_nothing() {
    let redis = PrivateRedis::start().await.unwrap();
    let proxy = Proxy::before(redis.port()).await;
    let gates = replica(&proxy.url(), "r1", &GatesSettings::default());
    let onlooker = replica(&redis.url(), "r2", &GatesSettings::default());
    let (gate, onlooker) = (gates.gate(OPENAI), onlooker.gate(OPENAI));
    let reaches = async |what| {
        eventually("done", async || in_use(&onlooker.status().await.unwrap()) == what).await;
    };
    end(permit(gate).await, CallOutcome::Cancelled).await; // The scripts are loaded from here on.

    proxy.hold_replies(true);
    tokio::select! {
        admission = gate.admit(0) => panic!("{admission:?}"),
        () = reaches((1, 1, 0)) => {}
    }
    proxy.hold_replies(false);
    let _running = run(&gates);
    reaches((0, 0, 0)).await;

    let failed = sent(gate).await;
    proxy.hold_replies(true);
    tokio::select! {
        effect = end(failed, CallOutcome::Failure) => panic!("{effect}"),
        () = reaches((0, 1, 1)) => {}
    }
    assert!(gate.has_pending_settlements());
    proxy.hold_replies(false);
    eventually("delivered again", async || !gate.has_pending_settlements()).await;
    assert_eq!(in_use(&gate.status().await.unwrap()), (0, 1, 1));
}

#[tokio::test]
async fn leases_are_renewed_and_a_lost_one_stops_its_call() {
    let redis = PrivateRedis::start().await.unwrap();
    // Long enough for a busy machine to renew in time.
    let settings = GatesSettings {
        lease_ttl: ms(5000),
        ..quick(ms(60_000))
    };
    let gates = replica(&redis.url(), "r1", &settings);
    let gate = gates.gate(OPENAI);
    let (kept, taken) = (sent(gate).await, sent(gate).await);
    let mut direct = redis::Client::open(redis.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let leases = GateKeys::new("openai", "openai").leases;
    let granted: u64 = direct.zscore(&leases, kept.id()).await.unwrap();
    let _running = run(&gates);
    eventually("renewed", async || {
        direct.zscore::<_, _, u64>(&leases, kept.id()).await.unwrap() > granted + 3000
    })
    .await;
    let _: () = direct.zrem(&leases, taken.id()).await.unwrap();
    taken.lost().await;
    tokio::select! {
        biased;
        () = kept.lost() => panic!("nobody has taken it"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(end(kept, CallOutcome::Success).await, Effect::Recorded);
}

#[tokio::test]
async fn the_slots_of_a_killed_replica_come_back() {
    let redis = PrivateRedis::start().await.unwrap();
    let mut settings = quick(ms(60_000));
    settings.openai.limits.max_concurrent = limit(2);
    let (dead, alive) = (
        replica(&redis.url(), "dead", &settings),
        replica(&redis.url(), "alive", &settings),
    );
    let _running = run(&alive);
    for _ in 0..2 {
        std::mem::forget(permit(dead.gate(OPENAI)).await); // What is left of a SIGKILL.
    }
    let full = rejection(alive.gate(OPENAI)).await;
    assert_eq!(full.reason, Reason::Concurrency);
    let mut held = Vec::new();
    eventually("both slots are free", async || {
        if let Admission::Admitted(permit) = alive.gate(OPENAI).admit(0).await {
            held.push(permit);
        }
        held.len() == 2
    })
    .await;
}

#[tokio::test]
async fn an_open_breaker_says_so_in_the_words_of_the_node_worker() {
    let redis = PrivateRedis::start().await.unwrap();
    let gates = replica(&redis.url(), "r1", &GatesSettings::default());
    let gate = gates.with_breaker("openai").unwrap();
    let status = gate.open().await.unwrap();
    assert_eq!(status.breaker.state, State::Open);
    assert_eq!(
        status.breaker.opened_at.unwrap() + 60_000,
        status.breaker.next_retry_at.unwrap()
    );
    let rejection = rejection(gate).await;
    assert_eq!(
        rejection.to_string(),
        "Circuit breaker is OPEN for openai. Retry in 60s"
    );
    let failure = Failure::from(rejection);
    assert_eq!(
        (failure.class(), failure.provider()),
        (FailureClass::Blocked, Some(OPENAI))
    );
    assert!((ms(50_000)..=ms(60_000)).contains(&failure.retry_after().unwrap()));
    let status = gate.reset().await.unwrap().breaker;
    assert_eq!(
        (status.state, status.opened_at, status.next_retry_at),
        (State::Closed, None, None)
    );
    assert!(gates.with_breaker("nobody").is_none());
}

#[tokio::test]
async fn the_azure_services_share_a_breaker_and_keep_limits_of_their_own() {
    let redis = PrivateRedis::start().await.unwrap();
    let gates = replica(&redis.url(), "r1", &GatesSettings::default());
    let (speech, vision) = (
        gates.gate(Provider::AzureSpeech),
        gates.gate(Provider::AzureVision),
    );
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(sent(vision).await);
    }
    assert_eq!(
        rejection(vision).await.to_string(),
        "Limit of concurrent calls reached for azure-vision. Retry in 1s"
    );
    let pause = Settlement {
        throttle: Some(ms(60_000)),
        ..Settlement::new(CallOutcome::Ignored)
    };
    assert_eq!(sent(speech).await.settle(pause).await, Effect::Ignored);
    assert_eq!(rejection(speech).await.reason, Reason::Throttled);
    for permit in held {
        end(permit, CallOutcome::Failure).await;
    }
    // Speech has seen no failure.
    assert_eq!(rejection(speech).await.reason, Reason::Open);
    assert_eq!(
        speech.status().await.unwrap().breaker,
        vision.status().await.unwrap().breaker
    );
}

#[tokio::test]
async fn a_call_that_can_never_pass_is_the_jobs_fault() {
    let redis = PrivateRedis::start().await.unwrap();
    let mut settings = GatesSettings::default();
    settings.openai.limits.tokens_per_minute = limit(1000);
    let gates = replica(&redis.url(), "r1", &settings);
    let Admission::Rejected(rejection) = gates.gate(OPENAI).admit(u64::MAX).await else {
        panic!("admitted")
    };
    let failure = Failure::from(rejection);
    assert_eq!(
        (failure.class(), failure.retry_after()),
        (FailureClass::Permanent, None)
    );
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let redis = PrivateRedis::start().await.unwrap();
    let gates = replica(&redis.url(), "r1", &GatesSettings::default());
    let mut direct = redis::Client::open(redis.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    for requests in 1..4 {
        let permit = permit(gates.gate(OPENAI)).await;
        let _: () = redis::cmd("SCRIPT")
            .arg("FLUSH")
            .query_async(&mut direct)
            .await
            .unwrap();
        assert_eq!(end(permit, CallOutcome::Success).await, Effect::Recorded);
        let _: () = redis::cmd("SCRIPT")
            .arg("FLUSH")
            .query_async(&mut direct)
            .await
            .unwrap();
        assert_eq!(gates.gate(OPENAI).status().await.unwrap().requests, requests);
    }
    assert!(!gates.is_redis_away());
}

#[tokio::test]
async fn a_lost_reply_neither_charges_twice_nor_counts_twice() {
    let redis = PrivateRedis::start().await.unwrap();
    let proxy = Proxy::before(redis.port()).await;
    let gates = replica(&proxy.url(), "r1", &GatesSettings::default());
    let gate = gates.gate(OPENAI);
    gate.status().await.unwrap();
    end(permit(gate).await, CallOutcome::Cancelled).await; // The scripts are loaded.

    proxy.lose_next_reply();
    let permit = sent(gate).await;
    assert!(proxy.has_lost_it());
    assert_eq!(in_use(&gate.status().await.unwrap()), (1, 1, 0));
    proxy.lose_next_reply();
    assert_eq!(end(permit, CallOutcome::Failure).await, Effect::Unknown);
    assert!(proxy.has_lost_it());
    assert_eq!(in_use(&gate.status().await.unwrap()), (0, 1, 1));
    assert!(!gates.is_redis_away());
}

#[tokio::test]
async fn the_replicas_know_how_many_they_are() {
    let redis = PrivateRedis::start().await.unwrap();
    let settings = quick(ms(60_000));
    let (one, other) = (
        replica(&redis.url(), "r1", &settings),
        replica(&redis.url(), "r2", &settings),
    );
    let known = |gates: &Gates| gates.shared.replicas.load(Ordering::Relaxed);
    let (_one, leaving) = (run(&one), run(&other));
    eventually("two", async || known(&one) == 2 && known(&other) == 2).await;
    leaving.stop.cancel();
    leaving.task.await.unwrap();
    eventually("one", async || known(&one) == 1).await;
}
