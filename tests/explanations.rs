//! Every lost record of every shipped scenario is explained, and the explanation holds against what the trace itself
//! says: the decisive event, who held the record then, and the setting that would have saved it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use faultline::explain::{self, Case, Explanation, Ruling, Settings, Wanted};
use faultline::lab::outcome::{RunOutcome, TraceEvent, TraceKind};
use faultline::lab::run::run_one;
use faultline::observe::{BatchInfo, Observation};
use faultline::report::judge;
use faultline::scenario::{Scenario, find_files, load};

/// Seeds that every variant of every scenario is run under, beside the scenario's own.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=if cfg!(debug_assertions) { 1 } else { 4 };
/// Names for an acknowledged record that is gone.
const LOSSES: [&str; 3] = ["lost-write", "unseen", "lost"];

fn shipped() -> Vec<Scenario> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = find_files(&[dir]).expect("scenarios/ holds scenarios");
    files.iter().map(|file| load(file).unwrap_or_else(|e| panic!("{}", e.render(false, 120)))).collect()
}

fn explained(scenario: &Scenario, variant: usize, outcome: &RunOutcome, wanted: &Wanted) -> Vec<Explanation> {
    let settings = Settings::of(&scenario.variants[variant]);
    let case = Case::of_run(&scenario.variants[variant], &settings, outcome);
    explain::explain(&case, wanted).expect("nothing in particular is asked for")
}

/// What every run of one scenario under one seed must satisfy. Returns how many remedies another variant confirmed.
fn check(scenario: &Scenario, seed: u64) -> usize {
    let outcomes: Vec<RunOutcome> = (0..scenario.variants.len()).map(|v| run_one(scenario, v, seed)).collect();
    let mut confirmed = 0;
    for (variant, outcome) in outcomes.iter().enumerate() {
        let place = format!("{}, {}, seed {seed}", scenario.name, scenario.variants[variant].label());
        let explanations = explained(scenario, variant, outcome, &Wanted::All);
        let losses: Vec<&Explanation> =
            explanations.iter().filter(|explanation| LOSSES.contains(&explanation.kind.as_str())).collect();
        let report = judge(scenario, variant, outcome);
        let told: u64 = losses.iter().map(|loss| loss.same_fate.records).sum();
        let gone = report.counts.lost + report.counts.compacted;
        assert_eq!(told, gone, "{place}: every acknowledged record that is gone is explained");
        for loss in losses {
            let place = format!("{place}: {}", loss.title());
            if scenario.variants[variant].cluster.defects.is_empty() {
                assert_eq!(loss.ruling, Ruling::Legal, "{place}: no defect is switched on: {}", loss.why);
            }
            check_decision(&outcome.trace, loss, &place);
            confirmed += check_remedies(scenario, variant, &outcomes, loss, &place);
        }
        for explanation in &explanations {
            let events: Vec<usize> = explanation.timeline.iter().map(|moment| moment.event).collect();
            assert!(events.is_sorted(), "{place}: {}: a time line goes forward", explanation.title());
            assert!(events.len() <= 22 && !events.is_empty(), "{place}: {}: a slice", explanation.title());
        }
    }
    confirmed
}

fn check_decision(trace: &[TraceEvent], loss: &Explanation, place: &str) {
    let decisive = loss.decisive_event().unwrap_or_else(|| panic!("{place}: has a decisive event"));
    let event = &trace[decisive - 1];
    let moment = loss.timeline.iter().find(|moment| moment.decisive).expect("just found");
    assert_eq!(*moment.machine, *event.machine, "{place}: the decisive event is in the trace");
    let decides = matches!(
        &event.what,
        TraceKind::Observed(
            Observation::PartitionChanged { .. }
                | Observation::Truncated { .. }
                | Observation::LogLoaded { .. }
                | Observation::LogStartMoved { .. }
                | Observation::Compacted { .. }
                | Observation::BecameLeader { .. }
                | Observation::BecameFollower { .. }
        ) | TraceKind::Stopped { .. }
    );
    assert!(decides, "{place}: {:?} decides nothing", event.what);
    let offset = loss.offset.unwrap_or_else(|| panic!("{place}: a lost record was acknowledged at an offset"));
    let batch = loss.timeline.iter().find_map(|moment| match &trace[moment.event - 1].what {
        TraceKind::Observed(Observation::Appended { partition, as_leader: true, batches, .. })
            if partition.to_string() == loss.partition =>
        {
            batches.iter().find(|b| b.base_offset.0 <= offset && offset <= b.last_offset.0)
        }
        _ => None,
    });
    let batch = batch.unwrap_or_else(|| panic!("{place}: its append is in the slice"));
    // An election is told with what was before it, the loss of a copy with what was left.
    let is_election = matches!(event.what, TraceKind::Observed(Observation::PartitionChanged { .. }));
    let until = if is_election { decisive - 1 } else { decisive };
    let holders = holders(trace, until, &loss.partition, batch);
    assert_eq!(loss.holders.as_deref(), Some(holders.as_slice()), "{place}: who held it");
}

/// Who holds `batch` after the first `until` events, by replaying every log; of a machine without power what it is
/// going to come back with.
fn holders(trace: &[TraceEvent], until: usize, partition: &str, batch: &BatchInfo) -> Vec<i32> {
    let mut logs: BTreeMap<&str, BTreeMap<i64, BatchInfo>> = BTreeMap::new();
    let mut dark: BTreeSet<&str> = BTreeSet::new();
    for event in &trace[..until] {
        let machine = &*event.machine;
        match &event.what {
            TraceKind::Stopped { power_lost: true } => {
                dark.insert(machine);
            }
            TraceKind::Observed(Observation::LogLoaded { partition: p, batches, .. }) if p.to_string() == partition => {
                dark.remove(machine);
                logs.insert(machine, batches.iter().map(|b| (b.base_offset.0, *b)).collect());
            }
            TraceKind::Observed(Observation::Appended { partition: p, batches, .. }) if p.to_string() == partition => {
                logs.entry(machine).or_default().extend(batches.iter().map(|b| (b.base_offset.0, *b)));
            }
            TraceKind::Observed(Observation::Truncated { partition: p, to, .. }) if p.to_string() == partition => {
                logs.entry(machine).or_default().retain(|_, b| b.last_offset < *to);
            }
            TraceKind::Observed(Observation::LogStartMoved { partition: p, to, .. }) if p.to_string() == partition => {
                logs.entry(machine).or_default().retain(|_, b| b.last_offset >= *to);
            }
            // What a rewritten batch covers is still there, though under another CRC.
            TraceKind::Observed(Observation::Compacted { partition: p, from, to, batches, .. })
                if p.to_string() == partition =>
            {
                let covers = |old: &BatchInfo| {
                    batches.iter().any(|new| new.base_offset <= old.base_offset && old.last_offset <= new.last_offset)
                };
                let log = logs.entry(machine).or_default();
                log.retain(|_, b| b.last_offset < *from || b.base_offset >= *to || covers(b));
            }
            // A replica that begins with less than it had has another disk.
            TraceKind::Observed(
                Observation::BecameLeader { partition: p, log_end, .. }
                | Observation::BecameFollower { partition: p, log_end, .. },
            ) if p.to_string() == partition => {
                logs.entry(machine).or_default().retain(|_, b| b.last_offset < *log_end);
            }
            _ => {}
        }
    }
    let comes_back = |machine: &str| {
        trace[until..].iter().find_map(|event| match &event.what {
            TraceKind::Observed(Observation::LogLoaded { partition: p, batches, .. })
                if *event.machine == *machine && p.to_string() == partition =>
            {
                Some(batches.contains(batch))
            }
            _ => None,
        })
    };
    let holds = |(machine, log): (&&str, &BTreeMap<i64, BatchInfo>)| {
        let kept = !dark.contains(machine) || comes_back(machine).unwrap_or(false);
        let id = machine.strip_prefix("broker-").and_then(|id| id.parse::<i32>().ok());
        id.filter(|_| kept && log.get(&batch.base_offset.0) == Some(batch))
    };
    logs.iter().filter_map(holds).collect()
}

/// Where another variant differs by just the settings of a remedy, its run under the same seed does not lose the record.
fn check_remedies(
    scenario: &Scenario,
    variant: usize,
    outcomes: &[RunOutcome],
    loss: &Explanation,
    place: &str,
) -> usize {
    let mut confirmed = 0;
    for remedy in &loss.remedies {
        let mut point = scenario.variants[variant].point.clone();
        let mut is_axis = true;
        for setting in &remedy.settings {
            let axis = point.iter_mut().find(|(name, _)| name == setting.key);
            is_axis &= axis.is_some();
            if let Some((_, value)) = axis {
                value.clone_from(&setting.value);
            }
        }
        let other = scenario.variants.iter().position(|other| other.point == point);
        let Some(other) = other.filter(|other| is_axis && *other != variant) else { continue };
        let saved = explained(scenario, other, &outcomes[other], &Wanted::All);
        for lost in saved.iter().filter(|e| LOSSES.contains(&e.kind.as_str())) {
            let ranges = &lost.same_fate.offsets;
            let has = |value: i64| ranges.iter().any(|(first, last)| (*first..=*last).contains(&value));
            assert!(
                lost.partition != loss.partition || !loss.value.as_ref().and_then(|v| v.as_i64()).is_some_and(has),
                "{place}: {} was to save it, and {} loses {:?}",
                remedy.settings_text(),
                scenario.variants[other].label(),
                ranges
            );
        }
        confirmed += 1;
    }
    confirmed
}

#[test]
fn every_lost_record_has_an_explanation_that_the_trace_and_the_other_variants_confirm() {
    // All of them with `--release`: unoptimised a run takes ten times as long.
    let is_looked_at = |s: &Scenario| !cfg!(debug_assertions) || STORIES.contains(&s.name.as_str());
    let scenarios: Vec<Scenario> = shipped().into_iter().filter(is_looked_at).collect();
    let work: Vec<(&Scenario, u64)> = scenarios.iter().flat_map(|s| SEEDS.map(move |seed| (s, seed))).collect();
    let (next, confirmed, wrong) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((scenario, seed)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // All that is wrong at once: a run takes a while.
                    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(scenario, *seed))) {
                        Ok(0) => {}
                        Ok(_) => {
                            confirmed.lock().expect("no panic").insert(scenario.name.clone());
                        }
                        Err(why) => wrong.lock().expect("no panic").push(why.downcast::<String>()),
                    }
                }
            });
        }
    });
    let (confirmed, wrong) = (confirmed.into_inner().expect("no panic"), wrong.into_inner().expect("no panic"));
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(confirmed.len() >= 6, "too few scenarios have a remedy among their variants: {confirmed:?}");
}

/// Scenarios whose stories are kept as text: one for each way to lose, and a defect.
const STORIES: [&str; 8] = [
    "acks_1_loses_with_its_leaders_power_acks_all_does_not",
    "acks_1_loses_without_any_failure_when_leadership_moves",
    "acks_all_is_one_copy_when_min_insync_replicas_is_1",
    "an_isolated_leader_stops_acknowledging_acks_all",
    "one_power_loss_of_the_last_replica_standing_loses_acks_all",
    "power_loss_everywhere_loses_what_was_not_flushed",
    "truncation_to_the_high_watermark_loses_what_was_committed",
    "unclean_election_loses_where_clean_election_waits",
];

#[test]
fn the_stories_of_the_scenarios_that_lose() {
    let told: Vec<Scenario> = shipped().into_iter().filter(|s| STORIES.contains(&s.name.as_str())).collect();
    assert_eq!(told.len(), STORIES.len(), "a scenario has another name");
    for scenario in told {
        let mut text = String::new();
        for variant in 0..scenario.variants.len() {
            let outcome = run_one(&scenario, variant, scenario.seed);
            let explanations = explained(&scenario, variant, &outcome, &Wanted::First);
            text += &format!("── {} ──\n\n", scenario.variants[variant].label());
            text += &explain::human(&explanations, false, 110);
        }
        insta::assert_snapshot!(scenario.name.clone(), text);
    }
}
