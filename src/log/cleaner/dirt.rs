//! Whether a log is worth cleaning, and how far (Kafka's `LogCleanerManager.cleanableOffsets`, `LogToClean`).

use std::cmp::Ordering;

use crate::log::Log;
use crate::log::segment::Segment;
use crate::protocol::Offset;

/// What there is to clean in one log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dirt {
    /// Below it the log is clean.
    pub first_dirty: Offset,
    /// A segment's base offset: from here on the log must stay as it is.
    pub first_uncleanable: Offset,
    pub clean_bytes: u64,
    pub cleanable_bytes: u64,
    /// `max.compaction.lag.ms` is over for the oldest dirty segment.
    pub is_overdue: bool,
    /// The checkpoint did not lie within the log and was given up.
    pub checkpoint_was_invalid: bool,
}

impl Dirt {
    fn total_bytes(&self) -> u64 {
        self.clean_bytes + self.cleanable_bytes
    }

    /// Orders by dirty ratio.
    pub fn cmp_ratio(&self, other: &Dirt) -> Ordering {
        let cross = |part: &Dirt, whole: &Dirt| u128::from(part.cleanable_bytes) * u128::from(whole.total_bytes());
        cross(self, other).cmp(&cross(other, self))
    }
}

impl Log {
    /// What there is to clean above `checkpoint`, the end of the last cleaning.
    pub fn dirt(&self, checkpoint: Option<Offset>, wall_clock_ms: i64) -> Dirt {
        let checkpoint = checkpoint.unwrap_or(self.log_start);
        let checkpoint_was_invalid = !(self.log_start..=self.log_end).contains(&checkpoint);
        let first_dirty = if checkpoint_was_invalid { self.log_start } else { checkpoint };
        let uncleanable = self.uncleanable_from(first_dirty, wall_clock_ms).max(first_dirty);
        // A segment is cleaned as a whole or not at all.
        let first_uncleanable = self.sealed_from(uncleanable).next().map_or(self.active_base(), Segment::base_offset);
        let bytes = |segments: &mut dyn Iterator<Item = &Segment>| segments.map(Segment::size_bytes).sum();
        let mut clean = self.segments.iter().take_while(|segment| segment.base_offset() < first_dirty);
        let mut dirty = self
            .sealed_from(first_dirty.min(first_uncleanable))
            .take_while(|segment| segment.base_offset() < first_uncleanable);
        Dirt {
            first_dirty,
            first_uncleanable,
            clean_bytes: bytes(&mut clean),
            cleanable_bytes: bytes(&mut dirty),
            is_overdue: self.is_overdue(first_dirty, wall_clock_ms),
            checkpoint_was_invalid,
        }
    }

    /// Whether the log is to be cleaned now: dirty enough, or for too long.
    pub fn is_worth_cleaning(&self, dirt: &Dirt) -> bool {
        let ratio = self.config.compaction.min_cleanable_dirty_ratio;
        dirt.cleanable_bytes > 0 && (dirt.is_overdue || ratio.is_exceeded(dirt.cleanable_bytes, dirt.total_bytes()))
    }

    /// The offset that nothing must be cleaned beyond: that of the active segment, of the first record that may yet
    /// go (the high watermark stands for the last stable offset), or of the first segment with a young record.
    fn uncleanable_from(&self, first_dirty: Offset, wall_clock_ms: i64) -> Offset {
        let bound = self.active_base().min(self.high_watermark);
        let lag_ms = self.config.compaction.min_compaction_lag.as_millis() as i64;
        if lag_ms == 0 {
            return bound;
        }
        let is_young = |segment: &&Segment| segment.max_timestamp() > wall_clock_ms.saturating_sub(lag_ms);
        let young = self.sealed_from(first_dirty).find(is_young);
        young.map_or(bound, |segment| bound.min(segment.base_offset()))
    }

    /// `maxCompactionDelay`.
    fn is_overdue(&self, first_dirty: Offset, wall_clock_ms: i64) -> bool {
        let Ok(lag_ms) = i64::try_from(self.config.compaction.max_compaction_lag_ms) else { return false };
        let first_timestamps = self
            .sealed_from(first_dirty)
            .filter_map(|segment| segment.batches().first())
            .map(|batch| batch.max_timestamp);
        let oldest = first_timestamps.filter(|timestamp| *timestamp > 0).min();
        oldest.is_some_and(|oldest| oldest < wall_clock_ms.saturating_sub(lag_ms))
    }

    pub(in crate::log) fn active_base(&self) -> Offset {
        self.segments.last().expect("a log always has an active segment").base_offset()
    }

    /// The segments below the active one, from the one that holds `from` (`nonActiveLogSegmentsFrom`).
    fn sealed_from(&self, from: Offset) -> impl Iterator<Item = &Segment> {
        let active = self.segments.len() - 1;
        let first = self.segments.partition_point(|segment| segment.base_offset() <= from).saturating_sub(1);
        self.segments[first.min(active)..active].iter()
    }
}
