//! The groups and offsets of one partition of `__consumer_offsets` (`GroupCoordinatorShard`): what a request decides, and
//! the state that replaying the partition's records yields.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::protocol::StrBytes;

use super::classic::{ClassicGroup, Member, State};
use super::membership::StaticReplacement;
use super::offsets::Offsets;
use super::record::Record;
use super::timers::{TimerKey, Timers};
use super::{Answer, Ticket};
use crate::config::GroupCoordinatorConfig;
use crate::defect::Defect;
use crate::protocol::{ErrorCode, Offset};
use crate::world::Time;

/// `GroupType.CLASSIC`, the only one so far.
const CLASSIC: &str = "classic";

/// Both clocks of one step: deadlines go by the monotonic one, records by the wall clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub now: Time,
    pub wall_ms: i64,
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
    /// Done once the records, and all before them, are committed.
    pub then: Then,
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
}

impl Outcome {
    pub fn answer(ticket: Ticket, answer: Answer) -> Outcome {
        Outcome { then: Then::Answer(ticket, answer), ..Outcome::default() }
    }

    pub fn write(records: Vec<Record>, ticket: Ticket, answer: Answer) -> Outcome {
        Outcome { records, replay: true, then: Then::Answer(ticket, answer) }
    }

    /// Nothing to append and nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && matches!(self.then, Then::Nothing)
    }
}

pub(super) struct Shard {
    pub config: GroupCoordinatorConfig,
    pub groups: BTreeMap<StrBytes, ClassicGroup>,
    pub offsets: Offsets,
    pub timers: Timers,
    /// Responses that wait for nothing.
    pub answers: Vec<(Ticket, Answer)>,
}

impl Shard {
    pub fn new(config: GroupCoordinatorConfig) -> Shard {
        Shard {
            config,
            groups: BTreeMap::new(),
            offsets: Offsets::new(),
            timers: Timers::default(),
            answers: Vec::new(),
        }
    }

    /// Takes a record at `offset` into the state.
    pub fn replay(&mut self, offset: Offset, record: Record, wall_clock_ms: i64) {
        match record {
            Record::OffsetCommit { group, topic, partition, value } => {
                // A consumer that only stores offsets has a group without members: a simple group.
                if value.is_some() && !self.groups.contains_key(&group) {
                    let simple = ClassicGroup::new(group.clone(), wall_clock_ms);
                    self.groups.insert(group.clone(), ClassicGroup { visible_from: offset + 1, ..simple });
                }
                self.offsets.put(offset, &group, &topic, partition, value);
            }
            Record::GroupMetadata { group, value: None } => {
                self.groups.remove(&group);
            }
            Record::GroupMetadata { group, value: Some(value) } => {
                let loaded = ClassicGroup::from_record(group.clone(), value, offset + 1);
                self.groups.insert(group, loaded);
            }
        }
    }

    /// A record of a group that is in memory already was appended at `offset`.
    pub fn note_written(&mut self, offset: Offset, record: &Record) {
        if let Record::GroupMetadata { group, value: Some(_) } = record
            && let Some(group) = self.groups.get_mut(group)
        {
            group.visible_from = group.visible_from.min(offset + 1);
        }
    }

    /// What needs no log: timers of loaded groups (`onLoaded`).
    pub fn on_loaded(&mut self, clock: Clock) -> Vec<Outcome> {
        self.schedule_expiration(clock);
        let groups: Vec<StrBytes> = self.groups.keys().cloned().collect();
        groups.iter().map(|group| self.on_group_loaded(clock, group)).collect()
    }

    fn schedule_expiration(&mut self, clock: Clock) {
        self.timers.set(TimerKey::Expiration, clock.now + self.config.offsets_retention_check_interval);
    }

    pub fn on_timer(&mut self, clock: Clock, key: &TimerKey) -> Outcome {
        match key {
            TimerKey::Expiration => {
                self.schedule_expiration(clock);
                self.offsets.prune();
                Outcome { records: self.expired_records(clock.wall_ms), replay: true, then: Then::Nothing }
            }
            TimerKey::Heartbeat { .. } | TimerKey::Join { .. } | TimerKey::Sync { .. } => {
                self.on_group_timer(clock, key)
            }
        }
    }

    /// The tombstones of what has expired (`cleanupGroupMetadata`, KIP-211).
    fn expired_records(&self, wall_clock_ms: i64) -> Vec<Record> {
        let retention = Duration::from_secs(60 * u64::from(self.config.offsets_retention_minutes));
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let mut records = Vec::new();
        for group in self.groups.values() {
            let is_all_expired = self.expire_offsets(group, wall_clock_ms, retention_ms, &mut records);
            if is_all_expired && group.state == State::Empty {
                records.push(Record::GroupMetadata { group: group.id.clone(), value: None });
            }
        }
        records
    }

    /// True if the group has no offsets, or all expire now.
    fn expire_offsets(&self, group: &ClassicGroup, now_ms: i64, retention_ms: i64, records: &mut Vec<Record>) -> bool {
        let mut of_group = self.offsets.latest_of(&group.id).peekable();
        if of_group.peek().is_none() {
            return true;
        }
        let whatever_the_group_does = self.config.defects.has(Defect::OffsetExpiryByCommit);
        // From when on the retention counts.
        let is_by_state = group.protocol_type.is_some() && group.state == State::Empty;
        // While members come, what they will subscribe to is not known (KAFKA-13636).
        let is_settled = group.state == State::Stable || self.config.defects.has(Defect::ExpireDuringRebalance);
        let is_by_commit = group.protocol_type.is_none()
            || group.uses_consumer_protocol() && group.subscribed_topics.is_some() && is_settled;
        if !is_by_state && !is_by_commit && !whatever_the_group_does {
            return false;
        }
        let mut is_all = true;
        for (topic, partition, committed) in of_group {
            let since = match group.state_timestamp_ms.filter(|_| is_by_state && !whatever_the_group_does) {
                Some(state_timestamp_ms) => state_timestamp_ms,
                None => committed.commit_timestamp_ms,
            };
            let is_over = match committed.expire_timestamp_ms {
                // A commit of an old client said when.
                Some(expire_timestamp_ms) => now_ms >= expire_timestamp_ms,
                None => now_ms.saturating_sub(since) >= retention_ms,
            };
            if is_over && (whatever_the_group_does || !group.is_subscribed_to(topic)) {
                records.push(offset_tombstone(&group.id, topic, partition));
            } else {
                is_all = false;
            }
        }
        is_all
    }

    /// `describeGroups`, of the committed state.
    pub fn describe_group(&self, id: &StrBytes, committed: Offset) -> DescribedGroup {
        let described = DescribedGroup::default().with_group_id(GroupId(id.clone()));
        let Some(group) = self.groups.get(id).filter(|group| group.visible_from <= committed) else {
            return described.with_group_state(StrBytes::from_static_str("Dead"));
        };
        let protocol = group.protocol_name.as_ref().filter(|_| group.state == State::Stable);
        described
            .with_group_state(StrBytes::from_static_str(group.state.name()))
            .with_protocol_type(group.protocol_type.clone().unwrap_or_default())
            .with_protocol_data(protocol.cloned().unwrap_or_default())
            .with_members(group.members.values().map(|member: &Member| member.describe(protocol)).collect())
    }

    /// `listGroups`, of the committed state. Filters are empty or name what is wanted, in any case of letters.
    pub fn list_groups(&self, states: &[StrBytes], types: &[StrBytes], committed: Offset) -> Vec<ListedGroup> {
        let is_wanted = |filter: &[StrBytes], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(value))
        };
        let visible = self.groups.values().filter(|group| group.visible_from <= committed);
        let wanted = visible.filter(|group| is_wanted(states, group.state.name()) && is_wanted(types, CLASSIC));
        let listed = |group: &ClassicGroup| {
            ListedGroup::default()
                .with_group_id(GroupId(group.id.clone()))
                .with_protocol_type(group.protocol_type.clone().unwrap_or_default())
                .with_group_state(StrBytes::from_static_str(group.state.name()))
                .with_group_type(StrBytes::from_static_str(CLASSIC))
        };
        wanted.map(listed).collect()
    }

    /// `deleteGroups`: only groups without members.
    pub fn delete_groups(&mut self, ids: &[StrBytes], ticket: Ticket) -> Outcome {
        let mut records = Vec::new();
        let mut results = Vec::new();
        for id in ids {
            let error = match self.groups.get(id).map(|group| group.state) {
                None => Some(ErrorCode::GroupIdNotFound),
                Some(State::Empty) => None,
                Some(State::PreparingRebalance | State::CompletingRebalance | State::Stable) => {
                    Some(ErrorCode::NonEmptyGroup)
                }
            };
            if error.is_none() {
                let of_group = self.offsets.latest_of(id);
                records.extend(of_group.map(|(topic, partition, _)| offset_tombstone(id, topic, partition)));
                records.push(Record::GroupMetadata { group: id.clone(), value: None });
            }
            let error_code = error.map_or(0, |error| error.code());
            results
                .push(DeletableGroupResult::default().with_group_id(GroupId(id.clone())).with_error_code(error_code));
        }
        Outcome::write(records, ticket, Answer::Delete(results))
    }
}

pub(super) fn offset_tombstone(group: &StrBytes, topic: &StrBytes, partition: i32) -> Record {
    Record::OffsetCommit { group: group.clone(), topic: topic.clone(), partition, value: None }
}
