//! The controller on its simulated machine, with brokers that are nothing but registration, heartbeats and a copy of
//! the metadata log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::broker_registration_request::Listener;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, Request, StrBytes};
use uuid::Uuid;

use super::metadata_log::MetadataLog;
use super::{Controller, ControllerConfig, METADATA_TOPIC, METADATA_TOPIC_ID};
use crate::config::BrokerConfig;
use crate::defect::Defects;
use crate::metadata::{ImageChanges, MetadataImage, decode_records};
use crate::observe::{Observation, Observer};
use crate::protocol::wire::{decode_response, encode_request};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, Offset};
use crate::world::sim::{ProcessFuture, SimConfig, Simulation};
use crate::world::{ConnId, Disk, Endpoint, Event, HostPort, Time, World, run};

const CONTROLLER: &str = "controller";
const MS: Duration = Duration::from_millis(1);

/// What the test sees of it all.
#[derive(Default)]
struct Seen {
    observations: Vec<(Time, Observation)>,
    /// Metadata as each broker has it.
    images: BTreeMap<i32, MetadataImage>,
    /// Broker epochs, in the order in which each broker got them.
    epochs: BTreeMap<i32, Vec<i64>>,
    /// Topics whose creation was acknowledged.
    created: BTreeSet<String>,
    should_shut_down: BTreeSet<i32>,
    want_shut_down: BTreeSet<i32>,
}

type Shared = Arc<Mutex<Seen>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Seen> {
    shared.lock().expect("no test thread panics with the lock")
}

/// Runs a simulation on a thread of its own.
fn simulate<T: Send + 'static, F: Future<Output = T>>(
    seed: u64,
    main: impl FnOnce(Simulation) -> F + Send + 'static,
) -> T {
    std::thread::spawn(move || Simulation::block_on(seed, SimConfig::default(), main))
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn pass(sim: &Simulation, duration: Duration) {
    sim.sleep_until(sim.now() + duration).await;
}

fn add_controller(sim: &Simulation, shared: &Shared, config: BrokerConfig) {
    let shared = shared.clone();
    sim.add_machine(CONTROLLER, true, move |world, mut net| -> ProcessFuture {
        let shared = shared.clone();
        let observer: Observer = Arc::new(move |at, machine, observation| {
            assert_eq!(machine, CONTROLLER);
            lock(&shared).observations.push((at, observation));
        });
        let config = ControllerConfig {
            node_id: BrokerId(3000),
            listen: HostPort::new(CONTROLLER, 9093),
            broker: config.clone(),
            log_dir: "metadata".to_owned(),
        };
        Box::pin(async move {
            let mut controller = Controller::open(world, config, observer).expect("the disk works");
            run(&mut controller, &mut net).await;
        })
    });
}

/// One connection to the controller, made anew when it breaks.
struct Client {
    world: World,
    net: Endpoint,
    conn: Option<ConnId>,
    correlation_id: i32,
}

impl Client {
    fn new(world: World, net: Endpoint) -> Client {
        Client { world, net, conn: None, correlation_id: 0 }
    }

    async fn sleep(&mut self, duration: Duration) {
        let until = self.world.now() + duration;
        while let Some(event) = self.net.next(Some(until)).await {
            if matches!(event, Event::Closed(conn) if Some(conn) == self.conn) {
                self.conn = None;
            }
        }
    }

    async fn connected(&mut self) -> Option<ConnId> {
        if self.conn.is_none() {
            let conn = self.net.connect(&HostPort::new(CONTROLLER, 9093));
            let deadline = self.world.now() + 1_000 * MS;
            loop {
                match self.net.next(Some(deadline)).await {
                    Some(Event::Connected(c)) if c == conn => break self.conn = Some(conn),
                    Some(Event::Closed(c)) if c == conn => break,
                    Some(_) => {}
                    None => break self.net.close(conn),
                }
            }
        }
        self.conn
    }

    fn frame<R: Request>(&mut self, version: i16, request: &R) -> Bytes {
        self.correlation_id += 1;
        encode_request(request, version, self.correlation_id, &StrBytes::from_static_str("test"))
    }

    /// The next frame, or `None` after two seconds or when the connection is lost.
    async fn receive(&mut self, conn: ConnId) -> Option<Bytes> {
        let deadline = self.world.now() + 2_000 * MS;
        loop {
            match self.net.next(Some(deadline)).await {
                Some(Event::Frame(c, frame)) if c == conn => return Some(frame.into_bytes()),
                Some(Event::Closed(c)) if c == conn => break,
                Some(_) => {}
                None => break self.net.close(conn),
            }
        }
        self.conn = None;
        None
    }

    async fn call<R: Request>(&mut self, version: i16, request: &R) -> Option<R::Response> {
        let conn = self.connected().await?;
        let frame = self.frame(version, request);
        self.net.send(conn, frame);
        let frame = self.receive(conn).await?;
        Some(decode_response::<R>(&frame, version).expect("the controller answers in the request's version"))
    }
}

/// A broker without logs: registers, beats, follows the metadata log.
struct FakeBroker {
    id: i32,
    client: Client,
    incarnation: Uuid,
    image: MetadataImage,
    leader_epoch: i32,
    shared: Shared,
}

fn add_broker(sim: &Simulation, shared: &Shared, id: i32) {
    let shared = shared.clone();
    sim.add_machine(&format!("broker-{id}"), true, move |world, net| -> ProcessFuture {
        let incarnation = super::random_uuid(&mut world.rng("incarnation"));
        let client = Client::new(world, net);
        let shared = shared.clone();
        let (image, leader_epoch) = (MetadataImage::default(), 0);
        Box::pin(FakeBroker { id, client, incarnation, image, leader_epoch, shared }.live())
    });
}

impl FakeBroker {
    async fn live(mut self) {
        loop {
            let Some(epoch) = self.register().await else {
                self.client.sleep(200 * MS).await;
                continue;
            };
            lock(&self.shared).epochs.entry(self.id).or_default().push(epoch);
            while self.beat(epoch).await {
                self.client.sleep(250 * MS).await;
                self.follow().await;
            }
        }
    }

    async fn register(&mut self) -> Option<i64> {
        let listener =
            Listener::default().with_host(StrBytes::from_string(format!("broker-{}", self.id))).with_port(9092);
        let request = BrokerRegistrationRequest::default()
            .with_broker_id(kafka_protocol::messages::BrokerId(self.id))
            .with_incarnation_id(self.incarnation)
            .with_listeners(vec![listener]);
        let response = self.client.call(4, &request).await?;
        (response.error_code == 0).then_some(response.broker_epoch)
    }

    /// False once the epoch is stale.
    async fn beat(&mut self, epoch: i64) -> bool {
        let want_shut_down = lock(&self.shared).want_shut_down.contains(&self.id);
        let request = BrokerHeartbeatRequest::default()
            .with_broker_id(kafka_protocol::messages::BrokerId(self.id))
            .with_broker_epoch(epoch)
            .with_current_metadata_offset(self.image.next_offset - 1)
            .with_want_shut_down(want_shut_down);
        let Some(response) = self.client.call(1, &request).await else { return true };
        if response.should_shut_down {
            lock(&self.shared).should_shut_down.insert(self.id);
        }
        response.error_code != ErrorCode::StaleBrokerEpoch.code()
    }

    async fn follow(&mut self) {
        let request = fetch(self.image.next_offset, self.image.last_epoch, self.leader_epoch, 0);
        let Some(response) = self.client.call(16, &request).await else { return };
        let partition = &response.responses[0].partitions[0];
        self.leader_epoch = partition.current_leader.leader_epoch;
        assert_eq!(partition.diverging_epoch.end_offset, -1, "what a broker has seen is committed for good");
        let records = partition.records.clone().unwrap_or_default();
        for (offset, epoch, record) in decode_records(&records).expect("whole batches") {
            assert_eq!(offset.0, self.image.next_offset);
            assert!(offset.0 < partition.high_watermark);
            self.image.apply(offset, epoch, &record, &mut ImageChanges::default());
        }
        lock(&self.shared).images.insert(self.id, self.image.clone());
    }
}

fn fetch(offset: i64, last_fetched_epoch: i32, leader_epoch: i32, max_wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_fetch_offset(offset)
        .with_last_fetched_epoch(last_fetched_epoch)
        .with_current_leader_epoch(leader_epoch);
    let topic = FetchTopic::default().with_topic_id(METADATA_TOPIC_ID).with_partitions(vec![partition]);
    FetchRequest::default().with_max_wait_ms(max_wait_ms).with_topics(vec![topic])
}

fn create_topic(name: &str) -> CreateTopicsRequest {
    let topic = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_string(name.to_owned())))
        .with_num_partitions(1)
        .with_replication_factor(3);
    CreateTopicsRequest::default().with_topics(vec![topic])
}

/// Creates topics t-0, t-1, … as fast as they are acknowledged; one that was created without our knowing counts.
fn add_admin(sim: &Simulation, shared: &Shared, topics: u32) {
    let shared = shared.clone();
    sim.add_machine("admin", false, move |world, net| -> ProcessFuture {
        let (mut client, shared) = (Client::new(world, net), shared.clone());
        Box::pin(async move {
            for name in (0..topics).map(|i| format!("t-{i}")) {
                loop {
                    let response = client.call(7, &create_topic(&name)).await;
                    let code = response.map(|r| r.topics[0].error_code);
                    if code == Some(0) || code == Some(ErrorCode::TopicAlreadyExists.code()) {
                        break;
                    }
                    client.sleep(100 * MS).await;
                }
                lock(&shared).created.insert(name);
            }
        })
    });
}

/// Three brokers, unfenced, and `topics` topics.
async fn cluster(sim: &Simulation, config: BrokerConfig, topics: u32) -> Shared {
    let shared = Shared::default();
    add_controller(sim, &shared, config);
    (1..=3).for_each(|id| add_broker(sim, &shared, id));
    pass(sim, 2_000 * MS).await;
    assert!((1..=3).all(|id| lock(&shared).images[&id].is_active(BrokerId(id))), "every broker is unfenced");
    add_admin(sim, &shared, topics);
    shared
}

/// (leader, ISR) of a topic's only partition as a broker sees it.
fn partition(shared: &Shared, broker: i32, topic: &str) -> (i32, Vec<i32>) {
    let seen = lock(shared);
    let partition = &seen.images[&broker].topic(topic).expect("it was created").partitions[&0];
    (partition.leader.0, partition.isr.iter().map(|b| b.0).collect())
}

fn fencings(shared: &Shared) -> Vec<(i32, bool)> {
    let seen = lock(shared);
    let fenced = seen.observations.iter().filter_map(|(_, o)| match o {
        Observation::Fenced { broker, fenced, .. } => Some((broker.0, *fenced)),
        _ => None,
    });
    fenced.collect()
}

/// (leader, leader epoch, partition epoch, unclean) of the last change observed.
fn last_change(shared: &Shared) -> Option<(i32, i32, i32, bool)> {
    lock(shared).observations.iter().rev().find_map(|(_, o)| match o {
        Observation::PartitionChanged { leader, leader_epoch, partition_epoch, unclean, .. } => {
            Some((leader.0, leader_epoch.0, partition_epoch.0, *unclean))
        }
        _ => None,
    })
}

#[test]
fn a_silent_broker_is_fenced_and_what_it_led_is_led_elsewhere() {
    simulate(1, |sim| async move {
        let shared = cluster(&sim, BrokerConfig::default(), 1).await;
        pass(&sim, 1_000 * MS).await;
        assert_eq!(partition(&shared, 2, "t-0"), (1, vec![1, 2, 3]));
        sim.kill("broker-1");
        pass(&sim, 8_000 * MS).await;
        assert_eq!(partition(&shared, 2, "t-0"), (1, vec![1, 2, 3]), "the session still lasts");
        pass(&sim, 2_000 * MS).await;
        assert_eq!(partition(&shared, 2, "t-0"), (2, vec![2, 3]));
        assert_eq!(fencings(&shared)[3..], [(1, true)]);
        assert_eq!(last_change(&shared), Some((2, 1, 1, false)));
        sim.start("broker-1");
        pass(&sim, 2_000 * MS).await;
        let epochs = lock(&shared).epochs[&1].clone();
        assert!(epochs.len() == 2 && epochs[0] < epochs[1], "a new incarnation, a new epoch: {epochs:?}");
        assert_eq!(partition(&shared, 1, "t-0"), (2, vec![2, 3]), "coming back alone brings nobody into the ISR");
    });
}

#[test]
fn a_broker_that_is_paused_too_long_loses_its_leaderships_and_its_registration_stays() {
    simulate(2, |sim| async move {
        let shared = cluster(&sim, BrokerConfig::default(), 1).await;
        pass(&sim, 1_000 * MS).await;
        sim.pause("broker-1");
        pass(&sim, 12_000 * MS).await;
        sim.resume("broker-1");
        pass(&sim, 2_000 * MS).await;
        assert_eq!(partition(&shared, 1, "t-0"), (2, vec![2, 3]));
        assert_eq!(lock(&shared).epochs[&1].len(), 1);
        assert_eq!(fencings(&shared)[3..], [(1, true), (1, false)]);
    });
}

#[test]
fn a_broker_that_shuts_down_in_order_goes_once_the_others_follow() {
    simulate(3, |sim| async move {
        let shared = cluster(&sim, BrokerConfig::default(), 1).await;
        pass(&sim, 1_000 * MS).await;
        lock(&shared).want_shut_down.insert(1);
        pass(&sim, 2_000 * MS).await;
        assert!(lock(&shared).should_shut_down.contains(&1));
        assert_eq!(partition(&shared, 2, "t-0"), (2, vec![2, 3]));
    });
}

#[test]
fn leaders_return_to_their_preferred_replica_when_the_balance_is_checked() {
    simulate(4, |sim| async move {
        let leader_imbalance_check_interval = Duration::from_secs(20);
        let config = BrokerConfig { leader_imbalance_check_interval, ..BrokerConfig::default() };
        let shared = cluster(&sim, config, 1).await;
        pass(&sim, 1_000 * MS).await;
        sim.pause("broker-1");
        pass(&sim, 12_000 * MS).await;
        sim.resume("broker-1");
        pass(&sim, 1_000 * MS).await;
        alter_isr(&sim, &shared, 2, &[1, 2, 3]);
        pass(&sim, 2_000 * MS).await;
        assert_eq!(partition(&shared, 2, "t-0"), (2, vec![1, 2, 3]));
        pass(&sim, 20_000 * MS).await;
        assert_eq!(partition(&shared, 2, "t-0"), (1, vec![1, 2, 3]));
    });
}

/// Asks, in the name of the leader of t-0, for another ISR.
fn alter_isr(sim: &Simulation, shared: &Shared, leader: i32, isr: &[i32]) {
    let (shared, isr) = (shared.clone(), isr.to_vec());
    sim.add_machine("alter-isr", false, move |world, net| -> ProcessFuture {
        use kafka_protocol::messages::alter_partition_request::{PartitionData, TopicData};
        let (image, epoch) = {
            let seen = lock(&shared);
            (seen.images[&leader].clone(), seen.epochs[&leader][0])
        };
        let topic = image.topic("t-0").expect("it was created");
        let current = &topic.partitions[&0];
        let partition = PartitionData::default()
            .with_leader_epoch(current.leader_epoch.0)
            .with_partition_epoch(current.partition_epoch.0)
            .with_new_isr(isr.iter().copied().map(kafka_protocol::messages::BrokerId).collect());
        let topic = TopicData::default().with_topic_id(topic.id).with_partitions(vec![partition]);
        let request = AlterPartitionRequest::default()
            .with_broker_id(kafka_protocol::messages::BrokerId(leader))
            .with_broker_epoch(epoch)
            .with_topics(vec![topic]);
        let mut client = Client::new(world, net);
        Box::pin(async move {
            let response = client.call(2, &request).await.expect("the controller runs");
            assert_eq!(response.topics[0].partitions[0].error_code, 0);
        })
    });
}

#[test]
fn an_unclean_election_keeps_the_partition_online_and_is_observed() {
    simulate(11, |sim| async move {
        let config = BrokerConfig { unclean_leader_election_enable: true, ..BrokerConfig::default() };
        let shared = cluster(&sim, config, 1).await;
        pass(&sim, 1_000 * MS).await;
        alter_isr(&sim, &shared, 1, &[1]);
        pass(&sim, 1_000 * MS).await;
        assert_eq!(partition(&shared, 2, "t-0"), (1, vec![1]));
        sim.kill("broker-1");
        pass(&sim, 10_000 * MS).await;
        assert_eq!(partition(&shared, 2, "t-0"), (2, vec![2]));
        assert_eq!(last_change(&shared), Some((2, 1, 2, true)));
    });
}

/// The image that the log on the controller's disk yields.
fn image_on_disk(sim: &Simulation) -> MetadataImage {
    let disk = Disk::Sim(sim.disk(CONTROLLER));
    let file = disk.open(&format!("metadata/{METADATA_TOPIC}-0/00000000000000000000.log")).expect("there is a log");
    let bytes = file.read_at(0, file.len() as usize).expect("it can be read");
    let mut image = MetadataImage::default();
    for (offset, epoch, record) in decode_records(&bytes).expect("whole batches") {
        image.apply(offset, epoch, &record, &mut ImageChanges::default());
    }
    image
}

/// What the controller promised survives its death: acknowledged topics, and what brokers have read. It dies once at a
/// time that sweeps over registrations, topic creations and idling.
fn what_is_committed_survives(die: fn(&Simulation)) {
    for round in 0..12 {
        simulate(100 + round, move |sim| async move {
            let shared = Shared::default();
            add_controller(&sim, &shared, BrokerConfig::default());
            (1..=3).for_each(|id| add_broker(&sim, &shared, id));
            add_admin(&sim, &shared, 200);
            // Brokers beat every 250 ms; the odd steps hit other moments of that in each round.
            pass(&sim, Duration::from_micros(300 + 171_311 * round)).await;
            die(&sim);
            let known = lock(&shared).created.clone();
            pass(&sim, 700 * MS).await;
            sim.start(CONTROLLER);
            pass(&sim, 8_000 * MS).await;
            let image = image_on_disk(&sim);
            let seen = lock(&shared);
            assert!(known.iter().all(|name| image.topic(name).is_some()), "round {round}");
            assert_eq!(seen.created.len(), 200, "round {round}: all topics in the end");
            assert!(image.last_epoch >= 2, "round {round}: every reign has its own epoch");
            for id in 1..=3 {
                assert_eq!(seen.images[&id], image, "round {round}: broker {id}");
                assert_eq!(seen.epochs[&id].len(), 1, "round {round}: broker {id} keeps its registration");
            }
        });
    }
}

#[test]
fn what_is_committed_survives_a_crash_of_the_controller() {
    what_is_committed_survives(|sim| sim.kill(CONTROLLER));
}

#[test]
fn what_is_committed_survives_a_power_loss_of_the_controller() {
    what_is_committed_survives(|sim| sim.power_off(CONTROLLER));
}

#[test]
fn nobody_is_fenced_for_the_time_that_the_controller_was_down() {
    simulate(5, |sim| async move {
        let shared = cluster(&sim, BrokerConfig::default(), 1).await;
        pass(&sim, 1_000 * MS).await;
        sim.kill(CONTROLLER);
        sim.kill("broker-1");
        pass(&sim, 60_000 * MS).await;
        sim.start(CONTROLLER);
        pass(&sim, 8_500 * MS).await;
        assert_eq!(fencings(&shared).len(), 3, "even the dead one has a fresh session");
        pass(&sim, 1_500 * MS).await;
        assert_eq!(fencings(&shared)[3..], [(1, true)]);
        assert_eq!(partition(&shared, 2, "t-0"), (2, vec![2, 3]));
    });
}

#[test]
fn an_orderly_stop_leaves_the_clean_shutdown_marker() {
    simulate(6, |sim| async move {
        let shared = cluster(&sim, BrokerConfig::default(), 1).await;
        pass(&sim, 1_000 * MS).await;
        sim.terminate(CONTROLLER);
        pass(&sim, 10 * MS).await;
        assert!(!sim.is_running(CONTROLLER));
        assert!(sim.disk(CONTROLLER).exists("metadata/.kafka_cleanshutdown"));
        assert_eq!(lock(&shared).observations.last().map(|(_, o)| o.clone()), Some(Observation::CleanShutdown));
        sim.start(CONTROLLER);
        pass(&sim, 3_000 * MS).await;
        assert_eq!(partition(&shared, 2, "t-0"), (1, vec![1, 2, 3]));
    });
}

#[test]
fn one_seed_one_digest() {
    let digest = |seed| {
        simulate(seed, |sim| async move {
            let _shared = cluster(&sim, BrokerConfig::default(), 20).await;
            sim.kill("broker-2");
            pass(&sim, 12_000 * MS).await;
            (sim.digest(), sim.frames())
        })
    };
    assert_eq!(digest(7), digest(7));
    assert_ne!(digest(7), digest(8));
}

/// Runs `body` as a client of a controller without brokers.
fn as_client<F: Future<Output = ()> + 'static>(body: fn(Client) -> F) {
    simulate(9, move |sim| async move {
        add_controller(&sim, &Shared::default(), BrokerConfig::default());
        let done = Arc::new(Mutex::new(false));
        let flag = done.clone();
        sim.add_machine("client", false, move |world, net| -> ProcessFuture {
            let flag = flag.clone();
            Box::pin(async move {
                body(Client::new(world, net)).await;
                *flag.lock().expect("no panic") = true;
            })
        });
        pass(&sim, 60_000 * MS).await;
        assert!(*done.lock().expect("no panic"), "the client came to its end");
    });
}

fn only_partition(response: &FetchResponse) -> &PartitionData {
    &response.responses[0].partitions[0]
}

#[test]
fn a_fetch_at_the_end_of_the_log_waits_for_records_or_its_time() {
    as_client(|mut client| async move {
        let begun = client.world.now();
        let response = client.call(16, &fetch(1, 1, 1, 500)).await.expect("answered");
        assert!(only_partition(&response).records.as_ref().is_some_and(Bytes::is_empty));
        assert!(client.world.now() >= begun + 500 * MS);
        // A waiting fetch holds up its own connection only, so another one brings the records.
        let waiting = client.connected().await.expect("connected");
        let frame = client.frame(16, &fetch(1, 1, 1, 1_500));
        client.net.send(waiting, frame);
        client.conn = None;
        let listener = Listener::default().with_host(StrBytes::from_static_str("broker-1")).with_port(9092);
        let request = BrokerRegistrationRequest::default()
            .with_broker_id(kafka_protocol::messages::BrokerId(1))
            .with_listeners(vec![listener]);
        let begun = client.world.now();
        let other = client.connected().await.expect("connected");
        let frame = client.frame(4, &request);
        client.net.send(other, frame);
        let frame = client.receive(waiting).await.expect("answered");
        let response = decode_response::<FetchRequest>(&frame, 16).expect("a Fetch response");
        assert!(client.world.now() < begun + 500 * MS, "the record ends the wait");
        let partition = only_partition(&response);
        let records = decode_records(partition.records.as_ref().expect("records")).expect("whole batches");
        assert_eq!((records.len(), records[0].0, partition.high_watermark), (1, Offset(1), 2));
    });
}

#[test]
fn a_fetcher_that_is_not_a_prefix_of_the_log_is_told_where_it_diverges() {
    as_client(|mut client| async move {
        // (offset, last fetched epoch, leader epoch) -> (error, diverging epoch and end)
        for (asked, expected) in [
            ((0, 0, 1), (0, (-1, -1))),
            ((1, 1, 1), (0, (-1, -1))),
            ((1, -1, -1), (0, (-1, -1))),
            ((5, 1, 1), (0, (1, 1))),
            ((5, -1, -1), (0, (1, 1))),
            ((1, 0, 1), (0, (0, 0))),
            ((1, 0, 0), (ErrorCode::FencedLeaderEpoch.code(), (-1, -1))),
            ((1, 1, 9), (ErrorCode::UnknownLeaderEpoch.code(), (-1, -1))),
            ((1, 5, 1), (ErrorCode::InvalidRequest.code(), (-1, -1))),
            ((-1, 1, 1), (ErrorCode::InvalidRequest.code(), (-1, -1))),
        ] {
            let (offset, last_fetched_epoch, leader_epoch) = asked;
            let response = client.call(13, &fetch(offset, last_fetched_epoch, leader_epoch, 0)).await;
            let response = response.expect("answered");
            let partition = only_partition(&response);
            let diverging = (partition.diverging_epoch.epoch, partition.diverging_epoch.end_offset);
            assert_eq!((partition.error_code, diverging), expected, "{asked:?}");
            let leader = &partition.current_leader;
            assert_eq!((leader.leader_id.0, leader.leader_epoch), (3000, 1));
        }
    });
}

#[test]
fn answers_of_a_connection_come_in_the_order_of_its_requests() {
    as_client(|mut client| async move {
        let conn = client.connected().await.expect("connected");
        let slow = client.frame(16, &fetch(1, 1, 1, 700));
        let quick = client.frame(3, &ApiVersionsRequest::default());
        client.net.send(conn, slow);
        client.net.send(conn, quick);
        for correlation_id in [1, 2] {
            let frame = client.receive(conn).await.expect("answered");
            assert_eq!(frame[..4], i32::to_be_bytes(correlation_id));
        }
    });
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0_and_of_others_with_a_closed_connection() {
    as_client(|mut client| async move {
        let conn = client.connected().await.expect("connected");
        let mut frame = client.frame(3, &ApiVersionsRequest::default()).to_vec();
        frame[3] = 9;
        client.net.send(conn, Bytes::from(frame));
        let frame = client.receive(conn).await.expect("answered");
        let response = decode_response::<ApiVersionsRequest>(&frame, 0).expect("a version 0 response");
        assert_eq!(response.error_code, ErrorCode::UnsupportedVersion.code());
        assert!(response.api_keys.iter().any(|k| k.api_key == ApiKey::BrokerRegistration as i16));
        let mut frame = client.frame(1, &BrokerHeartbeatRequest::default()).to_vec();
        frame[3] = 9;
        client.net.send(conn, Bytes::from(frame));
        assert_eq!(client.receive(conn).await, None);
        assert_eq!(client.conn, None);
    });
}

#[test]
fn every_served_version_of_every_api_is_answered() {
    async fn all<R: Request + Default>(client: &mut Client, versions: std::ops::RangeInclusive<i16>)
    where
        R::Response: Encodable,
    {
        for version in versions {
            assert!(client.call(version, &R::default()).await.is_some(), "{} {version}", std::any::type_name::<R>());
        }
    }
    as_client(|mut client| async move {
        all::<ApiVersionsRequest>(&mut client, 0..=3).await;
        all::<BrokerRegistrationRequest>(&mut client, 0..=4).await;
        all::<BrokerHeartbeatRequest>(&mut client, 0..=1).await;
        all::<AlterPartitionRequest>(&mut client, 2..=3).await;
        all::<ElectLeadersRequest>(&mut client, 0..=2).await;
        all::<FetchRequest>(&mut client, 12..=16).await;
        for version in 2..=7 {
            let response = client.call(version, &create_topic("orders")).await.expect("answered");
            assert_eq!(response.topics[0].error_code, ErrorCode::InvalidReplicationFactor.code());
        }
        for version in 1..=5 {
            let name = TopicName(StrBytes::from_static_str("orders"));
            let request = DeleteTopicsRequest::default().with_topic_names(vec![name]);
            let response = client.call(version, &request).await.expect("answered");
            assert_eq!(response.responses[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
        }
        all::<DeleteTopicsRequest>(&mut client, 6..=6).await;
    });
}

#[test]
fn a_leader_epoch_is_never_used_twice() {
    simulate(10, |sim| async move {
        let epochs = Arc::new(Mutex::new(Vec::new()));
        let opened = epochs.clone();
        sim.add_machine("machine", true, move |world, _net| -> ProcessFuture {
            let opened = opened.clone();
            Box::pin(async move {
                let (log, records) = MetadataLog::open(
                    &world.disk(),
                    "metadata",
                    BrokerId(3000),
                    || Uuid::from_u128(500),
                    Defects::NONE,
                )
                .expect("the disk works");
                assert!(records.is_empty());
                opened.lock().expect("no panic").push(log.epoch());
                std::future::pending::<()>().await;
            })
        });
        for _ in 0..3 {
            pass(&sim, 10 * MS).await;
            sim.power_off("machine");
            sim.start("machine");
        }
        pass(&sim, 10 * MS).await;
        assert_eq!(*epochs.lock().expect("no panic"), [1, 2, 3, 4].map(LeaderEpoch));
        let disk = Disk::Sim(sim.disk("machine"));
        let file = disk.open(&format!("metadata/{METADATA_TOPIC}-0/quorum-state")).expect("it was written");
        let expected = r#"{"clusterId":"","leaderId":3000,"leaderEpoch":4,"votedId":-1,"appliedOffset":0,"currentVoters":[{"voterId":3000}],"data_version":0}"#;
        assert_eq!(file.read_at(0, 1_000).expect("it can be read"), expected);
    });
}
