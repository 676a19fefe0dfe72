//! `faultline topics`: create, list, describe, alter and delete topics of a running cluster, as `kafka-topics` does.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use kafka_protocol::messages::{MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use serde_json::{Value, json};

use super::serve::host_port;
use super::{Exit, HumanOrJson, complain, print};
use crate::client::{Admin, AdminOutcome, ClientError, ErrorName, NewTopic};
use crate::protocol::ErrorCode;
use crate::world::real::{RealEndpoint, RealWorld};
use crate::world::{self, Endpoint, Event, HostPort, Process, Time, World};

/// Kafka's `DescribeConfigsResponse.ConfigSource` of what is nobody's but the default's.
const DEFAULT_CONFIG: i8 = 5;

/// Create, list, describe, alter or delete topics of a running cluster, as kafka-topics does.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  faultline topics create --bootstrap-server localhost:9092 --replication-factor 1 --partitions 1 --topic test-topic
  faultline topics create --bootstrap-server localhost:9092 --topic log --config cleanup.policy=compact
  faultline topics list --bootstrap-server localhost:9092
  faultline topics describe --bootstrap-server localhost:9092 --topic test-topic --format json
  faultline topics alter --bootstrap-server localhost:9092 --topic test-topic --partitions 4
  faultline topics delete --bootstrap-server localhost:9092 --topic test-topic

Exit codes:
  0  done
  1  the cluster refused
  2  wrong usage
  3  no broker answered")]
pub struct TopicsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Create a topic.
    Create {
        #[command(flatten)]
        to: Connection,
        /// Its name.
        #[arg(long)]
        topic: String,
        /// Number of partitions [default: the cluster's num.partitions]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// Replicas of each partition [default: the cluster's default.replication.factor]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
        replication_factor: Option<i16>,
        /// A property of the topic, such as retention.ms=60000; may be given several times.
        #[arg(long, value_name = "KEY=VALUE", value_parser = property)]
        config: Vec<(String, String)>,
        /// A topic of this name is no error.
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Print the names of all topics.
    List {
        #[command(flatten)]
        to: Connection,
        /// Without the topics that brokers keep for themselves.
        #[arg(long)]
        exclude_internal: bool,
    },
    /// Print partitions, leaders, replicas and properties.
    Describe {
        #[command(flatten)]
        to: Connection,
        /// One topic [default: all]
        #[arg(long)]
        topic: Option<String>,
        /// Without the topics that brokers keep for themselves.
        #[arg(long)]
        exclude_internal: bool,
        /// Only partitions with fewer in-sync replicas than replicas.
        #[arg(long)]
        under_replicated_partitions: bool,
        /// Only partitions without a leader.
        #[arg(long)]
        unavailable_partitions: bool,
    },
    /// Give a topic more partitions.
    Alter {
        #[command(flatten)]
        to: Connection,
        /// Its name.
        #[arg(long)]
        topic: String,
        /// How many it shall have in all.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        partitions: i32,
        /// That there is no such topic is no error.
        #[arg(long)]
        if_exists: bool,
    },
    /// Delete a topic and what it holds.
    Delete {
        #[command(flatten)]
        to: Connection,
        /// Its name.
        #[arg(long)]
        topic: String,
        /// That there is no such topic is no error.
        #[arg(long)]
        if_exists: bool,
    },
}

#[derive(Args, Clone, Debug)]
struct Connection {
    /// A broker of the cluster.
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    bootstrap_server: HostPort,
    /// How long to wait for the cluster's answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// What to print on stdout.
    #[arg(long, value_enum, default_value_t = HumanOrJson::Human)]
    format: HumanOrJson,
}

fn property(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("expected KEY=VALUE, for example retention.ms=60000, not `{text}`");
    let (key, value) = text.split_once('=').ok_or_else(wrong)?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// Does one thing to the topics of a cluster. What the cluster refuses is said on stderr.
pub fn topics(args: &TopicsArgs) -> anyhow::Result<Exit> {
    let result = match args.verb.clone() {
        Verb::Create { to, topic, partitions, replication_factor, config, if_not_exists } => {
            let topic = NewTopic {
                name: topic,
                // Kafka's "as the broker says".
                partitions: partitions.unwrap_or(-1),
                replication_factor: replication_factor.unwrap_or(-1),
                configs: config.into_iter().collect(),
            };
            create(&to, &topic, if_not_exists)
        }
        Verb::List { to, exclude_internal } => list(&to, exclude_internal),
        Verb::Describe { to, topic, exclude_internal, under_replicated_partitions, unavailable_partitions } => {
            let only = Only { under_replicated: under_replicated_partitions, unavailable: unavailable_partitions };
            describe(&to, topic.as_deref(), exclude_internal, only)
        }
        Verb::Alter { to, topic, partitions, if_exists } => alter(&to, &topic, partitions, if_exists),
        Verb::Delete { to, topic, if_exists } => delete(&to, &topic, if_exists),
    };
    match result {
        Ok(()) => Ok(Exit::AsExpected),
        Err(Trouble::Refused(message)) => {
            complain(&message);
            Ok(Exit::Unexpected)
        }
        Err(Trouble::Silent(message)) => {
            complain(&message);
            Ok(Exit::Broken)
        }
        Err(Trouble::Other(error)) => Err(error),
    }
}

/// Why there is no result.
enum Trouble {
    Refused(String),
    /// No broker answered in time.
    Silent(String),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Trouble {
        Trouble::Other(error)
    }
}

fn name_of(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn create(to: &Connection, topic: &NewTopic, if_not_exists: bool) -> Result<(), Trouble> {
    let wanted = topic.clone();
    let outcome = ask(to, move |admin, now, net| {
        admin.create_topics(now, std::slice::from_ref(&wanted), net);
    })?;
    let AdminOutcome::TopicsCreated(created) = outcome else { return Err(unexpected(&outcome)) };
    let error = created.into_iter().find_map(|(_, error)| error);
    match error {
        Some(ErrorCode::TopicAlreadyExists) if if_not_exists => Ok(()),
        Some(error) => Err(refused(&format!("topic `{}` was not created", topic.name), error)),
        None => done(to, "created", &topic.name, &format!("Created topic {}.\n", topic.name)),
    }
}

fn alter(to: &Connection, topic: &str, partitions: i32, if_exists: bool) -> Result<(), Trouble> {
    let wanted = BTreeMap::from([(name_of(topic), partitions)]);
    let outcome = ask(to, move |admin, now, net| {
        admin.create_partitions(now, &wanted, net);
    })?;
    let AdminOutcome::PartitionsCreated(altered) = outcome else { return Err(unexpected(&outcome)) };
    match altered.into_iter().find_map(|(_, error)| error) {
        Some(ErrorCode::UnknownTopicOrPartition) if if_exists => Ok(()),
        Some(ErrorCode::InvalidPartitions) => {
            let why =
                format!("topic `{topic}` has {partitions} partitions or more already, and none can be taken away");
            Err(refused(&why, ErrorCode::InvalidPartitions))
        }
        Some(error) => Err(refused(&format!("topic `{topic}` was not altered"), error)),
        None => done(to, "altered", topic, &format!("Topic {topic} has {partitions} partitions.\n")),
    }
}

fn delete(to: &Connection, topic: &str, if_exists: bool) -> Result<(), Trouble> {
    let wanted = [name_of(topic)];
    let outcome = ask(to, move |admin, now, net| {
        admin.delete_topics(now, &wanted, net);
    })?;
    let AdminOutcome::TopicsDeleted(deleted) = outcome else { return Err(unexpected(&outcome)) };
    match deleted.into_iter().find_map(|(_, error)| error) {
        Some(ErrorCode::UnknownTopicOrPartition) if if_exists => Ok(()),
        Some(error) => Err(refused(&format!("topic `{topic}` was not deleted"), error)),
        None => done(to, "deleted", topic, &format!("Deleted topic {topic}.\n")),
    }
}

fn done(to: &Connection, what: &str, topic: &str, human: &str) -> Result<(), Trouble> {
    let text = match to.format {
        HumanOrJson::Human => human.to_owned(),
        HumanOrJson::Json => format!("{}\n", json!({ what: topic })),
    };
    print(&text).context("stdout").map_err(Trouble::Other)
}

fn list(to: &Connection, exclude_internal: bool) -> Result<(), Trouble> {
    let metadata = metadata(to, None)?;
    let mut names: Vec<&str> = metadata
        .topics
        .iter()
        .filter(|topic| !(exclude_internal && topic.is_internal))
        .filter_map(|topic| topic.name.as_ref().map(|name| name.as_str()))
        .collect();
    names.sort_unstable();
    let text = match to.format {
        HumanOrJson::Human => names.iter().map(|name| format!("{name}\n")).collect(),
        HumanOrJson::Json => format!("{}\n", json!({ "topics": names })),
    };
    print(&text).context("stdout").map_err(Trouble::Other)
}

/// Which partitions are wanted.
#[derive(Clone, Copy)]
struct Only {
    under_replicated: bool,
    unavailable: bool,
}

impl Only {
    fn is_everything(self) -> bool {
        !self.under_replicated && !self.unavailable
    }

    fn wants(self, partition: &Value) -> bool {
        let length = |key: &str| partition[key].as_array().map_or(0, Vec::len);
        self.is_everything()
            || self.under_replicated && length("isr") < length("replicas")
            || self.unavailable && partition["leader"].is_null()
    }
}

fn describe(to: &Connection, topic: Option<&str>, exclude_internal: bool, only: Only) -> Result<(), Trouble> {
    let mut metadata = metadata(to, topic.map(name_of))?;
    if let Some(topic) = topic
        && metadata.topics.iter().any(|found| found.error_code == ErrorCode::UnknownTopicOrPartition.code())
    {
        return Err(Trouble::Refused(format!("topic `{topic}` does not exist")));
    }
    metadata.topics.retain(|topic| !(exclude_internal && topic.is_internal));
    metadata.topics.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<TopicName> = metadata.topics.iter().filter_map(|topic| topic.name.clone()).collect();
    let configs = if names.is_empty() { BTreeMap::new() } else { configs(to, names)? };
    let topics: Vec<Value> = metadata.topics.iter().map(|topic| described(topic, &configs, only)).collect();
    let text = match to.format {
        HumanOrJson::Human => topics.iter().map(|topic| human(topic, only)).collect(),
        HumanOrJson::Json => format!("{}\n", json!({ "topics": topics })),
    };
    print(&text).context("stdout").map_err(Trouble::Other)
}

fn described(
    topic: &kafka_protocol::messages::metadata_response::MetadataResponseTopic,
    configs: &BTreeMap<String, BTreeMap<String, String>>,
    only: Only,
) -> Value {
    let ids = |ids: &[kafka_protocol::messages::BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<i32>>();
    let mut partitions: Vec<_> = topic.partitions.iter().collect();
    partitions.sort_by_key(|partition| partition.partition_index);
    let partitions = partitions.into_iter().map(|partition| {
        let leader = Some(partition.leader_id.0).filter(|leader| *leader >= 0);
        json!({
            "partition": partition.partition_index,
            "leader": leader,
            "leader-epoch": partition.leader_epoch,
            "replicas": ids(&partition.replica_nodes),
            "isr": ids(&partition.isr_nodes),
        })
    });
    let name = topic.name.as_ref().map_or("", |name| name.as_str());
    json!({
        "topic": name,
        "topic-id": crate::log::uuid_text::encode(topic.topic_id),
        "internal": topic.is_internal,
        "partition-count": topic.partitions.len(),
        "replication-factor": topic.partitions.first().map_or(0, |partition| partition.replica_nodes.len()),
        "configs": configs.get(name),
        "partitions": partitions.filter(|partition| only.wants(partition)).collect::<Vec<_>>(),
    })
}

/// As kafka-topics prints it.
fn human(topic: &Value, only: Only) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| {
        let items = value.as_array().into_iter().flatten();
        items.map(Value::to_string).collect::<Vec<_>>().join(",")
    };
    let mut out = String::new();
    let name = text(&topic["topic"]);
    if only.is_everything() {
        let configs = topic["configs"].as_object().into_iter().flatten();
        let configs: Vec<String> = configs.map(|(key, value)| format!("{key}={}", text(value))).collect();
        out += &format!(
            "Topic: {name}\tTopicId: {}\tPartitionCount: {}\tReplicationFactor: {}\tConfigs: {}\n",
            text(&topic["topic-id"]),
            topic["partition-count"],
            topic["replication-factor"],
            configs.join(",")
        );
    }
    for partition in topic["partitions"].as_array().into_iter().flatten() {
        let leader = partition["leader"].as_i64().map_or_else(|| "none".to_owned(), |leader| leader.to_string());
        out += &format!(
            "\tTopic: {name}\tPartition: {}\tLeader: {leader}\tReplicas: {}\tIsr: {}\tElr: N/A\tLastKnownElr: N/A\n",
            partition["partition"],
            list(&partition["replicas"]),
            list(&partition["isr"])
        );
    }
    out
}

fn metadata(to: &Connection, topic: Option<TopicName>) -> Result<MetadataResponse, Trouble> {
    let outcome = ask(to, move |admin, now, net| {
        admin.describe(now, topic.as_ref().map(std::slice::from_ref), net);
    })?;
    match outcome {
        AdminOutcome::Described(metadata) => Ok(metadata),
        other => Err(unexpected(&other)),
    }
}

/// What is set of each topic's properties, by the topic or by the broker.
fn configs(to: &Connection, topics: Vec<TopicName>) -> Result<BTreeMap<String, BTreeMap<String, String>>, Trouble> {
    let outcome = ask(to, move |admin, now, net| {
        admin.describe_configs(now, &topics, net);
    })?;
    let AdminOutcome::ConfigsDescribed(response) = outcome else { return Err(unexpected(&outcome)) };
    let mut by_topic = BTreeMap::new();
    for result in response.results {
        let set = result.configs.into_iter().filter(|config| config.config_source != DEFAULT_CONFIG);
        let set = set.map(|config| (config.name.to_string(), config.value.unwrap_or_default().to_string()));
        by_topic.insert(result.resource_name.to_string(), set.collect());
    }
    Ok(by_topic)
}

fn refused(what: &str, error: ErrorCode) -> Trouble {
    Trouble::Refused(format!("{what}: {}", ErrorName(error)))
}

fn unexpected(outcome: &AdminOutcome) -> Trouble {
    Trouble::Other(anyhow::anyhow!("an answer to another question: {outcome:?}"))
}

/// A process that makes one call and ends.
struct OneCall<F> {
    admin: Admin,
    call: Option<F>,
    world: World,
    give_up_at: Time,
    outcome: Option<Result<AdminOutcome, ClientError>>,
}

impl<F: FnOnce(&mut Admin, Time, &mut Endpoint)> OneCall<F> {
    fn look(&mut self) {
        if let Some(result) = self.admin.take_results().next() {
            self.outcome = Some(result.outcome);
        } else if self.world.now() >= self.give_up_at {
            self.outcome = Some(Err(ClientError::Timeout));
        }
    }
}

impl<F: FnOnce(&mut Admin, Time, &mut Endpoint)> Process for OneCall<F> {
    fn start(&mut self, net: &mut Endpoint) {
        let call = self.call.take().expect("a process starts once");
        call(&mut self.admin, self.world.now(), net);
    }

    fn on_event(&mut self, event: Event, net: &mut Endpoint) {
        self.admin.on_event(&event, net);
        self.look();
    }

    fn on_timer(&mut self, net: &mut Endpoint) {
        self.admin.on_timer(net);
        self.look();
    }

    fn deadline(&self) -> Option<Time> {
        self.admin.deadline().into_iter().chain([self.give_up_at]).min()
    }

    fn is_finished(&self) -> bool {
        self.outcome.is_some()
    }
}

/// Makes one call of the admin client.
fn ask(to: &Connection, call: impl FnOnce(&mut Admin, Time, &mut Endpoint)) -> Result<AdminOutcome, Trouble> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime does not start")?;
    let outcome = runtime.block_on(async {
        // Nothing is written; a world has a disk.
        let world = World::Real(RealWorld::new(std::env::temp_dir()).context("the temporary directory")?);
        let net = RealEndpoint::bind(None).await.context("the network")?;
        let admin = Admin::new(&world, "faultline-topics", vec![to.bootstrap_server.clone()]);
        let give_up_at = world.now() + Duration::from_secs(to.timeout);
        let mut process = OneCall { admin, call: Some(call), world, give_up_at, outcome: None };
        world::run(&mut process, &mut Endpoint::Real(net)).await;
        let Some(outcome) = process.outcome else { bail!("the process ended without an outcome") };
        Ok(outcome)
    })?;
    match outcome {
        Ok(outcome) => Ok(outcome),
        Err(ClientError::Timeout) => {
            let HostPort { host, port } = &to.bootstrap_server;
            Err(Trouble::Silent(format!(
                "no answer from {host}:{port} within {} s: is a broker running there?",
                to.timeout
            )))
        }
        Err(error) => Err(Trouble::Refused(format!("the cluster refused: {error}"))),
    }
}
