//! Looking for a known defect: which runs can show it, which failures are its doing, and where else to look.
//!
//! A run in which no decision comes to a defect is the same without it, byte for byte ([`RunOutcome::asked`]): what fails
//! there says nothing of the defect, and neither does what fails alike without it. Where decisions come to it is where it
//! may show; seeds that do are rare for what is hard to find, and each of them is gone round by variations
//! ([`generate::variation`]), the more the rarer they are.
//!
//! [`RunOutcome::asked`]: crate::lab::outcome::RunOutcome::asked

use std::time::Duration;

use super::examine::{Failure, examine};
use super::{Profile, campaign, generate};
use crate::defect::Defects;
use crate::lab::run::{run_one, thread_cpu_time};
use crate::scenario::Scenario;

/// Seeds after which variations are tried of those among them that came to the defect: as many as these.
pub const BLOCK: u64 = 250;
/// What has not shown within so many seeds is hard: only then there are variations.
pub const EASY: u64 = 2 * BLOCK;

/// One run, judged.
pub struct Trial {
    pub scenario: Scenario,
    /// The defects that its decisions came to.
    pub asked: Defects,
    pub failure: Option<Failure>,
    /// A run has a thread of its own: of that and of this one.
    pub cpu_us: u64,
}

impl Trial {
    pub fn of(profile: Profile, defects: Defects, seed: u64) -> Trial {
        let before = thread_cpu_time();
        let scenario = campaign::scenario(profile, defects, seed);
        let outcome = run_one(&scenario, 0, seed);
        let failure = examine(&scenario.variants[0], &outcome);
        let own = thread_cpu_time().zip(before).map_or(Duration::ZERO, |(after, before)| after.saturating_sub(before));
        let cpu = outcome.cpu.unwrap_or(Duration::from_millis(outcome.wall_ms)) + own;
        Trial { scenario, asked: outcome.asked, failure, cpu_us: cpu.as_micros() as u64 }
    }

    pub fn fails_like(&self, other: &Failure) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.signature == other.signature)
    }
}

/// Where else to look after a block of seeds that ends before seed number `end` of a campaign, of which those in `came`
/// came to the defect: as many variations as a block has seeds, evenly of each.
pub fn variations(came: &[u64], end: u64) -> impl Iterator<Item = u64> {
    let of_each = if end > EASY { BLOCK / (came.len() as u64).max(1) } else { 0 };
    let numbers = 1..=u16::try_from(of_each).expect("blocks are small");
    numbers.flat_map(|number| came.iter().map(move |seed| generate::variation(*seed, number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rare_is_gone_round_more_often() {
        let count = |came: &[u64]| variations(came, 3 * BLOCK).count() as u64;
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[7]), BLOCK);
        assert_eq!(count(&[7, 8, 9]), BLOCK / 3 * 3);
        assert_eq!(count(&(0..BLOCK).collect::<Vec<_>>()), BLOCK, "one of each where all come to it");
    }

    #[test]
    fn what_is_easy_is_not_gone_round() {
        assert_eq!(variations(&[7], EASY).count(), 0);
    }
}
