//! What is asked again, how often, and after how long.

use super::*;

#[tokio::test]
async fn a_stumble_is_retried_in_the_slot_and_costs_no_attempt_of_the_job() {
    let scene = Scene::set().await;
    scene
        .simulator
        .faults()
        .script(Provider::OpenAi, [Fault::status(503), Fault::Reset])
        .unwrap();
    let view = scene.run("1", JobType::GenerateFlashcards, cards("x")).await;
    done(&view);
    assert_eq!(
        scene.requests(Provider::OpenAi),
        3,
        "one failed, one was not processed and sent once more: no library retries on its own"
    );
    assert_eq!((view.attempts_made, view.progress), (1, 100));
    let tries: Vec<(u32, &str)> = view
        .history
        .iter()
        .map(|l| (l.note.r#try, l.note.class.as_str()))
        .collect();
    // The reset came before a byte of an answer, over a connection that was open before: it counts as no try.
    assert_eq!(tries, [(1, "transient")]);
    assert!(
        view.history[0].note.cause.contains("503"),
        "{:?}",
        view.history[0]
    );
    scene.end().await;
}

#[tokio::test]
async fn progress_tells_of_each_retry() {
    let scene = Scene::set().await;
    // The second try hangs until the test has seen the progress.
    let faults = [Fault::status(500), Fault::Delay { ms: 3_600_000 }];
    scene.simulator.faults().script(Provider::OpenAi, faults).unwrap();
    scene
        .enqueue("1", JobType::GenerateFlashcards, cards("x"), 1)
        .await;
    eventually("10 + 5 × 1", async || {
        let view = scene.broker.find("1").await.unwrap()?;
        (view.progress == 15).then_some(())
    })
    .await;
    scene.simulator.stop().await;
    scene.stop.cancel();
    drop(scene.replica);
}

#[tokio::test]
async fn a_job_type_can_have_other_tries() {
    let tries = [(
        "RETRY_MAX_ATTEMPTS_BY_TYPE",
        "process-image:1,generate-flashcards:2",
    )];
    let scene = Scene::set_with(&tries).await;
    let always = vec![Fault::status(500); 8];
    for provider in [Provider::OpenAi, Provider::AzureVision] {
        scene.simulator.faults().script(provider, always.clone()).unwrap();
    }
    failed(&scene.run("1", JobType::GenerateFlashcards, cards("x")).await);
    failed(&scene.run("2", JobType::ProcessImage, images(&[PNG])).await);
    assert_eq!(scene.requests(Provider::OpenAi), 2);
    assert_eq!(scene.requests(Provider::AzureVision), 1);
    scene.end().await;
}

#[tokio::test]
async fn tries_are_exhausted_then_attempts_and_they_add_up() {
    let scene = Scene::set().await;
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "", Fault::status(500), None)
        .unwrap();
    scene
        .enqueue("1", JobType::GenerateFlashcards, cards("x"), 3)
        .await;
    let view = scene.ended("1").await;
    assert!(failed(&view).contains("500"), "{}", failed(&view));
    // Three tries in the first attempt, one in each of the two others: not nine.
    assert_eq!(scene.requests(Provider::OpenAi), 5);
    assert_eq!((view.attempts_made, view.history.len()), (3, 5));
    scene.end().await;
}

#[tokio::test]
async fn what_the_provider_refuses_is_asked_once() {
    let scene = Scene::set_with(&[("CIRCUIT_MAX_WAIT", "0")]).await;
    let cases = [
        ("401", Fault::status(401), "deployment"),
        ("400", Fault::status(400), "permanent"),
        ("quota", Fault::Quota, "out_of_quota"),
        ("refusal", Fault::Refusal, "permanent"),
        ("filter", Fault::ContentFilter, "permanent"),
    ];
    for (n, (id, fault, class)) in cases.into_iter().enumerate() {
        scene
            .simulator
            .faults()
            .script(Provider::OpenAi, [fault])
            .unwrap();
        let view = scene.run(id, JobType::GenerateFlashcards, cards("x")).await;
        failed(&view);
        assert_eq!(scene.requests(Provider::OpenAi), n + 1, "{id}");
        assert_eq!(view.history[0].note.class, class, "{id}: {}", failed(&view));
    }
    scene.end().await;
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_once_more_with_more_room() {
    let scene = Scene::set().await;
    scene
        .simulator
        .faults()
        .script(Provider::OpenAi, [Fault::Length])
        .unwrap();
    done(&scene.run("1", JobType::GenerateFlashcards, cards("x")).await);
    assert_eq!(scene.requests(Provider::OpenAi), 2);
    scene
        .simulator
        .faults()
        .script(Provider::OpenAi, [Fault::Length, Fault::Length])
        .unwrap();
    failed(&scene.run("2", JobType::GenerateFlashcards, cards("x")).await);
    assert_eq!(scene.requests(Provider::OpenAi), 4);
    scene.end().await;
}

#[tokio::test]
async fn garbage_and_cut_answers_are_retried_on_every_provider() {
    let scene = Scene::set().await;
    let jobs = [
        (Provider::OpenAi, JobType::GenerateFlashcards, cards("x")),
        (
            Provider::AzureSpeech,
            JobType::AssessPronunciation,
            speech("Good morning", WAV),
        ),
        (Provider::AzureVision, JobType::ProcessImage, images(&[PNG])),
    ];
    for (provider, kind, payload) in jobs {
        for (name, faults) in [
            ("garbage", [Fault::Garbage, Fault::CutBody]),
            ("html", [Fault::Html502, Fault::Empty500]),
        ] {
            scene.simulator.faults().script(provider, faults).unwrap();
            done(
                &scene
                    .run(&format!("{provider}-{name}"), kind, payload.clone())
                    .await,
            );
        }
        assert_eq!(scene.requests(provider), 6, "{provider}");
    }
    scene.end().await;
}

#[tokio::test]
async fn a_long_retry_after_gives_the_slot_back() {
    let scene = Scene::set_with(&[("QUEUES", "ai-jobs=1")]).await;
    let limit = Fault::RateLimit {
        retry_after: Some(30.0),
    };
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "limited", limit, Some(1))
        .unwrap();
    scene
        .enqueue("limited", JobType::GenerateFlashcards, cards("limited"), 1)
        .await;
    // The one slot is free for a job of another provider while the first waits in the queue, its attempt unspent.
    done(&scene.run("other", JobType::ProcessImage, images(&[PNG])).await);
    let view = scene.broker.find("limited").await.unwrap().unwrap();
    assert_eq!((view.state, view.attempts_made), (JobState::Delayed, 0));
    assert_eq!(view.history[0].note.class, "rate_limited");
    assert!(
        (29_000..=30_000).contains(&view.history[0].note.delay_ms.unwrap()),
        "{:?}",
        view.history
    );
    scene.end().await;
}
