use super::*;
use recognise::{analyzed, polled, submitted};

/// How an operation ended.
fn ended(body: &Value) -> recognise::RecognitionEnd {
    match polled(body).unwrap() {
        OperationState::Ended(end) => end,
        OperationState::Running | OperationState::Unknown => panic!("{body} has not ended"),
    }
}

#[test]
fn reads_each_service() {
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
    assert_eq!(ended(&read).unwrap(), ["one", "two"]);
    let line = |text: &str| json!({ "content": text, "polygon": [] });
    let documents = json!({
        "status": "succeeded",
        "analyzeResult": { "content": "one two", "pages": [
            { "pageNumber": 1, "lines": [line("one")] }, { "pageNumber": 2, "lines": [line("two")] }, {},
        ] },
    });
    assert_eq!(ended(&documents).unwrap(), ["one", "two"]);
    for status in ["notStarted", "running"] {
        assert!(matches!(
            polled(&json!({ "status": status })).unwrap(),
            OperationState::Running
        ));
    }
    assert!(matches!(
        polled(&json!({ "status": "expired" })).unwrap(),
        OperationState::Unknown
    ));
    assert_eq!(submitted(&json!({ "operationId": "op-1" })).unwrap(), "op-1");
}

#[test]
fn unusable_answers_are_transient() {
    let failures = [
        analyzed(&json!(null)).unwrap_err(),
        analyzed(&json!({ "readResult": [] })).unwrap_err(),
        submitted(&json!({ "operationId": 7 })).unwrap_err(),
        polled(&json!({ "status": "dreaming" })).unwrap_err(),
        ended(&json!({ "status": "succeeded" })).unwrap_err(),
        ended(&json!({ "status": "failed" })).unwrap_err(),
    ];
    for failure in failures {
        assert_eq!(
            (failure.class(), failure.provider()),
            (FailureClass::Transient, Some(Provider::AzureVision))
        );
    }
}

#[test]
fn a_failed_operation_is_read_by_its_code() {
    for (body, class, words) in [
        (json!({ "status": "failed" }), FailureClass::Transient, "no code"),
        (
            json!({ "status": "failed", "error": { "code": "FailedToProcess", "message": "m" } }),
            FailureClass::Transient,
            "FailedToProcess",
        ),
        (
            json!({ "status": "failed", "error": { "code": "InvalidImageSize", "message": "m" } }),
            FailureClass::Permanent,
            "InvalidImageSize",
        ),
        (
            json!({ "status": "failed", "analyzeResult": { "errors": [{ "code": "InvalidImage" }] } }),
            FailureClass::Permanent,
            "InvalidImage",
        ),
        (
            json!({ "status": "canceled" }),
            FailureClass::Transient,
            "no code",
        ),
        (
            json!({ "status": "failed", "error": { "code": "InvalidRequest",
                "innererror": { "code": "InvalidContent" } } }),
            FailureClass::Permanent,
            "InvalidContent",
        ),
        (
            json!({ "status": "failed", "errors": [{ "code": "Timeout" }] }),
            FailureClass::Transient,
            "Timeout",
        ),
        (
            json!({ "status": "failed", "error": { "code": "X", "innererror": { "code": "StorageException" } } }),
            FailureClass::Transient,
            "StorageException",
        ),
    ] {
        let failure = ended(&body).unwrap_err();
        assert_eq!(failure.class(), class, "{body}: {failure}");
        assert!(failure.message().contains(words), "{body}: {failure}");
    }
}
