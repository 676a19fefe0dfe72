//! Committed offsets (`OffsetMetadataManager`).
//!
//! A commit is in the state as soon as it is appended; until it is committed, readers that do not ask for stable offsets
//! see what was there before (Kafka keeps timeline data structures for that).

use std::collections::BTreeMap;

use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::classic::State;
use super::record::{OffsetAndMetadata, Record};
use super::shard::{Group, Moment, Outcome, Shard, offset_tombstone};
use super::timers::TimerKey;
use super::{Answer, Ticket};
use crate::protocol::{ErrorCode, Offset, duration_of};

/// `INVALID_OFFSET` and `NO_PARTITION_LEADER_EPOCH`
const NONE: (i64, i32) = (-1, -1);

/// From this version of OffsetCommit on an unknown group is told as such.
const COMMIT_KNOWS_GROUP_ID_NOT_FOUND: i16 = 9;

/// What was written for one partition: the last one that is committed, and those after it, in order.
#[derive(Default)]
struct Written {
    versions: Vec<(Offset, Option<OffsetAndMetadata>)>,
}

impl Written {
    fn latest(&self) -> Option<&OffsetAndMetadata> {
        self.versions.last()?.1.as_ref()
    }

    fn at(&self, committed: Offset) -> Option<&OffsetAndMetadata> {
        self.versions.iter().rev().find(|(offset, _)| *offset < committed)?.1.as_ref()
    }
}

/// By (topic, partition).
type OfGroup = BTreeMap<StrBytes, BTreeMap<i32, Written>>;

/// The offsets of a shard's groups.
pub(super) struct Offsets {
    by_group: BTreeMap<StrBytes, OfGroup>,
    /// Records below it are committed: what they replaced is not asked for again.
    committed: Offset,
}

impl Offsets {
    pub fn new() -> Offsets {
        Offsets { by_group: BTreeMap::new(), committed: Offset::ZERO }
    }

    pub fn set_committed(&mut self, committed: Offset) {
        self.committed = committed;
    }

    /// Forgets committed tombstones.
    pub fn prune(&mut self) {
        let committed = self.committed;
        let is_gone = |written: &Written| matches!(&written.versions[..], [(offset, None)] if *offset < committed);
        for topics in self.by_group.values_mut() {
            for partitions in topics.values_mut() {
                partitions.retain(|_, written| !is_gone(written));
            }
            topics.retain(|_, partitions| !partitions.is_empty());
        }
        self.by_group.retain(|_, topics| !topics.is_empty());
    }

    /// Takes in the record at `offset`; `None` removes.
    pub fn put(
        &mut self,
        offset: Offset,
        group: &StrBytes,
        topic: &StrBytes,
        partition: i32,
        value: Option<OffsetAndMetadata>,
    ) {
        let topics = self.by_group.entry(group.clone()).or_default();
        let partitions = topics.entry(topic.clone()).or_default();
        let versions = &mut partitions.entry(partition).or_default().versions;
        versions.push((offset, value));
        let committed = versions.iter().rposition(|(offset, _)| *offset < self.committed).unwrap_or(0);
        versions.drain(..committed);
    }

    fn get(&self, group: &StrBytes, topic: &StrBytes, partition: i32) -> Option<&Written> {
        self.by_group.get(group)?.get(topic)?.get(&partition)
    }

    /// (topic, partition, offset) of everything that a group has, committed or not.
    pub fn latest_of(&self, group: &StrBytes) -> impl Iterator<Item = (&StrBytes, i32, &OffsetAndMetadata)> {
        let topics = self.by_group.get(group).into_iter().flatten();
        topics.flat_map(|(topic, partitions)| {
            partitions.iter().filter_map(move |(partition, written)| Some((topic, *partition, written.latest()?)))
        })
    }

    pub fn groups(&self) -> impl Iterator<Item = &StrBytes> {
        self.by_group.keys()
    }
}

impl Shard {
    /// `commitOffset`
    pub fn commit_offsets(
        &mut self,
        moment: Moment<'_>,
        api_version: i16,
        request: &OffsetCommitRequest,
        ticket: Ticket,
    ) -> Result<Outcome, ErrorCode> {
        self.validate_offset_commit(api_version, request)?;
        self.refresh_session(moment, &request.group_id.0, &request.member_id);
        let expire_timestamp_ms = (request.retention_time_ms >= 0).then(|| moment.wall_ms + request.retention_time_ms);
        let mut response = OffsetCommitResponse::default();
        let mut records = Vec::new();
        for topic in &request.topics {
            let mut answers = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let metadata = partition.committed_metadata.clone().unwrap_or_default();
                let answer = OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index);
                if metadata.len() > self.config.offset_metadata_max_bytes {
                    answers.push(answer.with_error_code(ErrorCode::OffsetMetadataTooLarge.code()));
                    continue;
                }
                answers.push(answer);
                records.push(Record::OffsetCommit {
                    group: request.group_id.0.clone(),
                    topic: topic.name.0.clone(),
                    partition: partition.partition_index,
                    value: Some(OffsetAndMetadata {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata,
                        commit_timestamp_ms: moment.wall_ms,
                        expire_timestamp_ms,
                    }),
                });
            }
            let topic = OffsetCommitResponseTopic::default().with_name(topic.name.clone());
            response.topics.push(topic.with_partitions(answers));
        }
        Ok(Outcome::write(records, ticket, Answer::Commit(response)))
    }

    /// `ClassicGroup.validateOffsetCommit`, and the simple group that a commit without membership makes.
    fn validate_offset_commit(&self, api_version: i16, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        let group = match self.groups.get(&request.group_id.0) {
            Some(Group::Classic(group)) => group,
            Some(Group::Consumer(group)) => {
                return group.validate_offset_commit(api_version, &request.member_id, generation);
            }
            None => {
                return match api_version {
                    _ if generation < 0 => Ok(()),
                    COMMIT_KNOWS_GROUP_ID_NOT_FOUND.. => Err(ErrorCode::GroupIdNotFound),
                    _ => Err(ErrorCode::IllegalGeneration),
                };
            }
        };
        // An administrator, or a consumer that is no member.
        if generation < 0 && group.state == State::Empty {
            return Ok(());
        }
        let is_member = generation >= 0 || !request.member_id.is_empty() || request.group_instance_id.is_some();
        if !is_member {
            return Err(ErrorCode::UnknownMemberId);
        }
        group.validate_member(&request.member_id, request.group_instance_id.as_ref())?;
        if generation != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        // It knows the new generation, and commits what it had in the old one.
        if group.state == State::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// A commit is a sign of life (of members of the classic protocol).
    fn refresh_session(&mut self, moment: Moment<'_>, group: &StrBytes, member: &StrBytes) {
        let Some(Group::Classic(group)) = self.groups.get(group) else { return };
        if !matches!(group.state, State::Stable | State::PreparingRebalance) {
            return;
        }
        if let Some(member) = group.members.get(member) {
            let timeout = duration_of(member.session_timeout_ms);
            let key = TimerKey::Heartbeat { group: group.id.clone(), member: member.id.clone() };
            self.timers.set(key, moment.now + timeout);
        }
    }

    /// A member of a consumer group names itself and its epoch. An unknown group has no offsets, which is no error.
    pub fn validate_offset_fetch(&self, request: &OffsetFetchRequestGroup) -> Result<(), ErrorCode> {
        match self.groups.get(&request.group_id.0) {
            Some(Group::Consumer(group)) => {
                group.validate_offset_fetch(request.member_id.as_ref(), request.member_epoch)
            }
            Some(Group::Classic(_)) | None => Ok(()),
        }
    }

    /// `fetchOffsets` and `fetchAllOffsets`. `committed`: the state up to there; `None`: all that is written.
    pub fn fetch_offsets(
        &self,
        request: &OffsetFetchRequestGroup,
        committed: Option<Offset>,
    ) -> OffsetFetchResponseGroup {
        let group = &request.group_id.0;
        let seen = |written: &'_ Written| match committed {
            Some(committed) => written.at(committed).cloned(),
            None => written.latest().cloned(),
        };
        let topics = match &request.topics {
            Some(topics) => {
                let one = |topic: &TopicName, partition: i32| {
                    let written = self.offsets.get(group, &topic.0, partition);
                    fetched(partition, written.and_then(seen).as_ref())
                };
                let topic = |name: &TopicName, partitions: &[i32]| {
                    OffsetFetchResponseTopics::default()
                        .with_name(name.clone())
                        .with_partitions(partitions.iter().map(|partition| one(name, *partition)).collect())
                };
                topics.iter().map(|asked| topic(&asked.name, &asked.partition_indexes)).collect()
            }
            None => {
                let topics = self.offsets.by_group.get(group).into_iter().flatten();
                let all = topics.map(|(name, partitions)| {
                    let found = partitions.iter().filter_map(|(index, written)| Some((*index, seen(written)?)));
                    OffsetFetchResponseTopics::default()
                        .with_name(TopicName(name.clone()))
                        .with_partitions(found.map(|(index, value)| fetched(index, Some(&value))).collect())
                });
                all.filter(|topic| !topic.partitions.is_empty()).collect()
            }
        };
        OffsetFetchResponseGroup::default().with_group_id(request.group_id.clone()).with_topics(topics)
    }

    /// `deleteOffsets`
    pub fn delete_offsets(&mut self, request: &OffsetDeleteRequest, ticket: Ticket) -> Result<Outcome, ErrorCode> {
        let id = &request.group_id.0;
        let group = self.groups.get(id).ok_or(ErrorCode::GroupIdNotFound)?;
        if let Group::Classic(group) = group
            && group.state != State::Empty
            && !group.uses_consumer_protocol()
        {
            return Err(ErrorCode::NonEmptyGroup);
        }
        let mut records = Vec::new();
        let mut topics = Vec::new();
        for topic in &request.topics {
            let error = group.is_subscribed_to(&topic.name.0).then_some(ErrorCode::GroupSubscribedToTopic);
            let mut partitions = Vec::new();
            for partition in &topic.partitions {
                let index = partition.partition_index;
                let has_offset = self.offsets.get(id, &topic.name.0, index).is_some_and(|w| w.latest().is_some());
                if error.is_none() && has_offset {
                    records.push(offset_tombstone(id, &topic.name.0, index));
                }
                let error_code = error.map_or(0, |error| error.code());
                let answer = OffsetDeleteResponsePartition::default().with_partition_index(index);
                partitions.push(answer.with_error_code(error_code));
            }
            let answer = OffsetDeleteResponseTopic::default().with_name(topic.name.clone());
            topics.push(answer.with_partitions(partitions));
        }
        let response = OffsetDeleteResponse::default().with_topics(topics);
        Ok(Outcome::write(records, ticket, Answer::OffsetDelete(response)))
    }

    /// The tombstones of all offsets of a topic that has been deleted (`onPartitionsDeleted`).
    pub fn forget_topic(&self, topic: &StrBytes) -> Outcome {
        let mut records = Vec::new();
        for group in self.offsets.groups() {
            let of_topic = self.offsets.latest_of(group).filter(|(name, ..)| *name == topic);
            records.extend(of_topic.map(|(topic, partition, _)| offset_tombstone(group, topic, partition)));
        }
        Outcome { records, replay: true, ..Outcome::default() }
    }
}

fn fetched(partition: i32, value: Option<&OffsetAndMetadata>) -> OffsetFetchResponsePartitions {
    let (offset, leader_epoch) = value.map_or(NONE, |value| (value.offset, value.leader_epoch));
    OffsetFetchResponsePartitions::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(leader_epoch)
        .with_metadata(Some(value.map(|value| value.metadata.clone()).unwrap_or_default()))
}
