//! Numbers the claims of a queue, and repeats unanswered ones.
//!
//! Several claims can be under way. The worker sends a claim without an answer again under the same number, so that
//! Redis returns the jobs that the lost answer named.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::{Notify, RwLock, RwLockReadGuard};

use crate::{locks::locked, queue::ClaimNumber};

/// The claims of one queue.
#[derive(Debug)]
pub(super) struct ClaimSequence {
    numbers: Mutex<ClaimNumbers>,
    /// Read by each claim that is under way.
    open: RwLock<()>,
    /// Notified of each unanswered claim.
    owing: Notify,
}

#[derive(Debug)]
struct ClaimNumbers {
    next: ClaimNumber,
    unanswered: Vec<ClaimNumber>,
    over: bool,
}

/// A claim that is under way. If it gets no answer, the next caller of [`ClaimSequence::take`] repeats it.
#[derive(Debug)]
pub(super) struct NumberedClaim<'a> {
    sequence: &'a ClaimSequence,
    number: ClaimNumber,
    again: bool,
    answered: bool,
    _open: RwLockReadGuard<'a, ()>,
}

impl ClaimSequence {
    pub(super) fn new() -> Self {
        Self {
            numbers: Mutex::new(ClaimNumbers {
                next: ClaimNumber::FIRST,
                unanswered: Vec::new(),
                over: false,
            }),
            open: RwLock::default(),
            owing: Notify::new(),
        }
    }

    /// A turn to claim; `None` when the worker leaves.
    pub(super) fn take(&self) -> Option<NumberedClaim<'_>> {
        let open = self.open.try_read().ok()?;
        let mut numbers = self.numbers();
        if numbers.over {
            return None;
        }
        let unanswered = numbers.unanswered.pop();
        let number = unanswered.unwrap_or_else(|| {
            let next = numbers.next;
            numbers.next = next.next();
            next
        });
        Some(NumberedClaim {
            sequence: self,
            number,
            again: unanswered.is_some(),
            answered: false,
            _open: open,
        })
    }

    /// Waits until there may be a claim to ask for again.
    pub(super) async fn owe(&self) {
        self.owing.notified().await;
    }

    /// Waits until no claim is under way; there is none after it.
    pub(super) async fn end(&self) {
        let _all = self.open.write().await;
        self.numbers().over = true;
    }

    fn numbers(&self) -> MutexGuard<'_, ClaimNumbers> {
        locked(&self.numbers)
    }
}

impl NumberedClaim<'_> {
    pub(super) const fn number(&self) -> ClaimNumber {
        self.number
    }

    /// Returns true if it was asked for before: then its answer does not say what there is to claim now.
    pub(super) const fn is_again(&self) -> bool {
        self.again
    }

    /// Ends it: its answer has been dealt with.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for NumberedClaim<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.sequence.numbers().unanswered.push(self.number);
            self.sequence.owing.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_number_is_asked_for_until_it_is_answered() {
        let sequence = ClaimSequence::new();
        let (first, second) = (sequence.take().unwrap(), sequence.take().unwrap());
        assert_eq!((first.number().number(), second.number().number()), (1, 2));
        assert!(!first.is_again());
        second.answered();
        drop(first);
        sequence.owe().await;
        let again = sequence.take().unwrap();
        assert_eq!(again.number().number(), 1);
        assert!(again.is_again());
        let third = sequence.take().unwrap();
        assert_eq!(third.number().number(), 3);
        again.answered();
        third.answered();
        assert_eq!(sequence.take().unwrap().number().number(), 4);
    }

    #[tokio::test]
    async fn the_end_waits_for_what_is_under_way_and_lets_nobody_start() {
        let sequence = ClaimSequence::new();
        let under_way = sequence.take().unwrap();
        let mut end = std::pin::pin!(sequence.end());
        assert!(futures_util::poll!(&mut end).is_pending());
        assert!(sequence.take().is_none());
        under_way.answered();
        end.await;
        assert!(sequence.take().is_none());
    }
}
