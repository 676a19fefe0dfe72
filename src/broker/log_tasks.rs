//! The periodic care for the logs: checkpoints, flushes by time, retention, compaction, removal of deleted files
//! (`LogManager.startup`, `ReplicaManager.startHighWatermarkCheckPointThread`).

use std::io;
use std::time::Duration;

use super::{Broker, logs};
use crate::config::BrokerConfig;
use crate::observe::Observation;
use crate::world::Time;

/// When each task is due next.
pub(super) struct LogTasks {
    high_watermarks: Time,
    recovery_points: Time,
    log_starts: Time,
    retention: Time,
    /// `None`: never.
    flush: Option<Time>,
    /// When the first files of deleted segments go.
    deleted_files: Option<Time>,
    /// `None`: never (`log.cleaner.enable`).
    cleaner: Option<Time>,
    /// The earliest of them.
    next: Time,
}

impl LogTasks {
    pub fn new(now: Time, config: &BrokerConfig) -> LogTasks {
        let first = now + config.log_initial_task_delay;
        let mut tasks = LogTasks {
            high_watermarks: now + config.replica_high_watermark_checkpoint_interval,
            recovery_points: first,
            log_starts: first,
            retention: first,
            flush: flush_interval(config).map(|_| first),
            deleted_files: None,
            cleaner: config.log_cleaner_enable.then_some(now + config.log_cleaner_backoff),
            next: now,
        };
        tasks.set_next();
        tasks
    }

    pub fn next(&self) -> Time {
        self.next
    }

    fn set_next(&mut self) {
        let always = self.high_watermarks.min(self.recovery_points).min(self.log_starts).min(self.retention);
        let sometimes = [self.flush, self.deleted_files, self.cleaner];
        self.next = sometimes.into_iter().flatten().fold(always, Time::min);
    }
}

/// `log.flush.scheduler.interval.ms`, unless it is so long that it means never.
fn flush_interval(config: &BrokerConfig) -> Option<Duration> {
    (config.log_flush_scheduler_interval_ms != u64::MAX)
        .then(|| Duration::from_millis(config.log_flush_scheduler_interval_ms))
}

impl Broker {
    /// Does what is due. Errors are the disk's.
    pub(super) fn run_log_tasks(&mut self, now: Time) -> io::Result<()> {
        if self.log_tasks.next > now {
            return Ok(());
        }
        let config = self.options.config.clone();
        if self.log_tasks.high_watermarks <= now {
            self.log_tasks.high_watermarks = now + config.replica_high_watermark_checkpoint_interval;
            self.log_dir.checkpoint_high_watermarks(logs(&self.partitions, &self.unclaimed))?;
        }
        if self.log_tasks.recovery_points <= now {
            self.log_tasks.recovery_points = now + config.log_flush_offset_checkpoint_interval;
            self.log_dir.checkpoint_recovery_points(logs(&self.partitions, &self.unclaimed))?;
        }
        if self.log_tasks.log_starts <= now {
            self.log_tasks.log_starts = now + config.log_flush_start_offset_checkpoint_interval;
            self.log_dir.checkpoint_log_starts(logs(&self.partitions, &self.unclaimed))?;
        }
        if self.log_tasks.flush.is_some_and(|at| at <= now) {
            self.log_tasks.flush = flush_interval(&config).map(|interval| now + interval);
            self.flush_dirty_logs(now)?;
        }
        if self.log_tasks.retention <= now {
            self.log_tasks.retention = now + config.log_retention_check_interval;
            self.delete_old_segments(now)?;
            self.log_tasks.deleted_files = Some(now);
        }
        if self.log_tasks.deleted_files.is_some_and(|at| at <= now) {
            self.remove_deleted_files(now)?;
        }
        if self.log_tasks.cleaner.is_some_and(|at| at <= now) {
            self.log_tasks.cleaner = Some(now + config.log_cleaner_backoff);
            self.clean_logs(now)?;
        }
        self.log_tasks.set_next();
        Ok(())
    }

    /// Due after every truncation, see [`crate::log::LogDirectory::checkpoint_truncation`].
    pub(super) fn checkpoint_truncation(&mut self) -> io::Result<()> {
        self.log_dir.checkpoint_truncation(logs(&self.partitions, &self.unclaimed))
    }

    fn flush_dirty_logs(&mut self, now: Time) -> io::Result<()> {
        let wall_clock_ms = self.world.wall_clock_ms();
        for hosted in self.partitions.values_mut() {
            if let Some(offset) = hosted.partition.log_mut().flush_if_due(wall_clock_ms)? {
                let partition = hosted.partition.topic_partition().clone();
                self.env.observe(now, Observation::Flushed { partition, offset });
            }
        }
        Ok(())
    }

    fn delete_old_segments(&mut self, now: Time) -> io::Result<()> {
        let wall_clock_ms = self.world.wall_clock_ms();
        for hosted in self.partitions.values_mut() {
            hosted.partition.delete_old_segments(now, &self.env, wall_clock_ms)?;
        }
        Ok(())
    }

    fn remove_deleted_files(&mut self, now: Time) -> io::Result<()> {
        let mut next = None;
        for hosted in self.partitions.values_mut() {
            next = [next, hosted.partition.log_mut().remove_deleted_files(now)?].into_iter().flatten().min();
        }
        self.log_tasks.deleted_files = next;
        Ok(())
    }
}
