//! Each fault of a disk has its effect, where its scope says and nowhere else, until it ends.

use std::time::Duration;

use glob::Pattern;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn everywhere() -> DiskScope {
    DiskScope::default()
}

fn files(pattern: &str) -> DiskScope {
    DiskScope { log_dir: None, files: Some(Pattern::new(pattern).unwrap()) }
}

/// A synced file of `len` ones with a durable entry.
fn file_of(disk: &Disk, path: &str, len: usize) -> File {
    let mut file = disk.create(path).unwrap();
    file.append(&vec![1; len]).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    file
}

const EIO: Option<i32> = Some(5);
const ENOSPC: Option<i32> = Some(28);

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_failed_fsync_leaves_pages_that_count_as_clean_and_are_not_on_the_medium() {
    on_disk(1, |sim, disk, observer| {
        let mut file = file_of(disk, "log", 2 * PAGE);
        file.append(&[2; PAGE]).unwrap();
        let fault = sim.begin_disk_fault("a", DiskFault::SyncFail, everywhere());
        assert_eq!(errno(file.sync()), EIO);
        sim.end_disk_fault("a", fault);
        file.append(&[3; PAGE]).unwrap();
        file.sync().expect("the second fsync succeeds");
        assert_eq!(content(observer, "log")[2 * PAGE], 2, "the page cache still has it");
        sim.power_off("a");
        let bytes = content(observer, "log");
        assert_eq!((bytes.len(), bytes[2 * PAGE], bytes[3 * PAGE]), (4 * PAGE, 0, 3));
    });
}

#[test]
fn a_lying_fsync_keeps_nothing_until_an_honest_one() {
    on_disk(1, |sim, disk, observer| {
        let mut file = file_of(disk, "log", 1);
        let fault = sim.begin_disk_fault("a", DiskFault::SyncLie, everywhere());
        file.append(b"23").unwrap();
        file.sync().unwrap();
        disk.create("other").unwrap();
        disk.sync_dir("").unwrap();
        sim.end_disk_fault("a", fault);
        sim.power_off("a");
        assert_eq!(content(observer, "log"), [1]);
        assert!(!observer.exists("other"), "a directory's fsync lies too");
    });
    on_disk(1, |sim, disk, observer| {
        let mut file = file_of(disk, "log", 1);
        let fault = sim.begin_disk_fault("a", DiskFault::SyncLie, everywhere());
        file.append(b"23").unwrap();
        file.sync().unwrap();
        sim.end_disk_fault("a", fault);
        file.sync().unwrap();
        sim.power_off("a");
        assert_eq!(content(observer, "log").len(), 3);
    });
}

#[test]
fn slow_operations_are_waited_for_and_only_those() {
    on_disk(1, |sim, disk, _| {
        let mut file = file_of(disk, "log", 10);
        for fault in [DiskFault::SyncSlow(MS), DiskFault::ReadSlow(10 * MS), DiskFault::WriteSlow(100 * MS)] {
            sim.begin_disk_fault("a", fault, everywhere());
        }
        let waited = |disk: &Disk| disk.take_wait().map(|wait| wait.until - sim.now());
        assert_eq!(waited(disk), None);
        file.sync().unwrap();
        assert_eq!(waited(disk), Some(MS));
        file.read_at(0, 1).unwrap();
        file.read_at(0, 1).unwrap();
        assert_eq!(waited(disk), Some(20 * MS), "one after the other");
        file.append(b"x").unwrap();
        assert_eq!(waited(disk), Some(100 * MS));
        assert_eq!(waited(disk), None, "taken");
        sim.heal_disks();
        file.append(b"x").unwrap();
        assert_eq!(waited(disk), None);
    });
}

#[test]
fn failing_reads_and_writes_are_eio_and_change_nothing() {
    on_disk(1, |sim, disk, observer| {
        let mut file = file_of(disk, "log", 10);
        let fault = sim.begin_disk_fault("a", DiskFault::ReadFail, everywhere());
        assert_eq!(errno(file.read_at(0, 1)), EIO);
        file.append(b"x").expect("writes go on");
        sim.end_disk_fault("a", fault);
        sim.begin_disk_fault("a", DiskFault::WriteFail, everywhere());
        file.read_at(0, 1).expect("reads go on");
        let failed = [
            errno(file.append(b"y")),
            errno(file.write_at(0, b"y")),
            errno(file.truncate(0)),
            errno(disk.create("new")),
            errno(disk.remove_file("log")),
            errno(disk.rename("log", "new")),
            errno(disk.create_dir_all("dir")),
        ];
        assert_eq!(failed, [EIO; 7]);
        assert_eq!(content(observer, "log").len(), 11, "the observer has no faults");
        assert_eq!(observer.read_dir("").unwrap(), ["log"]);
    });
}

#[test]
fn a_short_read_takes_more_reads_and_loses_nothing() {
    on_disk(1, |sim, disk, _| {
        let file = file_of(disk, "log", 1000);
        sim.begin_disk_fault("a", DiskFault::ReadSlow(MS), everywhere());
        sim.begin_disk_fault("a", DiskFault::ReadShort, everywhere());
        assert_eq!(file.read_at(100, 500).unwrap().len(), 500);
        let wait = disk.take_wait().unwrap();
        assert_eq!(wait.until - sim.now(), 9 * MS, "250, 125, 63, 31, 16, 8, 4, 2, 1");
        assert_eq!(file.read_at(900, 500).unwrap().len(), 100, "up to the end of the file");
        assert_eq!(file.read_at(2000, 500).unwrap().len(), 0);
    });
}

#[test]
fn a_lost_write_is_seen_until_the_page_cache_forgets_it() {
    on_disk(1, |sim, disk, observer| {
        let mut file = file_of(disk, "log", 2 * PAGE);
        let fault = sim.begin_disk_fault("a", DiskFault::WriteLost, everywhere());
        file.write_at(PAGE_BYTES, &[2; PAGE]).unwrap();
        sim.end_disk_fault("a", fault);
        file.sync().unwrap();
        assert_eq!(content(observer, "log")[PAGE], 2);
        sim.drop_page_cache("a");
        assert_eq!(content(observer, "log")[PAGE], 1, "the medium has the old bytes");
    });
}

#[test]
fn a_misdirected_write_lands_a_page_too_early() {
    on_disk(1, |sim, disk, observer| {
        let mut file = file_of(disk, "log", 2 * PAGE);
        let fault = sim.begin_disk_fault("a", DiskFault::WriteMisdirected, everywhere());
        file.write_at(PAGE_BYTES + 100, &[2; 200]).unwrap();
        sim.end_disk_fault("a", fault);
        file.sync().unwrap();
        assert_eq!(content(observer, "log")[PAGE + 100], 2, "the page cache is right");
        assert_eq!(content(observer, "log")[100], 1);
        sim.power_off("a");
        let bytes = content(observer, "log");
        assert_eq!((bytes[99], bytes[100], bytes[299], bytes[300], bytes[PAGE + 100]), (1, 2, 2, 1, 1));
    });
}

#[test]
fn a_stall_lasts_until_it_ends() {
    on_disk(1, |sim, disk, _| {
        let mut file = file_of(disk, "log", 10);
        let fault = sim.begin_disk_fault("a", DiskFault::Stall, everywhere());
        file.append(b"x").unwrap();
        let wait = disk.take_wait().unwrap();
        let later = sim.now() + Duration::from_secs(3600);
        assert!(wait.is_stalled && !disk.is_over(later, wait));
        sim.end_disk_fault("a", fault);
        assert!(disk.is_over(sim.now(), wait));
    });
}

#[test]
fn what_was_slow_is_over_once_nothing_makes_it_slow() {
    on_disk(1, |sim, disk, _| {
        let mut file = file_of(disk, "log", 10);
        let slow = sim.begin_disk_fault("a", DiskFault::SyncSlow(Duration::from_secs(60)), everywhere());
        let other = sim.begin_disk_fault("a", DiskFault::ReadSlow(MS), everywhere());
        file.sync().unwrap();
        let wait = disk.take_wait().unwrap();
        sim.end_disk_fault("a", other);
        assert!(!disk.is_over(sim.now() + Duration::from_secs(59), wait));
        sim.end_disk_fault("a", slow);
        assert!(disk.is_over(sim.now(), wait));
    });
}

#[test]
fn a_wait_that_is_put_back_replaces_what_came_since() {
    on_disk(1, |sim, disk, _| {
        let mut file = file_of(disk, "log", 10);
        sim.begin_disk_fault("a", DiskFault::SyncSlow(MS), everywhere());
        for waited_for in [None, Some(IoWait { until: sim.now() + 5 * MS, is_stalled: false })] {
            file.sync().unwrap();
            disk.restore_wait(waited_for);
            assert_eq!(disk.take_wait(), waited_for);
        }
    });
}

#[test]
fn what_is_throttled_queues() {
    on_disk(1, |sim, disk, _| {
        let mut file = file_of(disk, "log", 10);
        sim.begin_disk_fault("a", DiskFault::Throttle { bytes_per_second: 1000 }, everywhere());
        file.append(&[1; 500]).unwrap();
        assert_eq!(disk.take_wait().unwrap().until - sim.now(), Duration::from_millis(500));
        file.append(&[1; 250]).unwrap();
        assert_eq!(disk.take_wait().unwrap().until - sim.now(), Duration::from_millis(750), "behind the first");
        file.sync().unwrap();
        assert_eq!(disk.take_wait().unwrap().until - sim.now(), Duration::from_millis(750), "with all before it");
    });
}

#[test]
fn a_full_disk_takes_what_fits_and_again_what_was_freed() {
    on_disk(1, |sim, disk, _| {
        let mut file = file_of(disk, "log", 10);
        sim.begin_disk_fault("a", DiskFault::Full { free_bytes: 5 }, everywhere());
        file.append(b"12345").unwrap();
        assert_eq!(errno(file.append(b"6")), ENOSPC);
        assert_eq!(errno(disk.create("new")), ENOSPC);
        file.write_at(0, b"over").expect("overwriting needs no space");
        file.truncate(10).unwrap();
        file.append(b"12345").unwrap();
        assert_eq!(file.len(), 15);
    });
}

#[test]
fn a_full_disk_can_stop_a_segment_roll_midway() {
    on_disk(1, |sim, disk, _| {
        disk.create_dir_all("data/orders-0").unwrap();
        sim.begin_disk_fault("a", DiskFault::Full { free_bytes: 0 }, files("orders-0/*.timeindex"));
        disk.create("data/orders-0/00000000000000000010.log").unwrap();
        disk.create("data/orders-0/00000000000000000010.index").unwrap();
        assert_eq!(errno(disk.create("data/orders-0/00000000000000000010.timeindex")), ENOSPC);
    });
}

#[test]
fn a_fault_follows_a_file_by_its_name() {
    on_disk(1, |sim, disk, _| {
        disk.create_dir_all("data/orders-0").unwrap();
        let mut file = disk.create("data/orders-0/a.tmp").unwrap();
        sim.begin_disk_fault("a", DiskFault::WriteFail, files("orders-0/a"));
        file.append(b"x").unwrap();
        assert_eq!(errno(disk.rename("data/orders-0/a.tmp", "data/orders-0/a")), EIO);
        sim.heal_disks();
        disk.rename("data/orders-0/a.tmp", "data/orders-0/a").unwrap();
        sim.begin_disk_fault("a", DiskFault::WriteFail, files("orders-0/a"));
        assert_eq!(errno(file.append(b"x")), EIO);
    });
}

#[test]
fn a_replaced_disk_or_log_directory_is_empty() {
    on_disk(1, |sim, disk, observer| {
        for dir in ["data-1", "data-2"] {
            disk.create_dir_all(dir).unwrap();
            disk.create(&format!("{dir}/file")).unwrap();
        }
        disk.sync_dir("").unwrap();
        sim.power_off("a");
        sim.replace_disk("a", Some("data-1"));
        assert_eq!(observer.read_dir("").unwrap(), ["data-2"]);
        sim.replace_disk("a", None);
        assert_eq!(observer.read_dir("").unwrap(), [""; 0]);
    });
}

#[test]
fn the_faults_of_a_disk_go_with_it() {
    on_disk(1, |sim, disk, _| {
        file_of(disk, "log", 1000);
        let failing = sim.begin_disk_fault("a", DiskFault::WriteFail, everywhere());
        let full = sim.begin_disk_fault("a", DiskFault::Full { free_bytes: 5 }, everywhere());
        assert_eq!(errno(disk.create("new")), EIO);
        assert_eq!(sim.replace_disk("a", None), [failing, full]);
        disk.create("new").unwrap().append(&[1; 2000]).expect("the new disk is sound and has space");
    });
}

#[test]
fn the_faults_of_a_log_directory_go_with_it_and_those_of_others_stay() {
    on_disk(1, |sim, disk, _| {
        let fill = |path: &str| disk.create(path)?.append(&[1; 100]);
        for dir in ["data-1", "data-2"] {
            disk.create_dir_all(dir).unwrap();
            fill(&format!("{dir}/old")).unwrap();
        }
        let of = |dir: &str| DiskScope { log_dir: Some(dir.to_owned()), files: None };
        let of_first = sim.begin_disk_fault("a", DiskFault::SyncFail, of("data-1"));
        sim.begin_disk_fault("a", DiskFault::SyncFail, of("data-2"));
        sim.begin_disk_fault("a", DiskFault::Full { free_bytes: 50 }, everywhere());
        assert_eq!(sim.replace_disk("a", Some("data-1")), [of_first]);
        disk.create_dir_all("data-1").unwrap();
        fill("data-1/new").expect("the new one is empty");
        assert_eq!(errno(disk.sync_dir("data-1")), None);
        assert_eq!(errno(disk.sync_dir("data-2")), EIO);
        let mut file = disk.create("data-2/new").unwrap();
        file.append(&[1; 50]).expect("so much space is left, what was in the other directory or is in its successor");
        assert_eq!(errno(file.append(&[1; 1])), ENOSPC);
    });
}

#[test]
fn a_fault_has_struck_once_it_had_an_effect() {
    on_disk(1, |sim, disk, observer| {
        let mut file = file_of(disk, "log", 10);
        let fault = |fault| sim.begin_disk_fault("a", fault, files("log"));
        let faults = [
            fault(DiskFault::ReadFail),
            fault(DiskFault::SyncLie),
            fault(DiskFault::Full { free_bytes: 1 }),
            sim.begin_disk_fault("a", DiskFault::Stall, files("other")),
        ];
        let struck = || faults.map(|fault| sim.disk_fault_has_struck("a", fault));
        observer.open("log").unwrap().read_at(0, 1).unwrap();
        file.append(b"x").unwrap();
        assert_eq!(struck(), [false; 4], "the observer meets no faults, and there is space for one byte");
        file.sync().unwrap();
        assert_eq!(struck(), [false, true, false, false]);
        assert_eq!(errno(file.append(b"x")), ENOSPC);
        assert_eq!(errno(file.read_at(0, 1)), EIO);
        assert_eq!(struck(), [true, true, true, false]);
    });
}
