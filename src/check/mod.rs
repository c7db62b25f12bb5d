//! `check`: examines everything that a deployment depends on, and names a remedy for each finding. It changes nothing
//! and spends nothing.
//!
//! # Layout
//! - `environment`: configuration, folders, drain time, providers.
//! - `redis`: the server: version, eviction, persistence, memory, latency, clock, keyspace.
//! - [`rights`]: what an ACL user needs.

mod environment;
mod redis;
pub mod rights;

use std::borrow::Cow;

use serde::Serialize;

use crate::config::Config;

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingLevel {
    /// All is well.
    Ok,
    /// It works, and may hurt one day.
    Warning,
    /// Jobs fail or may be lost.
    Failure,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Name of the check, such as `redis eviction`.
    pub check: Cow<'static, str>,
    /// How it is.
    pub level: FindingLevel,
    /// Result of the check.
    pub found: String,
    /// A remedy, where one is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    fn ok(check: impl Into<Cow<'static, str>>, found: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            level: FindingLevel::Ok,
            found: found.into(),
            cure: None,
        }
    }

    fn warning(
        check: impl Into<Cow<'static, str>>,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            level: FindingLevel::Warning,
            cure: Some(cure.into()),
            ..Self::ok(check, found)
        }
    }

    fn failure(
        check: impl Into<Cow<'static, str>>,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            level: FindingLevel::Failure,
            ..Self::warning(check, found, cure)
        }
    }
}

/// Looks at everything.
pub async fn all(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("configuration", "every variable can be read")];
    findings.extend(environment::look(config));
    findings.push(environment::media_helper(config).await);
    let (redis, providers, dialects, accounts, webhook) = tokio::join!(
        redis::look(config),
        environment::providers(config),
        environment::dialects(config),
        environment::accounts(config),
        environment::webhook(config)
    );
    findings.extend(redis);
    findings.extend(providers);
    findings.extend(dialects);
    findings.extend(accounts);
    findings.extend(webhook);
    findings
}

/// The findings for a configuration that cannot be read.
pub fn faults(faults: &[String]) -> Vec<Finding> {
    let cure = "set the variable as told; docs/configuration.md lists them all";
    faults
        .iter()
        .map(|fault| Finding::failure("configuration", fault, cure))
        .collect()
}
