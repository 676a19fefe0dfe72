//! The report's directory: `report.json`, `report.html`, and of the runs that are kept whole their history
//! and trace.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::html::html;
use super::model::{Report, RunReport};
use super::trace;
use crate::check::Context;
use crate::history;
use crate::lab::outcome::RunOutcome;
use crate::scenario::Scenario;

/// A run that is kept whole: its place among the reports, and its outcome.
pub struct Kept<'a> {
    pub run: usize,
    pub variant: usize,
    pub outcome: &'a RunOutcome,
}

/// Writes everything on one scenario's `runs` into `directory`, creating it; names the saved files in
/// `runs`.
pub fn write(directory: &Path, scenario: &Scenario, runs: &mut [RunReport], kept: &[Kept<'_>]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for Kept { run, variant, outcome } in kept {
        let report = &mut runs[*run];
        let suffix = if runs_alone(kept) { String::new() } else { format!("-{}", file_label(report)) };
        let (history_name, trace_name) = (format!("history{suffix}.jsonl"), format!("trace{suffix}.jsonl"));
        let context = Context::of_run(&scenario.variants[*variant], outcome);
        save(&directory.join(&history_name), |out| history::write(out, &context.to_config(), &outcome.history))?;
        save(&directory.join(&trace_name), |out| trace::write(out, &outcome.trace))?;
        (report.history, report.trace) = (Some(history_name), Some(trace_name));
    }
    fs::write(directory.join("report.json"), Report::of(runs).to_json())?;
    let pages: Vec<(&RunReport, Option<&RunOutcome>)> =
        kept.iter().map(|kept| (&runs[kept.run], Some(kept.outcome))).collect();
    if !pages.is_empty() {
        fs::write(directory.join("report.html"), html(&pages).map_err(io::Error::other)?)?;
    }
    Ok(())
}

/// Writes `report.json` on the runs of several scenarios into `directory`, the parent of their own.
pub fn write_combined(directory: &Path, runs: &[RunReport]) -> io::Result<()> {
    fs::write(directory.join("report.json"), Report::of(runs).to_json())
}

fn runs_alone(kept: &[Kept<'_>]) -> bool {
    kept.len() == 1
}

/// `acks=1-7`: variant and seed, fit for a file name.
fn file_label(run: &RunReport) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || "=,._-".contains(c) { c } else { '_' };
    format!("{}-{}", run.label.chars().map(fit).collect::<String>(), run.seed)
}

fn save(path: &Path, write: impl FnOnce(&mut BufWriter<fs::File>) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(fs::File::create(path)?);
    write(&mut out)?;
    out.flush()
}
