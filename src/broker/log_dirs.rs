//! The broker's log directories, and what becomes of it when one fails (KIP-112, KIP-858: `LogManager`,
//! `LogDirFailureChannel`, `ReplicaManager.handleLogDirFailure`).
//!
//! An I/O error takes the whole directory offline: its partitions answer KAFKA_STORAGE_ERROR, the controller is told
//! with the next heartbeat and elects other leaders. The first directory is the metadata log's, as is Kafka's default:
//! without it, or without any, the broker halts. Nothing brings a directory back but a restart.

use std::collections::BTreeSet;
use std::io;

use uuid::Uuid;

use super::lifecycle::random_uuid;
use super::{Broker, BrokerOptions, Hosted, Key, Partitions};
use crate::log::{LoadedLog, Log, LogDirectory};
use crate::observe::Observation;
use crate::protocol::{BrokerEpoch, ErrorCode, TopicPartition};
use crate::world::{Time, World};

/// Which of the broker's log directories, in the order of `log.dirs`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct DirIndex(usize);

/// The directory that holds the metadata log (`metadata.log.dir`).
const METADATA_LOG_DIR: DirIndex = DirIndex(0);

pub(super) struct LogDirs {
    dirs: Vec<Dir>,
}

struct Dir {
    path: String,
    /// None: offline.
    online: Option<LogDirectory>,
}

/// A log directory failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct DirFailure {
    pub dir: DirIndex,
    pub error: io::Error,
}

pub(super) trait InDir<T> {
    /// Names the directory that an error is from.
    fn in_dir(self, dir: DirIndex) -> Result<T, DirFailure>;
}

impl<T> InDir<T> for io::Result<T> {
    fn in_dir(self, dir: DirIndex) -> Result<T, DirFailure> {
        self.map_err(|error| DirFailure { dir, error })
    }
}

impl LogDirs {
    /// Opens every directory and loads what is in it. One that cannot be read is offline from the start; an error if
    /// none is left, or the metadata log's is gone.
    pub fn open(world: &World, options: &BrokerOptions) -> io::Result<(LogDirs, Vec<(DirIndex, LoadedLog)>)> {
        let mut ids = world.rng("directory-id");
        let (mut dirs, mut loaded) = (Vec::new(), Vec::new());
        for (index, path) in options.log_dirs.iter().enumerate() {
            let opened = LogDirectory::open(
                world.disk(),
                path,
                |_| options.config.log.clone(),
                || random_uuid(&mut ids),
                options.config.defects,
            );
            let online = match opened {
                Ok((directory, logs)) => {
                    loaded.extend(logs.into_iter().map(|log| (DirIndex(index), log)));
                    Some(directory)
                }
                Err(error) if DirIndex(index) == METADATA_LOG_DIR => return Err(error),
                Err(error) => {
                    tracing::error!(broker = options.id.0, %error, path, "a log directory is offline from the start");
                    None
                }
            };
            dirs.push(Dir { path: path.clone(), online });
        }
        Ok((LogDirs { dirs }, loaded))
    }

    pub fn get_mut(&mut self, dir: DirIndex) -> Option<&mut LogDirectory> {
        self.dirs[dir.0].online.as_mut()
    }

    /// Ids of the directories that are online, in order, as registrations have them.
    pub fn online_ids(&self) -> Vec<Uuid> {
        let mut ids: Vec<Uuid> = self.online().map(|(_, directory)| directory.directory_id()).collect();
        ids.sort_unstable();
        ids
    }

    pub fn id(&self, dir: DirIndex) -> Option<Uuid> {
        self.dirs[dir.0].online.as_ref().map(LogDirectory::directory_id)
    }

    fn online(&self) -> impl Iterator<Item = (DirIndex, &LogDirectory)> {
        let dirs = self.dirs.iter().enumerate();
        dirs.filter_map(|(index, dir)| Some((DirIndex(index), dir.online.as_ref()?)))
    }

    pub fn indexes(&self) -> impl Iterator<Item = DirIndex> + use<> {
        (0..self.dirs.len()).map(DirIndex)
    }

    pub fn has_offline(&self) -> bool {
        self.offline().next().is_some()
    }

    /// The paths of those that are offline.
    pub fn offline(&self) -> impl Iterator<Item = &str> {
        self.dirs.iter().filter(|dir| dir.online.is_none()).map(|dir| dir.path.as_str())
    }

    /// The broker epoch of the last orderly stop, if every directory knows the same one
    /// (`readBrokerEpochFromCleanShutdownFiles`).
    pub fn previous_broker_epoch(&self) -> BrokerEpoch {
        let mut epochs = self.online().map(|(_, directory)| directory.previous_broker_epoch());
        let first = epochs.next().unwrap_or(BrokerEpoch::NONE);
        if !self.has_offline() && epochs.all(|epoch| epoch == first) { first } else { BrokerEpoch::NONE }
    }

    /// Where a new log goes: to the directory that it is assigned to, else to the one with the fewest logs; None if none
    /// is online.
    fn for_new_log(&self, assigned: Uuid, partitions: &Partitions) -> Option<DirIndex> {
        let is_assigned = |(_, directory): &(DirIndex, &LogDirectory)| directory.directory_id() == assigned;
        if let Some((dir, _)) = self.online().find(is_assigned) {
            return Some(dir);
        }
        let logs = |dir: DirIndex| partitions.values().filter(|hosted| hosted.dir == dir).count();
        self.online().map(|(dir, _)| dir).min_by_key(|dir| logs(*dir))
    }
}

impl Hosted {
    /// The log if it is in `dir`, with its partition.
    pub(super) fn log_in(&self, dir: DirIndex) -> Option<(&TopicPartition, &Log)> {
        (self.dir == dir).then(|| (self.partition.topic_partition(), self.partition.log()))
    }
}

impl Broker {
    /// The error of a request for a partition that is not here.
    pub(super) fn why_not_here(&self, key: Key) -> ErrorCode {
        not_here(&self.offline, key, ErrorCode::NotLeaderOrFollower)
    }

    /// An error of a partition's log: its directory goes offline, unless it is only what the log says that is wrong
    /// (Kafka's CorruptRecordException, which leaves the directory alone).
    pub(super) fn storage_failed(&mut self, now: Time, key: Key, error: io::Error) -> ErrorCode {
        if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
            tracing::warn!(broker = self.env.id.0, %error, "a log cannot be read");
            return ErrorCode::CorruptMessage;
        }
        if let Some(hosted) = self.partitions.get(&key) {
            self.fail_log_dir(now, DirFailure { dir: hosted.dir, error });
        }
        ErrorCode::KafkaStorageError
    }

    pub(super) fn or_fail(&mut self, now: Time, result: Result<(), DirFailure>) {
        if let Err(failure) = result {
            self.fail_log_dir(now, failure);
        }
    }

    /// Takes a directory and its partitions offline. No-op if it is.
    pub(super) fn fail_log_dir(&mut self, now: Time, DirFailure { dir, error }: DirFailure) {
        let Dir { path, online } = &mut self.log_dirs.dirs[dir.0];
        let Some(directory) = online.take() else { return };
        tracing::error!(broker = self.env.id.0, %error, path, "a log directory failed");
        self.env.observe(now, Observation::LogDirFailed { log_dir: path.clone() });
        if dir == METADATA_LOG_DIR || self.log_dirs.online().next().is_none() {
            self.is_finished = true;
            return;
        }
        let failed: Vec<Key> = self.partitions.iter().filter(|(_, h)| h.dir == dir).map(|(key, _)| *key).collect();
        for key in failed {
            self.fetchers.remove(key);
            let hosted = self.partitions.swap_remove(&key).expect("listed above");
            self.purgatory.orphan(hosted.into_waiting());
            self.offline.insert(key);
        }
        self.unclaimed.retain(|_, (of, _)| *of != dir);
        let timeout = self.options.config.log_dir_failure_timeout;
        self.lifecycle.propagate_directory_failure(now, directory.directory_id(), now + timeout);
    }

    /// Which directory holds or shall hold the log of `key`; None if its directory is one of those that are offline: a
    /// replica that is not new had a log, and the others do not have it. None too if the last directory failed just now:
    /// the broker halts once it is through with what it is at.
    pub(super) fn dir_for(&self, assigned: Uuid, is_new: bool) -> Option<DirIndex> {
        if !is_new && self.log_dirs.has_offline() {
            return None;
        }
        self.log_dirs.for_new_log(assigned, &self.partitions)
    }
}

/// The error of a request for a partition that is not here, or `otherwise`.
pub(super) fn not_here(offline: &BTreeSet<Key>, key: Key, otherwise: ErrorCode) -> ErrorCode {
    if offline.contains(&key) { ErrorCode::KafkaStorageError } else { otherwise }
}
