//! The dashboard in a browser: what it shows of a fleet that is idle, busy or broken, and how it is used by keyboard.
//! With `DASHBOARD_SHOTS=<folder>` it leaves pictures of all that (`scripts/dashboard-shots.sh`).

use std::{path::PathBuf, time::Duration};

use backend_worker::{
    simulator::{Fault, Provider},
    spending::{Budgets, accounts::SpendAccounts},
};
use serde_json::{Value, json};

use super::FLASHCARDS;
use crate::support::{Browser, Scene, TestRedis, Worker, eventually};

const TOKEN: &str = "adm1n-t0ken-of-tests";
/// What a hostile producer might call a job.
const BAD_ID: &str = "\"><img src=x onerror=alert(1)>";
const BAD_TYPE: &str = "<script>alert(2)</script>";
const BAD_STUDENT: &str = "<img src=x onerror=alert(3)>";

const ENV: &[(&str, &str)] = &[
    ("ADMIN_TOKEN", TOKEN),
    ("READ_TOKEN", "r3ad-t0ken-of-tests"),
    ("CONCURRENCY", "6"),
    ("OPENAI_RATE_LIMIT_RPM", "1200"),
    ("OPENAI_MAX_CONCURRENT", "8"),
    ("OPENAI_BREAKER_OPEN_FOR", "90s"),
    ("DRAIN_TIMEOUT", "1s"),
];

/// Takes a picture in each size and scheme.
async fn shots(browser: &mut Browser, state: &str) {
    let Some(folder) = std::env::var_os("DASHBOARD_SHOTS").map(PathBuf::from) else {
        return;
    };
    for (size, width, height) in [("desktop", 1280, 900), ("phone", 375, 800)] {
        browser
            .ask("size", json!({"width": width, "height": height}))
            .await;
        for dark in [false, true] {
            browser.ask("scheme", json!({"dark": dark})).await;
            let scheme = if dark { "dark" } else { "light" };
            let path = folder.join(format!("{state}-{size}-{scheme}.png"));
            browser.ask("shot", json!({"path": path})).await;
        }
    }
    browser.ask("size", json!({"width": 1280, "height": 900})).await;
    browser.ask("scheme", json!({"dark": false})).await;
}

/// Nothing is wider than a phone.
async fn fits_a_phone(browser: &mut Browser) {
    browser.ask("size", json!({"width": 375, "height": 800})).await;
    let wide = browser.ask("wide", json!({})).await;
    assert_eq!(browser.ask("overflow", json!({})).await, json!(0), "{wide}");
    browser.ask("size", json!({"width": 1280, "height": 900})).await;
}

/// The tokens that the page wants, as a reader would give them.
async fn give_token(browser: &mut Browser, token: &str) {
    browser.see("#token-dialog", "").await;
    browser
        .ask("fill", json!({"selector": "#token", "text": token}))
        .await;
    browser.press("Enter").await;
}

/// Complaints but those of answers that are part of the test.
async fn complaints(browser: &mut Browser, expected: &[&str]) -> Vec<String> {
    let mut all = browser.complaints().await;
    all.retain(|complaint| !expected.iter().any(|part| complaint.contains(part)));
    all
}

async fn open(browser: &mut Browser, worker: &Worker) {
    let url = format!("http://localhost:{}/dashboard", worker.port);
    browser.ask("open", json!({"url": url})).await;
}

async fn add_hostile_job(redis: &TestRedis) {
    let key = format!("bull:vision-jobs:{BAD_ID}");
    let job = [
        "HSET",
        &key,
        "name",
        BAD_TYPE,
        "data",
        "{}",
        "opts",
        "{}",
        "timestamp",
        "1",
    ];
    redis.ask::<()>(&job).await;
    redis.ask::<()>(&["LPUSH", "bull:vision-jobs:wait", BAD_ID]).await;
    redis
        .ask::<()>(&["ZADD", "bull:vision-jobs:marker", "0", "0"])
        .await;
}

/// Tabs until the element with this text has the focus.
async fn tab_to(browser: &mut Browser, text: &str) -> Value {
    for _ in 0..80 {
        browser.press("Tab").await;
        let focused = browser.ask("focused", json!({})).await;
        if focused["text"].as_str().is_some_and(|it| it.contains(text)) {
            return focused;
        }
    }
    panic!("no tab reaches {text:?}");
}

#[tokio::test]
async fn an_operator_watches_a_fleet_through_an_outage() {
    let scene = Scene::set(Duration::from_millis(300)).await;
    let (a, _b) = (scene.worker(ENV).await, scene.worker(ENV).await);
    let mut browser = Browser::start().await;

    // Empty; and closed to who has no token.
    open(&mut browser, &a).await;
    browser.see("#token-why", "READ_TOKEN").await;
    give_token(&mut browser, "wr0ng").await;
    browser.see("#token-why", "does not do").await;
    give_token(&mut browser, "r3ad-t0ken-of-tests").await;
    browser.see("#replicas", "Working").await;
    browser.see("#failures", "No dead letters").await;
    browser.see("#pulse", "Live").await;
    assert_eq!(browser.count("#queues tr").await, 6);
    assert_eq!(browser.count("#breakers li").await, 2);
    assert_eq!(browser.count("#limits li").await, 3);
    browser.ask("reload", json!({})).await;
    browser.see("#pulse", "Live").await; // The token is this tab's.
    browser.see("#replicas li:nth-child(2)", "Working").await;
    fits_a_phone(&mut browser).await;
    shots(&mut browser, "empty").await;
    assert_eq!(complaints(&mut browser, &["401"]).await, [""; 0]);

    // Busy.
    add_hostile_job(&scene.redis).await;
    for (kind, payload, count) in [
        ("generate-flashcards", FLASHCARDS, "1500"),
        (
            "assess-pronunciation",
            r#"{"referenceText":"hi","audioUrl":"https://127.0.0.1/a.wav"}"#,
            "3",
        ),
    ] {
        scene.enqueue(&[kind, "--data", payload, "--count", count]).await;
    }
    browser.see("#queues tr", "ai-jobs").await;
    browser.see("#failures", BAD_TYPE).await;
    browser.see("#failures", BAD_ID).await;
    assert_eq!(browser.count("#failures img").await, 0);
    assert_eq!(browser.count("script").await, 1);
    browser.see("#replicas", "of 36 slots").await;
    browser
        .ask("click", json!({"selector": "#replicas summary"}))
        .await;
    browser.see("#replicas .jobs", "apalis:ai-jobs").await;
    browser.gone("#replicas li:has(.jobs a) .nothing", "").await;
    if std::env::var_os("DASHBOARD_SHOTS").is_some() {
        // Plots want some minutes of time to be worth a look.
        tokio::time::sleep(Duration::from_secs(25)).await;
    }
    fits_a_phone(&mut browser).await;
    shots(&mut browser, "busy").await;
    // The job with the bad name has a page like any other.
    browser
        .ask("click", json!({"selector": "#failures a", "text": BAD_ID}))
        .await;
    browser.see("#job-title", BAD_ID).await;
    browser.see(".timeline", BAD_TYPE).await;
    assert_eq!(browser.count("#job img").await, 0);
    assert_eq!(browser.ask("focused", json!({})).await["id"], "job-title");
    browser.ask("go", json!({"hash": "#"})).await;
    assert_eq!(complaints(&mut browser, &[]).await, [""; 0]);

    // A provider breaks.
    let faults = scene.simulator.faults();
    faults
        .on_match(Provider::OpenAi, "", Fault::status(503), None)
        .unwrap();
    browser.see("#breakers", "Open").await;
    browser.see("#breakers .probe", "Next probe in").await;
    fits_a_phone(&mut browser).await;
    shots(&mut browser, "open").await;
    // A job that waits says for what. It is looked for by its id.
    let id = eventually("a job is put off", async || {
        let put_off: Vec<String> = scene
            .redis
            .ask(&["ZRANGE", "ai-jobs:scheduled", "-1", "-1"])
            .await;
        put_off.into_iter().next()
    })
    .await;
    browser
        .ask("fill", json!({"selector": "#find-id", "text": id}))
        .await;
    browser.press("Enter").await;
    browser.see("#job-title", &id).await;
    browser.see(".facts", "generate-flashcards").await;
    browser.see(".timeline", "openai").await;
    browser.see(".timeline .probe", "Until").await;
    fits_a_phone(&mut browser).await;
    shots(&mut browser, "job").await;
    let page = browser.text("body").await;
    assert!(!page.contains("marzipan") && !page.contains("t0ken"), "{page}");
    let url = browser.ask("url", json!({})).await;
    assert!(!url.as_str().unwrap().contains("t0ken"));

    // By keyboard alone: reset the breaker, with the token that this needs.
    faults.clear();
    browser.ask("go", json!({"hash": "#"})).await;
    browser.see("#breakers", "Open").await;
    let focused = tab_to(&mut browser, "circuit breaker openai").await;
    assert_ne!(focused["outline"], "none", "the focus is to be seen");
    browser.press("Enter").await;
    browser.see("#token-why", "ADMIN_TOKEN").await;
    give_token(&mut browser, TOKEN).await;
    browser.see("#announcer", "openai").await;
    browser.gone("#breakers .state", "Open").await;
    let state: String = scene.redis.ask(&["GET", "circuit:openai:state"]).await;
    assert_eq!(state, "CLOSED");
    assert_eq!(complaints(&mut browser, &["401"]).await, [""; 0]);
}

#[tokio::test]
async fn a_paused_queue_is_seen_in_its_row_in_its_plots_and_at_its_jobs() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let mut browser = Browser::start().await;
    open(&mut browser, &worker).await;
    browser.see("#replicas", "Working").await;
    let order = async |order: &str| {
        let output = scene
            .command(&["queue", order, "ai-jobs"])
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    order("pause").await;
    let ids = scene
        .enqueue(&["generate-flashcards", "--data", FLASHCARDS, "--count", "40"])
        .await;
    browser.see("#announcer", "ai-jobs is paused").await;
    for layout in ["apalis", "bullmq"] {
        let row = format!("#queues tr:has(.tag:text-is('{layout}')):has-text('ai-jobs')");
        browser.see(&format!("{row} .state"), "Paused").await;
        // Two looks at a paused queue make a band.
        browser
            .ask("see", json!({"selector": format!("{row} .held[d*='H']")}))
            .await;
    }
    browser.gone("#queues tr:has-text('audio-jobs') .state", "").await;
    browser.see("#tiles", "40 paused").await;
    if std::env::var_os("DASHBOARD_SHOTS").is_some() {
        tokio::time::sleep(Duration::from_secs(25)).await;
    }
    fits_a_phone(&mut browser).await;
    shots(&mut browser, "paused").await;

    let job = format!("#job/{}/{}", "apalis%3Aai-jobs", ids[0]);
    browser.ask("go", json!({"hash": job})).await;
    browser.see("#job-body .facts", "generate-flashcards").await;
    browser.see(".timeline .probe", "Its queue is paused").await;
    order("resume").await;
    browser.see("#job-body .facts", "Completed").await;
    browser.ask("go", json!({"hash": "#"})).await;
    browser.gone("#queues .state", "").await;
    assert_eq!(browser.complaints().await, [""; 0]);
}

#[tokio::test]
async fn the_page_says_that_redis_is_away_and_recovers() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[("ADMIN_TOKEN", TOKEN)]).await;
    let mut browser = Browser::start().await;
    open(&mut browser, &worker).await;
    browser.see("#pulse", "Live").await;
    browser.see("#replicas", "Working").await;
    add_hostile_job(&scene.redis).await;
    browser.see("#failures", BAD_TYPE).await;

    let pid = scene.redis.server.pid().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    browser.see("#notices", "Redis has not answered for").await;
    browser.see("#pulse", "Redis is away, figures").await;
    // What was known stays.
    browser.see("#failures", BAD_TYPE).await;
    shots(&mut browser, "away").await;
    fits_a_phone(&mut browser).await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    browser.see("#pulse", "Live").await;
    browser.gone("#notices .notice", "Redis").await;
    assert_eq!(browser.complaints().await, [""; 0]);

    // And that its replica is away.
    drop(worker);
    browser.see("#notices", "Trying again").await;
    browser.see("#pulse", "Disconnected, figures").await;
}

/// Has the days of this month before today cost something.
async fn spend_before_today(redis: &TestRedis) {
    let accounts = SpendAccounts::new(redis.connection(), Budgets::default());
    let today = accounts.today().await.unwrap();
    let day: u64 = today[8..].parse().unwrap();
    for day in 1..day {
        let key = format!("spend:day:{}-{day:02}", &today[..7]);
        let nanos = (3_000_000 + day * 7_919_000 % 9_000_000).to_string();
        let row = "openai|gpt-6-luna|generate-flashcards";
        for (field, amount) in [
            ("total", &*nanos),
            (&format!("{row}|usd"), &nanos),
            (&format!("{row}|calls"), "12"),
            ("generate-flashcards|jobs", "11"),
        ] {
            redis.ask::<()>(&["HSET", &key, field, amount]).await;
        }
        let month = format!("spend:month:{}", &today[..7]);
        redis.ask::<()>(&["HINCRBY", &month, "total", &nanos]).await;
    }
}

/// The page of the money: what was spent and saved, and the kill switch, with the name of who has set it.
#[tokio::test]
async fn an_operator_sees_what_is_spent_and_stops_it() {
    let scene = Scene::set(Duration::ZERO).await;
    spend_before_today(&scene.redis).await;
    let mut env = ENV.to_vec();
    env.extend([
        ("BUDGET_DAILY_USD", "0.02"),
        ("BUDGET_MONTHLY_USD", "0.5"),
        ("DEDUPLICATE", "user"),
    ]);
    let worker = scene.worker(&env).await;
    let cards = |content: &str, student: &str| {
        json!({"content": content, "subject": "s", "topic": "t", "userId": student}).to_string()
    };
    // One of them equals another, and one student has a name like no other.
    for (content, student) in [
        ("marzipan", "ann"),
        ("marzipan", "ann"),
        ("nougat", "ben"),
        ("fudge", "ben"),
        ("toffee", BAD_STUDENT),
    ] {
        let data = cards(content, student);
        scene
            .enqueue(&["generate-flashcards", "--data", &data, "--wait"])
            .await;
    }
    let mut browser = Browser::start().await;
    open(&mut browser, &worker).await;
    give_token(&mut browser, "r3ad-t0ken-of-tests").await;
    browser.see("#replicas", "Working").await;
    browser.ask("click", json!({"selector": "#to-spend"})).await;
    browser.see("#spend-tiles", "Forecast for the month").await;
    browser.see("#spend-tiles", "1 job").await;
    browser.see("#spend-budgets", "left of $0.02").await;
    browser.see("#spend-budgets", "left of $0.50").await;
    browser.see("#spend-types li", "a deck").await;
    browser.see("#spend-types li", "paid answers").await;
    browser.see("#spend-types li", "1 reused").await;
    browser.see("#spend-models li", "gpt").await;
    browser.see("#spend-students li:first-child", "ben").await;
    browser.see("#spend-students", BAD_STUDENT).await;
    assert_eq!(browser.count("#spend img").await, 0);
    browser.see("#switch-state", "Paid calls pass").await;
    browser.see("#switch-why", "not been used").await;
    assert_eq!(browser.ask("focused", json!({})).await["id"], "spend-title");
    assert!(browser.count("#spend-days rect.money").await > 0);
    fits_a_phone(&mut browser).await;
    shots(&mut browser, "money").await;
    let page = browser.text("body").await;
    assert!(!page.contains("marzipan") && !page.contains("t0ken"), "{page}");
    assert_eq!(complaints(&mut browser, &["401"]).await, [""; 0]);

    // By keyboard: stop everything. That needs the other token.
    browser
        .ask("fill", json!({"selector": "#switch-by", "text": "ann <b>"}))
        .await;
    browser
        .ask(
            "fill",
            json!({"selector": "#switch-reason", "text": "an import ran away"}),
        )
        .await;
    tab_to(&mut browser, "Stop all paid calls").await;
    browser.press("Enter").await;
    browser.see("#token-why", "ADMIN_TOKEN").await;
    give_token(&mut browser, TOKEN).await;
    browser.see("#switch-state", "Paid calls are stopped").await;
    browser.see("#switch-why", "Set by ann <b> on").await;
    browser.see("#switch-why", "an import ran away").await;
    browser.see("#announcer", "stopped").await;
    let switch: String = scene.redis.ask(&["GET", "system:budget_kill_switch"]).await;
    assert_eq!(switch, "true");
    fits_a_phone(&mut browser).await;
    shots(&mut browser, "money-stopped").await;

    browser
        .ask("fill", json!({"selector": "#switch-reason", "text": "over"}))
        .await;
    browser
        .ask(
            "click",
            json!({"selector": "#switch-button", "text": "Let paid calls pass"}),
        )
        .await;
    browser.see("#switch-state", "Paid calls pass").await;
    let switch: String = scene.redis.ask(&["GET", "system:budget_kill_switch"]).await;
    assert_eq!(switch, "false");
    browser.ask("click", json!({"selector": "#to-fleet"})).await;
    browser.see("#replicas", "Working").await;
    browser.gone("#spend-tiles", "").await;
    assert_eq!(complaints(&mut browser, &["401"]).await, [""; 0]);
}
