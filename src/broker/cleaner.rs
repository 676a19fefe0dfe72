//! Which log is compacted when (`LogCleaner.CleanerThread`, `LogCleanerManager.grabFilthiestCompactedLog`): every
//! `log.cleaner.backoff.ms` one log after another, the dirtiest first, until none is worth it. A compaction takes no
//! simulated time.

use super::log_dirs::{DirFailure, InDir};
use super::{Broker, Key};
use crate::log::{CleanError, Dirt};
use crate::world::Time;

impl Broker {
    /// Compacts what is worth it.
    pub(super) fn clean_logs(&mut self, now: Time) {
        let wall_clock_ms = self.world.wall_clock_ms();
        // Another task of this moment may have lost the last log directory.
        while !self.is_finished {
            let cleaned = match self.filthiest_log(wall_clock_ms) {
                Ok(None) => return,
                Ok(Some((key, dirt))) => self.clean_log(now, wall_clock_ms, key, &dirt),
                Err(failure) => Err(failure),
            };
            self.or_fail(now, cleaned);
        }
    }

    fn clean_log(&mut self, now: Time, wall_clock_ms: i64, key: Key, dirt: &Dirt) -> Result<(), DirFailure> {
        let hosted = self.partitions.get_mut(&key).expect("it was found among them");
        let (dir, partition) = (hosted.dir, hosted.partition.topic_partition().clone());
        match hosted.partition.clean(now, &self.env, dirt, wall_clock_ms) {
            Ok(end) => {
                let directory = self.log_dirs.get_mut(dir).expect("hosted partitions are in directories online");
                directory.checkpoint_cleaned(partition, end).in_dir(dir)
            }
            Err(CleanError::Io(error)) => Err(DirFailure { dir, error }),
            Err(error @ CleanError::Corrupt { .. }) => {
                tracing::warn!(broker = self.env.id.0, %partition, %error, "the log is not compacted any more");
                self.uncleanable.insert(partition);
                Ok(())
            }
        }
    }

    /// The dirtiest of the logs that are worth cleaning.
    fn filthiest_log(&mut self, wall_clock_ms: i64) -> Result<Option<(Key, Dirt)>, DirFailure> {
        let mut filthiest: Option<(Key, Dirt)> = None;
        for (key, hosted) in &self.partitions {
            let (partition, log) = (hosted.partition.topic_partition(), hosted.partition.log());
            if !log.config().cleanup_policy.compacts() || self.uncleanable.contains(partition) {
                continue;
            }
            let directory = self.log_dirs.get_mut(hosted.dir).expect("hosted partitions are in directories online");
            let dirt = log.dirt(directory.cleaned_to(partition), wall_clock_ms);
            if dirt.checkpoint_was_invalid {
                directory.checkpoint_cleaned(partition.clone(), dirt.first_dirty).in_dir(hosted.dir)?;
            }
            let is_dirtier = filthiest.as_ref().is_none_or(|(_, other)| dirt.cmp_ratio(other).is_gt());
            if is_dirtier && log.is_worth_cleaning(&dirt) {
                filthiest = Some((*key, dirt));
            }
        }
        Ok(filthiest)
    }
}
