//! The operator's queries and actions. The HTTP routes and the command line call the same methods.

mod jobs_admin;
pub(crate) mod view;

use std::{num::NonZeroU32, sync::Arc};

use jobs::{CalledService, JobType, Provider};
use serde::Serialize;

use crate::{
    gate::{BreakerStatus, DeploymentGates, GateStatus, Gates, LimitRoom, Reason, State},
    queue::{
        BrokerError, JobSnapshot, JobState, Layout, LineView, OperatorQueue, QueueCounts, QueueInspector,
        WaitingFor,
    },
    time_format::millis,
};

pub use jobs_admin::{JobError, JobFilter, JobList, JobLocation, ListedIn, RetryRequest, RetrySummary};

/// The queues and gates of a deployment, in an operator's hands.
#[derive(Debug, Clone)]
pub struct Operator {
    brokers: Vec<Arc<dyn OperatorQueue>>,
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
    pub counts: QueueCounts,
    /// All of them.
    pub total: u64,
}

/// A job, and the queue that it was found in.
#[derive(Debug)]
pub struct FoundJob {
    /// The queue.
    pub broker: Arc<dyn OperatorQueue>,
    /// The job.
    pub job: JobSnapshot,
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

/// Returns true if one of a provider's limits may be exhausted.
fn is_full(status: &GateStatus) -> bool {
    let full =
        |used: u64, limit: Option<NonZeroU32>| limit.is_some_and(|limit| used >= u64::from(limit.get()));
    let limits = &status.limits;
    full(status.requests, limits.requests_per_minute)
        || full(status.tokens, limits.tokens_per_minute)
        || full(status.in_flight, limits.max_concurrent)
        || status.throttled_until.is_some()
}

/// A limit that is exhausted, in words: `openai: 50 of 50 requests this minute, next in 12 s`.
fn full_limit(status: &GateStatus, room: &LimitRoom) -> Option<String> {
    let (provider, limits) = (status.provider, &status.limits);
    let of = |limit: Option<NonZeroU32>| limit.map_or(0, NonZeroU32::get);
    let full = match room.reason.filter(|_| room.calls == 0)? {
        Reason::Rpm => {
            let limit = of(limits.requests_per_minute);
            format!("{} of {limit} requests this minute", status.requests)
        }
        Reason::Tpm => {
            let limit = of(limits.tokens_per_minute);
            format!("{} of {limit} tokens this minute", status.tokens)
        }
        Reason::Concurrency => format!(
            "{} of {} calls at a time",
            status.in_flight,
            of(limits.max_concurrent)
        ),
        Reason::Throttled => "a pause that it has asked for".to_owned(),
        Reason::Open | Reason::HalfOpen | Reason::TooLarge => return None,
    };
    let next = millis(room.wait).div_ceil(1000);
    Some(match room.reason {
        Some(Reason::Concurrency) => format!("{provider}: {full}, next when one ends"),
        _ => format!("{provider}: {full}, next in {next} s"),
    })
}

/// Requests a minute that the deployments take together; `None` if one of them has no such limit. A deployment whose
/// breaker is OPEN takes none, unless all are. `first` is the status of the first one.
async fn pace_of(deployments: &DeploymentGates, first: &GateStatus) -> Result<Option<u64>, BrokerError> {
    let limit = |status: &GateStatus| {
        (
            status.breaker.state == State::Open,
            status.limits.requests_per_minute,
        )
    };
    let mut limits = vec![limit(first)];
    for gate in deployments.gates().iter().skip(1) {
        limits.push(limit(&gate.status().await?));
    }
    let all_open = limits.iter().all(|(is_open, _)| *is_open);
    let taking = limits.iter().filter(|(is_open, _)| all_open || !is_open);
    Ok(taking.map(|(_, limit)| limit.map(|n| u64::from(n.get()))).sum())
}

impl Operator {
    /// An operator of these queues and gates.
    pub const fn new(brokers: Vec<Arc<dyn OperatorQueue>>, gates: Option<Arc<Gates>>) -> Self {
        Self { brokers, gates }
    }

    /// The queue of that name; with two of them in different layouts, the first that is served.
    pub fn queue(&self, name: &str) -> Option<&Arc<dyn OperatorQueue>> {
        self.brokers.iter().find(|broker| broker.queue() == name)
    }

    /// Every queue.
    pub fn queues(&self) -> &[Arc<dyn OperatorQueue>] {
        &self.brokers
    }

    /// The queue that takes new jobs of a type: its own, otherwise the first that is served. Of two layouts the
    /// apalis one comes first.
    pub fn queue_for(&self, kind: JobType) -> Option<&Arc<dyn OperatorQueue>> {
        let is_own = |broker: &&Arc<dyn OperatorQueue>| broker.queue() == kind.default_queue();
        let is_ours = |broker: &&Arc<dyn OperatorQueue>| broker.layout() == Layout::Apalis;
        let all = || self.brokers.iter();
        all()
            .filter(is_ours)
            .find(is_own)
            .or_else(|| all().find(is_own))
            .or_else(|| all().find(is_ours))
            .or_else(|| all().next())
    }

    /// Looks for a job in the queue of that name, or of that layout and name. Without a name it searches every queue,
    /// and returns the job of the first queue that knows the id.
    ///
    /// # Errors
    /// When there is no such queue, or Redis is away.
    pub async fn job(&self, id: &str, queue: Option<&str>) -> Result<Option<FoundJob>, JobError> {
        for broker in self.select(queue)? {
            if let Some(mut job) = broker.find(id).await? {
                if job.kind.is_none() {
                    job.kind = broker.kind(id).await?;
                }
                if job.state == JobState::Waiting {
                    self.look_at_line(&**broker, &mut job).await?;
                }
                return Ok(Some(FoundJob {
                    broker: broker.clone(),
                    job,
                }));
            }
        }
        Ok(None)
    }

    /// Adds a job's position in its line, the cause of the line's wait, and the expected start of the job.
    async fn look_at_line(
        &self,
        broker: &dyn QueueInspector,
        job: &mut JobSnapshot,
    ) -> Result<(), BrokerError> {
        let standing = broker.line_position(&job.id).await?;
        let mut line = LineView {
            position: standing.ahead.map(|ahead| ahead + 1),
            waiting: standing.waiting,
            ..LineView::default()
        };
        let kind = job.kind.as_deref().and_then(|kind| kind.parse::<JobType>().ok());
        if let (Some(kind), Some(gates)) = (kind, &self.gates) {
            let deployments = gates.deployments(kind.provider());
            let gate = deployments.first();
            let (status, room) = (gate.status().await?, deployments.room(&[]).await?);
            line.limit = full_limit(&status, &room);
            let pace = pace_of(deployments, &status).await?;
            line.expected_start = pace.zip(standing.ahead).map(|(rpm, ahead)| {
                // Jobs within the current room start now, the others one after the other.
                let behind = ahead.saturating_sub(room.calls as u64);
                status.now + millis(room.wait) + behind.saturating_mul(60_000) / rpm
            });
            if let Some(reason) = &line.limit {
                job.waiting_for = Some(WaitingFor {
                    gate: Some(gate.provider().as_str().to_owned()),
                    reason: Some(reason.clone()),
                    until: line.expected_start.unwrap_or(status.now + millis(room.wait)),
                });
            }
        }
        job.line = Some(line);
        Ok(())
    }

    /// Describes each exhausted limit and the jobs that wait for it. `known` holds a recent status of the gates, so
    /// that only gates that look full are asked.
    ///
    /// # Errors
    /// Fails if Redis does.
    pub async fn full_limits(&self, known: &[GateStatus]) -> Result<Vec<(Provider, String)>, BrokerError> {
        let mut full = Vec::new();
        let of_provider = |status: &&GateStatus| status.name() == status.provider.as_str();
        for status in known.iter().filter(of_provider).filter(|status| is_full(status)) {
            let provider = status.provider;
            let Some(gates) = &self.gates else { continue };
            let Some(limit) = full_limit(status, &gates.gate(provider).room(&[]).await?) else {
                continue;
            };
            let (mut waiting, mut owners) = (0, 0);
            let queues: Vec<&str> = JobType::ALL
                .iter()
                .filter(|kind| kind.provider() == provider)
                .map(|kind| kind.default_queue())
                .collect();
            for broker in self
                .brokers
                .iter()
                .filter(|broker| queues.contains(&broker.queue()))
            {
                let standing = broker.line_position("").await?;
                waiting += standing.waiting;
                owners += standing.owners;
            }
            let jobs = if waiting == 1 { "job waits" } else { "jobs wait" };
            let students = if owners == 1 { "student" } else { "students" };
            full.push((
                provider,
                format!("{limit}; {waiting} {jobs}, {owners} {students}"),
            ));
        }
        Ok(full)
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

    /// Every breaker's name, and the services behind it.
    pub fn breaker_names(&self) -> Vec<(&str, Vec<&CalledService>)> {
        let mut names: Vec<(&str, Vec<&CalledService>)> = Vec::new();
        for gate in self.gates.iter().flat_map(|gates| gates.all()) {
            match names.iter_mut().find(|(name, _)| *name == gate.breaker()) {
                Some((_, services)) => services.push(gate.service()),
                None => names.push((gate.breaker(), vec![gate.service()])),
            }
        }
        names
    }

    /// Every service that calls can go to: the providers, then the further deployments of the language model.
    pub fn services(&self) -> Vec<CalledService> {
        let gates = self.gates.iter().flat_map(|gates| gates.all());
        let further = gates
            .map(|gate| gate.service())
            .filter(|service| service.number() >= Provider::ALL.len());
        Provider::ALL
            .map(CalledService::of)
            .into_iter()
            .chain(further.cloned())
            .collect()
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
    pub async fn limits(&self) -> Result<Vec<GateStatus>, redis::RedisError> {
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

    fn gate(&self, name: &str) -> Result<&Arc<crate::gate::ProviderGate>, BreakerError> {
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
