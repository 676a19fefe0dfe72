//! How long the fuzzer, which knows nothing of their schedules, takes to find each known defect: `reports/defects.md`.
//!
//! Campaigns run side by side, one per core; what each has found is kept in a file of its own next to the report
//! ([`Record`], one line each), so that a search that was ended goes on where it stopped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Profile;
use super::campaign;
use super::examine::examine;
use super::shrink::{self, Budget};
use crate::defect::{Defect, Defects};
use crate::lab::run::{run_one, thread_cpu_time};

/// Campaigns per defect: medians are of these.
pub const CAMPAIGNS: u64 = 5;
/// Seeds of a campaign, at most.
pub const SEEDS_MAX: u64 = 20_000;
/// Campaigns are this many seeds apart.
const SEEDS_APART: u64 = 1_000_000;
/// What one failure's shrinking may cost.
const SHRINKING: Budget = Budget { runs: 5_000, time: Duration::from_secs(60) };

/// Where to look, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    pub profile: Profile,
    pub first_seed: u64,
    pub seeds: u64,
    pub jobs: usize,
}

/// One campaign, complete.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub defect: String,
    /// From 0 on.
    pub campaign: u64,
    /// `None`: not within the seeds of the search.
    pub hit: Option<Hit>,
    pub profile: String,
    pub first_seed: u64,
    pub seeds: u64,
}

/// What a campaign found first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hit {
    /// Tried, until it showed.
    seeds: u64,
    cpu_ms: u64,
    signature: String,
    faults: usize,
    shrinking_ms: u64,
    is_certified: bool,
}

impl Record {
    /// Whether it answers what this search asks.
    pub fn is_of(&self, search: &Search) -> bool {
        self.profile == search.profile.name() && self.first_seed == search.first_seed && self.seeds == search.seeds
    }

    /// For the progress on stderr.
    pub fn line(&self) -> String {
        let Record { defect, campaign, hit, seeds, .. } = self;
        match hit {
            Some(Hit { seeds, cpu_ms, signature, faults, shrinking_ms, .. }) => format!(
                "{defect}, campaign {campaign}: {seeds} seeds, {:.1} CPU s, {faults} faults after {:.1} s: {signature}",
                seconds(*cpu_ms),
                seconds(*shrinking_ms)
            ),
            None => format!("{defect}, campaign {campaign}: not within {seeds} seeds"),
        }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Runs the campaigns for `defects` that `known` does not hold yet; `done` gets each as it ends. `stop` ends the search
/// early: what was not finished is left out.
pub fn search(
    defects: &[Defect],
    search: &Search,
    known: &[Record],
    stop: &AtomicBool,
    done: impl Fn(&Record) + Sync,
) -> Vec<Record> {
    let is_known =
        |defect: Defect, number| known.iter().any(|record| record.defect == defect.name() && record.campaign == number);
    let tasks: Vec<(Defect, u64)> = (0..CAMPAIGNS)
        .flat_map(|number| defects.iter().map(move |defect| (*defect, number)))
        .filter(|(defect, number)| !is_known(*defect, *number))
        .collect();
    let (next, records) = (AtomicUsize::new(0), Mutex::new(known.to_vec()));
    std::thread::scope(|scope| {
        for _ in 0..search.jobs.max(1) {
            scope.spawn(|| {
                while let Some((defect, number)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(record) = hunt(*defect, search, *number, stop) else { return };
                    done(&record);
                    records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
                }
            });
        }
    });
    records.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// One campaign; `None` if it was stopped.
fn hunt(defect: Defect, search: &Search, number: u64, stop: &AtomicBool) -> Option<Record> {
    let first_seed = search.first_seed + number * SEEDS_APART;
    let defects = Defects::NONE.with(defect);
    let before = thread_cpu_time();
    let mut running = Duration::ZERO;
    let mut hit = None;
    for tried in 1..=search.seeds {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let scenario = campaign::scenario(search.profile, defects, first_seed + tried - 1);
        let outcome = run_one(&scenario, 0, scenario.seed);
        running += outcome.cpu.unwrap_or(Duration::from_millis(outcome.wall_ms));
        let Some(failure) = examine(&scenario.variants[0], &outcome) else { continue };
        let own = thread_cpu_time().zip(before).map_or(Duration::ZERO, |(after, before)| after.saturating_sub(before));
        let signature = failure.signature.to_string();
        let shrunk = shrink::shrink(&scenario, failure, &shrink::unexcused, SHRINKING);
        hit = Some(Hit {
            seeds: tried,
            cpu_ms: (running + own).as_millis() as u64,
            signature,
            faults: shrunk.faults_after,
            shrinking_ms: shrunk.time.as_millis() as u64,
            is_certified: shrunk.is_certified(),
        });
        break;
    }
    let (profile, defect) = (search.profile.name().to_owned(), defect.name().to_owned());
    Some(Record { defect, campaign: number, hit, profile, first_seed: search.first_seed, seeds: search.seeds })
}

fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// What the campaigns for one defect came to, by number.
fn hits(defect: Defect, records: &[Record]) -> BTreeMap<u64, Option<&Hit>> {
    let own = records.iter().filter(|record| record.defect == defect.name());
    own.map(|record| (record.campaign, record.hit.as_ref())).collect()
}

/// Whether every campaign found its defect.
pub fn all_found(defects: &[Defect], records: &[Record]) -> bool {
    defects.iter().all(|defect| {
        let hits = hits(*defect, records);
        hits.len() as u64 == CAMPAIGNS && hits.values().all(Option::is_some)
    })
}

/// The report.
pub fn markdown(defects: &[Defect], records: &[Record], search: &Search) -> String {
    let mut text = String::from("# How long the fuzzer takes to find each known defect\n\n");
    let profile = search.profile.name();
    let _ = writeln!(
        text,
        "`faultline fuzz --defects-table reports/defects.md --profile {profile} --seed {}`. Medians of {CAMPAIGNS} campaigns of at most \
         {} seeds each, those that found nothing counted as longer than all others. CPU time is that of the search, without \
         shrinking; shrinking is wall time. Faults are what is left of the schedule; a certificate is complete if the run passes \
         without any one of them. The rule is that of the first campaign that found it.\n",
        search.first_seed, search.seeds
    );
    text.push_str("| Defect | Found | Seeds | CPU s | Broken rule | Faults | Shrinking s | Certificates |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for defect in defects {
        text.push_str(&line(*defect, records, search.seeds));
    }
    let shrunk = || records.iter().filter_map(|record| record.hit.as_ref());
    let medians = (median(shrunk().map(|hit| hit.faults)), median(shrunk().map(|hit| hit.shrinking_ms)));
    if let (Some(faults), Some(shrinking_ms)) = medians {
        let (all, certified) = (shrunk().count(), shrunk().filter(|hit| hit.is_certified).count());
        let _ = writeln!(
            text,
            "\nOf all {all} failures: {faults} faults after shrinking in the median, shrunk in {:.1} s in the median, {certified} \
             certificates complete.",
            seconds(shrinking_ms)
        );
    }
    text
}

fn line(defect: Defect, records: &[Record], seeds_max: u64) -> String {
    let name = defect.name();
    let hits = hits(defect, records);
    let found: Vec<&Hit> = hits.values().filter_map(|hit| *hit).collect();
    let all = hits.len();
    let Some(first) = found.first() else {
        return format!("| `{name}` | 0 of {all} | not within {seeds_max} | | | | | |\n");
    };
    let cost = |of: fn(&Hit) -> u64| median(hits.values().map(|hit| hit.map_or(u64::MAX, of))).unwrap_or(u64::MAX);
    let (seeds, cpu_ms) = (cost(|hit| hit.seeds), cost(|hit| hit.cpu_ms));
    let (seeds, cpu) = match seeds {
        u64::MAX => (format!("not within {seeds_max}"), String::new()),
        seeds => (seeds.to_string(), format!("{:.1}", seconds(cpu_ms))),
    };
    let faults = median(found.iter().map(|hit| hit.faults)).unwrap_or(0);
    let shrinking = seconds(median(found.iter().map(|hit| hit.shrinking_ms)).unwrap_or(0));
    let certified = found.iter().filter(|hit| hit.is_certified).count();
    format!(
        "| `{name}` | {} of {all} | {seeds} | {cpu} | {} | {faults} | {shrinking:.1} | {certified} of {} |\n",
        found.len(),
        first.signature,
        found.len()
    )
}
