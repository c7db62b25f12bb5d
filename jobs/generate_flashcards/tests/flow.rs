use super::*;

async fn run(guard: &FakeGuard, script: &Script<Value>) -> Result<Output, Failure> {
    generate(&payload(json!({})), &model("m"), guard, &|request, _| {
        script.answer(parsed(&request))
    })
    .await
}

/// The deck's size or the failure's message, and the caps of the requests that were sent.
async fn outcome(answers: impl IntoIterator<Item = Value>) -> (Result<usize, String>, Vec<u64>) {
    let (guard, script) = (FakeGuard::default(), Script::new(answers.into_iter().map(Ok)));
    let outcome = run(&guard, &script).await;
    let outcome = outcome.map(|output| output.flashcards.len()).map_err(|failure| {
        assert_eq!(
            (failure.class(), failure.provider()),
            (FailureClass::Permanent, Some(Provider::OpenAi))
        );
        failure.to_string()
    });
    let caps = script
        .asked()
        .iter()
        .map(|request| request["max_completion_tokens"].as_u64().unwrap())
        .collect();
    (outcome, caps)
}

const CAP: u64 = 23 * 190;

#[tokio::test]
async fn any_usable_card_is_a_deck() {
    for count in [1, 3, 6, 20, 40] {
        assert_eq!(outcome([deck(count)]).await, (Ok(count), vec![CAP]));
    }
}

#[tokio::test]
async fn an_answer_without_a_card_is_asked_for_once_more() {
    let useless = answer("I am afraid there are no terms here.", "stop");
    let (guard, script) = (
        FakeGuard::default(),
        Script::new([Ok(useless.clone()), Ok(deck(12))]),
    );
    let output = run(&guard, &script).await.unwrap();
    assert_eq!((output.flashcards.len(), output.requested_cards), (12, 20));
    assert_eq!(guard.steps(), ["chat", "chat:again"]);
    assert_eq!(guard.useless_steps(), ["chat"]);
    assert_eq!(output.token_usage, 300);
    assert_eq!(
        serde_json::to_value(output.usage).unwrap(),
        json!({
            "promptTokens": 200, "cachedTokens": 0, "completionTokens": 100, "reasoningTokens": 0, "calls": 2,
            "model": "gpt-4o-mini-2024-07-18",
        })
    );

    let (outcome, caps) = outcome([useless.clone(), useless]).await;
    assert_eq!(
        outcome.unwrap_err(),
        "openai: unusable answer: it holds no usable flashcard"
    );
    assert_eq!(caps, [CAP, CAP]);
}

#[tokio::test]
async fn a_cut_answer_keeps_its_cards_or_gets_twice_the_room_once() {
    assert_eq!(outcome([cut_behind(5)]).await, (Ok(5), vec![CAP]));
    assert_eq!(outcome([cut_behind(14)]).await, (Ok(14), vec![CAP]));
    let twice = vec![CAP, 2 * CAP];
    assert_eq!(outcome([cut_behind(4), deck(20)]).await, (Ok(20), twice.clone()));
    assert_eq!(
        outcome([cut_behind(0), cut_behind(1)]).await,
        (Ok(1), twice.clone())
    );
    // The better of the two answers counts.
    assert_eq!(
        outcome([cut_behind(4), cut_behind(2)]).await,
        (Ok(4), twice.clone())
    );
    assert_eq!(outcome([cut_behind(2), refusal()]).await, (Ok(2), twice.clone()));

    let (cut, caps) = outcome([cut_behind(0), cut_behind(0)]).await;
    assert_eq!(
        cut.unwrap_err(),
        "openai: unusable answer: it was cut off, even with room for 8740 tokens"
    );
    assert_eq!(caps, twice);
    let (guard, script) = (
        FakeGuard::default(),
        Script::new([Ok(cut_behind(0)), Ok(deck(12))]),
    );
    run(&guard, &script).await.unwrap();
    assert_eq!(guard.steps(), ["chat", "chat:larger"]);
    assert_eq!(guard.estimates()[1], guard.estimates()[0] + CAP);
}

#[tokio::test]
async fn a_failed_second_call_leaves_the_cards_of_the_first() {
    let second = async |cards, class| {
        let (guard, script) = (
            FakeGuard::default(),
            Script::new([Ok(cut_behind(cards)), Err(class)]),
        );
        run(&guard, &script).await
    };
    assert_eq!(
        second(2, FailureClass::Permanent).await.unwrap().flashcards.len(),
        2
    );
    assert_eq!(
        second(2, FailureClass::OutOfQuota)
            .await
            .unwrap()
            .flashcards
            .len(),
        2
    );
    assert_eq!(
        second(2, FailureClass::Blocked).await.unwrap_err().class(),
        FailureClass::Blocked
    );
    assert_eq!(
        second(2, FailureClass::Cancelled).await.unwrap_err().class(),
        FailureClass::Cancelled
    );
    assert_eq!(
        second(0, FailureClass::OutOfQuota).await.unwrap_err().class(),
        FailureClass::OutOfQuota
    );
}

#[tokio::test]
async fn a_cut_answer_names_the_tokens_of_reasoning() {
    let mut reasoned = answer("", "length");
    reasoned["usage"] = json!({
        "prompt_tokens": 10, "completion_tokens": 4370, "completion_tokens_details": { "reasoning_tokens": 4370 },
    });
    let (outcome, caps) = outcome([reasoned.clone(), reasoned]).await;
    let message = outcome.unwrap_err();
    assert!(
        message.contains("4370 of its 4370 tokens were reasoning"),
        "{message}"
    );
    assert_eq!(
        caps,
        [4370, 2 * (4370 + 4370)],
        "the second call leaves room for as much reasoning"
    );
}

#[tokio::test]
async fn refusals_and_filters_end_the_job_with_one_call() {
    let (refused, caps) = outcome([refusal()]).await;
    assert_eq!(
        refused.unwrap_err(),
        "openai: the model refused to write about the material"
    );
    assert_eq!(caps.len(), 1);
    let (filtered, caps) = outcome([answer("", "content_filter")]).await;
    assert_eq!(
        filtered.unwrap_err(),
        "openai: the content filter stopped the answer"
    );
    assert_eq!(caps.len(), 1);
}

#[tokio::test]
async fn where_replies_are_kept_none_is_paid_again() {
    let guard = FakeGuard::keeping([("chat", cut_behind(0)), ("chat:larger", deck(10))]);
    let script = Script::new([]);
    let output = run(&guard, &script).await.unwrap();
    assert_eq!((output.flashcards.len(), output.usage.calls), (10, 2));
    assert!(script.asked().is_empty());
    // The first answer was useless in this version too, and the second is there.
    let guard = FakeGuard::keeping([("chat", deck(6))]);
    let script = Script::new([]);
    assert_eq!(run(&guard, &script).await.unwrap().flashcards.len(), 6);
}

#[tokio::test]
async fn a_kept_answer_that_is_useless_is_dropped_and_asked_for_once() {
    for kept in [
        json!({ "choices": [] }),
        answer("nothing", "stop"),
        refusal(),
        json!(7),
    ] {
        let guard = FakeGuard::keeping([("chat", kept.clone())]);
        let script = Script::new([Ok(deck(8))]);
        let output = run(&guard, &script).await.unwrap();
        assert_eq!((output.flashcards.len(), script.asked().len()), (8, 1), "{kept}");
        assert_eq!(guard.steps(), ["chat", "chat"]);

        let guard = FakeGuard::keeping([("chat", kept.clone())]);
        let script = Script::new([Ok(answer("nothing", "stop"))]);
        let failure = run(&guard, &script).await.unwrap_err();
        assert_eq!(failure.class(), FailureClass::Permanent, "{kept}");
        assert_eq!(script.asked().len(), 1, "{kept}");
    }
}

#[tokio::test]
async fn nothing_that_the_model_wrote_shows_in_a_failure() {
    let wrote = json!({ "flashcards": format!("the student's own {}", "words ".repeat(500)) });
    let wrote = answer(&wrote.to_string(), "stop");
    let (outcome, _) = outcome([wrote.clone(), wrote]).await;
    let text = outcome.unwrap_err();
    assert!(text.len() < 300 && !text.contains("words"), "{text}");
}

#[tokio::test]
async fn a_duplicate_does_not_cost_the_smallest_deck() {
    let payload = payload(json!({ "count": 10 }));
    // A model that writes as many cards as it is told to, the first of them twice.
    let obedient = |request: Arc<RawValue>, _: Arc<ArrivingAnswer>| {
        let request = parsed(&request);
        let system = request["messages"][0]["content"].as_str().unwrap();
        let (_, told) = system.split_once("Write ").unwrap();
        let told: usize = told.split_once(' ').unwrap().0.parse().unwrap();
        let body = deck(told)
            .to_string()
            .replace("term 1 ", "term 0 ")
            .replace("term 1\\", "term 0\\");
        Script::new([Ok(serde_json::from_str(&body).unwrap())]).answer(request)
    };
    let output = generate(&payload, &model("m"), &FakeGuard::default(), &obedient)
        .await
        .unwrap();
    assert_eq!(output.flashcards.len(), 10);
}

#[tokio::test]
async fn verdicts_pass_unchanged() {
    for class in [
        FailureClass::Blocked,
        FailureClass::Cancelled,
        FailureClass::OutOfQuota,
    ] {
        let (guard, script) = (FakeGuard::refusing(class), Script::new([]));
        assert_eq!(run(&guard, &script).await.unwrap_err().class(), class);
        assert!(script.asked().is_empty());
    }
}

#[tokio::test]
async fn without_a_key_the_deployment_is_at_fault() {
    let handler = GenerateFlashcards { openai: None };
    let failure = handler
        .run(payload(json!({})), &FakeGuard::default())
        .await
        .unwrap_err();
    assert_eq!(
        (failure.class(), failure.provider()),
        (FailureClass::Deployment, Some(Provider::OpenAi))
    );
    assert!(failure.message().contains("OPENAI_API_KEY"));
    // A bad payload is the job's own fault, with or without a key.
    let bad = handler
        .run(payload(json!({ "topic": "" })), &FakeGuard::default())
        .await
        .unwrap_err();
    assert_eq!(bad.class(), FailureClass::Permanent);
}

#[test]
fn a_job_can_move_between_threads() {
    fn send<T: Send>(_: T) {}
    let (handler, guard) = (GenerateFlashcards { openai: None }, FakeGuard::default());
    send(handler.run(payload(json!({})), &guard));
}
