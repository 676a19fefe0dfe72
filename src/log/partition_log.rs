//! One partition's log.

use std::io;

use bytes::Bytes;

use super::epoch_cache::EpochCache;
use crate::observe::BatchInfo;
use crate::protocol::{LeaderEpoch, Offset};

/// The topic configuration that the log obeys (Kafka's `LogConfig`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// `segment.bytes`
    pub segment_bytes: u64,
    /// `flush.messages`: fsync after this many records. `u64::MAX`: never by count.
    pub flush_messages: u64,
    /// `max.message.bytes`: largest batch accepted from a producer.
    pub max_message_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { segment_bytes: 1 << 30, flush_messages: u64::MAX, max_message_bytes: 1_048_588 }
    }
}

/// What an append did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Appended {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub batches: Vec<BatchInfo>,
    /// Set when this append made everything below it durable (`flush.messages`).
    pub flushed_to: Option<Offset>,
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Batch(#[from] super::batch::BatchError),
    /// MESSAGE_TOO_LARGE
    #[error("a batch of {bytes} bytes exceeds max.message.bytes {bytes_max}")]
    TooLarge { bytes: u64, bytes_max: u64 },
    /// A follower's leader sent something that does not continue our log.
    #[error("offset {got} does not follow log end {log_end}")]
    OutOfOrder { got: Offset, log_end: Offset },
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// OFFSET_OUT_OF_RANGE
    #[error("offset {offset} is outside [{log_start}, {log_end}]")]
    OutOfRange { offset: Offset, log_start: Offset, log_end: Offset },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What recovery did when a log was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveryReport {
    /// The log was closed in an orderly way, nothing was scanned.
    pub clean: bool,
    /// Bytes cut at the first bad batch, and later segments removed.
    pub dropped_bytes: u64,
    /// Every batch that the log holds now, in order.
    pub batches: Vec<BatchInfo>,
}

/// The log of one partition. Offsets: log start <= high watermark <= log end.
pub struct Log;

impl Log {
    pub fn config(&self) -> &LogConfig {
        todo!()
    }
    pub fn set_config(&mut self, _config: LogConfig) {
        todo!()
    }
    pub fn log_start(&self) -> Offset {
        todo!()
    }
    pub fn log_end(&self) -> Offset {
        todo!()
    }
    pub fn high_watermark(&self) -> Offset {
        todo!()
    }
    /// Sets the high watermark, clamped into [log start, log end]; returns what it became.
    pub fn set_high_watermark(&mut self, _offset: Offset) -> Offset {
        todo!()
    }
    pub fn epochs(&self) -> &EpochCache {
        todo!()
    }
    /// The epoch of the last record (`latestEpoch`), or [`LeaderEpoch::NONE`].
    pub fn latest_epoch(&self) -> LeaderEpoch {
        todo!()
    }
    /// Appends a producer's record set: checks each batch with its CRC, assigns offsets, stamps `epoch`,
    /// in one write. `wall_clock_ms` for LogAppendTime and checks.
    pub fn append_as_leader(
        &mut self,
        _records: &Bytes,
        _epoch: LeaderEpoch,
        _wall_clock_ms: i64,
    ) -> Result<Appended, AppendError> {
        todo!()
    }
    /// Appends what the leader sent, offsets and epochs as they are. Whole batches below the log end are
    /// skipped; an incomplete last batch is ignored.
    pub fn append_as_follower(&mut self, _records: &Bytes) -> Result<Appended, AppendError> {
        todo!()
    }
    /// Whole batches from the one that holds `from`, ending before `up_to` (exclusive) and within
    /// `bytes_max`, except that the first batch is returned whatever its size when `at_least_one`.
    /// Empty when `from == up_to` or beyond it.
    pub fn read(
        &self,
        _from: Offset,
        _up_to: Offset,
        _bytes_max: usize,
        _at_least_one: bool,
    ) -> Result<Bytes, ReadError> {
        todo!()
    }
    /// First record with timestamp >= `timestamp_ms`: (offset, timestamp). Looks below `up_to` only.
    pub fn offset_for_timestamp(&self, _timestamp_ms: i64, _up_to: Offset) -> io::Result<Option<(Offset, i64)>> {
        todo!()
    }
    /// The record with the largest timestamp (ListOffsets -3, KIP-734): (offset, timestamp).
    pub fn max_timestamp(&self) -> io::Result<Option<(Offset, i64)>> {
        todo!()
    }
    /// Cuts the log so that its end is `to` (or the start of the batch that holds it).
    pub fn truncate_to(&mut self, _to: Offset) -> io::Result<()> {
        todo!()
    }
    /// Drops everything; the log starts anew at `offset`.
    pub fn truncate_fully_and_start_at(&mut self, _offset: Offset) -> io::Result<()> {
        todo!()
    }
    /// Notes that leadership of `epoch` begins at the log end (`assignEpochStartOffset`).
    pub fn assign_epoch_start(&mut self, _epoch: LeaderEpoch) -> io::Result<()> {
        todo!()
    }
    /// fsync; returns the offset below which everything is durable now.
    pub fn flush(&mut self) -> io::Result<Offset> {
        todo!()
    }
    /// The recovery point: everything below it was flushed.
    pub fn recovery_point(&self) -> Offset {
        todo!()
    }
    /// Every batch held now, for the observer.
    pub fn batches(&self) -> Vec<BatchInfo> {
        todo!()
    }
}
