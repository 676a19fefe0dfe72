//! The broker: one process that owns its partitions' replicas, serves clients and other brokers, fetches from
//! leaders, and follows the controller's metadata.
//!
//! Everything happens synchronously in the handling of one event; decisions about a partition are in
//! [`replica`](crate::replica), this is the shell that routes requests to them and carries the answers. By subject:
//! `requests` (dispatch), `produce`, `producer_ids`, `fetch`, `offsets`, `delete_records`, `admin` (API by API),
//! `delayed` (Kafka's purgatory), `fetchers` (replication), `isr` (AlterPartition), `log_tasks` (checkpoints, retention),
//! `metadata` (the metadata log), `lifecycle` (registration, heartbeats, shutdown), `groups` (the way to the group
//! coordinator). What it does not do: keep fetch sessions, coordinate transactions, or keep the metadata log on disk.

mod admin;
mod assignments;
mod cleaner;
mod configs;
mod connections;
mod delayed;
mod delete_records;
mod fetch;
mod fetchers;
mod groups;
mod isr;
mod lifecycle;
mod log_dirs;
mod log_tasks;
mod metadata;
mod offsets;
mod produce;
mod producer_ids;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use rustc_hash::FxBuildHasher;
use uuid::Uuid;

use self::admin::Forwarding;
use self::assignments::Assignments;
use self::connections::Connections;
use self::delayed::Purgatory;
use self::fetchers::Fetchers;
use self::groups::Groups;
use self::isr::AlterPartitionManager;
use self::lifecycle::Lifecycle;
use self::log_dirs::{DirFailure, DirIndex, InDir, LogDirs};
use self::log_tasks::LogTasks;
use self::metadata::MetadataFetcher;
use self::producer_ids::ProducerIds;
use crate::config::{BrokerConfig, EffectiveTopicConfig, TopicConfig};
use crate::log::{LoadedLog, Rewritten};
use crate::metadata::MetadataImage;
use crate::observe::{Observation, Observer};
use crate::protocol::rpc::RpcConfig;
use crate::protocol::{BrokerEpoch, BrokerId, TopicPartition};
use crate::replica::{Effects, Environment, Partition};
use crate::world::{Endpoint, Event, HostPort, Process, Time, World};

/// What a broker is started with.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    pub id: BrokerId,
    /// Where it listens; advertised to clients and brokers as it is.
    pub listen: HostPort,
    pub controller: HostPort,
    pub config: BrokerConfig,
    /// The log directories (`log.dirs`), relative to the machine's disk: at least one.
    pub log_dirs: Vec<String>,
    /// `broker.rack`
    pub rack: Option<String>,
}

/// A partition, by topic id and index.
type Key = (Uuid, i32);

type Partitions = IndexMap<Key, Hosted, FxBuildHasher>;

/// A partition that this broker has a replica of, and the requests that wait for it.
struct Hosted {
    partition: Partition,
    dir: DirIndex,
    waiting_produce: Vec<u64>,
    waiting_fetch: Vec<u64>,
    waiting_delete: Vec<u64>,
}

impl Hosted {
    fn new(partition: Partition, dir: DirIndex) -> Hosted {
        Hosted { partition, dir, waiting_produce: Vec::new(), waiting_fetch: Vec::new(), waiting_delete: Vec::new() }
    }

    /// The requests that wait for it.
    fn into_waiting(self) -> impl Iterator<Item = u64> {
        self.waiting_produce.into_iter().chain(self.waiting_fetch).chain(self.waiting_delete)
    }
}

/// What changed on a partition that requests may be waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Touched {
    /// The log end: fetches of followers.
    LogEnd,
    /// The low watermark: DeleteRecords requests.
    LowWatermark,
    /// The high watermark, the ISR or the leadership: all of them.
    All,
}

/// A broker process.
pub struct Broker {
    world: World,
    options: BrokerOptions,
    env: Environment,
    log_dirs: LogDirs,
    partitions: Partitions,
    /// Our replicas whose log directory is offline.
    offline: BTreeSet<Key>,
    /// Logs found on disk that no metadata has claimed yet.
    unclaimed: BTreeMap<TopicPartition, (DirIndex, LoadedLog)>,
    connections: Connections,
    purgatory: Purgatory,
    touched: Vec<(Key, Touched)>,
    fetchers: Fetchers,
    lifecycle: Lifecycle,
    metadata: MetadataFetcher,
    isr: AlterPartitionManager,
    assignments: Assignments,
    forwarding: Forwarding,
    groups: Groups,
    log_tasks: LogTasks,
    /// Logs whose compaction met a batch that cannot be read; until the next start.
    uncleanable: BTreeSet<TopicPartition>,
    isr_shrink_at: Time,
    producer_ids: ProducerIds,
    is_finished: bool,
}

impl Broker {
    /// Opens the log directory, recovering every log that needs it. Nothing is sent before
    /// [`Process::start`]. Errors are the disk's.
    pub fn open(world: World, options: BrokerOptions, observer: Observer) -> io::Result<Broker> {
        let now = world.now();
        let config = &options.config;
        let (log_dirs, loaded) = LogDirs::open(&world, &options)?;
        let env = Environment {
            id: options.id,
            machine: format!("broker-{}", options.id),
            observer,
            broker_epoch: BrokerEpoch::NONE,
            replica_lag_time_max: config.replica_lag_time_max,
            image: MetadataImage::default(),
        };
        for log_dir in log_dirs.offline() {
            env.observe(now, Observation::LogDirFailed { log_dir: log_dir.to_owned() });
        }
        let mut unclaimed = BTreeMap::new();
        for (dir, log) in loaded {
            for dropped in &log.recovery.dropped {
                let (partition, segment) = (&log.partition, dropped.segment);
                let (position, bytes, reason) = (dropped.position, dropped.bytes, dropped.reason);
                tracing::warn!(%partition, %segment, position, bytes, %reason, "recovery dropped part of a log");
            }
            if let Some(finished) = finished_swap(&log) {
                env.observe(now, finished);
            }
            env.observe(now, log_loaded(&log));
            unclaimed.insert(log.partition.clone(), (dir, log));
        }
        Ok(Broker {
            fetchers: Fetchers::new(&world, &options),
            lifecycle: Lifecycle::new(&world, &options, &log_dirs),
            log_tasks: LogTasks::new(now, config),
            uncleanable: BTreeSet::new(),
            isr_shrink_at: now + config.replica_lag_time_max / 2,
            metadata: MetadataFetcher::new(&world, &options),
            isr: AlterPartitionManager::new(&world, &options),
            assignments: Assignments::new(&world, &options),
            forwarding: Forwarding::new(&world, &options),
            groups: Groups::new(&world, &options),
            connections: Connections::new(world.disk()),
            world,
            options,
            env,
            log_dirs,
            partitions: Partitions::default(),
            offline: BTreeSet::new(),
            unclaimed,
            purgatory: Purgatory::default(),
            touched: Vec::new(),
            producer_ids: ProducerIds::default(),
            is_finished: false,
        })
    }

    /// Notes what a change of a partition calls for; [`Broker::settle`] does it.
    fn apply_effects(&mut self, now: Time, key: Key, effects: Effects) {
        if effects.high_watermark_advanced {
            self.touched.push((key, Touched::All));
        } else if effects.low_watermark_advanced {
            self.touched.push((key, Touched::LowWatermark));
        }
        if let Some(proposal) = effects.isr_proposal {
            self.submit_isr_proposal(now, key, proposal);
        }
    }

    /// Does all that follows from the event just handled, until nothing is left that need not wait.
    fn settle(&mut self, now: Time, net: &mut Endpoint) {
        while !self.is_finished {
            if let Some((key, touched)) = self.touched.pop() {
                self.complete_waiting(now, key, touched, net);
            } else if let Some(id) = self.purgatory.pop_orphan() {
                self.complete_orphan(now, id, net);
            } else if let Some((conn, frame)) = self.connections.next_runnable() {
                self.handle_request(now, conn, frame, net);
            } else if self.groups.has_news() {
                self.send_group_answers(net);
            } else {
                break;
            }
        }
        if self.is_finished {
            return;
        }
        self.isr.send_pending(now, &self.env, net);
        self.assignments.send_pending(now, &self.env, net);
        self.drive_fetchers(now, net);
        // What background work did on the disk keeps nobody waiting.
        self.connections.take_wait();
    }

    fn shrink_isrs(&mut self, now: Time) {
        for index in 0..self.partitions.len() {
            let (key, hosted) = self.partitions.get_index_mut(index).expect("below the length");
            let key = *key;
            let effects = hosted.partition.maybe_shrink_isr(now, &self.env);
            self.apply_effects(now, key, effects);
        }
    }

    /// The end of an orderly stop: flush, checkpoint, leave the marker (`LogManager.shutdown`).
    fn shut_down(&mut self, now: Time) {
        for dir in self.log_dirs.indexes() {
            let Some(directory) = self.log_dirs.get_mut(dir) else { continue };
            let hosted = self.partitions.values_mut().filter(|h| h.dir == dir).map(|h| h.partition.named_log_mut());
            let unclaimed = self.unclaimed.iter_mut().filter(|(_, (of, _))| *of == dir);
            let unclaimed = unclaimed.map(|(partition, (_, loaded))| (partition, &mut loaded.log));
            let closed = directory.close(hosted.chain(unclaimed), self.env.broker_epoch);
            self.or_fail(now, closed.in_dir(dir));
            if self.is_finished {
                return;
            }
        }
        for hosted in self.partitions.values() {
            let (partition, log) = (hosted.partition.topic_partition().clone(), hosted.partition.log());
            self.env.observe(now, Observation::Flushed { partition, offset: log.recovery_point() });
        }
        self.env.observe(now, Observation::CleanShutdown);
        self.is_finished = true;
    }
}

impl Process for Broker {
    fn start(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        self.lifecycle.start(now, &self.env, &self.options, net);
        self.fetch_metadata(now, net);
    }

    fn on_event(&mut self, event: Event, net: &mut Endpoint) {
        let now = self.world.now();
        match event {
            Event::Accepted(conn) => self.connections.open(conn, net),
            Event::Frame(conn, frame) if self.connections.owns(conn) => {
                if let Some(frame) = self.connections.receive(conn, frame.into_bytes(), net) {
                    self.handle_request(now, conn, frame, net);
                }
            }
            Event::Closed(conn) if self.connections.owns(conn) => self.connections.forget(conn),
            Event::Terminate => self.begin_shutdown(now, net),
            Event::IoReady => {
                self.connections.release(now, net);
                self.on_groups_timer(now);
                self.fetchers.wake_all();
            }
            Event::Connected(_) | Event::Frame(..) | Event::Closed(_) => self.on_peer_event(now, &event, net),
        }
        self.settle(now, net);
    }

    fn on_timer(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        self.run_log_tasks(now);
        self.connections.release(now, net);
        if self.isr_shrink_at <= now {
            // Twice per replica.lag.time.max.ms: a laggard is out after 1.5 times that at the latest.
            self.isr_shrink_at = now + self.options.config.replica_lag_time_max / 2;
            self.shrink_isrs(now);
        }
        self.expire_waiting(now, net);
        self.on_groups_timer(now);
        self.on_peer_timers(now, net);
        self.settle(now, net);
    }

    fn deadline(&self) -> Option<Time> {
        let others = [
            self.purgatory.deadline(),
            self.connections.deadline(),
            self.lifecycle.deadline(),
            self.metadata.deadline(),
            self.isr.deadline(),
            self.assignments.deadline(),
            self.forwarding.deadline(),
            self.fetchers.deadline(),
            self.groups.deadline(self.connections.disk()),
        ];
        others.into_iter().flatten().chain([self.log_tasks.next(), self.isr_shrink_at]).min()
    }

    fn is_finished(&self) -> bool {
        self.is_finished
    }
}

impl Broker {
    /// An event of one of the connections that we opened.
    fn on_peer_event(&mut self, now: Time, event: &Event, net: &mut Endpoint) {
        let mut replies = Vec::new();
        if self.fetchers.rpc.on_event(now, event, net, &mut replies) {
            return self.on_fetcher_replies(now, replies, net);
        }
        let mut replies = Vec::new();
        if self.metadata.rpc.on_event(now, event, net, &mut replies) {
            return self.on_metadata_replies(now, replies, net);
        }
        let mut replies = Vec::new();
        if self.lifecycle.rpc.on_event(now, event, net, &mut replies) {
            return self.on_lifecycle_replies(now, replies, net);
        }
        let mut replies = Vec::new();
        if self.isr.rpc.on_event(now, event, net, &mut replies) {
            return self.on_isr_replies(now, replies);
        }
        let mut replies = Vec::new();
        if self.assignments.rpc.on_event(now, event, net, &mut replies) {
            return self.on_assignments_replies(now, replies);
        }
        let mut replies = Vec::new();
        if self.forwarding.rpc.on_event(now, event, net, &mut replies) {
            self.on_forwarding_replies(now, replies, net);
        }
    }

    fn on_peer_timers(&mut self, now: Time, net: &mut Endpoint) {
        let mut replies = Vec::new();
        self.fetchers.rpc.on_timer(now, net, &mut replies);
        self.on_fetcher_replies(now, replies, net);
        self.fetchers.wake(now);
        let mut replies = Vec::new();
        self.metadata.rpc.on_timer(now, net, &mut replies);
        self.on_metadata_replies(now, replies, net);
        self.fetch_metadata(now, net);
        let mut replies = Vec::new();
        self.lifecycle.rpc.on_timer(now, net, &mut replies);
        self.on_lifecycle_replies(now, replies, net);
        self.on_lifecycle_timer(now, net);
        let mut replies = Vec::new();
        self.isr.rpc.on_timer(now, net, &mut replies);
        self.on_isr_replies(now, replies);
        let mut replies = Vec::new();
        self.assignments.rpc.on_timer(now, net, &mut replies);
        self.on_assignments_replies(now, replies);
        let mut replies = Vec::new();
        self.forwarding.rpc.on_timer(now, net, &mut replies);
        self.on_forwarding_replies(now, replies, net);
    }
}

/// A compaction that a crash had interrupted, and that loading the log finished.
fn finished_swap(loaded: &LoadedLog) -> Option<Observation> {
    let Rewritten { from, to, batches } = loaded.recovery.finished_swap.clone()?;
    let partition = loaded.partition.clone();
    // When it began, and what it took out, is not known any more.
    Some(Observation::Compacted { partition, from, to, batches, delete_retention_ms: 0, tombstones: Vec::new() })
}

fn log_loaded(loaded: &LoadedLog) -> Observation {
    Observation::LogLoaded {
        partition: loaded.partition.clone(),
        log_start: loaded.log.log_start(),
        log_end: loaded.log.log_end(),
        high_watermark: loaded.log.high_watermark(),
        batches: loaded.recovery.batches.clone(),
        dropped_bytes: loaded.recovery.dropped_bytes(),
        clean: loaded.recovery.clean,
    }
}

/// A topic's overrides over what the broker gives. The controller has checked them: one that we do not know comes
/// from a newer controller and leaves the others as they are.
fn effective_topic_config(overrides: &BTreeMap<String, String>, config: &BrokerConfig) -> EffectiveTopicConfig {
    let mut topic = TopicConfig::default();
    for (key, value) in overrides {
        if let Err(error) = topic.set(key, value) {
            tracing::warn!(%error, "a topic configuration is not understood");
        }
    }
    topic.effective(config)
}

/// How the broker's own connections are made. `reconnect_backoff` differs by channel; versions are fixed, as all
/// nodes run the same build.
fn rpc_config(options: &BrokerOptions, channel: &str, reconnect_backoff: Duration) -> RpcConfig {
    RpcConfig {
        client_id: StrBytes::from_string(format!("broker-{}-{channel}", options.id)),
        reconnect_backoff,
        reconnect_backoff_max: reconnect_backoff,
        connection_setup_timeout: options.config.socket_connection_setup_timeout,
        discover_versions: false,
    }
}
