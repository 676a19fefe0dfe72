//! The Fetch request.

use bytes::Bytes;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::fields::Fields;
use super::{FLEXIBLE, VERSIONS};
use crate::protocol::primitives::{DecodeError, put_unsigned_varint};
use crate::protocol::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};

/// What a fetcher asks.
#[derive(Clone, PartialEq, Debug)]
pub struct FetchQuestion {
    /// [`BrokerId::NONE`]: a consumer.
    pub replica: BrokerId,
    /// From version 15 on (KIP-903).
    pub replica_epoch: BrokerEpoch,
    pub max_wait_ms: i32,
    pub bytes_min: i32,
    pub bytes_max: i32,
    pub isolation_level: i8,
    /// 0: none (KIP-227); from version 7 on.
    pub session_id: i32,
    pub topics: Vec<TopicQuestion>,
    /// A consumer's `client.rack`, empty: none (KIP-392); from version 11 on.
    pub rack_id: StrBytes,
}

#[derive(Clone, PartialEq, Debug)]
pub struct TopicQuestion {
    /// Up to version 12.
    pub topic: TopicName,
    /// From version 13 on.
    pub topic_id: Uuid,
    pub partitions: Vec<PartitionQuestion>,
}

/// What is asked of one partition. Epochs are [`LeaderEpoch::NONE`] where the fetcher names none.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PartitionQuestion {
    pub index: i32,
    /// From version 9 on.
    pub current_leader_epoch: LeaderEpoch,
    pub offset: Offset,
    /// From version 12 on.
    pub last_fetched_epoch: LeaderEpoch,
    /// A follower's; from version 5 on.
    pub log_start: Offset,
    pub bytes_max: i32,
}

impl FetchQuestion {
    /// Reads what follows a request's header. Forgotten topics and what we do not know are passed over.
    pub fn decode(body: &Bytes, version: i16) -> Result<FetchQuestion, DecodeError> {
        if !VERSIONS.contains(&version) {
            return Err(DecodeError::Invalid("version"));
        }
        let mut fields = Fields::new(body, version);
        let mut replica = if version <= 14 { BrokerId(fields.int32()?) } else { BrokerId::NONE };
        let (max_wait_ms, bytes_min, bytes_max) = (fields.int32()?, fields.int32()?, fields.int32()?);
        let isolation_level = fields.int8()?;
        let session_id = if version >= 7 { fields.int32()? } else { 0 };
        if version >= 7 {
            fields.int32()?; // session_epoch
        }
        let topics = fields.array(TopicQuestion::decode)?.ok_or(DecodeError::Invalid("null array"))?;
        if version >= 7 {
            // forgotten_topics_data
            fields.array(|topic| {
                topic.topic()?;
                topic.array(Fields::int32)?;
                topic.skip_tagged_fields()
            })?;
        }
        let rack_id = if version >= 11 { fields.string()? } else { StrBytes::default() };
        let mut replica_epoch = BrokerEpoch::NONE;
        fields.tagged_fields(|tag, field| {
            if tag == 1 && version >= 15 {
                (replica, replica_epoch) = (BrokerId(field.int32()?), BrokerEpoch(field.int64()?));
            }
            Ok(())
        })?;
        Ok(FetchQuestion {
            replica,
            replica_epoch,
            max_wait_ms,
            bytes_min,
            bytes_max,
            isolation_level,
            session_id,
            topics,
            rack_id,
        })
    }

    /// Writes the body of a follower's request, in version 16, without a session.
    pub fn encode_v16(&self, out: &mut Vec<u8>) {
        const SESSION: [i32; 2] = [0, -1];
        for field in [self.max_wait_ms, self.bytes_min, self.bytes_max] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.push(self.isolation_level as u8);
        for field in SESSION {
            out.extend_from_slice(&field.to_be_bytes());
        }
        put_unsigned_varint(out, self.topics.len() as u32 + 1);
        for topic in &self.topics {
            out.extend_from_slice(topic.topic_id.as_bytes());
            put_unsigned_varint(out, topic.partitions.len() as u32 + 1);
            topic.partitions.iter().for_each(|partition| partition.encode_v16(out));
            out.push(0);
        }
        // No forgotten topics, and no rack.
        out.extend_from_slice(&[1, 1]);
        // One tagged field: the replica.
        out.extend_from_slice(&[1, 1, 13]);
        out.extend_from_slice(&self.replica.0.to_be_bytes());
        out.extend_from_slice(&self.replica_epoch.0.to_be_bytes());
        out.push(0);
    }
}

impl TopicQuestion {
    fn decode(fields: &mut Fields<'_>) -> Result<TopicQuestion, DecodeError> {
        let (topic, topic_id) = fields.topic()?;
        let partitions = fields.array(PartitionQuestion::decode)?.ok_or(DecodeError::Invalid("null array"))?;
        fields.skip_tagged_fields()?;
        Ok(TopicQuestion { topic, topic_id, partitions })
    }
}

impl PartitionQuestion {
    fn decode(fields: &mut Fields<'_>) -> Result<PartitionQuestion, DecodeError> {
        let version = fields.version();
        let index = fields.int32()?;
        let current_leader_epoch = LeaderEpoch(if version >= 9 { fields.int32()? } else { -1 });
        let offset = Offset(fields.int64()?);
        let last_fetched_epoch = LeaderEpoch(if version >= FLEXIBLE { fields.int32()? } else { -1 });
        let log_start = Offset(if version >= 5 { fields.int64()? } else { -1 });
        let bytes_max = fields.int32()?;
        fields.skip_tagged_fields()?;
        Ok(PartitionQuestion { index, current_leader_epoch, offset, last_fetched_epoch, log_start, bytes_max })
    }

    fn encode_v16(&self, out: &mut Vec<u8>) {
        let PartitionQuestion { index, current_leader_epoch, offset, last_fetched_epoch, log_start, bytes_max } = self;
        out.extend_from_slice(&index.to_be_bytes());
        out.extend_from_slice(&current_leader_epoch.0.to_be_bytes());
        out.extend_from_slice(&offset.0.to_be_bytes());
        out.extend_from_slice(&last_fetched_epoch.0.to_be_bytes());
        out.extend_from_slice(&log_start.0.to_be_bytes());
        out.extend_from_slice(&bytes_max.to_be_bytes());
        out.push(0);
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::FetchRequest;
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
    use kafka_protocol::protocol::Encodable;
    use proptest::prelude::*;

    use super::*;

    fn question() -> impl Strategy<Value = FetchQuestion> {
        let epochs = || (-1..5i32).prop_map(LeaderEpoch);
        let partition = (any::<i32>(), epochs(), any::<i64>(), epochs(), any::<i64>(), any::<i32>()).prop_map(
            |(index, current_leader_epoch, offset, last_fetched_epoch, log_start, bytes_max)| PartitionQuestion {
                index,
                current_leader_epoch,
                offset: Offset(offset),
                last_fetched_epoch,
                log_start: Offset(log_start),
                bytes_max,
            },
        );
        let topic = ("[a-z]{1,200}", any::<u128>(), proptest::collection::vec(partition, 0..3)).prop_map(
            |(name, id, partitions)| TopicQuestion {
                topic: TopicName(StrBytes::from_string(name)),
                topic_id: Uuid::from_u128(id),
                partitions,
            },
        );
        let numbers = (0..9i32, 0..9i64, any::<i32>(), any::<i32>(), any::<i32>());
        (numbers, proptest::collection::vec(topic, 0..3)).prop_map(
            |((replica, epoch, max_wait_ms, bytes_min, bytes_max), topics)| FetchQuestion {
                replica: BrokerId(replica),
                replica_epoch: BrokerEpoch(epoch),
                max_wait_ms,
                bytes_min,
                bytes_max,
                isolation_level: 0,
                session_id: 0,
                topics,
                rack_id: StrBytes::default(),
            },
        )
    }

    /// The same in the library's words.
    fn in_library(question: &FetchQuestion, version: i16) -> FetchRequest {
        let partition = |p: &PartitionQuestion| {
            FetchPartition::default()
                .with_partition(p.index)
                .with_current_leader_epoch(p.current_leader_epoch.0)
                .with_fetch_offset(p.offset.0)
                .with_last_fetched_epoch(if version >= 12 { p.last_fetched_epoch.0 } else { -1 })
                .with_log_start_offset(p.log_start.0)
                .with_partition_max_bytes(p.bytes_max)
        };
        let topics = question.topics.iter().map(|t| {
            FetchTopic::default()
                .with_topic(t.topic.clone())
                .with_topic_id(t.topic_id)
                .with_partitions(t.partitions.iter().map(partition).collect())
        });
        let request = FetchRequest::default()
            .with_max_wait_ms(question.max_wait_ms)
            .with_min_bytes(question.bytes_min)
            .with_max_bytes(question.bytes_max)
            .with_session_epoch(-1)
            .with_topics(topics.collect())
            .with_rack_id(question.rack_id.clone());
        let (id, epoch) = (question.replica.0.into(), question.replica_epoch.0);
        match version {
            15.. => request.with_replica_state(ReplicaState::default().with_replica_id(id).with_replica_epoch(epoch)),
            _ => request.with_replica_id(id),
        }
    }

    fn encoded(request: &FetchRequest, version: i16) -> Bytes {
        let mut bytes = Vec::new();
        request.encode(&mut bytes, version).unwrap();
        bytes.into()
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_library(question in question()) {
            let mut bytes = Vec::new();
            question.encode_v16(&mut bytes);
            prop_assert_eq!(Bytes::from(bytes), encoded(&in_library(&question, 16), 16));
        }

        #[test]
        fn what_the_library_writes_is_read(question in question(), version in 4..=16i16) {
            let mut request = in_library(&question, version);
            if version >= 7 {
                request.forgotten_topics_data = vec![ForgottenTopic::default().with_partitions(vec![1, 2])];
            }
            if version >= 11 {
                request.rack_id = StrBytes::from_static_str("a");
            }
            let bytes = encoded(&request, version);
            let read = FetchQuestion::decode(&bytes, version).unwrap();
            let known = in_library(&read, version);
            request.forgotten_topics_data.clear();
            prop_assert_eq!(encoded(&known, version), encoded(&request, version));
        }

        #[test]
        fn what_is_cut_or_garbled_is_refused_or_read_but_never_panics(
            question in question(), version in 4..=16i16, at: usize, byte: u8, cut: bool,
        ) {
            let mut bytes = encoded(&in_library(&question, version), version).to_vec();
            let at = at % bytes.len();
            if cut {
                bytes.truncate(at);
                prop_assert!(FetchQuestion::decode(&bytes.into(), version).is_err());
            } else {
                bytes[at] = byte;
                let _ = FetchQuestion::decode(&bytes.into(), version);
            }
        }
    }
}
