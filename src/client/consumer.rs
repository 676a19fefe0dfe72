//! Kafka's consumer (`KafkaConsumer`, `AbstractFetch`, `FetchCollector`, `OffsetFetcher`): fetches ahead from the
//! partitions' leaders or from replicas that these prefer (KIP-392), validates positions after a leader change (KIP-320),
//! resets them by policy, looks up offsets.
//! Partitions are assigned by hand, or by the group ([`group`](super::group)). Reads uncommitted; no fetch sessions.

use std::collections::VecDeque;
use std::time::Duration;
use std::vec;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::{
    FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::backoff::ExponentialBackoff;
use super::delivery::RecordHeader;
use super::error::ClientError;
use super::group::{Action, CommitId, CommitResult, Group, GroupError, RebalanceEvent, View};
use super::metadata::{LeaderAndEpoch, Metadata, MetadataConfig};
use super::records::FetchedRecords;
use super::subscription::{
    AssignedPartition, ConsumerError, FetchPosition, FetchState, PositionReset, ResetReason, Validated,
};
use crate::config::{ConsumerConfig, OffsetReset};
use crate::defect::{Defect, Defects};
use crate::protocol::rpc::{Completion, LinkState, PeerId, Reply, RpcClient, RpcConfig, RpcError};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, Offset, TopicPartition, millis_of};
use crate::world::{Endpoint, Event, HostPort, Time, World};

/// Fetch v16: topic ids, leader hints (KIP-951). v12 is the last by topic name.
const FETCH_VERSION: i16 = 16;
const FETCH_VERSION_BY_NAME: i16 = 12;
const LIST_OFFSETS_VERSION: i16 = 9;
const OFFSET_FOR_LEADER_EPOCH_VERSION: i16 = 4;
/// `ListOffsetsRequest.EARLIEST_TIMESTAMP`, `LATEST_TIMESTAMP`
const EARLIEST_TIMESTAMP: i64 = -2;
const LATEST_TIMESTAMP: i64 = -1;
/// `default.api.timeout.ms`: how long an offset lookup may take.
const API_TIMEOUT: Duration = Duration::from_secs(60);
/// The replica id of a consumer (`CONSUMER_REPLICA_ID`).
const CONSUMER_REPLICA_ID: i32 = -1;

/// A record handed to the application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerRecord {
    pub partition: TopicPartition,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<RecordHeader>,
}

/// Names one call of [`Consumer::end_offsets`] or [`Consumer::beginning_offsets`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LookupId(pub u64);

/// The answer to an offset lookup: all partitions, in the order asked for, or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetLookup {
    pub id: LookupId,
    pub result: Result<Vec<(TopicPartition, Offset)>, ClientError>,
}

struct Lookup {
    id: LookupId,
    timestamp: i64,
    deadline: Time,
    partitions: Vec<LookupPartition>,
}

struct LookupPartition {
    partition: TopicPartition,
    offset: Option<Offset>,
    retry_at: Time,
}

enum Tag {
    Metadata,
    Fetch { node: BrokerId, assignment: u64, partitions: Vec<FetchedPartition> },
    ListOffsets { assignment: u64, asked: Vec<AskedOffset> },
    Validate { assignment: u64, asked: Vec<(usize, FetchPosition)> },
}

struct FetchedPartition {
    index: usize,
    topic_id: Uuid,
    offset: Offset,
}

/// One entry of a ListOffsets request.
struct AskedOffset {
    partition: TopicPartition,
    timestamp: i64,
    purpose: Purpose,
}

#[derive(Clone, Copy)]
enum Purpose {
    /// Reset of an assigned partition, by index.
    Reset(usize),
    Lookup(LookupId),
}

struct CompletedFetch {
    index: usize,
    records: FetchedRecords,
}

pub struct Consumer {
    config: ConsumerConfig,
    /// `client.rack`
    rack_id: StrBytes,
    world: World,
    rpc: RpcClient<Tag>,
    metadata: Metadata,
    metadata_version: u64,
    /// With `group.id`.
    group: Option<Box<Group>>,
    partitions: Vec<AssignedPartition>,
    /// Raised by every `assign`: answers to requests of an earlier assignment are ignored.
    assignment: u64,
    /// The last place in the order of fetches that was given.
    last_turn: u64,
    completed_fetches: VecDeque<CompletedFetch>,
    /// Brokers with a fetch in flight: one each.
    fetching_from: Vec<BrokerId>,
    lookups: Vec<Lookup>,
    next_lookup: u64,
    found: Vec<OffsetLookup>,
    errors: Vec<ConsumerError>,
    resets: Vec<PositionReset>,
    /// When a backoff of ours ends, as of the last step.
    wake_at: Option<Time>,
    completions: Vec<Completion<Tag>>,
}

/// How a consumer's connections behave, its group's too.
pub(super) fn rpc_config(config: &ConsumerConfig) -> RpcConfig {
    RpcConfig {
        client_id: StrBytes::from_string(config.client_id.clone()),
        reconnect_backoff: config.reconnect_backoff,
        reconnect_backoff_max: config.reconnect_backoff_max,
        connection_setup_timeout: config.socket_connection_setup_timeout,
        discover_versions: true,
    }
}

impl Consumer {
    /// `bootstrap` must not be empty.
    pub fn new(world: &World, config: ConsumerConfig, bootstrap: Vec<HostPort>) -> Consumer {
        let group = config.group_id.as_deref();
        let group = group.map(|id| Box::new(Group::new(world, &config, id, &bootstrap)));
        let mut rpc = RpcClient::new(rpc_config(&config), world.rng("consumer-rpc"));
        let bootstrap = bootstrap.iter().map(|address| rpc.peer(address)).collect();
        let metadata_config = MetadataConfig {
            retry_backoff: ExponentialBackoff::new(config.retry_backoff, config.retry_backoff_max),
            max_age: config.metadata_max_age,
            request_timeout: config.request_timeout,
            allow_auto_topic_creation: true,
        };
        Consumer {
            rack_id: StrBytes::from_string(config.client_rack.clone()),
            config,
            world: world.clone(),
            rpc,
            metadata: Metadata::new(metadata_config, bootstrap, world.rng("consumer-metadata")),
            metadata_version: 0,
            group,
            partitions: Vec::new(),
            assignment: 0,
            last_turn: 0,
            completed_fetches: VecDeque::new(),
            fetching_from: Vec::new(),
            lookups: Vec::new(),
            next_lookup: 0,
            found: Vec::new(),
            errors: Vec::new(),
            resets: Vec::new(),
            wake_at: None,
            completions: Vec::new(),
        }
    }

    /// Replaces the assignment. Partitions that stay keep their position; new ones start by `auto.offset.reset`
    /// unless sought first.
    pub fn assign(&mut self, partitions: Vec<TopicPartition>, net: &mut Endpoint) {
        self.assignment += 1;
        self.completed_fetches.clear();
        let mut old = std::mem::take(&mut self.partitions);
        for partition in partitions {
            self.metadata.add_topic(&partition.topic);
            let kept = old.iter().position(|p| p.partition == partition).map(|i| old.swap_remove(i));
            let mut assigned = kept.unwrap_or_else(|| AssignedPartition::new(partition));
            assigned.is_buffered = false;
            assigned.retry_at = Time::ZERO;
            self.partitions.push(assigned);
        }
        self.run_once(self.world.now(), net);
    }

    /// Reads these topics as a member of the group that `group.id` names; joins with the next poll.
    ///
    /// Panics without `group.id`.
    pub fn subscribe(&mut self, topics: Vec<TopicName>) {
        topics.iter().for_each(|topic| self.metadata.add_topic(topic));
        self.group.as_mut().expect("subscribing needs group.id").subscribe(topics);
    }

    /// Commits offsets, or all positions if none are named; the result comes with [`Consumer::take_commits`]. A
    /// synchronous commit is tried again until it succeeds or cannot; an application would wait for it and not poll. None:
    /// there is nothing to commit, or no group.
    pub fn commit(
        &mut self,
        now: Time,
        offsets: Option<Vec<(TopicPartition, Offset, LeaderEpoch)>>,
        is_sync: bool,
        net: &mut Endpoint,
    ) -> Option<CommitId> {
        self.with_group(|group, view| group.commit(now, offsets, is_sync, net, &view)).flatten()
    }

    /// Commits if that is automatic, and leaves the group. Goes on until [`Consumer::is_closed`].
    pub fn close(&mut self, now: Time, net: &mut Endpoint) {
        self.with_group(|group, view| group.close(now, net, view));
    }

    /// Whether a close is over; without a group there is nothing to wait for.
    pub fn is_closed(&self) -> bool {
        self.group.as_ref().is_none_or(|group| group.is_closed())
    }

    /// The broker that coordinates our group, as far as we know; `None` before it was found.
    pub fn coordinator(&self) -> Option<BrokerId> {
        self.group.as_ref().and_then(|group| group.coordinator_id())
    }

    /// The generation that we have joined, with an assignment of it or not yet, or the member epoch; -1: none.
    pub fn joined_generation(&self) -> i32 {
        self.group.as_ref().map_or(-1, |group| group.joined_generation())
    }

    /// How often we have joined a generation (not a member epoch): two may have one number, if a coordinator did not get to
    /// store the first.
    pub fn joins(&self) -> u64 {
        self.group.as_ref().map_or(0, |group| group.joins())
    }

    /// When the request was sent that was answered with the generation or member epoch that we have joined.
    pub fn joined_asked_at(&self) -> Time {
        self.group.as_ref().map_or(Time::ZERO, |group| group.joined_asked_at())
    }

    /// The generation whose assignment we have, or the member epoch; -1: none.
    pub fn generation(&self) -> i32 {
        self.group.as_ref().map_or(-1, |group| group.generation())
    }

    /// Our member id; empty while there is none.
    pub fn member_id(&self) -> &str {
        self.group.as_ref().map_or("", |group| group.member_id())
    }

    /// Whether a commit has not ended yet.
    pub fn is_committing(&self, id: CommitId) -> bool {
        self.group.as_ref().is_some_and(|group| group.is_committing(id))
    }

    /// What rebalances did since the last call. Revoked partitions go with the next poll.
    pub fn take_rebalances(&mut self) -> Vec<RebalanceEvent> {
        self.group.as_mut().map(|group| group.take_events()).unwrap_or_default()
    }

    pub fn take_group_errors(&mut self) -> Vec<GroupError> {
        self.group.as_mut().map(|group| group.take_errors()).unwrap_or_default()
    }

    /// The commits that ended since the last call.
    pub fn take_commits(&mut self) -> Vec<CommitResult> {
        self.group.as_mut().map(|group| group.take_commits()).unwrap_or_default()
    }

    fn with_group<T>(&mut self, act: impl FnOnce(&mut Group, View<'_>) -> T) -> Option<T> {
        let group = self.group.as_mut()?;
        Some(act(group, View { partitions: &self.partitions, metadata: &mut self.metadata }))
    }

    /// Does what the group wants of us.
    fn follow_group(&mut self, net: &mut Endpoint) {
        let Some(actions) = self.group.as_mut().map(|group| group.take_actions()) else { return };
        for action in actions {
            match action {
                Action::Assign(partitions) => self.assign(partitions, net),
                Action::Committed(partition, Some((offset, epoch))) => {
                    self.metadata.update_last_seen_epoch(&partition.topic, partition.partition, epoch);
                    let leader = self.metadata.leader(&partition.topic, partition.partition);
                    let assigned = self.partitions.iter_mut().find(|p| p.partition == partition);
                    if let Some(assigned) = assigned.filter(|p| p.is_initializing()) {
                        assigned.seek_committed(offset, epoch, leader);
                    }
                }
                // Nothing was committed: by `auto.offset.reset`, which `initialize_positions` does now.
                Action::Committed(_, None) => {}
            }
        }
    }

    /// Sets the position of an assigned partition; false if it is not assigned. Acted on by the next poll or event.
    pub fn seek(&mut self, partition: &TopicPartition, offset: Offset) -> bool {
        let leader = self.metadata.leader(&partition.topic, partition.partition);
        let assigned = self.partitions.iter_mut().find(|p| p.partition == *partition);
        assigned.map(|p| p.seek(offset, leader)).is_some()
    }

    /// Has the positions looked up anew at the log start, of all assigned partitions if none is named.
    pub fn seek_to_beginning(&mut self, partitions: &[TopicPartition]) {
        for assigned in &mut self.partitions {
            if partitions.is_empty() || partitions.contains(&assigned.partition) {
                assigned.reset(OffsetReset::Earliest, None);
            }
        }
    }

    /// Has the positions looked up anew at the high watermark, of all assigned partitions if none is named.
    pub fn seek_to_end(&mut self, partitions: &[TopicPartition]) {
        for assigned in &mut self.partitions {
            if partitions.is_empty() || partitions.contains(&assigned.partition) {
                assigned.reset(OffsetReset::Latest, None);
            }
        }
    }

    /// Offset of the next record to be handed out; none if it is not known yet or the partition is not assigned.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.partitions.iter().find(|p| p.partition == *partition)?.position()
    }

    /// Up to `max.poll.records` of what has arrived.
    pub fn poll(&mut self, now: Time, net: &mut Endpoint) -> Vec<ConsumerRecord> {
        self.with_group(|group, view| group.poll(now, net, view));
        self.follow_group(net);
        let mut polled = Vec::new();
        if !self.hands_out() {
            self.run_once(now, net);
            return polled;
        }
        let (checks_crcs, defects) = (self.config.check_crcs, self.config.defects);
        while polled.len() < self.config.max_poll_records {
            let Some(at) = self.next_fetched() else { break };
            let fetch = &mut self.completed_fetches[at];
            let index = fetch.index;
            let assigned = &mut self.partitions[index];
            let limit = self.config.max_poll_records - polled.len();
            let collected = collect(assigned, &mut fetch.records, (checks_crcs, defects), limit, &mut polled);
            if let Collected::Error(error) = collected {
                self.errors.push(*error);
            } else if let Collected::More = collected {
                break;
            }
            assigned.is_buffered = false;
            self.completed_fetches.remove(at);
            self.move_to_end(index);
        }
        if let Some(group) = self.group.as_mut().filter(|_| !polled.is_empty()) {
            group.note_handed_out(now);
        }
        self.run_once(now, net);
        polled
    }

    /// Whether the next [`Consumer::poll`] has fetched data to look at. True after a poll that `max.poll.records` cut
    /// short: poll again then, no event will come for it.
    pub fn has_fetched(&self) -> bool {
        self.hands_out() && self.next_fetched().is_some()
    }

    /// Not while a rebalance waits for commits: what was fetched is to be given up.
    fn hands_out(&self) -> bool {
        self.group.as_ref().is_none_or(|group| group.hands_out())
    }

    /// The first of the completed fetches that is not of a paused partition.
    fn next_fetched(&self) -> Option<usize> {
        self.completed_fetches.iter().position(|fetch| !self.partitions[fetch.index].is_paused)
    }

    /// Fetches nothing more of these partitions and hands nothing of them out, until they are resumed; those that are
    /// not assigned are left out. A rebalance that takes a partition away forgets that it was paused.
    pub fn pause(&mut self, partitions: &[TopicPartition]) {
        self.set_paused(partitions, true);
    }

    /// Ends [`Consumer::pause`]. Acted on by the next poll or event.
    pub fn resume(&mut self, partitions: &[TopicPartition]) {
        self.set_paused(partitions, false);
    }

    fn set_paused(&mut self, partitions: &[TopicPartition], is_paused: bool) {
        for assigned in self.partitions.iter_mut().filter(|assigned| partitions.contains(&assigned.partition)) {
            assigned.is_paused = is_paused;
        }
    }

    /// The partitions that are assigned, by hand or by the group.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.partitions.iter().map(|assigned| assigned.partition.clone()).collect()
    }

    /// Looks up the ends of partitions (their high watermarks), assigned or not.
    pub fn end_offsets(&mut self, now: Time, partitions: &[TopicPartition], net: &mut Endpoint) -> LookupId {
        self.look_up(now, partitions, LATEST_TIMESTAMP, net)
    }

    /// Looks up the log starts of partitions, assigned or not.
    pub fn beginning_offsets(&mut self, now: Time, partitions: &[TopicPartition], net: &mut Endpoint) -> LookupId {
        self.look_up(now, partitions, EARLIEST_TIMESTAMP, net)
    }

    /// The lookups that ended since the last call.
    pub fn take_lookups(&mut self) -> vec::Drain<'_, OffsetLookup> {
        self.found.drain(..)
    }

    pub fn take_errors(&mut self) -> vec::Drain<'_, ConsumerError> {
        self.errors.drain(..)
    }

    /// Positions moved since the last call by truncation or `auto.offset.reset` (Kafka only logs them).
    pub fn take_resets(&mut self) -> vec::Drain<'_, PositionReset> {
        self.resets.drain(..)
    }

    /// False if the event is not ours.
    pub fn on_event(&mut self, event: &Event, net: &mut Endpoint) -> bool {
        let now = self.world.now();
        if self.with_group(|group, view| group.on_event(now, event, net, view)) == Some(true) {
            self.follow_group(net);
            self.run_once(now, net);
            return true;
        }
        let mut completions = std::mem::take(&mut self.completions);
        let is_ours = self.rpc.on_event(now, event, net, &mut completions);
        if is_ours {
            self.complete(now, &mut completions);
            self.run_once(now, net);
        }
        self.completions = completions;
        is_ours
    }

    pub fn on_timer(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        self.with_group(|group, view| group.on_timer(now, net, view));
        self.follow_group(net);
        let mut completions = std::mem::take(&mut self.completions);
        self.rpc.on_timer(now, net, &mut completions);
        self.complete(now, &mut completions);
        self.completions = completions;
        self.run_once(now, net);
    }

    pub fn deadline(&self) -> Option<Time> {
        let group = self.group.as_ref().and_then(|group| group.deadline());
        let own = [self.metadata.deadline(), self.wake_at, group];
        own.into_iter().flatten().chain(self.rpc.deadline()).min()
    }

    fn look_up(&mut self, now: Time, partitions: &[TopicPartition], timestamp: i64, net: &mut Endpoint) -> LookupId {
        let id = LookupId(self.next_lookup);
        self.next_lookup += 1;
        let unknown = |p: &TopicPartition| LookupPartition { partition: p.clone(), offset: None, retry_at: Time::ZERO };
        partitions.iter().for_each(|p| self.metadata.add_topic(&p.topic));
        self.lookups.push(Lookup {
            id,
            timestamp,
            deadline: now + API_TIMEOUT,
            partitions: partitions.iter().map(unknown).collect(),
        });
        self.run_once(now, net);
        id
    }

    /// Everything that can be done without waiting.
    fn run_once(&mut self, now: Time, net: &mut Endpoint) {
        self.wake_at = None;
        self.end_lookups(now);
        if self.metadata_version != self.metadata.version() {
            self.metadata_version = self.metadata.version();
            for assigned in &mut self.partitions {
                let TopicPartition { topic, partition } = &assigned.partition;
                assigned.on_leader(self.metadata.leader(topic, *partition));
            }
        }
        self.initialize_positions();
        self.send_list_offsets(now, net);
        self.send_validations(now, net);
        self.send_fetches(now, net);
        self.metadata.maybe_update(now, &mut self.rpc, Tag::Metadata, net);
    }

    fn wake_by(&mut self, at: Time) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }

    fn initialize_positions(&mut self) {
        let group = self.group.as_ref();
        // What the group has committed comes first.
        let is_ours = |partition: &TopicPartition| group.is_none_or(|group| group.is_known(partition));
        let initializing = self.partitions.iter_mut().filter(|p| p.state == FetchState::Initializing);
        for assigned in initializing.filter(|p| is_ours(&p.partition)) {
            match self.config.auto_offset_reset {
                OffsetReset::None => {
                    assigned.rest(Offset::ZERO);
                    self.errors.push(ConsumerError::NoOffsetForPartition { partition: assigned.partition.clone() });
                }
                policy @ (OffsetReset::Earliest | OffsetReset::Latest) => assigned.reset(policy, None),
            }
        }
    }

    /// The peer of a leader that may be asked now; wakes us when its reconnect backoff ends.
    fn leader_peer(&mut self, now: Time, leader: LeaderAndEpoch) -> Option<(BrokerId, PeerId)> {
        self.peer_of(now, leader.leader)
    }

    fn peer_of(&mut self, now: Time, broker: Option<BrokerId>) -> Option<(BrokerId, PeerId)> {
        let peer = broker.and_then(|id| self.metadata.peer(id).map(|peer| (id, peer)));
        let Some((id, peer)) = peer else {
            self.metadata.request_update();
            return None;
        };
        match self.rpc.link_state(peer) {
            LinkState::Down { retry_at } if retry_at > now => {
                self.wake_by(retry_at);
                None
            }
            LinkState::Down { .. } | LinkState::Connecting | LinkState::Ready => Some((id, peer)),
        }
    }

    /// The peer of the replica to fetch from: the preferred one as long as metadata knows it online, else the leader
    /// (`AbstractFetch.selectReadReplica`).
    fn read_replica(&mut self, now: Time, index: usize, leader: LeaderAndEpoch) -> Option<(BrokerId, PeerId)> {
        let assigned = &mut self.partitions[index];
        let mut replica = leader.leader;
        if replica.is_some()
            && let Some(preferred) = assigned.preferred_read_replica(now)
        {
            let TopicPartition { topic, partition } = &assigned.partition;
            if self.metadata.is_online_replica(topic, *partition, preferred) {
                replica = Some(preferred);
            } else {
                assigned.return_to_leader();
                self.metadata.request_update();
            }
        }
        self.peer_of(now, replica)
    }

    /// All others are fetched before it (`SubscriptionState.movePartitionToEnd`).
    fn move_to_end(&mut self, index: usize) {
        self.last_turn += 1;
        self.partitions[index].turn = self.last_turn;
    }

    fn send_fetches(&mut self, now: Time, net: &mut Endpoint) {
        let mut fetchable: Vec<(BrokerId, PeerId, usize, FetchPosition)> = Vec::new();
        for index in 0..self.partitions.len() {
            let assigned = &self.partitions[index];
            let FetchState::Fetching(position) = assigned.state else { continue };
            if assigned.is_buffered || assigned.is_paused {
                continue;
            }
            if assigned.retry_at > now {
                self.wake_by(assigned.retry_at);
            } else if let Some((node, peer)) = self.read_replica(now, index, position.leader)
                && !self.fetching_from.contains(&node)
            {
                fetchable.push((node, peer, index, position));
            }
        }
        fetchable.sort_by_key(|&(node, _, index, _)| (node, self.partitions[index].turn, index));
        for of_node in fetchable.chunk_by(|a, b| a.0 == b.0) {
            self.send_fetch(now, of_node, net);
        }
    }

    fn send_fetch(&mut self, now: Time, of_node: &[(BrokerId, PeerId, usize, FetchPosition)], net: &mut Endpoint) {
        let (node, peer, ..) = of_node[0];
        let mut topics: Vec<FetchTopic> = Vec::with_capacity(1);
        let mut fetched = Vec::with_capacity(of_node.len());
        let mut has_topic_ids = true;
        for &(_, _, index, position) in of_node {
            let TopicPartition { topic, partition } = &self.partitions[index].partition;
            let topic_id = self.metadata.topic(topic).map_or(Uuid::nil(), |t| t.id);
            has_topic_ids &= !topic_id.is_nil();
            fetched.push(FetchedPartition { index, topic_id, offset: position.offset });
            let entry = FetchPartition::default()
                .with_partition(*partition)
                .with_current_leader_epoch(position.leader.epoch.0)
                .with_fetch_offset(position.offset.0)
                .with_partition_max_bytes(self.config.max_partition_fetch_bytes);
            // The first one that has something is given a batch of whatever size (KIP-74): their order stays, and a topic
            // may come several times (`FetchRequest.Builder.build`).
            match topics.last_mut().filter(|t| t.topic == *topic) {
                Some(of_topic) => of_topic.partitions.push(entry),
                None => topics.push(
                    FetchTopic::default()
                        .with_topic(topic.clone())
                        .with_topic_id(topic_id)
                        .with_partitions(vec![entry]),
                ),
            }
        }
        let request = FetchRequest::default()
            .with_replica_id(CONSUMER_REPLICA_ID.into())
            .with_max_wait_ms(millis_of(self.config.fetch_max_wait))
            .with_min_bytes(self.config.fetch_min_bytes)
            .with_max_bytes(self.config.fetch_max_bytes)
            .with_topics(topics)
            .with_rack_id(self.rack_id.clone());
        let version = if has_topic_ids { FETCH_VERSION } else { FETCH_VERSION_BY_NAME };
        let tag = Tag::Fetch { node, assignment: self.assignment, partitions: fetched };
        self.fetching_from.push(node);
        self.rpc.send(now, peer, version, &request, self.config.request_timeout, tag, net);
    }

    /// Asks for the offsets that resets and lookups wait for (`OffsetFetcher.groupListOffsetRequests`).
    fn send_list_offsets(&mut self, now: Time, net: &mut Endpoint) {
        let mut wanted: Vec<(BrokerId, PeerId, LeaderEpoch, AskedOffset)> = Vec::new();
        for (asked, retry_at) in self.wanted_offsets() {
            if retry_at > now {
                self.wake_by(retry_at);
                continue;
            }
            let leader = self.metadata.leader(&asked.partition.topic, asked.partition.partition);
            if let Some((node, peer)) = self.leader_peer(now, leader) {
                wanted.push((node, peer, leader.epoch, asked));
            }
        }
        wanted.sort_by_key(|&(node, ..)| node);
        let mut wanted = wanted.into_iter().peekable();
        while let Some((node, peer, epoch, asked)) = wanted.next() {
            let mut of_node = vec![(epoch, asked)];
            while let Some((_, _, epoch, asked)) = wanted.next_if(|w| w.0 == node) {
                of_node.push((epoch, asked));
            }
            self.send_list_offsets_to(now, peer, of_node, net);
        }
    }

    /// Every offset still to be found, and when it may be asked for.
    fn wanted_offsets(&self) -> Vec<(AskedOffset, Time)> {
        let mut wanted = Vec::new();
        for (index, assigned) in self.partitions.iter().enumerate() {
            if let FetchState::AwaitReset { policy, .. } = assigned.state {
                let timestamp = timestamp_of(policy);
                let partition = assigned.partition.clone();
                wanted.push((AskedOffset { partition, timestamp, purpose: Purpose::Reset(index) }, assigned.retry_at));
            }
        }
        for lookup in &self.lookups {
            for p in lookup.partitions.iter().filter(|p| p.offset.is_none()) {
                let (partition, timestamp) = (p.partition.clone(), lookup.timestamp);
                wanted.push((AskedOffset { partition, timestamp, purpose: Purpose::Lookup(lookup.id) }, p.retry_at));
            }
        }
        wanted
    }

    fn send_list_offsets_to(
        &mut self,
        now: Time,
        peer: PeerId,
        of_node: Vec<(LeaderEpoch, AskedOffset)>,
        net: &mut Endpoint,
    ) {
        let mut topics: Vec<ListOffsetsTopic> = Vec::new();
        let mut asked = Vec::with_capacity(of_node.len());
        for (epoch, entry) in of_node {
            let partition = ListOffsetsPartition::default()
                .with_partition_index(entry.partition.partition)
                .with_current_leader_epoch(epoch.0)
                .with_timestamp(entry.timestamp);
            let name = &entry.partition.topic;
            match topics.iter_mut().find(|t| t.name == *name) {
                // The same partition twice in one request is refused: the second is asked for next time.
                Some(t) if t.partitions.iter().any(|p| p.partition_index == partition.partition_index) => continue,
                Some(of_topic) => of_topic.partitions.push(partition),
                None => {
                    topics.push(ListOffsetsTopic::default().with_name(name.clone()).with_partitions(vec![partition]))
                }
            }
            self.set_offset_retry(&entry, now + self.config.request_timeout);
            asked.push(entry);
        }
        let request = ListOffsetsRequest::default().with_replica_id(CONSUMER_REPLICA_ID.into()).with_topics(topics);
        let tag = Tag::ListOffsets { assignment: self.assignment, asked };
        self.rpc.send(now, peer, LIST_OFFSETS_VERSION, &request, self.config.request_timeout, tag, net);
    }

    /// Sets when an offset may be asked for again. While a request is out: after its timeout.
    fn set_offset_retry(&mut self, asked: &AskedOffset, at: Time) {
        match asked.purpose {
            Purpose::Reset(index) => {
                let assigned = self.partitions.get_mut(index).filter(|p| p.partition == asked.partition);
                if let Some(assigned) = assigned.filter(|p| matches!(p.state, FetchState::AwaitReset { .. })) {
                    assigned.retry_at = at;
                }
            }
            Purpose::Lookup(id) => {
                if let Some(entry) = self.lookup_entry(id, &asked.partition) {
                    entry.retry_at = at;
                }
            }
        }
    }

    fn lookup_entry(&mut self, id: LookupId, partition: &TopicPartition) -> Option<&mut LookupPartition> {
        let lookup = self.lookups.iter_mut().find(|l| l.id == id)?;
        lookup.partitions.iter_mut().find(|p| p.partition == *partition)
    }

    /// Completes the lookups that have every offset or are out of time.
    fn end_lookups(&mut self, now: Time) {
        let found = &mut self.found;
        self.lookups.retain(|lookup| {
            let offsets: Option<Vec<_>> =
                lookup.partitions.iter().map(|p| Some((p.partition.clone(), p.offset?))).collect();
            let result = match offsets {
                Some(offsets) => Ok(offsets),
                None if lookup.deadline <= now => Err(ClientError::Timeout),
                None => return true,
            };
            found.push(OffsetLookup { id: lookup.id, result });
            false
        });
        if let Some(deadline) = self.lookups.iter().map(|l| l.deadline).min() {
            self.wake_by(deadline);
        }
    }

    /// Asks new leaders where the epochs of our positions end in their logs (`validatePositionsAsync`).
    fn send_validations(&mut self, now: Time, net: &mut Endpoint) {
        let mut due: Vec<(BrokerId, PeerId, usize, FetchPosition)> = Vec::new();
        for index in 0..self.partitions.len() {
            let FetchState::AwaitValidation(position) = self.partitions[index].state else { continue };
            let retry_at = self.partitions[index].retry_at;
            if retry_at > now {
                self.wake_by(retry_at);
            } else if let Some((node, peer)) = self.leader_peer(now, position.leader) {
                due.push((node, peer, index, position));
            }
        }
        due.sort_by_key(|&(node, _, index, _)| (node, index));
        for of_node in due.chunk_by(|a, b| a.0 == b.0) {
            let peer = of_node[0].1;
            let mut topics: Vec<OffsetForLeaderTopic> = Vec::new();
            for &(_, _, index, position) in of_node {
                self.partitions[index].retry_at = now + self.config.request_timeout;
                let TopicPartition { topic, partition } = &self.partitions[index].partition;
                let entry = OffsetForLeaderPartition::default()
                    .with_partition(*partition)
                    .with_current_leader_epoch(position.leader.epoch.0)
                    .with_leader_epoch(position.offset_epoch.0);
                match topics.iter_mut().find(|t| t.topic == *topic) {
                    Some(of_topic) => of_topic.partitions.push(entry),
                    None => topics
                        .push(OffsetForLeaderTopic::default().with_topic(topic.clone()).with_partitions(vec![entry])),
                }
            }
            let request =
                OffsetForLeaderEpochRequest::default().with_replica_id(CONSUMER_REPLICA_ID.into()).with_topics(topics);
            let asked = of_node.iter().map(|&(_, _, index, position)| (index, position)).collect();
            let tag = Tag::Validate { assignment: self.assignment, asked };
            let timeout = self.config.request_timeout;
            self.rpc.send(now, peer, OFFSET_FOR_LEADER_EPOCH_VERSION, &request, timeout, tag, net);
        }
    }

    fn complete(&mut self, now: Time, completions: &mut Vec<Completion<Tag>>) {
        self.metadata.note_disconnects(now, &self.rpc);
        for Completion { tag, result, .. } in completions.drain(..) {
            match tag {
                Tag::Metadata => self.metadata.on_response(now, result, &mut self.rpc),
                Tag::Fetch { node, assignment, partitions } => {
                    self.fetching_from.retain(|&n| n != node);
                    if assignment == self.assignment {
                        self.on_fetch(now, &partitions, result);
                    }
                }
                Tag::ListOffsets { assignment, asked } => self.on_list_offsets(now, assignment, &asked, result),
                Tag::Validate { assignment, asked } if assignment == self.assignment => {
                    self.on_validate(now, &asked, result);
                }
                Tag::Validate { .. } => {}
            }
        }
    }

    fn on_fetch(&mut self, now: Time, fetched: &[FetchedPartition], result: Result<Reply, RpcError>) {
        if result.is_err() {
            // `AbstractFetch.handleFetchFailure`
            fetched.iter().for_each(|f| _ = self.partitions[f.index].return_to_leader());
        }
        let response = result.ok().and_then(|reply| reply.decode::<FetchRequest>().ok());
        let Some(response) = response.filter(|r| r.error_code == 0) else {
            self.metadata.request_update();
            let at = now + self.config.retry_backoff;
            fetched.iter().for_each(|f| self.partitions[f.index].retry_at = at);
            return;
        };
        for topic in &response.responses {
            for data in &topic.partitions {
                let partitions = &self.partitions;
                let of_data = |f: &&FetchedPartition| {
                    let partition = &partitions[f.index].partition;
                    let is_topic = match topic.topic_id.is_nil() {
                        true => topic.topic == partition.topic,
                        false => topic.topic_id == f.topic_id,
                    };
                    is_topic && partition.partition == data.partition_index
                };
                if let Some(fetched) = fetched.iter().find(of_data) {
                    self.on_fetched_partition(now, fetched, data, &response);
                }
            }
        }
    }

    /// `FetchCollector.initialize`, at arrival instead of at the poll.
    fn on_fetched_partition(
        &mut self,
        now: Time,
        fetched: &FetchedPartition,
        data: &PartitionData,
        all: &FetchResponse,
    ) {
        let assigned = &mut self.partitions[fetched.index];
        let is_current = matches!(assigned.state, FetchState::Fetching(position) if position.offset == fetched.offset);
        if !is_current {
            return;
        }
        let Some(error) = ErrorCode::try_from_code(data.error_code) else {
            let preferred = BrokerId(data.preferred_read_replica.0);
            if preferred != BrokerId::NONE {
                assigned.prefer(preferred, now + self.config.metadata_max_age);
            }
            if let Some(records) = data.records.as_ref().filter(|r| !r.is_empty()) {
                assigned.is_buffered = true;
                let records = FetchedRecords::new(records.clone(), fetched.offset);
                self.completed_fetches.push_back(CompletedFetch { index: fetched.index, records });
            }
            return;
        };
        self.on_fetch_error(now, fetched, error, data, all);
    }

    /// `FetchCollector.handleInitializeErrors`. Kafka asks the same broker again at once, until metadata says
    /// otherwise; here the partition backs off for `retry.backoff.ms` unless the answer named the new leader.
    fn on_fetch_error(
        &mut self,
        now: Time,
        fetched: &FetchedPartition,
        error: ErrorCode,
        data: &PartitionData,
        all: &FetchResponse,
    ) {
        self.move_to_end(fetched.index);
        let assigned = &mut self.partitions[fetched.index];
        match error {
            // Log starts and ends differ from replica to replica: only the leader's count (KIP-392).
            ErrorCode::OffsetOutOfRange
                if assigned.return_to_leader() && !self.config.defects.has(Defect::FollowerOutOfRangeResets) => {}
            ErrorCode::OffsetOutOfRange => match self.config.auto_offset_reset {
                OffsetReset::None => {
                    assigned.rest(fetched.offset);
                    let partition = assigned.partition.clone();
                    self.errors.push(ConsumerError::OffsetOutOfRange { partition, position: fetched.offset });
                }
                policy @ (OffsetReset::Earliest | OffsetReset::Latest) => {
                    assigned.reset(policy, Some((fetched.offset, ResetReason::OutOfRange)));
                }
            },
            ErrorCode::TopicAuthorizationFailed | ErrorCode::CorruptMessage => {
                assigned.rest(fetched.offset);
                self.errors.push(ConsumerError::Broker { partition: assigned.partition.clone(), error });
            }
            // Everything else may pass: the leader moved, is not ready, or had trouble of its own.
            _ => {
                assigned.retry_at = now + self.config.retry_backoff;
                if !matches!(error, ErrorCode::UnknownLeaderEpoch | ErrorCode::UnknownServerError) {
                    assigned.return_to_leader();
                    self.metadata.request_update();
                }
                self.learn_leader(fetched.index, data, all);
            }
        }
    }

    /// Takes over the current leader named in an error (KIP-951); the position is then validated against it.
    fn learn_leader(&mut self, index: usize, data: &PartitionData, all: &FetchResponse) {
        let leader = data.current_leader.leader_id;
        let endpoint = all.node_endpoints.iter().find(|e| e.node_id == leader);
        let address = endpoint.and_then(|e| Some(HostPort::new(e.host.as_str(), u16::try_from(e.port).ok()?)));
        let TopicPartition { topic, partition } = &self.partitions[index].partition;
        let epoch = LeaderEpoch(data.current_leader.leader_epoch);
        let (metadata, rpc) = (&mut self.metadata, &mut self.rpc);
        if metadata.update_leadership(topic, *partition, BrokerId(leader.0), epoch, address, rpc) {
            self.partitions[index].retry_at = Time::ZERO;
        }
    }

    fn on_list_offsets(&mut self, now: Time, assignment: u64, asked: &[AskedOffset], result: Result<Reply, RpcError>) {
        let response = result.ok().and_then(|reply| reply.decode::<ListOffsetsRequest>().ok());
        let retry_at = now + self.config.retry_backoff;
        for asked in asked {
            if matches!(asked.purpose, Purpose::Reset(_)) && assignment != self.assignment {
                continue;
            }
            let answer = response.as_ref().and_then(|r| offset_answer(r, &asked.partition));
            match answer.map(|a| (ErrorCode::try_from_code(a.error_code), a)) {
                Some((None, answer)) if answer.offset >= 0 => self.on_offset(asked, answer),
                Some((Some(ErrorCode::TopicAuthorizationFailed), _)) => self.on_offset_refused(asked),
                Some(_) | None => {
                    self.set_offset_retry(asked, retry_at);
                    self.metadata.request_update();
                }
            }
        }
    }

    fn on_offset(&mut self, asked: &AskedOffset, answer: &ListOffsetsPartitionResponse) {
        let TopicPartition { topic, partition } = &asked.partition;
        let offset = Offset(answer.offset);
        match asked.purpose {
            Purpose::Reset(index) => {
                self.metadata.update_last_seen_epoch(topic, *partition, LeaderEpoch(answer.leader_epoch));
                let leader = self.metadata.leader(topic, *partition);
                let policy =
                    if asked.timestamp == EARLIEST_TIMESTAMP { OffsetReset::Earliest } else { OffsetReset::Latest };
                self.resets.extend(self.partitions[index].complete_reset(policy, offset, leader));
            }
            Purpose::Lookup(id) => {
                if let Some(entry) = self.lookup_entry(id, &asked.partition) {
                    entry.offset = Some(offset);
                }
            }
        }
    }

    fn on_offset_refused(&mut self, asked: &AskedOffset) {
        let error = ErrorCode::TopicAuthorizationFailed;
        match asked.purpose {
            Purpose::Reset(index) => {
                self.partitions[index].rest(Offset::ZERO);
                self.errors.push(ConsumerError::Broker { partition: asked.partition.clone(), error });
            }
            Purpose::Lookup(id) => {
                self.lookups.retain(|l| l.id != id);
                self.found.push(OffsetLookup { id, result: Err(ClientError::Broker(error)) });
            }
        }
    }

    fn on_validate(&mut self, now: Time, asked: &[(usize, FetchPosition)], result: Result<Reply, RpcError>) {
        let response = result.ok().and_then(|reply| reply.decode::<OffsetForLeaderEpochRequest>().ok());
        for &(index, position) in asked {
            let assigned = &mut self.partitions[index];
            if assigned.state != FetchState::AwaitValidation(position) {
                continue;
            }
            let answer = response.as_ref().and_then(|r| epoch_answer(r, &assigned.partition));
            let Some((end_offset, epoch)) = answer else {
                assigned.retry_at = now + self.config.retry_backoff;
                self.metadata.request_update();
                continue;
            };
            match assigned.complete_validation(position, end_offset, epoch, self.config.auto_offset_reset) {
                Validated::Valid | Validated::Obsolete => {}
                Validated::Moved(reset) => self.resets.push(reset),
                Validated::Truncated(error) => self.errors.push(error),
            }
        }
    }
}

enum Collected {
    /// `max.poll.records` reached: the fetch has more, perhaps.
    More,
    Drained,
    Error(Box<ConsumerError>),
}

/// Moves up to `limit` records from a fetch to the application and the position with them
/// (`FetchCollector.fetchRecords`).
fn collect(
    assigned: &mut AssignedPartition,
    records: &mut FetchedRecords,
    (checks_crcs, defects): (bool, Defects),
    limit: usize,
    polled: &mut Vec<ConsumerRecord>,
) -> Collected {
    // Obsolete if the position was sought, reset or put up for validation since.
    let position = match assigned.state {
        FetchState::Fetching(position) if position.offset == records.next_offset => position,
        FetchState::Fetching(_)
        | FetchState::Initializing
        | FetchState::AwaitReset { .. }
        | FetchState::AwaitValidation(_)
        | FetchState::Resting { .. } => return Collected::Drained,
    };
    let before = polled.len();
    let collected = loop {
        if polled.len() - before == limit {
            break Collected::More;
        }
        let next = match records.next(checks_crcs) {
            Err(_) if checks_crcs && defects.has(Defect::ServeCorruptBatch) => records.next(false),
            next => next,
        };
        match next {
            Ok(Some(record)) => polled.push(ConsumerRecord {
                partition: assigned.partition.clone(),
                offset: record.offset,
                leader_epoch: record.leader_epoch,
                timestamp_ms: record.timestamp_ms,
                key: record.key,
                value: record.value,
                headers: record.headers,
            }),
            Ok(None) => break Collected::Drained,
            Err(corrupt) => {
                assigned.rest(records.next_offset);
                return Collected::Error(Box::new(ConsumerError::CorruptRecords {
                    partition: assigned.partition.clone(),
                    position: records.next_offset,
                    reason: corrupt.to_string(),
                }));
            }
        }
    };
    if records.next_offset > position.offset {
        let (offset, offset_epoch) = (records.next_offset, records.last_epoch);
        assigned.state = FetchState::Fetching(FetchPosition { offset, offset_epoch, ..position });
    }
    collected
}

fn timestamp_of(policy: OffsetReset) -> i64 {
    match policy {
        OffsetReset::Earliest => EARLIEST_TIMESTAMP,
        OffsetReset::Latest => LATEST_TIMESTAMP,
        OffsetReset::None => unreachable!("without a policy an error is reported instead of a reset"),
    }
}

fn offset_answer<'a>(
    response: &'a ListOffsetsResponse,
    partition: &TopicPartition,
) -> Option<&'a ListOffsetsPartitionResponse> {
    let topic = response.topics.iter().find(|t| t.name == partition.topic)?;
    topic.partitions.iter().find(|p| p.partition_index == partition.partition)
}

/// End offset and epoch, if the leader gave an answer; every error is retried (`OffsetsForLeaderEpochUtils`).
fn epoch_answer(response: &OffsetForLeaderEpochResponse, partition: &TopicPartition) -> Option<(Offset, LeaderEpoch)> {
    let topic: &TopicName = &partition.topic;
    let topic = response.topics.iter().find(|t| t.topic == *topic)?;
    let answer = topic.partitions.iter().find(|p| p.partition == partition.partition)?;
    (answer.error_code == 0).then_some((Offset(answer.end_offset), LeaderEpoch(answer.leader_epoch)))
}
