//! An honest log for property tests: producers with several sends in flight, consumers that assign or
//! subscribe, transactions read committed, rebalances, unknown outcomes. What its clients do is drawn by
//! proptest; the history that comes out has no anomaly, or only what a rebalance explains.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use serde_json::Value as Json;

use crate::history::{EventType, Function, HistoryEvent, MicroOp, Rebalance, Records, Value};

/// The process of the final read.
pub const FINAL_READER: i64 = 1_000;

/// Offsets are so far apart, so that anomalies can be planted between them.
pub const OFFSET_STEP: i64 = 10;

const CLIENTS: usize = 4;
const KEYS: usize = 3;

/// How an operation ends, and whether it happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Ok,
    /// Acknowledged without offset.
    OkSomewhere,
    Fail,
    /// Nobody knows; it happened.
    InfoApplied,
    /// Nobody knows; of several values sent only the first was appended. A transaction aborts.
    InfoPartly,
    InfoNot,
}

/// What a client does next. Keys are bit sets or lists of numbers, taken modulo what exists.
#[derive(Clone, Debug)]
pub enum Action {
    Send { client: usize, keys: Vec<usize>, again: bool, fate: Fate },
    Poll { client: usize, records_max: usize, rebalanced: Option<usize>, offsets: bool, fate: Fate },
    Txn { client: usize, keys: Vec<usize>, records_max: usize, fate: Fate },
    Apply { client: usize },
    Complete { client: usize },
    Assign { client: usize, keys: usize, seek: bool, fate: Fate },
    Subscribe { client: usize, keys: usize, fate: Fate },
    Crash { client: usize },
}

/// Which part of the history is told, and how.
#[derive(Clone, Copy, Debug)]
pub struct Telling {
    /// With invocations; otherwise completions only.
    pub invocations: bool,
    /// Completions of failed and unknown operations say what they sent.
    pub values_of_failures: bool,
}

/// Everything that decides on a history.
#[derive(Clone, Debug)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub telling: Telling,
    pub base_offset: i64,
}

pub fn plans(subscribes: bool) -> impl Strategy<Value = Plan> {
    let actions = prop::collection::vec(action(subscribes), 0..90);
    let telling = (prop::bool::weighted(0.8), prop::bool::weighted(0.8))
        .prop_map(|(invocations, values)| Telling { invocations, values_of_failures: values || !invocations });
    (actions, telling, prop_oneof![Just(0i64), Just(1 << 40)]).prop_map(|(actions, telling, base_offset)| Plan {
        actions,
        telling,
        base_offset,
    })
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Ok),
        1 => Just(Fate::OkSomewhere),
        2 => Just(Fate::Fail),
        1 => Just(Fate::InfoApplied),
        1 => Just(Fate::InfoPartly),
        1 => Just(Fate::InfoNot),
    ]
}

fn action(subscribes: bool) -> impl Strategy<Value = Action> {
    let client = 0..CLIENTS;
    let keys = prop::collection::vec(0..KEYS, 1..4);
    let key_set = 1usize..1 << KEYS;
    let rebalanced = if subscribes { prop::option::weighted(0.3, 0..KEYS).boxed() } else { Just(None).boxed() };
    prop_oneof![
        5 => (client.clone(), keys.clone(), prop::bool::weighted(0.3), fate())
            .prop_map(|(client, keys, again, fate)| Action::Send { client, keys, again, fate }),
        5 => (client.clone(), 0usize..5, rebalanced, prop::bool::weighted(0.8), fate()).prop_map(
            |(client, records_max, rebalanced, offsets, fate)| Action::Poll {
                client, records_max, rebalanced, offsets, fate
            }
        ),
        4 => (client.clone(), keys, 0usize..4, fate())
            .prop_map(|(client, keys, records_max, fate)| Action::Txn { client, keys, records_max, fate }),
        4 => client.clone().prop_map(|client| Action::Apply { client }),
        6 => client.clone().prop_map(|client| Action::Complete { client }),
        1 => (client.clone(), key_set.clone(), any::<bool>(), fate())
            .prop_map(|(client, keys, seek, fate)| Action::Assign { client, keys, seek, fate }),
        u32::from(subscribes) => (client.clone(), key_set, fate())
            .prop_map(|(client, keys, fate)| Action::Subscribe { client, keys, fate }),
        1 => client.prop_map(|client| Action::Crash { client }),
    ]
}

/// One place in a log.
enum Slot {
    Record {
        value: Json,
        txn: Option<usize>,
    },
    /// A transaction's marker.
    Control,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TxnState {
    Open,
    Committed,
    Aborted,
}

/// An operation under way.
struct Pending {
    f: Function,
    fate: Fate,
    sends: Vec<(usize, Json)>,
    /// Offsets once appended, in the order of `sends`.
    offsets: Vec<Option<i64>>,
    poll: Option<PollPlan>,
    polled: Records,
    rebalance_log: Vec<Rebalance>,
    /// Of a transaction, once it has begun to write.
    txn: Option<usize>,
    is_applied: bool,
    /// Where the consumer stood before the operation.
    before: BTreeMap<usize, usize>,
}

#[derive(Clone, Copy)]
struct PollPlan {
    records_max: usize,
    rebalanced: Option<usize>,
    offsets: bool,
}

struct Client {
    process: i64,
    in_flight: VecDeque<Pending>,
    is_subscribed: bool,
    /// Assigned key -> slot of the next record.
    positions: BTreeMap<usize, usize>,
    /// Sent without success.
    failed: Vec<(usize, Json)>,
}

/// The simulation: logs, transactions, clients, and what they tell.
struct Simulation {
    telling: Telling,
    base_offset: i64,
    logs: [Vec<Slot>; KEYS],
    txns: Vec<TxnState>,
    clients: Vec<Client>,
    /// Committed positions of the one group.
    committed: BTreeMap<usize, usize>,
    processes: i64,
    values: u64,
    history: Vec<HistoryEvent>,
}

/// The history of a plan. It begins with a little of everything, so that whatever one wants to spoil is there,
/// and ends with a full read from the beginning.
pub fn history(plan: &Plan) -> Vec<HistoryEvent> {
    let clients = (0..CLIENTS as i64).map(Client::new).collect();
    let mut simulation = Simulation {
        telling: plan.telling,
        base_offset: plan.base_offset,
        logs: std::array::from_fn(|_| Vec::new()),
        txns: Vec::new(),
        clients,
        committed: BTreeMap::new(),
        processes: CLIENTS as i64,
        values: 0,
        history: Vec::new(),
    };
    let fate = Fate::Ok;
    let poll = |client| Action::Poll { client, records_max: 3, rebalanced: None, offsets: true, fate };
    for action in [
        Action::Assign { client: 1, keys: 1, seek: false, fate },
        Action::Send { client: 0, keys: vec![0, 0, 0], again: false, fate },
        Action::Complete { client: 0 },
        poll(1),
        Action::Complete { client: 1 },
        Action::Send { client: 0, keys: vec![0], again: false, fate },
        Action::Send { client: 0, keys: vec![0, 1], again: false, fate },
        Action::Txn { client: 2, keys: vec![0, 2], records_max: 2, fate },
        Action::Complete { client: 0 },
        Action::Complete { client: 0 },
        Action::Complete { client: 2 },
        poll(1),
        Action::Complete { client: 1 },
        Action::Send { client: 3, keys: vec![1], again: false, fate: Fate::Fail },
        Action::Complete { client: 3 },
    ] {
        simulation.act(&action);
    }
    for action in &plan.actions {
        simulation.act(action);
    }
    (0..CLIENTS).for_each(|client| simulation.complete_all(client));
    simulation.read_everything();
    simulation.history
}

pub fn key_name(key: usize) -> String {
    format!("orders-{key}")
}

impl Client {
    fn new(process: i64) -> Client {
        let positions = (0..KEYS).map(|key| (key, 0)).collect();
        Client { process, in_flight: VecDeque::new(), is_subscribed: false, positions, failed: Vec::new() }
    }
}

impl Pending {
    fn new(f: Function, fate: Fate, sends: Vec<(usize, Json)>, poll: Option<PollPlan>) -> Pending {
        let offsets = vec![None; sends.len()];
        Pending {
            f,
            fate,
            sends,
            offsets,
            poll,
            polled: Records::new(),
            rebalance_log: Vec::new(),
            txn: None,
            is_applied: false,
            before: BTreeMap::new(),
        }
    }

    fn kind(&self) -> EventType {
        match self.fate {
            Fate::Ok | Fate::OkSomewhere => EventType::Ok,
            Fate::Fail => EventType::Fail,
            Fate::InfoApplied | Fate::InfoPartly | Fate::InfoNot => EventType::Info,
        }
    }
}

impl Simulation {
    fn act(&mut self, action: &Action) {
        match action {
            Action::Send { client, keys, again, fate } => {
                if self.clients[*client].in_flight.iter().any(|pending| pending.f != Function::Send) {
                    self.complete_all(*client);
                }
                let mut sends: Vec<(usize, Json)> = keys.iter().map(|key| (*key, self.fresh_value())).collect();
                if let Some(failed) = self.clients[*client].failed.pop().filter(|_| *again) {
                    sends.insert(0, failed);
                }
                self.begin(*client, Pending::new(Function::Send, *fate, sends, None));
            }
            Action::Poll { client, records_max, rebalanced, offsets, fate } => {
                self.complete_all(*client);
                let rebalanced = rebalanced.filter(|_| self.clients[*client].is_subscribed);
                let poll = PollPlan { records_max: *records_max, rebalanced, offsets: *offsets };
                self.begin(*client, Pending::new(Function::Poll, *fate, Vec::new(), Some(poll)));
            }
            Action::Txn { client, keys, records_max, fate } => {
                self.complete_all(*client);
                let sends = keys.iter().map(|key| (*key, self.fresh_value())).collect();
                let poll = PollPlan { records_max: *records_max, rebalanced: None, offsets: true };
                self.begin(*client, Pending::new(Function::Txn, *fate, sends, Some(poll)));
            }
            Action::Apply { client } => {
                let oldest = self.clients[*client].in_flight.iter().position(|pending| !pending.is_applied);
                if let Some(at) = oldest {
                    self.apply(*client, at);
                }
            }
            Action::Complete { client } => self.complete(*client),
            Action::Assign { client, keys, seek, fate } => self.assign(*client, *keys, *seek, *fate),
            Action::Subscribe { client, keys, fate } => self.subscribe(*client, *keys, *fate),
            Action::Crash { client } => {
                self.complete_all(*client);
                self.tell(*client, EventType::Invoke, Function::Crash, None);
                self.tell(*client, EventType::Info, Function::Crash, None);
                self.end_process(*client);
            }
        }
    }

    fn fresh_value(&mut self) -> Json {
        self.values += 1;
        if self.values.is_multiple_of(5) { Json::from(format!("v{}", self.values)) } else { Json::from(self.values) }
    }

    fn offset(&self, slot: usize) -> i64 {
        self.base_offset + OFFSET_STEP * slot as i64
    }

    fn begin(&mut self, client: usize, pending: Pending) {
        let sends = pending.sends.iter();
        let send = |(key, value): &(usize, Json)| MicroOp::send(key_name(*key), value.clone(), None);
        let mut ops: Vec<MicroOp> = sends.map(send).collect();
        ops.extend(pending.poll.map(|_| MicroOp::Poll { records: Records::new() }));
        self.tell(client, EventType::Invoke, pending.f, Some(Value::Ops(ops)));
        self.clients[client].in_flight.push_back(pending);
    }

    /// The operation's effects, short of a transaction's end.
    fn apply(&mut self, client: usize, at: usize) {
        let mut pending = self.clients[client].in_flight.remove(at).expect("it is in flight");
        pending.is_applied = true;
        if pending.f == Function::Txn {
            self.txns.push(TxnState::Open);
            pending.txn = Some(self.txns.len() - 1);
        }
        let appended = match (pending.txn, pending.fate) {
            (Some(_), _) | (None, Fate::Ok | Fate::OkSomewhere | Fate::InfoApplied) => pending.sends.len(),
            (None, Fate::InfoPartly) => 1,
            (None, Fate::Fail | Fate::InfoNot) => 0,
        };
        for (at, (key, value)) in pending.sends.iter().enumerate().take(appended) {
            pending.offsets[at] = Some(self.offset(self.logs[*key].len()));
            self.logs[*key].push(Slot::Record { value: value.clone(), txn: pending.txn });
        }
        if let Some(plan) = pending.poll {
            pending.before = self.clients[client].positions.clone();
            self.poll(client, &mut pending, plan);
        }
        self.clients[client].in_flight.insert(at, pending);
    }

    fn poll(&mut self, client: usize, pending: &mut Pending, plan: PollPlan) {
        let keys: Vec<usize> = self.clients[client].positions.keys().copied().collect();
        for key in keys {
            self.poll_key(client, key, pending, plan);
        }
        if let Some(key) = plan.rebalanced.filter(|key| self.clients[client].positions.contains_key(key)) {
            let resumed = self.committed.get(&key).copied().unwrap_or(0);
            self.clients[client].positions.insert(key, resumed);
            pending.rebalance_log.push(Rebalance { keys: vec![key_name(key)] });
            self.poll_key(client, key, pending, plan);
        }
    }

    /// Reads up to the first record of an open transaction (the last stable offset), without what was aborted.
    fn poll_key(&mut self, client: usize, key: usize, pending: &mut Pending, plan: PollPlan) {
        let mut position = self.clients[client].positions[&key];
        let mut records = Vec::new();
        while let Some(slot) = self.logs[key].get(position).filter(|_| records.len() < plan.records_max) {
            if let Slot::Record { value, txn } = slot {
                match txn.map(|txn| self.txns[txn]) {
                    None | Some(TxnState::Committed) => {
                        records.push((plan.offsets.then(|| self.offset(position)), value.clone()));
                    }
                    Some(TxnState::Aborted) => {}
                    Some(TxnState::Open) => break,
                }
            }
            position += 1;
        }
        self.clients[client].positions.insert(key, position);
        if !records.is_empty() {
            pending.polled.entry(key_name(key)).or_default().extend(records);
        }
    }

    fn complete_all(&mut self, client: usize) {
        while !self.clients[client].in_flight.is_empty() {
            self.complete(client);
        }
    }

    /// Ends the client's oldest operation.
    fn complete(&mut self, client: usize) {
        match self.clients[client].in_flight.front() {
            None => return,
            Some(pending) if !pending.is_applied => self.apply(client, 0),
            Some(_) => {}
        }
        let pending = self.clients[client].in_flight.pop_front().expect("it is in flight");
        let kind = pending.kind();
        if let Some(txn) = pending.txn {
            self.end_txn(txn, &pending);
        }
        if pending.poll.is_some() {
            self.keep_or_rewind(client, &pending);
        }
        if kind == EventType::Fail {
            self.clients[client].failed.extend(pending.sends.iter().cloned());
        }
        self.tell_completion(client, pending);
        if kind == EventType::Info {
            // What is in flight ends with its old process; it is a new one that goes on.
            self.complete_all(client);
            self.end_process(client);
        }
    }

    fn end_txn(&mut self, txn: usize, pending: &Pending) {
        self.txns[txn] = match pending.fate {
            Fate::Ok | Fate::OkSomewhere | Fate::InfoApplied => TxnState::Committed,
            Fate::Fail | Fate::InfoPartly | Fate::InfoNot => TxnState::Aborted,
        };
        let keys: BTreeSet<usize> = pending.sends.iter().map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.logs[key].push(Slot::Control));
    }

    fn keep_or_rewind(&mut self, client: usize, pending: &Pending) {
        let client = &mut self.clients[client];
        if pending.kind() != EventType::Ok {
            client.positions.clone_from(&pending.before);
        } else if client.is_subscribed {
            self.committed.extend(client.positions.iter().map(|(key, position)| (*key, *position)));
        }
    }

    fn tell_completion(&mut self, client: usize, pending: Pending) {
        let kind = pending.kind();
        let says_offsets = kind != EventType::Fail && pending.fate != Fate::OkSomewhere;
        let mut ops: Vec<MicroOp> = Vec::new();
        for ((key, value), offset) in pending.sends.iter().zip(&pending.offsets) {
            ops.push(MicroOp::send(key_name(*key), value.clone(), offset.filter(|_| says_offsets)));
        }
        if pending.poll.is_some() {
            ops.push(MicroOp::Poll { records: pending.polled });
        }
        let is_told = kind == EventType::Ok || self.telling.values_of_failures;
        let is_member = self.clients[client].is_subscribed && pending.poll.is_some();
        let offset_of = |(key, position): (&usize, &usize)| (key_name(*key), self.offset(*position));
        let committed: BTreeMap<String, i64> = self.committed.iter().map(offset_of).collect();
        if let Some(event) = self.tell(client, kind, pending.f, is_told.then_some(Value::Ops(ops))) {
            event.rebalance_log = Some(pending.rebalance_log).filter(|log| !log.is_empty());
            event.group = is_member.then(|| "group".to_owned());
            event.committed = is_member.then_some(committed);
        }
    }

    fn assign(&mut self, client: usize, keys: usize, seek: bool, fate: Fate) {
        self.complete_all(client);
        let pending = Pending::new(Function::Assign, fate, Vec::new(), None);
        let names: Vec<String> = bits(keys).map(key_name).collect();
        for kind in [EventType::Invoke, pending.kind()] {
            if let Some(event) = self.tell(client, kind, Function::Assign, Some(Value::Keys(names.clone()))) {
                event.seek_to_beginning = seek.then_some(true);
            }
        }
        match pending.kind() {
            EventType::Ok => {
                let client = &mut self.clients[client];
                let before = std::mem::take(&mut client.positions);
                let kept = |key: usize| before.get(&key).copied().filter(|_| !seek).unwrap_or(0);
                client.positions = bits(keys).map(|key| (key, kept(key))).collect();
                client.is_subscribed = false;
            }
            EventType::Info => self.end_process(client),
            EventType::Fail | EventType::Invoke => {}
        }
    }

    fn subscribe(&mut self, client: usize, keys: usize, fate: Fate) {
        self.complete_all(client);
        let pending = Pending::new(Function::Subscribe, fate, Vec::new(), None);
        let names: Vec<String> = bits(keys).map(key_name).collect();
        for kind in [EventType::Invoke, pending.kind()] {
            self.tell(client, kind, Function::Subscribe, Some(Value::Keys(names.clone())));
        }
        match pending.kind() {
            EventType::Ok => {
                let resumed = |key: usize| self.committed.get(&key).copied().unwrap_or(0);
                self.clients[client].positions = bits(keys).map(|key| (key, resumed(key))).collect();
                self.clients[client].is_subscribed = true;
            }
            EventType::Info => self.end_process(client),
            EventType::Fail | EventType::Invoke => {}
        }
    }

    fn end_process(&mut self, client: usize) {
        self.processes += 1;
        self.clients[client] = Client::new(self.processes);
    }

    /// A fresh consumer reads every key to its end, a few records at a time.
    fn read_everything(&mut self) {
        self.clients.push(Client::new(FINAL_READER));
        let reader = self.clients.len() - 1;
        self.assign(reader, (1 << KEYS) - 1, true, Fate::Ok);
        while (0..KEYS).any(|key| self.clients[reader].positions[&key] < self.logs[key].len()) {
            let poll = PollPlan { records_max: 5, rebalanced: None, offsets: true };
            self.begin(reader, Pending::new(Function::Poll, Fate::Ok, Vec::new(), Some(poll)));
            self.complete(reader);
        }
    }

    /// The event, unless it is not told.
    fn tell(&mut self, client: usize, kind: EventType, f: Function, value: Option<Value>) -> Option<&mut HistoryEvent> {
        if kind == EventType::Invoke && !self.telling.invocations {
            return None;
        }
        let index = 3 * self.history.len() as u64 + 5;
        self.history.push(HistoryEvent {
            index,
            process: self.clients[client].process,
            kind,
            f,
            time: 1_000 * index,
            value,
            error: None,
            seek_to_beginning: None,
            rebalance_log: None,
            group: None,
            committed: None,
        });
        self.history.last_mut()
    }
}

fn bits(keys: usize) -> impl Iterator<Item = usize> {
    (0..KEYS).filter(move |key| keys & (1 << key) != 0)
}
