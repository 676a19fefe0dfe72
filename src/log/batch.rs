//! Record batch v2 headers (Kafka's `DefaultRecordBatch`): read and patched in place, without decoding
//! the records inside.

use bytes::Bytes;

use crate::observe::BatchInfo;

/// Bytes of a batch header v2, up to the records.
pub const HEADER_BYTES: usize = 61;

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
}

/// A checked view of one batch; `bytes` holds exactly the batch.
#[derive(Clone, Debug)]
pub struct Batch {
    pub bytes: Bytes,
}

impl Batch {
    pub fn info(&self) -> BatchInfo {
        todo!()
    }
}

/// Splits a record set into batches, checking length and magic of each, and the CRC when `check_crc`.
pub fn split(_records: &Bytes, _check_crc: bool) -> Result<Vec<Batch>, BatchError> {
    todo!()
}
