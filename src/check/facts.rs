//! A history in compact form: keys and values interned, completions with their records, who wrote and who
//! read each value. Built in one pass; everything the detectors ask is an index away.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::history::{EventType, Function, HistoryEvent, MicroOp};

/// Position of a key in [`Facts::keys`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyId(pub u32);

/// Position of a (key, value) in [`Facts::values`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ValueId(pub u32);

/// Position of a completion in [`Facts::ops`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpId(pub u32);

/// A value at an offset, as one operation saw or placed it.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub key: KeyId,
    pub value: ValueId,
    pub offset: Option<i64>,
}

/// A completion. Its records are grouped by key, in the operation's order within a key.
pub struct Op<'a> {
    pub event: &'a HistoryEvent,
    sends: Range<usize>,
    polls: Range<usize>,
    /// Where in the history the completion is.
    pub position: usize,
    /// Where its invocation is, if the history has one.
    pub invoked: Option<usize>,
}

impl Op<'_> {
    /// Where in the history the operation began, as far as is known.
    pub fn began(&self) -> usize {
        self.invoked.unwrap_or(self.position)
    }
}

/// What is known of one value of one key.
pub struct ValueFacts<'a> {
    pub key: KeyId,
    pub value: &'a serde_json::Value,
    /// The record's own key, if a send says it.
    pub record_key: Option<&'a str>,
    /// It deletes the record key.
    pub is_tombstone: bool,
    /// The completion that sent it: an ok one if there is any, then an info one, then a failed one.
    pub writer: Option<OpId>,
    /// First event that mentions sending it, invocations included: a position in the history.
    pub sent_at: Option<usize>,
    /// Last invocation that mentions sending it.
    invoked: Option<usize>,
    /// An invocation that mentions sending it has no completion: how that ended, nobody knows.
    pub has_open_send: bool,
    /// First ok operation that read it.
    pub reader: Option<OpId>,
    /// First operation of any outcome that read it.
    pub any_reader: Option<OpId>,
}

/// The compact history.
pub struct Facts<'a> {
    pub keys: Vec<&'a str>,
    pub values: Vec<ValueFacts<'a>>,
    pub ops: Vec<Op<'a>>,
    /// Per operation: it happened for certain (see checkers.md, "must have committed").
    committed: Vec<bool>,
    sends: Vec<Record>,
    polls: Vec<Record>,
    key_ids: FxHashMap<&'a str, KeyId>,
    value_ids: FxHashMap<(KeyId, &'a serde_json::Value), ValueId>,
}

/// Invocations of one process that have no completion yet, as positions in the history. A producer has
/// several sends in flight.
#[derive(Default)]
struct Open {
    sending: BTreeSet<usize>,
    /// Polls, and transactions that only poll.
    polling: BTreeSet<usize>,
}

impl<'a> Facts<'a> {
    pub fn of(history: &'a [HistoryEvent]) -> Facts<'a> {
        let mut facts = Facts {
            keys: Vec::new(),
            values: Vec::new(),
            ops: Vec::new(),
            committed: Vec::new(),
            sends: Vec::new(),
            polls: Vec::new(),
            key_ids: FxHashMap::default(),
            value_ids: FxHashMap::default(),
        };
        let mut open: BTreeMap<i64, Open> = BTreeMap::new();
        for (position, event) in history.iter().enumerate() {
            if !is_transactional(event) {
                if event.kind != EventType::Invoke {
                    facts.add_completion(position, event, None, &[]);
                }
                continue;
            }
            let open = open.entry(event.process).or_default();
            match event.kind {
                EventType::Invoke => facts.add_invocation(position, event, open),
                EventType::Ok | EventType::Fail | EventType::Info => {
                    let invoked = facts.invocation_of(event, open, history);
                    // A completion that says nothing of its sends is that of what was invoked.
                    let silent = event.value.is_none() && event.kind != EventType::Ok;
                    let ops = match invoked.filter(|_| silent) {
                        Some(invoked) => history[invoked].ops(),
                        None => event.ops(),
                    };
                    facts.add_completion(position, event, invoked, ops);
                }
            }
        }
        for position in open.values().flat_map(|open| &open.sending) {
            facts.note_unknown_sends(&history[*position]);
        }
        facts.committed = facts.ops.iter().map(|op| facts.must_have_committed(op)).collect();
        facts
    }

    pub fn key(&self, id: KeyId) -> &'a str {
        self.keys[id.0 as usize]
    }

    /// The key of this name, if the history sends to it or polls from it.
    pub fn key_id(&self, name: &str) -> Option<KeyId> {
        self.key_ids.get(name).copied()
    }

    pub fn value(&self, id: ValueId) -> &ValueFacts<'a> {
        &self.values[id.0 as usize]
    }

    pub fn op(&self, id: OpId) -> &Op<'a> {
        &self.ops[id.0 as usize]
    }

    /// An operation's index as the history has it.
    pub fn index(&self, id: OpId) -> u64 {
        self.op(id).event.index
    }

    pub fn op_ids(&self) -> impl Iterator<Item = OpId> + use<> {
        (0..self.ops.len() as u32).map(OpId)
    }

    pub fn sends(&self, op: &Op<'a>) -> &[Record] {
        &self.sends[op.sends.clone()]
    }

    pub fn polls(&self, op: &Op<'a>) -> &[Record] {
        &self.polls[op.polls.clone()]
    }

    /// An ok operation; or an info operation of which at least one sent value was read by an ok one.
    pub fn is_committed(&self, op: OpId) -> bool {
        self.committed[op.0 as usize]
    }

    fn must_have_committed(&self, op: &Op<'a>) -> bool {
        match op.event.kind {
            EventType::Ok => true,
            EventType::Info => self.sends(op).iter().any(|record| self.value(record.value).reader.is_some()),
            EventType::Invoke | EventType::Fail => false,
        }
    }

    fn add_invocation(&mut self, position: usize, event: &'a HistoryEvent, open: &mut Open) {
        let mut is_sending = false;
        for micro_op in event.ops() {
            if let MicroOp::Send { key, value, .. } = micro_op {
                let key = self.intern_key(key);
                let id = self.intern_value(key, value);
                let facts = &mut self.values[id.0 as usize];
                facts.sent_at.get_or_insert(position);
                facts.invoked = Some(position);
                is_sending = true;
            }
        }
        if is_sending {
            open.sending.insert(position)
        } else {
            open.polling.insert(position)
        };
    }

    /// The invocation of a completion: the last one of its process that names its first sent value;
    /// without sends the process's last open one without. A completion that names nothing belongs to the
    /// only open one.
    fn invocation_of(&mut self, event: &'a HistoryEvent, open: &mut Open, history: &[HistoryEvent]) -> Option<usize> {
        let first_sent = event.ops().iter().find_map(|micro_op| match micro_op {
            MicroOp::Send { key, value, .. } => Some((key, value)),
            MicroOp::Poll { .. } => None,
        });
        if let Some((key, value)) = first_sent {
            let key = self.intern_key(key);
            let id = self.intern_value(key, value);
            let named = self.values[id.0 as usize].invoked.filter(|position| open.sending.remove(position));
            if named.is_some() {
                return named;
            }
        }
        let same_f = |position: &usize| history[*position].f == event.f;
        let polling = open.polling.iter().next_back().copied().filter(same_f);
        if let Some(position) = polling {
            open.polling.remove(&position);
            return polling;
        }
        let only = open.sending.first().copied().filter(|_| open.sending.len() == 1).filter(same_f);
        only.filter(|position| first_sent.is_none() && open.sending.remove(position))
    }

    fn add_completion(
        &mut self,
        position: usize,
        event: &'a HistoryEvent,
        invoked: Option<usize>,
        micro_ops: &'a [MicroOp],
    ) {
        let id = OpId(self.ops.len() as u32);
        let (sends_from, polls_from) = (self.sends.len(), self.polls.len());
        for micro_op in micro_ops {
            match micro_op {
                MicroOp::Send { key, value, offset, record_key, tombstone } => {
                    let key = self.intern_key(key);
                    let record = Record { key, value: self.intern_value(key, value), offset: *offset };
                    let facts = &mut self.values[record.value.0 as usize];
                    facts.sent_at.get_or_insert(position);
                    facts.record_key = record_key.as_deref();
                    facts.is_tombstone = *tombstone;
                    self.add_writer(record.value, id, event.kind);
                    self.sends.push(record);
                }
                MicroOp::Poll { records } => {
                    for (key, pairs) in records {
                        let key = self.intern_key(key);
                        for (offset, value) in pairs {
                            let record = Record { key, value: self.intern_value(key, value), offset: *offset };
                            self.add_reader(record.value, id, event.kind);
                            self.polls.push(record);
                        }
                    }
                }
            }
        }
        group_by_key(&mut self.sends[sends_from..]);
        group_by_key(&mut self.polls[polls_from..]);
        let (sends, polls) = (sends_from..self.sends.len(), polls_from..self.polls.len());
        self.ops.push(Op { event, sends, polls, position, invoked });
    }

    fn note_unknown_sends(&mut self, invocation: &'a HistoryEvent) {
        for micro_op in invocation.ops() {
            if let MicroOp::Send { key, value, .. } = micro_op {
                let key = self.intern_key(key);
                let id = self.intern_value(key, value);
                self.values[id.0 as usize].has_open_send = true;
            }
        }
    }

    fn add_writer(&mut self, value: ValueId, op: OpId, kind: EventType) {
        let rank = |kind: EventType| match kind {
            EventType::Ok => 2,
            EventType::Info => 1,
            EventType::Fail | EventType::Invoke => 0,
        };
        // The operation that is being added is not in `ops` yet.
        let kept = self.values[value.0 as usize].writer.filter(|writer| {
            let writer_kind = if *writer == op { kind } else { self.op(*writer).event.kind };
            rank(writer_kind) > rank(kind)
        });
        self.values[value.0 as usize].writer = kept.or(Some(op));
    }

    fn add_reader(&mut self, value: ValueId, op: OpId, kind: EventType) {
        let facts = &mut self.values[value.0 as usize];
        facts.any_reader.get_or_insert(op);
        if kind == EventType::Ok {
            facts.reader.get_or_insert(op);
        }
    }

    fn intern_key(&mut self, key: &'a str) -> KeyId {
        let keys = &mut self.keys;
        *self.key_ids.entry(key).or_insert_with(|| {
            keys.push(key);
            KeyId(keys.len() as u32 - 1)
        })
    }

    fn intern_value(&mut self, key: KeyId, value: &'a serde_json::Value) -> ValueId {
        let values = &mut self.values;
        *self.value_ids.entry((key, value)).or_insert_with(|| {
            values.push(ValueFacts {
                key,
                value,
                record_key: None,
                is_tombstone: false,
                writer: None,
                sent_at: None,
                invoked: None,
                has_open_send: false,
                reader: None,
                any_reader: None,
            });
            ValueId(values.len() as u32 - 1)
        })
    }
}

/// Sends, polls and transactions; the others move or end consumers.
fn is_transactional(event: &HistoryEvent) -> bool {
    match event.f {
        Function::Send | Function::Poll | Function::Txn => true,
        Function::Assign | Function::Subscribe | Function::Crash => false,
    }
}

fn group_by_key(records: &mut [Record]) {
    if records.windows(2).any(|pair| pair[0].key > pair[1].key) {
        records.sort_by_key(|record| record.key);
    }
}
