//! One segment of a log (Kafka's `LogSegment`): the `.log` file, its two index files, and the list of its
//! batches in memory, which reads, truncation and lookups by time use.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::batch::{self, HEADER_BYTES, Header, NO_TIMESTAMP};
use super::cleaner::CLEANED_SUFFIX;
use super::index::{IndexConfig, Indexes, TimestampOffset};
use crate::observe::BatchInfo;
use crate::protocol::Offset;
use crate::world::{Chain, Disk, File};

/// Offsets in the indexes are relative and Java integers, and so are positions.
const RELATIVE_MAX: i64 = i32::MAX as i64;
/// How much of a file is read at once while it is scanned: large enough to be sequential on a real disk.
const SCAN_BYTES: usize = 1 << 20;
/// A segment's files, by extension; the log first.
pub const EXTENSIONS: [&str; 3] = ["log", "index", "timeindex"];
/// Suffix of files that are about to be deleted (`LogFileUtils.DELETED_FILE_SUFFIX`).
pub const DELETED_SUFFIX: &str = ".deleted";

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

/// What an append brings, as far as it decides on rolling (`RollParams`).
#[derive(Clone, Copy, Debug)]
pub struct RollParams {
    pub bytes: u64,
    pub last_offset: Offset,
    pub max_timestamp: i64,
    pub wall_clock_ms: i64,
}

pub struct Segment {
    /// Path without extension.
    path: String,
    base_offset: Offset,
    log: File,
    indexes: Indexes,
    batches: Vec<Stored>,
    size_bytes: u64,
    max_timestamp: TimestampOffset,
    /// The largest timestamp of the segment's first append: rolling by time counts from it. Negative: none.
    first_timestamp: i64,
    /// By the wall clock: the first append since the segment was created or loaded, and the last. They stand in for
    /// timestamps where records have none.
    created_ms: Option<i64>,
    modified_ms: Option<i64>,
    /// Content of the log file that may not survive a power loss.
    log_dirty: bool,
    /// A batch may carry a producer id.
    has_producers: bool,
    /// A sealed segment whose headers cannot be followed to its end: what lies behind `batches` cannot be
    /// served, and must not be skipped silently either.
    is_broken: bool,
}

impl Segment {
    /// An empty segment; replaces stale files of the same name.
    pub fn create(disk: &Disk, dir: &str, base_offset: Offset) -> io::Result<Segment> {
        let path = path(dir, base_offset);
        let log = disk.create(&format!("{path}.log"))?;
        let indexes = Indexes::create(disk, &path, "", base_offset)?;
        Ok(Segment::new(path, base_offset, log, indexes))
    }

    /// An empty segment under another name, to be filled by the cleaner.
    pub fn create_cleaned(disk: &Disk, dir: &str, base_offset: Offset) -> io::Result<Segment> {
        let path = path(dir, base_offset);
        let log = disk.create(&format!("{path}.log{CLEANED_SUFFIX}"))?;
        let indexes = Indexes::create(disk, &path, CLEANED_SUFFIX, base_offset)?;
        Ok(Segment::new(path, base_offset, log, indexes))
    }

    /// Opens a segment's files; missing index files are created empty. Call [`Segment::scan`] next.
    pub fn open(disk: &Disk, dir: &str, base_offset: Offset) -> io::Result<Segment> {
        let path = path(dir, base_offset);
        let log = disk.open(&format!("{path}.log"))?;
        let indexes = Indexes::open(disk, &path, base_offset)?;
        Ok(Segment::new(path, base_offset, log, indexes))
    }

    fn new(path: String, base_offset: Offset, log: File, indexes: Indexes) -> Segment {
        Segment {
            path,
            base_offset,
            log,
            indexes,
            batches: Vec::new(),
            size_bytes: 0,
            max_timestamp: TimestampOffset::none(base_offset),
            first_timestamp: NO_TIMESTAMP,
            created_ms: None,
            modified_ms: None,
            log_dirty: true,
            has_producers: false,
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

    /// The largest timestamp, or when the segment was last modified if its records have none
    /// (`LogSegment.largestTimestamp`): retention goes by it. One that was not modified since it was loaded counts as
    /// modified at `wall_clock_ms`, when it is first asked.
    pub fn largest_timestamp(&mut self, wall_clock_ms: i64) -> i64 {
        if self.max_timestamp.timestamp >= 0 {
            return self.max_timestamp.timestamp;
        }
        *self.modified_ms.get_or_insert(wall_clock_ms)
    }

    pub fn is_dirty(&self) -> bool {
        self.log_dirty || self.indexes.is_dirty()
    }

    /// Everything here is known to be durable: it lies below the recovery point, or the stop was clean.
    pub fn set_durable(&mut self) {
        self.log_dirty = false;
        self.indexes.set_durable();
    }

    pub fn set_broken(&mut self) {
        self.is_broken = true;
    }

    /// Whether an append belongs into a new segment (`LogSegment.shouldRoll`). An empty segment takes anything.
    pub fn should_roll(&self, append: RollParams, segment_bytes: u64, segment_ms: u64, indexes: IndexConfig) -> bool {
        let is_too_far = append.last_offset - self.base_offset > RELATIVE_MAX;
        if self.size_bytes == 0 {
            return is_too_far;
        }
        let is_full = self.size_bytes + append.bytes > segment_bytes.min(RELATIVE_MAX as u64);
        is_full || is_too_far || self.is_old_enough(append, segment_ms) || self.indexes.is_full(indexes)
    }

    /// By the records' own time where they have one (`timeWaitedForRoll`): a timestamp far ahead rolls at once, and
    /// one far behind never does.
    fn is_old_enough(&self, append: RollParams, segment_ms: u64) -> bool {
        let (since, until) = match self.first_timestamp {
            0.. => (self.first_timestamp, append.max_timestamp),
            ..0 => (self.created_ms.unwrap_or(append.wall_clock_ms), append.wall_clock_ms),
        };
        u64::try_from(until.saturating_sub(since)).is_ok_and(|waited| waited > segment_ms)
    }

    /// Appends `data`, the batches of `staged` in two parts, in one write. When the write fails what may have reached the
    /// file is cut off again, as far as the disk lets us.
    pub fn append(
        &mut self,
        data: [&[u8]; 2],
        staged: &[Stored],
        indexes: IndexConfig,
        wall_clock_ms: i64,
    ) -> io::Result<()> {
        self.log_dirty = true;
        if let Err(e) = self.log.append_both(data[0], data[1]) {
            let _ = self.log.truncate(self.size_bytes);
            return Err(e);
        }
        let position = self.size_bytes;
        let bytes = (data[0].len() + data[1].len()) as u64;
        self.size_bytes += bytes;
        self.created_ms.get_or_insert(wall_clock_ms);
        self.modified_ms = Some(wall_clock_ms);
        for batch in staged {
            self.note(Stored { position: position as u32 + batch.position, ..*batch });
        }
        if position == 0 {
            self.first_timestamp = self.max_timestamp.timestamp;
        }
        let last_offset = self.next_offset() + -1;
        self.indexes.append(indexes, position, bytes, last_offset, self.max_timestamp)
    }

    fn note(&mut self, batch: Stored) {
        self.max_timestamp.note(&batch);
        self.batches.push(batch);
    }

    /// Gives the time index its last entry: the segment is sealed or closed (`onBecomeInactiveSegment`).
    pub fn seal(&mut self) -> io::Result<()> {
        self.indexes.append_time(self.max_timestamp)
    }

    /// Where the whole batches from the one that holds `from` lie, or from the next one if there is none; `None` if the
    /// segment ends before. See [`super::Log::read`] for the bounds.
    pub fn locate(
        &self,
        from: Offset,
        up_to: Offset,
        bytes_max: usize,
        at_least_one: bool,
    ) -> io::Result<Option<Range<u64>>> {
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
        let end = match count.checked_sub(1) {
            Some(last) => candidates[last].end(),
            None if at_least_one && candidates[0].info.last_offset < up_to => candidates[0].end(),
            None => start,
        };
        Ok(Some(start..end))
    }

    /// The bytes of [`Segment::locate`], as they lie in the page cache.
    pub fn read(&self, located: Range<u64>) -> io::Result<Chain> {
        let bytes = (located.end - located.start) as usize;
        let read = self.log.read_pieces(located.start, bytes)?;
        if read.len() == bytes { Ok(read) } else { Err(self.cut_short()) }
    }

    /// A batch with a producer id was appended.
    pub fn set_has_producers(&mut self) {
        self.has_producers = true;
    }

    /// Hands over the header of every batch from `from` on that carries a producer id.
    pub fn producers_from(&self, from: Offset, mut note: impl FnMut(&Header)) -> io::Result<()> {
        if !self.has_producers {
            return Ok(());
        }
        for batch in self.batches.iter().filter(|batch| batch.info.base_offset >= from) {
            let bytes = self.log.read_at(u64::from(batch.position), HEADER_BYTES)?;
            if let Some(header) = Header::parse(&bytes).ok().filter(|header| header.producer_id >= 0) {
                note(&header);
            }
        }
        Ok(())
    }

    pub fn read_batch(&self, batch: &Stored) -> io::Result<Bytes> {
        self.read(u64::from(batch.position)..batch.end()).map(Chain::into_bytes)
    }

    fn cut_short(&self) -> io::Error {
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("{}.log ends within a batch", self.path))
    }

    fn broken(&self) -> io::Error {
        let message = format!("{}.log cannot be read from offset {}", self.path, self.next_offset());
        io::Error::new(io::ErrorKind::InvalidData, message)
    }

    /// Cuts at the start of the batch that holds `to`, or of the first one beyond it, durably if `is_durable`; rebuilds
    /// the indexes. Returns where the log ends now: `to`, or the base offset of the batch that held it.
    pub fn truncate_to(&mut self, to: Offset, indexes: IndexConfig, is_durable: bool) -> io::Result<Offset> {
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
        self.rebuild_indexes(indexes)?;
        Ok(end)
    }

    /// Makes the files' content durable.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.log_dirty {
            self.log.sync()?;
            self.log_dirty = false;
        }
        self.indexes.sync()
    }

    /// Lists the batches from the file, see [`list_batches`]; returns how many bytes lie behind the last.
    pub fn scan(&mut self, check_crc: bool) -> io::Result<u64> {
        let Listed { batches, end: position, has_producers } = list_batches(&self.log, self.base_offset, check_crc)?;
        self.has_producers |= has_producers;
        self.size_bytes = position;
        self.batches.reserve(batches.len());
        for batch in batches {
            self.note(batch);
        }
        self.first_timestamp = self.batches.first().map_or(NO_TIMESTAMP, |batch| batch.max_timestamp);
        Ok(self.log.len() - position)
    }

    /// Cuts off what [`Segment::scan`] left behind, durably: what is appended next must not be followed by what was
    /// cut, should its end come back after a power loss.
    pub fn cut_tail(&mut self) -> io::Result<()> {
        self.cut_file(self.size_bytes)?;
        self.log.sync()
    }

    fn cut_file(&mut self, size_bytes: u64) -> io::Result<()> {
        self.log_dirty = true;
        self.size_bytes = size_bytes;
        self.log.truncate(size_bytes)
    }

    /// Whether the index files agree with the segment's batches, see [`Indexes::are_sane`].
    pub fn indexes_are_sane(&self) -> io::Result<bool> {
        self.indexes.are_sane(self.next_offset(), self.size_bytes, self.max_timestamp)
    }

    /// Goes on after the last index entries that are there. Returns whether the time index ends with the segment's largest
    /// timestamp.
    pub fn keep_indexes(&mut self) -> io::Result<bool> {
        Ok(self.indexes.keep()? == Some(self.max_timestamp))
    }

    /// With [`Defect::TrustTimeindexTail`](crate::defect::Defect::TrustTimeindexTail): takes the largest timestamp from the
    /// last entry of the time index.
    pub fn trust_time_index(&mut self) -> io::Result<()> {
        self.max_timestamp = self.indexes.last_time()?.unwrap_or(TimestampOffset::none(self.base_offset));
        Ok(())
    }

    /// Writes both indexes anew from the list of batches, and takes the largest timestamp from it.
    pub fn rebuild_indexes(&mut self, indexes: IndexConfig) -> io::Result<()> {
        self.max_timestamp = TimestampOffset::none(self.base_offset);
        for batch in &self.batches {
            self.max_timestamp.note(batch);
        }
        self.first_timestamp = self.batches.first().map_or(NO_TIMESTAMP, |batch| batch.max_timestamp);
        self.indexes.rebuild(indexes, &self.batches, self.size_bytes)
    }

    /// Renames the files to `*.deleted`: they are no part of the log any more. Returns the new paths.
    pub fn mark_deleted(self, disk: &Disk) -> io::Result<Vec<String>> {
        let mut paths = Vec::with_capacity(EXTENSIONS.len());
        for extension in EXTENSIONS {
            let (from, to) =
                (format!("{}.{extension}", self.path), format!("{}.{extension}{DELETED_SUFFIX}", self.path));
            disk.rename(&from, &to)?;
            paths.push(to);
        }
        Ok(paths)
    }

    /// When the segment was modified last; `otherwise` if not since it was loaded.
    pub fn modified_ms(&self, otherwise: i64) -> i64 {
        self.modified_ms.unwrap_or(otherwise)
    }

    /// Takes over when the segment was written last, as retention goes by it where records have no timestamps.
    pub fn inherit_age(&mut self, from: &Segment) {
        self.modified_ms = from.modified_ms;
    }

    /// Bytes of the larger index.
    pub fn index_bytes(&self) -> u64 {
        self.indexes.bytes()
    }

    /// Removes the files of a segment that the cleaner gives up.
    pub fn remove_cleaned(self, disk: &Disk) -> io::Result<()> {
        EXTENSIONS
            .iter()
            .try_for_each(|extension| disk.remove_file(&format!("{}.{extension}{CLEANED_SUFFIX}", self.path)))
    }

    /// Removes the files.
    pub fn remove(self, disk: &Disk) -> io::Result<()> {
        remove_files(disk, &self.path)
    }
}

/// What [`list_batches`] found.
pub struct Listed {
    pub batches: Vec<Stored>,
    /// Where the last of them ends.
    pub end: u64,
    /// Some batch has a producer id.
    pub has_producers: bool,
}

/// The batches of a segment's log file, up to the first that is not whole, not valid, or whose offsets do not
/// increase, and where that is. With `check_crc` content is checked too, as Kafka's `LogSegment.recover` does;
/// without, only headers are.
pub fn list_batches(file: &File, base_offset: Offset, check_crc: bool) -> io::Result<Listed> {
    let file_bytes = file.len();
    let mut batches = Vec::new();
    let mut window = Window { file, start: 0, bytes: Bytes::new() };
    let (mut position, mut has_producers) = (0, false);
    let mut next_offset = base_offset;
    while let Some(header) = window.batch(position, file_bytes, check_crc)? {
        let is_in_order = header.base_offset >= next_offset && header.last_offset_delta >= 0;
        let Some(last_offset) = header.base_offset.0.checked_add(i64::from(header.last_offset_delta)) else {
            break;
        };
        let end = position + header.size_bytes as u64;
        if !is_in_order || last_offset - base_offset.0 > RELATIVE_MAX || end > RELATIVE_MAX as u64 {
            break;
        }
        batches.push(Stored::new(&header, position as usize));
        has_producers |= header.producer_id >= 0;
        next_offset = Offset(last_offset) + 1;
        position = end;
    }
    Ok(Listed { batches, end: position, has_producers })
}

/// Removes a segment's files, those that are there.
pub fn remove(disk: &Disk, dir: &str, base_offset: Offset) -> io::Result<()> {
    remove_files(disk, &path(dir, base_offset))
}

fn remove_files(disk: &Disk, path: &str) -> io::Result<()> {
    for extension in EXTENSIONS {
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
    file(dir, base_offset, "log")
}

/// Path of one of a segment's files.
pub fn file(dir: &str, base_offset: Offset, extension: &str) -> String {
    format!("{}.{extension}", path(dir, base_offset))
}

fn path(dir: &str, base_offset: Offset) -> String {
    format!("{dir}/{:020}", base_offset.0)
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
