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
            "\"images\": has more than 5 entries",
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
        assert_eq!(failure.class(), FailureClass::Permanent, "{payload}");
        assert!(failure.message().contains(why), "{payload}: {failure}");
    }
}
