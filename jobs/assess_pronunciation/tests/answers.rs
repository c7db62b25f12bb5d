use super::*;

#[test]
fn reads_flat_and_nested_scores_alike() {
    let assessment = read(&flat());
    assert_eq!(
        serde_json::to_value(&assessment).unwrap(),
        json!({
            "accuracyScore": 90.5, "fluencyScore": 85.0, "completenessScore": 100.0, "pronunciationScore": 88.0,
            "recognizedText": "Good morning.", "referenceText": "Good morning",
            "words": [
                { "word": "good", "accuracyScore": 97.0, "errorType": "None",
                  "phonemes": [{ "phoneme": "g", "accuracyScore": 99.0 }] },
                { "word": "morning", "accuracyScore": 40.0, "errorType": "Mispronunciation", "phonemes": [] },
            ],
            "passed": true,
        })
    );
    assert_eq!(read(&nested()), assessment);
}

#[test]
fn does_without_what_is_missing() {
    let assessment = read(&json!({
        "RecognitionStatus": "Success", "DisplayText": "Good.", "NBest": [{ "AccuracyScore": 59.9, "Words": [{}] }],
    }));
    assert_eq!(assessment.pronunciation_score, 59.9);
    assert!(!assessment.passed);
    assert_eq!(
        (assessment.fluency_score, assessment.completeness_score),
        (0.0, 0.0)
    );
    assert_eq!(assessment.recognized_text, "Good.");
    assert_eq!(
        assessment.words,
        [Word {
            word: String::new(),
            phonemes: vec![],
            ..word("None", 0.0, &[])
        }]
    );
}

#[test]
fn passes_from_60_and_keeps_scores_in_range() {
    let with = |score: f64| {
        let mut body = flat();
        body["NBest"][0]["PronScore"] = json!(score);
        read(&body)
    };
    assert!(with(60.0).passed && !with(59.99).passed);
    assert_eq!(
        (with(1e300).pronunciation_score, with(-5.0).pronunciation_score),
        (100.0, 0.0)
    );
}

#[test]
fn hears_silence() {
    let mut bodies: Vec<Value> = ["NoMatch", "InitialSilenceTimeout", "BabbleTimeout"]
        .map(|status| json!({ "RecognitionStatus": status }))
        .to_vec();
    bodies.push(json!({ "RecognitionStatus": "Success", "DisplayText": "" }));
    bodies.push(json!({
        "RecognitionStatus": "Success", "DisplayText": "", "NBest": [{ "Display": " ", "PronScore": 0.0 }],
    }));
    for body in bodies {
        assert_eq!(answer::read(&body, "x").unwrap(), None, "{body}");
    }
}

/// The service at times puts an empty alternative in front of the one that it has scored.
#[test]
fn the_scored_alternative_is_reported() {
    for first in [
        json!({}),
        json!({ "Display": "" }),
        json!({ "Display": "Good", "PronScore": null }),
    ] {
        let assessment = read(&json!({
            "RecognitionStatus": "Success",
            "NBest": [first, { "Display": "Good morning.", "PronScore": 90.0, "AccuracyScore": 91.0 }],
        }));
        assert_eq!(
            (
                assessment.pronunciation_score,
                assessment.recognized_text.as_str()
            ),
            (90.0, "Good morning.")
        );
    }
}

#[test]
fn speech_without_scores_is_final() {
    let body =
        json!({ "RecognitionStatus": "Success", "DisplayText": "Hei.", "NBest": [{ "Display": "Hei." }] });
    let Err(UnusableAnswer::Final(failure)) = answer::read(&body, "Hei") else {
        panic!("another answer would be the same")
    };
    assert_eq!(
        (failure.class(), failure.provider()),
        (FailureClass::Permanent, Some(Provider::AzureSpeech))
    );
}

#[test]
fn an_error_status_is_the_providers_fault_and_an_unknown_one_is_useless() {
    let error = json!({ "RecognitionStatus": "Error" });
    let Err(UnusableAnswer::ProviderFault(failure)) = answer::read(&error, "x") else {
        panic!("the provider reports a fault")
    };
    assert_eq!(failure.class(), FailureClass::Transient);
    for body in [
        json!(null),
        json!({}),
        json!([1]),
        json!({ "RecognitionStatus": "New" }),
    ] {
        assert!(
            matches!(answer::read(&body, "x"), Err(UnusableAnswer::Useless(_))),
            "{body}"
        );
    }
}
