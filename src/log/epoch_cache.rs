//! The leader epoch cache (Kafka's `LeaderEpochFileCache`), kept in `leader-epoch-checkpoint`: which leader
//! epoch began at which offset. The cache itself is a value; the log that owns it keeps the file.

use std::io;

use super::checkpoint;
use crate::protocol::{LeaderEpoch, Offset};
use crate::world::Disk;

/// Start offset of each leader epoch in the log. Both epochs and offsets strictly increase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochCache {
    entries: Vec<(LeaderEpoch, Offset)>,
}

impl EpochCache {
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|entry| entry.0)
    }

    /// `endOffsetFor`: the largest epoch <= `epoch` that the log knows, and where it ends (the start of the
    /// next one, or `log_end` for the latest). `None`: undefined (no such epoch).
    ///
    /// An epoch below all known ones is answered with itself and the start of the first known one: its data
    /// is gone, and a follower goes on from the leader's start. One above all known ones is undefined.
    pub fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        if epoch == LeaderEpoch::NONE {
            return None;
        }
        if self.latest() == Some(epoch) {
            return Some((epoch, log_end));
        }
        let higher = self.entries.partition_point(|entry| entry.0 <= epoch);
        let (_, end) = *self.entries.get(higher)?;
        match higher.checked_sub(1) {
            Some(floor) => Some((self.entries[floor].0, end)),
            None => Some((epoch, end)),
        }
    }

    /// Start offset of exactly this epoch.
    pub fn start_offset(&self, epoch: LeaderEpoch) -> Option<Offset> {
        let at = self.entries.binary_search_by_key(&epoch, |entry| entry.0).ok()?;
        Some(self.entries[at].1)
    }

    /// The epoch of the record at `offset` (`epochForOffset`), `None` below the first entry.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.1 <= offset);
        after.checked_sub(1).map(|at| self.entries[at].0)
    }

    /// Every (epoch, start offset), oldest first.
    pub fn entries(&self) -> &[(LeaderEpoch, Offset)] {
        &self.entries
    }

    /// Notes that `epoch` begins at `start` (`assign`). Ignored when it is the latest epoch already, unless
    /// it now begins earlier. Entries that would break monotonicity are removed: the last assignment wins.
    /// Returns whether anything changed.
    pub(super) fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        assert!(epoch.0 >= 0 && start.0 >= 0, "epoch {epoch} at {start} cannot be assigned");
        if self.entries.last().is_some_and(|latest| latest.0 == epoch && latest.1 <= start) {
            return false;
        }
        while self.entries.last().is_some_and(|entry| entry.0 >= epoch || entry.1 >= start) {
            self.entries.pop();
        }
        self.entries.push((epoch, start));
        true
    }

    /// Removes the entries that start at or beyond `end`. Returns whether anything changed.
    pub(super) fn truncate_from_end(&mut self, end: Offset) -> bool {
        let kept = self.entries.partition_point(|entry| entry.1 < end);
        let changed = end.0 >= 0 && kept < self.entries.len();
        if changed {
            self.entries.truncate(kept);
        }
        changed
    }

    /// Removes what lies below `start`: the epoch that holds `start` begins there now. Returns whether
    /// anything changed.
    pub(super) fn truncate_from_start(&mut self, start: Offset) -> bool {
        let begun = self.entries.partition_point(|entry| entry.1 <= start);
        if begun == 0 || (begun == 1 && self.entries[0].1 == start) {
            return false;
        }
        self.entries.drain(..begun - 1);
        self.entries[0].1 = start;
        true
    }

    /// Removes everything. Returns whether anything changed.
    pub(super) fn clear(&mut self) -> bool {
        let changed = !self.entries.is_empty();
        self.entries.clear();
        changed
    }

    /// Reads the checkpoint in the log's directory `dir`. As in Kafka a missing or empty file is an empty
    /// cache, and a malformed one an error (`InvalidData`) that makes the log unusable: epochs guessed wrong
    /// would truncate wrong.
    pub(super) fn read(disk: &Disk, dir: &str) -> io::Result<EpochCache> {
        let mut cache = EpochCache::default();
        for line in checkpoint::read(disk, &path(dir))? {
            let entry = line.split_once(' ').and_then(|(epoch, start)| {
                let entry = (LeaderEpoch(epoch.parse().ok()?), Offset(start.parse().ok()?));
                (entry.0.0 >= 0 && entry.1.0 >= 0).then_some(entry)
            });
            let Some((epoch, start)) = entry else {
                return Err(checkpoint::malformed(&path(dir), &line));
            };
            cache.assign(epoch, start);
        }
        Ok(cache)
    }

    /// Writes the checkpoint into the log's directory `dir`; durable when this returns.
    pub(super) fn write(&self, disk: &Disk, dir: &str) -> io::Result<()> {
        checkpoint::write(disk, &path(dir), self.entries.iter().map(|(epoch, start)| format!("{epoch} {start}")))
    }
}

fn path(dir: &str) -> String {
    format!("{dir}/leader-epoch-checkpoint")
}
