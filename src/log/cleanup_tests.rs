//! What leaves a log at its beginning, and when segments roll and flush by time; timestamps.

use bytes::Bytes;

use super::testing::*;
use super::{AppendError, CleanupPolicy, DropReason, Dropped, Log, LogConfig, LogStartMove, ReadError, TimestampType};
use crate::observe::LogStartReason;
use crate::protocol::{ErrorCode, LeaderEpoch, Offset, TopicPartition};
use crate::world::{Disk, Time};

const SEGMENT_0: &str = "data/orders-0/00000000000000000000.log";

fn on_fresh_disk(test: impl FnOnce(Disk)) {
    Machine::run(|machine| async move { test(machine.disk()) });
}

fn append_at(log: &mut Log, timestamp: i64, wall_clock_ms: i64) -> Offset {
    let appended = log.append_from_client(&batch_at(&[timestamp], 100), LeaderEpoch(1), wall_clock_ms).unwrap();
    appended.base_offset
}

fn segments(log: &Log) -> Vec<i64> {
    log.segments.iter().map(|segment| segment.base_offset().0).collect()
}

#[test]
fn a_segment_rolls_by_the_time_of_its_records_not_by_the_clock() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig { segment_ms: 1_000, ..LogConfig::default() });
        append_at(&mut log, 5_000, 0);
        append_at(&mut log, 6_000, 90_000);
        append_at(&mut log, 4_000, 90_000);
        assert_eq!(segments(&log), [0], "whatever the clock says");
        append_at(&mut log, 6_001, 90_000);
        assert_eq!(segments(&log), [0, 3]);
        // Records without timestamps go by the clock.
        let (mut directory, _) = open_directory(&disk, &LogConfig::default());
        let config = LogConfig { segment_ms: 1_000, ..LogConfig::default() };
        let mut log = directory.create_log(&TopicPartition::new("plain", 0), TOPIC_ID, config).unwrap();
        for (wall_clock_ms, expected) in [(100, vec![0]), (1_100, vec![0]), (1_101, vec![0, 2])] {
            append_at(&mut log, -1, wall_clock_ms);
            assert_eq!(segments(&log), expected, "{wall_clock_ms}");
        }
    });
}

#[test]
fn a_full_index_rolls_the_segment() {
    on_fresh_disk(|disk| {
        // Four entries in the offset index, one for each batch but the first.
        let config = LogConfig { segment_index_bytes: 36, index_interval_bytes: 0, ..LogConfig::default() };
        let (_, mut log) = create(&disk, &config);
        for _ in 0..6 {
            append(&mut log, 1, 1);
        }
        assert_eq!(segments(&log), [0, 5]);
        // Three in the time index, of which one is kept for when the segment is sealed.
        for timestamp in [2_000, 2_001, 2_002, 2_003] {
            append_at(&mut log, timestamp, 0);
        }
        assert_eq!(segments(&log), [0, 5, 8]);
    });
}

#[test]
fn retention_by_time_goes_by_the_largest_timestamp_of_a_segment() {
    on_fresh_disk(|disk| {
        let config = LogConfig { retention_ms: 1_000, ..small_segments() };
        let (_, mut log) = create(&disk, &config);
        for timestamp in [100, 900, 200, 300, 400] {
            append_at(&mut log, timestamp, 0);
        }
        assert_eq!(segments(&log), [0, 2, 4]);
        log.set_high_watermark(Offset(5));
        assert!(log.delete_old_segments(Time::ZERO, 1_900).unwrap().is_empty(), "900 is not too old yet");
        let moved = |from, to, reason| LogStartMove { from: Offset(from), to: Offset(to), reason };
        let moves = log.delete_old_segments(Time::ZERO, 1_901).unwrap();
        assert_eq!(moves, [moved(0, 5, LogStartReason::RetentionTime)], "the younger ones behind it are old too");
        assert_eq!((log.log_start(), log.log_end(), segments(&log)), (Offset(5), Offset(5), vec![5]));
        assert_eq!(log.epochs().entries(), [(LeaderEpoch(1), Offset(5))]);
        assert!(log.delete_old_segments(Time::ZERO, i64::MAX).unwrap().is_empty(), "an empty log stays as it is");
    });
}

#[test]
fn a_timestamp_far_ahead_keeps_its_segment_and_all_behind_it() {
    on_fresh_disk(|disk| {
        let config = LogConfig { retention_ms: 1_000, ..small_segments() };
        let (_, mut log) = create(&disk, &config);
        for timestamp in [i64::MAX / 2, 100, 200, 200, 200] {
            append_at(&mut log, timestamp, 0);
        }
        log.set_high_watermark(log.log_end());
        assert!(log.delete_old_segments(Time::ZERO, 1_000_000).unwrap().is_empty());
    });
}

#[test]
fn retention_by_size_leaves_at_least_so_much() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &small_segments());
        for _ in 0..7 {
            append(&mut log, 1, 1);
        }
        log.set_high_watermark(Offset(7));
        let batch_bytes = log.size_bytes() as i64 / 7;
        log.set_config(LogConfig { retention_bytes: 3 * batch_bytes + 1, ..small_segments() });
        let moves = log.delete_old_segments(Time::ZERO, 0).unwrap();
        let (from, to, reason) = (Offset(0), Offset(2), LogStartReason::RetentionSize);
        assert_eq!(moves, [LogStartMove { from, to, reason }]);
        assert_eq!(segments(&log), [2, 4, 6]);
    });
}

#[test]
fn retention_stops_at_the_high_watermark() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig { retention_bytes: 0, retention_ms: 0, ..small_segments() });
        for _ in 0..5 {
            append(&mut log, 1, 1);
        }
        log.set_high_watermark(Offset(3));
        log.delete_old_segments(Time::ZERO, i64::MAX).unwrap();
        assert_eq!((log.log_start(), segments(&log)), (Offset(2), vec![2, 4]));
    });
}

#[test]
fn a_compacted_log_deletes_only_what_lies_below_its_start() {
    on_fresh_disk(|disk| {
        let cleanup_policy = CleanupPolicy::Compact;
        let (_, mut log) = create(&disk, &LogConfig { retention_bytes: 0, cleanup_policy, ..small_segments() });
        for _ in 0..5 {
            log.append_from_client(&keyed_batch(&[("k", Some(&"v".repeat(100)))], 0), LeaderEpoch(1), 0).unwrap();
        }
        log.set_high_watermark(Offset(5));
        assert!(log.delete_old_segments(Time::ZERO, i64::MAX).unwrap().is_empty());
        log.increment_log_start(Offset(3), LogStartReason::Leader).unwrap();
        assert!(log.delete_old_segments(Time::ZERO, i64::MAX).unwrap().is_empty(), "the log start stays");
        assert_eq!((log.log_start(), segments(&log)), (Offset(3), vec![2, 4]));
    });
}

#[test]
fn files_of_deleted_segments_stay_a_while_under_another_name() {
    Machine::run(|machine| async move {
        let config = LogConfig { retention_bytes: 0, file_delete_delay_ms: 500, ..small_segments() };
        let (_, mut log) = create(&machine.disk(), &config);
        for _ in 0..4 {
            append(&mut log, 1, 1);
        }
        log.flush().unwrap();
        log.set_high_watermark(Offset(3));
        log.delete_old_segments(Time::from_millis(1_000), 0).unwrap();
        let deleted = |disk: &Disk| {
            disk.read_dir("data/orders-0").unwrap().into_iter().filter(|n| n.ends_with(".deleted")).count()
        };
        assert_eq!(deleted(&machine.disk()), 3, "log, index and time index");
        assert_eq!(log.remove_deleted_files(Time::from_millis(1_499)).unwrap(), Some(Time::from_millis(1_500)));
        assert_eq!(deleted(&machine.disk()), 3);
        assert_eq!(log.remove_deleted_files(Time::from_millis(1_500)).unwrap(), None);
        assert_eq!(deleted(&machine.disk()), 0);
        // What a broker leaves behind is removed at the next start; what was deleted stays deleted.
        let disk = machine.lose_power().await;
        let (_, log, _) = reopen(&disk, &config);
        assert_eq!((log.log_start(), segments(&log), deleted(&disk)), (Offset(2), vec![2], 0));
    });
}

#[test]
fn a_log_start_within_a_segment_survives_by_its_checkpoint() {
    Machine::run(|machine| async move {
        let (mut directory, mut log) = create(&machine.disk(), &small_segments());
        for epoch in 1..=3 {
            append(&mut log, 2, epoch);
        }
        log.flush().unwrap();
        log.set_high_watermark(Offset(5));
        let moved = log.increment_log_start(Offset(3), LogStartReason::DeleteRecords).unwrap();
        let (from, to, reason) = (Offset(0), Offset(3), LogStartReason::DeleteRecords);
        assert_eq!(moved, Some(LogStartMove { from, to, reason }));
        assert_eq!(log.increment_log_start(Offset(2), LogStartReason::Leader).unwrap(), None, "never back");
        assert!(matches!(log.read(Offset(2), Offset(6), 1, true), Err(ReadError::OutOfRange { .. })));
        assert_eq!(log.epochs().entries()[0], (LeaderEpoch(2), Offset(3)));
        directory.checkpoint_log_starts([(&orders(), &log)].into_iter()).unwrap();
        let disk = machine.lose_power().await;
        assert_eq!(read(&disk, "data/log-start-offset-checkpoint"), b"0\n1\norders 0 3\n");
        let (_, log, _) = reopen(&disk, &small_segments());
        assert_eq!((log.log_start(), log.log_end()), (Offset(3), Offset(6)));
    });
}

#[test]
fn a_log_start_beyond_the_end_begins_the_log_anew_and_says_so() {
    Machine::run(|machine| async move {
        let (mut directory, mut log) = create(&machine.disk(), &LogConfig::default());
        append(&mut log, 4, 1);
        log.set_high_watermark(Offset(4));
        log.increment_log_start(Offset(3), LogStartReason::DeleteRecords).unwrap();
        directory.checkpoint_log_starts([(&orders(), &log)].into_iter()).unwrap();
        let (mut directory, log, recovery) = reopen(&machine.lose_power().await, &LogConfig::default());
        assert_eq!((log.log_start(), log.log_end()), (Offset(3), Offset(3)));
        assert_eq!(
            recovery.dropped.iter().map(|dropped| dropped.reason).collect::<Vec<_>>(),
            [DropReason::BelowLogStart]
        );
        // The checkpoint does not name a log that begins with its first file. The file must not go with the power.
        directory.checkpoint_log_starts([(&orders(), &log)].into_iter()).unwrap();
        let disk = machine.lose_power().await;
        assert_eq!(read(&disk, "data/log-start-offset-checkpoint"), b"0\n0\n");
        let (_, log, _) = reopen(&disk, &LogConfig::default());
        assert_eq!((log.log_start(), log.log_end()), (Offset(3), Offset(3)));
    });
}

#[test]
fn recovery_says_what_it_dropped_and_why() {
    Machine::run(|machine| async move {
        let (_, mut log) = create(&machine.disk(), &small_segments());
        for _ in 0..6 {
            append(&mut log, 1, 1);
        }
        let disk = machine.kill().await;
        let second = "data/orders-0/00000000000000000002.log";
        let bytes = read(&disk, second).len() as u64;
        flip_bit(&disk, second, bytes / 2 + 100);
        let (_, _, recovery) = reopen(&disk, &small_segments());
        let dropped = |segment, position, bytes, reason| Dropped { segment: Offset(segment), position, bytes, reason };
        let expected =
            [dropped(2, bytes / 2, bytes / 2, DropReason::Corrupt), dropped(4, 0, bytes, DropReason::BehindCorruption)];
        assert_eq!(recovery.dropped, expected);
    });
}

#[test]
fn a_recovery_point_beyond_a_cut_is_written_down_at_once() {
    Machine::run(|machine| async move {
        let (mut directory, mut log) = create(&machine.disk(), &LogConfig::default());
        for _ in 0..4 {
            append(&mut log, 1, 1);
        }
        log.flush().unwrap();
        directory.checkpoint_recovery_points([(&orders(), &log)].into_iter()).unwrap();
        let disk = machine.kill().await;
        let bytes = read(&disk, SEGMENT_0).len() as u64;
        flip_bit(&disk, SEGMENT_0, bytes / 2 + 100);
        reopen(&disk, &LogConfig::default());
        assert_eq!(read(&disk, "data/recovery-point-offset-checkpoint"), b"0\n1\norders 0 2\n");
    });
}

#[test]
fn flush_ms_counts_from_the_last_flush() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig { flush_ms: 100, ..LogConfig::default() });
        append_at(&mut log, 0, 1_000);
        assert_eq!(log.flush_if_due(1_099).unwrap(), None);
        assert_eq!(log.flush_if_due(1_100).unwrap(), Some(Offset(1)));
        assert_eq!(log.flush_if_due(9_000).unwrap(), None, "nothing is dirty");
        append_at(&mut log, 0, 1_150);
        assert_eq!(log.flush_if_due(1_199).unwrap(), None);
        assert_eq!(log.flush_if_due(1_200).unwrap(), Some(Offset(2)));
    });
}

#[test]
fn log_append_time_replaces_the_producers_timestamps() {
    on_fresh_disk(|disk| {
        let message_timestamp_type = TimestampType::LogAppendTime;
        let (_, mut log) = create(&disk, &LogConfig { message_timestamp_type, ..LogConfig::default() });
        let appended = log.append_from_client(&batch_at(&[5, 9_999], 10), LeaderEpoch(1), 700).unwrap();
        assert_eq!(appended.log_append_time, Some(700));
        let stored = log.read(Offset(0), Offset(2), usize::MAX, true).unwrap().into_bytes();
        let header = super::batch::checked(&stored, true).unwrap();
        assert!(header.is_log_append_time());
        assert_eq!((header.max_timestamp, header.info()), (700, appended.batches[0]));
        assert_eq!(log.offset_for_timestamp(700, Offset(2)).unwrap(), Some((Offset(0), 700)));
        assert_eq!(log.offset_for_timestamp(701, Offset(2)).unwrap(), None);
        // A producer that claims it is refused; where the topic wants the producers' time the claim is dropped.
        let mut claims = stored.to_vec();
        super::batch::stamp(&mut claims, Offset(0), LeaderEpoch(-1));
        let claims: Bytes = claims.into();
        match log.append_from_client(&claims, LeaderEpoch(1), 800) {
            Err(AppendError::Batch(error)) => assert_eq!(error.error_code(), ErrorCode::InvalidTimestamp),
            other => panic!("{other:?}"),
        }
        log.set_config(LogConfig::default());
        let appended = log.append_from_client(&claims, LeaderEpoch(1), 800).unwrap();
        assert_eq!(appended.log_append_time, None);
        let stored = log.read(Offset(2), Offset(4), usize::MAX, true).unwrap().into_bytes();
        let header = super::batch::checked(&stored, true).unwrap();
        assert!(!header.is_log_append_time() && header.max_timestamp == 700);
    });
}

#[test]
fn timestamps_out_of_bounds_are_refused() {
    on_fresh_disk(|disk| {
        let (message_timestamp_before_max_ms, message_timestamp_after_max_ms) = (100, 10);
        let config =
            LogConfig { message_timestamp_before_max_ms, message_timestamp_after_max_ms, ..LogConfig::default() };
        let (_, mut log) = create(&disk, &config);
        let mut code =
            |timestamps: &[i64]| match log.append_from_client(&batch_at(timestamps, 10), LeaderEpoch(1), 1_000) {
                Ok(_) => None,
                Err(AppendError::Batch(error)) => Some(error.error_code()),
                Err(other) => panic!("{other}"),
            };
        assert_eq!(code(&[900, 1_010]), None);
        assert_eq!(code(&[-1]), None, "no timestamp is no timestamp out of bounds");
        assert_eq!(code(&[899]), Some(ErrorCode::InvalidTimestamp));
        assert_eq!(code(&[1_000, 1_011]), Some(ErrorCode::InvalidTimestamp));
    });
}

#[test]
fn retention_does_not_believe_the_tail_of_a_time_index() {
    Machine::run(|machine| async move {
        let config = LogConfig { retention_ms: 1_000, ..small_segments() };
        let (mut directory, mut log) = create(&machine.disk(), &config);
        for timestamp in [5_000, 5_100, 5_200, 5_300, 5_400] {
            append_at(&mut log, timestamp, 0);
        }
        log.set_high_watermark(Offset(5));
        directory.checkpoint_recovery_points([(&orders(), &log)].into_iter()).unwrap();
        directory.checkpoint_high_watermarks([(&orders(), &log)].into_iter()).unwrap();
        let disk = machine.kill().await;
        // Padding that was never trimmed (KAFKA-10207): the last entry says timestamp 0.
        let mut time_index = disk.open("data/orders-0/00000000000000000000.timeindex").unwrap();
        time_index.append(&[0; 12]).unwrap();
        let (_, mut log, _) = reopen(&disk, &config);
        assert!(log.delete_old_segments(Time::ZERO, 6_000).unwrap().is_empty());
        assert_eq!(log.delete_old_segments(Time::ZERO, 6_101).unwrap().len(), 1, "in its time it goes");
    });
}
