//! The usage of a call, in the units that providers bill.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Number, value::RawValue};

use crate::{
    Provider, ProviderCall,
    chat_answer::ChatAnswer,
    raw::{PickedValue, pick},
};

/// The cost of a job, as results say it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobCost {
    /// Answers that were paid for, those of earlier deliveries included.
    pub calls: u32,
    /// Their cost, USD, by the worker's prices; null where one of them has no price.
    pub cost_usd: Option<Number>,
    /// True if the result is that of an equal job, which paid for it: `costUsd` is 0 then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reused: Option<bool>,
}

/// Units that one call uses, estimated before it is sent or counted by the provider afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallUsage {
    /// The model, as the provider names it or as the request does; empty where the provider knows no models.
    pub model: Arc<str>,
    /// The service tier that the provider names; empty for the usual one.
    pub tier: Arc<str>,
    /// Tokens of the request, all of them.
    pub prompt_tokens: u64,
    /// Of these, tokens that came from the provider's cache.
    pub cached_tokens: u64,
    /// Of these, tokens that the provider wrote into its cache.
    pub cache_write_tokens: u64,
    /// Tokens of the answer, reasoning included.
    pub completion_tokens: u64,
    /// Of these, tokens of reasoning.
    pub reasoning_tokens: u64,
    /// Audio, ms.
    pub audio_ms: u64,
    /// Requests that are billed as such.
    pub transactions: u64,
    /// Images or pages.
    pub images: u64,
}

impl CallUsage {
    /// The most that a request to a language model uses.
    pub fn tokens(model: &str, prompt: u64, completion: u64) -> Self {
        Self {
            model: model.into(),
            prompt_tokens: prompt,
            completion_tokens: completion,
            transactions: 1,
            ..Self::default()
        }
    }

    /// One request about so much audio.
    pub fn audio(ms: u64) -> Self {
        Self {
            audio_ms: ms,
            transactions: 1,
            ..Self::default()
        }
    }

    /// One request about one image.
    pub fn image() -> Self {
        Self::pages(1)
    }

    /// One request about a file of so many pages, each of which is billed as a transaction.
    pub fn pages(count: u64) -> Self {
        Self {
            images: count,
            transactions: count,
            ..Self::default()
        }
    }

    /// The same usage, at the price of `model`.
    pub fn of_model(self, model: &str) -> Self {
        Self {
            model: model.into(),
            ..self
        }
    }

    /// What `call` has used, by the provider's `answer`. Azure counts nothing in its answers, and bills what was
    /// sent: the estimate. So does a language model whose answer holds no counts, as far as anyone can tell.
    pub fn of_answer(call: &ProviderCall, answer: &RawValue) -> Self {
        match call.provider {
            Provider::OpenAi => of_chat(answer).map_or_else(
                || call.estimate.clone(),
                |counted| Self {
                    model: if counted.model.is_empty() {
                        call.estimate.model.clone()
                    } else {
                        counted.model
                    },
                    ..counted
                },
            ),
            Provider::AzureSpeech | Provider::AzureVision => call.estimate.clone(),
        }
    }
}

/// The counts of a chat completion; `None` where it holds none.
fn of_chat(answer: &RawValue) -> Option<CallUsage> {
    let [
        prompt,
        completion,
        cached,
        cache_hit,
        written,
        reasoning,
        model,
        tier,
    ] = pick(
        answer.get(),
        [
            "/usage/prompt_tokens",
            "/usage/completion_tokens",
            "/usage/prompt_tokens_details/cached_tokens",
            "/usage/prompt_cache_hit_tokens",
            "/usage/prompt_tokens_details/cache_write_tokens",
            "/usage/completion_tokens_details/reasoning_tokens",
            "/model",
            "/service_tier",
        ],
    );
    let count = |picked: Option<PickedValue<'_>>| picked.and_then(|picked| picked.count());
    let word = |picked: Option<PickedValue<'_>>| picked.and_then(PickedValue::into_text).unwrap_or_default();
    let (prompt, completion) = (count(prompt), count(completion));
    let tier = word(tier).into();
    // Other shapes are looked for by the reader of answers, which knows them.
    let (Some(prompt), Some(completion)) = (prompt, completion) else {
        let answer = ChatAnswer::read(answer);
        let tokens = answer.tokens;
        let is_counted = tokens.prompt > 0 || tokens.completion > 0;
        return is_counted.then(|| CallUsage {
            model: answer.model.into(),
            tier,
            prompt_tokens: tokens.prompt,
            cached_tokens: tokens.cached.min(tokens.prompt),
            completion_tokens: tokens.completion,
            reasoning_tokens: tokens.reasoning,
            transactions: 1,
            ..CallUsage::default()
        });
    };
    let cached = count(cached).or(count(cache_hit)).unwrap_or(0).min(prompt);
    Some(CallUsage {
        model: word(model).into(),
        tier,
        prompt_tokens: prompt,
        cached_tokens: cached,
        cache_write_tokens: count(written).unwrap_or(0).min(prompt - cached),
        completion_tokens: completion,
        reasoning_tokens: count(reasoning).unwrap_or(0),
        transactions: 1,
        ..CallUsage::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    fn used(answer: &Value) -> CallUsage {
        let call =
            ProviderCall::new(Provider::OpenAi, "chat").estimating(CallUsage::tokens("asked", 100, 1000));
        CallUsage::of_answer(&call, &to_raw_value(answer).unwrap())
    }

    #[test]
    fn counts_of_every_provider_are_read() {
        let openai = used(&json!({
            "model": "gpt-4o-mini-2024-07-18", "service_tier": "flex",
            "usage": {"prompt_tokens": 2000, "completion_tokens": 300, "total_tokens": 2300,
                "prompt_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 512},
                "completion_tokens_details": {"reasoning_tokens": 64}},
        }));
        assert_eq!(
            (&*openai.model, &*openai.tier),
            ("gpt-4o-mini-2024-07-18", "flex")
        );
        assert_eq!(
            (
                openai.prompt_tokens,
                openai.cached_tokens,
                openai.cache_write_tokens
            ),
            (2000, 1024, 512)
        );
        assert_eq!((openai.completion_tokens, openai.reasoning_tokens), (300, 64));
        let deepseek = used(&json!({
            "model": "deepseek-flash",
            "usage": {"prompt_tokens": 90, "completion_tokens": 8, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 26},
        }));
        assert_eq!((deepseek.cached_tokens, deepseek.cache_write_tokens), (64, 0));
        let responses = used(&json!({
            "choices": [{"message": {"content": "x"}}], "usage": {"input_tokens": "12", "output_tokens": 3.0},
        }));
        assert_eq!((responses.prompt_tokens, responses.completion_tokens), (12, 3));
        assert_eq!(&*responses.model, "asked", "the answer names none");
    }

    #[test]
    fn an_answer_without_counts_costs_its_estimate() {
        for answer in [json!({}), json!({"usage": null, "model": "m"}), json!([])] {
            assert_eq!(used(&answer), CallUsage::tokens("asked", 100, 1000), "{answer}");
        }
        let call = ProviderCall::new(Provider::AzureSpeech, "assess").estimating(CallUsage::audio(1500));
        let answer = to_raw_value(&json!({"RecognitionStatus": "Success"})).unwrap();
        assert_eq!(CallUsage::of_answer(&call, &answer).audio_ms, 1500);
    }

    #[test]
    fn more_cached_tokens_than_tokens_are_no_negative_cost() {
        let odd = used(&json!({"usage": {"prompt_tokens": 5, "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 9, "cache_write_tokens": 7}}}));
        assert_eq!(
            (odd.prompt_tokens, odd.cached_tokens, odd.cache_write_tokens),
            (5, 5, 0)
        );
    }
}
