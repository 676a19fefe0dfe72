//! The laboratory: a cluster in a simulated world, a nemesis, workloads, an omniscient observer.

pub mod outcome;
pub mod run;
