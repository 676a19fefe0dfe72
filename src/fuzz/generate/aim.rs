//! What faults are aimed at: mostly roles, and in scenarios with a focus mostly one broker.

use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use proptest::prelude::*;
use proptest::sample::select;

use super::disks::{self, DiskAims};
use super::{Pace, Shape, groups};
use crate::scenario::{Cycle, Links, Messages, Target};
use crate::world::sim::{Direction, Ppm, Survival, Survivors};

/// Everything that a fault may be aimed at; its kind picks what it needs.
#[derive(Clone, Debug)]
pub(super) struct Aim {
    pub partition: String,
    pub replicas: i16,
    /// How many partitions the topic is to have instead.
    pub grown: i32,
    /// Brokers or the controller.
    pub server: Target,
    pub brokers: Target,
    pub anyone: Target,
    pub groups: Vec<Vec<Target>>,
    pub one_way: bool,
    pub links: Links,
    pub by: Duration,
    pub messages: Messages,
    pub cycle: Cycle,
    pub loss: Ppm,
    /// Bytes per second.
    pub bandwidth: u64,
    pub survivors: Survivors,
    pub disks: DiskAims,
    /// How far a clock moves.
    pub shift_ns: i64,
    /// Aim at the machines of the fault before.
    pub again: bool,
    /// Strike while what the fault before holds back is on its way, after this share of the time (per cent).
    pub within: Option<u32>,
}

pub(super) fn aim(shape: &Shape, clients: &[String]) -> BoxedStrategy<Aim> {
    let (shape, clients) = (shape.clone(), clients.to_vec());
    let aimed = select(shape.partitions()).prop_flat_map(move |partition| {
        let spot = Spot { partition: partition.clone(), replicas: shape.replicas(&partition), shape: &shape };
        let client = select(clients.clone()).prop_map(Target::Client).boxed();
        let clients = if shape.groups.is_empty() { 1 } else { 5 };
        let anyone = prop_oneof![10 - clients => spot.server(), clients => client.clone()];
        let pace = shape.pace;
        let by = prop_oneof![3 => 5..500_u64, 3 => 500..5_000_u64, 1 => 5_000..15_000_u64];
        let by = by.prop_map(move |by| pace.time(by));
        let targets = (spot.server(), spot.brokers(), anyone, spot.groups(&client), any::<bool>(), spot.links(), by);
        let details = (
            spot.messages(),
            cycle(pace),
            (1..=60_u32).prop_map(|percent| Ppm(percent * 10_000)),
            1_000..100_000_u64,
            survivors(),
            disks::aims(&shape, &partition),
            shift(),
        );
        let within = prop_oneof![1 => Just(None), 1 => (0..=110_u32).prop_map(Some)];
        let partitions = shape.topic(&partition).map_or(1, |topic| topic.partitions);
        (Just((partition, spot.replicas, partitions)), targets, details, (prop::bool::weighted(0.15), within))
    });
    aimed
        .prop_map(|((partition, replicas, partitions), targets, details, (again, within))| {
            let (server, brokers, anyone, groups, one_way, links, by) = targets;
            let (messages, cycle, loss, bandwidth, survivors, disks, shift_ns) = details;
            Aim {
                partition,
                replicas,
                grown: partitions + 1 + (by.as_millis() % 3) as i32,
                server,
                brokers,
                anyone,
                groups,
                one_way,
                links,
                by,
                messages,
                cycle,
                loss,
                bandwidth,
                survivors,
                disks,
                shift_ns,
                again,
                within,
            }
        })
        .boxed()
}

/// A partition of a shape, and who is about it.
struct Spot<'a> {
    partition: String,
    replicas: i16,
    shape: &'a Shape,
}

impl Spot<'_> {
    fn leader(&self) -> Target {
        Target::Leader(self.partition.clone())
    }

    /// A partition with one replica has no follower: its leader.
    fn follower(&self) -> BoxedStrategy<Target> {
        if self.replicas < 2 {
            return Just(self.leader()).boxed();
        }
        let partition = self.partition.clone();
        let all = Just(Target::Follower(partition.clone(), None));
        let one = (1..=self.replicas as usize - 1).prop_map(move |nth| Target::Follower(partition.clone(), Some(nth)));
        prop_oneof![1 => all, 3 => one].boxed()
    }

    /// The same, or the controller.
    fn other_side(&self) -> BoxedStrategy<Target> {
        if self.replicas < 2 { Just(Target::Controller).boxed() } else { self.follower() }
    }

    /// The broker of the focus seven times in ten.
    fn focused(&self, otherwise: BoxedStrategy<Target>) -> BoxedStrategy<Target> {
        match self.shape.focus {
            Some(broker) => prop_oneof![7 => Just(Target::Broker(broker)), 3 => otherwise].boxed(),
            None => otherwise,
        }
    }

    fn brokers(&self) -> BoxedStrategy<Target> {
        let racks = self.shape.racks.clone();
        let rack =
            if racks.is_empty() { Just(self.leader()).boxed() } else { select(racks).prop_map(Target::Rack).boxed() };
        let any = prop_oneof![
            8 => Just(self.leader()),
            8 => self.follower(),
            5 => (1..=self.shape.brokers).prop_map(Target::Broker),
            1 => Just(Target::Isr(self.partition.clone())),
            2 => Just(Target::Brokers),
            1 => rack,
        ];
        let groups = &self.shape.groups;
        if groups.is_empty() {
            return self.focused(any.boxed());
        }
        let coordinator = select(groups.clone()).prop_map(Target::Coordinator);
        self.focused(prop_oneof![3 => any, 2 => coordinator].boxed())
    }

    fn server(&self) -> BoxedStrategy<Target> {
        prop_oneof![24 => self.brokers(), 1 => Just(Target::Controller)].boxed()
    }

    /// Two sides that share no machine.
    fn groups(&self, client: &BoxedStrategy<Target>) -> BoxedStrategy<Vec<Vec<Target>>> {
        let brokers = self.shape.brokers;
        let (one, two, three) = (self.leader(), self.leader(), self.leader());
        let halves = (1..=brokers).prop_map(move |cut| {
            let side = |ids: std::ops::RangeInclusive<u32>| ids.map(Target::Broker).collect::<Vec<_>>();
            if cut == brokers {
                vec![side(1..=brokers), vec![Target::Controller]]
            } else {
                vec![side(1..=cut), side(cut + 1..=brokers)]
            }
        });
        let by_role = prop_oneof![
            4 => self.other_side().prop_map(move |other| vec![vec![one.clone()], vec![other]]),
            4 => Just(vec![vec![self.leader()], vec![Target::Controller]]),
            2 => self.other_side().prop_map(|other| match other {
                Target::Controller => vec![vec![Target::Brokers], vec![Target::Controller]],
                follower => vec![vec![follower], vec![Target::Controller]],
            }),
            2 => client.clone().prop_map(move |client| vec![vec![two.clone()], vec![client]]),
            2 => (self.other_side(), client.clone()).prop_map(move |(other, client)| match other {
                Target::Controller => vec![vec![three.clone(), client], vec![Target::Controller]],
                follower => vec![vec![three.clone(), client], vec![follower, Target::Controller]],
            }),
            2 => halves,
        ];
        let Some(focus) = self.shape.focus else { return by_role.boxed() };
        let others: Vec<Target> = (1..=brokers).filter(|broker| *broker != focus).map(Target::Broker).collect();
        let mut sides = vec![vec![Target::Controller]];
        sides.extend(others.iter().map(|other| vec![other.clone()]));
        if !others.is_empty() {
            sides.push(others);
        }
        let around = select(sides).prop_map(move |side| vec![vec![Target::Broker(focus)], side]);
        prop_oneof![3 => by_role, 7 => around].boxed()
    }

    fn links(&self) -> BoxedStrategy<Links> {
        let (from, to, leader) = (self.leader(), self.leader(), self.leader());
        let ends = prop_oneof![
            3 => self.other_side().prop_map(move |other| (other, to.clone())),
            3 => self.other_side().prop_map(move |other| (from.clone(), other)),
            2 => self.server().prop_map(|server| match server {
                Target::Controller => (Target::Brokers, Target::Controller),
                server => (server, Target::Controller),
            }),
            1 => Just((Target::Controller, leader)),
        ];
        let ends = match self.shape.focus {
            None => ends.boxed(),
            Some(focus) => {
                let others = (1..=self.shape.brokers).filter(|broker| *broker != focus).map(Target::Broker);
                let others = select(others.chain([Target::Controller]).collect::<Vec<_>>());
                let around = (others, any::<bool>()).prop_map(move |(other, comes_in)| match comes_in {
                    true => (other, Target::Broker(focus)),
                    false => (Target::Broker(focus), other),
                });
                prop_oneof![3 => ends, 7 => around].boxed()
            }
        };
        (ends, any::<bool>()).prop_map(|((from, to), both_ways)| Links { from, to, both_ways }).boxed()
    }

    /// What is said between brokers, the controller and clients about replication.
    fn messages(&self) -> BoxedStrategy<Messages> {
        let mut keys = vec![
            ApiKey::Fetch,
            ApiKey::Fetch,
            ApiKey::Produce,
            ApiKey::AlterPartition,
            ApiKey::AlterPartition,
            ApiKey::BrokerHeartbeat,
            ApiKey::BrokerRegistration,
            ApiKey::BrokerRegistration,
            ApiKey::Metadata,
        ];
        if !self.shape.groups.is_empty() {
            keys.extend(groups::REQUESTS);
        }
        let direction = prop_oneof![3 => Just(Direction::Request), 2 => Just(Direction::Response)];
        // One that is late is overtaken by the next.
        let count = prop_oneof![3 => Just(Some(1)), 2 => (2..=3_u32).prop_map(Some), 2 => Just(None)];
        let someone = self.focused(prop_oneof![3 => Just(self.leader()), 3 => self.follower()].boxed());
        let someone = prop_oneof![1 => Just(None), 2 => someone.prop_map(Some)];
        let drawn = (select(keys), direction, count, someone);
        drawn
            .prop_map(|(key, direction, count, someone)| {
                // Whoever asks.
                let (from, to) = match direction {
                    Direction::Request => (someone, None),
                    Direction::Response => (None, someone),
                };
                Messages { request: (format!("{key:?}"), key as i16), direction, from, to, count }
            })
            .boxed()
    }
}

/// What a power loss leaves of what was not synced: mostly nothing, else torn, in order or not, or the names of files and
/// not what is in them.
pub(super) fn survivors() -> BoxedStrategy<Survivors> {
    let some =
        || select(vec![Survival::Nothing, Survival::Everything, Survival::Prefix, Survival::Subset, Survival::Subset]);
    let torn = (some(), some()).prop_map(|(pages, entries)| Survivors { pages, entries });
    let named = Just(Survivors { pages: Survival::Nothing, entries: Survival::Everything });
    prop_oneof![4 => Just(Survivors::NOTHING), 4 => torn, 1 => named].boxed()
}

fn cycle(pace: Pace) -> BoxedStrategy<Cycle> {
    let parts = (200..4_000_u64, 10..=90_u32, prop_oneof![2 => (1..=4_u32).prop_map(Some), 1 => Just(None)]);
    parts
        .prop_map(move |(period, percent, count)| Cycle {
            period: pace.time(period),
            duty: Ppm(percent * 10_000),
            count,
        })
        .boxed()
}

fn shift() -> BoxedStrategy<i64> {
    let second = 1_000_000_000_i64;
    let far = prop_oneof![3 => 1..20_i64, 1 => 20..7_200_i64, 1 => 8 * 86_400..20 * 86_400_i64];
    (far, any::<bool>()).prop_map(move |(far, ahead)| if ahead { far * second } else { -far * second }).boxed()
}
