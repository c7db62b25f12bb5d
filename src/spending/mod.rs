//! Money: prices, costs and budgets of provider calls.
//!
//! # Layout
//! - [`money`]: amounts, exact.
//! - [`accounts`]: what an operator reads and sets.
//! - `report`: what was spent, added up.
//! - [`books`]: the calls of a replica, from their reservation to their booking; `books.lua`, in front of the
//!   ledger's scripts.
//! - [`refusal`]: why a call may not be paid for.
//! - [`webhook`]: forwards usage events.
//! - [`prices`]: what providers charge, from `prices.toml`; [`cost`](prices::PriceTable::cost) of a call.

pub mod accounts;
pub mod books;
pub mod money;
pub mod prices;
pub mod refusal;
mod report;

pub mod job_spend;
pub mod webhook;

pub use self::{
    books::{Budgets, ExhaustedBudget, Payer, SpendBooks},
    job_spend::JobSpend,
    money::Usd,
    prices::{PriceTable, PricesError},
};
