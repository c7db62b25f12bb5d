//! Reports the cost of a month, added up by any part of its rows.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use serde::Serialize;

use super::Usd;

/// A hash of Redis.
pub(super) type HashFields = HashMap<String, String>;

/// By what a report adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpendGrouping {
    /// By student.
    User,
    /// By job type.
    Type,
    /// By model.
    Model,
    /// By provider.
    Provider,
    /// By day.
    Day,
}

/// Reads a month as 2026-11.
///
/// # Errors
/// The form that it has to have.
pub fn month(text: &str) -> Result<String, String> {
    let is_month = text.len() == 7
        && text
            .bytes()
            .enumerate()
            .all(|(at, b)| if at == 4 { b == b'-' } else { b.is_ascii_digit() })
        && text
            .get(5..)
            .and_then(|month| month.parse().ok())
            .is_some_and(|month: u8| (1..=12).contains(&month));
    match is_month {
        true => Ok(text.to_owned()),
        false => Err("a month such as 2026-11".to_owned()),
    }
}

/// One line of a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportLine {
    /// The student, type, model, provider or day.
    pub name: String,
    /// The spent amount.
    pub usd: Usd,
    /// Upper bound of the cost of calls whose answer was lost.
    pub possible_usd: Usd,
    /// Answers that were paid for; not known of a student.
    pub calls: u64,
    /// Of these, answers without a price.
    pub unpriced_calls: u64,
    /// Calls whose answer was lost.
    pub lost_calls: u64,
    /// Tokens of the requests.
    pub prompt_tokens: u64,
    /// Of these, tokens from the provider's cache.
    pub cached_tokens: u64,
    /// Tokens of the answers, reasoning included.
    pub completion_tokens: u64,
    /// Of these, tokens of reasoning.
    pub reasoning_tokens: u64,
    /// Jobs that have paid for an answer; known of types and days, from this version on.
    pub jobs: u64,
    /// The average cost of such a job.
    pub usd_per_job: Option<Usd>,
    /// Jobs that were given the result of an equal one; known of types and days.
    pub reused_jobs: u64,
    /// The costs of these results.
    pub saved_usd: Usd,
}

impl ReportLine {
    pub(super) fn add(&mut self, name: &str, amount: u64) {
        let count = match name {
            "usd" => return self.usd = self.usd.plus(Usd::from_nanos(amount)),
            "possible" => return self.possible_usd = self.possible_usd.plus(Usd::from_nanos(amount)),
            "saved" => return self.saved_usd = self.saved_usd.plus(Usd::from_nanos(amount)),
            "calls" => &mut self.calls,
            "unpriced" => &mut self.unpriced_calls,
            "lost" => &mut self.lost_calls,
            "in" => &mut self.prompt_tokens,
            "cached" => &mut self.cached_tokens,
            "out" => &mut self.completion_tokens,
            "reasoning" => &mut self.reasoning_tokens,
            "jobs" => &mut self.jobs,
            "reused" => &mut self.reused_jobs,
            _ => return,
        };
        *count = count.saturating_add(amount);
    }
}

/// The cost of a month.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpendReport {
    /// The month, as 2026-11.
    pub month: String,
    /// The spent amount.
    pub usd: Usd,
    /// Upper bound of the cost of calls whose answer was lost.
    pub possible_usd: Usd,
    /// The month's cost by its end, if it goes on as in the last week; `None` of another month.
    pub forecast_usd: Option<Usd>,
    /// Jobs that were given the result of an equal one.
    pub reused_jobs: u64,
    /// Of these, jobs that waited while the equal one ran.
    pub awaited_jobs: u64,
    /// The costs of these results.
    pub saved_usd: Usd,
    /// Most spent first; days in their order.
    pub lines: Vec<ReportLine>,
}

pub(super) fn most_first(one: &ReportLine, other: &ReportLine) -> std::cmp::Ordering {
    let by = |line: &ReportLine| Reverse((line.usd, line.possible_usd));
    by(one).cmp(&by(other)).then_with(|| one.name.cmp(&other.name))
}

/// Counts of jobs, which stand in fields of two parts: the type, and one of these.
const OF_JOBS: [&str; 3] = ["jobs", "reused", "saved"];

/// The rows of all days, added up.
pub(super) fn lines_of(days: &[String], sums: &[HashFields], by: SpendGrouping) -> Vec<ReportLine> {
    let mut lines: BTreeMap<String, ReportLine> = BTreeMap::new();
    for (day, fields) in days.iter().zip(sums) {
        for (field, amount) in fields {
            let parts: Vec<&str> = field.split('|').collect();
            let (name, what) = match (by, &parts[..]) {
                (SpendGrouping::Day, [_, _, _, what]) => (day.as_str(), *what),
                (SpendGrouping::Day, [_, what]) if OF_JOBS.contains(what) => (day.as_str(), *what),
                (SpendGrouping::Type, [_, _, kind, what]) => (*kind, *what),
                (SpendGrouping::Type, [kind, what]) if OF_JOBS.contains(what) => (*kind, *what),
                (SpendGrouping::Model, [provider, "", _, what]) => (*provider, *what),
                (SpendGrouping::Model, [_, model, _, what]) => (*model, *what),
                (SpendGrouping::Provider | SpendGrouping::User, [provider, _, _, what]) => (*provider, *what),
                _ => continue,
            };
            let line = lines.entry(name.to_owned()).or_default();
            line.name = name.to_owned();
            line.add(what, amount.parse().unwrap_or(0));
        }
    }
    let mut lines: Vec<ReportLine> = lines.into_values().collect();
    for line in &mut lines {
        line.usd_per_job = line.usd.nanos().checked_div(line.jobs).map(Usd::from_nanos);
    }
    if by != SpendGrouping::Day {
        lines.sort_by(most_first);
    }
    lines
}

/// Seconds of a day.
const DAY: u64 = 86_400;
/// Whole days before today by which a forecast goes.
pub(super) const WEEK: usize = 7;

/// The cost of the month of `now` (seconds since 1970, UTC) by its end: what was `spent`, and for the rest of the
/// month the mean of the last whole days (`week`, the newest first; days before the first cost do not count), or of
/// today's hours where today is the first day.
pub(super) fn forecast(
    now: u64,
    spent: Usd,
    today: Usd,
    week: &[Usd],
    days_of_month: u64,
    day_of_month: u64,
) -> Usd {
    let known = week
        .iter()
        .rposition(|usd| *usd > Usd::ZERO)
        .map_or(0, |oldest| oldest + 1);
    let of_today = now % DAY;
    let per_day = match known {
        // Of the first minutes alone, a forecast would be any number.
        0 => today.dollars() * DAY as f64 / of_today.max(DAY / 24) as f64,
        known => week.iter().take(known).map(|usd| usd.dollars()).sum::<f64>() / known as f64,
    };
    let days_left = days_of_month.saturating_sub(day_of_month) as f64 + (DAY - of_today) as f64 / DAY as f64;
    let rest = (per_day * days_left * 1e9).max(0.0);
    // A float to u64 saturates.
    spent.plus(Usd::from_nanos(rest as u64))
}

/// The number of days of a month.
pub(super) fn days_of(year: u64, month: u64) -> u64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_goes_by_the_last_week() {
        let usd = |dollars: u64| Usd::from_nanos(dollars * 1_000_000_000);
        let noon = 20_000 * DAY + DAY / 2;
        // Day 10 of 30: 20 days and a half are left.
        let of = |spent, today, week: &[Usd]| forecast(noon, usd(spent), usd(today), week, 30, 10).dollars();
        assert_eq!(of(50, 9, &[usd(2); WEEK]), 50.0 + 2.0 * 20.5);
        // Three days ago it began; a day without cost since counts.
        assert_eq!(
            of(50, 9, &[usd(4), usd(0), usd(2), usd(0), usd(0)]),
            50.0 + 2.0 * 20.5
        );
        assert_eq!(of(3, 3, &[usd(0); WEEK]), 3.0 + 6.0 * 20.5, "the first day");
        assert_eq!(of(0, 0, &[]), 0.0);
        let huge = forecast(
            noon,
            Usd::from_nanos(u64::MAX),
            usd(1),
            &[Usd::from_nanos(u64::MAX)],
            30,
            1,
        );
        assert_eq!(huge.nanos(), u64::MAX);
        let midnight = forecast(20_000 * DAY, usd(1), usd(1), &[], 30, 30);
        assert_eq!(midnight.dollars(), 25.0, "a day at the rate of an hour");
    }

    #[test]
    fn months_have_their_days() {
        let days = [
            (2024, 2, 29),
            (2026, 2, 28),
            (2100, 2, 28),
            (2000, 2, 29),
            (2026, 11, 30),
            (2026, 12, 31),
        ];
        for (year, month, expected) in days {
            assert_eq!(days_of(year, month), expected, "{year}-{month}");
        }
    }

    fn fields(pairs: &[(&str, &str)]) -> HashFields {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn the_rows_of_a_month_are_added_up_by_any_of_their_parts() {
        let days = ["2026-11-01".to_owned(), "2026-11-02".to_owned()];
        let sums = [
            fields(&[
                ("total", "9"),
                ("openai|m|generate-flashcards|usd", "5"),
                ("openai|m|generate-flashcards|calls", "2"),
                ("azure-vision||process-image|usd", "4"),
                ("generate-flashcards|jobs", "2"),
                ("generate-flashcards|reused", "3"),
                ("generate-flashcards|saved", "6"),
                ("reused", "3"),
            ]),
            fields(&[("openai|n|generate-flashcards|usd", "7"), ("odd|field", "x")]),
        ];
        let names = |by| {
            let lines = lines_of(&days, &sums, by);
            let named = lines.into_iter().map(|line| (line.name, line.usd.nanos()));
            named.collect::<Vec<_>>()
        };
        let expect = |pairs: &[(&str, u64)]| {
            pairs
                .iter()
                .map(|(name, usd)| ((*name).to_owned(), *usd))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(SpendGrouping::Day),
            expect(&[("2026-11-01", 9), ("2026-11-02", 7)])
        );
        assert_eq!(
            names(SpendGrouping::Provider),
            expect(&[("openai", 12), ("azure-vision", 4)])
        );
        assert_eq!(
            names(SpendGrouping::Model),
            expect(&[("n", 7), ("m", 5), ("azure-vision", 4)])
        );
        assert_eq!(
            names(SpendGrouping::Type),
            expect(&[("generate-flashcards", 12), ("process-image", 4)])
        );
        for by in [SpendGrouping::Type, SpendGrouping::Day] {
            let line = &lines_of(&days, &sums, by)[0];
            let told = (
                line.jobs,
                line.reused_jobs,
                line.saved_usd.nanos(),
                line.usd_per_job,
            );
            let per_job = if by == SpendGrouping::Type { 6 } else { 4 };
            assert_eq!(told, (2, 3, 6, Some(Usd::from_nanos(per_job))));
        }
    }
}
