//! The loops that run beside the workers of a replica: gates, ledger, usage events, monitor, HTTP.

use std::sync::Arc;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    gate::Gates,
    http_api::{HttpServer, HttpState},
    model_shutdown,
    spend_ledger::SpendLedger,
    spending::webhook::Forwarder,
    unserved_queues::UnservedQueueWatch,
    worker::supervise,
};

/// The loops beside the workers, and the HTTP server. They outlive the last job.
pub(super) struct BackgroundLoops {
    done: CancellationToken,
    /// Stops the forwarder, after the last booking.
    forwarded: CancellationToken,
    renewals: Option<JoinHandle<()>>,
    booking: JoinHandle<()>,
    forwarding: Option<JoinHandle<()>>,
    monitoring: JoinHandle<()>,
    shutdown_watch: JoinHandle<()>,
    unserved_watch: JoinHandle<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl BackgroundLoops {
    pub(super) fn start(
        gates: Option<Arc<Gates>>,
        ledger: Arc<SpendLedger>,
        forwarder: Option<Arc<Forwarder>>,
        handlers: jobs::Settings,
        unserved: UnservedQueueWatch,
        ops: HttpState,
        server: HttpServer,
    ) -> Self {
        let (done, forwarded) = (CancellationToken::new(), CancellationToken::new());
        let monitor = ops.monitor.clone();
        Self {
            server: tokio::spawn(server.serve(ops, done.clone())),
            renewals: gates.map(|gates| {
                let done = done.clone();
                supervise("gate", move || {
                    let (gates, done) = (gates.clone(), done.clone());
                    async move { gates.run(done).await }
                })
            }),
            shutdown_watch: supervise("model shutdown", {
                let done = done.clone();
                move || model_shutdown::watch(handlers.clone(), done.clone())
            }),
            unserved_watch: supervise("unserved queues", {
                let done = done.clone();
                move || unserved.clone().run(done.clone())
            }),
            booking: supervise("ledger", {
                let done = done.clone();
                move || {
                    let (ledger, done) = (ledger.clone(), done.clone());
                    async move { ledger.run(done).await }
                }
            }),
            forwarding: forwarder.map(|forwarder| {
                let stop = forwarded.clone();
                supervise("usage webhook", move || {
                    let (forwarder, stop) = (forwarder.clone(), stop.clone());
                    async move { forwarder.run(stop).await }
                })
            }),
            monitoring: supervise("monitor", {
                let done = done.clone();
                move || {
                    let (monitor, done) = (monitor.clone(), done.clone());
                    async move { monitor.run(done).await }
                }
            }),
            done,
            forwarded,
        }
    }

    /// Stops all of them, in the order in which they need each other.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        // After the last call has ended, its settlement may still wait: the gates deliver it before they stop.
        self.done.cancel();
        if let Some(renewals) = self.renewals {
            renewals.await.context("the gates' loop died")?;
        }
        self.booking.await.context("the ledger's loop died")?;
        // The last bookings have events as well; what is not forwarded now is forwarded by another replica.
        self.forwarded.cancel();
        if let Some(forwarding) = self.forwarding {
            forwarding
                .await
                .context("the loop that forwards usage events died")?;
        }
        self.monitoring.await.context("the monitor's loop died")?;
        self.shutdown_watch
            .await
            .context("the loop that watches the model's shutdown died")?;
        self.unserved_watch
            .await
            .context("the loop that looks for queues without a worker died")?;
        self.server
            .await
            .context("the HTTP server died")?
            .context("the HTTP server failed")
    }
}
