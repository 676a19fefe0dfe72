//! One partition's replica on this broker: what Kafka's `Partition` decides as leader and, as follower, what
//! its `ReplicaFetcherThread` decides.
//!
//! Plain synchronous code: state, time and an input go in; the new state, its [`Effects`] and observations come
//! out. The only I/O is the calls to [`Log`](crate::log::Log). The broker shell moves the bytes: it routes
//! requests here, answers them, and carries ISR proposals to the controller.
//! One place per rule: every guard that replication rests on is one line with its reason.

mod compaction;
mod follower;
mod isr;
mod leader;
mod log_start;
mod partition;
mod preferred;
mod read;
mod remote;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

pub use follower::{AskedFetch, FetchOutcome, FetchPhase, FetchState, LeaderData, LeaderOffsets, truncation_offset};
pub use isr::{AlterPartitionResult, CommittedIsr, IsrProposal, IsrState};
pub use leader::{Acknowledgement, LeaderAppend};
pub use partition::{Effects, Partition, Transition};
pub use read::{FetchProgress, FetchedData, OffsetAndTimestamp, ReadRequest, Reader};

use crate::metadata::MetadataImage;
use crate::observe::{Observation, Observer};
use crate::protocol::{BrokerEpoch, BrokerId, ErrorCode, Offset};
use crate::world::Time;

/// A log end offset that the leader does not know (Kafka's `UNKNOWN_OFFSET`): below every real one.
pub const UNKNOWN_OFFSET: Offset = Offset(-1);

/// What one broker's partitions share: who we are, what we know of the cluster, and who listens.
pub struct Environment {
    pub id: BrokerId,
    /// Name in observations: `broker-1`.
    pub machine: String,
    pub observer: Observer,
    /// The epoch of our registration, [`BrokerEpoch::NONE`] until there is one.
    pub broker_epoch: BrokerEpoch,
    /// `replica.lag.time.max.ms`
    pub replica_lag_time_max: Duration,
    /// The committed metadata as far as we have it (`KRaftMetadataCache`).
    pub image: MetadataImage,
}

impl Environment {
    pub fn observe(&self, now: Time, observation: Observation) {
        (self.observer)(now, &self.machine, observation);
    }
}

/// Why a request on a partition fails.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// Refused with this code: the caller reports it, nothing has changed.
    #[error("refused: {0}")]
    Refused(ErrorCode),
    /// The disk failed: the broker stops (KIP-112 with one log directory).
    #[error(transparent)]
    Io(#[from] io::Error),
}
