//! Replicas for the tests of the face: real time, a real Redis.

use std::{sync::Arc, time::Duration};

use jobs::Provider;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::rig::ms;
use crate::{
    connection::Connection,
    gate::{
        Admission, BreakerSettings, CallOutcome, Effect, GateStatus, Gates, GatesSettings, Permit,
        ProviderGate, Rejection, Settlement, scripts::GateScripts,
    },
};

pub(super) const OPENAI: Provider = Provider::OpenAi;

/// One replica that waits for Redis as long as a busy machine may need.
pub(super) fn replica(url: &str, name: &str, settings: &GatesSettings) -> Arc<Gates> {
    patient_for(Duration::from_secs(20), url, name, settings)
}

pub(super) fn patient_for(deadline: Duration, url: &str, name: &str, settings: &GatesSettings) -> Arc<Gates> {
    let connection = Connection::open(&url.into()).unwrap();
    Arc::new(Gates::with(connection, name, settings, GateScripts::new(), deadline).unwrap())
}

pub(super) struct Running {
    pub(super) stop: CancellationToken,
    pub(super) task: AbortOnDropHandle<()>,
}

pub(super) fn run(gates: &Arc<Gates>) -> Running {
    let (gates, stop) = (gates.clone(), CancellationToken::new());
    let stopped = stop.clone();
    Running {
        stop,
        task: AbortOnDropHandle::new(tokio::spawn(async move { gates.run(stopped).await })),
    }
}

/// Waits until it is so.
pub(super) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(ms(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

pub(super) async fn permit(gate: &Arc<ProviderGate>) -> Permit {
    match gate.admit(0).await {
        Admission::Admitted(permit) => permit,
        Admission::Rejected(rejection) => panic!("{rejection}"),
    }
}

pub(super) async fn sent(gate: &Arc<ProviderGate>) -> Permit {
    let mut permit = permit(gate).await;
    permit.sent();
    permit
}

pub(super) async fn rejection(gate: &Arc<ProviderGate>) -> Rejection {
    match gate.admit(0).await {
        Admission::Admitted(permit) => panic!("{permit:?}"),
        Admission::Rejected(rejection) => rejection,
    }
}

pub(super) async fn end(permit: Permit, outcome: CallOutcome) -> Effect {
    permit.settle(Settlement::new(outcome)).await
}

pub(super) fn in_use(status: &GateStatus) -> (u64, u64, u32) {
    (status.in_flight, status.requests, status.breaker.failures)
}

/// Breaker `openai` with other times, and leases of a second.
pub(super) fn quick(open_for: Duration) -> GatesSettings {
    let mut settings = GatesSettings {
        lease_ttl: Duration::from_secs(1),
        ..GatesSettings::default()
    };
    settings.openai.breaker = BreakerSettings::new("openai", 5, 2, open_for, ms(60_000), 3).unwrap();
    settings
}
