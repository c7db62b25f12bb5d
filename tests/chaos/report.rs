//! What a run tells: a line of JSON, and with `CHAOS_REPORT=on` its section of `docs/reliability.md`.

use std::{fmt::Write, path::Path, time::Duration};

use serde_json::{Map, Value, json};

use crate::{field::Field, oracle::Verdict};

/// What a run is called, and how it is run again.
pub(crate) struct Title {
    /// That of its section.
    pub(crate) name: &'static str,
    pub(crate) heading: &'static str,
    pub(crate) about: &'static str,
    pub(crate) command: String,
}

/// Prints the run, and writes its section where that is asked for.
pub(crate) fn publish(title: &Title, field: &Field, verdict: &Verdict, wall: Duration) {
    let record = field.record();
    let faults: Vec<String> = record
        .faults
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let mut rows = vec![
        ("faults", faults.join(", ")),
        ("replicas", field.settings.replicas.to_string()),
        (
            "wall time, until the last job had ended",
            format!("{:.0} s", wall.as_secs_f64()),
        ),
    ];
    rows.extend(verdict.figures.iter().map(|(name, value)| (*name, value.clone())));
    let figures: Map<String, Value> = rows
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let line = json!({
        "run": title.name, "seed": field.settings.seed, "command": title.command, "figures": figures,
        "errors": record.errors, "findings": verdict.findings,
    });
    println!("{line}");
    if !field.has_clocks() {
        println!("libfaketime is not installed (Debian: faketime): no clock was moved");
    }
    if std::env::var("CHAOS_REPORT").is_ok_and(|on| on == "on") {
        write_section(title, &section(title, field.settings.seed, &rows, verdict));
    }
}

fn section(title: &Title, seed: u64, rows: &[(&str, String)], verdict: &Verdict) -> String {
    let mut text = format!(
        "### {}\n\n{}\n\n```sh\n{}\n```\n\n",
        title.heading, title.about, title.command
    );
    let _ = writeln!(text, "| seed {seed} | |\n|---|---|");
    for (name, value) in rows {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    for finding in &verdict.findings {
        let _ = writeln!(text, "\nFalls short: {finding}");
    }
    text
}

/// Puts the section between its marks, which are added at the end where they are missing.
fn write_section(title: &Title, section: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
    let (begin, end) = (
        format!("<!-- chaos:{} -->\n", title.name),
        format!("<!-- /chaos:{} -->\n", title.name),
    );
    let old = std::fs::read_to_string(&path).unwrap();
    let text = match (old.split_once(&begin), old.split_once(&end)) {
        (Some((before, _)), Some((_, after))) => format!("{before}{begin}{section}{end}{after}"),
        _ => format!("{old}\n{begin}{section}{end}"),
    };
    std::fs::write(&path, text).unwrap();
}
