//! The controller's state machine: what the committed records say, and the soft state beside it. Decisions read it;
//! only [`ControllerState::replay`] and the heartbeat manager's own methods change it.

use std::collections::BTreeMap;

use super::heartbeats::BrokerHeartbeatManager;
use crate::config::BrokerConfig;
use crate::metadata::{ImageChanges, MetadataImage, MetadataRecord, PartitionState, TopicImage};
use crate::protocol::{BrokerId, LeaderEpoch, Offset};
use crate::world::Time;

/// Records to append, and the answer that is given once they are committed (`ControllerResult`).
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<R> {
    pub records: Vec<MetadataRecord>,
    pub response: R,
}

impl<R> Decision<R> {
    /// A decision that changes nothing.
    pub fn read_only(response: R) -> Decision<R> {
        Decision { records: Vec::new(), response }
    }
}

/// What `QuorumController` and its managers keep.
pub struct ControllerState {
    pub image: MetadataImage,
    /// Offset of each broker's RegisterBrokerRecord: it is unfenced once it has applied it. Not always its epoch:
    /// an amended registration keeps the epoch (`registerBrokerRecordOffsets`).
    pub registration_offsets: BTreeMap<BrokerId, Offset>,
    pub heartbeats: BrokerHeartbeatManager,
    pub config: BrokerConfig,
}

impl ControllerState {
    pub fn new(config: BrokerConfig) -> ControllerState {
        ControllerState {
            image: MetadataImage::default(),
            registration_offsets: BTreeMap::new(),
            heartbeats: BrokerHeartbeatManager::new(config.broker_session_timeout),
            config,
        }
    }

    /// Becoming active: every known broker gets a fresh session (`ClusterControlManager.activate`).
    pub fn activate(&mut self, now: Time) {
        self.heartbeats = BrokerHeartbeatManager::new(self.config.broker_session_timeout);
        for broker in self.image.brokers.values() {
            self.heartbeats.register(now, broker.id, broker.fenced);
        }
    }

    /// Applies one committed record.
    pub fn replay(
        &mut self,
        now: Time,
        offset: Offset,
        epoch: LeaderEpoch,
        record: &MetadataRecord,
        changes: &mut ImageChanges,
    ) {
        self.image.apply(offset, epoch, record, changes);
        match record {
            MetadataRecord::RegisterBroker { broker, fenced, .. } => {
                self.registration_offsets.insert(*broker, offset);
                self.heartbeats.remove(*broker);
                self.heartbeats.register(now, *broker, *fenced);
            }
            MetadataRecord::UnregisterBroker { broker, .. } => {
                self.registration_offsets.remove(broker);
                self.heartbeats.remove(*broker);
            }
            MetadataRecord::BrokerRegistrationChange { broker, .. } => {
                let fenced = self.image.brokers[broker].fenced;
                self.heartbeats.register(now, *broker, fenced);
            }
            MetadataRecord::Topic { .. }
            | MetadataRecord::RemoveTopic { .. }
            | MetadataRecord::Partition { .. }
            | MetadataRecord::PartitionChange { .. }
            | MetadataRecord::Config { .. }
            | MetadataRecord::ProducerIds { .. }
            | MetadataRecord::NoOp
            | MetadataRecord::FeatureLevel { .. } => {}
        }
    }

    /// Neither fenced nor in controlled shutdown (`ClusterControlManager.isActive`): may lead and join an ISR.
    pub fn is_active(&self, broker: BrokerId) -> bool {
        self.image.brokers.get(&broker).is_some_and(|b| !b.fenced && !b.in_controlled_shutdown)
    }

    /// Active, and the replica's log directory is online (`LeaderAcceptor`, KIP-858).
    pub fn may_lead(&self, partition: &PartitionState, broker: BrokerId) -> bool {
        self.is_active(broker) && self.image.has_online_dir(partition, broker)
    }

    /// Every partition with its topic and index, in the order of topic ids.
    pub fn partitions(&self) -> impl Iterator<Item = (&TopicImage, i32, &PartitionState)> {
        self.image.topics.values().flat_map(|t| t.partitions.iter().map(move |(index, p)| (t, *index, p)))
    }

    pub fn has_leaderships(&self, broker: BrokerId) -> bool {
        self.partitions().any(|(_, _, p)| p.leader == broker)
    }

    /// `unclean.leader.election.enable` of a topic: its own, or the cluster's.
    pub fn unclean_leader_election_enabled(&self, topic: &TopicImage) -> bool {
        match topic.config.get("unclean.leader.election.enable") {
            Some(value) => value.trim().eq_ignore_ascii_case("true"),
            None => self.config.unclean_leader_election_enable,
        }
    }
}
