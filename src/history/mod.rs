//! The history of client operations: what a client could see. JSON Lines, one event per line, as
//! Jepsen's Kafka workload writes it. Plain data that can be saved and loaded.
//!
//! [`read`] is liberal, because histories come from other tools too: gaps in the indexes, completions
//! without an invocation, integer keys and any scalar value are accepted.

mod config;
mod jsonl;

use std::collections::BTreeMap;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

pub use config::HistoryConfig;
pub use jsonl::{BadLines, HistoryError, read, write};

/// How an event stands to its operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// The client began the operation.
    Invoke,
    /// It happened.
    Ok,
    /// It definitely did not happen.
    Fail,
    /// Unknown: timeout, disconnect, or acks=0.
    Info,
}

/// What the operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    Send,
    Poll,
    Txn,
    Assign,
    Subscribe,
    Crash,
}

/// Records of a poll: key -> [[offset, value], …] in the order of delivery.
pub type Records = indexmap::IndexMap<String, Vec<(Option<i64>, serde_json::Value)>>;

/// One micro-operation in an event's value.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", try_from = "RawOp")]
pub enum MicroOp {
    /// A value sent to a key (a topic-partition). `offset` is unknown in an invocation.
    Send {
        key: String,
        value: serde_json::Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<i64>,
        /// The record's own key, where it has one: compaction keeps the latest value of each. Ours, not Jepsen's.
        #[serde(rename = "record_key", skip_serializing_if = "Option::is_none")]
        record_key: Option<String>,
        /// A record without a value, which deletes the record key; `value` tells it from others in the history.
        #[serde(skip_serializing_if = "is_false")]
        tombstone: bool,
    },
    /// Records handed to the application.
    Poll { records: Records },
}

impl MicroOp {
    /// A record without a key of its own.
    pub fn send(key: String, value: serde_json::Value, offset: Option<i64>) -> MicroOp {
        MicroOp::Send { key, value, offset, record_key: None, tombstone: false }
    }
}

/// The keys whose assignment changed while an operation ran.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rebalance {
    #[serde(deserialize_with = "keys")]
    pub keys: Vec<String>,
}

/// An event's value: micro-operations of a send, poll or txn; the keys of an assign or subscribe.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Value {
    Ops(Vec<MicroOp>),
    Keys(Vec<String>),
}

/// One line of a history.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HistoryEvent {
    /// A line without one gets its position among the events.
    #[serde(default = "HistoryEvent::missing_index")]
    pub index: u64,
    pub process: i64,
    #[serde(rename = "type")]
    pub kind: EventType,
    pub f: Function,
    /// Simulated nanoseconds since the start.
    #[serde(default, deserialize_with = "nanoseconds")]
    pub time: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Why an operation failed or is unknown: Kafka's error name.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "error_text")]
    pub error: Option<String>,
    #[serde(default, rename = "seek_to_beginning", skip_serializing_if = "Option::is_none")]
    pub seek_to_beginning: Option<bool>,
    #[serde(default, rename = "rebalance_log", skip_serializing_if = "Option::is_none")]
    pub rebalance_log: Option<Vec<Rebalance>>,
    /// The consumer group that the process is a member of; one operation of the process naming it is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Committed positions of the group that the operation made or saw: key -> offset of the next record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<BTreeMap<String, i64>>,
}

impl HistoryEvent {
    const INDEX_MISSING: u64 = u64::MAX;

    fn missing_index() -> u64 {
        HistoryEvent::INDEX_MISSING
    }

    /// The micro-operations of a send, poll or txn; none for the rest.
    pub fn ops(&self) -> &[MicroOp] {
        match &self.value {
            Some(Value::Ops(ops)) => ops,
            Some(Value::Keys(_)) | None => &[],
        }
    }

    /// The keys of an assign or subscribe; none for the rest.
    pub fn keys(&self) -> &[String] {
        match &self.value {
            Some(Value::Keys(keys)) => keys,
            Some(Value::Ops(_)) | None => &[],
        }
    }
}

/// A micro-operation with every field optional: one flat struct is parsed without the buffering that a
/// tagged enum needs.
#[derive(Deserialize)]
struct RawOp {
    op: OpName,
    key: Option<Key>,
    #[serde(default, deserialize_with = "present")]
    value: Option<serde_json::Value>,
    offset: Option<i64>,
    records: Option<Records>,
    record_key: Option<String>,
    #[serde(default)]
    tombstone: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum OpName {
    Send,
    Poll,
}

impl TryFrom<RawOp> for MicroOp {
    type Error = &'static str;

    fn try_from(raw: RawOp) -> Result<MicroOp, &'static str> {
        match raw.op {
            OpName::Send => Ok(MicroOp::Send {
                key: raw.key.ok_or("a send without `key`")?.0,
                value: raw.value.ok_or("a send without `value`")?,
                offset: raw.offset,
                record_key: raw.record_key,
                tombstone: raw.tombstone,
            }),
            OpName::Poll => Ok(MicroOp::Poll { records: raw.records.unwrap_or_default() }),
        }
    }
}

/// Tells `null`, which is a value, from nothing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<serde_json::Value>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(Some)
}

/// A key: a string, or an integer as Jepsen's own histories have it.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        match Element::deserialize(deserializer)? {
            Element::Key(key) => Ok(Key(key)),
            Element::Op(_) => Err(de::Error::custom("a key is a string")),
        }
    }
}

/// One element of an event's value.
enum Element {
    Key(String),
    Op(MicroOp),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Element, D::Error> {
        struct ElementVisitor;
        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a key, or a micro-operation {\"op\": \"send\" | \"poll\", …}")
            }
            fn visit_str<E: de::Error>(self, key: &str) -> Result<Element, E> {
                Ok(Element::Key(key.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, key: u64) -> Result<Element, E> {
                Ok(Element::Key(key.to_string()))
            }
            fn visit_i64<E: de::Error>(self, key: i64) -> Result<Element, E> {
                Ok(Element::Key(key.to_string()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Element, A::Error> {
                MicroOp::deserialize(de::value::MapAccessDeserializer::new(map)).map(Element::Op)
            }
        }
        deserializer.deserialize_any(ElementVisitor)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of micro-operations or of keys")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let (mut ops, mut keys) = (Vec::new(), Vec::new());
                while let Some(element) = seq.next_element::<Element>()? {
                    match element {
                        Element::Op(op) => ops.push(op),
                        Element::Key(key) => keys.push(key),
                    }
                }
                match (ops.is_empty(), keys.is_empty()) {
                    (false, false) => Err(de::Error::custom("keys and micro-operations in one list")),
                    (true, false) => Ok(Value::Keys(keys)),
                    (false, true) | (true, true) => Ok(Value::Ops(ops)),
                }
            }
        }
        deserializer.deserialize_seq(ValueVisitor)
    }
}

fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Key>::deserialize(deserializer)?.into_iter().map(|key| key.0).collect())
}

fn nanoseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = Option::<serde_json::Number>::deserialize(deserializer)?;
    Ok(number.map_or(0, |n| n.as_u64().unwrap_or_else(|| n.as_f64().unwrap_or(0.0).max(0.0) as u64)))
}

/// Jepsen's errors are any data; ours are strings.
fn error_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}
