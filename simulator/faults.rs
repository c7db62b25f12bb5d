//! Chooses a fault for each request: first by a rule whose text the request contains, then the next fault of the
//! script, then at random. A fault that replaces the answer applies before the request is checked, like an outage at
//! the provider's edge.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Fault, FaultError, Provider, digest};

/// Most faults that may wait for one provider.
pub const MAX_PENDING: usize = 10_000;

/// The faults to come.
pub struct FaultPlan(Mutex<FaultQueues>);

struct FaultQueues {
    rules: [FaultRules; Provider::ALL.len()],
    random: StdRng,
    share: f64,
}

#[derive(Default)]
struct FaultRules {
    matching: Vec<FaultRule>,
    script: VecDeque<Fault>,
}

struct FaultRule {
    text: String,
    fault: Fault,
    /// `None`: always.
    left: Option<u32>,
}

impl FaultPlan {
    pub(super) fn new(seed: u64, share: f64) -> Result<Self, FaultError> {
        let plan = FaultQueues {
            rules: Default::default(),
            random: StdRng::seed_from_u64(seed),
            share: 0.0,
        };
        let faults = Self(Mutex::new(plan));
        faults.set_random_share(share)?;
        Ok(faults)
    }

    /// Adds to the provider's script: each request takes the next fault.
    ///
    /// # Errors
    /// When one of them does not fit; then none is added.
    pub fn script(
        &self,
        provider: Provider,
        faults: impl IntoIterator<Item = Fault>,
    ) -> Result<(), FaultError> {
        let faults: Vec<Fault> = faults.into_iter().collect();
        self.rules_for(provider, &faults)?.rules[provider as usize]
            .script
            .extend(faults);
        Ok(())
    }

    /// Adds a fault for requests that contain the text: in the body, in the reference text of an assessment, or
    /// in the marker of the image that a poll asks about. The empty text is in every request. `times: None`
    /// means always.
    ///
    /// # Errors
    /// When the fault does not fit.
    pub fn on_match(
        &self,
        provider: Provider,
        text: impl Into<String>,
        fault: Fault,
        times: Option<u32>,
    ) -> Result<(), FaultError> {
        self.on_match_each(provider, &text.into(), vec![fault], times)
    }

    /// The same for several faults, in this order: all of them are added, or none.
    pub(super) fn on_match_each(
        &self,
        provider: Provider,
        text: &str,
        faults: Vec<Fault>,
        times: Option<u32>,
    ) -> Result<(), FaultError> {
        let mut plan = self.rules_for(provider, &faults)?;
        if times != Some(0) {
            plan.rules[provider as usize]
                .matching
                .extend(faults.into_iter().map(|fault| FaultRule {
                    text: text.to_owned(),
                    fault,
                    left: times,
                }));
        }
        Ok(())
    }

    /// The share of requests that fail at random, 0 to 1: with 500, 503, 429, a reset, a cut body, a page of HTML
    /// or an empty body. Another try may succeed after each of them.
    ///
    /// # Errors
    /// [`FaultError::Share`].
    pub fn set_random_share(&self, share: f64) -> Result<(), FaultError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(FaultError::Share(share));
        }
        self.plan().share = share;
        Ok(())
    }

    /// Forgets all scripts and matches. The random share stays.
    pub fn clear(&self) {
        self.plan().rules = Default::default();
    }

    /// Scripted faults not taken yet, and matches that may still apply.
    pub fn pending(&self, provider: Provider) -> usize {
        self.plan().rules[provider as usize].pending()
    }

    /// The fault for a request that consists of these texts.
    pub(super) fn take(&self, provider: Provider, texts: &[&[u8]]) -> Option<Fault> {
        let mut plan = self.plan();
        let rules = &mut plan.rules[provider as usize];
        let applies = |rule: &FaultRule| {
            texts
                .iter()
                .any(|t| digest::find(t, rule.text.as_bytes()).is_some())
        };
        if let Some(at) = rules.matching.iter().position(applies) {
            let rule = &mut rules.matching[at];
            let fault = rule.fault.clone();
            rule.left = rule.left.map(|n| n.saturating_sub(1));
            if rule.left == Some(0) {
                rules.matching.remove(at);
            }
            return Some(fault);
        }
        rules.script.pop_front().or_else(|| plan.chance())
    }

    /// Locks the plan once the faults are known to fit and to have room.
    fn rules_for(
        &self,
        provider: Provider,
        faults: &[Fault],
    ) -> Result<MutexGuard<'_, FaultQueues>, FaultError> {
        faults.iter().try_for_each(|fault| fault.check(provider))?;
        let plan = self.plan();
        if plan.rules[provider as usize].pending() + faults.len() > MAX_PENDING {
            return Err(FaultError::TooMany(provider));
        }
        Ok(plan)
    }

    fn plan(&self) -> MutexGuard<'_, FaultQueues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultRules {
    fn pending(&self) -> usize {
        self.matching.len() + self.script.len()
    }
}

impl FaultQueues {
    fn chance(&mut self) -> Option<Fault> {
        if !self.random.random_bool(self.share) {
            return None;
        }
        Some(match self.random.random_range(0..7) {
            0 => Fault::status(500),
            1 => Fault::status(503),
            2 => Fault::RateLimit { retry_after: None },
            3 => Fault::Reset,
            4 => Fault::CutBody,
            5 => Fault::Html502,
            _ => Fault::Empty500,
        })
    }
}

impl fmt::Debug for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = Provider::ALL.map(|provider| (provider, self.pending(provider)));
        f.debug_struct("Faults")
            .field("pending", &pending)
            .finish_non_exhaustive()
    }
}
