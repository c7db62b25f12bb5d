use super::*;

const IMAGE: Bytes = Bytes::from_static(b"image");

const CHECKED: CheckedImage = CheckedImage {
    bytes: IMAGE,
    pages: 1,
};

fn recogniser<'a>(
    guard: &'a FakeGuard,
    ask: &'a (
            dyn Fn(RecognitionRequest) -> BoxFuture<'a, Result<crate::ProviderReply, Failure>>
                + Send
                + Sync
                + 'a
        ),
    api: VisionApi,
) -> Recogniser<'a> {
    Recogniser {
        guard,
        ask,
        api,
        poll_interval: Duration::from_millis(1),
    }
}

fn submitted() -> Value {
    json!({ "operationId": "op-1" })
}

fn running() -> Value {
    json!({ "status": "running" })
}

fn succeeded() -> Value {
    json!({ "status": "succeeded", "analyzeResult": { "readResults": [part(&["text"])] } })
}

#[tokio::test]
async fn image_analysis_is_one_call() {
    let analysis = json!({ "readResult": { "blocks": [part(&["text"])] } });
    let (guard, script) = (FakeGuard::default(), Script::new([Ok(json!({})), Ok(analysis)]));
    let ask = |ask| script.answer(ask);
    let lines = recogniser(&guard, &ask, VisionApi::ImageAnalysis40)
        .lines(2, CHECKED)
        .await
        .unwrap();
    assert_eq!(lines, ["text"]);
    assert_eq!(guard.steps(), ["image:2", "image:2:again"]);
    assert_eq!(
        script.asked(),
        [
            RecognitionRequest::Analyze(IMAGE),
            RecognitionRequest::Analyze(IMAGE)
        ]
    );
}

#[tokio::test]
async fn read_submits_once_and_polls_until_done() {
    let answers = [
        Ok(submitted()),
        Ok(json!({ "status": "notStarted" })),
        Err(FailureClass::Transient),
        Ok(running()),
        Ok(succeeded()),
    ];
    let (guard, script) = (FakeGuard::default(), Script::new(answers));
    let ask = |ask| script.answer(ask);
    assert_eq!(
        recogniser(&guard, &ask, VisionApi::Read32)
            .lines(1, CHECKED)
            .await
            .unwrap(),
        ["text"]
    );
    assert_eq!(
        guard.steps(),
        ["image:1:submit", "image:1:poll", "image:1:poll", "image:1:poll"]
    );
    assert_eq!(guard.unpaid_steps(), vec!["image:1:poll"; 3]);
    let mut asked = script.asked();
    assert_eq!(asked.remove(0), RecognitionRequest::Submit(IMAGE));
    assert_eq!(asked, vec![RecognitionRequest::Poll("op-1".into()); 4]);
}

#[tokio::test]
async fn where_replies_are_kept_a_later_delivery_goes_on_polling() {
    let guard = FakeGuard::keeping([("image:1:submit", submitted())]);
    let script = Script::new([Ok(running()), Ok(succeeded())]);
    let ask = |ask| script.answer(ask);
    let lines = recogniser(&guard, &ask, VisionApi::Read32)
        .lines(1, CHECKED)
        .await;
    assert_eq!(lines.unwrap(), ["text"]);
    assert_eq!(script.asked(), vec![RecognitionRequest::Poll("op-1".into()); 2]);
}

#[tokio::test]
async fn an_operation_that_ended_in_vain_is_submitted_once_more() {
    for end in [
        json!({ "status": "failed" }),
        json!({ "status": "failed", "error": { "code": "FailedToProcess" } }),
        json!({ "status": "succeeded" }),
    ] {
        let again = json!({ "operationId": "op-2" });
        let (guard, script) = (
            FakeGuard::default(),
            Script::new([
                Ok(submitted()),
                Ok(end.clone()),
                Ok(again.clone()),
                Ok(succeeded()),
            ]),
        );
        let ask = |ask| script.answer(ask);
        let lines = recogniser(&guard, &ask, VisionApi::Read32)
            .lines(1, CHECKED)
            .await;
        assert_eq!(lines.unwrap(), ["text"], "{end}");
        assert_eq!(
            guard.steps(),
            [
                "image:1:submit",
                "image:1:poll",
                "image:1:submit:2",
                "image:1:poll:2"
            ]
        );
        // Its end is final: it is asked for once.
        let poll = |id: &str| RecognitionRequest::Poll(id.into());
        assert_eq!(
            script.asked(),
            [
                RecognitionRequest::Submit(IMAGE),
                poll("op-1"),
                RecognitionRequest::Submit(IMAGE),
                poll("op-2")
            ],
            "{end}"
        );

        let script = Script::new([Ok(submitted()), Ok(end.clone()), Ok(again), Ok(end.clone())]);
        let ask = |ask| script.answer(ask);
        let guard = FakeGuard::default();
        let lines = recogniser(&guard, &ask, VisionApi::Read32)
            .lines(1, CHECKED)
            .await;
        let failure = lines.unwrap_err();
        assert_eq!(
            (failure.class(), failure.provider()),
            (FailureClass::Permanent, Some(Provider::AzureVision)),
            "{end}: {failure}"
        );
        assert!(failure.message().contains("submitted twice"), "{failure}");
        assert_eq!(script.asked().len(), 4, "{end}");
    }
}

#[tokio::test]
async fn an_image_that_cannot_be_read_is_submitted_once() {
    let end = json!({ "status": "failed", "error": { "code": "InvalidImage" } });
    let (guard, script) = (FakeGuard::default(), Script::new([Ok(submitted()), Ok(end)]));
    let ask = |ask| script.answer(ask);
    let lines = recogniser(&guard, &ask, VisionApi::Read32)
        .lines(1, CHECKED)
        .await;
    assert_eq!(lines.unwrap_err().class(), FailureClass::Permanent);
    assert_eq!(script.asked().len(), 2);
}

#[tokio::test]
async fn an_operation_that_is_not_done_in_time_is_transient() {
    let (guard, script) = (
        FakeGuard::default(),
        Script::new([Ok(submitted()), Ok(running())]),
    );
    let ask = |ask| script.answer(ask);
    let failure = recogniser(&guard, &ask, VisionApi::Read32)
        .operation(1, "", &CHECKED, Duration::ZERO)
        .await
        .unwrap_err();
    assert_eq!(
        (failure.class(), failure.provider()),
        (FailureClass::Transient, Some(Provider::AzureVision))
    );
    assert_eq!(script.asked().len(), 2);
}

#[tokio::test]
async fn verdicts_pass_unchanged() {
    for class in [
        FailureClass::Blocked,
        FailureClass::Cancelled,
        FailureClass::RateLimited,
    ] {
        for api in [VisionApi::ImageAnalysis40, VisionApi::Read32] {
            let (guard, script) = (FakeGuard::refusing(class), Script::new([]));
            let ask = |ask| script.answer(ask);
            assert_eq!(
                recogniser(&guard, &ask, api)
                    .lines(1, CHECKED)
                    .await
                    .unwrap_err()
                    .class(),
                class
            );
        }
    }
}

/// The wait that the service asks for is kept before each poll, however short the usual pause is, and ends.
#[tokio::test(start_paused = true)]
async fn polls_come_when_the_service_asks_for_them() {
    let script = Script::new([
        Ok(json!({ "operationId": "op-1", "retryAfterMs": 2_000 })),
        Ok(json!({ "status": "running", "retryAfterMs": 3_000 })),
        Ok(running()),
        Ok(json!({ "status": "running", "retryAfterMs": 86_400_000 })),
        Ok(json!({ "status": "succeeded", "analyzeResult": { "pages": [] } })),
    ]);
    let (guard, started) = (FakeGuard::default(), tokio::time::Instant::now());
    let ask = |ask| script.answer(ask);
    let reader = recogniser(&guard, &ask, VisionApi::DocumentIntelligence);
    assert!(reader.lines(1, CHECKED).await.unwrap().is_empty());
    let waited = started.elapsed();
    // 2 s, 3 s, the usual pause, and the longest that is waited.
    let expected = Duration::from_secs(35);
    assert!(
        waited >= expected && waited < expected + Duration::from_secs(1),
        "{waited:?}"
    );
}

#[tokio::test]
async fn each_page_is_paid_for_at_the_price_of_the_service() {
    let pages = CheckedImage {
        bytes: IMAGE,
        pages: 3,
    };
    for (api, model) in [
        (VisionApi::Read32, ""),
        (VisionApi::DocumentIntelligence, "prebuilt-read"),
    ] {
        let (guard, script) = (
            FakeGuard::default(),
            Script::new([Ok(submitted()), Ok(succeeded())]),
        );
        let ask = |ask| script.answer(ask);
        recogniser(&guard, &ask, api)
            .lines(1, pages.clone())
            .await
            .unwrap();
        let usage = guard.usages().remove(0);
        assert_eq!((&*usage.model, usage.images, usage.transactions), (model, 3, 3));
    }
}

/// Not all of the service knows an operation at once: it is asked again, and nothing is submitted twice.
#[tokio::test]
async fn an_operation_that_is_not_known_yet_is_polled_again() {
    let unknown = || json!({ "status": "expired" });
    let guard = FakeGuard::default();
    let script = Script::new([
        Ok(submitted()),
        Ok(unknown()),
        Ok(unknown()),
        Ok(running()),
        Ok(unknown()),
        Ok(succeeded()),
    ]);
    let ask = |ask| script.answer(ask);
    let lines = recogniser(&guard, &ask, VisionApi::Read32)
        .lines(1, CHECKED)
        .await;
    assert_eq!(lines.unwrap(), ["text"]);
    let submits = guard
        .steps()
        .iter()
        .filter(|step| step.contains("submit"))
        .count();
    assert_eq!(submits, 1);
}

/// One that stays unknown has expired: it is submitted once more.
#[tokio::test]
async fn an_operation_that_stays_unknown_is_submitted_once_more() {
    let unknown = || Ok(json!({ "status": "expired" }));
    let again = json!({ "operationId": "op-2" });
    let mut answers = vec![Ok(submitted())];
    answers.extend((0..10).map(|_| unknown()));
    answers.extend([Ok(again), Ok(succeeded())]);
    let (guard, script) = (FakeGuard::default(), Script::new(answers));
    let ask = |ask| script.answer(ask);
    let lines = recogniser(&guard, &ask, VisionApi::Read32)
        .lines(1, CHECKED)
        .await;
    assert_eq!(lines.unwrap(), ["text"]);
}
