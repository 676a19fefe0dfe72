//! The cluster's metadata: the records of `__cluster_metadata` in Kafka's layout, and the image that
//! replaying them yields. The controller writes them; brokers fetch and replay them. Same code for both.

mod image;
mod records;

pub use image::{
    BrokerRegistration, ImageChanges, MetadataImage, PartitionState, TOPIC_RESOURCE, TopicImage, directory,
};
pub use records::{MetadataRecord, decode_records, encode_records};
