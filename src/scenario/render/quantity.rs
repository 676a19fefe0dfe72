//! Quantities as a scenario file writes them: what `scenario::quantity` and `expression` read, the other way round.

use std::time::Duration;

use crate::world::sim::{Latency, Ppm};

/// `2s`, `1500ms`, `250us`, `0.25us`: exact, in the largest unit that needs no fraction.
pub fn written_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        n if n % 1_000_000_000 == 0 => format!("{}s", n / 1_000_000_000),
        n if n % 1_000_000 == 0 => format!("{}ms", n / 1_000_000),
        n if n % 1_000 == 0 => format!("{}us", n / 1_000),
        n => format!("{}.{:03}us", n / 1_000, n % 1_000),
    }
}

fn range((low, high): (Duration, Duration)) -> String {
    match low == high {
        true => written_duration(low),
        false => format!("{}..{}", written_duration(low), written_duration(high)),
    }
}

pub(super) fn latency(latency: Latency) -> String {
    match latency {
        Latency::Fixed(fixed) => written_duration(fixed),
        Latency::Uniform { min, max } => range((min, max)),
        Latency::Exponential { min, mean } => {
            format!("exponential({}, {})", written_duration(min), written_duration(mean))
        }
        Latency::Bimodal { fast, slow, slow_share } => {
            format!("bimodal({}, {}, {})", range(fast), range(slow), share(slow_share))
        }
    }
}

/// Whole bytes: exact.
pub(super) fn bandwidth(bytes_per_second: u64) -> String {
    format!("{bytes_per_second}B/s")
}

/// `5%`, `0.05%`.
pub(super) fn share(Ppm(ppm): Ppm) -> String {
    match (ppm / 10_000, ppm % 10_000) {
        (whole, 0) => format!("{whole}%"),
        (whole, part) => format!("{whole}.{part:04}%"),
    }
}

/// How far a clock is moved.
pub(super) fn shift(by_ns: i64) -> String {
    let sign = if by_ns < 0 { "-" } else { "" };
    format!("{sign}{}", written_duration(Duration::from_nanos(by_ns.unsigned_abs())))
}

pub(super) fn drift(ppm: i64) -> String {
    format!("{ppm}ppm")
}
