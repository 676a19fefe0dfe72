//! The parameters of a simulated world as plain data: what its links, its machines and its frames are like. What a
//! scenario sets, the supervisor hands over in a [`SimConfig`]; nothing here acts.

use std::collections::BTreeMap;
use std::time::Duration;

/// A share, in parts per million.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Ppm(pub u32);

impl Ppm {
    pub const ONE: Ppm = Ppm(1_000_000);

    /// This share of a duration, rounded down.
    pub fn of(self, whole: Duration) -> Duration {
        let nanos = whole.as_nanos() * u128::from(self.0) / u128::from(Ppm::ONE.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The share of what either of two independent causes hits.
    pub(super) fn either(self, other: Ppm) -> Ppm {
        let (one, a, b) = (u64::from(Ppm::ONE.0), u64::from(self.0), u64::from(other.0));
        Ppm((one - (one - a) * (one - b) / one) as u32)
    }
}

/// The distribution of a link's one-way latency. Each packet draws from the link's own stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Latency {
    Fixed(Duration),
    Uniform {
        min: Duration,
        max: Duration,
    },
    /// `min` is the way itself; what is added to it is exponential, so that the mean of both together is `mean`.
    Exponential {
        min: Duration,
        mean: Duration,
    },
    /// Uniform in `fast`, and for a share of the packets in `slow`.
    Bimodal {
        fast: (Duration, Duration),
        slow: (Duration, Duration),
        slow_share: Ppm,
    },
}

/// What one directed link is like when nothing is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkModel {
    pub latency: Latency,
    /// Up to so much more per packet, uniform; zero: none.
    pub jitter: Duration,
    /// Bytes per second, first come first served; `None`: unlimited.
    pub bandwidth: Option<u64>,
    /// Share of segments that the sender must retransmit.
    pub loss: Ppm,
}

impl Default for LinkModel {
    /// A data centre: 0.2 to 0.5 ms, nothing lost, no limit.
    fn default() -> LinkModel {
        let latency = Latency::Uniform { min: Duration::from_micros(200), max: Duration::from_micros(500) };
        LinkModel { latency, jitter: Duration::ZERO, bandwidth: None, loss: Ppm(0) }
    }
}

/// What faults add to a directed link, all of them together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LinkConditions {
    pub delay: Duration,
    pub jitter: Duration,
    /// Bytes per second; the lower one counts.
    pub bandwidth: Option<u64>,
    pub loss: Ppm,
}

impl LinkConditions {
    /// Both at once.
    pub fn and(self, other: LinkConditions) -> LinkConditions {
        LinkConditions {
            delay: self.delay + other.delay,
            jitter: self.jitter + other.jitter,
            bandwidth: [self.bandwidth, other.bandwidth].into_iter().flatten().min(),
            loss: self.loss.either(other.loss),
        }
    }
}

/// What slows a process down.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Load {
    /// Simulated time that handling one event, or one expired deadline, takes. Zero: none.
    pub event_cost: Duration,
    /// Bytes per second that it reads from its connections; `None`: unlimited.
    pub drain: Option<u64>,
}

impl Load {
    /// Both at once.
    pub fn and(self, other: Load) -> Load {
        Load {
            event_cost: self.event_cost + other.event_cost,
            drain: [self.drain, other.drain].into_iter().flatten().min(),
        }
    }
}

/// What one machine is like when nothing is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MachineModel {
    /// How far its wall clock is ahead of true time when the simulation begins, in nanoseconds.
    pub clock_offset_ns: i64,
    /// How much faster than true time its wall clock runs, in parts per million.
    pub clock_drift_ppm: i64,
    pub load: Load,
}

/// The parameters of a simulated world.
#[derive(Clone, Default, Debug)]
pub struct SimConfig {
    /// Every link that is not in `links`.
    pub link: LinkModel,
    /// Directed links by the names of their machines: sender, receiver.
    pub links: BTreeMap<(String, String), LinkModel>,
    /// Machines by name; the others are as the default.
    pub machines: BTreeMap<String, MachineModel>,
    /// How to tell frames apart, for [`MessageRule`]s. `None`: they cannot be used, and cost nothing.
    pub frame_reader: Option<FrameReader>,
}

/// Which way a message goes. Who opened the connection sends requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Request,
    Response,
}

/// How to read the first bytes of a frame. The world knows nothing of what travels through it; who installs this does.
#[derive(Clone, Copy, Debug)]
pub struct FrameReader {
    /// A request's kind, and the number by which its response can be told.
    pub request: fn(&[u8]) -> Option<(i16, i32)>,
    /// The number of the request that a response answers.
    pub response: fn(&[u8]) -> Option<i32>,
}

/// What is done to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageEffect {
    /// It arrives so much later, and what follows it on its connection not before it.
    Delay(Duration),
    /// It never arrives. Over TCP that is a connection that ends: the receiver sees it closed in the message's place,
    /// the sender when the reset is back.
    Drop,
}

/// Does something to every message of one kind, or to the next ones.
#[derive(Clone, Debug)]
pub struct MessageRule {
    /// The request's kind, as [`FrameReader::request`] tells it; of a response, that of its request.
    pub kind: i16,
    pub direction: Direction,
    /// Machines that send it; `None`: any.
    pub from: Option<Vec<String>>,
    /// Machines that it is sent to; `None`: any.
    pub to: Option<Vec<String>>,
    pub effect: MessageEffect,
    /// How many; `None`: all until the rule is removed.
    pub count: Option<u32>,
}
