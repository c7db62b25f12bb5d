//! The settings of money: prices, and budgets of calls.

use std::{path::Path, sync::Arc};

use super::{reader::EnvReader, vars};
use crate::spending::{Budgets, ExhaustedBudget, PriceTable, Usd};

/// Prices and budgets.
#[derive(Debug, Clone)]
pub struct SpendingSettings {
    /// The providers' prices.
    pub prices: Arc<PriceTable>,
    /// The budgets.
    pub budgets: Budgets,
}

pub(super) fn read(env: &mut EnvReader<'_>) -> SpendingSettings {
    let file = env.optional(&vars::PRICES_FILE, |path| {
        PriceTable::from_file(Path::new(path)).map_err(|error| format!("a file of prices: {error}"))
    });
    let embedded = || {
        PriceTable::embedded().unwrap_or_else(|error| {
            env_fault(&error);
            PriceTable::default()
        })
    };
    let mut amount = |var| env.optional(var, |text| text.parse::<Usd>().map_err(|error| error.to_string()));
    let (day, month, student) = (
        amount(&vars::BUDGET_DAILY_USD),
        amount(&vars::BUDGET_MONTHLY_USD),
        amount(&vars::USER_BUDGET_MONTHLY_USD),
    );
    SpendingSettings {
        prices: Arc::new(file.unwrap_or_else(embedded)),
        budgets: Budgets {
            day,
            month,
            student,
            exhausted: env.parse(&vars::BUDGET_EXHAUSTED, |text| match text {
                "wait" => Ok(ExhaustedBudget::Wait),
                "fail" => Ok(ExhaustedBudget::Fail),
                _ => Err("wait or fail".to_owned()),
            }),
            allows_unpriced: env.parse(&vars::UNPRICED_CALLS, |text| match text {
                "refuse" => Ok(false),
                "allow" => Ok(true),
                _ => Err("refuse or allow".to_owned()),
            }),
        },
    }
}

/// A test reads the embedded prices: they are sound. Without any, calls are unpriced.
fn env_fault(error: &crate::spending::PricesError) {
    tracing::error!(%error, "the prices of this version cannot be read: every call is unpriced");
}
