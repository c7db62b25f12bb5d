use super::*;

async fn run(guard: &FakeGuard, script: &Script<()>) -> Result<Output, Failure> {
    assess("Good morning", guard, &|| script.answer(())).await
}

#[tokio::test]
async fn scores_a_sentence() {
    // The first answer cannot be used, so it is asked for again.
    let (guard, script) = (FakeGuard::default(), Script::new([Ok(json!({})), Ok(flat())]));
    let output = run(&guard, &script).await.unwrap();
    assert!(output.success && output.error.is_none());
    assert_eq!(output.result, Some(read(&flat())));
    assert_eq!(output.feedback.unwrap().word_issues.len(), 1);
    assert_eq!(guard.steps(), ["assess"]);
    assert_eq!(script.asked().len(), 2);
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
    for class in [Class::Blocked, Class::Cancelled, Class::OutOfQuota] {
        let failure = run(&FakeGuard::refusing(class), &Script::new([]))
            .await
            .unwrap_err();
        assert_eq!(failure.class(), class);
    }
}
