//! The coordinator's answers in the version that was asked in.

use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponse, OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, OffsetCommitRequest,
    OffsetDeleteRequest, OffsetFetchRequest, SyncGroupRequest,
};

use super::Refused;
use crate::broker::Broker;
use crate::broker::connections::ReplyTo;
use crate::coordinator::Answer;
use crate::world::Endpoint;

/// From this version on the protocol of a JoinGroup response may be null.
const JOIN_PROTOCOL_IS_NULLABLE: i16 = 7;
const LEAVE_NAMES_MEMBERS: i16 = 3;
const FETCH_NAMES_GROUPS: i16 = 8;
/// From this version on an OffsetFetch response has an error for all.
const FETCH_HAS_ERROR: i16 = 2;

impl Broker {
    pub(super) fn respond_group(&mut self, to: ReplyTo, answer: Answer, refused: Refused, net: &mut Endpoint) {
        match answer {
            Answer::Join(response) => {
                let response = join_in_version(response, to.api_version);
                self.connections.respond::<JoinGroupRequest>(to, &response, net);
            }
            Answer::Sync(response) => self.connections.respond::<SyncGroupRequest>(to, &response, net),
            Answer::Heartbeat(response) => self.connections.respond::<HeartbeatRequest>(to, &response, net),
            Answer::ConsumerHeartbeat(response) => {
                self.connections.respond::<ConsumerGroupHeartbeatRequest>(to, &response, net);
            }
            Answer::Leave(response) => {
                let response = leave_in_version(response, to.api_version);
                self.connections.respond::<LeaveGroupRequest>(to, &response, net);
            }
            Answer::Commit(mut response) => {
                if let Refused::Commits(topics) = refused {
                    for topic in topics {
                        match response.topics.iter_mut().find(|other| other.name == topic.name) {
                            Some(other) => other.partitions.extend(topic.partitions),
                            None => response.topics.push(topic),
                        }
                    }
                }
                self.connections.respond::<OffsetCommitRequest>(to, &response, net);
            }
            Answer::OffsetDelete(mut response) => {
                if let Refused::Deletions(topics) = refused
                    && response.error_code == 0
                {
                    for topic in topics {
                        match response.topics.iter_mut().find(|other| other.name == topic.name) {
                            Some(other) => other.partitions.extend(topic.partitions),
                            None => response.topics.push(topic),
                        }
                    }
                }
                self.connections.respond::<OffsetDeleteRequest>(to, &response, net);
            }
            Answer::Fetch(_) | Answer::Describe(_) | Answer::ConsumerDescribe(_) | Answer::Delete(_) => {
                unreachable!("these are gathered")
            }
        }
    }

    /// The response to a request of `api_key` whose parts are all there.
    pub(super) fn respond_gathered(&mut self, to: ReplyTo, api_key: ApiKey, parts: Vec<Answer>, net: &mut Endpoint) {
        let (mut fetched, mut described, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
        let mut described_consumer = Vec::new();
        for part in parts {
            match part {
                Answer::Fetch(group) => fetched.push(group),
                Answer::Describe(groups) => described.extend(groups),
                Answer::ConsumerDescribe(groups) => described_consumer.extend(groups),
                Answer::Delete(results) => deleted.extend(results),
                Answer::Join(_)
                | Answer::Sync(_)
                | Answer::Heartbeat(_)
                | Answer::ConsumerHeartbeat(_)
                | Answer::Leave(_)
                | Answer::Commit(_)
                | Answer::OffsetDelete(_) => unreachable!("these concern one partition"),
            }
        }
        match api_key {
            ApiKey::OffsetFetch => {
                let response = fetch_in_version(fetched, to.api_version);
                self.connections.respond::<OffsetFetchRequest>(to, &response, net);
            }
            ApiKey::DescribeGroups => {
                let response = DescribeGroupsResponse::default().with_groups(described);
                self.connections.respond::<DescribeGroupsRequest>(to, &response, net);
            }
            ApiKey::ConsumerGroupDescribe => {
                let response = ConsumerGroupDescribeResponse::default().with_groups(described_consumer);
                self.connections.respond::<ConsumerGroupDescribeRequest>(to, &response, net);
            }
            ApiKey::DeleteGroups => {
                let response = DeleteGroupsResponse::default().with_results(deleted);
                self.connections.respond::<DeleteGroupsRequest>(to, &response, net);
            }
            _ => unreachable!("no other request is gathered"),
        }
    }
}

fn join_in_version(mut response: JoinGroupResponse, api_version: i16) -> JoinGroupResponse {
    if api_version < JOIN_PROTOCOL_IS_NULLABLE {
        response.protocol_name.get_or_insert_default();
    }
    response
}

/// Below version 3 there was one member, whose error is that of the response.
fn leave_in_version(response: LeaveGroupResponse, api_version: i16) -> LeaveGroupResponse {
    if api_version >= LEAVE_NAMES_MEMBERS {
        return response;
    }
    let of_member = response.members.first().map_or(0, |member| member.error_code);
    let error_code = if response.error_code == 0 { of_member } else { response.error_code };
    LeaveGroupResponse::default().with_error_code(error_code)
}

/// Below version 8 there was one group.
fn fetch_in_version(mut groups: Vec<OffsetFetchResponseGroup>, api_version: i16) -> OffsetFetchResponse {
    if api_version >= FETCH_NAMES_GROUPS {
        return OffsetFetchResponse::default().with_groups(groups);
    }
    let Some(group) = groups.pop() else { return OffsetFetchResponse::default() };
    let error_code = group.error_code;
    let topics = group.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_metadata(partition.metadata)
                .with_error_code(if api_version < FETCH_HAS_ERROR { error_code } else { partition.error_code })
        });
        OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    let response = OffsetFetchResponse::default().with_topics(topics.collect());
    if api_version >= FETCH_HAS_ERROR { response.with_error_code(error_code) } else { response }
}
