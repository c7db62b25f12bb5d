//! `migrate`: brings the keyspace to this version, or prints the state of its migrations.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::output;
use crate::{
    config::Config,
    connection::Connection,
    migrate::{MigrationPlan, MigrationRow, MigrationRun, MigrationState, Migrator},
};

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// Show every migration and whether it has been done, and do none.
    #[arg(long, conflicts_with_all = ["dry_run", "retire_bottleneck"])]
    status: bool,
    /// Show what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Remove Bottleneck's keys too (bottleneck:*, b_*): after the last Node worker has gone.
    #[arg(long)]
    retire_bottleneck: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let config = Config::from_env()?;
    let connection = Connection::open(&config.redis).context("REDIS_URL")?;
    let migrator = Migrator::new(connection, &config.replica);
    if args.status {
        let rows = migrator.status().await?;
        output::either(args.json, &rows, || status(&rows))?;
        return Ok(ExitCode::SUCCESS);
    }
    let plan = MigrationPlan {
        dry_run: args.dry_run,
        retire_bottleneck: args.retire_bottleneck,
    };
    let done = migrator.migrate(plan).await?;
    output::either(args.json, &done, || report(&done, args.dry_run))?;
    Ok(ExitCode::SUCCESS)
}

fn status(rows: &[MigrationRow]) -> String {
    let rows = rows.iter().map(|row| {
        let standing = match row.standing {
            MigrationState::Applied => "applied".to_owned(),
            MigrationState::Differs => "applied from another file".to_owned(),
            MigrationState::Pending => "pending".to_owned(),
            MigrationState::OptIn => format!("waits for {}", row.option.unwrap_or_default()),
            MigrationState::Unknown => "of a later version, harmless".to_owned(),
            MigrationState::Newer => "of a later version: this one must not run".to_owned(),
        };
        let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
        let at = row.at.map(crate::time_format::iso).unwrap_or_default();
        let by = row.by.clone().unwrap_or_default();
        vec![row.name.clone(), standing, at, by, number(row.changed)]
    });
    output::table(
        &["migration", "state", "when", "by version", "keys changed"],
        rows,
    )
    .to_string()
}

fn report(done: &[MigrationRun], dry_run: bool) -> String {
    if done.is_empty() {
        return "nothing to do".to_owned();
    }
    let verb = if dry_run { "would change" } else { "changed" };
    let lines = done.iter().flat_map(|done| {
        let head = format!("{} {verb} {} keys", done.name, done.changed);
        std::iter::once(head).chain(done.notes.iter().map(|note| format!("  {note}")))
    });
    lines.collect::<Vec<_>>().join("\n")
}
