//! Schedules of faults.
//!
//! A fault refers only to faults before it, so none waits for itself. When it starts is mostly a time, or shortly after
//! the fault before it: most of the known failures of replication are two or three faults that follow closely upon each
//! other.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use super::aim::{Aim, aim};
use super::{Pace, Profile, Shape, episodes};
use crate::fuzz::topic_of;
use crate::scenario::disk::DiskAction;
use crate::scenario::{Action, Comparison, Condition, Counter, Fault, Messages, Target, When};
use crate::world::sim::{Direction, DiskScope};

/// What a schedule is made of; swarm testing enables some of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Crash,
    PowerLoss,
    /// Stopped and started in one instant.
    Restart,
    ControlledShutdown,
    Pause,
    Isolate,
    Partition,
    Delay,
    Throttle,
    Heal,
    ElectPreferred,
    PacketLoss,
    Flap,
    DelayMessage,
    DropMessage,
    SlowCpu,
    SlowDrain,
    CrashLoop,
    SlowDisk,
    FailingDisk,
    LyingDisk,
    BitRot,
    DropCache,
    ReplaceDisk,
    MoveClock,
    DeleteRecords,
    CreatePartitions,
}

impl Kind {
    const REPLICATION: [Kind; 19] = [
        Kind::Crash,
        Kind::PowerLoss,
        Kind::Restart,
        Kind::ControlledShutdown,
        Kind::Pause,
        Kind::Isolate,
        Kind::Partition,
        Kind::Delay,
        Kind::Throttle,
        Kind::Heal,
        Kind::ElectPreferred,
        Kind::PacketLoss,
        Kind::Flap,
        Kind::DelayMessage,
        Kind::DropMessage,
        Kind::SlowCpu,
        Kind::SlowDrain,
        Kind::CrashLoop,
        Kind::SlowDisk,
    ];
    const STORAGE: [Kind; 9] = [
        Kind::Crash,
        Kind::PowerLoss,
        Kind::Restart,
        Kind::ControlledShutdown,
        // Logs that part while a disk loses what it has.
        Kind::Isolate,
        Kind::ElectPreferred,
        Kind::CrashLoop,
        Kind::SlowDisk,
        Kind::DeleteRecords,
    ];
    /// What ends an incarnation, or its connections, in a moment.
    const STRIKES: [Kind; 6] =
        [Kind::Crash, Kind::PowerLoss, Kind::Restart, Kind::Pause, Kind::Isolate, Kind::CrashLoop];
    /// What breaks a disk, or time.
    const WRONG: [Kind; 6] =
        [Kind::FailingDisk, Kind::LyingDisk, Kind::BitRot, Kind::DropCache, Kind::ReplaceDisk, Kind::MoveClock];
}

/// How many faults there are and how long they last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Regime {
    ManyShort,
    Mixed,
    FewLong,
}

/// Some of the profile's kinds; of those that break disks few, and often none: what they excuse hides what else is
/// wrong. `compacts`: rot is left out, the cleaner would give it a valid CRC, and so are deletions, which are refused.
pub(super) fn kinds(profile: Profile, compacts: bool) -> BoxedStrategy<Vec<Kind>> {
    let (common, broken) = match profile {
        Profile::Replication => (Kind::REPLICATION.to_vec(), 0),
        Profile::Storage => (Kind::STORAGE.to_vec(), 60),
        Profile::Groups | Profile::All => {
            (Kind::REPLICATION.into_iter().chain([Kind::CreatePartitions]).collect::<Vec<_>>(), 25)
        }
    };
    // `__consumer_offsets` is compacted too.
    let compacts = compacts || profile == Profile::Groups;
    let wrong: Vec<Kind> = Kind::WRONG.into_iter().filter(|kind| !compacts || *kind != Kind::BitRot).collect();
    let common: Vec<Kind> = common.into_iter().filter(|kind| !compacts || *kind != Kind::DeleteRecords).collect();
    let few = subsequence(wrong, 1..=3);
    let wrong = prop_oneof![100 - broken => Just(Vec::new()), broken => few];
    let all = common.len();
    (subsequence(common, 1..=all), wrong).prop_map(|(common, wrong)| common.into_iter().chain(wrong).collect()).boxed()
}

pub(super) fn regime() -> BoxedStrategy<Regime> {
    prop_oneof![2 => Just(Regime::ManyShort), 4 => Just(Regime::Mixed), 2 => Just(Regime::FewLong)].boxed()
}

/// What a schedule for a cluster of this shape with these clients is made of.
pub(super) fn drafts(shape: &Shape, clients: &[String]) -> BoxedStrategy<Vec<Draft>> {
    let count = match shape.regime {
        Regime::ManyShort => 6..=16_usize,
        Regime::Mixed => 2..=8,
        Regime::FewLong => 1..=4,
    };
    let drafts = match shape.episode {
        None => vec(draft(shape, clients), count).boxed(),
        // Among few others: too many break its thread.
        Some(episode) => {
            let drawn = (episodes::faults(episode, shape), vec(draft(shape, clients), 0..=3), any::<Index>());
            let inserted = drawn.prop_map(|(episode, mut drafts, place)| {
                drafts.insert(place.index(drafts.len() + 1), Draft::Episode(episode));
                drafts
            });
            inserted.boxed()
        }
    };
    (weather(shape, clients), drafts).prop_map(|(weather, drafts)| weather.into_iter().chain(drafts).collect()).boxed()
}

fn draft(shape: &Shape, clients: &[String]) -> BoxedStrategy<Draft> {
    (start(shape), select(shape.kinds.clone()), aim(shape, clients), duration(shape))
        .prop_map(|single| Draft::Fault(Box::new(single)))
        .boxed()
}

/// Nearly the same: some of it gone, longer, shorter, sooner or later, and up to three new ones in between.
pub(super) fn varied(drafts: Vec<Draft>, shape: &Shape, clients: &[String]) -> BoxedStrategy<Vec<Draft>> {
    let changes: Vec<_> = drafts.iter().map(|draft| (prop::bool::weighted(0.9), vec(change(), draft.len()))).collect();
    let new = vec((any::<Index>(), draft(shape, clients)), 0..=3);
    (changes, new)
        .prop_map(move |(changes, new)| {
            let kept = drafts.iter().cloned().zip(changes).filter(|(_, (stays, _))| *stays);
            let mut varied: Vec<Draft> = kept.map(|(draft, (_, changes))| draft.changed(&changes)).collect();
            for (place, draft) in &new {
                varied.insert(place.index(varied.len() + 1), draft.clone());
            }
            varied
        })
        .boxed()
}

/// What becomes of the times of a fault, in per cent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    at: u32,
    wait: u32,
    by: u32,
    lasts: u32,
}

fn change() -> BoxedStrategy<Change> {
    let percent = || prop_oneof![1 => Just(100_u32), 1 => 50..=200_u32];
    let at = prop_oneof![1 => Just(100_u32), 1 => 85..=105_u32];
    (at, percent(), percent(), percent()).prop_map(|(at, wait, by, lasts)| Change { at, wait, by, lasts }).boxed()
}

/// What some scenarios go through from the start: requests of one kind or two are late, all the time, so that whatever
/// else happens happens while one is on its way. Of fetches it is those of one broker, which is behind the others then;
/// of registrations only the first, so that the next overtakes it.
fn weather(shape: &Shape, clients: &[String]) -> BoxedStrategy<Vec<Draft>> {
    if !shape.kinds.contains(&Kind::DelayMessage) {
        return Just(Vec::new()).boxed();
    }
    let (pace, focus) = (shape.pace, shape.focus);
    let mut keys = vec![ApiKey::AlterPartition, ApiKey::AlterPartition, ApiKey::Fetch, ApiKey::Fetch];
    keys.extend(focus.map(|_| ApiKey::BrokerRegistration));
    let by = prop_oneof![2 => 100..2_000_u64, 1 => 2_000..6_000_u64];
    let drawn = (0..1_500_u64, select(keys), by, 1..=shape.brokers, aim(shape, clients));
    let late = drawn.prop_map(move |(at, key, by, broker, mut aim)| {
        let (from, count) = match key {
            ApiKey::BrokerRegistration => (focus.map(Target::Broker), Some(1)),
            ApiKey::Fetch => (Some(Target::Broker(broker)), None),
            _ => (aim.messages.from, None),
        };
        let request = (format!("{key:?}"), key as i16);
        aim.messages = Messages { request, direction: Direction::Request, from, to: None, count };
        aim.by = pace.time(by);
        Draft::Fault(Box::new((Start::At(Duration::from_millis(at)), Kind::DelayMessage, aim, None)))
    });
    prop_oneof![5 => Just(0), 3 => Just(1), 2 => Just(2_usize)]
        .prop_flat_map(move |kinds| vec(late.clone(), kinds))
        .boxed()
}

/// When a fault starts, before it is known which faults are before it.
#[derive(Clone, Debug)]
pub(super) enum Start {
    At(Duration),
    /// So long after an earlier fault, counted backwards from this one, started or ended.
    After {
        back: usize,
        ended: bool,
        by: Duration,
    },
    On {
        state: State,
        after: Duration,
    },
}

/// A state of the first partition that a fault waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Committed(u64),
    IsrBelow(u64),
    IsrBack,
    LeaderIs(u32),
    LeaderIsNot(u32),
}

fn start(shape: &Shape) -> BoxedStrategy<Start> {
    let pace = shape.pace;
    let by = prop_oneof![
        2 => Just(0),
        3 => 0..600_u64,
        2 => 0..4_000_u64,
    ];
    let by = by.prop_map(move |by| if by == 0 { Duration::ZERO } else { pace.time(by) }).boxed();
    let broker = match shape.focus {
        Some(focus) => Just(focus).boxed(),
        None => (1..=shape.brokers.min(2)).boxed(),
    };
    let state = prop_oneof![
        3 => (1..400_u64).prop_map(State::Committed),
        2 => (1..=2_u64).prop_map(State::IsrBelow),
        1 => Just(State::IsrBack),
        1 => broker.clone().prop_map(State::LeaderIs),
        2 => broker.prop_map(State::LeaderIsNot),
    ];
    let last_ms = pace.seconds() * 1_000 - 2_500;
    prop_oneof![
        4 => (100..last_ms).prop_map(|at| Start::At(Duration::from_millis(at))),
        5 => (1..=2_usize, any::<bool>(), by.clone()).prop_map(|(back, ended, by)| Start::After { back, ended, by }),
        3 => (state, by).prop_map(|(state, after)| Start::On { state, after }),
    ]
    .boxed()
}

fn duration(shape: &Shape) -> BoxedStrategy<Option<Duration>> {
    let pace = shape.pace;
    let longest = match shape.regime {
        Regime::ManyShort => 1_500_u64,
        Regime::Mixed => 6_000,
        Regime::FewLong => 20_000,
    };
    let length = prop_oneof![1 => 1..200_u64, 3 => 200..longest].prop_map(move |length| Some(pace.time(length)));
    // Until another fault or the end undoes it.
    prop_oneof![12 => length, 1 => Just(None)].boxed()
}

/// A part of a schedule that does not know yet what is before it.
#[derive(Clone, Debug)]
pub(super) enum Draft {
    Fault(Box<Single>),
    /// Faults that refer to each other: 1 is the first of them.
    Episode(Vec<Fault>),
}

type Single = (Start, Kind, Aim, Option<Duration>);

impl Draft {
    /// Faults.
    fn len(&self) -> usize {
        match self {
            Draft::Fault(_) => 1,
            Draft::Episode(faults) => faults.len(),
        }
    }

    /// With a change for each of its faults.
    fn changed(self, changes: &[Change]) -> Draft {
        match self {
            Draft::Fault(single) => {
                let (start, kind, mut aim, duration) = *single;
                let Change { at, wait, by, lasts } = changes[0];
                let start = match start {
                    Start::At(time) => Start::At(time * at / 100),
                    Start::After { back, ended, by } => Start::After { back, ended, by: by * wait / 100 },
                    Start::On { state, after } => Start::On { state, after: after * wait / 100 },
                };
                aim.by = aim.by * by / 100;
                Draft::Fault(Box::new((start, kind, aim, duration.map(|duration| duration * lasts / 100))))
            }
            Draft::Episode(mut faults) => {
                for (fault, Change { at, wait, by, lasts }) in faults.iter_mut().zip(changes) {
                    if let When::At(time) = &mut fault.when {
                        *time = *time * *at / 100;
                    }
                    fault.after = fault.after * *wait / 100;
                    if let Action::Delay { by: late, .. } | Action::DelayMessage { by: late, .. } = &mut fault.action {
                        *late = *late * *by / 100;
                    }
                    fault.duration = fault.duration.map(|duration| duration * *lasts / 100);
                }
                Draft::Episode(faults)
            }
        }
    }
}

/// The schedule that it comes to.
pub(super) fn schedule(drafts: Vec<Draft>, shape: &Shape) -> Vec<Fault> {
    let strikes: Vec<Kind> = Kind::STRIKES.into_iter().filter(|kind| shape.kinds.contains(kind)).collect();
    let mut faults: Vec<Fault> = Vec::new();
    let mut window: Option<Window> = None;
    for draft in drafts {
        let number = faults.len();
        let (start, kind, aim, duration) = match draft {
            Draft::Fault(single) => *single,
            Draft::Episode(episode) => {
                faults.extend(episode.into_iter().map(|fault| placed(fault, number)));
                window = None;
                continue;
            }
        };
        let strike = window.take().zip(aim.within).and_then(|(open, percent)| {
            let kind = open.strike(kind, &strikes, percent as usize)?;
            Some((open, percent, kind))
        });
        let fault = match strike {
            Some((open, percent, kind)) => {
                let when = When::Condition(Condition::Fault { index: open.fault, ended: false });
                let target = open.machine.clone().filter(|_| open.is_stopped || percent % 2 == 0);
                let strike = fault(kind, aim, target, when, open.by * percent / 100, duration);
                window = Some(open);
                strike
            }
            None => {
                let (when, after) = begin(&start, number, &aim);
                let again = (aim.again && hits_servers(&faults)).then_some(Target::SameAs(number));
                fault(kind, aim, again, when, after, duration)
            }
        };
        window = Window::of(&fault, number + 1).or(window);
        faults.push(fault);
    }
    faults
}

/// A fault of an episode that comes after so many others.
fn placed(mut fault: Fault, before: usize) -> Fault {
    if let When::Condition(Condition::Fault { index, ended: _ }) = &mut fault.when {
        *index += before;
    }
    if let Some(Target::SameAs(index)) = &mut fault.target {
        *index += before;
    }
    fault
}

/// A time in which another fault does what it would not do at another: while a message is on its way that a fault holds
/// back (such a fault has started with its first message), or while a machine is stopped in good order.
struct Window {
    /// 1-based.
    fault: usize,
    /// Who sends the message or is to get it, as far as the fault says so; who is stopped.
    machine: Option<Target>,
    is_stopped: bool,
    by: Duration,
}

impl Window {
    fn of(fault: &Fault, number: usize) -> Option<Window> {
        if let Action::DelayMessage { messages: messages @ Messages { count: Some(_), .. }, by } = &fault.action {
            let machine = messages.from.clone().or_else(|| messages.to.clone());
            return Some(Window { fault: number, machine, is_stopped: false, by: *by });
        }
        if fault.action == Action::ControlledShutdown {
            let by = fault.duration?;
            return Some(Window { fault: number, machine: Some(Target::SameAs(number)), is_stopped: true, by });
        }
        None
    }

    /// What to strike with: `kind` if it is fit for it. A machine that is stopped can only lose power.
    fn strike(&self, kind: Kind, strikes: &[Kind], draw: usize) -> Option<Kind> {
        if self.is_stopped {
            return Some(Kind::PowerLoss).filter(|kind| strikes.contains(kind));
        }
        if strikes.contains(&kind) { Some(kind) } else { strikes.get(draw % strikes.len().max(1)).copied() }
    }
}

/// Whether the last fault has machines, and they are servers: any kind of fault can be aimed at them again.
fn hits_servers(faults: &[Fault]) -> bool {
    let mut target = faults.last().and_then(|fault| fault.target.as_ref());
    while let Some(Target::SameAs(index)) = target {
        target = faults[index - 1].target.as_ref();
    }
    target.is_some_and(|target| !matches!(target, Target::Client(_) | Target::Controller))
}

/// `number`: how many faults are before this one.
fn begin(start: &Start, number: usize, aim: &Aim) -> (When, Duration) {
    match start {
        Start::At(at) => (When::At(*at), Duration::ZERO),
        Start::After { by, .. } if number == 0 => (When::At(Pace::Brisk.time(1_000) + *by), Duration::ZERO),
        Start::After { back, ended, by } => {
            let index = number - (back - 1).min(number - 1);
            (When::Condition(Condition::Fault { index, ended: *ended }), *by)
        }
        Start::On { state, after } => (When::Condition(condition(*state, aim)), *after),
    }
}

fn condition(state: State, aim: &Aim) -> Condition {
    let partition = aim.partition.clone();
    let size = u64::from(aim.replicas.unsigned_abs());
    match state {
        State::Committed(value) => {
            // A quarter: what one producer among several with several topics surely sends.
            let value = value / 4 + 1;
            let of = topic_of(&partition).to_owned();
            Condition::Count { what: Counter::Committed, of, compare: Comparison::Ge, value }
        }
        State::IsrBelow(n) => {
            Condition::IsrSize { partition, compare: Comparison::Lt, value: size.saturating_sub(n).max(1) + 1 }
        }
        State::IsrBack => Condition::IsrSize { partition, compare: Comparison::Ge, value: size },
        State::LeaderIs(broker) => Condition::Leader { partition, negated: false, broker },
        State::LeaderIsNot(broker) => Condition::Leader { partition, negated: true, broker },
    }
}

fn fault(
    kind: Kind,
    aim: Aim,
    again: Option<Target>,
    when: When,
    after: Duration,
    duration: Option<Duration>,
) -> Fault {
    let server = again.clone().filter(|_| kind != Kind::ControlledShutdown).unwrap_or_else(|| aim.server.clone());
    let brokers = aim.brokers.clone();
    let anyone = again.unwrap_or(aim.anyone);
    let disk = |what, on: &DiskScope| (Action::Disk { what, on: on.clone() }, Some(brokers.clone()), duration);
    let (action, target, duration) = match kind {
        Kind::Crash => (Action::Crash, Some(server), duration),
        Kind::PowerLoss => (Action::PowerLoss(aim.survivors), Some(server), duration),
        Kind::Restart => (Action::Restart { config: BTreeMap::new() }, Some(server), None),
        Kind::ControlledShutdown => (Action::ControlledShutdown, Some(brokers), duration),
        Kind::Pause => (Action::Pause, Some(anyone), duration),
        Kind::Isolate => (Action::Isolate, Some(anyone), duration),
        Kind::Partition => (Action::Partition { groups: aim.groups, one_way: aim.one_way }, None, duration),
        Kind::Delay => (Action::Delay { links: aim.links, by: aim.by, jitter: Duration::ZERO }, None, duration),
        Kind::Throttle => (Action::Throttle { links: aim.links, bandwidth: aim.bandwidth }, None, duration),
        Kind::PacketLoss => (Action::PacketLoss { links: aim.links, loss: aim.loss }, None, duration),
        Kind::Flap => (Action::Flap { links: aim.links, cycle: aim.cycle }, None, duration),
        Kind::DelayMessage => (Action::DelayMessage { messages: aim.messages, by: aim.by }, None, duration),
        Kind::DropMessage => (Action::DropMessage { messages: aim.messages }, None, duration),
        Kind::SlowCpu => (Action::SlowCpu { by: aim.by / 100 }, Some(anyone), duration),
        Kind::SlowDrain => (Action::SlowDrain { bandwidth: aim.bandwidth }, Some(anyone), duration),
        Kind::CrashLoop => (Action::CrashLoop { cycle: aim.cycle }, Some(server), duration),
        Kind::SlowDisk => {
            let what = DiskAction::Fault(aim.disks.slow);
            (Action::Disk { what, on: DiskScope::default() }, Some(server), duration)
        }
        Kind::FailingDisk => disk(DiskAction::Fault(aim.disks.failing), &aim.disks.scope),
        Kind::LyingDisk => disk(DiskAction::Fault(aim.disks.lying), &aim.disks.scope),
        Kind::BitRot => {
            let (what, on) = aim.disks.rot;
            (Action::Disk { what, on }, Some(brokers), None)
        }
        Kind::DropCache => {
            (Action::Disk { what: DiskAction::DropCache, on: DiskScope::default() }, Some(brokers), None)
        }
        Kind::ReplaceDisk => disk(DiskAction::Replace, &DiskScope::default()),
        Kind::MoveClock => (Action::ClockStep { by_ns: aim.shift_ns }, Some(brokers), duration),
        Kind::Heal => (Action::Heal, None, None),
        Kind::ElectPreferred => (Action::ElectPreferred { of: aim.partition }, None, None),
        Kind::DeleteRecords => {
            // Of the few hundred records that there are; beyond the high watermark it is refused.
            let before = u64::try_from(aim.by.as_millis()).unwrap_or(u64::MAX) % 300;
            (Action::DeleteRecords { of: aim.partition, before: Some(before) }, None, None)
        }
        Kind::CreatePartitions => {
            (Action::CreatePartitions { topic: topic_of(&aim.partition).to_owned(), count: aim.grown }, None, None)
        }
    };
    Fault { when, after, action, target, duration, text: (String::new(), String::new()), line: 0 }
}
