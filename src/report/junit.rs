//! The report as JUnit XML: a suite per scenario, a case per run.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

use super::model::{RunReport, Verdict};

/// The XML of all runs. Unexpected runs are failures, runs that panicked or did not finish are errors.
pub fn junit(runs: &[RunReport]) -> Result<String, SerializeError> {
    let mut report = Report::new("faultline");
    for scenario in runs.chunk_by(|a, b| (&a.scenario, &a.file) == (&b.scenario, &b.file)) {
        let mut suite = TestSuite::new(scenario[0].scenario.as_str());
        suite.add_test_cases(scenario.iter().map(test_case));
        report.add_test_suite(suite);
    }
    report.to_string()
}

fn test_case(run: &RunReport) -> TestCase {
    let status = match run.verdict {
        Verdict::AsExpected => TestCaseStatus::success(),
        Verdict::Unexpected => failed(run, NonSuccessKind::Failure),
        Verdict::Unfinished | Verdict::Panicked => failed(run, NonSuccessKind::Error),
    };
    let mut case = TestCase::new(format!("{} seed {}", run.label, run.seed), status);
    case.set_classname(run.scenario.as_str());
    case.set_time(Duration::from_millis(run.wall_ms));
    case
}

fn failed(run: &RunReport, kind: NonSuccessKind) -> TestCaseStatus {
    let mut lines = run.problems.clone();
    lines.extend(run.account.iter().flat_map(|account| account.lines.iter().cloned()));
    lines.extend(run.command());
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(run.problems.first().map_or("", String::as_str));
    status.set_type(run.verdict.text());
    status.set_description(lines.join("\n"));
    status
}
