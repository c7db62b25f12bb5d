//! Forwards usage events to `USAGE_WEBHOOK_URL`: at least once, and in order for each student.
//!
//! One replica of the fleet holds a lease and forwards; a cursor in Redis tells up to where all events are delivered.
//! It moves behind an event when the receiver has taken it and all before it. A forwarder that dies leaves its lease
//! to run out, and the next one begins at the cursor: it sends some events again, under the same keys. Each forwarder
//! sends an event only after the student's earlier ones were taken, so first arrivals are in order, also while two
//! replicas believe that they forward.
//!
//! # Layout
//! - `turn`: the steps in Redis (`forward_step.lua`), and how far the forwarder is.
//! - `delivery`: one event on its way. `event`, [`template`]: its content.

mod delivery;
mod event;
pub mod template;
mod turn;

use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use jobs::http_client::ClientError;
use reqwest::StatusCode;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::{
    delivery::WebhookSettings,
    turn::{KEPT_EVENTS, MOST_EVENTS, Standing, resend_refused, script_names},
};
use self::{
    delivery::{Delivery, Fate},
    turn::{Delivered, Entry, Read, Turn},
};
use crate::{connection::Connection, retry::LoopBackoff};

/// How long a forwarder may be silent before another takes over.
const LEASE: Duration = Duration::from_secs(10);
/// How soon a forwarder without events looks again.
const POLL: Duration = Duration::from_millis(500);
/// Events that are read at a time.
const BATCH: usize = 100;
/// Students whose events travel at a time.
const AT_A_TIME: usize = 8;
/// How long events on their way may take when the replica stops.
const LAST: Duration = Duration::from_secs(3);
/// First and longest wait after an error of Redis.
const REDIS_WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The forwarder of one replica.
#[derive(Debug)]
pub struct Forwarder {
    connection: Connection,
    replica: String,
    delivery: Delivery,
    is_holder: AtomicBool,
}

/// The events of a batch: whether each is over, and how.
struct Batch {
    entries: Vec<Entry>,
    fates: Vec<OnceLock<Fate>>,
}

impl Batch {
    fn new(entries: Vec<Entry>) -> Self {
        let fates = entries.iter().map(|(_, event)| match event {
            Some(_) => OnceLock::new(),
            None => OnceLock::from(Fate::Skipped),
        });
        Self {
            fates: fates.collect(),
            entries,
        }
    }

    /// The events delivered beyond the first `told` ones, of which Redis knows.
    fn progress(&self, told: usize) -> Delivered {
        let upto = self.fates.iter().take_while(|fate| fate.get().is_some()).count();
        let over = || self.entries.iter().zip(&self.fates).take(upto).skip(told);
        let refused = over().filter_map(|((id, _), fate)| match fate.get() {
            Some(Fate::Refused(status)) => Some((id.clone(), *status)),
            _ => None,
        });
        Delivered {
            last: over().last().map(|((id, _), _)| id.clone()).unwrap_or_default(),
            count: upto - told,
            refused: refused.collect(),
        }
    }

    /// The places of each student's events, in their order. Those without a student are one line too.
    fn lines(&self) -> Vec<Vec<usize>> {
        let mut lines: Vec<Vec<usize>> = Vec::new();
        let mut known: HashMap<&str, usize> = HashMap::new();
        for (at, (_, event)) in self.entries.iter().enumerate() {
            let Some(event) = event else { continue };
            let line = *known.entry(&event.student).or_insert_with(|| {
                lines.push(Vec::new());
                lines.len() - 1
            });
            if let Some(line) = lines.get_mut(line) {
                line.push(at);
            }
        }
        lines
    }
}

impl Forwarder {
    /// A forwarder that is called `replica`.
    ///
    /// # Errors
    /// When no HTTP client can be built.
    pub fn new(
        connection: Connection,
        replica: &str,
        settings: WebhookSettings,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            connection,
            replica: replica.to_owned(),
            delivery: Delivery::new(settings)?,
            is_holder: AtomicBool::new(false),
        })
    }

    /// Asks the receiver what it allows: the status of its answer, or why there is none.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub async fn probe(&self) -> Result<StatusCode, String> {
        self.delivery.probe().await
    }

    /// Marks where forwarding begins, unless it has begun before. Called before the first paid call, so that its
    /// event is forwarded too.
    pub async fn begin(&self) {
        if let Err(error) = self.turn(&Delivered::default(), Read::Renew).await {
            warn!(%error, "usage events: Redis does not say where forwarding begins; it is asked again");
        }
    }

    async fn turn(&self, delivered: &Delivered, read: Read) -> Result<Turn, redis::RedisError> {
        let turn = turn::take(&self.connection, &self.replica, LEASE, delivered, read).await?;
        let is_ours = matches!(turn, Turn::Ours { .. });
        if !self.is_holder.swap(is_ours, Ordering::Relaxed) && is_ours && read != Read::Leave {
            info!("usage events: this replica forwards them from now on");
        }
        for (id, status) in delivered.refused.iter().filter(|_| is_ours) {
            error!(
                event = id,
                status,
                "USAGE_WEBHOOK_URL refuses a usage event: it is set aside in the stream usage:refused; once the receiver takes \
                 such events, `budget resend` forwards it again"
            );
        }
        if let Turn::Ours { overflowed: true, .. } = turn {
            error!(
                "usage events: the stream has reached its bound of {MOST_EVENTS}, and events were dropped before they were \
                 forwarded; `spend` has the right sums"
            );
        }
        Ok(turn)
    }

    /// Forwards events while this replica holds the lease, until `stop`. Stop it after the last call is booked.
    pub async fn run(&self, stop: CancellationToken) {
        let mut delivered = Delivered::default();
        let mut backoff = LoopBackoff::new(REDIS_WAITS.0, REDIS_WAITS.1);
        while !stop.is_cancelled() {
            let pause = match self.turn(&delivered, Read::Next(BATCH)).await {
                Ok(Turn::Ours { entries, .. }) => {
                    delivered = Delivered::default();
                    backoff.reset();
                    if entries.is_empty() {
                        POLL
                    } else {
                        delivered = self.deliver(entries, &stop).await;
                        continue;
                    }
                }
                Ok(Turn::Others(left)) => {
                    delivered = Delivered::default();
                    backoff.reset();
                    left.clamp(POLL, LEASE)
                }
                Err(error) => {
                    if backoff.is_first() {
                        warn!(%error, "usage events: Redis does not answer; they wait in its stream");
                    }
                    backoff.pause()
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        if self.is_holder.load(Ordering::Relaxed) {
            // Without the message, the lease runs out.
            let _ = self.turn(&delivered, Read::Leave).await;
        }
    }

    /// Delivers a batch, and renews the lease while it does. Returns what Redis does not know yet.
    async fn deliver(&self, entries: Vec<Entry>, stop: &CancellationToken) -> Delivered {
        let mut told = 0;
        let batch = Batch::new(entries);
        let sending = stream::iter(batch.lines()).for_each_concurrent(AT_A_TIME, |line| {
            let batch = &batch;
            async move {
                for at in line {
                    if let (Some((_, Some(event))), Some(fate)) = (batch.entries.get(at), batch.fates.get(at))
                    {
                        let _ = fate.set(self.delivery.until_taken(event).await);
                    }
                }
            }
        });
        let mut sending = std::pin::pin!(sending);
        let mut ticks = tokio::time::interval_at(Instant::now() + LEASE / 4, LEASE / 4);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = &mut sending => return batch.progress(told),
                () = stop.cancelled() => {
                    let _ = tokio::time::timeout(LAST, &mut sending).await;
                    return batch.progress(told);
                }
                _ = ticks.tick() => {
                    let news = batch.progress(told);
                    let count = news.count;
                    match self.turn(&news, Read::Renew).await {
                        Ok(Turn::Ours { .. }) => {
                            told += count;
                            renewed = Instant::now();
                        }
                        // Events that are on their way arrive a second time.
                        Ok(Turn::Others(_)) => return Delivered::default(),
                        Err(_) if renewed.elapsed() > LEASE => return news,
                        Err(_) => {}
                    }
                }
            }
        }
    }
}
