//! Sends the gate's requests to Redis: concurrent requests for permits and ends of calls share one script call.
//!
//! Each call has a deadline; a late answer counts as an outage of Redis, and the replica decides by itself.

use std::{sync::Arc, time::Duration};

use super::{
    protocol::{AdmissionReply, AdmissionRequest, CallEnd, GateError, SettlementReply},
    redis_gate::{RedisGate, SettleAndAdmitReply},
    settlement::Settlement,
};
use crate::{
    deadline::answered_within,
    group_commit::{BatchLimits, Batcher},
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
    Admitted(Result<AdmissionReply, GateError>),
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
                    match replies.unwrap_or_else(|_elapsed| Err(GateError::TimedOut)) {
                        Ok(replies) => replies.into_iter().map(Ok).collect(),
                        Err(error) => vec![error; count].into_iter().map(Err).collect(),
                    }
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
    pub(super) async fn admit(
        &self,
        id: impl Into<Arc<str>>,
        estimated_tokens: u64,
    ) -> Result<AdmissionReply, GateError> {
        let request = AdmissionRequest {
            id: id.into(),
            estimated_tokens,
        };
        match self.within_deadline(GateRequest::Admit(request)).await? {
            GateReply::Admitted(answer) => answer,
            GateReply::Settled(_) => Err(OTHER_REPLY),
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
            GateReply::Admitted(_) => Err(OTHER_REPLY),
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

/// Sends all requests in one call to Redis, and returns the replies in the order of the requests.
async fn settle_and_admit(
    redis: &RedisGate,
    requests: Vec<GateRequest>,
) -> Result<Vec<GateReply>, GateError> {
    let (mut ends, mut admissions) = (Vec::new(), Vec::new());
    let mut order = Vec::with_capacity(requests.len());
    for request in requests {
        order.push(matches!(request, GateRequest::Settle(_)));
        match request {
            GateRequest::Settle(end) => ends.push(end),
            GateRequest::Admit(admission) => admissions.push(admission),
        }
    }
    let SettleAndAdmitReply { settled, admitted } = redis.settle_and_admit(&ends, &admissions).await?;
    let mut settled = settled.into_iter().map(GateReply::Settled);
    let mut admitted = admitted.into_iter().map(GateReply::Admitted);
    let next = |settles| if settles { settled.next() } else { admitted.next() };
    Ok(order.into_iter().filter_map(next).collect()) // There is one for each.
}
