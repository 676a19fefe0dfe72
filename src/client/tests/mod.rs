//! The clients against brokers scripted by hand, in the simulated world: what a broker answers, when, or that it
//! does not, is part of the test.

mod admin;
mod consumer;
mod follower_fetching;
mod groups;
mod idempotence;
mod producer;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use uuid::Uuid;

use crate::protocol::wire::{RequestFrame, encode_response};
use crate::world::sim::{SimConfig, Simulation};
use crate::world::{self, ConnId, Endpoint, Event, HostPort, Process, Time, World};

const PORT: u16 = 9092;
/// A test that needs longer than this, in simulated time, hangs.
const TEST_TIME_MAX: Duration = Duration::from_secs(600);

/// What a scripted broker does with a request.
enum Answer {
    Now(Bytes),
    After(Duration, Bytes),
    Never,
    Disconnect,
}

fn answer<R: Request>(request: &RequestFrame, body: &R::Response) -> Answer {
    Answer::Now(encode_response::<R>(body, request.api_version, request.correlation_id))
}

/// What the brokers' metadata says. `topics`: name and per partition (leader, leader epoch).
#[derive(Clone, Default)]
struct Cluster {
    brokers: Vec<i32>,
    topics: Vec<(&'static str, Vec<(i32, i32)>)>,
}

impl Cluster {
    fn new(brokers: &[i32], topics: &[(&'static str, &[(i32, i32)])]) -> Shared<Cluster> {
        let topics = topics.iter().map(|(name, partitions)| (*name, partitions.to_vec())).collect();
        shared(Cluster { brokers: brokers.to_vec(), topics })
    }

    fn describe(&self, request: &MetadataRequest) -> MetadataResponse {
        let broker = |&id: &i32| {
            MetadataResponseBroker::default()
                .with_node_id(id.into())
                .with_host(StrBytes::from_string(machine(id)))
                .with_port(i32::from(PORT))
        };
        let asked = request.topics.iter().flatten().filter_map(|t| t.name.clone());
        MetadataResponse::default()
            .with_brokers(self.brokers.iter().map(broker).collect())
            .with_topics(asked.map(|name| self.describe_topic(name)).collect())
    }

    fn describe_topic(&self, name: TopicName) -> MetadataResponseTopic {
        let described = MetadataResponseTopic::default().with_name(Some(name.clone()));
        let Some(index) = self.topics.iter().position(|(n, _)| *n == name.0.as_str()) else {
            return described.with_error_code(3);
        };
        let partition = |(index, &(leader, epoch)): (usize, &(i32, i32))| {
            MetadataResponsePartition::default()
                .with_partition_index(index as i32)
                .with_leader_id(leader.into())
                .with_leader_epoch(epoch)
                .with_replica_nodes(self.brokers.iter().map(|&id| id.into()).collect())
        };
        described
            .with_topic_id(topic_id(index))
            .with_partitions(self.topics[index].1.iter().enumerate().map(partition).collect())
    }
}

fn topic_id(index: usize) -> Uuid {
    Uuid::from_u128(1_000 + index as u128)
}

type Shared<T> = Arc<Mutex<T>>;

fn shared<T>(value: T) -> Shared<T> {
    Arc::new(Mutex::new(value))
}

fn machine(broker: i32) -> String {
    format!("broker-{broker}")
}

fn address(broker: i32) -> HostPort {
    HostPort::new(machine(broker), PORT)
}

/// What the brokers do with requests other than ApiVersions and Metadata: (broker, request, now).
type Script = Shared<dyn FnMut(i32, &RequestFrame, Time) -> Answer + Send>;

struct ScriptedBroker {
    id: i32,
    world: World,
    cluster: Shared<Cluster>,
    script: Script,
    delayed: VecDeque<(Time, ConnId, Bytes)>,
}

impl ScriptedBroker {
    fn answer(&mut self, request: &RequestFrame) -> Answer {
        match ApiKey::try_from(request.api_key).expect("decoded already") {
            ApiKey::ApiVersions => {
                let served = |key: ApiKey| {
                    let range = key.valid_versions();
                    ApiVersion::default()
                        .with_api_key(key as i16)
                        .with_min_version(range.min)
                        .with_max_version(range.max)
                };
                let body = ApiVersionsResponse::default().with_api_keys(ApiKey::iter().map(served).collect());
                answer::<ApiVersionsRequest>(request, &body)
            }
            ApiKey::Metadata => {
                let asked = request.body::<MetadataRequest>().expect("a valid request");
                let body = self.cluster.lock().expect("not poisoned").describe(&asked);
                answer::<MetadataRequest>(request, &body)
            }
            _ => (self.script.lock().expect("not poisoned"))(self.id, request, self.world.now()),
        }
    }
}

impl Process for ScriptedBroker {
    fn start(&mut self, _net: &mut Endpoint) {}

    fn on_event(&mut self, event: Event, net: &mut Endpoint) {
        let Event::Frame(conn, frame) = event else { return };
        let request = RequestFrame::decode(frame.into_bytes()).expect("clients send valid frames");
        match self.answer(&request) {
            Answer::Now(frame) => net.send(conn, frame),
            Answer::After(delay, frame) => {
                let at = self.world.now() + delay;
                let index = self.delayed.partition_point(|(t, ..)| *t <= at);
                self.delayed.insert(index, (at, conn, frame));
            }
            Answer::Never => {}
            Answer::Disconnect => net.close(conn),
        }
    }

    fn on_timer(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        while self.delayed.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, conn, frame) = self.delayed.pop_front().expect("seen above");
            net.send(conn, frame);
        }
    }

    fn deadline(&self) -> Option<Time> {
        self.delayed.front().map(|(at, ..)| *at)
    }
}

type TestFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// Runs `client` on a machine of its own against the scripted brokers of `cluster`; returns what it returns.
fn simulate<T: Send + 'static>(
    cluster: &Shared<Cluster>,
    script: impl FnMut(i32, &RequestFrame, Time) -> Answer + Send + 'static,
    client: impl Fn(World, Endpoint) -> TestFuture<T> + Send + Sync + 'static,
) -> T {
    let cluster = cluster.clone();
    let simulation = move || {
        Simulation::block_on(1, SimConfig::default(), |sim| async move {
            let script: Script = Arc::new(Mutex::new(script));
            let brokers = cluster.lock().expect("not poisoned").brokers.clone();
            for id in brokers {
                let (cluster, script) = (cluster.clone(), script.clone());
                sim.add_machine(&machine(id), true, move |world, mut net| {
                    let (cluster, script) = (cluster.clone(), script.clone());
                    let mut broker = ScriptedBroker { id, world, cluster, script, delayed: VecDeque::new() };
                    Box::pin(async move { world::run(&mut broker, &mut net).await })
                });
            }
            let result = shared(None);
            let (client, of_client) = (Arc::new(client), result.clone());
            sim.add_machine("client", false, move |world, net| {
                let (client, result) = (client.clone(), of_client.clone());
                Box::pin(async move {
                    let value = client(world, net).await;
                    *result.lock().expect("not poisoned") = Some(value);
                })
            });
            let mut now = sim.now();
            let end = now + TEST_TIME_MAX;
            while result.lock().expect("not poisoned").is_none() {
                assert!(now < end, "the client did not finish");
                now += Duration::from_millis(10);
                sim.sleep_until(now).await;
            }
            result.lock().expect("not poisoned").take().expect("seen above")
        })
    };
    // madsim seeds std's hashing once per thread.
    let thread = std::thread::spawn(simulation);
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
