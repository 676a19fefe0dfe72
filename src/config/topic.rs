//! A topic's overrides of what its brokers say (Kafka's `LogConfig` seen from the topic), and the rules that need
//! more than one key.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Acks, BrokerConfig, ConfigError, ConsumerConfig, GroupCoordinatorConfig, GroupProtocol, ProducerConfig};
use crate::log::{CleanupPolicy, CompactionConfig, LogConfig, Ratio, StoredCompression, TimestampType};

/// Topic-level configuration: `None` inherits the broker's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicConfig {
    /// `min.insync.replicas`
    pub min_insync_replicas: Option<i32>,
    /// `unclean.leader.election.enable`
    pub unclean_leader_election_enable: Option<bool>,
    /// `segment.bytes`
    pub segment_bytes: Option<u64>,
    /// `flush.messages`
    pub flush_messages: Option<u64>,
    /// `max.message.bytes`
    pub max_message_bytes: Option<u64>,
    /// `segment.ms`
    pub segment_ms: Option<u64>,
    /// `segment.index.bytes`
    pub segment_index_bytes: Option<u64>,
    /// `index.interval.bytes`
    pub index_interval_bytes: Option<u64>,
    /// `flush.ms`
    pub flush_ms: Option<u64>,
    /// `retention.ms`
    pub retention_ms: Option<i64>,
    /// `retention.bytes`
    pub retention_bytes: Option<i64>,
    /// `file.delete.delay.ms`
    pub file_delete_delay_ms: Option<u64>,
    /// `message.timestamp.type`
    pub message_timestamp_type: Option<TimestampType>,
    /// `message.timestamp.before.max.ms`
    pub message_timestamp_before_max_ms: Option<u64>,
    /// `message.timestamp.after.max.ms`
    pub message_timestamp_after_max_ms: Option<u64>,
    /// `compression.type`
    pub compression: Option<StoredCompression>,
    /// `cleanup.policy`
    pub cleanup_policy: Option<CleanupPolicy>,
    /// `min.cleanable.dirty.ratio`
    pub min_cleanable_dirty_ratio: Option<Ratio>,
    /// `min.compaction.lag.ms`
    pub min_compaction_lag: Option<Duration>,
    /// `max.compaction.lag.ms`
    pub max_compaction_lag_ms: Option<u64>,
    /// `delete.retention.ms`
    pub delete_retention: Option<Duration>,
}

/// What holds for a topic once its broker's configuration is taken in.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveTopicConfig {
    pub log: LogConfig,
    pub min_insync_replicas: i32,
    pub unclean_leader_election_enable: bool,
}

impl TopicConfig {
    pub fn from_map(map: &BTreeMap<String, String>) -> Result<TopicConfig, ConfigError> {
        let mut config = TopicConfig::default();
        for (key, value) in map {
            config.set(key, value)?;
        }
        Ok(config)
    }

    /// The topic's own value where it has one, the broker's elsewhere.
    pub fn effective(&self, broker: &BrokerConfig) -> EffectiveTopicConfig {
        EffectiveTopicConfig {
            log: self.log(&broker.log, broker.log_flush_scheduler_interval_ms),
            min_insync_replicas: self.min_insync_replicas.unwrap_or(broker.min_insync_replicas),
            unclean_leader_election_enable: self
                .unclean_leader_election_enable
                .unwrap_or(broker.unclean_leader_election_enable),
        }
    }
}

impl TopicConfig {
    fn log(&self, broker: &LogConfig, flush_scheduler_interval_ms: u64) -> LogConfig {
        // Kafka's `log.flush.interval.ms` is that of the scheduler where it is not set.
        let flush_ms = if broker.flush_ms == u64::MAX { flush_scheduler_interval_ms } else { broker.flush_ms };
        LogConfig {
            segment_bytes: self.segment_bytes.unwrap_or(broker.segment_bytes),
            segment_ms: self.segment_ms.unwrap_or(broker.segment_ms),
            segment_index_bytes: self.segment_index_bytes.unwrap_or(broker.segment_index_bytes),
            index_interval_bytes: self.index_interval_bytes.unwrap_or(broker.index_interval_bytes),
            flush_messages: self.flush_messages.unwrap_or(broker.flush_messages),
            flush_ms: self.flush_ms.unwrap_or(flush_ms),
            retention_ms: self.retention_ms.unwrap_or(broker.retention_ms),
            retention_bytes: self.retention_bytes.unwrap_or(broker.retention_bytes),
            file_delete_delay_ms: self.file_delete_delay_ms.unwrap_or(broker.file_delete_delay_ms),
            max_message_bytes: self.max_message_bytes.unwrap_or(broker.max_message_bytes),
            message_timestamp_type: self.message_timestamp_type.unwrap_or(broker.message_timestamp_type),
            message_timestamp_before_max_ms: self
                .message_timestamp_before_max_ms
                .unwrap_or(broker.message_timestamp_before_max_ms),
            compression: self.compression.unwrap_or(broker.compression),
            cleanup_policy: self.cleanup_policy.unwrap_or(broker.cleanup_policy),
            compaction: self.compaction(&broker.compaction),
            defects: broker.defects,
            message_timestamp_after_max_ms: self
                .message_timestamp_after_max_ms
                .unwrap_or(broker.message_timestamp_after_max_ms),
        }
    }

    fn compaction(&self, broker: &CompactionConfig) -> CompactionConfig {
        CompactionConfig {
            min_cleanable_dirty_ratio: self.min_cleanable_dirty_ratio.unwrap_or(broker.min_cleanable_dirty_ratio),
            min_compaction_lag: self.min_compaction_lag.unwrap_or(broker.min_compaction_lag),
            max_compaction_lag_ms: self.max_compaction_lag_ms.unwrap_or(broker.max_compaction_lag_ms),
            delete_retention: self.delete_retention.unwrap_or(broker.delete_retention),
        }
    }
}

impl BrokerConfig {
    /// What must hold between keys (`KafkaConfig.validateValues`).
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wait = self.replica_fetch_wait_max;
        let conflict = |key: &'static str, bound: std::time::Duration| ConfigError::Conflict {
            keys: vec!["replica.fetch.wait.max.ms", key],
            message: format!(
                "`replica.fetch.wait.max.ms` ({}) must not exceed `{key}` ({})",
                wait.as_millis(),
                bound.as_millis()
            ),
        };
        if wait > self.replica_socket_timeout {
            return Err(conflict("replica.socket.timeout.ms", self.replica_socket_timeout));
        }
        if wait > self.replica_lag_time_max {
            return Err(conflict("replica.lag.time.max.ms", self.replica_lag_time_max));
        }
        self.groups.validate()
    }
}

impl GroupCoordinatorConfig {
    /// What must hold between the keys of consumer groups (`GroupCoordinatorConfig`'s constructor).
    fn validate(&self) -> Result<(), ConfigError> {
        const SESSION: &str = "group.consumer.session.timeout.ms";
        const HEARTBEAT: &str = "group.consumer.heartbeat.interval.ms";
        let (session, heartbeat) = (self.consumer_session_timeout, self.consumer_heartbeat_interval);
        let ms = Duration::from_millis(1);
        // (what, at least what)
        let bounds = [
            ((SESSION, session), ("group.consumer.min.session.timeout.ms", self.consumer_min_session_timeout)),
            (("group.consumer.max.session.timeout.ms", self.consumer_max_session_timeout), (SESSION, session)),
            (
                (HEARTBEAT, heartbeat),
                ("group.consumer.min.heartbeat.interval.ms", self.consumer_min_heartbeat_interval),
            ),
            (
                ("group.consumer.max.heartbeat.interval.ms", self.consumer_max_heartbeat_interval),
                (HEARTBEAT, heartbeat),
            ),
            ((SESSION, session), (HEARTBEAT, heartbeat + ms)),
        ];
        for ((key, value), (bound, least)) in bounds {
            if value < least {
                let (value, least) = (value.as_millis(), least.as_millis());
                let message = match bound == HEARTBEAT && key == SESSION {
                    true => format!("`{key}` ({value}) must be greater than `{bound}` ({})", least - 1),
                    false => format!("`{key}` ({value}) must be greater than or equal to `{bound}` ({least})"),
                };
                return Err(ConfigError::Conflict { keys: vec![key, bound], message });
            }
        }
        Ok(())
    }
}

impl ConsumerConfig {
    /// Refuses keys that the chosen group protocol does not have (`ConsumerConfig.checkUnsupportedConfigs`), and a member
    /// whose session ends before its next heartbeat (`Heartbeat`). `is_set` says whether the user set a key.
    pub fn validate(&self, is_set: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
        let (protocol, unsupported): (&str, &[&'static str]) = match self.group_protocol {
            GroupProtocol::Classic => ("classic", &["group.remote.assignor"]),
            GroupProtocol::Consumer => {
                ("consumer", &["partition.assignment.strategy", "heartbeat.interval.ms", "session.timeout.ms"])
            }
        };
        let is_member = self.group_id.is_some() && self.group_protocol == GroupProtocol::Classic;
        match unsupported.iter().find(|key| is_set(key)) {
            None if is_member && self.heartbeat_interval >= self.session_timeout => Err(ConfigError::Conflict {
                keys: vec!["session.timeout.ms", "heartbeat.interval.ms"],
                message: format!(
                    "`heartbeat.interval.ms` ({}) must be lower than `session.timeout.ms` ({})",
                    self.heartbeat_interval.as_millis(),
                    self.session_timeout.as_millis(),
                ),
            }),
            None => Ok(()),
            Some(key) => Err(ConfigError::Conflict {
                keys: vec![key, "group.protocol"],
                message: format!("`{key}` cannot be set when `group.protocol` is {protocol}"),
            }),
        }
    }
}

/// Batches that a broker remembers of a producer, and so requests that may overtake one another.
const IDEMPOTENT_IN_FLIGHT_MAX: usize = 5;

impl ProducerConfig {
    /// Settles what must hold between keys. `is_set` says whether the user set a key: what was left at its default
    /// gives way, what was set and cannot be is refused.
    pub fn settle(&mut self, is_set: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
        self.settle_idempotence(&is_set)?;
        self.settle_delivery_timeout(&is_set)
    }

    /// `ProducerConfig.postProcessAndValidateIdempotenceConfigs`.
    fn settle_idempotence(&mut self, is_set: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
        if !self.enable_idempotence {
            return Ok(());
        }
        let in_flight = self.max_in_flight_requests_per_connection;
        let conflict = if self.retries == 0 {
            Some(("retries", "an idempotent producer needs `retries` above 0".to_owned()))
        } else if self.acks != Acks::All {
            Some(("acks", "an idempotent producer needs `acks` = all".to_owned()))
        } else if in_flight > IDEMPOTENT_IN_FLIGHT_MAX {
            let key = "max.in.flight.requests.per.connection";
            let message =
                format!("an idempotent producer needs `{key}` of at most {IDEMPOTENT_IN_FLIGHT_MAX}, not {in_flight}");
            Some((key, message))
        } else {
            None
        };
        let Some((key, message)) = conflict else { return Ok(()) };
        if is_set("enable.idempotence") {
            return Err(ConfigError::Conflict { keys: vec!["enable.idempotence", key], message });
        }
        self.enable_idempotence = false;
        Ok(())
    }

    /// `KafkaProducer.configureDeliveryTimeout`.
    fn settle_delivery_timeout(&mut self, is_set: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
        let needed = self.linger + self.request_timeout;
        if self.delivery_timeout >= needed {
            return Ok(());
        }
        if !is_set("delivery.timeout.ms") {
            self.delivery_timeout = needed;
            return Ok(());
        }
        Err(ConfigError::Conflict {
            keys: vec!["delivery.timeout.ms", "linger.ms", "request.timeout.ms"],
            message: format!(
                "`delivery.timeout.ms` ({}) must be at least `linger.ms` + `request.timeout.ms` ({} + {})",
                self.delivery_timeout.as_millis(),
                self.linger.as_millis(),
                self.request_timeout.as_millis()
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_overrides_its_broker_key_by_key() {
        let mut broker = BrokerConfig::default();
        broker.set("min.insync.replicas", "2").unwrap();
        broker.set("segment.bytes", "4096").unwrap();
        let map = BTreeMap::from([("flush.messages".to_owned(), "1".to_owned())]);
        let effective = TopicConfig::from_map(&map).unwrap().effective(&broker);
        assert_eq!(effective.min_insync_replicas, 2);
        assert_eq!(effective.log.segment_bytes, 4096);
        assert_eq!(effective.log.flush_messages, 1);
        assert!(!effective.unclean_leader_election_enable);
    }

    #[test]
    fn a_delivery_timeout_that_was_set_too_short_is_refused() {
        let mut config = ProducerConfig { delivery_timeout: Duration::from_secs(30), ..ProducerConfig::default() };
        assert!(config.settle(|key| key == "delivery.timeout.ms").is_err());
        config.delivery_timeout = Duration::from_millis(30_005);
        assert_eq!(config.settle(|_| true), Ok(()));
    }

    #[test]
    fn a_delivery_timeout_left_alone_follows_the_request_timeout() {
        let mut config = ProducerConfig { request_timeout: Duration::from_secs(300), ..ProducerConfig::default() };
        assert_eq!(config.settle(|_| false), Ok(()));
        assert_eq!(config.delivery_timeout, Duration::from_millis(300_005));
    }

    #[test]
    fn idempotence_gives_way_where_it_was_left_alone_and_is_a_conflict_where_it_was_set() {
        let cases = [("acks", "1"), ("acks", "0"), ("retries", "0"), ("max.in.flight.requests.per.connection", "6")];
        for (key, value) in cases {
            let mut config = ProducerConfig::default();
            config.set(key, value).unwrap();
            let refused = config.clone().settle(|set| set == "enable.idempotence").unwrap_err();
            assert!(
                matches!(&refused, ConfigError::Conflict { keys, .. } if *keys == ["enable.idempotence", key]),
                "{refused}"
            );
            config.settle(|_| false).unwrap();
            assert!(!config.enable_idempotence, "{key}");
        }
        let mut config = ProducerConfig { max_in_flight_requests_per_connection: 5, ..ProducerConfig::default() };
        config.settle(|_| true).unwrap();
        assert!(config.enable_idempotence);
    }

    #[test]
    fn a_fetch_wait_beyond_the_lag_time_is_refused() {
        let mut config = BrokerConfig::default();
        config.set("replica.lag.time.max.ms", "499").unwrap();
        assert!(config.validate().is_err());
        config.set("replica.lag.time.max.ms", "500").unwrap();
        assert_eq!(config.validate(), Ok(()));
    }
}
