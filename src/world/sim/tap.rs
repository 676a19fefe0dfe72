//! Messages told apart while they pass: what a [`MessageRule`] says is done to them. There is no tap, and no cost,
//! unless the supervisor installed a [`FrameReader`].
//!
//! A response does not say what it answers. So every request that passes is remembered by its connection and number
//! until its response does: a rule knows the responses to requests that were sent before it was made.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::model::{Direction, FrameReader, MessageEffect, MessageRule};
use crate::world::{ConnId, Time};

/// Names a rule, for its removal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RuleId(u64);

/// A rule did what it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hit {
    pub rule: RuleId,
    /// When the message was sent.
    pub at: Time,
    /// The machine that sent it.
    pub from: Arc<str>,
    /// The machine that it was sent to.
    pub to: Arc<str>,
    /// It was the last one that the rule counts: the rule is gone.
    pub is_last: bool,
}

pub(super) struct Tap {
    reader: FrameReader,
    /// Number and kind of the requests that await a response, oldest first, by the opener's end of their connection.
    outstanding: BTreeMap<ConnId, VecDeque<(i32, i16)>>,
    /// In the order in which they were made: the first that fits counts.
    rules: BTreeMap<RuleId, MessageRule>,
    rules_made: u64,
    hits: Vec<Hit>,
    notify: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Tap {
    pub(super) fn new(reader: FrameReader) -> Tap {
        let (outstanding, rules) = (BTreeMap::new(), BTreeMap::new());
        Tap { reader, outstanding, rules, rules_made: 0, hits: Vec::new(), notify: None }
    }

    pub(super) fn add(&mut self, rule: MessageRule) -> RuleId {
        let id = RuleId(self.rules_made);
        self.rules_made += 1;
        self.rules.insert(id, rule);
        id
    }

    pub(super) fn remove(&mut self, id: RuleId) {
        self.rules.remove(&id);
    }

    pub(super) fn remove_all(&mut self) {
        self.rules.clear();
    }

    pub(super) fn take_hits(&mut self) -> Vec<Hit> {
        std::mem::take(&mut self.hits)
    }

    pub(super) fn on_hit(&mut self, notify: Arc<dyn Fn() + Send + Sync>) {
        self.notify = Some(notify);
    }

    pub(super) fn forget(&mut self, conn: ConnId) {
        self.outstanding.remove(&ConnId(conn.0 & !1));
    }

    /// What is done to a frame that `conn` sends between these machines.
    pub(super) fn effect_on(
        &mut self,
        conn: ConnId,
        is_request: bool,
        frame: &[u8],
        [from, to]: [&Arc<str>; 2],
        now: Time,
    ) -> Option<MessageEffect> {
        let (kind, direction) = if is_request {
            (self.note_request(conn, frame)?, Direction::Request)
        } else {
            (self.match_response(conn, frame)?, Direction::Response)
        };
        let is_among =
            |machines: &Option<Vec<String>>, name: &str| machines.as_ref().is_none_or(|m| m.iter().any(|m| m == name));
        let (id, rule) = self.rules.iter_mut().find(|(_, rule)| {
            rule.kind == kind && rule.direction == direction && is_among(&rule.from, from) && is_among(&rule.to, to)
        })?;
        let (id, effect) = (*id, rule.effect);
        rule.count = rule.count.map(|count| count - 1);
        let is_last = rule.count == Some(0);
        if is_last {
            self.rules.remove(&id);
        }
        self.hits.push(Hit { rule: id, at: now, from: from.clone(), to: to.clone(), is_last });
        if let Some(notify) = &self.notify {
            notify();
        }
        Some(effect)
    }

    fn note_request(&mut self, conn: ConnId, frame: &[u8]) -> Option<i16> {
        let (kind, number) = (self.reader.request)(frame)?;
        self.outstanding.entry(conn).or_default().push_back((number, kind));
        Some(kind)
    }

    /// Responses come in the order of their requests; a request that is passed over had none.
    fn match_response(&mut self, conn: ConnId, frame: &[u8]) -> Option<i16> {
        let number = (self.reader.response)(frame)?;
        let outstanding = self.outstanding.get_mut(&ConnId(conn.0 & !1))?;
        let at = outstanding.iter().position(|(of, _)| *of == number)?;
        outstanding.drain(..=at).next_back().map(|(_, kind)| kind)
    }
}
