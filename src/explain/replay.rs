//! One partition replayed from the trace, event by event: the controller's view, and what every replica's log holds.
//!
//! With foresight: a replica that loses power holds from that moment what it will come back with.

use std::collections::BTreeMap;

use crate::check::broker_of;
use crate::lab::outcome::{TraceEvent, TraceKind};
use crate::observe::{BatchInfo, Observation};
use crate::protocol::{BrokerId, LeaderEpoch, Offset, TopicPartition};

/// One replica's log.
#[derive(Clone, Debug)]
pub struct Replica {
    pub batches: Vec<BatchInfo>,
    pub log_start: Offset,
    pub log_end: Offset,
    /// Everything below is on the disk, as far as the trace says.
    pub flushed: Offset,
    /// It lost power and has not loaded its log since.
    pub is_dark: bool,
    /// Its process runs.
    pub is_up: bool,
}

impl Default for Replica {
    fn default() -> Replica {
        Replica {
            batches: Vec::new(),
            log_start: Offset::ZERO,
            log_end: Offset::ZERO,
            flushed: Offset::ZERO,
            is_dark: false,
            is_up: true,
        }
    }
}

impl Replica {
    pub fn has(&self, batch: &BatchInfo) -> bool {
        let at = self.batches.partition_point(|b| b.base_offset < batch.base_offset);
        self.batches.get(at) == Some(batch)
    }
}

/// What the controller committed last, and every replica's log.
#[derive(Clone, Debug)]
pub struct Replay<'a> {
    trace: &'a [TraceEvent],
    pub partition: &'a TopicPartition,
    pub replicas: BTreeMap<BrokerId, Replica>,
    /// [`BrokerId::NONE`] if there is none.
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub isr: Vec<BrokerId>,
    /// The last that a leader stated.
    pub high_watermark: Offset,
}

impl<'a> Replay<'a> {
    pub fn new(trace: &'a [TraceEvent], partition: &'a TopicPartition) -> Replay<'a> {
        Replay {
            trace,
            partition,
            replicas: BTreeMap::new(),
            leader: BrokerId::NONE,
            leader_epoch: LeaderEpoch::NONE,
            isr: Vec::new(),
            high_watermark: Offset::ZERO,
        }
    }

    /// Brokers whose log holds `batch`, in order.
    pub fn holders(&self, batch: &BatchInfo) -> Vec<BrokerId> {
        self.replicas.iter().filter(|(_, replica)| replica.has(batch)).map(|(id, _)| *id).collect()
    }

    pub fn has(&self, broker: BrokerId, batch: &BatchInfo) -> bool {
        self.replicas.get(&broker).is_some_and(|replica| replica.has(batch))
    }

    pub fn log_end(&self, broker: BrokerId) -> Offset {
        self.replicas.get(&broker).map_or(Offset::ZERO, |replica| replica.log_end)
    }

    pub fn flushed(&self, broker: BrokerId) -> Offset {
        self.replicas.get(&broker).map_or(Offset::ZERO, |replica| replica.flushed)
    }

    /// Applies event number `at` of the trace.
    pub fn step(&mut self, at: usize) {
        let trace = self.trace;
        let event = &trace[at];
        match &event.what {
            TraceKind::Observed(observation) => self.observe(event, observation),
            TraceKind::Started => {
                if let Some(replica) = self.known(event) {
                    replica.is_up = true;
                }
            }
            TraceKind::Stopped { power_lost } => {
                let kept = power_lost.then(|| self.comes_back_with(at));
                let Some(replica) = self.known(event) else { return };
                replica.is_up = false;
                if let Some(kept) = kept {
                    replica.is_dark = true;
                    match kept {
                        Some((batches, log_end)) => (replica.batches, replica.log_end) = (batches, log_end),
                        None => {
                            let flushed = replica.flushed;
                            replica.batches.retain(|b| b.last_offset < flushed);
                        }
                    }
                }
            }
            TraceKind::Sent { .. }
            | TraceKind::BatchSent { .. }
            | TraceKind::BatchRetried { .. }
            | TraceKind::Acked { .. }
            | TraceKind::Failed { .. }
            | TraceKind::Unknown { .. }
            | TraceKind::PositionReset { .. }
            | TraceKind::ReadFailed { .. }
            | TraceKind::Process { .. }
            | TraceKind::Joined { .. }
            | TraceKind::Violated { .. }
            | TraceKind::FaultStarted { .. }
            | TraceKind::FaultEnded { .. }
            | TraceKind::FaultHit { .. }
            | TraceKind::Phase(_) => {}
        }
    }

    fn observe(&mut self, event: &TraceEvent, observation: &Observation) {
        match observation {
            Observation::LogLoaded { partition, batches, log_start, log_end, .. } if partition == self.partition => {
                let Some(replica) = self.replica(event) else { return };
                replica.batches.clone_from(batches);
                (replica.log_start, replica.log_end) = (*log_start, *log_end);
                if replica.is_dark {
                    // What came back from a power loss was on the disk.
                    replica.flushed = *log_end;
                }
                (replica.is_dark, replica.is_up) = (false, true);
            }
            Observation::Appended { partition, batches, .. } if partition == self.partition => {
                let Some(replica) = self.replica(event) else { return };
                replica.batches.extend_from_slice(batches);
                if let Some(last) = batches.last() {
                    replica.log_end = last.last_offset + 1;
                }
            }
            Observation::Truncated { partition, to, .. } if partition == self.partition => {
                let Some(replica) = self.replica(event) else { return };
                let keep = replica.batches.partition_point(|b| b.last_offset < *to);
                replica.batches.truncate(keep);
                replica.log_end = *to;
                replica.flushed = replica.flushed.min(*to);
            }
            Observation::LogStartMoved { partition, to, .. } if partition == self.partition => {
                let Some(replica) = self.replica(event) else { return };
                replica.batches.retain(|b| b.last_offset >= *to);
                replica.log_start = *to;
            }
            // A batch that was rewritten is still the same to this story: its records that were kept are in it.
            Observation::Compacted { partition, from, to, batches, .. } if partition == self.partition => {
                let Some(replica) = self.replica(event) else { return };
                let is_kept = |b: &BatchInfo| {
                    batches.iter().any(|new| new.base_offset <= b.base_offset && b.last_offset <= new.last_offset)
                };
                replica.batches.retain(|b| b.last_offset < *from || b.base_offset >= *to || is_kept(b));
            }
            Observation::Flushed { partition, offset } if partition == self.partition => {
                if let Some(replica) = self.replica(event) {
                    replica.flushed = replica.flushed.max(*offset);
                }
            }
            Observation::HighWatermark { partition, offset, as_leader: true } if partition == self.partition => {
                self.high_watermark = *offset;
            }
            Observation::PartitionChanged { partition, leader, leader_epoch, isr, .. }
                if partition == self.partition =>
            {
                (self.leader, self.leader_epoch) = (*leader, *leader_epoch);
                self.isr.clone_from(isr);
            }
            Observation::BecameLeader { partition, log_end, .. }
            | Observation::BecameFollower { partition, log_end, .. }
                if partition == self.partition =>
            {
                let Some(replica) = self.replica(event) else { return };
                replica.is_up = true;
                // Another disk or log directory: the log that it had is not there.
                if *log_end < replica.log_end {
                    replica.batches.retain(|b| b.last_offset < *log_end);
                    replica.log_end = *log_end;
                    replica.flushed = replica.flushed.min(*log_end);
                }
            }
            Observation::LogLoaded { .. }
            | Observation::LogStartMoved { .. }
            | Observation::Compacted { .. }
            | Observation::Appended { .. }
            | Observation::Truncated { .. }
            | Observation::Flushed { .. }
            | Observation::HighWatermark { .. }
            | Observation::PartitionChanged { .. }
            | Observation::BecameLeader { .. }
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
            | Observation::LogDirFailed { .. }
            | Observation::Registered { .. }
            | Observation::Fenced { .. }
            | Observation::CleanShutdown => {}
        }
    }

    fn replica(&mut self, event: &TraceEvent) -> Option<&mut Replica> {
        broker_of(&event.machine).map(|id| self.replicas.entry(id).or_default())
    }

    fn known(&mut self, event: &TraceEvent) -> Option<&mut Replica> {
        broker_of(&event.machine).and_then(|id| self.replicas.get_mut(&id))
    }

    /// The log that the machine of event `at` loads after it; `None` if it never does.
    fn comes_back_with(&self, at: usize) -> Option<(Vec<BatchInfo>, Offset)> {
        let machine = &self.trace[at].machine;
        self.trace[at + 1..].iter().filter(|event| event.machine == *machine).find_map(|event| match &event.what {
            TraceKind::Observed(Observation::LogLoaded { partition, batches, log_end, .. })
                if partition == self.partition =>
            {
                Some((batches.clone(), *log_end))
            }
            // It came back without that log and begins a new one.
            TraceKind::Observed(
                Observation::BecameLeader { partition, .. } | Observation::BecameFollower { partition, .. },
            ) if partition == self.partition => Some((Vec::new(), Offset::ZERO)),
            _ => None,
        })
    }
}
