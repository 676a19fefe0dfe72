//! Which timestamps a leader takes from a producer (`LogValidator.validateTimestamp`, KIP-937).

use bytes::Bytes;

use super::batch::{self, BatchError, Header, NO_TIMESTAMP};
use super::config::{LogConfig, TimestampType};

/// Checks one batch that is to be appended. Records are decoded only if the topic bounds their timestamps.
pub fn check(records: &Bytes, header: &Header, config: &LogConfig, wall_clock_ms: i64) -> Result<(), BatchError> {
    let (before, after) = (config.message_timestamp_before_max_ms, config.message_timestamp_after_max_ms);
    match config.message_timestamp_type {
        TimestampType::LogAppendTime if header.is_log_append_time() => Err(BatchError::TimestampType),
        TimestampType::LogAppendTime => Ok(()),
        TimestampType::CreateTime if before == u64::MAX && after == u64::MAX => Ok(()),
        TimestampType::CreateTime => {
            let earliest = wall_clock_ms.checked_sub_unsigned(before).unwrap_or(i64::MIN);
            let latest = wall_clock_ms.checked_add_unsigned(after).unwrap_or(i64::MAX);
            let decoded = batch::records(records).map_err(|_| BatchError::Invalid("the records cannot be decoded"))?;
            let is_wrong = |timestamp: &i64| *timestamp != NO_TIMESTAMP && !(earliest..=latest).contains(timestamp);
            match decoded.iter().map(|record| record.timestamp).find(is_wrong) {
                Some(timestamp) => Err(BatchError::Timestamp { timestamp, earliest, latest }),
                None => Ok(()),
            }
        }
    }
}
