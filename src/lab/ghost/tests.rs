//! Each check is seen failing on a planted fact, and passing on its near miss.

use super::*;
use crate::observe::TruncationReason;

const AT: Time = Time::from_millis(1);

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

fn brokers(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(*id)).collect()
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

/// A ghost that is told one fact after another, and the controller's partition epoch.
#[derive(Default)]
struct Told(Ghost, i32);

impl Told {
    fn observes(mut self, machine: &str, fact: Observation) -> Told {
        self.0.observe(AT, machine, &fact);
        self
    }

    /// The controller has another ISR, in the same leader epoch.
    fn has_isr(self, leader: i32, epoch: i32, isr: &[i32]) -> Told {
        let partition_epoch = self.1;
        let told = self.changes(leader, epoch, partition_epoch, isr);
        Told(told.0, partition_epoch + 1)
    }

    fn changes(self, leader: i32, leader_epoch: i32, partition_epoch: i32, isr: &[i32]) -> Told {
        let change = Observation::PartitionChanged {
            partition: orders(),
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(leader_epoch),
            partition_epoch: PartitionEpoch(partition_epoch),
            isr: brokers(isr),
            replicas: brokers(&[1, 2, 3]),
            unclean: false,
        };
        self.observes("controller", change)
    }

    /// The leader's view of the ISR.
    fn views(self, leader: i32, isr: &[i32], maximal_isr: &[i32]) -> Told {
        let (isr, maximal_isr) = (brokers(isr), brokers(maximal_isr));
        let view = Observation::IsrView { partition: orders(), isr, maximal_isr, pending: false };
        self.observes(&machine_of(BrokerId(leader)), view)
    }

    fn acknowledges(self, broker: i32, offset: i64) -> Told {
        let (base_offset, last_offset) = (Offset(offset), Offset(offset));
        let fact = Observation::Acknowledged { partition: orders(), required_acks: -1, base_offset, last_offset };
        self.observes(&machine_of(BrokerId(broker)), fact)
    }

    fn elects(self, leader: i32, epoch: i32, isr: &[i32]) -> Told {
        self.has_isr(leader, epoch, isr).leads(leader, epoch)
    }

    fn leads(self, broker: i32, epoch: i32) -> Told {
        let log = self.0.partitions.get(&orders()).and_then(|ghost| ghost.logs.get(&machine_of(BrokerId(broker))));
        let log_end = Offset(log.map_or(0, |log| log.log_end));
        self.leads_with(broker, epoch, log_end)
    }

    fn leads_with(self, broker: i32, epoch: i32, log_end: Offset) -> Told {
        let (partition, leader_epoch) = (orders(), LeaderEpoch(epoch));
        let fact = Observation::BecameLeader { partition, leader_epoch, log_end, isr: Vec::new() };
        self.observes(&machine_of(BrokerId(broker)), fact)
    }

    fn appends(mut self, broker: i32, batches: &[BatchInfo]) -> Told {
        let (partition, batches) = (orders(), batches.to_vec());
        let fact = Observation::Appended {
            partition,
            as_leader: false,
            leader_epoch: LeaderEpoch(0),
            batches,
            sequences: None,
        };
        self.0.observe(AT, &machine_of(BrokerId(broker)), &fact);
        self
    }

    fn truncates(mut self, broker: i32, from: i64, to: i64) -> Told {
        let (from, to, reason) = (Offset(from), Offset(to), TruncationReason::DivergingEpoch);
        let fact = Observation::Truncated { partition: orders(), from, to, reason };
        self.0.observe(AT, &machine_of(BrokerId(broker)), &fact);
        self
    }

    fn moves_log_start(self, broker: i32, to: i64, reason: LogStartReason) -> Told {
        let (partition, from, to) = (orders(), Offset(0), Offset(to));
        self.observes(&machine_of(BrokerId(broker)), Observation::LogStartMoved { partition, from, to, reason })
    }

    fn compacts(self, broker: i32, to: i64, batches: &[BatchInfo]) -> Told {
        let (partition, from, batches) = (orders(), Offset::ZERO, batches.to_vec());
        let (to, tombstones) = (Offset(to), Vec::new());
        let fact = Observation::Compacted { partition, from, to, batches, delete_retention_ms: 0, tombstones };
        self.observes(&machine_of(BrokerId(broker)), fact)
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
    // The leader deleted the record that another one was committed as.
    let deleted = |by| {
        let told = healthy().truncates(3, 2, 1).appends(3, &[batch(1, 0, 99)]);
        told.moves_log_start(by, 2, LogStartReason::RetentionSize).high_watermark(3, 2, false)
    };
    assert!(deleted(1).violations().is_empty());
    assert_eq!(deleted(2).violations(), ["log-matching"], "another follower's deletion means nothing");
    // Nor does it keep anyone out of the ISR.
    let joined = |by| {
        let told = healthy().has_isr(1, 0, &[1, 2]).truncates(3, 2, 1).appends(3, &[batch(1, 0, 99)]);
        told.moves_log_start(by, 2, LogStartReason::RetentionTime).has_isr(1, 0, &[1, 2, 3])
    };
    assert!(joined(1).violations().is_empty(), "{:?}", joined(1).0.violations);
    assert_eq!(joined(2).violations(), ["strong-isr"]);
    // A follower that begins its log anew where the leader's begins, within a batch.
    let whole = BatchInfo { last_offset: Offset(1), ..batch(0, 0, 10) };
    let told = Told::default().elects(1, 0, &[1]).appends(1, &[whole]).high_watermark(1, 2, true);
    let anew = told.moves_log_start(1, 1, LogStartReason::DeleteRecords).moves_log_start(2, 1, LogStartReason::Leader);
    assert!(anew.high_watermark(2, 1, false).violations().is_empty());
    // Beyond its high watermark a replica may hold what it likes.
    let beyond = healthy().truncates(3, 2, 1).appends(3, &[batch(1, 0, 99)]).high_watermark(3, 1, false);
    assert!(beyond.violations().is_empty());
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
    assert!(told.violations().contains(&"leader-completeness"), "{:?}", told.0.violations);
}

#[test]
fn compaction_is_not_loss_but_only_where_it_was() {
    // Broker 2 loses offset 0 and rewrites offset 1; broker 3 starts anew from what broker 2 holds.
    let compacted = || healthy().high_watermark(2, 2, false).compacts(2, 2, &[batch(1, 0, 91)]);
    let told = compacted().elects(2, 1, &[2, 3]).truncates(3, 2, 0).appends(3, &[batch(1, 0, 91)]);
    let told = told.high_watermark(3, 2, false).elects(3, 2, &[2, 3]);
    assert!(told.violations().is_empty(), "{:?}", told.0.violations);
    // Nobody compacted offset 1 away, nor moved it to another epoch.
    assert!(compacted().truncates(3, 2, 0).elects(3, 1, &[3]).violations().contains(&"leader-completeness"));
    let other_epoch = compacted().truncates(3, 2, 0).appends(3, &[batch(1, 1, 91)]).high_watermark(3, 2, false);
    assert_eq!(other_epoch.violations(), ["log-matching"]);
}

#[test]
fn compaction_that_adds_or_moves_a_batch_breaks_log_matching() {
    for wrong in [batch(1, 4, 11), batch(7, 0, 11)] {
        assert_eq!(healthy().compacts(2, 2, &[batch(0, 0, 10), wrong]).violations(), ["log-matching"]);
    }
    assert!(healthy().compacts(2, 2, &[batch(0, 0, 90)]).violations().is_empty());
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
fn a_leader_that_has_forgotten_where_its_log_begins_misses_nothing_that_was_deleted() {
    let reason = LogStartReason::DeleteRecords;
    let after = |to| healthy().moves_log_start(1, to, reason).truncates(3, 2, 0).elects(3, 1, &[3]);
    assert!(after(2).violations().is_empty(), "{:?}", after(2).0.violations);
    assert_eq!(after(1).violations(), ["leader-completeness"]);
    // The log goes on where the leader's ends, and what it commits there nobody has deleted.
    let committed = after(2).appends(3, &[batch(0, 1, 20)]).high_watermark(3, 1, true);
    let lost = committed.truncates(2, 2, 0).elects(2, 2, &[2]);
    assert_eq!(lost.violations(), ["candidate-completeness", "leader-completeness"]);
}

#[test]
fn a_leader_that_finds_no_log_begins_a_new_one() {
    let told = healthy().has_isr(1, 1, &[1]).leads_with(1, 1, Offset::ZERO);
    assert_eq!(told.violations(), ["leader-completeness"]);
    let told = told.appends(1, &[batch(0, 1, 20)]).high_watermark(1, 1, true);
    assert_eq!(told.violations(), ["leader-completeness"], "{:?}", told.0.violations);
}

#[test]
fn a_leader_that_is_fenced_before_it_knows_that_it_leads_leads_until_it_hears_of_another() {
    let fenced = |next| {
        let told = healthy().has_isr(1, 0, &[1]).truncates(1, 2, 0);
        told.has_isr(1, 1, &[1])
            .has_isr(next, 2, &[1])
            .leads(1, 1)
            .appends(1, &[batch(0, 1, 20)])
            .high_watermark(1, 1, true)
    };
    assert_eq!(fenced(BrokerId::NONE.0).violations(), ["leader-completeness"]);
    // What it lacks another may have; then what it goes on to commit is not what was committed.
    assert_eq!(fenced(2).violations(), ["log-matching"]);
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
    let ahead = |isr: &[i32]| healthy().elects(1, 1, isr).appends(1, &[batch(2, 1, 12)]).appends(2, &[batch(2, 1, 12)]);
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
fn a_leader_epoch_never_goes_back() {
    assert_eq!(healthy().elects(2, 3, &[2]).elects(1, 2, &[1]).violations()[..1], ["leader-epoch-went-back"]);
    assert_eq!(healthy().leads(2, 4).leads(2, 3).violations(), ["leader-epoch-went-back"], "on a broker");
    let log = |epoch| {
        Told::default()
            .elects(1, 0, &[1])
            .appends(1, &[batch(0, 2, 10), batch(1, 3, 11)])
            .appends(1, &[batch(2, epoch, 12)])
    };
    assert_eq!(log(2).violations(), ["leader-epoch-went-back"], "in a log");
    assert!(log(3).violations().is_empty());
}

#[test]
fn a_partition_epoch_is_used_once() {
    assert_eq!(healthy().changes(1, 0, 0, &[1, 2, 3]).violations(), ["partition-epoch-went-back"]);
    assert!(healthy().changes(1, 0, 1, &[1, 2, 3]).violations().is_empty());
}

#[test]
fn a_broker_epoch_never_goes_back() {
    let then = |epoch| {
        let fenced =
            |epoch| Observation::Fenced { broker: BrokerId(2), broker_epoch: BrokerEpoch(epoch), fenced: false };
        Told::default().observes("controller", fenced(7)).observes("controller", fenced(epoch))
    };
    assert_eq!(then(6).violations(), ["broker-epoch-went-back"]);
    assert!(then(7).violations().is_empty());
}

#[test]
fn what_a_coordinator_does_to_a_member_against_the_protocol_breaks_a_rule() {
    let group = || "billing".to_owned();
    let told = |fact| Told::default().observes("broker-1", fact);
    assert_eq!(told(Observation::UnawaitedSync { group: group() }).violations(), ["unawaited-sync"]);
    assert_eq!(told(Observation::RefusedJoin { group: group() }).violations(), ["refused-join"]);
    let expired = |is_rebalancing| Observation::OffsetExpired {
        group: group(),
        partition: TopicPartition::new("orders", 0),
        offset: Offset(7),
        is_rebalancing,
    };
    assert_eq!(told(expired(true)).violations(), ["expired-in-rebalance"]);
    assert!(told(expired(false)).violations().is_empty());
    assert!(told(Observation::GroupDeleted { group: group() }).violations().is_empty());
}

#[test]
fn a_tombstone_stays_for_its_retention_from_the_first_compaction_on() {
    let compacts = |mut told: Told, broker: i32, at_ms: u64, tombstones: &[i64]| {
        let fact = Observation::Compacted {
            partition: orders(),
            from: Offset(0),
            to: Offset(2),
            batches: vec![batch(0, 0, 10), batch(1, 0, 11)],
            delete_retention_ms: 1_000,
            tombstones: tombstones.iter().copied().map(Offset).collect(),
        };
        told.0.observe(Time::from_millis(at_ms), &machine_of(BrokerId(broker)), &fact);
        told
    };
    // On one broker, or on the follower that was sent what the leader had compacted.
    for broker in [1, 2] {
        let goes = |at_ms| compacts(compacts(healthy(), 1, 5_000, &[]), broker, at_ms, &[1]);
        assert_eq!(goes(5_999).violations(), ["tombstone-too-early"]);
        assert!(goes(6_000).violations().is_empty());
    }
    assert_eq!(compacts(healthy(), 1, 9_000, &[1]).violations(), ["tombstone-too-early"], "with the first of all");
    let mut with_wrong_clocks = healthy();
    with_wrong_clocks.0.moves_clocks = true;
    assert!(compacts(with_wrong_clocks, 1, 9_000, &[1]).violations().is_empty());
}

#[test]
fn what_a_leader_has_deleted_is_compared_no_more_when_it_has_forgotten_that() {
    // The leader's log begins at 0 again after its crash, and a follower has another second record.
    let comes_back = |told: Told, batches: &[BatchInfo]| {
        let loaded = Observation::LogLoaded {
            partition: orders(),
            log_start: Offset(0),
            log_end: Offset(3),
            high_watermark: Offset(3),
            batches: batches.to_vec(),
            dropped_bytes: 0,
            clean: false,
        };
        told.observes("broker-1", loaded).elects(1, 1, &[1])
    };
    let third = batch(2, 0, 12);
    let diverged = || {
        let told = healthy().appends(1, &[third]).appends(2, &[third]).has_isr(1, 0, &[1, 2]);
        told.high_watermark(1, 3, true).truncates(3, 2, 1).appends(3, &[batch(1, 0, 99), third])
    };
    let deleted = || diverged().moves_log_start(1, 2, LogStartReason::DeleteRecords);
    let all = [batch(0, 0, 10), batch(1, 0, 11), third];
    let learns = |told: Told| comes_back(told, &all).high_watermark(3, 3, false).violations();
    assert_eq!(learns(diverged()), ["log-matching"]);
    assert!(learns(deleted()).is_empty());
    // Nor is it missed where the leader itself cannot read it any more.
    let rots = |told: Told| comes_back(told, &[batch(0, 0, 10), third]).high_watermark(3, 3, false).violations();
    assert_eq!(rots(diverged()), ["leader-completeness"]);
    assert!(rots(deleted()).is_empty());
}

#[test]
fn what_a_log_held_before_is_compared_once_its_high_watermark_is_above_it() {
    // Broker 3 comes back with another second record, goes on behind it, and then learns that all is committed.
    let diverged = |content| {
        let third = [batch(2, 0, 12)];
        let told = healthy().appends(1, &third).appends(2, &third).has_isr(1, 0, &[1, 2]).high_watermark(1, 3, true);
        let told = told.truncates(3, 2, 1).appends(3, &[batch(1, 0, content)]).high_watermark(3, 1, false);
        told.appends(3, &third).high_watermark(3, 3, false)
    };
    assert_eq!(diverged(99).violations(), ["log-matching"]);
    assert!(diverged(11).violations().is_empty(), "{:?}", diverged(11).0.violations);
}

#[test]
fn a_batch_that_the_leader_has_is_not_out_of_sequence() {
    let refused = |told: Told, crc| told.observes("broker-1", Observation::OutOfSequence { partition: orders(), crc });
    assert_eq!(refused(healthy(), 10).violations(), ["producer-sequence"]);
    assert!(refused(healthy(), 12).violations().is_empty(), "it does not have it");
    let later: Vec<BatchInfo> = (2..6).map(|offset| batch(offset, 0, 10 + offset as u32)).collect();
    assert!(refused(healthy().appends(1, &later), 10).violations().is_empty(), "it knows the last five");
    assert_eq!(refused(healthy().appends(1, &later), 11).violations(), ["producer-sequence"]);
    // After a start it knows the last one.
    let restarted = || {
        let loaded = Observation::LogLoaded {
            partition: orders(),
            log_start: Offset(0),
            log_end: Offset(2),
            high_watermark: Offset(2),
            batches: vec![batch(0, 0, 10), batch(1, 0, 11)],
            dropped_bytes: 0,
            clean: true,
        };
        healthy().observes("broker-1", loaded)
    };
    assert!(refused(restarted(), 10).violations().is_empty());
    assert_eq!(refused(restarted(), 11).violations(), ["producer-sequence"]);
    assert_eq!(refused(restarted().appends(1, &later), 13).violations(), ["producer-sequence"]);
}

#[test]
fn a_high_watermark_that_goes_down_with_the_log_shows_nothing() {
    // Broker 2 is elected uncleanly and commits another second record. Broker 3 has yet to find that its own is none.
    let (second, third) = ([batch(1, 1, 21)], [batch(2, 1, 22)]);
    let told = || {
        let told = healthy().high_watermark(3, 2, false).appends(3, &[batch(2, 0, 12)]).truncates(2, 2, 1);
        let told = told.elects(2, 1, &[2]).leads(2, 1).appends(2, &second).high_watermark(2, 2, true);
        told.truncates(3, 3, 2).high_watermark(3, 2, false)
    };
    assert_eq!(told().violations(), ["leader-completeness"]);
    let cut_again = |told: Told| told.truncates(3, 2, 1).high_watermark(3, 1, false).appends(3, &second);
    let goes_on = |told: Told| {
        let told = told.appends(2, &third).high_watermark(2, 3, true);
        told.appends(3, &third).high_watermark(3, 3, false).violations()
    };
    assert_eq!(goes_on(told()), ["leader-completeness", "log-matching"], "it goes on with what it has");
    assert_eq!(goes_on(cut_again(told())), ["leader-completeness"]);
}

#[test]
fn an_in_sync_replica_with_another_record_breaks_strong_isr() {
    let advances = |content| {
        let told = healthy().appends(1, &[batch(2, 0, 12)]).appends(2, &[batch(2, 0, 12)]);
        told.appends(3, &[batch(2, 0, content)]).high_watermark(1, 3, true)
    };
    assert_eq!(advances(99).violations(), ["strong-isr"]);
    assert!(advances(12).violations().is_empty());
}

#[test]
fn who_joins_the_isr_must_have_what_is_committed() {
    let joins = |end| {
        let told = healthy().has_isr(1, 0, &[1, 2]).truncates(3, 2, end);
        told.views(1, &[1, 2], &[1, 2, 3]).has_isr(1, 0, &[1, 2, 3])
    };
    assert_eq!(joins(1).violations(), ["candidate-completeness"]);
    assert!(joins(2).violations().is_empty());
}

#[test]
fn what_becomes_visible_has_min_insync_replicas_copies() {
    let with_isr = |isr: &[i32]| {
        let mut told = Told::default().has_isr(1, 0, isr).leads(1, 0).views(1, isr, isr);
        told.0.min_insync_replicas.insert("orders".to_owned(), 2);
        let held = isr.iter().fold(told, |told, member| told.appends(*member, &[batch(0, 0, 7)]));
        held.high_watermark(1, 1, true).violations()
    };
    assert_eq!(with_isr(&[1]), ["committed-under-min-isr"]);
    assert!(with_isr(&[1, 2]).is_empty());
}

#[test]
fn the_leader_waits_for_everyone_who_may_be_elected() {
    let viewed = |maximal: &[i32]| healthy().views(1, &[1, 2], maximal);
    assert_eq!(viewed(&[1, 2]).violations(), ["quorum-superset"]);
    assert!(viewed(&[1, 2, 3]).violations().is_empty());
    let told = viewed(&[1, 2, 3]).has_isr(1, 0, &[1, 2]).views(1, &[1, 2], &[1, 2]);
    assert!(told.violations().is_empty(), "{:?}", told.0.violations);
    assert_eq!(told.has_isr(1, 0, &[1, 2, 3]).violations(), ["quorum-superset"], "the controller knows better");
    let deposed = healthy().elects(2, 1, &[2, 3]).views(1, &[1], &[1]);
    assert!(deposed.violations().is_empty(), "a deposed leader counts whom it likes");
}

#[test]
fn an_acknowledgement_without_a_copy_on_every_candidate_is_incomplete() {
    let third = [batch(2, 0, 12)];
    let told = || healthy().appends(1, &third).appends(2, &third);
    assert_eq!(told().acknowledges(1, 2).violations(), ["acknowledged-incomplete"]);
    assert!(told().appends(3, &third).acknowledges(1, 2).violations().is_empty());
    assert!(healthy().acknowledges(1, 1).violations().is_empty());
    // Broker 2 leads, and has another record there.
    let deposed = healthy().elects(2, 1, &[2, 3]).appends(1, &third).appends(2, &[batch(2, 1, 99)]);
    assert_eq!(deposed.acknowledges(1, 2).violations(), ["acknowledged-incomplete"]);
}

#[test]
fn what_a_candidate_deleted_as_expired_is_not_incomplete() {
    let expired = |to, reason| {
        let moved = Observation::LogStartMoved { partition: orders(), from: Offset::ZERO, to: Offset(to), reason };
        let deposed = healthy().appends(1, &[batch(2, 0, 12)]).appends(2, &[batch(2, 0, 12)]).elects(2, 1, &[2]);
        deposed.observes("broker-2", moved).acknowledges(1, 2)
    };
    assert!(expired(3, LogStartReason::RetentionTime).violations().is_empty());
    assert!(expired(2, LogStartReason::RetentionTime).violations().is_empty(), "it is still there");
    assert_eq!(expired(3, LogStartReason::Leader).violations(), ["acknowledged-incomplete"], "nobody deleted it");
}

#[test]
fn nobody_is_served_more_than_the_high_watermark_covers() {
    let served = |to| {
        let fact = Observation::Served { partition: orders(), from: Offset::ZERO, to: Offset(to) };
        healthy().appends(1, &[batch(2, 0, 12)]).observes("broker-1", fact)
    };
    assert_eq!(served(3).violations(), ["served-uncommitted"]);
    assert!(served(2).violations().is_empty());
}

#[test]
fn a_partition_does_not_end_earlier_than_it_did() {
    let told = |broker: i32, offset| {
        let fact = Observation::LatestOffset { partition: orders(), offset: Offset(offset) };
        healthy().elects(2, 1, &[2, 3]).observes(&machine_of(BrokerId(broker)), fact)
    };
    assert_eq!(told(2, 1).violations(), ["latest-offset-went-back"]);
    assert!(told(2, 2).violations().is_empty());
    assert!(told(1, 1).violations().is_empty(), "a deposed leader does not know better");
}

#[test]
fn a_process_that_found_no_log_begins_an_empty_one() {
    let begun = |mut told: Told| {
        told.0.stopped("broker-3");
        let (partition, leader_epoch, leader) = (orders(), LeaderEpoch(0), BrokerId(1));
        let log_end = Offset::ZERO;
        told.observes("broker-3", Observation::BecameFollower { partition, leader_epoch, leader, log_end })
    };
    let three = [batch(0, 0, 10), batch(1, 0, 11), batch(2, 0, 12)];
    let more = |told: Told| told.appends(1, &three[2..]).appends(2, &three[2..]);
    let fetched = more(begun(healthy())).appends(3, &three).high_watermark(1, 3, true).high_watermark(3, 3, false);
    assert!(fetched.violations().is_empty(), "{:?}", fetched.0.violations);
    let empty = more(begun(healthy())).high_watermark(1, 3, true);
    assert_eq!(empty.violations(), ["candidate-completeness"]);
}

#[test]
fn a_deposed_leader_commits_only_what_its_successor_holds() {
    let third = [batch(2, 0, 12)];
    let deposed = |told: Told| told.has_isr(2, 1, &[2]).leads(2, 1).high_watermark(1, 3, true);
    let alone = deposed(healthy().appends(1, &third));
    assert_eq!(alone.violations(), ["candidate-completeness"], "its successor lacks the record");
    let other = alone.appends(2, &[batch(2, 1, 99)]).high_watermark(2, 3, true);
    assert_eq!(
        other.violations(),
        ["candidate-completeness"],
        "stated once, and the successor's record is the committed one"
    );
    let longer = BatchInfo { last_offset: Offset(3), ..batch(2, 0, 12) };
    let across = healthy().appends(1, &[longer]).has_isr(2, 1, &[2]).leads(2, 1).appends(2, &[batch(2, 1, 99)]);
    let across = across.high_watermark(2, 3, true).high_watermark(1, 4, true);
    assert_eq!(
        across.violations(),
        ["log-matching", "candidate-completeness"],
        "what it commits is not the committed log"
    );
    let across = across.truncates(1, 4, 2).appends(1, &[batch(2, 1, 99)]).high_watermark(1, 3, false);
    assert_eq!(across.violations(), ["log-matching", "candidate-completeness"], "it holds its successor's records");
    let held = deposed(healthy().appends(1, &third).appends(2, &third));
    assert!(held.violations().is_empty());
    let lost = held.truncates(2, 3, 2).elects(2, 2, &[2]);
    assert_eq!(lost.violations(), ["leader-completeness"]);
}
