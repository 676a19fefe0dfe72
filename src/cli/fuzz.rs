//! `faultline fuzz`: scenarios from nothing, failures made small.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::pool::{cores, lock};
use super::{Exit, HumanOrJson, print};
use crate::config::nearest;
use crate::defect::Defect;
use crate::fuzz::campaign::{self, Campaign, Found, Tally};
use crate::fuzz::found::{self, Origin};
use crate::fuzz::shrink::{self, Budget};
use crate::fuzz::{Profile, table};
use crate::report::SCHEMA;
use crate::scenario::parse_duration;

/// Make up scenarios, run them, and shrink what fails.
///
/// Each seed is one scenario: a cluster, configurations, clients and a schedule of faults, about 30 simulated seconds
/// and 500 records. Each run is judged by every checker; a loss counts unless it is one that Kafka may suffer under
/// that configuration and those faults. Failures are told apart by what was broken and which decision broke it, and
/// each is shrunk to a scenario file that states what it shows and can be run by itself.
#[derive(Args, Debug)]
#[command(after_help = format!("\
Examples:
  faultline fuzz --time 10m                          every core, for ten minutes
  faultline fuzz --profile storage --seeds 10000
  faultline fuzz --defect hw-from-leader-log-end     see it find a known defect
  faultline fuzz --seed 4711 --seeds 1               one seed again
  faultline fuzz --defects-table reports/defects.md  how long it takes to find each known defect

Ctrl-C ends a campaign early; it still reports.

{}", super::EXIT_CODES))]
pub struct FuzzArgs {
    /// How many seeds to try. With --defect, variations of those that come to it are tried besides.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// How long to go on, for example 60s or 10m [default: 60s, unless --seeds is given]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    time: Option<Duration>,
    /// What to look at [default: all; with --defects-table the profile that each defect belongs to]
    #[arg(long, value_enum)]
    profile: Option<ProfileArg>,
    /// Switch on a known defect; may be given several times. See `faultline defects`.
    #[arg(long = "defect", value_name = "NAME", value_parser = parse_defect)]
    defects: Vec<Defect>,
    /// The first seed. Seeds from 2^48 on are variations of the scenario that the rest of their bits means.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Runs at the same time [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Stop after so many distinct failures [default: 10; 1 with --defect]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    failures: Option<u64>,
    /// Do not shrink failures, and write no files.
    #[arg(long)]
    no_shrink: bool,
    /// Where the scenario files of failures go.
    #[arg(long, value_name = "DIR", default_value = "scenarios/found")]
    out: PathBuf,
    /// What to print on stdout.
    #[arg(long, value_enum, default_value_t = HumanOrJson::Human)]
    format: HumanOrJson,
    /// Instead: look for each known defect (or those of --defect) in five campaigns of at most 20,000 seeds (or
    /// --seeds), and write a table of what it took to this file. Each campaign is kept next to it (`.jsonl`): a search
    /// that was ended goes on there. Delete that file to start anew.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["time", "failures", "no_shrink"])]
    defects_table: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ProfileArg {
    /// Leadership, ISR, high watermark and truncation
    Replication,
    /// What disks keep
    Storage,
    /// Consumer groups and their coordinators
    Groups,
    /// Everything
    All,
}

impl ProfileArg {
    fn profile(self) -> Profile {
        match self {
            ProfileArg::Replication => Profile::Replication,
            ProfileArg::Storage => Profile::Storage,
            ProfileArg::Groups => Profile::Groups,
            ProfileArg::All => Profile::All,
        }
    }
}

fn parse_defect(name: &str) -> Result<Defect, String> {
    Defect::named(name).ok_or_else(|| match nearest(name, Defect::ALL.iter().map(|defect| defect.name())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`faultline defects` lists them".to_owned(),
    })
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    profile: &'a str,
    defects: Vec<&'a str>,
    first_seed: u64,
    seeds_run: u64,
    failing_runs: u64,
    wall_ms: u64,
    runs_per_second: f64,
    failures: &'a [FailureReport],
}

#[derive(Serialize)]
struct FailureReport {
    signature: String,
    seed: u64,
    /// Runs that failed like this.
    runs: u64,
    /// The file that shows it; `null` with --no-shrink.
    scenario: Option<String>,
    faults_before: usize,
    faults_after: usize,
    shrink_ms: u64,
    certificate: Option<&'static str>,
    /// Every broken rule and its first case.
    broken: std::collections::BTreeMap<String, String>,
}

pub fn fuzz(args: &FuzzArgs) -> anyhow::Result<Exit> {
    if let Some(file) = &args.defects_table {
        return defects_table(args, file);
    }
    let campaign = campaign_of(args);
    let stop = stop_on_signal();
    let progress = Progress::new(&campaign);
    let tally = campaign::run(&campaign, stop, |tally| progress.show(tally));
    progress.end();
    let mut failures = Vec::new();
    for found in &tally.found {
        failures.push(report(found, &campaign, args)?);
    }
    let text = match args.format {
        HumanOrJson::Human => human(&campaign, &tally, &failures),
        HumanOrJson::Json => json(&campaign, &tally, &failures)?,
    };
    print(&text)?;
    Ok(exit(&tally))
}

fn campaign_of(args: &FuzzArgs) -> Campaign {
    let unbounded = args.seeds.is_none() && args.time.is_none();
    let failures_max = args.failures.unwrap_or(if args.defects.is_empty() { 10 } else { 1 });
    Campaign {
        profile: args.profile.unwrap_or(ProfileArg::All).profile(),
        defects: args.defects.iter().copied().collect(),
        first_seed: args.seed,
        seeds: args.seeds.unwrap_or(u64::MAX),
        time: if unbounded { Some(Duration::from_secs(60)) } else { args.time },
        jobs: args.jobs.map_or_else(cores, usize::from),
        failures_max: usize::try_from(failures_max).unwrap_or(usize::MAX),
    }
}

fn exit(tally: &Tally) -> Exit {
    let is_broken = |found: &Found| ["panicked", "unfinished"].contains(&found.signature.rule.as_str());
    if tally.found.iter().any(is_broken) {
        return Exit::Broken;
    }
    if tally.found.is_empty() { Exit::AsExpected } else { Exit::Unexpected }
}

/// Shrinks a failure and writes its file.
fn report(found: &Found, campaign: &Campaign, args: &FuzzArgs) -> anyhow::Result<FailureReport> {
    let scenario = campaign::scenario(campaign.profile, campaign.defects, found.seed);
    let faults_before = scenario.variants[0].faults.len();
    let mut report = FailureReport {
        signature: found.signature.to_string(),
        seed: found.seed,
        runs: found.runs,
        scenario: None,
        faults_before,
        faults_after: faults_before,
        shrink_ms: 0,
        certificate: None,
        broken: found.failure.broken.clone(),
    };
    if args.no_shrink {
        return Ok(report);
    }
    let _ = writeln!(io::stderr(), "shrinking seed {}: {}", found.seed, found.signature);
    let shrunk = shrink::shrink(&scenario, found.failure.clone(), &shrink::unexcused, Budget::default());
    let file = found::file(&shrunk, Origin::Fuzzer { profile: campaign.profile, seed: found.seed });
    report.scenario = Some(save(&args.out, &file)?.display().to_string());
    report.faults_after = shrunk.faults_after;
    report.shrink_ms = shrunk.time.as_millis() as u64;
    report.certificate = Some(shrunk.certificate());
    Ok(report)
}

/// Writes a found scenario; what is there already under the name is not overwritten.
pub(super) fn save(directory: &Path, file: &found::File) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let stem = file.name.trim_end_matches(".toml");
    for number in 1.. {
        let name = if number == 1 { file.name.clone() } else { format!("{stem}_{number}.toml") };
        let path = directory.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|old| old == file.text) {
            return Ok(path);
        }
        if !path.exists() {
            std::fs::write(&path, &file.text).with_context(|| path.display().to_string())?;
            return Ok(path);
        }
    }
    unreachable!("some number is free")
}

fn json(campaign: &Campaign, tally: &Tally, failures: &[FailureReport]) -> anyhow::Result<String> {
    let report = Report {
        schema: SCHEMA,
        profile: campaign.profile.name(),
        defects: campaign.defects.iter().map(Defect::name).collect(),
        first_seed: campaign.first_seed,
        seeds_run: tally.runs,
        failing_runs: tally.failing_runs,
        wall_ms: tally.wall.as_millis() as u64,
        runs_per_second: (tally.runs_per_second() * 10.0).round() / 10.0,
        failures,
    };
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

fn human(campaign: &Campaign, tally: &Tally, failures: &[FailureReport]) -> String {
    let mut text = String::new();
    let verdict = match tally.found.len() {
        0 => "nothing found".to_owned(),
        1 => "1 failure".to_owned(),
        n => format!("{n} distinct failures"),
    };
    let defects = if campaign.defects.is_empty() { String::new() } else { format!(" with {}", campaign.defects) };
    let _ = writeln!(
        text,
        "{verdict} in {} runs of profile {}{defects}, seeds from {} on: {:.1} s, {:.1} runs per second, {} failing runs",
        tally.runs,
        campaign.profile.name(),
        campaign.first_seed,
        tally.wall.as_secs_f64(),
        tally.runs_per_second(),
        tally.failing_runs
    );
    for failure in failures {
        let _ = writeln!(text, "\n{} (seed {}, {} runs)", failure.signature, failure.seed, failure.runs);
        for (rule, detail) in &failure.broken {
            let _ = writeln!(text, "  {rule}: {detail}");
        }
        if let (Some(scenario), Some(certificate)) = (&failure.scenario, failure.certificate) {
            let _ = writeln!(
                text,
                "  shrunk from {} to {} faults in {:.1} s, certificate {certificate}\n  faultline run {scenario}",
                failure.faults_before,
                failure.faults_after,
                failure.shrink_ms as f64 / 1000.0
            );
        }
    }
    text
}

fn defects_table(args: &FuzzArgs, file: &Path) -> anyhow::Result<Exit> {
    let defects = if args.defects.is_empty() { Defect::ALL.to_vec() } else { args.defects.clone() };
    let stop = stop_on_signal();
    let search = table::Search {
        profile: args.profile.map(ProfileArg::profile),
        first_seed: args.seed,
        seeds: args.seeds.unwrap_or(table::SEEDS_MAX),
        jobs: args.jobs.map_or_else(cores, usize::from),
        shrinking: table::SHRINKING,
    };
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let path = file.with_extension("jsonl");
    let kept = what_is_kept(&path, &search)?;
    let bar = spinner(None, "{spinner} {pos} seeds tried, {msg}");
    let kept = table::search(&defects, &search, kept, stop, |kept, ended| {
        bar.suspend(|| {
            for record in ended {
                let _ = writeln!(io::stderr(), "{}", record.line());
            }
        });
        bar.set_position(kept.tried());
        bar.set_message(format!("{} of {} campaigns are over", kept.ended(), defects.len() as u64 * table::CAMPAIGNS));
        if let Err(error) = std::fs::write(&path, kept.to_text()) {
            let _ = writeln!(io::stderr(), "{}: {error}", path.display());
        }
    });
    bar.finish_and_clear();
    let text = table::markdown(&defects, &kept, &search, cores());
    std::fs::write(file, &text).with_context(|| file.display().to_string())?;
    print(&text)?;
    Ok(if table::all_found(&defects, &kept) { Exit::AsExpected } else { Exit::Unexpected })
}

/// What an earlier search has left behind.
fn what_is_kept(path: &Path, search: &table::Search) -> anyhow::Result<table::Kept> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| path.display().to_string())?,
    };
    table::Kept::parse(&text, search).map_err(|(line, error)| {
        let place = format!("{}, line {line} (delete the file to start anew)", path.display());
        anyhow::Error::new(error).context(place)
    })
}

/// Set by Ctrl-C or SIGTERM.
fn stop_on_signal() -> &'static AtomicBool {
    static STOP: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        if runtime.block_on(super::serve::stop_signal()).is_ok() {
            STOP.store(true, Ordering::Relaxed);
        }
    });
    &STOP
}

/// A line on stderr if that is a terminal.
fn spinner(length: Option<u64>, template: &str) -> ProgressBar {
    let bar = match io::stderr().is_terminal() {
        true => ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr()),
        false => ProgressBar::hidden(),
    };
    bar.set_style(ProgressStyle::with_template(template).expect("templates are constant and valid"));
    bar
}

/// What a campaign has come to, on one line.
struct Progress {
    bar: ProgressBar,
    shown: Mutex<u64>,
}

impl Progress {
    fn new(campaign: &Campaign) -> Progress {
        let length = (campaign.seeds < u64::MAX).then_some(campaign.seeds);
        Progress { bar: spinner(length, "{spinner} {pos} runs, {msg}"), shown: Mutex::new(0) }
    }

    fn show(&self, tally: &Tally) {
        let mut shown = lock(&self.shown);
        if *shown < tally.runs {
            *shown = tally.runs;
            self.bar.set_position(tally.runs);
            let (failing, found) = (tally.failing_runs, tally.found.len());
            let speed = tally.runs_per_second();
            self.bar.set_message(format!("{speed:.1}/s, {failing} failing, {found} distinct failures"));
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
