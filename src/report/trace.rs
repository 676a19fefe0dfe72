//! The trace as text, for people: `12.345678s broker-1 truncated orders-0 from 210 to 200 (diverging epoch)`; and
//! saved, one JSON object per line, `{"ns": …, "machine": "broker-1", "what": {…}}`, from which it can be read back.

use std::fmt;
use std::io::{self, BufRead, Write};

use crate::client::ResetReason;
use crate::lab::outcome::{Phase, TraceEvent, TraceKind};
use crate::observe::{BatchInfo, LogStartReason, Observation, Sequences, TruncationReason};
use crate::protocol::BrokerId;
use crate::world::Time;

/// An event as one line: simulated time, machine, what happened.
pub struct Line<'a>(pub &'a TraceEvent);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.0.at, self.0.machine, What(&self.0.what))
    }
}

/// One line of a saved trace, without the line end.
pub fn saved_line(event: &TraceEvent) -> String {
    serde_json::to_string(event).expect("an event has string keys and integers")
}

/// Saves a trace as JSON Lines, one event per line, that [`read`] gives back without loss.
pub fn write(out: &mut impl Write, trace: &[TraceEvent]) -> io::Result<()> {
    let mut line = Vec::with_capacity(256);
    for event in trace {
        line.clear();
        serde_json::to_writer(&mut line, event)?;
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(())
}

/// A line of a saved trace that is not an event.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("line {line}: not an event of a trace: {error}")]
    Line { line: usize, error: serde_json::Error },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads what [`write`] saved.
pub fn read(mut input: impl BufRead) -> Result<Vec<TraceEvent>, TraceError> {
    let mut trace = Vec::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if input.read_until(b'\n', &mut text)? == 0 {
            break;
        }
        trace.push(serde_json::from_slice(&text).map_err(|error| TraceError::Line { line, error })?);
    }
    Ok(trace)
}

/// The last `events_max` events up to `until` that tell how `partition` (any, if `None`) came to where it
/// is: what brokers, the controller and the nemesis did; not each record sent and served.
pub fn leading_up_to(trace: &[TraceEvent], until: Time, partition: Option<&str>, events_max: usize) -> Vec<String> {
    let concerns = |event: &&TraceEvent| match &event.what {
        TraceKind::Observed(observation) => concerns(observation, partition),
        TraceKind::FaultStarted { .. }
        | TraceKind::FaultEnded { .. }
        | TraceKind::FaultHit { .. }
        | TraceKind::Started
        | TraceKind::Stopped { .. }
        | TraceKind::Phase(_) => true,
        TraceKind::Sent { .. }
        | TraceKind::BatchSent { .. }
        | TraceKind::BatchRetried { .. }
        | TraceKind::Acked { .. }
        | TraceKind::Failed { .. }
        | TraceKind::Unknown { .. }
        | TraceKind::PositionReset { .. }
        | TraceKind::ReadFailed { .. }
        | TraceKind::Process { .. }
        | TraceKind::Joined { .. }
        | TraceKind::Violated { .. } => false,
    };
    let mut lines: Vec<String> = trace[..trace.partition_point(|event| event.at <= until)]
        .iter()
        .rev()
        .filter(concerns)
        .take(events_max)
        .map(|event| Line(event).to_string())
        .collect();
    lines.reverse();
    lines
}

fn concerns(observation: &Observation, of: Option<&str>) -> bool {
    match observation {
        Observation::LogLoaded { partition, .. }
        | Observation::Appended { partition, .. }
        | Observation::Truncated { partition, .. }
        | Observation::LogStartMoved { partition, .. }
        | Observation::Compacted { partition, .. }
        | Observation::ProducersExpired { partition, .. }
        | Observation::HighWatermark { partition, as_leader: true, .. }
        | Observation::BecameLeader { partition, .. }
        | Observation::BecameFollower { partition, .. }
        | Observation::ReferredTo { partition, .. }
        | Observation::IsrView { partition, .. }
        | Observation::Unclaimed { partition, .. }
        | Observation::OffsetExpired { partition, .. }
        | Observation::PartitionChanged { partition, .. } => of.is_none_or(|name| partition.to_string() == name),
        Observation::Registered { .. }
        | Observation::Fenced { .. }
        | Observation::GroupDeleted { .. }
        | Observation::Downgraded { .. }
        | Observation::Unwatched { .. }
        | Observation::UnawaitedSync { .. }
        | Observation::RefusedJoin { .. }
        | Observation::LogDirFailed { .. }
        | Observation::CleanShutdown => true,
        Observation::HighWatermark { as_leader: false, .. }
        | Observation::Flushed { .. }
        | Observation::Acknowledged { .. }
        | Observation::Refused { .. }
        | Observation::OutOfSequence { .. }
        | Observation::BeyondSegment { .. }
        | Observation::BeforeLogEnd { .. }
        | Observation::Served { .. }
        | Observation::LatestOffset { .. } => false,
    }
}

struct What<'a>(&'a TraceKind);

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            TraceKind::Observed(observation) => observed(observation, f),
            TraceKind::Sent { partition, value } => write!(f, "sent {value} to {partition}"),
            TraceKind::Acked { partition, value, offset: Some(offset) } => {
                write!(f, "got {value} acknowledged at {partition} offset {offset}")
            }
            TraceKind::Acked { partition, value, offset: None } => write!(f, "got {value} acknowledged at {partition}"),
            TraceKind::Failed { partition, value, error } => {
                write!(f, "failed to send {value} to {partition}: {error}")
            }
            TraceKind::Unknown { partition, value, error } => {
                write!(f, "does not know what became of {value} to {partition}: {error}")
            }
            TraceKind::BatchSent { partition, crc, values, attempt, broker, restated } => {
                write!(f, "asked broker-{broker} to append {} to {partition} (crc {crc:08x}", Values(values))?;
                f.write_str(if *restated { ", in a new producer epoch" } else { "" })?;
                if *attempt > 1 { write!(f, ", attempt {attempt})") } else { f.write_str(")") }
            }
            TraceKind::BatchRetried { partition, crc, attempt, error } => {
                write!(f, "will retry crc {crc:08x} of {partition} after attempt {attempt}: {error}")
            }
            TraceKind::PositionReset { partition, from, to, reason } => {
                write!(f, "moved its position in {partition} from {from} to {to} ({})", reset_text(*reason))
            }
            TraceKind::ReadFailed { error } => write!(f, "cannot read on: {error}"),
            TraceKind::Joined { generation } => write!(f, "joined generation {generation}"),
            TraceKind::Process { process } => write!(f, "is process {process} of the history"),
            TraceKind::Violated { name, partition, detail } => {
                write!(f, "saw {name} violated in {partition}: {detail}")
            }
            TraceKind::FaultStarted { index, targets } => write!(f, "began fault {} on {}", index + 1, names(targets)),
            TraceKind::FaultEnded { index, targets } => write!(f, "ended fault {} on {}", index + 1, names(targets)),
            TraceKind::FaultHit { index, detail } => write!(f, "by fault {}: {detail}", index + 1),
            TraceKind::Started => f.write_str("started"),
            TraceKind::Stopped { power_lost: true } => f.write_str("lost power"),
            TraceKind::Stopped { power_lost: false } => f.write_str("stopped"),
            TraceKind::Phase(phase) => f.write_str(match phase {
                Phase::Workload => "phase: workloads begin",
                Phase::Healed => "phase: faults stopped, everything healed",
                Phase::FinalRead => "phase: final read begins",
                Phase::Done => "phase: done",
            }),
        }
    }
}

fn observed(observation: &Observation, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match observation {
        Observation::LogLoaded { partition, log_start, log_end, high_watermark, batches, dropped_bytes, clean } => {
            write!(
                f,
                "loaded {partition} [{log_start}, {log_end}) high watermark {high_watermark}, {}",
                Batches(batches)
            )?;
            write!(f, ", {dropped_bytes} bytes dropped, {} stop", if *clean { "clean" } else { "unclean" })
        }
        Observation::Appended { partition, as_leader, leader_epoch, batches, sequences } => {
            let role = if *as_leader { "leader" } else { "follower" };
            write!(f, "appended to {partition} as {role} in epoch {leader_epoch}: {}", Batches(batches))?;
            match sequences {
                Some(Sequences { producer_id, producer_epoch, first, last }) => {
                    write!(f, ", sequences {first} to {last} of producer {producer_id} in its epoch {producer_epoch}")
                }
                None => Ok(()),
            }
        }
        Observation::ProducersExpired { partition, producer_ids } => {
            write!(f, "forgot the producers {producer_ids:?} of {partition}, which have been silent for too long")
        }
        Observation::Truncated { partition, from, to, reason } => {
            write!(f, "truncated {partition} from {from} to {to} ({})", reason_text(*reason))
        }
        Observation::LogStartMoved { partition, from, to, reason } => {
            write!(f, "moved the log start of {partition} from {from} to {to} ({})", log_start_text(*reason))
        }
        Observation::Compacted { partition, from, to, batches, .. } => {
            write!(f, "compacted {partition} from {from} to {to}, {} batches are left", batches.len())
        }
        Observation::Flushed { partition, offset } => write!(f, "flushed {partition} below {offset}"),
        Observation::HighWatermark { partition, offset, as_leader } => {
            let role = if *as_leader { "leader" } else { "follower" };
            write!(f, "moved the high watermark of {partition} to {offset} as {role}")
        }
        Observation::BecameLeader { partition, leader_epoch, log_end, isr } => {
            write!(f, "leads {partition} in epoch {leader_epoch} from log end {log_end}, ISR {}", brokers(isr))
        }
        Observation::BecameFollower { partition, leader_epoch, leader, log_end } => {
            write!(f, "follows broker-{leader} for {partition} in epoch {leader_epoch} from log end {log_end}")
        }
        Observation::IsrView { partition, isr, maximal_isr, pending } => {
            let state = if *pending { "asked for" } else { "knows" };
            write!(f, "{state} ISR {} of {partition} (maximal {})", brokers(isr), brokers(maximal_isr))
        }
        Observation::Acknowledged { partition, required_acks, base_offset, last_offset } => {
            write!(f, "acknowledged {partition} {base_offset} to {last_offset} (acks={required_acks})")
        }
        Observation::BeforeLogEnd { partition } => {
            write!(f, "gave {partition} up: what its leader sends begins before its own log ends")
        }
        Observation::BeyondSegment { partition } => {
            write!(f, "gave {partition} up: what its leader sends is larger than segment.bytes")
        }
        Observation::OutOfSequence { partition, crc } => {
            write!(f, "refused batch {crc:08x} for {partition}: it is out of sequence")
        }
        Observation::Refused { partition, error_code } => {
            write!(f, "refused to append to {partition}: error {error_code}")
        }
        Observation::Served { partition, from, to } => write!(f, "served {partition} [{from}, {to})"),
        Observation::ReferredTo { partition, offset, replica } => {
            write!(f, "sent a consumer at offset {offset} of {partition} to broker-{replica}")
        }
        Observation::LatestOffset { partition, offset } => write!(f, "said that {partition} ends at {offset}"),
        Observation::Registered { broker_epoch } => write!(f, "registered with broker epoch {broker_epoch}"),
        Observation::Fenced { broker, broker_epoch, fenced } => {
            write!(f, "{} broker-{broker} (broker epoch {broker_epoch})", if *fenced { "fenced" } else { "unfenced" })
        }
        Observation::PartitionChanged { partition, leader, leader_epoch, partition_epoch, isr, replicas, unclean } => {
            if *leader == BrokerId::NONE {
                write!(f, "committed {partition}: no leader")?;
            } else {
                write!(f, "committed {partition}: leader broker-{leader}")?;
            }
            write!(f, " in epoch {leader_epoch}, ISR {} of {}", brokers(isr), brokers(replicas))?;
            write!(f, ", partition epoch {partition_epoch}{}", if *unclean { ", unclean" } else { "" })
        }
        Observation::GroupDeleted { group } => write!(f, "deleted group {group}"),
        Observation::Downgraded { group, generation } => {
            write!(f, "made a classic group of {group}, whose members are to join again, in generation {generation}")
        }
        Observation::Unwatched { group } => {
            write!(f, "group {group} keeps a member that leaves: that cannot be stored, and its session is not watched")
        }
        Observation::UnawaitedSync { group } => {
            write!(f, "group {group} got the SyncGroup of a member for which it had ceased to wait")
        }
        Observation::RefusedJoin { group } => write!(f, "group {group} told a member to join that was joining"),
        Observation::OffsetExpired { group, partition, offset, is_rebalancing } => {
            let rebalancing = if *is_rebalancing { ", which rebalances" } else { "" };
            write!(f, "the commit of {offset} in {partition} by group {group}{rebalancing} has expired")
        }
        Observation::Unclaimed { group, partition } => {
            write!(f, "group {group} gives {partition} to others: who may have it has not let go of it")
        }
        Observation::LogDirFailed { log_dir } => write!(f, "log directory {log_dir} failed"),
        Observation::CleanShutdown => f.write_str("shut down cleanly"),
    }
}

/// Why a log was cut, in words.
pub fn reason_text(reason: TruncationReason) -> &'static str {
    match reason {
        TruncationReason::DivergingEpoch => "diverging epoch",
        TruncationReason::OutOfRange => "out of range",
        TruncationReason::HighWatermark => "to the high watermark",
    }
}

/// Why a log begins later than before, in words.
pub fn log_start_text(reason: LogStartReason) -> &'static str {
    match reason {
        LogStartReason::RetentionTime => "retention.ms",
        LogStartReason::RetentionSize => "retention.bytes",
        LogStartReason::DeleteRecords => "DeleteRecords",
        LogStartReason::Leader => "as its leader's log",
    }
}

/// Why a consumer's position was moved, in words.
pub fn reset_text(reason: ResetReason) -> &'static str {
    match reason {
        ResetReason::OutOfRange => "OFFSET_OUT_OF_RANGE",
        ResetReason::Truncation => "log truncation",
    }
}

/// `12`, `12 to 14`, `12, 15 and 17`, or how many if they are scattered.
struct Values<'a>(&'a [u64]);

impl fmt::Display for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("values given up"),
            [one] => write!(f, "{one}"),
            [first, .., last] if last - first + 1 == self.0.len() as u64 => write!(f, "{first} to {last}"),
            [first, .., last] => write!(f, "{} values from {first} to {last}", self.0.len()),
        }
    }
}

/// `[1, 2, 3]`
pub fn brokers(ids: &[BrokerId]) -> String {
    format!("{ids:?}")
}

fn names(targets: &[String]) -> String {
    if targets.is_empty() { "nothing".to_owned() } else { targets.join(", ") }
}

/// Batches in short: their range, how many, and a digest of all their fields.
struct Batches<'a>(&'a [BatchInfo]);

impl fmt::Display for Batches<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else { return f.write_str("no batch") };
        let mut digest = xxhash_rust::xxh3::Xxh3Default::new();
        for BatchInfo { base_offset, last_offset, leader_epoch, crc } in self.0 {
            digest.update(&base_offset.0.to_le_bytes());
            digest.update(&last_offset.0.to_le_bytes());
            digest.update(&leader_epoch.0.to_le_bytes());
            digest.update(&crc.to_le_bytes());
        }
        let (from, to) = (first.base_offset, last.last_offset);
        match self.0.len() {
            1 => write!(f, "{from} to {to} (crc {:08x})", first.crc),
            count => write!(f, "{from} to {to} in {count} batches (digest {:016x})", digest.digest()),
        }
    }
}
