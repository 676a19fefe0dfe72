//! Every configuration key that Faultline models, with Kafka's type, bounds and default, and how it sets its field
//! of the typed structs. What Kafka knows beyond them is in `known`: a key found in neither is a mistake.
//!
//! Bounds are those of Kafka's `ConfigDef`s. Two are stricter: a duration is never negative, and a period that
//! paces a loop is at least one millisecond, because with zero simulated time would stand still.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{
    Acks, AssignmentStrategy, Assignor, BrokerConfig, ConsumerConfig, GroupProtocol, MigrationPolicy, OffsetReset,
    Partitioner, ProducerConfig, RemoteAssignor, ReplicaSelector, ServerAssignor, ServerAssignors, TopicConfig, known,
};
use crate::log::compression::Compression;
use crate::log::{CleanupPolicy, Ratio, StoredCompression, TimestampType};

/// Whose configuration a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Broker,
    Topic,
    Producer,
    Consumer,
}

impl Scope {
    pub const ALL: [Scope; 4] = [Scope::Broker, Scope::Topic, Scope::Producer, Scope::Consumer];

    /// The keys that Kafka knows in this scope and Faultline does not model.
    fn not_modelled(self) -> &'static [&'static str] {
        match self {
            Scope::Broker => known::BROKER,
            Scope::Topic => known::TOPIC,
            Scope::Producer => known::PRODUCER,
            Scope::Consumer => known::CONSUMER,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Broker => "broker",
            Scope::Topic => "topic",
            Scope::Producer => "producer",
            Scope::Consumer => "consumer",
        })
    }
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Kafka has no such key here. `suggestion`: the nearest key that Faultline models; `belongs_to`: other scopes
    /// that do have it.
    #[error("unknown {scope} configuration `{key}`")]
    Unknown { scope: Scope, key: String, suggestion: Option<&'static str>, belongs_to: Vec<Scope> },
    #[error("Kafka has the {scope} configuration `{key}`, Faultline does not model it yet")]
    NotModelled { scope: Scope, key: String },
    #[error("`{key}` cannot be `{value}`: it must be {expected}")]
    Invalid { key: &'static str, value: String, expected: String },
    /// Each value is fine by itself, together they are not.
    #[error("{message}")]
    Conflict { keys: Vec<&'static str>, message: String },
}

impl ConfigError {
    /// What to do about it, where there is something to say.
    pub fn help(&self) -> Option<String> {
        match self {
            ConfigError::Unknown { suggestion: Some(near), .. } => Some(format!("did you mean `{near}`?")),
            ConfigError::Unknown { key, belongs_to, .. } => {
                let first = belongs_to.first()?;
                let place = match first {
                    Scope::Broker => "[cluster.config]",
                    Scope::Topic => "the `config` of a [[topic]]",
                    Scope::Producer => "the `config` of a [[workload]] with kind = \"produce\"",
                    Scope::Consumer => "the `config` of a [[workload]] with kind = \"consume\"",
                };
                Some(format!("`{key}` is a {first} configuration: set it in {place}"))
            }
            ConfigError::NotModelled { key, .. } => match key.as_str() {
                "client.id" => Some("clients are named by their order in the file: producer-1, consumer-1, …".into()),
                "log.retention.hours" | "log.retention.minutes" => Some("set `log.retention.ms`".into()),
                "log.roll.hours" => Some("set `log.roll.ms`".into()),
                "broker.rack" => Some("brokers have the `racks` of [cluster]".into()),
                "broker.id" | "node.id" => Some("brokers have the node ids 1, 2, …".into()),
                "eligible.leader.replicas.enable" => {
                    Some("eligible leader replicas (KIP-966) are not modelled: the last in-sync replica stays".into())
                }
                _ => None,
            },
            ConfigError::Invalid { .. } | ConfigError::Conflict { .. } => None,
        }
    }
}

/// What a key's value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int {
        min: i64,
        max: i64,
    },
    Bool,
    /// A number of milliseconds, at least `min`.
    Millis {
        min: i64,
    },
    /// A number of seconds, at least `min`.
    Seconds {
        min: i64,
    },
    /// A decimal number from 0 to 1.
    Ratio,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text; none if it is empty.
    Text,
}

/// Largest duration accepted: Kafka's own longest type for one is a `long`, but nothing simulated lasts a century.
const DURATION_MAX_MS: i64 = i32::MAX as i64 * 1_000;

impl Kind {
    fn parse(self, text: &str) -> Option<Setting> {
        let whole = |min: i64, max: i64| text.parse::<i64>().ok().filter(|n| (min..=max).contains(n));
        match self {
            Kind::Int { min, max } => whole(min, max).map(Setting::Int),
            Kind::Bool => match text {
                "true" => Some(Setting::Bool(true)),
                "false" => Some(Setting::Bool(false)),
                _ => None,
            },
            Kind::Millis { min } => whole(min, DURATION_MAX_MS).map(|n| Setting::Span(Duration::from_millis(n as u64))),
            Kind::Seconds { min } => {
                whole(min, DURATION_MAX_MS / 1_000).map(|n| Setting::Span(Duration::from_secs(n as u64)))
            }
            Kind::Ratio => Ratio::parse(text).map(Setting::Ratio),
            Kind::Choice(words) => words.iter().find(|word| **word == text).map(|word| Setting::Word(word)),
            Kind::Text => Some(Setting::Text(text.to_owned())),
        }
    }

    fn print(self, setting: Setting) -> String {
        match (setting, self) {
            (Setting::Int(n), _) => n.to_string(),
            (Setting::Bool(b), _) => b.to_string(),
            (Setting::Span(span), Kind::Seconds { .. }) => span.as_secs().to_string(),
            (Setting::Span(span), _) => span.as_millis().to_string(),
            (Setting::Ratio(ratio), _) => ratio.to_string(),
            (Setting::Word(word), _) => word.to_owned(),
            (Setting::Text(text), _) => text,
        }
    }
}

impl fmt::Display for Kind {
    /// Completes "it must be …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const INT_MAX: i64 = i32::MAX as i64;
        match self {
            Kind::Int { min, max: i64::MAX | INT_MAX } => write!(f, "an integer, at least {min}"),
            Kind::Int { min, max } => write!(f, "an integer from {min} to {max}"),
            Kind::Bool => f.write_str("true or false"),
            Kind::Millis { min } => write!(f, "a whole number of milliseconds, at least {min}"),
            Kind::Seconds { min } => write!(f, "a whole number of seconds, at least {min}"),
            Kind::Ratio => f.write_str("a decimal number from 0 to 1"),
            Kind::Choice(words) => {
                let (last, rest) = words.split_last().expect("a choice has words");
                let rest: Vec<_> = rest.iter().map(|word| format!("\"{word}\"")).collect();
                write!(f, "{} or \"{last}\"", rest.join(", "))
            }
            Kind::Text => f.write_str("a text"),
        }
    }
}

/// A parsed value on its way between text and field.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Setting {
    Int(i64),
    Bool(bool),
    Span(Duration),
    Ratio(Ratio),
    Word(&'static str),
    Text(String),
}

/// A type that a key can set. `from_setting` gets only what the key's [`Kind`] has let through.
trait Field: Clone {
    fn from_setting(setting: Setting) -> Option<Self>;
    fn to_setting(&self) -> Option<Setting>;
}

macro_rules! integer_field {
    ($($int:ty),*) => {$(
        impl Field for $int {
            fn from_setting(setting: Setting) -> Option<Self> {
                match setting {
                    Setting::Int(n) => <$int>::try_from(n).ok(),
                    Setting::Bool(_) | Setting::Span(_) | Setting::Ratio(_) | Setting::Word(_) | Setting::Text(_) => None,
                }
            }
            fn to_setting(&self) -> Option<Setting> {
                i64::try_from(*self).ok().map(Setting::Int)
            }
        }
    )*};
}
integer_field!(i16, i32, i64, u32, usize);

/// Kafka's `Long.MAX_VALUE` (never) is `u64::MAX` here.
impl Field for u64 {
    fn from_setting(setting: Setting) -> Option<Self> {
        match setting {
            Setting::Int(i64::MAX) => Some(u64::MAX),
            Setting::Int(n) => u64::try_from(n).ok(),
            Setting::Bool(_) | Setting::Span(_) | Setting::Ratio(_) | Setting::Word(_) | Setting::Text(_) => None,
        }
    }
    fn to_setting(&self) -> Option<Setting> {
        Some(Setting::Int(i64::try_from(*self).unwrap_or(i64::MAX)))
    }
}

impl Field for bool {
    fn from_setting(setting: Setting) -> Option<Self> {
        match setting {
            Setting::Bool(value) => Some(value),
            Setting::Int(_) | Setting::Span(_) | Setting::Ratio(_) | Setting::Word(_) | Setting::Text(_) => None,
        }
    }
    fn to_setting(&self) -> Option<Setting> {
        Some(Setting::Bool(*self))
    }
}

impl Field for Duration {
    fn from_setting(setting: Setting) -> Option<Self> {
        match setting {
            Setting::Span(span) => Some(span),
            Setting::Int(_) | Setting::Bool(_) | Setting::Ratio(_) | Setting::Word(_) | Setting::Text(_) => None,
        }
    }
    fn to_setting(&self) -> Option<Setting> {
        Some(Setting::Span(*self))
    }
}

impl Field for Ratio {
    fn from_setting(setting: Setting) -> Option<Self> {
        match setting {
            Setting::Ratio(value) => Some(value),
            Setting::Int(_) | Setting::Bool(_) | Setting::Span(_) | Setting::Word(_) | Setting::Text(_) => None,
        }
    }
    fn to_setting(&self) -> Option<Setting> {
        Some(Setting::Ratio(*self))
    }
}

impl Field for String {
    fn from_setting(setting: Setting) -> Option<Self> {
        match setting {
            Setting::Text(text) => Some(text),
            Setting::Int(_) | Setting::Bool(_) | Setting::Span(_) | Setting::Ratio(_) | Setting::Word(_) => None,
        }
    }
    fn to_setting(&self) -> Option<Setting> {
        Some(Setting::Text(self.clone()))
    }
}

/// An override: unset until a key sets it.
impl<T: Field> Field for Option<T> {
    fn from_setting(setting: Setting) -> Option<Self> {
        T::from_setting(setting).map(Some)
    }
    fn to_setting(&self) -> Option<Setting> {
        self.as_ref().and_then(T::to_setting)
    }
}

const RANGE: &str = "org.apache.kafka.clients.consumer.RangeAssignor";
const ROUND_ROBIN_ASSIGNOR: &str = "org.apache.kafka.clients.consumer.RoundRobinAssignor";
const STICKY: &str = "org.apache.kafka.clients.consumer.StickyAssignor";
const COOPERATIVE_STICKY: &str = "org.apache.kafka.clients.consumer.CooperativeStickyAssignor";
/// Kafka's default list.
const RANGE_COOPERATIVE: &str =
    "org.apache.kafka.clients.consumer.RangeAssignor,org.apache.kafka.clients.consumer.CooperativeStickyAssignor";
const ROUND_ROBIN: &str = "org.apache.kafka.clients.producer.RoundRobinPartitioner";
const RACK_AWARE: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

macro_rules! word_field {
    ($type:ty { $($word:pat => $variant:path $(as $inner:path)?, $canonical:expr;)* }) => {
        impl Field for $type {
            fn from_setting(setting: Setting) -> Option<Self> {
                match setting {
                    $(Setting::Word($word) => Some($variant$(($inner))?),)*
                    Setting::Word(_)
                    | Setting::Text(_)
                    | Setting::Int(_)
                    | Setting::Bool(_)
                    | Setting::Span(_)
                    | Setting::Ratio(_) => None,
                }
            }
            fn to_setting(&self) -> Option<Setting> {
                Some(Setting::Word(match self { $($variant$(($inner))? => $canonical,)* }))
            }
        }
    };
}
word_field!(Acks {
    "0" => Acks::Zero, "0";
    "1" => Acks::One, "1";
    "all" | "-1" => Acks::All, "all";
});
word_field!(OffsetReset {
    "earliest" => OffsetReset::Earliest, "earliest";
    "latest" => OffsetReset::Latest, "latest";
    "none" => OffsetReset::None, "none";
});
word_field!(AssignmentStrategy {
    RANGE_COOPERATIVE => AssignmentStrategy::RangeThenCooperativeSticky, RANGE_COOPERATIVE;
    RANGE => AssignmentStrategy::One as Assignor::Range, RANGE;
    ROUND_ROBIN_ASSIGNOR => AssignmentStrategy::One as Assignor::RoundRobin, ROUND_ROBIN_ASSIGNOR;
    STICKY => AssignmentStrategy::One as Assignor::Sticky, STICKY;
    COOPERATIVE_STICKY => AssignmentStrategy::One as Assignor::CooperativeSticky, COOPERATIVE_STICKY;
});
word_field!(ServerAssignors {
    "uniform,range" => ServerAssignors::UniformThenRange, "uniform,range";
    "range,uniform" => ServerAssignors::RangeThenUniform, "range,uniform";
    "uniform" => ServerAssignors::One as ServerAssignor::Uniform, "uniform";
    "range" => ServerAssignors::One as ServerAssignor::Range, "range";
});
word_field!(GroupProtocol {
    "classic" => GroupProtocol::Classic, "classic";
    "consumer" => GroupProtocol::Consumer, "consumer";
});
word_field!(RemoteAssignor {
    "null" => RemoteAssignor::CoordinatorsChoice, "null";
    "uniform" => RemoteAssignor::One as ServerAssignor::Uniform, "uniform";
    "range" => RemoteAssignor::One as ServerAssignor::Range, "range";
});
word_field!(MigrationPolicy {
    "bidirectional" => MigrationPolicy::Bidirectional, "bidirectional";
    "upgrade" => MigrationPolicy::Upgrade, "upgrade";
    "downgrade" => MigrationPolicy::Downgrade, "downgrade";
    "disabled" => MigrationPolicy::Disabled, "disabled";
});
word_field!(ReplicaSelector {
    "null" => ReplicaSelector::Leader, "null";
    RACK_AWARE => ReplicaSelector::RackAware, RACK_AWARE;
});
word_field!(TimestampType {
    "CreateTime" => TimestampType::CreateTime, "CreateTime";
    "LogAppendTime" => TimestampType::LogAppendTime, "LogAppendTime";
});
word_field!(Partitioner {
    "null" => Partitioner::Default, "null";
    ROUND_ROBIN => Partitioner::RoundRobin, ROUND_ROBIN;
});

word_field!(Compression {
    "none" => Compression::None, "none";
    "gzip" => Compression::Gzip, "gzip";
    "snappy" => Compression::Snappy, "snappy";
    "lz4" => Compression::Lz4, "lz4";
    "zstd" => Compression::Zstd, "zstd";
});
word_field!(StoredCompression {
    "producer" => StoredCompression::Producer, "producer";
    "uncompressed" => StoredCompression::Fixed as Compression::None, "uncompressed";
    "gzip" => StoredCompression::Fixed as Compression::Gzip, "gzip";
    "snappy" => StoredCompression::Fixed as Compression::Snappy, "snappy";
    "lz4" => StoredCompression::Fixed as Compression::Lz4, "lz4";
    "zstd" => StoredCompression::Fixed as Compression::Zstd, "zstd";
});
word_field!(CleanupPolicy {
    "delete" => CleanupPolicy::Delete, "delete";
    "compact" => CleanupPolicy::Compact, "compact";
    "compact,delete" | "delete,compact" => CleanupPolicy::CompactAndDelete, "compact,delete";
});

/// One modelled key of configuration `C`.
pub(super) struct Key<C> {
    pub name: &'static str,
    /// Another name that means the same: the topic's name of a broker key.
    pub alias: Option<&'static str>,
    /// Kafka's default as `kafka-configs` prints it; for a topic, the broker's.
    pub default: &'static str,
    pub kind: Kind,
    set: fn(&mut C, Setting) -> bool,
    get: fn(&C) -> Option<Setting>,
}

macro_rules! key {
    ($name:literal, $($rest:tt)*) => { key!(@ $name, None, $($rest)*) };
    ($name:literal or $alias:literal, $($rest:tt)*) => { key!(@ $name, Some($alias), $($rest)*) };
    (@ $name:literal, $alias:expr, $default:literal, $kind:expr, $($field:ident).+) => {
        Key {
            name: $name,
            alias: $alias,
            default: $default,
            kind: $kind,
            set: |config, setting| match Field::from_setting(setting) {
                Some(value) => {
                    config.$($field).+ = value;
                    true
                }
                None => false,
            },
            get: |config| config.$($field).+.to_setting(),
        }
    };
}

const fn int(min: i64) -> Kind {
    Kind::Int { min, max: i32::MAX as i64 }
}
const fn long(min: i64) -> Kind {
    Kind::Int { min, max: i64::MAX }
}
const fn millis(min: i64) -> Kind {
    Kind::Millis { min }
}

/// `BrokerCompressionType`.
const STORED_COMPRESSIONS: Kind = Kind::Choice(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]);
const CLEANUP_POLICIES: Kind = Kind::Choice(&["delete", "compact", "compact,delete", "delete,compact"]);

/// Kafka's smallest segment: the overhead of one record of format 0 (`LegacyRecord.RECORD_OVERHEAD_V0`).
const SEGMENT_BYTES_MIN: i64 = 14;

const TIMESTAMP_TYPES: Kind = Kind::Choice(&["CreateTime", "LogAppendTime"]);

const BROKER: &[Key<BrokerConfig>] = &[
    key!("min.insync.replicas", "1", int(1), min_insync_replicas),
    key!("unclean.leader.election.enable", "false", Kind::Bool, unclean_leader_election_enable),
    key!("replica.lag.time.max.ms", "30000", millis(1), replica_lag_time_max),
    key!("replica.fetch.wait.max.ms", "500", millis(0), replica_fetch_wait_max),
    key!("replica.fetch.min.bytes", "1", int(0), replica_fetch_min_bytes),
    key!("replica.fetch.max.bytes", "1048576", int(0), replica_fetch_max_bytes),
    key!("replica.fetch.response.max.bytes", "10485760", int(0), replica_fetch_response_max_bytes),
    key!("replica.fetch.backoff.ms", "1000", millis(0), replica_fetch_backoff),
    key!("replica.socket.timeout.ms", "30000", millis(1), replica_socket_timeout),
    key!("replica.selector.class", "null", Kind::Choice(&["null", RACK_AWARE]), replica_selector),
    key!(
        "replica.high.watermark.checkpoint.interval.ms",
        "5000",
        millis(1),
        replica_high_watermark_checkpoint_interval
    ),
    key!("log.flush.offset.checkpoint.interval.ms", "60000", millis(1), log_flush_offset_checkpoint_interval),
    key!(
        "log.flush.start.offset.checkpoint.interval.ms",
        "60000",
        millis(1),
        log_flush_start_offset_checkpoint_interval
    ),
    key!("log.flush.scheduler.interval.ms", "9223372036854775807", long(1), log_flush_scheduler_interval_ms),
    key!("log.retention.check.interval.ms", "300000", millis(1), log_retention_check_interval),
    key!("log.initial.task.delay.ms", "30000", millis(0), log_initial_task_delay),
    key!("log.dir.failure.timeout.ms", "30000", millis(1), log_dir_failure_timeout),
    key!("producer.id.expiration.ms", "86400000", millis(1), producer_id_expiration),
    key!("producer.id.expiration.check.interval.ms", "600000", millis(1), producer_id_expiration_check_interval),
    key!("broker.session.timeout.ms", "9000", millis(1), broker_session_timeout),
    key!("broker.heartbeat.interval.ms", "2000", millis(1), broker_heartbeat_interval),
    key!("controller.socket.timeout.ms", "30000", millis(1), controller_socket_timeout),
    key!("controlled.shutdown.enable", "true", Kind::Bool, controlled_shutdown_enable),
    key!("auto.leader.rebalance.enable", "true", Kind::Bool, auto_leader_rebalance_enable),
    key!("leader.imbalance.check.interval.seconds", "300", Kind::Seconds { min: 1 }, leader_imbalance_check_interval),
    key!("leader.imbalance.per.broker.percentage", "10", int(0), leader_imbalance_per_broker_percentage),
    key!("unclean.leader.election.interval.ms", "300000", millis(1), unclean_leader_election_interval),
    key!("auto.create.topics.enable", "true", Kind::Bool, auto_create_topics_enable),
    key!("num.partitions", "1", int(1), num_partitions),
    key!("default.replication.factor", "1", Kind::Int { min: 1, max: i16::MAX as i64 }, default_replication_factor),
    key!("fetch.max.bytes", "57671680", int(1024), fetch_max_bytes),
    key!("socket.connection.setup.timeout.ms", "10000", millis(1), socket_connection_setup_timeout),
    key!("group.min.session.timeout.ms", "6000", millis(0), groups.min_session_timeout),
    key!("group.max.session.timeout.ms", "1800000", millis(0), groups.max_session_timeout),
    key!("group.initial.rebalance.delay.ms", "3000", millis(0), groups.initial_rebalance_delay),
    key!("group.max.size", "2147483647", int(1), groups.max_size),
    key!("group.consumer.session.timeout.ms", "45000", millis(1), groups.consumer_session_timeout),
    key!("group.consumer.min.session.timeout.ms", "45000", millis(1), groups.consumer_min_session_timeout),
    key!("group.consumer.max.session.timeout.ms", "60000", millis(1), groups.consumer_max_session_timeout),
    key!("group.consumer.heartbeat.interval.ms", "5000", millis(1), groups.consumer_heartbeat_interval),
    key!("group.consumer.min.heartbeat.interval.ms", "5000", millis(1), groups.consumer_min_heartbeat_interval),
    key!("group.consumer.max.heartbeat.interval.ms", "15000", millis(1), groups.consumer_max_heartbeat_interval),
    key!("group.consumer.max.size", "2147483647", int(1), groups.consumer_max_size),
    key!(
        "group.consumer.assignors",
        "uniform,range",
        Kind::Choice(&["uniform,range", "range,uniform", "uniform", "range"]),
        groups.consumer_assignors
    ),
    key!(
        "group.consumer.migration.policy",
        "bidirectional",
        Kind::Choice(&["bidirectional", "upgrade", "downgrade", "disabled"]),
        groups.consumer_migration_policy
    ),
    key!("offset.metadata.max.bytes", "4096", int(0), groups.offset_metadata_max_bytes),
    key!("offsets.load.buffer.size", "5242880", int(1), groups.offsets_load_buffer_size),
    key!("offsets.commit.timeout.ms", "5000", millis(1), groups.offsets_commit_timeout),
    key!("offsets.retention.minutes", "10080", int(1), groups.offsets_retention_minutes),
    key!("offsets.retention.check.interval.ms", "600000", millis(1), groups.offsets_retention_check_interval),
    key!("offsets.topic.num.partitions", "50", int(1), groups.offsets_topic_num_partitions),
    key!(
        "offsets.topic.replication.factor",
        "3",
        Kind::Int { min: 1, max: i16::MAX as i64 },
        groups.offsets_topic_replication_factor
    ),
    key!("offsets.topic.segment.bytes", "104857600", int(SEGMENT_BYTES_MIN), groups.offsets_topic_segment_bytes),
    key!("log.segment.bytes" or "segment.bytes", "1073741824", int(SEGMENT_BYTES_MIN), log.segment_bytes),
    key!("log.flush.interval.messages" or "flush.messages", "9223372036854775807", long(1), log.flush_messages),
    key!("message.max.bytes" or "max.message.bytes", "1048588", int(0), log.max_message_bytes),
    key!("log.roll.ms" or "segment.ms", "604800000", long(1), log.segment_ms),
    key!("log.index.size.max.bytes" or "segment.index.bytes", "10485760", int(4), log.segment_index_bytes),
    key!("log.index.interval.bytes" or "index.interval.bytes", "4096", int(0), log.index_interval_bytes),
    key!("log.flush.interval.ms" or "flush.ms", "9223372036854775807", long(0), log.flush_ms),
    key!("log.retention.ms" or "retention.ms", "604800000", long(-1), log.retention_ms),
    key!("log.retention.bytes" or "retention.bytes", "-1", long(-1), log.retention_bytes),
    key!("log.segment.delete.delay.ms" or "file.delete.delay.ms", "60000", long(0), log.file_delete_delay_ms),
    key!(
        "log.message.timestamp.type" or "message.timestamp.type",
        "CreateTime",
        TIMESTAMP_TYPES,
        log.message_timestamp_type
    ),
    key!(
        "log.message.timestamp.before.max.ms" or "message.timestamp.before.max.ms",
        "9223372036854775807",
        long(0),
        log.message_timestamp_before_max_ms
    ),
    key!(
        "log.message.timestamp.after.max.ms" or "message.timestamp.after.max.ms",
        "9223372036854775807",
        long(0),
        log.message_timestamp_after_max_ms
    ),
    key!("compression.type", "producer", STORED_COMPRESSIONS, log.compression),
    key!("log.cleanup.policy" or "cleanup.policy", "delete", CLEANUP_POLICIES, log.cleanup_policy),
    key!("log.cleaner.enable", "true", Kind::Bool, log_cleaner_enable),
    key!("log.cleaner.backoff.ms", "15000", millis(1), log_cleaner_backoff),
    key!(
        "log.cleaner.min.cleanable.ratio" or "min.cleanable.dirty.ratio",
        "0.5",
        Kind::Ratio,
        log.compaction.min_cleanable_dirty_ratio
    ),
    key!(
        "log.cleaner.min.compaction.lag.ms" or "min.compaction.lag.ms",
        "0",
        millis(0),
        log.compaction.min_compaction_lag
    ),
    key!(
        "log.cleaner.max.compaction.lag.ms" or "max.compaction.lag.ms",
        "9223372036854775807",
        long(1),
        log.compaction.max_compaction_lag_ms
    ),
    key!(
        "log.cleaner.delete.retention.ms" or "delete.retention.ms",
        "86400000",
        millis(0),
        log.compaction.delete_retention
    ),
];

const TOPIC: &[Key<TopicConfig>] = &[
    key!("min.insync.replicas", "1", int(1), min_insync_replicas),
    key!("unclean.leader.election.enable", "false", Kind::Bool, unclean_leader_election_enable),
    key!("segment.bytes", "1073741824", int(SEGMENT_BYTES_MIN), segment_bytes),
    key!("flush.messages", "9223372036854775807", long(1), flush_messages),
    key!("max.message.bytes", "1048588", int(0), max_message_bytes),
    key!("segment.ms", "604800000", long(1), segment_ms),
    key!("segment.index.bytes", "10485760", int(4), segment_index_bytes),
    key!("index.interval.bytes", "4096", int(0), index_interval_bytes),
    key!("flush.ms", "9223372036854775807", long(0), flush_ms),
    key!("retention.ms", "604800000", long(-1), retention_ms),
    key!("retention.bytes", "-1", long(-1), retention_bytes),
    key!("file.delete.delay.ms", "60000", long(0), file_delete_delay_ms),
    key!("message.timestamp.type", "CreateTime", TIMESTAMP_TYPES, message_timestamp_type),
    key!("message.timestamp.before.max.ms", "9223372036854775807", long(0), message_timestamp_before_max_ms),
    key!("message.timestamp.after.max.ms", "9223372036854775807", long(0), message_timestamp_after_max_ms),
    key!("compression.type", "producer", STORED_COMPRESSIONS, compression),
    key!("cleanup.policy", "delete", CLEANUP_POLICIES, cleanup_policy),
    key!("min.cleanable.dirty.ratio", "0.5", Kind::Ratio, min_cleanable_dirty_ratio),
    key!("min.compaction.lag.ms", "0", millis(0), min_compaction_lag),
    key!("max.compaction.lag.ms", "9223372036854775807", long(1), max_compaction_lag_ms),
    key!("delete.retention.ms", "86400000", millis(0), delete_retention),
];

const PRODUCER: &[Key<ProducerConfig>] = &[
    key!("acks", "all", Kind::Choice(&["0", "1", "all", "-1"]), acks),
    key!("enable.idempotence", "true", Kind::Bool, enable_idempotence),
    key!("compression.type", "none", Kind::Choice(&["none", "gzip", "snappy", "lz4", "zstd"]), compression),
    key!("linger.ms", "5", millis(0), linger),
    key!("batch.size", "16384", int(0), batch_size),
    key!("max.in.flight.requests.per.connection", "5", int(1), max_in_flight_requests_per_connection),
    key!("retries", "2147483647", int(0), retries),
    key!("retry.backoff.ms", "100", millis(0), retry_backoff),
    key!("retry.backoff.max.ms", "1000", millis(0), retry_backoff_max),
    key!("request.timeout.ms", "30000", millis(0), request_timeout),
    key!("delivery.timeout.ms", "120000", millis(0), delivery_timeout),
    key!("max.block.ms", "60000", millis(0), max_block),
    key!("metadata.max.age.ms", "300000", millis(0), metadata_max_age),
    key!("max.request.size", "1048576", int(0), max_request_size),
    key!("buffer.memory", "33554432", long(0), buffer_memory),
    key!("reconnect.backoff.ms", "50", millis(0), reconnect_backoff),
    key!("reconnect.backoff.max.ms", "1000", millis(0), reconnect_backoff_max),
    key!("socket.connection.setup.timeout.ms", "10000", millis(0), socket_connection_setup_timeout),
    key!("partitioner.class", "null", Kind::Choice(&["null", ROUND_ROBIN]), partitioner),
];

const CONSUMER: &[Key<ConsumerConfig>] = &[
    key!("group.protocol", "classic", Kind::Choice(&["classic", "consumer"]), group_protocol),
    key!("group.remote.assignor", "null", Kind::Choice(&["null", "uniform", "range"]), group_remote_assignor),
    key!("session.timeout.ms", "45000", millis(0), session_timeout),
    key!("heartbeat.interval.ms", "3000", millis(1), heartbeat_interval),
    key!("max.poll.interval.ms", "300000", millis(1), max_poll_interval),
    key!("enable.auto.commit", "true", Kind::Bool, enable_auto_commit),
    key!("auto.commit.interval.ms", "5000", millis(0), auto_commit_interval),
    key!(
        "partition.assignment.strategy",
        "org.apache.kafka.clients.consumer.RangeAssignor,org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
        Kind::Choice(&[RANGE_COOPERATIVE, RANGE, ROUND_ROBIN_ASSIGNOR, STICKY, COOPERATIVE_STICKY]),
        partition_assignment_strategy
    ),
    key!("client.rack", "", Kind::Text, client_rack),
    key!("auto.offset.reset", "latest", Kind::Choice(&["earliest", "latest", "none"]), auto_offset_reset),
    key!("fetch.min.bytes", "1", int(0), fetch_min_bytes),
    key!("fetch.max.bytes", "52428800", int(0), fetch_max_bytes),
    key!("fetch.max.wait.ms", "500", millis(0), fetch_max_wait),
    key!("max.partition.fetch.bytes", "1048576", int(0), max_partition_fetch_bytes),
    key!("max.poll.records", "500", int(1), max_poll_records),
    key!("check.crcs", "true", Kind::Bool, check_crcs),
    key!("request.timeout.ms", "30000", millis(0), request_timeout),
    key!("retry.backoff.ms", "100", millis(0), retry_backoff),
    key!("retry.backoff.max.ms", "1000", millis(0), retry_backoff_max),
    key!("metadata.max.age.ms", "300000", millis(0), metadata_max_age),
    key!("reconnect.backoff.ms", "50", millis(0), reconnect_backoff),
    key!("reconnect.backoff.max.ms", "1000", millis(0), reconnect_backoff_max),
    key!("socket.connection.setup.timeout.ms", "10000", millis(0), socket_connection_setup_timeout),
];

/// A modelled key, for documentation and completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelledKey {
    pub name: &'static str,
    pub alias: Option<&'static str>,
    pub default: &'static str,
    pub kind: Kind,
}

/// The keys of a scope that Faultline models.
pub fn modelled(scope: Scope) -> Vec<ModelledKey> {
    fn list<C>(keys: &[Key<C>]) -> Vec<ModelledKey> {
        let one = |key: &Key<C>| ModelledKey { name: key.name, alias: key.alias, default: key.default, kind: key.kind };
        keys.iter().map(one).collect()
    }
    match scope {
        Scope::Broker => list(BROKER),
        Scope::Topic => list(TOPIC),
        Scope::Producer => list(PRODUCER),
        Scope::Consumer => list(CONSUMER),
    }
}

/// The scopes in which Faultline models `key`, under its own name or as an alias.
pub fn scopes_of(key: &str) -> Vec<Scope> {
    let holds = |scope: &Scope| modelled(*scope).iter().any(|k| k.name == key || k.alias == Some(key));
    Scope::ALL.into_iter().filter(holds).collect()
}

/// The one name of a key that has two in a scope (`flush.messages` of a broker is `log.flush.interval.messages`);
/// any other key as it is.
pub fn canonical_name(scope: Scope, key: &str) -> &str {
    modelled(scope).into_iter().find(|k| k.alias == Some(key)).map_or(key, |k| k.name)
}

/// Checks a key's name and value without keeping it.
pub fn check(scope: Scope, key: &str, value: &str) -> Result<(), ConfigError> {
    match scope {
        Scope::Broker => BrokerConfig::default().set(key, value),
        Scope::Topic => TopicConfig::default().set(key, value),
        Scope::Producer => ProducerConfig::default().set(key, value),
        Scope::Consumer => ConsumerConfig::default().set(key, value),
    }
}

/// Why `key` is none of the modelled ones: not modelled, mistyped, or of another scope.
pub fn unknown_key(scope: Scope, key: &str) -> ConfigError {
    if scope.not_modelled().contains(&key) {
        return ConfigError::NotModelled { scope, key: key.to_owned() };
    }
    let belongs_to: Vec<Scope> = Scope::ALL
        .into_iter()
        .filter(|other| scopes_of(key).contains(other) || other.not_modelled().contains(&key))
        .collect();
    let suggestion = if belongs_to.is_empty() {
        nearest(key, modelled(scope).iter().flat_map(|k| [Some(k.name), k.alias]).flatten())
    } else {
        None
    };
    ConfigError::Unknown { scope, key: key.to_owned(), suggestion, belongs_to }
}

/// The candidate most like `word`, if one is like it at all.
///
/// The bound is a Jaro-Winkler similarity of 0.8, tried on typical slips: a missing or doubled letter, two swapped,
/// `_` or `-` for `.`, a word left out. Below it suggestions read as guesses.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const SIMILARITY_MIN: f64 = 0.8;
    let folded = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&folded, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .fold(None, |best: Option<(f64, &str)>, next| match best {
            Some(best) if best.0 >= next.0 => Some(best),
            Some(_) | None => Some(next),
        })
        .map(|(_, candidate)| candidate)
}

fn set<C>(keys: &[Key<C>], scope: Scope, config: &mut C, name: &str, value: &str) -> Result<(), ConfigError> {
    let key = keys.iter().find(|k| k.name == name || k.alias == Some(name)).ok_or_else(|| unknown_key(scope, name))?;
    let is_set = key.kind.parse(value.trim()).is_some_and(|setting| (key.set)(config, setting));
    match is_set {
        true => Ok(()),
        false => Err(ConfigError::Invalid {
            key: key.alias.filter(|alias| *alias == name).unwrap_or(key.name),
            value: value.to_owned(),
            expected: key.kind.to_string(),
        }),
    }
}

fn entries<C>(keys: &[Key<C>], config: &C) -> BTreeMap<&'static str, String> {
    keys.iter().filter_map(|key| (key.get)(config).map(|setting| (key.name, key.kind.print(setting)))).collect()
}

macro_rules! configurable {
    ($type:ty, $keys:ident, $scope:expr) => {
        impl $type {
            /// Sets one key from its text, as in a properties file.
            pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
                set($keys, $scope, self, key, value)
            }

            /// Every modelled key that has a value, as text.
            pub fn entries(&self) -> BTreeMap<&'static str, String> {
                entries($keys, self)
            }
        }
    };
}
configurable!(BrokerConfig, BROKER, Scope::Broker);
configurable!(TopicConfig, TOPIC, Scope::Topic);
configurable!(ProducerConfig, PRODUCER, Scope::Producer);
configurable!(ConsumerConfig, CONSUMER, Scope::Consumer);

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_defaults<C: Default + PartialEq + std::fmt::Debug + Clone>(
        scope: Scope,
        entries: impl Fn(&C) -> BTreeMap<&'static str, String>,
        set: impl Fn(&mut C, &str, &str) -> Result<(), ConfigError>,
    ) {
        let default = C::default();
        for key in modelled(scope) {
            if scope != Scope::Topic {
                assert_eq!(entries(&default).get(key.name).map(String::as_str), Some(key.default), "{}", key.name);
            }
            let mut again = default.clone();
            set(&mut again, key.name, key.default).unwrap_or_else(|e| panic!("{}: {e}", key.name));
            assert_eq!(entries(&again)[key.name], key.default);
            if scope != Scope::Topic {
                assert_eq!(again, default, "{} does not set what it shows", key.name);
            }
        }
    }

    #[test]
    fn every_struct_starts_with_the_defaults_of_the_catalogue() {
        assert_defaults(Scope::Broker, BrokerConfig::entries, BrokerConfig::set);
        assert_defaults(Scope::Topic, TopicConfig::entries, TopicConfig::set);
        assert_defaults(Scope::Producer, ProducerConfig::entries, ProducerConfig::set);
        assert_defaults(Scope::Consumer, ConsumerConfig::entries, ConsumerConfig::set);
    }

    #[test]
    fn a_topic_inherits_the_default_that_its_broker_has() {
        let broker = BrokerConfig::default().entries();
        for key in modelled(Scope::Topic) {
            let name = canonical_name(Scope::Broker, key.name);
            assert_eq!(broker[name], key.default, "{}", key.name);
        }
    }

    #[test]
    fn each_key_sets_its_own_field() {
        let mut config = BrokerConfig::default();
        let mut number = 20_000;
        for key in modelled(Scope::Broker) {
            number += 1;
            let value = match key.kind {
                Kind::Bool => (key.default == "false").to_string(),
                Kind::Int { .. } | Kind::Millis { .. } | Kind::Seconds { .. } => number.to_string(),
                Kind::Ratio => "0.75".to_owned(),
                Kind::Choice(words) => words[0].to_owned(),
                Kind::Text => key.name.to_owned(),
            };
            config.set(key.name, &value).unwrap();
            assert_eq!(config.entries()[key.name], value);
        }
        let distinct: std::collections::BTreeSet<_> =
            config.entries().into_values().filter(|v| v.parse::<i64>().is_ok()).collect();
        let numeric = modelled(Scope::Broker)
            .iter()
            .filter(|k| matches!(k.kind, Kind::Int { .. } | Kind::Millis { .. } | Kind::Seconds { .. }))
            .count();
        assert_eq!(distinct.len(), numeric, "two keys share a field");
    }

    #[test]
    fn no_key_is_both_modelled_and_not() {
        for scope in Scope::ALL {
            for key in modelled(scope) {
                assert!(!scope.not_modelled().contains(&key.name), "{}", key.name);
            }
            assert!(scope.not_modelled().is_sorted(), "{scope}");
        }
    }

    #[test]
    fn a_mistyped_key_gets_the_nearest_modelled_one() {
        for (typed, meant) in [
            ("min.insync.replica", "min.insync.replicas"),
            ("min_insync_replicas", "min.insync.replicas"),
            ("min.isync.replicas", "min.insync.replicas"),
            ("replica.lag.max.ms", "replica.lag.time.max.ms"),
            ("flush.message", "flush.messages"),
            ("unclean.leader.election.enabled", "unclean.leader.election.enable"),
        ] {
            match unknown_key(Scope::Broker, typed) {
                ConfigError::Unknown { suggestion, .. } => assert_eq!(suggestion, Some(meant), "{typed}"),
                other => panic!("{typed}: {other:?}"),
            }
        }
        assert!(matches!(
            unknown_key(Scope::Broker, "colour"),
            ConfigError::Unknown { suggestion: None, ref belongs_to, .. } if belongs_to.is_empty()
        ));
    }

    #[test]
    fn a_key_of_another_scope_is_told_from_a_mistyped_one() {
        let error = unknown_key(Scope::Broker, "linger.ms");
        assert_eq!(
            error.help().as_deref(),
            Some(
                "`linger.ms` is a producer configuration: set it in the `config` of a [[workload]] with kind = \"produce\""
            )
        );
    }

    #[test]
    fn a_key_that_kafka_has_and_faultline_has_not_says_so() {
        assert_eq!(
            unknown_key(Scope::Producer, "compression.gzip.level"),
            ConfigError::NotModelled { scope: Scope::Producer, key: "compression.gzip.level".into() }
        );
    }

    #[test]
    fn values_outside_kafkas_bounds_are_refused() {
        for (scope, key, value) in [
            (Scope::Broker, "min.insync.replicas", "0"),
            (Scope::Broker, "min.insync.replicas", "2147483648"),
            (Scope::Broker, "unclean.leader.election.enable", "yes"),
            (Scope::Broker, "segment.bytes", "13"),
            (Scope::Broker, "default.replication.factor", "32768"),
            (Scope::Topic, "flush.messages", "0"),
            (Scope::Producer, "acks", "2"),
            (Scope::Producer, "linger.ms", "-1"),
            (Scope::Producer, "linger.ms", "5ms"),
            (Scope::Producer, "max.in.flight.requests.per.connection", "0"),
            (Scope::Consumer, "auto.offset.reset", "oldest"),
            (Scope::Broker, "replica.selector.class", "RackAwareReplicaSelector"),
        ] {
            assert!(matches!(check(scope, key, value), Err(ConfigError::Invalid { .. })), "{key}={value}");
        }
        for (scope, key, value) in [
            (Scope::Broker, "min.insync.replicas", "1"),
            (Scope::Broker, "segment.bytes", "14"),
            (Scope::Topic, "flush.messages", "1"),
            (Scope::Topic, "flush.messages", "9223372036854775807"),
            (Scope::Producer, "acks", "-1"),
            (Scope::Producer, "linger.ms", "0"),
        ] {
            assert_eq!(check(scope, key, value), Ok(()), "{key}={value}");
        }
    }

    #[test]
    fn a_brokers_key_is_accepted_under_the_topics_name() {
        let mut config = BrokerConfig::default();
        config.set("flush.messages", "1").unwrap();
        assert_eq!(config.log.flush_messages, 1);
        config.set("log.flush.interval.messages", "9223372036854775807").unwrap();
        assert_eq!(config.log.flush_messages, u64::MAX);
    }
}
