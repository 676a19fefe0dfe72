//! Passes over everything but the schedule: fewer machines, clients, partitions and records, Kafka's defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Search;
use crate::config::{BrokerConfig, ConsumerConfig, ProducerConfig};
use crate::scenario::{Cluster, Scenario, Variant, Workload};
use crate::world::sim::LinkModel;

pub(super) fn simplify(search: &mut Search<'_>) {
    drop_workloads(search);
    drop_topics(search);
    fewer_partitions(search);
    fewer_brokers(search);
    fewer_records(search);
    plain_workloads(search);
    default_configuration(search);
    shorter(search);
}

fn drop_workloads(search: &mut Search<'_>) {
    let mut index = search.variant().workloads.len();
    while index > 0 && search.variant().workloads.len() > 1 {
        index -= 1;
        let candidate = search.with(|variant| {
            variant.workloads.remove(index);
        });
        search.offer(&candidate);
    }
}

fn drop_topics(search: &mut Search<'_>) {
    let mut index = search.variant().topics.len();
    while index > 0 && search.variant().topics.len() > 1 {
        index -= 1;
        let name = search.variant().topics[index].name.clone();
        let candidate = search.with(|variant| {
            variant.topics.remove(index);
            variant.workloads.retain(|workload| *topic_of(workload) != name);
        });
        if !candidate.variants[0].workloads.is_empty() {
            search.offer(&candidate);
        }
    }
}

fn topic_of(workload: &Workload) -> &String {
    match workload {
        Workload::Produce { topic, .. } | Workload::Consume { topic, .. } => topic,
    }
}

fn fewer_partitions(search: &mut Search<'_>) {
    for index in 0..search.variant().topics.len() {
        for partitions in [1, 2] {
            if partitions < search.variant().topics[index].partitions {
                let candidate = search.with(|variant| variant.topics[index].partitions = partitions);
                search.offer(&candidate);
            }
        }
    }
}

/// Fewer brokers, the topics' replicas with them; then fewer replicas.
fn fewer_brokers(search: &mut Search<'_>) {
    for brokers in 1..search.variant().cluster.brokers {
        let candidate = search.with(|variant| {
            variant.cluster.brokers = brokers;
            let replicas = i16::try_from(brokers).unwrap_or(i16::MAX);
            for topic in &mut variant.topics {
                topic.replication_factor = topic.replication_factor.min(replicas);
            }
        });
        if search.offer(&candidate) {
            break;
        }
    }
    for index in 0..search.variant().topics.len() {
        for replicas in 1..search.variant().topics[index].replication_factor {
            let candidate = search.with(|variant| variant.topics[index].replication_factor = replicas);
            if search.offer(&candidate) {
                break;
            }
        }
    }
}

fn fewer_records(search: &mut Search<'_>) {
    for index in 0..search.variant().workloads.len() {
        for fewer in [10, 20, 50, 100, 200, 300] {
            let candidate = search.with(|variant| match &mut variant.workloads[index] {
                Workload::Produce { records, .. } => *records = fewer.min(*records),
                Workload::Consume { .. } => {}
            });
            if search.offer(&candidate) {
                break;
            }
        }
    }
}

/// Records without keys, of the default size, at a round rate, from the beginning on.
fn plain_workloads(search: &mut Search<'_>) {
    for index in 0..search.variant().workloads.len() {
        let changes: [fn(&mut Workload); 5] = [
            |workload| match workload {
                Workload::Produce { start, .. } | Workload::Consume { start, .. } => *start = Duration::ZERO,
            },
            |workload| {
                if let Workload::Produce { keys, tombstones, .. } = workload {
                    (*keys, *tombstones) = (None, None);
                }
            },
            |workload| {
                if let Workload::Produce { value_bytes, .. } = workload {
                    *value_bytes = 100;
                }
            },
            |workload| {
                if let Workload::Produce { rate, .. } = workload {
                    *rate = Some(10);
                }
            },
            |workload| {
                if let Workload::Produce { rate, .. } = workload {
                    *rate = rate.map(|rate| (rate / 10 * 10).max(10));
                }
            },
        ];
        for change in changes {
            let candidate = search.with(|variant| change(&mut variant.workloads[index]));
            search.offer(&candidate);
        }
    }
}

/// Everything that a scenario sets at once, then key by key.
fn default_configuration(search: &mut Search<'_>) {
    let plain: [fn(&mut Cluster); 5] = [
        |cluster| cluster.log_dirs = vec!["data".to_owned()],
        |cluster| cluster.link = LinkModel::default(),
        |cluster| cluster.links.clear(),
        |cluster| cluster.clocks.clear(),
        |cluster| cluster.event_cost = Duration::ZERO,
    ];
    for change in plain {
        let candidate = search.with(|variant| change(&mut variant.cluster));
        search.offer(&candidate);
    }
    // Without racks nobody stands in one.
    let candidate = search.with(|variant| {
        (variant.cluster.racks, variant.cluster.rack_aware) = (Vec::new(), true);
        for workload in &mut variant.workloads {
            if let Workload::Consume { config, .. } = workload {
                config.client_rack.clear();
            }
        }
    });
    search.offer(&candidate);
    let mut index = search.variant().cluster.links.len();
    while index > 0 {
        index -= 1;
        let candidate = search.with(|variant| {
            variant.cluster.links.remove(index);
        });
        search.offer(&candidate);
    }
    let broker = BrokerConfig::default().entries();
    reset(
        search,
        &broker,
        |variant| variant.cluster.config.entries(),
        |variant, key, value| {
            variant.cluster.config.set(key, value).expect("Kafka's default is legal");
        },
    );
    for index in 0..search.variant().workloads.len() {
        let defaults = match &search.variant().workloads[index] {
            Workload::Produce { .. } => ProducerConfig::default().entries(),
            Workload::Consume { .. } => ConsumerConfig::default().entries(),
        };
        let entries = move |variant: &Variant| match &variant.workloads[index] {
            Workload::Produce { config, .. } => config.entries(),
            Workload::Consume { config, .. } => config.entries(),
        };
        reset(search, &defaults, entries, |variant, key, value| {
            match &mut variant.workloads[index] {
                Workload::Produce { config, .. } => config.set(key, value),
                Workload::Consume { config, .. } => config.set(key, value),
            }
            .expect("Kafka's default is legal");
        });
    }
    for index in 0..search.variant().topics.len() {
        let keys: Vec<String> = search.variant().topics[index].config.keys().cloned().collect();
        for key in keys {
            let candidate = search.with(|variant| {
                variant.topics[index].config.remove(&key);
            });
            search.offer(&candidate);
        }
    }
}

type Entries = BTreeMap<&'static str, String>;

fn reset(
    search: &mut Search<'_>,
    defaults: &Entries,
    entries: impl Fn(&Variant) -> Entries,
    set: impl Fn(&mut Variant, &str, &str),
) {
    let now = entries(search.variant());
    let differing: Vec<&'static str> =
        now.iter().filter(|(key, value)| defaults.get(*key) != Some(*value)).map(|(key, _)| *key).collect();
    if differing.len() > 1 {
        let candidate = search.with(|variant| differing.iter().for_each(|key| set(variant, key, &defaults[key])));
        if search.offer(&candidate) {
            return;
        }
    }
    for key in differing {
        let candidate = search.with(|variant| set(variant, key, &defaults[key]));
        search.offer(&candidate);
    }
}

/// No fixed duration, or a shorter one.
fn shorter(search: &mut Search<'_>) {
    let Some(duration) = search.best.duration else { return };
    let lengths = [None, Some(5), Some(10), Some(15), Some(20)].map(|seconds| seconds.map(Duration::from_secs));
    for length in lengths.into_iter().filter(|length| length.is_none_or(|length| length < duration)) {
        let candidate = Scenario { duration: length, ..search.best.clone() };
        if search.offer(&candidate) {
            return;
        }
    }
}
