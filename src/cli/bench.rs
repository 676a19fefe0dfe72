//! `faultline bench`: the benchmark ledger.

use clap::Args;

use super::{Exit, HumanOrJson};
use crate::check;
use crate::lab::bench;

/// Measure how fast simulation and checkers are on this machine, beside the limit that madsim sets.
///
/// Takes about half a minute. Figures are wall time of one run on one core; nothing else should run.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What to print on stdout.
    #[arg(long, value_enum, default_value_t = HumanOrJson::Human)]
    format: HumanOrJson,
}

pub fn bench(args: &BenchArgs) -> anyhow::Result<Exit> {
    let announce = |name: &str| eprintln!("measuring {name}");
    let mut rows = bench::ledger(announce);
    rows.extend(check::bench::ledger(announce));
    let text = match args.format {
        HumanOrJson::Human => bench::render(&rows),
        HumanOrJson::Json => serde_json::to_string_pretty(&serde_json::json!({ "schema": 1, "rows": rows }))? + "\n",
    };
    super::print(&text)?;
    Ok(Exit::AsExpected)
}
