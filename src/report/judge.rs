//! The verdict on one run: what was found, held against what the scenario expects and what the
//! configuration allows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::model::{Account, Counts, ExpectationReport, FaultReport, RunReport, Verdict, ViolationReport};
use super::trace;
use crate::check::{self, Anomalies, Context, Evidence, Expired, allowed};
use crate::config::{Acks, ReplicaSelector};
use crate::explain::{self, Case, Settings};
use crate::history::{EventType, HistoryEvent, MicroOp};
use crate::lab::outcome::{End, Phase, RunOutcome, TraceEvent, TraceKind, Violation};
use crate::observe::Observation;
use crate::scenario::{Expectation, Scenario, Variant, Workload};
use crate::world::Time;

/// A pause between two successful sends counts as unavailability beyond this. Well above a linger, a round
/// trip and one retry back-off, well below the shortest failover.
const UNAVAILABLE_BEYOND: Duration = Duration::from_secs(1);

/// Evidence kept of each anomaly.
const EVIDENCE_MAX: usize = 8;

/// Events told of the first lost record.
const ACCOUNT_EVENTS_MAX: usize = 8;

/// Trace lines shown before a violation or the point where a run got stuck.
const LEADING_EVENTS_MAX: usize = 12;

/// Judges run `outcome` of `scenario`'s variant number `variant`.
///
/// A metric that an expectation names is judged by the expectation alone; every other anomaly or
/// violation must be absent, allowed by the table of [`crate::check::allowed`], or follow from a loss that
/// an expectation claims. A fault that never fired, or that the cluster refused, is unexpected: the scenario did not
/// happen.
pub fn judge(scenario: &Scenario, variant: usize, outcome: &RunOutcome) -> RunReport {
    let point = &scenario.variants[variant];
    let values = Values::of(outcome);
    let complete = outcome.end == End::Complete;
    let mut anomalies = check::analyze(&outcome.history);
    if !complete {
        // Without the final read nothing can be said about what was never read.
        anomalies.remove("unseen");
    }
    let mut report = RunReport {
        scenario: scenario.name.clone(),
        file: scenario.file.clone(),
        variant: point.point.iter().cloned().collect(),
        label: point.label(),
        title: scenario.title.clone(),
        seed: outcome.seed,
        verdict: Verdict::AsExpected,
        problems: Vec::new(),
        counts: values.counts(complete),
        anomalies: anomalies.iter().map(|(name, evidence)| (name.to_owned(), evidence.len() as u64)).collect(),
        evidence: first_evidence(&anomalies),
        violations: group_violations(&outcome.violations, outcome.started_at),
        read_from_followers: (point.cluster.config.replica_selector != ReplicaSelector::Leader)
            .then(|| check::read_from_followers(&outcome.trace)),
        groups: outcome.groups,
        unavailable_ms: unavailable(&outcome.history).as_millis() as u64,
        unavailable_measured: waits_for_acks(point),
        expectations: Vec::new(),
        allowed: allowed(&Context::of_run(point, outcome)),
        faults: fault_reports(point, outcome),
        settings: Settings::of(point),
        account: None,
        leading_events: leading_events(outcome),
        digest: format!("{:016x}", outcome.digest),
        sim_ms: outcome.ended_at.as_millis(),
        wall_ms: outcome.wall_ms,
        messages: outcome.messages,
        events: outcome.events,
        trace: None,
        history: None,
    };
    if complete && report.counts.lost > 0 {
        report.account = account(point, &report.settings, outcome);
    }
    let (verdict, problems) = match &outcome.end {
        End::Panicked(message) => (Verdict::Panicked, vec![format!("panicked: {message}")]),
        End::Unfinished(waiting) => (Verdict::Unfinished, vec![format!("did not finish: {waiting}")]),
        End::Complete => {
            let left = Expired::of(&outcome.trace).leaves(&anomalies, &report.allowed);
            judge_complete(point, &left, &mut report)
        }
    };
    (report.verdict, report.problems) = (verdict, problems);
    report
}

/// The first lost record, in short.
fn account(variant: &Variant, settings: &Settings, outcome: &RunOutcome) -> Option<Account> {
    let (explanation, all) = explain::first_lost(&Case::of_run(variant, settings, outcome))?;
    let mut lines = explanation.lines(ACCOUNT_EVENTS_MAX);
    let partition = explanation.partition;
    let is_kept = explanation.ruling == explain::Ruling::Intact;
    lines.push(match (all.text(), is_kept) {
        (Some(lost), false) => format!("Gone are offsets {lost} of {partition} that were acknowledged."),
        (None, false) => format!("It is the only acknowledged record of {partition} that is gone."),
        (Some(unread), true) => {
            format!("The final read did not return offsets {unread} of {partition} that were acknowledged.")
        }
        (None, true) => {
            format!("It is the only acknowledged record of {partition} that the final read did not return.")
        }
    });
    let (offset, value) = (explanation.offset, explanation.value.unwrap_or_default());
    Some(Account { partition, offset, value, lines })
}

/// `left`: what the table excuses by deletion and nobody deleted, with how many cases.
fn judge_complete(variant: &Variant, left: &[(&str, u64)], report: &mut RunReport) -> (Verdict, Vec<String>) {
    let mut problems = Vec::new();
    for expectation in &variant.expect {
        let judged = judge_expectation(expectation, report);
        if !judged.passed {
            problems.push(format!("expected {} {}, found {}", judged.metric, judged.expected, judged.actual));
        }
        if check::ANOMALIES.contains(&judged.metric.as_str()) {
            report.anomalies.entry(judged.metric.clone()).or_insert(0);
        }
        report.expectations.push(judged);
    }
    let is_explained = report.allowance("lost-write").is_some();
    // `lost-write = "> 0"`: met only by a loss.
    let claims_loss =
        |e: &Expectation| ["lost-write", "unseen"].contains(&e.metric.as_str()) && !e.compare.holds(0, e.value);
    if !is_explained && variant.expect.iter().any(claims_loss) {
        check::allow_claimed_loss(&mut report.allowed);
    }
    let is_expected = |name: &str| variant.expect.iter().any(|expectation| expectation.metric == name);
    for (name, count) in &report.anomalies {
        if *count > 0 && !is_expected(name) && report.allowance(name).is_none() {
            problems.push(format!("{name}: {count} found, none allowed"));
        }
    }
    for (name, count) in left.iter().filter(|(name, _)| !is_expected(name)) {
        problems.push(format!("{name}: {count} found of records that retention did not delete, none allowed"));
    }
    for violation in &report.violations {
        if !is_expected(violation.name) && report.allowance(violation.name).is_none() {
            let ViolationReport { name, count, at_ms, partition, detail } = violation;
            problems
                .push(format!("violation {name}: {count}, the first at {} in {partition}: {detail}", seconds(*at_ms)));
        }
    }
    for (index, fault) in report.faults.iter().enumerate() {
        let went_wrong = match (&fault.refused, fault.at_ms) {
            (Some(error), _) => format!("was refused: {error}"),
            (None, None) => "never fired".to_owned(),
            (None, Some(_)) => continue,
        };
        let place = if fault.line > 0 { format!(", line {}", fault.line) } else { String::new() };
        let what = [fault.action.as_str(), fault.target.as_str()].join(" ");
        problems.push(format!("fault {} ({}{place}) {went_wrong}", index + 1, what.trim_end()));
    }
    (if problems.is_empty() { Verdict::AsExpected } else { Verdict::Unexpected }, problems)
}

fn judge_expectation(expectation: &Expectation, report: &RunReport) -> ExpectationReport {
    let Expectation { metric, compare, value } = expectation;
    let actual = metric_value(metric, report);
    ExpectationReport {
        metric: metric.clone(),
        expected: format!("{compare} {value}"),
        actual,
        passed: compare.holds(actual, *value),
    }
}

/// A count, `unavailable-ms`, an anomaly or a violation; what was not found is 0.
fn metric_value(metric: &str, report: &RunReport) -> u64 {
    let counts = &report.counts;
    let groups = report.groups.unwrap_or_default();
    match metric {
        "sent" => counts.sent,
        "acked" => counts.acked,
        "failed" => counts.failed,
        "unknown" => counts.unknown,
        "read" => counts.read,
        "lost" => counts.lost,
        "compacted" => counts.compacted,
        "sent-and-missing" | "sent_and_missing" => counts.sent_and_missing,
        "unavailable-ms" | "unavailable_ms" => report.unavailable_ms,
        "read-from-followers" | "read_from_followers" => report.read_from_followers.unwrap_or(0),
        "processed" => groups.processed,
        "reprocessed" => groups.reprocessed,
        "skipped" => groups.skipped,
        "rebalances" => groups.rebalances,
        "windows" => groups.windows,
        "broken-windows" => groups.broken_windows,
        "unowned-ms" => groups.unowned_ms,
        name => {
            let violations = report.violations.iter().find(|violation| violation.name == name);
            report.anomalies.get(name).copied().or(violations.map(|violation| violation.count)).unwrap_or(0)
        }
    }
}

/// What became of each value.
struct Values<'a> {
    /// (key, value) -> its place in `all`.
    known: FxHashMap<(&'a str, &'a serde_json::Value), usize>,
    all: Vec<ValueOutcome<'a>>,
    /// Highest offset of each (key, record key) of the partitions that were compacted.
    latest: FxHashMap<(&'a str, &'a str), i64>,
}

struct ValueOutcome<'a> {
    key: &'a str,
    value: &'a serde_json::Value,
    record_key: Option<&'a str>,
    is_tombstone: bool,
    /// As acknowledged or as read.
    offset: Option<i64>,
    sent: bool,
    failed: bool,
    acked: Option<LostRecord<'a>>,
    read_back: bool,
}

/// An acknowledged record that is gone.
#[derive(Clone, Copy, Debug)]
pub struct LostRecord<'a> {
    pub key: &'a str,
    pub value: &'a serde_json::Value,
    pub offset: Option<i64>,
    pub acked_at: Time,
}

impl<'a> Values<'a> {
    /// If there was no final read, every ok poll counts as read back.
    fn of(outcome: &'a RunOutcome) -> Values<'a> {
        let mut values = Values { known: FxHashMap::default(), all: Vec::new(), latest: FxHashMap::default() };
        let read_from = final_read_at(&outcome.trace).unwrap_or(Time::ZERO);
        for event in &outcome.history {
            let at = Time::from_nanos(event.time);
            for op in event.ops() {
                match op {
                    MicroOp::Send { key, value, offset, record_key, tombstone } => {
                        let outcome = values.entry(key, value);
                        outcome.record_key = record_key.as_deref();
                        outcome.is_tombstone = *tombstone;
                        outcome.offset = outcome.offset.max(*offset);
                        outcome.sent = true;
                        outcome.failed |= event.kind == EventType::Fail;
                        if event.kind == EventType::Ok {
                            outcome.acked.get_or_insert(LostRecord { key, value, offset: *offset, acked_at: at });
                        }
                    }
                    MicroOp::Poll { records } if event.kind == EventType::Ok && at >= read_from => {
                        for (key, records) in records {
                            for (offset, value) in records {
                                let outcome = values.entry(key, value);
                                outcome.read_back = true;
                                outcome.offset = outcome.offset.max(*offset);
                            }
                        }
                    }
                    MicroOp::Poll { .. } => {}
                }
            }
        }
        values.note_latest(&compacted_partitions(&outcome.trace));
        values
    }

    fn note_latest(&mut self, compacted: &BTreeSet<String>) {
        for outcome in self.all.iter().filter(|outcome| compacted.contains(outcome.key)) {
            if let (Some(record_key), Some(offset)) = (outcome.record_key, outcome.offset) {
                let latest = self.latest.entry((outcome.key, record_key)).or_insert(offset);
                *latest = offset.max(*latest);
            }
        }
    }

    /// Compaction may have removed it: the partition was compacted, and it is a tombstone or not the latest of its
    /// record key.
    fn may_be_compacted(&self, outcome: &ValueOutcome<'a>) -> bool {
        let latest = outcome.record_key.and_then(|record_key| self.latest.get(&(outcome.key, record_key)));
        latest.is_some_and(|latest| outcome.is_tombstone || outcome.offset.is_some_and(|offset| offset < *latest))
    }

    fn entry(&mut self, key: &'a str, value: &'a serde_json::Value) -> &mut ValueOutcome<'a> {
        let all = &mut self.all;
        let at = *self.known.entry((key, value)).or_insert_with(|| {
            let (record_key, is_tombstone, offset) = (None, false, None);
            let (sent, failed, acked, read_back) = (false, false, None, false);
            all.push(ValueOutcome { key, value, record_key, is_tombstone, offset, sent, failed, acked, read_back });
            all.len() - 1
        });
        &mut self.all[at]
    }

    fn counts(&self, complete: bool) -> Counts {
        let mut counts = Counts::default();
        for outcome in &self.all {
            let is_unknown = outcome.sent && outcome.acked.is_none() && !outcome.failed;
            counts.sent += u64::from(outcome.sent);
            counts.acked += u64::from(outcome.acked.is_some());
            counts.failed += u64::from(outcome.failed && outcome.acked.is_none());
            counts.unknown += u64::from(is_unknown);
            counts.read += u64::from(outcome.read_back);
            if complete && !outcome.read_back {
                let is_compacted = self.may_be_compacted(outcome);
                counts.lost += u64::from(outcome.acked.is_some() && !is_compacted);
                counts.compacted += u64::from(outcome.acked.is_some() && is_compacted);
                counts.sent_and_missing += u64::from(is_unknown);
            }
        }
        counts
    }

    /// Acknowledged and not read back, in the order of acknowledgement.
    fn lost(&self) -> Vec<LostRecord<'a>> {
        let mut lost: Vec<LostRecord<'a>> = self
            .all
            .iter()
            .filter(|outcome| !outcome.read_back && !self.may_be_compacted(outcome))
            .filter_map(|outcome| {
                debug_assert!(
                    outcome.acked.is_none_or(|acked| acked.key == outcome.key && acked.value == outcome.value)
                );
                outcome.acked
            })
            .collect();
        lost.sort_by(|a, b| (a.acked_at, a.key, a.offset).cmp(&(b.acked_at, b.key, b.offset)));
        lost
    }
}

/// When each lost record was acknowledged, ascending; nothing for a run that did not complete.
pub fn lost_times(outcome: &RunOutcome) -> Vec<Time> {
    if outcome.end != End::Complete {
        return Vec::new();
    }
    let values = Values::of(outcome);
    values.lost().iter().map(|record| record.acked_at).collect()
}

fn compacted_partitions(trace: &[TraceEvent]) -> BTreeSet<String> {
    let partition = |event: &TraceEvent| match &event.what {
        TraceKind::Observed(Observation::Compacted { partition, .. }) => Some(partition.to_string()),
        _ => None,
    };
    trace.iter().filter_map(partition).collect()
}

fn final_read_at(trace: &[TraceEvent]) -> Option<Time> {
    trace.iter().find(|event| event.what == TraceKind::Phase(Phase::FinalRead)).map(|event| event.at)
}

/// The worst partition's time without a successful send while one was tried, counted where a stretch exceeds
/// [`UNAVAILABLE_BEYOND`].
fn unavailable(history: &[HistoryEvent]) -> Duration {
    let of_partition = |stretches: Vec<Duration>| stretches.iter().filter(|time| **time > UNAVAILABLE_BEYOND).sum();
    check::without_successful_send(history).into_values().map(of_partition).max().unwrap_or_default()
}

fn waits_for_acks(variant: &Variant) -> bool {
    variant.workloads.iter().any(|workload| match workload {
        Workload::Produce { config, .. } => config.acks != Acks::Zero,
        Workload::Consume { .. } => false,
    })
}

fn first_evidence(anomalies: &Anomalies) -> BTreeMap<String, Vec<Evidence>> {
    anomalies
        .iter()
        .map(|(name, evidence)| (name.to_owned(), evidence.iter().take(EVIDENCE_MAX).cloned().collect()))
        .collect()
}

fn group_violations(violations: &[Violation], started_at: Time) -> Vec<ViolationReport> {
    let mut groups: Vec<ViolationReport> = Vec::new();
    for Violation { name, at, partition, detail } in violations {
        match groups.iter_mut().find(|group| group.name == *name) {
            Some(group) => group.count += 1,
            None => groups.push(ViolationReport {
                name,
                count: 1,
                at_ms: at.since(started_at).as_millis() as u64,
                partition: partition.clone(),
                detail: detail.clone(),
            }),
        }
    }
    groups
}

fn leading_events(outcome: &RunOutcome) -> Vec<String> {
    match (&outcome.end, outcome.violations.first()) {
        (_, Some(violation)) => {
            trace::leading_up_to(&outcome.trace, violation.at, Some(&violation.partition), LEADING_EVENTS_MAX)
        }
        (End::Complete, None) => Vec::new(),
        (End::Panicked(_) | End::Unfinished(_), None) => {
            let end = outcome.trace.last().map_or(Time::ZERO, |event| event.at);
            trace::leading_up_to(&outcome.trace, end, None, LEADING_EVENTS_MAX)
        }
    }
}

fn fault_reports(variant: &Variant, outcome: &RunOutcome) -> Vec<FaultReport> {
    let report = |(index, fault): (usize, &crate::scenario::Fault)| {
        let fired = outcome.faults.iter().find(|fired| fired.index == index);
        FaultReport {
            at_ms: fired.map(|fired| fired.at.as_millis()),
            ended_ms: fired.and_then(|fired| fired.ended_at).map(Time::as_millis),
            action: fault.text.0.clone(),
            target: fault.text.1.clone(),
            resolved: fired.map(|fired| fired.resolved.join(", ")).unwrap_or_default(),
            refused: fired.and_then(|fired| fired.refused.clone()),
            line: fault.line,
        }
    };
    variant.faults.iter().enumerate().map(report).collect()
}

/// `12.345s`
pub fn seconds(ms: u64) -> String {
    format!("{}.{:03}s", ms / 1000, ms % 1000)
}
