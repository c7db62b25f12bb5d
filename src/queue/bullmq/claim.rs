//! Claims: jobs into free slots. A claim whose answer was lost is answered again by the same script.

use std::{num::NonZeroU32, string::FromUtf8Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::{BullmqBroker, options::JobOptions, scripts};
use crate::queue::{
    BrokerError, ClaimNumber, Delivery, INLINE_BYTES, JobClaimer, Lease,
    fair::{hash, owner_of},
    millis,
};

/// Jobs that one claim takes at most.
const CLAIMS: usize = 32;
/// Bytes of payloads after which a claim takes no further job: its answer has to arrive in time.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// How long the number of a replica's last claim is remembered: no request is late by more.
const SESSION: Duration = Duration::from_secs(3600);

/// A job as `claim.lua` returns it: id, name, payload, opts, attempt, waited ms, whether it is the first claim,
/// deliveries lost so far, whether the payload is left out.
type ClaimedRow = (
    Vec<u8>,
    Vec<u8>,
    Option<Vec<u8>>,
    Vec<u8>,
    u32,
    u64,
    bool,
    u32,
    bool,
);
/// An id that is not served, and why.
type RefusedJob = (Vec<u8>, Vec<u8>);
/// The answer of a claim: jobs, ids without a job, jobs that must not run, and how many jobs need their places in the
/// fair line before a claim.
pub(super) type ClaimReply = (Vec<ClaimedRow>, Vec<Vec<u8>>, Vec<RefusedJob>, u64);

#[async_trait]
impl JobClaimer for BullmqBroker {
    async fn wait(&self, limit: Duration) -> Result<bool, BrokerError> {
        self.waiter.wait(limit).await
    }

    async fn claim(&self, number: ClaimNumber, count: usize) -> Result<Vec<Delivery>, BrokerError> {
        if !self.renewal().holds() {
            return Err(BrokerError::Unleased);
        }
        let (mut anyway, mut count) = (false, count);
        loop {
            let mut call = self.prepare(&scripts::CLAIM);
            call.arg(&self.claim_args(Some(number), count, anyway)[..]);
            let claimed: ClaimReply = self.connection.invoke(&call).await?;
            if claimed.3 == 0 {
                if !anyway {
                    self.placing.done();
                }
                return self.deliveries(claimed, number).await;
            }
            anyway = true;
            count = self.placing.give(&self.places(), claimed.3, count).await?;
        }
    }

    async fn payload_size(&self, id: &str) -> Result<u64, BrokerError> {
        let mut pipeline = redis::pipe();
        let key = [self.keys.prefix.as_bytes(), id.as_bytes()].concat();
        pipeline.cmd("HSTRLEN").arg(key).arg("data");
        let (size,) = self.connection.query(&pipeline).await?;
        Ok(size)
    }

    async fn payload(&self, id: &str) -> Result<Option<Vec<u8>>, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.hget([self.keys.prefix.as_bytes(), id.as_bytes()].concat(), "data");
        let (payload,) = self.connection.for_large()?.query(&pipeline).await?;
        Ok(payload)
    }

    fn owner(&self, delivery: &Delivery) -> Option<u64> {
        let field = self.options.fairness?;
        Some(hash(&owner_of(delivery.payload.as_deref()?, field.as_str())))
    }
}

impl BullmqBroker {
    /// The leading arguments of every script that claims.
    pub(super) fn claim_args(&self, number: Option<ClaimNumber>, count: usize, anyway: bool) -> [String; 10] {
        [
            self.worker.clone(),
            number.map_or(0, ClaimNumber::number).to_string(),
            count.min(CLAIMS).to_string(),
            MOST_BYTES.to_string(),
            millis(self.options.lease_ttl).to_string(),
            SESSION.as_secs().to_string(),
            INLINE_BYTES.to_string(),
            self.fairness().to_owned(),
            u8::from(anyway).to_string(),
            self.options.most_per_owner.map_or(0, NonZeroU32::get).to_string(),
        ]
    }

    /// The claimed jobs; says what became of the others.
    pub(super) async fn deliveries(
        &self,
        (rows, ghosts, refused, _): ClaimReply,
        number: ClaimNumber,
    ) -> Result<Vec<Delivery>, BrokerError> {
        for id in &ghosts {
            let id = String::from_utf8_lossy(id);
            tracing::error!(queue = %self.queue, %id, "an id without a job was queued: dropped");
        }
        for (id, reason) in &refused {
            let (id, reason) = (String::from_utf8_lossy(id), String::from_utf8_lossy(reason));
            tracing::error!(queue = %self.queue, %id, "the job failed unrun: {reason}");
        }
        let token: Arc<str> = format!("{}:{}", self.worker, number.number()).into();
        let mut deliveries = Vec::new();
        for mut row in rows {
            if row.8 && !self.options.leave_out_large {
                row.2 = self.field(&row.0, "data").await?;
            }
            match delivery(row, &token) {
                Ok(delivery) => deliveries.push(delivery),
                Err(error) => self.bury(error.as_bytes(), &token).await?,
            }
        }
        Ok(deliveries)
    }

    /// Fails a job whose id is not UTF-8. Handlers take text ids, so no replica could ever run or end this job.
    async fn bury(&self, id: &[u8], token: &str) -> Result<(), BrokerError> {
        let reason = format!("job id {} is not UTF-8", String::from_utf8_lossy(id));
        let mut call = self.prepare(&scripts::FAIL);
        call.arg(id).arg(token).arg(&reason).arg("");
        self.settle(&call).await?;
        tracing::error!(queue = %self.queue, "{reason}: it is a dead letter now");
        Ok(())
    }
}

/// A claimed job, or that its id is no UTF-8.
pub(super) fn delivery(row: ClaimedRow, token: &Arc<str>) -> Result<Delivery, FromUtf8Error> {
    let (id, name, payload, opts, attempt, waited, first, lost, _) = row;
    let options = JobOptions::read(&opts);
    Ok(Delivery {
        lease: Lease {
            id: String::from_utf8(id)?.into(),
            token: token.clone(),
        },
        kind: Some(String::from_utf8_lossy(&name).into_owned()),
        payload: payload.filter(|payload| !payload.is_empty()).map(Bytes::from),
        attempt,
        max_attempts: options.max_attempts,
        backoff: options.backoff,
        waited: Duration::from_millis(waited),
        first,
        lost,
        trace: options.trace,
        key: options.key,
        tier: options.tier,
        priority: options.priority,
    })
}
