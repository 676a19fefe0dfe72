//! A log driven at random on a disk that dies, against a plain model: nothing flushed is ever lost, nothing
//! corrupt or reordered is served, recovery always ends and says what it dropped.
//!
//! `FAULTLINE_LOG_CASES` runs so many cases, of about 200 steps each, with a random seed.

mod cut_short;

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand::{RngExt, SeedableRng};

use super::batch::NO_TIMESTAMP;
use super::partition_log::{DropReason, RecoveryReport};
use super::testing::*;
use super::{LoadedLog, Log, LogConfig, LogDirectory};
use crate::observe::{BatchInfo, LogStartReason};
use crate::protocol::{BrokerEpoch, LeaderEpoch, Offset, TopicPartition};
use crate::world::sim::{Change, Pending, Survival};
use crate::world::{Disk, Rng, Time};

static ORDERS: LazyLock<TopicPartition> = LazyLock::new(orders);

/// 550 cases of 200 steps in the mean.
const CASES: u32 = 550;

#[derive(Clone, Debug)]
enum Op {
    AppendAsLeader {
        records: usize,
        value_bytes: usize,
    },
    /// With a gap of so many offsets before the first batch, as compaction leaves it.
    AppendAsFollower {
        batches: usize,
        value_bytes: usize,
        gap: i64,
    },
    NextEpoch,
    /// To this many thousandths of the log.
    HighWatermark(i64),
    /// DeleteRecords, to this many thousandths of what is below the high watermark.
    DeleteRecords(i64),
    /// Time passes, milliseconds.
    Wait(i64),
    Retention,
    Flush,
    FlushIfDue,
    CheckpointRecoveryPoints,
    CheckpointLogStarts,
    CheckpointHighWatermarks,
    /// To this many thousandths of the log.
    Truncate(i64),
    StartAnew(i64),
    Kill,
    LosePower(Loss),
    /// A crash; one bit of one of the log's files flips, at this many thousandths of it.
    FlipBit {
        file: usize,
        thousandths: u64,
    },
    Stop,
    /// Another operation, during which the process dies after so many changes to the disk; perhaps with the power.
    CutShort {
        op: Box<Op>,
        calls: u64,
        loss: Option<Loss>,
    },
}

/// What a power loss leaves of what was not synced.
#[derive(Clone, Debug)]
struct Loss {
    pages: Survival,
    entries: Survival,
    /// Of the choice.
    seed: u64,
}

impl Loss {
    fn choose(&self, pending: &Pending, rng: &mut Rng) -> Vec<bool> {
        let of_page = |change: &Change| match change {
            Change::Page(_) | Change::Cut(_) => true,
            Change::Create(_) | Change::Rename { .. } | Change::Remove(_) => false,
        };
        let count = pending.changes.len();
        match if pending.changes.iter().all(of_page) { self.pages } else { self.entries } {
            Survival::Nothing => vec![false; count],
            Survival::Everything => vec![true; count],
            Survival::Prefix => {
                let kept = rng.random_range(0..=count);
                (0..count).map(|at| at < kept).collect()
            }
            Survival::Subset => (0..count).map(|_| rng.random()).collect(),
            Survival::Chosen(numbers) => (0..count).map(|number| numbers.contains(number as u32)).collect(),
        }
    }
}

fn survival() -> impl Strategy<Value = Survival> {
    prop_oneof![
        2 => Just(Survival::Nothing),
        1 => Just(Survival::Everything),
        1 => Just(Survival::Prefix),
        3 => Just(Survival::Subset),
    ]
}

fn loss() -> impl Strategy<Value = Loss> {
    (survival(), survival(), any::<u64>()).prop_map(|(pages, entries, seed)| Loss { pages, entries, seed })
}

fn op() -> impl Strategy<Value = Op> {
    let cut_short = (whole_op(), 0..12u64, proptest::option::of(loss()));
    prop_oneof![
        12 => whole_op(),
        1 => cut_short.prop_map(|(op, calls, loss)| Op::CutShort { op: Box::new(op), calls, loss }),
    ]
}

fn whole_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        16 => (1..4usize, 0..2_500usize).prop_map(|(records, value_bytes)| Op::AppendAsLeader { records, value_bytes }),
        6 => (1..4usize, 0..1_500usize, prop_oneof![4 => Just(0), 1 => 1..5i64])
            .prop_map(|(batches, value_bytes, gap)| Op::AppendAsFollower { batches, value_bytes, gap }),
        2 => Just(Op::NextEpoch),
        6 => (600..=1000i64).prop_map(Op::HighWatermark),
        1 => (0..=1000i64).prop_map(Op::DeleteRecords),
        4 => (0..400i64).prop_map(Op::Wait),
        3 => Just(Op::Retention),
        2 => Just(Op::Flush),
        2 => Just(Op::FlushIfDue),
        2 => Just(Op::CheckpointRecoveryPoints),
        1 => Just(Op::CheckpointLogStarts),
        1 => Just(Op::CheckpointHighWatermarks),
        2 => (0..=1000i64).prop_map(Op::Truncate),
        1 => (0..50i64).prop_map(Op::StartAnew),
        1 => Just(Op::Kill),
        4 => loss().prop_map(Op::LosePower),
        2 => (any::<usize>(), 0..1000u64).prop_map(|(file, thousandths)| Op::FlipBit { file, thousandths }),
        1 => Just(Op::Stop),
    ]
}

/// The log as it must be.
struct Model {
    /// Log start offset.
    start: Offset,
    /// What the log-start checkpoint holds, if it names the log.
    checkpointed_start: Option<Offset>,
    /// Where the first segment begins.
    segments_start: Offset,
    /// Everything in the segments, with the largest timestamp of each batch; also what lies below the log start.
    batches: Vec<(BatchInfo, i64)>,
    /// Where the log ends: behind the last batch, or where it began anew.
    end: Offset,
    /// Everything below is durable.
    flushed: Offset,
    epoch: i32,
    wall_clock_ms: i64,
}

impl Model {
    fn infos(&self) -> Vec<BatchInfo> {
        self.batches.iter().map(|(info, _)| *info).collect()
    }

    /// The log ends behind its last batch, or where its last segment begins if that is empty: behind a gap.
    fn set_end(&mut self, active: Offset) {
        let end = self.batches.last().map_or(self.segments_start, |(batch, _)| batch.last_offset + 1);
        assert!(active <= self.end.max(end), "the last segment begins within the log");
        self.end = end.max(active);
        self.flushed = self.flushed.min(self.end);
        self.start = self.start.min(self.end);
    }

    /// After a crash: the log holds a prefix, at least all that was flushed.
    fn crashed(&mut self, recovery: &RecoveryReport, active: Offset) {
        if recovery.dropped.iter().any(|dropped| dropped.reason == DropReason::BelowLogStart) {
            let start = self.checkpointed_start.expect("only a checkpointed log start can lie beyond the log's end");
            assert!(recovery.batches.is_empty());
            let is_lost = |batch: &BatchInfo| batch.last_offset >= start && batch.base_offset < self.flushed;
            assert!(!self.infos().iter().any(is_lost), "the flushed log reached its start");
            return self.start_anew(start);
        }
        let kept = recovery.batches.len();
        assert!(kept <= self.batches.len(), "recovery invented batches");
        assert_eq!(recovery.batches, self.infos()[..kept], "recovery kept something else");
        let lost = self.batches[kept..].first();
        assert!(lost.is_none_or(|(lost, _)| lost.base_offset >= self.flushed), "{lost:?} was flushed and is lost");
        self.batches.truncate(kept);
        self.start = self.segments_start.max(self.checkpointed_start.unwrap_or(Offset::ZERO));
        self.set_end(active);
    }

    /// The checkpoint names a log only if it begins within a segment.
    fn start_checkpointed(&mut self) {
        self.checkpointed_start = (self.start > self.segments_start).then_some(self.start);
    }

    fn start_anew(&mut self, at: Offset) {
        self.batches.clear();
        (self.start, self.segments_start, self.end, self.flushed) = (at, at, at, at);
    }
}

struct Run {
    machine: Machine,
    config: LogConfig,
    directory: LogDirectory,
    log: Log,
    model: Model,
    now: Time,
    steps: usize,
}

impl Run {
    fn new(machine: Machine, config: LogConfig) -> Run {
        let (mut directory, _) = open_directory(&machine.disk(), &config);
        let log = directory.create_log(&orders(), TOPIC_ID, config.clone()).unwrap();
        let zero = Offset::ZERO;
        let model = Model {
            start: zero,
            checkpointed_start: None,
            segments_start: zero,
            batches: Vec::new(),
            end: zero,
            flushed: zero,
            epoch: 1,
            wall_clock_ms: 1_000_000,
        };
        Run { machine, config, directory, log, model, now: Time::ZERO, steps: 0 }
    }

    async fn step(&mut self, op: &Op) {
        match *op {
            Op::AppendAsLeader { records, value_bytes } => self.append_as_leader(records, value_bytes),
            Op::AppendAsFollower { batches, value_bytes, gap } => self.append_as_follower(batches, value_bytes, gap),
            Op::NextEpoch => {
                self.model.epoch += 1;
                self.log.assign_epoch_start(LeaderEpoch(self.model.epoch)).unwrap();
            }
            Op::HighWatermark(thousandths) => {
                let to = self.model.start + (self.model.end - self.model.start) * thousandths / 1000;
                assert_eq!(self.log.set_high_watermark(to), to);
            }
            Op::DeleteRecords(thousandths) => self.delete_records(thousandths),
            Op::Wait(ms) => {
                self.model.wall_clock_ms += ms;
                self.now += std::time::Duration::from_millis(ms as u64);
                self.log.remove_deleted_files(self.now).unwrap();
            }
            Op::Retention => self.retain(),
            Op::Flush => self.model.flushed = self.log.flush().unwrap(),
            Op::FlushIfDue => {
                let flushed = self.log.flush_if_due(self.model.wall_clock_ms).unwrap();
                self.model.flushed = flushed.unwrap_or(self.model.flushed);
            }
            Op::CheckpointRecoveryPoints => {
                self.directory.checkpoint_recovery_points([(&orders(), &self.log)].into_iter()).unwrap();
            }
            Op::CheckpointLogStarts => {
                self.directory.checkpoint_log_starts([(&orders(), &self.log)].into_iter()).unwrap();
                self.model.start_checkpointed();
            }
            Op::CheckpointHighWatermarks => {
                self.directory.checkpoint_high_watermarks([(&orders(), &self.log)].into_iter()).unwrap();
            }
            Op::Truncate(thousandths) => self.truncate(thousandths),
            Op::StartAnew(offset) => {
                self.log.truncate_fully_and_start_at(Offset(offset)).unwrap();
                self.model.start_anew(Offset(offset));
                self.checkpoint_truncation();
            }
            Op::Kill => self.kill().await,
            Op::LosePower(ref loss) => self.lose_power(loss).await,
            Op::FlipBit { file, thousandths } => self.flip_bit(file, thousandths).await,
            Op::Stop => self.stop().await,
            Op::CutShort { ref op, calls, ref loss } => self.cut_short(op, calls, loss.as_ref()).await,
        }
        self.check();
        self.steps += 1;
        if self.steps.is_multiple_of(16) {
            self.check_reads();
        }
    }

    fn append_as_leader(&mut self, records: usize, value_bytes: usize) {
        let batch = batch_of(records, value_bytes, self.model.wall_clock_ms);
        let epoch = LeaderEpoch(self.model.epoch);
        let appended = self.log.append_from_client(&batch, epoch, self.model.wall_clock_ms).unwrap();
        assert_eq!(appended.base_offset, self.model.end);
        assert_eq!(appended.last_offset + 1, appended.base_offset + records as i64);
        self.appended(&appended.batches, appended.flushed_to, records);
    }

    fn append_as_follower(&mut self, batches: usize, value_bytes: usize, gap: i64) {
        let batch = batch_of(2, value_bytes, self.model.wall_clock_ms);
        let from = self.model.end.0 + gap;
        let set: Vec<_> = (0..batches as i64).map(|at| stored(&batch, from + 2 * at, self.model.epoch)).collect();
        let appended = self.log.append_as_follower(&concat(&set), self.model.wall_clock_ms).unwrap();
        assert_eq!(appended.batches.len(), batches);
        self.appended(&appended.batches, appended.flushed_to, 2);
    }

    fn appended(&mut self, batches: &[BatchInfo], flushed_to: Option<Offset>, records: usize) {
        let max_timestamp = self.model.wall_clock_ms + records as i64 - 1;
        self.model.batches.extend(batches.iter().map(|batch| (*batch, max_timestamp)));
        self.model.end = batches.last().expect("something was appended").last_offset + 1;
        self.model.flushed = flushed_to.unwrap_or(self.model.flushed);
    }

    fn delete_records(&mut self, thousandths: i64) {
        let high_watermark = self.log.high_watermark();
        let to = self.model.start + (high_watermark - self.model.start) * thousandths / 1000;
        let moved = self.log.increment_log_start(to, LogStartReason::DeleteRecords).unwrap();
        assert_eq!(moved.is_some(), to > self.model.start);
        self.model.start = to;
    }

    /// Retention deletes what is old, beyond the size, or below the log start, nothing else, and stops only at what it
    /// may not delete.
    fn retain(&mut self) {
        let (size_before, end) = (self.log.size_bytes(), self.model.end);
        let moves = self.log.delete_old_segments(self.now, self.model.wall_clock_ms).unwrap();
        let first = self.log.segments[0].base_offset();
        let gone = self.model.batches.iter().take_while(|(batch, _)| batch.last_offset < first).count();
        let is_expired = |timestamp: i64| self.model.wall_clock_ms - timestamp > self.config.retention_ms;
        let by_time = moves.iter().find(|moved| moved.reason == LogStartReason::RetentionTime);
        for (batch, timestamp) in &self.model.batches[..gone] {
            let is_below_start = batch.last_offset < self.model.start;
            let is_too_much = by_time.is_none_or(|moved| batch.last_offset < moved.from)
                && size_before > self.config.retention_bytes as u64;
            assert!(is_below_start || is_too_much || is_expired(*timestamp), "{batch:?} was deleted too early");
        }
        assert!(first <= self.log.high_watermark().max(self.model.segments_start), "never beyond the high watermark");
        assert!(moves.windows(2).all(|pair| pair[0].to == pair[1].from));
        self.model.start = self.model.start.max(first);
        // Deleting all of it rolls, and rolling flushes.
        if self.model.batches.len() == gone && gone > 0 {
            self.model.flushed = end;
        }
        self.model.batches.drain(..gone);
        self.model.segments_start = first;
        let first_ends = self.log.segments.get(1).map_or(end, |next| next.base_offset());
        let may_go = first_ends <= self.log.high_watermark() && self.log.segments[0].size_bytes() > 0;
        let largest = self.model.batches.iter().take_while(|(batch, _)| batch.last_offset < first_ends);
        let largest = largest.map(|(_, timestamp)| *timestamp).max().unwrap_or(NO_TIMESTAMP);
        assert!(!may_go || !is_expired(largest), "an old segment was left");
        let rest = self.log.size_bytes() - self.log.segments[0].size_bytes();
        assert!(!may_go || rest < self.config.retention_bytes as u64, "too much was left");
    }

    fn truncate(&mut self, thousandths: i64) {
        let to = self.model.start + (self.model.end - self.model.start) * thousandths / 1000;
        self.log.truncate_to(to).unwrap();
        self.model.batches.retain(|(batch, _)| batch.last_offset < to);
        // Behind a gap nothing is cut, and the log ends where it was told to.
        self.model.end = if to >= self.model.end { self.model.end } else { self.log.log_end() };
        let last = self.model.batches.last().map_or(self.model.segments_start, |(batch, _)| batch.last_offset + 1);
        assert!(last <= self.model.end && self.model.end <= to.max(last));
        self.model.flushed = self.model.flushed.min(self.model.end);
        self.model.start = self.model.start.min(self.model.end);
        self.checkpoint_truncation();
    }

    fn checkpoint_truncation(&mut self) {
        self.directory.checkpoint_truncation([(&orders(), &self.log)].into_iter()).unwrap();
        self.model.start_checkpointed();
    }

    async fn kill(&mut self) {
        let disk = self.machine.kill().await;
        let held = self.model.infos();
        self.reopen(&disk, false);
        self.assert_kept(&held);
    }

    /// Nothing is gone, except that a log whose start lies behind its last record begins anew.
    fn assert_kept(&self, held: &[BatchInfo]) {
        let is_anew = self.model.batches.is_empty() && held.iter().all(|batch| batch.last_offset < self.model.start);
        assert!(self.model.infos() == held || is_anew, "without a power loss nothing is lost");
    }

    async fn lose_power(&mut self, loss: &Loss) {
        let mut rng = Rng::seed_from_u64(loss.seed);
        let disk = self.machine.lose_power_choosing(&mut |pending| loss.choose(pending, &mut rng)).await;
        self.reopen(&disk, false);
    }

    /// One bit of a `.log` or an index file flips while the process is down.
    async fn flip_bit(&mut self, file: usize, thousandths: u64) {
        let names = self.machine.disk().read_dir("data/orders-0").unwrap();
        let is_of_segment = |name: &&String| name.ends_with(".log") || name.ends_with("index");
        let names: Vec<&String> = names.iter().filter(is_of_segment).collect();
        let name = names[file % names.len()];
        let path = format!("data/orders-0/{name}");
        let disk = self.machine.kill().await;
        let at = disk.open(&path).unwrap().len() * thousandths / 1000;
        let hit = self.hit_batch(name, at);
        if hit == Some(Hit::Unnoticed) || self.machine.rot(&path, at, 0x04).is_err() {
            // The bit is none that the CRC covers, and nobody would notice; or the file is empty.
            return self.reopen(&disk, false);
        }
        let (directory, loaded) = self.open(&disk, false);
        (self.directory, self.log) = (directory, loaded.log);
        let rotten = match hit {
            Some(Hit::Batch(base_offset)) => base_offset,
            Some(Hit::Unnoticed) | None => Offset(-1),
        };
        if !loaded.recovery.dropped.is_empty() {
            if rotten >= Offset::ZERO {
                self.model.flushed = self.model.flushed.min(rotten);
            }
            let held = self.model.infos();
            self.model.crashed(&loaded.recovery, active(&self.log));
            let is_cut_only = loaded.recovery.dropped.iter().all(|dropped| match dropped.reason {
                DropReason::Corrupt | DropReason::BehindCorruption => true,
                DropReason::BelowLogStart | DropReason::Overlap => false,
            });
            let first_lost = held.get(self.model.batches.len()).map(|batch| batch.base_offset);
            assert!(!is_cut_only || first_lost == Some(rotten), "recovery cuts at the flipped bit");
            return self.check_reads();
        }
        // The segment is trusted: as long as the bit is flipped, nobody is served the batch.
        let held = self.model.infos();
        let differs = |batch: &&BatchInfo| batch.base_offset != rotten && !held.contains(batch);
        assert_eq!(loaded.recovery.batches.iter().find(differs), None, "recovery kept something else");
        self.check_reads_around(rotten);
        if hit.is_none() {
            // An index: it was rebuilt, or nobody looks at that entry.
            self.model.crashed(&loaded.recovery, active(&self.log));
            return self.assert_kept(&held);
        }
        let disk = self.machine.kill().await;
        self.machine.rot(&path, at, 0x04).unwrap();
        self.reopen(&disk, false);
        self.assert_kept(&held);
    }

    fn hit_batch(&self, name: &str, at: u64) -> Option<Hit> {
        let base_offset = super::segment::base_offset(name, "log")?;
        let segment = self.log.segments.iter().find(|segment| segment.base_offset() == base_offset)?;
        let batch = segment.batches().iter().find(|batch| {
            let start = u64::from(batch.position);
            (start..start + u64::from(batch.size_bytes)).contains(&at)
        })?;
        let within = at - u64::from(batch.position);
        // Base offset and leader epoch lie outside the CRC.
        let is_unnoticed = (0..8).contains(&within) || (12..16).contains(&within);
        Some(if is_unnoticed { Hit::Unnoticed } else { Hit::Batch(batch.info.base_offset) })
    }

    async fn stop(&mut self) {
        self.directory.close([(&orders(), &mut self.log)].into_iter(), BrokerEpoch(3)).unwrap();
        self.model.flushed = self.model.end;
        self.model.start_checkpointed();
        let disk = self.machine.lose_power().await;
        let held = self.model.infos();
        self.reopen(&disk, true);
        self.assert_kept(&held);
    }

    fn open(&self, disk: &Disk, is_clean: bool) -> (LogDirectory, LoadedLog) {
        let (directory, mut logs) = open_directory(disk, &self.config);
        let loaded = logs.pop().expect("the log is there");
        assert_eq!(loaded.recovery.clean, is_clean);
        (directory, loaded)
    }

    fn reopen(&mut self, disk: &Disk, is_clean: bool) {
        let (directory, loaded) = self.open(disk, is_clean);
        self.model.crashed(&loaded.recovery, active(&loaded.log));
        (self.directory, self.log) = (directory, loaded.log);
        self.check_reads();
    }

    fn check(&self) {
        let (log, model) = (&self.log, &self.model);
        assert_eq!((log.log_start(), log.log_end()), (model.start, model.end));
        assert!((log.log_start()..=log.log_end()).contains(&log.high_watermark()));
        let (recovery_point, flushed) = (log.recovery_point(), model.flushed.max(model.start));
        assert!(recovery_point <= flushed, "{recovery_point} counts as flushed, {flushed} is");
        assert_eq!(log.segments[0].base_offset(), model.segments_start);
        assert!(log.epochs().entries().iter().all(|entry| entry.1 <= model.end));
    }

    fn check_reads(&self) {
        let model = &self.model;
        assert_eq!(self.log.batches(), model.infos());
        let served: Vec<BatchInfo> = model.infos().into_iter().filter(|b| b.last_offset >= model.start).collect();
        assert_eq!(self.read_from(model.start), served, "reads serve what was appended, with valid CRCs");
        for batch in &served {
            // Below the first entry lies what a crash brought back after the log start had moved.
            let epoch = self.log.epochs().epoch_at(batch.base_offset.max(model.start));
            assert!(epoch.is_none_or(|epoch| epoch == batch.leader_epoch));
        }
        let latest = model.batches.iter().map(|(_, timestamp)| *timestamp).max();
        assert_eq!(self.log.max_timestamp().unwrap().map(|(_, timestamp)| timestamp), latest);
    }

    /// A batch on a sealed, flushed segment is rotten: it is served by nobody, or its CRC tells on it.
    fn check_reads_around(&self, rotten: Offset) {
        let mut at = self.model.start;
        while at < self.model.end {
            let Ok(records) = self.log.read(at, self.model.end, 1, true) else { return };
            let Ok(read) = super::batch::split(&records.into_bytes(), true) else { return };
            let Some(batch) = read.last().map(|batch| batch.info()) else { return };
            assert_ne!(batch.base_offset, rotten, "the rotten batch passes for a good one");
            assert!(self.model.infos().contains(&batch), "{batch:?} was never appended");
            at = batch.last_offset + 1;
        }
    }

    fn read_from(&self, mut at: Offset) -> Vec<BatchInfo> {
        let mut batches = Vec::new();
        while at < self.log.log_end() {
            let records = self.log.read(at, self.log.log_end(), 3_000, true).unwrap();
            let read = super::batch::split(&records.into_bytes(), true).unwrap();
            let Some(last) = read.last() else { break };
            at = last.info().last_offset + 1;
            batches.extend(read.iter().map(|batch| batch.info()));
        }
        batches
    }
}

/// Base offset of the active segment.
fn active(log: &Log) -> Offset {
    log.segments.last().expect("a log always has an active segment").base_offset()
}

/// Where a flipped bit lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hit {
    Batch(Offset),
    Unnoticed,
}

/// The same cases every time, unless more are asked for.
fn cases() -> ProptestConfig {
    let wanted = std::env::var("FAULTLINE_LOG_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        failure_persistence: None,
        cases: wanted.unwrap_or(CASES),
        rng_seed: if wanted.is_none() { RngSeed::Fixed(1) } else { RngSeed::Random },
        max_shrink_iters: 4_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn nothing_flushed_is_lost_and_nothing_corrupt_is_served(
        ops in proptest::collection::vec(op(), 150..250),
        segment_bytes in 12_000..40_000u64,
        segment_ms in prop_oneof![Just(u64::MAX), 1..2_000u64],
        segment_index_bytes in prop_oneof![Just(10_485_760u64), 40..80u64],
        flush_messages in prop_oneof![2 => Just(u64::MAX), 1 => 1..20u64],
        flush_ms in prop_oneof![Just(u64::MAX), 1..500u64],
        retention_ms in prop_oneof![Just(i64::MAX), 100..3_000i64],
        retention_bytes in prop_oneof![Just(i64::MAX), 10_000..100_000i64],
    ) {
        let config = LogConfig {
            segment_bytes,
            segment_ms,
            segment_index_bytes,
            flush_messages,
            flush_ms,
            retention_ms,
            retention_bytes,
            file_delete_delay_ms: 300,
            ..LogConfig::default()
        };
        Machine::run(|machine| async move {
            let mut run = Run::new(machine, config);
            for op in &ops {
                run.step(op).await;
            }
        });
    }

    /// Whatever file rots, in whatever state: opening the directory ends, in a log or in an error, and so does reading.
    #[test]
    fn recovery_ends_whatever_file_rots(
        ops in proptest::collection::vec(op(), 1..40),
        is_stopped: bool,
        flips in proptest::collection::vec((any::<usize>(), any::<u64>(), 0..8u8), 1..4),
    ) {
        let config = LogConfig { segment_bytes: 12_000, ..LogConfig::default() };
        Machine::run(|machine| async move {
            let mut run = Run::new(machine, config);
            for op in &ops {
                run.step(op).await;
            }
            if is_stopped {
                run.directory.close([(&orders(), &mut run.log)].into_iter(), BrokerEpoch(3)).unwrap();
            }
            let disk = run.machine.kill().await;
            for (file, at, bit) in flips {
                let paths = files(&disk);
                let path = &paths[file % paths.len()];
                let len = disk.open(path).unwrap().len();
                if len > 0 {
                    run.machine.rot(path, at % len, 1 << bit).unwrap();
                }
            }
            let Ok((_, logs)) = try_open_directory(&disk, &run.config) else { return };
            for loaded in logs {
                let mut at = loaded.log.log_start();
                while let Ok(records) = loaded.log.read(at, loaded.log.log_end(), 1, true) {
                    let Ok(read) = super::batch::split(&records.into_bytes(), false) else { break };
                    let Some(last) = read.last().map(|batch| batch.info().last_offset).filter(|last| *last >= at) else { break };
                    at = last + 1;
                }
            }
        });
    }
}

/// Every file below `data`.
fn files(disk: &Disk) -> Vec<String> {
    let mut paths = Vec::new();
    for name in disk.read_dir("data").unwrap() {
        let path = format!("data/{name}");
        match disk.read_dir(&path) {
            Ok(names) => paths.extend(names.iter().map(|name| format!("{path}/{name}"))),
            Err(_) => paths.push(path),
        }
    }
    paths
}
