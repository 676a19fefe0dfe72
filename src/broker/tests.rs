//! Whole clusters in the simulated world: a controller, three brokers, and a client that speaks the protocol.

mod log_dirs;
mod log_start;
mod read_replicas;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponse, MetadataResponsePartition};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeClusterRequest, FetchRequest,
    InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use kafka_protocol::records::RecordBatchDecoder;
use uuid::Uuid;

use super::*;
use crate::controller::{Controller, ControllerConfig};
use crate::log::testing::batch_of;
use crate::protocol::{ErrorCode, Offset, wire};
use crate::world::sim::{SimConfig, Simulation};
use crate::world::{Chain, ConnId, run};

const BROKERS: i32 = 3;
const TOPIC: &str = "orders";

type Observations = Arc<Mutex<Vec<(Time, String, Observation)>>>;

/// What a test's client asks of the laboratory.
#[derive(Clone, Debug)]
enum Order {
    Kill(i32),
    PowerOff(i32),
    Start(i32),
    Terminate(i32),
    /// Cut off from every other machine but the client.
    Isolate(i32),
    Heal,
}

/// What a test is run with, and what it left behind.
struct Outcome {
    digest: u64,
    observed: Vec<(Time, String, Observation)>,
}

fn host(id: i32) -> HostPort {
    HostPort::new(format!("broker-{id}"), 9092)
}

/// Runs `script` on a client machine of a fresh cluster, to its end.
fn with_cluster<F, S>(seed: u64, config: BrokerConfig, script: S) -> Outcome
where
    F: Future<Output = ()>,
    S: Fn(Client) -> F + Send + Sync + 'static,
{
    with_log_dirs(seed, &["data"], config, script)
}

/// [`with_cluster`] of brokers that have these log directories.
fn with_log_dirs<F, S>(seed: u64, log_dirs: &'static [&'static str], config: BrokerConfig, script: S) -> Outcome
where
    F: Future<Output = ()>,
    S: Fn(Client) -> F + Send + Sync + 'static,
{
    std::thread::scope(|scope| {
        let simulate = || Simulation::block_on(seed, SimConfig::default(), |s| supervise(s, log_dirs, config, script));
        scope.spawn(simulate).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

async fn supervise<F, S>(simulation: Simulation, log_dirs: &[&str], config: BrokerConfig, script: S) -> Outcome
where
    F: Future<Output = ()>,
    S: Fn(Client) -> F + Send + Sync + 'static,
{
    let observed = Observations::default();
    let sink = observed.clone();
    let observer: Observer = Arc::new(move |now, machine, observation| {
        sink.lock().unwrap().push((now, machine.to_owned(), observation));
    });
    let controller = HostPort::new("controller", 9093);
    add_controller(&simulation, &controller, &config, &observer);
    for id in 1..=BROKERS {
        let options = BrokerOptions {
            id: BrokerId(id),
            listen: host(id),
            controller: controller.clone(),
            config: config.clone(),
            log_dirs: log_dirs.iter().map(|&dir| dir.to_owned()).collect(),
            rack: Some(format!("rack-{id}")),
        };
        add_broker(&simulation, options, &observer);
    }
    let (orders, is_done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(false)));
    let (to_lab, done, seen) = (orders.clone(), is_done.clone(), observed.clone());
    let (script, outside) = (Arc::new(script), simulation.clone());
    simulation.add_machine("client", false, move |world, net| {
        let (script, done) = (script.clone(), done.clone());
        let client = Client {
            world,
            net,
            connections: BTreeMap::new(),
            correlation_id: 0,
            orders: to_lab.clone(),
            observed: seen.clone(),
            simulation: outside.clone(),
        };
        Box::pin(async move {
            script(client).await;
            *done.lock().unwrap() = true;
        })
    });
    let deadline = Time::from_millis(600_000);
    while !*is_done.lock().unwrap() {
        assert!(simulation.now() < deadline, "the script does not come to its end");
        simulation.sleep_until(simulation.now() + Duration::from_millis(1)).await;
        for order in std::mem::take(&mut *orders.lock().unwrap()) {
            match order {
                Order::Kill(id) => simulation.kill(&host(id).host),
                Order::PowerOff(id) => simulation.power_off(&host(id).host),
                Order::Start(id) => simulation.start(&host(id).host),
                Order::Terminate(id) => simulation.terminate(&host(id).host),
                Order::Isolate(id) => {
                    let peers = (1..=BROKERS).filter(|other| *other != id).map(|other| host(other).host);
                    for peer in peers.chain(["controller".to_owned()]) {
                        simulation.block(&host(id).host, &peer);
                        simulation.block(&peer, &host(id).host);
                    }
                }
                Order::Heal => simulation.heal(),
            }
        }
    }
    let observed = observed.lock().unwrap().clone();
    Outcome { digest: simulation.digest(), observed }
}

fn add_controller(simulation: &Simulation, listen: &HostPort, config: &BrokerConfig, observer: &Observer) {
    let config = ControllerConfig {
        node_id: BrokerId(3000),
        listen: listen.clone(),
        broker: config.clone(),
        log_dir: "metadata".to_owned(),
    };
    let observer = observer.clone();
    simulation.add_machine(&listen.host, true, move |world, mut net| {
        let (config, observer) = (config.clone(), observer.clone());
        Box::pin(async move {
            let mut controller = Controller::open(world, config, observer).expect("the disk works");
            run(&mut controller, &mut net).await;
        })
    });
}

fn add_broker(simulation: &Simulation, options: BrokerOptions, observer: &Observer) {
    let (host, observer) = (options.listen.host.clone(), observer.clone());
    simulation.add_machine(&host, true, move |world, mut net| {
        let (options, observer) = (options.clone(), observer.clone());
        Box::pin(async move {
            let mut broker = Broker::open(world, options, observer).expect("the disk works");
            run(&mut broker, &mut net).await;
        })
    });
}

/// A client that waits for each answer.
struct Client {
    world: World,
    net: Endpoint,
    connections: BTreeMap<i32, ConnId>,
    correlation_id: i32,
    orders: Arc<Mutex<Vec<Order>>>,
    observed: Observations,
    /// To look at brokers' disks.
    simulation: Simulation,
}

impl Client {
    fn order(&self, order: Order) {
        self.orders.lock().unwrap().push(order);
    }

    async fn sleep(&mut self, time: Duration) {
        let until = self.world.now() + time;
        while self.world.now() < until {
            if let Some(Event::Closed(conn)) = self.net.next(Some(until)).await {
                self.connections.retain(|_, other| *other != conn);
            }
        }
    }

    /// A connection to broker `id`, new or not.
    async fn connect(&mut self, id: i32) -> Option<ConnId> {
        if let Some(conn) = self.connections.get(&id) {
            return Some(*conn);
        }
        let conn = self.net.connect(&host(id));
        let deadline = self.world.now() + Duration::from_secs(1);
        loop {
            match self.net.next(Some(deadline)).await {
                Some(Event::Connected(c)) if c == conn => break,
                Some(Event::Closed(c)) if c == conn => return None,
                Some(_) => {}
                None => {
                    self.net.close(conn);
                    return None;
                }
            }
        }
        self.connections.insert(id, conn);
        Some(conn)
    }

    fn send<R: Request>(&mut self, conn: ConnId, api_version: i16, body: &R) -> i32 {
        self.correlation_id += 1;
        let client_id = StrBytes::from_static_str("test");
        self.net.send(conn, wire::encode_request(body, api_version, self.correlation_id, &client_id));
        self.correlation_id
    }

    async fn receive(&mut self, conn: ConnId) -> Option<Bytes> {
        self.receive_pieces(conn).await.map(Chain::into_bytes)
    }

    /// The next frame on `conn`; `None`: closed, or nothing came in 10 s.
    async fn receive_pieces(&mut self, conn: ConnId) -> Option<Chain> {
        let deadline = self.world.now() + Duration::from_secs(10);
        loop {
            match self.net.next(Some(deadline)).await {
                Some(Event::Frame(c, frame)) if c == conn => return Some(frame),
                Some(Event::Closed(c)) => {
                    self.connections.retain(|_, other| *other != c);
                    if c == conn {
                        return None;
                    }
                }
                Some(_) => {}
                None => {
                    self.net.close(conn);
                    self.connections.retain(|_, other| *other != conn);
                    return None;
                }
            }
        }
    }

    async fn call<R: Request>(&mut self, id: i32, api_version: i16, body: &R) -> Option<R::Response> {
        let conn = self.connect(id).await?;
        let correlation_id = self.send(conn, api_version, body);
        let frame = self.receive(conn).await?;
        assert_eq!(wire::response_correlation_id(&frame).unwrap(), correlation_id);
        Some(wire::decode_response::<R>(&frame, api_version).expect("a well-formed answer"))
    }

    async fn metadata(&mut self, id: i32) -> Option<MetadataResponse> {
        self.call(id, 12, &MetadataRequest::default().with_topics(None)).await
    }

    /// The partition's metadata from whichever broker answers, once `is_wanted` holds.
    async fn partition_when(
        &mut self,
        is_wanted: impl Fn(&MetadataResponsePartition) -> bool,
    ) -> (Uuid, MetadataResponsePartition) {
        for _ in 0..2_000 {
            for id in 1..=BROKERS {
                let Some(metadata) = self.metadata(id).await else { continue };
                let topics =
                    metadata.topics.into_iter().filter(|t| t.name.as_ref().is_some_and(|n| n.as_str() == TOPIC));
                for topic in topics {
                    if let Some(partition) = topic.partitions.into_iter().find(&is_wanted) {
                        return (topic.topic_id, partition);
                    }
                }
            }
            self.sleep(Duration::from_millis(50)).await;
        }
        panic!("the partition does not come to the wanted state");
    }

    async fn leader_other_than(&mut self, id: i32) -> i32 {
        self.partition_when(|p| p.error_code == 0 && p.leader_id.0 >= 0 && p.leader_id.0 != id).await.1.leader_id.0
    }

    /// Waits for all brokers, then creates the topic with one partition on all of them; returns its leader.
    async fn create_topic(&mut self, configs: &[(&'static str, &'static str)]) -> i32 {
        self.create_topic_of(1, configs).await;
        self.partition_when(|p| p.leader_id.0 >= 0 && p.isr_nodes.len() == 3).await.1.leader_id.0
    }

    /// Waits for all brokers, then creates the topic with so many partitions on all of them.
    async fn create_topic_of(&mut self, partitions: i32, configs: &[(&'static str, &'static str)]) {
        loop {
            let alive = self.metadata(1).await.map_or(0, |m| m.brokers.len());
            if alive == BROKERS as usize {
                break;
            }
            self.sleep(Duration::from_millis(50)).await;
        }
        let config = |(name, value): &(&'static str, &'static str)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(StrBytes::from_static_str(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name())
            .with_num_partitions(partitions)
            .with_replication_factor(3)
            .with_configs(configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        let response = self.call(2, 7, &request).await.unwrap();
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    }

    /// Produces one batch of one record; (error code, base offset).
    async fn produce(&mut self, to: i32, acks: i16, number: i64) -> Option<(i16, i64)> {
        let response = self.call(to, 11, &produce_request(acks, number)).await?;
        let partition = &response.responses[0].partition_responses[0];
        Some((partition.error_code, partition.base_offset))
    }

    /// Produces until it is acknowledged.
    async fn produce_surely(&mut self, acks: i16, number: i64) -> i64 {
        for _ in 0..200 {
            let leader = self.leader_other_than(-1).await;
            if let Some((0, offset)) = self.produce(leader, acks, number).await {
                return offset;
            }
            self.sleep(Duration::from_millis(100)).await;
        }
        panic!("record {number} is not acknowledged");
    }

    async fn fetch(&mut self, from: i32, topic_id: Uuid, offset: i64) -> PartitionData {
        let response = self.call(from, 16, &fetch_request(topic_id, offset)).await.unwrap();
        response.responses[0].partitions[0].clone()
    }

    /// Every record that `from` serves to consumers: (offset, number).
    async fn read_all(&mut self, from: i32, topic_id: Uuid) -> Vec<(i64, i64)> {
        let mut all = Vec::new();
        loop {
            let data = self.fetch(from, topic_id, all.len() as i64).await;
            assert_eq!(data.error_code, 0);
            let mut records = data.records.unwrap_or_default();
            if records.is_empty() {
                return all;
            }
            for set in RecordBatchDecoder::decode_all(&mut records).unwrap() {
                all.extend(set.records.iter().map(|r| (r.offset, r.timestamp)));
            }
        }
    }

    async fn latest_offset(&mut self, from: i32) -> (i16, i64) {
        let partition = ListOffsetsPartition::default().with_timestamp(-1).with_current_leader_epoch(-1);
        let topic = ListOffsetsTopic::default().with_name(topic_name()).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
        let response = self.call(from, 9, &request).await.unwrap();
        let partition = &response.topics[0].partitions[0];
        (partition.error_code, partition.offset)
    }

    fn saw(&self, is_it: impl Fn(&str, &Observation) -> bool) -> bool {
        self.observed.lock().unwrap().iter().any(|(_, machine, what)| is_it(machine, what))
    }
}

fn topic_name() -> TopicName {
    TopicName(StrBytes::from_static_str(TOPIC))
}

fn produce_request(acks: i16, number: i64) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(0).with_records(Some(batch_of(1, 20, number)));
    let topic = TopicProduceData::default().with_name(topic_name()).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(5_000).with_topic_data(vec![topic])
}

fn fetch_request(topic_id: Uuid, offset: i64) -> FetchRequest {
    let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic_id(topic_id).with_partitions(vec![partition]);
    FetchRequest::default().with_max_wait_ms(100).with_min_bytes(1).with_max_bytes(1 << 20).with_topics(vec![topic])
}

/// Sessions short enough that a dead broker is noticed soon.
fn quick() -> BrokerConfig {
    BrokerConfig {
        broker_session_timeout: Duration::from_millis(1_500),
        broker_heartbeat_interval: Duration::from_millis(300),
        replica_lag_time_max: Duration::from_millis(3_000),
        ..BrokerConfig::default()
    }
}

async fn fail_over(mut client: Client) {
    let leader = client.create_topic(&[("min.insync.replicas", "2")]).await;
    for number in 0..50 {
        assert_eq!(client.produce(leader, -1, number).await, Some((0, number)));
    }
    for number in 50..80 {
        assert_eq!(client.produce(leader, 1, number).await, Some((0, number)));
    }
    let conn = client.connect(leader).await.unwrap();
    for number in 80..100 {
        client.send(conn, 11, &produce_request(0, number));
    }
    // On one connection requests are served in order: once this one is acknowledged, the others are appended.
    assert_eq!(client.produce(leader, -1, 100).await, Some((0, 100)));
    client.order(Order::Kill(leader));
    let next = client.leader_other_than(leader).await;
    for number in 101..130 {
        client.produce_surely(-1, number).await;
    }
    client.order(Order::Start(leader));
    let (topic_id, partition) = client.partition_when(|p| p.isr_nodes.len() == 3).await;
    assert_eq!(partition.leader_id.0, next);
    assert!(partition.leader_epoch > 0);
    let all = client.read_all(next, topic_id).await;
    let numbers: Vec<i64> = all.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, (0..130).collect::<Vec<_>>());
    assert_eq!(client.latest_offset(next).await, (0, 130));
}

#[test]
fn acknowledged_records_survive_the_death_of_the_leader() {
    let outcome = with_cluster(1, quick(), fail_over);
    let became_leader = outcome.observed.iter().filter(|(_, _, o)| matches!(o, Observation::BecameLeader { .. }));
    assert_eq!(became_leader.count(), 2);
    let acknowledged = outcome.observed.iter().filter(|(_, _, o)| matches!(o, Observation::Acknowledged { .. }));
    assert!(acknowledged.count() >= 130);
}

#[test]
fn equal_seeds_give_equal_runs_and_other_seeds_others() {
    let outcomes: Vec<Outcome> = [5, 5, 6].map(|seed| with_cluster(seed, quick(), fail_over)).into();
    assert_eq!(outcomes[0].digest, outcomes[1].digest);
    assert_eq!(outcomes[0].observed, outcomes[1].observed);
    assert_ne!(outcomes[0].digest, outcomes[2].digest);
}

#[test]
fn power_loss_of_every_broker_loses_nothing_that_was_flushed() {
    with_cluster(2, quick(), |mut client| async move {
        client.create_topic(&[("min.insync.replicas", "2"), ("flush.messages", "1")]).await;
        for number in 0..20 {
            client.produce_surely(-1, number).await;
        }
        for id in 1..=BROKERS {
            client.order(Order::PowerOff(id));
        }
        client.sleep(Duration::from_secs(3)).await;
        for id in 1..=BROKERS {
            client.order(Order::Start(id));
        }
        let (topic_id, partition) = client.partition_when(|p| p.error_code == 0 && p.isr_nodes.len() == 3).await;
        client.produce_surely(-1, 20).await;
        let all = client.read_all(partition.leader_id.0, topic_id).await;
        assert_eq!(all.iter().map(|(_, number)| *number).collect::<Vec<_>>(), (0..=20).collect::<Vec<_>>());
    });
}

#[test]
fn below_min_insync_replicas_acks_all_is_refused_and_acks_1_stays_invisible() {
    with_cluster(3, quick(), |mut client| async move {
        let leader = client.create_topic(&[("min.insync.replicas", "2")]).await;
        client.produce_surely(-1, 0).await;
        let followers: Vec<i32> = (1..=BROKERS).filter(|id| *id != leader).collect();
        followers.iter().for_each(|id| client.order(Order::Kill(*id)));
        let (topic_id, _) = client.partition_when(|p| p.isr_nodes.len() == 1).await;
        let refused = Some((ErrorCode::NotEnoughReplicas.code(), -1));
        assert_eq!(client.produce(leader, -1, 1).await, refused);
        assert_eq!(client.produce(leader, 1, 2).await, Some((0, 1)));
        assert_eq!(client.read_all(leader, topic_id).await, [(0, 0)]);
        followers.iter().for_each(|id| client.order(Order::Start(*id)));
        client.partition_when(|p| p.isr_nodes.len() == 3).await;
        assert_eq!(client.read_all(leader, topic_id).await, [(0, 0), (1, 2)]);
    });
}

#[test]
fn isolated_leader_stops_committing_and_truncates_what_only_it_had() {
    let outcome = with_cluster(11, quick(), |mut client| async move {
        let leader = client.create_topic(&[("min.insync.replicas", "2")]).await;
        client.produce_surely(-1, 0).await;
        client.order(Order::Isolate(leader));
        client.sleep(Duration::from_millis(10)).await;
        assert_eq!(client.produce(leader, 1, 1).await, Some((0, 1)), "acks=1 promises no more");
        let timed_out = ErrorCode::RequestTimedOut.code();
        assert_eq!(client.produce(leader, -1, 2).await, Some((timed_out, 2)));
        let others: Vec<i32> = (1..=BROKERS).filter(|id| *id != leader).collect();
        let next = loop {
            let metadata = client.metadata(others[0]).await.unwrap();
            match metadata.topics[0].partitions[0].leader_id.0 {
                id if id != leader && id >= 0 => break id,
                _ => client.sleep(Duration::from_millis(50)).await,
            }
        };
        assert_eq!(client.produce(next, -1, 3).await, Some((0, 1)));
        client.order(Order::Heal);
        let (topic_id, _) = client.partition_when(|p| p.isr_nodes.len() == 3 && p.leader_epoch > 0).await;
        assert_eq!(client.read_all(next, topic_id).await, [(0, 0), (1, 3)]);
        assert_eq!(client.read_all(leader, topic_id).await, [(0, 0), (1, 3)], "a follower serves consumers too");
    });
    let is_cut = |what: &Observation| matches!(what, Observation::Truncated { from: Offset(3), to: Offset(1), .. });
    assert!(outcome.observed.iter().any(|(_, _, what)| is_cut(what)));
}

#[test]
fn controlled_shutdown_moves_the_leader_and_leaves_a_clean_log() {
    with_cluster(4, quick(), |mut client| async move {
        let leader = client.create_topic(&[]).await;
        for number in 0..10 {
            client.produce_surely(-1, number).await;
        }
        client.order(Order::Terminate(leader));
        client.leader_other_than(leader).await;
        let machine = host(leader).host;
        while !client.saw(|m, what| m == machine && *what == Observation::CleanShutdown) {
            client.sleep(Duration::from_millis(20)).await;
        }
        client.order(Order::Start(leader));
        client.partition_when(|p| p.isr_nodes.len() == 3).await;
        let is_clean_load = |m: &str, what: &Observation| {
            let is_clean = matches!(what, Observation::LogLoaded { clean: true, log_end: Offset(10), .. });
            m == machine && is_clean
        };
        assert!(client.saw(is_clean_load));
    });
}

#[test]
fn topics_come_into_being_on_demand_and_go_with_their_logs() {
    let config = BrokerConfig { num_partitions: 2, default_replication_factor: 3, ..quick() };
    let outcome = with_cluster(5, config, |mut client| async move {
        let asked = MetadataRequestTopic::default().with_name(Some(topic_name()));
        let request = MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(true);
        let first = client.call(1, 12, &request).await.unwrap();
        assert_eq!(first.topics[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
        let partitions = loop {
            client.sleep(Duration::from_millis(50)).await;
            let metadata = client.call(1, 12, &request).await.unwrap();
            if metadata.topics[0].error_code == 0 {
                break metadata.topics[0].partitions.len();
            }
        };
        assert_eq!(partitions, 2);
        client.produce_surely(-1, 0).await;
        let state = DeleteTopicState::default().with_name(Some(topic_name()));
        let request = DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(10_000);
        let response = client.call(3, 6, &request).await.unwrap();
        assert_eq!(response.responses[0].error_code, 0);
        client.sleep(Duration::from_secs(1)).await;
        let unknown = Some((ErrorCode::UnknownTopicOrPartition.code(), -1));
        assert_eq!(client.produce(2, 1, 1).await, unknown);
        let again = client.create_topic(&[]).await;
        let (topic_id, _) = client.partition_when(|p| p.leader_id.0 == again).await;
        assert_eq!(client.read_all(again, topic_id).await, []);
    });
    assert!(outcome.observed.iter().any(|(_, _, o)| matches!(o, Observation::Appended { .. })));
}

#[test]
fn requests_of_one_connection_are_served_one_by_one() {
    with_cluster(6, quick(), |mut client| async move {
        let leader = client.create_topic(&[]).await;
        let (topic_id, _) = client.partition_when(|_| true).await;
        let conn = client.connect(leader).await.unwrap();
        // The fetch waits for data: what follows on the connection waits with it.
        let fetch = client.send(conn, 16, &fetch_request(topic_id, 0).with_max_wait_ms(300));
        let versions = client.send(conn, 3, &ApiVersionsRequest::default());
        let sent_at = client.world.now();
        let first = client.receive(conn).await.unwrap();
        assert_eq!(wire::response_correlation_id(&first).unwrap(), fetch);
        assert!(client.world.now().since(sent_at) >= Duration::from_millis(300));
        let second = client.receive(conn).await.unwrap();
        assert_eq!(wire::response_correlation_id(&second).unwrap(), versions);
    });
}

#[test]
fn what_cannot_be_served_costs_its_connection_and_nothing_else() {
    with_cluster(7, quick(), |mut client| async move {
        let leader = client.create_topic(&[]).await;
        let other = (1..=BROKERS).find(|id| *id != leader).unwrap();
        let bystander = client.connect(leader).await.unwrap();
        client.connections.remove(&leader);

        let garbage = client.connect(leader).await.unwrap();
        client.net.send(garbage, Bytes::from_static(b"GET / HTTP/1.1"));
        assert_eq!(client.receive(garbage).await, None);

        let truncated = client.connect(leader).await.unwrap();
        let whole = wire::encode_request(&produce_request(1, 0), 11, 1, &StrBytes::from_static_str("test"));
        client.net.send(truncated, whole.slice(..whole.len() - 5));
        assert_eq!(client.receive(truncated).await, None);

        let unanswerable = client.connect(other).await.unwrap();
        client.send(unanswerable, 11, &produce_request(0, 0));
        assert_eq!(client.receive(unanswerable).await, None, "not the leader, and acks=0");

        client.connections.insert(leader, bystander);
        assert_eq!(client.produce(leader, -1, 1).await, Some((0, 0)));
        assert_eq!(client.produce(other, 1, 2).await, Some((ErrorCode::NotLeaderOrFollower.code(), -1)));
        assert_eq!(client.produce(leader, 7, 2).await, Some((ErrorCode::InvalidRequiredAcks.code(), -1)));
    });
}

#[test]
fn newer_client_learns_the_versions_from_an_old_answer() {
    with_cluster(8, quick(), |mut client| async move {
        client.create_topic(&[]).await;
        let conn = client.connect(1).await.unwrap();
        let correlation_id = client.send(conn, 4, &ApiVersionsRequest::default());
        let frame = client.receive(conn).await.unwrap();
        assert_eq!(wire::response_correlation_id(&frame).unwrap(), correlation_id);
        let response = wire::decode_response::<ApiVersionsRequest>(&frame, 0).unwrap();
        assert_eq!(response.error_code, ErrorCode::UnsupportedVersion.code());
        let produce = response.api_keys.iter().find(|k| k.api_key == 0).unwrap();
        assert_eq!((produce.min_version, produce.max_version), (0, 11));
    });
}

#[test]
fn waiting_fetch_is_answered_as_soon_as_there_is_data() {
    with_cluster(9, quick(), |mut client| async move {
        let leader = client.create_topic(&[]).await;
        let (topic_id, _) = client.partition_when(|_| true).await;
        let reader = client.connect(leader).await.unwrap();
        client.connections.remove(&leader);
        client.send(reader, 16, &fetch_request(topic_id, 0).with_max_wait_ms(5_000));
        client.sleep(Duration::from_millis(200)).await;
        let produced_at = client.world.now();
        let writer = client.connect(leader).await.unwrap();
        client.send(writer, 11, &produce_request(-1, 7));
        let frame = client.receive(reader).await.unwrap();
        assert!(client.world.now().since(produced_at) < Duration::from_millis(100));
        let response = wire::decode_response::<FetchRequest>(&frame, 16).unwrap();
        assert_eq!(response.responses[0].partitions[0].high_watermark, 1);
        assert!(client.saw(|_, what| matches!(what, Observation::Served { from: Offset(0), to: Offset(1), .. })));
    });
}

#[test]
fn no_byte_of_a_record_is_copied_from_the_page_cache_to_the_connection() {
    with_cluster(9, quick(), |mut client| async move {
        let leader = client.create_topic(&[]).await;
        let (topic_id, _) = client.partition_when(|_| true).await;
        for value in 0..20 {
            client.produce_surely(-1, value).await;
        }
        let conn = client.connect(leader).await.unwrap();
        client.send(conn, 16, &fetch_request(topic_id, 0));
        let frame = client.receive_pieces(conn).await.unwrap();
        let disk = client.simulation.disk(&host(leader).host);
        let file = disk.open("data/orders-0/00000000000000000000.log").unwrap();
        let cached = file.read_pieces(0, file.len() as usize).unwrap();
        let is_cached = |piece: &&Bytes| cached.pieces().any(|page| page.as_ptr_range().contains(&piece.as_ptr()));
        let (stored, envelope): (Vec<&Bytes>, Vec<&Bytes>) = frame.pieces().partition(is_cached);
        assert!(stored.len() > 1, "the followers' fetches have cut the cache into pieces");
        let response = wire::decode_response::<FetchRequest>(&frame.to_bytes(), 16).unwrap();
        let records = response.responses[0].partitions[0].records.clone().unwrap();
        let read = RecordBatchDecoder::decode_all(&mut records.clone()).unwrap();
        assert_eq!(read.iter().map(|set| set.records.len()).sum::<usize>(), 20);
        assert_eq!(stored.iter().map(|piece| piece.len()).sum::<usize>(), records.len(), "every byte of them");
        assert_eq!(envelope.len(), 2, "before the records and behind them");
    });
}

#[test]
fn administrative_answers_are_complete_in_every_version() {
    with_cluster(10, quick(), |mut client| async move {
        let leader = client.create_topic(&[]).await;
        let (topic_id, _) = client.partition_when(|_| true).await;
        client.produce_surely(-1, 0).await;
        for version in 0..=12 {
            let asked = MetadataRequestTopic::default().with_name(Some(topic_name()));
            let request = MetadataRequest::default().with_topics(Some(vec![asked]));
            let metadata = client.call(leader, version, &request).await.unwrap();
            assert_eq!(metadata.brokers.len(), 3, "version {version}");
            assert_eq!(metadata.topics[0].partitions[0].leader_id.0, leader, "version {version}");
        }
        for version in 3..=11 {
            let response = client.call(leader, version, &produce_request(-1, i64::from(version))).await.unwrap();
            assert_eq!(response.responses[0].partition_responses[0].error_code, 0, "version {version}");
        }
        for version in 4..=16 {
            let mut request = fetch_request(if version >= 13 { topic_id } else { Uuid::nil() }, 0);
            if version < 13 {
                request.topics[0].topic = topic_name();
            }
            let response = client.call(leader, version, &request).await.unwrap();
            assert!(response.responses[0].partitions[0].records.is_some(), "version {version}");
        }
        for version in 1..=9 {
            let partition = ListOffsetsPartition::default().with_timestamp(-2).with_current_leader_epoch(-1);
            let topic = ListOffsetsTopic::default().with_name(topic_name()).with_partitions(vec![partition]);
            let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
            let response = client.call(leader, version, &request).await.unwrap();
            assert_eq!(response.topics[0].partitions[0].offset, 0, "version {version}");
        }
        for version in 2..=4 {
            use kafka_protocol::messages::offset_for_leader_epoch_request as request;
            let partition =
                request::OffsetForLeaderPartition::default().with_current_leader_epoch(-1).with_leader_epoch(0);
            let topic =
                request::OffsetForLeaderTopic::default().with_topic(topic_name()).with_partitions(vec![partition]);
            let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
            let response = client.call(leader, version, &request).await.unwrap();
            let answer = &response.topics[0].partitions[0];
            assert_eq!((answer.error_code, answer.leader_epoch, answer.end_offset), (0, 0, 10), "version {version}");
        }
        for version in 0..=1 {
            let response = client.call(leader, version, &DescribeClusterRequest::default()).await.unwrap();
            assert_eq!(response.brokers.len(), 3);
        }
        let mut ids = Vec::new();
        for version in [0, 0, 1, 2, 3, 4] {
            let request = InitProducerIdRequest::default().with_transactional_id(None);
            let mut response = client.call(leader, version, &request).await.unwrap();
            if response.error_code == ErrorCode::CoordinatorLoadInProgress.code() {
                // The first producer makes the broker ask for a block.
                client.sleep(Duration::from_millis(100)).await;
                response = client.call(leader, version, &request).await.unwrap();
            }
            assert_eq!((response.error_code, response.producer_epoch), (0, 0));
            ids.push(response.producer_id.0);
        }
        assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
        let request = InitProducerIdRequest::default().with_transactional_id(None).with_producer_epoch(3);
        let response = client.call(leader, 4, &request).await.unwrap();
        assert_eq!(response.error_code, ErrorCode::InvalidRequest.code(), "an epoch without an id");
    });
}
