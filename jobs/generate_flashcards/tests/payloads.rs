use super::*;

#[test]
fn takes_what_the_web_api_sends() {
    let payload = payload(json!({
        "userId": 42, "count": " 12 ", "nativeLanguage": null, "targetLanguage": "", "jobId": "unknown here",
    }));
    payload.validate().unwrap();
    assert_eq!(payload.user_id, "42");
    assert_eq!((payload.wanted(), payload.most_cards()), (12, 12));
    let usual = super::payload(json!({ "count": null }));
    assert_eq!(
        (usual.wanted(), usual.most_cards()),
        (deck_payload::USUAL_CARDS, MOST_CARDS)
    );
}

#[test]
fn names_every_missing_field_at_once() {
    let payload: Payload = serde_json::from_value(json!({ "content": " \n", "topic": "t" })).unwrap();
    let failure = payload.validate().unwrap_err();
    assert_eq!(failure.class(), FailureClass::Permanent);
    assert_eq!(
        failure.message(),
        "payload field \"content, subject, userId\": required, and must not be blank"
    );
}

#[test]
fn refuses_each_field_out_of_bounds_by_name() {
    let long = |n: usize| "ä".repeat(n);
    for (field, most) in [
        ("content", 200_000),
        ("subject", 500),
        ("topic", 500),
        ("userId", 500),
        ("nativeLanguage", 100),
        ("targetLanguage", 100),
    ] {
        payload(json!({ (field): long(most) })).validate().unwrap();
        let failure = payload(json!({ (field): long(most + 1) }))
            .validate()
            .unwrap_err();
        assert!(
            failure
                .message()
                .contains(&format!("\"{field}\": longer than {most}")),
            "{failure}"
        );
    }
    for count in [json!(9), json!(41), json!(-20), json!("41"), json!(0)] {
        let failure = payload(json!({ "count": count })).validate().unwrap_err();
        assert!(
            failure
                .message()
                .starts_with("payload field \"count\": must be from 10 to 40"),
            "{failure}"
        );
    }
    for count in [json!(10), json!(40), json!("10")] {
        payload(json!({ "count": count })).validate().unwrap();
    }
}

#[test]
fn refuses_wrong_types_by_name() {
    for (wrong, name) in [
        (json!({ "userId": true }), "userId"),
        (json!({ "userId": ["u"] }), "userId"),
        (json!({ "count": "many" }), "count"),
        (json!({ "count": 12.5 }), "count"),
        (json!({ "count": "" }), "count"),
        (json!({ "count": u64::MAX }), "count"),
        (json!({ "count": {} }), "count"),
    ] {
        let error = serde_json::from_value::<Payload>(wrong.clone())
            .err()
            .unwrap()
            .to_string();
        assert!(error.starts_with(name), "{wrong}: {error}");
    }
}
