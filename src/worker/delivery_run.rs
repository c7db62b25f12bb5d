//! Runs one delivery: its handler beside the signals that stop it, and then the write of its outcome.

use futures_util::future::OptionFuture;
use jobs::Failure;
use tracing::{Span, info};

use super::{Assignment, DeliveryOutcome, QueueWorker, completer::Completer};
use crate::{
    queue::{Delivery, Lease},
    suspects::Suspect,
    telemetry::{
        metrics::labels::JobOutcome,
        trace::{self, SpanEnd},
    },
};

impl QueueWorker {
    /// The span of a delivery, which continues the trace of the job's producer.
    pub(super) fn delivery_span(&self, delivery: &Delivery) -> Span {
        let span = tracing::info_span!(parent: &self.span, "job", id = %delivery.lease.id,
            attempt = delivery.attempt, max_attempts = delivery.max_attempts);
        trace::continue_from(&span, delivery.trace.as_ref());
        trace::note(&span, "messaging.system", self.broker.layout().as_str());
        trace::note(&span, "messaging.destination.name", self.broker.queue());
        span
    }

    /// Runs a delivery until `handler` ends or the delivery has to stop, then writes its outcome and frees its slot.
    pub(super) async fn run_delivery(
        &self,
        assignment: &Assignment,
        handler: impl Future<Output = Result<DeliveryOutcome, Failure>>,
        completions: &Completer,
        span: &Span,
    ) {
        let Assignment {
            delivery,
            stops,
            stats,
            suspect,
            ..
        } = assignment;
        let end = SpanEnd::of(span);
        let _vacate = SlotRelease(self, &delivery.lease);
        // Of suspects that run together none is blamed for a death.
        let takes_blame = suspect.as_ref().is_some_and(Suspect::runs_alone);
        let may_run = !takes_blame || self.mark_started(&delivery.lease).await;
        let is_too_slow = OptionFuture::from(suspect.as_ref().map(Suspect::is_too_slow));
        let outcome = tokio::select! {
            biased;
            () = std::future::ready(()), if !may_run => None,
            outcome = handler => Some(outcome.unwrap_or_else(|failure| self.rules.of(&failure, delivery, 0))),
            () = stops.abort.cancelled() => None,
            Some(()) = is_too_slow => {
                info!("other jobs wait for this one: it goes back to the queue");
                Some(DeliveryOutcome::Released)
            }
        };
        // A job stops at once at the end of the drain time, or when this replica has lost it. The handler may have
        // noticed by itself.
        let outcome = match outcome {
            None | Some(DeliveryOutcome::Released) if stops.abort.is_cancelled() => self
                .shutdown
                .abort
                .is_cancelled()
                .then_some(DeliveryOutcome::Released),
            outcome => outcome,
        };
        stats.mark_started();
        let outcome = outcome.map(|outcome| self.hold(outcome.with_student_sentence(stats.kind())));
        let equal = stats.equal();
        let ended = self
            .write_outcome(completions, &delivery.lease, outcome.as_ref(), equal.as_ref())
            .await;
        stats.count(self.health.cells(), ended, outcome.as_ref());
        trace::note(span, "backend_worker.outcome", ended.into_str());
        end.set(ended == JobOutcome::Failed);
    }
}

/// Frees a job's slot when its task ends, however it ends.
struct SlotRelease<'a>(&'a QueueWorker, &'a Lease);

impl Drop for SlotRelease<'_> {
    fn drop(&mut self) {
        self.0.slots.vacate(self.1);
    }
}
