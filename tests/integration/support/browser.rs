//! A Chromium that does as it is told, see `tests/node/browser.mjs`.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::node::folder;

/// A browser with one page at a time; it ends with its standard input.
pub(crate) struct Browser {
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let mut process = Command::new("node")
            .arg(folder().join("browser.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed (sh scripts/setup-node.sh)");
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self {
            stdin,
            stdout: BufReader::new(stdout).lines(),
            _process: process,
        }
    }

    /// Has one operation of the driver done.
    pub(crate) async fn ask(&mut self, op: &str, args: Value) -> Value {
        let request = format!("{}\n", json!({"op": op, "args": args}));
        self.stdin.write_all(request.as_bytes()).await.unwrap();
        let line = self.stdout.next_line().await.unwrap();
        let line = line.expect("the browser runs (sh scripts/setup-chromium.sh)");
        let mut answer: Value = serde_json::from_str(&line).unwrap();
        match answer.get("error") {
            Some(error) => panic!("{op} {args}: {error}"),
            None => answer["ok"].take(),
        }
    }

    /// Waits until an element is to be seen that holds this text.
    pub(crate) async fn see(&mut self, selector: &str, text: &str) {
        self.ask("see", json!({"selector": selector, "text": text})).await;
    }

    /// Waits until there is none of that kind.
    pub(crate) async fn gone(&mut self, selector: &str, text: &str) {
        self.ask("gone", json!({"selector": selector, "text": text}))
            .await;
    }

    pub(crate) async fn text(&mut self, selector: &str) -> String {
        let text = self.ask("text", json!({"selector": selector})).await;
        text.as_str().unwrap().to_owned()
    }

    pub(crate) async fn count(&mut self, selector: &str) -> u64 {
        let count = self.ask("count", json!({"selector": selector})).await;
        count.as_u64().unwrap()
    }

    pub(crate) async fn press(&mut self, key: &str) {
        self.ask("press", json!({"key": key})).await;
    }

    /// What the console has complained of since it was last asked.
    pub(crate) async fn complaints(&mut self) -> Vec<String> {
        serde_json::from_value(self.ask("complaints", json!({})).await).unwrap()
    }
}
