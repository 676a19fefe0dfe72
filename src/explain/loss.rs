//! The life and end of one record that is gone (or is not): who sent it, where it was appended, who held it when,
//! what decided on it.

use serde_json::Value as Json;

use super::cases::LOSSES;
use super::life::{Election, Fate, Life, Loss, LostCopy, Snapshot, Turn};
use super::prose::{brokers, count, list, machines};
use super::records::{Append, Sending};
use super::ruling::{self, Judged, Promise};
use super::settings::TopicSettings;
use super::{Explanation, Facts, Moment, SameFate};
use crate::check::broker_of;
use crate::lab::outcome::TraceKind;
use crate::observe::{LogStartReason, Observation, TruncationReason};
use crate::protocol::{BrokerId, Offset, TopicPartition};
use crate::world::Time;

/// Events of a time line, at most.
pub const MOMENTS_MAX: usize = 20;

/// One record, as a checker or the user names it.
#[derive(Clone, PartialEq, Debug)]
pub struct Record {
    pub partition: String,
    pub value: Json,
}

/// A moment with how much it matters.
pub struct Ranked {
    pub at: usize,
    pub text: String,
    /// 0 matters most.
    pub rank: u8,
    /// Whose it is, if not the event's.
    pub machine: Option<String>,
}

impl Ranked {
    pub fn new(at: usize, rank: u8, text: impl Into<String>) -> Ranked {
        Ranked { at, text: text.into(), rank, machine: None }
    }
}

/// What there is to say of a record that is still there, and that nobody could read.
struct Unread {
    summary: &'static str,
    decision: String,
    why: String,
}

impl<'a> Facts<'a> {
    /// The append of a value that its acknowledgement speaks of, otherwise the last one.
    pub fn append_of(&self, partition: &str, sending: &Sending) -> Option<(Append, Offset)> {
        let appends = self.records.appends(partition, sending);
        let ended = sending.outcome.unwrap_or(self.case.trace.len());
        let acknowledged = sending.offset.and_then(|offset| {
            let known = appends.iter().rev().find(|(append, at)| append.at < ended && at.0 == offset).copied();
            known.or_else(|| self.append_covering(partition, Offset(offset), ended))
        });
        acknowledged.or_else(|| appends.last().copied())
    }

    /// The last leader's append before event `until` that covers `offset`.
    pub fn append_covering(&self, partition: &str, offset: Offset, until: usize) -> Option<(Append, Offset)> {
        let wanted = TopicPartition::parse(partition)?;
        self.case.trace[..until].iter().enumerate().rev().find_map(|(at, event)| match &event.what {
            TraceKind::Observed(Observation::Appended { partition, as_leader: true, batches, .. })
                if *partition == wanted =>
            {
                let batch = batches.iter().find(|b| b.base_offset <= offset && offset <= b.last_offset)?;
                Some((Append { at, batch: *batch }, offset))
            }
            _ => None,
        })
    }

    pub fn topic(&self, partition: &str) -> TopicSettings {
        let topic = partition.rsplit_once('-').map_or(partition, |(topic, _)| topic);
        let known = self.case.settings.topics.get(topic).cloned();
        known.unwrap_or(TopicSettings {
            replication_factor: 1,
            min_insync_replicas: 1,
            flush_messages: i64::MAX as u64,
            unclean_leader_election: false,
        })
    }

    pub fn acks_of(&self, producer: &str) -> &'a str {
        self.case.settings.producers.get(producer).map_or("all", |producer| &producer.acks)
    }

    /// Why `record` is gone. `None` if the trace does not know it.
    pub fn explain_record(&self, kind: &str, record: &Record) -> Option<Explanation> {
        let Record { partition, value } = record;
        let sending = self.records.sending(partition, value)?;
        let producer = self.case.trace[sending.sent].machine.as_ref();
        let topic = self.topic(partition);
        let is_acknowledged = sending.is_acknowledged;
        let promise = Promise { acks: self.acks_of(producer), topic: &topic, is_acknowledged };
        let Some((append, offset)) = self.append_of(partition, sending) else {
            return Some(self.never_appended(kind, record, sending, &promise));
        };
        let parsed = TopicPartition::parse(partition)?;
        let life = Life::of(self.case.trace, &parsed, append.batch, append.at);
        let Judged { ruling, why, remedies } = ruling::judge(&life, &promise);
        let unread = (LOSSES.contains(&kind) && matches!(life.fate, Fate::Kept)).then(|| self.unread(&parsed, offset));
        let (summary, decision, why) = match unread {
            Some(Unread { summary, decision, why }) => (summary, decision, why),
            None => ("", decision(&life), why),
        };
        let holders = life.fate.moment().map(|m| m.holders.iter().map(|id| id.0).collect());
        let isr = life.fate.moment().map(|m| m.isr.iter().map(|id| id.0).collect());
        let timeline = self.timeline(record, sending, &life, offset);
        Some(Explanation {
            kind: kind.to_owned(),
            also: Vec::new(),
            partition: partition.clone(),
            offset: Some(offset.0),
            value: Some(value.clone()),
            summary: self.summary(record, sending, &life, offset) + summary,
            timeline,
            decision,
            ruling,
            why,
            holders,
            isr,
            remedies,
            same_fate: SameFate::default(),
        })
    }

    fn summary(&self, record: &Record, sending: &Sending, life: &Life, offset: Offset) -> String {
        let Record { partition, value } = record;
        let producer = &self.case.trace[sending.sent].machine;
        let outcome = match sending.outcome.map(|at| (at, &self.case.trace[at].what)) {
            Some((at, TraceKind::Acked { .. })) => {
                format!("{producer} had {value} acknowledged at {partition} offset {offset} at {}", self.time(at))
            }
            Some((_, TraceKind::Failed { error, .. })) => format!("{producer} was told that {value} failed ({error})"),
            Some((_, TraceKind::Unknown { error, .. })) if error == "acks=0" => {
                format!("{producer} sent {value} to {partition} with acks=0")
            }
            Some((_, TraceKind::Unknown { error, .. })) => {
                format!("{producer} sent {value} to {partition} and never learnt what became of it ({error})")
            }
            Some(_) | None => format!("{producer} sent {value} to {partition}"),
        };
        let offset =
            if sending.offset.is_some() { String::new() } else { format!("; it was appended at offset {offset}") };
        match &life.fate {
            Fate::Kept => format!("{outcome}{offset}, and the last leader holds it."),
            Fate::AppendedByDeposedLeader { .. } | Fate::Election(_) | Fate::CopyLost(_) => {
                format!("{outcome}{offset}, and it is gone.")
            }
        }
    }

    /// Why a record that the last leader holds was not read back.
    fn unread(&self, partition: &TopicPartition, offset: Offset) -> Unread {
        let summary = " Nobody read it back.";
        let kept = "The last leader holds it: nothing was lost, but";
        let is_final = |at: Time| self.final_read_at.is_some_and(|from| at >= from);
        let place = format!("in {partition} at position");
        let failed =
            self.case.trace.iter().rev().take_while(|event| is_final(event.at)).find_map(|event| match &event.what {
                TraceKind::ReadFailed { error } if error.contains(&place) => Some(error.as_str()),
                _ => None,
            });
        let high_watermark = self.case.trace.iter().rev().find_map(|event| match &event.what {
            TraceKind::Observed(Observation::HighWatermark { partition: of, offset, as_leader: true })
                if of == partition =>
            {
                Some(*offset)
            }
            _ => None,
        });
        let (decision, why) = match (failed, high_watermark.filter(|high_watermark| offset >= *high_watermark)) {
            (_, Some(end)) => (
                format!("the high watermark, which stayed at {end}: consumers read below it"),
                format!("{kept} it is not committed as long as members of the ISR lack it."),
            ),
            (Some(error), None) => (
                format!("the final reader's error: {error}"),
                format!("{kept} a consumer stays in front of a batch that it cannot read."),
            ),
            (None, None) => (
                "the final read, which did not get so far".to_owned(),
                format!("{kept} its partition could not be read to its end."),
            ),
        };
        Unread { summary, decision, why }
    }

    fn time(&self, at: usize) -> String {
        super::prose::seconds(self.moment(at, String::new()).ns)
    }

    /// How the producer's attempts went, from the send on.
    /// `it`: what to call the record after the first time.
    pub fn attempts(&self, record: &Record, it: &str, sending: &Sending, moments: &mut Vec<Ranked>) {
        let attempts = self.records.attempts(&record.partition, sending);
        if attempts.is_empty() {
            moments.push(Ranked::new(sending.sent, 0, format!("sent {}", record.value)));
        }
        for at in attempts.iter().copied() {
            match &self.case.trace[at].what {
                TraceKind::BatchSent { attempt: 1, broker, values, .. } => {
                    let with = match values.len() {
                        0 | 1 => String::new(),
                        n => format!(" in a batch of {n}"),
                    };
                    moments.push(Ranked::new(at, 0, format!("sent {}{with} to broker-{broker}", record.value)));
                }
                TraceKind::BatchSent { attempt, broker, .. } => {
                    moments.push(Ranked::new(at, 1, format!("sent {it} again to broker-{broker} (attempt {attempt})")));
                }
                TraceKind::BatchRetried { attempt, error, .. } => {
                    moments.push(Ranked::new(at, 1, format!("failed with attempt {attempt} to send {it}: {error}")));
                }
                _ => {}
            }
        }
    }

    fn timeline(&self, record: &Record, sending: &Sending, life: &Life, offset: Offset) -> Vec<Moment> {
        let mut moments = Vec::new();
        let sealed = life.fate.at().unwrap_or(usize::MAX);
        self.attempts(record, "it", sending, &mut moments);
        let epoch = life.batch.leader_epoch;
        let mut appended = format!("appended it at offset {offset} as leader in epoch {epoch}");
        if let Fate::AppendedByDeposedLeader { by, leader_epoch, .. } = &life.fate {
            appended += &format!(", although broker-{by} led in epoch {leader_epoch} by then");
            let isr = brokers(&life.fate.moment().expect("a fate but Kept has one").isr);
            let elected = format!("elected broker-{by} in epoch {leader_epoch}, ISR {isr}");
            moments.push(Ranked::new(life.fate.at().expect("as above"), 0, elected));
        }
        moments.push(Ranked::new(life.appended.at, 0, appended));
        self.faults_in_force(life.appended.at, life, &mut moments);
        self.outcome_moment(sending, &mut moments);
        self.read_moment(record, &mut moments);
        let gone = life.losses().last().map_or(usize::MAX, |copy| copy.after.at);
        for (at, turn) in &life.turns {
            let is_over = *at > sealed && *at > gone;
            if let Some(ranked) = self.turn(*at, turn, life, sealed).filter(|_| !is_over) {
                moments.push(ranked);
            }
        }
        self.slice(moments, life.fate.at())
    }

    /// Faults that were in force at event `at` on a machine that matters.
    fn faults_in_force(&self, at: usize, life: &Life, moments: &mut Vec<Ranked>) {
        let mut running: Vec<(usize, usize, &[String])> = Vec::new();
        for (begun, event) in self.case.trace[..at].iter().enumerate() {
            match &event.what {
                TraceKind::FaultStarted { index, targets } => running.push((*index, begun, targets)),
                TraceKind::FaultEnded { index, .. } => running.retain(|(of, ..)| of != index),
                _ => {}
            }
        }
        for (index, begun, targets) in running {
            if concerns(targets, life) {
                moments.push(Ranked::new(begun, 1, self.fault_text("began", index, targets)));
            }
        }
    }

    pub fn fault_text(&self, verb: &str, index: usize, targets: &[String]) -> String {
        let what = self.case.faults.get(index).map_or("", String::as_str);
        let on = if targets.is_empty() { String::new() } else { format!(" on {}", list(targets)) };
        format!("{verb} fault {} ({what}){on}", index + 1)
    }

    fn turn(&self, at: usize, turn: &Turn, life: &Life, sealed: usize) -> Option<Ranked> {
        let late = u8::from(at > sealed);
        let ranked = |rank: u8, text: String| Some(Ranked::new(at, rank + late, text));
        match turn {
            Turn::Replicated { broker } if at < sealed => {
                ranked(2, format!("fetched it from broker-{}", life.leader)).filter(|_| *broker != life.leader)
            }
            Turn::Acknowledged { required_acks, now } => ranked(0, acknowledged_text(*required_acks, now)),
            Turn::Committed { now } => {
                ranked(1, format!("moved its high watermark past it, to {}", now.high_watermark))
            }
            Turn::Served => ranked(3, "served it to a consumer".to_owned()),
            Turn::IsrChanged { isr, from } if at < sealed => {
                ranked(1, format!("changed the ISR from {} to {}", brokers(from), brokers(isr)))
            }
            Turn::Elected(election) => ranked(u8::from(at != sealed), elected_text(election)),
            Turn::Leaderless { isr } => ranked(1, format!("left the partition without a leader, ISR {}", brokers(isr))),
            Turn::Stopped { power_lost: true } => ranked(2, "lost power; the record was on its disk".to_owned()),
            Turn::Stopped { power_lost: false } => ranked(1, "stopped".to_owned()),
            Turn::CameBack { log_end, holds } => {
                let with = if *holds { "with" } else { "without" };
                ranked(1, format!("came back {with} it, log end {log_end}"))
            }
            Turn::Lost(copy) => ranked(0, lost_text(copy)),
            Turn::FaultStarted { index, targets } if at < sealed && concerns(targets, life) => {
                ranked(2, self.fault_text("began", *index, targets))
            }
            Turn::FaultEnded { index, targets } if concerns(targets, life) => {
                ranked(3, self.fault_text("ended", *index, targets))
            }
            Turn::Replicated { .. } | Turn::IsrChanged { .. } | Turn::FaultStarted { .. } | Turn::FaultEnded { .. } => {
                None
            }
        }
    }

    /// The moments that matter most, in order, the decisive one marked.
    pub fn slice(&self, mut moments: Vec<Ranked>, decisive: Option<usize>) -> Vec<Moment> {
        moments.sort_by_key(|moment| moment.at);
        let mut ranks: Vec<u8> = moments.iter().map(|moment| moment.rank).collect();
        ranks.sort_unstable();
        // Nothing less important than what still fits.
        let most = ranks.get(MOMENTS_MAX).map_or(u8::MAX, |rank| *rank);
        let mut room = MOMENTS_MAX;
        let mut slice = Vec::new();
        for moment in moments {
            let is_decisive = Some(moment.at) == decisive;
            if is_decisive || (moment.rank < most && room > 0) {
                room = room.saturating_sub(1);
                let mut shown = self.moment(moment.at, moment.text);
                if let Some(machine) = moment.machine {
                    shown.machine = machine;
                }
                shown.decisive = is_decisive && slice.iter().all(|m: &Moment| !m.decisive);
                slice.push(shown);
            }
        }
        slice
    }

    fn never_appended(&self, kind: &str, record: &Record, sending: &Sending, promise: &Promise<'_>) -> Explanation {
        let Record { partition, value } = record;
        let mut moments = Vec::new();
        self.attempts(record, "it", sending, &mut moments);
        let attempts = self.records.attempts(partition, sending);
        let sent: Vec<(usize, BrokerId)> = attempts
            .iter()
            .filter_map(|at| match &self.case.trace[*at].what {
                TraceKind::BatchSent { broker, .. } => Some((*at, *broker)),
                _ => None,
            })
            .collect();
        let decisive = sent.last().map_or(sending.sent, |(at, _)| *at);
        let mut decision = "the producer, which gave it up before it went out".to_owned();
        if let Some((at, broker)) = sent.last() {
            decision = format!("the send to broker-{broker}, where no log ever had it");
            if let Some((when, text)) = self.why_not_appended(partition, *broker, *at) {
                decision += &format!(": {text}");
                moments.push(Ranked::new(when, 0, text));
            }
        }
        self.outcome_moment(sending, &mut moments);
        let Judged { ruling, why, remedies } = ruling::never_appended(promise);
        let producer = &self.case.trace[sending.sent].machine;
        Explanation {
            kind: kind.to_owned(),
            also: Vec::new(),
            partition: partition.clone(),
            offset: sending.offset,
            value: Some(value.clone()),
            summary: format!("{producer} sent {value} to {partition}, and no leader ever appended it."),
            timeline: self.slice(moments, Some(decisive)),
            decision,
            ruling,
            why,
            holders: None,
            isr: None,
            remedies,
            same_fate: SameFate::default(),
        }
    }

    /// What kept the broker that was asked at event `at` from appending: it was down, or refused, or was cut off.
    fn why_not_appended(&self, partition: &str, broker: BrokerId, at: usize) -> Option<(usize, String)> {
        let machine = format!("broker-{broker}");
        let wanted = TopicPartition::parse(partition)?;
        let before = self.case.trace[..at].iter().enumerate().rev().filter(|(_, event)| *event.machine == *machine);
        for (when, event) in before {
            match &event.what {
                TraceKind::Stopped { power_lost } => {
                    let how = if *power_lost { "had lost power" } else { "had stopped" };
                    return Some((when, format!("{how} and was not back yet")));
                }
                TraceKind::Started | TraceKind::Observed(_) => break,
                _ => {}
            }
        }
        let after = self.case.trace[at..].iter().enumerate().filter(|(_, event)| *event.machine == *machine);
        for (later, event) in after {
            match &event.what {
                TraceKind::Observed(Observation::Refused { partition, error_code }) if *partition == wanted => {
                    let error = kafka_error(*error_code);
                    return Some((at + later, format!("refused a produce request with {error}")));
                }
                TraceKind::Stopped { power_lost } => {
                    let how = if *power_lost { "lost power" } else { "stopped" };
                    return Some((at + later, format!("{how} before the request was there")));
                }
                TraceKind::Observed(Observation::Appended { partition, as_leader: true, .. })
                    if *partition == wanted =>
                {
                    return None;
                }
                _ => {}
            }
        }
        None
    }
}

/// `NOT_LEADER_OR_FOLLOWER`
pub fn kafka_error(code: i16) -> String {
    let error = crate::protocol::ErrorCode::try_from_code(code);
    error.map_or_else(|| code.to_string(), |error| crate::client::ErrorName(error).to_string())
}

fn concerns(targets: &[String], life: &Life) -> bool {
    targets.iter().any(|target| broker_of(target).is_some()) && {
        let held = |id: &BrokerId| life.appended.isr.contains(id) || *id == life.leader;
        targets.iter().filter_map(|target| broker_of(target)).any(|id| held(&id))
    }
}

fn acknowledged_text(required_acks: i16, now: &Snapshot) -> String {
    let acks = if required_acks == -1 { "all".to_owned() } else { required_acks.to_string() };
    let only = if now.holders.len() == 1 { "only " } else { "" };
    let disk = match now.on_disk.len() {
        0 => ", none of them on disk".to_owned(),
        n if n == now.holders.len() => ", on disk".to_owned(),
        n => format!(", {n} of them on disk"),
    };
    let disk = if now.holders.len() == 1 { disk.replace("none of them on disk", "not on disk") } else { disk };
    let verb = if required_acks == 0 { "was done with it" } else { "acknowledged it" };
    format!(
        "{verb} (acks={acks}): {only}{} had it{disk}; ISR {}, high watermark {}",
        machines(&now.holders),
        brokers(&now.isr),
        now.high_watermark
    )
}

fn elected_text(election: &Election) -> String {
    let Election { leader, leader_epoch, unclean, holds, log_end, before, .. } = election;
    let how = if *unclean { " in an unclean election" } else { "" };
    let knows = if *holds { "which held it".to_owned() } else { format!("which did not hold it (log end {log_end})") };
    format!("elected broker-{leader}{how} in epoch {leader_epoch} from ISR {}, {knows}", brokers(&before.isr))
}

fn lost_text(copy: &LostCopy) -> String {
    let left = match copy.after.holders.len() {
        0 => "no copy was left".to_owned(),
        n => {
            format!("{} left, on {}", count(n as u64, "copy").replace("copys", "copies"), machines(&copy.after.holders))
        }
    };
    match &copy.loss {
        Loss::Power { flushed, comes_back_with } => {
            let disk = if *flushed == Offset::ZERO { String::new() } else { format!(" (flushed below {flushed})") };
            let how = if copy.was_flushed { "although it was flushed" } else { "with it in its page cache" };
            format!("lost power {how}{disk}, and came back with log end {comes_back_with}; {left}")
        }
        Loss::Truncated { from, to, reason, leader, leader_epoch } => format!(
            "cut its log from {from} to {to} as follower of broker-{leader} in epoch {leader_epoch} ({}); {left}",
            truncation(*reason)
        ),
        Loss::Replaced { log_end } => format!("was back with another log, which ends at {log_end}; {left}"),
        Loss::Deleted { to, reason } => {
            format!("deleted its log below {to} ({}); {left}", log_start(*reason))
        }
        Loss::Compacted => format!("compacted it away; {left}"),
        Loss::Recovery { dropped_bytes } => {
            format!("came back without it: recovery dropped {dropped_bytes} bytes; {left}")
        }
    }
}

fn log_start(reason: LogStartReason) -> &'static str {
    match reason {
        LogStartReason::RetentionTime => "retention.ms",
        LogStartReason::RetentionSize => "retention.bytes",
        LogStartReason::DeleteRecords => "DeleteRecords",
        LogStartReason::Leader => "its leader's log begins there",
    }
}

fn truncation(reason: TruncationReason) -> &'static str {
    match reason {
        TruncationReason::DivergingEpoch => "diverging epoch",
        TruncationReason::OutOfRange => "its log end was out of the leader's range",
        TruncationReason::HighWatermark => "to its own high watermark",
    }
}

/// What sealed the fate, fit to follow "Decided by"; empty if nothing did.
fn decision(life: &Life) -> String {
    match &life.fate {
        Fate::Kept => String::new(),
        Fate::AppendedByDeposedLeader { by, leader_epoch, .. } => format!(
            "the election of broker-{by} in epoch {leader_epoch}, of which broker-{} had not heard when it appended the \
             record as leader in epoch {}: what a deposed leader has beyond the new leader's log is cut off when they meet",
            life.leader, life.batch.leader_epoch
        ),
        Fate::Election(election) => {
            let Election { leader, leader_epoch, unclean, held_once, log_end, before, .. } = election;
            let how = if *unclean { "unclean election" } else { "election" };
            let lost = if *held_once { "no longer held it" } else { "did not hold it" };
            format!(
                "the {how} of broker-{leader} in epoch {leader_epoch} from ISR {}: it {lost} (log end {log_end}), {} did, \
                 and every log follows the leader's",
                brokers(&before.isr),
                machines(&before.holders)
            )
        }
        Fate::CopyLost(copy) => {
            let broker = copy.broker;
            let which = match copy.after.holders.as_slice() {
                [] => "the last copy".to_owned(),
                others => format!("the leader's own copy, and led on without it although {} held it", machines(others)),
            };
            match &copy.loss {
                Loss::Power { .. } if copy.was_flushed => {
                    format!("the power loss of broker-{broker}, whose disk did not keep {which}, flushed though it was")
                }
                Loss::Power { .. } => format!("the power loss of broker-{broker}, whose page cache had {which}"),
                Loss::Truncated { from, to, .. } => {
                    format!("broker-{broker}, which cut its log from {from} to {to} and with it {which}")
                }
                Loss::Replaced { .. } => format!("the loss of the log of broker-{broker}, and with it of {which}"),
                Loss::Deleted { reason, .. } => {
                    format!("the deletion of {which} by broker-{broker} ({})", log_start(*reason))
                }
                Loss::Compacted => format!("the compaction of broker-{broker}, which dropped {which}"),
                Loss::Recovery { .. } => format!("the recovery of broker-{broker}, which dropped {which}"),
            }
        }
    }
}
