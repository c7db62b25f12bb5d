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
}

impl ReportLine {
    pub(super) fn add(&mut self, name: &str, amount: u64) {
        let count = match name {
            "usd" => return self.usd = self.usd.plus(Usd::from_nanos(amount)),
            "possible" => return self.possible_usd = self.possible_usd.plus(Usd::from_nanos(amount)),
            "calls" => &mut self.calls,
            "unpriced" => &mut self.unpriced_calls,
            "lost" => &mut self.lost_calls,
            "in" => &mut self.prompt_tokens,
            "cached" => &mut self.cached_tokens,
            "out" => &mut self.completion_tokens,
            "reasoning" => &mut self.reasoning_tokens,
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
    /// Most spent first; days in their order.
    pub lines: Vec<ReportLine>,
}

pub(super) fn most_first(one: &ReportLine, other: &ReportLine) -> std::cmp::Ordering {
    let by = |line: &ReportLine| Reverse((line.usd, line.possible_usd));
    by(one).cmp(&by(other)).then_with(|| one.name.cmp(&other.name))
}

/// The rows of all days, added up.
pub(super) fn lines_of(days: &[String], sums: &[HashFields], by: SpendGrouping) -> Vec<ReportLine> {
    let mut lines: BTreeMap<String, ReportLine> = BTreeMap::new();
    for (day, fields) in days.iter().zip(sums) {
        for (field, amount) in fields {
            let parts: Vec<&str> = field.split('|').collect();
            let [provider, model, kind, what] = parts[..] else {
                continue;
            };
            let name = match by {
                SpendGrouping::Day => day,
                SpendGrouping::Type => kind,
                SpendGrouping::Model if model.is_empty() => provider,
                SpendGrouping::Model => model,
                SpendGrouping::Provider | SpendGrouping::User => provider,
            };
            let line = lines.entry(name.to_owned()).or_default();
            line.name = name.to_owned();
            line.add(what, amount.parse().unwrap_or(0));
        }
    }
    let mut lines: Vec<ReportLine> = lines.into_values().collect();
    if by != SpendGrouping::Day {
        lines.sort_by(most_first);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
