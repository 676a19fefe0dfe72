//! Wall clocks: brokers hold the timestamps of records against their own clock (`message.timestamp.*.max.ms`), so that
//! refusals say when the producer's was wrong, and by how much.

use faultline::lab::outcome::{RunOutcome, TraceKind};

use crate::{run, run_with, slowest_ms};

/// When the records were sent that no broker took, in milliseconds since the workloads began.
fn refused_at(outcome: &RunOutcome) -> Vec<u64> {
    let mut sent = std::collections::BTreeMap::new();
    let mut refused = Vec::new();
    for event in &outcome.trace {
        if let TraceKind::Sent { value, .. } = &event.what {
            sent.insert(*value, event.at.since(outcome.started_at).as_millis() as u64);
        }
        if let TraceKind::Failed { value, error, .. } = &event.what {
            assert!(error.contains("INVALID_TIMESTAMP"), "{error}");
            refused.push(sent[value]);
        }
    }
    refused.sort_unstable();
    refused
}

/// Every record sent in one of these stretches is refused, and no other; at their ends a few milliseconds are left to chance.
fn assert_refused_within(outcome: &RunOutcome, stretches: &[(u64, u64)], what: &str) {
    const SLACK_MS: u64 = 15;
    let refused = refused_at(outcome);
    let is_in = |at: u64, by: i64| {
        stretches.iter().any(|(from, to)| at.saturating_add_signed(by) >= *from && at < to.saturating_add_signed(by))
    };
    assert!(refused.iter().all(|at| is_in(*at, SLACK_MS as i64)), "{what}: {refused:?}");
    // Records come every 10 ms.
    let expected: u64 = stretches.iter().map(|(from, to)| (to - from - 2 * SLACK_MS) / 10).sum();
    assert!(refused.len() as u64 >= expected && expected > 0, "{what}: {} of {expected}: {refused:?}", refused.len());
}

const TOO_LATE: &str = ", \"message.timestamp.after.max.ms\" = ";
const TOO_EARLY: &str = ", \"message.timestamp.before.max.ms\" = ";

fn producers(fault: &str) -> String {
    format!("[[fault]]\nat = \"500ms\"\ntarget = \"client(producer-1)\"\n{fault}")
}

#[test]
fn a_step_lasts_until_it_is_undone() {
    let (outcome, _) =
        run_with(&format!("{TOO_LATE}60000"), &producers("do = \"clock-step\"\nby = \"1h\"\nfor = \"500ms\"\n"));
    assert_refused_within(&outcome, &[(500, 1_000)], "a step forward");
    let (outcome, _) =
        run_with(&format!("{TOO_EARLY}60000"), &producers("do = \"clock-step\"\nby = \"-1h\"\nfor = \"500ms\"\n"));
    assert_refused_within(&outcome, &[(500, 1_000)], "a step back");
}

#[test]
fn a_strobe_moves_the_clock_for_its_share_of_each_period() {
    let strobe = "do = \"clock-strobe\"\nby = \"1h\"\nperiod = \"400ms\"\nduty = \"25%\"\ncount = 3\n";
    let (outcome, _) = run_with(&format!("{TOO_LATE}60000"), &producers(strobe));
    assert_refused_within(&outcome, &[(500, 600), (900, 1_000), (1_300, 1_400)], "strobe");
    assert_eq!(outcome.faults[0].ended_at.map(|at| at.as_millis()), Some(1_400));
}

#[test]
fn a_drift_gains_a_share_of_the_time_and_keeps_it() {
    // A tenth: 100 ms after a second, 120 ms in the end.
    let (outcome, _) = run_with(
        &format!("{TOO_LATE}100"),
        &producers("do = \"clock-drift\"\ndrift = \"100000ppm\"\nfor = \"1200ms\"\n"),
    );
    assert_refused_within(&outcome, &[(1_500, 2_000)], "drift");
}

#[test]
fn a_frozen_clock_falls_behind_and_is_right_again() {
    let (outcome, _) = run_with(&format!("{TOO_EARLY}300"), &producers("do = \"clock-freeze\"\nfor = \"1s\"\n"));
    assert_refused_within(&outcome, &[(800, 1_500)], "freeze");
}

#[test]
fn a_clock_can_be_wrong_from_the_start() {
    let clock = |offset: &str| format!("[[clock]]\ntarget = \"client(producer-1)\"\noffset = \"{offset}\"\n");
    let (outcome, _) = run_with(&format!("{TOO_LATE}1500"), &clock("2s"));
    assert_refused_within(&outcome, &[(0, 2_000)], "ahead");
    let (outcome, _) = run_with(&format!("{TOO_LATE}2500, \"message.timestamp.before.max.ms\" = 2500"), &clock("-2s"));
    assert_eq!(refused_at(&outcome), [0; 0], "not so far behind");
    let started_ms = outcome.started_at.as_millis();
    // A tenth of the time since the machine was there, and another second.
    let (outcome, _) = run_with(
        &format!("{TOO_LATE}{}", (started_ms + 1_000) / 10),
        "[[clock]]\ntarget = \"client(producer-1)\"\ndrift = \"100000ppm\"\n",
    );
    assert_refused_within(&outcome, &[(1_000, 2_000)], "drift from the start");
}

#[test]
fn wall_clocks_that_are_wrong_stop_nothing() {
    let clocks = "[[clock]]\ntarget = \"broker(2)\"\noffset = \"-3s\"\ndrift = \"200ppm\"\n";
    let faults = [
        "do = \"clock-step\"\ntarget = \"controller\"\nby = \"-10m\"\nfor = \"500ms\"\n",
        "do = \"clock-drift\"\ntarget = \"leader(orders-0)\"\ndrift = \"100000ppm\"\n",
        "do = \"clock-strobe\"\ntarget = \"machines\"\nby = \"1h\"\nperiod = \"100ms\"\nduty = \"50%\"\ncount = 5\n",
        "do = \"clock-freeze\"\ntarget = \"client(producer-1)\"\n",
    ];
    let faults: String = faults.iter().map(|fault| format!("[[fault]]\nat = \"500ms\"\n{fault}")).collect();
    let (outcome, report) = run(&format!("{clocks}{faults}"));
    assert_eq!((report.problems, report.counts.acked, outcome.faults.len()), (Vec::new(), 200, 4));
    assert!(slowest_ms(&outcome) < 20, "{}", slowest_ms(&outcome));
}
