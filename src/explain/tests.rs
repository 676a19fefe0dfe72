//! Hand-made runs for what no shipped scenario does: broken rules, wrong reads, and where an explanation ends.

use super::*;
use crate::client::ResetReason;
use crate::history::{EventType, Function, MicroOp, Value};
use crate::observe::{BatchInfo, Observation, TruncationReason};
use crate::protocol::{BrokerId, LeaderEpoch, Offset, PartitionEpoch, TopicPartition};

/// A run written event by event; every event takes a millisecond.
struct Run {
    trace: Vec<TraceEvent>,
    history: Vec<HistoryEvent>,
    settings: Settings,
}

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

fn ids(brokers: &[i32]) -> Vec<BrokerId> {
    brokers.iter().map(|id| BrokerId(*id)).collect()
}

fn batch(offset: i64, epoch: i32, value: u64) -> BatchInfo {
    let (base_offset, leader_epoch) = (Offset(offset), LeaderEpoch(epoch));
    BatchInfo { base_offset, last_offset: base_offset, leader_epoch, crc: 1_000 + value as u32 }
}

impl Run {
    /// Three replicas, broker 1 leads, consumer-1 is process 1, producer-1 process 0.
    fn with(acks: &str) -> Run {
        let mut settings = Settings::default();
        let producer =
            ProducerSettings { acks: acks.to_owned(), retries: 10, max_in_flight: 5, enable_idempotence: false };
        settings.producers.insert("producer-1".to_owned(), producer);
        let consumer = ConsumerSettings { auto_offset_reset: "latest".to_owned() };
        settings.consumers.insert("consumer-1".to_owned(), consumer);
        let topic = TopicSettings {
            replication_factor: 3,
            min_insync_replicas: 2,
            flush_messages: i64::MAX as u64,
            unclean_leader_election: false,
        };
        settings.topics.insert("orders".to_owned(), topic);
        let run = Run { trace: Vec::new(), history: Vec::new(), settings };
        run.event("producer-1", TraceKind::Process { process: 0 })
            .event("consumer-1", TraceKind::Process { process: 1 })
            .elects(1, 0, &[1, 2, 3])
            .event("lab", TraceKind::Phase(Phase::Workload))
    }

    fn now(&self) -> Time {
        Time::from_millis(self.trace.len() as u64 + 1)
    }

    fn event(mut self, machine: &str, what: TraceKind) -> Run {
        let at = self.now();
        self.trace.push(TraceEvent { at, machine: machine.into(), what });
        self
    }

    fn observes(self, broker: i32, observation: Observation) -> Run {
        self.event(&format!("broker-{broker}"), TraceKind::Observed(observation))
    }

    fn elects(self, leader: i32, epoch: i32, isr: &[i32]) -> Run {
        let change = Observation::PartitionChanged {
            partition: orders(),
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(epoch),
            partition_epoch: PartitionEpoch(epoch),
            isr: ids(isr),
            replicas: ids(&[1, 2, 3]),
            unclean: false,
        };
        self.event("controller", TraceKind::Observed(change))
    }

    fn appends(self, broker: i32, offset: i64, epoch: i32, value: u64, as_leader: bool) -> Run {
        let (batches, leader_epoch) = (vec![batch(offset, epoch, value)], LeaderEpoch(epoch));
        self.observes(
            broker,
            Observation::Appended { partition: orders(), as_leader, leader_epoch, batches, sequences: None },
        )
    }

    fn truncates(self, broker: i32, from: i64, to: i64, reason: TruncationReason) -> Run {
        let (from, to) = (Offset(from), Offset(to));
        self.observes(broker, Observation::Truncated { partition: orders(), from, to, reason })
    }

    fn high_watermark(self, broker: i32, offset: i64) -> Run {
        let offset = Offset(offset);
        self.observes(broker, Observation::HighWatermark { partition: orders(), offset, as_leader: true })
    }

    fn operation(mut self, process: i64, kind: EventType, op: MicroOp) -> Run {
        let f = if matches!(op, MicroOp::Send { .. }) { Function::Send } else { Function::Poll };
        let (index, time) = (self.history.len() as u64, self.now().as_nanos());
        let value = Some(Value::Ops(vec![op]));
        let (error, seek_to_beginning, rebalance_log) = (None, None, None);
        self.history.push(HistoryEvent {
            index,
            process,
            kind,
            f,
            time,
            value,
            error,
            seek_to_beginning,
            rebalance_log,
            group: None,
            committed: None,
        });
        self
    }

    fn sends(self, value: u64, attempt: u32, broker: i32) -> Run {
        let partition = "orders-0".to_owned();
        let run = if attempt == 1 {
            let op = MicroOp::send(partition.clone(), value.into(), None);
            let run = self.operation(0, EventType::Invoke, op);
            run.event("producer-1", TraceKind::Sent { partition: partition.clone(), value })
        } else {
            self
        };
        let (crc, values, broker) = (1_000 + value as u32, vec![value], BrokerId(broker));
        run.event("producer-1", TraceKind::BatchSent { partition, crc, values, attempt, broker, restated: false })
    }

    fn acknowledged(self, leader: i32, value: u64, offset: i64, required_acks: i16) -> Run {
        let (base_offset, last_offset) = (Offset(offset), Offset(offset));
        let answer = Observation::Acknowledged { partition: orders(), required_acks, base_offset, last_offset };
        let partition = "orders-0".to_owned();
        let op = MicroOp::send(partition.clone(), value.into(), Some(offset));
        let run = self.observes(leader, answer).operation(0, EventType::Ok, op);
        run.event("producer-1", TraceKind::Acked { partition, value, offset: Some(offset) })
    }

    fn fails(self, value: u64) -> Run {
        let (partition, error) = ("orders-0".to_owned(), "NOT_ENOUGH_REPLICAS".to_owned());
        let op = MicroOp::send(partition.clone(), value.into(), None);
        self.operation(0, EventType::Fail, op).event("producer-1", TraceKind::Failed { partition, value, error })
    }

    fn polls(self, process: i64, records: &[(i64, u64)]) -> Run {
        let records = records.iter().map(|(offset, value)| (Some(*offset), Json::from(*value))).collect();
        let records = [("orders-0".to_owned(), records)].into_iter().collect();
        self.operation(process, EventType::Ok, MicroOp::Poll { records })
    }

    fn reads_back(self, records: &[(i64, u64)]) -> Run {
        let run = self.event("final-reader", TraceKind::Process { process: 9 });
        run.event("lab", TraceKind::Phase(Phase::FinalRead)).polls(9, records)
    }

    /// Every replica has the record and the producer knows it.
    fn commits(self, offset: i64, value: u64) -> Run {
        let run = self.sends(value, 1, 1).appends(1, offset, 0, value, true);
        let run = run.appends(2, offset, 0, value, false).appends(3, offset, 0, value, false);
        run.high_watermark(1, offset + 1).acknowledged(1, value, offset, -1)
    }

    fn explain(&self, wanted: &Wanted) -> Result<Vec<Explanation>, Unknown> {
        let case = Case { trace: &self.trace, history: &self.history, settings: &self.settings, faults: Vec::new() };
        explain(&case, wanted)
    }

    fn only(&self, kind: &str) -> Explanation {
        let all = self.explain(&Wanted::All).expect("nothing in particular is asked for");
        let found: Vec<&Explanation> = all.iter().filter(|e| e.kind == kind).collect();
        let kinds: Vec<&str> = all.iter().map(|e| e.kind.as_str()).collect();
        assert_eq!(found.len(), 1, "{kind} among {kinds:?}");
        found[0].clone()
    }
}

fn text(explanation: &Explanation) -> String {
    human(std::slice::from_ref(explanation), false, 110)
}

#[test]
fn a_committed_record_that_an_in_sync_leader_never_had_breaks_leader_completeness() {
    let run = Run::with("all").sends(7, 1, 1).appends(1, 0, 0, 7, true).high_watermark(1, 1).acknowledged(1, 7, 0, -1);
    let run = run.elects(2, 1, &[1, 2, 3]).truncates(1, 1, 0, TruncationReason::DivergingEpoch).reads_back(&[]);
    let lost = run.only("unseen");
    assert_eq!((lost.ruling, lost.remedies.len()), (Ruling::RuleBroken, 0));
    assert_eq!((lost.holders.as_deref(), lost.isr.as_deref()), (Some(&[1][..]), Some(&[1, 2, 3][..])));
    insta::assert_snapshot!(text(&lost));
}

#[test]
fn truncation_to_the_own_high_watermark_is_named_as_the_rule_before_kip_101() {
    let run = Run::with("all").commits(0, 7).truncates(2, 1, 0, TruncationReason::HighWatermark);
    let run = run.elects(2, 1, &[1, 2, 3]).truncates(1, 1, 0, TruncationReason::DivergingEpoch);
    let run = run.truncates(3, 1, 0, TruncationReason::DivergingEpoch).reads_back(&[]);
    let lost = run.only("unseen");
    assert_eq!(lost.ruling, Ruling::RuleBroken);
    assert!(lost.why.contains("KIP-101"), "{}", lost.why);
    assert_eq!(lost.holders.as_deref(), Some(&[1, 3][..]), "before the election of broker-2");
    insta::assert_snapshot!(text(&lost));
}

#[test]
fn an_acknowledgement_without_an_append_breaks_the_promise() {
    let run = Run::with("1").sends(7, 1, 1).acknowledged(1, 7, 0, 1).reads_back(&[]);
    let lost = run.only("unseen");
    assert_eq!(lost.ruling, Ruling::RuleBroken);
    assert!(lost.summary.contains("no leader ever appended it"), "{}", lost.summary);
}

#[test]
fn a_record_of_a_deposed_leader_is_decided_by_the_election_that_it_missed() {
    let run = Run::with("1").commits(0, 6).elects(2, 1, &[2, 3]);
    let run = run.sends(7, 1, 1).appends(1, 1, 0, 7, true).acknowledged(1, 7, 1, 1);
    let run = run.truncates(1, 2, 1, TruncationReason::DivergingEpoch).reads_back(&[(0, 6)]);
    let lost = run.only("unseen");
    let remedies: Vec<String> = lost.remedies.iter().map(Remedy::settings_text).collect();
    assert_eq!((lost.ruling, remedies), (Ruling::Legal, vec!["acks=all".to_owned()]));
    insta::assert_snapshot!(text(&lost));
}

#[test]
fn a_record_that_failed_and_was_read_breaks_a_rule() {
    let run =
        Run::with("1").sends(7, 1, 1).appends(1, 0, 0, 7, true).fails(7).polls(1, &[(0, 7)]).reads_back(&[(0, 7)]);
    let read = run.only("aborted-read");
    assert_eq!(read.ruling, Ruling::RuleBroken);
    insta::assert_snapshot!(text(&read));
}

#[test]
fn a_value_that_nobody_sent_is_told_with_its_reader() {
    let run = Run::with("1").commits(0, 7).polls(1, &[(0, 99)]).reads_back(&[(0, 7)]);
    let phantom = run.only("phantom");
    assert_eq!((phantom.ruling, phantom.offset), (Ruling::RuleBroken, Some(0)));
    assert!(phantom.summary.starts_with("consumer-1 read 99"), "{}", phantom.summary);
}

#[test]
fn a_skip_after_a_reset_is_explained_by_the_reset() {
    let run = Run::with("all").commits(0, 6).commits(1, 7).commits(2, 8).polls(1, &[(0, 6)]);
    let (partition, reason) = ("orders-0".to_owned(), ResetReason::OutOfRange);
    let run = run.event("consumer-1", TraceKind::PositionReset { partition, from: 1, to: 2, reason });
    let run = run.polls(1, &[(2, 8)]).reads_back(&[(0, 6), (1, 7), (2, 8)]);
    let skip = run.only("poll-skip");
    let remedies: Vec<String> = skip.remedies.iter().map(Remedy::settings_text).collect();
    assert_eq!((skip.ruling, remedies), (Ruling::Legal, vec!["auto.offset.reset=earliest".to_owned()]));
    insta::assert_snapshot!(text(&skip));
}

#[test]
fn a_skip_after_a_followers_out_of_range_breaks_a_rule_if_the_leader_had_the_position() {
    let run = Run::with("all").commits(0, 6).commits(1, 7).commits(2, 8);
    let run = run.observes(1, Observation::ReferredTo { partition: orders(), offset: Offset(0), replica: BrokerId(2) });
    let (from, to, reason) = (Offset(0), Offset(2), crate::observe::LogStartReason::RetentionTime);
    let run = run.polls(1, &[(0, 6)]);
    let run = run.observes(2, Observation::LogStartMoved { partition: orders(), from, to, reason });
    let (partition, reason) = ("orders-0".to_owned(), ResetReason::OutOfRange);
    let run = run.event("consumer-1", TraceKind::PositionReset { partition, from: 1, to: 2, reason });
    let skip = run.polls(1, &[(2, 8)]).reads_back(&[(0, 6), (1, 7), (2, 8)]).only("poll-skip");
    assert_eq!((skip.ruling, skip.remedies.len()), (Ruling::RuleBroken, 0));
    insta::assert_snapshot!(text(&skip));
}

#[test]
fn a_skip_without_a_reason_breaks_a_rule() {
    let run = Run::with("all").commits(0, 6).commits(1, 7).commits(2, 8).polls(1, &[(0, 6)]).polls(1, &[(2, 8)]);
    let skip = run.reads_back(&[(0, 6), (1, 7), (2, 8)]).only("poll-skip");
    assert_eq!(skip.ruling, Ruling::RuleBroken);
    assert!(skip.decision.starts_with("consumer-1, which moved"), "{}", skip.decision);
}

#[test]
fn a_violation_without_a_loss_before_it_is_not_legal_and_has_its_cause() {
    let violated = |run: Run| {
        let (name, partition) = ("log-matching".to_owned(), "orders-0".to_owned());
        run.event("lab", TraceKind::Violated { name, partition, detail: "broker-3 holds another record".to_owned() })
    };
    let broken = violated(Run::with("all").commits(0, 6).high_watermark(1, 2)).only("log-matching");
    assert_eq!(broken.ruling, Ruling::RuleBroken);
    let cause = broken.timeline.iter().find(|moment| moment.decisive).expect("the event before it");
    assert_eq!(cause.text, "moved its high watermark to 2");
    let dark = Run::with("all").commits(0, 6).event("broker-2", TraceKind::Stopped { power_lost: true });
    assert_eq!(violated(dark.high_watermark(1, 2)).only("log-matching").ruling, Ruling::Legal);
}

#[test]
fn two_owners_are_traced_to_the_coordinator_that_gave_the_partition_away_or_to_their_joining() {
    let told = |unclaimed: bool| {
        let run = Run::with("all").event("consumer-1", TraceKind::Joined { generation: 3 });
        let group = "billing".to_owned();
        let run = if unclaimed { run.observes(1, Observation::Unclaimed { group, partition: orders() }) } else { run };
        let run = run.event("consumer-2", TraceKind::Joined { generation: 3 });
        let (name, partition) = ("owned-twice".to_owned(), "orders-0".to_owned());
        let detail = "consumer-1 and consumer-2 own it, both in generation 3 of billing".to_owned();
        run.event("lab", TraceKind::Violated { name, partition, detail }).only("owned-twice")
    };
    let cause = |told: &Explanation| {
        let decisive = told.timeline.iter().find(|moment| moment.decisive).expect("there is a cause");
        (decisive.machine.clone(), decisive.text.clone())
    };
    let by_coordinator = told(true);
    assert_eq!(by_coordinator.ruling, Ruling::Legal);
    assert_eq!(cause(&by_coordinator).0, "broker-1");
    assert_eq!(by_coordinator.timeline.len(), 3);
    let broken = told(false);
    assert_eq!(broken.ruling, Ruling::RuleBroken);
    assert_eq!(cause(&broken), ("consumer-2".to_owned(), "joined generation 3".to_owned()));
}

#[test]
fn a_healthy_record_has_a_life_and_no_anomaly() {
    let run = Run::with("all").commits(0, 6).reads_back(&[(0, 6)]);
    assert_eq!(run.explain(&Wanted::All), Ok(Vec::new()));
    let wanted = Wanted::Record { partition: "orders-0".to_owned(), offset: 0 };
    let lives = run.explain(&wanted).expect("it is there");
    assert_eq!((lives.len(), lives[0].kind.as_str(), lives[0].ruling), (1, "kept", Ruling::Intact));
    insta::assert_snapshot!(text(&lives[0]));
}

#[test]
fn an_unknown_record_names_the_nearest() {
    let run = Run::with("all").commits(0, 6).commits(1, 7).reads_back(&[(0, 6), (1, 7)]);
    let ask = |partition: &str, offset: i64| {
        let wanted = Wanted::Record { partition: partition.to_owned(), offset };
        run.explain(&wanted).expect_err("there is no such record").to_string()
    };
    assert_eq!(ask("orders-0", 512), "no record is known at orders-0@512; the nearest is orders-0@1");
    assert_eq!(ask("orders-1", 0), "no record was sent to orders-1; there are orders-0");
}

#[test]
fn records_of_one_fate_are_told_once() {
    let mut run = Run::with("1");
    for offset in 0..3 {
        let value = 6 + offset as u64;
        run = run.sends(value, 1, 1).appends(1, offset, 0, value, true).acknowledged(1, value, offset, 1);
    }
    let run = run.elects(2, 1, &[1, 2, 3]).truncates(1, 3, 0, TruncationReason::DivergingEpoch).reads_back(&[]);
    let lost = run.only("unseen");
    assert_eq!(lost.same_fate, SameFate { records: 3, offsets: vec![(0, 2)] });
    assert_eq!(lost.same_fate_text().as_deref(), Some("The same fate: offsets 0 to 2, 3 records of orders-0."));
}

#[test]
fn a_record_that_is_there_and_was_not_read_is_not_told_as_gone() {
    let kept = Run::with("1").commits(0, 6).sends(7, 1, 1).appends(1, 1, 0, 7, true).acknowledged(1, 7, 1, 1);
    let above = kept.reads_back(&[(0, 6)]).only("unseen");
    assert_eq!((above.ruling, above.offset), (Ruling::Intact, Some(1)));
    assert!(above.summary.ends_with("the last leader holds it. Nobody read it back."), "{}", above.summary);
    assert_eq!(above.decision, "the high watermark, which stayed at 1: consumers read below it");
    let error = "corrupt records in orders-0 at position 0: batch at offset 0: unsupported magic 34".to_owned();
    let stuck = Run::with("all").commits(0, 6).reads_back(&[]);
    let stuck = stuck.event("final-reader", TraceKind::ReadFailed { error: error.clone() }).only("unseen");
    assert_eq!(stuck.decision, format!("the final reader's error: {error}"));
}
