//! The reference of the command line in `docs/cli.md`, written from clap's definition.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Cli;

/// Sections for a command and its subcommands, deepest last.
fn sections(command: &Command, path: &str, text: &mut String) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let shown: Vec<&Arg> = command.get_arguments().filter(|arg| is_shown(arg)).collect();
    if !command.has_subcommands() {
        let usage: String = shown
            .iter()
            .filter(|arg| arg.is_positional())
            .map(|arg| positional(arg))
            .collect();
        writeln!(text, "### `{path}{usage}`\n{}\n", sentence(&about)).unwrap();
        if !shown.is_empty() {
            text.push_str("| argument | meaning | default |\n|---|---|---|\n");
            for arg in &shown {
                row(arg, text);
            }
            text.push('\n');
        }
    }
    for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
        if child.get_name() != "help" {
            sections(child, &format!("{path} {}", child.get_name()), text);
        }
    }
}

fn is_shown(arg: &Arg) -> bool {
    !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version")
}

fn positional(arg: &Arg) -> String {
    let name = value_name(arg);
    if arg.is_required_set() {
        format!(" {name}")
    } else {
        format!(" [{name}]")
    }
}

fn value_name(arg: &Arg) -> String {
    arg.get_value_names()
        .and_then(|names| names.first())
        .map_or_else(|| arg.get_id().as_str().to_uppercase(), ToString::to_string)
}

fn row(arg: &Arg, text: &mut String) {
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let name = match arg.get_long() {
        Some(long) if takes_value => format!("--{long} <{}>", value_name(arg)),
        Some(long) => format!("--{long}"),
        None => value_name(arg),
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let mut help = sentence(&help).replace('|', "\\|");
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if takes_value && !values.is_empty() {
        write!(help, " One of {}.", values.join(", ")).unwrap();
    }
    let defaults: Vec<String> = arg
        .get_default_values()
        .iter()
        .filter(|_| takes_value)
        .map(|value| format!("`{}`", value.to_string_lossy()))
        .collect();
    writeln!(text, "| `{name}` | {help} | {} |", defaults.join(", ")).unwrap();
}

/// clap leaves the full stop of a single sentence out.
fn sentence(text: &str) -> String {
    let text = text.replace('\n', " ");
    match text.chars().last() {
        Some('.' | ':') | None => text,
        Some(_) => format!("{text}."),
    }
}

#[test]
fn docs_list_every_command() {
    let mut text = String::new();
    let mut command = Cli::command();
    command.build();
    sections(&command, "backend-worker", &mut text);
    crate::docs::check_section("docs/cli.md", "reference", &text);
}
