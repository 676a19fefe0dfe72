//! Faults of a disk that is asked to do something: errors, lies, slowness.
//!
//! A fault strikes the operations whose path its [`DiskScope`] matches, from [`Faults::begin`] to [`Faults::end`].
//! Calls stay synchronous: what is slow takes effect at once, and the time it would have taken is handed to the process
//! as an [`IoWait`], which holds back the answers that depend on it.

use std::io;
use std::time::Duration;

use glob::{MatchOptions, Pattern};

use crate::world::{IoWait, Time};

/// What is wrong with a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// Each fsync takes so much longer.
    SyncSlow(Duration),
    /// fsync fails with EIO. What it should have written counts as clean from then on and is not on the medium: the
    /// next fsync succeeds without it ("fsyncgate").
    SyncFail,
    /// fsync succeeds and does nothing: a cache in the device that has no battery.
    SyncLie,
    ReadSlow(Duration),
    ReadFail,
    /// A read returns half of what was asked for, so that it takes several.
    ReadShort,
    WriteSlow(Duration),
    /// Writes, creations, renames and removals fail with EIO.
    WriteFail,
    /// What is written is in the page cache and never gets to the medium.
    WriteLost,
    /// What is written is in the page cache, but lands one page too early on the medium, over what was there.
    WriteMisdirected,
    /// Nothing completes before the fault ends.
    Stall,
    /// All reads and writes share this bandwidth.
    Throttle {
        bytes_per_second: u64,
    },
    /// There is only so much space left: what would need more fails with ENOSPC.
    Full {
        free_bytes: u64,
    },
}

/// Which files of a machine a fault strikes.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct DiskScope {
    /// One log directory; `None`: all of them.
    pub log_dir: Option<String>,
    /// Files, by their path below the log directory (`orders-0/*.log`) or with it; `*` does not match a `/`. `None`:
    /// all of them, and their directories.
    pub files: Option<Pattern>,
}

impl DiskScope {
    /// Whether it holds the file or directory at `path` from the machine's root.
    pub fn matches(&self, path: &str) -> bool {
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        let (log_dir, below) = path.split_once('/').unwrap_or((path, ""));
        self.log_dir.as_deref().is_none_or(|only| only == log_dir)
            && self
                .files
                .as_ref()
                .is_none_or(|files| files.matches_with(below, options) || files.matches_with(path, options))
    }
}

/// What is done to a file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Read { bytes: u64 },
    Write { bytes: u64 },
    Sync,
}

/// What became of an operation that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Struck {
    /// Read: only half.
    pub short: bool,
    /// Write: not to the medium.
    pub lost: bool,
    pub misdirected: bool,
    /// Sync: done nothing.
    pub lied: bool,
    /// Sync: EIO, after forsaking what is pending.
    pub sync_failed: bool,
}

struct Active {
    id: u64,
    fault: DiskFault,
    scope: DiskScope,
    /// Throttle: when the device is through with what it was given.
    busy_until: Time,
    /// Full: how many bytes its files may hold together.
    capacity: u64,
    /// Log directories that were replaced since it began: their new disks are sound.
    replaced: Vec<String>,
    /// It had an effect on some operation.
    has_struck: bool,
}

impl Active {
    fn matches(&self, path: &str) -> bool {
        self.scope.matches(path) && !self.replaced.iter().any(|log_dir| is_within(path, log_dir))
    }
}

/// Whether the file or directory at `path` from the machine's root is a log directory or in it.
fn is_within(path: &str, log_dir: &str) -> bool {
    path.split_once('/').map_or(path, |(first, _)| first) == log_dir
}

/// Says of a path whether its bytes count.
pub(super) type Counts<'a> = dyn Fn(&str) -> bool + 'a;

/// The faults of one machine's disk, and the time that its process has to wait for them.
#[derive(Default)]
pub(super) struct Faults {
    begun: u64,
    active: Vec<Active>,
    /// How many more changes the process gets to make before it dies; `None`: no such end is set.
    changes_left: Option<u64>,
    wait: Option<IoWait>,
}

impl Faults {
    /// Begins a fault; `used` are the bytes that the files in its scope hold.
    pub(super) fn begin(&mut self, fault: DiskFault, scope: DiskScope, used: u64) -> u64 {
        self.begun += 1;
        let capacity = match fault {
            DiskFault::Full { free_bytes } => used.saturating_add(free_bytes),
            _ => u64::MAX,
        };
        let (busy_until, replaced, has_struck) = (Time::ZERO, Vec::new(), false);
        self.active.push(Active { id: self.begun, fault, scope, busy_until, capacity, replaced, has_struck });
        self.begun
    }

    /// Whether a fault that has not ended had an effect on some operation.
    pub(super) fn has_struck(&self, id: u64) -> bool {
        self.active.iter().any(|active| active.id == id && active.has_struck)
    }

    /// The disk, or the one of a log directory, is about to be replaced: its faults go with it. `used`: how many bytes
    /// there are in the files that count. Returns the faults that are over.
    pub(super) fn replace(&mut self, log_dir: Option<&str>, used: impl Fn(&Counts<'_>) -> u64) -> Vec<u64> {
        let mut over = Vec::new();
        for active in &mut self.active {
            match (log_dir, active.scope.log_dir.as_deref()) {
                (None, _) => over.push(active.id),
                (Some(replaced), Some(own)) if replaced == own => over.push(active.id),
                (Some(_), Some(_)) => {}
                (Some(replaced), None) => {
                    if active.capacity < u64::MAX {
                        let gone = used(&|path| active.matches(path) && is_within(path, replaced));
                        active.capacity = active.capacity.saturating_sub(gone);
                    }
                    active.replaced.push(replaced.to_owned());
                }
            }
        }
        self.active.retain(|active| !over.contains(&active.id));
        over
    }

    pub(super) fn end(&mut self, id: u64) {
        self.active.retain(|active| active.id != id);
    }

    pub(super) fn end_all(&mut self) {
        self.active.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.changes_left.is_none()
    }

    pub(super) fn set_changes_left(&mut self, changes: Option<u64>) {
        self.changes_left = changes;
    }

    /// Counts a change; false for the one that the process did not live to make.
    pub(super) fn allow_change(&mut self) -> bool {
        let Some(left) = &mut self.changes_left else { return true };
        let is_allowed = *left > 0;
        *left = left.saturating_sub(1);
        is_allowed
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.active.iter().any(|active| active.fault == DiskFault::Stall)
    }

    /// Whether I/O takes time.
    pub(super) fn is_slow(&self) -> bool {
        self.active.iter().any(|active| match active.fault {
            DiskFault::SyncSlow(_)
            | DiskFault::ReadSlow(_)
            | DiskFault::WriteSlow(_)
            | DiskFault::Throttle { .. }
            | DiskFault::Stall => true,
            DiskFault::SyncFail
            | DiskFault::SyncLie
            | DiskFault::ReadFail
            | DiskFault::ReadShort
            | DiskFault::WriteFail
            | DiskFault::WriteLost
            | DiskFault::WriteMisdirected
            | DiskFault::Full { .. } => false,
        })
    }

    pub(super) fn take_wait(&mut self) -> Option<IoWait> {
        self.wait.take()
    }

    pub(super) fn restore_wait(&mut self, wait: Option<IoWait>) {
        self.wait = wait;
    }

    pub(super) fn has_wait(&self) -> bool {
        self.wait.is_some()
    }

    /// Whether there is space for `path` to grow by `growth` bytes, or for a new file. `used`: how many bytes there are in
    /// the files that count.
    pub(super) fn has_space(&mut self, path: &str, growth: u64, used: impl Fn(&Counts<'_>) -> u64) -> bool {
        let mut has_space = true;
        for active in self.active.iter_mut().filter(|a| a.capacity < u64::MAX && a.matches(path)) {
            if used(&|path| active.matches(path)) + growth.max(1) > active.capacity {
                active.has_struck = true;
                has_space = false;
            }
        }
        has_space
    }

    /// What the faults make of an operation. Errors: EIO.
    pub(super) fn strike(&mut self, now: Time, operation: Operation, path: &str) -> io::Result<Struck> {
        let mut struck = Struck::default();
        let mut until = self.wait.map_or(now, |wait| wait.until.max(now));
        let mut is_stalled = self.wait.is_some_and(|wait| wait.is_stalled);
        let before = (until, is_stalled);
        let mut fails = false;
        for active in self.active.iter_mut().filter(|active| active.matches(path)) {
            let mut strikes = true;
            match (&active.fault, operation) {
                (DiskFault::SyncSlow(by), Operation::Sync)
                | (DiskFault::ReadSlow(by), Operation::Read { .. })
                | (DiskFault::WriteSlow(by), Operation::Write { .. }) => until += *by,
                (DiskFault::SyncFail, Operation::Sync) => struck.sync_failed = true,
                (DiskFault::SyncLie, Operation::Sync) => struck.lied = true,
                (DiskFault::ReadFail, Operation::Read { .. }) | (DiskFault::WriteFail, Operation::Write { .. }) => {
                    fails = true;
                }
                (DiskFault::ReadShort, Operation::Read { .. }) => struck.short = true,
                (DiskFault::WriteLost, Operation::Write { .. }) => struck.lost = true,
                (DiskFault::WriteMisdirected, Operation::Write { .. }) => struck.misdirected = true,
                (DiskFault::Stall, _) => is_stalled = true,
                (DiskFault::Throttle { bytes_per_second }, Operation::Read { bytes } | Operation::Write { bytes }) => {
                    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(*bytes_per_second);
                    let took = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                    active.busy_until = active.busy_until.max(now) + took;
                    until = until.max(active.busy_until);
                }
                // What the device has been given goes first.
                (DiskFault::Throttle { .. }, Operation::Sync) => until = until.max(active.busy_until),
                (DiskFault::SyncSlow(_) | DiskFault::SyncFail | DiskFault::SyncLie, _)
                | (DiskFault::ReadSlow(_) | DiskFault::ReadFail | DiskFault::ReadShort, _)
                | (DiskFault::WriteSlow(_) | DiskFault::WriteFail, _)
                | (DiskFault::WriteLost | DiskFault::WriteMisdirected | DiskFault::Full { .. }, _) => strikes = false,
            }
            active.has_struck |= strikes;
        }
        if (until, is_stalled) != before {
            self.wait = Some(IoWait { until, is_stalled });
        }
        if fails { Err(eio()) } else { Ok(struck) }
    }
}

/// EIO
pub(super) fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// ENOSPC
pub(super) fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_a_log_directory_or_a_pattern_below_it() {
        let files = |pattern: &str| DiskScope { log_dir: None, files: Some(Pattern::new(pattern).unwrap()) };
        let log = "data/orders-0/00000000000000000000.log";
        assert!(DiskScope::default().matches(log));
        assert!(files("orders-0/*.log").matches(log) && files("data/orders-0/*").matches(log));
        assert!(!files("*.log").matches(log) && files("**/*.log").matches(log));
        assert!(!files("orders-1/*.log").matches(log));
        let second = DiskScope { log_dir: Some("data-2".to_owned()), files: None };
        assert!(second.matches("data-2/orders-0/x") && second.matches("data-2") && !second.matches(log));
    }
}
