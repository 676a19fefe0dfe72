//! Anomalies of single values: lost, unseen, duplicated, at a contested offset, read though aborted, read
//! before the commit, read though never sent.

use super::Anomalies;
use super::evidence::{
    AbortedRead, Duplicate, Evidence, InconsistentOffsets, LostWrite, Phantom, PrecommittedRead, Unseen,
};
use super::facts::{Facts, KeyId, OpId, ValueId};
use super::order::{VersionOrders, read_bounds};
use crate::history::EventType;

pub fn detect(facts: &Facts<'_>, orders: &VersionOrders, anomalies: &mut Anomalies) {
    lost_writes(facts, orders, anomalies);
    unseen(facts, anomalies);
    duplicates_and_inconsistent_offsets(facts, orders, anomalies);
    aborted_reads(facts, anomalies);
    precommitted_reads(facts, anomalies);
    phantoms(facts, anomalies);
}

/// A value whose last index is at or below the highest index that an ok operation read of its key, that no
/// ok operation read and whose writer must have committed.
fn lost_writes(facts: &Facts<'_>, orders: &VersionOrders, anomalies: &mut Anomalies) {
    let bounds = read_bounds(facts, orders);
    let mut lost: Vec<(KeyId, usize, ValueId, OpId)> = Vec::new();
    for (position, value) in facts.values.iter().enumerate() {
        let id = ValueId(position as u32);
        let (Some((bound, _)), Some(span)) = (bounds[value.key.0 as usize], orders.span(id)) else { continue };
        let Some(writer) = value.writer.filter(|writer| facts.is_committed(*writer)) else { continue };
        if span.last <= bound && value.reader.is_none() {
            lost.push((value.key, span.last, id, writer));
        }
    }
    lost.sort_unstable();
    for (key, index, id, writer) in lost {
        let (bound, highest) = bounds[key.0 as usize].expect("a lost value lies below the bound of its key");
        let evidence = LostWrite {
            key: facts.key(key).to_owned(),
            value: facts.value(id).value.clone(),
            offset: orders.offset_at(key, index),
            writer: facts.index(writer),
            highest_read_offset: orders.offset_at(key, bound),
            reader: facts.value(highest).reader.map(|op| facts.index(op)),
        };
        anomalies.add("lost-write", Evidence::LostWrite(evidence));
    }
}

/// Values of ok sends that no ok poll ever returned.
fn unseen(facts: &Facts<'_>, anomalies: &mut Anomalies) {
    for (position, value) in facts.values.iter().enumerate().filter(|(_, value)| value.reader.is_none()) {
        let Some(writer) = value.writer.map(|writer| facts.op(writer)) else { continue };
        if writer.event.kind == EventType::Ok {
            let sent = facts.sends(writer).iter().find(|record| record.value.0 as usize == position);
            let evidence = Unseen {
                key: facts.key(value.key).to_owned(),
                value: value.value.clone(),
                offset: sent.and_then(|record| record.offset),
                writer: writer.event.index,
            };
            anomalies.add("unseen", Evidence::Unseen(evidence));
        }
    }
}

fn duplicates_and_inconsistent_offsets(facts: &Facts<'_>, orders: &VersionOrders, anomalies: &mut Anomalies) {
    for key in (0..facts.keys.len() as u32).map(KeyId) {
        let entries = &orders.key(key).entries;
        for group in entries.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            let values = || group.iter().map(|entry| facts.value(entry.1));
            let evidence = InconsistentOffsets {
                key: facts.key(key).to_owned(),
                offset: group[0].0,
                values: values().map(|value| value.value.clone()).collect(),
                writers: values().map(|value| value.writer.map(|op| facts.index(op))).collect(),
                readers: values().map(|value| value.any_reader.map(|op| facts.index(op))).collect(),
            };
            anomalies.add("inconsistent-offsets", Evidence::InconsistentOffsets(evidence));
        }
        let mut by_value: Vec<(ValueId, i64)> = entries
            .iter()
            .filter(|(_, value)| orders.span(*value).is_some_and(|span| span.first != span.last))
            .map(|(offset, value)| (*value, *offset))
            .collect();
        by_value.sort_unstable();
        for group in by_value.chunk_by(|a, b| a.0 == b.0) {
            let value = facts.value(group[0].0);
            let evidence = Duplicate {
                key: facts.key(key).to_owned(),
                value: value.value.clone(),
                offsets: group.iter().map(|entry| entry.1).collect(),
                writer: value.writer.map(|op| facts.index(op)),
            };
            anomalies.add("duplicate", Evidence::Duplicate(evidence));
        }
    }
}

/// An ok read of a value whose every writer failed (G1a).
fn aborted_reads(facts: &Facts<'_>, anomalies: &mut Anomalies) {
    for op in facts.ops.iter().filter(|op| op.event.kind == EventType::Ok) {
        for record in facts.polls(op) {
            let value = facts.value(record.value);
            let Some(writer) = value.writer.map(|writer| facts.op(writer)) else { continue };
            if writer.event.kind == EventType::Fail && !value.has_open_send {
                let evidence = AbortedRead {
                    key: facts.key(record.key).to_owned(),
                    value: value.value.clone(),
                    offset: record.offset,
                    writer: writer.event.index,
                    reader: op.event.index,
                };
                anomalies.add("aborted-read", Evidence::AbortedRead(evidence));
            }
        }
    }
}

/// One operation read a value that it sent itself: sent values are invisible until their transaction
/// commits.
fn precommitted_reads(facts: &Facts<'_>, anomalies: &mut Anomalies) {
    for op in facts.ops.iter().filter(|op| !facts.sends(op).is_empty() && !facts.polls(op).is_empty()) {
        let mut sent: Vec<ValueId> = facts.sends(op).iter().map(|record| record.value).collect();
        sent.sort_unstable();
        for record in facts.polls(op).iter().filter(|record| sent.binary_search(&record.value).is_ok()) {
            let evidence = PrecommittedRead {
                key: facts.key(record.key).to_owned(),
                value: facts.value(record.value).value.clone(),
                offset: record.offset,
                operation: op.event.index,
            };
            anomalies.add("precommitted-read", Evidence::PrecommittedRead(evidence));
        }
    }
}

/// A value read that nobody sent.
fn phantoms(facts: &Facts<'_>, anomalies: &mut Anomalies) {
    for (position, value) in facts.values.iter().enumerate().filter(|(_, value)| value.sent_at.is_none()) {
        let Some(reader) = value.any_reader.map(|op| facts.op(op)) else { continue };
        let read = facts.polls(reader).iter().find(|record| record.value.0 as usize == position);
        let evidence = Phantom {
            key: facts.key(value.key).to_owned(),
            value: value.value.clone(),
            offset: read.and_then(|record| record.offset),
            reader: reader.event.index,
        };
        anomalies.add("phantom", Evidence::Phantom(evidence));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{found, history};
    use crate::check::analyze;

    const NOTHING: Vec<(&str, u64)> = Vec::new();

    #[test]
    fn a_healthy_history_has_no_anomaly() {
        let healthy = "
            0 invoke send x:a
            1 invoke poll
            0 ok send x:a@0
            0 invoke send x:b x:c
            0 ok send x:b@1 x:c@3
            0 fail send x:d
            0 info send x:e
            1 ok poll x:a@0 x:b@1
            1 ok poll x:c@3 x:e@4";
        assert_eq!(found(healthy), NOTHING);
    }

    #[test]
    fn an_acknowledged_value_below_a_read_one_is_lost() {
        let bad = "
            0 ok send x:a@0
            0 ok send x:b@1
            0 ok send x:c@2
            1 ok poll x:a@0
            1 ok poll x:c@2";
        let anomalies = analyze(&history(bad));
        assert_eq!(anomalies.count("lost-write"), 1);
        let evidence = anomalies.evidence("lost-write")[0].to_json();
        assert_eq!((&evidence["value"], &evidence["offset"]), (&"b".into(), &1.into()));
        assert_eq!((&evidence["writer"], &evidence["reader"]), (&1.into(), &4.into()));
    }

    #[test]
    fn a_tail_that_nobody_read_is_unseen_but_not_lost() {
        let near_miss = "
            0 ok send x:a@0
            0 ok send x:b@1
            1 ok poll x:a@0";
        assert_eq!(found(near_miss), [("unseen", 1)]);
        let read_after_all = format!("{near_miss}\n 2 ok poll x:a@0 x:b@1");
        assert_eq!(found(&read_after_all), NOTHING);
    }

    #[test]
    fn an_unknown_send_is_lost_only_if_another_value_of_it_was_read() {
        let unproven = "
            0 info send x:a y:b@0
            1 info send y:c
            3 ok poll y:c@1";
        assert_eq!(found(unproven), NOTHING);
        let proven = format!("{unproven}\n 2 ok poll x:a@0");
        assert_eq!(found(&proven), [("lost-write", 1)]);
    }

    #[test]
    fn a_failed_send_is_never_lost() {
        assert_eq!(found("0 fail send x:a@0\n 0 ok send x:b@1\n 1 ok poll x:b@1"), NOTHING);
    }

    #[test]
    fn a_read_by_an_unknown_operation_saves_nothing() {
        let bad = "
            0 ok send x:a@0
            0 ok send x:b@1
            2 info poll x:a@0
            1 ok poll x:b@1";
        assert_eq!(found(bad), [("lost-write", 1), ("unseen", 1)]);
    }

    #[test]
    fn a_value_overwritten_at_its_offset_is_lost_and_the_offset_inconsistent() {
        let bad = "
            0 ok send x:a@0
            2 ok send x:b@0 x:c@2
            1 ok poll x:b@0 x:c@2";
        assert_eq!(found(bad), [("inconsistent-offsets", 1), ("lost-write", 1), ("unseen", 1)]);
    }

    #[test]
    fn a_late_copy_beyond_the_bound_keeps_a_value_from_being_lost() {
        let near_miss = "
            0 ok send x:a@0
            0 ok send x:b@1
            2 fail poll x:a@2
            1 ok poll x:b@1";
        assert_eq!(found(near_miss), [("duplicate", 1), ("unseen", 1)]);
    }

    #[test]
    fn one_value_at_two_offsets_is_a_duplicate() {
        let bad = "0 ok send x:a@1\n 1 ok poll x:a@0 x:a@1";
        assert_eq!(found(bad), [("duplicate", 1)]);
        assert_eq!(analyze(&history(bad)).evidence("duplicate")[0].to_json()["offsets"], serde_json::json!([0, 1]));
    }

    #[test]
    fn one_value_under_two_keys_is_no_duplicate() {
        assert_eq!(found("0 ok send x:a@0 y:a@5\n 1 ok poll x:a@0 y:a@5"), NOTHING);
    }

    #[test]
    fn a_record_delivered_twice_at_one_offset_is_no_duplicate() {
        assert_eq!(found("0 ok send x:a@0\n 1 ok poll x:a@0\n 2 ok poll x:a@0"), NOTHING);
    }

    #[test]
    fn readers_that_disagree_make_an_offset_inconsistent() {
        let bad = "
            0 info send x:a
            3 info send x:b
            1 ok poll x:a@0
            2 fail poll x:b@0";
        assert_eq!(found(bad), [("inconsistent-offsets", 1)]);
    }

    #[test]
    fn an_unknown_send_nobody_read_cannot_contest_an_offset() {
        assert_eq!(found("0 info send x:a@0\n 0 ok send x:b@0\n 1 ok poll x:b@0"), NOTHING);
    }

    #[test]
    fn reading_what_a_failed_send_wrote_is_an_aborted_read() {
        assert_eq!(found("0 fail send x:a\n 1 ok poll x:a@0"), [("aborted-read", 1)]);
        assert_eq!(found("0 info send x:a\n 1 ok poll x:a@0"), NOTHING);
        assert_eq!(found("0 fail send x:a\n 1 fail poll x:a@0"), NOTHING);
    }

    #[test]
    fn a_failed_send_repeated_with_success_may_be_read() {
        assert_eq!(found("0 fail send x:a\n 0 ok send x:a@0\n 1 ok poll x:a@0"), NOTHING);
    }

    #[test]
    fn a_failed_send_repeated_without_a_known_end_may_be_read() {
        let repeated = "0 fail send x:a\n 0 invoke send x:a\n 1 ok poll x:a@0";
        assert_eq!(found(repeated), NOTHING);
        assert_eq!(found(&format!("{repeated}\n 0 fail send x:a")), [("aborted-read", 1)]);
    }

    #[test]
    fn a_transaction_must_not_read_its_own_writes() {
        assert_eq!(found("0 ok txn send x:a@0 poll x:a@0"), [("precommitted-read", 1)]);
        let near_miss = "0 ok txn send x:a@0 poll y:a@0\n 1 ok send y:a@0\n 1 ok poll x:a@0";
        assert_eq!(found(near_miss), NOTHING);
    }

    #[test]
    fn a_value_that_nobody_sent_is_a_phantom() {
        assert_eq!(found("1 fail poll x:a@0"), [("phantom", 1)]);
        assert_eq!(found("0 invoke send x:a\n 1 ok poll x:a@0"), NOTHING);
    }
}
