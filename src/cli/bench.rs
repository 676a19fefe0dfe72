//! `faultline bench`: the benchmark ledger.

use clap::Args;

use super::{Exit, HumanOrJson};
use crate::check;
use crate::fuzz::{Profile, campaign};
use crate::lab::bench::{self, Ledger, Row};

/// Measure how fast simulation and checkers are on this machine, beside the limit that madsim sets.
///
/// Takes about half a minute. Figures are wall time of one run on one core; nothing else should run.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Only rows whose names contain one of these: `records/s`, `log:`, `checkers`, `fuzz`.
    #[arg(value_name = "NAME")]
    only: Vec<String>,

    /// What to print on stdout.
    #[arg(long, value_enum, default_value_t = HumanOrJson::Human)]
    format: HumanOrJson,
}

pub fn bench(args: &BenchArgs) -> anyhow::Result<Exit> {
    let announce = |name: &str| eprintln!("measuring {name}");
    let mut ledger = Ledger::new(&args.only, &announce);
    bench::measure(&mut ledger);
    check::bench::measure(&mut ledger);
    measure_fuzz(&mut ledger);
    let rows = ledger.rows();
    anyhow::ensure!(!rows.is_empty(), "no row of the ledger has a name that contains {}", args.only.join(" or "));
    let text = match args.format {
        HumanOrJson::Human => bench::render(&rows),
        HumanOrJson::Json => serde_json::to_string_pretty(&serde_json::json!({ "schema": 1, "rows": rows }))? + "\n",
    };
    super::print(&text)?;
    Ok(Exit::AsExpected)
}

/// What a seed of each fuzz profile costs, from drawing the scenario to judging the run.
fn measure_fuzz(ledger: &mut Ledger<'_>) {
    const RUNS: u64 = 300;
    for profile in Profile::ALL {
        let name = match profile {
            Profile::Replication => "fuzz, profile replication",
            Profile::Storage => "fuzz, profile storage",
            Profile::Groups => "fuzz, profile groups",
            Profile::All => "fuzz, profile all",
        };
        ledger.measure(&[name], || {
            let tally = campaign::speed(profile, RUNS);
            let detail = format!("{RUNS} seeds on one core, 30 simulated s and about 500 records each");
            vec![Row { name, value: tally.runs_per_second(), unit: "runs / s", detail }]
        });
    }
}
