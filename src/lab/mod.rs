//! The laboratory: a cluster in a simulated world, a nemesis, workloads, an omniscient observer.
//!
//! [`run::run_one`] is the entrance: (scenario, variant, seed) in, [`outcome::RunOutcome`] out.

pub mod bench;
mod bench_log;
mod cluster;
mod environment;
pub mod ghost;
pub mod groups;
mod member;
mod nemesis;
pub mod outcome;
mod recorder;
pub mod run;
mod workload;
