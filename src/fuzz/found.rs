//! A failure as a scenario file: title, explanation, expectation. The file is an executable claim: run as it is, its
//! verdict is as expected.

use std::collections::BTreeSet;

use super::Profile;
use super::shrink::Shrunk;
use super::written;
use crate::defect::Defects;
use crate::lab::run::run_one;
use crate::report::{RunReport, Verdict, judge};
use crate::scenario::{self, Axis, Comparison, DEFECTS_AXIS, Expectation, Scenario};

/// Columns of a comment.
const WIDTH: usize = 112;

/// A file to write.
#[derive(Clone, Debug)]
pub struct File {
    /// Without directory, ends in `.toml`.
    pub name: String,
    pub text: String,
    /// The verdict of the file as written.
    pub verdict: Verdict,
}

/// Where a shrunk scenario came from, for its explanation.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// The fuzzer's profile and seed.
    Fuzzer { profile: Profile, seed: u64 },
    /// A scenario file.
    File(&'a str),
}

/// The scenario file of a shrunk failure.
///
/// With defects, the file has two variants, without and with them, if the run without them is as it should be.
pub fn file(shrunk: &Shrunk, origin: Origin<'_>) -> File {
    let defects = shrunk.scenario.variants[0].cluster.defects;
    let stem = stem(shrunk, defects);
    let mut scenario = Scenario { name: stem.clone(), title: title(shrunk, defects), ..shrunk.scenario.clone() };
    let mut rules: BTreeSet<String> = shrunk.failure.broken.keys().cloned().collect();
    rules.retain(|rule| scenario::metric(rule).is_some());
    let mut report = expect(&mut scenario, &rules);
    // What the table does not allow but the guard excuses, or follows from the failure.
    let unnamed = |report: &RunReport| {
        let anomalies = report.anomalies.iter().filter(|(_, count)| **count > 0).map(|(name, _)| name.clone());
        let violations = report.violations.iter().map(|violation| violation.name.to_owned());
        anomalies.chain(violations).filter(|name| report.allowance(name).is_none()).collect::<Vec<_>>()
    };
    if report.verdict == Verdict::Unexpected {
        rules.extend(unnamed(&report));
        report = expect(&mut scenario, &rules);
    }
    let compared = with_and_without(&scenario, defects, &rules);
    let text = scenario::render(compared.as_ref().unwrap_or(&scenario), &explanation(shrunk, origin, &report));
    File { name: format!("{stem}.toml"), text, verdict: report.verdict }
}

/// Gives the only variant its expectations, and judges it with them: what was found is expected to be found.
fn expect(scenario: &mut Scenario, rules: &BTreeSet<String>) -> RunReport {
    let some = |metric: &String| Expectation { metric: metric.clone(), compare: Comparison::Gt, value: 0 };
    scenario.variants[0].expect = rules.iter().map(some).collect();
    let outcome = run_one(scenario, 0, scenario.seed);
    let report = judge(scenario, 0, &outcome);
    let absent = |metric: &str| report.expectations.iter().any(|judged| judged.metric == metric && judged.actual == 0);
    for expectation in &mut scenario.variants[0].expect {
        if absent(&expectation.metric) {
            expectation.compare = Comparison::Eq;
        }
    }
    judge(scenario, 0, &outcome)
}

fn with_and_without(scenario: &Scenario, defects: Defects, rules: &BTreeSet<String>) -> Option<Scenario> {
    if defects.is_empty() || rules.is_empty() {
        return None;
    }
    let mut both = scenario.clone();
    let without = {
        let mut variant = scenario.variants[0].clone();
        variant.cluster.defects = Defects::NONE;
        for expectation in &mut variant.expect {
            (expectation.compare, expectation.value) = (Comparison::Eq, 0);
        }
        variant
    };
    both.variants.insert(0, without);
    for variant in &mut both.variants {
        variant.point = vec![(DEFECTS_AXIS.to_owned(), variant.cluster.defects.to_string())];
    }
    let values = both.variants.iter().map(|variant| variant.cluster.defects.to_string()).collect();
    both.matrix = vec![Axis { name: DEFECTS_AXIS.to_owned(), values }];
    let both = written(&both)?;
    let is_as_expected = |variant| {
        let report = judge(&both, variant, &run_one(&both, variant, both.seed));
        report.verdict == Verdict::AsExpected
    };
    (is_as_expected(0) && is_as_expected(1)).then_some(both)
}

fn names(defects: Defects) -> String {
    defects.iter().map(|defect| defect.name()).collect::<Vec<_>>().join(" and ")
}

fn title(shrunk: &Shrunk, defects: Defects) -> String {
    let signature = &shrunk.failure.signature;
    match defects.is_empty() {
        true => format!("Found by the fuzzer: {signature}."),
        false => format!("Found by the fuzzer with {}: {signature}.", names(defects)),
    }
}

fn stem(shrunk: &Shrunk, defects: Defects) -> String {
    let signature = &shrunk.failure.signature;
    let what = match defects.is_empty() {
        true => format!("{} {}", signature.rule, signature.site),
        false => format!("{} {}", names(defects), signature.rule),
    };
    let mut stem = String::new();
    for c in what.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => stem.push(c.to_ascii_lowercase()),
            _ if stem.ends_with('_') => {}
            _ => stem.push('_'),
        }
    }
    stem.truncate(80);
    stem.trim_matches('_').to_owned()
}

fn explanation(shrunk: &Shrunk, origin: Origin<'_>, report: &RunReport) -> Vec<String> {
    let count = |n: usize| format!("{n} fault{}", if n == 1 { "" } else { "s" });
    let from = match origin {
        Origin::Fuzzer { profile, seed } => format!("seed {seed} of profile {}", profile.name()),
        Origin::File(file) => file.to_owned(),
    };
    let mut lines = wrapped(&format!(
        "Shrunk from {from}, from {} to {}. {} of {} seeds fail like this.",
        count(shrunk.faults_before),
        count(shrunk.faults_after),
        shrunk.failing,
        shrunk.counted
    ));
    let needed = shrunk.needed.iter().filter(|needed| **needed).count();
    lines.extend(wrapped(&match (shrunk.faults_after, shrunk.is_certified()) {
        (0, _) => "It needs no fault.".to_owned(),
        (_, true) => "Certificate: without any one of its faults the run passes.".to_owned(),
        (all, false) => {
            format!("Certificate: partial. The run passes without {needed} of its {all} faults, one at a time.")
        }
    }));
    for (rule, detail) in &shrunk.failure.broken {
        lines.extend(wrapped(&format!("{rule}: {detail}")));
    }
    if let Some(account) = &report.account {
        lines.push(String::new());
        let place = account.offset.map_or_else(String::new, |offset| format!(", offset {offset}"));
        lines.push(format!("The record {} of {}{place}:", account.value, account.partition));
        for line in &account.lines {
            lines.extend(wrapped(line));
        }
    }
    lines
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("it begins with one");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
