//! The trace once more, partition by partition: what each replica held, lost and why, what was committed, who was
//! elected with what.

use std::collections::{BTreeMap, BTreeSet};

use super::disks::Disks;
use super::downgrades::Downgrade;
use super::proposals::Proposals;
use super::registrations::Registrations;
use crate::lab::ghost::{at_base, machine_of, range};
use crate::lab::outcome::{Phase, TraceEvent, TraceKind};
use crate::observe::{BatchInfo, LogStartReason, Observation, TruncationReason};
use crate::protocol::{BrokerId, LeaderEpoch, Offset, TopicPartition};
use crate::scenario::disk::DiskAction;
use crate::scenario::{Action, Fault};
use crate::world::Time;
use crate::world::sim::DiskScope;

/// Why a replica does not hold a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gone {
    NeverHad,
    Truncated(TruncationReason),
    /// Lost power before it was flushed.
    PowerLoss,
    /// Lost power, though it had been flushed.
    FlushedAndLost,
    /// Not found at a start, without any power loss.
    Restart,
    /// Deleted by retention, or at a client's wish.
    Expired,
}

impl Gone {
    pub fn text(self) -> &'static str {
        match self {
            Gone::NeverHad => "never appended",
            Gone::Truncated(TruncationReason::DivergingEpoch) => "truncated to a diverging epoch",
            Gone::Truncated(TruncationReason::OutOfRange) => "truncated as out of range",
            Gone::Truncated(TruncationReason::HighWatermark) => "truncated to the high watermark",
            Gone::PowerLoss => "lost with power",
            Gone::FlushedAndLost => "lost with power although flushed",
            Gone::Restart => "lost at a restart",
            Gone::Expired => "expired",
        }
    }
}

#[derive(Default)]
pub(super) struct Replica {
    pub batches: Vec<BatchInfo>,
    /// Where it begins, for all that is known: its end, if everything has expired.
    expired_to: i64,
    /// Where it began anew when it was cut below where it began: it never gets what its leader has below
    /// (`UnifiedLog.truncateTo`, `truncateFullyAndStartAt`).
    begun_anew_at: i64,
    flushed: i64,
    /// Lost power since it was last loaded.
    power_lost: bool,
    /// Lost power since the controller registered its broker last: a leader may still want it in the ISR for what it
    /// fetched before, and the controller has no reason to refuse (KIP-903).
    loss_is_unheard: bool,
    /// Lost power, or was stopped with a disk that does not keep what it has, while in the ISR, and has been in it ever
    /// since.
    impaired: bool,
    /// The leader epoch in which it leads or follows, by its own belief.
    epoch: Option<LeaderEpoch>,
    leads: bool,
    /// Ranges of offsets that it lost, in order.
    removed: Vec<(Offset, Offset, Gone)>,
}

impl Replica {
    fn log_end(&self) -> Offset {
        self.batches.last().map_or(Offset(self.expired_to), |batch| batch.last_offset + 1)
    }

    /// Up to where it surely holds what it had: without power only what was flushed.
    fn sure_end(&self) -> Offset {
        if self.power_lost { self.log_end().min(Offset(self.flushed)) } else { self.log_end() }
    }

    /// Why it does not hold `offset`.
    pub fn gone(&self, offset: Offset) -> Gone {
        self.gone_to(offset).0
    }

    /// The same, and up to where it lost records with this one.
    fn gone_to(&self, offset: Offset) -> (Gone, Offset) {
        let covers = |(from, end, _): &&(Offset, Offset, Gone)| *from <= offset && offset < *end;
        self.removed.iter().rev().find(covers).map_or((Gone::NeverHad, offset), |(_, end, gone)| (*gone, *end))
    }

    fn truncate(&mut self, to: Offset, reason: TruncationReason) {
        let begins_behind = to.0 < self.expired_to;
        self.remove_from(to, Gone::Truncated(reason));
        if begins_behind {
            self.begun_anew_at = to.0;
        }
    }

    fn remove_from(&mut self, to: Offset, gone: Gone) {
        let end = self.log_end();
        if to < end {
            self.removed.push((to, end, gone));
        }
        let keep = self.batches.partition_point(|batch| batch.last_offset < to);
        self.batches.truncate(keep);
        self.expired_to = self.expired_to.min(to.0);
        self.flushed = self.flushed.min(to.0);
        self.begun_anew_at = self.begun_anew_at.min(to.0);
    }

    /// It began anew on an empty directory: without a word about its log.
    fn begin(&mut self, log_end: Offset) {
        self.power_lost = false;
        if log_end < self.log_end() {
            let gone = if log_end.0 < self.flushed { Gone::FlushedAndLost } else { Gone::PowerLoss };
            self.remove_from(log_end, gone);
        }
    }

    fn expire(&mut self, to: Offset) {
        self.remove_below(to, Gone::Expired);
    }

    fn remove_below(&mut self, to: Offset, gone: Gone) {
        let below = self.batches.partition_point(|batch| batch.last_offset < to);
        if let Some(first) = self.batches.first().filter(|_| below > 0) {
            self.removed.push((first.base_offset, to, gone));
        }
        self.batches.drain(..below);
        self.expired_to = self.expired_to.max(to.0);
    }

    /// The files in which its log began are gone, and nobody has deleted what was in them.
    fn lose_below(&mut self, log_start: Offset) {
        let last = self.batches.iter().map(|batch| batch.last_offset).take_while(|last| *last < log_start).last();
        let gone = last.map_or(Gone::Restart, |last| self.lost_at_start(last));
        self.remove_below(log_start, gone);
    }

    /// Why a batch up to `last` is not there any more when it starts.
    fn lost_at_start(&self, last: Offset) -> Gone {
        match self.power_lost {
            true if last.0 < self.flushed => Gone::FlushedAndLost,
            true => Gone::PowerLoss,
            false => Gone::Restart,
        }
    }

    fn has(&self, batch: &BatchInfo) -> bool {
        at_base(&self.batches, batch.base_offset) == Some(batch)
    }

    /// `deleted_to`: where the partition was ever told to begin.
    fn load(&mut self, batches: &[BatchInfo], log_start: Offset, log_end: Offset, deleted_to: Offset) {
        self.leads = false;
        // What was deleted may have been in its files still when it was last loaded.
        self.expire(log_start.min(deleted_to));
        self.lose_below(log_start);
        // Where it had begun, or before: a log start that a crash has forgotten brings deleted records back.
        let start = self.batches.first().map_or(Offset::ZERO, |first| first.base_offset);
        let known = &batches[batches.partition_point(|batch| batch.last_offset < start)..];
        let kept = self.batches.iter().zip(known).take_while(|(old, new)| old == new).count();
        let lost = self.batches.get(kept).map(|first| (first.base_offset, first.last_offset));
        // Perhaps all that it had was deleted, and its end is lost.
        if let Some((from, last)) = lost.or((log_end < self.log_end()).then_some((log_end, log_end))) {
            let gone = self.lost_at_start(last);
            self.remove_from(from.min(log_end), gone);
        }
        self.power_lost = false;
        // A crash may have forgotten that it began anew.
        self.begun_anew_at = self.begun_anew_at.min(log_start.0);
        self.batches = batches.to_vec();
        self.flushed = self.flushed.min(self.log_end().0);
    }
}

/// What a leader committed by what its followers had before another one led, [from, to).
pub(super) struct DeafCommit {
    pub at: Time,
    pub from: Offset,
    pub to: Offset,
}

/// A log start that retention, or a client, moved.
pub(super) struct Expiry {
    pub at: Time,
    pub to: Offset,
    pub reason: LogStartReason,
}

/// A leader was elected that lacks committed records, or records that a deposed one committed later.
pub(super) struct Loss {
    pub at: Time,
    pub epoch: LeaderEpoch,
    pub from: Offset,
    pub end: Offset,
    pub gone: Gone,
    /// The leader's disk has spoiled what it lacks, and nothing has read that at its start: its log goes on behind.
    pub is_unread: bool,
    pub excuse: Option<super::Excuse>,
}

/// What a leader no longer held when it took over, for a reason that excuses it, committed or not: a deposed leader that
/// has not heard of it may commit it yet, for this replica had confirmed it.
struct Forgotten {
    epoch: LeaderEpoch,
    from: Offset,
    end: Offset,
    gone: Gone,
    excuse: super::Excuse,
}

/// A broker's successful answer to a produce request.
pub(super) struct Ack {
    pub at: Time,
    pub required_acks: i16,
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    /// What the broker held at `base_offset` then.
    pub batch: Option<BatchInfo>,
}

pub(super) struct Partition {
    pub leader: Option<String>,
    pub leader_epoch: LeaderEpoch,
    pub created_at: Option<Time>,
    /// The followers that gave it up, and what may excuse that.
    pub gave_up: BTreeMap<String, super::Excuse>,
    /// When somebody took over as its leader, and when first somebody did whose disk does not keep what it has.
    pub led_at: Vec<Time>,
    pub led_spoiled_at: Option<Time>,
    /// When a group first gave it to others without who may have had it letting go of it.
    pub unclaimed_at: Option<Time>,
    pub isr: Vec<String>,
    /// Who led while everything was read once more; `None` before.
    pub final_leaders: Option<Vec<String>>,
    /// The brokers that should hold it.
    pub assigned: Vec<String>,
    pub replicas: BTreeMap<String, Replica>,
    committed: Vec<BatchInfo>,
    high_watermark: Offset,
    pub ever_committed: BTreeSet<(i64, i32, u32)>,
    /// The first unclean election that the configuration allows.
    pub unclean_at: Option<Time>,
    unclean_epoch: LeaderEpoch,
    /// Who was elected in which epoch, in their order.
    elections: Vec<(LeaderEpoch, String)>,
    /// Who leads, and has led since before another did, of which it has heard nothing.
    deaf: Option<String>,
    pub deaf_commits: Vec<DeafCommit>,
    pub losses: Vec<Loss>,
    forgotten: Vec<Forgotten>,
    /// The last leader that took over when it was the controller's.
    led: Option<(LeaderEpoch, String)>,
    /// When records were committed or promised that members of the ISR lacked, and all of these had lost power.
    pub impaired_members: BTreeSet<Time>,
    /// When members of the ISR lacked committed records, all of them for what their disks have spoiled or lost with power.
    pub spoiled_members: BTreeSet<Time>,
    /// When a replica's high watermark moved that had not heard of the leader of a legitimate loss, or of one that was
    /// elected uncleanly: a deposed leader goes on to commit what is in no other log.
    pub stale_views: BTreeSet<Time>,
    /// When a deposed leader committed or acknowledged what a leader that it had not heard of has lost legitimately.
    pub stale_promises: BTreeSet<Time>,
    /// When a replica's high watermark moved, or it served, whose disk does not keep what it has.
    pub spoiled_views: BTreeSet<Time>,
    /// Consumers were served from a disk that lacks some of what was written to it.
    pub is_served_with_holes: bool,
    /// When a replica's high watermark moved, or it was elected, that has kept, where compaction has removed what was
    /// committed, what never was.
    pub kept_under_compaction: BTreeSet<Time>,
    pub proposals: Proposals,
    /// Impaired replicas that the controller has taken out of the ISR, of which their leader has not heard yet.
    counted_still: BTreeSet<String>,
    pub expiries: Vec<Expiry>,
    /// Up to where retention or a client has deleted records.
    pub expired_to: Offset,
    /// Offsets of batches that some replica's compaction removed or rewrote: from, to (exclusive), apart from each other.
    pub compacted: BTreeMap<Offset, Offset>,
    pub acks: Vec<Ack>,
    /// The CRCs of the batches that carried each value, from whichever producer.
    sent: BTreeMap<u64, Vec<u32>>,
    sent_batches: BTreeSet<u32>,
}

impl Default for Partition {
    fn default() -> Self {
        Partition {
            leader: None,
            leader_epoch: LeaderEpoch::NONE,
            created_at: None,
            gave_up: BTreeMap::new(),
            led_at: Vec::new(),
            led_spoiled_at: None,
            unclaimed_at: None,
            isr: Vec::new(),
            final_leaders: None,
            assigned: Vec::new(),
            replicas: BTreeMap::new(),
            committed: Vec::new(),
            high_watermark: Offset::ZERO,
            ever_committed: BTreeSet::new(),
            unclean_at: None,
            unclean_epoch: LeaderEpoch::NONE,
            elections: Vec::new(),
            deaf: None,
            deaf_commits: Vec::new(),
            losses: Vec::new(),
            forgotten: Vec::new(),
            led: None,
            impaired_members: BTreeSet::new(),
            spoiled_members: BTreeSet::new(),
            stale_views: BTreeSet::new(),
            stale_promises: BTreeSet::new(),
            spoiled_views: BTreeSet::new(),
            is_served_with_holes: false,
            kept_under_compaction: BTreeSet::new(),
            proposals: Proposals::default(),
            counted_still: BTreeSet::new(),
            expiries: Vec::new(),
            expired_to: Offset::ZERO,
            compacted: BTreeMap::new(),
            acks: Vec::new(),
            sent: BTreeMap::new(),
            sent_batches: BTreeSet::new(),
        }
    }
}

/// What tells a batch from every other of its partition.
pub(super) fn identity(batch: &BatchInfo) -> (i64, i32, u32) {
    (batch.base_offset.0, batch.leader_epoch.0, batch.crc)
}

/// One process of a client.
pub(super) struct ClientProcess {
    pub started_at: Time,
    /// When it first joined its group, and the generation that it joined last.
    pub joined: Option<(Time, i32)>,
    /// When it last came back into a generation that it was in, under another id.
    pub rejoined_at: Option<Time>,
}

impl ClientProcess {
    fn joined(&mut self, at: Time, generation: i32) {
        match &mut self.joined {
            None => self.joined = Some((at, generation)),
            Some((_, known)) if *known == generation => self.rejoined_at = Some(at),
            Some((_, known)) => *known = generation,
        }
    }
}

#[derive(Default)]
pub(super) struct Replay {
    pub partitions: BTreeMap<TopicPartition, Partition>,
    pub disks: Disks,
    pub registrations: Registrations,
    /// Each client's, one after the other.
    pub processes: BTreeMap<String, Vec<ClientProcess>>,
    /// A group keeps a member that has left.
    pub has_unwatched: bool,
    pub downgrades: Vec<Downgrade>,
}

impl Replay {
    /// `may_elect_uncleanly`: whether a partition's configuration allows it; where it does not, an unclean election
    /// excuses nothing.
    pub fn of(trace: &[TraceEvent], faults: &[Fault], may_elect_uncleanly: &dyn Fn(&TopicPartition) -> bool) -> Replay {
        let mut replay = Replay::default();
        for event in trace {
            match &event.what {
                TraceKind::Observed(observation) => {
                    replay.observe(event.at, &event.machine, observation, may_elect_uncleanly);
                }
                TraceKind::Started => replay.registrations.started(&event.machine),
                TraceKind::Stopped { power_lost } => replay.stopped(&event.machine, *power_lost),
                TraceKind::Phase(Phase::FinalRead) => {
                    replay.partitions.values_mut().for_each(Partition::begin_final_read);
                }
                TraceKind::FaultStarted { index, targets } => {
                    if let Some(fault) = faults.get(*index) {
                        replay.disks.begin(&fault.action, targets);
                        replay.replace_disks(&fault.action, targets);
                    }
                }
                TraceKind::BatchSent { partition, crc, values, .. } => {
                    if let Some(partition) = TopicPartition::parse(partition) {
                        replay.partition(&partition).sent(*crc, values);
                    }
                }
                TraceKind::Process { .. } => {
                    let process = ClientProcess { started_at: event.at, joined: None, rejoined_at: None };
                    replay.processes.entry(event.machine.to_string()).or_default().push(process);
                }
                TraceKind::Joined { generation } => {
                    let process =
                        replay.processes.get_mut(event.machine.as_ref()).and_then(|processes| processes.last_mut());
                    if let Some(process) = process {
                        process.joined(event.at, *generation);
                    }
                }
                TraceKind::Sent { .. }
                | TraceKind::BatchRetried { .. }
                | TraceKind::PositionReset { .. }
                | TraceKind::ReadFailed { .. }
                | TraceKind::Violated { .. }
                | TraceKind::Acked { .. }
                | TraceKind::Failed { .. }
                | TraceKind::Unknown { .. }
                | TraceKind::FaultHit { .. }
                | TraceKind::FaultEnded { .. }
                | TraceKind::Phase(Phase::Workload | Phase::Healed | Phase::Done) => {}
            }
        }
        replay
    }

    fn observe(
        &mut self,
        at: Time,
        machine: &str,
        observation: &Observation,
        may_elect_uncleanly: &dyn Fn(&TopicPartition) -> bool,
    ) {
        match observation {
            Observation::LogLoaded { partition, batches, log_start, log_end, .. } => {
                let expiries = &self.partition(partition).expiries;
                let deleted_to = expiries.iter().map(|expiry| expiry.to).max().unwrap_or(Offset::ZERO);
                self.replica(partition, machine).load(batches, *log_start, *log_end, deleted_to);
                // However it came to a stop.
                let may_lose = !self.disks.keeps_all(machine);
                self.partition(partition).note_restart(machine, may_lose);
            }
            Observation::Appended { partition, batches, .. } => {
                self.replica(partition, machine).batches.extend_from_slice(batches);
            }
            Observation::Truncated { partition, to, reason, .. } => {
                self.replica(partition, machine).truncate(*to, *reason);
            }
            Observation::LogStartMoved { partition, to, reason, .. } => {
                self.replica(partition, machine).expire(*to);
                match reason {
                    LogStartReason::RetentionTime | LogStartReason::RetentionSize | LogStartReason::DeleteRecords => {
                        let partition = self.partition(partition);
                        partition.expiries.push(Expiry { at, to: *to, reason: *reason });
                        partition.expired_to = partition.expired_to.max(*to);
                    }
                    LogStartReason::Leader => {}
                }
            }
            Observation::Compacted { partition, from, to, batches, .. } => {
                let replica = self.replica(partition, machine);
                let changed = replica.batches.iter().filter(|old| old.last_offset >= *from && old.base_offset < *to);
                let changed =
                    changed.filter(|old| !batches.contains(old)).map(|old| (old.base_offset, old.last_offset + 1));
                let changed: Vec<_> = changed.collect();
                let start = replica.batches.partition_point(|batch| batch.base_offset < *from);
                let end = replica.batches.partition_point(|batch| batch.base_offset < *to);
                replica.batches.splice(start..end.max(start), batches.iter().copied());
                let partition = self.partition(partition);
                changed.into_iter().for_each(|(from, to)| partition.note_compacted(from, to));
            }
            Observation::Flushed { partition, offset } => {
                let replica = self.replica(partition, machine);
                replica.flushed = replica.flushed.max(offset.0);
            }
            Observation::HighWatermark { partition, offset, as_leader } => {
                let partition = self.partitions.entry(partition.clone()).or_default();
                partition.note_stale_view(at, machine);
                if self.disks.is_spoiled(machine) {
                    partition.spoiled_views.insert(at);
                }
                if partition.holds_uncommitted_under_compaction(machine, *offset) {
                    partition.kept_under_compaction.insert(at);
                }
                if *as_leader {
                    partition.advance(at, machine, *offset, &self.disks);
                }
            }
            Observation::BecameFollower { partition, leader_epoch, log_end, .. } => {
                let replica = self.replica(partition, machine);
                replica.epoch = Some(*leader_epoch);
                replica.leads = false;
                replica.begin(*log_end);
            }
            Observation::BecameLeader { partition, leader_epoch, log_end, .. } => {
                self.partition(partition).note_deaf(machine, *leader_epoch);
                let is_spoiled = self.disks.is_spoiled(machine);
                let led = self.partition(partition);
                led.led_at.push(at);
                if is_spoiled {
                    led.led_spoiled_at.get_or_insert(at);
                }
                let replica = self.replica(partition, machine);
                replica.epoch = Some(*leader_epoch);
                replica.leads = true;
                replica.begin(*log_end);
                let (keeps_flushed, keeps_all) = (self.disks.keeps_flushed(machine), self.disks.keeps_all(machine));
                self.partition(partition).became_leader(
                    at,
                    machine,
                    *leader_epoch,
                    *log_end,
                    (keeps_flushed, keeps_all),
                );
            }
            Observation::PartitionChanged { partition, leader, leader_epoch, isr, replicas, unclean, .. } => {
                let unclean = *unclean && may_elect_uncleanly(partition);
                let partition = self.partitions.entry(partition.clone()).or_default();
                partition.created_at.get_or_insert(at);
                partition.assigned = replicas.iter().copied().map(machine_of).collect();
                partition.proposals.changed(at, *leader_epoch, isr);
                partition.changed(at, *leader, *leader_epoch, isr, &self.disks);
                if unclean {
                    partition.unclean_at.get_or_insert(at);
                    partition.unclean_epoch = *leader_epoch;
                }
            }
            Observation::Unclaimed { partition, .. } => {
                self.partition(partition).unclaimed_at.get_or_insert(at);
            }
            Observation::BeyondSegment { partition } => {
                self.partition(partition).gave_up.insert(machine.to_owned(), super::Excuse::GrownByCleaning);
            }
            Observation::BeforeLogEnd { partition } => {
                self.partition(partition).gave_up.insert(machine.to_owned(), super::Excuse::BeginsWithinBatch);
            }
            Observation::Unwatched { .. } => self.has_unwatched = true,
            Observation::Downgraded { group, generation } => {
                self.downgrades.push(Downgrade { at, group: group.clone(), generation: *generation });
            }
            Observation::Acknowledged { partition, required_acks, base_offset, last_offset } => {
                let replica = self.replica(partition, machine);
                let (leader_epoch, holds) =
                    (replica.epoch.unwrap_or(LeaderEpoch::NONE), covering(&replica.batches, *base_offset));
                let partition = self.partition(partition);
                partition.note_short_members(at, *last_offset + 1);
                partition.note_stale_promise(at, leader_epoch, *base_offset, *last_offset + 1);
                partition.acks.push(Ack {
                    at,
                    required_acks: *required_acks,
                    base_offset: *base_offset,
                    last_offset: *last_offset,
                    leader_epoch,
                    batch: holds,
                });
            }
            // How far it served is read from the bytes that it served.
            Observation::Served { partition, .. } if self.disks.is_spoiled(machine) => {
                let has_holes = self.disks.has_holes(machine);
                let partition = self.partition(partition);
                partition.spoiled_views.insert(at);
                partition.is_served_with_holes |= has_holes;
            }
            Observation::Registered { broker_epoch } => self.registrations.registered(machine, *broker_epoch),
            Observation::Fenced { broker, broker_epoch, fenced } => {
                if self.registrations.fenced(*broker, *broker_epoch, *fenced) {
                    self.registered_anew(&machine_of(*broker));
                }
            }
            Observation::IsrView { partition, isr, maximal_isr, pending } => {
                let partition = self.partition(partition);
                partition.proposals.viewed(at, isr, maximal_isr, *pending);
                if partition.leader.as_deref() == Some(machine) {
                    partition.counted_still.retain(|member| maximal_isr.iter().any(|id| machine_of(*id) == *member));
                }
            }
            Observation::Refused { .. }
            | Observation::OutOfSequence { .. }
            | Observation::Served { .. }
            | Observation::ReferredTo { .. }
            | Observation::LatestOffset { .. }
            | Observation::ProducersExpired { .. }
            | Observation::GroupDeleted { .. }
            | Observation::LogDirFailed { .. }
            | Observation::UnawaitedSync { .. }
            | Observation::RefusedJoin { .. }
            | Observation::OffsetExpired { .. }
            | Observation::CleanShutdown => {}
        }
    }

    /// A machine with an empty disk holds nothing from that moment; of one log directory among several it is heard when
    /// the replica begins anew.
    fn replace_disks(&mut self, action: &Action, machines: &[String]) {
        let Action::Disk { what: DiskAction::Replace, on: DiskScope { log_dir: None, .. } } = action else { return };
        for partition in self.partitions.values_mut() {
            for machine in machines {
                if let Some(replica) = partition.replicas.get_mut(machine) {
                    replica.remove_from(Offset::ZERO, Gone::FlushedAndLost);
                }
            }
        }
    }

    /// The controller knows that what it knew of the broker is over.
    fn registered_anew(&mut self, machine: &str) {
        for partition in self.partitions.values_mut() {
            if let Some(replica) = partition.replicas.get_mut(machine) {
                replica.loss_is_unheard = false;
            }
        }
    }

    fn stopped(&mut self, machine: &str, power_lost: bool) {
        self.disks.stopped(machine, power_lost);
        let may_lose = power_lost || !self.disks.keeps_all(machine);
        for partition in self.partitions.values_mut() {
            let in_isr = partition.isr.iter().any(|member| member == machine);
            if let Some(replica) = partition.replicas.get_mut(machine) {
                replica.power_lost |= power_lost;
                replica.loss_is_unheard |= power_lost;
                replica.impaired |= may_lose && in_isr;
            }
        }
    }

    fn partition(&mut self, partition: &TopicPartition) -> &mut Partition {
        self.partitions.entry(partition.clone()).or_default()
    }

    fn replica(&mut self, partition: &TopicPartition, machine: &str) -> &mut Replica {
        self.partition(partition).replicas.entry(machine.to_owned()).or_default()
    }
}

fn covering(batches: &[BatchInfo], offset: Offset) -> Option<BatchInfo> {
    let at = batches.partition_point(|batch| batch.last_offset < offset);
    batches.get(at).copied().filter(|batch| batch.base_offset <= offset)
}

impl Partition {
    fn sent(&mut self, crc: u32, values: &[u64]) {
        // An attempt more of a batch that was sent before.
        if self.sent_batches.insert(crc) {
            values.iter().for_each(|value| self.sent.entry(*value).or_default().push(crc));
        }
    }

    /// Whether a batch may be the one that carried `value`. A broker that recompresses, or stamps records with its own
    /// time, keeps a batch that nobody sent: that may be anybody's.
    pub fn may_carry(&self, batch: &BatchInfo, value: u64) -> bool {
        let carried = self.sent.get(&value).is_some_and(|crcs| crcs.contains(&batch.crc));
        carried || !self.sent_batches.contains(&batch.crc)
    }

    fn changed(&mut self, at: Time, leader: BrokerId, epoch: LeaderEpoch, isr: &[BrokerId], disks: &Disks) {
        self.leader = (leader != BrokerId::NONE).then(|| machine_of(leader));
        self.leader_epoch = epoch;
        if let Some(leader) = self.leader.as_ref().filter(|_| epoch > self.elected_epoch()) {
            self.elections.push((epoch, leader.clone()));
        }
        let isr: Vec<String> = isr.iter().copied().map(machine_of).collect();
        for (machine, replica) in &mut self.replicas {
            replica.impaired |= replica.loss_is_unheard && isr.contains(machine);
            if replica.impaired && !isr.contains(machine) {
                replica.impaired = false;
                self.counted_still.insert(machine.clone());
            }
        }
        self.isr = isr;
        self.note_final_leader();
        self.note_short_members(at, self.high_watermark);
        self.note_spoiled_members(at, Offset::ZERO, disks);
    }

    /// The last epoch that had a leader. One without deposes nobody who has not heard of it yet.
    fn elected_epoch(&self) -> LeaderEpoch {
        self.elections.last().map_or(LeaderEpoch::NONE, |(epoch, _)| *epoch)
    }

    fn begin_final_read(&mut self) {
        self.final_leaders = Some(Vec::new());
        self.note_final_leader();
    }

    fn note_final_leader(&mut self) {
        if let (Some(leaders), Some(leader)) = (&mut self.final_leaders, &self.leader) {
            leaders.push(leader.clone());
        }
    }

    /// What the leader holds at an offset.
    pub fn at_leader(&self, offset: Offset) -> Option<BatchInfo> {
        let leader = self.leader.as_ref().and_then(|leader| self.replicas.get(leader))?;
        covering(&leader.batches, offset)
    }

    /// Whether the leader holds the batch of an acknowledgement, above its high watermark.
    pub fn is_uncommitted(&self, ack: &Ack) -> bool {
        let leader = self.leader.as_ref().and_then(|leader| self.replicas.get(leader));
        let is_held = leader.zip(ack.batch).is_some_and(|(leader, batch)| leader.has(&batch));
        is_held && ack.last_offset >= self.high_watermark
    }

    fn note_restart(&mut self, machine: &str, may_lose: bool) {
        let in_isr = self.isr.iter().any(|member| member == machine);
        if let Some(replica) = self.replicas.get_mut(machine) {
            replica.impaired |= may_lose && in_isr;
        }
    }

    /// The replica holds below `end` what was never committed, at an offset at which compaction has removed what was.
    fn holds_uncommitted_under_compaction(&self, machine: &str, end: Offset) -> bool {
        // What compaction has rewritten has another CRC, and may begin later.
        let is_committed = |batch: &BatchInfo| {
            let at = self.committed.partition_point(|known| known.last_offset < batch.last_offset);
            self.committed
                .get(at)
                .is_some_and(|known| known.last_offset == batch.last_offset && known.leader_epoch == batch.leader_epoch)
        };
        let Some(replica) = self.replicas.get(machine).filter(|_| !self.compacted.is_empty()) else { return false };
        let mut below = replica.batches.iter().take_while(|batch| batch.base_offset < end);
        below.any(|batch| self.is_compacted(batch.base_offset) && !is_committed(batch))
    }

    fn note_stale_view(&mut self, at: Time, machine: &str) {
        let Some(epoch) = self.replicas.get(machine).and_then(|replica| replica.epoch) else { return };
        let is_lost = |loss: &Loss| loss.excuse.is_some() && epoch < loss.epoch;
        if epoch < self.unclean_epoch || self.losses.iter().any(is_lost) {
            self.stale_views.insert(at);
        }
    }

    fn note_stale_promise(&mut self, at: Time, epoch: LeaderEpoch, from: Offset, end: Offset) {
        let covers = |loss: &Loss| epoch < loss.epoch && loss.from <= from && end <= loss.end;
        if self.losses.iter().any(|loss| loss.excuse.is_some() && covers(loss)) {
            self.stale_promises.insert(at);
        } else {
            // What it had not committed when its successor took over, and that has gone on since.
            self.lose_again(at, epoch, from, end);
        }
    }

    fn advance(&mut self, at: Time, machine: &str, offset: Offset, disks: &Disks) {
        if offset <= self.high_watermark {
            return;
        }
        let before = self.high_watermark;
        let Some(leader) = self.replicas.get(machine) else { return };
        let mut in_sync = self.isr.iter().filter_map(|member| self.replicas.get(member));
        if self.deaf.as_deref() == Some(machine) && in_sync.any(|replica| replica.sure_end() < offset) {
            self.deaf_commits.push(DeafCommit { at, from: before, to: offset });
        }
        let news = range(&leader.batches, before, offset).to_vec();
        self.ever_committed.extend(news.iter().map(identity));
        let lacks = self.lacked_by_successor(leader, &news);
        self.committed.extend(news.iter().take_while(|batch| lacks.is_none_or(|from| batch.base_offset < from)));
        self.high_watermark = lacks.unwrap_or(offset);
        if let (Some(from), Some(epoch)) = (lacks, leader.epoch) {
            self.lose_again(at, epoch, from, offset);
        }
        self.note_short_members(at, offset);
        self.note_spoiled_members(at, before, disks);
    }

    /// It begins to lead in `epoch`: has another led since it began to lead, and it led all the time?
    fn note_deaf(&mut self, machine: &str, epoch: LeaderEpoch) {
        let before = self.replicas.get(machine).filter(|replica| replica.leads).and_then(|replica| replica.epoch);
        let has_led = |other: &(LeaderEpoch, String)| {
            before.is_some_and(|before| before < other.0) && other.0 < epoch && other.1 != machine
        };
        self.deaf = self.elections.iter().any(has_led).then(|| machine.to_owned());
    }

    /// The first of `news` that `leader` commits, but whoever has taken over from it lacks.
    fn lacked_by_successor(&self, leader: &Replica, news: &[BatchInfo]) -> Option<Offset> {
        let is_deposed = |led: &LeaderEpoch| leader.epoch.is_some_and(|epoch| epoch < *led);
        let (_, successor) = self.led.as_ref().filter(|(led, _)| is_deposed(led))?;
        let successor = self.replicas.get(successor)?;
        let lacks = news.iter().find(|batch| !successor.has(batch) && !self.may_be_missing(batch));
        lacks.map(|batch| batch.base_offset.max(self.high_watermark))
    }

    /// A deposed leader has committed what a later one had lost before it took over.
    fn lose_again(&mut self, at: Time, deposed: LeaderEpoch, from: Offset, end: Offset) {
        let covers = |lost: &&Forgotten| deposed < lost.epoch && lost.from <= from && end <= lost.end;
        let Some(lost) = self.forgotten.iter().find(covers) else { return };
        let Forgotten { epoch, gone, excuse, .. } = *lost;
        self.losses.push(Loss { at, epoch, from, end, gone, is_unread: false, excuse: Some(excuse) });
        self.stale_promises.insert(at);
    }

    /// Members of the ISR that should hold everything below `offset`.
    fn note_short_members(&mut self, at: Time, offset: Offset) {
        let is_short = |member: &&String| self.replicas.get(*member).is_some_and(|replica| replica.sure_end() < offset);
        let mut short = self.isr.iter().filter(is_short).peekable();
        let is_counted_still = self.counted_still.iter().any(|member| is_short(&member));
        if (is_counted_still || short.peek().is_some()) && short.all(|member| self.replicas[member].impaired) {
            self.impaired_members.insert(at);
        }
    }

    /// Members of the ISR that lack batches which were committed at `from` or later. Nothing below the recovery point is
    /// read at a start, and only the end of a log decides who may join.
    fn note_spoiled_members(&mut self, at: Time, from: Offset, disks: &Disks) {
        let expected = range(&self.committed, from, self.high_watermark);
        let is_excused = |member: &String| {
            let replica = self.replicas.get(member)?;
            let lacks = expected.iter().find(|batch| !replica.has(batch) && !self.may_be_missing(batch))?;
            let was_read = match replica.gone(lacks.base_offset) {
                Gone::PowerLoss | Gone::FlushedAndLost | Gone::Restart => false,
                Gone::NeverHad | Gone::Truncated(_) | Gone::Expired => true,
            };
            Some(replica.impaired || (!was_read && disks.is_spoiled(member)))
        };
        let mut lacking = self.isr.iter().filter_map(is_excused).peekable();
        if lacking.peek().is_some() && lacking.all(|is_excused| is_excused) {
            self.spoiled_members.insert(at);
        }
    }

    /// `keeps_flushed`, `keeps_all`: what the leader's disk can be trusted with.
    fn became_leader(
        &mut self,
        at: Time,
        machine: &str,
        epoch: LeaderEpoch,
        log_end: Offset,
        (keeps_flushed, keeps_all): (bool, bool),
    ) {
        let Some(leader) = self.replicas.get(machine).filter(|_| epoch >= self.elected_epoch()) else { return };
        self.led = Some((epoch, machine.to_owned()));
        // Compaction leaves holes, but never moves where a log ends.
        let is_short = (log_end < self.high_watermark).then_some(log_end);
        let missing = self.missing(leader).next().map(|batch| batch.base_offset);
        let lacks = missing.into_iter().chain(is_short).min();
        let from = lacks.unwrap_or_else(|| leader.log_end());
        let (gone, gone_to) = leader.gone_to(from);
        let is_last = leader.impaired && self.isr == [machine];
        // After an orderly stop nothing is read again, and never what lies below the recovery point: a replica may join
        // the ISR with a log that it cannot read.
        let is_unread = match gone {
            Gone::Restart => !keeps_all,
            Gone::FlushedAndLost => !keeps_flushed && from < leader.log_end(),
            Gone::NeverHad | Gone::Truncated(_) | Gone::PowerLoss | Gone::Expired => false,
        };
        let is_of_its_disk = match gone {
            Gone::PowerLoss => true,
            Gone::FlushedAndLost => !keeps_flushed,
            Gone::Restart => is_unread,
            Gone::NeverHad | Gone::Truncated(_) | Gone::Expired => false,
        };
        let begins_behind =
            is_short.is_none() && self.missing(leader).all(|batch| batch.last_offset.0 < leader.begun_anew_at);
        let is_deaf_commit = self.deaf_commits.iter().any(|commit| commit.from <= from && from < commit.to);
        let excuse = if self.unclean_at.is_some() {
            Some(super::Excuse::UncleanElection)
        } else if is_deaf_commit {
            Some(super::Excuse::MissedDeposition)
        } else if is_last && is_of_its_disk {
            Some(super::Excuse::LastReplicaLostPower)
        } else if is_unread {
            Some(super::Excuse::UntrustedDisk)
        } else if lacks.is_some() && begins_behind {
            Some(super::Excuse::BegunAnew)
        } else {
            None
        };
        if let Some(excuse) = excuse {
            self.forgotten.push(Forgotten { epoch, from, end: gone_to, gone, excuse });
        }
        if lacks.is_none() {
            // A leader before it had lost records from the middle of its log; this one has them still.
            let held = range(&leader.batches, Offset::ZERO, self.high_watermark).iter();
            let more = held.filter(|batch| at_base(&self.committed, batch.base_offset).is_none());
            let more: Vec<BatchInfo> = more.copied().collect();
            // It keeps what never was committed where compaction has hidden that their logs part.
            if self.holds_uncommitted_under_compaction(machine, self.high_watermark) {
                self.kept_under_compaction.insert(at);
            }
            if !more.is_empty() {
                self.committed.extend(more);
                self.committed.sort_by_key(|batch| batch.base_offset);
            }
            return;
        }
        let keep = self.committed.partition_point(|batch| batch.last_offset < from);
        // It has what lies above.
        let end = if begins_behind { Offset(leader.begun_anew_at) } else { self.high_watermark };
        self.losses.push(Loss { at, epoch, from, end, gone, is_unread, excuse });
        self.committed.truncate(keep);
        self.high_watermark = from;
        self.expired_to = self.expired_to.min(from);
    }

    /// The committed batches that a replica should hold and does not.
    fn missing(&self, replica: &Replica) -> impl Iterator<Item = &BatchInfo> {
        self.committed.iter().filter(|batch| !replica.has(batch) && !self.may_be_missing(batch))
    }

    /// Deleted or compacted somewhere.
    fn may_be_missing(&self, batch: &BatchInfo) -> bool {
        batch.last_offset < self.expired_to || self.is_compacted(batch.base_offset)
    }

    /// Some replica's compaction removed or rewrote the batch there.
    pub fn is_compacted(&self, offset: Offset) -> bool {
        self.compacted.range(..=offset).next_back().is_some_and(|(_, to)| offset < *to)
    }

    fn note_compacted(&mut self, mut from: Offset, mut to: Offset) {
        while let Some((&start, &end)) = self.compacted.range(..=to).next_back().filter(|(_, end)| from <= **end) {
            self.compacted.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.compacted.insert(from, to);
    }
}
