//! The follower's rules: what it asks its leader, and what it does with the answers (`AbstractFetcherThread`,
//! `ReplicaFetcherThread`).

use std::io;

use bytes::Bytes;

use super::Environment;
use super::partition::{Partition, Role};
use crate::defect::Defect;
use crate::log::{AppendError, Appended, EpochCache, LogStartMove};
use crate::observe::{LogStartReason, Observation, TruncationReason};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, Offset};
use crate::world::Time;

#[derive(Default)]
pub(super) struct FollowerState {
    /// `None` while there is no leader to fetch from.
    pub fetch: Option<FetchState>,
}

/// Where a follower stands (`PartitionFetchState`).
#[derive(Clone, Debug, PartialEq)]
pub struct FetchState {
    /// The next offset to ask for.
    pub offset: Offset,
    /// The epoch of our last record, [`LeaderEpoch::NONE`] if we have none.
    pub last_fetched_epoch: LeaderEpoch,
    pub phase: FetchPhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchPhase {
    Ready,
    /// Left out of fetches until then (`replica.fetch.backoff.ms`).
    DelayedUntil(Time),
    /// Our offset is off the leader's log: ask where that begins and ends before fetching on.
    OutOfRange,
    /// Not fetched until the next leader epoch.
    Failed,
}

/// What was asked in a fetch: an answer counts only while this still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedFetch {
    pub leader_epoch: LeaderEpoch,
    pub offset: Offset,
}

/// The leader's answer for one partition.
#[derive(Clone, Debug)]
pub struct LeaderData {
    pub error: Option<ErrorCode>,
    pub high_watermark: Offset,
    pub log_start: Offset,
    pub diverging_epoch: Option<(LeaderEpoch, Offset)>,
    pub records: Bytes,
}

/// The bounds of the leader's log, as ListOffsets reports them to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderOffsets {
    pub log_start: Offset,
    pub log_end: Offset,
}

/// What an answer led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// It answers a question that we no longer ask.
    Ignored,
    /// Applied. `high_watermark_changed`: consumers waiting here may be served (KIP-392).
    Applied {
        appended: bool,
        high_watermark_changed: bool,
    },
    Truncated,
    /// To be retried after `replica.fetch.backoff.ms`: the caller sets the delay.
    Retry,
    /// The leader's offsets are needed first.
    OutOfRange,
    /// Given up until the next leader epoch.
    Failed,
}

impl Partition {
    /// Where this follower stands; `None` on a leader and without one.
    pub fn fetch_state(&self) -> Option<&FetchState> {
        match &self.role {
            Role::Leader(_) => None,
            Role::Follower(follower) => follower.fetch.as_ref(),
        }
    }

    fn set_phase(&mut self, phase: FetchPhase) {
        if let Role::Follower(FollowerState { fetch: Some(fetch) }) = &mut self.role {
            fetch.phase = phase;
        }
    }

    /// Leaves this partition out of fetches until `until`, unless it is delayed already (`delayPartitions`).
    pub fn delay_fetching(&mut self, until: Time) {
        if self.fetch_state().is_some_and(|f| matches!(f.phase, FetchPhase::Ready | FetchPhase::OutOfRange)) {
            self.set_phase(FetchPhase::DelayedUntil(until));
        }
    }

    /// Ends a delay that is over.
    pub fn end_delay(&mut self, now: Time) {
        if self.fetch_state().is_some_and(|f| matches!(f.phase, FetchPhase::DelayedUntil(until) if until <= now)) {
            self.set_phase(FetchPhase::Ready);
        }
    }

    /// The question for the next fetch, if this partition is to be in it.
    pub fn next_fetch(&self) -> Option<AskedFetch> {
        let fetch = self.fetch_state().filter(|f| f.phase == FetchPhase::Ready)?;
        Some(AskedFetch { leader_epoch: self.leader_epoch, offset: fetch.offset })
    }

    /// A new leader epoch: from our own log end on (`initialFetchOffset`, `partitionFetchState`). `is_same_leader`: it
    /// led in the epoch that we knew, too.
    pub(super) fn restart_fetching(&mut self, now: Time, env: &Environment, is_same_leader: bool) -> io::Result<()> {
        let has_leader = self.leader != BrokerId::NONE;
        let mut last_fetched_epoch = self.last_fetched_epoch();
        // KAFKA-7164: "nothing changed", but there may have been another leader in between.
        if is_same_leader && self.defects().has(Defect::SkipTruncationIfSameLeader) {
            last_fetched_epoch = LeaderEpoch::NONE;
        } else if has_leader
            && (self.log.epochs().latest().is_none()
                // Before KIP-101: whatever the leader's log holds.
                || self.defects().has(Defect::TruncateToHw))
        {
            // No epoch to find the divergence with: only what is below the high watermark is sure to be the leader's.
            self.truncate(now, env, self.log.high_watermark(), TruncationReason::HighWatermark)?;
        }
        let offset = self.log.log_end();
        let fetch = has_leader.then_some(FetchState { offset, last_fetched_epoch, phase: FetchPhase::Ready });
        self.role = Role::Follower(FollowerState { fetch });
        Ok(())
    }

    /// The epoch of our last record, by which the leader sees where our logs part.
    fn last_fetched_epoch(&self) -> LeaderEpoch {
        // Before KIP-101 followers had no epochs to tell; KIP-595 made the leader look at every fetch.
        if self.defects().has(Defect::TruncateToHw) || self.defects().has(Defect::NoLastFetchedEpoch) {
            return LeaderEpoch::NONE;
        }
        self.log.latest_epoch()
    }

    /// Stops fetching, for a controlled shutdown.
    pub fn stop_fetching(&mut self) {
        if let Role::Follower(follower) = &mut self.role {
            follower.fetch = None;
        }
    }

    fn still_asks(&self, asked: AskedFetch) -> bool {
        // An answer that was on its way while leadership or our log changed belongs to another log (v3_5:1022).
        // v3_5:281: the fetch goes on, although the leader epoch that it was sent in is over.
        let is_same_session =
            self.leader_epoch == asked.leader_epoch || self.defects().has(Defect::KeepOldFetchSession);
        let Some(fetch) = self.fetch_state() else { return false };
        is_same_session && fetch.offset == asked.offset || self.defects().has(Defect::AcceptStaleFetchResponse)
    }

    /// Applies the leader's answer to `asked` (`processFetchRequest`). `wall_clock_ms`: when it is appended.
    pub fn on_fetch_response(
        &mut self,
        now: Time,
        env: &Environment,
        asked: AskedFetch,
        data: &LeaderData,
        wall_clock_ms: i64,
    ) -> io::Result<FetchOutcome> {
        if !self.still_asks(asked) || self.next_fetch().is_none() {
            return Ok(FetchOutcome::Ignored);
        }
        match data.error {
            None => match data.diverging_epoch {
                // Nothing else is taken from such an answer: its high watermark may lie in what we truncate.
                Some((epoch, end)) => self.truncate_on_divergence(now, env, epoch, end),
                None => self.append_fetched(now, env, data, wall_clock_ms),
            },
            Some(ErrorCode::OffsetOutOfRange) => {
                self.set_phase(FetchPhase::OutOfRange);
                Ok(FetchOutcome::OutOfRange)
            }
            Some(ErrorCode::FencedLeaderEpoch) => Ok(self.on_fenced()),
            Some(_) => Ok(FetchOutcome::Retry),
        }
    }

    /// The leader knows a later epoch: wait for the metadata that tells us of it (`onPartitionFenced`).
    fn on_fenced(&mut self) -> FetchOutcome {
        self.set_phase(FetchPhase::Failed);
        FetchOutcome::Failed
    }

    fn append_fetched(
        &mut self,
        now: Time,
        env: &Environment,
        data: &LeaderData,
        wall_clock_ms: i64,
    ) -> io::Result<FetchOutcome> {
        let appended = match self.append_as_follower(now, env, &data.records, wall_clock_ms) {
            Ok(appended) => appended,
            Err(AppendError::Io(error)) => return Err(error),
            // A bad batch may be a passing state of the leader's log: try again.
            Err(AppendError::Batch(_)) => return Ok(FetchOutcome::Retry),
            // Of producers only leaders say something.
            Err(
                error @ (AppendError::TooLarge { .. }
                | AppendError::BeyondSegment { .. }
                | AppendError::OutOfOrder { .. }
                | AppendError::Producer(_)),
            ) => {
                let partition = self.topic_partition.clone();
                match error {
                    AppendError::BeyondSegment { .. } => env.observe(now, Observation::BeyondSegment { partition }),
                    AppendError::OutOfOrder { .. } => env.observe(now, Observation::BeforeLogEnd { partition }),
                    _ => {}
                }
                self.set_phase(FetchPhase::Failed);
                return Ok(FetchOutcome::Failed);
            }
        };
        let last_fetched_epoch = self.last_fetched_epoch();
        if appended && let Role::Follower(FollowerState { fetch: Some(fetch) }) = &mut self.role {
            fetch.offset = self.log.log_end();
            fetch.last_fetched_epoch = last_fetched_epoch;
        }
        let before = self.log.high_watermark();
        // The leader's word, as far as our log reaches. It may be lower than ours: a new leader's often is.
        let high_watermark_changed = self.log.set_high_watermark(data.high_watermark) != before;
        if high_watermark_changed {
            self.observe_high_watermark(now, env);
        }
        self.follow_log_start(now, env, data.log_start)?;
        Ok(FetchOutcome::Applied { appended, high_watermark_changed })
    }

    fn append_as_follower(
        &mut self,
        now: Time,
        env: &Environment,
        records: &Bytes,
        wall_clock_ms: i64,
    ) -> Result<bool, AppendError> {
        if records.is_empty() {
            return Ok(false);
        }
        let result = match self.log.append_as_follower(records, wall_clock_ms) {
            // The leader's log start lies within the batch: an empty log may begin earlier.
            Err(AppendError::OutOfOrder { got, log_end }) if got < log_end && self.log.log_start() == log_end => {
                self.start_anew_at(now, env, got)?;
                self.log.append_as_follower(records, wall_clock_ms)
            }
            result => result,
        };
        let Appended { batches, flushed_to, .. } = result?;
        if batches.is_empty() {
            return Ok(false);
        }
        env.observe(
            now,
            Observation::Appended {
                partition: self.topic_partition.clone(),
                as_leader: false,
                leader_epoch: self.leader_epoch,
                batches,
                sequences: None,
            },
        );
        self.observe_flushed(now, env, flushed_to);
        Ok(true)
    }

    /// Cuts what the leader does not have (`truncateOnFetchResponse`). One answer may not suffice: the next
    /// fetch tells of the next divergence.
    fn truncate_on_divergence(
        &mut self,
        now: Time,
        env: &Environment,
        leader_epoch: LeaderEpoch,
        leader_end: Offset,
    ) -> io::Result<FetchOutcome> {
        let (log_end, high_watermark) = (self.log.log_end(), self.log.high_watermark());
        let to = if self.defects().has(Defect::OfleV0) {
            // KIP-101's answer is an offset alone: that our records below it are of another epoch cannot be seen.
            leader_end.min(log_end)
        } else {
            truncation_offset(self.log.epochs(), log_end, high_watermark, leader_epoch, leader_end)
        };
        self.truncate(now, env, to, TruncationReason::DivergingEpoch)?;
        self.fetch_on_from_log_end();
        Ok(FetchOutcome::Truncated)
    }

    /// Our offset was off the leader's log; now we know its bounds (`fetchOffsetAndTruncate`). `asked` is the
    /// fetch that failed.
    pub fn on_leader_offsets(
        &mut self,
        now: Time,
        env: &Environment,
        asked: AskedFetch,
        leader: LeaderOffsets,
    ) -> io::Result<FetchOutcome> {
        if !self.still_asks(asked) || self.fetch_state().is_none_or(|f| f.phase != FetchPhase::OutOfRange) {
            return Ok(FetchOutcome::Ignored);
        }
        if leader.log_end < self.log.log_end() {
            // An unclean election: we hold more than the new leader ever had.
            self.truncate(now, env, leader.log_end, TruncationReason::OutOfRange)?;
        } else if leader.log_start > self.log.log_end() {
            // The leader has deleted what would follow our log.
            self.start_anew_at(now, env, leader.log_start)?;
        }
        self.fetch_on_from_log_end();
        Ok(FetchOutcome::Truncated)
    }

    /// An empty log from there on, the high watermark included (`UnifiedLog.truncateFullyAndStartAt`).
    fn start_anew_at(&mut self, now: Time, env: &Environment, to: Offset) -> io::Result<()> {
        let from = self.log.log_start();
        self.log.truncate_fully_and_start_at(to)?;
        self.observe_log_start(now, env, LogStartMove { from, to, reason: LogStartReason::Leader });
        self.observe_high_watermark(now, env);
        Ok(())
    }

    /// Asking for the leader's offsets failed.
    pub fn on_leader_offsets_refused(&mut self, asked: AskedFetch, error: ErrorCode) -> FetchOutcome {
        if !self.still_asks(asked) {
            return FetchOutcome::Ignored;
        }
        if error == ErrorCode::FencedLeaderEpoch { self.on_fenced() } else { FetchOutcome::Retry }
    }

    fn fetch_on_from_log_end(&mut self) {
        let fetch = FetchState {
            offset: self.log.log_end(),
            last_fetched_epoch: self.last_fetched_epoch(),
            phase: FetchPhase::Ready,
        };
        self.role = Role::Follower(FollowerState { fetch: Some(fetch) });
    }

    fn truncate(&mut self, now: Time, env: &Environment, to: Offset, reason: TruncationReason) -> io::Result<()> {
        let (from, high_watermark) = (self.log.log_end(), self.log.high_watermark());
        // Even if no record goes: an epoch that began at our log end without a record must be forgotten.
        self.log.truncate_to(to)?;
        if self.log.log_end() != from {
            self.observe_truncated(now, env, from, reason);
        }
        if self.log.high_watermark() != high_watermark {
            self.observe_high_watermark(now, env);
        }
        Ok(())
    }

    fn observe_truncated(&self, now: Time, env: &Environment, from: Offset, reason: TruncationReason) {
        let (partition, to) = (self.topic_partition.clone(), self.log.log_end());
        env.observe(now, Observation::Truncated { partition, from, to, reason });
    }
}

/// Where to cut a log that parts from its leader's, whose largest epoch up to our last one is `leader_epoch` and
/// ends at `leader_end` (`getOffsetTruncationState`, KIP-101, KIP-279).
pub fn truncation_offset(
    epochs: &EpochCache,
    log_end: Offset,
    high_watermark: Offset,
    leader_epoch: LeaderEpoch,
    leader_end: Offset,
) -> Offset {
    // The leader knows no epoch as old as ours: only what is committed is sure to be shared.
    if leader_end < Offset::ZERO {
        return high_watermark;
    }
    if leader_epoch == LeaderEpoch::NONE {
        return leader_end.min(log_end);
    }
    match epochs.end_offset_for(leader_epoch, log_end) {
        // We do not know the leader's epoch: everything after our largest one below it is ours alone (KIP-279).
        Some((epoch, end)) if epoch != leader_epoch => end.min(log_end),
        Some((_, end)) => end.min(leader_end).min(log_end),
        None => leader_end.min(log_end),
    }
}
