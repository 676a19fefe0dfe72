//! The optional first line of a history, `{"config": {…}}`: what the clients and the cluster were set to.
//! It decides what is allowed, never what is detected.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The configuration as written. Keys that nobody knows are kept; a known key with an unusable value
/// counts as absent. Kafka's property names (`isolation.level`) are understood as well as Jepsen's.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HistoryConfig {
    pub entries: Map<String, Value>,
}

impl HistoryConfig {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.entries.insert(key.to_owned(), value.into());
    }

    /// The entry under `key`, with `_`, `-` and `.` taken as equal.
    fn get(&self, key: &str) -> Option<&Value> {
        let plain = |c: char| if matches!(c, '-' | '.') { '_' } else { c };
        self.entries.iter().find(|(name, _)| name.chars().map(plain).eq(key.chars().map(plain))).map(|(_, value)| value)
    }

    /// A scalar as text: `1` and `"1"` are the same setting.
    pub fn text(&self, key: &str) -> Option<String> {
        match self.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.text(key)?.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    pub fn number(&self, key: &str) -> Option<i64> {
        self.text(key)?.parse().ok()
    }

    /// A list of words, or one word.
    pub fn words(&self, key: &str) -> Option<Vec<String>> {
        match self.get(key)? {
            Value::Array(items) => Some(items.iter().filter_map(|i| i.as_str().map(str::to_owned)).collect()),
            Value::String(text) => Some(text.split([',', ' ']).filter(|w| !w.is_empty()).map(str::to_owned).collect()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        }
    }
}
