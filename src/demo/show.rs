//! Follows the demo's jobs to their end: progress bars on a terminal, a line now and then elsewhere, a table at last.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jobs::{
    JobType,
    generate_flashcards::contract::{self, ContractViolation},
};
use serde_json::{Value, value::RawValue};

use crate::queue::{JobSnapshot, JobState, QueueInspector};

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A job that is followed.
#[derive(Debug)]
pub(super) struct FollowedJob {
    kind: JobType,
    id: String,
    payload: Box<RawValue>,
    broker: Arc<dyn QueueInspector>,
}

impl FollowedJob {
    pub(super) const fn new(
        kind: JobType,
        id: String,
        payload: Box<RawValue>,
        broker: Arc<dyn QueueInspector>,
    ) -> Self {
        Self {
            kind,
            id,
            payload,
            broker,
        }
    }

    /// Checks the result of a flashcards job against the contract of the study app.
    fn check(&self, result: &Value) -> anyhow::Result<Vec<ContractViolation>> {
        let payload = serde_json::from_str(self.payload.get())?;
        Ok(contract::violations(&payload, result))
    }
}

/// How the jobs ended.
#[derive(Debug, Default)]
pub(super) struct DemoResult {
    rows: BTreeMap<JobType, ResultRow>,
    decks: u64,
    cards: usize,
    violations: usize,
}

#[derive(Debug, Default)]
struct ResultRow {
    jobs: u64,
    done: u64,
    failed: u64,
    calls: u64,
    took: Duration,
    /// How many jobs each provider, or each deployment of the language model, has answered.
    answered: BTreeMap<String, u64>,
}

impl DemoResult {
    pub(super) fn all_done(&self) -> bool {
        self.rows.values().all(|row| row.done == row.jobs) && self.violations == 0
    }

    /// How the decks keep the contract of the study app.
    pub(super) fn contract(&self) -> String {
        let Self {
            decks,
            cards,
            violations,
            ..
        } = self;
        format!(
            "{decks} decks with {cards} cards, checked against the app's contract: {violations} violations"
        )
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "type",
            "jobs",
            "done",
            "failed",
            "attempts",
            "time",
            "answered by",
        ]);
        for (kind, row) in &self.rows {
            let numbers = [row.jobs, row.done, row.failed, row.calls].map(|n| n.to_string());
            let mut cells = vec![kind.to_string()];
            cells.extend(numbers);
            cells.push(format!("{:.1} s", row.took.as_secs_f64()));
            let answered = row.answered.iter().map(|(name, jobs)| format!("{name} {jobs}"));
            cells.push(answered.collect::<Vec<_>>().join(", "));
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(1).take(5) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// Where the show is shown: bars on a terminal, lines elsewhere, and nothing at all where the log is shown.
#[derive(Debug)]
pub(super) struct ProgressDisplay {
    bars: MultiProgress,
    terminal: bool,
    quiet: bool,
}

impl ProgressDisplay {
    pub(super) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let bars = if terminal {
            MultiProgress::new()
        } else {
            MultiProgress::with_draw_target(ProgressDrawTarget::hidden())
        };
        Self {
            bars,
            terminal,
            quiet,
        }
    }

    /// Says something, above the bars.
    pub(super) fn say(&self, text: &str) {
        if self.terminal {
            // An error means that the terminal is gone, so the text has no reader.
            let _ = self.bars.println(text);
        } else if !self.quiet {
            println!("{text}");
        }
    }
}

/// Looks at the jobs until each has ended.
pub(super) async fn follow(jobs: &[FollowedJob], stage: &ProgressDisplay) -> anyhow::Result<DemoResult> {
    let started = Instant::now();
    let mut shown = DemoResult::default();
    for job in jobs {
        shown.rows.entry(job.kind).or_default().jobs += 1;
    }
    let bars: BTreeMap<JobType, ProgressBar> = shown
        .rows
        .iter()
        .map(|(kind, row)| (*kind, bar(&stage.bars, *kind, row.jobs)))
        .collect();

    let mut ended: Vec<bool> = vec![false; jobs.len()];
    let mut told = 0;
    while ended.contains(&false) {
        let mut percents: BTreeMap<JobType, u64> = BTreeMap::new();
        for (job, ended) in jobs.iter().zip(&mut ended) {
            if !*ended {
                // A look that fails is made again, in the next round.
                let Ok(view) = job.broker.find(&job.id).await else {
                    continue;
                };
                let view = view.with_context(|| format!("job {} is gone", job.id))?;
                *percents.entry(job.kind).or_default() += u64::from(view.progress);
                if matches!(view.state, JobState::Completed | JobState::Failed) {
                    *ended = true;
                    count(
                        shown.rows.entry(job.kind).or_default(),
                        job.kind,
                        &view,
                        started.elapsed(),
                    );
                    shown.check(job, &view, stage)?;
                    if view.state == JobState::Failed {
                        stage.say(&format!("{} failed: {}", job.id, view.error.unwrap_or_default()));
                    }
                }
            } else {
                *percents.entry(job.kind).or_default() += 100;
            }
        }
        for (kind, bar) in &bars {
            let row = &shown.rows[kind];
            bar.set_position(percents.get(kind).copied().unwrap_or_default());
            bar.set_message(format!(
                "{} of {} done, {} attempts",
                row.done, row.jobs, row.calls
            ));
        }
        let done = ended.iter().filter(|ended| **ended).count();
        let due = done >= told + jobs.len().div_ceil(6) || (done == jobs.len() && told < done);
        if !stage.terminal && due {
            stage.say(&format!("{done} of {} jobs have ended", jobs.len()));
            told = done;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    for bar in bars.values() {
        bar.finish();
    }
    Ok(shown)
}

impl DemoResult {
    /// Counts the deck of a completed job, and shows where it breaks the contract.
    fn check(
        &mut self,
        job: &FollowedJob,
        view: &JobSnapshot,
        stage: &ProgressDisplay,
    ) -> anyhow::Result<()> {
        let deck = view
            .result
            .as_ref()
            .filter(|_| job.kind == JobType::GenerateFlashcards);
        let Some(result) = deck else { return Ok(()) };
        let violations = job.check(result)?;
        for violation in &violations {
            stage.say(&format!("{} breaks the contract at {violation}", job.id));
        }
        self.decks += 1;
        self.cards += result["flashcards"].as_array().map_or(0, Vec::len);
        self.violations += violations.len();
        Ok(())
    }
}

/// Each line of the history is an attempt that failed; the one that ended the job comes on top.
fn count(row: &mut ResultRow, kind: JobType, view: &JobSnapshot, took: Duration) {
    let failed = view.state == JobState::Failed;
    row.done += u64::from(!failed);
    row.failed += u64::from(failed);
    row.calls += view.history.len() as u64 + u64::from(!failed);
    row.took = took;
    if let Some(result) = &view.result {
        let deployment = result["usage"]["deployment"].as_str();
        let answered = deployment.unwrap_or(kind.provider().as_str()).to_owned();
        *row.answered.entry(answered).or_default() += 1;
    }
}

fn bar(all: &MultiProgress, kind: JobType, jobs: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>22} [{bar:36}] {percent:>3} % {msg}");
    let bar = all.add(ProgressBar::new(jobs * 100));
    bar.set_style(
        style
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("█▉▊▋▌▍▎▏ "),
    );
    bar.set_prefix(kind.as_str());
    bar
}
