//! The topic configuration that a log obeys (Kafka's `LogConfig`).

use std::time::Duration;

use super::compression::Compression;
use super::index::IndexConfig;
use super::validate::Rules;
use crate::defect::Defects;

/// What a log does, and what it keeps. Times that end in `_ms` are milliseconds by the wall clock.
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
    /// `compression.type`
    pub compression: StoredCompression,
    /// `cleanup.policy`
    pub cleanup_policy: CleanupPolicy,
    /// For `cleanup.policy` with `compact`.
    pub compaction: CompactionConfig,
    /// Known defects that are on.
    pub defects: Defects,
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
            compression: StoredCompression::Producer,
            cleanup_policy: CleanupPolicy::Delete,
            compaction: CompactionConfig::default(),
            defects: Defects::NONE,
        }
    }
}

impl LogConfig {
    /// `segment.ms`, or `max.compaction.lag.ms` if that is shorter: the active segment is not compacted
    /// (`LogConfig.maxSegmentMs`).
    pub(super) fn roll_ms(&self) -> u64 {
        match self.cleanup_policy.compacts() {
            true => self.segment_ms.min(self.compaction.max_compaction_lag_ms),
            false => self.segment_ms,
        }
    }

    /// What a leader asks of the records in a batch that comes at `wall_clock_ms`.
    pub(super) fn rules(&self, wall_clock_ms: i64) -> Rules {
        let timestamps = self.timestamps(wall_clock_ms);
        Rules { compression: self.compression, is_compacted: self.cleanup_policy.compacts(), timestamps }
    }

    /// The timestamps that a producer may set; `None`: all (KIP-937).
    fn timestamps(&self, wall_clock_ms: i64) -> Option<(i64, i64)> {
        let (before, after) = (self.message_timestamp_before_max_ms, self.message_timestamp_after_max_ms);
        let is_bounded = self.message_timestamp_type == TimestampType::CreateTime && before.min(after) < u64::MAX;
        is_bounded.then(|| {
            let earliest = wall_clock_ms.checked_sub_unsigned(before).unwrap_or(i64::MIN);
            (earliest, wall_clock_ms.checked_add_unsigned(after).unwrap_or(i64::MAX))
        })
    }

    pub(super) fn indexes(&self) -> IndexConfig {
        IndexConfig { bytes_max: self.segment_index_bytes, interval_bytes: self.index_interval_bytes }
    }
}

/// Which clock a record's timestamp is of (`message.timestamp.type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimestampType {
    /// The producer's, as it was sent.
    CreateTime,
    /// The leader's when it appends, written over the producer's.
    LogAppendTime,
}

/// How a leader stores batches (`BrokerCompressionType`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoredCompression {
    /// As they come.
    Producer,
    Fixed(Compression),
}

/// How old records go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CleanupPolicy {
    /// By age and size of the log.
    Delete,
    /// When a later record has the same key.
    Compact,
    CompactAndDelete,
}

impl CleanupPolicy {
    pub fn compacts(self) -> bool {
        match self {
            CleanupPolicy::Compact | CleanupPolicy::CompactAndDelete => true,
            CleanupPolicy::Delete => false,
        }
    }

    pub fn deletes(self) -> bool {
        match self {
            CleanupPolicy::Delete | CleanupPolicy::CompactAndDelete => true,
            CleanupPolicy::Compact => false,
        }
    }
}

/// When a log is compacted, and how far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompactionConfig {
    /// `min.cleanable.dirty.ratio`: part of the log that must be dirty before it is worth while.
    pub min_cleanable_dirty_ratio: Ratio,
    /// `min.compaction.lag.ms`: records younger than this stay as they are.
    pub min_compaction_lag: Duration,
    /// `max.compaction.lag.ms`: records older than this are compacted whatever the ratio. `u64::MAX`: never.
    pub max_compaction_lag_ms: u64,
    /// `delete.retention.ms`: how long a tombstone stays after compaction has seen it first.
    pub delete_retention: Duration,
}

impl Default for CompactionConfig {
    fn default() -> Self {
        CompactionConfig {
            min_cleanable_dirty_ratio: Ratio::from_millionths(500_000),
            min_compaction_lag: Duration::ZERO,
            max_compaction_lag_ms: u64::MAX,
            delete_retention: Duration::from_secs(24 * 3600),
        }
    }
}

/// A number from 0 to 1, in millionths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ratio(u32);

impl Ratio {
    const ONE: u32 = 1_000_000;

    pub const fn from_millionths(millionths: u32) -> Ratio {
        assert!(millionths <= Self::ONE);
        Ratio(millionths)
    }

    /// A decimal number from 0 to 1 with up to six places.
    pub fn parse(text: &str) -> Option<Ratio> {
        let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        if !is_number(whole) || !is_number(places) || places.len() > 6 {
            return None;
        }
        let millionths = whole.parse::<u32>().ok()?.checked_mul(Self::ONE)?;
        let millionths = millionths.checked_add(format!("{places:0<6}").parse::<u32>().ok()?)?;
        (millionths <= Self::ONE).then_some(Ratio(millionths))
    }

    /// Whether `part` is more than this ratio of `whole`.
    pub fn is_exceeded(self, part: u64, whole: u64) -> bool {
        u128::from(part) * u128::from(Self::ONE) > u128::from(whole) * u128::from(self.0)
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places = format!("{:06}", self.0 % Self::ONE);
        let places = places.trim_end_matches('0');
        write!(f, "{}.{}", self.0 / Self::ONE, if places.is_empty() { "0" } else { places })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_a_decimal_from_0_to_1() {
        for text in ["0.5", "0.0", "1.0", "0.000001", "0.25"] {
            assert_eq!(Ratio::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Ratio::parse("1"), Ratio::parse("1.0"));
        for text in ["1.1", "2", "-0.1", "0.", ".5", "half", "0.0000001", ""] {
            assert_eq!(Ratio::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_ratio_is_exceeded_by_more_than_it_only() {
        let half = Ratio::parse("0.5").unwrap();
        assert!(!half.is_exceeded(5, 10) && half.is_exceeded(6, 10));
        assert!(Ratio::parse("0.0").unwrap().is_exceeded(1, u64::MAX));
        assert!(!Ratio::parse("0").unwrap().is_exceeded(0, 10), "nothing dirty, nothing to clean");
    }
}
