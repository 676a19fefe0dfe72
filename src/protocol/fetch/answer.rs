//! The Fetch response. The envelope goes into a buffer, the records stay where they are (Kafka's `MultiRecordsSend`).

use bytes::Bytes;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::fetch_response::{AbortedTransaction, NodeEndpoint};
use kafka_protocol::protocol::Encodable;
use uuid::Uuid;

use super::fields::Fields;
use super::{FLEXIBLE, VERSIONS};
use crate::protocol::primitives::{DecodeError, put_compact_array, put_compact_string, put_unsigned_varint, put_uuid};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, Offset};
use crate::world::Chain;

/// What a fetcher is answered.
#[derive(Clone, Default, Debug)]
pub struct FetchAnswer {
    pub error: Option<ErrorCode>,
    pub topics: Vec<TopicAnswer>,
    /// Where the brokers are that `current_leader` names (KIP-951); from version 16 on.
    pub node_endpoints: Vec<NodeEndpoint>,
}

#[derive(Clone, Debug)]
pub struct TopicAnswer {
    pub topic: TopicName,
    pub topic_id: Uuid,
    pub partitions: Vec<PartitionAnswer>,
}

#[derive(Clone, Debug)]
pub struct PartitionAnswer {
    pub index: i32,
    pub error: Option<ErrorCode>,
    /// -1 with an error.
    pub high_watermark: Offset,
    pub last_stable_offset: Offset,
    pub log_start: Offset,
    /// The fetcher's log parts from ours (KIP-595); from version 12 on.
    pub diverging_epoch: Option<(LeaderEpoch, Offset)>,
    /// From version 12 on.
    pub current_leader: Option<(BrokerId, LeaderEpoch)>,
    /// `None`: the fetcher reads uncommitted records too.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// Whom the consumer shall fetch from instead (KIP-392); from version 11 on.
    pub preferred_read_replica: Option<BrokerId>,
    pub records: Chain,
}

impl PartitionAnswer {
    /// An answer without records.
    pub fn error(index: i32, error: ErrorCode) -> PartitionAnswer {
        const UNKNOWN: Offset = Offset(-1);
        PartitionAnswer {
            index,
            error: Some(error),
            high_watermark: UNKNOWN,
            last_stable_offset: UNKNOWN,
            log_start: UNKNOWN,
            diverging_epoch: None,
            current_leader: None,
            aborted_transactions: Some(Vec::new()),
            preferred_read_replica: None,
            records: Chain::new(),
        }
    }
}

impl FetchAnswer {
    /// The frame of a response in version 4 to 16, header included.
    pub fn encode(self, version: i16, correlation_id: i32) -> Chain {
        let mut out = Envelope::new(version);
        out.int32(correlation_id);
        out.no_tagged_fields();
        out.int32(0); // throttle_time_ms
        if version >= 7 {
            out.error(self.error);
            out.int32(0); // session_id
        }
        out.length(self.topics.len());
        for topic in self.topics {
            topic.encode(&mut out);
        }
        if version >= FLEXIBLE {
            out.node_endpoints(&self.node_endpoints);
        }
        out.finish()
    }

    /// Reads a response's frame. Sessions, snapshots and what we do not know are passed over.
    pub fn decode(frame: &Bytes, version: i16) -> Result<FetchAnswer, DecodeError> {
        if !VERSIONS.contains(&version) {
            return Err(DecodeError::Invalid("version"));
        }
        let mut fields = Fields::new(frame, version);
        fields.int32()?; // correlation id
        fields.skip_tagged_fields()?;
        fields.int32()?; // throttle_time_ms
        let mut answer = FetchAnswer::default();
        if version >= 7 {
            answer.error = ErrorCode::try_from_code(fields.int16()?);
            fields.int32()?; // session_id
        }
        answer.topics = fields.array(TopicAnswer::decode)?.ok_or(DecodeError::Invalid("null array"))?;
        fields.tagged_fields(|tag, field| {
            if tag == 0 && version >= 16 {
                answer.node_endpoints =
                    field.array(Fields::decoded::<NodeEndpoint>)?.ok_or(DecodeError::Invalid("null array"))?;
            }
            Ok(())
        })?;
        Ok(answer)
    }
}

impl TopicAnswer {
    fn encode(self, out: &mut Envelope) {
        match out.version {
            ..FLEXIBLE => out.string(self.topic.as_str()),
            FLEXIBLE => put_compact_string(&mut out.buffer, Some(self.topic.as_str())),
            _ => put_uuid(&mut out.buffer, self.topic_id),
        }
        out.length(self.partitions.len());
        for partition in self.partitions {
            partition.encode(out);
        }
        out.no_tagged_fields();
    }

    fn decode(fields: &mut Fields<'_>) -> Result<TopicAnswer, DecodeError> {
        let (topic, topic_id) = fields.topic()?;
        let partitions = fields.array(PartitionAnswer::decode)?.ok_or(DecodeError::Invalid("null array"))?;
        fields.skip_tagged_fields()?;
        Ok(TopicAnswer { topic, topic_id, partitions })
    }
}

impl PartitionAnswer {
    fn decode(fields: &mut Fields<'_>) -> Result<PartitionAnswer, DecodeError> {
        let version = fields.version();
        let (index, error) = (fields.int32()?, ErrorCode::try_from_code(fields.int16()?));
        let (high_watermark, last_stable_offset) = (Offset(fields.int64()?), Offset(fields.int64()?));
        let log_start = if version >= 5 { Offset(fields.int64()?) } else { Offset(-1) };
        let aborted_transactions = fields.array(Fields::decoded::<AbortedTransaction>)?;
        let preferred_read_replica = if version >= 11 { BrokerId(fields.int32()?) } else { BrokerId::NONE };
        let records = fields.bytes()?.unwrap_or_default().into();
        let (mut diverging_epoch, mut current_leader) = (None, None);
        fields.tagged_fields(|tag, field| {
            match tag {
                0 => diverging_epoch = Some((LeaderEpoch(field.int32()?), Offset(field.int64()?))),
                1 => current_leader = Some((BrokerId(field.int32()?), LeaderEpoch(field.int32()?))),
                _ => {}
            }
            Ok(())
        })?;
        Ok(PartitionAnswer {
            index,
            error,
            high_watermark,
            last_stable_offset,
            log_start,
            diverging_epoch,
            current_leader,
            aborted_transactions,
            preferred_read_replica: (preferred_read_replica != BrokerId::NONE).then_some(preferred_read_replica),
            records,
        })
    }

    fn encode(self, out: &mut Envelope) {
        out.int32(self.index);
        out.error(self.error);
        out.int64(self.high_watermark.0);
        out.int64(self.last_stable_offset.0);
        if out.version >= 5 {
            out.int64(self.log_start.0);
        }
        out.aborted_transactions(self.aborted_transactions.as_deref());
        if out.version >= 11 {
            out.int32(self.preferred_read_replica.unwrap_or(BrokerId::NONE).0);
        }
        out.records(self.records);
        if out.version >= FLEXIBLE {
            out.epochs(self.diverging_epoch, self.current_leader);
        }
    }
}

/// What a response is besides its records, and where these belong.
struct Envelope {
    version: i16,
    buffer: Vec<u8>,
    /// Each behind so many bytes of the buffer.
    records: Vec<(usize, Chain)>,
}

impl Envelope {
    fn new(version: i16) -> Envelope {
        // One partition's takes some 90 bytes.
        Envelope { version, buffer: Vec::with_capacity(128), records: Vec::new() }
    }

    fn int16(&mut self, value: i16) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    fn int32(&mut self, value: i32) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    fn int64(&mut self, value: i64) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    fn error(&mut self, error: Option<ErrorCode>) {
        self.int16(error.map_or(0, |error| error.code()));
    }

    fn string(&mut self, text: &str) {
        self.int16(i16::try_from(text.len()).expect("a topic's name has 249 characters at most"));
        self.buffer.extend_from_slice(text.as_bytes());
    }

    /// Of an array, or of bytes.
    fn length(&mut self, length: usize) {
        let length = u32::try_from(length).expect("a response has less than 2 GiB");
        if self.version >= FLEXIBLE {
            put_unsigned_varint(&mut self.buffer, length + 1);
        } else {
            self.buffer.extend_from_slice(&length.to_be_bytes());
        }
    }

    fn no_tagged_fields(&mut self) {
        if self.version >= FLEXIBLE {
            self.buffer.push(0);
        }
    }

    fn aborted_transactions(&mut self, aborted: Option<&[AbortedTransaction]>) {
        let Some(aborted) = aborted else {
            match self.version {
                FLEXIBLE.. => self.buffer.push(0),
                _ => self.int32(-1),
            }
            return;
        };
        self.length(aborted.len());
        for transaction in aborted {
            transaction.encode(&mut self.buffer, self.version).expect("it has no optional fields");
        }
    }

    fn records(&mut self, records: Chain) {
        self.length(records.len());
        if !records.is_empty() {
            self.records.push((self.buffer.len(), records));
        }
    }

    /// The tagged fields of a partition.
    fn epochs(&mut self, diverging: Option<(LeaderEpoch, Offset)>, leader: Option<(BrokerId, LeaderEpoch)>) {
        self.buffer.push(u8::from(diverging.is_some()) + u8::from(leader.is_some()));
        if let Some((epoch, end)) = diverging {
            self.buffer.extend_from_slice(&[0, 13]);
            self.int32(epoch.0);
            self.int64(end.0);
            self.buffer.push(0);
        }
        if let Some((id, epoch)) = leader {
            self.buffer.extend_from_slice(&[1, 9]);
            self.int32(id.0);
            self.int32(epoch.0);
            self.buffer.push(0);
        }
    }

    /// The tagged fields of the response.
    fn node_endpoints(&mut self, endpoints: &[NodeEndpoint]) {
        if self.version < 16 || endpoints.is_empty() {
            return self.buffer.push(0);
        }
        let mut field = Vec::new();
        put_compact_array(&mut field, endpoints, |out, endpoint| {
            endpoint.encode(out, self.version).expect("version 16 has all of its fields");
        });
        self.buffer.extend_from_slice(&[1, 0]);
        put_unsigned_varint(&mut self.buffer, u32::try_from(field.len()).expect("a few brokers"));
        self.buffer.extend_from_slice(&field);
    }

    /// The envelope with the records between.
    fn finish(self) -> Chain {
        let envelope = Bytes::from(self.buffer);
        let mut frame = Chain::new();
        let mut start = 0;
        if !self.records.is_empty() {
            frame.reserve(self.records.iter().map(|(_, records)| records.pieces().count() + 1).sum());
        }
        for (at, records) in self.records {
            frame.push(envelope.slice(start..at));
            frame.append(records);
            start = at;
        }
        frame.push(if start == 0 { envelope } else { envelope.slice(start..) });
        frame
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::FetchRequest;
    use kafka_protocol::messages::fetch_response::{
        EpochEndOffset, FetchResponse, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData,
    };
    use kafka_protocol::protocol::StrBytes;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::wire;

    fn partition() -> impl Strategy<Value = PartitionAnswer> {
        let piece = proptest::collection::vec(any::<u8>(), 0..200);
        let records = proptest::collection::vec(piece, 0..4);
        let offsets = (any::<i64>(), any::<i64>(), any::<i64>());
        let epochs = (proptest::option::of((0..9i32, 0..9i64)), proptest::option::of((0..9i32, 0..9i32)));
        let aborted = proptest::option::of(proptest::collection::vec((any::<i64>(), any::<i64>()), 0..2));
        let preferred = proptest::option::of(0..9i32);
        (any::<i32>(), any::<bool>(), offsets, epochs, aborted, preferred, records).prop_map(
            |(
                index,
                is_error,
                (high_watermark, last_stable_offset, log_start),
                (diverging, leader),
                aborted,
                preferred,
                pieces,
            )| {
                let mut records = Chain::new();
                pieces.into_iter().for_each(|piece| records.push(piece.into()));
                let transaction = |(id, first): (i64, i64)| {
                    AbortedTransaction::default().with_producer_id(id.into()).with_first_offset(first)
                };
                PartitionAnswer {
                    index,
                    error: is_error.then_some(ErrorCode::FencedLeaderEpoch),
                    high_watermark: Offset(high_watermark),
                    last_stable_offset: Offset(last_stable_offset),
                    log_start: Offset(log_start),
                    diverging_epoch: diverging.map(|(epoch, end)| (LeaderEpoch(epoch), Offset(end))),
                    current_leader: leader.map(|(id, epoch)| (BrokerId(id), LeaderEpoch(epoch))),
                    aborted_transactions: aborted.map(|aborted| aborted.into_iter().map(transaction).collect()),
                    preferred_read_replica: preferred.map(BrokerId),
                    records,
                }
            },
        )
    }

    fn answer() -> impl Strategy<Value = FetchAnswer> {
        let topic = ("[a-z]{1,20}", any::<u128>(), proptest::collection::vec(partition(), 0..3)).prop_map(
            |(name, id, partitions)| TopicAnswer {
                topic: TopicName(StrBytes::from_string(name)),
                topic_id: Uuid::from_u128(id),
                partitions,
            },
        );
        let endpoint = (0..9i32, "[a-z]{1,200}").prop_map(|(id, host)| {
            NodeEndpoint::default().with_node_id(id.into()).with_host(StrBytes::from_string(host)).with_port(9092)
        });
        (any::<bool>(), proptest::collection::vec(topic, 0..3), proptest::collection::vec(endpoint, 0..3)).prop_map(
            |(is_error, topics, node_endpoints)| FetchAnswer {
                error: is_error.then_some(ErrorCode::FetchSessionIdNotFound),
                topics,
                node_endpoints,
            },
        )
    }

    /// The same in the library's words, as far as the version has them.
    fn in_library(answer: &FetchAnswer, version: i16) -> FetchResponse {
        let code = |error: Option<ErrorCode>| error.map_or(0, |error| error.code());
        let partition = |p: &PartitionAnswer| {
            let mut data = PartitionData::default()
                .with_partition_index(p.index)
                .with_error_code(code(p.error))
                .with_high_watermark(p.high_watermark.0)
                .with_last_stable_offset(p.last_stable_offset.0)
                .with_log_start_offset(p.log_start.0)
                .with_aborted_transactions(p.aborted_transactions.clone())
                .with_records(Some(p.records.to_bytes()));
            if let Some(id) = p.preferred_read_replica.filter(|_| version >= 11) {
                data.preferred_read_replica = id.0.into();
            }
            if let Some((epoch, end)) = p.diverging_epoch {
                data.diverging_epoch = EpochEndOffset::default().with_epoch(epoch.0).with_end_offset(end.0);
            }
            if let Some((id, epoch)) = p.current_leader {
                data.current_leader =
                    LeaderIdAndEpoch::default().with_leader_id(id.0.into()).with_leader_epoch(epoch.0);
            }
            data
        };
        let topics = answer.topics.iter().map(|t| {
            FetchableTopicResponse::default()
                .with_topic(t.topic.clone())
                .with_topic_id(t.topic_id)
                .with_partitions(t.partitions.iter().map(partition).collect())
        });
        FetchResponse::default()
            .with_error_code(code(answer.error))
            .with_responses(topics.collect())
            .with_node_endpoints(if version >= 16 { answer.node_endpoints.clone() } else { Vec::new() })
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_library(answer in answer(), version in 4..=16i16, correlation_id: i32) {
            let expected =
                wire::encode_response::<FetchRequest>(&in_library(&answer, version), version, correlation_id);
            prop_assert_eq!(answer.encode(version, correlation_id).into_bytes(), expected);
        }
    }

    proptest! {
        #[test]
        fn what_the_library_writes_is_read(answer in answer(), version in 4..=16i16) {
            let frame = wire::encode_response::<FetchRequest>(&in_library(&answer, version), version, 7);
            let read = FetchAnswer::decode(&frame, version).unwrap();
            let again = wire::encode_response::<FetchRequest>(&in_library(&read, version), version, 7);
            // Offsets that are not in old versions read as unknown.
            if version >= 5 {
                prop_assert_eq!(again, frame);
            }
        }

        #[test]
        fn what_is_cut_or_garbled_is_refused_or_read_but_never_panics(
            answer in answer(), version in 4..=16i16, at: usize, byte: u8, cut: bool,
        ) {
            let mut bytes = answer.encode(version, 7).into_bytes().to_vec();
            let at = at % bytes.len();
            if cut {
                bytes.truncate(at);
                prop_assert!(FetchAnswer::decode(&bytes.into(), version).is_err());
            } else {
                bytes[at] = byte;
                let _ = FetchAnswer::decode(&bytes.into(), version);
            }
        }
    }

    #[test]
    fn records_are_not_copied_into_the_frame() {
        let stored = Bytes::from(vec![7; 10_000]);
        let mut records = Chain::from(stored.slice(100..5_000));
        records.push(stored.slice(8_000..));
        let partition =
            PartitionAnswer { error: None, records, ..PartitionAnswer::error(0, ErrorCode::UnknownServerError) };
        let (topic, topic_id) = (TopicName::default(), Uuid::nil());
        let topics = vec![TopicAnswer { topic, topic_id, partitions: vec![partition.clone(), partition] }];
        let frame = FetchAnswer { topics, ..FetchAnswer::default() }.encode(16, 1);
        let memory = stored.as_ptr_range();
        let stored_bytes: usize = frame.pieces().filter(|p| memory.contains(&p.as_ptr())).map(Bytes::len).sum();
        assert_eq!(stored_bytes, 2 * (4_900 + 2_000));
        assert!(frame.len() - stored_bytes < 200, "the rest is the envelope");
    }
}
