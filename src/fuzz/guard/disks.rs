//! Which machines' disks can be trusted with what: what a fault has spoiled stays so to the end of the run.

use std::collections::BTreeMap;

use crate::scenario::Action;
use crate::scenario::disk::DiskAction;
use crate::world::sim::DiskFault;

/// What is wrong with one machine's disk.
#[derive(Clone, Copy, Default)]
struct Disk {
    /// What was flushed may be gone after a power loss.
    forgets: bool,
    /// What it holds may have changed, or be gone, without a power loss too.
    is_rotten: bool,
    /// What is gone may have lain between what is not. What has changed has not: a CRC covers it.
    has_holes: bool,
}

/// Every machine whose disk does not do what it says. A disk that is slow, full, or fails and says so is not among them.
#[derive(Default)]
pub(super) struct Disks(BTreeMap<String, Disk>);

impl Disks {
    /// A fault of the schedule started. `places`: machines, or files with their machine before a colon.
    pub fn begin(&mut self, action: &Action, places: &[String]) {
        let Action::Disk { what, on: _ } = action else { return };
        for place in places {
            let machine = place.split_once(':').map_or(place.as_str(), |(machine, _)| machine);
            match what {
                DiskAction::BitRot(_) => self.spoil(machine, |disk| disk.is_rotten = true),
                DiskAction::Replace => self.spoil(machine, |disk| disk.forgets = true),
                DiskAction::Fault(fault) if forgets(fault) => self.spoil(machine, |disk| disk.forgets = true),
                DiskAction::Fault(_) => {}
                // What was to be on the medium is read from it now.
                DiskAction::DropCache => self.read_medium(machine),
            }
        }
    }

    pub fn stopped(&mut self, machine: &str, power_lost: bool) {
        if power_lost {
            self.read_medium(machine);
        }
    }

    fn spoil(&mut self, machine: &str, how: impl FnOnce(&mut Disk)) {
        how(self.0.entry(machine.to_owned()).or_default());
    }

    /// What the page cache hid of a disk that forgets shows.
    fn read_medium(&mut self, machine: &str) {
        if let Some(disk) = self.0.get_mut(machine) {
            disk.is_rotten |= disk.forgets;
            disk.has_holes |= disk.forgets;
        }
    }

    /// What was flushed survives a power loss.
    pub fn keeps_flushed(&self, machine: &str) -> bool {
        self.0.get(machine).is_none_or(|disk| !disk.forgets && !disk.is_rotten)
    }

    /// What was written survives a restart, and is read as it was written.
    pub fn keeps_all(&self, machine: &str) -> bool {
        self.0.get(machine).is_none_or(|disk| !disk.is_rotten)
    }

    pub fn has_holes(&self, machine: &str) -> bool {
        self.0.get(machine).is_some_and(|disk| disk.has_holes)
    }

    pub fn is_spoiled(&self, machine: &str) -> bool {
        !self.keeps_all(machine)
    }
}

fn forgets(fault: &DiskFault) -> bool {
    match fault {
        // After a failed fsync the pages count as clean, and the next one does not write them.
        DiskFault::SyncFail | DiskFault::SyncLie | DiskFault::WriteLost | DiskFault::WriteMisdirected => true,
        DiskFault::SyncSlow(_)
        | DiskFault::ReadSlow(_)
        | DiskFault::ReadFail
        | DiskFault::ReadShort
        | DiskFault::WriteSlow(_)
        | DiskFault::WriteFail
        | DiskFault::Stall
        | DiskFault::Throttle { .. }
        | DiskFault::Full { .. } => false,
    }
}
