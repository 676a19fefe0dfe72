//! Where the replicas of new partitions go: Kafka's `StripedReplicaPlacer`, without its random starts and shuffles, so
//! that a topic's first partition is always led by the first broker.
//!
//! Replicas go to racks in turn, in each rack to its brokers in turn, and to unfenced brokers before fenced ones; the
//! first replica, the leader, is unfenced. Each partition begins one rack, and in each rack one broker, further on.
//! Brokers without a rack are in one of their own.

use std::collections::BTreeMap;

use crate::protocol::BrokerId;

/// A broker that replicas can be placed on.
#[derive(Clone, Debug)]
pub struct UsableBroker<'a> {
    pub id: BrokerId,
    pub rack: Option<&'a str>,
    pub is_fenced: bool,
}

/// Brokers that take their turns.
#[derive(Default)]
struct Turns {
    brokers: Vec<BrokerId>,
    /// How many had their turn for the current partition.
    taken: usize,
    /// Who is first.
    offset: usize,
    partition: usize,
}

impl Turns {
    fn next(&mut self, partition: usize) -> Option<BrokerId> {
        let count = self.brokers.len();
        if count > 0 && self.partition != partition {
            self.partition = partition;
            self.taken = 0;
            self.offset = (self.offset + 1) % count;
        }
        if self.taken == count {
            return None;
        }
        let broker = self.brokers[(self.taken + self.offset) % count];
        self.taken += 1;
        Some(broker)
    }
}

#[derive(Default)]
struct Rack {
    unfenced: Turns,
    fenced: Turns,
}

impl Rack {
    fn next(&mut self, partition: usize) -> Option<BrokerId> {
        self.unfenced.next(partition).or_else(|| self.fenced.next(partition))
    }
}

/// Places the partitions of one topic, one after another.
pub struct Placer {
    /// In the order of their names.
    racks: Vec<Rack>,
    brokers: usize,
    unfenced: usize,
    partitions: usize,
}

impl Placer {
    pub fn new<'a>(usable: impl IntoIterator<Item = UsableBroker<'a>>) -> Placer {
        let mut racks: BTreeMap<Option<&str>, Rack> = BTreeMap::new();
        let (mut brokers, mut unfenced) = (0, 0);
        for broker in usable {
            let rack = racks.entry(broker.rack).or_default();
            let turns = if broker.is_fenced { &mut rack.fenced } else { &mut rack.unfenced };
            turns.brokers.push(broker.id);
            brokers += 1;
            unfenced += usize::from(!broker.is_fenced);
        }
        for rack in racks.values_mut() {
            rack.unfenced.brokers.sort_unstable();
            rack.fenced.brokers.sort_unstable();
        }
        Placer { racks: racks.into_values().collect(), brokers, unfenced, partitions: 0 }
    }

    /// How many brokers replicas can be placed on.
    pub fn brokers(&self) -> usize {
        self.brokers
    }

    /// How many of them are not fenced.
    pub fn unfenced(&self) -> usize {
        self.unfenced
    }

    /// The replicas of the next partition, its leader first. `replication_factor` is from 1 to the number of brokers,
    /// of which one at least is unfenced.
    pub fn place(&mut self, replication_factor: usize) -> Vec<BrokerId> {
        assert!((1..=self.brokers).contains(&replication_factor) && self.unfenced > 0, "the caller has checked");
        let (partition, racks) = (self.partitions, self.racks.len());
        let offset = partition % racks;
        self.partitions += 1;
        let first = (0..racks).map(|i| (offset + i) % racks).find_map(|rack| {
            let leader = self.racks[rack].unfenced.next(partition)?;
            Some((rack, leader))
        });
        let (first_rack, leader) = first.expect("a broker is unfenced");
        let mut replicas = vec![leader];
        // The leader's rack has had its turn in the first round.
        let mut skipped = Some(first_rack);
        let mut rack = offset;
        while replicas.len() < replication_factor {
            if skipped == Some(rack) {
                skipped = None;
            } else {
                replicas.extend(self.racks[rack].next(partition));
            }
            rack = (rack + 1) % racks;
        }
        replicas
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(id: i32, rack: Option<&str>) -> UsableBroker<'_> {
        UsableBroker { id: BrokerId(id), rack, is_fenced: false }
    }

    fn place(usable: &[UsableBroker<'_>], replication_factor: usize, partitions: usize) -> Vec<Vec<i32>> {
        let mut placer = Placer::new(usable.iter().cloned());
        let ids = |replicas: Vec<BrokerId>| replicas.into_iter().map(|id| id.0).collect();
        (0..partitions).map(|_| ids(placer.place(replication_factor))).collect()
    }

    #[test]
    fn without_racks_partition_p_starts_at_broker_p() {
        let brokers: Vec<_> = (1..=4).map(|id| broker(id, None)).collect();
        assert_eq!(place(&brokers, 3, 5), [[1, 2, 3], [2, 3, 4], [3, 4, 1], [4, 1, 2], [1, 2, 3]]);
    }

    /// The example in the documentation of Kafka's class.
    #[test]
    fn replicas_are_striped_over_racks() {
        let racks = ["a", "a", "a", "b", "b", "b", "c", "c", "c"];
        let brokers: Vec<_> = racks.iter().zip(0..).map(|(rack, id)| broker(id, Some(rack))).collect();
        assert_eq!(place(&brokers, 3, 3), [[0, 3, 6], [4, 7, 1], [8, 2, 5]]);
    }

    #[test]
    fn a_rack_is_used_again_when_there_are_more_replicas_than_racks() {
        let brokers = [broker(1, Some("a")), broker(2, Some("a")), broker(3, Some("b")), broker(4, Some("b"))];
        assert_eq!(place(&brokers, 3, 2), [[1, 3, 2], [4, 2, 3]]);
    }

    #[test]
    fn fenced_brokers_come_last_and_never_lead() {
        let fenced = |id, rack| UsableBroker { is_fenced: true, ..broker(id, rack) };
        let brokers = [fenced(1, None), broker(2, None), broker(3, None)];
        assert_eq!(place(&brokers, 3, 2), [[2, 3, 1], [3, 2, 1]]);
        let brokers = [fenced(1, Some("a")), broker(2, Some("b")), broker(3, Some("b"))];
        assert_eq!(place(&brokers, 2, 2), [[2, 1], [3, 1]]);
    }

    #[test]
    fn racks_of_different_sizes_share_alike() {
        let brokers = [broker(1, Some("a")), broker(2, Some("a")), broker(3, Some("a")), broker(4, Some("b"))];
        for replicas in place(&brokers, 2, 12) {
            assert!(replicas.contains(&4), "one replica in each rack: {replicas:?}");
        }
    }
}
