//! A log driven at random on a disk that dies, against a plain model: nothing flushed is ever lost, nothing
//! corrupt or reordered is served, recovery always ends.

use proptest::prelude::*;

use super::testing::*;
use super::{Log, LogConfig, LogDirectory};
use crate::observe::BatchInfo;
use crate::protocol::{BrokerEpoch, LeaderEpoch, Offset};
use crate::world::Disk;

#[derive(Clone, Debug)]
enum Op {
    AppendAsLeader {
        records: usize,
        value_bytes: usize,
    },
    AppendAsFollower {
        batches: usize,
        value_bytes: usize,
    },
    NextEpoch,
    Flush,
    Checkpoint,
    /// To this many thousandths of the log.
    Truncate(i64),
    StartAnew(i64),
    Kill,
    LosePower,
    /// A power loss that keeps some thousandths of what was not flushed.
    TearTail(u64),
    /// A crash, and one bit of what was not flushed flips.
    FlipBit(u64),
    Stop,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1..5usize, 0..200usize).prop_map(|(records, value_bytes)| Op::AppendAsLeader { records, value_bytes }),
        4 => (1..4usize, 0..100usize).prop_map(|(batches, value_bytes)| Op::AppendAsFollower { batches, value_bytes }),
        2 => Just(Op::NextEpoch),
        2 => Just(Op::Flush),
        2 => Just(Op::Checkpoint),
        2 => (0..=1000i64).prop_map(Op::Truncate),
        1 => (0..50i64).prop_map(Op::StartAnew),
        1 => Just(Op::Kill),
        2 => Just(Op::LosePower),
        2 => (0..1000u64).prop_map(Op::TearTail),
        2 => (0..1000u64).prop_map(Op::FlipBit),
        1 => Just(Op::Stop),
    ]
}

/// The log as it must be.
struct Model {
    start: Offset,
    batches: Vec<BatchInfo>,
    /// Everything below is durable.
    flushed: Offset,
    epoch: i32,
    timestamp: i64,
}

impl Model {
    fn end(&self) -> Offset {
        self.batches.last().map_or(self.start, |batch| batch.last_offset + 1)
    }

    /// After a crash: the log holds a prefix, at least all that was flushed.
    fn crashed(&mut self, recovered: &[BatchInfo]) {
        let kept = recovered.len();
        assert!(kept <= self.batches.len(), "recovery invented batches");
        assert_eq!(recovered, &self.batches[..kept], "recovery kept something else");
        let lost = self.batches[kept..].first();
        assert!(lost.is_none_or(|lost| lost.base_offset >= self.flushed), "{lost:?} was flushed and is lost");
        self.batches.truncate(kept);
    }
}

struct Run {
    machine: Machine,
    config: LogConfig,
    directory: LogDirectory,
    log: Log,
    model: Model,
}

impl Run {
    fn new(machine: Machine, config: LogConfig) -> Run {
        let (mut directory, _) = open_directory(&machine.disk(), &config);
        let log = directory.create_log(&orders(), TOPIC_ID, config.clone()).unwrap();
        let start = Offset::ZERO;
        let model = Model { start, batches: Vec::new(), flushed: start, epoch: 1, timestamp: 0 };
        Run { machine, config, directory, log, model }
    }

    async fn step(&mut self, op: &Op) {
        match *op {
            Op::AppendAsLeader { records, value_bytes } => self.append_as_leader(records, value_bytes),
            Op::AppendAsFollower { batches, value_bytes } => self.append_as_follower(batches, value_bytes),
            Op::NextEpoch => {
                self.model.epoch += 1;
                self.log.assign_epoch_start(LeaderEpoch(self.model.epoch)).unwrap();
            }
            Op::Flush => self.model.flushed = self.log.flush().unwrap(),
            Op::Checkpoint => self.checkpoint(),
            Op::Truncate(thousandths) => self.truncate(thousandths),
            Op::StartAnew(offset) => {
                self.log.truncate_fully_and_start_at(Offset(offset)).unwrap();
                self.model.start = Offset(offset);
                self.model.batches.clear();
                self.model.flushed = Offset(offset);
                self.checkpoint();
            }
            Op::Kill => {
                let disk = self.machine.kill().await;
                let held = self.model.batches.clone();
                self.reopen(&disk, false);
                assert_eq!(self.model.batches, held, "a killed process loses nothing");
            }
            Op::LosePower => {
                let disk = self.machine.lose_power().await;
                self.reopen(&disk, false);
            }
            Op::TearTail(thousandths) => {
                let (path, flushed, size) = self.unflushed_bytes();
                let disk = self.machine.kill().await;
                let kept = flushed + (size - flushed) * thousandths / 1000;
                let mut file = disk.open(&path).unwrap();
                file.truncate(kept).unwrap();
                file.sync().unwrap();
                self.reopen(&disk, false);
            }
            Op::FlipBit(thousandths) => self.flip_bit(thousandths).await,
            Op::Stop => self.stop().await,
        }
        self.check();
    }

    fn append_as_leader(&mut self, records: usize, value_bytes: usize) {
        self.model.timestamp += 1;
        let batch = batch_of(records, value_bytes, self.model.timestamp);
        let appended = self.log.append_from_client(&batch, LeaderEpoch(self.model.epoch), 0).unwrap();
        assert_eq!(appended.base_offset, self.model.end());
        self.appended(&appended.batches, appended.flushed_to);
        assert_eq!(appended.last_offset + 1, self.model.end());
    }

    fn append_as_follower(&mut self, batches: usize, value_bytes: usize) {
        self.model.timestamp += 1;
        let batch = batch_of(2, value_bytes, self.model.timestamp);
        let from = self.model.end().0;
        let set: Vec<_> = (0..batches as i64).map(|at| stored(&batch, from + 2 * at, self.model.epoch)).collect();
        let appended = self.log.append_as_follower(&concat(&set), 0).unwrap();
        assert_eq!(appended.batches.len(), batches);
        self.appended(&appended.batches, appended.flushed_to);
    }

    fn appended(&mut self, batches: &[BatchInfo], flushed_to: Option<Offset>) {
        self.model.batches.extend(batches);
        self.model.flushed = flushed_to.unwrap_or(self.model.flushed);
    }

    fn truncate(&mut self, thousandths: i64) {
        let to = self.model.start + (self.model.end() - self.model.start) * thousandths / 1000;
        self.log.truncate_to(to).unwrap();
        self.model.batches.retain(|batch| batch.last_offset < to);
        self.model.flushed = self.model.flushed.min(self.model.end());
        self.checkpoint();
    }

    fn checkpoint(&mut self) {
        self.directory.checkpoint_truncation([(&orders(), &self.log)].into_iter()).unwrap();
    }

    /// Path of the active segment, bytes of it that are flushed, and all of its bytes.
    fn unflushed_bytes(&self) -> (String, u64, u64) {
        let active = self.log.segments.last().unwrap();
        let path = super::segment::log_path("data/orders-0", active.base_offset());
        let flushed = active.batches().iter().filter(|batch| batch.info.last_offset < self.model.flushed);
        (path, flushed.map(|batch| u64::from(batch.size_bytes)).sum(), active.size_bytes())
    }

    async fn flip_bit(&mut self, thousandths: u64) {
        let (path, flushed, size) = self.unflushed_bytes();
        let at = flushed + (size - flushed) * thousandths / 1000;
        let active = self.log.segments.last().unwrap();
        let hit = active.batches().iter().find(|batch| {
            let start = u64::from(batch.position);
            (start..start + u64::from(batch.size_bytes)).contains(&at)
        });
        let hit = hit.map(|batch| (batch.info.base_offset, at - u64::from(batch.position)));
        let disk = self.machine.kill().await;
        match hit {
            // Base offset and leader epoch lie outside the CRC: nobody notices those.
            Some((base_offset, within)) if !(0..8).contains(&within) && !(12..16).contains(&within) => {
                flip_bit(&disk, &path, at);
                self.reopen(&disk, false);
                assert_eq!(self.model.end(), base_offset, "recovery cuts at the flipped bit");
            }
            Some(_) | None => self.reopen(&disk, false),
        }
    }

    async fn stop(&mut self) {
        self.directory.close([(&orders(), &mut self.log)].into_iter(), BrokerEpoch(3)).unwrap();
        let disk = self.machine.lose_power().await;
        let held = self.model.batches.clone();
        self.reopen(&disk, true);
        assert_eq!(self.model.batches, held, "an orderly stop loses nothing");
        self.model.flushed = self.model.end();
    }

    fn reopen(&mut self, disk: &Disk, is_clean: bool) {
        let (directory, mut logs) = open_directory(disk, &self.config);
        let loaded = logs.pop().expect("the log is there");
        assert_eq!(loaded.recovery.clean, is_clean);
        self.model.crashed(&loaded.recovery.batches);
        self.directory = directory;
        self.log = loaded.log;
        self.model.flushed = self.model.flushed.min(self.model.end());
    }

    fn check(&self) {
        let (log, model) = (&self.log, &self.model);
        assert_eq!((log.log_start(), log.log_end()), (model.start, model.end()));
        assert_eq!(log.batches(), model.batches);
        assert!(log.recovery_point() <= model.flushed.max(model.start), "nothing unflushed counts as flushed");
        assert_eq!(self.read_all(), model.batches, "reads serve what was appended, with valid CRCs");
        for batch in &model.batches {
            assert_eq!(log.epochs().epoch_at(batch.base_offset), Some(batch.leader_epoch));
        }
        assert!(log.epochs().entries().iter().all(|entry| entry.1 <= model.end()));
    }

    fn read_all(&self) -> Vec<BatchInfo> {
        let mut at = self.log.log_start();
        let mut batches = Vec::new();
        while at < self.log.log_end() {
            let records = self.log.read(at, self.log.log_end(), 300, true).unwrap();
            let read = super::batch::split(&records, true).unwrap();
            at = read.last().expect("a read below the log end makes progress").info().last_offset + 1;
            batches.extend(read.iter().map(|batch| batch.info()));
        }
        batches
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_flushed_is_lost_and_nothing_corrupt_is_served(
        ops in proptest::collection::vec(op(), 1..60),
        segment_bytes in 1_200..4_000u64,
        flush_messages in prop_oneof![Just(u64::MAX), 1..20u64],
    ) {
        let config = LogConfig { segment_bytes, flush_messages, ..LogConfig::default() };
        Machine::run(|machine| async move {
            let mut run = Run::new(machine, config);
            for op in &ops {
                run.step(op).await;
            }
        });
    }
}
