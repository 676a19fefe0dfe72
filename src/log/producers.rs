//! What the log knows of its producers (Kafka's `ProducerStateManager`): for each producer id its epoch and its last
//! five batches, from which a leader tells a retry from a new batch (KIP-98). Kept in `<offset>.snapshot` files, in
//! Kafka's schema, so that it outlives the batches that it was made of.
//!
//! A leader checks what producers send against it (`ProducerAppendInfo`); followers and recovery only note. Transactions
//! are not followed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use bytes::{Buf, BufMut};
use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use super::batch::{self, Header, NO_PRODUCER_EPOCH, NO_SEQUENCE};
use super::segment::Segment;
use crate::defect::{Defect, Defects};
use crate::protocol::{ErrorCode, Offset};
use crate::world::Disk;

/// `ProducerStateEntry.NUM_BATCHES_TO_RETAIN`
const BATCHES_MAX: usize = 5;
/// `ProducerSnapshot`, the only version.
const VERSION: i16 = 1;
/// What the snapshot's CRC covers begins behind the version and the CRC.
const CRC_COVERS_FROM: usize = 6;
const SNAPSHOT: &str = "snapshot";

/// Why a leader refuses a batch of an idempotent producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProducerError {
    /// OUT_OF_ORDER_SEQUENCE_NUMBER: batches before it are missing, or it is older than the last five.
    #[error("sequence {got} of producer {producer_id} (epoch {epoch}) does not follow {last}")]
    OutOfOrderSequence { producer_id: i64, epoch: i16, last: i32, got: i32 },
    /// INVALID_PRODUCER_EPOCH: the producer has gone on in a later epoch (KIP-360).
    #[error("epoch {got} of producer {producer_id} is older than {current}")]
    InvalidEpoch { producer_id: i64, current: i16, got: i16 },
    /// UNKNOWN_PRODUCER_ID: raised before Kafka 2.5 only ([`Defect::ProducerStateDropsWithRecords`]).
    #[error("nothing is known of producer {producer_id}, and sequence {got} is not its first")]
    UnknownProducerId { producer_id: i64, got: i32 },
}

impl ProducerError {
    pub fn error_code(self) -> ErrorCode {
        match self {
            ProducerError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
            ProducerError::InvalidEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            ProducerError::UnknownProducerId { .. } => ErrorCode::UnknownProducerId,
        }
    }
}

/// What a leader makes of a batch that it does not refuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Checked {
    /// To be appended, and then noted with [`Producers::note_at`] and this.
    Next(ProducerSlot),
    /// One of the last five again: it is in the log already.
    Duplicate(ProducerBatch),
}

/// Where a producer is found again right after it was looked up; `None`: it is new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ProducerSlot(Option<usize>);

/// One batch of a producer (`BatchMetadata`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerBatch {
    pub last_sequence: i32,
    pub last_offset: Offset,
    /// Its last offset less its first; its sequences are as many.
    pub offset_delta: i32,
    /// Its largest timestamp.
    pub timestamp: i64,
}

impl ProducerBatch {
    pub fn first_offset(&self) -> Offset {
        self.last_offset + -i64::from(self.offset_delta)
    }

    pub fn first_sequence(&self) -> i32 {
        // Sequences wrap from i32::MAX to 0.
        let first = i64::from(self.last_sequence) - i64::from(self.offset_delta);
        if first < 0 { (first + i64::from(i32::MAX) + 1) as i32 } else { first as i32 }
    }
}

/// One producer (`ProducerStateEntry`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProducerEntry {
    pub epoch: i16,
    /// Of the last batch or marker.
    pub last_timestamp: i64,
    /// Oldest first; one at most after a load from a snapshot.
    pub batches: VecDeque<ProducerBatch>,
}

impl ProducerEntry {
    /// Whether all of its batches lie below that.
    fn is_below(&self, log_start: Offset) -> bool {
        self.batches.back().is_some_and(|batch| batch.last_offset < log_start)
    }

    fn new(epoch: i16) -> ProducerEntry {
        ProducerEntry { epoch, last_timestamp: batch::NO_TIMESTAMP, batches: VecDeque::new() }
    }

    /// The batch that this one repeats, if it is one of the last five (`findDuplicateBatch`).
    pub fn duplicate_of(&self, header: &Header) -> Option<ProducerBatch> {
        let repeats = |batch: &&ProducerBatch| {
            header.producer_epoch == self.epoch
                && batch.first_sequence() == header.base_sequence
                && batch.offset_delta == header.last_offset_delta
        };
        self.batches.iter().find(repeats).copied()
    }

    /// `ProducerAppendInfo.checkProducerEpoch` and `checkSequence`, for a batch of a client that is no duplicate.
    fn check(&self, header: &Header) -> Result<(), ProducerError> {
        let Header { producer_id, producer_epoch: epoch, base_sequence: got, .. } = *header;
        if epoch < self.epoch {
            return Err(ProducerError::InvalidEpoch { producer_id, current: self.epoch, got: epoch });
        }
        let last = self.batches.back().filter(|_| epoch == self.epoch).map_or(NO_SEQUENCE, |batch| batch.last_sequence);
        // A new epoch begins at 0. Sequences wrap from i32::MAX to 0.
        let follows = if last == i32::MAX { got == 0 } else { got == last + 1 };
        if !follows && self.epoch != NO_PRODUCER_EPOCH {
            return Err(ProducerError::OutOfOrderSequence { producer_id, epoch, last, got });
        }
        Ok(())
    }

    fn note(&mut self, header: &Header) {
        if header.producer_epoch != self.epoch {
            self.epoch = header.producer_epoch;
            self.batches.clear();
        }
        self.last_timestamp = header.max_timestamp;
        if header.is_control() {
            return;
        }
        if self.batches.len() == BATCHES_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back(ProducerBatch {
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            offset_delta: header.last_offset_delta,
            timestamp: header.max_timestamp,
        });
    }
}

/// By producer id, in the order of first appearance.
type Entries = IndexMap<i64, ProducerEntry, FxBuildHasher>;

/// The producers of one log, and the snapshots that it has on disk.
#[derive(Debug, Default)]
pub struct Producers {
    entries: Entries,
    snapshots: BTreeSet<i64>,
}

impl Producers {
    /// What is known of a producer.
    pub fn get(&self, producer_id: i64) -> Option<&ProducerEntry> {
        self.entries.get(&producer_id)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Of each producer the last offset of its last data batch (`lastRecordsOfActiveProducers`).
    pub(super) fn last_offsets(&self) -> BTreeMap<i64, Offset> {
        let last = |(id, entry): (&i64, &ProducerEntry)| entry.batches.back().map(|batch| (*id, batch.last_offset));
        self.entries.iter().filter_map(last).collect()
    }

    /// Whether a leader may append a client's batch with a producer id (`UnifiedLog.analyzeAndValidateProducerState`).
    /// Of a producer that is not known any sequence is taken: its records, or its state, may have gone with time.
    pub(super) fn check(&self, header: &Header, defects: Defects) -> Result<Checked, ProducerError> {
        let Some((slot, _, entry)) = self.entries.get_full(&header.producer_id) else {
            if header.base_sequence != 0 && defects.has(Defect::ProducerStateDropsWithRecords) {
                let Header { producer_id, base_sequence: got, .. } = *header;
                return Err(ProducerError::UnknownProducerId { producer_id, got });
            }
            return Ok(Checked::Next(ProducerSlot(None)));
        };
        if let Some(batch) = entry.duplicate_of(header).filter(|_| !defects.has(Defect::NoDuplicateDetection)) {
            return Ok(Checked::Duplicate(batch));
        }
        entry.check(header)?;
        Ok(Checked::Next(ProducerSlot(Some(slot))))
    }

    /// Notes a batch that was appended and carries a producer id.
    pub(super) fn note(&mut self, header: &Header) {
        let entry = self.entries.entry(header.producer_id);
        entry.or_insert_with(|| ProducerEntry::new(header.producer_epoch)).note(header);
    }

    /// [`Producers::note`] for a batch that was checked, and nothing noted since.
    pub(super) fn note_at(&mut self, ProducerSlot(slot): ProducerSlot, header: &Header) {
        match slot.and_then(|slot| self.entries.get_index_mut(slot)) {
            Some((_, entry)) => entry.note(header),
            None => self.note(header),
        }
    }

    /// Forgets producers whose last batch has a timestamp that is `expiration_ms` old by the wall clock
    /// (`removeExpiredProducers`); returns their ids.
    pub(super) fn remove_expired(&mut self, wall_clock_ms: i64, expiration_ms: i64) -> Vec<i64> {
        let is_expired = |entry: &ProducerEntry| wall_clock_ms.saturating_sub(entry.last_timestamp) >= expiration_ms;
        let expired: Vec<i64> = self.entries.iter().filter(|(_, entry)| is_expired(entry)).map(|(id, _)| *id).collect();
        if !expired.is_empty() {
            self.entries.retain(|_, entry| !is_expired(entry));
        }
        expired
    }

    /// Forgets producers all of whose batches lie below the log start: what Kafka did until 2.5 (KIP-360).
    pub(super) fn remove_below(&mut self, log_start: Offset) {
        self.entries.retain(|_, entry| !entry.is_below(log_start));
    }

    /// Whether [`Producers::remove_below`] would forget anyone.
    pub(super) fn any_below(&self, log_start: Offset) -> bool {
        self.entries.values().any(|entry| entry.is_below(log_start))
    }

    /// The state at the end of a log that has just been loaded. A snapshot beyond its end, or that cannot be read, is
    /// removed.
    pub(super) fn load(disk: &Disk, dir: &str, segments: &[Segment], end: Offset) -> io::Result<Producers> {
        let mut producers = Producers::default();
        let names = disk.read_dir(dir)?;
        producers.snapshots =
            names.iter().filter_map(|name| super::segment::base_offset(name, SNAPSHOT)).map(|o| o.0).collect();
        if producers.rebuild(disk, dir, segments, end)? {
            disk.sync_dir(dir)?;
        }
        Ok(producers)
    }

    /// The state at `end` from the latest snapshot up to there and the batches behind it
    /// (`UnifiedLog.rebuildProducerState`). True if it removed snapshots: they must not come back to pass for the state
    /// of what is appended there next.
    pub(super) fn rebuild(&mut self, disk: &Disk, dir: &str, segments: &[Segment], end: Offset) -> io::Result<bool> {
        let before = self.snapshots.len();
        for beyond in self.snapshots.split_off(&end.0.saturating_add(1)) {
            remove(disk, dir, beyond)?;
        }
        self.entries.clear();
        let mut from = Offset::ZERO;
        while let Some(&latest) = self.snapshots.last() {
            if let Some(entries) = read(disk, dir, latest)? {
                self.entries = entries;
                from = Offset(latest);
                break;
            }
            self.snapshots.remove(&latest);
            remove(disk, dir, latest)?;
        }
        for segment in segments {
            segment.producers_from(from, |header| self.note(header))?;
        }
        Ok(self.snapshots.len() < before)
    }

    /// Forgets everything (`truncateFullyAndStartAt`).
    pub(super) fn clear(&mut self, disk: &Disk, dir: &str) -> io::Result<()> {
        self.entries.clear();
        self.remove_snapshots(disk, dir, Offset(i64::MAX))
    }

    /// Removes the snapshots of deleted segments, those below `end`.
    pub(super) fn remove_snapshots(&mut self, disk: &Disk, dir: &str, end: Offset) -> io::Result<()> {
        while let Some(first) = self.snapshots.first().copied().filter(|first| *first < end.0) {
            self.snapshots.remove(&first);
            remove(disk, dir, first)?;
        }
        Ok(())
    }

    /// Writes the state at `end`, the log's end, unless there is nothing to tell; true if it did. The content is
    /// durable when this returns, the directory entry is not.
    pub(super) fn take_snapshot(&mut self, disk: &Disk, dir: &str, end: Offset) -> io::Result<bool> {
        if self.entries.is_empty() || !self.snapshots.insert(end.0) {
            return Ok(false);
        }
        let mut file = disk.create(&path(dir, end.0))?;
        file.append(&encode(&self.entries))?;
        file.sync()?;
        Ok(true)
    }
}

fn path(dir: &str, offset: i64) -> String {
    format!("{dir}/{offset:020}.{SNAPSHOT}")
}

fn remove(disk: &Disk, dir: &str, offset: i64) -> io::Result<()> {
    match disk.remove_file(&path(dir, offset)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read(disk: &Disk, dir: &str, offset: i64) -> io::Result<Option<Entries>> {
    let file = disk.open(&path(dir, offset))?;
    Ok(decode(&file.read_at(0, file.len() as usize)?))
}

fn encode(entries: &Entries) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_i16(VERSION);
    out.put_u32(0);
    out.put_i32(entries.len() as i32);
    for (producer_id, ProducerEntry { epoch, last_timestamp, batches }) in entries {
        let last = batches.back();
        out.put_i64(*producer_id);
        out.put_i16(*epoch);
        out.put_i32(last.map_or(-1, |batch| batch.last_sequence));
        out.put_i64(last.map_or(-1, |batch| batch.last_offset.0));
        out.put_i32(last.map_or(0, |batch| batch.offset_delta));
        out.put_i64(*last_timestamp);
        // No coordinator epoch, no open transaction.
        out.put_i32(-1);
        out.put_i64(-1);
    }
    let crc = batch::crc32c(&out[CRC_COVERS_FROM..]);
    out[2..CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
    out
}

/// `None` if it is not what [`encode`] wrote.
fn decode(bytes: &[u8]) -> Option<Entries> {
    let mut rest = bytes;
    if rest.try_get_i16().ok()? != VERSION || rest.try_get_u32().ok()? != batch::crc32c(bytes.get(CRC_COVERS_FROM..)?) {
        return None;
    }
    let mut entries = Entries::default();
    for _ in 0..rest.try_get_i32().ok()? {
        let (producer_id, epoch) = (rest.try_get_i64().ok()?, rest.try_get_i16().ok()?);
        let (last_sequence, last_offset) = (rest.try_get_i32().ok()?, Offset(rest.try_get_i64().ok()?));
        let (offset_delta, timestamp) = (rest.try_get_i32().ok()?, rest.try_get_i64().ok()?);
        let (_coordinator_epoch, _transaction) = (rest.try_get_i32().ok()?, rest.try_get_i64().ok()?);
        let batch = ProducerBatch { last_sequence, last_offset, offset_delta, timestamp };
        let batches = if last_offset >= Offset::ZERO { [batch].into() } else { VecDeque::new() };
        entries.insert(producer_id, ProducerEntry { epoch, last_timestamp: timestamp, batches });
    }
    rest.is_empty().then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::*;
    use crate::log::{AppendError, Log, LogConfig};
    use crate::observe::LogStartReason;
    use crate::protocol::{BrokerEpoch, LeaderEpoch};
    use crate::world::Time;

    fn append(log: &mut Log, producer_id: i64, epoch: i16, sequence: i32, count: usize) {
        let plain = batch_of(count, 100, 1_000);
        let header =
            Header { producer_id, producer_epoch: epoch, base_sequence: sequence, ..Header::parse(&plain).unwrap() };
        let batch = batch::encode(&header, &plain[batch::HEADER_BYTES..]);
        log.append_from_client(&batch, LeaderEpoch(1), 0).unwrap();
    }

    fn sequences(log: &Log, producer_id: i64) -> Vec<(i32, i32, i64)> {
        let batches = log.producers().get(producer_id).map(|entry| &entry.batches);
        let of = |batch: &ProducerBatch| (batch.first_sequence(), batch.last_sequence, batch.last_offset.0);
        batches.into_iter().flatten().map(of).collect()
    }

    fn snapshots(disk: &Disk) -> Vec<String> {
        disk.read_dir("data/orders-0").unwrap().into_iter().filter(|name| name.ends_with(SNAPSHOT)).collect()
    }

    #[test]
    fn the_last_five_batches_of_each_producer_are_known() {
        Machine::run(|machine| async move {
            let (_, mut log) = create(&machine.disk(), &LogConfig::default());
            for at in 0..7 {
                append(&mut log, 42, 3, 2 * at, 2);
            }
            append(&mut log, 43, 0, i32::MAX, 2);
            assert_eq!(sequences(&log, 42), [(4, 5, 5), (6, 7, 7), (8, 9, 9), (10, 11, 11), (12, 13, 13)]);
            assert_eq!(sequences(&log, 43), [(i32::MAX, 0, 15)], "sequences wrap");
            let entry = log.producers().get(42).unwrap();
            let retry = |producer_epoch, base_sequence, last_offset_delta| {
                let plain = Header::parse(&batch_of(2, 1, 0)).unwrap();
                entry.duplicate_of(&Header { producer_epoch, base_sequence, last_offset_delta, ..plain })
            };
            assert_eq!(retry(3, 6, 1).map(|batch| batch.last_offset), Some(Offset(7)));
            assert_eq!((retry(3, 2, 1), retry(4, 6, 1), retry(3, 6, 0)), (None, None, None));
            append(&mut log, 42, 4, 0, 1);
            assert_eq!(sequences(&log, 42), [(0, 0, 16)], "a new epoch begins anew");
        });
    }

    fn try_append(
        log: &mut Log,
        producer_id: i64,
        epoch: i16,
        sequence: i32,
        count: usize,
    ) -> Result<i64, AppendError> {
        let plain = batch_of(count, 100, 1_000);
        let header =
            Header { producer_id, producer_epoch: epoch, base_sequence: sequence, ..Header::parse(&plain).unwrap() };
        let batch = batch::encode(&header, &plain[batch::HEADER_BYTES..]);
        log.append_from_client(&batch, LeaderEpoch(1), 0).map(|appended| appended.base_offset.0)
    }

    fn refusal(result: Result<i64, AppendError>) -> ErrorCode {
        match result.unwrap_err() {
            AppendError::Producer(error) => error.error_code(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_retry_of_one_of_the_last_five_batches_gets_its_old_offset_and_appends_nothing() {
        Machine::run(|machine| async move {
            let (_, mut log) = create(&machine.disk(), &LogConfig::default());
            for at in 0..7 {
                append(&mut log, 42, 0, 2 * at, 2);
            }
            let end = log.log_end();
            for at in 2..7 {
                assert_eq!(try_append(&mut log, 42, 0, 2 * at, 2).unwrap(), i64::from(2 * at));
            }
            assert_eq!(log.log_end(), end);
            let older = try_append(&mut log, 42, 0, 2, 2);
            assert_eq!(refusal(older), ErrorCode::OutOfOrderSequenceNumber, "the sixth last is not known any more");
        });
    }

    #[test]
    fn a_leader_takes_only_the_next_sequence_of_an_epoch_that_is_not_over() {
        Machine::run(|machine| async move {
            let (_, mut log) = create(&machine.disk(), &LogConfig::default());
            append(&mut log, 42, 3, 0, 5);
            for (epoch, sequence, code) in [
                (3, 6, ErrorCode::OutOfOrderSequenceNumber),
                (3, 4, ErrorCode::OutOfOrderSequenceNumber),
                (2, 5, ErrorCode::InvalidProducerEpoch),
                (2, 0, ErrorCode::InvalidProducerEpoch),
                (4, 5, ErrorCode::OutOfOrderSequenceNumber),
            ] {
                assert_eq!(refusal(try_append(&mut log, 42, epoch, sequence, 1)), code, "{epoch}/{sequence}");
            }
            assert_eq!(try_append(&mut log, 42, 3, 5, 1).unwrap(), 5);
            assert_eq!(try_append(&mut log, 42, 4, 0, 1).unwrap(), 6, "a new epoch begins at 0");
            assert_eq!(refusal(try_append(&mut log, 42, 3, 6, 1)), ErrorCode::InvalidProducerEpoch);
            assert_eq!(try_append(&mut log, 43, 0, 77, 1).unwrap(), 7, "of who is not known any sequence is taken");
            append(&mut log, 44, 0, i32::MAX, 1);
            assert_eq!(try_append(&mut log, 44, 0, 0, 1).unwrap(), 9, "sequences wrap");
        });
    }

    #[test]
    fn a_follower_takes_what_its_leader_sends_unchecked() {
        Machine::run(|machine| async move {
            let (_, mut log) = create(&machine.disk(), &LogConfig::default());
            append(&mut log, 42, 3, 0, 1);
            let plain = batch_of(1, 100, 1_000);
            let header = Header {
                base_offset: Offset(1),
                producer_id: 42,
                producer_epoch: 3,
                base_sequence: 9,
                ..Header::parse(&plain).unwrap()
            };
            log.append_as_follower(&batch::encode(&header, &plain[batch::HEADER_BYTES..]), 0).unwrap();
            assert_eq!(sequences(&log, 42), [(0, 0, 0), (9, 9, 1)]);
        });
    }

    #[test]
    fn a_producer_whose_last_batch_is_old_is_forgotten_and_may_repeat_itself() {
        Machine::run(|machine| async move {
            let (_, mut log) = create(&machine.disk(), &LogConfig::default());
            append(&mut log, 42, 0, 0, 1);
            log.remove_expired_producers(1_000 + 59_999, 60_000);
            assert_eq!(try_append(&mut log, 42, 0, 0, 1).unwrap(), 0);
            log.remove_expired_producers(1_000 + 60_000, 60_000);
            assert!(log.producers().is_empty());
            assert_eq!(try_append(&mut log, 42, 0, 0, 1).unwrap(), 1, "a duplicate that nobody can tell");
        });
    }

    #[test]
    fn state_outlives_its_records_unless_the_defect_takes_it_with_them() {
        for (defects, answer) in [
            (Defects::NONE, Ok(1)),
            (Defects::NONE.with(Defect::ProducerStateDropsWithRecords), Err(ErrorCode::UnknownProducerId)),
        ] {
            Machine::run(|machine| async move {
                let (_, mut log) = create(&machine.disk(), &LogConfig { defects, ..LogConfig::default() });
                append(&mut log, 42, 0, 0, 1);
                append(&mut log, 42, 0, 1, 1);
                let last = log.log_end();
                log.set_high_watermark(last);
                log.increment_log_start(last, LogStartReason::DeleteRecords).unwrap();
                assert_eq!(try_append(&mut log, 42, 0, 1, 1).map_err(|e| refusal(Err(e))), answer);
            });
        }
    }

    #[test]
    fn producers_outlive_a_crash_and_a_truncation_takes_them_back() {
        Machine::run(|machine| async move {
            let (_, mut log) = create(&machine.disk(), &small_segments());
            for at in 0..7 {
                append(&mut log, 42, 0, at, 1);
            }
            let before = sequences(&log, 42);
            assert_eq!(snapshots(&machine.disk()).len(), 3, "one for each roll");
            let disk = machine.kill().await;
            let (_, mut log, _) = reopen(&disk, &small_segments());
            assert_eq!(sequences(&log, 42), before[before.len() - 2..], "the snapshot holds one batch");
            log.truncate_to(Offset(3)).unwrap();
            assert_eq!(sequences(&log, 42), [(1, 1, 1), (2, 2, 2)]);
            assert_eq!(snapshots(&disk), ["00000000000000000002.snapshot"]);
            log.truncate_fully_and_start_at(Offset(0)).unwrap();
            assert!(sequences(&log, 42).is_empty() && snapshots(&disk).is_empty());
        });
    }

    #[test]
    fn a_producer_outlives_its_batches_through_the_snapshot_of_an_orderly_stop() {
        Machine::run(|machine| async move {
            let config = LogConfig { retention_bytes: 0, ..small_segments() };
            let (mut directory, mut log) = create(&machine.disk(), &config);
            append(&mut log, 42, 0, 0, 1);
            log.set_high_watermark(Offset(1));
            let moves = log.delete_old_segments(Time::ZERO, 0).unwrap();
            assert_eq!(moves[0].reason, LogStartReason::RetentionSize);
            assert!(log.batches().is_empty());
            directory.close([(&orders(), &mut log)].into_iter(), BrokerEpoch(1)).unwrap();
            let (_, log, _) = reopen(&machine.lose_power().await, &config);
            assert_eq!(sequences(&log, 42), [(0, 0, 0)]);
        });
    }

    #[test]
    fn a_rotten_snapshot_is_dropped_and_the_batches_are_asked() {
        Machine::run(|machine| async move {
            let (_, mut log) = create(&machine.disk(), &small_segments());
            for at in 0..3 {
                append(&mut log, 42, 0, at, 1);
            }
            let before = sequences(&log, 42);
            let disk = machine.kill().await;
            flip_bit(&disk, "data/orders-0/00000000000000000002.snapshot", 20);
            let (_, log, _) = reopen(&disk, &small_segments());
            assert_eq!(sequences(&log, 42), before);
            assert!(snapshots(&disk).is_empty());
        });
    }

    #[test]
    fn a_snapshot_has_kafkas_layout() {
        let batch = ProducerBatch { last_sequence: 7, last_offset: Offset(99), offset_delta: 2, timestamp: 5 };
        let entry = ProducerEntry { epoch: 3, last_timestamp: 5, batches: [batch].into() };
        let entries = Entries::from_iter([(42, entry)]);
        let bytes = encode(&entries);
        assert_eq!(bytes[..2], [0, 1]);
        assert_eq!(bytes[6..10], [0, 0, 0, 1]);
        assert_eq!(bytes.len(), 10 + 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8);
        assert_eq!(decode(&bytes), Some(entries));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn without_producer_ids_nothing_is_written() {
        Machine::run(|machine| async move {
            let (_, mut log) = create(&machine.disk(), &small_segments());
            for _ in 0..5 {
                super::super::testing::append(&mut log, 1, 1);
            }
            assert!(snapshots(&machine.disk()).is_empty());
        });
    }
}
