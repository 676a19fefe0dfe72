//! The offset index and the time index of one segment (Kafka's `OffsetIndex` and `TimeIndex`), written in Kafka's format.
//! Where Kafka maps them into memory these are explicit appends, never padded with zeros.
//!
//! Lookups use the segment's list of batches; the files are for whoever reads the directory, and what a load finds in
//! them tells whether they can be kept.

use std::io;

use bytes::Bytes;

use super::batch::NO_TIMESTAMP;
use super::segment::Stored;
use crate::protocol::Offset;
use crate::world::{Disk, File};

/// Offset index entry: relative offset u32, position u32.
const ENTRY_BYTES: u64 = 8;
/// Time index entry: timestamp i64, relative offset u32.
const TIME_ENTRY_BYTES: u64 = 12;

/// How large the indexes are and how dense (`segment.index.bytes`, `index.interval.bytes`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexConfig {
    /// `segment.index.bytes`: an index that reaches it makes the segment roll.
    pub bytes_max: u64,
    /// `index.interval.bytes`: about one entry for so many bytes of log.
    pub interval_bytes: u64,
}

impl Default for IndexConfig {
    fn default() -> Self {
        IndexConfig { bytes_max: 10 << 20, interval_bytes: 4096 }
    }
}

/// A timestamp and the last offset of the first batch that carries it (`TimestampOffset`,
/// `shallowOffsetOfMaxTimestamp`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimestampOffset {
    pub timestamp: i64,
    pub offset: Offset,
}

impl TimestampOffset {
    /// Of a segment without any (`TimestampOffset.UNKNOWN`).
    pub fn none(base_offset: Offset) -> TimestampOffset {
        TimestampOffset { timestamp: NO_TIMESTAMP, offset: base_offset }
    }

    /// Takes over a batch's if it is larger.
    pub fn note(&mut self, batch: &Stored) {
        if batch.max_timestamp > self.timestamp {
            *self = TimestampOffset { timestamp: batch.max_timestamp, offset: batch.info.last_offset };
        }
    }
}

/// Both index files of a segment.
pub struct Indexes {
    base_offset: Offset,
    offsets: File,
    times: File,
    /// Bytes in each file.
    offsets_bytes: u64,
    times_bytes: u64,
    /// Timestamp in the last entry of the time index.
    last_timestamp: i64,
    bytes_since_entry: u64,
    is_dirty: bool,
}

impl Indexes {
    /// Empty ones; `path` is the segment's, without extension, `suffix` comes behind that.
    pub fn create(disk: &Disk, path: &str, suffix: &str, base_offset: Offset) -> io::Result<Indexes> {
        let create = |extension| disk.create(&format!("{path}.{extension}{suffix}"));
        let (offsets, times) = (create("index")?, create("timeindex")?);
        Ok(Indexes::new(base_offset, offsets, times))
    }

    /// Opens both files; a missing one is created empty.
    pub fn open(disk: &Disk, path: &str, base_offset: Offset) -> io::Result<Indexes> {
        let offsets = open_or_create(disk, &format!("{path}.index"))?;
        let times = open_or_create(disk, &format!("{path}.timeindex"))?;
        Ok(Indexes::new(base_offset, offsets, times))
    }

    fn new(base_offset: Offset, offsets: File, times: File) -> Indexes {
        Indexes {
            base_offset,
            offsets_bytes: offsets.len(),
            times_bytes: times.len(),
            offsets,
            times,
            last_timestamp: NO_TIMESTAMP,
            bytes_since_entry: 0,
            is_dirty: true,
        }
    }

    /// Bytes of the larger one.
    pub fn bytes(&self) -> u64 {
        self.offsets_bytes.max(self.times_bytes)
    }

    pub fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    pub fn set_durable(&mut self) {
        self.is_dirty = false;
    }

    /// `AbstractIndex.isFull`; the time index keeps one entry free for when the segment is sealed.
    pub fn is_full(&self, config: IndexConfig) -> bool {
        self.offsets_bytes / ENTRY_BYTES >= config.bytes_max / ENTRY_BYTES
            || self.times_bytes / TIME_ENTRY_BYTES + 1 >= config.bytes_max / TIME_ENTRY_BYTES
    }

    /// Notes an append of `bytes` at `position`, which ends with `last_offset`; an entry if one is due
    /// (`LogSegment.append`).
    pub fn append(
        &mut self,
        config: IndexConfig,
        position: u64,
        bytes: u64,
        last_offset: Offset,
        max: TimestampOffset,
    ) -> io::Result<()> {
        if self.bytes_since_entry > config.interval_bytes {
            self.is_dirty = true;
            self.offsets.append(&entry(last_offset - self.base_offset, position))?;
            self.offsets_bytes += ENTRY_BYTES;
            self.append_time(max)?;
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += bytes;
        Ok(())
    }

    /// `TimeIndex.maybeAppend`. Also called when the segment is sealed or closed: whoever trusts the file goes by its
    /// last entry.
    pub fn append_time(&mut self, max: TimestampOffset) -> io::Result<()> {
        if max.timestamp > self.last_timestamp {
            self.is_dirty = true;
            self.times.append(&time_entry(max.timestamp, max.offset - self.base_offset))?;
            self.times_bytes += TIME_ENTRY_BYTES;
            self.last_timestamp = max.timestamp;
        }
        Ok(())
    }

    pub fn sync(&mut self) -> io::Result<()> {
        if self.is_dirty {
            self.offsets.sync()?;
            self.times.sync()?;
            self.is_dirty = false;
        }
        Ok(())
    }

    /// The `sanityCheck` of both indexes, and that their last entries lie within the segment: `end` is its next offset,
    /// `size_bytes` the size of its log file, `max` the largest timestamp of its batches.
    pub fn are_sane(&self, end: Offset, size_bytes: u64, max: TimestampOffset) -> io::Result<bool> {
        if !self.offsets_bytes.is_multiple_of(ENTRY_BYTES) || !self.times_bytes.is_multiple_of(TIME_ENTRY_BYTES) {
            return Ok(false);
        }
        let length = end - self.base_offset;
        if self.offsets_bytes > 0 {
            let last = self.offsets.read_at(self.offsets_bytes - ENTRY_BYTES, ENTRY_BYTES as usize)?;
            let (offset, position) = (be_u32(&last, 0), be_u32(&last, 4));
            if i64::from(offset) >= length || u64::from(position) >= size_bytes {
                return Ok(false);
            }
        }
        Ok(match self.last_time()? {
            Some(last) => last.timestamp <= max.timestamp && last.offset - self.base_offset < length,
            None => max.timestamp == NO_TIMESTAMP || self.offsets_bytes == 0,
        })
    }

    /// The last entry of the time index (`TimeIndex.lastEntry`).
    pub fn last_time(&self) -> io::Result<Option<TimestampOffset>> {
        let Some(at) = self.times_bytes.checked_sub(TIME_ENTRY_BYTES) else { return Ok(None) };
        let last = self.times.read_at(at, TIME_ENTRY_BYTES as usize)?;
        let Some(timestamp) = last.first_chunk() else { return Ok(None) };
        let offset = self.base_offset + i64::from(be_u32(&last, 8));
        Ok(Some(TimestampOffset { timestamp: i64::from_be_bytes(*timestamp), offset }))
    }

    /// Goes on after the last entries that are there. Returns that of the time index.
    pub fn keep(&mut self) -> io::Result<Option<TimestampOffset>> {
        let last = self.last_time()?;
        self.last_timestamp = last.map_or(NO_TIMESTAMP, |last| last.timestamp);
        Ok(last)
    }

    /// Writes both files anew from the segment's batches (`LogSegment.recover`); the log file has `size_bytes`.
    pub fn rebuild(&mut self, config: IndexConfig, batches: &[Stored], size_bytes: u64) -> io::Result<()> {
        let (mut offsets, mut times) = (Vec::new(), Vec::new());
        let mut max = TimestampOffset::none(self.base_offset);
        self.last_timestamp = NO_TIMESTAMP;
        let mut last_indexed = 0;
        for batch in batches {
            max.note(batch);
            let position = u64::from(batch.position);
            if position - last_indexed > config.interval_bytes {
                offsets.extend(entry(batch.info.last_offset - self.base_offset, position));
                if max.timestamp > self.last_timestamp {
                    times.extend(time_entry(max.timestamp, max.offset - self.base_offset));
                    self.last_timestamp = max.timestamp;
                }
                last_indexed = position;
            }
        }
        self.bytes_since_entry = size_bytes - last_indexed;
        self.is_dirty = true;
        rewrite(&mut self.offsets, &offsets)?;
        rewrite(&mut self.times, &times)?;
        (self.offsets_bytes, self.times_bytes) = (offsets.len() as u64, times.len() as u64);
        self.append_time(max)
    }
}

fn open_or_create(disk: &Disk, path: &str) -> io::Result<File> {
    match disk.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => disk.create(path),
        opened => opened,
    }
}

fn rewrite(file: &mut File, content: &[u8]) -> io::Result<()> {
    file.truncate(0)?;
    if !content.is_empty() {
        file.append(content)?;
    }
    Ok(())
}

fn entry(relative_offset: i64, position: u64) -> [u8; ENTRY_BYTES as usize] {
    let mut entry = [0; ENTRY_BYTES as usize];
    entry[..4].copy_from_slice(&(relative_offset as u32).to_be_bytes());
    entry[4..].copy_from_slice(&(position as u32).to_be_bytes());
    entry
}

fn time_entry(timestamp: i64, relative_offset: i64) -> [u8; TIME_ENTRY_BYTES as usize] {
    let mut entry = [0; TIME_ENTRY_BYTES as usize];
    entry[..8].copy_from_slice(&timestamp.to_be_bytes());
    entry[8..].copy_from_slice(&(relative_offset as u32).to_be_bytes());
    entry
}

fn be_u32(bytes: &Bytes, at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_be_bytes(*chunk))
}
