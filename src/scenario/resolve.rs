//! From what the file says to variants: one per point of the matrix, each with its configurations typed and checked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::diagnostics::Mistakes;
use super::draft::{AxisDraft, ClusterDraft, Draft, Kind, Setting, TopicDraft, WorkloadDraft, note_config, same_key};
use super::expect::{ExpectDraft, contradiction};
use super::expression;
use super::model::{Action, Axis, Cluster, CommitStyle, Fault, Topic, Variant, Workload};
use super::table::{Section, Spanned};
use super::vocabulary::DEFECTS_AXIS;
use crate::config::{self, BrokerConfig, ConfigError, ConsumerConfig, ProducerConfig, Scope, TopicConfig};
use crate::defect::Defects;
use crate::protocol::TopicPartition;

/// More runs than one file should ask for.
const VARIANTS_MAX: usize = 256;

/// The value of one axis at one point, with its place; `None` for the default `acks` axis, which has none.
#[derive(Clone, Debug)]
struct Pin<'a> {
    name: &'a str,
    /// The configuration key.
    key: &'a str,
    value: &'a str,
    span: Option<Range<usize>>,
    scopes: &'a [Scope],
}

/// The axes of the scenario: those of `[matrix]`, and before them `acks` unless it is one of those or every produce
/// workload sets it.
pub(super) fn axes(draft: &Draft) -> Vec<Axis> {
    let declared = draft.axes.iter().map(|axis| Axis {
        name: axis.name.value.clone(),
        values: axis.values.iter().map(|value| value.value.clone()).collect(),
    });
    let needs_acks = draft.workloads.iter().any(|workload| match &workload.kind {
        Kind::Produce { acks, .. } => acks.is_none(),
        Kind::Consume { .. } => false,
    });
    let mut axes: Vec<Axis> = Vec::new();
    if needs_acks && !draft.axes.iter().any(|axis| axis.key == "acks") {
        axes.push(Axis { name: "acks".to_owned(), values: ["0", "1", "all"].map(str::to_owned).to_vec() });
    }
    axes.extend(declared);
    axes
}

/// Notes axes that would change nothing, or fight with a fixed value.
pub(super) fn check_axes(draft: &Draft, mistakes: &mut Mistakes) {
    for axis in &draft.axes {
        let name = &axis.name.value;
        if let Some(place) = fixed_elsewhere(draft, axis) {
            mistakes
                .add(&axis.name.span, format!("`{name}` is an axis and is also set in {place}"))
                .help("which one counts would be a guess: remove one of them");
        }
        let is_for_clients = !axis.is_of_defects() && !axis.scopes.contains(&Scope::Broker);
        if is_for_clients
            && draft.workloads_are_complete
            && !draft.workloads.iter().any(|workload| axis.scopes.contains(&workload.scope()))
        {
            let kinds: Vec<String> = axis.scopes.iter().map(Scope::to_string).collect();
            let message = format!("axis `{name}` changes nothing: there is no {}", kinds.join(" or "));
            mistakes.add(&axis.name.span, message);
        }
    }
}

/// Where else the configuration of an axis is set.
fn fixed_elsewhere(draft: &Draft, axis: &AxisDraft) -> Option<String> {
    if axis.is_of_defects() {
        return draft.cluster.defects.map(|_| "[cluster]".to_owned());
    }
    let sets = |settings: &[Setting], scope: Scope| {
        settings.iter().any(|setting| same_key(&setting.key.value, &axis.key, Some(scope)))
    };
    if axis.scopes.contains(&Scope::Broker) {
        if sets(&draft.cluster.config, Scope::Broker) {
            return Some("[cluster.config]".to_owned());
        }
        let topic = draft.topics.iter().find(|topic| sets(&topic.config, Scope::Broker));
        return topic.map(|topic| format!("the config of topic `{}`", topic.name));
    }
    let by_name = |workload: &&WorkloadDraft| match &workload.kind {
        Kind::Produce { acks: Some(_), .. } => axis.key == "acks",
        Kind::Produce { acks: None, .. } | Kind::Consume { .. } => false,
    };
    let workload = draft
        .workloads
        .iter()
        .filter(|workload| axis.scopes.contains(&workload.scope()))
        .find(|workload| sets(&workload.config, workload.scope()) || by_name(workload));
    workload.map(|workload| format!("the workload of `{}`", workload.name))
}

/// Every variant, in the order of the matrix: the first axis varies slowest.
pub(super) fn variants(
    draft: &Draft,
    axes: &[Axis],
    faults: &[Fault],
    expect: &[ExpectDraft],
    mistakes: &mut Mistakes,
) -> Vec<Variant> {
    let count = axes.iter().fold(1_usize, |count, axis| count.saturating_mul(axis.values.len()));
    if count > VARIANTS_MAX {
        let span = draft.axes.last().map_or(0..0, |axis| axis.name.span.clone());
        let message = format!("the matrix has {count} variants, more than {VARIANTS_MAX}");
        mistakes.add(&span, message).help("split the scenario");
        return Vec::new();
    }
    (0..count).map(|index| variant(draft, &point(draft, axes, index), faults, expect, mistakes)).collect()
}

fn point<'a>(draft: &'a Draft, axes: &'a [Axis], mut index: usize) -> Vec<Pin<'a>> {
    const ACKS: &[Scope] = &[Scope::Producer];
    let mut pins: Vec<Pin<'a>> = Vec::new();
    for axis in axes.iter().rev() {
        let at = index % axis.values.len();
        index /= axis.values.len();
        let declared = draft.axes.iter().find(|declared| declared.name.value == axis.name);
        pins.push(Pin {
            name: &axis.name,
            key: declared.map_or(&axis.name, |declared| &declared.key),
            value: &axis.values[at],
            span: declared.map(|declared| declared.values[at].span.clone()),
            scopes: declared.map_or(ACKS, |declared| &declared.scopes),
        });
    }
    pins.reverse();
    pins
}

fn variant(
    draft: &Draft,
    pins: &[Pin<'_>],
    faults: &[Fault],
    expect: &[ExpectDraft],
    mistakes: &mut Mistakes,
) -> Variant {
    let config = broker_config(draft, pins, mistakes);
    let topics = draft.topics.iter().map(|topic| self::topic(topic, draft, &config, pins, mistakes)).collect();
    let workloads: Vec<Workload> =
        draft.workloads.iter().map(|workload| self::workload(workload, pins, mistakes)).collect();
    check_client_racks(draft, &workloads, pins, mistakes);
    check_keys(draft, &config, mistakes);
    let point: Vec<(String, String)> = pins.iter().map(|pin| (pin.name.to_owned(), pin.value.to_owned())).collect();
    let expected: Vec<&ExpectDraft> = expect.iter().filter(|expect| expect.selector.matches(&point)).collect();
    let variant = Variant {
        point,
        cluster: cluster(draft, config, defects(draft, pins)),
        topics,
        workloads,
        faults: faults.to_vec(),
        expect: expected.iter().map(|expect| expect.expectation.clone()).collect(),
    };
    if let Some((first, last)) = contradiction(&expected) {
        let (one, other) = (&first.expectation, &last.expectation);
        mistakes
            .add(&last.span, format!("`{}` cannot meet every expectation in variant {}", other.metric, variant.label()))
            .help(format!("{} {} and {} {} are both expected", one.compare, one.value, other.compare, other.value));
    }
    variant
}

fn defects(draft: &Draft, pins: &[Pin<'_>]) -> Defects {
    match pins.iter().find(|pin| pin.name == DEFECTS_AXIS) {
        Some(pin) => expression::defects(pin.value).expect("checked when it was read"),
        None => draft.cluster.defects.unwrap_or_default(),
    }
}

fn cluster(draft: &Draft, config: BrokerConfig, defects: Defects) -> Cluster {
    let ClusterDraft { brokers, log_dirs: _, link, event_cost, racks, rack_aware, config: _, defects: _, span: _ } =
        &draft.cluster;
    Cluster {
        brokers: *brokers,
        log_dirs: draft.cluster.log_dirs(),
        defects,
        config,
        link: *link,
        links: draft.links.clone(),
        clocks: draft.clocks.clone(),
        event_cost: *event_cost,
        racks: racks.clone(),
        rack_aware: *rack_aware,
    }
}

/// A consumer in a rack that no broker is in would never be sent to a replica.
fn check_client_racks(draft: &Draft, workloads: &[Workload], pins: &[Pin<'_>], mistakes: &mut Mistakes) {
    const KEY: &str = "client.rack";
    let racks = &draft.cluster.racks;
    for (of, workload) in draft.workloads.iter().zip(workloads) {
        let Workload::Consume { config, .. } = workload else { continue };
        let rack = &config.client_rack;
        if rack.is_empty() || racks.contains(rack) {
            continue;
        }
        let span = origin(KEY, Scope::Consumer, &of.config, pins).unwrap_or_else(|| of.span.clone());
        let help = match config::nearest(rack, racks.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if racks.is_empty() => {
                "give each broker its rack in [cluster]: `racks = [\"a\", \"b\", \"c\"]`".to_owned()
            }
            None => format!("the racks are {}", racks.join(", ")),
        };
        mistakes.add(&span, format!("`{KEY}` is `{rack}`, but no broker is in that rack")).help(help);
    }
}

/// Refuses faults that the variant's cluster would not let happen.
pub(super) fn check_faults(variants: &[Variant], root: &Section<'_>, mistakes: &mut Mistakes) {
    let sections = root.tables("fault", mistakes);
    for variant in variants {
        for (fault, section) in variant.faults.iter().zip(&sections) {
            if let Action::Restart { config } = &fault.action {
                check_restart(variant, config, section, mistakes);
            } else if let Action::DeleteRecords { of, before: _ } = &fault.action {
                check_deletion(variant, of, section, mistakes);
            } else if let Action::CreatePartitions { topic, count } = &fault.action {
                check_growth(variant, topic, *count, section, mistakes);
            }
        }
    }
}

/// A configuration may contradict what else the brokers have.
fn check_restart(variant: &Variant, config: &BTreeMap<String, String>, section: &Section<'_>, mistakes: &mut Mistakes) {
    let mut merged = variant.cluster.config.clone();
    for (key, value) in config {
        merged.set(key, value).expect("checked when it was read");
    }
    if let Err(error) = merged.validate() {
        let span = section.span_of("config");
        note_config(&error, &span, &span, mistakes);
    }
}

/// A broker deletes no records of topics that are only compacted (`Partition.deleteRecordsOnLeader`).
fn check_deletion(variant: &Variant, of: &str, section: &Section<'_>, mistakes: &mut Mistakes) {
    let is_meant = |topic: &&Topic| {
        topic.name == of || TopicPartition::parse(of).is_some_and(|p| p.topic.0.as_str() == topic.name)
    };
    let Some(topic) = variant.topics.iter().find(is_meant) else { return };
    if !topic.effective_config(&variant.cluster.config).log.cleanup_policy.deletes() {
        let message = format!("topic `{}` is compacted, and its records are not deleted by offset", topic.name);
        let found = mistakes.add(&section.span_of("target"), message);
        found.help("a broker refuses it unless the topic's `cleanup.policy` includes `delete`");
    }
}

/// A controller takes no partitions away (`ReplicationControlManager.createPartitions`).
fn check_growth(variant: &Variant, name: &str, count: i32, section: &Section<'_>, mistakes: &mut Mistakes) {
    let topic = variant.topics.iter().find(|topic| topic.name == name);
    if let Some(topic) = topic.filter(|topic| topic.partitions >= count) {
        let message = format!("topic `{name}` has {} partitions already", topic.partitions);
        mistakes.add(&section.span_of("count"), message).help("`count` says how many there shall be in all");
    }
}

/// Sets what a checked setting says; a value that was refused before is already noted.
fn apply(settings: &[Setting], mut set: impl FnMut(&str, &str) -> Result<(), ConfigError>) {
    for setting in settings {
        set(&setting.key.value, &setting.value.value).expect("checked when it was read");
    }
}

fn apply_pins(pins: &[Pin<'_>], scope: Scope, mut set: impl FnMut(&str, &str) -> Result<(), ConfigError>) {
    for pin in pins.iter().filter(|pin| pin.scopes.contains(&scope)) {
        set(pin.key, pin.value).expect("checked when it was read");
    }
}

fn broker_config(draft: &Draft, pins: &[Pin<'_>], mistakes: &mut Mistakes) -> BrokerConfig {
    let mut config = BrokerConfig::default();
    apply(&draft.cluster.config, |key, value| config.set(key, value));
    apply_pins(pins, Scope::Broker, |key, value| config.set(key, value));
    if let Err(error) = config.validate() {
        note_conflict(&error, Scope::Broker, &draft.cluster.config, pins, &draft.cluster.span, mistakes);
    }
    config
}

/// Notes a conflict between keys at the first of them that the file sets.
fn note_conflict(
    error: &ConfigError,
    scope: Scope,
    settings: &[Setting],
    pins: &[Pin<'_>],
    otherwise: &Range<usize>,
    mistakes: &mut Mistakes,
) {
    let span = match error {
        ConfigError::Conflict { keys, .. } => keys.iter().find_map(|key| origin(key, scope, settings, pins)),
        ConfigError::Unknown { .. } | ConfigError::NotModelled { .. } | ConfigError::Invalid { .. } => None,
    };
    let span = span.unwrap_or_else(|| otherwise.clone());
    note_config(error, &span, &span, mistakes);
}

/// Where the value of `key` comes from: a setting or an axis.
fn origin(key: &str, scope: Scope, settings: &[Setting], pins: &[Pin<'_>]) -> Option<Range<usize>> {
    let set = settings.iter().find(|setting| same_key(&setting.key.value, key, Some(scope)));
    let pinned = || {
        let pin = pins.iter().find(|pin| pin.scopes.contains(&scope) && same_key(pin.key, key, Some(scope)))?;
        pin.span.clone()
    };
    set.map(|setting| setting.value.span.clone()).or_else(pinned)
}

fn topic(topic: &TopicDraft, draft: &Draft, broker: &BrokerConfig, pins: &[Pin<'_>], mistakes: &mut Mistakes) -> Topic {
    let mut config = TopicConfig::default();
    apply(&topic.config, |key, value| config.set(key, value));
    let min_insync_replicas = config.effective(broker).min_insync_replicas;
    if let Some(factor) = &topic.replication_factor {
        let own = origin("min.insync.replicas", Scope::Topic, &topic.config, &[]);
        let clusters = || origin("min.insync.replicas", Scope::Broker, &draft.cluster.config, pins);
        let span = own.or_else(clusters);
        check_min_insync_replicas(min_insync_replicas, topic, factor, span, mistakes);
    }
    let settings = topic.config.iter().map(|s| (s.key.value.clone(), s.value.value.clone()));
    Topic {
        name: topic.name.clone(),
        partitions: topic.partitions,
        replication_factor: topic.replication_factor.as_ref().map_or(1, |factor| factor.value),
        config: settings.collect::<BTreeMap<_, _>>(),
    }
}

/// A compacted topic refuses records without a key.
fn check_keys(draft: &Draft, broker: &BrokerConfig, mistakes: &mut Mistakes) {
    for workload in &draft.workloads {
        let is_without_keys = match &workload.kind {
            Kind::Produce { keys, .. } => keys.is_none(),
            Kind::Consume { .. } => false,
        };
        let topic = draft.topics.iter().find(|topic| topic.name == workload.topic.value);
        let Some(topic) = topic.filter(|_| is_without_keys) else { continue };
        let mut config = TopicConfig::default();
        apply(&topic.config, |key, value| config.set(key, value));
        if config.effective(broker).log.cleanup_policy.compacts() {
            let message = format!("topic `{}` is compacted and takes no records without a key", topic.name);
            mistakes.add(&workload.topic.span, message).help("give the workload `keys`, for example `keys = 10`");
        }
    }
}

fn check_min_insync_replicas(
    min_insync_replicas: i32,
    topic: &TopicDraft,
    factor: &Spanned<i16>,
    span: Option<Range<usize>>,
    mistakes: &mut Mistakes,
) {
    if min_insync_replicas <= i32::from(factor.value) {
        return;
    }
    let message = format!(
        "`min.insync.replicas` is {min_insync_replicas}, but topic `{}` has {} replica{}",
        topic.name,
        factor.value,
        if factor.value == 1 { "" } else { "s" }
    );
    mistakes
        .add(&span.unwrap_or_else(|| factor.span.clone()), message)
        .help("acks=all would be refused for ever: lower it, or raise the topic's `replication-factor`");
}

fn workload(draft: &WorkloadDraft, pins: &[Pin<'_>], mistakes: &mut Mistakes) -> Workload {
    let (name, topic) = (draft.name.clone(), draft.topic.value.clone());
    let start: Duration = draft.start.value;
    match &draft.kind {
        Kind::Produce {
            records,
            rate,
            value_bytes,
            keys,
            key_prefix,
            tombstones,
            timestamp_offset_ms,
            format,
            acks,
        } => {
            let config = producer_config(draft, acks.as_ref(), pins, mistakes);
            Workload::Produce {
                name,
                topic,
                records: *records,
                rate: *rate,
                value_bytes: *value_bytes,
                keys: *keys,
                key_prefix: key_prefix.clone(),
                tombstones: *tombstones,
                timestamp_offset_ms: *timestamp_offset_ms,
                format: *format,
                start,
                config,
            }
        }
        Kind::Consume { membership, is_static } => {
            let mut config = ConsumerConfig { client_id: name.clone(), ..ConsumerConfig::default() };
            apply_pins(pins, Scope::Consumer, |key, value| config.set(key, value));
            apply(&draft.config, |key, value| config.set(key, value));
            let set = |key: &str| is_set(key, draft, pins);
            settle_reconnect_backoff(set, config.reconnect_backoff, &mut config.reconnect_backoff_max);
            if let Some(membership) = membership {
                config.group_id = Some(membership.group.clone());
                config.group_instance_id = is_static.then(|| name.clone());
                // Who commits by hand has switched the other off, unless the file says otherwise.
                config.enable_auto_commit &= set("enable.auto.commit") || membership.commit == CommitStyle::Automatic;
            }
            if let Err(error) = config.validate(set) {
                note_conflict(&error, Scope::Consumer, &draft.config, pins, &draft.span, mistakes);
            }
            Workload::Consume { name, topic, start, config, membership: membership.clone() }
        }
    }
}

fn producer_config(
    draft: &WorkloadDraft,
    acks: Option<&Setting>,
    pins: &[Pin<'_>],
    mistakes: &mut Mistakes,
) -> ProducerConfig {
    let mut config = ProducerConfig { client_id: draft.name.clone(), ..ProducerConfig::default() };
    apply_pins(pins, Scope::Producer, |key, value| config.set(key, value));
    apply(&draft.config, |key, value| config.set(key, value));
    if let Some(acks) = acks {
        apply(std::slice::from_ref(acks), |key, value| config.set(key, value));
    }
    let set = |key: &str| is_set(key, draft, pins);
    settle_reconnect_backoff(set, config.reconnect_backoff, &mut config.reconnect_backoff_max);
    if let Err(error) = config.settle(set) {
        note_conflict(&error, Scope::Producer, &draft.config, pins, &draft.span, mistakes);
    }
    config
}

fn is_set(key: &str, draft: &WorkloadDraft, pins: &[Pin<'_>]) -> bool {
    let pinned = pins.iter().any(|pin| pin.key == key && pin.scopes.contains(&draft.scope()));
    pinned || draft.config.iter().any(|setting| setting.key.value == key)
}

/// Kafka's clients stop backing off exponentially when only the first wait is set
/// (`CommonClientConfigs.postProcessReconnectBackoffConfigs`).
fn settle_reconnect_backoff(is_set: impl Fn(&str) -> bool, first: Duration, max: &mut Duration) {
    if is_set("reconnect.backoff.ms") && !is_set("reconnect.backoff.max.ms") {
        *max = first;
    }
}
