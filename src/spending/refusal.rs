//! Why a call may not be paid for.

use std::time::Duration;

use jobs::{Failure, FailureClass, Provider};

use super::{ExhaustedBudget, Usd};

/// How soon a job that lacks money is tried again: an operator may have raised the budget, or reset the switch.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The reason why a paid call may not be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpendRefusal {
    /// The kill switch is on.
    Switch,
    /// The fleet's budget of the day or the month is used up.
    Fleet {
        /// Of the day, or of the month.
        is_daily: bool,
        /// The spent amount and the reservations of calls in flight.
        spent: Usd,
        /// The budget.
        budget: Usd,
        /// The effect on the job.
        exhausted: ExhaustedBudget,
    },
    /// The student's allowance of the month is used up.
    Student {
        /// The spent amount and the reservations of calls in flight.
        spent: Usd,
        /// The allowance.
        budget: Usd,
    },
    /// The call's model has no price, and there is a budget.
    Unpriced {
        /// The effect on the job.
        exhausted: ExhaustedBudget,
    },
    /// Redis is away, and a budget is configured: nothing says how much of it is left.
    Unreachable,
}

impl SpendRefusal {
    /// Reads the refusal of `open.lua`: `!<word> <ms> <spent> <budget>`.
    pub fn read(text: &str, exhausted: ExhaustedBudget) -> Self {
        let mut words = text.trim_start_matches('!').split(' ');
        let word = words.next().unwrap_or_default();
        let mut amounts = words
            .skip(1)
            .map(|text| Usd::from_nanos(text.parse().unwrap_or(0)));
        let (spent, budget) = (
            amounts.next().unwrap_or_default(),
            amounts.next().unwrap_or_default(),
        );
        match word {
            "switch" => Self::Switch,
            "unpriced" => Self::Unpriced { exhausted },
            "student" => Self::Student { spent, budget },
            period => Self::Fleet {
                is_daily: period == "day",
                spent,
                budget,
                exhausted,
            },
        }
    }

    /// The failure of a call that it stands in the way of.
    pub fn failure(self, provider: Provider) -> Failure {
        let wait = |why: String| {
            Failure::new(FailureClass::Blocked, why)
                .with_retry_after(Some(ASK_AGAIN))
                .with_lack_of_money()
        };
        let wait_or_fail = |why: String, exhausted| match exhausted {
            ExhaustedBudget::Wait => wait(why),
            ExhaustedBudget::Fail => Failure::new(FailureClass::OverBudget, why),
        };
        let failure = match self {
            Self::Unpriced { exhausted } => {
                let why = "there is a budget, and the call's model has no price: add its row to PRICES_FILE, or set \
                           UNPRICED_CALLS=allow";
                wait_or_fail(why.to_owned(), exhausted)
            }
            Self::Switch => wait("the budget kill switch is on (system:budget_kill_switch)".to_owned()),
            Self::Unreachable => wait("the budget cannot be checked: Redis does not answer".to_owned()),
            Self::Student { spent, budget } => Failure::new(
                FailureClass::OverAllowance,
                format!(
                    "the usage exceeds the monthly allowance: {spent} USD of {budget} USD are used or reserved"
                ),
            ),
            Self::Fleet {
                is_daily,
                spent,
                budget,
                exhausted,
            } => {
                let period = if is_daily { "day" } else { "month" };
                let why = format!(
                    "the budget of the {period} is used up: {spent} USD of {budget} USD are spent or reserved"
                );
                wait_or_fail(why, exhausted)
            }
        };
        failure.by(provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_who_has_to_act_and_what_becomes_of_the_job() {
        let failure = |text, exhausted| SpendRefusal::read(text, exhausted).failure(Provider::OpenAi);
        let switch = failure("!switch 5000 0 0", ExhaustedBudget::Fail);
        assert_eq!(
            (switch.class(), switch.lacks_money()),
            (FailureClass::Blocked, true)
        );
        let month = failure("!month 86400000 1500000000 1000000000", ExhaustedBudget::Wait);
        assert_eq!(
            (month.class(), month.retry_after()),
            (FailureClass::Blocked, Some(ASK_AGAIN))
        );
        assert_eq!(
            month.to_string(),
            "the budget of the month is used up: 1.50 USD of 1.00 USD are spent or reserved"
        );
        let unpriced = failure("!unpriced 5000 0 0", ExhaustedBudget::Wait);
        assert_eq!(
            (unpriced.class(), unpriced.lacks_money()),
            (FailureClass::Blocked, true)
        );
        assert_eq!(
            failure("!unpriced 5000 0 0", ExhaustedBudget::Fail).class(),
            FailureClass::OverBudget
        );
        assert_eq!(
            failure("!day 1 1 1", ExhaustedBudget::Fail).class(),
            FailureClass::OverBudget
        );
        assert_eq!(
            failure("!day 1 1 1", ExhaustedBudget::Fail).class(),
            FailureClass::OverBudget
        );
        assert_eq!(
            failure("!student 1 1 1", ExhaustedBudget::Wait).class(),
            FailureClass::OverAllowance
        );
    }
}
