//! A crash within an operation: between any two changes that it makes to the disk. Recovery is an operation too.

use std::io;

use super::compaction::{Cleaning, held_by, table};
use super::*;
use crate::log::{CleanError, Log};

/// What an operation that was cut short may have done to the log.
struct Reach {
    /// So many of the oldest batches may be gone, the oldest of all first.
    deletable: usize,
    /// What ends below is there, but for the deletable ones.
    kept_to: Offset,
    /// What may be there besides.
    appended: Vec<Held>,
    /// What it may have compacted.
    cleaning: Option<Cleaning>,
}

impl Run {
    /// Does `op` until the process dies instead of making another change to the disk after `calls`, and the power is
    /// lost with it if `loss` says so. What was flushed is still there, but for what the operation was to remove.
    pub(super) async fn cut_short(&mut self, op: &Op, calls: u64, loss: Option<&Loss>) {
        if let Op::LosePower(first) = op {
            // The recovery that follows is what is cut short.
            let mut rng = Rng::seed_from_u64(first.seed);
            self.machine.lose_power_choosing(&mut |pending| first.choose(pending, &mut rng)).await;
        }
        self.machine.crash_after_disk_calls(calls);
        let mut reach = self.reach(op);
        // It may have been over before.
        let _ = self.attempt(op, &mut reach);
        let disk = match loss {
            None => self.machine.kill().await,
            Some(loss) => {
                reach.kept_to = reach.kept_to.min(self.model.flushed);
                let mut rng = Rng::seed_from_u64(loss.seed);
                self.machine.lose_power_choosing(&mut |pending| loss.choose(pending, &mut rng)).await
            }
        };
        let (directory, mut logs) = open_directory(&disk, &self.config);
        let loaded = logs.pop().expect("the log is there");
        (self.directory, self.log) = (directory, loaded.log);
        self.model.cut_short(&loaded.recovery, &self.log, reach);
        self.directory.checkpoint_log_starts([(&orders(), &self.log)].into_iter()).unwrap();
        self.model.start_checkpointed();
        if loss.is_none() {
            // What an interrupted operation removed, and did not come to sync, a power loss before the next flush would bring
            // back: as if it had not begun, and as Kafka leaves it with every truncation.
            self.model.flushed = self.log.flush().unwrap();
        }
        self.check_reads();
    }

    fn reach(&self, op: &Op) -> Reach {
        let mut reach = Reach { deletable: 0, kept_to: self.model.end, appended: Vec::new(), cleaning: None };
        match *op {
            Op::Retention => reach.deletable = self.model.batches.len(),
            Op::Clean { .. } => {
                reach.cleaning = self.dirt().map(|dirt| Cleaning::new(&self.model, &dirt, &self.config));
            }
            Op::StartAnew(_) => reach.kept_to = Offset::ZERO,
            Op::Truncate(thousandths) => reach.kept_to = self.at_thousandths(thousandths),
            Op::LosePower(_) => reach.kept_to = self.model.flushed,
            _ => {}
        }
        reach
    }

    /// Does the operation to the log and its directory, and nothing to the model.
    fn attempt(&mut self, op: &Op, reach: &mut Reach) -> io::Result<()> {
        let logs = |log| [(&*ORDERS, log)].into_iter();
        let wall_clock_ms = self.model.wall_clock_ms;
        match *op {
            Op::AppendAsLeader(ref records) => {
                let batch = self.batch_of(&records_of(records));
                reach.append(&stored(&batch, self.model.end.0, self.model.epoch));
                written(self.log.append_from_client(&batch, LeaderEpoch(self.model.epoch), wall_clock_ms))
            }
            Op::AppendAsFollower { batches, ref records, gap } => {
                let set = self.sent_by_leader(batches, &records_of(records), gap);
                set.iter().for_each(|batch| reach.append(batch));
                written(self.log.append_as_follower(&concat(&set), wall_clock_ms))
            }
            Op::NextEpoch => {
                self.model.epoch += 1;
                self.log.assign_epoch_start(LeaderEpoch(self.model.epoch))
            }
            Op::DeleteRecords(thousandths) => {
                let to = self.model.start + (self.log.high_watermark() - self.model.start) * thousandths / 1000;
                self.log.increment_log_start(to, LogStartReason::DeleteRecords).map(drop)
            }
            Op::Wait(ms) => {
                self.now += std::time::Duration::from_millis(ms as u64);
                self.log.remove_deleted_files(self.now).map(drop)
            }
            Op::Retention => {
                self.log.delete_old_segments(self.now, wall_clock_ms)?;
                let start = self.log.segments[0].base_offset();
                let is_below = |batch: &&Held| batch.info.last_offset < start;
                reach.deletable = self.model.batches.iter().take_while(is_below).count();
                Ok(())
            }
            Op::Clean { keys_max } => {
                let Some(dirt) = self.dirt().filter(|dirt| self.log.is_worth_cleaning(dirt)) else { return Ok(()) };
                match self.log.clean(&dirt, wall_clock_ms, keys_max) {
                    Ok(cleaned) => self.directory.checkpoint_cleaned(orders(), cleaned.end),
                    Err(CleanError::Io(error)) => Err(error),
                    Err(error @ CleanError::Corrupt { .. }) => panic!("{error}"),
                }
            }
            Op::Flush => self.log.flush().map(drop),
            Op::FlushIfDue => self.log.flush_if_due(wall_clock_ms).map(drop),
            Op::CheckpointRecoveryPoints => self.directory.checkpoint_recovery_points(logs(&self.log)),
            Op::CheckpointLogStarts => self.directory.checkpoint_log_starts(logs(&self.log)),
            Op::CheckpointHighWatermarks => self.directory.checkpoint_high_watermarks(logs(&self.log)),
            Op::Truncate(thousandths) => {
                self.log.truncate_to(self.at_thousandths(thousandths))?;
                self.directory.checkpoint_truncation(logs(&self.log))
            }
            Op::StartAnew(offset) => {
                self.log.truncate_fully_and_start_at(Offset(offset))?;
                self.directory.checkpoint_truncation(logs(&self.log))
            }
            Op::Stop => self.directory.close([(&*ORDERS, &mut self.log)].into_iter(), BrokerEpoch(3)),
            Op::LosePower(_) => try_open_directory(&self.machine.disk(), &self.config).map(drop),
            Op::HighWatermark(_) | Op::Kill | Op::FlipBit { .. } | Op::CutShort { .. } => Ok(()),
        }
    }

    fn at_thousandths(&self, thousandths: i64) -> Offset {
        self.model.start + (self.model.end - self.model.start) * thousandths / 1000
    }
}

/// The disk is the only reason for an append to fail here.
fn written(appended: Result<crate::log::Appended, crate::log::AppendError>) -> io::Result<()> {
    match appended {
        Ok(_) => Ok(()),
        Err(crate::log::AppendError::Io(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

impl Reach {
    fn append(&mut self, batch: &Bytes) {
        self.appended.push(Held::parse(batch));
    }

    /// Whether a cleaning may have taken all of the batch.
    fn may_be_compacted(&self, batch: &Held) -> bool {
        self.cleaning.as_ref().is_some_and(|cleaning| cleaning.may_vanish(batch))
    }
}

impl Model {
    /// The log holds what it may, and the model goes on with that.
    fn cut_short(&mut self, recovery: &RecoveryReport, log: &Log, mut reach: Reach) {
        let appended = std::mem::take(&mut reach.appended);
        let before: Vec<Held> = std::mem::take(&mut self.batches).into_iter().chain(appended).collect();
        let held = held_by(log);
        assert!(held.iter().map(|batch| &batch.info).eq(&recovery.batches), "recovery tells what is there");
        // A recovery that found the log to end below its start, and was itself interrupted, leaves nothing to be told of.
        let began_anew =
            held.is_empty() || recovery.dropped.iter().any(|dropped| dropped.reason == DropReason::BelowLogStart);
        let mut found = held.iter().peekable();
        let (mut is_over, mut has_begun) = (false, false);
        for (at, batch) in before.iter().enumerate() {
            if let Some(found) = found.next_if(|found| found.info.base_offset == batch.info.base_offset) {
                assert!(!is_over, "{batch:?} is there and one before it is not");
                match &reach.cleaning {
                    Some(cleaning) => cleaning.assert_reduced(batch, found),
                    None => assert_eq!(found, batch),
                }
                has_begun = true;
                continue;
            }
            let is_below_start = began_anew && batch.info.last_offset < log.log_start();
            let may_be_gone = at < reach.deletable && !has_begun || reach.may_be_compacted(batch);
            let is_lost = !may_be_gone && batch.info.last_offset < reach.kept_to && !is_below_start;
            assert!(!is_lost, "{batch:?} is lost");
            is_over |= !may_be_gone;
        }
        assert_eq!(found.next(), None, "recovery invented batches");
        if reach.cleaning.is_some() {
            let kept = before.iter().filter(|batch| batch.info.last_offset < log.log_end());
            assert_eq!(table(kept, log.log_start()), table(held.iter(), log.log_start()));
        }
        self.batches = held;
        self.segments_start = log.segments[0].base_offset();
        self.start = log.log_start();
        self.end = log.log_end();
        let ends = self.batches.last().map_or(self.segments_start, |batch| batch.info.last_offset + 1);
        assert_eq!(self.end, ends.max(active(log)));
        // What the log counts as flushed it is held to from now on: an orderly stop got as far as that, perhaps.
        self.flushed = if recovery.clean { self.end } else { self.flushed.min(self.end).max(log.recovery_point()) };
    }
}
