//! Which replica a consumer is sent to (KIP-392): `ReplicaManager.findPreferredReadReplica` with
//! `RackAwareReplicaSelector`. Only a leader decides it; whoever is sent is served by `read`, as far as the follower's own
//! log and high watermark go.

use std::cmp::Reverse;

use super::leader::LeaderState;
use super::partition::Partition;
use super::read::{FetchedData, ReadRequest};
use super::remote::RemoteReplica;
use super::{Environment, ReplicaError};
use crate::protocol::{BrokerId, Offset};
use crate::world::{Chain, Time};

impl Partition {
    /// The replica in `rack` that a consumer at `offset` shall read from; `None`: it stays with us, the leader, because we
    /// are in its rack ourselves, or nobody is who has the offset, or we do not lead.
    pub fn preferred_read_replica(&self, now: Time, env: &Environment, rack: &str, offset: Offset) -> Option<BrokerId> {
        let leader = self.leader_state()?;
        if is_in_rack(env, env.id, rack) {
            return None;
        }
        let near = leader.remotes.iter().filter(|r| is_candidate(leader, r, offset) && is_in_rack(env, r.id, rack));
        // `ReplicaView.comparator`: the longest log, then who was at our end last.
        let most_caught_up = |r: &&RemoteReplica| (r.log_end, Reverse(r.behind_since(now)), r.id);
        near.max_by_key(most_caught_up).map(|r| r.id)
    }

    /// What a consumer is answered that shall read from `replica`: where we stand, and no records.
    pub fn refer_to(&self, replica: BrokerId, request: &ReadRequest) -> Result<FetchedData, ReplicaError> {
        self.check_readable(request.current_leader_epoch, false)?;
        Ok(FetchedData {
            records: Chain::new(),
            high_watermark: self.log.high_watermark(),
            log_start: self.log.log_start(),
            diverging_epoch: None,
            preferred_read_replica: Some(replica),
        })
    }
}

/// Does it have `offset`, as far as we know, and will it have what follows? Outside the ISR a follower may lag for ever, and
/// every time that the consumer asks anew it would be sent there again.
fn is_candidate(leader: &LeaderState, replica: &RemoteReplica, offset: Offset) -> bool {
    leader.isr.isr().contains(&replica.id) && replica.log_end >= offset && replica.log_start <= offset
}

/// Brokers that are fenced have no endpoint, and without one no rack.
fn is_in_rack(env: &Environment, id: BrokerId, rack: &str) -> bool {
    env.image.brokers.get(&id).is_some_and(|broker| !broker.fenced && broker.rack.as_deref() == Some(rack))
}
