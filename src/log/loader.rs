//! Loading a log from its directory, with recovery after an unclean stop (Kafka's `LogLoader`).
//!
//! After an orderly stop the segments are trusted and only their headers are listed. Otherwise every segment
//! from the one that holds the recovery point on is checked batch by batch; the log is cut at the first bad
//! one, and the segments behind it are removed. Segments below are trusted.

use std::io;

use super::cleaner;
use super::config::LogConfig;
use super::epoch_cache::EpochCache;
use super::partition_log::{DropReason, Dropped, Log, RecoveryReport};
use super::producers::Producers;
use super::segment::{self, DELETED_SUFFIX, Segment};
use crate::defect::{Defect, Defects};
use crate::protocol::Offset;
use crate::world::Disk;

/// What the log directory's checkpoints say of one log.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoints {
    /// The log directory was closed in an orderly way.
    pub is_clean: bool,
    pub recovery_point: Offset,
    pub log_start: Offset,
    pub high_watermark: Offset,
}

impl Checkpoints {
    /// Of a log that is new.
    pub const NONE: Checkpoints = Checkpoints {
        is_clean: false,
        recovery_point: Offset::ZERO,
        log_start: Offset::ZERO,
        high_watermark: Offset::ZERO,
    };
}

impl Log {
    /// Loads the log in directory `dir`, which exists; an empty one becomes an empty log.
    pub(super) fn open(
        disk: Disk,
        dir: String,
        config: LogConfig,
        checkpoints: Checkpoints,
    ) -> io::Result<(Log, RecoveryReport)> {
        let finished_swap = cleaner::finish_interrupted(&disk, &dir)?;
        let epochs = EpochCache::read(&disk, &dir)?;
        let (segments, dropped, defects) = (Vec::new(), Vec::new(), config.defects);
        let mut loader = Loader { disk, dir, config, checkpoints, defects, epochs, segments, dropped };
        loader.load_segments()?;
        let is_new = loader.ensure_active_segment()?;
        let (log, report) = loader.into_log(is_new)?;
        Ok((log, RecoveryReport { finished_swap, ..report }))
    }
}

struct Loader {
    disk: Disk,
    dir: String,
    config: LogConfig,
    checkpoints: Checkpoints,
    defects: Defects,
    epochs: EpochCache,
    segments: Vec<Segment>,
    dropped: Vec<Dropped>,
}

impl Loader {
    fn load_segments(&mut self) -> io::Result<()> {
        let base_offsets = self.find_segments()?;
        let first_unflushed = self.first_unflushed(&base_offsets);
        for (at, &base_offset) in base_offsets.iter().enumerate() {
            let later = &base_offsets[at + 1..];
            if base_offset < self.log_end() {
                // A file that was removed and came back: the segments before it have these offsets.
                return self.remove(&base_offsets[at..], DropReason::Overlap);
            }
            let is_suspect = at >= first_unflushed;
            if !self.load_segment(base_offset, is_suspect, later)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Base offsets of the `.log` files, in order. Removes index files that have lost theirs, and what was to be
    /// deleted when the broker stopped.
    fn find_segments(&self) -> io::Result<Vec<Offset>> {
        let names = self.disk.read_dir(&self.dir)?;
        let mut base_offsets: Vec<Offset> = names.iter().filter_map(|name| segment::base_offset(name, "log")).collect();
        base_offsets.sort();
        for name in &names {
            let of_index = segment::base_offset(name, "index").or_else(|| segment::base_offset(name, "timeindex"));
            let is_orphan = of_index.is_some_and(|base_offset| base_offsets.binary_search(&base_offset).is_err());
            if is_orphan || name.ends_with(DELETED_SUFFIX) {
                self.disk.remove_file(&format!("{}/{name}", self.dir))?;
            }
        }
        Ok(base_offsets)
    }

    /// Index of the segment that holds the recovery point; segments from there on need recovery.
    fn first_unflushed(&self, base_offsets: &[Offset]) -> usize {
        if self.checkpoints.is_clean {
            return base_offsets.len();
        }
        base_offsets.partition_point(|&base_offset| base_offset <= self.checkpoints.recovery_point).saturating_sub(1)
    }

    /// Loads one segment; false when it had to be cut and the ones after it removed.
    fn load_segment(&mut self, base_offset: Offset, is_suspect: bool, later: &[Offset]) -> io::Result<bool> {
        let mut segment = Segment::open(&self.disk, &self.dir, base_offset)?;
        // A batch whose header is whole may be torn all the same.
        let checks_crc = is_suspect && !self.defects.has(Defect::KeepTornTail);
        let invalid_bytes = segment.scan(checks_crc)?;
        let is_cut = invalid_bytes > 0 && (is_suspect || later.is_empty());
        if is_cut {
            // The later segments go first, and for good: if they came back they would follow on the cut.
            self.remove(later, DropReason::BehindCorruption)?;
            segment.cut_tail()?;
            let (position, bytes) = (segment.size_bytes(), invalid_bytes);
            self.dropped.push(Dropped { segment: base_offset, position, bytes, reason: DropReason::Corrupt });
        } else if invalid_bytes > 0 {
            segment.set_broken();
        }
        if is_suspect {
            self.assign_missing_epochs(&segment);
        }
        self.settle_indexes(&mut segment, is_suspect || is_cut)?;
        self.segments.push(segment);
        Ok(!is_cut)
    }

    /// Rebuilds the indexes of a segment that is not trusted, or whose indexes contradict its batches. Whatever the
    /// time index says, the segment's largest timestamp is that of its batches: retention that went by a time index
    /// with a bad tail deleted whole segments (KAFKA-10207).
    fn settle_indexes(&self, segment: &mut Segment, is_suspect: bool) -> io::Result<()> {
        if is_suspect {
            return segment.rebuild_indexes(self.config.indexes());
        }
        let trusts = || self.defects.has(Defect::TrustTimeindexTail);
        if !segment.indexes_are_sane()? && !trusts() {
            segment.rebuild_indexes(self.config.indexes())?;
            return segment.sync();
        }
        if !segment.keep_indexes()? && trusts() {
            segment.trust_time_index()?;
        }
        segment.set_durable();
        Ok(())
    }

    /// Epochs above the latest known one, as in `LogSegment.recover`.
    fn assign_missing_epochs(&mut self, segment: &Segment) {
        for batch in segment.batches() {
            let epoch = batch.info.leader_epoch;
            if epoch.0 >= 0 && self.epochs.latest().is_none_or(|latest| epoch > latest) {
                self.epochs.assign(epoch, batch.info.base_offset);
            }
        }
    }

    /// Removes segments, the last one first and each for good before the next: see `Log::remove_segments_from`.
    fn remove(&mut self, base_offsets: &[Offset], reason: DropReason) -> io::Result<()> {
        for &base_offset in base_offsets.iter().rev() {
            let bytes = self.disk.open(&segment::log_path(&self.dir, base_offset))?.len();
            self.dropped.push(Dropped { segment: base_offset, position: 0, bytes, reason });
            segment::remove(&self.disk, &self.dir, base_offset)?;
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(())
    }

    fn log_end(&self) -> Offset {
        self.segments.last().map_or(Offset::ZERO, Segment::next_offset)
    }

    /// Creates a segment at the log start if there is none, or none that reaches it
    /// (`deleteSegmentsIfLogStartGreaterThanLogEnd`); true if it did. One that does not begin at 0 is there for good.
    fn ensure_active_segment(&mut self) -> io::Result<bool> {
        let log_start = self.checkpoints.log_start;
        if !self.segments.is_empty() && self.log_end() >= log_start {
            return Ok(false);
        }
        if !self.segments.is_empty() {
            let base_offsets: Vec<Offset> = self.segments.iter().map(Segment::base_offset).collect();
            self.segments.clear();
            self.remove(&base_offsets, DropReason::BelowLogStart)?;
            self.epochs.clear();
        }
        self.segments.push(Segment::create(&self.disk, &self.dir, log_start)?);
        if log_start > Offset::ZERO {
            // The next log-start checkpoint leaves out a log that begins with its first file, whose entry must last then.
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(true)
    }

    fn into_log(mut self, is_new: bool) -> io::Result<(Log, RecoveryReport)> {
        let log_end = self.log_end();
        let log_start = self.checkpoints.log_start.max(self.segments[0].base_offset());
        self.restore_epochs(log_end)?;
        let Checkpoints { is_clean, recovery_point, high_watermark, log_start: _ } = self.checkpoints;
        let is_flushed = is_clean && !is_new && self.dropped.is_empty();
        self.dropped.sort_by_key(|dropped| dropped.segment);
        let producers = Producers::load(&self.disk, &self.dir, &self.segments, log_end)?;
        let mut log = Log {
            disk: self.disk,
            dir: self.dir,
            config: self.config,
            segments: self.segments,
            entries_unsynced: !is_flushed,
            log_start,
            log_end,
            high_watermark: log_start,
            // Not moved forward without a flush: recovery would then trust what may be lost.
            recovery_point: if is_flushed { log_end } else { recovery_point.min(log_end) },
            flushed_ms: None,
            epochs: self.epochs,
            deleted_files: Vec::new(),
            producers,
            staged: Vec::new(),
            staged_producers: Vec::new(),
        };
        log.set_high_watermark(high_watermark);
        let report =
            RecoveryReport { clean: is_clean, dropped: self.dropped, batches: log.batches(), finished_swap: None };
        Ok((log, report))
    }

    /// Entries beyond either end go; what recovery changed is written down.
    fn restore_epochs(&mut self, log_end: Offset) -> io::Result<()> {
        self.epochs.truncate_from_end(log_end);
        self.epochs.truncate_from_start(self.checkpoints.log_start);
        if self.epochs != EpochCache::read(&self.disk, &self.dir)? {
            self.epochs.write(&self.disk, &self.dir, self.defects)?;
        }
        Ok(())
    }
}
