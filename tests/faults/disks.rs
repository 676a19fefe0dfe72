//! Disks: a run with the fault and one without it differ as the reference says.

use faultline::lab::outcome::{RunOutcome, TraceEvent, TraceKind};
use faultline::observe::Observation;
use faultline::world::Time;

use crate::{run, run_with, slowest_ms};

const FLUSH_ALL: &str = ", \"flush.messages\" = 1";

fn at(ms: u64, fault: &str) -> String {
    format!("[[fault]]\nat = \"{ms}ms\"\n{fault}\n")
}

/// What the broker's log was when it was loaded last: its end, and how many bytes recovery had dropped.
fn loaded(outcome: &RunOutcome, machine: &str) -> (i64, u64) {
    let mut last = None;
    for event in outcome.trace.iter().filter(|event| *event.machine == *machine) {
        if let TraceKind::Observed(Observation::LogLoaded { partition, log_end, dropped_bytes, .. }) = &event.what
            && partition.topic.0.as_str() == "orders"
        {
            last = Some((log_end.0, *dropped_bytes));
        }
    }
    last.expect("it was started again")
}

#[test]
fn what_is_slow_about_a_leaders_disk_makes_acknowledgements_late_while_it_lasts() {
    let (without, _) = run_with(FLUSH_ALL, "");
    assert!(slowest_ms(&without) < 20, "{}", slowest_ms(&without));
    for (fault, at_least, at_most) in [
        ("do = \"write-slow\"\nby = \"50ms\"", 50, 1_000),
        ("do = \"fsync-slow\"\nby = \"50ms\"", 50, 1_000),
        ("do = \"read-slow\"\nby = \"50ms\"", 50, 1_000),
        ("do = \"disk-stall\"", 990, 1_500),
        // A batch of one record is about 170 bytes.
        ("do = \"disk-throttle\"\nbandwidth = \"2kB/s\"", 85, 3_000),
    ] {
        let fault = at(500, &format!("{fault}\ntarget = \"disk(leader(orders-0))\"\nfor = \"1s\""));
        let (outcome, report) = run_with(FLUSH_ALL, &fault);
        let slowest = slowest_ms(&outcome);
        assert!((at_least..at_most).contains(&slowest), "{fault}{slowest}");
        assert_eq!((report.counts.acked, report.counts.lost), (200, 0), "{fault}");
        assert_eq!(report.problems, Vec::<String>::new(), "{fault}");
    }
}

#[test]
fn short_reads_take_several() {
    let slow = "do = \"read-slow\"\ntarget = \"disk(leader(orders-0))\"\nby = \"5ms\"\nfor = \"1s\"";
    let short = "do = \"read-short\"\ntarget = \"disk(leader(orders-0))\"\nfor = \"1s\"";
    let (whole, _) = run(&at(500, slow));
    let (pieces, report) = run(&(at(500, slow) + &at(500, short)));
    let (whole, pieces) = (slowest_ms(&whole), slowest_ms(&pieces));
    assert!(pieces > 2 * whole, "{pieces} and {whole} ms");
    assert_eq!((report.counts.acked, report.counts.lost), (200, 0));
}

#[test]
fn what_never_got_to_the_medium_shows_when_the_cache_is_dropped() {
    let spoiled =
        |what: &str| at(500, &format!("do = \"{what}\"\ntarget = 'file(3, \"orders-0/*.log\")'\nfor = \"500ms\""));
    let dropped = at(1_200, "do = \"drop-cache\"\ntarget = \"disk(3)\"");
    let restarted = at(1_300, "do = \"crash\"\ntarget = \"broker(3)\"\nfor = \"300ms\"");
    for what in ["write-lost", "write-misdirected"] {
        let (outcome, report) = run_with(FLUSH_ALL, &format!("{}{dropped}{restarted}", spoiled(what)));
        let (log_end, dropped_bytes) = loaded(&outcome, "broker-3");
        // About 50 of 130 records were there before, and those after them are behind the gap.
        assert!(dropped_bytes > 5_000 && (10..80).contains(&log_end), "{what}: {log_end}, {dropped_bytes}");
        assert_eq!((report.counts.acked, report.counts.lost), (200, 0), "{what}: the others have them");
        // Without the one there is nothing to show, without the other it does not show.
        for schedule in [format!("{dropped}{restarted}"), format!("{}{restarted}", spoiled(what))] {
            let (outcome, _) = run_with(FLUSH_ALL, &schedule);
            let (log_end, dropped_bytes) = loaded(&outcome, "broker-3");
            assert!(dropped_bytes == 0 && log_end > 100, "{what}: {log_end}, {dropped_bytes}");
        }
    }
}

#[test]
fn a_replaced_disk_is_empty_and_none_of_its_faults_is_left() {
    let replaced = at(1_000, "do = \"disk-replace\"\ntarget = \"disk(3)\"\nfor = \"300ms\"");
    let (outcome, report) = run_with(FLUSH_ALL, &replaced);
    assert!(outcome.faults.len() == 1 && report.counts.acked == 200 && report.counts.lost == 0);
    assert!(!was_loaded_after(&outcome, "broker-3", 1_000), "there was no log to load");
    let power_loss = at(1_000, "do = \"power-loss\"\ntarget = \"broker(3)\"\nfor = \"300ms\"");
    assert!(was_loaded_after(&run_with(FLUSH_ALL, &power_loss).0, "broker-3", 1_000), "the old disk kept its log");

    let failing = at(500, "do = \"write-fail\"\ntarget = \"disk(3)\"");
    // Nothing is healed before.
    let end = at(8_000, "do = \"heal\"");
    let (outcome, report) = run(&format!("{failing}{replaced}{end}"));
    assert_eq!((report.counts.acked, report.problems), (200, Vec::new()));
    let of_disk = outcome.faults.iter().find(|fired| fired.index == 0).expect("it struck");
    assert_eq!(of_disk.ended_at.map(Time::as_millis), Some(1_000));
    assert!(appends(&outcome, "broker-3", 1_300..8_000) > 0, "the new disk takes what the old one did not");
    let (outcome, _) = run(&format!("{failing}{power_loss}{end}"));
    assert_eq!(appends(&outcome, "broker-3", 1_300..8_000), 0);
}

/// How often the broker appended to its log in this stretch of milliseconds since the workloads began.
fn appends(outcome: &RunOutcome, machine: &str, within: std::ops::Range<u128>) -> usize {
    let is_append = |event: &&TraceEvent| {
        *event.machine == *machine
            && event.at > outcome.started_at
            && within.contains(&event.at.since(outcome.started_at).as_millis())
            && matches!(event.what, TraceKind::Observed(Observation::Appended { .. }))
    };
    outcome.trace.iter().filter(is_append).count()
}

/// Whether the broker loaded the log of `orders-0` so long after the workloads began.
fn was_loaded_after(outcome: &RunOutcome, machine: &str, ms: u128) -> bool {
    outcome.trace.iter().any(|event| {
        *event.machine == *machine
            && event.at > outcome.started_at
            && event.at.since(outcome.started_at).as_millis() >= ms
            && matches!(&event.what, TraceKind::Observed(Observation::LogLoaded { partition, log_end, .. })
                if partition.topic.0.as_str() == "orders" && log_end.0 > 0)
    })
}

#[test]
fn the_pages_that_survive_a_power_loss_can_be_chosen() {
    // Nothing is flushed: about 170 bytes a record, 24 a page.
    let end_with = |pages: &str| {
        let fault =
            format!("do = \"power-loss\"\ntarget = \"broker(3)\"\nfor = \"300ms\"\nentries = \"everything\"\n{pages}");
        let (outcome, _) = run(&at(1_500, &fault));
        loaded(&outcome, "broker-3").0
    };
    let (none, first, first_two) = (end_with(""), end_with("pages = [0]"), end_with("pages = [0, 1]"));
    assert!(none == 0 && (10..40).contains(&first) && (first * 2 - 5..first * 2 + 5).contains(&first_two));
    assert_eq!(end_with("pages = [0, 2]"), first, "the third lies behind a gap");
    assert_eq!(end_with("pages = [1, 2]"), 0);
}

#[test]
fn a_fault_of_files_that_nobody_uses_never_fires() {
    let lie =
        |pattern: &str| at(500, &format!("do = \"fsync-lie\"\ntarget = 'file(brokers, \"{pattern}\")'\nfor = \"1s\""));
    let (outcome, report) = run_with(FLUSH_ALL, &lie("odrers-0/*.log"));
    assert!(outcome.faults.is_empty());
    assert!(report.problems.iter().any(|problem| problem.contains("never fired")), "{:?}", report.problems);
    let (outcome, report) = run_with(FLUSH_ALL, &lie("orders-0/*.log"));
    let fired: Vec<(u128, Option<u128>)> =
        outcome.faults.iter().map(|f| (f.at.as_millis().into(), f.ended_at.map(|at| at.as_millis().into()))).collect();
    assert_eq!((fired, report.problems), (vec![(500, Some(1_500))], Vec::new()));
}

#[test]
fn a_slow_disk_of_the_controller_holds_up_a_failover() {
    let crash = at(500, "do = \"crash\"\ntarget = \"leader(orders-0)\"");
    let (quick, _) = run(&crash);
    let quick = slowest_ms(&quick);
    assert!((2_000..4_500).contains(&quick), "a session timeout: {quick}");
    let (slow, report) = run(&(at(400, "do = \"fsync-slow\"\ntarget = \"disk(controller)\"\nby = \"1s\"") + &crash));
    let slow = slowest_ms(&slow);
    assert!((quick + 900..quick + 4_000).contains(&slow), "{slow} and {quick} ms");
    assert_eq!((report.counts.acked, report.counts.lost), (200, 0));
    let stall = at(400, "do = \"disk-stall\"\ntarget = \"disk(controller)\"\nfor = \"8s\"");
    let (stalled, report) = run(&(stall + &crash));
    let stalled = slowest_ms(&stalled);
    assert!((7_800..12_000).contains(&stalled), "{stalled} and {quick} ms");
    assert_eq!((report.counts.acked, report.counts.lost), (200, 0));
}
