//! Groups that went back to the classic protocol, and were not shared out anew.
//!
//! The last member of the new protocol is gone, and its coordinator makes a classic group of what stays
//! (`GroupMetadataManager.convertToClassicGroup`). That the group rebalances is in the coordinator's memory only: the
//! record that it writes is one of a generation, and whoever loads it takes the group for stable (`ClassicGroup`'s
//! constructor, `onLoaded`), with members that are in this very generation and have what they had. What the member that is
//! gone had is nobody's until somebody joins for another reason.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::coordinator;
use crate::protocol::TopicPartition;
use crate::scenario::{Variant, Workload};
use crate::world::Time;

use super::replay::Replay;

/// A consumer group became a classic one, in which members were to join again.
pub(super) struct Downgrade {
    pub at: Time,
    pub group: String,
    pub generation: i32,
}

/// The members of a group, by the names of their clients.
#[derive(Default)]
pub(super) struct Members {
    pub names: Vec<String>,
    /// The longest `max.poll.interval.ms`: so long a coordinator waits for them to join again.
    pub rebalance_timeout: Duration,
}

impl Members {
    /// Those of every group.
    pub fn of(variant: &Variant) -> BTreeMap<String, Members> {
        let mut groups: BTreeMap<String, Members> = BTreeMap::new();
        for workload in &variant.workloads {
            let Workload::Consume { name, config, membership: Some(membership), .. } = workload else { continue };
            let members = groups.entry(membership.group.clone()).or_default();
            members.names.push(name.clone());
            members.rebalance_timeout = members.rebalance_timeout.max(config.max_poll_interval);
        }
        groups
    }
}

impl Downgrade {
    /// Whether its rebalance was forgotten: another coordinator took the group over before it was over at the latest, and
    /// nobody has joined a later generation.
    pub fn is_forgotten(&self, replay: &Replay, members: &Members) -> bool {
        let of_offsets = replay.partitions.keys().filter(|key| key.topic.0.as_str() == coordinator::TOPIC);
        let partitions = i32::try_from(of_offsets.count()).unwrap_or(i32::MAX);
        let of_group = TopicPartition::new(coordinator::TOPIC, coordinator::partition_for(&self.group, partitions));
        let elections = replay.partitions.get(&of_group).into_iter().flat_map(|partition| &partition.led_at);
        let next = elections.copied().find(|at| *at > self.at);
        let processes = members.names.iter().filter_map(|name| replay.processes.get(name)).flatten();
        let mut joined = processes.filter_map(|process| process.joined);
        next.is_some_and(|next| next.since(self.at) <= members.rebalance_timeout)
            && !joined.any(|(_, generation)| generation > self.generation)
    }
}
