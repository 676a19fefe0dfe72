//! A small admin client (`KafkaAdminClient`): create, delete and configure topics, elect leaders, describe the cluster.
//! Any broker will do as destination: KRaft brokers forward to the controller.

use std::collections::BTreeMap;
use std::time::Duration;
use std::vec;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest, DescribeConfigsResponse,
    ElectLeadersRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use rand::RngExt;

use super::backoff::ExponentialBackoff;
use super::delete_records::{RecordsToDelete, Step};
use super::error::ClientError;
use super::metadata::{METADATA_VERSION, NodeChoice, choose_node};
use crate::protocol::rpc::{Completion, PeerId, Reply, RpcClient, RpcConfig, RpcError};
use crate::protocol::{ErrorCode, Offset, TopicPartition};
use crate::world::{Endpoint, Event, HostPort, Rng, Time, World};

const CREATE_TOPICS_VERSION: i16 = 7;
const DELETE_TOPICS_VERSION: i16 = 6;
const CREATE_PARTITIONS_VERSION: i16 = 3;
const DESCRIBE_CONFIGS_VERSION: i16 = 4;
const ELECT_LEADERS_VERSION: i16 = 2;
const DELETE_RECORDS_VERSION: i16 = 2;
/// `request.timeout.ms`, `default.api.timeout.ms`, `retry.backoff.ms` and its maximum, and the connection
/// settings: Kafka's `AdminClientConfig` defaults.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const API_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_BACKOFF: Duration = Duration::from_millis(100);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(1);
const RECONNECT_BACKOFF: Duration = Duration::from_millis(50);
const RECONNECT_BACKOFF_MAX: Duration = Duration::from_secs(1);
const CONNECTION_SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// A topic to create. `configs`: Kafka property name -> value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTopic {
    pub name: String,
    pub partitions: i32,
    pub replication_factor: i16,
    pub configs: BTreeMap<String, String>,
}

/// Names one call of an [`Admin`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AdminRequestId(pub u64);

/// The end of one call; exactly one per call.
#[derive(Clone, Debug)]
pub struct AdminResult {
    pub id: AdminRequestId,
    pub outcome: Result<AdminOutcome, ClientError>,
}

#[derive(Clone, Debug)]
pub enum AdminOutcome {
    /// Per topic: none if created, else why not.
    TopicsCreated(Vec<(TopicName, Option<ErrorCode>)>),
    /// Per topic: none if deleted, else why not.
    TopicsDeleted(Vec<(TopicName, Option<ErrorCode>)>),
    /// Per topic: none if it has as many partitions now, else why not.
    PartitionsCreated(Vec<(TopicName, Option<ErrorCode>)>),
    /// The broker's answer as it is: each topic's properties, and whether the topic or the broker has set them.
    ConfigsDescribed(DescribeConfigsResponse),
    /// Per partition: its low watermark, below which no live replica has records; or why not.
    RecordsDeleted(Vec<(TopicPartition, Result<Offset, ErrorCode>)>),
    /// Per partition: none if a leader was elected. ELECTION_NOT_NEEDED if it leads already.
    LeadersElected(Vec<(TopicPartition, Option<ErrorCode>)>),
    /// The broker's answer as it is: brokers, topics with ids, leaders, epochs, replicas and in-sync replicas.
    Described(MetadataResponse),
}

enum Call {
    CreateTopics(CreateTopicsRequest),
    DeleteTopics(DeleteTopicsRequest),
    CreatePartitions(CreatePartitionsRequest),
    DescribeConfigs(DescribeConfigsRequest),
    ElectLeaders(ElectLeadersRequest),
    DeleteRecords(RecordsToDelete),
    Describe(MetadataRequest),
}

struct Pending {
    id: AdminRequestId,
    call: Call,
    deadline: Time,
    retry_at: Time,
    attempts: u32,
    is_in_flight: bool,
}

pub struct Admin {
    world: World,
    rpc: RpcClient<AdminRequestId>,
    rng: Rng,
    retry_backoff: ExponentialBackoff,
    bootstrap: Vec<PeerId>,
    pending: Vec<Pending>,
    next_id: u64,
    results: Vec<AdminResult>,
    wake_at: Option<Time>,
}

impl Admin {
    /// `bootstrap` must not be empty; only these brokers are asked.
    pub fn new(world: &World, client_id: &str, bootstrap: Vec<HostPort>) -> Admin {
        assert!(!bootstrap.is_empty(), "a client needs bootstrap servers");
        let rpc_config = RpcConfig {
            client_id: StrBytes::from_string(client_id.to_owned()),
            reconnect_backoff: RECONNECT_BACKOFF,
            reconnect_backoff_max: RECONNECT_BACKOFF_MAX,
            connection_setup_timeout: CONNECTION_SETUP_TIMEOUT,
            discover_versions: true,
        };
        let mut rpc = RpcClient::new(rpc_config, world.rng("admin-rpc"));
        Admin {
            bootstrap: bootstrap.iter().map(|address| rpc.peer(address)).collect(),
            world: world.clone(),
            rpc,
            rng: world.rng("admin"),
            retry_backoff: ExponentialBackoff::new(RETRY_BACKOFF, RETRY_BACKOFF_MAX),
            pending: Vec::new(),
            next_id: 0,
            results: Vec::new(),
            wake_at: None,
        }
    }

    pub fn create_topics(&mut self, now: Time, topics: &[NewTopic], net: &mut Endpoint) -> AdminRequestId {
        let config = |(name, value): (&String, &String)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string(name.clone()))
                .with_value(Some(StrBytes::from_string(value.clone())))
        };
        let topic = |topic: &NewTopic| {
            CreatableTopic::default()
                .with_name(TopicName(StrBytes::from_string(topic.name.clone())))
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replication_factor)
                .with_configs(topic.configs.iter().map(config).collect())
        };
        let request = CreateTopicsRequest::default()
            .with_topics(topics.iter().map(topic).collect())
            .with_timeout_ms(REQUEST_TIMEOUT.as_millis() as i32);
        self.call(now, Call::CreateTopics(request), net)
    }

    pub fn delete_topics(&mut self, now: Time, topics: &[TopicName], net: &mut Endpoint) -> AdminRequestId {
        let topic = |name: &TopicName| DeleteTopicState::default().with_name(Some(name.clone()));
        let request = DeleteTopicsRequest::default()
            .with_topics(topics.iter().map(topic).collect())
            .with_timeout_ms(REQUEST_TIMEOUT.as_millis() as i32);
        self.call(now, Call::DeleteTopics(request), net)
    }

    /// Grows topics to so many partitions (KIP-195).
    pub fn create_partitions(
        &mut self,
        now: Time,
        counts: &BTreeMap<TopicName, i32>,
        net: &mut Endpoint,
    ) -> AdminRequestId {
        let topic = |(name, count): (&TopicName, &i32)| {
            CreatePartitionsTopic::default().with_name(name.clone()).with_count(*count).with_assignments(None)
        };
        let request = CreatePartitionsRequest::default()
            .with_topics(counts.iter().map(topic).collect())
            .with_timeout_ms(REQUEST_TIMEOUT.as_millis() as i32);
        self.call(now, Call::CreatePartitions(request), net)
    }

    /// Asks for the properties of topics.
    pub fn describe_configs(&mut self, now: Time, topics: &[TopicName], net: &mut Endpoint) -> AdminRequestId {
        /// `ConfigResource.Type.TOPIC`
        const TOPIC: i8 = 2;
        let resource = |name: &TopicName| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC)
                .with_resource_name(name.0.clone())
                .with_configuration_keys(None)
        };
        let request = DescribeConfigsRequest::default().with_resources(topics.iter().map(resource).collect());
        self.call(now, Call::DescribeConfigs(request), net)
    }

    /// Elects the preferred replicas, or with `is_unclean` any live one. `partitions`: all if none is given.
    pub fn elect_leaders(
        &mut self,
        now: Time,
        is_unclean: bool,
        partitions: Option<&[TopicPartition]>,
        net: &mut Endpoint,
    ) -> AdminRequestId {
        let request = ElectLeadersRequest::default()
            .with_election_type(i8::from(is_unclean))
            .with_topic_partitions(partitions.map(by_topic))
            .with_timeout_ms(REQUEST_TIMEOUT.as_millis() as i32);
        self.call(now, Call::ElectLeaders(request), net)
    }

    /// Deletes what lies before an offset ([`HIGH_WATERMARK`]: before that) from partitions (`DeleteRecordsHandler`): asks
    /// where their leaders are, then one leader after another. A leader answers when all live replicas have followed.
    pub fn delete_records(
        &mut self,
        now: Time,
        offsets: BTreeMap<TopicPartition, Offset>,
        net: &mut Endpoint,
    ) -> AdminRequestId {
        self.call(now, Call::DeleteRecords(RecordsToDelete::new(offsets)), net)
    }

    /// Describes the cluster and `topics` (all if none is given), without creating any.
    pub fn describe(&mut self, now: Time, topics: Option<&[TopicName]>, net: &mut Endpoint) -> AdminRequestId {
        let topic = |name: &TopicName| MetadataRequestTopic::default().with_name(Some(name.clone()));
        let request = MetadataRequest::default()
            .with_topics(topics.map(|names| names.iter().map(topic).collect()))
            .with_allow_auto_topic_creation(false);
        self.call(now, Call::Describe(request), net)
    }

    /// The calls that ended since the last one.
    pub fn take_results(&mut self) -> vec::Drain<'_, AdminResult> {
        self.results.drain(..)
    }

    /// Calls without a result.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// False if the event is not ours.
    pub fn on_event(&mut self, event: &Event, net: &mut Endpoint) -> bool {
        let now = self.world.now();
        let mut completions = Vec::new();
        let is_ours = self.rpc.on_event(now, event, net, &mut completions);
        if is_ours {
            self.complete(now, completions);
            self.run_once(now, net);
        }
        is_ours
    }

    pub fn on_timer(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        let mut completions = Vec::new();
        self.rpc.on_timer(now, net, &mut completions);
        self.complete(now, completions);
        self.run_once(now, net);
    }

    pub fn deadline(&self) -> Option<Time> {
        self.wake_at.into_iter().chain(self.rpc.deadline()).min()
    }

    fn call(&mut self, now: Time, call: Call, net: &mut Endpoint) -> AdminRequestId {
        let id = AdminRequestId(self.next_id);
        self.next_id += 1;
        let deadline = now + API_TIMEOUT;
        self.pending.push(Pending { id, call, deadline, retry_at: now, attempts: 0, is_in_flight: false });
        self.run_once(now, net);
        id
    }

    fn run_once(&mut self, now: Time, net: &mut Endpoint) {
        let results = &mut self.results;
        self.pending.retain(|p| {
            let is_live = p.deadline > now;
            if !is_live {
                results.push(AdminResult { id: p.id, outcome: Err(ClientError::Timeout) });
            }
            is_live
        });
        self.wake_at = self.pending.iter().map(|p| p.deadline).min();
        for index in 0..self.pending.len() {
            let Pending { retry_at, is_in_flight, .. } = self.pending[index];
            if is_in_flight {
                continue;
            }
            let wake_at = if retry_at > now { Some(retry_at) } else { self.send(now, index, net) };
            self.wake_at = self.wake_at.into_iter().chain(wake_at).min();
        }
    }

    /// Sends a call, or returns when to try again if no broker can be reached now.
    fn send(&mut self, now: Time, index: usize, net: &mut Endpoint) -> Option<Time> {
        let start = self.rng.random_range(0..=u32::MAX) as usize;
        let leader = match &self.pending[index].call {
            Call::DeleteRecords(records) => records.next_leader().map(|address| self.rpc.peer(address)),
            Call::CreateTopics(_)
            | Call::DeleteTopics(_)
            | Call::CreatePartitions(_)
            | Call::DescribeConfigs(_)
            | Call::ElectLeaders(_)
            | Call::Describe(_) => None,
        };
        let nodes = leader.as_ref().map_or(&self.bootstrap[..], std::slice::from_ref);
        let peer = match choose_node(now, nodes, start, &self.rpc) {
            NodeChoice::Ready(peer) => peer,
            NodeChoice::Connecting => return None,
            NodeChoice::Connect(peer) => {
                self.rpc.connect(now, peer, net);
                return None;
            }
            NodeChoice::Blocked { until } => return Some(until),
        };
        let pending = &mut self.pending[index];
        pending.is_in_flight = true;
        let (rpc, id) = (&mut self.rpc, pending.id);
        match &pending.call {
            Call::CreateTopics(body) => rpc.send(now, peer, CREATE_TOPICS_VERSION, body, REQUEST_TIMEOUT, id, net),
            Call::DeleteTopics(body) => rpc.send(now, peer, DELETE_TOPICS_VERSION, body, REQUEST_TIMEOUT, id, net),
            Call::CreatePartitions(body) => {
                rpc.send(now, peer, CREATE_PARTITIONS_VERSION, body, REQUEST_TIMEOUT, id, net);
            }
            Call::DescribeConfigs(body) => {
                rpc.send(now, peer, DESCRIBE_CONFIGS_VERSION, body, REQUEST_TIMEOUT, id, net);
            }
            Call::ElectLeaders(body) => rpc.send(now, peer, ELECT_LEADERS_VERSION, body, REQUEST_TIMEOUT, id, net),
            Call::DeleteRecords(records) => match records.next_request() {
                Some(body) => rpc.send(now, peer, DELETE_RECORDS_VERSION, &body, REQUEST_TIMEOUT, id, net),
                None => rpc.send(now, peer, METADATA_VERSION, &records.lookup(), REQUEST_TIMEOUT, id, net),
            },
            Call::Describe(body) => rpc.send(now, peer, METADATA_VERSION, body, REQUEST_TIMEOUT, id, net),
        }
        None
    }

    fn complete(&mut self, now: Time, completions: Vec<Completion<AdminRequestId>>) {
        for completion in completions {
            let Some(index) = self.pending.iter().position(|p| p.id == completion.tag) else { continue };
            let pending = &mut self.pending[index];
            pending.is_in_flight = false;
            let judged = match &mut pending.call {
                Call::DeleteRecords(records) => match records.take_answer(completion.result) {
                    Step::Next => continue,
                    Step::Again => None,
                    Step::End(outcome) => Some(outcome),
                },
                call => judge(call, completion.result),
            };
            match judged {
                Some(outcome) => {
                    let id = self.pending.remove(index).id;
                    self.results.push(AdminResult { id, outcome });
                }
                None => {
                    pending.retry_at = now + self.retry_backoff.after(pending.attempts, &mut self.rng);
                    pending.attempts += 1;
                }
            }
        }
    }
}

/// The outcome that a response gives a call; none if the call is to be tried again.
fn judge(call: &Call, result: Result<Reply, RpcError>) -> Option<Result<AdminOutcome, ClientError>> {
    let reply = match result {
        Ok(reply) => reply,
        Err(RpcError::UnsupportedVersion) => return Some(Err(ClientError::Broker(ErrorCode::UnsupportedVersion))),
        Err(RpcError::Disconnected { .. } | RpcError::TimedOut { .. }) => return None,
    };
    let code = ErrorCode::try_from_code;
    match call {
        Call::CreateTopics(_) => {
            let response = reply.decode::<CreateTopicsRequest>().ok()?;
            let topics = response.topics.into_iter().map(|t| (t.name, code(t.error_code)));
            unless_moved(topics.collect()).map(|topics| Ok(AdminOutcome::TopicsCreated(topics)))
        }
        Call::DeleteTopics(_) => {
            let response = reply.decode::<DeleteTopicsRequest>().ok()?;
            let deleted = response.responses.into_iter();
            let topics = deleted.filter_map(|t| Some((t.name?, code(t.error_code))));
            unless_moved(topics.collect()).map(|topics| Ok(AdminOutcome::TopicsDeleted(topics)))
        }
        Call::CreatePartitions(_) => {
            let response = reply.decode::<CreatePartitionsRequest>().ok()?;
            let topics = response.results.into_iter().map(|t| (t.name, code(t.error_code)));
            unless_moved(topics.collect()).map(|topics| Ok(AdminOutcome::PartitionsCreated(topics)))
        }
        Call::DescribeConfigs(_) => {
            let response = reply.decode::<DescribeConfigsRequest>().ok()?;
            Some(Ok(AdminOutcome::ConfigsDescribed(response)))
        }
        Call::ElectLeaders(_) => {
            let response = reply.decode::<ElectLeadersRequest>().ok()?;
            if let Some(error) = code(response.error_code) {
                return (!error.is_retriable()).then_some(Err(ClientError::Broker(error)));
            }
            let mut elected = Vec::new();
            for topic in response.replica_election_results {
                for result in topic.partition_result {
                    let partition = TopicPartition { topic: topic.topic.clone(), partition: result.partition_id };
                    elected.push((partition, code(result.error_code)));
                }
            }
            Some(Ok(AdminOutcome::LeadersElected(elected)))
        }
        Call::Describe(_) => {
            let response = reply.decode::<MetadataRequest>().ok()?;
            Some(Ok(AdminOutcome::Described(response)))
        }
        Call::DeleteRecords(_) => unreachable!("its answers are taken step by step"),
    }
}

type OfTopics = Vec<(TopicName, Option<ErrorCode>)>;

/// What became of topics; none if the controller was another one, so that the call is to be tried again.
fn unless_moved(topics: OfTopics) -> Option<OfTopics> {
    topics.iter().all(|(_, error)| *error != Some(ErrorCode::NotController)).then_some(topics)
}

fn by_topic(partitions: &[TopicPartition]) -> Vec<TopicPartitions> {
    let mut topics: Vec<TopicPartitions> = Vec::new();
    for TopicPartition { topic, partition } in partitions {
        match topics.iter_mut().find(|t| t.topic == *topic) {
            Some(of_topic) => of_topic.partitions.push(*partition),
            None => topics.push(TopicPartitions::default().with_topic(topic.clone()).with_partitions(vec![*partition])),
        }
    }
    topics
}
