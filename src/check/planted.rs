//! Anomalies planted into honest histories, at places drawn at random: one function per anomaly.
#![allow(clippy::ptr_arg, reason = "all plants have the type of those that insert events")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::evidence::Evidence;
use super::honest::FINAL_READER;
use super::testing::history as lines;
use crate::history::{EventType, Function, HistoryEvent, MicroOp, Records, Value};

/// Draws places, from one number.
pub struct Pick(pub u64);

impl Pick {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        assert!(!of.is_empty(), "an honest history begins with a place for everything");
        of[self.below(of.len())].clone()
    }
}

/// What must be found.
pub enum Expected {
    /// A case about this value of this key (or offset, where the case is about one).
    About { key: String, what: Json },
    /// A cycle of exactly these processes' operations.
    CycleOf(Vec<i64>),
}

impl Expected {
    fn about(key: &str, what: impl Into<Json>) -> Expected {
        Expected::About { key: key.to_owned(), what: what.into() }
    }

    /// Whether the evidence is about what was planted.
    pub fn is(&self, evidence: &Evidence, history: &[HistoryEvent]) -> bool {
        let case = evidence.to_json();
        match self {
            Expected::About { key, what } => {
                let mentioned = [&case["value"], &case["offset"], &case["values"][0], &case["values"][1]];
                let skipped = case["skipped"].as_array().is_some_and(|skipped| skipped.contains(what));
                case["key"] == *key && (mentioned.contains(&what) || skipped)
            }
            Expected::CycleOf(processes) => {
                let Evidence::Cycle(cycle) = evidence else { return false };
                let process = |index: &u64| history.iter().find(|e| e.index == *index).map(|event| event.process);
                let mut found: Vec<i64> = cycle.operations.iter().filter_map(process).collect();
                found.sort_unstable();
                found == *processes
            }
        }
    }
}

/// Spoils a history.
pub type Plant = fn(&mut Vec<HistoryEvent>, &mut Pick) -> Expected;

/// Every anomaly, and how it is planted.
pub const PLANTS: &[(&str, Plant)] = &[
    ("lost-write", lost_write),
    ("unseen", unseen),
    ("duplicate", duplicate),
    ("inconsistent-offsets", inconsistent_offsets),
    ("aborted-read", aborted_read),
    ("precommitted-read", precommitted_read),
    ("phantom", phantom),
    ("int-poll-skip", int_poll_skip),
    ("int-nonmonotonic-poll", int_nonmonotonic_poll),
    ("poll-skip", poll_skip),
    ("nonmonotonic-poll", nonmonotonic_poll),
    ("int-send-skip", int_send_skip),
    ("int-nonmonotonic-send", int_nonmonotonic_send),
    ("nonmonotonic-send", nonmonotonic_send),
    ("G0", g0),
    ("G0-process", g0_process),
    ("G0-realtime", g0_realtime),
    ("G1c", g1c),
    ("G1c-process", g1c_process),
    ("G1c-realtime", g1c_realtime),
    ("committed-too-far", committed_too_far),
    ("lost-latest", lost_latest),
    ("tombstone-missed", tombstone_missed),
];

/// A record as an operation has it.
#[derive(Clone, Debug)]
struct Site {
    event: usize,
    key: String,
    value: Json,
    offset: Option<i64>,
}

/// Sends of ok completions.
fn ok_sends(history: &[HistoryEvent]) -> Vec<Site> {
    let mut sites = Vec::new();
    for (event, completion) in history.iter().enumerate().filter(|(_, event)| event.kind == EventType::Ok) {
        for op in completion.ops() {
            if let MicroOp::Send { key, value, offset, .. } = op {
                sites.push(Site { event, key: key.clone(), value: value.clone(), offset: *offset });
            }
        }
    }
    sites
}

/// Records of the final read: every key's log.
fn logs(history: &[HistoryEvent]) -> BTreeMap<String, Vec<Site>> {
    let mut logs: BTreeMap<String, Vec<Site>> = BTreeMap::new();
    for (event, poll) in history.iter().enumerate().filter(|(_, event)| event.process == FINAL_READER) {
        for (key, records) in polled(poll) {
            let site = |(offset, value): &(Option<i64>, Json)| Site {
                event,
                key: key.clone(),
                value: value.clone(),
                offset: *offset,
            };
            logs.entry(key.clone()).or_default().extend(records.iter().map(site));
        }
    }
    logs
}

fn polled(event: &HistoryEvent) -> Records {
    let polls = event.ops().iter().filter_map(|op| match op {
        MicroOp::Poll { records } => Some(records),
        MicroOp::Send { .. } => None,
    });
    polls.flatten().map(|(key, records)| (key.clone(), records.clone())).collect()
}

fn ops_mut(event: &mut HistoryEvent) -> &mut Vec<MicroOp> {
    match event.value.get_or_insert_with(|| Value::Ops(Vec::new())) {
        Value::Ops(ops) => ops,
        Value::Keys(_) => panic!("a site is a send or a poll"),
    }
}

/// The polled records of a key in one event: honest operations poll once.
fn records_mut<'a>(event: &'a mut HistoryEvent, key: &str) -> &'a mut Vec<(Option<i64>, Json)> {
    let records = ops_mut(event).iter_mut().find_map(|op| match op {
        MicroOp::Poll { records } => records.get_mut(key),
        MicroOp::Send { .. } => None,
    });
    records.expect("the site is a poll of the key")
}

fn sends_mut<'a>(event: &'a mut HistoryEvent, key: &str) -> Vec<(&'a mut Json, &'a mut Option<i64>)> {
    let of_key = key.to_owned();
    let send = move |op: &'a mut MicroOp| match op {
        MicroOp::Send { key, value, offset, .. } if *key == of_key => Some((value, offset)),
        MicroOp::Send { .. } | MicroOp::Poll { .. } => None,
    };
    ops_mut(event).iter_mut().filter_map(send).collect()
}

fn hide(history: &mut [HistoryEvent], site: &Site) {
    for event in history.iter_mut().filter(|event| event.kind != EventType::Invoke) {
        if !matches!(event.value, Some(Value::Ops(_))) {
            continue;
        }
        for op in ops_mut(event) {
            if let MicroOp::Poll { records } = op
                && let Some(records) = records.get_mut(&site.key)
            {
                records.retain(|(_, value)| *value != site.value);
            }
        }
    }
}

fn lost_write(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let logs = logs(history);
    let is_below = |site: &Site| site.offset.is_some_and(|o| logs[&site.key].last().and_then(|l| l.offset) > Some(o));
    let sites: Vec<Site> = ok_sends(history).into_iter().filter(is_below).collect();
    let site = pick.one(&sites);
    hide(history, &site);
    Expected::about(&site.key, site.value)
}

fn unseen(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let site = pick.one(&ok_sends(history));
    hide(history, &site);
    Expected::about(&site.key, site.value)
}

/// Gives a sent value a record key.
fn name_record_key(history: &mut [HistoryEvent], site: &Site, is_tombstone: bool) {
    for op in ops_mut(&mut history[site.event]) {
        match op {
            MicroOp::Send { key, value, record_key, tombstone, .. } if *key == site.key && *value == site.value => {
                *record_key = Some("user-1".to_owned());
                *tombstone = is_tombstone;
            }
            MicroOp::Send { .. } | MicroOp::Poll { .. } => {}
        }
    }
}

fn lost_latest(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let sites: Vec<Site> = ok_sends(history).into_iter().filter(|site| site.offset.is_some()).collect();
    let site = pick.one(&sites);
    name_record_key(history, &site, false);
    hide(history, &site);
    Expected::about(&site.key, site.value)
}

/// Of two values with one record key the later is a tombstone that nobody reads, while the final reader reads on.
fn tombstone_missed(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let logs = logs(history);
    let mut pairs: Vec<(Site, Site)> = Vec::new();
    let sends: Vec<Site> = ok_sends(history).into_iter().filter(|site| site.offset.is_some()).collect();
    for later in sends.iter().filter(|later| logs[&later.key].last().is_some_and(|last| last.offset > later.offset)) {
        let before = sends.iter().filter(|site| site.key == later.key && site.offset < later.offset);
        pairs.extend(before.map(|site| (site.clone(), later.clone())));
    }
    let (value, tombstone) = pick.one(&pairs);
    name_record_key(history, &value, false);
    name_record_key(history, &tombstone, true);
    hide(history, &tombstone);
    Expected::about(&value.key, value.value)
}

fn duplicate(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let log = pick.one(&logs(history).into_values().collect::<Vec<_>>());
    let site = pick.one(&log);
    let last = log.last().expect("a site is in it");
    let offset = last.offset.map(|offset| offset + 7);
    records_mut(&mut history[last.event], &site.key).push((offset, site.value.clone()));
    Expected::about(&site.key, site.value)
}

fn inconsistent_offsets(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let logs = logs(history);
    let is_one_of_several = |site: &Site| site.offset.is_some() && logs[&site.key].len() > 1;
    let site = pick.one(&ok_sends(history).into_iter().filter(is_one_of_several).collect::<Vec<_>>());
    let others: Vec<i64> =
        logs[&site.key].iter().filter_map(|s| s.offset).filter(|o| Some(*o) != site.offset).collect();
    let offset = pick.one(&others);
    for (value, said) in sends_mut(&mut history[site.event], &site.key) {
        if *value == site.value {
            *said = Some(offset);
        }
    }
    Expected::about(&site.key, offset)
}

fn aborted_read(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let site = pick.one(&ok_sends(history));
    history[site.event].kind = EventType::Fail;
    Expected::about(&site.key, site.value)
}

fn precommitted_read(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let site = pick.one(&ok_sends(history));
    let event = &mut history[site.event];
    event.f = Function::Txn;
    let records = Records::from_iter([(site.key.clone(), vec![(site.offset, site.value.clone())])]);
    ops_mut(event).push(MicroOp::Poll { records });
    Expected::about(&site.key, site.value)
}

fn phantom(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let polls: Vec<(usize, String)> = poll_sites(history, 1).into_iter().collect();
    let (event, key) = pick.one(&polls);
    let value = Json::from("never sent");
    let records = records_mut(&mut history[event], &key);
    let at = pick.below(records.len() + 1);
    records.insert(at, (None, value.clone()));
    Expected::about(&key, value)
}

/// (event, key) of completions that polled so many records of a key that no rebalance moved.
fn poll_sites(history: &[HistoryEvent], records_min: usize) -> Vec<(usize, String)> {
    let mut sites = Vec::new();
    for (event, completion) in history.iter().enumerate().filter(|(_, event)| event.kind != EventType::Invoke) {
        for (key, records) in polled(completion) {
            let is_moved = completion.rebalance_log.iter().flatten().any(|rebalance| rebalance.keys.contains(&key));
            if records.len() >= records_min && !is_moved {
                sites.push((event, key));
            }
        }
    }
    sites
}

fn int_poll_skip(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let mut sites = poll_sites(history, 3);
    // Of what the final reader does not read, nobody knows.
    sites.retain(|(event, _)| history[*event].process != FINAL_READER);
    let (event, key) = pick.one(&sites);
    let records = records_mut(&mut history[event], &key);
    let at = 1 + pick.below(records.len() - 2);
    let (_, value) = records.remove(at);
    Expected::about(&key, value)
}

fn int_nonmonotonic_poll(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let (event, key) = pick.one(&poll_sites(history, 2));
    let records = records_mut(&mut history[event], &key);
    let at = pick.below(records.len() - 1);
    records.swap(at, at + 1);
    Expected::about(&key, records[at].1.clone())
}

/// (event, event, key): an ok poll of a process and its next one, with nothing that resets it between. A
/// process that subscribes is no longer looked at: rebalances move it.
fn consecutive_polls(history: &[HistoryEvent]) -> Vec<(usize, usize, String)> {
    let mut moved = BTreeSet::from([FINAL_READER]);
    let mut last: BTreeMap<(i64, String), usize> = BTreeMap::new();
    let mut pairs = Vec::new();
    for (at, event) in history.iter().enumerate().filter(|(_, event)| event.kind != EventType::Invoke) {
        match event.f {
            Function::Subscribe => {
                moved.insert(event.process);
            }
            Function::Assign | Function::Crash => last.retain(|(process, _), _| *process != event.process),
            Function::Send | Function::Poll | Function::Txn => {}
        }
        if moved.contains(&event.process) {
            continue;
        }
        for key in polled(event).into_keys() {
            let place = (event.process, key.clone());
            pairs.extend(last.get(&place).map(|before| (*before, at, key)));
            if event.kind == EventType::Ok {
                last.insert(place, at);
            }
        }
    }
    pairs
}

fn poll_skip(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let mut pairs = consecutive_polls(history);
    pairs.retain(|(_, event, key)| polled(&history[*event])[key].len() > 1);
    let (_, event, key) = pick.one(&pairs);
    let (_, value) = records_mut(&mut history[event], &key).remove(0);
    Expected::about(&key, value)
}

fn nonmonotonic_poll(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let (before, event, key) = pick.one(&consecutive_polls(history));
    let again = polled(&history[before])[&key].last().expect("it polled the key").clone();
    records_mut(&mut history[event], &key).insert(0, again.clone());
    Expected::about(&key, again.1)
}

/// (event, key) of ok operations that sent so many values to a key, all at known offsets.
fn send_sites(history: &[HistoryEvent], sends_min: usize) -> Vec<(usize, String)> {
    let mut counts: BTreeMap<(usize, String), (usize, bool)> = BTreeMap::new();
    for site in ok_sends(history) {
        let (count, known) = counts.entry((site.event, site.key)).or_insert((0, true));
        *count += 1;
        *known &= site.offset.is_some();
    }
    counts.into_iter().filter(|(_, (count, known))| *known && *count >= sends_min).map(|(site, _)| site).collect()
}

fn int_send_skip(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let (event, key) = pick.one(&send_sites(history, 3));
    let values: Vec<Json> = sends_mut(&mut history[event], &key).into_iter().map(|(value, _)| value.clone()).collect();
    let value = values[1 + pick.below(values.len() - 2)].clone();
    let is_it = |op: &MicroOp| matches!(op, MicroOp::Send { key: k, value: v, .. } if *k == key && *v == value);
    ops_mut(&mut history[event]).retain(|op| !is_it(op));
    Expected::about(&key, value)
}

fn int_nonmonotonic_send(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let (event, key) = pick.one(&send_sites(history, 2));
    let mut sends = sends_mut(&mut history[event], &key);
    let at = pick.below(sends.len() - 1);
    let (before, after) = sends.split_at_mut(at + 1);
    let ((a, a_offset), (b, b_offset)) = (&mut before[at], &mut after[0]);
    std::mem::swap(*a, *b);
    std::mem::swap(*a_offset, *b_offset);
    Expected::about(&key, (*a).clone())
}

/// A later operation of a process at an offset before an earlier one's.
fn nonmonotonic_send(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let key = "orders-planted";
    let text = format!("5000 ok send {key}:b@1\n 5000 {} send {key}:a@0", pick.one(&["ok", "info"]));
    plant(history, pick, &format!("{text}\n 5001 ok poll {key}:a@0 {key}:b@1"));
    Expected::about(key, "a")
}

fn g0(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    plant(history, pick, "5000 ok send p:a@0 p:c@2\n 5001 ok send p:b@1\n 5002 ok poll p:a@0 p:b@1 p:c@2");
    Expected::CycleOf(vec![5000, 5001])
}

fn g0_process(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    plant(history, pick, "5000 ok send p:b@1\n 5000 ok send p:a@0\n 5002 ok poll p:a@0 p:b@1");
    Expected::CycleOf(vec![5000, 5000])
}

fn g0_realtime(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let text = "
        5000 invoke send p:b
        5000 ok send p:b@1
        5001 invoke send p:a
        5001 ok send p:a@0
        5002 ok poll p:a@0 p:b@1";
    plant(history, pick, text);
    Expected::CycleOf(vec![5000, 5001])
}

fn g1c(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    plant(history, pick, "5000 ok txn send p:a@0 poll q:b@0\n 5001 ok txn send q:b@0 poll p:a@0");
    Expected::CycleOf(vec![5000, 5001])
}

fn g1c_process(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let text = "
        5001 invoke txn send q:b poll
        5000 ok poll q:b@0
        5000 ok send p:a@0
        5001 ok txn send q:b@0 poll p:a@0";
    plant(history, pick, text);
    Expected::CycleOf(vec![5000, 5000, 5001])
}

fn g1c_realtime(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let text = "
        5001 invoke txn send q:b poll
        5000 ok poll q:b@0
        5002 invoke send p:a
        5002 ok send p:a@0
        5001 ok txn send q:b@0 poll p:a@0";
    plant(history, pick, text);
    Expected::CycleOf(vec![5000, 5001, 5002])
}

fn committed_too_far(history: &mut Vec<HistoryEvent>, pick: &mut Pick) -> Expected {
    let long: Vec<Vec<Site>> = logs(history).into_values().filter(|log| log.len() > 1).collect();
    let log = pick.one(&long);
    let at = pick.below(log.len() - 1);
    let (handed, passed) = (&log[at], &log[at + 1]);
    let offset = handed.offset.expect("the final read knows offsets");
    let committed = passed.offset.expect("the final read knows offsets") + 1;
    let key = &passed.key;
    let text =
        format!("5000 ok poll group=planted {key}:x@{offset}\n 5000 ok poll group=planted committed={key}:{committed}");
    plant(history, pick, &text);
    let event = history.iter_mut().find(|event| event.process == 5000).expect("just planted");
    records_mut(event, key)[0].1 = handed.value.clone();
    Expected::about(key, passed.value.clone())
}

/// Puts the lines among the events, in their order, at places drawn at random.
fn plant(history: &mut Vec<HistoryEvent>, pick: &mut Pick, text: &str) {
    let planted = lines(text);
    let mut places: Vec<usize> = planted.iter().map(|_| pick.below(history.len() + 1)).collect();
    places.sort_unstable();
    for (mut event, place) in planted.into_iter().zip(places).rev() {
        event.index += 1_000_000;
        history.insert(place, event);
    }
}
