//! Brokers, their configuration, topics.
//!
//! Timeouts are shorter than Kafka's defaults, so that within the 30 seconds of a run sessions end, replicas leave the
//! ISR and come back; now and then they are the defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use super::{Profile, Shape};
use crate::config::BrokerConfig;
use crate::defect::Defects;
use crate::scenario::{Cluster, Topic};
use crate::world::sim::{Latency, LinkModel, Ppm};

/// A configuration key with a value, or neither.
type Choice = Option<(&'static str, String)>;

/// One of `values` for `key` in `weight` of 100 scenarios, Kafka's default in the others.
pub(super) fn sometimes(weight: u32, key: &'static str, values: &'static [&'static str]) -> BoxedStrategy<Choice> {
    let set = select(values).prop_map(move |value| Some((key, value.to_owned())));
    prop_oneof![100 - weight => Just(None), weight => set].boxed()
}

pub(super) fn cluster(shape: &Shape) -> BoxedStrategy<Cluster> {
    let brokers = shape.brokers;
    let parts = (timeouts(), replication(shape), latency());
    let built = parts.prop_map(move |(timeouts, replication, latency)| {
        let mut config = BrokerConfig::default();
        for (key, value) in timeouts.into_iter().chain(replication).flatten() {
            config.set(key, &value).expect("a drawn value is legal");
        }
        // `KafkaConfig.validateValues`
        config.replica_fetch_wait_max = config.replica_fetch_wait_max.min(config.replica_lag_time_max);
        let link = LinkModel { latency, ..LinkModel::default() };
        Cluster {
            brokers,
            log_dirs: vec!["data".to_owned()],
            defects: Defects::NONE,
            config,
            link,
            links: Vec::new(),
            clocks: Vec::new(),
            event_cost: Duration::ZERO,
            racks: Vec::new(),
            rack_aware: true,
        }
    });
    built.boxed()
}

/// A heartbeat must come several times in a session, or sessions end by themselves.
fn timeouts() -> BoxedStrategy<Vec<Choice>> {
    let session = prop_oneof![
        2 => Just(("1000", "200")),
        4 => Just(("2000", "500")),
        3 => Just(("4000", "1000")),
        1 => Just(("9000", "2000")),
    ];
    let lag = prop_oneof![
        4 => select(&["1000", "1500", "2000", "3000"][..]),
        2 => select(&["5000", "10000"][..]),
        1 => Just("30000"),
    ];
    let fetch_wait = sometimes(25, "replica.fetch.wait.max.ms", &["50", "100", "200", "1000"]);
    let backoff = sometimes(60, "replica.fetch.backoff.ms", &["50", "100", "200", "500"]);
    let socket = prop_oneof![3 => select(&["1000", "2000", "4000"][..]), 1 => Just("30000")];
    let controller = prop_oneof![3 => select(&["1000", "2000", "5000"][..]), 1 => Just("30000")];
    let parts = (session, lag, fetch_wait, backoff, socket, controller);
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
        Profile::Replication => (20, 10),
        Profile::Storage => (40, 60),
        Profile::All => (30, 30),
    };
    // One setting for all topics: some replica of every topic must exist.
    let min_insync = i32::from(shape.topics.iter().map(|topic| topic.replication_factor).min().unwrap_or(1));
    let min_insync = (1..=min_insync).prop_map(|n| Some(("min.insync.replicas", n.to_string())));
    let min_insync = prop_oneof![1 => Just(None), 4 => min_insync];
    let unclean = sometimes(8, "unclean.leader.election.enable", &["true"]);
    let flush = sometimes(flush, "flush.messages", &["1", "1", "3", "20"]);
    let segment = sometimes(segment, "segment.bytes", &["400", "1000", "4000", "20000"]);
    let checkpoints = sometimes(40, "replica.high.watermark.checkpoint.interval.ms", &["200", "1000", "30000"]);
    let recovery_point = sometimes(30, "log.flush.offset.checkpoint.interval.ms", &["500", "2000", "10000"]);
    let rebalance = sometimes(20, "leader.imbalance.check.interval.seconds", &["2", "5", "10"]);
    let fetch_bytes = sometimes(15, "replica.fetch.max.bytes", &["200", "1000", "10000"]);
    let parts = (min_insync, unclean, flush, segment, checkpoints, recovery_point, rebalance, fetch_bytes);
    parts.prop_map(|(a, b, c, d, e, f, g, h)| vec![a, b, c, d, e, f, g, h]).boxed()
}

fn latency() -> BoxedStrategy<Latency> {
    let us = Duration::from_micros;
    let uniform = |low, high| Latency::Uniform { min: us(low), max: us(high) };
    prop_oneof![
        6 => Just(uniform(200, 500)),
        2 => Just(uniform(100, 5_000)),
        1 => Just(uniform(1_000, 30_000)),
        1 => Just(uniform(20_000, 25_000)),
        1 => Just(Latency::Bimodal { fast: (us(200), us(500)), slow: (us(20_000), us(200_000)), slow_share: Ppm(20_000) }),
    ]
    .boxed()
}

pub(super) fn topics(profile: Profile, brokers: u32) -> BoxedStrategy<Vec<Topic>> {
    let replicas = i16::try_from(brokers.min(3)).expect("at most 3");
    let factor = match profile {
        Profile::Storage => prop_oneof![3 => Just(replicas), 2 => 1..=replicas].boxed(),
        Profile::Replication | Profile::All => prop_oneof![8 => Just(replicas), 1 => 1..=replicas].boxed(),
    };
    let topic = |name: &'static str| {
        let partitions = prop_oneof![7 => Just(1), 2 => Just(2), 1 => Just(4)];
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
