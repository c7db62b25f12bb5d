//! Watches for the day on which a provider shuts down the flashcards' model, or the service that reads images.
//!
//! The model's day comes from the provider's list of models, or else from the table of models; the service's from the
//! table. A replica looks once a day: the log warns two months ahead, the alert `ModelRetiring` fires one month ahead.

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jobs::{
    OpenAiSettings, Provider, Settings, VisionSettings,
    providers::{
        Reachability,
        models::{ModelSuccessor, Retirement, beginning_of, days_until},
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
    let model = settings
        .openai
        .as_ref()
        .and_then(|openai| openai.models.retirement(&openai.base_url, &openai.model));
    let mut model_day = model.map(|known| known.day);
    let mut pause = rand::rng().random_range(FIRST_LOOK);
    loop {
        note(&settings, model_day.as_deref());
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        // A provider that is not reached, or lists no models, says nothing new.
        match reach(&settings, Provider::OpenAi).await {
            Some(Ok(Reachability::ModelEnds(day))) => model_day = Some(day),
            Some(Ok(Reachability::Well)) => model_day = None,
            _ => {}
        }
        pause = DAY;
    }
}

/// The shutdown of the service that reads images, as the table has it.
pub fn vision_retirement(settings: &VisionSettings) -> Option<Retirement> {
    settings
        .models
        .retirement(&settings.endpoint, settings.api.service())
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

/// Sets the gauge to the earlier day, and warns of each that is near.
fn note(settings: &Settings, model_day: Option<&str>) {
    let vision = settings.vision.as_ref().and_then(vision_retirement);
    let days = [model_day, vision.as_ref().map(|known| known.day.as_str())];
    let seconds = |day: &str| Some(beginning_of(day)?.duration_since(UNIX_EPOCH).ok()?.as_secs());
    let earliest = days.into_iter().flatten().filter_map(seconds).min();
    PROCESS
        .model_shutdown
        .store(earliest.unwrap_or_default(), Ordering::Relaxed);
    let near = |day: Option<&str>| {
        let left = days_until(day?, SystemTime::now())?;
        (left <= WARNED_DAYS).then_some(left)
    };
    if let (Some(openai), Some(day), Some(left)) = (&settings.openai, days[0], near(days[0])) {
        let model = &openai.model;
        let successor = successor(openai).unwrap_or_else(|| "another model".to_owned());
        warn!(
            model,
            day,
            "the provider shuts the model {model} down on {day}, in {left} day(s): set OPENAI_MODEL to {successor}"
        );
    }
    if let (Some(known), Some(left)) = (&vision, near(days[1])) {
        let (day, successor) = (&known.day, known.successor.as_deref());
        let successor = successor.unwrap_or("another service");
        warn!(
            day,
            "azure-vision shuts down the service that reads images on {day}, in {left} day(s): set AZURE_VISION_API to \
             {successor}"
        );
    }
}
