//! The calls of one replica, from their reservation to their booking.
//!
//! A call is reserved with the most that it can cost before it is sent, and booked with what it came to. Both travel
//! with the ledger's entries: no further round trip. What could not be told to Redis waits in an outbox; its entries
//! are numbered and go in order, so that Redis knows what it is told again. A replica that dies leaves its
//! reservations behind: they are booked as possibly paid when it has been silent for a while.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jobs::{CallUsage, CalledService, Failure, FailureClass, JobType, ProviderCall, ProviderReply};
use tokio::sync::Notify;
use tracing::{error, warn};

use super::{PriceTable, Usd, webhook::KEPT_EVENTS};
use crate::locks::locked;
use crate::telemetry::metrics::PROCESS;

/// Calls that wait to be booked while Redis is away, at most.
const MOST_WAITING: usize = 100_000;
/// Calls that one script books at most.
pub const BOOKED_AT_A_TIME: usize = 64;
/// Longest name of a model in a sum, characters.
const LONGEST_MODEL: usize = 100;

/// The budgets of the fleet and of its students.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budgets {
    /// Of all calls of a day, UTC.
    pub day: Option<Usd>,
    /// Of all calls of a month, UTC. What an operator has set in Redis wins.
    pub month: Option<Usd>,
    /// Of one student's calls of a month. What an operator has set for that student wins.
    pub student: Option<Usd>,
    /// The effect on jobs when the fleet's budget is used up.
    pub exhausted: ExhaustedBudget,
    /// True if calls without a known price are made although there is a budget.
    pub allows_unpriced: bool,
}

impl Budgets {
    /// Returns true if any budget is configured.
    pub const fn any(&self) -> bool {
        self.day.is_some() || self.month.is_some() || self.student.is_some()
    }
}

/// The effect on jobs when the fleet's budget is used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExhaustedBudget {
    /// They wait.
    #[default]
    Wait,
    /// They fail.
    Fail,
}

/// The kind of a booking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BookingKind {
    /// The answer came, and has a price.
    Paid,
    /// The answer came, and its model has no price.
    Unpriced,
    /// The answer was lost: the provider may have billed it.
    Possible,
    /// It was not billed.
    Nothing,
}

impl BookingKind {
    /// Its word in the scripts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paid => "paid",
            Self::Unpriced => "unpriced",
            Self::Possible => "possible",
            Self::Nothing => "nothing",
        }
    }
}

/// The student and the type of job that a call is booked for.
#[derive(Debug, Clone)]
pub struct Payer {
    /// The student; empty where the payload names none.
    pub student: Arc<str>,
    /// The job's type.
    pub kind: JobType,
}

/// A call that is ready to be booked.
#[derive(Debug, Clone)]
pub struct Booking {
    /// Its place in the order in which this replica books.
    pub number: u64,
    /// The call.
    pub id: u64,
    /// The kind of the booking.
    pub came_to: BookingKind,
    /// The cost, or the highest possible cost.
    pub amount: Usd,
    /// The student that it was made for.
    pub student: Arc<str>,
    /// The row of the day's sums.
    pub row: String,
    /// Tokens of the request, of the cache, of the answer, of reasoning.
    pub tokens: [u64; 4],
}

#[derive(Debug, Default)]
struct UnsentBookings {
    waiting: VecDeque<Booking>,
    last: u64,
}

/// When Redis last heard that this replica is alive. Redis is told again in time, not with each call.
#[derive(Debug, Default)]
pub(crate) struct Announcement(Mutex<Option<Instant>>);

impl Announcement {
    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        locked(&self.0)
    }

    pub(crate) fn is_due(&self, every: Duration) -> bool {
        self.last().is_none_or(|last| last.elapsed() >= every)
    }

    pub(crate) fn made(&self) {
        *self.last() = Some(Instant::now());
    }

    pub(crate) fn withdraw(&self) {
        *self.last() = None;
    }
}

/// The books of one replica.
#[derive(Debug)]
pub struct SpendBooks {
    /// Its name, which no other one bears, nor has borne.
    pub replica: String,
    /// The prices of the providers.
    pub prices: Arc<PriceTable>,
    /// The budgets.
    pub budgets: Budgets,
    /// Events that stay in the stream `usage`, about.
    pub(crate) events: u64,
    /// When this replica was last marked as alive.
    pub(crate) announcement: Announcement,
    outbox: Mutex<UnsentBookings>,
    /// Wakes the booking loop when a call waits to be booked and no closing call carries it.
    pub(crate) late: Notify,
    last_call: AtomicU64,
    open: AtomicUsize,
}

impl SpendBooks {
    /// Books of a replica.
    pub fn new(replica: &str, prices: Arc<PriceTable>, budgets: Budgets) -> Self {
        Self {
            replica: replica.to_owned(),
            prices,
            budgets,
            events: KEPT_EVENTS,
            announcement: Announcement::default(),
            outbox: Mutex::default(),
            late: Notify::new(),
            last_call: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        }
    }

    /// Sets how many events stay in the stream `usage`, about.
    #[must_use]
    pub fn keeping_events(self, events: u64) -> Self {
        Self { events, ..self }
    }

    /// A call that is about to be opened.
    pub fn prepare(self: &Arc<Self>, call: &ProviderCall, payer: &Payer) -> OpenCall {
        self.open.fetch_add(1, Ordering::Relaxed);
        let estimate = self.prices.cost(call.provider, &call.estimate);
        let of_successor = call.successor_estimate.as_ref();
        let of_successor = of_successor.and_then(|usage| self.prices.known_cost(call.provider, usage));
        OpenCall {
            books: self.clone(),
            id: self.last_call.fetch_add(1, Ordering::Relaxed) + 1,
            service: call.service.clone(),
            // The model may turn out to be gone within the call, which then costs what its successor does.
            estimate: estimate.map(|estimate| estimate.max(of_successor.unwrap_or_default())),
            row: row(&call.service, &call.estimate.model, payer.kind),
            payer: payer.clone(),
            is_sent: false,
            is_over: false,
        }
    }

    /// The cost of an answer, whichever delivery paid for it; `None` where its model has no price.
    pub fn cost_of(&self, call: &ProviderCall, reply: &ProviderReply) -> Option<Usd> {
        let usage = CallUsage::of_answer(call, &reply.body);
        self.prices.cost(call.provider, &usage)
    }

    /// The bookings that go next, and whether no call of this replica is in flight and none waits behind them.
    pub(crate) fn next(&self) -> (Vec<Booking>, bool) {
        let outbox = self.outbox();
        let next: Vec<Booking> = outbox.waiting.iter().take(BOOKED_AT_A_TIME).cloned().collect();
        // Under the lock: a call leaves the count when its booking is in the outbox.
        let is_idle = self.open.load(Ordering::Relaxed) == 0 && next.len() == outbox.waiting.len();
        (next, is_idle)
    }

    /// Redis has booked what bears this number, and all before.
    pub(crate) fn booked(&self, number: u64) {
        let mut outbox = self.outbox();
        while outbox.waiting.front().is_some_and(|first| first.number <= number) {
            outbox.waiting.pop_front();
        }
    }

    /// Returns true if no call is in flight and none waits to be booked.
    pub fn is_idle(&self) -> bool {
        let outbox = self.outbox();
        outbox.waiting.is_empty() && self.open.load(Ordering::Relaxed) == 0
    }

    /// How many calls wait to be booked.
    pub fn waiting(&self) -> usize {
        self.outbox().waiting.len()
    }

    fn outbox(&self) -> MutexGuard<'_, UnsentBookings> {
        locked(&self.outbox)
    }

    /// A call that was prepared is not made, and leaves nothing to book.
    fn forget(&self) {
        let _outbox = self.outbox();
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn put(&self, mut booking: Booking) {
        let mut outbox = self.outbox();
        self.open.fetch_sub(1, Ordering::Relaxed);
        if outbox.waiting.len() >= MOST_WAITING {
            outbox.waiting.pop_front();
            error!(
                "more than {MOST_WAITING} paid calls wait to be booked: the oldest is dropped, and will be booked as possibly \
                 paid; Redis has been away for too long"
            );
        }
        outbox.last += 1;
        booking.number = outbox.last;
        outbox.waiting.push_back(booking);
    }
}

/// `<service>|<model>|<type>`, in characters that the scripts and the reports can rely on.
fn row(service: &CalledService, model: &str, kind: JobType) -> String {
    let model = model.chars().filter(|c| c.is_ascii_graphic() && *c != '|');
    let model: String = model.take(LONGEST_MODEL).collect();
    format!("{}|{model}|{kind}", service.name())
}

/// A paid call between its reservation and its booking. Dropped, it is booked as well: as possibly paid once it was
/// sent.
#[derive(Debug)]
pub struct OpenCall {
    books: Arc<SpendBooks>,
    /// Unique within the replica.
    pub id: u64,
    service: CalledService,
    /// The most that it costs; `None` if its model has no price.
    pub estimate: Option<Usd>,
    /// The row of its sums, by the model that is asked.
    pub row: String,
    /// The student and the type of job that it is booked for.
    pub payer: Payer,
    is_sent: bool,
    is_over: bool,
}

impl OpenCall {
    /// Notes that the request leaves now.
    pub fn sent(&mut self) {
        self.is_sent = true;
    }

    /// Puts what the call came to into the outbox, and says it.
    pub fn end(mut self, call: &ProviderCall, result: &Result<ProviderReply, Failure>) -> (BookingKind, Usd) {
        self.is_over = true;
        let mut booking = self.booking(BookingKind::Nothing);
        match result {
            // The answer broke off before the provider said what it bills.
            Ok(reply) if reply.is_cut => booking.came_to = BookingKind::Possible,
            Ok(reply) => {
                let usage = CallUsage::of_answer(call, &reply.body);
                let cost = self.books.prices.cost(self.service.provider(), &usage);
                booking.came_to = cost.map_or(BookingKind::Unpriced, |_| BookingKind::Paid);
                booking.amount = cost.unwrap_or_default();
                booking.row = row(&self.service, &usage.model, self.payer.kind);
                booking.tokens = [
                    usage.prompt_tokens,
                    usage.cached_tokens,
                    usage.completion_tokens,
                    usage.reasoning_tokens,
                ];
            }
            Err(failure) if may_be_billed(failure) => booking.came_to = BookingKind::Possible,
            Err(_) => {}
        }
        let came_to = (booking.came_to, booking.amount);
        self.put(booking);
        came_to
    }

    /// Returns true if the request has left.
    pub const fn is_sent(&self) -> bool {
        self.is_sent
    }

    /// Forgets a call that Redis has not heard of.
    pub fn forget(mut self) {
        self.is_over = true;
        self.books.forget();
    }

    /// Books nothing, because the call was not sent after all.
    pub fn withdraw(mut self) {
        self.is_over = true;
        self.put(self.booking(BookingKind::Nothing));
    }

    fn booking(&self, came_to: BookingKind) -> Booking {
        Booking {
            number: 0,
            id: self.id,
            came_to,
            amount: self.estimate.unwrap_or_default(),
            student: self.payer.student.clone(),
            row: self.row.clone(),
            tokens: [0; 4],
        }
    }

    fn put(&self, booking: Booking) {
        let service = self.service.number();
        match booking.came_to {
            BookingKind::Paid => PROCESS.spent[service][0].add(booking.amount.nanos()),
            BookingKind::Possible => PROCESS.spent[service][1].add(booking.amount.nanos()),
            BookingKind::Unpriced => PROCESS.unpriced_calls[service].add(1),
            BookingKind::Nothing => {}
        }
        self.books.put(booking);
    }
}

/// Returns true if the provider may have billed a failed call: its answer was lost, or could not be read.
fn may_be_billed(failure: &Failure) -> bool {
    failure.is_answer_lost() || failure.class() == FailureClass::Cancelled || failure.status() == Some(200)
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let came_to = match self.is_sent {
            true => BookingKind::Possible,
            false => BookingKind::Nothing,
        };
        if self.is_sent {
            warn!(
                provider = self.service.name(),
                "a paid call was broken off: it is booked as possibly paid"
            );
        }
        self.put(self.booking(came_to));
        self.books.late.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use jobs::Provider;
    use serde_json::{json, value::to_raw_value};

    use super::*;

    fn books() -> Arc<SpendBooks> {
        Arc::new(SpendBooks::new(
            "r",
            Arc::new(PriceTable::embedded().unwrap()),
            Budgets::default(),
        ))
    }

    fn payer() -> Payer {
        Payer {
            student: "s".into(),
            kind: JobType::GenerateFlashcards,
        }
    }

    fn call() -> ProviderCall {
        ProviderCall::new(Provider::OpenAi, "chat").estimating(CallUsage::tokens("gpt-4o-mini", 1000, 1000))
    }

    #[test]
    fn a_call_is_booked_once_however_it_ends() {
        let (books, call) = (books(), call());
        let body = json!({"model": "gpt-4o-mini", "usage": {"prompt_tokens": 10, "completion_tokens": 10}});
        let answer = |body| {
            Ok(ProviderReply {
                body: to_raw_value(body).unwrap(),
                tokens: None,
                is_cut: false,
            })
        };
        let cut = answer(&body).map(|reply| ProviderReply {
            is_cut: true,
            ..reply
        });
        let lost = Failure::transient("reset").with_answer_lost();
        let unknown = json!({"model": "a|b\n", "usage": {"prompt_tokens": 10, "completion_tokens": 10}});
        for result in [
            answer(&body),
            answer(&unknown),
            Err(lost),
            Err(Failure::new(FailureClass::Cancelled, "stop")),
            Err(Failure::transient("503").with_status(503)),
            cut,
        ] {
            books.prepare(&call, &payer()).end(&call, &result);
        }
        let mut broken_off = books.prepare(&call, &payer());
        broken_off.sent();
        drop(broken_off);
        drop(books.prepare(&call, &payer()));
        let mut withdrawn = books.prepare(&call, &payer());
        withdrawn.sent();
        withdrawn.withdraw();
        let (bookings, is_idle) = books.next();
        assert!(is_idle);
        let came_to: Vec<_> = bookings
            .iter()
            .map(|b| (b.number, b.came_to.as_str(), b.amount.to_string()))
            .collect();
        let expected = [
            (1, "paid", "0.0000075"),
            (2, "unpriced", "0.00"),
            (3, "possible", "0.00075"),
            (4, "possible", "0.00075"),
            (5, "nothing", "0.00075"),
            (6, "possible", "0.00075"),
            (7, "possible", "0.00075"),
            (8, "nothing", "0.00075"),
            (9, "nothing", "0.00075"),
        ];
        assert_eq!(came_to, expected.map(|(n, what, usd)| (n, what, usd.to_owned())));
        assert_eq!(bookings[1].row, "openai|ab|generate-flashcards");
        books.booked(8);
        assert_eq!(books.waiting(), 1);
        let _open = books.prepare(&call, &payer());
        assert!(!books.next().1, "a call is in flight");
    }
}
