//! The proof of the gate. The scripts run in a real Redis; where time matters, its clock is a key.
//!
//! - `breaking`, `limiting`: one scenario each for what the gate has to do, and for what once went wrong.
//! - `invariants`, `bounds`: I1 to I10, each by its name.
//! - `sequences`: random sequences against an independent `model` of the gate.
//! - `explore`: every order of a few events, with the invariants checked in each state.
//! - `mutations`: each fault put into the scripts is found by the tests above.
//! - `face`, `logs`, `away`: what callers and operators see, with Redis there and without.
//! - `simulation`: what the breaker's rule comes to at the traffic of a real fleet.
//! - `settings`: what cannot be configured.
//! - `rig` (scripts on a clock of their own), `replica`, `proxy`, `places`: what the tests stand on.
//!
//! `GATE_EXPLORE=long` runs `sequences`, `explore` and `simulation` at full size: minutes instead of seconds.

mod away;
mod bounds;
mod breaking;
mod explore;
mod face;
mod invariants;
mod limiting;
mod logs;
mod model;
mod mutations;
mod places;
mod replica;
mod rig;
mod sequences;
mod settings;
mod simulation;
mod together;

/// True if the long run was asked for.
fn is_long_run() -> bool {
    std::env::var("GATE_EXPLORE").is_ok_and(|size| size == "long")
}
