//! Each fault as a client sees it, and which request it falls on.

use std::error::Error as _;

use tokio::time::Instant;

use super::*;

async fn body(request: RequestBuilder, status: u16) -> String {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), status);
    response.text().await.unwrap()
}

fn status(status: u16) -> Fault {
    Fault::status(status)
}

#[tokio::test]
async fn a_status_comes_in_the_shape_of_its_provider() {
    let bench = Bench::new().await;
    for code in [
        400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504,
    ] {
        for provider in Provider::ALL {
            bench.script(provider, status(code));
        }
        let openai = send(bench.chat(&prompt("hello")), code).await;
        assert!(openai["error"]["type"].is_string(), "{openai}");
        for request in [
            bench.assess("hello", speech_wav()),
            bench.analyze(png(99, 99, "")),
        ] {
            let azure = send(request, code).await;
            assert!(azure["error"]["code"].is_string(), "{azure}");
        }
    }
    send(bench.chat(&prompt("hello")), 200).await;
}

#[tokio::test]
async fn a_status_says_what_it_is_told() {
    let bench = Bench::new().await;
    let fault =
        r#"{"kind":"status","status":503,"retry_after":2.5,"retry_after_ms":1500,"body":"<p>busy</p>"}"#;
    bench.script(Provider::OpenAi, serde_json::from_str(fault).unwrap());
    let response = bench.chat(&prompt("hello")).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "2.5");
    assert_eq!(response.headers()["retry-after-ms"], "1500");
    assert_eq!(response.headers()["content-type"], "text/html");
    assert_eq!(response.text().await.unwrap(), "<p>busy</p>");
}

#[tokio::test]
async fn a_rate_limit_is_said_as_each_provider_says_it() {
    let bench = Bench::new().await;
    for provider in Provider::ALL {
        bench.script(provider, Fault::RateLimit { retry_after: None });
    }
    let openai = bench.chat(&prompt("hello")).send().await.unwrap();
    assert_eq!(openai.headers()["retry-after"], "1");
    assert_eq!(openai.headers()["retry-after-ms"], "1000");
    assert_eq!(openai.headers()["x-ratelimit-remaining-requests"], "0");
    assert_eq!(json_of(openai, 429).await["error"]["code"], "rate_limit_exceeded");

    let speech = bench.assess("hello", speech_wav()).send().await.unwrap();
    assert_eq!(speech.status(), 429);
    assert!(!speech.headers().contains_key("retry-after"));

    let vision = bench.analyze(png(99, 99, "")).send().await.unwrap();
    assert!(!vision.headers().contains_key("retry-after"));
    assert!(
        json_of(vision, 429)
            .await
            .to_string()
            .contains("Please retry after 1 seconds")
    );
}

#[tokio::test]
async fn a_used_up_quota_is_said_as_each_provider_says_it() {
    let bench = Bench::new().await;
    for provider in Provider::ALL {
        bench.script(provider, Fault::Quota);
    }
    let openai = send(bench.chat(&prompt("hello")), 429).await;
    assert_eq!(openai["error"]["type"], "insufficient_quota");
    for request in [
        bench.assess("hello", speech_wav()),
        bench.analyze(png(99, 99, "")),
    ] {
        assert!(body(request, 403).await.contains("Out of call volume quota"));
    }
}

#[tokio::test]
async fn a_delay_is_waited_out_and_then_answered() {
    let bench = Bench::new().await;
    bench.script(Provider::OpenAi, Fault::Delay { ms: 150 });
    let started = Instant::now();
    send(bench.chat(&prompt("hello")), 200).await;
    assert!(started.elapsed() >= Duration::from_millis(150));
}

async fn assert_reset(request: RequestBuilder) {
    let error = request.send().await.unwrap_err();
    let mut cause = error.source();
    let io = loop {
        let error = cause.expect("an I/O error underneath");
        match error.downcast_ref::<std::io::Error>() {
            Some(io) => break io,
            None => cause = error.source(),
        }
    };
    assert_eq!(io.kind(), std::io::ErrorKind::ConnectionReset, "{error:?}");
}

#[tokio::test]
async fn a_reset_is_a_real_one() {
    let bench = Bench::new().await;
    bench.script(Provider::OpenAi, Fault::Reset);
    assert_reset(bench.chat(&prompt("hello"))).await;
    let counts = bench.sim.journal().counts(Provider::OpenAi);
    assert_eq!(
        (counts.unanswered, counts.current, counts.faults["reset"]),
        (1, 0, 1)
    );
    send(bench.chat(&prompt("hello")), 200).await;
}

#[tokio::test]
async fn a_cut_body_has_its_headers_and_half_its_length() {
    let bench = Bench::new().await;
    bench.script(Provider::OpenAi, Fault::CutBody);
    let mut response = bench.chat(&prompt("hello")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let promised = usize::try_from(response.content_length().unwrap()).unwrap();
    let mut received = 0;
    let cut = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => received += chunk.len(),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(cut, "the body must not end well");
    assert_eq!(received, promised / 2);
}

#[tokio::test]
async fn an_answer_without_a_body_is_cut_as_a_whole() {
    let bench = Bench::new().await;
    bench.script(Provider::AzureVision, Fault::CutBody);
    assert_reset(bench.vision("/vision/v3.2/read/analyze", png(99, 99, ""))).await;
    let counts = bench.sim.journal().counts(Provider::AzureVision);
    assert_eq!((counts.unanswered, counts.faults["cut_body"]), (1, 1));
}

#[tokio::test]
async fn bodies_that_are_not_json() {
    let bench = Bench::new().await;
    for provider in Provider::ALL {
        bench
            .sim
            .faults()
            .script(provider, [Fault::Garbage, Fault::Html502, Fault::Empty500])
            .unwrap();
    }
    let chat = prompt("hello");
    let requests = || {
        [
            bench.chat(&chat),
            bench.assess("hello", speech_wav()),
            bench.analyze(png(99, 99, "")),
        ]
    };
    for request in requests() {
        assert!(serde_json::from_str::<Value>(&body(request, 200).await).is_err());
    }
    for request in requests() {
        assert!(body(request, 502).await.starts_with("<html>"));
    }
    for request in requests() {
        assert_eq!(body(request, 500).await, "");
    }
}

#[tokio::test]
async fn openai_may_refuse_withhold_or_stop_short() {
    let bench = Bench::new().await;
    let openai = [
        Fault::Refusal,
        Fault::ContentFilter,
        Fault::Length,
        Fault::NoUsage,
    ];
    bench.sim.faults().script(Provider::OpenAi, openai).unwrap();
    let refused = send(bench.chat(&prompt("hello")), 200).await;
    assert!(refused["choices"][0]["message"]["refusal"].is_string());
    assert!(refused["choices"][0]["message"]["content"].is_null());
    let withheld = send(bench.chat(&prompt("hello")), 200).await;
    assert_eq!(withheld["choices"][0]["finish_reason"], "content_filter");
    let short = send(bench.chat(&prompt("hello")), 200).await;
    assert_eq!(short["choices"][0]["finish_reason"], "length");
    let whole = send(bench.chat(&prompt("hello")), 200).await;
    assert!(whole.get("usage").is_none());
    let text = |answer: &Value| {
        answer["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(text(&whole).starts_with(&text(&short)) && text(&whole) != text(&short));
}

#[tokio::test]
async fn speech_may_recognise_nothing() {
    let bench = Bench::new().await;
    for name in ["NoMatch", "InitialSilenceTimeout", "BabbleTimeout", "Error"] {
        let fault = json!({"kind": "speech", "status": name});
        bench.script(Provider::AzureSpeech, serde_json::from_value(fault).unwrap());
        let answer = send(bench.assess("hello", speech_wav()), 200).await;
        assert_eq!(answer["RecognitionStatus"], name);
    }
}

#[tokio::test]
async fn a_match_falls_on_its_job_alone_and_comes_before_the_script() {
    let bench = Bench::new().await;
    let faults = bench.sim.faults();
    faults
        .on_match(Provider::OpenAi, "job-7 ", status(503), Some(2))
        .unwrap();
    faults
        .on_match(Provider::AzureSpeech, "job-8", status(503), Some(1))
        .unwrap();
    faults
        .on_match(Provider::AzureVision, "job-9", status(503), None)
        .unwrap();
    bench.script(Provider::OpenAi, status(500));
    for (text, code) in [
        ("job-7 x", 503),
        ("job-1 x", 500),
        ("job-7 x", 503),
        ("job-7 x", 200),
    ] {
        send(bench.chat(&prompt(text)), code).await;
    }
    send(bench.assess("job-1", speech_wav()), 200).await;
    send(bench.assess("job-8", speech_wav()), 503).await;
    send(bench.assess("job-8", speech_wav()), 200).await;
    for _ in 0..3 {
        send(bench.analyze(png(99, 99, "job-9")), 503).await;
    }
    send(bench.analyze(png(99, 99, "job-1")), 200).await;
    assert_eq!(Provider::ALL.map(|provider| faults.pending(provider)), [0, 0, 1]);
    faults.clear();
    send(bench.analyze(png(99, 99, "job-9")), 200).await;
}

#[tokio::test]
async fn chance_is_the_same_for_the_same_seed() {
    let drawn = |seed| async move {
        let bench = Bench::with(SimulatorOptions {
            seed,
            random_faults: 0.5,
            ..SimulatorOptions::default()
        })
        .await;
        for _ in 0..40 {
            // Failures are what this is about.
            let _ = bench.chat(&prompt("hello")).send().await;
        }
        bench
            .sim
            .journal()
            .of(Provider::OpenAi)
            .into_iter()
            .map(|e| (e.fault, e.status))
            .collect::<Vec<_>>()
    };
    let first = drawn(7).await;
    let failed = first.iter().filter(|(fault, _)| fault.is_some()).count();
    assert!((5..=35).contains(&failed), "{failed} of 40");
    assert_eq!(first, drawn(7).await);
    assert_ne!(first, drawn(8).await);
}

#[tokio::test]
async fn misfits_are_refused() {
    let bench = Bench::new().await;
    let refused = |provider, fault: &str| {
        let fault: Fault = serde_json::from_str(fault).unwrap();
        bench
            .sim
            .faults()
            .script(provider, [Fault::Quota, fault])
            .is_err()
    };
    assert!(refused(Provider::AzureSpeech, r#"{"kind":"refusal"}"#));
    assert!(refused(
        Provider::AzureVision,
        r#"{"kind":"speech","status":"NoMatch"}"#
    ));
    assert!(refused(Provider::OpenAi, r#"{"kind":"operation_failed"}"#));
    assert!(refused(Provider::AzureSpeech, r#"{"kind":"operation_unknown"}"#));
    assert!(refused(Provider::OpenAi, r#"{"kind":"status","status":100}"#));
    assert!(refused(
        Provider::OpenAi,
        r#"{"kind":"rate_limit","retry_after":-1}"#
    ));
    assert_eq!(
        bench.sim.faults().pending(Provider::AzureSpeech),
        0,
        "all or nothing"
    );
    let many = std::iter::repeat_n(Fault::Quota, crate::MAX_PENDING + 1);
    assert!(bench.sim.faults().script(Provider::OpenAi, many).is_err());
    assert!(bench.sim.faults().set_random_share(f64::NAN).is_err());
}

#[test]
fn every_kind_reads_as_it_is_named() {
    let faults = [
        status(500),
        Fault::RateLimit {
            retry_after: Some(0.5),
        },
        Fault::Quota,
        Fault::Delay { ms: 5 },
        Fault::Reset,
        Fault::CutBody,
        Fault::Garbage,
        Fault::Html502,
        Fault::Empty500,
        Fault::Refusal,
        Fault::ContentFilter,
        Fault::Length,
        Fault::NoUsage,
        Fault::Speech {
            status: crate::RecognitionFault::NoMatch,
        },
        Fault::OperationFailed { code: None },
        Fault::OperationFailed {
            code: Some("Timeout".to_owned()),
        },
        Fault::OperationUnknown,
    ];
    for fault in faults {
        let text = json!(fault);
        assert_eq!(text["kind"], fault.kind());
        assert_eq!(serde_json::from_value::<Fault>(text).unwrap(), fault);
    }
    assert!(serde_json::from_str::<Fault>(r#"{"kind":"status","status":500,"retry_afer":1}"#).is_err());
}
