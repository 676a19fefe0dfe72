//! A consumer under `group.protocol=consumer` and a coordinator scripted by hand.

use super::consumer::{Served, served};
use super::*;
use crate::client::Consumer;
use crate::config::ConsumerConfig;
use crate::protocol::ErrorCode;
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::find_coordinator_response::Coordinator as Found;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, FindCoordinatorRequest, FindCoordinatorResponse,
    GroupId, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
};

/// When the member is to give up its only partition, and the coordinator stores nothing any more.
const REVOKED_AT: Time = Time::from_millis(1_000);
/// Of heartbeats, and of the application's polls.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Coordinator {
    /// It sends members away, to look for another one.
    is_unavailable: bool,
    lookups: usize,
    /// Of the commits since.
    refused_at: Vec<Time>,
    released_at: Option<Time>,
}

impl Coordinator {
    fn answer(&mut self, served: &Shared<Served>, request: &RequestFrame, now: Time) -> Answer {
        let name = || TopicName(StrBytes::from_static_str("t"));
        match ApiKey::try_from(request.api_key).expect("decoded already") {
            ApiKey::FindCoordinator => {
                self.lookups += 1;
                let found = Found::default()
                    .with_key(StrBytes::from_static_str("g"))
                    .with_node_id(1.into())
                    .with_host(StrBytes::from_string(machine(1)))
                    .with_port(i32::from(PORT));
                let found = FindCoordinatorResponse::default().with_coordinators(vec![found]);
                answer::<FindCoordinatorRequest>(request, &found)
            }
            ApiKey::ConsumerGroupHeartbeat if self.is_unavailable => {
                let code = ErrorCode::CoordinatorNotAvailable.code();
                let response = ConsumerGroupHeartbeatResponse::default().with_error_code(code);
                answer::<ConsumerGroupHeartbeatRequest>(request, &response)
            }
            ApiKey::ConsumerGroupHeartbeat => {
                let body = request.body::<ConsumerGroupHeartbeatRequest>().expect("a valid request");
                let is_revoked = now >= REVOKED_AT;
                let owns_nothing = body.topic_partitions.is_some_and(|owned| owned.is_empty());
                if is_revoked && owns_nothing {
                    self.released_at.get_or_insert(now);
                }
                let all = TopicPartitions::default().with_topic_id(topic_id(0)).with_partitions(vec![0]);
                let assigned = if is_revoked { Vec::new() } else { vec![all] };
                let response = ConsumerGroupHeartbeatResponse::default()
                    .with_member_epoch(1)
                    .with_heartbeat_interval_ms(INTERVAL.as_millis() as i32)
                    .with_assignment(Some(Assignment::default().with_topic_partitions(assigned)));
                answer::<ConsumerGroupHeartbeatRequest>(request, &response)
            }
            ApiKey::OffsetFetch => {
                let nothing = OffsetFetchResponsePartitions::default().with_committed_offset(-1);
                let topic = OffsetFetchResponseTopics::default().with_name(name()).with_partitions(vec![nothing]);
                let group = OffsetFetchResponseGroup::default()
                    .with_group_id(GroupId(StrBytes::from_static_str("g")))
                    .with_topics(vec![topic]);
                answer::<OffsetFetchRequest>(request, &OffsetFetchResponse::default().with_groups(vec![group]))
            }
            ApiKey::OffsetCommit => {
                let mut partition = OffsetCommitResponsePartition::default();
                if now >= REVOKED_AT {
                    self.refused_at.push(now);
                    partition.error_code = ErrorCode::CoordinatorLoadInProgress.code();
                }
                let topic = OffsetCommitResponseTopic::default().with_name(name()).with_partitions(vec![partition]);
                answer::<OffsetCommitRequest>(request, &OffsetCommitResponse::default().with_topics(vec![topic]))
            }
            _ => served.lock().expect("not poisoned").answer(request),
        }
    }
}

/// A member of the group until then: how many records it was handed, and what its coordinator saw.
fn consume(coordinator: Coordinator, until: Time) -> (usize, Coordinator) {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let (coordinator, served) = (shared(coordinator), served(0, &[(0, 10, 0)]));
    let of_script = coordinator.clone();
    let script = move |_: i32, request: &RequestFrame, now: Time| {
        of_script.lock().expect("not poisoned").answer(&served, request, now)
    };
    let records = simulate(&cluster, script, move |world, mut net| {
        Box::pin(async move {
            let mut config = ConsumerConfig { group_id: Some("g".to_owned()), ..ConsumerConfig::default() };
            let set =
                [("group.protocol", "consumer"), ("auto.offset.reset", "earliest"), ("max.poll.interval.ms", "2000")];
            set.iter().for_each(|(key, value)| config.set(key, value).expect("one of Kafka's"));
            let mut consumer = Consumer::new(&world, config, vec![address(1)]);
            consumer.subscribe(vec![TopicName(StrBytes::from_static_str("t"))]);
            let mut records = 0;
            while world.now() < until {
                records += consumer.poll(world.now(), &mut net).len();
                let next = world.now() + INTERVAL;
                while world.now() < next {
                    let deadline = consumer.deadline().map_or(next, |at| at.min(next));
                    match net.next(Some(deadline)).await {
                        Some(event) => {
                            consumer.on_event(&event, &mut net);
                        }
                        None => consumer.on_timer(&mut net),
                    }
                }
            }
            records
        })
    });
    let coordinator = std::mem::take(&mut *coordinator.lock().expect("not poisoned"));
    (records, coordinator)
}

#[test]
fn a_commit_before_a_rebalance_is_tried_until_the_rebalance_timeout_and_no_longer() {
    let (records, coordinator) = consume(Coordinator::default(), Time::from_millis(8_000));
    assert_eq!(records, 10);
    let released_at = coordinator.released_at.expect("it gives up in the end");
    let after = released_at.since(REVOKED_AT);
    assert!((Duration::from_secs(2)..Duration::from_millis(2_500)).contains(&after), "after {after:?}");
    let refused = &coordinator.refused_at;
    assert!(refused.len() > 3 && refused.iter().all(|at| *at <= released_at), "{refused:?}, released at {released_at}");
}

#[test]
fn a_coordinator_that_sends_members_away_is_not_looked_for_again_at_once() {
    let unavailable = Coordinator { is_unavailable: true, ..Coordinator::default() };
    let (records, coordinator) = consume(unavailable, Time::from_millis(1_000));
    // Every retry.backoff.ms.
    assert_eq!(records, 0);
    assert!((8..=10).contains(&coordinator.lookups), "{} lookups", coordinator.lookups);
}
