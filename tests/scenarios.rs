//! The central claim (acks=1 loses, acks=all does not) holds under 200 seeds. That every file in `scenarios/` is as
//! expected is a test of tests/determinism.rs, which runs them all anyway.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use faultline::lab::run::run_one;
use faultline::report::{RunReport, Verdict, judge};
use faultline::scenario::{Scenario, load};

fn read(path: &Path) -> Scenario {
    load(path).unwrap_or_else(|e| panic!("{}", e.render(false, 120)))
}

fn problems(report: &RunReport) -> String {
    let command = format!("faultline run {} --seed {}", report.file, report.seed);
    format!("{command}, variant {}: {:?}: {}", report.label, report.verdict, report.problems.join("; "))
}

#[test]
fn under_200_seeds_acks_1_loses_a_varying_number_and_acks_all_loses_none() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let scenario = read(&dir.join("acks_1_loses_with_its_leaders_power_acks_all_does_not.toml"));
    let (next, losses) = (AtomicU64::new(1), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > 200 {
                        return;
                    }
                    for variant in 0..scenario.variants.len() {
                        let report = judge(&scenario, variant, &run_one(&scenario, variant, seed));
                        assert_eq!(report.verdict, Verdict::AsExpected, "{}", problems(&report));
                        losses.lock().expect("no panic").push((report.label.clone(), report.counts.lost));
                    }
                }
            });
        }
    });
    let losses = losses.into_inner().expect("no panic");
    let of = |label: &str| losses.iter().filter(|(l, _)| l == label).map(|(_, lost)| *lost).collect::<Vec<u64>>();
    assert_eq!(of("acks=all").len(), 200);
    assert!(of("acks=all").iter().all(|lost| *lost == 0));
    let with_one: BTreeSet<u64> = of("acks=1").into_iter().collect();
    assert!(with_one.len() > 5, "losses under acks=1 do not vary: {with_one:?}");
}
