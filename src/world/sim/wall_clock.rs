//! A machine's wall clock: what its processes read as the time of day. It may be wrong in every way that real ones
//! are; monotonic time is not affected.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::lock;
use crate::world::Time;

/// True time when the simulation begins: 2024-01-01T00:00:00Z.
pub(super) const WALL_CLOCK_EPOCH_MS: i64 = 1_704_067_200_000;

const NANOS_PER_MILLI: i64 = 1_000_000;

/// One machine's wall clock, shared with the processes that read it.
pub(super) struct WallClock {
    /// False while it is right: then nothing else is looked at.
    is_wrong: AtomicBool,
    error: Mutex<ClockError>,
}

/// How a wall clock differs from true time.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct ClockError {
    /// Ahead of true time at `since`.
    offset_ns: i64,
    drift_ppm: i64,
    since: Time,
    frozen: Option<Frozen>,
}

/// A clock that stands still.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Frozen {
    /// What it shows, whatever its error becomes meanwhile: only a step moves its hands.
    reading_ns: i64,
    /// How many thaws make it go again.
    reasons: u32,
}

impl ClockError {
    fn reading_ns(&self, now: Time) -> i64 {
        match self.frozen {
            Some(frozen) => frozen.reading_ns,
            None => self.running_ns(now),
        }
    }

    /// What it would show if it did not stand still.
    fn running_ns(&self, now: Time) -> i64 {
        (now.as_nanos() as i64).saturating_add(self.offset_at(now))
    }

    fn offset_at(&self, now: Time) -> i64 {
        let gained = i128::from((now - self.since).as_nanos() as u64) * i128::from(self.drift_ppm) / 1_000_000;
        self.offset_ns.saturating_add(i64::try_from(gained).unwrap_or(i64::MAX))
    }
}

impl WallClock {
    /// A clock that is `offset_ns` ahead when the simulation begins and gains `drift_ppm`.
    pub(super) fn new(offset_ns: i64, drift_ppm: i64) -> WallClock {
        let error = ClockError { offset_ns, drift_ppm, ..ClockError::default() };
        WallClock { is_wrong: AtomicBool::new(error != ClockError::default()), error: Mutex::new(error) }
    }

    /// Milliseconds since the Unix epoch, as this clock has it.
    pub(super) fn read_ms(&self, now: Time) -> i64 {
        if !self.is_wrong.load(Ordering::Relaxed) {
            return WALL_CLOCK_EPOCH_MS + now.as_millis() as i64;
        }
        WALL_CLOCK_EPOCH_MS + lock(&self.error).reading_ns(now).div_euclid(NANOS_PER_MILLI)
    }

    fn change(&self, change: impl FnOnce(&mut ClockError)) {
        let mut error = lock(&self.error);
        change(&mut error);
        self.is_wrong.store(*error != ClockError::default(), Ordering::Relaxed);
    }

    /// Moves it forward, or back.
    pub(super) fn step(&self, by_ns: i64) {
        self.change(|error| {
            error.offset_ns = error.offset_ns.saturating_add(by_ns);
            if let Some(frozen) = &mut error.frozen {
                frozen.reading_ns = frozen.reading_ns.saturating_add(by_ns);
            }
        });
    }

    /// Makes it gain so much more from now on; what it has gained stays.
    pub(super) fn add_drift(&self, ppm: i64, now: Time) {
        self.change(|error| {
            error.offset_ns = error.offset_at(now);
            error.since = now;
            error.drift_ppm += ppm;
        });
    }

    /// Stops it. After as many thaws it jumps to where it would be.
    pub(super) fn freeze(&self, now: Time) {
        self.change(|error| {
            let reading_ns = error.reading_ns(now);
            let reasons = error.frozen.map_or(0, |frozen| frozen.reasons);
            error.frozen = Some(Frozen { reading_ns, reasons: reasons + 1 });
        });
    }

    pub(super) fn thaw(&self) {
        self.change(|error| {
            let frozen = error.frozen.filter(|frozen| frozen.reasons > 1);
            error.frozen = frozen.map(|frozen| Frozen { reasons: frozen.reasons - 1, ..frozen });
        });
    }

    /// As it would be if nothing had been done to it.
    pub(super) fn reset(&self, offset_ns: i64, drift_ppm: i64) {
        self.change(|error| *error = ClockError { offset_ns, drift_ppm, ..ClockError::default() });
    }
}
