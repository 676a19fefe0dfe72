//! The log of one partition, in Kafka's own file layout: segments of record batches v2, the leader epoch
//! cache, checkpoints, recovery. Knows the disk; knows nothing of leaders, followers or requests.

pub mod batch;
mod checkpoint;
mod cleaner;
#[cfg(test)]
mod cleanup_tests;
pub mod compression;
mod config;
mod directory;
mod epoch_cache;
mod index;
mod loader;
#[cfg(test)]
mod model_tests;
mod partition_log;
#[cfg(test)]
mod producer_model_tests;
mod producers;
pub mod record;
mod retention;
mod segment;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod uuid_text;
mod validate;

pub use cleaner::{CleanError, Cleaned, Dirt, OFFSET_MAP_KEYS, Rewritten};
pub use config::{CleanupPolicy, CompactionConfig, LogConfig, Ratio, StoredCompression, TimestampType};
pub use directory::{LoadedLog, LogDirectory};
pub use epoch_cache::EpochCache;
pub use partition_log::{AppendError, Appended, DropReason, Dropped, Log, ReadError, RecoveryReport};
pub use producers::{ProducerBatch, ProducerEntry, ProducerError, Producers};
pub use retention::LogStartMove;
