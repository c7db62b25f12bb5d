//! `check`: prints the problems of this deployment, and a remedy for each.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::output;
use crate::{
    check::{self, Finding, FindingLevel},
    config::{self, Config},
};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let (findings, failed) = match Config::from_env() {
        Ok(config) => (check::all(&config).await, ExitCode::FAILURE),
        Err(error) => (check::faults(error.faults()), ExitCode::from(config::EXIT_CODE)),
    };
    let fails = findings.iter().any(|f| f.level == FindingLevel::Failure);
    let answer = json!({ "ok": !fails, "findings": findings });
    output::either(args.json, &answer, || text(&findings))?;
    Ok(if fails { failed } else { ExitCode::SUCCESS })
}

fn text(findings: &[Finding]) -> String {
    let rows = findings.iter().map(|finding| {
        let level = match finding.level {
            FindingLevel::Ok => "ok",
            FindingLevel::Warning => "warning",
            FindingLevel::Failure => "FAILURE",
        };
        let cure = finding.cure.clone().unwrap_or_default();
        vec![
            finding.check.to_string(),
            level.to_owned(),
            finding.found.clone(),
            cure,
        ]
    });
    output::table(&["check", "", "found", "cure"], rows).to_string()
}
