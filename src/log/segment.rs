//! One segment of a log (Kafka's `LogSegment`): the `.log` file, its two index files, and the list of its
//! batches in memory.
//!
//! Reads, truncation and lookups by time use the list; the index files are written in Kafka's format for
//! whoever reads the directory, and never read back except to see whether they need rebuilding.

use std::io;

use bytes::Bytes;

use super::batch::{self, HEADER_BYTES, Header, NO_TIMESTAMP};
use crate::observe::BatchInfo;
use crate::protocol::Offset;
use crate::world::{Disk, File};

/// `index.interval.bytes`, Kafka's default.
const INDEX_INTERVAL_BYTES: u64 = 4096;
/// Offset index entry: relative offset u32, position u32.
const INDEX_ENTRY_BYTES: u64 = 8;
/// Time index entry: timestamp i64, relative offset u32.
const TIME_INDEX_ENTRY_BYTES: u64 = 12;
/// Offsets in the indexes are relative and Java integers, and so are positions.
const RELATIVE_MAX: i64 = i32::MAX as i64;
/// How much of a file is read at once while it is scanned: large enough to be sequential on a real disk.
const SCAN_BYTES: usize = 1 << 20;

/// One batch in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    pub info: BatchInfo,
    pub max_timestamp: i64,
    /// Within the segment; while staged for an append: within the append.
    pub position: u32,
    pub size_bytes: u32,
}

impl Stored {
    pub fn new(header: &Header, position: usize) -> Stored {
        Stored {
            info: header.info(),
            max_timestamp: header.max_timestamp,
            position: position as u32,
            size_bytes: header.size_bytes as u32,
        }
    }

    fn end(&self) -> u64 {
        u64::from(self.position) + u64::from(self.size_bytes)
    }
}

/// The largest timestamp of a segment and the last offset of the first batch that carries it
/// (`shallowOffsetOfMaxTimestamp`).
#[derive(Clone, Copy)]
struct MaxTimestamp {
    timestamp: i64,
    offset: Offset,
}

pub struct Segment {
    /// Path without extension.
    path: String,
    base_offset: Offset,
    log: File,
    index: File,
    time_index: File,
    batches: Vec<Stored>,
    size_bytes: u64,
    max_timestamp: MaxTimestamp,
    bytes_since_index_entry: u64,
    time_index_last: i64,
    /// Content that may not survive a power loss: of the log file, of the index files.
    log_dirty: bool,
    index_dirty: bool,
    /// A sealed segment whose headers cannot be followed to its end: what lies behind `batches` cannot be
    /// served, and must not be skipped silently either.
    is_broken: bool,
}

impl Segment {
    /// An empty segment; replaces stale files of the same name.
    pub fn create(disk: &Disk, dir: &str, base_offset: Offset) -> io::Result<Segment> {
        let path = path(dir, base_offset);
        let log = disk.create(&format!("{path}.log"))?;
        let index = disk.create(&format!("{path}.index"))?;
        let time_index = disk.create(&format!("{path}.timeindex"))?;
        Ok(Segment::new(path, base_offset, [log, index, time_index]))
    }

    /// Opens a segment's files; missing index files are created empty. Call [`Segment::scan`] next.
    pub fn open(disk: &Disk, dir: &str, base_offset: Offset) -> io::Result<Segment> {
        let path = path(dir, base_offset);
        let log = disk.open(&format!("{path}.log"))?;
        let index = open_or_create(disk, &format!("{path}.index"))?;
        let time_index = open_or_create(disk, &format!("{path}.timeindex"))?;
        Ok(Segment::new(path, base_offset, [log, index, time_index]))
    }

    fn new(path: String, base_offset: Offset, [log, index, time_index]: [File; 3]) -> Segment {
        Segment {
            path,
            base_offset,
            log,
            index,
            time_index,
            batches: Vec::new(),
            size_bytes: 0,
            max_timestamp: MaxTimestamp { timestamp: NO_TIMESTAMP, offset: base_offset },
            bytes_since_index_entry: 0,
            time_index_last: NO_TIMESTAMP,
            log_dirty: true,
            index_dirty: true,
            is_broken: false,
        }
    }

    pub fn base_offset(&self) -> Offset {
        self.base_offset
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The offset after the last record, or the base offset of an empty segment.
    pub fn next_offset(&self) -> Offset {
        self.batches.last().map_or(self.base_offset, |batch| batch.info.last_offset + 1)
    }

    pub fn batches(&self) -> &[Stored] {
        &self.batches
    }

    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp.timestamp
    }

    pub fn is_dirty(&self) -> bool {
        self.log_dirty || self.index_dirty
    }

    /// Everything here is known to be durable: it lies below the recovery point, or the stop was clean.
    pub fn set_durable(&mut self) {
        self.log_dirty = false;
        self.index_dirty = false;
    }

    pub fn set_broken(&mut self) {
        self.is_broken = true;
    }

    /// Whether an append of `bytes` up to `last_offset` belongs into a new segment (`shouldRoll`).
    pub fn should_roll(&self, bytes: u64, last_offset: Offset, segment_bytes: u64) -> bool {
        let is_full = self.size_bytes + bytes > segment_bytes.min(RELATIVE_MAX as u64);
        (self.size_bytes > 0 && is_full) || last_offset - self.base_offset > RELATIVE_MAX
    }

    /// Appends `data`, the batches of `staged`, in one write. When the write fails what may have reached the
    /// file is cut off again, as far as the disk lets us.
    pub fn append(&mut self, data: &[u8], staged: &[Stored]) -> io::Result<()> {
        self.log_dirty = true;
        if let Err(e) = self.log.append(data) {
            let _ = self.log.truncate(self.size_bytes);
            return Err(e);
        }
        let position = self.size_bytes;
        self.size_bytes += data.len() as u64;
        for batch in staged {
            self.note(Stored { position: position as u32 + batch.position, ..*batch });
        }
        if self.bytes_since_index_entry > INDEX_INTERVAL_BYTES {
            self.append_index_entries(position)?;
            self.bytes_since_index_entry = 0;
        }
        self.bytes_since_index_entry += data.len() as u64;
        Ok(())
    }

    fn note(&mut self, batch: Stored) {
        if batch.max_timestamp > self.max_timestamp.timestamp {
            self.max_timestamp = MaxTimestamp { timestamp: batch.max_timestamp, offset: batch.info.last_offset };
        }
        self.batches.push(batch);
    }

    fn append_index_entries(&mut self, position: u64) -> io::Result<()> {
        let last_offset = self.next_offset() + -1;
        self.index_dirty = true;
        self.index.append(&index_entry(last_offset - self.base_offset, position))?;
        self.append_time_index_entry()
    }

    /// `TimeIndex.maybeAppend` with the largest timestamp so far. Also done when the segment is sealed or
    /// closed: retention goes by the last entry.
    pub fn append_time_index_entry(&mut self) -> io::Result<()> {
        if self.max_timestamp.timestamp > self.time_index_last {
            self.index_dirty = true;
            let MaxTimestamp { timestamp, offset } = self.max_timestamp;
            self.time_index.append(&time_index_entry(timestamp, offset - self.base_offset))?;
            self.time_index_last = timestamp;
        }
        Ok(())
    }

    /// Whole batches from the one that holds `from`, or the next one if there is none; `None` if the segment
    /// ends before. See [`super::Log::read`] for the bounds.
    pub fn read(&self, from: Offset, up_to: Offset, bytes_max: usize, at_least_one: bool) -> io::Result<Option<Bytes>> {
        let first = match self.batches.last() {
            // Followers and consumers that keep up read the last batch.
            Some(last) if last.info.base_offset <= from && from <= last.info.last_offset => self.batches.len() - 1,
            Some(_) | None => self.batches.partition_point(|batch| batch.info.last_offset < from),
        };
        let Some(candidates) = self.batches.get(first..).filter(|candidates| !candidates.is_empty()) else {
            return if self.is_broken { Err(self.broken()) } else { Ok(None) };
        };
        // No batch is smaller than its header: that many are enough to look at.
        let candidates = &candidates[..candidates.len().min(bytes_max / HEADER_BYTES + 1)];
        let start = u64::from(candidates[0].position);
        let fits = |batch: &Stored| batch.info.last_offset < up_to && batch.end() - start <= bytes_max as u64;
        let count = match candidates.last() {
            Some(last) if fits(last) => candidates.len(),
            Some(_) | None => candidates.partition_point(fits),
        };
        if count > 0 {
            return self.read_bytes(start, candidates[count - 1].end()).map(Some);
        }
        if at_least_one && candidates[0].info.last_offset < up_to {
            return self.read_batch(&candidates[0]).map(Some);
        }
        Ok(Some(Bytes::new()))
    }

    pub fn read_batch(&self, batch: &Stored) -> io::Result<Bytes> {
        self.read_bytes(u64::from(batch.position), batch.end())
    }

    fn read_bytes(&self, start: u64, end: u64) -> io::Result<Bytes> {
        let bytes = self.log.read_at(start, (end - start) as usize)?;
        if bytes.len() as u64 != end - start {
            let message = format!("{}.log ends within a batch", self.path);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        Ok(bytes)
    }

    fn broken(&self) -> io::Error {
        let message = format!("{}.log cannot be read from offset {}", self.path, self.next_offset());
        io::Error::new(io::ErrorKind::InvalidData, message)
    }

    /// Cuts at the start of the batch that holds `to`, or of the first one beyond it, durably if `is_durable`; rebuilds
    /// the indexes. Returns where the log ends now: `to`, or the base offset of the batch that held it.
    pub fn truncate_to(&mut self, to: Offset, is_durable: bool) -> io::Result<Offset> {
        let kept = self.batches.partition_point(|batch| batch.info.last_offset < to);
        let mut end = to;
        if let Some(cut) = self.batches.get(kept).copied() {
            end = end.min(cut.info.base_offset);
            self.batches.truncate(kept);
            self.cut_file(u64::from(cut.position))?;
            if is_durable {
                self.sync()?;
            }
        }
        self.is_broken = false;
        self.rebuild_indexes()?;
        Ok(end)
    }

    /// Makes the files' content durable.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.log_dirty {
            self.log.sync()?;
            self.log_dirty = false;
        }
        if self.index_dirty {
            self.index.sync()?;
            self.time_index.sync()?;
            self.index_dirty = false;
        }
        Ok(())
    }

    /// Lists the batches from the file, up to the first that is not whole, not valid, or whose offsets do not
    /// increase; returns how many bytes lie behind that point. With `check_crc` content is checked too, as
    /// Kafka's `LogSegment.recover` does; without, only headers are.
    pub fn scan(&mut self, check_crc: bool) -> io::Result<u64> {
        let file_bytes = self.log.len();
        let mut batches = Vec::new();
        let mut window = Window { file: &self.log, start: 0, bytes: Bytes::new() };
        let mut position = 0;
        let mut next_offset = self.base_offset;
        while let Some(header) = window.batch(position, file_bytes, check_crc)? {
            let is_in_order = header.base_offset >= next_offset && header.last_offset_delta >= 0;
            let Some(last_offset) = header.base_offset.0.checked_add(i64::from(header.last_offset_delta)) else {
                break;
            };
            let end = position + header.size_bytes as u64;
            if !is_in_order || last_offset - self.base_offset.0 > RELATIVE_MAX || end > RELATIVE_MAX as u64 {
                break;
            }
            batches.push(Stored::new(&header, position as usize));
            next_offset = Offset(last_offset) + 1;
            position = end;
        }
        self.size_bytes = position;
        self.batches.reserve(batches.len());
        for batch in batches {
            self.note(batch);
        }
        Ok(file_bytes - position)
    }

    /// Cuts off what [`Segment::scan`] left behind.
    pub fn cut_tail(&mut self) -> io::Result<()> {
        self.cut_file(self.size_bytes)
    }

    fn cut_file(&mut self, size_bytes: u64) -> io::Result<()> {
        self.log_dirty = true;
        self.size_bytes = size_bytes;
        self.log.truncate(size_bytes)
    }

    /// Kafka's `sanityCheck` of both indexes, and that their last entries lie within the segment.
    pub fn indexes_are_sane(&self) -> io::Result<bool> {
        let (index_bytes, time_index_bytes) = (self.index.len(), self.time_index.len());
        if index_bytes % INDEX_ENTRY_BYTES != 0 || time_index_bytes % TIME_INDEX_ENTRY_BYTES != 0 {
            return Ok(false);
        }
        let length = self.next_offset() - self.base_offset;
        if index_bytes > 0 {
            let entry = self.index.read_at(index_bytes - INDEX_ENTRY_BYTES, INDEX_ENTRY_BYTES as usize)?;
            let (offset, position) = (be_u32(&entry, 0), be_u32(&entry, 4));
            if i64::from(offset) >= length || u64::from(position) >= self.size_bytes {
                return Ok(false);
            }
        }
        let Some(last) = self.last_time_index_entry()? else {
            return Ok(self.max_timestamp.timestamp == NO_TIMESTAMP || index_bytes == 0);
        };
        Ok(last.timestamp <= self.max_timestamp.timestamp && last.offset - self.base_offset < length)
    }

    fn last_time_index_entry(&self) -> io::Result<Option<MaxTimestamp>> {
        let Some(at) = self.time_index.len().checked_sub(TIME_INDEX_ENTRY_BYTES) else { return Ok(None) };
        let entry = self.time_index.read_at(at, TIME_INDEX_ENTRY_BYTES as usize)?;
        let Some(timestamp) = entry.first_chunk() else { return Ok(None) };
        let offset = self.base_offset + i64::from(be_u32(&entry, 8));
        Ok(Some(MaxTimestamp { timestamp: i64::from_be_bytes(*timestamp), offset }))
    }

    /// Goes on after the last entries that are there.
    pub fn continue_indexes(&mut self) -> io::Result<()> {
        self.time_index_last = self.last_time_index_entry()?.map_or(NO_TIMESTAMP, |entry| entry.timestamp);
        Ok(())
    }

    /// Writes both indexes anew from the list of batches (`LogSegment.recover`).
    pub fn rebuild_indexes(&mut self) -> io::Result<()> {
        let (mut index, mut time_index) = (Vec::new(), Vec::new());
        let mut max = MaxTimestamp { timestamp: NO_TIMESTAMP, offset: self.base_offset };
        let mut time_index_last = NO_TIMESTAMP;
        let mut last_indexed = 0;
        for batch in &self.batches {
            if batch.max_timestamp > max.timestamp {
                max = MaxTimestamp { timestamp: batch.max_timestamp, offset: batch.info.last_offset };
            }
            let position = u64::from(batch.position);
            if position - last_indexed > INDEX_INTERVAL_BYTES {
                index.extend(index_entry(batch.info.last_offset - self.base_offset, position));
                if max.timestamp > time_index_last {
                    time_index.extend(time_index_entry(max.timestamp, max.offset - self.base_offset));
                    time_index_last = max.timestamp;
                }
                last_indexed = position;
            }
        }
        self.max_timestamp = max;
        self.time_index_last = time_index_last;
        self.bytes_since_index_entry = self.size_bytes - last_indexed;
        self.index_dirty = true;
        rewrite(&mut self.index, &index)?;
        rewrite(&mut self.time_index, &time_index)?;
        self.append_time_index_entry()
    }

    /// Removes the files.
    pub fn remove(self, disk: &Disk) -> io::Result<()> {
        remove_files(disk, &self.path)
    }
}

/// Removes a segment's files, those that are there.
pub fn remove(disk: &Disk, dir: &str, base_offset: Offset) -> io::Result<()> {
    remove_files(disk, &path(dir, base_offset))
}

fn remove_files(disk: &Disk, path: &str) -> io::Result<()> {
    for extension in ["log", "index", "timeindex"] {
        match disk.remove_file(&format!("{path}.{extension}")) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The base offset in the name of a segment's file with this extension, if it is one.
pub fn base_offset(file_name: &str, extension: &str) -> Option<Offset> {
    let digits = file_name.strip_suffix(extension)?.strip_suffix('.')?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok().map(Offset) } else { None }
}

pub fn log_path(dir: &str, base_offset: Offset) -> String {
    format!("{}.log", path(dir, base_offset))
}

fn path(dir: &str, base_offset: Offset) -> String {
    format!("{dir}/{:020}", base_offset.0)
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

fn index_entry(relative_offset: i64, position: u64) -> [u8; INDEX_ENTRY_BYTES as usize] {
    let mut entry = [0; INDEX_ENTRY_BYTES as usize];
    entry[..4].copy_from_slice(&(relative_offset as u32).to_be_bytes());
    entry[4..].copy_from_slice(&(position as u32).to_be_bytes());
    entry
}

fn time_index_entry(timestamp: i64, relative_offset: i64) -> [u8; TIME_INDEX_ENTRY_BYTES as usize] {
    let mut entry = [0; TIME_INDEX_ENTRY_BYTES as usize];
    entry[..8].copy_from_slice(&timestamp.to_be_bytes());
    entry[8..].copy_from_slice(&(relative_offset as u32).to_be_bytes());
    entry
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_be_bytes(*chunk))
}

/// A file seen through large sequential reads.
struct Window<'a> {
    file: &'a File,
    start: u64,
    bytes: Bytes,
}

impl Window<'_> {
    /// The header of the batch at `position`, `None` if there is no whole and valid one.
    fn batch(&mut self, position: u64, file_bytes: u64, check_crc: bool) -> io::Result<Option<Header>> {
        let Ok(header) = Header::parse(self.at(position, HEADER_BYTES)?) else { return Ok(None) };
        if position + header.size_bytes as u64 > file_bytes {
            return Ok(None);
        }
        if check_crc && batch::checked(self.at(position, header.size_bytes)?, true).is_err() {
            return Ok(None);
        }
        Ok(Some(header))
    }

    /// `len` bytes from `position`, fewer at the end of the file.
    fn at(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        if position < self.start || position + len as u64 > self.start + self.bytes.len() as u64 {
            self.bytes = self.file.read_at(position, len.max(SCAN_BYTES))?;
            self.start = position;
        }
        let from = (position - self.start) as usize;
        let until = self.bytes.len().min(from + len);
        Ok(&self.bytes[from..until])
    }
}
