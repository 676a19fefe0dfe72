//! Reads the record batches of one fetched partition, record by record (Kafka's `CompletedFetch`).

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};

use crate::log::batch::HEADER_BYTES;
use crate::protocol::{LeaderEpoch, Offset};

/// Base offset and length: what precedes the counted bytes of a batch.
const LOG_OVERHEAD_BYTES: usize = 12;
/// Where the bytes that the CRC covers begin.
const ATTRIBUTES_AT: usize = 21;
const COMPRESSION_MASK: i16 = 0b111;
const LOG_APPEND_TIME_FLAG: i16 = 1 << 3;
const CONTROL_FLAG: i16 = 1 << 5;

/// Why fetched bytes cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("batch at offset {base_offset}: {reason}")]
pub(super) struct CorruptBatch {
    pub base_offset: Offset,
    pub reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FetchedRecord {
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

/// The records of one partition in one fetch response.
pub(super) struct FetchedRecords {
    /// Batches not yet opened.
    bytes: Bytes,
    batch: Option<OpenBatch>,
    /// Offset of the next record wanted; records below it are skipped.
    pub next_offset: Offset,
    /// Epoch of the last batch opened.
    pub last_epoch: LeaderEpoch,
}

struct OpenBatch {
    base_offset: Offset,
    next_offset: Offset,
    base_timestamp: i64,
    /// The broker's timestamp, where it counts for every record.
    log_append_time: Option<i64>,
    is_control: bool,
    records_left: i32,
    bytes: Bytes,
    at: usize,
}

impl FetchedRecords {
    /// `fetch_offset`: the offset that was asked for; a batch may begin below it.
    pub fn new(bytes: Bytes, fetch_offset: Offset) -> FetchedRecords {
        FetchedRecords { bytes, batch: None, next_offset: fetch_offset, last_epoch: LeaderEpoch::NONE }
    }

    /// The next record for the application: control records are skipped, an incomplete batch at the end is ignored.
    pub fn next(&mut self, check_crcs: bool) -> Result<Option<FetchedRecord>, CorruptBatch> {
        loop {
            let Some(batch) = &mut self.batch else {
                match self.open_batch(check_crcs)? {
                    Some(batch) => self.batch = Some(batch),
                    None => return Ok(None),
                }
                continue;
            };
            if batch.records_left <= 0 {
                // Compaction may have removed the last records of a batch: its header still says where it ends.
                self.next_offset = self.next_offset.max(batch.next_offset);
                self.batch = None;
                continue;
            }
            let mut record = batch.next_record()?;
            if record.offset < self.next_offset {
                continue;
            }
            self.next_offset = record.offset + 1;
            if !batch.is_control {
                record.leader_epoch = self.last_epoch;
                return Ok(Some(record));
            }
        }
    }

    fn open_batch(&mut self, check_crcs: bool) -> Result<Option<OpenBatch>, CorruptBatch> {
        if self.bytes.len() < LOG_OVERHEAD_BYTES {
            return Ok(None);
        }
        let base_offset = Offset(i64_at(&self.bytes, 0));
        let corrupt = |reason| CorruptBatch { base_offset, reason };
        let length = usize::try_from(i32_at(&self.bytes, 8)).map_err(|_| corrupt("negative length"))?;
        if self.bytes.len() < LOG_OVERHEAD_BYTES + length {
            return Ok(None);
        }
        if LOG_OVERHEAD_BYTES + length < HEADER_BYTES {
            return Err(corrupt("shorter than its header"));
        }
        let bytes = self.bytes.split_to(LOG_OVERHEAD_BYTES + length);
        if bytes[16] != 2 {
            return Err(corrupt("unsupported magic"));
        }
        let crc = i32_at(&bytes, 17) as u32;
        if check_crcs && checksum(CrcAlgorithm::Crc32Iscsi, &bytes[ATTRIBUTES_AT..]) as u32 != crc {
            return Err(corrupt("CRC mismatch"));
        }
        let attributes = i16_at(&bytes, ATTRIBUTES_AT);
        if attributes & COMPRESSION_MASK != 0 {
            return Err(corrupt("compressed, which is not supported"));
        }
        self.last_epoch = LeaderEpoch(i32_at(&bytes, 12));
        Ok(Some(OpenBatch {
            base_offset,
            next_offset: base_offset + i64::from(i32_at(&bytes, 23)) + 1,
            base_timestamp: i64_at(&bytes, 27),
            log_append_time: (attributes & LOG_APPEND_TIME_FLAG != 0).then(|| i64_at(&bytes, 35)),
            is_control: attributes & CONTROL_FLAG != 0,
            records_left: i32_at(&bytes, 57),
            bytes,
            at: HEADER_BYTES,
        }))
    }
}

impl OpenBatch {
    fn next_record(&mut self) -> Result<FetchedRecord, CorruptBatch> {
        self.records_left -= 1;
        self.parse_record().ok_or(CorruptBatch { base_offset: self.base_offset, reason: "malformed record" })
    }

    /// Length, attributes, deltas, key, value; headers are skipped.
    fn parse_record(&mut self) -> Option<FetchedRecord> {
        let length = usize::try_from(self.varint()?).ok()?;
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len())?;
        self.at += 1;
        let timestamp_delta = self.varint()?;
        let offset_delta = self.varint()?;
        let key = self.field(end)?;
        let value = self.field(end)?;
        self.at = end;
        Some(FetchedRecord {
            offset: self.base_offset + offset_delta,
            leader_epoch: LeaderEpoch::NONE,
            timestamp_ms: self.log_append_time.unwrap_or(self.base_timestamp.wrapping_add(timestamp_delta)),
            key,
            value,
        })
    }

    /// A length-prefixed field that ends at `end` at the latest; -1 stands for null.
    fn field(&mut self, end: usize) -> Option<Option<Bytes>> {
        let length = self.varint()?;
        if length == -1 {
            return Some(None);
        }
        let to = self.at.checked_add(usize::try_from(length).ok()?).filter(|&to| to <= end)?;
        let field = self.bytes.slice(self.at..to);
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

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bytes::BytesMut;
    use indexmap::IndexMap;
    use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

    /// One batch of records with values `v<offset>`, as a broker stores it.
    pub fn batch(base: i64, count: i64, epoch: i32, is_control: bool) -> Bytes {
        let record = |offset: i64| Record {
            transactional: false,
            control: is_control,
            delete_horizon: false,
            partition_leader_epoch: epoch,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset,
            sequence: offset as i32,
            timestamp: 1_000 + offset,
            key: (offset % 2 == 0).then(|| Bytes::from(format!("k{offset}"))),
            value: Some(Bytes::from(format!("v{offset}"))),
            headers: IndexMap::new(),
        };
        let records: Vec<Record> = (base..base + count).map(record).collect();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        let mut buffer = BytesMut::new();
        RecordBatchEncoder::encode(&mut buffer, &records, &options).expect("plain records encode");
        buffer.freeze()
    }

    fn concat(parts: &[Bytes]) -> Bytes {
        Bytes::from(parts.concat())
    }

    fn offsets(mut records: FetchedRecords) -> (Vec<i64>, i64) {
        let mut offsets = Vec::new();
        while let Some(record) = records.next(true).expect("valid batches") {
            assert_eq!(record.value, Some(Bytes::from(format!("v{}", record.offset))));
            assert_eq!(record.key.is_some(), record.offset.0 % 2 == 0);
            assert_eq!(record.timestamp_ms, 1_000 + record.offset.0);
            offsets.push(record.offset.0);
        }
        (offsets, records.next_offset.0)
    }

    #[test]
    fn records_below_the_fetch_offset_are_skipped() {
        let bytes = concat(&[batch(10, 3, 1, false), batch(13, 2, 2, false)]);
        assert_eq!(offsets(FetchedRecords::new(bytes, Offset(12))), (vec![12, 13, 14], 15));
    }

    #[test]
    fn control_batches_are_passed_over_but_move_the_position() {
        let bytes = concat(&[batch(0, 1, 0, false), batch(1, 1, 0, true)]);
        assert_eq!(offsets(FetchedRecords::new(bytes, Offset(0))), (vec![0], 2));
    }

    #[test]
    fn a_batch_cut_short_at_the_end_is_left_for_the_next_fetch() {
        let whole = concat(&[batch(0, 2, 0, false), batch(2, 2, 0, false)]);
        let cut = whole.slice(..whole.len() - 1);
        assert_eq!(offsets(FetchedRecords::new(cut, Offset(0))), (vec![0, 1], 2));
    }

    #[test]
    fn the_epoch_is_the_one_of_the_batch_last_opened() {
        let bytes = concat(&[batch(0, 1, 4, false), batch(1, 1, 7, false)]);
        let mut records = FetchedRecords::new(bytes, Offset(0));
        let mut epochs = Vec::new();
        while let Some(record) = records.next(true).expect("valid batches") {
            epochs.push(record.leader_epoch.0);
        }
        assert_eq!((epochs, records.last_epoch), (vec![4, 7], LeaderEpoch(7)));
    }

    #[test]
    fn a_flipped_bit_is_found_only_when_crcs_are_checked() {
        let mut bytes = BytesMut::from(&batch(5, 1, 0, false)[..]);
        let in_the_value = bytes.len() - 2;
        bytes[in_the_value] ^= 1;
        let bytes = bytes.freeze();
        let error = FetchedRecords::new(bytes.clone(), Offset(5)).next(true).expect_err("the CRC does not match");
        assert_eq!((error.base_offset, error.reason), (Offset(5), "CRC mismatch"));
        let record = FetchedRecords::new(bytes, Offset(5)).next(false).expect("unchecked").expect("one record");
        assert_ne!(record.value, Some(Bytes::from_static(b"v5")));
    }

    #[test]
    fn no_damage_makes_the_reader_panic() {
        let good = batch(0, 3, 0, false);
        for at in 8..good.len() {
            for bit in 0..8 {
                let mut damaged = BytesMut::from(&good[..]);
                damaged[at] ^= 1 << bit;
                let mut records = FetchedRecords::new(damaged.freeze(), Offset(0));
                for _ in 0..10_000 {
                    match records.next(false) {
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    }
                }
            }
        }
    }
}
