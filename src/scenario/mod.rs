//! Scenario files: TOML in, a checked [`Scenario`] or diagnostics that point at the place out.

mod model;

pub use model::*;
