//! Where a consumer stands in each of its partitions (Kafka's `SubscriptionState`, KIP-320): decides when a
//! position may be fetched from, must be validated against a new leader, or must be reset.

use serde::{Deserialize, Serialize};

use crate::config::OffsetReset;
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, Offset, TopicPartition};
use crate::world::Time;

use super::error::ErrorName;
use super::metadata::LeaderAndEpoch;

/// What a consumer cannot get past on its own. Reported once; the partition then rests until it is sought or
/// assigned anew.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConsumerError {
    /// OFFSET_OUT_OF_RANGE with `auto.offset.reset=none` (`OffsetOutOfRangeException`).
    #[error("position {position} of {partition} is out of range")]
    OffsetOutOfRange { partition: TopicPartition, position: Offset },
    /// No position and `auto.offset.reset=none` (`NoOffsetForPartitionException`).
    #[error("{partition} has no position")]
    NoOffsetForPartition { partition: TopicPartition },
    /// The log was cut below the position, with `auto.offset.reset=none` (`LogTruncationException`).
    #[error("the log of {partition} was truncated below position {position}")]
    LogTruncation {
        partition: TopicPartition,
        position: Offset,
        /// Where the log that was read parts from the leader's, and the epoch it ends with; none if the leader
        /// knows nothing as old.
        divergent: Option<(Offset, LeaderEpoch)>,
    },
    /// A batch that cannot be read, with `check.crcs` also one whose CRC is wrong.
    #[error("corrupt records in {partition} at position {position}: {reason}")]
    CorruptRecords { partition: TopicPartition, position: Offset, reason: String },
    /// An error code that no retry mends.
    #[error("{partition}: {}", ErrorName(*.error))]
    Broker { partition: TopicPartition, error: ErrorCode },
}

/// Why a position was moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetReason {
    /// OFFSET_OUT_OF_RANGE: by `auto.offset.reset`.
    OutOfRange,
    /// The log was cut below the position: to where it diverges, or by `auto.offset.reset` if that is unknown.
    Truncation,
}

/// A position that the consumer moved on its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PositionReset {
    pub partition: TopicPartition,
    pub from: Offset,
    pub to: Offset,
    pub reason: ResetReason,
}

/// The next offset to read, with what is known of the log it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FetchPosition {
    pub offset: Offset,
    /// Epoch of the last record read; [`LeaderEpoch::NONE`] if none.
    pub offset_epoch: LeaderEpoch,
    pub leader: LeaderAndEpoch,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FetchState {
    Initializing,
    Fetching(FetchPosition),
    /// `from`: the position that was given up, if there was one.
    AwaitReset {
        policy: OffsetReset,
        from: Option<(Offset, ResetReason)>,
    },
    AwaitValidation(FetchPosition),
    /// A [`ConsumerError`] was reported.
    Resting {
        offset: Offset,
    },
}

/// One assigned partition.
pub(super) struct AssignedPartition {
    pub partition: TopicPartition,
    pub state: FetchState,
    /// No request for this partition before then.
    pub retry_at: Time,
    /// Fetched records wait for `poll`.
    pub is_buffered: bool,
    /// Its place among those that are fetched from one broker.
    pub turn: u64,
    /// By the application: not fetched, and nothing of it is handed out.
    pub is_paused: bool,
    /// Whom the leader has sent us to (KIP-392).
    preferred: Option<PreferredReadReplica>,
}

/// A replica to fetch from instead of the leader, and until when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PreferredReadReplica {
    id: BrokerId,
    expires_at: Time,
}

impl AssignedPartition {
    pub fn new(partition: TopicPartition) -> AssignedPartition {
        AssignedPartition {
            partition,
            state: FetchState::Initializing,
            retry_at: Time::ZERO,
            is_buffered: false,
            turn: 0,
            is_paused: false,
            preferred: None,
        }
    }

    /// Whom to fetch from, if not from the leader.
    pub fn preferred_read_replica(&mut self, now: Time) -> Option<BrokerId> {
        self.preferred = self.preferred.filter(|preferred| now <= preferred.expires_at);
        self.preferred.map(|preferred| preferred.id)
    }

    /// The leader sends us to `id`. Named once more, its time does not begin anew (`updatePreferredReadReplica`).
    pub fn prefer(&mut self, id: BrokerId, expires_at: Time) {
        if self.preferred.is_none_or(|preferred| preferred.id != id) {
            self.preferred = Some(PreferredReadReplica { id, expires_at });
        }
    }

    /// Back to the leader; false if that is where we were (`clearPreferredReadReplica`).
    pub fn return_to_leader(&mut self) -> bool {
        self.preferred.take().is_some()
    }

    /// The position, valid or not; none while it is looked up.
    pub fn position(&self) -> Option<Offset> {
        match self.state {
            FetchState::Fetching(position) | FetchState::AwaitValidation(position) => Some(position.offset),
            FetchState::Resting { offset } => Some(offset),
            FetchState::Initializing | FetchState::AwaitReset { .. } => None,
        }
    }

    fn enter(&mut self, state: FetchState) {
        self.state = state;
        self.retry_at = Time::ZERO;
    }

    pub fn seek(&mut self, offset: Offset, leader: LeaderAndEpoch) {
        self.enter(FetchState::Fetching(FetchPosition { offset, offset_epoch: LeaderEpoch::NONE, leader }));
    }

    /// Begins where a group had committed: `epoch` is that of the record before, so that a log which was cut since is
    /// noticed (`seekUnvalidated`, KIP-320).
    pub fn seek_committed(&mut self, offset: Offset, epoch: LeaderEpoch, leader: LeaderAndEpoch) {
        let position = FetchPosition { offset, offset_epoch: epoch, leader };
        let can_validate = epoch != LeaderEpoch::NONE && leader.epoch != LeaderEpoch::NONE;
        self.enter(match can_validate && leader.leader.is_some() {
            true => FetchState::AwaitValidation(position),
            false => FetchState::Fetching(position),
        });
    }

    pub fn is_initializing(&self) -> bool {
        self.state == FetchState::Initializing
    }

    /// The position and the epoch of the record before it, if it may be fetched from (`hasValidPosition`).
    pub fn valid_position(&self) -> Option<(Offset, LeaderEpoch)> {
        match self.state {
            FetchState::Fetching(position) => Some((position.offset, position.offset_epoch)),
            FetchState::Initializing
            | FetchState::AwaitReset { .. }
            | FetchState::AwaitValidation(_)
            | FetchState::Resting { .. } => None,
        }
    }

    pub fn reset(&mut self, policy: OffsetReset, from: Option<(Offset, ResetReason)>) {
        self.enter(FetchState::AwaitReset { policy, from });
    }

    pub fn rest(&mut self, offset: Offset) {
        self.enter(FetchState::Resting { offset });
    }

    /// The position may be of a log that the new leader does not have: it is validated before the next fetch if
    /// both its epoch and the leader's are known (`maybeValidatePosition`).
    pub fn on_leader(&mut self, leader: LeaderAndEpoch) {
        let position = match self.state {
            FetchState::Fetching(position) | FetchState::AwaitValidation(position) => position,
            FetchState::Initializing | FetchState::AwaitReset { .. } | FetchState::Resting { .. } => return,
        };
        if leader.leader.is_none() || leader == position.leader {
            return;
        }
        self.preferred = None;
        let position = FetchPosition { leader, ..position };
        let can_validate = position.offset_epoch != LeaderEpoch::NONE && leader.epoch != LeaderEpoch::NONE;
        self.enter(match can_validate {
            true => FetchState::AwaitValidation(position),
            false => FetchState::Fetching(position),
        });
    }

    /// Ends a reset that `policy` asked for, at `offset`. Nothing if the partition was sought meanwhile.
    pub fn complete_reset(
        &mut self,
        policy: OffsetReset,
        offset: Offset,
        leader: LeaderAndEpoch,
    ) -> Option<PositionReset> {
        let from = match self.state {
            FetchState::AwaitReset { policy: wanted, from } if wanted == policy => from,
            FetchState::AwaitReset { .. }
            | FetchState::Initializing
            | FetchState::Fetching(_)
            | FetchState::AwaitValidation(_)
            | FetchState::Resting { .. } => return None,
        };
        self.seek(offset, leader);
        from.map(|(from, reason)| PositionReset { partition: self.partition.clone(), from, to: offset, reason })
    }

    /// Judges the leader's answer to `OffsetsForLeaderEpoch` about `asked`: the end of the position's epoch in the
    /// leader's log, undefined (-1) if it has nothing as old (`maybeCompleteValidation`).
    pub fn complete_validation(
        &mut self,
        asked: FetchPosition,
        end_offset: Offset,
        epoch: LeaderEpoch,
        policy: OffsetReset,
    ) -> Validated {
        if self.state != FetchState::AwaitValidation(asked) {
            return Validated::Obsolete;
        }
        let is_defined = end_offset >= Offset::ZERO && epoch != LeaderEpoch::NONE;
        if is_defined && end_offset >= asked.offset {
            self.enter(FetchState::Fetching(asked));
            return Validated::Valid;
        }
        let partition = self.partition.clone();
        if policy == OffsetReset::None {
            self.rest(asked.offset);
            let divergent = is_defined.then_some((end_offset, epoch));
            return Validated::Truncated(ConsumerError::LogTruncation { partition, position: asked.offset, divergent });
        }
        if !is_defined {
            self.reset(policy, Some((asked.offset, ResetReason::Truncation)));
            return Validated::Valid;
        }
        self.enter(FetchState::Fetching(FetchPosition { offset: end_offset, offset_epoch: epoch, ..asked }));
        Validated::Moved(PositionReset {
            partition,
            from: asked.offset,
            to: end_offset,
            reason: ResetReason::Truncation,
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Validated {
    /// Nothing to tell: the position stands, or a reset was begun.
    Valid,
    Moved(PositionReset),
    Truncated(ConsumerError),
    /// The position has changed since the question was asked.
    Obsolete,
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: LeaderAndEpoch = LeaderAndEpoch { leader: Some(BrokerId(1)), epoch: LeaderEpoch(3) };
    const NEW: LeaderAndEpoch = LeaderAndEpoch { leader: Some(BrokerId(2)), epoch: LeaderEpoch(4) };

    fn at(offset: i64, epoch: i32, leader: LeaderAndEpoch) -> FetchPosition {
        FetchPosition { offset: Offset(offset), offset_epoch: LeaderEpoch(epoch), leader }
    }

    fn partition(state: FetchState) -> AssignedPartition {
        AssignedPartition { state, ..AssignedPartition::new(TopicPartition::new("t", 0)) }
    }

    #[test]
    fn a_new_leader_makes_a_position_with_an_epoch_wait_for_validation() {
        let cases = [
            ("same leader", at(9, 3, OLD), OLD, FetchState::Fetching(at(9, 3, OLD))),
            ("new leader", at(9, 3, OLD), NEW, FetchState::AwaitValidation(at(9, 3, NEW))),
            ("nothing read yet", at(9, -1, OLD), NEW, FetchState::Fetching(at(9, -1, NEW))),
            ("no leader known", at(9, 3, OLD), LeaderAndEpoch::UNKNOWN, FetchState::Fetching(at(9, 3, OLD))),
        ];
        for (case, position, leader, expected) in cases {
            let mut partition = partition(FetchState::Fetching(position));
            partition.on_leader(leader);
            assert_eq!(partition.state, expected, "{case}");
        }
    }

    #[test]
    fn validation_keeps_moves_resets_or_reports_the_position() {
        let asked = at(100, 3, NEW);
        let moved = PositionReset {
            partition: TopicPartition::new("t", 0),
            from: Offset(100),
            to: Offset(50),
            reason: ResetReason::Truncation,
        };
        let truncated = |divergent| {
            Validated::Truncated(ConsumerError::LogTruncation {
                partition: TopicPartition::new("t", 0),
                position: Offset(100),
                divergent,
            })
        };
        let awaits_reset = FetchState::AwaitReset {
            policy: OffsetReset::Earliest,
            from: Some((Offset(100), ResetReason::Truncation)),
        };
        let resting = FetchState::Resting { offset: Offset(100) };
        let cases = [
            (100, 3, OffsetReset::Earliest, Validated::Valid, FetchState::Fetching(asked)),
            (150, 3, OffsetReset::None, Validated::Valid, FetchState::Fetching(asked)),
            (50, 2, OffsetReset::Earliest, Validated::Moved(moved), FetchState::Fetching(at(50, 2, NEW))),
            (-1, -1, OffsetReset::Earliest, Validated::Valid, awaits_reset),
            (50, 2, OffsetReset::None, truncated(Some((Offset(50), LeaderEpoch(2)))), resting),
            (-1, -1, OffsetReset::None, truncated(None), resting),
        ];
        for (end_offset, epoch, policy, validated, state) in cases {
            let mut partition = partition(FetchState::AwaitValidation(asked));
            let got = partition.complete_validation(asked, Offset(end_offset), LeaderEpoch(epoch), policy);
            assert_eq!((got, partition.state), (validated, state), "end offset {end_offset}, {policy:?}");
        }
    }

    #[test]
    fn an_answer_about_an_older_position_is_ignored() {
        let mut partition = partition(FetchState::AwaitValidation(at(100, 3, NEW)));
        partition.seek(Offset(7), NEW);
        let got = partition.complete_validation(at(100, 3, NEW), Offset(1), LeaderEpoch(1), OffsetReset::Earliest);
        assert_eq!((got, partition.position()), (Validated::Obsolete, Some(Offset(7))));
    }

    #[test]
    fn a_reset_answer_after_a_seek_does_not_move_the_position() {
        let mut partition = partition(FetchState::Initializing);
        partition.reset(OffsetReset::Latest, None);
        partition.seek(Offset(7), NEW);
        assert_eq!(partition.complete_reset(OffsetReset::Latest, Offset(99), NEW), None);
        assert_eq!(partition.position(), Some(Offset(7)));
    }
}
