//! Compaction (Kafka's `Cleaner`): of the records with one key only the latest stays. Offsets, order and batch
//! boundaries stay as they are, so that a reader sees nothing but gaps.
//!
//! `dirt` says whether a log is worth cleaning and how far; here the offset map is built and segments are
//! cleaned in groups; `filter` decides about one batch; `swap` puts the result in the place of the originals,
//! so that a crash leaves either. Which log is cleaned when is the broker's business.

mod dirt;
mod filter;
mod swap;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use self::filter::Filter;
use super::batch::{self, BatchError, Header};
use super::partition_log::Log;
use super::record::Records;
use super::segment::{Segment, Stored};
use crate::defect::Defect;
use crate::observe::BatchInfo;
use crate::protocol::Offset;

pub use dirt::Dirt;
pub(super) use swap::{CLEANED_SUFFIX, finish_interrupted};

/// Keys that one cleaning can remember: `log.cleaner.dedupe.buffer.size` (128 MiB) in entries of 24 bytes, nine
/// tenths full (`log.cleaner.io.buffer.load.factor`). What does not fit waits for the next cleaning.
pub const OFFSET_MAP_KEYS: usize = (128 << 20) / 24 * 9 / 10;

/// What a cleaning did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cleaned {
    /// Everything below is clean now (`cleaner-offset-checkpoint`).
    pub end: Offset,
    pub rewritten: Rewritten,
    pub records_before: u64,
    pub records_after: u64,
    /// Tombstones that went for their age, though they were the latest of their keys.
    pub tombstones: Vec<Offset>,
}

/// The part of a log that was replaced by a compacted copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewritten {
    /// Base offset of the first segment replaced.
    pub from: Offset,
    /// Where the last one ends.
    pub to: Offset,
    /// Every batch between them now.
    pub batches: Vec<BatchInfo>,
}

/// Why a log cannot be cleaned.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// Kafka marks the partition uncleanable and leaves it alone until the next start.
    #[error("the batch at offset {at} cannot be read: {error}")]
    Corrupt { at: Offset, error: BatchError },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Offsets of the latest record of each key (`OffsetMap`). Kafka keeps hashes of the keys, here they are kept whole.
#[derive(Default)]
struct OffsetMap {
    latest_of: FxHashMap<Vec<u8>, Offset>,
    /// Everything up to here is in the map.
    latest: Option<Offset>,
}

impl Log {
    /// Compacts the log up to `dirt.first_uncleanable`, or as far as `keys_max` keys go (`Cleaner.doClean`).
    /// `wall_clock_ms` sets and judges delete horizons. What it returns is durable.
    ///
    /// As in Kafka CRCs are not checked: damage within a sealed segment gets a valid CRC when its batch is rewritten.
    pub fn clean(&mut self, dirt: &Dirt, wall_clock_ms: i64, keys_max: usize) -> Result<Cleaned, CleanError> {
        let map = self.build_offset_map(dirt, keys_max)?;
        let end = map.latest.map_or(dirt.first_dirty, |latest| latest + 1);
        let mut filter = Filter {
            map,
            wall_clock_ms,
            delete_retention_ms: self.config.compaction.delete_retention.as_millis() as i64,
            horizon_by_mtime: self.horizon_by_mtime(dirt.first_dirty, wall_clock_ms),
            modified_ms: wall_clock_ms,
            round_end: dirt.first_uncleanable,
            // Of a producer that is still known the last sequence is needed.
            last_batch_of_producer: self.producers.last_offsets(),
            records_before: 0,
            records_after: 0,
            tombstones: Vec::new(),
        };
        let mut at = 0;
        for group in self.group_segments(end, dirt.first_uncleanable) {
            let cleaned = self.clean_segments(at..at + group, &mut filter)?;
            self.replace_segments(at..at + group, cleaned)?;
            at += 1;
        }
        let rewritten = self.rewritten(at);
        let Filter { records_before, records_after, tombstones, .. } = filter;
        Ok(Cleaned { end, rewritten, records_before, records_after, tombstones })
    }

    /// With [`Defect::DeleteHorizonByMtime`]: tombstones in segments that were modified no later than this go
    /// (`legacyDeleteHorizonMs`, which Kafka keeps for batches older than v2).
    fn horizon_by_mtime(&self, first_dirty: Offset, wall_clock_ms: i64) -> Option<i64> {
        if !self.config.defects.has(Defect::DeleteHorizonByMtime) {
            return None;
        }
        let retention_ms = self.config.compaction.delete_retention.as_millis() as i64;
        let clean = self.segments.iter().take_while(|segment| segment.base_offset() < first_dirty).last();
        Some(clean.map_or(0, |segment| segment.modified_ms(wall_clock_ms).saturating_sub(retention_ms)))
    }

    /// The first `count` segments, as they are now.
    fn rewritten(&self, count: usize) -> Rewritten {
        let segments = &self.segments[..count];
        let batches = segments.iter().flat_map(|segment| segment.batches().iter().map(|batch| batch.info)).collect();
        let to = self.segments.get(count).map_or(self.log_end, Segment::base_offset);
        Rewritten { from: self.segments[0].base_offset(), to, batches }
    }

    /// Latest offset of each key in the dirty part (`Cleaner.buildOffsetMap`). Stops when the map is full.
    fn build_offset_map(&self, dirt: &Dirt, keys_max: usize) -> Result<OffsetMap, CleanError> {
        let mut map = OffsetMap::default();
        for (index, segment) in self.segments_between(dirt.first_dirty, dirt.first_uncleanable) {
            for stored in segment.batches().iter().filter(|stored| stored.info.last_offset >= dirt.first_dirty) {
                let (header, bytes) = read(segment, stored)?;
                let is_mapped = header.is_control() || map.put_batch(&header, &bytes, dirt.first_dirty, keys_max)?;
                if !is_mapped {
                    return Ok(map);
                }
                map.latest = Some(header.last_offset());
            }
            // Offsets at the end of the segment may have been compacted away before.
            let next = self.segments.get(index + 1).map_or(self.log_end, Segment::base_offset);
            map.latest = Some(next.min(dirt.first_uncleanable) + -1);
        }
        Ok(map)
    }

    /// Segments with offsets in [from, to), and their indexes (`LogSegments.values`).
    fn segments_between(&self, from: Offset, to: Offset) -> impl Iterator<Item = (usize, &Segment)> {
        let first = self.segments.partition_point(|segment| segment.base_offset() <= from).saturating_sub(1);
        let indexed = self.segments.iter().enumerate().skip(first);
        indexed.take_while(move |(_, segment)| segment.base_offset() < to)
    }

    /// How many of the segments below `end` are cleaned into one, each time (`groupSegmentsBySize`).
    fn group_segments(&self, end: Offset, first_uncleanable: Offset) -> Vec<usize> {
        let count = self.segments.partition_point(|segment| segment.base_offset() < end);
        let (mut groups, mut at) = (Vec::new(), 0);
        while at < count {
            let first = &self.segments[at];
            let (mut log_bytes, mut index_bytes) = (first.size_bytes(), first.index_bytes());
            let mut length = 1;
            while let Some(next) = self.segments[..count].get(at + length) {
                log_bytes += next.size_bytes();
                index_bytes += next.index_bytes();
                let after = self.segments[..count].get(at + length + 1);
                let last_offset = after.map_or(first_uncleanable, Segment::base_offset) + -1;
                let fits = log_bytes <= self.config.segment_bytes
                    && index_bytes <= self.config.segment_index_bytes
                    && (next.size_bytes() == 0 || last_offset - first.base_offset() <= i64::from(i32::MAX));
                if !fits {
                    break;
                }
                length += 1;
            }
            groups.push(length);
            at += length;
        }
        groups
    }

    /// Cleans a group of segments into a new one, durable under another name (`cleanSegments`).
    fn clean_segments(&self, group: Range<usize>, filter: &mut Filter) -> Result<Segment, CleanError> {
        let group = &self.segments[group];
        let base_offset = group[0].base_offset();
        let mut cleaned = Segment::create_cleaned(&self.disk, &self.dir, base_offset)?;
        for segment in group {
            filter.modified_ms = segment.modified_ms(filter.wall_clock_ms);
            for stored in segment.batches() {
                let (header, bytes) = read(segment, stored)?;
                let kept = filter.filter(&header, &bytes);
                let kept = match kept {
                    Ok(kept) => kept,
                    Err(error) => {
                        cleaned.remove_cleaned(&self.disk)?;
                        return Err(CleanError::Corrupt { at: header.base_offset, error });
                    }
                };
                if let Some(kept) = kept {
                    let header = Header::parse(&kept).expect("a batch that was kept or has just been encoded");
                    cleaned.append(
                        [&kept, &[]],
                        &[Stored::new(&header, 0)],
                        self.config.indexes(),
                        filter.wall_clock_ms,
                    )?;
                }
            }
        }
        cleaned.inherit_age(&group[group.len() - 1]);
        cleaned.seal()?;
        cleaned.sync()?;
        Ok(cleaned)
    }
}

fn read(segment: &Segment, stored: &Stored) -> Result<(Header, Bytes), CleanError> {
    let bytes = segment.read_batch(stored)?;
    let header =
        batch::checked(&bytes, false).map_err(|error| CleanError::Corrupt { at: stored.info.base_offset, error })?;
    Ok((header, bytes))
}

impl OffsetMap {
    /// Notes a batch's keys from offset `from` on; false once there is no room for another.
    fn put_batch(&mut self, header: &Header, batch: &Bytes, from: Offset, keys_max: usize) -> Result<bool, CleanError> {
        let corrupt = |error| CleanError::Corrupt { at: header.base_offset, error };
        let mut records = Records::open(header, batch).map_err(corrupt)?;
        while let Some(record) = records.next() {
            let record = record.map_err(corrupt)?;
            let offset = header.offset_of(&record);
            let Some(key) = record.key.filter(|_| offset >= from) else { continue };
            if self.latest_of.len() >= keys_max {
                return Ok(false);
            }
            let key = &records.bytes()[key];
            match self.latest_of.get_mut(key) {
                Some(latest) => *latest = offset,
                None => drop(self.latest_of.insert(key.to_vec(), offset)),
            }
        }
        Ok(true)
    }
}
