//! A Chromium that does as it is told, see `tests/node/browser.mjs`.

use serde_json::{Value, json};

use crate::driver::{Driver, script};

/// A browser with one page at a time; it ends with its standard input.
pub struct Browser(Driver);

impl Browser {
    pub async fn start() -> Self {
        Self(Driver::start(&mut script("browser.mjs")))
    }

    /// Has one operation of the driver done.
    pub async fn ask(&mut self, op: &str, args: Value) -> Value {
        let answer = self.0.ask(op, &args).await;
        answer.unwrap_or_else(|error| panic!("{op} {args}: {error}"))
    }

    /// Waits until an element is to be seen that holds this text.
    pub async fn see(&mut self, selector: &str, text: &str) {
        self.ask("see", json!({"selector": selector, "text": text})).await;
    }

    /// Waits until there is none of that kind.
    pub async fn gone(&mut self, selector: &str, text: &str) {
        self.ask("gone", json!({"selector": selector, "text": text}))
            .await;
    }

    pub async fn text(&mut self, selector: &str) -> String {
        let text = self.ask("text", json!({"selector": selector})).await;
        text.as_str().unwrap().to_owned()
    }

    pub async fn count(&mut self, selector: &str) -> u64 {
        let count = self.ask("count", json!({"selector": selector})).await;
        count.as_u64().unwrap()
    }

    pub async fn press(&mut self, key: &str) {
        self.ask("press", json!({"key": key})).await;
    }

    /// What the console has complained of since it was last asked.
    pub async fn complaints(&mut self) -> Vec<String> {
        serde_json::from_value(self.ask("complaints", json!({})).await).unwrap()
    }
}
