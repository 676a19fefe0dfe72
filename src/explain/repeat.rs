//! Records that are in the log twice, out of order, or two at one offset: which append followed which attempt.

use serde_json::Value as Json;

use super::loss::{MOMENTS_MAX, Ranked, Record};
use super::records::{Append, Sending};
use super::{Explanation, Facts, Remedy, Ruling, SameFate, Setting};
use crate::lab::outcome::TraceKind;
use crate::observe::Observation;
use crate::protocol::Offset;

/// Kafka's default of `producer.id.expiration.ms`: a day.
const PRODUCER_ID_EXPIRATION_MS: &str = "86400000";

const DEFECTS_OF_IDEMPOTENCE: [&str; 4] = [
    "no-duplicate-detection",
    "producer-state-drops-with-records",
    "sequences-reassigned-unordered",
    "sequences-restart-in-the-same-epoch",
];

/// What is said of a record that is there twice.
struct Verdict {
    ruling: Ruling,
    why: String,
    remedies: Vec<Remedy>,
}

fn idempotence(why: &str) -> Remedy {
    let settings = vec![Setting { key: "enable.idempotence", value: "true".to_owned() }];
    Remedy { settings, why: why.to_owned() }
}

impl Facts<'_> {
    /// One value at several offsets: the retry that a lost answer caused.
    pub fn explain_duplicate(&self, record: &Record, offsets: &[i64]) -> Option<Explanation> {
        let Record { partition, value } = record;
        let sending = self.records.sending(partition, value)?;
        let appends = self.records.appends(partition, sending);
        let ((first, first_at), (second, second_at)) = two(&appends, offsets)?;
        let retry = self.send_before(partition, sending, second.at)?;
        let mut moments = Vec::new();
        self.attempts(record, "it", sending, &mut moments);
        for (append, at) in [(first, first_at), (second, second_at)] {
            let epoch = append.batch.leader_epoch;
            moments.push(Ranked::new(append.at, 0, format!("appended it at offset {at} as leader in epoch {epoch}")));
        }
        let failure = self.failure_before(partition, sending, retry);
        self.why_no_answer(partition, first.at, failure.map_or(retry, |(at, _)| at), &mut moments);
        self.outcome_moment(sending, &mut moments);
        let producer = &self.case.trace[sending.sent].machine;
        let error = failure.map_or("an answer that never came", |(_, error)| error);
        let (first_broker, second_broker) = (&self.case.trace[first.at].machine, &self.case.trace[second.at].machine);
        let Verdict { ruling, why, remedies } = self.why_twice(producer, partition, second.at);
        Some(Explanation {
            kind: "duplicate".to_owned(),
            also: Vec::new(),
            partition: partition.clone(),
            offset: Some(second_at.0),
            value: Some(value.clone()),
            summary: format!(
                "{producer} sent {value} once, and it is in {partition} at offsets {} and {}.",
                first_at, second_at
            ),
            timeline: self.slice(moments, Some(retry)),
            decision: format!(
                "the retry to {second_broker} after {error}: the attempt before it was in the log of {first_broker} \
                 already, only its answer was not with the producer"
            ),
            ruling,
            why,
            holders: None,
            isr: None,
            remedies,
            same_fate: SameFate::default(),
        })
    }

    /// Why the leader that appended a retry at event `second` did not know the batch again.
    fn why_twice(&self, producer: &str, partition: &str, second: usize) -> Verdict {
        let settings = self.case.settings.producers.get(producer);
        let retries = settings.map_or(0, |p| p.retries);
        if !settings.is_some_and(|p| p.enable_idempotence) {
            let why = format!(
                "Legal: without idempotence a broker cannot tell a retry from a new batch, and the producer cannot tell a \
                 lost answer from a lost request (retries={retries})."
            );
            let saved = "producer id, epoch and sequence would have told the leader that it has the batch (KIP-98)";
            return Verdict { ruling: Ruling::Legal, why, remedies: vec![idempotence(saved)] };
        }
        let (trace, machine) = (self.case.trace, &self.case.trace[second].machine);
        let expired = trace[..second].iter().rev().find(|event| match &event.what {
            TraceKind::Observed(Observation::ProducersExpired { partition: p, .. }) => {
                event.machine == *machine && p.to_string() == partition
            }
            _ => false,
        });
        if expired.is_some() {
            let why = format!(
                "Legal: {machine} had forgotten the producer, which had been silent for producer.id.expiration.ms (KIP-854), \
                 and a leader takes any sequence of a producer that it does not know."
            );
            let settings =
                vec![Setting { key: "producer.id.expiration.ms", value: PRODUCER_ID_EXPIRATION_MS.to_owned() }];
            let saved =
                "the leader would have known the batch again: Kafka's default is far above any delivery.timeout.ms";
            return Verdict { ruling: Ruling::Legal, why, remedies: vec![Remedy { settings, why: saved.to_owned() }] };
        }
        let is_restated = trace[..second].iter().rev().any(|event| match &event.what {
            TraceKind::BatchSent { partition: p, restated: true, .. } => *event.machine == *producer && p == partition,
            _ => false,
        });
        let (ruling, why) = if self.breaks_idempotence() {
            (
                Ruling::RuleBroken,
                "Not legal: a leader knows the last five batches of an idempotent producer, and a producer keeps \
                                  its sequences (KIP-98, KIP-360).",
            )
        } else if is_restated {
            let why = "Legal: the idempotent producer had met a gap, or given a batch up, and began a new epoch, in which it \
                       sent anew what was in flight (KIP-360). In another epoch the same records are another batch \
                       (KAFKA-14034).";
            (Ruling::Legal, why)
        } else {
            (Ruling::RuleBroken, "Not legal: a leader knows the last five batches of an idempotent producer (KIP-98).")
        };
        Verdict { ruling, why: why.to_owned(), remedies: Vec::new() }
    }

    /// A known defect of idempotence is on.
    fn breaks_idempotence(&self) -> bool {
        self.case.settings.defects.keys().any(|name| DEFECTS_OF_IDEMPOTENCE.contains(&name.as_str()))
    }

    /// Value `a` was sent before `b` and stands behind it.
    pub fn explain_reordering(&self, kind: &str, partition: &str, a: &Json, b: &Json) -> Option<Explanation> {
        let record = |value: &Json| Record { partition: partition.to_owned(), value: value.clone() };
        let (earlier, later) = (record(a), record(b));
        let (a_sending, b_sending) = (self.records.sending(partition, a)?, self.records.sending(partition, b)?);
        let (a_append, a_at) = self.append_of(partition, a_sending)?;
        let (b_append, b_at) = self.append_of(partition, b_sending)?;
        if a_append.at < b_append.at {
            // The earlier one was appended first: its log was cut before the later one came.
            let mut lost = self.explain_record(kind, &earlier)?;
            lost.summary = format!(
                "{b} was sent after {a} and stands at offset {b_at}, not behind {a_at}: the log was cut in between. {}",
                lost.summary
            );
            lost.remedies.retain(|_| lost.ruling != Ruling::Intact);
            return Some(lost);
        }
        let retry = self.send_before(partition, a_sending, a_append.at)?;
        let mut moments = Vec::new();
        for (of, sending, append, at) in [(&earlier, a_sending, a_append, a_at), (&later, b_sending, b_append, b_at)] {
            let value = &of.value;
            self.attempts(of, &value.to_string(), sending, &mut moments);
            let epoch = append.batch.leader_epoch;
            moments.push(Ranked::new(append.at, 0, format!("appended {value} at offset {at} in epoch {epoch}")));
        }
        let failure = self.failure_before(partition, a_sending, retry);
        let error = failure.map_or("an answer that never came", |(_, error)| error);
        let producer = &self.case.trace[a_sending.sent].machine;
        let in_flight = self.case.settings.producers.get(producer.as_ref()).map_or(1, |p| p.max_in_flight);
        let one = Remedy {
            settings: vec![Setting { key: "max.in.flight.requests.per.connection", value: "1".to_owned() }],
            why: "nothing else is sent to a partition while a batch of it waits for its retry".to_owned(),
        };
        let is_idempotent = self.case.settings.producers.get(producer.as_ref()).is_some_and(|p| p.enable_idempotence);
        let mut remedies = vec![one];
        if !is_idempotent {
            remedies.insert(0, idempotence("the leader takes batches only in the order of their sequences (KIP-98)"));
        }
        Some(Explanation {
            kind: kind.to_owned(),
            also: Vec::new(),
            partition: partition.to_owned(),
            offset: Some(a_at.0),
            value: Some(a.clone()),
            summary: format!(
                "{producer} sent {a} before {b}, and they stand at offsets {a_at} and {b_at} of {partition}."
            ),
            timeline: self.slice(moments, Some(retry)),
            decision: format!(
                "the retry after {error} of a batch that a later one, in flight with it, had overtaken meanwhile"
            ),
            ruling: if is_idempotent && self.breaks_idempotence() { Ruling::RuleBroken } else { Ruling::Legal },
            why: match is_idempotent {
                true if self.breaks_idempotence() => {
                    "Not legal: an idempotent producer numbers its batches in the order in which it sends them."
                        .to_owned()
                }
                true => {
                    "Legal: the idempotent producer had begun a new epoch, in which the order of what was in flight in \
                         the one before is not guarded any more (KIP-360, KAFKA-14034)."
                        .to_owned()
                }
                false => format!(
                    "Legal: with max.in.flight.requests.per.connection={in_flight} and no idempotence a batch that is \
                     sent again lands behind those that were sent after it."
                ),
            },
            holders: None,
            isr: None,
            remedies: if in_flight > 1 { remedies } else { Vec::new() },
            same_fate: SameFate::default(),
        })
    }

    /// Two values at one offset: the first one's log was cut, and the second took its place.
    pub fn explain_contested(&self, partition: &str, offset: i64, values: &[Json]) -> Option<Explanation> {
        let mut appends: Vec<(Append, &Json)> = values
            .iter()
            .filter_map(|value| {
                let sending = self.records.sending(partition, value)?;
                let appends = self.records.appends(partition, sending);
                appends.iter().find(|(_, at)| at.0 == offset).map(|(append, _)| (*append, value))
            })
            .collect();
        appends.sort_by_key(|(append, _)| append.at);
        let [(_, first), (second, other), ..] = appends.as_slice() else { return None };
        let record = Record { partition: partition.to_owned(), value: (*first).clone() };
        let mut explanation = self.explain_record("inconsistent-offsets", &record)?;
        explanation.offset = Some(offset);
        let epoch = second.batch.leader_epoch;
        let taken = self.moment(second.at, format!("appended {other} at offset {offset} in epoch {epoch}"));
        let place = explanation.timeline.partition_point(|moment| moment.event <= taken.event);
        explanation.timeline.insert(place, taken);
        explanation.timeline.truncate(MOMENTS_MAX + 1);
        explanation.summary = format!(
            "Offset {offset} of {partition} was {first}'s, and is {other}'s: the first was cut off and the second took \
             its place. {}",
            explanation.summary
        );
        Some(explanation)
    }

    /// A record that was read although its producer was told that it failed.
    pub fn explain_aborted_read(&self, record: &Record) -> Option<Explanation> {
        let Record { partition, value } = record;
        let sending = self.records.sending(partition, value)?;
        let (append, offset) = self.append_of(partition, sending)?;
        let mut moments = Vec::new();
        self.attempts(record, "it", sending, &mut moments);
        let epoch = append.batch.leader_epoch;
        moments.push(Ranked::new(append.at, 0, format!("appended it at offset {offset} as leader in epoch {epoch}")));
        self.outcome_moment(sending, &mut moments);
        self.read_moment(record, &mut moments);
        let producer = &self.case.trace[sending.sent].machine;
        let told = match sending.outcome.map(|at| &self.case.trace[at].what) {
            Some(TraceKind::Failed { error, .. }) => error.as_str(),
            _ => "an error",
        };
        Some(Explanation {
            kind: "aborted-read".to_owned(),
            also: Vec::new(),
            partition: partition.clone(),
            offset: Some(offset.0),
            value: Some(value.clone()),
            summary: format!("{producer} was told that {value} definitely failed ({told}), and it was read."),
            timeline: self.slice(moments, sending.outcome),
            decision: format!(
                "the answer {told}, taken for proof that nothing was appended, although {} had appended an attempt",
                self.case.trace[append.at].machine
            ),
            ruling: Ruling::RuleBroken,
            why: "Not legal: a definite failure says that no attempt is in any log; where one may be, the outcome is \
                  unknown."
                .to_owned(),
            holders: None,
            isr: None,
            remedies: Vec::new(),
            same_fate: SameFate::default(),
        })
    }

    /// A value that nobody sent.
    pub fn explain_phantom(&self, record: &Record) -> Option<Explanation> {
        let Record { partition, value } = record;
        let read = self.records.read(partition, value)?;
        let mut moments = Vec::new();
        self.read_moment(record, &mut moments);
        let decisive = moments.first().map(|moment| moment.at);
        let offset = read.offset;
        let append = offset.and_then(|at| self.append_covering(partition, Offset(at), decisive.unwrap_or(0)));
        if let Some((append, at)) = append {
            moments.push(Ranked::new(append.at, 0, format!("appended another content at offset {at}")));
        }
        let reader = self.records.client(read.process);
        Some(Explanation {
            kind: "phantom".to_owned(),
            also: Vec::new(),
            partition: partition.clone(),
            offset,
            value: Some(value.clone()),
            summary: format!("{reader} read {value} from {partition}, and nobody sent it."),
            timeline: self.slice(moments, decisive),
            decision: format!("the read of {reader}: these bytes are not what any producer handed over"),
            ruling: Ruling::RuleBroken,
            why: "Not legal: a batch's CRC-32C covers its records, and consumers check it (check.crcs).".to_owned(),
            holders: None,
            isr: None,
            remedies: Vec::new(),
            same_fate: SameFate::default(),
        })
    }

    /// The last attempt sent before event `until`.
    fn send_before(&self, partition: &str, sending: &Sending, until: usize) -> Option<usize> {
        let sends = self.records.attempts(partition, sending).iter().rev();
        let is_send = |at: &&usize| matches!(self.case.trace[**at].what, TraceKind::BatchSent { .. });
        sends.filter(|at| **at < until).find(is_send).copied()
    }

    /// The failure that led to the attempt at event `retry`.
    fn failure_before(&self, partition: &str, sending: &Sending, retry: usize) -> Option<(usize, &str)> {
        let failures = self.records.attempts(partition, sending).iter().rev().filter(|at| **at < retry);
        failures.into_iter().find_map(|at| match &self.case.trace[*at].what {
            TraceKind::BatchRetried { error, .. } => Some((*at, error.as_str())),
            _ => None,
        })
    }

    /// What happened to the answer between the append at `from` and the failure at `to`: the broker stopped, or it
    /// answered and the answer did not arrive, or it was still waiting.
    fn why_no_answer(&self, partition: &str, from: usize, to: usize, moments: &mut Vec<Ranked>) {
        let trace = self.case.trace;
        let machine = &trace[from].machine;
        let faults = trace[..to].iter().enumerate().rev().filter(
            |(_, event)| matches!(&event.what, TraceKind::FaultStarted { targets, .. } if targets.iter().any(|target| **target == **machine)),
        );
        for (at, event) in faults.take(1) {
            if let TraceKind::FaultStarted { index, targets } = &event.what {
                moments.push(Ranked::new(at, 1, self.fault_text("began", *index, targets)));
            }
        }
        let own = trace[from..to].iter().enumerate().filter(|(_, event)| event.machine == *machine);
        for (later, event) in own {
            let at = from + later;
            match &event.what {
                TraceKind::Stopped { power_lost } => {
                    let how = if *power_lost { "lost power" } else { "stopped" };
                    moments.push(Ranked::new(at, 0, format!("{how}, and could not answer")));
                }
                TraceKind::Observed(Observation::BecameFollower { partition: p, leader, leader_epoch, .. })
                    if p.to_string() == partition =>
                {
                    let text = format!("stepped down: broker-{leader} leads in epoch {leader_epoch}");
                    moments.push(Ranked::new(at, 1, text));
                }
                _ => {}
            }
        }
    }

    /// How the send ended, as its application saw it.
    pub fn outcome_moment(&self, sending: &Sending, moments: &mut Vec<Ranked>) {
        let Some(at) = sending.outcome else { return };
        let (text, rank) = match &self.case.trace[at].what {
            TraceKind::Acked { .. } => ("got the acknowledgement".to_owned(), 0),
            TraceKind::Failed { error, .. } => (format!("was told that it failed: {error}"), 0),
            TraceKind::Unknown { error, .. } if error == "acks=0" => ("counted it as done (acks=0)".to_owned(), 2),
            TraceKind::Unknown { error, .. } => (format!("gave it up, outcome unknown: {error}"), 1),
            _ => return,
        };
        moments.push(Ranked::new(at, rank, text));
    }

    /// Who read it first.
    pub fn read_moment(&self, record: &Record, moments: &mut Vec<Ranked>) {
        let Some(read) = self.records.read(&record.partition, &record.value) else { return };
        let at_ns = self.case.history[read.event].time;
        let at = self.case.trace.partition_point(|event| event.at.as_nanos() <= at_ns).saturating_sub(1);
        let machine = Some(self.records.client(read.process));
        moments.push(Ranked { machine, ..Ranked::new(at, 1, "read it") });
    }
}

/// The first two appends at these offsets.
fn two(appends: &[(Append, Offset)], offsets: &[i64]) -> Option<((Append, Offset), (Append, Offset))> {
    let mut there = appends.iter().filter(|(_, at)| offsets.contains(&at.0)).copied();
    Some((there.next()?, there.next()?))
}
