//! Histories in one line of text each: `process type f value…`.

use std::collections::BTreeMap;

use super::analyze;
use crate::history::{EventType, Function, HistoryEvent, MicroOp, Rebalance, Value};

/// Parses lines like `0 ok send x:a@0 x:b@1`, `1 ok poll x:a@0`, `1 ok txn send x:a@0 poll y:b@1`,
/// `1 ok assign x y`, `1 ok assign! x` (seeks to the beginning), `0 fail poll x:a@0 rebalanced x`.
/// `x:a@0#k` names the record key, `x:a@0#k!` is a tombstone of it. An offset `?` is unknown. Any line may say `group=g` and `committed=x:3`.
pub fn history(text: &str) -> Vec<HistoryEvent> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.enumerate().map(|(index, line)| event(index as u64, line)).collect()
}

/// Names and counts of what is found.
pub fn found(text: &str) -> Vec<(&'static str, u64)> {
    analyze(&history(text)).iter().map(|(name, evidence)| (name, evidence.len() as u64)).collect()
}

fn event(index: u64, line: &str) -> HistoryEvent {
    let option = |word: &str, name: &str| word.strip_prefix(name).map(str::to_owned);
    let group = line.split_whitespace().find_map(|word| option(word, "group="));
    let committed: BTreeMap<String, i64> = line
        .split_whitespace()
        .filter_map(|word| option(word, "committed="))
        .map(|commit| {
            let (key, offset) = commit.split_once(':').expect("key:offset");
            (key.to_owned(), offset.parse().expect("an offset"))
        })
        .collect();
    let mut words = line.split_whitespace().filter(|word| !word.contains('='));
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
        group,
        committed: (!committed.is_empty()).then_some(committed),
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
                let (record, record_key) = match record.split_once('#') {
                    Some((record, record_key)) => (record, Some(record_key)),
                    None => (record, None),
                };
                let tombstone = record_key.is_some_and(|record_key| record_key.ends_with('!'));
                let record_key = record_key.map(|record_key| record_key.trim_end_matches('!').to_owned());
                let (key, rest) = record.split_once(':').expect("key:value");
                let (value, offset) = rest.split_once('@').unwrap_or((rest, "?"));
                let (value, offset) = (serde_json::Value::from(value), offset.parse().ok());
                if is_send {
                    ops.push(MicroOp::Send { key: key.to_owned(), value, offset, record_key, tombstone });
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
