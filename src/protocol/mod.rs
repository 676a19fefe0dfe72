//! Ids, error codes and wire frames over the `kafka-protocol` crate. Knows nothing of brokers or logs.

pub mod fetch;
mod ids;
mod millis;
pub mod primitives;
pub mod rpc;
pub mod wire;

pub use ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch, TopicPartition};
pub use kafka_protocol::error::ResponseError as ErrorCode;
pub use millis::{duration_of, millis_of};
