//! What goes wrong and when, drawn from a seed: the same seed is the same schedule.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// One thing that goes wrong. Times are how long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and a new process.
    Kill,
    /// SIGTERM, and a new process.
    Terminate,
    /// SIGSTOP for longer than a lease, then SIGCONT.
    Freeze(Duration),
    /// The replica's wall clock jumps by so many seconds, and stays there.
    Clock(i32),
    /// redis-server is asked to shut down, or is killed, and comes back with its append-only file.
    RestartRedis { killed: bool },
    /// `CLIENT KILL TYPE normal`, so many times in a row.
    KillClients(u32),
    /// `CLIENT PAUSE`.
    Pause(Duration),
    /// `SCRIPT FLUSH` and `FUNCTION FLUSH`.
    ForgetScripts,
    /// `maxmemory` below what is used.
    OutOfMemory(Duration),
    /// Redis becomes a replica without a primary.
    ReadOnly(Duration),
    /// Each piece of the line between a replica and Redis is late.
    SlowLine(Duration),
    /// All connections of a replica are cut.
    Cut,
    /// A replica's line accepts and passes nothing.
    HalfOpen(Duration),
    /// A replica reads replies in sips.
    Sips(Duration),
    /// A share of the provider's answers, in percent, are failures of every kind.
    Failures(u8, Duration),
    /// The provider takes long.
    SlowProvider(Duration),
}

impl Fault {
    /// Its name in the report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Terminate => "SIGTERM",
            Self::Freeze(_) => "SIGSTOP",
            Self::Clock(_) => "clock step",
            Self::RestartRedis { killed: true } => "Redis killed",
            Self::RestartRedis { killed: false } => "Redis shut down",
            Self::KillClients(_) => "CLIENT KILL",
            Self::Pause(_) => "CLIENT PAUSE",
            Self::ForgetScripts => "SCRIPT FLUSH",
            Self::OutOfMemory(_) => "OOM",
            Self::ReadOnly(_) => "READONLY",
            Self::SlowLine(_) => "slow line",
            Self::Cut => "cut line",
            Self::HalfOpen(_) => "half-open line",
            Self::Sips(_) => "slow reads",
            Self::Failures(..) => "provider failures",
            Self::SlowProvider(_) => "slow provider",
        }
    }
}

/// What faults come from. Those of one lane follow each other; lanes overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// What befalls replicas.
    Replicas,
    /// What befalls Redis.
    Redis,
    /// What befalls the lines between both.
    Lines,
    /// What befalls the provider.
    Provider,
}

impl Lane {
    /// All of them.
    pub(crate) const ALL: &[Self] = &[Self::Replicas, Self::Redis, Self::Lines, Self::Provider];

    /// Kinds of faults in this lane.
    const fn kinds(self) -> u32 {
        match self {
            Self::Replicas | Self::Lines => 4,
            Self::Redis => 7,
            Self::Provider => 2,
        }
    }
}

/// The faults of one lane, without end.
pub(crate) struct Course {
    lane: Lane,
    rng: StdRng,
    lease: Duration,
    /// The kinds still to come in this round: each comes once a round, in an order of its own.
    round: Vec<u32>,
}

/// A fault, its delay after the previous one, and its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blow {
    pub(crate) after: Duration,
    pub(crate) fault: Fault,
    /// Of as many victims as there are, modulo.
    pub(crate) victim: usize,
}

impl Course {
    /// The lane's course for a seed; `lease` is how long replicas may be silent.
    pub(crate) fn new(seed: u64, lane: Lane, lease: Duration) -> Self {
        Self {
            lane,
            rng: StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(lane as u64)),
            lease,
            round: Vec::new(),
        }
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..=to))
    }

    fn fault(&mut self) -> Fault {
        if self.round.is_empty() {
            self.round = (0..self.lane.kinds()).collect();
        }
        let at = self.rng.random_range(0..self.round.len());
        match (self.lane, self.round.swap_remove(at)) {
            (Lane::Replicas, 0) => Fault::Kill,
            (Lane::Replicas, 1) => Fault::Terminate,
            (Lane::Replicas, 2) => {
                let longer = self.millis(500, 3000);
                Fault::Freeze(self.lease + longer)
            }
            (Lane::Replicas, _) => Fault::Clock(*[-60, 60].get(self.rng.random_range(0..2)).unwrap()),
            (Lane::Redis, 0) => Fault::RestartRedis { killed: true },
            (Lane::Redis, 1) => Fault::RestartRedis { killed: false },
            (Lane::Redis, 2) => Fault::KillClients(self.rng.random_range(1..=30)),
            (Lane::Redis, 3) => Fault::Pause(self.millis(1000, 5000)),
            (Lane::Redis, 4) => Fault::ForgetScripts,
            (Lane::Redis, 5) => Fault::OutOfMemory(self.millis(200, 2500)),
            (Lane::Redis, _) => Fault::ReadOnly(self.millis(200, 2500)),
            (Lane::Lines, 0) => Fault::SlowLine(self.millis(500, 3000)),
            (Lane::Lines, 1) => Fault::Cut,
            (Lane::Lines, 2) => {
                let longest = u64::try_from(self.lease.as_millis()).unwrap() + 2000;
                Fault::HalfOpen(self.millis(500, longest))
            }
            (Lane::Lines, _) => Fault::Sips(self.millis(500, 3000)),
            (Lane::Provider, 0) => {
                let percent = self.rng.random_range(5..=40);
                Fault::Failures(percent, self.millis(500, 4000))
            }
            (Lane::Provider, _) => Fault::SlowProvider(self.millis(500, 3000)),
        }
    }
}

impl Iterator for Course {
    type Item = Blow;

    fn next(&mut self) -> Option<Blow> {
        let after = self.millis(200, 1800);
        Some(Blow {
            after,
            fault: self.fault(),
            victim: self.rng.random_range(0..1_000_000),
        })
    }
}

#[test]
fn the_same_seed_is_the_same_schedule() {
    let draw = |seed| -> Vec<Blow> {
        let course = |lane: &Lane| Course::new(seed, *lane, Duration::from_secs(5)).take(50);
        Lane::ALL.iter().flat_map(course).collect()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}
