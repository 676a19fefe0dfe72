//! The records of `__consumer_offsets` in Kafka's layout (`GroupCoordinatorRecordSerde`; the schemas OffsetCommitKey,
//! OffsetCommitValue, GroupMetadataKey and GroupMetadataValue).
//!
//! A key begins with its type (int16): 0 and 1 are offset commits, 2 is a classic group. A value begins with its version.
//! We write what Kafka with current metadata versions writes, and read what any version wrote. Types 3 to 8 are those of
//! consumer groups ([`consumer`]). Types that we do not know are skipped, as Kafka's loader does.

mod consumer;

use bytes::{BufMut, Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record as BatchRecord, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};

use crate::log::batch;
use crate::log::record::Records;
use crate::protocol::Offset;
use crate::protocol::primitives::{DecodeError, Reader};

pub use self::consumer::{
    ClassicMemberMetadata, ConsumerMemberMetadata, ConsumerRecord, CurrentAssignment, MemberState, Partitions,
    ResolvedRegex, TopicMetadata,
};

const OFFSET_COMMIT_KEYS: [i16; 2] = [0, 1];
const OFFSET_COMMIT_KEY: i16 = 1;
const GROUP_METADATA_KEY: i16 = 2;

/// `OffsetCommitValue` without and with an expiry of its own, `GroupMetadataValue`: what is written.
const OFFSET_COMMIT_VALUE: i16 = 3;
const OFFSET_COMMIT_VALUE_WITH_EXPIRY: i16 = 1;
const GROUP_METADATA_VALUE: i16 = 3;
/// The first flexible version of both values (KIP-915).
const FLEXIBLE: i16 = 4;

/// One record of `__consumer_offsets`; a value of `None` is a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    OffsetCommit { group: StrBytes, topic: StrBytes, partition: i32, value: Option<OffsetAndMetadata> },
    GroupMetadata { group: StrBytes, value: Option<GroupMetadataValue> },
    Consumer { group: StrBytes, record: ConsumerRecord },
}

/// What a group has committed for a partition (`OffsetAndMetadata`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetAndMetadata {
    pub offset: i64,
    /// Of the last record consumed; -1: not told.
    pub leader_epoch: i32,
    pub metadata: StrBytes,
    pub commit_timestamp_ms: i64,
    /// When it expires, where the commit said so (OffsetCommit up to version 4).
    pub expire_timestamp_ms: Option<i64>,
}

/// A classic group in one generation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupMetadataValue {
    pub protocol_type: StrBytes,
    pub generation: i32,
    pub protocol: Option<StrBytes>,
    pub leader: Option<StrBytes>,
    /// When the group came into its state; -1: not told.
    pub state_timestamp_ms: i64,
    pub members: Vec<MemberMetadata>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberMetadata {
    pub member_id: StrBytes,
    pub group_instance_id: Option<StrBytes>,
    pub client_id: StrBytes,
    pub client_host: StrBytes,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

fn put_string(out: &mut BytesMut, text: &StrBytes) {
    // The protocol's requests could not carry a longer one either.
    out.put_i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
    out.put_slice(&text.as_bytes()[..text.len().min(i16::MAX as usize)]);
}

fn put_nullable_string(out: &mut BytesMut, text: Option<&StrBytes>) {
    match text {
        None => out.put_i16(-1),
        Some(text) => put_string(out, text),
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &Bytes) {
    out.put_i32(i32::try_from(bytes.len()).expect("it came in a frame"));
    out.put_slice(bytes);
}

impl Record {
    pub(super) fn key(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Record::OffsetCommit { group, topic, partition, value: _ } => {
                out.put_i16(OFFSET_COMMIT_KEY);
                put_string(&mut out, group);
                put_string(&mut out, topic);
                out.put_i32(*partition);
            }
            Record::GroupMetadata { group, value: _ } => {
                out.put_i16(GROUP_METADATA_KEY);
                put_string(&mut out, group);
            }
            Record::Consumer { group, record } => record.put_key(group, &mut out),
        }
        out.freeze()
    }

    fn value(&self) -> Option<Bytes> {
        match self {
            Record::OffsetCommit { value, .. } => value.as_ref().map(OffsetAndMetadata::encode),
            Record::GroupMetadata { value, .. } => value.as_ref().map(GroupMetadataValue::encode),
            Record::Consumer { record, .. } => record.value(),
        }
    }

    /// `None`: of a type that we do not know.
    pub(super) fn decode(key: Bytes, value: Option<Bytes>) -> Result<Option<Record>, DecodeError> {
        let mut key = Reader::new(key);
        let kind = key.i16()?;
        if OFFSET_COMMIT_KEYS.contains(&kind) {
            let (group, topic, partition) = (string(&mut key)?, string(&mut key)?, key.i32()?);
            let value = value.map(OffsetAndMetadata::decode).transpose()?;
            return Ok(Some(Record::OffsetCommit { group, topic, partition, value }));
        }
        if kind == GROUP_METADATA_KEY {
            let group = string(&mut key)?;
            let value = value.map(GroupMetadataValue::decode).transpose()?;
            return Ok(Some(Record::GroupMetadata { group, value }));
        }
        if ConsumerRecord::is_key(kind) {
            let (group, record) = ConsumerRecord::decode(kind, &mut key, value)?;
            return Ok(Some(Record::Consumer { group, record }));
        }
        Ok(None)
    }
}

/// A string of a value: compact from the first flexible version on.
fn text(reader: &mut Reader, version: i16) -> Result<StrBytes, DecodeError> {
    nullable_text(reader, version)?.ok_or(DecodeError::Invalid("null string"))
}

fn nullable_text(reader: &mut Reader, version: i16) -> Result<Option<StrBytes>, DecodeError> {
    if version >= FLEXIBLE {
        return Ok(reader.compact_string()?.map(StrBytes::from_string));
    }
    reader.nullable_string().map(|text| text.map(StrBytes::from_string))
}

fn string(reader: &mut Reader) -> Result<StrBytes, DecodeError> {
    text(reader, 0)
}

impl OffsetAndMetadata {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_i16(if self.expire_timestamp_ms.is_some() {
            OFFSET_COMMIT_VALUE_WITH_EXPIRY
        } else {
            OFFSET_COMMIT_VALUE
        });
        out.put_i64(self.offset);
        if self.expire_timestamp_ms.is_none() {
            out.put_i32(self.leader_epoch);
        }
        put_string(&mut out, &self.metadata);
        out.put_i64(self.commit_timestamp_ms);
        if let Some(expire) = self.expire_timestamp_ms {
            out.put_i64(expire);
        }
        out.freeze()
    }

    fn decode(bytes: Bytes) -> Result<OffsetAndMetadata, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.i16()?;
        let offset = reader.i64()?;
        let leader_epoch = if version >= 3 { reader.i32()? } else { -1 };
        let metadata = text(&mut reader, version)?;
        let commit_timestamp_ms = reader.i64()?;
        let expire = if version == 1 { reader.i64()? } else { -1 };
        let expire_timestamp_ms = (expire != -1).then_some(expire);
        Ok(OffsetAndMetadata { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms })
    }
}

impl GroupMetadataValue {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_i16(GROUP_METADATA_VALUE);
        put_string(&mut out, &self.protocol_type);
        out.put_i32(self.generation);
        put_nullable_string(&mut out, self.protocol.as_ref());
        put_nullable_string(&mut out, self.leader.as_ref());
        out.put_i64(self.state_timestamp_ms);
        out.put_i32(i32::try_from(self.members.len()).expect("every member came in a request"));
        for member in &self.members {
            put_string(&mut out, &member.member_id);
            put_nullable_string(&mut out, member.group_instance_id.as_ref());
            put_string(&mut out, &member.client_id);
            put_string(&mut out, &member.client_host);
            out.put_i32(member.rebalance_timeout_ms);
            out.put_i32(member.session_timeout_ms);
            put_bytes(&mut out, &member.subscription);
            put_bytes(&mut out, &member.assignment);
        }
        out.freeze()
    }

    fn decode(bytes: Bytes) -> Result<GroupMetadataValue, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.i16()?;
        let protocol_type = text(&mut reader, version)?;
        let generation = reader.i32()?;
        let protocol = nullable_text(&mut reader, version)?;
        let leader = nullable_text(&mut reader, version)?;
        let state_timestamp_ms = if version >= 2 { reader.i64()? } else { -1 };
        let member = |reader: &mut Reader| MemberMetadata::decode(reader, version);
        let members = if version >= FLEXIBLE { reader.array(member)? } else { reader.plain_array(member)? };
        Ok(GroupMetadataValue { protocol_type, generation, protocol, leader, state_timestamp_ms, members })
    }
}

impl MemberMetadata {
    fn decode(reader: &mut Reader, version: i16) -> Result<MemberMetadata, DecodeError> {
        let member_id = text(reader, version)?;
        let group_instance_id = if version >= 3 { nullable_text(reader, version)? } else { None };
        let client_id = text(reader, version)?;
        let client_host = text(reader, version)?;
        let rebalance_timeout_ms = if version >= 1 { reader.i32()? } else { -1 };
        let session_timeout_ms = reader.i32()?;
        let bytes = |reader: &mut Reader| if version >= FLEXIBLE { reader.compact_bytes() } else { reader.bytes() };
        let (subscription, assignment) = (bytes(reader)?, bytes(reader)?);
        if version >= FLEXIBLE {
            reader.skip_tagged_fields()?;
        }
        // Version 0 knew one timeout only.
        let rebalance_timeout_ms = if rebalance_timeout_ms == -1 { session_timeout_ms } else { rebalance_timeout_ms };
        Ok(MemberMetadata {
            member_id,
            group_instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms,
            session_timeout_ms,
            subscription,
            assignment,
        })
    }
}

/// Encodes records as one batch, to be appended.
pub(super) fn encode_batch(records: &[Record], timestamp_ms: i64) -> Bytes {
    assert!(!records.is_empty(), "a batch holds at least one record");
    let records: Vec<BatchRecord> = (0..)
        .zip(records)
        .map(|(at, record)| BatchRecord {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timestamp_type: TimestampType::Creation,
            offset: at,
            // The encoder starts a new batch where sequences do not go up with the offsets.
            sequence: NO_SEQUENCE.wrapping_add(at as i32),
            timestamp: timestamp_ms,
            key: Some(record.key()),
            value: record.value(),
            headers: IndexMap::new(),
        })
        .collect();
    let mut out = BytesMut::with_capacity(64 + 128 * records.len());
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut out, &records, &options).expect("plain records encode");
    out.freeze()
}

/// Decodes the records of whole batches, with their offsets. Control records, and what cannot be understood, are left
/// out; the latter is logged (`CoordinatorLoaderImpl`).
pub(super) fn decode_batches(bytes: &Bytes) -> Result<Vec<(Offset, Record)>, batch::BatchError> {
    let mut decoded = Vec::new();
    for batch in batch::split(bytes, true)? {
        let header = batch.header();
        if header.is_control() {
            continue;
        }
        let mut records = Records::open(&header, &batch.bytes)?;
        while let Some(record) = records.next() {
            let record = record?;
            let field = |place: Option<std::ops::Range<usize>>| place.map(|place| records.bytes().slice(place));
            let offset = header.offset_of(&record);
            let Some(key) = field(record.key) else { continue };
            match Record::decode(key, field(record.value)) {
                Ok(Some(record)) => decoded.push((offset, record)),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, %offset, "a record of __consumer_offsets is not understood"),
            }
        }
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &'static str) -> StrBytes {
        StrBytes::from_static_str(text)
    }

    fn offset_commit(expire_timestamp_ms: Option<i64>) -> Record {
        let leader_epoch = if expire_timestamp_ms.is_some() { -1 } else { 4 };
        let value = OffsetAndMetadata {
            offset: 42,
            leader_epoch,
            metadata: text("m"),
            commit_timestamp_ms: 1_000,
            expire_timestamp_ms,
        };
        Record::OffsetCommit { group: text("g"), topic: text("orders"), partition: 3, value: Some(value) }
    }

    fn group() -> Record {
        let member = MemberMetadata {
            member_id: text("m-1"),
            group_instance_id: Some(text("i")),
            client_id: text("c"),
            client_host: text("/127.0.0.1"),
            rebalance_timeout_ms: 300_000,
            session_timeout_ms: 45_000,
            subscription: Bytes::from_static(b"sub"),
            assignment: Bytes::from_static(b"assignment"),
        };
        let value = GroupMetadataValue {
            protocol_type: text("consumer"),
            generation: 7,
            protocol: Some(text("range")),
            leader: Some(text("m-1")),
            state_timestamp_ms: 99,
            members: vec![member.clone(), MemberMetadata { group_instance_id: None, ..member }],
        };
        Record::GroupMetadata { group: text("g"), value: Some(value) }
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let tombstones = [
            Record::OffsetCommit { group: text("g"), topic: text("t"), partition: 0, value: None },
            Record::GroupMetadata { group: text("g"), value: None },
        ];
        let mut records = vec![offset_commit(None), offset_commit(Some(5)), group()];
        records.extend(tombstones);
        let decoded = decode_batches(&encode_batch(&records, 1_000)).expect("our own batch");
        let expected: Vec<(Offset, Record)> = (0..).map(Offset).zip(records).collect();
        assert_eq!(decoded, expected);
    }

    #[test]
    fn the_layout_is_kafkas() {
        let record = offset_commit(None);
        assert_eq!(&record.key()[..], b"\0\x01\0\x01g\0\x06orders\0\0\0\x03");
        let value = record.value().expect("no tombstone");
        assert_eq!(&value[..], b"\0\x03\0\0\0\0\0\0\0\x2a\0\0\0\x04\0\x01m\0\0\0\0\0\0\x03\xe8");
        let expiring = offset_commit(Some(5)).value().expect("no tombstone");
        assert_eq!(&expiring[..], b"\0\x01\0\0\0\0\0\0\0\x2a\0\x01m\0\0\0\0\0\0\x03\xe8\0\0\0\0\0\0\0\x05");
    }

    #[test]
    fn the_flexible_version_is_read_too() {
        let flexible = b"\0\x04\0\0\0\0\0\0\0\x2a\0\0\0\x04\x02m\0\0\0\0\0\0\x03\xe8\0";
        let value = OffsetAndMetadata::decode(Bytes::from_static(flexible)).expect("version 4");
        let Record::OffsetCommit { value: Some(plain), .. } = offset_commit(None) else { unreachable!() };
        assert_eq!(value, plain);
    }

    #[test]
    fn an_unknown_type_is_no_error_and_a_short_record_is_one() {
        assert_eq!(Record::decode(Bytes::from_static(b"\0\x0a\0\x01g"), None), Ok(None));
        assert!(Record::decode(Bytes::from_static(b"\0\x02\0\x05g"), None).is_err());
    }
}
