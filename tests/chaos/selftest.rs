//! The oracle sees what is wrong: a run that went well is tampered with, one thing for each thing that it looks for.

use std::time::Duration;

use serde_json::json;

use crate::{
    field::{Field, QUEUE},
    jobs, oracle, settings,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_sees_what_is_wrong() {
    let mut settings = settings(20, 1, 1, 5).0;
    (settings.jobs, settings.over, settings.replicas) = (10, Duration::from_secs(1), 1);
    let field = Field::set(settings).await;
    jobs::produce(&field, field.settings.jobs, field.settings.over).await;
    // A call with the mark of a job that has been paid for.
    let again = json!({"content": "cells, job-bullmq-4", "subject": "s", "topic": "t", "userId": "u"});
    let opts = json!({"jobId": "job-bullmq-again"});
    field
        .node
        .ask(
            "add",
            json!({"name": "generate-flashcards", "data": again, "opts": opts}),
        )
        .await;
    assert!(field.drained().await);
    field.stop().await;
    let clean = oracle::audit(&field, false).await;
    assert!(clean.findings.is_empty(), "{:?}", clean.findings);

    for (command, then) in [
        (format!("DEL bull:{QUEUE}:job-bullmq-0"), "lost: 1 (job-bullmq-0)"),
        (
            format!("HSET {QUEUE}:meta:job-apalis-0 status Pending"),
            "stranded: 1 (job-apalis-0 waiting)",
        ),
        (
            format!("HSET bull:{QUEUE}:job-bullmq-1 atm 2"),
            "attempts wrongly consumed: 1 (job-bullmq-1: 2 attempts, 0 failed calls)",
        ),
        (
            format!("XADD bull:{QUEUE}:events * event completed jobId job-bullmq-2"),
            "job-bullmq-2: 2 events",
        ),
        (
            format!("HSET bull:{QUEUE}:job-bullmq-3 returnvalue null"),
            "completed without a result: 1 (job-bullmq-3)",
        ),
        (
            format!("SET bull:{QUEUE}:job-bullmq-5:lock nobody"),
            "job-bullmq-5:lock: a lock of nobody",
        ),
        (
            format!("SADD {QUEUE}:inflight:ghost job-apalis-1"),
            "inflight:ghost: jobs are in it",
        ),
        ("SET somebody:else 1".to_owned(), "somebody:else: foreign"),
        (
            "HSET gate:openai:openai:lease_data permit 1".to_owned(),
            "lease_data: 1 entries for 0 leases",
        ),
        (
            "PING".to_owned(),
            "paid again, the answer had arrived: 1 (job-bullmq-4)",
        ),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        field.order::<redis::Value>(&words).await;
        let findings = oracle::audit(&field, true).await.findings.join("\n");
        assert!(findings.contains(then), "{command}: {findings}");
    }
}
