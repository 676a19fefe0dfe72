//! One directed link: when what is sent on it arrives, and what it holds back while it is cut.

use std::time::Duration;

use super::latency::{Draw, Uniform, happens};
use super::model::{LinkConditions, LinkModel, Ppm};
use super::net::Packet;
use crate::world::{ConnId, Event, Rng, Time, streams};

/// How long a sender waits before it sends again what a cut link or a dead machine swallowed: Linux's smallest
/// retransmission timeout. There its exponential back-off is not modelled: a scenario that heals a link wants traffic
/// soon. A lossy link has it.
pub(super) const RETRANSMISSION_TIMEOUT: Duration = Duration::from_millis(200);
/// Linux's longest retransmission timeout (`TCP_RTO_MAX`).
const RETRANSMISSION_TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// Linux's `tcp_retries2`. There the connection would be given up; here the segment gets through.
const RETRANSMISSIONS_MAX: u32 = 15;
/// What fits into one segment on Ethernet, and the headers of IP and TCP on it.
const SEGMENT_BYTES: usize = 1_460;
const HEADER_BYTES: usize = 40;

/// A packet that waits for its link, and when it would have arrived.
pub(super) struct Held {
    pub(super) at: Time,
    pub(super) to: ConnId,
    pub(super) packet: Packet,
}

/// One direction between two machines.
pub(super) struct Link {
    rng: Rng,
    draw: Draw,
    model: LinkModel,
    /// What makes it more than a latency; none on most links.
    impairment: Option<Box<Impairment>>,
    /// How often it became impaired: each time with streams of its own.
    episodes: u32,
    pub(super) is_blocked: bool,
    /// In order of sending per connection.
    pub(super) held: Vec<Held>,
}

impl Link {
    /// `names` are those of the sending and the receiving machine; with `seed` they name its streams, so that other
    /// machines and other links never move them.
    pub(super) fn new(seed: u64, names: [&str; 2], model: LinkModel) -> Link {
        let mut link = Link {
            rng: streams::fork(seed, &["link", names[0], names[1]]),
            draw: Draw::new(model.latency),
            model,
            impairment: None,
            episodes: 0,
            is_blocked: false,
            held: Vec::new(),
        };
        link.set_conditions(seed, names, LinkConditions::default());
        link
    }

    /// What is sent from now on meets these conditions, besides what the link is like anyway.
    pub(super) fn set_conditions(&mut self, seed: u64, names: [&str; 2], conditions: LinkConditions) {
        let LinkModel { latency: _, jitter, bandwidth, loss } = self.model;
        let conditions = conditions.and(LinkConditions { delay: Duration::ZERO, jitter, bandwidth, loss });
        if conditions == LinkConditions::default() {
            self.impairment = None;
            return;
        }
        let episodes = &mut self.episodes;
        let impairment = self.impairment.get_or_insert_with(|| {
            *episodes += 1;
            let stream = |what| streams::fork(seed, &[what, names[0], names[1], &episodes.to_string()]);
            let (jitter_rng, loss_rng) = (stream("link-jitter"), stream("link-loss"));
            Box::new(Impairment { conditions, free_at: Time::ZERO, jitter_rng, loss_rng })
        });
        impairment.conditions = conditions;
    }

    /// When a packet arrives that is sent `now`, `lateness` later than it would.
    pub(super) fn arrival(&mut self, now: Time, packet: &Packet, lateness: Duration) -> Time {
        let latency = self.draw.draw(&mut self.rng);
        let at = match &mut self.impairment {
            None => Time::from_nanos(now.as_nanos() + latency),
            Some(impairment) => impairment.arrival(now, packet) + Duration::from_nanos(latency),
        };
        if lateness.is_zero() { at } else { at + lateness }
    }
}

/// A link's state beyond its latency.
struct Impairment {
    conditions: LinkConditions,
    /// When the sender's queue is empty.
    free_at: Time,
    jitter_rng: Rng,
    loss_rng: Rng,
}

impl Impairment {
    fn arrival(&mut self, now: Time, packet: &Packet) -> Time {
        let LinkConditions { delay, jitter, bandwidth, loss } = self.conditions;
        let mut at = now + delay;
        let bytes = payload_bytes(packet);
        let segments = bytes.div_ceil(SEGMENT_BYTES).max(1);
        if let Some(bandwidth) = bandwidth {
            self.free_at = self.free_at.max(now) + transmission(bytes + segments * HEADER_BYTES, bandwidth);
            at += self.free_at - now;
        }
        if !jitter.is_zero() {
            at += Duration::from_nanos(Uniform::new(Duration::ZERO, jitter).draw(&mut self.jitter_rng));
        }
        if loss != Ppm(0) {
            // The segments of a packet are sent together: it is whole when the last of them has got through.
            at += (0..segments).map(|_| retransmission(loss, &mut self.loss_rng)).max().unwrap_or_default();
        }
        at
    }
}

fn payload_bytes(packet: &Packet) -> usize {
    match packet {
        Packet::Event(Event::Frame(_, bytes)) => bytes.len() + 4,
        Packet::Event(
            Event::Accepted(_) | Event::Connected(_) | Event::Closed(_) | Event::IoReady | Event::Terminate,
        )
        | Packet::Knock => 0,
    }
}

/// How long `bytes` take at `bandwidth` bytes per second.
pub(super) fn transmission(bytes: usize, bandwidth: u64) -> Duration {
    let nanos = bytes as u128 * 1_000_000_000 / u128::from(bandwidth.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How much later a segment gets through that is lost with this probability each time, with TCP's doubling timeouts.
fn retransmission(loss: Ppm, rng: &mut Rng) -> Duration {
    let (mut late, mut timeout) = (Duration::ZERO, RETRANSMISSION_TIMEOUT);
    for _ in 0..RETRANSMISSIONS_MAX {
        if !happens(loss, rng) {
            break;
        }
        late += timeout;
        timeout = (timeout * 2).min(RETRANSMISSION_TIMEOUT_MAX);
    }
    late
}
