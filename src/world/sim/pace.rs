//! The pace of a process that is slowed down: computing that takes time, and connections that are read slowly. Most
//! processes have none: they handle an event the instant it arrives.

use std::time::Duration;

use super::link::transmission;
use super::model::Load;
use crate::world::{Event, Time};

pub(super) struct Pace {
    pub(super) load: Load,
    /// When the handling of what came next is done, once it has begun.
    done_at: Option<Time>,
    /// When what was read last had been read.
    read_until: Time,
}

/// What a process does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pull {
    /// Nothing before this; `None`: before something arrives.
    Wait(Option<Time>),
    /// The event that arrived first.
    Event,
    Deadline,
}

impl Pace {
    /// None for no load.
    pub(super) fn of(load: Load) -> Option<Box<Pace>> {
        (load != Load::default()).then(|| Box::new(Pace { load, done_at: None, read_until: Time::ZERO }))
    }

    /// Another process begins.
    pub(super) fn start_over(&mut self) {
        (self.done_at, self.read_until) = (None, Time::ZERO);
    }

    /// What to do `now`; `next` is what arrived first, or will, and when. The time that handling takes passes before its effects are seen, so that an answer leaves
    /// when it has been computed.
    pub(super) fn pull(&mut self, next: Option<(Time, &Event)>, deadline: Option<Time>, now: Time) -> Pull {
        let readable = next.map(|(at, event)| at.max(self.read_until) + self.reading(event));
        let Some(due) = [readable, deadline].into_iter().flatten().min().filter(|due| *due <= now) else {
            self.done_at = None;
            return Pull::Wait([readable, deadline].into_iter().flatten().min());
        };
        if !self.load.event_cost.is_zero() {
            let done_at = *self.done_at.get_or_insert(due.max(now) + self.load.event_cost);
            if done_at > now {
                return Pull::Wait(Some(done_at));
            }
            self.done_at = None;
        }
        match readable {
            Some(at) if at <= now => {
                self.read_until = at;
                Pull::Event
            }
            Some(_) | None => Pull::Deadline,
        }
    }

    /// How long it takes to read an event from its connection.
    fn reading(&self, event: &Event) -> Duration {
        match (self.load.drain, event) {
            (Some(drain), Event::Frame(_, bytes)) => transmission(bytes.len() + 4, drain),
            (None, Event::Frame(..))
            | (_, Event::Accepted(_) | Event::Connected(_) | Event::Closed(_) | Event::IoReady | Event::Terminate) => {
                Duration::ZERO
            }
        }
    }
}
