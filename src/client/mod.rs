//! Kafka's clients as synchronous state machines: a producer, a consumer of assigned partitions, a small
//! admin. A driving [`Process`](crate::world::Process) embeds them: it hands them every event first
//! (`on_event` answers false for what is not theirs), calls `on_timer` at their `deadline`, and drains what
//! they completed. None of them blocks, keeps a history or knows who drives it.
//!
//! Not modelled: transactions, consumer groups, fetch sessions, adaptive
//! partitioning, splitting of batches that the broker finds too large.

mod accumulator;
mod admin;
mod backoff;
mod compression_ratio;
mod consumer;
mod delete_records;
mod delivery;
mod error;
mod group;
mod metadata;
mod partitioner;
mod producer;
mod records;
mod subscription;
mod transaction_manager;

pub use admin::{Admin, AdminOutcome, AdminRequestId, AdminResult, NewTopic};
pub use consumer::{Consumer, ConsumerRecord, LookupId, OffsetLookup};
pub use delete_records::HIGH_WATERMARK;
pub use delivery::{Attempt, DeliveryReport, Outcome, ProducerRecord, RecordHeader, RecordId};
pub use error::{ClientError, ErrorName};
pub use group::{CommitError, CommitId, CommitResult, GroupError, RebalanceEvent};
pub use producer::Producer;
pub use subscription::{ConsumerError, PositionReset, ResetReason};

#[cfg(test)]
mod tests;
