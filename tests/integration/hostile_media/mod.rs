//! Recordings that were made to harm the worker: each fails its own job at most, and nothing else.

mod files;

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use backend_worker::{
    media_helper::{HelperLimits, HelperPool, HelperProgram},
    queue::{Broker, JobState, Layout},
    simulator::Provider,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use jobs::{
    JobType,
    media::decoder::{DecodeError, MediaDecoder},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::support::{self, Scene, ended, eventually};

const LIMIT: Duration = Duration::from_secs(30);

/// What becomes of a recording.
enum Wanted {
    /// It is one like any other.
    Scored,
    /// It fails, for a reason that holds this.
    Refused(&'static str),
}
use Wanted::{Refused, Scored};

/// Each kind of hostile recording, and what becomes of it.
fn hostile() -> Vec<(&'static str, Vec<u8>, Wanted)> {
    let claims = Refused("a packet claims more than 65,536 frames");
    vec![
        ("lpcm-most", files::lpcm(u32::MAX, 8), claims),
        ("lpcm-many", files::lpcm(100_000_000, 1), Refused("65,536 frames")),
        ("lpcm-channels", files::lpcm(1, 32), Refused("channels")),
        ("chapters", files::nested_chapters(1_900), Scored),
        ("chapters-deeper", files::nested_chapters(5_000), Scored),
        ("contents", files::chained_contents(3_000), Scored),
        (
            "tracks",
            files::same_track(1_000, 1_000_000),
            Refused("more than 8 tracks"),
        ),
        (
            "twins",
            files::same_track(2, 1_000),
            Refused("several tracks have the same number"),
        ),
        (
            "fat-packet",
            files::same_track(1, 1_000_000),
            Refused("Opus packets are larger"),
        ),
        (
            "flac",
            files::flac(500),
            Refused("more than 64 packets cannot be decoded"),
        ),
    ]
}

/// Those that fail, for other tests: name, bytes, and what the reason holds.
pub(crate) fn refused() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let wanted = hostile().into_iter();
    wanted
        .filter_map(|(name, bytes, wanted)| match wanted {
            Refused(why) => Some((name, bytes, why)),
            Scored => None,
        })
        .collect()
}

fn helpers(limits: HelperLimits) -> Arc<HelperPool> {
    HelperPool::new(HelperProgram::at(env!("CARGO_BIN_EXE_backend-worker")), limits)
}

fn usual() -> HelperLimits {
    HelperLimits::for_recordings_of(20 * 1024 * 1024)
}

fn sample(name: &str) -> Bytes {
    std::fs::read(format!("{}/samples/{name}", env!("CARGO_MANIFEST_DIR")))
        .unwrap()
        .into()
}

fn is_alive(pid: u32) -> bool {
    kill(Pid::from_raw(pid.cast_signed()), None).is_ok()
}

async fn add(broker: &dyn Broker, id: &str, audio: Value) {
    let mut payload = json!({"referenceText": "Good morning"});
    payload
        .as_object_mut()
        .unwrap()
        .extend(audio.as_object().unwrap().clone());
    support::add(broker, id, JobType::AssessPronunciation, &payload.to_string(), 1).await;
}

/// Every hostile recording, by each way that a recording can come, between good ones. The worker lives, and what is
/// sent to the provider stays small.
#[tokio::test]
async fn a_hostile_recording_fails_its_own_job() {
    let scene = Scene::set(Duration::ZERO).await;
    let folder = std::env::temp_dir().join(format!("hostile-media-{}", scene.redis.server.port()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut routes = Router::new();
    for (name, bytes, _) in hostile() {
        std::fs::write(folder.join(name), &bytes).unwrap();
        let bytes = Bytes::from(bytes);
        routes = routes.route(&format!("/{name}"), get(move || async move { bytes }));
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });

    let mut worker = scene
        .worker(&[
            ("UPLOADS_DIR", folder.to_str().unwrap()),
            ("MEDIA_ALLOWED_HOSTS", host.as_str()),
            ("QUEUES", "apalis:audio-jobs=4"),
        ])
        .await;
    let broker = scene.redis.broker(Layout::Apalis, "audio-jobs", "onlooker");
    let good = BASE64_STANDARD.encode(sample("good_morning.wav"));
    for (name, bytes, _) in hostile() {
        let base64 = BASE64_STANDARD.encode(bytes);
        add(
            &*broker,
            &format!("{name}-base64"),
            json!({"audioBase64": base64}),
        )
        .await;
        let url = format!("http://{host}/{name}");
        add(&*broker, &format!("{name}-url"), json!({"audioUrl": url})).await;
        add(&*broker, &format!("{name}-path"), json!({"audioFilePath": name})).await;
        add(&*broker, &format!("{name}-good"), json!({"audioBase64": good})).await;
    }
    for (name, _, wanted) in hostile() {
        for way in ["base64", "url", "path"] {
            let job = ended(&*broker, &format!("{name}-{way}")).await;
            match wanted {
                Scored => assert_eq!(job.state, JobState::Completed, "{name} {way}: {:?}", job.error),
                Refused(why) => {
                    let error = job.error.unwrap_or_default();
                    assert!(error.contains(why), "{name} {way}: {error}");
                }
            }
        }
        let good = ended(&*broker, &format!("{name}-good")).await;
        assert_eq!(good.state, JobState::Completed, "beside {name}: {:?}", good.error);
    }
    // Four good ones or harmless ones of each kind, each paid for once: no job was run again because of another.
    let sent = scene.simulator.journal().of(Provider::AzureSpeech);
    let scored = hostile()
        .into_iter()
        .map(|(_, _, wanted)| if matches!(wanted, Scored) { 4 } else { 1 });
    assert_eq!(sent.len(), scored.sum::<usize>());
    for request in sent {
        assert!(
            request.body_bytes < 1_000_000,
            "{} bytes were sent",
            request.body_bytes
        );
    }
    assert!(!worker.has_ended());
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.0, Some(0));
    server.abort();
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_recording_that_takes_too_much_cpu_time_costs_its_helper_alone() {
    let pool = helpers(HelperLimits {
        cpu_seconds: 1,
        ..usual()
    });
    let slow = Bytes::from(files::slow_times(2_000_000, 12_000));
    let why = pool.decode(slow, LIMIT).await.unwrap_err();
    assert!(
        matches!(&why, DecodeError::Medium(why) if why.contains("more than 1 s of CPU time")),
        "{why:?}"
    );
    pool.decode(sample("good_morning.mp3"), LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_recording_that_takes_too_much_memory_costs_its_helper_alone() {
    let pool = helpers(HelperLimits {
        memory: 12 * 1024 * 1024,
        ..usual()
    });
    let large = Bytes::from(vec![0x20; 40 * 1024 * 1024]);
    let why = pool.decode(large, LIMIT).await.unwrap_err();
    assert!(
        matches!(&why, DecodeError::Medium(why) if why.contains("more than 12 MB of memory")),
        "{why:?}"
    );
    pool.decode(sample("good_morning_opus.mp4"), LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_helper_that_was_killed_is_replaced_and_its_job_may_run_again() {
    let pool = helpers(usual());
    pool.decode(sample("good_morning.mp3"), LIMIT).await.unwrap();
    let [idle] = pool.waiting()[..] else {
        panic!("one helper waits")
    };
    kill(Pid::from_raw(idle.cast_signed()), Signal::SIGKILL).unwrap();
    // Killed while it waits, it costs no recording; the death may be seen before or after the next one is sent.
    eventually("a recording is decoded", async || {
        match pool.decode(sample("good_morning.mp3"), LIMIT).await {
            Ok(_) => Some(()),
            Err(DecodeError::Interrupted(_)) => None,
            Err(other) => panic!("{other:?}"),
        }
    })
    .await;
    assert_ne!(pool.waiting(), [idle]);
}

#[tokio::test]
async fn who_stops_waiting_kills_the_helper() {
    let pool = helpers(usual());
    pool.probe().await.unwrap();
    let [helper] = pool.waiting()[..] else {
        panic!("one helper waits")
    };
    let slow = Bytes::from(files::slow_times(2_000_000, 12_000));
    let decoding = tokio::spawn({
        let pool = pool.clone();
        async move { pool.decode(slow, LIMIT).await.map(drop) }
    });
    eventually("the helper is at work", async || {
        pool.waiting().is_empty().then_some(())
    })
    .await;
    assert!(is_alive(helper));
    decoding.abort();
    eventually("the helper is gone", async || (!is_alive(helper)).then_some(())).await;
}

#[tokio::test]
async fn a_helper_holds_no_secret_and_no_file_of_the_worker() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene
        .worker(&[
            ("ADMIN_TOKEN", "a-secret-of-the-worker"),
            ("QUEUES", "apalis:audio-jobs"),
        ])
        .await;
    let broker = scene.redis.broker(Layout::Apalis, "audio-jobs", "onlooker");
    let good = BASE64_STANDARD.encode(sample("good_morning.wav"));
    add(&*broker, "1", json!({"audioBase64": good})).await;
    assert_eq!(ended(&*broker, "1").await.state, JobState::Completed);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", worker.pid())).unwrap();
    let helper: u32 = children.trim().parse().expect("one helper");
    let of = |name: &str| std::fs::read(format!("/proc/{helper}/{name}")).unwrap();
    let environment = String::from_utf8(of("environ")).unwrap();
    let variables: Vec<&str> = environment.split_terminator('\0').collect();
    assert_eq!(variables, ["MIMALLOC_ARENA_RESERVE=0", "MIMALLOC_PURGE_DELAY=-1"]);
    let status = String::from_utf8(of("status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let limits = String::from_utf8(of("limits")).unwrap();
    let limit = |name: &str| {
        limits
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .to_owned()
    };
    for bounded in [
        "Max address space",
        "Max cpu time",
        "Max core file size",
        "Max file size",
    ] {
        assert!(!limit(bounded).contains("unlimited"), "{}", limit(bounded));
    }
    for file in std::fs::read_dir(format!("/proc/{helper}/fd")).unwrap() {
        let open = std::fs::read_link(file.unwrap().path()).unwrap();
        assert!(!open.to_string_lossy().starts_with("socket:"), "{open:?}");
    }
    worker.signal(Signal::SIGKILL);
    eventually("the helper ends with its worker", async || {
        (!is_alive(helper)).then_some(())
    })
    .await;
}

/// Recordings with damaged containers: documents made out of the seeds of the fuzz target.
fn containers() -> impl Iterator<Item = Vec<u8>> {
    hostile::stream(seeds())
}

/// Recordings whose containers are whole and whose packets are not: bytes behind the head of a seed are replaced.
fn codecs() -> impl Iterator<Item = Vec<u8>> {
    let (seeds, mut rng) = (seeds(), StdRng::seed_from_u64(16));
    std::iter::repeat_with(move || {
        let mut input = seeds[rng.random_range(0..seeds.len())].clone();
        let head = match input
            .windows(4)
            .position(|name| name == b"mdat" || name == b"data")
        {
            Some(at) => at + 8,
            None => 128,
        };
        let packets = head.min(input.len() - 1)..input.len();
        for _ in 0..rng.random_range(1..=32) {
            input[rng.random_range(packets.clone())] = rng.random();
        }
        input
    })
}

fn seeds() -> Vec<Vec<u8>> {
    let seeds = hostile::seeds("audio").into_iter();
    seeds.map(|(_, seed)| seed).collect()
}

/// Feeds helpers so many inputs: each is audio or a reason, and a helper that dies of one is replaced.
async fn feed(what: &str, inputs: impl Iterator<Item = Vec<u8>>, count: usize) {
    let pool = helpers(usual());
    let (mut audio, mut refused) = (0, 0);
    for input in inputs.take(count) {
        let input = Bytes::from(input);
        match pool.decode(input.clone(), LIMIT).await {
            Ok(decoded) => {
                assert!(decoded.duration <= LIMIT && decoded.bytes.len() < 2_100_000);
                audio += 1;
            }
            Err(DecodeError::Medium(_)) => refused += 1,
            Err(other) => panic!("{other:?}: {}", input.escape_ascii()),
        }
    }
    println!("{count} inputs, {what}: {audio} are audio, {refused} are refused");
    assert!(audio > 0 && refused > 0);
}

#[tokio::test]
async fn no_input_gets_past_the_helpers() {
    feed("damaged containers", containers(), 2_000).await;
    feed("damaged packets", codecs(), 1_000).await;
}

/// `cargo nextest run --release --run-ignored only -E 'test(a_million)'`
#[tokio::test]
#[ignore = "takes minutes of a release build"]
async fn a_million_damaged_containers_do_not_get_past_the_helpers() {
    feed("damaged containers", containers(), 1_000_000).await;
}

#[tokio::test]
#[ignore = "takes minutes of a release build"]
async fn a_million_damaged_packets_do_not_get_past_the_helpers() {
    feed("damaged packets", codecs(), 1_000_000).await;
}

/// A PNG header that announces this size, in front of pixels that are not there.
fn announced_png(width: u32, height: u32) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length, &kind[..], content, &[0; 4]].concat()
    };
    let size = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &size),
        chunk(b"IDAT", b"x"),
        chunk(b"IEND", b""),
    ]
    .concat()
}

/// Images that a helper turns or scales, and those that it refuses: it lives, and its answer is an image that fits.
#[tokio::test]
async fn images_are_changed_by_a_helper_of_their_own() {
    use jobs::{VisionApi, media::image};

    let pool = helpers(usual());
    let plan = |longest, orientation| image::ImagePlan { longest, orientation };
    let text = sample("text.png");
    for (plan, size) in [
        (plan(10_000, 6), (240, 800)),
        (plan(400, 1), (400, 120)),
        (plan(400, 8), (120, 400)),
    ] {
        let changed = pool.reshape(text.clone(), plan).await.unwrap();
        let info = image::check("f", &changed, VisionApi::Read32).unwrap();
        assert_eq!((info.format, (info.width, info.height)), ("JPEG", size));
    }
    let helper = pool.waiting();
    assert_eq!(helper.len(), 1, "one helper has changed all of them");
    let bombs: [(Vec<u8>, &str); 4] = [
        (announced_png(60_000, 60_000), "image is damaged"),
        (announced_png(4_000, 4_000), "image is damaged"),
        (b"\x89PNG\r\n\x1a\n".to_vec(), "image is damaged"),
        (b"RIFF\0\0\0\0WEBPVP8 ".to_vec(), "image is damaged"),
    ];
    for (file, why) in bombs {
        match pool.reshape(file.into(), plan(10_000, 1)).await {
            Err(DecodeError::Medium(reason)) => assert!(reason.starts_with(why), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pool.waiting(), helper, "no image has ended it");
    // A recording goes to a helper with less memory.
    pool.decode(sample("good_morning.wav"), LIMIT).await.unwrap();
    assert_eq!(pool.waiting().len(), 2);
}

/// Media that loop leave their places after a first try, and go on one after the other: those behind them wait for a
/// first try at most.
#[tokio::test]
async fn slow_media_delay_one_another_and_no_other() {
    let pool = helpers(HelperLimits {
        cpu_seconds: 4,
        ..usual()
    });
    let places = std::thread::available_parallelism().unwrap().get().max(2);
    let slow = Bytes::from(files::slow_times(2_000_000, 12_000));
    let started = Arc::new(tokio::sync::Semaphore::new(0));
    let slow: Vec<_> = (0..2 * places)
        .map(|_| {
            let (pool, slow, started) = (pool.clone(), slow.clone(), started.clone());
            tokio::spawn(async move {
                started.add_permits(1);
                pool.decode(slow, LIMIT).await
            })
        })
        .collect();
    // All of them stand in line before the good one does.
    let _all = started
        .acquire_many(u32::try_from(slow.len()).unwrap())
        .await
        .unwrap();
    pool.decode(sample("good_morning.mp3"), LIMIT).await.unwrap();
    let ended = slow.iter().filter(|slow| slow.is_finished()).count();
    assert!(
        ended <= places,
        "{ended} of {} slow recordings ended first",
        slow.len()
    );
    for (number, slow) in slow.into_iter().enumerate() {
        if number > 0 {
            slow.abort();
            continue;
        }
        let why = slow.await.unwrap().unwrap_err();
        assert!(
            matches!(&why, DecodeError::Medium(why) if why.contains("more than 4 s of CPU time")),
            "{why:?}"
        );
    }
}

/// Several images are changed at a time, by helpers that do not keep their memory.
#[tokio::test]
async fn images_are_changed_side_by_side() {
    use jobs::media::image::ImagePlan;

    let pool = helpers(usual());
    let plan = ImagePlan {
        longest: 400,
        orientation: 6,
    };
    let text = sample("text.png");
    let changed = futures_util::future::join_all((0..8).map(|_| pool.reshape(text.clone(), plan))).await;
    let first = changed[0].as_ref().unwrap();
    assert!(changed.iter().all(|image| image.as_ref().unwrap() == first));
    let cores = std::thread::available_parallelism().unwrap().get();
    let waiting = pool.waiting();
    assert!((1..=cores.clamp(1, 4)).contains(&waiting.len()), "{waiting:?}");
    assert!(cores < 2 || waiting.len() > 1, "{waiting:?}");
    for helper in waiting {
        let environment = std::fs::read_to_string(format!("/proc/{helper}/environ")).unwrap();
        assert_eq!(environment, "MIMALLOC_ARENA_RESERVE=0\0");
    }
}
