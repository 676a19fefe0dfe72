//! Checkers: what of a history is wrong ([`analyze`], Jepsen's names), and what of that is allowed under a
//! configuration ([`allowed`]). Pure functions over plain data; detecting is separate from judging, which
//! is `report`'s. Cycles (G0, G1c) are not looked for.
//!
//! The definitions follow Jepsen's Kafka workload. Every detector is linear or n log n in the history.

mod allowed;
mod facts;
mod order;
mod positions;
mod values;

use std::collections::BTreeMap;

use crate::history::HistoryEvent;

pub(crate) use allowed::broker_of;
pub use allowed::{Allowance, Context, VIOLATIONS_OF_LOSS, acks_name, allow_claimed_loss, allowed};

/// The names of all anomalies that [`analyze`] looks for.
pub const ANOMALIES: [&str; 14] = [
    "aborted-read",
    "duplicate",
    "inconsistent-offsets",
    "int-nonmonotonic-poll",
    "int-nonmonotonic-send",
    "int-poll-skip",
    "int-send-skip",
    "lost-write",
    "nonmonotonic-poll",
    "nonmonotonic-send",
    "phantom",
    "poll-skip",
    "precommitted-read",
    "unseen",
];

/// Name -> evidence, one entry per case: operations by their `index`, keys, offsets, values. Names without
/// a case are absent.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Anomalies {
    found: BTreeMap<&'static str, Vec<serde_json::Value>>,
}

impl Anomalies {
    pub fn count(&self, name: &str) -> u64 {
        self.evidence(name).len() as u64
    }

    pub fn evidence(&self, name: &str) -> &[serde_json::Value] {
        self.found.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[serde_json::Value])> {
        self.found.iter().map(|(name, evidence)| (*name, evidence.as_slice()))
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Forgets an anomaly that means nothing here.
    pub fn remove(&mut self, name: &str) {
        self.found.remove(name);
    }

    fn add(&mut self, name: &'static str, evidence: serde_json::Value) {
        debug_assert!(ANOMALIES.contains(&name));
        self.found.entry(name).or_default().push(evidence);
    }
}

/// Finds every anomaly of a history.
pub fn analyze(history: &[HistoryEvent]) -> Anomalies {
    let facts = facts::Facts::of(history);
    let orders = order::VersionOrders::of(&facts);
    let mut anomalies = Anomalies::default();
    values::detect(&facts, &orders, &mut anomalies);
    positions::detect(&facts, &orders, &mut anomalies);
    anomalies
}

#[cfg(test)]
pub(crate) mod testing {
    //! Histories in one line of text each: `process type f value…`.

    use super::*;
    use crate::history::{EventType, Function, MicroOp, Rebalance, Value};

    /// Parses lines like `0 ok send x:a@0 x:b@1`, `1 ok poll x:a@0`, `1 ok txn send x:a@0 poll y:b@1`,
    /// `1 ok assign x y`, `1 ok assign! x` (seeks to the beginning), `0 fail poll x:a@0 rebalanced x`.
    /// An offset `?` is unknown.
    pub fn history(text: &str) -> Vec<HistoryEvent> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.enumerate().map(|(index, line)| event(index as u64, line)).collect()
    }

    /// Names and counts of what is found.
    pub fn found(text: &str) -> Vec<(&'static str, u64)> {
        analyze(&history(text)).iter().map(|(name, evidence)| (name, evidence.len() as u64)).collect()
    }

    fn event(index: u64, line: &str) -> HistoryEvent {
        let mut words = line.split_whitespace();
        let mut word = || words.next().expect("process, type and function");
        let process = word().parse().expect("a process number");
        let kind = match word() {
            "invoke" => EventType::Invoke,
            "ok" => EventType::Ok,
            "fail" => EventType::Fail,
            "info" => EventType::Info,
            other => panic!("no event type {other}"),
        };
        let name = word();
        let f = match name.trim_end_matches('!') {
            "send" => Function::Send,
            "poll" => Function::Poll,
            "txn" => Function::Txn,
            "assign" => Function::Assign,
            "subscribe" => Function::Subscribe,
            "crash" => Function::Crash,
            other => panic!("no function {other}"),
        };
        let (rest, rebalanced): (Vec<&str>, Vec<&str>) = {
            let rest: Vec<&str> = words.collect();
            match rest.iter().position(|w| *w == "rebalanced") {
                Some(at) => (rest[..at].to_vec(), rest[at + 1..].to_vec()),
                None => (rest, Vec::new()),
            }
        };
        let strings = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let value = match f {
            Function::Assign | Function::Subscribe => Value::Keys(strings(&rest)),
            Function::Send | Function::Poll | Function::Txn | Function::Crash => Value::Ops(micro_ops(f, &rest)),
        };
        HistoryEvent {
            index,
            process,
            kind,
            f,
            time: index,
            value: Some(value),
            error: None,
            seek_to_beginning: name.ends_with('!').then_some(true),
            rebalance_log: (!rebalanced.is_empty()).then(|| vec![Rebalance { keys: strings(&rebalanced) }]),
        }
    }

    fn micro_ops(f: Function, words: &[&str]) -> Vec<MicroOp> {
        let mut is_send = f == Function::Send;
        let mut ops = Vec::new();
        for word in words {
            match *word {
                "send" => is_send = true,
                "poll" => {
                    is_send = false;
                    ops.push(MicroOp::Poll { records: Default::default() });
                }
                record => {
                    let (key, rest) = record.split_once(':').expect("key:value");
                    let (value, offset) = rest.split_once('@').unwrap_or((rest, "?"));
                    let (value, offset) = (serde_json::Value::from(value), offset.parse().ok());
                    if is_send {
                        ops.push(MicroOp::Send { key: key.to_owned(), value, offset });
                        continue;
                    }
                    if !matches!(ops.last(), Some(MicroOp::Poll { .. })) {
                        ops.push(MicroOp::Poll { records: Default::default() });
                    }
                    if let Some(MicroOp::Poll { records }) = ops.last_mut() {
                        records.entry(key.to_owned()).or_default().push((offset, value));
                    }
                }
            }
        }
        ops
    }
}
