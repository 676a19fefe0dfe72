//! The log of one partition, in Kafka's own file layout: segments of record batches v2, the leader epoch
//! cache, checkpoints, recovery. Knows the disk; knows nothing of leaders, followers or requests.

pub mod batch;
mod checkpoint;
mod directory;
mod epoch_cache;
mod loader;
#[cfg(test)]
mod model_tests;
mod partition_log;
mod segment;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod uuid_text;

pub use directory::{LoadedLog, LogDirectory};
pub use epoch_cache::EpochCache;
pub use partition_log::{AppendError, Appended, Log, LogConfig, ReadError, RecoveryReport};
