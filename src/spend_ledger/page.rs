//! The entries of one job: looked up, opened before a call, closed after it.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use jobs::{Failure, FailureClass, ProviderCall, ProviderReply, apart};
use ring::digest::digest;
use serde_json::value::RawValue;
use tracing::{info, warn};

use super::{
    LedgerOpening, OpeningAnswer, SpendLedger, UnknownCalls,
    batched_scripts::{CloseRequest, ClosingRequest, DEADLINE, OpenRequest},
    count,
};
use crate::{
    deadline::answered_within,
    queue::Delivery,
    spending::{
        Usd,
        books::{BookingKind, OpenCall, Payer},
        refusal::SpendRefusal,
    },
};

/// Longer answers are not kept, bytes: they would crowd Redis.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// The chaos suite looks for this line: a call of the job that is paid for again is explained by it.
const ANSWER_NOT_KEPT: &str = "the answer of a paid call is not in the ledger, because Redis did not take it in time: the job goes \
                               on with it, and pays again only if it is lost before Redis takes its outcome";

/// In place of the amount of a call whose model has no price.
const UNPRICED: &str = "?";

impl SpendLedger {
    /// The page of the job that was delivered, under this key. The job's calls are booked for `payer`.
    pub async fn page(self: &Arc<Self>, key: String, delivery: &Delivery, payer: Payer) -> LedgerPage {
        let payload = delivery.payload.clone().unwrap_or_default();
        let digest = apart(payload.len(), move || digest(&ring::digest::SHA256, &payload)).await;
        LedgerPage {
            ledger: self.clone(),
            key,
            payload: digest
                .as_ref()
                .iter()
                .take(8)
                .map(|b| format!("{b:02x}"))
                .collect(),
            token: delivery.lease.token.clone(),
            fresh: delivery.first,
            payer,
            sendings: AtomicU32::new(0),
        }
    }
}

/// The entries of one delivery of one job.
#[derive(Debug)]
pub struct LedgerPage {
    ledger: Arc<SpendLedger>,
    key: String,
    payload: String,
    token: Arc<str>,
    /// This is the job's first delivery, so only this delivery can have written entries.
    fresh: bool,
    payer: Payer,
    sendings: AtomicU32,
}

/// The ledger's answer before a call.
#[derive(Debug)]
pub enum OpenedCall<'a> {
    /// It may be sent: the mark is set.
    Send(LedgerEntry<'a>),
    /// It was made before, and this is its answer.
    Kept(ProviderReply),
}

/// The mark of a call that is being sent.
#[derive(Debug)]
pub struct LedgerEntry<'a> {
    page: &'a LedgerPage,
    field: String,
    mark: String,
    open: OpenCall,
}

impl LedgerPage {
    fn field(&self, call: &ProviderCall) -> String {
        format!("{}:{}", self.payload, call.step)
    }

    /// The answer that an earlier delivery has paid for. It needs no gate: nothing is sent.
    pub async fn kept(&self, call: &ProviderCall) -> Option<ProviderReply> {
        if self.fresh || !call.paid || !self.ledger.keeps_answers {
            return None;
        }
        let mut look = redis::pipe();
        look.hget(&self.key, self.field(call));
        let found = answered_within(DEADLINE, self.ledger.connection.query::<(Option<String>,)>(&look));
        let reply = read(&found.await.ok()?.ok()?.0?)?;
        Some(self.reuse(call, reply))
    }

    fn reuse(&self, call: &ProviderCall, reply: ProviderReply) -> ProviderReply {
        count(&self.ledger.counters.reused);
        info!(step = %call.step, "paid for before: the kept answer is used, nothing is sent");
        reply
    }

    /// Drops the kept answer of a call, so that the call is made again. An answer that cannot be dropped while Redis is
    /// away stays until the page expires.
    pub async fn drop_kept(&self, call: &ProviderCall) {
        let mut dropping = redis::pipe();
        dropping.hdel(&self.key, self.field(call)).ignore();
        let dropped = answered_within(DEADLINE, self.ledger.connection.query::<()>(&dropping)).await;
        if !matches!(dropped, Ok(Ok(()))) {
            warn!(step = %call.step, "the ledger is not reached: a useless answer stays in it");
        }
    }

    /// The cost of an answer, paid for now or by an earlier delivery; `None` if its model has no price.
    pub fn cost_of(&self, call: &ProviderCall, reply: &ProviderReply) -> Option<Usd> {
        self.ledger.books.cost_of(call, reply)
    }

    /// Reserves the estimated cost of a call, and marks that it is about to be sent.
    ///
    /// # Errors
    /// [`FailureClass::Permanent`] when its answer was lost once before, and lost answers are not to be paid for
    /// again; the failure of a [`SpendRefusal`] when the budget is used up.
    pub async fn open(&self, call: &ProviderCall) -> Result<OpenedCall<'_>, Failure> {
        self.prepare(call).opened(call, OpeningAnswer::NotOpened).await
    }

    /// An entry that is not in the ledger yet.
    pub fn prepare(&self, call: &ProviderCall) -> LedgerEntry<'_> {
        let sending = self.sendings.fetch_add(1, Ordering::Relaxed);
        LedgerEntry {
            page: self,
            field: self.field(call),
            mark: format!("?{}:{sending}", self.token),
            open: self.ledger.books.prepare(call, &self.payer),
        }
    }
}

impl<'a> LedgerEntry<'a> {
    /// The request to open the call behind its admission.
    pub fn opening(&self) -> LedgerOpening {
        LedgerOpening {
            context: self.page.ledger.trips.context.clone(),
            request: self.request(),
        }
    }

    fn request(&self) -> OpenRequest {
        let (page, ledger) = (self.page, &self.page.ledger);
        OpenRequest {
            page: ledger.keeps_answers.then(|| page.key.clone()),
            field: self.field.clone(),
            mark: self.mark.clone(),
            id: self.open.id,
            amount: match self.open.estimate {
                Some(estimate) => estimate.nanos().to_string(),
                None if ledger.books.budgets.allows_unpriced => "0".to_owned(),
                None => UNPRICED.to_owned(),
            },
            payer: format!(
                "{} {}{}",
                page.payer.student.len(),
                page.payer.student,
                self.open.row
            ),
        }
    }

    /// Decides by the ledger's answer whether the call is sent. Opens the call first if that was not done.
    ///
    /// # Errors
    /// As [`LedgerPage::open`].
    pub async fn opened(
        mut self,
        call: &ProviderCall,
        answer: OpeningAnswer,
    ) -> Result<OpenedCall<'a>, Failure> {
        let ledger = &self.page.ledger;
        let counters = &ledger.counters;
        let found = match answer {
            OpeningAnswer::Answered(found) => found,
            OpeningAnswer::NotOpened => ledger.trips.open(self.request()).await,
        };
        match found.as_deref() {
            None if ledger.books.budgets.any() => {
                return Err(SpendRefusal::Unreachable.failure(call.provider));
            }
            None => count(&counters.unrecorded),
            Some("") => {}
            Some(found) if found.starts_with('!') => {
                let exhausted = ledger.books.budgets.exhausted;
                return Err(SpendRefusal::read(found, exhausted).failure(call.provider));
            }
            Some(found) => {
                if let Some(reply) = read(found) {
                    return Ok(OpenedCall::Kept(self.page.reuse(call, reply)));
                }
                count(&counters.unknown);
                if ledger.unknown == UnknownCalls::Fail {
                    let message = format!(
                        "a paid call ({}) was sent before and its answer is not known: not sent again (UNKNOWN_CALL=fail)",
                        call.step
                    );
                    return Err(Failure::permanent(message).by(call.provider));
                }
                count(&counters.resent);
                warn!(step = %call.step, "a paid call was sent before and its answer is not known: it is sent again");
            }
        }
        count(&counters.sent);
        self.open.sent();
        Ok(OpenedCall::Send(self))
    }

    /// Drops an entry whose call was not admitted. Redis has not heard of it, unless it left that open: then the mark and
    /// the reservation are taken back.
    pub async fn not_admitted(self, answer: OpeningAnswer) {
        match answer {
            OpeningAnswer::NotOpened => self.open.forget(),
            OpeningAnswer::Answered(_) => self.withdraw().await,
        }
    }
}

impl LedgerEntry<'_> {
    /// The field of the job's page that says what the call came to.
    fn note_field(&self) -> String {
        format!("${}", self.mark.trim_start_matches('?'))
    }

    /// Records how the call ended. Stores an answer, takes the mark back after a refusal, and leaves the mark if the
    /// outcome is unknown. Books the cost of the call.
    pub async fn close(self, call: &ProviderCall, result: &Result<ProviderReply, Failure>) {
        let note_field = self.note_field();
        let Self {
            page, field, open, ..
        } = self;
        // The booking enters the outbox first, so that it survives if this future is dropped at an await.
        let (came_to, amount) = open.end(call, result);
        let (ledger, counters) = (&page.ledger, &page.ledger.counters);
        let text = match result {
            Ok(reply) => written(reply),
            // The usual tier is asked next, which is no repetition of a call whose answer is unknown.
            Err(failure) if failure.is_late_tier() => String::new(),
            Err(failure) if failure.is_answer_lost() || failure.class() == FailureClass::Cancelled => {
                "?".to_owned()
            }
            // A mark that stays while Redis is away counts as an unknown answer later, which is the safe side.
            Err(_) => String::new(),
        };
        if text.len() > LONGEST_ANSWER {
            count(&counters.unrecorded);
            ledger.trips.close(ClosingRequest::Bookings).await;
            return;
        }
        let entry = ledger.keeps_answers.then(|| CloseRequest {
            page: page.key.clone(),
            field,
            note_field,
            text,
            note: note(call, came_to, amount),
            kind: page.payer.kind,
        });
        if !ledger.trips.close(ClosingRequest::of(entry)).await && result.is_ok() {
            count(&counters.unrecorded);
            if ledger.keeps_answers {
                warn!(step = %call.step, "{ANSWER_NOT_KEPT}");
            }
        }
    }

    /// Closes the entry of a call that was not sent after all: takes the mark back, releases the reservation, and books
    /// nothing. A mark that stays while Redis is away counts as an unknown answer later, which is the safe side.
    pub async fn withdraw(self) {
        let note_field = self.note_field();
        let Self {
            page, field, open, ..
        } = self;
        let (ledger, was_counted) = (&page.ledger, u64::from(open.is_sent()));
        open.withdraw();
        ledger.counters.sent.fetch_sub(was_counted, Ordering::Relaxed);
        let entry = ledger.keeps_answers.then(|| CloseRequest {
            page: page.key.clone(),
            field,
            note_field,
            text: String::new(),
            note: String::new(),
            kind: page.payer.kind,
        });
        ledger.trips.close(ClosingRequest::of(entry)).await;
    }
}

/// Kind, amount, step and service of a booking, as the job's page shows it.
fn note(call: &ProviderCall, came_to: BookingKind, amount: Usd) -> String {
    if came_to == BookingKind::Nothing {
        return String::new();
    }
    let service = call.service.name();
    format!("{} {} {} {service}", came_to.as_str(), amount.nanos(), call.step)
}

/// `=<tokens or -> <body>`
pub(super) fn written(reply: &ProviderReply) -> String {
    match reply.tokens {
        Some(tokens) => format!("={tokens} {}", reply.body.get()),
        None => format!("=- {}", reply.body.get()),
    }
}

/// The answer in an entry; `None` for a mark, or for what we did not write.
pub(super) fn read(entry: &str) -> Option<ProviderReply> {
    let (tokens, body) = entry.strip_prefix('=')?.split_once(' ')?;
    Some(ProviderReply {
        body: serde_json::from_str::<Box<RawValue>>(body).ok()?,
        tokens: match tokens {
            "-" => None,
            number => Some(number.parse().ok()?),
        },
        is_cut: false,
    })
}
