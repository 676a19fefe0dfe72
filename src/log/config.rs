//! The topic configuration that a log obeys (Kafka's `LogConfig`).

use std::time::Duration;

use super::compression::Compression;
use super::validate::Rules;

/// What a log does, and what it keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// `segment.bytes`
    pub segment_bytes: u64,
    /// `flush.messages`: fsync after this many records. `u64::MAX`: never by count.
    pub flush_messages: u64,
    /// `max.message.bytes`: largest batch accepted from a producer.
    pub max_message_bytes: u64,
    /// `compression.type`
    pub compression: StoredCompression,
    /// `cleanup.policy`
    pub cleanup_policy: CleanupPolicy,
    /// For `cleanup.policy` with `compact`.
    pub compaction: CompactionConfig,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_bytes: 1 << 30,
            flush_messages: u64::MAX,
            max_message_bytes: 1_048_588,
            compression: StoredCompression::Producer,
            cleanup_policy: CleanupPolicy::Delete,
            compaction: CompactionConfig::default(),
        }
    }
}

impl LogConfig {
    /// What a leader asks of the records in a batch.
    pub(super) fn rules(&self) -> Rules {
        Rules { compression: self.compression, is_compacted: self.cleanup_policy.compacts() }
    }
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
