//! Where a partition's log begins: retention, DeleteRecords and the low watermark on a leader; a follower follows its
//! leader (`Partition.deleteRecordsOnLeader`, `lowWatermarkIfLeader`).

use std::io;

use super::partition::Partition;
use super::{Environment, ReplicaError};
use crate::log::LogStartMove;
use crate::observe::{LogStartReason, Observation};
use crate::protocol::{ErrorCode, Offset};
use crate::world::Time;

/// `DeleteRecordsRequest.HIGH_WATERMARK`: delete everything that is committed.
const UP_TO_HIGH_WATERMARK: Offset = Offset(-1);

impl Partition {
    /// Applies `retention.bytes` and `retention.ms`.
    pub fn delete_old_segments(&mut self, now: Time, env: &Environment, wall_clock_ms: i64) -> io::Result<()> {
        for moved in self.log.delete_old_segments(now, wall_clock_ms)? {
            self.observe_log_start(now, env, moved);
        }
        Ok(())
    }

    /// Deletes the records below `up_to` (-1: the high watermark) on this leader. Returns the offset that all live
    /// replicas have to reach. OFFSET_OUT_OF_RANGE: it lies beyond the high watermark;
    /// POLICY_VIOLATION: the topic is compacted only.
    pub fn delete_records(&mut self, now: Time, env: &Environment, up_to: Offset) -> Result<Offset, ReplicaError> {
        if !self.is_leader() {
            return Err(ReplicaError::Refused(ErrorCode::NotLeaderOrFollower));
        }
        if !self.log.config().cleanup_policy.deletes() {
            return Err(ReplicaError::Refused(ErrorCode::PolicyViolation));
        }
        let up_to = if up_to == UP_TO_HIGH_WATERMARK { self.log.high_watermark() } else { up_to };
        if up_to < Offset::ZERO || up_to > self.log.high_watermark() {
            return Err(ReplicaError::Refused(ErrorCode::OffsetOutOfRange));
        }
        if let Some(moved) = self.log.increment_log_start(up_to, LogStartReason::DeleteRecords)? {
            self.observe_log_start(now, env, moved);
        }
        Ok(up_to)
    }

    /// The smallest log start offset of all live replicas; `None` on a follower. One that has not fetched from this
    /// leader yet counts as -1.
    pub fn low_watermark(&self, env: &Environment) -> Option<Offset> {
        let leader = self.leader_state()?;
        let is_alive = |id| env.image.brokers.get(&id).is_some_and(|broker| !broker.fenced);
        let others = leader.remotes.iter().filter(|remote| is_alive(remote.id)).map(|remote| remote.log_start);
        Some(others.fold(self.log.log_start(), Offset::min))
    }

    /// Our log begins no earlier than our leader's (`ReplicaFetcherThread.processPartitionData`).
    pub(super) fn follow_log_start(
        &mut self,
        now: Time,
        env: &Environment,
        leader_log_start: Offset,
    ) -> io::Result<()> {
        if leader_log_start > self.log.log_start()
            && let Some(moved) = self.log.increment_log_start(leader_log_start, LogStartReason::Leader)?
        {
            self.observe_log_start(now, env, moved);
        }
        Ok(())
    }

    pub(super) fn observe_log_start(&self, now: Time, env: &Environment, moved: LogStartMove) {
        let LogStartMove { from, to, reason } = moved;
        let partition = self.topic_partition.clone();
        env.observe(now, Observation::LogStartMoved { partition, from, to, reason });
    }
}
