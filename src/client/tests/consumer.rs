//! The consumer against scripted brokers that hold a log of batches in hand.

use super::*;
use crate::client::records::tests::batch;
use crate::client::{ClientError, Consumer, ConsumerError, ConsumerRecord, PositionReset, ResetReason};
use crate::config::{ConsumerConfig, OffsetReset};
use crate::protocol::{ErrorCode, Offset, TopicPartition};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{
    FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
};

/// What one broker would serve of partition 0 of topic `t`.
#[derive(Default)]
pub(super) struct Served {
    pub log_start: i64,
    /// (base offset, records, leader epoch), contiguous.
    batches: Vec<(i64, i64, i32)>,
    /// Answer of every fetch instead of data.
    pub fetch_error: Option<ErrorCode>,
    /// Where a consumer that stands in a rack is sent, so many times.
    pub refers_to: Option<(i32, usize)>,
    /// Applied to the bytes of each fetch.
    damage: Option<fn(Bytes) -> Bytes>,
    pub fetches: usize,
}

impl Served {
    fn log_end(&self) -> i64 {
        self.batches.last().map_or(self.log_start, |(base, count, _)| base + count)
    }

    /// Where the last epoch not above `epoch` ends.
    fn epoch_end(&self, epoch: i32) -> (i32, i64) {
        let upto = self.batches.iter().rev().find(|(_, _, e)| *e <= epoch);
        upto.map_or((-1, -1), |(base, count, e)| (*e, base + count))
    }

    pub fn answer(&mut self, request: &RequestFrame) -> Answer {
        match ApiKey::try_from(request.api_key).expect("decoded already") {
            ApiKey::Fetch => self.fetch(request),
            ApiKey::ListOffsets => self.list_offsets(request),
            ApiKey::OffsetForLeaderEpoch => self.offset_for_leader_epoch(request),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn fetch(&mut self, request: &RequestFrame) -> Answer {
        self.fetches += 1;
        let body = request.body::<FetchRequest>().expect("a valid request");
        let asked = &body.topics[0].partitions[0];
        assert_eq!(body.topics[0].topic_id, topic_id(0));
        if let Some((replica, times)) = self.refers_to.filter(|(_, times)| *times > 0 && !body.rack_id.is_empty()) {
            self.refers_to = Some((replica, times - 1));
            let partition = PartitionData::default()
                .with_partition_index(asked.partition)
                .with_preferred_read_replica(replica.into())
                .with_records(Some(Bytes::new()));
            let topic = FetchableTopicResponse::default().with_topic_id(topic_id(0)).with_partitions(vec![partition]);
            return answer::<FetchRequest>(request, &FetchResponse::default().with_responses(vec![topic]));
        }
        let error = match self.fetch_error {
            None if asked.fetch_offset < self.log_start || asked.fetch_offset > self.log_end() => 1,
            None => 0,
            Some(error) => error.code(),
        };
        let of_interest = self.batches.iter().filter(|(base, count, _)| base + count > asked.fetch_offset);
        let records: Vec<u8> = of_interest.flat_map(|&(base, count, epoch)| batch(base, count, epoch, false)).collect();
        let mut records = Bytes::from(if error == 0 { records } else { Vec::new() });
        if let Some(damage) = self.damage {
            records = damage(records);
        }
        let is_empty = records.is_empty();
        let partition = PartitionData::default()
            .with_partition_index(asked.partition)
            .with_error_code(error)
            .with_high_watermark(self.log_end())
            .with_records(Some(records));
        let topic = FetchableTopicResponse::default().with_topic_id(topic_id(0)).with_partitions(vec![partition]);
        let now = answer::<FetchRequest>(request, &FetchResponse::default().with_responses(vec![topic]));
        match now {
            Answer::Now(frame) if is_empty && error == 0 => {
                Answer::After(Duration::from_millis(u64::try_from(body.max_wait_ms).expect("not negative")), frame)
            }
            other => other,
        }
    }

    fn list_offsets(&self, request: &RequestFrame) -> Answer {
        let body = request.body::<ListOffsetsRequest>().expect("a valid request");
        let asked = &body.topics[0].partitions[0];
        let offset = if asked.timestamp == -2 { self.log_start } else { self.log_end() };
        let partition =
            ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index).with_offset(offset);
        let topic =
            ListOffsetsTopicResponse::default().with_name(body.topics[0].name.clone()).with_partitions(vec![partition]);
        answer::<ListOffsetsRequest>(request, &ListOffsetsResponse::default().with_topics(vec![topic]))
    }

    fn offset_for_leader_epoch(&self, request: &RequestFrame) -> Answer {
        let body = request.body::<OffsetForLeaderEpochRequest>().expect("a valid request");
        assert_eq!(body.replica_id.0, -1);
        let asked = &body.topics[0].partitions[0];
        let (epoch, end) = self.epoch_end(asked.leader_epoch);
        let result =
            EpochEndOffset::default().with_partition(asked.partition).with_leader_epoch(epoch).with_end_offset(end);
        let topic = OffsetForLeaderTopicResult::default()
            .with_topic(body.topics[0].topic.clone())
            .with_partitions(vec![result]);
        answer::<OffsetForLeaderEpochRequest>(
            request,
            &OffsetForLeaderEpochResponse::default().with_topics(vec![topic]),
        )
    }
}

pub(super) fn served(log_start: i64, batches: &[(i64, i64, i32)]) -> Shared<Served> {
    shared(Served { log_start, batches: batches.to_vec(), ..Served::default() })
}

fn script(served: &Shared<Served>) -> impl FnMut(i32, &RequestFrame, Time) -> Answer + Send + 'static {
    let served = served.clone();
    move |_, request, _| served.lock().expect("not poisoned").answer(request)
}

fn config(reset: OffsetReset) -> ConsumerConfig {
    ConsumerConfig { auto_offset_reset: reset, ..ConsumerConfig::default() }
}

pub(super) fn partition() -> TopicPartition {
    TopicPartition::new("t", 0)
}

/// Polls until `enough` records came or `limit` has passed.
pub(super) async fn poll_until(
    consumer: &mut Consumer,
    net: &mut Endpoint,
    world: &World,
    enough: usize,
    limit: Duration,
) -> Vec<ConsumerRecord> {
    let end = world.now() + limit;
    let mut records = consumer.poll(world.now(), net);
    while records.len() < enough && world.now() < end {
        let deadline = consumer.deadline().map_or(end, |at| at.min(end));
        match net.next(Some(deadline)).await {
            Some(event) => {
                consumer.on_event(&event, net);
            }
            None => consumer.on_timer(net),
        }
        while consumer.has_fetched() {
            let polled = consumer.poll(world.now(), net);
            assert!(polled.len() <= 500);
            records.extend(polled);
        }
    }
    records
}

/// Assigns the partition and polls for `enough` records, or two seconds.
fn read(
    served: &Shared<Served>,
    config: ConsumerConfig,
    enough: usize,
) -> (Vec<i64>, Vec<ConsumerError>, Vec<PositionReset>, Option<Offset>) {
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    simulate(&cluster, script(served), move |world, mut net| {
        let config = config.clone();
        Box::pin(async move {
            let mut consumer = Consumer::new(&world, config, vec![address(1)]);
            consumer.assign(vec![partition()], &mut net);
            let records = poll_until(&mut consumer, &mut net, &world, enough, Duration::from_secs(2)).await;
            let offsets = records.iter().map(|r| r.offset.0).collect();
            let (errors, resets) = (consumer.take_errors().collect(), consumer.take_resets().collect());
            (offsets, errors, resets, consumer.position(&partition()))
        })
    })
}

#[test]
fn the_whole_log_is_read_in_order_from_the_log_start() {
    let served = served(5, &[(5, 600, 0), (605, 3, 1), (608, 400, 1)]);
    let (offsets, errors, resets, position) = read(&served, config(OffsetReset::Earliest), 1003);
    assert_eq!(offsets, (5..1008).collect::<Vec<_>>());
    assert_eq!((errors, resets, position), (vec![], vec![], Some(Offset(1008))));
}

#[test]
fn latest_starts_at_the_end() {
    let served = served(0, &[(0, 10, 0)]);
    let (offsets, errors, _, position) = read(&served, config(OffsetReset::Latest), 1);
    assert_eq!((offsets, errors, position), (vec![], vec![], Some(Offset(10))));
}

#[test]
fn without_a_policy_a_missing_position_is_an_error_told_once() {
    let served = served(0, &[(0, 10, 0)]);
    let (offsets, errors, ..) = read(&served, config(OffsetReset::None), 1);
    assert_eq!((offsets, errors), (vec![], vec![ConsumerError::NoOffsetForPartition { partition: partition() }]));
}

#[test]
fn an_idle_consumer_waits_at_the_broker_and_does_not_spin() {
    let served = served(0, &[]);
    read(&served, config(OffsetReset::Earliest), 1);
    let fetches = served.lock().expect("not poisoned").fetches;
    assert!((3..=5).contains(&fetches), "{fetches} fetches in two seconds of fetch.max.wait.ms=500");
}

#[test]
fn a_sought_position_is_read_from_and_a_batch_around_it_is_cut() {
    let served = served(0, &[(0, 10, 0)]);
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let offsets = simulate(&cluster, script(&served), |world, mut net| {
        Box::pin(async move {
            let mut consumer = Consumer::new(&world, config(OffsetReset::None), vec![address(1)]);
            // Before anything is sent: assign alone would report the missing position.
            consumer.assign(vec![], &mut net);
            consumer.assign(vec![partition()], &mut net);
            assert!(consumer.seek(&partition(), Offset(7)));
            assert!(!consumer.seek(&TopicPartition::new("t", 1), Offset(7)));
            let records = poll_until(&mut consumer, &mut net, &world, 3, Duration::from_secs(2)).await;
            records.iter().map(|r| r.offset.0).collect::<Vec<_>>()
        })
    });
    assert_eq!(offsets, [7, 8, 9]);
}

/// Reads at a position out of range, under a reset policy.
fn read_out_of_range(policy: OffsetReset, enough: usize) -> (Vec<i64>, Vec<ConsumerError>, Vec<PositionReset>) {
    let served = served(20, &[(20, 5, 0)]);
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    simulate(&cluster, script(&served), move |world, mut net| {
        Box::pin(async move {
            let mut consumer = Consumer::new(&world, config(policy), vec![address(1)]);
            consumer.assign(vec![partition()], &mut net);
            consumer.take_errors();
            consumer.seek(&partition(), Offset(10));
            let records = poll_until(&mut consumer, &mut net, &world, enough, Duration::from_secs(2)).await;
            let offsets = records.iter().map(|r| r.offset.0).collect();
            (offsets, consumer.take_errors().collect(), consumer.take_resets().collect())
        })
    })
}

#[test]
fn a_position_out_of_range_is_reset_by_policy_or_reported() {
    let reset =
        |to| vec![PositionReset { partition: partition(), from: Offset(10), to, reason: ResetReason::OutOfRange }];
    assert_eq!(read_out_of_range(OffsetReset::Earliest, 5), ((20..25).collect(), vec![], reset(Offset(20))));
    assert_eq!(read_out_of_range(OffsetReset::Latest, 1), (vec![], vec![], reset(Offset(25))));
    let error = ConsumerError::OffsetOutOfRange { partition: partition(), position: Offset(10) };
    assert_eq!(read_out_of_range(OffsetReset::None, 1), (vec![], vec![error], vec![]));
}

/// Reads offsets 0..100 of epoch 0 from broker 1; then broker 2 leads epoch 1 with the log cut to 50 and ten new
/// records. The consumer learns of it by NOT_LEADER_OR_FOLLOWER.
fn read_over_a_truncation(policy: OffsetReset) -> (Vec<i64>, Vec<ConsumerError>, Vec<PositionReset>) {
    let old = served(0, &[(0, 50, 0), (50, 50, 0)]);
    let new = served(0, &[(0, 50, 0), (50, 60, 1)]);
    let cluster = Cluster::new(&[1, 2], &[("t", &[(1, 0)])]);
    let (of_client, of_script) = (cluster.clone(), (old.clone(), new));
    let script = move |broker: i32, request: &RequestFrame, _: Time| match broker {
        1 => of_script.0.lock().expect("not poisoned").answer(request),
        _ => of_script.1.lock().expect("not poisoned").answer(request),
    };
    simulate(&cluster, script, move |world, mut net| {
        let (cluster, old) = (of_client.clone(), old.clone());
        Box::pin(async move {
            let mut consumer = Consumer::new(&world, config(policy), vec![address(1)]);
            consumer.assign(vec![partition()], &mut net);
            consumer.take_errors();
            consumer.seek(&partition(), Offset(0));
            let before = poll_until(&mut consumer, &mut net, &world, 100, Duration::from_secs(2)).await;
            assert_eq!(before.len(), 100);
            cluster.lock().expect("not poisoned").topics = vec![("t", vec![(2, 1)])];
            old.lock().expect("not poisoned").fetch_error = Some(ErrorCode::NotLeaderOrFollower);
            let after = poll_until(&mut consumer, &mut net, &world, 60, Duration::from_secs(3)).await;
            let offsets = after.iter().map(|r| r.offset.0).collect();
            (offsets, consumer.take_errors().collect(), consumer.take_resets().collect())
        })
    })
}

#[test]
fn a_truncation_below_the_position_moves_it_to_where_the_logs_part() {
    let moved =
        PositionReset { partition: partition(), from: Offset(100), to: Offset(50), reason: ResetReason::Truncation };
    assert_eq!(read_over_a_truncation(OffsetReset::Earliest), ((50..110).collect(), vec![], vec![moved]));
}

#[test]
fn a_truncation_below_the_position_is_reported_without_a_policy() {
    let error = ConsumerError::LogTruncation {
        partition: partition(),
        position: Offset(100),
        divergent: Some((Offset(50), crate::protocol::LeaderEpoch(0))),
    };
    assert_eq!(read_over_a_truncation(OffsetReset::None), (vec![], vec![error], vec![]));
}

#[test]
fn a_corrupt_batch_is_reported_once_and_not_passed_over() {
    let served = served(0, &[(0, 3, 0), (3, 3, 0)]);
    served.lock().expect("not poisoned").damage = Some(|records| {
        let mut damaged = records.to_vec();
        let last = damaged.len() - 2;
        damaged[last] ^= 1;
        Bytes::from(damaged)
    });
    let (offsets, errors, _, position) = read(&served, config(OffsetReset::Earliest), 6);
    assert_eq!((offsets, position), (vec![0, 1, 2], Some(Offset(3))));
    assert!(
        matches!(&errors[..], [ConsumerError::CorruptRecords { position: Offset(3), .. }]),
        "one error at offset 3: {errors:?}"
    );
    assert_eq!(served.lock().expect("not poisoned").fetches, 1);
}

#[test]
fn offset_lookups_answer_for_log_start_and_end() {
    let served = served(20, &[(20, 5, 0)]);
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let answers = simulate(&cluster, script(&served), |world, mut net| {
        Box::pin(async move {
            let mut consumer = Consumer::new(&world, config(OffsetReset::Earliest), vec![address(1)]);
            let end = consumer.end_offsets(world.now(), &[partition()], &mut net);
            let beginning = consumer.beginning_offsets(world.now(), &[partition()], &mut net);
            let mut answers = Vec::new();
            while answers.len() < 2 {
                poll_until(&mut consumer, &mut net, &world, 1, Duration::from_millis(10)).await;
                answers.extend(consumer.take_lookups());
            }
            answers.sort_by_key(|a| a.id);
            assert_eq!(answers.iter().map(|a| a.id).collect::<Vec<_>>(), [end, beginning]);
            answers.into_iter().map(|a| a.result).collect::<Vec<_>>()
        })
    });
    assert_eq!(answers, [25, 20].map(|o| Ok(vec![(partition(), Offset(o))])));
}

#[test]
fn an_offset_lookup_for_a_topic_that_does_not_exist_times_out() {
    let served = served(0, &[]);
    let cluster = Cluster::new(&[1], &[]);
    let answer = simulate(&cluster, script(&served), |world, mut net| {
        Box::pin(async move {
            let mut consumer = Consumer::new(&world, config(OffsetReset::Earliest), vec![address(1)]);
            consumer.end_offsets(world.now(), &[partition()], &mut net);
            loop {
                if let Some(answer) = consumer.take_lookups().next() {
                    break answer.result;
                }
                match net.next(consumer.deadline()).await {
                    Some(event) => {
                        consumer.on_event(&event, &mut net);
                    }
                    None => consumer.on_timer(&mut net),
                }
            }
        })
    });
    assert_eq!(answer, Err(ClientError::Timeout));
}

#[test]
fn a_disconnected_fetch_is_made_again() {
    let served = served(0, &[(0, 10, 0)]);
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let mut of_served = script(&served);
    let mut fetches = 0;
    let script = move |broker: i32, request: &RequestFrame, now: Time| {
        fetches += usize::from(request.api_key == ApiKey::Fetch as i16);
        if fetches == 1 && request.api_key == ApiKey::Fetch as i16 {
            return Answer::Disconnect;
        }
        of_served(broker, request, now)
    };
    let offsets = simulate(&cluster, script, |world, mut net| {
        Box::pin(async move {
            let mut consumer = Consumer::new(&world, config(OffsetReset::Earliest), vec![address(1)]);
            consumer.assign(vec![partition()], &mut net);
            let records = poll_until(&mut consumer, &mut net, &world, 10, Duration::from_secs(5)).await;
            records.iter().map(|r| r.offset.0).collect::<Vec<_>>()
        })
    });
    assert_eq!(offsets, (0..10).collect::<Vec<_>>());
}

#[test]
fn of_a_paused_partition_nothing_is_handed_out_or_fetched_until_it_is_resumed() {
    let served = served(0, &[(0, 10, 0)]);
    let cluster = Cluster::new(&[1], &[("t", &[(1, 0)])]);
    let (first, paused, fetches, rest) = simulate(&cluster, script(&served), {
        let served = served.clone();
        move |world, mut net| {
            let served = served.clone();
            Box::pin(async move {
                let config = ConsumerConfig { max_poll_records: 4, ..config(OffsetReset::Earliest) };
                let mut consumer = Consumer::new(&world, config, vec![address(1)]);
                consumer.assign(vec![partition()], &mut net);
                let mut first = Vec::new();
                while first.is_empty() {
                    match net.next(consumer.deadline()).await {
                        Some(event) => {
                            consumer.on_event(&event, &mut net);
                        }
                        None => consumer.on_timer(&mut net),
                    }
                    first = consumer.poll(world.now(), &mut net);
                }
                assert_eq!(consumer.assignment(), [partition()]);
                consumer.pause(&[partition()]);
                let before = served.lock().expect("not poisoned").fetches;
                let paused = poll_until(&mut consumer, &mut net, &world, 1, Duration::from_secs(2)).await.len();
                let fetches = served.lock().expect("not poisoned").fetches - before;
                consumer.resume(&[partition()]);
                let rest = poll_until(&mut consumer, &mut net, &world, 6, Duration::from_secs(2)).await;
                (first.len(), paused, fetches, rest.iter().map(|record| record.offset.0).collect::<Vec<_>>())
            })
        }
    });
    // What was fetched before waits.
    assert_eq!((first, paused, fetches, rest), (4, 0, 0, vec![4, 5, 6, 7, 8, 9]));
}
