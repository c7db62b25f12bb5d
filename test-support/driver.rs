//! Node scripts that do as they are told, line by line, see `tests/node/lines.mjs`.

use std::{path::PathBuf, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::root;

/// Where the scripts and their packages are.
pub fn folder() -> PathBuf {
    let folder = root().join("tests/node");
    assert!(
        folder.join("node_modules").exists(),
        "tests/node has no node_modules: run sh scripts/setup-node.sh"
    );
    folder
}

/// Runs a script; its input and output are pipes.
pub fn script(name: &str) -> Command {
    let mut command = Command::new("node");
    command
        .arg(folder().join(name))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Starts a process, and takes its pipes.
pub(crate) fn start(command: &mut Command) -> (Child, ChildStdin, Lines<BufReader<ChildStdout>>) {
    let mut process = command
        .spawn()
        .expect("node is installed (sh scripts/setup-node.sh)");
    let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    (process, stdin, BufReader::new(stdout).lines())
}

/// A script that answers requests; it ends with its standard input.
pub(crate) struct Driver {
    pub(crate) process: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Driver {
    pub(crate) fn start(command: &mut Command) -> Self {
        let (process, stdin, stdout) = start(command);
        Self {
            process,
            stdin,
            stdout,
        }
    }

    /// Has one operation done; `Err` is what it threw.
    pub(crate) async fn ask(&mut self, op: &str, args: &Value) -> Result<Value, String> {
        let request = format!("{}\n", json!({"op": op, "args": args}));
        self.stdin.write_all(request.as_bytes()).await.unwrap();
        let line = self.stdout.next_line().await.unwrap();
        let mut answer: Value = serde_json::from_str(&line.expect("the script has not died")).unwrap();
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["ok"].take()),
        }
    }
}
