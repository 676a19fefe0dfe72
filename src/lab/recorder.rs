//! Everything that a run leaves behind, gathered while it runs and kept outside the runtime, so that a
//! panic still reports. Also what state triggers look at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value as Json;
use tokio::sync::Notify;

use super::ghost::Ghost;
use super::groups::Groups;
use super::outcome::{FiredFault, Phase, TraceEvent, TraceKind, Violation};
use crate::history::{EventType, Function, HistoryEvent, MicroOp, Rebalance, Value};
use crate::observe::{Observation, Observer};
use crate::protocol::{Offset, TopicPartition};
use crate::world::Time;

/// Events of the history of one record: sent, and ended.
const HISTORY_PER_RECORD: usize = 2;
/// Events of the trace of one record in a batch of its own, with three replicas and a reader.
const TRACE_PER_RECORD: usize = 11;
/// Beyond so many the trace grows as it must.
const RECORDS_RESERVED_MAX: usize = 100_000;

/// Shared between the supervisor, the workloads and the product's observers.
#[derive(Clone)]
pub struct Recorder {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// How many records of one partition were sent and acknowledged so far.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    pub sent: u64,
    pub acked: u64,
}

#[derive(Default)]
pub struct State {
    pub history: Vec<HistoryEvent>,
    pub trace: Vec<TraceEvent>,
    pub ghost: Ghost,
    /// How many of the ghost's violations are in the trace.
    traced_violations: usize,
    pub groups: Groups,
    pub faults: Vec<FiredFault>,
    pub tallies: BTreeMap<TopicPartition, Tally>,
    /// Workloads that still have something to do, by client name.
    pub busy: Vec<String>,
    /// Workloads stop sending: the scenario's duration is over.
    pub stop_sending: bool,
    /// Partitions whose end the final reader has not reached, once there is one.
    pub unread: Option<BTreeSet<TopicPartition>>,
    /// Administrative requests that have completed, by machine.
    pub admin_done: BTreeMap<String, Result<(), String>>,
    keys: BTreeMap<TopicPartition, String>,
    /// The names of machines, one of each for the whole trace.
    machines: Vec<Arc<str>>,
    processes: i64,
}

/// What a poll of a group's member gave, and what has happened to it since the last one.
pub struct GroupPoll<'a> {
    pub records: &'a [(TopicPartition, Offset, Json)],
    pub rebalanced: Vec<Vec<TopicPartition>>,
    /// What was committed successfully.
    pub committed: BTreeMap<TopicPartition, Offset>,
}

/// A client thread in the history. After an unknown outcome it goes on as a new process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessId(pub i64);

impl Recorder {
    /// `min_insync_replicas`: by topic, what its leader must hold to. `records`: how many will be sent, at most; room for what
    /// is told of them is reserved, because what grows by doubling copies everything into fresh memory time and again.
    pub fn new(min_insync_replicas: BTreeMap<String, usize>, records: usize) -> Recorder {
        let records = records.min(RECORDS_RESERVED_MAX);
        let mut state = State {
            history: Vec::with_capacity(records * HISTORY_PER_RECORD),
            trace: Vec::with_capacity(records * TRACE_PER_RECORD),
            ..State::default()
        };
        state.ghost.min_insync_replicas = min_insync_replicas;
        Recorder { state: Arc::new(Mutex::new(state)), changed: Arc::new(Notify::new()) }
    }

    /// The state; what is changed through it wakes the supervisor only with [`Recorder::notify`].
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn notify(&self) {
        self.changed.notify_one();
    }

    /// Resolves after the next [`Recorder::notify`], or at once if there was one since the last wait.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The sink to hand to the product.
    pub fn observer(&self) -> Observer {
        let recorder = self.clone();
        Arc::new(move |at, machine, observation| {
            let matters = match &observation {
                Observation::PartitionChanged { .. }
                | Observation::Fenced { .. }
                | Observation::BecameLeader { .. }
                | Observation::HighWatermark { as_leader: true, .. }
                | Observation::LogDirFailed { .. }
                | Observation::CleanShutdown => true,
                Observation::LogLoaded { .. }
                | Observation::Appended { .. }
                | Observation::Truncated { .. }
                | Observation::LogStartMoved { .. }
                | Observation::Compacted { .. }
                | Observation::Flushed { .. }
                | Observation::HighWatermark { as_leader: false, .. }
                | Observation::BecameFollower { .. }
                | Observation::IsrView { .. }
                | Observation::Acknowledged { .. }
                | Observation::Refused { .. }
                | Observation::OutOfSequence { .. }
                | Observation::BeyondSegment { .. }
                | Observation::BeforeLogEnd { .. }
                | Observation::Served { .. }
                | Observation::ReferredTo { .. }
                | Observation::LatestOffset { .. }
                | Observation::ProducersExpired { .. }
                | Observation::GroupDeleted { .. }
                | Observation::Downgraded { .. }
                | Observation::Unwatched { .. }
                | Observation::UnawaitedSync { .. }
                | Observation::RefusedJoin { .. }
                | Observation::OffsetExpired { .. }
                | Observation::Unclaimed { .. }
                | Observation::Registered { .. } => false,
            };
            let mut state = recorder.lock();
            if let Observation::PartitionChanged { partition, .. } = &observation
                && !state.ghost.knows(partition)
            {
                state.groups.created(at, partition);
            }
            state.ghost.observe(at, machine, &observation);
            if let Observation::GroupDeleted { group } = &observation {
                state.groups.deleted(at, group);
            }
            if let Observation::OffsetExpired { group, partition, offset, .. } = &observation {
                state.groups.expired(group, partition, *offset);
            }
            state.push(at, machine, TraceKind::Observed(observation));
            state.trace_violations();
            drop(state);
            if matters {
                recorder.notify();
            }
        })
    }

    pub fn phase(&self, at: Time, phase: Phase) {
        self.lock().push(at, "lab", TraceKind::Phase(phase));
    }

    /// A process number nobody had yet, for client `machine`.
    pub fn new_process(&self, at: Time, machine: &str) -> ProcessId {
        let mut state = self.lock();
        let process = state.processes;
        state.processes += 1;
        state.push(at, machine, TraceKind::Process { process });
        ProcessId(process)
    }
}

/// A record as a workload sent it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Unique within its partition.
    pub value: u64,
    pub record_key: Option<String>,
    pub tombstone: bool,
}

impl Sent {
    fn micro_op(&self, key: String, offset: Option<i64>) -> MicroOp {
        let Sent { value, record_key, tombstone } = self;
        MicroOp::Send { key, value: Json::from(*value), offset, record_key: record_key.clone(), tombstone: *tombstone }
    }
}

impl State {
    fn machine(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.machines.iter().find(|known| ***known == *name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.machines.push(name.clone());
        name
    }

    pub fn push(&mut self, at: Time, machine: &str, what: TraceKind) {
        let machine = self.machine(machine);
        self.trace.push(TraceEvent { at, machine, what });
    }

    /// Puts the violations that are not in the trace yet into it.
    pub fn trace_violations(&mut self) {
        while let Some(violation) = self.ghost.violations.get(self.traced_violations) {
            let Violation { name, at, partition, detail } = violation.clone();
            self.push(at, "lab", TraceKind::Violated { name: name.to_owned(), partition, detail });
            self.traced_violations += 1;
        }
    }

    /// `orders-0`, made once per partition.
    pub fn key(&mut self, partition: &TopicPartition) -> String {
        if let Some(key) = self.keys.get(partition) {
            return key.clone();
        }
        let key = partition.to_string();
        self.keys.insert(partition.clone(), key.clone());
        key
    }

    fn event(
        &mut self,
        at: Time,
        process: ProcessId,
        kind: EventType,
        f: Function,
        value: Option<Value>,
    ) -> &mut HistoryEvent {
        let index = self.history.len() as u64;
        self.history.push(HistoryEvent {
            index,
            process: process.0,
            kind,
            f,
            time: at.as_nanos(),
            value,
            error: None,
            seek_to_beginning: None,
            rebalance_log: None,
            group: None,
            committed: None,
        });
        self.history.last_mut().expect("just pushed")
    }

    pub fn send_invoked(
        &mut self,
        at: Time,
        machine: &str,
        process: ProcessId,
        partition: &TopicPartition,
        sent: &Sent,
    ) {
        let key = self.key(partition);
        self.tallies.entry(partition.clone()).or_default().sent += 1;
        self.push(at, machine, TraceKind::Sent { partition: key.clone(), value: sent.value });
        let op = sent.micro_op(key, None);
        self.event(at, process, EventType::Invoke, Function::Send, Some(Value::Ops(vec![op])));
    }

    /// Acknowledged, at `offset` where it is known; with acks=0 nothing was promised.
    #[allow(clippy::too_many_arguments)] // one completion
    pub fn send_acked(
        &mut self,
        at: Time,
        machine: &str,
        process: ProcessId,
        partition: &TopicPartition,
        sent: &Sent,
        offset: Option<Offset>,
        is_promise: bool,
    ) {
        let key = self.key(partition);
        let offset = offset.map(|o| o.0);
        let kind = if is_promise { EventType::Ok } else { EventType::Info };
        // With acks=0 the producer counts a record as done once it is handed to the network; so do triggers.
        self.tallies.entry(partition.clone()).or_default().acked += 1;
        if is_promise {
            self.push(at, machine, TraceKind::Acked { partition: key.clone(), value: sent.value, offset });
        } else {
            let error = "acks=0".to_owned();
            self.push(at, machine, TraceKind::Unknown { partition: key.clone(), value: sent.value, error });
        }
        let op = sent.micro_op(key, offset);
        self.event(at, process, kind, Function::Send, Some(Value::Ops(vec![op])));
    }

    /// Not acknowledged: definitely not appended, or unknown.
    #[allow(clippy::too_many_arguments)] // one completion
    pub fn send_lost_contact(
        &mut self,
        at: Time,
        machine: &str,
        process: ProcessId,
        partition: &TopicPartition,
        sent: &Sent,
        error: &str,
        definite: bool,
    ) {
        let key = self.key(partition);
        let (kind, trace) = if definite {
            (EventType::Fail, TraceKind::Failed { partition: key.clone(), value: sent.value, error: error.to_owned() })
        } else {
            (EventType::Info, TraceKind::Unknown { partition: key.clone(), value: sent.value, error: error.to_owned() })
        };
        self.push(at, machine, trace);
        let op = sent.micro_op(key, None);
        self.event(at, process, kind, Function::Send, Some(Value::Ops(vec![op]))).error = Some(error.to_owned());
    }

    pub fn assigned(&mut self, at: Time, process: ProcessId, partitions: &[TopicPartition], seek_to_beginning: bool) {
        let keys: Vec<String> = partitions.iter().map(|p| self.key(p)).collect();
        for kind in [EventType::Invoke, EventType::Ok] {
            let event = self.event(at, process, kind, Function::Assign, Some(Value::Keys(keys.clone())));
            event.seek_to_beginning = seek_to_beginning.then_some(true);
        }
    }

    pub fn polled(&mut self, at: Time, process: ProcessId, records: &[(TopicPartition, Offset, Json)]) {
        let mut by_key: indexmap::IndexMap<String, Vec<(Option<i64>, Json)>> = indexmap::IndexMap::new();
        for (partition, offset, value) in records {
            by_key.entry(self.key(partition)).or_default().push((Some(offset.0), value.clone()));
        }
        self.event(at, process, EventType::Invoke, Function::Poll, None);
        let op = MicroOp::Poll { records: by_key };
        self.event(at, process, EventType::Ok, Function::Poll, Some(Value::Ops(vec![op])));
    }

    /// A member of a group begins to read these partitions together with the others.
    pub fn subscribed(&mut self, at: Time, process: ProcessId, partitions: &[TopicPartition], group: &str) {
        let keys: Vec<String> = partitions.iter().map(|p| self.key(p)).collect();
        for kind in [EventType::Invoke, EventType::Ok] {
            let event = self.event(at, process, kind, Function::Subscribe, Some(Value::Keys(keys.clone())));
            event.group = Some(group.to_owned());
        }
    }

    pub fn polled_as_member(&mut self, at: Time, process: ProcessId, poll: GroupPoll<'_>) {
        let GroupPoll { records, rebalanced, committed } = poll;
        self.polled(at, process, records);
        let rebalanced: Vec<Rebalance> = rebalanced
            .iter()
            .map(|partitions| Rebalance { keys: partitions.iter().map(|p| self.key(p)).collect() })
            .collect();
        let committed: BTreeMap<String, i64> =
            committed.iter().map(|(partition, offset)| (self.key(partition), offset.0)).collect();
        let event = self.history.last_mut().expect("the poll just recorded");
        event.rebalance_log = (!rebalanced.is_empty()).then_some(rebalanced);
        event.committed = (!committed.is_empty()).then_some(committed);
    }

    /// Sum over a topic's partitions, or one partition's tally (`orders` or `orders-0`).
    pub fn tally(&self, of: &str) -> Tally {
        let mut sum = Tally::default();
        for (partition, tally) in &self.tallies {
            if partition.is_of(of) {
                sum.sent += tally.sent;
                sum.acked += tally.acked;
            }
        }
        sum
    }
}
