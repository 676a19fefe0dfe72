//! The omniscient observer: ghost state about every replica's log, fed by observations, and the
//! invariants that no client can see. Each is checked at the event that could break it.
//!
//! The *true high watermark* of a partition is the highest that any leader ever reached; the records below
//! it are the *committed log*. When a run legitimately loses them (unclean election, power loss of the last
//! in-sync replica) the violation is stated once and the ghost goes on with what the new leader holds.

mod producers;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use self::producers::ProducerGhost;
use super::outcome::Violation;
use crate::coordinator;
use crate::observe::{BatchInfo, LogStartReason, Observation};
use crate::protocol::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch, TopicPartition};
use crate::world::Time;

/// How many of a producer's batches its leader knows again (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
const KNOWN_BATCHES: usize = 5;

/// Ghost state of a whole run.
#[derive(Default)]
pub struct Ghost {
    pub partitions: BTreeMap<TopicPartition, PartitionGhost>,
    /// Brokers that the controller has unfenced.
    pub active: BTreeMap<BrokerId, bool>,
    broker_epochs: BTreeMap<BrokerId, BrokerEpoch>,
    pub violations: Vec<Violation>,
    /// `min.insync.replicas` by topic; a topic that is not here is not held to any.
    pub min_insync_replicas: BTreeMap<String, usize>,
    /// Wall clocks are wrong, or may be: how long something was kept is not held against them.
    pub moves_clocks: bool,
    /// Brokers with a log directory that failed: nothing but a restart brings it back.
    pub with_failed_dirs: BTreeSet<String>,
}

/// One partition: the controller's view, the committed log, each replica's log.
pub struct PartitionGhost {
    pub leader: BrokerId,
    /// The same, as a machine name.
    leader_machine: String,
    pub leader_epoch: LeaderEpoch,
    /// The last epoch that had a leader. One without deposes nobody who has not heard of it yet.
    elected_epoch: LeaderEpoch,
    partition_epoch: PartitionEpoch,
    pub isr: Vec<BrokerId>,
    /// The same, as machine names.
    isr_machines: Vec<String>,
    pub replicas: Vec<BrokerId>,
    /// The highest high watermark that a leader ever reached.
    pub true_high_watermark: Offset,
    committed: Vec<BatchInfo>,
    producers: ProducerGhost,
    /// The highest log start that retention or DeleteRecords made on any replica.
    expired_to: Offset,
    /// The highest log start of a leader, below which nothing is compared any more: one that crashes may forget where its
    /// log began, but not that it has dropped the epochs below (`LeaderEpochFileCache.truncateFromStart`), and then tells
    /// no follower there that their logs have parted.
    led_from: Offset,
    /// What some replica's compaction did to a batch, by base offset: any replica may have it so.
    compacted: BTreeMap<Offset, Compacted>,
    /// What each compaction of some replica went through, and until when (ms) the tombstones stay that it saw first.
    compactions: Vec<(Range<Offset>, i64)>,
    logs: BTreeMap<String, ReplicaGhost>,
    leaders: BTreeMap<LeaderEpoch, String>,
    /// The epoch of the last leader that took over when it was the controller's.
    led_epoch: LeaderEpoch,
}

impl Default for PartitionGhost {
    fn default() -> Self {
        PartitionGhost {
            leader: BrokerId::NONE,
            leader_machine: machine_of(BrokerId::NONE),
            leader_epoch: LeaderEpoch::NONE,
            elected_epoch: LeaderEpoch::NONE,
            partition_epoch: PartitionEpoch(-1),
            isr: Vec::new(),
            isr_machines: Vec::new(),
            replicas: Vec::new(),
            true_high_watermark: Offset::ZERO,
            committed: Vec::new(),
            producers: ProducerGhost::default(),
            expired_to: Offset::ZERO,
            led_from: Offset::ZERO,
            compacted: BTreeMap::new(),
            compactions: Vec::new(),
            logs: BTreeMap::new(),
            leaders: BTreeMap::new(),
            led_epoch: LeaderEpoch::NONE,
        }
    }
}

/// What compaction left of a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compacted {
    /// Some of its records, or the same under another header.
    Rewritten,
    Removed,
}

/// Who coordinates a group, and since which leader epoch.
pub type Reign = (BrokerId, LeaderEpoch);

#[derive(Default)]
struct ReplicaGhost {
    batches: Vec<BatchInfo>,
    log_start: i64,
    log_end: i64,
    high_watermark: i64,
    /// Below it the log was compared with the committed one.
    compared: i64,
    /// Of each producer's batches below it the replica knows the last one at least: snapshots hold no more
    /// (`ProducerStateManager.writeSnapshot`).
    known_from: i64,
    /// The highest leader epoch that it has known.
    leader_epoch: Option<LeaderEpoch>,
    /// Its maximal ISR while it leads.
    maximal_isr: Vec<BrokerId>,
    /// How many replicas are in the ISR, by its own belief while it leads.
    isr_size: usize,
    /// The epoch in which it leads, by its own belief.
    leads: Option<LeaderEpoch>,
    /// The high watermark it last had while it leads in that epoch.
    reigns_with: Option<Offset>,
}

impl ReplicaGhost {
    fn set_end(&mut self) {
        self.log_end = self.batches.last().map_or(0, |b| b.last_offset.0 + 1);
    }

    fn range(&self, from: Offset, to: Offset) -> &[BatchInfo] {
        range(&self.batches, from, to)
    }
}

/// The batches, in the order of their offsets, that overlap [from, to): none if that is empty.
pub fn range(batches: &[BatchInfo], from: Offset, to: Offset) -> &[BatchInfo] {
    if to <= from {
        return &[];
    }
    let start = place(batches, |b| b.last_offset < from);
    let end = place(batches, |b| b.base_offset < to);
    &batches[start..end]
}

/// The first batch that is not `before`, of batches in the order of their offsets. What is asked for nearly always lies
/// near the end: the search begins there.
fn place(batches: &[BatchInfo], before: impl Fn(&BatchInfo) -> bool) -> usize {
    let mut back = 1;
    while back < batches.len() && !before(&batches[batches.len() - back]) {
        back *= 2;
    }
    let from = batches.len().saturating_sub(back);
    from + batches[from..].partition_point(before)
}

/// The batch that begins at `base_offset` of batches in the order of their offsets.
pub fn at_base(batches: &[BatchInfo], base_offset: Offset) -> Option<&BatchInfo> {
    let at = place(batches, |batch| batch.base_offset < base_offset);
    batches.get(at).filter(|batch| batch.base_offset == base_offset)
}

/// `broker-2` for broker 2.
pub fn machine_of(broker: BrokerId) -> String {
    format!("broker-{broker}")
}

impl Ghost {
    pub fn partition(&self, partition: &str) -> Option<&PartitionGhost> {
        TopicPartition::parse(partition).and_then(|p| self.partitions.get(&p))
    }

    /// A group's coordinator, and the leader epoch in which it leads the group's partition of `__consumer_offsets`.
    pub fn reign(&self, group: &str, broker: BrokerId) -> Option<Reign> {
        let of_offsets = self.partitions.keys().filter(|key| key.topic.0.as_str() == coordinator::TOPIC);
        let partitions = i32::try_from(of_offsets.count()).unwrap_or(i32::MAX);
        let partition = TopicPartition::new(coordinator::TOPIC, coordinator::partition_for(group, partitions));
        let log = self.partitions.get(&partition)?.logs.get(&machine_of(broker))?;
        Some((broker, log.leads?))
    }

    /// The disk with this replica's log is replaced.
    pub fn log_is_gone(&mut self, machine: &str, partition: &TopicPartition) {
        *self.replica(partition, machine) = ReplicaGhost::default();
    }

    /// Updates the ghost by one fact and checks what it could break.
    pub fn observe(&mut self, at: Time, machine: &str, observation: &Observation) {
        match observation {
            Observation::LogLoaded { partition, log_start, log_end, high_watermark, batches, .. } => {
                let replica = self.replica(partition, machine);
                replica.log_start = log_start.0;
                replica.batches.clone_from(batches);
                replica.log_end = log_end.0;
                replica.high_watermark = high_watermark.0;
                replica.compared = 0;
                replica.leads = None;
                replica.known_from = log_end.0;
            }
            Observation::Appended { partition, as_leader, batches, sequences, .. } => {
                let replica = self.replica(partition, machine);
                let last = replica.batches.last().map(|batch| batch.leader_epoch);
                replica.batches.extend_from_slice(batches);
                replica.set_end();
                if let (Some(last), Some(first)) = (last, batches.first())
                    && first.leader_epoch < last
                {
                    let epoch = first.leader_epoch;
                    let detail = format!("{machine} appended a record of epoch {epoch} behind one of epoch {last}");
                    self.violate("leader-epoch-went-back", at, partition, detail);
                }
                if *as_leader {
                    let ghost = self.partitions.get_mut(partition).expect("replica() inserted it");
                    batches.iter().for_each(|batch| ghost.producers.appended(batch, *sequences));
                }
            }
            Observation::Truncated { partition, to, .. } => {
                let replica = self.replica(partition, machine);
                let keep = replica.batches.partition_point(|b| b.last_offset < *to);
                replica.batches.truncate(keep);
                // One that is cut below where it begins goes on there, with nothing below (`UnifiedLog.truncateTo`).
                replica.log_start = replica.log_start.min(to.0);
                replica.log_end = to.0;
                replica.high_watermark = replica.high_watermark.min(to.0);
                replica.compared = replica.compared.min(to.0);
                replica.known_from = to.0;
            }
            Observation::LogStartMoved { partition, to, reason, .. } => {
                self.log_start_moved(machine, partition, *to, *reason);
            }
            Observation::Compacted { partition, from, to, batches, delete_retention_ms, tombstones } => {
                let offsets = *from..*to;
                self.compacted(at, machine, partition, offsets.clone(), batches);
                self.expired_tombstones(at, machine, partition, (offsets, *delete_retention_ms), tombstones);
            }
            Observation::HighWatermark { partition, offset, as_leader } => {
                self.high_watermark(at, machine, partition, *offset, *as_leader);
            }
            Observation::BecameLeader { partition, leader_epoch, log_end, .. } => {
                self.begins_with(machine, partition, *log_end);
                self.became_leader(at, machine, partition, *leader_epoch);
            }
            Observation::BecameFollower { partition, leader_epoch, log_end, .. } => {
                self.begins_with(machine, partition, *log_end);
                self.replica(partition, machine).leads = None;
                self.learnt_epoch(at, machine, partition, *leader_epoch);
            }
            Observation::PartitionChanged {
                partition,
                leader,
                leader_epoch,
                partition_epoch,
                isr,
                replicas,
                unclean,
            } => {
                let ghost = self.partitions.entry(partition.clone()).or_default();
                if *leader_epoch < ghost.leader_epoch {
                    let detail =
                        format!("the controller's leader epoch went from {} to {leader_epoch}", ghost.leader_epoch);
                    self.violate("leader-epoch-went-back", at, partition, detail);
                    return;
                }
                let before = std::mem::replace(&mut ghost.partition_epoch, *partition_epoch);
                let added = isr.iter().copied().filter(|member| !ghost.isr.contains(member)).collect::<Vec<_>>();
                ghost.leader = *leader;
                ghost.leader_machine = machine_of(*leader);
                ghost.leader_epoch = *leader_epoch;
                if *leader != BrokerId::NONE {
                    ghost.elected_epoch = *leader_epoch;
                }
                ghost.isr.clone_from(isr);
                ghost.isr_machines = isr.iter().map(|b| machine_of(*b)).collect();
                ghost.replicas.clone_from(replicas);
                if *partition_epoch <= before {
                    let detail = format!("the controller's partition epoch went from {before} to {partition_epoch}");
                    self.violate("partition-epoch-went-back", at, partition, detail);
                }
                // What an unclean leader lacks is stated when it leads.
                if !unclean {
                    self.joined_isr(at, partition, &added);
                }
                self.quorum_superset(at, partition);
            }
            Observation::IsrView { partition, isr, maximal_isr, .. } => {
                let replica = self.replica(partition, machine);
                replica.maximal_isr.clone_from(maximal_isr);
                replica.isr_size = isr.len();
                self.quorum_superset(at, partition);
            }
            Observation::Fenced { broker, broker_epoch, fenced } => {
                self.active.insert(*broker, !fenced);
                let known = self.broker_epochs.insert(*broker, *broker_epoch);
                if let Some(known) = known.filter(|known| broker_epoch < known) {
                    let detail =
                        format!("the controller's epoch of broker {broker} went from {known} to {broker_epoch}");
                    self.violate_of("broker-epoch-went-back", at, machine_of(*broker), detail);
                }
            }
            Observation::Acknowledged { partition, required_acks: -1, base_offset, last_offset } => {
                self.acknowledged(at, machine, partition, *base_offset, *last_offset);
            }
            Observation::Served { partition, to, .. } => {
                let high_watermark = Offset(self.replica(partition, machine).high_watermark);
                if *to > high_watermark {
                    let detail = format!("{machine} served records below {to}, its high watermark is {high_watermark}");
                    self.violate("served-uncommitted", at, partition, detail);
                }
            }
            Observation::OutOfSequence { partition, crc } => {
                let replica = self.replica(partition, machine);
                let mut latest = replica.batches.iter().rev().take(KNOWN_BATCHES).enumerate();
                let is_known = |n: usize, batch: &BatchInfo| n == 0 || batch.base_offset.0 >= replica.known_from;
                if let Some((_, known)) = latest.find(|(n, batch)| batch.crc == *crc && is_known(*n, batch)) {
                    let known = *known;
                    let detail = format!(
                        "{machine} refused a batch as out of sequence that it has at offset {}",
                        known.base_offset
                    );
                    self.violate("producer-sequence", at, partition, detail);
                }
            }
            Observation::LatestOffset { partition, offset } => {
                let ghost = self.partitions.get(partition);
                let end = ghost.filter(|g| g.is_led_by(machine)).map(|g| g.true_high_watermark);
                if let Some(end) = end.filter(|end| offset < end) {
                    let detail =
                        format!("{machine}, the leader, says that {offset} is the end; it was at {end} before");
                    self.violate("latest-offset-went-back", at, partition, detail);
                }
            }
            Observation::UnawaitedSync { group } => {
                let detail = format!("the coordinator on {machine} did not wait for a member's SyncGroup any more");
                self.violate_of("unawaited-sync", at, group.clone(), detail);
            }
            Observation::RefusedJoin { group } => {
                let detail = format!("the coordinator on {machine} told a member to join that was joining");
                self.violate_of("refused-join", at, group.clone(), detail);
            }
            Observation::OffsetExpired { group, partition, offset, is_rebalancing } => {
                if *is_rebalancing {
                    let detail = format!(
                        "the coordinator on {machine} forgot the commit of {offset} by group {group} while it rebalanced"
                    );
                    self.violate("expired-in-rebalance", at, partition, detail);
                }
            }
            Observation::Flushed { .. }
            | Observation::ReferredTo { .. }
            | Observation::ProducersExpired { .. }
            | Observation::GroupDeleted { .. }
            | Observation::Downgraded { .. }
            | Observation::Unwatched { .. }
            | Observation::Unclaimed { .. }
            | Observation::Acknowledged { .. }
            | Observation::Refused { .. }
            | Observation::BeyondSegment { .. }
            | Observation::BeforeLogEnd { .. }
            | Observation::Registered { .. }
            | Observation::CleanShutdown => {}
            Observation::LogDirFailed { .. } => {
                self.with_failed_dirs.insert(machine.to_owned());
            }
        }
    }

    /// The controller's leader believes so too.
    pub fn is_led(&self, partition: &TopicPartition) -> bool {
        self.partitions.get(partition).is_some_and(PartitionGhost::is_led)
    }

    /// Led, every replica in sync, and all that the leader holds committed: a reader gets everything.
    pub fn is_whole(&self, partition: &TopicPartition) -> bool {
        self.partitions
            .get(partition)
            .is_some_and(|p| p.is_led() && p.isr.len() == p.replicas.len() && p.uncommitted() == 0)
    }

    /// A sentence for the verdict on a partition that is not whole.
    pub fn why_not_whole(&self, partition: &TopicPartition) -> String {
        let Some(ghost) = self.partitions.get(partition) else { return "it was never created".to_owned() };
        let isr = &ghost.isr_machines;
        if ghost.leader == BrokerId::NONE {
            return format!("no leader; the in-sync replicas are {isr:?}");
        }
        format!(
            "leader {} in epoch {}, in-sync replicas {isr:?} of {:?}, {} records above the high watermark",
            ghost.leader,
            ghost.leader_epoch,
            ghost.replicas,
            ghost.uncommitted()
        )
    }

    /// A consumer that starts at the beginning gets as far as here; zero where nothing is left to read.
    pub fn readable_end(&self, partition: &TopicPartition) -> Offset {
        let end = self.partitions.get(partition).filter(|p| p.expired_to < p.true_high_watermark);
        end.map_or(Offset::ZERO, |p| p.true_high_watermark)
    }

    /// Whether it has been heard of.
    pub fn knows(&self, partition: &TopicPartition) -> bool {
        self.partitions.contains_key(partition)
    }

    /// The partitions that the controller has made for a topic so far, in order.
    pub fn partitions_of(&self, topic: &str) -> impl Iterator<Item = &TopicPartition> {
        self.partitions.keys().filter(move |partition| partition.topic.0.as_str() == topic)
    }

    /// Whether the leader holds nothing at `from` or later: whoever reads there gets no further, whatever the high
    /// watermark is.
    pub fn has_nothing_from(&self, partition: &TopicPartition, from: Offset) -> bool {
        let leader = self.partitions.get(partition).filter(|p| p.is_led()).and_then(|p| p.logs.get(&p.leader_machine));
        leader.is_some_and(|leader| leader.batches.last().is_none_or(|last| last.last_offset < from))
    }

    /// Records below it may have been removed on purpose: by retention, at a client's wish, or by compaction.
    pub fn removed_below(&self, partition: &TopicPartition) -> Offset {
        let Some(ghost) = self.partitions.get(partition) else { return Offset::ZERO };
        if ghost.compacted.is_empty() { ghost.expired_to } else { ghost.true_high_watermark }
    }

    /// The machine's process ended: it leads nothing any more.
    pub fn stopped(&mut self, machine: &str) {
        self.with_failed_dirs.remove(machine);
        for partition in self.partitions.values_mut() {
            if let Some(replica) = partition.logs.get_mut(machine) {
                replica.leads = None;
            }
        }
    }

    fn replica(&mut self, partition: &TopicPartition, machine: &str) -> &mut ReplicaGhost {
        if !self.partitions.contains_key(partition) {
            self.partitions.insert(partition.clone(), PartitionGhost::default());
        }
        let logs = &mut self.partitions.get_mut(partition).expect("inserted above").logs;
        if !logs.contains_key(machine) {
            logs.insert(machine.to_owned(), ReplicaGhost::default());
        }
        logs.get_mut(machine).expect("inserted above")
    }

    /// Records below a log start are gone on that replica, and nothing is compared there any more.
    fn log_start_moved(&mut self, machine: &str, partition: &TopicPartition, to: Offset, reason: LogStartReason) {
        let replica = self.replica(partition, machine);
        replica.log_start = to.0;
        replica.batches.retain(|b| b.last_offset >= to);
        replica.log_end = replica.log_end.max(to.0);
        let ghost = self.partitions.get_mut(partition).expect("replica() inserted it");
        match reason {
            LogStartReason::RetentionTime | LogStartReason::RetentionSize | LogStartReason::DeleteRecords => {
                ghost.expired_to = ghost.expired_to.max(to);
            }
            LogStartReason::Leader => {}
        }
        if ghost.leader_machine == machine {
            ghost.led_from = ghost.led_from.max(to);
        }
    }

    /// Compaction takes records out of a replica's log, below its high watermark. It adds nothing and moves nothing.
    fn compacted(
        &mut self,
        at: Time,
        machine: &str,
        partition: &TopicPartition,
        offsets: Range<Offset>,
        batches: &[BatchInfo],
    ) {
        let replica = self.replica(partition, machine);
        let start = replica.batches.partition_point(|b| b.base_offset < offsets.start);
        let end = replica.batches.partition_point(|b| b.base_offset < offsets.end);
        let before: Vec<BatchInfo> = replica.batches.splice(start..end, batches.iter().copied()).collect();
        let ghost = self.partitions.get_mut(partition).expect("replica() inserted it");
        let mut left = batches.iter().peekable();
        for old in &before {
            let new = left.next_if(|new| is_same_place(new, old));
            match new {
                None => drop(ghost.compacted.insert(old.base_offset, Compacted::Removed)),
                Some(new) if new != old => drop(ghost.compacted.entry(old.base_offset).or_insert(Compacted::Rewritten)),
                Some(_) => {}
            }
        }
        if let Some(invented) = left.next() {
            let detail = format!("compaction on {machine} left a batch at {} that was not there", invented.base_offset);
            self.violate("log-matching", at, partition, detail);
        }
    }

    /// A tombstone stays for delete.retention.ms from the first compaction on that has kept it, on whichever replica: the
    /// batch that says until when is replicated (KIP-534).
    fn expired_tombstones(
        &mut self,
        at: Time,
        machine: &str,
        partition: &TopicPartition,
        (offsets, delete_retention_ms): (Range<Offset>, i64),
        tombstones: &[Offset],
    ) {
        let ms = |time: Time| (time.as_nanos() / 1_000_000) as i64;
        let ghost = self.partitions.entry(partition.clone()).or_default();
        let is_over = |tombstone: &Offset| {
            let mut earlier = ghost.compactions.iter().filter(|(offsets, _)| offsets.contains(tombstone));
            earlier.any(|(_, until_ms)| *until_ms <= ms(at))
        };
        let early = tombstones.iter().copied().find(|tombstone| !is_over(tombstone));
        ghost.compactions.push((offsets, ms(at).saturating_add(delete_retention_ms)));
        if let Some(tombstone) = early.filter(|_| !self.moves_clocks) {
            let detail = format!(
                "compaction on {machine} took out the tombstone at offset {tombstone} less than delete.retention.ms after \
                 the first that kept it"
            );
            self.violate("tombstone-too-early", at, partition, detail);
        }
    }

    /// Log matching, as far as it can newly break: what enters this replica's high watermark must be the
    /// committed log, or extend it. What extends it must be on every member of the ISR (strong ISR).
    fn high_watermark(&mut self, at: Time, machine: &str, partition: &TopicPartition, offset: Offset, as_leader: bool) {
        let replica = self.replica(partition, machine);
        let before = Offset(replica.high_watermark);
        replica.high_watermark = offset.0;
        let isr_size = replica.isr_size;
        // A replica's own may go back when it restarts or begins to lead, but not while it leads.
        let went_back = as_leader && replica.reigns_with.replace(offset).is_some_and(|highest| offset < highest);
        let ghost = self.partitions.get_mut(partition).expect("replica() inserted it");
        // One that only followed the log down shows nothing new: who cuts its log may have to cut it once more.
        let shows = as_leader || offset > before;
        let mismatch = shows.then(|| ghost.compare(machine, offset.min(ghost.true_high_watermark))).flatten();
        let (mut weak, mut broken) = (Vec::new(), Vec::new());
        if as_leader && offset > ghost.true_high_watermark {
            let from = ghost.true_high_watermark;
            let end = ghost.held_by_successor(machine, offset).unwrap_or(offset);
            ghost.true_high_watermark = end;
            let replica = ghost.logs.get_mut(machine).expect("replica() inserted it");
            replica.compared = end.0;
            let news = range(&replica.batches, from, end);
            broken = ghost.producers.commit(news);
            ghost.committed.extend_from_slice(news);
            weak = if end < offset {
                let from = from.max(before);
                ghost.weak_members(from, offset, range(&ghost.logs[machine].batches, from, offset))
            } else {
                ghost.weak_members(from, offset, range(&ghost.committed, from, offset))
            };
        }
        if went_back {
            let detail = format!("{machine} leads and lowered its high watermark from {before} to {offset}");
            self.violate("high-watermark-went-back", at, partition, detail);
        }
        if as_leader && offset > before {
            self.strict_min_isr(at, machine, partition, isr_size);
        }
        if let Some(at_offset) = mismatch {
            let detail = format!(
                "{machine} holds another record than the committed one at offset {at_offset}, below its high watermark {offset}"
            );
            self.violate("log-matching", at, partition, detail);
        }
        for detail in broken {
            self.violate("producer-sequence", at, partition, detail);
        }
        for (name, member) in weak {
            let detail = format!("high watermark {offset} at {machine}, but in-sync replica {member}");
            self.violate(name, at, partition, detail);
        }
    }

    /// What becomes visible has min.insync.replicas copies (KIP-966, strict min ISR), or as many as there are replicas.
    fn strict_min_isr(&mut self, at: Time, machine: &str, partition: &TopicPartition, isr_size: usize) {
        let Some(configured) = self.min_insync_replicas.get(partition.topic.0.as_str()) else { return };
        let required = (*configured).min(self.partitions.get(partition).map_or(0, |ghost| ghost.replicas.len()));
        if isr_size < required {
            let detail = format!(
                "{machine} advanced its high watermark with {isr_size} replicas in sync, {required} are required"
            );
            self.violate("committed-under-min-isr", at, partition, detail);
        }
    }

    /// New members of the ISR can be elected: they must hold all that is committed.
    fn joined_isr(&mut self, at: Time, partition: &TopicPartition, added: &[BrokerId]) {
        let ghost = &self.partitions[partition];
        let end = ghost.true_high_watermark;
        if end == Offset::ZERO {
            return;
        }
        let weak: Vec<_> = added.iter().filter_map(|member| ghost.weakness(&machine_of(*member), end)).collect();
        for (name, member) in weak {
            self.violate(name, at, partition, format!("committed up to {end}, but new in-sync replica {member}"));
        }
    }

    /// The leader's maximal ISR holds whoever may be elected (KIP-497).
    fn quorum_superset(&mut self, at: Time, partition: &TopicPartition) {
        let Some(ghost) = self.partitions.get(partition).filter(|ghost| ghost.is_led()) else { return };
        let leader = &ghost.logs[&ghost.leader_machine];
        let Some(missing) = ghost.isr.iter().find(|member| !leader.maximal_isr.contains(member)) else { return };
        // A leader that has just been elected states its view right after that it leads.
        if leader.maximal_isr.is_empty() {
            return;
        }
        let detail = format!(
            "broker {missing} is in the controller's ISR {:?}, but leader broker {} does not count it",
            numbers(&ghost.isr),
            ghost.leader
        );
        self.violate("quorum-superset", at, partition, detail);
    }

    /// An acknowledgement under acks=all promises that whoever may be elected has the records. Below the high watermark
    /// of the leader of the present that has been checked.
    fn acknowledged(&mut self, at: Time, machine: &str, partition: &TopicPartition, base: Offset, last: Offset) {
        self.replica(partition, machine);
        let ghost = &self.partitions[partition];
        if ghost.is_led_by(machine) && last < ghost.true_high_watermark {
            return;
        }
        let lacks = |member: &&String| {
            let log = ghost.logs.get(member.as_str());
            // What has expired there was committed before this leader, deposed perhaps, heard of it.
            let from = log.map_or(Offset::ZERO, |log| Offset(log.log_start)).min(ghost.expired_to).max(base);
            let held = log.map_or(&[][..], |log| log.range(from, last + 1));
            first_difference(held, ghost.logs[machine].range(from, last + 1), &ghost.compacted).is_some()
        };
        if let Some(member) = ghost.isr_machines.iter().find(lacks) {
            let detail =
                format!("{machine} acknowledged {base} to {last} (acks=all), in-sync replica {member} lacks it");
            self.violate("acknowledged-incomplete", at, partition, detail);
        }
    }

    /// An idempotent producer sends a batch, whose first record is its `number`th.
    pub fn batch_sent(&mut self, partition: &TopicPartition, crc: u32, number: u64) {
        self.partitions.entry(partition.clone()).or_default().producers.sent(crc, number);
    }

    fn learnt_epoch(&mut self, at: Time, machine: &str, partition: &TopicPartition, epoch: LeaderEpoch) {
        let known = self.replica(partition, machine).leader_epoch.replace(epoch);
        if let Some(known) = known.filter(|known| epoch < *known) {
            let detail = format!("{machine} went from leader epoch {known} to {epoch}");
            self.violate("leader-epoch-went-back", at, partition, detail);
        }
    }

    /// A replica makes a new log where it finds none: the directory of the one that it had went with the power.
    fn begins_with(&mut self, machine: &str, partition: &TopicPartition, log_end: Offset) {
        if log_end == Offset::ZERO && self.replica(partition, machine).log_end > 0 {
            self.log_is_gone(machine, partition);
        }
    }

    fn became_leader(&mut self, at: Time, machine: &str, partition: &TopicPartition, epoch: LeaderEpoch) {
        self.learnt_epoch(at, machine, partition, epoch);
        let replica = self.replica(partition, machine);
        replica.leads = Some(epoch);
        replica.reigns_with = None;
        replica.maximal_isr.clear();
        let ghost = self.partitions.get_mut(partition).expect("replica() inserted it");
        let other = ghost.leaders.insert(epoch, machine.to_owned()).filter(|m| m != machine);
        let replica = &ghost.logs[machine];
        let begins = Offset(replica.log_start);
        // A log may begin where retention or a client made some replica's begin, and no later.
        let log_start = ghost.expired_to.min(Offset(replica.log_start));
        ghost.led_from = ghost.led_from.max(log_start);
        let (start, end) = (ghost.led_from, ghost.true_high_watermark);
        // What was deleted is missed by nobody.
        let due_from = ghost.expired_to.max(start);
        let due = range(&ghost.committed, due_from, end);
        let missing = first_missing(replica.range(due_from, end), due, &ghost.compacted);
        // Compaction leaves holes, but never moves where a log ends.
        let is_short = (replica.log_end < end.0).then_some(Offset(replica.log_end));
        let mut lost = None;
        if epoch >= ghost.elected_epoch {
            ghost.led_epoch = epoch;
            let from = missing.into_iter().chain(is_short).min();
            // It may have what a leader before had lost from the middle of its log, or lack what was deleted.
            let until = from.unwrap_or(end);
            let held = replica.range(start, until);
            if first_difference(held, range(&ghost.committed, start, until), &ghost.compacted).is_some() {
                let keep = ghost.committed.partition_point(|batch| batch.last_offset < start);
                let next = ghost.committed.partition_point(|batch| batch.base_offset < until);
                let held = held.to_vec();
                ghost.committed.splice(keep..next, held);
            }
            if let Some(from) = from {
                lost = (from.max(due_from) < end).then_some((from.max(due_from), end));
                ghost.go_on_from(from);
                // What it lacks because its log begins behind, the others have until they hear of that.
                ghost.led_from = ghost.led_from.max(begins);
            }
        }
        if let Some(other) = other {
            let detail = format!("both {other} and {machine} became leader in epoch {epoch}");
            self.violate("one-leader-per-epoch", at, partition, detail);
        }
        if let Some((from, end)) = lost {
            let detail = format!("{machine}, leader in epoch {epoch}, lacks committed records in [{from}, {end})");
            self.violate("leader-completeness", at, partition, detail);
        }
    }

    pub fn violate(&mut self, name: &'static str, at: Time, partition: &TopicPartition, detail: String) {
        self.violate_of(name, at, partition.to_string(), detail);
    }

    fn violate_of(&mut self, name: &'static str, at: Time, subject: String, detail: String) {
        self.violations.push(Violation { name, at, partition: subject, detail });
    }
}

impl PartitionGhost {
    fn is_led(&self) -> bool {
        let leader = self.logs.get(&self.leader_machine);
        leader.is_some_and(|replica| replica.leads == Some(self.leader_epoch))
    }

    /// Records of the leader above its high watermark.
    fn uncommitted(&self) -> i64 {
        self.logs.get(&self.leader_machine).map_or(0, |replica| replica.log_end - replica.high_watermark)
    }

    /// Whether `machine` leads in the controller's leader epoch.
    fn is_led_by(&self, machine: &str) -> bool {
        let leads = self.logs.get(machine).is_some_and(|replica| replica.leads == Some(self.leader_epoch));
        leads && self.leader_machine == machine
    }

    /// Compares what has not been compared yet of a replica's log, up to `end`, with the committed log: the offset of
    /// the first difference.
    ///
    /// Not what the leader has deleted. Its oldest epoch begins where its log does
    /// (`LeaderEpochFileCache.truncateFromStart`), so a follower that diverged below keeps that until it hears where the
    /// log begins, with the same fetch.
    fn compare(&mut self, machine: &str, end: Offset) -> Option<Offset> {
        let replica = self.logs.get_mut(machine).expect("a replica that was heard of");
        if replica.compared >= end.0 {
            return None;
        }
        let from = Offset(std::mem::replace(&mut replica.compared, end.0).max(replica.log_start)).max(self.led_from);
        // A log may begin within a batch.
        if from >= end {
            return None;
        }
        first_difference(range(&replica.batches, from, end), range(&self.committed, from, end), &self.compacted)
    }

    /// Up to where a deposed leader that has not heard of it yet extends the committed log when its high watermark
    /// reaches `end`: its successor leads already, and what that lacks can never be read again. `None`: no further than
    /// `end`, or nobody has taken over from it.
    fn held_by_successor(&self, machine: &str, end: Offset) -> Option<Offset> {
        let replica = &self.logs[machine];
        let is_deposed = replica.leads.is_some_and(|epoch| epoch < self.led_epoch);
        let successor = self.leaders.get(&self.led_epoch).filter(|_| is_deposed)?;
        let from = self.true_high_watermark;
        first_difference(self.logs[successor].range(from, end), replica.range(from, end), &self.compacted)
            .map(|differs| differs.max(from))
    }

    /// Members of the controller's ISR that do not hold `news`, what is told to be committed in [from, end): the
    /// violation, and why.
    fn weak_members(&self, from: Offset, end: Offset, news: &[BatchInfo]) -> Vec<(&'static str, String)> {
        self.isr_machines.iter().filter_map(|machine| self.differs(machine, from, end, news)).collect()
    }

    /// The same for one replica and all that is committed. Not what the leader has deleted, as in [`Self::compare`].
    fn weakness(&self, machine: &str, end: Offset) -> Option<(&'static str, String)> {
        let compared = self.logs.get(machine).map_or(0, |replica| replica.compared);
        let from = Offset(compared).max(self.led_from).min(end);
        self.differs(machine, from, end, range(&self.committed, from, end))
    }

    fn differs(&self, machine: &str, from: Offset, end: Offset, news: &[BatchInfo]) -> Option<(&'static str, String)> {
        let replica = self.logs.get(machine);
        let log_end = replica.map_or(0, |replica| replica.log_end);
        if log_end < end.0 {
            return Some(("candidate-completeness", format!("{machine} ends at {log_end}")));
        }
        let replica = replica?;
        let from = from.max(Offset(replica.log_start)).max(self.led_from);
        let differs = first_difference(replica.range(from, end), range(news, from, end), &self.compacted)?;
        Some(("strong-isr", format!("{machine} holds another record at offset {differs}")))
    }

    /// Committed records are lost from `from` on: the committed log is what the leader of now holds.
    fn go_on_from(&mut self, from: Offset) {
        let keep = self.committed.partition_point(|b| b.last_offset < from);
        self.committed.truncate(keep);
        self.producers.go_on_from(from);
        self.true_high_watermark = from;
        self.expired_to = self.expired_to.min(from);
        self.led_from = self.led_from.min(from);
        for replica in self.logs.values_mut() {
            replica.compared = replica.compared.min(from.0);
        }
    }
}

fn numbers(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.0).collect()
}

/// The first offset of `expected` that is not in `held`, which may hold more.
fn first_missing(
    held: &[BatchInfo],
    expected: &[BatchInfo],
    compacted: &BTreeMap<Offset, Compacted>,
) -> Option<Offset> {
    let held = held.iter().filter(|batch| at_base(expected, batch.base_offset).is_some());
    let held: Vec<BatchInfo> = held.copied().collect();
    first_difference(&held, expected, compacted)
}

/// The offset from which `held` is not `expected`, which may be shorter than `held` but must be its beginning. What
/// was `compacted` somewhere may be missing on either side, or have another content.
fn first_difference(
    held: &[BatchInfo],
    expected: &[BatchInfo],
    compacted: &BTreeMap<Offset, Compacted>,
) -> Option<Offset> {
    let may_be_missing = |batch: &BatchInfo| compacted.get(&batch.base_offset) == Some(&Compacted::Removed);
    let mut held = held.iter().peekable();
    for batch in expected {
        while held.next_if(|h| h.base_offset < batch.base_offset && may_be_missing(h)).is_some() {}
        match held.next_if(|h| h.base_offset == batch.base_offset) {
            Some(same) if same == batch => {}
            Some(other) if is_same_place(other, batch) && compacted.contains_key(&batch.base_offset) => {}
            None if may_be_missing(batch) => {}
            Some(_) | None => return Some(batch.base_offset),
        }
    }
    None
}

/// All but the content.
fn is_same_place(one: &BatchInfo, other: &BatchInfo) -> bool {
    BatchInfo { crc: 0, ..*one } == BatchInfo { crc: 0, ..*other }
}

#[cfg(test)]
mod tests;
