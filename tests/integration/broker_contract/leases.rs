//! Leases that run out, are given back, or have outlived an outage.

use super::*;

both_layouts! {
    [Fixture]
    an_orphan_is_recovered_without_losing_an_attempt
    three_lost_deliveries_are_poison
    renewing_tells_what_is_lost
    leaving_puts_everything_back
}

async fn an_orphan_is_recovered_without_losing_an_attempt(f: Fixture) {
    enqueue(&*f.a, "1").await;
    f.orphan(FIRST).await;
    let found = f.recovered().await;
    assert_eq!((found.requeued, found.poisoned), (1, 0));
    let claimed = f.b.claim(FIRST, 1).await.unwrap();
    assert_eq!(claimed[0].attempt, 1);
    f.swept().await;
}

async fn three_lost_deliveries_are_poison(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let mut number = FIRST;
    for lost in 1..=3 {
        f.orphan(number).await;
        number = number.next().next();
        let found = f.recovered().await;
        assert_eq!(
            (found.requeued, found.poisoned),
            if lost < 3 { (1, 0) } else { (0, 1) }
        );
        f.swept().await;
    }
    let job = view(&*f.a, "1").await;
    assert_eq!(job.state, State::Failed);
    assert!(
        job.error
            .unwrap()
            .contains("poison: 3 deliveries ended without an outcome")
    );
}

async fn renewing_tells_what_is_lost(f: Fixture) {
    for n in 0..5 {
        enqueue(&*f.a, &n.to_string()).await;
    }
    let mut held: Vec<Lease> =
        f.a.claim(FIRST, 5)
            .await
            .unwrap()
            .into_iter()
            .map(|d| d.lease)
            .collect();
    assert!(f.a.renew(&held).await.unwrap().is_empty());
    // Many more than one script takes at a time, and one of them is not ours.
    let mine = held[0].clone();
    held.resize(2500, mine);
    held[2400] = Lease {
        id: "3".into(),
        token: "somebody:1".into(),
    };
    assert_eq!(f.a.renew(&held).await.unwrap(), [held[2400].clone()]);
}

async fn leaving_puts_everything_back(f: Fixture) {
    for n in 0..450 {
        enqueue(&*f.a, &n.to_string()).await;
    }
    assert_eq!(f.a.claim(FIRST, 450).await.unwrap().len(), 450);
    f.a.leave().await.unwrap();
    let counts = f.a.counts().await.unwrap();
    assert_eq!((counts.waiting, counts.active), (450, 0));
    assert!(matches!(
        f.a.claim(FIRST.next(), 1).await,
        Err(BrokerError::Unleased)
    ));
    assert_eq!(f.b.claim(FIRST, 1).await.unwrap()[0].attempt, 1);
}
