//! The survivability guard: which losses are legitimate, and why, so that every failure the fuzzer reports is one.
//!
//! [`crate::check::allowed`] judges a whole run: one lossy crash too many anywhere excuses every loss. Here each loss
//! is held against what happened to the replica that was elected without the record. Kafka may lose
//! - what only had acks=1 and no high watermark ever covered, once leadership has moved;
//! - what an unclean election (`unclean.leader.election.enable`) left behind, from that moment on;
//! - what the last member of the ISR had not flushed when it lost power, if it was in the ISR from its power loss to its
//!   election and alone in it then. Eligible leader replicas (KIP-966), which would elect another, are not modelled;
//! - what a leader acknowledged that had not heard of such a loss yet, if the loss had taken just that;
//! - what retention deleted in its time, and what compaction removed.
//!
//! Nothing else: no loss by a process crash, by an orderly stop, by a network, by a replica that had left the ISR, of
//! a record that was flushed. As many power losses as min.insync.replicas are no reason of their own: they lose records
//! only through the third of these.
//!
//! A disk that lies excuses what its own machine lost, flushed or not, and no more: the loss must have come through that
//! machine as the last of the ISR. One that rots also excuses that its machine cannot serve what it leads. A broker that a
//! late registration of its predecessor locked out is waited for in vain.

mod disks;
mod downgrades;
mod proposals;
mod registrations;
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::GroupProtocol;
use crate::coordinator;
use crate::lab::outcome::{RunOutcome, Violation};
use crate::observe::LogStartReason;
use crate::protocol::{Offset, TopicPartition};
use crate::scenario::{Topic, Variant, Workload};
use crate::world::Time;

use super::topic_of;
use downgrades::{Downgrade, Members};
use replay::{Ack, ClientProcess, Loss, Partition, Replay};

pub use replay::Gone;

/// Why a loss is legitimate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Excuse {
    /// acks=1 promises the leader's copy, and leadership moved before a follower had it.
    LeadershipMoved,
    UncleanElection,
    LastReplicaLostPower,
    /// The replica lost power, and the controller has not taken it out of the ISR yet.
    InSyncReplicaLostPower,
    /// The machine's disk lied and then lost power, or rotted: it cannot serve what it has.
    UntrustedDisk,
    /// A registration of its dead predecessor came late, and the living broker's heartbeats are stale for good.
    LockedOut,
    /// The replica has not heard of the leader yet with which a legitimate loss came.
    NotHeardOfLoss,
    /// A leader that was deposed and elected again, and heard of both at once, goes by what its followers had before
    /// (`Partition.makeLeader`).
    MissedDeposition,
    /// There are not enough brokers for `offsets.topic.replication.factor`, or that is below `min.insync.replicas`.
    NoOffsetsTopic,
    /// A static leader that comes back to its group takes its topics as they are then for what was shared out
    /// (`ConsumerCoordinator.onLeaderElected`, KIP-814).
    ReturningLeader,
    /// A member of a consumer group left while `__consumer_offsets` took nothing: it stays in its group, and its
    /// session is not watched any more (`GroupMetadataManager.consumerGroupFenceMember` cancels timers before it writes).
    LeaveRefused,
    /// The last member of the new protocol was gone, and that the group was to be shared out anew went with its coordinator
    /// (see [`downgrades`]).
    RebalanceForgotten,
    /// A consumer group gave away what a member had not let go of. It said what it had taken up of an earlier assignment, in
    /// the epoch of a later one that it was about to take up, or before it heard that it was to give up what it had not taken
    /// up (`CurrentAssignmentBuilder.ownsRevokedPartitions`; `maybeReconcile` then takes up what was assigned when it
    /// began); or, of the classic protocol, it had been taken out, and its JoinGroup was taken for that of a new member
    /// instead of being refused (`classicGroupJoinToConsumerGroup`), so that it kept what it had; or the group moved to the classic protocol in the middle of a rebalance, and back (`ConsumerGroup.fromClassicGroup`).
    NotLetGo,
    /// A cleaned segment of the leader is larger than `segment.bytes`: a tombstone takes more bytes once it knows when it
    /// may go (`RecordBatch.deleteHorizonMs`). No follower takes what one fetch reads of it (`UnifiedLog.append`).
    GrownByCleaning,
    /// The leader's log begins within a batch, and with that its epochs: a follower whose log parted below is not told so,
    /// and gives up when the batch that holds the next offset begins before its log ends (`UnexpectedAppendOffsetException`).
    BeginsWithinBatch,
    /// A follower whose log began behind its leader's end was cut to that: it began anew there, without what its leader has
    /// below, and was elected (`AbstractFetcherThread.fetchOffsetAndTruncate`, `UnifiedLog.truncateFullyAndStartAt`).
    BegunAnew,
    /// A leader took its proposal of an ISR for refused, and a copy of it that came late was granted (see [`proposals`]).
    GrantedLate,
    /// The leader's first record of an epoch is later than the epoch began: a compacted log was all that it could fetch.
    /// Followers with logs that parted in between are not told so (`LeaderEpochFileCache.assign`, by the base offset of the
    /// first batch that a follower appends).
    EpochHidden,
    /// Retention deleted it in its time, or a client did.
    Expired,
    Compacted,
}

impl Excuse {
    /// As reports say it.
    pub fn reason(self) -> &'static str {
        match self {
            Excuse::LeadershipMoved => "acks=1: only the leader had it, and leadership moved",
            Excuse::UncleanElection => "an unclean election left committed records behind",
            Excuse::LastReplicaLostPower => "the last in-sync replica lost power with what it had not flushed",
            Excuse::InSyncReplicaLostPower => "an in-sync replica lost power and has not been fenced yet",
            Excuse::UntrustedDisk => "the disk of the replica lied and lost power, or rotted",
            Excuse::LockedOut => "a registration of the broker's dead predecessor came while it was fenced",
            Excuse::NotHeardOfLoss => "the replica has not heard of the leader yet that lost records legitimately",
            Excuse::MissedDeposition => {
                "the leader missed that it had been deposed in between, and what its followers cut"
            }
            Excuse::NoOffsetsTopic => "there cannot be as many replicas of __consumer_offsets as it must have",
            Excuse::ReturningLeader => {
                "a static leader that came back took new partitions for shared out, and nobody has rejoined since"
            }
            Excuse::LeaveRefused => {
                "a member left while that could not be stored, and its session is not watched any more"
            }
            Excuse::RebalanceForgotten => {
                "the last member of the new protocol was gone, and the next coordinator did not know that the others were to join"
            }
            Excuse::NotLetGo => "its group gave a partition to others before who had it let go of it",
            Excuse::GrownByCleaning => "the leader's segment grew beyond segment.bytes when it was cleaned",
            Excuse::BeginsWithinBatch => "the leader's log begins within a batch, and the follower's had parted below",
            Excuse::BegunAnew => {
                "a follower's log began behind its leader's end, and anew at that end, with nothing below"
            }
            Excuse::GrantedLate => "the ISR was granted by a late copy of a proposal that the leader took for refused",
            Excuse::EpochHidden => "compaction had hidden where an epoch began",
            Excuse::Expired => "it had expired",
            Excuse::Compacted => "compaction removed it",
        }
    }
}

/// A record that a client was told is there.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// Its number within the partition; `None` if it is not one of the laboratory's.
    pub value: Option<u64>,
    pub offset: Offset,
    pub sent_at: Time,
    /// When the client heard of it.
    pub acked_at: Time,
}

fn has_offsets(variant: &Variant) -> bool {
    let config = &variant.cluster.config;
    let replicas = i32::from(config.groups.offsets_topic_replication_factor);
    (config.min_insync_replicas..=i32::try_from(variant.cluster.brokers).unwrap_or(i32::MAX)).contains(&replicas)
}

/// The name of a static member of the classic protocol.
fn static_member(workload: &Workload) -> Option<String> {
    match workload {
        Workload::Consume { name, config, membership: Some(_), .. }
            if config.group_instance_id.is_some() && config.group_protocol == GroupProtocol::Classic =>
        {
            Some(name.clone())
        }
        Workload::Consume { .. } | Workload::Produce { .. } => None,
    }
}

fn may_elect_uncleanly(topic: &Topic, variant: &Variant) -> bool {
    topic.effective_config(&variant.cluster.config).unclean_leader_election_enable
}

/// Brokers, and clients from them, hear of a new partition a while after the controller has made it.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// Who leads in which epoch, who counts, and what is handed out must be right whatever is lost; so must recovery once all
/// is healed.
const NEVER_EXCUSED: [&str; 5] = [
    "broker-epoch-went-back",
    "committed-under-min-isr",
    "leader-epoch-went-back",
    "one-leader-per-epoch",
    "partition-epoch-went-back",
];

/// What a run's trace tells of its losses.
pub struct Guard {
    replay: Replay,
    /// By topic.
    retention_ms: BTreeMap<String, i64>,
    min_insync_replicas: BTreeMap<String, usize>,
    /// Records are as old as it is since they were sent.
    has_plain_time: bool,
    /// `__consumer_offsets` can be made, and written to.
    has_offsets: bool,
    /// Static members of the classic protocol.
    static_members: BTreeSet<String>,
    /// The members of each group.
    members: BTreeMap<String, Members>,
}

impl Guard {
    pub fn of(variant: &Variant, outcome: &RunOutcome) -> Guard {
        let unclean: BTreeSet<&str> = variant
            .topics
            .iter()
            .filter(|topic| may_elect_uncleanly(topic, variant))
            .map(|t| t.name.as_str())
            .collect();
        let of_offsets = variant.cluster.config.unclean_leader_election_enable;
        let may_elect_uncleanly = |partition: &TopicPartition| match partition.topic.0.as_str() {
            coordinator::TOPIC => of_offsets,
            topic => unclean.contains(topic),
        };
        let replay = Replay::of(&outcome.trace, &variant.faults, &may_elect_uncleanly);
        let mut guard = Guard {
            replay,
            retention_ms: BTreeMap::new(),
            min_insync_replicas: BTreeMap::new(),
            has_plain_time: has_plain_time(variant),
            has_offsets: has_offsets(variant),
            static_members: variant.workloads.iter().filter_map(static_member).collect(),
            members: Members::of(variant),
        };
        let of_offsets = usize::try_from(variant.cluster.config.min_insync_replicas).unwrap_or(1);
        guard.min_insync_replicas.insert(coordinator::TOPIC.to_owned(), of_offsets);
        for topic in &variant.topics {
            let config = topic.effective_config(&variant.cluster.config);
            let required = usize::try_from(config.min_insync_replicas).unwrap_or(1);
            guard.retention_ms.insert(topic.name.clone(), config.log.retention_ms);
            guard.min_insync_replicas.insert(topic.name.clone(), required);
        }
        guard
    }

    /// Why a machine cannot serve what it has, if that is legitimate.
    fn excuse_absent(&self, machine: &str) -> Option<Excuse> {
        if self.replay.disks.is_spoiled(machine) {
            return Some(Excuse::UntrustedDisk);
        }
        self.replay.registrations.is_locked_out(machine).then_some(Excuse::LockedOut)
    }

    /// Why a partition has no leader that serves, if that is legitimate: a leader whose disk is spoiled cannot hand out
    /// what it has, and Kafka has no reason to elect another.
    fn excuse_stuck(&self, partition: &Partition) -> Option<Excuse> {
        match &partition.leader {
            Some(leader) => self.excuse_absent(leader),
            // Without a leader the members of the ISR are waited for.
            None => partition.isr.iter().find_map(|member| self.excuse_absent(member)),
        }
    }

    /// Why a partition could not be read to its end, if that is legitimate. With fewer replicas in sync than
    /// `min.insync.replicas` the high watermark stands still until the others are back (KIP-966). Whoever led while it was
    /// read may have served the reader a batch that it cannot get past: a consumer stays where it has met one until it is
    /// told to go on (`CompletedFetch.fetchRecords`), whoever leads then.
    fn excuse_unreadable(&self, key: &str, partition: &Partition) -> Option<Excuse> {
        if let Some(excuse) = self.excuse_standstill(topic_of(key), partition) {
            return Some(excuse);
        }
        let mut leaders = partition.final_leaders.iter().flatten();
        let led_in_vain = leaders.any(|leader| self.replay.disks.is_spoiled(leader));
        self.excuse_stuck(partition).or(led_in_vain.then_some(Excuse::UntrustedDisk))
    }

    /// Why fewer replicas than `min.insync.replicas` are in sync, so that nothing is committed, if that is legitimate.
    fn excuse_standstill(&self, topic: &str, partition: &Partition) -> Option<Excuse> {
        let required = self.min_insync_replicas.get(topic).copied().unwrap_or(1);
        let missing = partition.assigned.iter().filter(|machine| !partition.isr.contains(machine));
        let absent: Vec<Excuse> = missing.filter_map(|machine| self.excuse_absent(machine)).collect();
        let is_short = partition.assigned.len() - absent.len() < required.min(partition.assigned.len());
        absent.first().copied().filter(|_| is_short)
    }

    /// Why replicas of a partition did not come back into the ISR, if that is legitimate: their leader's disk is spoiled,
    /// or their own, so that they may not even start.
    fn excuse_missing(&self, partition: &Partition) -> Option<Excuse> {
        let missing = partition.assigned.iter().filter(|machine| !partition.isr.contains(machine));
        let gave_up = |machine: &String| {
            let reason = *partition.gave_up.get(machine)?;
            let is_possible = match reason {
                Excuse::GrownByCleaning => !partition.compacted.is_empty(),
                _ => partition.expired_to > Offset::ZERO,
            };
            is_possible.then_some(reason)
        };
        let excuse = |machine: &String| self.excuse_absent(machine).or_else(|| gave_up(machine));
        let excuses: Option<Vec<Excuse>> = missing.map(excuse).collect();
        self.excuse_stuck(partition).or(excuses.and_then(|excuses| excuses.first().copied()))
    }

    /// Why a group may not come to rest: nobody can read what its coordinator is to load, or commit what it decides.
    fn excuse_stuck_coordinator(&self) -> Option<Excuse> {
        if !self.has_offsets {
            return Some(Excuse::NoOffsetsTopic);
        }
        let excuse =
            |partition| self.excuse_stuck(partition).or_else(|| self.excuse_standstill(coordinator::TOPIC, partition));
        self.offsets_partitions().find_map(excuse)
    }

    /// Why nobody may own a partition that its topic got later: a static member that knew the topic without it, and led
    /// perhaps, has come back, and into its group only since.
    fn excuse_unnoticed(&self, key: &str) -> Option<Excuse> {
        let created = self.partition(key)?.created_at?;
        let mut of_static = self.static_members.iter().filter_map(|member| self.replay.processes.get(member));
        let has_returned = |processes: &Vec<ClientProcess>| {
            let Some((first, later)) = processes.split_first() else { return false };
            let is_since = |at: Option<Time>| at.is_some_and(|at| created < at);
            let has_rejoined = is_since(first.rejoined_at) || later.iter().any(|process| is_since(process.rejoined_at));
            let has_restarted = later.iter().any(|process| process.joined.is_none_or(|(at, _)| created < at));
            first.started_at < created + HEARD_WITHIN && (has_rejoined || has_restarted)
        };
        of_static.any(has_returned).then_some(Excuse::ReturningLeader)
    }

    /// Why nobody may own what a member had that is gone.
    fn excuse_forgotten_rebalance(&self, violation: &Violation) -> Option<Excuse> {
        let is_forgotten = |downgrade: &Downgrade| {
            let is_of_group = violation.detail.starts_with(&format!("group {} ", downgrade.group));
            let members = self.members.get(&downgrade.group).filter(|_| is_of_group);
            members.is_some_and(|members| downgrade.is_forgotten(&self.replay, members))
        };
        self.replay.downgrades.iter().any(is_forgotten).then_some(Excuse::RebalanceForgotten)
    }

    /// Why a group may begin anew, or go back: what `__consumer_offsets` held is lost, or was not what its coordinator read
    /// when it took over.
    fn excuse_forgetful_coordinator(&self, by: Time) -> Option<Excuse> {
        let has_misread = |partition: &Partition| partition.led_spoiled_at.is_some_and(|since| since <= by);
        let misread = || self.offsets_partitions().any(has_misread).then_some(Excuse::UntrustedDisk);
        self.offsets_partitions().find_map(Partition::gap).or_else(misread)
    }

    fn offsets_partitions(&self) -> impl Iterator<Item = &Partition> {
        let of_offsets = |key: &TopicPartition| key.topic.0.as_str() == coordinator::TOPIC;
        self.replay.partitions.iter().filter(move |(key, _)| of_offsets(key)).map(|(_, partition)| partition)
    }

    /// Why a broken invariant is legitimate, if it is.
    pub fn excuse_violation(&self, violation: &Violation) -> Option<Excuse> {
        if violation.name == "stuck-group" {
            return self
                .excuse_stuck_coordinator()
                .or_else(|| self.excuse_unnoticed(&violation.partition))
                .or_else(|| self.excuse_forgotten_rebalance(violation))
                .or(self.replay.has_unwatched.then_some(Excuse::LeaveRefused));
        }
        let partition = self.partition(&violation.partition)?;
        match violation.name {
            "liveness" => return self.excuse_missing(partition),
            "unreadable" => return self.excuse_unreadable(&violation.partition, partition),
            "stuck-consumer" => {
                return self
                    .excuse_unreadable(&violation.partition, partition)
                    .or_else(|| self.excuse_stuck_coordinator());
            }
            "skipped-record" => return partition.gap(),
            "owned-twice" | "offset-rewind" => {
                let is_unclaimed = partition.unclaimed_at.is_some_and(|since| since <= violation.at);
                return partition
                    .gap()
                    .or_else(|| self.excuse_forgetful_coordinator(violation.at))
                    .or(is_unclaimed.then_some(Excuse::NotLetGo));
            }
            _ => {}
        }
        if NEVER_EXCUSED.contains(&violation.name) {
            return None;
        }
        if violation.name == "served-uncommitted" {
            return partition.spoiled_views.contains(&violation.at).then_some(Excuse::UntrustedDisk);
        }
        // Whatever was lost, who follows the leader that lost it has its log.
        if violation.name != "log-matching" && partition.unclean_at.is_some_and(|at| at <= violation.at) {
            return Some(Excuse::UncleanElection);
        }
        let is_late = partition.proposals.is_late(violation.at);
        match violation.name {
            "quorum-superset" => is_late.then_some(Excuse::GrantedLate),
            "candidate-completeness" | "strong-isr" | "acknowledged-incomplete" if is_late => Some(Excuse::GrantedLate),
            "leader-completeness" => match partition.losses.iter().find(|loss| loss.at == violation.at) {
                Some(loss) => loss.excuse,
                // It has all that is left, and what never was committed.
                None if partition.kept_under_compaction.contains(&violation.at) => Some(Excuse::EpochHidden),
                // It has more than was committed by a leader that could not read all of its own log.
                None => partition.was_led_unread(violation.at).then_some(Excuse::UntrustedDisk),
            },
            // A leader that cannot read its log moves its high watermark over it; the others hold what it lost, and its
            // snapshots know the sequences.
            "candidate-completeness" | "strong-isr" | "log-matching" | "producer-sequence"
                if partition.was_led_unread(violation.at) =>
            {
                Some(Excuse::UntrustedDisk)
            }
            "candidate-completeness" | "strong-isr" | "acknowledged-incomplete"
                if partition.impaired_members.contains(&violation.at) =>
            {
                Some(Excuse::InSyncReplicaLostPower)
            }
            "candidate-completeness" | "strong-isr" if partition.deaf_commits.iter().any(|c| c.at == violation.at) => {
                Some(Excuse::MissedDeposition)
            }
            "candidate-completeness" | "strong-isr" | "acknowledged-incomplete"
                if partition.stale_promises.contains(&violation.at) =>
            {
                Some(Excuse::NotHeardOfLoss)
            }
            "candidate-completeness" | "strong-isr" => {
                partition.spoiled_members.contains(&violation.at).then_some(Excuse::UntrustedDisk)
            }
            "log-matching" if partition.spoiled_views.contains(&violation.at) => Some(Excuse::UntrustedDisk),
            "log-matching" if partition.kept_under_compaction.contains(&violation.at) => Some(Excuse::EpochHidden),
            "log-matching" => partition.stale_views.contains(&violation.at).then_some(Excuse::NotHeardOfLoss),
            _ => None,
        }
    }

    /// Why an acknowledged record may be gone, if it may.
    pub fn excuse_lost(&self, key: &str, promise: &Promise) -> Option<Excuse> {
        let Promise { offset, sent_at, .. } = *promise;
        let partition = self.partition(key)?;
        if partition.unclean_at.is_some() {
            return Some(Excuse::UncleanElection);
        }
        if self.has_expired(key, partition, offset, sent_at) {
            return Some(Excuse::Expired);
        }
        if partition.is_compacted(offset) {
            return Some(Excuse::Compacted);
        }
        let ack = partition.ack(promise)?;
        if ack.required_acks == 1 && !partition.was_committed(ack) {
            // A deposed leader that has not heard of it acknowledges too.
            let moved = partition.leader_epoch > ack.leader_epoch;
            return moved.then_some(Excuse::LeadershipMoved);
        }
        // Whoever acknowledged in an earlier epoch had not heard of the loss.
        partition.loss_of(offset, |loss| loss.at >= ack.at || ack.leader_epoch < loss.epoch)
    }

    /// Whether an acknowledged record is there, but not committed to the end, so that nobody reads it.
    pub fn is_uncommitted(&self, key: &str, promise: &Promise) -> bool {
        let Some(partition) = self.partition(key) else { return false };
        partition.ack(promise).is_some_and(|ack| partition.is_uncommitted(ack))
    }

    /// Retention by time must not delete a record that was sent later than so long ago.
    fn has_expired(&self, key: &str, partition: &Partition, offset: Offset, sent_at: Time) -> bool {
        let retention_ms = self.retention_ms.get(topic_of(key)).and_then(|ms| u64::try_from(*ms).ok());
        partition.expiries.iter().filter(|expiry| offset < expiry.to).any(|expiry| match expiry.reason {
            LogStartReason::RetentionTime => {
                let age_ms = expiry.at.as_nanos().saturating_sub(sent_at.as_nanos()) / 1_000_000;
                !self.has_plain_time || retention_ms.is_some_and(|retention_ms| age_ms >= retention_ms)
            }
            LogStartReason::RetentionSize | LogStartReason::DeleteRecords | LogStartReason::Leader => true,
        })
    }

    /// Why a record that someone read at `offset` may be another one now, if it may.
    pub fn excuse_overwritten(&self, key: &str, offset: Offset) -> Option<Excuse> {
        let partition = self.partition(key)?;
        if partition.unclean_at.is_some() {
            return Some(Excuse::UncleanElection);
        }
        partition.loss_of(offset, |_| true)
    }

    /// Why a value was seen at several offsets, if it may: all copies but one were lost legitimately, and it was sent
    /// again.
    pub fn excuse_duplicate(&self, key: &str, value: Option<u64>, offsets: &[Offset]) -> Option<Excuse> {
        let lost =
            |offset: &Offset| self.excuse_overwritten(key, *offset).filter(|_| !self.is_held(key, *offset, value));
        let excuses: Vec<Excuse> = offsets.iter().filter_map(lost).collect();
        excuses.first().copied().filter(|_| excuses.len() + 1 >= offsets.len())
    }

    /// Whether the leader's log may hold a value at an offset in the end.
    pub fn is_held(&self, key: &str, offset: Offset, value: Option<u64>) -> bool {
        let Some(partition) = self.partition(key) else { return false };
        let batch = partition.at_leader(offset);
        batch.is_some_and(|batch| value.is_none_or(|value| partition.may_carry(&batch, value)))
    }

    /// Whether a partition's log was legitimately cut below what consumers may have read.
    pub fn excuse_gap(&self, key: &str) -> Option<Excuse> {
        self.partition(key)?.gap()
    }

    /// What happened to the record at the replica that should have it: the decision that sealed its fate.
    pub fn site_of_lost(&self, key: &str, promise: &Promise) -> String {
        let Some(partition) = self.partition(key) else { return "unknown-partition".to_owned() };
        let Some(ack) = partition.ack(promise) else { return "never-acknowledged".to_owned() };
        let committed = if partition.was_committed(ack) { "committed" } else { "not-committed" };
        format!("{committed}, {}", partition.fate(ack))
    }

    /// The decision behind a violation: the kind of event that broke it, and for a leader that lacks records why.
    pub fn site_of_violation(&self, violation: &Violation) -> String {
        let Some(partition) = self.partition(&violation.partition) else { return String::new() };
        match partition.losses.iter().find(|loss| loss.at == violation.at) {
            Some(loss) if violation.name == "leader-completeness" => format!("leader's record {}", loss.gone.text()),
            Some(_) | None => String::new(),
        }
    }

    fn partition(&self, name: &str) -> Option<&Partition> {
        self.replay.partitions.get(&TopicPartition::parse(name)?)
    }
}

impl Partition {
    /// Why the log may have been cut below what consumers have read, if it may.
    fn gap(&self) -> Option<Excuse> {
        if self.unclean_at.is_some() {
            return Some(Excuse::UncleanElection);
        }
        let lost = self.losses.iter().find_map(|loss| loss.excuse);
        lost.or(self.is_served_with_holes.then_some(Excuse::UntrustedDisk))
    }

    /// Why a committed record at `offset` was lost, by a loss that may be meant.
    fn loss_of(&self, offset: Offset, may_be_meant: impl Fn(&Loss) -> bool) -> Option<Excuse> {
        let losses = self.losses.iter().filter(|loss| loss.from <= offset && offset < loss.end);
        losses.filter(|loss| may_be_meant(loss)).filter_map(|loss| loss.excuse).next()
    }

    /// A machine had led by then that cannot read what its disk has spoiled.
    fn was_led_unread(&self, by: Time) -> bool {
        self.losses.iter().any(|loss| loss.at <= by && loss.is_unread && loss.excuse.is_some())
    }

    /// The last acknowledgement that the client can mean. Two leaders may have acknowledged different records at one
    /// offset before it heard of either.
    fn ack(&self, promise: &Promise) -> Option<&Ack> {
        let Promise { value, offset, acked_at, .. } = *promise;
        let covers = |ack: &&Ack| ack.at <= acked_at && ack.base_offset <= offset && offset <= ack.last_offset;
        let is_of_record = |ack: &&Ack| ack.batch.zip(value).is_none_or(|(batch, value)| self.may_carry(&batch, value));
        self.acks.iter().rev().filter(covers).find(is_of_record)
    }

    fn was_committed(&self, ack: &Ack) -> bool {
        ack.batch.is_some_and(|batch| self.ever_committed.contains(&replay::identity(&batch)))
    }

    /// Where the batch of an acknowledgement went at the replica that leads in the end.
    fn fate(&self, ack: &Ack) -> &'static str {
        let Some(replica) = self.leader.as_ref().and_then(|leader| self.replicas.get(leader)) else {
            return "no leader";
        };
        match &ack.batch {
            Some(batch) if replica.batches.contains(batch) => "still there",
            Some(batch) => replica.gone(batch.base_offset).text(),
            None => "never appended",
        }
    }
}

/// Whether the age of a record is the time since it was sent: wall clocks are right, and records say when they were
/// sent.
fn has_plain_time(variant: &Variant) -> bool {
    let dates_records = |workload: &Workload| match workload {
        Workload::Produce { timestamp_offset_ms, .. } => *timestamp_offset_ms != 0,
        Workload::Consume { .. } => false,
    };
    let is_right = variant.cluster.clocks.is_empty() && !variant.faults.iter().any(|fault| fault.action.is_of_clocks());
    is_right && !variant.workloads.iter().any(dates_records)
}

#[cfg(test)]
mod tests;
