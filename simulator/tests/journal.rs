//! What the journal proves: order, concurrency, rate.

use std::time::Duration;

use super::*;
use crate::journal::widest;

#[tokio::test]
async fn a_request_is_noted_without_its_key() {
    let bench = Bench::new().await;
    send(bench.chat(&prompt("for job-abc_1.")), 200).await;
    send(bench.chat(&prompt("nobody's")), 200).await;
    let entries = bench.sim.journal().entries(0, 10);
    let first = &entries[0];
    assert_eq!(
        (first.seq, first.provider, first.status),
        (0, Provider::OpenAi, Some(200))
    );
    assert_eq!(
        (first.method.as_str(), first.path.as_str()),
        ("POST", "/v1/chat/completions")
    );
    assert_eq!(first.marker, "job-abc_1");
    assert_eq!(first.body_hash.len(), 16);
    assert_eq!(first.headers["content-type"], "application/json");
    assert!(first.took_ms.is_some());
    assert!(!json!(entries).to_string().contains("sim-openai-key"));
    assert_eq!(entries[1].marker, entries[1].body_hash);
    assert!(entries[1].at_ms >= first.at_ms);
    assert_eq!(bench.sim.journal().entries(1, 10), entries[1..]);
    assert_eq!(bench.sim.journal().entries(0, 1), entries[..1]);
    assert!(bench.sim.journal().entries(9, 10).is_empty());
}

#[tokio::test]
async fn markers_are_found_in_speech_and_images() {
    let bench = Bench::new().await;
    send(bench.assess("say job-s1 now", speech_wav()), 200).await;
    send(bench.analyze(png(99, 99, "job- job-v1")), 200).await;
    let markers: Vec<String> = bench
        .sim
        .journal()
        .entries(0, 9)
        .into_iter()
        .map(|entry| entry.marker)
        .collect();
    assert_eq!(markers, ["job-s1", "job-v1"]);
}

#[tokio::test]
async fn concurrency_is_counted_for_each_provider() {
    let bench = Bench::new().await;
    let hold = Fault::Delay { ms: 60_000 };
    bench
        .sim
        .faults()
        .on_match(Provider::OpenAi, "", hold.clone(), None)
        .unwrap();
    bench
        .sim
        .faults()
        .on_match(Provider::AzureVision, "", hold, None)
        .unwrap();
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..4 {
        held.spawn(bench.chat(&prompt("hello")).send());
    }
    held.spawn(bench.analyze(png(99, 99, "")).send());
    let current = |journal: &crate::RequestJournal| Provider::ALL.map(|p| journal.counts(p).current);
    let reach = |wanted: [u64; 3]| {
        bench
            .sim
            .journal()
            .wait_until(move |journal| current(journal) == wanted)
    };
    tokio::time::timeout(Duration::from_secs(10), reach([4, 0, 1]))
        .await
        .unwrap();
    // The clients leave: the simulator must notice, and remember how many there were.
    held.shutdown().await;
    tokio::time::timeout(Duration::from_secs(10), reach([0, 0, 0]))
        .await
        .unwrap();
    let counts = bench.sim.journal().counts(Provider::OpenAi);
    assert_eq!(
        (
            counts.requests,
            counts.peak,
            counts.unanswered,
            counts.max_per_minute
        ),
        (4, 4, 4, 4)
    );
    assert!(
        bench
            .sim
            .journal()
            .of(Provider::OpenAi)
            .iter()
            .all(|entry| entry.status.is_none())
    );
}

#[test]
fn the_widest_window_does_not_include_its_end() {
    let minute = Duration::from_secs(60);
    let table: [(&[f64], usize); 6] = [
        (&[], 0),
        (&[5.0], 1),
        (&[0.0, 60_000.0], 1),
        (&[0.0, 59_999.9], 2),
        (&[0.0, 30_000.0, 59_000.0, 61_000.0, 200_000.0], 3),
        (&[0.0, 70_000.0, 70_000.0, 70_001.0, 130_000.5], 3),
    ];
    for (times, most) in table {
        assert_eq!(widest(times.iter().copied(), minute), most, "{times:?}");
    }
}

#[tokio::test]
async fn a_window_counts_one_provider() {
    let bench = Bench::new().await;
    for _ in 0..3 {
        send(bench.chat(&prompt("hello")), 200).await;
    }
    send(bench.analyze(png(99, 99, "")), 200).await;
    let journal = bench.sim.journal();
    assert_eq!(
        journal.peak_in_window(Provider::OpenAi, Duration::from_secs(60)),
        3
    );
    assert_eq!(
        journal.peak_in_window(Provider::AzureVision, Duration::from_secs(60)),
        1
    );
    assert_eq!(
        journal.peak_in_window(Provider::AzureSpeech, Duration::from_secs(60)),
        0
    );
    assert_eq!(
        journal.peak_in_window(Provider::OpenAi, Duration::from_micros(1)),
        1
    );
}
