//! One log directory of a broker (Kafka's `LogManager` for one `log.dirs` entry): finds the logs at start,
//! creates and deletes them, keeps the checkpoints.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::checkpoint;
use super::config::LogConfig;
use super::loader::Checkpoints;
use super::partition_log::{Log, RecoveryReport};
use super::uuid_text;
use crate::defect::{Defect, Defects};
use crate::protocol::{BrokerEpoch, Offset, TopicPartition};
use crate::world::Disk;

const META_PROPERTIES: &str = "meta.properties";
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
const LOG_STARTS: &str = "log-start-offset-checkpoint";
const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
const CLEANED: &str = "cleaner-offset-checkpoint";
const PARTITION_METADATA: &str = "partition.metadata";
const DELETE_SUFFIX: &str = "-delete";
/// Longest name of a directory entry in the file systems that Kafka knows.
const NAME_BYTES_MAX: usize = 255;

/// A log found on disk at start.
pub struct LoadedLog {
    pub partition: TopicPartition,
    /// From `partition.metadata`; `Uuid::nil()` if the file is missing.
    pub topic_id: Uuid,
    pub log: Log,
    pub recovery: RecoveryReport,
}

/// One log directory.
pub struct LogDirectory {
    disk: Disk,
    path: String,
    directory_id: Uuid,
    previous_broker_epoch: BrokerEpoch,
    /// Up to where each log is compacted.
    cleaned_to: BTreeMap<TopicPartition, Offset>,
    /// With [`Defect::DeleteMarkerLate`]: the marker found at the start has not been deleted.
    keeps_marker: bool,
}

/// Content of `.kafka_cleanshutdown` (`CleanShutdownFileHandler`).
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CleanShutdown {
    version: i32,
    broker_epoch: i64,
}

impl LogDirectory {
    /// Opens (creating if missing) directory `path`, loads every log in it, recovering those that need it
    /// (all, unless `.kafka_cleanshutdown` was there). Deletes the marker. Applies the high-watermark,
    /// recovery-point and log-start checkpoints. `config` gives each topic's configuration, `new_id` the
    /// directory's id when it has none yet.
    ///
    /// Checkpoints that cannot be read count as empty, as in Kafka (where an unreadable
    /// `replication-offset-checkpoint` takes the directory offline instead). `InvalidData` when a log's
    /// `leader-epoch-checkpoint` or `partition.metadata`, or `meta.properties`, is malformed.
    pub fn open(
        disk: Disk,
        path: &str,
        config: impl Fn(&TopicPartition) -> LogConfig,
        new_id: impl FnOnce() -> Uuid,
        defects: Defects,
    ) -> io::Result<(LogDirectory, Vec<LoadedLog>)> {
        create_durable_dir(&disk, path)?;
        let directory_id = load_directory_id(&disk, path, new_id)?;
        let (marker, keeps_marker) = take_clean_shutdown_marker(&disk, path, defects)?;
        let mut directory = LogDirectory {
            disk,
            path: path.to_owned(),
            directory_id,
            previous_broker_epoch: marker.unwrap_or(BrokerEpoch::NONE),
            cleaned_to: BTreeMap::new(),
            keeps_marker,
        };
        directory.cleaned_to = directory.read_offsets(CLEANED);
        let logs = directory.load_logs(marker.is_some(), config)?;
        // What recovery cut off was clean, perhaps, and what will be appended in its place is not. Kafka notices only if
        // it looks before the log is as long again.
        directory.truncate_cleaned(logs.iter().map(|loaded| (&loaded.partition, &loaded.log)))?;
        let recovery_points = directory.read_offsets(RECOVERY_POINTS);
        let is_beyond =
            |log: &LoadedLog| recovery_points.get(&log.partition).is_some_and(|p| *p > log.log.recovery_point());
        if logs.iter().any(is_beyond) {
            // Until the next checkpoint a crash would find recovery points beyond what is flushed.
            directory.checkpoint_recovery_points(logs.iter().map(|loaded| (&loaded.partition, &loaded.log)))?;
        }
        Ok((directory, logs))
    }

    /// The directory's id from `meta.properties` (`directory.id`), made by `new_id` on first use.
    pub fn directory_id(&self) -> Uuid {
        self.directory_id
    }

    /// Broker epoch in the clean-shutdown file found at open (KIP-966), [`BrokerEpoch::NONE`] after an unclean stop.
    pub fn previous_broker_epoch(&self) -> BrokerEpoch {
        self.previous_broker_epoch
    }

    fn load_logs(&self, is_clean: bool, config: impl Fn(&TopicPartition) -> LogConfig) -> io::Result<Vec<LoadedLog>> {
        let recovery_points = self.read_offsets(RECOVERY_POINTS);
        let log_starts = self.read_offsets(LOG_STARTS);
        let high_watermarks = self.read_offsets(HIGH_WATERMARKS);
        let mut logs = Vec::new();
        for name in self.disk.read_dir(&self.path)? {
            if name.ends_with(DELETE_SUFFIX) {
                self.disk.remove_dir_all(&self.entry(&name))?;
                continue;
            }
            let Some(partition) = TopicPartition::parse(&name) else { continue };
            let offset = |of: &BTreeMap<TopicPartition, Offset>| of.get(&partition).copied().unwrap_or(Offset::ZERO);
            let checkpoints = Checkpoints {
                is_clean,
                recovery_point: offset(&recovery_points),
                log_start: offset(&log_starts),
                high_watermark: offset(&high_watermarks),
            };
            let dir = self.entry(&name);
            let topic_id = read_topic_id(&self.disk, &dir)?;
            let (log, recovery) = Log::open(self.disk.clone(), dir, config(&partition), checkpoints)?;
            logs.push(LoadedLog { partition, topic_id, log, recovery });
        }
        Ok(logs)
    }

    /// Creates an empty log `<topic>-<partition>` with its `partition.metadata`. `AlreadyExists` if there is
    /// a directory of that name.
    ///
    /// All of it is durable when this returns, the entry in the log directory included. Kafka syncs that one
    /// with the next checkpoint and relies on the file system until then.
    pub fn create_log(&mut self, partition: &TopicPartition, topic_id: Uuid, config: LogConfig) -> io::Result<Log> {
        let dir = self.entry(&partition.to_string());
        if self.disk.exists(&dir) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{dir} exists")));
        }
        self.disk.create_dir_all(&dir)?;
        let (mut log, _) = Log::open(self.disk.clone(), dir.clone(), config, Checkpoints::NONE)?;
        write_topic_id(&self.disk, &dir, topic_id)?;
        log.flush()?;
        self.disk.sync_dir(&self.path)?;
        Ok(log)
    }

    /// Removes a log from disk. It is renamed to `<topic>-<partition>.<id>-delete` first, durably, so that
    /// half a log is never loaded.
    pub fn delete_log(&mut self, partition: &TopicPartition) -> io::Result<()> {
        let deleted = self.entry(&self.deleted_name(partition));
        self.disk.rename(&self.entry(&partition.to_string()), &deleted)?;
        self.disk.sync_dir(&self.path)?;
        if self.cleaned_to.remove(partition).is_some() {
            self.write_cleaned()?;
        }
        self.disk.remove_dir_all(&deleted)
    }

    /// As `LocalLog.logDeleteDirName`, the topic cut so that the name is not too long. The id need not be
    /// random: the directory is removed at once, or at the next open.
    fn deleted_name(&self, partition: &TopicPartition) -> String {
        let suffix = format!("-{}.{}{DELETE_SUFFIX}", partition.partition, self.directory_id.simple());
        let topic = partition.topic.0.as_str();
        format!("{}{suffix}", &topic[..topic.len().min(NAME_BYTES_MAX - suffix.len())])
    }

    /// Up to where a log was compacted, as far as is known.
    pub fn cleaned_to(&self, partition: &TopicPartition) -> Option<Offset> {
        self.cleaned_to.get(partition).copied()
    }

    /// Writes `cleaner-offset-checkpoint` with another offset for a log.
    pub fn checkpoint_cleaned(&mut self, partition: TopicPartition, to: Offset) -> io::Result<()> {
        self.cleaned_to.insert(partition, to);
        self.write_cleaned()
    }

    fn write_cleaned(&self) -> io::Result<()> {
        self.write_offsets(CLEANED, self.cleaned_to.iter().map(|(partition, offset)| offset_line(partition, *offset)))
    }

    /// Writes `replication-offset-checkpoint` (high watermarks).
    pub fn checkpoint_high_watermarks<'a>(
        &mut self,
        logs: impl Iterator<Item = (&'a TopicPartition, &'a Log)>,
    ) -> io::Result<()> {
        self.write_offsets(HIGH_WATERMARKS, logs.map(|(partition, log)| offset_line(partition, log.high_watermark())))
    }

    /// Writes `recovery-point-offset-checkpoint`. To be called on `log.flush.offset.checkpoint.interval.ms`.
    pub fn checkpoint_recovery_points<'a>(
        &mut self,
        logs: impl Iterator<Item = (&'a TopicPartition, &'a Log)>,
    ) -> io::Result<()> {
        if std::mem::take(&mut self.keeps_marker) {
            remove_clean_shutdown_marker(&self.disk, &self.path)?;
        }
        self.write_offsets(RECOVERY_POINTS, logs.map(|(partition, log)| offset_line(partition, log.recovery_point())))
    }

    /// Writes `log-start-offset-checkpoint`. To be called on `log.flush.start.offset.checkpoint.interval.ms`.
    pub fn checkpoint_log_starts<'a>(
        &mut self,
        logs: impl Iterator<Item = (&'a TopicPartition, &'a Log)>,
    ) -> io::Result<()> {
        self.write_offsets(LOG_STARTS, logs.filter_map(|(partition, log)| log_start_line(partition, log)))
    }

    /// Writes both, as is due after every truncation: recovery must not start beyond the end of the log
    /// (`LogManager.truncateTo`), and a log start beyond it would drop the whole log at the next start.
    pub fn checkpoint_truncation<'a>(
        &mut self,
        logs: impl Iterator<Item = (&'a TopicPartition, &'a Log)> + Clone,
    ) -> io::Result<()> {
        self.checkpoint_recovery_points(logs.clone())?;
        self.checkpoint_log_starts(logs.clone())?;
        self.truncate_cleaned(logs)
    }

    /// What is appended after a truncation, or after recovery cut a log, is dirty: no log is clean beyond the beginning of
    /// its active segment (`LogCleanerManager.maybeTruncateCheckpoint`).
    fn truncate_cleaned<'a>(&mut self, logs: impl Iterator<Item = (&'a TopicPartition, &'a Log)>) -> io::Result<()> {
        let mut changed = false;
        for (partition, log) in logs {
            if let Some(cleaned_to) = self.cleaned_to.get_mut(partition).filter(|to| **to > log.active_base()) {
                *cleaned_to = log.active_base();
                changed = true;
            }
        }
        if changed { self.write_cleaned() } else { Ok(()) }
    }

    /// Orderly stop: flushes every log, writes the checkpoints, then `.kafka_cleanshutdown` with the broker epoch.
    pub fn close<'a>(
        &mut self,
        logs: impl Iterator<Item = (&'a TopicPartition, &'a mut Log)>,
        broker_epoch: BrokerEpoch,
    ) -> io::Result<()> {
        let (mut recovery_points, mut log_starts, mut high_watermarks) = (Vec::new(), Vec::new(), Vec::new());
        for (partition, log) in logs {
            log.close()?;
            recovery_points.push(offset_line(partition, log.recovery_point()));
            log_starts.extend(log_start_line(partition, log));
            high_watermarks.push(offset_line(partition, log.high_watermark()));
        }
        self.write_offsets(RECOVERY_POINTS, recovery_points.into_iter())?;
        self.write_offsets(LOG_STARTS, log_starts.into_iter())?;
        self.write_offsets(HIGH_WATERMARKS, high_watermarks.into_iter())?;
        self.write_clean_shutdown_marker(broker_epoch)
    }

    /// Written in place like Kafka's; the directory is synced too, so that a machine that is switched off
    /// after an orderly stop finds it again.
    fn write_clean_shutdown_marker(&self, broker_epoch: BrokerEpoch) -> io::Result<()> {
        let content = serde_json::to_vec(&CleanShutdown { version: 0, broker_epoch: broker_epoch.0 })?;
        let mut file = self.disk.create(&self.entry(CLEAN_SHUTDOWN))?;
        file.append(&content)?;
        file.sync()?;
        self.disk.sync_dir(&self.path)
    }

    fn write_offsets(&self, name: &str, lines: impl Iterator<Item = String>) -> io::Result<()> {
        checkpoint::write(&self.disk, &self.entry(name), lines, true)
    }

    /// Empty when the file is missing or cannot be read.
    fn read_offsets(&self, name: &str) -> BTreeMap<TopicPartition, Offset> {
        let lines = checkpoint::read(&self.disk, &self.entry(name)).unwrap_or_default();
        let offsets: Option<BTreeMap<_, _>> = lines.iter().map(|line| parse_offset_line(line)).collect();
        offsets.unwrap_or_default()
    }

    fn entry(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

/// `TOPIC PARTITION OFFSET` (`OffsetCheckpointFile`).
fn offset_line(partition: &TopicPartition, offset: Offset) -> String {
    format!("{} {} {offset}", partition.topic.0.as_str(), partition.partition)
}

/// Only logs that start within a segment need one: the others start where their first file says.
fn log_start_line(partition: &TopicPartition, log: &Log) -> Option<String> {
    (log.log_start() > log.segments[0].base_offset()).then(|| offset_line(partition, log.log_start()))
}

fn parse_offset_line(line: &str) -> Option<(TopicPartition, Offset)> {
    let mut fields = line.split_ascii_whitespace();
    let (topic, partition, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let offset = Offset(offset.parse().ok()?);
    let is_whole = fields.next().is_none() && offset >= Offset::ZERO;
    is_whole.then_some((TopicPartition::new(topic, partition.parse().ok()?), offset))
}

/// Creates the directory and its parents with durable entries.
fn create_durable_dir(disk: &Disk, path: &str) -> io::Result<()> {
    if disk.exists(path) {
        return Ok(());
    }
    disk.create_dir_all(path)?;
    let mut dir = path;
    while !dir.is_empty() {
        dir = checkpoint::parent(dir);
        disk.sync_dir(dir)?;
    }
    Ok(())
}

/// `meta.properties` (`MetaProperties` version 1). Other keys that are there are kept.
fn load_directory_id(disk: &Disk, path: &str, new_id: impl FnOnce() -> Uuid) -> io::Result<Uuid> {
    let file = format!("{path}/{META_PROPERTIES}");
    let mut text = checkpoint::content(disk, &file)?.unwrap_or_else(|| "#\nversion=1\n".to_owned());
    if let Some(id) = property(&text, "directory.id") {
        return uuid_text::decode(id).ok_or_else(|| checkpoint::malformed(&file, id));
    }
    let id = new_id();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("directory.id={}\n", uuid_text::encode(id)));
    checkpoint::replace(disk, &file, text.as_bytes(), true)?;
    Ok(id)
}

fn property<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::trim)
}

/// Reads the marker and deletes it at once, so that a crash while the logs are loaded is not taken for an
/// orderly stop (KAFKA-10471). The removal is made durable for the same reason; Kafka leaves that to the file
/// system. `None`: unclean stop. A marker that cannot be read still means clean, of no known epoch.
/// The broker epoch in the marker, if it is there, and whether it was left.
fn take_clean_shutdown_marker(disk: &Disk, path: &str, defects: Defects) -> io::Result<(Option<BrokerEpoch>, bool)> {
    let file = format!("{path}/{CLEAN_SHUTDOWN}");
    if !disk.exists(&file) {
        return Ok((None, false));
    }
    // KAFKA-10471: deleted once the start is over, when it has been trusted for as long.
    let keeps_marker = defects.has(Defect::DeleteMarkerLate);
    let text = checkpoint::content(disk, &file).ok().flatten().unwrap_or_default();
    if !keeps_marker {
        remove_clean_shutdown_marker(disk, path)?;
    }
    let epoch = serde_json::from_str::<CleanShutdown>(&text).map(|content| BrokerEpoch(content.broker_epoch));
    Ok((Some(epoch.unwrap_or(BrokerEpoch::NONE)), keeps_marker))
}

fn remove_clean_shutdown_marker(disk: &Disk, path: &str) -> io::Result<()> {
    disk.remove_file(&format!("{path}/{CLEAN_SHUTDOWN}"))?;
    disk.sync_dir(path)
}

fn write_topic_id(disk: &Disk, dir: &str, topic_id: Uuid) -> io::Result<()> {
    let content = format!("version: 0\ntopic_id: {}", uuid_text::encode(topic_id));
    checkpoint::replace(disk, &format!("{dir}/{PARTITION_METADATA}"), content.as_bytes(), true)
}

fn read_topic_id(disk: &Disk, dir: &str) -> io::Result<Uuid> {
    let file = format!("{dir}/{PARTITION_METADATA}");
    let Some(text) = checkpoint::content(disk, &file)? else { return Ok(Uuid::nil()) };
    let id = text.lines().find_map(|line| line.strip_prefix("topic_id:")).and_then(|id| uuid_text::decode(id.trim()));
    id.ok_or_else(|| checkpoint::malformed(&file, &text))
}
