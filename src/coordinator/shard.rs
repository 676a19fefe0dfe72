//! The groups and offsets of one partition of `__consumer_offsets` (`GroupCoordinatorShard`): what a request decides, and
//! the state that replaying the partition's records yields.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::protocol::StrBytes;

use super::classic::{ClassicGroup, Member, State};
use super::consumer::ConsumerGroup;
use super::membership::StaticReplacement;
use super::offsets::Offsets;
use super::record::{ConsumerRecord, Record};
use super::timers::{TimerKey, Timers};
use super::topics::Topics;
use super::{Answer, GroupNews, Ticket};
use crate::config::GroupCoordinatorConfig;
use crate::defect::Defect;
use crate::protocol::{ErrorCode, Offset};
use crate::world::Time;

/// What one step goes by: both clocks (deadlines go by the monotonic one, records by the wall clock), and the topics of
/// the cluster.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    pub now: Time,
    pub wall_ms: i64,
    pub topics: &'a Topics,
}

/// A group, by its `GroupType`.
pub(super) enum Group {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

impl Group {
    pub fn classic_mut(&mut self) -> Option<&mut ClassicGroup> {
        match self {
            Group::Classic(group) => Some(group),
            Group::Consumer(_) => None,
        }
    }

    fn consumer_mut(&mut self) -> Option<&mut ConsumerGroup> {
        match self {
            Group::Classic(_) => None,
            Group::Consumer(group) => Some(group),
        }
    }

    fn type_name(&self) -> &'static str {
        match self {
            Group::Classic(_) => "classic",
            Group::Consumer(_) => "consumer",
        }
    }

    fn state_name(&self) -> &'static str {
        match self {
            Group::Classic(group) => group.state.name(),
            Group::Consumer(group) => group.state().name(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Group::Classic(group) => group.state == State::Empty,
            Group::Consumer(group) => group.members.is_empty(),
        }
    }

    /// Whether members are joining, or have yet to hear what they are assigned. A consumer group (KIP-848) knows what its
    /// members subscribe to all the time.
    fn is_rebalancing(&self) -> bool {
        match self {
            Group::Classic(group) => match group.state {
                State::PreparingRebalance | State::CompletingRebalance => true,
                State::Empty | State::Stable => false,
            },
            Group::Consumer(_) => false,
        }
    }

    fn visible_from(&self) -> Offset {
        match self {
            Group::Classic(group) => group.visible_from,
            Group::Consumer(group) => group.visible_from,
        }
    }

    pub fn generation(&self) -> i32 {
        match self {
            Group::Classic(group) => group.generation,
            Group::Consumer(group) => group.epoch,
        }
    }

    pub fn is_subscribed_to(&self, topic: &StrBytes) -> bool {
        match self {
            Group::Classic(group) => group.is_subscribed_to(topic),
            Group::Consumer(group) => group.is_subscribed_to(topic),
        }
    }

    /// The records that remove it, its offsets aside.
    fn tombstones(&self, id: &StrBytes) -> Vec<Record> {
        match self {
            Group::Classic(_) => vec![Record::GroupMetadata { group: id.clone(), value: None }],
            Group::Consumer(group) => group.tombstones(),
        }
    }
}

/// Each member's share, as the leader serialized it.
pub(super) type Assignments = BTreeMap<StrBytes, Bytes>;

/// What a step wants done (`CoordinatorResult`).
#[derive(Default, Debug)]
#[must_use]
pub(super) struct Outcome {
    /// To be appended together.
    pub records: Vec<Record>,
    /// The records make the state. Otherwise it has been changed already: that of classic groups.
    pub replay: bool,
    /// What the group is once the records are appended: replaying them would yield less.
    pub becomes: Option<Becomes>,
    /// Done once the records, and all before them, are committed.
    pub then: Then,
}

/// A consumer group that is a classic one from now on.
#[derive(Debug)]
pub(super) struct Becomes {
    pub group: Box<ClassicGroup>,
    /// A member has left: the others share out anew.
    pub rebalances: bool,
}

/// What follows when the records of an [`Outcome`] are committed, or cannot be.
#[derive(Default, Debug)]
pub(super) enum Then {
    #[default]
    Nothing,
    Answer(Ticket, Answer),
    AssignmentStored {
        group: StrBytes,
        generation: i32,
        assignments: Assignments,
    },
    StaticMemberStored(StaticReplacement),
    /// The first record of a group, whose first member waits under `ticket`.
    GroupCreated {
        ticket: Ticket,
        group: StrBytes,
        member: StrBytes,
    },
    /// What a deadline brought about; the deadline is set again if it cannot be.
    Expired(TimerKey),
}

impl Outcome {
    pub fn answer(ticket: Ticket, answer: Answer) -> Outcome {
        Outcome { then: Then::Answer(ticket, answer), ..Outcome::default() }
    }

    pub fn write(records: Vec<Record>, ticket: Ticket, answer: Answer) -> Outcome {
        Outcome { records, replay: true, then: Then::Answer(ticket, answer), ..Outcome::default() }
    }

    /// Nothing to append and nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && matches!(self.then, Then::Nothing)
    }
}

pub(super) struct Shard {
    pub config: GroupCoordinatorConfig,
    pub groups: BTreeMap<StrBytes, Group>,
    pub offsets: Offsets,
    pub timers: Timers,
    /// Responses that wait for nothing.
    pub answers: Vec<(Ticket, Answer)>,
    pub news: Vec<GroupNews>,
}

impl Shard {
    pub fn new(config: GroupCoordinatorConfig) -> Shard {
        Shard {
            config,
            groups: BTreeMap::new(),
            offsets: Offsets::new(),
            timers: Timers::default(),
            answers: Vec::new(),
            news: Vec::new(),
        }
    }

    /// Takes a record at `offset` into the state.
    pub fn replay(&mut self, offset: Offset, record: Record, wall_clock_ms: i64) {
        match record {
            Record::OffsetCommit { group, topic, partition, value } => {
                // A consumer that only stores offsets has a group without members: a simple group.
                if value.is_some() && !self.groups.contains_key(&group) {
                    let simple = ClassicGroup::new(group.clone(), wall_clock_ms);
                    let simple = ClassicGroup { visible_from: offset + 1, ..simple };
                    self.groups.insert(group.clone(), Group::Classic(simple));
                }
                self.offsets.put(offset, &group, &topic, partition, value);
            }
            Record::GroupMetadata { group, value: None } => {
                if let Some(Group::Classic(_)) = self.groups.get(&group) {
                    self.groups.remove(&group);
                }
            }
            Record::GroupMetadata { group, value: Some(value) } => {
                let loaded = ClassicGroup::from_record(group.clone(), value, offset + 1);
                self.groups.insert(group, Group::Classic(loaded));
            }
            Record::Consumer { group, record } => self.replay_consumer(offset, group, record),
        }
    }

    fn replay_consumer(&mut self, offset: Offset, id: StrBytes, record: ConsumerRecord) {
        if let ConsumerRecord::Group(None) = record {
            if let Some(Group::Consumer(_)) = self.groups.get(&id) {
                self.groups.remove(&id);
            }
            return;
        }
        let exists = matches!(self.groups.get(&id), Some(Group::Consumer(_)));
        if !exists && record.is_tombstone() {
            return;
        }
        if !exists {
            // Offset commits before it have made a simple group, which has no record of its own.
            let mut group = ConsumerGroup::new(id.clone());
            group.visible_from = offset + 1;
            self.groups.insert(id.clone(), Group::Consumer(group));
        }
        let group = self.groups.get_mut(&id).and_then(Group::consumer_mut).expect("there, or made above");
        group.replay(record);
    }

    /// A consumer group has become a classic one, and that is written up to `end`.
    pub fn replace_group(&mut self, moment: Moment<'_>, becomes: Becomes, end: Offset) {
        let Becomes { mut group, rebalances } = becomes;
        group.visible_from = end;
        let id = group.id.clone();
        self.groups.insert(id.clone(), Group::Classic(*group));
        let follows = self.on_downgraded(moment, &id, rebalances);
        assert!(follows.is_empty(), "nobody has rejoined yet");
    }

    /// What its members are to have in a group that becomes this one, and others of them still have.
    pub fn promised_by(&self, becomes: &ClassicGroup) -> Vec<GroupNews> {
        let Some(Group::Consumer(group)) = self.groups.get(&becomes.id) else { return Vec::new() };
        let promised = group.promised(|member| becomes.members.contains_key(member)).into_iter();
        let unclaimed = |(topic, partition)| GroupNews::Unclaimed { group: becomes.id.clone(), topic, partition };
        promised.map(unclaimed).collect()
    }

    /// The consumer group that a member leaves with these records.
    pub fn left_by(records: &[Record]) -> Option<StrBytes> {
        records.iter().find_map(|record| match record {
            Record::Consumer { group, record: ConsumerRecord::Member { value: None, .. } } => Some(group.clone()),
            _ => None,
        })
    }

    /// Topics were made, changed or deleted: groups that subscribe to them look at them with the next heartbeat
    /// (`onNewMetadataImage`).
    pub fn on_topics_changed(&mut self, topics: &[StrBytes]) {
        for group in self.groups.values_mut().filter_map(Group::consumer_mut) {
            if topics.iter().any(|topic| group.is_subscribed_to(topic)) {
                group.request_metadata_refresh();
            }
        }
    }

    /// A record of a group that is in memory already was appended at `offset`.
    pub fn note_written(&mut self, offset: Offset, record: &Record) {
        if let Record::GroupMetadata { group, value: Some(_) } = record
            && let Some(group) = self.groups.get_mut(group).and_then(Group::classic_mut)
        {
            group.visible_from = group.visible_from.min(offset + 1);
        }
    }

    /// What needs no log: timers of loaded groups (`onLoaded`).
    pub fn on_loaded(&mut self, moment: Moment<'_>) -> Vec<Outcome> {
        self.schedule_expiration(moment);
        let groups: Vec<StrBytes> = self.groups.keys().cloned().collect();
        groups.iter().for_each(|group| self.on_consumer_group_loaded(moment, group));
        groups.iter().map(|group| self.on_group_loaded(moment, group)).collect()
    }

    fn schedule_expiration(&mut self, moment: Moment<'_>) {
        self.timers.set(TimerKey::Expiration, moment.now + self.config.offsets_retention_check_interval);
    }

    pub fn on_timer(&mut self, moment: Moment<'_>, key: &TimerKey) -> Outcome {
        match key {
            TimerKey::Expiration => {
                self.schedule_expiration(moment);
                self.offsets.prune();
                let records = self.expired_records(moment.wall_ms);
                self.tell_expired(&records);
                Outcome { records, replay: true, ..Outcome::default() }
            }
            TimerKey::Session { .. }
            | TimerKey::Rebalance { .. }
            | TimerKey::ClassicJoin { .. }
            | TimerKey::ClassicSync { .. } => {
                Outcome { then: Then::Expired(key.clone()), ..self.on_member_timer(moment, key) }
            }
            TimerKey::Regexes { group } => self.resolve_regexes(moment, group),
            TimerKey::Heartbeat { .. } | TimerKey::Join { .. } | TimerKey::Sync { .. } => {
                self.on_group_timer(moment, key)
            }
        }
    }

    /// The tombstones of what has expired (`cleanupGroupMetadata`, KIP-211).
    fn expired_records(&self, wall_clock_ms: i64) -> Vec<Record> {
        let retention = Duration::from_secs(60 * u64::from(self.config.offsets_retention_minutes));
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let mut records = Vec::new();
        for (id, group) in &self.groups {
            let is_all_expired = self.expire_offsets(id, group, wall_clock_ms, retention_ms, &mut records);
            if is_all_expired && group.is_empty() {
                records.extend(group.tombstones(id));
            }
        }
        records
    }

    fn tell_expired(&mut self, tombstones: &[Record]) {
        for record in tombstones {
            let Record::OffsetCommit { group, topic, partition, value: None } = record else { continue };
            let mut of_group = self.offsets.latest_of(group);
            let is_it = |(of, index, _): &(&StrBytes, i32, _)| *of == topic && index == partition;
            let Some((_, _, committed)) = of_group.find(is_it) else { continue };
            let is_rebalancing = self.groups.get(group).is_some_and(Group::is_rebalancing);
            self.news.push(GroupNews::OffsetExpired {
                group: group.clone(),
                topic: topic.clone(),
                partition: *partition,
                offset: committed.offset,
                is_rebalancing,
            });
        }
    }

    /// True if the group has no offsets, or all expire now.
    fn expire_offsets(
        &self,
        id: &StrBytes,
        group: &Group,
        now_ms: i64,
        retention_ms: i64,
        records: &mut Vec<Record>,
    ) -> bool {
        let mut of_group = self.offsets.latest_of(id).peekable();
        if of_group.peek().is_none() {
            return true;
        }
        let mut is_settled = true;
        let whatever_the_group_does = self.config.defects.has(Defect::OffsetExpiryByCommit);
        // From when on the retention counts.
        let by_state = match group {
            _ if whatever_the_group_does => None,
            Group::Consumer(_) => None,
            Group::Classic(group) if group.protocol_type.is_some() && group.state == State::Empty => {
                group.state_timestamp_ms
            }
            Group::Classic(group) => {
                let is_consumer = group.uses_consumer_protocol() && group.subscribed_topics.is_some();
                if group.protocol_type.is_some() && !is_consumer {
                    return false;
                }
                is_settled = group.protocol_type.is_none() || group.state == State::Stable;
                None
            }
        };
        let (mut is_all, before) = (true, records.len());
        for (topic, partition, committed) in of_group {
            let since = by_state.unwrap_or(committed.commit_timestamp_ms);
            let is_over = match committed.expire_timestamp_ms {
                // A commit of an old client said when.
                Some(expire_timestamp_ms) => now_ms >= expire_timestamp_ms,
                None => now_ms.saturating_sub(since) >= retention_ms,
            };
            if is_over && (whatever_the_group_does || !group.is_subscribed_to(topic)) {
                records.push(offset_tombstone(id, topic, partition));
            } else {
                is_all = false;
            }
        }
        // While members come, what they will subscribe to is not known (KAFKA-13636).
        if records.len() > before && !is_settled && !self.config.defects.has(Defect::ExpireDuringRebalance) {
            records.truncate(before);
            return false;
        }
        is_all
    }

    /// `describeGroups`, of the committed state.
    pub fn describe_group(&self, id: &StrBytes, committed: Offset) -> DescribedGroup {
        let described = DescribedGroup::default().with_group_id(GroupId(id.clone()));
        let Some(Group::Classic(group)) = self.groups.get(id).filter(|group| group.visible_from() <= committed) else {
            return described.with_group_state(StrBytes::from_static_str("Dead"));
        };
        let protocol = group.protocol_name.as_ref().filter(|_| group.state == State::Stable);
        described
            .with_group_state(StrBytes::from_static_str(group.state.name()))
            .with_protocol_type(group.protocol_type.clone().unwrap_or_default())
            .with_protocol_data(protocol.cloned().unwrap_or_default())
            .with_members(group.members.values().map(|member: &Member| member.describe(protocol)).collect())
    }

    /// `consumerGroupDescribe`, of a group whose first record is committed.
    pub fn describe_consumer_group(
        &self,
        moment: Moment<'_>,
        id: &StrBytes,
        committed: Offset,
    ) -> DescribedConsumerGroup {
        match self.groups.get(id).filter(|group| group.visible_from() <= committed) {
            Some(Group::Consumer(group)) => {
                group.describe(self.config.consumer_assignors.default_assignor(), moment.topics)
            }
            Some(Group::Classic(_)) | None => {
                let message = format!("Group {id} is not a consumer group.");
                DescribedConsumerGroup::default()
                    .with_group_id(GroupId(id.clone()))
                    .with_error_code(ErrorCode::GroupIdNotFound.code())
                    .with_error_message(Some(StrBytes::from_string(message)))
            }
        }
    }

    /// `listGroups`, of the committed state. Filters are empty or name what is wanted, in any case of letters.
    pub fn list_groups(&self, states: &[StrBytes], types: &[StrBytes], committed: Offset) -> Vec<ListedGroup> {
        let is_wanted = |filter: &[StrBytes], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(value))
        };
        let visible = self.groups.iter().filter(|(_, group)| group.visible_from() <= committed);
        let wanted =
            visible.filter(|(_, group)| is_wanted(states, group.state_name()) && is_wanted(types, group.type_name()));
        let listed = |(id, group): (&StrBytes, &Group)| {
            let protocol_type = match group {
                Group::Classic(group) => group.protocol_type.clone().unwrap_or_default(),
                Group::Consumer(_) => StrBytes::from_static_str("consumer"),
            };
            ListedGroup::default()
                .with_group_id(GroupId(id.clone()))
                .with_protocol_type(protocol_type)
                .with_group_state(StrBytes::from_static_str(group.state_name()))
                .with_group_type(StrBytes::from_static_str(group.type_name()))
        };
        wanted.map(listed).collect()
    }

    /// `deleteGroups`: only groups without members.
    pub fn delete_groups(&mut self, ids: &[StrBytes], ticket: Ticket) -> Outcome {
        let mut records = Vec::new();
        let mut results = Vec::new();
        for id in ids {
            let error_code = match self.groups.get(id) {
                None => ErrorCode::GroupIdNotFound.code(),
                Some(group) if !group.is_empty() => ErrorCode::NonEmptyGroup.code(),
                Some(group) => {
                    let of_group = self.offsets.latest_of(id);
                    records.extend(of_group.map(|(topic, partition, _)| offset_tombstone(id, topic, partition)));
                    records.extend(group.tombstones(id));
                    0
                }
            };
            results
                .push(DeletableGroupResult::default().with_group_id(GroupId(id.clone())).with_error_code(error_code));
        }
        Outcome::write(records, ticket, Answer::Delete(results))
    }
}

pub(super) fn offset_tombstone(group: &StrBytes, topic: &StrBytes, partition: i32) -> Record {
    Record::OffsetCommit { group: group.clone(), topic: topic.clone(), partition, value: None }
}
