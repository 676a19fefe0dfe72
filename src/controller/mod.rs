//! The controller: owner of the cluster's metadata (Kafka's `QuorumController` with its managers, over
//! `KafkaRaftClient`). It registers brokers, watches their sessions, elects leaders and keeps topics.
//!
//! Every change takes the same steps: *decide* (plain functions on [`state::ControllerState`] that return records),
//! *append* to the metadata log, *flush*, *commit* (the high watermark passes the records), *replay* them into the
//! state, *answer*. There is one voter, so each batch is committed before the next decision. In a quorum a batch will
//! wait for its commit; answers already wait by offset ([`Deferred`]), and the state will have to be replayed at append
//! as Kafka does, with a way back.
//!
//! It knows nothing of producers, consumers or replicas' logs. Brokers read its log with Fetch.

mod cluster;
mod heartbeats;
mod metadata_log;
mod partition_change;
mod partitions;
mod placement;
mod producer_ids;
mod replication;
mod state;
mod topics;

#[cfg(test)]
mod script_tests;
#[cfg(test)]
mod simulation_tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, AlterPartitionRequest, AlterPartitionResponse, ApiKey,
    ApiVersionsRequest, ApiVersionsResponse, AssignReplicasToDirsRequest, AssignReplicasToDirsResponse,
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerRegistrationRequest, BrokerRegistrationResponse,
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, ElectLeadersRequest, ElectLeadersResponse,
    FetchRequest, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use rand::RngExt;
use uuid::Uuid;

use crate::config::BrokerConfig;
use crate::metadata::{ImageChanges, MetadataRecord};
use crate::observe::{Observation, Observer};
use crate::protocol::fetch::{FetchAnswer, PartitionAnswer, TopicAnswer};
use crate::protocol::wire::{RequestFrame, WireError, encode_response};
use crate::protocol::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, TopicPartition};
use crate::world::{Chain, ConnId, Disk, Endpoint, Event, HostPort, IoWait, Process, Rng, Time, World};
use heartbeats::BrokerControlState;
use metadata_log::{Fetched, MetadataLog};
use state::{ControllerState, Decision};

/// `Topic.CLUSTER_METADATA_TOPIC_NAME`
pub const METADATA_TOPIC: &str = "__cluster_metadata";
/// `Uuid.METADATA_TOPIC_ID`
pub const METADATA_TOPIC_ID: Uuid = Uuid::from_u128(1);
/// Feature and level that new clusters are formatted with: 4.0-IV0, the last one without eligible leader replicas.
const METADATA_VERSION: (&str, i16) = ("metadata.version", 22);

/// Served APIs: (key, lowest, highest version).
const SERVED: [(ApiKey, i16, i16); 11] = [
    (ApiKey::Fetch, 12, 16),
    (ApiKey::ApiVersions, 0, 3),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::ElectLeaders, 0, 2),
    (ApiKey::AlterPartition, 2, 3),
    (ApiKey::BrokerRegistration, 0, 4),
    (ApiKey::BrokerHeartbeat, 0, 1),
    (ApiKey::AllocateProducerIds, 0, 0),
    (ApiKey::AssignReplicasToDirs, 0, 0),
];

/// Requests that a connection may send ahead of its answers. Kafka stops reading after one; who sends this many more
/// is disconnected.
const QUEUED_REQUESTS_MAX: usize = 100;

/// A check that had more to do than fits into one batch goes on after this (`QuorumController`).
const CHECK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// How one controller is set up.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    pub node_id: BrokerId,
    /// Where it listens. The host is the machine's name in observations.
    pub listen: HostPort,
    /// Cluster-wide settings: of these the controller uses sessions, elections and topic defaults.
    pub broker: BrokerConfig,
    /// Directory of the metadata log (`metadata.log.dir`).
    pub log_dir: String,
}

/// Requests of one connection are served one by one, in order.
#[derive(Default)]
struct Connection {
    /// Frames not served yet.
    queued: VecDeque<Bytes>,
    /// The last request served has no answer yet.
    awaits_answer: bool,
}

/// An answer that is given once everything up to `offset` is committed (`DeferredEventQueue`).
struct Deferred {
    offset: Offset,
    conn: ConnId,
    answer: Chain,
}

/// An answer that leaves when the disk is through with what was asked of it before, as every other one after it: Kafka's
/// raft client appends, flushes and answers fetches in one thread.
struct Held {
    conn: ConnId,
    answer: Chain,
    wait: IoWait,
}

/// A Fetch at the end of the log that waits for records (`fetchPurgatory`).
struct ParkedFetch {
    conn: ConnId,
    request: FetchRequest,
    api_version: i16,
    correlation_id: i32,
    offset: Offset,
    deadline: Time,
}

/// What became of a request.
enum Served {
    Answer(Chain),
    /// The answer comes later.
    Later,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    /// The connection is closed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The controller stops: it must not decide on what it cannot write down.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The controller process.
pub struct Controller {
    world: World,
    disk: Disk,
    config: ControllerConfig,
    observer: Observer,
    log: MetadataLog,
    state: ControllerState,
    topic_ids: Rng,
    /// Appended, not committed.
    uncommitted: VecDeque<(Offset, MetadataRecord)>,
    deferred: VecDeque<Deferred>,
    /// In the order in which they leave.
    held: VecDeque<Held>,
    fetches: Vec<ParkedFetch>,
    connections: BTreeMap<ConnId, Connection>,
    /// Connections with something to serve.
    ready: VecDeque<ConnId>,
    /// When leaders are balanced and unclean leaders elected next; `None`: nothing to do, or switched off.
    balance_at: Option<Time>,
    elect_unclean_at: Option<Time>,
    /// Something changed that the two checks depend on.
    reschedule_checks: bool,
    is_finished: bool,
}

impl Controller {
    /// Opens the metadata log, replays it and becomes active in a new leader epoch. Every broker known gets a fresh
    /// session: after a restart of the controller it takes a whole session timeout until a dead broker is fenced.
    pub fn open(world: World, config: ControllerConfig, observer: Observer) -> io::Result<Controller> {
        let mut directory_ids = world.rng("directory-id");
        let new_id = || random_uuid(&mut directory_ids);
        let (log, records) =
            MetadataLog::open(&world.disk(), &config.log_dir, config.node_id, new_id, config.broker.defects)?;
        let mut state = ControllerState::new(config.broker.clone());
        let now = world.now();
        for (offset, epoch, record) in &records {
            state.replay(now, *offset, *epoch, record, &mut ImageChanges::default());
        }
        state.activate(now);
        let mut controller = Controller {
            topic_ids: world.rng("topic-id"),
            disk: world.disk(),
            world,
            config,
            observer,
            log,
            state,
            uncommitted: VecDeque::new(),
            deferred: VecDeque::new(),
            held: VecDeque::new(),
            fetches: Vec::new(),
            connections: BTreeMap::new(),
            ready: VecDeque::new(),
            balance_at: None,
            elect_unclean_at: None,
            reschedule_checks: true,
            is_finished: false,
        };
        // The first record of a new epoch commits all that earlier ones left (Kafka's is a LeaderChangeMessage).
        let first = if records.is_empty() {
            MetadataRecord::FeatureLevel { name: METADATA_VERSION.0.to_owned(), level: METADATA_VERSION.1 }
        } else {
            MetadataRecord::NoOp
        };
        controller.append(vec![first])?;
        controller.commit(now)?;
        controller.schedule_checks(now);
        // Nobody waits for what a start takes.
        controller.disk.take_wait();
        Ok(controller)
    }

    /// Step two: appends the records of one decision. No-op for none.
    fn append(&mut self, records: Vec<MetadataRecord>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let base_offset = self.log.append(&records, self.world.wall_clock_ms())?;
        self.uncommitted.extend((base_offset.0..).map(Offset).zip(records));
        Ok(())
    }

    /// Steps three to five: flushes, and replays what is committed by it.
    fn commit(&mut self, now: Time) -> io::Result<()> {
        let high_watermark = self.log.flush()?;
        let epoch = self.log.epoch();
        while let Some((offset, record)) = self.uncommitted.pop_front_if(|(offset, _)| *offset < high_watermark) {
            let before = Before::of(&self.state, &record);
            self.state.replay(now, offset, epoch, &record, &mut ImageChanges::default());
            self.observe_change(now, &record, &before);
        }
        self.reschedule_checks = true;
        Ok(())
    }

    fn observe(&self, now: Time, observation: Observation) {
        (self.observer)(now, &self.config.listen.host, observation);
    }

    fn observe_change(&self, now: Time, record: &MetadataRecord, before: &Before) {
        match record {
            MetadataRecord::Partition { topic_id, partition, .. }
            | MetadataRecord::PartitionChange { topic_id, partition, .. } => {
                let topic = &self.state.image.topics[topic_id];
                let after = &topic.partitions[partition];
                let is_unclean = |isr: &Vec<BrokerId>| after.has_leader() && !isr.contains(&after.leader);
                self.observe(
                    now,
                    Observation::PartitionChanged {
                        partition: TopicPartition::new(&topic.name, *partition),
                        leader: after.leader,
                        leader_epoch: after.leader_epoch,
                        partition_epoch: after.partition_epoch,
                        isr: after.isr.clone(),
                        replicas: after.replicas.clone(),
                        unclean: before.isr.as_ref().is_some_and(is_unclean),
                    },
                );
            }
            MetadataRecord::RegisterBroker { broker, .. } | MetadataRecord::BrokerRegistrationChange { broker, .. } => {
                let after = &self.state.image.brokers[broker];
                let is_replaced = before.broker_epoch.is_some_and(|epoch| epoch != after.epoch);
                if before.fenced != after.fenced || is_replaced {
                    let (broker, broker_epoch, fenced) = (*broker, after.epoch, after.fenced);
                    self.observe(now, Observation::Fenced { broker, broker_epoch, fenced });
                }
            }
            MetadataRecord::UnregisterBroker { .. }
            | MetadataRecord::Topic { .. }
            | MetadataRecord::RemoveTopic { .. }
            | MetadataRecord::Config { .. }
            | MetadataRecord::ProducerIds { .. }
            | MetadataRecord::NoOp
            | MetadataRecord::FeatureLevel { .. } => {}
        }
    }

    /// Serves and commits until nothing is left to do now.
    fn advance(&mut self, net: &mut Endpoint) {
        while !self.is_finished {
            let now = self.world.now();
            if !self.uncommitted.is_empty() {
                match self.commit(now) {
                    Ok(()) => self.answer_committed(net),
                    Err(e) => self.halt(&e),
                }
            } else if let Some(conn) = self.ready.pop_front() {
                self.serve_next(now, conn, net);
            } else {
                self.schedule_checks(now);
                return;
            }
        }
    }

    /// A controller that cannot write its log halts, as Kafka's does on a fatal fault.
    fn halt(&mut self, error: &dyn std::error::Error) {
        tracing::error!("controller {} halts: {error}", self.config.node_id);
        self.is_finished = true;
    }

    /// Step six: answers, and fetches that have something to read now.
    fn answer_committed(&mut self, net: &mut Endpoint) {
        let high_watermark = self.log.high_watermark();
        while let Some(deferred) = self.deferred.pop_front_if(|d| d.offset < high_watermark) {
            self.answer(deferred.conn, deferred.answer, net);
        }
        let end = self.log.end_offset();
        self.complete_fetches(net, |fetch| fetch.offset < end);
    }

    fn complete_fetches(&mut self, net: &mut Endpoint, is_due: impl Fn(&ParkedFetch) -> bool) {
        let (due, parked) = std::mem::take(&mut self.fetches).into_iter().partition(is_due);
        self.fetches = parked;
        for fetch in due {
            match self.read(&fetch.request) {
                Ok(read) => {
                    let answer = self.fetch_answer(&fetch.request, read);
                    self.answer(fetch.conn, answer.encode(fetch.api_version, fetch.correlation_id), net);
                }
                Err(e) => return self.halt(&e),
            }
        }
    }

    /// Answers, when the disk has done what was asked of it for this answer and those before it.
    fn answer(&mut self, conn: ConnId, answer: impl Into<Chain>, net: &mut Endpoint) {
        let before = self.held.back().map(|held| held.wait);
        match IoWait::both(before, self.disk.take_wait()) {
            None => self.send(conn, answer.into(), net),
            Some(wait) => self.held.push_back(Held { conn, answer: answer.into(), wait }),
        }
    }

    /// Sends the answers that the disk has let go.
    fn release(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        while let Some(Held { conn, answer, wait: _ }) =
            self.held.pop_front_if(|held| self.disk.is_over(now, held.wait))
        {
            self.send(conn, answer, net);
        }
    }

    fn send(&mut self, conn: ConnId, answer: Chain, net: &mut Endpoint) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.awaits_answer = false;
            net.send(conn, answer);
            if !connection.queued.is_empty() {
                self.ready.push_back(conn);
            }
        }
    }

    fn receive(&mut self, conn: ConnId, frame: Bytes, net: &mut Endpoint) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if connection.queued.len() >= QUEUED_REQUESTS_MAX {
            return self.close(conn, net);
        }
        connection.queued.push_back(frame);
        if !connection.awaits_answer && connection.queued.len() == 1 {
            self.ready.push_back(conn);
        }
    }

    fn close(&mut self, conn: ConnId, net: &mut Endpoint) {
        net.close(conn);
        self.forget(conn);
    }

    fn forget(&mut self, conn: ConnId) {
        self.connections.remove(&conn);
        self.fetches.retain(|f| f.conn != conn);
        self.deferred.retain(|d| d.conn != conn);
        self.held.retain(|held| held.conn != conn);
    }

    fn serve_next(&mut self, now: Time, conn: ConnId, net: &mut Endpoint) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Some(frame) = connection.queued.pop_front() else { return };
        connection.awaits_answer = true;
        match self.serve(now, conn, frame) {
            Ok(Served::Answer(answer)) => self.answer(conn, answer, net),
            Ok(Served::Later) => {}
            Err(ServeError::Wire(e)) => {
                tracing::warn!("controller {} closes a connection: {e}", self.config.node_id);
                self.close(conn, net);
            }
            Err(ServeError::Io(e)) => self.halt(&e),
        }
    }

    fn serve(&mut self, now: Time, conn: ConnId, frame: Bytes) -> Result<Served, ServeError> {
        let request = RequestFrame::decode(frame)?;
        let unserved = || WireError { what: "request", reason: format!("API key {}", request.api_key) };
        let key = ApiKey::try_from(request.api_key).map_err(|()| unserved())?;
        let version = request.api_version;
        let is_served = SERVED.iter().any(|(served, min, max)| *served == key && (*min..=*max).contains(&version));
        match key {
            ApiKey::ApiVersions => Ok(Served::Answer(api_versions(&request, is_served).into())),
            _ if !is_served => Err(ServeError::Wire(unserved())),
            ApiKey::Fetch => self.fetch(now, conn, &request),
            ApiKey::BrokerRegistration => self.broker_registration(now, conn, &request),
            ApiKey::BrokerHeartbeat => self.broker_heartbeat(now, conn, &request),
            ApiKey::AlterPartition => self.alter_partition(conn, &request),
            ApiKey::AssignReplicasToDirs => self.assign_replicas_to_dirs(conn, &request),
            ApiKey::AllocateProducerIds => self.allocate_producer_ids(conn, &request),
            ApiKey::ElectLeaders => self.elect_leaders(conn, &request),
            ApiKey::CreateTopics => self.create_topics(conn, &request),
            ApiKey::DeleteTopics => self.delete_topics(conn, &request),
            ApiKey::CreatePartitions => self.create_partitions(conn, &request),
            _ => Err(ServeError::Wire(unserved())),
        }
    }

    /// Appends a decision's records and defers its answer until they are committed; without records the answer waits
    /// for what is not committed yet (`ControllerWriteEvent.run`).
    fn submit<R: Request>(
        &mut self,
        conn: ConnId,
        request: &RequestFrame,
        decision: Decision<R::Response>,
    ) -> Result<Served, ServeError> {
        let answer = encode_response::<R>(&decision.response, request.api_version, request.correlation_id);
        self.append(decision.records)?;
        let Some((offset, _)) = self.uncommitted.back() else {
            return Ok(Served::Answer(answer.into()));
        };
        self.deferred.push_back(Deferred { offset: *offset, conn, answer: answer.into() });
        Ok(Served::Later)
    }

    fn broker_registration(&mut self, now: Time, conn: ConnId, frame: &RequestFrame) -> Result<Served, ServeError> {
        let request: BrokerRegistrationRequest = frame.body()?;
        let decision = cluster::register_broker(&mut self.state, now, self.log.end_offset(), &request);
        let decision = decision
            .unwrap_or_else(|e| Decision::read_only(BrokerRegistrationResponse::default().with_error_code(e.code())));
        self.submit::<BrokerRegistrationRequest>(conn, frame, decision)
    }

    fn broker_heartbeat(&mut self, now: Time, conn: ConnId, frame: &RequestFrame) -> Result<Served, ServeError> {
        let request: BrokerHeartbeatRequest = frame.body()?;
        match replication::process_broker_heartbeat(&mut self.state, now, &request) {
            Ok(Decision { records, response: answer }) => {
                let decision = Decision { records, response: answer.response };
                let served = self.submit::<BrokerHeartbeatRequest>(conn, frame, decision)?;
                if answer.next == BrokerControlState::ControlledShutdown {
                    let last_offset = self.log.end_offset() + -1;
                    let broker = BrokerId(request.broker_id.0);
                    self.state.heartbeats.maybe_update_controlled_shutdown_offset(broker, last_offset);
                }
                Ok(served)
            }
            Err(e) => {
                let response = BrokerHeartbeatResponse::default().with_error_code(e.code());
                self.submit::<BrokerHeartbeatRequest>(conn, frame, Decision::read_only(response))
            }
        }
    }

    fn alter_partition(&mut self, conn: ConnId, frame: &RequestFrame) -> Result<Served, ServeError> {
        let decision = replication::alter_partition(&self.state, &frame.body()?, frame.api_version);
        let decision = decision
            .unwrap_or_else(|e| Decision::read_only(AlterPartitionResponse::default().with_error_code(e.code())));
        self.submit::<AlterPartitionRequest>(conn, frame, decision)
    }

    fn assign_replicas_to_dirs(&mut self, conn: ConnId, frame: &RequestFrame) -> Result<Served, ServeError> {
        let decision = replication::assign_replicas_to_dirs(&self.state, &frame.body()?);
        let decision = decision
            .unwrap_or_else(|e| Decision::read_only(AssignReplicasToDirsResponse::default().with_error_code(e.code())));
        self.submit::<AssignReplicasToDirsRequest>(conn, frame, decision)
    }

    fn allocate_producer_ids(&mut self, conn: ConnId, frame: &RequestFrame) -> Result<Served, ServeError> {
        let decision = producer_ids::allocate_producer_ids(&self.state, &frame.body()?);
        let decision = decision
            .unwrap_or_else(|e| Decision::read_only(AllocateProducerIdsResponse::default().with_error_code(e.code())));
        self.submit::<AllocateProducerIdsRequest>(conn, frame, decision)
    }

    fn elect_leaders(&mut self, conn: ConnId, frame: &RequestFrame) -> Result<Served, ServeError> {
        let decision = replication::elect_leaders(&self.state, &frame.body()?);
        let decision =
            decision.unwrap_or_else(|e| Decision::read_only(ElectLeadersResponse::default().with_error_code(e.code())));
        self.submit::<ElectLeadersRequest>(conn, frame, decision)
    }

    fn create_topics(&mut self, conn: ConnId, frame: &RequestFrame) -> Result<Served, ServeError> {
        let topic_ids = &mut self.topic_ids;
        let decision = topics::create_topics(&self.state, &frame.body()?, || random_uuid(topic_ids));
        self.submit::<CreateTopicsRequest>(conn, frame, decision)
    }

    fn delete_topics(&mut self, conn: ConnId, frame: &RequestFrame) -> Result<Served, ServeError> {
        let decision = topics::delete_topics(&self.state, &frame.body()?, frame.api_version);
        self.submit::<DeleteTopicsRequest>(conn, frame, decision)
    }

    fn create_partitions(&mut self, conn: ConnId, frame: &RequestFrame) -> Result<Served, ServeError> {
        let decision = partitions::create_partitions(&self.state, &frame.body()?);
        self.submit::<CreatePartitionsRequest>(conn, frame, decision)
    }

    /// Serves the metadata log (`KafkaRaftClient.handleFetchRequest`): at once if there is an error, a divergence or
    /// something to read, else once there is, or after `max_wait_ms`.
    fn fetch(&mut self, now: Time, conn: ConnId, frame: &RequestFrame) -> Result<Served, ServeError> {
        let request: FetchRequest = frame.body()?;
        let encode = |answer: FetchAnswer| Served::Answer(answer.encode(frame.api_version, frame.correlation_id));
        let Some(offset) = fetch_offset(&request, frame.api_version) else {
            let error = Some(ErrorCode::InvalidRequest);
            return Ok(encode(FetchAnswer { error, ..FetchAnswer::default() }));
        };
        let read = self.read(&request)?;
        let may_wait = request.max_wait_ms > 0 && matches!(&read, Ok(Fetched::Records(bytes)) if bytes.is_empty());
        if !may_wait {
            return Ok(encode(self.fetch_answer(&request, read)));
        }
        self.fetches.push(ParkedFetch {
            conn,
            api_version: frame.api_version,
            correlation_id: frame.correlation_id,
            offset,
            deadline: now + Duration::from_millis(request.max_wait_ms as u64),
            request,
        });
        Ok(Served::Later)
    }

    /// The outer error is our disk's, the inner one the fetcher's.
    fn read(&self, request: &FetchRequest) -> io::Result<Result<Fetched, ErrorCode>> {
        let partition = &request.topics[0].partitions[0];
        let leader_epoch = LeaderEpoch(partition.current_leader_epoch);
        let last_fetched_epoch = LeaderEpoch(partition.last_fetched_epoch);
        let names_epoch = leader_epoch != LeaderEpoch::NONE;
        let is_invalid = request.max_wait_ms < 0
            || partition.fetch_offset < 0
            || last_fetched_epoch < LeaderEpoch::NONE
            || names_epoch && last_fetched_epoch > leader_epoch;
        if is_invalid {
            return Ok(Err(ErrorCode::InvalidRequest));
        }
        if names_epoch && leader_epoch < self.log.epoch() {
            return Ok(Err(ErrorCode::FencedLeaderEpoch));
        }
        if leader_epoch > self.log.epoch() {
            return Ok(Err(ErrorCode::UnknownLeaderEpoch));
        }
        self.log.read(Offset(partition.fetch_offset), last_fetched_epoch).map(Ok)
    }

    fn fetch_answer(&self, request: &FetchRequest, read: Result<Fetched, ErrorCode>) -> FetchAnswer {
        const UNKNOWN: Offset = Offset(-1);
        let mut partition = PartitionAnswer {
            index: 0,
            error: read.as_ref().err().copied(),
            high_watermark: if read.is_ok() { self.log.high_watermark() } else { UNKNOWN },
            last_stable_offset: UNKNOWN,
            log_start: self.log.start_offset(),
            diverging_epoch: None,
            current_leader: Some((self.config.node_id, self.log.epoch())),
            aborted_transactions: None,
            preferred_read_replica: None,
            records: Chain::new(),
        };
        match read {
            Ok(Fetched::Records(records)) => partition.records = records,
            Ok(Fetched::Diverging { epoch, end_offset }) => partition.diverging_epoch = Some((epoch, end_offset)),
            Err(_) => {}
        }
        let topic = TopicAnswer {
            topic: TopicName(StrBytes::from_static_str(METADATA_TOPIC)),
            topic_id: request.topics[0].topic_id,
            partitions: vec![partition],
        };
        FetchAnswer { topics: vec![topic], ..FetchAnswer::default() }
    }

    /// As after every write event of `QuorumController`: both checks run only while there is something for them to do.
    fn schedule_checks(&mut self, now: Time) {
        if !std::mem::take(&mut self.reschedule_checks) {
            return;
        }
        let config = &self.config.broker;
        if self.balance_at.is_none()
            && config.auto_leader_rebalance_enable
            && replication::are_partition_leaders_imbalanced(&self.state)
        {
            self.balance_at = Some(now + config.leader_imbalance_check_interval);
        }
        if self.elect_unclean_at.is_none() && replication::are_some_partitions_leaderless(&self.state) {
            self.elect_unclean_at = Some(now + config.unclean_leader_election_interval);
        }
    }

    /// Fences brokers whose session has ended, one by one, and runs the two checks when they are due.
    fn run_due(&mut self, now: Time) -> io::Result<()> {
        loop {
            let records = replication::maybe_fence_one_stale_broker(&mut self.state, now);
            if records.is_empty() {
                break;
            }
            self.append(records)?;
            self.commit(now)?;
        }
        if self.balance_at.take_if(|at| *at <= now).is_some() {
            let records = replication::maybe_balance_partition_leaders(&self.state);
            self.balance_at = check_again(now, &records);
            self.append(records)?;
            self.commit(now)?;
        }
        if self.elect_unclean_at.take_if(|at| *at <= now).is_some() {
            let records = replication::maybe_elect_unclean_leaders(&self.state);
            self.elect_unclean_at = check_again(now, &records);
            self.append(records)?;
            self.commit(now)?;
        }
        Ok(())
    }

    fn shut_down(&mut self, now: Time) {
        match self.log.close() {
            Ok(()) => {
                self.observe(now, Observation::CleanShutdown);
                self.is_finished = true;
            }
            Err(e) => self.halt(&e),
        }
    }
}

/// What an observation needs to know of the state before the record.
struct Before {
    /// The partition's ISR; `None` if it is new.
    isr: Option<Vec<BrokerId>>,
    /// The broker was fenced, or not registered.
    fenced: bool,
    /// `None` if it was not registered.
    broker_epoch: Option<BrokerEpoch>,
}

impl Before {
    fn of(state: &ControllerState, record: &MetadataRecord) -> Before {
        let mut before = Before { isr: None, fenced: true, broker_epoch: None };
        if let MetadataRecord::PartitionChange { topic_id, partition, .. } = record {
            let topic = state.image.topics.get(topic_id);
            before.isr = topic.and_then(|t| t.partitions.get(partition)).map(|p| p.isr.clone());
        }
        if let MetadataRecord::RegisterBroker { broker, .. } | MetadataRecord::BrokerRegistrationChange { broker, .. } =
            record
        {
            let known = state.image.brokers.get(broker);
            before.fenced = known.is_none_or(|b| b.fenced);
            before.broker_epoch = known.map(|b| b.epoch);
        }
        before
    }
}

fn check_again(now: Time, records: &[MetadataRecord]) -> Option<Time> {
    (records.len() >= replication::MAX_ELECTIONS_PER_CHECK).then(|| now + CHECK_AGAIN_AFTER)
}

/// The offset asked for; `None` unless the request is for the one partition of the metadata log
/// (`RaftUtil.hasValidTopicPartition`).
fn fetch_offset(request: &FetchRequest, api_version: i16) -> Option<Offset> {
    let [topic] = request.topics.as_slice() else { return None };
    let [partition] = topic.partitions.as_slice() else { return None };
    let is_metadata =
        if api_version >= 13 { topic.topic_id == METADATA_TOPIC_ID } else { topic.topic.as_str() == METADATA_TOPIC };
    (is_metadata && partition.partition == 0).then_some(Offset(partition.fetch_offset))
}

/// An unknown version is answered in version 0, with an error and what is served (KIP-511).
fn api_versions(request: &RequestFrame, is_served: bool) -> Bytes {
    let api_keys = SERVED.iter().map(|(key, min, max)| {
        ApiVersion::default().with_api_key(*key as i16).with_min_version(*min).with_max_version(*max)
    });
    let response = ApiVersionsResponse::default().with_api_keys(api_keys.collect());
    if is_served {
        encode_response::<ApiVersionsRequest>(&response, request.api_version, request.correlation_id)
    } else {
        let response = response.with_error_code(ErrorCode::UnsupportedVersion.code());
        encode_response::<ApiVersionsRequest>(&response, 0, request.correlation_id)
    }
}

fn random_uuid(rng: &mut Rng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}

impl Process for Controller {
    fn start(&mut self, _net: &mut Endpoint) {}

    fn on_event(&mut self, event: Event, net: &mut Endpoint) {
        match event {
            Event::Accepted(conn) => {
                self.connections.insert(conn, Connection::default());
            }
            Event::Frame(conn, frame) => self.receive(conn, frame.into_bytes(), net),
            Event::Closed(conn) => self.forget(conn),
            // It never connects to anyone.
            Event::Connected(_) => {}
            Event::IoReady => self.release(net),
            Event::Terminate => return self.shut_down(self.world.now()),
        }
        self.advance(net);
    }

    fn on_timer(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        self.release(net);
        match self.run_due(now) {
            Ok(()) => {
                self.answer_committed(net);
                self.complete_fetches(net, |fetch| fetch.deadline <= now);
                self.advance(net);
            }
            Err(e) => self.halt(&e),
        }
    }

    fn deadline(&self) -> Option<Time> {
        let fetches = self.fetches.iter().map(|f| f.deadline);
        let checks = [self.state.heartbeats.next_check(), self.balance_at, self.elect_unclean_at];
        // Those behind the first one wait for at least as long.
        let first = self.held.front().and_then(|held| self.disk.over_at(held.wait));
        fetches.chain(checks.into_iter().flatten()).chain(first).min()
    }

    fn is_finished(&self) -> bool {
        self.is_finished
    }
}
