//! Scripts of the ledger. Calls that are opened or closed at the same time share one script; waiting bookings are
//! sent with the next calls that are closed.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jobs::JobType;
use redis::RedisError;
use tracing::warn;

use crate::{
    connection::Connection,
    deadline::answered_within,
    group_commit::{BatchLimits, Batcher},
    keys::NO_PAGE,
    script::{Script, ScriptCall},
    spending::{
        accounts::day_of,
        books::{Booking, SpendBooks},
    },
    time_format::millis,
};

const BOOKS: &str = include_str!("../spending/books.lua");
/// Adds to sums; behind `BOOKS`.
const SUMS: &str = include_str!("../spending/sums.lua");

// These two run for each paid call.
pub(super) static OPEN: LazyLock<Script> =
    LazyLock::new(|| Script::stored("ledger_open", BOOKS, include_str!("open.lua")));
pub(super) static CLOSE: LazyLock<Script> = LazyLock::new(|| {
    Script::stored(
        "ledger_close",
        &format!("{BOOKS}{SUMS}"),
        include_str!("close.lua"),
    )
});

/// Longest time that a call waits for its ledger; after it the call is made without an entry.
pub(super) const DEADLINE: Duration = Duration::from_millis(250);
/// Calls that one script handles at most.
const MOST: BatchLimits = BatchLimits {
    calls: 1,
    requests: 64,
    partial: 64,
    bytes: 1024 * 1024,
};

/// A call that is to be opened.
#[derive(Debug)]
pub(super) struct OpenRequest {
    pub(super) page: Option<String>,
    pub(super) field: String,
    pub(super) mark: String,
    pub(super) id: u64,
    /// Billionths of a dollar, or `?`: not known.
    pub(super) amount: String,
    /// As a reservation names it: `<length of the student's name> <student><row>`.
    pub(super) payer: String,
}

/// The new content of a page's entry when a call is closed.
pub(super) struct CloseRequest {
    pub(super) page: String,
    pub(super) field: String,
    /// The field of the note: `$` and what the mark has behind its `?`.
    pub(super) note_field: String,
    /// The answer; `?` leaves the mark, empty takes it back.
    pub(super) text: String,
    /// Kind, amount, step and service of the booking; empty if nothing is booked.
    pub(super) note: String,
    /// The job's type.
    pub(super) kind: JobType,
}

/// A request to the script that closes calls.
pub(super) enum ClosingRequest {
    /// Writes an entry of a page.
    Entry(CloseRequest),
    /// Sends waiting bookings.
    Bookings,
    /// Sends waiting bookings, and looks after the replicas: the ledger's loop asks.
    Sweep,
}

impl ClosingRequest {
    /// The entry to write, if there is one; otherwise only bookings are sent.
    pub(super) fn of(entry: Option<CloseRequest>) -> Self {
        entry.map_or(Self::Bookings, Self::Entry)
    }

    const fn entry(&self) -> Option<&CloseRequest> {
        match self {
            Self::Entry(entry) => Some(entry),
            Self::Bookings | Self::Sweep => None,
        }
    }
}

/// The connection and settings that all scripts of a replica share.
#[derive(Debug, Clone)]
pub(super) struct LedgerContext {
    connection: Connection,
    books: Arc<SpendBooks>,
    keep_ms: u64,
    /// How long a replica may be silent before its open calls count as lost.
    lease: Duration,
}

/// The trips of one replica.
#[derive(Debug, Clone)]
pub(super) struct LedgerBatchers {
    pub(super) context: LedgerContext,
    openings: Batcher<OpenRequest, Option<String>>,
    closings: Batcher<ClosingRequest, Option<bool>>,
}

impl LedgerBatchers {
    pub(super) fn new(
        connection: &Connection,
        books: &Arc<SpendBooks>,
        keep_for: Duration,
        lease: Duration,
    ) -> Self {
        let way = LedgerContext {
            connection: connection.clone(),
            books: books.clone(),
            keep_ms: millis(keep_for),
            lease,
        };
        let closing_way = way.clone();
        Self {
            context: way.clone(),
            openings: Batcher::new(
                MOST,
                |opening: &OpenRequest| opening.mark.len(),
                move |openings| {
                    let way = way.clone();
                    async move { way.open(openings).await }
                },
            ),
            closings: Batcher::new(
                MOST,
                |closing: &ClosingRequest| closing.entry().map_or(0, |entry| entry.text.len()),
                move |closings| {
                    let way = closing_way.clone();
                    async move { way.close(closings).await }
                },
            ),
        }
    }

    /// Opens a call; `None` when it could not be written.
    pub(super) async fn open(&self, opening: OpenRequest) -> Option<String> {
        let answer = answered_within(DEADLINE, self.openings.ask(opening)).await;
        answer.ok().flatten().flatten()
    }

    /// Closes a call, or only books waiting calls. Returns whether the page was written.
    ///
    /// It runs in a task of its own: a job that is stopped at this point keeps the answer that it has paid for.
    pub(super) async fn close(&self, closing: ClosingRequest) -> bool {
        let closings = self.closings.clone();
        let closed = tokio::spawn(async move { answered_within(DEADLINE, closings.ask(closing)).await });
        closed
            .await
            .ok()
            .and_then(Result::ok)
            .flatten()
            .flatten()
            .unwrap_or(false)
    }
}

impl LedgerContext {
    /// The arguments of `books.lua`.
    fn begin(&self, call: &mut ScriptCall<'_>) {
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        call.arg(&self.books.replica)
            .arg(millis(self.lease))
            .arg(day_of(seconds))
            .arg(seconds / 86_400);
    }

    async fn open(&self, openings: Vec<OpenRequest>) -> Vec<Option<String>> {
        let requests = openings.iter().map(|opening| (opening, ""));
        in_time(async { Some(self.open_behind(None, requests).await) })
            .await
            .unwrap_or_else(|| vec![None; openings.len()])
    }

    /// Opens calls, each of which needs the permit of that id. `permits` is the key of the gate's permits.
    pub(super) async fn open_behind<'a>(
        &self,
        permits: Option<&str>,
        openings: impl ExactSizeIterator<Item = (&'a OpenRequest, &'a str)>,
    ) -> Vec<Option<String>> {
        let count = openings.len();
        let mut call = OPEN.prepare_invoke();
        let budgets = &self.books.budgets;
        let announces = self.books.announcement.is_due(self.lease / 3);
        self.begin(&mut call);
        call.arg(self.keep_ms).arg(if announces { "1" } else { "" });
        for budget in [budgets.day, budgets.month, budgets.student] {
            call.arg(budget.map(|usd| usd.nanos().to_string()).unwrap_or_default());
        }
        let no_page = self.connection.named(NO_PAGE);
        call.key(permits.unwrap_or(&no_page));
        for (opening, permit) in openings {
            call.key(opening.page.as_deref().unwrap_or(&no_page))
                .arg(&opening.field)
                .arg(&opening.mark)
                .arg(opening.id)
                .arg(&opening.amount)
                .arg(&opening.payer)
                .arg(permit);
        }
        let answers: Option<Vec<Option<String>>> =
            self.connection.invoke(&call).await.inspect_err(warned).ok();
        if announces && answers.is_some() {
            self.books.announcement.made();
        }
        answers.unwrap_or_else(|| vec![None; count])
    }

    async fn close(&self, closings: Vec<ClosingRequest>) -> Vec<Option<bool>> {
        let (bookings, is_idle) = self.books.next();
        let is_loop = closings
            .iter()
            .all(|closing| matches!(closing, ClosingRequest::Sweep));
        if bookings.is_empty()
            && closings
                .iter()
                .all(|closing| matches!(closing, ClosingRequest::Bookings))
        {
            // An earlier call to Redis has carried them.
            return vec![Some(true); closings.len()];
        }
        let mut call = CLOSE.prepare_invoke();
        let is_due = is_loop || self.books.announcement.is_due(self.lease / 3);
        let task = match (is_due, is_idle && is_loop) {
            (_, true) => "idle",
            (true, _) => "alive",
            (false, _) => "",
        };
        if task == "idle" {
            // A call that is opened from now on announces the replica again.
            self.books.announcement.withdraw();
        }
        self.begin(&mut call);
        let first = bookings.first().map_or(0, |booking| booking.number);
        call.arg(self.keep_ms).arg(self.books.events).arg(task).arg(first);
        for closing in closings.iter().filter_map(ClosingRequest::entry) {
            call.key(&closing.page)
                .arg(&closing.field)
                .arg(&closing.note_field)
                .arg(&closing.text)
                .arg(&closing.note)
                .arg(closing.kind.as_str());
        }
        for booking in &bookings {
            add(&mut call, booking);
        }
        let answers = async { self.connection.invoke(&call).await.inspect_err(warned).ok() };
        let answers: Option<(Vec<Option<u8>>, u64)> = in_time(answers).await;
        let Some((kept, booked)) = answers else {
            if !bookings.is_empty() {
                self.books.late.notify_one();
            }
            return vec![None; closings.len()];
        };
        if task == "alive" {
            self.books.announcement.made();
        }
        if !bookings.is_empty() {
            self.books.booked(booked);
        }
        let mut kept = kept.into_iter();
        let mut answer = |closing: ClosingRequest| match closing {
            ClosingRequest::Entry(_) => kept.next().map(|kept| kept.is_some()),
            ClosingRequest::Bookings | ClosingRequest::Sweep => Some(true),
        };
        closings.into_iter().map(&mut answer).collect()
    }
}

/// The arguments of a booking. Its number is that of the one before it, and one.
fn add(call: &mut ScriptCall<'_>, booking: &Booking) {
    call.arg(booking.id)
        .arg(booking.came_to.as_str())
        .arg(booking.amount.nanos())
        .arg(&*booking.student)
        .arg(&booking.row);
    for tokens in booking.tokens {
        call.arg(tokens);
    }
}

fn warned(error: &RedisError) {
    warn!(%error, "the ledger is not written");
}

/// Awaits the answer of a call to Redis, within the time that the provider's call may wait.
pub(super) async fn in_time<T>(answer: impl Future<Output = Option<T>>) -> Option<T> {
    let answered = answered_within(DEADLINE, answer).await;
    answered.unwrap_or_else(|_elapsed| {
        warn!("the ledger is not written: no answer in time");
        None
    })
}
