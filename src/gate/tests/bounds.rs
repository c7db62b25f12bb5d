//! I9 and I10: no window holds more than its limit, and every wait is bounded.

use super::rig::{Rig, breaker, limit, ms, requests, tokens};
use crate::gate::{
    BreakerSettings, LimitSettings, Settlement,
    settlement::CallOutcome::{Failure, Success},
};

#[tokio::test]
async fn i9_no_window_of_a_minute_holds_more_than_the_limit() {
    let rig = Rig::start().await;
    let limits = LimitSettings {
        requests_per_minute: limit(20),
        ..tokens(500)
    };
    let gate = rig.gate(breaker(), limits);
    let mut sent: Vec<(u64, u64)> = Vec::new();
    // Steps and sizes without a common divisor with the buckets, and long silences.
    for n in 0u64..600 {
        let (tokens, now) = (n * 7 % 61, rig.now());
        let id = format!("w{n}");
        let answer = gate.admit(id.as_str(), tokens).await.unwrap();
        if answer.passes() {
            sent.push((now, tokens));
            let used = Settlement {
                tokens: Some(tokens / 2),
                ..Settlement::new(Success)
            };
            gate.settle(
                id.as_str(),
                if n % 2 == 0 {
                    used
                } else {
                    Settlement::new(Success)
                },
            )
            .await
            .unwrap();
            if n % 2 == 0 {
                sent.last_mut().unwrap().1 = tokens / 2;
            }
        } else if n % 5 == 0 {
            rig.pass(answer.refusal().unwrap().1.unwrap()).await;
            continue;
        }
        rig.pass(if n % 97 == 0 { 59_999 } else { n * 331 % 1777 }).await;
    }
    assert!(sent.len() > 100, "{} calls passed", sent.len());
    for (i, (start, _)) in sent.iter().enumerate() {
        let window = || sent[i..].iter().take_while(|(at, _)| at - start < 60_000);
        assert!(
            window().count() <= 20,
            "{} requests from {start}",
            window().count()
        );
        assert!(
            window().map(|(_, tokens)| tokens).sum::<u64>() <= 500,
            "from {start}"
        );
    }
}

#[tokio::test]
async fn i9_at_least_nine_tenths_of_a_limit_can_be_used() {
    let rig = Rig::start().await;
    let gate = rig.gate(breaker(), requests(60));
    let (start, mut passed) = (rig.now(), 0u64);
    while rig.now() < start + 600_000 {
        passed += u64::from(gate.passes(&format!("{}", rig.now())).await);
        rig.pass(500).await;
    }
    assert!((540..=600).contains(&passed), "{passed} of 600 in ten minutes");
}

#[tokio::test]
async fn i10_every_wait_is_told_and_bounded() {
    let rig = Rig::start().await;
    let limits = LimitSettings {
        requests_per_minute: limit(5),
        tokens_per_minute: limit(100),
        max_concurrent: limit(3),
    };
    let gate = rig.gate(
        BreakerSettings {
            open_for: ms(30_000),
            ..breaker()
        },
        limits,
    );
    // The longest: a minute and a bucket.
    let most = 65_000;
    for n in 0u64..400 {
        let id = format!("{n}");
        match gate.admit(id.as_str(), n % 40).await.unwrap().refusal() {
            None if n % 3 == 0 => drop(gate.ends(&id, Failure).await),
            None if n % 3 == 1 => drop(gate.ends(&id, Success).await),
            None => {}
            Some((reason, wait)) => {
                let wait = wait.unwrap();
                assert!((1..=most).contains(&wait), "{reason}: {wait} ms");
                if n % 4 == 0 {
                    rig.pass(wait).await;
                }
            }
        }
        rig.pass(n * 37 % 900).await;
    }
}
