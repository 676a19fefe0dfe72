//! A [`Scenario`] as the text of a scenario file, as a person would write it: what has its default is left out.
//!
//! `parse(render(s))` is `s` again, but for lines and file name. The fuzzer runs nothing that has not been through
//! both, so a generated scenario is a valid file by construction.

mod fault;
mod machines;
mod quantity;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::disk::name_of;
use super::draft::{KEY_PREFIX_DEFAULT, VALUE_BYTES_DEFAULT};
use super::model::{
    Axis, Cluster, CommitStyle, Comparison, Ending, Expectation, Membership, Pause, Poison, Scenario, Seek, Topic,
    ValueFormat, Variant, Workload,
};
use super::vocabulary::{COMMIT_STYLES, DEFECTS_AXIS, ENDINGS, POISON_REACTIONS, SEEKS, VALUE_FORMATS};
use crate::config::{BrokerConfig, ConsumerConfig, ProducerConfig, Scope, canonical_name};
use crate::defect::{Defect, Defects};

pub use quantity::written_duration;

/// Values of a configuration by key.
type Entries = BTreeMap<&'static str, String>;

/// The file's text. `explanation`: comment lines below the title, without `#`.
pub fn render(scenario: &Scenario, explanation: &[String]) -> String {
    let mut out = String::new();
    line(&mut out, format_args!("# {}", scenario.title));
    if !explanation.is_empty() {
        line(&mut out, format_args!("#"));
        for text in explanation {
            line(&mut out, format_args!("{}", format!("# {text}").trim_end()));
        }
    }
    top(&mut out, scenario);
    let first = scenario.variants.first().expect("a scenario has a variant");
    let defects_are_axis = scenario.matrix.iter().any(|axis| axis.name == DEFECTS_AXIS);
    let defects = if defects_are_axis { Defects::NONE } else { first.cluster.defects };
    cluster(&mut out, &first.cluster, defects, &broker_settings(scenario));
    for each in &first.topics {
        topic(&mut out, each);
    }
    matrix(&mut out, &scenario.matrix);
    for (index, each) in first.workloads.iter().enumerate() {
        workload(&mut out, each, &workload_settings(scenario, index));
    }
    for each in &first.faults {
        fault::fault(&mut out, each);
    }
    expect(&mut out, &scenario.variants);
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a String takes everything");
}

fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

/// A number or a truth value bare, a word in quotes.
fn scalar(value: &str) -> String {
    if value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok() { value.to_owned() } else { quoted(value) }
}

fn list<T: AsRef<str>>(texts: &[T]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}

fn pair(out: &mut String, key: &str, value: &str) {
    line(out, format_args!("{key} = {value}"));
}

fn time(out: &mut String, key: &str, value: Duration) {
    pair(out, key, &quoted(&written_duration(value)));
}

fn flag(out: &mut String, key: &str, value: bool) {
    if value {
        pair(out, key, "true");
    }
}

fn top(out: &mut String, scenario: &Scenario) {
    if scenario.seed == 1 && scenario.duration.is_none() {
        return;
    }
    out.push('\n');
    if scenario.seed != 1 {
        pair(out, "seed", &scenario.seed.to_string());
    }
    if let Some(duration) = scenario.duration {
        time(out, "duration", duration);
    }
}

fn cluster(out: &mut String, cluster: &Cluster, defects: Defects, settings: &Entries) {
    let Cluster { brokers, log_dirs, defects: _, config: _, link, links, clocks, event_cost, racks, rack_aware } =
        cluster;
    line(out, format_args!("\n[cluster]"));
    pair(out, "brokers", &brokers.to_string());
    if log_dirs.len() > 1 {
        pair(out, "log-dirs", &log_dirs.len().to_string());
    }
    machines::every_link(out, link);
    if !event_cost.is_zero() {
        time(out, "event-cost", *event_cost);
    }
    if !racks.is_empty() {
        pair(out, "racks", &list(racks));
        if !rack_aware {
            pair(out, "rack-aware", "false");
        }
    }
    let names: Vec<&str> = defects.iter().map(Defect::name).collect();
    if !names.is_empty() {
        pair(out, "defects", &list(&names));
    }
    if !settings.is_empty() {
        line(out, format_args!("\n[cluster.config]"));
        for (key, value) in settings {
            pair(out, &quoted(key), &scalar(value));
        }
    }
    for setting in links {
        machines::link(out, setting);
    }
    for setting in clocks {
        machines::clock(out, setting);
    }
}

fn topic(out: &mut String, topic: &Topic) {
    let Topic { name, partitions, replication_factor, config } = topic;
    line(out, format_args!("\n[[topic]]"));
    pair(out, "name", &quoted(name));
    if *partitions != 1 {
        pair(out, "partitions", &partitions.to_string());
    }
    pair(out, "replication-factor", &replication_factor.to_string());
    inline_config(out, config.iter().map(|(key, value)| (key.as_str(), value.as_str())));
}

fn inline_config<'a>(out: &mut String, settings: impl Iterator<Item = (&'a str, &'a str)>) {
    let pairs: Vec<String> = settings.map(|(key, value)| format!("{} = {}", quoted(key), scalar(value))).collect();
    if !pairs.is_empty() {
        pair(out, "config", &format!("{{ {} }}", pairs.join(", ")));
    }
}

fn matrix(out: &mut String, axes: &[Axis]) {
    if axes.is_empty() {
        return;
    }
    line(out, format_args!("\n[matrix]"));
    for Axis { name, values } in axes {
        pair(out, &quoted(name), &list(values));
    }
}

fn workload(out: &mut String, workload: &Workload, settings: &Entries) {
    line(out, format_args!("\n[[workload]]"));
    let start = match workload {
        Workload::Produce {
            name: _,
            topic,
            records,
            rate,
            value_bytes,
            keys,
            key_prefix,
            tombstones,
            timestamp_offset_ms,
            format,
            start,
            config: _,
        } => {
            pair(out, "kind", "\"produce\"");
            pair(out, "topic", &quoted(topic));
            pair(out, "records", &records.to_string());
            if let Some(rate) = rate {
                pair(out, "rate", &rate.to_string());
            }
            if *value_bytes != VALUE_BYTES_DEFAULT {
                pair(out, "value-bytes", &value_bytes.to_string());
            }
            if let Some(keys) = keys {
                pair(out, "keys", &keys.to_string());
            }
            if key_prefix != KEY_PREFIX_DEFAULT {
                pair(out, "key-prefix", &quoted(key_prefix));
            }
            if let Some(every) = tombstones {
                pair(out, "tombstones", &every.to_string());
            }
            if *timestamp_offset_ms != 0 {
                pair(out, "timestamp-offset", &quoted(&format!("{timestamp_offset_ms}ms")));
            }
            if *format != ValueFormat::default() {
                pair(out, "format", &quoted(name_of(VALUE_FORMATS, format)));
            }
            start
        }
        Workload::Consume { name: _, topic, start, config, membership } => {
            pair(out, "kind", "\"consume\"");
            pair(out, "topic", &quoted(topic));
            if let Some(membership) = membership {
                member(out, membership, config.group_instance_id.is_some());
            }
            start
        }
    };
    if !start.is_zero() {
        time(out, "start", *start);
    }
    if let Some(acks) = settings.get("acks") {
        pair(out, "acks", &quoted(acks));
    }
    let others = settings.iter().filter(|(key, _)| **key != "acks");
    inline_config(out, others.map(|(key, value)| (*key, value.as_str())));
}

fn member(out: &mut String, membership: &Membership, is_static: bool) {
    let Membership { group, commit, processing, ending, pause, seek, poison, window } = membership;
    pair(out, "group", &quoted(group));
    if is_static {
        pair(out, "static", "true");
    }
    if let Some((word, _)) =
        COMMIT_STYLES.iter().find(|(_, style)| style == commit && *commit != CommitStyle::Automatic)
    {
        pair(out, "commit", &quoted(word));
    }
    if !processing.is_zero() {
        time(out, "processing", *processing);
    }
    if let Some(Ending { kind, at, back_after }) = ending {
        let word = ENDINGS.iter().find(|(_, other)| other == kind).expect("every ending has a word").0;
        pair(out, "end", &quoted(word));
        time(out, "end-at", *at);
        if let Some(after) = back_after {
            time(out, "back-after", *after);
        }
    }
    if let Some(Pause { at, lasts }) = pause {
        time(out, "pause-at", *at);
        time(out, "pause-for", *lasts);
    }
    if let Some(Seek { at, to }) = seek {
        time(out, "seek-at", *at);
        pair(out, "seek-to", &quoted(name_of(SEEKS, to)));
    }
    if let Some(Poison { value, reaction }) = poison {
        pair(out, "poison", &value.to_string());
        pair(out, "on-poison", &quoted(name_of(POISON_REACTIONS, reaction)));
    }
    if let Some(records) = window {
        pair(out, "window", &records.to_string());
    }
}

/// What `[cluster.config]` sets.
fn broker_settings(scenario: &Scenario) -> Entries {
    let of = scenario.variants.iter().map(|variant| variant.cluster.config.entries()).collect();
    settings(Scope::Broker, &BrokerConfig::default().entries(), of, &scenario.matrix)
}

/// What workload number `index` sets; `acks` is told even where it is Kafka's default, because it would be an axis
/// otherwise.
fn workload_settings(scenario: &Scenario, index: usize) -> Entries {
    let workloads = || scenario.variants.iter().map(|variant| &variant.workloads[index]);
    let entries: Vec<Entries> = workloads()
        .map(|workload| match workload {
            Workload::Produce { config, .. } => config.entries(),
            Workload::Consume { config, .. } => config.entries(),
        })
        .collect();
    let (scope, defaults) = match workloads().next().expect("a scenario has a variant") {
        Workload::Produce { .. } => (Scope::Producer, ProducerConfig::default().entries()),
        Workload::Consume { .. } => (Scope::Consumer, ConsumerConfig::default().entries()),
    };
    let first = entries[0].clone();
    let mut set = settings(scope, &defaults, entries, &scenario.matrix);
    if scope == Scope::Producer && !scenario.matrix.iter().any(|axis| axis.name == "acks") {
        set.extend(first.get_key_value("acks").map(|(key, value)| (*key, value.clone())));
    }
    // Setting only the first wait would make it the longest too.
    if set.contains_key("reconnect.backoff.ms") {
        let max = "reconnect.backoff.max.ms";
        set.insert(max, first[max].clone());
    }
    set
}

/// The keys that every variant has at one value other than the default. What differs between variants follows from an
/// axis.
fn settings(scope: Scope, defaults: &Entries, of_variants: Vec<Entries>, axes: &[Axis]) -> Entries {
    let on_axes: BTreeSet<&str> = axes.iter().map(|axis| canonical_name(scope, &axis.name)).collect();
    let first = &of_variants[0];
    let is_set = |(key, value): &(&&'static str, &String)| {
        defaults.get(*key) != Some(*value)
            && !on_axes.contains(**key)
            && of_variants.iter().all(|other| other.get(*key) == Some(*value))
    };
    first.iter().filter(is_set).map(|(key, value)| (*key, value.clone())).collect()
}

/// `[expect]`: one line for all variants if they expect the same, one for each otherwise.
fn expect(out: &mut String, variants: &[Variant]) {
    if variants.iter().all(|variant| variant.expect.is_empty()) {
        return;
    }
    line(out, format_args!("\n[expect]"));
    if variants.iter().all(|variant| variant.expect == variants[0].expect) {
        expectations(out, "*", &variants[0].expect);
        return;
    }
    for variant in variants {
        expectations(out, &variant.label(), &variant.expect);
    }
}

/// A table names a metric once: a metric's second expectation begins a second table. Blanks around a selector mean
/// nothing and make its key another one.
fn expectations(out: &mut String, selector: &str, all: &[Expectation]) {
    let mut tables: Vec<Vec<&Expectation>> = Vec::new();
    for expectation in all {
        match tables.last_mut().filter(|table| table.iter().all(|other| other.metric != expectation.metric)) {
            Some(table) => table.push(expectation),
            None => tables.push(vec![expectation]),
        }
    }
    for (nth, table) in tables.iter().enumerate() {
        let metrics: Vec<String> = table
            .iter()
            .map(|Expectation { metric, compare, value }| match compare {
                Comparison::Eq => format!("{metric} = {value}"),
                Comparison::Ne | Comparison::Lt | Comparison::Le | Comparison::Gt | Comparison::Ge => {
                    format!("{metric} = {}", quoted(&format!("{compare} {value}")))
                }
            })
            .collect();
        let key = format!("{selector}{}", " ".repeat(nth));
        pair(out, &quoted(&key), &format!("{{ {} }}", metrics.join(", ")));
    }
}
