//! The fuzzer: what it draws are valid scenarios, what it says is the same every time, what nothing is wrong with stays
//! clean, what is broken on purpose is found and made small.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use faultline::defect::{Defect, Defects};
use faultline::fuzz::Profile;
use faultline::fuzz::campaign::{self, try_seed};
use faultline::fuzz::examine::examine;
use faultline::fuzz::found::{self, Origin};
use faultline::fuzz::generate::{scenario, scenarios, variation};
use faultline::fuzz::shrink::{Budget, Shrunk, shrink, unexcused};
use faultline::fuzz::table::{self, Kept, Record, Search};
use faultline::lab::run::run_one;
use faultline::report::{Verdict, judge};
use faultline::scenario::{Scenario, Workload, find_files, load, parse, render};
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};

/// Without what a file's layout decides.
fn essence(mut scenario: Scenario) -> Scenario {
    scenario.file.clear();
    scenario.name.clear();
    for fault in scenario.variants.iter_mut().flat_map(|variant| &mut variant.faults) {
        fault.line = 0;
        // As written: `20kB/s` and `20000B/s` are the same action.
        fault.text.1.clear();
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
            scenarios(Profile::Groups),
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
fn a_variation_has_the_same_brokers_topics_and_clients() {
    for profile in Profile::ALL {
        let mut with_other_faults = 0;
        for (seed, number) in (1..=20).flat_map(|seed| [(seed, 1), (seed, 2)]) {
            let (original, varied) = (scenario(profile, seed), scenario(profile, variation(seed, number)));
            let (one, other) = (&original.variants[0], &varied.variants[0]);
            assert_eq!(one.cluster.brokers, other.cluster.brokers);
            assert_eq!(one.topics, other.topics);
            assert!(one.workloads.iter().map(Workload::name).eq(other.workloads.iter().map(Workload::name)));
            with_other_faults += u32::from(one.faults != other.faults);
        }
        assert!(with_other_faults >= 35, "{with_other_faults} of 40 in profile {}", profile.name());
    }
}

#[test]
fn the_guard_excuses_the_losses_that_shipped_scenarios_claim() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    for name in [
        "a_follower_gives_up_where_its_leaders_log_begins_within_a_batch",
        "a_follower_whose_log_begins_behind_its_leaders_end_never_gets_what_is_below",
        "a_leader_that_sleeps_through_a_power_loss_acknowledges_what_is_lost",
        "acks_1_loses_with_its_leaders_power_acks_all_does_not",
        "acks_1_loses_without_any_failure_when_leadership_moves",
        "acks_all_is_one_copy_when_min_insync_replicas_is_1",
        "one_power_loss_of_the_last_replica_standing_loses_acks_all",
        "power_loss_everywhere_loses_what_was_not_flushed",
        "unclean_election_loses_where_clean_election_waits",
    ] {
        let scenario = load(&dir.join(name).with_extension("toml")).expect("shipped scenarios are valid");
        for (index, variant) in scenario.variants.iter().enumerate() {
            let failure = examine(variant, &run_one(&scenario, index, scenario.seed));
            assert_eq!(failure, None, "{name}, variant {}", variant.label());
        }
    }
}

#[test]
fn a_sweep_without_defects_finds_nothing() {
    for profile in Profile::ALL {
        for seed in 1..=8 {
            let failure = try_seed(profile, Defects::NONE, seed);
            assert_eq!(failure, None, "faultline fuzz --profile {} --seed {seed} --seeds 1", profile.name());
        }
    }
}

/// A defect that the fuzzer finds within so many seeds, and its failure made small.
fn found_and_shrunk(defect: Defect, seeds: u64) -> (Shrunk, found::File) {
    let defects = Defects::NONE.with(defect);
    let (seed, failure) = (1..=seeds)
        .find_map(|seed| Some((seed, try_seed(Profile::Replication, defects, seed)?)))
        .unwrap_or_else(|| panic!("{defect} is not found within {seeds} seeds"));
    let scenario = campaign::scenario(Profile::Replication, defects, seed);
    let budget = Budget { runs: 150, time: Duration::from_secs(120) };
    let shrunk = shrink(&scenario, failure, &unexcused, budget);
    let file = found::file(&shrunk, Origin::Fuzzer { profile: Profile::Replication, seed });
    (shrunk, file)
}

#[test]
fn a_defect_is_found_and_its_failure_becomes_a_scenario_that_shows_it() {
    let (shrunk, file) = found_and_shrunk(Defect::AckAfterLeader, 30);
    assert!(shrunk.faults_after < shrunk.faults_before && shrunk.faults_after <= 5, "{}", file.text);
    let scenario = parse("found", "", &file.text).unwrap_or_else(|error| panic!("{}", error.render(false, 120)));
    for variant in 0..scenario.variants.len() {
        let report = judge(&scenario, variant, &run_one(&scenario, variant, scenario.seed));
        assert_eq!(report.verdict, Verdict::AsExpected, "{:?}\n{}", report.problems, file.text);
    }
    assert!(!scenario.variants.last().expect("one at least").expect.is_empty(), "it claims nothing:\n{}", file.text);
}

proptest! {
    // `PROPTEST_CASES=1000 cargo test --test fuzz` looks further, `PROPTEST_RNG_SEED` elsewhere. What fails is kept in
    // proptest-regressions and tried first ever after.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(16),
        rng_seed: match ProptestConfig::default().rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            fixed @ RngSeed::Fixed(_) => fixed,
        },
        max_shrink_iters: 30,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/fuzz.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_drawn_the_cluster_survives_it(drawn in scenarios(Profile::All)) {
        let failure = examine(&drawn.variants[0], &run_one(&drawn, 0, drawn.seed));
        prop_assert_eq!(failure, None, "{}", render(&drawn, &[]));
    }
}

/// What a search for defects skips, made after all.
#[test]
fn a_defect_that_no_decision_comes_to_changes_nothing() {
    const OF: usize = 12;
    for profile in Profile::ALL {
        for seed in 1..=2 {
            let run = |defects| run_one(&campaign::scenario(profile, defects, seed as u64), 0, seed as u64);
            let without = run(Defects::NONE);
            let unasked = Defect::ALL.iter().filter(|defect| !without.asked.contains(**defect));
            // Each of them with one of the seeds.
            for (_, defect) in unasked.enumerate().filter(|(i, _)| i % OF == seed % OF) {
                let with = run(Defects::NONE.with(*defect));
                assert_eq!(with.digest, without.digest, "{defect}, seed {seed} of {}", profile.name());
            }
        }
    }
}

#[test]
fn a_search_for_defects_goes_on_where_it_stopped() {
    let defects = [Defect::HwFromLeaderLogEnd, Defect::NoPartitionEpoch, Defect::OwnedPartitionsNoGeneration];
    let shrinking = Budget { runs: 1, time: Duration::from_secs(1) };
    let search = Search { profile: Some(Profile::Replication), first_seed: 1, seeds: 1, jobs: 2, shrinking };
    let find = |kept: Kept, stop_after: usize| {
        let (stop, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
        let count = |_: &Kept, _: &[Record]| {
            stop.store(turns.fetch_add(1, Ordering::Relaxed) + 1 >= stop_after, Ordering::Relaxed);
        };
        table::search(&defects, &search, kept, &stop, count)
    };
    let whole = find(Kept::default(), usize::MAX);
    let part = find(Kept::default(), 2).to_text();
    let resumed = find(Kept::parse(&part, &search).expect("it was written by us"), usize::MAX);
    let told = |kept: &Kept| {
        let text = table::markdown(&defects, kept, &search, 2);
        // Not what it took.
        let rows = text.lines().filter(|line| line.starts_with('|') && !line.contains("hw-from-leader"));
        rows.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(told(&resumed), told(&whole));
    let text = table::markdown(&defects, &whole, &search, 2);
    assert!(!text.contains("| `hw-from-leader-log-end` | replication | 0 of 5 |"), "{text}");
    assert!(text.contains("| `owned-partitions-no-generation` | replication | 0 of 5 | not within 1 |"), "{text}");
    assert!(text.contains("| replication | 5 | 0 |"), "{text}");
    let later = Search { first_seed: 2, ..search };
    // What another search has found is not this one's, and not lost.
    let other = Kept::parse(&whole.to_text(), &later).expect("it was written by us");
    assert_eq!((other.tried(), other.ended()), (0, 0));
    assert_eq!(other.to_text(), whole.to_text());
    assert_eq!(
        Kept::parse(&whole.to_text().replace("\"generator\":\"", "\"generator\":\"0"), &search).expect("").to_text(),
        ""
    );
    assert_eq!(Kept::parse("{}\n{", &search).expect_err("no such line").0, 1);
}
