//! What a consumer group did with its records, kept while it does it: who owned which partition, what was processed, how
//! far the group has committed. An observer beside the history, which cannot tell a record that was handed out from one
//! that was processed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::TopicName;
use serde::Serialize;

use super::ghost::{Ghost, Reign};
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
    /// Averages and maxima that members printed, and those that are not of consecutive records of one partition.
    pub windows: u64,
    pub broken_windows: u64,
    /// Milliseconds without an owner, summed over partitions, from when all had one until the workloads ended.
    pub unowned_ms: u64,
}

impl GroupFigures {
    fn add(&mut self, other: GroupFigures) {
        let GroupFigures { processed, reprocessed, skipped, rebalances, windows, broken_windows, unowned_ms } = other;
        self.windows += windows;
        self.broken_windows += broken_windows;
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
    /// Who was the last, if it keeps its place while it is away.
    last: Option<String>,
    /// Since when there has been none.
    unowned_since: Option<Time>,
    unowned: Duration,
}

/// The generation of whoever was in a group that was deleted.
const EARLIER: i32 = -1;

/// Two members that own a partition in a generation of one number.
struct Suspicion {
    members: [String; 2],
    generation: i32,
    partition: TopicPartition,
}

impl Owners {
    /// A member owns it in that generation. Whoever else does is suspicious.
    fn own(&mut self, partition: &TopicPartition, member: &str, generation: i32, suspicions: &mut Vec<Suspicion>) {
        self.members.insert(member.to_owned(), generation);
        let is_same = |of: i32| of == generation && of != EARLIER;
        let others = self.members.iter().filter(|(other, of)| *other != member && is_same(**of));
        suspicions.extend(others.map(|(other, _)| Suspicion {
            members: [member.to_owned(), other.to_owned()],
            generation,
            partition: partition.clone(),
        }));
    }
}

/// What a member has joined.
struct Joined {
    /// Of its membership.
    id: String,
    generation: i32,
    /// Who coordinated then.
    reign: Option<Reign>,
}

/// What the applications of a group can be held to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// A poll's records are processed before `max.poll.interval.ms` is over: the group comes to rest.
    pub keeps_up: bool,
    /// Everything from the beginning on is read, and nothing committed before it was processed.
    pub is_at_least_once: bool,
}

/// How far a partition's commits have come, and how far back its next owner may have to begin.
///
/// The last acknowledged commit counts, unless an earlier one of the same generation was tried more than once, or ended
/// without an answer: a copy of it may still arrive. Once another generation has begun, the coordinator refuses it.
#[derive(Default)]
struct Progress {
    generation: i32,
    /// Nobody begins below it.
    floor: i64,
    acknowledged: Option<i64>,
    /// The lowest offset of those that may arrive late.
    late: Option<i64>,
    /// Who was in the group, and subscribed to the topic, at the last acknowledged commit; and when that was.
    witnesses: MemberIds,
    committed_at: Time,
}

/// Memberships have names that are never given twice: whoever has the one that it had was in the group all the time.
type MemberIds = Arc<BTreeSet<String>>;

impl Progress {
    fn bound(&self) -> i64 {
        let Some(acknowledged) = self.acknowledged else { return self.floor };
        self.floor.max(self.late.map_or(acknowledged, |late| late.min(acknowledged)))
    }

    /// The bound before it, if this owner begins below it.
    fn begin(&mut self, generation: i32, offset: i64) -> Option<i64> {
        // It has not heard yet that others own the partition, and what it commits is refused.
        if generation < self.generation {
            return None;
        }
        let bound = self.bound();
        if generation > self.generation || offset < bound {
            let Progress { witnesses, committed_at, .. } = std::mem::take(self);
            *self = Progress { generation, floor: bound.min(offset), witnesses, committed_at, ..Progress::default() };
        }
        (offset < bound).then_some(bound)
    }
}

#[derive(Default)]
struct Group {
    /// The members that run, with what they subscribe to.
    present: BTreeMap<String, Vec<TopicPartition>>,
    /// What they have joined, and their member ids by topic.
    joined: BTreeMap<String, Joined>,
    ids_by_topic: BTreeMap<TopicName, MemberIds>,
    /// What all of its members promise.
    promise: Option<Promise>,
    /// Static members that rebalance cooperatively; and into which generation those came back that were away.
    keep_places: BTreeSet<String>,
    came_back: BTreeMap<String, i32>,
    progress: BTreeMap<TopicPartition, Progress>,
    /// The highest commit that a coordinator removed as expired.
    expired: BTreeMap<TopicPartition, i64>,
    /// The next offset that nobody was handed.
    handed: BTreeMap<TopicPartition, i64>,
    owners: BTreeMap<TopicPartition, Owners>,
    suspicions: Vec<Suspicion>,
    /// By member, the generation whose assignment it has.
    stored: BTreeMap<String, i32>,
    /// Every partition has had an owner: the group has begun.
    has_begun: bool,
    /// How often the group was deleted, and the generations in which somebody was assigned something.
    deletions: u32,
    deleted_at: Option<Time>,
    generations: BTreeSet<(u32, i32)>,
    processed: BTreeMap<TopicPartition, BTreeMap<i64, u32>>,
    committed: BTreeMap<TopicPartition, i64>,
    windows: u64,
    broken_windows: u64,
}

/// All groups of a run.
#[derive(Default)]
pub struct Groups {
    groups: BTreeMap<String, Group>,
    has_ended: bool,
    /// `offsets.retention.minutes`: a group without members keeps its offsets so long, unless wall clocks go wrong.
    pub offsets_retention: Duration,
}

impl Groups {
    /// A member will read these partitions with others. `keeps_place`: it is static, and rebalances cooperatively.
    pub fn announce(
        &mut self,
        (group, member): (&str, &str),
        partitions: &[TopicPartition],
        promise: Promise,
        keeps_place: bool,
    ) {
        let group = self.groups.entry(group.to_owned()).or_default();
        if keeps_place {
            group.keep_places.insert(member.to_owned());
        }
        for partition in partitions {
            group.owners.entry(partition.clone()).or_default();
        }
        group.present.insert(member.to_owned(), partitions.to_vec());
        let others = group.promise.unwrap_or(promise);
        group.promise = Some(Promise {
            keeps_up: others.keeps_up && promise.keeps_up,
            is_at_least_once: others.is_at_least_once && promise.is_at_least_once,
        });
    }

    /// A topic got another partition: whoever reads the topic is to read it too.
    pub fn created(&mut self, at: Time, partition: &TopicPartition) {
        for group in self.groups.values_mut() {
            let of_topic = |known: &TopicPartition| known.topic == partition.topic;
            for reads in group.present.values_mut().filter(|reads| reads.iter().any(of_topic)) {
                reads.push(partition.clone());
            }
            if group.owners.keys().any(of_topic) && !group.owners.contains_key(partition) {
                let unowned_since = (group.has_begun && !self.has_ended).then_some(at);
                group.owners.insert(partition.clone(), Owners { unowned_since, ..Owners::default() });
            }
        }
    }

    /// A member does not run any more.
    pub fn gone(&mut self, at: Time, (group, member): (&str, &str)) {
        self.released(at, (group, member), None);
        if let Some(group) = self.groups.get_mut(group) {
            group.present.remove(member);
            group.stored.remove(member);
            group.forget_suspicions(member);
            if group.joined.remove(member).is_some() {
                group.came_back.insert(member.to_owned(), EARLIER);
            }
            group.list_ids();
        }
    }

    /// A member was handed its first record of a partition since it was assigned it. To begin below what the group has
    /// committed is a violation of `offset-rewind`.
    pub fn began(
        &mut self,
        at: Time,
        (group_id, member): (&str, &str),
        generation: i32,
        partition: &TopicPartition,
        offset: Offset,
        ghost: &mut Ghost,
    ) {
        let may_expire = |committed_at| ghost.moves_clocks || at.since(committed_at) >= self.offsets_retention;
        let Some(group) = self.groups.get_mut(group_id) else { return };
        if group.is_of_earlier_group(member) {
            return;
        }
        let progress = group.progress.entry(partition.clone()).or_default();
        let Some(committed) = progress.begin(generation, offset.0) else { return };
        // A group without members may lose its offsets after a while (KIP-211), and its coordinator says so.
        let witnesses = std::mem::take(&mut progress.witnesses);
        let was_never_empty = group.has_member_of(&witnesses, generation, partition);
        let has_expired = group.expired.get(partition).is_some_and(|expired| *expired >= committed);
        let progress = group.progress.entry(partition.clone()).or_default();
        if was_never_empty || !has_expired || !may_expire(progress.committed_at) {
            let detail = format!("{member} begins at {offset} where group {group_id} had committed {committed}");
            ghost.violate("offset-rewind", at, partition, detail);
        }
    }

    /// A coordinator removed a commit that it takes to have expired.
    pub fn expired(&mut self, group: &str, partition: &TopicPartition, offset: Offset) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let expired = group.expired.entry(partition.clone()).or_insert(offset.0);
        *expired = offset.0.max(*expired);
    }

    /// Its coordinator deleted a group that nobody was in: generations begin anew. Who still thinks that it is in it shares
    /// no generation with whoever comes.
    pub fn deleted(&mut self, at: Time, group: &str) {
        let Some(group) = self.groups.get_mut(group) else { return };
        group.deletions += 1;
        group.deleted_at = Some(at);
        group.suspicions.clear();
        group.stored.clear();
        let owned = group.owners.values_mut().flat_map(|owners| owners.members.values_mut());
        let joined = group.joined.values_mut().map(|joined| &mut joined.generation);
        let begun = group.progress.values_mut().map(|progress| &mut progress.generation);
        for generation in owned.chain(joined).chain(begun) {
            *generation = EARLIER;
        }
    }

    /// A member has joined a generation; `id` names its membership, as long as it is in the group without a break. What it
    /// owns already it owns in that generation too. It asked for that at `asked_at`: if the group was deleted
    /// since, it may be the group before that it has joined.
    pub fn joined(
        &mut self,
        (group_id, member): (&str, &str),
        (generation, id): (i32, &str),
        reign: Option<Reign>,
        asked_at: Time,
    ) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        let may_be_gone = group.deleted_at.is_some_and(|deleted_at| asked_at <= deleted_at);
        let generation = if may_be_gone { EARLIER } else { generation };
        if let Some(came_back) = group.came_back.get_mut(member).filter(|came_back| **came_back == EARLIER) {
            *came_back = generation;
        }
        let known = group.joined.insert(member.to_owned(), Joined { id: id.to_owned(), generation, reign });
        if known.is_none_or(|known| known.id != id) {
            group.list_ids();
        }
        let Group { owners, suspicions, .. } = group;
        for (partition, owners) in owners.iter_mut().filter(|(_, owners)| owners.members.contains_key(member)) {
            owners.own(partition, member, generation, suspicions);
        }
    }

    /// The coordinator has stored the assignment of a member's generation (-1: it is in none). Before that another
    /// coordinator may form a generation of the same number, with others in it. So two owners in one generation are a
    /// violation of `owned-twice` if both joined it under one coordinator, or once both have been assigned something.
    pub fn stored(&mut self, at: Time, (group_id, member): (&str, &str), generation: i32, ghost: &mut Ghost) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        let before = group.stored.insert(member.to_owned(), generation);
        // It has left the generation that it was in.
        if generation < 0 && before.is_some_and(|before| before >= 0) {
            group.forget_suspicions(member);
        }
        group.judge_suspicions(at, group_id, ghost);
    }

    /// Everything below `next` was handed to somebody, or need not be.
    pub fn handed(&mut self, group: &str, partition: &TopicPartition, next: Offset) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let handed = group.handed.entry(partition.clone()).or_default();
        *handed = next.0.max(*handed);
    }

    /// The application moved its position back: from now on anything may be read again.
    pub fn sought_back(&mut self, group: &str, partition: &TopicPartition, to: Offset) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let progress = group.progress.entry(partition.clone()).or_default();
        progress.floor = progress.floor.min(to.0);
        progress.late = Some(progress.late.map_or(to.0, |late| late.min(to.0)));
    }

    /// A commit failed, or was tried more than once: a copy of it may arrive late.
    pub fn maybe_committed(&mut self, group: &str, partition: &TopicPartition, offset: Offset) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let progress = group.progress.entry(partition.clone()).or_default();
        progress.late = Some(progress.late.map_or(offset.0, |late| late.min(offset.0)));
    }

    /// A full group turned a member away (`group.max.size`), which will come again and again. A group that turns the last
    /// one away it waited for waits on, until the rebalance timeout: it does not come to rest
    /// (`GroupMetadataManager.classicGroupJoinToClassicGroup`).
    pub fn turned_away(&mut self, group: &str) {
        if let Some(promise) = self.groups.get_mut(group).and_then(|group| group.promise.as_mut()) {
            promise.keeps_up = false;
        }
    }

    /// Whether the workloads are over.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Groups that have not come to rest: each partition that a member subscribes to has one owner then, no more. With a
    /// sentence for the verdict.
    pub fn unsettled(&self) -> Vec<(TopicPartition, String)> {
        let mut unsettled = Vec::new();
        for (id, group) in self.resting() {
            for partition in group.subscribed() {
                let owners = group.owners.get(partition).map(|owners| &owners.members);
                if owners.is_none_or(|owners| owners.len() != 1) && !group.is_forgotten(partition) {
                    let owners: Vec<&String> = owners.into_iter().flat_map(BTreeMap::keys).collect();
                    let members: Vec<&String> = group.present.keys().collect();
                    let detail = format!("group {id} with members {members:?}: owned by {owners:?}");
                    unsettled.push((partition.clone(), detail));
                }
            }
        }
        unsettled
    }

    /// Partitions that groups have not read to their ends: the partition, the number of its offsets that are left to be
    /// handed out, and a sentence for the verdict.
    pub fn behind(&self, ghost: &Ghost) -> Vec<(TopicPartition, u64, String)> {
        let mut behind = Vec::new();
        for (id, group) in self.resting().filter(|(_, group)| group.promise.is_some_and(|p| p.is_at_least_once)) {
            for partition in group.subscribed() {
                let handed = group.handed.get(partition).copied().unwrap_or(0);
                let end = ghost.readable_end(partition).0;
                let is_read = handed >= end || ghost.has_nothing_from(partition, Offset(handed));
                if !is_read && !group.is_forgotten(partition) {
                    let detail = format!("group {id} was handed what is below {handed} of {end}");
                    behind.push((partition.clone(), handed.abs_diff(end), detail));
                }
            }
        }
        behind
    }

    fn resting(&self) -> impl Iterator<Item = (&String, &Group)> {
        self.groups.iter().filter(|(_, group)| group.promise.is_some_and(|promise| promise.keeps_up))
    }

    /// Acknowledged records that a group has passed without anybody having processed them, though it promises to: a
    /// violation of `skipped-record` per partition.
    pub fn judge(&self, at: Time, history: &[HistoryEvent], ghost: &mut Ghost) {
        let acknowledged = acknowledged(history);
        for (id, group) in &self.groups {
            if !group.promise.is_some_and(|promise| promise.is_at_least_once) {
                continue;
            }
            for (partition, passed) in group.passed(&acknowledged) {
                let removed = ghost.removed_below(partition);
                let passed: Vec<i64> = passed.into_iter().filter(|offset| *offset >= removed.0).collect();
                if let Some(first) = passed.first() {
                    let detail = format!(
                        "group {id} has committed {} and nobody processed {} records before, the first at {first}",
                        group.committed[partition],
                        passed.len()
                    );
                    ghost.violate("skipped-record", at, partition, detail);
                }
            }
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
        let generation = if group.is_of_earlier_group(member) {
            EARLIER
        } else {
            group.generations.insert((group.deletions, generation));
            generation
        };
        for partition in partitions {
            let owners = group.owners.entry(partition.clone()).or_default();
            owners.own(partition, member, generation, &mut group.suspicions);
            owners.last = group.keep_places.contains(member).then(|| member.to_owned());
            if let Some(since) = owners.unowned_since.take()
                && !has_ended
            {
                owners.unowned += at.since(since);
            }
        }
        group.stored.insert(member.to_owned(), generation);
        group.judge_suspicions(at, group_id, ghost);
        let has_all = group.owners.values().all(|owners| !owners.members.is_empty());
        group.has_begun |= has_all;
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

    /// A member printed average and maximum of these records, each with whether its value was the one that was sent.
    pub fn printed(&mut self, group: &str, records: &[(TopicPartition, Offset, bool)]) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let follows = |pair: &[(TopicPartition, Offset, bool)]| pair[0].0 == pair[1].0 && pair[0].1 + 1 == pair[1].1;
        let is_whole = records.windows(2).all(follows) && records.iter().all(|(.., is_right)| *is_right);
        group.windows += 1;
        group.broken_windows += u64::from(!is_whole);
    }

    pub fn committed(&mut self, at: Time, group: &str, partition: &TopicPartition, offset: Offset) {
        let Some(group) = self.groups.get_mut(group) else { return };
        group.committed.insert(partition.clone(), offset.0);
        let progress = group.progress.entry(partition.clone()).or_default();
        progress.acknowledged = Some(offset.0);
        progress.witnesses = group.ids_by_topic.get(&partition.topic).cloned().unwrap_or_default();
        progress.committed_at = at;
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
    /// Whether all that a member has joined is a group that was deleted since. It may not know yet.
    fn is_of_earlier_group(&self, member: &str) -> bool {
        self.joined.get(member).is_some_and(|joined| joined.generation == EARLIER)
    }

    /// Whether one of `witnesses` is in this generation, and still subscribed.
    fn has_member_of(&self, witnesses: &MemberIds, generation: i32, partition: &TopicPartition) -> bool {
        let subscribes = |member| self.present.get(member).is_some_and(|all| all.contains(partition));
        let mut members = self.joined.iter().filter(|(_, joined)| joined.generation == generation);
        members.any(|(member, joined)| witnesses.contains(&joined.id) && subscribes(member))
    }

    fn list_ids(&mut self) {
        let mut by_topic: BTreeMap<TopicName, BTreeSet<String>> = BTreeMap::new();
        for (member, Joined { id, .. }) in &self.joined {
            for partition in self.present.get(member).into_iter().flatten() {
                by_topic.entry(partition.topic.clone()).or_default().insert(id.clone());
            }
        }
        self.ids_by_topic = by_topic.into_iter().map(|(topic, ids)| (topic, Arc::new(ids))).collect();
    }

    fn forget_suspicions(&mut self, member: &str) {
        self.suspicions.retain(|suspicion| suspicion.members.iter().all(|of| of != member));
    }

    /// Those become violations whose members both have an assignment of that generation; they are dropped when a member is
    /// in another one.
    fn judge_suspicions(&mut self, at: Time, group_id: &str, ghost: &mut Ghost) {
        let Group { suspicions, stored, joined, .. } = self;
        suspicions.retain(|Suspicion { members, generation, partition }| {
            let [member, other] = members;
            let reign = |member| joined.get(member).and_then(|joined| joined.reign);
            let is_one_reign = reign(member).is_some() && reign(member) == reign(other);
            if is_one_reign || members.iter().all(|member| stored.get(member) == Some(generation)) {
                let detail = format!("{member} and {other} own it, both in generation {generation} of {group_id}");
                ghost.violate("owned-twice", at, partition, detail);
                return false;
            }
            members.iter().all(|member| joined.get(member).is_none_or(|joined| joined.generation == *generation))
        });
    }

    /// Whether nobody has been told to own a partition: in a cooperative rebalance its owner was to give it up, and then to
    /// ask for another one (KIP-429), but ended in between; and being static (KIP-345) it came back to what it was
    /// assigned, and of a second rebalance nobody knows.
    fn is_forgotten(&self, partition: &TopicPartition) -> bool {
        let Some(owners) = self.owners.get(partition).filter(|owners| owners.members.is_empty()) else { return false };
        let latest = self.joined.values().map(|joined| joined.generation).max();
        owners.last.as_ref().is_some_and(|last| self.came_back.get(last).copied() == latest)
    }

    /// What the members that run subscribe to.
    fn subscribed(&self) -> BTreeSet<&TopicPartition> {
        self.present.values().flatten().collect()
    }

    /// By partition, the acknowledged records below the committed offset that nobody has processed.
    fn passed<'a>(
        &'a self,
        acknowledged: &'a BTreeMap<&str, BTreeSet<i64>>,
    ) -> impl Iterator<Item = (&'a TopicPartition, Vec<i64>)> {
        self.committed.iter().filter_map(|(partition, committed)| {
            let acknowledged = acknowledged.get(partition.to_string().as_str())?;
            let processed = self.processed.get(partition);
            let is_processed = |offset: &i64| processed.is_some_and(|processed| processed.contains_key(offset));
            let passed = acknowledged.range(..committed).copied();
            Some((partition, passed.filter(|offset| !is_processed(offset)).collect()))
        })
    }

    fn figures(&self, acknowledged: &BTreeMap<&str, BTreeSet<i64>>) -> GroupFigures {
        let times = self.processed.values().flat_map(|offsets| offsets.values());
        let mut figures = GroupFigures {
            processed: times.clone().count() as u64,
            reprocessed: times.filter(|times| **times > 1).count() as u64,
            rebalances: self.generations.len() as u64,
            windows: self.windows,
            broken_windows: self.broken_windows,
            ..GroupFigures::default()
        };
        figures.skipped = self.passed(acknowledged).map(|(_, passed)| passed.len() as u64).sum();
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
    use crate::protocol::{BrokerId, LeaderEpoch};

    fn partition(index: i32) -> TopicPartition {
        TopicPartition::new("orders", index)
    }

    fn announced() -> (Groups, Ghost) {
        let mut groups = Groups { offsets_retention: Duration::from_secs(60), ..Groups::default() };
        let promise = Promise { keeps_up: true, is_at_least_once: true };
        groups.announce(("g", "a"), &[partition(0), partition(1)], promise, false);
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
        groups.joined(("g", "a"), (2, "a-1"), None, at(1_000));
        assert!(ghost.violations.is_empty(), "another coordinator may have announced another generation 2");
        groups.stored(at(1), ("g", "a"), 2, &mut ghost);
        groups.owned(at(2), ("g", "b"), 2, &[partition(0)], &mut ghost);
        assert_eq!(ghost.violations.iter().map(|v| v.name).collect::<Vec<_>>(), ["owned-twice", "owned-twice"]);
    }

    #[test]
    fn who_joins_under_one_coordinator_is_in_one_generation_before_its_assignment_is_stored() {
        let reign = |broker| Some((BrokerId(broker), LeaderEpoch(3)));
        for (other, violations) in [(1, 1), (2, 0)] {
            let (mut groups, mut ghost) = announced();
            groups.owned(at(0), ("g", "a"), 1, &[partition(0)], &mut ghost);
            groups.owned(at(0), ("g", "b"), 0, &[partition(0)], &mut ghost);
            groups.stored(at(1), ("g", "b"), -1, &mut ghost);
            groups.joined(("g", "a"), (2, "a-1"), reign(1), at(1_000));
            groups.joined(("g", "b"), (2, "b-1"), reign(other), at(1_000));
            groups.stored(at(2), ("g", "b"), -1, &mut ghost);
            assert_eq!(ghost.violations.len(), violations);
        }
    }

    #[test]
    fn who_joins_a_generation_of_the_same_number_under_the_next_coordinator_is_in_another_one() {
        let reign = |broker| Some((BrokerId(broker), LeaderEpoch(3)));
        for (joins_again, violations) in [(false, 1), (true, 0)] {
            let (mut groups, mut ghost) = announced();
            groups.owned(at(0), ("g", "b"), 2, &[partition(0)], &mut ghost);
            // The coordinator is deposed before it stores what the generation is assigned.
            groups.joined(("g", "a"), (3, "a-1"), reign(1), at(1_000));
            groups.joined(("g", "b"), (3, "b-1"), reign(1), at(1_000));
            if joins_again {
                groups.joined(("g", "a"), (3, "a-1"), reign(2), at(2_000));
            }
            groups.owned(at(3_000), ("g", "a"), 3, &[partition(0)], &mut ghost);
            assert_eq!(ghost.violations.len(), violations);
        }
    }

    #[test]
    fn generations_of_a_group_that_was_deleted_are_others() {
        let (mut groups, mut ghost) = announced();
        groups.joined(("g", "a"), (1, "a-1"), None, at(1_000));
        groups.owned(at(0), ("g", "a"), 1, &[partition(0)], &mut ghost);
        groups.deleted(at(500), "g");
        groups.joined(("g", "b"), (1, "b-1"), None, at(1_000));
        groups.owned(at(1), ("g", "b"), 1, &[partition(0)], &mut ghost);
        groups.began(at(1), ("g", "b"), 1, &partition(0), Offset(0), &mut ghost);
        groups.committed(at(1), "g", &partition(0), Offset(10));
        // It has not heard yet.
        groups.owned(at(2), ("g", "a"), 1, &[partition(0)], &mut ghost);
        groups.began(at(2), ("g", "a"), 1, &partition(0), Offset(0), &mut ghost);
        assert!(ghost.violations.is_empty(), "{:?}", ghost.violations);
        groups.released(at(3), ("g", "a"), None);
        groups.joined(("g", "a"), (1, "a-2"), None, at(1_000));
        groups.owned(at(3), ("g", "a"), 1, &[partition(0)], &mut ghost);
        assert_eq!(ghost.violations.iter().map(|v| v.name).collect::<Vec<_>>(), ["owned-twice"]);
        assert_eq!(groups.figures(&[]).expect("there is a group").rebalances, 2);
    }

    #[test]
    fn a_group_has_come_to_rest_when_each_partition_has_one_owner() {
        let (mut groups, mut ghost) = announced();
        groups.owned(at(0), ("g", "a"), 1, &[partition(0)], &mut ghost);
        assert_eq!(groups.unsettled().iter().map(|(p, _)| p.clone()).collect::<Vec<_>>(), [partition(1)]);
        groups.owned(at(1), ("g", "a"), 2, &[partition(1)], &mut ghost);
        assert_eq!(groups.unsettled(), []);
        groups.owned(at(2), ("g", "b"), 3, &[partition(1)], &mut ghost);
        assert_eq!(groups.unsettled().len(), 1, "two owners, whatever their generations");
        groups.gone(at(3), ("g", "b"));
        assert_eq!(groups.unsettled(), []);
        groups.gone(at(4), ("g", "a"));
        assert_eq!(groups.unsettled(), [], "nobody is there to own anything");
    }

    #[test]
    fn a_group_that_turns_members_away_need_not_come_to_rest() {
        let (mut groups, _) = announced();
        assert_eq!(groups.unsettled().len(), 2);
        groups.turned_away("g");
        assert_eq!(groups.unsettled(), []);
    }

    #[test]
    fn what_a_static_member_had_yet_to_hand_over_when_it_ended_may_stay_without_an_owner() {
        for (keeps_place, later, unsettled) in [(true, None, 0), (false, None, 1), (true, Some(3), 1)] {
            let mut groups = Groups::default();
            let promise = Promise { keeps_up: true, is_at_least_once: true };
            let mut ghost = Ghost::default();
            groups.announce(("g", "a"), &[partition(0)], promise, keeps_place);
            groups.joined(("g", "a"), (1, "a-1"), None, at(1_000));
            groups.owned(at(0), ("g", "a"), 1, &[partition(0)], &mut ghost);
            groups.joined(("g", "b"), (2, "b-1"), None, at(1_000));
            groups.gone(at(2), ("g", "a"));
            groups.announce(("g", "a"), &[partition(0)], promise, keeps_place);
            groups.joined(("g", "a"), (2, "a-2"), None, at(1_000));
            if let Some(later) = later {
                groups.joined(("g", "a"), (later, "a-2"), None, at(1_000));
            }
            assert_eq!(groups.unsettled().len(), unsettled, "{keeps_place}, {later:?}");
        }
    }

    #[test]
    fn whoever_begins_below_what_was_committed_rewinds() {
        let cases: [(&str, Option<i64>, i32, i64, usize); 6] = [
            ("at the commit", None, 2, 20, 0),
            ("before the commit", None, 2, 19, 1),
            ("a copy of an earlier commit may have come late", Some(10), 2, 10, 0),
            ("but nothing earlier than that", Some(10), 2, 9, 1),
            ("in the same generation", None, 1, 5, 1),
            ("in an earlier one, by who has not heard of the later", None, 0, 0, 0),
        ];
        for (case, late, generation, begins, violations) in cases {
            let (mut groups, mut ghost) = announced();
            groups.began(at(0), ("g", "a"), 1, &partition(0), Offset(0), &mut ghost);
            if let Some(late) = late {
                groups.maybe_committed("g", &partition(0), Offset(late));
            }
            groups.committed(at(0), "g", &partition(0), Offset(20));
            groups.began(at(1), ("g", "b"), generation, &partition(0), Offset(begins), &mut ghost);
            assert_eq!(ghost.violations.len(), violations, "{case}");
        }
    }

    #[test]
    fn the_offsets_of_a_group_without_members_may_expire_those_of_another_may_not() {
        for (case, id_then, id_now, after, expired, violations) in [
            ("empty for long", "a-1", "a-2", 60_001, Some(20), 0),
            ("empty for a short time", "a-1", "a-2", 59_000, Some(20), 1),
            ("never empty", "a-1", "a-1", 60_001, Some(20), 1),
            ("nobody says that it expired", "a-1", "a-2", 60_001, None, 1),
            ("an earlier commit expired", "a-1", "a-2", 60_001, Some(19), 1),
        ] {
            let (mut groups, mut ghost) = announced();
            groups.joined(("g", "a"), (1, id_then), None, at(1_000));
            groups.began(at(0), ("g", "a"), 1, &partition(0), Offset(0), &mut ghost);
            groups.committed(at(0), "g", &partition(0), Offset(20));
            groups.joined(("g", "a"), (2, id_now), None, at(1_000));
            if let Some(expired) = expired {
                groups.expired("g", &partition(0), Offset(expired));
            }
            groups.began(at(after), ("g", "a"), 2, &partition(0), Offset(0), &mut ghost);
            assert_eq!(ghost.violations.len(), violations, "{case}");
        }
    }

    #[test]
    fn a_commit_of_an_earlier_generation_comes_too_late_for_the_next() {
        let (mut groups, mut ghost) = announced();
        groups.maybe_committed("g", &partition(0), Offset(10));
        groups.committed(at(0), "g", &partition(0), Offset(20));
        groups.began(at(1), ("g", "b"), 2, &partition(0), Offset(20), &mut ghost);
        groups.committed(at(0), "g", &partition(0), Offset(30));
        groups.began(at(2), ("g", "a"), 3, &partition(0), Offset(30), &mut ghost);
        assert!(ghost.violations.is_empty());
        groups.began(at(3), ("g", "b"), 4, &partition(0), Offset(29), &mut ghost);
        assert_eq!(ghost.violations.len(), 1);
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
        groups.committed(at(0), "g", &partition(0), Offset(4));
        let figures = groups.figures(&history).expect("there is a group");
        assert_eq!((figures.processed, figures.reprocessed, figures.skipped), (3, 1, 1));
        let mut ghost = Ghost::default();
        groups.judge(at(9), &history, &mut ghost);
        assert_eq!(ghost.violations.iter().map(|v| v.name).collect::<Vec<_>>(), ["skipped-record"]);
    }
}
