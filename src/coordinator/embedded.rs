//! The protocol that consumers embed in the classic one (`ConsumerProtocol`), as far as a coordinator reads it: members
//! of both protocols can be in one group only because of that.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable};

use super::record::Partitions;
use super::topics::Topics;

/// The newest version of both messages; later ones only add to the end.
const VERSION: i16 = 3;

/// The version of a message, in which the answer to it is written.
pub(super) fn version_of(mut message: Bytes) -> i16 {
    message.try_get_i16().unwrap_or(0).clamp(0, VERSION)
}

/// `None`: malformed.
pub(super) fn decode_subscription(mut bytes: Bytes) -> Option<ConsumerProtocolSubscription> {
    let version = bytes.try_get_i16().ok()?.clamp(0, VERSION);
    ConsumerProtocolSubscription::decode(&mut bytes, version).ok()
}

/// Partitions of topics that exist; `None`: malformed. A member without an assignment has none.
pub(super) fn decode_assignment(mut bytes: Bytes, topics: &Topics) -> Option<Partitions> {
    if bytes.is_empty() {
        return Some(Partitions::new());
    }
    let version = bytes.try_get_i16().ok()?.clamp(0, VERSION);
    let message = ConsumerProtocolAssignment::decode(&mut bytes, version).ok()?;
    let of_topic = |of_topic: &TopicPartition| (of_topic.topic.clone(), of_topic.partitions.clone());
    Some(by_id(message.assigned_partitions.iter().map(of_topic), topics))
}

/// What a subscription says that its member owns.
pub(super) fn owned_partitions(subscription: &ConsumerProtocolSubscription, topics: &Topics) -> Partitions {
    by_id(subscription.owned_partitions.iter().map(|of| (of.topic.clone(), of.partitions.clone())), topics)
}

fn by_id(partitions: impl Iterator<Item = (TopicName, Vec<i32>)>, topics: &Topics) -> Partitions {
    let known = partitions.filter_map(|(name, indexes)| Some((topics.get(&name.0)?.id, indexes)));
    let mut by_id = Partitions::new();
    for (topic, indexes) in known.filter(|(_, indexes)| !indexes.is_empty()) {
        by_id.entry(topic).or_default().extend(indexes);
    }
    by_id
}

/// Topics that are gone are left out.
pub(super) fn encode_assignment(partitions: &Partitions, version: i16, topics: &Topics) -> Bytes {
    let assigned = partitions.iter().filter_map(|(id, indexes)| {
        let name = TopicName(topics.name(id)?.clone());
        Some(TopicPartition::default().with_topic(name).with_partitions(indexes.iter().copied().collect()))
    });
    let message = ConsumerProtocolAssignment::default().with_assigned_partitions(assigned.collect());
    let mut out = BytesMut::new();
    out.put_i16(version);
    message.encode(&mut out, version).expect("an assignment fits every version");
    out.freeze()
}
