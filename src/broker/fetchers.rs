//! Replication: one fetcher for each leader broker, with its own connection and one request in flight
//! (`ReplicaFetcherManager`, `ReplicaFetcherThread`, `RemoteLeaderEndPoint`).

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::{Broker, BrokerOptions, DirFailure, Key, Partitions, Touched, rpc_config};
use crate::protocol::fetch::{FetchQuestion, PartitionAnswer, PartitionQuestion, TopicQuestion};
use crate::protocol::rpc::{Completion, PeerId, Reply, RpcClient};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, Offset, millis_of};
use crate::replica::{AskedFetch, Environment, FetchOutcome, FetchPhase, LeaderData, LeaderOffsets, Partition};
use crate::world::{Endpoint, HostPort, IoWait, Time, World};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

pub(super) struct Fetchers {
    pub rpc: RpcClient<Call>,
    by_leader: BTreeMap<BrokerId, Fetcher>,
    next_call: u64,
    /// Fetchers that may have something to send.
    ready: Vec<BrokerId>,
}

/// Which request a completion belongs to. A fetcher that was stopped and started again has other numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Call {
    leader: BrokerId,
    number: u64,
}

struct Fetcher {
    peer: PeerId,
    /// In the order they are asked for; who got data goes to the end, so that none starves.
    partitions: Vec<Key>,
    in_flight: Option<InFlight>,
    /// When a delay ends, if nothing can be fetched before.
    wake_at: Option<Time>,
    /// The disk is still at what the last answer brought.
    io_wait: Option<IoWait>,
}

struct InFlight {
    number: u64,
    question: Question,
}

enum Question {
    Fetch(Vec<(Key, AskedFetch)>),
    /// Where the leader's log ends, for partitions whose offset is out of its range.
    LogEnd(Vec<(Key, AskedFetch)>),
    /// Where it starts, with where it ends.
    LogStart(Vec<(Key, AskedFetch, Offset)>),
}

impl Fetchers {
    pub fn new(world: &World, options: &BrokerOptions) -> Fetchers {
        // ReplicaFetcherBlockingSend reconnects at once: replica.fetch.backoff.ms is what holds it back.
        let config = rpc_config(options, "fetcher-0", Duration::ZERO);
        Fetchers {
            rpc: RpcClient::new(config, world.rng("replica-fetchers")),
            by_leader: BTreeMap::new(),
            next_call: 0,
            ready: Vec::new(),
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.by_leader.values().filter_map(|f| f.wake_at).chain(self.rpc.deadline()).min()
    }

    /// Fetches `key` from `leader` from now on.
    pub fn add(&mut self, key: Key, leader: BrokerId, address: &HostPort) {
        let peer = self.rpc.peer(address);
        let fetcher = self.by_leader.entry(leader).or_insert_with(|| Fetcher {
            peer,
            partitions: Vec::new(),
            in_flight: None,
            wake_at: None,
            io_wait: None,
        });
        fetcher.peer = peer;
        fetcher.partitions.push(key);
        self.ready.push(leader);
    }

    /// Fetches `key` from nobody.
    pub fn remove(&mut self, key: Key) {
        for fetcher in self.by_leader.values_mut() {
            fetcher.partitions.retain(|other| *other != key);
        }
    }

    /// Stops the fetchers that have nothing left to fetch (`shutdownIdleFetcherThreads`).
    pub fn stop_idle(&mut self, net: &mut Endpoint) {
        let idle: Vec<BrokerId> =
            self.by_leader.iter().filter(|(_, f)| f.partitions.is_empty()).map(|(id, _)| *id).collect();
        for leader in idle {
            let fetcher = self.by_leader.remove(&leader).expect("listed above");
            // What was in flight belongs to nobody any more.
            self.rpc.disconnect(fetcher.peer, net, &mut Vec::new());
        }
    }

    /// The disk goes on after a stall.
    pub fn wake_all(&mut self) {
        self.ready.extend(self.by_leader.keys());
    }

    /// Notes the fetchers whose delay is over.
    pub fn wake(&mut self, now: Time) {
        let due = self.by_leader.iter().filter(|(_, f)| f.wake_at.is_some_and(|at| at <= now));
        self.ready.extend(due.map(|(leader, _)| *leader));
    }
}

impl Broker {
    /// Lets every idle fetcher ask for what there is to ask.
    pub(super) fn drive_fetchers(&mut self, now: Time, net: &mut Endpoint) {
        while let Some(leader) = self.fetchers.ready.pop() {
            let Some(fetcher) = self.fetchers.by_leader.get_mut(&leader) else { continue };
            if self.is_finished || fetcher.in_flight.is_some() {
                continue;
            }
            fetcher.wake_at = None;
            if let Some(wait) = fetcher.io_wait {
                if !self.connections.disk().is_over(now, wait) {
                    fetcher.wake_at = self.connections.disk().over_at(wait);
                    continue;
                }
                fetcher.io_wait = None;
            }
            for key in &fetcher.partitions {
                if let Some(hosted) = self.partitions.get_mut(key) {
                    hosted.partition.end_delay(now);
                }
            }
            let lost = asked_by(fetcher, &self.partitions, |phase| phase == FetchPhase::OutOfRange);
            let ready = asked_by(fetcher, &self.partitions, |phase| phase == FetchPhase::Ready);
            if !lost.is_empty() {
                self.ask(now, leader, Question::LogEnd(lost), net);
            } else if !ready.is_empty() {
                self.ask(now, leader, Question::Fetch(ready), net);
            } else {
                let phases =
                    fetcher.partitions.iter().filter_map(|key| self.partitions.get(key)?.partition.fetch_state());
                fetcher.wake_at = phases
                    .filter_map(|fetch| match fetch.phase {
                        FetchPhase::DelayedUntil(at) => Some(at),
                        FetchPhase::Ready | FetchPhase::OutOfRange | FetchPhase::Failed => None,
                    })
                    .min();
            }
        }
    }

    fn ask(&mut self, now: Time, leader: BrokerId, question: Question, net: &mut Endpoint) {
        let Fetchers { rpc, by_leader, next_call, .. } = &mut self.fetchers;
        let fetcher = by_leader.get_mut(&leader).expect("asked of a fetcher that exists");
        *next_call += 1;
        let call = Call { leader, number: *next_call };
        let timeout = self.options.config.replica_socket_timeout;
        match &question {
            Question::Fetch(asked) => {
                let question = fetch_question(&self.env, &self.options, &self.partitions, asked);
                rpc.send_fetch(now, fetcher.peer, &question, timeout, call, net);
            }
            Question::LogEnd(asked) => {
                let asked = asked.iter().map(|(key, asked)| (*key, asked.leader_epoch));
                let request = list_offsets_request(&self.env, &self.partitions, asked, LATEST);
                rpc.send(now, fetcher.peer, 9, &request, timeout, call, net);
            }
            Question::LogStart(asked) => {
                let asked = asked.iter().map(|(key, asked, _)| (*key, asked.leader_epoch));
                let request = list_offsets_request(&self.env, &self.partitions, asked, EARLIEST);
                rpc.send(now, fetcher.peer, 9, &request, timeout, call, net);
            }
        }
        fetcher.in_flight = Some(InFlight { number: call.number, question });
    }

    pub(super) fn on_fetcher_replies(&mut self, now: Time, replies: Vec<Completion<Call>>, net: &mut Endpoint) {
        for reply in replies {
            let leader = reply.tag.leader;
            let Some(fetcher) = self.fetchers.by_leader.get_mut(&leader) else { continue };
            let Some(in_flight) = fetcher.in_flight.take_if(|f| f.number == reply.tag.number) else { continue };
            self.fetchers.ready.push(leader);
            match reply.result {
                Ok(reply) => self.on_fetcher_answer(now, leader, in_flight.question, &reply, net),
                Err(_) => self.delay_all(now, leader),
            }
            // The thread that fetches from this leader is the one that writes what it gets.
            let wait = self.connections.take_wait();
            if let Some(fetcher) = self.fetchers.by_leader.get_mut(&leader) {
                fetcher.io_wait = wait;
            }
        }
    }

    fn on_fetcher_answer(
        &mut self,
        now: Time,
        leader: BrokerId,
        question: Question,
        reply: &Reply,
        net: &mut Endpoint,
    ) {
        match question {
            Question::Fetch(asked) => self.on_fetched(now, leader, &asked, reply),
            Question::LogEnd(asked) => {
                let mut known = Vec::with_capacity(asked.len());
                for (key, asked, answer) in self.list_offsets_answers(asked.into_iter(), reply) {
                    match answer {
                        Ok(end) => known.push((key, asked, end)),
                        Err(error) => self.on_leader_offsets_refused(now, key, asked, error),
                    }
                }
                if !known.is_empty() {
                    self.ask(now, leader, Question::LogStart(known), net);
                }
            }
            Question::LogStart(asked) => {
                let ends: BTreeMap<Key, Offset> = asked.iter().map(|(key, _, end)| (*key, *end)).collect();
                let asked = asked.into_iter().map(|(key, asked, _)| (key, asked));
                for (key, asked, answer) in self.list_offsets_answers(asked, reply) {
                    match (answer, self.partitions.get_mut(&key)) {
                        (Ok(log_start), Some(hosted)) => {
                            let offsets = LeaderOffsets { log_start, log_end: ends[&key] };
                            let dir = hosted.dir;
                            match hosted.partition.on_leader_offsets(now, &self.env, asked, offsets) {
                                Ok(_) => self.checkpoint_truncation(now),
                                Err(error) => self.fail_log_dir(now, DirFailure { dir, error }),
                            }
                        }
                        (Err(error), Some(_)) => self.on_leader_offsets_refused(now, key, asked, error),
                        (_, None) => {}
                    }
                }
            }
        }
    }

    /// For each partition asked for, the leader's answer; an answer that lacks it counts as an error.
    fn list_offsets_answers(
        &self,
        asked: impl Iterator<Item = (Key, AskedFetch)>,
        reply: &Reply,
    ) -> Vec<(Key, AskedFetch, Result<Offset, ErrorCode>)> {
        let response = reply.decode::<ListOffsetsRequest>().unwrap_or_default();
        let answer = |key: Key| {
            let name = &self.partitions.get(&key)?.partition.topic_partition().topic;
            let topic = response.topics.iter().find(|t| t.name == *name)?;
            let partition = topic.partitions.iter().find(|p| p.partition_index == key.1)?;
            Some(match ErrorCode::try_from_code(partition.error_code) {
                Some(error) => Err(error),
                None if partition.offset < 0 => Err(ErrorCode::UnknownServerError),
                None => Ok(Offset(partition.offset)),
            })
        };
        asked.map(|(key, asked)| (key, asked, answer(key).unwrap_or(Err(ErrorCode::UnknownServerError)))).collect()
    }

    fn on_leader_offsets_refused(&mut self, now: Time, key: Key, asked: AskedFetch, error: ErrorCode) {
        if let Some(hosted) = self.partitions.get_mut(&key)
            && hosted.partition.on_leader_offsets_refused(asked, error) == FetchOutcome::Retry
        {
            hosted.partition.delay_fetching(now + self.options.config.replica_fetch_backoff);
        }
    }

    fn on_fetched(&mut self, now: Time, leader: BrokerId, asked: &[(Key, AskedFetch)], reply: &Reply) {
        let answer = match reply.decode_fetch() {
            Ok(answer) if answer.error.is_none() => answer,
            Ok(_) | Err(_) => return self.delay_all(now, leader),
        };
        // Answers come in the order of the questions.
        let mut questions = asked.iter().cycle();
        for topic in answer.topics {
            for data in topic.partitions {
                let key = (topic.topic_id, data.index);
                let Some((_, asked)) = questions.by_ref().take(asked.len()).find(|(other, _)| *other == key) else {
                    continue;
                };
                self.on_fetched_partition(now, leader, key, *asked, data);
            }
        }
    }

    fn on_fetched_partition(
        &mut self,
        now: Time,
        leader: BrokerId,
        key: Key,
        asked: AskedFetch,
        data: PartitionAnswer,
    ) {
        let Some(hosted) = self.partitions.get_mut(&key) else { return };
        let (dir, wall_clock_ms) = (hosted.dir, self.world.wall_clock_ms());
        let outcome = match hosted.partition.on_fetch_response(now, &self.env, asked, &leader_data(data), wall_clock_ms)
        {
            Ok(outcome) => outcome,
            Err(error) => return self.fail_log_dir(now, DirFailure { dir, error }),
        };
        match outcome {
            FetchOutcome::Applied { appended, high_watermark_changed } => {
                if high_watermark_changed {
                    self.touched.push((key, Touched::LogEnd));
                }
                let fetcher = self.fetchers.by_leader.get_mut(&leader);
                if let Some(fetcher) = fetcher.filter(|f| appended && f.partitions.len() > 1) {
                    fetcher.partitions.retain(|other| *other != key);
                    fetcher.partitions.push(key);
                }
            }
            FetchOutcome::Retry => {
                hosted.partition.delay_fetching(now + self.options.config.replica_fetch_backoff);
            }
            FetchOutcome::Truncated => self.checkpoint_truncation(now),
            FetchOutcome::Ignored | FetchOutcome::OutOfRange | FetchOutcome::Failed => {}
        }
    }

    /// The whole request failed: none of the leader's partitions is asked for before the backoff is over.
    fn delay_all(&mut self, now: Time, leader: BrokerId) {
        let Some(fetcher) = self.fetchers.by_leader.get(&leader) else { return };
        for key in &fetcher.partitions {
            if let Some(hosted) = self.partitions.get_mut(key) {
                hosted.partition.delay_fetching(now + self.options.config.replica_fetch_backoff);
            }
        }
    }
}

/// The fetcher's partitions in a phase, with what is asked for them.
fn asked_by(
    fetcher: &Fetcher,
    partitions: &Partitions,
    is_wanted: impl Fn(FetchPhase) -> bool,
) -> Vec<(Key, AskedFetch)> {
    let asked = |key: &Key| {
        let partition: &Partition = &partitions.get(key)?.partition;
        let fetch = partition.fetch_state().filter(|f| is_wanted(f.phase))?;
        Some((*key, AskedFetch { leader_epoch: partition.leader_epoch(), offset: fetch.offset }))
    };
    fetcher.partitions.iter().filter_map(asked).collect()
}

/// In the order in which they are asked for: who was given something is behind the others, and the first one that has
/// something is given a batch of whatever size (KIP-74). So a topic may come several times (`FetchRequest.Builder.build`).
fn fetch_question(
    env: &Environment,
    options: &BrokerOptions,
    partitions: &Partitions,
    asked: &[(Key, AskedFetch)],
) -> FetchQuestion {
    let config = &options.config;
    let mut topics: Vec<TopicQuestion> = Vec::new();
    for ((topic_id, index), asked) in asked {
        let partition = &partitions[&(*topic_id, *index)].partition;
        let question = PartitionQuestion {
            index: *index,
            current_leader_epoch: asked.leader_epoch,
            offset: asked.offset,
            last_fetched_epoch: partition.fetch_state().map_or(LeaderEpoch::NONE, |f| f.last_fetched_epoch),
            log_start: partition.log().log_start(),
            bytes_max: config.replica_fetch_max_bytes,
        };
        match topics.last_mut().filter(|t| t.topic_id == *topic_id) {
            Some(topic) => topic.partitions.push(question),
            None => {
                let (topic, topic_id) = (TopicName::default(), *topic_id);
                topics.push(TopicQuestion { topic, topic_id, partitions: vec![question] });
            }
        }
    }
    FetchQuestion {
        replica: env.id,
        replica_epoch: env.broker_epoch,
        max_wait_ms: millis_of(config.replica_fetch_wait_max),
        bytes_min: config.replica_fetch_min_bytes,
        bytes_max: config.replica_fetch_response_max_bytes,
        isolation_level: 0,
        session_id: 0,
        topics,
        rack_id: StrBytes::default(),
    }
}

fn list_offsets_request(
    env: &Environment,
    partitions: &Partitions,
    asked: impl Iterator<Item = (Key, LeaderEpoch)>,
    timestamp: i64,
) -> ListOffsetsRequest {
    let mut topics: Vec<ListOffsetsTopic> = Vec::new();
    for (key, leader_epoch) in asked {
        let Some(hosted) = partitions.get(&key) else { continue };
        let name = &hosted.partition.topic_partition().topic;
        let data = ListOffsetsPartition::default()
            .with_partition_index(key.1)
            .with_current_leader_epoch(leader_epoch.0)
            .with_timestamp(timestamp);
        match topics.iter_mut().find(|t| t.name == *name) {
            Some(topic) => topic.partitions.push(data),
            None => topics.push(ListOffsetsTopic::default().with_name(name.clone()).with_partitions(vec![data])),
        }
    }
    ListOffsetsRequest::default().with_replica_id(env.id.0.into()).with_topics(topics)
}

fn leader_data(data: PartitionAnswer) -> LeaderData {
    LeaderData {
        error: data.error,
        high_watermark: data.high_watermark,
        log_start: data.log_start,
        diverging_epoch: data.diverging_epoch.filter(|(epoch, _)| epoch.0 >= 0),
        records: data.records.into_bytes(),
    }
}
