//! The ledger's rows about the log: appends, recovery and reads on the simulated disk, beside the same bytes copied
//! and checked in plain memory.

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::bench::{Row, stopwatch};
use crate::defect::Defects;
use crate::log::batch::{self, HEADER_BYTES, Header};
use crate::log::{Log, LogConfig, LogDirectory};
use crate::protocol::{LeaderEpoch, Offset, TopicPartition};
use crate::world::Disk;
use crate::world::sim::{SimConfig, Simulation};

const BATCH_BYTES: usize = 1024;
const BATCHES: usize = 100_000;
const TOTAL: f64 = (BATCH_BYTES * BATCHES) as f64;
const READ_BYTES: usize = 1 << 20;

/// Measures all of them.
pub fn rows() -> Vec<Row> {
    let batch = batch_of_bytes(BATCH_BYTES);
    let mut memory = vec![0; BATCH_BYTES * BATCHES];
    let bare_append = measured(|| bare_append(&batch, &mut memory));
    let bare_scan = measured(|| bare_scan(&memory));
    drop(memory);
    let disk = disk();
    let disk_append = measured(|| append_to_file(&disk, &batch));
    let mut log = create_log(&disk);
    let append = measured(|| append_to_log(&mut log, &batch));
    let read = measured(|| read_log(&log));
    log.flush().expect("the disk has no faults");
    drop(log);
    let recovery = measured(|| recover(&disk));
    let share = |bare: Duration, took: Duration| {
        format!("1 KiB batches; {:.0} % of the bare loop", 100.0 * bare.as_secs_f64() / took.as_secs_f64())
    };
    vec![
        row("bare append: memcpy + CRC-32C", bare_append, "1 KiB each, preallocated".to_owned()),
        row("simulated disk: append", disk_append, "1 KiB each, the same bytes".to_owned()),
        row("log: append as leader", append, share(bare_append, append)),
        row("bare scan: CRC-32C", bare_scan, "headers and CRCs in one piece of memory".to_owned()),
        row("log: recovery", recovery, share(bare_scan, recovery)),
        row("log: read", read, "1 MiB each, as Bytes".to_owned()),
    ]
}

fn row(name: &'static str, took: Duration, detail: String) -> Row {
    Row { name, value: TOTAL / took.as_secs_f64() / 1e9, unit: "GB / s", detail }
}

fn measured(work: impl FnOnce()) -> Duration {
    let clock = stopwatch();
    work();
    clock.elapsed()
}

/// A producer's batch of one record, of exactly so many bytes.
fn batch_of_bytes(bytes: usize) -> Bytes {
    let header = Header {
        base_offset: Offset::ZERO,
        size_bytes: 0,
        leader_epoch: LeaderEpoch::NONE,
        crc: 0,
        attributes: 0,
        last_offset_delta: 0,
        base_timestamp: 0,
        max_timestamp: 0,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        records_count: 1,
    };
    batch::encode(&header, &vec![7; bytes - HEADER_BYTES])
}

fn bare_append(batch: &Bytes, memory: &mut [u8]) {
    for place in memory.chunks_exact_mut(BATCH_BYTES) {
        place.copy_from_slice(batch);
        black_box(batch::checked(place, true).expect("the batch is whole"));
    }
}

fn bare_scan(memory: &[u8]) {
    for place in memory.chunks_exact(BATCH_BYTES) {
        black_box(batch::checked(place, true).expect("the batch is whole"));
    }
}

/// The disk of a simulated machine. The simulation is over, its clock with it; the disk goes on.
fn disk() -> Disk {
    let disk = Arc::new(Mutex::new(None));
    let of_process = disk.clone();
    Simulation::block_on(1, SimConfig::default(), |simulation| async move {
        simulation.add_machine("bench", false, move |world, _net| {
            *of_process.lock().expect("nobody panics") = Some(world.disk());
            Box::pin(std::future::pending())
        });
        simulation.start("bench");
        simulation.sleep_until(simulation.now() + Duration::from_millis(1)).await;
    });
    disk.lock().expect("nobody panics").take().expect("the process has started")
}

fn append_to_file(disk: &Disk, batch: &Bytes) {
    let mut file = disk.create("plain").expect("the disk has no faults");
    for _ in 0..BATCHES {
        file.append(batch).expect("the disk has no faults");
    }
}

fn open(disk: &Disk) -> (LogDirectory, Option<Log>) {
<<<<<<< HEAD
    let config = |_: &TopicPartition| LogConfig::default();
    let opened = LogDirectory::open(disk.clone(), "data", config, uuid::Uuid::nil, Defects::default());
=======
    let opened = LogDirectory::open(disk.clone(), "data", |_| LogConfig::default(), uuid::Uuid::nil, Defects::NONE);
>>>>>>> main
    let (directory, logs) = opened.expect("the disk has no faults");
    (directory, logs.into_iter().next().map(|loaded| loaded.log))
}

fn create_log(disk: &Disk) -> Log {
    let partition = TopicPartition::new("bench", 0);
    let (mut directory, _) = open(disk);
    directory.create_log(&partition, uuid::Uuid::nil(), LogConfig::default()).expect("the disk has no faults")
}

fn append_to_log(log: &mut Log, batch: &Bytes) {
    for _ in 0..BATCHES {
        black_box(log.append_from_client(batch, LeaderEpoch(1), 0).expect("the batch is whole"));
    }
}

fn read_log(log: &Log) {
    let mut at = log.log_start();
    while at < log.log_end() {
        let read = log.read(at, log.log_end(), READ_BYTES, true).expect("the disk has no faults");
        at = at + (read.len() / BATCH_BYTES) as i64;
        black_box(read);
    }
}

fn recover(disk: &Disk) {
    let (_, log) = open(disk);
    assert_eq!(log.expect("the log is there").log_end(), Offset(BATCHES as i64));
}
