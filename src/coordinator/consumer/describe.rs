//! A consumer group as ConsumerGroupDescribe tells it (`asDescribedGroup`, `asConsumerGroupDescribeMember`).

use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment as DescribedAssignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};
use kafka_protocol::messages::{GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::{ConsumerGroup, Member, preferred_assignor};
use crate::config::ServerAssignor;
use crate::coordinator::record::Partitions;
use crate::coordinator::topics::Topics;

const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;

impl ConsumerGroup {
    pub fn describe(&self, default: ServerAssignor, topics: &Topics) -> DescribedGroup {
        let assignor = preferred_assignor(self.members.values()).unwrap_or(default);
        let member = |member: &Member| {
            let target = self.target.get(&member.id).map_or_else(Default::default, |target| described(target, topics));
            member.describe(target, topics)
        };
        DescribedGroup::default()
            .with_group_id(GroupId(self.id.clone()))
            .with_group_state(StrBytes::from_static_str(self.state().name()))
            .with_group_epoch(self.epoch)
            .with_assignment_epoch(self.assignment_epoch)
            .with_assignor_name(StrBytes::from_static_str(assignor.name()))
            .with_members(self.members.values().map(member).collect())
    }
}

impl Member {
    fn describe(&self, target: DescribedAssignment, topics: &Topics) -> DescribedMember {
        let metadata = &self.metadata;
        DescribedMember::default()
            .with_member_id(self.id.clone())
            .with_instance_id(metadata.instance_id.clone())
            .with_rack_id(metadata.rack_id.clone())
            .with_member_epoch(self.current.member_epoch)
            .with_client_id(metadata.client_id.clone())
            .with_client_host(metadata.client_host.clone())
            .with_subscribed_topic_names(metadata.subscribed_topics.iter().cloned().map(TopicName).collect())
            .with_subscribed_topic_regex(metadata.subscribed_regex.clone())
            .with_assignment(described(&self.current.assigned, topics))
            .with_target_assignment(target)
            .with_member_type(if self.uses_classic_protocol() { CLASSIC_MEMBER } else { CONSUMER_MEMBER })
    }
}

/// Topics that are gone are left out.
fn described(partitions: &Partitions, topics: &Topics) -> DescribedAssignment {
    let of_topic = |(id, partitions): (&uuid::Uuid, &std::collections::BTreeSet<i32>)| {
        let of_topic = TopicPartitions::default()
            .with_topic_id(*id)
            .with_topic_name(TopicName(topics.name(id)?.clone()))
            .with_partitions(partitions.iter().copied().collect());
        Some(of_topic)
    };
    DescribedAssignment::default().with_topic_partitions(partitions.iter().filter_map(of_topic).collect())
}
