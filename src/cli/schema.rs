//! `faultline schema`: the JSON Schema of scenario files.

use super::{Exit, print};
use crate::scenario::schema;

pub fn run() -> anyhow::Result<Exit> {
    let text = serde_json::to_string_pretty(&schema())?;
    print(&format!("{text}\n"))?;
    Ok(Exit::AsExpected)
}
