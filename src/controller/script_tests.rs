//! Golden scripts for the decision functions, in `testdata/*.txt`: a command, `----`, all that follows from it. Each
//! opens with the claim it shows. `FAULTLINE_BLESS=1` rewrites the outputs; commit them only when understood.
//!
//! Records are replayed at once. Time stands still but for `advance`, which fences whom it must, and
//! `advance-unnoticed`, which leaves that for later.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use kafka_protocol::messages::broker_registration_request::Listener;
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AlterPartitionRequest, AssignReplicasToDirsRequest, BrokerHeartbeatRequest,
    BrokerId as WireBrokerId, BrokerRegistrationRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteTopicsRequest, ElectLeadersRequest, TopicName, assign_replicas_to_dirs_request,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::heartbeats::BrokerControlState;
use super::state::ControllerState;
use super::{cluster, partitions, producer_ids, replication, topics};
use crate::config::BrokerConfig;
use crate::metadata::{ImageChanges, MetadataRecord};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, Offset, TopicPartition};
use crate::world::Time;

#[test]
fn scripts_have_their_golden_output() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/controller/testdata");
    let mut paths: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let expected = std::fs::read_to_string(&path).unwrap();
        let actual = Script::run(&expected);
        if std::env::var_os("FAULTLINE_BLESS").is_some() {
            std::fs::write(&path, actual).unwrap();
        } else {
            let differs = actual.lines().zip(expected.lines()).position(|(a, e)| a != e);
            assert!(actual == expected, "{}:{} differs; now:\n{actual}", path.display(), differs.map_or(0, |i| i + 1));
        }
    }
}

/// The first byte of each id; 0 for one that is reserved.
fn bytes_of(ids: &[Uuid]) -> Vec<u8> {
    ids.iter().map(|id| id.as_bytes()[0]).collect()
}

/// Arguments of a command: words, and `name=value` pairs.
struct Args<'a> {
    words: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Args<'a> {
    fn parse(line: &'a str) -> Args<'a> {
        let (named, words): (Vec<&str>, Vec<&str>) = line.split_whitespace().partition(|w| w.contains('='));
        Args { words, named: named.into_iter().map(|w| w.split_once('=').unwrap()).collect() }
    }

    fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.named.get(name).map(|v| v.parse().ok().unwrap_or_else(|| panic!("{name}={v}")))
    }

    /// Directory ids, by one byte each.
    fn directories(&self, name: &str) -> Option<Vec<Uuid>> {
        let list = self.named.get(name)?;
        Some(list.split(',').map(|id| Uuid::from_bytes([id.parse().unwrap(); 16])).collect())
    }

    fn broker(&self) -> i32 {
        self.words[1].parse().unwrap()
    }
}

struct Script {
    state: ControllerState,
    now: Time,
    next_offset: Offset,
    topics_created: u8,
    out: String,
}

impl Script {
    fn run(text: &str) -> String {
        let mut script = Script {
            state: ControllerState::new(BrokerConfig::default()),
            now: Time::ZERO,
            next_offset: Offset::ZERO,
            topics_created: 0,
            out: String::new(),
        };
        let mut in_output = false;
        for line in text.lines() {
            if line.is_empty() {
                in_output = false;
                script.out.push('\n');
            } else if line.starts_with('#') {
                writeln!(script.out, "{line}").unwrap();
            } else if line == "----" {
                in_output = true;
            } else if !in_output {
                writeln!(script.out, "{line}\n----").unwrap();
                script.execute(&Args::parse(line));
            }
        }
        script.out
    }

    fn execute(&mut self, args: &Args) {
        match args.words.first().copied() {
            Some("unclean-leader-election") => self.state.config.unclean_leader_election_enable = true,
            Some("register") => self.register(args),
            Some("heartbeat") => self.heartbeat(args),
            Some("assign") => self.assign(args),
            Some("advance") => self.advance(args),
            Some("advance-unnoticed") => self.now += Duration::from_millis(args.words[1].parse().unwrap()),
            Some("controller-restart") => self.state.activate(self.now),
            Some("create") => self.create(args),
            Some("grow") => self.grow(args),
            Some("delete") => self.delete(args),
            Some("alter-partition") => self.alter_partition(args),
            Some("elect") => self.elect(args),
            Some("balance") => self.apply(replication::maybe_balance_partition_leaders(&self.state)),
            Some("elect-unclean") => self.apply(replication::maybe_elect_unclean_leaders(&self.state)),
            Some("allocate-producer-ids") => self.allocate_producer_ids(args),
            Some("show") => self.show(),
            command => panic!("unknown command {command:?}"),
        }
    }

    fn say(&mut self, line: impl std::fmt::Display) {
        writeln!(self.out, "{line}").unwrap();
    }

    fn apply(&mut self, records: Vec<MetadataRecord>) {
        for record in records {
            let line = self.describe(&record);
            let offset = self.next_offset;
            self.state.replay(self.now, offset, LeaderEpoch(1), &record, &mut ImageChanges::default());
            self.next_offset = offset + 1;
            self.say(format_args!("  {offset}: {line}"));
        }
    }

    fn describe(&self, record: &MetadataRecord) -> String {
        match record {
            MetadataRecord::RegisterBroker { broker, broker_epoch, fenced, in_controlled_shutdown, .. } => format!(
                "RegisterBroker {broker} epoch {broker_epoch}{}{}",
                if *fenced { " fenced" } else { "" },
                if *in_controlled_shutdown { " in controlled shutdown" } else { "" }
            ),
            MetadataRecord::BrokerRegistrationChange { broker, fenced, in_controlled_shutdown, log_dirs, .. } => {
                let mut line = format!("BrokerRegistrationChange {broker}");
                line += fenced.map_or("", |fenced| if fenced { " fenced" } else { " unfenced" });
                line += in_controlled_shutdown.map_or("", |_| " in controlled shutdown");
                line += &log_dirs.as_ref().map_or(String::new(), |dirs| format!(" directories {:?}", bytes_of(dirs)));
                line
            }
            MetadataRecord::Partition { partition, replicas, isr, leader, .. } => {
                format!("Partition {partition} replicas {replicas:?} isr {isr:?} leader {leader}")
            }
            MetadataRecord::PartitionChange {
                topic_id,
                partition,
                isr,
                leader,
                leader_recovering,
                directories,
                ..
            } => {
                let mut line = format!("PartitionChange {}-{partition}", self.state.image.topics[topic_id].name);
                line += &isr.as_ref().map_or(String::new(), |isr| format!(" isr {isr:?}"));
                line += &leader.map_or(String::new(), |leader| format!(" leader {leader}"));
                line += leader_recovering.map_or("", |r| if r { " recovering" } else { " recovered" });
                line +=
                    &directories.as_ref().map_or(String::new(), |dirs| format!(" directories {:?}", bytes_of(dirs)));
                line
            }
            MetadataRecord::Topic { name, .. } => format!("Topic {name}"),
            MetadataRecord::RemoveTopic { id } => format!("RemoveTopic {}", self.state.image.topics[id].name),
            MetadataRecord::Config { resource_name, name, value, .. } => {
                format!("Config {resource_name} {name}={}", value.as_deref().unwrap_or("null"))
            }
            MetadataRecord::UnregisterBroker { broker, .. } => format!("UnregisterBroker {broker}"),
            MetadataRecord::ProducerIds { broker, next_producer_id, .. } => {
                format!("ProducerIds {broker} next {next_producer_id}")
            }
            MetadataRecord::NoOp | MetadataRecord::FeatureLevel { .. } => format!("{record:?}"),
        }
    }

    fn register(&mut self, args: &Args) {
        let broker = args.broker();
        let incarnation = args.number::<u8>("incarnation").unwrap_or(broker as u8);
        let directory = args.number::<u8>("dir").unwrap_or(100 + broker as u8);
        let listener = Listener::default().with_host(StrBytes::from_string(format!("broker-{broker}"))).with_port(9092);
        let request = BrokerRegistrationRequest::default()
            .with_broker_id(WireBrokerId(broker))
            .with_incarnation_id(Uuid::from_bytes([incarnation; 16]))
            .with_log_dirs(args.directories("dirs").unwrap_or_else(|| vec![Uuid::from_bytes([directory; 16])]))
            .with_listeners(vec![listener]);
        match cluster::register_broker(&mut self.state, self.now, self.next_offset, &request) {
            Ok(decision) => {
                self.say(format_args!("epoch {}", decision.response.broker_epoch));
                self.apply(decision.records);
            }
            Err(e) => self.say(format_args!("{e:?}")),
        }
    }

    fn heartbeat(&mut self, args: &Args) {
        let broker = BrokerId(args.broker());
        let epoch = self.state.image.brokers.get(&broker).map_or(-1, |b| b.epoch.0);
        let request = BrokerHeartbeatRequest::default()
            .with_broker_id(WireBrokerId(broker.0))
            .with_broker_epoch(args.number("epoch").unwrap_or(epoch))
            .with_current_metadata_offset(args.number("offset").unwrap_or(self.next_offset.0 - 1))
            .with_want_fence(args.has("want-fence"))
            .with_want_shut_down(args.has("want-shut-down"))
            .with_offline_log_dirs(args.directories("offline").unwrap_or_default());
        match replication::process_broker_heartbeat(&mut self.state, self.now, &request) {
            Ok(decision) => {
                let answer = decision.response;
                self.say(format_args!(
                    "{:?}{}{}{}",
                    answer.next,
                    if answer.response.is_caught_up { ", caught up" } else { "" },
                    if answer.response.is_fenced { ", is fenced" } else { "" },
                    if answer.response.should_shut_down { ", should shut down" } else { "" }
                ));
                self.apply(decision.records);
                if answer.next == BrokerControlState::ControlledShutdown {
                    let last_offset = self.next_offset + -1;
                    self.state.heartbeats.maybe_update_controlled_shutdown_offset(broker, last_offset);
                }
            }
            Err(e) => self.say(format_args!("{e:?}")),
        }
    }

    fn allocate_producer_ids(&mut self, args: &Args) {
        let broker = args.broker();
        let epoch = self.state.image.brokers.get(&BrokerId(broker)).map_or(-1, |b| b.epoch.0);
        let request = AllocateProducerIdsRequest::default()
            .with_broker_id(WireBrokerId(broker))
            .with_broker_epoch(args.number("epoch").unwrap_or(epoch));
        match producer_ids::allocate_producer_ids(&self.state, &request) {
            Ok(decision) => {
                let (start, length) = (decision.response.producer_id_start.0, decision.response.producer_id_len);
                self.say(format_args!("{length} ids from {start}"));
                self.apply(decision.records);
            }
            Err(e) => self.say(format_args!("{e:?}")),
        }
    }

    fn assign(&mut self, args: &Args) {
        let broker = BrokerId(args.broker());
        let partition = TopicPartition::parse(args.words[2]).unwrap();
        let indexes =
            vec![assign_replicas_to_dirs_request::PartitionData::default().with_partition_index(partition.partition)];
        let topic = assign_replicas_to_dirs_request::TopicData::default()
            .with_topic_id(self.state.image.topic_ids[partition.topic.0.as_str()])
            .with_partitions(indexes);
        let directory = assign_replicas_to_dirs_request::DirectoryData::default()
            .with_id(args.directories("dir").unwrap()[0])
            .with_topics(vec![topic]);
        let request = AssignReplicasToDirsRequest::default()
            .with_broker_id(WireBrokerId(broker.0))
            .with_broker_epoch(self.state.image.brokers[&broker].epoch.0)
            .with_directories(vec![directory]);
        match replication::assign_replicas_to_dirs(&self.state, &request) {
            Ok(decision) => {
                let error = decision.response.directories[0].topics[0].partitions[0].error_code;
                self.say(ErrorCode::try_from_code(error).map_or("ok".to_owned(), |error| format!("{error:?}")));
                self.apply(decision.records);
            }
            Err(e) => self.say(format_args!("{e:?}")),
        }
    }

    fn advance(&mut self, args: &Args) {
        self.now += Duration::from_millis(args.words[1].parse().unwrap());
        loop {
            let records = replication::maybe_fence_one_stale_broker(&mut self.state, self.now);
            if records.is_empty() {
                break;
            }
            self.apply(records);
        }
    }

    fn create(&mut self, args: &Args) {
        let name = |text: &str| TopicName(StrBytes::from_string(text.to_owned()));
        let assignments = args.named.get("assign").map_or(vec![], |text| text.split('/').collect::<Vec<_>>());
        let assignments: Vec<_> = (0..)
            .zip(assignments)
            .map(|(index, brokers)| {
                CreatableReplicaAssignment::default()
                    .with_partition_index(index)
                    .with_broker_ids(brokers.split(',').map(|b| WireBrokerId(b.parse().unwrap())).collect())
            })
            .collect();
        let configs = args.named.iter().filter(|(key, _)| key.contains('.')).map(|(key, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string((*key).to_owned()))
                .with_value(Some(StrBytes::from_string((*value).to_owned())))
        });
        let topic = CreatableTopic::default()
            .with_name(name(args.words.get(1).copied().unwrap_or("")))
            .with_num_partitions(args.number("partitions").unwrap_or(-1))
            .with_replication_factor(args.number("rf").unwrap_or(-1))
            .with_assignments(assignments)
            .with_configs(configs.collect());
        let copies = if args.has("twice") { vec![topic.clone(), topic] } else { vec![topic] };
        let request = CreateTopicsRequest::default().with_topics(copies).with_validate_only(args.has("validate-only"));
        let created = &mut self.topics_created;
        let decision = topics::create_topics(&self.state, &request, || {
            *created += 1;
            Uuid::from_bytes([*created; 16])
        });
        for result in &decision.response.topics {
            self.say(format_args!(
                "{} {}{}",
                result.name.0,
                error_name(result.error_code),
                result.error_message.as_ref().map_or(String::new(), |m| format!(": {m}"))
            ));
        }
        self.apply(decision.records);
    }

    /// `grow TOPIC COUNT`, with `replicas=1,2;2,3` for the new ones.
    fn grow(&mut self, args: &Args) {
        let ids = |list: &str| list.split(',').map(|id| WireBrokerId(id.parse().unwrap())).collect();
        let assignment = |list: &str| CreatePartitionsAssignment::default().with_broker_ids(ids(list));
        let assignments = args.named.get("replicas").map(|lists| lists.split(';').map(assignment).collect());
        let topic = CreatePartitionsTopic::default()
            .with_name(TopicName(StrBytes::from_string(args.words[1].to_owned())))
            .with_count(args.words[2].parse().unwrap())
            .with_assignments(assignments);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![topic; 1 + usize::from(args.has("twice"))])
            .with_validate_only(args.has("validate-only"));
        let decision = partitions::create_partitions(&self.state, &request);
        for result in &decision.response.results {
            self.say(format_args!(
                "{} {}{}",
                result.name.0,
                error_name(result.error_code),
                result.error_message.as_ref().map_or(String::new(), |m| format!(": {m}"))
            ));
        }
        self.apply(decision.records);
    }

    fn delete(&mut self, args: &Args) {
        let names = args.words[1..].iter().map(|name| TopicName(StrBytes::from_string((*name).to_owned())));
        let request = DeleteTopicsRequest::default().with_topic_names(names.collect());
        let decision = topics::delete_topics(&self.state, &request, 5);
        for response in &decision.response.responses {
            let name = response.name.as_ref().expect("version 5 names topics");
            self.say(format_args!("{} {}", name.0, error_name(response.error_code)));
        }
        self.apply(decision.records);
    }

    fn alter_partition(&mut self, args: &Args) {
        let broker = BrokerId(args.broker());
        let partition = TopicPartition::parse(args.words[2]).unwrap();
        let topic = self.state.image.topic(partition.topic.as_str());
        let topic_id = topic.map_or(Uuid::from_bytes([99; 16]), |t| t.id);
        let current = topic.and_then(|t| t.partitions.get(&partition.partition));
        let members = args.named["isr"].split(',').filter(|m| !m.is_empty()).map(|member| {
            // `2@7`: broker 2 as of epoch 7.
            let (id, epoch) = member.split_once('@').unwrap_or((member, "-1"));
            BrokerState::default()
                .with_broker_id(WireBrokerId(id.parse().unwrap()))
                .with_broker_epoch(epoch.parse().unwrap())
        });
        let data = PartitionData::default()
            .with_partition_index(partition.partition)
            .with_leader_epoch(args.number("leader-epoch").or(current.map(|p| p.leader_epoch.0)).unwrap_or(0))
            .with_partition_epoch(args.number("partition-epoch").or(current.map(|p| p.partition_epoch.0)).unwrap_or(0))
            .with_leader_recovery_state(i8::from(args.has("recovering")))
            .with_new_isr_with_epochs(members.collect());
        let epoch = self.state.image.brokers.get(&broker).map_or(-1, |b| b.epoch.0);
        let request = AlterPartitionRequest::default()
            .with_broker_id(WireBrokerId(broker.0))
            .with_broker_epoch(args.number("epoch").unwrap_or(epoch))
            .with_topics(vec![TopicData::default().with_topic_id(topic_id).with_partitions(vec![data])]);
        match replication::alter_partition(&self.state, &request, 3) {
            Ok(decision) => {
                let data = &decision.response.topics[0].partitions[0];
                let isr: Vec<i32> = data.isr.iter().map(|b| b.0).collect();
                match data.error_code {
                    0 => self.say(format_args!(
                        "leader {} epoch {} partition epoch {} isr {isr:?}",
                        data.leader_id.0, data.leader_epoch, data.partition_epoch
                    )),
                    code => self.say(error_name(code)),
                }
                self.apply(decision.records);
            }
            Err(e) => self.say(format_args!("request: {e:?}")),
        }
    }

    fn elect(&mut self, args: &Args) {
        let partitions = (args.words[2] != "all").then(|| {
            let partition = TopicPartition::parse(args.words[2]).unwrap();
            vec![TopicPartitions::default().with_topic(partition.topic).with_partitions(vec![partition.partition])]
        });
        let request = ElectLeadersRequest::default()
            .with_election_type(i8::from(args.words[1] == "unclean"))
            .with_topic_partitions(partitions);
        let decision = replication::elect_leaders(&self.state, &request).unwrap();
        for topic in &decision.response.replica_election_results {
            for result in &topic.partition_result {
                let error = error_name(result.error_code);
                self.say(format_args!("{}-{} {error}", topic.topic.0, result.partition_id));
            }
        }
        self.apply(decision.records);
    }

    fn show(&mut self) {
        let mut lines = Vec::new();
        for broker in self.state.image.brokers.values() {
            lines.push(format!(
                "broker {} epoch {}{}{}",
                broker.id,
                broker.epoch,
                if broker.fenced { " fenced" } else { "" },
                if broker.in_controlled_shutdown { " in controlled shutdown" } else { "" }
            ));
        }
        for (topic, index, p) in self.state.partitions() {
            lines.push(format!(
                "{}-{index} leader {} epoch {} partition epoch {} isr {:?} of {:?}{}",
                topic.name,
                p.leader,
                p.leader_epoch,
                p.partition_epoch,
                p.isr,
                p.replicas,
                if p.leader_recovering { " recovering" } else { "" }
            ));
        }
        lines.into_iter().for_each(|line| self.say(line));
    }
}

fn error_name(code: i16) -> String {
    ErrorCode::try_from_code(code).map_or("ok".to_owned(), |e| format!("{e:?}"))
}
