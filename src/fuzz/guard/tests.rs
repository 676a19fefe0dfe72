use super::*;
use crate::lab::outcome::{Phase, TraceEvent, TraceKind};
use crate::observe::{BatchInfo, Observation, TruncationReason};
use crate::protocol::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch};
use crate::scenario::disk::{BatchChoice, BatchField, BitRot, DiskAction, RotPlace};
use crate::scenario::{Action, Fault, Target, When};
use crate::world::sim::{DiskFault, DiskScope};

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

/// A trace told one fact after another, one millisecond apart, and the schedule.
#[derive(Default)]
struct Told(Vec<TraceEvent>, Vec<Fault>);

impl Told {
    fn push(mut self, machine: &str, what: TraceKind) -> Told {
        let at = Time::from_millis(self.0.len() as u64);
        self.0.push(TraceEvent { at, machine: machine.into(), what });
        self
    }

    fn observed(self, machine: &str, observation: Observation) -> Told {
        self.push(machine, TraceKind::Observed(observation))
    }

    /// The controller commits a leader and an ISR; the leader takes over.
    fn elects(self, leader: i32, epoch: i32, isr: &[i32]) -> Told {
        self.changes(leader, epoch, isr, false).leads(leader, epoch)
    }

    fn changes(self, leader: i32, epoch: i32, isr: &[i32], unclean: bool) -> Told {
        let brokers = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect();
        let changed = Observation::PartitionChanged {
            partition: orders(),
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(epoch),
            partition_epoch: PartitionEpoch(epoch),
            isr: brokers(isr),
            replicas: brokers(&[1, 2, 3]),
            unclean,
        };
        self.observed("controller", changed)
    }

    fn leads(self, leader: i32, epoch: i32) -> Told {
        let (partition, leader_epoch) = (orders(), LeaderEpoch(epoch));
        let became = Observation::BecameLeader { partition, leader_epoch, log_end: Offset(9), isr: Vec::new() };
        self.observed(&format!("broker-{leader}"), became)
    }

    fn appends(self, broker: i32, batches: &[BatchInfo]) -> Told {
        let (partition, leader_epoch, batches) = (orders(), LeaderEpoch(0), batches.to_vec());
        let appended = Observation::Appended { partition, as_leader: false, leader_epoch, batches, sequences: None };
        self.observed(&format!("broker-{broker}"), appended)
    }

    fn flushes(self, broker: i32, offset: i64) -> Told {
        let flushed = Observation::Flushed { partition: orders(), offset: Offset(offset) };
        self.observed(&format!("broker-{broker}"), flushed)
    }

    fn truncates(self, broker: i32, to: i64) -> Told {
        self.cuts(broker, to, TruncationReason::DivergingEpoch)
    }

    fn cuts(self, broker: i32, to: i64, reason: TruncationReason) -> Told {
        let (from, to) = (Offset(2), Offset(to));
        let truncated = Observation::Truncated { partition: orders(), from, to, reason };
        self.observed(&format!("broker-{broker}"), truncated)
    }

    fn high_watermark(self, broker: i32, offset: i64) -> Told {
        let moved = Observation::HighWatermark { partition: orders(), offset: Offset(offset), as_leader: true };
        self.observed(&format!("broker-{broker}"), moved)
    }

    fn acknowledges(self, broker: i32, acks: i16, offset: i64) -> Told {
        let (base_offset, last_offset) = (Offset(offset), Offset(offset));
        let answered = Observation::Acknowledged { partition: orders(), required_acks: acks, base_offset, last_offset };
        self.observed(&format!("broker-{broker}"), answered)
    }

    fn stops(self, broker: i32, power_lost: bool) -> Told {
        self.push(&format!("broker-{broker}"), TraceKind::Stopped { power_lost })
    }

    fn loads(self, broker: i32, batches: &[BatchInfo]) -> Told {
        let loaded = Observation::LogLoaded {
            partition: orders(),
            log_start: Offset::ZERO,
            log_end: Offset(batches.len() as i64),
            high_watermark: Offset::ZERO,
            batches: batches.to_vec(),
            dropped_bytes: 0,
            clean: false,
        };
        self.observed(&format!("broker-{broker}"), loaded)
    }

    fn guard(&self) -> Guard {
        self.guard_where_unclean(true)
    }

    fn guard_where_unclean(&self, enabled: bool) -> Guard {
        let retention_ms = BTreeMap::from([("orders".to_owned(), 10)]);
        let rebalance_timeout = std::time::Duration::from_secs(1);
        Guard {
            replay: Replay::of(&self.0, &self.1, &|_| enabled),
            retention_ms,
            min_insync_replicas: ["orders", coordinator::TOPIC].map(|topic| (topic.to_owned(), 2)).into(),
            has_plain_time: true,
            has_offsets: true,
            static_members: ["static-1".to_owned()].into(),
            members: [("billing".to_owned(), Members { names: vec!["consumer-1".to_owned()], rebalance_timeout })]
                .into(),
        }
    }

    /// A fault of the broker's disk starts.
    fn spoils(mut self, broker: i32, what: DiskAction) -> Told {
        self.1.push(Fault {
            when: When::At(std::time::Duration::ZERO),
            after: std::time::Duration::ZERO,
            action: Action::Disk { what: what.clone(), on: DiskScope::default() },
            target: Some(Target::Broker(broker.unsigned_abs())),
            duration: None,
            text: (String::new(), String::new()),
            line: 0,
        });
        let target = match what {
            DiskAction::BitRot(_) => format!("broker-{broker}:data/orders-0/0.log byte 7"),
            DiskAction::Fault(_) | DiskAction::DropCache | DiskAction::Replace => format!("broker-{broker}"),
        };
        let (index, targets) = (self.1.len() - 1, vec![target]);
        self.push("lab", TraceKind::FaultStarted { index, targets })
    }

    fn expires(self, broker: i32, to: i64, reason: LogStartReason) -> Told {
        let (partition, from, to) = (orders(), Offset::ZERO, Offset(to));
        self.observed(&format!("broker-{broker}"), Observation::LogStartMoved { partition, from, to, reason })
    }

    /// Why the record at `offset` may be gone.
    fn lost(&self, offset: i64) -> Option<Excuse> {
        self.guard().excuse_lost("orders-0", &promise(None, offset))
    }

    /// A producer sends the value in a batch of its own.
    fn sends(self, value: u64, batch: BatchInfo) -> Told {
        let (partition, crc, values, broker) = ("orders-0".to_owned(), batch.crc, vec![value], BrokerId(1));
        self.push("producer-1", TraceKind::BatchSent { partition, crc, values, attempt: 1, broker, restated: false })
    }

    /// Why the last event may break this invariant.
    fn breaks(&self, name: &'static str) -> Option<Excuse> {
        let at = self.0.last().expect("something was told").at;
        let detail = "group billing with members [\"consumer-1\"]: owned by []".to_owned();
        let violation = Violation { name, at, partition: "orders-0".to_owned(), detail };
        self.guard().excuse_violation(&violation)
    }
}

/// Sent before everything, and heard of after everything.
fn promise(value: Option<u64>, offset: i64) -> Promise {
    Promise { value, offset: Offset(offset), sent_at: Time::ZERO, acked_at: Time::from_millis(u64::from(u32::MAX)) }
}

fn batch(offset: i64) -> BatchInfo {
    let crc = 10 + offset as u32;
    BatchInfo { base_offset: Offset(offset), last_offset: Offset(offset), leader_epoch: LeaderEpoch(0), crc }
}

/// Broker 1 leads; both records are on all three replicas and committed, the second acknowledged.
fn healthy(acks: i16) -> Told {
    let both = [batch(0), batch(1)];
    let told = Told::default().elects(1, 0, &[1, 2, 3]);
    told.appends(1, &both).appends(2, &both).appends(3, &both).high_watermark(1, 2).acknowledges(1, acks, 1)
}

#[test]
fn what_only_the_leader_had_may_go_with_its_leadership() {
    let told = Told::default().elects(1, 0, &[1, 2, 3]).appends(1, &[batch(0)]).acknowledges(1, 1, 0);
    assert_eq!(told.lost(0), None, "nobody else leads");
    let told = told.elects(2, 1, &[2, 3]).truncates(1, 0);
    assert_eq!(told.lost(0), Some(Excuse::LeadershipMoved));
}

#[test]
fn a_deposed_leader_may_acknowledge_before_it_knows() {
    let told = Told::default().elects(1, 0, &[1, 2, 3]).elects(2, 1, &[2, 3]);
    let told = told.appends(1, &[batch(0)]).acknowledges(1, 1, 0);
    assert_eq!(told.lost(0), Some(Excuse::LeadershipMoved));
}

#[test]
fn another_record_that_was_acknowledged_at_the_same_offset_is_not_the_one() {
    let (old, new) = (batch(0), BatchInfo { crc: 99, leader_epoch: LeaderEpoch(1), ..batch(0) });
    let told = Told::default().sends(1, old).sends(2, new).elects(1, 0, &[1, 2, 3]).appends(1, &[old]);
    let told = told.acknowledges(1, 1, 0).elects(2, 1, &[2, 3]).appends(2, &[new]).acknowledges(2, 1, 0);
    let lost = |value| told.guard().excuse_lost("orders-0", &promise(Some(value), 0));
    assert_eq!(lost(1), Some(Excuse::LeadershipMoved), "its leader was deposed before both acknowledgements arrived");
    assert_eq!(lost(2), None, "its leader still leads");
}

#[test]
fn acks_all_may_not_go_with_leadership() {
    let told = Told::default().elects(1, 0, &[1, 2, 3]).appends(1, &[batch(0)]).acknowledges(1, -1, 0);
    assert_eq!(told.elects(2, 1, &[2, 3]).lost(0), None);
}

#[test]
fn a_follower_that_is_cut_below_where_its_log_begins_never_gets_what_lies_below() {
    // Broker 2 has nothing, from where the leader's log began before that lost all that it had.
    let begins_at = |log_start: i64| {
        let told = Told::default().elects(1, 0, &[1, 2, 3]).expires(2, log_start, LogStartReason::Leader);
        let both = [batch(0), batch(1)];
        let told = told.appends(1, &both).appends(3, &both).high_watermark(1, 2);
        let told = told.acknowledges(1, -1, 0).acknowledges(1, -1, 1);
        told.cuts(2, 1, TruncationReason::OutOfRange).appends(2, &[batch(1)])
    };
    let elected = begins_at(5).elects(2, 1, &[2, 3]);
    assert_eq!(elected.breaks("leader-completeness"), Some(Excuse::BegunAnew));
    assert_eq!(elected.lost(0), Some(Excuse::BegunAnew));
    assert_eq!(elected.lost(1), None, "it has that");
    assert_eq!(begins_at(0).elects(2, 1, &[2, 3]).breaks("leader-completeness"), None, "nothing was to begin behind");
    // What lies above where it began anew was to be fetched.
    let cut = begins_at(5).cuts(2, 1, TruncationReason::DivergingEpoch);
    assert_eq!(cut.elects(2, 1, &[2, 3]).breaks("leader-completeness"), None);
}

#[test]
fn what_was_committed_stays_whatever_acks_promised() {
    let told = healthy(1).truncates(2, 1).elects(2, 1, &[2, 3]);
    assert_eq!(told.breaks("leader-completeness"), None);
    assert_eq!(told.lost(1), None);
}

#[test]
fn the_last_in_sync_replica_may_lose_what_it_had_not_flushed() {
    let last = healthy(-1).changes(1, 0, &[1], false).stops(1, true).loads(1, &[batch(0)]).elects(1, 1, &[1]);
    assert_eq!(last.breaks("leader-completeness"), Some(Excuse::LastReplicaLostPower));
    assert_eq!(last.lost(1), Some(Excuse::LastReplicaLostPower));
    assert_eq!(last.lost(0), None, "it still has the first record");
    // All had expired, and its end with it.
    let expired = healthy(-1).changes(1, 0, &[1], false).expires(1, 2, LogStartReason::RetentionTime);
    let replaced = |told: Told| {
        let begun = Observation::BecameFollower {
            partition: orders(),
            leader_epoch: LeaderEpoch(1),
            leader: BrokerId::NONE,
            log_end: Offset::ZERO,
        };
        let told = told.observed("broker-1", begun).changes(1, 2, &[1], false);
        let (partition, leader_epoch) = (orders(), LeaderEpoch(2));
        let leads = Observation::BecameLeader { partition, leader_epoch, log_end: Offset::ZERO, isr: Vec::new() };
        told.observed("broker-1", leads).breaks("leader-completeness")
    };
    assert_eq!(replaced(expired.stops(1, true)), Some(Excuse::LastReplicaLostPower));
    // It is fenced again before it hears that it leads.
    let late = healthy(-1).changes(1, 0, &[1], false).stops(1, true).loads(1, &[batch(0)]);
    let late = late.changes(1, 1, &[1], false).changes(-1, 2, &[1], false).leads(1, 1);
    assert_eq!(late.lost(1), Some(Excuse::LastReplicaLostPower));
}

#[test]
fn a_leader_that_heard_of_its_deposition_with_its_next_election_counts_what_its_followers_have_cut() {
    // Broker 3 followed broker 2 in between, and cut what only it and broker 1 had.
    let elected_again = |told: Told| {
        let told =
            told.appends(1, &[batch(2)]).appends(3, &[batch(2)]).changes(2, 1, &[1, 2, 3], false).truncates(3, 2);
        told.changes(1, 2, &[1, 3], false)
    };
    let deaf = elected_again(healthy(-1)).leads(1, 2).high_watermark(1, 3);
    assert_eq!(deaf.breaks("candidate-completeness"), Some(Excuse::MissedDeposition));
    let lost = deaf.stops(1, false).changes(3, 3, &[3], false).leads(3, 3);
    assert_eq!(lost.breaks("leader-completeness"), Some(Excuse::MissedDeposition));
    // Had it heard of broker 2, it would have forgotten.
    let follows = Observation::BecameFollower {
        partition: orders(),
        leader_epoch: LeaderEpoch(1),
        leader: BrokerId(2),
        log_end: Offset(3),
    };
    let heard = elected_again(healthy(-1)).observed("broker-1", follows).leads(1, 2).high_watermark(1, 3);
    assert_eq!(heard.breaks("candidate-completeness"), None);
}

#[test]
fn a_power_loss_that_came_before_the_others_left_the_isr_is_the_last_replicas_too() {
    let told = healthy(-1).stops(1, true).changes(0, 1, &[1], false).loads(1, &[batch(0)]).elects(1, 2, &[1]);
    assert_eq!(told.lost(1), Some(Excuse::LastReplicaLostPower));
}

#[test]
fn a_flushed_record_is_kept_through_a_power_loss() {
    let told = healthy(-1).flushes(1, 2).changes(1, 0, &[1], false).stops(1, true).loads(1, &[batch(0)]);
    let told = told.elects(1, 1, &[1]);
    assert_eq!((told.breaks("leader-completeness"), told.lost(1)), (None, None));
    assert!(told.guard().site_of_lost("orders-0", &promise(None, 1)).contains("although flushed"));
}

#[test]
fn a_log_whose_beginning_comes_back_with_the_power_has_lost_its_end_only() {
    let more = |told: Told| told.appends(1, &[batch(2)]).appends(2, &[batch(2)]).appends(3, &[batch(2)]);
    let flushed = |offset| {
        let told = more(healthy(-1)).high_watermark(1, 3).acknowledges(1, -1, 2).flushes(1, offset);
        let told = told.expires(1, 1, LogStartReason::Leader).changes(1, 0, &[1], false).stops(1, true);
        told.loads(1, &[batch(0), batch(1)]).elects(1, 1, &[1])
    };
    assert_eq!(flushed(2).lost(2), Some(Excuse::LastReplicaLostPower));
    assert_eq!(flushed(3).lost(2), None, "it had been flushed");
}

#[test]
fn a_killed_process_keeps_what_it_had() {
    let told = healthy(-1).changes(1, 0, &[1], false).stops(1, false).loads(1, &[batch(0)]).elects(1, 1, &[1]);
    assert_eq!(told.lost(1), None);
}

#[test]
fn a_replica_that_lost_records_and_came_back_into_the_isr_may_not_lead_without_them() {
    let told = healthy(-1)
        .registers(1, 1, false)
        .stops(1, true)
        .changes(2, 1, &[2, 3], false)
        .loads(1, &[batch(0)])
        .registers(1, 7, true);
    let rejoined = told.changes(2, 1, &[1, 2, 3], false).elects(1, 2, &[1]);
    assert_eq!(rejoined.lost(1), None);
}

#[test]
fn a_replica_that_lost_records_may_not_lead_while_another_is_in_sync() {
    let told = healthy(-1).stops(1, true).loads(1, &[batch(0)]).elects(1, 1, &[1, 2]);
    assert_eq!(told.lost(1), None);
}

#[test]
fn an_unclean_election_excuses_losses_but_no_second_leader() {
    let unclean = || healthy(-1).truncates(3, 1).changes(3, 1, &[3], true).leads(3, 1);
    let told = unclean();
    assert_eq!(told.breaks("leader-completeness"), Some(Excuse::UncleanElection));
    assert_eq!(told.lost(1), Some(Excuse::UncleanElection));
    let forbidden = told.guard_where_unclean(false);
    assert_eq!(forbidden.excuse_lost("orders-0", &promise(None, 1)), None);
    for never in ["one-leader-per-epoch", "leader-epoch-went-back", "liveness", "log-matching"] {
        assert_eq!(told.breaks(never), None, "{never}");
    }
    // The deposed leader, alone in the ISR, goes on until it hears of it.
    let ends = told.high_watermark(1, 9);
    assert_eq!(ends.breaks("latest-offset-went-back"), Some(Excuse::UncleanElection));
    assert_eq!(ends.breaks("log-matching"), Some(Excuse::NotHeardOfLoss), "no other log has what it commits");
    // Behind its successor too.
    let behind = unclean().appends(3, &[batch(1), batch(2)]).high_watermark(3, 3).high_watermark(1, 2);
    assert_eq!(behind.breaks("log-matching"), Some(Excuse::NotHeardOfLoss));
    assert_eq!(behind.high_watermark(3, 3).breaks("log-matching"), None, "its successor has heard of it");
    assert_eq!(healthy(-1).breaks("latest-offset-went-back"), None);
}

#[test]
fn the_high_watermark_may_pass_an_in_sync_replica_only_if_that_lost_power() {
    let more = |told: Told| told.appends(1, &[batch(2)]).appends(2, &[batch(2)]).high_watermark(1, 3);
    let lost_power = more(healthy(-1).stops(3, true).loads(3, &[batch(0)]));
    assert_eq!(lost_power.breaks("candidate-completeness"), Some(Excuse::InSyncReplicaLostPower));
    assert_eq!(more(healthy(-1)).breaks("candidate-completeness"), None);
    let killed = more(healthy(-1).stops(3, false).loads(3, &[batch(0)]));
    assert_eq!(killed.breaks("candidate-completeness"), None);
}

#[test]
fn a_replica_that_has_not_heard_of_a_loss_may_still_hold_the_old_records() {
    let loss = healthy(-1).changes(1, 0, &[1], false).stops(1, true).loads(1, &[]).elects(1, 1, &[1]);
    let new = BatchInfo { crc: 99, ..batch(0) };
    let told = loss.appends(1, &[new]).high_watermark(1, 1);
    assert_eq!(told.breaks("log-matching"), None, "broker 1 itself leads in the new epoch");
    let (partition, offset) = (orders(), Offset(2));
    let stale = told.observed("broker-2", Observation::HighWatermark { partition, offset, as_leader: false });
    assert_eq!(stale.breaks("log-matching"), None, "its epoch is not known");
    let (partition, leader_epoch, leader) = (orders(), LeaderEpoch(0), BrokerId(1));
    let follows = Observation::BecameFollower { partition, leader_epoch, leader, log_end: offset };
    let moved = Observation::HighWatermark { partition: orders(), offset, as_leader: false };
    let stale = stale.observed("broker-2", follows).observed("broker-2", moved);
    assert_eq!(stale.breaks("log-matching"), Some(Excuse::NotHeardOfLoss));
}

const LIE: DiskAction = DiskAction::Fault(DiskFault::SyncLie);
const ROT: DiskAction = DiskAction::BitRot(BitRot {
    segment: None,
    place: RotPlace::Field(BatchChoice::Last, BatchField::Records),
    bit: 0,
});

/// The second record is flushed everywhere, broker 1 is alone in the ISR and loses power, and leads without it.
fn flushed_and_lost(told: Told) -> Told {
    let told = told.flushes(1, 2).changes(1, 0, &[1], false).stops(1, true).loads(1, &[batch(0)]);
    told.elects(1, 1, &[1])
}

#[test]
fn a_disk_that_lies_excuses_what_was_flushed_to_it_and_to_no_other() {
    assert_eq!(flushed_and_lost(healthy(-1).spoils(1, LIE)).lost(1), Some(Excuse::LastReplicaLostPower));
    assert_eq!(flushed_and_lost(healthy(-1).spoils(2, LIE)).lost(1), None);
    let full = DiskAction::Fault(DiskFault::Full { free_bytes: 0 });
    assert_eq!(flushed_and_lost(healthy(-1).spoils(1, full)).lost(1), None, "a disk that says no has not lied");
}

/// As [`flushed_and_lost`], but for what is lost: the file in which its log began.
fn first_file_lost(told: Told) -> Told {
    let told = told.flushes(1, 2).changes(1, 0, &[1], false).stops(1, true);
    let loaded = Observation::LogLoaded {
        partition: orders(),
        log_start: Offset(1),
        log_end: Offset(2),
        high_watermark: Offset::ZERO,
        batches: vec![batch(1)],
        dropped_bytes: 0,
        clean: false,
    };
    told.observed("broker-1", loaded).elects(1, 1, &[1])
}

#[test]
fn a_log_that_begins_later_than_anybody_made_it_has_lost_its_first_file() {
    let breaks = |told: Told| first_file_lost(told).breaks("leader-completeness");
    assert_eq!(breaks(healthy(-1).spoils(1, LIE)), Some(Excuse::LastReplicaLostPower));
    assert_eq!(breaks(healthy(-1)), None, "it was flushed");
    assert_eq!(breaks(healthy(-1).spoils(2, LIE)), None, "another's disk");
}

#[test]
fn a_disk_that_lies_excuses_nothing_while_another_replica_is_in_sync() {
    let told = healthy(-1).spoils(1, LIE).flushes(1, 2).stops(1, true).loads(1, &[batch(0)]).elects(1, 1, &[1, 2]);
    assert_eq!((told.breaks("leader-completeness"), told.lost(1)), (None, None));
}

#[test]
fn rot_is_found_at_a_restart_and_a_lie_only_after_a_power_loss() {
    let restarted =
        |told: Told| told.changes(1, 0, &[1], false).stops(1, false).loads(1, &[batch(0)]).elects(1, 1, &[1]);
    assert_eq!(restarted(healthy(-1).spoils(1, ROT)).lost(1), Some(Excuse::LastReplicaLostPower));
    assert_eq!(restarted(healthy(-1).spoils(1, LIE)).lost(1), None);
}

#[test]
fn a_leader_that_cannot_read_its_log_after_an_orderly_stop_need_not_be_the_last() {
    let restarted = |told: Told| told.stops(1, false).loads(1, &[batch(0)]).elects(1, 1, &[1, 2, 3]);
    assert_eq!(restarted(healthy(-1).spoils(1, ROT)).lost(1), Some(Excuse::UntrustedDisk));
    assert_eq!(restarted(healthy(-1).spoils(2, ROT)).lost(1), None, "another machine's disk");
}

#[test]
fn only_a_rotten_disk_may_keep_a_partition_waiting() {
    let led_by_2 = |told: Told| told.changes(2, 1, &[2, 3], false).leads(2, 1);
    assert_eq!(led_by_2(healthy(-1).spoils(2, ROT)).breaks("liveness"), Some(Excuse::UntrustedDisk));
    let follower = led_by_2(healthy(-1).spoils(1, ROT));
    assert_eq!(follower.breaks("liveness"), Some(Excuse::UntrustedDisk), "it may not even start");
    assert_eq!(follower.breaks("unreadable"), None);
    assert_eq!(led_by_2(healthy(-1).spoils(3, ROT)).breaks("liveness"), None, "broker 1 has no reason to stay away");
}

#[test]
fn a_reader_may_be_stuck_on_what_a_rotten_leader_of_the_final_read_served() {
    let rotten = || healthy(-1).spoils(2, ROT).changes(2, 1, &[1, 2, 3], false).leads(2, 1);
    let read = |told: Told| told.push("lab", TraceKind::Phase(Phase::FinalRead));
    let moved = |told: Told| told.elects(1, 2, &[1, 2, 3]);
    assert_eq!(moved(read(rotten())).breaks("unreadable"), Some(Excuse::UntrustedDisk));
    assert_eq!(read(moved(rotten())).breaks("unreadable"), None, "it was read from a healthy disk");
    assert_eq!(moved(read(rotten())).breaks("liveness"), None);
}

impl Told {
    /// The controller registers the broker anew, or unfences it.
    fn registers(self, broker: i32, epoch: i64, fenced: bool) -> Told {
        let (broker, broker_epoch) = (BrokerId(broker), BrokerEpoch(epoch));
        self.observed("controller", Observation::Fenced { broker, broker_epoch, fenced })
    }

    fn hears_of_registration(self, broker: i32, epoch: i64) -> Told {
        self.observed(&format!("broker-{broker}"), Observation::Registered { broker_epoch: BrokerEpoch(epoch) })
    }
}

#[test]
fn a_late_registration_locks_out_a_broker_that_is_fenced_and_no_other() {
    let without = |told: Told| told.changes(2, 1, &[2, 3], false).leads(2, 1).breaks("liveness");
    let started = || healthy(-1).registers(1, 1, true).hears_of_registration(1, 1).registers(1, 1, false);
    let restarted = || started().registers(1, 1, true).push("broker-1", TraceKind::Started);
    let registered = || restarted().registers(1, 7, true).hears_of_registration(1, 7);
    assert_eq!(without(registered()), None, "it has no reason to stay away");
    assert_eq!(without(registered().registers(1, 8, true)), Some(Excuse::LockedOut));
    // Two of the three are required.
    let unreadable = |told: Told| told.changes(2, 1, &[2], false).leads(2, 1).breaks("unreadable");
    let locked_out = || registered().registers(1, 8, true);
    assert_eq!(unreadable(locked_out()), None, "broker 3 has no reason to stay away");
    let started = locked_out().registers(3, 2, true).hears_of_registration(3, 2).push("broker-3", TraceKind::Started);
    let both = started.registers(3, 9, true).hears_of_registration(3, 9).registers(3, 10, true);
    assert_eq!(unreadable(both), Some(Excuse::LockedOut));
    assert_eq!(without(registered().registers(1, 7, false).registers(1, 8, true)), None, "its session was alive");
    // A coordinator that can commit nothing.
    let stuck = |told: Told, replicas: &[i32]| {
        let changed = Observation::PartitionChanged {
            partition: TopicPartition::new(coordinator::TOPIC, 0),
            leader: BrokerId(2),
            leader_epoch: LeaderEpoch(1),
            partition_epoch: PartitionEpoch(1),
            isr: vec![BrokerId(2)],
            replicas: replicas.iter().map(|id| BrokerId(*id)).collect(),
            unclean: false,
        };
        told.observed("controller", changed).breaks("stuck-group")
    };
    assert_eq!(stuck(locked_out(), &[1, 2]), Some(Excuse::LockedOut));
    assert_eq!(stuck(locked_out(), &[1, 2, 3]), None, "broker 3 has no reason to stay away");
    let again = registered().registers(1, 8, true).push("broker-1", TraceKind::Started);
    assert_eq!(without(again.registers(1, 9, true).hears_of_registration(1, 9)), None, "it has started anew");
}

#[test]
fn a_returning_static_leader_may_overlook_a_partition_that_is_new() {
    let starts = |told: Told, member: &str, process| told.push(member, TraceKind::Process { process });
    let created = |told: Told| told.changes(1, 0, &[1], false);
    let began = || created(starts(Told::default(), "static-1", 0));
    assert_eq!(starts(began(), "static-1", 1).breaks("stuck-group"), Some(Excuse::ReturningLeader));
    assert_eq!(began().breaks("stuck-group"), None, "it has not come back");
    assert_eq!(starts(began(), "consumer-1", 1).breaks("stuck-group"), None, "whoever is not static joins anew");
    // It was back before, but not in its group.
    let back = |joins_first: bool| {
        let joins = |told: Told| told.push("static-1", TraceKind::Joined { generation: 2 });
        let told = starts(starts(Told::default(), "static-1", 0), "static-1", 1);
        if joins_first { created(joins(told)) } else { joins(created(told)) }
    };
    assert_eq!(back(false).breaks("stuck-group"), Some(Excuse::ReturningLeader));
    assert_eq!(back(true).breaks("stuck-group"), None, "it has looked at the topic already");
    // Its coordinator forgot it, and it came back under another id.
    let joins = |told: Told, generation| told.push("static-1", TraceKind::Joined { generation });
    let joined = || created(joins(starts(Told::default(), "static-1", 0), 2));
    assert_eq!(joins(joined(), 2).breaks("stuck-group"), Some(Excuse::ReturningLeader));
    assert_eq!(joins(joined(), 3).breaks("stuck-group"), None, "that is a rebalance");
    // It may have heard of the topic as it was right before, but not long after.
    let begins = |after: u64| {
        let mut told = created(Told::default());
        let at = told.0.last().expect("created").at + std::time::Duration::from_secs(after);
        for process in [0, 1] {
            told.0.push(TraceEvent { at, machine: "static-1".into(), what: TraceKind::Process { process } });
        }
        told.breaks("stuck-group")
    };
    assert_eq!(begins(1), Some(Excuse::ReturningLeader));
    assert_eq!(begins(3), None, "it has never known the topic without the partition");
}

#[test]
fn a_proposal_that_was_taken_for_refused_may_be_granted_late() {
    let views = |told: Told, isr: &[i32], maximal_isr: &[i32], pending| {
        let ids = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect();
        let view = Observation::IsrView { partition: orders(), isr: ids(isr), maximal_isr: ids(maximal_isr), pending };
        told.observed("broker-1", view)
    };
    let proposed = || views(healthy(-1).changes(1, 0, &[1, 2], false), &[1, 2], &[1, 2, 3], true);
    let withdrawn = || views(proposed(), &[1, 2], &[1, 2], false);
    let granted = |told: Told| told.changes(1, 0, &[1, 2, 3], false);
    assert_eq!(granted(withdrawn()).breaks("quorum-superset"), Some(Excuse::GrantedLate));
    assert_eq!(granted(withdrawn()).breaks("strong-isr"), Some(Excuse::GrantedLate));
    assert_eq!(granted(proposed()).breaks("quorum-superset"), None, "the leader counts it");
    assert_eq!(granted(healthy(-1)).breaks("quorum-superset"), None, "nobody proposed it");
    assert_eq!(withdrawn().changes(1, 0, &[1, 3], false).breaks("quorum-superset"), None, "another one");
    let heard = views(granted(withdrawn()), &[1, 2, 3], &[1, 2, 3], false);
    assert_eq!(heard.high_watermark(1, 1).breaks("quorum-superset"), None, "it has heard of it");
}

#[test]
fn compaction_may_hide_where_an_epoch_began() {
    let compacts = |told: Told| {
        let (from, to, tombstones) = (Offset::ZERO, Offset(1), Vec::new());
        let batches = Vec::new();
        told.observed(
            "broker-1",
            Observation::Compacted { partition: orders(), from, to, batches, delete_retention_ms: 0, tombstones },
        )
    };
    // Broker 3 has a first record of epoch 7 that was never committed.
    let other = BatchInfo { leader_epoch: LeaderEpoch(7), ..batch(0) };
    let follows = |told: Told, with: BatchInfo| {
        let moved = Observation::HighWatermark { partition: orders(), offset: Offset(1), as_leader: false };
        told.loads(3, &[with]).observed("broker-3", moved).breaks("log-matching")
    };
    assert_eq!(follows(compacts(healthy(-1)), other), Some(Excuse::EpochHidden));
    assert_eq!(follows(healthy(-1), other), None, "nothing was compacted");
    assert_eq!(follows(compacts(healthy(-1)), BatchInfo { crc: 99, ..batch(0) }), None, "it was committed");
    // And then it leads.
    let leads =
        |told: Told, with: &[BatchInfo]| told.loads(3, with).elects(3, 1, &[2, 3]).breaks("leader-completeness");
    assert_eq!(leads(compacts(healthy(-1)), &[other, batch(1)]), Some(Excuse::EpochHidden));
    assert_eq!(leads(healthy(-1), &[other, batch(1)]), None, "nothing was compacted");
    assert_eq!(leads(compacts(healthy(-1)), &[other]), None, "it lacks the second record, which is in no way hidden");
}

#[test]
fn consumers_may_miss_what_a_disk_that_forgets_has_lost_and_not_what_has_rotted() {
    let serves = |told: Told, broker: i32| {
        let served = Observation::Served { partition: orders(), from: Offset(0), to: Offset(1) };
        told.observed(&format!("broker-{broker}"), served).guard().excuse_gap("orders-0")
    };
    let lies = || healthy(-1).spoils(3, DiskAction::Fault(DiskFault::SyncLie));
    let forgot = || lies().spoils(3, DiskAction::DropCache);
    assert_eq!(serves(forgot(), 3), Some(Excuse::UntrustedDisk));
    assert_eq!(serves(forgot(), 2), None, "another's disk is whole");
    assert_eq!(serves(lies(), 3), None, "the page cache has it still");
    assert_eq!(serves(healthy(-1).spoils(3, ROT), 3), None, "a consumer checks the CRC");
}

#[test]
fn a_follower_may_give_up_where_the_leaders_log_begins_within_a_batch() {
    let gives_up = |told: Told| {
        let told = told.observed("broker-3", Observation::BeforeLogEnd { partition: orders() });
        told.changes(1, 0, &[1, 2], false).breaks("liveness")
    };
    let deleted = healthy(-1).expires(1, 1, LogStartReason::DeleteRecords);
    assert_eq!(gives_up(deleted), Some(Excuse::BeginsWithinBatch));
    assert_eq!(gives_up(healthy(-1)), None, "nothing was deleted");
}

#[test]
fn a_follower_may_give_up_what_cleaning_has_made_too_large() {
    let too_large = |told: Told| {
        let told = told.observed("broker-3", Observation::BeyondSegment { partition: orders() });
        told.changes(1, 0, &[1, 2], false).breaks("liveness")
    };
    let (from, to) = (Offset::ZERO, Offset(1));
    let (batches, tombstones) = (Vec::new(), Vec::new());
    let compacted =
        Observation::Compacted { partition: orders(), from, to, batches, delete_retention_ms: 0, tombstones };
    let cleaned = healthy(-1).observed("broker-1", compacted);
    assert_eq!(too_large(cleaned), Some(Excuse::GrownByCleaning));
    assert_eq!(too_large(healthy(-1)), None, "nothing was cleaned");
}

#[test]
fn what_nobody_claims_may_be_owned_twice_from_then_on() {
    let unclaimed = |partition| Observation::Unclaimed { group: "billing".to_owned(), partition };
    let of_orders = Told::default().observed("broker-1", unclaimed(orders()));
    assert_eq!(of_orders.breaks("owned-twice"), Some(Excuse::NotLetGo));
    let other = Told::default().observed("broker-1", unclaimed(TopicPartition::new("orders", 7)));
    assert_eq!(other.breaks("owned-twice"), None, "it is another partition");
}

#[test]
fn a_group_that_was_downgraded_may_forget_to_rebalance_when_its_coordinator_moves() {
    let offsets = || TopicPartition::new(coordinator::TOPIC, 0);
    let elected = |told: Told, broker: i32, epoch: i32| {
        let (partition, leader_epoch) = (offsets(), LeaderEpoch(epoch));
        let isr = vec![BrokerId(broker)];
        let leads = Observation::BecameLeader { partition, leader_epoch, log_end: Offset::ZERO, isr };
        told.observed(&format!("broker-{broker}"), leads)
    };
    let joins = |told: Told, generation| told.push("consumer-1", TraceKind::Joined { generation });
    let began = || joins(elected(Told::default(), 1, 0).push("consumer-1", TraceKind::Process { process: 0 }), 3);
    let downgrades =
        |told: Told| told.observed("broker-1", Observation::Downgraded { group: "billing".to_owned(), generation: 3 });
    assert_eq!(elected(downgrades(began()), 2, 1).breaks("stuck-group"), Some(Excuse::RebalanceForgotten));
    assert_eq!(downgrades(began()).breaks("stuck-group"), None, "its coordinator knows that it is to rebalance");
    assert_eq!(downgrades(elected(began(), 2, 1)).breaks("stuck-group"), None, "it moved before");
    assert_eq!(elected(began(), 2, 1).breaks("stuck-group"), None, "it is no other group");
    assert_eq!(joins(elected(downgrades(began()), 2, 1), 4).breaks("stuck-group"), None, "it has rebalanced");
    let mut late = elected(downgrades(began()), 2, 1);
    late.0.last_mut().expect("elected").at = Time::from_millis(5_000);
    assert_eq!(late.breaks("stuck-group"), None, "it has had time enough to rebalance");
}

#[test]
fn a_coordinator_with_a_spoiled_disk_may_not_find_what_was_committed() {
    let leads = |told: Told, broker: i32| {
        let (partition, leader_epoch) = (TopicPartition::new(coordinator::TOPIC, 0), LeaderEpoch(1));
        let leads = Observation::BecameLeader { partition, leader_epoch, log_end: Offset::ZERO, isr: Vec::new() };
        told.observed(&format!("broker-{broker}"), leads)
    };
    assert_eq!(leads(healthy(-1).spoils(3, ROT), 3).breaks("offset-rewind"), Some(Excuse::UntrustedDisk));
    assert_eq!(leads(healthy(-1).spoils(3, ROT), 2).breaks("offset-rewind"), None, "another's disk is whole");
    assert_eq!(leads(healthy(-1), 3).spoils(3, ROT).breaks("offset-rewind"), None, "it had read it before");
}

#[test]
fn a_member_whose_leave_was_refused_may_keep_its_share() {
    let unwatched = Observation::Unwatched { group: "billing".to_owned() };
    assert_eq!(Told::default().observed("broker-1", unwatched).breaks("stuck-group"), Some(Excuse::LeaveRefused));
    let refused = Observation::Refused { partition: TopicPartition::new(coordinator::TOPIC, 0), error_code: 19 };
    assert_eq!(Told::default().observed("broker-1", refused).breaks("stuck-group"), None, "nobody leaves");
}

#[test]
fn a_replica_that_lost_power_may_join_the_isr_for_what_it_had() {
    let left = || healthy(-1).changes(1, 1, &[1, 2], false).leads(1, 1);
    let joins = |told: Told| told.changes(1, 1, &[1, 2, 3], false).breaks("candidate-completeness");
    assert_eq!(joins(left().stops(3, true).spoils(3, DiskAction::Replace)), Some(Excuse::InSyncReplicaLostPower));
    assert_eq!(joins(left().truncates(3, 1)), None, "it lost nothing with power");
    assert_eq!(joins(left().stops(3, true)), Some(Excuse::InSyncReplicaLostPower), "while it is without power, too");
    assert_eq!(joins(left().flushes(3, 2).stops(3, true)), None, "it has what it had");
    let back = || left().registers(3, 1, false).stops(3, true).loads(3, &[batch(0)]);
    assert_eq!(joins(back()), Some(Excuse::InSyncReplicaLostPower), "the controller has not heard of it");
    assert_eq!(joins(back().registers(3, 7, true)), None, "its broker has registered anew");
}

#[test]
fn a_leader_that_has_not_heard_of_a_loss_may_commit_what_was_lost() {
    // Broker 2 has confirmed the third record, loses it with its power, and leads, alone in the ISR.
    let follows = |told: Told| {
        let (partition, leader_epoch, leader, log_end) = (orders(), LeaderEpoch(0), BrokerId(1), Offset(3));
        told.observed("broker-1", Observation::BecameFollower { partition, leader_epoch, leader, log_end })
    };
    let last = |kept: &[BatchInfo], power_lost| {
        let told = follows(healthy(-1)).appends(1, &[batch(2)]).appends(2, &[batch(2)]).flushes(2, kept.len() as i64);
        told.changes(2, 1, &[2], false).stops(2, power_lost).loads(2, kept).elects(2, 2, &[2])
    };
    let late = |told: Told| told.high_watermark(1, 3);
    let (all, some) = ([batch(0), batch(1), batch(2)], [batch(0), batch(1)]);
    for kept in [&some[..], &some[..1], &[]] {
        let told = late(last(kept, true));
        assert_eq!(told.breaks("candidate-completeness"), Some(Excuse::InSyncReplicaLostPower));
        let joined = late(last(kept, true).changes(2, 2, &[2, 3], false));
        assert_eq!(joined.breaks("candidate-completeness"), Some(Excuse::NotHeardOfLoss), "broker 3 has lost nothing");
        let acked = told.acknowledges(1, -1, 2);
        assert_eq!(acked.lost(2), Some(Excuse::LastReplicaLostPower));
        let more = late(last(kept, true)).appends(1, &[batch(3)]).high_watermark(1, 4).acknowledges(1, -1, 3);
        assert_eq!(more.lost(3), None, "nobody had confirmed it");
    }
    assert_eq!(late(last(&some, false)).acknowledges(1, -1, 2).lost(2), None, "a killed process loses nothing");
    assert_eq!(late(last(&all, true)).acknowledges(1, -1, 2).lost(2), None, "it came back with everything");
}

#[test]
fn what_is_not_committed_in_the_end_is_there_or_it_is_not() {
    let told = Told::default().elects(1, 0, &[1, 2, 3]).appends(1, &[batch(0)]).acknowledges(1, 1, 0);
    let is_uncommitted = |told: &Told| told.guard().is_uncommitted("orders-0", &promise(None, 0));
    assert!(is_uncommitted(&told));
    let committed = told.high_watermark(1, 1);
    assert!(!is_uncommitted(&committed));
    let gone = Told::default().elects(1, 0, &[1, 2, 3]).appends(1, &[batch(0)]).acknowledges(1, 1, 0).truncates(1, 0);
    assert!(!is_uncommitted(&gone));
}

#[test]
fn a_copy_that_was_lost_legitimately_makes_no_duplicate() {
    // Value 7 stands at offset 1, is lost with the last replica's power, and is sent again.
    let sent = |told: Told| told.sends(7, batch(1)).changes(1, 0, &[1], false);
    let copy = BatchInfo { crc: batch(1).crc, ..batch(2) };
    let lost = sent(healthy(-1)).stops(1, true).loads(1, &[batch(0)]).elects(1, 1, &[1]);
    let again = lost.appends(1, &[BatchInfo { crc: 99, ..batch(1) }, copy]).sends(8, BatchInfo { crc: 99, ..batch(1) });
    let duplicate = |told: &Told| told.guard().excuse_duplicate("orders-0", Some(7), &[Offset(1), Offset(2)]);
    assert_eq!(duplicate(&again), Some(Excuse::LastReplicaLostPower));
    assert_eq!(duplicate(&sent(healthy(-1)).appends(1, &[copy])), None, "both are there");
    let twice = sent(healthy(-1)).stops(1, true).loads(1, &[batch(0)]).elects(1, 1, &[1]);
    assert_eq!(duplicate(&twice.appends(1, &[batch(1), copy])), None, "both are there, one for the second time");
}

#[test]
fn a_replica_with_a_hole_that_its_disk_made_may_join_the_isr() {
    // The first record is gone, the end of the log is where it was.
    let restarted = |told: Told| told.changes(1, 1, &[1, 2], false).leads(1, 1).stops(3, false).loads(3, &[batch(1)]);
    let joins = |told: Told| restarted(told).changes(1, 1, &[1, 2, 3], false).breaks("strong-isr");
    assert_eq!(joins(healthy(-1).spoils(3, ROT)), Some(Excuse::UntrustedDisk));
    assert_eq!(joins(healthy(-1).spoils(2, ROT)), None, "another machine's disk");
    let cut =
        healthy(-1).spoils(3, ROT).changes(1, 1, &[1, 2], false).leads(1, 1).truncates(3, 0).appends(3, &[batch(1)]);
    assert_eq!(cut.changes(1, 1, &[1, 2, 3], false).breaks("strong-isr"), None, "it was cut, not spoiled");
}

#[test]
fn a_leader_with_more_than_one_that_could_not_read_its_log_lacks_nothing() {
    let unread = |told: Told| {
        let told = told.changes(1, 1, &[1], false).stops(1, false).loads(1, &[batch(1)]).elects(1, 2, &[1]);
        told.high_watermark(1, 2).changes(1, 2, &[1, 2], false)
    };
    let next = |told: Told| unread(told).elects(2, 3, &[2]).breaks("leader-completeness");
    assert_eq!(next(healthy(-1).spoils(1, ROT)), Some(Excuse::UntrustedDisk));
    assert_eq!(next(healthy(-1)), None, "broker 1's disk is sound");
    let follows = |told: Told| unread(told).appends(1, &[batch(2)]).breaks("producer-sequence");
    assert_eq!(follows(healthy(-1).spoils(1, ROT)), Some(Excuse::UntrustedDisk), "its snapshots know what it lost");
    assert_eq!(follows(healthy(-1)), None);
    let cut = unread(healthy(-1).spoils(1, ROT)).truncates(2, 1).elects(2, 3, &[2]);
    assert_eq!(cut.breaks("leader-completeness"), None, "it lacks what broker 1 committed anew");
}

#[test]
fn what_a_lie_took_from_below_the_recovery_point_is_not_missed_at_a_start() {
    let back = |told: Told, left: &[BatchInfo]| {
        let told = told.flushes(1, 2).changes(2, 1, &[2, 3], false).stops(1, true).loads(1, left);
        told.changes(2, 1, &[2, 3, 1], false).elects(1, 2, &[2, 3, 1])
    };
    let breaks = |told: Told| told.breaks("leader-completeness");
    assert_eq!(breaks(back(healthy(-1).spoils(1, LIE), &[batch(1)])), Some(Excuse::UntrustedDisk));
    assert_eq!(breaks(back(healthy(-1), &[batch(1)])), None, "its disk is sound");
    assert_eq!(breaks(back(healthy(-1).spoils(1, LIE), &[batch(0)])), None, "where a log ends everybody knows");
}

#[test]
fn a_leader_misses_nothing_that_was_deleted() {
    let reason = LogStartReason::DeleteRecords;
    let last = |told: Told| told.changes(1, 0, &[1], false).stops(1, true).loads(1, &[]).elects(1, 1, &[1]);
    let deleted = |to| last(healthy(-1).expires(1, to, reason));
    assert_eq!(deleted(1).breaks("leader-completeness"), Some(Excuse::LastReplicaLostPower));
    assert_eq!(deleted(1).lost(0), Some(Excuse::Expired));
    assert_eq!(deleted(1).lost(1), Some(Excuse::LastReplicaLostPower));
}

#[test]
fn retention_excuses_what_is_old_enough() {
    let after = |told: Told, ms: usize| (0..ms).fold(told, |told, _| told.push("lab", TraceKind::Started));
    let by_time = LogStartReason::RetentionTime;
    assert_eq!(after(healthy(-1), 10).expires(1, 2, by_time).lost(1), Some(Excuse::Expired));
    assert_eq!(healthy(-1).expires(1, 2, by_time).lost(1), None, "sent less than retention.ms ago");
    assert_eq!(healthy(-1).expires(1, 1, LogStartReason::RetentionSize).lost(1), None, "another record");
    assert_eq!(healthy(-1).expires(1, 2, LogStartReason::RetentionSize).lost(1), Some(Excuse::Expired));
}

#[test]
fn a_member_of_the_isr_whose_disk_was_replaced_lacks_everything() {
    let told = healthy(-1).stops(3, true).spoils(3, DiskAction::Replace);
    let more = told.appends(1, &[batch(2)]).appends(2, &[batch(2)]).high_watermark(1, 3);
    assert_eq!(more.breaks("candidate-completeness"), Some(Excuse::InSyncReplicaLostPower));
}
