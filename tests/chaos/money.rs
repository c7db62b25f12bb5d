//! Compares the books with the provider's bill, and with what a receiver of usage events was told.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use backend_worker::{
    simulator::{JournalEntry, Provider},
    spending::{
        Budgets, Usd,
        accounts::{SpendAccounts, SpendGrouping},
    },
};
use tokio::time::{Instant, sleep};

use crate::{
    field::Field,
    oracle::{ON_ITS_WAY_MS, Verdict, taken_by},
    support::{Receiver, eventually},
};

/// The share by which the books may differ from the bill. Each call is rounded up to a billionth of a dollar.
const TOLERANCE: f64 = 0.001;

/// How long a booking may wait in its replica, ms: one that Redis does not take in 250 ms is sent again after 500 ms.
const SENT_AGAIN_MS: f64 = 1000.0;
/// How long a booking may wait in its replica once Redis is back, ms.
const OUTBOX_MS: f64 = 3000.0;

/// An event of the stream `usage`.
struct Event {
    key: String,
    call: String,
    kind: String,
    student: String,
    amount: u64,
    units: Units,
}

/// What a call is recognised by in the provider's bill: provider, tokens of the request, of the cache, of the answer,
/// and billionths of a dollar.
type Units = (Provider, u64, u64, u64, u64);

pub(crate) fn accounts(field: &Field) -> SpendAccounts {
    SpendAccounts::new(field.connection.clone(), Budgets::default())
}

/// Waits until every call is booked, those of killed replicas too, and every event is delivered.
pub(crate) async fn settled(field: &Field) {
    eventually("every reservation has ended", async || {
        let open: u64 = field.order(&["EXISTS", "spend:reserved"]).await;
        (open == 0).then_some(())
    })
    .await;
    eventually("every event is delivered", async || {
        let standing = accounts(field).webhook().await.ok()?;
        (standing.waiting == 0).then_some(())
    })
    .await;
}

/// Watches the fleet's budget until `stop`: what is spent, possibly spent and reserved never exceeds it.
pub(crate) async fn watch(field: &Field, budget: Usd, until: impl Future<Output = ()>) -> Usd {
    let accounts = accounts(field);
    let mut most = Usd::ZERO;
    let mut until = std::pin::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => return most,
            () = sleep(Duration::from_millis(50)) => {}
        }
        // Redis may be away.
        let Ok(status) = accounts.status().await else {
            continue;
        };
        let taken = status
            .month
            .usd
            .plus(status.month.possible_usd)
            .plus(status.reserved_usd);
        most = most.max(taken);
        if taken > budget {
            let finding = format!("{taken} USD are spent or reserved of a budget of {budget} USD");
            field.record().findings.push(finding);
            return most;
        }
    }
}

/// Returns once the provider has been asked nothing for a while.
pub(crate) async fn standstill(field: &Field) {
    let requests = || -> u64 {
        let journal = field.simulator.journal();
        Provider::ALL
            .map(|provider| journal.counts(provider).requests)
            .iter()
            .sum()
    };
    let (mut last, mut since) = (requests(), Instant::now());
    while since.elapsed() < Duration::from_secs(8) {
        sleep(Duration::from_millis(200)).await;
        let now = requests();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// Looks for calls that are booked twice, not at all, or with the wrong sum.
pub(crate) async fn audit(field: &Field, receiver: &Receiver, verdict: &mut Verdict) {
    let events = arrived(receiver);
    in_order(field, &events, verdict).await;
    let again = receiver.taken().len() - events.len();
    verdict.figure("events that the webhook delivered", events.len());
    verdict.figure("of these, delivered again", again);
    let mut last: BTreeMap<&str, &Event> = BTreeMap::new();
    let mut twice = Vec::new();
    for event in &events {
        let before = last.insert(&event.call, event);
        // A call that was possibly paid can turn out to be paid, or not to be billed; nothing follows after that.
        if before.is_some_and(|before| before.kind != "possible") {
            twice.push(event.key.clone());
        }
    }
    verdict.zero("calls booked twice", &twice);
    let (paid, possible): (Vec<&Event>, Vec<&Event>) = last
        .into_values()
        .filter(|event| event.kind != "nothing")
        .partition(|event| event.kind != "possible");
    let sum = |events: &[&Event]| events.iter().map(|event| event.amount).sum::<u64>();
    books(field, sum(&paid), sum(&possible), verdict).await;
    bill(field, &paid, &possible, verdict);
}

/// What the receiver was told, each event once: it has all of them, the stream only the last 10,000.
fn arrived(receiver: &Receiver) -> Vec<Event> {
    let mut known = HashSet::new();
    let mut events = Vec::new();
    for call in receiver.taken() {
        if !known.insert(call.key.clone()) {
            continue;
        }
        let text = |name: &str| call.body[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| call.body[name].as_u64().unwrap_or(0);
        events.push(Event {
            key: call.key.clone(),
            call: text("call"),
            kind: text("kind"),
            student: text("student"),
            amount: number("nanoUsd"),
            units: (
                provider(&text("provider")),
                number("promptTokens"),
                number("cachedTokens"),
                number("completionTokens"),
                number("nanoUsd"),
            ),
        });
    }
    events
}

fn provider(name: &str) -> Provider {
    let known = Provider::ALL
        .into_iter()
        .find(|provider| provider.as_str() == name);
    known.expect("a provider")
}

/// The events that are still in the stream have arrived, those of each student in its order.
async fn in_order(field: &Field, arrived: &[Event], verdict: &mut Verdict) {
    let (mut written, mut from) = (Vec::new(), "-".to_owned());
    loop {
        let page: Vec<(String, HashMap<String, String>)> = field
            .order(&["XRANGE", "usage", &from, "+", "COUNT", "1000"])
            .await;
        let Some((last, _)) = page.last() else { break };
        from = format!("({last}");
        written.extend(page.into_iter().map(|(_, fields)| {
            let key = format!("{}:{}", fields["call"].replace('.', "_"), fields["kind"]);
            (key, fields["student"].clone())
        }));
    }
    let in_stream: HashSet<&str> = written.iter().map(|(key, _)| key.as_str()).collect();
    let mut of_students: HashMap<&str, [Vec<&str>; 2]> = HashMap::new();
    let mut seen = HashSet::new();
    for (key, student) in written.iter().filter(|(key, _)| seen.insert(key.as_str())) {
        of_students.entry(student).or_default()[0].push(key);
    }
    for event in arrived
        .iter()
        .filter(|event| in_stream.contains(event.key.as_str()))
    {
        of_students.entry(&event.student).or_default()[1].push(&event.key);
    }
    let wrong: Vec<String> = of_students
        .iter()
        .filter(|(_, [written, arrived])| written != arrived)
        .map(|(student, [written, arrived])| {
            format!(
                "{student}: {} events, {} arrived, or in another order",
                written.len(),
                arrived.len()
            )
        })
        .collect();
    verdict.zero("events that did not arrive in order", &wrong);
}

/// The sums of the month, of its rows and of its students are those of the events.
async fn books(field: &Field, paid: u64, possible: u64, verdict: &mut Verdict) {
    let report = accounts(field)
        .report(None, SpendGrouping::Provider)
        .await
        .unwrap();
    verdict.figure("jobs that got the result of an equal one", report.reused_jobs);
    verdict.figure("of these, waited while it ran", report.awaited_jobs);
    if field.settings.repeats && report.reused_jobs == 0 {
        verdict
            .findings
            .push("no job got the result of an equal one".to_owned());
    }
    let of_rows: Usd = report.lines.iter().map(|line| line.usd).sum();
    let key = format!("spend:students:{}", report.month);
    let students: HashMap<String, u64> = field.order(&["HGETALL", &key]).await;
    let rows: HashMap<String, u64> = field
        .order(&["HGETALL", &format!("spend:month:{}", report.month)])
        .await;
    let mut wrong = Vec::new();
    for (what, found, expected) in [
        ("spent in the month", report.usd.nanos(), paid),
        (
            "possibly spent in the month",
            report.possible_usd.nanos(),
            possible,
        ),
        ("spent in the rows", of_rows.nanos(), paid),
    ] {
        if found != expected {
            wrong.push(format!("{what}: {found}, in events {expected}"));
        }
    }
    // Recordings and images of this load have no student.
    let of_students: u64 = students
        .iter()
        .filter(|(name, _)| name.starts_with("p:"))
        .map(|(_, n)| n)
        .sum();
    let spent = ["total", "possible", "reused", "awaited", "saved"];
    if of_students > paid || rows.keys().any(|name| !spent.contains(&name.as_str())) {
        wrong.push(format!("students {of_students}, month {rows:?}"));
    }
    verdict.zero("sums that differ from their events", &wrong);
}

/// An answer by its marker and time, and the times of the faults within ten seconds of it, all ms.
fn whereabouts(entry: &JournalEntry, kills: &[(f64, f64)], restarts: &[(f64, f64)]) -> String {
    let answered = entry.at_ms + entry.took_ms.unwrap_or_default();
    let near = |spans: &[(f64, f64)]| -> Vec<String> {
        let close = spans
            .iter()
            .filter(|(begun, over)| begun - answered < 10_000.0 && answered - over < 10_000.0);
        close
            .map(|(begun, over)| format!("{:+.0} to {:+.0}", begun - answered, over - answered))
            .collect()
    };
    format!(
        "{}: asked at {:.0}, answered at {answered:.0}; interruptions of replicas: {:?}, of Redis: {:?}",
        entry.marker,
        entry.at_ms,
        near(kills),
        near(restarts)
    )
}

/// The provider's bill: each answer of it is booked as paid, or as possibly paid where it was lost.
fn bill(field: &Field, paid: &[&Event], possible: &[&Event], verdict: &mut Verdict) {
    let (kills, restarts, writes) = {
        let record = field.record();
        (
            record.interruptions.clone(),
            record.partitions.clone(),
            record.writes.clone(),
        )
    };
    // A booking waits in its replica while Redis restarts: the replica may die with it.
    let is_lost = |entry: &JournalEntry| {
        let (from, to) = (entry.at_ms, entry.at_ms + entry.took_ms.unwrap_or_default());
        let within = |spans: &[(f64, f64)], slack: f64| {
            spans
                .iter()
                .any(|(begun, over)| *begun <= to + slack && *over >= from)
        };
        entry.fault.is_some()
            // A stream that was not read to its end.
            || entry.status.is_none()
            // Redis took no booking before it took the first write of an onlooker.
            || within(&kills, taken_by(&writes, to) - to + SENT_AGAIN_MS)
            || (within(&restarts, ON_ITS_WAY_MS) && within(&kills, OUTBOX_MS))
    };
    let mut billed: HashMap<Units, Vec<JournalEntry>> = HashMap::new();
    let journal = field.simulator.journal();
    for entry in Provider::ALL
        .map(|provider| journal.of(provider))
        .into_iter()
        .flatten()
    {
        if let Some(bill) = &entry.bill {
            // The worker rounds up.
            let nanos = (bill.usd.unwrap_or(0.0) * 1e9 - 0.001).ceil() as u64;
            let units = (
                entry.provider,
                bill.prompt_tokens,
                bill.cached_tokens,
                bill.completion_tokens,
                nanos,
            );
            billed.entry(units).or_default().push(entry);
        }
    }
    let mut booked: HashMap<Units, usize> = HashMap::new();
    for event in paid {
        *booked.entry(event.units).or_default() += 1;
    }
    let usd = |entry: &JournalEntry| entry.bill.as_ref().and_then(|bill| bill.usd).unwrap_or(0.0);
    let (mut total, mut lost, mut of_lost, mut unbooked) = (0.0, 0, 0.0, Vec::new());
    let mut unbilled: Vec<String> = Vec::new();
    let answers: usize = billed.values().map(Vec::len).sum();
    for (units, mut entries) in billed {
        let count = booked.remove(&units).unwrap_or(0);
        if count > entries.len() {
            unbilled.push(format!("{units:?}: {count} booked, {} billed", entries.len()));
        }
        entries.sort_by_key(is_lost);
        total += entries.iter().take(count).map(usd).sum::<f64>();
        for entry in entries.iter().skip(count) {
            lost += 1;
            of_lost += usd(entry);
            if !is_lost(entry) {
                unbooked.push(whereabouts(entry, &kills, &restarts));
            }
        }
    }
    unbilled.extend(
        booked
            .into_iter()
            .map(|(units, count)| format!("{units:?}: {count} booked, none billed")),
    );
    verdict.zero("booked, and not on the bill", &unbilled);
    verdict.zero("billed and arrived, and not booked", &unbooked);
    let nanos = |events: &[&Event]| events.iter().map(|event| event.amount).sum::<u64>() as f64 / 1e9;
    let difference = (nanos(paid) - total).abs() / total.max(1e-9);
    verdict.figure("answers that the provider billed", answers);
    verdict.figure("calls booked as paid", paid.len());
    verdict.figure("billed for them, USD", format!("{total:.6}"));
    verdict.figure("booked for them, USD", format!("{:.6}", nanos(paid)));
    verdict.figure("difference", format!("{:.6} %", difference * 100.0));
    verdict.figure(
        "billed answers that were lost",
        format!("{lost} ({of_lost:.6} USD)"),
    );
    verdict.figure(
        "calls booked as possibly paid",
        format!("{} (at most {:.6} USD)", possible.len(), nanos(possible)),
    );
    if difference > TOLERANCE {
        verdict
            .findings
            .push(format!("the books are off by {:.3} %", difference * 100.0));
    }
    if lost > possible.len() || of_lost > nanos(possible) {
        verdict.findings.push(format!(
            "{lost} billed answers were lost ({of_lost} USD), {} calls are booked as possible",
            possible.len()
        ));
    }
}
