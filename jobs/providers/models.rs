//! Facts about language models: the cost of their reasoning, the parameters of their prompt cache, their shutdown days.
//!
//! The table is data (`models.toml`), so that a new model needs no new version of the worker. The worker sends an
//! unknown model a request without any of these parameters.

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;
use url::Url;

const DAY: Duration = Duration::from_hours(24);
/// The efforts that providers know, the least reasoning first.
const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
/// Room for the reasoning of each effort beside the answer, tokens: it counts against the cap of the answer.
const ROOM: [u64; 7] = [0, 1_024, 2_048, 6_144, 12_288, 16_384, 24_576];

/// A table of models that cannot be used.
#[derive(Debug, Error)]
pub enum ModelTableError {
    /// It is not the TOML that is expected.
    #[error("{0}")]
    Unreadable(#[from] toml::de::Error),
    /// An effort that no provider knows.
    #[error("\"{0}\" is no reasoning effort: one of none, minimal, low, medium, high, xhigh, max is")]
    Effort(String),
    /// A day that is not in the calendar.
    #[error("{0} is not a day, written as 2027-01-14")]
    Day(String),
}

/// How hard a model thinks before it answers, as the setting says it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReasoningEffort {
    /// The lowest that the model takes; nothing is sent to a model that the table does not know.
    #[default]
    Lowest,
    /// Nothing is sent: the model decides.
    ProviderDefault,
    /// This one, whatever the table says.
    Given(&'static str),
}

impl ReasoningEffort {
    /// An effort by its name.
    pub fn given(name: &str) -> Option<Self> {
        EFFORTS.into_iter().find(|known| *known == name).map(Self::Given)
    }
}

/// Which model takes the place of one that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ModelSuccessor {
    /// The one that the table names.
    #[default]
    Recommended,
    /// None: jobs wait until an operator fixes the setting.
    None,
    /// This one.
    Model(String),
}

/// The parameters of a request for one model, apart from its messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRequest {
    /// The model's name.
    pub model: String,
    /// `reasoning_effort`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// True if `prompt_cache_options` turns automatic cache writes off. A deck's prompt is sent once, and its static
    /// part is too short to be cached: a write would be paid for nothing.
    #[serde(default)]
    pub explicit_cache: bool,
    /// Tokens that its reasoning may take beside the answer.
    #[serde(default)]
    pub reasoning_room: u64,
}

impl ModelRequest {
    /// The parameters of the request beside the model's name, each with its value or none.
    pub(super) fn parameters(&self) -> [(&'static str, Option<Value>); 2] {
        let effort = self.reasoning_effort.as_deref().map(Value::from);
        let cache = self.explicit_cache.then(|| json!({ "mode": "explicit" }));
        [("reasoning_effort", effort), ("prompt_cache_options", cache)]
    }
}

/// When a model shuts down, as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retirement {
    /// The day, `2027-01-14`.
    pub day: String,
    /// The model that the provider recommends instead.
    pub successor: Option<String>,
}

/// The table.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    #[serde(default)]
    family: Vec<ModelFamily>,
    #[serde(default)]
    shutdown: Vec<ShutdownEntry>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFamily {
    models: Vec<String>,
    reasoning_efforts: Vec<String>,
    #[serde(default)]
    default_effort: Option<String>,
    #[serde(default)]
    explicit_cache: bool,
    #[serde(rename = "source")]
    _source: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShutdownEntry {
    host: String,
    models: Vec<String>,
    date: String,
    #[serde(default)]
    successor: Option<String>,
    #[serde(rename = "source")]
    _source: String,
}

impl fmt::Debug for ModelTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ModelTable({} families, {} shutdowns)",
            self.family.len(),
            self.shutdown.len()
        )
    }
}

#[allow(
    clippy::expect_used,
    reason = "the table is part of the source, and a test reads it"
)]
static BUILT_IN: LazyLock<Arc<ModelTable>> =
    LazyLock::new(|| Arc::new(ModelTable::parse(include_str!("models.toml")).expect("models.toml")));

impl ModelTable {
    /// The table that the worker brings along.
    pub fn built_in() -> Arc<Self> {
        BUILT_IN.clone()
    }

    /// Reads a table.
    ///
    /// # Errors
    /// When it is not TOML of this form, names an unknown effort, or a day that does not exist.
    pub fn parse(text: &str) -> Result<Self, ModelTableError> {
        let table: Self = toml::from_str(text)?;
        let efforts = table
            .family
            .iter()
            .flat_map(|family| family.reasoning_efforts.iter().chain(&family.default_effort));
        if let Some(unknown) = efforts.into_iter().find(|effort| rank(effort).is_none()) {
            return Err(ModelTableError::Effort(unknown.clone()));
        }
        if let Some(row) = table
            .shutdown
            .iter()
            .find(|row| beginning_of(&row.date).is_none())
        {
            return Err(ModelTableError::Day(row.date.clone()));
        }
        Ok(table)
    }

    /// The parameters of a request for this model.
    pub fn request(&self, model: &str, effort: &ReasoningEffort) -> ModelRequest {
        let family = self.family_of(model);
        let least = || {
            let efforts = family.into_iter().flat_map(|family| &family.reasoning_efforts);
            efforts.min_by_key(|effort| rank(effort)).cloned()
        };
        let reasoning_effort = match effort {
            ReasoningEffort::Lowest => least(),
            ReasoningEffort::ProviderDefault => None,
            ReasoningEffort::Given(name) => Some((*name).to_owned()),
        };
        let usual = || family?.default_effort.clone();
        let room = reasoning_effort.clone().or_else(usual);
        ModelRequest {
            model: model.to_owned(),
            explicit_cache: family.is_some_and(|family| family.explicit_cache),
            reasoning_room: room.and_then(|effort| rank(&effort)).map_or(0, |rank| ROOM[rank]),
            reasoning_effort,
        }
    }

    /// The efforts that the model takes; none for one that does not reason, or is not known.
    pub fn reasoning_efforts(&self, model: &str) -> &[String] {
        self.family_of(model)
            .map_or(&[], |family| &family.reasoning_efforts)
    }

    /// How hard the model thinks when a request names no effort.
    pub fn default_effort(&self, model: &str) -> Option<&str> {
        self.family_of(model)?.default_effort.as_deref()
    }

    /// When the API at this address shuts the model down, where the table knows it.
    pub fn retirement(&self, base: &Url, model: &str) -> Option<Retirement> {
        let host = base.host_str()?;
        let serves = |row: &&ShutdownEntry| {
            host == row.host
                || host
                    .strip_suffix(row.host.as_str())
                    .is_some_and(|rest| rest.ends_with('.'))
        };
        let named = |row: &&ShutdownEntry| row.models.iter().any(|name| name.eq_ignore_ascii_case(model));
        let row = self.shutdown.iter().filter(serves).find(named)?;
        Some(Retirement {
            day: row.date.clone(),
            successor: row.successor.clone(),
        })
    }

    fn family_of(&self, model: &str) -> Option<&ModelFamily> {
        // Gateways put the provider's name in front: `openai/gpt-6-luna`.
        let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == *pattern,
        };
        self.family.iter().find(|family| family.models.iter().any(fits))
    }
}

fn rank(effort: &str) -> Option<usize> {
    EFFORTS.iter().position(|known| *known == effort)
}

/// How many whole days are left until the beginning of a day (UTC); 0 when it has come. `None` for what is no day.
pub fn days_until(day: &str, now: SystemTime) -> Option<u64> {
    let left = beginning_of(day)?.duration_since(now).unwrap_or_default();
    Some(left.as_secs() / DAY.as_secs())
}

/// When a day begins (UTC), written as `2027-01-14`. `None` for what is no day.
pub fn beginning_of(day: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(&format!("{}T00:00:00Z", day.trim())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Arc<ModelTable> {
        ModelTable::built_in()
    }

    #[test]
    fn the_least_reasoning_of_each_family_is_asked_for() {
        let asked = |model| {
            let request = table().request(model, &ReasoningEffort::Lowest);
            (
                request.reasoning_effort,
                request.explicit_cache,
                request.reasoning_room,
            )
        };
        let said = |effort: &str| Some(effort.to_owned());
        assert_eq!(asked("gpt-6-luna"), (said("none"), true, 0));
        assert_eq!(asked("openai/GPT-6-Luna-2026-09-22"), (said("none"), true, 0));
        assert_eq!(asked("gpt-5-nano"), (said("minimal"), false, 1_024));
        assert_eq!(asked("gpt-5.1"), (said("none"), false, 0));
        assert_eq!(asked("o4-mini"), (said("low"), false, 2_048));
        assert_eq!(asked("gpt-4o-mini"), (None, false, 0));
        assert_eq!(asked("llama-3.1-8b"), (None, false, 0));
    }

    #[test]
    fn a_setting_is_sent_as_it_is() {
        let high = ReasoningEffort::given("high").unwrap();
        let request = table().request("deepseek-r2", &high);
        assert_eq!(request.reasoning_effort.as_deref(), Some("high"));
        assert_eq!(request.reasoning_room, 12_288);
        let unsaid = table().request("gpt-6-luna", &ReasoningEffort::ProviderDefault);
        assert_eq!((unsaid.reasoning_effort, unsaid.reasoning_room), (None, 6_144));
        assert_eq!(ReasoningEffort::given("a lot"), None);
    }

    #[test]
    fn a_shutdown_is_that_of_the_platform() {
        let day = |base: &str, model| {
            let found = table().retirement(&base.parse().unwrap(), model);
            found.map(|found| (found.day, found.successor))
        };
        let luna = Some("gpt-6-luna".to_owned());
        assert_eq!(
            day("https://api.openai.com/v1", "gpt-4o-mini"),
            Some(("2027-01-14".to_owned(), luna))
        );
        assert_eq!(
            day("https://x.openai.azure.com/openai/v1", "gpt-4o-mini"),
            Some(("2027-04-14".to_owned(), None))
        );
        assert_eq!(day("https://notopenai.azure.com/v1", "gpt-4o-mini"), None);
        assert_eq!(day("http://127.0.0.1:1/v1", "gpt-4o-mini"), None);
        assert_eq!(day("https://api.openai.com/v1", "gpt-6-luna"), None);
    }

    #[test]
    fn days_are_counted_to_their_beginning() {
        let now = humantime::parse_rfc3339("2026-11-30T08:00:00Z").unwrap();
        assert_eq!(days_until("2027-01-14", now), Some(44));
        assert_eq!(days_until("2026-12-01", now), Some(0));
        assert_eq!(days_until("2020-01-01", now), Some(0));
        assert_eq!(days_until("soon", now), None);
    }

    #[test]
    fn a_wrong_table_says_what_is_wrong() {
        let error = |text: &str| ModelTable::parse(text).unwrap_err().to_string();
        let family = "[[family]]\nmodels = [\"a\"]\nsource = \"\"\nreasoning_efforts = [\"much\"]";
        assert!(error(family).starts_with("\"much\" is no reasoning effort"));
        let shutdown = "[[shutdown]]\nhost = \"h\"\nmodels = []\nsource = \"\"\ndate = \"2027-13-01\"";
        assert!(error(shutdown).starts_with("2027-13-01 is not a day"));
        assert!(error("[[familie]]").contains("familie"));
        assert!(error("[[family]]\nmodels = 3").contains("line 2"));
    }
}
