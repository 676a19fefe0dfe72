//! Which records there are to explain: what the checkers found, one by one or by fate.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::loss::Record;
use super::{Case, Explanation, Facts, Moment, Remedy, Ruling, SameFate, Setting};
use crate::check::{AbortedRead, Duplicate, Evidence, Expired, InconsistentOffsets, Jump, LostWrite, Phantom, Unseen};
use crate::history::{EventType, MicroOp};
use crate::lab::outcome::RunOutcome;
use crate::scenario::Scenario;

/// Which explanations are wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Of every kind and partition the first.
    First,
    /// Of every fate one.
    All,
    Record {
        partition: String,
        offset: i64,
    },
}

/// There is no such record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(String);

/// Names for an acknowledged record that is gone.
pub(super) const LOSSES: [&str; 3] = ["lost-write", "unseen", "lost"];

/// Something a checker found of one record.
struct Found {
    kind: &'static str,
    record: Record,
    /// Where it is said to be: in the acknowledgement, or where it was read.
    offset: Option<i64>,
}

/// The explanations that are wanted of `case`, in the order of time, losses first.
///
/// # Errors
/// For a record that the run does not know, or that nobody sent; names the nearest.
pub fn explain(case: &Case<'_>, wanted: &Wanted) -> Result<Vec<Explanation>, Unknown> {
    let facts = Facts::of(case);
    match wanted {
        Wanted::First => Ok(first_of_each(facts.all())),
        Wanted::All => Ok(facts.all()),
        Wanted::Record { partition, offset } => Ok(facts.name_defects(facts.at_offset(partition, *offset)?)),
    }
}

/// Why the first lost record was lost, in order of acknowledgement, and how many of its partition are; without one the
/// first record that was sent without a certain outcome and is missing. What was deleted on purpose comes last.
pub fn first_lost(case: &Case<'_>) -> Option<(Explanation, SameFate)> {
    let facts = Facts::of(case);
    let found = facts.losses();
    let expired = Expired::of(case.trace);
    let is_deleted = |found: &Found| {
        let below = expired.deleted_below(&found.record.partition);
        found.offset.is_some_and(|offset| offset < below)
    };
    let first = found.iter().find(|found| !is_deleted(found)).or(found.first())?;
    let explanation = facts.name_defects(vec![facts.explain_record(first.kind, &first.record)?]).remove(0);
    let is_loss = |kind: &str| LOSSES.contains(&kind);
    let alike = |other: &&Found| {
        is_loss(other.kind) == is_loss(first.kind)
            && is_deleted(other) == is_deleted(first)
            && other.record.partition == first.record.partition
    };
    let all = group(found.iter().filter(alike).map(|other| other.offset));
    Some((explanation, all))
}

/// The explanations of a run in short, as plain lines without a line end, to put into a comment: of each kind and
/// partition the first, the most telling kinds first, at most three.
pub fn lines(scenario: &Scenario, variant: usize, outcome: &RunOutcome) -> Vec<String> {
    const EXPLANATIONS_MAX: usize = 3;
    const MOMENTS_MAX: usize = 8;
    let settings = super::Settings::of(&scenario.variants[variant]);
    let case = Case::of_run(&scenario.variants[variant], &settings, outcome);
    let facts = Facts::of(&case);
    let mut lines = Vec::new();
    for explanation in first_of_each(facts.all()).iter().take(EXPLANATIONS_MAX) {
        lines.push(explanation.title());
        lines.extend(explanation.lines(MOMENTS_MAX));
    }
    lines
}

fn first_of_each(explanations: Vec<Explanation>) -> Vec<Explanation> {
    let mut known: BTreeSet<(String, String)> = BTreeSet::new();
    explanations.into_iter().filter(|e| known.insert((e.kind.clone(), e.partition.clone()))).collect()
}

/// Offsets as runs.
fn group(offsets: impl Iterator<Item = Option<i64>>) -> SameFate {
    let mut same = SameFate::default();
    let mut known = Vec::new();
    for offset in offsets {
        same.records += 1;
        known.extend(offset);
    }
    known.sort_unstable();
    known.dedup();
    for run in known.chunk_by(|a, b| a + 1 == *b) {
        same.offsets.push((run[0], run[run.len() - 1]));
    }
    same
}

impl Facts<'_> {
    /// One explanation of every fate.
    fn all(&self) -> Vec<Explanation> {
        let lost: Vec<Explanation> = self
            .losses()
            .iter()
            .filter_map(|found| {
                let mut explanation = self.explain_record(found.kind, &found.record)?;
                explanation.same_fate = group(std::iter::once(found.offset.or(explanation.offset)));
                Some(explanation)
            })
            .collect();
        let mut all = by_fate(lost);
        let others = self.anomalies.iter().flat_map(|(kind, cases)| self.explain_anomalies(kind, cases)).collect();
        for other in by_fate(others) {
            // The same story under another name: what a loss looks like from elsewhere.
            match all.iter_mut().find(|loss| other.holders.is_some() && has_same_cause(loss, &other)) {
                Some(loss) if loss.also.contains(&other.kind) => {}
                Some(loss) => loss.also.push(other.kind),
                None => all.push(other),
            }
        }
        all.extend(self.explain_violations());
        all.extend(self.explain_unavailability());
        self.name_defects(all)
    }

    /// Where a rule was broken and defects are on, they are what broke it.
    fn name_defects(&self, mut explanations: Vec<Explanation>) -> Vec<Explanation> {
        let defects = &self.case.settings.defects;
        if defects.is_empty() {
            return explanations;
        }
        let names: Vec<String> = defects.iter().map(|(name, what)| format!("{name} ({what})")).collect();
        let names = super::prose::list(&names).replace(".)", ")");
        for explanation in explanations.iter_mut().filter(|e| e.ruling == Ruling::RuleBroken) {
            explanation.why = format!("{} Switched on: {names}.", explanation.why);
            let settings = vec![Setting { key: "defects", value: "none".to_owned() }];
            explanation.remedies = vec![Remedy { settings, why: "the rule holds without the defect".to_owned() }];
        }
        explanations
    }

    /// The cases of an anomaly that are more than the loss of a record. Cycles and transactions have no story of a record:
    /// their evidence is all there is.
    fn explain_anomalies(&self, kind: &str, cases: &[Evidence]) -> Vec<Explanation> {
        let record = |key: &str, value: &Json| Record { partition: key.to_owned(), value: value.clone() };
        let explain = |case: &Evidence| match case {
            Evidence::Duplicate(Duplicate { key, value, offsets, .. }) => {
                self.explain_duplicate(&record(key, value), offsets)
            }
            Evidence::InconsistentOffsets(InconsistentOffsets { key, offset, values, .. }) => {
                self.explain_contested(key, *offset, values)
            }
            Evidence::AbortedRead(AbortedRead { key, value, .. }) => self.explain_aborted_read(&record(key, value)),
            Evidence::Phantom(Phantom { key, value, .. }) => self.explain_phantom(&record(key, value)),
            Evidence::Jump(jump) => self.explain_jump(kind, jump),
            Evidence::LostWrite(_)
            | Evidence::Unseen(_)
            | Evidence::PrecommittedRead(_)
            | Evidence::Cycle(_)
            | Evidence::CommittedTooFar(_)
            | Evidence::LostLatest(_)
            | Evidence::TombstoneMissed(_) => None,
        };
        cases.iter().filter_map(explain).collect()
    }

    /// A skip needs no story where sends interleave: Kafka does not isolate writes.
    fn explain_jump(&self, kind: &str, jump: &Jump) -> Option<Explanation> {
        let Jump { key, values: [a, b], .. } = jump;
        match kind {
            "nonmonotonic-send" | "int-nonmonotonic-send" => self.explain_reordering(kind, key, a, b),
            "poll-skip" | "nonmonotonic-poll" | "int-poll-skip" | "int-nonmonotonic-poll" => {
                self.explain_step(kind, jump)
            }
            _ => None,
        }
    }

    /// Acknowledged records that are gone, in the order of acknowledgement; then those that were sent without a
    /// certain outcome and are missing.
    fn losses(&self) -> Vec<Found> {
        let read_back = self.read_back();
        let (mut lost_writes, mut unseen_values) = (BTreeSet::new(), BTreeSet::new());
        for case in self.anomalies.iter().flat_map(|(_, cases)| cases) {
            if let Evidence::LostWrite(LostWrite { key, value, .. }) = case {
                lost_writes.insert((key.clone(), value.to_string()));
            } else if let Evidence::Unseen(Unseen { key, value, .. }) = case {
                unseen_values.insert((key.clone(), value.to_string()));
            }
        }
        let (mut lost, mut missing) = (Vec::new(), Vec::new());
        for event in self.case.history {
            for op in event.ops() {
                let MicroOp::Send { key, value, offset, record_key: _, tombstone: _ } = op else { continue };
                let name = (key.clone(), value.to_string());
                let is_back = read_back.as_ref().is_none_or(|back| back.contains(&name));
                let record = Record { partition: key.clone(), value: value.clone() };
                match event.kind {
                    EventType::Ok if lost_writes.contains(&name) => {
                        lost.push(Found { kind: "lost-write", record, offset: *offset });
                    }
                    EventType::Ok if unseen_values.contains(&name) => {
                        lost.push(Found { kind: "unseen", record, offset: *offset });
                    }
                    EventType::Ok if !is_back => lost.push(Found { kind: "lost", record, offset: *offset }),
                    EventType::Info if !is_back => {
                        missing.push(Found { kind: "sent-and-missing", record, offset: *offset });
                    }
                    EventType::Ok | EventType::Info | EventType::Invoke | EventType::Fail => {}
                }
            }
        }
        lost.extend(missing);
        lost
    }

    /// (partition, value) of everything that the final read returned; `None` without a final read.
    fn read_back(&self) -> Option<BTreeSet<(String, String)>> {
        let from = self.final_read_at?.as_nanos();
        let mut back = BTreeSet::new();
        for event in self.case.history.iter().filter(|e| e.kind == EventType::Ok && e.time >= from) {
            for op in event.ops() {
                let MicroOp::Poll { records } = op else { continue };
                for (key, values) in records {
                    back.extend(values.iter().map(|(_, value)| (key.clone(), value.to_string())));
                }
            }
        }
        Some(back)
    }

    /// What there is to say of the records at one offset: what was found of them, otherwise their lives.
    fn at_offset(&self, partition: &str, offset: i64) -> Result<Vec<Explanation>, Unknown> {
        let mut known: BTreeMap<i64, Vec<Json>> = BTreeMap::new();
        let mut partitions: BTreeSet<&str> = BTreeSet::new();
        for op in self.case.history.iter().filter(|e| e.kind != EventType::Invoke).flat_map(|e| e.ops()) {
            match op {
                MicroOp::Send { key, value, offset, record_key: _, tombstone: _ } => {
                    partitions.insert(key);
                    if let Some(at) = offset.filter(|_| key == partition) {
                        known.entry(at).or_default().push(value.clone());
                    }
                }
                MicroOp::Poll { records } => {
                    let values = records.get(partition).map_or(&[] as &[_], Vec::as_slice);
                    for (at, value) in values.iter().filter_map(|(at, value)| Some(((*at)?, value))) {
                        known.entry(at).or_default().push(value.clone());
                    }
                }
            }
        }
        let found: Vec<Found> = self.losses().into_iter().filter(|f| f.record.partition == partition).collect();
        for loss in &found {
            let appended = self.records.sending(partition, &loss.record.value);
            if let Some((_, at)) = appended.and_then(|sending| self.append_of(partition, sending)) {
                known.entry(at.0).or_default().push(loss.record.value.clone());
            }
        }
        let Some(values) = known.get(&offset) else { return Err(unknown(partition, offset, &known, &partitions)) };
        let mut explanations: Vec<Explanation> = Vec::new();
        for value in values {
            if explanations.iter().any(|e| e.value.as_ref() == Some(value)) {
                continue;
            }
            let kind = found.iter().find(|f| f.record.value == *value).map_or("kept", |f| f.kind);
            let record = Record { partition: partition.to_owned(), value: value.clone() };
            explanations.extend(self.explain_record(kind, &record));
        }
        let of_these =
            |e: &Explanation| e.partition == partition && e.value.as_ref().is_some_and(|v| values.contains(v));
        let others =
            self.anomalies.iter().flat_map(|(kind, cases)| self.explain_anomalies(kind, cases)).filter(of_these);
        explanations.extend(others);
        if explanations.len() > 1 {
            explanations.retain(|explanation| explanation.kind != "kept");
        }
        if explanations.is_empty() {
            return Err(Unknown(format!("the trace does not know who sent the record at {partition}@{offset}")));
        }
        Ok(explanations)
    }
}

fn unknown(partition: &str, offset: i64, known: &BTreeMap<i64, Vec<Json>>, partitions: &BTreeSet<&str>) -> Unknown {
    if !partitions.contains(partition) {
        let all: Vec<String> = partitions.iter().map(|name| (*name).to_owned()).collect();
        return Unknown(format!("no record was sent to {partition}; there are {}", super::prose::list(&all)));
    }
    let below = known.range(..offset).next_back();
    let above = known.range(offset..).next();
    let nearest = below.into_iter().chain(above).min_by_key(|(at, _)| at.abs_diff(offset));
    match nearest {
        Some((at, _)) => {
            Unknown(format!("no record is known at {partition}@{offset}; the nearest is {partition}@{at}"))
        }
        None => Unknown(format!("no offset of any record of {partition} is known")),
    }
}

/// Explanations with the same decision, ruling and remedies become one: the first, with all of their offsets.
fn by_fate(explanations: Vec<Explanation>) -> Vec<Explanation> {
    let mut groups: Vec<(Explanation, Vec<Option<i64>>)> = Vec::new();
    let mut known: BTreeSet<(String, String)> = BTreeSet::new();
    for explanation in explanations {
        let offset = explanation.offset;
        let name = format!("{}@{offset:?} {:?}", explanation.partition, explanation.value);
        if !known.insert((explanation.kind.clone(), name)) {
            continue;
        }
        match groups.iter_mut().find(|(first, _)| is_same_fate(first, &explanation)) {
            Some((first, offsets)) => {
                if explanation.kind != first.kind && !first.also.contains(&explanation.kind) {
                    first.also.push(explanation.kind);
                }
                offsets.push(offset);
            }
            None => groups.push((explanation, vec![offset])),
        }
    }
    let grouped = groups.into_iter().map(|(mut first, offsets)| {
        first.same_fate = group(offsets.into_iter());
        first
    });
    grouped.collect()
}

fn has_same_cause(a: &Explanation, b: &Explanation) -> bool {
    a.partition == b.partition && a.decision == b.decision && a.decisive_event() == b.decisive_event()
}

fn is_same_fate(a: &Explanation, b: &Explanation) -> bool {
    let settings = |e: &Explanation| e.remedies.iter().map(|r| r.settings.clone()).collect::<Vec<_>>();
    let event =
        |e: &Explanation| e.holders.as_ref().and(e.timeline.iter().find(|m: &&Moment| m.decisive)).map(|m| m.event);
    let is_same_kind = a.kind == b.kind || [a, b].iter().all(|e| LOSSES.contains(&e.kind.as_str()));
    is_same_kind
        && (&a.partition, &a.decision, a.ruling) == (&b.partition, &b.decision, b.ruling)
        && event(a) == event(b)
        && settings(a) == settings(b)
}
