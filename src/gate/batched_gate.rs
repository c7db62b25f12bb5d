//! Sends the gate's requests to Redis: concurrent requests for permits and ends of calls share one script call.
//!
//! Each call has a deadline; a late answer counts as an outage of Redis, and the replica decides by itself.

use std::{sync::Arc, time::Duration};

use futures_util::future::join;

use super::{
    protocol::{AdmissionReply, AdmissionRequest, CallEnd, GateError, SettlementReply},
    redis_gate::{RedisGate, SettleAndAdmitReply},
    settlement::Settlement,
};
use crate::{
    deadline::answered_within,
    group_commit::{BatchLimits, Batcher},
    spend_ledger::{LedgerOpening, OpeningAnswer, open_admitted},
};

/// Requests and ends of calls that one script handles at most.
const MOST: BatchLimits = BatchLimits {
    calls: 1,
    requests: 64,
    partial: 64,
    bytes: usize::MAX,
};

/// A request to Redis.
enum GateRequest {
    Admit(AdmissionRequest),
    Settle(CallEnd),
}

/// Redis's answer to a request.
enum GateReply {
    Admitted(Result<AdmissionReply, GateError>, OpeningAnswer),
    Settled(SettlementReply),
}

/// One gate in Redis.
#[derive(Debug, Clone)]
pub(super) struct BatchedGate {
    pub(super) redis: Arc<RedisGate>,
    /// How long a call waits for its gate, at most: then Redis counts as away.
    deadline: Duration,
    requests: Batcher<GateRequest, Result<GateReply, GateError>>,
}

impl BatchedGate {
    pub(super) fn new(redis: RedisGate, deadline: Duration) -> Self {
        let redis = Arc::new(redis);
        let shared = redis.clone();
        let requests = Batcher::new(
            MOST,
            |_| 0,
            move |requests| {
                let redis = shared.clone();
                async move {
                    let count = requests.len();
                    // A call that outlasts its callers' patience must not keep those who come after it waiting.
                    let replies = answered_within(deadline, settle_and_admit(&redis, requests)).await;
                    let late = |_elapsed| (0..count).map(|_| Err(GateError::TimedOut)).collect();
                    replies.unwrap_or_else(late)
                }
            },
        );
        Self {
            redis,
            deadline,
            requests,
        }
    }

    /// Asks for a permit, within the deadline.
    #[cfg(test)]
    pub(super) async fn admit(
        &self,
        id: impl Into<Arc<str>>,
        estimated_tokens: u64,
    ) -> Result<AdmissionReply, GateError> {
        self.admit_and_open(id, estimated_tokens, None).await.0
    }

    /// Asks for a permit, within the deadline, and opens the call in the ledger where Redis grants it.
    pub(super) async fn admit_and_open(
        &self,
        id: impl Into<Arc<str>>,
        estimated_tokens: u64,
        opening: Option<LedgerOpening>,
    ) -> (Result<AdmissionReply, GateError>, OpeningAnswer) {
        let request = AdmissionRequest {
            id: id.into(),
            estimated_tokens,
            opening,
        };
        match self.within_deadline(GateRequest::Admit(request)).await {
            Ok(GateReply::Admitted(answer, opened)) => (answer, opened),
            Ok(GateReply::Settled(_)) => (Err(OTHER_REPLY), OpeningAnswer::UNKNOWN),
            Err(error) => (Err(error), OpeningAnswer::UNKNOWN),
        }
    }

    /// Settles a permit, within the deadline.
    pub(super) async fn settle(
        &self,
        id: impl Into<Arc<str>>,
        settlement: Settlement,
    ) -> Result<SettlementReply, GateError> {
        let end = CallEnd {
            id: id.into(),
            settlement,
        };
        match self.within_deadline(GateRequest::Settle(end)).await? {
            GateReply::Settled(settled) => Ok(settled),
            GateReply::Admitted(..) => Err(OTHER_REPLY),
        }
    }

    async fn within_deadline(&self, request: GateRequest) -> Result<GateReply, GateError> {
        match answered_within(self.deadline, self.requests.ask(request)).await {
            Ok(Some(reply)) => reply,
            Ok(None) => Err(GateError::Interrupted),
            Err(_elapsed) => Err(GateError::TimedOut),
        }
    }
}

const OTHER_REPLY: GateError = GateError::UnexpectedReply("the reply to another kind of request");

/// Sends all requests in one round trip, and returns the replies in the order of the requests.
async fn settle_and_admit(
    redis: &RedisGate,
    requests: Vec<GateRequest>,
) -> Vec<Result<GateReply, GateError>> {
    let (mut ends, mut admissions, mut openings) = (Vec::new(), Vec::new(), Vec::new());
    let mut order = Vec::with_capacity(requests.len());
    for request in requests {
        order.push(match request {
            GateRequest::Settle(end) => {
                ends.push(end);
                RequestKind::Settle
            }
            GateRequest::Admit(mut admission) => {
                let opening = admission.opening.take();
                let kind = match opening.is_some() {
                    true => RequestKind::AdmitAndOpen,
                    false => RequestKind::Admit,
                };
                openings.extend(opening.map(|opening| (opening, admission.id.clone())));
                admissions.push(admission);
                kind
            }
        });
    }
    // The first future is polled first, so that its script precedes the other on the socket. The other script opens
    // nothing that it does not find admitted.
    let (replies, opened) = join(
        redis.settle_and_admit(&ends, &admissions),
        open_admitted(&redis.keys.lease_data, &openings),
    )
    .await;
    let (mut settled, mut admitted, error) = match replies {
        Ok(SettleAndAdmitReply { settled, admitted }) => {
            (settled.into_iter(), admitted.into_iter(), OTHER_REPLY)
        }
        Err(error) => (Vec::new().into_iter(), Vec::new().into_iter(), error),
    };
    let mut opened = opened.into_iter();
    let mut next = |kind| match kind {
        RequestKind::Settle => settled
            .next()
            .map(GateReply::Settled)
            .ok_or_else(|| error.clone()),
        RequestKind::Admit | RequestKind::AdmitAndOpen => {
            let admission = admitted.next().unwrap_or_else(|| Err(error.clone()));
            let answer = match kind {
                RequestKind::AdmitAndOpen => opened.next().unwrap_or(OpeningAnswer::UNKNOWN),
                RequestKind::Admit | RequestKind::Settle => OpeningAnswer::NotOpened,
            };
            Ok(GateReply::Admitted(admission, answer))
        }
    };
    order.into_iter().map(&mut next).collect()
}

/// The parts of the reply that belong to a request.
#[derive(Debug, Clone, Copy)]
enum RequestKind {
    Settle,
    Admit,
    AdmitAndOpen,
}
