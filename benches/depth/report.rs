//! The results of the cases, as tables, and as a section of `docs/benchmarks.md`.

use std::{collections::BTreeMap, fmt::Write, path::Path, time::Duration};

use backend_worker::queue::Layout;

use crate::{
    Result,
    stage::{Cost, Longest, Stage, UNNOTICED},
};

/// No script may take longer, µs.
pub(crate) const LONGEST: u64 = 5_000;

const HEADING: &str = "\
## Depth

What a queue costs that is long, or has many jobs in flight: the tables are what `benches/depth` printed, over a private
redis-server on the same machine. The times of scripts are Redis's own (SLOWLOG, `INFO commandstats`). What BullMQ's own
library runs in Redis, in producers and in Node workers, is not in them. The limit of 5 ms does not hold for results of
more than some 700 KB: a result passes the script that ends its job, as it does in BullMQ.
";

/// The tables.
#[derive(Default)]
pub(crate) struct Report {
    course: Vec<[String; 7]>,
    reads: Vec<[String; 7]>,
    flows: Vec<[String; 6]>,
    large: Vec<[String; 6]>,
    memory: Vec<[String; 3]>,
    longest: BTreeMap<String, Longest>,
}

fn micros(micros: f64) -> String {
    format!("{micros:.0} µs")
}

fn millis(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.0} s", ms / 1000.0)
    }
}

fn longest(cost: &Cost) -> String {
    match cost.longest {
        0 if cost.scripts == 0 => "no script".to_owned(),
        0 => format!("< {UNNOTICED} µs"),
        micros => format!("{micros} µs"),
    }
}

/// A table for Markdown.
fn table<const N: usize>(text: &mut String, heading: &str, columns: [&str; N], rows: &[[String; N]]) {
    let _ = writeln!(
        text,
        "{heading}\n\n| {} |\n|{}",
        columns.join(" | "),
        "---|".repeat(N)
    );
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text.push('\n');
}

impl Report {
    /// The tables.
    pub(crate) fn text(&self, command: &str) -> String {
        let profile = if cfg!(debug_assertions) { "dev" } else { "bench" };
        let mut text = format!("```sh\n{command}\n```\n\nThis run: {profile} profile.\n\n");
        let rows: Vec<_> = self
            .longest
            .iter()
            .map(|(name, run)| {
                let over = if run.over == 0 {
                    "-".to_owned()
                } else {
                    run.over.to_string()
                };
                let (longest, waited) = (format!("{} µs", run.micros), millis(run.waited));
                [name.clone(), longest, run.case.clone(), waited, over]
            })
            .collect();
        let columns = [
            "script",
            "longest run",
            "in the case",
            "in which Redis waited for a CPU",
            "runs over 5 ms, in all",
        ];
        table(&mut text, "The longest run of each script:", columns, &rows);
        let columns = [
            "layout",
            "call",
            "queued",
            "script, mean",
            "longest",
            "round trip p50",
            "p99",
        ];
        table(&mut text, "What each step of a job costs:", columns, &self.course);
        table(&mut text, "What onlookers cost:", columns, &self.reads);
        let columns = [
            "layout",
            "what",
            "scripts",
            "script, mean",
            "longest",
            "took in all",
        ];
        table(&mut text, "Depth, crowds and flights:", columns, &self.flows);
        let columns = ["layout", "payload", "what", "scripts", "script, mean", "longest"];
        table(&mut text, "Megabytes, 8 jobs each:", columns, &self.large);
        table(&mut text, "Memory:", ["layout", "of what", "bytes"], &self.memory);
        text
    }

    /// Writes the tables into `docs/benchmarks.md`, between marks, which are added at the end where they are missing.
    pub(crate) fn write(&self, command: &str) -> Result {
        const BEGIN: &str = "<!-- depth -->\n";
        const END: &str = "<!-- /depth -->\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
        let (old, section) = (std::fs::read_to_string(&path)?, self.text(command));
        let text = match (old.split_once(BEGIN), old.split_once(END)) {
            (Some((before, _)), Some((_, after))) => format!("{before}{BEGIN}{section}{END}{after}"),
            _ => format!("{old}\n{HEADING}\n{BEGIN}{section}{END}"),
        };
        Ok(std::fs::write(&path, text)?)
    }

    /// Notes the longest runs of the scripts.
    pub(crate) fn longest(&mut self, stage: &Stage) {
        for (name, run) in &stage.longest {
            let known = self.longest.entry(name.clone()).or_default();
            let over = known.over + run.over;
            if known.micros < run.micros {
                *known = run.clone();
            }
            known.over = over;
        }
    }

    fn row(row: &[String]) {
        println!("  {}", row.join("  "));
    }

    pub(crate) fn course(
        &mut self,
        layout: Layout,
        depth: usize,
        name: &str,
        cost: &Cost,
        p50: u128,
        p99: u128,
    ) {
        let row = [
            layout.to_string(),
            name.to_owned(),
            depth.to_string(),
            micros(cost.each()),
            longest(cost),
            format!("{p50} µs"),
            format!("{p99} µs"),
        ];
        Self::row(&row);
        self.course.push(row);
    }

    pub(crate) fn read(
        &mut self,
        layout: Layout,
        depth: usize,
        name: &str,
        cost: &Cost,
        p50: u128,
        p99: u128,
    ) {
        let row = [
            layout.to_string(),
            name.to_owned(),
            depth.to_string(),
            if cost.scripts == 0 {
                "no script".to_owned()
            } else {
                micros(cost.each())
            },
            longest(cost),
            format!("{p50} µs"),
            format!("{p99} µs"),
        ];
        Self::row(&row);
        self.reads.push(row);
    }

    pub(crate) fn flow(&mut self, layout: Layout, name: &str, cost: &Cost) {
        let row = [
            layout.to_string(),
            name.to_owned(),
            cost.scripts.to_string(),
            micros(cost.each()),
            longest(cost),
            millis(cost.took),
        ];
        Self::row(&row);
        self.flows.push(row);
    }

    pub(crate) fn large(&mut self, layout: Layout, size: &str, name: &str, cost: &Cost) {
        let row = [
            layout.to_string(),
            size.to_owned(),
            name.to_owned(),
            cost.scripts.to_string(),
            micros(cost.each()),
            longest(cost),
        ];
        Self::row(&row);
        self.large.push(row);
    }

    pub(crate) fn memory(&mut self, layout: Layout, what: &str, bytes: u64) {
        let row = [layout.to_string(), what.to_owned(), format!("{bytes} B")];
        Self::row(&row);
        self.memory.push(row);
    }
}
