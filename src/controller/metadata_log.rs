//! The controller's log: `__cluster_metadata-0` on its own disk, and the quorum's state beside it (as much of Kafka's
//! `KafkaRaftClient` as a quorum of one voter needs).
//!
//! A record is appended, then flushed, then committed. With one voter a flush commits; with more, the high watermark
//! will also wait for followers, and nothing else here has to change.

use std::io;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::METADATA_TOPIC;
use crate::defect::{Defect, Defects};
use crate::log::{AppendError, Log, LogConfig, LogDirectory, ReadError};
use crate::metadata::{MetadataRecord, decode_records, encode_records};
use crate::protocol::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicPartition};
use crate::world::{Chain, Disk};

/// `KafkaRaftClient.MAX_BATCH_SIZE_BYTES` and `MAX_FETCH_SIZE_BYTES`
const MAX_BATCH_BYTES: usize = 8 << 20;

/// The log as its leader has it.
pub struct MetadataLog {
    directory: LogDirectory,
    partition: TopicPartition,
    log: Log,
    epoch: LeaderEpoch,
    defects: Defects,
}

/// A record with where it stands.
pub type LoggedRecord = (Offset, LeaderEpoch, MetadataRecord);

/// What a follower or observer gets for its fetch offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// Whole batches; empty at the end of the log.
    Records(Chain),
    /// The fetcher's log is not a prefix of ours: the last of its epochs that we know ends at `end_offset`.
    Diverging { epoch: LeaderEpoch, end_offset: Offset },
}

impl MetadataLog {
    /// Opens the log in `path`, creating it on first use, and begins a new leader epoch, durably. Returns all
    /// records; they are committed once [`MetadataLog::flush`] has returned. `new_id` makes the directory's id.
    pub fn open(
        disk: &Disk,
        path: &str,
        node_id: BrokerId,
        new_id: impl FnOnce() -> Uuid,
        defects: Defects,
    ) -> io::Result<(MetadataLog, Vec<LoggedRecord>)> {
        let partition = TopicPartition::new(METADATA_TOPIC, 0);
        let config = LogConfig { max_message_bytes: MAX_BATCH_BYTES as u64, ..LogConfig::default() };
        let (mut directory, loaded) =
            LogDirectory::open(disk.clone(), path, |_| config.clone(), new_id, Defects::NONE)?;
        let log = match loaded.into_iter().find(|l| l.partition == partition) {
            Some(loaded) => loaded.log,
            None => directory.create_log(&partition, super::METADATA_TOPIC_ID, config.clone())?,
        };
        let quorum_state = QuorumStateFile { disk, dir: &format!("{path}/{partition}") };
        let last_epoch = quorum_state.read()?.map_or(0, |state| state.leader_epoch).max(log.latest_epoch().0);
        let epoch = LeaderEpoch(last_epoch + 1);
        quorum_state.write(&QuorumState::elected(node_id, epoch))?;
        let records = read_all(&log)?;
        Ok((MetadataLog { directory, partition, log, epoch, defects }, records))
    }

    /// Leader epoch of this reign.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Offset that the next record gets.
    pub fn end_offset(&self) -> Offset {
        self.log.log_end()
    }

    /// Records below it are committed.
    pub fn high_watermark(&self) -> Offset {
        self.log.high_watermark()
    }

    pub fn start_offset(&self) -> Offset {
        self.log.log_start()
    }

    /// Appends `records`, at least one, as one batch: a decision is never half in the log. Returns the offset of the
    /// first one.
    pub fn append(&mut self, records: &[MetadataRecord], timestamp_ms: i64) -> io::Result<Offset> {
        let base_offset = self.end_offset();
        let batch = encode_records(records, base_offset, self.epoch, timestamp_ms);
        let appended = self.log.append_as_leader(&batch, self.epoch, timestamp_ms).map_err(|e| match e {
            AppendError::Io(e) => e,
            AppendError::Batch(_)
            | AppendError::Producer(_)
            | AppendError::TooLarge { .. }
            | AppendError::BeyondSegment { .. }
            | AppendError::OutOfOrder { .. } => invalid_data(e),
        })?;
        assert_eq!(appended.base_offset, base_offset, "offsets are given out here");
        Ok(base_offset)
    }

    /// Makes everything appended durable, and thereby committed. Returns the high watermark.
    pub fn flush(&mut self) -> io::Result<Offset> {
        // Committed by a controller of one voter means on its disk: what is answered earlier may be taken back.
        let flushes = !self.defects.has(Defect::MetadataNoFsync);
        let flushed = if flushes { self.log.flush()? } else { self.end_offset() };
        Ok(self.log.set_high_watermark(flushed))
    }

    /// What follows `fetch_offset`, for a fetcher whose last record has `last_fetched_epoch`
    /// (`ReplicatedLog.validateOffsetAndEpoch`). [`LeaderEpoch::NONE`]: it does not say, and divergence is found only
    /// when it has more than we have.
    pub fn read(&self, fetch_offset: Offset, last_fetched_epoch: LeaderEpoch) -> io::Result<Fetched> {
        let end = self.end_offset();
        let known_end = match last_fetched_epoch {
            _ if fetch_offset == Offset::ZERO => None,
            LeaderEpoch::NONE if fetch_offset <= end => None,
            LeaderEpoch::NONE => Some((self.log.latest_epoch(), end)),
            epoch => {
                let known = self.log.epochs().end_offset_for(epoch, end).unwrap_or((self.log.latest_epoch(), end));
                (known.0 != epoch || known.1 < fetch_offset).then_some(known)
            }
        };
        if let Some((epoch, end_offset)) = known_end {
            return Ok(Fetched::Diverging { epoch, end_offset });
        }
        self.log.read(fetch_offset, end, MAX_BATCH_BYTES, true).map(Fetched::Records).map_err(read_error)
    }

    /// Orderly stop.
    pub fn close(&mut self) -> io::Result<()> {
        self.directory.close([(&self.partition, &mut self.log)].into_iter(), BrokerEpoch::NONE)
    }
}

fn read_all(log: &Log) -> io::Result<Vec<LoggedRecord>> {
    let mut records = Vec::new();
    let mut from = log.log_start();
    while from < log.log_end() {
        let bytes = log.read(from, log.log_end(), MAX_BATCH_BYTES, true).map_err(read_error)?;
        let batch = decode_records(&bytes.into_bytes()).map_err(invalid_data)?;
        let last = batch.last().ok_or_else(|| invalid_data(format!("no record at offset {from}")))?;
        from = last.0 + 1;
        records.extend(batch);
    }
    Ok(records)
}

fn read_error(error: ReadError) -> io::Error {
    match error {
        ReadError::Io(e) => e,
        ReadError::OutOfRange { .. } => invalid_data(error),
    }
}

fn invalid_data(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// `QuorumStateData`, version 0 as with `kraft.version` 0, where the voters are configured and do not change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct QuorumState {
    cluster_id: String,
    leader_id: i32,
    leader_epoch: i32,
    voted_id: i32,
    applied_offset: i64,
    current_voters: Vec<Voter>,
    #[serde(rename = "data_version")]
    data_version: i16,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Voter {
    voter_id: i32,
}

impl QuorumState {
    fn elected(leader: BrokerId, epoch: LeaderEpoch) -> QuorumState {
        QuorumState {
            cluster_id: String::new(),
            leader_id: leader.0,
            leader_epoch: epoch.0,
            voted_id: -1,
            applied_offset: 0,
            current_voters: vec![Voter { voter_id: leader.0 }],
            data_version: 0,
        }
    }
}

/// `quorum-state` in the log's directory (`FileQuorumStateStore`).
struct QuorumStateFile<'a> {
    disk: &'a Disk,
    dir: &'a str,
}

impl QuorumStateFile<'_> {
    fn path(&self) -> String {
        format!("{}/quorum-state", self.dir)
    }

    fn read(&self) -> io::Result<Option<QuorumState>> {
        if !self.disk.exists(&self.path()) {
            return Ok(None);
        }
        let file = self.disk.open(&self.path())?;
        let content = file.read_at(0, file.len() as usize)?;
        serde_json::from_slice(&content).map(Some).map_err(invalid_data)
    }

    /// Replaces the file at once and durably: a leader epoch must never be used twice.
    fn write(&self, state: &QuorumState) -> io::Result<()> {
        let temporary = format!("{}.tmp", self.path());
        let mut file = self.disk.create(&temporary)?;
        file.append(&serde_json::to_vec(state).map_err(invalid_data)?)?;
        file.sync()?;
        self.disk.rename(&temporary, &self.path())?;
        self.disk.sync_dir(self.dir)
    }
}
