use proptest::prelude::*;

use super::*;

fn prices() -> PriceTable {
    PriceTable::embedded().unwrap()
}

fn chat(model: &str, tier: &str, [prompt, cached, written, completion]: [u64; 4]) -> CallUsage {
    CallUsage {
        tier: tier.into(),
        cached_tokens: cached,
        cache_write_tokens: written,
        ..CallUsage::tokens(model, prompt, completion)
    }
}

fn cost(model: &str, tier: &str, tokens: [u64; 4]) -> Option<Usd> {
    prices().cost(Provider::OpenAi, &chat(model, tier, tokens))
}

fn usd(text: &str) -> Option<Usd> {
    Some(text.parse().unwrap())
}

#[test]
fn calls_cost_what_the_providers_pages_say() {
    // A deck of 3,000 and 2,300 tokens: docs/spending.md.
    assert_eq!(
        cost("gpt-4o-mini-2024-07-18", "default", [3000, 0, 0, 2300]),
        usd("0.00183")
    );
    assert_eq!(cost("gpt-6-luna", "", [3000, 0, 0, 2300]), usd("0.00145"));
    assert_eq!(cost("gpt-6-luna", "flex", [3000, 0, 0, 2300]), usd("0.000725"));
    assert_eq!(cost("gpt-6-luna", "priority", [3000, 0, 0, 2300]), usd("0.0029"));
    // Cached tokens, and the surcharge for what is written into the cache.
    assert_eq!(cost("gpt-6-luna", "", [3000, 1024, 1976, 0]), usd("0.00025724"));
    // Long requests cost more, all of them.
    assert_eq!(cost("gpt-6-luna", "", [272_000, 0, 0, 0]), usd("0.0272"));
    assert_eq!(cost("gpt-6-luna", "", [272_001, 0, 0, 1000]), usd("0.0551502"));
    let speech = prices().cost(Provider::AzureSpeech, &CallUsage::audio(1_001));
    assert_eq!(speech, Some(Usd::from_nanos(555_556)), "two seconds, rounded up");
    assert_eq!(
        prices().cost(Provider::AzureVision, &CallUsage::image()),
        usd("0.0015")
    );
}

#[test]
fn what_has_no_price_is_not_free() {
    for (model, tier) in [
        ("gpt-7", ""),
        ("gpt-4o-mini-audio-preview", ""),
        ("", ""),
        ("gpt-4o-mini", "flex"),
        ("gpt-6-luna", "scale"),
    ] {
        assert_eq!(cost(model, tier, [1, 0, 0, 1]), None, "{model} {tier}");
    }
}

#[test]
fn an_unknown_model_is_reported_once_and_the_reports_are_bounded() {
    let prices = prices();
    for n in 0..1000 {
        for _ in 0..2 {
            prices.cost(Provider::OpenAi, &CallUsage::tokens(&format!("new-{n}"), 1, 1));
        }
    }
    assert_eq!(prices.reported.lock().unwrap().len(), MOST_REPORTED);
}

const GOOD: &str = r#"
[[price]]
provider = "openai"
models = ["m"]
tier = "standard"
input = "1"
output = "2"
currency = "USD"
source = "https://example.org"
date = "2026-11-30"
"#;

#[test]
fn a_wrong_file_says_which_row_and_why() {
    assert_eq!(PriceTable::parse(GOOD).unwrap().len(), 1);
    assert!(PriceTable::parse("").unwrap().is_empty());
    for (from, to, why) in [
        (
            "\"USD\"",
            "\"EUR\"",
            "row 1 (openai m): `currency` is EUR: only USD is added up",
        ),
        (
            "\"2026-11-30\"",
            "\"30.11.2026\"",
            "row 1 (openai m): `date` is no day",
        ),
        ("[\"m\"]", "[]", "row 1 (openai ): `models` names no model"),
        ("https://example.org", " ", "`source` is empty"),
        ("input = \"1\"", "", "`output` without `input`"),
        ("output = \"2\"", "", "`input` without `output`"),
        ("input = \"1\"\noutput = \"2\"", "", "no price"),
        (
            "input = \"1\"\noutput = \"2\"",
            "cached_input = \"1\"\naudio_hour = \"1\"",
            "need `input`",
        ),
        ("input = \"1\"", "input = \"-1\"", "an amount in USD"),
        ("input = \"1\"", "input = 1.0", "invalid type"),
        ("input = \"1\"", "inptu = \"1\"", "unknown field `inptu`"),
        ("\"standard\"", "\"gold\"", "unknown variant `gold`"),
        ("\"openai\"", "\"acme\"", "unknown variant `acme`"),
        ("[[price]]", "[[price]", "TOML parse error"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD);
        let error = PriceTable::parse(&text).expect_err(to).to_string();
        assert!(error.contains(why), "{to}: {error}");
    }
    let twice = format!("{GOOD}{}", GOOD.replace("[\"m\"]", "[\"x\", \"M\"]"));
    let error = PriceTable::parse(&twice).unwrap_err().to_string();
    assert_eq!(error, "row 2 (openai x, M): the price of M is there twice");
}

#[test]
fn the_pattern_with_the_most_literal_characters_wins() {
    let row = |pattern: &str, input: &str| {
        GOOD.replace("[\"m\"]", &format!("[\"{pattern}\"]"))
            .replace("input = \"1\"", &format!("input = \"{input}\""))
    };
    let text = [row("*", "1"), row("ab*", "2"), row("ab?d", "3"), row("abcd", "4")].concat();
    let prices = PriceTable::parse(&text).unwrap();
    for (model, input) in [("z", "1"), ("abx", "2"), ("abXd", "3"), ("ABCD", "4"), ("", "1")] {
        let usage = CallUsage::tokens(model, 1_000_000, 0);
        assert_eq!(prices.cost(Provider::OpenAi, &usage), usd(input), "{model}");
    }
}

proptest! {
    /// A price of whole nano-dollars a token: the cost is the sum of its parts, to the nano-dollar.
    #[test]
    fn a_cost_is_the_sum_of_its_parts(
        prompt in 0..1_000_000u64, cached in 0..1_000_000u64, written in 0..1_000_000u64, completion in 0..1_000_000u64,
    ) {
        let text = GOOD.replace("input = \"1\"", "input = \"0.3\"\ncached_input = \"0.03\"\ncache_write = \"0.4\"");
        let prices = PriceTable::parse(&text).unwrap();
        let cached = cached.min(prompt);
        let written = written.min(prompt - cached);
        let usage = chat("m", "", [prompt, cached, written, completion]);
        let expected = (prompt - cached - written) * 300 + cached * 30 + written * 400 + completion * 2000;
        prop_assert_eq!(prices.cost(Provider::OpenAi, &usage), Some(Usd::from_nanos(expected)));
    }

    /// More use never costs less, and no use overflows.
    #[test]
    fn a_cost_never_falls_with_use(prompt: u64, completion: u64, audio: u64, more: u64) {
        let prices = prices();
        let of = |prompt, completion| prices.cost(Provider::OpenAi, &CallUsage::tokens("gpt-4o-mini", prompt, completion));
        prop_assert!(of(prompt, completion) <= of(prompt.saturating_add(more), completion.saturating_add(more)));
        let speech = |ms| prices.cost(Provider::AzureSpeech, &CallUsage::audio(ms));
        prop_assert!(speech(audio) <= speech(audio.saturating_add(more)));
    }

    #[test]
    fn a_pattern_without_wildcards_matches_itself_only(text in "[a-c]{0,6}", other in "[a-c]{0,6}") {
        prop_assert_eq!(matches(&text, &other), text == other);
        prop_assert!(matches("*", &text));
        let around = format!("*{text}*");
        prop_assert!(matches(&around, &format!("{other}{text}{other}")), "{}", around);
    }
}
