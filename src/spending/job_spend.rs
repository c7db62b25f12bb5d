//! The cost of one job.

use serde_json::{Map, Number, Value};

use super::Usd;

/// The answers that a job was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobSpend {
    /// How many were paid for.
    pub calls: u32,
    /// Of these, answers of models without a price.
    pub unpriced: u32,
    /// The cost of the other calls.
    pub cost: Usd,
}

impl JobSpend {
    /// Adds an answer; `None` is the cost of one without a price.
    pub fn add(&mut self, cost: Option<Usd>) {
        self.calls = self.calls.saturating_add(1);
        self.unpriced = self.unpriced.saturating_add(u32::from(cost.is_none()));
        self.cost = self.cost.plus(cost.unwrap_or_default());
    }

    /// Adds `usage.costUsd` to a result, and `usage.calls` where it is missing. A job that has paid for nothing keeps
    /// its result.
    pub fn write_into(self, result: &mut Value) {
        let Some(result) = result.as_object_mut().filter(|_| self.calls > 0) else {
            return;
        };
        let usage = result.entry("usage").or_insert_with(|| Value::Object(Map::new()));
        if let Some(usage) = usage.as_object_mut() {
            usage.entry("calls").or_insert_with(|| self.calls.into());
            let cost = Number::from_f64(self.cost.dollars()).filter(|_| self.unpriced == 0);
            usage.insert("costUsd".to_owned(), cost.map_or(Value::Null, Value::Number));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_says_what_it_has_cost() {
        let mut totals = JobSpend::default();
        let mut result = json!({"success": true});
        totals.write_into(&mut result);
        assert_eq!(result, json!({"success": true}), "nothing was paid for");
        totals.add("0.00183".parse().ok());
        totals.write_into(&mut result);
        assert_eq!(result["usage"], json!({"calls": 1, "costUsd": 0.00183}));
        let mut deck = json!({"usage": {"promptTokens": 3, "calls": 2}});
        totals.add(None);
        totals.write_into(&mut deck);
        assert_eq!(
            deck["usage"],
            json!({"promptTokens": 3, "calls": 2, "costUsd": null})
        );
    }
}
