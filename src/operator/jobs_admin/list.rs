//! Jobs by state, over all queues or one.

use serde::Serialize;

use super::{JobError, JobFilter};
use crate::{
    operator::Operator,
    queue::{BrokerError, ListCursor, ListedJob, QueueInspector},
};

/// Pages that one listing looks at in each queue, so that a rare type does not read a whole queue at once.
const MOST_PAGES: usize = 100;

/// A listed job, and the queue that it is in.
#[derive(Debug, Clone, Serialize)]
pub struct ListedIn {
    /// The queue's name.
    pub queue: String,
    /// How it is laid out.
    pub layout: &'static str,
    /// The job.
    #[serde(flatten)]
    pub job: ListedJob,
}

/// Some jobs of one state.
#[derive(Debug)]
pub struct JobList {
    /// The jobs, the newest first.
    pub jobs: Vec<ListedIn>,
    /// Where the list of the one queue that was named goes on.
    pub next: Option<ListCursor>,
    /// True if there are more.
    pub more: bool,
}

impl Operator {
    /// Lists jobs of one state, the newest first, at most about `limit`.
    ///
    /// # Errors
    /// When there is no such queue, a place is given for several queues, or Redis is away.
    pub async fn list_jobs(
        &self,
        wanted: &JobFilter<'_>,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<JobList, JobError> {
        let brokers = self.select(wanted.queue)?;
        let single = brokers.len() == 1;
        if after.is_some() && !single {
            return Err(JobError::Cursor);
        }
        let (mut jobs, mut next) = (Vec::new(), None);
        let mut more = false;
        for broker in brokers {
            let (listed, rest) = list_one(&**broker, wanted, after, limit).await?;
            more |= rest.is_some();
            next = rest;
            jobs.extend(listed.into_iter().map(|job| ListedIn {
                queue: broker.queue().to_owned(),
                layout: broker.layout().as_str(),
                job,
            }));
        }
        if !single {
            next = None;
            jobs.sort_by_key(|listed| std::cmp::Reverse(listed.job.at));
            more |= jobs.len() > limit;
            jobs.truncate(limit);
        }
        Ok(JobList { jobs, next, more })
    }
}

/// Reads pages of one queue until there are enough jobs.
async fn list_one(
    broker: &dyn QueueInspector,
    wanted: &JobFilter<'_>,
    after: Option<&ListCursor>,
    limit: usize,
) -> Result<(Vec<ListedJob>, Option<ListCursor>), BrokerError> {
    let (mut jobs, mut place) = (Vec::new(), after.cloned());
    for _ in 0..MOST_PAGES {
        let query = wanted.query(place.as_ref(), limit.saturating_sub(jobs.len()));
        let page = broker.list(&query).await?;
        jobs.extend(page.jobs);
        place = page.next;
        if place.is_none() || jobs.len() >= limit {
            break;
        }
    }
    Ok((jobs, place))
}
