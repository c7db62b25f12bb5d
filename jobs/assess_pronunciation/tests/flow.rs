use super::*;

async fn run(guard: &FakeGuard, script: &Script<()>) -> Result<Output, Failure> {
    assess("Good morning", std::time::Duration::from_secs(2), guard, &|| {
        script.answer(())
    })
    .await
}

#[tokio::test]
async fn scores_a_sentence() {
    // The first answer is useless, so it is asked for once more.
    let (guard, script) = (FakeGuard::default(), Script::new([Ok(json!({})), Ok(flat())]));
    let output = run(&guard, &script).await.unwrap();
    assert!(output.success && output.error.is_none());
    assert_eq!(output.result, Some(read(&flat())));
    assert_eq!(output.feedback.unwrap().word_issues.len(), 1);
    assert_eq!(guard.steps(), ["assess", "assess:again"]);
    assert_eq!(script.asked().len(), 2);
}

#[tokio::test]
async fn a_second_useless_answer_ends_the_job_and_a_faulty_one_is_tried_again() {
    let (guard, script) = (FakeGuard::default(), Script::new([Ok(json!({})), Ok(json!({}))]));
    let failure = run(&guard, &script).await.unwrap_err();
    assert_eq!(
        (failure.class(), script.asked().len()),
        (FailureClass::Permanent, 2)
    );
    assert_eq!(guard.useless_steps(), ["assess", "assess:again"]);

    let error = json!({ "RecognitionStatus": "Error" });
    let (guard, script) = (FakeGuard::default(), Script::new(vec![Ok(error); 3]));
    let failure = run(&guard, &script).await.unwrap_err();
    assert_eq!(
        (failure.class(), script.asked().len()),
        (FailureClass::Transient, 3)
    );
    assert!(guard.useless_steps().is_empty());
}

#[tokio::test]
async fn a_kept_answer_that_is_useless_is_dropped_and_asked_for_once() {
    let (guard, script) = (
        FakeGuard::keeping([("assess", json!({}))]),
        Script::new([Ok(flat())]),
    );
    assert!(run(&guard, &script).await.unwrap().success);
    let (guard, script) = (
        FakeGuard::keeping([("assess", json!({}))]),
        Script::new([Ok(json!({}))]),
    );
    assert_eq!(
        run(&guard, &script).await.unwrap_err().class(),
        FailureClass::Permanent
    );
    assert_eq!(script.asked().len(), 1);
    // An older version can have kept the provider's own fault.
    let fault = json!({ "RecognitionStatus": "Error" });
    let (guard, script) = (FakeGuard::keeping([("assess", fault)]), Script::new([Ok(flat())]));
    assert!(run(&guard, &script).await.unwrap().success);
    assert_eq!(guard.useless_steps(), ["assess"]);
}

#[tokio::test]
async fn silence_completes_the_job() {
    let (guard, script) = (
        FakeGuard::default(),
        Script::new([Ok(json!({ "RecognitionStatus": "NoMatch" }))]),
    );
    let output = serde_json::to_value(run(&guard, &script).await.unwrap()).unwrap();
    assert_eq!(output, json!({ "success": false, "error": NO_SPEECH }));
    assert_eq!(script.asked().len(), 1);
}

#[tokio::test]
async fn where_replies_are_kept_none_is_paid_again() {
    let (guard, script) = (FakeGuard::keeping([("assess", nested())]), Script::new([]));
    assert!(run(&guard, &script).await.unwrap().success);
    assert!(script.asked().is_empty());
}

#[tokio::test]
async fn verdicts_pass_unchanged() {
    for class in [
        FailureClass::Blocked,
        FailureClass::Cancelled,
        FailureClass::OutOfQuota,
    ] {
        let failure = run(&FakeGuard::refusing(class), &Script::new([]))
            .await
            .unwrap_err();
        assert_eq!(failure.class(), class);
    }
}
