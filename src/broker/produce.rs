//! Produce (`KafkaApis.handleProduceRequest`, `ReplicaManager.appendRecords`, `DelayedProduce`).

use std::collections::BTreeSet;

use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::connections::ReplyTo;
use super::delayed::Delayed;
use super::log_dirs::not_here;
use super::{Broker, Key, Partitions, Touched};
use crate::defect::Defect;
use crate::log::batch::Header;
use crate::observe::Observation;
use crate::protocol::{ErrorCode, Offset, TopicPartition, duration_of};
use crate::replica::{Acknowledgement, ReplicaError};
use crate::world::{Endpoint, IoWait, Time};

/// An acks=all request whose records wait for their replicas.
pub(super) struct DelayedProduce {
    to: ReplyTo,
    response: ProduceResponse,
    appended: Vec<AppendedPartition>,
    pub deadline: Time,
    /// The disk's part in the append.
    wait: Option<IoWait>,
}

/// One partition of a request, appended.
struct AppendedPartition {
    key: Key,
    /// Position of its response: topic, partition.
    at: (usize, usize),
    base_offset: Offset,
    last_offset: Offset,
    log_append_time: Option<i64>,
    is_pending: bool,
}

impl DelayedProduce {
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.appended.iter().map(|a| a.key)
    }

    /// Settles what can be settled; true once nothing is pending.
    pub fn is_complete(&mut self, partitions: &Partitions, offline: &BTreeSet<Key>) -> bool {
        for appended in self.appended.iter_mut().filter(|a| a.is_pending) {
            let acknowledgement = match partitions.get(&appended.key) {
                Some(hosted) => hosted.partition.acknowledgement(appended.last_offset + 1),
                None => Acknowledgement::Failed(not_here(offline, appended.key, ErrorCode::UnknownTopicOrPartition)),
            };
            let error_code = match acknowledgement {
                Acknowledgement::Waiting => continue,
                Acknowledgement::Done => 0,
                Acknowledgement::Failed(error) => error.code(),
            };
            appended.is_pending = false;
            self.response.responses[appended.at.0].partition_responses[appended.at.1].error_code = error_code;
        }
        self.appended.iter().all(|a| !a.is_pending)
    }
}

impl Broker {
    pub(super) fn handle_produce(&mut self, now: Time, to: ReplyTo, request: &ProduceRequest, net: &mut Endpoint) {
        let (mut response, appended) = self.append_to_logs(now, to.api_version, request);
        if self.is_finished {
            return;
        }
        let answers_at_once = self.options.config.defects.has(Defect::AckAfterLeader);
        if request.acks != -1 || appended.is_empty() || answers_at_once {
            self.observe_produced(now, request.acks, &response, &appended);
            return self.answer_produce(to, request.acks, &mut response, net);
        }
        for appended in &appended {
            // What remains if the request expires.
            response.responses[appended.at.0].partition_responses[appended.at.1].error_code =
                ErrorCode::RequestTimedOut.code();
        }
        let timeout = duration_of(request.timeout_ms);
        let mut delayed =
            DelayedProduce { to, response, appended, deadline: now + timeout, wait: self.connections.take_wait() };
        if delayed.is_complete(&self.partitions, &self.offline) {
            return self.finish_produce(now, delayed, net);
        }
        let keys: Vec<Key> = delayed.keys().collect();
        let id = self.purgatory.add(Delayed::Produce(delayed));
        for key in keys {
            // Another partition of the request may have taken its directory offline since.
            match self.partitions.get_mut(&key) {
                Some(hosted) => hosted.waiting_produce.push(id),
                None => self.purgatory.orphan([id].into_iter()),
            }
        }
    }

    /// Appends every partition's records. The response is complete for acks 0 and 1.
    fn append_to_logs(
        &mut self,
        now: Time,
        api_version: i16,
        request: &ProduceRequest,
    ) -> (ProduceResponse, Vec<AppendedPartition>) {
        let mut appended = Vec::new();
        let mut responses = Vec::with_capacity(request.topic_data.len());
        for topic in &request.topic_data {
            let topic_id = self.env.image.topic_ids.get(topic.name.as_str()).copied();
            let mut partition_responses = Vec::with_capacity(topic.partition_data.len());
            for data in &topic.partition_data {
                let at = (responses.len(), partition_responses.len());
                let key = topic_id.map(|id| (id, data.index));
                let mut response = PartitionProduceResponse::default().with_index(data.index).with_base_offset(-1);
                match self.append_one(now, api_version, request.acks, key, data.records.as_ref()) {
                    Ok(partition) => {
                        response.base_offset = partition.base_offset.0;
                        response.log_append_time_ms = partition.log_append_time.unwrap_or(-1);
                        appended.push(AppendedPartition { at, ..partition });
                    }
                    Err(error) => response.error_code = error.code(),
                }
                // Refused batches too: an idempotent producer tells by it what became of its records.
                let hosted = key.and_then(|key| self.partitions.get(&key));
                response.log_start_offset = hosted.map_or(-1, |h| h.partition.log().log_start().0);
                partition_responses.push(response);
            }
            responses.push(
                TopicProduceResponse::default()
                    .with_name(topic.name.clone())
                    .with_partition_responses(partition_responses),
            );
        }
        (ProduceResponse::default().with_responses(responses), appended)
    }

    fn append_one(
        &mut self,
        now: Time,
        api_version: i16,
        acks: i16,
        key: Option<Key>,
        records: Option<&Bytes>,
    ) -> Result<AppendedPartition, ErrorCode> {
        if !(-1..=1).contains(&acks) {
            return Err(ErrorCode::InvalidRequiredAcks);
        }
        let key = self.known_partition(key)?;
        // Kafka lets its admin clients do it.
        if self.groups.is_of_topic(key) {
            return Err(ErrorCode::InvalidTopicException);
        }
        let records = records.ok_or(ErrorCode::InvalidRecord)?;
        validate_records(api_version, records)?;
        let missing = self.why_not_here(key);
        let hosted = self.partitions.get_mut(&key).ok_or(missing)?;
        let wall_clock_ms = self.world.wall_clock_ms();
        match hosted.partition.append_as_leader(now, &self.env, records, acks, wall_clock_ms) {
            Ok(append) => {
                let touched = if append.high_watermark_advanced { Touched::All } else { Touched::LogEnd };
                self.touched.push((key, touched));
                Ok(AppendedPartition {
                    key,
                    at: (0, 0),
                    base_offset: append.appended.base_offset,
                    last_offset: append.appended.last_offset,
                    log_append_time: append.appended.log_append_time,
                    is_pending: true,
                })
            }
            Err(ReplicaError::Refused(error)) => {
                if error == ErrorCode::OutOfOrderSequenceNumber
                    && let Ok(Header { crc, .. }) = Header::parse(records)
                {
                    let partition = hosted.partition.topic_partition().clone();
                    self.env.observe(now, Observation::OutOfSequence { partition, crc });
                }
                Err(error)
            }
            Err(ReplicaError::Io(error)) => Err(self.storage_failed(now, key, error)),
        }
    }

    /// The partition if the metadata has it, whether or not we host it.
    pub(super) fn known_partition(&self, key: Option<Key>) -> Result<Key, ErrorCode> {
        key.filter(|(id, index)| self.env.image.topics.get(id).is_some_and(|t| t.partitions.contains_key(index)))
            .ok_or(ErrorCode::UnknownTopicOrPartition)
    }

    pub(super) fn finish_produce(&mut self, now: Time, mut produce: DelayedProduce, net: &mut Endpoint) {
        self.observe_produced(now, -1, &produce.response, &produce.appended);
        self.connections.owe(produce.wait);
        self.answer_produce(produce.to, -1, &mut produce.response, net);
    }

    fn answer_produce(&mut self, to: ReplyTo, acks: i16, response: &mut ProduceResponse, net: &mut Endpoint) {
        if acks == 0 {
            // No response is expected: only a closed connection can tell the producer of an error.
            let mut partitions = response.responses.iter().flat_map(|t| &t.partition_responses);
            if partitions.any(|p| p.error_code != 0) {
                self.connections.close(to.conn, net);
            } else {
                self.connections.finish_silently(to.conn, net);
            }
            return;
        }
        if to.api_version >= 10 {
            self.add_leader_hints(response);
        }
        self.connections.respond::<ProduceRequest>(to, response, net);
    }

    /// Tells a producer that came to the wrong broker where the leader is (KIP-951).
    fn add_leader_hints(&self, response: &mut ProduceResponse) {
        let mut leaders = Vec::new();
        for topic in &mut response.responses {
            for partition in &mut topic.partition_responses {
                if partition.error_code != ErrorCode::NotLeaderOrFollower.code() {
                    continue;
                }
                let state = self.env.image.topic(topic.name.as_str()).and_then(|t| t.partitions.get(&partition.index));
                if let Some(state) = state {
                    leaders.push(state.leader);
                    partition.current_leader = LeaderIdAndEpoch::default()
                        .with_leader_id(state.leader.0.into())
                        .with_leader_epoch(state.leader_epoch.0);
                }
            }
        }
        leaders.sort();
        leaders.dedup();
        let registered = leaders.iter().filter_map(|id| self.env.image.brokers.get(id));
        response.node_endpoints = registered
            .map(|broker| {
                NodeEndpoint::default()
                    .with_node_id(broker.id.0.into())
                    .with_host(StrBytes::from_string(broker.endpoint.host.clone()))
                    .with_port(i32::from(broker.endpoint.port))
            })
            .collect();
    }

    fn observe_produced(&self, now: Time, acks: i16, response: &ProduceResponse, appended: &[AppendedPartition]) {
        let mut appended = appended.iter().peekable();
        for (t, topic) in response.responses.iter().enumerate() {
            for (p, partition) in topic.partition_responses.iter().enumerate() {
                let offsets = appended.next_if(|a| a.at == (t, p)).map(|a| (a.base_offset, a.last_offset));
                let topic_partition = TopicPartition { topic: topic.name.clone(), partition: partition.index };
                let observation = match offsets {
                    Some((base_offset, last_offset)) if partition.error_code == 0 => Observation::Acknowledged {
                        partition: topic_partition,
                        required_acks: acks,
                        base_offset,
                        last_offset,
                    },
                    _ => Observation::Refused { partition: topic_partition, error_code: partition.error_code },
                };
                self.env.observe(now, observation);
            }
        }
    }
}

/// What every produced record set must be (`ProduceRequest.validateRecords`); the log checks the batch itself.
fn validate_records(api_version: i16, records: &Bytes) -> Result<(), ErrorCode> {
    const MAGIC_AT: usize = 16;
    const ATTRIBUTES_AT: usize = 21;
    const COMPRESSION_MASK: u8 = 0x07;
    const ZSTD: u8 = 4;
    let length = records.get(8..12).ok_or(ErrorCode::InvalidRecord)?;
    let batch_bytes = 12 + i64::from(i32::from_be_bytes(length.try_into().expect("four bytes")));
    let is_one_batch = batch_bytes >= i64::try_from(records.len()).expect("a frame's length fits");
    if !is_one_batch || records.get(MAGIC_AT) != Some(&2) {
        return Err(ErrorCode::InvalidRecord);
    }
    if api_version < 7 && records.get(ATTRIBUTES_AT).is_some_and(|a| a & COMPRESSION_MASK == ZSTD) {
        return Err(ErrorCode::UnsupportedCompressionType);
    }
    Ok(())
}
