//! The request dialect of a provider that speaks like OpenAI. Many take less than OpenAI does: no JSON schema,
//! another name for the token cap, no reasoning effort. A refused request is written again with less, once for each
//! part, and what the provider takes is remembered: in the process, and in a store that the fleet shares.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use tracing::warn;
use url::Url;

use super::models::ModelRequest;
use crate::{AccountFault, Failure};

/// How long a dialect is remembered: the provider may have learned more by then.
pub const REMEMBERED_FOR: Duration = Duration::from_hours(24);

/// Most steps down in one call. The answer's form, the token cap and the stream have two each; the rest are parameters.
pub(super) const MOST_STEPS: usize = 10;

/// Parts of a request that no answer can be had without.
const ESSENTIAL: [&str; 4] = ["model", "messages", "response_format", "max_completion_tokens"];

/// Names of the parts of `response_format`, as providers use them in their errors.
const FORM: [&str; 5] = [
    "response_format",
    "json_schema",
    "json_object",
    "strict",
    "schema",
];

/// Names of the token cap.
const CAP: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// The parameters that ask for the answer in parts, and for its token counts at the end.
const STREAM: [&str; 2] = ["stream", "stream_options"];

/// Where the fleet keeps what one replica has learned.
#[async_trait]
pub trait DialectStore: fmt::Debug + Send + Sync {
    /// The stored dialect of the deployment; `None` without one, or when the store cannot be reached.
    async fn load(&self, deployment: &str) -> Option<String>;
    /// Keeps it for [`REMEMBERED_FOR`]. A store that cannot be reached keeps nothing.
    async fn save(&self, deployment: &str, dialect: &str);
}

/// How the form of the answer is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnswerForm {
    /// `response_format` with the JSON schema.
    #[default]
    JsonSchema,
    /// `response_format` `json_object`; the instructions contain the schema.
    JsonObject,
    /// No `response_format`; the instructions contain the schema.
    Instructions,
}

/// How the token cap is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TokenCapName {
    #[default]
    MaxCompletionTokens,
    MaxTokens,
    None,
}

/// The parts of a request that a provider accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dialect {
    form: AnswerForm,
    cap: TokenCapName,
    /// Parameters that are left out.
    without: BTreeSet<String>,
    /// The request of the model that takes the place of one that is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    successor: Option<ModelRequest>,
}

impl Dialect {
    /// Reads what a store has kept. `None` for what this version cannot read.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns true if the provider takes the whole request.
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// The next dialect after a refusal of `parameter` in this `request`; `None` when nothing is left to leave out.
    pub(super) fn step_down(&self, parameter: Option<&str>, request: &Value) -> Option<Self> {
        let mut next = self.clone();
        let of_successor = |name: &str| {
            let successor = self.successor.iter();
            let mut parameters = successor.flat_map(ModelRequest::parameters);
            parameters.any(|(parameter, value)| parameter == name && value.is_some())
        };
        let has = |name: &str| {
            let is_written = request.get(name).is_some() || of_successor(name) || self.streams_with(name);
            is_written && !self.without.contains(name)
        };
        let form = |next: &mut Self| {
            next.form = match self.form {
                AnswerForm::JsonSchema => AnswerForm::JsonObject,
                AnswerForm::JsonObject => AnswerForm::Instructions,
                AnswerForm::Instructions => return false,
            };
            request.get("response_format").is_some()
        };
        let cap = |next: &mut Self| {
            next.cap = match self.cap {
                TokenCapName::MaxCompletionTokens => TokenCapName::MaxTokens,
                TokenCapName::MaxTokens => TokenCapName::None,
                TokenCapName::None => return false,
            };
            request.get("max_completion_tokens").is_some()
        };
        let stepped = match parameter {
            Some(name) if CAP.contains(&name) => cap(&mut next),
            Some(name) if has(name) && !ESSENTIAL.contains(&name) => next.without.insert(name.to_owned()),
            Some(name) if FORM.contains(&name) => form(&mut next),
            // The provider does not name the part. Most of them lack the form of the answer, and a few lack streams.
            _ => form(&mut next) || next.without_stream(),
        };
        stepped.then_some(next)
    }

    /// Returns true if answers are asked for in parts.
    pub(super) fn streams(&self) -> bool {
        !self.without.contains("stream")
    }

    /// Returns true if requests carry this parameter of a stream.
    fn streams_with(&self, name: &str) -> bool {
        STREAM.contains(&name) && self.streams() && !self.without.contains(name)
    }

    /// Leaves out the options of the stream, or the stream; `false` when neither is left.
    fn without_stream(&mut self) -> bool {
        let left = STREAM.into_iter().rev().find(|name| self.streams_with(name));
        left.is_some_and(|name| self.without.insert(name.to_owned()))
    }

    /// The model that requests name, where `configured` is the one of the settings.
    pub(super) fn model<'a>(&'a self, configured: &'a str) -> &'a str {
        self.successor
            .as_ref()
            .map_or(configured, |successor| &successor.model)
    }

    /// The request of the model that takes the place of one that is gone.
    pub(super) fn into_successor(self) -> Option<ModelRequest> {
        self.successor
    }

    /// The dialect in which requests name another model: what the provider does not take of one model says little about
    /// another.
    pub(super) fn with_successor(successor: ModelRequest) -> Self {
        Self {
            successor: Some(successor),
            ..Self::default()
        }
    }

    /// The request as this dialect writes it, to `renamed` where the deployment has another model than the request names.
    ///
    /// # Errors
    /// When the request is not a JSON object.
    pub(super) fn write(
        &self,
        request: &RawValue,
        renamed: Option<&ModelRequest>,
    ) -> Result<Box<RawValue>, serde_json::Error> {
        if self.is_whole() && renamed.is_none() {
            return self.with_stream(request.to_owned());
        }
        let mut request: Map<String, Value> = serde_json::from_str(request.get())?;
        if let Some(successor) = self.successor.as_ref().or(renamed) {
            rename(&mut request, successor);
        }
        for name in &self.without {
            request.shift_remove(name);
        }
        if self.cap != TokenCapName::MaxCompletionTokens
            && let Some(cap) = request.shift_remove("max_completion_tokens")
            && self.cap == TokenCapName::MaxTokens
        {
            request.insert("max_tokens".to_owned(), cap);
        }
        if self.form != AnswerForm::JsonSchema
            && let Some(form) = request.shift_remove("response_format")
        {
            if self.form == AnswerForm::JsonObject {
                request.insert(
                    "response_format".to_owned(),
                    serde_json::json!({ "type": "json_object" }),
                );
            }
            instruct(&mut request, &form["json_schema"]["schema"]);
        }
        self.with_stream(serde_json::value::to_raw_value(&request)?)
    }

    /// The request with what asks for a stream. It is not part of the request itself: what a request asks for is the
    /// same in either form, and so is its key in the ledger.
    fn with_stream(&self, request: Box<RawValue>) -> Result<Box<RawValue>, serde_json::Error> {
        let Some(members) = request.get().strip_suffix('}').filter(|_| self.streams()) else {
            return Ok(request);
        };
        let comma = if members.trim_end().ends_with('{') {
            ""
        } else {
            ","
        };
        let options = match self.streams_with("stream_options") {
            true => r#","stream_options":{"include_usage":true}"#,
            false => "",
        };
        RawValue::from_string(format!(r#"{members}{comma}"stream":true{options}}}"#))
    }
}

/// Lets a request name another model, with what that model takes.
fn rename(request: &mut Map<String, Value>, successor: &ModelRequest) {
    request.insert("model".to_owned(), successor.model.as_str().into());
    for (name, value) in successor.parameters() {
        match value {
            Some(value) => drop(request.insert(name.to_owned(), value)),
            None => drop(request.shift_remove(name)),
        }
    }
    if let Some(cap) = request.get("max_completion_tokens").and_then(Value::as_u64) {
        let cap = cap.saturating_add(successor.reasoning_room);
        request.insert("max_completion_tokens".to_owned(), cap.into());
    }
}

/// Puts the form of the answer into the instructions. JSON mode wants the word "JSON" there as well.
fn instruct(request: &mut Map<String, Value>, schema: &Value) {
    let mut text = "Answer with one JSON object and nothing else: no explanation, no code fence.".to_owned();
    if !schema.is_null() {
        text = format!("{text} It must fit this JSON schema:\n{schema}");
    }
    let Some(Value::Array(messages)) = request.get_mut("messages") else {
        return;
    };
    let is_instruction =
        |message: &&mut Value| matches!(message["role"].as_str(), Some("system" | "developer"));
    match messages
        .iter_mut()
        .find(is_instruction)
        .map(|message| &mut message["content"])
    {
        Some(Value::String(content)) => {
            content.push_str("\n\n");
            content.push_str(&text);
        }
        Some(Value::Array(parts)) => parts.push(serde_json::json!({ "type": "text", "text": text })),
        _ => messages.insert(0, serde_json::json!({ "role": "system", "content": text })),
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.form {
            AnswerForm::JsonSchema => "the JSON schema in response_format",
            AnswerForm::JsonObject => "response_format json_object and the schema in the instructions",
            AnswerForm::Instructions => "the schema in the instructions only",
        })?;
        match self.cap {
            TokenCapName::MaxCompletionTokens => {}
            TokenCapName::MaxTokens => f.write_str(", max_tokens")?,
            TokenCapName::None => f.write_str(", no token cap")?,
        }
        if !self.without.is_empty() {
            let names: Vec<&str> = self.without.iter().map(String::as_str).collect();
            write!(f, ", without {}", names.join(", "))?;
        }
        if let Some(successor) = &self.successor {
            write!(f, ", to the model {}", successor.model)?;
        }
        Ok(())
    }
}

/// Names a deployment in a store: its base URL and model, without what a URL may hide.
pub fn deployment(base: &Url, model: &str) -> String {
    let host = base.host_str().unwrap_or_default();
    let port = base.port().map_or(String::new(), |port| format!(":{port}"));
    format!("{host}{port}{} {model}", base.path().trim_end_matches('/'))
}

/// This process's knowledge of one deployment.
#[derive(Debug)]
pub(super) struct DialectMemory {
    deployment: String,
    store: Option<Arc<dyn DialectStore>>,
    known: Mutex<Option<LearnedDialect>>,
    /// Held by the call that finds out what the provider takes: the others wait for what it learns.
    pub(super) learning: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct LearnedDialect {
    dialect: Dialect,
    since: Instant,
}

impl DialectMemory {
    pub(super) fn new(deployment: String, store: Option<Arc<dyn DialectStore>>) -> Self {
        Self {
            deployment,
            store,
            known: Mutex::default(),
            learning: tokio::sync::Mutex::default(),
        }
    }

    /// The dialect to write in: what is known here, else what the fleet knows, else the whole request.
    pub(super) async fn current(&self) -> Dialect {
        if let Some(dialect) = self.here() {
            return dialect;
        }
        let dialect = self.of_the_fleet().await.unwrap_or_default();
        self.set(&dialect);
        dialect
    }

    /// The dialect that other replicas have stored since.
    pub(super) async fn of_the_fleet(&self) -> Option<Dialect> {
        Dialect::parse(&self.store.as_ref()?.load(&self.deployment).await?)
    }

    /// The dialect that is known in this process.
    pub(super) fn here(&self) -> Option<Dialect> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known
            .as_ref()
            .filter(|known| known.since.elapsed() < REMEMBERED_FOR)?;
        Some(known.dialect.clone())
    }

    pub(super) fn set(&self, dialect: &Dialect) {
        let known = LearnedDialect {
            dialect: dialect.clone(),
            since: Instant::now(),
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// Remembers a dialect that the provider has taken after a refusal.
    pub(super) async fn learned(&self, dialect: &Dialect) {
        self.set(dialect);
        match &dialect.successor {
            Some(successor) => warn!(
                "the model of {} is gone: for 24 hours requests name {} instead. Set the deployment's model (OPENAI_MODEL, or LLM_<NAME>_MODEL) to it, or to another",
                self.deployment, successor.model
            ),
            None => warn!(
                "the provider of {} does not take the whole request: for 24 hours it is written with {dialect}",
                self.deployment
            ),
        }
        if let Some(store) = &self.store {
            store.save(&self.deployment, &dialect.to_text()).await;
        }
    }
}

/// Returns true if another dialect may be taken where this failure came.
pub(super) fn is_about_a_parameter(failure: &Failure) -> bool {
    failure.account_fault() == Some(AccountFault::Parameter)
}

/// Returns true if the model does not exist. A refusal of access says nothing of the kind.
pub(super) fn is_about_a_missing_model(failure: &Failure) -> bool {
    failure.account_fault() == Some(AccountFault::Model) && !matches!(failure.status(), Some(401 | 403))
}
