//! Time without a successful send, per key.

use std::collections::BTreeMap;
use std::time::Duration;

use rustc_hash::FxHashSet;

use crate::history::{EventType, HistoryEvent, MicroOp};
use crate::world::Time;

/// One key: what is pending, and since when nothing succeeded.
#[derive(Default)]
struct Partition<'a> {
    pending: FxHashSet<&'a serde_json::Value>,
    pending_since: Time,
    tried: Duration,
    stretches: Vec<Duration>,
}

impl Partition<'_> {
    fn stop_trying(&mut self, at: Time) {
        if !self.pending.is_empty() {
            self.tried += at.since(self.pending_since);
            self.pending_since = at;
        }
    }

    fn succeed(&mut self) {
        let tried = std::mem::take(&mut self.tried);
        if !tried.is_zero() {
            self.stretches.push(tried);
        }
    }
}

/// Key -> the stretches between two successful sends (or the first attempt and the first success, or the last
/// success and the end), each as the time in it during which at least one send was pending. Without
/// invocations nothing is known to be pending.
pub fn without_successful_send(history: &[HistoryEvent]) -> BTreeMap<&str, Vec<Duration>> {
    let mut partitions: BTreeMap<&str, Partition<'_>> = BTreeMap::new();
    for event in history {
        let at = Time::from_nanos(event.time);
        for op in event.ops() {
            let MicroOp::Send { key, value, .. } = op else { continue };
            let partition = partitions.entry(key).or_default();
            partition.stop_trying(at);
            match event.kind {
                EventType::Invoke => {
                    if partition.pending.is_empty() {
                        partition.pending_since = at;
                    }
                    partition.pending.insert(value);
                }
                EventType::Ok => {
                    partition.pending.remove(value);
                    partition.succeed();
                }
                EventType::Fail | EventType::Info => {
                    partition.pending.remove(value);
                }
            }
        }
    }
    let end = Time::from_nanos(history.last().map_or(0, |event| event.time));
    for partition in partitions.values_mut() {
        partition.stop_trying(end);
        partition.succeed();
    }
    partitions.into_iter().map(|(key, partition)| (key, partition.stretches)).collect()
}
