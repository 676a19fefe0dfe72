//! A campaign: one scenario per seed, over all cores, until the seeds or the time are over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::examine::{Failure, Signature, examine};
use super::{Profile, generate, written};
use crate::defect::Defects;
use crate::lab::run::run_one;
use crate::scenario::Scenario;

/// What to do.
#[derive(Clone, Debug)]
pub struct Campaign {
    pub profile: Profile,
    /// Defects that are on in every scenario.
    pub defects: Defects,
    pub first_seed: u64,
    /// How many seeds, at most.
    pub seeds: u64,
    /// No new run starts after this much wall time.
    pub time: Option<Duration>,
    pub jobs: usize,
    /// Stop once this many failures with distinct signatures are found.
    pub failures_max: usize,
}

/// Distinct failures: the lowest seed that showed each, and how many runs did.
#[derive(Clone, Debug)]
pub struct Found {
    pub signature: Signature,
    pub seed: u64,
    pub runs: u64,
    pub failure: Failure,
}

/// What a campaign has done so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub runs: u64,
    pub failing_runs: u64,
    pub found: Vec<Found>,
    pub wall: Duration,
}

impl Tally {
    pub fn runs_per_second(&self) -> f64 {
        let seconds = self.wall.as_secs_f64();
        if seconds > 0.0 { self.runs as f64 / seconds } else { 0.0 }
    }

    fn note(&mut self, seed: u64, failure: Failure) {
        self.failing_runs += 1;
        match self.found.iter_mut().find(|found| found.signature == failure.signature) {
            Some(found) => {
                found.runs += 1;
                if seed < found.seed {
                    (found.seed, found.failure) = (seed, failure);
                }
            }
            None => self.found.push(Found { signature: failure.signature.clone(), seed, runs: 1, failure }),
        }
    }
}

/// The scenario of one seed of a campaign.
pub fn scenario(profile: Profile, defects: Defects, seed: u64) -> Scenario {
    let mut scenario = generate::scenario(profile, seed);
    if defects.is_empty() {
        return scenario;
    }
    for variant in &mut scenario.variants {
        variant.cluster.defects = defects;
    }
    written(&scenario).expect("a generated scenario is valid with any defect")
}

/// Runs one seed and judges it.
pub fn try_seed(profile: Profile, defects: Defects, seed: u64) -> Option<Failure> {
    let scenario = scenario(profile, defects, seed);
    examine(&scenario.variants[0], &run_one(&scenario, 0, seed))
}

/// Runs a campaign. `stop` ends it early; `progress` sees the tally after every run.
///
/// Failures come sorted by the seed that showed them first. With a number of seeds and without `stop` or a bound in
/// time or failures, they are the same however many jobs run.
#[allow(clippy::disallowed_types, reason = "a campaign is bounded in real time")]
pub fn run(campaign: &Campaign, stop: &AtomicBool, progress: impl Fn(&Tally) + Sync) -> Tally {
    let clock = std::time::Instant::now();
    let next = AtomicU64::new(0);
    let tally = Mutex::new(Tally::default());
    let lock = || tally.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..campaign.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let overdue = campaign.time.is_some_and(|time| clock.elapsed() >= time);
                    if overdue || stop.load(Ordering::Relaxed) || lock().found.len() >= campaign.failures_max {
                        return;
                    }
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= campaign.seeds {
                        return;
                    }
                    let seed = campaign.first_seed.wrapping_add(number);
                    let failure = try_seed(campaign.profile, campaign.defects, seed);
                    let mut tally = lock();
                    tally.runs += 1;
                    tally.wall = clock.elapsed();
                    if let Some(failure) = failure {
                        tally.note(seed, failure);
                    }
                    progress(&tally);
                }
            });
        }
    });
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.wall = clock.elapsed();
    tally.found.sort_by_key(|found| found.seed);
    tally
}

/// Runs per second of each profile, measured: the figures of the ledger.
pub fn speed(profile: Profile, runs: u64) -> Tally {
    let (first_seed, time) = (1, None);
    let campaign =
        Campaign { profile, defects: Defects::NONE, first_seed, seeds: runs, time, jobs: 1, failures_max: usize::MAX };
    run(&campaign, &AtomicBool::new(false), |_| ())
}
