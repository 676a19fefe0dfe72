//! One directed link: its latency, and what it holds back while it is cut.

use std::time::Duration;

use rand::Rng as _;

use super::net::Packet;
use crate::world::{ConnId, Rng, Time};

/// How long a sender waits before it sends again what a cut link or a dead machine swallowed: Linux's smallest
/// retransmission timeout. Its exponential back-off is not modelled: a scenario that heals a link wants traffic soon.
pub(super) const RETRANSMISSION_TIMEOUT: Duration = Duration::from_millis(200);

/// A packet that waits for its link, and when it would have arrived.
pub(super) struct Held {
    pub(super) at: Time,
    pub(super) to: ConnId,
    pub(super) packet: Packet,
}

/// One direction between two machines.
pub(super) struct Link {
    rng: Rng,
    latency: Latency,
    /// Added to the latency of what is sent from now on.
    pub(super) delay: Duration,
    pub(super) is_blocked: bool,
    /// In order of sending per connection.
    pub(super) held: Vec<Held>,
}

impl Link {
    pub(super) fn new(latency: Latency, rng: Rng) -> Link {
        Link { rng, latency, delay: Duration::ZERO, is_blocked: false, held: Vec::new() }
    }

    /// When a packet that leaves at `departure` arrives.
    pub(super) fn arrival(&mut self, departure: Time) -> Time {
        let latency = self.latency.draw(&mut self.rng);
        if self.delay.is_zero() {
            Time::from_nanos(departure.as_nanos() + latency)
        } else {
            Time::from_nanos(departure.as_nanos() + latency) + self.delay
        }
    }
}

/// A uniform distribution of nanoseconds.
#[derive(Clone, Copy)]
pub(super) struct Latency {
    min: u64,
    /// How many values there are.
    span: u64,
}

impl Latency {
    /// Panics if the range is empty or beyond 292 years.
    pub(super) fn uniform(range: &std::ops::RangeInclusive<Duration>) -> Latency {
        let nanos = |d: &Duration| i64::try_from(d.as_nanos()).expect("a latency fits 292 years") as u64;
        let (min, max) = (nanos(range.start()), nanos(range.end()));
        assert!(min <= max, "the latency range {range:?} is empty");
        Latency { min, span: max - min + 1 }
    }

    /// Lemire's multiply-shift: no division; its bias is below 2^-30 for any span below 17 simulated seconds.
    fn draw(self, rng: &mut Rng) -> u64 {
        self.min + ((u128::from(rng.next_u64()) * u128::from(self.span)) >> 64) as u64
    }
}
