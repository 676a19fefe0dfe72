//! A consumer group of KIP-848 (`ConsumerGroup`, `ModernGroup`): its members, what they are to consume, and how far each
//! has come. Replaying its records makes the state; what decides on records is in [`heartbeat`](super::heartbeat).

mod assignor;
mod describe;
mod reconcile;
mod regexes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

pub(super) use self::assignor::{Assignment, LeftUnassigned, Subscriber, assign};
pub(super) use self::reconcile::{Target, reconcile};
use self::regexes::Regexes;
use super::record::{
    ConsumerMemberMetadata, ConsumerRecord, CurrentAssignment, MemberState, Partitions, Record, TopicMetadata,
};
use super::shard::Moment;
use crate::config::ServerAssignor;
use crate::protocol::{ErrorCode, Offset};
use crate::world::Time;

/// `LEAVE_GROUP_MEMBER_EPOCH`
pub(super) const LEAVE_EPOCH: i32 = -1;
/// `LEAVE_GROUP_STATIC_MEMBER_EPOCH`: the member will be back under another member id.
pub(super) const LEAVE_STATIC_EPOCH: i32 = -2;

/// How long the group believes what it knows of its topics (`consumerGroupMetadataRefreshIntervalMs`); changes of
/// metadata make it look at once.
const METADATA_REFRESH_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// `ConsumerGroupState`. Kafka's fifth, Dead, is no state of a group that is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GroupState {
    Empty,
    /// The target assignment is of an older epoch than the group.
    Assigning,
    /// Not all members have what they are to have.
    Reconciling,
    Stable,
}

impl GroupState {
    pub fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::Assigning => "Assigning",
            GroupState::Reconciling => "Reconciling",
            GroupState::Stable => "Stable",
        }
    }
}

/// `ConsumerGroupMember`
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Member {
    pub id: StrBytes,
    pub metadata: ConsumerMemberMetadata,
    pub current: CurrentAssignment,
}

impl Member {
    pub fn new(id: StrBytes) -> Member {
        Member { id, metadata: ConsumerMemberMetadata::default(), current: CurrentAssignment::default() }
    }

    pub fn uses_classic_protocol(&self) -> bool {
        self.metadata.classic.is_some()
    }

    pub fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.current.state == MemberState::Stable && self.current.member_epoch == epoch
    }
}

pub(super) struct ConsumerGroup {
    pub id: StrBytes,
    /// Goes up with every change of members, subscriptions or topics.
    pub epoch: i32,
    /// The group epoch that `target` is of; -1: there is none.
    pub assignment_epoch: i32,
    pub members: BTreeMap<StrBytes, Member>,
    /// Member id by `group.instance.id` (KIP-345).
    pub static_members: BTreeMap<StrBytes, StrBytes>,
    /// The target assignment, by member id.
    pub target: Assignment,
    /// The topics that members subscribe to, as the target assignment knows them.
    pub topics: BTreeMap<StrBytes, TopicMetadata>,
    /// What the regular expressions of members stand for.
    pub regexes: Regexes,
    /// Until when `topics` is believed, and of which group epoch. Not persisted.
    metadata_deadline: Option<(Time, i32)>,
    /// What each member said last that it consumes, to this coordinator. Nothing is decided by it: it tells whether what a
    /// member does not name is what it has let go of, or what it has yet to take up. Not persisted.
    pub said: BTreeMap<StrBytes, Partitions>,
    /// Readers of committed state see it once this is committed.
    pub visible_from: Offset,
}

impl ConsumerGroup {
    /// The partitions, by the names of their topics, that one of the members `of` is to have and another one still has.
    pub fn promised(&self, of: impl Fn(&StrBytes) -> bool) -> Vec<(StrBytes, i32)> {
        let mut promised = Vec::new();
        for (name, TopicMetadata { id, .. }) in &self.topics {
            for (member, target) in self.target.iter().filter(|(member, _)| of(member)) {
                let others = || self.members.values().filter(|other| other.id != *member && of(&other.id));
                let indexes = target.get(id).into_iter().flatten();
                let taken = indexes.filter(|index| others().any(|other| other.current.holds(id, **index)));
                promised.extend(taken.map(|index| (name.clone(), *index)));
            }
        }
        promised
    }

    pub fn new(id: StrBytes) -> ConsumerGroup {
        ConsumerGroup {
            id,
            epoch: 0,
            assignment_epoch: 0,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            target: Assignment::new(),
            topics: BTreeMap::new(),
            regexes: Regexes::new(),
            metadata_deadline: None,
            said: BTreeMap::new(),
            visible_from: Offset(i64::MAX),
        }
    }

    pub fn state(&self) -> GroupState {
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.epoch > self.assignment_epoch {
            GroupState::Assigning
        } else if self.members.values().all(|member| member.is_reconciled_to(self.assignment_epoch)) {
            GroupState::Stable
        } else {
            GroupState::Reconciling
        }
    }

    /// Takes in a record; a tombstone of the group itself is up to the caller. Tombstones of what is not there mean
    /// nothing: compaction may have removed what they are about.
    pub fn replay(&mut self, record: ConsumerRecord) {
        match record {
            ConsumerRecord::Group(epoch) => self.epoch = epoch.unwrap_or(0),
            ConsumerRecord::PartitionMetadata(topics) => self.topics = topics.unwrap_or_default(),
            ConsumerRecord::Member { member, value: Some(value) } => {
                if let Some(instance) = &value.instance_id {
                    self.static_members.insert(instance.clone(), member.clone());
                }
                self.member_entry(member).metadata = value;
            }
            ConsumerRecord::Member { member, value: None } => {
                self.said.remove(&member);
                let removed = self.members.remove(&member);
                if let Some(instance) = removed.and_then(|removed| removed.metadata.instance_id)
                    && self.static_members.get(&instance) == Some(&member)
                {
                    self.static_members.remove(&instance);
                }
            }
            ConsumerRecord::TargetAssignmentEpoch(epoch) => self.assignment_epoch = epoch.unwrap_or(-1),
            ConsumerRecord::TargetAssignment { member, value: Some(value) } => {
                self.target.insert(member, value);
            }
            ConsumerRecord::TargetAssignment { member, value: None } => {
                self.target.remove(&member);
            }
            ConsumerRecord::CurrentAssignment { member, value: Some(value) } => {
                self.member_entry(member).current = value;
            }
            ConsumerRecord::CurrentAssignment { member, value: None } => {
                if let Some(member) = self.members.get_mut(&member) {
                    let gone = CurrentAssignment::default();
                    member.current =
                        CurrentAssignment { member_epoch: LEAVE_EPOCH, previous_member_epoch: LEAVE_EPOCH, ..gone };
                }
            }
            ConsumerRecord::RegularExpression { regex, value: Some(value) } => {
                self.regexes.insert(regex, value);
            }
            ConsumerRecord::RegularExpression { regex, value: None } => {
                self.regexes.remove(&regex);
            }
        }
    }

    fn member_entry(&mut self, id: StrBytes) -> &mut Member {
        self.members.entry(id.clone()).or_insert_with(|| Member::new(id))
    }

    pub fn static_member(&self, instance: &StrBytes) -> Option<&Member> {
        self.members.get(self.static_members.get(instance)?)
    }

    /// The target of a member; that of its predecessor for a static member that comes back.
    pub fn target_of(&self, member: &Member) -> Option<&Partitions> {
        let instance = member.metadata.instance_id.as_ref();
        let former = instance.and_then(|instance| self.static_members.get(instance));
        self.target.get(former.unwrap_or(&member.id))
    }

    /// Whether a member has been assigned a partition, or has yet to give it up (`currentPartitionEpoch`).
    pub fn owned_partitions(&self) -> BTreeSet<(Uuid, i32)> {
        let of = |partitions: &Partitions| -> Vec<(Uuid, i32)> {
            partitions.iter().flat_map(|(topic, of)| of.iter().map(move |index| (*topic, *index))).collect()
        };
        let members = self.members.values();
        members
            .flat_map(|member| [of(&member.current.assigned), of(&member.current.pending_revocation)])
            .flatten()
            .collect()
    }

    /// The members as they will be with `updated` in place of whom it follows; all of them but `without`.
    pub fn members_with<'a>(&'a self, updated: Option<&'a Member>, without: &[&StrBytes]) -> Vec<&'a Member> {
        let instance = updated.and_then(|updated| updated.metadata.instance_id.as_ref());
        let replaced = instance.and_then(|instance| self.static_members.get(instance));
        let is_other = |member: &&Member| {
            !without.contains(&&member.id)
                && updated.is_none_or(|updated| member.id != updated.id)
                && replaced != Some(&member.id)
        };
        let mut members: Vec<&Member> = self.members.values().filter(is_other).collect();
        members.extend(updated);
        members.sort_by(|a, b| a.id.cmp(&b.id));
        members
    }

    /// The topics that a member subscribes to, as far as its regular expression is resolved.
    pub fn topics_of<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a StrBytes> {
        regexes::topics_of(member, &self.regexes)
    }

    /// The topics of a set of members that exist.
    pub fn subscription_metadata(&self, members: &[&Member], moment: Moment<'_>) -> BTreeMap<StrBytes, TopicMetadata> {
        regexes::subscription_metadata(members.iter().copied(), &self.regexes, moment)
    }

    pub fn is_subscribed_to(&self, topic: &StrBytes) -> bool {
        self.members.values().any(|member| self.topics_of(member).any(|of| of == topic))
    }

    /// `OffsetCommit`; below version 9 it cannot tell a member that its epoch is stale.
    pub fn validate_offset_commit(&self, api_version: i16, member: &StrBytes, epoch: i32) -> Result<(), ErrorCode> {
        /// The first version with member epochs.
        const KNOWS_MEMBER_EPOCH: i16 = 9;
        // An administrator, or a consumer that is no member.
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.members.get(member).ok_or(ErrorCode::UnknownMemberId)?;
        if !member.uses_classic_protocol() && api_version < KNOWS_MEMBER_EPOCH {
            return Err(ErrorCode::UnsupportedVersion);
        }
        validate_member_epoch(member, epoch)
    }

    /// `OffsetFetch`; an administrator names no member.
    pub fn validate_offset_fetch(&self, member: Option<&StrBytes>, epoch: i32) -> Result<(), ErrorCode> {
        if member.is_none() && epoch < 0 {
            return Ok(());
        }
        let member = member.and_then(|id| self.members.get(id)).ok_or(ErrorCode::UnknownMemberId)?;
        validate_member_epoch(member, epoch)
    }

    pub fn is_metadata_expired(&self, now: Time) -> bool {
        self.metadata_deadline.is_none_or(|(until, epoch)| until <= now || self.epoch < epoch)
    }

    pub fn set_metadata_deadline(&mut self, now: Time, epoch: i32) {
        self.metadata_deadline = Some((now + METADATA_REFRESH_INTERVAL, epoch));
    }

    /// The topics have changed: the next heartbeat looks at them (`requestMetadataRefresh`).
    pub fn request_metadata_refresh(&mut self) {
        self.metadata_deadline = None;
    }

    pub fn record(&self, record: ConsumerRecord) -> Record {
        Record::Consumer { group: self.id.clone(), record }
    }

    pub fn member_record(&self, member: &Member) -> Record {
        self.record(ConsumerRecord::Member { member: member.id.clone(), value: Some(member.metadata.clone()) })
    }

    pub fn target_record(&self, member: &StrBytes, target: &Partitions) -> Record {
        self.record(ConsumerRecord::TargetAssignment { member: member.clone(), value: Some(target.clone()) })
    }

    pub fn current_record(&self, member: &Member) -> Record {
        self.record(ConsumerRecord::CurrentAssignment {
            member: member.id.clone(),
            value: Some(member.current.clone()),
        })
    }

    /// The tombstones of a member. Their order matters: a member goes last.
    pub fn member_tombstones(&self, member: &StrBytes) -> [Record; 3] {
        [
            self.record(ConsumerRecord::CurrentAssignment { member: member.clone(), value: None }),
            self.record(ConsumerRecord::TargetAssignment { member: member.clone(), value: None }),
            self.record(ConsumerRecord::Member { member: member.clone(), value: None }),
        ]
    }

    /// The tombstones of the group with all its members (`createGroupTombstoneRecords`).
    pub fn tombstones(&self) -> Vec<Record> {
        let current = |member: &StrBytes| ConsumerRecord::CurrentAssignment { member: member.clone(), value: None };
        let target = |member: &StrBytes| ConsumerRecord::TargetAssignment { member: member.clone(), value: None };
        let member = |member: &StrBytes| ConsumerRecord::Member { member: member.clone(), value: None };
        let mut records: Vec<ConsumerRecord> = self.members.keys().map(current).collect();
        records.extend(self.members.keys().map(target));
        records.push(ConsumerRecord::TargetAssignmentEpoch(None));
        records.extend(self.members.keys().map(member));
        let regex = |regex: &StrBytes| ConsumerRecord::RegularExpression { regex: regex.clone(), value: None };
        records.extend(self.regexes.keys().map(regex));
        records.push(ConsumerRecord::PartitionMetadata(None));
        records.push(ConsumerRecord::Group(None));
        records.into_iter().map(|record| self.record(record)).collect()
    }

    /// The records of a group that was made from something else (`createConsumerGroupRecords`).
    pub fn records(&self) -> Vec<Record> {
        let target = |id: &StrBytes| self.target.get(id).cloned().unwrap_or_default();
        let mut records: Vec<Record> = self.members.values().map(|member| self.member_record(member)).collect();
        records.push(self.record(ConsumerRecord::Group(Some(self.epoch))));
        records.extend(self.members.keys().map(|id| self.target_record(id, &target(id))));
        records.push(self.record(ConsumerRecord::TargetAssignmentEpoch(Some(self.assignment_epoch))));
        records.extend(self.members.values().map(|member| self.current_record(member)));
        records
    }
}

fn validate_member_epoch(member: &Member, epoch: i32) -> Result<(), ErrorCode> {
    if epoch == member.current.member_epoch {
        return Ok(());
    }
    Err(if member.uses_classic_protocol() { ErrorCode::IllegalGeneration } else { ErrorCode::StaleMemberEpoch })
}

/// The assignor that most members ask for (`computePreferredServerAssignor`); of several the first by name, where Kafka
/// leaves it to a hash map.
pub(super) fn preferred_assignor<'a>(members: impl Iterator<Item = &'a Member>) -> Option<ServerAssignor> {
    let mut votes: BTreeMap<&StrBytes, usize> = BTreeMap::new();
    for assignor in members.filter_map(|member| member.metadata.server_assignor.as_ref()) {
        *votes.entry(assignor).or_default() += 1;
    }
    let most = votes.values().copied().max()?;
    let (name, _) = votes.into_iter().find(|(_, count)| *count == most)?;
    ServerAssignor::parse(name)
}
