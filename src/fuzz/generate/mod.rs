//! Scenarios drawn from a seed, with proptest's strategies.
//!
//! Swarm testing (Groce et al., ISSTA 2012): each scenario enables its own random subset of fault kinds and
//! configurations, so that rare combinations are not drowned by frequent ones. The schedule has a regime, from many
//! short faults to few long ones, and some faults wait for a state instead of a time. The cluster has a pace: timeouts
//! from Kafka's defaults down to a fiftieth of them, so that a run holds one election or thirty. In half of the
//! scenarios most of the faults are about one broker: what takes several faults on the same replica is not left to luck.

mod absence;
mod aim;
mod cluster;
mod disks;
mod episodes;
mod faults;
mod groups;
mod workloads;

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use xxhash_rust::xxh3::xxh3_64;

use super::{Profile, topic_of};
use crate::config::ReplicaSelector;
use crate::scenario::{Cluster, Scenario, Topic, Variant, Workload};
use absence::Absence;
use episodes::Episode;
use faults::{Kind, Regime};

/// How quickly things go: timeouts, and with them how long faults last and how far they are apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pace {
    /// Sessions of half a second.
    Swift,
    /// Sessions of some seconds.
    Brisk,
}

impl Pace {
    /// When faults stop and everything is healed: long enough for sessions to time out and an ISR to shrink and to
    /// grow again, several times.
    fn seconds(self) -> u64 {
        match self {
            Pace::Swift => 12,
            Pace::Brisk => 30,
        }
    }

    /// A time of the schedule, given as it is in a brisk cluster.
    fn time(self, brisk_ms: u64) -> Duration {
        Duration::from_millis(match self {
            Pace::Swift => (brisk_ms / 3).max(1),
            Pace::Brisk => brisk_ms,
        })
    }
}

/// What the parts of a scenario must agree on.
#[derive(Clone, Debug)]
struct Shape {
    profile: Profile,
    pace: Pace,
    brokers: u32,
    topics: Vec<Topic>,
    /// `cleanup.policy` is `compact`: records need keys.
    compacts: bool,
    /// Log directories of each broker.
    log_dirs: u32,
    /// The rack of each broker, or none.
    racks: Vec<String>,
    /// Consumer groups.
    groups: Vec<String>,
    /// The broker that most faults are about.
    focus: Option<u32>,
    /// The enabled kinds of fault.
    kinds: Vec<Kind>,
    regime: Regime,
    episode: Option<Episode>,
}

impl Shape {
    fn partitions(&self) -> Vec<String> {
        let of = |topic: &Topic| (0..topic.partitions).map(|p| format!("{}-{p}", topic.name)).collect::<Vec<_>>();
        self.topics.iter().flat_map(of).collect()
    }

    /// Replicas of a partition of this topic.
    fn replicas(&self, partition: &str) -> i16 {
        self.topic(partition).map_or(1, |topic| topic.replication_factor)
    }

    fn topic(&self, partition: &str) -> Option<&Topic> {
        self.topics.iter().find(|topic| topic.name == topic_of(partition))
    }
}

/// The scenario that `seed` means in `profile`; its own seed is `seed` too.
///
/// Seeds from 2^48 on are variations ([`variation`]).
pub fn scenario(profile: Profile, seed: u64) -> Scenario {
    let drawn = draw(&drafts(profile), profile, seed % VARIATION);
    let drawn = if seed < VARIATION { drawn } else { draw(&drawn.varied(), profile, seed) };
    Scenario { seed, ..drawn.scenario() }
}

/// The seed of variation `number` of the scenario of `seed`: the same brokers, topics and clients under nearly the same
/// faults, in a third of them with another configuration.
/// Where a scenario comes to a decision that is rare, they come to it again, and a bit otherwise.
pub fn variation(seed: u64, number: u16) -> u64 {
    seed % VARIATION + u64::from(number) * VARIATION
}

const VARIATION: u64 = 1 << 48;

fn draw<T: std::fmt::Debug>(from: &BoxedStrategy<T>, profile: Profile, seed: u64) -> T {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&xxh3_64(profile.name().as_bytes()).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &key);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    from.new_tree(&mut runner).expect("no strategy filters").current()
}

/// Every scenario of a profile.
pub fn scenarios(profile: Profile) -> BoxedStrategy<Scenario> {
    drafts(profile).prop_map(Draft::scenario).boxed()
}

/// The parts of a scenario, as they are drawn.
#[derive(Clone, Debug)]
struct Draft {
    shape: Shape,
    cluster: Cluster,
    workloads: Vec<Workload>,
    faults: Vec<faults::Draft>,
    absence: Option<Absence>,
}

fn drafts(profile: Profile) -> BoxedStrategy<Draft> {
    let parts = shape(profile).prop_flat_map(|shape| {
        let workloads = workloads::workloads(&shape);
        (Just(shape.clone()), cluster::cluster(&shape), workloads)
    });
    let parts = parts.boxed();
    let parts = parts.prop_flat_map(|(shape, cluster, workloads)| {
        let faults = faults::drafts(&shape, &clients(&workloads));
        let absence = absence::absence(&shape);
        (Just(shape), Just(cluster), Just(workloads), faults, absence)
    });
    let draft = |(shape, cluster, workloads, faults, absence)| Draft { shape, cluster, workloads, faults, absence };
    parts.prop_map(draft).boxed()
}

impl Draft {
    /// Under nearly the same faults, now and then with other settings.
    fn varied(self) -> BoxedStrategy<Draft> {
        let faults = faults::varied(self.faults.clone(), &self.shape, &clients(&self.workloads));
        let cluster = prop_oneof![2 => Just(self.cluster.clone()), 1 => cluster::cluster(&self.shape)];
        let absence = match &self.absence {
            Some(absence) => absence.varied(),
            None => Just(None).boxed(),
        };
        (faults, cluster, absence)
            .prop_map(move |(faults, cluster, absence)| Draft { faults, cluster, absence, ..self.clone() })
            .boxed()
    }

    fn scenario(mut self) -> Scenario {
        if let Some(absence) = &self.absence {
            absence.configure(&mut self.cluster);
        }
        groups::allow_for_the_way(&mut self.cluster, &mut self.workloads);
        read_from_the_closest(&mut self.cluster, &mut self.workloads);
        let duration = Duration::from_secs(self.shape.pace.seconds());
        let absence = self.absence.as_ref();
        let jump = absence.and_then(|absence| absence.happen(&mut self.cluster, &mut self.workloads, duration));
        let Draft { shape, cluster, workloads, faults, .. } = self;
        let faults = faults::schedule(faults, &shape).into_iter().chain(jump).collect();
        let variant =
            Variant { point: Vec::new(), cluster, topics: shape.topics, workloads, faults, expect: Vec::new() };
        let drawn = Scenario {
            name: "generated".to_owned(),
            file: String::new(),
            title: format!("Generated by the fuzzer, profile {}.", shape.profile.name()),
            duration: Some(duration),
            seed: 1,
            matrix: Vec::new(),
            variants: vec![variant],
        };
        let text = crate::scenario::render(&drawn, &[]);
        crate::scenario::parse(&drawn.name, &drawn.file, &text)
            .unwrap_or_else(|error| panic!("a drawn scenario is valid: {}\n{text}", error.render(false, 120)))
    }
}

/// Where brokers know their racks, consumers stand in them in turn and read from the replica there (KIP-392).
fn read_from_the_closest(cluster: &mut Cluster, workloads: &mut [Workload]) {
    if !cluster.rack_aware || cluster.racks.is_empty() {
        return;
    }
    cluster.config.replica_selector = ReplicaSelector::RackAware;
    for (number, workload) in workloads.iter_mut().enumerate() {
        if let Workload::Consume { config, .. } = workload {
            config.client_rack.clone_from(&cluster.racks[number % cluster.racks.len()]);
        }
    }
}

fn clients(workloads: &[Workload]) -> Vec<String> {
    workloads.iter().map(Workload::name).cloned().collect()
}

fn shape(profile: Profile) -> BoxedStrategy<Shape> {
    let brokers = match profile {
        Profile::Replication | Profile::Groups => {
            prop_oneof![8 => Just(3), 2 => Just(2), 1 => Just(4), 1 => Just(5)].boxed()
        }
        Profile::Storage => prop_oneof![6 => Just(3), 2 => Just(1), 2 => Just(2)].boxed(),
        Profile::All => prop_oneof![10 => Just(3), 1 => Just(1), 2 => Just(2), 1 => Just(4), 2 => Just(5_u32)].boxed(),
    };
    let pace = prop_oneof![3 => Just(Pace::Swift), 2 => Just(Pace::Brisk)];
    let compacts = match profile {
        Profile::Replication | Profile::Groups => Just(false).boxed(),
        Profile::Storage | Profile::All => prop::bool::weighted(0.08).boxed(),
    };
    let log_dirs = match profile {
        Profile::Replication | Profile::Groups => Just(1).boxed(),
        Profile::Storage | Profile::All => prop_oneof![8 => Just(1), 1 => Just(2), 1 => Just(3_u32)].boxed(),
    };
    let sized = (brokers, pace, compacts, log_dirs).prop_flat_map(move |(brokers, pace, compacts, log_dirs)| {
        let topics = cluster::topics(profile, brokers);
        let focus = prop_oneof![1 => Just(None), 1 => (1..=brokers).prop_map(Some)];
        let groups = groups::names(profile);
        let faults = (faults::kinds(profile, compacts), faults::regime(), episodes::episodes(profile, compacts));
        let drawn = (topics, faults, focus, cluster::racks(brokers), groups);
        (Just((brokers, pace, compacts, log_dirs)), drawn)
    });
    let shape =
        move |((brokers, pace, compacts, log_dirs), (topics, (kinds, regime, episode), focus, racks, groups))| Shape {
            profile,
            pace,
            brokers,
            topics,
            compacts,
            log_dirs,
            racks,
            groups,
            focus,
            kinds,
            regime,
            episode,
        };
    sized.prop_map(shape).boxed()
}
