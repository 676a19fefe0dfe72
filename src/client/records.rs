//! Reads the record batches of one fetched partition, record by record (Kafka's `CompletedFetch`).

use std::ops::Range;

use bytes::Bytes;

use super::delivery::RecordHeader;
use crate::log::batch::{self, BatchError, Header};
use crate::log::record::Records;
use crate::protocol::{LeaderEpoch, Offset};

/// Why fetched bytes cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("batch at offset {base_offset}: {reason}")]
pub(super) struct CorruptBatch {
    pub base_offset: Offset,
    pub reason: BatchError,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FetchedRecord {
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<RecordHeader>,
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
    header: Header,
    records: Records,
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
            let Some(record) = batch.records.next() else {
                // Compaction may have removed the last records of a batch: its header still says where it ends.
                self.next_offset = self.next_offset.max(batch.header.last_offset() + 1);
                self.batch = None;
                continue;
            };
            let base_offset = batch.header.base_offset;
            let record = record.map_err(|reason| CorruptBatch { base_offset, reason })?;
            let offset = batch.header.offset_of(&record);
            if offset < self.next_offset {
                continue;
            }
            self.next_offset = offset + 1;
            if batch.header.is_control() {
                continue;
            }
            let headers = batch.records.headers(&record).map_err(|reason| CorruptBatch { base_offset, reason })?;
            let field = |place: Option<Range<usize>>| place.map(|place| batch.records.bytes().slice(place));
            return Ok(Some(FetchedRecord {
                offset,
                leader_epoch: self.last_epoch,
                timestamp_ms: batch.header.timestamp_of(&record),
                key: field(record.key),
                value: field(record.value),
                headers: headers.into_iter().map(|(key, value)| RecordHeader { key, value }).collect(),
            }));
        }
    }

    fn open_batch(&mut self, check_crcs: bool) -> Result<Option<OpenBatch>, CorruptBatch> {
        if !batch::is_whole(&self.bytes) {
            return Ok(None);
        }
        let base_offset = Offset(i64::from_be_bytes(*self.bytes.first_chunk().expect("a whole batch has an offset")));
        let corrupt = |reason| CorruptBatch { base_offset, reason };
        let header = batch::checked(&self.bytes, check_crcs).map_err(corrupt)?;
        let bytes = self.bytes.split_to(header.size_bytes);
        let records = Records::open(&header, &bytes).map_err(corrupt)?;
        self.last_epoch = header.leader_epoch;
        Ok(Some(OpenBatch { header, records }))
    }
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
        assert!(matches!(error, CorruptBatch { base_offset: Offset(5), reason: BatchError::Crc { .. } }), "{error}");
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
