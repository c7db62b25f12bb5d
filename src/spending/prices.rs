//! The prices of the providers.
//!
//! The prices of this version are in `prices.toml`, which the binary embeds; `PRICES_FILE` names another file. A model
//! without a price is unpriced: its calls are counted as such, and never as free.

use std::{collections::HashSet, sync::Mutex};

use jobs::{CallUsage, Provider};
use serde::Deserialize;
use tracing::warn;

use super::Usd;
use crate::locks::locked;

/// The prices of this version.
const EMBEDDED: &str = include_str!("../../prices.toml");
/// Largest file that is read, bytes.
const LARGEST_FILE: u64 = 1024 * 1024;
/// Models without a price that the log names: a provider can invent names.
const MOST_REPORTED: usize = 50;

/// The fault of a file of prices.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// It cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// It is too large.
    #[error("the file has more than {LARGEST_FILE} bytes")]
    TooLarge,
    /// It is no TOML, or not of this form.
    #[error("{0}")]
    Malformed(#[from] toml::de::Error),
    /// A row contradicts itself or another one.
    #[error("row {row} ({provider} {models}): {why}", models = models.join(", "))]
    Row {
        /// Which row, from 1.
        row: usize,
        /// Its provider.
        provider: Provider,
        /// Its models.
        models: Vec<String>,
        /// The fault.
        why: String,
    },
}

/// A file of prices.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    #[serde(default)]
    price: Vec<PriceRow>,
}

/// The price of some models in one tier.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceRow {
    provider: Provider,
    models: Vec<String>,
    tier: ServiceTier,
    #[serde(default)]
    above_input_tokens: u64,
    input: Option<Usd>,
    cached_input: Option<Usd>,
    cache_write: Option<Usd>,
    output: Option<Usd>,
    audio_hour: Option<Usd>,
    thousand_transactions: Option<Usd>,
    thousand_images: Option<Usd>,
    currency: String,
    source: String,
    date: String,
}

/// How a provider served a call, as far as the price depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ServiceTier {
    Standard,
    Flex,
    Batch,
    Fast,
}

impl ServiceTier {
    /// The tier that a provider's answer names; `None` for one that is not known.
    fn of(name: &str) -> Option<Self> {
        match name {
            "" | "auto" | "default" | "standard" | "none" => Some(Self::Standard),
            "flex" => Some(Self::Flex),
            "batch" => Some(Self::Batch),
            "fast" | "priority" => Some(Self::Fast),
            _ => None,
        }
    }
}

impl PriceRow {
    fn check(&self) -> Result<(), String> {
        if self.models.is_empty() || self.models.iter().any(String::is_empty) {
            return Err("`models` names no model".to_owned());
        }
        if self.currency != "USD" {
            return Err(format!(
                "`currency` is {}: only USD is added up",
                self.currency.chars().take(10).collect::<String>()
            ));
        }
        if self.source.trim().is_empty() {
            return Err("`source` is empty".to_owned());
        }
        if !is_date(&self.date) {
            return Err("`date` is no day such as 2026-11-30".to_owned());
        }
        match (self.input, self.output) {
            (Some(_), None) => return Err("`input` without `output`".to_owned()),
            (None, Some(_)) => return Err("`output` without `input`".to_owned()),
            (None, None) if self.cached_input.or(self.cache_write).is_some() => {
                return Err("`cached_input` and `cache_write` need `input`".to_owned());
            }
            _ => {}
        }
        let has_price = [
            self.input,
            self.audio_hour,
            self.thousand_transactions,
            self.thousand_images,
        ];
        match has_price.iter().any(Option::is_some) {
            true => Ok(()),
            false => Err("no price".to_owned()),
        }
    }

    /// The number of literal characters of the pattern that `model` matches best.
    fn fit(&self, model: &str) -> Option<usize> {
        let fits = self.models.iter().filter(|pattern| matches(pattern, model));
        fits.map(|pattern| pattern.bytes().filter(|b| !b"*?".contains(b)).count())
            .max()
    }

    fn cost(&self, usage: &CallUsage) -> Usd {
        let input = self.input.unwrap_or_default();
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let written = usage.cache_write_tokens.min(usage.prompt_tokens - cached);
        let tokens = [
            (usage.prompt_tokens - cached - written, input),
            (cached, self.cached_input.unwrap_or(input)),
            (written, self.cache_write.unwrap_or(input)),
            (usage.completion_tokens, self.output.unwrap_or_default()),
        ];
        let tokens = tokens
            .map(|(count, price)| product(count, price))
            .iter()
            .sum::<u128>();
        let seconds = usage.audio_ms.div_ceil(1000);
        let [audio, transactions, images] = [
            (seconds, self.audio_hour),
            (usage.transactions, self.thousand_transactions),
            (usage.images, self.thousand_images),
        ]
        .map(|(count, price)| product(count, price.unwrap_or_default()));
        // Rounded once for each unit, up: a call never costs less than it is billed.
        let nanos =
            tokens.div_ceil(1_000_000) + audio.div_ceil(3600) + (transactions + images).div_ceil(1000);
        Usd::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn product(count: u64, price: Usd) -> u128 {
    u128::from(count) * u128::from(price.nanos())
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else {
        return false;
    };
    let within = |part: &str, length, range: std::ops::RangeInclusive<u32>| {
        part.len() == length
            && part.bytes().all(|b| b.is_ascii_digit())
            && part.parse().is_ok_and(|number| range.contains(&number))
    };
    within(year, 4, 2000..=2999) && within(month, 2, 1..=12) && within(day, 2, 1..=31)
}

/// Returns true if `text` has the form of `pattern`: `*` any text, `?` one character. ASCII case does not matter.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stands, and up to where it has matched.
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted.eq_ignore_ascii_case(&byte) => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, matched)) = star else { return false };
                star = Some((at, matched + 1));
                p = at + 1;
                t = matched + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

/// The prices in force; none by default.
#[derive(Debug, Default)]
pub struct PriceTable {
    rows: Vec<PriceRow>,
    /// Models without a price that the log has named.
    reported: Mutex<HashSet<(Provider, String)>>,
}

impl PriceTable {
    /// The prices of this version.
    ///
    /// # Errors
    /// Never in a released version: a test reads them.
    pub fn embedded() -> Result<Self, PricesError> {
        Self::parse(EMBEDDED)
    }

    /// The prices in a file.
    ///
    /// # Errors
    /// The fault.
    pub fn from_file(path: &std::path::Path) -> Result<Self, PricesError> {
        if std::fs::metadata(path)?.len() > LARGEST_FILE {
            return Err(PricesError::TooLarge);
        }
        Self::parse(&std::fs::read_to_string(path)?)
    }

    fn parse(text: &str) -> Result<Self, PricesError> {
        let PriceFile { price: rows } = toml::from_str(text)?;
        let mut known = HashSet::new();
        for (at, row) in rows.iter().enumerate() {
            let twice = row.models.iter().find(|model| {
                let key = (
                    row.provider,
                    model.to_lowercase(),
                    row.tier,
                    row.above_input_tokens,
                );
                !known.insert(key)
            });
            let twice = twice.map(|model| format!("the price of {model} is there twice"));
            if let Some(why) = row.check().err().or(twice) {
                return Err(PricesError::Row {
                    row: at + 1,
                    provider: row.provider,
                    models: row.models.clone(),
                    why,
                });
            }
        }
        Ok(Self {
            rows,
            reported: Mutex::default(),
        })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns true if every call is unpriced.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The cost of `usage`; `None` if its model and tier have no price, which the log says once for each model.
    pub fn cost(&self, provider: Provider, usage: &CallUsage) -> Option<Usd> {
        let row = self.row(provider, usage);
        if row.is_none() {
            self.report(provider, usage);
        }
        Some(row?.cost(usage))
    }

    /// The cost of `usage`, where it has a price.
    pub(super) fn known_cost(&self, provider: Provider, usage: &CallUsage) -> Option<Usd> {
        Some(self.row(provider, usage)?.cost(usage))
    }

    /// The row of the pattern that fits best, for requests of this length.
    fn row(&self, provider: Provider, usage: &CallUsage) -> Option<&PriceRow> {
        let tier = ServiceTier::of(&usage.tier)?;
        let candidates = self.rows.iter().filter(|row| {
            row.provider == provider
                && row.tier == tier
                && (row.above_input_tokens == 0 || usage.prompt_tokens > row.above_input_tokens)
        });
        let fitting = candidates.filter_map(|row| Some((row.fit(&usage.model)?, row)));
        fitting
            .max_by_key(|(fit, row)| (*fit, row.above_input_tokens))
            .map(|(_, row)| row)
    }

    fn report(&self, provider: Provider, usage: &CallUsage) {
        let mut reported = locked(&self.reported);
        let name: String = format!("{} {}", usage.model, usage.tier)
            .chars()
            .take(100)
            .collect();
        if reported.len() < MOST_REPORTED && reported.insert((provider, name)) {
            let model: String = usage.model.chars().take(100).collect();
            let tier: String = usage.tier.chars().take(20).collect();
            warn!(%provider, model, tier,
                "no price is known for this model and tier: its calls are counted as unpriced; add it to PRICES_FILE");
        }
    }
}

#[cfg(test)]
mod tests;
