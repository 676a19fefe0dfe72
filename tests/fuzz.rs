//! The fuzzer: what it draws are valid scenarios, what it says is the same every time, what nothing is wrong with stays
//! clean, what is broken on purpose is found and made small.

use faultline::defect::Defects;
use faultline::fuzz::Profile;
use faultline::fuzz::campaign::try_seed;
use faultline::fuzz::examine::examine;
use faultline::fuzz::generate::{scenario, scenarios};
use faultline::lab::run::run_one;
use faultline::scenario::{Scenario, find_files, load, parse, render};
use proptest::prelude::*;

/// Without what a file's layout decides.
fn essence(mut scenario: Scenario) -> Scenario {
    scenario.file.clear();
    scenario.name.clear();
    for fault in scenario.variants.iter_mut().flat_map(|variant| &mut variant.faults) {
        fault.line = 0;
    }
    scenario
}

fn read_back(scenario: &Scenario) -> Scenario {
    let text = render(scenario, &["An explanation,".to_owned(), String::new(), "of two lines.".to_owned()]);
    parse("again", "", &text).unwrap_or_else(|error| panic!("{}\n{text}", error.render(false, 120)))
}

#[test]
fn every_shipped_scenario_survives_being_written_and_read_again() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    for file in find_files(&[dir]).expect("scenarios/ holds scenarios") {
        let scenario = load(&file).expect("shipped scenarios are valid");
        assert_eq!(essence(read_back(&scenario)), essence(scenario), "{}", file.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_drawn_scenario_survives_being_written_and_read_again(
        drawn in prop_oneof![
            scenarios(Profile::Replication),
            scenarios(Profile::Storage),
            scenarios(Profile::All),
        ]
    ) {
        prop_assert_eq!(essence(read_back(&drawn)), essence(drawn));
    }
}

#[test]
fn a_seed_means_one_scenario() {
    for profile in Profile::ALL {
        let texts: Vec<String> = (1..=20).map(|seed| render(&scenario(profile, seed), &[])).collect();
        let again: Vec<String> = (1..=20).map(|seed| render(&scenario(profile, seed), &[])).collect();
        assert_eq!(texts, again);
        let distinct: std::collections::BTreeSet<&String> = texts.iter().collect();
        assert_eq!(distinct.len(), texts.len(), "two seeds of {} mean one scenario", profile.name());
    }
}

#[test]
fn the_guard_excuses_every_loss_that_a_shipped_scenario_claims() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    for file in find_files(&[dir]).expect("scenarios/ holds scenarios") {
        let scenario = load(&file).expect("shipped scenarios are valid");
        for (index, variant) in scenario.variants.iter().enumerate().filter(|(_, v)| v.cluster.defects.is_empty()) {
            let failure = examine(variant, &run_one(&scenario, index, scenario.seed));
            assert_eq!(failure, None, "{}, variant {}", file.display(), variant.label());
        }
    }
}

#[test]
fn a_sweep_without_defects_finds_nothing() {
    for profile in Profile::ALL {
        for seed in 1..=12 {
            let failure = try_seed(profile, Defects::NONE, seed);
            assert_eq!(failure, None, "faultline fuzz --profile {} --seed {seed} --seeds 1", profile.name());
        }
    }
}
