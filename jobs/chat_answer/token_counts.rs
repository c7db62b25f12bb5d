//! The counts of tokens in an answer.

use super::{
    ESTIMATED,
    json::{ObjectMembers, number},
};

/// Tokens that the provider counted for one answer. What it did not count is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TokenCounts {
    /// Tokens of the request.
    pub(crate) prompt: u64,
    /// Of these, tokens that came from the provider's cache.
    pub(crate) cached: u64,
    /// Tokens of the answer, reasoning included.
    pub(crate) completion: u64,
    /// Of these, tokens of reasoning.
    pub(crate) reasoning: u64,
    /// All tokens, as the provider adds them up.
    pub(crate) total: u64,
    /// True if the provider has counted none, and the counts are the worker's estimate.
    pub(crate) is_estimated: bool,
}

impl TokenCounts {
    pub(super) fn of(usage: &str) -> Self {
        let [
            prompt,
            input,
            completion,
            output,
            total,
            prompt_details,
            input_details,
            completion_details,
            output_details,
            cache_hit,
            cache_read,
            estimated,
        ] = ObjectMembers::of(
            usage,
            [
                "prompt_tokens",
                "input_tokens",
                "completion_tokens",
                "output_tokens",
                "total_tokens",
                "prompt_tokens_details",
                "input_tokens_details",
                "completion_tokens_details",
                "output_tokens_details",
                "prompt_cache_hit_tokens",
                "cache_read_input_tokens",
                ESTIMATED,
            ],
        )
        .0;
        let detail = |details: [Option<&str>; 2], name| {
            let details = details.into_iter().flatten();
            details
                .filter_map(|details| ObjectMembers::of(details, [name]).0[0])
                .find_map(number)
        };
        let first = |places: [Option<&str>; 2]| places.into_iter().flatten().find_map(number);
        let prompt = first([prompt, input]).unwrap_or(0);
        let completion = first([completion, output]).unwrap_or(0);
        Self {
            prompt,
            completion,
            cached: detail([prompt_details, input_details], "cached_tokens")
                .or_else(|| first([cache_hit, cache_read]))
                .unwrap_or(0)
                .min(prompt),
            reasoning: detail([completion_details, output_details], "reasoning_tokens").unwrap_or(0),
            total: total
                .and_then(number)
                .filter(|total| *total > 0)
                .unwrap_or_else(|| prompt.saturating_add(completion)),
            is_estimated: estimated == Some("true"),
        }
    }

    /// Returns true if the provider has counted as many tokens of the answer as it had room for.
    pub(crate) const fn fill(&self, room: u64) -> bool {
        !self.is_estimated && self.completion >= room
    }

    /// Adds the counts of another answer.
    pub(crate) fn add(&mut self, other: Self) {
        for (sum, count) in [
            (&mut self.prompt, other.prompt),
            (&mut self.cached, other.cached),
            (&mut self.completion, other.completion),
            (&mut self.reasoning, other.reasoning),
            (&mut self.total, other.total),
        ] {
            *sum = sum.saturating_add(count);
        }
        self.is_estimated |= other.is_estimated;
    }
}
