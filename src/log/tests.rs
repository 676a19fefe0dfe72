//! A log and its directory on the simulated disk: layout, appends, reads, truncation, flush, recovery.

use bytes::Bytes;

use super::testing::*;
use super::{AppendError, Log, LogConfig, LogDirectory, ReadError};
use crate::protocol::{BrokerEpoch, ErrorCode, LeaderEpoch, Offset};
use crate::world::real::RealWorld;
use crate::world::sim::Pending;
use crate::world::{Chain, Disk, World};

const SEGMENT_0: &str = "data/orders-0/00000000000000000000.log";

fn read_offsets(log: &Log, from: i64, up_to: i64, bytes_max: usize) -> Vec<(i64, i64)> {
    offsets(&log.read(Offset(from), Offset(up_to), bytes_max, true).unwrap().into_bytes())
}

fn offsets(records: &Bytes) -> Vec<(i64, i64)> {
    let batches = super::batch::split(records, true).unwrap();
    batches.iter().map(|batch| (batch.info().base_offset.0, batch.info().last_offset.0)).collect()
}

fn on_fresh_disk(test: impl FnOnce(Disk)) {
    Machine::run(|machine| async move { test(machine.disk()) });
}

#[test]
fn a_leader_assigns_offsets_and_its_epoch() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig::default());
        assert_eq!(append(&mut log, 3, 4), (0, 2));
        assert_eq!(append(&mut log, 1, 4), (3, 3));
        assert_eq!(log.log_end(), Offset(4));
        assert_eq!(log.latest_epoch(), LeaderEpoch(4));
        let expected = concat(&[stored(&batch_of(3, 100, 1_000), 0, 4), stored(&batch_of(1, 100, 1_000), 3, 4)]);
        assert_eq!(log.read(Offset(0), log.log_end(), usize::MAX, false).unwrap().into_bytes(), expected);
        assert_eq!(read(&disk, SEGMENT_0), expected);
    });
}

#[test]
fn a_follower_keeps_offsets_and_epochs_skips_what_it_has_and_drops_a_partial_batch() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig::default());
        let batch = batch_of(2, 10, 0);
        let (a, b, c) = (stored(&batch, 0, 1), stored(&batch, 2, 1), stored(&batch, 4, 3));
        log.append_as_follower(&a, 0).unwrap();
        let partial = c.slice(..c.len() - 5);
        let appended = log.append_as_follower(&concat(&[a.clone(), b.clone(), c.clone(), partial]), 0).unwrap();
        assert_eq!((appended.base_offset, appended.last_offset), (Offset(2), Offset(5)));
        assert_eq!(appended.batches.len(), 2);
        assert_eq!(read(&disk, SEGMENT_0), concat(&[a, b, c]));
        assert_eq!(log.epochs().entries(), [(LeaderEpoch(1), Offset(0)), (LeaderEpoch(3), Offset(4))]);
        assert_eq!(read(&disk, "data/orders-0/leader-epoch-checkpoint"), b"0\n2\n1 0\n3 4\n");
    });
}

#[test]
fn a_follower_refuses_what_does_not_continue_its_log() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig::default());
        let batch = batch_of(3, 10, 0);
        log.append_as_follower(&stored(&batch, 0, 1), 0).unwrap();
        let error = log.append_as_follower(&stored(&batch, 2, 1), 0).unwrap_err();
        assert!(matches!(error, AppendError::OutOfOrder { got: Offset(2), log_end: Offset(3) }), "{error}");
        let error = log.append_as_follower(&concat(&[stored(&batch, 5, 1), stored(&batch, 4, 1)]), 0).unwrap_err();
        assert!(matches!(error, AppendError::OutOfOrder { got: Offset(4), log_end: Offset(8) }), "{error}");
        let mut corrupt = stored(&batch, 3, 1).to_vec();
        *corrupt.last_mut().unwrap() ^= 1;
        assert!(matches!(log.append_as_follower(&corrupt.into(), 0), Err(AppendError::Batch(_))));
        assert_eq!(log.log_end(), Offset(3));
        // A gap is what compaction leaves.
        assert_eq!(log.append_as_follower(&stored(&batch, 10, 1), 0).unwrap().last_offset, Offset(12));
    });
}

#[test]
fn nothing_new_for_a_follower_is_no_error() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig::default());
        let appended = log.append_as_follower(&Bytes::new(), 0).unwrap();
        assert_eq!((appended.base_offset, appended.last_offset), (Offset(0), Offset(-1)));
        assert!(appended.batches.is_empty());
    });
}

#[test]
fn a_batch_beyond_max_message_bytes_is_refused_and_leaves_no_trace() {
    on_fresh_disk(|disk| {
        let batch = batch_of(1, 500, 0);
        let config = LogConfig { max_message_bytes: batch.len() as u64 - 1, ..LogConfig::default() };
        let (_, mut log) = create(&disk, &config);
        let error = log.append_from_client(&batch, LeaderEpoch(1), 0).unwrap_err();
        assert!(matches!(error, AppendError::TooLarge { bytes, bytes_max } if bytes == bytes_max + 1));
        assert_eq!((log.log_end(), log.latest_epoch()), (Offset(0), LeaderEpoch::NONE));
        // A follower takes what its leader accepted.
        log.append_as_follower(&stored(&batch, 0, 1), 0).unwrap();
    });
}

#[test]
fn a_batch_beyond_segment_bytes_is_refused() {
    on_fresh_disk(|disk| {
        let (batch, one) = (batch_of(3, 100, 0), batch_of(1, 100, 0));
        let (_, mut log) = create(&disk, &LogConfig { segment_bytes: one.len() as u64, ..LogConfig::default() });
        let error = log.append_from_client(&batch, LeaderEpoch(1), 0).unwrap_err();
        assert!(matches!(error, AppendError::BeyondSegment { bytes, .. } if bytes == batch.len() as u64), "{error}");
        log.append_from_client(&one, LeaderEpoch(1), 0).unwrap();
    });
}

#[test]
fn reads_whole_batches_within_bounds() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig::default());
        for _ in 0..4 {
            append(&mut log, 2, 1);
        }
        let batch_bytes = batch_of(2, 100, 1_000).len();
        assert_eq!(read_offsets(&log, 0, 8, usize::MAX), [(0, 1), (2, 3), (4, 5), (6, 7)]);
        assert_eq!(read_offsets(&log, 3, 8, 2 * batch_bytes), [(2, 3), (4, 5)]);
        assert_eq!(read_offsets(&log, 3, 8, 2 * batch_bytes - 1), [(2, 3)]);
        assert_eq!(read_offsets(&log, 0, 4, usize::MAX), [(0, 1), (2, 3)]);
        assert_eq!(read_offsets(&log, 0, 3, usize::MAX), [(0, 1)]);
        assert_eq!(read_offsets(&log, 2, 3, usize::MAX), []);
        assert_eq!(read_offsets(&log, 7, 8, usize::MAX), [(6, 7)]);
        assert_eq!(read_offsets(&log, 8, 8, usize::MAX), []);
        assert_eq!(read_offsets(&log, 5, 4, usize::MAX), []);
        assert_eq!(read_offsets(&log, 0, 8, 1), [(0, 1)]);
        assert!(log.read(Offset(0), Offset(8), batch_bytes - 1, false).unwrap().is_empty());
        let error = log.read(Offset(9), Offset(9), 1, true).unwrap_err();
        assert!(matches!(error, ReadError::OutOfRange { log_start: Offset(0), log_end: Offset(8), .. }), "{error}");
    });
}

#[test]
fn a_full_segment_is_rolled_and_reads_go_on_in_the_next() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &small_segments());
        for _ in 0..5 {
            append(&mut log, 1, 1);
        }
        // Two batches of about 170 bytes fit into 400.
        let names = disk.read_dir("data/orders-0").unwrap();
        let logs: Vec<_> = names.iter().filter(|name| name.ends_with(".log")).collect();
        assert_eq!(logs, ["00000000000000000000.log", "00000000000000000002.log", "00000000000000000004.log"]);
        assert_eq!(log.recovery_point(), Offset(4), "rolled segments are flushed");
        let mut at = 0;
        let mut seen = Vec::new();
        while at < 5 {
            let batches = read_offsets(&log, at, 5, usize::MAX);
            at = batches.last().expect("reads make progress").1 + 1;
            seen.extend(batches);
        }
        assert_eq!(seen, [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]);
    });
}

#[test]
fn a_roll_says_what_it_made_durable() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &small_segments());
        let flushed: Vec<_> =
            (0..3).map(|_| log.append_as_leader(&batch_of(1, 100, 0), LeaderEpoch(1), 0).unwrap().flushed_to).collect();
        assert_eq!(flushed, [None, None, Some(Offset(2))]);
    });
}

#[test]
fn indexes_have_kafkas_layout() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig::default());
        let batch_bytes = batch_of(2, 2_000, 0).len() as u32;
        assert!((2_049..=4_096).contains(&batch_bytes), "two batches exceed index.interval.bytes, one does not");
        for at in 0..3 {
            log.append_from_client(&batch_of(2, 2_000, 100 * at), LeaderEpoch(1), 0).unwrap();
        }
        // One entry, for the third batch: last offset 5, its position; largest timestamp so far, its offset.
        let index = [5_u32.to_be_bytes(), (2 * batch_bytes).to_be_bytes()].concat();
        let time_index = [&201_i64.to_be_bytes()[..], &5_u32.to_be_bytes()[..]].concat();
        assert_eq!(read(&disk, "data/orders-0/00000000000000000000.index"), index);
        assert_eq!(read(&disk, "data/orders-0/00000000000000000000.timeindex"), time_index);
    });
}

#[test]
fn missing_and_mangled_indexes_are_rebuilt() {
    on_fresh_disk(|disk| {
        let (mut directory, mut log) = create(&disk, &LogConfig::default());
        for at in 0..9 {
            log.append_from_client(&batch_of(2, 1_000, 100 * at), LeaderEpoch(1), 0).unwrap();
        }
        directory.close([(&orders(), &mut log)].into_iter(), BrokerEpoch(1)).unwrap();
        let (index, time_index) =
            ("data/orders-0/00000000000000000000.index", "data/orders-0/00000000000000000000.timeindex");
        let before = (read(&disk, index), read(&disk, time_index));
        assert!(before.0.len() >= 16 && before.1.len() >= 24);
        disk.remove_file(index).unwrap();
        disk.open(time_index).unwrap().truncate(13).unwrap();
        reopen(&disk, &LogConfig::default());
        assert_eq!((read(&disk, index), read(&disk, time_index)), before);
    });
}

#[test]
fn truncation_cuts_at_batch_boundaries() {
    for (to, end) in [(6, 6), (5, 4), (4, 4), (3, 2), (1, 0), (0, 0), (8, 8), (11, 8)] {
        on_fresh_disk(|disk| {
            let (_, mut log) = create(&disk, &LogConfig::default());
            for _ in 0..4 {
                append(&mut log, 2, 1);
            }
            log.set_high_watermark(Offset(7));
            log.flush().unwrap();
            log.truncate_to(Offset(to)).unwrap();
            assert_eq!(log.log_end(), Offset(end), "truncated to {to}");
            assert_eq!(log.high_watermark(), Offset(end.min(7)));
            assert_eq!(log.recovery_point(), Offset(end));
            assert_eq!(append(&mut log, 1, 2), (end, end));
            assert_eq!(read_offsets(&log, end, end + 1, 1), [(end, end)]);
        });
    }
}

#[test]
fn truncation_removes_later_segments_and_epochs() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &small_segments());
        for epoch in 1..=6 {
            append(&mut log, 1, epoch);
        }
        log.truncate_to(Offset(3)).unwrap();
        let names = disk.read_dir("data/orders-0").unwrap();
        assert!(!names.iter().any(|name| name.starts_with("00000000000000000004")), "{names:?}");
        assert_eq!(log.latest_epoch(), LeaderEpoch(3));
        assert_eq!(log.batches().len(), 3);
        assert_eq!(append(&mut log, 1, 9), (3, 3));
    });
}

/// Six segments, and an operation on them that dies between two changes to the disk with its machine's power; of the
/// changes that were pending one survives, or all but one. The offsets of what is left, in all of these cases.
fn crashed_within(operation: impl Fn(&mut Log) -> std::io::Result<()>) -> Vec<Vec<i64>> {
    let mut left = Vec::new();
    for (calls, one) in (0..45).flat_map(|calls| (0..8).map(move |one| (calls, one))) {
        for survives in [true, false] {
            let found = Machine::run(async |machine| {
                let (_, mut log) = create(&machine.disk(), &small_segments());
                for _ in 0..6 {
                    append(&mut log, 3, 1);
                }
                log.flush().unwrap();
                log.set_high_watermark(log.log_end());
                machine.crash_after_disk_calls(calls);
                // It may be over before.
                let _ = operation(&mut log);
                let choose = &mut |pending: &Pending| {
                    (0..pending.changes.len()).map(|at| (at == one) == survives).collect::<Vec<bool>>()
                };
                let (_, log, _) = reopen(&machine.lose_power_choosing(choose).await, &small_segments());
                log.batches().iter().map(|batch| batch.base_offset.0).collect::<Vec<i64>>()
            });
            left.push(found);
        }
    }
    left
}

#[test]
fn a_power_loss_within_a_truncation_leaves_no_gap() {
    let left = crashed_within(|log| log.truncate_to(Offset(1)));
    for found in &left {
        assert_eq!(found[..], [0, 3, 6, 9, 12, 15][..found.len()], "a part of the log without what comes before it");
    }
    for length in [0, 1, 3, 5, 6] {
        assert!(left.iter().any(|found| found.len() == length), "cut at every step, also at {length}");
    }
}

#[test]
fn a_power_loss_within_retention_leaves_no_gap() {
    let left = crashed_within(|log| {
        log.set_config(LogConfig { retention_bytes: 0, ..small_segments() });
        log.delete_old_segments(crate::world::Time::ZERO, 0).map(drop)
    });
    for found in &left {
        assert_eq!(
            found[..],
            [0, 3, 6, 9, 12, 15][6 - found.len()..],
            "a part of the log without what comes behind it"
        );
    }
    for length in [0, 1, 3, 5, 6] {
        assert!(left.iter().any(|found| found.len() == length), "cut at every step, also at {length}");
    }
}

#[test]
fn truncation_at_the_end_forgets_an_epoch_without_records() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig::default());
        append(&mut log, 2, 1);
        log.assign_epoch_start(LeaderEpoch(5)).unwrap();
        assert_eq!(log.latest_epoch(), LeaderEpoch(5));
        log.truncate_to(Offset(2)).unwrap();
        assert_eq!(log.latest_epoch(), LeaderEpoch(1));
        assert_eq!(log.log_end(), Offset(2));
    });
}

#[test]
fn a_log_can_start_anew_at_another_offset() {
    Machine::run(|machine| async move {
        let (_, mut log) = create(&machine.disk(), &small_segments());
        for _ in 0..5 {
            append(&mut log, 1, 1);
        }
        log.truncate_fully_and_start_at(Offset(100)).unwrap();
        assert_eq!((log.log_start(), log.log_end(), log.high_watermark()), (Offset(100), Offset(100), Offset(100)));
        assert_eq!(log.latest_epoch(), LeaderEpoch::NONE);
        assert_eq!(append(&mut log, 2, 3), (100, 101));
        assert!(matches!(log.read(Offset(99), Offset(102), 1, true), Err(ReadError::OutOfRange { .. })));
        log.flush().unwrap();
        let (_, log, _) = reopen(&machine.lose_power().await, &small_segments());
        assert_eq!((log.log_start(), log.log_end()), (Offset(100), Offset(102)));
        // Truncation below the first segment does the same.
        let mut log = log;
        log.truncate_to(Offset(40)).unwrap();
        assert_eq!((log.log_start(), log.log_end()), (Offset(40), Offset(40)));
    });
}

#[test]
fn a_reader_with_nothing_left_before_it_stands_at_the_end() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig::default());
        append(&mut log, 5, 0);
        let at = |log: &Log, offset| log.reading_offset(Offset(offset)).0;
        assert_eq!([at(&log, 0), at(&log, 4), at(&log, 5)], [0, 4, 5]);
        // Where the active segment begins is where the log ends, whatever is left before it.
        disk.open(SEGMENT_0).unwrap().truncate(0).unwrap();
        disk.create("data/orders-0/00000000000000000005.log").unwrap();
        let (_, log, _) = reopen(&disk, &LogConfig::default());
        assert_eq!((log.log_start(), log.log_end()), (Offset(0), Offset(5)));
        assert_eq!([at(&log, 0), at(&log, 4), at(&log, 5)], [5, 5, 5]);
    });
}

#[test]
fn only_what_was_flushed_survives_a_power_loss() {
    Machine::run(|machine| async move {
        let (_, mut log) = create(&machine.disk(), &LogConfig::default());
        append(&mut log, 3, 1);
        assert_eq!(log.flush().unwrap(), Offset(3));
        append(&mut log, 4, 1);
        assert_eq!(log.recovery_point(), Offset(3));
        let (_, log, recovery) = reopen(&machine.lose_power().await, &LogConfig::default());
        assert_eq!(log.log_end(), Offset(3));
        assert!(!recovery.clean);
        assert_eq!(recovery.batches, log.batches());
    });
}

#[test]
fn a_killed_process_loses_nothing_and_the_next_flush_covers_what_it_left() {
    Machine::run(|machine| async move {
        let (_, mut log) = create(&machine.disk(), &small_segments());
        for _ in 0..3 {
            append(&mut log, 1, 1);
        }
        let (_, mut log, _) = reopen(&machine.kill().await, &small_segments());
        assert_eq!(log.log_end(), Offset(3));
        assert_eq!(log.flush().unwrap(), Offset(3));
        let (_, log, _) = reopen(&machine.lose_power().await, &small_segments());
        assert_eq!(log.log_end(), Offset(3));
    });
}

#[test]
fn flush_messages_flushes_after_so_many_records() {
    Machine::run(|machine| async move {
        let config = LogConfig { flush_messages: 3, ..LogConfig::default() };
        let (_, mut log) = create(&machine.disk(), &config);
        let flushed: Vec<_> = [2, 2, 1]
            .map(|count| log.append_from_client(&batch_of(count, 10, 0), LeaderEpoch(1), 0).unwrap().flushed_to)
            .into();
        assert_eq!(flushed, [None, Some(Offset(4)), None]);
        let (_, log, _) = reopen(&machine.lose_power().await, &config);
        assert_eq!(log.log_end(), Offset(4));
    });
}

#[test]
fn a_new_log_survives_a_power_loss() {
    Machine::run(|machine| async move {
        create(&machine.disk(), &LogConfig::default());
        let (_, log, _) = reopen(&machine.lose_power().await, &LogConfig::default());
        assert_eq!((log.log_start(), log.log_end()), (Offset(0), Offset(0)));
    });
}

#[test]
fn leader_epochs_survive_a_power_loss_without_a_flush() {
    Machine::run(|machine| async move {
        let (_, mut log) = create(&machine.disk(), &LogConfig::default());
        append(&mut log, 2, 1);
        log.flush().unwrap();
        append(&mut log, 2, 4);
        let disk = machine.lose_power().await;
        assert_eq!(read(&disk, "data/orders-0/leader-epoch-checkpoint"), b"0\n2\n1 0\n4 2\n");
        // Epoch 4 lost its records, so it is gone too.
        let (_, log, _) = reopen(&disk, &LogConfig::default());
        assert_eq!(log.epochs().entries(), [(LeaderEpoch(1), Offset(0))]);
    });
}

#[test]
fn recovery_cuts_a_torn_tail() {
    Machine::run(|machine| async move {
        let (_, mut log) = create(&machine.disk(), &LogConfig::default());
        for _ in 0..3 {
            append(&mut log, 2, 1);
        }
        let disk = machine.kill().await;
        let bytes = read(&disk, SEGMENT_0).len() as u64;
        disk.open(SEGMENT_0).unwrap().truncate(bytes - 7).unwrap();
        let (_, mut log, recovery) = reopen(&disk, &LogConfig::default());
        assert_eq!(log.log_end(), Offset(4));
        assert_eq!(recovery.dropped_bytes(), bytes / 3 - 7);
        assert_eq!(append(&mut log, 1, 2), (4, 4));
        assert_eq!(read_offsets(&log, 0, 5, usize::MAX), [(0, 1), (2, 3), (4, 4)]);
    });
}

#[test]
fn recovery_cuts_at_a_flipped_bit_and_removes_the_segments_behind_it() {
    Machine::run(|machine| async move {
        let (_, mut log) = create(&machine.disk(), &small_segments());
        for epoch in 1..=6 {
            append(&mut log, 1, epoch);
        }
        let disk = machine.kill().await;
        let second = "data/orders-0/00000000000000000002.log";
        let bytes = read(&disk, second).len() as u64;
        flip_bit(&disk, second, bytes / 2 + 100);
        let (_, log, recovery) = reopen(&disk, &small_segments());
        assert_eq!(log.log_end(), Offset(3));
        assert_eq!(log.latest_epoch(), LeaderEpoch(3));
        assert_eq!(recovery.dropped_bytes(), bytes / 2 + bytes);
        assert!(!disk.exists("data/orders-0/00000000000000000004.log"));
    });
}

#[test]
fn recovery_trusts_what_lies_below_the_recovery_point() {
    Machine::run(|machine| async move {
        let (mut directory, mut log) = create(&machine.disk(), &small_segments());
        for _ in 0..6 {
            append(&mut log, 1, 1);
        }
        directory.checkpoint_truncation([(&orders(), &log)].into_iter()).unwrap();
        let disk = machine.kill().await;
        assert_eq!(read(&disk, "data/recovery-point-offset-checkpoint"), b"0\n1\norders 0 4\n");
        // Nothing checks the CRC of a sealed, flushed segment at start.
        flip_bit(&disk, SEGMENT_0, 100);
        let (_, log, recovery) = reopen(&disk, &small_segments());
        assert_eq!((log.log_end(), recovery.dropped_bytes()), (Offset(6), 0));
    });
}

#[test]
fn a_sealed_segment_that_cannot_be_followed_is_an_error_to_readers_not_a_gap() {
    Machine::run(|machine| async move {
        let (mut directory, mut log) = create(&machine.disk(), &small_segments());
        for _ in 0..6 {
            append(&mut log, 1, 1);
        }
        directory.checkpoint_truncation([(&orders(), &log)].into_iter()).unwrap();
        let disk = machine.kill().await;
        let bytes = read(&disk, SEGMENT_0).len() as u64;
        flip_bit(&disk, SEGMENT_0, bytes / 2 + 16);
        let (_, log, _) = reopen(&disk, &small_segments());
        assert_eq!(log.log_end(), Offset(6));
        assert_eq!(read_offsets(&log, 0, 6, usize::MAX), [(0, 0)]);
        assert!(matches!(log.read(Offset(1), Offset(6), usize::MAX, true), Err(ReadError::Io(_))));
        assert_eq!(read_offsets(&log, 2, 6, usize::MAX), [(2, 2), (3, 3)]);
    });
}

#[test]
fn a_segment_that_comes_back_from_the_dead_is_removed() {
    Machine::run(|machine| async move {
        let (_, mut log) = create(&machine.disk(), &LogConfig::default());
        append(&mut log, 6, 1);
        let disk = machine.kill().await;
        let mut stale = disk.create("data/orders-0/00000000000000000004.log").unwrap();
        stale.append(&stored(&batch_of(2, 10, 0), 4, 0)).unwrap();
        let (_, log, recovery) = reopen(&disk, &LogConfig::default());
        assert_eq!(log.log_end(), Offset(6));
        assert_eq!(recovery.dropped_bytes(), batch_of(2, 10, 0).len() as u64);
    });
}

#[test]
fn epochs_missing_from_the_checkpoint_are_found_by_recovery() {
    Machine::run(|machine| async move {
        let (_, mut log) = create(&machine.disk(), &LogConfig::default());
        for epoch in [1, 1, 3] {
            append(&mut log, 1, epoch);
        }
        let entries = log.epochs().clone();
        let disk = machine.kill().await;
        disk.remove_file("data/orders-0/leader-epoch-checkpoint").unwrap();
        let (_, log, _) = reopen(&disk, &LogConfig::default());
        assert_eq!(log.epochs(), &entries);
        assert_eq!(read(&disk, "data/orders-0/leader-epoch-checkpoint"), b"0\n2\n1 0\n3 2\n");
    });
}

#[test]
fn a_malformed_epoch_checkpoint_makes_the_directory_unusable() {
    Machine::run(|machine| async move {
        let (_, mut log) = create(&machine.disk(), &LogConfig::default());
        append(&mut log, 1, 1);
        let disk = machine.kill().await;
        for content in ["0\n1\n1\n", "0\n2\n1 0\n", "1\n1\n1 0\n", "0\n1\nx 0\n", "0\n1\n-1 0\n"] {
            disk.create("data/orders-0/leader-epoch-checkpoint").unwrap().append(content.as_bytes()).unwrap();
            let error = try_open_directory(&disk, &LogConfig::default()).err().expect(content);
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{content:?}");
        }
    });
}

#[test]
fn an_orderly_stop_is_remembered_once() {
    Machine::run(|machine| async move {
        let config = LogConfig::default();
        let (mut directory, mut log) = create(&machine.disk(), &config);
        assert_eq!(directory.previous_broker_epoch(), BrokerEpoch::NONE);
        append(&mut log, 3, 1);
        log.set_high_watermark(Offset(2));
        directory.close([(&orders(), &mut log)].into_iter(), BrokerEpoch(42)).unwrap();
        assert_eq!(read(&machine.disk(), "data/.kafka_cleanshutdown"), br#"{"version":0,"brokerEpoch":42}"#);

        let (directory, log, recovery) = reopen(&machine.lose_power().await, &config);
        assert_eq!(directory.previous_broker_epoch(), BrokerEpoch(42));
        assert!(recovery.clean);
        assert_eq!((log.log_end(), log.high_watermark(), log.recovery_point()), (Offset(3), Offset(2), Offset(3)));

        let (directory, _, recovery) = reopen(&machine.lose_power().await, &config);
        assert_eq!(directory.previous_broker_epoch(), BrokerEpoch::NONE);
        assert!(!recovery.clean, "the marker was deleted for good");
    });
}

#[test]
fn a_torn_tail_is_cut_even_after_an_orderly_stop() {
    Machine::run(|machine| async move {
        let config = LogConfig::default();
        let (mut directory, mut log) = create(&machine.disk(), &config);
        append(&mut log, 1, 1);
        append(&mut log, 1, 1);
        directory.close([(&orders(), &mut log)].into_iter(), BrokerEpoch(1)).unwrap();
        let disk = machine.kill().await;
        let bytes = read(&disk, SEGMENT_0).len() as u64;
        disk.open(SEGMENT_0).unwrap().truncate(bytes - 1).unwrap();
        let (_, log, recovery) = reopen(&disk, &config);
        assert_eq!((log.log_end(), recovery.dropped_bytes()), (Offset(1), bytes / 2 - 1));
        assert_eq!(log.recovery_point(), Offset(1));
    });
}

#[test]
fn high_watermarks_come_back_within_the_log() {
    Machine::run(|machine| async move {
        let config = LogConfig::default();
        let (mut directory, mut log) = create(&machine.disk(), &config);
        append(&mut log, 2, 1);
        log.flush().unwrap();
        append(&mut log, 3, 1);
        assert_eq!(log.set_high_watermark(Offset(9)), Offset(5));
        directory.checkpoint_high_watermarks([(&orders(), &log)].into_iter()).unwrap();
        let disk = machine.lose_power().await;
        assert_eq!(read(&disk, "data/replication-offset-checkpoint"), b"0\n1\norders 0 5\n");
        let (_, log, _) = reopen(&disk, &config);
        assert_eq!(log.high_watermark(), Offset(2));
    });
}

#[test]
fn unreadable_checkpoints_count_as_empty() {
    Machine::run(|machine| async move {
        let config = LogConfig::default();
        let (_, mut log) = create(&machine.disk(), &config);
        append(&mut log, 2, 1);
        let disk = machine.kill().await;
        for name in ["recovery-point-offset-checkpoint", "replication-offset-checkpoint"] {
            disk.create(&format!("data/{name}")).unwrap().append(b"0\n1\norders 0 x\n").unwrap();
        }
        let (_, log, _) = reopen(&disk, &config);
        assert_eq!((log.log_end(), log.high_watermark(), log.recovery_point()), (Offset(2), Offset(0), Offset(0)));
    });
}

#[test]
fn the_directory_keeps_its_id_and_its_logs_theirs() {
    Machine::run(|machine| async move {
        let config = LogConfig::default();
        let (directory, _) = create(&machine.disk(), &config);
        assert_eq!(directory.directory_id(), DIRECTORY_ID);
        let disk = machine.lose_power().await;
        assert_eq!(read(&disk, "data/orders-0/partition.metadata"), b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAABw");
        assert_eq!(read(&disk, "data/meta.properties"), b"#\nversion=1\ndirectory.id=AAAAAAAAAAAAAAAAAAAACA\n");
        let (directory, _) =
            LogDirectory::open(disk, "data", |_| config.clone(), || panic!("it has an id"), config.defects).unwrap();
        assert_eq!(directory.directory_id(), DIRECTORY_ID);
    });
}

#[test]
fn a_deleted_log_stays_deleted() {
    Machine::run(|machine| async move {
        let config = LogConfig::default();
        let (mut directory, mut log) = create(&machine.disk(), &config);
        append(&mut log, 2, 1);
        log.flush().unwrap();
        let error = directory.create_log(&orders(), TOPIC_ID, config.clone()).err().expect("it exists");
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
        directory.delete_log(&orders()).unwrap();
        let disk = machine.lose_power().await;
        let (mut directory, logs) = open_directory(&disk, &config);
        assert!(logs.is_empty());
        assert!(!disk.read_dir("data").unwrap().iter().any(|name| name.contains("orders")), "leftovers are removed");
        assert_eq!(directory.create_log(&orders(), TOPIC_ID, config).unwrap().log_end(), Offset(0));
    });
}

/// Bytes of `read` that lie in the memory of `cached`.
fn bytes_shared(read: &Chain, cached: &Chain) -> usize {
    let is_cached = |piece: &&Bytes| cached.pieces().any(|memory| memory.as_ptr_range().contains(&piece.as_ptr()));
    read.pieces().filter(is_cached).map(Bytes::len).sum()
}

#[test]
fn what_is_read_is_the_page_caches_own_memory() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig::default());
        let set: Vec<Bytes> = (0..3).map(|at| stored(&batch_of(2, 100, 1_000), 2 * at, 1)).collect();
        log.append_as_follower(&concat(&set), 0).unwrap();
        let file = disk.open(SEGMENT_0).unwrap();
        let cached = file.read_pieces(0, file.len() as usize).unwrap();
        let all = log.read(Offset(0), Offset(6), 1 << 20, true).unwrap();
        assert_eq!((all.len(), bytes_shared(&all, &cached)), (cached.len(), cached.len()));
        let one = log.read(Offset(3), Offset(6), 1, true).unwrap();
        assert_eq!(bytes_shared(&one, &cached), one.len(), "the batch in the middle");
        assert_eq!(bytes_shared(&all.into_bytes().to_vec().into(), &cached), 0, "a copy would be noticed");
    });
}

#[test]
fn a_read_of_many_pieces_copies_none_of_them() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig::default());
        // Followers cut the page cache into pieces by reading its end; blocks of 64 KiB do too.
        while log.log_end() < Offset(1_000) {
            append(&mut log, 2, 1);
            log.read(log.log_end() + -1, log.log_end(), 1 << 20, true).unwrap();
        }
        let file = disk.open(SEGMENT_0).unwrap();
        let cached = file.read_pieces(0, file.len() as usize).unwrap();
        let all = log.read(Offset(0), Offset(1_000), 1 << 20, true).unwrap();
        assert!(all.pieces().count() > 2, "{} pieces", all.pieces().count());
        assert_eq!((all.len(), bytes_shared(&all, &cached)), (cached.len(), cached.len()));
        let before = all.to_bytes();
        log.truncate_to(Offset(10)).unwrap();
        append(&mut log, 2, 2);
        assert_eq!(all.into_bytes(), before, "what was read is a snapshot");
    });
}

#[test]
fn finds_offsets_by_timestamp() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &small_segments());
        for timestamps in [[10, 30], [20, 25], [50, 40], [60, 60]] {
            log.append_from_client(&batch_at(&timestamps, 60), LeaderEpoch(1), 0).unwrap();
        }
        let at = |timestamp: i64, up_to: i64| {
            log.offset_for_timestamp(timestamp, Offset(up_to)).unwrap().map(|(offset, found)| (offset.0, found))
        };
        assert_eq!(at(0, 8), Some((0, 10)));
        assert_eq!(at(11, 8), Some((1, 30)));
        assert_eq!(at(31, 8), Some((4, 50)));
        assert_eq!(at(31, 4), None);
        assert_eq!(at(51, 7), Some((6, 60)));
        assert_eq!(at(51, 6), None);
        assert_eq!(at(61, 8), None);
        assert_eq!(log.max_timestamp().unwrap(), Some((Offset(6), 60)));
        log.truncate_to(Offset(6)).unwrap();
        assert_eq!(log.max_timestamp().unwrap(), Some((Offset(4), 50)));
    });
}

#[test]
fn a_log_lives_on_a_real_disk_too() {
    let root = tempfile::tempdir().unwrap();
    let disk = World::Real(RealWorld::new(root.path().to_path_buf()).unwrap()).disk();
    let (mut directory, mut log) = create(&disk, &small_segments());
    for epoch in 1..=5 {
        append(&mut log, 1, epoch);
    }
    let held = log.batches();
    directory.close([(&orders(), &mut log)].into_iter(), BrokerEpoch(7)).unwrap();
    let (directory, mut log, recovery) = reopen(&disk, &small_segments());
    assert!(recovery.clean && recovery.batches == held);
    assert_eq!(directory.previous_broker_epoch(), BrokerEpoch(7));
    log.truncate_to(Offset(3)).unwrap();
    drop(log);
    let (mut directory, log, recovery) = reopen(&disk, &small_segments());
    assert!(!recovery.clean && recovery.batches == held[..3]);
    assert_eq!(read_offsets(&log, 2, 3, usize::MAX), [(2, 2)]);
    directory.delete_log(&orders()).unwrap();
    assert!(!disk.exists("data/orders-0"));
}

#[test]
fn an_empty_log_has_no_timestamps() {
    on_fresh_disk(|disk| {
        let (_, log) = create(&disk, &LogConfig::default());
        assert_eq!(log.max_timestamp().unwrap(), None);
        assert_eq!(log.offset_for_timestamp(0, Offset(0)).unwrap(), None);
    });
}

#[test]
fn refusals_have_kafkas_error_codes() {
    on_fresh_disk(|disk| {
        let (_, mut log) = create(&disk, &LogConfig::default());
        let one = batch_of(1, 10, 0);
        let mut corrupt = one.to_vec();
        *corrupt.last_mut().unwrap() ^= 1;
        let refused =
            [(concat(&[one.clone(), one]), ErrorCode::InvalidRecord), (corrupt.into(), ErrorCode::CorruptMessage)];
        for (records, code) in refused {
            match log.append_from_client(&records, LeaderEpoch(1), 0) {
                Err(AppendError::Batch(error)) => assert_eq!(error.error_code(), code),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(log.log_end(), Offset(0));
    });
}
