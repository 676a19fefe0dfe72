//! A campaign: one scenario per seed, over all cores, until the seeds or the time are over.
//!
//! With defects it is a hunt for them ([`hunt`]): variations are tried of seeds that come to them, and what fails without
//! them too does not count.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::examine::{Failure, Signature, examine};
use super::hunt::{self, Trial};
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
    /// How many seeds, at most; variations come on top.
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

/// What is still to be tried.
#[derive(Default)]
struct Work {
    /// Seeds taken so far.
    taken: u64,
    /// Of each block that is under way: seeds done, and those that came to a defect.
    blocks: BTreeMap<u64, (u64, Vec<u64>)>,
    variations: VecDeque<u64>,
}

impl Work {
    /// A seed, and its number if it is no variation.
    fn take(&mut self, campaign: &Campaign) -> Option<(u64, Option<u64>)> {
        if let Some(variation) = self.variations.pop_front() {
            return Some((variation, None));
        }
        let number = Some(self.taken).filter(|number| *number < campaign.seeds)?;
        self.taken += 1;
        Some((campaign.first_seed.wrapping_add(number), Some(number)))
    }

    /// Once a block is through its variations are next, whatever the order in which its seeds were done.
    fn done(&mut self, campaign: &Campaign, seed: u64, number: u64, came: bool) {
        let start = number / hunt::BLOCK * hunt::BLOCK;
        let (done, all) = self.blocks.entry(start).or_default();
        *done += 1;
        all.extend(came.then_some(seed));
        if *done == hunt::BLOCK.min(campaign.seeds - start) {
            let (done, mut came) = self.blocks.remove(&start).expect("it is at hand");
            came.sort_unstable();
            self.variations.extend(hunt::variations(&came, start + done));
        }
    }
}

/// Whether a run came to one of the campaign's defects, and how it fails by their doing; without defects, how it fails.
fn attempt(campaign: &Campaign, seed: u64) -> (bool, Option<Failure>) {
    let Campaign { profile, defects, .. } = *campaign;
    let with = Trial::of(profile, defects, seed);
    if defects.is_empty() {
        return (false, with.failure);
    }
    let came = defects.iter().any(|defect| with.asked.contains(defect));
    let is_their_doing = |failure: &Failure| came && !Trial::of(profile, Defects::NONE, seed).fails_like(failure);
    (came, with.failure.filter(is_their_doing))
}

/// Runs a campaign. `stop` ends it early; `progress` sees the tally after every run.
///
/// Failures come sorted by the seed that showed them first. With a number of seeds and without `stop` or a bound in
/// time or failures, they are the same however many jobs run.
#[allow(clippy::disallowed_types, reason = "a campaign is bounded in real time")]
pub fn run(campaign: &Campaign, stop: &AtomicBool, progress: impl Fn(&Tally) + Sync) -> Tally {
    let clock = std::time::Instant::now();
    let (work, tally) = (Mutex::new(Work::default()), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..campaign.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let overdue = campaign.time.is_some_and(|time| clock.elapsed() >= time);
                    if overdue || stop.load(Ordering::Relaxed) || lock(&tally).found.len() >= campaign.failures_max {
                        return;
                    }
                    let Some((seed, number)) = lock(&work).take(campaign) else { return };
                    let (came, failure) = attempt(campaign, seed);
                    if let Some(number) = number {
                        lock(&work).done(campaign, seed, number, came);
                    }
                    let mut tally = lock(&tally);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs per second of each profile, measured: the figures of the ledger.
pub fn speed(profile: Profile, runs: u64) -> Tally {
    let (first_seed, time) = (1, None);
    let campaign =
        Campaign { profile, defects: Defects::NONE, first_seed, seeds: runs, time, jobs: 1, failures_max: usize::MAX };
    run(&campaign, &AtomicBool::new(false), |_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defect::Defect;

    /// The variations that follow from three blocks of which every seventh seed comes to the defect, done in this order.
    fn variations(order: impl Fn(&mut Vec<u64>)) -> Vec<u64> {
        let campaign = Campaign {
            profile: Profile::All,
            defects: Defects::NONE.with(Defect::IgnoreMinIsr),
            first_seed: 1,
            seeds: 3 * hunt::BLOCK,
            time: None,
            jobs: 1,
            failures_max: 1,
        };
        let mut work = Work::default();
        let mut taken: Vec<u64> = (0..campaign.seeds).collect();
        for number in &taken {
            assert_eq!(work.take(&campaign), Some((number + 1, Some(*number))));
        }
        order(&mut taken);
        for number in taken {
            work.done(&campaign, number + 1, number, number.is_multiple_of(7));
        }
        std::iter::from_fn(|| work.take(&campaign).map(|(seed, _)| seed)).collect()
    }

    #[test]
    fn what_is_hunted_for_is_looked_for_in_the_same_variations_in_whatever_order_seeds_are_done() {
        let in_order = variations(|_| ());
        assert!(in_order.len() > hunt::BLOCK as usize / 2, "{} variations", in_order.len());
        assert_eq!(variations(|seeds| seeds.reverse()), in_order);
        assert_eq!(variations(|seeds| seeds.rotate_left(100)), in_order);
    }
}
