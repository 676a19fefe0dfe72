//! What consumers read from followers (KIP-392).

use std::collections::BTreeSet;

use crate::lab::outcome::{TraceEvent, TraceKind};
use crate::observe::Observation;
use crate::protocol::TopicPartition;

/// How many offsets consumers were served by brokers that did not lead the partition, each time that they were.
pub fn read_from_followers(trace: &[TraceEvent]) -> u64 {
    let mut leaders: BTreeSet<(&TopicPartition, &str)> = BTreeSet::new();
    let mut read = 0;
    for event in trace {
        let TraceKind::Observed(observation) = &event.what else { continue };
        if let Observation::BecameLeader { partition, .. } = observation {
            leaders.insert((partition, &event.machine));
        } else if let Observation::BecameFollower { partition, .. } = observation {
            leaders.remove(&(partition, &event.machine));
        } else if let Observation::Served { partition, from, to } = observation
            && !leaders.contains(&(partition, &event.machine))
        {
            read += u64::try_from(to.0 - from.0).unwrap_or(0);
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{BrokerId, LeaderEpoch, Offset};
    use crate::world::Time;

    #[test]
    fn what_a_leader_serves_does_not_count_and_a_deposed_one_is_a_follower() {
        let partition = || TopicPartition::new("orders", 0);
        let served = |from, to| Observation::Served { partition: partition(), from: Offset(from), to: Offset(to) };
        let (leader_epoch, log_end) = (LeaderEpoch(1), Offset::ZERO);
        let leads = Observation::BecameLeader { partition: partition(), leader_epoch, log_end, isr: Vec::new() };
        let leader = BrokerId(2);
        let follows = Observation::BecameFollower { partition: partition(), leader_epoch, leader, log_end };
        let story = [("broker-1", leads), ("broker-1", served(0, 5)), ("broker-2", served(0, 3))];
        let then = [("broker-1", follows), ("broker-1", served(5, 7))];
        let trace: Vec<TraceEvent> = story
            .into_iter()
            .chain(then)
            .map(|(machine, what)| TraceEvent {
                at: Time::ZERO,
                machine: machine.into(),
                what: TraceKind::Observed(what),
            })
            .collect();
        assert_eq!(read_from_followers(&trace), 3 + 2);
    }
}
