//! The idempotent producer against leaders that check sequences, and links that lose requests and answers.

use super::producer::{acknowledge, drive_for, finish, outcomes, produced, record, refuse};
use super::*;
use crate::client::{ClientError, DeliveryReport, Outcome, Producer};
use crate::config::ProducerConfig;
use crate::log::batch::Header;
use crate::log::compression::Compression;
use crate::protocol::{ErrorCode, Offset};
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProduceRequest};

const PRODUCER_ID: i64 = 42;

fn config() -> ProducerConfig {
    ProducerConfig { linger: Duration::ZERO, batch_size: 1, ..ProducerConfig::default() }
}

fn init(request: &RequestFrame, error: i16) -> Answer {
    let response = InitProducerIdResponse::default()
        .with_error_code(error)
        .with_producer_id(PRODUCER_ID.into())
        .with_producer_epoch(0);
    answer::<InitProducerIdRequest>(request, &response)
}

fn is_init(request: &RequestFrame) -> bool {
    request.api_key == ApiKey::InitProducerId as i16
}

/// What a batch says of its producer: epoch, first and last sequence.
fn stated(request: &RequestFrame) -> (i16, i32, i32) {
    let body = request.body::<ProduceRequest>().expect("a valid produce request");
    let records = body.topic_data[0].partition_data[0].records.clone().expect("records");
    let header = Header::parse(&records).expect("a batch");
    assert_eq!(header.producer_id, PRODUCER_ID);
    (header.producer_epoch, header.base_sequence, header.base_sequence + header.last_offset_delta)
}

/// The log of one partition whose leader knows one producer.
#[derive(Default)]
struct Leader {
    log: Vec<String>,
    epoch: i16,
    /// First and last sequence and first offset of its last five batches.
    batches: VecDeque<(i32, i32, i64)>,
}

impl Leader {
    fn append(&mut self, request: &RequestFrame) -> Result<i64, ErrorCode> {
        let (epoch, first, last) = stated(request);
        if epoch < self.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if epoch > self.epoch {
            *self = Leader { log: std::mem::take(&mut self.log), epoch, batches: VecDeque::new() };
        }
        if let Some((_, _, offset)) = self.batches.iter().find(|batch| (batch.0, batch.1) == (first, last)) {
            return Ok(*offset);
        }
        if first != self.batches.back().map_or(0, |batch| batch.1 + 1) {
            return Err(ErrorCode::OutOfOrderSequenceNumber);
        }
        let offset = self.log.len() as i64;
        self.log.extend(produced(request).into_iter().flat_map(|(_, values)| values));
        self.batches.push_back((first, last, offset));
        if self.batches.len() > 5 {
            self.batches.pop_front();
        }
        Ok(offset)
    }

    fn answer(&mut self, request: &RequestFrame) -> Answer {
        match self.append(request) {
            Ok(offset) => acknowledge(request, offset),
            Err(error) => refuse(request, error),
        }
    }
}

/// Sends `count` values, one every 3 ms, and finishes.
fn send(
    cluster: &Shared<Cluster>,
    config: ProducerConfig,
    count: usize,
    script: impl FnMut(i32, &RequestFrame, Time) -> Answer + Send + 'static,
) -> Vec<DeliveryReport> {
    simulate(cluster, script, move |world, mut net| {
        let config = config.clone();
        Box::pin(async move {
            let mut producer = Producer::new(&world, config, vec![address(1)]);
            let mut reports = Vec::new();
            for at in 0..count {
                producer.send(world.now(), record(0, &value(at)), &mut net);
                drive_for(&mut producer, &mut net, &world, Duration::from_millis(3)).await;
                reports.extend(producer.take_reports());
            }
            reports.extend(finish(&mut producer, &mut net).await);
            reports
        })
    })
}

/// Too long for two to share a batch.
fn value(at: usize) -> String {
    format!("{at:030}")
}

#[test]
fn whatever_the_link_loses_every_record_is_in_the_log_once_and_in_order() {
    for max_in_flight in [1, 5] {
        let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
        let leader = shared(Leader::default());
        let of_broker = leader.clone();
        let mut turn = 0_u64;
        let script = move |_: i32, request: &RequestFrame, _: Time| {
            if is_init(request) {
                return init(request, 0);
            }
            let mut leader = of_broker.lock().expect("not poisoned");
            turn += 1;
            match turn * 7 % 17 {
                0 => Answer::Disconnect,
                1 => {
                    leader.append(request).ok();
                    Answer::Disconnect
                }
                2 => {
                    leader.append(request).ok();
                    Answer::Never
                }
                3 => refuse(request, ErrorCode::NotEnoughReplicas),
                4 | 5 => {
                    leader.append(request).ok();
                    refuse(request, ErrorCode::NotEnoughReplicasAfterAppend)
                }
                _ => leader.answer(request),
            }
        };
        let config = ProducerConfig {
            max_in_flight_requests_per_connection: max_in_flight,
            request_timeout: Duration::from_millis(300),
            ..config()
        };
        let reports = send(&cluster, config, 200, script);
        let expected: Vec<String> = (0..200).map(value).collect();
        assert_eq!(leader.lock().expect("not poisoned").log, expected, "{max_in_flight} in flight");
        let mut offsets: Vec<_> = reports.iter().map(|r| (r.id.0, r.outcome)).collect();
        offsets.sort_by_key(|(id, _)| *id);
        let acknowledged = |at: u64| (at, Outcome::Ok { offset: Some(Offset(at as i64)) });
        assert_eq!(offsets, (0..200).map(acknowledged).collect::<Vec<_>>());
    }
}

#[test]
fn a_batch_that_is_too_large_is_sent_again_in_smaller_ones_until_they_fit() {
    // A batch has 61 bytes of its own, and 37 for each of these records.
    for (compression, max_bytes) in [(Compression::None, 61 + 3 * 37), (Compression::Lz4, 140)] {
        let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
        let leader = shared(Leader::default());
        let of_broker = leader.clone();
        let refused = shared(Vec::new());
        let of_script = refused.clone();
        let script = move |_: i32, request: &RequestFrame, _: Time| {
            if is_init(request) {
                return init(request, 0);
            }
            let body = request.body::<ProduceRequest>().expect("a valid produce request");
            let bytes = body.topic_data[0].partition_data[0].records.as_ref().expect("records").len();
            if bytes > max_bytes {
                of_script.lock().expect("not poisoned").push(bytes);
                return refuse(request, ErrorCode::MessageTooLarge);
            }
            of_broker.lock().expect("not poisoned").answer(request)
        };
        let config = ProducerConfig { batch_size: 16_384, linger: Duration::from_millis(100), compression, ..config() };
        let reports = send(&cluster, config, 60, script);
        let expected: Vec<String> = (0..60).map(value).collect();
        assert_eq!(leader.lock().expect("not poisoned").log, expected, "{compression:?}");
        assert!(reports.iter().all(|report| matches!(report.outcome, Outcome::Ok { offset: Some(_) })), "{reports:?}");
        let refused = refused.lock().expect("not poisoned");
        assert!(refused.len() > 1, "halved until they fit: {refused:?}");
    }
}

#[test]
fn a_record_that_is_too_large_by_itself_fails() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let mut sent = 0;
    let script = move |_: i32, request: &RequestFrame, _: Time| match is_init(request) {
        true => init(request, 0),
        false => {
            sent += 1;
            // Three records, then one by one, for what is left.
            assert!(sent <= 6);
            refuse(request, ErrorCode::MessageTooLarge)
        }
    };
    let config = ProducerConfig { batch_size: 16_384, linger: Duration::from_millis(100), ..config() };
    let failed = Outcome::Failed { error: ClientError::Broker(ErrorCode::MessageTooLarge) };
    assert_eq!(outcomes(&send(&cluster, config, 3, script)), [failed; 3]);
}

#[test]
fn nothing_is_sent_before_the_broker_has_an_id_to_give() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let leader = shared(Leader::default());
    let of_broker = leader.clone();
    let mut asked = 0;
    let script = move |_: i32, request: &RequestFrame, _: Time| {
        if !is_init(request) {
            assert_eq!(asked, 3);
            return of_broker.lock().expect("not poisoned").answer(request);
        }
        asked += 1;
        match asked {
            1 => init(request, ErrorCode::CoordinatorLoadInProgress.code()),
            2 => Answer::Disconnect,
            _ => init(request, 0),
        }
    };
    let reports = send(&cluster, config(), 3, script);
    assert_eq!(outcomes(&reports), [0, 1, 2].map(|at| Outcome::Ok { offset: Some(Offset(at)) }));
}

#[test]
fn without_idempotence_no_id_is_asked_for() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let config = ProducerConfig { enable_idempotence: false, ..config() };
    let reports = send(&cluster, config, 2, |_, request, _| {
        assert!(!is_init(request));
        acknowledge(request, 0)
    });
    assert_eq!(reports.len(), 2);
}

#[test]
fn a_leader_that_has_lost_acknowledged_records_gets_the_rest_in_order_in_a_new_epoch() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let leader = shared(Leader::default());
    let of_broker = leader.clone();
    let epochs = shared(Vec::new());
    let epochs_seen = epochs.clone();
    let mut requests = 0;
    let script = move |_: i32, request: &RequestFrame, _: Time| {
        if is_init(request) {
            return init(request, 0);
        }
        requests += 1;
        let mut leader = of_broker.lock().expect("not poisoned");
        if requests == 11 {
            // An election of a replica that lacks the last two.
            leader.log.truncate(8);
            let known = leader.batches.len() - 2;
            leader.batches.truncate(known);
        }
        epochs_seen.lock().expect("not poisoned").push(stated(request).0);
        leader.answer(request)
    };
    let reports = send(&cluster, config(), 20, script);
    let expected: Vec<String> = (0..8).chain(10..20).map(value).collect();
    assert_eq!(leader.lock().expect("not poisoned").log, expected);
    assert!(reports.iter().all(|report| matches!(report.outcome, Outcome::Ok { .. })));
    let epochs = epochs.lock().expect("not poisoned");
    assert!(epochs.is_sorted() && epochs.last() == Some(&1), "{epochs:?}");
}

#[test]
fn a_record_that_expired_unresolved_takes_none_of_the_later_ones_with_it() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let leader = shared(Leader::default());
    let of_broker = leader.clone();
    let script = move |_: i32, request: &RequestFrame, now: Time| {
        if is_init(request) {
            return init(request, 0);
        }
        // For four seconds nothing gets through.
        if now < Time::from_millis(4_000) {
            Answer::Disconnect
        } else {
            of_broker.lock().expect("not poisoned").answer(request)
        }
    };
    let config = ProducerConfig {
        request_timeout: Duration::from_millis(500),
        delivery_timeout: Duration::from_millis(3_950),
        ..config()
    };
    let reports = send(&cluster, config, 40, script);
    let unknown =
        reports.iter().filter(|r| matches!(r.outcome, Outcome::Unknown { error: ClientError::Timeout })).count();
    let acknowledged = reports.iter().filter(|r| matches!(r.outcome, Outcome::Ok { .. })).count();
    assert!(unknown > 0 && acknowledged > 0, "{unknown} and {acknowledged}");
    let log = &leader.lock().expect("not poisoned").log;
    assert!(log.is_sorted() && log.len() >= acknowledged, "{log:?}");
}

#[test]
fn a_batch_that_the_broker_will_never_take_does_not_hold_up_those_behind_it() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let leader = shared(Leader::default());
    let of_broker = leader.clone();
    let script = move |_: i32, request: &RequestFrame, _: Time| match is_init(request) {
        true => init(request, 0),
        false if produced(request)[0].1[0] == value(3) => refuse(request, ErrorCode::InvalidRecord),
        false => of_broker.lock().expect("not poisoned").answer(request),
    };
    let reports = send(&cluster, config(), 8, script);
    let refused = Outcome::Failed { error: ClientError::Broker(ErrorCode::InvalidRecord) };
    assert_eq!(reports.iter().filter(|r| r.outcome == refused).count(), 1);
    let expected: Vec<String> = [0, 1, 2, 4, 5, 6, 7].map(value).into();
    assert_eq!(leader.lock().expect("not poisoned").log, expected);
}

#[test]
fn a_producer_that_gets_no_id_for_good_fails_everything_that_it_is_given() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let reports = send(&cluster, config(), 3, |_, request, _| {
        assert!(is_init(request), "nothing is sent");
        init(request, ErrorCode::InvalidRequest.code())
    });
    assert_eq!(outcomes(&reports), [Outcome::Failed { error: ClientError::Broker(ErrorCode::InvalidRequest) }; 3]);
}

#[test]
fn a_duplicate_that_the_broker_knows_by_its_sequence_only_is_acknowledged_without_an_offset() {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let reports = send(&cluster, config(), 1, |_, request, _| match is_init(request) {
        true => init(request, 0),
        false => refuse(request, ErrorCode::DuplicateSequenceNumber),
    });
    assert_eq!(outcomes(&reports), [Outcome::Ok { offset: None }]);
}
