//! Jobs by state, dead letters retried, jobs removed: over all queues, in bounded steps.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::Operator;
use crate::queue::{Broker, BrokerError, Listed, Page, Place, Query, Removal, Retried, RetryOrder, State};

/// Dead letters that one step of a mass retry puts back, at most.
const STEP: usize = 200;
/// Pages that one listing looks at in each queue, so that a rare type does not read a whole queue at once.
const MOST_PAGES: usize = 100;
/// How often a retry is sent whose answer does not come.
const SENDS: u32 = 3;
const BETWEEN_SENDS: Duration = Duration::from_millis(250);

/// Which jobs are meant.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// In which state.
    pub state: State,
    /// In which queue, `name` or `layout:name`; all of them where none is named.
    pub queue: Option<&'a str>,
    /// Of which type.
    pub kind: Option<&'a str>,
    /// Ended no longer than this ago.
    pub since: Option<Duration>,
}

impl Wanted<'_> {
    fn query<'b>(&'b self, after: Option<&'b Place>, limit: usize) -> Query<'b> {
        Query {
            state: self.state,
            kind: self.kind,
            since: self.since,
            after,
            limit,
        }
    }
}

/// Who wants dead letters retried, and how.
#[derive(Debug, Clone)]
pub struct Order {
    id: String,
    by: String,
    reset_attempts: bool,
}

impl Order {
    /// A new order; `by` goes into the jobs' histories.
    pub fn new(by: impl Into<String>, reset_attempts: bool) -> Self {
        Self {
            id: ulid::Ulid::generate().to_string(),
            by: by.into(),
            reset_attempts,
        }
    }
}

/// A listed job, and the queue that it is in.
#[derive(Debug, Clone, Serialize)]
pub struct ListedIn {
    /// The queue's name.
    pub queue: String,
    /// How it is laid out.
    pub layout: &'static str,
    /// The job.
    #[serde(flatten)]
    pub job: Listed,
}

/// Some jobs of one state.
#[derive(Debug)]
pub struct JobList {
    /// The jobs, the newest first.
    pub jobs: Vec<ListedIn>,
    /// Where the list of the one queue that was named goes on.
    pub next: Option<Place>,
    /// Whether there are more.
    pub more: bool,
}

/// What a mass retry, or a step of it, came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Haul {
    /// Put back.
    pub retried: u64,
    /// No dead letters any more when their turn came, or failed again since.
    pub changed: u64,
    /// Ids without a job behind them, or with keys that are not what they should be.
    pub broken: u64,
    /// Dead letters that were looked at.
    #[serde(skip)]
    pub seen: u64,
}

impl Haul {
    /// Adds another step's.
    pub const fn add(&mut self, other: Self) {
        self.retried += other.retried;
        self.changed += other.changed;
        self.broken += other.broken;
        self.seen += other.seen;
    }
}

/// A job to which something was done, and where.
#[derive(Debug)]
pub struct Deed {
    /// The queue's name.
    pub queue: String,
    /// How it is laid out.
    pub layout: &'static str,
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
        /// Where it stands.
        state: State,
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
        /// What was asked for.
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
    pub fn select(&self, name: Option<&str>) -> Result<Vec<&Arc<dyn Broker>>, JobError> {
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

    /// Lists jobs of one state, the newest first, at most about `limit`.
    ///
    /// # Errors
    /// When there is no such queue, a place is given for several queues, or Redis is away.
    pub async fn list_jobs(
        &self,
        wanted: &Wanted<'_>,
        after: Option<&Place>,
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

    /// Puts one dead letter back into its queue.
    ///
    /// # Errors
    /// When there is none of that id, or several, or Redis is away.
    pub async fn retry_job(&self, id: &str, queue: Option<&str>, order: &Order) -> Result<Deed, JobError> {
        let (mut dead, mut alive) = (Vec::new(), None);
        for broker in self.select(queue)? {
            match broker.find(id).await? {
                Some(job) if job.state == State::Failed => dead.push(broker),
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
            Some(Retried::Done | Retried::Again) => Ok(deed(broker)),
            Some(Retried::Broken) => Err(JobError::Broken(id)),
            Some(Retried::NotFailed) | None => Err(JobError::Changed(id)),
        }
    }

    /// One step of a mass retry in one queue: looks at a chunk of its dead letters from `after` on, puts back those
    /// that are meant, and says where to go on. What fails again meanwhile lies before that place, and is left alone.
    ///
    /// # Errors
    /// Redis's. The steps before stand, and the order may be given anew.
    pub async fn retry_step(
        &self,
        broker: &dyn Broker,
        wanted: &Wanted<'_>,
        after: Option<&Place>,
        order: &Order,
    ) -> Result<(Haul, Option<Place>), BrokerError> {
        let page: Page = broker.list(&wanted.query(after, STEP)).await?;
        let ids: Vec<&str> = page.jobs.iter().map(|job| job.id.as_str()).collect();
        let fates = send(broker, &ids, order).await?;
        let mut haul = Haul {
            seen: page.seen,
            ..Haul::default()
        };
        for fate in &fates {
            match fate {
                Retried::Done => haul.retried += 1,
                Retried::Again | Retried::NotFailed => haul.changed += 1,
                Retried::Broken => haul.broken += 1,
            }
        }
        let gone = page.jobs.iter().zip(&fates);
        let gone = gone.filter(|(_, fate)| **fate == Retried::Done);
        let next = page.next_without(gone.map(|(job, _)| job));
        Ok((haul, next))
    }

    /// Removes a job that is not active, with all that is kept of it.
    ///
    /// # Errors
    /// When there is none of that id, or several, or it cannot be removed, or Redis is away.
    pub async fn remove_job(&self, id: &str, queue: Option<&str>) -> Result<Deed, JobError> {
        let meant = self.select(queue)?;
        let mut known = Vec::new();
        for broker in &meant {
            if broker.find(id).await?.is_some() {
                known.push(*broker);
            }
        }
        let id = id.to_owned();
        // Nobody knows a job, yet a queue may list its id.
        let candidates = match known.as_slice() {
            [] => meant,
            [broker] => vec![*broker],
            several => return Err(ambiguous(id, several)),
        };
        for broker in candidates {
            match broker.remove(&id).await? {
                Removal::Done => return Ok(deed(broker)),
                Removal::Unknown => {}
                Removal::Active => return Err(JobError::Active(id)),
                Removal::Scheduled => return Err(JobError::Scheduled(id)),
                Removal::Parent => return Err(JobError::Parent(id)),
            }
        }
        Err(JobError::Unknown(id))
    }
}

/// Reads pages of one queue until there are enough jobs.
async fn list_one(
    broker: &dyn Broker,
    wanted: &Wanted<'_>,
    after: Option<&Place>,
    limit: usize,
) -> Result<(Vec<Listed>, Option<Place>), BrokerError> {
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

/// Sends a retry, again when its answer does not come: the order sees to it that nothing is retried twice.
async fn send(broker: &dyn Broker, ids: &[&str], order: &Order) -> Result<Vec<Retried>, BrokerError> {
    let order = RetryOrder {
        id: &order.id,
        by: &order.by,
        reset_attempts: order.reset_attempts,
    };
    let mut sent = 0;
    loop {
        sent += 1;
        match broker.retry(ids, &order).await {
            Err(error) if sent < SENDS && !error.is_refusal() => tokio::time::sleep(BETWEEN_SENDS).await,
            answer => return answer,
        }
    }
}

fn spec(broker: &Arc<dyn Broker>) -> String {
    format!("{}:{}", broker.layout(), broker.queue())
}

fn deed(broker: &Arc<dyn Broker>) -> Deed {
    Deed {
        queue: broker.queue().to_owned(),
        layout: broker.layout().as_str(),
    }
}

fn ambiguous(id: String, brokers: &[&Arc<dyn Broker>]) -> JobError {
    let queues = brokers.iter().map(|broker| spec(broker)).collect();
    JobError::Ambiguous { id, queues }
}
