//! What is asked of a group coordinator, and what it answers, each as Kafka's message.

use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, HeartbeatRequest, HeartbeatResponse,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use crate::protocol::ErrorCode;

/// Names a request until it is answered. The first answer counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// Who asks.
#[derive(Clone, Debug)]
pub struct RequestContext {
    pub api_version: i16,
    pub client_id: StrBytes,
    /// As Kafka prints an address: `/127.0.0.1`.
    pub client_host: StrBytes,
}

/// A request that concerns the groups of one partition of `__consumer_offsets`.
#[derive(Clone, Debug)]
pub enum GroupRequest {
    Join(JoinGroupRequest),
    Sync(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    /// Of a member of a consumer group (KIP-848).
    ConsumerHeartbeat(ConsumerGroupHeartbeatRequest),
    /// In the form of version 3 and later: members in `members`.
    Leave(LeaveGroupRequest),
    /// Of partitions that exist.
    Commit(OffsetCommitRequest),
    Fetch {
        group: OffsetFetchRequestGroup,
        require_stable: bool,
    },
    OffsetDelete(OffsetDeleteRequest),
    /// All of one partition.
    Describe(Vec<GroupId>),
    /// Consumer groups only, all of one partition.
    ConsumerDescribe(Vec<GroupId>),
    Delete(Vec<GroupId>),
}

/// The answer to the [`GroupRequest`] of the same name.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    ConsumerHeartbeat(ConsumerGroupHeartbeatResponse),
    Leave(LeaveGroupResponse),
    Commit(OffsetCommitResponse),
    Fetch(OffsetFetchResponseGroup),
    OffsetDelete(OffsetDeleteResponse),
    Describe(Vec<DescribedGroup>),
    ConsumerDescribe(Vec<DescribedConsumerGroup>),
    Delete(Vec<DeletableGroupResult>),
}

/// Why nothing was done about a request, with what Kafka says to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub error: ErrorCode,
    pub message: Option<String>,
}

impl Refusal {
    pub fn new(error: ErrorCode, message: &str) -> Refusal {
        Refusal { error, message: Some(message.to_owned()) }
    }

    /// The answer to a ConsumerGroupHeartbeat.
    pub fn into_answer(self) -> Answer {
        let response = ConsumerGroupHeartbeatResponse::default()
            .with_error_code(response_error(self.error).code())
            .with_error_message(self.message.map(StrBytes::from_string));
        Answer::ConsumerHeartbeat(response)
    }
}

impl From<ErrorCode> for Refusal {
    fn from(error: ErrorCode) -> Refusal {
        Refusal { error, message: None }
    }
}

impl GroupRequest {
    /// The group whose partition is asked; of several, any.
    pub fn group_id(&self) -> &str {
        match self {
            GroupRequest::Join(request) => &request.group_id.0,
            GroupRequest::Sync(request) => &request.group_id.0,
            GroupRequest::Heartbeat(request) => &request.group_id.0,
            GroupRequest::ConsumerHeartbeat(request) => &request.group_id.0,
            GroupRequest::Leave(request) => &request.group_id.0,
            GroupRequest::Commit(request) => &request.group_id.0,
            GroupRequest::Fetch { group, .. } => &group.group_id.0,
            GroupRequest::OffsetDelete(request) => &request.group_id.0,
            GroupRequest::Describe(groups) | GroupRequest::ConsumerDescribe(groups) | GroupRequest::Delete(groups) => {
                groups.first().map_or("", |id| &id.0)
            }
        }
    }

    /// The answer when nothing could be done about it, with the error that Kafka gives in the case
    /// (`GroupCoordinatorService`, `handleOperationException`).
    pub(super) fn failed(&self, error: ErrorCode) -> Answer {
        let error = response_error(error);
        let code = error.code();
        match self {
            GroupRequest::Join(request) => {
                let member_id = request.member_id.clone();
                Answer::Join(JoinGroupResponse::default().with_member_id(member_id).with_error_code(code))
            }
            GroupRequest::Sync(_) => Answer::Sync(SyncGroupResponse::default().with_error_code(code)),
            GroupRequest::Heartbeat(_) => {
                // While the group is loaded its members are taken to be alive.
                let code = if error == ErrorCode::CoordinatorLoadInProgress { 0 } else { code };
                Answer::Heartbeat(HeartbeatResponse::default().with_error_code(code))
            }
            GroupRequest::ConsumerHeartbeat(_) => Refusal::from(error).into_answer(),
            GroupRequest::Leave(request) => Answer::Leave(leave_failed(request, error)),
            GroupRequest::Commit(request) => Answer::Commit(commit_failed(request, code)),
            GroupRequest::Fetch { group, .. } => Answer::Fetch(fetch_failed(group.group_id.clone(), error)),
            GroupRequest::OffsetDelete(_) => {
                Answer::OffsetDelete(OffsetDeleteResponse::default().with_error_code(code))
            }
            GroupRequest::Describe(groups) => {
                let failed = |id: &GroupId| DescribedGroup::default().with_group_id(id.clone()).with_error_code(code);
                Answer::Describe(groups.iter().map(failed).collect())
            }
            GroupRequest::ConsumerDescribe(groups) => {
                let failed =
                    |id: &GroupId| DescribedConsumerGroup::default().with_group_id(id.clone()).with_error_code(code);
                Answer::ConsumerDescribe(groups.iter().map(failed).collect())
            }
            GroupRequest::Delete(groups) => {
                let failed =
                    |id: &GroupId| DeletableGroupResult::default().with_group_id(id.clone()).with_error_code(code);
                Answer::Delete(groups.iter().map(failed).collect())
            }
        }
    }
}

fn leave_failed(request: &LeaveGroupRequest, error: ErrorCode) -> LeaveGroupResponse {
    use kafka_protocol::messages::leave_group_response::MemberResponse;
    if error != ErrorCode::UnknownMemberId {
        return LeaveGroupResponse::default().with_error_code(error.code());
    }
    // The group is not there, and none of the members.
    let members = request.members.iter().map(|member| {
        MemberResponse::default()
            .with_member_id(member.member_id.clone())
            .with_group_instance_id(member.group_instance_id.clone())
            .with_error_code(error.code())
    });
    LeaveGroupResponse::default().with_members(members.collect())
}

fn commit_failed(request: &OffsetCommitRequest, code: i16) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let failed = topic.partitions.iter().map(|partition| {
            let answer = OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index);
            answer.with_error_code(code)
        });
        OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(failed.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// Consumers before 3.9 do not try again after COORDINATOR_NOT_AVAILABLE (`handleOffsetFetchException`).
fn fetch_failed(group: GroupId, error: ErrorCode) -> OffsetFetchResponseGroup {
    let error = if error == ErrorCode::CoordinatorNotAvailable { ErrorCode::NotCoordinator } else { error };
    OffsetFetchResponseGroup::default().with_group_id(group).with_error_code(error.code())
}

impl Answer {
    /// What it becomes when its records cannot be committed.
    pub(super) fn failed(self, error: ErrorCode) -> Answer {
        let error = response_error(error);
        let code = error.code();
        match self {
            Answer::Join(response) => Answer::Join(response.with_error_code(code)),
            Answer::Sync(_) => Answer::Sync(SyncGroupResponse::default().with_error_code(code)),
            Answer::Heartbeat(_) => Answer::Heartbeat(HeartbeatResponse::default().with_error_code(code)),
            Answer::ConsumerHeartbeat(_) => Refusal::from(error).into_answer(),
            Answer::Leave(_) => Answer::Leave(LeaveGroupResponse::default().with_error_code(code)),
            Answer::Commit(mut response) => {
                let partitions = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
                partitions.for_each(|partition| partition.error_code = code);
                Answer::Commit(response)
            }
            Answer::Fetch(response) => Answer::Fetch(fetch_failed(response.group_id, error)),
            Answer::OffsetDelete(_) => Answer::OffsetDelete(OffsetDeleteResponse::default().with_error_code(code)),
            Answer::Describe(mut groups) => {
                groups.iter_mut().for_each(|group| group.error_code = code);
                Answer::Describe(groups)
            }
            Answer::ConsumerDescribe(mut groups) => {
                groups.iter_mut().for_each(|group| group.error_code = code);
                Answer::ConsumerDescribe(groups)
            }
            Answer::Delete(mut results) => {
                results.iter_mut().for_each(|result| result.error_code = code);
                Answer::Delete(results)
            }
        }
    }
}

/// What a client is told of an error of the log (`CoordinatorOperationExceptionHelper`,
/// `appendGroupMetadataErrorToResponseError`).
pub(super) fn response_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition | ErrorCode::NotEnoughReplicas | ErrorCode::RequestTimedOut => {
            ErrorCode::CoordinatorNotAvailable
        }
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => ErrorCode::UnknownServerError,
        other => other,
    }
}
