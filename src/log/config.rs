//! The configuration that one log obeys.

use super::index::IndexConfig;

/// Which clock a record's timestamp is of (`message.timestamp.type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimestampType {
    /// The producer's, as it was sent.
    CreateTime,
    /// The leader's when it appends, written over the producer's.
    LogAppendTime,
}

/// The topic configuration that the log obeys (Kafka's `LogConfig`). Times are milliseconds by the wall clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// `segment.bytes`
    pub segment_bytes: u64,
    /// `segment.ms`: an append whose timestamp is so much later than the segment's first rolls. `u64::MAX`: never.
    pub segment_ms: u64,
    /// `segment.index.bytes`: largest index of a segment.
    pub segment_index_bytes: u64,
    /// `index.interval.bytes`: about one index entry for so many bytes.
    pub index_interval_bytes: u64,
    /// `flush.messages`: fsync after this many records. `u64::MAX`: never by count.
    pub flush_messages: u64,
    /// `flush.ms`: fsync when the last one is so long ago, looked at every `log.flush.scheduler.interval.ms`.
    /// `u64::MAX`: never by time.
    pub flush_ms: u64,
    /// `retention.ms`: how old a segment's largest timestamp may be; negative: any age.
    pub retention_ms: i64,
    /// `retention.bytes`: size that the log is cut back to, by whole segments; negative: any size.
    pub retention_bytes: i64,
    /// `file.delete.delay.ms`: how long the files of a deleted segment stay, under another name.
    pub file_delete_delay_ms: u64,
    /// `max.message.bytes`: largest batch accepted from a producer.
    pub max_message_bytes: u64,
    /// `message.timestamp.type`
    pub message_timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far in the past a producer's timestamp may lie. `u64::MAX`: any.
    pub message_timestamp_before_max_ms: u64,
    /// `message.timestamp.after.max.ms`: how far in the future. `u64::MAX`: any.
    pub message_timestamp_after_max_ms: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        const WEEK_MS: u64 = 7 * 24 * 3_600_000;
        let indexes = IndexConfig::default();
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: WEEK_MS,
            segment_index_bytes: indexes.bytes_max,
            index_interval_bytes: indexes.interval_bytes,
            flush_messages: u64::MAX,
            flush_ms: u64::MAX,
            retention_ms: WEEK_MS as i64,
            retention_bytes: -1,
            file_delete_delay_ms: 60_000,
            max_message_bytes: 1_048_588,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: u64::MAX,
            message_timestamp_after_max_ms: u64::MAX,
        }
    }
}

impl LogConfig {
    pub(super) fn indexes(&self) -> IndexConfig {
        IndexConfig { bytes_max: self.segment_index_bytes, interval_bytes: self.index_interval_bytes }
    }
}
