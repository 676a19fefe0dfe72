//! Fetch, of consumers and of followers (`KafkaApis.handleFetchRequest`, `ReplicaManager.fetchMessages`,
//! `DelayedFetch`).

use kafka_protocol::messages::fetch_response::NodeEndpoint;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::connections::ReplyTo;
use super::delayed::Delayed;
use super::{Broker, Key, Partitions};
use crate::config::ReplicaSelector;
use crate::observe::Observation;
use crate::protocol::fetch::{
    FetchAnswer, FetchQuestion, PartitionAnswer, PartitionQuestion, TopicAnswer, TopicQuestion,
};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, Offset, duration_of};
use crate::replica::{Effects, Environment, FetchProgress, FetchedData, Partition, ReadRequest, Reader, ReplicaError};
use crate::world::{Chain, Endpoint, IoWait, Time};

/// A fetch that waits for data.
pub(super) struct DelayedFetch {
    to: ReplyTo,
    fetch: Fetch,
    pub deadline: Time,
    /// The disk's part in looking for data the first time.
    wait: Option<IoWait>,
}

/// A fetch request, resolved.
struct Fetch {
    question: FetchQuestion,
    reader: Reader,
    bytes_max: usize,
    bytes_min: usize,
    /// The consumer's rack, if replicas are selected by it (KIP-392).
    rack: Option<StrBytes>,
    /// For each partition of the request, in order: which it is, or why it is none.
    partitions: Vec<Result<Key, ErrorCode>>,
}

/// What a read of all partitions came to.
struct ReadOutcome {
    answer: FetchAnswer,
    bytes: usize,
    /// An error or a divergence: the reader must hear of it at once.
    is_urgent: bool,
}

impl Fetch {
    /// Each partition that exists, with what is asked of it.
    fn reads(&self) -> impl Iterator<Item = (Key, &PartitionQuestion)> {
        let asked = self.question.topics.iter().flat_map(|t| &t.partitions);
        self.partitions.iter().zip(asked).filter_map(|(key, asked)| Some((*key.as_ref().ok()?, asked)))
    }

    fn is_from_follower(&self) -> bool {
        matches!(self.reader, Reader::Follower { .. })
    }

    /// Whom a consumer shall read from instead of us.
    fn preferred_read_replica(
        &self,
        now: Time,
        env: &Environment,
        partition: &Partition,
        offset: Offset,
    ) -> Option<BrokerId> {
        partition.preferred_read_replica(now, env, self.rack.as_ref()?, offset)
    }
}

impl DelayedFetch {
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.fetch.reads().map(|(key, _)| key)
    }

    /// Is there enough to answer, or something that must not wait?
    pub fn is_complete(&self, partitions: &Partitions) -> bool {
        let mut bytes = 0;
        for (key, asked) in self.fetch.reads() {
            let Some(hosted) = partitions.get(&key) else { return true };
            let request = read_request(asked, partition_bytes_max(asked), true);
            let wanted = self.fetch.bytes_min.saturating_sub(bytes);
            match hosted.partition.fetch_progress(self.fetch.reader, &request, wanted) {
                FetchProgress::Decided => return true,
                FetchProgress::Bytes(more) => bytes += more,
            }
        }
        bytes >= self.fetch.bytes_min
    }
}

impl Broker {
    pub(super) fn handle_fetch(&mut self, now: Time, to: ReplyTo, question: FetchQuestion, net: &mut Endpoint) {
        // We hand out no sessions, as a broker whose session cache is full (KIP-227).
        if question.session_id != 0 {
            let error = Some(ErrorCode::FetchSessionIdNotFound);
            return self.connections.respond_to_fetch(to, FetchAnswer { error, ..FetchAnswer::default() }, net);
        }
        let wait = duration_of(question.max_wait_ms);
        let fetch = self.resolve(to.api_version, question);
        let outcome = self.read_from_logs(now, &fetch, true);
        if self.is_finished {
            return;
        }
        let has_partitions = fetch.partitions.iter().any(Result::is_ok);
        if wait.is_zero() || !has_partitions || outcome.bytes >= fetch.bytes_min || outcome.is_urgent {
            return self.answer_fetch(now, to, &fetch, outcome.answer, net);
        }
        let delayed = DelayedFetch { to, fetch, deadline: now + wait, wait: self.connections.take_wait() };
        // Noting the follower's progress may have moved the very high watermark that is waited for.
        if delayed.is_complete(&self.partitions) {
            return self.finish_fetch(now, delayed, net);
        }
        let keys: Vec<Key> = delayed.keys().collect();
        let id = self.purgatory.add(Delayed::Fetch(delayed));
        for key in keys {
            let hosted = self.partitions.get_mut(&key);
            hosted.expect("read without an error, or the answer would not wait").waiting_fetch.push(id);
        }
    }

    fn resolve(&self, api_version: i16, question: FetchQuestion) -> Fetch {
        let reader = if question.replica.0 >= 0 {
            Reader::Follower { id: question.replica, epoch: question.replica_epoch }
        } else {
            // From version 11 on a consumer may read from followers (KIP-392).
            Reader::Consumer { only_leader: api_version < 11 }
        };
        let bytes_max = usize::try_from(question.bytes_max.min(self.options.config.fetch_max_bytes)).unwrap_or(0);
        let bytes_min = usize::try_from(question.bytes_min).unwrap_or(0).min(bytes_max);
        let selects_by_rack = match self.options.config.replica_selector {
            ReplicaSelector::Leader => false,
            ReplicaSelector::RackAware => !question.rack_id.is_empty() && question.replica.0 < 0,
        };
        let rack = selects_by_rack.then(|| question.rack_id.clone());
        let mut partitions = Vec::with_capacity(question.topics.len());
        for topic in &question.topics {
            let topic_id = self.topic_id_of(api_version, topic);
            for partition in &topic.partitions {
                partitions.push(topic_id.and_then(|id| self.known_partition(Some((id, partition.index)))));
            }
        }
        Fetch { question, reader, bytes_max, bytes_min, rack, partitions }
    }

    fn topic_id_of(&self, api_version: i16, topic: &TopicQuestion) -> Result<Uuid, ErrorCode> {
        if api_version < 13 {
            let id = self.env.image.topic_ids.get(topic.topic.as_str());
            return id.copied().ok_or(ErrorCode::UnknownTopicOrPartition);
        }
        let is_known = self.env.image.topics.contains_key(&topic.topic_id);
        if is_known { Ok(topic.topic_id) } else { Err(ErrorCode::UnknownTopicId) }
    }

    /// Reads every partition in the order of the request, within its byte limits (KIP-74).
    fn read_from_logs(&mut self, now: Time, fetch: &Fetch, update_fetch_state: bool) -> ReadOutcome {
        let mut outcome = ReadOutcome { answer: FetchAnswer::default(), bytes: 0, is_urgent: false };
        outcome.answer.topics.reserve_exact(fetch.question.topics.len());
        let mut keys = fetch.partitions.iter();
        for topic in &fetch.question.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let key = *keys.next().expect("one key for each partition");
                partitions.push(self.read_one(now, fetch, key, asked, update_fetch_state, &mut outcome));
            }
            let (topic, topic_id) = (topic.topic.clone(), topic.topic_id);
            outcome.answer.topics.push(TopicAnswer { topic, topic_id, partitions });
        }
        outcome
    }

    fn read_one(
        &mut self,
        now: Time,
        fetch: &Fetch,
        key: Result<Key, ErrorCode>,
        asked: &PartitionQuestion,
        update_fetch_state: bool,
        outcome: &mut ReadOutcome,
    ) -> PartitionAnswer {
        let key = match key {
            Ok(key) => key,
            Err(error) => return PartitionAnswer::error(asked.index, error),
        };
        let bytes_max = partition_bytes_max(asked).min(fetch.bytes_max.saturating_sub(outcome.bytes));
        let read = read_request(asked, bytes_max, outcome.bytes == 0);
        let result = match self.partitions.get_mut(&key) {
            Some(hosted) => match fetch.preferred_read_replica(now, &self.env, &hosted.partition, asked.offset) {
                Some(replica) => hosted.partition.refer_to(replica, &read).map(|data| (data, Effects::default())),
                None => hosted.partition.fetch(now, &self.env, fetch.reader, &read, update_fetch_state),
            },
            None => Err(ReplicaError::Refused(self.why_not_here(key))),
        };
        match result {
            Ok((data, effects)) => {
                if effects != Effects::default() {
                    self.apply_effects(now, key, effects);
                }
                outcome.bytes += data.records.len();
                outcome.is_urgent |= data.diverging_epoch.is_some() || data.preferred_read_replica.is_some();
                partition_answer(asked.index, data, fetch.question.isolation_level)
            }
            Err(ReplicaError::Refused(error)) => {
                outcome.is_urgent = true;
                PartitionAnswer::error(asked.index, error)
            }
            Err(ReplicaError::Io(error)) => {
                outcome.is_urgent = true;
                PartitionAnswer::error(asked.index, self.storage_failed(now, key, error))
            }
        }
    }

    pub(super) fn finish_fetch(&mut self, now: Time, delayed: DelayedFetch, net: &mut Endpoint) {
        let outcome = self.read_from_logs(now, &delayed.fetch, false);
        if !self.is_finished {
            self.connections.owe(delayed.wait);
            self.answer_fetch(now, delayed.to, &delayed.fetch, outcome.answer, net);
        }
    }

    fn answer_fetch(&mut self, now: Time, to: ReplyTo, fetch: &Fetch, mut answer: FetchAnswer, net: &mut Endpoint) {
        if to.api_version >= 16 {
            self.add_fetch_leader_hints(fetch, &mut answer);
        }
        if !fetch.is_from_follower() {
            self.observe_served(now, fetch, &answer);
        }
        self.connections.respond_to_fetch(to, answer, net);
    }

    /// Tells a reader that came to the wrong broker where the leader is (KIP-951).
    fn add_fetch_leader_hints(&self, fetch: &Fetch, answer: &mut FetchAnswer) {
        let mut leaders = Vec::new();
        let answers = answer.topics.iter_mut().flat_map(|t| &mut t.partitions);
        for (key, answer) in fetch.partitions.iter().zip(answers) {
            let is_misdirected =
                matches!(answer.error, Some(ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch));
            let Some((id, index)) = key.as_ref().ok().filter(|_| is_misdirected) else { continue };
            if let Some(state) = self.env.image.topics.get(id).and_then(|t| t.partitions.get(index)) {
                leaders.push(state.leader);
                answer.current_leader = Some((state.leader, state.leader_epoch));
            }
        }
        leaders.sort();
        leaders.dedup();
        let registered = leaders.iter().filter_map(|id| self.env.image.brokers.get(id));
        answer.node_endpoints = registered
            .map(|broker| {
                NodeEndpoint::default()
                    .with_node_id(broker.id.0.into())
                    .with_host(StrBytes::from_string(broker.endpoint.host.clone()))
                    .with_port(i32::from(broker.endpoint.port))
            })
            .collect();
    }

    fn observe_served(&self, now: Time, fetch: &Fetch, answer: &FetchAnswer) {
        let answers = answer.topics.iter().flat_map(|t| &t.partitions);
        let asked = fetch.question.topics.iter().flat_map(|t| &t.partitions);
        for ((key, asked), answer) in fetch.partitions.iter().zip(asked).zip(answers) {
            let hosted = key.as_ref().ok().and_then(|key| self.partitions.get(key));
            let Some(hosted) = hosted else { continue };
            let partition = || hosted.partition.topic_partition().clone();
            if let Some(to) = end_of_records(&answer.records) {
                self.env.observe(now, Observation::Served { partition: partition(), from: asked.offset, to });
            } else if let Some(replica) = answer.preferred_read_replica {
                let (partition, offset) = (partition(), asked.offset);
                self.env.observe(now, Observation::ReferredTo { partition, offset, replica });
            }
        }
    }
}

fn partition_bytes_max(asked: &PartitionQuestion) -> usize {
    usize::try_from(asked.bytes_max).unwrap_or(0)
}

fn read_request(asked: &PartitionQuestion, bytes_max: usize, at_least_one: bool) -> ReadRequest {
    let epoch = |epoch: LeaderEpoch| (epoch.0 >= 0).then_some(epoch);
    ReadRequest {
        offset: asked.offset,
        current_leader_epoch: epoch(asked.current_leader_epoch),
        last_fetched_epoch: epoch(asked.last_fetched_epoch),
        log_start: asked.log_start,
        bytes_max,
        at_least_one,
    }
}

fn partition_answer(index: i32, data: FetchedData, isolation_level: i8) -> PartitionAnswer {
    const READ_COMMITTED: i8 = 1;
    PartitionAnswer {
        index,
        error: None,
        high_watermark: data.high_watermark,
        last_stable_offset: data.high_watermark,
        log_start: data.log_start,
        diverging_epoch: data.diverging_epoch,
        current_leader: None,
        aborted_transactions: (isolation_level == READ_COMMITTED).then(Vec::new),
        preferred_read_replica: data.preferred_read_replica,
        records: data.records,
    }
}

/// The offset after the last record of a set of whole batches.
fn end_of_records(records: &Chain) -> Option<Offset> {
    let mut end = None;
    let (mut reader, mut header) = (records.reader(), [0; 27]);
    while reader.read(&mut header) {
        let base_offset = i64::from_be_bytes(header[0..8].try_into().expect("eight bytes"));
        let length = i32::from_be_bytes(header[8..12].try_into().expect("four bytes"));
        let last_offset_delta = i32::from_be_bytes(header[23..27].try_into().expect("four bytes"));
        end = Some(Offset(base_offset + i64::from(last_offset_delta) + 1));
        reader.skip((12 + usize::try_from(length).ok()?).checked_sub(header.len())?);
    }
    end
}
