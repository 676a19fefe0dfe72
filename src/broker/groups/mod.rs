//! The broker's side of group coordination: finds coordinators, carries requests to
//! [`coordinator`](crate::coordinator) and answers back, appends what it decides, and tells it of elections and of the
//! high watermark (`KafkaApis`, `BrokerMetadataPublisher.updateCoordinator`, `CoordinatorPartitionWriter`).

mod requests;
mod responses;

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::offset_commit_response::OffsetCommitResponseTopic;
use kafka_protocol::messages::offset_delete_response::OffsetDeleteResponseTopic;
use kafka_protocol::messages::{ApiKey, FindCoordinatorRequest, FindCoordinatorResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use rustc_hash::FxHashMap;
use uuid::Uuid;

use super::connections::ReplyTo;
use super::{Broker, BrokerOptions, Key, Partitions, Touched};
use crate::coordinator::{
    self, Answer, CoordinatorLog, GroupCoordinator, GroupNews, LogBounds, Ticket, TopicMetadata, partition_for,
};
use crate::metadata::{BrokerRegistration, ImageChanges};
use crate::observe::Observation;
use crate::protocol::{BrokerId, ErrorCode, Offset, TopicPartition};
use crate::replica::{Environment, ReplicaError};
use crate::world::{Disk, Endpoint, IoWait, Time, World};

/// acks=all: what a coordinator says it has written must survive it.
const ACKS_ALL: i16 = -1;

pub(super) struct Groups {
    coordinator: GroupCoordinator,
    /// The id of `__consumer_offsets`, once it exists.
    topic: Option<Uuid>,
    /// The coordinator was asked or told something: it may have answers.
    has_news: bool,
    last_ticket: u64,
    waiting: FxHashMap<Ticket, Waiting>,
    /// Requests whose parts different partitions answer.
    gathering: FxHashMap<u64, Gathering>,
}

/// Who waits for an answer.
enum Waiting {
    /// All of a response but, perhaps, what was refused before the coordinator was asked.
    Whole(ReplyTo, Refused),
    /// A part of a response, by the key of its [`Gathering`].
    Part(u64),
}

/// Topics of a request that do not exist.
enum Refused {
    Nothing,
    Commits(Vec<OffsetCommitResponseTopic>),
    Deletions(Vec<OffsetDeleteResponseTopic>),
}

struct Gathering {
    to: ReplyTo,
    key: ApiKey,
    /// In the order of their tickets.
    parts: Vec<(Ticket, Option<Answer>)>,
}

impl Groups {
    pub fn new(world: &World, options: &BrokerOptions) -> Groups {
        Groups {
            coordinator: GroupCoordinator::new(options.config.groups.clone(), world.rng("group-coordinator")),
            topic: None,
            has_news: false,
            last_ticket: 0,
            waiting: FxHashMap::default(),
            gathering: FxHashMap::default(),
        }
    }

    /// When the coordinator wants to be asked. Loading that waits for a stall of the disk to end has no time.
    pub fn deadline(&self, disk: &Disk) -> Option<Time> {
        let deadline = self.coordinator.deadline();
        if !self.coordinator.is_loading() {
            return deadline;
        }
        self.coordinator.loading().filter_map(|wait| disk.over_at(wait)).chain(deadline).min()
    }

    pub fn has_news(&self) -> bool {
        self.has_news
    }

    /// Whether `key` is a partition of `__consumer_offsets`.
    pub fn is_of_topic(&self, key: Key) -> bool {
        self.topic == Some(key.0)
    }

    fn ticket(&mut self, waiting: Waiting) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.waiting.insert(ticket, waiting);
        ticket
    }
}

/// The coordinator's hands on the broker's logs.
struct Logs<'a> {
    now: Time,
    wall_ms: i64,
    topic: Option<Uuid>,
    partitions: &'a mut Partitions,
    env: &'a Environment,
    touched: &'a mut Vec<(Key, Touched)>,
    disk: &'a Disk,
    /// An error of the disk, to be dealt with afterwards.
    failed: Option<(Key, io::Error)>,
}

impl Logs<'_> {
    fn key(&self, partition: i32) -> Result<Key, ErrorCode> {
        Ok((self.topic.ok_or(ErrorCode::UnknownTopicOrPartition)?, partition))
    }

    fn note(&mut self, key: Key, error: ReplicaError) -> ErrorCode {
        match error {
            ReplicaError::Refused(error) => error,
            ReplicaError::Io(error) => {
                self.failed.get_or_insert((key, error));
                ErrorCode::KafkaStorageError
            }
        }
    }
}

impl CoordinatorLog for Logs<'_> {
    fn append(&mut self, partition: i32, batch: &Bytes) -> Result<Offset, ErrorCode> {
        let key = self.key(partition)?;
        let hosted = self.partitions.get_mut(&key).ok_or(ErrorCode::NotLeaderOrFollower)?;
        match hosted.partition.append_as_leader(self.now, self.env, batch, ACKS_ALL, self.wall_ms) {
            Ok(append) => {
                let touched = if append.high_watermark_advanced { Touched::All } else { Touched::LogEnd };
                self.touched.push((key, touched));
                Ok(append.appended.base_offset)
            }
            Err(error) => {
                let error = self.note(key, error);
                let partition = TopicPartition::new(coordinator::TOPIC, partition);
                self.env.observe(self.now, Observation::Refused { partition, error_code: error.code() });
                Err(error)
            }
        }
    }

    fn bounds(&self, partition: i32) -> Result<LogBounds, ErrorCode> {
        let hosted = self.partitions.get(&self.key(partition)?).ok_or(ErrorCode::NotLeaderOrFollower)?;
        let log = hosted.partition.log();
        Ok(LogBounds { log_start: log.log_start(), high_watermark: log.high_watermark(), log_end: log.log_end() })
    }

    fn read(&mut self, partition: i32, from: Offset, bytes_max: usize) -> Result<Bytes, ErrorCode> {
        let key = self.key(partition)?;
        let hosted = self.partitions.get(&key).ok_or(ErrorCode::NotLeaderOrFollower)?;
        let log = hosted.partition.log();
        match log.read(from, log.log_end(), bytes_max, true) {
            Ok(records) => Ok(records.into_bytes()),
            Err(crate::log::ReadError::OutOfRange { .. }) => Err(ErrorCode::OffsetOutOfRange),
            Err(crate::log::ReadError::Io(error)) => Err(self.note(key, ReplicaError::Io(error))),
        }
    }

    fn take_wait(&mut self) -> Option<IoWait> {
        self.disk.take_wait()
    }
}

impl Broker {
    /// Lets the coordinator do something, and carries out what it wants done. `settle` sends the answers.
    fn coordinate(&mut self, now: Time, act: impl FnOnce(&mut GroupCoordinator, (Time, i64), &mut Logs<'_>)) {
        let wall_ms = self.world.wall_clock_ms();
        self.groups.has_news = true;
        let mut logs = Logs {
            now,
            wall_ms,
            topic: self.groups.topic,
            partitions: &mut self.partitions,
            env: &self.env,
            touched: &mut self.touched,
            disk: self.connections.disk(),
            failed: None,
        };
        act(&mut self.groups.coordinator, (now, wall_ms), &mut logs);
        if let Some((key, error)) = logs.failed {
            self.storage_failed(now, key, error);
        }
        for news in self.groups.coordinator.take_news() {
            let observation = match news {
                GroupNews::Deleted(group) => Observation::GroupDeleted { group: group.to_string() },
                GroupNews::Unwatched(group) => Observation::Unwatched { group: group.to_string() },
                GroupNews::UnawaitedSync(group) => Observation::UnawaitedSync { group: group.to_string() },
                GroupNews::RefusedJoin(group) => Observation::RefusedJoin { group: group.to_string() },
                GroupNews::Downgraded { group, generation } => {
                    Observation::Downgraded { group: group.to_string(), generation }
                }
                GroupNews::OffsetExpired { group, topic, partition, offset, is_rebalancing } => {
                    Observation::OffsetExpired {
                        group: group.to_string(),
                        partition: TopicPartition::new(topic.as_str(), partition),
                        offset: Offset(offset),
                        is_rebalancing,
                    }
                }
                GroupNews::Unclaimed { group, topic, partition } => Observation::Unclaimed {
                    group: group.to_string(),
                    partition: TopicPartition::new(topic.as_str(), partition),
                },
            };
            self.env.observe(now, observation);
        }
    }

    /// Sends what the coordinator has answered.
    pub(super) fn send_group_answers(&mut self, net: &mut Endpoint) {
        self.groups.has_news = false;
        for (ticket, answer) in self.groups.coordinator.take_answers() {
            match self.groups.waiting.remove(&ticket) {
                None => {}
                Some(Waiting::Whole(to, refused)) => self.respond_group(to, answer, refused, net),
                Some(Waiting::Part(id)) => self.gather(id, ticket, answer, net),
            }
        }
    }

    fn gather(&mut self, id: u64, ticket: Ticket, answer: Answer, net: &mut Endpoint) {
        let Some(gathering) = self.groups.gathering.get_mut(&id) else { return };
        if let Some((_, part)) = gathering.parts.iter_mut().find(|(of, _)| *of == ticket) {
            *part = Some(answer);
        }
        if gathering.parts.iter().all(|(_, part)| part.is_some()) {
            let Gathering { to, key, parts } = self.groups.gathering.remove(&id).expect("looked up above");
            let parts = parts.into_iter().filter_map(|(_, part)| part).collect();
            self.respond_gathered(to, key, parts, net);
        }
    }

    /// The high watermark or the leadership of a partition of `__consumer_offsets` has changed.
    pub(super) fn on_offsets_partition_touched(&mut self, now: Time, key: Key) {
        let Some(hosted) = self.partitions.get(&key) else { return };
        let high_watermark = hosted.partition.log().high_watermark();
        self.coordinate(now, |groups, clock, logs| groups.on_high_watermark(clock, key.1, high_watermark, logs));
    }

    pub(super) fn on_groups_timer(&mut self, now: Time) {
        if self.groups.coordinator.is_loading() {
            let disk = self.connections.disk().clone();
            self.coordinate(now, |groups, clock, logs| {
                groups.finish_loading(clock, logs, |wait| disk.is_over(now, wait));
            });
        }
        if self.groups.coordinator.deadline().is_some_and(|at| at <= now) {
            self.coordinate(now, |groups, clock, logs| groups.on_timer(clock, logs));
        }
    }

    /// What new metadata means for the groups: elections, resignations, and deleted topics
    /// (`BrokerMetadataPublisher.updateCoordinator`).
    pub(super) fn publish_to_groups(&mut self, now: Time, changes: &ImageChanges) {
        let topic = self.env.image.topic_ids.get(coordinator::TOPIC).copied();
        if topic != self.groups.topic {
            // The topic was made, or deleted and perhaps made again.
            for partition in self.groups.coordinator.partitions().collect::<Vec<_>>() {
                self.coordinate(now, |groups, clock, _| groups.on_resignation(clock, partition));
            }
            self.groups.topic = topic;
        }
        for &key in changes.partitions.iter().filter(|key| Some(key.0) == topic) {
            self.lead_groups_of(now, key);
        }
        let deleted = changes.removed_topics.iter();
        let deleted: Vec<_> = deleted.map(|(id, name)| (*id, StrBytes::from_string(name.clone()))).collect();
        if !deleted.is_empty() {
            self.coordinate(now, |groups, clock, logs| groups.on_topics_deleted(clock, &deleted, logs));
        }
        let changed: BTreeSet<Uuid> = changes.partitions.iter().map(|key| key.0).collect();
        let changed = changed.into_iter().filter_map(|id| self.env.image.topics.get(&id));
        self.groups.coordinator.on_topics(changed.map(|topic| {
            let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            (StrBytes::from_string(topic.name.clone()), TopicMetadata { id: topic.id, partitions })
        }));
    }

    fn lead_groups_of(&mut self, now: Time, key: Key) {
        let state = self.env.image.topics.get(&key.0).and_then(|topic| topic.partitions.get(&key.1));
        let Some((leader, epoch)) = state.map(|state| (state.leader, state.leader_epoch)) else { return };
        let leads = leader == self.env.id && self.partitions.get(&key).is_some_and(|h| h.partition.is_leader());
        self.coordinate(now, |groups, clock, logs| match leads {
            true => groups.on_election(clock, key.1, epoch, logs),
            false => groups.on_resignation(clock, key.1),
        });
    }

    /// How many partitions `__consumer_offsets` has, or will have.
    fn offsets_partitions(&self) -> i32 {
        let existing = self.groups.topic.and_then(|id| self.env.image.topics.get(&id));
        let existing = existing.and_then(|topic| i32::try_from(topic.partitions.len()).ok());
        existing.unwrap_or(self.groups.coordinator.config().offsets_topic_num_partitions)
    }

    pub(super) fn handle_find_coordinator(
        &mut self,
        now: Time,
        to: ReplyTo,
        request: &FindCoordinatorRequest,
        net: &mut Endpoint,
    ) {
        /// From this version on a request may ask for several (KIP-699).
        const SEVERAL: i16 = 4;
        let mut response = FindCoordinatorResponse::default();
        if to.api_version < SEVERAL {
            match self.find_coordinator(now, request.key_type, &request.key, net) {
                Ok(broker) => {
                    response.node_id = broker.id.0.into();
                    response.host = StrBytes::from_string(broker.endpoint.host);
                    response.port = i32::from(broker.endpoint.port);
                }
                Err(error) => {
                    response.error_code = error.code();
                    response.node_id = BrokerId::NONE.0.into();
                    response.port = -1;
                }
            }
        } else {
            for key in &request.coordinator_keys {
                let found = Coordinator::default().with_key(key.clone());
                response.coordinators.push(match self.find_coordinator(now, request.key_type, key, net) {
                    Ok(broker) => found
                        .with_node_id(broker.id.0.into())
                        .with_host(StrBytes::from_string(broker.endpoint.host))
                        .with_port(i32::from(broker.endpoint.port)),
                    Err(error) => {
                        found.with_error_code(error.code()).with_node_id(BrokerId::NONE.0.into()).with_port(-1)
                    }
                });
            }
        }
        self.connections.respond::<FindCoordinatorRequest>(to, &response, net);
    }

    /// The leader of the group's partition of `__consumer_offsets`; the topic is made on the first question.
    fn find_coordinator(
        &mut self,
        now: Time,
        key_type: i8,
        key: &str,
        net: &mut Endpoint,
    ) -> Result<BrokerRegistration, ErrorCode> {
        const GROUP: i8 = 0;
        const TRANSACTION: i8 = 1;
        match key_type {
            GROUP => {}
            // There is no transaction coordinator.
            TRANSACTION => return Err(ErrorCode::CoordinatorNotAvailable),
            _ => return Err(ErrorCode::InvalidRequest),
        }
        let Some(topic) = self.env.image.topic(coordinator::TOPIC) else {
            self.auto_create(now, vec![TopicName(StrBytes::from_static_str(coordinator::TOPIC))], net);
            return Err(ErrorCode::CoordinatorNotAvailable);
        };
        let partition = partition_for(key, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX));
        let leader = topic.partitions.get(&partition).map(|state| state.leader);
        let broker = leader.and_then(|leader| self.env.image.brokers.get(&leader)).filter(|broker| !broker.fenced);
        broker.cloned().ok_or(ErrorCode::CoordinatorNotAvailable)
    }
}
