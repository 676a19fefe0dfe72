//! One log directory of a broker (Kafka's `LogManager` for one `log.dirs` entry): finds the logs at start,
//! creates and deletes them, keeps the checkpoints.

use std::io;

use uuid::Uuid;

use super::partition_log::{Log, LogConfig, RecoveryReport};
use crate::protocol::{BrokerEpoch, TopicPartition};
use crate::world::Disk;

/// A log found on disk at start.
pub struct LoadedLog {
    pub partition: TopicPartition,
    /// From `partition.metadata`; `Uuid::nil()` if the file is missing.
    pub topic_id: Uuid,
    pub log: Log,
    pub recovery: RecoveryReport,
}

/// One log directory.
pub struct LogDirectory;

impl LogDirectory {
    /// Opens (creating if missing) directory `path`, loads every log in it, recovering those that need it
    /// (all, unless `.kafka_cleanshutdown` was there). Deletes the marker. Applies the high-watermark,
    /// recovery-point and log-start checkpoints. `config` gives each topic's configuration.
    pub fn open(
        _disk: Disk,
        _path: &str,
        _config: impl Fn(&TopicPartition) -> LogConfig,
    ) -> io::Result<(LogDirectory, Vec<LoadedLog>)> {
        todo!()
    }
    /// The directory's id from `meta.properties` (`directory.id`), made by `new_id` on first use.
    pub fn directory_id(&self) -> Uuid {
        todo!()
    }
    /// Broker epoch in the clean-shutdown file found at open (KIP-966), [`BrokerEpoch::NONE`] after an unclean stop.
    pub fn previous_broker_epoch(&self) -> BrokerEpoch {
        todo!()
    }
    /// Creates an empty log `<topic>-<partition>` with its `partition.metadata`.
    pub fn create_log(&mut self, _partition: &TopicPartition, _topic_id: Uuid, _config: LogConfig) -> io::Result<Log> {
        todo!()
    }
    /// Removes a log from disk.
    pub fn delete_log(&mut self, _partition: &TopicPartition) -> io::Result<()> {
        todo!()
    }
    /// Writes `replication-offset-checkpoint` (high watermarks).
    pub fn checkpoint_high_watermarks<'a>(
        &mut self,
        _logs: impl Iterator<Item = (&'a TopicPartition, &'a Log)>,
    ) -> io::Result<()> {
        todo!()
    }
    /// Writes `recovery-point-offset-checkpoint` and `log-start-offset-checkpoint`.
    pub fn checkpoint_recovery_points<'a>(
        &mut self,
        _logs: impl Iterator<Item = (&'a TopicPartition, &'a Log)>,
    ) -> io::Result<()> {
        todo!()
    }
    /// Orderly stop: flushes every log, writes the checkpoints, then `.kafka_cleanshutdown` with the broker epoch.
    pub fn close<'a>(
        &mut self,
        _logs: impl Iterator<Item = (&'a TopicPartition, &'a mut Log)>,
        _broker_epoch: BrokerEpoch,
    ) -> io::Result<()> {
        todo!()
    }
}
