//! Each fault does to a running cluster what the reference says: here those of links, messages and processes, in
//! `clocks` and `disks` the others.

mod clocks;
mod disks;

use faultline::lab::outcome::{End, RunOutcome, TraceKind};
use faultline::lab::run::run_one;
use faultline::report::{RunReport, judge};
use faultline::scenario::parse;
use faultline::world::Time;

/// Three brokers, a topic on all of them, 200 records at 100 per second with acks=all, and these faults. Without idempotence,
/// so that no record waits for a producer id and every retry shows.
fn run(faults: &str) -> (RunOutcome, RunReport) {
    run_with("", faults)
}

/// The same with more configuration of the topic, `, "key" = value`.
fn run_with(topic_config: &str, faults: &str) -> (RunOutcome, RunReport) {
    let text = format!(
        r#"# A test.
[cluster]
brokers = 3
racks = ["a", "b", "b"]
[cluster.config]
"broker.session.timeout.ms" = 3000
"broker.heartbeat.interval.ms" = 500
[[topic]]
name = "orders"
replication-factor = 3
config = {{ "min.insync.replicas" = 1{topic_config} }}
[[workload]]
kind = "produce"
topic = "orders"
records = 200
rate = 100
acks = "all"
config = {{ "request.timeout.ms" = 2000, "delivery.timeout.ms" = 20000, "linger.ms" = 0, "enable.idempotence" = false }}
{faults}"#
    );
    let scenario = parse("test", "test.toml", &text).unwrap_or_else(|e| panic!("{}", e.render(false, 120)));
    let outcome = run_one(&scenario, 0, 1);
    assert_eq!(outcome.end, End::Complete);
    let report = judge(&scenario, 0, &outcome);
    (outcome, report)
}

/// The longest time from a record's sending to its acknowledgement, in milliseconds.
fn slowest_ms(outcome: &RunOutcome) -> u64 {
    let mut sent = std::collections::BTreeMap::new();
    let mut slowest = 0;
    for event in &outcome.trace {
        if let TraceKind::Sent { value, .. } = &event.what {
            sent.insert(*value, event.at);
        }
        if let TraceKind::Acked { value, .. } = &event.what {
            slowest = slowest.max((event.at - sent[value]).as_millis() as u64);
        }
    }
    slowest
}

/// When the machine's process stopped, and when it started again, in milliseconds since the workloads began.
fn stops_and_starts(outcome: &RunOutcome, machine: &str) -> (Vec<u64>, Vec<u64>) {
    let since = |at: Time| at.since(outcome.started_at).as_millis() as u64;
    let of = |is_meant: fn(&TraceKind) -> bool| {
        let events = outcome.trace.iter().filter(|e| *e.machine == *machine && is_meant(&e.what));
        events.map(|e| since(e.at)).collect()
    };
    (of(|what| matches!(what, TraceKind::Stopped { .. })), of(|what| matches!(what, TraceKind::Started)))
}

fn hits(outcome: &RunOutcome) -> Vec<&str> {
    let mut hits = Vec::new();
    for event in &outcome.trace {
        if let TraceKind::FaultHit { detail, .. } = &event.what {
            hits.push(detail.as_str());
        }
    }
    hits
}

#[test]
fn without_faults_an_acknowledgement_takes_milliseconds() {
    let (outcome, _) = run("");
    assert!(slowest_ms(&outcome) < 20, "{}", slowest_ms(&outcome));
}

#[test]
fn each_fault_of_a_link_makes_acknowledgements_late_while_it_lasts() {
    let link = "from = \"client(producer-1)\"\nto = \"leader(orders-0)\"\n";
    for (fault, at_least, at_most) in [
        ("do = \"delay\"\nby = \"150ms\"\n", 150, 300),
        ("do = \"delay\"\nby = \"1ms\"\njitter = \"400ms\"\n", 200, 800),
        // A batch of one record is about 200 bytes: ten per second.
        ("do = \"throttle\"\nbandwidth = \"2kB/s\"\n", 500, 5_000),
        ("do = \"packet-loss\"\nloss = \"20%\"\n", 200, 15_000),
        ("do = \"flap\"\nperiod = \"800ms\"\nduty = \"50%\"\n", 400, 1_000),
    ] {
        let (outcome, report) = run(&format!("[[fault]]\nat = \"500ms\"\n{fault}{link}for = \"1s\"\n"));
        let slowest = slowest_ms(&outcome);
        assert!((at_least..at_most).contains(&slowest), "{fault}{slowest}");
        assert_eq!((report.counts.acked, report.counts.lost), (200, 0), "{fault}");
        assert_eq!(outcome.faults[0].ended_at.map(Time::as_millis), Some(1_500), "{fault}");
    }
}

#[test]
fn a_link_of_the_scenario_is_as_it_says_from_the_start() {
    let link = "[[link]]\nfrom = \"machines\"\nto = \"rack(b)\"\nlatency = \"60ms\"\n";
    let (outcome, _) = run(link);
    // The leader's responses to followers in rack b, for the first record with connections and a fetch before them.
    assert!((60..600).contains(&slowest_ms(&outcome)), "{}", slowest_ms(&outcome));
}

#[test]
fn a_response_is_delayed_by_its_kind_and_so_often_as_asked() {
    let fault = "[[fault]]\nat = \"500ms\"\ndo = \"delay-message\"\nrequest = \"Produce\"\ndirection = \"response\"\n\
                 to = \"client(producer-1)\"\nby = \"700ms\"\ncount = 2\n";
    let (outcome, _) = run(fault);
    let what = "held the Produce response from broker-1 to producer-1 back for 700ms";
    assert_eq!(hits(&outcome), [what, what]);
    assert!((700..800).contains(&slowest_ms(&outcome)), "{}", slowest_ms(&outcome));
    assert!(outcome.faults[0].ended_at.is_some(), "it is over with the second message");
}

#[test]
fn a_dropped_response_makes_the_producer_send_again() {
    let fault = "[[fault]]\nat = \"500ms\"\ndo = \"drop-message\"\nrequest = \"Produce\"\ndirection = \"response\"\n\
                 count = 1\n";
    let (outcome, report) = run(fault);
    assert_eq!(hits(&outcome), ["dropped the Produce response from broker-1 to producer-1, and their connection"]);
    let duplicates = report.anomalies.iter().find(|(name, _)| name.as_str() == "duplicate").map(|(_, count)| *count);
    assert!(duplicates > Some(0), "without idempotence what was appended is appended again");
    assert_eq!((report.counts.acked, report.counts.lost), (200, 0));
}

#[test]
fn a_message_that_never_comes_is_a_fault_that_never_fired() {
    let fault = "[[fault]]\nat = \"500ms\"\ndo = \"drop-message\"\nrequest = \"EndTxn\"\ndirection = \"request\"\n";
    let (outcome, report) = run(fault);
    assert!(outcome.faults.is_empty());
    assert!(report.problems.iter().any(|problem| problem.contains("never fired")), "{:?}", report.problems);
}

#[test]
fn slow_processes_slow_their_clients_down() {
    for (fault, at_least) in [
        ("do = \"slow-cpu\"\ntarget = \"leader(orders-0)\"\nby = \"15ms\"\n", 100),
        ("do = \"slow-drain\"\ntarget = \"leader(orders-0)\"\nbandwidth = \"5kB/s\"\n", 300),
    ] {
        let (outcome, report) = run(&format!("[[fault]]\nat = \"500ms\"\n{fault}for = \"1s\"\n"));
        assert!(slowest_ms(&outcome) > at_least, "{fault}{}", slowest_ms(&outcome));
        assert_eq!((report.counts.acked, report.counts.lost), (200, 0), "{fault}");
    }
}

#[test]
fn a_crash_loop_stops_and_starts_so_often_as_asked() {
    let fault = "[[fault]]\nat = \"1s\"\ndo = \"crash-loop\"\ntarget = \"broker(3)\"\nperiod = \"2s\"\nduty = \"25%\"\n\
                 count = 3\n";
    let (outcome, _) = run(fault);
    assert_eq!(stops_and_starts(&outcome, "broker-3"), (vec![1_000, 3_000, 5_000], vec![1_500, 3_500, 5_500]));
    assert_eq!(outcome.faults[0].ended_at.map(Time::as_millis), Some(5_500));
}

#[test]
fn a_rack_loses_power_as_one() {
    let (outcome, _) = run("[[fault]]\nat = \"1s\"\ndo = \"power-loss\"\ntarget = \"rack(b)\"\nfor = \"1s\"\n");
    assert_eq!(stops_and_starts(&outcome, "broker-1").0, Vec::<u64>::new());
    assert_eq!(stops_and_starts(&outcome, "broker-2"), (vec![1_000], vec![2_000]));
    assert_eq!(stops_and_starts(&outcome, "broker-3"), (vec![1_000], vec![2_000]));
}

#[test]
fn a_restart_can_change_the_configuration() {
    let restart = "[[fault]]\nat = \"500ms\"\ndo = \"restart\"\ntarget = \"brokers\"\n";
    let (_, kept) = run(restart);
    assert_eq!((kept.counts.acked, kept.counts.failed), (200, 0));
    // No batch is so small.
    let (_, changed) = run(&format!("{restart}config = {{ \"message.max.bytes\" = 80 }}\n"));
    assert!(changed.counts.failed > 100 && changed.counts.acked < 100, "{:?}", changed.counts);
}

#[test]
fn a_pause_lasts_until_it_is_resumed() {
    let pause = "[[fault]]\nat = \"500ms\"\ndo = \"pause\"\ntarget = \"leader(orders-0)\"\n";
    let resume = "[[fault]]\nat = \"1300ms\"\ndo = \"resume\"\ntarget = \"fault(1)\"\n";
    let (resumed, _) = run(&format!("{pause}{resume}"));
    assert!((700..1_500).contains(&slowest_ms(&resumed)), "{}", slowest_ms(&resumed));
    let (paused, _) = run(pause);
    assert!(slowest_ms(&paused) > 2_500, "it takes a session timeout: {}", slowest_ms(&paused));
}

#[test]
fn a_fault_of_nobody_never_fires() {
    let cut_off = "[[fault]]\nat = \"500ms\"\ndo = \"crash\"\ntarget = \"brokers\"\nfor = \"10s\"\n";
    let leaderless = "[[fault]]\nwhen = \"leader(orders-0) == none\"\n";
    for action in ["do = \"crash\"\nfor = \"1s\"\n", "do = \"isolate\"\n", "do = \"clock-freeze\"\n"] {
        let (outcome, report) = run(&format!("{cut_off}{leaderless}{action}target = \"leader(orders-0)\"\n"));
        assert_eq!(outcome.faults.len(), 1, "{action}");
        assert!(report.problems.iter().any(|problem| problem.contains("never fired")), "{:?}", report.problems);
    }
}

#[test]
fn what_the_cluster_refuses_an_administrator_is_a_problem() {
    let problem = |fault: &str| {
        let (outcome, report) = run(&format!("[[fault]]\nat = \"500ms\"\n{fault}target = \"orders-0\"\n"));
        (outcome.faults[0].refused.clone(), report.problems)
    };
    let (refused, problems) = problem("do = \"delete-records\"\nbefore-offset = 1000000\n");
    assert_eq!(refused.as_deref(), Some("orders-0: OFFSET_OUT_OF_RANGE"));
    let line = "fault 1 (delete-records orders-0 before 1000000, line 19) was refused: orders-0: OFFSET_OUT_OF_RANGE";
    assert_eq!(problems, [line]);
    let (refused, _) = problem("do = \"elect-preferred\"\n");
    assert_eq!(refused.as_deref(), Some("orders-0: ELECTION_NOT_NEEDED"));
    assert_eq!(problem("do = \"delete-records\"\nbefore-offset = 5\n"), (None, Vec::new()));
}
