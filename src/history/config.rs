//! The optional first line of a history, `{"config": {…}}`: what the clients and the cluster were set to.
//! It decides what is allowed, never what is detected.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The configuration as written. Keys that nobody knows are kept; a known one with an unusable value is a
/// mistake. Kafka's property names (`isolation.level`) are understood as well as Jepsen's (`isolation-level`).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HistoryConfig {
    pub entries: Map<String, Value>,
}

/// What a known key may hold.
enum Holds {
    Flag,
    Number,
    OneOf(&'static [&'static str]),
    /// One word or several.
    AnyOf(&'static [&'static str]),
}

/// The keys that decide what is allowed; see `check::Context::of_history`.
const KNOWN: &[(&str, Holds)] = &[
    ("acks", Holds::OneOf(&["0", "1", "all", "-1"])),
    ("auto_offset_reset", Holds::OneOf(&["earliest", "latest", "none"])),
    ("cleanup_policy", Holds::AnyOf(&["delete", "compact"])),
    ("duplicates_possible", Holds::Flag),
    ("enable_idempotence", Holds::Flag),
    ("flush_messages", Holds::Number),
    ("gave_up_without_idempotence", Holds::Flag),
    ("idempotence", Holds::Flag),
    ("isolation_level", Holds::OneOf(&["read_committed", "read_uncommitted", "read-committed", "read-uncommitted"])),
    ("last_replica_lost_power", Holds::Flag),
    ("leader_changed", Holds::Flag),
    ("lossy_crashes", Holds::Number),
    ("max_in_flight", Holds::Number),
    ("max_in_flight_requests_per_connection", Holds::Number),
    ("min_insync_replicas", Holds::Number),
    ("producers_forgotten", Holds::Flag),
    ("reads_from_beginning", Holds::Flag),
    ("retention_bytes", Holds::Number),
    ("retention_ms", Holds::Number),
    ("retries", Holds::Number),
    ("retries_without_idempotence", Holds::Flag),
    ("sequences_restated", Holds::Flag),
    ("sub_via", Holds::AnyOf(&["assign", "subscribe"])),
    ("unclean_election", Holds::Flag),
    ("unclean_leader_election_enable", Holds::Flag),
    ("ww_deps", Holds::Flag),
];

impl HistoryConfig {
    /// The first known key whose value cannot be used, and what it must be. `null` is as good as absent.
    pub fn mistake(&self) -> Option<String> {
        for (name, holds) in KNOWN {
            let Some(value) = self.get(name).filter(|value| !value.is_null()) else { continue };
            let within = |words: &[&str], allowed: &[&str]| words.iter().all(|word| allowed.contains(word));
            let (is_usable, expected) = match holds {
                Holds::Flag => (self.flag(name).is_some(), "true or false".to_owned()),
                Holds::Number => (self.number(name).is_some(), "an integer".to_owned()),
                Holds::OneOf(words) => {
                    let text = self.text(name);
                    (text.is_some_and(|text| within(&[text.as_str()], words)), format!("one of {}", words.join(", ")))
                }
                Holds::AnyOf(allowed) => {
                    let strings = value.as_array().is_none_or(|items| items.iter().all(Value::is_string));
                    let words = self.words(name).filter(|_| strings);
                    let is_usable = words.is_some_and(|words| words.iter().all(|word| within(&[word], allowed)));
                    (is_usable, format!("one or more of {}", allowed.join(", ")))
                }
            };
            if !is_usable {
                return Some(format!("config: `{name}` is {value}; it must be {expected}"));
            }
        }
        None
    }

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
