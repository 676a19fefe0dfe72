//! Reads: fetches of consumers and followers, offset and epoch lookups (`Partition.fetchRecords`,
//! `fetchOffsetForTimestamp`, `lastOffsetForLeaderEpoch`).

use super::partition::{Effects, Partition};
use super::{Environment, ReplicaError};
use crate::defect::Defect;
use crate::log::ReadError;
use crate::protocol::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset};
use crate::world::{Chain, Time};

/// Who reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    /// Another replica, up to our log end.
    Follower { id: BrokerId, epoch: BrokerEpoch },
    /// A consumer, up to the high watermark. `only_leader`: its version knows no follower fetching (KIP-392).
    Consumer { only_leader: bool },
}

impl Reader {
    fn requires_leader(self) -> bool {
        match self {
            Reader::Follower { .. } => true,
            Reader::Consumer { only_leader } => only_leader,
        }
    }
}

/// What is asked of one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadRequest {
    pub offset: Offset,
    /// The leader epoch that the reader believes in, if it says so (KIP-320).
    pub current_leader_epoch: Option<LeaderEpoch>,
    /// The epoch of the last record that the reader has, if it says so (KIP-595).
    pub last_fetched_epoch: Option<LeaderEpoch>,
    /// A follower's log start offset; below zero for a consumer.
    pub log_start: Offset,
    pub bytes_max: usize,
    /// Return the first batch whatever its size (KIP-74).
    pub at_least_one: bool,
}

/// What a fetch yields from one partition.
#[derive(Clone, Debug)]
pub struct FetchedData {
    pub records: Chain,
    pub high_watermark: Offset,
    pub log_start: Offset,
    /// The reader's log parts from ours: the largest epoch of ours up to its last one, and where that ends.
    pub diverging_epoch: Option<(LeaderEpoch, Offset)>,
    /// Whom a consumer shall read from instead (KIP-392).
    pub preferred_read_replica: Option<BrokerId>,
}

/// What a waiting fetch would get now (`DelayedFetch.tryComplete`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchProgress {
    /// Bytes to be had.
    Bytes(usize),
    /// An error, a divergence, or an offset beyond what can be read: answer at once.
    Decided,
}

/// An offset found by a lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetAndTimestamp {
    pub offset: Offset,
    /// -1 where it does not apply.
    pub timestamp_ms: i64,
    pub leader_epoch: Option<LeaderEpoch>,
}

impl Partition {
    /// Serves one fetch. `update_fetch_state` is false for the second read of a fetch that had to wait: its
    /// offset was noted when it came.
    pub fn fetch(
        &mut self,
        now: Time,
        env: &Environment,
        reader: Reader,
        request: &ReadRequest,
        update_fetch_state: bool,
    ) -> Result<(FetchedData, Effects), ReplicaError> {
        self.check_readable(request.current_leader_epoch, reader.requires_leader())?;
        let Reader::Follower { id, epoch } = reader else {
            return Ok((self.read(request, self.consumers_bound(request.offset))?, Effects::default()));
        };
        if !self.leader_state().is_some_and(|l| l.remotes.iter().any(|r| r.id == id)) {
            // It may know of a reassignment that we do not know yet: it shall retry.
            let has_epoch = request.current_leader_epoch.is_some();
            let error = if has_epoch { ErrorCode::UnknownLeaderEpoch } else { ErrorCode::NotLeaderOrFollower };
            return Err(ReplicaError::Refused(error));
        }
        let log_end = self.log.log_end();
        let data = self.read(request, log_end)?;
        if !update_fetch_state || data.diverging_epoch.is_some() {
            return Ok((data, Effects::default()));
        }
        let effects =
            self.update_follower_fetch_state(now, env, (id, epoch), request, log_end).map_err(ReplicaError::Refused)?;
        Ok((data, effects))
    }

    /// How far a consumer at `offset` may read.
    fn consumers_bound(&self, offset: Offset) -> Offset {
        let high_watermark = self.log.high_watermark();
        // KAFKA-9835: found to be at the end of what is visible, and then sized by what has come in meanwhile.
        if offset == high_watermark && self.defects().has(Defect::ReadHwTwice) {
            return self.log.log_end();
        }
        high_watermark
    }

    /// Is the reader's view of the leadership ours (`localLogWithEpochOrThrow`)?
    pub(super) fn check_readable(&self, epoch: Option<LeaderEpoch>, requires_leader: bool) -> Result<(), ReplicaError> {
        // Before KIP-320 nobody said which leader it took us for.
        let is_ours =
            |epoch: &LeaderEpoch| *epoch == self.leader_epoch || !self.defects().has(Defect::FetchNoEpochCheck);
        let epoch = epoch.filter(is_ours);
        match epoch {
            // The reader missed a leader change, or we did (KIP-320).
            Some(epoch) if epoch < self.leader_epoch => Err(ReplicaError::Refused(ErrorCode::FencedLeaderEpoch)),
            Some(epoch) if epoch > self.leader_epoch => Err(ReplicaError::Refused(ErrorCode::UnknownLeaderEpoch)),
            _ if requires_leader && !self.is_leader() => Err(ReplicaError::Refused(ErrorCode::NotLeaderOrFollower)),
            _ => Ok(()),
        }
    }

    fn read(&self, request: &ReadRequest, up_to: Offset) -> Result<FetchedData, ReplicaError> {
        let diverging_epoch = self.diverging_epoch(request)?;
        let records = match diverging_epoch {
            Some(_) => Chain::new(),
            None => self
                .log
                .read(request.offset, up_to, request.bytes_max, request.at_least_one)
                .map_err(out_of_range_or_failed)?,
        };
        let (high_watermark, log_start) = (self.log.high_watermark(), self.log.log_start());
        Ok(FetchedData { records, high_watermark, log_start, diverging_epoch, preferred_read_replica: None })
    }

    /// Does the reader's log end, (`last_fetched_epoch`, `offset`), lie on our log (KIP-595, truncation on fetch)?
    fn diverging_epoch(&self, request: &ReadRequest) -> Result<Option<(LeaderEpoch, Offset)>, ReplicaError> {
        let Some(last_fetched_epoch) = request.last_fetched_epoch else { return Ok(None) };
        // Before KIP-320 a follower truncated when it learnt of an epoch, and one that had not yet learnt was served.
        let is_of_our_epoch = request.current_leader_epoch == Some(self.leader_epoch);
        if !is_of_our_epoch && self.defects().has(Defect::FetchNoEpochCheck) {
            return Ok(None);
        }
        let Some((epoch, end)) = self.log.epochs().end_offset_for(last_fetched_epoch, self.log.log_end()) else {
            return Err(ReplicaError::Refused(ErrorCode::OffsetOutOfRange));
        };
        if request.offset < self.log.log_start() {
            return Err(ReplicaError::Refused(ErrorCode::OffsetOutOfRange));
        }
        // KIP-101's answer has no epoch in it that could be compared (KIP-279).
        let is_earlier_epoch = epoch < last_fetched_epoch && !self.defects().has(Defect::OfleV0);
        let diverges = is_earlier_epoch || end < request.offset;
        Ok(diverges.then_some((epoch, end)))
    }

    /// How far a fetch that waits for `bytes_wanted` has come.
    pub fn fetch_progress(&self, reader: Reader, request: &ReadRequest, bytes_wanted: usize) -> FetchProgress {
        if self.check_readable(request.current_leader_epoch, reader.requires_leader()).is_err() {
            return FetchProgress::Decided;
        }
        let up_to = match reader {
            Reader::Follower { .. } => self.log.log_end(),
            Reader::Consumer { .. } => self.log.high_watermark(),
        };
        let is_off_our_log = request.offset > up_to || !matches!(self.diverging_epoch(request), Ok(None));
        if is_off_our_log {
            return FetchProgress::Decided;
        }
        if self.log.reading_offset(request.offset) >= up_to {
            return FetchProgress::Bytes(0);
        }
        if bytes_wanted <= 1 {
            return FetchProgress::Bytes(1);
        }
        match self.log.readable_bytes(request.offset, up_to, request.bytes_max) {
            Ok(bytes) => FetchProgress::Bytes(request.bytes_max.min(bytes as usize)),
            Err(_) => FetchProgress::Decided,
        }
    }

    /// ListOffsets -1: the end of what the asker may read. `is_client` is false for a replica, which sees all.
    pub fn latest_offset(
        &self,
        epoch: Option<LeaderEpoch>,
        is_client: bool,
        requires_leader: bool,
    ) -> Result<OffsetAndTimestamp, ReplicaError> {
        self.check_readable(epoch, requires_leader)?;
        if is_client {
            self.check_offsets_available()?;
        }
        let offset = if is_client { self.log.high_watermark() } else { self.log.log_end() };
        Ok(OffsetAndTimestamp { offset, timestamp_ms: -1, leader_epoch: Some(self.leader_epoch) })
    }

    /// ListOffsets -2 and -4.
    pub fn earliest_offset(
        &self,
        epoch: Option<LeaderEpoch>,
        requires_leader: bool,
    ) -> Result<OffsetAndTimestamp, ReplicaError> {
        self.check_readable(epoch, requires_leader)?;
        let offset = self.log.log_start();
        Ok(OffsetAndTimestamp { offset, timestamp_ms: -1, leader_epoch: self.log.epochs().epoch_at(offset) })
    }

    /// ListOffsets by timestamp: the first record at or after it; -3: the record with the largest one (KIP-734).
    /// `None`: there is none that the asker may read.
    pub fn offset_for_timestamp(
        &self,
        timestamp_ms: i64,
        epoch: Option<LeaderEpoch>,
        is_client: bool,
        requires_leader: bool,
    ) -> Result<Option<OffsetAndTimestamp>, ReplicaError> {
        self.check_readable(epoch, requires_leader)?;
        let found = match timestamp_ms {
            MAX_TIMESTAMP => self.log.max_timestamp()?,
            _ => self.log.offset_for_timestamp(timestamp_ms, self.log.log_end())?,
        };
        let readable_end = if is_client { self.log.high_watermark() } else { self.log.log_end() };
        match found.filter(|(offset, _)| *offset < readable_end) {
            Some((offset, timestamp_ms)) => {
                let leader_epoch = self.log.epochs().epoch_at(offset);
                Ok(Some(OffsetAndTimestamp { offset, timestamp_ms, leader_epoch }))
            }
            None if is_client => self.check_offsets_available().map(|()| None),
            None => Ok(None),
        }
    }

    /// OffsetForLeaderEpoch (KIP-101, KIP-279): the largest epoch up to `of` that we know, and where it ends.
    pub fn offset_for_leader_epoch(
        &self,
        current: Option<LeaderEpoch>,
        of: LeaderEpoch,
    ) -> Result<Option<(LeaderEpoch, Offset)>, ReplicaError> {
        self.check_readable(current, true)?;
        Ok(self.log.epochs().end_offset_for(of, self.log.log_end()))
    }

    fn check_offsets_available(&self) -> Result<(), ReplicaError> {
        // A new leader's high watermark may lag behind its predecessor's: answering would let the end of the
        // partition go backwards for those who saw it (KIP-207).
        match self.leader_epoch_start() {
            Some(start) if start > self.log.high_watermark() && !self.defects().has(Defect::ListoffsetsRawHw) => {
                Err(ReplicaError::Refused(ErrorCode::OffsetNotAvailable))
            }
            _ => Ok(()),
        }
    }
}

/// ListOffsets' timestamp for "the record with the largest timestamp".
const MAX_TIMESTAMP: i64 = -3;

fn out_of_range_or_failed(error: ReadError) -> ReplicaError {
    match error {
        ReadError::OutOfRange { .. } => ReplicaError::Refused(ErrorCode::OffsetOutOfRange),
        ReadError::Io(error) => ReplicaError::Io(error),
    }
}
