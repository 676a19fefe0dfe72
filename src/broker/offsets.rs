//! ListOffsets and OffsetForLeaderEpoch (`ReplicaManager.fetchOffset`, `lastOffsetForLeaderEpoch`).

use std::collections::BTreeSet;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{ListOffsetsRequest, OffsetForLeaderEpochRequest, TopicName};

use super::Broker;
use super::connections::ReplyTo;
use crate::observe::Observation;
use crate::protocol::{ErrorCode, LeaderEpoch, TopicPartition};
use crate::replica::{OffsetAndTimestamp, Partition, ReplicaError};
use crate::world::{Endpoint, Time};

/// Timestamps of ListOffsets that mean something else, and the first version that knows them.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: (i64, i16) = (-3, 7);
const EARLIEST_LOCAL: (i64, i16) = (-4, 8);
const LATEST_TIERED: (i64, i16) = (-5, 9);

const CONSUMER_REPLICA_ID: i32 = -1;
const DEBUGGING_REPLICA_ID: i32 = -2;

fn epoch(epoch: i32) -> Option<LeaderEpoch> {
    (epoch >= 0).then_some(LeaderEpoch(epoch))
}

impl Broker {
    pub(super) fn handle_list_offsets(
        &mut self,
        now: Time,
        to: ReplyTo,
        request: &ListOffsetsRequest,
        net: &mut Endpoint,
    ) {
        let mut seen = BTreeSet::new();
        let mut duplicates = BTreeSet::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                let key = (&topic.name, partition.partition_index);
                if !seen.insert(key) {
                    duplicates.insert(key);
                }
            }
        }
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let answer = |partition: &ListOffsetsPartition| {
                let result = if duplicates.contains(&(&topic.name, partition.partition_index)) {
                    Err(ReplicaError::Refused(ErrorCode::InvalidRequest))
                } else {
                    self.list_offset(to.api_version, request.replica_id.0, &topic.name, partition)
                };
                (partition.partition_index, result)
            };
            let answers: Vec<_> = topic.partitions.iter().map(answer).collect();
            if request.replica_id.0 == CONSUMER_REPLICA_ID {
                self.observe_latest(now, topic, &answers);
            }
            let mut partitions = Vec::with_capacity(answers.len());
            for (index, result) in answers {
                let result = result.map_err(|error| self.code_of(&topic.name, index, error));
                partitions.push(offset_response(to.api_version, index, result));
            }
            topics.push(ListOffsetsTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions));
        }
        let response = ListOffsetsResponse::default().with_topics(topics);
        self.connections.respond::<ListOffsetsRequest>(to, &response, net);
    }

    fn observe_latest(
        &self,
        now: Time,
        topic: &ListOffsetsTopic,
        answers: &[(i32, Result<Option<OffsetAndTimestamp>, ReplicaError>)],
    ) {
        for (asked, (index, answer)) in topic.partitions.iter().zip(answers) {
            if let (LATEST, Ok(Some(found))) = (asked.timestamp, answer) {
                let partition = TopicPartition { topic: topic.name.clone(), partition: *index };
                self.env.observe(now, Observation::LatestOffset { partition, offset: found.offset });
            }
        }
    }

    fn list_offset(
        &self,
        api_version: i16,
        replica: i32,
        topic: &TopicName,
        asked: &ListOffsetsPartition,
    ) -> Result<Option<OffsetAndTimestamp>, ReplicaError> {
        let current = epoch(asked.current_leader_epoch);
        let is_client = replica == CONSUMER_REPLICA_ID;
        let requires_leader = replica != DEBUGGING_REPLICA_ID;
        let partition = self.partition_by_name(topic, asked.partition_index).map_err(ReplicaError::Refused)?;
        match asked.timestamp {
            LATEST => partition.latest_offset(current, is_client, requires_leader).map(Some),
            EARLIEST => partition.earliest_offset(current, requires_leader).map(Some),
            timestamp if timestamp >= 0 || (timestamp == MAX_TIMESTAMP.0 && api_version >= MAX_TIMESTAMP.1) => {
                partition.offset_for_timestamp(timestamp, current, is_client, requires_leader)
            }
            timestamp if timestamp == EARLIEST_LOCAL.0 && api_version >= EARLIEST_LOCAL.1 => {
                partition.earliest_offset(current, requires_leader).map(Some)
            }
            // There is no tiered storage.
            timestamp if timestamp == LATEST_TIERED.0 && api_version >= LATEST_TIERED.1 => Ok(None),
            _ => Err(ReplicaError::Refused(ErrorCode::UnsupportedVersion)),
        }
    }

    fn partition_by_name(&self, topic: &TopicName, index: i32) -> Result<&Partition, ErrorCode> {
        let id = self.env.image.topic_ids.get(topic.as_str());
        let key = self.known_partition(id.map(|id| (*id, index)))?;
        self.partitions.get(&key).map(|h| &h.partition).ok_or_else(|| self.why_not_here(key))
    }

    fn code_of(&mut self, topic: &TopicName, index: i32, error: ReplicaError) -> ErrorCode {
        match (error, self.env.image.topic_ids.get(topic.as_str())) {
            (ReplicaError::Refused(code), _) => code,
            (ReplicaError::Io(error), Some(id)) => {
                let (now, key) = (self.world.now(), (*id, index));
                self.storage_failed(now, key, error)
            }
            (ReplicaError::Io(_), None) => ErrorCode::UnknownTopicOrPartition,
        }
    }

    pub(super) fn handle_offset_for_leader_epoch(
        &mut self,
        to: ReplyTo,
        request: &OffsetForLeaderEpochRequest,
        net: &mut Endpoint,
    ) {
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let result = self
                    .partition_by_name(&topic.topic, asked.partition)
                    .map_err(ReplicaError::Refused)
                    .and_then(|p| {
                        p.offset_for_leader_epoch(epoch(asked.current_leader_epoch), LeaderEpoch(asked.leader_epoch))
                    })
                    .map_err(|error| self.code_of(&topic.topic, asked.partition, error));
                let answer = EpochEndOffset::default().with_partition(asked.partition);
                partitions.push(match result {
                    Ok(Some((epoch, end))) => answer.with_leader_epoch(epoch.0).with_end_offset(end.0),
                    Ok(None) => answer,
                    Err(error) => answer.with_error_code(error.code()),
                });
            }
            topics.push(
                OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone()).with_partitions(partitions),
            );
        }
        let response = OffsetForLeaderEpochResponse::default().with_topics(topics);
        self.connections.respond::<OffsetForLeaderEpochRequest>(to, &response, net);
    }
}

fn offset_response(
    api_version: i16,
    index: i32,
    result: Result<Option<OffsetAndTimestamp>, ErrorCode>,
) -> ListOffsetsPartitionResponse {
    let response =
        ListOffsetsPartitionResponse::default().with_partition_index(index).with_offset(-1).with_timestamp(-1);
    match result {
        Ok(Some(found)) => response
            .with_offset(found.offset.0)
            .with_timestamp(found.timestamp_ms)
            .with_leader_epoch(found.leader_epoch.filter(|_| api_version >= 4).map_or(-1, |e| e.0)),
        Ok(None) => response,
        // Older clients do not know OFFSET_NOT_AVAILABLE (KIP-207).
        Err(ErrorCode::OffsetNotAvailable) if api_version < 5 => {
            response.with_error_code(ErrorCode::LeaderNotAvailable.code())
        }
        Err(error) => response.with_error_code(error.code()),
    }
}
