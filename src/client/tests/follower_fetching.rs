//! The consumer and the replica that its leader sends it to (KIP-392).

use super::consumer::{Served, partition, poll_until, served};
use super::*;
use crate::client::{Consumer, PositionReset, ResetReason};
use crate::config::{ConsumerConfig, OffsetReset};
use crate::defect::{Defect, Defects};
use crate::protocol::{ErrorCode, Offset};

fn config(auto_offset_reset: OffsetReset) -> ConsumerConfig {
    ConsumerConfig { client_rack: "b".to_owned(), auto_offset_reset, ..ConsumerConfig::default() }
}

fn lock(served: &Shared<Served>) -> std::sync::MutexGuard<'_, Served> {
    served.lock().expect("not poisoned")
}

/// Reads from `position` on for so long, where broker 1 leads and broker 2 follows: offsets, resets.
fn read(
    [leader, follower]: [&Shared<Served>; 2],
    config: ConsumerConfig,
    position: i64,
    limit: Duration,
) -> (Vec<i64>, Vec<PositionReset>) {
    let cluster = Cluster::new(&[1, 2], &[("t", &[(1, 0)])]);
    let of_script = [leader.clone(), follower.clone()];
    let script = move |broker: i32, request: &RequestFrame, _: Time| {
        lock(&of_script[usize::try_from(broker - 1).expect("a broker of the cluster")]).answer(request)
    };
    simulate(&cluster, script, move |world, mut net| {
        let config = config.clone();
        Box::pin(async move {
            let mut consumer = Consumer::new(&world, config, vec![address(1)]);
            consumer.assign(vec![partition()], &mut net);
            consumer.take_errors();
            consumer.seek(&partition(), Offset(position));
            let records = poll_until(&mut consumer, &mut net, &world, usize::MAX, limit).await;
            assert_eq!(consumer.take_errors().count(), 0);
            (records.iter().map(|r| r.offset.0).collect(), consumer.take_resets().collect())
        })
    })
}

#[test]
fn it_stays_with_the_replica_until_metadata_max_age_has_passed() {
    let (leader, follower) = (served(0, &[(0, 10, 0)]), served(0, &[(0, 10, 0)]));
    lock(&leader).refers_to = Some((2, usize::MAX));
    let config = ConsumerConfig { metadata_max_age: Duration::from_millis(1_900), ..config(OffsetReset::Earliest) };
    let (offsets, _) = read([&leader, &follower], config, 0, Duration::from_secs(5));
    assert_eq!(offsets, (0..10).collect::<Vec<_>>());
    let (of_leader, of_follower) = (lock(&leader).fetches, lock(&follower).fetches);
    assert_eq!(of_leader, 3, "at the beginning, after two seconds and after four");
    assert!((9..=12).contains(&of_follower), "{of_follower} fetches of half a second, and one with records");
}

#[test]
fn without_a_rack_nobody_is_preferred() {
    let (leader, follower) = (served(0, &[(0, 10, 0)]), served(0, &[]));
    lock(&leader).refers_to = Some((2, usize::MAX));
    let config = ConsumerConfig { client_rack: String::new(), ..config(OffsetReset::Earliest) };
    let (offsets, _) = read([&leader, &follower], config, 0, Duration::from_secs(2));
    assert_eq!((offsets.len(), lock(&follower).fetches), (10, 0));
}

/// The leader has 0 to 24, the follower nothing below 20; the leader sends the consumer there once.
fn read_below_the_followers_log_start(policy: OffsetReset, defects: Defects) -> (Vec<i64>, Vec<PositionReset>) {
    let (leader, follower) = (served(0, &[(0, 20, 0), (20, 5, 0)]), served(20, &[(20, 5, 0)]));
    lock(&leader).refers_to = Some((2, 1));
    let config = ConsumerConfig { defects, ..config(policy) };
    let read = read([&leader, &follower], config, 10, Duration::from_secs(2));
    assert_eq!(lock(&follower).fetches, 1);
    read
}

#[test]
fn a_followers_out_of_range_sends_it_back_to_the_leader_with_its_position() {
    let rest: Vec<i64> = (10..25).collect();
    for policy in [OffsetReset::Earliest, OffsetReset::Latest, OffsetReset::None] {
        assert_eq!(read_below_the_followers_log_start(policy, Defects::NONE), (rest.clone(), vec![]), "{policy:?}");
    }
    let believes = Defects::NONE.with(Defect::FollowerOutOfRangeResets);
    let reset = |to| {
        let (from, to, reason) = (Offset(10), Offset(to), ResetReason::OutOfRange);
        vec![PositionReset { partition: partition(), from, to, reason }]
    };
    let again = read_below_the_followers_log_start(OffsetReset::Earliest, believes);
    assert_eq!(again, ((0..25).collect(), reset(0)), "what it has read");
    assert_eq!(read_below_the_followers_log_start(OffsetReset::Latest, believes), (vec![], reset(25)));
}

#[test]
fn errors_that_tell_of_a_wrong_address_send_it_back_to_the_leader() {
    let goes_back = [ErrorCode::NotLeaderOrFollower, ErrorCode::KafkaStorageError, ErrorCode::UnknownTopicId];
    for (error, goes_back) in goes_back
        .map(|error| (error, true))
        .into_iter()
        .chain([(ErrorCode::UnknownLeaderEpoch, false), (ErrorCode::UnknownServerError, false)])
    {
        let (leader, follower) = (served(0, &[(0, 10, 0)]), served(0, &[(0, 10, 0)]));
        lock(&leader).refers_to = Some((2, 1));
        lock(&follower).fetch_error = Some(error);
        let (offsets, resets) = read([&leader, &follower], config(OffsetReset::Latest), 0, Duration::from_secs(2));
        assert_eq!((offsets.len(), resets), (if goes_back { 10 } else { 0 }, vec![]), "{error:?}");
    }
}

#[test]
fn a_fetch_that_fails_sends_it_back_to_the_leader() {
    let leader = served(0, &[(0, 10, 0)]);
    lock(&leader).refers_to = Some((2, 1));
    let cluster = Cluster::new(&[1, 2], &[("t", &[(1, 0)])]);
    let of_leader = leader.clone();
    let script = move |broker: i32, request: &RequestFrame, _: Time| match broker {
        1 => lock(&of_leader).answer(request),
        _ => Answer::Disconnect,
    };
    let offsets = simulate(&cluster, script, |world, mut net| {
        Box::pin(async move {
            let mut consumer = Consumer::new(&world, config(OffsetReset::Earliest), vec![address(1)]);
            consumer.assign(vec![partition()], &mut net);
            let records = poll_until(&mut consumer, &mut net, &world, 10, Duration::from_secs(2)).await;
            records.iter().map(|r| r.offset.0).collect::<Vec<_>>()
        })
    });
    assert_eq!(offsets, (0..10).collect::<Vec<_>>());
}
