//! The omniscient observer: ghost state about every replica's log, fed by observations, and the
//! invariants that no client can see. Each is checked at the event that could break it.
//!
//! The *true high watermark* of a partition is the highest that any leader ever reached; the records below
//! it are the *committed log*. When a run legitimately loses them (unclean election, power loss of the last
//! in-sync replica) the violation is stated once and the ghost goes on with what the new leader holds.

use std::collections::BTreeMap;

use super::outcome::Violation;
use crate::observe::{BatchInfo, LogStartReason, Observation};
use crate::protocol::{BrokerId, LeaderEpoch, Offset, TopicPartition};
use crate::world::Time;

/// Ghost state of a whole run.
#[derive(Default)]
pub struct Ghost {
    pub partitions: BTreeMap<TopicPartition, PartitionGhost>,
    /// Brokers that the controller has unfenced.
    pub active: BTreeMap<BrokerId, bool>,
    pub violations: Vec<Violation>,
}

/// One partition: the controller's view, the committed log, each replica's log.
pub struct PartitionGhost {
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub isr: Vec<BrokerId>,
    /// The same, as machine names.
    isr_machines: Vec<String>,
    pub replicas: Vec<BrokerId>,
    /// The highest high watermark that a leader ever reached.
    pub true_high_watermark: Offset,
    committed: Vec<BatchInfo>,
    /// The highest log start that retention or DeleteRecords made on any replica.
    expired_to: Offset,
    logs: BTreeMap<String, ReplicaGhost>,
    leaders: BTreeMap<LeaderEpoch, String>,
}

impl Default for PartitionGhost {
    fn default() -> Self {
        PartitionGhost {
            leader: BrokerId::NONE,
            leader_epoch: LeaderEpoch::NONE,
            isr: Vec::new(),
            isr_machines: Vec::new(),
            replicas: Vec::new(),
            true_high_watermark: Offset::ZERO,
            committed: Vec::new(),
            expired_to: Offset::ZERO,
            logs: BTreeMap::new(),
            leaders: BTreeMap::new(),
        }
    }
}

#[derive(Default)]
struct ReplicaGhost {
    batches: Vec<BatchInfo>,
    log_start: i64,
    log_end: i64,
    high_watermark: i64,
    /// The epoch in which it leads, by its own belief.
    leads: Option<LeaderEpoch>,
    /// The high watermark it last had while it leads in that epoch.
    reigns_with: Option<Offset>,
}

impl ReplicaGhost {
    fn set_end(&mut self) {
        self.log_end = self.batches.last().map_or(0, |b| b.last_offset.0 + 1);
    }

    /// Batches that overlap [from, to).
    fn range(&self, from: Offset, to: Offset) -> &[BatchInfo] {
        range(&self.batches, from, to)
    }
}

fn range(batches: &[BatchInfo], from: Offset, to: Offset) -> &[BatchInfo] {
    let start = batches.partition_point(|b| b.last_offset < from);
    let end = batches.partition_point(|b| b.base_offset < to);
    &batches[start.min(end)..end]
}

/// `broker-2` for broker 2.
pub fn machine_of(broker: BrokerId) -> String {
    format!("broker-{broker}")
}

impl Ghost {
    pub fn partition(&self, partition: &str) -> Option<&PartitionGhost> {
        TopicPartition::parse(partition).and_then(|p| self.partitions.get(&p))
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
                replica.leads = None;
            }
            Observation::Appended { partition, batches, .. } => {
                let replica = self.replica(partition, machine);
                replica.batches.extend_from_slice(batches);
                replica.set_end();
            }
            Observation::Truncated { partition, to, .. } => {
                let replica = self.replica(partition, machine);
                let keep = replica.batches.partition_point(|b| b.last_offset < *to);
                replica.batches.truncate(keep);
                replica.log_end = to.0;
                replica.high_watermark = replica.high_watermark.min(to.0);
            }
            Observation::LogStartMoved { partition, to, reason, .. } => {
                self.log_start_moved(machine, partition, *to, *reason);
            }
            Observation::HighWatermark { partition, offset, as_leader } => {
                self.high_watermark(at, machine, partition, *offset, *as_leader);
            }
            Observation::BecameLeader { partition, leader_epoch, .. } => {
                self.became_leader(at, machine, partition, *leader_epoch);
            }
            Observation::BecameFollower { partition, .. } => self.replica(partition, machine).leads = None,
            Observation::PartitionChanged { partition, leader, leader_epoch, isr, replicas, .. } => {
                let ghost = self.partitions.entry(partition.clone()).or_default();
                if *leader_epoch < ghost.leader_epoch {
                    let detail =
                        format!("the controller's leader epoch went from {} to {leader_epoch}", ghost.leader_epoch);
                    self.violate("leader-epoch-went-back", at, partition, detail);
                    return;
                }
                ghost.leader = *leader;
                ghost.leader_epoch = *leader_epoch;
                ghost.isr.clone_from(isr);
                ghost.isr_machines = isr.iter().map(|b| machine_of(*b)).collect();
                ghost.replicas.clone_from(replicas);
            }
            Observation::Fenced { broker, fenced, .. } => {
                self.active.insert(*broker, !fenced);
            }
            Observation::Flushed { .. }
            | Observation::IsrView { .. }
            | Observation::Acknowledged { .. }
            | Observation::Refused { .. }
            | Observation::Served { .. }
            | Observation::Registered { .. }
            | Observation::CleanShutdown => {}
        }
    }

    /// The controller's leader believes so too.
    pub fn is_led(&self, partition: &TopicPartition) -> bool {
        self.partitions.get(partition).is_some_and(PartitionGhost::is_led)
    }

    /// Led, and every replica in sync.
    pub fn is_whole(&self, partition: &TopicPartition) -> bool {
        self.partitions.get(partition).is_some_and(|p| p.is_led() && p.isr.len() == p.replicas.len())
    }

    /// A sentence for the verdict on a partition that is not whole.
    pub fn why_not_whole(&self, partition: &TopicPartition) -> String {
        let Some(ghost) = self.partitions.get(partition) else { return "it was never created".to_owned() };
        let isr = &ghost.isr_machines;
        if ghost.leader == BrokerId::NONE {
            return format!("no leader; the in-sync replicas are {isr:?}");
        }
        format!(
            "leader {} in epoch {}, in-sync replicas {isr:?} of {:?}",
            ghost.leader, ghost.leader_epoch, ghost.replicas
        )
    }

    /// The machine's process ended: it leads nothing any more.
    pub fn stopped(&mut self, machine: &str) {
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
        match reason {
            LogStartReason::RetentionTime | LogStartReason::RetentionSize | LogStartReason::DeleteRecords => {
                let ghost = self.partitions.get_mut(partition).expect("replica() inserted it");
                ghost.expired_to = ghost.expired_to.max(to);
            }
            LogStartReason::Leader => {}
        }
    }

    /// Log matching, as far as it can newly break: what enters this replica's high watermark must be the
    /// committed log, or extend it.
    fn high_watermark(&mut self, at: Time, machine: &str, partition: &TopicPartition, offset: Offset, as_leader: bool) {
        let replica = self.replica(partition, machine);
        let before = Offset(replica.high_watermark);
        replica.high_watermark = offset.0;
        // A replica's own may go back when it restarts or begins to lead, but not while it leads.
        let went_back = as_leader && replica.reigns_with.replace(offset).is_some_and(|highest| offset < highest);
        let ghost = self.partitions.get_mut(partition).expect("replica() inserted it");
        let replica = &ghost.logs[machine];
        let known = offset.min(ghost.true_high_watermark);
        let compared = before.max(Offset(replica.log_start));
        let mut mismatch = None;
        if compared < known {
            mismatch = first_difference(replica.range(compared, known), range(&ghost.committed, compared, known));
        }
        let mut incomplete = None;
        if as_leader && offset > ghost.true_high_watermark {
            let news: Vec<BatchInfo> = replica.range(ghost.true_high_watermark, offset).to_vec();
            ghost.committed.extend(news);
            ghost.true_high_watermark = offset;
            incomplete = ghost.incomplete_candidate(offset);
        }
        if went_back {
            let detail = format!("{machine} leads and lowered its high watermark from {before} to {offset}");
            self.violate("high-watermark-went-back", at, partition, detail);
        }
        if let Some(at_offset) = mismatch {
            let detail = format!(
                "{machine} holds another record than the committed one at offset {at_offset}, below its high watermark {offset}"
            );
            self.violate("log-matching", at, partition, detail);
        }
        if let Some((broker, end)) = incomplete {
            let detail = format!("high watermark {offset} at {machine}, but in-sync replica {broker} ends at {end}");
            self.violate("candidate-completeness", at, partition, detail);
        }
    }

    fn became_leader(&mut self, at: Time, machine: &str, partition: &TopicPartition, epoch: LeaderEpoch) {
        let replica = self.replica(partition, machine);
        replica.leads = Some(epoch);
        replica.reigns_with = None;
        let ghost = self.partitions.get_mut(partition).expect("replica() inserted it");
        let other = ghost.leaders.insert(epoch, machine.to_owned()).filter(|m| m != machine);
        let replica = &ghost.logs[machine];
        // A log may begin where retention or a client made some replica's begin, and no later.
        let start = ghost.expired_to.min(Offset(replica.log_start));
        let end = ghost.true_high_watermark;
        let missing = first_difference(replica.range(start, end), range(&ghost.committed, start, end));
        let mut lost = None;
        if let Some(from) = missing
            && epoch >= ghost.leader_epoch
        {
            lost = Some((from, end));
            // From here on the committed log is what this leader holds.
            let keep = ghost.committed.partition_point(|b| b.last_offset < from);
            ghost.committed.truncate(keep);
            ghost.true_high_watermark = from;
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
        self.violations.push(Violation { name, at, partition: partition.to_string(), detail });
    }
}

impl PartitionGhost {
    fn is_led(&self) -> bool {
        let leader = self.logs.get(&machine_of(self.leader));
        leader.is_some_and(|replica| replica.leads == Some(self.leader_epoch))
    }

    /// A member of the controller's ISR whose log ends below `high_watermark`.
    fn incomplete_candidate(&self, high_watermark: Offset) -> Option<(String, i64)> {
        self.isr_machines.iter().find_map(|machine| {
            let end = self.logs.get(machine).map_or(0, |replica| replica.log_end);
            (end < high_watermark.0).then(|| (machine.clone(), end))
        })
    }
}

/// The offset from which `held` is not `expected`, which may be longer than `held` but must begin with it.
fn first_difference(held: &[BatchInfo], expected: &[BatchInfo]) -> Option<Offset> {
    for (i, batch) in expected.iter().enumerate() {
        if held.get(i) != Some(batch) {
            return Some(batch.base_offset);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::TruncationReason;

    const AT: Time = Time::from_millis(1);

    fn orders() -> TopicPartition {
        TopicPartition::new("orders", 0)
    }

    /// One record per batch; `content` stands for what is in it.
    fn batch(offset: i64, epoch: i32, content: u32) -> BatchInfo {
        BatchInfo {
            base_offset: Offset(offset),
            last_offset: Offset(offset),
            leader_epoch: LeaderEpoch(epoch),
            crc: content,
        }
    }

    /// A ghost that is told one fact after another.
    #[derive(Default)]
    struct Told(Ghost);

    impl Told {
        fn elects(mut self, leader: i32, epoch: i32, isr: &[i32]) -> Told {
            let isr: Vec<BrokerId> = isr.iter().map(|id| BrokerId(*id)).collect();
            let change = Observation::PartitionChanged {
                partition: orders(),
                leader: BrokerId(leader),
                leader_epoch: LeaderEpoch(epoch),
                partition_epoch: crate::protocol::PartitionEpoch(epoch),
                isr: isr.clone(),
                replicas: vec![BrokerId(1), BrokerId(2), BrokerId(3)],
                unclean: false,
            };
            self.0.observe(AT, "controller", &change);
            self.leads(leader, epoch)
        }

        fn leads(mut self, broker: i32, epoch: i32) -> Told {
            let (partition, leader_epoch) = (orders(), LeaderEpoch(epoch));
            let fact = Observation::BecameLeader { partition, leader_epoch, log_end: Offset::ZERO, isr: Vec::new() };
            self.0.observe(AT, &machine_of(BrokerId(broker)), &fact);
            self
        }

        fn appends(mut self, broker: i32, batches: &[BatchInfo]) -> Told {
            let (partition, batches) = (orders(), batches.to_vec());
            let fact = Observation::Appended { partition, as_leader: false, leader_epoch: LeaderEpoch(0), batches };
            self.0.observe(AT, &machine_of(BrokerId(broker)), &fact);
            self
        }

        fn truncates(mut self, broker: i32, from: i64, to: i64) -> Told {
            let (from, to, reason) = (Offset(from), Offset(to), TruncationReason::DivergingEpoch);
            let fact = Observation::Truncated { partition: orders(), from, to, reason };
            self.0.observe(AT, &machine_of(BrokerId(broker)), &fact);
            self
        }

        fn moves_log_start(mut self, broker: i32, to: i64, reason: LogStartReason) -> Told {
            let (partition, from, to) = (orders(), Offset(0), Offset(to));
            let fact = Observation::LogStartMoved { partition, from, to, reason };
            self.0.observe(AT, &machine_of(BrokerId(broker)), &fact);
            self
        }

        fn high_watermark(mut self, broker: i32, offset: i64, as_leader: bool) -> Told {
            let fact = Observation::HighWatermark { partition: orders(), offset: Offset(offset), as_leader };
            self.0.observe(AT, &machine_of(BrokerId(broker)), &fact);
            self
        }

        fn violations(&self) -> Vec<&'static str> {
            self.0.violations.iter().map(|v| v.name).collect()
        }
    }

    /// Broker 1 leads with two committed records that brokers 2 and 3 have too.
    fn healthy() -> Told {
        let two = [batch(0, 0, 10), batch(1, 0, 11)];
        let told = Told::default().elects(1, 0, &[1, 2, 3]);
        told.appends(1, &two).appends(2, &two).appends(3, &two).high_watermark(1, 2, true)
    }

    #[test]
    fn a_healthy_partition_violates_nothing() {
        let told = healthy().high_watermark(2, 2, false).high_watermark(3, 1, false).elects(2, 1, &[2, 3]);
        assert!(told.violations().is_empty(), "{:?}", told.0.violations);
        assert!(told.0.is_led(&orders()) && !told.0.is_whole(&orders()));
    }

    #[test]
    fn another_record_below_the_high_watermark_breaks_log_matching() {
        let diverged = |content| {
            let told = healthy().truncates(3, 2, 1).appends(3, &[batch(1, 0, content)]);
            told.high_watermark(3, 2, false)
        };
        assert_eq!(diverged(99).violations(), ["log-matching"]);
        assert!(diverged(11).violations().is_empty());
        // Beyond its high watermark a replica may hold what it likes.
        let beyond = healthy().truncates(3, 2, 1).appends(3, &[batch(1, 0, 99)]).high_watermark(3, 1, false);
        assert!(beyond.violations().is_empty());
    }

    #[test]
    fn the_same_record_under_another_epoch_is_another_record() {
        let told = healthy().truncates(3, 2, 1).appends(3, &[batch(1, 1, 11)]).high_watermark(3, 2, false);
        assert_eq!(told.violations(), ["log-matching"]);
    }

    #[test]
    fn a_leader_without_a_committed_record_is_incomplete_and_said_once() {
        let told = healthy().truncates(3, 2, 1).elects(3, 1, &[3]);
        assert_eq!(told.violations(), ["leader-completeness"]);
        let told = told.elects(3, 2, &[3]).high_watermark(3, 1, true);
        assert_eq!(told.violations(), ["leader-completeness"], "the loss is not stated again");
        assert!(healthy().elects(3, 1, &[3]).violations().is_empty());
    }

    #[test]
    fn a_stale_leader_that_lacks_records_is_no_violation() {
        let told = healthy().elects(2, 5, &[2, 3]).truncates(3, 2, 1).leads(3, 4);
        assert!(told.violations().is_empty(), "{:?}", told.0.violations);
    }

    #[test]
    fn two_leaders_of_one_epoch_are_one_too_many() {
        assert_eq!(healthy().leads(2, 0).violations(), ["one-leader-per-epoch"]);
        assert!(healthy().leads(1, 0).violations().is_empty(), "the same one again");
    }

    #[test]
    fn a_high_watermark_above_an_in_sync_replica_makes_it_an_incomplete_candidate() {
        let ahead =
            |isr: &[i32]| healthy().elects(1, 1, isr).appends(1, &[batch(2, 1, 12)]).appends(2, &[batch(2, 1, 12)]);
        assert_eq!(ahead(&[1, 2, 3]).high_watermark(1, 3, true).violations(), ["candidate-completeness"]);
        assert!(ahead(&[1, 2]).high_watermark(1, 3, true).violations().is_empty());
    }

    #[test]
    fn a_high_watermark_goes_back_only_between_reigns() {
        assert_eq!(healthy().high_watermark(1, 1, true).violations(), ["high-watermark-went-back"]);
        assert!(healthy().elects(2, 1, &[1, 2, 3]).high_watermark(2, 1, true).violations().is_empty());
        assert!(healthy().high_watermark(2, 2, false).high_watermark(2, 1, false).violations().is_empty());
    }

    #[test]
    fn what_retention_deleted_is_not_missing_from_a_later_leader() {
        let told = healthy().moves_log_start(1, 1, LogStartReason::RetentionTime);
        let told = told.moves_log_start(2, 1, LogStartReason::Leader).elects(2, 1, &[1, 2, 3]);
        assert!(told.violations().is_empty(), "{:?}", told.0.violations);
        assert!(told.high_watermark(3, 2, false).violations().is_empty());
    }

    #[test]
    fn a_log_that_begins_later_than_retention_made_any_begin_is_incomplete() {
        let told = healthy().moves_log_start(2, 1, LogStartReason::Leader).elects(2, 1, &[1, 2, 3]);
        assert_eq!(told.violations(), ["leader-completeness"]);
    }

    #[test]
    fn a_leader_epoch_never_goes_back() {
        assert_eq!(healthy().elects(2, 3, &[2]).elects(1, 2, &[1]).violations()[..1], ["leader-epoch-went-back"]);
    }
}
