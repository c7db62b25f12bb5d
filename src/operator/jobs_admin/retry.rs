//! Dead letters retried: one of them, or all that are meant, in bounded steps.

use std::time::Duration;

use serde::Serialize;

use super::{JobError, JobFilter, JobLocation, ambiguous};
use crate::{
    operator::Operator,
    queue::{BrokerError, JobPage, JobState, ListCursor, OperatorQueue, RetryOrder, RetryResult},
    retry::LoopBackoff,
};

/// Dead letters that one step of a mass retry puts back, at most.
const STEP: usize = 200;
/// How often a retry is sent whose answer does not come.
const SENDS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// An operator's order to retry dead letters.
#[derive(Debug, Clone)]
pub struct RetryRequest {
    id: String,
    by: String,
    reset_attempts: bool,
}

impl RetryRequest {
    /// A new order; `by` goes into the jobs' histories.
    pub fn new(by: impl Into<String>, reset_attempts: bool) -> Self {
        Self {
            id: ulid::Ulid::generate().to_string(),
            by: by.into(),
            reset_attempts,
        }
    }
}

/// The counts of a mass retry, or of a step of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RetrySummary {
    /// Put back.
    pub retried: u64,
    /// Jobs that had left the dead letters before the retry reached them, or failed again since.
    pub changed: u64,
    /// Ids without a job behind them, or with keys that are not what they should be.
    pub broken: u64,
    /// Dead letters that were looked at.
    #[serde(skip)]
    pub seen: u64,
}

impl RetrySummary {
    /// Adds another step's.
    pub const fn add(&mut self, other: Self) {
        self.retried += other.retried;
        self.changed += other.changed;
        self.broken += other.broken;
        self.seen += other.seen;
    }
}

impl Operator {
    /// Puts one dead letter back into its queue.
    ///
    /// # Errors
    /// When there is none of that id, or several, or Redis is away.
    pub async fn retry_job(
        &self,
        id: &str,
        queue: Option<&str>,
        order: &RetryRequest,
    ) -> Result<JobLocation, JobError> {
        let (mut dead, mut alive) = (Vec::new(), None);
        for broker in self.select(queue)? {
            match broker.find(id).await? {
                Some(job) if job.state == JobState::Failed => dead.push(broker),
                Some(job) => alive = Some(job.state),
                None => {}
            }
        }
        let id = id.to_owned();
        let broker = match (dead.as_slice(), alive) {
            ([broker], _) => *broker,
            ([], Some(state)) => return Err(JobError::NotFailed { id, state }),
            ([], None) => return Err(JobError::Unknown(id)),
            (several, _) => return Err(ambiguous(id, several)),
        };
        match send(&**broker, &[&id], order).await?.first() {
            Some(RetryResult::Done | RetryResult::Again) => Ok(JobLocation::at(broker)),
            Some(RetryResult::Broken) => Err(JobError::Broken(id)),
            Some(RetryResult::NotFailed) | None => Err(JobError::Changed(id)),
        }
    }

    /// Retries one page of a queue's dead letters from `after` on, and returns the place for the next page. Jobs that
    /// fail again in the meantime sort before that place and are not retried twice.
    ///
    /// # Errors
    /// Fails if Redis does. Earlier steps keep their effect, and the operator may repeat the order.
    pub async fn retry_step(
        &self,
        broker: &dyn OperatorQueue,
        wanted: &JobFilter<'_>,
        after: Option<&ListCursor>,
        order: &RetryRequest,
    ) -> Result<(RetrySummary, Option<ListCursor>), BrokerError> {
        let page: JobPage = broker.list(&wanted.query(after, STEP)).await?;
        let ids: Vec<&str> = page.jobs.iter().map(|job| job.id.as_str()).collect();
        let fates = send(broker, &ids, order).await?;
        let mut haul = RetrySummary {
            seen: page.seen,
            ..RetrySummary::default()
        };
        for fate in &fates {
            match fate {
                RetryResult::Done => haul.retried += 1,
                RetryResult::Again | RetryResult::NotFailed => haul.changed += 1,
                RetryResult::Broken => haul.broken += 1,
            }
        }
        let gone = page.jobs.iter().zip(&fates);
        let gone = gone.filter(|(_, fate)| **fate == RetryResult::Done);
        let next = page.next_without(gone.map(|(job, _)| job));
        Ok((haul, next))
    }
}

/// Sends a retry, again when its answer does not come: the order sees to it that nothing is retried twice.
async fn send(
    broker: &dyn OperatorQueue,
    ids: &[&str],
    order: &RetryRequest,
) -> Result<Vec<RetryResult>, BrokerError> {
    let order = RetryOrder {
        id: &order.id,
        by: &order.by,
        reset_attempts: order.reset_attempts,
    };
    let (mut sent, mut backoff) = (0, LoopBackoff::new(FIRST_PAUSE, LONGEST_PAUSE));
    loop {
        sent += 1;
        match broker.retry(ids, &order).await {
            Err(error) if sent < SENDS && !error.is_refusal() => backoff.wait().await,
            answer => return answer,
        }
    }
}
