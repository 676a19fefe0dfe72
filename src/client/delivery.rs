//! What becomes of a record handed to the producer: the three outcomes and how they are told apart.

use bytes::Bytes;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

use super::error::ClientError;
use crate::config::Acks;
use crate::protocol::{BrokerId, ErrorCode, Offset, TopicPartition};

/// A record to send. `timestamp_ms`: the wall clock's when absent.
#[derive(Clone, Debug)]
pub struct ProducerRecord {
    pub topic: TopicName,
    pub partition: Option<i32>,
    pub key: Option<Bytes>,
    /// `None` is a tombstone, where the topic is compacted.
    pub value: Option<Bytes>,
    pub headers: Vec<RecordHeader>,
    pub timestamp_ms: Option<i64>,
}

/// One header of a record. Of several with one key the producer sends the last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    pub key: StrBytes,
    pub value: Option<Bytes>,
}

/// Names one record of one producer; ascending in the order of `send`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecordId(pub u64);

/// How a send ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Acknowledged. Without an offset under acks=0, where "acknowledged" means handed to the network.
    Ok { offset: Option<Offset> },
    /// Definitely not in the log: never sent, or every attempt was refused before any append.
    Failed { error: ClientError },
    /// Given up while some attempt may be in the log.
    Unknown { error: ClientError },
}

/// The end of one send; exactly one per record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeliveryReport {
    pub id: RecordId,
    /// None if the record failed before a partition was chosen.
    pub partition: Option<TopicPartition>,
    pub outcome: Outcome,
}

/// What became of an attempt to send a batch: it left, or it came back with an error and will be made again, in smaller
/// batches if it was too large. How the last one ended is in the reports of its records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attempt {
    Sent {
        partition: TopicPartition,
        /// CRC-32C of the batch, the same at every attempt unless it is `restated`.
        crc: u32,
        ids: Vec<RecordId>,
        /// 1-based.
        number: u32,
        broker: BrokerId,
        /// Its idempotent producer has begun a new epoch since the last attempt: the same records in another batch.
        restated: bool,
    },
    Failed {
        partition: TopicPartition,
        crc: u32,
        number: u32,
        error: ClientError,
    },
}

impl Outcome {
    /// The outcome of giving up: `maybe_appended` says whether any attempt may be in the log.
    pub(super) fn given_up(error: ClientError, maybe_appended: bool) -> Outcome {
        if maybe_appended { Outcome::Unknown { error } } else { Outcome::Failed { error } }
    }
}

/// Whether a broker that answers a produce request with `error` may have appended the batch.
///
/// Only errors that Kafka raises before the append, and never after it, are a guarantee. With acks=all the
/// request waits for its replicas after the append, and a leadership change meanwhile is answered with the same
/// codes that refuse a batch at the door (`DelayedProduce.tryComplete`, cases A and B): they guarantee nothing then.
pub(super) fn may_have_appended(error: ErrorCode, acks: Acks) -> bool {
    match error {
        ErrorCode::NotEnoughReplicas
        | ErrorCode::CorruptMessage
        | ErrorCode::MessageTooLarge
        | ErrorCode::RecordListTooLarge
        | ErrorCode::InvalidTimestamp
        | ErrorCode::InvalidRecord
        | ErrorCode::InvalidRequiredAcks
        | ErrorCode::InvalidRequest
        | ErrorCode::InvalidTopicException
        | ErrorCode::TopicAuthorizationFailed
        | ErrorCode::ClusterAuthorizationFailed
        | ErrorCode::UnsupportedVersion
        | ErrorCode::UnsupportedForMessageFormat
        | ErrorCode::UnsupportedCompressionType
        | ErrorCode::OutOfOrderSequenceNumber
        | ErrorCode::InvalidProducerEpoch
        | ErrorCode::UnknownProducerId => false,
        ErrorCode::NotLeaderOrFollower
        | ErrorCode::UnknownTopicOrPartition
        | ErrorCode::UnknownTopicId
        | ErrorCode::InconsistentTopicId
        | ErrorCode::LeaderNotAvailable
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::UnknownLeaderEpoch => acks == Acks::All,
        // Raised after the append, raised by a disk that may have kept it, or not expected here at all.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_before_the_append_are_definite() {
        let cases = [
            (ErrorCode::NotEnoughReplicas, false, false),
            (ErrorCode::MessageTooLarge, false, false),
            (ErrorCode::InvalidRecord, false, false),
            (ErrorCode::CorruptMessage, false, false),
            (ErrorCode::UnsupportedVersion, false, false),
            (ErrorCode::OutOfOrderSequenceNumber, false, false),
            (ErrorCode::InvalidProducerEpoch, false, false),
            (ErrorCode::NotLeaderOrFollower, false, true),
            (ErrorCode::UnknownTopicOrPartition, false, true),
            (ErrorCode::FencedLeaderEpoch, false, true),
            (ErrorCode::NotEnoughReplicasAfterAppend, true, true),
            (ErrorCode::RequestTimedOut, true, true),
            (ErrorCode::NetworkException, true, true),
            (ErrorCode::KafkaStorageError, true, true),
            (ErrorCode::UnknownServerError, true, true),
            (ErrorCode::Unknown(1234), true, true),
        ];
        for (error, with_acks_one, with_acks_all) in cases {
            assert_eq!(may_have_appended(error, Acks::One), with_acks_one, "{error:?}, acks=1");
            assert_eq!(may_have_appended(error, Acks::All), with_acks_all, "{error:?}, acks=all");
        }
    }
}
