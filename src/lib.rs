//! Faultline: a deterministic simulation testbed for a Kafka-style distributed log.
#[cfg(not(madsim))]
compile_error!(
    "faultline is built with `--cfg madsim` (set in .cargo/config.toml): build from the repository, or set RUSTFLAGS='--cfg madsim'"
);

pub mod broker;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
pub mod controller;
pub mod coordinator;
pub mod defect;
pub mod explain;
pub mod fuzz;
pub mod history;
pub mod lab;
pub mod log;
pub mod metadata;
pub mod observe;
pub mod protocol;
pub mod replica;
pub mod report;
pub mod scenario;
pub mod world;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
