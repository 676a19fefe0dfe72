//! Replaces a time by the state that it really meant: shortly after another fault, an ISR of some size, another leader,
//! so many records. A schedule of states reads as a story and survives changes that move every event in time.

use std::time::Duration;

use super::Search;
use super::schedule::rounder;
use crate::lab::outcome::{RunOutcome, TraceKind};
use crate::observe::Observation;
use crate::protocol::BrokerId;
use crate::scenario::{Comparison, Condition, Counter, Fault, When};
use crate::world::Time;

/// A state further back than this is not what a time meant.
const RECENT: Duration = Duration::from_secs(6);

pub(super) fn replace_times(search: &mut Search<'_>) {
    for index in 0..search.faults().len() {
        if search.is_spent() {
            return;
        }
        let When::At(_) = search.faults()[index].when else { continue };
        let outcome = search.run_again();
        let Some(started) = outcome.faults.iter().find(|fired| fired.index == index).map(|fired| fired.at) else {
            continue;
        };
        for (condition, after) in meant(search.faults(), index, started, &outcome) {
            if offer(search, index, condition, after) {
                break;
            }
        }
    }
}

/// With the exact delay a fault starts when it did; a rounder one is nicer, none the nicest.
fn offer(search: &mut Search<'_>, index: usize, condition: Condition, after: Duration) -> bool {
    let delays = [Duration::ZERO].into_iter().chain(rounder(after)).chain([after]).take(6);
    for after in delays {
        let mut faults = search.faults().to_vec();
        faults[index].when = When::Condition(condition.clone());
        faults[index].after = after;
        let candidate = search.with_faults(faults);
        if search.offer_if_as_robust(&candidate) {
            return true;
        }
    }
    false
}

/// The states that held shortly before `started`, the latest first: each with the time since.
fn meant(faults: &[Fault], index: usize, started: Time, outcome: &RunOutcome) -> Vec<(Condition, Duration)> {
    let mut states: Vec<(Condition, Duration)> = Vec::new();
    let mut add = |condition: Condition, at: Time| {
        if at <= started && started.since(at) <= RECENT {
            states.push((condition, started.since(at)));
        }
    };
    for fired in outcome.faults.iter().filter(|fired| fired.index != index && !waits_for(faults, fired.index, index)) {
        add(Condition::Fault { index: fired.index + 1, ended: false }, fired.at);
        if let Some(ended) = fired.ended_at {
            add(Condition::Fault { index: fired.index + 1, ended: true }, ended);
        }
    }
    let mut acked = 0;
    let mut topic = String::new();
    for event in &outcome.trace {
        let Some(at) = event.at.as_nanos().checked_sub(outcome.started_at.as_nanos()).map(Time::from_nanos) else {
            continue;
        };
        if at > started {
            break;
        }
        if let TraceKind::Acked { partition, .. } = &event.what {
            acked += 1;
            topic = partition.rsplit_once('-').map_or(partition.as_str(), |(topic, _)| topic).to_owned();
        }
        if let TraceKind::Observed(Observation::PartitionChanged { partition, leader, isr, .. }) = &event.what {
            let (partition, value) = (partition.to_string(), isr.len() as u64);
            add(Condition::IsrSize { partition: partition.clone(), compare: Comparison::Eq, value }, at);
            if *leader != BrokerId::NONE {
                add(Condition::Leader { partition, negated: false, broker: leader.0.unsigned_abs() }, at);
            }
        }
    }
    states.sort_by_key(|(_, since)| *since);
    if acked > 0 {
        let value = if acked >= 20 { acked / 10 * 10 } else { acked };
        let condition = Condition::Count { what: Counter::Acked, of: topic, compare: Comparison::Ge, value };
        states.push((condition, Duration::ZERO));
    }
    states.dedup_by(|a, b| a.0 == b.0);
    states
}

/// Whether fault `one` (0-based) waits for `other`, directly or through others.
fn waits_for(faults: &[Fault], one: usize, other: usize) -> bool {
    let mut at = one;
    for _ in 0..faults.len() {
        match faults[at].when {
            When::Condition(Condition::Fault { index, .. }) if index - 1 == other => return true,
            When::Condition(Condition::Fault { index, .. }) => at = index - 1,
            When::Condition(_) | When::At(_) => return false,
        }
    }
    true
}
