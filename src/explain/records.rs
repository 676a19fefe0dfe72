//! Which batch holds which value: the attempts to send it, the leaders' appends, the acknowledgement, who read it.
//! Positions are indexes into the trace, or into the history where they say so.

use rustc_hash::FxHashMap;
use serde_json::Value as Json;

use crate::history::{EventType, HistoryEvent, MicroOp};
use crate::lab::outcome::{TraceEvent, TraceKind};
use crate::observe::{BatchInfo, Observation};
use crate::protocol::{Offset, TopicPartition};

/// What a client did with one value.
#[derive(Clone, Default, Debug)]
pub struct Sending {
    /// The send, as the application made it.
    pub sent: usize,
    /// The CRC of the batch that carries it, and its place in there; `None` if it never went out.
    pub batch: Option<(u32, usize)>,
    /// How it ended: acknowledged, failed, unknown.
    pub outcome: Option<usize>,
    /// The producer was promised that it is there.
    pub is_acknowledged: bool,
    /// The offset in the acknowledgement.
    pub offset: Option<i64>,
}

/// A leader's append of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Append {
    pub at: usize,
    pub batch: BatchInfo,
}

/// The first successful read of a value.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Index in the history.
    pub event: usize,
    pub process: i64,
    pub offset: Option<i64>,
}

/// Built in one pass over the trace and one over the history; looked up, never iterated.
#[derive(Default)]
pub struct Records<'a> {
    partitions: FxHashMap<&'a str, u32>,
    sendings: FxHashMap<(u32, u64), Sending>,
    /// Batches with the records of an earlier one, whose idempotent producer has begun a new epoch: its CRC.
    restated: FxHashMap<(u32, u32), u32>,
    /// By partition and CRC: the sends of a batch, and the failures that led to another.
    attempts: FxHashMap<(u32, u32), Vec<usize>>,
    /// By partition and CRC.
    appends: FxHashMap<(u32, u32), Vec<Append>>,
    reads: FxHashMap<(&'a str, &'a Json), Read>,
    clients: FxHashMap<i64, &'a str>,
}

impl<'a> Records<'a> {
    pub fn of(trace: &'a [TraceEvent], history: &'a [HistoryEvent]) -> Records<'a> {
        let mut records = Records::default();
        for event in trace {
            if let TraceKind::Sent { partition, .. } = &event.what {
                let next = records.partitions.len() as u32;
                records.partitions.entry(partition).or_insert(next);
            }
        }
        let mut ids: FxHashMap<&TopicPartition, Option<u32>> = FxHashMap::default();
        for (at, event) in trace.iter().enumerate() {
            if let TraceKind::Observed(Observation::Appended { partition, as_leader: true, batches, .. }) = &event.what
            {
                let id = *ids.entry(partition).or_insert_with(|| records.id(&partition.to_string()));
                let Some(id) = id else { continue };
                for batch in batches {
                    let crc = records.first_crc(id, batch.crc);
                    records.appends.entry((id, crc)).or_default().push(Append { at, batch: *batch });
                }
            } else {
                records.note(at, event);
            }
        }
        records.note_reads(history);
        records
    }

    fn note_reads(&mut self, history: &'a [HistoryEvent]) {
        for (index, event) in history.iter().enumerate().filter(|(_, event)| event.kind == EventType::Ok) {
            for op in event.ops() {
                let MicroOp::Poll { records: polled } = op else { continue };
                for (key, values) in polled {
                    for (offset, value) in values {
                        let read = Read { event: index, process: event.process, offset: *offset };
                        self.reads.entry((key, value)).or_insert(read);
                    }
                }
            }
        }
    }

    fn note(&mut self, at: usize, event: &'a TraceEvent) {
        match &event.what {
            TraceKind::Sent { partition, value } => {
                let Some(id) = self.id(partition) else { return };
                self.sendings.insert((id, *value), Sending { sent: at, ..Sending::default() });
            }
            TraceKind::BatchSent { partition, crc, values, restated, .. } => {
                let Some(id) = self.id(partition) else { return };
                if *restated
                    && let Some(before) = values.iter().find_map(|value| self.sendings.get(&(id, *value))?.batch)
                {
                    self.restated.insert((id, *crc), before.0);
                }
                let crc = self.first_crc(id, *crc);
                self.attempts.entry((id, crc)).or_default().push(at);
                for (place, value) in values.iter().enumerate() {
                    if let Some(sending) = self.sendings.get_mut(&(id, *value)) {
                        sending.batch = Some((crc, place));
                    }
                }
            }
            TraceKind::BatchRetried { partition, crc, .. } => {
                let Some(id) = self.id(partition) else { return };
                let crc = self.first_crc(id, *crc);
                self.attempts.entry((id, crc)).or_default().push(at);
            }
            TraceKind::Acked { partition, value, offset } => self.ended(partition, *value, at, true, *offset),
            TraceKind::Failed { partition, value, .. } | TraceKind::Unknown { partition, value, .. } => {
                self.ended(partition, *value, at, false, None);
            }
            TraceKind::Process { process } => {
                self.clients.insert(*process, &event.machine);
            }
            TraceKind::Observed(_)
            | TraceKind::PositionReset { .. }
            | TraceKind::ReadFailed { .. }
            | TraceKind::Joined { .. }
            | TraceKind::Violated { .. }
            | TraceKind::FaultStarted { .. }
            | TraceKind::FaultEnded { .. }
            | TraceKind::FaultHit { .. }
            | TraceKind::Started
            | TraceKind::Stopped { .. }
            | TraceKind::Phase(_) => {}
        }
    }

    fn ended(&mut self, partition: &str, value: u64, at: usize, is_acknowledged: bool, offset: Option<i64>) {
        let Some(id) = self.id(partition) else { return };
        if let Some(sending) = self.sendings.get_mut(&(id, value)) {
            (sending.outcome, sending.is_acknowledged, sending.offset) = (Some(at), is_acknowledged, offset);
        }
    }

    /// The CRC under which a batch was sent first.
    fn first_crc(&self, partition: u32, crc: u32) -> u32 {
        self.restated.get(&(partition, crc)).copied().unwrap_or(crc)
    }

    fn id(&self, partition: &str) -> Option<u32> {
        self.partitions.get(partition).copied()
    }

    pub fn sending(&self, partition: &str, value: &Json) -> Option<&Sending> {
        self.sendings.get(&(self.id(partition)?, value.as_u64()?))
    }

    /// Attempts to send the batch that carries a value, in order: `BatchSent` and `BatchRetried`.
    pub fn attempts(&self, partition: &str, sending: &Sending) -> &[usize] {
        let key = self.id(partition).zip(sending.batch.map(|(crc, _)| crc));
        key.and_then(|key| self.attempts.get(&key)).map_or(&[], Vec::as_slice)
    }

    /// A value's appends by leaders, in order, each with the value's own offset. Where a broker changes a batch as it
    /// appends it, there is none.
    pub fn appends(&self, partition: &str, sending: &Sending) -> Vec<(Append, Offset)> {
        let Some((crc, place)) = sending.batch else { return Vec::new() };
        let appends = self.id(partition).and_then(|id| self.appends.get(&(id, crc)));
        let appends = appends.map_or(&[] as &[Append], Vec::as_slice).iter();
        appends.map(|append| (*append, append.batch.base_offset + place as i64)).collect()
    }

    pub fn read(&self, partition: &'a str, value: &'a Json) -> Option<Read> {
        self.reads.get(&(partition, value)).copied()
    }

    /// The machine that a process of the history runs on.
    pub fn client(&self, process: i64) -> String {
        self.clients.get(&process).map_or_else(|| format!("process {process}"), |name| (*name).to_owned())
    }
}
