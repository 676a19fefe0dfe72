//! What is measured of a history and never wrong: how far consumers were behind, how long records took, how
//! often they were consumed, how long nothing could be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde::Serialize;
use serde_json::Value;

use super::availability::without_successful_send;
use super::facts::{Facts, KeyId, Op, OpId, ValueId};
use crate::history::{EventType, Function, HistoryEvent};

/// How many of the most often consumed records are named.
const MOST_CONSUMED_MAX: usize = 8;

/// Measurements of one history. Times are in milliseconds; `None` where there is no sample.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Measured {
    pub values: Fates,
    /// How long a consumer had been behind when it polled: Jepsen's real-time lag. One sample for each key
    /// that a poll returned records of, and one for the last poll of each time in which an assigned key gave
    /// nothing. A consumer that was sent to the beginning counts once it has caught up.
    pub realtime_lag_ms: Option<Spread>,
    /// The worst of them.
    pub worst_realtime_lag: Option<Lag>,
    /// From the begin of a send to the end of the first ok poll that returned it, unless by a consumer that
    /// reads from the beginning and has not caught up yet.
    pub end_to_end_latency_ms: Option<Spread>,
    /// Per key; the time between two successful sends during which a send was pending.
    pub without_successful_send_ms: BTreeMap<String, Spread>,
    pub consumed: Consumed,
}

/// Values by what became of them. `sent` = `acknowledged` + `failed` + `unknown`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Fates {
    pub sent: u64,
    pub acknowledged: u64,
    pub failed: u64,
    pub unknown: u64,
    /// Returned by an ok poll.
    pub read: u64,
    /// Of the unknown ones, those that no ok poll returned: with acks=0 all that is missing.
    pub sent_and_missing: u64,
}

/// How samples are spread: nearest-rank percentiles.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    pub samples: u64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

/// One poll's lag behind one key.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Lag {
    pub key: String,
    pub process: i64,
    /// Since the start: when the poll began.
    pub at_ms: f64,
    pub lag_ms: f64,
}

/// How often records were consumed, by groups (members together) and by processes that subscribe outside of a
/// named group. Who assigns partitions to himself may read again as he likes.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Consumed {
    /// Times -> records of which one consumer had so many ok deliveries.
    pub distribution: BTreeMap<u64, u64>,
    /// Those consumed more than once, the most often consumed first.
    pub most: Vec<MostConsumed>,
}

/// A record that one consumer was handed several times.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MostConsumed {
    pub consumer: String,
    pub key: String,
    pub value: Value,
    pub times: u64,
}

/// Measures a history.
pub fn measure(history: &[HistoryEvent]) -> Measured {
    let facts = Facts::of(history);
    let (lags, latencies) = Clock::new(&facts, history).run();
    let worst = lags.iter().enumerate().max_by_key(|(at, lag)| (lag.nanos, std::cmp::Reverse(*at)));
    Measured {
        values: fates(&facts),
        realtime_lag_ms: Spread::of(lags.iter().map(|lag| lag.nanos).collect()),
        worst_realtime_lag: worst.map(|(_, lag)| Lag {
            key: facts.key(lag.key).to_owned(),
            process: lag.process,
            at_ms: millis(lag.at),
            lag_ms: millis(lag.nanos),
        }),
        end_to_end_latency_ms: Spread::of(latencies),
        without_successful_send_ms: without_successful_send(history)
            .into_iter()
            .filter_map(|(key, stretches)| {
                let nanos = stretches.iter().map(Duration::as_nanos).map(|n| u64::try_from(n).unwrap_or(u64::MAX));
                Some((key.to_owned(), Spread::of(nanos.collect())?))
            })
            .collect(),
        consumed: consumed(&facts),
    }
}

impl Spread {
    /// Of nanoseconds, in any order.
    fn of(mut nanos: Vec<u64>) -> Option<Spread> {
        nanos.sort_unstable();
        let max = *nanos.last()?;
        let percentile = |percent: usize| millis(nanos[(nanos.len() * percent).div_ceil(100).max(1) - 1]);
        Some(Spread {
            samples: nanos.len() as u64,
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            max: millis(max),
        })
    }
}

/// To the microsecond.
fn millis(nanos: u64) -> f64 {
    (nanos / 1_000) as f64 / 1_000.0
}

fn fates(facts: &Facts<'_>) -> Fates {
    let mut fates = Fates::default();
    for value in &facts.values {
        let kind = value.writer.map(|writer| facts.op(writer).event.kind);
        let is_sent = value.sent_at.is_some();
        let is_unknown = is_sent && kind != Some(EventType::Ok) && kind != Some(EventType::Fail);
        fates.sent += u64::from(is_sent);
        fates.acknowledged += u64::from(kind == Some(EventType::Ok));
        fates.failed += u64::from(kind == Some(EventType::Fail));
        fates.unknown += u64::from(is_unknown);
        fates.read += u64::from(value.reader.is_some());
        fates.sent_and_missing += u64::from(is_unknown && value.reader.is_none());
    }
    fates
}

fn consumed(facts: &Facts<'_>) -> Consumed {
    let groups: FxHashMap<i64, &str> =
        facts.ops.iter().filter_map(|op| Some((op.event.process, op.event.group.as_deref()?))).collect();
    let mut names: BTreeMap<String, u32> = BTreeMap::new();
    let mut subscribed: FxHashMap<i64, u32> = FxHashMap::default();
    let mut deliveries: Vec<(u32, ValueId)> = Vec::new();
    for op in facts.ops.iter().filter(|op| op.event.kind == EventType::Ok) {
        let process = op.event.process;
        let group = groups.get(&process).map(|group| format!("group {group}"));
        if group.is_some() || op.event.f == Function::Subscribe {
            let number = names.len() as u32;
            let name = group.unwrap_or_else(|| format!("process {process}"));
            let consumer = *names.entry(name).or_insert(number);
            subscribed.entry(process).or_insert(consumer);
        }
        if let Some(consumer) = subscribed.get(&process) {
            deliveries.extend(facts.polls(op).iter().map(|record| (*consumer, record.value)));
        }
    }
    deliveries.sort_unstable();
    let mut consumed = Consumed::default();
    let mut most: Vec<(u64, u32, ValueId)> = Vec::new();
    for group in deliveries.chunk_by(|a, b| a == b) {
        let times = group.len() as u64;
        *consumed.distribution.entry(times).or_default() += 1;
        if times > 1 {
            most.push((times, group[0].0, group[0].1));
        }
    }
    most.sort_by_key(|(times, consumer, value)| (std::cmp::Reverse(*times), *consumer, *value));
    let by_number: BTreeMap<u32, String> = names.into_iter().map(|(name, number)| (number, name)).collect();
    consumed.most = most
        .into_iter()
        .take(MOST_CONSUMED_MAX)
        .map(|(times, consumer, id)| MostConsumed {
            consumer: by_number[&consumer].clone(),
            key: facts.key(facts.value(id).key).to_owned(),
            value: facts.value(id).value.clone(),
            times,
        })
        .collect();
    consumed
}

/// One sample of real-time lag, in nanoseconds.
struct LagSample {
    key: KeyId,
    process: i64,
    at: u64,
    nanos: u64,
}

/// Where a process stands in a key.
#[derive(Clone, Copy)]
struct Stand {
    /// The last offset it was handed; -1 before the first.
    offset: i64,
    /// Number of the process's poll that gave the last sample.
    sampled: u64,
    /// Sent to the beginning, and not at the end since.
    catching_up: bool,
}

/// What a process has assigned, and its polls so far.
#[derive(Default)]
struct Consumer {
    keys: BTreeMap<KeyId, Stand>,
    polls: u64,
    /// When the last poll began.
    polled_at: u64,
}

/// Goes through a history once, after what was known of each log at which time has been noted.
struct Clock<'f, 'a> {
    facts: &'f Facts<'a>,
    history: &'a [HistoryEvent],
    /// Per key, ascending in both: the highest offset known, since when.
    ends: Vec<Vec<(i64, u64)>>,
    lags: Vec<LagSample>,
    latencies: Vec<u64>,
}

impl<'f, 'a> Clock<'f, 'a> {
    fn new(facts: &'f Facts<'a>, history: &'a [HistoryEvent]) -> Clock<'f, 'a> {
        let mut ends: Vec<Vec<(i64, u64)>> = vec![Vec::new(); facts.keys.len()];
        for op in &facts.ops {
            let sends = if op.event.kind == EventType::Ok { facts.sends(op) } else { &[] };
            for record in sends.iter().chain(facts.polls(op)) {
                let known = &mut ends[record.key.0 as usize];
                if let Some(offset) = record.offset.filter(|offset| known.last().is_none_or(|last| last.0 < *offset)) {
                    known.push((offset, op.event.time));
                }
            }
        }
        Clock { facts, history, ends, lags: Vec::new(), latencies: Vec::new() }
    }

    fn run(mut self) -> (Vec<LagSample>, Vec<u64>) {
        let mut consumers: BTreeMap<i64, Consumer> = BTreeMap::new();
        for id in self.facts.op_ids() {
            let op = self.facts.op(id);
            if op.event.kind != EventType::Ok {
                continue;
            }
            let process = op.event.process;
            match op.event.f {
                Function::Assign => {
                    let consumer = consumers.entry(process).or_default();
                    self.finish(process, consumer);
                    self.assign(op, consumer);
                }
                Function::Subscribe => {
                    let consumer = consumers.entry(process).or_default();
                    self.finish(process, consumer);
                    consumer.keys.clear();
                }
                Function::Poll | Function::Txn => self.poll(id, op, consumers.entry(process).or_default()),
                Function::Send | Function::Crash => {}
            }
        }
        for (process, consumer) in &mut consumers {
            self.finish(*process, consumer);
        }
        (self.lags, self.latencies)
    }

    /// Keeps the place in keys that stay assigned.
    fn assign(&self, op: &Op<'_>, consumer: &mut Consumer) {
        let from_beginning = op.event.seek_to_beginning == Some(true);
        let keys: BTreeSet<KeyId> = op.event.keys().iter().filter_map(|key| self.facts.key_id(key)).collect();
        let fresh = Stand { offset: -1, sampled: consumer.polls, catching_up: from_beginning };
        let stand = |key: &KeyId| consumer.keys.get(key).copied().filter(|_| !from_beginning).unwrap_or(fresh);
        consumer.keys = keys.iter().map(|key| (*key, stand(key))).collect();
    }

    fn poll(&mut self, id: OpId, op: &Op<'a>, consumer: &mut Consumer) {
        let began = op.invoked.map_or(op.event.time, |position| self.history[position].time);
        let facts = self.facts;
        let process = op.event.process;
        for records in facts.polls(op).chunk_by(|a, b| a.key == b.key) {
            let key = records[0].key;
            let Some(offset) = records.iter().filter_map(|record| record.offset).max() else { continue };
            let fresh = Stand { offset: -1, sampled: consumer.polls, catching_up: false };
            let mut stand = consumer.keys.get(&key).copied().unwrap_or(fresh);
            self.sample_quiet_stretch(key, process, &mut stand, consumer);
            if !stand.catching_up {
                let first_read = records.iter().filter(|record| facts.value(record.value).reader == Some(id));
                let latencies: Vec<u64> = first_read.filter_map(|record| self.latency(record.value, op)).collect();
                self.latencies.extend(latencies);
            }
            stand.offset = offset.max(stand.offset);
            stand.sampled = consumer.polls + 1;
            self.sample(key, process, &mut stand, began);
            consumer.keys.insert(key, stand);
        }
        consumer.polls += 1;
        consumer.polled_at = began;
    }

    fn latency(&self, value: ValueId, op: &Op<'_>) -> Option<u64> {
        let writer = self.facts.op(self.facts.value(value).writer?);
        let sent_at = writer.invoked.map_or(writer.event.time, |position| self.history[position].time);
        Some(op.event.time.saturating_sub(sent_at))
    }

    /// Samples what the process's last polls did not return.
    fn finish(&mut self, process: i64, consumer: &mut Consumer) {
        for (key, stand) in std::mem::take(&mut consumer.keys) {
            let mut stand = stand;
            self.sample_quiet_stretch(key, process, &mut stand, consumer);
            consumer.keys.insert(key, stand);
        }
    }

    fn sample_quiet_stretch(&mut self, key: KeyId, process: i64, stand: &mut Stand, consumer: &Consumer) {
        if stand.sampled < consumer.polls {
            stand.sampled = consumer.polls;
            self.sample(key, process, stand, consumer.polled_at);
        }
    }

    /// The lag of a poll that began at `at`: how long before it something behind the stand was known to exist.
    fn sample(&mut self, key: KeyId, process: i64, stand: &mut Stand, at: u64) {
        let known = &self.ends[key.0 as usize];
        let behind = known.get(known.partition_point(|(offset, _)| *offset <= stand.offset));
        let nanos = behind.map_or(0, |(_, since)| at.saturating_sub(*since));
        stand.catching_up &= nanos > 0;
        if !stand.catching_up {
            self.lags.push(LagSample { key, process, at, nanos });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::history;
    use super::*;

    /// Event times are line numbers, taken as milliseconds.
    fn measured(text: &str) -> Measured {
        let mut events = history(text);
        for event in &mut events {
            event.time *= 1_000_000;
        }
        measure(&events)
    }

    #[test]
    fn a_poll_lags_by_the_time_since_something_newer_is_known() {
        // The record at offset 1 is known from time 4 on; the poll that does not return it begins at 7.
        let text = "
            1 ok assign x
            0 ok send x:a@0
            1 invoke poll
            1 ok poll x:a@0
            0 ok send x:b@1
            9 ok crash
            9 ok crash
            1 invoke poll
            1 ok poll";
        let lag = measured(text);
        let expected = Lag { key: "x".to_owned(), process: 1, at_ms: 7.0, lag_ms: 3.0 };
        assert_eq!(lag.worst_realtime_lag, Some(expected));
        assert_eq!(lag.realtime_lag_ms.map(|spread| (spread.samples, spread.p50)), Some((2, 0.0)));
        assert_eq!(measured(&format!("{text} x:b@1")).realtime_lag_ms.map(|spread| spread.max), Some(0.0));
    }

    #[test]
    fn a_reader_from_the_beginning_counts_once_it_has_caught_up() {
        let text = "
            0 ok send x:a@0
            0 ok send x:b@1
            1 ok assign! x
            1 ok poll x:a@0
            1 ok poll x:b@1
            0 ok send x:c@2
            0 ok send x:d@3
            1 ok poll x:c@2";
        let lag = measured(text);
        assert_eq!(lag.worst_realtime_lag.map(|lag| (lag.at_ms, lag.lag_ms)), Some((7.0, 1.0)));
        assert_eq!(lag.end_to_end_latency_ms.map(|spread| (spread.samples, spread.max)), Some((1, 2.0)));
    }

    #[test]
    fn latency_is_from_the_begin_of_the_send_to_its_first_read() {
        let text = "
            0 invoke send x:a
            0 ok send x:a@0
            2 fail poll x:a@0
            1 ok poll x:a@0
            3 ok poll x:a@0";
        let latency = measured(text).end_to_end_latency_ms.expect("one was read");
        assert_eq!((latency.samples, latency.max), (1, 3.0));
    }

    #[test]
    fn time_without_success_counts_only_while_something_is_tried() {
        let text = "
            0 invoke send x:a
            0 info send x:a
            9 ok crash
            0 invoke send x:b
            0 ok send x:b@0
            9 ok crash
            0 invoke send x:c
            0 ok send x:c@1";
        let spread = measured(text).without_successful_send_ms["x"];
        assert_eq!((spread.samples, spread.p50, spread.max), (2, 1.0, 2.0));
    }

    #[test]
    fn what_a_group_consumes_again_is_counted() {
        let text = "
            0 ok send x:a@0 x:b@1
            1 ok subscribe x
            1 ok poll group=g x:a@0 x:b@1
            2 ok poll group=g x:b@1
            3 ok poll x:a@0 x:b@1
            3 ok poll x:a@0 x:b@1
            4 ok subscribe x
            4 ok poll x:a@0";
        let consumed = measured(text).consumed;
        assert_eq!(consumed.distribution, BTreeMap::from([(1, 2), (2, 1)]));
        let most: Vec<_> = consumed.most.iter().map(|most| (most.consumer.as_str(), most.times)).collect();
        assert_eq!(most, [("group g", 2)]);
    }

    #[test]
    fn with_acks_0_what_was_sent_and_is_missing_is_counted() {
        let text = "
            0 invoke send x:a
            0 info send x:a
            0 info send x:b
            0 fail send x:c
            0 ok send x:d@1
            1 ok poll x:b@0 x:d@1";
        let fates = measured(text).values;
        let expected = Fates { sent: 4, acknowledged: 1, failed: 1, unknown: 2, read: 2, sent_and_missing: 1 };
        assert_eq!(fates, expected);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let spread = Spread::of((1..=200).rev().map(|n| n * 1_000_000).collect()).expect("samples");
        assert_eq!((spread.p50, spread.p90, spread.p99, spread.max), (100.0, 180.0, 198.0, 200.0));
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
