//! The command line: few verbs, behaviour lives in scenario files, flags choose seeds and output.
//!
//! Reports go to stdout, progress and logs to stderr. The exit code is the verdict.

mod bench;
mod check;
mod defects;
mod explain;
mod fuzz;
mod pool;
mod replay;
mod run;
mod saved;
mod schema;
mod serve;
mod shrink;
mod topics;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::report::{Look, RunReport, Verdict};

const EXIT_CODES: &str = "\
Exit codes:
  0  every verdict as expected
  1  an expectation, an anomaly or an invariant is not
  2  wrong usage, or a bad file
  3  a run panicked or could not finish";

const EXAMPLES: &str = "\
Examples:
  faultline run scenarios/acks_1_loses_with_its_leaders_power_acks_all_does_not.toml
  faultline run scenarios --seeds 20 --jobs 4
  faultline replay reports/acks_1_loses_with_its_leaders_power_acks_all_does_not/report.json
  faultline explain reports/acks_1_loses_with_its_leaders_power_acks_all_does_not/report.json
  faultline check history.jsonl --format json";

/// A deterministic simulation testbed for a Kafka-style log: what is lost, duplicated, reordered or
/// unavailable when things break, and why.
#[derive(Parser, Debug)]
#[command(name = "faultline", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(RunArgs),
    Replay(ReplayArgs),
    Fuzz(fuzz::FuzzArgs),
    Shrink(shrink::ShrinkArgs),
    Check(CheckArgs),
    Explain(ExplainArgs),
    Defects(DefectsArgs),
    Serve(serve::ServeArgs),
    Topics(topics::TopicsArgs),
    Schema(SchemaArgs),
    Bench(bench::BenchArgs),
}

/// Run scenarios, every variant of each, and judge what happened.
///
/// A scenario file holds a cluster, workloads, faults and what is expected of them. Each point of its
/// matrix is one variant; acks is an axis unless the workloads set it. Without --seed the scenario's own
/// seed is used. The same scenario, seed and build give the same run, event by event.
#[derive(Args, Debug)]
#[command(after_help = format!("\
Examples:
  faultline run scenarios/acks_1_loses_with_its_leaders_power_acks_all_does_not.toml
  faultline run scenarios                          every *.toml below the directory
  faultline run scenarios/a.toml --seed 42         another seed
  faultline run scenarios/a.toml --seeds 100       seeds 1 to 100: a row per variant, details of the unexpected
  faultline run scenarios --format junit > junit.xml

Reports are written to reports/<scenario>/: report.json, report.html, history.jsonl and trace.jsonl, the
last two with variant and seed in their names when there are several. Several scenarios also get a
report.json of all runs, one directory above. With --seeds, history, trace and
page are kept of the first unexpected run of each variant, or of its first run.

{EXIT_CODES}"))]
struct RunArgs {
    /// Scenario files, or directories with *.toml files below them.
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// The seed, or the first of --seeds [default: the scenario's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run every variant under this many consecutive seeds.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: u64,
    /// Runs at the same time [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// What to print on stdout.
    #[arg(long, value_enum, default_value_t = RunFormat::Human)]
    format: RunFormat,
    /// Directory for the reports; with several scenarios, a directory below it for each
    /// [default: reports/<scenario>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Run again what a report names, and compare.
///
/// Every run of the report is repeated from its scenario file, variant and seed. Where the digest differs,
/// the first differing event is named, if the report's trace was saved. Paths of scenario files are taken
/// from the current directory.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  faultline replay reports/acks_1_loses_with_its_leaders_power_acks_all_does_not/report.json

Exit codes:
  0  every run gave the same digest
  1  a run differs
  2  wrong usage, or a bad file
  3  a run panicked or could not finish although it did before")]
struct ReplayArgs {
    /// A report.json that `faultline run` wrote, or the directory that it lies in.
    #[arg(value_name = "REPORT")]
    report: PathBuf,
    /// Runs at the same time [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
}

/// Check a history of client operations for anomalies.
///
/// A history is JSON Lines, one event per line, as Jepsen's Kafka workload has it: {"index", "process",
/// "type": invoke|ok|fail|info, "f": send|poll|txn|assign|subscribe|crash, "time", "value"}. The first line
/// may be {"config": {"acks": "1", ...}}: it decides what is allowed, never what is found (only ww_deps
/// makes writes that follow each other count for cycles). The history may come from a real cluster. The
/// format is described in docs/history-format.md.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  faultline check reports/acks_1_loses_with_its_leaders_power_acks_all_does_not/history-acks=1-1.jsonl
  faultline check history.jsonl --format json
  my-tool | faultline check -

Exit codes:
  0  no anomaly, or only allowed ones
  1  an anomaly that is not allowed
  2  wrong usage, or a bad file")]
struct CheckArgs {
    /// The history; - is stdin.
    #[arg(value_name = "HISTORY")]
    history: PathBuf,
    /// What to print on stdout.
    #[arg(long, value_enum, default_value_t = HumanOrJson::Human)]
    format: HumanOrJson,
}

/// Tell the life of a record that was lost, duplicated, reordered or wrongly read, and why.
///
/// Cut out of a saved run: the few events that mattered, the one that sealed the record's fate, why the configuration
/// allowed that or which rule it broke, and the setting that would have saved it. Without --record, the first record of
/// every kind of anomaly and partition, in every variant of the report. A run whose trace was not saved is run again.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  faultline explain reports/acks_1_loses_with_its_leaders_power_acks_all_does_not/report.json
  faultline explain reports/a --variant acks=1 --record orders-0@151
  faultline explain reports/a/report.json --all --format json

Exit codes:
  0  explained, or there is nothing to explain
  2  wrong usage, a bad file, or a record that the run does not know")]
struct ExplainArgs {
    /// A report.json that `faultline run` wrote, or the directory that it lies in.
    #[arg(value_name = "REPORT")]
    report: PathBuf,
    /// One record, whatever became of it.
    #[arg(long, value_name = "PARTITION@OFFSET", conflicts_with = "all")]
    record: Option<String>,
    /// Every fate, not only the first of each kind and partition.
    #[arg(long)]
    all: bool,
    /// Only the variants that agree with these axes.
    #[arg(long, value_name = "K=V,…")]
    variant: Option<String>,
    /// The run with this seed [default: of each variant the one whose trace was kept]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What to print on stdout.
    #[arg(long, value_enum, default_value_t = HumanOrJson::Human)]
    format: HumanOrJson,
}

/// List the known defects that a scenario can switch on.
///
/// Each is a rule of Kafka's that is broken in one place: as it was before a fix, or a guard taken away. A
/// scenario switches them on with [cluster] defects = ["NAME"], or shows itself with and without them with
/// [matrix] defects = ["none", "NAME"]. None is on by default.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  faultline defects
  faultline defects --format json")]
struct DefectsArgs {
    /// What to print on stdout.
    #[arg(long, value_enum, default_value_t = HumanOrJson::Human)]
    format: HumanOrJson,
}

/// Print the JSON Schema of scenario files, for editors.
///
/// Editors with a TOML language server (Taplo; VS Code's Even Better TOML) complete and check scenario files
/// with it: save it, and begin a file with the line `#:schema <path or URL>`, before the claim.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  faultline schema > scenario.schema.json
  #:schema ../scenario.schema.json                 the first line of a scenario file")]
struct SchemaArgs {}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum RunFormat {
    Human,
    Json,
    Junit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum HumanOrJson {
    Human,
    Json,
}

/// How the process ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Exit {
    AsExpected = 0,
    Unexpected = 1,
    Usage = 2,
    Broken = 3,
}

impl Exit {
    fn of_verdict(verdict: Verdict) -> Exit {
        match verdict {
            Verdict::AsExpected => Exit::AsExpected,
            Verdict::Unexpected => Exit::Unexpected,
            Verdict::Unfinished | Verdict::Panicked => Exit::Broken,
        }
    }

    /// The worst of all verdicts.
    fn of_runs(runs: &[RunReport]) -> Exit {
        runs.iter().map(|run| Exit::of_verdict(run.verdict)).max().unwrap_or(Exit::AsExpected)
    }
}

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Replay(args) => replay::replay(args),
        Command::Fuzz(args) => fuzz::fuzz(&args),
        Command::Shrink(args) => shrink::shrink(&args),
        Command::Check(args) => check::check(args),
        Command::Explain(args) => explain::explain(args),
        Command::Defects(args) => defects::defects(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::Topics(args) => topics::topics(&args),
        Command::Schema(SchemaArgs {}) => schema::run(),
        Command::Bench(args) => bench::bench(&args),
    };
    let exit = result.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        Exit::Usage
    });
    ExitCode::from(exit as u8)
}

/// Prints to stdout. A reader that went away is no error: the exit code still tells the verdict.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// An error on stderr. There is nowhere left to report that stderr is closed.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "error: {message}");
}

/// Colours on a terminal only, unless `NO_COLOR` is set (<https://no-color.org>).
fn look(is_terminal: bool) -> Look {
    let color = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Look { color, width: 100 }
}

fn stdout_look() -> Look {
    look(io::stdout().is_terminal())
}

fn stderr_look() -> Look {
    look(io::stderr().is_terminal())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_worst_verdict_decides_the_exit_code() {
        let order = [Verdict::AsExpected, Verdict::Unexpected, Verdict::Unfinished].map(Exit::of_verdict);
        assert_eq!(order, [Exit::AsExpected, Exit::Unexpected, Exit::Broken]);
        assert!(order.is_sorted());
    }
}
