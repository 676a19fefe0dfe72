//! Joining, assigning, heartbeats and leaving (`AbstractCoordinator`, and the rebalance half of `ConsumerCoordinator`).

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::assignors::{Subscriber, assign};
use super::wire::{decode_assignment, decode_subscription, encode_assignment, encode_subscription};
use super::{Action, Call, Closing, Group, Leading, Prepare, RebalanceEvent, State, View};
use crate::config::Assignor;
use crate::defect::Defect;
use crate::protocol::rpc::{Reply, RpcError};
use crate::protocol::{ErrorCode, TopicPartition, millis_of};
use crate::world::{Endpoint, Time};

const JOIN_GROUP_VERSION: i16 = 9;
const SYNC_GROUP_VERSION: i16 = 5;
const HEARTBEAT_VERSION: i16 = 4;
const LEAVE_GROUP_VERSION: i16 = 5;
/// How much longer than the rebalance may take a JoinGroup is waited for (`JOIN_GROUP_TIMEOUT_LAPSE`).
const JOIN_TIMEOUT_LAPSE: Duration = Duration::from_secs(5);
const PROTOCOL_TYPE: &str = "consumer";

pub(super) fn owned(view: &View<'_>) -> Vec<TopicPartition> {
    let mut owned: Vec<TopicPartition> = view.partitions.iter().map(|p| p.partition.clone()).collect();
    owned.sort();
    owned
}

impl Group {
    /// The application's part of a rebalance; called by poll.
    pub(super) fn poll_membership(&mut self, now: Time, net: &mut Endpoint, view: &mut View<'_>) {
        self.rejoin_if_changed(view);
        if let Some(assigned) = self.taking_up.take() {
            // Told in the poll before: the application has let go, and may still be committing.
            match self.is_committing_by_hand() {
                true => self.taking_up = Some(assigned),
                false => self.take_up(now, assigned, view),
            }
            return;
        }
        if let Some(assignment) = self.synced.take() {
            return self.on_join_complete(now, assignment, view);
        }
        if !self.needs_rejoin {
            return;
        }
        if self.prepare != Prepare::Done && !self.prepare_join(now, net, view) {
            return;
        }
        if self.state == State::PreparingRebalance || self.state == State::CompletingRebalance {
            return;
        }
        match self.join_at > now {
            true => self.wake_by(self.join_at),
            false => self.send_join(now, net, view),
        }
    }

    /// Another subscription, or as leader other partitions, than the group was shared out by.
    fn rejoin_if_changed(&mut self, view: &mut View<'_>) {
        if self.state != State::Stable {
            return;
        }
        let counts_differ = |counts: &BTreeMap<TopicName, i32>| {
            counts.iter().any(|(topic, count)| partition_count(view, topic).is_some_and(|known| known != *count))
        };
        if self.joined_topics != self.topics || self.assigned_by.as_ref().is_some_and(counts_differ) {
            self.needs_rejoin = true;
        }
    }

    /// `onJoinPrepare`; true once it is over.
    fn prepare_join(&mut self, now: Time, net: &mut Endpoint, view: &mut View<'_>) -> bool {
        if self.prepare == Prepare::NotStarted {
            let commits = self.config.enable_auto_commit && self.is_in_generation();
            let commit = if commits { self.commit_positions(now, None, net, view) } else { None };
            if let Some(id) = commit {
                self.prepare = Prepare::Committing(id, now + self.config.max_poll_interval);
                return false;
            }
        } else if let Prepare::Committing(id, deadline) = self.prepare
            && self.is_committing(id)
            && deadline > now
        {
            self.wake_by(deadline);
            return false;
        }
        if self.prepare == Prepare::Telling {
            if self.is_committing_by_hand() {
                return false;
            }
            self.actions.push(Action::Assign(Vec::new()));
            self.forget_offsets(&[]);
            self.prepare = Prepare::Done;
            // The consumer lets go first, then the join goes out.
            self.wake_by(now);
            return false;
        }
        let owned = owned(view);
        self.had.clone_from(&owned);
        let is_lost = self.generation < 0 && !self.config.defects.has(Defect::OwnedPartitionsNoGeneration);
        if owned.is_empty() || (self.is_cooperative() && !is_lost) {
            self.prepare = Prepare::Done;
            return true;
        }
        self.events.push(if is_lost { RebalanceEvent::Lost(owned) } else { RebalanceEvent::Revoked(owned) });
        self.prepare = Prepare::Telling;
        self.wake_by(now);
        false
    }

    fn send_join(&mut self, now: Time, net: &mut Endpoint, view: &mut View<'_>) {
        // Kafka joins without knowing the topics and rejoins once it does.
        if self.topics.iter().any(|topic| !is_topic_known(view, topic)) {
            self.topics.iter().for_each(|topic| view.metadata.add_topic(topic));
            return;
        }
        let Some(coordinator) = self.coordinator else { return };
        let owned = owned(view);
        let assignors = self.config.partition_assignment_strategy.assignors();
        let protocol = |assignor: &Assignor| {
            let subscription = encode_subscription(*assignor, &self.topics, &owned, &self.had, self.generation);
            JoinGroupRequestProtocol::default()
                .with_name(StrBytes::from_static_str(assignor.name()))
                .with_metadata(subscription)
        };
        let request = JoinGroupRequest::default()
            .with_group_id(self.id.clone())
            .with_session_timeout_ms(millis_of(self.config.session_timeout))
            .with_rebalance_timeout_ms(millis_of(self.config.max_poll_interval))
            .with_member_id(self.member_id.clone())
            .with_group_instance_id(self.instance.clone())
            .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
            .with_protocols(assignors.iter().map(protocol).collect());
        self.life += 1;
        self.asked_at = now;
        self.state = State::PreparingRebalance;
        self.joined_topics.clone_from(&self.topics);
        let timeout = self.join_timeout();
        self.rpc.send(now, coordinator, JOIN_GROUP_VERSION, &request, timeout, Call::Join(self.life), net);
    }

    /// JoinGroup waits for the other members (`AbstractCoordinator.sendJoinGroupRequest`).
    fn join_timeout(&self) -> Duration {
        self.config.request_timeout.max(self.config.max_poll_interval + JOIN_TIMEOUT_LAPSE)
    }

    pub(super) fn on_join(&mut self, now: Time, life: u64, result: Result<Reply, RpcError>) {
        if life != self.life || self.state != State::PreparingRebalance {
            return;
        }
        let Some(response) = result.ok().and_then(|reply| reply.decode::<JoinGroupRequest>().ok()) else {
            return self.retry_join(now);
        };
        let Some(error) = ErrorCode::try_from_code(response.error_code) else {
            return self.on_joined(now, response);
        };
        match error {
            ErrorCode::MemberIdRequired => {
                self.member_id = response.member_id;
                self.state = State::Unjoined;
                self.wake_by(now);
            }
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => self.reset_by(now, error),
            ErrorCode::RebalanceInProgress | ErrorCode::CoordinatorLoadInProgress => self.retry_join(now),
            ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator => {
                self.mark_coordinator_unknown();
                self.retry_join(now);
            }
            fatal => self.fail(fatal),
        }
    }

    fn retry_join(&mut self, now: Time) {
        self.state = State::Unjoined;
        self.needs_rejoin = true;
        self.join_at = now + self.retry_backoff.after(self.join_attempts, &mut self.rng);
        self.join_attempts += 1;
        self.wake_by(self.join_at);
    }

    fn on_joined(&mut self, now: Time, response: JoinGroupResponse) {
        self.join_attempts = 0;
        self.generation = response.generation_id;
        self.joins += 1;
        self.joined_asked_at = self.asked_at;
        let is_leader = response.leader == response.member_id;
        self.member_id = response.member_id;
        self.state = State::CompletingRebalance;
        self.session_from = now;
        self.heartbeat_at = now + self.config.heartbeat_interval;
        self.is_heartbeat_in_flight = false;
        self.assigned_by = None;
        let assignors = self.config.partition_assignment_strategy.assignors();
        let named = |assignor: &&Assignor| response.protocol_name.as_deref() == Some(assignor.name());
        let Some(assignor) = assignors.iter().find(named).copied() else {
            return self.fail(ErrorCode::InconsistentGroupProtocol);
        };
        let members = if is_leader { response.members } else { Vec::new() };
        self.leading = Some(Leading { assignor, members, skips_assignment: response.skip_assignment });
    }

    /// Sends SyncGroup after a join; the leader once it knows what there is to share out.
    pub(super) fn drive_leading(&mut self, now: Time, net: &mut Endpoint, view: &mut View<'_>) {
        let Some(coordinator) = self.coordinator else { return };
        let Some(Leading { assignor, members, skips_assignment }) = self.leading.take() else { return };
        let subscribers: Vec<Subscriber> = members
            .iter()
            .map(|member| {
                let (id, instance) = (member.member_id.clone(), member.group_instance_id.clone());
                decode_subscription(assignor, id, instance, member.metadata.clone())
            })
            .collect();
        let topics = subscribers.iter().flat_map(|subscriber| &subscriber.topics);
        let unknown: Vec<TopicName> = topics.filter(|topic| !is_topic_known(view, topic)).cloned().collect();
        if !unknown.is_empty() {
            unknown.iter().for_each(|topic| view.metadata.add_topic(topic));
            self.leading = Some(Leading { assignor, members, skips_assignment });
            return;
        }
        let mut assignments = Vec::new();
        if !subscribers.is_empty() {
            let topics = subscribers.iter().flat_map(|subscriber| &subscriber.topics);
            let counts: BTreeMap<TopicName, i32> =
                topics.filter_map(|topic| Some((topic.clone(), partition_count(view, topic)?))).collect();
            if !skips_assignment {
                let shares = assign(assignor, &counts, &subscribers, self.config.defects);
                assignments = shares
                    .iter()
                    .map(|(member, partitions)| {
                        SyncGroupRequestAssignment::default()
                            .with_member_id(member.clone())
                            .with_assignment(encode_assignment(partitions))
                    })
                    .collect();
            }
            // A static leader that has come back takes what there is now for what was shared out (KIP-814).
            self.assigned_by = Some(counts);
        }
        let request = SyncGroupRequest::default()
            .with_group_id(self.id.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone())
            .with_group_instance_id(self.instance.clone())
            .with_protocol_type(Some(StrBytes::from_static_str(PROTOCOL_TYPE)))
            .with_protocol_name(Some(StrBytes::from_static_str(assignor.name())))
            .with_assignments(assignments);
        let timeout = self.config.request_timeout;
        self.rpc.send(now, coordinator, SYNC_GROUP_VERSION, &request, timeout, Call::Sync(self.life), net);
    }

    pub(super) fn on_sync(&mut self, now: Time, life: u64, result: Result<Reply, RpcError>) {
        if life != self.life || self.state != State::CompletingRebalance {
            return;
        }
        let Some(response) = result.ok().and_then(|reply| reply.decode::<SyncGroupRequest>().ok()) else {
            return self.retry_join(now);
        };
        match ErrorCode::try_from_code(response.error_code) {
            None => {
                self.state = State::Stable;
                self.needs_rejoin = false;
                self.session_from = now;
                self.synced = Some(response.assignment);
                self.stored_generation = self.generation;
                self.wake_by(now);
            }
            Some(error @ (ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration)) => self.reset_by(now, error),
            Some(ErrorCode::RebalanceInProgress) => {
                self.state = State::Unjoined;
                self.needs_rejoin = true;
                self.wake_by(now);
            }
            Some(ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator) => {
                self.mark_coordinator_unknown();
                self.retry_join(now);
            }
            Some(error) if error.is_retriable() => self.retry_join(now),
            Some(fatal) => self.fail(fatal),
        }
    }

    /// `onJoinComplete`
    fn on_join_complete(&mut self, now: Time, assignment: bytes::Bytes, view: &mut View<'_>) {
        self.prepare = Prepare::NotStarted;
        let Some(assigned) = decode_assignment(assignment) else {
            return self.fail(ErrorCode::InconsistentGroupProtocol);
        };
        let revoked: Vec<TopicPartition> = owned(view).into_iter().filter(|p| !assigned.contains(p)).collect();
        if revoked.is_empty() {
            return self.take_up(now, assigned, view);
        }
        self.events.push(RebalanceEvent::Revoked(revoked));
        // Whoever is to get them is assigned them in another generation (KIP-429).
        self.needs_rejoin = true;
        self.taking_up = Some(assigned);
        self.wake_by(now);
    }

    fn take_up(&mut self, now: Time, assigned: Vec<TopicPartition>, view: &mut View<'_>) {
        let before = owned(view);
        let added: Vec<TopicPartition> = assigned.iter().filter(|p| !before.contains(p)).cloned().collect();
        self.forget_offsets(&assigned);
        self.actions.push(Action::Assign(assigned));
        self.events.push(RebalanceEvent::Assigned { partitions: added, generation: self.generation });
        self.auto_commit_at = now + self.config.auto_commit_interval;
        // The consumer takes them up, then their offsets are looked for.
        self.wake_by(now);
    }

    /// Sessions, heartbeats, and the application's absence (`HeartbeatThread`).
    pub(super) fn drive_heartbeat(&mut self, now: Time, net: &mut Endpoint) {
        if !matches!(self.state, State::CompletingRebalance | State::Stable) {
            return;
        }
        if self.is_poll_overdue(now) {
            return self.leave(now, net);
        }
        let Some(coordinator) = self.coordinator else { return };
        let session_until = self.session_from + self.config.session_timeout;
        if session_until <= now {
            return self.mark_coordinator_unknown();
        }
        self.wake_by(session_until);
        if self.is_heartbeat_in_flight {
            return;
        }
        if self.heartbeat_at > now {
            return self.wake_by(self.heartbeat_at);
        }
        let request = HeartbeatRequest::default()
            .with_group_id(self.id.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone())
            .with_group_instance_id(self.instance.clone());
        self.is_heartbeat_in_flight = true;
        self.heartbeat_at = now + self.config.heartbeat_interval;
        let timeout = self.config.request_timeout;
        self.rpc.send(now, coordinator, HEARTBEAT_VERSION, &request, timeout, Call::Heartbeat(self.life), net);
    }

    pub(super) fn on_heartbeat(&mut self, now: Time, life: u64, result: Result<Reply, RpcError>) {
        if life != self.life {
            return;
        }
        self.is_heartbeat_in_flight = false;
        let Some(response) = result.ok().and_then(|reply| reply.decode::<HeartbeatRequest>().ok()) else {
            self.heartbeat_at = now + self.config.retry_backoff;
            return;
        };
        self.session_from = now;
        match ErrorCode::try_from_code(response.error_code) {
            None => {}
            Some(ErrorCode::RebalanceInProgress) => {
                self.needs_rejoin |= self.state == State::Stable;
                self.wake_by(now);
            }
            Some(ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator) => self.mark_coordinator_unknown(),
            Some(error @ (ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration)) => self.reset_by(now, error),
            Some(error) if error.is_retriable() => {}
            Some(fatal) => self.fail(fatal),
        }
    }

    /// Leaves the group, a static member excepted, and forgets what it was in it (`maybeLeaveGroup`).
    pub(super) fn leave(&mut self, now: Time, net: &mut Endpoint) {
        let is_member = !self.member_id.is_empty() && self.instance.is_none();
        if let Some(coordinator) = self.coordinator.filter(|_| is_member) {
            let member = MemberIdentity::default().with_member_id(self.member_id.clone());
            let request = LeaveGroupRequest::default().with_group_id(self.id.clone()).with_members(vec![member]);
            let timeout = self.config.request_timeout;
            self.rpc.send(now, coordinator, LEAVE_GROUP_VERSION, &request, timeout, Call::Leave, net);
            self.closing = self.closing.map(|_| Closing::Left);
        } else {
            self.closing = self.closing.map(|_| Closing::Closed);
        }
        self.reset();
    }

    /// The coordinator has said so; after ILLEGAL_GENERATION the member id is as good as before.
    pub(super) fn reset_by(&mut self, now: Time, error: ErrorCode) {
        let member_id = self.member_id.clone();
        self.reset();
        if error == ErrorCode::IllegalGeneration {
            self.member_id = member_id;
        }
        self.wake_by(now);
    }

    /// Not a member any more (`resetStateOnResponseError`): what it owned is lost with the next poll.
    pub(super) fn reset(&mut self) {
        self.life += 1;
        self.state = State::Unjoined;
        self.generation = -1;
        self.stored_generation = -1;
        self.member_id = StrBytes::default();
        self.needs_rejoin = true;
        self.leading = None;
        self.synced = None;
        self.taking_up = None;
        self.is_heartbeat_in_flight = false;
        if self.prepare == Prepare::Done {
            self.prepare = Prepare::NotStarted;
        }
    }

    pub(super) fn is_in_generation(&self) -> bool {
        self.generation >= 0
    }
}

/// Whether a topic's partitions are known, or that it has none.
fn is_topic_known(view: &View<'_>, topic: &TopicName) -> bool {
    view.metadata.topic(topic).is_some_and(|topic| !topic.partitions.is_empty())
}

fn partition_count(view: &View<'_>, topic: &TopicName) -> Option<i32> {
    let count = view.metadata.topic(topic)?.partitions.len();
    i32::try_from(count).ok().filter(|count| *count > 0)
}
