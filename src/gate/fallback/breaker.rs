//! The breaker of one replica, for the time that Redis is away.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use jobs::AccountFault;

use super::LocalRefusal;
use crate::gate::{
    decision::{Effect, Reason, State},
    protocol::SettlementReply,
    settings::BreakerSettings,
    settlement::{CallOutcome, Settlement},
};

/// A probe's slot comes free whenever its call ends.
const PROBE_HINT: Duration = Duration::from_secs(1);
/// How many of the last calls the failure share is taken of.
const LAST_CALLS: usize = 10;
/// The open time doubles with each opening in a row, up to this. A longer configured time stays as it is.
const LONGEST_OPEN: Duration = Duration::from_secs(600);
/// After a recovery a quarter of the concurrency limit is granted, then half of it, each for this long.
const RAMP_STEP: Duration = Duration::from_secs(15);

/// CLOSED → OPEN → HALF_OPEN → CLOSED, by the same rules as the scripts.
#[derive(Debug)]
pub(in crate::gate) struct LocalBreaker {
    settings: BreakerSettings,
    phase: BreakerPhase,
    /// Grows with each change of phase: an outcome from an earlier one is stale.
    epoch: u64,
    /// Openings in a row.
    opens: u32,
    /// The account's fault, when the last counted call failed for one.
    fault: Option<AccountFault>,
}

#[derive(Debug)]
enum BreakerPhase {
    Closed(ClosedBreaker),
    Open { until: Instant },
    HalfOpen { probes: u32, successes: u32 },
}

#[derive(Debug, Default)]
struct ClosedBreaker {
    failures: VecDeque<Instant>,
    /// How the last calls ended: whether each failed.
    calls: VecDeque<bool>,
    /// Since when; unknown for a breaker that has always been closed.
    since: Option<Instant>,
}

/// The share of the concurrency limit that a closed breaker grants.
#[derive(Debug, Clone, Copy)]
pub(in crate::gate) struct RecoveryRamp {
    pub(super) percent: u64,
    /// Calls in flight at most, whatever the limit is.
    pub(super) most: Option<u64>,
}

/// A call that the breaker has let pass.
#[derive(Debug, Clone, Copy)]
pub(in crate::gate) struct BreakerTicket {
    epoch: u64,
    probe: bool,
}

impl LocalBreaker {
    pub(in crate::gate) fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            phase: BreakerPhase::Closed(ClosedBreaker::default()),
            epoch: 0,
            opens: 0,
            fault: None,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            BreakerPhase::Closed(_) => State::Closed,
            BreakerPhase::Open { .. } => State::Open,
            BreakerPhase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    pub(super) fn check(&self, now: Instant) -> Result<(), LocalRefusal> {
        let refused = |reason, wait| {
            Err(LocalRefusal {
                reason,
                wait: Some(wait),
                fault: self.fault,
            })
        };
        match self.phase {
            BreakerPhase::Open { until } if now < until => refused(Reason::Open, until - now),
            BreakerPhase::HalfOpen { probes, successes }
                if probes + successes >= self.most_probes(successes) =>
            {
                refused(Reason::HalfOpen, PROBE_HINT)
            }
            _ => Ok(()),
        }
    }

    /// More probes cannot pay a bill: one at a time shows whether the account works again.
    fn most_probes(&self, successes: u32) -> u32 {
        match self.fault {
            Some(_) if successes == 0 => 1,
            _ => self.settings.half_open_max,
        }
    }

    /// How many calls may be in flight now: all that are allowed, but for the time after a recovery, and while a fault
    /// of the account fails every call.
    pub(super) fn caution(&self, now: Instant) -> RecoveryRamp {
        let BreakerPhase::Closed(closed) = &self.phase else {
            return RecoveryRamp {
                percent: 100,
                most: None,
            };
        };
        let percent = match closed.since.map(|since| now.saturating_duration_since(since)) {
            Some(since) if since < RAMP_STEP => 25,
            Some(since) if since < 2 * RAMP_STEP => 50,
            _ => 100,
        };
        let missing = self
            .settings
            .failure_threshold
            .saturating_sub(count(closed.failures.len()));
        RecoveryRamp {
            percent,
            most: self.fault.map(|_| u64::from(missing.max(1))),
        }
    }

    /// Lets a call pass that was [checked](Self::check), and says whether it has made the breaker half open.
    pub(super) fn admit(&mut self, now: Instant) -> (BreakerTicket, bool) {
        let half_opened = matches!(self.phase, BreakerPhase::Open { until } if until <= now);
        if half_opened {
            self.enter(BreakerPhase::HalfOpen {
                probes: 0,
                successes: 0,
            });
        }
        let probe = match &mut self.phase {
            BreakerPhase::HalfOpen { probes, .. } => {
                *probes += 1;
                true
            }
            _ => false,
        };
        (
            BreakerTicket {
                epoch: self.epoch,
                probe,
            },
            half_opened,
        )
    }

    /// For a call that Redis has let pass.
    pub(super) fn ticket(&self) -> BreakerTicket {
        BreakerTicket {
            epoch: self.epoch,
            probe: false,
        }
    }

    /// Redis's breaker is closed, and so this one.
    pub(super) fn is_closed(&mut self, now: Instant) {
        if self.state() != State::Closed {
            self.close(now);
        }
    }

    /// Redis's breaker is open, and so this one.
    pub(super) fn is_open(&mut self, until: Instant, fault: Option<AccountFault>) {
        self.fault = fault;
        match &mut self.phase {
            BreakerPhase::Open { until: known } => *known = until,
            _ => self.enter(BreakerPhase::Open { until }),
        }
    }

    /// Hears of the end of a call.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        ticket: BreakerTicket,
        settlement: Settlement,
    ) -> SettlementReply {
        self.give_back(ticket);
        let mut settled = SettlementReply {
            effect: Effect::Recorded,
            state: self.state(),
            count: 0,
            failed: 0,
            of_calls: 0,
        };
        if ticket.epoch != self.epoch {
            settled.effect = Effect::Stale;
            return settled;
        }
        match settlement.outcome {
            CallOutcome::Ignored | CallOutcome::Cancelled => settled.effect = Effect::Ignored,
            CallOutcome::Success => {
                self.fault = None;
                self.succeeded(now, &mut settled);
            }
            CallOutcome::Failure => {
                self.fault = settlement.fault;
                self.failed(now, &mut settled);
            }
        }
        settled.state = self.state();
        settled
    }

    fn succeeded(&mut self, now: Instant, settled: &mut SettlementReply) {
        match &mut self.phase {
            BreakerPhase::Closed(closed) => closed.note(false),
            BreakerPhase::HalfOpen { successes, .. } => {
                *successes += 1;
                settled.count = *successes;
                if settled.count >= self.settings.success_threshold {
                    settled.effect = Effect::Closed;
                    self.close(now);
                }
            }
            BreakerPhase::Open { .. } => {}
        }
    }

    fn failed(&mut self, now: Instant, settled: &mut SettlementReply) {
        let settings = &self.settings;
        match &mut self.phase {
            BreakerPhase::Closed(closed) => {
                closed.note(true);
                closed.failures.push_back(now);
                let counted = |at: &Instant| now - *at < settings.window;
                closed.failures.retain(counted);
                let most = usize::try_from(settings.failure_threshold).unwrap_or(usize::MAX);
                while closed.failures.len() > most {
                    closed.failures.pop_front();
                }
                let failed = closed.calls.iter().filter(|failed| **failed).count();
                settled.count = count(closed.failures.len());
                (settled.failed, settled.of_calls) = (count(failed), count(closed.calls.len()));
                let enough = settled.count >= settings.failure_threshold;
                if enough && failed * 100 >= usize::from(settings.share.percent()) * closed.calls.len() {
                    settled.effect = Effect::Opened;
                    self.open(now);
                }
            }
            BreakerPhase::HalfOpen { .. } => {
                (settled.effect, settled.count) = (Effect::Reopened, 1);
                self.open(now);
            }
            BreakerPhase::Open { .. } => {}
        }
    }

    /// A probe is over.
    pub(super) fn give_back(&mut self, ticket: BreakerTicket) {
        if let BreakerPhase::HalfOpen { probes, .. } = &mut self.phase
            && ticket.probe
            && ticket.epoch == self.epoch
        {
            *probes = probes.saturating_sub(1);
        }
    }

    /// Opens, for longer than the last time unless it was closed for long enough in between.
    fn open(&mut self, now: Instant) {
        let stable = self.settings.window.max(self.open_time());
        let is_stable = match &self.phase {
            BreakerPhase::Closed(ClosedBreaker { since, .. }) => {
                since.is_none_or(|since| now - since >= stable)
            }
            _ => false,
        };
        self.opens = if is_stable {
            1
        } else {
            self.opens.saturating_add(1)
        };
        let until = now + self.open_time();
        self.enter(BreakerPhase::Open { until });
    }

    /// How long the last opening of a row lasts.
    fn open_time(&self) -> Duration {
        if let Some(reopen_for) = self.settings.reopen_for.filter(|_| self.opens > 1) {
            return reopen_for.min(self.settings.open_for);
        }
        let usual = self.settings.open_for;
        let doubled = usual.saturating_mul(1 << self.opens.saturating_sub(1).min(20));
        usual.max(doubled.min(LONGEST_OPEN))
    }

    fn close(&mut self, now: Instant) {
        self.enter(BreakerPhase::Closed(ClosedBreaker {
            since: Some(now),
            ..ClosedBreaker::default()
        }));
    }

    fn enter(&mut self, phase: BreakerPhase) {
        self.phase = phase;
        self.epoch += 1;
    }
}

impl ClosedBreaker {
    fn note(&mut self, failed: bool) {
        self.calls.push_back(failed);
        if self.calls.len() > LAST_CALLS {
            self.calls.pop_front();
        }
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
