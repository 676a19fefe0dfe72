//! The server-side assignors `uniform` and `range` (KIP-848; `UniformAssignor`, `RangeAssignor`): who is to consume what.
//!
//! Kafka's go through hash maps where order matters; here members and topics come in the order of their ids.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::config::ServerAssignor;
use crate::coordinator::record::Partitions;

/// A member as an assignor sees it.
pub(in crate::coordinator) struct Subscriber<'a> {
    pub id: &'a StrBytes,
    pub instance: Option<&'a StrBytes>,
    /// Those that exist.
    pub topics: BTreeSet<Uuid>,
    /// Its part of the target assignment so far.
    pub assigned: &'a Partitions,
}

/// The target assignment, by member id: every subscriber is in it.
pub(in crate::coordinator) type Assignment = BTreeMap<StrBytes, Partitions>;

/// Members have more partitions than there are, as far as the coordinator knows (`PartitionAssignorException`): a group that
/// was classic may have been shared out by a leader that knew of more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::coordinator) struct LeftUnassigned;

/// Shares the partitions of the topics out. `counts`: how many partitions each topic has. Member ids are unique.
pub(in crate::coordinator) fn assign(
    assignor: ServerAssignor,
    subscribers: &[Subscriber<'_>],
    counts: &BTreeMap<Uuid, i32>,
) -> Result<Assignment, LeftUnassigned> {
    let is_homogeneous = subscribers.windows(2).all(|two| two[0].topics == two[1].topics);
    match assignor {
        ServerAssignor::Range => Ok(range(subscribers, counts)),
        ServerAssignor::Uniform if is_homogeneous => uniform(subscribers, counts),
        ServerAssignor::Uniform => Ok(Mixed::new(subscribers, counts).build()),
    }
}

fn count_of(counts: &BTreeMap<Uuid, i32>, topic: &Uuid) -> i32 {
    counts.get(topic).copied().unwrap_or(0)
}

/// `RangeAssignor`: neighbouring partitions of each topic, so that topics of one size are shared out alike. Static
/// members come first, in the order of their instance ids.
fn range(subscribers: &[Subscriber<'_>], counts: &BTreeMap<Uuid, i32>) -> Assignment {
    let mut members: Vec<&Subscriber<'_>> = subscribers.iter().collect();
    members.sort_by_key(|member| (member.instance.is_none(), member.instance, member.id));
    let mut assignment: Assignment = members.iter().map(|member| (member.id.clone(), Partitions::new())).collect();
    for (topic, count) in counts {
        let takers: Vec<&StrBytes> = members.iter().filter(|m| m.topics.contains(topic)).map(|m| m.id).collect();
        let Ok(number) = i32::try_from(takers.len()) else { continue };
        let mut next = 0;
        for (at, member) in (0..).zip(takers) {
            let quota = count / number + i32::from(at < count % number);
            if quota > 0 {
                let of_member = assignment.get_mut(member).expect("every member is in it");
                of_member.insert(*topic, (next..next + quota).collect());
            }
            next += quota;
        }
    }
    assignment
}

/// `UniformHomogeneousAssignmentBuilder`, for members with one subscription: shares that differ by one partition at most;
/// a member keeps what it had, as far as its share goes.
fn uniform(subscribers: &[Subscriber<'_>], counts: &BTreeMap<Uuid, i32>) -> Result<Assignment, LeftUnassigned> {
    let Some(first) = subscribers.first() else { return Ok(Assignment::new()) };
    let taken: BTreeSet<(Uuid, i32)> = subscribers.iter().flat_map(|member| flat(member.assigned)).collect();
    let all = first.topics.iter().flat_map(|topic| (0..count_of(counts, topic)).map(move |index| (*topic, index)));
    let all: Vec<(Uuid, i32)> = all.collect();
    let mut unassigned: Vec<(Uuid, i32)> = all.iter().filter(|partition| !taken.contains(partition)).copied().collect();
    let (quota, mut extra) = (all.len() / subscribers.len(), all.len() % subscribers.len());
    let mut assignment = Assignment::new();
    let mut unfilled = Vec::new();
    for member in subscribers {
        let mut room = quota + usize::from(extra > 0);
        extra = extra.saturating_sub(1);
        let mut kept = Partitions::new();
        for (topic, partition) in flat(member.assigned).filter(|(topic, _)| first.topics.contains(topic)) {
            if room > 0 {
                room -= 1;
                kept.entry(topic).or_default().insert(partition);
            } else {
                unassigned.push((topic, partition));
            }
        }
        if room > 0 {
            unfilled.push((member.id, room));
        }
        assignment.insert(member.id.clone(), kept);
    }
    let mut unassigned = unassigned.into_iter();
    for (member, room) in unfilled {
        let of_member = assignment.get_mut(member).expect("inserted above");
        for (topic, partition) in unassigned.by_ref().take(room) {
            of_member.entry(topic).or_default().insert(partition);
        }
    }
    if unassigned.next().is_none() { Ok(assignment) } else { Err(LeftUnassigned) }
}

fn flat(partitions: &Partitions) -> impl Iterator<Item = (Uuid, i32)> + '_ {
    partitions.iter().flat_map(|(topic, of)| of.iter().map(move |index| (*topic, *index)))
}

/// `UniformHeterogeneousAssignmentBuilder`, for members with different subscriptions: everybody keeps what is still
/// subscribed to, the rest goes to whoever has least, then partitions move from the most to the least loaded subscriber
/// of a topic as long as that evens out.
struct Mixed<'a> {
    members: &'a [Subscriber<'a>],
    counts: &'a BTreeMap<Uuid, i32>,
    /// Indexes of the members of a topic.
    takers: BTreeMap<Uuid, Vec<usize>>,
    owner: BTreeMap<(Uuid, i32), usize>,
    /// Partitions of each member.
    load: Vec<usize>,
}

/// How often all topics are gone through at most (`MAX_ITERATION_COUNT`).
const ROUNDS_MAX: usize = 16;

impl<'a> Mixed<'a> {
    fn new(members: &'a [Subscriber<'a>], counts: &'a BTreeMap<Uuid, i32>) -> Mixed<'a> {
        let mut takers: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
        let (mut owner, mut load) = (BTreeMap::new(), vec![0; members.len()]);
        for (at, member) in members.iter().enumerate() {
            for topic in &member.topics {
                takers.entry(*topic).or_default().push(at);
            }
            for partition in flat(member.assigned).filter(|(topic, _)| member.topics.contains(topic)) {
                owner.insert(partition, at);
                load[at] += 1;
            }
        }
        Mixed { members, counts, takers, owner, load }
    }

    fn build(mut self) -> Assignment {
        let topics = self.sorted_topics();
        self.assign_remaining(&topics);
        self.balance(&topics);
        let mut assignment: Assignment =
            self.members.iter().map(|member| (member.id.clone(), Partitions::new())).collect();
        for ((topic, partition), at) in self.owner {
            let of_member = assignment.get_mut(self.members[at].id).expect("every member is in it");
            of_member.entry(topic).or_default().insert(partition);
        }
        assignment
    }

    /// Those with most partitions per subscriber first, then those with few subscribers.
    fn sorted_topics(&self) -> Vec<Uuid> {
        let mut topics: Vec<Uuid> = self.takers.keys().copied().collect();
        let count = |topic: &Uuid| i64::from(count_of(self.counts, topic));
        let takers = |topic: &Uuid| i64::try_from(self.takers[topic].len()).expect("members in memory");
        topics.sort_by(|a, b| {
            let per_taker = (count(b) * takers(a)).cmp(&(count(a) * takers(b)));
            per_taker.then_with(|| takers(a).cmp(&takers(b))).then_with(|| a.cmp(b))
        });
        topics
    }

    /// The subscribers of a topic, those with the fewest partitions first.
    fn by_load(&self, topic: &Uuid) -> Vec<usize> {
        let mut takers = self.takers[topic].clone();
        takers.sort_by_key(|at| (self.load[*at], *at));
        takers
    }

    fn assign_remaining(&mut self, topics: &[Uuid]) {
        for topic in topics {
            let takers = self.by_load(topic);
            for partition in 0..count_of(self.counts, topic) {
                if !self.owner.contains_key(&(*topic, partition)) {
                    let least = self.least_loaded(&takers);
                    self.owner.insert((*topic, partition), least);
                    self.load[least] += 1;
                }
            }
        }
    }

    /// Of several the first.
    fn least_loaded(&self, takers: &[usize]) -> usize {
        takers.iter().copied().min_by_key(|at| self.load[*at]).expect("a topic has subscribers")
    }

    fn balance(&mut self, topics: &[Uuid]) {
        let topics: Vec<Uuid> = topics.iter().filter(|topic| self.takers[*topic].len() > 1).copied().collect();
        let mut last_moved = None;
        for _ in 0..ROUNDS_MAX {
            for topic in &topics {
                if last_moved == Some(topic) {
                    return;
                }
                if self.balance_topic(topic) || last_moved.is_none() {
                    last_moved = Some(topic);
                }
            }
        }
    }

    /// True if a partition was moved.
    fn balance_topic(&mut self, topic: &Uuid) -> bool {
        let takers = self.by_load(topic);
        // What each may give; it gives the last one first.
        let mut has: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
        for partition in 0..count_of(self.counts, topic) {
            if let Some(at) = self.owner.get(&(*topic, partition)) {
                has.entry(*at).or_default().push(partition);
            }
        }
        let mut is_moved = false;
        loop {
            let may_give = takers.iter().filter(|at| has.get(at).is_some_and(|has| !has.is_empty()));
            let Some(most) = may_give.copied().max_by_key(|at| self.load[*at]) else { break };
            let least = self.least_loaded(&takers);
            if self.load[most] - self.load[least] <= 1 {
                break;
            }
            let partition = has.get_mut(&most).and_then(Vec::pop).expect("filtered above");
            self.owner.insert((*topic, partition), least);
            self.load[most] -= 1;
            self.load[least] += 1;
            is_moved = true;
        }
        is_moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    fn shares(
        assignor: ServerAssignor,
        members: &[(&'static str, &[Uuid])],
        had: &Assignment,
        counts: &[(Uuid, i32)],
    ) -> Assignment {
        let nothing = Partitions::new();
        let ids: Vec<StrBytes> = members.iter().map(|(id, _)| StrBytes::from_static_str(id)).collect();
        let subscribers: Vec<Subscriber<'_>> = ids
            .iter()
            .zip(members)
            .map(|(id, (_, topics))| Subscriber {
                id,
                instance: None,
                topics: topics.iter().copied().collect(),
                assigned: had.get(id).unwrap_or(&nothing),
            })
            .collect();
        assign(assignor, &subscribers, &counts.iter().copied().collect()).expect("nobody has more than there is")
    }

    fn of<'a>(assignment: &'a Assignment, member: &'static str) -> &'a Partitions {
        &assignment[&StrBytes::from_static_str(member)]
    }

    fn sizes(assignment: &Assignment) -> Vec<usize> {
        assignment.values().map(|partitions| partitions.values().map(BTreeSet::len).sum()).collect()
    }

    fn moved(before: &Assignment, after: &Assignment) -> usize {
        let all = |assignment: &Assignment| -> BTreeSet<(StrBytes, Uuid, i32)> {
            let of = |(id, partitions): (&StrBytes, &Partitions)| {
                flat(partitions).map(|(topic, index)| (id.clone(), topic, index)).collect::<Vec<_>>()
            };
            assignment.iter().flat_map(of).collect()
        };
        all(after).difference(&all(before)).count()
    }

    #[test]
    fn range_gives_neighbours_and_the_first_members_one_more() {
        let share =
            shares(ServerAssignor::Range, &[("m1", &[A, B]), ("m2", &[A, B])], &Assignment::new(), &[(A, 3), (B, 2)]);
        assert_eq!(*of(&share, "m1"), Partitions::from([(A, BTreeSet::from([0, 1])), (B, BTreeSet::from([0]))]));
        assert_eq!(*of(&share, "m2"), Partitions::from([(A, BTreeSet::from([2])), (B, BTreeSet::from([1]))]));
    }

    #[test]
    fn range_counts_only_the_subscribers_of_a_topic() {
        let share =
            shares(ServerAssignor::Range, &[("m1", &[A]), ("m2", &[A, B])], &Assignment::new(), &[(A, 2), (B, 2)]);
        assert_eq!(*of(&share, "m1"), Partitions::from([(A, BTreeSet::from([0]))]));
        assert_eq!(*of(&share, "m2"), Partitions::from([(A, BTreeSet::from([1])), (B, BTreeSet::from([0, 1]))]));
    }

    #[test]
    fn uniform_is_even_and_moves_no_more_than_it_must() {
        let counts = [(A, 4), (B, 3)];
        let among = |ids: &[&'static str], had: &Assignment| {
            let members: Vec<(&'static str, &[Uuid])> = ids.iter().map(|id| (*id, &[A, B][..])).collect();
            shares(ServerAssignor::Uniform, &members, had, &counts)
        };
        let two = among(&["m1", "m2"], &Assignment::new());
        assert_eq!(sizes(&two), [4, 3]);
        let three = among(&["m1", "m2", "m3"], &two);
        assert_eq!(sizes(&three), [3, 2, 2]);
        assert_eq!(moved(&two, &three), 2);
        let without = among(&["m1", "m3"], &three);
        assert_eq!(sizes(&without), [4, 3]);
        assert_eq!(moved(&three, &without), 2);
        assert_eq!(among(&["m1", "m3"], &without), without);
    }

    #[test]
    fn uniform_takes_back_what_is_not_subscribed_to_any_more() {
        let had =
            Assignment::from([(StrBytes::from_static_str("m1"), Partitions::from([(B, BTreeSet::from([0, 1]))]))]);
        let share = shares(ServerAssignor::Uniform, &[("m1", &[A])], &had, &[(A, 1), (B, 2)]);
        assert_eq!(*of(&share, "m1"), Partitions::from([(A, BTreeSet::from([0]))]));
    }

    #[test]
    fn different_subscriptions_are_evened_out_as_far_as_they_allow() {
        let members: [(&'static str, &[Uuid]); 3] = [("m1", &[A]), ("m2", &[A, B]), ("m3", &[B])];
        let share = shares(ServerAssignor::Uniform, &members, &Assignment::new(), &[(A, 4), (B, 5)]);
        // The subscribers of each topic differ by one; that m1 and m3 differ by more is Kafka's way too.
        assert_eq!(sizes(&share), [4, 3, 2]);
        assert!(of(&share, "m1").keys().all(|topic| *topic == A) && of(&share, "m3").keys().all(|topic| *topic == B));
        // Nothing to gain: nothing moves.
        assert_eq!(shares(ServerAssignor::Uniform, &members, &share, &[(A, 4), (B, 5)]), share);
        // A member that had everything gives up what others may take.
        let all = Partitions::from([(A, (0..4).collect()), (B, (0..5).collect())]);
        let had = Assignment::from([(StrBytes::from_static_str("m2"), all)]);
        let evened = shares(ServerAssignor::Uniform, &members, &had, &[(A, 4), (B, 5)]);
        assert_eq!(sizes(&evened), [2, 3, 4]);
        assert_eq!(moved(&had, &evened), 6);
    }

    #[test]
    fn nobody_and_nothing_are_shared_out_to_nobody_and_as_nothing() {
        for assignor in [ServerAssignor::Uniform, ServerAssignor::Range] {
            assert!(shares(assignor, &[], &Assignment::new(), &[(A, 2)]).is_empty());
            let share = shares(assignor, &[("m1", &[A]), ("m2", &[])], &Assignment::new(), &[]);
            assert_eq!(sizes(&share), [0, 0]);
        }
    }
}
