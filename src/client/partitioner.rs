//! Which partition a record goes to: Kafka's `BuiltInPartitioner` (KIP-480, KIP-794) and `RoundRobinPartitioner`.
//! The adaptive weighting by queue length (`partitioner.adaptive.partitioning.enable`) is left out: the sticky
//! choice is uniform.

use rand::RngExt;

use super::metadata::TopicMetadata;
use crate::world::Rng;

/// Kafka's 32-bit murmur2 with its fixed seed (`Utils.murmur2`).
pub(super) fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut h = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, &byte) in tail.iter().enumerate() {
            h ^= u32::from(byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    (h ^ (h >> 15)) as i32
}

/// The partition of a keyed record. `partitions` > 0, available or not.
pub(super) fn partition_for_key(key: &[u8], partitions: usize) -> i32 {
    (murmur2(key) & i32::MAX) % partitions as i32
}

/// A topic's state of choosing partitions for records without one.
#[derive(Default)]
pub(super) struct TopicPartitioner {
    sticky: Option<Sticky>,
    round_robin_count: u32,
}

struct Sticky {
    partition: i32,
    produced_bytes: usize,
}

impl TopicPartitioner {
    /// The next partition in turn, among those with a leader if there are any.
    pub fn round_robin(&mut self, topic: &TopicMetadata) -> i32 {
        let turn = (self.round_robin_count & i32::MAX as u32) as usize;
        self.round_robin_count = self.round_robin_count.wrapping_add(1);
        nth_partition(topic, turn)
    }

    /// The partition that keyless records stick to now.
    pub fn sticky(&mut self, topic: &TopicMetadata, rng: &mut Rng) -> i32 {
        self.sticky.get_or_insert_with(|| Sticky::choose(topic, rng)).partition
    }

    /// Notes what a keyless record added to the sticky partition, and moves on once `batch_size` bytes went
    /// there, preferably at a batch boundary (`can_switch`), at twice that anyway (`updatePartitionInfo`).
    pub fn on_appended(
        &mut self,
        bytes: usize,
        batch_size: usize,
        can_switch: bool,
        topic: &TopicMetadata,
        rng: &mut Rng,
    ) {
        let Some(sticky) = &mut self.sticky else { return };
        sticky.produced_bytes += bytes;
        if sticky.produced_bytes >= batch_size && can_switch || sticky.produced_bytes >= batch_size * 2 {
            *sticky = Sticky::choose(topic, rng);
        }
    }
}

impl Sticky {
    fn choose(topic: &TopicMetadata, rng: &mut Rng) -> Sticky {
        let turn = rng.random_range(0..=i32::MAX) as usize;
        Sticky { partition: nth_partition(topic, turn), produced_bytes: 0 }
    }
}

/// Entry `turn` (modulo their number) of the partitions with a leader, or of all if none has one.
fn nth_partition(topic: &TopicMetadata, turn: usize) -> i32 {
    let available = topic.partitions.iter().filter(|p| p.leader.is_some()).count();
    if available == 0 {
        return (turn % topic.partitions.len()) as i32;
    }
    let mut with_leader = topic.partitions.iter().enumerate().filter(|(_, p)| p.leader.is_some());
    let (partition, _) = with_leader.nth(turn % available).expect("turn is taken modulo their number");
    partition as i32
}

#[cfg(test)]
mod tests {
    use super::super::metadata::PartitionMetadata;
    use super::*;
    use crate::protocol::{BrokerId, LeaderEpoch};
    use rand::SeedableRng;

    fn topic(leaders: &[i32]) -> TopicMetadata {
        let partition = |&id: &i32| PartitionMetadata {
            leader: (id >= 0).then_some(BrokerId(id)),
            leader_epoch: LeaderEpoch(0),
            online_replicas: Vec::new(),
        };
        let mut topic = TopicMetadata::default();
        topic.partitions = leaders.iter().map(partition).collect();
        topic
    }

    /// The vectors of Kafka's `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_agrees_with_kafka() {
        for (data, hash) in [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            ("abc", 479470107),
        ] {
            assert_eq!(murmur2(data.as_bytes()), hash, "{data}");
        }
    }

    #[test]
    fn round_robin_visits_every_partition_with_a_leader_in_turn() {
        let (mut partitioner, topic) = (TopicPartitioner::default(), topic(&[1, -1, 2]));
        let visited: Vec<i32> = (0..5).map(|_| partitioner.round_robin(&topic)).collect();
        assert_eq!(visited, [0, 2, 0, 2, 0]);
    }

    #[test]
    fn round_robin_uses_all_partitions_when_none_has_a_leader() {
        let (mut partitioner, topic) = (TopicPartitioner::default(), topic(&[-1, -1]));
        let visited: Vec<i32> = (0..3).map(|_| partitioner.round_robin(&topic)).collect();
        assert_eq!(visited, [0, 1, 0]);
    }

    #[test]
    fn sticky_stays_until_batch_size_is_produced_and_a_batch_is_full() {
        let mut rng = Rng::seed_from_u64(3);
        let topic = topic(&[1; 1000]);
        let mut partitioner = TopicPartitioner::default();
        let first = partitioner.sticky(&topic, &mut rng);
        partitioner.on_appended(99, 100, true, &topic, &mut rng);
        assert_eq!(partitioner.sticky(&topic, &mut rng), first, "below batch.size");
        partitioner.on_appended(50, 100, false, &topic, &mut rng);
        assert_eq!(partitioner.sticky(&topic, &mut rng), first, "an open batch holds the switch back");
        partitioner.on_appended(0, 100, true, &topic, &mut rng);
        let second = partitioner.sticky(&topic, &mut rng);
        assert_ne!(second, first, "batch.size reached at a batch boundary");
        partitioner.on_appended(200, 100, false, &topic, &mut rng);
        assert_ne!(partitioner.sticky(&topic, &mut rng), second, "twice batch.size switches anyway");
    }

    #[test]
    fn sticky_reaches_every_available_partition_and_no_other() {
        let mut rng = Rng::seed_from_u64(5);
        let topic = topic(&[1, -1, 1, 1]);
        let mut partitioner = TopicPartitioner::default();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            seen.insert(partitioner.sticky(&topic, &mut rng));
            partitioner.on_appended(1, 1, true, &topic, &mut rng);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 2, 3]);
    }
}
