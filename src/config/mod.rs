//! Kafka's configuration: property names, defaults and bounds as in Kafka. Typed structs of what Faultline
//! models; the catalogue of the rest, so that an unmodelled key is told from a mistyped one.

use std::time::Duration;

use crate::defect::Defects;
use crate::log::LogConfig;
use crate::log::compression::Compression;

mod catalogue;
mod known;
mod topic;

pub use catalogue::{
    ConfigError, Kind, ModelledKey, Scope, canonical_name, check, modelled, nearest, scopes_of, unknown_key,
};
pub use topic::{EffectiveTopicConfig, TopicConfig};

/// Broker and cluster-wide topic defaults (Kafka's `KafkaConfig`), and the controller's.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerConfig {
    /// `min.insync.replicas` (1)
    pub min_insync_replicas: i32,
    /// `unclean.leader.election.enable` (false)
    pub unclean_leader_election_enable: bool,
    /// `replica.lag.time.max.ms` (30000)
    pub replica_lag_time_max: Duration,
    /// `replica.fetch.wait.max.ms` (500)
    pub replica_fetch_wait_max: Duration,
    /// `replica.fetch.min.bytes` (1)
    pub replica_fetch_min_bytes: i32,
    /// `replica.fetch.max.bytes` (1048576), per partition
    pub replica_fetch_max_bytes: i32,
    /// `replica.fetch.response.max.bytes` (10485760)
    pub replica_fetch_response_max_bytes: i32,
    /// `replica.fetch.backoff.ms` (1000)
    pub replica_fetch_backoff: Duration,
    /// `replica.socket.timeout.ms` (30000)
    pub replica_socket_timeout: Duration,
    /// `replica.high.watermark.checkpoint.interval.ms` (5000)
    pub replica_high_watermark_checkpoint_interval: Duration,
    /// `replica.selector.class` (null): which replica consumers are to fetch from (KIP-392).
    pub replica_selector: ReplicaSelector,
    /// `log.flush.offset.checkpoint.interval.ms` (60000)
    pub log_flush_offset_checkpoint_interval: Duration,
    /// `log.flush.start.offset.checkpoint.interval.ms` (60000)
    pub log_flush_start_offset_checkpoint_interval: Duration,
    /// `log.flush.scheduler.interval.ms` (9223372036854775807, never): how often `flush.ms` is looked at. Also the
    /// value of `flush.ms` where that is not set.
    pub log_flush_scheduler_interval_ms: u64,
    /// `log.retention.check.interval.ms` (300000)
    pub log_retention_check_interval: Duration,
    /// `log.initial.task.delay.ms` (30000): when the periodic tasks run first.
    pub log_initial_task_delay: Duration,
    /// `log.dir.failure.timeout.ms` (30000)
    pub log_dir_failure_timeout: Duration,
    /// `producer.id.expiration.ms` (86400000): how long a leader remembers a producer that is silent (KIP-854).
    pub producer_id_expiration: Duration,
    /// `producer.id.expiration.check.interval.ms` (600000)
    pub producer_id_expiration_check_interval: Duration,
    /// `broker.session.timeout.ms` (9000)
    pub broker_session_timeout: Duration,
    /// `broker.heartbeat.interval.ms` (2000)
    pub broker_heartbeat_interval: Duration,
    /// `controller.socket.timeout.ms` (30000): request timeout towards the controller.
    pub controller_socket_timeout: Duration,
    /// `controlled.shutdown.enable` (true)
    pub controlled_shutdown_enable: bool,
    /// `auto.leader.rebalance.enable` (true)
    pub auto_leader_rebalance_enable: bool,
    /// `leader.imbalance.check.interval.seconds` (300)
    pub leader_imbalance_check_interval: Duration,
    /// `leader.imbalance.per.broker.percentage` (10)
    pub leader_imbalance_per_broker_percentage: u32,
    /// `unclean.leader.election.interval.ms` (300000)
    pub unclean_leader_election_interval: Duration,
    /// `auto.create.topics.enable` (true)
    pub auto_create_topics_enable: bool,
    /// `num.partitions` (1)
    pub num_partitions: i32,
    /// `default.replication.factor` (1)
    pub default_replication_factor: i16,
    /// `fetch.max.bytes` of the broker (57671680)
    pub fetch_max_bytes: i32,
    /// `socket.connection.setup.timeout.ms` (10000)
    pub socket_connection_setup_timeout: Duration,
    /// `log.cleaner.enable` (true)
    pub log_cleaner_enable: bool,
    /// `log.cleaner.backoff.ms` (15000)
    pub log_cleaner_backoff: Duration,
    /// `message.max.bytes`, `log.segment.bytes`, `log.flush.interval.messages` and so on: what a topic's log inherits.
    /// In scenario files the topic names (`max.message.bytes`, `segment.bytes`, `flush.messages`) are accepted
    /// in `[cluster.config]` too and mean the same.
    pub log: LogConfig,
    pub groups: GroupCoordinatorConfig,
    /// Known defects that are on; set with [`BrokerConfig::with_defects`], so that the logs have them too.
    pub defects: Defects,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        let ms = Duration::from_millis;
        BrokerConfig {
            min_insync_replicas: 1,
            unclean_leader_election_enable: false,
            replica_lag_time_max: ms(30_000),
            replica_fetch_wait_max: ms(500),
            replica_fetch_min_bytes: 1,
            replica_fetch_max_bytes: 1_048_576,
            replica_fetch_response_max_bytes: 10_485_760,
            replica_fetch_backoff: ms(1_000),
            replica_socket_timeout: ms(30_000),
            replica_high_watermark_checkpoint_interval: ms(5_000),
            replica_selector: ReplicaSelector::Leader,
            log_flush_offset_checkpoint_interval: ms(60_000),
            log_flush_start_offset_checkpoint_interval: ms(60_000),
            log_flush_scheduler_interval_ms: u64::MAX,
            log_retention_check_interval: ms(300_000),
            log_initial_task_delay: ms(30_000),
            log_dir_failure_timeout: ms(30_000),
            producer_id_expiration: ms(86_400_000),
            producer_id_expiration_check_interval: ms(600_000),
            broker_session_timeout: ms(9_000),
            broker_heartbeat_interval: ms(2_000),
            controller_socket_timeout: ms(30_000),
            controlled_shutdown_enable: true,
            auto_leader_rebalance_enable: true,
            leader_imbalance_check_interval: ms(300_000),
            leader_imbalance_per_broker_percentage: 10,
            unclean_leader_election_interval: ms(300_000),
            auto_create_topics_enable: true,
            num_partitions: 1,
            default_replication_factor: 1,
            fetch_max_bytes: 57_671_680,
            socket_connection_setup_timeout: ms(10_000),
            log_cleaner_enable: true,
            log_cleaner_backoff: ms(15_000),
            log: LogConfig::default(),
            groups: GroupCoordinatorConfig::default(),
            defects: Defects::NONE,
        }
    }
}

/// An assignor of the group coordinator (KIP-848).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerAssignor {
    Uniform,
    Range,
}

impl ServerAssignor {
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            ServerAssignor::Uniform => "uniform",
            ServerAssignor::Range => "range",
        }
    }

    pub fn parse(name: &str) -> Option<ServerAssignor> {
        [ServerAssignor::Uniform, ServerAssignor::Range].into_iter().find(|assignor| assignor.name() == name)
    }
}

/// `group.consumer.assignors`: what a coordinator has to offer; the first one is for members that do not choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerAssignors {
    UniformThenRange,
    RangeThenUniform,
    One(ServerAssignor),
}

impl ServerAssignors {
    pub fn assignors(self) -> Vec<ServerAssignor> {
        match self {
            ServerAssignors::UniformThenRange => vec![ServerAssignor::Uniform, ServerAssignor::Range],
            ServerAssignors::RangeThenUniform => vec![ServerAssignor::Range, ServerAssignor::Uniform],
            ServerAssignors::One(assignor) => vec![assignor],
        }
    }

    pub fn default_assignor(self) -> ServerAssignor {
        match self {
            ServerAssignors::UniformThenRange => ServerAssignor::Uniform,
            ServerAssignors::RangeThenUniform => ServerAssignor::Range,
            ServerAssignors::One(assignor) => assignor,
        }
    }
}

/// `group.consumer.migration.policy`: which groups with members change their protocol when their members do. Groups
/// without members always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationPolicy {
    Bidirectional,
    Upgrade,
    Downgrade,
    Disabled,
}

impl MigrationPolicy {
    pub fn upgrades(self) -> bool {
        matches!(self, MigrationPolicy::Bidirectional | MigrationPolicy::Upgrade)
    }

    pub fn downgrades(self) -> bool {
        matches!(self, MigrationPolicy::Bidirectional | MigrationPolicy::Downgrade)
    }
}

/// Kafka's `GroupCoordinatorConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupCoordinatorConfig {
    /// `group.min.session.timeout.ms` (6000)
    pub min_session_timeout: Duration,
    /// `group.max.session.timeout.ms` (1800000)
    pub max_session_timeout: Duration,
    /// `group.initial.rebalance.delay.ms` (3000): how long an empty group waits for more members.
    pub initial_rebalance_delay: Duration,
    /// `group.max.size` (2147483647)
    pub max_size: usize,
    /// `group.consumer.session.timeout.ms` (45000): of members of consumer groups, whatever they would like. Within
    /// `group.consumer.min.session.timeout.ms` (45000) and `group.consumer.max.session.timeout.ms` (60000).
    pub consumer_session_timeout: Duration,
    pub consumer_min_session_timeout: Duration,
    pub consumer_max_session_timeout: Duration,
    /// `group.consumer.heartbeat.interval.ms` (5000): what members of consumer groups are told. Within
    /// `group.consumer.min.heartbeat.interval.ms` (5000) and `group.consumer.max.heartbeat.interval.ms` (15000).
    pub consumer_heartbeat_interval: Duration,
    pub consumer_min_heartbeat_interval: Duration,
    pub consumer_max_heartbeat_interval: Duration,
    /// `group.consumer.max.size` (2147483647)
    pub consumer_max_size: usize,
    /// `group.consumer.assignors` (uniform,range)
    pub consumer_assignors: ServerAssignors,
    /// `group.consumer.migration.policy` (bidirectional)
    pub consumer_migration_policy: MigrationPolicy,
    /// `offset.metadata.max.bytes` (4096)
    pub offset_metadata_max_bytes: usize,
    /// `offsets.load.buffer.size` (5242880)
    pub offsets_load_buffer_size: usize,
    /// `offsets.commit.timeout.ms` (5000): how long an answer waits for its records to be committed.
    pub offsets_commit_timeout: Duration,
    /// `offsets.retention.minutes` (10080)
    pub offsets_retention_minutes: u32,
    /// `offsets.retention.check.interval.ms` (600000)
    pub offsets_retention_check_interval: Duration,
    /// `offsets.topic.num.partitions` (50)
    pub offsets_topic_num_partitions: i32,
    /// `offsets.topic.replication.factor` (3)
    pub offsets_topic_replication_factor: i16,
    /// `offsets.topic.segment.bytes` (104857600)
    pub offsets_topic_segment_bytes: u32,
    /// Known defects that are on.
    pub defects: Defects,
}

impl Default for GroupCoordinatorConfig {
    fn default() -> Self {
        let ms = Duration::from_millis;
        GroupCoordinatorConfig {
            min_session_timeout: ms(6_000),
            max_session_timeout: ms(1_800_000),
            initial_rebalance_delay: ms(3_000),
            max_size: i32::MAX as usize,
            consumer_session_timeout: ms(45_000),
            consumer_min_session_timeout: ms(45_000),
            consumer_max_session_timeout: ms(60_000),
            consumer_heartbeat_interval: ms(5_000),
            consumer_min_heartbeat_interval: ms(5_000),
            consumer_max_heartbeat_interval: ms(15_000),
            consumer_max_size: i32::MAX as usize,
            consumer_assignors: ServerAssignors::UniformThenRange,
            consumer_migration_policy: MigrationPolicy::Bidirectional,
            offset_metadata_max_bytes: 4_096,
            offsets_load_buffer_size: 5 * 1024 * 1024,
            offsets_commit_timeout: ms(5_000),
            offsets_retention_minutes: 7 * 24 * 60,
            offsets_retention_check_interval: ms(600_000),
            offsets_topic_num_partitions: 50,
            offsets_topic_replication_factor: 3,
            offsets_topic_segment_bytes: 100 * 1024 * 1024,
            defects: Defects::NONE,
        }
    }
}

impl BrokerConfig {
    /// The same configuration of a broker or controller with these defects.
    #[must_use]
    pub fn with_defects(mut self, defects: Defects) -> BrokerConfig {
        self.defects = defects;
        self.log.defects = defects;
        self.groups.defects = defects;
        self
    }
}

/// `acks`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    Zero,
    One,
    All,
}

impl Acks {
    /// As the Produce request carries it.
    pub fn code(self) -> i16 {
        match self {
            Acks::Zero => 0,
            Acks::One => 1,
            Acks::All => -1,
        }
    }
}

/// Kafka's `ProducerConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducerConfig {
    /// `acks` (all)
    pub acks: Acks,
    /// `enable.idempotence` (true). What holds is [`ProducerConfig::settle`]'s: with acks=0 or 1, without retries, or with
    /// more than five requests in flight it is off.
    pub enable_idempotence: bool,
    /// `compression.type` (none)
    pub compression: Compression,
    /// `linger.ms` (5 since 4.0, KIP-1030)
    pub linger: Duration,
    /// `batch.size` (16384)
    pub batch_size: usize,
    /// `max.in.flight.requests.per.connection` (5)
    pub max_in_flight_requests_per_connection: usize,
    /// `retries` (2147483647)
    pub retries: u32,
    /// `retry.backoff.ms` (100)
    pub retry_backoff: Duration,
    /// `retry.backoff.max.ms` (1000)
    pub retry_backoff_max: Duration,
    /// `request.timeout.ms` (30000)
    pub request_timeout: Duration,
    /// `delivery.timeout.ms` (120000)
    pub delivery_timeout: Duration,
    /// `max.block.ms` (60000): how long a send waits for metadata.
    pub max_block: Duration,
    /// `metadata.max.age.ms` (300000)
    pub metadata_max_age: Duration,
    /// `max.request.size` (1048576)
    pub max_request_size: usize,
    /// `buffer.memory` (33554432)
    pub buffer_memory: usize,
    /// `reconnect.backoff.ms` (50), `reconnect.backoff.max.ms` (1000)
    pub reconnect_backoff: Duration,
    pub reconnect_backoff_max: Duration,
    /// `socket.connection.setup.timeout.ms` (10000)
    pub socket_connection_setup_timeout: Duration,
    /// `partitioner.class`: the default (murmur2 of the key; sticky without a key, KIP-480/794) or round robin.
    pub partitioner: Partitioner,
    pub client_id: String,
    /// Known defects that are on.
    pub defects: Defects,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioner {
    Default,
    /// `org.apache.kafka.clients.producer.RoundRobinPartitioner`
    RoundRobin,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        let ms = Duration::from_millis;
        ProducerConfig {
            acks: Acks::All,
            enable_idempotence: true,
            compression: Compression::None,
            linger: ms(5),
            batch_size: 16_384,
            max_in_flight_requests_per_connection: 5,
            retries: i32::MAX as u32,
            retry_backoff: ms(100),
            retry_backoff_max: ms(1_000),
            request_timeout: ms(30_000),
            delivery_timeout: ms(120_000),
            max_block: ms(60_000),
            metadata_max_age: ms(300_000),
            max_request_size: 1_048_576,
            buffer_memory: 33_554_432,
            reconnect_backoff: ms(50),
            reconnect_backoff_max: ms(1_000),
            socket_connection_setup_timeout: ms(10_000),
            partitioner: Partitioner::Default,
            client_id: "producer".to_owned(),
            defects: Defects::NONE,
        }
    }
}

/// `replica.selector.class`: which of its replicas a partition's leader sends consumers to (KIP-392).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaSelector {
    /// None is configured: to no other.
    Leader,
    /// `RackAwareReplicaSelector`: one in the consumer's rack.
    RackAware,
}

/// `auto.offset.reset`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetReset {
    Earliest,
    Latest,
    None,
}

/// A partition assignor of the classic protocol, as a consumer supports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assignor {
    Range,
    RoundRobin,
    Sticky,
    CooperativeSticky,
}

impl Assignor {
    /// Its name in the protocol (`ConsumerPartitionAssignor.name`).
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::RoundRobin => "roundrobin",
            Assignor::Sticky => "sticky",
            Assignor::CooperativeSticky => "cooperative-sticky",
        }
    }
}

/// `partition.assignment.strategy`: which assignors a consumer supports, the preferred one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssignmentStrategy {
    /// Kafka's default: range, and ready to move to cooperative-sticky.
    RangeThenCooperativeSticky,
    One(Assignor),
}

impl AssignmentStrategy {
    pub fn assignors(self) -> Vec<Assignor> {
        match self {
            AssignmentStrategy::RangeThenCooperativeSticky => vec![Assignor::Range, Assignor::CooperativeSticky],
            AssignmentStrategy::One(assignor) => vec![assignor],
        }
    }

    /// The protocol that all of the assignors support: cooperative only if all do (KIP-429).
    pub fn is_cooperative(self) -> bool {
        self.assignors().iter().all(|assignor| *assignor == Assignor::CooperativeSticky)
    }
}

/// `group.protocol`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    Classic,
    /// KIP-848.
    Consumer,
}

/// `group.remote.assignor`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteAssignor {
    /// What the coordinator has first.
    CoordinatorsChoice,
    One(ServerAssignor),
}

impl RemoteAssignor {
    pub fn assignor(self) -> Option<ServerAssignor> {
        match self {
            RemoteAssignor::CoordinatorsChoice => None,
            RemoteAssignor::One(assignor) => Some(assignor),
        }
    }
}

/// Kafka's `ConsumerConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerConfig {
    /// `group.id`: none reads assigned partitions only.
    pub group_id: Option<String>,
    /// `group.instance.id`: a static member (KIP-345).
    pub group_instance_id: Option<String>,
    /// `group.protocol` (classic)
    pub group_protocol: GroupProtocol,
    /// `group.remote.assignor` (null): which assignor the coordinator is to use.
    pub group_remote_assignor: RemoteAssignor,
    /// `session.timeout.ms` (45000)
    pub session_timeout: Duration,
    /// `heartbeat.interval.ms` (3000)
    pub heartbeat_interval: Duration,
    /// `max.poll.interval.ms` (300000); the rebalance timeout too.
    pub max_poll_interval: Duration,
    /// `enable.auto.commit` (true); without a group nothing is committed.
    pub enable_auto_commit: bool,
    /// `auto.commit.interval.ms` (5000)
    pub auto_commit_interval: Duration,
    /// `partition.assignment.strategy`
    pub partition_assignment_strategy: AssignmentStrategy,
    /// `client.rack` (empty: none): where the consumer stands, for a [`ReplicaSelector`].
    pub client_rack: String,
    /// `auto.offset.reset` (latest)
    pub auto_offset_reset: OffsetReset,
    /// `fetch.min.bytes` (1)
    pub fetch_min_bytes: i32,
    /// `fetch.max.bytes` (52428800)
    pub fetch_max_bytes: i32,
    /// `fetch.max.wait.ms` (500)
    pub fetch_max_wait: Duration,
    /// `max.partition.fetch.bytes` (1048576)
    pub max_partition_fetch_bytes: i32,
    /// `max.poll.records` (500)
    pub max_poll_records: usize,
    /// `check.crcs` (true)
    pub check_crcs: bool,
    /// `request.timeout.ms` (30000)
    pub request_timeout: Duration,
    /// `retry.backoff.ms` (100), `retry.backoff.max.ms` (1000)
    pub retry_backoff: Duration,
    pub retry_backoff_max: Duration,
    /// `metadata.max.age.ms` (300000)
    pub metadata_max_age: Duration,
    /// `reconnect.backoff.ms` (50), `reconnect.backoff.max.ms` (1000)
    pub reconnect_backoff: Duration,
    pub reconnect_backoff_max: Duration,
    /// `socket.connection.setup.timeout.ms` (10000)
    pub socket_connection_setup_timeout: Duration,
    pub client_id: String,
    /// Known defects that are on.
    pub defects: Defects,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        let ms = Duration::from_millis;
        ConsumerConfig {
            group_id: None,
            group_instance_id: None,
            group_protocol: GroupProtocol::Classic,
            group_remote_assignor: RemoteAssignor::CoordinatorsChoice,
            session_timeout: ms(45_000),
            heartbeat_interval: ms(3_000),
            max_poll_interval: ms(300_000),
            enable_auto_commit: true,
            auto_commit_interval: ms(5_000),
            partition_assignment_strategy: AssignmentStrategy::RangeThenCooperativeSticky,
            client_rack: String::new(),
            auto_offset_reset: OffsetReset::Latest,
            fetch_min_bytes: 1,
            fetch_max_bytes: 52_428_800,
            fetch_max_wait: ms(500),
            max_partition_fetch_bytes: 1_048_576,
            max_poll_records: 500,
            check_crcs: true,
            request_timeout: ms(30_000),
            retry_backoff: ms(100),
            retry_backoff_max: ms(1_000),
            metadata_max_age: ms(300_000),
            reconnect_backoff: ms(50),
            reconnect_backoff_max: ms(1_000),
            socket_connection_setup_timeout: ms(10_000),
            client_id: "consumer".to_owned(),
            defects: Defects::NONE,
        }
    }
}
