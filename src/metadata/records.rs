//! Metadata records: value types and their encoding (frame version, api key, version, flexible body), as
//! in Kafka's `metadata/src/main/resources/common/metadata/*.json`.

use bytes::Bytes;
use uuid::Uuid;

use crate::protocol::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};
use crate::world::HostPort;

/// One metadata record. Null fields of a change record are `None`: unchanged.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataRecord {
    /// RegisterBrokerRecord (27). The broker epoch is the record's offset, known to the controller beforehand.
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
    },
    /// ConfigRecord (4): `resource_type` 2 topic, 4 broker (empty name: cluster default); no value: removed.
    Config { resource_type: i8, resource_name: String, name: String, value: Option<String> },
    /// NoOpRecord (20)
    NoOp,
    /// FeatureLevelRecord (12)
    FeatureLevel { name: String, level: i16 },
}

/// One record batch v2 that holds `records`, leader epoch stamped, offsets from `base_offset`.
pub fn encode_records(
    _records: &[MetadataRecord],
    _base_offset: Offset,
    _epoch: LeaderEpoch,
    _timestamp_ms: i64,
) -> Bytes {
    todo!()
}

/// Decodes every batch in `bytes`: (offset, leader epoch, record). Control batches are skipped.
pub fn decode_records(_bytes: &Bytes) -> Result<Vec<(Offset, LeaderEpoch, MetadataRecord)>, String> {
    todo!()
}
