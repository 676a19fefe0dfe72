//! The ISR as its leader sees it while changes are under way (KIP-497; Kafka's `PartitionState` classes).

use crate::protocol::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch};

/// An ISR that the leader asks the controller for (AlterPartition).
#[derive(Clone, Debug, PartialEq)]
pub struct IsrProposal {
    /// Tells this proposal from every other of this partition on this broker.
    pub id: u64,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// Members with the broker epoch of their last fetch, [`BrokerEpoch::NONE`] if there was none (KIP-903).
    pub isr: Vec<(BrokerId, BrokerEpoch)>,
}

/// The partition's state after a successful AlterPartition, as the controller reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct CommittedIsr {
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<BrokerId>,
}

/// The controller's answer to one proposal.
pub type AlterPartitionResult = Result<CommittedIsr, ErrorCode>;

/// The leader's view of the ISR.
#[derive(Clone, Debug, PartialEq)]
pub enum IsrState {
    /// As the controller has it (`CommittedPartitionState`).
    Committed(Vec<BrokerId>),
    /// A replica was proposed; whether it is in we do not know (`PendingExpandIsr`).
    PendingExpand { committed: Vec<BrokerId>, maximal: Vec<BrokerId>, proposal: u64 },
    /// Removals were proposed; whether they are out we do not know (`PendingShrinkIsr`).
    PendingShrink { committed: Vec<BrokerId>, proposal: u64 },
}

impl IsrState {
    /// The last ISR known to be committed.
    pub fn isr(&self) -> &[BrokerId] {
        match self {
            IsrState::Committed(isr) => isr,
            IsrState::PendingExpand { committed, .. } | IsrState::PendingShrink { committed, .. } => committed,
        }
    }

    /// Every replica that may be in the ISR: a proposed addition counts, a proposed removal does not yet.
    pub fn maximal_isr(&self) -> &[BrokerId] {
        match self {
            IsrState::Committed(isr) => isr,
            IsrState::PendingExpand { maximal, .. } => maximal,
            IsrState::PendingShrink { committed, .. } => committed,
        }
    }

    /// The proposal that is on its way to the controller.
    pub fn in_flight(&self) -> Option<u64> {
        match self {
            IsrState::Committed(_) => None,
            IsrState::PendingExpand { proposal, .. } | IsrState::PendingShrink { proposal, .. } => Some(*proposal),
        }
    }
}
