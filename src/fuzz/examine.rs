//! What is wrong with a run that no configuration and no legitimate loss explains, and under which name to file it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value as Json;

use super::guard::{Guard, Promise};
use crate::check::{self, Anomalies, Context, allowed};
use crate::history::{EventType, MicroOp};
use crate::lab::outcome::{End, RunOutcome, Violation};
use crate::protocol::Offset;
use crate::scenario::Variant;
use crate::world::Time;

/// Tells failures apart: the broken rule, and the decision that broke it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Signature {
    /// Name of a violation or an anomaly, or `panicked`, `unfinished`.
    pub rule: String,
    /// What sealed it; empty where the rule says all.
    pub site: String,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.site.as_str() {
            "" => f.write_str(&self.rule),
            site => write!(f, "{} ({site})", self.rule),
        }
    }
}

/// One run that should not have gone like this.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub signature: Signature,
    /// Every rule that was broken without excuse, with the first case of each.
    pub broken: BTreeMap<String, String>,
}

/// Anomalies that mean that an acknowledged record is gone, in the order in which they name a failure.
const LOSSES: [&str; 3] = ["lost-write", "unseen", "lost-latest"];
/// Anomalies that follow when a log is cut below what a client knows of it.
const GAPS: [&str; 6] = [
    "poll-skip",
    "nonmonotonic-poll",
    "int-poll-skip",
    "int-nonmonotonic-poll",
    "nonmonotonic-send",
    "committed-too-far",
];

/// Judges a run. `None`: whatever was found is legitimate.
///
/// The earliest broken invariant names the failure: it is nearest to the cause. Without one it is the weightiest
/// anomaly: a loss before all others.
pub fn examine(variant: &Variant, outcome: &RunOutcome) -> Option<Failure> {
    match &outcome.end {
        End::Panicked(message) => return Some(failure("panicked", place_of(message), message)),
        End::Unfinished(waiting) => return Some(failure("unfinished", waiting.clone(), waiting)),
        End::Complete => {}
    }
    let anomalies = check::analyze(&outcome.history);
    if outcome.violations.is_empty() && anomalies.is_empty() {
        return None;
    }
    let guard = Guard::of(variant, outcome);
    let violations = violations(variant, outcome, &guard);
    let anomalies = unexcused(variant, outcome, &anomalies, &guard);
    let first = violations.first().or_else(|| {
        let weighty = LOSSES.iter().find_map(|rule| anomalies.iter().find(|finding| finding.0.rule == *rule));
        weighty.or(anomalies.first())
    });
    let signature = first?.0.clone();
    let mut broken = BTreeMap::new();
    for (signature, detail) in violations.into_iter().chain(anomalies) {
        broken.entry(signature.rule).or_insert(detail);
    }
    Some(Failure { signature, broken })
}

type Finding = (Signature, String);

fn failure(rule: &str, site: String, detail: &str) -> Failure {
    let signature = Signature { rule: rule.to_owned(), site };
    Failure { signature, broken: BTreeMap::from([(rule.to_owned(), detail.to_owned())]) }
}

/// `src/replica/leader.rs:120` out of a panic's message.
fn place_of(message: &str) -> String {
    let place = message.split_once("panicked at ").map_or(message, |(_, rest)| rest);
    let mut parts = place.split(':');
    [parts.next(), parts.next()].into_iter().flatten().collect::<Vec<_>>().join(":")
}

fn violations(variant: &Variant, outcome: &RunOutcome, guard: &Guard) -> Vec<Finding> {
    // A leader that has lost what it knew of a producer cannot be right about its sequences.
    let is_forgotten = |violation: &Violation| {
        violation.name == "producer-sequence" && Context::of_run(variant, outcome).producers_forgotten
    };
    let is_excused = |violation: &Violation| guard.excuse_violation(violation).is_some() || is_forgotten(violation);
    let unexcused = outcome.violations.iter().filter(|violation| !is_excused(violation));
    unexcused
        .map(|violation| {
            let signature = Signature { rule: violation.name.to_owned(), site: guard.site_of_violation(violation) };
            (signature, format!("{} in {}: {}", violation.at, violation.partition, violation.detail))
        })
        .collect()
}

fn unexcused(variant: &Variant, outcome: &RunOutcome, anomalies: &Anomalies, guard: &Guard) -> Vec<Finding> {
    if anomalies.is_empty() {
        return Vec::new();
    }
    // What the table would explain by a loss somewhere in the run, the guard judges by partition and record instead.
    let context = Context::of_run(variant, outcome);
    let context = Context { unclean_election: false, lossy_crashes: 0, last_replica_lost_power: false, ..context };
    let table = allowed(&context);
    let is_allowed = |name: &str| table.iter().any(|row| row.anomaly == name);
    let broken = |name: &str| {
        let violations = outcome.violations.iter().filter(|violation| violation.name == name);
        violations.map(|violation| violation.partition.as_str()).collect()
    };
    let losses = Losses { guard, acks: Acks::of(outcome), unread: broken("unreadable"), stuck: broken("liveness") };
    let mut findings = Vec::new();
    for (name, cases) in anomalies.iter() {
        let by_record = LOSSES.contains(&name) || name == "inconsistent-offsets";
        let first = cases.iter().find_map(|case| {
            let case = &case.to_json();
            let site = if by_record {
                losses.site(name, case)?
            } else if is_allowed(name) || (GAPS.contains(&name) && losses.explain_gap(case)) {
                return None;
            } else {
                String::new()
            };
            Some((Signature { rule: name.to_owned(), site }, case.to_string()))
        });
        findings.extend(first);
    }
    findings
}

/// Where and when each value was acknowledged, by key and value as text.
struct Acks(BTreeMap<(String, String), Promise>);

impl Acks {
    fn of(outcome: &RunOutcome) -> Acks {
        let mut sent = BTreeMap::new();
        let mut acked = BTreeMap::new();
        for event in &outcome.history {
            let at = Time::from_nanos(event.time);
            for op in event.ops() {
                let MicroOp::Send { key, value, offset, .. } = op else { continue };
                let name = (key.clone(), value.to_string());
                match event.kind {
                    EventType::Invoke => drop(sent.insert(name, at)),
                    EventType::Ok => {
                        let sent_at = sent.get(&name).copied().unwrap_or(at);
                        let Some(offset) = offset.map(Offset) else { continue };
                        acked.insert(name, Promise { value: value.as_u64(), offset, sent_at, acked_at: at });
                    }
                    EventType::Fail | EventType::Info => {}
                }
            }
        }
        Acks(acked)
    }
}

/// Lost records held against the guard.
struct Losses<'a> {
    guard: &'a Guard,
    acks: Acks,
    /// Partitions that the final read did not get through.
    unread: BTreeSet<&'a str>,
    /// Partitions whose replicas did not come together again.
    stuck: BTreeSet<&'a str>,
}

impl Losses<'_> {
    /// The site of an anomaly about lost records; `None` if it is excused.
    fn site(&self, name: &str, case: &Json) -> Option<String> {
        let (key, offset) = (case["key"].as_str()?, case["offset"].as_i64().map(Offset));
        let Some(offset) = offset else { return Some("no offset".to_owned()) };
        if name != "inconsistent-offsets" {
            return self.lost(key, offset, &case["value"]);
        }
        // One of the values stands at the offset, the others must have been lost legitimately.
        let values = case["values"].as_array().map(Vec::as_slice).unwrap_or_default();
        let lost: Vec<String> = values.iter().filter_map(|value| self.lost(key, offset, value)).collect();
        (lost.len() > 1).then(|| lost[0].clone())
    }

    fn lost(&self, key: &str, offset: Offset, value: &Json) -> Option<String> {
        // What became of it is not known; that it is not is another finding, or excused.
        if self.unread.contains(key) {
            return None;
        }
        let promise = self.acks.0.get(&(key.to_owned(), value.to_string()));
        // Without an acknowledgement there (of another copy, perhaps) nothing was promised but to whoever read it.
        let promise = promise.filter(|promise| promise.offset == offset);
        // What its leader waits for to commit it is another finding, or excused.
        if promise.is_some_and(|promise| self.stuck.contains(key) && self.guard.is_uncommitted(key, promise)) {
            return None;
        }
        let excuse = match promise {
            Some(promise) => self.guard.excuse_lost(key, promise),
            None => self.guard.excuse_overwritten(key, offset),
        };
        let site = || promise.map_or_else(|| "read".to_owned(), |promise| self.guard.site_of_lost(key, promise));
        excuse.is_none().then(site)
    }

    fn explain_gap(&self, case: &Json) -> bool {
        case["key"].as_str().is_some_and(|key| self.guard.excuse_gap(key).is_some())
    }
}
