//! The command line as programs use it: exit codes, what is on stdout, replay, check.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn faultline(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_faultline")).current_dir(dir).args(args).output().expect("the binary runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("not killed")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Loses under acks=1: the leader's power goes while nothing is flushed and nobody else has the records.
fn scenario(expectation: &str) -> String {
    format!(
        r#"# A single broker that loses power forgets what it acknowledged.
[cluster]
brokers = 1
[[topic]]
name = "orders"
replication-factor = 1
[[workload]]
kind = "produce"
topic = "orders"
records = 100
rate = 100
acks = "1"
config = {{ "request.timeout.ms" = 2000 }}
[[fault]]
when = "acked(orders) >= 50"
do = "power-loss"
target = "broker(1)"
for = "1s"
[expect]
"*" = {{ {expectation} }}
"#
    )
}

fn write(dir: &Path, name: &str, content: &str) {
    fs::write(dir.join(name), content).expect("a temporary directory can be written");
}

#[test]
fn the_exit_code_is_the_verdict() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    write(dir, "good.toml", &scenario(r#"lost-write = "> 0""#));
    write(dir, "bad.toml", &scenario("lost-write = 0"));
    write(dir, "wrong.toml", &scenario("lost-writes = 0"));
    let good = faultline(&["run", "good.toml"], dir);
    assert_eq!(code(&good), 0, "{}{}", text(&good.stdout), text(&good.stderr));
    let bad = faultline(&["run", "bad.toml"], dir);
    assert_eq!(code(&bad), 1);
    assert!(text(&bad.stdout).contains("expected lost-write == 0"), "{}", text(&bad.stdout));
    assert!(text(&bad.stdout).contains("faultline run bad.toml --seed 1"), "the command that reproduces it");
    let wrong = faultline(&["run", "good.toml", "wrong.toml"], dir);
    assert_eq!(code(&wrong), 2);
    assert!(wrong.stdout.is_empty(), "nothing runs when a file is wrong");
    assert!(text(&wrong.stderr).contains("wrong.toml:20"), "{}", text(&wrong.stderr));
    assert_eq!(code(&faultline(&["run", "missing.toml"], dir)), 2);
    assert_eq!(code(&faultline(&["run"], dir)), 2);
    assert_eq!(code(&faultline(&["walk"], dir)), 2);
}

#[test]
fn json_is_alone_on_stdout_and_names_what_happened() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write(dir.path(), "good.toml", &scenario(r#"lost-write = "> 0""#));
    let output = faultline(&["run", "good.toml", "--format", "json", "--seeds", "3"], dir.path());
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["summary"]["runs"], 3);
    assert_eq!(report["summary"]["unexpected"], 0);
    for (run, seed) in report["runs"].as_array().expect("runs").iter().zip(1..) {
        assert_eq!(run["seed"], seed);
        assert_eq!(run["verdict"], "as-expected");
        assert_eq!(run["counts"]["sent"], 100);
        assert_eq!(run["faults"][0]["do"], "power-loss");
        assert_eq!(run["faults"][0]["resolved"], "broker-1");
        assert!(run["anomalies"]["lost-write"].as_u64().expect("a count") > 0);
    }
}

#[test]
fn replay_repeats_a_run_or_names_the_first_event_that_differs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    write(dir, "good.toml", &scenario(r#"lost-write = "> 0""#));
    assert_eq!(code(&faultline(&["run", "good.toml", "--out", "out"], dir)), 0);
    for report in ["out/report.json", "out"] {
        let same = faultline(&["replay", report], dir);
        assert_eq!(code(&same), 0, "{}{}", text(&same.stdout), text(&same.stderr));
    }
    // Another scenario under the same name is another run.
    write(dir, "good.toml", &scenario(r#"lost-write = "> 0""#).replace(">= 50", ">= 60"));
    let other = faultline(&["replay", "out/report.json"], dir);
    assert_eq!(code(&other), 1, "{}{}", text(&other.stdout), text(&other.stderr));
    let said = text(&other.stdout) + &text(&other.stderr);
    assert!(said.contains("first difference at event") && said.contains("began fault 1"), "{said}");
    write(dir, "broken.json", "{");
    assert_eq!(code(&faultline(&["replay", "broken.json"], dir)), 2);
}

#[test]
fn check_judges_a_saved_history() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    let event = |index: u32, kind: &str, f: &str, value: &str| {
        format!(r#"{{"index":{index},"process":{index},"type":"{kind}","f":"{f}","time":{index},"value":[{value}]}}"#)
            + "\n"
    };
    let send =
        |value: u32, offset: u32| format!(r#"{{"op":"send","key":"orders-0","value":{value},"offset":{offset}}}"#);
    let sends = event(0, "ok", "send", &send(7, 0)) + &event(1, "ok", "send", &send(8, 1));
    let read =
        |records: &str| event(2, "ok", "poll", &format!(r#"{{"op":"poll","records":{{"orders-0":[{records}]}}}}"#));
    write(dir, "lost.jsonl", &(sends.clone() + &read("[1,8]")));
    write(dir, "fine.jsonl", &(sends + &read("[0,7],[1,8]")));
    write(dir, "broken.jsonl", "{\"index\":0\n");
    let lost = faultline(&["check", "lost.jsonl", "--format", "json"], dir);
    assert_eq!(code(&lost), 1);
    let report: Value = serde_json::from_slice(&lost.stdout).expect("JSON and nothing else");
    assert_eq!(report["valid"], false);
    assert_eq!(report["anomalies"]["lost-write"][0]["value"], 7, "{report}");
    assert!(report["allowed"].as_array().expect("names").contains(&"int-send-skip".into()), "{report}");
    let fine = faultline(&["check", "fine.jsonl"], dir);
    assert_eq!(code(&fine), 0, "{}", text(&fine.stdout));
    let broken = faultline(&["check", "broken.jsonl"], dir);
    assert_eq!(code(&broken), 2);
    assert!(text(&broken.stderr).contains("broken.jsonl: line 1: "), "the line: {}", text(&broken.stderr));
    assert!(broken.stdout.is_empty(), "nothing is said of half a history");
    assert_eq!(report["measured"]["values"]["acknowledged"], 2, "{report}");
    let lost = faultline(&["check", "lost.jsonl"], dir);
    assert!(text(&lost.stdout).starts_with("lost.jsonl: not valid: lost-write, unseen\n"), "{}", text(&lost.stdout));
    assert!(
        text(&lost.stdout).contains("orders-0: operation 0 sent 7@0, and nobody read it; operation 2 read offset 1")
    );
    write(dir, "empty.jsonl", "");
    assert_eq!(code(&faultline(&["check", "empty.jsonl"], dir)), 2);
}

#[test]
fn check_reads_what_other_tools_write_from_standard_input() {
    let history = r#"{"config":{"sub-via":"assign","ww_deps":true},"tool":"x"}
{"process":7,"type":"ok","f":"txn","node":"n1","value":[{"op":"send","key":"x","value":"a"},{"op":"poll","records":{"y":[[0,null]]}}]}
{"process":8,"type":"ok","f":"txn","index":40,"value":[{"op":"send","key":"y","value":null},{"op":"poll","records":{"x":[[0,"a"]]}}]}
"#;
    let check = |history: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_faultline"))
            .args(["check", "-", "--format", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(history.as_bytes()).expect("the binary reads all of it");
        drop(stdin);
        child.wait_with_output().expect("the binary ends")
    };
    let with_ww = check(history);
    assert_eq!(code(&with_ww), 0, "{}{}", text(&with_ww.stdout), text(&with_ww.stderr));
    let without = check(&history.replace("true", "false"));
    assert_eq!(code(&without), 1, "{}", text(&without.stdout));
    let report: Value = serde_json::from_slice(&without.stdout).expect("JSON and nothing else");
    assert_eq!(report["anomalies"]["G1c"][0]["operations"], serde_json::json!([0, 40]));
    assert_eq!(report["anomalies"]["G1c"][0]["steps"][1]["value"], Value::Null);
    let bad = check(&history.replace("\"assign\"", "\"guess\""));
    assert_eq!(code(&bad), 2);
    assert!(text(&bad.stderr).contains("standard input: line 1: config: `sub_via`"), "{}", text(&bad.stderr));
}

#[test]
fn several_scenarios_share_a_report_that_can_be_replayed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in ["one.toml", "two.toml"] {
        write(dir.path(), name, &scenario(r#"lost-write = "> 0""#));
    }
    assert_eq!(code(&faultline(&["run", "one.toml", "two.toml", "--out", "all"], dir.path())), 0);
    let combined = fs::read(dir.path().join("all/report.json")).expect("the combined report");
    let combined: Value = serde_json::from_slice(&combined).expect("JSON");
    assert_eq!(combined["summary"]["runs"], 2);
    for (run, name) in combined["runs"].as_array().expect("runs").iter().zip(["one", "two"]) {
        assert_eq!(run["scenario"], name);
        let trace = run["trace"].as_str().expect("kept whole");
        assert!(dir.path().join("all").join(trace).is_file(), "{trace}");
    }
    assert_eq!(code(&faultline(&["replay", "all/report.json"], dir.path())), 0);
}

#[test]
fn defects_are_listed_with_the_scenarios_that_show_them() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = faultline(&["defects", "--format", "json"], here);
    assert_eq!(code(&output), 0);
    let listed: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON");
    let defects = listed["defects"].as_array().expect("a list");
    assert!(defects.len() >= 24, "{}", defects.len());
    let shown = defects.iter().filter_map(|defect| defect["scenario"].as_str()).collect::<Vec<_>>();
    assert!(shown.len() >= 24 && shown.iter().all(|path| here.join(path).exists()), "{shown:?}");
    let human = text(&faultline(&["defects"], here).stdout);
    assert!(defects.iter().all(|defect| human.contains(defect["name"].as_str().expect("a name"))));
}

#[test]
fn explain_tells_the_fate_of_a_record_from_the_saved_run_or_by_running_it_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    write(dir, "good.toml", &scenario(r#"lost-write = "> 0""#));
    assert_eq!(code(&faultline(&["run", "good.toml", "--seeds", "2", "--out", "out"], dir)), 0);
    let json = |args: &[&str]| {
        let output = faultline(&[&["explain", "out/report.json", "--format", "json"], args].concat(), dir);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
        (said["runs"][0].clone(), text(&output.stderr))
    };
    let (kept, _) = json(&[]);
    assert_eq!((&kept["seed"], &kept["run_again"]), (&1.into(), &false.into()));
    let lost = kept["explanations"][0].clone();
    assert_eq!((&lost["kind"], &lost["ruling"]), (&"lost-write".into(), &"legal".into()));
    assert_eq!(lost["remedies"][0]["settings"][0]["key"], "flush.messages");
    assert!(lost["timeline"].as_array().expect("moments").iter().any(|moment| moment["decisive"] == true), "{lost}");
    let (again, said) = json(&["--seed", "2"]);
    assert_eq!((&again["seed"], &again["run_again"]), (&2.into(), &true.into()));
    assert!(said.contains("running it again"), "{said}");
    // The whole slice by name, as text.
    let record = format!("orders-0@{}", lost["offset"]);
    let human = faultline(&["explain", "out", "--record", &record], dir);
    assert_eq!(code(&human), 0, "{}", text(&human.stderr));
    assert!(text(&human.stdout).contains("Would have saved it: flush.messages=1"), "{}", text(&human.stdout));
    let unknown = faultline(&["explain", "out/report.json", "--record", "orders-0@5120"], dir);
    assert_eq!(code(&unknown), 2);
    assert!(text(&unknown.stderr).contains("the nearest is orders-0@"), "{}", text(&unknown.stderr));
    assert!(unknown.stdout.is_empty());
    for wrong in [&["--record", "orders"][..], &["--variant", "acks=7"], &["--seed", "9"]] {
        assert_eq!(code(&faultline(&[&["explain", "out/report.json"], wrong].concat(), dir)), 2, "{wrong:?}");
    }
    // What was run is gone: it cannot be run again.
    write(dir, "good.toml", &scenario(r#"lost-write = "> 0""#).replace(">= 50", ">= 60"));
    let stale = faultline(&["explain", "out/report.json", "--seed", "2"], dir);
    assert_eq!(code(&stale), 2);
    assert!(text(&stale.stderr).contains("digest"), "{}", text(&stale.stderr));
}
