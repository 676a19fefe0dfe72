//! Times as requests and responses hold them: `_ms` fields of type int32.

use std::time::Duration;

/// A field's time; negative ones are none at all.
pub fn duration_of(millis: i32) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// What a field can hold of a time: 24 days at most.
pub fn millis_of(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
