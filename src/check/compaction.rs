//! What compaction must not do: lose the latest value of a record key, or hide a delete from somebody who reads on.
//!
//! Compaction may remove a value once a later one has the same record key, so that `unseen` and `poll-skip` say nothing
//! on a compacted topic. These say what is left to say, for histories whose sends name their record keys.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::Anomalies;
use super::evidence::{Evidence, LostLatest, TombstoneMissed};
use super::facts::{Facts, KeyId, ValueId};
use super::order::VersionOrders;
use crate::history::EventType;

/// The latest of what was sent with one record key: its offset, or that nobody can tell which it is.
#[derive(Clone, Copy)]
enum Latest {
    Known {
        offset: i64,
        value: ValueId,
    },
    /// A tombstone whose send has no certain outcome, and which nobody read, may have been the latest and be gone.
    Uncertain,
}

/// By partition and record key, in order.
type Latests<'a> = BTreeMap<(KeyId, &'a str), Latest>;

pub fn detect(facts: &Facts<'_>, orders: &VersionOrders, anomalies: &mut Anomalies) {
    let latests = latests(facts, orders);
    if latests.is_empty() {
        return;
    }
    lost_latest(facts, &latests, anomalies);
    tombstones_missed(facts, &latests, anomalies);
}

fn latests<'a>(facts: &Facts<'a>, orders: &VersionOrders) -> Latests<'a> {
    let mut latests = Latests::new();
    for (position, value) in facts.values.iter().enumerate() {
        let Some(record_key) = value.record_key else { continue };
        let id = ValueId(position as u32);
        let offset = orders.span(id).and_then(|span| orders.offset_at(value.key, span.last));
        let place = (value.key, record_key);
        match (offset, latests.get(&place)) {
            (_, Some(Latest::Uncertain)) => {}
            (Some(offset), Some(Latest::Known { offset: other, .. })) if *other >= offset => {}
            (Some(offset), _) => drop(latests.insert(place, Latest::Known { offset, value: id })),
            (None, _) if value.is_tombstone && !is_failed(facts, id) => drop(latests.insert(place, Latest::Uncertain)),
            (None, _) => {}
        }
    }
    latests
}

fn is_failed(facts: &Facts<'_>, value: ValueId) -> bool {
    facts.value(value).writer.is_some_and(|writer| facts.op(writer).event.kind == EventType::Fail)
}

/// `lost-latest`: the latest value of a record key was acknowledged, and no ok poll returned it. A tombstone may go.
fn lost_latest(facts: &Facts<'_>, latests: &Latests<'_>, anomalies: &mut Anomalies) {
    for ((key, record_key), latest) in latests {
        let Latest::Known { offset, value } = *latest else { continue };
        let of_value = facts.value(value);
        let Some(writer) = of_value.writer.map(|writer| facts.op(writer).event) else { continue };
        if of_value.reader.is_none() && !of_value.is_tombstone && writer.kind == EventType::Ok {
            let evidence = LostLatest {
                key: facts.key(*key).to_owned(),
                record_key: (*record_key).to_owned(),
                value: of_value.value.clone(),
                offset,
                writer: writer.index,
            };
            anomalies.add("lost-latest", Evidence::LostLatest(evidence));
        }
    }
}

/// `tombstone-missed`: a process read a value, read on beyond the tombstone that is the latest of its record key, and
/// never read that: it takes the deleted key for alive.
fn tombstones_missed(facts: &Facts<'_>, latests: &Latests<'_>, anomalies: &mut Anomalies) {
    /// What a process read last of a record key.
    struct Seen {
        offset: i64,
        value: ValueId,
        operation: u64,
    }
    let mut seen: BTreeMap<(i64, KeyId, &str), Seen> = BTreeMap::new();
    let mut highest: FxHashMap<(i64, KeyId), i64> = FxHashMap::default();
    for op in facts.ops.iter().filter(|op| op.event.kind == EventType::Ok) {
        for record in facts.polls(op) {
            let Some(offset) = record.offset else { continue };
            let process = op.event.process;
            let most = highest.entry((process, record.key)).or_insert(offset);
            *most = offset.max(*most);
            let Some(record_key) = facts.value(record.value).record_key else { continue };
            let read = Seen { offset, value: record.value, operation: op.event.index };
            let last = seen.entry((process, record.key, record_key)).or_insert(Seen { offset: i64::MIN, ..read });
            if offset > last.offset {
                *last = read;
            }
        }
    }
    for ((process, key, record_key), last) in seen {
        let Some(Latest::Known { offset, value }) = latests.get(&(key, record_key)) else { continue };
        if facts.value(*value).is_tombstone && last.offset < *offset && highest[&(process, key)] > *offset {
            let evidence = TombstoneMissed {
                key: facts.key(key).to_owned(),
                record_key: record_key.to_owned(),
                process,
                value: facts.value(last.value).value.clone(),
                offset: last.offset,
                operation: last.operation,
                tombstone: facts.value(*value).value.clone(),
                tombstone_offset: *offset,
            };
            anomalies.add("tombstone-missed", Evidence::TombstoneMissed(evidence));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::found;

    /// Only what this module finds.
    fn compaction(text: &str) -> Vec<(&'static str, u64)> {
        found(text).into_iter().filter(|(name, _)| ["lost-latest", "tombstone-missed"].contains(name)).collect()
    }

    const SENT: &str = "0 ok send x:a@0#k\n0 ok send x:b@1#l\n0 ok send x:c@2#k";

    #[test]
    fn only_the_latest_value_of_each_record_key_must_be_there() {
        assert_eq!(compaction(&format!("{SENT}\n1 ok poll x:b@1 x:c@2")), []);
        assert_eq!(compaction(&format!("{SENT}\n1 ok poll x:a@0 x:b@1")), [("lost-latest", 1)]);
        assert_eq!(compaction(&format!("{SENT}\n1 ok poll x:c@2")), [("lost-latest", 1)]);
    }

    #[test]
    fn a_later_value_counts_even_if_only_a_reader_knows_of_it() {
        assert_eq!(compaction("0 ok send x:a@0#k\n0 info send x:b#k\n1 ok poll x:b@1"), []);
        assert_eq!(compaction("0 ok send x:a@0#k\n0 info send x:b#k\n1 ok poll"), [("lost-latest", 1)]);
    }

    #[test]
    fn a_tombstone_that_may_have_been_and_gone_excuses_its_key() {
        assert_eq!(compaction("0 ok send x:a@0#k\n0 ok send x:b@1#k!\n1 ok poll x:c@9"), []);
        assert_eq!(compaction("0 ok send x:a@0#k\n0 info send x:b#k!\n1 ok poll x:c@9"), []);
        assert_eq!(compaction("0 ok send x:a@0#k\n0 fail send x:b#k!\n1 ok poll x:c@9"), [("lost-latest", 1)]);
    }

    #[test]
    fn who_read_a_value_must_read_its_delete_before_anything_later() {
        let sent = "0 ok send x:a@0#k\n0 ok send x:b@1#k!\n0 ok send x:c@2#l";
        let missed = [("tombstone-missed", 1)];
        assert_eq!(compaction(&format!("{sent}\n1 ok poll x:a@0\n1 ok poll x:c@2")), missed);
        assert_eq!(compaction(&format!("{sent}\n1 ok poll x:a@0\n1 ok poll x:b@1 x:c@2")), []);
        assert_eq!(compaction(&format!("{sent}\n1 ok poll x:a@0\n2 ok poll x:c@2")), [], "it may still come to it");
        assert_eq!(compaction(&format!("{sent}\n1 ok poll x:c@2")), [], "it never knew of the key");
        let again = format!("{sent}\n0 ok send x:d@3#k\n1 ok poll x:a@0\n1 ok poll x:c@2 x:d@3");
        assert_eq!(compaction(&again), [], "the key is alive again");
    }
}
