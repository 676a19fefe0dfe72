//! A client's cache of cluster metadata (Kafka's `Metadata` and `NetworkClient.DefaultMetadataUpdater`):
//! which broker leads a partition, and when to ask again. Wanted topics only, always refreshed together.

use std::collections::BTreeMap;
use std::time::Duration;

use indexmap::IndexMap;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use rand::RngExt;
use rustc_hash::FxBuildHasher;
use uuid::Uuid;

use super::backoff::ExponentialBackoff;
use super::error::is_invalid_metadata;
use crate::protocol::rpc::{LinkState, PeerId, Reply, RpcClient, RpcError};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch};
use crate::world::{Endpoint, HostPort, Rng, Time};

/// Metadata v12: topic ids and leader epochs.
pub(super) const METADATA_VERSION: i16 = 12;

/// Who leads a partition, as far as known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LeaderAndEpoch {
    pub leader: Option<BrokerId>,
    /// [`LeaderEpoch::NONE`] if unknown.
    pub epoch: LeaderEpoch,
}

impl LeaderAndEpoch {
    pub const UNKNOWN: LeaderAndEpoch = LeaderAndEpoch { leader: None, epoch: LeaderEpoch::NONE };
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PartitionMetadata {
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    /// The replicas that are not said to be offline.
    pub online_replicas: Vec<BrokerId>,
}

impl PartitionMetadata {
    const UNKNOWN: PartitionMetadata =
        PartitionMetadata { leader: None, leader_epoch: LeaderEpoch::NONE, online_replicas: Vec::new() };
}

#[derive(Clone, Debug, Default)]
pub(super) struct TopicMetadata {
    pub id: Uuid,
    /// What the broker said of the topic, if it was no success.
    pub error: Option<ErrorCode>,
    /// Empty while unknown.
    pub partitions: Vec<PartitionMetadata>,
    /// Highest leader epoch seen per partition; outlives the partition's metadata (`lastSeenLeaderEpochs`).
    seen_epochs: Vec<LeaderEpoch>,
}

impl TopicMetadata {
    pub fn leader(&self, partition: i32) -> LeaderAndEpoch {
        let index = partition as usize;
        let seen = self.seen_epochs.get(index).copied().unwrap_or(LeaderEpoch::NONE);
        match self.partitions.get(index) {
            Some(p) if p.leader_epoch == seen => LeaderAndEpoch { leader: p.leader, epoch: p.leader_epoch },
            Some(_) | None => LeaderAndEpoch { leader: None, epoch: seen },
        }
    }

    fn see_epoch(&mut self, index: usize, epoch: LeaderEpoch) {
        if self.seen_epochs.len() <= index {
            self.seen_epochs.resize(index + 1, LeaderEpoch::NONE);
        }
        self.seen_epochs[index] = epoch;
    }
}

pub(super) struct MetadataConfig {
    pub retry_backoff: ExponentialBackoff,
    /// `metadata.max.age.ms`
    pub max_age: Duration,
    pub request_timeout: Duration,
    /// `allow.auto.create.topics`; producers always do.
    pub allow_auto_topic_creation: bool,
}

pub(super) struct Metadata {
    config: MetadataConfig,
    rng: Rng,
    bootstrap: Vec<PeerId>,
    brokers: BTreeMap<BrokerId, PeerId>,
    topics: IndexMap<TopicName, TopicMetadata, FxBuildHasher>,
    /// Raised by every response and every leader learnt otherwise.
    version: u64,
    need_update: bool,
    in_progress: bool,
    last_success: Option<Time>,
    last_refresh: Option<Time>,
    failed_attempts: u32,
    /// Responses in a row that taught nothing.
    equivalent_responses: u32,
    /// Earliest next request, by each of the two backoffs.
    attempts_allow_at: Time,
    equivalent_allow_at: Time,
    /// When time alone can make [`Metadata::maybe_update`] do something, as of its last call.
    wake_at: Option<Time>,
    disconnects_seen: u64,
}

impl Metadata {
    /// `bootstrap` must not be empty.
    pub fn new(config: MetadataConfig, bootstrap: Vec<PeerId>, rng: Rng) -> Metadata {
        assert!(!bootstrap.is_empty(), "a client needs bootstrap servers");
        Metadata {
            config,
            rng,
            bootstrap,
            brokers: BTreeMap::new(),
            topics: IndexMap::default(),
            version: 0,
            need_update: false,
            in_progress: false,
            last_success: None,
            last_refresh: None,
            failed_attempts: 0,
            equivalent_responses: 0,
            attempts_allow_at: Time::ZERO,
            equivalent_allow_at: Time::ZERO,
            wake_at: None,
            disconnects_seen: 0,
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn peer(&self, broker: BrokerId) -> Option<PeerId> {
        self.brokers.get(&broker).copied()
    }

    /// A wanted topic's metadata, if some is known.
    pub fn topic(&self, name: &TopicName) -> Option<&TopicMetadata> {
        self.topics.get(name)
    }

    pub fn leader(&self, topic: &TopicName, partition: i32) -> LeaderAndEpoch {
        self.topics.get(topic).map_or(LeaderAndEpoch::UNKNOWN, |t| t.leader(partition))
    }

    /// Whether `broker` is known, and a replica of the partition that is not offline (`Cluster.nodeIfOnline`).
    pub fn is_online_replica(&self, topic: &TopicName, partition: i32, broker: BrokerId) -> bool {
        let metadata = self.topics.get(topic).and_then(|t| t.partitions.get(usize::try_from(partition).ok()?));
        self.brokers.contains_key(&broker) && metadata.is_some_and(|p| p.online_replicas.contains(&broker))
    }

    /// Wants the topic from now on; a new one is asked for at once (`requestUpdateForNewTopics`).
    pub fn add_topic(&mut self, name: &TopicName) {
        if !self.topics.contains_key(name) {
            self.topics.insert(name.clone(), TopicMetadata::default());
            self.request_update_at_once();
        }
    }

    /// Asks for a refresh, subject to backoff.
    pub fn request_update(&mut self) {
        self.need_update = true;
    }

    /// Asks for a refresh that does not wait for the backoff of responses without news
    /// (`requestUpdate(resetEquivalentResponseBackoff = true)`).
    pub fn request_fresh_update(&mut self) {
        self.need_update = true;
        self.equivalent_responses = 0;
        self.equivalent_allow_at = Time::ZERO;
    }

    fn request_update_at_once(&mut self) {
        self.request_fresh_update();
        self.attempts_allow_at = Time::ZERO;
    }

    /// A leader epoch learnt from a response other than metadata; a newer one than cached makes the cached
    /// leader unusable until the next refresh (`updateLastSeenEpochIfNewer`).
    pub fn update_last_seen_epoch(&mut self, topic: &TopicName, partition: i32, epoch: LeaderEpoch) {
        let Some(topic) = self.topics.get_mut(topic) else { return };
        let index = partition as usize;
        if topic.seen_epochs.get(index).is_some_and(|&seen| seen != LeaderEpoch::NONE && seen < epoch) {
            topic.seen_epochs[index] = epoch;
            self.need_update = true;
        }
    }

    /// A leader learnt from an error response (KIP-951, `updatePartitionLeadership`). Ignored unless newer than
    /// what is cached and its address is known.
    pub fn update_leadership<T>(
        &mut self,
        topic: &TopicName,
        partition: i32,
        leader: BrokerId,
        epoch: LeaderEpoch,
        address: Option<HostPort>,
        rpc: &mut RpcClient<T>,
    ) -> bool {
        if leader == BrokerId::NONE || epoch == LeaderEpoch::NONE {
            return false;
        }
        if let Some(address) = address {
            self.brokers.insert(leader, rpc.peer(&address));
        }
        let Some(topic) = self.topics.get_mut(topic) else { return false };
        let newer = topic.leader(partition).epoch < epoch;
        let index = partition as usize;
        if !newer || !self.brokers.contains_key(&leader) || index >= topic.partitions.len() {
            return false;
        }
        let of_partition = &mut topic.partitions[index];
        (of_partition.leader, of_partition.leader_epoch) = (Some(leader), epoch);
        topic.see_epoch(index, epoch);
        self.version += 1;
        true
    }

    /// Notices connections lost since the last call: metadata may be stale, and an update that was due has
    /// failed (`handleServerDisconnect`).
    pub fn note_disconnects<T>(&mut self, now: Time, rpc: &RpcClient<T>) {
        if self.disconnects_seen == rpc.disconnects() {
            return;
        }
        self.disconnects_seen = rpc.disconnects();
        if !self.in_progress && self.update_at().is_some_and(|at| at <= now) {
            self.on_failure(now);
        }
        self.need_update = true;
    }

    /// Sends a request if one is due and a node can take it; starts a connection if none can. Callers end every
    /// step with it, so that [`Metadata::deadline`] holds.
    pub fn maybe_update<T>(&mut self, now: Time, rpc: &mut RpcClient<T>, tag: T, net: &mut Endpoint) {
        self.wake_at = match self.update_at() {
            Some(at) if !self.in_progress => Some(at),
            Some(_) | None => None,
        };
        if self.wake_at.is_none_or(|at| at > now) {
            return;
        }
        self.wake_at = match self.least_loaded_node(now, rpc) {
            NodeChoice::Ready(peer) => {
                rpc.send(now, peer, METADATA_VERSION, &self.request(), self.config.request_timeout, tag, net);
                self.in_progress = true;
                None
            }
            NodeChoice::Connecting => None,
            NodeChoice::Connect(peer) => {
                rpc.connect(now, peer, net);
                None
            }
            NodeChoice::Blocked { until } => Some(until),
        };
    }

    pub fn deadline(&self) -> Option<Time> {
        self.wake_at
    }

    pub fn on_response<T>(&mut self, now: Time, result: Result<Reply, RpcError>, rpc: &mut RpcClient<T>) {
        self.in_progress = false;
        let response = result.ok().and_then(|reply| reply.decode::<MetadataRequest>().ok());
        match response {
            // An answer without brokers is no usable metadata (`handleSuccessfulResponse`).
            Some(response) if !response.brokers.is_empty() => self.update(now, &response, |a| rpc.peer(&a)),
            Some(_) | None => {
                self.on_failure(now);
                self.need_update = true;
            }
        }
    }

    fn request(&self) -> MetadataRequest {
        let topic = |name: &TopicName| MetadataRequestTopic::default().with_name(Some(name.clone()));
        MetadataRequest::default()
            .with_topics(Some(self.topics.keys().map(topic).collect()))
            .with_allow_auto_topic_creation(self.config.allow_auto_topic_creation)
    }

    /// When the next refresh is due; `None` while nothing is wanted.
    fn update_at(&self) -> Option<Time> {
        if self.topics.is_empty() {
            return None;
        }
        let expires_at = match self.last_success {
            Some(at) if !self.need_update => at + self.config.max_age,
            Some(_) | None => Time::ZERO,
        };
        Some(expires_at.max(self.attempts_allow_at).max(self.equivalent_allow_at))
    }

    fn on_failure(&mut self, now: Time) {
        self.failed_attempts += 1;
        self.refreshed(now);
    }

    /// Sets both backoffs after a response or a failure (`timeToAllowUpdate`).
    fn refreshed(&mut self, now: Time) {
        self.last_refresh = Some(now);
        let backoff = self.config.retry_backoff;
        self.attempts_allow_at = now + backoff.after(self.failed_attempts.saturating_sub(1), &mut self.rng);
        self.equivalent_allow_at = match self.equivalent_responses {
            0 => now,
            n => now + backoff.after(n - 1, &mut self.rng),
        };
    }

    fn update(&mut self, now: Time, response: &MetadataResponse, mut peer: impl FnMut(HostPort) -> PeerId) {
        self.version += 1;
        self.need_update = false;
        self.last_success = Some(now);
        self.failed_attempts = 0;
        self.equivalent_responses += 1;
        self.brokers.clear();
        for broker in &response.brokers {
            let address = HostPort::new(broker.host.as_str(), u16::try_from(broker.port).unwrap_or(0));
            self.brokers.insert(BrokerId(*broker.node_id), peer(address));
        }
        for topic in &response.topics {
            self.update_topic(topic);
        }
        self.refreshed(now);
    }

    fn update_topic(&mut self, new: &MetadataResponseTopic) {
        let Some(topic) = new.name.as_ref().and_then(|name| self.topics.get_mut(name)) else { return };
        topic.error = ErrorCode::try_from_code(new.error_code);
        if let Some(error) = topic.error {
            topic.partitions.clear();
            self.need_update |= is_invalid_metadata(error);
            return;
        }
        let is_recreated = new.topic_id != topic.id && !new.topic_id.is_nil();
        if !new.topic_id.is_nil() {
            topic.id = new.topic_id;
        }
        let old = std::mem::take(&mut topic.partitions);
        let count = new.partitions.iter().map(|p| p.partition_index + 1).max().unwrap_or(0);
        topic.partitions = vec![PartitionMetadata::UNKNOWN; usize::try_from(count).unwrap_or(0)];
        for partition in &new.partitions {
            let Ok(index) = usize::try_from(partition.partition_index) else { continue };
            let (metadata, is_news) = latest(topic, index, old.get(index), partition, is_recreated);
            topic.partitions[index] = metadata;
            if is_news {
                self.equivalent_responses = 0;
            }
            self.need_update |= ErrorCode::try_from_code(partition.error_code).is_some_and(is_invalid_metadata);
        }
    }

    /// Kafka's choice (`NetworkClient.leastLoadedNode`): a ready connection with the fewest requests in flight,
    /// else wait for one that is being made, else make one. When no known broker will do, the bootstrap servers
    /// are tried again (KIP-899, KIP-1102).
    fn least_loaded_node<T>(&mut self, now: Time, rpc: &RpcClient<T>) -> NodeChoice {
        let start = self.rng.random_range(0..=u32::MAX) as usize;
        self.choose_node(now, start, rpc)
    }

    /// The same choice for another request to any broker; `start` is where the search begins.
    pub fn choose_node<T>(&self, now: Time, start: usize, rpc: &RpcClient<T>) -> NodeChoice {
        let known: Vec<PeerId> = self.brokers.values().copied().collect();
        match choose_node(now, &known, start, rpc) {
            NodeChoice::Blocked { .. } => choose_node(now, &self.bootstrap, start, rpc),
            choice @ (NodeChoice::Ready(_) | NodeChoice::Connecting | NodeChoice::Connect(_)) => choice,
        }
    }
}

/// What a partition's metadata becomes, and whether the response told anything new (`updateLatestMetadata`).
fn latest(
    topic: &mut TopicMetadata,
    index: usize,
    old: Option<&PartitionMetadata>,
    new: &MetadataResponsePartition,
    is_recreated: bool,
) -> (PartitionMetadata, bool) {
    let leader = (new.leader_id.0 >= 0).then_some(BrokerId(new.leader_id.0));
    let online = new.replica_nodes.iter().filter(|id| !new.offline_replicas.contains(id));
    let online_replicas = online.map(|id| BrokerId(id.0)).collect();
    let epoch = LeaderEpoch(new.leader_epoch);
    let seen = topic.seen_epochs.get(index).copied().unwrap_or(LeaderEpoch::NONE);
    if epoch < LeaderEpoch(0) {
        topic.see_epoch(index, LeaderEpoch::NONE);
        return (PartitionMetadata { leader, leader_epoch: LeaderEpoch::NONE, online_replicas }, true);
    }
    if epoch < seen && !is_recreated {
        // A broker that is behind: keep what was known.
        return (old.cloned().unwrap_or(PartitionMetadata::UNKNOWN), false);
    }
    topic.see_epoch(index, epoch);
    (PartitionMetadata { leader, leader_epoch: epoch, online_replicas }, epoch != seen)
}

pub(super) enum NodeChoice {
    Ready(PeerId),
    /// Another connection is being made; wait for it.
    Connecting,
    Connect(PeerId),
    Blocked {
        until: Time,
    },
}

/// See [`Metadata::least_loaded_node`]; `start` is where the search begins.
pub(super) fn choose_node<T>(now: Time, nodes: &[PeerId], start: usize, rpc: &RpcClient<T>) -> NodeChoice {
    let mut ready: Option<PeerId> = None;
    let mut is_connecting = false;
    let mut connectable: Option<(Time, PeerId)> = None;
    let mut blocked_until: Option<Time> = None;
    for i in 0..nodes.len() {
        let node = nodes[(start + i) % nodes.len()];
        match rpc.link_state(node) {
            LinkState::Ready => {
                if ready.is_none_or(|best| rpc.in_flight(node) < rpc.in_flight(best)) {
                    ready = Some(node);
                }
            }
            LinkState::Connecting => is_connecting = true,
            LinkState::Down { retry_at } if retry_at <= now => {
                if connectable.is_none_or(|(best, _)| retry_at < best) {
                    connectable = Some((retry_at, node));
                }
            }
            LinkState::Down { retry_at } => {
                blocked_until = Some(blocked_until.map_or(retry_at, |until| until.min(retry_at)));
            }
        }
    }
    match (ready, connectable) {
        (Some(peer), _) => NodeChoice::Ready(peer),
        (None, _) if is_connecting => NodeChoice::Connecting,
        (None, Some((_, peer))) => NodeChoice::Connect(peer),
        (None, None) => NodeChoice::Blocked { until: blocked_until.unwrap_or(now) },
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::protocol::rpc::RpcConfig;
    use kafka_protocol::messages::metadata_response::MetadataResponseBroker;
    use kafka_protocol::protocol::StrBytes;
    use rand::SeedableRng;

    const TOPIC: &str = "t";

    pub fn topic_name() -> TopicName {
        TopicName(StrBytes::from_static_str(TOPIC))
    }

    fn rpc() -> RpcClient<()> {
        let config = RpcConfig {
            client_id: StrBytes::from_static_str("test"),
            reconnect_backoff: Duration::from_millis(50),
            reconnect_backoff_max: Duration::from_millis(50),
            connection_setup_timeout: Duration::from_secs(10),
            discover_versions: false,
        };
        RpcClient::new(config, Rng::seed_from_u64(1))
    }

    /// The answer of brokers 1 to 3 about topic `t`, which has this id and partitions (leader, leader epoch).
    fn response(id: u128, partitions: &[(i32, i32)]) -> MetadataResponse {
        let broker = |id: i32| {
            MetadataResponseBroker::default()
                .with_node_id(id.into())
                .with_host(StrBytes::from_string(format!("broker-{id}")))
                .with_port(9092)
        };
        let partition = |(index, &(leader, epoch)): (usize, &(i32, i32))| {
            MetadataResponsePartition::default()
                .with_partition_index(index as i32)
                .with_leader_id(leader.into())
                .with_leader_epoch(epoch)
        };
        let topic = MetadataResponseTopic::default()
            .with_name(Some(topic_name()))
            .with_topic_id(Uuid::from_u128(id))
            .with_partitions(partitions.iter().enumerate().map(partition).collect());
        MetadataResponse::default().with_brokers((1..=3).map(broker).collect()).with_topics(vec![topic])
    }

    /// Metadata that knows topic `t` with these partitions (leader, leader epoch).
    pub fn known(partitions: &[(i32, i32)]) -> Metadata {
        let mut rpc = rpc();
        let bootstrap = vec![rpc.peer(&HostPort::new("broker-1", 9092))];
        let config = MetadataConfig {
            retry_backoff: ExponentialBackoff::new(Duration::from_millis(100), Duration::from_millis(1_000)),
            max_age: Duration::from_secs(300),
            request_timeout: Duration::from_secs(30),
            allow_auto_topic_creation: false,
        };
        let mut metadata = Metadata::new(config, bootstrap, Rng::seed_from_u64(1));
        metadata.add_topic(&topic_name());
        learn(&mut metadata, Time::ZERO, 1, partitions);
        metadata
    }

    pub fn learn(metadata: &mut Metadata, now: Time, id: u128, partitions: &[(i32, i32)]) {
        let mut rpc = rpc();
        metadata.update(now, &response(id, partitions), |address| rpc.peer(&address));
    }

    fn leader(metadata: &Metadata) -> (Option<i32>, i32) {
        let LeaderAndEpoch { leader, epoch } = metadata.leader(&topic_name(), 0);
        (leader.map(|id| id.0), epoch.0)
    }

    #[test]
    fn a_broker_that_is_behind_does_not_undo_a_newer_leader() {
        let mut metadata = known(&[(2, 5)]);
        learn(&mut metadata, Time::ZERO, 1, &[(1, 4)]);
        assert_eq!(leader(&metadata), (Some(2), 5));
        learn(&mut metadata, Time::ZERO, 1, &[(3, 6)]);
        assert_eq!(leader(&metadata), (Some(3), 6));
    }

    #[test]
    fn a_recreated_topic_starts_its_epochs_anew() {
        let mut metadata = known(&[(2, 5)]);
        learn(&mut metadata, Time::ZERO, 2, &[(1, 0)]);
        assert_eq!(leader(&metadata), (Some(1), 0));
    }

    #[test]
    fn an_epoch_seen_elsewhere_makes_the_cached_leader_unusable_until_metadata_catches_up() {
        let mut metadata = known(&[(2, 5)]);
        metadata.update_last_seen_epoch(&topic_name(), 0, LeaderEpoch(6));
        assert_eq!(leader(&metadata), (None, 6));
        learn(&mut metadata, Time::ZERO, 1, &[(2, 5)]);
        assert_eq!(leader(&metadata), (None, 6));
        learn(&mut metadata, Time::ZERO, 1, &[(3, 6)]);
        assert_eq!(leader(&metadata), (Some(3), 6));
    }

    #[test]
    fn a_leader_hint_counts_only_if_it_is_newer_and_its_node_is_known() {
        for (hinted, epoch, expected) in
            [(3, 6, (Some(3), 6)), (3, 5, (Some(2), 5)), (9, 6, (Some(2), 5)), (-1, 6, (Some(2), 5))]
        {
            let mut metadata = known(&[(2, 5)]);
            let version = metadata.version();
            let (id, epoch) = (BrokerId(hinted), LeaderEpoch(epoch));
            let is_taken = metadata.update_leadership(&topic_name(), 0, id, epoch, None, &mut rpc());
            assert_eq!((leader(&metadata), is_taken), (expected, metadata.version() > version));
        }
    }

    #[test]
    fn refreshes_wait_longer_while_they_bring_nothing_new() {
        let mut metadata = known(&[(2, 5)]);
        let mut now = Time::ZERO;
        let mut waits = Vec::new();
        for _ in 0..6 {
            learn(&mut metadata, now, 1, &[(2, 5)]);
            metadata.request_update();
            let at = metadata.update_at().expect("a topic is wanted");
            waits.push((at - now).as_millis());
            now = at;
        }
        for (wait, expected) in waits.iter().zip([100, 200, 400, 800, 1_000, 1_000]) {
            assert!((expected * 8 / 10..=expected * 12 / 10).contains(wait), "{waits:?}");
        }
        learn(&mut metadata, now, 1, &[(3, 6)]);
        metadata.request_update();
        assert!(metadata.update_at().expect("wanted") - now <= Duration::from_millis(120), "news resets the backoff");
    }

    #[test]
    fn without_trouble_metadata_is_refreshed_at_its_age() {
        let mut metadata = known(&[(2, 5)]);
        assert_eq!(metadata.update_at(), Some(Time::ZERO + Duration::from_secs(300)));
        metadata.add_topic(&TopicName(StrBytes::from_static_str("new")));
        assert_eq!(metadata.update_at(), Some(Time::ZERO), "a new topic is asked for at once");
    }

    #[test]
    fn a_topic_error_takes_its_partitions_and_keeps_asking() {
        let mut metadata = known(&[(2, 5)]);
        let mut gone = response(1, &[]);
        gone.topics[0].error_code = ErrorCode::UnknownTopicOrPartition.code();
        metadata.update(Time::ZERO, &gone, |_| unreachable_peer());
        assert!(metadata.topic(&topic_name()).expect("still wanted").partitions.is_empty());
        assert!(metadata.need_update);
        assert_eq!(leader(&metadata), (None, 5));
    }

    fn unreachable_peer() -> PeerId {
        rpc().peer(&HostPort::new("nowhere", 1))
    }
}
