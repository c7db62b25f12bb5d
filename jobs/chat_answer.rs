//! Reads a chat completion as providers really send it.
//!
//! The fields of the protocol are in providers' documentation; compatible providers leave some out, nest the content in
//! parts, answer through a tool call, or write numbers as text. The reader takes what it finds, and never builds a tree
//! of the answer.

use serde_json::value::RawValue;

use crate::{
    raw::{PickedValue, pick},
    text::{clean, without_lone_surrogates},
};

mod json;
pub(crate) mod parts;
#[cfg(test)]
mod tests;
mod token_counts;

use json::{ArrayItems, ObjectMembers, items_or_itself, number, string};
pub(crate) use token_counts::TokenCounts;

/// Longest name of a model that is passed on, characters.
const LONGEST_MODEL: usize = 100;
/// Lists of parts within parts are read this deep.
const DEEPEST_PARTS: usize = 2;

/// The member of `usage` that marks counts as the worker's estimate.
pub(crate) const ESTIMATED: &str = "estimated";

/// The member of an answer that names the deployment which gave it, where there are several.
pub(crate) const DEPLOYMENT_NAME: &str = "deployment";

/// Why a model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FinishReason {
    /// It had no room left.
    Length,
    /// A filter of the provider stopped it.
    ContentFilter,
    /// Anything else: it had finished, or the provider does not say.
    Other,
}

/// One answer of a model.
#[derive(Debug, PartialEq)]
pub(crate) struct ChatAnswer {
    /// The text that the model wrote; empty when it wrote none.
    pub(crate) text: String,
    /// The model's own words for a refusal; empty when it did not refuse.
    pub(crate) refusal: String,
    pub(crate) finish: FinishReason,
    pub(crate) tokens: TokenCounts,
    /// The model that the provider names; empty when it names none.
    pub(crate) model: String,
    /// The deployment that gave it, where there are several; empty otherwise.
    pub(crate) deployment: String,
    /// True if the answer has any choice at all.
    pub(crate) has_choice: bool,
}

impl ChatAnswer {
    /// Reads an answer. Fields of an unexpected type count as missing.
    pub(crate) fn read(body: &RawValue) -> Self {
        let json = without_lone_surrogates(body.get());
        Self::read_usual(&json).unwrap_or_else(|| Self::read_any(&json))
    }

    /// Reads an answer in the shape that most providers send, in one pass.
    fn read_usual(json: &str) -> Option<Self> {
        let [
            text,
            refusal,
            finish,
            prompt,
            completion,
            total,
            cached,
            reasoning,
            model,
            deployment,
            tool,
        ] = pick(
            json,
            [
                "/choices/0/message/content",
                "/choices/0/message/refusal",
                "/choices/0/finish_reason",
                "/usage/prompt_tokens",
                "/usage/completion_tokens",
                "/usage/total_tokens",
                "/usage/prompt_tokens_details/cached_tokens",
                "/usage/completion_tokens_details/reasoning_tokens",
                "/model",
                "/deployment",
                "/choices/0/message/tool_calls/0/function/name",
            ],
        );
        if tool.is_some() {
            return None;
        }
        let text = text
            .and_then(PickedValue::into_text)
            .filter(|text| !text.trim().is_empty())?;
        let count = |picked: Option<PickedValue<'_>>| picked.and_then(|picked| picked.count());
        // Missing or in another notation, the counts are looked for again.
        let (prompt, completion) = (count(prompt)?, count(completion)?);
        let total = count(total).filter(|total| *total > 0)?;
        let word =
            |picked: Option<PickedValue<'_>>| picked.and_then(PickedValue::into_text).unwrap_or_default();
        Some(Self {
            text,
            refusal: word(refusal),
            finish: FinishReason::of(&word(finish)),
            tokens: TokenCounts {
                prompt,
                completion,
                total,
                cached: count(cached)?.min(prompt),
                reasoning: count(reasoning).unwrap_or(0),
                is_estimated: false,
            },
            model: shortened(&word(model)),
            deployment: shortened(&word(deployment)),
            has_choice: true,
        })
    }

    /// Reads an answer in any shape that is known.
    fn read_any(json: &str) -> Self {
        // Some gateways put the answer into an array.
        let answer = match json.starts_with('[') {
            true => items_or_itself(json).first().copied().unwrap_or_default(),
            false => json,
        };
        let root = ObjectMembers::of(
            answer,
            [
                "choices",
                "usage",
                "model",
                "message",
                "output_text",
                "output",
                "content",
                DEPLOYMENT_NAME,
            ],
        );
        let [
            choices,
            usage,
            model,
            message,
            output_text,
            output,
            content,
            deployment,
        ] = root.0;
        let root = Written::of([content, output_text, output], message.unwrap_or_default());
        let mut choices = choices.map(items_or_itself).unwrap_or_default().into_iter();
        let first = choices.next().map(Choice::of).unwrap_or_default();
        // A choice can be empty although the next one is not.
        let choice = match first.written.is_blank() {
            true => choices
                .map(Choice::of)
                .find(|choice| !choice.written.is_blank())
                .unwrap_or(first),
            false => first,
        };
        let has_choice = choice.is_given || root.is_given;
        let written = match choice.written.is_blank() && choice.written.refusal.is_empty() {
            true => root,
            false => choice.written,
        };
        Self {
            text: written.text,
            refusal: written.refusal,
            finish: FinishReason::of(&choice.finish),
            tokens: usage.map(TokenCounts::of).unwrap_or_default(),
            model: model
                .and_then(string)
                .map(|name| shortened(&name))
                .unwrap_or_default(),
            deployment: deployment
                .and_then(string)
                .map(|name| shortened(&name))
                .unwrap_or_default(),
            has_choice,
        }
    }
}

/// One of an answer's choices.
#[derive(Default)]
struct Choice {
    written: Written,
    finish: String,
    /// True if it has a message or a text at all.
    is_given: bool,
}

impl Choice {
    fn of(choice: &str) -> Self {
        let [message, delta, text, finish] =
            ObjectMembers::of(choice, ["message", "delta", "text", "finish_reason"]).0;
        let written = Written::of([text, None, None], message.or(delta).unwrap_or_default());
        Self {
            is_given: written.is_given,
            written,
            finish: finish.and_then(string).unwrap_or_default(),
        }
    }
}

/// The model's words in a message.
#[derive(Default)]
struct Written {
    text: String,
    refusal: String,
    /// True if there is a message or one of the other places.
    is_given: bool,
}

impl Written {
    /// The text of a message, or in one of `others`; and behind it the arguments of the tools that the message calls:
    /// some gateways request the schema as a tool, and the deck is then in the call.
    fn of(others: [Option<&str>; 3], message: &str) -> Self {
        let [content, refusal, tool_calls, function_call] =
            ObjectMembers::of(message, ["content", "refusal", "tool_calls", "function_call"]).0;
        let mut written = Self {
            text: String::new(),
            refusal: refusal.and_then(string).unwrap_or_default(),
            is_given: !message.is_empty() || others.iter().any(Option::is_some),
        };
        for content in [content].into_iter().chain(others).flatten() {
            let found = Content::of(content, 0);
            if written.refusal.is_empty() {
                written.refusal = found.refusal;
            }
            if !found.text.trim().is_empty() {
                written.text = found.text;
                break;
            }
        }
        let calls = tool_calls.map(items_or_itself).unwrap_or_default();
        let functions = calls
            .iter()
            .filter_map(|call| ObjectMembers::of(call, ["function"]).0[0]);
        for arguments in functions
            .chain(function_call)
            .filter_map(|call| ObjectMembers::of(call, ["arguments"]).0[0])
        {
            if !written.text.is_empty() {
                written.text.push('\n');
            }
            written.text.push_str(&Content::of(arguments, 0).text);
        }
        written
    }

    fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }
}

fn shortened(name: &str) -> String {
    clean(name).chars().take(LONGEST_MODEL).collect()
}

impl FinishReason {
    fn of(reason: &str) -> Self {
        match reason.to_ascii_lowercase().as_str() {
            "length" | "max_tokens" | "max_output_tokens" | "model_length" | "max_completion_tokens" => {
                Self::Length
            }
            "content_filter" | "safety" | "prohibited_content" | "blocklist" | "recitation" => {
                Self::ContentFilter
            }
            _ => Self::Other,
        }
    }
}

/// A content: a string, parts with texts, or JSON in place of its text.
#[derive(Default)]
struct Content {
    text: String,
    refusal: String,
}

impl Content {
    fn of(content: &str, depth: usize) -> Self {
        let as_it_is = |text: String| Self {
            text,
            refusal: String::new(),
        };
        if let Some(text) = string(content) {
            return as_it_is(text);
        }
        let Ok(parts) = serde_json::from_str::<ArrayItems<'_>>(content) else {
            return match content {
                "null" => Self::default(),
                object => as_it_is(object.to_owned()),
            };
        };
        let mut whole = Self::default();
        let mut has_parts = false;
        for part in parts.0 {
            let [kind, own, nested, refusal] =
                ObjectMembers::of(part, ["type", "text", "content", "refusal"]).0;
            // Reasoning travels as a part of its own at some providers.
            let kind = kind.and_then(string).unwrap_or_default();
            let is_reasoning = kind.contains("think") || kind.contains("reasoning");
            let text = string(part).or_else(|| {
                let own = own.or(nested)?;
                string(own).or_else(|| string(ObjectMembers::of(own, ["value"]).0[0]?))
            });
            // An item of a list of messages has parts of its own.
            let inner = match nested.filter(|nested| nested.starts_with('[') && depth < DEEPEST_PARTS) {
                Some(parts) if text.is_none() => Some(Self::of(parts, depth + 1)),
                _ => None,
            };
            has_parts |= is_reasoning || text.is_some() || inner.is_some() || refusal.is_some();
            if let Some(refusal) = refusal.and_then(string) {
                whole.refusal = refusal;
            }
            if !is_reasoning {
                let inner = inner.unwrap_or_default();
                whole.text.push_str(&text.unwrap_or(inner.text));
                whole.refusal.push_str(&inner.refusal);
            }
        }
        // An array of cards rather than of parts.
        if !has_parts {
            whole.text = content.to_owned();
        }
        whole
    }
}
