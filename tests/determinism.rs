//! Same scenario, same seed, same build: same digest. In one busy process, alone and among eight parallel
//! runs, and in another process, which says whether every shipped scenario is as expected too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use faultline::lab::run::run_one;
use faultline::scenario::{Scenario, find_files, load};

/// Twenty with `--release`, and then also alone; unoptimised a run takes ten times as long.
const SEEDS: u64 = if cfg!(debug_assertions) { 1 } else { 20 };

/// (scenario, variant, seed) -> digest, as the JSON report prints it.
type Digests = BTreeMap<(String, String, u64), String>;

fn shipped() -> Vec<Scenario> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = find_files(&[dir]).expect("scenarios/ holds scenarios");
    files.iter().map(|f| load(f).unwrap_or_else(|e| panic!("{}", e.render(false, 120)))).collect()
}

fn digests(scenarios: &[Scenario], seeds: u64, threads: usize) -> Digests {
    let mut work = Vec::new();
    for scenario in scenarios {
        for variant in 0..scenario.variants.len() {
            work.extend((scenario.seed..).take(seeds as usize).map(|seed| (scenario, variant, seed)));
        }
    }
    let (next, digests) = (AtomicUsize::new(0), Mutex::new(Digests::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((scenario, variant, seed)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run_one(scenario, *variant, *seed);
                    let mut point = scenario.variants[*variant].point.clone();
                    point.sort();
                    let key = (scenario.name.clone(), format!("{point:?}"), *seed);
                    digests.lock().expect("no panic").insert(key, format!("{:016x}", outcome.digest));
                }
            });
        }
    });
    digests.into_inner().expect("no panic")
}

fn assert_same(a: &Digests, b: &Digests, where_: &str) {
    assert_eq!(a.len(), b.len(), "{where_}: another number of runs");
    for ((scenario, variant, seed), digest) in a {
        let other = &b[&(scenario.clone(), variant.clone(), *seed)];
        assert_eq!(
            digest, other,
            "{where_}: `faultline run scenarios/{scenario}.toml --seed {seed}`, variant {variant}, has another digest"
        );
    }
}

#[test]
fn every_scenario_is_as_expected_and_has_one_digest_per_seed_alone_in_parallel_and_in_another_process() {
    let scenarios = shipped();
    let parallel = digests(&scenarios, SEEDS, 8);
    if !cfg!(debug_assertions) {
        assert_same(&parallel, &digests(&scenarios, SEEDS, 1), "alone");
    }
    assert_same(&parallel, &in_another_process(&scenarios), "in another process");
    // Different seeds must not be one run in disguise; variants may be, where what they set changes nothing.
    let mut by_variant: BTreeMap<(&str, &str), std::collections::BTreeSet<&String>> = BTreeMap::new();
    for ((scenario, variant, _), digest) in &parallel {
        by_variant.entry((scenario.as_str(), variant.as_str())).or_default().insert(digest);
    }
    for (place, distinct) in &by_variant {
        assert_eq!(distinct.len() as u64, SEEDS, "{place:?}: two seeds have the same digest");
    }
    let distinct: std::collections::BTreeSet<&String> = parallel.values().collect();
    assert!(distinct.len() >= scenarios.len(), "different scenarios have the same digest");
}

#[test]
fn one_run_repeated_in_a_busy_process_is_the_same_every_time() {
    let scenarios = shipped();
    let scenario = &scenarios[0];
    let first = run_one(scenario, 0, 7);
    for _ in 0..30 {
        let again = run_one(scenario, 0, 7);
        assert_eq!(again.digest, first.digest);
        assert_eq!(again.trace, first.trace);
        assert_eq!(again.history, first.history);
    }
}

/// What is shipped is as expected under its own seed.
fn in_another_process(scenarios: &[Scenario]) -> Digests {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a directory for the reports");
    let output = Command::new(env!("CARGO_BIN_EXE_faultline"))
        .current_dir(&root)
        .args(["run", "scenarios", "--seeds", &SEEDS.to_string(), "--format", "json", "--out"])
        .arg(out.path())
        .output()
        .expect("the binary runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON on stdout");
    let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
    let runs = report["runs"].as_array().expect("runs");
    let own_seed: BTreeMap<&str, u64> = scenarios.iter().map(|s| (s.name.as_str(), s.seed)).collect();
    let is_own = |run: &&serde_json::Value| run["seed"].as_u64() == own_seed.get(&*text(&run["scenario"])).copied();
    let wrong: Vec<String> = runs
        .iter()
        .filter(is_own)
        .filter(|run| run["verdict"] != "as-expected")
        .map(|run| format!("faultline run {}, variant {}: {}", text(&run["file"]), run["variant"], run["problems"]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    runs.iter()
        .map(|run| {
            let point = run["variant"].as_object().expect("an object");
            let mut point: Vec<(String, String)> =
                point.iter().map(|(axis, value)| (axis.clone(), text(value))).collect();
            point.sort();
            (
                (text(&run["scenario"]), format!("{point:?}"), run["seed"].as_u64().expect("a seed")),
                text(&run["digest"]),
            )
        })
        .collect()
}
