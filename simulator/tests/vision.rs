//! Azure Vision: answers and checks of both services.

use super::*;

const READ: &str = "/vision/v3.2/read/analyze";

#[tokio::test]
async fn analysis_reads_which_image_it_was() {
    let bench = Bench::new().await;
    let response = bench.analyze(png(640, 480, "one")).send().await.unwrap();
    assert!(response.headers().contains_key("apim-request-id"));
    let answer = json_of(response, 200).await;
    assert_eq!(answer["metadata"], json!({"width": 640, "height": 480}));
    let line = &answer["readResult"]["blocks"][0]["lines"][0];
    let text = line["text"].as_str().unwrap();
    assert!(text.starts_with("image ") && text.ends_with(" 640x480"), "{text}");
    assert_eq!(line["boundingPolygon"].as_array().unwrap().len(), 4);
    assert_eq!(line["words"].as_array().unwrap().len(), 3);
    let other = send(bench.analyze(png(640, 480, "two")), 200).await;
    assert_ne!(other["readResult"]["blocks"][0]["lines"][0]["text"], text);
}

#[tokio::test]
async fn images_are_really_looked_at() {
    let bench = Bench::new().await;
    for path in [
        READ,
        "/computervision/imageanalysis:analyze?api-version=2024-02-01&features=read",
    ] {
        for (image, code) in [
            (png(49, 100, ""), "InvalidImageSize"),
            (png(100, 16_001, ""), "InvalidImageSize"),
            (b"not an image".to_vec(), "InvalidImageFormat"),
            (b"\x89PNG\r\n\x1a\n".to_vec(), "InvalidImageFormat"),
            (Vec::new(), "InvalidImageFormat"),
        ] {
            let answer = send(bench.vision(path, image), 400).await;
            assert_eq!(answer["error"]["innererror"]["code"], code);
        }
        let url = bench.vision(path, Vec::new()).build().unwrap();
        let send_as = |kind: &'static str, body: Vec<u8>| {
            let mut request = url.try_clone().unwrap();
            request
                .headers_mut()
                .insert("content-type", kind.parse().unwrap());
            *request.body_mut() = Some(body.into());
            bench.http.execute(request)
        };
        assert_eq!(
            send_as("text/plain", png(99, 99, "")).await.unwrap().status(),
            415
        );
        let by_url = send_as(
            "application/json",
            b"{\"url\":\"https://example.org/a.png\"}".to_vec(),
        )
        .await;
        assert_eq!(
            json_of(by_url.unwrap(), 400).await["error"]["innererror"]["code"],
            "InvalidImageUrl"
        );
    }
    send(bench.vision(READ, png(12_000, 100, "")), 400).await;
    send(bench.analyze(png(12_000, 100, "")), 200).await;
    // Image Analysis reads formats that Read does not.
    let gif = [b"GIF89a".as_slice(), &[100, 0, 100, 0], &[0; 8]].concat();
    let answer = send(bench.vision(READ, gif.clone()), 400).await;
    assert_eq!(answer["error"]["innererror"]["code"], "InvalidImageFormat");
    send(bench.analyze(gif), 200).await;
}

const DOCUMENTS: &str = "/documentintelligence/documentModels/prebuilt-read:analyze?_overload=analyzeDocument&api-version=2024-11-30";

#[tokio::test]
async fn a_document_is_polled_until_its_pages_are_read() {
    let bench = Bench::new().await;
    let tiff = include_bytes!("../../samples/two_pages.tiff");
    let accepted = bench.vision(DOCUMENTS, tiff.to_vec()).send().await.unwrap();
    assert_eq!(
        (accepted.status().as_u16(), &accepted.headers()["retry-after"]),
        (202, &"1".parse().unwrap())
    );
    let place = accepted.headers()["operation-location"]
        .to_str()
        .unwrap()
        .to_owned();
    let query = "?api-version=2024-11-30";
    let poll = |place: &str| {
        bench
            .http
            .get(place)
            .header("Ocp-Apim-Subscription-Key", "sim-vision-key")
    };
    // The version is that of the request; an operation of one service is not known to the other.
    send(poll(&place), 400).await;
    let of_read = place.replace(
        "documentintelligence/documentModels/prebuilt-read",
        "vision/v3.2/read",
    );
    send(poll(&of_read), 404).await;
    assert_eq!(
        send(poll(&format!("{place}{query}")), 200).await["status"],
        "running"
    );
    let answer = send(poll(&format!("{place}{query}")), 200).await;
    assert_eq!(answer["status"], "succeeded");
    let pages = answer["analyzeResult"]["pages"].as_array().unwrap();
    assert_eq!(pages.len(), 2);
    assert!(
        pages[0]["lines"][0]["content"]
            .as_str()
            .unwrap()
            .starts_with("image ")
    );
    assert_eq!(pages[1]["lines"][0]["content"], "page 2");
    let bills: Vec<_> = bench
        .sim
        .journal()
        .of(Provider::AzureVision)
        .into_iter()
        .filter_map(|e| e.bill)
        .collect();
    assert_eq!((bills.len(), bills[0].images, bills[0].usd), (1, 2, Some(0.003)));
}

#[tokio::test]
async fn requests_for_documents_are_checked() {
    let bench = Bench::new().await;
    let path = "/documentintelligence/documentModels";
    for (query, status) in [
        ("/prebuilt-read:analyze", 400),
        ("/prebuilt-read:analyze?api-version=2023-07-31", 400),
        (
            "/prebuilt-read:analyze?api-version=2024-11-30&_overload=other",
            400,
        ),
        (
            "/prebuilt-read:analyze?api-version=2024-11-30&features=languages",
            400,
        ),
        ("/prebuilt-invoice:analyze?api-version=2024-11-30", 404),
        ("/prebuilt-read:analyze?api-version=2024-11-30", 202),
    ] {
        let answer = bench
            .vision(&format!("{path}{query}"), png(99, 99, ""))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{query}");
    }
    let webp = include_bytes!("../../samples/text.webp");
    send(bench.vision(DOCUMENTS, webp.to_vec()), 400).await;
    send(bench.vision(DOCUMENTS, png(10_001, 99, "")), 400).await;
    let unkeyed = bench.http.post(bench.url(DOCUMENTS)).body(png(99, 99, ""));
    send(unkeyed, 401).await;
}

#[tokio::test]
async fn wrong_queries_are_refused() {
    let bench = Bench::new().await;
    for query in [
        "features=read",
        "api-version=2019-01-01&features=read",
        "api-version=2024-02-01",
        "api-version=2024-02-01&features=tags",
    ] {
        let path = format!("/computervision/imageanalysis:analyze?{query}");
        assert_eq!(
            send(bench.vision(&path, png(99, 99, "")), 400).await["error"]["code"],
            "InvalidRequest"
        );
    }
}

#[tokio::test]
async fn a_wrong_key_is_refused() {
    let bench = Bench::new().await;
    let mut wrong = bench.analyze(png(99, 99, "")).build().unwrap();
    wrong
        .headers_mut()
        .insert("Ocp-Apim-Subscription-Key", "wrong".parse().unwrap());
    let answer = json_of(bench.http.execute(wrong).await.unwrap(), 401).await;
    assert_eq!(answer["error"]["code"], "401");
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("invalid subscription key")
    );
    send(bench.http.post(bench.url(READ)), 401).await;
    send(
        bench.http.get(bench.url("/vision/v3.2/read/analyzeResults/x")),
        401,
    )
    .await;
}

#[tokio::test]
async fn read_runs_until_it_has_succeeded() {
    let bench = Bench::new().await;
    let accepted = bench
        .vision(READ, png(300, 200, "job-read-7"))
        .send()
        .await
        .unwrap();
    assert_eq!(accepted.status(), 202);
    let place = accepted.headers()["operation-location"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        place.starts_with(&bench.url("/vision/v3.2/read/analyzeResults/")),
        "{place}"
    );
    let poll = || {
        bench
            .http
            .get(&place)
            .header("Ocp-Apim-Subscription-Key", "sim-vision-key")
    };
    for status in ["notStarted", "running"] {
        let answer = send(poll(), 200).await;
        assert_eq!(answer["status"], status);
        assert!(answer.get("analyzeResult").is_none());
    }
    for _ in 0..2 {
        let answer = send(poll(), 200).await;
        assert_eq!(answer["status"], "succeeded");
        let page = &answer["analyzeResult"]["readResults"][0];
        assert!(page["lines"][0]["text"].as_str().unwrap().ends_with(" 300x200"));
    }
    let markers: Vec<String> = bench
        .sim
        .journal()
        .of(Provider::AzureVision)
        .into_iter()
        .map(|entry| entry.marker)
        .collect();
    assert_eq!(markers, ["job-read-7"; 5], "a poll goes by the name of its image");

    let unknown = format!("{place}0");
    let unknown = bench
        .http
        .get(unknown)
        .header("Ocp-Apim-Subscription-Key", "sim-vision-key");
    send(unknown, 404).await;
}

#[tokio::test]
async fn an_operation_fails_or_is_forgotten_for_good() {
    let timeout = Fault::OperationFailed {
        code: Some("Timeout".to_owned()),
    };
    let failed = Fault::OperationFailed { code: None };
    for (fault, status, wanted) in [
        (timeout, 200, json!({"status": "failed", "code": "Timeout"})),
        (failed, 200, json!({"status": "failed", "code": null})),
        (
            Fault::OperationUnknown,
            404,
            json!({"status": null, "code": "OperationNotFound"}),
        ),
    ] {
        // The fault falls on the submit, or on the first poll.
        for script in [vec![fault.clone()], vec![Fault::Delay { ms: 0 }, fault.clone()]] {
            let bench = Bench::new().await;
            bench.sim.faults().script(Provider::AzureVision, script).unwrap();
            let accepted = bench.vision(READ, png(300, 200, "")).send().await.unwrap();
            assert_eq!(accepted.status(), 202);
            let place = accepted.headers()["operation-location"].to_str().unwrap();
            for _ in 0..3 {
                let poll = bench
                    .http
                    .get(place)
                    .header("Ocp-Apim-Subscription-Key", "sim-vision-key");
                let answer = send(poll, status).await;
                let found = json!({"status": answer["status"], "code": answer["error"]["code"]});
                assert_eq!(found, wanted);
            }
            send(bench.analyze(png(99, 99, "")), 200).await;
        }
    }
}

/// Makes one attempt at each call.
struct OneAttempt;

#[async_trait::async_trait]
impl jobs::ProviderGuard for OneAttempt {
    async fn call<'a>(
        &'a self,
        _: &'a jobs::ProviderCall,
        attempt: &'a jobs::CallAttempt<'a>,
    ) -> Result<jobs::ProviderReply, jobs::Failure> {
        attempt().await
    }

    async fn useless(&self, _: &jobs::ProviderCall, _: bool) {}
}

#[tokio::test]
async fn the_worker_submits_an_operation_that_was_lost_once_more() {
    let faults = [Fault::OperationFailed { code: None }, Fault::OperationUnknown];
    for (fault, api) in faults.iter().flat_map(|fault| {
        use jobs::VisionApi::{DocumentIntelligence, Read32};
        [(fault.clone(), Read32), (fault.clone(), DocumentIntelligence)]
    }) {
        let bench = Bench::new().await;
        let settings = jobs::Settings {
            openai: None,
            fallbacks: Vec::new(),
            speech: None,
            vision: Some(jobs::VisionSettings {
                endpoint: bench.sim.vision_endpoint().parse().unwrap(),
                key: "sim-vision-key".into(),
                api,
                models: jobs::providers::models::ModelTable::built_in(),
                timeout: Duration::from_secs(20),
                poll_interval: Duration::from_millis(1),
            }),
            media: jobs::MediaSettings {
                uploads_dir: None,
                allowed_hosts: Vec::new(),
                max_bytes: 1_000_000,
                timeout: Duration::from_secs(1),
            },
        };
        let worker = jobs::Jobs::new(
            &settings,
            std::sync::Arc::new(jobs::media::decoder::InProcessDecoder),
            jobs::MemoryBudget::new(u64::MAX),
        )
        .unwrap();
        let image = BASE64_STANDARD.encode(png(300, 200, ""));
        let payload = json!({ "imageBase64": image }).to_string();
        let run = || worker.run(jobs::JobType::ProcessImage, payload.clone().into(), &OneAttempt);
        let requests = || {
            let entries = bench.sim.journal().of(Provider::AzureVision);
            let posts = entries.iter().filter(|entry| entry.method == "POST").count();
            (posts, entries.len() - posts)
        };

        bench.script(Provider::AzureVision, fault.clone());
        let result = run().await.unwrap();
        assert_eq!(result["result"]["imagesProcessed"], 1, "{result}");
        // An operation that is not known is polled ten times, since it may not be known yet; one poll finds a failed
        // one. More follow the second operation to its end.
        let polls = if fault == Fault::OperationUnknown { 10 } else { 1 };
        let to_end = if api == jobs::VisionApi::Read32 { 3 } else { 2 };
        assert_eq!(requests(), (2, polls + to_end), "{fault:?} {api:?}");

        // The fault falls on both submits, so nothing is left to a third.
        let between = vec![Fault::Delay { ms: 0 }; polls];
        let faults = [vec![fault.clone()], between, vec![fault.clone()]].concat();
        bench.sim.faults().script(Provider::AzureVision, faults).unwrap();
        let failure = run().await.unwrap_err();
        assert_eq!(failure.class(), jobs::FailureClass::Permanent, "{failure}");
        assert_eq!(requests(), (4, 3 * polls + to_end), "{fault:?} {api:?}");
    }
}

#[tokio::test]
async fn an_image_above_twenty_mebibytes_is_too_large() {
    let bench = Bench::new().await;
    let mut image = png(99, 99, "");
    image.resize(20_971_520, 0);
    send(bench.analyze(image.clone()), 200).await;
    image.push(0);
    // The answer may come while the image is still being sent: the journal knows in any case.
    let _ = bench.analyze(image).send().await;
    let answered = |count| {
        bench
            .sim
            .journal()
            .wait_until(move |j| j.counts(Provider::AzureVision).statuses.len() == count)
    };
    tokio::time::timeout(Duration::from_secs(10), answered(2))
        .await
        .unwrap();
    assert_eq!(
        bench.sim.journal().counts(Provider::AzureVision).statuses[&413],
        1
    );
}
