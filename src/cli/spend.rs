//! `spend`, `budget`: what calls have cost, and what they may cost.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use super::output::{self, table};
use crate::{
    config::Config,
    replica,
    spending::{
        Usd,
        accounts::{BudgetStatus, BudgetUse, ReportLine, SpendAccounts, SpendGrouping, month},
        webhook::Standing,
    },
};

#[derive(Debug, Args)]
pub(super) struct SpendArgs {
    /// By what to add up.
    #[arg(long, value_enum, default_value = "type")]
    by: SpendGrouping,
    /// The month, such as 2026-11; this one by default.
    #[arg(long, value_parser = month)]
    month: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn accounts() -> anyhow::Result<SpendAccounts> {
    replica::accounts(&Config::from_env()?)
}

pub(super) async fn spend(args: SpendArgs) -> anyhow::Result<ExitCode> {
    let report = accounts()?
        .report(args.month.as_deref(), args.by)
        .await
        .context("Redis")?;
    output::either(args.json, &report, || {
        let rows = report.lines.iter().map(|line: &ReportLine| {
            vec![
                line.name.clone(),
                line.usd.to_string(),
                line.possible_usd.to_string(),
                line.calls.to_string(),
                line.unpriced_calls.to_string(),
                line.lost_calls.to_string(),
                line.prompt_tokens
                    .saturating_add(line.completion_tokens)
                    .to_string(),
                line.usd_per_job.map(|usd| usd.to_string()).unwrap_or_default(),
                line.saved_usd.to_string(),
            ]
        });
        let header = [
            "",
            "USD",
            "possibly",
            "calls",
            "unpriced",
            "lost",
            "tokens",
            "USD a job",
            "saved",
        ];
        let forecast = report.forecast_usd;
        let forecast = forecast.map(|usd| format!("; {usd} USD by its end, as the last week went"));
        format!(
            "{}\n{}: {} USD, possibly {} USD more for calls whose answer was lost{}\n\
             {} jobs got the result of an equal one ({} of them waited for it): {} USD saved",
            table(&header, rows),
            report.month,
            report.usd,
            report.possible_usd,
            forecast.unwrap_or_default(),
            report.reused_jobs,
            report.awaited_jobs,
            report.saved_usd
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub(super) struct BudgetArgs {
    #[command(subcommand)]
    order: BudgetCommand,
}

#[derive(Debug, Subcommand)]
enum BudgetCommand {
    /// Show the budgets, what is left of them, and the kill switch.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show how far usage events are forwarded to USAGE_WEBHOOK_URL.
    Webhook {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Forward the usage events again that the receiver has refused for their content.
    Resend,
    /// Stop all paid calls of all replicas: jobs wait.
    Stop(SwitchArgs),
    /// Let paid calls pass again.
    Resume(SwitchArgs),
    /// Set what all calls of a month may cost.
    Month {
        /// USD, or `none`: what the replicas are configured with.
        amount: String,
    },
    /// Set what the calls for one student may cost a month.
    Allow {
        /// The student's id.
        student: String,
        /// USD, or `none`: what the replicas are configured with.
        amount: String,
    },
}

#[derive(Debug, Args)]
struct SwitchArgs {
    /// The operator who does so.
    #[arg(long)]
    by: String,
    /// Why.
    #[arg(long)]
    reason: String,
}

pub(super) async fn budget(args: BudgetArgs) -> anyhow::Result<ExitCode> {
    let accounts = accounts()?;
    let is_json = matches!(args.order, BudgetCommand::Status { json: true });
    match args.order {
        BudgetCommand::Status { .. } => {}
        BudgetCommand::Webhook { json } => {
            let standing = accounts.webhook().await.context("Redis")?;
            output::either(json, &standing, || told_of_webhook(&standing))?;
            return Ok(ExitCode::SUCCESS);
        }
        BudgetCommand::Resend => {
            let count = accounts.resend_refused().await.context("Redis")?;
            println!("{count} usage events are forwarded again");
            return Ok(ExitCode::SUCCESS);
        }
        BudgetCommand::Stop(SwitchArgs { by, reason }) => {
            accounts.switch(true, &by, &reason).await.context("Redis")?
        }
        BudgetCommand::Resume(SwitchArgs { by, reason }) => {
            accounts.switch(false, &by, &reason).await.context("Redis")?;
        }
        BudgetCommand::Month { amount: text } => accounts.set_month(amount(&text)?).await.context("Redis")?,
        BudgetCommand::Allow {
            student,
            amount: text,
        } => {
            accounts.allow(&student, amount(&text)?).await.context("Redis")?;
        }
    }
    let status = accounts.status().await.context("Redis")?;
    output::either(is_json, &json!(status), || told(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn told_of_webhook(standing: &Standing) -> String {
    let forwarder = match standing.forwarder.as_str() {
        "" => "no replica",
        name => name,
    };
    format!(
        "forwarded by {forwarder}\nwaiting: {}, the oldest for {} s\nrefused: {}",
        standing.waiting,
        standing.oldest_ms / 1000,
        standing.refused
    )
}

fn amount(text: &str) -> anyhow::Result<Option<Usd>> {
    match text {
        "none" => Ok(None),
        text => Ok(Some(text.parse()?)),
    }
}

fn told(status: &BudgetStatus) -> String {
    let row = |used: &BudgetUse| {
        vec![
            used.period.clone(),
            used.usd.to_string(),
            used.possible_usd.to_string(),
            used.budget_usd
                .map_or_else(|| "none".to_owned(), |usd| usd.to_string()),
            used.percent
                .map(|percent| format!("{percent} %"))
                .unwrap_or_default(),
        ]
    };
    let rows = [row(&status.day), row(&status.month)].into_iter();
    let table = table(&["", "USD", "possibly", "budget", "used"], rows);
    let switch = match (status.kill_switch, &status.switched_by, &status.reason) {
        (true, Some(by), Some(reason)) => format!("on, set by {by}: {reason}"),
        (true, ..) => "on".to_owned(),
        (false, ..) => "off".to_owned(),
    };
    format!(
        "{table}\nreserved for calls in flight: {} USD\nkill switch: {switch}",
        status.reserved_usd
    )
}
