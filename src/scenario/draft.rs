//! A scenario as it stands in the file: read, each value checked by itself, places kept. `resolve` makes the
//! variants of it.

use std::ops::Range;
use std::time::Duration;

use super::diagnostics::Mistakes;
use super::expression;
use super::faults::disk::word;
use super::machines;
use super::model::{ClockSetting, CommitStyle, Ending, LinkSetting, Membership, Pause, Poison, Seek, ValueFormat};
use super::table::{Section, Spanned, Text, scalar, text_at, type_of};
use super::vocabulary::{
    CLUSTER_KEYS, COMMIT_STYLES, CONSUME_KEYS, DEFECTS_AXIS, ENDINGS, MEMBER_KEYS, POISON_REACTIONS, PRODUCE_KEYS,
    SEEKS, TOP_KEYS, TOPIC_KEYS, VALUE_FORMATS, WORKLOAD_KINDS,
};
use crate::config::{self, ConfigError, Scope};
use crate::defect::Defects;
use crate::world::sim::LinkModel;

/// More machines or partitions than anyone reads a trace of; a bound against a slip of the finger.
const BROKERS_MAX: i64 = 100;
pub(super) const PARTITIONS_MAX: i64 = 1_000;
const LOG_DIRS_MAX: i64 = 16;
/// A record's value carries its number, so that every value is unique.
const VALUE_BYTES_MIN: i64 = 16;
pub const KEY_PREFIX_DEFAULT: &str = "key-";
pub(super) const VALUE_BYTES_DEFAULT: usize = 100;

/// One configuration key with its value.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub key: Text,
    pub value: Spanned<String>,
}

#[derive(Debug)]
pub(super) struct ClusterDraft {
    pub brokers: u32,
    /// How many each broker has; [`ClusterDraft::log_dirs`] are their names.
    pub log_dirs: u32,
    pub link: LinkModel,
    pub event_cost: Duration,
    pub racks: Vec<String>,
    pub rack_aware: bool,
    pub config: Vec<Setting>,
    /// `None` if the file says nothing of them.
    pub defects: Option<Defects>,
    pub span: Range<usize>,
}

impl ClusterDraft {
    /// Their names.
    pub(super) fn log_dirs(&self) -> Vec<String> {
        match self.log_dirs {
            1 => vec!["data".to_owned()],
            several => (1..=several).map(|number| format!("data-{number}")).collect(),
        }
    }
}

#[derive(Debug)]
pub(super) struct TopicDraft {
    pub name: String,
    pub partitions: i32,
    pub replication_factor: Option<Spanned<i16>>,
    pub config: Vec<Setting>,
}

#[derive(Debug)]
pub(super) struct AxisDraft {
    /// As the file has it, perhaps with the scope in front: `producer.compression.type`.
    pub name: Text,
    /// The configuration key.
    pub key: String,
    pub values: Vec<Spanned<String>>,
    /// The configurations that it sets; none for the defects.
    pub scopes: Vec<Scope>,
}

impl AxisDraft {
    pub(super) fn is_of_defects(&self) -> bool {
        self.name.value == DEFECTS_AXIS
    }
}

#[derive(Debug)]
pub(super) enum Kind {
    Produce {
        records: u64,
        rate: Option<u64>,
        value_bytes: usize,
        keys: Option<u64>,
        key_prefix: String,
        tombstones: Option<u64>,
        timestamp_offset_ms: i64,
        format: ValueFormat,
        /// From `acks`, or from `config`.
        acks: Option<Setting>,
    },
    Consume {
        membership: Option<Membership>,
        /// `group.instance.id` is the client's name.
        is_static: bool,
    },
}

#[derive(Debug)]
pub(super) struct WorkloadDraft {
    pub name: String,
    pub topic: Text,
    pub start: Spanned<Duration>,
    pub config: Vec<Setting>,
    pub kind: Kind,
    pub span: Range<usize>,
}

impl WorkloadDraft {
    pub(super) fn scope(&self) -> Scope {
        match self.kind {
            Kind::Produce { .. } => Scope::Producer,
            Kind::Consume { .. } => Scope::Consumer,
        }
    }
}

/// Everything but faults and expectations.
#[derive(Debug)]
pub(super) struct Draft {
    pub title: String,
    pub seed: u64,
    pub duration: Option<Spanned<Duration>>,
    pub cluster: ClusterDraft,
    pub links: Vec<LinkSetting>,
    pub clocks: Vec<ClockSetting>,
    pub topics: Vec<TopicDraft>,
    /// Whether every `[[topic]]` could be read: if not, a name that is missing says nothing.
    pub topics_are_complete: bool,
    pub axes: Vec<AxisDraft>,
    /// Whether every axis and all of its values could be read.
    pub axes_are_complete: bool,
    pub workloads: Vec<WorkloadDraft>,
    /// Whether every `[[workload]]` could be read.
    pub workloads_are_complete: bool,
}

/// Reads all but `[[fault]]` and `[expect]`.
pub(super) fn read(root: &Section<'_>, mistakes: &mut Mistakes) -> Draft {
    root.allow(TOP_KEYS, mistakes);
    let title = title(root.file(), mistakes);
    let seed = root.integer("seed", 0..=i64::MAX, mistakes).map_or(1, |seed| seed.value as u64);
    let duration = root.positive_duration("duration", mistakes);
    let cluster = cluster(root, mistakes);
    let before = mistakes.len();
    let axes = axes(root, mistakes);
    let axes_are_complete = mistakes.len() == before;
    let mut draft = Draft {
        title,
        seed,
        duration,
        cluster,
        links: Vec::new(),
        clocks: Vec::new(),
        topics: Vec::new(),
        topics_are_complete: true,
        axes,
        axes_are_complete,
        workloads: Vec::new(),
        workloads_are_complete: true,
    };
    topics(root, &mut draft, mistakes);
    workloads(root, &mut draft, mistakes);
    machines::read(root, &mut draft, mistakes);
    draft
}

/// The claim: the file's first line, as a comment. A line for editors (`#:schema …`) may come before it.
fn title(file: &str, mistakes: &mut Mistakes) -> String {
    let mut rest = file.trim_start();
    while rest.starts_with("#:") {
        rest = rest.split_once('\n').map_or("", |(_, after)| after).trim_start();
    }
    let start = file.len() - rest.len();
    let line = rest.lines().next().unwrap_or("");
    match line.strip_prefix('#').map(str::trim) {
        Some(title) if !title.is_empty() => title.to_owned(),
        Some(_) | None => {
            mistakes
                .add(
                    &(start..start + line.len()),
                    "the claim is missing: a scenario begins with a comment that states it",
                )
                .help("for example `# An isolated leader stops acknowledging acks=all.`");
            String::new()
        }
    }
}

fn cluster(root: &Section<'_>, mistakes: &mut Mistakes) -> ClusterDraft {
    let mut draft = ClusterDraft {
        brokers: 3,
        log_dirs: 1,
        link: LinkModel::default(),
        event_cost: Duration::ZERO,
        racks: Vec::new(),
        rack_aware: true,
        config: Vec::new(),
        defects: None,
        span: 0..0,
    };
    let Some(section) = root.table("cluster", "[cluster]", mistakes) else { return draft };
    section.allow(CLUSTER_KEYS, mistakes);
    draft.span = section.span.clone();
    if let Some(brokers) = section.integer("brokers", 1..=BROKERS_MAX, mistakes) {
        draft.brokers = brokers.value as u32;
    }
    if let Some(log_dirs) = section.integer("log-dirs", 1..=LOG_DIRS_MAX, mistakes) {
        draft.log_dirs = log_dirs.value as u32;
    }
    draft.link = machines::link_keys(&section, mistakes).model();
    draft.event_cost = section.duration("event-cost", mistakes).map_or(Duration::ZERO, |cost| cost.value);
    draft.racks = machines::racks(&section, draft.brokers, mistakes);
    if let Some(rack_aware) = section.boolean("rack-aware", mistakes) {
        draft.rack_aware = rack_aware.value;
        if !section.has("racks") {
            mistakes.add(&section.span_of("rack-aware"), "`rack-aware` goes with `racks`");
        }
    }
    draft.config = settings(&section, "[cluster.config]", Scope::Broker, mistakes);
    draft.defects = defects(&section, mistakes);
    draft
}

fn defects(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Defects> {
    let named = section.array("defects", "a list of defects", mistakes)?;
    let texts: Vec<_> =
        named.into_iter().filter_map(|value| element_text(value, "a defect", section.file(), mistakes)).collect();
    let read = texts.iter().filter_map(|text| text.read(expression::defects, mistakes));
    Some(read.flat_map(|defects| defects.value.iter().collect::<Vec<_>>()).collect())
}

fn topics(root: &Section<'_>, draft: &mut Draft, mistakes: &mut Mistakes) {
    let sections = root.tables("topic", mistakes);
    for section in &sections {
        section.allow(TOPIC_KEYS, mistakes);
        let replication_factor = replication_factor(section, draft.cluster.brokers, mistakes);
        let partitions = section.integer("partitions", 1..=PARTITIONS_MAX, mistakes).map_or(1, |n| n.value as i32);
        let config = settings(section, "the topic's config", Scope::Topic, mistakes);
        let Some(name) = section.text("name", mistakes) else {
            if !section.has("name") {
                section.missing("name", "name = \"orders\"", mistakes);
            }
            draft.topics_are_complete = false;
            continue;
        };
        check_topic_name(&name, mistakes);
        if draft.topics.iter().any(|topic| topic.name == name.value) {
            mistakes.add(&name.span, format!("topic `{}` is declared twice", name.value));
            continue;
        }
        draft.topics.push(TopicDraft { name: name.value, partitions, replication_factor, config });
    }
    if sections.is_empty() {
        draft.topics_are_complete = false;
        if !root.has("topic") {
            mistakes
                .add(&root.span, "the scenario has no topic")
                .help("add a [[topic]] with a name and a replication-factor");
        }
    }
}

fn replication_factor(section: &Section<'_>, brokers: u32, mistakes: &mut Mistakes) -> Option<Spanned<i16>> {
    if !section.has("replication-factor") {
        section.missing("replication-factor", "replication-factor = 3", mistakes);
        return None;
    }
    let factor = section.integer("replication-factor", 1..=i64::from(i16::MAX), mistakes)?;
    if factor.value > i64::from(brokers) {
        let have = if brokers == 1 { "1 broker".to_owned() } else { format!("{brokers} brokers") };
        mistakes
            .add(&factor.span, format!("a replication factor of {} needs {} brokers", factor.value, factor.value))
            .label(format!("the cluster has {have}"))
            .help("lower it, or raise `brokers` in [cluster]");
        return None;
    }
    Some(Spanned { value: factor.value as i16, span: factor.span })
}

/// Kafka's `Topic.validate`.
fn check_topic_name(name: &Text, mistakes: &mut Mistakes) {
    const LENGTH_MAX: usize = 249;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let value = name.value.as_str();
    if value.is_empty() || value == "." || value == ".." || value.len() > LENGTH_MAX || !value.chars().all(legal) {
        mistakes
            .add(&name.span, format!("`{value}` is not a legal topic name"))
            .help(format!("1 to {LENGTH_MAX} ASCII letters, digits, `.`, `_` and `-`, and not `.` or `..`"));
    }
}

fn workloads(root: &Section<'_>, draft: &mut Draft, mistakes: &mut Mistakes) {
    let (mut producers, mut consumers) = (0, 0);
    let sections = root.tables("workload", mistakes);
    for section in &sections {
        let Some(kind) = section.text("kind", mistakes) else {
            if !section.has("kind") {
                section.missing("kind", "kind = \"produce\"", mistakes);
            }
            draft.workloads_are_complete = false;
            continue;
        };
        let (name, known) = match kind.value.as_str() {
            "produce" => {
                producers += 1;
                (format!("producer-{producers}"), PRODUCE_KEYS)
            }
            "consume" => {
                consumers += 1;
                (format!("consumer-{consumers}"), CONSUME_KEYS)
            }
            other => {
                mistakes
                    .add(&kind.span, format!("unknown kind of workload `{other}`"))
                    .suggest(other, WORKLOAD_KINDS.iter().copied());
                draft.workloads_are_complete = false;
                continue;
            }
        };
        section.allow(known, mistakes);
        match workload(section, name, draft, mistakes) {
            Some(workload) => draft.workloads.push(workload),
            None => draft.workloads_are_complete = false,
        }
    }
    if sections.is_empty() && !root.has("workload") {
        mistakes
            .add(&root.span, "the scenario has no workload: nothing would be sent")
            .help("add a [[workload]] with kind = \"produce\"");
    }
}

fn workload(section: &Section<'_>, name: String, draft: &Draft, mistakes: &mut Mistakes) -> Option<WorkloadDraft> {
    let is_producer = name.starts_with("producer");
    let scope = if is_producer { Scope::Producer } else { Scope::Consumer };
    let start = section.duration("start", mistakes).unwrap_or(Spanned { value: Duration::ZERO, span: 0..0 });
    if let Some(end) = draft.duration.as_ref().filter(|end| start.value >= end.value && !start.span.is_empty()) {
        mistakes.add(&start.span, format!("this workload starts after the scenario's end ({:?})", end.value));
    }
    let config = settings(section, "the workload's config", scope, mistakes);
    let kind = if is_producer { produce(section, &config, mistakes) } else { consume(section, start.value, mistakes) };
    if !section.has("topic") {
        section.missing("topic", "topic = \"orders\"", mistakes);
    }
    let topic = section.text("topic", mistakes)?;
    if draft.topics_are_complete && !draft.topics.iter().any(|known| known.name == topic.value) {
        mistakes
            .add(&topic.span, format!("unknown topic `{}`", topic.value))
            .suggest(&topic.value, draft.topics.iter().map(|known| known.name.as_str()));
        return None;
    }
    Some(WorkloadDraft { name, topic, start, config, kind: kind?, span: section.span.clone() })
}

fn produce(section: &Section<'_>, config: &[Setting], mistakes: &mut Mistakes) -> Option<Kind> {
    let rate = section.integer("rate", 1..=1_000_000, mistakes).map(|rate| rate.value as u64);
    let value_bytes = section
        .integer("value-bytes", VALUE_BYTES_MIN..=i64::from(i32::MAX), mistakes)
        .map_or(VALUE_BYTES_DEFAULT, |bytes| bytes.value as usize);
    let keys = section.integer("keys", 1..=i64::MAX, mistakes).map(|keys| keys.value as u64);
    let key_prefix =
        section.text("key-prefix", mistakes).map_or_else(|| KEY_PREFIX_DEFAULT.to_owned(), |text| text.value);
    let tombstones = section.integer("tombstones", 2..=i64::MAX, mistakes).map(|every| every.value as u64);
    if !section.has("keys") {
        let of_keys = |key: &&Text| ["key-prefix", "tombstones"].contains(&key.value.as_str());
        if let Some(key) = section.entries().into_iter().map(|entry| entry.key).find(|key| of_keys(&key)) {
            mistakes
                .add(&key.span, format!("`{}` needs `keys`: the records have none", key.value))
                .help("for example `keys = 10`");
        }
    }
    let timestamp_offset_ms = section.shift_ms("timestamp-offset", mistakes).map_or(0, |offset| offset.value);
    let format = word(section, "format", VALUE_FORMATS, mistakes)?.unwrap_or_default();
    let acks = acks(section, config, mistakes);
    if !section.has("records") {
        section.missing("records", "records = 500", mistakes);
    }
    let records = section.integer("records", 1..=i64::MAX, mistakes)?.value as u64;
    Some(Kind::Produce { records, rate, value_bytes, keys, key_prefix, tombstones, timestamp_offset_ms, format, acks })
}

fn consume(section: &Section<'_>, start: Duration, mistakes: &mut Mistakes) -> Option<Kind> {
    let Some(group) = section.text("group", mistakes) else {
        let of_member = |key: &Text| MEMBER_KEYS.contains(&key.value.as_str());
        if let Some(key) = section.entries().into_iter().map(|entry| entry.key).find(of_member) {
            mistakes
                .add(&key.span, format!("`{}` needs `group`: the consumer is in none", key.value))
                .help("for example `group = \"billing\"`");
        }
        return (!section.has("group")).then_some(Kind::Consume { membership: None, is_static: false });
    };
    let commit = word(section, "commit", COMMIT_STYLES, mistakes)?.unwrap_or(CommitStyle::Automatic);
    let processing = section.duration("processing", mistakes).map_or(Duration::ZERO, |time| time.value);
    let ending = ending(section, start, mistakes)?;
    let is_static = section.boolean("static", mistakes).is_some_and(|is_static| is_static.value);
    let membership = Membership {
        group: group.value,
        commit,
        processing,
        ending,
        pause: pause(section, mistakes)?,
        seek: seek(section, mistakes)?,
        poison: poison(section, mistakes)?,
        window: section.integer("window", 1..=1_000_000, mistakes).map(|records| records.value as usize),
    };
    Some(Kind::Consume { membership: Some(membership), is_static })
}

/// `end`, `end-at`, `back-after`; none of them is no ending.
fn ending(section: &Section<'_>, start: Duration, mistakes: &mut Mistakes) -> Option<Option<Ending>> {
    let kind = word(section, "end", ENDINGS, mistakes)?;
    let at = section.duration("end-at", mistakes);
    let back_after = section.duration("back-after", mistakes).map(|after| after.value);
    let Some(kind) = kind else {
        if let Some(key) = ["end-at", "back-after"].into_iter().find(|key| section.has(key)) {
            mistakes
                .add(&section.span_of(key), format!("`{key}` needs `end`: the member does not end"))
                .help("for example `end = \"stop\"`");
        }
        return Some(None);
    };
    let Some(at) = at else {
        if !section.has("end-at") {
            section.missing("end-at", "end-at = \"10s\"", mistakes);
        }
        return None;
    };
    if at.value <= start {
        mistakes.add(&at.span, format!("this member would end before it starts ({start:?})"));
    }
    Some(Some(Ending { kind, at: at.value, back_after }))
}

/// Two keys that go together, as one value; none of them is none.
fn together(section: &Section<'_>, one: (&str, &str), other: (&str, &str), mistakes: &mut Mistakes) -> Option<bool> {
    for ((key, _), (missing, example)) in [(one, other), (other, one)] {
        if section.has(key) && !section.has(missing) {
            section.missing(missing, example, mistakes);
            return None;
        }
    }
    Some(section.has(one.0))
}

fn pause(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Option<Pause>> {
    let keys = (("pause-at", "pause-at = \"10s\""), ("pause-for", "pause-for = \"5s\""));
    if !together(section, keys.0, keys.1, mistakes)? {
        return Some(None);
    }
    let (at, lasts) = (section.duration("pause-at", mistakes), section.positive_duration("pause-for", mistakes));
    Some(Some(Pause { at: at?.value, lasts: lasts?.value }))
}

fn seek(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Option<Seek>> {
    let keys = (("seek-at", "seek-at = \"10s\""), ("seek-to", "seek-to = \"beginning\""));
    if !together(section, keys.0, keys.1, mistakes)? {
        return Some(None);
    }
    let (at, to) = (section.duration("seek-at", mistakes), word(section, "seek-to", SEEKS, mistakes));
    Some(Some(Seek { at: at?.value, to: to?? }))
}

fn poison(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Option<Poison>> {
    let keys = (("poison", "poison = 100"), ("on-poison", "on-poison = \"crash\""));
    if !together(section, keys.0, keys.1, mistakes)? {
        return Some(None);
    }
    let value = section.integer("poison", 0..=i64::MAX, mistakes);
    let reaction = word(section, "on-poison", POISON_REACTIONS, mistakes);
    Some(Some(Poison { value: value?.value as u64, reaction: reaction?? }))
}

fn acks(section: &Section<'_>, config: &[Setting], mistakes: &mut Mistakes) -> Option<Setting> {
    let in_config = config.iter().find(|setting| setting.key.value == "acks").cloned();
    let direct = section.entries().into_iter().find(|entry| entry.key.value == "acks");
    let Some(entry) = direct else { return in_config };
    let setting = setting(entry.key, entry.item.as_value(), Scope::Producer, mistakes)?;
    if in_config.is_some() {
        mistakes.add(&setting.key.span, "`acks` is set twice: here and in `config`");
    }
    Some(setting)
}

/// The `config` of a section: every key known and modelled, every value legal, none set twice.
pub(super) fn settings(section: &Section<'_>, what: &str, scope: Scope, mistakes: &mut Mistakes) -> Vec<Setting> {
    let Some(table) = section.table("config", what, mistakes) else { return Vec::new() };
    let mut settings: Vec<Setting> = Vec::new();
    for entry in table.entries() {
        let Some(new) = setting(entry.key, entry.item.as_value(), scope, mistakes) else { continue };
        let name = config::canonical_name(scope, &new.key.value);
        match settings.iter().find(|old| config::canonical_name(scope, &old.key.value) == name) {
            Some(old) => {
                mistakes.add(
                    &new.key.span,
                    format!("`{}` and `{}` are two names of one configuration", old.key.value, new.key.value),
                );
            }
            None => settings.push(new),
        }
    }
    settings
}

fn setting(key: Text, value: Option<&toml_edit::Value>, scope: Scope, mistakes: &mut Mistakes) -> Option<Setting> {
    let Some(value) = value else {
        mistakes.add(&key.span, format!("`{}` must be a value, not a table", key.value));
        return None;
    };
    let span = value.span().unwrap_or_else(|| key.span.clone());
    let Some(text) = scalar(value) else {
        let message = format!("`{}` must be a string, a number or a boolean, not {}", key.value, type_of(value));
        mistakes.add(&span, message);
        return None;
    };
    if let Err(error) = config::check(scope, &key.value, &text) {
        note_config(&error, &key.span, &span, mistakes);
        return None;
    }
    Some(Setting { key, value: Spanned { value: text, span } })
}

/// Notes why a configuration was refused: at its value if that is wrong, at its key otherwise.
pub(super) fn note_config(error: &ConfigError, key: &Range<usize>, value: &Range<usize>, mistakes: &mut Mistakes) {
    let span = match error {
        ConfigError::Invalid { .. } => value,
        ConfigError::Unknown { .. } | ConfigError::NotModelled { .. } | ConfigError::Conflict { .. } => key,
    };
    let found = mistakes.add(span, error.to_string());
    if let Some(help) = error.help() {
        found.help(help);
    }
}

fn axes(root: &Section<'_>, mistakes: &mut Mistakes) -> Vec<AxisDraft> {
    let Some(matrix) = root.table("matrix", "[matrix]", mistakes) else { return Vec::new() };
    let mut axes: Vec<AxisDraft> = Vec::new();
    for entry in matrix.entries() {
        let is_of_defects = entry.key.value == DEFECTS_AXIS;
        let (key, scopes) =
            if is_of_defects { (entry.key.value.clone(), Vec::new()) } else { axis_key(&entry.key, mistakes) };
        let Some(array) = entry.item.as_array() else {
            let message = format!("axis `{}` must be an array of values", entry.key.value);
            mistakes.add(&entry.value_span(), message).help(format!("for example `\"{}\" = [1, 2]`", entry.key.value));
            continue;
        };
        if array.is_empty() {
            mistakes.add(&entry.value_span(), format!("axis `{}` has no values", entry.key.value));
            continue;
        }
        let values = array.iter().filter_map(|value| {
            if is_of_defects {
                defects_value(value, root.file(), mistakes)
            } else {
                axis_value(&entry.key, &key, value, &scopes, mistakes)
            }
        });
        let mut unique: Vec<Spanned<String>> = Vec::new();
        let values: Vec<_> = values.collect();
        for value in values {
            if unique.iter().any(|known| known.value == value.value) {
                let message = format!("axis `{}` has the value {} twice", entry.key.value, value.value);
                mistakes.add(&value.span, message);
            } else {
                unique.push(value);
            }
        }
        let duplicate =
            axes.iter().find(|axis| axis.scopes == scopes && same_key(&axis.key, &key, scopes.first().copied()));
        if let Some(other) = duplicate {
            let message =
                format!("`{}` and `{}` are two names of one configuration", other.name.value, entry.key.value);
            mistakes.add(&entry.key.span, message);
            continue;
        }
        if !unique.is_empty() && (is_of_defects || !scopes.is_empty()) {
            axes.push(AxisDraft { name: entry.key, key, values: unique, scopes });
        }
    }
    axes
}

/// Whether two names mean one key of `scope`.
pub(super) fn same_key(one: &str, other: &str, scope: Option<Scope>) -> bool {
    let name = |key| scope.map_or(key, |scope| config::canonical_name(scope, key));
    name(one) == name(other)
}

/// The configuration key of an axis, and the configurations that it sets.
fn axis_key(name: &Text, mistakes: &mut Mistakes) -> (String, Vec<Scope>) {
    for scope in [Scope::Broker, Scope::Producer, Scope::Consumer] {
        let key = name.value.strip_prefix(&format!("{scope}."));
        if let Some(key) = key.filter(|key| config::scopes_of(key).contains(&scope)) {
            return (key.to_owned(), vec![scope]);
        }
    }
    (name.value.clone(), axis_scopes(name, mistakes))
}

/// The configurations that an axis sets. The cluster's stands for its topics' too; a key that both servers and
/// clients have would be ambiguous.
fn axis_scopes(key: &Text, mistakes: &mut Mistakes) -> Vec<Scope> {
    let scopes = config::scopes_of(&key.value);
    let servers = scopes.contains(&Scope::Broker) || scopes.contains(&Scope::Topic);
    let clients: Vec<Scope> =
        scopes.iter().copied().filter(|s| matches!(s, Scope::Producer | Scope::Consumer)).collect();
    if servers && !clients.is_empty() {
        mistakes
            .add(&key.span, format!("`{}` cannot be an axis: brokers and clients both have it", key.value))
            .help(format!("say whose: `broker.{}` or `{}.{}`", key.value, clients[0], key.value));
        return Vec::new();
    }
    if servers {
        return vec![Scope::Broker];
    }
    if clients.is_empty() {
        note_unknown_axis(key, mistakes);
    }
    clients
}

fn note_unknown_axis(key: &Text, mistakes: &mut Mistakes) {
    let owner = Scope::ALL.into_iter().find_map(|scope| match config::unknown_key(scope, &key.value) {
        error @ ConfigError::NotModelled { .. } => Some(error),
        ConfigError::Unknown { .. } | ConfigError::Invalid { .. } | ConfigError::Conflict { .. } => None,
    });
    match owner {
        Some(error) => note_config(&error, &key.span, &key.span, mistakes),
        None => {
            let modelled: Vec<_> = Scope::ALL.into_iter().flat_map(config::modelled).collect();
            let found = mistakes.add(&key.span, format!("unknown axis `{}`", key.value));
            match config::nearest(&key.value, modelled.iter().flat_map(|k| [Some(k.name), k.alias]).flatten()) {
                Some(near) => found.help(format!("did you mean `{near}`?")),
                None => found.help("an axis is `acks` or another configuration key of Kafka"),
            };
        }
    }
}

fn axis_value(
    name: &Text,
    key: &str,
    value: &toml_edit::Value,
    scopes: &[Scope],
    mistakes: &mut Mistakes,
) -> Option<Spanned<String>> {
    let span = value.span().unwrap_or_else(|| name.span.clone());
    let Some(text) = scalar(value) else {
        let message = format!("`{}` cannot be {}", name.value, type_of(value));
        mistakes.add(&span, message).help("a value is a string, a number or a boolean");
        return None;
    };
    for scope in scopes {
        if let Err(error) = config::check(*scope, key, &text) {
            note_config(&error, &name.span, &span, mistakes);
            return None;
        }
    }
    Some(Spanned { value: normal(key, &text), span })
}

/// `none`, a defect, or several joined by `+`.
fn defects_value(value: &toml_edit::Value, file: &str, mistakes: &mut Mistakes) -> Option<Spanned<String>> {
    let text = element_text(value, "a defect", file, mistakes)?;
    let defects = text.read(expression::defects, mistakes)?;
    Some(Spanned { value: defects.value.to_string(), span: defects.span })
}

/// One spelling for values that Kafka reads alike.
pub(super) fn normal(key: &str, value: &str) -> String {
    match (key, value.trim()) {
        ("acks", "-1") => "all".to_owned(),
        (DEFECTS_AXIS, names) => match expression::defects(names) {
            Ok(defects) => defects.to_string(),
            Err(_) => names.to_owned(),
        },
        (_, other) => other.to_owned(),
    }
}

/// The string at `value`, for elements of arrays.
pub(super) fn element_text(value: &toml_edit::Value, what: &str, file: &str, mistakes: &mut Mistakes) -> Option<Text> {
    let span = value.span()?;
    match value.as_str() {
        Some(text) => Some(text_at(text, span, file)),
        None => {
            mistakes.add(&span, format!("{what} must be a string, not {}", type_of(value)));
            None
        }
    }
}
