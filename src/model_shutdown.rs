//! Watches for the day on which the provider shuts the flashcards' model down.
//!
//! The day comes from the provider's list of models, or else from the table of models. A replica looks once a day:
//! the log warns two months ahead, the alert `ModelRetiring` fires one month ahead.

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jobs::{
    OpenAiSettings, Provider, Settings,
    providers::{
        Reachability,
        models::{ModelSuccessor, beginning_of, days_until},
        reach,
    },
};
use rand::RngExt;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::telemetry::metrics::PROCESS;

/// So many days ahead the log and `check` warn.
pub const WARNED_DAYS: u64 = 60;
const DAY: Duration = Duration::from_hours(24);
/// The first look at the provider's list, at random: replicas start together.
const FIRST_LOOK: std::ops::Range<Duration> = Duration::from_mins(5)..Duration::from_mins(30);

/// Looks once a day until `stop`: at the table of models at once, at the provider's list a little later.
pub async fn watch(settings: Settings, stop: CancellationToken) {
    let Some(openai) = &settings.openai else { return };
    let known = openai.models.retirement(&openai.base_url, &openai.model);
    note(openai, known.as_ref().map(|known| known.day.as_str()));
    let mut pause = rand::rng().random_range(FIRST_LOOK);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        // A provider that is not reached, or lists no models, says nothing new.
        match reach(&settings, Provider::OpenAi).await {
            Some(Ok(Reachability::ModelEnds(day))) => note(openai, Some(&day)),
            Some(Ok(Reachability::Well)) => note(openai, None),
            _ => {}
        }
        pause = DAY;
    }
}

/// The model to name instead, where one is set or known.
pub fn successor(settings: &OpenAiSettings) -> Option<String> {
    match &settings.successor {
        ModelSuccessor::Model(name) => Some(name.clone()),
        ModelSuccessor::Recommended | ModelSuccessor::None => {
            settings
                .models
                .retirement(&settings.base_url, &settings.model)?
                .successor
        }
    }
}

fn note(settings: &OpenAiSettings, day: Option<&str>) {
    let at = day
        .and_then(beginning_of)
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |at| at.as_secs());
    PROCESS.model_shutdown.store(at, Ordering::Relaxed);
    let Some((day, left)) = day.and_then(|day| Some((day, days_until(day, SystemTime::now())?))) else {
        return;
    };
    if left <= WARNED_DAYS {
        let model = &settings.model;
        let successor = successor(settings).unwrap_or_else(|| "another model".to_owned());
        warn!(
            model,
            day,
            "the provider shuts the model {model} down on {day}, in {left} day(s): set OPENAI_MODEL to {successor}"
        );
    }
}
