//! Draws from latency distributions, in integers: a float's logarithm may differ from machine to machine.

use std::time::Duration;

use rand::Rng as _;

use super::model::{Latency, Ppm};
use crate::world::Rng;

/// A distribution of nanoseconds, ready to draw from.
#[derive(Clone, Copy)]
pub(super) enum Draw {
    Uniform(Uniform),
    Exponential { min: u64, mean_beyond: u64 },
    Bimodal { fast: Uniform, slow: Uniform, slow_share: Ppm },
}

impl Draw {
    /// Panics if a range is empty or beyond 292 years.
    pub(super) fn new(latency: Latency) -> Draw {
        match latency {
            Latency::Fixed(latency) => Draw::Uniform(Uniform::new(latency, latency)),
            Latency::Uniform { min, max } => Draw::Uniform(Uniform::new(min, max)),
            Latency::Exponential { min, mean } => {
                assert!(min <= mean, "the mean of a latency is not below its minimum");
                Draw::Exponential { min: nanos(min), mean_beyond: nanos(mean - min) }
            }
            Latency::Bimodal { fast, slow, slow_share } => {
                Draw::Bimodal { fast: Uniform::new(fast.0, fast.1), slow: Uniform::new(slow.0, slow.1), slow_share }
            }
        }
    }

    pub(super) fn draw(&self, rng: &mut Rng) -> u64 {
        match self {
            Draw::Uniform(uniform) => uniform.draw(rng),
            Draw::Exponential { min, mean_beyond } => min + exponential(*mean_beyond, rng),
            Draw::Bimodal { fast, slow, slow_share } => {
                if happens(*slow_share, rng) {
                    slow.draw(rng)
                } else {
                    fast.draw(rng)
                }
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    i64::try_from(duration.as_nanos()).expect("a latency fits 292 years") as u64
}

/// A uniform distribution of nanoseconds.
#[derive(Clone, Copy)]
pub(super) struct Uniform {
    min: u64,
    /// How many values there are.
    span: u64,
}

impl Uniform {
    pub(super) fn new(min: Duration, max: Duration) -> Uniform {
        let (min, max) = (nanos(min), nanos(max));
        assert!(min <= max, "the latency range {min} to {max} ns is empty");
        Uniform { min, span: max - min + 1 }
    }

    /// Lemire's multiply-shift: no division; its bias is below 2^-30 for any span below 17 simulated seconds.
    pub(super) fn draw(self, rng: &mut Rng) -> u64 {
        self.min + ((u128::from(rng.next_u64()) * u128::from(self.span)) >> 64) as u64
    }
}

/// True for a share of the draws.
pub(super) fn happens(share: Ppm, rng: &mut Rng) -> bool {
    let drawn = (u128::from(rng.next_u64()) * u128::from(Ppm::ONE.0)) >> 64;
    drawn < u128::from(share.0)
}

/// -mean * ln(u) for a u that is uniform in (0, 1].
fn exponential(mean: u64, rng: &mut Rng) -> u64 {
    /// ln 2 in 2^-32.
    const LN_2: u128 = 2_977_044_472;
    let bits = u128::from(minus_log2(rng.next_u64()));
    u64::try_from((((u128::from(mean) * bits) >> 32) * LN_2) >> 32).unwrap_or(u64::MAX)
}

/// -log2((u + 1) / 2^64) in 2^-32, rounded up to the precision of 32 squarings.
fn minus_log2(u: u64) -> u64 {
    if u == u64::MAX {
        return 0;
    }
    let value = u + 1;
    let zeros = value.leading_zeros();
    // The mantissa in [1, 2), in 2^-63. Squaring it yields the next binary digit of its logarithm.
    let mut mantissa = value << zeros;
    let mut log: u64 = 0;
    for _ in 0..32 {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        log <<= 1;
        if square >> 64 != 0 {
            log |= 1;
            mantissa = (square >> 1) as u64;
        } else {
            mantissa = square as u64;
        }
    }
    (u64::from(zeros + 1) << 32) - log
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::streams;

    const US: Duration = Duration::from_micros(1);

    fn draws(latency: Latency) -> Vec<u64> {
        let (draw, mut rng) = (Draw::new(latency), streams::fork(1, &["test"]));
        (0..100_000).map(|_| draw.draw(&mut rng)).collect()
    }

    fn mean(draws: &[u64]) -> u64 {
        draws.iter().sum::<u64>() / draws.len() as u64
    }

    #[test]
    fn the_integer_logarithm_is_the_logarithm() {
        for u in [0, 1, 2, 3, 1 << 20, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let exact = 64.0 - (u as f64 + 1.0).log2();
            let ours = minus_log2(u) as f64 / 2_f64.powi(32);
            assert!((exact - ours).abs() < 1e-6, "{u}: {exact} {ours}");
        }
    }

    #[test]
    fn an_exponential_latency_has_its_minimum_its_mean_and_a_long_tail() {
        let draws = draws(Latency::Exponential { min: 200 * US, mean: 1_000 * US });
        assert!(draws.iter().all(|&d| d >= 200_000));
        assert!((990_000..1_010_000).contains(&mean(&draws)), "{}", mean(&draws));
        // e^-5 of 100,000 draws are beyond five means: 674.
        let far = draws.iter().filter(|&&d| d > 200_000 + 5 * 800_000).count();
        assert!((550..800).contains(&far), "{far}");
    }

    #[test]
    fn a_bimodal_latency_is_slow_for_its_share() {
        let (fast, slow) = ((200 * US, 300 * US), (20_000 * US, 50_000 * US));
        let draws = draws(Latency::Bimodal { fast, slow, slow_share: Ppm(10_000) });
        let is_slow = |d: &&u64| (20_000_000..=50_000_000).contains(*d);
        assert!(draws.iter().all(|d| is_slow(&d) || (200_000..=300_000).contains(d)));
        let count = draws.iter().filter(is_slow).count();
        assert!((850..1_150).contains(&count), "{count}");
    }

    #[test]
    fn a_fixed_latency_does_not_vary() {
        assert!(draws(Latency::Fixed(50 * US)).iter().all(|&d| d == 50_000));
    }
}
