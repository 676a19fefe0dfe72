//! The periodic care for the logs: checkpoints, flushes by time, retention, compaction, removal of deleted files
//! (`LogManager.startup`, `ReplicaManager.startHighWatermarkCheckPointThread`).

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::log_dirs::{DirFailure, DirIndex, InDir};
use super::{Broker, Hosted, Partitions};
use crate::config::BrokerConfig;
use crate::log::{LoadedLog, Log, LogDirectory};
use crate::observe::Observation;
use crate::protocol::TopicPartition;
use crate::replica::{Environment, Partition};
use crate::world::Time;

/// When each task is due next.
pub(super) struct LogTasks {
    high_watermarks: Time,
    recovery_points: Time,
    log_starts: Time,
    retention: Time,
    producer_expiration: Time,
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
            producer_expiration: now + config.producer_id_expiration_check_interval,
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
        let always = [self.recovery_points, self.log_starts, self.retention, self.producer_expiration];
        let always = always.into_iter().fold(self.high_watermarks, Time::min);
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
    /// Does what is due.
    pub(super) fn run_log_tasks(&mut self, now: Time) {
        if self.log_tasks.next > now {
            return;
        }
        let config = self.options.config.clone();
        if self.log_tasks.high_watermarks <= now {
            self.log_tasks.high_watermarks = now + config.replica_high_watermark_checkpoint_interval;
            self.in_each_dir(now, |directory, logs| directory.checkpoint_high_watermarks(logs.iter()));
        }
        if self.log_tasks.recovery_points <= now {
            self.log_tasks.recovery_points = now + config.log_flush_offset_checkpoint_interval;
            self.in_each_dir(now, |directory, logs| directory.checkpoint_recovery_points(logs.iter()));
        }
        if self.log_tasks.log_starts <= now {
            self.log_tasks.log_starts = now + config.log_flush_start_offset_checkpoint_interval;
            self.in_each_dir(now, |directory, logs| directory.checkpoint_log_starts(logs.iter()));
        }
        if self.log_tasks.flush.is_some_and(|at| at <= now) {
            self.log_tasks.flush = flush_interval(&config).map(|interval| now + interval);
            self.flush_dirty_logs(now);
        }
        if self.log_tasks.retention <= now {
            self.log_tasks.retention = now + config.log_retention_check_interval;
            self.delete_old_segments(now);
            self.log_tasks.deleted_files = Some(now);
        }
        if self.log_tasks.producer_expiration <= now {
            self.log_tasks.producer_expiration = now + config.producer_id_expiration_check_interval;
            self.remove_expired_producers(now, config.producer_id_expiration);
        }
        if self.log_tasks.deleted_files.is_some_and(|at| at <= now) {
            self.remove_deleted_files(now);
        }
        if self.log_tasks.cleaner.is_some_and(|at| at <= now) {
            self.log_tasks.cleaner = Some(now + config.log_cleaner_backoff);
            self.clean_logs(now);
        }
        self.log_tasks.set_next();
    }

    /// Due after every truncation, see [`LogDirectory::checkpoint_truncation`].
    pub(super) fn checkpoint_truncation(&mut self, now: Time) {
        self.in_each_dir(now, |directory, logs| directory.checkpoint_truncation(logs.iter()));
    }

    /// Writes something into each log directory that is online; one where that fails is not any more.
    fn in_each_dir(&mut self, now: Time, write: impl Fn(&mut LogDirectory, LogsIn<'_>) -> io::Result<()>) {
        for dir in self.log_dirs.indexes() {
            let Some(directory) = self.log_dirs.get_mut(dir) else { continue };
            let logs = LogsIn { partitions: &self.partitions, unclaimed: &self.unclaimed, dir };
            let written = write(directory, logs);
            self.or_fail(now, written.in_dir(dir));
        }
    }

    /// Does something to each log of our partitions; the directory of one where that fails is offline then.
    fn for_each_log(&mut self, now: Time, mut act: impl FnMut(&mut Partition, &Environment) -> io::Result<()>) {
        let mut failed = Vec::new();
        for hosted in self.partitions.values_mut() {
            if let Err(error) = act(&mut hosted.partition, &self.env) {
                failed.push(DirFailure { dir: hosted.dir, error });
            }
        }
        for failure in failed {
            self.fail_log_dir(now, failure);
        }
    }

    fn flush_dirty_logs(&mut self, now: Time) {
        let wall_clock_ms = self.world.wall_clock_ms();
        self.for_each_log(now, |partition, env| {
            if let Some(offset) = partition.log_mut().flush_if_due(wall_clock_ms)? {
                let partition = partition.topic_partition().clone();
                env.observe(now, Observation::Flushed { partition, offset });
            }
            Ok(())
        });
    }

    fn delete_old_segments(&mut self, now: Time) {
        let wall_clock_ms = self.world.wall_clock_ms();
        self.for_each_log(now, |partition, env| partition.delete_old_segments(now, env, wall_clock_ms));
    }

    /// Each log has a task of its own for it in Kafka, which runs first an interval after the log was opened.
    fn remove_expired_producers(&mut self, now: Time, expiration: Duration) {
        let (wall_clock_ms, expiration_ms) = (self.world.wall_clock_ms(), expiration.as_millis() as i64);
        for Hosted { partition, .. } in self.partitions.values_mut() {
            let producer_ids = partition.log_mut().remove_expired_producers(wall_clock_ms, expiration_ms);
            if !producer_ids.is_empty() {
                let partition = partition.topic_partition().clone();
                self.env.observe(now, Observation::ProducersExpired { partition, producer_ids });
            }
        }
    }

    fn remove_deleted_files(&mut self, now: Time) {
        let mut next = None;
        self.for_each_log(now, |partition, _| {
            next = [next, partition.log_mut().remove_deleted_files(now)?].into_iter().flatten().min();
            Ok(())
        });
        self.log_tasks.deleted_files = next;
    }
}

/// Every log of one directory, with its partition.
struct LogsIn<'a> {
    partitions: &'a Partitions,
    unclaimed: &'a BTreeMap<TopicPartition, (DirIndex, LoadedLog)>,
    dir: DirIndex,
}

impl<'a> LogsIn<'a> {
    fn iter(&self) -> impl Iterator<Item = (&'a TopicPartition, &'a Log)> + Clone + use<'a> {
        let dir = self.dir;
        let unclaimed = self.unclaimed.iter().filter(move |(_, (of, _))| *of == dir);
        let hosted = self.partitions.values().filter_map(move |h| h.log_in(dir));
        hosted.chain(unclaimed.map(|(partition, (_, loaded))| (partition, &loaded.log)))
    }
}
