//! What each type of job comes to.

use super::*;

#[tokio::test]
async fn flashcards_come_from_the_content() {
    let scene = Scene::set().await;
    let one = scene
        .run(
            "1",
            JobType::GenerateFlashcards,
            cards("Mitochondria make energy"),
        )
        .await;
    let two = scene
        .run("2", JobType::GenerateFlashcards, cards("Ribosomes make proteins"))
        .await;
    let (one, two) = (done(&one), done(&two));
    for result in [one, two] {
        let cards = result["flashcards"].as_array().unwrap();
        assert!((1..=40).contains(&cards.len()), "{} cards", cards.len());
        assert_eq!(result["success"], true);
        assert_eq!(cards[0]["topic"], "Cells");
        assert!(result["tokenUsage"].as_u64().unwrap() > 0);
    }
    assert_ne!(
        one["flashcards"], two["flashcards"],
        "each job got its own answer"
    );
    scene.end().await;
}

#[tokio::test]
async fn audio_of_every_container_is_assessed() {
    let scene = Scene::set().await;
    let samples: [(&str, &[u8]); 7] = [
        ("wav", WAV),
        ("ogg", include_bytes!("../../../samples/good_morning.ogg")),
        ("m4a", include_bytes!("../../../samples/good_morning.m4a")),
        ("mp3", include_bytes!("../../../samples/good_morning.mp3")),
        ("flac", include_bytes!("../../../samples/good_morning.flac")),
        ("webm", include_bytes!("../../../samples/good_morning.webm")),
        ("44k", include_bytes!("../../../samples/wrong_44k_stereo.wav")),
    ];
    for (id, audio) in samples {
        let view = scene
            .run(id, JobType::AssessPronunciation, speech("Good morning", audio))
            .await;
        let result = done(&view);
        assert_eq!(
            result["result"]["recognizedText"]
                .as_str()
                .unwrap()
                .trim_end_matches('.'),
            "Good morning",
            "{id}"
        );
        assert!(result["result"]["pronunciationScore"].as_f64().unwrap() >= 60.0);
        assert_eq!(result["result"]["passed"], true);
        assert!(
            result["feedback"]["overall"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
    scene.end().await;
}

#[tokio::test]
async fn silence_is_a_result() {
    let scene = Scene::set().await;
    let silence = include_bytes!("../../../samples/silence5.wav");
    let view = scene
        .run("1", JobType::AssessPronunciation, speech("Good morning", silence))
        .await;
    assert_eq!(done(&view)["success"], false);
    assert!(
        done(&view)["error"]
            .as_str()
            .unwrap()
            .starts_with("No speech recognized")
    );
    assert_eq!(scene.requests(Provider::AzureSpeech), 1);
    let no_match = Fault::Speech {
        status: RecognitionFault::NoMatch,
    };
    scene
        .simulator
        .faults()
        .script(Provider::AzureSpeech, [no_match])
        .unwrap();
    let view = scene
        .run("2", JobType::AssessPronunciation, speech("Good morning", WAV))
        .await;
    assert_eq!(done(&view)["success"], false);
    scene.end().await;
}

#[tokio::test]
async fn one_bad_image_does_not_lose_the_others() {
    for api in ["4.0", "3.2", "document-intelligence"] {
        let scene = Scene::set_with(&[("AZURE_VISION_API", api)]).await;
        let view = scene
            .run("1", JobType::ProcessImage, images(&[PNG, BAD_PNG, JPG]))
            .await;
        let result = &done(&view)["result"];
        assert_eq!(
            (&result["imagesProcessed"], &result["totalImages"]),
            (&json!(2), &json!(3)),
            "{api}"
        );
        assert!(
            result["text"].as_str().unwrap().matches("image ").count() >= 2,
            "{result}"
        );
        let view = scene.run("2", JobType::ProcessImage, images(&[BAD_PNG])).await;
        assert!(failed(&view).contains("images[0]"), "{}", failed(&view));
        scene.end().await;
    }
}

/// Each page of a file that Document Intelligence reads is booked at its price, and its text is in the result.
#[tokio::test]
async fn pages_of_a_document_are_booked_each() {
    let scene = Scene::set_with(&[("AZURE_VISION_API", "document-intelligence")]).await;
    let tiff = include_bytes!("../../../samples/two_pages.tiff");
    let view = scene.run("1", JobType::ProcessImage, images(&[tiff, PNG])).await;
    let output = done(&view);
    let lines = &output["result"]["pages"][0]["lines"];
    assert!(lines.as_array().unwrap().contains(&json!("page 2")), "{lines}");
    assert_eq!(output["usage"], json!({ "calls": 2, "costUsd": 0.0045 }));
    let journal = scene.simulator.journal().of(Provider::AzureVision);
    let billed: f64 = journal.iter().filter_map(|entry| entry.bill.as_ref()?.usd).sum();
    assert!((billed - 0.0045).abs() < 1e-9, "{billed}");
    let lasting = journal.iter().filter(|entry| entry.method == "POST").count();
    assert_eq!(lasting, 2, "no image is submitted twice");
    scene.end().await;
}

#[tokio::test]
async fn a_bad_payload_fails_its_job_alone_and_names_the_field() {
    let scene = Scene::set().await;
    let tiny = include_bytes!("../../../samples/tiny49.png");
    let long = include_bytes!("../../../samples/long31.wav");
    let bad_wav = include_bytes!("../../../samples/bad.wav");
    let cases: &[(JobType, Value, &str)] = &[
        (JobType::GenerateFlashcards, json!({}), "content"),
        (JobType::GenerateFlashcards, json!({"content": 5}), "content"),
        (JobType::GenerateFlashcards, json!([]), "payload"),
        (
            JobType::GenerateFlashcards,
            json!({"content": "x", "subject": "s", "topic": "t", "userId": "u", "count": 99}),
            "count",
        ),
        (
            JobType::AssessPronunciation,
            json!({"referenceText": "x"}),
            "audio",
        ),
        (
            JobType::AssessPronunciation,
            json!({"referenceText": "x", "audioUrl": "http://example.com/a.wav"}),
            "audioUrl",
        ),
        (
            JobType::AssessPronunciation,
            json!({"referenceText": "x", "audioUrl": "https://127.0.0.1/a.wav"}),
            "audioUrl",
        ),
        (
            JobType::AssessPronunciation,
            json!({"referenceText": "x", "audioUrl": "https://169.254.169.254/latest"}),
            "audioUrl",
        ),
        (
            JobType::AssessPronunciation,
            json!({"referenceText": "x", "audioFilePath": "/etc/passwd"}),
            "UPLOADS_DIR",
        ),
        (JobType::AssessPronunciation, speech("x", bad_wav), "audioBase64"),
        (JobType::AssessPronunciation, speech("x", long), "30 s"),
        (JobType::ProcessImage, images(&[tiny]), "49"),
        (JobType::ProcessImage, json!({"images": []}), "image"),
        (
            JobType::ProcessImage,
            json!({"imageBase64": "%%%"}),
            "imageBase64",
        ),
    ];
    for (n, (kind, payload, _)) in cases.iter().enumerate() {
        scene
            .enqueue(&format!("bad-{n}"), *kind, payload.clone(), 3)
            .await;
    }
    scene
        .enqueue("good", JobType::ProcessImage, images(&[PNG]), 3)
        .await;
    for (n, (kind, payload, part)) in cases.iter().enumerate() {
        let view = scene.ended(&format!("bad-{n}")).await;
        assert!(
            failed(&view).contains(part),
            "{kind} {payload}: {}",
            failed(&view)
        );
        assert_eq!(view.attempts_made, 1, "no attempt is wasted on {kind} {part}");
    }
    done(&scene.ended("good").await);
    assert_eq!(
        scene.requests(Provider::AzureVision),
        1,
        "nothing was paid for the bad ones"
    );
    assert_eq!(
        scene.requests(Provider::AzureSpeech) + scene.requests(Provider::OpenAi),
        0
    );
    scene.end().await;
}
