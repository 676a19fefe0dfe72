//! What became of the first lost record, told from the trace: where it was appended and acknowledged, who
//! had it then, who was elected without it, who cut it off or lost it with its page cache.

use std::collections::BTreeMap;

use super::judge::{LostRecord, seconds};
use super::model::Account;
use super::trace::{brokers, log_start_text, reason_text};
use crate::check::broker_of;
use crate::lab::outcome::{RunOutcome, TraceEvent, TraceKind};
use crate::observe::{BatchInfo, Observation};
use crate::protocol::{BrokerId, Offset, TopicPartition};
use crate::scenario::Variant;
use crate::world::Time;

/// Events told between the acknowledgement and the end.
const EVENTS_TOLD_MAX: usize = 6;

/// The account of the first record of `lost` (in order of acknowledgement) whose offset is known and whose
/// append is in the trace.
pub fn first_lost(lost: &[LostRecord<'_>], variant: &Variant, outcome: &RunOutcome) -> Option<Account> {
    lost.iter().find_map(|record| {
        let partition = TopicPartition::parse(record.key)?;
        let offset = Offset(record.offset?);
        let story = Story::begin(record, &partition, offset, outcome)?;
        let same_partition: Vec<i64> = lost.iter().filter(|r| r.key == record.key).filter_map(|r| r.offset).collect();
        let lines = story.tell(record, variant, &same_partition);
        Some(Account { partition: record.key.to_owned(), offset: offset.0, value: record.value.clone(), lines })
    })
}

/// One replica's log and what it knows, replayed from its observations.
#[derive(Default)]
struct Replica {
    batches: Vec<BatchInfo>,
    power_lost: bool,
}

impl Replica {
    fn has(&self, batch: &BatchInfo) -> bool {
        let at = self.batches.partition_point(|b| b.base_offset < batch.base_offset);
        self.batches.get(at) == Some(batch)
    }

    fn log_end(&self) -> Offset {
        self.batches.last().map_or(Offset::ZERO, |batch| batch.last_offset + 1)
    }
}

/// The record's batch and everything around it.
struct Story<'a> {
    partition: &'a TopicPartition,
    offset: Offset,
    outcome: &'a RunOutcome,
    batch: BatchInfo,
    /// Positions in the trace: the append by the leader, and its acknowledgement.
    appended: usize,
    acknowledged: usize,
}

impl<'a> Story<'a> {
    fn begin(
        record: &LostRecord<'_>,
        partition: &'a TopicPartition,
        offset: Offset,
        outcome: &'a RunOutcome,
    ) -> Option<Story<'a>> {
        let known = outcome.trace.partition_point(|event| event.at <= record.acked_at);
        let covers = |batch: &&BatchInfo| batch.base_offset <= offset && offset <= batch.last_offset;
        let (appended, batch) =
            outcome.trace[..known].iter().enumerate().rev().find_map(|(at, event)| match &event.what {
                TraceKind::Observed(Observation::Appended { partition: p, as_leader: true, batches, .. })
                    if p == partition =>
                {
                    batches.iter().find(covers).map(|batch| (at, *batch))
                }
                _ => None,
            })?;
        let leader = &outcome.trace[appended].machine;
        let answered = outcome.trace[appended..known].iter().position(|event| match &event.what {
            TraceKind::Observed(Observation::Acknowledged { partition: p, base_offset, last_offset, .. }) => {
                event.machine == *leader && p == partition && *base_offset <= offset && offset <= *last_offset
            }
            _ => false,
        });
        let acknowledged = answered.map_or(known - 1, |at| appended + at);
        Some(Story { partition, offset, outcome, batch, appended, acknowledged })
    }

    fn tell(&self, record: &LostRecord<'_>, variant: &Variant, lost_offsets: &[i64]) -> Vec<String> {
        let mut replay = Replay::new(self);
        for event in &self.outcome.trace[..=self.acknowledged] {
            replay.step(event);
        }
        let mut lines = vec![self.append_line(record), replay.holders_line()];
        replay.told.clear();
        for event in &self.outcome.trace[self.acknowledged + 1..] {
            replay.step(event);
            if replay.holders().is_empty() {
                break;
            }
        }
        let left_out = replay.told.len().saturating_sub(EVENTS_TOLD_MAX);
        if left_out > 0 {
            // The beginning and the end of the story matter most.
            replay.told.drain(EVENTS_TOLD_MAX / 2..EVENTS_TOLD_MAX / 2 + left_out);
        }
        lines.append(&mut replay.told);
        let holders = replay.holders();
        if !holders.is_empty() {
            lines.push(format!("{} still had it at the end, but no reader got it.", machines(&holders)));
        }
        lines.push(self.conclusion(variant, lost_offsets));
        lines
    }

    fn append_line(&self, record: &LostRecord<'_>) -> String {
        let event = &self.outcome.trace[self.appended];
        let acks = match &self.outcome.trace[self.acknowledged].what {
            TraceKind::Observed(Observation::Acknowledged { required_acks: -1, .. }) => " (acks=all)".to_owned(),
            TraceKind::Observed(Observation::Acknowledged { required_acks, .. }) => format!(" (acks={required_acks})"),
            _ => String::new(),
        };
        format!(
            "{} sent {}: {}, leader in epoch {}, appended it to {} at offset {} at {}; acknowledged at {}{acks}.",
            self.producer(record),
            record.value,
            event.machine,
            self.batch.leader_epoch,
            self.partition,
            self.offset,
            self.since_start(event.at),
            self.since_start(record.acked_at),
        )
    }

    fn producer(&self, record: &LostRecord<'_>) -> String {
        let acked = self.outcome.trace.iter().find(|event| {
            event.at == record.acked_at
                && matches!(&event.what, TraceKind::Acked { partition, offset, .. }
                    if partition == record.key && *offset == record.offset)
        });
        acked.map_or_else(|| format!("process {}", record.process), |event| event.machine.clone())
    }

    fn conclusion(&self, variant: &Variant, lost_offsets: &[i64]) -> String {
        let label = variant.label();
        let under = if label == "-" { String::new() } else { format!(" under {label}") };
        match (lost_offsets.len(), lost_offsets.iter().min(), lost_offsets.iter().max()) {
            (2.., Some(first), Some(last)) => format!(
                "It is the first of {} acknowledged records of {} that are gone{under}, offsets {first} to {last}.",
                lost_offsets.len(),
                self.partition
            ),
            _ => format!("It is the only acknowledged record of {} that is gone{under}.", self.partition),
        }
    }

    fn since_start(&self, at: Time) -> String {
        seconds(at.since(self.outcome.started_at).as_millis() as u64)
    }
}

/// The partition's replicas, replayed event by event; `told` collects the sentences.
struct Replay<'s, 'a> {
    story: &'s Story<'a>,
    replicas: BTreeMap<BrokerId, Replica>,
    leader: Option<BrokerId>,
    isr: Vec<BrokerId>,
    high_watermark: Offset,
    told: Vec<String>,
}

impl<'s, 'a> Replay<'s, 'a> {
    fn new(story: &'s Story<'a>) -> Replay<'s, 'a> {
        Replay {
            story,
            replicas: BTreeMap::new(),
            leader: None,
            isr: Vec::new(),
            high_watermark: Offset::ZERO,
            told: Vec::new(),
        }
    }

    fn holders(&self) -> Vec<BrokerId> {
        self.replicas.iter().filter(|(_, replica)| replica.has(&self.story.batch)).map(|(id, _)| *id).collect()
    }

    fn holders_line(&self) -> String {
        let holders = self.holders();
        let only = if holders.len() == 1 { "only " } else { "" };
        let (isr, high_watermark) = (brokers(&self.isr), self.high_watermark);
        format!("At that moment {only}{} had it; ISR {isr}, high watermark {high_watermark}.", machines(&holders))
    }

    fn step(&mut self, event: &TraceEvent) {
        match &event.what {
            TraceKind::Observed(observation) => self.observe(event, observation),
            TraceKind::Stopped { power_lost } => {
                let Some(replica) = broker_of(&event.machine).and_then(|id| self.replicas.get_mut(&id)) else { return };
                replica.power_lost = *power_lost;
                if replica.has(&self.story.batch) {
                    let what = if *power_lost { "lost power" } else { "stopped" };
                    self.say(event.at, format!("{} {what}.", event.machine));
                }
            }
            TraceKind::Sent { .. }
            | TraceKind::Acked { .. }
            | TraceKind::Failed { .. }
            | TraceKind::Unknown { .. }
            | TraceKind::FaultStarted { .. }
            | TraceKind::FaultEnded { .. }
            | TraceKind::FaultHit { .. }
            | TraceKind::Started
            | TraceKind::Phase(_) => {}
        }
    }

    fn observe(&mut self, event: &TraceEvent, observation: &Observation) {
        match observation {
            Observation::PartitionChanged { partition, leader, leader_epoch, isr, unclean, .. }
                if partition == self.story.partition =>
            {
                self.isr.clone_from(isr);
                if *leader != BrokerId::NONE && self.leader != Some(*leader) {
                    self.leader = Some(*leader);
                    let clean = if *unclean { " in an unclean election" } else { "" };
                    let knows = self.knowledge(*leader);
                    let text = format!("broker-{leader} became leader in epoch {leader_epoch}{clean}, {knows}.");
                    self.say(event.at, text);
                }
            }
            Observation::Appended { partition, batches, .. } if partition == self.story.partition => {
                if let Some(replica) = self.replica(event) {
                    replica.batches.extend_from_slice(batches);
                }
            }
            Observation::LogLoaded { partition, batches, log_end, dropped_bytes, .. }
                if partition == self.story.partition =>
            {
                let batch = self.story.batch;
                let Some(replica) = self.replica(event) else { return };
                let had = replica.has(&batch);
                replica.batches.clone_from(batches);
                if had && !replica.has(&batch) {
                    let why = match (replica.power_lost, *dropped_bytes) {
                        (true, _) => "the record was only in its page cache".to_owned(),
                        (false, dropped) => format!("recovery dropped {dropped} bytes"),
                    };
                    self.tell_loss(event, format!("came back with log end {log_end}: {why}"));
                }
            }
            Observation::Truncated { partition, from, to, reason } if partition == self.story.partition => {
                let batch = self.story.batch;
                let Some(replica) = self.replica(event) else { return };
                let had = replica.has(&batch);
                replica.batches.retain(|b| b.last_offset < *to);
                if had && !replica.has(&batch) {
                    self.tell_loss(event, format!("cut its log from {from} to {to} ({})", reason_text(*reason)));
                }
            }
            Observation::LogStartMoved { partition, to, reason, .. } if partition == self.story.partition => {
                let batch = self.story.batch;
                let Some(replica) = self.replica(event) else { return };
                let had = replica.has(&batch);
                replica.batches.retain(|b| b.last_offset >= *to);
                if had && !replica.has(&batch) {
                    self.tell_loss(event, format!("deleted what lay below {to} ({})", log_start_text(*reason)));
                }
            }
            Observation::Compacted { partition, from, to, batches } if partition == self.story.partition => {
                let batch = self.story.batch;
                let Some(replica) = self.replica(event) else { return };
                let had = replica.has(&batch);
                let start = replica.batches.partition_point(|b| b.base_offset < *from);
                let end = replica.batches.partition_point(|b| b.base_offset < *to);
                replica.batches.splice(start..end, batches.iter().copied());
                if had && !replica.has(&batch) {
                    self.tell_loss(event, format!("compacted its log up to {to}"));
                }
            }
            Observation::HighWatermark { partition, offset, as_leader: true } if partition == self.story.partition => {
                self.high_watermark = *offset;
            }
            Observation::PartitionChanged { .. }
            | Observation::Appended { .. }
            | Observation::LogLoaded { .. }
            | Observation::Truncated { .. }
            | Observation::LogStartMoved { .. }
            | Observation::Compacted { .. }
            | Observation::HighWatermark { .. }
            | Observation::Flushed { .. }
            | Observation::BecameLeader { .. }
            | Observation::BecameFollower { .. }
            | Observation::IsrView { .. }
            | Observation::Acknowledged { .. }
            | Observation::Refused { .. }
            | Observation::Served { .. }
            | Observation::LatestOffset { .. }
            | Observation::Registered { .. }
            | Observation::Fenced { .. }
            | Observation::LogDirFailed { .. }
            | Observation::CleanShutdown => {}
        }
    }

    fn replica(&mut self, event: &TraceEvent) -> Option<&mut Replica> {
        broker_of(&event.machine).map(|id| self.replicas.entry(id).or_default())
    }

    fn knowledge(&self, broker: BrokerId) -> String {
        match self.replicas.get(&broker) {
            Some(replica) if replica.has(&self.story.batch) => "with the record".to_owned(),
            Some(replica) => format!("without the record: its log ended at {}", replica.log_end()),
            None => "without the record".to_owned(),
        }
    }

    fn tell_loss(&mut self, event: &TraceEvent, what: String) {
        let copies = match self.holders().len() {
            0 => "the last copy was gone".to_owned(),
            1 => "one copy was left".to_owned(),
            left => format!("{left} copies were left"),
        };
        self.say(event.at, format!("{} {what}; {copies}.", event.machine));
    }

    fn say(&mut self, at: Time, text: String) {
        self.told.push(format!("{}: {text}", self.story.since_start(at)));
    }
}

fn machines(ids: &[BrokerId]) -> String {
    match ids {
        [] => "no running broker".to_owned(),
        [one] => format!("broker-{one}"),
        [all @ .., last] => {
            let list: Vec<String> = all.iter().map(|id| format!("broker-{id}")).collect();
            format!("{} and broker-{last}", list.join(", "))
        }
    }
}
