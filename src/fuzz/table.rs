//! How long the fuzzer, which knows nothing of their schedules, takes to find each known defect: `reports/defects.md`.

use std::fmt::Write as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::Profile;
use super::campaign::{self, Campaign};
use super::shrink::{self, Budget};
use crate::defect::{Defect, Defects};

/// Campaigns per defect: medians are of these.
const CAMPAIGNS: u64 = 5;
/// Seeds of a campaign, at most.
pub const SEEDS_MAX: u64 = 20_000;
/// Campaigns are this many seeds apart.
const SEEDS_APART: u64 = 1_000_000;

/// Where to look, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    pub profile: Profile,
    pub first_seed: u64,
    pub seeds: u64,
    pub jobs: usize,
}

/// One campaign that found something.
#[derive(Clone, Debug)]
struct Hit {
    seeds: u64,
    cpu: Duration,
    signature: String,
    faults: usize,
    shrinking: Duration,
    is_certified: bool,
}

/// One defect.
#[derive(Clone, Debug)]
pub struct Row {
    defect: Defect,
    hits: Vec<Hit>,
    campaigns: u64,
}

impl Row {
    /// In every campaign.
    pub fn is_found(&self) -> bool {
        self.hits.len() as u64 == self.campaigns
    }

    /// For the progress on stderr.
    pub fn line(&self) -> String {
        match self.medians() {
            Some(Medians { seeds, cpu, faults, .. }) => {
                format!("{}: {seeds} seeds, {:.1} CPU s, {faults} faults", self.defect, cpu.as_secs_f64())
            }
            None => format!("{}: not found", self.defect),
        }
    }

    fn medians(&self) -> Option<Medians> {
        let first = self.hits.first()?;
        Some(Medians {
            seeds: median(self.hits.iter().map(|hit| hit.seeds)),
            cpu: median(self.hits.iter().map(|hit| hit.cpu)),
            faults: median(self.hits.iter().map(|hit| hit.faults)),
            shrinking: median(self.hits.iter().map(|hit| hit.shrinking)),
            signature: first.signature.clone(),
        })
    }
}

struct Medians {
    seeds: u64,
    cpu: Duration,
    faults: usize,
    shrinking: Duration,
    signature: String,
}

fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Looks for one defect.
pub fn row(defect: Defect, search: &Search, stop: &AtomicBool) -> Row {
    let hits: Vec<Option<Hit>> = (0..CAMPAIGNS).map(|number| hunt(defect, search, number, stop)).collect();
    Row { defect, hits: hits.into_iter().flatten().collect(), campaigns: CAMPAIGNS }
}

fn hunt(defect: Defect, search: &Search, number: u64, stop: &AtomicBool) -> Option<Hit> {
    let campaign = Campaign {
        profile: search.profile,
        defects: Defects::NONE.with(defect),
        first_seed: search.first_seed + number * SEEDS_APART,
        seeds: search.seeds,
        time: None,
        jobs: search.jobs,
        failures_max: 1,
    };
    let before = cpu_time();
    let tally = campaign::run(&campaign, stop, |_| ());
    let found = tally.found.first()?;
    let cpu = match (before, cpu_time()) {
        (Some(before), Some(after)) => after.saturating_sub(before),
        (None, _) | (_, None) => tally.wall * u32::try_from(search.jobs).unwrap_or(1),
    };
    let scenario = campaign::scenario(search.profile, campaign.defects, found.seed);
    let shrunk = shrink::shrink(&scenario, found.failure.clone(), &shrink::unexcused, Budget::default());
    Some(Hit {
        seeds: found.seed - campaign.first_seed + 1,
        cpu,
        signature: found.signature.to_string(),
        faults: shrunk.faults_after,
        shrinking: shrunk.time,
        is_certified: shrunk.is_certified(),
    })
}

/// User and system time of this process so far, where the system tells (Linux: `/proc/self/stat`, in ticks of 10 ms).
fn cpu_time() -> Option<Duration> {
    const TICK: u64 = 10;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses and may hold blanks; user time is field 14, system time 15.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks(11)? + ticks(12)?) * TICK))
}

/// The report.
pub fn markdown(rows: &[Row], search: &Search) -> String {
    let mut text = String::from("# How long the fuzzer takes to find each known defect\n\n");
    let profile = search.profile.name();
    let _ = writeln!(
        text,
        "`faultline fuzz --defects-table reports/defects.md --profile {profile} --seed {}`. Medians of {CAMPAIGNS} campaigns of at most {} \
         seeds each. CPU time is that of the process, until the failure was found, without shrinking. The rule is that of the first \
         campaign.\n",
        search.first_seed, search.seeds
    );
    text.push_str("| Defect | Found | Seeds | CPU s | Broken rule | Faults | Shrinking s | Certificates |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        let (name, hits, all) = (row.defect.name(), row.hits.len(), row.campaigns);
        let Some(medians) = row.medians() else {
            let _ = writeln!(text, "| `{name}` | 0 of {all} | not within {} | | | | | |", search.seeds);
            continue;
        };
        let certified = row.hits.iter().filter(|hit| hit.is_certified).count();
        let _ = writeln!(
            text,
            "| `{name}` | {hits} of {all} | {} | {:.1} | {} | {} | {:.1} | {certified} of {hits} |",
            medians.seeds,
            medians.cpu.as_secs_f64(),
            medians.signature,
            medians.faults,
            medians.shrinking.as_secs_f64()
        );
    }
    text
}
