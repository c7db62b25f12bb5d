//! Watches for the day on which a provider shuts down a deployment's model, or the service that reads images.
//!
//! A model's day comes from its provider's list of models, or else from the table of models; the service's from the
//! table. A replica looks once a day: the log warns two months ahead, the alert `ModelRetiring` fires one month ahead.

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jobs::{
    CalledService, OpenAiSettings, Provider, Settings, VisionSettings,
    providers::{
        Reachability,
        models::{ModelSuccessor, Retirement, beginning_of, days_until},
        reach_deployment,
    },
};
use rand::RngExt;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{gate::DEPLOYMENT_PREFIX, telemetry::metrics::PROCESS};

/// So many days ahead the log and `check` warn.
pub const WARNED_DAYS: u64 = 60;
const DAY: Duration = Duration::from_hours(24);
/// The first look at the provider's list, at random: replicas start together.
const FIRST_LOOK: std::ops::Range<Duration> = Duration::from_mins(5)..Duration::from_mins(30);

/// Looks once a day until `stop`: at the table of models at once, at the providers' lists a little later.
pub async fn watch(settings: Settings, stop: CancellationToken) {
    let known_day = |model: &OpenAiSettings| model.models.retirement(&model.base_url, &model.model);
    let mut days: Vec<Option<String>> = settings
        .deployments()
        .map(|deployment| known_day(deployment).map(|known| known.day))
        .collect();
    let mut pause = rand::rng().random_range(FIRST_LOOK);
    loop {
        note(&settings, &days);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        for (deployment, day) in settings.deployments().zip(&mut days) {
            let reached = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                reached = reach_deployment(deployment) => reached,
            };
            // A provider that is not reached, or lists no models, says nothing new.
            match reached {
                Ok(Reachability::ModelEnds(listed)) => *day = Some(listed),
                Ok(Reachability::Well) => *day = None,
                _ => {}
            }
        }
        pause = DAY;
    }
}

/// The service behind a deployment with this place: its name in metrics, and the variable that names its model.
pub fn service_of(place: usize, deployment: &OpenAiSettings) -> (CalledService, String) {
    match place {
        0 => (CalledService::of(Provider::OpenAi), "OPENAI_MODEL".to_owned()),
        further => {
            let name = format!("{DEPLOYMENT_PREFIX}{}", deployment.name);
            let variable = format!("{}_MODEL", name.to_uppercase().replace('-', "_"));
            (CalledService::further(further, name.into()), variable)
        }
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

/// Sets the gauges to the days, and warns of each that is near.
fn note(settings: &Settings, days: &[Option<String>]) {
    for (place, (deployment, day)) in settings.deployments().zip(days).enumerate() {
        let (service, variable) = service_of(place, deployment);
        set(&service, day.as_deref());
        if let (Some(day), Some(left)) = (day, near(day.as_deref())) {
            let (model, service) = (&deployment.model, service.name());
            let successor = successor(deployment).unwrap_or_else(|| "another model".to_owned());
            warn!(
                model,
                day,
                service,
                "{service} shuts the model {model} down on {day}, in {left} day(s): set {variable} to {successor}"
            );
        }
    }
    let vision = settings.vision.as_ref().and_then(vision_retirement);
    let day = vision.as_ref().map(|known| known.day.as_str());
    set(&CalledService::of(Provider::AzureVision), day);
    if let (Some(known), Some(left)) = (&vision, near(day)) {
        let (day, successor) = (&known.day, known.successor.as_deref());
        let successor = successor.unwrap_or("another service");
        warn!(
            day,
            "azure-vision shuts down the service that reads images on {day}, in {left} day(s): set AZURE_VISION_API to \
             {successor}"
        );
    }
}

fn set(service: &CalledService, day: Option<&str>) {
    let seconds = |day: &str| Some(beginning_of(day)?.duration_since(UNIX_EPOCH).ok()?.as_secs());
    let begins = day.and_then(seconds).unwrap_or_default();
    PROCESS.model_shutdown[service.number()].store(begins, Ordering::Relaxed);
}

/// The days that are left, where they are so few that the log warns.
fn near(day: Option<&str>) -> Option<u64> {
    days_until(day?, SystemTime::now()).filter(|left| *left <= WARNED_DAYS)
}
