//! Metadata, DescribeCluster, and what goes to the controller: CreateTopics, DeleteTopics, CreatePartitions,
//! ElectLeaders, our own AllocateProducerIds (`KafkaApis`, `ForwardingManager`, `AutoTopicCreationManager`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_cluster_response::{DescribeClusterBroker, DescribeClusterResponse};
use kafka_protocol::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    AllocateProducerIdsRequest, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DescribeClusterRequest, ElectLeadersRequest,
    ElectLeadersResponse, MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use rand::RngExt;

use super::connections::ReplyTo;
use super::{Broker, BrokerOptions, rpc_config};
use crate::config::BrokerConfig;
use crate::coordinator;
use crate::metadata::{BrokerRegistration, MetadataImage, PartitionState, TopicImage};
use crate::protocol::rpc::{Completion, PeerId, Reply, RpcClient};
use crate::protocol::{BrokerId, ErrorCode};
use crate::world::{Endpoint, Rng, Time, World};

/// Every cluster's id: there is one controller and it serves one cluster.
pub(super) const CLUSTER_ID: &str = "ZmF1bHRsaW5lLXRlc3QtMQ";

/// How long a forwarded request is tried (the forwarding channel's `retryTimeoutMs`).
const FORWARDING_TIMEOUT: Duration = Duration::from_secs(60);

/// `request.timeout.ms` of the broker, in the CreateTopics request it sends for automatic topics.
const REQUEST_TIMEOUT_MS: i32 = 30_000;

/// A request that the controller decides.
pub(super) enum Forwarded {
    CreateTopics(CreateTopicsRequest),
    DeleteTopics(DeleteTopicsRequest),
    CreatePartitions(CreatePartitionsRequest),
    ElectLeaders(ElectLeadersRequest),
    AllocateProducerIds(AllocateProducerIdsRequest),
}

/// Who asked for it.
enum Origin {
    Client(ReplyTo),
    /// Topics that a Metadata request asked for and that did not exist.
    AutoCreation(Vec<TopicName>),
    /// The broker itself, for the producers that ask it for ids.
    ProducerIds,
}

struct InFlight {
    request: Forwarded,
    origin: Origin,
    deadline: Time,
}

pub(super) struct Forwarding {
    pub rpc: RpcClient<u64>,
    controller: PeerId,
    request_timeout: Duration,
    next_id: u64,
    in_flight: BTreeMap<u64, InFlight>,
    /// Topics being created automatically.
    creating: BTreeSet<TopicName>,
    rng: Rng,
}

impl Forwarding {
    pub fn new(world: &World, options: &BrokerOptions) -> Forwarding {
        let mut rpc =
            RpcClient::new(rpc_config(options, "forwarding", Duration::from_millis(50)), world.rng("forwarding"));
        Forwarding {
            controller: rpc.peer(&options.controller),
            rpc,
            request_timeout: options.config.controller_socket_timeout,
            next_id: 0,
            in_flight: BTreeMap::new(),
            creating: BTreeSet::new(),
            rng: world.rng("metadata-response"),
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.rpc.deadline()
    }

    fn send(&mut self, now: Time, call: InFlight, net: &mut Endpoint) {
        self.next_id += 1;
        let (id, peer) = (self.next_id, self.controller);
        let timeout = self.request_timeout.min(call.deadline.since(now));
        let version = |newest: i16| match &call.origin {
            Origin::Client(to) => to.api_version,
            Origin::AutoCreation(_) | Origin::ProducerIds => newest,
        };
        match &call.request {
            Forwarded::CreateTopics(body) => self.rpc.send(now, peer, version(7), body, timeout, id, net),
            Forwarded::DeleteTopics(body) => self.rpc.send(now, peer, version(6), body, timeout, id, net),
            Forwarded::CreatePartitions(body) => self.rpc.send(now, peer, version(3), body, timeout, id, net),
            Forwarded::ElectLeaders(body) => self.rpc.send(now, peer, version(2), body, timeout, id, net),
            Forwarded::AllocateProducerIds(body) => self.rpc.send(now, peer, version(0), body, timeout, id, net),
        }
        self.in_flight.insert(id, call);
    }
}

impl Broker {
    pub(super) fn forward(&mut self, now: Time, to: ReplyTo, request: Forwarded, net: &mut Endpoint) {
        let call = InFlight { request, origin: Origin::Client(to), deadline: now + FORWARDING_TIMEOUT };
        self.forwarding.send(now, call, net);
    }

    /// Asks the controller for a block of producer ids.
    pub(super) fn forward_own(&mut self, now: Time, request: AllocateProducerIdsRequest, net: &mut Endpoint) {
        let (request, origin) = (Forwarded::AllocateProducerIds(request), Origin::ProducerIds);
        self.forwarding.send(now, InFlight { request, origin, deadline: now + FORWARDING_TIMEOUT }, net);
    }

    pub(super) fn on_forwarding_replies(&mut self, now: Time, replies: Vec<Completion<u64>>, net: &mut Endpoint) {
        for reply in replies {
            let Some(call) = self.forwarding.in_flight.remove(&reply.tag) else { continue };
            match reply.result {
                Ok(answer) => self.answer_forwarded(now, call, Some(&answer), net),
                // Kafka too sends it again, although it may have been processed.
                Err(_) if now < call.deadline => self.forwarding.send(now, call, net),
                Err(_) => self.answer_forwarded(now, call, None, net),
            }
        }
    }

    /// Hands the controller's answer on; `None`: there was none in time.
    fn answer_forwarded(&mut self, now: Time, call: InFlight, answer: Option<&Reply>, net: &mut Endpoint) {
        let to = match call.origin {
            Origin::Client(to) => to,
            Origin::AutoCreation(topics) => {
                for topic in topics {
                    self.forwarding.creating.remove(&topic);
                }
                return;
            }
            Origin::ProducerIds => {
                let answer = answer.and_then(|a| a.decode::<AllocateProducerIdsRequest>().ok());
                return self.on_producer_ids(now, answer.as_ref());
            }
        };
        match call.request {
            Forwarded::CreateTopics(request) => {
                let answer = answer.and_then(|a| a.decode::<CreateTopicsRequest>().ok());
                let body = answer.unwrap_or_else(|| create_topics_timed_out(&request));
                self.connections.respond::<CreateTopicsRequest>(to, &body, net);
            }
            Forwarded::DeleteTopics(request) => {
                let answer = answer.and_then(|a| a.decode::<DeleteTopicsRequest>().ok());
                let body = answer.unwrap_or_else(|| delete_topics_timed_out(&request));
                self.connections.respond::<DeleteTopicsRequest>(to, &body, net);
            }
            Forwarded::CreatePartitions(request) => {
                let answer = answer.and_then(|a| a.decode::<CreatePartitionsRequest>().ok());
                let body = answer.unwrap_or_else(|| create_partitions_timed_out(&request));
                self.connections.respond::<CreatePartitionsRequest>(to, &body, net);
            }
            Forwarded::ElectLeaders(_) => {
                let answer = answer.and_then(|a| a.decode::<ElectLeadersRequest>().ok());
                let timed_out = || {
                    let error_code = if to.api_version >= 1 { ErrorCode::RequestTimedOut.code() } else { 0 };
                    ElectLeadersResponse::default().with_error_code(error_code)
                };
                self.connections.respond::<ElectLeadersRequest>(to, &answer.unwrap_or_else(timed_out), net);
            }
            // Our own only: no client's request is forwarded as this.
            Forwarded::AllocateProducerIds(_) => {}
        }
    }

    pub(super) fn handle_metadata(&mut self, now: Time, to: ReplyTo, request: &MetadataRequest, net: &mut Endpoint) {
        let image = &self.env.image;
        let is_all = match &request.topics {
            None => true,
            Some(topics) => to.api_version == 0 && topics.is_empty(),
        };
        let mut topics = Vec::new();
        let mut missing = Vec::new();
        if is_all {
            topics
                .extend(image.topic_ids.keys().filter_map(|n| image.topic(n)).map(|t| known(image, t, to.api_version)));
        }
        for asked in request.topics.iter().flatten().filter(|_| !is_all) {
            let by_id = image.topics.get(&asked.topic_id).filter(|_| !asked.topic_id.is_nil());
            let found = by_id.or_else(|| asked.name.as_ref().and_then(|n| image.topic(n.as_str())));
            match (found, &asked.name) {
                (Some(topic), _) => topics.push(known(image, topic, to.api_version)),
                (None, Some(name)) => missing.push(name.clone()),
                (None, None) => topics.push(
                    MetadataResponseTopic::default()
                        .with_error_code(ErrorCode::UnknownTopicId.code())
                        .with_topic_id(asked.topic_id),
                ),
            }
        }
        let may_create = self.options.config.auto_create_topics_enable && request.allow_auto_topic_creation;
        topics.extend(self.missing_topics(now, missing, may_create, net));
        let response = MetadataResponse::default()
            .with_brokers(self.alive_brokers().map(metadata_broker).collect())
            .with_cluster_id(Some(StrBytes::from_static_str(CLUSTER_ID)))
            .with_controller_id(self.some_alive_broker().0.into())
            .with_topics(topics);
        self.connections.respond::<MetadataRequest>(to, &response, net);
    }

    /// Topics that do not exist. Creation takes a while: clients ask again until it is done.
    fn missing_topics(
        &mut self,
        now: Time,
        names: Vec<TopicName>,
        may_create: bool,
        net: &mut Endpoint,
    ) -> Vec<MetadataResponseTopic> {
        let mut answers = Vec::with_capacity(names.len());
        let mut create = Vec::new();
        for name in names {
            let is_valid = is_valid_topic_name(name.as_str());
            let error = if is_valid { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::InvalidTopicException };
            if may_create && is_valid {
                create.push(name.clone());
            }
            let is_internal = name.as_str() == coordinator::TOPIC;
            let answer = MetadataResponseTopic::default().with_error_code(error.code()).with_name(Some(name));
            answers.push(answer.with_is_internal(is_internal));
        }
        self.auto_create(now, create, net);
        answers
    }

    /// Asks the controller for topics, those left out that it was asked for already
    /// (`DefaultAutoTopicCreationManager`).
    pub(super) fn auto_create(&mut self, now: Time, mut names: Vec<TopicName>, net: &mut Endpoint) {
        names.retain(|name| self.forwarding.creating.insert(name.clone()));
        if names.is_empty() {
            return;
        }
        let config = &self.options.config;
        let request = CreateTopicsRequest::default()
            .with_timeout_ms(REQUEST_TIMEOUT_MS)
            .with_topics(names.iter().map(|name| creatable_topic(name, config)).collect());
        let (request, origin) = (Forwarded::CreateTopics(request), Origin::AutoCreation(names));
        self.forwarding.send(now, InFlight { request, origin, deadline: now + FORWARDING_TIMEOUT }, net);
    }

    pub(super) fn handle_describe_cluster(
        &mut self,
        to: ReplyTo,
        request: &DescribeClusterRequest,
        net: &mut Endpoint,
    ) {
        const BROKERS: i8 = 1;
        if request.endpoint_type != BROKERS {
            let error_code = ErrorCode::MismatchedEndpointType.code();
            let response = DescribeClusterResponse::default().with_error_code(error_code);
            return self.connections.respond::<DescribeClusterRequest>(to, &response, net);
        }
        let broker = |b: &BrokerRegistration| {
            DescribeClusterBroker::default()
                .with_broker_id(b.id.0.into())
                .with_host(StrBytes::from_string(b.endpoint.host.clone()))
                .with_port(i32::from(b.endpoint.port))
                .with_rack(b.rack.clone().map(StrBytes::from_string))
        };
        let response = DescribeClusterResponse::default()
            .with_endpoint_type(BROKERS)
            .with_cluster_id(StrBytes::from_static_str(CLUSTER_ID))
            .with_brokers(self.alive_brokers().map(broker).collect())
            .with_controller_id(self.some_alive_broker().0.into());
        self.connections.respond::<DescribeClusterRequest>(to, &response, net);
    }

    fn alive_brokers(&self) -> impl Iterator<Item = &BrokerRegistration> {
        self.env.image.brokers.values().filter(|b| !b.fenced)
    }

    /// What a KRaft broker reports as the controller: any broker will forward (`getRandomAliveBrokerId`).
    fn some_alive_broker(&mut self) -> BrokerId {
        let alive: Vec<BrokerId> = self.alive_brokers().map(|b| b.id).collect();
        if alive.is_empty() {
            return BrokerId::NONE;
        }
        alive[self.forwarding.rng.random_range(0..alive.len())]
    }
}

/// `AutoTopicCreationManager.creatableTopic`
fn creatable_topic(name: &TopicName, config: &BrokerConfig) -> CreatableTopic {
    let topic = CreatableTopic::default().with_name(name.clone());
    if name.as_str() != coordinator::TOPIC {
        return topic
            .with_num_partitions(config.num_partitions)
            .with_replication_factor(config.default_replication_factor);
    }
    let groups = &config.groups;
    let configs = [
        ("cleanup.policy", "compact".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("segment.bytes", groups.offsets_topic_segment_bytes.to_string()),
    ];
    let config = |(name, value): (&'static str, String)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_string(value)))
    };
    topic
        .with_num_partitions(groups.offsets_topic_num_partitions)
        .with_replication_factor(groups.offsets_topic_replication_factor)
        .with_configs(configs.into_iter().map(config).collect())
}

fn metadata_broker(broker: &BrokerRegistration) -> MetadataResponseBroker {
    MetadataResponseBroker::default()
        .with_node_id(broker.id.0.into())
        .with_host(StrBytes::from_string(broker.endpoint.host.clone()))
        .with_port(i32::from(broker.endpoint.port))
        .with_rack(broker.rack.clone().map(StrBytes::from_string))
}

fn known(image: &MetadataImage, topic: &TopicImage, api_version: i16) -> MetadataResponseTopic {
    let partitions =
        topic.partitions.iter().map(|(index, state)| metadata_partition(image, *index, state, api_version));
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(topic.name.clone()))))
        .with_topic_id(topic.id)
        .with_is_internal(topic.name == coordinator::TOPIC)
        .with_partitions(partitions.collect())
}

/// `KRaftMetadataCache.getPartitionMetadata`
fn metadata_partition(
    image: &MetadataImage,
    index: i32,
    state: &PartitionState,
    api_version: i16,
) -> MetadataResponsePartition {
    // Version 0 names only the replicas that are alive, and calls the rest an error.
    let named = |ids: &[BrokerId]| -> Vec<_> {
        let is_named = |id: &&BrokerId| api_version > 0 || image.is_active(**id);
        ids.iter().filter(is_named).map(|id| id.0.into()).collect()
    };
    let (replicas, isr) = (named(&state.replicas), named(&state.isr));
    let has_leader = image.brokers.contains_key(&state.leader);
    let error_code = if !has_leader {
        ErrorCode::LeaderNotAvailable.code()
    } else if replicas.len() < state.replicas.len() || isr.len() < state.isr.len() {
        ErrorCode::ReplicaNotAvailable.code()
    } else {
        0
    };
    let offline = state.replicas.iter().filter(|id| !image.is_active(**id)).map(|id| id.0.into()).collect();
    MetadataResponsePartition::default()
        .with_error_code(error_code)
        .with_partition_index(index)
        .with_leader_id(if has_leader { state.leader.0 } else { BrokerId::NONE.0 }.into())
        .with_leader_epoch(state.leader_epoch.0)
        .with_replica_nodes(replicas)
        .with_isr_nodes(isr)
        .with_offline_replicas(offline)
}

/// `Topic.validate`
fn is_valid_topic_name(name: &str) -> bool {
    const LENGTH_MAX: usize = 249;
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name != "." && name != ".." && name.len() <= LENGTH_MAX && name.chars().all(is_legal)
}

fn create_topics_timed_out(request: &CreateTopicsRequest) -> CreateTopicsResponse {
    let failed = |topic: &CreatableTopic| {
        CreatableTopicResult::default()
            .with_name(topic.name.clone())
            .with_error_code(ErrorCode::RequestTimedOut.code())
            .with_configs(None)
    };
    CreateTopicsResponse::default().with_topics(request.topics.iter().map(failed).collect())
}

fn create_partitions_timed_out(request: &CreatePartitionsRequest) -> CreatePartitionsResponse {
    let failed = |topic: &CreatePartitionsTopic| {
        CreatePartitionsTopicResult::default()
            .with_name(topic.name.clone())
            .with_error_code(ErrorCode::RequestTimedOut.code())
            .with_error_message(None)
    };
    CreatePartitionsResponse::default().with_results(request.topics.iter().map(failed).collect())
}

fn delete_topics_timed_out(request: &DeleteTopicsRequest) -> DeleteTopicsResponse {
    let failed = DeletableTopicResult::default().with_error_code(ErrorCode::RequestTimedOut.code());
    let by_name = request.topic_names.iter().map(|name| failed.clone().with_name(Some(name.clone())));
    let by_state = request.topics.iter().map(|t| failed.clone().with_name(t.name.clone()).with_topic_id(t.topic_id));
    DeleteTopicsResponse::default().with_responses(by_name.chain(by_state).collect())
}
