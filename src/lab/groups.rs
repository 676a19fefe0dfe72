//! What a consumer group did with its records, kept while it does it: who owned which partition, what was processed, how
//! far the group has committed. An observer beside the history, which cannot tell a record that was handed out from one
//! that was processed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::ghost::Ghost;
use crate::history::{EventType, Function, HistoryEvent, MicroOp};
use crate::protocol::{Offset, TopicPartition};
use crate::world::Time;

/// The figures of one group, or of all groups together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GroupFigures {
    /// Records processed, each counted once.
    pub processed: u64,
    /// Records processed more than once.
    pub reprocessed: u64,
    /// Acknowledged records below what the group has committed that nobody processed.
    pub skipped: u64,
    /// Generations in which somebody was assigned something anew.
    pub rebalances: u64,
    /// Milliseconds without an owner, summed over partitions, from when all had one until the workloads ended.
    pub unowned_ms: u64,
}

impl GroupFigures {
    fn add(&mut self, other: GroupFigures) {
        let GroupFigures { processed, reprocessed, skipped, rebalances, unowned_ms } = other;
        self.processed += processed;
        self.reprocessed += reprocessed;
        self.skipped += skipped;
        self.rebalances += rebalances;
        self.unowned_ms += unowned_ms;
    }
}

#[derive(Default)]
struct Owners {
    members: BTreeMap<String, i32>,
    /// Since when there has been none.
    unowned_since: Option<Time>,
    unowned: Duration,
}

#[derive(Default)]
struct Group {
    owners: BTreeMap<TopicPartition, Owners>,
    /// Every partition has had an owner: the group has begun.
    has_begun: bool,
    generations: BTreeSet<i32>,
    processed: BTreeMap<TopicPartition, BTreeMap<i64, u32>>,
    committed: BTreeMap<TopicPartition, i64>,
}

/// All groups of a run.
#[derive(Default)]
pub struct Groups {
    groups: BTreeMap<String, Group>,
    has_ended: bool,
}

impl Groups {
    /// A member will read these partitions with others.
    pub fn announce(&mut self, group: &str, partitions: &[TopicPartition]) {
        let group = self.groups.entry(group.to_owned()).or_default();
        for partition in partitions {
            group.owners.entry(partition.clone()).or_default();
        }
    }

    /// A member was assigned partitions. Two owners in one generation are a violation of `owned-twice`.
    pub fn owned(
        &mut self,
        at: Time,
        (group_id, member): (&str, &str),
        generation: i32,
        partitions: &[TopicPartition],
        ghost: &mut Ghost,
    ) {
        let has_ended = self.has_ended;
        let Some(group) = self.groups.get_mut(group_id) else { return };
        group.generations.insert(generation);
        for partition in partitions {
            let owners = group.owners.entry(partition.clone()).or_default();
            for (other, of) in owners.members.iter().filter(|(other, of)| *other != member && **of == generation) {
                let detail = format!("{member} was assigned what {other} owns, both in generation {of} of {group_id}");
                ghost.violate("owned-twice", at, partition, detail);
            }
            owners.members.insert(member.to_owned(), generation);
            if let Some(since) = owners.unowned_since.take()
                && !has_ended
            {
                owners.unowned += at.since(since);
            }
        }
        let has_all = group.owners.values().all(|owners| !owners.members.is_empty());
        group.has_begun |= has_all;
    }

    /// A member goes on owning what it owns in a new generation.
    pub fn kept(&mut self, (group, member): (&str, &str), generation: i32) {
        let Some(group) = self.groups.get_mut(group) else { return };
        for owners in group.owners.values_mut() {
            if let Some(of) = owners.members.get_mut(member) {
                *of = generation;
            }
        }
    }

    /// A member gave partitions up, lost them, or is gone.
    pub fn released(&mut self, at: Time, (group, member): (&str, &str), partitions: Option<&[TopicPartition]>) {
        let has_ended = self.has_ended;
        let Some(group) = self.groups.get_mut(group) else { return };
        for (partition, owners) in &mut group.owners {
            let is_meant = partitions.is_none_or(|partitions| partitions.contains(partition));
            let was_owner = is_meant && owners.members.remove(member).is_some();
            if was_owner && owners.members.is_empty() && group.has_begun && !has_ended {
                owners.unowned_since = Some(at);
            }
        }
    }

    pub fn processed(&mut self, group: &str, partition: &TopicPartition, offset: Offset) {
        let Some(group) = self.groups.get_mut(group) else { return };
        *group.processed.entry(partition.clone()).or_default().entry(offset.0).or_default() += 1;
    }

    pub fn committed(&mut self, group: &str, partition: &TopicPartition, offset: Offset) {
        let Some(group) = self.groups.get_mut(group) else { return };
        group.committed.insert(partition.clone(), offset.0);
    }

    /// The workloads are over: what has no owner now is not counted any further.
    pub fn end(&mut self, at: Time) {
        self.has_ended = true;
        for owners in self.groups.values_mut().flat_map(|group| group.owners.values_mut()) {
            if let Some(since) = owners.unowned_since.take() {
                owners.unowned += at.since(since);
            }
        }
    }

    /// The figures of all groups; none without groups.
    pub fn figures(&self, history: &[HistoryEvent]) -> Option<GroupFigures> {
        if self.groups.is_empty() {
            return None;
        }
        let acknowledged = acknowledged(history);
        let mut all = GroupFigures::default();
        for group in self.groups.values() {
            all.add(group.figures(&acknowledged));
        }
        Some(all)
    }
}

impl Group {
    fn figures(&self, acknowledged: &BTreeMap<&str, BTreeSet<i64>>) -> GroupFigures {
        let times = self.processed.values().flat_map(|offsets| offsets.values());
        let mut figures = GroupFigures {
            processed: times.clone().count() as u64,
            reprocessed: times.filter(|times| **times > 1).count() as u64,
            rebalances: self.generations.len() as u64,
            ..GroupFigures::default()
        };
        for (partition, committed) in &self.committed {
            let Some(acknowledged) = acknowledged.get(partition.to_string().as_str()) else { continue };
            let processed = self.processed.get(partition);
            let is_processed = |offset: &i64| processed.is_some_and(|processed| processed.contains_key(offset));
            let passed = acknowledged.range(..committed);
            figures.skipped += passed.filter(|offset| !is_processed(offset)).count() as u64;
        }
        let unowned: Duration = self.owners.values().map(|owners| owners.unowned).sum();
        figures.unowned_ms = u64::try_from(unowned.as_millis()).unwrap_or(u64::MAX);
        figures
    }
}

/// Offsets of acknowledged records, by partition.
fn acknowledged(history: &[HistoryEvent]) -> BTreeMap<&str, BTreeSet<i64>> {
    let mut acknowledged: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    let sends = history.iter().filter(|event| event.kind == EventType::Ok && event.f == Function::Send);
    for op in sends.flat_map(|event| event.ops()) {
        if let MicroOp::Send { key, offset: Some(offset), .. } = op {
            acknowledged.entry(key).or_default().insert(*offset);
        }
    }
    acknowledged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(index: i32) -> TopicPartition {
        TopicPartition::new("orders", index)
    }

    fn announced() -> (Groups, Ghost) {
        let mut groups = Groups::default();
        groups.announce("g", &[partition(0), partition(1)]);
        (groups, Ghost::default())
    }

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn time_without_an_owner_counts_from_the_first_full_assignment_to_the_end() {
        let (mut groups, mut ghost) = announced();
        groups.owned(at(0), ("g", "a"), 1, &[partition(0)], &mut ghost);
        groups.released(at(10), ("g", "a"), None);
        groups.owned(at(100), ("g", "a"), 2, &[partition(0), partition(1)], &mut ghost);
        groups.released(at(200), ("g", "a"), Some(&[partition(1)]));
        groups.owned(at(250), ("g", "b"), 3, &[partition(1)], &mut ghost);
        groups.released(at(300), ("g", "a"), None);
        groups.end(at(307));
        groups.released(at(400), ("g", "b"), None);
        let figures = groups.figures(&[]).expect("there is a group");
        assert_eq!((figures.unowned_ms, figures.rebalances), (57, 3));
        assert!(ghost.violations.is_empty());
    }

    #[test]
    fn two_owners_in_one_generation_are_a_violation_and_in_two_are_none() {
        let (mut groups, mut ghost) = announced();
        groups.owned(at(0), ("g", "a"), 1, &[partition(0)], &mut ghost);
        groups.owned(at(1), ("g", "b"), 2, &[partition(0)], &mut ghost);
        assert!(ghost.violations.is_empty());
        groups.kept(("g", "a"), 2);
        groups.owned(at(2), ("g", "b"), 2, &[partition(0)], &mut ghost);
        assert_eq!(ghost.violations.iter().map(|v| v.name).collect::<Vec<_>>(), ["owned-twice"]);
    }

    #[test]
    fn what_was_committed_and_never_processed_is_skipped() {
        let (mut groups, _) = announced();
        let sent = |offset: i64| -> HistoryEvent {
            serde_json::from_str(&format!(
                r#"{{"process":1,"type":"ok","f":"send","value":[{{"op":"send","key":"orders-0","value":{offset},"offset":{offset}}}]}}"#
            ))
            .expect("an event")
        };
        let history: Vec<HistoryEvent> = (0..5).map(sent).collect();
        for offset in [0, 1, 1, 3] {
            groups.processed("g", &partition(0), Offset(offset));
        }
        groups.committed("g", &partition(0), Offset(4));
        let figures = groups.figures(&history).expect("there is a group");
        assert_eq!((figures.processed, figures.reprocessed, figures.skipped), (3, 1, 1));
    }
}
