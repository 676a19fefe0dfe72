//! `faultline explain`: why a record was lost, duplicated, reordered or wrongly read.

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use indexmap::IndexMap;
use serde::Serialize;

use super::saved::{self, SavedReport, SavedRun};
use super::{Exit, ExplainArgs, HumanOrJson, print, stdout_look};
use crate::explain::{self, Case, Explanation, Wanted};
use crate::history::{self, HistoryEvent};
use crate::lab::outcome::TraceEvent;
use crate::lab::run::run_one;
use crate::report::{SCHEMA, trace};

#[derive(Serialize)]
struct Explained<'a> {
    file: &'a str,
    variant: &'a IndexMap<String, String>,
    seed: u64,
    digest: &'a str,
    /// The report had no trace of this run: it was run again.
    run_again: bool,
    explanations: Vec<Explanation>,
}

pub fn explain(args: ExplainArgs) -> anyhow::Result<Exit> {
    let wanted = wanted(&args)?;
    let report = SavedReport::read(&args.report)?;
    let mut explained: Vec<Explained<'_>> = Vec::new();
    let mut unknown = None;
    for run in select(&report.runs, &args)? {
        let Some(facts) = Recorded::of(run, &report.directory)? else { return Ok(Exit::Usage) };
        let faults = run.faults.iter().map(|fault| fault.text()).collect();
        let case = Case { trace: &facts.trace, history: &facts.history, settings: &run.settings, faults };
        match explain::explain(&case, &wanted) {
            Ok(explanations) => explained.push(Explained {
                file: &run.file,
                variant: &run.variant,
                seed: run.seed,
                digest: &run.digest,
                run_again: facts.run_again,
                explanations,
            }),
            Err(error) => {
                let error = anyhow::Error::from(error).context(run.name());
                unknown.get_or_insert(error);
            }
        }
    }
    if let Some(error) = unknown.filter(|_| explained.is_empty()) {
        return Err(error);
    }
    print(&match args.format {
        HumanOrJson::Human => human(&explained),
        HumanOrJson::Json => {
            serde_json::to_string_pretty(&serde_json::json!({ "schema": SCHEMA, "runs": explained }))? + "\n"
        }
    })?;
    Ok(Exit::AsExpected)
}

fn wanted(args: &ExplainArgs) -> anyhow::Result<Wanted> {
    let Some(record) = &args.record else { return Ok(if args.all { Wanted::All } else { Wanted::First }) };
    let parsed = record.rsplit_once('@').and_then(|(partition, offset)| {
        let offset: i64 = offset.parse().ok().filter(|offset| *offset >= 0)?;
        Some(Wanted::Record { partition: partition.to_owned(), offset })
    });
    parsed.with_context(|| format!("--record {record}: a record is named by partition and offset, as in orders-0@512"))
}

/// The runs to explain: those of --variant and --seed; of the others of a variant, the one whose trace was kept.
fn select<'a>(runs: &'a [SavedRun], args: &ExplainArgs) -> anyhow::Result<Vec<&'a SavedRun>> {
    let is_wanted = |run: &&SavedRun| {
        let axes = args.variant.iter().flat_map(|text| text.split(','));
        axes.into_iter().filter(|axis| !axis.is_empty()).all(|axis| {
            axis == "-"
                || axis.split_once('=').is_some_and(|(key, value)| run.variant.get(key).is_some_and(|v| v == value))
        })
    };
    let of_variant: Vec<&SavedRun> = runs.iter().filter(is_wanted).collect();
    if of_variant.is_empty() {
        let mut labels: Vec<String> = runs.iter().map(SavedRun::variant_text).collect();
        labels.dedup();
        bail!(
            "the report has no run of variant {}; it has {}",
            args.variant.as_deref().unwrap_or("-"),
            labels.join(" ")
        );
    }
    if let Some(seed) = args.seed {
        let of_seed: Vec<&SavedRun> = of_variant.iter().copied().filter(|run| run.seed == seed).collect();
        if of_seed.is_empty() {
            bail!("the report has no run with seed {seed}; the nearest is {}", nearest(&of_variant, seed));
        }
        return Ok(of_seed);
    }
    let mut by_variant: IndexMap<String, &SavedRun> = IndexMap::new();
    for run in of_variant {
        let kept = by_variant.entry(run.variant_text()).or_insert(run);
        if kept.trace.is_none() && run.trace.is_some() {
            *kept = run;
        }
    }
    Ok(by_variant.into_values().collect())
}

fn nearest(runs: &[&SavedRun], seed: u64) -> u64 {
    runs.iter().map(|run| run.seed).min_by_key(|other| other.abs_diff(seed)).unwrap_or(seed)
}

/// A run's trace and history, as saved or made again.
struct Recorded {
    trace: Vec<TraceEvent>,
    history: Vec<HistoryEvent>,
    run_again: bool,
}

impl Recorded {
    /// `None` after the mistakes of a scenario file that must be run again are told.
    fn of(run: &SavedRun, directory: &Path) -> anyhow::Result<Option<Recorded>> {
        let (Some(trace_name), Some(history_name)) = (&run.trace, &run.history) else { return Recorded::again(run) };
        let (trace_path, history_path) = (directory.join(trace_name), directory.join(history_name));
        if !trace_path.exists() || !history_path.exists() {
            return Recorded::again(run);
        }
        let open = |path: &Path| File::open(path).map(BufReader::new).with_context(|| path.display().to_string());
        let trace = trace::read(open(&trace_path)?).with_context(|| trace_path.display().to_string())?;
        let (_, history) = history::read(open(&history_path)?).with_context(|| history_path.display().to_string())?;
        Ok(Some(Recorded { trace, history, run_again: false }))
    }

    fn again(run: &SavedRun) -> anyhow::Result<Option<Recorded>> {
        let _ = writeln!(io::stderr(), "{}: its trace was not saved; running it again", run.name());
        let Some((scenarios, tasks)) = saved::prepare([run])? else { return Ok(None) };
        let outcome = run_one(&scenarios[0], tasks[0].variant, run.seed);
        let digest = format!("{:016x}", outcome.digest);
        if digest != run.digest {
            bail!(
                "{}: run again, its digest is {digest} and the report says {}: the scenario or the build is another one",
                run.name(),
                run.digest
            );
        }
        Ok(Some(Recorded { trace: outcome.trace, history: outcome.history, run_again: true }))
    }
}

fn human(explained: &[Explained<'_>]) -> String {
    let look = stdout_look();
    let mut text = String::new();
    for run in explained {
        let label: Vec<String> = run.variant.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
        let label = if label.is_empty() { String::new() } else { format!("{}, ", label.join(",")) };
        let heading = format!("{label}seed {}", run.seed);
        if run.explanations.is_empty() {
            text += &format!("{heading}: nothing was lost, duplicated, reordered or wrongly read\n\n");
            continue;
        }
        text += &format!("── {heading} ──\n\n");
        text += &explain::human(&run.explanations, look.color, look.width);
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}
