//! `committed-too-far`: a consumer group's committed position passed records that none of its members had
//! been handed. After a crash or a rebalance the group resumes behind them: they are skipped for good.
//!
//! The rule is that of Jepsen's auto-commit workload for Redpanda (and KAFKA-18641): Kafka commits, inside
//! of a poll, the position after what earlier polls returned, or a later one only if the application asks.

use rustc_hash::FxHashMap;

use super::Anomalies;
use super::evidence::{CommittedTooFar, Evidence};
use super::facts::{Facts, KeyId, Record};
use super::order::VersionOrders;
use crate::history::HistoryEvent;

/// How many of the records passed over a piece of evidence names.
const SKIPPED_VALUES_MAX: usize = 16;

/// What happens to a group: members are handed records, and see commits. Handing comes first in a tie: an
/// operation may commit what it polled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Handed(KeyId, i64),
    Committed(KeyId, i64),
}

/// Each commit against the highest offset that the group had been handed by then. Records count as handed
/// from the invocation of their poll on: when during an operation they were, nobody knows.
pub fn detect(facts: &Facts<'_>, orders: &VersionOrders, anomalies: &mut Anomalies) {
    if facts.ops.iter().all(|op| op.event.committed.is_none()) {
        return;
    }
    let groups = groups(facts);
    let group_of = |event: &HistoryEvent| groups.get(&event.process).copied();
    let mut steps: Vec<(usize, Step, usize)> = Vec::new();
    for (at, op) in facts.ops.iter().enumerate() {
        for records in facts.polls(op).chunk_by(|a, b| a.key == b.key) {
            let offset = |record: &Record| record.offset.or_else(|| orders.last_offset(record));
            if let Some(highest) = records.iter().filter_map(offset).max() {
                steps.push((op.began(), Step::Handed(records[0].key, highest), at));
            }
        }
        for (key, offset) in op.event.committed.iter().flatten() {
            if let Some(key) = facts.key_id(key) {
                steps.push((op.position, Step::Committed(key, *offset), at));
            }
        }
    }
    steps.sort_unstable();
    let mut handed: FxHashMap<(Option<&str>, KeyId), i64> = FxHashMap::default();
    for (_, step, at) in steps {
        let event = facts.ops[at].event;
        let group = group_of(event);
        match step {
            Step::Handed(key, offset) => {
                let highest = handed.entry((group, key)).or_insert(offset);
                *highest = offset.max(*highest);
            }
            Step::Committed(key, committed) => {
                let handed = handed.get(&(group, key)).copied();
                let from = handed.map_or(i64::MIN, |offset| offset.saturating_add(1));
                let passed = orders.key(key).between(from, committed);
                if !passed.is_empty() {
                    let first = passed.iter().take(SKIPPED_VALUES_MAX);
                    let evidence = CommittedTooFar {
                        key: facts.key(key).to_owned(),
                        group: group.map(str::to_owned),
                        operation: event.index,
                        committed,
                        handed,
                        passed: passed.len() as u64,
                        skipped: first.map(|(_, value)| facts.value(*value).value.clone()).collect(),
                    };
                    anomalies.add("committed-too-far", Evidence::CommittedTooFar(evidence));
                }
            }
        }
    }
}

/// Process -> the group that any of its operations names.
fn groups<'a>(facts: &Facts<'a>) -> FxHashMap<i64, &'a str> {
    let named = facts.ops.iter().filter_map(|op| Some((op.event.process, op.event.group.as_deref()?)));
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{found, history};
    use crate::check::analyze;

    const NOTHING: Vec<(&str, u64)> = Vec::new();
    const FOUR_SENT: &str = "0 ok send x:a@0 x:b@1 x:c@2 x:d@5\n 9 ok poll group=audit x:a@0 x:b@1 x:c@2 x:d@5\n";

    fn found_after_four(text: &str) -> Vec<(&'static str, u64)> {
        found(&format!("{FOUR_SENT}{text}"))
    }

    #[test]
    fn a_commit_beyond_what_was_handed_is_too_far() {
        let bad = "1 ok poll x:a@0 x:b@1\n 1 ok poll committed=x:3";
        assert_eq!(found_after_four(bad), [("committed-too-far", 1)]);
        let near_miss = "1 ok poll x:a@0 x:b@1\n 1 ok poll committed=x:2";
        assert_eq!(found_after_four(near_miss), NOTHING);
    }

    #[test]
    fn the_evidence_names_what_was_passed_over() {
        let text = format!("{FOUR_SENT}1 ok poll group=g x:a@0\n 2 fail poll group=g committed=x:6");
        let anomalies = analyze(&history(&text));
        let evidence = anomalies.evidence("committed-too-far")[0].to_json();
        assert_eq!((&evidence["handed"], &evidence["committed"]), (&0.into(), &6.into()));
        assert_eq!((&evidence["skipped"], &evidence["group"]), (&serde_json::json!(["b", "c", "d"]), &"g".into()));
    }

    #[test]
    fn offsets_that_nobody_saw_may_be_passed_over() {
        assert_eq!(found_after_four("1 ok poll x:a@0 x:b@1 x:c@2\n 1 ok poll committed=x:5"), NOTHING);
        assert_eq!(
            found_after_four("1 ok poll x:a@0 x:b@1 x:c@2\n 1 ok poll committed=x:6"),
            [("committed-too-far", 1)]
        );
    }

    #[test]
    fn what_another_member_was_handed_counts_what_another_group_was_does_not() {
        assert_eq!(found_after_four("1 ok poll group=g x:a@0 x:b@1\n 2 ok poll group=g committed=x:2"), NOTHING);
        let other = "1 ok poll group=g x:a@0 x:b@1\n 2 ok poll group=h committed=x:2";
        assert_eq!(found_after_four(other), [("committed-too-far", 1)]);
    }

    #[test]
    fn a_poll_under_way_may_have_handed_its_records() {
        let near_miss = "1 invoke poll\n 2 ok poll committed=x:2\n 1 ok poll x:a@0 x:b@1";
        assert_eq!(found_after_four(near_miss), NOTHING);
        let bad = "2 ok poll committed=x:2\n 1 invoke poll\n 1 ok poll x:a@0 x:b@1";
        assert_eq!(found_after_four(bad), [("committed-too-far", 1)]);
    }

    #[test]
    fn committing_what_the_same_poll_returned_is_no_commit_too_far() {
        assert_eq!(found_after_four("1 ok poll x:a@0 x:b@1 committed=x:2"), NOTHING);
    }
}
