//! The nemesis's faults of disks.

use super::super::cluster::Cluster;
use super::super::outcome::FiredFault;
use super::Nemesis;
use crate::log::batch::{HEADER_BYTES, Header};
use crate::protocol::TopicPartition;
use crate::scenario::disk::{BatchChoice, BitRot, DiskAction, RotPlace, SegmentChoice};
use crate::world::Time;
use crate::world::sim::{DiskScope, FaultId, SimDisk, Survivors};

impl Nemesis {
    /// Does it to the disks of `machines`. Returns where, for the trace; empty if there was nothing to do it to. What
    /// lasts has fired with its first effect, see [`Nemesis::note_strikes`].
    pub(super) fn break_disks(
        &mut self,
        index: usize,
        what: &DiskAction,
        on: &DiskScope,
        machines: &[String],
        now: Time,
    ) -> Vec<String> {
        let sim = self.cluster.sim.clone();
        match what {
            DiskAction::Fault(fault) => {
                for machine in machines {
                    let begun = sim.begin_disk_fault(machine, fault.clone(), on.clone());
                    self.entries[index].disk_faults.push((machine.clone(), begun));
                }
                machines.to_vec()
            }
            DiskAction::BitRot(rot) => {
                machines.iter().flat_map(|machine| rot_bits(&self.cluster, machine, rot, on)).collect()
            }
            DiskAction::DropCache => {
                machines.iter().for_each(|machine| sim.drop_page_cache(machine));
                machines.to_vec()
            }
            DiskAction::Replace => {
                for machine in machines {
                    // Without power goes what was not synced, a log's directory too.
                    let logs = logs_on(&sim.disk(machine), on);
                    self.stop(machine, Some(Survivors::NOTHING), now);
                    for partition in logs {
                        self.cluster.recorder.lock().ghost.log_is_gone(machine, &partition);
                    }
                    self.note_strikes();
                    let over = sim.replace_disk(machine, on.log_dir.as_deref());
                    self.forget_disk_faults(machine, &over, now);
                }
                machines.to_vec()
            }
        }
    }

    /// These faults of a machine's disk ended with the disk. What that was all of ends.
    fn forget_disk_faults(&mut self, machine: &str, over: &[FaultId], now: Time) {
        for index in 0..self.entries.len() {
            let faults = &mut self.entries[index].disk_faults;
            let before = faults.len();
            faults.retain(|(of, fault)| of != machine || !over.contains(fault));
            if faults.is_empty() && before > 0 {
                self.note_end(index, now);
            }
        }
    }

    /// Faults that have had an effect since they began have fired, from when they began.
    pub(super) fn note_strikes(&mut self) {
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            let Some(at) = entry.idle_since else { continue };
            let sim = &self.cluster.sim;
            if entry.disk_faults.iter().any(|(machine, fault)| sim.disk_fault_has_struck(machine, *fault)) {
                let fired = FiredFault { index, at, ended_at: None, resolved: entry.resolved.clone(), refused: None };
                self.cluster.recorder.lock().faults.push(fired);
                self.entries[index].idle_since = None;
            }
        }
    }

    /// Undoes what has a duration.
    pub(super) fn mend_disks(&mut self, index: usize, what: &DiskAction, machines: &[String]) {
        self.note_strikes();
        for (machine, fault) in std::mem::take(&mut self.entries[index].disk_faults) {
            self.cluster.sim.end_disk_fault(&machine, fault);
        }
        if *what == DiskAction::Replace {
            machines.iter().for_each(|machine| self.boot(machine));
        }
    }
}

/// Rots one byte of each file that is meant, and says which: `broker-1:data/orders-0/….log byte 75`.
fn rot_bits(cluster: &Cluster, machine: &str, rot: &BitRot, on: &DiskScope) -> Vec<String> {
    let disk = cluster.sim.disk(machine);
    let mut places = Vec::new();
    for dir in directories(&disk, "") {
        let names = disk.read_dir(&dir).unwrap_or_default();
        let paths = names.iter().map(|name| if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") });
        let files: Vec<String> = paths.filter(|path| on.matches(path) && disk.open(path).is_ok()).collect();
        let chosen = match rot.segment {
            None => files.as_slice(),
            Some(SegmentChoice::Active) => &files[files.len().saturating_sub(1)..],
            Some(SegmentChoice::Sealed) => &files[..usize::from(files.len() > 1)],
        };
        for file in chosen {
            let Some(position) = position(&disk, file, rot.place) else { continue };
            if cluster.sim.rot(machine, file, position, 1 << rot.bit).is_ok() {
                places.push(format!("{machine}:{file} byte {position}"));
            }
        }
    }
    places
}

/// The partitions whose logs are in the log directories that are meant.
fn logs_on(disk: &SimDisk, on: &DiskScope) -> Vec<TopicPartition> {
    let log_dirs = disk.read_dir("").unwrap_or_default().into_iter().filter(|dir| on.matches(dir));
    let names = log_dirs.flat_map(|dir| disk.read_dir(&dir).unwrap_or_default());
    names.filter_map(|name| TopicPartition::parse(&name)).collect()
}

/// Every directory from `path` down, in order.
fn directories(disk: &SimDisk, path: &str) -> Vec<String> {
    let Ok(names) = disk.read_dir(path) else { return Vec::new() };
    let below = names.iter().map(|name| if path.is_empty() { name.clone() } else { format!("{path}/{name}") });
    let mut found = vec![path.to_owned()];
    found.extend(below.flat_map(|path| directories(disk, &path)));
    found
}

/// Where in the file, `None` if it is not that long or holds no batch.
fn position(disk: &SimDisk, file: &str, place: RotPlace) -> Option<u64> {
    let file = disk.open(file).ok()?;
    match place {
        RotPlace::Byte(byte) if byte < 0 => file.len().checked_sub(byte.unsigned_abs()),
        RotPlace::Byte(byte) => Some(byte.unsigned_abs()).filter(|byte| *byte < file.len()),
        RotPlace::Field(choice, field) => {
            let mut batches = Vec::new();
            let mut at = 0;
            while let Ok(header) = Header::parse(&file.read_at(at, HEADER_BYTES).ok()?) {
                batches.push((at, header.size_bytes as u64));
                at += header.size_bytes as u64;
            }
            let (start, size_bytes) = match choice {
                BatchChoice::First => batches.first(),
                BatchChoice::Middle => batches.get(batches.len() / 2),
                BatchChoice::Last => batches.last(),
            }?;
            Some(start + field.last_byte(*size_bytes))
        }
    }
}
