//! The metadata log, fetched from the controller and made true here (`KafkaRaftClient` as an observer,
//! `MetadataLoader`, `BrokerMetadataPublisher`, `ReplicaManager.applyDelta`).
//!
//! Other than Kafka's, a broker keeps only the image in memory and fetches the log anew after a restart.

use std::time::Duration;

use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::fetch_response::PartitionData;
use uuid::Uuid;

use super::{
    Broker, BrokerOptions, DirFailure, DirIndex, Hosted, InDir, Key, Touched, effective_topic_config, rpc_config,
};
use crate::defect::Defect;
use crate::metadata::{ImageChanges, MetadataImage, PartitionState, decode_records};
use crate::protocol::rpc::{Completion, PeerId, RpcClient};
use crate::protocol::{BrokerId, PartitionEpoch, TopicPartition};
use crate::replica::{Environment, Partition, Transition};
use crate::world::{Endpoint, Time, World};

/// Topic id of `__cluster_metadata`.
const METADATA_TOPIC_ID: Uuid = Uuid::from_u128(1);
/// `KafkaRaftClient.MAX_FETCH_WAIT_MS`
const FETCH_WAIT_MAX_MS: i32 = 500;
/// `KafkaRaftClient.MAX_FETCH_SIZE_BYTES`
const FETCH_BYTES_MAX: i32 = 8 * 1024 * 1024;
/// `controller.quorum.request.timeout.ms`
const REQUEST_TIMEOUT: Duration = Duration::from_millis(2_000);
/// `controller.quorum.retry.backoff.ms`
const RETRY_BACKOFF: Duration = Duration::from_millis(20);

pub(super) struct MetadataFetcher {
    pub rpc: RpcClient<()>,
    controller: PeerId,
    is_in_flight: bool,
    retry_at: Option<Time>,
    /// The controller's epoch, -1 until it is known.
    controller_epoch: i32,
    /// What the image has and the broker has not acted on.
    unpublished: ImageChanges,
    /// The image has all that was committed when we asked last.
    is_caught_up: bool,
    /// The image was built from nothing: what we host and it does not name is stray.
    is_rebuilt: bool,
    is_published: bool,
}

impl MetadataFetcher {
    pub fn new(world: &World, options: &BrokerOptions) -> MetadataFetcher {
        let mut rpc =
            RpcClient::new(rpc_config(options, "metadata", Duration::from_millis(50)), world.rng("metadata-fetcher"));
        MetadataFetcher {
            controller: rpc.peer(&options.controller),
            rpc,
            is_in_flight: false,
            retry_at: None,
            controller_epoch: -1,
            unpublished: ImageChanges::default(),
            is_caught_up: false,
            is_rebuilt: true,
            is_published: false,
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.rpc.deadline().into_iter().chain(self.retry_at).min()
    }

    /// The broker has acted on a complete image once.
    pub fn is_published(&self) -> bool {
        self.is_published
    }

    fn request(&self, env: &Environment) -> FetchRequest {
        let last_fetched_epoch = if env.image.next_offset == 0 { -1 } else { env.image.last_epoch };
        let partition = FetchPartition::default()
            .with_current_leader_epoch(self.controller_epoch)
            .with_fetch_offset(env.image.next_offset)
            .with_last_fetched_epoch(last_fetched_epoch)
            .with_log_start_offset(0);
        let topic = FetchTopic::default().with_topic_id(METADATA_TOPIC_ID).with_partitions(vec![partition]);
        FetchRequest::default()
            .with_replica_state(ReplicaState::default().with_replica_id(env.id.0.into()))
            .with_max_wait_ms(FETCH_WAIT_MAX_MS)
            .with_max_bytes(FETCH_BYTES_MAX)
            .with_topics(vec![topic])
    }
}

impl Broker {
    /// Asks the controller for more, unless that is under way or must wait.
    pub(super) fn fetch_metadata(&mut self, now: Time, net: &mut Endpoint) {
        let metadata = &mut self.metadata;
        if metadata.is_in_flight || metadata.retry_at.is_some_and(|at| at > now) {
            return;
        }
        metadata.retry_at = None;
        metadata.is_in_flight = true;
        let request = metadata.request(&self.env);
        metadata.rpc.send(now, metadata.controller, 16, &request, REQUEST_TIMEOUT, (), net);
    }

    pub(super) fn on_metadata_replies(&mut self, now: Time, replies: Vec<Completion<()>>, net: &mut Endpoint) {
        for reply in replies {
            self.metadata.is_in_flight = false;
            let response = reply.result.ok().and_then(|r| r.decode::<FetchRequest>().ok());
            let data = response
                .filter(|r| r.error_code == 0)
                .and_then(|r| r.responses.into_iter().find(|t| t.topic_id == METADATA_TOPIC_ID))
                .and_then(|t| t.partitions.into_iter().next());
            if !data.is_some_and(|data| self.replay(&data)) {
                self.metadata.retry_at = Some(now + RETRY_BACKOFF);
                continue;
            }
            self.maybe_publish_metadata(now, net);
            self.fetch_metadata(now, net);
        }
    }

    /// Applies the committed part of an answer to the image; false if it has to be asked for again, later.
    fn replay(&mut self, data: &PartitionData) -> bool {
        self.metadata.controller_epoch = self.metadata.controller_epoch.max(data.current_leader.leader_epoch);
        if data.error_code != 0 {
            return false;
        }
        if data.diverging_epoch.epoch >= 0 {
            self.forget_metadata();
            return true;
        }
        let Ok(records) = decode_records(&data.records.clone().unwrap_or_default()) else {
            return false;
        };
        for (offset, epoch, record) in &records {
            let is_new = offset.0 >= self.env.image.next_offset;
            // What is not committed may yet be taken back.
            let is_committed = offset.0 < data.high_watermark;
            if is_new && is_committed {
                self.env.image.apply(*offset, *epoch, record, &mut self.metadata.unpublished);
            }
        }
        self.metadata.is_caught_up |= self.env.image.next_offset >= data.high_watermark;
        true
    }

    /// Our image holds what the controller's log does not: start over from its beginning.
    fn forget_metadata(&mut self) {
        self.env.image = MetadataImage::default();
        self.metadata.unpublished = ImageChanges::default();
        self.metadata.is_caught_up = false;
        self.metadata.is_rebuilt = true;
    }

    /// Acts on what is new in the image, if it can be acted on.
    pub(super) fn maybe_publish_metadata(&mut self, now: Time, net: &mut Endpoint) {
        // The first image must be whole, and must know of this run of the broker: in an older one we may lead
        // what has long gone to others.
        let knows_us = self.env.image.brokers.get(&self.env.id).is_some_and(|b| b.epoch == self.env.broker_epoch);
        if !self.metadata.is_caught_up || !(self.metadata.is_published || knows_us) {
            return;
        }
        let changes = std::mem::take(&mut self.metadata.unpublished);
        self.publish(now, &changes, net);
        if self.is_finished {
            return;
        }
        self.metadata.is_published = true;
        self.lifecycle.set_ready_to_unfence(now);
        self.on_lifecycle_timer(now, net);
    }

    /// Makes the image true on this broker: deletions first, as names may come back, then leaders, then followers.
    fn publish(&mut self, now: Time, changes: &ImageChanges, net: &mut Endpoint) {
        if std::mem::take(&mut self.metadata.is_rebuilt) {
            self.drop_strays(now);
        }
        for topic_id in changes.removed_topics.keys() {
            let of_topic = |key: &&Key| key.0 == *topic_id;
            for key in self.partitions.keys().filter(of_topic).copied().collect::<Vec<_>>() {
                self.drop_replica(now, key);
            }
        }
        for topic_id in &changes.configs {
            self.reconfigure(*topic_id);
        }
        let (mut leading, mut following) = (Vec::new(), Vec::new());
        for &key in &changes.partitions {
            match self.partition_state(key) {
                Some(state) if state.leader == self.env.id => leading.push(key),
                Some(state) if state.replicas.contains(&self.env.id) => following.push(key),
                Some(_) | None => self.drop_replica(now, key),
            }
        }
        for key in leading {
            self.fetchers.remove(key);
            let applied = self.apply_partition_state(now, key);
            self.or_fail(now, applied);
        }
        for key in following {
            let applied = self.apply_partition_state(now, key);
            self.or_fail(now, applied);
        }
        self.publish_to_groups(now, changes);
        // The fetch under way belongs to an epoch that is over.
        if !self.options.config.defects.has(Defect::KeepOldFetchSession) {
            self.fetchers.stop_idle(net);
        }
    }

    fn partition_state(&self, (topic_id, index): Key) -> Option<&PartitionState> {
        self.env.image.topics.get(&topic_id)?.partitions.get(&index)
    }

    fn apply_partition_state(&mut self, now: Time, key: Key) -> Result<(), DirFailure> {
        self.ensure_hosted(key)?;
        if self.is_finished || self.offline.contains(&key) {
            return Ok(());
        }
        self.maybe_assign(key);
        let state = &self.env.image.topics[&key.0].partitions[&key.1];
        let hosted = self.partitions.get_mut(&key).expect("made sure above");
        match hosted.partition.apply(now, &self.env, state).in_dir(hosted.dir)? {
            Transition::Stale => {}
            Transition::BecameLeader(effects) => {
                // The ISR or the epoch may have changed: waiting requests have to look again.
                self.touched.push((key, Touched::All));
                self.apply_effects(now, key, effects);
            }
            Transition::BecameFollower { is_new_leader_epoch } => {
                let is_leaving = self.lifecycle.is_in_controlled_shutdown()
                    && (state.leader == BrokerId::NONE || !state.isr.contains(&self.env.id));
                if is_leaving {
                    hosted.partition.stop_fetching();
                    self.fetchers.remove(key);
                } else if is_new_leader_epoch {
                    self.fetchers.remove(key);
                    if let Some(leader) = self.env.image.brokers.get(&state.leader) {
                        self.fetchers.add(key, leader.id, &leader.endpoint);
                    }
                }
                self.touched.push((key, Touched::All));
            }
        }
        Ok(())
    }

    /// Takes up the partition's log, or creates it.
    fn ensure_hosted(&mut self, key: Key) -> Result<(), DirFailure> {
        if self.partitions.contains_key(&key) || self.offline.contains(&key) {
            return Ok(());
        }
        let topic = &self.env.image.topics[&key.0];
        let topic_partition = TopicPartition::new(&topic.name, key.1);
        let state = &topic.partitions[&key.1];
        let (assigned, is_new) = (state.directory_of(self.env.id), state.partition_epoch == PartitionEpoch(0));
        let config = effective_topic_config(&topic.config, &self.options.config);
        let (dir, log) = match self.unclaimed.remove(&topic_partition) {
            Some((dir, mut loaded)) if loaded.topic_id == key.0 || loaded.topic_id.is_nil() => {
                loaded.log.set_config(config.log);
                (dir, loaded.log)
            }
            stray => {
                if let Some((dir, _)) = stray {
                    // Another topic of the same name, deleted while we were away.
                    self.delete_log(dir, &topic_partition)?;
                }
                let Some(dir) = self.dir_for(assigned, is_new) else {
                    self.offline.insert(key);
                    return Ok(());
                };
                let directory = self.log_dirs.get_mut(dir).expect("chosen among those online");
                (dir, directory.create_log(&topic_partition, key.0, config.log).in_dir(dir)?)
            }
        };
        let partition = Partition::new(topic_partition, key.0, log, config.min_insync_replicas);
        self.partitions.insert(key, Hosted::new(partition, dir));
        Ok(())
    }

    fn delete_log(&mut self, dir: DirIndex, partition: &TopicPartition) -> Result<(), DirFailure> {
        match self.log_dirs.get_mut(dir) {
            Some(directory) => directory.delete_log(partition).in_dir(dir),
            None => Ok(()),
        }
    }

    /// We are no replica of this partition any more, or it is gone.
    fn drop_replica(&mut self, now: Time, key: Key) {
        self.fetchers.remove(key);
        self.offline.remove(&key);
        let Some(hosted) = self.partitions.swap_remove(&key) else { return };
        let dir = hosted.dir;
        let topic_partition = hosted.partition.topic_partition().clone();
        self.purgatory.orphan(hosted.into_waiting());
        let deleted = self.delete_log(dir, &topic_partition);
        self.or_fail(now, deleted);
    }

    /// Replicas that a complete image does not assign to us (`LogManager.recoverAbandonedFutureLogs`,
    /// `updateStrayLogs`).
    fn drop_strays(&mut self, now: Time) {
        let is_ours = |key: &Key| self.partition_state(*key).is_some_and(|s| s.replicas.contains(&self.env.id));
        let strays: Vec<Key> = self.partitions.keys().filter(|key| !is_ours(key)).copied().collect();
        for key in strays {
            self.drop_replica(now, key);
        }
        let image = &self.env.image;
        let is_known = |p: &TopicPartition| {
            let topic = image.topic(p.topic.as_str());
            topic.and_then(|t| t.partitions.get(&p.partition)).is_some_and(|s| s.replicas.contains(&self.env.id))
        };
        let strays: Vec<TopicPartition> = self.unclaimed.keys().filter(|p| !is_known(p)).cloned().collect();
        for partition in strays {
            if let Some((dir, _)) = self.unclaimed.remove(&partition) {
                let deleted = self.delete_log(dir, &partition);
                self.or_fail(now, deleted);
            }
        }
    }

    fn reconfigure(&mut self, topic_id: Uuid) {
        let Some(topic) = self.env.image.topics.get(&topic_id) else { return };
        for index in topic.partitions.keys() {
            if let Some(hosted) = self.partitions.get_mut(&(topic_id, *index)) {
                let config = effective_topic_config(&topic.config, &self.options.config);
                hosted.partition.log_mut().set_config(config.log);
                hosted.partition.set_min_insync_replicas(config.min_insync_replicas);
            }
        }
    }
}
