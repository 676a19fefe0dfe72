//! Consumer groups: members that come and go, and what coordinators are configured with.
//!
//! Sessions, heartbeats and rebalances are as quick as the cluster's pace, so that a run holds many of them. A group
//! speaks the classic protocol, the consumer protocol (KIP-848), or both, as it does while it moves from one to the other.
//! All classic members of a group have assignors in common, as Kafka demands; everything else is each member's own.

use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::cluster::{Choice, slowest, sometimes};
use super::{Pace, Profile, Shape, workloads};
use crate::config::{BrokerConfig, ConsumerConfig, GroupProtocol};
use crate::scenario::{Cluster, CommitStyle, Ending, EndingKind, Membership, Pause, Seek, SeekTo, Workload};

/// What members and coordinators say to each other.
pub(super) const REQUESTS: [ApiKey; 12] = [
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::JoinGroup,
    ApiKey::SyncGroup,
    ApiKey::SyncGroup,
    ApiKey::Heartbeat,
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::OffsetCommit,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::LeaveGroup,
];

const COOPERATIVE_STICKY: &str = "org.apache.kafka.clients.consumer.CooperativeStickyAssignor";
/// What a whole group may be configured with: one assignor, or two that it moves between.
const STRATEGIES: [&str; 7] = [
    "org.apache.kafka.clients.consumer.RangeAssignor",
    "org.apache.kafka.clients.consumer.RoundRobinAssignor",
    "org.apache.kafka.clients.consumer.StickyAssignor",
    "org.apache.kafka.clients.consumer.StickyAssignor",
    COOPERATIVE_STICKY,
    COOPERATIVE_STICKY,
    // Kafka's default, and the first step of the move to cooperative rebalancing (KIP-429).
    "org.apache.kafka.clients.consumer.RangeAssignor,org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
];

/// What the members of a group speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Speaks {
    Classic,
    Consumer,
    /// Each member one of the two (`group.consumer.migration.policy` is `bidirectional` by default).
    Either,
}

/// The groups of a scenario.
pub(super) fn names(profile: Profile) -> BoxedStrategy<Vec<String>> {
    match profile {
        Profile::Groups => {
            let names = prop_oneof![4 => Just(vec!["billing"]), 1 => Just(vec!["billing", "audit"])];
            names.prop_map(|names| names.into_iter().map(str::to_owned).collect()).boxed()
        }
        Profile::Replication | Profile::Storage | Profile::All => Just(Vec::new()).boxed(),
    }
}

/// What brokers are configured with as coordinators.
pub(super) fn coordinators(shape: &Shape) -> BoxedStrategy<Vec<Choice>> {
    if shape.groups.is_empty() {
        return Just(Vec::new()).boxed();
    }
    let set = |key, value: &str| Some((key, value.to_owned()));
    let replicas = prop_oneof![1 => Just(1), 1 => Just(2), 3 => Just(3_u32)];
    let brokers = shape.brokers;
    // Sessions and heartbeats of the consumer protocol are the coordinator's to say.
    let modern = (
        select(sessions(shape.pace)),
        sometimes(10, "group.consumer.max.size", &["2", "3"]),
        sometimes(30, "group.consumer.assignors", &["range", "uniform", "range,uniform"]),
    );
    let parts = (
        select(&["1", "1", "2", "5"][..]),
        replicas,
        select(&["0", "100", "500", "1000"][..]),
        // A group's record must fit into a segment, or the group never comes to rest.
        sometimes(40, "offsets.topic.segment.bytes", &["4000", "8000", "16000"]),
        sometimes(40, "log.cleaner.backoff.ms", &["200", "1000"]),
        sometimes(40, "log.cleaner.min.cleanable.ratio", &["0", "0.1"]),
        sometimes(50, "offsets.retention.minutes", &["1", "1", "60"]),
        sometimes(80, "offsets.retention.check.interval.ms", &["100", "500", "2000"]),
        sometimes(40, "offsets.commit.timeout.ms", &["300", "1000"]),
        sometimes(10, "group.max.size", &["2", "3"]),
    );
    (parts, modern)
        .prop_map(move |(classic, ((session, heartbeat), modern_size, assignors))| {
            let (partitions, replicas, delay, segment, backoff, ratio, retention, check, timeout, size) = classic;
            vec![
                set("group.consumer.min.session.timeout.ms", "100"),
                set("group.consumer.session.timeout.ms", session),
                set("group.consumer.min.heartbeat.interval.ms", "10"),
                set("group.consumer.heartbeat.interval.ms", heartbeat),
                modern_size,
                assignors,
                set("group.min.session.timeout.ms", "100"),
                set("offsets.topic.num.partitions", partitions),
                set("offsets.topic.replication.factor", &replicas.min(brokers).to_string()),
                set("group.initial.rebalance.delay.ms", delay),
                segment,
                backoff,
                ratio,
                retention,
                check,
                timeout,
                size,
            ]
        })
        .boxed()
}

/// `__consumer_offsets` must have as many replicas as commits are acknowledged by.
pub(super) fn allow_commits(config: &mut BrokerConfig, shape: &Shape) {
    if !shape.groups.is_empty() {
        let least = i16::try_from(config.min_insync_replicas).unwrap_or(i16::MAX);
        let replicas = &mut config.groups.offsets_topic_replication_factor;
        *replicas = (*replicas).max(least);
    }
}

/// Where a round trip takes long, sessions and rebalances last several of them, and a request may take as many as its
/// receiver makes it wait: for followers, for other members. A group that nobody has joined yet is deleted with the next
/// check of offsets, and a member that was only given its id (KIP-394) begins anew.
pub(super) fn allow_for_the_way(cluster: &mut Cluster, workloads: &mut [Workload]) {
    let ways = cluster.links.iter().filter_map(|link| link.latency).chain([cluster.link.latency]);
    let slowest = ways.map(slowest).max().unwrap_or_default();
    let replication = slowest * 8 + cluster.config.replica_fetch_wait_max;
    let groups = &mut cluster.config.groups;
    groups.offsets_commit_timeout = groups.offsets_commit_timeout.max(replication);
    groups.offsets_retention_check_interval = groups.offsets_retention_check_interval.max(replication);
    // A coordinator that has just loaded a group gives its classic members that long too, whatever they asked for.
    let classic_heartbeat = workloads.iter().filter_map(|workload| match workload {
        Workload::Consume { config, .. } if config.group_protocol == GroupProtocol::Classic => {
            Some(config.heartbeat_interval)
        }
        Workload::Consume { .. } | Workload::Produce { .. } => None,
    });
    let heartbeat = classic_heartbeat.chain([groups.consumer_heartbeat_interval]).max().unwrap_or_default();
    let session = groups.consumer_session_timeout.max(heartbeat * 2 + slowest * 8);
    groups.consumer_session_timeout = session;
    groups.consumer_max_session_timeout = groups.consumer_max_session_timeout.max(session);
    for workload in workloads {
        let Workload::Consume { config, membership: Some(_), .. } = workload else { continue };
        let heartbeat = match config.group_protocol {
            GroupProtocol::Classic => {
                config.session_timeout = config.session_timeout.max(config.heartbeat_interval * 2 + slowest * 8);
                config.heartbeat_interval
            }
            GroupProtocol::Consumer => cluster.config.groups.consumer_heartbeat_interval,
        };
        config.request_timeout = config.request_timeout.max(replication + slowest * 8 + config.fetch_max_wait);
        config.max_poll_interval = config.max_poll_interval.max(heartbeat * 2 + config.request_timeout + slowest * 8);
    }
}

/// One producer per topic, and members.
pub(super) fn workloads(shape: &Shape) -> BoxedStrategy<Vec<Workload>> {
    let topics: Vec<String> = shape.topics.iter().map(|topic| topic.name.clone()).collect();
    let produce: Vec<_> = topics
        .iter()
        .enumerate()
        .map(|(at, topic)| workloads::producer(at + 1, topics.len(), topic.clone(), shape))
        .collect();
    let (pace, groups) = (shape.pace, shape.groups.clone());
    let speaks = prop_oneof![5 => Just(Speaks::Classic), 3 => Just(Speaks::Consumer), 2 => Just(Speaks::Either)];
    let habits = vec((speaks, select(&STRATEGIES[..])), groups.len());
    let members = (1..=5_usize, habits).prop_flat_map(move |(more, habits)| {
        let count = groups.len() + more - 1;
        let member = |number: usize| {
            let at = number % groups.len();
            member(number + 1, (groups[at].clone(), habits[at]), topics.clone(), pace)
        };
        (0..count).map(member).collect::<Vec<_>>()
    });
    (produce, members)
        .prop_map(|(mut all, members)| {
            all.extend(members);
            all
        })
        .boxed()
}

fn member(
    number: usize,
    (group, (speaks, strategy)): (String, (Speaks, &'static str)),
    topics: Vec<String>,
    pace: Pace,
) -> BoxedStrategy<Workload> {
    let latest_ms = pace.seconds() * 700;
    let start = prop_oneof![2 => Just(0), 1 => 0..latest_ms].prop_map(Duration::from_millis);
    let commit = select(vec![CommitStyle::Automatic, CommitStyle::After, CommitStyle::After, CommitStyle::Before]);
    let processing = prop_oneof![4 => Just(0), 3 => 1..20_u64, 1 => 20..100_u64].prop_map(Duration::from_millis);
    let last_ms = pace.seconds() * 900;
    let pause = (0..last_ms, 100..8_000_u64)
        .prop_map(move |(at, lasts)| Pause { at: Duration::from_millis(at), lasts: pace.time(lasts) });
    let seek = (0..last_ms, select(vec![SeekTo::Beginning, SeekTo::Beginning, SeekTo::End]))
        .prop_map(|(at, to)| Seek { at: Duration::from_millis(at), to });
    let deeds = (prop::option::weighted(0.1, pause), prop::option::weighted(0.05, seek));
    let is_static = prop::bool::weighted(0.3);
    let is_modern = match speaks {
        Speaks::Classic => Just(false).boxed(),
        Speaks::Consumer => Just(true).boxed(),
        Speaks::Either => any::<bool>().boxed(),
    };
    let config = is_modern.prop_flat_map(move |is_modern| config(pace, (!is_modern).then_some(strategy)));
    let parts = (select(topics), start, commit, processing, ending(pace), config, is_static, deeds);
    parts
        .prop_map(move |(topic, start, commit, processing, ending, mut config, is_static, (pause, seek))| {
            let name = format!("consumer-{number}");
            config.client_id.clone_from(&name);
            config.group_id = Some(group.clone());
            config.group_instance_id = is_static.then(|| name.clone());
            config.enable_auto_commit = commit == CommitStyle::Automatic;
            let ending = ending.map(|ending| Ending { at: start + ending.at, ..ending });
            let group = group.clone();
            let (poison, window) = (None, None);
            let membership = Membership { group, commit, processing, ending, pause, seek, poison, window };
            Workload::Consume { name, topic, start, config, membership: Some(membership) }
        })
        .boxed()
}

/// Whether and how a member stops, so long after it started.
fn ending(pace: Pace) -> BoxedStrategy<Option<Ending>> {
    let kind = select(vec![EndingKind::Stop, EndingKind::Fail, EndingKind::Crash, EndingKind::Crash]);
    let at = (100..pace.seconds() * 900).prop_map(Duration::from_millis);
    let back_after = prop_oneof![1 => Just(None), 3 => (1..6_000_u64).prop_map(move |ms| Some(pace.time(ms)))];
    let ending = (kind, at, back_after).prop_map(|(kind, at, back_after)| Some(Ending { kind, at, back_after }));
    prop_oneof![2 => Just(None), 3 => ending].boxed()
}

/// A session, and the interval between heartbeats in it, in milliseconds.
fn sessions(pace: Pace) -> &'static [(&'static str, &'static str)] {
    match pace {
        Pace::Swift => &[("500", "100"), ("1000", "300"), ("2000", "300")],
        Pace::Brisk => &[("1000", "300"), ("3000", "1000"), ("6000", "1000"), ("45000", "3000")],
    }
}

/// `strategy`: of a classic member, `partition.assignment.strategy`; `None` for one of the consumer protocol.
fn config(pace: Pace, strategy: Option<&'static str>) -> BoxedStrategy<ConsumerConfig> {
    let intervals: &[&str] = match pace {
        Pace::Swift => &["500", "2000", "10000"],
        Pace::Brisk => &["2000", "10000", "300000"],
    };
    let reset = prop_oneof![6 => Just("earliest"), 1 => Just("latest")];
    let request = select(&["500", "1000", "2000", "5000"][..]);
    let parts = (
        select(sessions(pace)),
        select(intervals),
        reset,
        request,
        sometimes(50, "max.poll.records", &["1", "5", "20"]),
        sometimes(70, "auto.commit.interval.ms", &["50", "300", "1000"]),
        sometimes(30, "fetch.max.wait.ms", &["50", "200"]),
        sometimes(30, "retry.backoff.ms", &["10", "50", "500"]),
        sometimes(20, "max.partition.fetch.bytes", &["200", "2000"]),
        sometimes(30, "metadata.max.age.ms", &["500", "5000"]),
    );
    let assignor = sometimes(30, "group.remote.assignor", &["uniform", "range"]);
    (parts, assignor)
        .prop_map(move |(parts, assignor)| {
            let ((session, heartbeat), interval, reset, request, poll, commit, wait, backoff, bytes, age) = parts;
            let mut config = ConsumerConfig::default();
            let set = |key, value: &str| Some((key, value.to_owned()));
            let of_protocol = match strategy {
                Some(strategy) => vec![
                    set("partition.assignment.strategy", strategy),
                    set("session.timeout.ms", session),
                    set("heartbeat.interval.ms", heartbeat),
                ],
                None => vec![set("group.protocol", "consumer"), assignor],
            };
            let fixed = [
                set("max.poll.interval.ms", interval),
                set("auto.offset.reset", reset),
                set("request.timeout.ms", request),
            ];
            let drawn = [poll, commit, wait, backoff, bytes, age];
            for (key, value) in of_protocol.into_iter().chain(fixed).chain(drawn).flatten() {
                config.set(key, &value).expect("a drawn value is legal");
            }
            config.retry_backoff_max = config.retry_backoff_max.max(config.retry_backoff);
            config
        })
        .boxed()
}
