//! The report as one self-contained HTML page per scenario: no script, no request to anywhere.

use minijinja::{Environment, context};
use serde::Serialize;

use super::judge::{lost_times, seconds};
use super::model::{RunReport, Verdict};
use super::plot::{Plot, plots};
use crate::lab::outcome::RunOutcome;

#[derive(Serialize)]
struct RunPage<'a> {
    /// Anchor and heading.
    id: String,
    label: &'a str,
    report: &'a RunReport,
    verdict: &'static str,
    class: &'static str,
    /// Of a run that is not as expected.
    command: Option<String>,
    unavailable: String,
    duplicates: u64,
    faults: Vec<FaultRow<'a>>,
    found: Vec<FoundRow<'a>>,
    /// (names, reason)
    allowed: Vec<(String, &'static str)>,
    plots: Vec<Plot>,
}

#[derive(Serialize)]
struct FaultRow<'a> {
    when: String,
    what: &'a str,
    target: &'a str,
    resolved: &'a str,
}

#[derive(Serialize)]
struct FoundRow<'a> {
    name: &'a str,
    count: u64,
    judged: String,
    detail: String,
}

/// The page on the runs of one scenario. Plots and details come with the runs that have their outcome.
pub fn html(runs: &[(&RunReport, Option<&RunOutcome>)]) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.add_template("report.html", include_str!("templates/report.html"))?;
    let first = runs[0].0;
    let worst = runs.iter().map(|(run, _)| run.verdict).max().unwrap_or(Verdict::AsExpected);
    // A report leads with what needs attention.
    let leading = runs.iter().map(|(run, _)| *run).find(|run| run.verdict == worst).unwrap_or(first);
    let pages: Vec<RunPage<'_>> = runs.iter().map(|(run, outcome)| page(run, *outcome)).collect();
    environment.get_template("report.html")?.render(context! {
        scenario => first.scenario.as_str(),
        title => first.title.as_str(),
        verdict => worst.text(),
        class => class(worst),
        unexpected => runs.iter().filter(|(run, _)| run.verdict != Verdict::AsExpected).count(),
        command => leading.command(),
        runs => minijinja::Value::from(minijinja::value::Serde(pages)),
    })
}

fn page<'a>(run: &'a RunReport, outcome: Option<&RunOutcome>) -> RunPage<'a> {
    RunPage {
        id: format!("{}-{}", run.label, run.seed),
        label: if run.label == "-" { "the only variant" } else { &run.label },
        report: run,
        verdict: run.verdict.text(),
        class: class(run.verdict),
        command: run.command().filter(|_| run.verdict != Verdict::AsExpected),
        unavailable: if run.unavailable_measured { seconds(run.unavailable_ms) } else { "–".to_owned() },
        duplicates: run.anomalies.get("duplicate").copied().unwrap_or(0),
        faults: fault_rows(run),
        found: found_rows(run),
        allowed: allowed_rows(run),
        plots: outcome.map_or_else(Vec::new, |outcome| plots(outcome, &run.faults, &lost_times(outcome))),
    }
}

fn fault_rows(run: &RunReport) -> Vec<FaultRow<'_>> {
    let row = |fault: &'_ super::model::FaultReport| match (fault.at_ms, fault.ended_ms) {
        (None, _) => "never".to_owned(),
        (Some(at), None) => seconds(at),
        (Some(at), Some(ended)) => format!("{} to {}", seconds(at), seconds(ended)),
    };
    let faults = run.faults.iter();
    faults
        .map(|fault| FaultRow {
            when: row(fault),
            what: &fault.action,
            target: &fault.target,
            resolved: &fault.resolved,
        })
        .collect()
}

/// Anomalies and violations that were found, each with how it is judged.
fn found_rows(run: &RunReport) -> Vec<FoundRow<'_>> {
    let judged = |name: &str| {
        let expected = run.expectations.iter().find(|expectation| expectation.metric == name);
        match (expected, run.allowance(name)) {
            (Some(e), _) => format!("expected {}: {}", e.expected, if e.passed { "met" } else { "not met" }),
            (None, Some(reason)) => format!("allowed: {reason}"),
            (None, None) => "not allowed".to_owned(),
        }
    };
    let anomalies = run.anomalies.iter().filter(|(_, count)| **count > 0).map(|(name, count)| FoundRow {
        name,
        count: *count,
        judged: judged(name),
        detail: run
            .evidence
            .get(name)
            .and_then(|cases| cases.first())
            .map_or_else(String::new, |case| case.to_string()),
    });
    let violations = run.violations.iter().map(|violation| FoundRow {
        name: violation.name,
        count: violation.count,
        judged: judged(violation.name),
        detail: format!("{} in {}: {}", seconds(violation.at_ms), violation.partition, violation.detail),
    });
    anomalies.chain(violations).collect()
}

/// The table of what is allowed, one row per reason.
fn allowed_rows(run: &RunReport) -> Vec<(String, &'static str)> {
    let mut rows: Vec<(String, &'static str)> = Vec::new();
    for row in &run.allowed {
        match rows.iter_mut().find(|(_, reason)| *reason == row.reason) {
            Some((names, _)) => {
                names.push_str(", ");
                names.push_str(row.anomaly);
            }
            None => rows.push((row.anomaly.to_owned(), row.reason)),
        }
    }
    rows
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::AsExpected => "good",
        Verdict::Unexpected => "bad",
        Verdict::Unfinished | Verdict::Panicked => "broken",
    }
}
