//! How the laboratory breaks a machine's disk.

use std::io;

use super::super::Simulation;
use super::{DiskFault, DiskScope};

/// A fault that was begun, to be ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultId(u64);

// Disks.
impl Simulation {
    /// Begins a fault of a machine's disk; it outlives processes and power.
    pub fn begin_disk_fault(&self, machine: &str, fault: DiskFault, scope: DiskScope) -> FaultId {
        let network = self.core.network();
        FaultId(network.machine(network.find(machine)).disk.begin_fault(fault, scope))
    }

    /// Ends a fault. No-op if it has ended.
    pub fn end_disk_fault(&self, machine: &str, fault: FaultId) {
        self.end_disk_faults(machine, Some(fault.0));
    }

    /// Whether a fault that has not ended had an effect on some operation since it began.
    pub fn disk_fault_has_struck(&self, machine: &str, fault: FaultId) -> bool {
        let network = self.core.network();
        network.machine(network.find(machine)).disk.has_struck(fault.0)
    }

    /// Ends every fault of every disk.
    pub fn heal_disks(&self) {
        let machines: Vec<String> = {
            let network = self.core.network();
            network.machine_ids().map(|id| network.machine(id).name.to_string()).collect()
        };
        machines.iter().for_each(|machine| self.end_disk_faults(machine, None));
    }

    fn end_disk_faults(&self, machine: &str, only: Option<u64>) {
        let mut network = self.core.network();
        let id = network.find(machine);
        let disk = network.machine(id).disk.clone();
        let (was_stalled, was_slow) = (disk.is_stalled(), disk.is_slow());
        disk.end_faults(only);
        if was_stalled && !disk.is_stalled() || was_slow && !disk.is_slow() {
            network.announce_io_ready(id);
        }
    }

    /// The disk takes so many more changes (writes, syncs, creations, renames, removals) from the process that runs, and
    /// none after them: what it holds then is what a crash between two of its disk calls leaves. The process is to be
    /// killed, or its machine to lose power, before anybody looks; the next one starts without a limit.
    pub fn crash_after_disk_calls(&self, machine: &str, calls: u64) {
        let network = self.core.network();
        network.machine(network.find(machine)).disk.fence_after(calls);
    }

    /// The machine's page cache forgets its clean pages (memory pressure): what a lying, failing or forgetful disk did
    /// not keep shows from now on, without a reboot.
    pub fn drop_page_cache(&self, machine: &str) {
        let network = self.core.network();
        network.machine(network.find(machine)).disk.drop_clean_pages();
    }

    /// Puts an empty disk in the place of the machine's, or of one of its log directories. Its process should not run:
    /// what it has open it would go on writing to the old one. The new one has none of the old one's faults: returns
    /// those that are over.
    pub fn replace_disk(&self, machine: &str, log_dir: Option<&str>) -> Vec<FaultId> {
        let network = self.core.network();
        let over = network.machine(network.find(machine)).disk.replace(log_dir);
        over.into_iter().map(FaultId).collect()
    }

    /// Bit rot: flips the bits of `mask` in one byte of a file, on the medium and in the page cache. `NotFound` if
    /// there is no such file, `InvalidInput` beyond its end.
    pub fn rot(&self, machine: &str, file: &str, position: u64, mask: u8) -> io::Result<()> {
        let network = self.core.network();
        network.machine(network.find(machine)).disk.rot(file, position, mask)
    }
}
