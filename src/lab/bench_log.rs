//! The ledger's rows about the log: appends, recovery and reads on the simulated disk, beside the same bytes copied
//! and checked in plain memory.

use std::hint::black_box;
use std::sync::mpsc;
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
/// How many batches the ledger's rows are made of.
pub const BATCHES: usize = 100_000;
const READ_BYTES: usize = 1 << 20;
const ROUNDS: usize = 5;

/// The rows' names, in their order.
pub const NAMES: [&str; 8] = [
    "bare append: memcpy + CRC-32C",
    "simulated disk: append",
    "log: append as leader",
    "bare append, untouched memory",
    "log: append, untouched memory",
    "bare scan: CRC-32C",
    "log: recovery",
    "log: read",
];

/// Measures all of them with so many batches.
pub fn rows(batches: usize) -> Vec<Row> {
    let batch = batch_of_bytes(BATCH_BYTES);
    let mut memory = vec![0; BATCH_BYTES * batches];
    let bare_fresh = measured(|| bare_append(&batch, &mut memory));
    let bare_append = best(|| bare_append(&batch, &mut memory));
    let bare_scan = best(|| bare_scan(&memory));
    drop(memory);
    let OnDisk { fresh, file, append, read, recovery } = with_disk(|disk| on_disk(&disk, &batch, batches));
    let total = (BATCH_BYTES * batches) as f64;
    let row =
        |name, took: Duration, detail| Row { name, value: total / took.as_secs_f64() / 1e9, unit: "GB / s", detail };
    let share = |bare: Duration, took: Duration| {
        format!("1 KiB batches; {:.0} % of the bare loop", 100.0 * bare.as_secs_f64() / took.as_secs_f64())
    };
    let read_share = 100.0 * bare_scan.as_secs_f64() / read.as_secs_f64();
    let read_detail = format!("1 MiB each, with a CRC-32C over it; {read_share:.0} % of the bare scan");
    let rows = [
        (bare_append, "1 KiB each, preallocated; the best of 5, as below".to_owned()),
        (file, "1 KiB each, the same bytes".to_owned()),
        (append, share(bare_append, append)),
        (bare_fresh, "the same, where the system has yet to find the pages".to_owned()),
        (fresh, share(bare_fresh, fresh)),
        (bare_scan, "headers and CRCs in one piece of memory".to_owned()),
        (recovery, share(bare_scan, recovery)),
        (read, read_detail),
    ];
    NAMES.into_iter().zip(rows).map(|(name, (took, detail))| row(name, took, detail)).collect()
}

/// What the same bytes cost on the simulated disk. All but `fresh` find their memory used before, as the bare loops do.
struct OnDisk {
    /// Appends of the log to memory that the process never had.
    fresh: Duration,
    file: Duration,
    append: Duration,
    read: Duration,
    recovery: Duration,
}

fn on_disk(disk: &Disk, batch: &Bytes, batches: usize) -> OnDisk {
    let mut log = create_log(disk);
    let fresh = measured(|| append_to_log(&mut log, batch, batches));
    // An allocator may give back what is free at the end of its heap; with something behind it nothing is.
    let _last = disk.create("last").expect("the disk has no faults").append(batch);
    let (mut file, mut append) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        log.truncate_fully_and_start_at(Offset::ZERO).expect("the disk has no faults");
        file = file.min(measured(|| append_to_file(disk, batch, batches)));
        disk.remove_file("plain").and_then(|()| disk.sync_dir("")).expect("the disk has no faults");
        append = append.min(measured(|| append_to_log(&mut log, batch, batches)));
    }
    let read = best(|| read_log(&log));
    drop(log);
    let recovery = best(|| recover(disk, batches));
    OnDisk { fresh, file, append, read, recovery }
}

fn measured(work: impl FnOnce()) -> Duration {
    let clock = stopwatch();
    work();
    clock.elapsed()
}

/// The shortest of several rounds: what the machine does besides only ever adds to one.
fn best(mut work: impl FnMut()) -> Duration {
    (0..ROUNDS).map(|_| measured(&mut work)).min().expect("there are rounds")
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

/// Runs `work` with the disk of a simulated machine, on this thread and so by the real clock: the simulation stands
/// still on another one meanwhile.
fn with_disk<T>(work: impl FnOnce(Disk) -> T) -> T {
    let (give, taken) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    let simulation = std::thread::spawn(move || {
        Simulation::block_on(1, SimConfig::default(), |simulation| async move {
            simulation.add_machine("bench", false, move |world, _net| {
                give.send(world.disk()).expect("the other side waits for it");
                Box::pin(std::future::pending())
            });
            simulation.start("bench");
            simulation.sleep_until(simulation.now() + Duration::from_millis(1)).await;
            // Ends when the other side is gone.
            let _ = finished.recv();
        });
    });
    let result = work(taken.recv().expect("the process starts"));
    drop(finish);
    simulation.join().expect("the simulation does not panic");
    result
}

fn append_to_file(disk: &Disk, batch: &Bytes, batches: usize) {
    let mut file = disk.create("plain").expect("the disk has no faults");
    for _ in 0..batches {
        file.append(batch).expect("the disk has no faults");
    }
}

fn open(disk: &Disk) -> (LogDirectory, Option<Log>) {
    let opened = LogDirectory::open(disk.clone(), "data", |_| LogConfig::default(), uuid::Uuid::nil, Defects::NONE);
    let (directory, logs) = opened.expect("the disk has no faults");
    (directory, logs.into_iter().next().map(|loaded| loaded.log))
}

fn create_log(disk: &Disk) -> Log {
    let partition = TopicPartition::new("bench", 0);
    let (mut directory, _) = open(disk);
    directory.create_log(&partition, uuid::Uuid::nil(), LogConfig::default()).expect("the disk has no faults")
}

fn append_to_log(log: &mut Log, batch: &Bytes, batches: usize) {
    for _ in 0..batches {
        black_box(log.append_from_client(batch, LeaderEpoch(1), 0).expect("the batch is whole"));
    }
}

/// Reads are slices of the page cache: what is read is looked at, as a reader of records would.
fn read_log(log: &Log) {
    let mut at = log.log_start();
    while at < log.log_end() {
        let read = log.read(at, log.log_end(), READ_BYTES, true).expect("the disk has no faults");
        at = at + (read.len() / BATCH_BYTES) as i64;
        read.pieces().for_each(|piece| _ = black_box(batch::crc32c(piece)));
    }
}

fn recover(disk: &Disk, batches: usize) {
    let (_, log) = open(disk);
    assert_eq!(log.expect("the log is there").log_end(), Offset(batches as i64));
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_row_of_the_log_is_measured() {
        let rows = super::rows(500);
        assert_eq!(rows.len(), 8);
        assert!(rows.iter().all(|row| row.value > 0.0 && row.unit == "GB / s"), "{rows:?}");
    }
}
