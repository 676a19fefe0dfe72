//! What the log's tests share: batches, and a machine whose process and power can be cut.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use uuid::Uuid;

use super::batch;
use super::config::LogConfig;
use super::directory::{LoadedLog, LogDirectory};
use super::{Log, RecoveryReport};
use crate::protocol::{LeaderEpoch, Offset, TopicPartition};
use crate::world::Disk;
use crate::world::sim::{Chooser, SimConfig, Simulation};

/// A producer's batch of `count` records with values of `value_bytes`, at `timestamp`, `timestamp + 1`, ….
pub fn batch_of(count: usize, value_bytes: usize, timestamp: i64) -> Bytes {
    batch_at(&(0..count as i64).map(|at| timestamp + at).collect::<Vec<_>>(), value_bytes)
}

/// A producer's batch with one record per timestamp.
pub fn batch_at(timestamps: &[i64], value_bytes: usize) -> Bytes {
    let records: Vec<Record> =
        timestamps.iter().enumerate().map(|(at, &timestamp)| record(at, timestamp, value_bytes)).collect();
    let mut buffer = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut buffer, &records, &options).unwrap();
    buffer.freeze()
}

fn record(at: usize, timestamp: i64, value_bytes: usize) -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset: at as i64,
        // The encoder begins another batch where offset and sequence do not run in step.
        sequence: at as i32,
        timestamp,
        key: None,
        value: Some(vec![timestamp as u8; value_bytes].into()),
        headers: Default::default(),
    }
}

/// A producer's batch of keyed records, at `timestamp`, `timestamp + 1`, …; a value of `None` is a tombstone.
pub fn keyed_batch(records: &[(&str, Option<&str>)], timestamp: i64) -> Bytes {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let keyed = |(at, (key, value)): (usize, &(&str, Option<&str>))| Record {
        key: Some(bytes(key)),
        value: value.map(bytes),
        ..record(at, timestamp + at as i64, 0)
    };
    let records: Vec<Record> = records.iter().enumerate().map(keyed).collect();
    let mut buffer = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut buffer, &records, &options).unwrap();
    buffer.freeze()
}

/// The batch as a leader of `epoch` stores it at `base_offset`.
pub fn stored(batch: &Bytes, base_offset: i64, epoch: i32) -> Bytes {
    let mut bytes = batch.to_vec();
    batch::stamp(&mut bytes, Offset(base_offset), LeaderEpoch(epoch));
    bytes.into()
}

pub fn concat(batches: &[Bytes]) -> Bytes {
    batches.concat().into()
}

pub fn orders() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

pub const TOPIC_ID: Uuid = Uuid::from_u128(7);
pub const DIRECTORY_ID: Uuid = Uuid::from_u128(8);

/// Opens the log directory `data`.
pub fn open_directory(disk: &Disk, config: &LogConfig) -> (LogDirectory, Vec<LoadedLog>) {
    try_open_directory(disk, config).expect("the log directory opens")
}

pub fn try_open_directory(disk: &Disk, config: &LogConfig) -> std::io::Result<(LogDirectory, Vec<LoadedLog>)> {
    LogDirectory::open(disk.clone(), "data", |_| config.clone(), || DIRECTORY_ID, config.defects)
}

/// One simulated machine. Its process does nothing; the test acts on the disk in its place.
pub struct Machine {
    simulation: Simulation,
    disk: Arc<Mutex<Option<Disk>>>,
}

const NAME: &str = "broker-1";

impl Machine {
    /// Runs a test on a fresh machine.
    pub fn run<T, F: Future<Output = T>>(test: impl FnOnce(Machine) -> F) -> T {
        Simulation::block_on(1, SimConfig::default(), |simulation| async move {
            let disk = Arc::new(Mutex::new(None));
            let of_process = disk.clone();
            simulation.add_machine(NAME, false, move |world, _endpoint| {
                *of_process.lock().unwrap() = Some(world.disk());
                Box::pin(std::future::pending())
            });
            let machine = Machine { simulation, disk };
            machine.boot().await;
            test(machine).await
        })
    }

    async fn boot(&self) {
        self.simulation.start(NAME);
        self.simulation.sleep_until(self.simulation.now() + Duration::from_millis(1)).await;
    }

    /// The disk of the process that runs.
    pub fn disk(&self) -> Disk {
        self.disk.lock().unwrap().clone().expect("the process has started")
    }

    /// Kills the process and starts another: the page cache stays.
    pub async fn kill(&self) -> Disk {
        self.simulation.kill(NAME);
        self.boot().await;
        self.disk()
    }

    /// Cuts the power and boots again: what was not synced is gone.
    pub async fn lose_power(&self) -> Disk {
        self.simulation.power_off(NAME);
        self.boot().await;
        self.disk()
    }
}

impl Machine {
    /// Cuts the power and boots again; `choose` says what survives of what was not synced.
    pub async fn lose_power_choosing(&self, choose: &mut Chooser<'_>) -> Disk {
        self.simulation.power_off_choosing(NAME, choose);
        self.boot().await;
        self.disk()
    }

    /// The process gets to make so many more changes to the disk; every one after them fails.
    pub fn crash_after_disk_calls(&self, calls: u64) {
        self.simulation.crash_after_disk_calls(NAME, calls);
    }

    /// Flips the bits of `mask` in one byte of a file, on the medium and in the page cache.
    pub fn rot(&self, path: &str, position: u64, mask: u8) -> std::io::Result<()> {
        self.simulation.rot(NAME, path, position, mask)
    }
}

/// The file's bytes.
pub fn read(disk: &Disk, path: &str) -> Vec<u8> {
    let file = disk.open(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    file.read_at(0, file.len() as usize).unwrap().to_vec()
}

/// Flips one bit of a file, on the disk itself.
pub fn flip_bit(disk: &Disk, path: &str, position: u64) {
    let mut file = disk.open(path).unwrap();
    let byte = file.read_at(position, 1).unwrap()[0];
    file.write_at(position, &[byte ^ 0x04]).unwrap();
    file.sync().unwrap();
}

/// Two batches of 100-byte records make a segment.
pub fn small_segments() -> LogConfig {
    LogConfig { segment_bytes: 400, ..LogConfig::default() }
}

/// A new log in a new directory.
pub fn create(disk: &Disk, config: &LogConfig) -> (LogDirectory, Log) {
    let (mut directory, logs) = open_directory(disk, config);
    assert!(logs.is_empty());
    let log = directory.create_log(&orders(), TOPIC_ID, config.clone()).unwrap();
    (directory, log)
}

/// The log as the next process finds it.
pub fn reopen(disk: &Disk, config: &LogConfig) -> (LogDirectory, Log, RecoveryReport) {
    let (directory, mut logs) = open_directory(disk, config);
    let loaded = logs.pop().expect("the log is there");
    assert!(logs.is_empty() && loaded.partition == orders() && loaded.topic_id == TOPIC_ID);
    (directory, loaded.log, loaded.recovery)
}

/// Appends a producer's batch; its first and last offset.
pub fn append(log: &mut Log, count: usize, epoch: i32) -> (i64, i64) {
    let appended = log.append_from_client(&batch_of(count, 100, 1_000), LeaderEpoch(epoch), 0).unwrap();
    (appended.base_offset.0, appended.last_offset.0)
}
