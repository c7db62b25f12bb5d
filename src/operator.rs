//! What an operator can ask and do. The HTTP routes and the command line call the same methods.

mod letters;

use std::sync::Arc;

use jobs::{JobType, Provider};
use serde::Serialize;

use crate::{
    gate::{BreakerStatus, Gates, Status},
    queue::{Broker, BrokerError, Counts, JobView, Layout},
};

pub use letters::{Deed, Haul, JobError, JobList, ListedIn, Order, Wanted};

/// The queues and gates of a deployment, in an operator's hands.
#[derive(Debug, Clone)]
pub struct Operator {
    brokers: Vec<Arc<dyn Broker>>,
    gates: Option<Arc<Gates>>,
}

/// A queue and how many jobs it holds.
#[derive(Debug, Clone, Serialize)]
pub struct QueueStats {
    /// The queue's name.
    pub queue: String,
    /// How it is laid out.
    pub layout: &'static str,
    /// Its jobs by state.
    #[serde(flatten)]
    pub counts: Counts,
    /// All of them.
    pub total: u64,
}

/// A job, and the queue that it was found in.
#[derive(Debug)]
pub struct Found {
    /// The queue.
    pub broker: Arc<dyn Broker>,
    /// The job.
    pub job: JobView,
}

/// Why a breaker could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum BreakerError {
    /// There is none of that name.
    #[error("unknown circuit breaker: {name}")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        available: Vec<String>,
    },
    /// Redis is away.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
}

impl Operator {
    /// An operator of these queues and gates.
    pub const fn new(brokers: Vec<Arc<dyn Broker>>, gates: Option<Arc<Gates>>) -> Self {
        Self { brokers, gates }
    }

    /// The queue of that name; with two of them in different layouts, the first that is served.
    pub fn queue(&self, name: &str) -> Option<&Arc<dyn Broker>> {
        self.brokers.iter().find(|broker| broker.queue() == name)
    }

    /// Every queue.
    pub fn queues(&self) -> &[Arc<dyn Broker>] {
        &self.brokers
    }

    /// The queue that takes new jobs of a type: its own, or the first of the apalis layout.
    pub fn queue_for(&self, kind: JobType) -> Option<&Arc<dyn Broker>> {
        let ours = || {
            self.brokers
                .iter()
                .filter(|broker| broker.layout() == Layout::Apalis)
        };
        ours()
            .find(|broker| broker.queue() == kind.default_queue())
            .or_else(|| ours().next())
    }

    /// Looks for a job in the queue of that name, or of that layout and name; in every queue where none is named, and
    /// then the first that knows the id tells.
    ///
    /// # Errors
    /// When there is no such queue, or Redis is away.
    pub async fn job(&self, id: &str, queue: Option<&str>) -> Result<Option<Found>, JobError> {
        for broker in self.select(queue)? {
            if let Some(mut job) = broker.find(id).await? {
                if job.kind.is_none() {
                    job.kind = broker.kind(id).await?;
                }
                return Ok(Some(Found {
                    broker: broker.clone(),
                    job,
                }));
            }
        }
        Ok(None)
    }

    /// Counts the jobs of every queue.
    ///
    /// # Errors
    /// Redis's.
    pub async fn queue_stats(&self) -> Result<Vec<QueueStats>, BrokerError> {
        let mut all = Vec::new();
        for broker in &self.brokers {
            let counts = broker.counts().await?;
            let total = counts.waiting + counts.active + counts.completed + counts.failed + counts.delayed;
            let (queue, layout) = (broker.queue().to_owned(), broker.layout().as_str());
            all.push(QueueStats {
                queue,
                layout,
                counts,
                total,
            });
        }
        Ok(all)
    }

    /// Every breaker's name, and the providers behind it.
    pub fn breaker_names(&self) -> Vec<(&str, Vec<Provider>)> {
        let mut names: Vec<(&str, Vec<Provider>)> = Vec::new();
        for gate in self.gates.iter().flat_map(|gates| gates.all()) {
            match names.iter_mut().find(|(name, _)| *name == gate.breaker()) {
                Some((_, providers)) => providers.push(gate.provider()),
                None => names.push((gate.breaker(), vec![gate.provider()])),
            }
        }
        names
    }

    /// Every breaker, once.
    ///
    /// # Errors
    /// Redis's.
    pub async fn breakers(&self) -> Result<Vec<BreakerStatus>, redis::RedisError> {
        let mut breakers: Vec<BreakerStatus> = Vec::new();
        for gate in self.gates.iter().flat_map(|gates| gates.all()) {
            if breakers.iter().all(|known| known.name != gate.breaker()) {
                breakers.push(gate.status().await?.breaker);
            }
        }
        Ok(breakers)
    }

    /// Every provider's limits, and how much of them is used.
    ///
    /// # Errors
    /// Redis's.
    pub async fn limits(&self) -> Result<Vec<Status>, redis::RedisError> {
        let mut limits = Vec::new();
        for gate in self.gates.iter().flat_map(|gates| gates.all()) {
            limits.push(gate.status().await?);
        }
        Ok(limits)
    }

    /// Closes a breaker.
    ///
    /// # Errors
    /// When there is none of that name, or Redis is away.
    pub async fn reset_breaker(&self, name: &str) -> Result<BreakerStatus, BreakerError> {
        Ok(self.gate(name)?.reset().await?.breaker)
    }

    /// Opens a breaker.
    ///
    /// # Errors
    /// When there is none of that name, or Redis is away.
    pub async fn open_breaker(&self, name: &str) -> Result<BreakerStatus, BreakerError> {
        Ok(self.gate(name)?.open().await?.breaker)
    }

    fn gate(&self, name: &str) -> Result<&Arc<crate::gate::Gate>, BreakerError> {
        let gates = self.gates.as_ref();
        gates.and_then(|gates| gates.with_breaker(name)).ok_or_else(|| {
            // A breaker may stand before several providers, in any order.
            let mut available: Vec<String> = Vec::new();
            for gate in gates.iter().flat_map(|gates| gates.all()) {
                if available.iter().all(|known| known != gate.breaker()) {
                    available.push(gate.breaker().to_owned());
                }
            }
            BreakerError::Unknown {
                name: name.to_owned(),
                available,
            }
        })
    }
}
