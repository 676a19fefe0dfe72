//! Newtypes for what can be confused: offsets, epochs, broker ids.

use std::fmt;
use std::ops::{Add, Sub};

use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(/** A record's position in a partition. */ Offset(i64));
id!(/** How often leadership of the partition has changed. -1: none known. */ LeaderEpoch(i32));
id!(/** Version of a partition's state at the controller (ISR, leader). */ PartitionEpoch(i32));
id!(/** One registration of a broker: the metadata offset of its RegisterBrokerRecord. -1: none. */ BrokerEpoch(i64));
id!(/** `node.id` of a broker or controller. */ BrokerId(i32));

impl Offset {
    pub const ZERO: Offset = Offset(0);
}

impl Add<i64> for Offset {
    type Output = Offset;
    fn add(self, n: i64) -> Offset {
        Offset(self.0 + n)
    }
}

impl Sub for Offset {
    type Output = i64;
    fn sub(self, other: Offset) -> i64 {
        self.0 - other.0
    }
}

impl LeaderEpoch {
    /// Kafka's `NO_PARTITION_LEADER_EPOCH`.
    pub const NONE: LeaderEpoch = LeaderEpoch(-1);
}

impl BrokerEpoch {
    pub const NONE: BrokerEpoch = BrokerEpoch(-1);
}

impl BrokerId {
    /// No broker (Kafka's `NO_LEADER`), also the replica id of a consumer.
    pub const NONE: BrokerId = BrokerId(-1);
}

/// A topic's name and a partition's index, printed `orders-0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: TopicName,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition { topic: TopicName(StrBytes::from_string(topic.to_owned())), partition }
    }

    /// Parses `orders-0`.
    pub fn parse(text: &str) -> Option<TopicPartition> {
        let (topic, partition) = text.rsplit_once('-')?;
        let partition: i32 = partition.parse().ok()?;
        (!topic.is_empty() && partition >= 0).then(|| TopicPartition::new(topic, partition))
    }

    /// Whether `name` means this partition: its topic (`orders`) or itself (`orders-0`).
    pub fn is_of(&self, name: &str) -> bool {
        let index = name.strip_prefix(self.topic.0.as_str()).and_then(|rest| rest.strip_prefix('-'));
        name == self.topic.0.as_str() || index.is_some_and(|index| index.parse() == Ok(self.partition))
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic.0.as_str(), self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As text, `"orders-0"`.
impl Serialize for TopicPartition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TopicPartition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TopicPartition, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        TopicPartition::parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not a topic-partition")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_a_whole_topic_or_one_partition() {
        let partition = TopicPartition::new("orders-eu", 1);
        for name in ["orders-eu", "orders-eu-1"] {
            assert!(partition.is_of(name), "{name}");
        }
        for name in ["orders", "orders-1", "orders-eu-2", "orders-eu-11", "orders-eu-", "orders-eu1", ""] {
            assert!(!partition.is_of(name), "{name}");
        }
    }
}
