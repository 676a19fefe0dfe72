//! `faultline shrink`: a failing scenario made small.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;

use super::{Exit, HumanOrJson, print, stderr_look};
use crate::fuzz::examine::{Failure, Signature};
use crate::fuzz::found::{self, Origin};
use crate::fuzz::shrink::{self, Budget, Shrunk};
use crate::fuzz::written;
use crate::lab::outcome::RunOutcome;
use crate::lab::run::run_one;
use crate::report::{RunReport, SCHEMA, Verdict, judge};
use crate::scenario::{self, Scenario, parse_duration};

/// Make a failing scenario small.
///
/// The first variant that fails is shrunk: one whose loss or violation nothing excuses, or else one whose verdict is not
/// as expected. Faults, clients, configurations and times go as long as the run fails with the same signature. The
/// result is a scenario file that states what it shows.
#[derive(Args, Debug)]
#[command(after_help = format!("\
Examples:
  faultline shrink failing.toml                      the result on stdout
  faultline shrink failing.toml --seed 42 --out small.toml

{}", super::EXIT_CODES))]
pub struct ShrinkArgs {
    /// A scenario file that fails.
    #[arg(value_name = "SCENARIO")]
    scenario: PathBuf,
    /// The seed that fails [default: the scenario's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The file to write; without it the result goes to stdout.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How long to go on.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "60s")]
    time: Duration,
    /// What to print on stdout; json needs --out.
    #[arg(long, value_enum, default_value_t = HumanOrJson::Human)]
    format: HumanOrJson,
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    signature: String,
    seed: u64,
    scenario: String,
    faults_before: usize,
    faults_after: usize,
    runs: u64,
    shrink_ms: u64,
    certificate: &'static str,
}

pub fn shrink(args: &ShrinkArgs) -> anyhow::Result<Exit> {
    if args.format == HumanOrJson::Json && args.out.is_none() {
        bail!("--format json needs --out: the scenario has to go somewhere");
    }
    let look = stderr_look();
    let mut scenario = match scenario::load(&args.scenario) {
        Ok(scenario) => scenario,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}", error.render(look.color, look.width));
            return Ok(Exit::Usage);
        }
    };
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    let Some((single, failure, oracle)) = first_failing(&scenario) else {
        let _ = writeln!(io::stderr(), "nothing fails under seed {}: there is nothing to shrink", scenario.seed);
        return Ok(Exit::AsExpected);
    };
    let _ = writeln!(io::stderr(), "shrinking: {}", failure.signature);
    let shrunk = shrink::shrink(&single, failure, oracle, Budget { time: args.time, ..Budget::default() });
    let file = found::file(&shrunk, Origin::File(&args.scenario.display().to_string()));
    let text = match &args.out {
        None => file.text,
        Some(out) => {
            std::fs::write(out, &file.text).with_context(|| out.display().to_string())?;
            tell(args.format, &shrunk, &out.display().to_string())?
        }
    };
    print(&text)?;
    Ok(match file.verdict {
        Verdict::AsExpected | Verdict::Unexpected => Exit::Unexpected,
        Verdict::Unfinished | Verdict::Panicked => Exit::Broken,
    })
}

fn tell(format: HumanOrJson, shrunk: &Shrunk, out: &str) -> anyhow::Result<String> {
    let report = Report {
        schema: SCHEMA,
        signature: shrunk.failure.signature.to_string(),
        seed: shrunk.scenario.seed,
        scenario: out.to_owned(),
        faults_before: shrunk.faults_before,
        faults_after: shrunk.faults_after,
        runs: shrunk.runs,
        shrink_ms: shrunk.time.as_millis() as u64,
        certificate: shrunk.certificate(),
    };
    if format == HumanOrJson::Json {
        return Ok(serde_json::to_string_pretty(&report)? + "\n");
    }
    let mut text = String::new();
    let Report { signature, faults_before, faults_after, runs, certificate, .. } = report;
    let seconds = shrunk.time.as_secs_f64();
    writeln!(text, "{signature}")?;
    writeln!(text, "  shrunk from {faults_before} to {faults_after} faults in {runs} runs, {seconds:.1} s")?;
    writeln!(text, "  certificate {certificate}\n  faultline run {out}")?;
    Ok(text)
}

/// The first variant that fails, by itself, with how it is recognised.
fn first_failing(scenario: &Scenario) -> Option<(Scenario, Failure, shrink::Oracle<'static>)> {
    let singles: Vec<Scenario> = (0..scenario.variants.len()).filter_map(|index| single(scenario, index)).collect();
    for (oracle, without_claims) in [(&shrink::unexcused as shrink::Oracle<'static>, true), (&unexpected, false)] {
        for single in &singles {
            let outcome = run_one(single, 0, single.seed);
            if let Some(failure) = oracle(single, &outcome) {
                let mut single = single.clone();
                if without_claims {
                    single.variants[0].expect.clear();
                }
                return Some((single, failure, oracle));
            }
        }
    }
    None
}

/// One variant as a scenario without a matrix: its configurations hold what the axes set.
fn single(scenario: &Scenario, index: usize) -> Option<Scenario> {
    let mut variant = scenario.variants[index].clone();
    variant.point.clear();
    written(&Scenario { matrix: Vec::new(), variants: vec![variant], ..scenario.clone() })
}

/// A verdict that is not as expected, told apart by the metrics that are not.
fn unexpected(scenario: &Scenario, outcome: &RunOutcome) -> Option<Failure> {
    let report = judge(scenario, 0, outcome);
    let metrics = match report.verdict {
        Verdict::AsExpected => return None,
        Verdict::Unexpected => wrong_metrics(&report),
        Verdict::Unfinished | Verdict::Panicked => vec![report.verdict.text().to_owned()],
    };
    let first = metrics.first()?.clone();
    let broken = metrics.into_iter().map(|metric| (metric, report.problems.join("; "))).collect();
    Some(Failure { signature: Signature { rule: first, site: "not as expected".to_owned() }, broken })
}

/// Expectations that fail, then anomalies and violations that nothing allows. A fault that never fired is no failure to
/// shrink.
fn wrong_metrics(report: &RunReport) -> Vec<String> {
    let failed = report.expectations.iter().filter(|expectation| !expectation.passed).map(|e| e.metric.clone());
    let is_expected = |name: &str| report.expectations.iter().any(|expectation| expectation.metric == name);
    let anomalies = report.anomalies.iter().filter(|(_, count)| **count > 0).map(|(name, _)| name.clone());
    let found = anomalies.chain(report.violations.iter().map(|violation| violation.name.to_owned()));
    let unexpected = found.filter(|name| !is_expected(name) && report.allowance(name).is_none());
    failed.chain(unexpected).collect()
}
