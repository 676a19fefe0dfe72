//! The records of consumer groups (KIP-848; the schemas `ConsumerGroup…Key` and `ConsumerGroup…Value`). Keys are of the
//! versions before KIP-482, values are flexible.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{put_string, string};
use crate::protocol::primitives::{
    DecodeError, Reader, TaggedFields, put_compact_array, put_compact_string, put_unsigned_varint, put_uuid,
};

const GROUP: i16 = 3;
const PARTITION_METADATA: i16 = 4;
const MEMBER: i16 = 5;
const TARGET_ASSIGNMENT_EPOCH: i16 = 6;
const TARGET_ASSIGNMENT: i16 = 7;
const CURRENT_ASSIGNMENT: i16 = 8;
const REGULAR_EXPRESSION: i16 = 16;

/// The only version of every value.
const VERSION: i16 = 0;
/// The tag of `ClassicMemberMetadata`.
const CLASSIC_MEMBER: u32 = 0;

/// Partitions of topics, by topic id.
pub type Partitions = BTreeMap<Uuid, BTreeSet<i32>>;

/// What one record says of a consumer group; `None` is a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConsumerRecord {
    /// The group epoch.
    Group(Option<i32>),
    /// The topics that the group subscribes to, by name.
    PartitionMetadata(Option<BTreeMap<StrBytes, TopicMetadata>>),
    Member {
        member: StrBytes,
        value: Option<ConsumerMemberMetadata>,
    },
    /// The group epoch that the target assignment is of.
    TargetAssignmentEpoch(Option<i32>),
    TargetAssignment {
        member: StrBytes,
        value: Option<Partitions>,
    },
    CurrentAssignment {
        member: StrBytes,
        value: Option<CurrentAssignment>,
    },
    RegularExpression {
        regex: StrBytes,
        value: Option<ResolvedRegex>,
    },
}

/// What a regular expression of members stood for when it was resolved (`ConsumerGroupRegularExpressionValue`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvedRegex {
    pub topics: BTreeSet<StrBytes>,
    /// Of the metadata that it was resolved by.
    pub version: i64,
    pub timestamp_ms: i64,
}

/// A topic as the target assignment knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicMetadata {
    pub id: Uuid,
    pub partitions: i32,
}

/// What a member said of itself (`ConsumerGroupMemberMetadataValue`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerMemberMetadata {
    pub instance_id: Option<StrBytes>,
    pub rack_id: Option<StrBytes>,
    pub client_id: StrBytes,
    pub client_host: StrBytes,
    pub subscribed_topics: BTreeSet<StrBytes>,
    pub subscribed_regex: Option<StrBytes>,
    pub rebalance_timeout_ms: i32,
    pub server_assignor: Option<StrBytes>,
    /// It speaks the classic protocol.
    pub classic: Option<ClassicMemberMetadata>,
}

impl Default for ConsumerMemberMetadata {
    fn default() -> Self {
        ConsumerMemberMetadata {
            instance_id: None,
            rack_id: None,
            client_id: StrBytes::default(),
            client_host: StrBytes::default(),
            subscribed_topics: BTreeSet::new(),
            subscribed_regex: None,
            rebalance_timeout_ms: -1,
            server_assignor: None,
            classic: None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClassicMemberMetadata {
    pub session_timeout_ms: i32,
    /// The protocols (assignors) with its subscription, the preferred one first.
    pub protocols: Vec<(StrBytes, Bytes)>,
}

/// `MemberState`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// At the target assignment, as far as it knows.
    Stable,
    /// It was told to give partitions up and has not confirmed that.
    UnrevokedPartitions,
    /// What it is to get others have yet to give up.
    UnreleasedPartitions,
    /// Written by a later version.
    Unknown,
}

impl MemberState {
    fn code(self) -> i8 {
        match self {
            MemberState::Stable => 0,
            MemberState::UnrevokedPartitions => 1,
            MemberState::UnreleasedPartitions => 2,
            MemberState::Unknown => i8::MAX,
        }
    }

    fn from_code(code: i8) -> MemberState {
        match code {
            0 => MemberState::Stable,
            1 => MemberState::UnrevokedPartitions,
            2 => MemberState::UnreleasedPartitions,
            _ => MemberState::Unknown,
        }
    }
}

/// How far a member has come (`ConsumerGroupCurrentMemberAssignmentValue`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CurrentAssignment {
    /// What its next heartbeat has to name. -1: it has left; -2: a static member that is to come back.
    pub member_epoch: i32,
    /// Named by a member that never got the answer which told it the new one.
    pub previous_member_epoch: i32,
    pub state: MemberState,
    pub assigned: Partitions,
    /// Not assigned any more, and perhaps still consumed.
    pub pending_revocation: Partitions,
}

impl CurrentAssignment {
    pub fn is_assigned(&self, topic: &Uuid, index: i32) -> bool {
        contains(&self.assigned, topic, index)
    }

    /// Whether it may be consuming it: assigned, or yet to be given up.
    pub fn holds(&self, topic: &Uuid, index: i32) -> bool {
        self.is_assigned(topic, index) || contains(&self.pending_revocation, topic, index)
    }
}

fn contains(partitions: &Partitions, topic: &Uuid, index: i32) -> bool {
    partitions.get(topic).is_some_and(|of_topic| of_topic.contains(&index))
}

impl Default for CurrentAssignment {
    /// A member that has just joined.
    fn default() -> Self {
        CurrentAssignment {
            member_epoch: 0,
            previous_member_epoch: -1,
            state: MemberState::Stable,
            assigned: Partitions::new(),
            pending_revocation: Partitions::new(),
        }
    }
}

impl ConsumerRecord {
    pub(in crate::coordinator) fn is_tombstone(&self) -> bool {
        match self {
            ConsumerRecord::Group(epoch) | ConsumerRecord::TargetAssignmentEpoch(epoch) => epoch.is_none(),
            ConsumerRecord::PartitionMetadata(topics) => topics.is_none(),
            ConsumerRecord::Member { value, .. } => value.is_none(),
            ConsumerRecord::TargetAssignment { value, .. } => value.is_none(),
            ConsumerRecord::CurrentAssignment { value, .. } => value.is_none(),
            ConsumerRecord::RegularExpression { value, .. } => value.is_none(),
        }
    }

    pub(super) fn is_key(kind: i16) -> bool {
        (GROUP..=CURRENT_ASSIGNMENT).contains(&kind) || kind == REGULAR_EXPRESSION
    }

    pub(super) fn put_key(&self, group: &StrBytes, out: &mut BytesMut) {
        let (kind, of) = match self {
            ConsumerRecord::Group(_) => (GROUP, None),
            ConsumerRecord::PartitionMetadata(_) => (PARTITION_METADATA, None),
            ConsumerRecord::Member { member, .. } => (MEMBER, Some(member)),
            ConsumerRecord::TargetAssignmentEpoch(_) => (TARGET_ASSIGNMENT_EPOCH, None),
            ConsumerRecord::TargetAssignment { member, .. } => (TARGET_ASSIGNMENT, Some(member)),
            ConsumerRecord::CurrentAssignment { member, .. } => (CURRENT_ASSIGNMENT, Some(member)),
            ConsumerRecord::RegularExpression { regex, .. } => (REGULAR_EXPRESSION, Some(regex)),
        };
        out.put_i16(kind);
        put_string(out, group);
        if let Some(of) = of {
            put_string(out, of);
        }
    }

    pub(super) fn value(&self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        out.put_i16(VERSION);
        match self {
            ConsumerRecord::Group(epoch) | ConsumerRecord::TargetAssignmentEpoch(epoch) => out.put_i32((*epoch)?),
            ConsumerRecord::PartitionMetadata(topics) => put_topics(&mut out, topics.as_ref()?),
            ConsumerRecord::Member { value, .. } => {
                value.as_ref()?.put(&mut out);
                return Some(out.freeze());
            }
            ConsumerRecord::TargetAssignment { value, .. } => put_partitions(&mut out, value.as_ref()?),
            ConsumerRecord::CurrentAssignment { value, .. } => value.as_ref()?.put(&mut out),
            ConsumerRecord::RegularExpression { value, .. } => value.as_ref()?.put(&mut out),
        }
        TaggedFields::new().put(&mut out);
        Some(out.freeze())
    }

    /// The record whose key is of type `kind`, of [`ConsumerRecord::is_key`], with the rest of the key; and its group.
    pub(super) fn decode(
        kind: i16,
        key: &mut Reader,
        value: Option<Bytes>,
    ) -> Result<(StrBytes, ConsumerRecord), DecodeError> {
        let group = string(key)?;
        let mut value = value.map(Reader::new);
        if let Some(value) = &mut value {
            value.i16()?;
        }
        let record = match kind {
            GROUP => ConsumerRecord::Group(value.as_mut().map(Reader::i32).transpose()?),
            TARGET_ASSIGNMENT_EPOCH => {
                ConsumerRecord::TargetAssignmentEpoch(value.as_mut().map(Reader::i32).transpose()?)
            }
            PARTITION_METADATA => ConsumerRecord::PartitionMetadata(value.as_mut().map(topics).transpose()?),
            MEMBER => {
                let value = value.as_mut().map(ConsumerMemberMetadata::decode).transpose();
                ConsumerRecord::Member { member: string(key)?, value: value? }
            }
            TARGET_ASSIGNMENT => {
                let value = value.as_mut().map(partitions).transpose();
                ConsumerRecord::TargetAssignment { member: string(key)?, value: value? }
            }
            CURRENT_ASSIGNMENT => {
                let value = value.as_mut().map(CurrentAssignment::decode).transpose();
                ConsumerRecord::CurrentAssignment { member: string(key)?, value: value? }
            }
            REGULAR_EXPRESSION => {
                let value = value.as_mut().map(ResolvedRegex::decode).transpose();
                ConsumerRecord::RegularExpression { regex: string(key)?, value: value? }
            }
            _ => return Err(DecodeError::Invalid("record type")),
        };
        Ok((group, record))
    }
}

fn put_partitions(out: &mut BytesMut, partitions: &Partitions) {
    let topics: Vec<(&Uuid, Vec<i32>)> = partitions.iter().map(|(id, of)| (id, of.iter().copied().collect())).collect();
    put_compact_array(out, &topics, |out, (id, partitions)| {
        put_uuid(out, **id);
        put_compact_array(out, partitions, |out, partition| out.put_i32(*partition));
        TaggedFields::new().put(out);
    });
}

fn partitions(reader: &mut Reader) -> Result<Partitions, DecodeError> {
    let topics = reader.array(|reader| {
        let topic = reader.uuid()?;
        let partitions = reader.array(Reader::i32)?;
        reader.skip_tagged_fields()?;
        Ok((topic, partitions.into_iter().collect()))
    })?;
    Ok(topics.into_iter().collect())
}

fn put_topics(out: &mut BytesMut, topics: &BTreeMap<StrBytes, TopicMetadata>) {
    let topics: Vec<(&StrBytes, &TopicMetadata)> = topics.iter().collect();
    put_compact_array(out, &topics, |out, (name, topic)| {
        put_uuid(out, topic.id);
        put_compact_string(out, Some(name.as_str()));
        out.put_i32(topic.partitions);
        // Racks of partitions: none.
        put_unsigned_varint(out, 1);
        TaggedFields::new().put(out);
    });
}

fn topics(reader: &mut Reader) -> Result<BTreeMap<StrBytes, TopicMetadata>, DecodeError> {
    let topics = reader.array(|reader| {
        let (id, name, partitions) = (reader.uuid()?, StrBytes::from_string(reader.string()?), reader.i32()?);
        reader.array(|reader| {
            reader.i32()?;
            reader.array(Reader::string)?;
            reader.skip_tagged_fields()
        })?;
        reader.skip_tagged_fields()?;
        Ok((name, TopicMetadata { id, partitions }))
    })?;
    Ok(topics.into_iter().collect())
}

fn nullable(reader: &mut Reader) -> Result<Option<StrBytes>, DecodeError> {
    Ok(reader.compact_string()?.map(StrBytes::from_string))
}

fn put_nullable(out: &mut BytesMut, text: Option<&StrBytes>) {
    put_compact_string(out, text.map(StrBytes::as_str));
}

fn names(reader: &mut Reader) -> Result<BTreeSet<StrBytes>, DecodeError> {
    Ok(reader.array(Reader::string)?.into_iter().map(StrBytes::from_string).collect())
}

fn put_names(out: &mut BytesMut, names: &BTreeSet<StrBytes>) {
    let names: Vec<&StrBytes> = names.iter().collect();
    put_compact_array(out, &names, |out, name| put_nullable(out, Some(name)));
}

impl ConsumerMemberMetadata {
    fn put(&self, out: &mut BytesMut) {
        let ConsumerMemberMetadata {
            instance_id,
            rack_id,
            client_id,
            client_host,
            subscribed_topics,
            subscribed_regex,
            rebalance_timeout_ms,
            server_assignor,
            classic,
        } = self;
        put_nullable(out, instance_id.as_ref());
        put_nullable(out, rack_id.as_ref());
        put_nullable(out, Some(client_id));
        put_nullable(out, Some(client_host));
        put_names(out, subscribed_topics);
        put_nullable(out, subscribed_regex.as_ref());
        out.put_i32(*rebalance_timeout_ms);
        put_nullable(out, server_assignor.as_ref());
        let mut tagged = TaggedFields::new();
        if let Some(classic) = classic {
            tagged.add(CLASSIC_MEMBER, |out| classic.put(out));
        }
        tagged.put(out);
    }

    fn decode(reader: &mut Reader) -> Result<ConsumerMemberMetadata, DecodeError> {
        let mut member = ConsumerMemberMetadata {
            instance_id: nullable(reader)?,
            rack_id: nullable(reader)?,
            client_id: StrBytes::from_string(reader.string()?),
            client_host: StrBytes::from_string(reader.string()?),
            subscribed_topics: names(reader)?,
            subscribed_regex: nullable(reader)?,
            rebalance_timeout_ms: reader.i32()?,
            server_assignor: nullable(reader)?,
            classic: None,
        };
        reader.tagged_fields(|tag, reader| {
            if tag == CLASSIC_MEMBER {
                member.classic = ClassicMemberMetadata::decode(reader)?;
            }
            Ok(())
        })?;
        Ok(member)
    }
}

impl ClassicMemberMetadata {
    /// A nullable structure: a byte says that it is there.
    fn put(&self, out: &mut BytesMut) {
        out.put_i8(1);
        out.put_i32(self.session_timeout_ms);
        put_compact_array(out, &self.protocols, |out, (name, metadata)| {
            put_nullable(out, Some(name));
            put_unsigned_varint(out, u32::try_from(metadata.len() + 1).expect("it came in a frame"));
            out.put_slice(metadata);
            TaggedFields::new().put(out);
        });
        TaggedFields::new().put(out);
    }

    fn decode(reader: &mut Reader) -> Result<Option<ClassicMemberMetadata>, DecodeError> {
        if reader.i8()? < 0 {
            return Ok(None);
        }
        let session_timeout_ms = reader.i32()?;
        let protocols = reader.array(|reader| {
            let protocol = (StrBytes::from_string(reader.string()?), reader.compact_bytes()?);
            reader.skip_tagged_fields()?;
            Ok(protocol)
        })?;
        Ok(Some(ClassicMemberMetadata { session_timeout_ms, protocols }))
    }
}

impl CurrentAssignment {
    fn put(&self, out: &mut BytesMut) {
        let CurrentAssignment { member_epoch, previous_member_epoch, state, assigned, pending_revocation } = self;
        out.put_i32(*member_epoch);
        out.put_i32(*previous_member_epoch);
        out.put_i8(state.code());
        put_partitions(out, assigned);
        put_partitions(out, pending_revocation);
    }

    fn decode(reader: &mut Reader) -> Result<CurrentAssignment, DecodeError> {
        Ok(CurrentAssignment {
            member_epoch: reader.i32()?,
            previous_member_epoch: reader.i32()?,
            state: MemberState::from_code(reader.i8()?),
            assigned: partitions(reader)?,
            pending_revocation: partitions(reader)?,
        })
    }
}

impl ResolvedRegex {
    fn put(&self, out: &mut BytesMut) {
        let ResolvedRegex { topics, version, timestamp_ms } = self;
        put_names(out, topics);
        out.put_i64(*version);
        out.put_i64(*timestamp_ms);
    }

    fn decode(reader: &mut Reader) -> Result<ResolvedRegex, DecodeError> {
        Ok(ResolvedRegex { topics: names(reader)?, version: reader.i64()?, timestamp_ms: reader.i64()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &'static str) -> StrBytes {
        StrBytes::from_static_str(text)
    }

    fn round_trip(record: &ConsumerRecord) {
        let mut key = BytesMut::new();
        record.put_key(&text("g"), &mut key);
        let mut key = Reader::new(key.freeze());
        let kind = key.i16().expect("a key has a type");
        assert!(ConsumerRecord::is_key(kind));
        let decoded = ConsumerRecord::decode(kind, &mut key, record.value()).expect("our own record");
        assert_eq!(decoded, (text("g"), record.clone()));
    }

    fn some_partitions() -> Partitions {
        Partitions::from([(Uuid::from_u128(1), BTreeSet::from([0, 3])), (Uuid::from_u128(2), BTreeSet::from([7]))])
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let classic =
            ClassicMemberMetadata { session_timeout_ms: 9, protocols: vec![(text("range"), Bytes::from("s"))] };
        let plain = ConsumerMemberMetadata {
            instance_id: Some(text("i")),
            rack_id: None,
            client_id: text("c"),
            client_host: text("/127.0.0.1"),
            subscribed_topics: BTreeSet::from([text("orders"), text("bills")]),
            subscribed_regex: Some(text("o.*")),
            rebalance_timeout_ms: 300_000,
            server_assignor: Some(text("uniform")),
            classic: None,
        };
        let current = CurrentAssignment {
            member_epoch: 4,
            previous_member_epoch: 3,
            state: MemberState::UnrevokedPartitions,
            assigned: some_partitions(),
            pending_revocation: Partitions::from([(Uuid::from_u128(9), BTreeSet::from([1]))]),
        };
        let topic = TopicMetadata { id: Uuid::from_u128(1), partitions: 6 };
        let member = || text("m");
        for record in [
            ConsumerRecord::Group(Some(5)),
            ConsumerRecord::Group(None),
            ConsumerRecord::PartitionMetadata(Some(BTreeMap::from([(text("orders"), topic)]))),
            ConsumerRecord::PartitionMetadata(None),
            ConsumerRecord::Member { member: member(), value: Some(plain.clone()) },
            ConsumerRecord::Member {
                member: member(),
                value: Some(ConsumerMemberMetadata { classic: Some(classic), ..plain }),
            },
            ConsumerRecord::Member { member: member(), value: None },
            ConsumerRecord::TargetAssignmentEpoch(Some(5)),
            ConsumerRecord::TargetAssignmentEpoch(None),
            ConsumerRecord::TargetAssignment { member: member(), value: Some(some_partitions()) },
            ConsumerRecord::TargetAssignment { member: member(), value: None },
            ConsumerRecord::CurrentAssignment { member: member(), value: Some(current) },
            ConsumerRecord::CurrentAssignment { member: member(), value: None },
            ConsumerRecord::RegularExpression {
                regex: text("o.*"),
                value: Some(ResolvedRegex {
                    topics: BTreeSet::from([text("orders"), text("others")]),
                    version: 7,
                    timestamp_ms: 1_700_000_000_000,
                }),
            },
            ConsumerRecord::RegularExpression { regex: text("o.*"), value: None },
        ] {
            round_trip(&record);
        }
    }

    #[test]
    fn the_layout_is_kafkas() {
        let mut key = BytesMut::new();
        let record = ConsumerRecord::TargetAssignment {
            member: text("m"),
            value: Some(Partitions::from([(Uuid::from_u128(1), BTreeSet::from([2]))])),
        };
        record.put_key(&text("g"), &mut key);
        assert_eq!(&key[..], b"\0\x07\0\x01g\0\x01m");
        let value = record.value().expect("no tombstone");
        assert_eq!(&value[..], b"\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\0\0\0\x02\0\0");
        assert_eq!(&ConsumerRecord::Group(Some(3)).value().expect("no tombstone")[..], b"\0\0\0\0\0\x03\0");
    }
}
