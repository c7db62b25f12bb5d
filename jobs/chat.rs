//! Questions to a language model that are answered in JSON: request, schema, refusal, cut-off answers, token counts.
//!
//! A handler with one or several questions uses [`ask`]. `generate-flashcards` builds its requests here as well, and
//! reads its answers by rules of its own: a deck that is cut off still has usable cards.

use std::{borrow::Cow, sync::Arc};

use futures_util::future::BoxFuture;
use ring::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{
    Number, Value,
    value::{RawValue, to_raw_value},
};

use crate::{
    CallUsage, Failure, Provider, ProviderCall, ProviderGuard, ProviderReply,
    chat_answer::{ChatAnswer, FinishReason, TokenCounts},
    context::{self, AnswerReading},
    providers::{OpenAi, models::ModelRequest},
    text::tokens_at_most,
};

#[cfg(test)]
mod tests;

/// Most room of an answer that is asked for with twice of it, tokens.
pub(crate) const MOST_ROOM: u64 = 32_768;
/// Places in a text at which the answer's JSON may begin.
const MOST_BEGINNINGS: usize = 64;

/// The JSON Schema of an answer, and the tokens that it takes.
#[derive(Debug)]
pub struct AnswerSchema {
    name: &'static str,
    json: Box<RawValue>,
    tokens: u64,
}

impl AnswerSchema {
    /// A schema for OpenAI's strict mode: every key is required, no further ones are allowed, and an optional value
    /// is a union with null. Requests carry `name` beside it.
    pub fn new(name: &'static str, schema: &Value) -> Self {
        let json = raw(schema);
        let tokens = tokens_at_most(json.get());
        Self { name, json, tokens }
    }
}

/// One question to the model.
#[derive(Debug)]
pub struct ChatQuestion<'a> {
    /// Names the question within its job: letters, digits and `-`. A question that depends on an earlier answer needs
    /// no name of its own for each variant: the ledger also keys its answer by the request.
    pub step: &'static str,
    /// The rules. They quote nothing that a user wrote: a user's words could pose as rules.
    pub system: &'a str,
    /// The material, best as JSON.
    pub user: &'a str,
    /// The form of the answer.
    pub schema: &'a AnswerSchema,
    /// Room for the answer, tokens.
    pub room: u64,
}

/// A request that is ready to be sent.
pub(crate) struct ChatRequest {
    /// The body of the chat completion.
    pub(crate) body: Arc<RawValue>,
    /// Tokens that it will use at most, as a limit counts them.
    pub(crate) estimated_tokens: u64,
}

impl ChatRequest {
    /// Asks `model`, with `room` tokens for the answer beside its reasoning. Names no temperature: reasoning models
    /// refuse any.
    pub(crate) fn new(
        model: &ModelRequest,
        system: &str,
        user: &str,
        schema: &AnswerSchema,
        room: u64,
    ) -> Self {
        let cap = room + model.reasoning_room;
        let body = ChatBody {
            model: &model.model,
            reasoning_effort: model.reasoning_effort.as_deref(),
            prompt_cache_options: model
                .explicit_cache
                .then_some(PromptCacheOptions { mode: "explicit" }),
            messages: [
                ChatMessage {
                    role: "system",
                    content: system,
                },
                ChatMessage {
                    role: "user",
                    content: user,
                },
            ],
            max_completion_tokens: cap,
            response_format: ResponseFormat {
                r#type: "json_schema",
                json_schema: StrictSchema {
                    name: schema.name,
                    strict: true,
                    schema: &schema.json,
                },
            },
        };
        Self {
            body: raw(&body).into(),
            estimated_tokens: tokens_at_most(system) + tokens_at_most(user) + schema.tokens + cap,
        }
    }

    /// The guarded call of this request.
    pub(crate) fn call(
        &self,
        step: impl Into<Cow<'static, str>>,
        model: &ModelRequest,
        room: u64,
    ) -> ProviderCall {
        let cap = room + model.reasoning_room;
        let prompt = self.estimated_tokens.saturating_sub(cap);
        ProviderCall::new(Provider::OpenAi, step)
            .with_estimated_tokens(self.estimated_tokens)
            .estimating(CallUsage::tokens(&model.model, prompt, cap))
    }

    /// `<step>:<digest of the request>`: an answer that the ledger keeps belongs to this request only.
    fn keyed(&self, step: &str) -> String {
        let digest = digest(&SHA256, self.body.get().as_bytes());
        let digits: String = digest.as_ref()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{step}:{digits}")
    }
}

#[derive(Serialize)]
struct ChatBody<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_options: Option<PromptCacheOptions>,
    messages: [ChatMessage<'a>; 2],
    max_completion_tokens: u64,
    response_format: ResponseFormat<'a>,
}

#[derive(Serialize)]
struct PromptCacheOptions {
    mode: &'static str,
}

#[derive(Serialize)]
struct ChatMessage<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct ResponseFormat<'a> {
    r#type: &'static str,
    json_schema: StrictSchema<'a>,
}

#[derive(Serialize)]
struct StrictSchema<'a> {
    name: &'static str,
    strict: bool,
    schema: &'a RawValue,
}

#[allow(
    clippy::expect_used,
    reason = "what is written has string keys and derived serializers only"
)]
fn raw(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).expect("JSON of strings and numbers")
}

/// Tokens that the provider counted, over all calls of the job. Where it counts none, they are estimated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Usage")]
pub struct ChatUsage {
    /// Tokens of the requests.
    pub prompt_tokens: u64,
    /// Of these, tokens that came from the provider's cache.
    pub cached_tokens: u64,
    /// Tokens of the answers, reasoning included.
    pub completion_tokens: u64,
    /// Of these, tokens of reasoning.
    pub reasoning_tokens: u64,
    /// Answers that were paid for, those of earlier deliveries included.
    pub calls: u32,
    /// True if the provider has not counted the tokens of every call, and some of them are an estimate: an upper one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated: Option<bool>,
    /// The model that answered last, as the provider names it; otherwise the one that was asked.
    pub model: String,
    /// The deployment that answered last, where several are configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// The deployment of each answer, in the order of the calls, where several are configured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deployments: Vec<String>,
    /// The cost of the calls, USD, by the worker's prices; null where one of them has no price. The worker adds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<Number>,
    /// True if the result is that of an equal job, which paid for it: `costUsd` is 0 then. The worker adds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reused: Option<bool>,
}

/// Adds up the tokens of a job's answers.
#[derive(Debug)]
pub struct TokenAccount {
    tokens: TokenCounts,
    calls: u32,
    model: String,
    deployments: Vec<String>,
}

impl TokenAccount {
    /// An account without answers. `model` is the model that is asked.
    pub fn new(model: &str) -> Self {
        Self {
            tokens: TokenCounts::default(),
            calls: 0,
            model: model.to_owned(),
            deployments: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, tokens: TokenCounts, model: &str, deployment: &str) {
        self.tokens.add(tokens);
        self.calls = self.calls.saturating_add(1);
        if !model.is_empty() {
            model.clone_into(&mut self.model);
        }
        if !deployment.is_empty() {
            self.deployments.push(deployment.to_owned());
        }
    }

    /// Tokens of all answers, as the provider adds them up.
    pub fn total(&self) -> u64 {
        self.tokens.total
    }

    /// The same in detail.
    pub fn into_usage(self) -> ChatUsage {
        ChatUsage {
            prompt_tokens: self.tokens.prompt,
            cached_tokens: self.tokens.cached,
            completion_tokens: self.tokens.completion,
            reasoning_tokens: self.tokens.reasoning,
            calls: self.calls,
            estimated: self.tokens.is_estimated.then_some(true),
            model: self.model,
            deployment: self.deployments.last().cloned(),
            deployments: self.deployments,
            cost_usd: None,
            reused: None,
        }
    }
}

/// Asks one question, and reads the answer as `T`. The answer may stand in a fence or between other text. `account`
/// gets the tokens of every answer, the unusable ones included.
///
/// An answer that was cut off is asked for once more with twice the room, any other unusable one with the same.
///
/// # Errors
/// [`FailureClass::Permanent`](crate::FailureClass::Permanent) for a refusal and for two answers that cannot be read
/// as `T`; otherwise the guard's failure.
pub async fn ask<T: DeserializeOwned + Send>(
    openai: &OpenAi,
    guard: &dyn ProviderGuard,
    question: &ChatQuestion<'_>,
    account: &mut TokenAccount,
) -> Result<T, Failure> {
    let send =
        |request: Arc<RawValue>| -> BoxFuture<'_, _> { Box::pin(async move { openai.chat(&request).await }) };
    ask_through(&openai.model(), &send, guard, question, account).await
}

/// Sends one request to the model.
pub(crate) type ChatRequestSender<'a> =
    dyn Fn(Arc<RawValue>) -> BoxFuture<'a, Result<ProviderReply, Failure>> + Send + Sync + 'a;

async fn ask_through<T: DeserializeOwned + Send>(
    model: &ModelRequest,
    send: &ChatRequestSender<'_>,
    guard: &dyn ProviderGuard,
    question: &ChatQuestion<'_>,
    account: &mut TokenAccount,
) -> Result<T, Failure> {
    let once = async |suffix: &str, room: u64, account: &mut TokenAccount| {
        let ChatQuestion { system, user, .. } = question;
        let request = ChatRequest::new(model, system, user, question.schema, room);
        let step = request.keyed(question.step) + suffix;
        let call = request.call(step, model, room);
        let read =
            |body: &RawValue| Ok(JsonAnswer::<T>::read(body, room + model.reasoning_room).into_reading());
        let answer = context::read_call(guard, &call, &|| send(request.body.clone()), &read).await?;
        let JsonAnswer {
            tokens,
            model,
            deployment,
            ..
        } = &answer.reading.value;
        account.add(*tokens, model, deployment);
        Ok::<_, Failure>((answer.reading.value, answer.is_second))
    };
    let (first, is_second) = once("", question.room, account).await?;
    let room = match first.content {
        Ok(value) => return Ok(value),
        Err(AnswerFault::Refused) => return Err(failure("the model refused to write about the material")),
        Err(AnswerFault::Filtered) => return Err(failure("the content filter stopped the answer")),
        Err(AnswerFault::OtherForm) if is_second => return Err(other_form(question)),
        Err(AnswerFault::OtherForm) => question.room,
        // Reasoning that ate up the room of the answer needs more than twice of it.
        Err(AnswerFault::CutOff) => {
            let overrun = first.tokens.reasoning.saturating_sub(model.reasoning_room);
            2 * (question.room + overrun).min(MOST_ROOM)
        }
    };
    let (second, _) = once(":again", room, account).await?;
    second.content.map_err(|fault| match fault {
        AnswerFault::Refused => failure("the model refused to write about the material"),
        AnswerFault::Filtered => failure("the content filter stopped the answer"),
        AnswerFault::CutOff => failure(&format!(
            "unusable answer: it was cut off, even with room for {room} tokens"
        )),
        AnswerFault::OtherForm => other_form(question),
    })
}

/// The model's own words can quote the material, which must not reach a log: no message repeats them.
fn failure(message: &str) -> Failure {
    Failure::permanent(format!("openai: {message}")).by(Provider::OpenAi)
}

fn other_form(question: &ChatQuestion<'_>) -> Failure {
    failure(&format!(
        "unusable answer: it does not have the form of \"{}\"",
        question.schema.name
    ))
}

/// Why an answer holds no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerFault {
    Refused,
    Filtered,
    CutOff,
    OtherForm,
}

/// An answer of the model, read as JSON.
struct JsonAnswer<T> {
    content: Result<T, AnswerFault>,
    tokens: TokenCounts,
    model: String,
    deployment: String,
}

impl<T: DeserializeOwned> JsonAnswer<T> {
    /// Reads an answer that had room for `cap` tokens.
    fn read(body: &RawValue, cap: u64) -> Self {
        let answer = ChatAnswer::read(body);
        let content = json_in(&answer.text).ok_or_else(|| {
            if !answer.refusal.is_empty() {
                AnswerFault::Refused
            } else if answer.finish == FinishReason::ContentFilter {
                AnswerFault::Filtered
            } else if answer.finish == FinishReason::Length || answer.tokens.fill(cap) {
                AnswerFault::CutOff
            } else {
                AnswerFault::OtherForm
            }
        });
        Self {
            content,
            tokens: answer.tokens,
            model: answer.model,
            deployment: answer.deployment,
        }
    }

    fn into_reading(self) -> AnswerReading<Self> {
        AnswerReading {
            // An answer that was cut off leads to the larger call, which may be kept as well.
            is_useful: matches!(self.content, Ok(_) | Err(AnswerFault::CutOff)),
            value: self,
        }
    }
}

/// The first JSON object or array in the text that can be read as `T`. Fences and prose around it are passed over.
fn json_in<T: DeserializeOwned>(text: &str) -> Option<T> {
    text.match_indices(['{', '['])
        .take(MOST_BEGINNINGS)
        .find_map(|(start, _)| {
            let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<T>();
            values.next()?.ok()
        })
}
