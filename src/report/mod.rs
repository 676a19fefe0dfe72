//! Reports: the verdict on each run ([`judge`]), and what people and machines read of it: the terminal's
//! table, JSON, JUnit, and a directory with an HTML page, the history and the trace.
//!
//! Plain data in, text out. Only [`files`] writes anything.

pub mod files;
mod html;
mod human;
mod judge;
mod junit;
mod model;
mod plot;
pub mod trace;

pub use human::{Look, human, wrap};
pub use judge::judge;
pub use junit::junit;
pub use model::{
    Account, Counts, ExpectationReport, FaultReport, Report, RunReport, SCHEMA, Summary, Verdict, ViolationReport,
};

#[cfg(test)]
mod tests;
