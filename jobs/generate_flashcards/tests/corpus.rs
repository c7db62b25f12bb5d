//! Realistic answers of providers, each with its exact result: `corpus.json`. Each case is also run through a whole
//! worker, by the integration tests.

use serde::Deserialize;

use super::*;
use crate::ProviderReply;

#[derive(Deserialize)]
struct Case {
    name: String,
    payload: Value,
    /// Bodies of HTTP 200 answers, in order.
    answers: Vec<String>,
    /// How many of them are asked for.
    calls: usize,
    #[serde(default)]
    result: Option<Value>,
    /// The end of the failure's text.
    #[serde(default)]
    failure: Option<String>,
}

#[tokio::test]
async fn each_answer_has_its_exact_result() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("corpus.json")).unwrap();
    assert!(cases.len() >= 60, "{}", cases.len());
    for case in cases {
        let name = &case.name;
        let payload = payload(case.payload);
        let answers = std::sync::Mutex::new(case.answers.into_iter());
        let chat = |_, _| -> BoxFuture<'_, _> {
            let body = answers
                .lock()
                .unwrap()
                .next()
                .unwrap_or_else(|| panic!("{name}: asked too often"));
            let body: Box<RawValue> = serde_json::from_str(body.trim_start_matches('\u{feff}')).unwrap();
            Box::pin(async { Ok(ProviderReply::new(body, None)) })
        };
        let guard = FakeGuard::default();
        let outcome = generate(&payload, &model("gpt-4o-mini"), &guard, &chat).await;
        assert_eq!(guard.steps().len(), case.calls, "{name}");
        match (outcome, case.result, case.failure) {
            (Ok(output), Some(right), None) => {
                let result = serde_json::to_value(output).unwrap();
                assert_eq!(result, right, "{name}: {result}");
                assert_eq!(contract::violations(&payload, &result), [], "{name}");
            }
            (Err(failure), None, Some(right)) => {
                assert_eq!(failure.class(), FailureClass::Permanent, "{name}");
                assert!(failure.to_string().ends_with(&right), "{name}: {failure}");
            }
            (Ok(output), ..) => panic!("{name}: {}", serde_json::to_value(output).unwrap()),
            (Err(failure), ..) => panic!("{name}: {failure}"),
        }
    }
}
