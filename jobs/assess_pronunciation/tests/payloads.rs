use super::*;

#[test]
fn refuses_each_field_by_name() {
    payload(json!({ "audioBase64": "", "audioFilePath": null, "userId": 7 }))
        .validate()
        .unwrap();
    for (change, why) in [
        (json!({ "referenceText": " " }), "\"referenceText\": required"),
        (
            json!({ "referenceText": "ä".repeat(1_001) }),
            "\"referenceText\": longer than 1000",
        ),
        (
            json!({ "language": "english please" }),
            "\"language\": must be a language tag",
        ),
        (
            json!({ "audioUrl": null }),
            "\"audioUrl, audioBase64, audioFilePath\": one of them is required",
        ),
        (
            json!({ "audioBase64": "AA==" }),
            "\"audioUrl, audioBase64\": only one",
        ),
        (
            json!({ "audioBase64": "AA==", "audioFilePath": "a" }),
            "\"audioUrl, audioBase64, audioFilePath\": only",
        ),
    ] {
        let failure = payload(change.clone()).validate().unwrap_err();
        assert_eq!(failure.class(), FailureClass::Permanent, "{change}");
        assert!(failure.message().contains(why), "{change}: {failure}");
    }
}

#[test]
fn knows_language_tags() {
    for tag in ["en", "en-US", "zh-Hans-CN", "es-419", "yue-CN", "uz-Latn-UZ"] {
        assert!(is_language_tag(tag), "{tag}");
    }
    for tag in [
        "",
        "e",
        "en_US",
        "en-",
        "-US",
        "en--US",
        "1n-US",
        "en-US&format=x",
        "en-US\r\nX: y",
        "ən",
    ] {
        assert!(!is_language_tag(tag), "{tag}");
    }
    assert!(!is_language_tag(&"en-abcdefgh".repeat(9)));
    assert_eq!(payload(json!({ "language": "" })).language(), "en-US");
    assert_eq!(payload(json!({ "language": " de-DE " })).language(), "de-DE");
}
