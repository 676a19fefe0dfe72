//! An ISR that a leader proposed, took for refused, and was granted all the same.
//!
//! An AlterPartition request that is not answered in `controller.socket.timeout.ms` is sent again. If the second copy is
//! refused (INELIGIBLE_REPLICA, as a broker is fenced for a moment) the leader goes back to the committed ISR
//! (`Partition.handleAlterPartitionError`), but the first one may still be on its way, and names a partition epoch that is
//! still right.

use crate::protocol::{BrokerId, LeaderEpoch};
use crate::world::Time;

#[derive(Default)]
pub(super) struct Proposals {
    leader_epoch: Option<LeaderEpoch>,
    /// The controller's ISR.
    committed: Vec<BrokerId>,
    pending: Option<Vec<BrokerId>>,
    withdrawn: Vec<Vec<BrokerId>>,
    /// From when to when the leader did not count a replica that the controller has put into the ISR so.
    late: Vec<(Time, Option<Time>)>,
}

impl Proposals {
    /// The leader's view of the ISR.
    pub fn viewed(&mut self, at: Time, isr: &[BrokerId], maximal_isr: &[BrokerId], is_pending: bool) {
        if is_pending {
            self.pending = Some(sorted(maximal_isr));
        } else if let Some(proposed) = self.pending.take()
            && proposed != sorted(isr)
        {
            self.withdrawn.push(proposed);
        }
        if let Some((_, until)) = self.late.last_mut()
            && self.committed.iter().all(|member| maximal_isr.contains(member))
        {
            until.get_or_insert(at);
        }
    }

    /// The controller's decision.
    pub fn changed(&mut self, at: Time, leader_epoch: LeaderEpoch, isr: &[BrokerId]) {
        self.committed = sorted(isr);
        if self.leader_epoch.replace(leader_epoch) != Some(leader_epoch) {
            *self = Proposals {
                leader_epoch: self.leader_epoch,
                committed: std::mem::take(&mut self.committed),
                late: std::mem::take(&mut self.late),
                ..Proposals::default()
            };
        } else if self.pending.as_ref() != Some(&self.committed) && self.withdrawn.contains(&self.committed) {
            self.late.push((at, None));
        }
    }

    pub fn is_late(&self, at: Time) -> bool {
        self.late.iter().any(|(since, until)| *since <= at && until.is_none_or(|until| at <= until))
    }
}

fn sorted(brokers: &[BrokerId]) -> Vec<BrokerId> {
    let mut brokers = brokers.to_vec();
    brokers.sort_unstable();
    brokers
}
