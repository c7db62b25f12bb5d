//! The gate of one provider: admits and settles calls through Redis, and decides locally while Redis is away.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jobs::{CalledService, Provider};
use redis::RedisError;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    batched_gate::BatchedGate,
    breaker_log,
    counters::{BreakerScope, COUNTERS},
    decision::{Effect, Reason, Rejection, State},
    fallback::{LocalCallRecord, LocalFallback, LocalRefusal},
    limit_room::LimitRoom,
    pending_settlements::PendingSettlements,
    permit::{PendingPermit, Permit},
    protocol::{AdmissionReply, AdmissionVerdict, BreakerControl, GateError},
    settings::limits_name,
    settlement::Settlement,
    status::GateStatus,
};
use crate::{
    keys::WaitingLine,
    locks::locked,
    spend_ledger::{LedgerOpening, OpeningAnswer},
};

/// Ids that one renewal carries at most, because its script blocks Redis for all clients.
const RENEW_CHUNK: usize = 200;
/// Settlements that are delivered side by side.
const DELIVER_CHUNK: usize = 64;

/// State that the gates of one replica share.
#[derive(Debug)]
pub(super) struct GateContext {
    /// Unique over all replicas and restarts: permit ids start with it.
    pub(super) replica: String,
    pub(super) next_permit: AtomicU64,
    /// How many replicas there were when Redis was last asked.
    pub(super) replicas: AtomicU32,
    /// Cancelled after Redis has returned the number of replicas for the first time.
    pub(super) replicas_counted: CancellationToken,
    pub(super) redis_away: AtomicBool,
    /// A settlement is pending.
    pub(super) settlement_pending: Notify,
}

impl GateContext {
    pub(super) fn new(replica: &str) -> Self {
        Self {
            replica: replica.to_owned(),
            next_permit: AtomicU64::new(1),
            replicas: AtomicU32::new(1),
            replicas_counted: CancellationToken::new(),
            redis_away: AtomicBool::new(false),
            settlement_pending: Notify::new(),
        }
    }

    /// Records a failed request to Redis, and logs it once an outage. An error answer (LOADING, READONLY, OOM) counts
    /// like a missing answer.
    pub(super) fn redis_failed(&self, error: &dyn std::fmt::Display) {
        if !self.redis_away.swap(true, Ordering::Relaxed) {
            warn!(%error, "Redis is away: each replica keeps breakers and limits of its own");
        }
    }

    /// Records a successful write, which proves that Redis answers, accepts writes and has memory left.
    pub(super) fn redis_works(&self) {
        if self.redis_away.swap(false, Ordering::Relaxed) {
            info!("Redis is back: the fleet's breakers and limits apply again");
        }
    }
}

/// One provider's gate, as one replica holds it.
#[derive(Debug)]
pub struct ProviderGate {
    provider: Provider,
    service: CalledService,
    shared: Arc<GateContext>,
    batched: BatchedGate,
    fallback: LocalFallback,
    /// Permits that Redis has granted and that are in use: their leases are renewed.
    live: Mutex<HashMap<Arc<str>, CancellationToken>>,
    pending: Mutex<PendingSettlements>,
    /// Tokens of the call that a limit has refused last: those that wait behind it need about as many.
    refused_tokens: AtomicU64,
    /// Told when a call has ended: a limit on calls in flight may have room now.
    freed: Notify,
}

/// The gate's verdict on a call.
#[derive(Debug)]
pub enum Admission {
    /// It may be made.
    Admitted(Permit),
    /// Not now. Nothing was consumed.
    Rejected(Rejection),
}

impl ProviderGate {
    pub(super) fn new(
        service: CalledService,
        shared: Arc<GateContext>,
        batched: BatchedGate,
        local: LocalFallback,
    ) -> Self {
        let pending = Mutex::new(PendingSettlements::new(batched.redis.lease_ttl));
        Self {
            provider: service.provider(),
            service,
            shared,
            batched,
            fallback: local,
            live: Mutex::default(),
            pending,
            refused_tokens: AtomicU64::new(0),
            freed: Notify::new(),
        }
    }

    /// The provider that the gate protects.
    pub const fn provider(&self) -> Provider {
        self.provider
    }

    /// The service that it stands in front of, as bookings and metrics name it.
    pub const fn service(&self) -> &CalledService {
        &self.service
    }

    /// The name of its limits: the provider's, or the breaker's where the breaker is one deployment's own.
    pub fn name(&self) -> &str {
        limits_name(self.provider, self.breaker())
    }

    /// The name of its breaker.
    pub fn breaker(&self) -> &str {
        self.batched.redis.settings.breaker.name()
    }

    /// Returns true if a call that took so long counts as a failure, whatever it has brought; noted in the log.
    pub(super) fn is_slow(&self, took: Duration) -> bool {
        let Some(slow_after) = self
            .batched
            .redis
            .settings
            .breaker
            .slow_after
            .filter(|after| took > *after)
        else {
            return false;
        };
        let breaker = self.breaker();
        warn!(
            breaker,
            "a call to {} took {} ms, more than the {} ms after which it counts as a failure of breaker {breaker}",
            self.provider,
            took.as_millis(),
            slow_after.as_millis()
        );
        true
    }

    /// Asks for a permit for one call that will use about so many tokens (0: they are not limited).
    ///
    /// Answers within 250 ms, whatever has become of Redis, and may be dropped at any time.
    pub async fn admit(self: &Arc<Self>, estimated_tokens: u64) -> Admission {
        self.admit_and_open(estimated_tokens, None).await.0
    }

    /// As [`Self::admit`], and opens the call in the ledger in the same round trip, if Redis grants the permit.
    pub async fn admit_and_open(
        self: &Arc<Self>,
        estimated_tokens: u64,
        opening: Option<LedgerOpening>,
    ) -> (Admission, OpeningAnswer) {
        let number = self.shared.next_permit.fetch_add(1, Ordering::Relaxed);
        let id: Arc<str> = format!("{}:{number}", self.shared.replica).into();
        let permit = PendingPermit::new(self.clone(), id.clone());
        let (answer, opened) = self.batched.admit_and_open(id, estimated_tokens, opening).await;
        (self.decide(permit, answer, estimated_tokens), opened)
    }

    /// Turns the answer of Redis into an admission, and decides by itself where there is none.
    fn decide(
        &self,
        permit: PendingPermit,
        answer: Result<AdmissionReply, GateError>,
        estimated_tokens: u64,
    ) -> Admission {
        let (now, replicas) = (Instant::now(), self.shared.replicas.load(Ordering::Relaxed));
        let refusal = match answer {
            Ok(answer) => {
                self.shared.redis_works();
                if let Some(state) = answer.moved_to {
                    breaker_log::moved(
                        &self.service,
                        &self.batched.redis.settings.breaker,
                        BreakerScope::Fleet,
                        state,
                    );
                }
                match answer.verdict {
                    AdmissionVerdict::Granted { probe, .. } => {
                        COUNTERS.admissions(&self.service, BreakerScope::Fleet).add(1);
                        let account = self.fallback.granted(now, estimated_tokens, probe);
                        return Admission::Admitted(permit.granted(account));
                    }
                    AdmissionVerdict::Refused { reason, wait, fault } => {
                        let refusal = LocalRefusal { reason, wait, fault };
                        self.fallback.refused(now, refusal);
                        if reason.is_limit() && reason != Reason::TooLarge {
                            self.refused_tokens.store(estimated_tokens, Ordering::Relaxed);
                        }
                        permit.refused();
                        refusal
                    }
                }
            }
            Err(error) => {
                self.shared.redis_failed(&error);
                match self.fallback.admit(now, estimated_tokens, replicas) {
                    Ok(grant) => {
                        if grant.half_opened {
                            breaker_log::moved(
                                &self.service,
                                &self.batched.redis.settings.breaker,
                                BreakerScope::Replica,
                                State::HalfOpen,
                            );
                        }
                        COUNTERS.admissions(&self.service, BreakerScope::Replica).add(1);
                        return Admission::Admitted(permit.granted_locally(grant.account));
                    }
                    Err(refusal) => refusal,
                }
            }
        };
        COUNTERS.rejections(&self.service, refusal.reason).add(1);
        Admission::Rejected(Rejection {
            provider: self.provider,
            breaker: self.breaker().to_owned(),
            reason: refusal.reason,
            retry_after: refusal.wait,
            fault: refusal.fault,
        })
    }

    /// Returns true if the provider's requests of a minute are limited.
    pub fn limits_requests(&self) -> bool {
        self.batched.redis.settings.limits.requests_per_minute.is_some()
    }

    /// How many calls the limits would let pass now, each as large as the one that a limit has refused last. The
    /// breaker is not asked, and nothing is consumed. Counts the jobs of `lines` in the same round trip.
    ///
    /// # Errors
    /// Redis's.
    pub async fn room(&self, lines: &[WaitingLine]) -> Result<LimitRoom, RedisError> {
        let tokens = self.refused_tokens.load(Ordering::Relaxed);
        self.batched.redis.room(tokens, lines).await
    }

    /// Resolves when a call of this replica has ended after this was called.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Reads the gate.
    ///
    /// # Errors
    /// Redis's.
    pub async fn status(&self) -> Result<GateStatus, RedisError> {
        self.control(BreakerControl::Status).await
    }

    /// Closes the breaker, by hand. Outcomes of calls in flight no longer count.
    ///
    /// # Errors
    /// Redis's.
    pub async fn reset(&self) -> Result<GateStatus, RedisError> {
        self.control(BreakerControl::Close).await
    }

    /// Opens the breaker, by hand, for its usual time.
    ///
    /// # Errors
    /// Redis's.
    pub async fn open(&self) -> Result<GateStatus, RedisError> {
        self.control(BreakerControl::Open).await
    }

    async fn control(&self, control: BreakerControl) -> Result<GateStatus, RedisError> {
        let reading = self.batched.redis.control(control).await?;
        if reading.before != reading.state {
            breaker_log::moved_by_hand(
                &self.service,
                &self.batched.redis.settings.breaker,
                reading.before,
                reading.state,
            );
        }
        Ok(GateStatus::new(
            self.provider,
            &self.batched.redis.settings,
            &reading,
        ))
    }

    /// Keeps a permit's lease alive until it [ends](Self::end).
    pub(super) fn keep_alive(&self, id: &Arc<str>, lost: &CancellationToken) {
        locked(&self.live).insert(id.clone(), lost.clone());
    }

    /// A call is over: nothing of it stays with this replica.
    pub(super) fn end(
        &self,
        id: &Arc<str>,
        account: LocalCallRecord,
        settlement: Settlement,
        tell_breaker: bool,
    ) {
        locked(&self.live).remove(id);
        if let Some(settled) = self
            .fallback
            .end(Instant::now(), account, settlement, tell_breaker)
        {
            breaker_log::settled(
                &self.service,
                &self.batched.redis.settings.breaker,
                BreakerScope::Replica,
                settlement.outcome,
                settled,
            );
        }
    }

    /// Tells Redis how a call ended.
    pub(super) async fn settle_in_redis(
        &self,
        id: &Arc<str>,
        settlement: Settlement,
    ) -> Result<Effect, GateError> {
        let settled = self.batched.settle(id.clone(), settlement).await;
        let settled = settled.inspect_err(|error| self.shared.redis_failed(error))?;
        breaker_log::settled(
            &self.service,
            &self.batched.redis.settings.breaker,
            BreakerScope::Fleet,
            settlement.outcome,
            settled,
        );
        self.freed.notify_waiters();
        Ok(settled.effect)
    }

    /// Leaves it to [`Gates::run`](super::Gates::run) to tell Redis how a call ended.
    pub(super) fn settle_later(&self, id: Arc<str>, settlement: Settlement) {
        locked(&self.pending).push(Instant::now(), id, settlement);
        self.shared.settlement_pending.notify_one();
    }

    pub(super) fn has_pending_settlements(&self) -> bool {
        !locked(&self.pending).is_empty()
    }

    /// Delivers what waits; stops when Redis is away.
    pub(super) async fn send_pending_settlements(&self) {
        loop {
            let settlements = locked(&self.pending).take(Instant::now(), DELIVER_CHUNK);
            if settlements.is_empty() {
                return;
            }
            let deliveries = settlements
                .iter()
                .map(|pending| self.settle_in_redis(&pending.id, pending.settlement));
            let answers = futures_util::future::join_all(deliveries).await;
            let undelivered: Vec<_> = settlements
                .into_iter()
                .zip(answers)
                .filter(|(_, a)| a.is_err())
                .map(|(settlement, _)| settlement)
                .collect();
            if !undelivered.is_empty() {
                locked(&self.pending).put_back(undelivered);
                return;
            }
        }
    }

    /// Renews the leases of all permits in use, and stops the calls whose lease is lost.
    pub(super) async fn renew(&self) {
        let ids: Vec<Arc<str>> = locked(&self.live).keys().cloned().collect();
        for chunk in ids.chunks(RENEW_CHUNK) {
            let lost = match self.batched.redis.renew(chunk).await {
                Ok(lost) => lost,
                Err(error) => return self.shared.redis_failed(&error),
            };
            for id in lost {
                // A permit that was settled in the meantime is no longer there.
                if let Some(lost) = locked(&self.live).remove(&*id) {
                    warn!(provider = %self.provider, permit = id, "the permit's lease is lost: its call is stopped");
                    lost.cancel();
                }
            }
        }
    }
}
