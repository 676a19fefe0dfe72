//! Kafka's `ExponentialBackoff`: doubled per attempt, bounded, 20 % jitter.

use std::time::Duration;

use rand::RngExt;

use crate::world::Rng;

#[derive(Clone, Copy, Debug)]
pub(super) struct ExponentialBackoff {
    initial: Duration,
    max: Duration,
}

impl ExponentialBackoff {
    pub fn new(initial: Duration, max: Duration) -> ExponentialBackoff {
        ExponentialBackoff { initial: initial.min(max), max }
    }

    /// The wait after `attempts` earlier waits. Without jitter when there is no room to grow, as in Kafka.
    pub fn after(&self, attempts: u32, rng: &mut Rng) -> Duration {
        if self.max <= self.initial {
            return self.initial;
        }
        let doubled = self.initial.saturating_mul(1 << attempts.min(30)).min(self.max);
        let jitter_permille = rng.random_range(800..=1200);
        (doubled * jitter_permille / 1000).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn backoff_doubles_within_its_jitter_and_never_exceeds_the_maximum() {
        let backoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_millis(1000));
        let mut rng = Rng::seed_from_u64(1);
        for (attempts, low, high) in [(0, 80, 120), (1, 160, 240), (3, 640, 960), (4, 800, 1000), (60, 800, 1000)] {
            for _ in 0..100 {
                let wait = backoff.after(attempts, &mut rng).as_millis();
                assert!((low..=high).contains(&wait), "attempt {attempts}: {wait} ms");
            }
        }
    }

    #[test]
    fn a_maximum_at_or_below_the_start_is_the_constant_backoff() {
        let backoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_millis(50));
        assert_eq!(backoff.after(7, &mut Rng::seed_from_u64(1)), Duration::from_millis(50));
    }
}
