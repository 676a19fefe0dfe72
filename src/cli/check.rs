//! `faultline check`: a history in, its anomalies out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::{CheckArgs, Exit, HumanOrJson, print, stdout_look};
use crate::check::{self, Allowance, Anomalies, Context, Evidence, Options, allowed};
use crate::history;
use crate::report::{Look, SCHEMA};

/// Evidence printed of each anomaly.
const EVIDENCE_MAX: usize = 8;

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
}

pub fn check(args: CheckArgs) -> anyhow::Result<Exit> {
    let place = || args.history.display().to_string();
    let (config, events) = history::read(open(&args.history).with_context(place)?).with_context(place)?;
    let context = Context::of_history(&config, &events);
    let anomalies = check::analyze_with(&events, Options { ww_deps: context.ww_deps });
    let table = allowed(&context);
    let is_valid = anomalies.iter().all(|(name, _)| reason(&table, name).is_some());
    let text = match args.format {
        HumanOrJson::Human => human(&anomalies, &table, is_valid, stdout_look()),
        HumanOrJson::Json => json(&anomalies, &table, is_valid),
    };
    print(&text)?;
    Ok(if is_valid { Exit::AsExpected } else { Exit::Unexpected })
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(BufReader::with_capacity(1 << 16, File::open(path)?)))
}

fn reason(table: &[Allowance], name: &str) -> Option<&'static str> {
    table.iter().find(|row| row.anomaly == name).map(|row| row.reason)
}

fn json(anomalies: &Anomalies, table: &[Allowance], is_valid: bool) -> String {
    let checked = Checked {
        schema: SCHEMA,
        valid: is_valid,
        anomalies: anomalies.iter().collect(),
        allowed: table.iter().map(|row| row.anomaly).collect(),
        reasons: table,
        violations: [],
    };
    let mut text = serde_json::to_string_pretty(&checked).expect("string keys and finite numbers");
    text.push('\n');
    text
}

fn first(evidence: &[Evidence]) -> &[Evidence] {
    &evidence[..evidence.len().min(EVIDENCE_MAX)]
}

fn human(anomalies: &Anomalies, table: &[Allowance], is_valid: bool, look: Look) -> String {
    let mut text = String::new();
    let (code, verdict) = match (is_valid, anomalies.is_empty()) {
        (true, true) => ("32", "valid: no anomaly"),
        (true, false) => ("32", "valid: only allowed anomalies"),
        (false, _) => ("1;31", "not valid"),
    };
    let _ = writeln!(text, "{}", if look.color { format!("\x1b[{code}m{verdict}\x1b[0m") } else { verdict.to_owned() });
    for (name, evidence) in anomalies.iter() {
        let judged = reason(table, name).map_or_else(|| "not allowed".to_owned(), |why| format!("allowed: {why}"));
        let _ = writeln!(text, "\n{name}: {} ({judged})", evidence.len());
        for case in first(evidence) {
            let _ = writeln!(text, "  {case}");
        }
        if evidence.len() > EVIDENCE_MAX {
            let _ = writeln!(text, "  … {} more", evidence.len() - EVIDENCE_MAX);
        }
    }
    let _ = writeln!(text, "\nAllowed, and why");
    for Allowance { anomaly, reason } in table {
        let _ = writeln!(text, "  - {anomaly}: {reason}");
    }
    text
}
