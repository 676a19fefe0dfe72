//! A partition's replica and its transitions between leader and follower (`Partition.makeLeader`,
//! `Partition.makeFollower`).

use std::io;

use uuid::Uuid;

use super::Environment;
use super::follower::FollowerState;
use super::isr::{IsrProposal, IsrState};
use super::leader::LeaderState;
use super::remote::RemoteReplica;
use crate::defect::{Defect, Defects};
use crate::log::Log;
use crate::metadata::PartitionState;
use crate::observe::Observation;
use crate::protocol::{BrokerId, LeaderEpoch, Offset, PartitionEpoch, TopicPartition};
use crate::world::Time;

/// One partition's replica on this broker.
pub struct Partition {
    pub(super) topic_partition: TopicPartition,
    pub(super) topic_id: Uuid,
    pub(super) log: Log,
    /// `min.insync.replicas` of the topic.
    pub(super) min_insync_replicas: i32,
    /// [`BrokerId::NONE`]: there is none, or we do not know it yet.
    pub(super) leader: BrokerId,
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) partition_epoch: PartitionEpoch,
    pub(super) role: Role,
    pub(super) proposals: u64,
    /// What we knew of our followers when we led last: for [`Defect::KeepOldFollowerState`].
    former_remotes: Vec<RemoteReplica>,
}

pub(super) enum Role {
    Leader(LeaderState),
    Follower(FollowerState),
}

/// What the broker has to do after a partition changed.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Effects {
    /// Waiting fetches and produce requests may be complete now.
    pub high_watermark_advanced: bool,
    /// A follower's log start offset moved: DeleteRecords requests may be complete now.
    pub low_watermark_advanced: bool,
    /// To be sent to the controller.
    pub isr_proposal: Option<IsrProposal>,
}

/// What a state change from the metadata log did.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Transition {
    /// Older than what we have.
    Stale,
    BecameLeader(Effects),
    /// Follower now; `is_new_leader_epoch`: fetching starts anew.
    BecameFollower {
        is_new_leader_epoch: bool,
    },
}

impl Partition {
    /// A replica that has heard nothing from the controller yet.
    pub fn new(topic_partition: TopicPartition, topic_id: Uuid, log: Log, min_insync_replicas: i32) -> Partition {
        Partition {
            topic_partition,
            topic_id,
            log,
            min_insync_replicas,
            leader: BrokerId::NONE,
            leader_epoch: LeaderEpoch::NONE,
            partition_epoch: PartitionEpoch(-1),
            role: Role::Follower(FollowerState::default()),
            proposals: 0,
            former_remotes: Vec::new(),
        }
    }

    /// Known defects that are on; they come with the log's configuration.
    pub(super) fn defects(&self) -> Defects {
        self.log.config().defects
    }

    pub fn topic_partition(&self) -> &TopicPartition {
        &self.topic_partition
    }

    pub fn topic_id(&self) -> Uuid {
        self.topic_id
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    pub fn named_log_mut(&mut self) -> (&TopicPartition, &mut Log) {
        (&self.topic_partition, &mut self.log)
    }

    pub fn into_log(self) -> Log {
        self.log
    }

    pub fn leader(&self) -> BrokerId {
        self.leader
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    pub fn set_min_insync_replicas(&mut self, min_insync_replicas: i32) {
        self.min_insync_replicas = min_insync_replicas;
    }

    /// Applies a new state from the metadata log in which we are a replica.
    pub fn apply(&mut self, now: Time, env: &Environment, state: &PartitionState) -> io::Result<Transition> {
        // The AlterPartition response may have told us of a newer state already.
        if state.partition_epoch < self.partition_epoch {
            return Ok(Transition::Stale);
        }
        if state.leader == env.id { self.make_leader(now, env, state) } else { self.make_follower(now, env, state) }
    }

    fn make_leader(&mut self, now: Time, env: &Environment, state: &PartitionState) -> io::Result<Transition> {
        let is_new_leader = !self.is_leader();
        let is_new_leader_epoch = is_new_leader || state.leader_epoch > self.leader_epoch;
        let mut leader = match std::mem::replace(&mut self.role, Role::Follower(FollowerState::default())) {
            Role::Leader(leader) => leader,
            Role::Follower(_) => LeaderState::new(),
        };
        // Vanlightly's CHECK at v3_5:346: what was known of a follower in an earlier leadership says nothing now.
        let former = std::mem::take(&mut self.former_remotes);
        let keeps_old_state = is_new_leader && !former.is_empty() && self.defects().has(Defect::KeepOldFollowerState);
        if keeps_old_state {
            leader.remotes = former;
        }
        leader.remotes.retain(|r| state.replicas.contains(&r.id));
        for &id in state.replicas.iter().filter(|id| **id != env.id) {
            if !leader.remotes.iter().any(|r| r.id == id) {
                leader.remotes.push(RemoteReplica::new(id));
            }
        }
        // The state that AlterPartition's answer told us of comes once more with the metadata. It knows nothing of what
        // we have proposed since, and the controller may be about to grant that (KIP-497).
        let is_known = !is_new_leader_epoch && state.partition_epoch == self.partition_epoch;
        if !is_known || self.defects().has(Defect::EqualEpochDropsPending) {
            leader.isr = IsrState::Committed(state.isr.clone());
        }
        self.leader = env.id;
        self.partition_epoch = state.partition_epoch;
        if is_new_leader_epoch {
            self.leader_epoch = state.leader_epoch;
            leader.epoch_start = self.log.log_end();
            // Leaders may follow each other without a record: a follower with records of a later epoch than any
            // of ours must still find where ours begins, or it truncates to the wrong offset (KIP-279).
            self.log.assign_epoch_start(state.leader_epoch)?;
            for remote in &mut leader.remotes {
                remote.reset(
                    now,
                    leader.epoch_start,
                    is_new_leader && !keeps_old_state,
                    state.isr.contains(&remote.id),
                );
            }
            env.observe(now, self.became_leader(&state.isr));
        }
        self.role = Role::Leader(leader);
        self.observe_isr(now, env);
        // The ISR may be down to us alone.
        let high_watermark_advanced = self.maybe_advance_high_watermark(now, env);
        Ok(Transition::BecameLeader(Effects { high_watermark_advanced, ..Effects::default() }))
    }

    fn make_follower(&mut self, now: Time, env: &Environment, state: &PartitionState) -> io::Result<Transition> {
        let is_new_leader_epoch = state.leader_epoch > self.leader_epoch;
        let is_same_leader = state.leader == self.leader;
        self.leader = state.leader;
        self.leader_epoch = state.leader_epoch;
        self.partition_epoch = state.partition_epoch;
        if let Role::Leader(leader) = &mut self.role {
            self.former_remotes = std::mem::take(&mut leader.remotes);
            self.role = Role::Follower(FollowerState::default());
        }
        if is_new_leader_epoch {
            // Whoever the leader is, a new epoch may have another log: fetching starts anew with our own last
            // epoch, so that the leader finds where we diverge (KAFKA-7164).
            self.restart_fetching(now, env, is_same_leader)?;
            env.observe(
                now,
                Observation::BecameFollower {
                    partition: self.topic_partition.clone(),
                    leader_epoch: self.leader_epoch,
                    leader: self.leader,
                    log_end: self.log.log_end(),
                },
            );
        }
        Ok(Transition::BecameFollower { is_new_leader_epoch })
    }

    fn became_leader(&self, isr: &[BrokerId]) -> Observation {
        Observation::BecameLeader {
            partition: self.topic_partition.clone(),
            leader_epoch: self.leader_epoch,
            log_end: self.log.log_end(),
            isr: isr.to_vec(),
        }
    }

    pub(super) fn observe_high_watermark(&self, now: Time, env: &Environment) {
        env.observe(
            now,
            Observation::HighWatermark {
                partition: self.topic_partition.clone(),
                offset: self.log.high_watermark(),
                as_leader: self.is_leader(),
            },
        );
    }

    pub(super) fn observe_flushed(&self, now: Time, env: &Environment, offset: Option<Offset>) {
        if let Some(offset) = offset {
            env.observe(now, Observation::Flushed { partition: self.topic_partition.clone(), offset });
        }
    }
}
