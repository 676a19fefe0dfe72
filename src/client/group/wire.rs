//! What members of a classic group tell each other through the coordinator, which does not look at it
//! (`ConsumerProtocol`, and the user data of the sticky assignors).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::messages::consumer_protocol_assignment as assignment;
use kafka_protocol::messages::consumer_protocol_subscription as subscription;
use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use rustc_hash::FxBuildHasher;

use super::assignors::Subscriber;
use crate::config::Assignor;
use crate::protocol::TopicPartition;

/// The newest versions: owned partitions (KIP-429), generation (KIP-792), rack (KIP-881).
const VERSION: i16 = 3;

type ByTopic = IndexMap<TopicName, Vec<i32>, FxBuildHasher>;

fn by_topic(partitions: &[TopicPartition]) -> ByTopic {
    let mut by_topic = ByTopic::default();
    for TopicPartition { topic, partition } in partitions {
        by_topic.entry(topic.clone()).or_default().push(*partition);
    }
    by_topic
}

fn flat(topic: &TopicName, partitions: &[i32]) -> Vec<TopicPartition> {
    partitions.iter().map(|partition| TopicPartition { topic: topic.clone(), partition: *partition }).collect()
}

/// What a member says of itself under one assignor. `owned` is what it still owns: nothing under eager assignors, which
/// give up everything first; the sticky one then tells what it `had`.
pub(super) fn encode_subscription(
    assignor: Assignor,
    topics: &[TopicName],
    owned: &[TopicPartition],
    had: &[TopicPartition],
    generation: i32,
) -> Bytes {
    let owned = by_topic(owned).into_iter().map(|(topic, partitions)| {
        subscription::TopicPartition::default().with_topic(topic).with_partitions(partitions)
    });
    let message = ConsumerProtocolSubscription::default()
        .with_topics(topics.iter().map(|topic| topic.0.clone()).collect())
        .with_user_data(user_data(assignor, had, generation))
        .with_owned_partitions(owned.collect())
        .with_generation_id(generation);
    let mut out = BytesMut::new();
    out.put_i16(VERSION);
    message.encode(&mut out, VERSION).expect("a subscription fits its own version");
    out.freeze()
}

/// `StickyAssignor.serializeTopicPartitionAssignment`, `CooperativeStickyAssignor.subscriptionUserData`.
fn user_data(assignor: Assignor, had: &[TopicPartition], generation: i32) -> Option<Bytes> {
    let mut out = BytesMut::new();
    match assignor {
        Assignor::Range | Assignor::RoundRobin => return None,
        Assignor::Sticky if generation < 0 => return None,
        Assignor::Sticky => {
            let had = by_topic(had);
            out.put_i32(i32::try_from(had.len()).expect("topics of one member"));
            for (topic, partitions) in had {
                out.put_i16(i16::try_from(topic.len()).expect("a topic's name"));
                out.put_slice(topic.as_bytes());
                out.put_i32(i32::try_from(partitions.len()).expect("partitions of one member"));
                partitions.iter().for_each(|partition| out.put_i32(*partition));
            }
            out.put_i32(generation);
        }
        Assignor::CooperativeSticky => out.put_i32(generation),
    }
    Some(out.freeze())
}

/// A member as its subscription describes it. What cannot be read is a member without topics.
pub(super) fn decode_subscription(
    assignor: Assignor,
    member: StrBytes,
    instance: Option<StrBytes>,
    mut bytes: Bytes,
) -> Subscriber {
    let nothing = Subscriber { member, instance, topics: Vec::new(), owned: Vec::new(), generation: -1 };
    if bytes.remaining() < 2 {
        return nothing;
    }
    // Later versions only add to the end.
    let version = bytes.get_i16().clamp(0, VERSION);
    let Ok(message) = ConsumerProtocolSubscription::decode(&mut bytes, version) else { return nothing };
    let mut owned: Vec<TopicPartition> =
        message.owned_partitions.iter().flat_map(|of_topic| flat(&of_topic.topic, &of_topic.partitions)).collect();
    let mut generation = message.generation_id;
    match assignor {
        Assignor::Range | Assignor::RoundRobin => {}
        Assignor::Sticky => {
            if let Some((had, of)) = message.user_data.and_then(decode_sticky) {
                (owned, generation) = (had, of);
            }
        }
        Assignor::CooperativeSticky => {
            let told = message.user_data.filter(|data| data.len() >= 4).map(|mut data| data.get_i32());
            generation = told.unwrap_or(generation);
        }
    }
    Subscriber { topics: message.topics.into_iter().map(TopicName).collect(), owned, generation, ..nothing }
}

fn decode_sticky(mut data: Bytes) -> Option<(Vec<TopicPartition>, i32)> {
    let mut had = Vec::new();
    for _ in 0..data.try_get_i32().ok()? {
        let len = usize::try_from(data.try_get_i16().ok()?).ok()?;
        if data.len() < len {
            return None;
        }
        let topic = TopicName(StrBytes::try_from(data.split_to(len)).ok()?);
        for _ in 0..data.try_get_i32().ok()? {
            had.push(TopicPartition { topic: topic.clone(), partition: data.try_get_i32().ok()? });
        }
    }
    Some((had, data.try_get_i32().unwrap_or(-1)))
}

pub(super) fn encode_assignment(partitions: &[TopicPartition]) -> Bytes {
    let assigned = by_topic(partitions)
        .into_iter()
        .map(|(topic, partitions)| assignment::TopicPartition::default().with_topic(topic).with_partitions(partitions));
    let message = ConsumerProtocolAssignment::default().with_assigned_partitions(assigned.collect());
    let mut out = BytesMut::new();
    out.put_i16(VERSION);
    message.encode(&mut out, VERSION).expect("an assignment fits its own version");
    out.freeze()
}

/// Sorted; empty for an empty assignment, none for one that cannot be read.
pub(super) fn decode_assignment(mut bytes: Bytes) -> Option<Vec<TopicPartition>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let version = bytes.try_get_i16().ok()?.clamp(0, VERSION);
    let message = ConsumerProtocolAssignment::decode(&mut bytes, version).ok()?;
    let of_topic = |of_topic: &assignment::TopicPartition| flat(&of_topic.topic, &of_topic.partitions);
    let mut partitions: Vec<TopicPartition> = message.assigned_partitions.iter().flat_map(of_topic).collect();
    partitions.sort();
    Some(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &'static str) -> TopicName {
        TopicName(StrBytes::from_static_str(name))
    }

    #[test]
    fn a_subscription_comes_back_as_its_assignor_reads_it() {
        let had = [TopicPartition::new("t", 1), TopicPartition::new("u", 0)];
        let member = || StrBytes::from_static_str("m");
        for assignor in [Assignor::Range, Assignor::RoundRobin, Assignor::Sticky, Assignor::CooperativeSticky] {
            let is_cooperative = assignor == Assignor::CooperativeSticky;
            let owned = if is_cooperative { &had[..] } else { &[] };
            let encoded = encode_subscription(assignor, &[name("t"), name("u")], owned, &had, 7);
            let subscriber = decode_subscription(assignor, member(), None, encoded);
            assert_eq!((subscriber.topics, subscriber.generation), (vec![name("t"), name("u")], 7));
            let remembers = is_cooperative || assignor == Assignor::Sticky;
            assert_eq!(subscriber.owned, if remembers { had.to_vec() } else { Vec::new() }, "{assignor:?}");
        }
    }

    #[test]
    fn an_assignment_comes_back_sorted() {
        let partitions = [TopicPartition::new("u", 0), TopicPartition::new("t", 1), TopicPartition::new("t", 0)];
        let mut sorted = partitions.to_vec();
        sorted.sort();
        assert_eq!(decode_assignment(encode_assignment(&partitions)), Some(sorted));
        assert_eq!(decode_assignment(Bytes::new()), Some(Vec::new()));
        assert_eq!(decode_assignment(Bytes::from_static(b"\0\0\0")), None);
    }
}
