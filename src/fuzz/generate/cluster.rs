//! Brokers, their configuration, topics.
//!
//! Timeouts are shorter than Kafka's defaults, so that within a run sessions end, replicas leave the ISR and come back;
//! now and then they are the defaults. Where little comes in one fetch, and after a long way, a replica takes a while to
//! catch up: what happens meanwhile is what most rules are about.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use super::episodes::Episode;
use super::faults::Kind;
use super::{Pace, Profile, Shape, groups};
use crate::config::BrokerConfig;
use crate::defect::Defects;
use crate::scenario::{ClockSetting, Cluster, LinkSetting, Links, Target, Topic};
use crate::world::sim::{Latency, LinkModel, Ppm};

/// A configuration key with a value, or neither.
pub(super) type Choice = Option<(&'static str, String)>;

/// One of `values` for `key` in `weight` of 100 scenarios, Kafka's default in the others.
pub(super) fn sometimes(weight: u32, key: &'static str, values: &'static [&'static str]) -> BoxedStrategy<Choice> {
    let set = select(values).prop_map(move |value| Some((key, value.to_owned())));
    prop_oneof![100 - weight => Just(None), weight => set].boxed()
}

pub(super) fn cluster(shape: &Shape) -> BoxedStrategy<Cluster> {
    let shape = shape.clone();
    let ways = (latency(), far_links(&shape));
    let parts = (timeouts(shape.pace), replication(&shape), retention(&shape), ways, clocks(&shape));
    let rack_aware = prop::bool::weighted(0.7);
    let built = (parts, rack_aware, groups::coordinators(&shape)).prop_map(move |(parts, rack_aware, coordinators)| {
        let (timeouts, replication, retention, (latency, links), clocks) = parts;
        let mut config = BrokerConfig::default();
        for (key, value) in timeouts.into_iter().chain(replication).chain(retention).chain(coordinators).flatten() {
            config.set(key, &value).expect("a drawn value is legal");
        }
        groups::allow_commits(&mut config, &shape);
        // `KafkaConfig.validateValues`
        let bound = config.replica_lag_time_max.min(config.replica_socket_timeout);
        config.replica_fetch_wait_max = config.replica_fetch_wait_max.min(bound);
        let ways = links.iter().filter_map(|link| link.latency).chain([latency]);
        allow_for_the_way(&mut config, ways.map(slowest).max().unwrap_or_default());
        let link = LinkModel { latency, ..LinkModel::default() };
        let log_dirs = match shape.log_dirs {
            1 => vec!["data".to_owned()],
            several => (1..=several).map(|n| format!("data-{n}")).collect(),
        };
        Cluster {
            brokers: shape.brokers,
            log_dirs,
            defects: Defects::NONE,
            config,
            link,
            links,
            clocks,
            event_cost: Duration::ZERO,
            rack_aware: rack_aware || shape.racks.is_empty(),
            racks: shape.racks.clone(),
        }
    });
    built.boxed()
}

/// Where a round trip takes long, a quick cluster would fence healthy brokers and give up every request: sessions last
/// several round trips, and a request may take two besides what its receiver makes it wait.
fn allow_for_the_way(config: &mut BrokerConfig, slowest: Duration) {
    config.broker_session_timeout =
        config.broker_session_timeout.max(config.broker_heartbeat_interval * 2 + slowest * 8);
    let request = slowest * 4;
    config.replica_socket_timeout = config.replica_socket_timeout.max(config.replica_fetch_wait_max + request);
    config.controller_socket_timeout = config.controller_socket_timeout.max(request * 2);
}

pub(super) fn slowest(latency: Latency) -> Duration {
    match latency {
        Latency::Fixed(latency) => latency,
        Latency::Uniform { max, .. } => max,
        Latency::Exponential { mean, .. } => mean * 5,
        Latency::Bimodal { slow, .. } => slow.1,
    }
}

/// One broker that is further away than the others, in some scenarios: from all of them, from one, or from the
/// controller. It is always a bit behind, and who leads meanwhile has what it lacks.
fn far_links(shape: &Shape) -> BoxedStrategy<Vec<LinkSetting>> {
    let weight = match shape.profile {
        Profile::Replication => 30,
        Profile::Storage | Profile::All => 12,
        Profile::Groups => 6,
    };
    if shape.brokers == 1 {
        return Just(Vec::new()).boxed();
    }
    let brokers = shape.brokers;
    let broker = match shape.focus {
        Some(focus) => prop_oneof![2 => Just(focus), 1 => 1..=brokers].boxed(),
        None => (1..=brokers).boxed(),
    };
    let latency = select(vec![(5_000, 10_000), (20_000, 60_000), (100_000, 200_000)]);
    let far = (broker, 0..=brokers + 1, any::<bool>(), latency).prop_map(move |(broker, to, both_ways, (min, max))| {
        let others = (1..=brokers).filter(|other| *other != broker);
        let ends: Vec<Target> = match to {
            0 => vec![Target::Controller],
            one if one <= brokers && one != broker => vec![Target::Broker(one)],
            _ => others.map(Target::Broker).collect(),
        };
        let latency = Some(Latency::Uniform { min: Duration::from_micros(min), max: Duration::from_micros(max) });
        let link = |to| LinkSetting {
            links: Links { from: Target::Broker(broker), to, both_ways },
            latency,
            jitter: None,
            bandwidth: None,
            loss: None,
        };
        ends.into_iter().map(link).collect()
    });
    prop_oneof![100 - weight => Just(Vec::new()), weight => far].boxed()
}

/// Two or three racks that take turns.
pub(super) fn racks(brokers: u32) -> BoxedStrategy<Vec<String>> {
    let spread = move |racks: usize| ["a", "b", "c"].iter().cycle().take(racks).copied().collect::<Vec<_>>();
    let named = (2..=3_usize).prop_map(move |racks| {
        let names = spread(racks);
        (0..brokers as usize).map(|broker| names[broker % racks].to_owned()).collect()
    });
    if brokers < 3 { Just(Vec::new()).boxed() } else { prop_oneof![7 => Just(Vec::new()), 1 => named].boxed() }
}

/// Wall clocks that are wrong from the start, of a few brokers in a few scenarios.
fn clocks(shape: &Shape) -> BoxedStrategy<Vec<ClockSetting>> {
    let second = 1_000_000_000_i64;
    let offset = select(vec![-3_600 * second, -10 * second, -second, second, 10 * second, 3_600 * second]);
    let clock = (1..=shape.brokers, offset)
        .prop_map(|(broker, offset_ns)| vec![ClockSetting { target: Target::Broker(broker), offset_ns, drift_ppm: 0 }]);
    match shape.profile {
        Profile::Replication | Profile::Groups => Just(Vec::new()).boxed(),
        Profile::Storage | Profile::All => prop_oneof![12 => Just(Vec::new()), 1 => clock].boxed(),
    }
}

/// The times that a cluster of some pace chooses from.
struct Timeouts {
    /// Session and heartbeat: one must come several times in a session, or sessions end by themselves.
    sessions: &'static [(&'static str, &'static str)],
    lags: &'static [&'static str],
    fetch_waits: &'static [&'static str],
    backoffs: &'static [&'static str],
    sockets: &'static [&'static str],
    controller_sockets: &'static [&'static str],
}

const SWIFT: Timeouts = Timeouts {
    sessions: &[("300", "100"), ("500", "100"), ("1000", "200"), ("2000", "500")],
    lags: &["300", "500", "1000", "1000", "2000", "10000"],
    fetch_waits: &["20", "50", "100", "300"],
    backoffs: &["10", "50", "100", "300"],
    sockets: &["300", "500", "1000", "2000"],
    controller_sockets: &["300", "500", "1000", "2000", "30000"],
};

const BRISK: Timeouts = Timeouts {
    sessions: &[
        ("1000", "200"),
        ("2000", "500"),
        ("2000", "500"),
        ("4000", "1000"),
        ("4000", "1000"),
        ("9000", "2000"),
    ],
    lags: &["1000", "1500", "2000", "3000", "5000", "10000", "30000"],
    fetch_waits: &["50", "100", "200", "1000"],
    backoffs: &["50", "100", "200", "500"],
    sockets: &["1000", "2000", "4000", "30000"],
    controller_sockets: &["1000", "2000", "4000", "30000"],
};

fn timeouts(pace: Pace) -> BoxedStrategy<Vec<Choice>> {
    let times = match pace {
        Pace::Swift => SWIFT,
        Pace::Brisk => BRISK,
    };
    let is_swift = u32::from(pace == Pace::Swift);
    let fetch_wait = sometimes(25 + 65 * is_swift, "replica.fetch.wait.max.ms", times.fetch_waits);
    let backoff = sometimes(60 + 30 * is_swift, "replica.fetch.backoff.ms", times.backoffs);
    let (sockets, controllers) = (select(times.sockets), select(times.controller_sockets));
    let parts = (select(times.sessions), select(times.lags), fetch_wait, backoff, sockets, controllers);
    parts
        .prop_map(|((session, heartbeat), lag, fetch_wait, backoff, socket, controller)| {
            let set = |key, value: &str| Some((key, value.to_owned()));
            vec![
                set("broker.session.timeout.ms", session),
                set("broker.heartbeat.interval.ms", heartbeat),
                set("replica.lag.time.max.ms", lag),
                fetch_wait,
                backoff,
                set("replica.socket.timeout.ms", socket),
                set("controller.socket.timeout.ms", controller),
            ]
        })
        .boxed()
}

fn replication(shape: &Shape) -> BoxedStrategy<Vec<Choice>> {
    let (flush, segment) = match shape.profile {
        Profile::Replication | Profile::Groups => (20, 10),
        Profile::Storage => (40, 60),
        Profile::All => (30, 30),
    };
    // One setting for all topics: some replica of every topic must exist.
    let min_insync = i32::from(shape.topics.iter().map(|topic| topic.replication_factor).min().unwrap_or(1));
    let min_insync = (1..=min_insync).prop_map(|n| Some(("min.insync.replicas", n.to_string())));
    let min_insync = prop_oneof![1 => Just(None), 4 => min_insync];
    let unclean = sometimes(8, "unclean.leader.election.enable", &["true"]);
    let flush = sometimes(flush, "flush.messages", &["1", "1", "3", "20"]);
    let segment = if shape.compacts { 100 } else { segment };
    let segment = sometimes(segment, "segment.bytes", &["400", "1000", "4000", "20000"]);
    let checkpoints = sometimes(40, "replica.high.watermark.checkpoint.interval.ms", &["200", "1000", "30000"]);
    let recovery_point = sometimes(30, "log.flush.offset.checkpoint.interval.ms", &["500", "2000", "10000"]);
    // Leadership that goes back and forth while all are alive.
    let rebalance = sometimes(35, "leader.imbalance.check.interval.seconds", &["1", "1", "2", "5", "10"]);
    let fetch_bytes = sometimes(40, "replica.fetch.max.bytes", &["100", "200", "1000", "10000"]);
    let parts = (min_insync, unclean, flush, segment, checkpoints, recovery_point, rebalance, fetch_bytes);
    parts.prop_map(|(a, b, c, d, e, f, g, h)| vec![a, b, c, d, e, f, g, h]).boxed()
}

/// What removes records on purpose, and how often it looks.
fn retention(shape: &Shape) -> BoxedStrategy<Vec<Choice>> {
    // Rot and wrong clocks are what retention may be misled by.
    let is_misled = shape.episode == Some(Episode::Rot)
        || [Kind::BitRot, Kind::MoveClock].iter().any(|kind| shape.kinds.contains(kind));
    let weight = match shape.profile {
        Profile::Replication | Profile::Groups => return Just(Vec::new()).boxed(),
        Profile::Storage if is_misled => 75,
        Profile::Storage => 45,
        Profile::All => 15,
    };
    let set = |key, value: &str| Some((key, value.to_owned()));
    let compaction = if shape.compacts {
        let ratio = select(&["0", "0.1", "0.5"][..]);
        let retention = select(&["0", "1000", "86400000"][..]);
        let backoff = select(&["200", "1000", "5000"][..]);
        let drawn = (ratio, retention, backoff).prop_map(move |(ratio, retention, backoff)| {
            vec![
                set("log.cleanup.policy", "compact"),
                set("log.cleaner.min.cleanable.ratio", ratio),
                set("log.cleaner.delete.retention.ms", retention),
                set("log.cleaner.backoff.ms", backoff),
            ]
        });
        drawn.boxed()
    } else {
        Just(Vec::new()).boxed()
    };
    // Half of the time the tasks run and find nothing to delete.
    let limits = (
        sometimes(40, "log.retention.ms", &["2000", "8000", "20000"]),
        sometimes(30, "log.retention.bytes", &["1000", "10000"]),
        select(&["200", "1000", "5000"][..]),
        select(&["100", "1000"][..]),
        sometimes(50, "log.segment.delete.delay.ms", &["0", "1000"]),
    );
    let tasks = limits.prop_map(move |(ms, bytes, interval, delay, kept)| {
        vec![
            ms,
            bytes,
            kept,
            set("log.retention.check.interval.ms", interval),
            set("log.initial.task.delay.ms", delay),
            set("log.flush.start.offset.checkpoint.interval.ms", interval),
        ]
    });
    let tasks = prop_oneof![100 - weight => Just(Vec::new()), weight => tasks];
    (compaction, tasks).prop_map(|(compaction, tasks)| compaction.into_iter().chain(tasks).collect()).boxed()
}

fn latency() -> BoxedStrategy<Latency> {
    let us = Duration::from_micros;
    let uniform = |low, high| Latency::Uniform { min: us(low), max: us(high) };
    prop_oneof![
        6 => Just(uniform(200, 500)),
        2 => Just(uniform(100, 5_000)),
        2 => Just(uniform(1_000, 30_000)),
        2 => Just(uniform(20_000, 25_000)),
        1 => Just(uniform(50_000, 100_000)),
        1 => Just(Latency::Bimodal { fast: (us(200), us(500)), slow: (us(20_000), us(200_000)), slow_share: Ppm(20_000) }),
    ]
    .boxed()
}

pub(super) fn topics(profile: Profile, brokers: u32) -> BoxedStrategy<Vec<Topic>> {
    let replicas = i16::try_from(brokers.min(3)).expect("at most 3");
    let factor = match profile {
        Profile::Storage => prop_oneof![3 => Just(replicas), 2 => 1..=replicas].boxed(),
        Profile::Replication | Profile::Groups | Profile::All => {
            prop_oneof![8 => Just(replicas), 1 => 1..=replicas].boxed()
        }
    };
    let topic = |name: &'static str| {
        let partitions = match profile {
            Profile::Groups => prop_oneof![1 => Just(1), 1 => Just(2), 2 => Just(3), 1 => Just(5)].boxed(),
            Profile::Replication | Profile::Storage | Profile::All => {
                prop_oneof![7 => Just(1), 2 => Just(2), 1 => Just(4)].boxed()
            }
        };
        (factor.clone(), partitions).prop_map(move |(replication_factor, partitions)| Topic {
            name: name.to_owned(),
            partitions,
            replication_factor,
            config: BTreeMap::new(),
        })
    };
    prop_oneof![
        9 => topic("orders").prop_map(|orders| vec![orders]),
        1 => (topic("orders"), topic("audit")).prop_map(|(orders, audit)| vec![orders, audit]),
    ]
    .boxed()
}
