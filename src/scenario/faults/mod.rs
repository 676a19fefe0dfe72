//! The fault schedule: reads `[[fault]]` and refuses faults that are aimed at nothing or could never start. What
//! belongs to one kind of fault is in a file of its kind.

mod machine;
mod network;

pub(super) use network::{loss, requests};

pub(super) mod disk;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::diagnostics::{Found, Mistakes, line_and_column};
use super::draft::{Draft, Kind, PARTITIONS_MAX, element_text};
use super::expression;
use super::model::{Action, Comparison, Condition, Counter, Cycle, Fault, Subject, Target, When};
use super::quantity;
use super::table::{Section, Spanned, Text, type_of};
use super::vocabulary::{ACTIONS, FAULT_KEYS, START_KEYS, keys_of};
use crate::protocol::TopicPartition;

/// Reads the schedule of a scenario whose cluster, topics and workloads are `draft`'s.
pub(super) fn read(root: &Section<'_>, draft: &Draft, mistakes: &mut Mistakes) -> Vec<Fault> {
    let sections = root.tables("fault", mistakes);
    let names = Names::new(draft, sections.len());
    let read: Vec<Option<Fault>> =
        sections.iter().enumerate().map(|(i, section)| fault(section, i + 1, &names, mistakes)).collect();
    let spans: Vec<Range<usize>> = sections.iter().map(|section| section.span.clone()).collect();
    if read.iter().all(Option::is_some) {
        let faults: Vec<Fault> = read.into_iter().flatten().collect();
        check_references(&faults, &spans, mistakes);
        return faults;
    }
    Vec::new()
}

/// What a target or a condition may refer to.
pub(super) struct Names<'a> {
    draft: &'a Draft,
    faults: usize,
}

/// Why a reference is wrong, and what to do about it.
pub(super) type Dangling = (String, Option<String>);

impl<'a> Names<'a> {
    pub(super) fn new(draft: &'a Draft, faults: usize) -> Names<'a> {
        Names { draft, faults }
    }

    fn replicas(&self, topic: &str) -> Option<usize> {
        let topic = self.draft.topics.iter().find(|known| known.name == topic)?;
        topic.replication_factor.as_ref().map(|factor| factor.value as usize)
    }

    fn partition(&self, text: &str) -> Result<(), Dangling> {
        if !self.draft.topics_are_complete {
            return Ok(());
        }
        let topics = || self.draft.topics.iter().map(|topic| topic.name.as_str());
        if topics().any(|topic| topic == text) && !self.is_partition(text) {
            return Err((
                format!("`{text}` is a topic, here a partition is needed"),
                Some(format!("write `{text}-0`")),
            ));
        }
        let Some(partition) = TopicPartition::parse(text) else {
            let help = "a partition is written topic-number, for example `orders-0`".to_owned();
            return Err((format!("`{text}` is not a partition"), Some(help)));
        };
        let topic = partition.topic.0.as_str();
        match self.draft.topics.iter().find(|known| known.name == topic) {
            Some(known) if partition.partition < known.partitions => Ok(()),
            Some(known) => {
                let last = known.partitions - 1;
                let help = if last == 0 {
                    format!("it has one: `{topic}-0`")
                } else {
                    format!("its last is `{topic}-{last}`")
                };
                Err((format!("topic `{topic}` has no partition {}", partition.partition), Some(help)))
            }
            None => {
                let near = crate::config::nearest(topic, topics());
                let help = near.map(|near| format!("did you mean `{near}-{}`?", partition.partition));
                Err((format!("unknown topic `{topic}`"), help))
            }
        }
    }

    fn is_partition(&self, text: &str) -> bool {
        TopicPartition::parse(text).is_some_and(|partition| {
            let topic = partition.topic.0.as_str();
            self.draft.topics.iter().any(|known| known.name == topic && partition.partition < known.partitions)
        })
    }

    /// A topic or one of its partitions.
    fn topic_or_partition(&self, text: &str) -> Result<(), Dangling> {
        if !self.draft.topics_are_complete {
            return Ok(());
        }
        let topics = || self.draft.topics.iter().map(|topic| topic.name.as_str());
        if topics().any(|topic| topic == text) {
            return Ok(());
        }
        match TopicPartition::parse(text) {
            Some(_) => self.partition(text),
            None => {
                let help = crate::config::nearest(text, topics()).map(|near| format!("did you mean `{near}`?"));
                Err((format!("unknown topic `{text}`"), help))
            }
        }
    }

    fn broker(&self, id: u32) -> Result<(), Dangling> {
        let brokers = self.draft.cluster.brokers;
        if (1..=brokers).contains(&id) {
            return Ok(());
        }
        Err((format!("there is no broker {id}"), Some(format!("the cluster's brokers are 1 to {brokers}"))))
    }

    fn fault(&self, index: usize, own: usize) -> Result<(), Dangling> {
        if index == own {
            return Err(("a fault cannot refer to itself".to_owned(), None));
        }
        if (1..=self.faults).contains(&index) {
            return Ok(());
        }
        let help = format!("faults are numbered from 1 in the order of the file, the last is {}", self.faults);
        Err((format!("there is no fault {index}"), Some(help)))
    }

    fn client(&self, name: &str) -> Result<(), Dangling> {
        let clients: Vec<&str> = self.draft.workloads.iter().map(|workload| workload.name.as_str()).collect();
        if clients.contains(&name) || !self.draft.workloads_are_complete {
            return Ok(());
        }
        let help = (!clients.is_empty()).then(|| format!("clients are named by their order: {}", clients.join(", ")));
        Err((format!("there is no client `{name}`"), help))
    }

    fn group(&self, name: &str) -> Result<(), Dangling> {
        let groups = self.draft.workloads.iter().filter_map(|workload| match &workload.kind {
            Kind::Consume { membership, .. } => membership.as_ref().map(|membership| membership.group.as_str()),
            Kind::Produce { .. } => None,
        });
        let groups: BTreeSet<&str> = groups.collect();
        if groups.contains(name) || !self.draft.workloads_are_complete {
            return Ok(());
        }
        let help = if groups.is_empty() {
            "give consumers a `group`".to_owned()
        } else {
            format!("the groups are {}", groups.into_iter().collect::<Vec<_>>().join(", "))
        };
        Err((format!("there is no group `{name}`"), Some(help)))
    }

    fn rack(&self, name: &str) -> Result<(), Dangling> {
        let racks = &self.draft.cluster.racks;
        if racks.iter().any(|rack| rack == name) {
            return Ok(());
        }
        let help = match crate::config::nearest(name, racks.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `rack({near})`?"),
            None if racks.is_empty() => {
                "give each broker its rack in [cluster]: `racks = [\"a\", \"b\", \"c\"]`".to_owned()
            }
            None => format!("the racks are {}", racks.join(", ")),
        };
        Err((format!("there is no rack `{name}`"), Some(help)))
    }

    pub(super) fn target(&self, target: &Target, own: usize) -> Result<(), Dangling> {
        match target {
            Target::Broker(id) => self.broker(*id),
            Target::Brokers | Target::Controller | Target::Machines => Ok(()),
            Target::Rack(name) => self.rack(name),
            Target::Leader(partition) | Target::Isr(partition) => self.partition(partition),
            Target::Follower(partition, nth) => self.partition(partition).and_then(|()| self.follower(partition, *nth)),
            Target::Client(name) => self.client(name),
            Target::Coordinator(group) => self.group(group),
            Target::SameAs(index) => self.fault(*index, own),
        }
    }

    fn follower(&self, partition: &str, nth: Option<usize>) -> Result<(), Dangling> {
        let topic = partition.rsplit_once('-').map_or(partition, |(topic, _)| topic);
        let Some(replicas) = self.replicas(topic) else { return Ok(()) };
        let followers = replicas - 1;
        if nth.unwrap_or(1) <= followers {
            return Ok(());
        }
        let have = match followers {
            0 => "no follower".to_owned(),
            1 => "1 follower".to_owned(),
            n => format!("{n} followers"),
        };
        Err((format!("`{partition}` has {have}"), Some(format!("the replication factor of `{topic}` is {replicas}"))))
    }

    fn condition(&self, condition: &Condition, own: usize) -> Result<(), Dangling> {
        match condition {
            Condition::Count { what, of, compare, value } => {
                self.topic_or_partition(of)?;
                self.reachable(*what, of, *compare, *value)
            }
            Condition::Isr { partition, equals } => {
                self.partition(partition)?;
                equals.iter().try_for_each(|id| self.broker(*id))
            }
            Condition::IsrSize { partition, compare: _, value: _ } => self.partition(partition),
            Condition::Leader { partition, negated: _, broker } => {
                self.partition(partition)?;
                if *broker == 0 { Ok(()) } else { self.broker(*broker) }
            }
            Condition::Fault { index, ended: _ } => self.fault(*index, own),
        }
    }

    /// A count that the workloads cannot reach would never start the fault.
    fn reachable(&self, what: Counter, of: &str, compare: Comparison, value: u64) -> Result<(), Dangling> {
        let least = match (what, compare) {
            (Counter::Committed, _) => return Ok(()),
            (_, Comparison::Gt) => value.saturating_add(1),
            (_, Comparison::Ge | Comparison::Eq) => value,
            (_, Comparison::Lt | Comparison::Le | Comparison::Ne) => return Ok(()),
        };
        if !self.draft.workloads_are_complete {
            return Ok(());
        }
        let topic = if self.is_partition(of) { of.rsplit_once('-').map_or(of, |(topic, _)| topic) } else { of };
        let on_topic = self.draft.workloads.iter().filter(|workload| workload.topic.value == topic);
        let sent = on_topic.fold(0_u64, |sum, workload| match workload.kind {
            Kind::Produce { records, .. } => sum.saturating_add(records),
            Kind::Consume { .. } => sum,
        });
        if least <= sent {
            return Ok(());
        }
        let message = "this can never hold: fewer records are sent".to_owned();
        Err((message, Some(format!("the workloads send {sent} records to `{topic}`"))))
    }
}

fn note<'m>(dangling: Dangling, span: &Range<usize>, mistakes: &'m mut Mistakes) -> &'m mut Found {
    let (message, help) = dangling;
    let found = mistakes.add(span, message);
    if let Some(help) = help {
        found.help(help);
    }
    found
}

fn fault(section: &Section<'_>, own: usize, names: &Names<'_>, mistakes: &mut Mistakes) -> Option<Fault> {
    section.allow(FAULT_KEYS, mistakes);
    let start = when(section, own, names, mistakes);
    if !section.has("do") {
        section.missing("do", "do = \"crash\"", mistakes);
    }
    let what = section.text("do", mistakes)?;
    let Some((needed, optional)) = keys_of(&what.value) else {
        mistakes
            .add(&what.span, format!("unknown action `{}`", what.value))
            .suggest(&what.value, ACTIONS.iter().copied());
        return None;
    };
    let keys = [needed, optional].concat();
    let is_foreign = check_keys(section, &what.value, &keys, mistakes);
    let duration = if keys.contains(&"for") { section.positive_duration("for", mistakes) } else { None };
    let (action, target, target_text) = action(section, &what, own, names, mistakes)?;
    let (when, after) = start?;
    if is_foreign || (section.has("for") && duration.is_none()) {
        return None;
    }
    Some(Fault {
        when,
        after,
        action,
        target,
        duration: duration.map(|duration| duration.value),
        text: (what.value, target_text),
        line: line_and_column(section.file(), section.span.start).0,
    })
}

/// Notes keys that exist but not for this action; says whether there were any.
fn check_keys(section: &Section<'_>, action: &str, keys: &[&str], mistakes: &mut Mistakes) -> bool {
    let mut is_foreign = false;
    for key in FAULT_KEYS.iter().filter(|key| !START_KEYS.contains(key) && !keys.contains(key)) {
        if !section.has(key) {
            continue;
        }
        is_foreign = true;
        let found = mistakes.add(&section.span_of(key), format!("`{action}` takes no `{key}`"));
        match (*key, keys) {
            ("for", _) => found.help("it happens at once and has no end"),
            (_, []) => found.help(format!("`{action}` takes nothing else")),
            (_, keys) => found.help(format!("it takes {}", keys.join(", "))),
        };
    }
    is_foreign
}

/// When the fault starts: exactly one of `at` and `when`, and `after` only with `when`.
fn when(section: &Section<'_>, own: usize, names: &Names<'_>, mistakes: &mut Mistakes) -> Option<(When, Duration)> {
    let after = section.duration("after", mistakes);
    match (section.has("at"), section.has("when")) {
        (true, true) => {
            mistakes.add(&section.span_of("when"), "a fault has either `at` or `when`, not both");
            None
        }
        (false, false) => {
            mistakes
                .add(&section.span, "this fault never starts: `at` or `when` is missing")
                .help("write `at = \"2s\"`, or `when = \"acked(orders) >= 200\"`");
            None
        }
        (true, false) => {
            if section.has("after") {
                let help = "`after` counts from the moment at which `when` holds: use one time, `at`";
                mistakes.add(&section.span_of("after"), "`after` goes with `when`, not with `at`").help(help);
                return None;
            }
            at(section, names, mistakes).map(|at| (When::At(at), Duration::ZERO))
        }
        (false, true) => {
            let text = section.text("when", mistakes)?;
            let condition = text.read(expression::condition, mistakes)?;
            if let Err(dangling) = names.condition(&condition.value, own) {
                note(dangling, &condition.span, mistakes);
                return None;
            }
            if section.has("after") && after.is_none() {
                return None;
            }
            Some((When::Condition(condition.value), after.map_or(Duration::ZERO, |after| after.value)))
        }
    }
}

fn at(section: &Section<'_>, names: &Names<'_>, mistakes: &mut Mistakes) -> Option<Duration> {
    let at = section.duration("at", mistakes)?;
    match &names.draft.duration {
        Some(end) if at.value >= end.value => {
            mistakes
                .add(&at.span, format!("this fault starts at {:?}, after the scenario's end", at.value))
                .help(format!("`duration` is {:?}", end.value));
            None
        }
        Some(_) | None => Some(at.value),
    }
}

type Read = (Action, Option<Target>, String);

fn action(section: &Section<'_>, what: &Text, own: usize, names: &Names<'_>, mistakes: &mut Mistakes) -> Option<Read> {
    let at_target = |done: Option<(Action, String)>, mistakes: &mut Mistakes| {
        let target = target(section, "target", what, own, names, mistakes)?;
        let (action, how) = done?;
        if let Some((why, instead)) = misfit(&action, &target.value) {
            mistakes.add(&target.span, why).help(instead);
            return None;
        }
        let text = format!("{}{how}", target.value);
        Some((action, Some(target.value), text))
    };
    let aimed = |action: Action, mistakes: &mut Mistakes| at_target(Some((action, String::new())), mistakes);
    match what.value.as_str() {
        "crash" => aimed(Action::Crash, mistakes),
        "power-loss" => {
            let (survivors, leaving) = disk::survivors(section, mistakes)?;
            at_target(Some((Action::PowerLoss(survivors), leaving)), mistakes)
        }
        "restart" => at_target(machine::restart(section, mistakes), mistakes),
        "crash-loop" => at_target(machine::crash_loop(section, mistakes), mistakes),
        "pause" => aimed(Action::Pause, mistakes),
        "resume" => aimed(Action::Resume, mistakes),
        "isolate" => aimed(Action::Isolate, mistakes),
        "controlled-shutdown" => aimed(Action::ControlledShutdown, mistakes),
        "partition" => partition(section, own, names, mistakes),
        "delay" => network::delay(section, what, own, names, mistakes),
        "throttle" => network::throttle(section, what, own, names, mistakes),
        "packet-loss" => network::packet_loss(section, what, own, names, mistakes),
        "flap" => network::flap(section, what, own, names, mistakes),
        "delay-message" => network::delay_message(section, own, names, mistakes),
        "drop-message" => network::drop_message(section, own, names, mistakes),
        "slow-drain" => at_target(machine::slow_drain(section, mistakes), mistakes),
        "slow-cpu" => at_target(machine::slow_cpu(section, mistakes), mistakes),
        "clock-step" => at_target(machine::clock_step(section, mistakes), mistakes),
        "clock-drift" => at_target(machine::clock_drift(section, mistakes), mistakes),
        "clock-strobe" => at_target(machine::clock_strobe(section, mistakes), mistakes),
        "clock-freeze" => aimed(Action::ClockFreeze, mistakes),
        "elect-preferred" => {
            let of = topic_or_partition(section, what, names, mistakes)?;
            Some((Action::ElectPreferred { of: of.clone() }, None, of))
        }
        "delete-records" => delete_records(section, what, names, mistakes),
        "create-partitions" => create_partitions(section, what, names, mistakes),
        "heal" => Some((Action::Heal, None, String::new())),
        _ => disk::read(section, what, own, names, mistakes),
    }
}

/// Why this action cannot be done to this target, if it cannot, and what can.
fn misfit(action: &Action, target: &Target) -> Option<(&'static str, &'static str)> {
    match action {
        Action::Crash
        | Action::PowerLoss(_)
        | Action::Restart { .. }
        | Action::CrashLoop { .. }
        | Action::ControlledShutdown
            if matches!(target, Target::Client(_)) =>
        {
            let why = "a client is not a server: this fault is for brokers and the controller";
            Some((why, "a client can be paused, slowed down or isolated, its links and its clock can be faulty"))
        }
        Action::Crash
        | Action::PowerLoss(_)
        | Action::Restart { .. }
        | Action::CrashLoop { .. }
        | Action::ControlledShutdown
            if *target == Target::Machines =>
        {
            Some(("clients are among the machines: this fault is for brokers and the controller", "write `brokers`"))
        }
        Action::ControlledShutdown if *target == Target::Controller => {
            let why = "a controlled shutdown moves leadership away from a broker; the controller leads no partition";
            Some((why, "the controller can be stopped with `crash`"))
        }
        Action::Isolate if *target == Target::Machines => {
            Some(("nobody would be left to be cut off from", "write the machines that stay together"))
        }
        Action::Crash
        | Action::PowerLoss(_)
        | Action::Disk { .. }
        | Action::Restart { .. }
        | Action::CrashLoop { .. }
        | Action::ControlledShutdown
        | Action::Pause
        | Action::Resume
        | Action::Isolate
        | Action::Partition { .. }
        | Action::Delay { .. }
        | Action::Throttle { .. }
        | Action::PacketLoss { .. }
        | Action::Flap { .. }
        | Action::DelayMessage { .. }
        | Action::DropMessage { .. }
        | Action::SlowDrain { .. }
        | Action::SlowCpu { .. }
        | Action::ClockStep { .. }
        | Action::ClockDrift { .. }
        | Action::ClockStrobe { .. }
        | Action::ClockFreeze
        | Action::Heal
        | Action::ElectPreferred { .. }
        | Action::CreatePartitions { .. }
        | Action::DeleteRecords { .. } => None,
    }
}

fn target(
    section: &Section<'_>,
    key: &str,
    what: &Text,
    own: usize,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<Spanned<Target>> {
    if !section.has(key) {
        let message = format!("`{}` needs a `{key}`", what.value);
        mistakes.add(&what.span, message).help(format!("for example `{key} = \"leader(orders-0)\"`"));
        return None;
    }
    checked_target(&section.text(key, mistakes)?, own, names, mistakes)
}

fn checked_target(text: &Text, own: usize, names: &Names<'_>, mistakes: &mut Mistakes) -> Option<Spanned<Target>> {
    let target = text.read(expression::target, mistakes)?;
    if let Err(dangling) = names.target(&target.value, own) {
        note(dangling, &target.span, mistakes);
        return None;
    }
    Some(target)
}

fn partition(section: &Section<'_>, own: usize, names: &Names<'_>, mistakes: &mut Mistakes) -> Option<Read> {
    const EXAMPLE: &str = "groups = [[\"leader(orders-0)\"], [\"follower(orders-0)\", \"controller\"]]";
    if !section.has("groups") {
        section.missing("groups", EXAMPLE, mistakes);
        return None;
    }
    let lists = section.array("groups", "an array of groups", mistakes)?;
    let mut groups: Vec<Vec<Spanned<Target>>> = Vec::new();
    for list in &lists {
        let span = list.span().unwrap_or_else(|| section.span_of("groups"));
        let Some(members) = list.as_array() else {
            mistakes
                .add(&span, format!("a group must be an array of targets, not {}", type_of(list)))
                .help(format!("write {EXAMPLE}"));
            return None;
        };
        if members.is_empty() {
            mistakes.add(&span, "this group is empty: nothing would be cut off");
            return None;
        }
        let texts = members.iter().map(|member| element_text(member, "a target", section.file(), mistakes));
        let texts: Option<Vec<Text>> = texts.collect();
        let group = texts?.iter().map(|text| checked_target(text, own, names, mistakes)).collect::<Option<Vec<_>>>();
        groups.push(group?);
    }
    if groups.len() < 2 {
        let span = section.span_of("groups");
        mistakes.add(&span, "a partition has at least two groups").help(format!("write {EXAMPLE}"));
        return None;
    }
    check_overlap(&groups, &names.draft.cluster.racks, mistakes)?;
    let one_way = section.boolean("one-way", mistakes).is_some_and(|one_way| one_way.value);
    if one_way && groups.len() > 2 {
        let message = "a one-way partition has two groups: only frames from the first to the second are cut";
        mistakes.add(&section.span_of("one-way"), message);
        return None;
    }
    let side = |group: &Vec<Spanned<Target>>| {
        group.iter().map(|member| member.value.to_string()).collect::<Vec<_>>().join(", ")
    };
    let text = groups.iter().map(side).collect::<Vec<_>>().join(if one_way { " -> " } else { " | " });
    let groups = groups.into_iter().map(|group| group.into_iter().map(|member| member.value).collect()).collect();
    Some((Action::Partition { groups, one_way }, None, text))
}

/// A machine cannot be on two sides.
fn check_overlap(groups: &[Vec<Spanned<Target>>], racks: &[String], mistakes: &mut Mistakes) -> Option<()> {
    for (i, group) in groups.iter().enumerate() {
        for member in group {
            let others = groups[..i].iter().flatten();
            if let Some(other) = others.into_iter().find(|other| overlaps(&other.value, &member.value, racks)) {
                let message = if other.value == member.value {
                    format!("the groups overlap: `{}` is in another group too", member.value)
                } else {
                    format!("the groups overlap: `{}` and `{}` share a machine", other.value, member.value)
                };
                mistakes.add(&member.span, message).help("a machine is on one side of a partition");
                return None;
            }
        }
    }
    Some(())
}

/// Whether two targets surely share a machine.
fn overlaps(one: &Target, other: &Target, racks: &[String]) -> bool {
    let is_broker = |target: &Target| {
        matches!(
            target,
            Target::Broker(_)
                | Target::Brokers
                | Target::Leader(_)
                | Target::Follower(..)
                | Target::Isr(_)
                | Target::Coordinator(_)
                | Target::Rack(_)
        )
    };
    let within = |whole: &Target, part: &Target| match (whole, part) {
        (Target::Machines, _) => true,
        (Target::Brokers, part) => is_broker(part),
        (Target::Rack(rack), Target::Broker(id)) => racks.get(*id as usize - 1) == Some(rack),
        (Target::Isr(all), Target::Leader(of)) => all == of,
        (Target::Follower(all, None), Target::Follower(of, _)) => all == of,
        (
            Target::Broker(_)
            | Target::Leader(_)
            | Target::Follower(..)
            | Target::Isr(_)
            | Target::Controller
            | Target::Coordinator(_)
            | Target::Client(_)
            | Target::Rack(_)
            | Target::SameAs(_),
            _,
        ) => false,
    };
    one == other || within(one, other) || within(other, one)
}

/// `period`, `duty` and `count`, with the text that a report shows.
fn cycle(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<(Cycle, String)> {
    for (key, example) in [("period", "period = \"2s\""), ("duty", "duty = \"25%\"")] {
        if !section.has(key) {
            section.missing(key, example, mistakes);
        }
    }
    let period = section.positive_duration("period", mistakes);
    let duty = section.text("duty", mistakes).and_then(|text| text.read(quantity::share, mistakes));
    let count = section.optional(|s, name, m| s.integer(name, 1..=i64::from(u32::MAX), m), "count", mistakes);
    let (period, duty, count) = (period?, duty?, count?.map(|count| count.value as u32));
    let cycle = Cycle { period: period.value, duty: duty.value, count };
    if cycle.on().is_zero() || cycle.on() == cycle.period {
        let message = "a cycle is on for a part of its period, and off for the rest";
        mistakes.add(&duty.span, message).help("for example `duty = \"25%\"`");
        return None;
    }
    let mut text = format!("{:?} of {:?}", cycle.on(), cycle.period);
    if let Some(count) = count {
        text += &format!(" x{count}");
    }
    Some((cycle, text))
}

fn delete_records(section: &Section<'_>, what: &Text, names: &Names<'_>, mistakes: &mut Mistakes) -> Option<Read> {
    let before = section.optional(|s, key, m| s.integer(key, 0..=i64::MAX, m), "before-offset", mistakes);
    let of = topic_or_partition(section, what, names, mistakes)?;
    let before = before?.map(|before| before.value as u64);
    let text = match before {
        Some(offset) => format!("{of} before {offset}"),
        None => of.clone(),
    };
    Some((Action::DeleteRecords { of, before }, None, text))
}

fn create_partitions(section: &Section<'_>, what: &Text, names: &Names<'_>, mistakes: &mut Mistakes) -> Option<Read> {
    let count = section.integer("count", 1..=PARTITIONS_MAX, mistakes);
    let topic = topic_or_partition(section, what, names, mistakes)?;
    if !names.draft.topics.iter().any(|known| known.name == topic) {
        mistakes
            .add(&section.span_of("target"), "`create-partitions` is for a topic, not for one of its partitions")
            .help("for example `target = \"orders\"`");
        return None;
    }
    let count = count?.value as i32;
    let text = format!("{topic} to {count}");
    Some((Action::CreatePartitions { topic, count }, None, text))
}

/// The `target` of an action that is asked of the cluster.
fn topic_or_partition(
    section: &Section<'_>,
    what: &Text,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<String> {
    if !section.has("target") {
        section.missing("target", "target = \"orders\"", mistakes);
        return None;
    }
    let of = section.text("target", mistakes)?;
    if of.value.contains('(') {
        mistakes
            .add(&of.span, format!("`{}` is for a topic or a partition, not for a machine", what.value))
            .help("for example `target = \"orders\"` or `target = \"orders-0\"`");
        return None;
    }
    if let Err(dangling) = names.topic_or_partition(&of.value) {
        note(dangling, &of.span, mistakes);
        return None;
    }
    Some(of.value)
}

/// Faults that refer to one another: the other must have machines, and must be able to start first.
fn check_references(faults: &[Fault], spans: &[Range<usize>], mistakes: &mut Mistakes) {
    for (i, fault) in faults.iter().enumerate() {
        for index in same_as(fault) {
            if !has_machines(&faults[index - 1]) {
                let message = format!("fault {index} (`{}`) has no machines to aim at again", faults[index - 1].text.0);
                mistakes.add(&spans[i], message);
            }
        }
        if let Some(index) = waits_forever(faults, i + 1) {
            mistakes
                .add(&spans[i], format!("this fault never starts: it and fault {index} wait for each other"))
                .help("let one of them start `at` a time or on another condition");
        }
    }
}

/// The faults (1-based) whose machines this one is aimed at.
fn same_as(fault: &Fault) -> Vec<usize> {
    let in_action: Vec<&Target> = match fault.action.subject() {
        Subject::Groups { groups, one_way: _ } => groups.iter().flatten().collect(),
        Subject::Links(links) => vec![&links.from, &links.to],
        Subject::Messages(messages) => messages.from.iter().chain(&messages.to).collect(),
        Subject::Target => Vec::new(),
    };
    let index = |target: &Target| match target {
        Target::SameAs(index) => Some(*index),
        Target::Broker(_)
        | Target::Brokers
        | Target::Leader(_)
        | Target::Follower(..)
        | Target::Isr(_)
        | Target::Controller
        | Target::Coordinator(_)
        | Target::Client(_)
        | Target::Rack(_)
        | Target::Machines => None,
    };
    in_action.into_iter().chain(&fault.target).filter_map(index).collect()
}

fn has_machines(fault: &Fault) -> bool {
    fault.target.is_some()
}

/// The faults (1-based) that must have started before this one can.
fn waits_for(fault: &Fault) -> Vec<usize> {
    let mut awaited = same_as(fault);
    match &fault.when {
        When::Condition(Condition::Fault { index, ended: _ }) => awaited.push(*index),
        When::Condition(
            Condition::Count { .. } | Condition::Isr { .. } | Condition::IsrSize { .. } | Condition::Leader { .. },
        )
        | When::At(_) => {}
    }
    awaited
}

/// The next fault in a circle of waiting that `start` (1-based) is part of.
fn waits_forever(faults: &[Fault], start: usize) -> Option<usize> {
    let leads_back = |from: usize| {
        let mut open = vec![from];
        let mut seen = vec![false; faults.len() + 1];
        while let Some(index) = open.pop() {
            if index == start {
                return true;
            }
            if !std::mem::replace(&mut seen[index], true) {
                open.extend(waits_for(&faults[index - 1]));
            }
        }
        false
    };
    waits_for(&faults[start - 1]).into_iter().find(|next| leads_back(*next))
}
