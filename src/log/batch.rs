//! Record batch v2 headers (Kafka's `DefaultRecordBatch`): read and patched in place, without decoding
//! the records inside.
//!
//! Layout, big endian: base offset i64, length i32 (of what follows it), partition leader epoch i32,
//! magic i8, CRC-32C u32 (of what follows it), attributes i16, last offset delta i32, base timestamp i64,
//! max timestamp i64, producer id i64, producer epoch i16, base sequence i32, record count i32, records.
//! Base offset, length, leader epoch and magic lie outside the CRC: a broker stamps the first and third
//! without computing it anew, and a flipped bit there goes unnoticed.

use bytes::{BufMut, Bytes, BytesMut};

use crate::observe::{BatchInfo, Sequences};
use crate::protocol::{ErrorCode, LeaderEpoch, Offset};

/// Bytes of a batch header v2, up to the records.
pub const HEADER_BYTES: usize = 61;

/// Kafka's `RecordBatch.NO_TIMESTAMP`.
pub const NO_TIMESTAMP: i64 = -1;

/// Bytes of base offset and length, which the length does not count (`Records.LOG_OVERHEAD`).
const LOG_OVERHEAD: usize = 12;
/// Where the leader epoch ends and the magic byte is (`HEADER_SIZE_UP_TO_MAGIC` - 1).
const MAGIC_OFFSET: usize = 16;
/// Where the bytes begin that the CRC covers.
const CRC_COVERS_FROM: usize = 21;

/// What is wrong with a batch. Kafka's error codes: CORRUPT_MESSAGE or INVALID_RECORD.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchError {
    #[error("the batch is cut short: {have} of {need} bytes")]
    Truncated { have: usize, need: usize },
    #[error("unsupported magic {0}")]
    Magic(i8),
    #[error("CRC-32C is {computed:08x}, the header says {stored:08x}")]
    Crc { stored: u32, computed: u32 },
    #[error("invalid batch: {0}")]
    Invalid(&'static str),
    #[error("timestamp {timestamp} is out of range: it must be within [{earliest}, {latest}]")]
    Timestamp { timestamp: i64, earliest: i64, latest: i64 },
    #[error("a producer must not set the timestamp type to LogAppendTime")]
    TimestampType,
    #[error("the records cannot be decompressed")]
    Decompression,
}

impl BatchError {
    /// What a broker answers: INVALID_RECORD where Kafka throws `InvalidRecordException` (magic 0 and 1 in
    /// Produce v3+ included), CORRUPT_MESSAGE where it throws `CorruptRecordException`, UNKNOWN_SERVER_ERROR where
    /// it is a plain `KafkaException`, INVALID_TIMESTAMP.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            BatchError::Invalid(_) | BatchError::Magic(0 | 1) => ErrorCode::InvalidRecord,
            BatchError::Truncated { .. } | BatchError::Magic(_) | BatchError::Crc { .. } => ErrorCode::CorruptMessage,
            BatchError::Timestamp { .. } | BatchError::TimestampType => ErrorCode::InvalidTimestamp,
            BatchError::Decompression => ErrorCode::UnknownServerError,
        }
    }
}

/// Of a batch whose producer has no id (`RecordBatch`).
pub const NO_PRODUCER_ID: i64 = -1;
pub const NO_PRODUCER_EPOCH: i16 = -1;
pub const NO_SEQUENCE: i32 = -1;

/// The fields of a batch header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub base_offset: Offset,
    /// Of the whole batch, header included.
    pub size_bytes: usize,
    pub leader_epoch: LeaderEpoch,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub records_count: i32,
}

impl Header {
    /// Reads the header at the front of `bytes`, which may go on beyond the batch or stop right after the
    /// header. Checks magic and the length field's lower bound.
    pub fn parse(bytes: &[u8]) -> Result<Header, BatchError> {
        let Some(h) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(Self::too_short(bytes));
        };
        if h[MAGIC_OFFSET] != 2 {
            return Err(BatchError::Magic(h[MAGIC_OFFSET] as i8));
        }
        let size_bytes = Self::size_field(h);
        if size_bytes < HEADER_BYTES as i64 {
            return Err(BatchError::Truncated { have: size_bytes.max(0) as usize, need: HEADER_BYTES });
        }
        Ok(Header {
            base_offset: Offset(i64::from_be_bytes(field(h, 0))),
            size_bytes: size_bytes as usize,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(h, 12))),
            crc: u32::from_be_bytes(field(h, 17)),
            attributes: i16::from_be_bytes(field(h, 21)),
            last_offset_delta: i32::from_be_bytes(field(h, 23)),
            base_timestamp: i64::from_be_bytes(field(h, 27)),
            max_timestamp: i64::from_be_bytes(field(h, 35)),
            producer_id: i64::from_be_bytes(field(h, 43)),
            producer_epoch: i16::from_be_bytes(field(h, 51)),
            base_sequence: i32::from_be_bytes(field(h, 53)),
            records_count: i32::from_be_bytes(field(h, 57)),
        })
    }

    fn size_field(h: &[u8; HEADER_BYTES]) -> i64 {
        i64::from(i32::from_be_bytes(field(h, 8))) + LOG_OVERHEAD as i64
    }

    /// Names the old magic of a message set that is shorter than a header v2.
    fn too_short(bytes: &[u8]) -> BatchError {
        match bytes.get(MAGIC_OFFSET) {
            Some(&magic) if magic != 2 => BatchError::Magic(magic as i8),
            Some(_) | None => BatchError::Truncated { have: bytes.len(), need: HEADER_BYTES },
        }
    }

    /// Offset of the last record, also after compaction removed it.
    pub fn last_offset(&self) -> Offset {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    pub fn is_compressed(&self) -> bool {
        self.attributes & 0x07 != 0
    }

    /// The records' timestamps are all [`Header::max_timestamp`], set by the broker.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & 0x08 != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    pub fn info(&self) -> BatchInfo {
        BatchInfo {
            base_offset: self.base_offset,
            last_offset: self.last_offset(),
            leader_epoch: self.leader_epoch,
            crc: self.crc,
        }
    }

    /// What it says of its producer.
    pub fn sequences(&self) -> Sequences {
        let Header { producer_id, producer_epoch, base_sequence: first, .. } = *self;
        Sequences { producer_id, producer_epoch, first, last: self.last_sequence() }
    }

    /// `DefaultRecordBatch.incrementSequence`: sequences wrap from `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        (last % (i64::from(i32::MAX) + 1)) as i32
    }

    /// The rules of Kafka's `LogValidator.validateBatch` on offsets and count.
    fn check_count(&self) -> Result<(), BatchError> {
        if self.records_count < 1 {
            return Err(BatchError::Invalid("the record count is not positive"));
        }
        if self.last_offset_delta != self.records_count - 1 {
            return Err(BatchError::Invalid("the offset range does not match the record count"));
        }
        Ok(())
    }

    /// What Kafka refuses from producers only (`LogValidator.validateBatch` and
    /// `UnifiedLog.analyzeAndValidateRecords` with `AppendOrigin.CLIENT`).
    fn check_client_rules(&self) -> Result<(), BatchError> {
        if self.base_offset != Offset::ZERO {
            return Err(BatchError::Invalid("the base offset of a produced batch must be 0"));
        }
        if self.is_control() {
            return Err(BatchError::Invalid("clients may not write control records"));
        }
        if self.producer_id >= 0 && self.base_sequence < 0 {
            return Err(BatchError::Invalid("a producer id without a sequence number"));
        }
        Ok(())
    }
}

fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *header[at..].first_chunk().expect("every field lies within the header")
}

/// Who appends as leader (Kafka's `AppendOrigin`): producers are trusted less.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendOrigin {
    Client,
    /// A coordinator or the controller: may write control batches, base offsets are overwritten unseen.
    Internal,
}

/// Checks a record set that is to be appended by a leader. It must hold exactly one batch of magic 2, as
/// in Produce v3+ (`ProduceRequest.validateRecords`) and for every other origin
/// (`LogValidator.getFirstBatchAndMaybeValidateNoMoreBatches`).
pub fn check_append(records: &[u8], origin: AppendOrigin) -> Result<Header, BatchError> {
    if records.is_empty() {
        return Err(BatchError::Invalid("no batch at all"));
    }
    let header = checked(records, true)?;
    if header.size_bytes < records.len() {
        return Err(BatchError::Invalid("more than one batch"));
    }
    header.check_count()?;
    match origin {
        AppendOrigin::Client => header.check_client_rules()?,
        AppendOrigin::Internal => {}
    }
    Ok(header)
}

/// Whether `bytes` begin with a whole batch, as far as the length field tells. A follower's fetch may end
/// within one.
pub fn is_whole(bytes: &[u8]) -> bool {
    let size = bytes.get(8..LOG_OVERHEAD).and_then(|length| length.first_chunk());
    size.is_some_and(|length| i64::from(i32::from_be_bytes(*length)) + LOG_OVERHEAD as i64 <= bytes.len() as i64)
}

/// Header of the batch at the front of `bytes`, which must hold all of it; with its CRC checked when asked.
pub fn checked(bytes: &[u8], check_crc: bool) -> Result<Header, BatchError> {
    let header = Header::parse(bytes)?;
    let Some(batch) = bytes.get(..header.size_bytes) else {
        return Err(BatchError::Truncated { have: bytes.len(), need: header.size_bytes });
    };
    if check_crc {
        let computed = crc_of(batch);
        if computed != header.crc {
            return Err(BatchError::Crc { stored: header.crc, computed });
        }
    }
    if header.last_offset_delta < 0 {
        return Err(BatchError::Invalid("the last offset is below the base offset"));
    }
    Ok(header)
}

/// As [`checked`], with a CRC that does not hold only where `is_trusted` says so.
pub fn checked_unless(bytes: &[u8], is_trusted: impl FnOnce() -> bool) -> Result<Header, BatchError> {
    match checked(bytes, true) {
        Err(BatchError::Crc { .. }) if is_trusted() => checked(bytes, false),
        header => header,
    }
}

/// CRC-32C of a whole batch's covered part.
fn crc_of(batch: &[u8]) -> u32 {
    crc32c(&batch[CRC_COVERS_FROM..])
}

pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Writes base offset and leader epoch into a batch. Both lie outside the CRC.
pub fn stamp(batch: &mut [u8], base_offset: Offset, epoch: LeaderEpoch) {
    batch[..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[12..16].copy_from_slice(&epoch.0.to_be_bytes());
}

/// Writes timestamp type and max timestamp into a batch and its header, with the CRC that follows
/// (`DefaultRecordBatch.setMaxTimestamp`).
pub fn set_max_timestamp(batch: &mut [u8], header: &mut Header, is_log_append_time: bool, max_timestamp: i64) {
    const LOG_APPEND_TIME: i16 = 0x08;
    header.attributes &= !LOG_APPEND_TIME;
    header.attributes |= if is_log_append_time { LOG_APPEND_TIME } else { 0 };
    header.max_timestamp = max_timestamp;
    batch[21..23].copy_from_slice(&header.attributes.to_be_bytes());
    batch[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    header.crc = crc_of(batch);
    batch[17..21].copy_from_slice(&header.crc.to_be_bytes());
}

/// Writes another producer epoch and sequence into a batch, with the CRC that follows
/// (`DefaultRecordBatch.setProducerState`).
pub fn set_producer_state(batch: &mut [u8], producer_id: i64, producer_epoch: i16, base_sequence: i32) {
    batch[43..51].copy_from_slice(&producer_id.to_be_bytes());
    batch[51..53].copy_from_slice(&producer_epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&base_sequence.to_be_bytes());
    let crc = crc_of(batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// A checked view of one batch; `bytes` holds exactly the batch.
#[derive(Clone, Debug)]
pub struct Batch {
    pub bytes: Bytes,
}

impl Batch {
    pub fn info(&self) -> BatchInfo {
        self.header().info()
    }

    pub fn header(&self) -> Header {
        Header::parse(&self.bytes).expect("the batch was checked when it was split off")
    }
}

/// Splits a record set into batches, checking length and magic of each, and the CRC when `check_crc`.
pub fn split(records: &Bytes, check_crc: bool) -> Result<Vec<Batch>, BatchError> {
    let mut batches = Vec::new();
    let mut at = 0;
    while at < records.len() {
        let header = checked(&records[at..], check_crc)?;
        batches.push(Batch { bytes: records.slice(at..at + header.size_bytes) });
        at += header.size_bytes;
    }
    Ok(batches)
}

/// A batch of this header and these records, compressed as its attributes say; size and CRC are computed.
pub fn encode(header: &Header, records: &[u8]) -> Bytes {
    let Header {
        base_offset,
        size_bytes: _,
        leader_epoch,
        crc: _,
        attributes,
        last_offset_delta,
        base_timestamp,
        max_timestamp,
        producer_id,
        producer_epoch,
        base_sequence,
        records_count,
    } = *header;
    let mut batch = BytesMut::with_capacity(HEADER_BYTES + records.len());
    batch.put_i64(base_offset.0);
    batch.put_i32((HEADER_BYTES - LOG_OVERHEAD + records.len()) as i32);
    batch.put_i32(leader_epoch.0);
    batch.put_i8(2);
    batch.put_u32(0);
    batch.put_i16(attributes);
    batch.put_i32(last_offset_delta);
    batch.put_i64(base_timestamp);
    batch.put_i64(max_timestamp);
    batch.put_i64(producer_id);
    batch.put_i16(producer_epoch);
    batch.put_i32(base_sequence);
    batch.put_i32(records_count);
    batch.extend_from_slice(records);
    let crc = crc_of(&batch);
    batch[CRC_COVERS_FROM - 4..CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::batch_of;

    fn flipped(bytes: &Bytes, at: usize) -> Bytes {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x10;
        bytes.into()
    }

    #[test]
    fn reads_the_header_of_an_encoded_batch() {
        let header = Header::parse(&batch_of(3, 100, 50)).unwrap();
        assert_eq!(header.base_offset, Offset(0));
        assert_eq!(header.last_offset(), Offset(2));
        assert_eq!(header.records_count, 3);
        assert_eq!((header.base_timestamp, header.max_timestamp), (50, 52));
        assert!(!header.is_compressed() && !header.is_control() && !header.is_log_append_time());
    }

    #[test]
    fn stamping_leaves_the_crc_valid() {
        let mut bytes = batch_of(2, 10, 0).to_vec();
        stamp(&mut bytes, Offset(77), LeaderEpoch(5));
        let header = checked(&bytes, true).unwrap();
        assert_eq!(
            (header.base_offset, header.last_offset(), header.leader_epoch),
            (Offset(77), Offset(78), LeaderEpoch(5))
        );
    }

    #[test]
    fn a_batch_with_another_producer_state_is_whole() {
        let mut bytes = batch_of(2, 10, 0).to_vec();
        set_producer_state(&mut bytes, 42, 3, 77);
        let header = checked(&bytes, true).unwrap();
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (42, 3, 77));
    }

    #[test]
    fn splits_a_set_into_its_batches() {
        let (a, b) = (batch_of(1, 10, 0), batch_of(4, 200, 9));
        let set = Bytes::from([&a[..], &b[..]].concat());
        let batches = split(&set, true).unwrap();
        assert_eq!(batches.iter().map(|batch| batch.bytes.clone()).collect::<Vec<_>>(), [a, b]);
        assert_eq!(batches[1].info().last_offset, Offset(3));
    }

    #[test]
    fn a_set_that_ends_within_a_batch_is_refused() {
        let whole = batch_of(2, 30, 0);
        for length in [1, 11, 16, HEADER_BYTES, whole.len() - 1] {
            let error = split(&whole.slice(..length), true).unwrap_err();
            assert!(matches!(error, BatchError::Truncated { have, .. } if have == length), "{length}: {error}");
            assert!(!is_whole(&whole[..length]));
        }
        assert!(is_whole(&whole));
    }

    #[test]
    fn the_crc_covers_everything_behind_it() {
        let whole = batch_of(2, 30, 0);
        for at in [17, 21, 30, HEADER_BYTES, whole.len() - 1] {
            let error = split(&flipped(&whole, at), true).unwrap_err();
            assert!(matches!(error, BatchError::Crc { .. }), "{at}: {error}");
            assert_eq!(error.error_code(), ErrorCode::CorruptMessage);
        }
        for at in [0, 7, 12, 15] {
            assert!(split(&flipped(&whole, at), true).is_ok(), "byte {at} lies outside the CRC");
        }
    }

    #[test]
    fn an_old_magic_is_named() {
        let mut bytes = batch_of(1, 10, 0).to_vec();
        bytes[MAGIC_OFFSET] = 1;
        assert_eq!(split(&bytes.into(), false).unwrap_err(), BatchError::Magic(1));
        assert_eq!(BatchError::Magic(1).error_code(), ErrorCode::InvalidRecord);
        assert_eq!(BatchError::Magic(9).error_code(), ErrorCode::CorruptMessage);
    }

    #[test]
    fn a_length_that_cannot_be_is_refused() {
        for length in [-1_i32, 0, 48, i32::MIN] {
            let mut bytes = batch_of(1, 100, 0).to_vec();
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            assert!(matches!(checked(&bytes, false), Err(BatchError::Truncated { .. })), "{length}");
        }
    }

    #[test]
    fn a_leader_takes_exactly_one_batch() {
        let one = batch_of(1, 10, 0);
        let two = Bytes::from([&one[..], &one[..]].concat());
        assert!(check_append(&one, AppendOrigin::Client).is_ok());
        for refused in [two, Bytes::new()] {
            let error = check_append(&refused, AppendOrigin::Internal).unwrap_err();
            assert_eq!(error.error_code(), ErrorCode::InvalidRecord, "{error}");
        }
    }

    /// The batch with `change` made to it and the CRC made to fit.
    fn forged(change: impl Fn(&mut [u8])) -> Bytes {
        let mut bytes = batch_of(3, 10, 0).to_vec();
        change(&mut bytes);
        let crc = crc_of(&bytes);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }

    #[test]
    fn offsets_must_match_the_record_count() {
        let counts: [(i32, i32); 4] = [(1, 3), (3, 3), (2, 0), (-1, 0)];
        for (last_offset_delta, records_count) in counts {
            let bytes = forged(|bytes| {
                bytes[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
                bytes[57..61].copy_from_slice(&records_count.to_be_bytes());
            });
            let error = check_append(&bytes, AppendOrigin::Internal).unwrap_err();
            assert_eq!(error.error_code(), ErrorCode::InvalidRecord, "{error}");
        }
    }

    #[test]
    fn only_clients_are_refused_control_batches_and_offsets() {
        let control = forged(|bytes| bytes[22] |= 0x20);
        let offset = forged(|bytes| bytes[7] = 9);
        let no_sequence = forged(|bytes| {
            bytes[43..51].copy_from_slice(&7_i64.to_be_bytes());
            bytes[53..57].copy_from_slice(&(-1_i32).to_be_bytes());
        });
        for bytes in [control, offset, no_sequence] {
            assert!(check_append(&bytes, AppendOrigin::Internal).is_ok());
            let error = check_append(&bytes, AppendOrigin::Client).unwrap_err();
            assert_eq!(error.error_code(), ErrorCode::InvalidRecord, "{error}");
        }
    }
}
