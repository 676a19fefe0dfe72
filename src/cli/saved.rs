//! A `report.json` read back: what `replay` and `explain` need of it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use indexmap::IndexMap;
use serde::Deserialize;

use super::pool::Task;
use super::stderr_look;
use crate::explain::Settings;
use crate::report::SCHEMA;
use crate::scenario::{self, Scenario};

#[derive(Deserialize)]
pub struct SavedReport {
    schema: u32,
    pub runs: Vec<SavedRun>,
    /// Where histories and traces lie.
    #[serde(skip)]
    pub directory: PathBuf,
}

#[derive(Deserialize)]
pub struct SavedRun {
    pub file: String,
    pub variant: IndexMap<String, String>,
    pub seed: u64,
    pub digest: String,
    pub verdict: String,
    pub settings: Settings,
    pub faults: Vec<SavedFault>,
    pub trace: Option<String>,
    pub history: Option<String>,
}

#[derive(Deserialize)]
pub struct SavedFault {
    #[serde(rename = "do")]
    action: String,
    target: String,
}

impl SavedFault {
    /// `power-loss leader(orders-0)`
    pub fn text(&self) -> String {
        format!("{} {}", self.action, self.target).trim_end().to_owned()
    }
}

impl SavedReport {
    /// `path`: a report.json, or the directory that it lies in.
    pub fn read(path: &Path) -> anyhow::Result<SavedReport> {
        let file = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
        let place = || file.display().to_string();
        let text = fs::read_to_string(&file).with_context(place)?;
        let mut saved: SavedReport =
            serde_json::from_str(&text).with_context(|| format!("{} is not a report of `faultline run`", place()))?;
        if saved.schema != SCHEMA {
            bail!("{}: schema {} is not the one this build writes ({SCHEMA})", place(), saved.schema);
        }
        if let Some(run) = saved.runs.iter().find(|run| run.file.is_empty()) {
            bail!("{}: the run with seed {} names no scenario file", place(), run.seed);
        }
        saved.directory = file.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(saved)
    }
}

impl SavedRun {
    pub fn name(&self) -> String {
        format!("{} {} seed {}", self.file, self.variant_text(), self.seed)
    }

    /// `acks=1,min.insync.replicas=2`, or `-`.
    pub fn variant_text(&self) -> String {
        if self.variant.is_empty() {
            return "-".to_owned();
        }
        self.variant.iter().map(|(axis, value)| format!("{axis}={value}")).collect::<Vec<_>>().join(",")
    }
}

/// Loads each scenario once and finds each run's variant; `None` after mistakes in scenario files are told.
pub fn prepare<'a>(runs: impl IntoIterator<Item = &'a SavedRun>) -> anyhow::Result<Option<(Vec<Scenario>, Vec<Task>)>> {
    let look = stderr_look();
    let mut scenarios: IndexMap<&str, Scenario> = IndexMap::new();
    let mut tasks = Vec::new();
    for run in runs {
        if !scenarios.contains_key(run.file.as_str()) {
            match scenario::load(&PathBuf::from(&run.file)) {
                Ok(scenario) => scenarios.insert(&run.file, scenario),
                Err(error) => {
                    let _ = writeln!(io::stderr(), "{}", error.render(look.color, look.width));
                    return Ok(None);
                }
            };
        }
        let index = scenarios.get_index_of(run.file.as_str()).expect("just loaded");
        let is_same = |point: &[(String, String)]| point.iter().map(|(k, v)| (k, v)).eq(run.variant.iter());
        let Some(variant) = scenarios[index].variants.iter().position(|variant| is_same(&variant.point)) else {
            bail!("{} has no variant {} any more", run.file, run.variant_text());
        };
        tasks.push(Task { scenario: index, variant, seed: run.seed });
    }
    Ok(Some((scenarios.into_values().collect(), tasks)))
}
