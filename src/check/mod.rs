//! Checkers: what of a history is wrong ([`analyze`], Jepsen's names), and what of that is allowed under a
//! configuration ([`allowed`]). Pure functions over plain data; detecting is separate from judging, which
//! is `report`'s.
//!
//! The definitions follow Jepsen's Kafka workload. Every detector is linear or n log n in the history.

mod allowed;
mod availability;
pub mod bench;
mod commits;
mod compaction;
mod context;
mod cycles;
mod events;
mod evidence;
mod expired;
mod facts;
mod followers;
mod graph;
mod measure;
mod order;
mod positions;
mod values;

use std::collections::BTreeMap;

use crate::history::HistoryEvent;

pub use allowed::{Allowance, VIOLATIONS_OF_LOSS, allow_claimed_loss, allowed};
pub use availability::without_successful_send;
pub use context::{Context, acks_name};
pub(crate) use events::broker_of;
pub use evidence::{
    AbortedRead, Because, CommittedTooFar, Cycle, Dependency, Duplicate, Evidence, InconsistentOffsets, Jump,
    LostLatest, LostWrite, Phantom, PrecommittedRead, TombstoneMissed, Unseen,
};
pub use expired::Expired;
pub use followers::read_from_followers;
pub use measure::{Consumed, Fates, Lag, Measured, MostConsumed, Spread, measure};

/// The names of all anomalies that [`analyze`] looks for.
pub const ANOMALIES: [&str; 23] = [
    "G0",
    "G0-process",
    "G0-realtime",
    "G1c",
    "G1c-process",
    "G1c-realtime",
    "aborted-read",
    "committed-too-far",
    "duplicate",
    "inconsistent-offsets",
    "int-nonmonotonic-poll",
    "int-nonmonotonic-send",
    "int-poll-skip",
    "int-send-skip",
    "lost-latest",
    "lost-write",
    "nonmonotonic-poll",
    "nonmonotonic-send",
    "phantom",
    "poll-skip",
    "precommitted-read",
    "tombstone-missed",
    "unseen",
];

/// Name -> evidence, one entry per case. Names without a case are absent.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Anomalies {
    found: BTreeMap<&'static str, Vec<Evidence>>,
}

impl Anomalies {
    pub fn count(&self, name: &str) -> u64 {
        self.evidence(name).len() as u64
    }

    pub fn evidence(&self, name: &str) -> &[Evidence] {
        self.found.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[Evidence])> {
        self.found.iter().map(|(name, evidence)| (*name, evidence.as_slice()))
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Forgets an anomaly that means nothing here.
    pub fn remove(&mut self, name: &str) {
        self.found.remove(name);
    }

    fn add(&mut self, name: &'static str, evidence: Evidence) {
        debug_assert!(ANOMALIES.contains(&name));
        self.found.entry(name).or_default().push(evidence);
    }
}

/// Finds every anomaly of a history. Cycles are those of write-read edges, process order and real time.
pub fn analyze(history: &[HistoryEvent]) -> Anomalies {
    analyze_with(history, Options::default())
}

/// What is taken as evidence. Options only ever find more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Neighbours in the version order of a key depend on each other: G0 can be found then, and G1c follows
    /// from interleaved writes. Jepsen's `ww-deps`.
    pub ww_deps: bool,
}

/// [`analyze`] with options.
pub fn analyze_with(history: &[HistoryEvent], options: Options) -> Anomalies {
    let facts = facts::Facts::of(history);
    let orders = order::VersionOrders::of(&facts);
    let mut anomalies = Anomalies::default();
    values::detect(&facts, &orders, &mut anomalies);
    positions::detect(&facts, &orders, &mut anomalies);
    commits::detect(&facts, &orders, &mut anomalies);
    compaction::detect(&facts, &orders, &mut anomalies);
    cycles::detect(&facts, &orders, options.ww_deps, &mut anomalies);
    anomalies
}

#[cfg(test)]
mod honest;
#[cfg(test)]
mod planted;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{METRICS, MetricKind};

    #[test]
    fn every_anomaly_can_be_expected_by_a_scenario() {
        let mut metrics: Vec<&str> =
            METRICS.iter().filter(|metric| metric.kind == MetricKind::Anomaly).map(|metric| metric.name).collect();
        metrics.sort_unstable();
        assert_eq!(metrics, ANOMALIES);
    }
}
