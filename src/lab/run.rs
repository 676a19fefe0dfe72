//! Runs one (scenario, variant, seed).

use super::outcome::RunOutcome;
use crate::scenario::Scenario;

/// Runs `variant` (an index into the scenario's variants) under `seed` on a fresh thread.
pub fn run_one(_scenario: &Scenario, _variant: usize, _seed: u64) -> RunOutcome {
    todo!()
}
