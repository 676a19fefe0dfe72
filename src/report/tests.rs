//! The reports of a hand-made run: a leader loses power with records that only it had.

use super::files::{self, Kept};
use super::{Look, Report, RunReport, Verdict, human, judge, junit};
use crate::defect::Defects;
use crate::history::{EventType, Function, HistoryEvent, MicroOp, Value};
use crate::lab::outcome::{End, FiredFault, Phase, RunOutcome, TraceEvent, TraceKind, Violation};
use crate::observe::{BatchInfo, LogStartReason, Observation, TruncationReason};
use crate::protocol::{BrokerId, LeaderEpoch, Offset, PartitionEpoch, TopicPartition};
use crate::scenario::{self, Scenario};
use crate::world::Time;

const SCENARIO: &str = r#"# An acknowledged write dies with its leader unless every in-sync replica has it.
[cluster]
brokers = 3
[cluster.config]
"min.insync.replicas" = 2
[[topic]]
name = "orders"
replication-factor = 3
[[workload]]
kind = "produce"
topic = "orders"
records = 10
rate = 10
[[fault]]
at = "500ms"
do = "power-loss"
target = "leader(orders-0)"
for = "3s"
[expect]
"acks=1" = { lost-write = "> 0" }
"acks=all" = { lost-write = 0, unseen = 0 }
"#;

const LOOK: Look = Look { color: false, width: 100 };
/// Offsets that only the first leader had.
const TAIL: std::ops::Range<i64> = 3..5;

fn scenario() -> Scenario {
    scenario::parse("a_leader_loses_power", "scenarios/a_leader_loses_power.toml", SCENARIO).expect("a good scenario")
}

fn variant_of(scenario: &Scenario, acks: &str) -> usize {
    let label = format!("acks={acks}");
    scenario.variants.iter().position(|variant| variant.label() == label).expect("an axis of acks")
}

/// A run in which broker-1 leads, acknowledges ten records' worth of history, loses power at 0.5 s, and
/// broker-2 goes on without [`TAIL`].
struct RunOf {
    acks: &'static str,
    loses_tail: bool,
}

impl RunOf {
    fn outcome(&self) -> RunOutcome {
        let trace = self.trace();
        RunOutcome {
            seed: 7,
            end: End::Complete,
            history: self.history(),
            events: trace.len() as u64,
            trace,
            faults: vec![FiredFault {
                index: 0,
                at: Time::from_millis(500),
                ended_at: Some(Time::from_millis(3_500)),
                resolved: vec!["broker-1".to_owned()],
                refused: None,
            }],
            violations: Vec::new(),
            groups: None,
            digest: 0xfa17_11fe,
            started_at: Time::from_millis(1_000),
            ended_at: Time::from_millis(9_000),
            wall_ms: 12,
            cpu: None,
            asked: Defects::NONE,
            messages: 345,
        }
    }

    /// Values 0 to 4 before the power loss, 5 to 9 after the election; the lost ones share offsets with
    /// later values.
    fn offset(&self, value: i64) -> i64 {
        if value < 5 || !self.loses_tail { value } else { value - (TAIL.end - TAIL.start) }
    }

    fn history(&self) -> Vec<HistoryEvent> {
        let mut history = Vec::new();
        for value in 0..10 {
            let sent = if value < 5 { 1_000 + 100 * value } else { 4_000 + 100 * value } as u64;
            push(&mut history, EventType::Invoke, sent, send(value, None));
            let is_missing = TAIL.contains(&value) && self.loses_tail;
            let kind = match self.acks {
                "0" => EventType::Info,
                "all" if is_missing => EventType::Info,
                _ => EventType::Ok,
            };
            let offset = (kind == EventType::Ok).then(|| self.offset(value));
            push(&mut history, kind, sent + 2, send(value, offset));
        }
        let read = (0..10).filter(|value| !(TAIL.contains(value) && self.loses_tail));
        let records = read.map(|value| (Some(self.offset(value)), value.into())).collect();
        let poll = MicroOp::Poll { records: [("orders-0".to_owned(), records)].into_iter().collect() };
        push(&mut history, EventType::Ok, 8_000, poll);
        history
    }

    fn trace(&self) -> Vec<TraceEvent> {
        let mut trace =
            vec![at(900, "controller", elected(1, 0, &[1, 2, 3])), at(1_000, "lab", TraceKind::Phase(Phase::Workload))];
        for value in 0..5 {
            let sent = 1_000 + 100 * value as u64;
            trace.push(at(
                sent,
                "producer-1",
                TraceKind::Sent { partition: "orders-0".to_owned(), value: value as u64 },
            ));
            trace.push(at(sent + 1, "broker-1", appended(true, 0, value)));
            if self.acks == "1" {
                trace.push(at(sent + 1, "broker-1", acknowledged(value)));
                let (partition, offset) = ("orders-0".to_owned(), Some(value));
                trace.push(at(sent + 2, "producer-1", TraceKind::Acked { partition, value: value as u64, offset }));
            }
            if !TAIL.contains(&value) || !self.loses_tail {
                trace.push(at(sent + 1, "broker-2", appended(false, 0, value)));
                trace.push(at(sent + 1, "broker-3", appended(false, 0, value)));
                trace.push(at(sent + 2, "broker-1", high_watermark(value + 1)));
            }
        }
        trace.extend([
            at(1_500, "lab", TraceKind::FaultStarted { index: 0, targets: vec!["broker-1".to_owned()] }),
            at(1_500, "broker-1", TraceKind::Stopped { power_lost: true }),
            at(3_900, "controller", elected(2, 1, &[2, 3])),
            at(4_500, "broker-1", TraceKind::Started),
            at(4_600, "broker-1", loaded(if self.loses_tail { TAIL.end - 1 } else { TAIL.end })),
        ]);
        if self.loses_tail {
            trace.push(at(4_700, "broker-1", truncated(TAIL.end - 1, TAIL.start)));
        }
        trace.push(at(7_900, "lab", TraceKind::Phase(Phase::FinalRead)));
        trace.push(at(9_000, "lab", TraceKind::Phase(Phase::Done)));
        trace.sort_by_key(|event| event.at);
        trace
    }
}

fn push(history: &mut Vec<HistoryEvent>, kind: EventType, ms: u64, op: MicroOp) {
    let f = if matches!(op, MicroOp::Send { .. }) { Function::Send } else { Function::Poll };
    history.push(HistoryEvent {
        index: history.len() as u64,
        process: i64::from(f == Function::Poll),
        kind,
        f,
        time: ms * 1_000_000,
        value: Some(Value::Ops(vec![op])),
        error: None,
        seek_to_beginning: None,
        rebalance_log: None,
        group: None,
        committed: None,
    });
}

fn send(value: i64, offset: Option<i64>) -> MicroOp {
    MicroOp::send("orders-0".to_owned(), value.into(), offset)
}

fn at(ms: u64, machine: &str, what: TraceKind) -> TraceEvent {
    TraceEvent { at: Time::from_millis(ms), machine: machine.into(), what }
}

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

fn batch(offset: i64, epoch: i32) -> BatchInfo {
    let crc = offset as u32 * 1_000 + epoch as u32;
    BatchInfo { base_offset: Offset(offset), last_offset: Offset(offset), leader_epoch: LeaderEpoch(epoch), crc }
}

fn appended(as_leader: bool, epoch: i32, offset: i64) -> TraceKind {
    let batches = vec![batch(offset, epoch)];
    let leader_epoch = LeaderEpoch(epoch);
    TraceKind::Observed(Observation::Appended {
        partition: orders(),
        as_leader,
        leader_epoch,
        batches,
        sequences: None,
    })
}

fn acknowledged(offset: i64) -> TraceKind {
    let (base_offset, last_offset) = (Offset(offset), Offset(offset));
    TraceKind::Observed(Observation::Acknowledged { partition: orders(), required_acks: 1, base_offset, last_offset })
}

fn high_watermark(offset: i64) -> TraceKind {
    TraceKind::Observed(Observation::HighWatermark { partition: orders(), offset: Offset(offset), as_leader: true })
}

fn elected(leader: i32, epoch: i32, isr: &[i32]) -> TraceKind {
    TraceKind::Observed(Observation::PartitionChanged {
        partition: orders(),
        leader: BrokerId(leader),
        leader_epoch: LeaderEpoch(epoch),
        partition_epoch: PartitionEpoch(epoch),
        isr: isr.iter().map(|id| BrokerId(*id)).collect(),
        replicas: vec![BrokerId(1), BrokerId(2), BrokerId(3)],
        unclean: false,
    })
}

fn loaded(log_end: i64) -> TraceKind {
    TraceKind::Observed(Observation::LogLoaded {
        partition: orders(),
        log_start: Offset(0),
        log_end: Offset(log_end),
        high_watermark: Offset(2),
        batches: (0..log_end).map(|offset| batch(offset, 0)).collect(),
        dropped_bytes: 0,
        clean: false,
    })
}

fn truncated(from: i64, to: i64) -> TraceKind {
    let reason = TruncationReason::DivergingEpoch;
    TraceKind::Observed(Observation::Truncated { partition: orders(), from: Offset(from), to: Offset(to), reason })
}

fn judged(acks: &'static str, loses_tail: bool) -> RunReport {
    let scenario = scenario();
    judge(&scenario, variant_of(&scenario, acks), &RunOf { acks, loses_tail }.outcome())
}

/// acks=0 and 1 lose the tail, acks=all does not know what became of it.
fn three_runs() -> Vec<RunReport> {
    ["0", "1", "all"].map(|acks| judged(acks, true)).into()
}

#[test]
fn a_loss_under_acks_1_is_as_expected_and_accounted_for() {
    let report = judged("1", true);
    assert_eq!((report.verdict, report.problems.as_slice()), (Verdict::AsExpected, &[][..]));
    assert_eq!((report.counts.acked, report.counts.lost, report.counts.read), (10, 2, 8));
    assert_eq!(report.anomalies["lost-write"], 2);
    let account = report.account.expect("a record was lost");
    assert_eq!((account.offset, account.value), (Some(3), 3.into()));
    insta::assert_snapshot!(account.lines.join("\n"));
}

#[test]
fn an_expectation_that_is_not_met_is_unexpected() {
    let report = judged("1", false);
    assert_eq!(report.verdict, Verdict::Unexpected);
    assert_eq!(report.problems, ["expected lost-write > 0, found 0"]);
    assert!(report.account.is_none());
}

#[test]
fn acks_0_counts_what_was_sent_and_is_missing() {
    let report = judged("0", true);
    assert_eq!(report.verdict, Verdict::AsExpected);
    let counts = report.counts;
    assert_eq!((counts.sent, counts.acked, counts.unknown, counts.sent_and_missing, counts.lost), (10, 0, 10, 2, 0));
    assert!(!report.unavailable_measured);
}

#[test]
fn an_anomaly_that_nothing_explains_is_unexpected() {
    let scenario = scenario();
    let mut outcome = RunOf { acks: "all", loses_tail: false }.outcome();
    let failed = send(99, None);
    push(&mut outcome.history, EventType::Fail, 8_100, failed);
    let records = vec![(Some(10), 99.into())];
    let poll = MicroOp::Poll { records: [("orders-0".to_owned(), records)].into_iter().collect() };
    push(&mut outcome.history, EventType::Ok, 8_200, poll);
    let report = judge(&scenario, variant_of(&scenario, "all"), &outcome);
    assert_eq!(report.problems, ["aborted-read: 1 found, none allowed"]);
}

#[test]
fn retention_excuses_what_it_deleted_and_no_other_loss() {
    let scenario = scenario::parse("retention", "", SCENARIO.split("[expect]").next().expect("a scenario"));
    let scenario = scenario.expect("a good scenario");
    let read_beyond_the_first_five_with_log_start_at = |to| {
        let mut outcome = RunOf { acks: "all", loses_tail: false }.outcome();
        outcome.history.pop();
        let records = (5..10).map(|value| (Some(value), value.into())).collect();
        let poll = MicroOp::Poll { records: [("orders-0".to_owned(), records)].into_iter().collect() };
        push(&mut outcome.history, EventType::Ok, 8_000, poll);
        let (partition, from, reason) = (orders(), Offset(0), LogStartReason::RetentionTime);
        let moved = Observation::LogStartMoved { partition, from, to: Offset(to), reason };
        outcome.trace.insert(2, at(1_050, "broker-2", TraceKind::Observed(moved)));
        outcome.trace.retain(|event| !matches!(event.what, TraceKind::Stopped { .. }));
        let report = judge(&scenario, variant_of(&scenario, "all"), &outcome);
        (report.problems, report.account.expect("records are gone").value)
    };
    assert_eq!(read_beyond_the_first_five_with_log_start_at(5), (Vec::new(), 0.into()));
    let left = "2 found of records that retention did not delete, none allowed";
    let problems = vec![format!("unseen: {left}"), format!("lost-write: {left}")];
    // The account is of a record that nobody deleted.
    assert_eq!(read_beyond_the_first_five_with_log_start_at(3), (problems, 3.into()));
}

#[test]
fn a_violation_and_a_fault_that_never_fired_are_unexpected() {
    let scenario = scenario();
    let mut outcome = RunOf { acks: "all", loses_tail: false }.outcome();
    outcome.faults.clear();
    outcome.violations.push(Violation {
        name: "log-matching",
        at: Time::from_millis(2_000),
        partition: "orders-0".to_owned(),
        detail: "broker-2 and broker-3 differ at offset 4".to_owned(),
    });
    let report = judge(&scenario, variant_of(&scenario, "all"), &outcome);
    assert_eq!(
        report.problems,
        [
            "violation log-matching: 1, the first at 1.000s in orders-0: broker-2 and broker-3 differ at offset 4",
            "fault 1 (power-loss leader(orders-0), line 14) never fired",
        ]
    );
}

#[test]
fn a_claimed_loss_explains_what_follows_from_it() {
    let claimed = SCENARIO.replace("{ lost-write = 0, unseen = 0 }", "{ lost-write = \"> 0\" }");
    let scenario = scenario::parse("claimed", "", &claimed).expect("a good scenario");
    let mut outcome = RunOf { acks: "1", loses_tail: true }.outcome();
    let name = "leader-completeness";
    let (at, partition, detail) = (Time::from_millis(4_900), "orders-0".to_owned(), "broker-2 lacks 3".to_owned());
    outcome.violations.push(Violation { name, at, partition, detail });
    let report = judge(&scenario, variant_of(&scenario, "all"), &outcome);
    assert_eq!((report.verdict, report.problems), (Verdict::AsExpected, Vec::new()));
}

#[test]
fn a_run_that_panicked_or_did_not_finish_is_not_judged_further() {
    let scenario = scenario();
    let mut outcome = RunOf { acks: "1", loses_tail: false }.outcome();
    outcome.end = End::Panicked("index out of bounds at src/x.rs:3".to_owned());
    let report = judge(&scenario, 1, &outcome);
    assert_eq!(report.verdict, Verdict::Panicked);
    assert!(report.problems[0].contains("src/x.rs:3") && report.expectations.is_empty());
    outcome.end = End::Unfinished("no leader for orders-0".to_owned());
    assert_eq!(judge(&scenario, 1, &outcome).verdict, Verdict::Unfinished);
}

#[test]
fn unavailability_is_the_time_tried_without_success() {
    let scenario = scenario();
    let mut outcome = RunOf { acks: "1", loses_tail: false }.outcome();
    outcome.history.clear();
    let history = &mut outcome.history;
    push(history, EventType::Invoke, 1_000, send(0, None));
    push(history, EventType::Ok, 1_900, send(0, Some(0)));
    // Nobody tries between 1.9 s and 5 s; then one try fails after 2 s and the next succeeds after 0.5 s.
    push(history, EventType::Invoke, 5_000, send(1, None));
    push(history, EventType::Fail, 7_000, send(1, None));
    push(history, EventType::Invoke, 8_000, send(2, None));
    push(history, EventType::Ok, 8_500, send(2, Some(1)));
    assert_eq!(judge(&scenario, 1, &outcome).unavailable_ms, 2_500);
}

#[test]
fn the_terminal_shows_a_row_per_variant_and_the_account() {
    insta::assert_snapshot!(human(&three_runs(), LOOK));
}

#[test]
fn many_seeds_are_a_row_per_variant_with_details_of_the_unexpected() {
    let mut runs: Vec<RunReport> = Vec::new();
    for seed in 1..=5 {
        runs.push(RunReport { seed, ..judged("1", seed != 3) });
    }
    insta::assert_snapshot!(human(&runs, LOOK));
}

#[test]
fn colour_does_not_change_what_is_written() {
    let colored = human(&three_runs(), Look { color: true, ..LOOK });
    let mut plain = String::new();
    let mut rest = colored.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').expect("a colour code ends in m").1;
    }
    plain.push_str(rest);
    assert_eq!(plain, human(&three_runs(), LOOK));
    assert_ne!(plain, colored);
}

#[test]
fn the_json_has_the_documented_fields() {
    let runs = three_runs();
    insta::assert_snapshot!(Report::of(&runs[1..2]).to_json());
}

#[test]
fn junit_has_a_failure_for_each_unexpected_run() {
    let runs = [judged("all", true), judged("1", false)];
    insta::assert_snapshot!(junit(&runs).expect("serializes"));
}

#[test]
fn a_report_directory_holds_page_history_and_trace() {
    let scenario = scenario();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let outcomes = ["0", "1", "all"].map(|acks| RunOf { acks, loses_tail: true }.outcome());
    let mut reports: Vec<RunReport> = (0..3).map(|variant| judge(&scenario, variant, &outcomes[variant])).collect();
    let kept: Vec<Kept<'_>> =
        (0..3).map(|variant| Kept { run: variant, variant, outcome: &outcomes[variant] }).collect();
    files::write(directory.path(), &scenario, &mut reports, &kept).expect("the directory is writable");
    let mut names: Vec<String> = std::fs::read_dir(directory.path())
        .expect("it was just written")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    insta::assert_snapshot!(names.join("\n"), @r"
    history-acks=0-7.jsonl
    history-acks=1-7.jsonl
    history-acks=all-7.jsonl
    report.html
    report.json
    trace-acks=0-7.jsonl
    trace-acks=1-7.jsonl
    trace-acks=all-7.jsonl
    ");
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect("it was just written");
    let (config, history) = crate::history::read(read("history-acks=1-7.jsonl").as_bytes()).expect("our own history");
    assert_eq!((config.text("acks").as_deref(), history.len()), (Some("1"), outcomes[1].history.len()));
    insta::assert_snapshot!("trace", read("trace-acks=1-7.jsonl"));
    let page = read("report.html");
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"), "self-contained");
    insta::assert_snapshot!("page", without_plots(&page));
}

/// Plots are looked at, not compared.
fn without_plots(page: &str) -> String {
    let mut text = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("<svg") {
        text.push_str(before);
        text.push_str("[plot]");
        rest = after.split_once("</svg>").expect("a plot ends").1;
    }
    text + rest
}
