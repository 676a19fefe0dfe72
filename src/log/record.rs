//! The records inside a batch v2 (Kafka's `DefaultRecord`): read in place, written into a new batch.
//!
//! A record, all integers zigzag varints: length (of what follows it), attributes i8, timestamp delta,
//! offset delta, key length (-1: null) and key, value length and value, number of headers and headers.
//! Offsets and timestamps are relative to the batch's base offset and base timestamp.

use std::ops::Range;

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use super::batch::{self, BatchError, HEADER_BYTES, Header};
use super::compression::{self, Compression};
use crate::protocol::Offset;

/// `RecordBatch.DELETE_HORIZON_FLAG_MASK`: the base timestamp is when tombstones may go (KIP-534).
const DELETE_HORIZON_FLAG: i16 = 0x40;

/// One record, by the places of its parts in the batch's decompressed records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub offset_delta: i64,
    pub timestamp_delta: i64,
    attributes: u8,
    pub key: Option<Range<usize>>,
    pub value: Option<Range<usize>>,
    headers: Range<usize>,
}

/// The records of one batch, decompressed, one after another.
pub struct Records {
    bytes: Bytes,
    at: usize,
    left: i32,
}

impl Records {
    /// Opens the records of `batch`, which holds exactly one whole batch.
    pub fn open(header: &Header, batch: &Bytes) -> Result<Records, BatchError> {
        let compression = compression::of_attributes(header.attributes)?;
        let records = batch.slice(HEADER_BYTES..header.size_bytes);
        // An empty batch that compaction left behind holds no stream, whatever its attributes say.
        let bytes = if header.records_count == 0 { records } else { compression::decompress(compression, records)? };
        Ok(Records { bytes, at: 0, left: header.records_count })
    }

    /// The decompressed bytes that a record's places point into.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The next record; `None` after as many as the header counts. Bytes that are left then are an error, and
    /// so are too few (`DefaultRecordBatch.RecordIterator`).
    #[expect(clippy::should_implement_trait, reason = "an iterator could not be asked for its bytes on the way")]
    pub fn next(&mut self) -> Option<Result<Record, BatchError>> {
        if self.left <= 0 {
            let is_read_up = self.left < 0 || self.at == self.bytes.len();
            self.left = -1;
            return (!is_read_up).then_some(Err(BatchError::Invalid("bytes are left after the last record")));
        }
        self.left -= 1;
        let record = self.parse();
        if record.is_none() {
            self.left = -1;
        }
        Some(record.ok_or(BatchError::Invalid("a malformed record")))
    }

    /// A record's headers. Most have none.
    pub fn headers(&self, record: &Record) -> Result<Vec<(StrBytes, Option<Bytes>)>, BatchError> {
        if self.bytes[record.headers.clone()] == [0] {
            return Ok(Vec::new());
        }
        self.parse_headers(record.headers.clone()).ok_or(BatchError::Invalid("malformed headers"))
    }

    fn parse_headers(&self, place: Range<usize>) -> Option<Vec<(StrBytes, Option<Bytes>)>> {
        let mut cursor = Cursor { bytes: &self.bytes, at: place.start };
        let count = usize::try_from(cursor.varint()?).ok()?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let key = StrBytes::try_from(self.bytes.slice(cursor.field(place.end)??)).ok()?;
            headers.push((key, cursor.field(place.end)?.map(|value| self.bytes.slice(value))));
        }
        (cursor.at == place.end).then_some(headers)
    }

    fn parse(&mut self) -> Option<Record> {
        let mut cursor = Cursor { bytes: &self.bytes, at: self.at };
        let length = usize::try_from(cursor.varint()?).ok()?;
        let end = cursor.at.checked_add(length).filter(|&end| end <= self.bytes.len())?;
        let attributes = *self.bytes.get(cursor.at)?;
        cursor.at += 1;
        let timestamp_delta = cursor.varint()?;
        let offset_delta = cursor.varint()?;
        let key = cursor.field(end)?;
        let value = cursor.field(end)?;
        let headers = cursor.at..end;
        self.at = end;
        (headers.start <= end).then_some(Record { offset_delta, timestamp_delta, attributes, key, value, headers })
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    /// A length-prefixed field that ends at `end` at the latest; -1 stands for null.
    fn field(&mut self, end: usize) -> Option<Option<Range<usize>>> {
        let length = self.varint()?;
        if length == -1 {
            return Some(None);
        }
        let to = self.at.checked_add(usize::try_from(length).ok()?).filter(|&to| to <= end)?;
        let field = self.at..to;
        self.at = to;
        Some(Some(field))
    }

    fn varint(&mut self) -> Option<i64> {
        let mut zigzag = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            zigzag |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            }
        }
        None
    }
}

fn put_varint(to: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        to.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    to.push(zigzag as u8);
}

fn put_field(to: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => put_varint(to, -1),
        Some(field) => {
            put_varint(to, field.len() as i64);
            to.extend_from_slice(field);
        }
    }
}

/// What of a batch's header is to be another in its copy.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite {
    pub compression: Compression,
    /// When the tombstones of the batch may go; it takes the place of the base timestamp (KIP-534).
    pub delete_horizon_ms: Option<i64>,
    /// Number the records 0, 1, … instead of keeping their offset deltas.
    pub renumber: bool,
}

/// A copy of a batch with these of its records, `source` holding their bytes (`MemoryRecordsBuilder`). Offsets,
/// epochs, producer fields and sequence stay; base and max timestamp are those of the records, or the delete
/// horizon. The last offset delta stays too unless records are renumbered.
pub fn rewrite(header: &Header, source: &Records, records: &[Record], rewrite: Rewrite) -> Bytes {
    let log_append_time = header.is_log_append_time().then_some(header.max_timestamp);
    let timestamp = |record: &Record| log_append_time.unwrap_or_else(|| header.timestamp_of(record));
    let first = records.first().map_or(batch::NO_TIMESTAMP, timestamp);
    let base_timestamp = rewrite.delete_horizon_ms.unwrap_or(first);
    let mut bytes = Vec::with_capacity(source.bytes.len());
    let mut body = Vec::new();
    for (index, record) in records.iter().enumerate() {
        body.clear();
        body.push(record.attributes);
        put_varint(&mut body, timestamp(record).wrapping_sub(base_timestamp));
        put_varint(&mut body, if rewrite.renumber { index as i64 } else { record.offset_delta });
        put_field(&mut body, record.key.clone().map(|key| &source.bytes[key]));
        put_field(&mut body, record.value.clone().map(|value| &source.bytes[value]));
        body.extend_from_slice(&source.bytes[record.headers.clone()]);
        put_varint(&mut bytes, body.len() as i64);
        bytes.extend_from_slice(&body);
    }
    let horizon = if rewrite.delete_horizon_ms.is_some() { DELETE_HORIZON_FLAG } else { 0 };
    let attributes =
        compression::in_attributes(header.attributes, rewrite.compression) & !DELETE_HORIZON_FLAG | horizon;
    let header = Header {
        attributes,
        base_timestamp,
        max_timestamp: records.iter().map(timestamp).max().unwrap_or(header.max_timestamp),
        records_count: records.len() as i32,
        last_offset_delta: if rewrite.renumber { records.len() as i32 - 1 } else { header.last_offset_delta },
        ..*header
    };
    batch::encode(&header, &compression::compress(rewrite.compression, &bytes))
}

/// What remains of a batch whose records are all gone but whose last offset or sequence is still needed
/// (`DefaultRecordBatch.writeEmptyHeader`).
pub fn empty(header: &Header) -> Bytes {
    let attributes = compression::in_attributes(header.attributes, Compression::None) & !DELETE_HORIZON_FLAG;
    let header = Header { attributes, base_timestamp: batch::NO_TIMESTAMP, records_count: 0, ..*header };
    batch::encode(&header, &[])
}

impl Header {
    /// The records' own timestamp, which LogAppendTime overrides.
    pub fn timestamp_of(&self, record: &Record) -> i64 {
        match self.is_log_append_time() {
            true => self.max_timestamp,
            false => self.base_timestamp.wrapping_add(record.timestamp_delta),
        }
    }

    pub fn offset_of(&self, record: &Record) -> Offset {
        Offset(self.base_offset.0.saturating_add(record.offset_delta))
    }

    /// When the tombstones (or transaction markers) of this batch may be removed, once compaction has said it.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_FLAG != 0).then_some(self.base_timestamp)
    }
}
