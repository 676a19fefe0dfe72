//! The leader's rules: appends, the high watermark, the ISR (`Partition`).

use bytes::Bytes;

use super::isr::{AlterPartitionResult, CommittedIsr, IsrProposal, IsrState};
use super::partition::{Effects, Partition, Role};
use super::read::ReadRequest;
use super::remote::RemoteReplica;
use super::{Environment, ReplicaError};
use crate::defect::{Defect, Defects};
use crate::log::{AppendError, Appended};
use crate::observe::Observation;
use crate::protocol::{BrokerEpoch, BrokerId, ErrorCode, Offset};
use crate::world::Time;

/// What a leader knows beyond its log.
pub(super) struct LeaderState {
    /// Our log end when this leader epoch began.
    pub epoch_start: Offset,
    /// The other assigned replicas.
    pub remotes: Vec<RemoteReplica>,
    pub isr: IsrState,
}

impl LeaderState {
    pub fn new() -> LeaderState {
        LeaderState { epoch_start: Offset::ZERO, remotes: Vec::new(), isr: IsrState::Committed(Vec::new()) }
    }

    fn remote(&self, id: BrokerId) -> Option<&RemoteReplica> {
        self.remotes.iter().find(|r| r.id == id)
    }

    /// `min.insync.replicas`, but never more than there are replicas.
    fn effective_min_isr(&self, min_insync_replicas: i32) -> usize {
        usize::try_from(min_insync_replicas).unwrap_or(0).min(self.remotes.len() + 1)
    }

    /// May this replica be proposed for the ISR, as far as the cluster metadata says (`isReplicaIsrEligible`)?
    fn is_isr_eligible(&self, env: &Environment, id: BrokerId, defects: Defects) -> bool {
        let stored_epoch = self.remote(id).and_then(|r| r.broker_epoch);
        env.image.brokers.get(&id).is_some_and(|broker| {
            !broker.fenced
                && !broker.in_controlled_shutdown
                // KIP-903: what we know of its log is about the incarnation that is registered now.
                && (stored_epoch.is_some_and(|e| e == BrokerEpoch::NONE || e == broker.epoch)
                    || defects.has(Defect::IsrCheckTwoReads))
        })
    }
}

/// A producer's record set, appended; or found to be appended already (no batches).
#[derive(Debug)]
pub struct LeaderAppend {
    pub appended: Appended,
    pub high_watermark_advanced: bool,
}

/// How far an acks=all produce request has come (`checkEnoughReplicasReachOffset`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acknowledgement {
    Waiting,
    Done,
    Failed(ErrorCode),
}

impl Partition {
    pub(super) fn leader_state(&self) -> Option<&LeaderState> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower(_) => None,
        }
    }

    fn leader_state_mut(&mut self) -> Option<&mut LeaderState> {
        match &mut self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower(_) => None,
        }
    }

    /// The ISR as its leader sees it; `None` on a follower.
    pub fn isr_state(&self) -> Option<&IsrState> {
        self.leader_state().map(|l| &l.isr)
    }

    /// Where this leader's epoch began; `None` on a follower.
    pub fn leader_epoch_start(&self) -> Option<Offset> {
        self.leader_state().map(|l| l.epoch_start)
    }

    fn is_under_min_isr(&self) -> bool {
        self.leader_state().is_some_and(|l| l.isr.isr().len() < l.effective_min_isr(self.min_insync_replicas()))
    }

    fn min_insync_replicas(&self) -> i32 {
        if self.defects().has(Defect::IgnoreMinIsr) { 1 } else { self.min_insync_replicas }
    }

    /// Appends a producer's record set (`appendRecordsToLeader`).
    pub fn append_as_leader(
        &mut self,
        now: Time,
        env: &Environment,
        records: &Bytes,
        required_acks: i16,
        wall_clock_ms: i64,
    ) -> Result<LeaderAppend, ReplicaError> {
        if !self.is_leader() {
            return Err(ReplicaError::Refused(ErrorCode::NotLeaderOrFollower));
        }
        // acks=all promises min.insync.replicas copies: refuse what cannot get them.
        if required_acks == -1 && self.is_under_min_isr() {
            return Err(ReplicaError::Refused(ErrorCode::NotEnoughReplicas));
        }
        let appended =
            self.log.append_from_client(records, self.leader_epoch, wall_clock_ms).map_err(refused_or_failed)?;
        if appended.batches.is_empty() {
            return Ok(LeaderAppend { appended, high_watermark_advanced: false });
        }
        env.observe(
            now,
            Observation::Appended {
                partition: self.topic_partition.clone(),
                as_leader: true,
                leader_epoch: self.leader_epoch,
                batches: appended.batches.clone(),
                sequences: appended.sequences,
            },
        );
        self.observe_flushed(now, env, appended.flushed_to);
        let high_watermark_advanced = self.maybe_advance_high_watermark(now, env);
        Ok(LeaderAppend { appended, high_watermark_advanced })
    }

    /// Whether an acks=all produce request that ends before `required_offset` can be answered.
    pub fn acknowledgement(&self, required_offset: Offset) -> Acknowledgement {
        let Some(leader) = self.leader_state() else {
            // Another leads now, and our record may be none of its.
            if self.defects().has(Defect::AckFromDeposedLeader) {
                return Acknowledgement::Done;
            }
            return Acknowledgement::Failed(ErrorCode::NotLeaderOrFollower);
        };
        if self.log.high_watermark() < required_offset {
            return Acknowledgement::Waiting;
        }
        // The ISR may have shrunk since the append.
        if leader.isr.maximal_isr().len() < leader.effective_min_isr(self.min_insync_replicas()) {
            return Acknowledgement::Failed(ErrorCode::NotEnoughReplicasAfterAppend);
        }
        Acknowledgement::Done
    }

    /// Advances the high watermark as far as the replicas allow (`maybeIncrementLeaderHW`): to the smallest log
    /// end among the maximal ISR and those who may soon join it. True if it advanced.
    pub(super) fn maybe_advance_high_watermark(&mut self, now: Time, env: &Environment) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        // Strict min ISR (KIP-966): below min.insync.replicas nothing new becomes visible, so that the eligible
        // leader replicas, who left the ISR before, still hold all that is.
        if self.is_under_min_isr() {
            return false;
        }
        let log_end = self.log.log_end();
        let mut high_watermark = log_end;
        for remote in &leader.remotes {
            if remote.log_end >= high_watermark {
                continue;
            }
            // KIP-497: a proposed member may already be elected, so it counts although it is not confirmed.
            let is_in_maximal_isr = leader.isr.maximal_isr().contains(&remote.id);
            // Without waiting for a follower that keeps up, it would chase the high watermark and never join.
            let is_about_to_join = || {
                remote.is_caught_up(log_end, now, env.replica_lag_time_max)
                    && leader.is_isr_eligible(env, remote.id, self.defects())
            };
            let counts = if self.defects().has(Defect::HwIsrCommitted) {
                // Before KIP-497 was got right (AsyncIsr.tla): who is not confirmed does not count.
                leader.isr.isr().contains(&remote.id)
            } else {
                is_in_maximal_isr || is_about_to_join()
            };
            if counts && !self.defects().has(Defect::HwFromLeaderLogEnd) {
                high_watermark = remote.log_end;
            }
        }
        if high_watermark <= self.log.high_watermark() {
            return false;
        }
        self.log.set_high_watermark(high_watermark);
        self.observe_high_watermark(now, env);
        true
    }

    /// Takes note of a follower's fetch (`updateFollowerFetchState`): its log end, perhaps its way into the ISR,
    /// perhaps a higher high watermark; its log start. A follower for which nothing is left counts as caught up: what is
    /// taken for its log end is `fetchOffsetMetadata` of what it was served. `leader_log_end` is our log end then.
    pub(super) fn update_follower_fetch_state(
        &mut self,
        now: Time,
        env: &Environment,
        (follower, follower_epoch): (BrokerId, BrokerEpoch),
        request: &ReadRequest,
        leader_log_end: Offset,
    ) -> Result<Effects, ErrorCode> {
        let log_end = self.log.reading_offset(request.offset);
        let remotes = self.leader_state().map(|leader| (leader, leader.remote(follower)));
        let Some((leader, Some(remote))) = remotes else { return Err(ErrorCode::NotLeaderOrFollower) };
        if let Err(error) = remote.check_incarnation(env, follower_epoch)
            && !(self.may_join_isr(leader, follower, log_end) && self.defects().has(Defect::IsrCheckTwoReads))
        {
            return Err(error);
        }
        let remotes = self.leader_state_mut().map(|leader| &mut leader.remotes);
        let Some(remote) = remotes.and_then(|remotes| remotes.iter_mut().find(|remote| remote.id == follower)) else {
            return Err(ErrorCode::NotLeaderOrFollower);
        };
        let previous_log_end = remote.log_end;
        remote.update_fetch_state(now, log_end, leader_log_end, follower_epoch);
        let low_watermark_advanced = std::mem::replace(&mut remote.log_start, request.log_start) < request.log_start;
        let isr_proposal = self.maybe_expand_isr(now, env, follower);
        let high_watermark_advanced = previous_log_end != log_end && self.maybe_advance_high_watermark(now, env);
        Ok(Effects { high_watermark_advanced, low_watermark_advanced, isr_proposal })
    }

    fn maybe_expand_isr(&mut self, now: Time, env: &Environment, follower: BrokerId) -> Option<IsrProposal> {
        let Role::Leader(leader) = &self.role else { return None };
        let log_end = leader.remote(follower)?.log_end;
        if !self.may_join_isr(leader, follower, log_end) || !leader.is_isr_eligible(env, follower, self.defects()) {
            return None;
        }
        let committed = leader.isr.isr().to_vec();
        let mut maximal = committed.clone();
        maximal.push(follower);
        let proposal = self.propose(env, &maximal);
        self.leader_state_mut()?.isr = IsrState::PendingExpand { committed, maximal, proposal: proposal.id };
        self.observe_isr(now, env);
        Some(proposal)
    }

    /// Whether a follower outside the ISR whose log ends there belongs into it (`isFollowerInSync`).
    fn may_join_isr(&self, leader: &LeaderState, follower: BrokerId, log_end: Offset) -> bool {
        leader.isr.in_flight().is_none()
            && !leader.isr.isr().contains(&follower)
            // A member of the ISR can be elected, and must then have all that consumers have seen (v3_5:526).
            && (log_end >= self.log.high_watermark() || self.defects().has(Defect::IsrJoinBelowHw))
            // Our high watermark may lag behind the previous leader's: up to where our epoch begins, everything may be
            // committed (KAFKA-7128, v3_5:528).
            && (log_end >= leader.epoch_start || self.defects().has(Defect::IsrNoLeso))
    }

    /// Proposes an ISR without the followers that fell behind, if there are any (`maybeShrinkIsr`).
    pub fn maybe_shrink_isr(&mut self, now: Time, env: &Environment) -> Effects {
        let Role::Leader(leader) = &self.role else { return Effects::default() };
        if leader.isr.in_flight().is_some() {
            return Effects::default();
        }
        let log_end = self.log.log_end();
        let is_in_sync = |id: &BrokerId| {
            *id == env.id || leader.remote(*id).is_some_and(|r| r.is_caught_up(log_end, now, env.replica_lag_time_max))
        };
        let committed = leader.isr.isr().to_vec();
        let remaining: Vec<BrokerId> = committed.iter().copied().filter(is_in_sync).collect();
        if remaining.len() == committed.len() {
            return Effects::default();
        }
        let proposal = self.propose(env, &remaining);
        // Until the controller has confirmed it, who is to go may still be elected (KIP-497).
        let acts_on_it = self.defects().has(Defect::HwIsrBeforeCommit);
        let committed = if acts_on_it { remaining } else { committed };
        if let Some(leader) = self.leader_state_mut() {
            leader.isr = IsrState::PendingShrink { committed, proposal: proposal.id };
        }
        self.observe_isr(now, env);
        let high_watermark_advanced = acts_on_it && self.maybe_advance_high_watermark(now, env);
        Effects { high_watermark_advanced, isr_proposal: Some(proposal), ..Effects::default() }
    }

    fn propose(&mut self, env: &Environment, isr: &[BrokerId]) -> IsrProposal {
        self.proposals += 1;
        let broker_epoch = |id: BrokerId| {
            if id == env.id {
                return env.broker_epoch;
            }
            let known = self.leader_state().and_then(|l| l.remote(id)).and_then(|r| r.broker_epoch);
            let (known, registered) = (known.unwrap_or(BrokerEpoch::NONE), env.image.brokers.get(&id).map(|b| b.epoch));
            // KAFKA-15221: the second read. A new incarnation may have come since the first.
            let registered = registered.unwrap_or(BrokerEpoch::NONE);
            if registered != known && self.defects().has(Defect::IsrCheckTwoReads) { registered } else { known }
        };
        IsrProposal {
            id: self.proposals,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            isr: isr.iter().map(|&id| (id, broker_epoch(id))).collect(),
        }
    }

    /// The controller's answer to `proposal` (`submitAlterPartition`, `handleAlterPartitionUpdate`,
    /// `handleAlterPartitionError`). [`Effects::isr_proposal`] asks for another try.
    pub fn on_alter_partition(
        &mut self,
        now: Time,
        env: &Environment,
        proposal: IsrProposal,
        result: AlterPartitionResult,
    ) -> Effects {
        // Metadata has overtaken the answer: it speaks of a state that is gone.
        if self.isr_state().and_then(IsrState::in_flight) != Some(proposal.id) {
            return Effects::default();
        }
        match result {
            Ok(committed) => self.on_isr_committed(now, env, committed),
            Err(error) => self.on_isr_refused(now, env, proposal, error),
        }
    }

    fn on_isr_committed(&mut self, now: Time, env: &Environment, committed: CommittedIsr) -> Effects {
        if committed.leader_epoch != self.leader_epoch || committed.partition_epoch < self.partition_epoch {
            return Effects::default();
        }
        self.partition_epoch = committed.partition_epoch;
        if let Some(leader) = self.leader_state_mut() {
            leader.isr = IsrState::Committed(committed.isr);
        }
        self.observe_isr(now, env);
        let high_watermark_advanced = self.maybe_advance_high_watermark(now, env);
        Effects { high_watermark_advanced, ..Effects::default() }
    }

    fn on_isr_refused(&mut self, now: Time, env: &Environment, proposal: IsrProposal, error: ErrorCode) -> Effects {
        match error {
            // The controller vouches that our partition epoch is current and that nothing was applied: only
            // then is it safe to fall back to the committed ISR.
            ErrorCode::OperationNotAttempted | ErrorCode::IneligibleReplica => {
                if let Some(leader) = self.leader_state_mut() {
                    leader.isr = IsrState::Committed(leader.isr.isr().to_vec());
                }
                self.observe_isr(now, env);
                Effects::default()
            }
            // Our state is out of date: stay pending, which is the strictest view, until metadata comes.
            ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::InvalidUpdateVersion
            | ErrorCode::InvalidRequest
            | ErrorCode::NewLeaderElected => Effects::default(),
            _ => Effects { isr_proposal: Some(proposal), ..Effects::default() },
        }
    }

    pub(super) fn observe_isr(&self, now: Time, env: &Environment) {
        if let Some(isr) = self.isr_state() {
            env.observe(
                now,
                Observation::IsrView {
                    partition: self.topic_partition.clone(),
                    isr: isr.isr().to_vec(),
                    maximal_isr: isr.maximal_isr().to_vec(),
                    pending: isr.in_flight().is_some(),
                },
            );
        }
    }
}

/// Kafka's error for a record set that the log refuses.
fn refused_or_failed(error: AppendError) -> ReplicaError {
    match error {
        AppendError::Batch(error) => ReplicaError::Refused(error.error_code()),
        AppendError::Producer(error) => ReplicaError::Refused(error.error_code()),
        AppendError::TooLarge { .. } => ReplicaError::Refused(ErrorCode::MessageTooLarge),
        AppendError::BeyondSegment { .. } => ReplicaError::Refused(ErrorCode::RecordListTooLarge),
        AppendError::OutOfOrder { .. } => ReplicaError::Refused(ErrorCode::UnknownServerError),
        AppendError::Io(error) => ReplicaError::Io(error),
    }
}
