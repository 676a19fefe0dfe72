//! The history of client operations: what a client could see. JSON Lines, one event per line, as
//! Jepsen's Kafka workload writes it. Plain data that can be saved and loaded.

use serde::{Deserialize, Serialize};

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

/// One micro-operation in an event's value.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum MicroOp {
    /// A value sent to a key (a topic-partition). `offset` is unknown in an invocation.
    Send {
        key: String,
        value: serde_json::Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<i64>,
    },
    /// Records handed to the application: key -> [[offset, value], …] in the order of delivery.
    Poll {
        #[serde(default)]
        records: indexmap::IndexMap<String, Vec<(Option<i64>, serde_json::Value)>>,
    },
}

/// The keys whose assignment changed while an operation ran.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rebalance {
    pub keys: Vec<String>,
}

/// An event's value: micro-operations of a send, poll or txn; the keys of an assign or subscribe.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Ops(Vec<MicroOp>),
    Keys(Vec<String>),
}

/// One line of a history.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HistoryEvent {
    pub index: u64,
    pub process: i64,
    #[serde(rename = "type")]
    pub kind: EventType,
    pub f: Function,
    /// Simulated nanoseconds since the start.
    #[serde(default)]
    pub time: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Why an operation failed or is unknown: Kafka's error name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, rename = "seek_to_beginning", skip_serializing_if = "Option::is_none")]
    pub seek_to_beginning: Option<bool>,
    #[serde(default, rename = "rebalance_log", skip_serializing_if = "Option::is_none")]
    pub rebalance_log: Option<Vec<Rebalance>>,
}
