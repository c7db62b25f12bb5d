//! A call that is opened in the round trip in which its gate admits it.
//!
//! The gate sends its own script, and behind it the ledger's, which opens only calls whose permits it finds. Both stay
//! scripts of their own, because their keys and their owners differ.

use std::sync::Arc;

use super::batched_scripts::{LedgerContext, OpenRequest};

/// A request to open a call behind its admission.
#[derive(Debug)]
pub struct LedgerOpening {
    pub(super) context: LedgerContext,
    pub(super) request: OpenRequest,
}

/// The ledger's answer to a [`LedgerOpening`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpeningAnswer {
    /// Nothing was opened, because the gate has granted no permit.
    NotOpened,
    /// The entry as it was before; `None` if Redis has not said whether the call is open.
    Answered(Option<String>),
}

impl OpeningAnswer {
    /// Redis has not said whether the call is open.
    pub const UNKNOWN: Self = Self::Answered(None);
}

/// Opens the calls that were admitted: in the same round trip, if the script that admits them was sent before. Returns
/// an answer for each. `permits` is the key of the gate's permits, and each call has the id of its permit.
pub async fn open_admitted(permits: &str, openings: &[(LedgerOpening, Arc<str>)]) -> Vec<OpeningAnswer> {
    let Some((first, _)) = openings.first() else {
        return Vec::new();
    };
    let requests = openings
        .iter()
        .map(|(opening, permit)| (&opening.request, &**permit));
    let answers = first.context.open_behind(Some(permits), requests).await;
    let answer = |answer: Option<String>| match answer.as_deref() {
        Some("-") => OpeningAnswer::NotOpened,
        _ => OpeningAnswer::Answered(answer),
    };
    answers.into_iter().map(answer).collect()
}
