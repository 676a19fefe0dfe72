//! Partition assignors (`RangeAssignor`, `RoundRobinAssignor`, `StickyAssignor`, `CooperativeStickyAssignor`): the leader of
//! a group decides who reads what. Racks (KIP-881) are not looked at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

use crate::config::Assignor;
use crate::defect::{Defect, Defects};
use crate::protocol::TopicPartition;

/// What a member brings to an assignment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Subscriber {
    pub member: StrBytes,
    pub instance: Option<StrBytes>,
    pub topics: Vec<TopicName>,
    /// What it owned when it joined, as of `generation`.
    pub owned: Vec<TopicPartition>,
    pub generation: i32,
}

impl Subscriber {
    /// `AbstractPartitionAssignor.MemberInfo`: static members first, by instance id, then the others by member id.
    fn order(&self) -> (bool, &StrBytes) {
        (self.instance.is_none(), self.instance.as_ref().unwrap_or(&self.member))
    }

    fn reads(&self, topic: &TopicName) -> bool {
        self.topics.contains(topic)
    }
}

/// Each member's partitions. Every member has an entry.
pub(super) type Assignment = BTreeMap<StrBytes, Vec<TopicPartition>>;

/// Assigns the partitions of the subscribed topics that exist: `partitions` has their number.
pub(super) fn assign(
    assignor: Assignor,
    partitions: &BTreeMap<TopicName, i32>,
    subscribers: &[Subscriber],
    defects: Defects,
) -> Assignment {
    let mut sorted: Vec<&Subscriber> = subscribers.iter().collect();
    sorted.sort_by(|a, b| a.order().cmp(&b.order()));
    match assignor {
        Assignor::Range => range(partitions, &sorted),
        Assignor::RoundRobin => round_robin(partitions, &sorted),
        Assignor::Sticky => sticky(partitions, subscribers, defects).0,
        Assignor::CooperativeSticky => {
            let (mut assignment, moving) = sticky(partitions, subscribers, defects);
            // Who is to get it must wait until its owner has let go of it (KIP-429).
            for partitions in assignment.values_mut() {
                partitions.retain(|partition| !moving.contains(partition));
            }
            assignment
        }
    }
}

fn nothing(subscribers: &[&Subscriber]) -> Assignment {
    subscribers.iter().map(|subscriber| (subscriber.member.clone(), Vec::new())).collect()
}

fn give(assignment: &mut Assignment, member: &StrBytes, topic: &TopicName, partition: i32) {
    let of_member = assignment.get_mut(member).expect("every member has an entry");
    of_member.push(TopicPartition { topic: topic.clone(), partition });
}

/// Topic by topic, each member gets a range; the first ones get one more where it does not come out even.
fn range(partitions: &BTreeMap<TopicName, i32>, sorted: &[&Subscriber]) -> Assignment {
    let mut assignment = nothing(sorted);
    for (topic, count) in partitions {
        let readers: Vec<_> = sorted.iter().filter(|subscriber| subscriber.reads(topic)).collect();
        let Ok(members) = i32::try_from(readers.len()) else { continue };
        if members == 0 {
            continue;
        }
        let (each, extra) = (count / members, count % members);
        let mut next = 0;
        for (at, reader) in (0..).zip(readers) {
            let share = each + i32::from(at < extra);
            (next..next + share).for_each(|partition| give(&mut assignment, &reader.member, topic, partition));
            next += share;
        }
    }
    assignment
}

/// All partitions of all topics in turn.
fn round_robin(partitions: &BTreeMap<TopicName, i32>, sorted: &[&Subscriber]) -> Assignment {
    let mut assignment = nothing(sorted);
    let mut turn = 0;
    for (topic, count) in partitions {
        if !sorted.iter().any(|subscriber| subscriber.reads(topic)) {
            continue;
        }
        for partition in 0..*count {
            while !sorted[turn % sorted.len()].reads(topic) {
                turn += 1;
            }
            give(&mut assignment, &sorted[turn % sorted.len()].member, topic, partition);
            turn += 1;
        }
    }
    assignment
}

/// Balanced, and as much as possible as it was (`AbstractStickyAssignor`); also the partitions whose owner changes.
fn sticky(
    partitions: &BTreeMap<TopicName, i32>,
    subscribers: &[Subscriber],
    defects: Defects,
) -> (Assignment, BTreeSet<TopicPartition>) {
    let (owned, contested) = claims(partitions, subscribers, defects);
    let topics = |subscriber: &Subscriber| subscriber.topics.iter().cloned().collect::<BTreeSet<_>>();
    let is_uniform = subscribers.windows(2).all(|pair| topics(&pair[0]) == topics(&pair[1]));
    let wanted: Vec<TopicPartition> = partitions
        .iter()
        .filter(|(topic, _)| subscribers.iter().any(|subscriber| subscriber.reads(topic)))
        .flat_map(|(topic, count)| (0..*count).map(|partition| TopicPartition { topic: topic.clone(), partition }))
        .collect();
    let assignment = if is_uniform { uniform(&wanted, &owned) } else { mixed(&wanted, subscribers, &owned) };
    let mut moving = BTreeSet::new();
    for (member, partitions) in &assignment {
        for partition in partitions {
            let had = |(other, owned): (&StrBytes, &Vec<TopicPartition>)| other != member && owned.contains(partition);
            if owned.iter().any(had) || contested.contains(partition) {
                moving.insert(partition.clone());
            }
        }
    }
    (assignment, moving)
}

/// What each member may rightly claim to own: of two claims the one of the later generation counts, and of two of the
/// same generation none (KAFKA-12984). Also the partitions of such claims.
fn claims(
    partitions: &BTreeMap<TopicName, i32>,
    subscribers: &[Subscriber],
    defects: Defects,
) -> (BTreeMap<StrBytes, Vec<TopicPartition>>, BTreeSet<TopicPartition>) {
    let mut owners: BTreeMap<TopicPartition, (i32, &StrBytes)> = BTreeMap::new();
    let mut contested = BTreeSet::new();
    for Subscriber { member, owned, generation, .. } in subscribers {
        let exists = |partition: &&TopicPartition| {
            partitions.get(&partition.topic).is_some_and(|count| partition.partition < *count)
        };
        for partition in owned.iter().filter(exists) {
            match owners.get(partition) {
                Some(_) if defects.has(Defect::OwnedPartitionsNoGeneration) => {}
                Some((other, _)) if other > generation => continue,
                Some((other, _)) if other == generation => {
                    contested.insert(partition.clone());
                }
                Some(_) | None => {
                    contested.remove(partition);
                }
            }
            owners.insert(partition.clone(), (*generation, member));
        }
    }
    let mut owned: BTreeMap<StrBytes, Vec<TopicPartition>> =
        subscribers.iter().map(|subscriber| (subscriber.member.clone(), Vec::new())).collect();
    for (partition, (_, owner)) in owners {
        let reads = subscribers.iter().any(|s| s.member == *owner && s.reads(&partition.topic));
        if reads && !contested.contains(&partition) {
            owned.get_mut(owner).expect("every member has an entry").push(partition);
        }
    }
    (owned, contested)
}

/// All members subscribe to the same (`ConstrainedAssignmentBuilder`): everybody gets the smaller or the larger quota.
fn uniform(wanted: &[TopicPartition], owned: &BTreeMap<StrBytes, Vec<TopicPartition>>) -> Assignment {
    let members = owned.len();
    let (min, extra) = (wanted.len() / members, wanted.len() % members);
    let max = min + usize::from(extra > 0);
    let mut assignment = Assignment::new();
    let mut with_max = 0;
    let (mut below_min, mut at_min) = (Vec::new(), VecDeque::new());
    for (member, owned) in owned {
        let mut owned = owned.clone();
        owned.sort_by(|a, b| (a.partition, &a.topic).cmp(&(b.partition, &b.topic)));
        if owned.len() < min {
            below_min.push(member.clone());
        } else if owned.len() >= max && with_max < extra {
            with_max += 1;
            owned.truncate(max);
        } else {
            owned.truncate(min);
            at_min.push_back(member.clone());
        }
        assignment.insert(member.clone(), owned);
    }
    let assigned: BTreeSet<TopicPartition> = assignment.values().flatten().cloned().collect();
    let mut free = wanted.iter().filter(|partition| !assigned.contains(partition)).cloned().peekable();
    // First everybody gets the smaller quota, in turn; then some get one more.
    while free.peek().is_some() && !below_min.is_empty() {
        below_min.retain(|member| {
            let Some(partition) = free.next() else { return true };
            let of_member = assignment.get_mut(member).expect("every member has an entry");
            of_member.push(partition);
            let is_full = of_member.len() == min;
            if is_full {
                at_min.push_back(member.clone());
            }
            !is_full
        });
    }
    for partition in free {
        let member = at_min.pop_front().expect("as many members take one more as are left over");
        assignment.get_mut(&member).expect("every member has an entry").push(partition);
    }
    assignment
}

/// Members subscribe to different topics. Kafka's `GeneralAssignmentBuilder` moves partitions until no move improves the
/// balance; here what is free goes to the reader that has least, and then the fullest give to the emptiest.
fn mixed(
    wanted: &[TopicPartition],
    subscribers: &[Subscriber],
    owned: &BTreeMap<StrBytes, Vec<TopicPartition>>,
) -> Assignment {
    let mut assignment: Assignment = owned.clone();
    let assigned: BTreeSet<TopicPartition> = assignment.values().flatten().cloned().collect();
    let readers = |partition: &TopicPartition| -> Vec<StrBytes> {
        let readers = subscribers.iter().filter(|subscriber| subscriber.reads(&partition.topic));
        readers.map(|subscriber| subscriber.member.clone()).collect()
    };
    for partition in wanted.iter().filter(|partition| !assigned.contains(partition)) {
        let least = readers(partition).into_iter().min_by_key(|member| (assignment[member].len(), member.clone()));
        let least = least.expect("a wanted topic has a reader");
        assignment.get_mut(&least).expect("every member has an entry").push(partition.clone());
    }
    // Each move lowers the sum of squares: this ends.
    while let Some((from, to, partition)) = wanted.iter().find_map(|partition| {
        let from = assignment.iter().find(|(_, of)| of.contains(partition)).map(|(member, _)| member.clone())?;
        let to = readers(partition).into_iter().min_by_key(|member| (assignment[member].len(), member.clone()))?;
        (assignment[&from].len() > assignment[&to].len() + 1).then(|| (from, to, partition.clone()))
    }) {
        assignment.get_mut(&from).expect("it has the partition").retain(|other| *other != partition);
        assignment.get_mut(&to).expect("every member has an entry").push(partition);
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn assign_rightly(assignor: Assignor, counts: &BTreeMap<TopicName, i32>, members: &[Subscriber]) -> Assignment {
        assign(assignor, counts, members, Defects::NONE)
    }

    fn name(name: &str) -> TopicName {
        TopicName(StrBytes::from_string(name.to_owned()))
    }

    fn subscriber(member: &str, topics: &[&str], owned: &[(&str, i32)], generation: i32) -> Subscriber {
        Subscriber {
            member: StrBytes::from_string(member.to_owned()),
            instance: None,
            topics: topics.iter().map(|topic| name(topic)).collect(),
            owned: owned.iter().map(|(topic, partition)| TopicPartition::new(topic, *partition)).collect(),
            generation,
        }
    }

    fn topics(counts: &[(&str, i32)]) -> BTreeMap<TopicName, i32> {
        counts.iter().map(|(topic, count)| (name(topic), *count)).collect()
    }

    /// `a: t-0 t-1 | b: t-2`
    fn print(assignment: &Assignment) -> String {
        let member = |(member, partitions): (&StrBytes, &Vec<TopicPartition>)| {
            let mut partitions: Vec<String> = partitions.iter().map(ToString::to_string).collect();
            partitions.sort();
            format!("{}: {}", member.as_str(), partitions.join(" "))
        };
        assignment.iter().map(member).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn range_gives_the_first_members_one_more_of_every_topic() {
        let members = [subscriber("b", &["t", "u"], &[], -1), subscriber("a", &["t", "u"], &[], -1)];
        let assignment = assign_rightly(Assignor::Range, &topics(&[("t", 3), ("u", 3)]), &members);
        assert_eq!(print(&assignment), "a: t-0 t-1 u-0 u-1 | b: t-2 u-2");
    }

    #[test]
    fn static_members_come_first_by_their_instance() {
        let fixed = Subscriber { instance: Some(StrBytes::from_static_str("z")), ..subscriber("m", &["t"], &[], -1) };
        let members = [subscriber("a", &["t"], &[], -1), fixed];
        assert_eq!(print(&assign_rightly(Assignor::Range, &topics(&[("t", 3)]), &members)), "a: t-2 | m: t-0 t-1");
    }

    #[test]
    fn round_robin_goes_on_across_topics_and_skips_who_does_not_read() {
        let members = [subscriber("a", &["t", "u"], &[], -1), subscriber("b", &["u"], &[], -1)];
        let assignment = assign_rightly(Assignor::RoundRobin, &topics(&[("t", 2), ("u", 3)]), &members);
        assert_eq!(print(&assignment), "a: t-0 t-1 u-1 | b: u-0 u-2");
    }

    #[test]
    fn sticky_moves_only_what_balance_needs() {
        let members = [
            subscriber("a", &["t"], &[("t", 0), ("t", 1), ("t", 2), ("t", 3)], 4),
            subscriber("b", &["t"], &[("t", 4), ("t", 5)], 4),
            subscriber("c", &["t"], &[], -1),
        ];
        let assignment = assign_rightly(Assignor::Sticky, &topics(&[("t", 6)]), &members);
        assert_eq!(print(&assignment), "a: t-0 t-1 | b: t-4 t-5 | c: t-2 t-3");
    }

    #[test]
    fn cooperative_sticky_takes_away_first_and_gives_in_the_next_generation() {
        let counts = topics(&[("t", 4)]);
        let before = [("t", 0), ("t", 1), ("t", 2), ("t", 3)];
        let members = [subscriber("a", &["t"], &before, 4), subscriber("b", &["t"], &[], -1)];
        let first = assign_rightly(Assignor::CooperativeSticky, &counts, &members);
        assert_eq!(print(&first), "a: t-0 t-1 | b: ");
        let members = [subscriber("a", &["t"], &before[..2], 5), subscriber("b", &["t"], &[], 5)];
        let second = assign_rightly(Assignor::CooperativeSticky, &counts, &members);
        assert_eq!(print(&second), "a: t-0 t-1 | b: t-2 t-3");
    }

    #[test]
    fn a_claim_of_an_older_generation_does_not_count() {
        // `a` fell out of the group and has not noticed (KAFKA-12984).
        let members =
            [subscriber("a", &["t"], &[("t", 0), ("t", 1)], 3), subscriber("b", &["t"], &[("t", 0), ("t", 1)], 4)];
        let assignment = assign_rightly(Assignor::CooperativeSticky, &topics(&[("t", 2)]), &members);
        assert_eq!(print(&assignment), "a:  | b: t-0");
    }

    #[test]
    fn what_two_members_claim_in_one_generation_is_nobodys_for_one_generation() {
        let members = [subscriber("a", &["t"], &[("t", 0)], 4), subscriber("b", &["t"], &[("t", 0), ("t", 1)], 4)];
        let assignment = assign_rightly(Assignor::CooperativeSticky, &topics(&[("t", 2)]), &members);
        assert_eq!(print(&assignment), "a:  | b: t-1");
    }

    proptest! {
        /// Every partition that has a reader goes to one reader; balanced where all read the same; nothing moves
        /// when nothing has changed.
        #[test]
        fn every_partition_has_one_reader(
            counts in prop::collection::vec(0..6_i32, 1..4),
            reads in prop::collection::vec(prop::collection::vec(any::<bool>(), 4), 1..6),
            is_uniform in any::<bool>(),
        ) {
            let names = ["t0", "t1", "t2", "t3"];
            let counts: BTreeMap<TopicName, i32> =
                counts.iter().zip(names).map(|(count, topic)| (name(topic), *count)).collect();
            let member = |(at, reads): (usize, &Vec<bool>)| {
                let topics: Vec<&str> =
                    names.iter().zip(reads).filter(|(_, reads)| is_uniform || **reads).map(|(topic, _)| *topic).collect();
                subscriber(&format!("m{at}"), &topics, &[], -1)
            };
            let members: Vec<Subscriber> = reads.iter().enumerate().map(member).collect();
            for assignor in [Assignor::Range, Assignor::RoundRobin, Assignor::Sticky, Assignor::CooperativeSticky] {
                let assignment = assign_rightly(assignor, &counts, &members);
                prop_assert_eq!(assignment.len(), members.len());
                let mut seen = BTreeSet::new();
                for member in &members {
                    for partition in &assignment[&member.member] {
                        prop_assert!(member.reads(&partition.topic));
                        prop_assert!(seen.insert(partition.clone()), "{} twice", partition);
                    }
                }
                let readable = counts.iter().filter(|(topic, _)| members.iter().any(|member| member.reads(topic)));
                prop_assert_eq!(seen.len() as i32, readable.map(|(_, count)| *count).sum::<i32>());
                if assignor == Assignor::Range {
                    continue;
                }
                let sizes = assignment.values().map(Vec::len);
                if is_uniform {
                    prop_assert!(sizes.clone().max().unwrap_or(0) - sizes.min().unwrap_or(0) <= 1);
                }
                let again: Vec<Subscriber> = members
                    .iter()
                    .map(|member| Subscriber { owned: assignment[&member.member].clone(), generation: 1, ..member.clone() })
                    .collect();
                if matches!(assignor, Assignor::Sticky | Assignor::CooperativeSticky) {
                    prop_assert_eq!(print(&assign_rightly(assignor, &counts, &again)), print(&assignment));
                }
            }
        }
    }
}
