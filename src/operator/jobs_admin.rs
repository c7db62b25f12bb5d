//! The operator's actions on jobs: list them by state, retry dead letters, remove them. This module selects the queues,
//! and gives the reason if an action changes nothing.

mod list;
mod retry;

use std::{sync::Arc, time::Duration};

use super::Operator;
use crate::queue::{BrokerError, JobState, ListCursor, ListQuery, OperatorQueue, RemovalResult};

pub use list::{JobList, ListedIn};
pub use retry::{RetryRequest, RetrySummary};

/// Which jobs are meant.
#[derive(Debug, Clone)]
pub struct JobFilter<'a> {
    /// In which state.
    pub state: JobState,
    /// In which queue, `name` or `layout:name`; all of them where none is named.
    pub queue: Option<&'a str>,
    /// Of which type.
    pub kind: Option<&'a str>,
    /// Ended no longer than this ago.
    pub since: Option<Duration>,
}

impl JobFilter<'_> {
    fn query<'b>(&'b self, after: Option<&'b ListCursor>, limit: usize) -> ListQuery<'b> {
        ListQuery {
            state: self.state,
            kind: self.kind,
            since: self.since,
            after,
            limit,
        }
    }
}

/// A job to which something was done, and where.
#[derive(Debug)]
pub struct JobLocation {
    /// The queue's name.
    pub queue: String,
    /// How it is laid out.
    pub layout: &'static str,
}

impl JobLocation {
    fn at(broker: &Arc<dyn OperatorQueue>) -> Self {
        Self {
            queue: broker.queue().to_owned(),
            layout: broker.layout().as_str(),
        }
    }
}

/// Why nothing was done to a job, or none was listed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// There is no such job.
    #[error("no queue knows job {0}")]
    Unknown(String),
    /// There are several.
    #[error("several queues know job {id}: name one of {}", queues.join(", "))]
    Ambiguous {
        /// The job's id.
        id: String,
        /// The queues, as they are to be named.
        queues: Vec<String>,
    },
    /// It cannot be retried.
    #[error("job {id} is {state}, not failed")]
    NotFailed {
        /// The job's id.
        id: String,
        /// Its state.
        state: JobState,
    },
    /// It changed its state just then.
    #[error("job {0} is no dead letter any more")]
    Changed(String),
    /// Nothing can be made of it.
    #[error("job {0} cannot be retried: its data is gone, or one of its keys is not what it should be")]
    Broken(String),
    /// It cannot be removed.
    #[error("job {0} is active: a replica has it")]
    Active(String),
    /// It cannot be removed.
    #[error("job {0} is the next run of a job scheduler: remove the scheduler with BullMQ")]
    Scheduled(String),
    /// It cannot be removed.
    #[error("job {0} has children, which would have to go with it: remove it with BullMQ's job.remove()")]
    Parent(String),
    /// There is no such queue.
    #[error("QUEUES names no queue {name:?}: it names {}", available.join(", "))]
    UnknownQueue {
        /// The name in the request.
        name: String,
        /// Those that there are.
        available: Vec<String>,
    },
    /// A list goes on in one queue only.
    #[error("a cursor belongs to one queue: name it as layout:name")]
    Cursor,
    /// Redis's.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Operator {
    /// The queues of that name, or of that layout and name; all where none is named.
    ///
    /// # Errors
    /// When there is none.
    pub fn select(&self, name: Option<&str>) -> Result<Vec<&Arc<dyn OperatorQueue>>, JobError> {
        let Some(name) = name else {
            return Ok(self.brokers.iter().collect());
        };
        let meant: Vec<_> = self
            .brokers
            .iter()
            .filter(|broker| broker.queue() == name || spec(broker) == name)
            .collect();
        if meant.is_empty() {
            return Err(JobError::UnknownQueue {
                name: name.to_owned(),
                available: self.brokers.iter().map(spec).collect(),
            });
        }
        Ok(meant)
    }

    /// Removes a job that is not active, with all that is kept of it.
    ///
    /// # Errors
    /// When there is none of that id, or several, or it cannot be removed, or Redis is away.
    pub async fn remove_job(&self, id: &str, queue: Option<&str>) -> Result<JobLocation, JobError> {
        let meant = self.select(queue)?;
        let mut known = Vec::new();
        for broker in &meant {
            if broker.find(id).await?.is_some() {
                known.push(*broker);
            }
        }
        let id = id.to_owned();
        // No queue has the job's data, but one of them may still list its id.
        let candidates = match known.as_slice() {
            [] => meant,
            [broker] => vec![*broker],
            several => return Err(ambiguous(id, several)),
        };
        for broker in candidates {
            match broker.remove(&id).await? {
                RemovalResult::Done => return Ok(JobLocation::at(broker)),
                RemovalResult::Unknown => {}
                RemovalResult::Active => return Err(JobError::Active(id)),
                RemovalResult::Scheduled => return Err(JobError::Scheduled(id)),
                RemovalResult::Parent => return Err(JobError::Parent(id)),
            }
        }
        Err(JobError::Unknown(id))
    }
}

fn spec(broker: &Arc<dyn OperatorQueue>) -> String {
    format!("{}:{}", broker.layout(), broker.queue())
}

fn ambiguous(id: String, brokers: &[&Arc<dyn OperatorQueue>]) -> JobError {
    let queues = brokers.iter().map(|broker| spec(broker)).collect();
    JobError::Ambiguous { id, queues }
}
