//! `[[fault]]`.

use super::{flag, inline_config, line, list, machines, pair, quantity, quoted, time};
use crate::scenario::disk::{self, Aim, BatchField, BitRot, DiskAction, RotPlace};
use crate::scenario::{Action, Cycle, Fault, Messages, Target, When};
use crate::world::sim::{Direction, DiskFault, Survival, Survivors};

pub(super) fn fault(out: &mut String, fault: &Fault) {
    let Fault { when, after, action, target, duration, text: _, line: _ } = fault;
    line(out, format_args!("\n[[fault]]"));
    match when {
        When::At(at) => time(out, "at", *at),
        When::Condition(condition) => pair(out, "when", &quoted(&condition.to_string())),
    }
    if !after.is_zero() {
        time(out, "after", *after);
    }
    pair(out, "do", &quoted(word(action)));
    match (action, target) {
        (Action::Disk { on: scope, .. }, Some(machines)) => {
            pair(out, "target", &quoted(&Aim { machines, scope }.to_string()));
        }
        (_, Some(target)) => pair(out, "target", &quoted(&target.to_string())),
        (_, None) => {}
    }
    details(out, action);
    if let Some(duration) = duration {
        time(out, "for", *duration);
    }
}

fn word(action: &Action) -> &'static str {
    match action {
        Action::Crash => "crash",
        Action::PowerLoss(_) => "power-loss",
        Action::Disk { what, on: _ } => disk_word(what),
        Action::Restart { .. } => "restart",
        Action::CrashLoop { .. } => "crash-loop",
        Action::Pause => "pause",
        Action::Resume => "resume",
        Action::Isolate => "isolate",
        Action::Partition { .. } => "partition",
        Action::Delay { .. } => "delay",
        Action::Throttle { .. } => "throttle",
        Action::PacketLoss { .. } => "packet-loss",
        Action::Flap { .. } => "flap",
        Action::DelayMessage { .. } => "delay-message",
        Action::DropMessage { .. } => "drop-message",
        Action::SlowDrain { .. } => "slow-drain",
        Action::SlowCpu { .. } => "slow-cpu",
        Action::ClockStep { .. } => "clock-step",
        Action::ClockDrift { .. } => "clock-drift",
        Action::ClockStrobe { .. } => "clock-strobe",
        Action::ClockFreeze => "clock-freeze",
        Action::Heal => "heal",
        Action::ControlledShutdown => "controlled-shutdown",
        Action::ElectPreferred { .. } => "elect-preferred",
        Action::DeleteRecords { .. } => "delete-records",
        Action::CreatePartitions { .. } => "create-partitions",
    }
}

/// The keys that go with an action.
fn details(out: &mut String, action: &Action) {
    match action {
        Action::Restart { config } => {
            inline_config(out, config.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        }
        Action::CrashLoop { cycle } => self::cycle(out, cycle),
        Action::PowerLoss(Survivors { pages, entries }) => {
            for (key, survival) in [("pages", pages), ("entries", entries)] {
                match survival {
                    Survival::Nothing => {}
                    Survival::Chosen(numbers) => pair(out, key, &disk::numbers_text(*numbers)),
                    Survival::Everything | Survival::Prefix | Survival::Subset => {
                        pair(out, key, &quoted(&disk::survival_text(*survival)));
                    }
                }
            }
        }
        Action::Disk { what, on: _ } => disk_details(out, what),
        Action::Partition { groups, one_way } => partition(out, groups, *one_way),
        Action::Delay { links, by, jitter } => {
            machines::links(out, links);
            time(out, "by", *by);
            if !jitter.is_zero() {
                time(out, "jitter", *jitter);
            }
        }
        Action::Throttle { links, bandwidth } => {
            machines::links(out, links);
            pair(out, "bandwidth", &quoted(&quantity::bandwidth(*bandwidth)));
        }
        Action::PacketLoss { links, loss } => {
            machines::links(out, links);
            pair(out, "loss", &quoted(&quantity::share(*loss)));
        }
        Action::Flap { links, cycle } => {
            machines::links(out, links);
            self::cycle(out, cycle);
        }
        Action::DelayMessage { messages, by } => {
            self::messages(out, messages);
            time(out, "by", *by);
        }
        Action::DropMessage { messages } => self::messages(out, messages),
        Action::SlowDrain { bandwidth } => pair(out, "bandwidth", &quoted(&quantity::bandwidth(*bandwidth))),
        Action::SlowCpu { by } => time(out, "by", *by),
        Action::ClockStep { by_ns } => pair(out, "by", &quoted(&quantity::shift(*by_ns))),
        Action::ClockDrift { drift_ppm } => pair(out, "drift", &quoted(&quantity::drift(*drift_ppm))),
        Action::ClockStrobe { by_ns, cycle } => {
            pair(out, "by", &quoted(&quantity::shift(*by_ns)));
            self::cycle(out, cycle);
        }
        Action::ElectPreferred { of } => pair(out, "target", &quoted(of)),
        Action::CreatePartitions { topic, count } => {
            pair(out, "target", &quoted(topic));
            pair(out, "count", &count.to_string());
        }
        Action::DeleteRecords { of, before } => {
            pair(out, "target", &quoted(of));
            if let Some(before) = before {
                pair(out, "before-offset", &before.to_string());
            }
        }
        Action::Crash
        | Action::Pause
        | Action::Resume
        | Action::Isolate
        | Action::ClockFreeze
        | Action::Heal
        | Action::ControlledShutdown => {}
    }
}

fn disk_word(what: &DiskAction) -> &'static str {
    match what {
        DiskAction::Fault(DiskFault::SyncSlow(_)) => "fsync-slow",
        DiskAction::Fault(DiskFault::SyncFail) => "fsync-fail",
        DiskAction::Fault(DiskFault::SyncLie) => "fsync-lie",
        DiskAction::Fault(DiskFault::ReadSlow(_)) => "read-slow",
        DiskAction::Fault(DiskFault::ReadFail) => "read-fail",
        DiskAction::Fault(DiskFault::ReadShort) => "read-short",
        DiskAction::Fault(DiskFault::WriteSlow(_)) => "write-slow",
        DiskAction::Fault(DiskFault::WriteFail) => "write-fail",
        DiskAction::Fault(DiskFault::WriteLost) => "write-lost",
        DiskAction::Fault(DiskFault::WriteMisdirected) => "write-misdirected",
        DiskAction::Fault(DiskFault::Stall) => "disk-stall",
        DiskAction::Fault(DiskFault::Throttle { .. }) => "disk-throttle",
        DiskAction::Fault(DiskFault::Full { .. }) => "disk-full",
        DiskAction::BitRot(_) => "bit-rot",
        DiskAction::DropCache => "drop-cache",
        DiskAction::Replace => "disk-replace",
    }
}

fn disk_details(out: &mut String, what: &DiskAction) {
    match what {
        DiskAction::Fault(DiskFault::SyncSlow(by) | DiskFault::ReadSlow(by) | DiskFault::WriteSlow(by)) => {
            time(out, "by", *by);
        }
        DiskAction::Fault(DiskFault::Throttle { bytes_per_second }) => {
            pair(out, "bandwidth", &quoted(&quantity::bandwidth(*bytes_per_second)));
        }
        DiskAction::Fault(DiskFault::Full { free_bytes }) => pair(out, "free-bytes", &free_bytes.to_string()),
        DiskAction::BitRot(BitRot { segment, place, bit }) => {
            if let Some(segment) = segment {
                pair(out, "segment", &quoted(disk::name_of(disk::SEGMENTS, segment)));
            }
            match place {
                RotPlace::Byte(byte) => pair(out, "byte", &byte.to_string()),
                RotPlace::Field(batch, field) => {
                    pair(out, "batch", &quoted(disk::name_of(disk::BATCHES, batch)));
                    pair(out, "field", &quoted(disk::name_of(BatchField::NAMES, field)));
                }
            }
            if *bit != 0 {
                pair(out, "bit", &bit.to_string());
            }
        }
        DiskAction::Fault(
            DiskFault::SyncFail
            | DiskFault::SyncLie
            | DiskFault::ReadFail
            | DiskFault::ReadShort
            | DiskFault::WriteFail
            | DiskFault::WriteLost
            | DiskFault::WriteMisdirected
            | DiskFault::Stall,
        )
        | DiskAction::DropCache
        | DiskAction::Replace => {}
    }
}

fn partition(out: &mut String, groups: &[Vec<Target>], one_way: bool) {
    let group = |members: &Vec<Target>| list(&members.iter().map(Target::to_string).collect::<Vec<_>>());
    let groups: Vec<String> = groups.iter().map(group).collect();
    pair(out, "groups", &format!("[{}]", groups.join(", ")));
    flag(out, "one-way", one_way);
}

fn cycle(out: &mut String, cycle: &Cycle) {
    let Cycle { period, duty, count } = cycle;
    time(out, "period", *period);
    pair(out, "duty", &quoted(&quantity::share(*duty)));
    if let Some(count) = count {
        pair(out, "count", &count.to_string());
    }
}

fn messages(out: &mut String, messages: &Messages) {
    let Messages { request: (request, _), direction, from, to, count } = messages;
    pair(out, "request", &quoted(request));
    let direction = match direction {
        Direction::Request => "request",
        Direction::Response => "response",
    };
    pair(out, "direction", &quoted(direction));
    for (key, end) in [("from", from), ("to", to)] {
        if let Some(end) = end {
            pair(out, key, &quoted(&end.to_string()));
        }
    }
    if let Some(count) = count {
        pair(out, "count", &count.to_string());
    }
}
