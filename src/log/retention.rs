//! What leaves a log at its beginning: retention by size and time, the log start offset, and the files of deleted
//! segments (`UnifiedLog.deleteOldSegments`, `maybeIncrementLogStartOffset`).

use std::io;
use std::time::Duration;

use super::partition_log::Log;
use super::segment::Segment;
use crate::defect::Defect;
use crate::observe::LogStartReason;
use crate::protocol::Offset;
use crate::world::Time;

/// The log start offset went from here to there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogStartMove {
    pub from: Offset,
    pub to: Offset,
    pub reason: LogStartReason,
}

/// A file that was renamed to `*.deleted`, and when it goes.
#[derive(Debug)]
pub struct DeletedFile {
    path: String,
    due: Time,
}

impl Log {
    /// Moves the log start offset up to `offset`, or as far as the high watermark; what lies below it is not served any
    /// more. Segments that end below it go with the next [`Log::delete_old_segments`]. The checkpoint follows in time
    /// (`log.flush.start.offset.checkpoint.interval.ms`): until then a crash brings the old one back, as in Kafka.
    pub fn increment_log_start(&mut self, offset: Offset, reason: LogStartReason) -> io::Result<Option<LogStartMove>> {
        let (from, to) = (self.log_start, offset.min(self.high_watermark));
        if to <= from {
            return Ok(None);
        }
        self.log_start = to;
        if self.producers.any_below(to) && self.config.defects.has(Defect::ProducerStateDropsWithRecords) {
            self.producers.remove_below(to);
        }
        if self.epochs.truncate_from_start(to) {
            self.epochs.write(&self.disk, &self.dir, self.config.defects)?;
        }
        Ok(Some(LogStartMove { from, to, reason }))
    }

    /// Deletes the oldest segments that lie below the log start offset, beyond `retention.bytes`, or whose largest
    /// timestamp is older than `retention.ms`; never one that reaches the high watermark. Returns how the log start
    /// moved. The files are renamed, and removed by [`Log::remove_deleted_files`] when `file.delete.delay.ms` is over.
    pub fn delete_old_segments(&mut self, now: Time, wall_clock_ms: i64) -> io::Result<Vec<LogStartMove>> {
        let mut moves = Vec::new();
        let below_start = self.count_below_log_start();
        moves.extend(self.delete_segments(below_start, now, LogStartReason::RetentionSize)?);
        if !self.config.cleanup_policy.deletes() {
            return Ok(moves);
        }
        let beyond_size = self.count_beyond_size();
        moves.extend(self.delete_segments(beyond_size, now, LogStartReason::RetentionSize)?);
        let too_old = self.count_too_old(wall_clock_ms);
        moves.extend(self.delete_segments(too_old, now, LogStartReason::RetentionTime)?);
        Ok(moves)
    }

    fn count_below_log_start(&self) -> usize {
        let next = self.segments.iter().skip(1);
        next.take_while(|segment| segment.base_offset() <= self.log_start).count()
    }

    /// `deleteRetentionSizeBreachedSegments`: what remains is at least `retention.bytes` large.
    fn count_beyond_size(&self) -> usize {
        let Ok(retention_bytes) = u64::try_from(self.config.retention_bytes) else { return 0 };
        let mut excess = self.size_bytes().saturating_sub(retention_bytes);
        let mut count = 0;
        while count < self.deletable() && self.segments[count].size_bytes() <= excess {
            excess -= self.segments[count].size_bytes();
            count += 1;
        }
        count
    }

    /// `deleteRetentionMsBreachedSegments`.
    fn count_too_old(&mut self, wall_clock_ms: i64) -> usize {
        let Ok(retention_ms) = u64::try_from(self.config.retention_ms) else { return 0 };
        let mut count = 0;
        while count < self.deletable() {
            let age = wall_clock_ms.saturating_sub(self.segments[count].largest_timestamp(wall_clock_ms));
            if u64::try_from(age).is_ok_and(|age| age > retention_ms) {
                count += 1;
            } else {
                break;
            }
        }
        count
    }

    /// How many of the oldest segments may go at all: those that end at or below the high watermark, an empty active
    /// one excepted.
    fn deletable(&self) -> usize {
        let ends = self.segments.iter().skip(1).map(Segment::base_offset).chain([self.log_end]);
        let below = ends.take_while(|end| *end <= self.high_watermark).count();
        let keeps_active = self.segments.last().is_some_and(|active| active.size_bytes() == 0);
        below.min(self.segments.len() - usize::from(keeps_active))
    }

    /// Deletes the oldest `count` segments; a log that would have none left is rolled first.
    fn delete_segments(&mut self, count: usize, now: Time, reason: LogStartReason) -> io::Result<Option<LogStartMove>> {
        if count == 0 {
            return Ok(None);
        }
        if count == self.segments.len() {
            self.roll(self.log_end)?;
        }
        let moved = self.increment_log_start(self.segments[count].base_offset(), reason)?;
        let due = now + Duration::from_millis(self.config.file_delete_delay_ms);
        for segment in self.segments.drain(..count) {
            let paths = segment.mark_deleted(&self.disk)?;
            self.deleted_files.extend(paths.into_iter().map(|path| DeletedFile { path, due }));
            // For good before the next: a power loss that brought back an older one alone would leave a gap.
            self.disk.sync_dir(&self.dir)?;
        }
        self.producers.remove_snapshots(&self.disk, &self.dir, self.segments[0].base_offset())?;
        self.entries_unsynced = true;
        Ok(moved)
    }

    /// Removes the files of deleted segments whose time has come. Returns when the next ones are due.
    pub fn remove_deleted_files(&mut self, now: Time) -> io::Result<Option<Time>> {
        while let Some(index) = self.deleted_files.iter().position(|file| file.due <= now) {
            let file = self.deleted_files.swap_remove(index);
            match self.disk.remove_file(&file.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(self.deleted_files.iter().map(|file| file.due).min())
    }
}
