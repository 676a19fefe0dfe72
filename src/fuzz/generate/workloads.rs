//! Producers and consumers: some 500 records in all, spread over most of the run.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use super::cluster::sometimes;
use super::{Pace, Profile, Shape, groups};
use crate::config::{ConsumerConfig, ProducerConfig};
use crate::scenario::{KEY_PREFIX_DEFAULT, ValueFormat, Workload};

/// Records of all producers together.
const RECORDS: u64 = 500;

pub(super) fn workloads(shape: &Shape) -> BoxedStrategy<Vec<Workload>> {
    if shape.profile == Profile::Groups {
        return groups::workloads(shape);
    }
    let topics: Vec<String> = shape.topics.iter().map(|topic| topic.name.clone()).collect();
    let shape = shape.clone();
    let counts = (prop_oneof![5 => Just(1_usize), 3 => Just(2), 1 => Just(3)], 0..=2_usize);
    let drawn = counts.prop_flat_map(move |(producers, consumers)| {
        let produce: Vec<_> =
            (1..=producers).map(|n| producer(n, producers, topics[n % topics.len()].clone(), &shape)).collect();
        let consume: Vec<_> =
            (1..=consumers).map(|n| consumer(n, topics[n % topics.len()].clone(), shape.pace)).collect();
        (produce, consume).prop_map(|(mut all, consume)| {
            all.extend(consume);
            all
        })
    });
    drawn.boxed()
}

pub(super) fn producer(number: usize, of: usize, topic: String, shape: &Shape) -> BoxedStrategy<Workload> {
    let acks = match shape.profile {
        Profile::Storage => prop_oneof![6 => Just("all"), 3 => Just("1"), 1 => Just("0")].boxed(),
        Profile::Replication | Profile::Groups | Profile::All => {
            prop_oneof![14 => Just("all"), 4 => Just("1"), 1 => Just("0")].boxed()
        }
    };
    let records = RECORDS / of as u64;
    // Over most of the run, or in a burst.
    let sending = shape.pace.seconds() * 4 / 5;
    let rate = prop_oneof![
        8 => Just(Some(records / sending)),
        2 => Just(Some(records / 3)),
        1 => Just(None),
    ];
    let sizes = prop_oneof![6 => Just(100_usize), 2 => Just(16), 1 => Just(900), 1 => Just(5_000)];
    let keyed = || (1..=20_u64).prop_map(Some);
    let keys = if shape.compacts { keyed().boxed() } else { prop_oneof![3 => Just(None), 1 => keyed()].boxed() };
    let tombstones = if shape.compacts {
        prop_oneof![2 => Just(None), 1 => (2..=5_u64).prop_map(Some)].boxed()
    } else {
        Just(None).boxed()
    };
    let start = prop_oneof![5 => Just(0), 1 => 0..5_000_u64].prop_map(Duration::from_millis);
    let idempotence = match shape.profile {
        Profile::All => prop_oneof![2 => Just(true), 1 => Just(false)].boxed(),
        // What these look for shows without it too, and more often.
        Profile::Storage | Profile::Replication | Profile::Groups => Just(false).boxed(),
    };
    let parts = (acks, rate, sizes, (keys, tombstones), start, producer_config(), idempotence);
    parts
        .prop_map(move |(acks, rate, value_bytes, (keys, tombstones), start, mut config, idempotence)| {
            config.set("acks", acks).expect("one of Kafka's");
            config.enable_idempotence = idempotence;
            config.settle(|_| false).expect("nothing was set by a user");
            let (name, topic) = (format!("producer-{number}"), topic.clone());
            let key_prefix = KEY_PREFIX_DEFAULT.to_owned();
            let timestamp_offset_ms = 0;
            Workload::Produce {
                name,
                topic,
                records,
                rate,
                value_bytes,
                keys,
                key_prefix,
                tombstones,
                timestamp_offset_ms,
                format: ValueFormat::Number,
                start,
                config,
            }
        })
        .boxed()
}

fn producer_config() -> BoxedStrategy<ProducerConfig> {
    let request = prop_oneof![3 => select(&["500", "1000", "2000", "4000"][..]), 1 => Just("30000")];
    let delivery = sometimes(60, "delivery.timeout.ms", &["5000", "10000", "20000"]);
    let retries = sometimes(20, "retries", &["0", "1", "5"]);
    let in_flight = sometimes(40, "max.in.flight.requests.per.connection", &["1", "1", "2"]);
    let linger = sometimes(40, "linger.ms", &["0", "20", "100"]);
    let batch = sometimes(30, "batch.size", &["0", "300", "1000"]);
    let backoff = sometimes(30, "retry.backoff.ms", &["10", "50", "500"]);
    let compression = sometimes(10, "compression.type", &["gzip", "snappy", "lz4", "zstd"]);
    let parts = (request, delivery, retries, in_flight, linger, batch, backoff, compression);
    parts
        .prop_map(|(request, delivery, retries, in_flight, linger, batch, backoff, compression)| {
            let mut config = ProducerConfig::default();
            let request = Some(("request.timeout.ms", request.to_owned()));
            let drawn = [request, delivery, retries, in_flight, linger, batch, backoff, compression];
            for (key, value) in drawn.into_iter().flatten() {
                config.set(key, &value).expect("a drawn value is legal");
            }
            config.retry_backoff_max = config.retry_backoff_max.max(config.retry_backoff);
            config
        })
        .boxed()
}

fn consumer(number: usize, topic: String, pace: Pace) -> BoxedStrategy<Workload> {
    let latest_ms = pace.seconds() * 700;
    let start = prop_oneof![3 => Just(0), 1 => 0..latest_ms].prop_map(Duration::from_millis);
    let reset = prop_oneof![4 => Just("earliest"), 1 => Just("latest")];
    let request = prop_oneof![3 => select(&["1000", "2000", "5000"][..]), 1 => Just("30000")];
    let wait = sometimes(30, "fetch.max.wait.ms", &["50", "200"]);
    let bytes = sometimes(20, "max.partition.fetch.bytes", &["200", "2000"]);
    let poll = sometimes(20, "max.poll.records", &["1", "10"]);
    (start, reset, request, wait, bytes, poll)
        .prop_map(move |(start, reset, request, wait, bytes, poll)| {
            let mut config = ConsumerConfig::default();
            let fixed = [("auto.offset.reset", reset), ("request.timeout.ms", request)];
            let fixed = fixed.map(|(key, value)| Some((key, value.to_owned())));
            for (key, value) in fixed.into_iter().chain([wait, bytes, poll]).flatten() {
                config.set(key, &value).expect("a drawn value is legal");
            }
            Workload::Consume {
                name: format!("consumer-{number}"),
                topic: topic.clone(),
                start,
                config,
                membership: None,
            }
        })
        .boxed()
}
