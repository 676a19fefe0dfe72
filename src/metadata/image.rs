//! The state that the metadata log describes (Kafka's `MetadataImage`).

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::records::MetadataRecord;
use crate::protocol::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch};
use crate::world::HostPort;

/// `BrokerRegistration`
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerRegistration {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
    pub incarnation: Uuid,
    pub endpoint: HostPort,
    pub rack: Option<String>,
    pub fenced: bool,
    pub in_controlled_shutdown: bool,
    pub log_dirs: Vec<Uuid>,
}

/// `PartitionRegistration`
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionState {
    /// In assignment order: the first is the preferred replica.
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    /// [`BrokerId::NONE`] if there is none.
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// After an unclean election (KIP-704), until the leader says that it has recovered.
    pub leader_recovering: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TopicImage {
    pub id: Uuid,
    pub name: String,
    pub partitions: BTreeMap<i32, PartitionState>,
    /// Topic-level configuration overrides.
    pub config: BTreeMap<String, String>,
}

/// What changed since the caller last looked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageChanges {
    pub brokers: BTreeSet<BrokerId>,
    /// (topic id, partition) whose state is new or changed.
    pub partitions: BTreeSet<(Uuid, i32)>,
    /// Topics removed, with their name.
    pub removed_topics: BTreeMap<Uuid, String>,
    /// Topics whose configuration changed.
    pub configs: BTreeSet<Uuid>,
}

/// Everything the metadata log says up to `next_offset`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetadataImage {
    pub brokers: BTreeMap<BrokerId, BrokerRegistration>,
    pub topics: BTreeMap<Uuid, TopicImage>,
    pub topic_ids: BTreeMap<String, Uuid>,
    /// Offset after the last record applied.
    pub next_offset: i64,
    /// Leader epoch of the last record applied.
    pub last_epoch: i32,
}

impl MetadataImage {
    /// Applies one record and notes what it changed.
    pub fn apply(
        &mut self,
        _offset: Offset,
        _epoch: LeaderEpoch,
        _record: &MetadataRecord,
        _changes: &mut ImageChanges,
    ) {
        todo!()
    }

    pub fn topic(&self, name: &str) -> Option<&TopicImage> {
        self.topic_ids.get(name).and_then(|id| self.topics.get(id))
    }

    /// A registered, unfenced broker.
    pub fn is_active(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(|b| !b.fenced)
    }
}
