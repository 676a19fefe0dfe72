//! `faultline check`: a history in, its anomalies out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::{CheckArgs, Exit, HumanOrJson, print, stdout_look};
use crate::check::{self, Allowance, Anomalies, Context, Evidence, Measured, Options, Spread, allowed};
use crate::history;
use crate::report::{Look, SCHEMA};

/// Evidence printed of each anomaly for people; the JSON has every case.
const EVIDENCE_MAX: usize = 8;

/// Keys whose time without a successful send is printed for people, the longest first.
const KEYS_MAX: usize = 8;

#[derive(Serialize)]
struct Checked<'a> {
    schema: u32,
    valid: bool,
    /// Name -> every case, the allowed ones too.
    anomalies: BTreeMap<&'a str, &'a [Evidence]>,
    /// Names that do not make the history invalid.
    allowed: BTreeSet<&'a str>,
    /// Why each of them is allowed.
    reasons: &'a [Allowance],
    /// A history shows what clients saw; violations need an omniscient observer.
    violations: [(); 0],
    measured: &'a Measured,
}

/// A history, checked.
struct Outcome {
    name: String,
    anomalies: Anomalies,
    table: Vec<Allowance>,
    measured: Measured,
}

impl Outcome {
    fn reason(&self, name: &str) -> Option<&'static str> {
        self.table.iter().find(|row| row.anomaly == name).map(|row| row.reason)
    }

    fn is_valid(&self) -> bool {
        self.not_allowed().next().is_none()
    }

    fn not_allowed(&self) -> impl Iterator<Item = &'static str> {
        self.anomalies.iter().map(|(name, _)| name).filter(|name| self.reason(name).is_none())
    }
}

pub fn check(args: CheckArgs) -> anyhow::Result<Exit> {
    let name = match args.history.to_str() {
        Some("-") => "standard input".to_owned(),
        Some(_) | None => args.history.display().to_string(),
    };
    let place = || name.clone();
    let (config, events) = history::read(open(&args.history).with_context(place)?).with_context(place)?;
    ensure!(!events.is_empty(), "{name}: no operation in it");
    let context = Context::of_history(&config, &events);
    let outcome = Outcome {
        name,
        anomalies: check::analyze_with(&events, Options { ww_deps: context.ww_deps }),
        table: allowed(&context),
        measured: check::measure(&events),
    };
    print(&match args.format {
        HumanOrJson::Human => human(&outcome, stdout_look()),
        HumanOrJson::Json => json(&outcome),
    })?;
    Ok(if outcome.is_valid() { Exit::AsExpected } else { Exit::Unexpected })
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(BufReader::with_capacity(1 << 16, File::open(path)?)))
}

fn json(outcome: &Outcome) -> String {
    let checked = Checked {
        schema: SCHEMA,
        valid: outcome.is_valid(),
        anomalies: outcome.anomalies.iter().collect(),
        allowed: outcome.table.iter().map(|row| row.anomaly).collect(),
        reasons: &outcome.table,
        violations: [],
        measured: &outcome.measured,
    };
    let mut text = serde_json::to_string_pretty(&checked).expect("string keys and finite numbers");
    text.push('\n');
    text
}

fn human(outcome: &Outcome, look: Look) -> String {
    let mut text = String::new();
    let paint = |code: &str, words: &str| match look.color {
        true => format!("\x1b[{code}m{words}\x1b[0m"),
        false => words.to_owned(),
    };
    let not_allowed: Vec<&str> = outcome.not_allowed().collect();
    let verdict = match (not_allowed.is_empty(), outcome.anomalies.is_empty()) {
        (true, true) => paint("32", "valid: no anomaly"),
        (true, false) => paint("32", "valid: only allowed anomalies"),
        (false, _) => paint("1;31", &format!("not valid: {}", not_allowed.join(", "))),
    };
    let _ = writeln!(text, "{}: {verdict}", outcome.name);
    let (bad, fine): (Vec<_>, Vec<_>) = outcome.anomalies.iter().partition(|(name, _)| not_allowed.contains(name));
    for (name, evidence) in bad.into_iter().chain(fine) {
        let judged = outcome.reason(name).map_or_else(|| "not allowed".to_owned(), |why| format!("allowed: {why}"));
        let _ = writeln!(text, "\n{}: {} ({judged})", paint("1", name), evidence.len());
        for case in evidence.iter().take(EVIDENCE_MAX) {
            let _ = writeln!(text, "  {case}");
        }
        if evidence.len() > EVIDENCE_MAX {
            let _ = writeln!(text, "  … {} more (--format json has all)", evidence.len() - EVIDENCE_MAX);
        }
    }
    write_measured(&mut text, &outcome.measured);
    let _ = writeln!(text, "\nAllowed, and why");
    for rows in outcome.table.chunk_by(|a, b| a.reason == b.reason) {
        let names: Vec<&str> = rows.iter().map(|row| row.anomaly).collect();
        let _ = writeln!(text, "  - {}: {}", names.join(", "), rows[0].reason);
    }
    text
}

fn write_measured(text: &mut String, measured: &Measured) {
    let values = &measured.values;
    let _ = writeln!(text, "\nMeasured");
    let _ = writeln!(
        text,
        "  values: {} sent, {} acknowledged, {} failed, {} unknown ({} of them never read), {} read",
        values.sent, values.acknowledged, values.failed, values.unknown, values.sent_and_missing, values.read
    );
    if let Some(spread) = &measured.realtime_lag_ms {
        let _ = write!(text, "  real-time lag of polls: {}", spread_text(spread));
        let worst = measured.worst_realtime_lag.as_ref().filter(|lag| lag.lag_ms > 0.0);
        let _ = match worst {
            Some(lag) => writeln!(text, "; the worst by process {} in {} at {} ms", lag.process, lag.key, lag.at_ms),
            None => writeln!(text),
        };
    }
    if let Some(spread) = &measured.end_to_end_latency_ms {
        let _ = writeln!(text, "  end-to-end latency: {}", spread_text(spread));
    }
    let mut stretches: Vec<(&String, &Spread)> = measured.without_successful_send_ms.iter().collect();
    stretches.sort_by(|a, b| b.1.max.total_cmp(&a.1.max).then(a.0.cmp(b.0)));
    for (key, spread) in stretches.iter().take(KEYS_MAX) {
        let _ = writeln!(text, "  without a successful send in {key}: {}", spread_text(spread));
    }
    if stretches.len() > KEYS_MAX {
        let _ = writeln!(text, "  … and in {} more keys", stretches.len() - KEYS_MAX);
    }
    let again: u64 = measured.consumed.distribution.range(2..).map(|(_, records)| records).sum();
    if let Some(most) = measured.consumed.most.first() {
        let _ = writeln!(
            text,
            "  consumed more than once: {again} records; {} of {} {} times by {}",
            most.value, most.key, most.times, most.consumer
        );
    }
}

fn spread_text(spread: &Spread) -> String {
    let Spread { samples, p50, p90, p99, max } = spread;
    format!("p50 {p50} ms, p90 {p90} ms, p99 {p99} ms, max {max} ms ({samples} samples)")
}
