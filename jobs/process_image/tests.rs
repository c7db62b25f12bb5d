use std::time::Duration;

use serde_json::{Value, json};

use super::{recognise::State, *};
use crate::{
    VisionApi,
    testing::{FakeGuard, Script},
};

fn validate(payload: Value) -> Result<(), Failure> {
    serde_json::from_value::<Payload>(payload).unwrap().validate()
}

fn words(lines: &[&str]) -> Result<Vec<String>, Failure> {
    Ok(lines.iter().map(|line| (*line).to_owned()).collect())
}

fn part(lines: &[&str]) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|text| json!({ "text": text, "words": [] }))
        .collect();
    json!({ "lines": lines })
}

mod payloads {
    use super::*;

    #[test]
    fn takes_one_image_or_a_list() {
        for payload in [
            json!({ "imageUrl": "https://example.com/a.png", "userId": 7 }),
            json!({ "imageBase64": "AA==", "imageUrl": "", "images": [] }),
            json!({ "imageFilePath": "a.png", "images": null }),
            json!({ "images": [{ "imageUrl": "u" }] }),
            json!({ "images": [{ "imageUrl": "u" }, { "imageBase64": "b", "imageUrl": null }, { "imageFilePath": "f" },
                               { "imageUrl": "u" }, { "imageUrl": "u" }] }),
        ] {
            validate(payload.clone()).unwrap_or_else(|failure| panic!("{payload}: {failure}"));
        }
    }

    #[test]
    fn refuses_each_field_by_name() {
        let image = || json!({ "imageUrl": "u" });
        for (payload, why) in [
            (
                json!({}),
                "\"imageUrl, imageBase64, imageFilePath\": one of them is required",
            ),
            (
                json!({ "images": [] }),
                "\"imageUrl, imageBase64, imageFilePath\": one of them is required",
            ),
            (
                json!({ "imageUrl": "u", "imageBase64": "b" }),
                "\"imageUrl, imageBase64\": only one",
            ),
            (
                json!({ "imageUrl": "u", "images": [image()] }),
                "\"images\": cannot be given together",
            ),
            (
                json!({ "images": vec![image(); 6] }),
                "\"images\": has 6 entries, at most 5",
            ),
            (
                json!({ "images": [image(), {}] }),
                "\"images[1].imageUrl, images[1].imageBase64,",
            ),
            (
                json!({ "images": [{ "imageUrl": "u", "imageFilePath": "f" }] }),
                "\"images[0].imageUrl, images[0].imageFilePath\": only one",
            ),
        ] {
            let failure = validate(payload.clone()).unwrap_err();
            assert_eq!(failure.class(), Class::Permanent, "{payload}");
            assert!(failure.message().contains(why), "{payload}: {failure}");
        }
    }
}

mod results {
    use super::*;

    #[test]
    fn a_bad_image_costs_only_its_own_page() {
        let mut gathered = Gathered::default();
        gathered.add(words(&["one", "two"])).unwrap();
        gathered
            .add(Err(Failure::invalid_field("images[1].imageUrl", "not found")))
            .unwrap();
        gathered.add(words(&[])).unwrap();
        gathered.add(words(&["three"])).unwrap();
        assert_eq!(
            serde_json::to_value(gathered.output().unwrap()).unwrap(),
            json!({
                "success": true,
                "result": {
                    "text": "one\ntwo\n\nthree",
                    "pages": [
                        { "page": 1, "text": "one\ntwo", "lines": ["one", "two"] },
                        { "page": 2, "text": "", "lines": [],
                          "error": "payload field \"images[1].imageUrl\": not found" },
                        { "page": 3, "text": "", "lines": [] },
                        { "page": 4, "text": "three", "lines": ["three"] },
                    ],
                    "pageCount": 4, "imagesProcessed": 3, "totalImages": 4,
                },
            })
        );
    }

    #[test]
    fn a_job_without_a_readable_image_fails_with_all_reasons() {
        let mut gathered = Gathered::default();
        gathered.add(Err(Failure::permanent("not an image"))).unwrap();
        gathered.add(Err(Failure::permanent("too small"))).unwrap();
        let failure = gathered.output().unwrap_err();
        assert_eq!(failure.class(), Class::Permanent);
        assert_eq!(
            failure.message(),
            "no image could be read: image 1: not an image; image 2: too small"
        );

        let mut single = Gathered::default();
        single
            .add(Err(Failure::permanent("too small").with_status(400)))
            .unwrap();
        let failure = single.output().unwrap_err();
        assert_eq!((failure.message(), failure.status()), ("too small", Some(400)));
    }

    #[test]
    fn any_other_failure_is_the_jobs() {
        use Class::{Blocked, Cancelled, Deployment, OutOfQuota, RateLimited, Transient};
        for class in [Transient, RateLimited, OutOfQuota, Deployment, Blocked, Cancelled] {
            let mut gathered = Gathered::default();
            gathered.add(words(&["one"])).unwrap();
            assert_eq!(
                gathered.add(Err(Failure::new(class, "x"))).unwrap_err().class(),
                class
            );
        }
    }
}

mod answers {
    use super::*;
    use recognise::{analyzed, polled, submitted};

    #[test]
    fn reads_both_services() {
        let analysis = json!({ "readResult": { "blocks": [part(&["one", "two"])] }, "metadata": {} });
        assert_eq!(analyzed(&analysis).unwrap(), ["one", "two"]);
        assert!(
            analyzed(&json!({ "readResult": { "blocks": [] } }))
                .unwrap()
                .is_empty()
        );

        let read = json!({
            "status": "succeeded", "analyzeResult": { "readResults": [part(&["one"]), part(&["two"]), {}] },
        });
        assert_eq!(
            polled(&read).unwrap(),
            State::Done(vec!["one".into(), "two".into()])
        );
        for status in ["notStarted", "running"] {
            assert_eq!(polled(&json!({ "status": status })).unwrap(), State::Running);
        }
        assert_eq!(submitted(&json!({ "operationId": "op-1" })).unwrap(), "op-1");
    }

    #[test]
    fn unusable_answers_are_transient() {
        let failures = [
            analyzed(&json!(null)).unwrap_err(),
            analyzed(&json!({ "readResult": [] })).unwrap_err(),
            submitted(&json!({ "operationId": 7 })).unwrap_err(),
            polled(&json!({ "status": "dreaming" })).unwrap_err(),
            polled(&json!({ "status": "succeeded" })).unwrap_err(),
        ];
        for failure in failures {
            assert_eq!(
                (failure.class(), failure.provider()),
                (Class::Transient, Some(Provider::AzureVision))
            );
        }
    }
}

mod flow {
    use super::*;

    const IMAGE: Bytes = Bytes::from_static(b"image");

    fn recogniser<'a>(
        guard: &'a FakeGuard,
        ask: &'a (dyn Fn(Ask) -> BoxFuture<'a, Result<crate::Reply, Failure>> + Send + Sync + 'a),
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
            .lines(2, IMAGE)
            .await
            .unwrap();
        assert_eq!(lines, ["text"]);
        assert_eq!(guard.steps(), ["image:2"]);
        assert_eq!(script.asked(), [Ask::Analyze(IMAGE), Ask::Analyze(IMAGE)]);
    }

    #[tokio::test]
    async fn read_submits_once_and_polls_until_done() {
        let answers = [
            Ok(submitted()),
            Ok(json!({ "status": "notStarted" })),
            Err(Class::Transient),
            Ok(running()),
            Ok(succeeded()),
        ];
        let (guard, script) = (FakeGuard::default(), Script::new(answers));
        let ask = |ask| script.answer(ask);
        assert_eq!(
            recogniser(&guard, &ask, VisionApi::Read32)
                .lines(1, IMAGE)
                .await
                .unwrap(),
            ["text"]
        );
        assert_eq!(
            guard.steps(),
            [
                "image:1:submit",
                "image:1:poll:1",
                "image:1:poll:2",
                "image:1:poll:3"
            ]
        );
        let mut asked = script.asked();
        assert_eq!(asked.remove(0), Ask::Submit(IMAGE));
        assert_eq!(asked, vec![Ask::Poll("op-1".into()); 4]);
    }

    #[tokio::test]
    async fn a_later_delivery_goes_on_polling_what_was_paid_for() {
        let guard = FakeGuard::keeping([
            ("image:1:submit", submitted()),
            ("image:1:poll:1", running()),
            ("image:1:poll:2", running()),
        ]);
        let script = Script::new([Ok(succeeded())]);
        let ask = |ask| script.answer(ask);
        // An hour's pause shows that none is made after the answers that were kept.
        let recogniser = Recogniser {
            poll_interval: Duration::from_secs(3600),
            ..recogniser(&guard, &ask, VisionApi::Read32)
        };
        assert_eq!(recogniser.lines(1, IMAGE).await.unwrap(), ["text"]);
        assert_eq!(script.asked(), [Ask::Poll("op-1".into())]);
    }

    #[tokio::test]
    async fn an_operation_that_is_not_done_in_time_is_transient() {
        let (guard, script) = (
            FakeGuard::default(),
            Script::new([Ok(submitted()), Ok(running())]),
        );
        let ask = |ask| script.answer(ask);
        let failure = recogniser(&guard, &ask, VisionApi::Read32)
            .operation(1, IMAGE, Duration::ZERO)
            .await
            .unwrap_err();
        assert_eq!(
            (failure.class(), failure.provider()),
            (Class::Transient, Some(Provider::AzureVision))
        );
        assert_eq!(script.asked().len(), 2);
    }

    #[tokio::test]
    async fn verdicts_pass_unchanged() {
        for class in [Class::Blocked, Class::Cancelled, Class::RateLimited] {
            for api in [VisionApi::ImageAnalysis40, VisionApi::Read32] {
                let (guard, script) = (FakeGuard::refusing(class), Script::new([]));
                let ask = |ask| script.answer(ask);
                assert_eq!(
                    recogniser(&guard, &ask, api)
                        .lines(1, IMAGE)
                        .await
                        .unwrap_err()
                        .class(),
                    class
                );
            }
        }
    }
}
