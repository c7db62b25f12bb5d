//! A job type of your own, with two calls of which the second depends on the first: `cargo run --example custom_job`.
//!
//! In the worker, this file is `jobs/generate_lesson.rs`, with `crate::` for `jobs::`, and without `OneTry` and `main`. It is declared in
//! `jobs/lib.rs`, and `GenerateLesson` is one more line of `register!` in `jobs/registry.rs`: queue, HTTP intake, command line, schemas, demo and metrics follow. Here a guard without retry
//! and breaker runs it once, against the simulated provider.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use anyhow::Context;
use async_trait::async_trait;
use backend_worker::{
    config::Config,
    demo::point_to,
    simulator::{Simulator, SimulatorOptions},
};
use jobs::{
    CallAttempt, Failure, Job, JobResources, MemoryBudget, Provider, ProviderCall, ProviderGuard,
    ProviderReply,
    chat::{self, AnswerSchema, ChatQuestion, ChatUsage, TokenAccount},
    media::{Media, decoder::InProcessDecoder},
    providers::{Clients, OpenAi},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longest text that a lesson is made of, characters.
const LONGEST_CONTENT: usize = 20_000;

/// The payload of `generate-lesson`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct LessonPayload {
    /// The text that the lesson is about.
    content: String,
}

/// The result of `generate-lesson`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Lesson {
    /// The parts of the lesson.
    headings: Vec<String>,
    /// An exercise about the first part.
    exercise: String,
    /// Tokens of both calls.
    token_usage: u64,
    /// The same in detail.
    usage: ChatUsage,
}

#[derive(Deserialize)]
struct Outline {
    headings: Vec<String>,
}

#[derive(Deserialize)]
struct Exercise {
    exercise: String,
}

static OUTLINE: LazyLock<AnswerSchema> = LazyLock::new(|| {
    let headings = json!({ "type": "array", "items": { "type": "string" } });
    AnswerSchema::new("outline", &object("headings", &headings))
});
static EXERCISE: LazyLock<AnswerSchema> =
    LazyLock::new(|| AnswerSchema::new("exercise", &object("exercise", &json!({ "type": "string" }))));

/// An object with one key, as strict schemas want it.
fn object(key: &str, value: &Value) -> Value {
    json!({
        "type": "object", "properties": { key: value }, "required": [key], "additionalProperties": false,
    })
}

/// Makes lessons.
#[derive(Debug)]
struct GenerateLesson {
    openai: Option<OpenAi>,
}

impl Job for GenerateLesson {
    const NAME: &'static str = "generate-lesson";
    const QUEUE: &'static str = "ai-jobs";
    const PROVIDER: Provider = Provider::OpenAi;
    const FAILURE_SENTENCE: &'static str = "The lesson could not be made.";

    type Payload = LessonPayload;
    type Output = Lesson;

    fn new(resources: &JobResources) -> Self {
        Self {
            openai: resources.clients.openai.clone(),
        }
    }

    fn validate(payload: &LessonPayload) -> Result<(), Failure> {
        match payload.content.trim().chars().take(LONGEST_CONTENT + 1).count() {
            0 => Err(Failure::invalid_field(
                "content",
                "required, and must not be blank",
            )),
            1..=LONGEST_CONTENT => Ok(()),
            _ => {
                let why = format_args!("has more than {LONGEST_CONTENT} characters");
                Err(Failure::invalid_field("content", why))
            }
        }
    }

    async fn run(&self, payload: LessonPayload, guard: &dyn ProviderGuard) -> Result<Lesson, Failure> {
        Self::validate(&payload)?;
        let openai = self.openai.as_ref().ok_or_else(|| {
            Failure::deployment("OPENAI_API_KEY is not set: this worker cannot make lessons")
                .by(Provider::OpenAi)
        })?;
        let mut account = TokenAccount::new(&openai.model().model);
        let outline: Outline = chat::ask(
            openai,
            guard,
            &ChatQuestion {
                step: "outline",
                system: "The user message is JSON with study material. Write the headings of a lesson about it.",
                user: &json!({ "content": payload.content }).to_string(),
                schema: &OUTLINE,
                room: 500,
            },
            &mut account,
        )
        .await?;
        guard.progress(50).await;
        let about = outline.headings.first().cloned().unwrap_or_default();
        let exercise: Exercise = chat::ask(
            openai,
            guard,
            &ChatQuestion {
                step: "exercise",
                system: "The user message is JSON. Write one exercise about the part \"heading\" of the material.",
                user: &json!({ "heading": about, "content": payload.content }).to_string(),
                schema: &EXERCISE,
                room: 500,
            },
            &mut account,
        )
        .await?;
        Ok(Lesson {
            headings: outline.headings,
            exercise: exercise.exercise,
            token_usage: account.total(),
            usage: account.into_usage(),
        })
    }

    fn samples() -> Vec<Value> {
        vec![json!({ "content": "Plants turn light, water and carbon dioxide into sugar and oxygen." })]
    }
}

/// Makes each call once. The worker's guard adds retry, breaker, limits and the ledger of paid calls.
struct OneTry;

#[async_trait]
impl ProviderGuard for OneTry {
    async fn call<'a>(
        &'a self,
        call: &'a ProviderCall,
        attempt: &'a CallAttempt<'a>,
    ) -> Result<ProviderReply, Failure> {
        println!("call {} of {}", call.step, call.provider);
        attempt().await
    }

    async fn useless(&self, call: &ProviderCall, _is_kept: bool) {
        println!("the answer to {} is of no use", call.step);
    }

    async fn progress(&self, percent: u8) {
        println!("{percent} % done");
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a crypto provider is installed already"))?;
    let options = SimulatorOptions::default();
    let simulator = Simulator::bind(([127, 0, 0, 1], 0).into(), options.clone()).await?;
    let env: HashMap<_, _> = point_to(&simulator, &options).into_iter().collect();
    let config = Config::from_lookup(|name| env.get(name).cloned())?;
    let _simulator = simulator.spawn();

    let settings = &config.handlers;
    let resources = JobResources {
        clients: Clients::new(settings, None)?,
        media: Media::new(&settings.media, MemoryBudget::new(1 << 20))?,
        decoder: Arc::new(InProcessDecoder),
    };
    let job = GenerateLesson::new(&resources);
    for sample in GenerateLesson::samples() {
        let payload = serde_json::from_value(sample).context("a sample does not fit its type")?;
        let lesson = job.run(payload, &OneTry).await?;
        println!("{}", serde_json::to_string_pretty(&lesson)?);
    }
    Ok(())
}
