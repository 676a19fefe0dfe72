use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::swap::{self, Step};
use super::*;
use crate::log::compression::{self, ALL, Compression};
use crate::log::testing::{Machine, TOPIC_ID, batch_of, keyed_batch, open_directory, orders};
use crate::log::{AppendError, CleanupPolicy, CompactionConfig, LogConfig, LogDirectory, Ratio, StoredCompression};
use crate::protocol::{ErrorCode, LeaderEpoch};
use crate::world::Disk;

const RETENTION_MS: i64 = 1_000;
const EPOCH: LeaderEpoch = LeaderEpoch(3);

/// A segment holds a few batches.
fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 300,
        cleanup_policy: CleanupPolicy::Compact,
        compaction: CompactionConfig {
            min_cleanable_dirty_ratio: Ratio::from_millionths(0),
            delete_retention: Duration::from_millis(RETENTION_MS as u64),
            ..CompactionConfig::default()
        },
        ..LogConfig::default()
    }
}

/// One record: offset, timestamp, key, value.
type Content = Vec<(i64, i64, String, Option<String>)>;

/// A log that is compacted.
struct Compacted {
    machine: Machine,
    config: LogConfig,
    directory: LogDirectory,
    log: Log,
    checkpoint: Option<Offset>,
}

impl Compacted {
    fn new(machine: Machine, config: LogConfig) -> Compacted {
        let (mut directory, _) = open_directory(&machine.disk(), &config);
        let log = directory.create_log(&orders(), TOPIC_ID, config.clone()).unwrap();
        Compacted { machine, config, directory, log, checkpoint: None }
    }

    fn append(&mut self, records: &[(&str, Option<&str>)], timestamp: i64) {
        self.log.append_from_client(&keyed_batch(records, timestamp), EPOCH, 0).unwrap();
        self.log.set_high_watermark(self.log.log_end());
    }

    /// One batch per letter pair: `a1 b2 a-` are the records a=1, b=2 and a tombstone for a, each in a batch.
    fn append_each(&mut self, records: &str, timestamp: i64) {
        for record in records.split(' ') {
            let (key, value) = record.split_at(1);
            self.append(&[(key, (value != "-").then_some(value))], timestamp);
        }
    }

    fn clean(&mut self, wall_clock_ms: i64) -> Cleaned {
        let dirt = self.log.dirt(self.checkpoint, wall_clock_ms);
        let cleaned = self.log.clean(&dirt, wall_clock_ms, OFFSET_MAP_KEYS).unwrap();
        self.checkpoint = Some(cleaned.end);
        cleaned
    }

    fn reopen(&mut self, disk: &Disk) -> Option<Rewritten> {
        let (directory, mut logs) = open_directory(disk, &self.config);
        let loaded = logs.pop().expect("the log is there");
        self.directory = directory;
        self.log = loaded.log;
        loaded.recovery.finished_swap
    }

    fn batches(&self) -> Vec<Bytes> {
        let mut at = self.log.log_start();
        let mut batches = Vec::new();
        while at < self.log.log_end() {
            let read = self.log.read(at, self.log.log_end(), 1 << 20, true).unwrap().into_bytes();
            let read = batch::split(&read, true).unwrap();
            at = read.last().expect("a read below the log end makes progress").info().last_offset + 1;
            batches.extend(read.into_iter().map(|batch| batch.bytes));
        }
        batches
    }

    fn content(&self) -> Content {
        self.batches().iter().flat_map(content_of).collect()
    }

    /// `0a1 1b2 2a-`: offset, key and value of every record.
    fn text(&self) -> String {
        let records = self.content().into_iter();
        let text = records.map(|(offset, _, key, value)| format!("{offset}{key}{}", value.as_deref().unwrap_or("-")));
        text.collect::<Vec<_>>().join(" ")
    }
}

fn content_of(batch: &Bytes) -> Content {
    let header = batch::checked(batch, true).unwrap();
    let mut records = Records::open(&header, batch).unwrap();
    let mut content = Vec::new();
    while let Some(record) = records.next() {
        let record = record.unwrap();
        let text = |place: Option<Range<usize>>| {
            place.map(|place| String::from_utf8(records.bytes()[place].to_vec()).unwrap())
        };
        let (offset, timestamp) = (header.offset_of(&record).0, header.timestamp_of(&record));
        content.push((offset, timestamp, text(record.key).unwrap(), text(record.value)));
    }
    content
}

#[test]
fn the_latest_record_of_each_key_stays_where_it_was() {
    Machine::run(|machine| async {
        let mut log = Compacted::new(machine, config());
        log.append_each("a1 b1 a2 c1 a3 b2 d1 d2 d3", 10);
        let cleaned = log.clean(100);
        // The last batches lie in the active segment, which is not cleaned.
        let active = log.log.segments.last().unwrap().base_offset();
        assert_eq!((cleaned.end, active), (Offset(8), Offset(8)));
        assert_eq!(log.text(), "3c1 4a3 5b2 7d2 8d3");
        assert_eq!((cleaned.records_before, cleaned.records_after), (8, 4));
        assert_eq!((log.log.log_start(), log.log.log_end()), (Offset(0), Offset(9)));
        assert!(log.content().iter().all(|record| record.1 == 10));
    });
}

#[test]
fn a_second_cleaning_goes_on_where_the_first_ended() {
    Machine::run(|machine| async {
        let mut log = Compacted::new(machine, config());
        log.append_each("a1 b1 a2 c1 a3 b2 d1 d2 d3", 10);
        log.clean(100);
        let segments = log.log.segments.len();
        log.append_each("c2 x1 x2 x3 x4", 11);
        log.clean(101);
        assert_eq!(log.text(), "4a3 5b2 8d3 9c2 11x2 12x3 13x4");
        assert_eq!(log.log.segments.len(), segments, "one was added, and two small ones became one");
    });
}

#[test]
fn a_tombstone_stays_until_the_horizon_that_the_first_cleaning_sets() {
    Machine::run(|machine| async {
        let mut log = Compacted::new(machine, config());
        log.append_each("a1 a- b1 b2 x1 x2 x3 x4 x5", 10);
        log.clean(5_000);
        assert_eq!(log.text(), "1a- 3b2 7x4 8x5");
        let header = Header::parse(&log.batches()[0]).unwrap();
        assert_eq!(header.delete_horizon_ms(), Some(5_000 + RETENTION_MS));
        assert_eq!((log.content()[0].1, header.max_timestamp), (10, 10), "timestamps are what they were");
        log.append_each("y1 y2 y3 y4 y5", 20);
        assert_eq!(log.clean(5_000 + RETENTION_MS - 1).tombstones, []);
        assert!(log.text().starts_with("1a- "), "{}", log.text());
        log.append_each("z1 z2 z3 z4 z5", 30);
        assert_eq!(log.clean(5_000 + RETENTION_MS).tombstones, [Offset(1)]);
        assert!(log.text().starts_with("3b2 "), "{}", log.text());
    });
}

#[test]
fn nothing_is_cleaned_beyond_the_high_watermark_or_younger_than_the_lag() {
    Machine::run(|machine| async {
        let lag = Duration::from_millis(50);
        let compaction = CompactionConfig { min_compaction_lag: lag, ..config().compaction };
        let mut log = Compacted::new(machine, LogConfig { compaction, ..config() });
        log.append_each("a1 a2 a3 a4 a5 a6", 100);
        log.append_each("b1 b2 b3 b4 b5 b6", 200);
        let bases: Vec<Offset> = log.log.segments.iter().map(Segment::base_offset).collect();
        assert_eq!(bases, [0, 4, 8].map(Offset));
        assert_eq!(log.log.dirt(None, 149).first_uncleanable, Offset(0), "younger than the lag");
        assert_eq!(log.log.dirt(None, 150).first_uncleanable, Offset(4));
        assert_eq!(log.log.dirt(None, 1_000).first_uncleanable, Offset(8));
        log.log.set_high_watermark(Offset(7));
        assert_eq!(log.log.dirt(None, 1_000).first_uncleanable, Offset(4), "the high watermark is in the second");
    });
}

#[test]
fn a_log_is_worth_cleaning_when_dirty_enough_or_for_too_long() {
    Machine::run(|machine| async {
        let compaction = CompactionConfig {
            min_cleanable_dirty_ratio: Ratio::from_millionths(600_000),
            max_compaction_lag_ms: 1_000,
            ..config().compaction
        };
        let mut log = Compacted::new(machine, LogConfig { compaction, ..config() });
        assert!(!log.log.is_worth_cleaning(&log.log.dirt(None, 0)), "an empty log");
        log.append_each("a1 b1 c1 d1 e1 f1 g1 h1 i1", 100);
        assert!(log.log.is_worth_cleaning(&log.log.dirt(None, 200)), "all of it is dirty");
        // Half of two sealed segments.
        let half = |now| log.log.dirt(Some(Offset(4)), now);
        assert_eq!((half(0).clean_bytes, half(0).is_overdue), (half(0).cleanable_bytes, false));
        assert!(!log.log.is_worth_cleaning(&half(1_100)));
        assert!(half(1_101).is_overdue && log.log.is_worth_cleaning(&half(1_101)));
        assert!(!log.log.is_worth_cleaning(&log.log.dirt(Some(Offset(8)), 9_999)), "nothing is left to clean");
        assert_eq!(half(0).cmp_ratio(&log.log.dirt(None, 0)), std::cmp::Ordering::Less);
    });
}

#[test]
fn a_checkpoint_off_the_log_means_that_everything_is_dirty() {
    Machine::run(|machine| async {
        let mut log = Compacted::new(machine, config());
        log.append_each("a1 b1 c1 d1 e1", 100);
        let dirt = log.log.dirt(Some(Offset(6)), 200);
        assert_eq!((dirt.first_dirty, dirt.checkpoint_was_invalid), (Offset(0), true));
        assert!(!log.log.dirt(Some(Offset(5)), 200).checkpoint_was_invalid);
    });
}

#[test]
fn the_last_batch_of_a_round_and_of_a_producer_stay_even_if_they_are_empty() {
    Machine::run(|machine| async {
        let mut log = Compacted::new(machine, config());
        let of_producer = |batch: &Bytes, base_sequence| {
            let header = Header { producer_id: 7, producer_epoch: 1, base_sequence, ..Header::parse(batch).unwrap() };
            batch::encode(&header, &batch[batch::HEADER_BYTES..])
        };
        for (value, sequence) in [("1", 5), ("2", 7)] {
            let batch = of_producer(&keyed_batch(&[("a", Some(value)), ("b", Some(value))], 10), sequence);
            log.log.append_from_client(&batch, EPOCH, 0).unwrap();
        }
        log.append_each("a3 b3 c1 c2", 10);
        log.append_each("c3", 10);
        log.log.set_high_watermark(log.log.log_end());
        log.clean(100);
        log.append_each("c4 c5 c6 c7 c8", 10);
        log.clean(200);
        let empty: Vec<Header> =
            log.batches().iter().map(|batch| Header::parse(batch).unwrap()).filter(|h| h.records_count == 0).collect();
        let of = |offset| empty.iter().find(|header| header.last_offset() == Offset(offset));
        let last_of_producer = of(3).expect("the producer's last batch");
        assert_eq!((last_of_producer.producer_id, last_of_producer.base_sequence), (7, 7));
        assert_eq!(last_of_producer.base_offset, Offset(2));
        assert_eq!(of(1), None, "the one before it is not needed");
    });
}

#[test]
fn a_compressed_batch_stays_compressed() {
    for compression in ALL {
        Machine::run(|machine| async move {
            let compression_type = StoredCompression::Fixed(compression);
            let mut log = Compacted::new(machine, LogConfig { compression: compression_type, ..config() });
            for value in ["1", "2", "3", "4", "5"] {
                log.append(&[("a", Some(value)), (value, Some("x"))], 10);
            }
            log.clean(100);
            let sealed = log.content().into_iter().filter(|(offset, ..)| *offset < log.checkpoint.unwrap().0);
            let keys: Vec<String> = sealed.map(|(_, _, key, _)| key).collect();
            assert_eq!(keys.iter().filter(|key| *key == "a").count(), 1, "{keys:?}");
            for batch in log.batches() {
                let header = Header::parse(&batch).unwrap();
                assert_eq!(compression::of_attributes(header.attributes), Ok(compression));
            }
        });
    }
}

#[test]
fn a_compacted_log_takes_no_record_without_a_key() {
    Machine::run(|machine| async {
        let mut log = Compacted::new(machine, config());
        let refused = log.log.append_from_client(&batch_of(1, 10, 0), EPOCH, 0).unwrap_err();
        assert!(matches!(refused, AppendError::Batch(error) if error.error_code() == ErrorCode::InvalidRecord));
    });
}

#[test]
fn a_batch_that_cannot_be_read_stops_the_cleaning_and_changes_nothing() {
    Machine::run(|machine| async {
        let mut log =
            Compacted::new(machine, LogConfig { compression: StoredCompression::Fixed(Compression::Gzip), ..config() });
        log.append_each("a1 a2 a3 a4 a5 a6", 10);
        let path = "data/orders-0/00000000000000000000.log";
        crate::log::testing::flip_bit(&log.machine.disk(), path, batch::HEADER_BYTES as u64);
        let dirt = log.log.dirt(None, 100);
        let error = log.log.clean(&dirt, 100, OFFSET_MAP_KEYS).unwrap_err();
        assert!(matches!(error, CleanError::Corrupt { at: Offset(0), error: BatchError::Decompression }), "{error}");
        let names = log.machine.disk().read_dir("data/orders-0").unwrap();
        assert!(names.iter().all(|name| !name.contains("cleaned") && !name.contains("swap")), "{names:?}");
    });
}

#[test]
fn what_was_cleaned_survives_a_power_loss() {
    Machine::run(|machine| async {
        let mut log = Compacted::new(machine, config());
        log.append_each("a1 b1 a2 c1 a3 b2 d1 d2 d3", 10);
        log.log.flush().unwrap();
        log.clean(100);
        let disk = log.machine.lose_power().await;
        assert_eq!(log.reopen(&disk), None);
        assert_eq!(log.text(), "3c1 4a3 5b2 7d2 8d3");
    });
}

/// If the checkpoint were believed the key would come back to life: its value was never held against its tombstone, which goes.
#[test]
fn what_is_appended_after_recovery_cut_the_log_is_dirty_whatever_was_clean_before() {
    Machine::run(|machine| async {
        let mut log = Compacted::new(machine, config());
        log.append_each("x1 x2 x3 x4 x5 x6 x7 x8 x9", 10);
        log.log.flush().unwrap();
        let cleaned = log.clean(100);
        log.directory.checkpoint_cleaned(orders(), cleaned.end).unwrap();
        assert_eq!((cleaned.end, log.text().as_str()), (Offset(8), "7x8 8x9"));
        let path = "data/orders-0/00000000000000000004.log";
        crate::log::testing::flip_bit(&log.machine.disk(), path, batch::HEADER_BYTES as u64);
        let disk = log.machine.kill().await;
        log.reopen(&disk);
        assert_eq!(log.log.log_end(), Offset(4), "recovery cuts at the rotten batch");
        log.append_each("k1 k- y1 y2 y3 y4 y5 y6 y7 y8 y9", 20);
        log.checkpoint = log.directory.cleaned_to(&orders());
        for wall_clock_ms in [200, 200 + RETENTION_MS] {
            log.clean(wall_clock_ms);
            log.append_each("z1 z2 z3 z4 z5", 30);
        }
        log.clean(200 + 2 * RETENTION_MS);
        assert!(!log.text().contains('k'), "{}", log.text());
    });
}

/// The steps of a compaction of `log`, its first group, with the cleaned segment written.
fn prepared(log: &mut Compacted) -> Vec<Step> {
    let dirt = log.log.dirt(None, 100);
    let map = log.log.build_offset_map(&dirt, OFFSET_MAP_KEYS).unwrap();
    let end = map.latest.unwrap() + 1;
    let mut filter = Filter {
        map,
        wall_clock_ms: 100,
        delete_retention_ms: RETENTION_MS,
        horizon_by_mtime: None,
        modified_ms: 100,
        round_end: dirt.first_uncleanable,
        last_batch_of_producer: BTreeMap::new(),
        records_before: 0,
        records_after: 0,
        tombstones: Vec::new(),
    };
    let group = log.log.group_segments(end, dirt.first_uncleanable)[0];
    assert!(group > 1, "several segments become one");
    let cleaned = log.log.clean_segments(0..group, &mut filter).unwrap();
    let originals: Vec<Offset> = log.log.segments[..group].iter().map(Segment::base_offset).collect();
    swap::steps("data/orders-0", cleaned.base_offset(), &originals)
}

#[test]
fn a_compaction_interrupted_between_any_two_disk_calls_happened_or_did_not() {
    const BEFORE: &str = "0a1 1b1 2a2 3a3 4a4 5a5 6a6 7a7 8d1 9d2";
    const AFTER: &str = "1b1 7a7 8d1 9d2";
    let crash = |done: usize, is_power_loss: bool| {
        Machine::run(|machine| async move {
            let mut log = Compacted::new(machine, LogConfig { segment_bytes: 300, ..config() });
            log.append_each("a1 b1 a2 a3 a4 a5 a6 a7 d1 d2", 10);
            log.log.flush().unwrap();
            // So that both segments fit into one.
            log.log.config.segment_bytes = 1_000;
            let steps = prepared(&mut log);
            for step in &steps[..done.min(steps.len())] {
                step.run(&log.machine.disk()).unwrap();
            }
            let disk = if is_power_loss { log.machine.lose_power().await } else { log.machine.kill().await };
            let finished = log.reopen(&disk);
            let names = disk.read_dir("data/orders-0").unwrap();
            assert!(names.iter().all(|name| !name.contains("cleaned") && !name.contains("swap")), "{names:?}");
            let once = log.text();
            // Renames that the power loss takes back are done again.
            let disk = log.machine.lose_power().await;
            log.reopen(&disk);
            assert_eq!(log.text(), once);
            (once, finished.is_some(), steps.len())
        })
    };
    let (_, _, count) = crash(0, false);
    assert_eq!(count, 3 + 1 + 2 * 3 + 1 + 3 + 1);
    for done in 0..=count {
        let (killed, finished, _) = crash(done, false);
        assert_eq!(killed, if done < 3 { BEFORE } else { AFTER }, "killed after {done} disk calls");
        assert_eq!(finished, (3..=11).contains(&done), "{done}");
        let (lost_power, _, _) = crash(done, true);
        assert_eq!(lost_power, if done < 4 { BEFORE } else { AFTER }, "power lost after {done} disk calls");
    }
}

/// Not the swap alone: also while cleaned segments are written, and the checkpoint after them.
#[test]
fn a_compaction_that_dies_at_any_disk_call_can_be_done_again() {
    let finishes = |calls: u64, is_power_loss: bool| {
        Machine::run(|machine| async move {
            let mut log = Compacted::new(machine, config());
            log.append_each("a1 b1 a2 c1 a3 b2 d1 d2 d3", 10);
            log.log.flush().unwrap();
            let before = log.content();
            log.machine.crash_after_disk_calls(calls);
            let dirt = log.log.dirt(None, 100);
            let cleaned = log.log.clean(&dirt, 100, OFFSET_MAP_KEYS);
            let is_done = cleaned.is_ok_and(|cleaned| log.directory.checkpoint_cleaned(orders(), cleaned.end).is_ok());
            let disk = if is_power_loss { log.machine.lose_power().await } else { log.machine.kill().await };
            log.reopen(&disk);
            let mut rest = before.iter();
            assert!(log.content().iter().all(|record| rest.any(|other| other == record)), "as it was, in order");
            log.log.set_high_watermark(log.log.log_end());
            if log.directory.cleaned_to(&orders()).is_none() {
                log.clean(100);
            }
            assert_eq!(log.text(), "3c1 4a3 5b2 7d2 8d3", "after {calls} disk calls");
            is_done
        })
    };
    let mut calls = 0;
    while !(finishes(calls, true) & finishes(calls, false)) {
        calls += 1;
    }
    assert!(calls > 20, "a compaction takes more than {calls} disk calls");
}

#[derive(Clone, Debug)]
enum Op {
    /// (key, has a value) of each record.
    Append(Vec<(u8, bool)>),
    Wait(i64),
    /// How many records from the log end the high watermark is.
    HighWatermark(i64),
    Clean,
    LosePower,
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    let records = proptest::collection::vec((0..6u8, proptest::bool::weighted(0.8)), 1..5);
    prop_oneof![
        12 => records.prop_map(Op::Append),
        2 => (1..RETENTION_MS).prop_map(Op::Wait),
        2 => (0..12i64).prop_map(Op::HighWatermark),
        4 => Just(Op::Clean),
        1 => Just(Op::LosePower),
        1 => Just(Op::Kill),
    ]
}

/// The log as it must be: its records by batch, each batch with its delete horizon.
#[derive(Default)]
struct Model {
    batches: Vec<(Option<i64>, Content)>,
    end: i64,
    values: i64,
}

impl Model {
    fn content(&self) -> Content {
        self.batches.iter().flat_map(|(_, records)| records.clone()).collect()
    }

    /// A cleaning of everything below `end` at `now`: a record goes if one below `end` has its key and is later, a
    /// tombstone also if its batch's horizon is over.
    fn clean(&mut self, end: i64, now: i64) {
        let below: Content = self.content().into_iter().filter(|(offset, ..)| *offset < end).collect();
        let latest: BTreeMap<String, i64> = below.into_iter().map(|(offset, _, key, _)| (key, offset)).collect();
        for (horizon, records) in &mut self.batches {
            let is_over = horizon.is_some_and(|horizon| horizon <= now);
            records.retain(|(offset, _, key, value)| {
                *offset >= end || (latest[key] == *offset && (value.is_some() || !is_over))
            });
            if horizon.is_none() && records.iter().any(|(offset, _, _, value)| *offset < end && value.is_none()) {
                *horizon = Some(now + RETENTION_MS);
            }
        }
    }
}

fn compression() -> impl Strategy<Value = StoredCompression> {
    prop_oneof![Just(StoredCompression::Producer), (0..5usize).prop_map(|code| StoredCompression::Fixed(ALL[code]))]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compaction_is_what_a_plain_model_says(
        ops in proptest::collection::vec(op(), 1..60), segment_bytes in 150..900u64, compression in compression(),
    ) {
        let config = LogConfig { segment_bytes, compression, flush_messages: 1, ..config() };
        Machine::run(|machine| async move {
            let (mut log, mut model, mut now) = (Compacted::new(machine, config), Model::default(), 10_000);
            for op in &ops {
                match op {
                    Op::Append(records) => {
                        let mut batch = Content::new();
                        for (index, (key, has_value)) in (0..).zip(records) {
                            model.values += 1;
                            let value = has_value.then(|| model.values.to_string());
                            batch.push((model.end + index, now + index, key.to_string(), value));
                        }
                        let keyed: Vec<_> = batch.iter().map(|(_, _, key, value)| (&key[..], value.as_deref())).collect();
                        let high_watermark = log.log.high_watermark();
                        log.append(&keyed, now);
                        log.log.set_high_watermark(high_watermark);
                        model.end += records.len() as i64;
                        model.batches.push((None, batch));
                    }
                    Op::Wait(ms) => now += ms,
                    Op::HighWatermark(below) => {
                        log.log.set_high_watermark(Offset((model.end - below).max(0)));
                    }
                    Op::Clean => {
                        let dirt = log.log.dirt(log.checkpoint, now);
                        if log.log.is_worth_cleaning(&dirt) {
                            assert!(dirt.first_uncleanable <= log.log.high_watermark());
                            let cleaned = log.clean(now);
                            assert_eq!(cleaned.end, dirt.first_uncleanable);
                            model.clean(cleaned.end.0, now);
                            assert_eq!(cleaned.rewritten.batches, log.log.batches()[..cleaned.rewritten.batches.len()]);
                        }
                    }
                    Op::LosePower | Op::Kill => {
                        let disk = match op {
                            Op::LosePower => log.machine.lose_power().await,
                            _ => log.machine.kill().await,
                        };
                        assert_eq!(log.reopen(&disk), None);
                    }
                }
                assert_eq!(log.content(), model.content());
                assert_eq!(log.log.log_end(), Offset(model.end));
                for batch in log.batches() {
                    assert_eq!(Header::parse(&batch).unwrap().leader_epoch, EPOCH);
                }
            }
        });
    }

    #[test]
    fn with_little_memory_every_key_still_keeps_its_latest_record(
        records in proptest::collection::vec((0..9u8, any::<bool>()), 1..80), keys_max in 1..4usize, rounds in 1..6usize,
    ) {
        Machine::run(|machine| async move {
            let mut log = Compacted::new(machine, config());
            for (index, (key, has_value)) in records.iter().enumerate() {
                log.append(&[(&key.to_string(), has_value.then_some(&index.to_string()))], 10);
            }
            let all = log.content();
            for _ in 0..rounds {
                let dirt = log.log.dirt(log.checkpoint, 100);
                let cleaned = log.log.clean(&dirt, 100, keys_max).unwrap();
                assert!(cleaned.end <= dirt.first_uncleanable);
                assert!(cleaned.end > dirt.first_dirty || dirt.cleanable_bytes == 0, "a round makes progress");
                log.checkpoint = Some(cleaned.end);
            }
            let kept = log.content();
            let latest = |content: &Content| -> BTreeMap<String, i64> {
                content.iter().map(|(offset, _, key, _)| (key.clone(), *offset)).collect()
            };
            assert_eq!(latest(&kept), latest(&all));
            let mut rest = all.iter();
            assert!(kept.iter().all(|record| rest.any(|other| other == record)), "what is kept is as it was, in order");
        });
    }
}
