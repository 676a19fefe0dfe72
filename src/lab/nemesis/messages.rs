//! What the nemesis does to messages of one kind, and how the simulated network tells them apart.

use super::super::outcome::{FiredFault, TraceKind};
use super::Nemesis;
use crate::scenario::{Action, Messages, Target, Variant};
use crate::world::Time;
use crate::world::sim::{Direction, FrameReader, Hit, MessageEffect, MessageRule};

/// Kafka's request header begins with API key, API version and correlation id; a response header with the latter.
pub const FRAME_READER: FrameReader = FrameReader {
    request: |frame| {
        let (key, rest) = frame.split_first_chunk()?;
        let correlation = rest.get(2..)?.first_chunk()?;
        Some((i16::from_be_bytes(*key), i32::from_be_bytes(*correlation)))
    },
    response: |frame| frame.first_chunk().map(|correlation| i32::from_be_bytes(*correlation)),
};

/// Whether a variant needs the network to tell messages apart.
pub fn needs_frame_reader(variant: &Variant) -> bool {
    variant.faults.iter().any(|fault| aim(&fault.action).is_some())
}

/// The messages that an action is aimed at and what it does to them; none if it does something else.
pub(super) fn aim(action: &Action) -> Option<(&Messages, MessageEffect)> {
    if let Action::DelayMessage { messages, by } = action {
        Some((messages, MessageEffect::Delay(*by)))
    } else if let Action::DropMessage { messages } = action {
        Some((messages, MessageEffect::Drop))
    } else {
        None
    }
}

impl Nemesis {
    /// The machines that are named as ends, at this moment.
    pub(super) fn ends_of(&self, messages: &Messages) -> Vec<String> {
        messages.from.iter().chain(&messages.to).flat_map(|target| self.resolve(target)).collect()
    }

    /// From now on fault `index` hits its messages.
    pub(super) fn aim_at_messages(&mut self, index: usize) {
        let action = self.entries[index].fault.action.clone();
        let Some((messages, effect)) = aim(&action) else { return };
        let machines = |target: &Option<Target>| target.as_ref().map(|target| self.resolve(target));
        let rule = MessageRule {
            kind: messages.request.1,
            direction: messages.direction,
            from: machines(&messages.from),
            to: machines(&messages.to),
            effect,
            count: messages.count,
        };
        let id = self.cluster.sim.add_rule(rule);
        self.rules.insert(id, index);
    }

    pub(super) fn stop_aiming(&mut self, index: usize) {
        let of_fault: Vec<_> = self.rules.iter().filter(|(_, of)| **of == index).map(|(id, _)| *id).collect();
        for id in of_fault {
            self.cluster.sim.remove_rule(id);
            self.rules.remove(&id);
        }
    }

    /// Writes down which messages were hit. A fault has fired with the first of them, not when it began to wait.
    pub(super) fn note_hits(&mut self) {
        if !self.tells_messages_apart {
            return;
        }
        for hit in self.cluster.sim.take_hits() {
            let Some(index) = self.rules.get(&hit.rule).copied() else { continue };
            self.note_hit(index, &hit);
            if hit.is_last {
                self.rules.remove(&hit.rule);
                self.note_end(index, hit.at);
            }
        }
    }

    fn note_hit(&mut self, index: usize, hit: &Hit) {
        let Some((messages, effect)) = aim(&self.entries[index].fault.action) else { return };
        let direction = match messages.direction {
            Direction::Request => "request",
            Direction::Response => "response",
        };
        let what = format!("the {} {direction} from {} to {}", messages.request.0, hit.from, hit.to);
        let detail = match effect {
            MessageEffect::Delay(by) => format!("held {what} back for {by:?}"),
            MessageEffect::Drop => format!("dropped {what}, and their connection"),
        };
        let resolved = match &self.entries[index].resolved {
            named if named.is_empty() => vec![hit.from.to_string(), hit.to.to_string()],
            named => named.clone(),
        };
        let at = Time::from_nanos(hit.at.as_nanos() - self.started_at.as_nanos());
        let mut state = self.cluster.recorder.lock();
        state.push(hit.at, "lab", TraceKind::FaultHit { index, detail });
        if !state.faults.iter().any(|fired| fired.index == index) {
            state.faults.push(FiredFault { index, at, ended_at: None, resolved, refused: None });
        }
    }

    /// No fault waits for messages any more.
    pub(super) fn forget_rules(&mut self) {
        self.note_hits();
        self.rules.clear();
    }
}
