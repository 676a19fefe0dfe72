//! The machines of one run: a controller, the brokers, and short-lived administrative clients.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

use crate::broker::{Broker, BrokerOptions};
use crate::client::{Admin, AdminOutcome, AdminResult, ErrorName, HIGH_WATERMARK, NewTopic};
use crate::config::BrokerConfig;
use crate::controller::{Controller, ControllerConfig};
use crate::protocol::{BrokerId, ErrorCode, Offset, TopicPartition};
use crate::scenario::{Topic, Variant};
use crate::world::sim::Simulation;
use crate::world::{self, Endpoint, Event, HostPort, Process, Time, World};

use super::ghost::machine_of;
use super::recorder::Recorder;

pub const CONTROLLER: &str = "controller";
const CONTROLLER_ID: BrokerId = BrokerId(3000);
const CONTROLLER_PORT: u16 = 9093;
const BROKER_PORT: u16 = 9092;

/// Names and addresses of one run's machines, and how to start them.
#[derive(Clone)]
pub struct Cluster {
    pub sim: Simulation,
    pub recorder: Recorder,
    pub brokers: u32,
    /// The rack of each broker, in the order of their ids; empty: none.
    racks: Vec<String>,
    configs: Configs,
    admins: Rc<Cell<u32>>,
}

/// The configuration with which each server machine starts next, by its name.
#[derive(Clone)]
struct Configs {
    shared: BrokerConfig,
    own: Arc<Mutex<BTreeMap<String, BrokerConfig>>>,
}

impl Configs {
    fn of(&self, machine: &str) -> BrokerConfig {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.get(machine).unwrap_or(&self.shared).clone()
    }

    fn amend(&self, machine: &str, changes: &BTreeMap<String, String>) {
        let mut config = self.of(machine);
        for (key, value) in changes {
            config.set(key, value).expect("checked when the scenario was read");
        }
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(machine.to_owned(), config);
    }
}

impl Cluster {
    /// Adds the controller and the brokers; they boot at once.
    pub fn start(sim: Simulation, recorder: Recorder, variant: &Variant) -> Cluster {
        let config = variant.cluster.config.clone().with_defects(variant.cluster.defects);
        let configs = Configs { shared: config.clone(), own: Arc::default() };
        let observer = recorder.observer();
        let controller = ControllerConfig {
            node_id: CONTROLLER_ID,
            listen: HostPort::new(CONTROLLER, CONTROLLER_PORT),
            broker: config.clone(),
            log_dir: "data".to_owned(),
        };
        let (sink, latest) = (observer.clone(), configs.clone());
        sim.add_machine(CONTROLLER, true, move |world, net| {
            let (controller, sink) = (controller.clone(), sink.clone());
            let controller = ControllerConfig { broker: latest.of(CONTROLLER), ..controller };
            Box::pin(async move {
                if let Ok(process) = Controller::open(world, controller, sink) {
                    run(process, net).await;
                }
            })
        });
        for (i, id) in (1..=variant.cluster.brokers).enumerate() {
            let id = BrokerId(i32::try_from(id).expect("a scenario has few brokers"));
            let options = BrokerOptions {
                id,
                listen: HostPort::new(machine_of(id), BROKER_PORT),
                controller: HostPort::new(CONTROLLER, CONTROLLER_PORT),
                config: config.clone(),
                log_dirs: variant.cluster.log_dirs.clone(),
                rack: variant.cluster.rack_aware.then(|| variant.cluster.racks.get(i).cloned()).flatten(),
            };
            let (sink, latest) = (observer.clone(), configs.clone());
            sim.add_machine(&machine_of(id), true, move |world, net| {
                let (options, sink) = (options.clone(), sink.clone());
                let options = BrokerOptions { config: latest.of(&machine_of(id)), ..options };
                Box::pin(async move {
                    if let Ok(process) = Broker::open(world, options, sink) {
                        run(process, net).await;
                    }
                })
            });
        }
        let (brokers, racks) = (variant.cluster.brokers, variant.cluster.racks.clone());
        Cluster { sim, recorder, brokers, racks, configs, admins: Rc::default() }
    }

    /// Changes the configuration with which a server machine starts from now on.
    pub fn reconfigure(&self, machine: &str, changes: &BTreeMap<String, String>) {
        if !changes.is_empty() {
            self.configs.amend(machine, changes);
        }
    }

    /// The brokers of a rack.
    pub fn rack(&self, name: &str) -> Vec<String> {
        let brokers = self.broker_machines().into_iter().zip(&self.racks);
        brokers.filter(|(_, rack)| *rack == name).map(|(broker, _)| broker).collect()
    }

    pub fn bootstrap(&self) -> Vec<HostPort> {
        self.broker_machines().into_iter().map(|m| HostPort::new(m, BROKER_PORT)).collect()
    }

    pub fn broker_machines(&self) -> Vec<String> {
        (1..=self.brokers).map(|id| format!("broker-{id}")).collect()
    }

    /// Every machine that stores something.
    pub fn server_machines(&self) -> Vec<String> {
        let mut machines = self.broker_machines();
        machines.push(CONTROLLER.to_owned());
        machines
    }

    /// Sends one administrative request from a machine of its own; the result appears in `admin_done` under
    /// the machine's name, which is returned.
    pub fn administer(&self, request: AdminRequest) -> String {
        self.admins.set(self.admins.get() + 1);
        let name = format!("admin-{}", self.admins.get());
        let (bootstrap, recorder, machine) = (self.bootstrap(), self.recorder.clone(), name.clone());
        self.sim.add_machine(&name, false, move |world, net| {
            let (bootstrap, recorder, machine) = (bootstrap.clone(), recorder.clone(), machine.clone());
            let request = request.clone();
            Box::pin(async move {
                run(AdminProcess::new(world, bootstrap, request, recorder, machine), net).await;
            })
        });
        name
    }
}

pub async fn run(mut process: impl Process, mut net: Endpoint) {
    world::run(&mut process, &mut net).await;
}

/// What an administrative client is asked to do.
#[derive(Clone, Debug)]
pub enum AdminRequest {
    CreateTopics(Vec<Topic>),
    /// So many partitions for a topic.
    CreatePartitions(String, i32),
    ElectPreferred(Vec<TopicPartition>),
    /// What lies before the offset, or before the high watermark.
    DeleteRecords(Vec<TopicPartition>, Option<Offset>),
}

const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);

struct AdminProcess {
    admin: Admin,
    world: World,
    request: AdminRequest,
    recorder: Recorder,
    machine: String,
    give_up_at: Time,
    finished: bool,
}

impl AdminProcess {
    fn new(
        world: World,
        bootstrap: Vec<HostPort>,
        request: AdminRequest,
        recorder: Recorder,
        machine: String,
    ) -> AdminProcess {
        let give_up_at = world.now() + ADMIN_TIMEOUT;
        let admin = Admin::new(&world, &machine, bootstrap);
        AdminProcess { admin, world, request, recorder, machine, give_up_at, finished: false }
    }

    fn step(&mut self) {
        let overdue = self.world.now() >= self.give_up_at;
        let result = match self.admin.take_results().next() {
            Some(AdminResult { outcome: Ok(outcome), .. }) => judge(&outcome),
            Some(AdminResult { outcome: Err(error), .. }) => Err(error.to_string()),
            None if overdue => Err("no answer".to_owned()),
            None => return,
        };
        self.recorder.lock().admin_done.insert(self.machine.clone(), result);
        self.recorder.notify();
        self.finished = true;
    }
}

/// The first refusal among the answers, if there is one.
fn judge(outcome: &AdminOutcome) -> Result<(), String> {
    let refused = match outcome {
        AdminOutcome::TopicsCreated(topics) => {
            // A request that is sent again finds what its first attempt has created.
            first_refused(topics, ErrorCode::TopicAlreadyExists)
        }
        // The same: it has as many partitions already.
        AdminOutcome::PartitionsCreated(topics) => first_refused(topics, ErrorCode::InvalidPartitions),
        AdminOutcome::LeadersElected(partitions) => {
            // Where the preferred replica leads there is nothing to do: for some it is no refusal, for all of them it is.
            let errors = || partitions.iter().filter_map(|(partition, error)| error.map(|e| (partition, e)));
            let mut refused = errors().filter(|(_, e)| *e != ErrorCode::ElectionNotNeeded);
            let none_needed = || errors().next().filter(|_| errors().count() == partitions.len());
            let refused = refused.next().or_else(none_needed);
            refused.map(|(partition, e)| format!("{partition}: {}", ErrorName(e)))
        }
        AdminOutcome::RecordsDeleted(partitions) => partitions
            .iter()
            .find_map(|(partition, result)| result.err().map(|e| format!("{partition}: {}", ErrorName(e)))),
        AdminOutcome::Described(_) | AdminOutcome::TopicsDeleted(_) | AdminOutcome::ConfigsDescribed(_) => None,
    };
    refused.map_or(Ok(()), Err)
}

/// The first topic with another error than `done`, which says that there is nothing left to do.
fn first_refused(topics: &[(TopicName, Option<ErrorCode>)], done: ErrorCode) -> Option<String> {
    topics.iter().find_map(|(topic, error)| {
        error.filter(|e| *e != done).map(|e| format!("{}: {}", topic.0.as_str(), ErrorName(e)))
    })
}

impl Process for AdminProcess {
    fn start(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        match &self.request {
            AdminRequest::CreateTopics(topics) => {
                let topics: Vec<NewTopic> = topics.iter().map(new_topic).collect();
                self.admin.create_topics(now, &topics, net);
            }
            AdminRequest::CreatePartitions(topic, count) => {
                let name = TopicName(StrBytes::from_string(topic.clone()));
                self.admin.create_partitions(now, &BTreeMap::from([(name, *count)]), net);
            }
            AdminRequest::ElectPreferred(partitions) => {
                self.admin.elect_leaders(now, false, Some(partitions), net);
            }
            AdminRequest::DeleteRecords(partitions, before) => {
                let before = before.unwrap_or(HIGH_WATERMARK);
                let offsets = partitions.iter().map(|partition| (partition.clone(), before)).collect();
                self.admin.delete_records(now, offsets, net);
            }
        }
        self.step();
    }

    fn on_event(&mut self, event: Event, net: &mut Endpoint) {
        self.admin.on_event(&event, net);
        self.step();
    }

    fn on_timer(&mut self, net: &mut Endpoint) {
        self.admin.on_timer(net);
        self.step();
    }

    fn deadline(&self) -> Option<Time> {
        self.admin.deadline().into_iter().chain([self.give_up_at]).min()
    }

    fn is_finished(&self) -> bool {
        self.finished
    }
}

fn new_topic(topic: &Topic) -> NewTopic {
    NewTopic {
        name: topic.name.clone(),
        partitions: topic.partitions,
        replication_factor: topic.replication_factor,
        configs: topic.config.clone(),
    }
}
