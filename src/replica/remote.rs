//! What a leader knows of one follower (Kafka's `Replica` and `ReplicaState`).

use std::time::Duration;

use super::{Environment, UNKNOWN_OFFSET};
use crate::protocol::{BrokerEpoch, BrokerId, ErrorCode, Offset};
use crate::world::Time;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct RemoteReplica {
    pub id: BrokerId,
    /// The offset it fetched from last: everything below is on its log.
    pub log_end: Offset,
    /// Its log start offset, as its last fetch says.
    pub log_start: Offset,
    /// Our log end when it fetched last.
    last_fetch_leader_log_end: Offset,
    last_fetch: Option<Time>,
    /// The latest time at which it was known to have everything the leader had then. `None`: never.
    last_caught_up: Option<Time>,
    /// The broker epoch in its last fetch. `None`: no fetch yet in this leadership.
    pub broker_epoch: Option<BrokerEpoch>,
}

impl RemoteReplica {
    pub fn new(id: BrokerId) -> RemoteReplica {
        RemoteReplica {
            id,
            log_end: UNKNOWN_OFFSET,
            log_start: UNKNOWN_OFFSET,
            last_fetch_leader_log_end: Offset::ZERO,
            last_fetch: None,
            last_caught_up: None,
            broker_epoch: None,
        }
    }

    /// At the log end, or it was within the last `lag_time_max` (`ReplicaState.isCaughtUp`).
    pub fn is_caught_up(&self, leader_log_end: Offset, now: Time, lag_time_max: Duration) -> bool {
        self.log_end == leader_log_end || self.last_caught_up.is_some_and(|t| now.since(t) <= lag_time_max)
    }

    /// How long ago it was known to be caught up (`ReplicaView.timeSinceLastCaughtUpMs`).
    pub fn behind_since(&self, now: Time) -> Duration {
        self.last_caught_up.map_or(Duration::MAX, |at| now.since(at))
    }

    /// KIP-903 (KAFKA-15221): progress of an earlier incarnation says nothing about the present one's log.
    pub fn check_incarnation(&self, env: &Environment, broker_epoch: BrokerEpoch) -> Result<(), ErrorCode> {
        let registered = env.image.brokers.get(&self.id).filter(|b| !b.fenced).map(|b| b.epoch);
        if broker_epoch != BrokerEpoch::NONE && registered.is_some_and(|known| known > broker_epoch) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        Ok(())
    }

    /// Records a fetch from `offset` while our log ended at `leader_log_end` (`Replica.updateFetchStateOrThrow`).
    pub fn update_fetch_state(&mut self, now: Time, offset: Offset, leader_log_end: Offset, broker_epoch: BrokerEpoch) {
        if offset >= leader_log_end {
            self.last_caught_up = self.last_caught_up.max(Some(now));
        } else if offset >= self.last_fetch_leader_log_end {
            // It now has what the leader had at its previous fetch, so it was caught up then: a follower of a
            // busy leader never reaches the log end, and still is in sync.
            self.last_caught_up = self.last_caught_up.max(self.last_fetch);
        }
        self.log_end = offset;
        self.last_fetch_leader_log_end = self.last_fetch_leader_log_end.max(leader_log_end);
        self.last_fetch = Some(now);
        self.broker_epoch = Some(broker_epoch);
    }

    /// A new leader epoch begins (`Replica.resetReplicaState`). A new leader knows nothing of its followers; a
    /// re-elected one keeps what it knows. Members of the ISR get a fresh `replica.lag.time.max.ms`; others must
    /// not hold the high watermark back.
    pub fn reset(&mut self, now: Time, leader_log_end: Offset, is_new_leader: bool, is_in_sync: bool) {
        let granted = is_in_sync.then_some(now);
        self.last_caught_up = granted;
        if is_new_leader {
            self.log_end = UNKNOWN_OFFSET;
            self.log_start = UNKNOWN_OFFSET;
            self.last_fetch_leader_log_end = UNKNOWN_OFFSET;
            self.last_fetch = None;
            self.broker_epoch = None;
        } else {
            self.last_fetch_leader_log_end = leader_log_end;
            self.last_fetch = granted;
        }
    }
}
