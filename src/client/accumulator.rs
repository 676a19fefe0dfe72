//! Records waiting to be sent, batched per partition (Kafka's `RecordAccumulator`, `ProducerBatch` and the
//! byte accounting of `BufferPool`). Decides what is ready; sends nothing.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::messages::TopicName;
use kafka_protocol::records::{
    NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record, RecordBatchDecoder,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use rustc_hash::FxBuildHasher;

use super::backoff::ExponentialBackoff;
use super::compression_ratio::CompressionRatio;
use super::delivery::{ProducerRecord, RecordHeader, RecordId};
use super::metadata::{Metadata, TopicMetadata};
use super::partitioner::TopicPartitioner;
use super::transaction_manager::{ProducerIdAndEpoch, ProducerState, increment};
use crate::defect::{Defect, Defects};
use crate::log::batch::{HEADER_BYTES, set_producer_state};
use crate::log::compression::Compression;
use crate::protocol::{BrokerId, LeaderEpoch};
use crate::world::{Rng, Time};

/// Where a batch's header has its CRC.
const CRC_AT: usize = 17;
/// `DefaultRecord.MAX_RECORD_OVERHEAD`: length, attributes and deltas of a record at their longest.
const RECORD_OVERHEAD_BYTES_MAX: usize = 21;

/// Bytes of a batch with this one record, at most (`AbstractRecords.estimateSizeInBytesUpperBound`).
pub(super) fn batch_bytes_max(record: &ProducerRecord) -> usize {
    HEADER_BYTES + RECORD_OVERHEAD_BYTES_MAX + payload_bytes(record)
}

/// Key, value and headers with their lengths (`DefaultRecord.sizeOf`).
fn payload_bytes(record: &ProducerRecord) -> usize {
    let sized = |bytes: usize| varint_bytes(bytes as i64) + bytes;
    let field = |field: Option<&Bytes>| field.map_or(1, |bytes| sized(bytes.len()));
    let header = |header: &RecordHeader| sized(header.key.len()) + field(header.value.as_ref());
    let headers: usize = record.headers.iter().map(header).sum();
    field(record.key.as_ref()) + field(record.value.as_ref()) + varint_bytes(record.headers.len() as i64) + headers
}

fn record_bytes(offset_delta: usize, timestamp_delta: i64, record: &ProducerRecord) -> usize {
    let body = 1 + varint_bytes(offset_delta as i64) + varint_bytes(timestamp_delta) + payload_bytes(record);
    varint_bytes(body as i64) + body
}

/// Length of a zigzag varint.
fn varint_bytes(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

/// Records of one partition that travel, are retried and end together.
pub(super) struct ProducerBatch {
    /// Index of the topic in the accumulator.
    pub topic: usize,
    pub partition: i32,
    pub created: Time,
    /// Completed attempts.
    pub attempts: u32,
    /// Some attempt may be in the log.
    pub maybe_appended: bool,
    /// In the order of the records.
    pub ids: Vec<RecordId>,
    /// Of an idempotent producer, once it was sent.
    pub producer: Option<ProducerState>,
    /// It got another sequence since it was last sent (`sequenceHasBeenReset`).
    pub was_reassigned: bool,
    /// Part of a batch that was too large for its broker. It holds no buffer memory.
    is_split: bool,
    records: Vec<Record>,
    /// Empty until encoded; the same bytes are sent at every attempt, unless its producer state changes.
    encoded: Bytes,
    /// Of the records, before compression.
    records_bytes: usize,
    /// What compression is expected to make of them.
    ratio: CompressionRatio,
    bytes_max: usize,
    base_timestamp: i64,
    closed: bool,
    last_attempt: Time,
    backoff: Duration,
    leader_epoch: LeaderEpoch,
    attempts_when_leader_changed: Option<u32>,
}

impl ProducerBatch {
    fn new(
        topic: usize,
        partition: i32,
        now: Time,
        bytes_max: usize,
        records: Vec<Record>,
        ratio: CompressionRatio,
    ) -> ProducerBatch {
        ProducerBatch {
            topic,
            partition,
            created: now,
            attempts: 0,
            maybe_appended: false,
            ids: Vec::new(),
            producer: None,
            was_reassigned: false,
            is_split: false,
            records,
            encoded: Bytes::new(),
            records_bytes: 0,
            ratio,
            bytes_max,
            base_timestamp: 0,
            closed: false,
            last_attempt: now,
            backoff: Duration::ZERO,
            leader_epoch: LeaderEpoch::NONE,
            attempts_when_leader_changed: None,
        }
    }

    /// CRC-32C in its header; zero until it is encoded.
    pub fn crc(&self) -> u32 {
        let field = self.encoded.get(CRC_AT..CRC_AT + 4);
        field.map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")))
    }

    /// Buffer memory it holds.
    pub fn memory(&self) -> usize {
        if self.is_split { 0 } else { self.bytes_max }
    }

    /// Size when encoded. Until it is: exact without compression, unless timestamps go back within the batch; an
    /// estimate with it (`MemoryRecordsBuilder.estimatedBytesWritten`).
    pub fn bytes(&self) -> usize {
        match self.encoded.len() {
            0 => HEADER_BYTES + self.ratio.estimate(self.records_bytes),
            encoded => encoded,
        }
    }

    fn is_full(&self) -> bool {
        self.closed || (!self.ids.is_empty() && self.bytes() >= self.bytes_max)
    }

    /// Appends a record unless the batch is full; the first always fits. Returns the bytes added.
    fn try_append(&mut self, id: RecordId, timestamp: i64, record: &ProducerRecord) -> Option<usize> {
        let offset = self.ids.len();
        if offset == 0 {
            self.base_timestamp = timestamp;
        }
        let bytes = record_bytes(offset, timestamp - self.base_timestamp, record);
        if self.is_full() || (offset > 0 && self.bytes() + bytes > self.bytes_max) {
            self.closed = true;
            return None;
        }
        self.records.push(Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timestamp_type: TimestampType::Creation,
            offset: offset as i64,
            // The encoder starts a new batch wherever sequence and offset do not advance together.
            sequence: NO_SEQUENCE.wrapping_add(offset as i32),
            timestamp,
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record.headers.iter().map(|header| (header.key.clone(), header.value.clone())).collect(),
        });
        self.ids.push(id);
        self.records_bytes += bytes;
        Some(bytes)
    }

    /// Says something else of its producer (`resetProducerState`).
    pub fn reassign(&mut self, producer: ProducerState) {
        if !self.encoded.is_empty() {
            let ProducerState { producer: ProducerIdAndEpoch { producer_id, epoch }, base_sequence } = producer;
            let mut bytes = BytesMut::from(&self.encoded[..]);
            set_producer_state(&mut bytes, producer_id, epoch, base_sequence);
            self.encoded = bytes.freeze();
        }
        self.producer = Some(producer);
        self.was_reassigned = true;
    }

    /// Its records in smaller batches, in their order and as old as it is (KIP-126, `ProducerBatch.split`): of at most
    /// `batch_size` bytes if it was filled by appends, of about half of its own if it comes from a split itself. One
    /// record always fits. They go on with its sequences.
    fn split(&self, batch_size: usize, topic: &TopicName, ratio: CompressionRatio) -> Vec<ProducerBatch> {
        let decoded = RecordBatchDecoder::decode(&mut self.encoded.clone()).expect("it was encoded here");
        let as_sent = |record: Record| {
            let header = |(key, value)| RecordHeader { key, value };
            let sent = ProducerRecord {
                topic: topic.clone(),
                partition: Some(self.partition),
                key: record.key,
                value: record.value,
                headers: record.headers.into_iter().map(header).collect(),
                timestamp_ms: Some(record.timestamp),
            };
            (record.timestamp, sent)
        };
        let records: Vec<(i64, ProducerRecord)> = decoded.records.into_iter().map(as_sent).collect();
        let largest = records.iter().map(|(_, record)| batch_bytes_max(record)).max().unwrap_or(0);
        let target = if self.is_split { largest.max(self.bytes() / 2) } else { batch_size };
        let mut parts: Vec<ProducerBatch> = Vec::new();
        for (&id, (timestamp, record)) in self.ids.iter().zip(&records) {
            if parts.last_mut().and_then(|last| last.try_append(id, *timestamp, record)).is_some() {
                continue;
            }
            let bytes_max = target.max(batch_bytes_max(record));
            let mut part = ProducerBatch::new(self.topic, self.partition, self.created, bytes_max, Vec::new(), ratio);
            part.is_split = true;
            part.maybe_appended = self.maybe_appended;
            part.try_append(id, *timestamp, record).expect("an empty batch takes any record");
            parts.push(part);
        }
        let mut next = self.producer;
        for part in &mut parts {
            part.closed = true;
            part.producer = next;
            let behind = |state: ProducerState| increment(state.base_sequence, part.ids.len() as i32);
            next = next.map(|state| ProducerState { base_sequence: behind(state), ..state });
        }
        parts
    }

    pub fn is_expired(&self, now: Time, delivery_timeout: Duration) -> bool {
        now.since(self.created) >= delivery_timeout
    }

    /// Notes the leader's epoch: a retry need not back off from a leader that is no longer asked (KIP-951,
    /// `ProducerBatch.maybeUpdateLeaderEpoch`).
    fn note_leader_epoch(&mut self, epoch: LeaderEpoch) {
        if epoch > self.leader_epoch {
            self.leader_epoch = epoch;
            self.attempts_when_leader_changed = Some(self.attempts);
        }
    }

    /// Until when a retry waits, unless the leader has changed since the last attempt.
    fn backs_off_until(&self, now: Time) -> Option<Time> {
        let until = self.last_attempt + self.backoff;
        let leader_changed = self.attempts_when_leader_changed == Some(self.attempts);
        (self.attempts > 0 && !leader_changed && until > now).then_some(until)
    }
}

#[derive(Default)]
struct PartitionQueue {
    batches: VecDeque<ProducerBatch>,
    /// A batch of it is in flight and order must hold (`max.in.flight.requests.per.connection=1`).
    muted: bool,
}

impl PartitionQueue {
    /// Only the last batch can be open.
    fn is_at_batch_boundary(&self) -> bool {
        self.batches.back().is_none_or(ProducerBatch::is_full)
    }
}

struct TopicQueues {
    partitioner: TopicPartitioner,
    /// As the topic's batches have turned out so far.
    ratio: CompressionRatio,
    partitions: Vec<PartitionQueue>,
}

/// Where a record without an explicit partition is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Placement {
    Partition(i32),
    /// The sticky partition of the moment.
    Sticky,
}

/// A record was placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Appended {
    pub partition: i32,
    /// The sender has something new to look at: a new batch, or one that became full.
    pub wakes_sender: bool,
}

/// `buffer.memory` is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OutOfMemory;

/// A partition whose first batch may go to its leader now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Candidate {
    pub leader: BrokerId,
    pub topic: usize,
    pub partition: i32,
    /// Full, lingered out or flushed: reason enough for a request. The others travel along.
    pub is_sendable: bool,
}

/// What [`RecordAccumulator::ready`] found besides candidates.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct ReadyCheck {
    /// When a lingering or backing-off batch becomes sendable.
    pub next_check_at: Option<Time>,
    pub has_unknown_leader: bool,
}

pub(super) struct RecordAccumulator {
    compression: Compression,
    batch_size: usize,
    linger: Duration,
    retry_backoff: ExponentialBackoff,
    memory_free: usize,
    topics: IndexMap<TopicName, TopicQueues, FxBuildHasher>,
    rng: Rng,
    /// Emptied record vectors of encoded batches, for the next ones.
    spare_records: Vec<Vec<Record>>,
    defects: Defects,
}

impl RecordAccumulator {
    pub fn new(
        compression: Compression,
        batch_size: usize,
        linger: Duration,
        retry_backoff: ExponentialBackoff,
        memory: usize,
        rng: Rng,
        defects: Defects,
    ) -> RecordAccumulator {
        RecordAccumulator {
            compression,
            batch_size: batch_size.max(1),
            linger,
            retry_backoff,
            memory_free: memory,
            topics: IndexMap::default(),
            rng,
            spare_records: Vec::new(),
            defects,
        }
    }

    /// Index of a topic, made on first use.
    pub fn topic_index(&mut self, name: &TopicName) -> usize {
        if let Some(index) = self.topics.get_index_of(name) {
            return index;
        }
        let ratio = CompressionRatio::of(self.compression);
        let queues = TopicQueues { partitioner: TopicPartitioner::default(), ratio, partitions: Vec::new() };
        self.topics.insert_full(name.clone(), queues).0
    }

    pub fn topic_name(&self, index: usize) -> &TopicName {
        self.topics.get_index(index).expect("topics are never removed").0
    }

    pub fn round_robin(&mut self, topic: usize, metadata: &TopicMetadata) -> i32 {
        self.topics[topic].partitioner.round_robin(metadata)
    }

    /// Adds a record to its partition's open batch, or to a new one if there is memory for it.
    #[allow(clippy::too_many_arguments)] // what an append is made of
    pub fn append(
        &mut self,
        now: Time,
        topic: usize,
        placement: Placement,
        id: RecordId,
        timestamp: i64,
        record: &ProducerRecord,
        metadata: &TopicMetadata,
    ) -> Result<Appended, OutOfMemory> {
        let partition = match placement {
            Placement::Partition(partition) => partition,
            Placement::Sticky => self.sticky_partition(topic, metadata),
        };
        let queues = &mut self.topics[topic];
        let (ratio, queue) = (queues.ratio, queue_mut(&mut queues.partitions, partition));
        let into_open = queue.batches.back_mut().and_then(|last| last.try_append(id, timestamp, record));
        let (bytes, is_new) = match into_open {
            Some(bytes) => (bytes, false),
            None => {
                let memory = self.batch_size.max(batch_bytes_max(record));
                self.memory_free = self.memory_free.checked_sub(memory).ok_or(OutOfMemory)?;
                let records = self.spare_records.pop().unwrap_or_default();
                let mut batch = ProducerBatch::new(topic, partition, now, memory, records, ratio);
                batch.try_append(id, timestamp, record).expect("an empty batch takes any record");
                queue.batches.push_back(batch);
                (queue.batches[queue.batches.len() - 1].bytes(), true)
            }
        };
        let is_full = queue.batches.len() > 1 || queue.is_at_batch_boundary();
        if placement == Placement::Sticky {
            let can_switch = queue.is_at_batch_boundary();
            let partitioner = &mut self.topics[topic].partitioner;
            partitioner.on_appended(bytes, self.batch_size, can_switch, metadata, &mut self.rng);
        }
        Ok(Appended { partition, wakes_sender: is_full || is_new })
    }

    /// The sticky partition, after a switch that had been held back by an open batch which has gone since.
    fn sticky_partition(&mut self, topic: usize, metadata: &TopicMetadata) -> i32 {
        let TopicQueues { partitioner, partitions, .. } = &mut self.topics[topic];
        let partition = partitioner.sticky(metadata, &mut self.rng);
        if queue_mut(partitions, partition).is_at_batch_boundary() {
            partitioner.on_appended(0, self.batch_size, true, metadata, &mut self.rng);
        }
        partitioner.sticky(metadata, &mut self.rng)
    }

    /// Collects into `candidates` every partition whose first batch may be sent now, ordered by leader.
    /// `send_all`: linger no longer (flush, close, or someone waits for memory).
    pub fn ready(
        &mut self,
        now: Time,
        metadata: &Metadata,
        send_all: bool,
        candidates: &mut Vec<Candidate>,
    ) -> ReadyCheck {
        candidates.clear();
        let mut check = ReadyCheck::default();
        for (topic, (name, queues)) in self.topics.iter_mut().enumerate() {
            let topic_metadata = metadata.topic(name);
            for (partition, queue) in queues.partitions.iter_mut().enumerate() {
                let partition = partition as i32;
                let is_crowded = queue.batches.len() > 1;
                let Some(batch) = queue.batches.front_mut() else { continue };
                let known = topic_metadata.map(|t| t.leader(partition));
                let Some((leader, epoch)) = known.and_then(|l| l.leader.map(|leader| (leader, l.epoch))) else {
                    check.has_unknown_leader = true;
                    continue;
                };
                batch.note_leader_epoch(epoch);
                if queue.muted {
                    continue;
                }
                let lingers_until = batch.last_attempt + self.linger;
                let backs_off_until = batch.backs_off_until(now);
                let wait = match backs_off_until {
                    Some(until) => Some(until),
                    None if is_crowded || batch.is_full() || send_all || lingers_until <= now => None,
                    None => Some(lingers_until),
                };
                if let Some(until) = wait {
                    check.next_check_at = Some(check.next_check_at.map_or(until, |at| at.min(until)));
                }
                if backs_off_until.is_none() {
                    candidates.push(Candidate { leader, topic, partition, is_sendable: wait.is_none() });
                }
            }
        }
        candidates.sort_unstable();
        check
    }

    /// The first batch of a candidate.
    pub fn first_batch(&self, candidate: Candidate) -> &ProducerBatch {
        let queue = &self.topics[candidate.topic].partitions[candidate.partition as usize];
        queue.batches.front().expect("a candidate has a batch")
    }

    /// Takes the first batch of a candidate for sending, closed and encoded; whoever sends it clears
    /// [`ProducerBatch::was_reassigned`]. `producer`: what it is to say of its
    /// producer, if it has not said it before.
    pub fn drain(
        &mut self,
        candidate: Candidate,
        mute: bool,
        producer: Option<ProducerState>,
    ) -> (ProducerBatch, Bytes) {
        let queues = &mut self.topics[candidate.topic];
        let queue = &mut queues.partitions[candidate.partition as usize];
        let mut batch = queue.batches.pop_front().expect("a candidate has a batch");
        queue.muted = mute;
        if batch.encoded.is_empty() {
            batch.closed = true;
            batch.producer = batch.producer.or(producer);
            if let Some(producer) = batch.producer {
                state_producer(&mut batch.records, producer);
            }
            batch.encoded = encode(&batch.records, batch.bytes(), self.compression);
            queues.ratio.observe(batch.records_bytes, batch.encoded.len() - HEADER_BYTES);
            let mut records = std::mem::take(&mut batch.records);
            records.clear();
            self.spare_records.push(records);
        }
        let encoded = batch.encoded.clone();
        (batch, encoded)
    }

    pub fn unmute(&mut self, topic: usize, partition: i32) {
        queue_mut(&mut self.topics[topic].partitions, partition).muted = false;
    }

    /// Puts a batch back at the front of its partition, to be tried again after its backoff. Batches that were in
    /// flight together come back in the reverse of their order, as in Kafka without idempotence; with it they stand in
    /// the order of their sequences (`insertInSequenceOrder`).
    pub fn reenqueue(&mut self, now: Time, mut batch: ProducerBatch) {
        batch.backoff = self.retry_backoff.after(batch.attempts, &mut self.rng);
        batch.attempts += 1;
        batch.last_attempt = now;
        self.enqueue_again(batch);
    }

    /// Puts the records of a batch that was too large for its broker at the front of its partition, in smaller batches
    /// that count as never tried (KIP-126, `splitAndReenqueue`); the topic is taken to compress badly for a while.
    /// Returns what each says of its producer, and how many records it holds.
    pub fn split(&mut self, batch: &ProducerBatch) -> Vec<(Option<ProducerState>, usize)> {
        let (name, queues) = self.topics.get_index_mut(batch.topic).expect("topics are never removed");
        queues.ratio.reset(batch.records_bytes, batch.encoded.len() - HEADER_BYTES);
        let parts = batch.split(self.batch_size, name, queues.ratio);
        let stated = parts.iter().map(|part| (part.producer, part.ids.len())).collect();
        parts.into_iter().rev().for_each(|part| self.enqueue_again(part));
        stated
    }

    fn enqueue_again(&mut self, batch: ProducerBatch) {
        let queue = queue_mut(&mut self.topics[batch.topic].partitions, batch.partition);
        let sequence = |batch: &ProducerBatch| batch.producer.map(|producer| producer.base_sequence);
        if self.defects.has(Defect::RetryUnordered) {
            // Whoever waits behind it is sent first, however few requests may be in flight.
            queue.batches.push_back(batch);
        } else if let Some(own) = sequence(&batch) {
            let is_before = |other: &&ProducerBatch| sequence(other).is_some_and(|other| other < own);
            let at = queue.batches.iter().take_while(is_before).count();
            queue.batches.insert(at, batch);
        } else {
            queue.batches.push_front(batch);
        }
    }

    /// The batches of a partition that wait to be sent, again or for the first time.
    pub fn queued_mut(&mut self, topic: usize, partition: i32) -> impl Iterator<Item = &mut ProducerBatch> {
        queue_mut(&mut self.topics[topic].partitions, partition).batches.iter_mut()
    }

    /// Gives a batch's memory back.
    pub fn deallocate(&mut self, batch: &ProducerBatch) {
        self.memory_free += batch.memory();
    }

    /// Takes out the batches whose delivery timeout has passed, in the order of sending; returns when the next of
    /// the others expires.
    pub fn expired(&mut self, now: Time, delivery_timeout: Duration, expired: &mut Vec<ProducerBatch>) -> Option<Time> {
        let mut next: Option<Time> = None;
        for queue in self.topics.values_mut().flat_map(|t| t.partitions.iter_mut()) {
            while let Some(batch) = queue.batches.pop_front() {
                if !batch.is_expired(now, delivery_timeout) {
                    let at = batch.created + delivery_timeout;
                    next = Some(next.map_or(at, |n| n.min(at)));
                    queue.batches.push_front(batch);
                    break;
                }
                expired.push(batch);
            }
        }
        next
    }

    /// Takes out everything that is not in flight.
    pub fn take_all(&mut self) -> Vec<ProducerBatch> {
        let queues = self.topics.values_mut().flat_map(|t| t.partitions.iter_mut());
        queues.flat_map(|q| std::mem::take(&mut q.batches)).collect()
    }
}

fn queue_mut(partitions: &mut Vec<PartitionQueue>, partition: i32) -> &mut PartitionQueue {
    let index = usize::try_from(partition).expect("partitions are checked against metadata");
    if partitions.len() <= index {
        partitions.resize_with(index + 1, PartitionQueue::default);
    }
    &mut partitions[index]
}

/// Writes into each record what its batch says of its producer.
fn state_producer(records: &mut [Record], producer: ProducerState) {
    let ProducerState { producer: ProducerIdAndEpoch { producer_id, epoch }, base_sequence } = producer;
    for (record, at) in records.iter_mut().zip(0..) {
        record.producer_id = producer_id;
        record.producer_epoch = epoch;
        // In step with the offsets, also where the producer's own count has wrapped: a batch has its first only.
        record.sequence = base_sequence.wrapping_add(at);
    }
}

fn encode(records: &[Record], bytes_expected: usize, compression: Compression) -> Bytes {
    let mut buffer = BytesMut::with_capacity(bytes_expected);
    let options = RecordEncodeOptions { version: 2, compression };
    RecordBatchEncoder::encode(&mut buffer, records, &options).expect("records within max.request.size encode");
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use super::super::metadata::tests::{known, learn, topic_name};
    use super::*;
    use kafka_protocol::protocol::StrBytes;
    use kafka_protocol::records::RecordBatchDecoder;
    use rand::SeedableRng;

    const LINGER: Duration = Duration::from_millis(10);
    const DELIVERY_TIMEOUT: Duration = Duration::from_secs(1);

    fn accumulator(batch_size: usize, memory: usize) -> RecordAccumulator {
        compressing(Compression::None, batch_size, memory)
    }

    fn compressing(compression: Compression, batch_size: usize, memory: usize) -> RecordAccumulator {
        let backoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_millis(100));
        RecordAccumulator::new(compression, batch_size, LINGER, backoff, memory, Rng::seed_from_u64(1), Defects::NONE)
    }

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn append(
        accumulator: &mut RecordAccumulator,
        metadata: &Metadata,
        now: Time,
        bytes: usize,
    ) -> Result<Appended, OutOfMemory> {
        let topic = accumulator.topic_index(&topic_name());
        let known = metadata.topic(&topic_name()).expect("known");
        // Every other record has headers.
        let headers = match bytes % 2 {
            0 => Vec::new(),
            _ => vec![RecordHeader { key: StrBytes::from_static_str("h"), value: None }],
        };
        let bytes = if headers.is_empty() { bytes } else { bytes.saturating_sub(3) };
        let value = Some(Bytes::from(vec![b'x'; bytes]));
        let record =
            ProducerRecord { topic: topic_name(), partition: None, key: None, value, headers, timestamp_ms: None };
        accumulator.append(now, topic, Placement::Partition(0), RecordId(0), 1_000, &record, known)
    }

    fn ready(
        accumulator: &mut RecordAccumulator,
        metadata: &Metadata,
        now: Time,
        send_all: bool,
    ) -> (Vec<Candidate>, ReadyCheck) {
        let mut candidates = Vec::new();
        let check = accumulator.ready(now, metadata, send_all, &mut candidates);
        (candidates, check)
    }

    fn candidate(is_sendable: bool) -> Candidate {
        Candidate { leader: BrokerId(1), topic: 0, partition: 0, is_sendable }
    }

    #[test]
    fn a_batch_is_sendable_when_it_lingered_or_is_full_or_everything_is_to_go() {
        let wait = |until| ReadyCheck { next_check_at: Some(at(until)), has_unknown_leader: false };
        let go = ReadyCheck::default();
        let cases = [
            ("lingering", &[10][..], 5, false, false, wait(10)),
            ("lingered out", &[10], 10, false, true, go),
            ("flushed", &[10], 0, true, true, go),
            ("full to the byte", &[11, 63], 0, false, true, go),
            ("a second batch behind it", &[60, 60], 0, false, true, go),
        ];
        for (case, records, now, send_all, is_sendable, check) in cases {
            let (metadata, mut accumulator) = (known(&[(1, 0)]), accumulator(150, 10_000));
            for &bytes in records {
                append(&mut accumulator, &metadata, at(0), bytes).expect("memory");
            }
            let got = ready(&mut accumulator, &metadata, at(now), send_all);
            assert_eq!(got, (vec![candidate(is_sendable)], check), "{case}");
        }
    }

    #[test]
    fn a_partition_without_leader_is_no_candidate_and_says_so() {
        let (metadata, mut accumulator) = (known(&[(-1, 0)]), accumulator(150, 10_000));
        append(&mut accumulator, &metadata, at(0), 10).expect("memory");
        let check = ReadyCheck { next_check_at: None, has_unknown_leader: true };
        assert_eq!(ready(&mut accumulator, &metadata, at(99), false), (vec![], check));
    }

    #[test]
    fn a_muted_partition_waits_for_its_batch_in_flight() {
        let (metadata, mut accumulator) = (known(&[(1, 0)]), accumulator(1, 10_000));
        for _ in 0..2 {
            append(&mut accumulator, &metadata, at(0), 100).expect("memory");
        }
        accumulator.drain(candidate(true), true, None);
        assert_eq!(ready(&mut accumulator, &metadata, at(99), false).0, []);
        accumulator.unmute(0, 0);
        assert_eq!(ready(&mut accumulator, &metadata, at(99), false).0, [candidate(true)]);
    }

    #[test]
    fn a_retry_backs_off_unless_the_leader_has_changed_since() {
        let (mut metadata, mut accumulator) = (known(&[(1, 0)]), accumulator(1, 10_000));
        append(&mut accumulator, &metadata, at(0), 10).expect("memory");
        ready(&mut accumulator, &metadata, at(0), false);
        let (batch, _) = accumulator.drain(candidate(true), false, None);
        accumulator.reenqueue(at(50), batch);
        let backs_off = ReadyCheck { next_check_at: Some(at(150)), has_unknown_leader: false };
        assert_eq!(ready(&mut accumulator, &metadata, at(149), true), (vec![], backs_off));
        learn(&mut metadata, at(149), 1, &[(1, 1)]);
        assert_eq!(ready(&mut accumulator, &metadata, at(149), true).0, [candidate(true)]);
    }

    #[test]
    fn a_record_larger_than_batch_size_gets_a_batch_of_its_own() {
        let (metadata, mut accumulator) = (known(&[(1, 0)]), accumulator(100, 10_000));
        for bytes in [10, 500, 10] {
            append(&mut accumulator, &metadata, at(0), bytes).expect("memory");
        }
        let sizes: Vec<usize> = accumulator.take_all().iter().map(|b| b.ids.len()).collect();
        assert_eq!(sizes, [1, 1, 1]);
    }

    #[test]
    fn memory_is_refused_beyond_the_bound_and_comes_back() {
        let (metadata, mut accumulator) = (known(&[(1, 0)]), accumulator(200, 400));
        for _ in 0..2 {
            append(&mut accumulator, &metadata, at(0), 100).expect("two batches fit");
        }
        assert_eq!(append(&mut accumulator, &metadata, at(0), 100), Err(OutOfMemory));
        let (batch, _) = accumulator.drain(candidate(true), false, None);
        accumulator.deallocate(&batch);
        assert!(append(&mut accumulator, &metadata, at(0), 100).is_ok());
    }

    #[test]
    fn expiry_takes_the_oldest_batches_and_tells_when_the_next_is_due() {
        let (metadata, mut accumulator) = (known(&[(1, 0)]), accumulator(1, 10_000));
        for millis in [0, 100, 200] {
            append(&mut accumulator, &metadata, at(millis), 100).expect("memory");
        }
        let mut expired = Vec::new();
        let next = accumulator.expired(at(1_100), DELIVERY_TIMEOUT, &mut expired);
        assert_eq!(expired.iter().map(|b| b.created).collect::<Vec<_>>(), [at(0), at(100)]);
        assert_eq!(next, Some(at(1_200)));
    }

    #[test]
    fn the_size_of_a_batch_is_known_before_it_is_encoded_and_a_retry_sends_the_same_bytes() {
        let (metadata, mut accumulator) = (known(&[(1, 0)]), accumulator(1 << 20, 1 << 21));
        for bytes in (0..300).chain([8_191, 8_192, 70_000]) {
            append(&mut accumulator, &metadata, at(0), bytes).expect("memory");
        }
        let (batch, encoded) = accumulator.drain(candidate(true), false, None);
        assert_eq!(batch.bytes(), encoded.len());
        let decoded = RecordBatchDecoder::decode(&mut encoded.clone()).expect("a valid batch");
        assert_eq!(decoded.records.len(), 303);
        accumulator.reenqueue(at(0), batch);
        assert_eq!(accumulator.drain(candidate(true), false, None).1, encoded);
    }

    #[test]
    fn batches_with_sequences_are_tried_again_in_their_order_however_they_come_back() {
        let (metadata, mut accumulator) = (known(&[(1, 0)]), accumulator(1, 10_000));
        for _ in 0..5 {
            append(&mut accumulator, &metadata, at(0), 100).expect("memory");
        }
        let producer = ProducerIdAndEpoch { producer_id: 42, epoch: 3 };
        let state = |base_sequence| Some(ProducerState { producer, base_sequence });
        let mut sent: Vec<_> = (0..4).map(|at| accumulator.drain(candidate(true), false, state(at)).0).collect();
        for back in [2, 0, 1, 0] {
            accumulator.reenqueue(at(0), sent.remove(back));
        }
        let queued: Vec<_> = accumulator.queued_mut(0, 0).map(|batch| batch.producer).collect();
        assert_eq!(queued, [state(0), state(1), state(2), state(3), None]);
    }

    #[test]
    fn a_batch_says_what_it_is_told_of_its_producer_and_can_be_told_otherwise() {
        let (metadata, mut accumulator) = (known(&[(1, 0)]), accumulator(1 << 20, 1 << 21));
        for _ in 0..3 {
            append(&mut accumulator, &metadata, at(0), 100).expect("memory");
        }
        let says = |bytes: &Bytes| {
            let header = crate::log::batch::checked(bytes, true).expect("whole and valid");
            (header.producer_id, header.producer_epoch, header.base_sequence, header.records_count)
        };
        let state = |epoch, base_sequence| ProducerState {
            producer: ProducerIdAndEpoch { producer_id: 42, epoch },
            base_sequence,
        };
        let (mut batch, encoded) = accumulator.drain(candidate(true), false, Some(state(0, i32::MAX)));
        assert_eq!(says(&encoded), (42, 0, i32::MAX, 3));
        batch.reassign(state(1, 0));
        accumulator.reenqueue(at(0), batch);
        assert_eq!(says(&accumulator.drain(candidate(true), false, None).1), (42, 1, 0, 3));
    }

    #[test]
    fn a_batch_takes_more_records_once_the_topic_has_been_seen_to_compress() {
        for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let (metadata, mut accumulator) = (known(&[(1, 0)]), compressing(compression, 2_000, 1 << 20));
            let mut sizes = Vec::new();
            for _ in 0..200 {
                while accumulator.topics.is_empty()
                    || accumulator.topics[0].partitions.iter().all(|q| q.batches.len() < 2)
                {
                    append(&mut accumulator, &metadata, at(0), 100).expect("memory");
                }
                let (batch, encoded) = accumulator.drain(candidate(true), false, None);
                let decoded = RecordBatchDecoder::decode(&mut encoded.clone()).expect("a valid batch");
                assert_eq!((decoded.compression, decoded.records.len()), (compression, batch.ids.len()));
                assert_eq!(batch.bytes(), encoded.len());
                sizes.push(batch.ids.len());
                accumulator.deallocate(&batch);
            }
            assert!(sizes[199] > 3 * sizes[0], "{compression:?}: {} and then {}", sizes[0], sizes[199]);
        }
    }
}
