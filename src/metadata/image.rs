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
    /// Each replica's log directory, in the order of `replicas` (KIP-858). See [`directory`].
    pub directories: Vec<Uuid>,
}

/// Reserved directory ids (`DirectoryId`).
pub mod directory {
    use uuid::Uuid;

    /// Chosen by the broker, which has not said so yet: from before directories were known.
    pub const MIGRATING: Uuid = Uuid::from_u128(0);
    /// The broker has yet to choose.
    pub const UNASSIGNED: Uuid = Uuid::from_u128(1);
    /// One that is offline, the broker cannot say which.
    pub const LOST: Uuid = Uuid::from_u128(2);
    /// Ids below are reserved.
    pub const RESERVED_END: u128 = 100;

    /// Whether a replica in `directory` is available, given the broker's online directories (`DirectoryId.isOnline`).
    pub fn is_online(directory: Uuid, online: &[Uuid]) -> bool {
        match directory {
            UNASSIGNED | MIGRATING => true,
            LOST => false,
            // A broker that registered none is too old to tell.
            directory => online.is_empty() || online.contains(&directory),
        }
    }
}

impl PartitionState {
    /// The state after a [`MetadataRecord::PartitionChange`] (`PartitionRegistration.merge`): a leader in the record
    /// raises the leader epoch, even if it is the same leader; every change raises the partition epoch.
    pub fn merge(&mut self, change: &MetadataRecord) {
        let MetadataRecord::PartitionChange {
            topic_id: _,
            partition: _,
            isr,
            leader,
            replicas,
            leader_recovering,
            directories,
        } = change
        else {
            unreachable!("called for PartitionChange")
        };
        if let Some(replicas) = replicas {
            self.replicas.clone_from(replicas);
        }
        if let Some(isr) = isr {
            self.isr.clone_from(isr);
        }
        if let Some(leader) = *leader {
            self.leader = leader;
            self.leader_epoch = LeaderEpoch(self.leader_epoch.0 + 1);
        }
        self.leader_recovering = leader_recovering.unwrap_or(self.leader_recovering);
        if let Some(directories) = directories {
            self.directories.clone_from(directories);
        }
        self.partition_epoch = PartitionEpoch(self.partition_epoch.0 + 1);
    }

    /// The log directory of a replica; [`directory::MIGRATING`] if nobody has said.
    pub fn directory_of(&self, broker: BrokerId) -> Uuid {
        let at = self.replicas.iter().position(|replica| *replica == broker);
        at.and_then(|at| self.directories.get(at)).copied().unwrap_or(directory::MIGRATING)
    }

    pub fn has_leader(&self) -> bool {
        self.leader != BrokerId::NONE
    }

    /// The first replica leads.
    pub fn has_preferred_leader(&self) -> bool {
        self.replicas.first() == Some(&self.leader)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct TopicImage {
    pub id: Uuid,
    pub name: String,
    pub partitions: BTreeMap<i32, PartitionState>,
    /// Topic-level configuration overrides.
    pub config: BTreeMap<String, String>,
}

/// `ConfigResource.Type.TOPIC`
pub const TOPIC_RESOURCE: i8 = 2;

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
    /// First id of the next block of producer ids.
    pub next_producer_id: i64,
    /// Offset after the last record applied.
    pub next_offset: i64,
    /// Leader epoch of the last record applied.
    pub last_epoch: i32,
}

impl MetadataImage {
    /// Applies one record and notes what it changed (`MetadataDelta.replay`).
    ///
    /// Panics if the record speaks of a broker, topic or partition that does not exist: only a defect of the
    /// controller could write such a record, or a gap in what the caller replays.
    pub fn apply(&mut self, offset: Offset, epoch: LeaderEpoch, record: &MetadataRecord, changes: &mut ImageChanges) {
        match record {
            MetadataRecord::RegisterBroker { .. } => self.register_broker(record, changes),
            MetadataRecord::UnregisterBroker { broker, broker_epoch } => {
                let removed = self.brokers.remove(broker).expect("only a registered broker is unregistered");
                assert_eq!(removed.epoch, *broker_epoch, "epoch of the broker that is unregistered");
                changes.brokers.insert(*broker);
            }
            MetadataRecord::BrokerRegistrationChange {
                broker,
                broker_epoch,
                fenced,
                in_controlled_shutdown,
                log_dirs,
            } => {
                let registration = self.brokers.get_mut(broker).expect("only a registered broker changes");
                assert_eq!(registration.epoch, *broker_epoch, "epoch of the broker that changes");
                registration.fenced = fenced.unwrap_or(registration.fenced);
                registration.in_controlled_shutdown =
                    in_controlled_shutdown.unwrap_or(registration.in_controlled_shutdown);
                if let Some(log_dirs) = log_dirs {
                    registration.log_dirs.clone_from(log_dirs);
                }
                changes.brokers.insert(*broker);
            }
            MetadataRecord::Topic { name, id } => self.create_topic(name, *id),
            MetadataRecord::RemoveTopic { id } => self.remove_topic(*id, changes),
            MetadataRecord::Partition { .. } => self.create_partition(record, changes),
            MetadataRecord::PartitionChange { topic_id, partition, .. } => {
                let topic = self.topics.get_mut(topic_id).expect("only partitions of a topic that exists change");
                topic.partitions.get_mut(partition).expect("only a partition that exists changes").merge(record);
                changes.partitions.insert((*topic_id, *partition));
            }
            MetadataRecord::Config { .. } => self.set_config(record, changes),
            MetadataRecord::ProducerIds { next_producer_id, .. } => {
                assert!(*next_producer_id > self.next_producer_id, "producer ids are given out once");
                self.next_producer_id = *next_producer_id;
            }
            MetadataRecord::NoOp | MetadataRecord::FeatureLevel { .. } => {}
        }
        self.next_offset = offset.0 + 1;
        self.last_epoch = epoch.0;
    }

    fn register_broker(&mut self, record: &MetadataRecord, changes: &mut ImageChanges) {
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
        self.brokers.insert(
            *broker,
            BrokerRegistration {
                id: *broker,
                epoch: *broker_epoch,
                incarnation: *incarnation,
                endpoint: endpoint.clone(),
                rack: rack.clone(),
                fenced: *fenced,
                in_controlled_shutdown: *in_controlled_shutdown,
                log_dirs: log_dirs.clone(),
            },
        );
        changes.brokers.insert(*broker);
    }

    fn create_topic(&mut self, name: &str, id: Uuid) {
        let topic = TopicImage { id, name: name.to_owned(), partitions: BTreeMap::new(), config: BTreeMap::new() };
        self.topics.insert(id, topic);
        self.topic_ids.insert(name.to_owned(), id);
    }

    fn remove_topic(&mut self, id: Uuid, changes: &mut ImageChanges) {
        let topic = self.topics.remove(&id).expect("only a topic that exists is removed");
        if self.topic_ids.get(&topic.name) == Some(&id) {
            self.topic_ids.remove(&topic.name);
        }
        changes.partitions.retain(|(topic_id, _)| *topic_id != id);
        changes.configs.remove(&id);
        changes.removed_topics.insert(id, topic.name);
    }

    fn create_partition(&mut self, record: &MetadataRecord, changes: &mut ImageChanges) {
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
        let topic = self.topics.get_mut(topic_id).expect("a partition follows its topic");
        topic.partitions.insert(
            *partition,
            PartitionState {
                replicas: replicas.clone(),
                isr: isr.clone(),
                leader: *leader,
                leader_epoch: *leader_epoch,
                partition_epoch: PartitionEpoch(*partition_epoch),
                leader_recovering: *leader_recovering,
                directories: directories.clone(),
            },
        );
        changes.partitions.insert((*topic_id, *partition));
    }

    /// Topic overrides only: the image holds no configuration of brokers.
    fn set_config(&mut self, record: &MetadataRecord, changes: &mut ImageChanges) {
        let MetadataRecord::Config { resource_type, resource_name, name, value } = record else {
            unreachable!("called for Config")
        };
        if *resource_type != TOPIC_RESOURCE {
            return;
        }
        let id = *self.topic_ids.get(resource_name).expect("a topic's configuration follows the topic");
        let topic = self.topics.get_mut(&id).expect("every name leads to a topic");
        match value {
            Some(value) => topic.config.insert(name.clone(), value.clone()),
            None => topic.config.remove(name),
        };
        changes.configs.insert(id);
    }

    pub fn topic(&self, name: &str) -> Option<&TopicImage> {
        self.topic_ids.get(name).and_then(|id| self.topics.get(id))
    }

    /// Whether the broker's replica of a partition is in a log directory that is online.
    pub fn has_online_dir(&self, partition: &PartitionState, broker: BrokerId) -> bool {
        let directory = partition.directory_of(broker);
        self.brokers.get(&broker).is_some_and(|b| directory::is_online(directory, &b.log_dirs))
    }

    /// A registered, unfenced broker.
    pub fn is_active(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(|b| !b.fenced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Uuid = Uuid::from_bytes([1; 16]);

    fn brokers(ids: &[i32]) -> Vec<BrokerId> {
        ids.iter().copied().map(BrokerId).collect()
    }

    fn topic() -> Vec<MetadataRecord> {
        vec![
            MetadataRecord::Topic { name: "orders".to_owned(), id: TOPIC },
            MetadataRecord::Partition {
                topic_id: TOPIC,
                partition: 0,
                replicas: brokers(&[1, 2, 3]),
                isr: brokers(&[1, 2, 3]),
                leader: BrokerId(1),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: 0,
                leader_recovering: false,
                directories: vec![],
            },
        ]
    }

    fn change(isr: Option<&[i32]>, leader: Option<i32>) -> MetadataRecord {
        MetadataRecord::PartitionChange {
            topic_id: TOPIC,
            partition: 0,
            isr: isr.map(brokers),
            leader: leader.map(BrokerId),
            replicas: None,
            leader_recovering: None,
            directories: None,
        }
    }

    fn config(resource_type: i8, value: Option<&str>) -> MetadataRecord {
        MetadataRecord::Config {
            resource_type,
            resource_name: "orders".to_owned(),
            name: "flush.messages".to_owned(),
            value: value.map(str::to_owned),
        }
    }

    fn replayed(records: &[MetadataRecord]) -> (MetadataImage, ImageChanges) {
        let (mut image, mut changes) = (MetadataImage::default(), ImageChanges::default());
        for (offset, record) in (0..).zip(records) {
            image.apply(Offset(offset), LeaderEpoch(4), record, &mut changes);
        }
        (image, changes)
    }

    fn epochs_after(changes: &[MetadataRecord]) -> (i32, i32, i32) {
        let (image, _) = replayed(&[topic(), changes.to_vec()].concat());
        let partition = &image.topics[&TOPIC].partitions[&0];
        (partition.leader.0, partition.leader_epoch.0, partition.partition_epoch.0)
    }

    #[test]
    fn a_leader_in_the_change_raises_the_leader_epoch_and_any_change_the_partition_epoch() {
        assert_eq!(epochs_after(&[]), (1, 0, 0));
        assert_eq!(epochs_after(&[change(Some(&[1, 2]), None)]), (1, 0, 1));
        assert_eq!(epochs_after(&[change(None, Some(1))]), (1, 1, 1));
        assert_eq!(epochs_after(&[change(Some(&[2]), Some(2)), change(None, Some(-1))]), (-1, 2, 2));
    }

    #[test]
    fn the_offset_and_epoch_of_every_record_count() {
        let (image, changes) = replayed(&[MetadataRecord::NoOp, MetadataRecord::NoOp]);
        assert_eq!((image.next_offset, image.last_epoch), (2, 4));
        assert_eq!(changes, ImageChanges::default());
    }

    #[test]
    fn a_removed_topic_leaves_no_other_change() {
        let remove = MetadataRecord::RemoveTopic { id: TOPIC };
        let (image, changes) = replayed(&[topic(), vec![config(TOPIC_RESOURCE, Some("1")), remove]].concat());
        assert!(image.topics.is_empty() && image.topic("orders").is_none());
        let removed_topics = BTreeMap::from([(TOPIC, "orders".to_owned())]);
        assert_eq!(changes, ImageChanges { removed_topics, ..ImageChanges::default() });
    }

    #[test]
    fn a_topics_configuration_is_set_and_removed() {
        let value = |records: &[MetadataRecord]| {
            let (image, changes) = replayed(&[topic(), records.to_vec()].concat());
            let topic = image.topic("orders").expect("created above");
            (topic.config.get("flush.messages").cloned(), changes.configs.contains(&TOPIC))
        };
        let set = config(TOPIC_RESOURCE, Some("1"));
        assert_eq!(value(std::slice::from_ref(&set)), (Some("1".to_owned()), true));
        assert_eq!(value(&[set, config(TOPIC_RESOURCE, None)]), (None, true));
        assert_eq!(value(&[config(4, Some("1"))]), (None, false));
    }

    #[test]
    fn a_registration_starts_fenced_and_changes_by_halves() {
        let register = MetadataRecord::RegisterBroker {
            broker: BrokerId(1),
            incarnation: TOPIC,
            broker_epoch: BrokerEpoch(0),
            endpoint: HostPort::new("broker-1", 9092),
            rack: None,
            fenced: true,
            in_controlled_shutdown: false,
            log_dirs: vec![],
        };
        let change = |fenced, in_controlled_shutdown| MetadataRecord::BrokerRegistrationChange {
            broker: BrokerId(1),
            broker_epoch: BrokerEpoch(0),
            fenced,
            in_controlled_shutdown,
            log_dirs: None,
        };
        let state = |records: &[MetadataRecord]| {
            let broker = replayed(records).0.brokers[&BrokerId(1)].clone();
            (broker.fenced, broker.in_controlled_shutdown)
        };
        let unfence = change(Some(false), None);
        let shut_down = change(None, Some(true));
        assert_eq!(state(std::slice::from_ref(&register)), (true, false));
        assert_eq!(state(&[register.clone(), unfence.clone()]), (false, false));
        assert_eq!(state(&[register.clone(), unfence.clone(), shut_down.clone()]), (false, true));
        assert_eq!(state(&[register.clone(), unfence, shut_down, register]), (true, false));
    }
}
