//! Anomalies of positions: records of a key skipped or repeated, within one operation or from one
//! operation of a process to its next.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::Anomalies;
use super::evidence::{Evidence, Jump};
use super::facts::{Facts, KeyId, Op, OpId, Record};
use super::order::VersionOrders;
use crate::history::{EventType, Function};

/// How many skipped values a piece of evidence names.
const SKIPPED_VALUES_MAX: usize = 16;

pub fn detect(facts: &Facts<'_>, orders: &VersionOrders, anomalies: &mut Anomalies) {
    let detector = Detector { facts, orders };
    for op in &facts.ops {
        detector.within_polls(op, anomalies);
        detector.within_sends(op, anomalies);
    }
    detector.across_polls(anomalies);
    detector.across_sends(anomalies);
}

/// Where each process stands: key -> the last record and the operation that it came from.
type Positions = FxHashMap<i64, BTreeMap<KeyId, (Record, OpId)>>;

struct Detector<'f, 'a> {
    facts: &'f Facts<'a>,
    orders: &'f VersionOrders,
}

impl Detector<'_, '_> {
    fn within_polls(&self, op: &Op<'_>, anomalies: &mut Anomalies) {
        for pair in self.facts.polls(op).windows(2).filter(|pair| pair[0].key == pair[1].key) {
            let distance = self.orders.distance(&pair[0], &pair[1]);
            if distance == 1 || is_rebalanced(op, self.facts.key(pair[0].key)) {
                continue;
            }
            let name = if distance > 1 { "int-poll-skip" } else { "int-nonmonotonic-poll" };
            anomalies.add(name, self.evidence(&pair[0], op, &pair[1], op, distance));
        }
    }

    /// What failed has no order: its values may have been sent again, one by one.
    fn within_sends(&self, op: &Op<'_>, anomalies: &mut Anomalies) {
        if op.event.kind == EventType::Fail {
            return;
        }
        for pair in self.facts.sends(op).windows(2).filter(|pair| pair[0].key == pair[1].key) {
            let distance = self.orders.distance(&pair[0], &pair[1]);
            if distance == 1 {
                continue;
            }
            let name = if distance > 1 { "int-send-skip" } else { "int-nonmonotonic-send" };
            anomalies.add(name, self.evidence(&pair[0], op, &pair[1], op, distance));
        }
    }

    /// The last record of the last ok poll against the first of the next poll of any outcome: only ok polls
    /// advance the position, so an aborted transaction must rewind.
    fn across_polls(&self, anomalies: &mut Anomalies) {
        let mut positions = Positions::default();
        for id in self.facts.op_ids() {
            let op = self.facts.op(id);
            self.forget(op, &mut positions);
            let keys = positions.entry(op.event.process).or_default();
            for records in self.facts.polls(op).chunk_by(|a, b| a.key == b.key) {
                let (first, last) = ends(records);
                if let Some((before, before_op)) = keys.get(&first.key) {
                    let distance = self.orders.distance(before, first);
                    if distance != 1 {
                        let name = if distance > 1 { "poll-skip" } else { "nonmonotonic-poll" };
                        anomalies.add(name, self.evidence(before, self.facts.op(*before_op), first, op, distance));
                    }
                }
                if op.event.kind == EventType::Ok {
                    keys.insert(last.key, (*last, id));
                }
            }
        }
    }

    /// The last sent value against the next one's first, across ok and info operations, in the order in
    /// which the process began them: a producer has several in flight.
    fn across_sends(&self, anomalies: &mut Anomalies) {
        let mut in_order: Vec<OpId> = self
            .facts
            .op_ids()
            .filter(|id| matches!(self.facts.op(*id).event.kind, EventType::Ok | EventType::Info))
            .collect();
        in_order.sort_by_key(|id| self.facts.op(*id).began());
        let mut positions = Positions::default();
        for id in in_order {
            let op = self.facts.op(id);
            self.forget(op, &mut positions);
            let keys = positions.entry(op.event.process).or_default();
            for records in self.facts.sends(op).chunk_by(|a, b| a.key == b.key) {
                let (first, last) = ends(records);
                if let Some((before, before_op)) = keys.insert(first.key, (*last, id)) {
                    let distance = self.orders.distance(&before, first);
                    if distance < 1 {
                        let before_op = self.facts.op(before_op);
                        anomalies.add("nonmonotonic-send", self.evidence(&before, before_op, first, op, distance));
                    }
                }
            }
        }
    }

    /// An ok or info assign or subscribe forgets the keys that it does not contain, and all of them if it
    /// seeks to the beginning. A crash ends the process.
    fn forget(&self, op: &Op<'_>, positions: &mut Positions) {
        let event = op.event;
        match event.f {
            Function::Assign | Function::Subscribe if event.kind != EventType::Fail => {
                if event.seek_to_beginning == Some(true) {
                    positions.remove(&event.process);
                } else if let Some(keys) = positions.get_mut(&event.process) {
                    let kept: BTreeSet<KeyId> = event.keys().iter().filter_map(|k| self.facts.key_id(k)).collect();
                    keys.retain(|key, _| kept.contains(key));
                }
            }
            Function::Crash => {
                positions.remove(&event.process);
            }
            Function::Send | Function::Poll | Function::Txn | Function::Assign | Function::Subscribe => {}
        }
    }

    fn evidence(&self, a: &Record, a_op: &Op<'_>, b: &Record, b_op: &Op<'_>, distance: i64) -> Evidence {
        let mut operations = vec![a_op.event.index, b_op.event.index];
        operations.dedup();
        let value = |record: &Record| self.facts.value(record.value).value.clone();
        let skipped = self.orders.skipped(a, b, SKIPPED_VALUES_MAX);
        Evidence::Jump(Jump {
            key: self.facts.key(a.key).to_owned(),
            process: b_op.event.process,
            operations,
            values: [value(a), value(b)],
            offsets: [a.offset, b.offset],
            distance,
            skipped: skipped.into_iter().map(|id| self.facts.value(id).value.clone()).collect(),
        })
    }
}

fn ends(records: &[Record]) -> (&Record, &Record) {
    (&records[0], &records[records.len() - 1])
}

fn is_rebalanced(op: &Op<'_>, key: &str) -> bool {
    op.event.rebalance_log.iter().flatten().any(|rebalance| rebalance.keys.iter().any(|name| name == key))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{found, history};
    use crate::check::analyze;

    const NOTHING: Vec<(&str, u64)> = Vec::new();
    const SIX_SENT: &str =
        "0 ok send x:a@0 x:b@1 x:c@2 x:d@3 x:e@5 x:f@6\n 9 ok poll x:a@0 x:b@1 x:c@2 x:d@3 x:e@5 x:f@6\n";

    fn found_after_six(text: &str) -> Vec<(&'static str, u64)> {
        found(&format!("{SIX_SENT}{text}"))
    }

    #[test]
    fn a_poll_that_jumps_over_a_known_record_skips() {
        let bad = format!("{SIX_SENT} 1 ok poll x:a@0 x:c@2");
        assert_eq!(found(&bad), [("int-poll-skip", 1)]);
        let anomalies = analyze(&history(&bad));
        let evidence = anomalies.evidence("int-poll-skip")[0].to_json();
        assert_eq!((&evidence["skipped"], &evidence["distance"]), (&serde_json::json!(["b"]), &2.into()));
        assert_eq!(evidence["operations"], serde_json::json!([2]));
    }

    #[test]
    fn a_hole_in_the_offsets_is_no_skip() {
        assert_eq!(found_after_six("1 ok poll x:c@2 x:d@3 x:e@5 x:f@6"), NOTHING);
    }

    #[test]
    fn a_poll_that_goes_back_or_repeats_is_nonmonotonic() {
        assert_eq!(found_after_six("1 fail poll x:c@2 x:b@1"), [("int-nonmonotonic-poll", 1)]);
        assert_eq!(found_after_six("1 info poll x:c@2 x:c@2"), [("int-nonmonotonic-poll", 1)]);
    }

    #[test]
    fn a_rebalanced_key_is_exempt_within_one_operation() {
        assert_eq!(found_after_six("1 ok poll x:a@0 x:c@2 x:b@1 rebalanced x"), NOTHING);
        assert_eq!(found_after_six("1 ok poll x:a@0 x:c@2 rebalanced y"), [("int-poll-skip", 1)]);
    }

    #[test]
    fn two_polls_of_one_transaction_are_one_sequence() {
        assert_eq!(found_after_six("1 ok txn poll x:a@0 x:b@1 poll x:c@2"), NOTHING);
        assert_eq!(found_after_six("1 ok txn poll x:a@0 x:b@1 poll x:d@3"), [("int-poll-skip", 1)]);
    }

    #[test]
    fn records_without_offsets_are_placed_by_their_value() {
        assert_eq!(found_after_six("1 ok poll x:a x:c"), [("int-poll-skip", 1)]);
        assert_eq!(found("0 info send x:a\n 0 info send x:b\n 1 ok poll x:b x:a"), NOTHING);
    }

    #[test]
    fn a_process_that_misses_records_between_polls_skips() {
        assert_eq!(found_after_six("1 ok poll x:a@0 x:b@1\n 1 ok poll x:d@3"), [("poll-skip", 1)]);
        assert_eq!(found_after_six("1 ok poll x:a@0 x:b@1\n 2 ok poll x:d@3"), NOTHING);
    }

    #[test]
    fn a_process_that_reads_again_is_nonmonotonic() {
        assert_eq!(found_after_six("1 ok poll x:a@0 x:b@1\n 1 ok poll x:b@1"), [("nonmonotonic-poll", 1)]);
    }

    #[test]
    fn a_poll_that_did_not_succeed_does_not_advance_the_position() {
        let rewinds = "1 ok poll x:a@0\n 1 fail txn poll x:b@1 x:c@2\n 1 info txn poll x:b@1\n 1 ok txn poll x:b@1";
        assert_eq!(found_after_six(rewinds), NOTHING);
        let goes_on = "1 ok poll x:a@0\n 1 fail txn poll x:b@1 x:c@2\n 1 fail txn poll x:d@3\n 1 ok txn poll x:e@5";
        assert_eq!(found_after_six(goes_on), [("poll-skip", 2)]);
    }

    #[test]
    fn an_assignment_forgets_the_keys_it_does_not_contain() {
        for (assign, skips) in [
            ("ok subscribe x y", true),
            ("info assign x", true),
            ("fail assign y", true),
            ("invoke assign y", true),
            ("ok subscribe y", false),
            ("info assign y", false),
            ("ok assign! x", false),
            ("ok crash", false),
        ] {
            let text = format!("1 ok poll x:a@0\n 1 {assign}\n 1 ok poll x:c@2");
            let expected = if skips { vec![("poll-skip", 1)] } else { NOTHING };
            assert_eq!(found_after_six(&text), expected, "{assign}");
        }
    }

    #[test]
    fn sends_of_one_operation_may_be_interleaved_but_not_reversed() {
        let others = "1 ok poll x:a@0 x:b@1 x:c@2";
        assert_eq!(found(&format!("0 ok send x:a@0 x:b@1\n 2 ok send x:c@2\n {others}")), NOTHING);
        assert_eq!(found(&format!("0 ok send x:a@0 x:c@2\n 2 ok send x:b@1\n {others}")), [("int-send-skip", 1)]);
        assert_eq!(
            found(&format!("0 ok send x:b@1 x:a@0 x:c@2\n {others}")),
            [("int-nonmonotonic-send", 1), ("int-send-skip", 1)]
        );
    }

    #[test]
    fn a_failed_operation_whose_values_are_sent_again_reverses_nothing() {
        let text =
            |kind: &str| format!("0 {kind} send x:a x:b\n 0 ok send x:b@0\n 0 ok send x:a@1\n 1 ok poll x:b@0 x:a@1");
        assert_eq!(found(&text("fail")), NOTHING);
        assert!(found(&text("info")).contains(&("int-nonmonotonic-send", 1)));
    }

    #[test]
    fn a_later_send_at_an_earlier_offset_is_nonmonotonic() {
        let read = "1 ok poll x:a@0 x:b@1";
        assert_eq!(found(&format!("0 ok send x:b@1\n 0 ok send x:a@0\n {read}")), [("nonmonotonic-send", 1)]);
        assert_eq!(found(&format!("0 ok send x:b@1\n 0 info send x:a\n {read}")), [("nonmonotonic-send", 1)]);
        assert_eq!(found(&format!("0 ok send x:b@1\n 2 ok send x:a@0\n {read}")), NOTHING);
        assert_eq!(found(&format!("0 ok send x:b@1\n 0 ok assign y\n 0 ok send x:a@0\n {read}")), NOTHING);
    }

    #[test]
    fn sends_in_flight_together_are_ordered_by_when_they_began() {
        let reordered = "
            0 invoke send x:a
            0 invoke send x:b
            0 ok send x:b@0
            0 ok send x:a@1
            1 ok poll x:b@0 x:a@1";
        assert_eq!(found(reordered), [("nonmonotonic-send", 1)]);
        let acknowledged_late = "
            0 invoke send x:a
            0 invoke send x:b
            0 ok send x:b@1
            0 ok send x:a@0
            1 ok poll x:a@0 x:b@1";
        assert_eq!(found(acknowledged_late), NOTHING);
    }
}
