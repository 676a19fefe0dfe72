//! Consumers that skipped records or went back: what moved the position, or what was cut from under it.

use super::loss::{Ranked, Record};
use super::prose::count;
use super::replay::Replay;
use super::{Explanation, Facts, Remedy, Ruling, SameFate, Setting};
use crate::check::{Jump, broker_of};
use crate::client::ResetReason;
use crate::lab::outcome::TraceKind;
use crate::observe::Observation;
use crate::protocol::{BrokerId, TopicPartition};
use crate::world::Time;

/// The leader `leader` sent a consumer to `replica` (KIP-392).
struct Referral {
    at: usize,
    replica: BrokerId,
    leader: BrokerId,
}

impl Facts<'_> {
    /// Why a consumer went from one record to another that does not follow it.
    pub fn explain_step(&self, kind: &str, jump: &Jump) -> Option<Explanation> {
        let Jump { key: partition, values: [a, b], offsets, process, operations, distance, .. } = jump;
        let (first, last) = (operations.first()?, operations.last()?);
        let reader = self.records.client(*process);
        let [from, to] = [first, last].map(|op| self.event_of_operation(*op));
        let place = |offset: Option<i64>| offset.map_or_else(String::new, |offset| format!("@{offset}"));
        let what = if *distance > 1 {
            format!("skipped {}", count(distance.unsigned_abs() - 1, "record"))
        } else {
            "went back".to_owned()
        };
        let summary =
            format!("{reader} read {a}{} of {partition}, then {b}{}: it {what}.", place(offsets[0]), place(offsets[1]));
        let reset = (from..=to.min(self.case.trace.len() - 1)).rev().find(|at| self.is_reset(*at, &reader, partition));
        if let Some(reset) = reset {
            let read = |at: usize, text: String| Ranked { machine: Some(reader.clone()), ..Ranked::new(at, 0, text) };
            let reads = vec![
                read(from, format!("read {a}{}", place(offsets[0]))),
                read(to.min(self.case.trace.len() - 1), format!("read {b}{}", place(offsets[1]))),
            ];
            let mut explanation = self.explain_reset(kind, partition, reads, summary, reset);
            (explanation.offset, explanation.value) = (offsets[1], Some(b.clone()));
            return Some(explanation);
        }
        // No reset: what it had read was cut off, and other records took its place.
        let record = Record { partition: partition.clone(), value: a.clone() };
        let mut explanation = self.explain_record(kind, &record)?;
        explanation.summary = format!("{summary} {}", explanation.summary);
        let read = |at: usize, text: String| {
            let mut moment = self.moment(at.min(self.case.trace.len() - 1), text);
            moment.machine.clone_from(&reader);
            moment
        };
        for moment in
            [read(from, format!("read {a}{}", place(offsets[0]))), read(to, format!("read {b}{}", place(offsets[1])))]
        {
            let at = explanation.timeline.partition_point(|other| other.event <= moment.event);
            explanation.timeline.insert(at, moment);
        }
        if explanation.ruling == Ruling::Intact {
            explanation.ruling = Ruling::RuleBroken;
            explanation.decision =
                format!("{reader}, which moved from one record to the other without a reason in the trace");
            explanation.why = "Not legal: nothing was cut from the log, and the position was not reset.".to_owned();
        }
        Some(explanation)
    }

    fn is_reset(&self, at: usize, reader: &str, partition: &str) -> bool {
        let event = &self.case.trace[at];
        *event.machine == *reader
            && matches!(&event.what, TraceKind::PositionReset { partition: p, .. } if p == partition)
    }

    fn explain_reset(
        &self,
        kind: &str,
        partition: &str,
        mut moments: Vec<Ranked>,
        summary: String,
        at: usize,
    ) -> Explanation {
        let earlier = self.case.trace[..at].iter().rposition(|event| {
            matches!(&event.what, TraceKind::Observed(Observation::Truncated { partition: p, .. }) if p.to_string() == partition)
        });
        if let Some(cut) = earlier {
            moments.extend(self.partition_moments(partition, cut.saturating_sub(1), cut + 1));
        }
        let (mut decision, mut why, mut remedies) = (String::new(), String::new(), Vec::new());
        let mut ruling = Ruling::Legal;
        let reader = &self.case.trace[at].machine;
        let policy =
            self.case.settings.consumers.get(reader.as_ref()).map_or("latest", |c| c.auto_offset_reset.as_str());
        if let TraceKind::PositionReset { from, to, reason, .. } = &self.case.trace[at].what {
            moments.push(Ranked::new(at, 0, format!("moved its position from {from} to {to}")));
            decision = match reason {
                ResetReason::OutOfRange => {
                    format!("the answer OFFSET_OUT_OF_RANGE at position {from}, upon which {reader} went to {to}")
                }
                ResetReason::Truncation => {
                    format!("the truncation of the log below position {from}, upon which {reader} went to {to}")
                }
            };
            why = match reason {
                ResetReason::OutOfRange => format!(
                    "Legal: a position that the leader's log does not have is reset by auto.offset.reset={policy}."
                ),
                ResetReason::Truncation => {
                    "Legal: a consumer that finds the log cut below its position goes on where the \
                                            logs diverge (KIP-320)."
                        .to_owned()
                }
            };
            if *reason == ResetReason::OutOfRange
                && let Some(referral) = self.referral_to_a_lacking_follower(partition, *from, at)
            {
                let Referral { at: referred, replica, leader } = referral;
                moments.push(Ranked::new(referred, 0, format!("sent a consumer to broker-{replica}")));
                moments.extend(self.log_start_past(partition, *from, replica, at));
                decision = format!("broker-{replica}'s {}", decision.trim_start_matches("the "));
                why = format!(
                    "Not legal: the log of the leader, broker-{leader}, had the position, and what a follower's lacks says \
                     nothing about the partition (KIP-392)."
                );
                ruling = Ruling::RuleBroken;
            } else if *reason == ResetReason::OutOfRange && policy == "latest" {
                remedies.push(Remedy {
                    settings: vec![Setting { key: "auto.offset.reset", value: "earliest".to_owned() }],
                    why: "it would have gone to the beginning of the log instead of its end".to_owned(),
                });
            }
        }
        Explanation {
            kind: kind.to_owned(),
            also: Vec::new(),
            partition: partition.to_owned(),
            offset: None,
            value: None,
            summary,
            timeline: self.slice(moments, Some(at)),
            decision,
            ruling,
            why,
            holders: None,
            isr: None,
            remedies,
            same_fate: SameFate::default(),
        }
    }

    /// The follower that a consumer had been sent to before trace event `at`, if position `from` was in the leader's log
    /// then: it was not the leader who answered OFFSET_OUT_OF_RANGE.
    fn referral_to_a_lacking_follower(&self, partition: &str, from: i64, at: usize) -> Option<Referral> {
        let of = TopicPartition::parse(partition)?;
        let (mut replay, mut referred) = (Replay::new(self.case.trace, &of), None);
        for (index, event) in self.case.trace[..at].iter().enumerate() {
            replay.step(index);
            if let TraceKind::Observed(Observation::ReferredTo { partition, replica, .. }) = &event.what
                && *partition == of
            {
                referred = Some((index, *replica));
            }
        }
        let (at, replica) = referred?;
        let log = replay.replicas.get(&replay.leader)?;
        let had_it = (log.log_start.0..=log.log_end.0).contains(&from);
        had_it.then_some(Referral { at, replica, leader: replay.leader })
    }

    /// When the log start of `replica` passed `position`.
    fn log_start_past(&self, partition: &str, position: i64, replica: BrokerId, before: usize) -> Option<Ranked> {
        self.case.trace[..before].iter().enumerate().find_map(|(at, event)| {
            let TraceKind::Observed(observation) = &event.what else { return None };
            let Observation::LogStartMoved { partition: of, from, to, .. } = observation else { return None };
            let passed = broker_of(&event.machine) == Some(replica) && (from.0..to.0).contains(&position);
            let is_meant = passed && of.to_string() == partition;
            is_meant.then(|| Ranked::new(at, 0, format!("moved its log start from {from} to {to}")))
        })
    }

    /// Where an operation of the history falls in the trace.
    fn event_of_operation(&self, index: u64) -> usize {
        let history = self.case.history;
        let at =
            history.binary_search_by_key(&index, |event| event.index).unwrap_or_else(|at| at.min(history.len() - 1));
        let time = Time::from_nanos(history[at].time);
        self.case.trace.partition_point(|event| event.at <= time).saturating_sub(1)
    }
}
