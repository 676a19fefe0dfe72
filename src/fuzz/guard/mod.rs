//! The survivability guard: which losses are legitimate, and why, so that every failure the fuzzer reports is one.
//!
//! [`crate::check::allowed`] judges a whole run: one lossy crash too many anywhere excuses every loss. Here each loss
//! is held against what happened to the replica that was elected without the record. Kafka may lose
//! - what only had acks=1 and no high watermark ever covered, once leadership has moved;
//! - what an unclean election (`unclean.leader.election.enable`) left behind, from that moment on;
//! - what the last member of the ISR had not flushed when it lost power, if it was in the ISR from its power loss to its
//!   election and alone in it then. Eligible leader replicas (KIP-966), which would elect another, are not modelled.
//!
//! Nothing else: no loss by a process crash, by an orderly stop, by a network, by a replica that had left the ISR, of
//! a record that was flushed. As many power losses as min.insync.replicas are no reason of their own: they lose records
//! only through the last of these three.

mod replay;

use std::collections::BTreeSet;

use crate::config::TopicConfig;
use crate::lab::outcome::{RunOutcome, Violation};
use crate::protocol::{Offset, TopicPartition};
use crate::scenario::disk::DiskAction;
use crate::scenario::{Action, Topic, Variant};
use crate::world::Time;
use crate::world::sim::DiskFault;

use replay::{Ack, Partition, Replay};

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
    /// A disk lied, failed or rotted: what it held proves nothing. Said of the whole run, and the fuzzer does not draw
    /// such faults: which replicas they concern is not followed.
    UntrustedDisk,
    /// The replica has not heard of the leader yet with which a legitimate loss came.
    NotHeardOfLoss,
}

impl Excuse {
    /// As reports say it.
    pub fn reason(self) -> &'static str {
        match self {
            Excuse::LeadershipMoved => "acks=1: only the leader had it, and leadership moved",
            Excuse::UncleanElection => "an unclean election left committed records behind",
            Excuse::LastReplicaLostPower => "the last in-sync replica lost power with what it had not flushed",
            Excuse::InSyncReplicaLostPower => "an in-sync replica lost power and has not been fenced yet",
            Excuse::UntrustedDisk => "a disk lied, failed or rotted",
            Excuse::NotHeardOfLoss => "the replica has not heard of the leader yet that lost records legitimately",
        }
    }
}

/// Faults after which a disk does not hold what was flushed to it.
fn spoils_a_disk(action: &Action) -> bool {
    match action {
        Action::Disk { what: DiskAction::Fault(fault), on: _ } => match fault {
            DiskFault::SyncSlow(_)
            | DiskFault::ReadSlow(_)
            | DiskFault::ReadShort
            | DiskFault::WriteSlow(_)
            | DiskFault::Stall
            | DiskFault::Throttle { .. } => false,
            DiskFault::SyncFail
            | DiskFault::SyncLie
            | DiskFault::ReadFail
            | DiskFault::WriteFail
            | DiskFault::WriteLost
            | DiskFault::WriteMisdirected
            | DiskFault::Full { .. } => true,
        },
        Action::Disk { what: DiskAction::BitRot(_) | DiskAction::Replace, on: _ } => true,
        Action::Disk { what: DiskAction::DropCache, on: _ }
        | Action::Crash
        | Action::PowerLoss(_)
        | Action::Restart { .. }
        | Action::CrashLoop { .. }
        | Action::Pause
        | Action::Resume
        | Action::Isolate
        | Action::Partition { .. }
        | Action::Delay { .. }
        | Action::Throttle { .. }
        | Action::PacketLoss { .. }
        | Action::Flap { .. }
        | Action::DelayMessage { .. }
        | Action::DropMessage { .. }
        | Action::SlowDrain { .. }
        | Action::SlowCpu { .. }
        | Action::ClockStep { .. }
        | Action::ClockDrift { .. }
        | Action::ClockStrobe { .. }
        | Action::ClockFreeze
        | Action::Heal
        | Action::ControlledShutdown
        | Action::ElectPreferred { .. } => false,
    }
}

fn may_elect_uncleanly(topic: &Topic, variant: &Variant) -> bool {
    let own = TopicConfig::from_map(&topic.config).expect("checked when the scenario was read");
    own.effective(&variant.cluster.config).unclean_leader_election_enable
}

/// Who leads in which epoch, who counts, and what is handed out must be right whatever is lost; so must recovery once all
/// is healed.
const NEVER_EXCUSED: [&str; 8] = [
    "broker-epoch-went-back",
    "latest-offset-went-back",
    "leader-epoch-went-back",
    "liveness",
    "one-leader-per-epoch",
    "partition-epoch-went-back",
    "quorum-superset",
    "served-uncommitted",
];

/// What a run's trace tells of its losses.
pub struct Guard {
    replay: Replay,
    has_untrusted_disk: bool,
}

impl Guard {
    pub fn of(variant: &Variant, outcome: &RunOutcome) -> Guard {
        let unclean: BTreeSet<&str> = variant
            .topics
            .iter()
            .filter(|topic| may_elect_uncleanly(topic, variant))
            .map(|t| t.name.as_str())
            .collect();
        let replay = Replay::of(&outcome.trace, &|partition| unclean.contains(partition.topic.0.as_str()));
        let fired = outcome.faults.iter().filter_map(|fired| variant.faults.get(fired.index));
        Guard { replay, has_untrusted_disk: fired.into_iter().any(|fault| spoils_a_disk(&fault.action)) }
    }

    /// Whether a reason holds for the whole run.
    pub fn excuse_run(&self) -> Option<Excuse> {
        self.has_untrusted_disk.then_some(Excuse::UntrustedDisk)
    }

    /// Why a broken invariant is legitimate, if it is.
    pub fn excuse_violation(&self, violation: &Violation) -> Option<Excuse> {
        let partition = self.partition(&violation.partition)?;
        if NEVER_EXCUSED.contains(&violation.name) {
            return None;
        }
        if partition.unclean_at.is_some_and(|at| at <= violation.at) {
            return Some(Excuse::UncleanElection);
        }
        match violation.name {
            "leader-completeness" => partition.losses.iter().find(|loss| loss.at == violation.at)?.excuse,
            "candidate-completeness" | "strong-isr" | "acknowledged-incomplete" => {
                partition.impaired_members.contains(&violation.at).then_some(Excuse::InSyncReplicaLostPower)
            }
            "log-matching" => partition.stale_views.contains(&violation.at).then_some(Excuse::NotHeardOfLoss),
            _ => None,
        }
    }

    /// Why an acknowledged record may be gone, if it may. `offset` as acknowledged at `acked_at`.
    pub fn excuse_lost(&self, key: &str, offset: Offset, acked_at: Time) -> Option<Excuse> {
        let partition = self.partition(key)?;
        if partition.unclean_at.is_some() {
            return Some(Excuse::UncleanElection);
        }
        let ack = partition.ack(offset, acked_at)?;
        if ack.required_acks == 1 && !partition.was_committed(ack) {
            // A deposed leader that has not heard of it acknowledges too.
            let moved = partition.leader_epoch > ack.leader_epoch;
            return moved.then_some(Excuse::LeadershipMoved);
        }
        partition.loss_of(offset, ack.at)
    }

    /// Why a record that someone read at `offset` may be another one now, if it may.
    pub fn excuse_overwritten(&self, key: &str, offset: Offset) -> Option<Excuse> {
        let partition = self.partition(key)?;
        if partition.unclean_at.is_some() {
            return Some(Excuse::UncleanElection);
        }
        partition.loss_of(offset, Time::ZERO)
    }

    /// Whether a partition's log was legitimately cut below what consumers may have read.
    pub fn excuse_gap(&self, key: &str) -> Option<Excuse> {
        let partition = self.partition(key)?;
        if partition.unclean_at.is_some() {
            return Some(Excuse::UncleanElection);
        }
        partition.losses.iter().find_map(|loss| loss.excuse)
    }

    /// What happened to the record at the replica that should have it: the decision that sealed its fate.
    pub fn site_of_lost(&self, key: &str, offset: Offset, acked_at: Time) -> String {
        let Some(partition) = self.partition(key) else { return "unknown-partition".to_owned() };
        let Some(ack) = partition.ack(offset, acked_at) else { return "never-acknowledged".to_owned() };
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
    /// Why a committed record at `offset` was lost after `since`.
    fn loss_of(&self, offset: Offset, since: Time) -> Option<Excuse> {
        let losses = self.losses.iter().filter(|loss| loss.at >= since && loss.from <= offset && offset < loss.end);
        losses.filter_map(|loss| loss.excuse).next()
    }

    /// The last acknowledgement of `offset` that the client can mean.
    fn ack(&self, offset: Offset, acked_at: Time) -> Option<&Ack> {
        let covers = |ack: &&Ack| ack.at <= acked_at && ack.base_offset <= offset && offset <= ack.last_offset;
        self.acks.iter().rev().find(covers)
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

#[cfg(test)]
mod tests;
