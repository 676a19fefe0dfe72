//! One partition's log (Kafka's `UnifiedLog` and `LocalLog`): appends, reads, truncation, flush.
//!
//! An I/O error leaves the log in a state that is not worth using: as in Kafka the caller gives up the whole
//! log directory, and recovery sorts it out at the next start.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::batch::{self, AppendOrigin, BatchError, HEADER_BYTES, Header, NO_TIMESTAMP};
use super::config::{LogConfig, TimestampType};
use super::epoch_cache::EpochCache;
use super::producers::{Checked, ProducerBatch, ProducerError, ProducerSlot, Producers};
use super::record::Records;
use super::retention::DeletedFile;
use super::segment::{RollParams, Segment, Stored};
use super::validate;
use crate::defect::Defect;
use crate::observe::{BatchInfo, Sequences};
use crate::protocol::{LeaderEpoch, Offset};
use crate::world::{Chain, Disk};

/// What an append did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Appended {
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// None for a duplicate of an idempotent producer: the offsets are those of the first time.
    pub batches: Vec<BatchInfo>,
    /// What the batch that a leader appends says of its producer, if that is idempotent.
    pub sequences: Option<Sequences>,
    /// Set when everything below it became durable by this append: by `flush.messages`, or because a full
    /// segment was flushed when it was rolled.
    pub flushed_to: Option<Offset>,
    /// The timestamp that the records got, where the topic says LogAppendTime.
    pub log_append_time: Option<i64>,
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Batch(#[from] super::batch::BatchError),
    /// MESSAGE_TOO_LARGE: larger than `max.message.bytes`.
    #[error("{bytes} bytes of records exceed the limit of {bytes_max}")]
    TooLarge { bytes: u64, bytes_max: u64 },
    /// RECORD_LIST_TOO_LARGE: larger than `segment.bytes`.
    #[error("{bytes} bytes of records exceed a segment's {bytes_max}")]
    BeyondSegment { bytes: u64, bytes_max: u64 },
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// A follower's leader sent something that does not continue our log.
    #[error("offset {got} does not follow log end {log_end}")]
    OutOfOrder { got: Offset, log_end: Offset },
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// OFFSET_OUT_OF_RANGE
    #[error("offset {offset} is outside [{log_start}, {log_end}]")]
    OutOfRange { offset: Offset, log_start: Offset, log_end: Offset },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What recovery did when a log was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveryReport {
    /// The log was closed in an orderly way, nothing was scanned.
    pub clean: bool,
    /// What was cut off or removed, in order.
    pub dropped: Vec<Dropped>,
    /// Every batch that the log holds now, in order.
    pub batches: Vec<BatchInfo>,
    /// A compaction whose last step a crash had interrupted was finished.
    pub finished_swap: Option<super::cleaner::Rewritten>,
}

impl RecoveryReport {
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped.iter().map(|dropped| dropped.bytes).sum()
    }
}

/// Bytes of one segment that recovery dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// Base offset of the segment.
    pub segment: Offset,
    /// The bytes from here to the end of its file.
    pub position: u64,
    pub bytes: u64,
    pub reason: DropReason,
}

/// Why recovery drops bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// No whole and valid batch begins there.
    Corrupt,
    /// An earlier segment was cut: what follows does not follow on its end.
    BehindCorruption,
    /// The segment before it has these offsets.
    Overlap,
    /// The log starts beyond its end (`deleteSegmentsIfLogStartGreaterThanLogEnd`).
    BelowLogStart,
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DropReason::Corrupt => "no valid batch begins there",
            DropReason::BehindCorruption => "the segment before it was cut",
            DropReason::Overlap => "the segment before it has these offsets",
            DropReason::BelowLogStart => "the log starts beyond its end",
        })
    }
}

/// The log of one partition. Offsets: log start <= high watermark <= log end.
pub struct Log {
    pub(super) disk: Disk,
    /// Path of the log's directory.
    pub(super) dir: String,
    pub(super) config: LogConfig,
    /// In order of their base offsets, never empty; the last one is active. The ones with content that may
    /// not be durable come last.
    pub(super) segments: Vec<Segment>,
    /// A segment file was created or removed, and the directory not synced since.
    pub(super) entries_unsynced: bool,
    pub(super) log_start: Offset,
    pub(super) log_end: Offset,
    pub(super) high_watermark: Offset,
    pub(super) recovery_point: Offset,
    /// By the wall clock: the last flush, or the first append after the log was opened.
    pub(super) flushed_ms: Option<i64>,
    pub(super) epochs: EpochCache,
    /// Files of segments that are no part of the log any more and are still on the disk.
    pub(super) deleted_files: Vec<DeletedFile>,
    pub(super) producers: Producers,
    /// The batches of the append at hand, kept to be allocated once.
    pub(super) staged: Vec<Stored>,
    /// Headers of a follower's staged batches that carry a producer id.
    pub(super) staged_producers: Vec<Header>,
}

impl Log {
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    pub fn set_config(&mut self, config: LogConfig) {
        self.config = config;
    }

    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Sets the high watermark, clamped into [log start, log end]; returns what it became.
    pub fn set_high_watermark(&mut self, offset: Offset) -> Offset {
        self.high_watermark = offset.clamp(self.log_start, self.log_end);
        self.high_watermark
    }

    pub fn epochs(&self) -> &EpochCache {
        &self.epochs
    }

    /// The epoch of the last record (`latestEpoch`), or [`LeaderEpoch::NONE`].
    pub fn latest_epoch(&self) -> LeaderEpoch {
        self.epochs.latest().unwrap_or(LeaderEpoch::NONE)
    }

    /// The producers that wrote to this log, those without ids excepted.
    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// The recovery point: everything below it was flushed.
    pub fn recovery_point(&self) -> Offset {
        self.recovery_point
    }

    /// Bytes of all segments.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::size_bytes).sum()
    }

    /// Every batch held now, for the observer.
    pub fn batches(&self) -> Vec<BatchInfo> {
        self.segments.iter().flat_map(|segment| segment.batches().iter().map(|batch| batch.info)).collect()
    }

    /// Appends a record set of the broker's or controller's own: checks its one batch with its CRC, assigns
    /// offsets, stamps `epoch`, in one write. Base offset and flags of the batch are taken as they are, so
    /// what producers send goes through [`Log::append_from_client`].
    ///
    /// The header's max timestamp is believed: Kafka computes it anew from the records.
    pub fn append_as_leader(
        &mut self,
        records: &Bytes,
        epoch: LeaderEpoch,
        wall_clock_ms: i64,
    ) -> Result<Appended, AppendError> {
        self.append_leader(records, epoch, wall_clock_ms, AppendOrigin::Internal)
    }

    /// [`Log::append_as_leader`] with the rules that Kafka has for producers only: base offset 0, no control
    /// batch, no producer id without a sequence number.
    pub fn append_from_client(
        &mut self,
        records: &Bytes,
        epoch: LeaderEpoch,
        wall_clock_ms: i64,
    ) -> Result<Appended, AppendError> {
        self.append_leader(records, epoch, wall_clock_ms, AppendOrigin::Client)
    }

    fn append_leader(
        &mut self,
        records: &Bytes,
        epoch: LeaderEpoch,
        wall_clock_ms: i64,
        origin: AppendOrigin,
    ) -> Result<Appended, AppendError> {
        check_size(records.len(), self.config.max_message_bytes)?;
        let header = batch::check_append(records, origin)?;
        if header.is_log_append_time() && self.config.message_timestamp_type == TimestampType::LogAppendTime {
            return Err(BatchError::TimestampType.into());
        }
        let rules = self.config.rules(wall_clock_ms);
        if rules.must_look_inside(&header)
            && let Some(rewritten) = validate::validate(&header, records, rules)?
        {
            check_size(rewritten.len(), self.config.max_message_bytes)?;
            let header = batch::checked(&rewritten, false)?;
            return self.append_validated(&rewritten, header, epoch, wall_clock_ms, origin);
        }
        self.append_validated(records, header, epoch, wall_clock_ms, origin)
    }

    fn append_validated(
        &mut self,
        records: &[u8],
        mut header: Header,
        epoch: LeaderEpoch,
        wall_clock_ms: i64,
        origin: AppendOrigin,
    ) -> Result<Appended, AppendError> {
        self.check_segment_size(records.len())?;
        let mut slot = None;
        if header.producer_id >= 0 && origin == AppendOrigin::Client {
            match self.producers.check(&header, self.config.defects)? {
                Checked::Next(next) => slot = Some(next),
                Checked::Duplicate(first) => return Ok(self.repeated(&first)),
            }
        }
        header.base_offset = self.log_end;
        header.leader_epoch = epoch;
        // What is stamped is copied here, and the records once, to where they are stored.
        let (front, body) = records.split_first_chunk().expect("a batch that was checked has a header");
        let mut front: [u8; HEADER_BYTES] = *front;
        let log_append_time = match self.config.message_timestamp_type {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(wall_clock_ms),
        };
        if log_append_time.is_some() || header.is_log_append_time() {
            let max_timestamp = log_append_time.unwrap_or(header.max_timestamp);
            let mut stamped = records.to_vec();
            batch::set_max_timestamp(&mut stamped, &mut header, log_append_time.is_some(), max_timestamp);
            front = *stamped.first_chunk().expect("as long as before");
        }
        batch::stamp(&mut front, header.base_offset, epoch);
        self.staged.clear();
        self.staged.push(Stored::new(&header, 0));
        self.staged_producers.clear();
        let flushed_to = self.commit([&front, body], wall_clock_ms);
        if header.producer_id >= 0 && flushed_to.is_ok() {
            self.note_producer(slot, &header);
        }
        let (base_offset, last_offset) = (header.base_offset, header.last_offset());
        Ok(Appended {
            base_offset,
            last_offset,
            batches: vec![header.info()],
            sequences: (header.producer_id >= 0).then(|| header.sequences()),
            flushed_to: flushed_to?,
            log_append_time,
        })
    }

    fn note_producer(&mut self, slot: Option<ProducerSlot>, header: &Header) {
        self.segments.last_mut().expect("a log always has an active segment").set_has_producers();
        match slot {
            Some(slot) => self.producers.note_at(slot, header),
            None => self.producers.note(header),
        }
    }

    /// The answer to a retry whose batch is in the log already.
    fn repeated(&self, first: &ProducerBatch) -> Appended {
        let log_append_time = match self.config.message_timestamp_type {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(first.timestamp),
        };
        let (base_offset, last_offset) = (first.first_offset(), first.last_offset);
        Appended { base_offset, last_offset, batches: Vec::new(), sequences: None, flushed_to: None, log_append_time }
    }

    /// Forgets producers that have been silent for `expiration_ms` (`producer.id.expiration.ms`), by the timestamps of
    /// their batches and the wall clock; returns who.
    pub fn remove_expired_producers(&mut self, wall_clock_ms: i64, expiration_ms: i64) -> Vec<i64> {
        self.producers.remove_expired(wall_clock_ms, expiration_ms)
    }

    /// Appends what the leader sent, offsets and epochs as they are. Whole batches below the log end are
    /// skipped; an incomplete last batch is ignored. Gaps between offsets are legal: compaction leaves them.
    pub fn append_as_follower(&mut self, records: &Bytes, wall_clock_ms: i64) -> Result<Appended, AppendError> {
        let (log_end, log_append_time) = (self.log_end, None);
        let range = self.stage(records)?;
        self.check_segment_size(range.len())?;
        let batches: Vec<BatchInfo> = self.staged.iter().map(|batch| batch.info).collect();
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
            let last_offset = log_end + -1;
            let base_offset = log_end;
            return Ok(Appended {
                base_offset,
                last_offset,
                batches,
                sequences: None,
                flushed_to: None,
                log_append_time,
            });
        };
        let (base_offset, last_offset) = (first.base_offset, last.last_offset);
        let flushed_to = self.commit([&records[range], &[]], wall_clock_ms)?;
        Ok(Appended { base_offset, last_offset, batches, sequences: None, flushed_to, log_append_time })
    }

    /// Checks a follower's records and stages the batches that are new; returns the bytes they take.
    fn stage(&mut self, records: &[u8]) -> Result<std::ops::Range<usize>, AppendError> {
        self.staged.clear();
        self.staged_producers.clear();
        let (mut start, mut end) = (0, 0);
        let mut next = self.log_end;
        // What is bad on the leader's disk, or became so on the way, must not spread.
        let is_trusted = || self.config.defects.has(Defect::AppendUnchecked);
        while batch::is_whole(&records[end..]) {
            let header = batch::checked_unless(&records[end..], is_trusted)?;
            if header.last_offset() < self.log_end && self.staged.is_empty() {
                start = end + header.size_bytes;
            } else if header.base_offset < next {
                return Err(AppendError::OutOfOrder { got: header.base_offset, log_end: next });
            } else {
                self.staged.push(Stored::new(&header, end - start));
                if header.producer_id >= 0 {
                    self.staged_producers.push(header);
                }
                next = header.last_offset() + 1;
            }
            end += header.size_bytes;
        }
        Ok(start..end)
    }

    /// Writes the staged batches, `data` in two parts, rolling before and flushing after it as configured; returns up to
    /// where that made the log durable. Epochs come first, as in Kafka: the checkpoint never lacks an epoch
    /// that the log has.
    fn commit(&mut self, data: [&[u8]; 2], wall_clock_ms: i64) -> Result<Option<Offset>, AppendError> {
        let (Some(first), Some(last)) = (self.staged.first(), self.staged.last()) else { return Ok(None) };
        let (first_offset, last_offset) = (first.info.base_offset, last.info.last_offset);
        let max_timestamp = self.staged.iter().map(|batch| batch.max_timestamp).max().unwrap_or(NO_TIMESTAMP);
        let params =
            RollParams { bytes: (data[0].len() + data[1].len()) as u64, last_offset, max_timestamp, wall_clock_ms };
        self.assign_staged_epochs()?;
        let mut flushed_to = None;
        let indexes = self.config.indexes();
        if self.active().should_roll(params, self.config.segment_bytes, self.config.roll_ms(), indexes) {
            flushed_to = self.roll(first_offset)?;
            self.flushed_ms = Some(wall_clock_ms);
        }
        let active = self.segments.last_mut().expect("a log always has an active segment");
        active.append(data, &self.staged, indexes, wall_clock_ms)?;
        self.log_end = last_offset + 1;
        if !self.staged_producers.is_empty() {
            active.set_has_producers();
            self.staged_producers.drain(..).for_each(|header| self.producers.note(&header));
        }
        self.flushed_ms.get_or_insert(wall_clock_ms);
        // Offsets stand for records, as in LocalLog.unflushedMessages.
        if (self.log_end - self.recovery_point) as u64 >= self.config.flush_messages {
            flushed_to = Some(self.flush()?);
            self.flushed_ms = Some(wall_clock_ms);
        }
        Ok(flushed_to)
    }

    fn assign_staged_epochs(&mut self) -> io::Result<()> {
        let mut changed = false;
        for batch in &self.staged {
            let BatchInfo { leader_epoch, base_offset, .. } = batch.info;
            changed |= leader_epoch.0 >= 0 && self.epochs.assign(leader_epoch, base_offset);
        }
        if changed { self.write_epochs() } else { Ok(()) }
    }

    /// Seals the active segment and begins another at `base_offset`. The sealed one is flushed here, and nobody waits
    /// for it: in Kafka a background thread does it (`flush-log`). Returns the new recovery point if it moved.
    pub(super) fn roll(&mut self, base_offset: Offset) -> io::Result<Option<Offset>> {
        let active = self.segments.last_mut().expect("a log always has an active segment");
        active.seal()?;
        let had_unflushed = self.recovery_point < self.log_end;
        let waited_for = self.disk.take_wait();
        let flushed_to = self.flush()?;
        self.disk.restore_wait(waited_for);
        // Aligned with the segment: whoever recovers it begins with this state (`UnifiedLog.roll`).
        self.producers.take_snapshot(&self.disk, &self.dir, base_offset)?;
        self.segments.push(Segment::create(&self.disk, &self.dir, base_offset)?);
        self.entries_unsynced = true;
        Ok(had_unflushed.then_some(flushed_to))
    }

    fn active(&self) -> &Segment {
        self.segments.last().expect("a log always has an active segment")
    }

    /// Whole batches from the one that holds `from`, ending before `up_to` (exclusive) and within
    /// `bytes_max`, except that the first batch is returned whatever its size when `at_least_one`.
    /// Empty when `from == up_to` or beyond it. Never crosses into the next segment, as in Kafka; the CRC is
    /// not checked.
    pub fn read(&self, from: Offset, up_to: Offset, bytes_max: usize, at_least_one: bool) -> Result<Chain, ReadError> {
        match self.locate(from, up_to, bytes_max, at_least_one)? {
            Some((segment, located)) if !located.is_empty() => Ok(segment.read(located)?),
            Some(_) | None => Ok(Chain::new()),
        }
    }

    /// Where a reader at `from` stands: at the end if nothing is left from there on, compacted or lost with its segment.
    /// `LocalLog.read` answers with the metadata of the end then, and a leader takes a follower's log to end there.
    pub fn reading_offset(&self, from: Offset) -> Offset {
        let last = self.segments.iter().rev().find_map(|segment| segment.batches().last());
        if last.is_some_and(|last| from <= last.info.last_offset) { from } else { self.log_end.max(from) }
    }

    /// How many bytes [`Log::read`] would yield, at least one batch. Nothing is read.
    pub fn readable_bytes(&self, from: Offset, up_to: Offset, bytes_max: usize) -> Result<u64, ReadError> {
        Ok(self.locate(from, up_to, bytes_max, true)?.map_or(0, |(_, located)| located.end - located.start))
    }

    fn locate(
        &self,
        from: Offset,
        up_to: Offset,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Option<(&Segment, Range<u64>)>, ReadError> {
        if from < self.log_start || from > self.log_end {
            return Err(ReadError::OutOfRange { offset: from, log_start: self.log_start, log_end: self.log_end });
        }
        let up_to = up_to.min(self.log_end);
        if from >= up_to {
            return Ok(None);
        }
        let after = self.segments.partition_point(|segment| segment.base_offset() <= from);
        for segment in &self.segments[after.saturating_sub(1)..] {
            if let Some(located) = segment.locate(from, up_to, bytes_max, at_least_one)? {
                return Ok(Some((segment, located)));
            }
        }
        Ok(None)
    }

    /// First record with timestamp >= `timestamp_ms`: (offset, timestamp). Looks below `up_to` only.
    pub fn offset_for_timestamp(&self, timestamp_ms: i64, up_to: Offset) -> io::Result<Option<(Offset, i64)>> {
        for segment in self.segments.iter().filter(|segment| segment.max_timestamp() >= timestamp_ms) {
            for batch in segment.batches() {
                if batch.info.base_offset >= up_to {
                    return Ok(None);
                }
                if batch.max_timestamp < timestamp_ms || batch.info.last_offset < self.log_start {
                    continue;
                }
                let found = first_record_at(&segment.read_batch(batch)?, timestamp_ms, self.log_start)?;
                if let Some((offset, _)) = found {
                    return Ok(found.filter(|_| offset < up_to));
                }
            }
        }
        Ok(None)
    }

    /// The record with the largest timestamp (ListOffsets -3, KIP-734): (offset, timestamp), the first of
    /// several.
    pub fn max_timestamp(&self) -> io::Result<Option<(Offset, i64)>> {
        let max = self.segments.iter().map(Segment::max_timestamp).max().unwrap_or(NO_TIMESTAMP);
        let of_max = self.segments.iter().find(|segment| max > NO_TIMESTAMP && segment.max_timestamp() == max);
        let Some(segment) = of_max else { return Ok(None) };
        let Some(batch) = segment.batches().iter().find(|batch| batch.max_timestamp == max) else { return Ok(None) };
        first_record_at(&segment.read_batch(batch)?, max, batch.info.base_offset)
    }

    /// Cuts the log so that its end is `to` (or the start of the batch that holds it). Epochs that begin
    /// there are forgotten even if no record goes: a leader that appended nothing leaves one behind.
    ///
    /// Whoever truncates writes the recovery-point checkpoint afterwards, as Kafka's `LogManager.truncateTo`
    /// does.
    ///
    /// What goes is gone for good when this returns. Kafka does not sync here: it counts on a journal that
    /// makes the cut durable before the next leader epoch checkpoint. Where that does not hold, a truncated
    /// tail that came back after a power loss would pass for records of the new epoch.
    pub fn truncate_to(&mut self, to: Offset) -> io::Result<()> {
        assert!(to >= Offset::ZERO, "cannot truncate to {to}");
        if to >= self.log_end {
            return self.truncate_epochs();
        }
        if to < self.segments[0].base_offset() {
            return self.truncate_fully_and_start_at(to);
        }
        let kept = self.segments.partition_point(|segment| segment.base_offset() <= to);
        self.remove_segments_from(kept)?;
        let active = self.segments.last_mut().expect("the segment that holds the offset stays");
        // Without the barrier the cut is in the page cache only: after a power loss the tail is back.
        let is_durable = !self.config.defects.has(Defect::TruncationNoFsync);
        self.log_end = active.truncate_to(to, self.config.indexes(), is_durable)?;
        self.log_start = self.log_start.min(self.log_end);
        self.high_watermark = self.high_watermark.min(self.log_end);
        self.recovery_point = self.recovery_point.min(self.log_end);
        self.entries_unsynced |= self.producers.rebuild(&self.disk, &self.dir, &self.segments, self.log_end)?;
        self.sync_entries()?;
        self.truncate_epochs()
    }

    /// Drops everything; the log starts anew at `offset`. Durable when this returns; the checkpoints are due
    /// afterwards, as for [`Log::truncate_to`].
    pub fn truncate_fully_and_start_at(&mut self, offset: Offset) -> io::Result<()> {
        assert!(offset >= Offset::ZERO, "cannot start at {offset}");
        self.remove_segments_from(0)?;
        self.producers.clear(&self.disk, &self.dir)?;
        self.segments.push(Segment::create(&self.disk, &self.dir, offset)?);
        self.entries_unsynced = true;
        self.sync_entries()?;
        self.log_start = offset;
        self.log_end = offset;
        self.high_watermark = offset;
        self.recovery_point = self.recovery_point.min(offset);
        if self.epochs.clear() { self.write_epochs() } else { Ok(()) }
    }

    /// Removes the segments from index `kept` on, the last one first and each for good before the next: a crash on the
    /// way leaves a log that ends earlier. If several removals were pending at a power loss, any of them could be
    /// undone, and the log would have a gap. Kafka renames them to `*.deleted` from the first to the last
    /// (`LocalLog.truncateTo`): a crash on the way leaves that gap, and `LogLoader` does not mind.
    fn remove_segments_from(&mut self, kept: usize) -> io::Result<()> {
        while self.segments.len() > kept {
            let segment = self.segments.pop().expect("there are more than the kept ones");
            self.entries_unsynced = true;
            segment.remove(&self.disk)?;
            self.sync_entries()?;
        }
        Ok(())
    }

    /// Makes creations and removals of segment files durable.
    pub(super) fn sync_entries(&mut self) -> io::Result<()> {
        if self.entries_unsynced {
            self.disk.sync_dir(&self.dir)?;
            self.entries_unsynced = false;
        }
        Ok(())
    }

    fn write_epochs(&self) -> io::Result<()> {
        self.epochs.write(&self.disk, &self.dir, self.config.defects)
    }

    fn truncate_epochs(&mut self) -> io::Result<()> {
        if self.epochs.truncate_from_end(self.log_end) { self.write_epochs() } else { Ok(()) }
    }

    /// Notes that leadership of `epoch` begins at the log end (`assignEpochStartOffset`).
    pub fn assign_epoch_start(&mut self, epoch: LeaderEpoch) -> io::Result<()> {
        if self.epochs.assign(epoch, self.log_end) { self.write_epochs() } else { Ok(()) }
    }

    /// fsync; returns the offset below which everything is durable now. That includes the directory entries
    /// of new segments; the entry of the log's own directory became durable when the log was created.
    pub fn flush(&mut self) -> io::Result<Offset> {
        let first_dirty = self.segments.iter().rposition(|segment| !segment.is_dirty()).map_or(0, |clean| clean + 1);
        // A disk, or a broker, that says "flushed" without having done so.
        if !self.config.defects.has(Defect::FlushNoFsync) {
            for segment in &mut self.segments[first_dirty..] {
                segment.sync()?;
            }
        }
        self.sync_entries()?;
        self.recovery_point = self.log_end;
        Ok(self.log_end)
    }

    /// Flushes if the last flush is `flush.ms` ago (`LogManager.flushDirtyLogs`); up to where the log is durable then,
    /// if there was something to flush.
    pub fn flush_if_due(&mut self, wall_clock_ms: i64) -> io::Result<Option<Offset>> {
        let flushed_ms = *self.flushed_ms.get_or_insert(wall_clock_ms);
        let since = u64::try_from(wall_clock_ms.saturating_sub(flushed_ms)).unwrap_or(0);
        if since < self.config.flush_ms || self.recovery_point == self.log_end {
            return Ok(None);
        }
        self.flushed_ms = Some(wall_clock_ms);
        self.flush().map(Some)
    }

    fn check_segment_size(&self, bytes: usize) -> Result<(), AppendError> {
        let (bytes, bytes_max) = (bytes as u64, self.config.segment_bytes);
        if bytes > bytes_max { Err(AppendError::BeyondSegment { bytes, bytes_max }) } else { Ok(()) }
    }

    /// Flush at an orderly stop: the time index gets its last entry (`LogSegment.close`).
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.segments.last_mut().expect("a log always has an active segment").seal()?;
        self.entries_unsynced |= self.producers.take_snapshot(&self.disk, &self.dir, self.log_end)?;
        self.flush().map(|_| ())
    }
}

fn check_size(bytes: usize, bytes_max: u64) -> Result<(), AppendError> {
    let bytes = bytes as u64;
    if bytes > bytes_max { Err(AppendError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
}

/// The first record of the batch at or beyond offset `from` whose timestamp is at least `timestamp_ms`.
fn first_record_at(bytes: &Bytes, timestamp_ms: i64, from: Offset) -> io::Result<Option<(Offset, i64)>> {
    let header = Header::parse(bytes).map_err(invalid_data)?;
    let mut records = Records::open(&header, bytes).map_err(invalid_data)?;
    while let Some(record) = records.next() {
        let record = record.map_err(invalid_data)?;
        let (offset, timestamp) = (header.offset_of(&record), header.timestamp_of(&record));
        if offset >= from && timestamp >= timestamp_ms {
            return Ok(Some((offset, timestamp)));
        }
    }
    Ok(None)
}

fn invalid_data(e: BatchError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}
