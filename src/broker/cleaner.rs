//! Which log is compacted when (`LogCleaner.CleanerThread`, `LogCleanerManager.grabFilthiestCompactedLog`): every
//! `log.cleaner.backoff.ms` one log after another, the dirtiest first, until none is worth it. A compaction takes no
//! simulated time.

use std::io;

use super::{Broker, Key};
use crate::log::{CleanError, Dirt};
use crate::world::Time;

impl Broker {
    /// Compacts what is worth it. Errors are the disk's.
    pub(super) fn clean_logs(&mut self, now: Time) -> io::Result<()> {
        let wall_clock_ms = self.world.wall_clock_ms();
        while let Some((key, dirt)) = self.filthiest_log(wall_clock_ms)? {
            let hosted = self.partitions.get_mut(&key).expect("it was found among them");
            let partition = hosted.partition.topic_partition().clone();
            match hosted.partition.clean(now, &self.env, &dirt, wall_clock_ms) {
                Ok(end) => self.log_dir.checkpoint_cleaned(partition, end)?,
                Err(CleanError::Io(error)) => return Err(error),
                Err(error @ CleanError::Corrupt { .. }) => {
                    tracing::warn!(broker = self.env.id.0, %partition, %error, "the log is not compacted any more");
                    self.uncleanable.insert(partition);
                }
            }
        }
        Ok(())
    }

    /// The dirtiest of the logs that are worth cleaning.
    fn filthiest_log(&mut self, wall_clock_ms: i64) -> io::Result<Option<(Key, Dirt)>> {
        let mut filthiest: Option<(Key, Dirt)> = None;
        for (key, hosted) in &self.partitions {
            let (partition, log) = (hosted.partition.topic_partition(), hosted.partition.log());
            if !log.config().cleanup_policy.compacts() || self.uncleanable.contains(partition) {
                continue;
            }
            let dirt = log.dirt(self.log_dir.cleaned_to(partition), wall_clock_ms);
            if dirt.checkpoint_was_invalid {
                self.log_dir.checkpoint_cleaned(partition.clone(), dirt.first_dirty)?;
            }
            let is_dirtier = filthiest.as_ref().is_none_or(|(_, other)| dirt.cmp_ratio(other).is_gt());
            if is_dirtier && log.is_worth_cleaning(&dirt) {
                filthiest = Some((*key, dirt));
            }
        }
        Ok(filthiest)
    }
}
