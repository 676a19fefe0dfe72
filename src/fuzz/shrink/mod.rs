//! Makes a failing scenario small: what is left is what the failure needs.
//!
//! Passes over the model, each a list of simpler candidates: fewer faults (delta debugging), less of everything else,
//! rounder numbers, states instead of times. A candidate is taken if it fails with the same signature, under the seed
//! at hand or one of the next ones, so that the result does not hang on one draw. Passes repeat until none helps or
//! the budget is spent. Then each fault is removed in turn: if a run still fails, however it does, what it fails without
//! has to go, and what is left is made small in its turn; if all pass, that is the result's certificate.

mod schedule;
mod shape;
mod triggers;

use std::collections::BTreeSet;
use std::time::Duration;

use super::examine::{Failure, Signature, examine};
use super::written;
use crate::config::BrokerConfig;
use crate::lab::outcome::{FiredFault, RunOutcome};
use crate::lab::run::run_one;
use crate::scenario::{Fault, Scenario, Variant};

/// Seeds under which a candidate may show the failure.
const SEEDS_TRIED: u64 = 3;
/// Seeds over which the result's robustness is counted, and how long that may take: a run that gets stuck is long.
const SEEDS_COUNTED: u64 = 20;
const COUNTING_MAX: Duration = Duration::from_secs(10);

/// What shrinking may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub runs: u64,
    /// Wall time.
    pub time: Duration,
}

impl Default for Budget {
    /// A minute: the aim for the median; runs are bounded for the sake of slow builds.
    fn default() -> Budget {
        Budget { runs: 5_000, time: Duration::from_secs(60) }
    }
}

/// Judges a run of a scenario's only variant.
pub type Oracle<'a> = &'a dyn Fn(&Scenario, &RunOutcome) -> Option<Failure>;

/// The fuzzer's own oracle: whatever nothing excuses.
pub fn unexcused(scenario: &Scenario, outcome: &RunOutcome) -> Option<Failure> {
    examine(&scenario.variants[0], outcome)
}

/// A failing scenario, made small.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// With one variant; its seed is the one that fails.
    pub scenario: Scenario,
    pub failure: Failure,
    pub faults_before: usize,
    pub faults_after: usize,
    /// For each fault that is left: whether the run passes without it.
    pub needed: Vec<bool>,
    /// Of [`Shrunk::counted`] seeds, those that fail with the same signature.
    pub failing: u64,
    pub counted: u64,
    pub runs: u64,
    pub time: Duration,
}

impl Shrunk {
    /// Each fault was removed in turn, and the run then passed.
    pub fn is_certified(&self) -> bool {
        self.needed.iter().all(|needed| *needed)
    }

    /// `complete` or `partial`.
    pub fn certificate(&self) -> &'static str {
        if self.is_certified() { "complete" } else { "partial" }
    }
}

/// Shrinks `scenario`, which has one variant and fails with `failure` under its own seed.
pub fn shrink(scenario: &Scenario, failure: Failure, oracle: Oracle<'_>, budget: Budget) -> Shrunk {
    let faults_before = scenario.variants[0].faults.len();
    let mut search = Search::new(scenario.clone(), failure, oracle, budget);
    search.run_again();
    // What fails without a fault, if otherwise, does not need it: another failure of the same scenario, with less.
    let needed = loop {
        search.simplify();
        match search.certificate() {
            Ok(needed) => break needed,
            Err(smaller) => search.turn_to(*smaller),
        }
    };
    search.finish(faults_before, needed)
}

/// The best scenario so far and what it costs to find a better one.
struct Search<'a> {
    best: Scenario,
    failure: Failure,
    /// What the best scenario's faults did.
    fired: Vec<FiredFault>,
    oracle: Oracle<'a>,
    tried: BTreeSet<String>,
    runs: u64,
    /// How many candidates were better.
    taken: u64,
    budget: Budget,
    clock: Clock,
}

#[allow(clippy::disallowed_types, reason = "a budget in real time")]
type Clock = std::time::Instant;

#[allow(clippy::disallowed_types, reason = "a budget in real time")]
fn clock() -> Clock {
    std::time::Instant::now()
}

/// A broker's session must outlast two heartbeats, or healthy brokers are fenced for ever: a cluster that is sick by its
/// configuration is another failure than the one at hand, under the same name.
fn sessions_end_by_themselves(scenario: &Scenario) -> bool {
    let ends = |config: &BrokerConfig| config.broker_session_timeout < config.broker_heartbeat_interval * 2;
    scenario.variants.iter().any(|variant| ends(&variant.cluster.config))
}

impl<'a> Search<'a> {
    fn new(best: Scenario, failure: Failure, oracle: Oracle<'a>, budget: Budget) -> Search<'a> {
        Search {
            best,
            failure,
            fired: Vec::new(),
            oracle,
            tried: BTreeSet::new(),
            runs: 0,
            taken: 0,
            budget,
            clock: clock(),
        }
    }

    /// Passes until none helps or the budget is spent.
    fn simplify(&mut self) {
        loop {
            let taken = self.taken;
            schedule::drop_faults(self);
            shape::simplify(self);
            schedule::simplify(self);
            triggers::replace_times(self);
            schedule::round_times(self);
            if self.taken == taken || self.is_spent() {
                return;
            }
        }
    }

    fn is_spent(&self) -> bool {
        self.runs >= self.budget.runs || self.clock.elapsed() >= self.budget.time
    }

    fn variant(&self) -> &Variant {
        &self.best.variants[0]
    }

    fn faults(&self) -> &[Fault] {
        &self.best.variants[0].faults
    }

    fn signature(&self) -> &Signature {
        &self.failure.signature
    }

    /// The best scenario with other faults.
    fn with_faults(&self, faults: Vec<Fault>) -> Scenario {
        self.with(|variant| variant.faults = faults)
    }

    fn with(&self, change: impl FnOnce(&mut Variant)) -> Scenario {
        let mut candidate = self.best.clone();
        change(&mut candidate.variants[0]);
        candidate
    }

    /// Runs the best scenario once more, for what its faults did and for its trace.
    fn run_again(&mut self) -> RunOutcome {
        self.runs += 1;
        let outcome = run_one(&self.best, 0, self.best.seed);
        self.fired.clone_from(&outcome.faults);
        outcome
    }

    /// Takes the candidate if it is valid and fails with the same signature under the seed at hand or one of the next.
    fn offer(&mut self, candidate: &Scenario) -> bool {
        let Some(candidate) = self.fresh(candidate) else { return false };
        for seed in (0..SEEDS_TRIED).map(|n| candidate.seed.wrapping_add(n)) {
            if self.is_spent() {
                return false;
            }
            if let Some((failure, outcome)) = self.fails(&candidate, seed) {
                self.take(candidate, seed, failure, outcome);
                return true;
            }
        }
        false
    }

    /// Takes the candidate if it fails under at least as many seeds as the best scenario does.
    fn offer_if_as_robust(&mut self, candidate: &Scenario) -> bool {
        const SEEDS: u64 = 5;
        let Some(candidate) = self.fresh(candidate) else { return false };
        let Some((failure, outcome)) = self.fails(&candidate, candidate.seed) else { return false };
        let best = self.best.clone();
        if self.count(&candidate, SEEDS) < self.count(&best, SEEDS) {
            return false;
        }
        self.take(candidate, best.seed, failure, outcome);
        true
    }

    /// The candidate as a valid scenario that has not been tried.
    fn fresh(&mut self, candidate: &Scenario) -> Option<Scenario> {
        if self.is_spent() {
            return None;
        }
        let text = crate::scenario::render(candidate, &[]);
        if !self.tried.insert(text) {
            return None;
        }
        let same =
            |candidate: &Scenario| candidate.variants == self.best.variants && candidate.duration == self.best.duration;
        let is_sick =
            |candidate: &Scenario| sessions_end_by_themselves(candidate) && !sessions_end_by_themselves(&self.best);
        written(candidate).filter(|candidate| !same(candidate) && !is_sick(candidate))
    }

    fn take(&mut self, candidate: Scenario, seed: u64, failure: Failure, outcome: RunOutcome) {
        self.best = Scenario { seed, ..candidate };
        self.failure = failure;
        self.fired = outcome.faults;
        self.taken += 1;
    }

    fn fails(&mut self, candidate: &Scenario, seed: u64) -> Option<(Failure, RunOutcome)> {
        self.runs += 1;
        let outcome = run_one(candidate, 0, seed);
        let failure = (self.oracle)(candidate, &outcome)?;
        (failure.signature == *self.signature()).then_some((failure, outcome))
    }

    /// Of so many seeds from the scenario's own on, those that fail with the same signature.
    fn count(&mut self, scenario: &Scenario, seeds: u64) -> u64 {
        (0..seeds).filter(|n| self.fails(scenario, scenario.seed.wrapping_add(*n)).is_some()).count() as u64
    }

    /// The same of as many seeds as there is time for: (failing, counted).
    fn robustness(&mut self, scenario: &Scenario) -> (u64, u64) {
        let begun = self.clock.elapsed();
        let (mut failing, mut counted) = (0, 0);
        while counted < SEEDS_COUNTED && (counted == 0 || self.clock.elapsed() - begun < COUNTING_MAX) {
            failing += u64::from(self.fails(scenario, scenario.seed.wrapping_add(counted)).is_some());
            counted += 1;
        }
        (failing, counted)
    }

    /// For each fault, whether the run passes without it; or one that fails without one of them. Not part of the budget: a
    /// result without it is worth little, and there are ever fewer faults.
    fn certificate(&mut self) -> Result<Vec<bool>, Box<Smaller>> {
        self.run_again();
        let mut needed = Vec::new();
        for index in 0..self.faults().len() {
            let faults = schedule::without(self.faults(), &[index], &self.fired);
            let Some(scenario) = written(&self.with_faults(faults)) else {
                needed.push(false);
                continue;
            };
            self.runs += 1;
            let outcome = run_one(&scenario, 0, scenario.seed);
            match (self.oracle)(&scenario, &outcome) {
                None => needed.push(true),
                Some(failure) => return Err(Box::new(Smaller { scenario, failure, outcome })),
            }
        }
        Ok(needed)
    }

    fn turn_to(&mut self, smaller: Smaller) {
        let Smaller { scenario, failure, outcome } = smaller;
        // What did not show the failure so far may show this one.
        self.tried.clear();
        self.take(scenario.clone(), scenario.seed, failure, outcome);
    }

    /// How many seeds fail, which is no part of the budget either.
    fn finish(mut self, faults_before: usize, needed: Vec<bool>) -> Shrunk {
        let best = self.best.clone();
        let (failing, counted) = self.robustness(&best);
        Shrunk {
            faults_before,
            faults_after: best.variants[0].faults.len(),
            scenario: best,
            failure: self.failure,
            needed,
            failing,
            counted,
            runs: self.runs,
            time: self.clock.elapsed(),
        }
    }
}

/// Without one of the faults, and how it fails.
struct Smaller {
    scenario: Scenario,
    failure: Failure,
    outcome: RunOutcome,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Action;

    const QUICK: &str = r#"# A quick broker is healthy.
        duration = "1s"
        [cluster]
        brokers = 1
        [cluster.config]
        "broker.heartbeat.interval.ms" = 100
        "broker.session.timeout.ms" = 300
        [[topic]]
        name = "orders"
        replication-factor = 1
        [[workload]]
        kind = "produce"
        topic = "orders"
        records = 1
    "#;

    #[test]
    fn what_fails_otherwise_without_a_fault_does_not_need_it() {
        let faults = "[[fault]]\nat = \"200ms\"\ndo = \"crash\"\ntarget = \"broker(1)\"\nfor = \"100ms\"\n\
                      [[fault]]\nat = \"500ms\"\ndo = \"pause\"\ntarget = \"broker(1)\"\nfor = \"100ms\"\n";
        let scenario = crate::scenario::parse("quick", "", &(QUICK.to_owned() + faults)).expect("it is valid");
        let failure = |rule: &str| Failure {
            signature: Signature { rule: rule.to_owned(), site: String::new() },
            broken: std::collections::BTreeMap::new(),
        };
        let oracle = |scenario: &Scenario, outcome: &RunOutcome| {
            let faults = &scenario.variants[0].faults;
            let has = |action: Action| outcome.faults.iter().any(|fired| faults[fired.index].action == action);
            has(Action::Pause).then(|| failure(if has(Action::Crash) { "liveness" } else { "unreadable" }))
        };
        let shrunk = shrink(&scenario, failure("liveness"), &oracle, Budget::default());
        assert_eq!(shrunk.failure, failure("unreadable"));
        assert_eq!((shrunk.faults_after, shrunk.needed.as_slice()), (1, &[true][..]));
    }

    #[test]
    fn no_cluster_becomes_one_whose_sessions_end_by_themselves() {
        let scenario = crate::scenario::parse("quick", "", QUICK).expect("it is valid");
        let failure = || Failure {
            signature: Signature { rule: "liveness".to_owned(), site: String::new() },
            broken: std::collections::BTreeMap::new(),
        };
        let always = |_: &Scenario, _: &RunOutcome| Some(failure());
        let mut search = Search::new(scenario, failure(), &always, Budget::default());
        let set = |search: &Search<'_>, keys: [&str; 2]| {
            let defaults = BrokerConfig::default().entries();
            let set = |variant: &mut Variant| {
                keys.iter().for_each(|key| variant.cluster.config.set(key, &defaults[key]).expect("a default"));
            };
            search.with(set)
        };
        let (heartbeat, session) = ("broker.heartbeat.interval.ms", "broker.session.timeout.ms");
        let sick = set(&search, [heartbeat, heartbeat]);
        assert!(!search.offer(&sick), "the next heartbeat comes when the session is long over");
        let plain = set(&search, [heartbeat, session]);
        assert!(search.offer(&plain));
    }
}
