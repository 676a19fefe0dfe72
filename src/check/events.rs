//! What a run's trace tells of causes: who led, who lost power, what was deleted, who tried again.

use std::collections::{BTreeMap, BTreeSet};

use super::expired::deletes;
use crate::lab::outcome::{Phase, TraceEvent, TraceKind};
use crate::observe::Observation;
use crate::protocol::{BrokerId, LeaderEpoch, TopicPartition};
use crate::world::Time;

/// What the trace tells of causes.
#[derive(Default)]
pub(super) struct Events {
    pub leader_changed: bool,
    pub unclean_election: bool,
    /// A produce request was refused, or given up by its sender.
    pub retried: bool,
    /// A producer gave up a batch that may still arrive.
    pub gave_up: bool,
    pub read_back: bool,
    pub records_expired: bool,
    pub lossy_crashes: u32,
    pub last_replica_lost_power: bool,
    pub records_compacted: bool,
    pub sequences_restated: bool,
    pub producers_expired: bool,
    /// A broker was started during the run.
    pub restarted: bool,
}

/// One partition as the controller has committed it.
struct PartitionState {
    leader_epoch: LeaderEpoch,
    isr: Vec<BrokerId>,
    replicas: Vec<BrokerId>,
    /// Replicas that lost power and have not rejoined the ISR since.
    impaired: BTreeSet<BrokerId>,
}

impl Events {
    pub fn of(trace: &[TraceEvent], started_at: Time) -> Events {
        let mut events = Events::default();
        let mut partitions: BTreeMap<&TopicPartition, PartitionState> = BTreeMap::new();
        for event in trace {
            match &event.what {
                TraceKind::Observed(Observation::PartitionChanged {
                    partition,
                    leader_epoch,
                    isr,
                    replicas,
                    unclean,
                    ..
                }) => {
                    events.unclean_election |= unclean;
                    let state = partitions.entry(partition).or_insert_with(|| PartitionState {
                        leader_epoch: *leader_epoch,
                        isr: isr.clone(),
                        replicas: replicas.clone(),
                        impaired: BTreeSet::new(),
                    });
                    events.leader_changed |= event.at >= started_at && *leader_epoch != state.leader_epoch;
                    state.impaired.retain(|broker| state.isr.contains(broker) || !isr.contains(broker));
                    state.leader_epoch = *leader_epoch;
                    state.isr.clone_from(isr);
                    state.replicas.clone_from(replicas);
                }
                TraceKind::Observed(Observation::Refused { .. }) | TraceKind::BatchRetried { .. } => {
                    events.retried = true
                }
                TraceKind::Observed(Observation::Compacted { .. }) => events.records_compacted = true,
                TraceKind::Observed(Observation::LogStartMoved { reason, .. }) => {
                    events.records_expired |= deletes(*reason);
                }
                TraceKind::Stopped { power_lost: true } => {
                    let Some(broker) = broker_of(&event.machine) else { continue };
                    for state in partitions.values_mut().filter(|state| state.replicas.contains(&broker)) {
                        state.impaired.insert(broker);
                        events.last_replica_lost_power |= state.isr == [broker];
                        events.lossy_crashes = events.lossy_crashes.max(state.impaired.len() as u32);
                    }
                }
                TraceKind::Phase(Phase::FinalRead) => events.read_back = true,
                TraceKind::BatchSent { restated: true, .. } => events.sequences_restated = true,
                TraceKind::Observed(Observation::ProducersExpired { .. }) => events.producers_expired = true,
                // That of every record with acks=0 too, which nobody gave up.
                TraceKind::Unknown { .. } => events.gave_up = true,
                TraceKind::Started => events.restarted |= event.at > started_at,
                TraceKind::Observed(_)
                | TraceKind::Sent { .. }
                | TraceKind::BatchSent { restated: false, .. }
                | TraceKind::PositionReset { .. }
                | TraceKind::ReadFailed { .. }
                | TraceKind::Process { .. }
                | TraceKind::Joined { .. }
                | TraceKind::Violated { .. }
                | TraceKind::Acked { .. }
                | TraceKind::Failed { .. }
                | TraceKind::FaultStarted { .. }
                | TraceKind::FaultEnded { .. }
                | TraceKind::FaultHit { .. }
                | TraceKind::Stopped { power_lost: false }
                | TraceKind::Phase(Phase::Workload | Phase::Healed | Phase::Done) => {}
            }
        }
        events
    }
}

/// The id in `broker-1`.
pub(crate) fn broker_of(machine: &str) -> Option<BrokerId> {
    machine.strip_prefix("broker-")?.parse().ok().map(BrokerId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::LogStartReason;
    use crate::protocol::{Offset, PartitionEpoch};

    fn events(trace: Vec<(&str, TraceKind)>) -> Events {
        let at = |(n, (machine, what)): (usize, (&str, TraceKind))| TraceEvent {
            at: Time::from_millis(n as u64),
            machine: machine.into(),
            what,
        };
        Events::of(&trace.into_iter().enumerate().map(at).collect::<Vec<_>>(), Time::from_millis(1))
    }

    fn committed(leader: i32, epoch: i32, isr: &[i32]) -> (&'static str, TraceKind) {
        let brokers = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect();
        let changed = Observation::PartitionChanged {
            partition: TopicPartition::new("orders", 0),
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(epoch),
            partition_epoch: PartitionEpoch(0),
            isr: brokers(isr),
            replicas: brokers(&[1, 2, 3]),
            unclean: false,
        };
        ("controller", TraceKind::Observed(changed))
    }

    const POWER_LOST: TraceKind = TraceKind::Stopped { power_lost: true };

    #[test]
    fn power_losses_add_up_until_a_replica_is_back_in_the_isr() {
        let together = events(vec![committed(1, 0, &[1, 2, 3]), ("broker-1", POWER_LOST), ("broker-2", POWER_LOST)]);
        assert_eq!((together.lossy_crashes, together.leader_changed), (2, false));
        let in_turn = events(vec![
            committed(1, 0, &[1, 2, 3]),
            ("broker-1", POWER_LOST),
            committed(2, 1, &[2, 3]),
            committed(2, 1, &[1, 2, 3]),
            ("broker-2", POWER_LOST),
        ]);
        assert_eq!((in_turn.lossy_crashes, in_turn.leader_changed), (1, true));
        let not_fenced_yet = events(vec![
            committed(1, 0, &[1, 2, 3]),
            ("broker-1", POWER_LOST),
            committed(1, 0, &[1, 2]),
            ("broker-2", POWER_LOST),
        ]);
        assert_eq!(not_fenced_yet.lossy_crashes, 2);
    }

    #[test]
    fn records_expire_once_retention_or_a_client_moved_a_log_start() {
        let moved = |reason| {
            let (partition, from, to) = (TopicPartition::new("orders", 0), Offset(0), Offset(9));
            let moved = Observation::LogStartMoved { partition, from, to, reason };
            events(vec![("broker-1", TraceKind::Observed(moved))]).records_expired
        };
        assert!(moved(LogStartReason::RetentionSize) && moved(LogStartReason::DeleteRecords));
        assert!(!moved(LogStartReason::Leader), "a follower only follows");
    }

    #[test]
    fn only_power_lost_by_the_whole_isr_is_the_last_replicas() {
        let last = events(vec![committed(1, 0, &[1]), ("broker-1", POWER_LOST)]);
        assert!(last.last_replica_lost_power);
        let another = events(vec![committed(1, 0, &[1, 2]), ("broker-1", POWER_LOST), ("controller", POWER_LOST)]);
        assert!(!another.last_replica_lost_power);
        let killed = events(vec![committed(1, 0, &[1]), ("broker-1", TraceKind::Stopped { power_lost: false })]);
        assert_eq!((killed.last_replica_lost_power, killed.lossy_crashes), (false, 0));
    }
}
