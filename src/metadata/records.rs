//! Metadata records: value types and their encoding (frame version, api key, version, flexible body), as
//! in Kafka's `metadata/src/main/resources/common/metadata/*.json`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use uuid::Uuid;

use crate::protocol::primitives::{
    DecodeError, Reader, TaggedFields, put_bool, put_compact_array, put_compact_string, put_unsigned_varint, put_uuid,
};
use crate::protocol::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};
use crate::world::HostPort;

/// One metadata record. Null fields of a change record are `None`: unchanged.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataRecord {
    /// RegisterBrokerRecord (0). The broker epoch is an offset of the metadata log, not beyond the record's own.
    RegisterBroker {
        broker: BrokerId,
        incarnation: Uuid,
        broker_epoch: BrokerEpoch,
        endpoint: HostPort,
        rack: Option<String>,
        fenced: bool,
        in_controlled_shutdown: bool,
        log_dirs: Vec<Uuid>,
    },
    /// UnregisterBrokerRecord (1)
    UnregisterBroker { broker: BrokerId, broker_epoch: BrokerEpoch },
    /// BrokerRegistrationChangeRecord (17)
    BrokerRegistrationChange {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
        fenced: Option<bool>,
        in_controlled_shutdown: Option<bool>,
        /// The log directories that are left (KIP-858).
        log_dirs: Option<Vec<Uuid>>,
    },
    /// TopicRecord (2)
    Topic { name: String, id: Uuid },
    /// RemoveTopicRecord (9)
    RemoveTopic { id: Uuid },
    /// PartitionRecord (3)
    Partition {
        topic_id: Uuid,
        partition: i32,
        replicas: Vec<BrokerId>,
        isr: Vec<BrokerId>,
        leader: BrokerId,
        leader_epoch: LeaderEpoch,
        partition_epoch: i32,
        leader_recovering: bool,
        directories: Vec<Uuid>,
    },
    /// PartitionChangeRecord (5). A leader present (even the same one) raises the leader epoch; every change
    /// raises the partition epoch (`PartitionRegistration.merge`). Leader `BrokerId(-1)`: none;
    /// -2 in Kafka's record means no change and is `None` here.
    PartitionChange {
        topic_id: Uuid,
        partition: i32,
        isr: Option<Vec<BrokerId>>,
        leader: Option<BrokerId>,
        replicas: Option<Vec<BrokerId>>,
        leader_recovering: Option<bool>,
        /// In the order of the replicas.
        directories: Option<Vec<Uuid>>,
    },
    /// ConfigRecord (4): `resource_type` 2 topic, 4 broker (empty name: cluster default); no value: removed.
    Config { resource_type: i8, resource_name: String, name: String, value: Option<String> },
    /// ProducerIdsRecord (15): the next block of producer ids begins at `next_producer_id`.
    ProducerIds { broker: BrokerId, broker_epoch: BrokerEpoch, next_producer_id: i64 },
    /// NoOpRecord (20)
    NoOp,
    /// FeatureLevelRecord (12)
    FeatureLevel { name: String, level: i16 },
}

/// Frame version of every metadata record (`AbstractApiMessageSerde`).
const FRAME_VERSION: u32 = 1;

/// `LeaderConstants.NO_LEADER_CHANGE`
const NO_LEADER_CHANGE: i32 = -2;

/// Name of the only listener in registrations, and its security protocol.
const LISTENER: (&str, i16) = ("PLAINTEXT", 0);

/// One record batch v2 that holds `records` (at least one), leader epoch stamped, offsets from `base_offset`.
pub fn encode_records(records: &[MetadataRecord], base_offset: Offset, epoch: LeaderEpoch, timestamp_ms: i64) -> Bytes {
    assert!(!records.is_empty(), "a batch holds at least one record");
    let records: Vec<Record> = (0..)
        .zip(records)
        .map(|(i, record)| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: epoch.0,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timestamp_type: TimestampType::Creation,
            offset: base_offset.0 + i,
            // The encoder starts a new batch where sequences do not go up with the offsets.
            sequence: NO_SEQUENCE.wrapping_add(i as i32),
            timestamp: timestamp_ms,
            key: None,
            value: Some(encode_value(record)),
            headers: indexmap::IndexMap::new(),
        })
        .collect();
    let mut out = BytesMut::with_capacity(64 + 64 * records.len());
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut out, &records, &options).expect("metadata records are small and well formed");
    out.freeze()
}

/// Bytes before the part of a batch that its length field counts.
const LOG_OVERHEAD: usize = 12;

/// Decodes every whole batch in `bytes`: (offset, leader epoch, record). Control batches are skipped, and so is
/// an incomplete batch at the end.
pub fn decode_records(bytes: &Bytes) -> Result<Vec<(Offset, LeaderEpoch, MetadataRecord)>, String> {
    let mut rest = bytes.clone();
    let mut decoded = Vec::new();
    while rest.len() > LOG_OVERHEAD {
        let length = (&rest[LOG_OVERHEAD - 4..]).get_i32();
        let length = usize::try_from(length).map_err(|_| format!("a batch of {length} bytes"))?;
        if rest.len() - LOG_OVERHEAD < length {
            break;
        }
        let mut batch = rest.split_to(LOG_OVERHEAD + length);
        let batch = RecordBatchDecoder::decode(&mut batch).map_err(|e| e.to_string())?;
        for record in batch.records.into_iter().filter(|r| !r.control) {
            let at = |reason: String| format!("metadata record at offset {}: {reason}", record.offset);
            let value = record.value.ok_or_else(|| at("no value".to_owned()))?;
            let value = decode_value(value).map_err(at)?;
            decoded.push((Offset(record.offset), LeaderEpoch(record.partition_leader_epoch), value));
        }
    }
    Ok(decoded)
}

/// (API key, version) under which a record is written: the oldest version that holds what the record has, as
/// with Kafka's `MetadataVersion` 4.0-IV0.
fn key_and_version(record: &MetadataRecord) -> (u32, u32) {
    match record {
        MetadataRecord::RegisterBroker { .. } => (0, 3),
        MetadataRecord::UnregisterBroker { .. } => (1, 0),
        MetadataRecord::Topic { .. } => (2, 0),
        MetadataRecord::Partition { .. } => (3, 1),
        MetadataRecord::Config { .. } => (4, 0),
        MetadataRecord::PartitionChange { .. } => (5, 1),
        MetadataRecord::RemoveTopic { .. } => (9, 0),
        MetadataRecord::FeatureLevel { .. } => (12, 0),
        MetadataRecord::ProducerIds { .. } => (15, 0),
        MetadataRecord::BrokerRegistrationChange { log_dirs: Some(_), .. } => (17, 2),
        MetadataRecord::BrokerRegistrationChange { in_controlled_shutdown: None, .. } => (17, 0),
        MetadataRecord::BrokerRegistrationChange { in_controlled_shutdown: Some(_), .. } => (17, 1),
        MetadataRecord::NoOp => (20, 0),
    }
}

/// A record's value: frame version, API key, version, body.
fn encode_value(record: &MetadataRecord) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    let (key, version) = key_and_version(record);
    put_unsigned_varint(&mut out, FRAME_VERSION);
    put_unsigned_varint(&mut out, key);
    put_unsigned_varint(&mut out, version);
    put_body(&mut out, record).put(&mut out);
    out.freeze()
}

/// Writes the untagged fields of the body and returns the tagged ones, which follow.
fn put_body(out: &mut BytesMut, record: &MetadataRecord) -> TaggedFields {
    let mut tagged = TaggedFields::new();
    match record {
        MetadataRecord::RegisterBroker { .. } => return put_register_broker(out, record),
        MetadataRecord::Partition { .. } => return put_partition(out, record),
        MetadataRecord::PartitionChange { .. } => return put_partition_change(out, record),
        MetadataRecord::UnregisterBroker { broker, broker_epoch } => {
            out.put_i32(broker.0);
            out.put_i64(broker_epoch.0);
        }
        MetadataRecord::BrokerRegistrationChange { broker, broker_epoch, fenced, in_controlled_shutdown, log_dirs } => {
            out.put_i32(broker.0);
            out.put_i64(broker_epoch.0);
            if let Some(fenced) = *fenced {
                tagged.add(0, |out| out.put_i8(if fenced { 1 } else { -1 }));
            }
            // Kafka has no way back out of controlled shutdown, other than a new registration.
            if *in_controlled_shutdown == Some(true) {
                tagged.add(1, |out| out.put_i8(1));
            }
            if let Some(log_dirs) = log_dirs {
                tagged.add(2, |out| put_uuids(out, log_dirs));
            }
        }
        MetadataRecord::Topic { name, id } => {
            put_compact_string(out, Some(name));
            put_uuid(out, *id);
        }
        MetadataRecord::RemoveTopic { id } => put_uuid(out, *id),
        MetadataRecord::Config { resource_type, resource_name, name, value } => {
            out.put_i8(*resource_type);
            put_compact_string(out, Some(resource_name));
            put_compact_string(out, Some(name));
            put_compact_string(out, value.as_deref());
        }
        MetadataRecord::ProducerIds { broker, broker_epoch, next_producer_id } => {
            out.put_i32(broker.0);
            out.put_i64(broker_epoch.0);
            out.put_i64(*next_producer_id);
        }
        MetadataRecord::NoOp => {}
        MetadataRecord::FeatureLevel { name, level } => {
            put_compact_string(out, Some(name));
            out.put_i16(*level);
        }
    }
    tagged
}

fn put_register_broker(out: &mut BytesMut, record: &MetadataRecord) -> TaggedFields {
    let MetadataRecord::RegisterBroker {
        broker,
        incarnation,
        broker_epoch,
        endpoint,
        rack,
        fenced,
        in_controlled_shutdown,
        log_dirs,
    } = record
    else {
        unreachable!("called for RegisterBroker")
    };
    out.put_i32(broker.0);
    put_bool(out, false); // IsMigratingZkBroker
    put_uuid(out, *incarnation);
    out.put_i64(broker_epoch.0);
    put_compact_array(out, &[endpoint], |out, endpoint| {
        put_compact_string(out, Some(LISTENER.0));
        put_compact_string(out, Some(&endpoint.host));
        out.put_u16(endpoint.port);
        out.put_i16(LISTENER.1);
        TaggedFields::new().put(out);
    });
    put_unsigned_varint(out, 1); // Features: none
    put_compact_string(out, rack.as_deref());
    put_bool(out, *fenced);
    put_bool(out, *in_controlled_shutdown);
    let mut tagged = TaggedFields::new();
    if !log_dirs.is_empty() {
        tagged.add(0, |out| put_uuids(out, log_dirs));
    }
    tagged
}

fn put_partition(out: &mut BytesMut, record: &MetadataRecord) -> TaggedFields {
    let MetadataRecord::Partition {
        topic_id,
        partition,
        replicas,
        isr,
        leader,
        leader_epoch,
        partition_epoch,
        leader_recovering,
        directories,
    } = record
    else {
        unreachable!("called for Partition")
    };
    out.put_i32(*partition);
    put_uuid(out, *topic_id);
    put_brokers(out, replicas);
    put_brokers(out, isr);
    put_brokers(out, &[]); // RemovingReplicas
    put_brokers(out, &[]); // AddingReplicas
    out.put_i32(leader.0);
    out.put_i32(leader_epoch.0);
    out.put_i32(*partition_epoch);
    put_uuids(out, directories);
    let mut tagged = TaggedFields::new();
    if *leader_recovering {
        tagged.add(0, |out| out.put_i8(1));
    }
    tagged
}

fn put_partition_change(out: &mut BytesMut, record: &MetadataRecord) -> TaggedFields {
    let MetadataRecord::PartitionChange { topic_id, partition, isr, leader, replicas, leader_recovering, directories } =
        record
    else {
        unreachable!("called for PartitionChange")
    };
    out.put_i32(*partition);
    put_uuid(out, *topic_id);
    let mut tagged = TaggedFields::new();
    if let Some(isr) = isr {
        tagged.add(0, |out| put_brokers(out, isr));
    }
    if let Some(leader) = leader {
        tagged.add(1, |out| out.put_i32(leader.0));
    }
    if let Some(replicas) = replicas {
        tagged.add(2, |out| put_brokers(out, replicas));
    }
    if let Some(recovering) = *leader_recovering {
        tagged.add(5, |out| out.put_i8(i8::from(recovering)));
    }
    if let Some(directories) = directories {
        tagged.add(8, |out| put_uuids(out, directories));
    }
    tagged
}

fn put_brokers(out: &mut BytesMut, brokers: &[BrokerId]) {
    put_compact_array(out, brokers, |out, broker| out.put_i32(broker.0));
}

fn put_uuids(out: &mut BytesMut, uuids: &[Uuid]) {
    put_compact_array(out, uuids, |out, uuid| put_uuid(out, *uuid));
}

/// Reads a record's value. Older versions than those we write are read as far as their fields are the same.
fn decode_value(value: Bytes) -> Result<MetadataRecord, String> {
    let malformed = |e: DecodeError| e.to_string();
    let mut reader = Reader::new(value);
    let frame_version = reader.unsigned_varint().map_err(malformed)?;
    if frame_version != FRAME_VERSION {
        return Err(format!("unknown frame version {frame_version}"));
    }
    let key = reader.unsigned_varint().map_err(malformed)?;
    let version = reader.unsigned_varint().map_err(malformed)?;
    let version_max = match key {
        0 => 3,
        3 | 5 | 17 => 2,
        1 | 2 | 4 | 9 | 12 | 15 | 20 => 0,
        _ => return Err(format!("record type {key} is not modelled")),
    };
    if version > version_max {
        return Err(format!("unknown version {version} of record type {key}"));
    }
    let record = read_body(&mut reader, key, version).map_err(malformed)?;
    reader.finish().map_err(malformed)?;
    Ok(record)
}

fn read_body(reader: &mut Reader, key: u32, version: u32) -> Result<MetadataRecord, DecodeError> {
    let record = match key {
        0 => return read_register_broker(reader, version),
        1 => MetadataRecord::UnregisterBroker {
            broker: BrokerId(reader.i32()?),
            broker_epoch: BrokerEpoch(reader.i64()?),
        },
        2 => MetadataRecord::Topic { name: reader.string()?, id: reader.uuid()? },
        3 => return read_partition(reader, version),
        4 => MetadataRecord::Config {
            resource_type: reader.i8()?,
            resource_name: reader.string()?,
            name: reader.string()?,
            value: reader.compact_string()?,
        },
        5 => return read_partition_change(reader),
        9 => MetadataRecord::RemoveTopic { id: reader.uuid()? },
        12 => MetadataRecord::FeatureLevel { name: reader.string()?, level: reader.i16()? },
        15 => MetadataRecord::ProducerIds {
            broker: BrokerId(reader.i32()?),
            broker_epoch: BrokerEpoch(reader.i64()?),
            next_producer_id: reader.i64()?,
        },
        17 => return read_broker_registration_change(reader),
        20 => MetadataRecord::NoOp,
        _ => return Err(DecodeError::Invalid("record type")),
    };
    reader.skip_tagged_fields()?;
    Ok(record)
}

fn read_register_broker(reader: &mut Reader, version: u32) -> Result<MetadataRecord, DecodeError> {
    let broker = BrokerId(reader.i32()?);
    if version >= 2 && reader.bool()? {
        return Err(DecodeError::Invalid("broker: it migrates from ZooKeeper"));
    }
    let incarnation = reader.uuid()?;
    let broker_epoch = BrokerEpoch(reader.i64()?);
    let endpoints = reader.array(|reader| {
        reader.string()?;
        let endpoint = HostPort::new(reader.string()?, reader.u16()?);
        reader.i16()?;
        reader.skip_tagged_fields()?;
        Ok(endpoint)
    })?;
    reader.array(|reader| {
        reader.string()?;
        reader.i16()?;
        reader.i16()?;
        reader.skip_tagged_fields()
    })?;
    let rack = reader.compact_string()?;
    let fenced = reader.bool()?;
    let in_controlled_shutdown = version >= 1 && reader.bool()?;
    let mut log_dirs = Vec::new();
    reader.tagged_fields(|tag, field| {
        if tag == 0 {
            log_dirs = field.array(Reader::uuid)?;
        }
        Ok(())
    })?;
    Ok(MetadataRecord::RegisterBroker {
        broker,
        incarnation,
        broker_epoch,
        endpoint: endpoints.into_iter().next().ok_or(DecodeError::Invalid("broker: it has no endpoint"))?,
        rack,
        fenced,
        in_controlled_shutdown,
        log_dirs,
    })
}

fn read_broker_registration_change(reader: &mut Reader) -> Result<MetadataRecord, DecodeError> {
    let broker = BrokerId(reader.i32()?);
    let broker_epoch = BrokerEpoch(reader.i64()?);
    let (mut fenced, mut in_controlled_shutdown, mut log_dirs) = (None, None, None);
    reader.tagged_fields(|tag, field| {
        match tag {
            0 => {
                fenced = match field.i8()? {
                    -1 => Some(false),
                    0 => None,
                    1 => Some(true),
                    _ => return Err(DecodeError::Invalid("fencing change")),
                }
            }
            1 => {
                in_controlled_shutdown = match field.i8()? {
                    0 => None,
                    1 => Some(true),
                    _ => return Err(DecodeError::Invalid("controlled shutdown change")),
                }
            }
            2 => log_dirs = Some(field.array(Reader::uuid)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(MetadataRecord::BrokerRegistrationChange { broker, broker_epoch, fenced, in_controlled_shutdown, log_dirs })
}

fn read_partition(reader: &mut Reader, version: u32) -> Result<MetadataRecord, DecodeError> {
    let partition = reader.i32()?;
    let topic_id = reader.uuid()?;
    let replicas = read_brokers(reader)?;
    let isr = read_brokers(reader)?;
    read_brokers(reader)?; // RemovingReplicas
    read_brokers(reader)?; // AddingReplicas
    let leader = BrokerId(reader.i32()?);
    let leader_epoch = LeaderEpoch(reader.i32()?);
    let partition_epoch = reader.i32()?;
    let directories = if version >= 1 { reader.array(Reader::uuid)? } else { Vec::new() };
    let mut leader_recovering = false;
    reader.tagged_fields(|tag, field| {
        if tag == 0 {
            leader_recovering = field.i8()? == 1;
        }
        Ok(())
    })?;
    Ok(MetadataRecord::Partition {
        topic_id,
        partition,
        replicas,
        isr,
        leader,
        leader_epoch,
        partition_epoch,
        leader_recovering,
        directories,
    })
}

fn read_partition_change(reader: &mut Reader) -> Result<MetadataRecord, DecodeError> {
    let partition = reader.i32()?;
    let topic_id = reader.uuid()?;
    let (mut isr, mut leader, mut replicas, mut leader_recovering, mut directories) = (None, None, None, None, None);
    reader.tagged_fields(|tag, field| {
        match tag {
            0 => isr = read_brokers_or_null(field)?,
            1 => leader = Some(field.i32()?).filter(|l| *l != NO_LEADER_CHANGE).map(BrokerId),
            2 => replicas = read_brokers_or_null(field)?,
            5 => {
                leader_recovering = match field.i8()? {
                    -1 => None,
                    0 => Some(false),
                    1 => Some(true),
                    _ => return Err(DecodeError::Invalid("leader recovery state")),
                }
            }
            8 => directories = Some(field.array(Reader::uuid)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(MetadataRecord::PartitionChange { topic_id, partition, isr, leader, replicas, leader_recovering, directories })
}

fn read_brokers(reader: &mut Reader) -> Result<Vec<BrokerId>, DecodeError> {
    reader.array(|reader| Ok(BrokerId(reader.i32()?)))
}

fn read_brokers_or_null(reader: &mut Reader) -> Result<Option<Vec<BrokerId>>, DecodeError> {
    reader.compact_array(|reader| Ok(BrokerId(reader.i32()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid(n: u8) -> Uuid {
        Uuid::from_bytes([n; 16])
    }

    fn brokers(ids: &[i32]) -> Vec<BrokerId> {
        ids.iter().copied().map(BrokerId).collect()
    }

    fn samples() -> Vec<MetadataRecord> {
        vec![
            MetadataRecord::FeatureLevel { name: "metadata.version".to_owned(), level: 22 },
            MetadataRecord::ProducerIds { broker: BrokerId(2), broker_epoch: BrokerEpoch(7), next_producer_id: 3_000 },
            MetadataRecord::RegisterBroker {
                broker: BrokerId(1),
                incarnation: uuid(7),
                broker_epoch: BrokerEpoch(5),
                endpoint: HostPort::new("broker-1", 9092),
                rack: Some("a".to_owned()),
                fenced: true,
                in_controlled_shutdown: false,
                log_dirs: vec![uuid(3)],
            },
            MetadataRecord::RegisterBroker {
                broker: BrokerId(2),
                incarnation: uuid(8),
                broker_epoch: BrokerEpoch(6),
                endpoint: HostPort::new("broker-2", 65535),
                rack: None,
                fenced: false,
                in_controlled_shutdown: true,
                log_dirs: vec![],
            },
            MetadataRecord::UnregisterBroker { broker: BrokerId(9), broker_epoch: BrokerEpoch(4) },
            MetadataRecord::BrokerRegistrationChange {
                broker: BrokerId(1),
                broker_epoch: BrokerEpoch(5),
                fenced: Some(false),
                in_controlled_shutdown: None,
                log_dirs: None,
            },
            MetadataRecord::BrokerRegistrationChange {
                broker: BrokerId(1),
                broker_epoch: BrokerEpoch(5),
                fenced: Some(true),
                in_controlled_shutdown: Some(true),
                log_dirs: Some(vec![uuid(3), uuid(4)]),
            },
            MetadataRecord::Topic { name: "orders".to_owned(), id: uuid(1) },
            MetadataRecord::Config {
                resource_type: 2,
                resource_name: "orders".to_owned(),
                name: "flush.messages".to_owned(),
                value: Some("1".to_owned()),
            },
            MetadataRecord::Config {
                resource_type: 4,
                resource_name: String::new(),
                name: "min.insync.replicas".to_owned(),
                value: None,
            },
            MetadataRecord::Partition {
                topic_id: uuid(1),
                partition: 3,
                replicas: brokers(&[1, 2, 3]),
                isr: brokers(&[1, 2]),
                leader: BrokerId(1),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: 0,
                leader_recovering: true,
                directories: vec![uuid(3), uuid(4), uuid(5)],
            },
            MetadataRecord::PartitionChange {
                topic_id: uuid(1),
                partition: 3,
                isr: None,
                leader: None,
                replicas: None,
                leader_recovering: None,
                directories: None,
            },
            MetadataRecord::PartitionChange {
                topic_id: uuid(1),
                partition: 3,
                isr: Some(brokers(&[2])),
                leader: Some(BrokerId::NONE),
                replicas: Some(brokers(&[3, 2])),
                leader_recovering: Some(false),
                directories: Some(vec![uuid(3), uuid(4)]),
            },
            MetadataRecord::RemoveTopic { id: uuid(1) },
            MetadataRecord::NoOp,
        ]
    }

    #[test]
    fn every_record_survives_a_batch() {
        let samples = samples();
        let batch = encode_records(&samples, Offset(40), LeaderEpoch(2), 1_700_000_000_000);
        let decoded = decode_records(&batch).expect("our own bytes");
        let expected: Vec<_> =
            (40..).zip(samples).map(|(offset, record)| (Offset(offset), LeaderEpoch(2), record)).collect();
        assert_eq!(decoded, expected);
    }

    #[test]
    fn several_records_make_one_batch() {
        let batch = encode_records(&samples(), Offset(40), LeaderEpoch(2), 0);
        let length = (&batch[8..12]).get_i32() as usize;
        assert_eq!(batch.len(), LOG_OVERHEAD + length);
        assert_eq!((&batch[53..57]).get_i32(), -1, "base sequence");
    }

    #[test]
    fn batches_follow_one_another_and_an_incomplete_one_ends_them() {
        let mut bytes = BytesMut::new();
        bytes.put(encode_records(&[MetadataRecord::NoOp], Offset(0), LeaderEpoch(1), 0));
        bytes.put(encode_records(&[MetadataRecord::NoOp], Offset(1), LeaderEpoch(2), 0));
        let whole = bytes.len();
        bytes.put(encode_records(&[MetadataRecord::NoOp], Offset(2), LeaderEpoch(2), 0));
        let decoded = |len: usize| decode_records(&bytes.clone().freeze().slice(..len));
        let two =
            vec![(Offset(0), LeaderEpoch(1), MetadataRecord::NoOp), (Offset(1), LeaderEpoch(2), MetadataRecord::NoOp)];
        for cut in [whole, whole + 1, whole + 12, bytes.len() - 1] {
            assert_eq!(decoded(cut), Ok(two.clone()), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_is_an_error() {
        let batch = encode_records(&samples(), Offset(0), LeaderEpoch(1), 0);
        let mut bytes = batch.to_vec();
        *bytes.last_mut().expect("not empty") ^= 1;
        assert!(decode_records(&Bytes::from(bytes)).is_err());
    }

    /// PartitionChangeRecord.json, version 1: int32 partition, uuid topic id, then the tagged fields
    /// 0 Isr (compact array of int32), 1 Leader (int32), 5 LeaderRecoveryState (int8).
    #[test]
    fn partition_change_has_the_layout_of_its_schema() {
        let record = MetadataRecord::PartitionChange {
            topic_id: uuid(0xab),
            partition: 1,
            isr: Some(brokers(&[2, 3])),
            leader: Some(BrokerId(2)),
            replicas: None,
            leader_recovering: Some(true),
            directories: None,
        };
        let mut expected = vec![1, 5, 1];
        expected.extend([0, 0, 0, 1]);
        expected.extend([0xab; 16]);
        expected.push(3);
        expected.extend([0, 9, 3, 0, 0, 0, 2, 0, 0, 0, 3]);
        expected.extend([1, 4, 0, 0, 0, 2]);
        expected.extend([5, 1, 1]);
        assert_eq!(encode_value(&record), expected);
    }

    /// RegisterBrokerRecord.json, version 3: int32 id, bool migrating, uuid incarnation, int64 epoch, endpoints
    /// (name, host, uint16 port, int16 security protocol), features, nullable rack, bool fenced, bool in controlled
    /// shutdown, tag 0 LogDirs.
    #[test]
    fn register_broker_has_the_layout_of_its_schema() {
        let record = MetadataRecord::RegisterBroker {
            broker: BrokerId(1),
            incarnation: uuid(0xcd),
            broker_epoch: BrokerEpoch(9),
            endpoint: HostPort::new("b1", 9092),
            rack: None,
            fenced: true,
            in_controlled_shutdown: false,
            log_dirs: vec![uuid(0xef)],
        };
        let mut expected = vec![1, 0, 3];
        expected.extend([0, 0, 0, 1]);
        expected.push(0);
        expected.extend([0xcd; 16]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 9]);
        expected.extend([2, 10]);
        expected.extend(b"PLAINTEXT");
        expected.extend([3, b'b', b'1', 0x23, 0x84, 0, 0, 0]);
        expected.push(1);
        expected.push(0);
        expected.extend([1, 0]);
        expected.extend([1, 0, 17, 2]);
        expected.extend([0xef; 16]);
        assert_eq!(encode_value(&record), expected);
    }

    /// BrokerRegistrationChangeRecord.json: Fenced is -1 for unfenced, under tag 0.
    #[test]
    fn unfencing_is_minus_one() {
        let record = MetadataRecord::BrokerRegistrationChange {
            broker: BrokerId(1),
            broker_epoch: BrokerEpoch(9),
            fenced: Some(false),
            in_controlled_shutdown: None,
            log_dirs: None,
        };
        assert_eq!(encode_value(&record), vec![1, 17, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 1, 0xff]);
    }

    #[test]
    fn what_is_not_modelled_is_an_error_that_says_so() {
        for (value, error) in [
            (vec![0, 20, 0, 0], "unknown frame version 0"),
            (vec![1, 21, 0, 0], "record type 21 is not modelled"),
            (vec![1, 20, 1, 0], "unknown version 1 of record type 20"),
            (vec![1, 20, 0, 0, 7], "1 bytes are left over"),
            (vec![1, 2, 0, 9], "the bytes end inside a string"),
        ] {
            assert_eq!(decode_value(Bytes::from(value)), Err(error.to_owned()));
        }
    }

    #[test]
    fn fields_from_the_future_are_skipped() {
        let value = Bytes::from_static(&[1, 20, 0, 1, 40, 2, 0xaa, 0xbb]);
        assert_eq!(decode_value(value), Ok(MetadataRecord::NoOp));
    }
}
