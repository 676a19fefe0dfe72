//! A consumer's part in its group: finding the coordinator, heartbeats, commits; under the classic protocol joining and
//! sharing out partitions as leader (`AbstractCoordinator`, `ConsumerCoordinator`), under `group.protocol=consumer` what
//! [`modern`] has.
//!
//! Kafka has two threads here, and so has this, in a manner: what the application's thread does happens in
//! [`Group::poll`] only (joining, taking up an assignment, automatic commits), what the heartbeat thread does whenever
//! an event or the time allows ([`Group::drive`]). The rebalance listener is the application, between two polls: a
//! rebalance that takes partitions away waits for the poll after the one that told of it, and for the commits that were
//! made meanwhile.

mod assignors;
mod commits;
mod membership;
mod modern;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{FindCoordinatorRequest, GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;

use self::commits::{API_TIMEOUT, Commit, PendingCommit};
pub use self::commits::{CommitError, CommitId, CommitResult};
use self::modern::Modern;
use super::backoff::ExponentialBackoff;
use super::consumer::rpc_config;
use super::metadata::Metadata;
use super::subscription::AssignedPartition;
use crate::config::{Assignor, ConsumerConfig, GroupProtocol};
use crate::protocol::rpc::{Completion, PeerId, Reply, RpcClient, RpcError};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, Offset, TopicPartition};
use crate::world::{Endpoint, Event, HostPort, Rng, Time, World};

/// FindCoordinator v4 asks for several keys (KIP-699).
const FIND_COORDINATOR_VERSION: i16 = 4;

/// What a rebalance did to the application's partitions (`ConsumerRebalanceListener`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RebalanceEvent {
    /// About to go: the last chance to commit, before the next poll.
    Revoked(Vec<TopicPartition>),
    /// Gone: another may own them already.
    Lost(Vec<TopicPartition>),
    Assigned {
        partitions: Vec<TopicPartition>,
        generation: i32,
    },
}

/// What a consumer of a group cannot get past on its own. It stays out of the group from then on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", super::error::ErrorName(*.0))]
pub struct GroupError(pub ErrorCode);

/// `AbstractCoordinator.MemberState`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unjoined,
    /// A JoinGroup is in flight.
    PreparingRebalance,
    /// Joined; the assignment is awaited.
    CompletingRebalance,
    Stable,
}

/// What an answer is to. The number tells a member's lives apart: answers to an earlier one mean nothing.
enum Call {
    FindCoordinator,
    Join(u64),
    Sync(u64),
    Heartbeat(u64),
    ModernHeartbeat(u64),
    Leave,
    Commit(CommitId, u64),
    /// With the number of the assignment that it was asked for.
    FetchOffsets(u64, Vec<TopicPartition>),
}

/// How far the preparation of a rebalance has come (`onJoinPrepare`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Prepare {
    NotStarted,
    /// Positions are being committed, not beyond this.
    Committing(CommitId, Time),
    /// The application has been told what goes, and goes on with the next poll.
    Telling,
    Done,
}

/// The leader's task, until it knows how many partitions the topics have.
struct Leading {
    assignor: Assignor,
    members: Vec<JoinGroupResponseMember>,
    /// A static leader has come back, and the assignment stays as it is (KIP-814).
    skips_assignment: bool,
}

/// What a step wants of the consumer.
pub(super) enum Action {
    /// The assignment is this now.
    Assign(Vec<TopicPartition>),
    /// What was committed for a partition: where to begin. None: nothing.
    Committed(TopicPartition, Option<(Offset, LeaderEpoch)>),
}

/// What a step sees of the consumer.
pub(super) struct View<'a> {
    pub partitions: &'a [AssignedPartition],
    pub metadata: &'a mut Metadata,
}

pub(super) struct Group {
    config: ConsumerConfig,
    id: GroupId,
    instance: Option<StrBytes>,
    rpc: RpcClient<Call>,
    rng: Rng,
    retry_backoff: ExponentialBackoff,
    bootstrap: Vec<PeerId>,
    next_bootstrap: usize,
    coordinator: Option<PeerId>,
    /// The broker that was last found to be it.
    coordinator_id: Option<BrokerId>,
    is_finding: bool,
    find_at: Time,
    find_attempts: u32,
    topics: Vec<TopicName>,
    joined_topics: Vec<TopicName>,
    state: State,
    generation: i32,
    /// How many JoinGroups were answered with one: of one number there may be several, of several coordinators.
    joins: u64,
    /// When the last JoinGroup or heartbeat of the consumer protocol was sent; and when the one that told the generation.
    asked_at: Time,
    joined_asked_at: Time,
    /// The last one that the coordinator has stored: it answered SyncGroup. A generation that it only announced may be
    /// announced by another coordinator too, with others in it.
    stored_generation: i32,
    member_id: StrBytes,
    /// The membership under `group.protocol=consumer`; `generation` is then the member epoch.
    modern: Option<Modern>,
    /// Counts resets, joins and syncs.
    life: u64,
    needs_rejoin: bool,
    prepare: Prepare,
    join_at: Time,
    join_attempts: u32,
    leading: Option<Leading>,
    /// The partition counts that we as leader assigned by.
    assigned_by: Option<BTreeMap<TopicName, i32>>,
    /// An assignment that the next poll takes up.
    synced: Option<Bytes>,
    /// The new assignment, once the application has let go of what is not in it.
    taking_up: Option<Vec<TopicPartition>>,
    /// What was owned when the rebalance began: for the sticky assignor.
    had: Vec<TopicPartition>,
    heartbeat_at: Time,
    is_heartbeat_in_flight: bool,
    /// When the coordinator was last heard of.
    session_from: Time,
    /// Records are with the application since.
    busy_since: Option<Time>,
    auto_commit_at: Time,
    next_commit: u64,
    commits: Vec<PendingCommit>,
    commit_results: Vec<CommitResult>,
    /// Partitions whose committed offsets are known, or looked up.
    known: BTreeSet<TopicPartition>,
    fetching: BTreeSet<TopicPartition>,
    /// Counts assignments: what was committed is to be asked for by whoever is to begin there, not earlier.
    assignment: u64,
    fetch_at: Time,
    events: Vec<RebalanceEvent>,
    errors: Vec<GroupError>,
    actions: Vec<Action>,
    is_fatal: bool,
    closing: Option<Closing>,
    wake_at: Option<Time>,
    completions: Vec<Completion<Call>>,
}

/// How far an orderly leave has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Closing {
    Committing(CommitId),
    Leaving,
    /// The LeaveGroup is in flight.
    Left,
    Closed,
}

impl Group {
    pub fn new(world: &World, config: &ConsumerConfig, group_id: &str, bootstrap: &[HostPort]) -> Group {
        // Connections of its own: a fetch that waits must not hold up a heartbeat.
        let mut rpc = RpcClient::new(rpc_config(config), world.rng("consumer-group-rpc"));
        let (modern, member_id) = match config.group_protocol {
            GroupProtocol::Classic => (None, StrBytes::default()),
            GroupProtocol::Consumer => {
                (Some(Modern::new()), Modern::member_id(&mut world.fresh_rng("consumer-group-member-id")))
            }
        };
        Group {
            id: GroupId(StrBytes::from_string(group_id.to_owned())),
            instance: config.group_instance_id.clone().map(StrBytes::from_string),
            bootstrap: bootstrap.iter().map(|address| rpc.peer(address)).collect(),
            rpc,
            rng: world.rng("consumer-group"),
            retry_backoff: ExponentialBackoff::new(config.retry_backoff, config.retry_backoff_max),
            config: config.clone(),
            next_bootstrap: 0,
            coordinator: None,
            coordinator_id: None,
            is_finding: false,
            find_at: Time::ZERO,
            find_attempts: 0,
            topics: Vec::new(),
            joined_topics: Vec::new(),
            state: State::Unjoined,
            generation: -1,
            joins: 0,
            asked_at: Time::ZERO,
            joined_asked_at: Time::ZERO,
            stored_generation: -1,
            member_id,
            modern,
            life: 0,
            needs_rejoin: true,
            prepare: Prepare::NotStarted,
            join_at: Time::ZERO,
            join_attempts: 0,
            leading: None,
            assigned_by: None,
            synced: None,
            taking_up: None,
            had: Vec::new(),
            heartbeat_at: Time::ZERO,
            is_heartbeat_in_flight: false,
            session_from: Time::ZERO,
            busy_since: None,
            auto_commit_at: world.now() + config.auto_commit_interval,
            next_commit: 0,
            commits: Vec::new(),
            commit_results: Vec::new(),
            known: BTreeSet::new(),
            fetching: BTreeSet::new(),
            assignment: 0,
            fetch_at: Time::ZERO,
            events: Vec::new(),
            errors: Vec::new(),
            actions: Vec::new(),
            is_fatal: false,
            closing: None,
            wake_at: None,
            completions: Vec::new(),
        }
    }

    pub fn subscribe(&mut self, topics: Vec<TopicName>) {
        self.topics = topics;
        self.topics.sort();
        self.needs_rejoin = true;
    }

    pub fn is_subscribed(&self) -> bool {
        !self.topics.is_empty()
    }

    pub fn coordinator_id(&self) -> Option<BrokerId> {
        self.coordinator_id
    }

    pub fn joined_generation(&self) -> i32 {
        self.generation
    }

    pub fn joins(&self) -> u64 {
        self.joins
    }

    pub fn joined_asked_at(&self) -> Time {
        self.joined_asked_at
    }

    pub fn generation(&self) -> i32 {
        if self.modern.is_some() { self.generation } else { self.stored_generation }
    }

    pub fn member_id(&self) -> &str {
        &self.member_id
    }

    pub fn take_events(&mut self) -> Vec<RebalanceEvent> {
        std::mem::take(&mut self.events)
    }

    pub fn take_errors(&mut self) -> Vec<GroupError> {
        std::mem::take(&mut self.errors)
    }

    pub fn take_commits(&mut self) -> Vec<CommitResult> {
        std::mem::take(&mut self.commit_results)
    }

    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Whether a partition without a position may be reset: nothing was committed for it.
    pub fn is_known(&self, partition: &TopicPartition) -> bool {
        self.known.contains(partition)
    }

    /// Whether records may be handed out: not while the application is to let go of them.
    pub fn hands_out(&self) -> bool {
        if let Some(modern) = &self.modern {
            return modern.hands_out();
        }
        self.prepare == Prepare::NotStarted || self.is_cooperative() || self.prepare == Prepare::Done
    }

    pub fn is_closed(&self) -> bool {
        self.closing == Some(Closing::Closed)
    }

    /// Records were handed out at `now`: the application works until it polls again.
    pub fn note_handed_out(&mut self, now: Time) {
        self.busy_since = Some(now);
    }

    fn is_cooperative(&self) -> bool {
        self.config.partition_assignment_strategy.is_cooperative()
    }

    pub fn on_event(&mut self, now: Time, event: &Event, net: &mut Endpoint, view: View<'_>) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        let is_ours = self.rpc.on_event(now, event, net, &mut completions);
        if is_ours {
            self.wake_at = None;
            self.complete(now, &mut completions);
            self.drive(now, net, view);
        }
        self.completions = completions;
        is_ours
    }

    pub fn on_timer(&mut self, now: Time, net: &mut Endpoint, view: View<'_>) {
        let mut completions = std::mem::take(&mut self.completions);
        self.rpc.on_timer(now, net, &mut completions);
        self.wake_at = None;
        self.complete(now, &mut completions);
        self.completions = completions;
        self.drive(now, net, view);
    }

    pub fn deadline(&self) -> Option<Time> {
        self.wake_at.into_iter().chain(self.rpc.deadline()).min()
    }

    /// Whether the application has been away for `max.poll.interval.ms`; looked at again when it will have been.
    fn is_poll_overdue(&mut self, now: Time) -> bool {
        let Some(since) = self.busy_since else { return false };
        let until = since + self.config.max_poll_interval;
        if until > now {
            self.wake_by(until);
        }
        until <= now
    }

    fn wake_by(&mut self, at: Time) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }

    /// Everything that needs no application: the heartbeat thread's work, and what answers lead to.
    fn drive(&mut self, now: Time, net: &mut Endpoint, mut view: View<'_>) {
        if self.is_fatal || self.is_closed() {
            return;
        }
        match self.modern {
            Some(_) => self.drive_modern(now, net, &mut view),
            None => self.drive_heartbeat(now, net),
        }
        self.drive_coordinator(now, net);
        self.drive_leading(now, net, &mut view);
        self.drive_commits(now, net);
        self.drive_closing(now, net);
    }

    /// Looks for the coordinator while there is none (`ensureCoordinatorReady`).
    fn drive_coordinator(&mut self, now: Time, net: &mut Endpoint) {
        if self.coordinator.is_some() || self.is_finding {
            return;
        }
        if self.find_at > now {
            return self.wake_by(self.find_at);
        }
        let peer = self.bootstrap[self.next_bootstrap % self.bootstrap.len()];
        let request = FindCoordinatorRequest::default().with_key_type(0).with_coordinator_keys(vec![self.id.0.clone()]);
        let timeout = self.config.request_timeout;
        self.is_finding = true;
        self.rpc.send(now, peer, FIND_COORDINATOR_VERSION, &request, timeout, Call::FindCoordinator, net);
    }

    fn on_coordinator(&mut self, now: Time, result: Result<Reply, RpcError>) {
        self.is_finding = false;
        let response = result.ok().and_then(|reply| reply.decode::<FindCoordinatorRequest>().ok());
        let found = response.and_then(|response| response.coordinators.into_iter().next());
        let error = found.as_ref().and_then(|found| ErrorCode::try_from_code(found.error_code));
        match (found, error) {
            (Some(found), None) => {
                let address = HostPort::new(found.host.as_str(), u16::try_from(found.port).unwrap_or(0));
                self.coordinator = Some(self.rpc.peer(&address));
                self.coordinator_id = Some(BrokerId(found.node_id.0));
                self.session_from = now;
                self.find_attempts = 0;
                if self.modern.is_some() {
                    // Not at once again, however soon this one sends us away (`RequestState.onSuccessfulAttempt`).
                    self.find_at = now + self.config.retry_backoff;
                }
            }
            (_, Some(error)) if !error.is_retriable() => self.fail(error),
            (..) => {
                self.next_bootstrap += 1;
                self.find_at = now + self.retry_backoff.after(self.find_attempts, &mut self.rng);
                self.find_attempts += 1;
            }
        }
    }

    fn mark_coordinator_unknown(&mut self) {
        self.coordinator = None;
    }

    /// Nothing helps: the application is told, and the group left alone.
    fn fail(&mut self, error: ErrorCode) {
        self.is_fatal = true;
        self.errors.push(GroupError(error));
        if self.modern.is_none() {
            self.reset();
        }
    }

    fn complete(&mut self, now: Time, completions: &mut Vec<Completion<Call>>) {
        for Completion { tag, result, peer } in completions.drain(..) {
            if let Err(RpcError::Disconnected { .. } | RpcError::TimedOut { .. }) = result
                && self.coordinator == Some(peer)
                && !matches!(tag, Call::FindCoordinator)
            {
                self.mark_coordinator_unknown();
            }
            match tag {
                Call::FindCoordinator => self.on_coordinator(now, result),
                Call::Join(life) => self.on_join(now, life, result),
                Call::Sync(life) => self.on_sync(now, life, result),
                Call::Heartbeat(life) => self.on_heartbeat(now, life, result),
                Call::ModernHeartbeat(life) => self.on_modern_heartbeat(now, life, result),
                Call::Leave => self.closing = self.closing.map(|_| Closing::Closed),
                Call::Commit(id, life) => self.on_commit(now, id, life, result),
                Call::FetchOffsets(assignment, partitions) => self.on_offsets(now, assignment, &partitions, result),
            }
        }
    }

    /// The application has called poll (`ConsumerCoordinator.poll`).
    pub fn poll(&mut self, now: Time, net: &mut Endpoint, mut view: View<'_>) {
        self.busy_since = None;
        self.wake_at = None;
        if self.closing.is_some() || self.is_fatal && self.modern.is_none() {
            return;
        }
        if self.is_fatal {
            return self.poll_modern(now, net, &mut view);
        }
        if self.modern.is_some() {
            self.poll_modern(now, net, &mut view);
        } else if self.coordinator.is_some() && self.is_subscribed() {
            self.poll_membership(now, net, &mut view);
        }
        self.auto_commit(now, net, &view);
        // What the consumer is about to be assigned is asked for once it has been.
        if !self.actions.iter().any(|action| matches!(action, Action::Assign(_))) {
            self.fetch_committed(now, net, &view);
        }
        self.drive(now, net, view);
    }

    /// Leaves in an orderly way: commits where that is automatic, gives partitions up, leaves unless static
    /// (`ConsumerCoordinator.close`).
    pub fn close(&mut self, now: Time, net: &mut Endpoint, view: View<'_>) {
        if self.closing.is_some() {
            return;
        }
        self.busy_since = None;
        self.wake_at = None;
        let commit = match self.config.enable_auto_commit && self.is_in_generation() {
            true => self.commit_positions(now, Some(now + API_TIMEOUT), net, &view),
            false => None,
        };
        self.closing = Some(commit.map_or(Closing::Leaving, Closing::Committing));
        self.drive(now, net, view);
    }

    fn drive_closing(&mut self, now: Time, net: &mut Endpoint) {
        if let Some(Closing::Committing(id)) = self.closing
            && !self.is_committing(id)
        {
            self.closing = Some(Closing::Leaving);
        }
        if self.closing == Some(Closing::Leaving) {
            match self.modern {
                Some(_) => self.leave_modern(now, net),
                None => self.leave(now, net),
            }
        }
    }

    fn positions(view: &View<'_>) -> Vec<(TopicPartition, Commit)> {
        let position = |assigned: &AssignedPartition| {
            let (offset, leader_epoch) = assigned.valid_position()?;
            Some((assigned.partition.clone(), Commit { offset, leader_epoch }))
        };
        view.partitions.iter().filter_map(position).collect()
    }
}
