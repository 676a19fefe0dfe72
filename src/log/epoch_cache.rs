//! The leader epoch cache (Kafka's `LeaderEpochFileCache`), kept in `leader-epoch-checkpoint`.

use crate::protocol::{LeaderEpoch, Offset};

/// Start offset of each leader epoch in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochCache;

impl EpochCache {
    pub fn latest(&self) -> Option<LeaderEpoch> {
        todo!()
    }
    /// `endOffsetFor`: the largest epoch <= `epoch` that the log knows, and where it ends (the start of the
    /// next one, or `log_end` for the latest). `None`: undefined (no such epoch).
    pub fn end_offset_for(&self, _epoch: LeaderEpoch, _log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        todo!()
    }
    /// Start offset of exactly this epoch.
    pub fn start_offset(&self, _epoch: LeaderEpoch) -> Option<Offset> {
        todo!()
    }
}
