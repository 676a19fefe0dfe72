//! The quantities that a scenario writes with a unit, besides durations: latency distributions, bandwidths, shares,
//! and how wrong a clock is. Pure functions from text to value, exact: no floating point.

use std::time::Duration;

use super::expression::{Slip, decimal, duration, term};
use super::vocabulary::{BANDWIDTH_UNITS, DISTRIBUTIONS};
use crate::config::nearest;
use crate::world::sim::{Latency, Ppm};

/// A clock is at most so wrong, either way: 20 years, so that no timestamp is before 1970.
const SHIFT_MAX: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// A clock that loses a million parts per million stands still.
const DRIFT_PPM_MAX: i64 = 999_999;

/// Where `part`, a slice of `text`, begins in it.
fn offset_in(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

/// A slip inside `part`, as one inside `text`.
fn shifted(slip: Slip, text: &str, part: &str) -> Slip {
    let start = offset_in(text, part);
    Slip { at: slip.at.start + start..slip.at.end + start, ..slip }
}

/// `0.2ms..0.5ms`, or one duration for both ends.
fn range(text: &str) -> Result<(Duration, Duration), Slip> {
    let Some((low, high)) = text.split_once("..") else {
        return duration(text).map(|both| (both, both));
    };
    let (low, high) = (duration(low)?, duration(high).map_err(|slip| shifted(slip, text, high))?);
    if low > high {
        return Err(Slip::new(0..text.len(), "the lower latency comes first"));
    }
    Ok((low, high))
}

/// `0.5ms`, `0.2ms..0.5ms`, `exponential(0.2ms, 1ms)`, `bimodal(0.2ms..0.5ms, 20ms..50ms, 1%)`.
pub(super) fn latency(text: &str) -> Result<Latency, Slip> {
    if !text.trim_start().starts_with(|c: char| c.is_ascii_alphabetic()) {
        let (min, max) = range(text)?;
        return Ok(if min == max { Latency::Fixed(min) } else { Latency::Uniform { min, max } });
    }
    let (term, end) = term(text)?;
    let at = term.at.clone();
    let distribution = match (term.name, term.arguments.as_deref()) {
        ("exponential", Some([min, mean])) => {
            let read = |part| duration(part).map_err(|slip| shifted(slip, text, part));
            let (min, mean) = (read(min)?, read(mean)?);
            if mean < min {
                return Err(Slip::new(at, "the mean of a latency is not below its minimum"));
            }
            Latency::Exponential { min, mean }
        }
        ("exponential", _) => {
            let help = "its minimum and its mean, for example `exponential(0.2ms, 1ms)`";
            return Err(Slip::new(at, "`exponential` needs two arguments").help(help));
        }
        ("bimodal", Some([fast, slow, share])) => {
            let read = |part| range(part).map_err(|slip| shifted(slip, text, part));
            let slow_share = self::share(share).map_err(|slip| shifted(slip, text, share))?;
            Latency::Bimodal { fast: read(fast)?, slow: read(slow)?, slow_share }
        }
        ("bimodal", _) => {
            let help = "fast, slow, and the share of the slow, for example `bimodal(0.2ms..0.5ms, 20ms..50ms, 1%)`";
            return Err(Slip::new(at, "`bimodal` needs three arguments").help(help));
        }
        (other, _) => {
            let slip = Slip::new(term.name_at.clone(), format!("unknown distribution `{other}`"));
            return Err(match nearest(other, DISTRIBUTIONS.iter().copied()) {
                Some(near) => slip.help(format!("did you mean `{near}`?")),
                None => slip.help("write 0.5ms, 0.2ms..0.5ms, exponential(MIN, MEAN) or bimodal(FAST, SLOW, SHARE)"),
            });
        }
    };
    match text[end..].trim() {
        "" => Ok(distribution),
        rest => Err(Slip::new(end..text.len(), format!("`{rest}` is left over"))),
    }
}

/// Splits a number from what follows it.
fn number_and_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    (number, unit.trim())
}

/// `10Mbit/s`, `1.5MB/s`: bytes per second.
pub(super) fn bandwidth(text: &str) -> Result<u64, Slip> {
    let (number, unit) = number_and_unit(text);
    let wrong = |message: String| {
        let units: Vec<&str> = BANDWIDTH_UNITS.iter().map(|(name, _)| *name).collect();
        Slip::new(0..text.len(), message).help(format!("write a number and a unit: {}", units.join(", ")))
    };
    let Some((_, factor)) = BANDWIDTH_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(wrong(format!("`{text}` is not a bandwidth")));
    };
    match decimal(number, *factor) {
        Some(0) => {
            Err(Slip::new(0..text.len(), "a bandwidth is more than nothing").help("a link is cut by `partition`"))
        }
        Some(bytes) => Ok(bytes),
        None => Err(wrong(format!("`{text}` is not a bandwidth in whole bytes"))),
    }
}

/// `1%`, `0.05%`, up to 100 %.
pub(super) fn share(text: &str) -> Result<Ppm, Slip> {
    let (number, unit) = number_and_unit(text);
    let ppm = if unit == "%" { decimal(number, 10_000) } else { None };
    ppm.and_then(|ppm| u32::try_from(ppm).ok())
        .map(Ppm)
        .filter(|share| *share <= Ppm::ONE)
        .ok_or_else(|| Slip::new(0..text.len(), format!("`{text}` is not a share")).help("for example `25%` or `0.1%`"))
}

/// A sign, `+` if there is none, and what follows it.
fn signed(text: &str) -> (i64, &str) {
    let text = text.trim();
    match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// `10m`, `-5s`, `+250ms`: how far a clock is moved, in nanoseconds.
pub(super) fn shift(text: &str) -> Result<i64, Slip> {
    let (sign, rest) = signed(text);
    let magnitude = duration(rest).map_err(|slip| shifted(slip, text, rest))?;
    if magnitude > SHIFT_MAX {
        return Err(Slip::new(0..text.len(), "a clock can be wrong by 20 years at most").help("write up to `175200h`"));
    }
    if magnitude.is_zero() {
        return Err(Slip::new(0..text.len(), "this would not move the clock"));
    }
    Ok(sign * i64::try_from(magnitude.as_nanos()).expect("20 years of nanoseconds fit"))
}

/// `200ppm`, `-50ppm`: how much a clock gains.
pub(super) fn drift(text: &str) -> Result<i64, Slip> {
    let (sign, rest) = signed(text);
    let ppm = rest.strip_suffix("ppm").and_then(|number| number.trim().parse::<i64>().ok());
    match ppm {
        Some(ppm) if (1..=DRIFT_PPM_MAX).contains(&ppm) => Ok(sign * ppm),
        Some(ppm) if ppm > DRIFT_PPM_MAX => Err(Slip::new(0..text.len(), "a clock can drift by 999999ppm at most")
            .help("a clock that stands still is `clock-freeze`")),
        Some(_) | None => Err(Slip::new(0..text.len(), format!("`{text}` is not a drift"))
            .help("write parts per million, for example `200ppm` or `-50ppm`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn latencies_read_as_documented() {
        assert_eq!(latency("0.2ms..0.5ms"), Ok(Latency::Uniform { min: us(200), max: us(500) }));
        assert_eq!(latency("1ms"), Ok(Latency::Fixed(us(1_000))));
        assert_eq!(latency("exponential(0.2ms, 1ms)"), Ok(Latency::Exponential { min: us(200), mean: us(1_000) }));
        let bimodal =
            Latency::Bimodal { fast: (us(200), us(500)), slow: (us(20_000), us(20_000)), slow_share: Ppm(15_000) };
        assert_eq!(latency(" bimodal(0.2ms..0.5ms,20ms, 1.5%) "), Ok(bimodal));
    }

    #[test]
    fn what_is_no_latency_says_why_and_where() {
        for (text, message, at) in [
            ("2ms..1ms", "the lower latency comes first", 0..8),
            ("1ms..2x", "`x` is not a unit of time", 6..7),
            ("exponential(1ms)", "`exponential` needs two arguments", 0..16),
            ("exponential", "`exponential` needs two arguments", 0..11),
            ("exponential(2ms, 1ms)", "the mean of a latency is not below its minimum", 0..21),
            ("exponential(1ms, 2x)", "`x` is not a unit of time", 18..19),
            ("bimodal(1ms, 2ms, 3)", "`3` is not a share", 18..19),
            ("bimodal(1ms, 2ms, 3%) now", "`now` is left over", 21..25),
            ("expnential(1ms, 2ms)", "unknown distribution `expnential`", 0..10),
        ] {
            let slip = latency(text).unwrap_err();
            assert_eq!((slip.message.as_str(), slip.at), (message, at), "{text}");
        }
        assert_eq!(latency("bimodel(1ms)").unwrap_err().help.as_deref(), Some("did you mean `bimodal`?"));
    }

    #[test]
    fn bandwidths_are_bytes_per_second() {
        for (text, bytes) in [
            ("1B/s", 1),
            ("1.5MB/s", 1_500_000),
            ("8kbit/s", 1_000),
            ("100 Mbit/s", 12_500_000),
            ("1Gbit/s", 125_000_000),
        ] {
            assert_eq!(bandwidth(text), Ok(bytes), "{text}");
        }
        for text in ["", "10", "10Mb/s", "1.5B/s", "-1kB/s", "0kB/s", "99999999999GB/s"] {
            assert!(bandwidth(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_exact_to_a_millionth() {
        assert_eq!((share("1%"), share("0.05%"), share("100%")), (Ok(Ppm(10_000)), Ok(Ppm(500)), Ok(Ppm::ONE)));
        for text in ["", "1", "101%", "-1%", "0.00001%", "half"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn clocks_are_moved_both_ways() {
        assert_eq!(
            (shift("10s"), shift("-0.5s"), shift("+1ms")),
            (Ok(10_000_000_000), Ok(-500_000_000), Ok(1_000_000))
        );
        assert_eq!((drift("200ppm"), drift("-50 ppm")), (Ok(200), Ok(-50)));
        for text in ["", "0s", "-", "--1s", "200000h"] {
            assert!(shift(text).is_err(), "{text}");
        }
        for text in ["", "0ppm", "1%", "1000000ppm", "1.5ppm"] {
            assert!(drift(text).is_err(), "{text}");
        }
        assert_eq!(shift("-5x").unwrap_err().at, 2..3);
    }
}
