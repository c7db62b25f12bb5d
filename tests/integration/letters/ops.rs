//! Dead letters in an operator's hands: the binary's commands, and the routes of a running worker.

use std::time::Duration;

use backend_worker::queue::{Broker, ClaimNumber, Layout};
use serde_json::{Value, json};

use crate::support::{Scene, TestRedis, enqueue, eventually};

/// Fails the job `id` of a queue.
async fn bury(broker: &dyn Broker, ids: &[&str]) {
    broker.renew(&[]).await.unwrap();
    for id in ids {
        enqueue(broker, id).await;
    }
    for delivery in broker.claim(ClaimNumber::FIRST, ids.len()).await.unwrap() {
        broker
            .fail(&delivery.lease, "no \u{1b}[31mgood", None)
            .await
            .unwrap();
    }
    broker.remove_replica().await.unwrap();
}

/// Writes `count` dead letters into `ai-jobs`, as they stand after a failure; every tenth is of another type.
async fn seed(redis: &TestRedis, layout: Layout, count: usize) {
    let script = match layout {
        Layout::Bullmq => {
            r#"local now = redis.call('TIME')[1] * 1000
            for i = 1, tonumber(ARGV[1]) do
              local name = i % 10 == 0 and 'process-image' or 'generate-flashcards'
              redis.call('HSET', 'bull:ai-jobs:' .. i, 'name', name, 'data', '{}', 'opts', '{"attempts":3}', 'timestamp', now,
                'atm', 3, 'ats', 3, 'failedReason', 'no', 'stacktrace', '["Error: no"]', 'finishedOn', now)
              redis.call('ZADD', 'bull:ai-jobs:failed', now + math.floor(i / 50), i)
            end"#
        }
        Layout::Apalis => {
            r#"local now = redis.call('TIME')[1] * 1000
            for i = 1, tonumber(ARGV[1]) do
              local name = i % 10 == 0 and 'process-image' or 'generate-flashcards'
              redis.call('HSET', 'ai-jobs:data', i, '{"type":"' .. name .. '","data":{}}')
              redis.call('HSET', 'ai-jobs:meta:' .. i, 'status', 'Failed', 'attempts', 3, 'max_attempts', 3, 'error', 'no')
              redis.call('SADD', 'ai-jobs:dead', i)
              redis.call('ZADD', 'ai-jobs:ended:dead', now + math.floor(i / 50), i)
            end"#
        }
    };
    redis.ask::<()>(&["EVAL", script, "0", &count.to_string()]).await;
}

/// Runs a command: exit code, standard output, standard error.
async fn run(scene: &Scene, arguments: &[&str]) -> (i32, String, String) {
    let output = scene.command(arguments).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn jobs_are_listed_retried_and_removed_from_a_shell() {
    let scene = Scene::set(Duration::ZERO).await;
    let bullmq = scene.redis.bullmq("ai-jobs", "seed");
    let apalis = scene.redis.apalis("audio-jobs", "seed");
    bury(&*bullmq, &["b1", "b2", "both"]).await;
    bury(&*apalis, &["a:1", "both"]).await;

    let (code, out, _) = run(&scene, &["job", "list", "--state", "failed", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, listed["jobs"].as_array().unwrap().len()), (0, 5), "{out}");
    assert_eq!(listed["more"], json!(false));
    let job = listed["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .find(|j| j["id"] == "b1")
        .unwrap();
    assert_eq!(
        (&job["queue"], &job["layout"], &job["type"]),
        (&json!("ai-jobs"), &json!("bullmq"), &json!("generate-flashcards"))
    );
    let (code, out, told) = run(&scene, &["job", "list", "--limit", "1", "--queue", "ai-jobs"]).await;
    assert_eq!(code, 0);
    assert!(
        !out.contains('\u{1b}') && told.contains("there are more"),
        "{out}{told}"
    );

    let (code, out, _) = run(&scene, &["job", "retry", "b1"]).await;
    assert_eq!((code, out.trim()), (0, "bullmq:ai-jobs job b1 waits again"));
    let (code, _, told) = run(&scene, &["job", "retry", "b1"]).await;
    assert_eq!(code, 1);
    assert!(told.contains("job b1 is waiting, not failed"), "{told}");
    let (code, _, told) = run(&scene, &["job", "retry", "both"]).await;
    assert_eq!(code, 1);
    assert!(told.contains("bullmq:ai-jobs, apalis:audio-jobs"), "{told}");
    let (code, ..) = run(&scene, &["job", "retry", "both", "--queue", "apalis:audio-jobs"]).await;
    assert_eq!(code, 0);
    let (code, _, told) = run(&scene, &["job", "remove", "nobody"]).await;
    assert_eq!(code, 1);
    assert!(told.contains("no queue knows job nobody"), "{told}");
    let (code, ..) = run(&scene, &["job", "remove", "both", "--queue", "bullmq:ai-jobs"]).await;
    assert_eq!(code, 0);
    let (_, out, _) = run(&scene, &["job", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).unwrap();
    let mut left: Vec<_> = listed["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|j| j["id"].clone())
        .collect();
    left.sort_by_key(|id| id.to_string());
    assert_eq!(left, ["a:1", "b2"]);

    let (code, out, _) = run(&scene, &["queue", "stats"]).await;
    assert_eq!(code, 0);
    assert!(out.contains("oldest failed"), "{out}");
}

#[tokio::test]
async fn wrong_arguments_exit_with_2() {
    let scene = Scene::set(Duration::ZERO).await;
    for arguments in [
        &["job", "retry"][..],
        &["job", "retry", "1", "--all"],
        &["job", "retry", "1", "--since", "1h"],
        &["job", "retry", "1", "--type", "x"],
        &["job", "retry", "--all", "--since", "soon"],
        &["job", "list", "--state", "lost"],
        &["job", "list", "--limit", "0"],
        &["job", "list", "--state", "waiting", "--since", "1h"],
        &["job", "remove"],
    ] {
        let (code, _, told) = run(&scene, arguments).await;
        assert_eq!(code, 2, "{arguments:?}: {told}");
    }
    let (code, _, told) = run(&scene, &["job", "list", "--queue", "nowhere"]).await;
    assert_eq!(code, 1);
    assert!(told.contains("QUEUES names no queue \"nowhere\""), "{told}");
}

#[tokio::test]
async fn ten_thousand_dead_letters_are_retried_in_chunks() {
    for layout in Layout::ALL {
        let scene = Scene::set(Duration::ZERO).await;
        seed(&scene.redis, layout, 10_000).await;
        // Ids without a job are counted, and do not block other jobs.
        let (dead, taken) = match layout {
            Layout::Bullmq => ("bull:ai-jobs:failed", "bull:ai-jobs:7"),
            Layout::Apalis => ("ai-jobs:ended:dead", "ai-jobs:meta:7"),
        };
        scene.redis.ask::<i64>(&["ZADD", dead, "17", "ghost"]).await;
        scene.redis.ask::<i64>(&["DEL", taken]).await;
        if layout == Layout::Apalis {
            scene.redis.ask::<i64>(&["HDEL", "ai-jobs:data", "7"]).await;
        }
        let (code, out, _) = run(&scene, &["job", "retry", "--all", "--type", "process-image"]).await;
        assert_eq!((code, out.trim()), (0, "1000 retried"), "{layout}");

        scene.redis.ask::<()>(&["CONFIG", "RESETSTAT"]).await;
        let arguments = ["job", "retry", "--all", "--queue", "ai-jobs", "--since", "1h"];
        let (code, out, told) = run(&scene, &arguments).await;
        assert_eq!(code, 0, "{told}");
        assert_eq!(
            out.trim(),
            "8999 retried, 1 cannot be retried: their data is gone, or their keys are not what they should be",
            "{layout}"
        );
        let calls = scene.redis.scripts().await;
        assert!(calls >= 2 * 8999 / 200, "{calls} scripts");
        let broker = scene.redis.broker(layout, "ai-jobs", "w");
        let counts = broker.counts().await.unwrap();
        assert_eq!(counts.waiting, 9999, "{layout}");
    }
}

/// A request with a token or without: status and body.
async fn ask(method: reqwest::Method, url: String, token: Option<&str>) -> (u16, Value) {
    let mut request = reqwest::Client::new().request(method, url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

#[tokio::test]
async fn the_routes_do_the_same_behind_the_token() {
    use reqwest::Method;
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene
        .worker(&[
            ("ADMIN_TOKEN", "adm1n-t0ken-of-tests"),
            ("READ_TOKEN", "r3ad-t0ken-of-tests"),
            ("QUEUES", "bullmq:ai-jobs=1,apalis:ai-jobs=1"),
        ])
        .await;
    let url = |path: &str| format!("http://localhost:{}{path}", worker.port);
    let brokers = [
        scene.redis.bullmq("ai-jobs", "seed"),
        scene.redis.apalis("ai-jobs", "seed"),
    ];
    // Jobs with an unusable payload fail at once.
    for (broker, ids) in brokers.iter().zip([["b1", "both"], ["a:1", "both"]]) {
        for id in ids {
            enqueue(&**broker, id).await;
        }
    }
    let admin = Some("adm1n-t0ken-of-tests");
    eventually("they have failed", async || {
        let (_, list) = ask(Method::GET, url("/api/jobs?state=failed"), admin).await;
        (list["jobs"].as_array()?.len() == 4).then_some(())
    })
    .await;

    for (method, path) in [
        (Method::POST, "/api/jobs/both/retry"),
        (Method::POST, "/api/jobs/retry"),
        (Method::DELETE, "/api/jobs/both"),
    ] {
        for token in [None, Some("wrong"), Some("r3ad-t0ken-of-tests")] {
            assert_eq!(
                ask(method.clone(), url(path), token).await.0,
                401,
                "{method} {path}"
            );
        }
    }
    assert_eq!(ask(Method::GET, url("/api/jobs"), None).await.0, 401);
    let (code, list) = ask(
        Method::GET,
        url("/api/jobs?queue=apalis:ai-jobs&limit=1"),
        Some("r3ad-t0ken-of-tests"),
    )
    .await;
    assert_eq!((code, &list["more"]), (200, &json!(true)));
    let job = &list["jobs"][0];
    assert_eq!(
        (&job["class"], &job["layout"]),
        (&json!("permanent"), &json!("apalis")),
        "{list}"
    );
    let next = format!(
        "/api/jobs?queue=apalis:ai-jobs&limit=9&cursor={}",
        list["cursor"].as_str().unwrap()
    );
    let (code, rest) = ask(Method::GET, url(&next), admin).await;
    assert_eq!((code, rest["jobs"].as_array().unwrap().len()), (200, 1));
    assert_ne!(rest["jobs"][0]["jobId"], job["jobId"]);
    for wrong in [
        "state=lost",
        "limit=0",
        "limit=x",
        "since=soon",
        "cursor=1",
        "cursor=1__0",
        "queue=none",
        "state=active&since=1h",
    ] {
        let (code, answer) = ask(Method::GET, url(&format!("/api/jobs?{wrong}")), admin).await;
        assert_eq!(code, 400, "{wrong}: {answer}");
    }

    // From here on the queues are paused, so retried jobs stay in them.
    for broker in &brokers {
        broker.set_paused(true).await.unwrap();
    }
    let (code, answer) = ask(Method::POST, url("/api/jobs/both/retry"), admin).await;
    assert_eq!(code, 409, "{answer}");
    let (code, answer) = ask(
        Method::POST,
        url("/api/jobs/both/retry?queue=bullmq:ai-jobs&resetAttempts=true"),
        admin,
    )
    .await;
    assert_eq!((code, &answer["layout"]), (200, &json!("bullmq")), "{answer}");
    let (code, _) = ask(
        Method::POST,
        url("/api/jobs/both/retry?queue=bullmq:ai-jobs"),
        admin,
    )
    .await;
    assert_eq!(code, 409);
    let (code, _) = ask(Method::POST, url("/api/jobs/nobody/retry"), admin).await;
    assert_eq!(code, 404);
    let (code, answer) = ask(Method::DELETE, url("/api/jobs/a%3A1"), admin).await;
    assert_eq!((code, &answer["status"]), (200, &json!("removed")));
    assert_eq!(ask(Method::DELETE, url("/api/jobs/a%3A1"), admin).await.0, 404);
    let (code, answer) = ask(Method::POST, url("/api/jobs/retry?type=process-image"), admin).await;
    assert_eq!((code, &answer["retried"]), (200, &json!(0)));
    let (code, answer) = ask(Method::POST, url("/api/jobs/retry"), admin).await;
    assert_eq!(
        (code, &answer["retried"], &answer["more"]),
        (200, &json!(2), &json!(false)),
        "{answer}"
    );
    let (_, list) = ask(Method::GET, url("/api/jobs?state=waiting"), admin).await;
    assert_eq!(list["jobs"].as_array().unwrap().len(), 3, "{list}");
}
