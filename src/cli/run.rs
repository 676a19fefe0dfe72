//! `faultline run`: scenarios in, verdicts and reports out.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context as _;

use super::pool::{self, Task, lock};
use super::{Exit, RunArgs, RunFormat, print, stderr_look, stdout_look};
use crate::lab::outcome::RunOutcome;
use crate::lab::run::run_one;
use crate::report::files::{self, Kept};
use crate::report::{Report, RunReport, Verdict, human, judge, junit};
use crate::scenario::{self, Scenario};

pub fn run(args: RunArgs) -> anyhow::Result<Exit> {
    let Some(scenarios) = load(&args.paths)? else { return Ok(Exit::Usage) };
    let tasks = tasks(&scenarios, args.seed, args.seeds);
    let kept = KeptRuns::default();
    let mut reports = pool::run_all(&tasks, args.jobs, |_, task| {
        let scenario = &scenarios[task.scenario];
        let outcome = run_one(scenario, task.variant, task.seed);
        let report = judge(scenario, task.variant, &outcome);
        kept.offer(task, report.verdict, outcome);
        report
    });
    let written = write_reports(&args, &scenarios, &tasks, &mut reports, &kept.into_inner())?;
    match args.format {
        RunFormat::Human => print(&human(&reports, stdout_look()))?,
        RunFormat::Json => print(&Report::of(&reports).to_json())?,
        RunFormat::Junit => print(&junit(&reports)?)?,
    }
    for directory in written {
        let _ = writeln!(io::stderr(), "report: {}", directory.join("report.html").display());
    }
    Ok(Exit::of_runs(&reports))
}

/// Loads every file; `None` if one of them is wrong, after all of their mistakes are on stderr.
fn load(paths: &[PathBuf]) -> anyhow::Result<Option<Vec<Scenario>>> {
    let look = stderr_look();
    let mut scenarios = Vec::new();
    let mut is_good = true;
    for file in scenario::find_files(paths)? {
        match scenario::load(&file) {
            Ok(scenario) => scenarios.push(scenario),
            Err(error) => {
                is_good = false;
                let _ = writeln!(io::stderr(), "{}", error.render(look.color, look.width));
            }
        }
    }
    Ok(is_good.then_some(scenarios))
}

fn tasks(scenarios: &[Scenario], seed: Option<u64>, seeds: u64) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (index, scenario) in scenarios.iter().enumerate() {
        let first = seed.unwrap_or(scenario.seed);
        for variant in 0..scenario.variants.len() {
            let seeds = (0..seeds).map(|n| first.wrapping_add(n));
            tasks.extend(seeds.map(|seed| Task { scenario: index, variant, seed }));
        }
    }
    tasks
}

/// The one run of each variant that is kept whole: its first unexpected one, otherwise its first. The
/// others' outcomes are dropped as soon as they are judged.
#[derive(Default)]
struct KeptRuns {
    runs: Mutex<BTreeMap<(usize, usize), (Rank, RunOutcome)>>,
}

/// Lower is kept: unexpected before expected, then by seed from the first one on.
type Rank = (bool, u64);

impl KeptRuns {
    fn offer(&self, task: Task, verdict: Verdict, outcome: RunOutcome) {
        let rank = (verdict == Verdict::AsExpected, task.seed);
        let mut runs = lock(&self.runs);
        let place = (task.scenario, task.variant);
        if runs.get(&place).is_none_or(|(kept, _)| rank < *kept) {
            runs.insert(place, (rank, outcome));
        }
    }

    fn into_inner(self) -> BTreeMap<(usize, usize), (Rank, RunOutcome)> {
        self.runs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Writes each scenario's reports; returns the directories.
fn write_reports(
    args: &RunArgs,
    scenarios: &[Scenario],
    tasks: &[Task],
    reports: &mut [RunReport],
    kept: &BTreeMap<(usize, usize), (Rank, RunOutcome)>,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut from = 0;
    for (index, scenario) in scenarios.iter().enumerate() {
        let to = from + tasks[from..].iter().take_while(|task| task.scenario == index).count();
        let tasks_here = &tasks[from..to];
        let kept_here: Vec<Kept<'_>> = kept
            .range((index, 0)..(index + 1, 0))
            .map(|((_, variant), ((_, seed), outcome))| Kept {
                run: tasks_here
                    .iter()
                    .position(|task| (task.variant, task.seed) == (*variant, *seed))
                    .expect("what is kept was a task"),
                variant: *variant,
                outcome,
            })
            .collect();
        let directory = directory(args.out.as_deref(), scenarios, index);
        files::write(&directory, scenario, &mut reports[from..to], &kept_here)
            .with_context(|| format!("cannot write the report to {}", directory.display()))?;
        written.push(directory);
        from = to;
    }
    if scenarios.len() > 1 {
        let base = base(args.out.as_deref());
        files::write_combined(&base, &located(tasks, reports, &written, &base))
            .with_context(|| format!("cannot write the report to {}", base.display()))?;
    }
    Ok(written)
}

/// The reports of all scenarios with their files named from `base`.
fn located(tasks: &[Task], reports: &[RunReport], written: &[PathBuf], base: &Path) -> Vec<RunReport> {
    let below = |index: usize, name: &String| {
        let directory = written[index].strip_prefix(base).unwrap_or(&written[index]);
        directory.join(name).display().to_string()
    };
    let located = tasks.iter().zip(reports).map(|(task, report)| {
        let mut report = report.clone();
        report.trace = report.trace.as_ref().map(|name| below(task.scenario, name));
        report.history = report.history.as_ref().map(|name| below(task.scenario, name));
        report
    });
    located.collect()
}

fn base(out: Option<&Path>) -> PathBuf {
    out.map_or_else(|| PathBuf::from("reports"), Path::to_owned)
}

/// `--out` for a single scenario, a directory below it for each of several; `reports/<scenario>` without it.
/// Files of one name in different directories get a number.
fn directory(out: Option<&Path>, scenarios: &[Scenario], index: usize) -> PathBuf {
    if let (Some(out), [_]) = (out, scenarios) {
        return out.to_owned();
    }
    let base = base(out);
    let name = &scenarios[index].name;
    match scenarios[..index].iter().filter(|other| other.name == *name).count() {
        0 => base.join(name),
        earlier => base.join(format!("{name}-{}", earlier + 1)),
    }
}
