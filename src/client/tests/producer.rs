//! The producer against scripted brokers.

use super::*;
use crate::client::{ClientError, DeliveryReport, Outcome, Producer, ProducerRecord, RecordId};
use crate::config::{Acks, ProducerConfig};
use crate::protocol::{ErrorCode, Offset};
use kafka_protocol::messages::produce_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use kafka_protocol::records::RecordBatchDecoder;

fn config(acks: Acks) -> ProducerConfig {
    ProducerConfig { acks, enable_idempotence: false, linger: Duration::ZERO, ..ProducerConfig::default() }
}

pub(super) fn record(partition: i32, value: &str) -> ProducerRecord {
    ProducerRecord {
        topic: TopicName(StrBytes::from_static_str("t")),
        partition: Some(partition),
        key: None,
        value: Some(Bytes::from(value.to_owned())),
        headers: Vec::new(),
        timestamp_ms: None,
    }
}

/// Values of which a batch of `batch.size=1` takes only one: a batch has always room for what its first record may
/// need at most.
const LONG: &[&str] = &[
    "a-----------------------------",
    "b-----------------------------",
    "c-----------------------------",
    "d-----------------------------",
    "e-----------------------------",
];

/// Runs the producer until nothing is pending.
pub(super) async fn finish(producer: &mut Producer, net: &mut Endpoint) -> Vec<DeliveryReport> {
    let mut reports: Vec<DeliveryReport> = producer.take_reports().collect();
    while producer.pending() > 0 {
        match net.next(producer.deadline()).await {
            Some(event) => {
                producer.on_event(&event, net);
            }
            None => producer.on_timer(net),
        }
        reports.extend(producer.take_reports());
    }
    reports
}

/// Runs the producer for a while, finished or not.
pub(super) async fn drive_for(producer: &mut Producer, net: &mut Endpoint, world: &World, duration: Duration) {
    let end = world.now() + duration;
    while world.now() < end {
        let deadline = producer.deadline().map_or(end, |at| at.min(end));
        match net.next(Some(deadline)).await {
            Some(event) => {
                producer.on_event(&event, net);
            }
            None => producer.on_timer(net),
        }
    }
}

/// Runs the producer until the first record has its partition.
async fn until_assigned(producer: &mut Producer, net: &mut Endpoint) {
    while producer.take_assigned().next().is_none() {
        match net.next(producer.deadline()).await {
            Some(event) => assert!(producer.on_event(&event, net)),
            None => producer.on_timer(net),
        }
    }
}

/// Values per partition in a produce request.
pub(super) fn produced(request: &RequestFrame) -> Vec<(i32, Vec<String>)> {
    let body = request.body::<ProduceRequest>().expect("a valid produce request");
    let partitions = body.topic_data.iter().flat_map(|t| &t.partition_data);
    let values = |records: &Bytes| {
        let set = RecordBatchDecoder::decode(&mut records.clone()).expect("one valid batch");
        set.records
            .iter()
            .map(|r| String::from_utf8(r.value.clone().expect("a value").to_vec()).expect("text"))
            .collect()
    };
    partitions.map(|p| (p.index, values(p.records.as_ref().expect("records")))).collect()
}

fn response_to(request: &RequestFrame, answers: impl Fn(i32) -> (i16, i64)) -> ProduceResponse {
    let answer = |partition: i32| {
        let (error, offset) = answers(partition);
        PartitionProduceResponse::default().with_index(partition).with_error_code(error).with_base_offset(offset)
    };
    let answers = produced(request).into_iter().map(|(partition, _)| answer(partition)).collect();
    let topic = TopicProduceResponse::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_partition_responses(answers);
    ProduceResponse::default().with_responses(vec![topic])
}

pub(super) fn acknowledge(request: &RequestFrame, offset: i64) -> Answer {
    answer::<ProduceRequest>(request, &response_to(request, |_| (0, offset)))
}

pub(super) fn refuse(request: &RequestFrame, error: ErrorCode) -> Answer {
    answer::<ProduceRequest>(request, &response_to(request, |_| (error.code(), -1)))
}

pub(super) fn outcomes(reports: &[DeliveryReport]) -> Vec<Outcome> {
    reports.iter().map(|r| r.outcome).collect()
}

/// Sends `values` to partition 0 at once and returns every report.
fn send_all(
    cluster: &Shared<Cluster>,
    config: ProducerConfig,
    values: &'static [&'static str],
    script: impl FnMut(i32, &RequestFrame, Time) -> Answer + Send + 'static,
) -> Vec<DeliveryReport> {
    simulate(cluster, script, move |world, mut net| {
        let config = config.clone();
        Box::pin(async move {
            let mut producer = Producer::new(&world, config, vec![address(1)]);
            for value in values {
                producer.send(world.now(), record(0, value), &mut net);
            }
            finish(&mut producer, &mut net).await
        })
    })
}

#[test]
fn acknowledged_records_know_their_offsets() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let reports = send_all(&cluster, config(Acks::All), &["a", "b", "c"], |_, request, _| acknowledge(request, 40));
    let offsets = [40, 41, 42].map(|o| Outcome::Ok { offset: Some(Offset(o)) });
    assert_eq!(outcomes(&reports), offsets);
    assert_eq!(reports[2].partition.as_ref().expect("assigned").to_string(), "t-0");
    assert_eq!(reports.iter().map(|r| r.id).collect::<Vec<_>>(), [RecordId(0), RecordId(1), RecordId(2)]);
}

#[test]
fn without_acks_a_record_is_done_when_it_is_handed_to_the_network() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let seen = shared(Vec::new());
    let of_broker = seen.clone();
    let reports = send_all(&cluster, config(Acks::Zero), &["a"], move |_, request, _| {
        of_broker.lock().expect("not poisoned").extend(produced(request));
        Answer::Never
    });
    assert_eq!(outcomes(&reports), [Outcome::Ok { offset: None }]);
}

/// What a broker does with successive attempts, and what the record's outcome then is.
#[test]
fn a_failed_send_is_unknown_once_any_attempt_may_be_in_the_log() {
    #[derive(Clone, Copy)]
    enum Attempt {
        Refuse(ErrorCode),
        Disconnect,
        Silent,
    }
    use Attempt::{Disconnect, Refuse, Silent};
    use ErrorCode::{
        CorruptMessage, MessageTooLarge, NetworkException, NotEnoughReplicas, NotEnoughReplicasAfterAppend,
        NotLeaderOrFollower, RequestTimedOut, UnknownServerError,
    };
    let failed = |code| Outcome::Failed { error: ClientError::Broker(code) };
    let unknown = |code| Outcome::Unknown { error: ClientError::Broker(code) };
    let cases: &[(Acks, &'static [Attempt], Outcome)] = &[
        (Acks::All, &[Refuse(NotEnoughReplicas)], failed(NotEnoughReplicas)),
        (Acks::All, &[Refuse(NotEnoughReplicas), Refuse(NotEnoughReplicas)], failed(NotEnoughReplicas)),
        (Acks::All, &[Disconnect, Refuse(NotEnoughReplicas)], unknown(NotEnoughReplicas)),
        (Acks::All, &[Refuse(NotEnoughReplicasAfterAppend)], unknown(NotEnoughReplicasAfterAppend)),
        (Acks::All, &[Refuse(NotEnoughReplicasAfterAppend), Refuse(CorruptMessage)], unknown(CorruptMessage)),
        (Acks::One, &[Refuse(MessageTooLarge)], failed(MessageTooLarge)),
        (Acks::One, &[Refuse(UnknownServerError)], unknown(UnknownServerError)),
        (Acks::One, &[Refuse(NotLeaderOrFollower)], failed(NotLeaderOrFollower)),
        (Acks::All, &[Refuse(NotLeaderOrFollower)], unknown(NotLeaderOrFollower)),
        (Acks::One, &[Silent], unknown(RequestTimedOut)),
        (Acks::One, &[Silent, Refuse(MessageTooLarge)], unknown(MessageTooLarge)),
        (Acks::One, &[Disconnect], unknown(NetworkException)),
    ];
    for (index, &(acks, attempts, expected)) in cases.iter().enumerate() {
        let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
        let config = ProducerConfig { retries: attempts.len() as u32 - 1, ..config(acks) };
        let mut turn = 0;
        let reports = send_all(&cluster, config, &["a"], move |_, request, _| {
            turn += 1;
            match attempts[turn - 1] {
                Refuse(error) => refuse(request, error),
                Disconnect => Answer::Disconnect,
                Silent => Answer::Never,
            }
        });
        assert_eq!(outcomes(&reports), [expected], "case {index}");
    }
}

#[test]
fn an_error_that_cannot_be_mended_is_not_retried() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let attempts = shared(0);
    let of_broker = attempts.clone();
    let reports = send_all(&cluster, config(Acks::All), &["a"], move |_, request, _| {
        *of_broker.lock().expect("not poisoned") += 1;
        refuse(request, ErrorCode::InvalidRecord)
    });
    assert_eq!(outcomes(&reports), [Outcome::Failed { error: ClientError::Broker(ErrorCode::InvalidRecord) }]);
    assert_eq!(*attempts.lock().expect("not poisoned"), 1);
}

#[test]
fn delivery_timeout_fails_what_was_never_sent_and_leaves_unknown_what_was() {
    let config = || ProducerConfig { delivery_timeout: Duration::from_secs(5), ..config(Acks::All) };
    let leaderless = Cluster::new(&[1], &[("t", &[(-1, 0)])]);
    let reports = send_all(&leaderless, config(), &["a"], |_, _, _| unreachable!("nobody leads"));
    assert_eq!(outcomes(&reports), [Outcome::Failed { error: ClientError::Timeout }]);

    let silent = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let reports = send_all(&silent, config(), &["a"], |_, _, _| Answer::Never);
    assert_eq!(outcomes(&reports), [Outcome::Unknown { error: ClientError::Timeout }]);
}

#[test]
fn delivery_timeout_counts_from_the_batchs_creation_over_all_attempts() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let config = ProducerConfig { delivery_timeout: Duration::from_secs(5), ..config(Acks::One) };
    let elapsed = simulate(
        &cluster,
        |_, request, _| refuse(request, ErrorCode::NotEnoughReplicas),
        move |world, mut net| {
            let config = config.clone();
            Box::pin(async move {
                let mut producer = Producer::new(&world, config, vec![address(1)]);
                producer.send(world.now(), record(0, "a"), &mut net);
                until_assigned(&mut producer, &mut net).await;
                let created = world.now();
                let reports = finish(&mut producer, &mut net).await;
                (world.now() - created, outcomes(&reports))
            })
        },
    );
    let failed = vec![Outcome::Failed { error: ClientError::Timeout }];
    assert_eq!(elapsed, (Duration::from_secs(5), failed));
}

/// The first request of partition 0 is refused; later ones succeed. Returns the order in the log.
fn log_after_one_refusal(max_in_flight: usize) -> Vec<String> {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let config = ProducerConfig { max_in_flight_requests_per_connection: max_in_flight, ..config(Acks::All) };
    let log = shared(Vec::new());
    let of_broker = log.clone();
    let mut is_first = true;
    let script = move |_: i32, request: &RequestFrame, _: Time| {
        if std::mem::take(&mut is_first) {
            return refuse(request, ErrorCode::NotEnoughReplicas);
        }
        let mut log = of_broker.lock().expect("not poisoned");
        let offset = log.len() as i64;
        log.extend(produced(request).into_iter().flat_map(|(_, values)| values));
        acknowledge(request, offset)
    };
    let reports = simulate(&cluster, script, move |world, mut net| {
        let config = config.clone();
        Box::pin(async move {
            let mut producer = Producer::new(&world, config, vec![address(1)]);
            producer.send(world.now(), record(0, "a"), &mut net);
            // Its batch is on the way and closed.
            until_assigned(&mut producer, &mut net).await;
            producer.send(world.now(), record(0, "b"), &mut net);
            finish(&mut producer, &mut net).await
        })
    });
    assert_eq!(reports.len(), 2);
    log.lock().expect("not poisoned").clone()
}

#[test]
fn a_retry_overtakes_nothing_with_one_request_in_flight_and_reorders_with_five() {
    assert_eq!(log_after_one_refusal(1), ["a", "b"]);
    assert_eq!(log_after_one_refusal(5), ["b", "a"]);
}

#[test]
fn batches_in_flight_at_a_disconnect_come_back_reversed_as_in_kafka_without_idempotence() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let log = shared(Vec::new());
    let of_broker = log.clone();
    let mut requests = 0;
    let script = move |_: i32, request: &RequestFrame, _: Time| {
        requests += 1;
        match requests {
            1 | 2 => Answer::Never,
            3 => Answer::Disconnect,
            _ => {
                of_broker.lock().expect("not poisoned").extend(produced(request).into_iter().flat_map(|(_, v)| v));
                acknowledge(request, 0)
            }
        }
    };
    let config = ProducerConfig { batch_size: 1, ..config(Acks::All) };
    send_all(&cluster, config, &LONG[..3], script);
    assert_eq!(*log.lock().expect("not poisoned"), [LONG[2], LONG[1], LONG[0]]);
}

#[test]
fn max_in_flight_bounds_the_requests_on_a_connection() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0), (1, 0), (1, 0)])]);
    for max_in_flight in [1, 2] {
        let most = shared((0, 0));
        let of_broker = most.clone();
        let config =
            ProducerConfig { max_in_flight_requests_per_connection: max_in_flight, batch_size: 1, ..config(Acks::One) };
        let mut answered_at = Vec::new();
        let reports = send_all(&cluster, config, LONG, move |_, request, now| {
            answered_at.retain(|&at: &Time| at > now);
            answered_at.push(now + Duration::from_millis(20));
            let mut most = of_broker.lock().expect("not poisoned");
            *most = (most.0.max(answered_at.len()), most.1 + 1);
            let Answer::Now(frame) = acknowledge(request, 0) else { unreachable!("answers at once") };
            Answer::After(Duration::from_millis(20), frame)
        });
        assert_eq!(reports.len(), 5);
        assert_eq!(*most.lock().expect("not poisoned"), (max_in_flight, 5));
    }
}

#[test]
fn records_within_linger_share_a_batch_and_partitions_of_a_broker_share_a_request() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0), (1, 0)])]);
    let requests = shared(Vec::new());
    let of_broker = requests.clone();
    let script = move |_: i32, request: &RequestFrame, _: Time| {
        of_broker.lock().expect("not poisoned").push(produced(request));
        acknowledge(request, 0)
    };
    simulate(&cluster, script, |world, mut net| {
        Box::pin(async move {
            let config = ProducerConfig { linger: Duration::from_millis(50), ..config(Acks::All) };
            let mut producer = Producer::new(&world, config, vec![address(1)]);
            for (partition, value) in [(0, "a"), (1, "b"), (0, "c")] {
                producer.send(world.now(), record(partition, value), &mut net);
                drive_for(&mut producer, &mut net, &world, Duration::from_millis(5)).await;
            }
            finish(&mut producer, &mut net).await
        })
    });
    let text = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
    assert_eq!(*requests.lock().expect("not poisoned"), [vec![(0, text(&["a", "c"])), (1, text(&["b"]))]]);
}

#[test]
fn without_metadata_a_send_fails_after_max_block() {
    let cluster = Cluster::new(&[1], &[]);
    let config = ProducerConfig { max_block: Duration::from_secs(3), ..config(Acks::All) };
    let reports = send_all(&cluster, config, &["a", "b"], |_, _, _| unreachable!("nothing to send"));
    assert_eq!(outcomes(&reports), [Outcome::Failed { error: ClientError::Timeout }; 2]);
    assert!(reports.iter().all(|r| r.partition.is_none()));
}

#[test]
fn a_topic_that_appears_within_max_block_gets_the_records_that_waited_in_order() {
    let cluster = Cluster::new(&[1], &[]);
    let of_client = cluster.clone();
    let log = shared(Vec::new());
    let of_broker = log.clone();
    let script = move |_: i32, request: &RequestFrame, _: Time| {
        of_broker.lock().expect("not poisoned").extend(produced(request).into_iter().flat_map(|(_, v)| v));
        acknowledge(request, 0)
    };
    simulate(&cluster, script, move |world, mut net| {
        let cluster = of_client.clone();
        Box::pin(async move {
            let mut producer = Producer::new(&world, config(Acks::All), vec![address(1)]);
            for value in ["a", "b", "c"] {
                producer.send(world.now(), record(0, value), &mut net);
            }
            drive_for(&mut producer, &mut net, &world, Duration::from_secs(2)).await;
            assert_eq!(producer.take_assigned().count(), 0);
            cluster.lock().expect("not poisoned").topics.push(("t", vec![(1, 0)]));
            finish(&mut producer, &mut net).await;
            assert_eq!(producer.take_assigned().map(|(id, _)| id.0).collect::<Vec<_>>(), [0, 1, 2]);
        })
    });
    assert_eq!(*log.lock().expect("not poisoned"), ["a", "b", "c"]);
}

#[test]
fn records_beyond_buffer_memory_wait_their_turn_and_are_then_sent_in_order() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let log = shared(Vec::new());
    let of_broker = log.clone();
    let config = ProducerConfig { batch_size: 90, buffer_memory: 200, ..config(Acks::All) };
    let values = &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let reports = send_all(&cluster, config, values, move |_, request, _| {
        let mut log = of_broker.lock().expect("not poisoned");
        let offset = log.len() as i64;
        log.extend(produced(request).into_iter().flat_map(|(_, v)| v));
        acknowledge(request, offset)
    });
    assert_eq!(*log.lock().expect("not poisoned"), *values);
    assert!(reports.iter().all(|r| matches!(r.outcome, Outcome::Ok { .. })));
}

#[test]
fn a_full_buffer_that_never_drains_fails_the_send_after_max_block() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let config = ProducerConfig {
        batch_size: 1,
        buffer_memory: 200,
        max_block: Duration::from_secs(1),
        delivery_timeout: Duration::from_secs(10),
        ..config(Acks::All)
    };
    let reports = send_all(&cluster, config, &LONG[..2], |_, _, _| Answer::Never);
    assert_eq!(
        outcomes(&reports),
        [Outcome::Failed { error: ClientError::BufferExhausted }, Outcome::Unknown { error: ClientError::Timeout },]
    );
}

#[test]
fn a_record_larger_than_a_request_fails_at_once() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let config = ProducerConfig { max_request_size: 80, ..config(Acks::All) };
    let reports = send_all(&cluster, config, &["a"], |_, _, _| unreachable!("nothing fits"));
    assert_eq!(outcomes(&reports), [Outcome::Failed { error: ClientError::RecordTooLarge }]);
}

#[test]
fn the_leader_named_in_an_error_is_asked_without_backoff() {
    let cluster = Cluster::new(&[1, 2], &[("t", &[(1, 0)])]);
    let asked = shared(Vec::new());
    let of_broker = asked.clone();
    let script = move |broker: i32, request: &RequestFrame, now: Time| {
        of_broker.lock().expect("not poisoned").push((broker, now));
        if broker == 2 {
            return acknowledge(request, 7);
        }
        let mut response = response_to(request, |_| (ErrorCode::NotLeaderOrFollower.code(), -1));
        response.responses[0].partition_responses[0].current_leader =
            LeaderIdAndEpoch::default().with_leader_id(2.into()).with_leader_epoch(1);
        response.node_endpoints = vec![
            NodeEndpoint::default()
                .with_node_id(2.into())
                .with_host(StrBytes::from_string(machine(2)))
                .with_port(i32::from(PORT)),
        ];
        answer::<ProduceRequest>(request, &response)
    };
    let reports = send_all(&cluster, config(Acks::One), &["a"], script);
    assert_eq!(outcomes(&reports), [Outcome::Ok { offset: Some(Offset(7)) }]);
    let asked = asked.lock().expect("not poisoned");
    assert_eq!(asked.iter().map(|(broker, _)| *broker).collect::<Vec<_>>(), [1, 2]);
    assert!(asked[1].1 - asked[0].1 < Duration::from_millis(50), "retry.backoff.ms is 100 with 20 % jitter");
}

#[test]
fn a_leader_change_is_found_through_metadata() {
    let cluster = Cluster::new(&[1, 2], &[("t", &[(1, 0)])]);
    let of_broker = cluster.clone();
    let script = move |broker: i32, request: &RequestFrame, _: Time| match broker {
        1 => {
            of_broker.lock().expect("not poisoned").topics = vec![("t", vec![(2, 1)])];
            refuse(request, ErrorCode::NotLeaderOrFollower)
        }
        _ => acknowledge(request, 0),
    };
    let reports = send_all(&cluster, config(Acks::All), &["a"], script);
    assert_eq!(outcomes(&reports), [Outcome::Ok { offset: Some(Offset(0)) }]);
}

#[test]
fn closing_fails_what_waits_and_finishes_what_is_batched() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let reports = simulate(
        &cluster,
        |_, request, _| acknowledge(request, 0),
        |world, mut net| {
            Box::pin(async move {
                let config = ProducerConfig { linger: Duration::from_secs(100), ..config(Acks::All) };
                let mut producer = Producer::new(&world, config, vec![address(1)]);
                producer.send(world.now(), record(0, "a"), &mut net);
                drive_for(&mut producer, &mut net, &world, Duration::from_secs(1)).await;
                producer.send(world.now(), record(9, "no such partition"), &mut net);
                producer.close(&mut net);
                producer.send(world.now(), record(0, "too late"), &mut net);
                finish(&mut producer, &mut net).await
            })
        },
    );
    let closed = Outcome::Failed { error: ClientError::Closed };
    assert_eq!(outcomes(&reports), [closed, closed, Outcome::Ok { offset: Some(Offset(0)) }]);
}

#[test]
fn aborting_leaves_unknown_what_is_in_flight_and_fails_the_rest() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let reports = simulate(
        &cluster,
        |_, _, _| Answer::Never,
        |world, mut net| {
            Box::pin(async move {
                let config = ProducerConfig { max_in_flight_requests_per_connection: 1, ..config(Acks::All) };
                let mut producer = Producer::new(&world, config, vec![address(1)]);
                producer.send(world.now(), record(0, "a"), &mut net);
                drive_for(&mut producer, &mut net, &world, Duration::from_secs(1)).await;
                producer.send(world.now(), record(0, "b"), &mut net);
                producer.abort();
                assert_eq!(producer.pending(), 0);
                producer.take_reports().collect::<Vec<_>>()
            })
        },
    );
    let error = ClientError::Closed;
    assert_eq!(outcomes(&reports), [Outcome::Unknown { error }, Outcome::Failed { error }]);
}

/// Broker 1's answers are a fixed mixture of every kind; returns the reports of 300 records.
fn reports_under_mixed_answers() -> Vec<DeliveryReport> {
    let cluster = Cluster::new(&[1, 2], &[("t", &[(1, 0), (2, 0), (1, 0)])]);
    let mut turn = 0_u64;
    let script = move |_: i32, request: &RequestFrame, _: Time| {
        turn += 1;
        match turn * 7 % 11 {
            0 => Answer::Never,
            1 => Answer::Disconnect,
            2 => refuse(request, ErrorCode::NotEnoughReplicas),
            3 => refuse(request, ErrorCode::NotLeaderOrFollower),
            4 => refuse(request, ErrorCode::NotEnoughReplicasAfterAppend),
            5 => refuse(request, ErrorCode::InvalidRecord),
            _ => acknowledge(request, 0),
        }
    };
    simulate(&cluster, script, |world, mut net| {
        Box::pin(async move {
            let config = ProducerConfig {
                batch_size: 100,
                request_timeout: Duration::from_secs(1),
                delivery_timeout: Duration::from_secs(4),
                ..config(Acks::All)
            };
            let mut producer = Producer::new(&world, config, vec![address(1), address(2)]);
            let mut reports = Vec::new();
            for i in 0..300 {
                let record = ProducerRecord { partition: None, ..record(0, &format!("value-{i}")) };
                producer.send(world.now(), record, &mut net);
                drive_for(&mut producer, &mut net, &world, Duration::from_millis(3)).await;
                reports.extend(producer.take_reports());
            }
            reports.extend(finish(&mut producer, &mut net).await);
            reports
        })
    })
}

#[test]
fn every_record_gets_exactly_one_report_and_equal_seeds_give_equal_reports() {
    let reports = reports_under_mixed_answers();
    let mut ids: Vec<u64> = reports.iter().map(|r| r.id.0).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..300).collect::<Vec<_>>());
    let count = |kind: fn(&Outcome) -> bool| reports.iter().filter(|r| kind(&r.outcome)).count();
    assert!(count(|o| matches!(o, Outcome::Ok { .. })) > 0);
    assert!(count(|o| matches!(o, Outcome::Failed { .. })) > 0);
    assert!(count(|o| matches!(o, Outcome::Unknown { .. })) > 0);
    assert_eq!(reports, reports_under_mixed_answers());
}
