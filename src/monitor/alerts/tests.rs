use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    fs,
    path::Path,
};

use super::*;
use crate::{
    gate::{BreakerStatus, GateStatus, LimitSettings, State},
    monitor::{QueueReading, outcome_counts::OutcomeCounts},
    queue::{Layout, QueueCounts},
    spending::{
        Usd,
        accounts::{BudgetStatus, BudgetUse},
    },
    telemetry::metrics::families,
};

const NOW: u64 = 1_800_000_000_000;
const MINUTE: u64 = NOW / 60_000;

fn alert(reading: &FleetReading, name: &str) -> Alert {
    let all = judge(Some(reading), Duration::ZERO);
    all.into_iter().find(|alert| alert.name == name).unwrap()
}

/// In each of these minutes so many jobs of ten failed.
fn failing(minutes: &[(u64, u64)]) -> FleetReading {
    let mut reading = FleetReading {
        now: NOW,
        ..FleetReading::default()
    };
    for (ago, failed) in minutes {
        let came = OutcomeCounts {
            succeeded: 10 - failed,
            failed: *failed,
            permanent: *failed,
            tried: 10,
            retried: *failed,
            transitions: *failed,
        };
        reading.minutes.add(MINUTE - ago, came);
    }
    reading
}

#[test]
fn nothing_fires_over_a_fleet_that_is_well_or_new() {
    for reading in [failing(&[]), failing(&[(0, 0), (1, 0), (30, 0)])] {
        for alert in judge(Some(&reading), Duration::ZERO) {
            assert!(!alert.firing && alert.value == Some(0.0), "{alert:?}");
        }
    }
}

#[test]
fn shares_fire_above_their_threshold_and_tell_since_when() {
    // 20 minutes ago it began: 5 of 50 in the window since 19 minutes ago.
    let minutes: Vec<_> = (0..20).map(|ago| (ago, 5)).collect();
    let reading = failing(&minutes);
    for name in ["FailureRate", "PermanentErrors", "RetryRate"] {
        let alert = alert(&reading, name);
        assert!(alert.firing, "{alert:?}");
        assert_eq!(alert.value, Some(0.5));
        assert_eq!(alert.since, Some((MINUTE - 19) * 60_000));
    }
    let exactly = failing(&[(0, 0), (1, 1)]); // 1 of 20 is 5 %, and not above
    assert!(!alert(&exactly, "FailureRate").firing);
}

#[test]
fn shares_clear_when_their_window_has_passed() {
    let reading = failing(&[(16, 9), (3, 0)]);
    let found = alert(&reading, "FailureRate");
    assert_eq!((found.firing, found.value, found.since), (false, Some(0.0), None));
    assert_eq!(
        alert(&reading, "BreakerTransitions").value,
        Some(9.0),
        "an hour has not passed"
    );
}

#[test]
fn a_few_jobs_have_no_share() {
    let mut reading = failing(&[]);
    let came = OutcomeCounts {
        failed: 9,
        ..OutcomeCounts::default()
    };
    reading.minutes.add(MINUTE, came);
    assert!(!alert(&reading, "FailureRate").firing);
    assert!(!alert(&reading, "DeadLettersGrowing").firing);
    reading.minutes.add(MINUTE - 59, came);
    assert!(alert(&reading, "DeadLettersGrowing").firing);
}

/// The gate of a breaker that has half-opened again and again.
fn status(state: State) -> GateStatus {
    let breaker = BreakerStatus {
        name: "openai".to_owned(),
        state,
        failures: 0,
        successes: 0,
        attempts: 0,
        failure_threshold: 5,
        success_threshold: 2,
        opened_at: Some(NOW - 20_000),
        not_closed_since: Some(NOW - 301_000),
        next_retry_at: None,
        account_fault: None,
    };
    GateStatus {
        breaker,
        provider: jobs::Provider::OpenAi,
        limits: LimitSettings::default(),
        in_flight: 0,
        requests: 0,
        tokens: 0,
        throttled_until: None,
        now: NOW,
    }
}

#[test]
fn an_account_that_jobs_wait_for_is_told_with_its_fault() {
    let mut gate = status(State::Closed);
    let reading_of = |gate: &GateStatus| FleetReading {
        gates: vec![gate.clone()],
        now: NOW,
        ..FleetReading::default()
    };
    assert!(!alert(&reading_of(&gate), "ProviderAccount").firing);
    gate.breaker.account_fault = Some(jobs::AccountFault::Credit);
    let alert = alert(&reading_of(&gate), "ProviderAccount");
    assert!(alert.firing);
    assert_eq!(
        alert.subject.as_deref(),
        Some("openai: the account has no credit or quota left")
    );
}

#[test]
fn one_cause_fires_one_alert() {
    let mut gate = status(State::Open);
    gate.breaker.account_fault = Some(jobs::AccountFault::Credit);
    let reading = FleetReading {
        gates: vec![gate],
        now: NOW,
        ..FleetReading::default()
    };
    assert!(alert(&reading, "ProviderAccount").firing);
    assert!(!alert(&reading, "BreakerOpen").firing);
}

#[test]
fn a_model_is_retiring_for_its_last_thirty_days() {
    let day = 86_400_000;
    let left = |days: Option<u64>| {
        let reading = FleetReading {
            model_shutdown: days.map(|days| ("llm-azure".to_owned(), NOW + days * day)),
            now: NOW,
            ..FleetReading::default()
        };
        let found = alert(&reading, "ModelRetiring");
        (found.firing, found.value, found.since)
    };
    assert_eq!(left(None), (false, Some(0.0), None));
    assert_eq!(left(Some(30)), (false, Some(0.0), None));
    assert_eq!(left(Some(28)), (true, Some(2.0), Some(NOW - 2 * day)));
    assert_eq!(left(Some(0)), (true, Some(30.0), Some(NOW - 30 * day)));
}

#[test]
fn a_budget_is_told_of_before_it_is_used_up_and_when_it_is() {
    let part = |period: &str, percent| BudgetUse {
        period: period.to_owned(),
        usd: Usd::ZERO,
        possible_usd: Usd::ZERO,
        budget_usd: None,
        percent,
    };
    let firing = |day, month, kill_switch| {
        let money = BudgetStatus {
            kill_switch,
            switched_by: None,
            reason: None,
            switched_at: None,
            day: part("2027-01-15", day),
            month: part("2027-01", month),
            reserved_usd: Usd::ZERO,
            student_budget_usd: None,
        };
        let reading = FleetReading {
            money: Some(money),
            now: NOW,
            ..FleetReading::default()
        };
        ["BudgetNearlyUsedUp", "BudgetUsedUp", "BudgetKillSwitch"].map(|name| {
            let found = alert(&reading, name);
            found.firing.then(|| found.subject.unwrap_or_default())
        })
    };
    let (day, month) = (Some("2027-01-15".to_owned()), Some("2027-01".to_owned()));
    assert_eq!(firing(None, None, false), [None, None, None]);
    assert_eq!(firing(Some(80), Some(12), false), [None, None, None]);
    assert_eq!(firing(Some(81), Some(12), false), [day, None, None]);
    assert_eq!(firing(Some(3), Some(100), false), [month.clone(), month, None]);
    assert_eq!(firing(None, None, true), [None, None, Some(String::new())]);
}

#[test]
fn a_breaker_that_opens_again_and_again_is_open() {
    let gate = status(State::HalfOpen);
    let reading = FleetReading {
        gates: vec![gate],
        now: NOW,
        ..FleetReading::default()
    };
    let found = alert(&reading, "BreakerOpen");
    assert_eq!((found.firing, found.value), (true, Some(301.0)));
    assert_eq!(
        (found.subject.as_deref(), found.since),
        (Some("openai"), Some(NOW - 1000))
    );
}

#[test]
fn the_oldest_job_names_its_queue() {
    let queue = |layout, oldest| QueueReading {
        queue: "ai-jobs".to_owned(),
        layout,
        counts: QueueCounts::default(),
        oldest: Duration::from_secs(oldest),
    };
    let reading = FleetReading {
        queues: vec![queue(Layout::Apalis, 20), queue(Layout::Bullmq, 400)],
        now: NOW,
        ..FleetReading::default()
    };
    let found = alert(&reading, "OldestWaiting");
    assert_eq!(found.subject.as_deref(), Some("bullmq:ai-jobs"));
    assert_eq!(found.since, Some(NOW - 100_000));
}

#[test]
fn without_redis_only_its_absence_is_known() {
    for alert in judge(None, Duration::from_secs(7)) {
        let is_away = alert.name == "RedisAway";
        assert_eq!(
            (alert.firing, alert.value.is_some()),
            (is_away, is_away),
            "{alert:?}"
        );
    }
}

fn prometheus_rules() -> String {
    let mut text = String::from(
        "# Alerting rules for Prometheus, written from src/monitor/alerts.rs by `UPDATE_SCHEMAS=1 cargo test alert_rules`.\n\
         groups:\n  - name: backend-worker\n    rules:\n",
    );
    for rule in RULES {
        let AlertRule {
            name,
            expr,
            hold,
            about,
            action,
            ..
        } = rule;
        let severity = rule.severity.as_str();
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        write!(
            text,
            "      - alert: {name}\n        expr: {}\n        for: {hold}\n        labels:\n          severity: {severity}\n        \
             annotations:\n          summary: {}\n          description: {}\n          runbook: {}\n",
            quoted(expr),
            quoted(&summary(name, about, rule.threshold)),
            quoted(action),
            quoted(&format!("docs/runbook.md#{}", name.to_lowercase())),
        )
        .unwrap();
    }
    text
}

/// What Prometheus tells in one line. Three expressions have another value than the worker's own rule.
fn summary(name: &str, about: &str, threshold: f64) -> String {
    match name {
        "RedisAway" => "Redis does not answer at least one replica".to_owned(),
        "ModelRetiring" => {
            "a provider shuts down a model or service in {{ $value | humanizeDuration }}".to_owned()
        }
        "UsageWebhookBehind" => {
            "USAGE_WEBHOOK_URL has not taken usage events for 15 minutes, or 100,000 of them wait".to_owned()
        }
        _ => format!("{about}: {{{{ $value | humanize }}}}, above {threshold}"),
    }
}

#[test]
fn alert_rules_are_written_down_for_prometheus() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/alerts.yml");
    if std::env::var("UPDATE_SCHEMAS").is_ok_and(|value| value == "1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, prometheus_rules()).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == prometheus_rules(),
        "docs/alerts.yml differs from the rules. Run `UPDATE_SCHEMAS=1 cargo test alert_rules`."
    );
}

/// The heading of each rule's section in `docs/runbook.md` is where its annotation leads.
#[test]
fn alert_rules_have_a_runbook() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md");
    let runbook = fs::read_to_string(path).unwrap();
    let (_, sections) = runbook.split_once("\n## ").unwrap();
    let sections: HashMap<&str, &str> = sections
        .split("\n## ")
        .map(|section| section.split_once('\n').unwrap())
        .collect();
    let rules: HashSet<&str> = RULES.iter().map(|rule| rule.name).collect();
    let headings: HashSet<&str> = sections.keys().copied().collect();
    assert_eq!(headings, rules, "docs/runbook.md has one section for each alert");
    for (name, section) in sections {
        for part in ["**Meaning.**", "**Look.**", "**Do.**"] {
            assert!(
                section.contains(part),
                "{name}: {part} is missing in docs/runbook.md"
            );
        }
    }
}

#[test]
fn alert_rules_name_metrics_that_exist() {
    for rule in RULES {
        let names = rule.expr.split(|c: char| !c.is_ascii_lowercase() && c != '_');
        for name in names.filter(|name| name.starts_with("backend_worker_")) {
            assert!(
                families::ALL.iter().any(|family| family.name == name),
                "{}: {name}",
                rule.name
            );
        }
    }
}
