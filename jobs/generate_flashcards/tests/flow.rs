use super::*;

async fn run(guard: &FakeGuard, script: &Script<Value>) -> Result<Output, Failure> {
    generate(&payload(json!({})), "m", guard, &|request| {
        script.answer(asked(&request))
    })
    .await
}

#[tokio::test]
async fn an_unusable_answer_is_tried_again() {
    let (guard, script) = (
        FakeGuard::default(),
        Script::new([Ok(deck(&numbered(3))), Ok(deck(&numbered(12)))]),
    );
    let output = run(&guard, &script).await.unwrap();
    assert_eq!((output.flashcards.len(), script.asked().len()), (12, 2));
    assert_eq!(guard.steps(), ["chat"]);
    assert_eq!(
        serde_json::to_value(output.token_usage).unwrap(),
        json!({ "promptTokens": 100, "completionTokens": 50, "totalTokens": 150 })
    );
}

#[tokio::test]
async fn a_cut_answer_gets_twice_the_room_once() {
    let (guard, script) = (
        FakeGuard::default(),
        Script::new([Ok(cut_off()), Ok(deck(&numbered(12)))]),
    );
    let output = run(&guard, &script).await.unwrap();
    assert_eq!(output.token_usage.total_tokens, 4100 + 150);
    assert_eq!(output.token_usage.completion_tokens, 4050);
    let caps: Vec<_> = script
        .asked()
        .iter()
        .map(|request| request["max_completion_tokens"].clone())
        .collect();
    assert_eq!(caps, [23 * 190, 2 * 23 * 190]);
    assert_eq!(guard.steps(), ["chat", "chat:larger"]);
    assert_eq!(guard.estimates()[1], guard.estimates()[0] + 23 * 190);

    let (guard, script) = (FakeGuard::default(), Script::new([Ok(cut_off()), Ok(cut_off())]));
    let failure = run(&guard, &script).await.unwrap_err();
    assert_eq!(failure.class(), Class::Permanent);
    assert!(failure.message().contains("8740"), "{failure}");
    assert_eq!(script.asked().len(), 2);
}

#[tokio::test]
async fn where_replies_are_kept_none_is_paid_again() {
    let guard = FakeGuard::keeping([("chat", cut_off()), ("chat:larger", deck(&numbered(10)))]);
    let script = Script::new([]);
    assert_eq!(run(&guard, &script).await.unwrap().flashcards.len(), 10);
    assert!(script.asked().is_empty());
}

#[tokio::test]
async fn a_duplicate_does_not_cost_the_smallest_deck() {
    let payload = payload(json!({ "count": 10 }));
    // A model that writes as many cards as it is told to, the first of them twice.
    let obedient = |request: Arc<RawValue>| {
        let request = asked(&request);
        let system = request["messages"][0]["content"].as_str().unwrap();
        let told = system.split_once("Write ").unwrap().1;
        let told: usize = told.split_once(' ').unwrap().0.parse().unwrap();
        let mut cards = numbered(told);
        cards[1] = cards[0].clone();
        Script::new([Ok(deck(&cards))]).answer(request)
    };
    let output = generate(&payload, "m", &FakeGuard::default(), &obedient)
        .await
        .unwrap();
    assert_eq!(output.flashcards.len(), 10);
}

#[tokio::test]
async fn verdicts_pass_unchanged() {
    for class in [Class::Blocked, Class::Cancelled, Class::OutOfQuota] {
        let (guard, script) = (FakeGuard::refusing(class), Script::new([]));
        assert_eq!(run(&guard, &script).await.unwrap_err().class(), class);
        assert!(script.asked().is_empty());
    }
}

#[tokio::test]
async fn without_a_key_the_deployment_is_at_fault() {
    let handler = GenerateFlashcards::new(None);
    let failure = handler
        .run(payload(json!({})), &FakeGuard::default())
        .await
        .unwrap_err();
    assert_eq!(
        (failure.class(), failure.provider()),
        (Class::Deployment, Some(Provider::OpenAi))
    );
    assert!(failure.message().contains("OPENAI_API_KEY"));
    // A bad payload is the job's own fault, with or without a key.
    let bad = handler
        .run(payload(json!({ "topic": "" })), &FakeGuard::default())
        .await
        .unwrap_err();
    assert_eq!(bad.class(), Class::Permanent);
}

#[test]
fn a_job_can_move_between_threads() {
    fn send<T: Send>(_: T) {}
    let (handler, guard) = (GenerateFlashcards::new(None), FakeGuard::default());
    send(handler.run(payload(json!({})), &guard));
}
