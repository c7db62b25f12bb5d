//! Money: what provider calls cost, whom they are for, and whether they may be made at all.
//!
//! # Layout
//! - [`money`]: amounts, exact.
//! - [`prices`]: what providers charge, from `prices.toml`; [`cost`](prices::Prices::cost) of a call.

pub mod money;
pub mod prices;

pub use self::{
    money::Usd,
    prices::{Prices, PricesError},
};
