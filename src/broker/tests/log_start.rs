//! Offsets by time, and what DeleteRecords leaves.

use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::{DeleteRecordsRequest, FindCoordinatorRequest, ListOffsetsResponse};

use super::*;
use crate::coordinator;

const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;

impl Client {
    /// ListOffsets for one timestamp; (error code, offset, timestamp).
    async fn offset_at(&mut self, from: i32, timestamp: i64) -> (i16, i64, i64) {
        let partition = ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
        let topic = ListOffsetsTopic::default().with_name(topic_name()).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
        let response: ListOffsetsResponse = self.call(from, 9, &request).await.unwrap();
        let partition = &response.topics[0].partitions[0];
        (partition.error_code, partition.offset, partition.timestamp)
    }

    /// DeleteRecords up to `offset`; (error code, low watermark).
    async fn delete_records(&mut self, to: i32, offset: i64, timeout_ms: i32) -> (i16, i64) {
        self.delete_records_of(topic_name(), to, offset, timeout_ms).await
    }

    async fn delete_records_of(&mut self, topic: TopicName, to: i32, offset: i64, timeout_ms: i32) -> (i16, i64) {
        let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
        let topic = DeleteRecordsTopic::default().with_name(topic).with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(timeout_ms);
        let response = self.call(to, 2, &request).await.unwrap();
        let partition = &response.topics[0].partitions[0];
        (partition.error_code, partition.low_watermark)
    }

    /// What a reader of the time from `from` to `until` gets: it begins where the first is found, and stops at the
    /// first record that is not before the second.
    async fn read_between(&mut self, leader: i32, topic_id: Uuid, from: i64, until: i64) -> Vec<(i64, i64)> {
        let (_, start, _) = self.offset_at(leader, from).await;
        let (_, end, _) = self.offset_at(leader, until).await;
        let data = self.fetch(leader, topic_id, start).await;
        let mut records = data.records.unwrap_or_default();
        let sets = RecordBatchDecoder::decode_all(&mut records).unwrap();
        let all = sets.iter().flat_map(|set| set.records.iter().map(|r| (r.offset, r.timestamp)));
        all.filter(|(offset, _)| end < 0 || *offset < end).collect()
    }
}

#[test]
fn offsets_are_found_by_time_and_a_time_range_can_be_read() {
    with_cluster(11, quick(), |mut client| async move {
        let leader = client.create_topic(&[]).await;
        let (topic_id, _) = client.partition_when(|_| true).await;
        for timestamp in [100, 50, 300, 200, 300, 400] {
            client.produce_surely(-1, timestamp).await;
        }
        assert_eq!(client.offset_at(leader, 0).await, (0, 0, 100));
        assert_eq!(client.offset_at(leader, 101).await, (0, 2, 300), "the first that is late enough");
        assert_eq!(client.offset_at(leader, 301).await, (0, 5, 400));
        assert_eq!(client.offset_at(leader, 401).await, (0, -1, -1), "there is none");
        assert_eq!(client.offset_at(leader, MAX_TIMESTAMP).await, (0, 5, 400));
        assert_eq!(client.offset_at(leader, EARLIEST).await, (0, 0, -1));
        let other = leader % BROKERS + 1;
        assert_eq!(client.offset_at(other, 0).await.0, ErrorCode::NotLeaderOrFollower.code());
        let read = client.read_between(leader, topic_id, 101, 400).await;
        assert_eq!(read, [(2, 300), (3, 200), (4, 300)]);
    });
}

#[test]
fn nobody_is_told_of_a_record_that_is_not_committed_by_its_time() {
    let config = BrokerConfig { min_insync_replicas: 1, ..quick() };
    with_cluster(12, config, |mut client| async move {
        let leader = client.create_topic(&[]).await;
        client.produce_surely(-1, 100).await;
        client.order(Order::Isolate(leader));
        client.sleep(Duration::from_millis(10)).await;
        // The client still reaches the leader.
        assert_eq!(client.produce(leader, 1, 200).await, Some((0, 1)));
        assert_eq!(client.offset_at(leader, 150).await, (0, -1, -1));
        assert_eq!(client.offset_at(leader, 50).await, (0, 0, 100));
    });
}

#[test]
fn deleted_records_are_gone_on_every_replica_and_from_every_query() {
    with_cluster(13, quick(), |mut client| async move {
        let leader = client.create_topic(&[]).await;
        let (topic_id, _) = client.partition_when(|_| true).await;
        for timestamp in [100, 200, 300, 400, 500] {
            client.produce_surely(-1, timestamp).await;
        }
        assert_eq!(client.delete_records(leader, 3, 5_000).await, (0, 3));
        assert_eq!(client.offset_at(leader, EARLIEST).await, (0, 3, -1));
        assert_eq!(client.offset_at(leader, 0).await, (0, 3, 400), "no query by time finds what was deleted");
        assert_eq!(client.fetch(leader, topic_id, 2).await.error_code, ErrorCode::OffsetOutOfRange.code());
        assert_eq!(client.fetch(leader, topic_id, 3).await.log_start_offset, 3);
        // It was answered when all had followed: whoever leads next begins there too.
        client.order(Order::Kill(leader));
        let next = client.leader_other_than(leader).await;
        assert_eq!(client.offset_at(next, EARLIEST).await, (0, 3, -1));
        let moved = |reason| {
            client.saw(move |_, what| matches!(what, Observation::LogStartMoved { to: Offset(3), reason: r, .. } if *r == reason))
        };
        assert!(moved(crate::observe::LogStartReason::DeleteRecords) && moved(crate::observe::LogStartReason::Leader));
    });
}

#[test]
fn deletions_that_make_no_sense_are_refused_and_those_that_all_must_follow_wait() {
    with_cluster(14, quick(), |mut client| async move {
        let leader = client.create_topic(&[]).await;
        for number in 0..4 {
            client.produce_surely(-1, number).await;
        }
        let refused = |code: ErrorCode| (code.code(), -1);
        assert_eq!(client.delete_records(leader, 5, 5_000).await, refused(ErrorCode::OffsetOutOfRange));
        let follower = leader % BROKERS + 1;
        assert_eq!(client.delete_records(follower, 1, 5_000).await, refused(ErrorCode::NotLeaderOrFollower));
        // A live replica that does not follow holds the answer up, until the request's time is over.
        client.order(Order::Isolate(follower));
        client.sleep(Duration::from_millis(10)).await;
        assert_eq!(client.delete_records(leader, 1, 200).await, refused(ErrorCode::RequestTimedOut));
        // Once it counts as dead nobody waits for it; -1 is the high watermark.
        client.sleep(Duration::from_millis(4_000)).await;
        assert_eq!(client.delete_records(leader, -1, 5_000).await, (0, 4));
    });
}

/// POLICY_VIOLATION is for topics that are compacted only, of which `__consumer_offsets` is one; internal comes first.
#[test]
fn records_of_an_internal_or_an_unknown_topic_cannot_be_deleted() {
    with_cluster(15, quick(), |mut client| async move {
        let leader = client.create_topic(&[("cleanup.policy", "compact")]).await;
        let refused = |code: ErrorCode| (code.code(), -1);
        assert_eq!(client.delete_records(leader, 0, 5_000).await, refused(ErrorCode::PolicyViolation));
        let offsets = TopicName(StrBytes::from_static_str(coordinator::TOPIC));
        let deleted = client.delete_records_of(offsets.clone(), leader, 0, 5_000).await;
        assert_eq!(deleted, refused(ErrorCode::UnknownTopicOrPartition), "nobody has asked for a coordinator yet");
        let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![StrBytes::from_static_str("group")]);
        while client.call(leader, 4, &find).await.unwrap().coordinators[0].error_code != 0 {
            client.sleep(Duration::from_millis(50)).await;
        }
        for broker in 1..=BROKERS {
            let deleted = client.delete_records_of(offsets.clone(), broker, 0, 5_000).await;
            assert_eq!(deleted, refused(ErrorCode::InvalidTopicException), "whoever leads it");
        }
    });
}
