//! A member of a classic group (`ClassicGroupMember`).

use bytes::Bytes;
use kafka_protocol::messages::JoinGroupRequest;
use kafka_protocol::messages::describe_groups_response::DescribedGroupMember;
use kafka_protocol::protocol::StrBytes;

use crate::coordinator::record::MemberMetadata;
use crate::coordinator::{RequestContext, Ticket};

/// The protocols (assignors) that a member supports, the preferred one first, each with its subscription.
pub(in crate::coordinator) type Protocols = Vec<(StrBytes, Bytes)>;

#[derive(Clone, Debug)]
pub(in crate::coordinator) struct Member {
    pub id: StrBytes,
    /// `group.instance.id`: a static member (KIP-345).
    pub instance_id: Option<StrBytes>,
    pub client_id: StrBytes,
    pub client_host: StrBytes,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub protocol_type: StrBytes,
    pub protocols: Protocols,
    pub assignment: Bytes,
    /// Assignments before this one, of which it may consume what is not in this one until it hears of another. Nothing is
    /// decided by them, and they are not persisted.
    pub withdrawn: Vec<Bytes>,
    /// Its JoinGroup or SyncGroup that has not been answered.
    pub awaiting_join: Option<Ticket>,
    pub awaiting_sync: Option<Ticket>,
    /// Its first JoinGroup has not been answered: it cannot send heartbeats.
    pub is_new: bool,
}

/// The protocols of a JoinGroup request.
pub(in crate::coordinator) fn protocols_of(request: &JoinGroupRequest) -> Protocols {
    request.protocols.iter().map(|protocol| (protocol.name.clone(), protocol.metadata.clone())).collect()
}

impl Member {
    pub fn new(id: StrBytes, context: &RequestContext, request: &JoinGroupRequest) -> Member {
        Member {
            id,
            instance_id: request.group_instance_id.clone(),
            client_id: context.client_id.clone(),
            client_host: context.client_host.clone(),
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
            protocol_type: request.protocol_type.clone(),
            protocols: protocols_of(request),
            assignment: Bytes::new(),
            withdrawn: Vec::new(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: true,
        }
    }

    pub fn from_record(record: MemberMetadata, protocol: &StrBytes, protocol_type: StrBytes) -> Member {
        Member {
            id: record.member_id,
            instance_id: record.group_instance_id,
            client_id: record.client_id,
            client_host: record.client_host,
            rebalance_timeout_ms: record.rebalance_timeout_ms,
            session_timeout_ms: record.session_timeout_ms,
            protocol_type,
            protocols: vec![(protocol.clone(), record.subscription)],
            assignment: record.assignment,
            withdrawn: Vec::new(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
        }
    }

    /// It joins again, perhaps with something else (`ClassicGroup.updateMember`).
    pub fn update(&mut self, request: &JoinGroupRequest, ticket: Ticket) {
        self.protocols = protocols_of(request);
        self.rebalance_timeout_ms = request.rebalance_timeout_ms;
        self.session_timeout_ms = request.session_timeout_ms;
        self.awaiting_join = Some(ticket);
    }

    pub fn supports(&self, protocol: &StrBytes) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    /// Its subscription under a protocol.
    pub fn metadata_of(&self, protocol: Option<&StrBytes>) -> Bytes {
        let metadata = self.protocols.iter().find(|(name, _)| Some(name) == protocol);
        metadata.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    /// Whoever waits for a rebalance need not send heartbeats; a new member has no id to send them with, and is given
    /// up when its time is over.
    pub fn has_satisfied_heartbeat(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    /// For DescribeGroups; the subscription is told of a stable group only.
    pub fn describe(&self, protocol: Option<&StrBytes>) -> DescribedGroupMember {
        DescribedGroupMember::default()
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance_id.clone())
            .with_client_id(self.client_id.clone())
            .with_client_host(self.client_host.clone())
            .with_member_metadata(self.metadata_of(protocol))
            .with_member_assignment(self.assignment.clone())
    }
}
