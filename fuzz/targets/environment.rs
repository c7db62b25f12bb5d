//! The environment.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use std::collections::HashMap;

use hostile::Target;

use super::{Config, process::fit_for_a_name, vars};

/// Stands for every secret.
const SECRET: &str = "hunter2";

/// Variables, `NAME=value` a line: a configuration, or all that is wrong with them. What is secret is shown by neither.
pub(crate) static ENVIRONMENT: Target = Target::new("environment", |input| {
    let text = String::from_utf8_lossy(input);
    let values: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let is_secret = |name: &str| vars::ALL.iter().any(|var| var.secret && var.name == name);
    // The name of a replica leaves out what no name may hold.
    let is_told = |value: &str| value.contains(SECRET) || fit_for_a_name(value).contains(SECRET);
    let told = values
        .iter()
        .any(|(name, value)| !is_secret(name) && is_told(value));
    let shown = match Config::from_lookup(|name| values.get(name).map(|value| (*value).to_owned())) {
        Ok(config) => format!("{config:?} {}", config.effective()),
        Err(error) => error.to_string(),
    };
    assert!(told || !shown.contains(SECRET), "{shown}");
})
// A filter of the logs may hold a regular expression.
.with_room(64 * 1024 * 1024)
.with_cases(1_000);

#[test]
fn environments() {
    ENVIRONMENT.run();
}
