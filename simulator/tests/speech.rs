//! Azure Speech: answers and checks.

use super::*;

#[tokio::test]
async fn scores_are_drawn_from_text_and_audio() {
    let bench = Bench::new().await;
    let answer = send(bench.assess("Good morning, world!", speech_wav()), 200).await;
    assert_eq!(answer["RecognitionStatus"], "Success");
    assert_eq!(answer["DisplayText"], "Good morning, world!");
    assert_eq!(answer["Duration"], 15_000_000);
    let best = &answer["NBest"][0];
    for name in ["AccuracyScore", "FluencyScore", "CompletenessScore", "PronScore"] {
        let score = best[name].as_f64().unwrap();
        assert!((60.0..=100.0).contains(&score), "{name} {score}");
    }
    let words: Vec<&str> = best["Words"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word["Word"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["Good", "morning", "world"]);
    assert_eq!(best["Words"][0]["Phonemes"].as_array().unwrap().len(), 4);
    assert_eq!(best["Words"][0]["ErrorType"], "None");

    assert_eq!(
        answer,
        send(bench.assess("Good morning, world!", speech_wav()), 200).await
    );
    let longer = send(
        bench.assess("Good morning, world!", wav(16_000, 1, 2.0, 9000)),
        200,
    )
    .await;
    assert_ne!(best["AccuracyScore"], longer["NBest"][0]["AccuracyScore"]);
}

#[tokio::test]
async fn a_mumbled_text_scores_low_and_has_errors() {
    let bench = Bench::new().await;
    let answer = send(bench.assess("please mumble this sentence", speech_wav()), 200).await;
    let best = &answer["NBest"][0];
    assert!(best["PronScore"].as_f64().unwrap() < 60.0);
    let errors: Vec<&str> = best["Words"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word["ErrorType"].as_str().unwrap())
        .collect();
    assert_eq!(
        errors,
        ["Mispronunciation", "Omission", "None", "Mispronunciation"]
    );
    assert_eq!(answer["DisplayText"], "please this sentence");
    assert_eq!(best["CompletenessScore"], 75.0);
}

#[tokio::test]
async fn without_comprehensive_only_accuracy_comes_back() {
    let bench = Bench::new().await;
    let header =
        BASE64_STANDARD.encode(json!({"ReferenceText": "hello", "Granularity": "FullText"}).to_string());
    let mut request = bench.assess("", speech_wav()).build().unwrap();
    request
        .headers_mut()
        .insert("Pronunciation-Assessment", header.parse().unwrap());
    let answer = json_of(bench.http.execute(request).await.unwrap(), 200).await;
    let best = &answer["NBest"][0];
    assert!(best["AccuracyScore"].is_number());
    for absent in ["FluencyScore", "CompletenessScore", "PronScore", "Words"] {
        assert!(best.get(absent).is_none(), "{absent}");
    }
}

#[tokio::test]
async fn silence_is_a_successful_call() {
    let bench = Bench::new().await;
    for audio in [wav(16_000, 1, 5.0, 1), wav(16_000, 1, 0.0, 0)] {
        let answer = send(bench.assess("hello", audio), 200).await;
        assert_eq!(answer["RecognitionStatus"], "InitialSilenceTimeout");
        assert!(answer.get("NBest").is_none());
    }
}

#[tokio::test]
async fn audio_is_really_looked_at() {
    let bench = Bench::new().await;
    let stretched = {
        // An unknown length, as streams give it, and a chunk of odd length before the data.
        let good = speech_wav();
        let mut bytes = good[..36].to_vec();
        bytes.extend(b"LIST\x03\0\0\0abc\0data");
        bytes.extend(u32::MAX.to_le_bytes());
        bytes.extend(&good[44..]);
        bytes
    };
    send(bench.assess("hello", stretched), 200).await;
    send(bench.assess("hello", wav(16_000, 1, 30.0, 9000)), 200).await;
    let bad = [
        wav(16_000, 1, 30.1, 9000),
        wav(44_100, 1, 1.0, 9000),
        wav(16_000, 2, 1.0, 9000),
        b"not a wav".to_vec(),
        Vec::new(),
        speech_wav()[..40].to_vec(),
        b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff".to_vec(),
    ];
    for audio in bad {
        send(bench.assess("hello", audio), 400).await;
    }
}

#[tokio::test]
async fn ogg_opus_is_taken_by_its_pages() {
    let page = |samples: u64, payload: &[u8]| {
        let mut bytes = b"OggS\0\0".to_vec();
        bytes.extend(samples.to_le_bytes());
        bytes.extend([0; 14]);
        bytes.extend(payload);
        bytes
    };
    let stream = |samples| [page(0, b"OpusHead"), page(samples, b"sound")].concat();
    let bench = Bench::new().await;
    let send_ogg = |audio: Vec<u8>, status| {
        let mut request = bench.assess("hello", audio).build().unwrap();
        request
            .headers_mut()
            .insert("content-type", "audio/ogg; codecs=opus".parse().unwrap());
        let http = bench.http.clone();
        async move { json_of(http.execute(request).await.unwrap(), status).await }
    };
    assert_eq!(send_ogg(stream(96_000), 200).await["Duration"], 20_000_000);
    send_ogg(stream(31 * 48_000), 400).await;
    send_ogg(page(48_000, b"vorbis"), 400).await;
    send_ogg(b"OggS OpusHead OggS".to_vec(), 400).await;
    send_ogg(speech_wav(), 400).await;
}

#[tokio::test]
async fn wrong_headers_and_queries_are_refused() {
    let bench = Bench::new().await;
    let encoded = |wanted: Value| BASE64_STANDARD.encode(wanted.to_string());
    let table = [
        ("Ocp-Apim-Subscription-Key", "wrong".to_owned(), 401),
        ("Content-Type", "audio/mpeg".to_owned(), 415),
        (
            "Content-Type",
            "audio/wav; codecs=audio/pcm; samplerate=8000".to_owned(),
            415,
        ),
        ("Accept", "text/xml".to_owned(), 406),
        ("Pronunciation-Assessment", "%%%".to_owned(), 400),
        ("Pronunciation-Assessment", encoded(json!([])), 400),
        (
            "Pronunciation-Assessment",
            encoded(json!({"Granularity": "Phoneme"})),
            400,
        ),
        (
            "Pronunciation-Assessment",
            encoded(json!({"ReferenceText": "a", "Granularity": "Letter"})),
            400,
        ),
    ];
    for (name, value, status) in table {
        let mut request = bench.assess("hello", speech_wav()).build().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        let answer = json_of(bench.http.execute(request).await.unwrap(), status).await;
        assert!(answer["error"]["message"].is_string(), "{name}: {answer}");
    }
    for query in [
        "",
        "language=en-US",
        "format=detailed",
        "language=&format=detailed",
        "language=en-US&format=simple",
    ] {
        let mut request = bench.assess("hello", speech_wav()).build().unwrap();
        request.url_mut().set_query(Some(query));
        json_of(bench.http.execute(request).await.unwrap(), 400).await;
    }
}

#[tokio::test]
async fn a_resource_endpoint_works_too() {
    let bench = Bench::new().await;
    let mut request = bench.assess("hello", speech_wav()).build().unwrap();
    let path = format!("/stt{}", request.url().path());
    request.url_mut().set_path(&path);
    json_of(bench.http.execute(request).await.unwrap(), 200).await;
}
