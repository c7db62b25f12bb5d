//! A call is opened in the ledger only behind its permit.

use std::{sync::Arc, time::Duration};

use backend_worker::{
    queue::{Delivery, Lease},
    spend_ledger::{LedgerPage, OpeningAnswer, SpendLedger, UnknownCalls, open_admitted},
    spending::{Budgets, Payer, PriceTable, SpendBooks},
};
use futures_util::FutureExt;
use jobs::{CallUsage, JobType, ProviderCall};

use crate::support::TestRedis;

const KEY: &str = "ledger:bull:q:1";

fn ledger(redis: &TestRedis) -> Arc<SpendLedger> {
    let prices = Arc::new(PriceTable::embedded().unwrap());
    let books = Arc::new(SpendBooks::new("w-1", prices, Budgets::default()));
    let (ttl, lease) = (Some(Duration::from_secs(60)), Duration::from_secs(15));
    Arc::new(SpendLedger::new(
        redis.connection(),
        ttl,
        UnknownCalls::Retry,
        books,
        lease,
    ))
}

/// The page of the job 1 as the `nth` delivery sees it.
fn page(ledger: &Arc<SpendLedger>, nth: u32) -> LedgerPage {
    let delivery = Delivery {
        lease: Lease {
            id: "1".into(),
            token: format!("w:{nth}").into(),
        },
        kind: None,
        payload: Some("a".into()),
        attempt: 1,
        max_attempts: 3,
        backoff: None,
        waited: Duration::ZERO,
        lost: 0,
        first: nth == 1,
        trace: None,
        key: None,
        tier: None,
        priority: 0,
    };
    let payer = Payer {
        student: "ann".into(),
        kind: JobType::GenerateFlashcards,
    };
    let page = ledger.page(KEY.to_owned(), &delivery, payer).now_or_never();
    page.expect("a short payload is digested in one go")
}

fn call(step: &'static str) -> ProviderCall {
    ProviderCall::new(jobs::Provider::OpenAi, step).estimating(CallUsage::tokens("gpt-4o-mini", 1000, 1000))
}

/// The ledger's script runs behind the gate's, and opens what that one has admitted.
#[tokio::test]
async fn a_call_is_opened_only_behind_its_permit() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis);
    let first = page(&ledger, 1);
    redis.ask::<()>(&["HSET", "permits", "r:1", "1:0:1:0:1"]).await;
    let (admitted, refused) = (first.prepare(&call("chat")), first.prepare(&call("chat:again")));
    let openings = [
        (admitted.opening(), Arc::from("r:1")),
        (refused.opening(), Arc::from("r:2")),
    ];
    let answers = open_admitted("permits", &openings).await;
    let opened = OpeningAnswer::Answered(Some(String::new()));
    assert_eq!(answers, [opened, OpeningAnswer::NotOpened]);
    assert_eq!(redis.ask::<u64>(&["HLEN", "spend:open:w-1"]).await, 1);
    assert_eq!(redis.ask::<u64>(&["HLEN", KEY]).await, 1);
    for (entry, answer) in [admitted, refused].into_iter().zip(answers) {
        entry.not_admitted(answer).await;
    }
    // The refusal of a permit that Redis has granted takes the entry back; the other one was never there.
    assert!(ledger.books().is_idle());
    assert_eq!(redis.ask::<u64>(&["EXISTS", "spend:open:w-1", KEY]).await, 0);
    assert_eq!(redis.ask::<String>(&["GET", "spend:booked:w-1"]).await, "1");
    assert_eq!(ledger.spending().sent, 0);
    assert!(!redis.ask::<bool>(&["EXISTS", "spend:reserved"]).await);
}

/// The replica does not announce itself again for a while, and may be killed in it: its reservations are swept then.
#[tokio::test]
async fn a_replica_is_announced_although_its_first_call_is_refused() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis);
    let first = page(&ledger, 1);
    let refused = first.prepare(&call("chat"));
    let answers = open_admitted("permits", &[(refused.opening(), Arc::from("r:1"))]).await;
    assert_eq!(answers, [OpeningAnswer::NotOpened]);
    assert!(
        redis
            .ask::<Option<f64>>(&["ZSCORE", "spend:replicas", "w-1"])
            .await
            .is_some()
    );
}
