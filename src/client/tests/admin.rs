//! The admin client against scripted brokers.

use super::*;
use crate::client::{Admin, AdminOutcome, AdminResult, ClientError, NewTopic};
use crate::protocol::{ErrorCode, Offset, TopicPartition};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsRequest, DeleteRecordsResponse, ElectLeadersRequest,
    ElectLeadersResponse,
};

async fn finish(admin: &mut Admin, net: &mut Endpoint) -> Vec<AdminResult> {
    while admin.pending() > 0 {
        match net.next(admin.deadline()).await {
            Some(event) => {
                admin.on_event(&event, net);
            }
            None => admin.on_timer(net),
        }
    }
    admin.take_results().collect()
}

#[test]
fn a_topic_is_created_although_the_first_answers_are_lost() {
    let cluster = Cluster::new(&[1, 2], &[]);
    let mut attempts = 0;
    let script = move |_: i32, request: &RequestFrame, _: Time| {
        attempts += 1;
        let body = request.body::<CreateTopicsRequest>().expect("a valid request");
        let topic = &body.topics[0];
        assert_eq!((topic.num_partitions, topic.replication_factor), (3, 2));
        assert_eq!(topic.configs[0].name.as_str(), "min.insync.replicas");
        let result = |error| CreatableTopicResult::default().with_name(topic.name.clone()).with_error_code(error);
        let respond = |error| {
            answer::<CreateTopicsRequest>(request, &CreateTopicsResponse::default().with_topics(vec![result(error)]))
        };
        match attempts {
            1 => Answer::Disconnect,
            2 => respond(ErrorCode::NotController.code()),
            _ => respond(0),
        }
    };
    let results = simulate(&cluster, script, |world, mut net| {
        Box::pin(async move {
            let mut admin = Admin::new(&world, "admin", vec![address(1), address(2)]);
            let topic = NewTopic {
                name: "t".to_owned(),
                partitions: 3,
                replication_factor: 2,
                configs: [("min.insync.replicas".to_owned(), "2".to_owned())].into(),
            };
            admin.create_topics(world.now(), &[topic], &mut net);
            finish(&mut admin, &mut net).await
        })
    });
    let [AdminResult { outcome: Ok(AdminOutcome::TopicsCreated(topics)), .. }] = &results[..] else {
        panic!("{results:?}")
    };
    assert_eq!(topics[0].1, None);
}

#[test]
fn an_election_reports_every_partition() {
    let cluster = Cluster::new(&[1], &[]);
    let script = |_: i32, request: &RequestFrame, _: Time| {
        let body = request.body::<ElectLeadersRequest>().expect("a valid request");
        assert_eq!(body.election_type, 0);
        let asked = body.topic_partitions.expect("named partitions");
        assert_eq!((asked.len(), &asked[0].partitions), (1, &vec![0, 1]));
        let result =
            |(partition, error)| PartitionResult::default().with_partition_id(partition).with_error_code(error);
        let topic = ReplicaElectionResult::default()
            .with_topic(asked[0].topic.clone())
            .with_partition_result([(0, 0), (1, 84)].map(result).to_vec());
        answer::<ElectLeadersRequest>(
            request,
            &ElectLeadersResponse::default().with_replica_election_results(vec![topic]),
        )
    };
    let results = simulate(&cluster, script, |world, mut net| {
        Box::pin(async move {
            let mut admin = Admin::new(&world, "admin", vec![address(1)]);
            let partitions = [TopicPartition::new("t", 0), TopicPartition::new("t", 1)];
            admin.elect_leaders(world.now(), false, Some(&partitions), &mut net);
            finish(&mut admin, &mut net).await
        })
    });
    let [AdminResult { outcome: Ok(AdminOutcome::LeadersElected(partitions)), .. }] = &results[..] else {
        panic!("{results:?}")
    };
    let expected =
        [(TopicPartition::new("t", 0), None), (TopicPartition::new("t", 1), Some(ErrorCode::ElectionNotNeeded))];
    assert_eq!(partitions[..], expected);
}

#[test]
fn a_cluster_is_described_as_its_brokers_see_it() {
    let cluster = Cluster::new(&[1, 2], &[("t", &[(2, 7)])]);
    let results = simulate(
        &cluster,
        |_, _, _| unreachable!("metadata only"),
        |world, mut net| {
            Box::pin(async move {
                let mut admin = Admin::new(&world, "admin", vec![address(1)]);
                let topics = [TopicName(StrBytes::from_static_str("t"))];
                admin.describe(world.now(), Some(&topics), &mut net);
                finish(&mut admin, &mut net).await
            })
        },
    );
    let [AdminResult { outcome: Ok(AdminOutcome::Described(described)), .. }] = &results[..] else {
        panic!("{results:?}")
    };
    assert_eq!(described.brokers.len(), 2);
    assert_eq!((described.topics[0].partitions[0].leader_id.0, described.topics[0].partitions[0].leader_epoch), (2, 7));
}

#[test]
fn records_are_deleted_where_their_partitions_leaders_are() {
    let cluster = Cluster::new(&[1, 2], &[("t", &[(1, 3), (2, 3), (2, 3)])]);
    let asked = shared(Vec::new());
    let (calls, mut refusals) = (asked.clone(), 1);
    let script = move |id: i32, request: &RequestFrame, _: Time| {
        let body = request.body::<DeleteRecordsRequest>().expect("a valid request");
        let partitions = &body.topics[0].partitions;
        let offsets: Vec<(i32, i64)> = partitions.iter().map(|p| (p.partition_index, p.offset)).collect();
        calls.lock().unwrap().push((id, offsets));
        // The first to be asked leads no more, as it says once.
        let error = if std::mem::take(&mut refusals) > 0 { ErrorCode::NotLeaderOrFollower.code() } else { 0 };
        let result = |p: &DeleteRecordsPartition| {
            let code = if p.partition_index == 2 { ErrorCode::OffsetOutOfRange.code() } else { error };
            DeleteRecordsPartitionResult::default()
                .with_partition_index(p.partition_index)
                .with_low_watermark(p.offset)
                .with_error_code(code)
        };
        let topic = DeleteRecordsTopicResult::default()
            .with_name(body.topics[0].name.clone())
            .with_partitions(partitions.iter().map(result).collect());
        answer::<DeleteRecordsRequest>(request, &DeleteRecordsResponse::default().with_topics(vec![topic]))
    };
    let results = simulate(&cluster, script, |world, mut net| {
        Box::pin(async move {
            let mut admin = Admin::new(&world, "admin", vec![address(1)]);
            let offsets = (0..3).map(|index| (TopicPartition::new("t", index), Offset(10 + i64::from(index))));
            admin.delete_records(world.now(), offsets.collect(), &mut net);
            finish(&mut admin, &mut net).await
        })
    });
    let [AdminResult { outcome: Ok(AdminOutcome::RecordsDeleted(deleted)), .. }] = &results[..] else {
        panic!("{results:?}")
    };
    let results: Vec<_> = deleted.iter().map(|(_, result)| *result).collect();
    assert_eq!(results, [Ok(Offset(10)), Ok(Offset(11)), Err(ErrorCode::OffsetOutOfRange)]);
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked, [(1, vec![(0, 10)]), (2, vec![(1, 11), (2, 12)]), (1, vec![(0, 10)])]);
}

#[test]
fn a_call_that_nobody_answers_times_out() {
    let cluster = Cluster::new(&[1], &[]);
    let results = simulate(
        &cluster,
        |_, _, _| Answer::Never,
        |world, mut net| {
            Box::pin(async move {
                let mut admin = Admin::new(&world, "admin", vec![address(1)]);
                admin.elect_leaders(world.now(), false, None, &mut net);
                finish(&mut admin, &mut net).await
            })
        },
    );
    assert!(matches!(results[..], [AdminResult { outcome: Err(ClientError::Timeout), .. }]), "{results:?}");
}
