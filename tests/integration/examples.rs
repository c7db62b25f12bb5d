//! The examples of the repository run, against the simulator and a real worker.

use std::{path::Path, process::Stdio, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::process::Command;

use crate::support::{PATIENCE, Scene};

/// Runs a command to its end, and returns its standard output.
async fn output(command: &mut Command) -> String {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, running)
        .await
        .expect("the example ends")
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{err}");
    out.into_owned()
}

/// An example as a program; cargo builds the examples with the tests.
fn example(name: &str) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_backend-worker"));
    Command::new(binary.with_file_name("examples").join(name))
}

/// The JSON object at the end of an example's output.
fn result(output: &str) -> Value {
    let start = output.find("\n{").map_or(0, |at| at + 1);
    serde_json::from_str(&output[start..]).unwrap_or_else(|error| panic!("{error}: {output}"))
}

#[tokio::test]
async fn a_job_type_with_dependent_calls_runs() {
    let output = output(&mut example("custom_job")).await;
    let lesson = result(&output);
    assert!(!lesson["headings"].as_array().unwrap().is_empty(), "{output}");
    assert_eq!(lesson["usage"]["calls"], 2);
    assert_eq!(
        output.matches("\ncall ").count() + usize::from(output.starts_with("call ")),
        2
    );
}

#[tokio::test]
async fn jobs_are_enqueued_from_rust_and_from_node() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let url = scene.redis.server.url();
    let rust = output(example("enqueue_from_rust").arg(&url)).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join("examples/enqueue_from_node.mjs");
    let node = output(
        Command::new("node")
            .arg(script)
            .arg(&url)
            .current_dir(root.join("tests/node")),
    )
    .await;
    for deck in [result(&rust), result(&node)] {
        assert!(!deck["flashcards"].as_array().unwrap().is_empty(), "{deck}");
    }
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}
