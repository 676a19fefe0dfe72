//! Requests about groups, taken apart for the coordinator (`KafkaApis`).

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{
    ApiKey, ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, DeleteGroupsRequest, DescribeGroupsRequest,
    GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, ListGroupsResponse,
    OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, SyncGroupRequest, TopicName,
};

use super::{Gathering, Refused, Waiting};
use crate::broker::Broker;
use crate::broker::connections::ReplyTo;
use crate::coordinator::{Answer, GroupRequest, RequestContext, Ticket, by_partition, partition_for};
use crate::protocol::ErrorCode;
use crate::protocol::wire::RequestFrame;
use crate::world::{Endpoint, Time};

/// Version 0 of JoinGroup knows one timeout only.
const JOIN_HAS_REBALANCE_TIMEOUT: i16 = 1;
/// From this version on a LeaveGroup names several members.
const LEAVE_NAMES_MEMBERS: i16 = 3;
/// From this version on a SyncGroup says which protocol it is about.
const SYNC_NAMES_PROTOCOL: i16 = 5;
/// From this version on an OffsetFetch asks for several groups (KIP-709).
const FETCH_NAMES_GROUPS: i16 = 8;

impl Broker {
    /// Handles a request about groups; false if `key` is none.
    pub(in crate::broker) fn handle_group_request(
        &mut self,
        now: Time,
        key: ApiKey,
        to: ReplyTo,
        frame: &RequestFrame,
        net: &mut Endpoint,
    ) -> bool {
        match key {
            ApiKey::JoinGroup => {
                if let Some(mut body) = self.decode::<JoinGroupRequest>(to, frame, net) {
                    if to.api_version < JOIN_HAS_REBALANCE_TIMEOUT {
                        body.rebalance_timeout_ms = body.session_timeout_ms;
                    }
                    self.ask_coordinator(now, to, frame, GroupRequest::Join(body), Refused::Nothing);
                }
            }
            ApiKey::SyncGroup => {
                if let Some(body) = self.decode::<SyncGroupRequest>(to, frame, net) {
                    self.handle_sync_group(now, to, frame, body, net);
                }
            }
            ApiKey::Heartbeat => {
                if let Some(body) = self.decode::<HeartbeatRequest>(to, frame, net) {
                    self.ask_coordinator(now, to, frame, GroupRequest::Heartbeat(body), Refused::Nothing);
                }
            }
            ApiKey::ConsumerGroupHeartbeat => {
                if let Some(body) = self.decode::<ConsumerGroupHeartbeatRequest>(to, frame, net) {
                    self.ask_coordinator(now, to, frame, GroupRequest::ConsumerHeartbeat(body), Refused::Nothing);
                }
            }
            ApiKey::LeaveGroup => {
                if let Some(mut body) = self.decode::<LeaveGroupRequest>(to, frame, net) {
                    if to.api_version < LEAVE_NAMES_MEMBERS {
                        let member = MemberIdentity::default().with_member_id(std::mem::take(&mut body.member_id));
                        body.members = vec![member];
                    }
                    self.ask_coordinator(now, to, frame, GroupRequest::Leave(body), Refused::Nothing);
                }
            }
            ApiKey::OffsetCommit => {
                if let Some(body) = self.decode::<OffsetCommitRequest>(to, frame, net) {
                    self.handle_offset_commit(now, to, frame, body, net);
                }
            }
            ApiKey::OffsetFetch => {
                if let Some(body) = self.decode::<OffsetFetchRequest>(to, frame, net) {
                    self.handle_offset_fetch(now, to, frame, body, net);
                }
            }
            ApiKey::OffsetDelete => {
                if let Some(body) = self.decode::<OffsetDeleteRequest>(to, frame, net) {
                    self.handle_offset_delete(now, to, frame, body);
                }
            }
            ApiKey::ListGroups => {
                if let Some(body) = self.decode::<ListGroupsRequest>(to, frame, net) {
                    self.handle_list_groups(to, &body, net);
                }
            }
            ApiKey::DescribeGroups => {
                if let Some(body) = self.decode::<DescribeGroupsRequest>(to, frame, net) {
                    self.ask_by_partition(now, to, (key, frame), &body.groups, GroupRequest::Describe, net);
                }
            }
            ApiKey::ConsumerGroupDescribe => {
                if let Some(body) = self.decode::<ConsumerGroupDescribeRequest>(to, frame, net) {
                    self.ask_by_partition(now, to, (key, frame), &body.group_ids, GroupRequest::ConsumerDescribe, net);
                }
            }
            ApiKey::DeleteGroups => {
                if let Some(body) = self.decode::<DeleteGroupsRequest>(to, frame, net) {
                    let mut groups = body.groups_names;
                    let mut seen = std::collections::BTreeSet::new();
                    groups.retain(|group| seen.insert(group.clone()));
                    self.ask_by_partition(now, to, (key, frame), &groups, GroupRequest::Delete, net);
                }
            }
            _ => return false,
        }
        true
    }

    fn ask_coordinator(
        &mut self,
        now: Time,
        to: ReplyTo,
        frame: &RequestFrame,
        request: GroupRequest,
        refused: Refused,
    ) {
        let partition = partition_for(request.group_id(), self.offsets_partitions());
        let ticket = self.groups.ticket(Waiting::Whole(to, refused));
        self.hand_over(now, to, frame, (partition, &request), ticket);
    }

    fn hand_over(
        &mut self,
        now: Time,
        to: ReplyTo,
        frame: &RequestFrame,
        (partition, request): (i32, &GroupRequest),
        ticket: Ticket,
    ) {
        let context = RequestContext {
            api_version: frame.api_version,
            client_id: frame.client_id.clone().unwrap_or_default(),
            client_host: self.connections.client_host(to.conn),
        };
        self.coordinate(now, |groups, clock, logs| groups.handle(clock, partition, &context, request, ticket, logs));
    }

    /// Asks several partitions; their answers together are the response.
    fn ask_all(
        &mut self,
        now: Time,
        to: ReplyTo,
        (key, frame): (ApiKey, &RequestFrame),
        requests: &[(i32, GroupRequest)],
        net: &mut Endpoint,
    ) {
        if requests.is_empty() {
            return self.respond_gathered(to, key, Vec::new(), net);
        }
        let id = self.groups.last_ticket;
        let tickets: Vec<Ticket> = requests.iter().map(|_| self.groups.ticket(Waiting::Part(id))).collect();
        let parts = tickets.iter().map(|ticket| (*ticket, None)).collect();
        self.groups.gathering.insert(id, Gathering { to, key, parts });
        for ((partition, request), ticket) in requests.iter().zip(tickets) {
            self.hand_over(now, to, frame, (*partition, request), ticket);
        }
    }

    fn ask_by_partition(
        &mut self,
        now: Time,
        to: ReplyTo,
        (key, frame): (ApiKey, &RequestFrame),
        groups: &[GroupId],
        request: impl Fn(Vec<GroupId>) -> GroupRequest,
        net: &mut Endpoint,
    ) {
        let groups = by_partition(groups, self.offsets_partitions());
        let requests: Vec<_> = groups.into_iter().map(|(partition, groups)| (partition, request(groups))).collect();
        self.ask_all(now, to, (key, frame), &requests, net);
    }

    fn handle_sync_group(
        &mut self,
        now: Time,
        to: ReplyTo,
        frame: &RequestFrame,
        request: SyncGroupRequest,
        net: &mut Endpoint,
    ) {
        let names_protocol = request.protocol_type.is_some() && request.protocol_name.is_some();
        if to.api_version >= SYNC_NAMES_PROTOCOL && !names_protocol {
            let response = kafka_protocol::messages::SyncGroupResponse::default()
                .with_error_code(ErrorCode::InconsistentGroupProtocol.code());
            return self.respond_group(to, Answer::Sync(response), Refused::Nothing, net);
        }
        self.ask_coordinator(now, to, frame, GroupRequest::Sync(request), Refused::Nothing);
    }

    fn handle_offset_commit(
        &mut self,
        now: Time,
        to: ReplyTo,
        frame: &RequestFrame,
        mut request: OffsetCommitRequest,
        net: &mut Endpoint,
    ) {
        let mut refused = Vec::new();
        for topic in &mut request.topics {
            let unknown = self.take_unknown(&topic.name, &mut topic.partitions, |partition| partition.partition_index);
            if !unknown.is_empty() {
                let failed = unknown.into_iter().map(|index| {
                    OffsetCommitResponsePartition::default()
                        .with_partition_index(index)
                        .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
                });
                let answer = OffsetCommitResponseTopic::default().with_name(topic.name.clone());
                refused.push(answer.with_partitions(failed.collect()));
            }
        }
        request.topics.retain(|topic| !topic.partitions.is_empty());
        if request.topics.is_empty() {
            return self.respond_group(to, Answer::Commit(Default::default()), Refused::Commits(refused), net);
        }
        self.ask_coordinator(now, to, frame, GroupRequest::Commit(request), Refused::Commits(refused));
    }

    fn handle_offset_delete(&mut self, now: Time, to: ReplyTo, frame: &RequestFrame, mut request: OffsetDeleteRequest) {
        let mut refused = Vec::new();
        for topic in &mut request.topics {
            let unknown = self.take_unknown(&topic.name, &mut topic.partitions, |partition| partition.partition_index);
            if !unknown.is_empty() {
                let failed = unknown.into_iter().map(|index| {
                    OffsetDeleteResponsePartition::default()
                        .with_partition_index(index)
                        .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
                });
                let answer = OffsetDeleteResponseTopic::default().with_name(topic.name.clone());
                refused.push(answer.with_partitions(failed.collect()));
            }
        }
        request.topics.retain(|topic| !topic.partitions.is_empty());
        self.ask_coordinator(now, to, frame, GroupRequest::OffsetDelete(request), Refused::Deletions(refused));
    }

    /// Takes out the partitions of `topic` that do not exist; returns their indexes.
    fn take_unknown<P>(&self, topic: &TopicName, partitions: &mut Vec<P>, index: impl Fn(&P) -> i32) -> Vec<i32> {
        let topic = self.env.image.topic(topic.as_str());
        let is_unknown = |partition: &mut P| topic.is_none_or(|t| !t.partitions.contains_key(&index(partition)));
        partitions.extract_if(.., is_unknown).map(|partition| index(&partition)).collect()
    }

    fn handle_offset_fetch(
        &mut self,
        now: Time,
        to: ReplyTo,
        frame: &RequestFrame,
        request: OffsetFetchRequest,
        net: &mut Endpoint,
    ) {
        let groups = if to.api_version >= FETCH_NAMES_GROUPS {
            request.groups
        } else {
            let topics = request.topics.map(|topics| {
                let one = |topic: kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic| {
                    OffsetFetchRequestTopics::default()
                        .with_name(topic.name)
                        .with_partition_indexes(topic.partition_indexes)
                };
                topics.into_iter().map(one).collect()
            });
            vec![OffsetFetchRequestGroup::default().with_group_id(request.group_id).with_topics(topics)]
        };
        let require_stable = request.require_stable;
        let partitions = self.offsets_partitions();
        let fetch = |group: OffsetFetchRequestGroup| {
            (partition_for(&group.group_id.0, partitions), GroupRequest::Fetch { group, require_stable })
        };
        let requests: Vec<_> = groups.into_iter().map(fetch).collect();
        self.ask_all(now, to, (ApiKey::OffsetFetch, frame), &requests, net);
    }

    fn handle_list_groups(&mut self, to: ReplyTo, request: &ListGroupsRequest, net: &mut Endpoint) {
        let listed = self.groups.coordinator.list_groups(&request.states_filter, &request.types_filter);
        let response = match listed {
            Ok(groups) => ListGroupsResponse::default().with_groups(groups),
            Err(error) => ListGroupsResponse::default().with_error_code(error.code()),
        };
        self.connections.respond::<ListGroupsRequest>(to, &response, net);
    }
}
