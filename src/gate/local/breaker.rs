//! The breaker of one replica, for the time that Redis is away.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Refusal;
use crate::gate::{
    permit::Outcome,
    settings::BreakerSettings,
    verdict::{Effect, Reason, State},
    wire::Settled,
};

/// A probe's slot comes free whenever its call ends.
const PROBE_HINT: Duration = Duration::from_secs(1);

/// CLOSED → OPEN → HALF_OPEN → CLOSED, by the same rules as the scripts.
#[derive(Debug)]
pub(in crate::gate) struct Breaker {
    settings: BreakerSettings,
    phase: Phase,
    /// Grows with each change of phase: an outcome from an earlier one is stale.
    epoch: u64,
}

#[derive(Debug)]
enum Phase {
    Closed { failures: VecDeque<Instant> },
    Open { until: Instant },
    HalfOpen { probes: u32, successes: u32 },
}

/// A call that the breaker has let pass.
#[derive(Debug, Clone, Copy)]
pub(in crate::gate) struct Ticket {
    epoch: u64,
    probe: bool,
}

impl Breaker {
    pub(in crate::gate) fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            phase: Phase::Closed {
                failures: VecDeque::new(),
            },
            epoch: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    pub(super) fn check(&self, now: Instant) -> Result<(), Refusal> {
        match self.phase {
            Phase::Open { until } if now < until => Err(Refusal {
                reason: Reason::Open,
                wait: Some(until - now),
            }),
            Phase::HalfOpen { probes, successes } if probes + successes >= self.settings.half_open_max => {
                Err(Refusal {
                    reason: Reason::HalfOpen,
                    wait: Some(PROBE_HINT),
                })
            }
            _ => Ok(()),
        }
    }

    /// Lets a call pass that was [checked](Self::check), and says whether it has made the breaker half open.
    pub(super) fn admit(&mut self, now: Instant) -> (Ticket, bool) {
        let half_opened = matches!(self.phase, Phase::Open { until } if until <= now);
        if half_opened {
            self.enter(Phase::HalfOpen {
                probes: 0,
                successes: 0,
            });
        }
        let probe = match &mut self.phase {
            Phase::HalfOpen { probes, .. } => {
                *probes += 1;
                true
            }
            _ => false,
        };
        (
            Ticket {
                epoch: self.epoch,
                probe,
            },
            half_opened,
        )
    }

    /// For a call that Redis has let pass.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket {
            epoch: self.epoch,
            probe: false,
        }
    }

    /// Redis's breaker is closed, and so this one.
    pub(super) fn is_closed(&mut self) {
        if self.state() != State::Closed {
            self.enter(Phase::Closed {
                failures: VecDeque::new(),
            });
        }
    }

    /// Redis's breaker is open, and so this one.
    pub(super) fn is_open(&mut self, until: Instant) {
        match &mut self.phase {
            Phase::Open { until: known } => *known = until,
            _ => self.enter(Phase::Open { until }),
        }
    }

    /// Hears of the end of a call.
    pub(super) fn settle(&mut self, now: Instant, ticket: Ticket, outcome: Outcome) -> Settled {
        self.give_back(ticket);
        let (mut effect, mut count) = (Effect::Recorded, 0);
        if ticket.epoch != self.epoch {
            effect = Effect::Stale;
        } else {
            match (outcome, &mut self.phase) {
                (Outcome::Ignored | Outcome::Cancelled, _) => effect = Effect::Ignored,
                (Outcome::Success, Phase::HalfOpen { successes, .. }) => {
                    *successes += 1;
                    count = *successes;
                    if count >= self.settings.success_threshold {
                        effect = Effect::Closed;
                        self.enter(Phase::Closed {
                            failures: VecDeque::new(),
                        });
                    }
                }
                (Outcome::Failure, Phase::HalfOpen { .. }) => {
                    (effect, count) = (Effect::Reopened, 1);
                    self.open(now);
                }
                (Outcome::Failure, Phase::Closed { failures }) => {
                    failures.push_back(now);
                    while failures
                        .front()
                        .is_some_and(|at| now - *at >= self.settings.window)
                    {
                        failures.pop_front();
                    }
                    count = u32::try_from(failures.len()).unwrap_or(u32::MAX);
                    if count >= self.settings.failure_threshold {
                        effect = Effect::Opened;
                        self.open(now);
                    }
                }
                (Outcome::Success | Outcome::Failure, _) => {}
            }
        }
        Settled {
            effect,
            state: self.state(),
            count,
        }
    }

    /// A probe is over.
    pub(super) fn give_back(&mut self, ticket: Ticket) {
        if let Phase::HalfOpen { probes, .. } = &mut self.phase
            && ticket.probe
            && ticket.epoch == self.epoch
        {
            *probes = probes.saturating_sub(1);
        }
    }

    fn open(&mut self, now: Instant) {
        self.enter(Phase::Open {
            until: now + self.settings.open_for,
        });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch += 1;
    }
}
