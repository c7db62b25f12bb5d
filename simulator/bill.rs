//! What each answer costs: the provider's side of the books. It reads the same prices as the worker, and calculates
//! on its own, in floating point, so that a fault of the worker's arithmetic shows.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::Provider;

static PRICES: LazyLock<Vec<Table>> = LazyLock::new(|| {
    let file: Table = include_str!("../prices.toml").parse().unwrap_or_default();
    let rows = file.get("price").and_then(Value::as_array);
    let tables = rows.into_iter().flatten().filter_map(Value::as_table);
    tables.cloned().collect()
});

/// One position of the bill.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Bill {
    /// USD; absent where the prices know no such model.
    pub usd: Option<f64>,
    /// The model.
    pub model: String,
    /// The tier that the answer names.
    pub tier: String,
    /// Tokens of the request.
    pub prompt_tokens: u64,
    /// Of these, from the cache.
    pub cached_tokens: u64,
    /// Of these, written to the cache.
    pub written_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Seconds of audio, begun ones included.
    pub seconds: u64,
    /// Transactions.
    pub transactions: u64,
    /// Images or pages.
    #[serde(default)]
    pub images: u64,
}

impl Bill {
    /// The position with its price.
    pub(super) fn priced(self, provider: Provider) -> Self {
        let usd = row(provider, &self).map(|row| {
            let price = |name: &str| row.get(name)?.as_str()?.parse::<f64>().ok();
            let input = price("input").unwrap_or(0.0);
            let fresh = (self.prompt_tokens - self.cached_tokens - self.written_tokens) as f64;
            let tokens = fresh * input
                + self.cached_tokens as f64 * price("cached_input").unwrap_or(input)
                + self.written_tokens as f64 * price("cache_write").unwrap_or(input)
                + self.completion_tokens as f64 * price("output").unwrap_or(0.0);
            tokens / 1e6
                + self.seconds as f64 * price("audio_hour").unwrap_or(0.0) / 3600.0
                + self.transactions as f64 * price("thousand_transactions").unwrap_or(0.0) / 1000.0
                + self.images as f64 * price("thousand_images").unwrap_or(0.0) / 1000.0
        });
        Self { usd, ..self }
    }
}

/// The row of a model: the most specific pattern, and the largest request that it begins with.
fn row(provider: Provider, bill: &Bill) -> Option<&'static Table> {
    let tier = match bill.tier.as_str() {
        "priority" => "fast",
        "" | "default" => "standard",
        tier => tier,
    };
    let mut best: Option<(usize, i64, &Table)> = None;
    for row in PRICES.iter() {
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        if text("provider") != Some(provider.as_str()) || text("tier") != Some(tier) {
            continue;
        }
        let above = row
            .get("above_input_tokens")
            .and_then(Value::as_integer)
            .unwrap_or(0);
        let patterns = row.get("models").and_then(Value::as_array).into_iter().flatten();
        // The simulator is asked for undated models: a name, or any.
        let fits = patterns
            .filter_map(Value::as_str)
            .filter_map(|pattern| match pattern {
                "*" => Some(0),
                name if name == bill.model => Some(name.len()),
                _ => None,
            });
        if let Some(fit) = fits.max()
            && (above == 0 || i64::try_from(bill.prompt_tokens).is_ok_and(|tokens| tokens > above))
            && best.is_none_or(|(known, at, _)| (fit, above) >= (known, at))
        {
            best = Some((fit, above, row));
        }
    }
    best.map(|(.., row)| row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_is_as_the_table_says() {
        let chat = |prompt, cached, completion, tier: &str| Bill {
            model: "gpt-6-luna".to_owned(),
            tier: tier.to_owned(),
            prompt_tokens: prompt,
            cached_tokens: cached,
            completion_tokens: completion,
            ..Bill::default()
        };
        for (bill, provider, usd) in [
            (chat(1_000_000 / 4, 0, 0, "default"), Provider::OpenAi, 0.025),
            (chat(1000, 500, 100, "default"), Provider::OpenAi, 0.000_105),
            (chat(1000, 0, 100, "flex"), Provider::OpenAi, 0.000_075),
            (chat(300_000, 0, 0, ""), Provider::OpenAi, 0.06),
        ] {
            let found = bill.clone().priced(provider).usd.unwrap();
            assert!((found - usd).abs() < 1e-12, "{bill:?}: {found}");
        }
        let speech = Bill {
            seconds: 36,
            ..Bill::default()
        };
        assert_eq!(speech.priced(Provider::AzureSpeech).usd, Some(0.01));
        let unknown = Bill {
            model: "x".to_owned(),
            ..Bill::default()
        };
        assert_eq!(unknown.priced(Provider::OpenAi).usd, None);
    }
}
