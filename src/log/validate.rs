//! What a leader asks of the records inside a batch (Kafka's `LogValidator`), and its recompression to the
//! topic's `compression.type`. The batch's header and CRC were checked before, by [`super::batch::check_append`].

use bytes::Bytes;

use super::batch::{self, BatchError, HEADER_BYTES, Header};
use super::compression::{self, Compression};
use super::config::StoredCompression;
use super::record::{self, Records, Rewrite};

/// What the topic wants of every batch.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub compression: StoredCompression,
    /// Every record needs a key.
    pub is_compacted: bool,
    /// The earliest and the latest timestamp that a record may have; `None`: any.
    pub timestamps: Option<(i64, i64)>,
}

impl Rules {
    /// Whether a batch has to be opened at all. An uncompressed one that may stay so is believed: Kafka walks its
    /// records all the same, to count them and to find the largest timestamp.
    pub fn must_look_inside(self, header: &Header) -> bool {
        self.is_compacted
            || self.timestamps.is_some()
            || header.is_compressed()
            || !matches!(self.compression, StoredCompression::Producer | StoredCompression::Fixed(Compression::None))
    }
}

/// Checks the records of a batch; returns the batch to be stored where it is not the one that came: recompressed,
/// renumbered, or with another max timestamp.
pub fn validate(header: &Header, batch: &Bytes, rules: Rules) -> Result<Option<Bytes>, BatchError> {
    let source = compression::of_attributes(header.attributes)?;
    let mut opened = Records::open(header, batch)?;
    let mut records = Vec::with_capacity(usize::try_from(header.records_count).unwrap_or(0).min(batch.len()));
    let mut max_timestamp = batch::NO_TIMESTAMP;
    let mut is_numbered = true;
    while let Some(record) = opened.next() {
        let record = record?;
        if rules.is_compacted && record.key.is_none() {
            return Err(BatchError::Invalid("a compacted topic needs a key in every record"));
        }
        let timestamp = header.timestamp_of(&record);
        if let Some((earliest, latest)) = rules.timestamps
            && timestamp != batch::NO_TIMESTAMP
            && !(earliest..=latest).contains(&timestamp)
        {
            return Err(BatchError::Timestamp { timestamp, earliest, latest });
        }
        max_timestamp = max_timestamp.max(timestamp);
        is_numbered &= record.offset_delta == records.len() as i64;
        records.push(record);
    }
    let target = match rules.compression {
        StoredCompression::Producer => source,
        StoredCompression::Fixed(target) => target,
    };
    // Control records are not compressed unless they came so.
    let keeps_type = target == source || (source == Compression::None && header.is_control());
    let keeps_numbers = is_numbered || (source == Compression::None && target == Compression::None);
    if !keeps_type || !keeps_numbers {
        let compression = if keeps_type { source } else { target };
        let rewrite = Rewrite { compression, delete_horizon_ms: None, renumber: true };
        return Ok(Some(record::rewrite(header, &opened, &records, rewrite)));
    }
    if max_timestamp == header.max_timestamp {
        return Ok(None);
    }
    let header = Header { max_timestamp, ..*header };
    Ok(Some(batch::encode(&header, &batch[HEADER_BYTES..header.size_bytes])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::compression::ALL;
    use crate::log::testing::{batch_of, keyed_batch};
    use crate::protocol::{ErrorCode, Offset};

    const AS_IT_CAME: Rules = Rules { compression: StoredCompression::Producer, is_compacted: false, timestamps: None };

    /// The batch under another compression type, as a producer would have sent it.
    fn compressed(batch: &Bytes, compression: Compression) -> Bytes {
        let header = Header::parse(batch).unwrap();
        let header = Header { attributes: compression::in_attributes(header.attributes, compression), ..header };
        batch::encode(&header, &compression::compress(compression, &batch[HEADER_BYTES..]))
    }

    fn check(batch: &Bytes, rules: Rules) -> Result<Option<Bytes>, BatchError> {
        validate(&batch::checked(batch, true).unwrap(), batch, rules)
    }

    /// (offset, timestamp, key, value) of each record.
    fn content(batch: &Bytes) -> Vec<(Offset, i64, Option<Bytes>, Option<Bytes>)> {
        let header = batch::checked(batch, true).unwrap();
        let mut records = Records::open(&header, batch).unwrap();
        let mut content = Vec::new();
        while let Some(record) = records.next() {
            let record = record.unwrap();
            let field = |places: &Option<std::ops::Range<usize>>| places.clone().map(|at| records.bytes().slice(at));
            let (key, value) = (field(&record.key), field(&record.value));
            content.push((header.offset_of(&record), header.timestamp_of(&record), key, value));
        }
        content
    }

    #[test]
    fn a_compressed_batch_stays_as_it_came() {
        for compression in ALL {
            assert_eq!(check(&compressed(&batch_of(5, 100, 7), compression), AS_IT_CAME), Ok(None));
        }
    }

    #[test]
    fn a_topic_with_a_compression_type_stores_every_batch_so() {
        let plain = keyed_batch(&[("a", Some("1")), ("b", None), ("c", Some("3"))], 40);
        for source in ALL {
            for target in ALL {
                let came = compressed(&plain, source);
                let stored = check(
                    &came,
                    Rules { compression: StoredCompression::Fixed(target), is_compacted: true, ..AS_IT_CAME },
                )
                .unwrap();
                assert_eq!(stored.is_none(), source == target, "{source:?} to {target:?}");
                let stored = stored.unwrap_or(came);
                let header = batch::checked(&stored, true).unwrap();
                assert_eq!(compression::of_attributes(header.attributes), Ok(target));
                assert_eq!((header.records_count, header.last_offset_delta), (3, 2));
                assert_eq!((header.base_timestamp, header.max_timestamp), (40, 42));
                assert_eq!(content(&stored), content(&plain));
            }
        }
    }

    #[test]
    fn a_record_count_that_the_records_do_not_bear_out_is_refused() {
        for compression in ALL {
            for count in [2, 4] {
                let batch = compressed(&batch_of(3, 20, 0), compression);
                let header =
                    Header { records_count: count, last_offset_delta: count - 1, ..Header::parse(&batch).unwrap() };
                let forged = batch::encode(&header, &batch[HEADER_BYTES..]);
                let error = validate(&header, &forged, AS_IT_CAME).unwrap_err();
                assert_eq!(error.error_code(), ErrorCode::InvalidRecord, "{compression:?} {count}: {error}");
            }
        }
    }

    #[test]
    fn what_cannot_be_decompressed_is_an_unknown_server_error() {
        for compression in &ALL[1..] {
            let batch = compressed(&batch_of(3, 20, 0), *compression);
            let header = Header::parse(&batch).unwrap();
            let forged = batch::encode(&header, b"not what the header says");
            let error = check(&forged, AS_IT_CAME).unwrap_err();
            assert_eq!(error.error_code(), ErrorCode::UnknownServerError, "{compression:?}");
        }
    }

    #[test]
    fn the_largest_timestamp_is_the_records_not_the_headers_word() {
        let batch = compressed(&batch_of(3, 20, 50), Compression::Lz4);
        let header = Header { max_timestamp: 9_999, ..Header::parse(&batch).unwrap() };
        let stored = check(&batch::encode(&header, &batch[HEADER_BYTES..]), AS_IT_CAME).unwrap().unwrap();
        assert_eq!(stored, batch);
    }

    #[test]
    fn records_that_are_not_numbered_in_order_are_numbered_anew() {
        let plain = batch_of(3, 20, 50);
        let header = Header::parse(&plain).unwrap();
        let mut opened = Records::open(&header, &plain).unwrap();
        let mut records: Vec<_> = std::iter::from_fn(|| opened.next()).map(Result::unwrap).collect();
        records[2].offset_delta = 7;
        let keep = Rewrite { compression: Compression::Gzip, delete_horizon_ms: None, renumber: false };
        let stored = check(&record::rewrite(&header, &opened, &records, keep), AS_IT_CAME).unwrap().unwrap();
        assert_eq!(content(&stored), content(&plain));
    }

    #[test]
    fn a_timestamp_out_of_bounds_is_refused_wherever_it_is_in_the_batch() {
        for compression in ALL {
            let batch = compressed(&batch_of(3, 20, 50), compression);
            let within = |earliest, latest| {
                check(&batch, Rules { timestamps: Some((earliest, latest)), ..AS_IT_CAME }).map(|_| ())
            };
            assert_eq!(within(50, 52), Ok(()));
            assert_eq!(within(51, 52), Err(BatchError::Timestamp { timestamp: 50, earliest: 51, latest: 52 }));
            let error = within(50, 51).unwrap_err();
            assert_eq!(error.error_code(), ErrorCode::InvalidTimestamp);
        }
    }

    #[test]
    fn a_compacted_topic_takes_no_record_without_a_key() {
        let rules = Rules { is_compacted: true, ..AS_IT_CAME };
        for compression in ALL {
            let error = check(&compressed(&batch_of(1, 20, 0), compression), rules).unwrap_err();
            assert_eq!(error.error_code(), ErrorCode::InvalidRecord);
            assert_eq!(check(&compressed(&keyed_batch(&[("k", None)], 0), compression), rules), Ok(None));
        }
    }
}
