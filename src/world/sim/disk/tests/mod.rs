//! What survives a power loss, and what rots; in `faults`, what goes wrong in operation.

mod faults;

use std::io::ErrorKind;
use std::time::Duration;

use super::super::{SimConfig, Simulation, lock};
use super::*;
use crate::world::{Disk, File, IoWait, World};

const PAGE: usize = PAGE_BYTES as usize;

/// Runs a test with machine "a"'s disk, as its process has it, and as an observer sees it.
fn on_disk<T: Send + 'static>(seed: u64, test: impl FnOnce(&Simulation, &Disk, &Disk) -> T + Send + 'static) -> T {
    let run = move || {
        Simulation::block_on(seed, SimConfig::default(), |sim| async move {
            let world: Arc<Mutex<Option<World>>> = Arc::default();
            let of_process = world.clone();
            sim.add_machine("a", false, move |world, _net| {
                *lock(&of_process) = Some(world);
                Box::pin(std::future::pending())
            });
            sim.sleep_until(sim.now() + Duration::from_millis(1)).await;
            let disk = lock(&world).clone().expect("the process has started").disk();
            test(&sim, &disk, &Disk::Sim(sim.disk("a")))
        })
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn content(disk: &Disk, path: &str) -> Vec<u8> {
    let file = disk.open(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    file.read_at(0, file.len() as usize).unwrap().to_vec()
}

/// A synced file of half a page of 1, then not synced: 2 up to the middle of page 3.
fn half_synced(disk: &Disk) -> File {
    let mut file = disk.create("log").unwrap();
    disk.sync_dir("").unwrap();
    file.append(&[1; PAGE / 2]).unwrap();
    file.sync().unwrap();
    file.append(&[2; 3 * PAGE]).unwrap();
    file
}

fn keep_pages(sim: &Simulation, pages: &'static [u64]) {
    sim.power_off_choosing("a", &mut |pending| {
        pending.changes.iter().map(|change| matches!(change, Change::Page(page) if pages.contains(page))).collect()
    });
}

#[test]
fn a_page_that_survives_beyond_a_lost_one_leaves_zeros_between() {
    on_disk(1, |sim, disk, observer| {
        half_synced(disk);
        keep_pages(sim, &[2]);
        let bytes = content(observer, "log");
        assert_eq!(bytes.len(), 3 * PAGE);
        assert!(bytes[..PAGE / 2].iter().all(|&b| b == 1), "what was synced stays");
        assert!(bytes[PAGE / 2..2 * PAGE].iter().all(|&b| b == 0), "what was lost reads as zeros");
        assert!(bytes[2 * PAGE..].iter().all(|&b| b == 2));
    });
}

#[test]
fn a_page_survives_whole_with_what_was_synced_in_it() {
    on_disk(1, |sim, disk, observer| {
        half_synced(disk);
        keep_pages(sim, &[0]);
        let expected = [vec![1; PAGE / 2], vec![2; PAGE / 2]].concat();
        assert_eq!(content(observer, "log"), expected);
    });
}

#[test]
fn the_last_page_survives_up_to_the_end_of_the_file() {
    on_disk(1, |sim, disk, observer| {
        half_synced(disk);
        keep_pages(sim, &[0, 1, 2, 3]);
        assert_eq!(content(observer, "log").len(), 3 * PAGE + PAGE / 2);
    });
}

#[test]
fn an_overwritten_page_is_old_or_new() {
    for (kept, byte) in [(&[][..], 1), (&[1][..], 3)] {
        on_disk(1, move |sim, disk, observer| {
            let mut file = disk.create("log").unwrap();
            disk.sync_dir("").unwrap();
            file.append(&[1; 3 * PAGE]).unwrap();
            file.sync().unwrap();
            file.write_at(PAGE_BYTES, &[3; PAGE]).unwrap();
            keep_pages(sim, kept);
            let bytes = content(observer, "log");
            assert_eq!((bytes[PAGE - 1], bytes[PAGE], bytes[2 * PAGE]), (1, byte, 1));
        });
    }
}

#[test]
fn a_cut_survives_or_not() {
    for (survives, len) in [(false, 3 * PAGE), (true, 10)] {
        on_disk(1, move |sim, disk, observer| {
            let mut file = disk.create("log").unwrap();
            disk.sync_dir("").unwrap();
            file.append(&[1; 3 * PAGE]).unwrap();
            file.sync().unwrap();
            file.truncate(10).unwrap();
            sim.power_off_choosing("a", &mut |pending| {
                assert_eq!(pending.changes, [Change::Cut(10)]);
                vec![survives]
            });
            assert_eq!(content(observer, "log").len(), len);
        });
    }
}

#[test]
fn a_rename_can_be_durable_before_the_data() {
    on_disk(1, |sim, disk, observer| {
        let mut file = disk.create("checkpoint").unwrap();
        file.append(b"old").unwrap();
        file.sync().unwrap();
        disk.sync_dir("").unwrap();
        disk.create("checkpoint.tmp").unwrap().append(b"new").unwrap();
        disk.rename("checkpoint.tmp", "checkpoint").unwrap();
        sim.power_off_leaving("a", Survivors { pages: Survival::Nothing, entries: Survival::Everything });
        assert_eq!(observer.read_dir("").unwrap(), ["checkpoint"]);
        assert_eq!(content(observer, "checkpoint"), b"", "neither the old nor the new");
    });
}

#[test]
fn entries_survive_one_by_one() {
    on_disk(1, |sim, disk, observer| {
        for name in ["stays", "goes", "moves"] {
            disk.create(name).unwrap();
        }
        disk.sync_dir("").unwrap();
        disk.remove_file("goes").unwrap();
        disk.rename("moves", "moved").unwrap();
        disk.create("new").unwrap();
        sim.power_off_choosing("a", &mut |pending| {
            let rename = Change::Rename { from: "moves".into(), to: "moved".into() };
            assert_eq!(pending.changes, [Change::Remove("goes".into()), rename, Change::Create("new".into())]);
            vec![false, true, true]
        });
        assert_eq!(observer.read_dir("").unwrap(), ["goes", "moved", "new", "stays"]);
    });
}

#[test]
fn a_prefix_ends_somewhere_and_a_subset_has_gaps() {
    let survivors = |seed, survival| {
        on_disk(seed, move |sim, disk, observer| {
            let mut file = disk.create("log").unwrap();
            disk.sync_dir("").unwrap();
            file.append(&[2; 20 * PAGE]).unwrap();
            sim.power_off_leaving("a", Survivors { pages: survival, entries: Survival::Nothing });
            let bytes = content(observer, "log");
            bytes.chunks(PAGE).map(|page| page[0] == 2).collect::<Vec<bool>>()
        })
    };
    let mut prefix_lengths = std::collections::BTreeSet::new();
    let mut gaps = 0;
    for seed in 0..10 {
        let prefix = survivors(seed, Survival::Prefix);
        assert!(prefix.iter().all(|&is_kept| is_kept), "a prefix has no gap");
        prefix_lengths.insert(prefix.len());
        gaps += survivors(seed, Survival::Subset).iter().filter(|&&is_kept| !is_kept).count();
        assert_eq!(survivors(seed, Survival::Everything).len(), 20);
        assert_eq!(survivors(seed, Survival::Subset), survivors(seed, Survival::Subset), "a function of the seed");
    }
    assert!(prefix_lengths.len() > 3 && gaps > 50, "{prefix_lengths:?}, {gaps} gaps");
}

#[test]
fn chosen_pages_survive_by_their_number_among_those_that_are_pending() {
    on_disk(1, |sim, disk, observer| {
        let mut file = disk.create("log").unwrap();
        disk.sync_dir("").unwrap();
        file.append(&[1; 4 * PAGE]).unwrap();
        file.sync().unwrap();
        file.append(&[2; 3 * PAGE]).unwrap();
        disk.create("first").unwrap();
        disk.create("second").unwrap();
        let chosen = |numbers: &[u32]| Survival::Chosen(numbers.iter().copied().collect());
        sim.power_off_leaving("a", Survivors { pages: chosen(&[0, 2, 63]), entries: chosen(&[1]) });
        let bytes = content(observer, "log");
        let pages: Vec<u8> = bytes.chunks(PAGE).map(|page| page[0]).collect();
        assert_eq!(pages, [1, 1, 1, 1, 2, 0, 2]);
        assert_eq!(observer.read_dir("").unwrap(), ["log", "second"]);
    });
}

#[test]
fn a_cut_has_no_number() {
    on_disk(1, |sim, disk, observer| {
        let mut file = disk.create("log").unwrap();
        disk.sync_dir("").unwrap();
        file.append(&[1; 2 * PAGE]).unwrap();
        file.sync().unwrap();
        file.truncate(PAGE_BYTES).unwrap();
        file.append(&[2; 2 * PAGE]).unwrap();
        let second = Survival::Chosen([1].into_iter().collect());
        sim.power_off_leaving("a", Survivors { pages: second, entries: Survival::Nothing });
        let pages: Vec<u8> = content(observer, "log").chunks(PAGE).map(|page| page[0]).collect();
        assert_eq!(pages, [1, 1, 2]);
    });
}

#[test]
fn rot_changes_what_is_read_and_what_survives() {
    on_disk(1, |sim, disk, observer| {
        let mut file = disk.create("log").unwrap();
        disk.sync_dir("").unwrap();
        file.append(b"abcd").unwrap();
        file.sync().unwrap();
        file.write_at(2, b"x").unwrap();
        sim.rot("a", "log", 0, 0x01).unwrap();
        sim.rot("a", "log", 2, 0x01).unwrap();
        assert_eq!(content(observer, "log"), b"`byd");
        sim.power_off("a");
        assert_eq!(content(observer, "log"), b"`bbd", "the durable byte below the pending one rots too");
        assert_eq!(sim.rot("a", "log", 4, 1).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(sim.rot("a", "gone", 0, 1).unwrap_err().kind(), ErrorKind::NotFound);
    });
}
