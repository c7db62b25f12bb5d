//! Claims: jobs into free slots, and what is left of a claim whose answer was lost.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use redis::{FromRedisValue, ParsingError, Value, from_redis_value};

use super::{ApalisBroker, TaskEnvelope, err_result, scripts};
use crate::queue::{
    BrokerError, ClaimNumber, Delivery, INLINE_BYTES, JobClaimer, Lease,
    fair::{hash, owner_of},
    job::producer_key,
    millis,
};

/// Attempts of a job whose producer named none, or nonsense.
const DEFAULT_MAX_ATTEMPTS: u32 = 3;
/// Bytes of payloads after which a claim takes no further job: its answer has to arrive in time.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Jobs that one claim takes at most.
const CLAIMS: usize = 32;
/// Jobs that one script looks at, at most, for what is left of a claim.
const STRETCH: usize = 200;

/// A claimed job as the scripts return it: id, payload, attempt, max_attempts, waited ms, whether it is the first
/// claim, deliveries lost so far, whether the payload is left out, the key that its producer names.
type ClaimedRow = (Vec<u8>, Option<Vec<u8>>, u32, u32, u64, bool, u32, bool, Vec<u8>);

/// The result of a claim.
enum ClaimReply {
    /// There is no lease.
    Unleased,
    /// It was carried out before.
    Before,
    /// So many jobs have to be given their places in the fair line first.
    Unplaced(u64),
    Rows(Vec<ClaimedRow>),
}

impl FromRedisValue for ClaimReply {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        Ok(match value {
            Value::Nil => Self::Unleased,
            Value::Int(0) => Self::Before,
            Value::Int(count) => Self::Unplaced(count.unsigned_abs()),
            rows => Self::Rows(from_redis_value(rows)?),
        })
    }
}

#[async_trait]
impl JobClaimer for ApalisBroker {
    async fn wait(&self, limit: Duration) -> Result<bool, BrokerError> {
        self.waiter.wait(limit).await
    }

    async fn claim(&self, number: ClaimNumber, count: usize) -> Result<Vec<Delivery>, BrokerError> {
        let token: Arc<str> = format!("{}:{}", self.worker, number.number()).into();
        let mut answer = self.ask_for_jobs(number, count, false).await?;
        if let ClaimReply::Unplaced(unplaced) = answer {
            let count = self.placing.give(&self.places(), unplaced, count).await?;
            answer = self.ask_for_jobs(number, count, true).await?;
        } else {
            self.placing.done();
        }
        let rows = match answer {
            ClaimReply::Unleased => return Err(BrokerError::Unleased),
            ClaimReply::Before => self.left_of(&token).await?,
            ClaimReply::Rows(rows) => rows,
            ClaimReply::Unplaced(_) => Vec::new(), // It never says so twice.
        };
        let mut deliveries = Vec::new();
        for row in rows {
            deliveries.extend(self.deliver(row, &token).await?);
        }
        Ok(deliveries)
    }

    async fn payload_size(&self, id: &str) -> Result<u64, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("HSTRLEN").arg(&self.keys.data).arg(id);
        let (size,) = self.connection.query(&pipeline).await?;
        Ok(size)
    }

    async fn payload(&self, id: &str) -> Result<Option<Vec<u8>>, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.hget(&self.keys.data, id);
        let (payload,) = self.connection.for_large()?.query(&pipeline).await?;
        Ok(payload)
    }

    fn owner(&self, delivery: &Delivery) -> Option<u64> {
        let field = self.options.fairness?;
        let task = serde_json::from_slice::<TaskEnvelope<'_>>(delivery.payload.as_deref()?);
        let data = task.map(|task| task.data.get()).unwrap_or_default();
        Some(hash(&owner_of(data.as_bytes(), field.as_str())))
    }
}

impl ApalisBroker {
    async fn ask_for_jobs(
        &self,
        number: ClaimNumber,
        count: usize,
        anyway: bool,
    ) -> Result<ClaimReply, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::CLAIM.prepare_invoke();
        call.key(&keys.active).key(&keys.scheduled).key(&self.inflight);
        call.key(&keys.data)
            .key(&keys.leases)
            .key(&keys.paused)
            .key(&self.session)
            .key(&keys.fair);
        call.arg(&self.worker)
            .arg(number.number())
            .arg(count.min(CLAIMS))
            .arg(MOST_BYTES)
            .arg(INLINE_BYTES);
        call.arg(&keys.meta_prefix)
            .arg(DEFAULT_MAX_ATTEMPTS)
            .arg(&keys.inflight_prefix)
            .arg(self.fairness())
            .arg(u8::from(anyway))
            .arg(self.options.most_per_owner.map_or(0, NonZeroU32::get))
            .arg(millis(self.options.lease_ttl));
        Ok(self.connection.invoke(&call).await?)
    }

    /// The jobs that are left of a claim that was carried out before.
    async fn left_of(&self, token: &str) -> Result<Vec<ClaimedRow>, BrokerError> {
        let (mut rows, mut cursor) = (Vec::new(), 0u64);
        loop {
            let mut call = scripts::CLAIM_RESEND.prepare_invoke();
            call.key(&self.inflight).key(&self.keys.data);
            call.arg(token).arg(cursor).arg(STRETCH).arg(INLINE_BYTES);
            call.arg(&self.keys.meta_prefix).arg(DEFAULT_MAX_ATTEMPTS);
            let (some, next): (Vec<ClaimedRow>, u64) = self.connection.invoke(&call).await?;
            rows.extend(some);
            cursor = next;
            if cursor == 0 {
                return Ok(rows);
            }
        }
    }

    async fn deliver(&self, row: ClaimedRow, token: &Arc<str>) -> Result<Option<Delivery>, BrokerError> {
        let (id, mut payload, attempt, max_attempts, waited, first, lost, apart, key) = row;
        let id = match String::from_utf8(id) {
            Ok(id) => id,
            Err(error) => {
                self.bury(error.as_bytes(), token).await?;
                return Ok(None);
            }
        };
        if apart && !self.options.leave_out_large {
            let mut pipeline = redis::pipe();
            pipeline.hget(&self.keys.data, &id);
            (payload,) = self.connection.for_large()?.query(&pipeline).await?;
        }
        Ok(Some(Delivery {
            lease: Lease {
                id: id.into(),
                token: token.clone(),
            },
            kind: None,
            payload: payload.map(Bytes::from),
            attempt,
            max_attempts,
            backoff: None,
            waited: Duration::from_millis(waited),
            first,
            lost,
            trace: None,
            key: producer_key(&String::from_utf8_lossy(&key)),
            tier: None,
            priority: 0,
        }))
    }

    /// Fails a job whose id is not UTF-8. Handlers take text ids, so no replica could ever run or end this job.
    async fn bury(&self, id: &[u8], token: &str) -> Result<(), BrokerError> {
        let reason = format!("job id {} is not UTF-8", String::from_utf8_lossy(id));
        let mut call = scripts::FAIL.prepare_invoke();
        call.key(&self.inflight)
            .key(&self.keys.dead)
            .key(&self.keys.ended_dead)
            .key(&self.keys.fair);
        call.arg(id)
            .arg(token)
            .arg(&self.keys.meta_prefix)
            .arg(&self.keys.history_prefix);
        call.arg(err_result(&reason)?).arg(&reason).arg("");
        let _: u8 = self.connection.invoke(&call).await?;
        tracing::error!(queue = %self.queue, "{reason}: it is a dead letter now");
        Ok(())
    }
}
