//! A consumer's membership under `group.protocol=consumer` (KIP-848; `ConsumerMembershipManager`,
//! `ConsumerHeartbeatRequestManager`): heartbeats carry everything, the coordinator assigns, and the member takes an
//! assignment up by giving up first what is not in it.
//!
//! What Kafka's background thread hands over to the application's (callbacks, and since 4.1 the commit before them) happens
//! in poll here, heartbeats whenever an event or the time allows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::consumer_group_heartbeat_response::Assignment;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use rand::RngExt;
use uuid::Uuid;

use super::commits::CommitId;
use super::membership::owned;
use super::{Action, Call, Closing, Group, RebalanceEvent, View};
use crate::log::uuid_text;
use crate::protocol::rpc::{Reply, RpcError};
use crate::protocol::{ErrorCode, TopicPartition, duration_of, millis_of};
use crate::world::{Endpoint, Rng, Time};

/// Version 1: the member makes its id (KIP-1082).
const HEARTBEAT_VERSION: i16 = 1;
const JOIN_EPOCH: i32 = 0;
const LEAVE_EPOCH: i32 = -1;
const LEAVE_STATIC_EPOCH: i32 = -2;

/// `MemberState`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unsubscribed,
    /// To join, or about to hear that it has.
    Joining,
    /// It has an assignment to take up.
    Reconciling,
    /// It has, and says so with the next heartbeat.
    Acknowledging,
    Stable,
    /// Out of the group; what it owned is given up as lost, then it joins again.
    Fenced,
    /// It has left because the application did not poll; with the next poll as after fencing.
    Stale,
    /// As after fencing, but for good.
    Fatal,
    Left,
}

/// Partitions by topic id, and how many assignments came before (`LocalAssignment`): the same partitions assigned again
/// are acknowledged again.
#[derive(Clone, PartialEq, Eq, Debug)]
struct LocalAssignment {
    number: u64,
    partitions: BTreeMap<Uuid, BTreeSet<i32>>,
}

/// How far taking up an assignment has come.
enum Step {
    /// The application has not polled since.
    Begun,
    /// Positions are being committed.
    Committing(CommitId),
    /// The application has been told what goes, and goes on with the next poll.
    Telling,
}

struct Reconciliation {
    to: LocalAssignment,
    /// The partitions whose topics are known by name.
    assigned: Vec<TopicPartition>,
    step: Step,
}

/// What the coordinator was told last; it remembers that.
#[derive(Default)]
struct Sent {
    topics: Option<Vec<TopicName>>,
    owned: Option<LocalAssignment>,
    has_rebalance_timeout: bool,
    has_assignor: bool,
}

pub(super) struct Modern {
    state: State,
    /// What the coordinator assigned last; none after joining.
    target: Option<LocalAssignment>,
    /// What was taken up last.
    current: Option<LocalAssignment>,
    reconciliation: Option<Reconciliation>,
    /// The application has been told that everything is lost.
    is_telling_loss: bool,
    /// Names of the topics that are assigned.
    names: BTreeMap<Uuid, TopicName>,
    /// The coordinator's.
    heartbeat_interval: Duration,
    heartbeat_at: Time,
    is_in_flight: bool,
    attempts: u32,
    sent: Sent,
}

impl Modern {
    pub fn new() -> Modern {
        Modern {
            state: State::Unsubscribed,
            target: None,
            current: None,
            reconciliation: None,
            is_telling_loss: false,
            names: BTreeMap::new(),
            heartbeat_interval: Duration::ZERO,
            heartbeat_at: Time::ZERO,
            is_in_flight: false,
            attempts: 0,
            sent: Sent::default(),
        }
    }

    /// A member id for the life of the consumer (`Uuid.randomUuid`).
    pub fn member_id(rng: &mut Rng) -> StrBytes {
        StrBytes::from_string(uuid_text::encode(Uuid::from_u128(rng.random())))
    }

    /// Not while the application is to let go of partitions.
    pub fn hands_out(&self) -> bool {
        self.reconciliation.is_none() && !self.is_telling_loss
    }

    /// `shouldHeartbeatNow`
    fn is_due_at_once(&self) -> bool {
        matches!(self.state, State::Joining | State::Acknowledging)
    }

    /// `shouldSkipHeartbeat`
    fn is_silent(&self) -> bool {
        match self.state {
            State::Unsubscribed | State::Fenced | State::Stale | State::Fatal | State::Left => true,
            State::Joining | State::Reconciling | State::Acknowledging | State::Stable => false,
        }
    }

    fn forget_assignments(&mut self) {
        self.target = None;
        self.current = None;
        self.reconciliation = None;
        self.names.clear();
        self.sent = Sent::default();
    }

    /// `processAssignmentReceived`
    fn on_assignment(&mut self, assignment: &Assignment) {
        let of_topic = |of: &kafka_protocol::messages::consumer_group_heartbeat_response::TopicPartitions| {
            (of.topic_id, of.partitions.iter().copied().collect())
        };
        let partitions: BTreeMap<Uuid, BTreeSet<i32>> = assignment.topic_partitions.iter().map(of_topic).collect();
        if self.target.as_ref().is_none_or(|target| target.partitions != partitions) {
            let number = self.target.as_ref().map_or(0, |target| target.number + 1);
            self.target = Some(LocalAssignment { number, partitions });
        }
        // Nothing to take up may be an answer too: to one that has just joined, or to one that has heard otherwise before.
        let is_reconciled = self.current == self.target;
        match self.state {
            State::Joining | State::Reconciling if is_reconciled => self.state = State::Stable,
            State::Acknowledging | State::Stable if is_reconciled => {}
            State::Joining | State::Reconciling | State::Acknowledging | State::Stable => {
                self.state = State::Reconciling;
            }
            State::Unsubscribed | State::Fenced | State::Stale | State::Fatal | State::Left => {}
        }
    }
}

impl Group {
    fn modern(&mut self) -> &mut Modern {
        self.modern.as_mut().expect("only called under group.protocol=consumer")
    }

    /// The application's part, called by poll.
    pub(super) fn poll_modern(&mut self, now: Time, net: &mut Endpoint, view: &mut View<'_>) {
        if self.modern().state == State::Unsubscribed && self.is_subscribed() {
            self.modern().state = State::Joining;
        }
        match self.modern().state {
            State::Fenced | State::Stale | State::Fatal => self.give_up_lost(now, view),
            State::Reconciling => self.reconcile(now, net, view),
            State::Unsubscribed | State::Joining | State::Acknowledging | State::Stable | State::Left => {}
        }
    }

    /// Tells the application what is lost; with the poll after that it is gone, and the member joins again if it may.
    fn give_up_lost(&mut self, now: Time, view: &View<'_>) {
        let owned = owned(view);
        if !owned.is_empty() && !self.modern().is_telling_loss {
            self.modern().is_telling_loss = true;
            self.events.push(RebalanceEvent::Lost(owned));
            return self.wake_by(now);
        }
        self.actions.push(Action::Assign(Vec::new()));
        self.forget_offsets(&[]);
        let modern = self.modern();
        modern.is_telling_loss = false;
        modern.forget_assignments();
        modern.state = if modern.state == State::Fatal { State::Left } else { State::Joining };
        modern.heartbeat_at = now;
        self.wake_by(now);
    }

    /// A step towards the assignment (`maybeReconcile`): commit, revoke, assign, acknowledge. The commit is tried until the
    /// rebalance timeout is over, and no longer: what is committed once others have the partitions would undo what they
    /// commit (`maybeAutoCommitSyncBeforeRevocation`).
    fn reconcile(&mut self, now: Time, net: &mut Endpoint, view: &mut View<'_>) {
        if self.modern().reconciliation.is_none() {
            self.begin_reconciliation(now, view);
        }
        let Some(under_way) = self.modern().reconciliation.take() else { return };
        let Reconciliation { to, assigned, step } = under_way;
        let step = match step {
            Step::Begun => {
                let commits = self.config.enable_auto_commit && self.is_in_generation();
                let until = Some(now + self.config.max_poll_interval);
                match commits.then(|| self.commit_positions(now, until, net, view)).flatten() {
                    Some(id) => Step::Committing(id),
                    None => return self.revoke_and_assign(now, to, assigned, view),
                }
            }
            Step::Committing(id) if self.is_committing(id) => step,
            Step::Committing(_) => return self.revoke_and_assign(now, to, assigned, view),
            Step::Telling if self.is_committing_by_hand() => step,
            Step::Telling => return self.take_up_assignment(now, to, assigned, view),
        };
        self.modern().reconciliation = Some(Reconciliation { to, assigned, step });
    }

    /// What is assigned is taken up as of now, whatever is assigned while that lasts. It begins as soon as the assignment
    /// has come; where positions are committed automatically only once the application polls, which has processed what it
    /// was handed then (`maybeReconcile(canCommit)`, KAFKA-18641).
    fn begin_reconciliation(&mut self, now: Time, view: &mut View<'_>) {
        let Some(target) = self.modern().target.clone() else { return };
        let to = self.resolve(&target, view);
        let modern = self.modern();
        if modern.current.as_ref() == Some(&to) {
            // The rest waits for metadata.
            return;
        }
        if modern.current.as_ref().is_some_and(|current| current.partitions == to.partitions) {
            modern.current = Some(to);
            modern.state = State::Acknowledging;
            return self.wake_by(now);
        }
        let mut assigned = Vec::new();
        for (topic, partitions) in &to.partitions {
            let name = &modern.names[topic];
            assigned.extend(partitions.iter().map(|index| TopicPartition { topic: name.clone(), partition: *index }));
        }
        assigned.sort();
        modern.reconciliation = Some(Reconciliation { to, assigned, step: Step::Begun });
    }

    /// The part of an assignment whose topics are known by name; metadata is asked for the rest.
    fn resolve(&mut self, target: &LocalAssignment, view: &mut View<'_>) -> LocalAssignment {
        for name in &self.topics {
            let id = view.metadata.topic(name).map(|topic| topic.id).filter(|id| !id.is_nil());
            if let (Some(id), Some(modern)) = (id, &mut self.modern) {
                modern.names.insert(id, name.clone());
            }
        }
        let names = &self.modern().names;
        let is_known = |topic: &Uuid| names.contains_key(topic);
        let (known, unknown): (BTreeMap<_, _>, BTreeMap<_, _>) =
            target.partitions.clone().into_iter().partition(|(topic, _)| is_known(topic));
        if !unknown.is_empty() {
            view.metadata.request_update();
        }
        LocalAssignment { number: target.number, partitions: known }
    }

    fn revoke_and_assign(&mut self, now: Time, to: LocalAssignment, assigned: Vec<TopicPartition>, view: &View<'_>) {
        let revoked: Vec<TopicPartition> = owned(view).into_iter().filter(|p| !assigned.contains(p)).collect();
        if revoked.is_empty() {
            return self.take_up_assignment(now, to, assigned, view);
        }
        self.events.push(RebalanceEvent::Revoked(revoked));
        self.modern().reconciliation = Some(Reconciliation { to, assigned, step: Step::Telling });
        self.wake_by(now);
    }

    fn take_up_assignment(&mut self, now: Time, to: LocalAssignment, assigned: Vec<TopicPartition>, view: &View<'_>) {
        let before = owned(view);
        let added: Vec<TopicPartition> = assigned.iter().filter(|p| !before.contains(p)).cloned().collect();
        self.forget_offsets(&assigned);
        self.actions.push(Action::Assign(assigned));
        self.events.push(RebalanceEvent::Assigned { partitions: added, generation: self.generation });
        self.auto_commit_at = now + self.config.auto_commit_interval;
        let modern = self.modern();
        modern.current = Some(to);
        modern.state = State::Acknowledging;
        self.wake_by(now);
    }

    /// Heartbeats, the application's absence, and what can be done about an assignment without the application.
    pub(super) fn drive_modern(&mut self, now: Time, net: &mut Endpoint, view: &mut View<'_>) {
        self.drive_modern_heartbeat(now, net);
        let modern = self.modern();
        let is_idle = modern.state == State::Reconciling && modern.reconciliation.is_none();
        if is_idle && !self.config.enable_auto_commit {
            self.begin_reconciliation(now, view);
        }
    }

    fn drive_modern_heartbeat(&mut self, now: Time, net: &mut Endpoint) {
        if self.modern().is_silent() || self.coordinator.is_none() {
            return;
        }
        if self.is_poll_overdue(now) {
            return self.leave_as_stale(now, net);
        }
        let modern = self.modern();
        if modern.is_in_flight {
            return;
        }
        let at = modern.heartbeat_at;
        if at > now && (!modern.is_due_at_once() || modern.attempts > 0) {
            return self.wake_by(at);
        }
        self.send_heartbeat(now, net);
    }

    fn send_heartbeat(&mut self, now: Time, net: &mut Endpoint) {
        let Some(coordinator) = self.coordinator else { return };
        let request = self.heartbeat_request();
        self.asked_at = now;
        let modern = self.modern();
        modern.is_in_flight = true;
        modern.heartbeat_at = now + modern.heartbeat_interval;
        if modern.state == State::Acknowledging {
            modern.state = if modern.current == modern.target { State::Stable } else { State::Reconciling };
        }
        let timeout = self.config.request_timeout;
        let call = Call::ModernHeartbeat(self.life);
        self.rpc.send(now, coordinator, HEARTBEAT_VERSION, &request, timeout, call, net);
    }

    /// What has changed since the last one; everything when joining, and after a failure.
    fn heartbeat_request(&mut self) -> ConsumerGroupHeartbeatRequest {
        let mut request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(self.id.clone())
            .with_member_id(self.member_id.clone())
            .with_member_epoch(self.generation.max(JOIN_EPOCH))
            .with_instance_id(self.instance.clone())
            .with_rebalance_timeout_ms(-1);
        let rebalance_timeout_ms = millis_of(self.config.max_poll_interval);
        let assignor = self.config.group_remote_assignor.assignor();
        let topics = self.topics.clone();
        let modern = self.modern();
        let is_full = modern.state == State::Joining;
        if is_full || !modern.sent.has_rebalance_timeout {
            request.rebalance_timeout_ms = rebalance_timeout_ms;
        }
        if is_full || modern.sent.topics.as_ref() != Some(&topics) {
            request.subscribed_topic_names = Some(topics.clone());
        }
        if is_full || !modern.sent.has_assignor {
            request.server_assignor = assignor.map(|assignor| StrBytes::from_static_str(assignor.name()));
        }
        if is_full || modern.sent.owned != modern.current {
            let current = modern.current.iter().flat_map(|current| &current.partitions);
            let owned = current.map(|(topic, partitions)| {
                TopicPartitions::default().with_topic_id(*topic).with_partitions(partitions.iter().copied().collect())
            });
            request.topic_partitions = Some(owned.collect());
        }
        let owned = modern.current.clone();
        modern.sent = Sent { topics: Some(topics), owned, has_rebalance_timeout: true, has_assignor: true };
        request
    }

    pub(super) fn on_modern_heartbeat(&mut self, now: Time, life: u64, result: Result<Reply, RpcError>) {
        if life != self.life {
            return;
        }
        self.modern().is_in_flight = false;
        let reply = result.ok().and_then(|reply| reply.decode::<ConsumerGroupHeartbeatRequest>().ok());
        let Some(response) = reply else {
            return self.retry_heartbeat(now);
        };
        match ErrorCode::try_from_code(response.error_code) {
            None => self.on_heartbeat_success(now, response),
            Some(ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable) => {
                self.mark_coordinator_unknown();
                self.retry_heartbeat(now);
                // At once, when there is one again.
                self.modern().heartbeat_at = now;
                self.modern().attempts = 0;
            }
            Some(ErrorCode::CoordinatorLoadInProgress) => self.retry_heartbeat(now),
            Some(ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId) => self.fence(now),
            Some(fatal) => {
                self.end_membership(State::Fatal);
                self.fail(fatal);
                self.wake_by(now);
            }
        }
    }

    fn retry_heartbeat(&mut self, now: Time) {
        let attempts = self.modern().attempts;
        let at = now + self.retry_backoff.after(attempts, &mut self.rng);
        let modern = self.modern();
        modern.sent = Sent::default();
        modern.attempts += 1;
        modern.heartbeat_at = at;
        self.wake_by(at);
    }

    fn on_heartbeat_success(&mut self, now: Time, response: ConsumerGroupHeartbeatResponse) {
        self.generation = response.member_epoch;
        self.joined_asked_at = self.asked_at;
        let interval = duration_of(response.heartbeat_interval_ms);
        let modern = self.modern();
        modern.attempts = 0;
        if modern.heartbeat_interval != interval {
            modern.heartbeat_interval = interval;
            modern.heartbeat_at = now + interval;
        }
        if let Some(assignment) = &response.assignment {
            modern.on_assignment(assignment);
        }
        self.wake_by(now);
    }

    /// Out of the group (`transitionToFenced`).
    fn fence(&mut self, now: Time) {
        self.end_membership(State::Fenced);
        self.wake_by(now);
    }

    fn end_membership(&mut self, state: State) {
        // What is in flight is about the life that has ended.
        self.life += 1;
        self.generation = -1;
        let modern = self.modern();
        modern.state = state;
        modern.is_in_flight = false;
        modern.attempts = 0;
        modern.reconciliation = None;
        modern.sent = Sent::default();
    }

    /// The application has not polled for `max.poll.interval.ms`: the partitions are for others.
    fn leave_as_stale(&mut self, now: Time, net: &mut Endpoint) {
        self.send_leave(now, net);
        self.end_membership(State::Stale);
    }

    /// A heartbeat with the epoch that says so. False if there is nothing to leave, or nobody to tell.
    fn send_leave(&mut self, now: Time, net: &mut Endpoint) -> bool {
        let Some(coordinator) = self.coordinator.filter(|_| self.is_in_generation()) else { return false };
        let epoch = if self.instance.is_some() { LEAVE_STATIC_EPOCH } else { LEAVE_EPOCH };
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(self.id.clone())
            .with_member_id(self.member_id.clone())
            .with_member_epoch(epoch)
            .with_instance_id(self.instance.clone())
            .with_rebalance_timeout_ms(-1);
        self.rpc.send(now, coordinator, HEARTBEAT_VERSION, &request, self.config.request_timeout, Call::Leave, net);
        true
    }

    /// The last step of an orderly stop; a static member says that it will be back.
    pub(super) fn leave_modern(&mut self, now: Time, net: &mut Endpoint) {
        let is_told = self.send_leave(now, net);
        self.closing = self.closing.map(|_| if is_told { Closing::Left } else { Closing::Closed });
        self.end_membership(State::Left);
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::consumer_group_heartbeat_response::TopicPartitions as Assigned;

    use super::*;

    fn assignment(partitions: &[i32]) -> Assignment {
        let of_topic = Assigned::default().with_topic_id(Uuid::from_u128(1)).with_partitions(partitions.to_vec());
        let topics = if partitions.is_empty() { Vec::new() } else { vec![of_topic] };
        Assignment::default().with_topic_partitions(topics)
    }

    fn member(state: State) -> Modern {
        Modern { state, ..Modern::new() }
    }

    /// Takes up what it is to have.
    fn take_up(member: &mut Modern) {
        member.current.clone_from(&member.target);
        member.state = State::Acknowledging;
    }

    #[test]
    fn an_assignment_is_taken_up_once() {
        let mut member = member(State::Joining);
        member.on_assignment(&assignment(&[0, 1]));
        assert_eq!(member.state, State::Reconciling);
        take_up(&mut member);
        member.on_assignment(&assignment(&[0, 1]));
        assert_eq!(member.state, State::Acknowledging);
        member.state = State::Stable;
        member.on_assignment(&assignment(&[0, 1]));
        assert_eq!(member.state, State::Stable);
        member.on_assignment(&assignment(&[0]));
        assert_eq!(member.state, State::Reconciling);
    }

    #[test]
    fn who_joins_and_is_given_nothing_acknowledges_that() {
        let mut member = member(State::Joining);
        member.on_assignment(&assignment(&[]));
        assert_eq!(member.state, State::Reconciling);
        take_up(&mut member);
        assert!(member.is_due_at_once());
    }

    #[test]
    fn what_was_taken_away_and_given_back_before_it_was_taken_up_is_acknowledged_again() {
        let mut member = member(State::Joining);
        member.on_assignment(&assignment(&[0]));
        take_up(&mut member);
        member.state = State::Stable;
        member.on_assignment(&assignment(&[]));
        member.on_assignment(&assignment(&[0]));
        assert_eq!(member.state, State::Reconciling);
        let (current, target) = (member.current.expect("taken up"), member.target.expect("assigned"));
        assert_eq!(current.partitions, target.partitions);
        assert_ne!(current, target);
    }

    #[test]
    fn who_is_out_of_the_group_takes_no_assignment() {
        for state in [State::Fenced, State::Stale, State::Fatal, State::Left, State::Unsubscribed] {
            let mut member = member(state);
            member.on_assignment(&assignment(&[0]));
            assert_eq!(member.state, state);
            assert!(member.is_silent());
        }
    }
}
