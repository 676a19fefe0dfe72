//! What a process lets an observer see of its decisions: the product states facts and does not know who
//! listens. In the laboratory the trace and the omniscient checkers do; in `serve` they become log lines.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::protocol::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch, TopicPartition};
use crate::world::Time;

/// Where observations go: `(when, which machine, what)`.
pub type Observer = Arc<dyn Fn(Time, &str, Observation) + Send + Sync>;

/// One stored batch, as much as tells it from every other. Saved as `[base, last, epoch, crc]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "(Offset, Offset, LeaderEpoch, u32)", from = "(Offset, Offset, LeaderEpoch, u32)")]
pub struct BatchInfo {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C from the batch header: stands for the content.
    pub crc: u32,
}

impl From<BatchInfo> for (Offset, Offset, LeaderEpoch, u32) {
    fn from(BatchInfo { base_offset, last_offset, leader_epoch, crc }: BatchInfo) -> Self {
        (base_offset, last_offset, leader_epoch, crc)
    }
}

impl From<(Offset, Offset, LeaderEpoch, u32)> for BatchInfo {
    fn from((base_offset, last_offset, leader_epoch, crc): (Offset, Offset, LeaderEpoch, u32)) -> Self {
        BatchInfo { base_offset, last_offset, leader_epoch, crc }
    }
}

/// What a batch says of its idempotent producer. Saved as `[producer id, epoch, first, last]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "(i64, i16, i32, i32)", from = "(i64, i16, i32, i32)")]
pub struct Sequences {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// Of its first record.
    pub first: i32,
    /// Of its last record.
    pub last: i32,
}

impl From<Sequences> for (i64, i16, i32, i32) {
    fn from(Sequences { producer_id, producer_epoch, first, last }: Sequences) -> Self {
        (producer_id, producer_epoch, first, last)
    }
}

impl From<(i64, i16, i32, i32)> for Sequences {
    fn from((producer_id, producer_epoch, first, last): (i64, i16, i32, i32)) -> Self {
        Sequences { producer_id, producer_epoch, first, last }
    }
}

/// Why a replica's log was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TruncationReason {
    /// The leader's log diverges from ours at the end of an epoch (KIP-101, KIP-279, KIP-595 truncation on fetch).
    DivergingEpoch,
    /// Our log end is beyond or before the leader's whole log (OFFSET_OUT_OF_RANGE).
    OutOfRange,
    /// Historic rule before KIP-101: to our own high watermark.
    HighWatermark,
}

/// Why a log begins later than before (Kafka's `LogStartOffsetIncrementReason`, the first kind told apart).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LogStartReason {
    /// A segment older than `retention.ms` was deleted.
    RetentionTime,
    /// The log was larger than `retention.bytes`.
    RetentionSize,
    /// A client asked for it (DeleteRecords).
    DeleteRecords,
    /// The leader's log begins there.
    Leader,
}

/// A fact about one process, stated at the moment it became true.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observation {
    /// Broker: a log was loaded at start. `batches` is all of it; `dropped` says how many bytes recovery cut.
    LogLoaded {
        partition: TopicPartition,
        log_start: Offset,
        log_end: Offset,
        high_watermark: Offset,
        batches: Vec<BatchInfo>,
        dropped_bytes: u64,
        clean: bool,
    },
    /// Broker: batches were appended by its leader role (from a producer) or follower role (from its leader).
    Appended {
        partition: TopicPartition,
        as_leader: bool,
        leader_epoch: LeaderEpoch,
        batches: Vec<BatchInfo>,
        /// Of the one batch that a leader appends, if its producer is idempotent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sequences: Option<Sequences>,
    },
    /// Broker: these producers have been silent for `producer.id.expiration.ms`, and are not known any more.
    ProducersExpired {
        partition: TopicPartition,
        producer_ids: Vec<i64>,
    },
    /// Broker: the log was cut so that its log end is `to`.
    Truncated {
        partition: TopicPartition,
        from: Offset,
        to: Offset,
        reason: TruncationReason,
    },
    /// Broker: compaction took records out of the log's segments between `from` and `to` (exclusive), which hold
    /// `batches` now: some of those before, unchanged or with fewer records.
    Compacted {
        partition: TopicPartition,
        from: Offset,
        to: Offset,
        batches: Vec<BatchInfo>,
        /// `delete.retention.ms`: for so long the tombstones stay that it has seen first.
        delete_retention_ms: i64,
        /// Those that it took out although they were the latest of their keys.
        tombstones: Vec<Offset>,
    },
    /// Broker: the log begins at `to` now, what lies below is not served any more.
    LogStartMoved {
        partition: TopicPartition,
        from: Offset,
        to: Offset,
        reason: LogStartReason,
    },
    /// Broker: everything below `offset` is durable.
    Flushed {
        partition: TopicPartition,
        offset: Offset,
    },
    /// Broker: this replica's view of the high watermark.
    HighWatermark {
        partition: TopicPartition,
        offset: Offset,
        as_leader: bool,
    },
    BecameLeader {
        partition: TopicPartition,
        leader_epoch: LeaderEpoch,
        log_end: Offset,
        isr: Vec<BrokerId>,
    },
    BecameFollower {
        partition: TopicPartition,
        leader_epoch: LeaderEpoch,
        leader: BrokerId,
        log_end: Offset,
    },
    /// Broker: the leader learnt of (or asked for) another ISR. `pending`: sent to the controller, not confirmed.
    IsrView {
        partition: TopicPartition,
        isr: Vec<BrokerId>,
        maximal_isr: Vec<BrokerId>,
        pending: bool,
    },
    /// Broker: a produce request was answered without error. `required_acks` 0 is observed at append.
    Acknowledged {
        partition: TopicPartition,
        required_acks: i16,
        base_offset: Offset,
        last_offset: Offset,
    },
    /// Broker: a produce request was refused with a Kafka error code, or what the coordinator was about to append.
    Refused {
        partition: TopicPartition,
        error_code: i16,
    },
    /// Broker, as leader: a producer's batch was refused with OUT_OF_ORDER_SEQUENCE_NUMBER.
    OutOfSequence {
        partition: TopicPartition,
        /// CRC-32C from its header.
        crc: u32,
    },
    /// Broker, as follower: what its leader sent is larger than a segment may be, and it gives the partition up.
    BeyondSegment {
        partition: TopicPartition,
    },
    /// Broker: a follower gives a partition up, because what its leader sent begins before its own log ends.
    BeforeLogEnd {
        partition: TopicPartition,
    },
    /// Broker: record bytes [from, to) were handed to a consumer.
    Served {
        partition: TopicPartition,
        from: Offset,
        to: Offset,
    },
    /// Broker, as leader: a consumer that asked at `offset` was told to fetch from `replica` (KIP-392).
    ReferredTo {
        partition: TopicPartition,
        offset: Offset,
        replica: BrokerId,
    },
    /// Broker: a client was told that the partition ends there (ListOffsets -1).
    LatestOffset {
        partition: TopicPartition,
        offset: Offset,
    },
    /// Broker: registered with the controller under a new epoch.
    Registered {
        broker_epoch: BrokerEpoch,
    },
    /// Controller: a broker was fenced or unfenced, or another incarnation of it registered, which begins fenced.
    Fenced {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
        fenced: bool,
    },
    /// Controller: the committed state of a partition changed. `leader` is [`BrokerId::NONE`] if there is none.
    PartitionChanged {
        partition: TopicPartition,
        leader: BrokerId,
        leader_epoch: LeaderEpoch,
        partition_epoch: PartitionEpoch,
        isr: Vec<BrokerId>,
        replicas: Vec<BrokerId>,
        unclean: bool,
    },
    /// Broker: the coordinator of this group deleted it. Whoever joins it from now on finds a new one, and generations
    /// begin anew.
    GroupDeleted {
        group: String,
    },
    /// Broker: a member of this consumer group leaves, which its coordinator cannot store: it stays in the group, and its
    /// session is not watched any more.
    Unwatched {
        group: String,
    },
    /// Broker: a member of this classic group sent its first SyncGroup of the generation, for which the coordinator waited
    /// no more: it would have waited without end for one that never comes.
    UnawaitedSync {
        group: String,
    },
    /// Broker: a member of this consumer group that joins was answered FENCED_MEMBER_EPOCH, which tells it to join.
    RefusedJoin {
        group: String,
    },
    /// Broker: a consumer group (KIP-848) whose last member of the new protocol is gone becomes a classic group of this
    /// generation, whose members are to join again. The record that makes it says nothing of that.
    Downgraded {
        group: String,
        generation: i32,
    },
    /// Broker: the coordinator of a group removes a commit that has been kept for offsets.retention.minutes (KIP-211).
    /// `is_rebalancing`: a classic group whose members are joining, or wait for what they will be assigned.
    OffsetExpired {
        group: String,
        partition: TopicPartition,
        offset: Offset,
        is_rebalancing: bool,
    },
    /// Broker: the coordinator of this consumer group (KIP-848) gives to others what a member may have, and has not said
    /// that it lets go of.
    Unclaimed {
        group: String,
        partition: TopicPartition,
    },
    /// Broker: a log directory failed, and all of its partitions with it.
    LogDirFailed {
        log_dir: String,
    },
    /// The process shut down in an orderly way.
    CleanShutdown,
}
