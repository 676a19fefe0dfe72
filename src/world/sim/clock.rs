//! Simulated time on madsim's clock, and wake-ups.
//!
//! madsim's `sleep` takes a millisecond at least, so a simulated microsecond is one of its milliseconds. Nothing
//! outside this file sees the scale.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use madsim::time::{Sleep, TimeHandle};

use crate::world::Time;

#[expect(clippy::disallowed_types, reason = "madsim states its virtual time as an Instant")]
type MadsimInstant = std::time::Instant;

/// madsim nanoseconds per simulated nanosecond.
const SCALE: u32 = 1_000;

/// The simulated clock.
///
/// Time stands still while a task runs. So whoever begins to run reads madsim's clock once ([`Clock::look`]), and
/// everybody else what was read then.
#[derive(Clone)]
pub(super) struct Clock {
    time: TimeHandle,
    origin: MadsimInstant,
    /// What was read last, in nanoseconds.
    seen: Arc<AtomicU64>,
}

impl Clock {
    /// The clock of the madsim runtime that this is called in.
    pub(super) fn current() -> Clock {
        let time = TimeHandle::current();
        let origin = time.now_instant() - time.elapsed();
        let clock = Clock { time, origin, seen: Arc::default() };
        clock.look();
        clock
    }

    /// Reads madsim's clock: whenever a task begins to run, or goes on.
    pub(super) fn look(&self) -> Time {
        let elapsed = self.time.elapsed();
        let now = elapsed.as_secs() * u64::from(1_000_000_000 / SCALE) + u64::from(elapsed.subsec_nanos() / SCALE);
        // One thread runs a simulation.
        self.seen.store(now, Ordering::Relaxed);
        Time::from_nanos(now)
    }

    /// The time since when the task that is running runs.
    pub(super) fn now(&self) -> Time {
        Time::from_nanos(self.seen.load(Ordering::Relaxed))
    }

    pub(super) async fn sleep_until(&self, deadline: Time) {
        let mut sleep = pin!(self.time.sleep(Duration::ZERO));
        sleep.as_mut().reset(self.instant(deadline));
        poll_fn(|context| {
            self.look();
            sleep.as_mut().poll(context)
        })
        .await;
    }

    pub(super) fn alarm(&self) -> Alarm {
        Alarm { clock: self.clone(), sleep: self.time.sleep(Duration::ZERO), armed: Vec::new() }
    }

    fn instant(&self, at: Time) -> MadsimInstant {
        const { assert!(SCALE == 1_000, "a simulated nanosecond is a madsim microsecond") };
        self.origin + Duration::from_micros(at.as_nanos())
    }
}

/// Wakes a task at chosen times.
///
/// madsim's timers cannot be cancelled, and its heap of timers is the hottest structure of a run. So this remembers
/// what is armed and never arms for the same or a later time: the wake that comes first arms for the rest.
pub struct Alarm {
    clock: Clock,
    sleep: Sleep,
    /// Descending: the next wake is last.
    armed: Vec<Time>,
}

impl Alarm {
    /// Ensures that a wake comes at `at`, which must be in the future, or before.
    pub fn arm(&mut self, at: Time, waker: &Waker) {
        if self.armed.last().is_some_and(|&next| next <= at) {
            return;
        }
        self.armed.push(at);
        let deadline = self.clock.instant(at);
        let mut sleep = Pin::new(&mut self.sleep);
        sleep.as_mut().reset(deadline);
        match sleep.poll(&mut Context::from_waker(waker)) {
            Poll::Pending => {}
            Poll::Ready(()) => waker.wake_by_ref(),
        }
    }

    /// Forgets the wakes that have come.
    pub fn expire(&mut self, now: Time) {
        while self.armed.last().is_some_and(|&next| next <= now) {
            self.armed.pop();
        }
    }
}
