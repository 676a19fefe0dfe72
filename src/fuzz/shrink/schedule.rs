//! Passes over the schedule: fewer faults, shorter and simpler ones, rounder times.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Search;
use crate::lab::outcome::FiredFault;
use crate::scenario::disk::DiskAction;
use crate::scenario::{Action, Condition, Fault, Links, Messages, Target, When};
use crate::world::sim::{DiskScope, Survivors};

/// Delta debugging: first those that never fired, then halves, quarters, … single faults.
pub(super) fn drop_faults(search: &mut Search<'_>) {
    let fired: Vec<usize> = search.fired.iter().map(|fired| fired.index).collect();
    let idle: Vec<usize> = (0..search.faults().len()).filter(|index| !fired.contains(index)).collect();
    if !idle.is_empty() {
        offer_without(search, &idle);
    }
    let mut size = search.faults().len();
    while size >= 1 && !search.is_spent() {
        let mut from = 0;
        while from < search.faults().len() {
            let chunk: Vec<usize> = (from..(from + size).min(search.faults().len())).collect();
            if !offer_without(search, &chunk) {
                from += size;
            }
        }
        size /= 2;
    }
}

fn offer_without(search: &mut Search<'_>, indices: &[usize]) -> bool {
    let faults = without(search.faults(), indices, &search.fired);
    let candidate = search.with_faults(faults);
    search.offer(&candidate)
}

/// The faults without those at `indices`. A fault that waits for one of them starts at the time at which it started in
/// the run at hand instead, or is left out too if it never did; one that is aimed at another's machines is aimed at what
/// the other was aimed at.
pub(super) fn without(faults: &[Fault], indices: &[usize], fired: &[FiredFault]) -> Vec<Fault> {
    let mut gone = vec![false; faults.len()];
    for index in indices {
        gone[*index] = true;
    }
    let started = |index: usize| fired.iter().find(|fired| fired.index == index).map(|fired| fired.at);
    while let Some(index) = (0..faults.len())
        .find(|index| !gone[*index] && started(*index).is_none() && awaited(&faults[*index]).is_some_and(|by| gone[by]))
    {
        gone[index] = true;
    }
    let kept: Vec<usize> = (0..faults.len()).filter(|index| !gone[*index]).collect();
    let number = |old: usize| kept.iter().position(|index| *index == old).map(|position| position + 1);
    let renumbered = |index: &usize| {
        let mut fault = faults[*index].clone();
        if let When::Condition(Condition::Fault { index: awaited, ended: _ }) = &mut fault.when {
            match number(*awaited - 1) {
                Some(new) => *awaited = new,
                None => {
                    let at = started(*index).expect("those that never started are gone with what they wait for");
                    (fault.when, fault.after) = (When::At(Duration::from_nanos(at.as_nanos())), Duration::ZERO);
                }
            }
        }
        each_target(&mut fault, &mut |target| {
            aim_directly(target, faults, &gone);
            if let Target::SameAs(index) = target {
                // Without a number the other has no machines to aim at: the candidate is refused as invalid.
                *index = number(*index - 1).unwrap_or(faults.len());
            }
        });
        fault
    };
    kept.iter().map(renumbered).collect()
}

/// The fault (0-based) that this one waits for.
fn awaited(fault: &Fault) -> Option<usize> {
    match &fault.when {
        When::Condition(Condition::Fault { index, ended: _ }) => Some(index - 1),
        When::Condition(_) | When::At(_) => None,
    }
}

/// Follows references to faults that are gone.
fn aim_directly(target: &mut Target, faults: &[Fault], gone: &[bool]) {
    while let Target::SameAs(index) = target
        && gone[*index - 1]
        && let Some(aimed) = &faults[*index - 1].target
    {
        *target = aimed.clone();
    }
}

fn each_target(fault: &mut Fault, change: &mut dyn FnMut(&mut Target)) {
    if let Some(target) = &mut fault.target {
        change(target);
    }
    match &mut fault.action {
        Action::Partition { groups, one_way: _ } => groups.iter_mut().flatten().for_each(&mut *change),
        Action::Delay { links, .. }
        | Action::Throttle { links, .. }
        | Action::PacketLoss { links, .. }
        | Action::Flap { links, .. } => {
            change(&mut links.from);
            change(&mut links.to);
        }
        Action::DelayMessage { messages, .. } | Action::DropMessage { messages } => {
            messages.from.iter_mut().chain(&mut messages.to).for_each(&mut *change);
        }
        Action::Crash
        | Action::PowerLoss(_)
        | Action::Disk { .. }
        | Action::Restart { .. }
        | Action::CrashLoop { .. }
        | Action::Pause
        | Action::Resume
        | Action::Isolate
        | Action::SlowDrain { .. }
        | Action::SlowCpu { .. }
        | Action::ClockStep { .. }
        | Action::ClockDrift { .. }
        | Action::ClockStrobe { .. }
        | Action::ClockFreeze
        | Action::Heal
        | Action::ControlledShutdown
        | Action::ElectPreferred { .. }
        | Action::CreatePartitions { .. }
        | Action::DeleteRecords { .. } => {}
    }
}

/// Each fault by itself: milder, until the end of the run, one for two.
pub(super) fn simplify(search: &mut Search<'_>) {
    let mut index = 0;
    while index < search.faults().len() && !search.is_spent() {
        merge_with_next(search, index);
        for simpler in simpler(&search.faults()[index].clone()) {
            let mut faults = search.faults().to_vec();
            faults[index] = simpler;
            let candidate = search.with_faults(faults);
            search.offer(&candidate);
        }
        index += 1;
    }
}

/// Two faults of one kind on one target become one that lasts over both.
fn merge_with_next(search: &mut Search<'_>, index: usize) {
    let faults = search.faults();
    let same = |other: &Fault| other.action == faults[index].action && other.target == faults[index].target;
    let Some(next) = (index + 1..faults.len()).find(|other| same(&faults[*other])) else { return };
    let times = |index: usize| search.fired.iter().find(|fired| fired.index == index);
    let (Some(one), Some(other)) = (times(index), times(next)) else { return };
    let (Some(_), Some(end)) = (one.ended_at, other.ended_at.max(one.ended_at)) else { return };
    let mut merged = without(faults, &[next], &search.fired);
    merged[index].duration = Some(Duration::from_nanos(end.as_nanos().saturating_sub(one.at.as_nanos()).max(1)));
    let candidate = search.with_faults(merged);
    search.offer(&candidate);
}

fn simpler(fault: &Fault) -> Vec<Fault> {
    let mut simpler = Vec::new();
    let mut with = |action: Action, target: Option<Target>| {
        simpler.push(Fault { action, target, ..fault.clone() });
    };
    match &fault.action {
        Action::PowerLoss(survivors) => {
            with(Action::Crash, fault.target.clone());
            if *survivors != Survivors::NOTHING {
                with(Action::PowerLoss(Survivors::NOTHING), fault.target.clone());
            }
        }
        Action::Partition { groups, one_way } => {
            if *one_way {
                with(Action::Partition { groups: groups.clone(), one_way: false }, None);
            }
            // Whoever is left out keeps all links: a smaller fault.
            for (side, members) in groups.iter().enumerate().filter(|(_, members)| members.len() > 1) {
                for member in 0..members.len() {
                    let mut groups = groups.clone();
                    groups[side].remove(member);
                    with(Action::Partition { groups, one_way: *one_way }, None);
                }
            }
        }
        Action::Delay { links, by, jitter } => {
            if links.both_ways {
                with(Action::Delay { links: one_way(links), by: *by, jitter: *jitter }, None);
            }
            if !jitter.is_zero() {
                with(Action::Delay { links: links.clone(), by: *by, jitter: Duration::ZERO }, None);
            }
        }
        Action::Throttle { links, bandwidth } if links.both_ways => {
            with(Action::Throttle { links: one_way(links), bandwidth: *bandwidth }, None);
        }
        Action::PacketLoss { links, loss } if links.both_ways => {
            with(Action::PacketLoss { links: one_way(links), loss: *loss }, None);
        }
        Action::Flap { links, cycle } => {
            with(
                Action::Partition {
                    groups: vec![vec![links.from.clone()], vec![links.to.clone()]],
                    one_way: !links.both_ways,
                },
                None,
            );
            if links.both_ways {
                with(Action::Flap { links: one_way(links), cycle: *cycle }, None);
            }
        }
        Action::CrashLoop { .. } => with(Action::Crash, fault.target.clone()),
        Action::Disk { what, on } if *on != DiskScope::default() && !matches!(what, DiskAction::BitRot(_)) => {
            with(Action::Disk { what: what.clone(), on: DiskScope::default() }, fault.target.clone());
        }
        Action::Restart { config } if !config.is_empty() => {
            with(Action::Restart { config: BTreeMap::new() }, fault.target.clone());
        }
        Action::DelayMessage { messages, by } => {
            for messages in wider(messages) {
                with(Action::DelayMessage { messages, by: *by }, None);
            }
        }
        Action::DropMessage { messages } => {
            for messages in wider(messages) {
                with(Action::DropMessage { messages }, None);
            }
        }
        Action::Crash
        | Action::Disk { .. }
        | Action::Restart { .. }
        | Action::Pause
        | Action::Resume
        | Action::Isolate
        | Action::Throttle { .. }
        | Action::PacketLoss { .. }
        | Action::SlowDrain { .. }
        | Action::SlowCpu { .. }
        | Action::ClockStep { .. }
        | Action::ClockDrift { .. }
        | Action::ClockStrobe { .. }
        | Action::ClockFreeze
        | Action::Heal
        | Action::ControlledShutdown
        | Action::ElectPreferred { .. }
        | Action::CreatePartitions { .. }
        | Action::DeleteRecords { .. } => {}
    }
    if fault.duration.is_some() {
        simpler.push(Fault { duration: None, ..fault.clone() });
    }
    if !fault.after.is_zero() {
        simpler.push(Fault { after: Duration::ZERO, ..fault.clone() });
    }
    simpler
}

fn one_way(links: &Links) -> Links {
    Links { both_ways: false, ..links.clone() }
}

/// Fewer words for which messages are meant.
fn wider(messages: &Messages) -> Vec<Messages> {
    let mut wider = Vec::new();
    if messages.from.is_some() {
        wider.push(Messages { from: None, ..messages.clone() });
    }
    if messages.to.is_some() {
        wider.push(Messages { to: None, ..messages.clone() });
    }
    wider
}

/// Every time of the schedule on the roundest number that still fails, and shorter rather than longer.
pub(super) fn round_times(search: &mut Search<'_>) {
    for index in 0..search.faults().len() {
        for part in [Part::Start, Part::After, Part::Length, Part::By] {
            let Some(time) = part.of(&mut search.faults()[index].clone()).map(|time| *time) else { continue };
            for rounder in rounder(time) {
                let mut faults = search.faults().to_vec();
                if let Some(time) = part.of(&mut faults[index]) {
                    *time = rounder;
                }
                let candidate = search.with_faults(faults);
                if search.offer(&candidate) {
                    break;
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Part {
    Start,
    After,
    Length,
    By,
}

impl Part {
    fn of(self, fault: &mut Fault) -> Option<&mut Duration> {
        match self {
            Part::Start => match &mut fault.when {
                When::At(at) => Some(at),
                When::Condition(_) => None,
            },
            Part::After => Some(&mut fault.after).filter(|after| !after.is_zero()),
            Part::Length => fault.duration.as_mut(),
            Part::By => match &mut fault.action {
                Action::Delay { by, .. } | Action::DelayMessage { by, .. } | Action::SlowCpu { by } => Some(by),
                Action::CrashLoop { cycle } | Action::Flap { cycle, .. } | Action::ClockStrobe { cycle, .. } => {
                    Some(&mut cycle.period)
                }
                Action::Crash
                | Action::PowerLoss(_)
                | Action::Disk { .. }
                | Action::Restart { .. }
                | Action::Pause
                | Action::Resume
                | Action::Isolate
                | Action::Partition { .. }
                | Action::Throttle { .. }
                | Action::PacketLoss { .. }
                | Action::DropMessage { .. }
                | Action::SlowDrain { .. }
                | Action::ClockStep { .. }
                | Action::ClockDrift { .. }
                | Action::ClockFreeze
                | Action::Heal
                | Action::ControlledShutdown
                | Action::ElectPreferred { .. }
                | Action::CreatePartitions { .. }
                | Action::DeleteRecords { .. } => None,
            },
        }
    }
}

/// Rounder than `time`, the roundest first: below it, then above it.
pub(super) fn rounder(time: Duration) -> Vec<Duration> {
    let now = time.as_nanos() as u64;
    let mut rounder = Vec::new();
    for unit in [5_000_000_000, 1_000_000_000, 500_000_000, 100_000_000, 10_000_000, 1_000_000_u64] {
        let below = now / unit * unit;
        if below == now {
            break;
        }
        for candidate in [below, below + unit] {
            if candidate > 0 {
                rounder.push(Duration::from_nanos(candidate));
            }
        }
    }
    rounder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Time;

    fn at(seconds: u64) -> When {
        When::At(Duration::from_secs(seconds))
    }

    fn after(index: usize) -> When {
        When::Condition(Condition::Fault { index, ended: true })
    }

    fn crash(when: When, target: Target) -> Fault {
        let (after, text) = (Duration::ZERO, (String::new(), String::new()));
        Fault { when, after, action: Action::Crash, target: Some(target), duration: None, text, line: 0 }
    }

    fn fired(index: usize, seconds: u64) -> FiredFault {
        let at = Time::from_millis(seconds * 1_000);
        FiredFault { index, at, ended_at: None, resolved: Vec::new(), refused: None }
    }

    #[test]
    fn what_waited_for_a_fault_that_is_gone_starts_when_it_did() {
        let faults = [crash(at(1), Target::Broker(1)), crash(after(1), Target::Broker(2))];
        let left = without(&faults, &[0], &[fired(0, 1), fired(1, 7)]);
        assert_eq!(left, [crash(at(7), Target::Broker(2))]);
    }

    #[test]
    fn what_never_started_goes_with_what_it_waited_for() {
        let faults = [
            crash(at(1), Target::Broker(1)),
            crash(after(1), Target::Broker(2)),
            crash(after(2), Target::Broker(3)),
            crash(at(2), Target::Brokers),
        ];
        let left = without(&faults, &[0], &[fired(0, 1), fired(3, 2)]);
        assert_eq!(left, [crash(at(2), Target::Brokers)]);
    }

    #[test]
    fn references_follow_the_faults_that_stay() {
        let faults =
            [crash(at(1), Target::Broker(1)), crash(at(2), Target::Broker(2)), crash(after(2), Target::SameAs(2))];
        let left = without(&faults, &[0], &[fired(0, 1), fired(1, 2)]);
        assert_eq!(left, [crash(at(2), Target::Broker(2)), crash(after(1), Target::SameAs(1))]);
    }

    #[test]
    fn an_aim_through_faults_that_are_gone_becomes_their_target() {
        let faults = [
            crash(at(1), Target::Leader("orders-0".to_owned())),
            crash(at(2), Target::SameAs(1)),
            crash(at(3), Target::SameAs(2)),
        ];
        let left = without(&faults, &[0, 1], &[]);
        assert_eq!(left, [crash(at(3), Target::Leader("orders-0".to_owned()))]);
    }

    #[test]
    fn rounder_times_come_the_roundest_first() {
        let ms = Duration::from_millis;
        let of_1234 = rounder(ms(1_234));
        assert_eq!(of_1234[..4], [ms(5_000), ms(1_000), ms(2_000), ms(1_000)]);
        assert!(rounder(ms(5_000)).is_empty(), "it is as round as can be");
    }
}
