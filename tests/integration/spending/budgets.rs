//! Budgets, allowances and prices.

use super::*;

fn class(opened: &Result<LedgerEntry<'_>, Failure>) -> Option<FailureClass> {
    opened.as_ref().err().map(Failure::class)
}

#[tokio::test]
async fn budgets_hold_with_what_is_reserved_and_follow_the_operator() {
    let redis = TestRedis::start().await;
    let budgets = Budgets {
        month: Some(usd("0.0016")),
        ..Budgets::default()
    };
    let (one, two) = (ledger(&redis, "one", budgets), ledger(&redis, "two", budgets));
    let pages: Vec<LedgerPage> = (0..9)
        .map(|job| page([&one, &two][job % 2], &job.to_string(), "ann"))
        .collect();
    // Two estimates fit, over all replicas.
    let first = open(&pages[0]).await.unwrap();
    let second = open(&pages[1]).await.unwrap();
    let third = open(&pages[2]).await;
    assert_eq!(class(&third), Some(FailureClass::Blocked));
    assert!(third.unwrap_err().lacks_money());
    // A call that has cost less than its estimate makes room for another.
    first.close(&call(), &answer()).await;
    let fourth = open(&pages[3]).await.unwrap();
    assert_eq!(class(&open(&pages[4]).await), Some(FailureClass::Blocked));
    // One that was not billed gives all back; one that is dropped before it is sent as well.
    second.close(&call(), &Err(Failure::transient("503"))).await;
    let fifth = open(&pages[5]).await.unwrap();
    fourth.close(&call(), &answer()).await;
    fifth.close(&call(), &answer()).await;

    let accounts = SpendAccounts::new(redis.connection(), budgets);
    accounts.set_month(Some(usd("0.000001"))).await.unwrap();
    assert_eq!(
        class(&open(&pages[6]).await),
        Some(FailureClass::Blocked),
        "the operator's budget wins"
    );
    let status = accounts.status().await.unwrap();
    assert_eq!(
        (status.month.usd, status.month.percent),
        (usd("0.0000225"), Some(2250))
    );
    accounts.set_month(None).await.unwrap();

    accounts.switch(true, "ann", "a test").await.unwrap();
    let stopped = open(&pages[7]).await.unwrap_err();
    assert!(
        stopped.lacks_money() && stopped.to_string().contains("kill switch"),
        "{stopped}"
    );
    let status = accounts.status().await.unwrap();
    assert_eq!(
        (status.kill_switch, status.switched_by.as_deref()),
        (true, Some("ann"))
    );
    accounts.switch(false, "ann", "over").await.unwrap();
    open(&pages[8]).await.unwrap().close(&call(), &answer()).await;
}

#[tokio::test]
async fn a_student_has_an_allowance_that_an_operator_can_change() {
    let redis = TestRedis::start().await;
    let budgets = Budgets {
        student: Some(usd("0.0008")),
        ..Budgets::default()
    };
    let ledger = ledger(&redis, "r", budgets);
    let pages: Vec<LedgerPage> = (0..5).map(|job| page(&ledger, &job.to_string(), "ann")).collect();
    let held = open(&pages[0]).await.unwrap();
    let refused = open(&pages[1]).await;
    assert_eq!(class(&refused), Some(FailureClass::OverAllowance));
    let bob = page(&ledger, "bob", "bob");
    open(&bob).await.unwrap().close(&call(), &answer()).await;
    let accounts = SpendAccounts::new(redis.connection(), budgets);
    accounts.allow("ann", Some(usd("1"))).await.unwrap();
    open(&pages[2]).await.unwrap().close(&call(), &answer()).await;
    accounts.allow("ann", None).await.unwrap();
    assert_eq!(class(&open(&pages[3]).await), Some(FailureClass::OverAllowance));
    held.close(&call(), &answer()).await;
    open(&pages[4]).await.unwrap().close(&call(), &answer()).await;
}

/// No budget can hold a call without a price, be it configured or set by an operator in Redis.
#[tokio::test]
async fn an_unknown_model_escapes_no_budget() {
    let redis = TestRedis::start().await;
    let accounts = SpendAccounts::new(redis.connection(), Budgets::default());
    let (free, of_students) = (
        ledger(&redis, "free", Budgets::default()),
        ledger(
            &redis,
            "strict",
            Budgets {
                student: Some(usd("5")),
                ..Budgets::default()
            },
        ),
    );
    let unknown = ProviderCall::new(jobs::Provider::OpenAi, "chat").estimating(CallUsage::tokens(
        "a-model-without-a-price",
        1000,
        1000,
    ));
    let try_open = async |ledger: &Arc<SpendLedger>, job: &str, student: &str| {
        let page = page(ledger, job, student);
        let refused = page.open(&unknown).await.err();
        refused.map(|failure| failure.to_string())
    };
    let is_refused = |answer: Option<String>| answer.is_some_and(|why| why.contains("has no price"));
    assert_eq!(try_open(&free, "1", "ann").await, None, "there is no budget");
    assert!(is_refused(try_open(&of_students, "2", "ann").await));
    assert_eq!(
        try_open(&of_students, "3", "").await,
        None,
        "no student's budget applies"
    );
    accounts.allow("ann", Some(usd("1"))).await.unwrap();
    assert!(is_refused(try_open(&free, "4", "ann").await));
    accounts.allow("ann", None).await.unwrap();
    accounts.set_month(Some(usd("1000"))).await.unwrap();
    assert!(is_refused(try_open(&free, "5", "ann").await));
    accounts.set_month(None).await.unwrap();
    assert_eq!(try_open(&free, "6", "ann").await, None);
}

/// Rows and students beyond the bounds of the sums share one row, and no money is missing.
#[tokio::test]
async fn rows_and_students_beyond_the_bounds_are_summed_as_others() {
    const ROWS: usize = 200;
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, "r", Budgets::default());
    for nth in 0..ROWS + 3 {
        let page = page(&ledger, &nth.to_string(), "ann");
        let lost = Err(Failure::transient("reset").with_answer_lost());
        let call = ProviderCall::new(jobs::Provider::OpenAi, "chat").estimating(CallUsage::tokens(
            &format!("gpt-4o-mini-{nth}"),
            1000,
            1000,
        ));
        match page.open(&call).await.unwrap() {
            OpenedCall::Send(entry) => entry.close(&call, &lost).await,
            OpenedCall::Kept(reply) => panic!("kept: {reply:?}"),
        }
    }
    let day = today(&redis).await;
    let sums = fields(&redis, &format!("day:{day}")).await;
    let rows = sums.keys().filter(|field| field.ends_with("|lost")).count();
    assert_eq!(rows, ROWS + 1);
    assert_eq!(sums["openai|(others)|generate-flashcards|lost"], 3);
    let of_rows: u64 = sums
        .iter()
        .filter(|(field, _)| field.ends_with("|possible"))
        .map(|(_, n)| n)
        .sum();
    assert_eq!(of_rows, sums.get("possible").copied().unwrap_or(0));

    let keys = [&*day, &day[..7]].map(|time| format!("spend:students:{time}"));
    for key in &keys {
        let mut fill = redis::pipe();
        for chunk in 0..200 {
            let students: Vec<(String, u64)> = (0..1000)
                .map(|n| (format!("p:s{}", chunk * 1000 + n), 1))
                .collect();
            fill.hset_multiple(key, &students).ignore();
        }
        fill.query_async::<()>(&mut redis.raw.clone()).await.unwrap();
    }
    let bob = page(&ledger, "bob", "bob");
    open(&bob).await.unwrap().close(&call(), &answer()).await;
    for key in &keys {
        assert_eq!(redis.ask::<Option<u64>>(&["HGET", key, "p:bob"]).await, None);
        let others: Option<u64> = redis.ask(&["HGET", key, "p:(others)"]).await;
        assert_eq!(others, Some(usd(COST).nanos()));
    }
}

/// Nothing says how much of a budget is left while Redis is away: a call of a deployment with a budget waits.
#[tokio::test]
async fn a_budget_that_cannot_be_checked_is_not_spent() {
    let redis = TestRedis::start().await;
    let budgets = Budgets {
        day: Some(usd("1")),
        ..Budgets::default()
    };
    let (strict, free) = (
        ledger(&redis, "a", budgets),
        ledger(&redis, "b", Budgets::default()),
    );
    redis.ask::<()>(&["CLIENT", "PAUSE", "2000", "ALL"]).await;
    let page_of = page(&strict, "1", "ann");
    assert_eq!(class(&open(&page_of).await), Some(FailureClass::Blocked));
    let page_of = page(&free, "2", "ann");
    assert!(open(&page_of).await.is_ok());
}
