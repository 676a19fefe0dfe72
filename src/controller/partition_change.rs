//! One partition's next state: leader, ISR, leader recovery (Kafka's `PartitionChangeBuilder`, without eligible
//! leader replicas and reassignments). Pure: state in, record out.

use uuid::Uuid;

use crate::metadata::{MetadataRecord, PartitionState};
use crate::protocol::BrokerId;

/// How far an election may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Election {
    /// The preferred replica if it is in the ISR, else whatever keeps the partition online.
    Preferred,
    /// The current leader if it still may lead, else the first in-sync replica in replica order.
    Online,
    /// As online, and as a last resort any live replica: acknowledged records may be lost.
    Unclean,
}

/// The outcome of an election; `leader` is [`BrokerId::NONE`] if nobody may lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Elected {
    leader: BrokerId,
    unclean: bool,
}

/// Builds the record that takes a partition to its next state.
pub struct PartitionChangeBuilder<'a, F> {
    partition: &'a PartitionState,
    topic_id: Uuid,
    partition_id: i32,
    is_acceptable_leader: F,
    election: Election,
    target_isr: Vec<BrokerId>,
    target_leader_recovering: bool,
    directories: Option<Vec<Uuid>>,
}

impl<'a, F: Fn(BrokerId) -> bool> PartitionChangeBuilder<'a, F> {
    /// `is_acceptable_leader`: the broker is alive, neither fenced nor shutting down.
    pub fn new(
        partition: &'a PartitionState,
        topic_id: Uuid,
        partition_id: i32,
        is_acceptable_leader: F,
    ) -> PartitionChangeBuilder<'a, F> {
        PartitionChangeBuilder {
            partition,
            topic_id,
            partition_id,
            is_acceptable_leader,
            election: Election::Online,
            target_isr: partition.isr.clone(),
            target_leader_recovering: partition.leader_recovering,
            directories: None,
        }
    }

    pub fn election(mut self, election: Election) -> Self {
        self.election = election;
        self
    }

    /// The ISR that the partition shall have. Empty means that its last member goes: then the ISR stays as it is,
    /// so that this member can be elected again, and the partition has no leader.
    pub fn target_isr(mut self, isr: Vec<BrokerId>) -> Self {
        self.target_isr = isr;
        self
    }

    /// The log directories of the replicas, in their order.
    pub fn directories(mut self, directories: Vec<Uuid>) -> Self {
        self.directories = Some(directories).filter(|directories| *directories != self.partition.directories);
        self
    }

    pub fn target_leader_recovering(mut self, recovering: bool) -> Self {
        self.target_leader_recovering = recovering;
        self
    }

    /// The change, or `None` if nothing changes. The leader epoch is raised only by a change of leader: a shrinking
    /// ISR alone does not since metadata version 3.6 (KAFKA-15021).
    pub fn build(self) -> Option<MetadataRecord> {
        let partition = self.partition;
        let elected = self.elect_leader();
        let leader = (elected.leader != partition.leader).then_some(elected.leader);
        // An unclean leader knows nothing of the others' logs: the ISR is the leader alone (KIP-704).
        let was_unclean = leader.is_some() && elected.unclean;
        let isr = if was_unclean {
            Some(vec![elected.leader])
        } else {
            (!self.target_isr.is_empty() && self.target_isr != partition.isr).then(|| self.target_isr.clone())
        };
        let leader_recovering = if self.target_leader_recovering != partition.leader_recovering {
            Some(self.target_leader_recovering)
        } else {
            (was_unclean && !partition.leader_recovering).then_some(true)
        };
        if leader.is_none() && isr.is_none() && leader_recovering.is_none() && self.directories.is_none() {
            return None;
        }
        Some(MetadataRecord::PartitionChange {
            topic_id: self.topic_id,
            partition: self.partition_id,
            isr,
            leader,
            replicas: None,
            leader_recovering,
            directories: self.directories,
        })
    }

    fn is_valid_new_leader(&self, replica: BrokerId) -> bool {
        self.target_isr.contains(&replica) && (self.is_acceptable_leader)(replica)
    }

    fn elect_leader(&self) -> Elected {
        let clean = |leader| Elected { leader, unclean: false };
        let replicas = &self.partition.replicas;
        let preferred = replicas.first().filter(|_| self.election == Election::Preferred);
        // The current leader stays if it may: an election never moves leadership without need.
        let candidates = preferred.into_iter().chain([&self.partition.leader]).chain(replicas);
        if let Some(leader) = candidates.copied().find(|r| self.is_valid_new_leader(*r)) {
            return clean(leader);
        }
        if self.election == Election::Unclean
            && let Some(leader) = replicas.iter().copied().find(|r| (self.is_acceptable_leader)(*r))
        {
            return Elected { leader, unclean: true };
        }
        clean(BrokerId::NONE)
    }
}
