//! The checkers against honest histories, and against honest histories with one anomaly planted.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::honest::{Plan, history, plans};
use super::planted::{PLANTS, Pick};
use super::{ANOMALIES, Allowance, Anomalies, Context, Options, allowed, analyze_with, measure};
use crate::history::{HistoryConfig, HistoryEvent, write};

/// The same cases every time: a failure is a failure of everyone.
fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

fn not_allowed(history: &[HistoryEvent], ww_deps: bool) -> (Anomalies, Vec<&'static str>) {
    let context = Context { ww_deps, ..Context::of_history(&HistoryConfig::default(), history) };
    let table: Vec<&str> = allowed(&context).iter().map(|Allowance { anomaly, .. }| *anomaly).collect();
    let anomalies = analyze_with(history, Options { ww_deps });
    let names = anomalies.iter().map(|(name, _)| name).filter(|name| !table.contains(name)).collect();
    (anomalies, names)
}

fn told(history: &[HistoryEvent], anomalies: &Anomalies) -> String {
    let mut lines = Vec::new();
    write(&mut lines, &HistoryConfig::default(), history).expect("memory takes everything");
    let cases = anomalies.iter().flat_map(|(name, cases)| cases.iter().map(move |case| format!("{name}: {case}\n")));
    cases.collect::<String>() + &String::from_utf8_lossy(&lines)
}

fn honest_histories_pass(subscribes: bool, ww_deps: bool) {
    let passes = |plan: Plan| {
        let history = history(&plan);
        let (anomalies, names) = not_allowed(&history, ww_deps);
        prop_assert!(names.is_empty(), "{names:?} in an honest history\n{}", told(&history, &anomalies));
        let values = measure(&history).values;
        prop_assert_eq!(values.sent, values.acknowledged + values.failed + values.unknown);
        Ok(())
    };
    runner(200).run(&plans(subscribes), passes).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn an_honest_history_of_assigned_consumers_is_never_flagged() {
    honest_histories_pass(false, false);
}

#[test]
fn an_honest_history_with_rebalances_shows_only_what_rebalances_explain() {
    honest_histories_pass(true, false);
}

#[test]
fn an_honest_history_shows_only_allowed_cycles_with_write_write_edges() {
    honest_histories_pass(true, true);
}

#[test]
fn every_anomaly_can_be_planted() {
    let mut names: Vec<&str> = PLANTS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(names, ANOMALIES);
}

#[test]
fn a_planted_anomaly_is_found_wherever_it_is() {
    for (name, plant) in PLANTS {
        let is_found = |(plan, place): (Plan, u64)| {
            let mut history = history(&plan);
            let expected = plant(&mut history, &mut Pick(place));
            let anomalies = analyze_with(&history, Options { ww_deps: name.starts_with("G0") });
            let found = anomalies.evidence(name).iter().any(|evidence| expected.is(evidence, &history));
            prop_assert!(found, "{name} was planted and not found\n{}", told(&history, &anomalies));
            Ok(())
        };
        let run = runner(40).run(&(plans(true), any::<u64>()), is_found);
        run.unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
}
