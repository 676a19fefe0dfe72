//! The leader epoch cache (Kafka's `LeaderEpochFileCache`), kept in `leader-epoch-checkpoint`: which leader
//! epoch began at which offset. The cache itself is a value; the log that owns it keeps the file.

use std::io;

use super::checkpoint;
use crate::defect::{Defect, Defects};
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
    pub(super) fn write(&self, disk: &Disk, dir: &str, defects: Defects) -> io::Result<()> {
        let lines = self.entries.iter().map(|(epoch, start)| format!("{epoch} {start}"));
        // KAFKA-15046 saved the fsync: after a power loss the new name stands for an empty file (KAFKA-16541).
        let is_durable = !defects.has(Defect::EpochCheckpointNoFsync);
        checkpoint::write(disk, &path(dir), lines, is_durable)
    }
}

fn path(dir: &str) -> String {
    format!("{dir}/leader-epoch-checkpoint")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(i32, i64)]) -> EpochCache {
        let mut cache = EpochCache::default();
        for &(epoch, start) in entries {
            cache.assign(LeaderEpoch(epoch), Offset(start));
        }
        cache
    }

    fn entries(cache: &EpochCache) -> Vec<(i32, i64)> {
        cache.entries().iter().map(|(epoch, start)| (epoch.0, start.0)).collect()
    }

    fn end(cache: &EpochCache, epoch: i32, log_end: i64) -> Option<(i32, i64)> {
        cache.end_offset_for(LeaderEpoch(epoch), Offset(log_end)).map(|(epoch, end)| (epoch.0, end.0))
    }

    fn after(entries_before: &[(i32, i64)], change: impl Fn(&mut EpochCache) -> bool) -> (Vec<(i32, i64)>, bool) {
        let mut cache = cache(entries_before);
        let changed = change(&mut cache);
        (entries(&cache), changed)
    }

    #[test]
    fn an_epoch_once_assigned_keeps_its_start() {
        assert_eq!(entries(&cache(&[(2, 6), (2, 10)])), [(2, 6)]);
        assert_eq!(after(&[(2, 6)], |cache| cache.assign(LeaderEpoch(2), Offset(6))), (vec![(2, 6)], false));
    }

    #[test]
    fn the_last_assignment_removes_what_conflicts_with_it() {
        // Kafka's LeaderEpochFileCacheTest: same offset, earlier offset, earlier start of the same epoch, older epoch.
        assert_eq!(entries(&cache(&[(2, 9), (3, 9)])), [(3, 9)]);
        assert_eq!(entries(&cache(&[(2, 6), (3, 5)])), [(3, 5)]);
        assert_eq!(entries(&cache(&[(5, 11), (6, 12), (7, 13), (7, 12)])), [(5, 11), (7, 12)]);
        assert_eq!(entries(&cache(&[(1, 5), (2, 6), (1, 7)])), [(1, 7)]);
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let cache = cache(&[(0, 10), (2, 13), (4, 17)]);
        assert_eq!(end(&cache, 0, 20), Some((0, 13)));
        assert_eq!(end(&cache, 1, 20), Some((0, 13)));
        assert_eq!(end(&cache, 2, 20), Some((2, 17)));
        assert_eq!(end(&cache, 3, 20), Some((2, 17)));
    }

    #[test]
    fn the_latest_epoch_ends_at_the_log_end() {
        assert_eq!(end(&cache(&[(2, 11)]), 2, 14), Some((2, 14)));
    }

    #[test]
    fn an_epoch_below_all_known_ones_ends_where_the_log_begins() {
        assert_eq!(end(&cache(&[(5, 11), (6, 12), (7, 13)]), 4, 20), Some((4, 11)));
    }

    #[test]
    fn unknown_epochs_are_undefined() {
        assert_eq!(end(&cache(&[]), 0, 0), None);
        assert_eq!(end(&cache(&[]), -1, 73), None);
        assert_eq!(end(&cache(&[(2, 11), (3, 12)]), -1, 20), None);
        assert_eq!(end(&cache(&[(2, 100)]), 3, 100), None);
    }

    #[test]
    fn truncation_from_the_end_takes_epochs_that_start_there() {
        let full = [(2, 6), (3, 8), (4, 11)];
        let truncated = |to: i64| after(&full, |cache| cache.truncate_from_end(Offset(to)));
        assert_eq!(truncated(8), (vec![(2, 6)], true));
        assert_eq!(truncated(9), (vec![(2, 6), (3, 8)], true));
        assert_eq!(truncated(12), (full.to_vec(), false));
        assert_eq!(truncated(0), (vec![], true));
        assert_eq!(truncated(-1), (full.to_vec(), false));
    }

    #[test]
    fn truncation_from_the_start_moves_the_epoch_that_holds_it() {
        let full = [(2, 6), (3, 8), (4, 11)];
        let truncated = |to: i64| after(&full, |cache| cache.truncate_from_start(Offset(to)));
        assert_eq!(truncated(8), (vec![(3, 8), (4, 11)], true));
        assert_eq!(truncated(9), (vec![(3, 9), (4, 11)], true));
        assert_eq!(truncated(7), (vec![(2, 7), (3, 8), (4, 11)], true));
        assert_eq!(truncated(15), (vec![(4, 15)], true));
        assert_eq!(truncated(1), (full.to_vec(), false));
        assert_eq!(truncated(6), (full.to_vec(), false));
        assert_eq!(truncated(-1), (full.to_vec(), false));
        assert_eq!(after(&[], |cache| cache.truncate_from_start(Offset(7))), (vec![], false));
    }

    #[test]
    fn finds_the_epoch_of_an_offset() {
        let cache = cache(&[(0, 10), (1, 20), (5, 30)]);
        let at = |offset: i64| cache.epoch_at(Offset(offset)).map(|epoch| epoch.0);
        assert_eq!(
            [at(5), at(10), at(20), at(25), at(30), at(50)],
            [None, Some(0), Some(1), Some(1), Some(5), Some(5)]
        );
        assert_eq!(cache.start_offset(LeaderEpoch(1)), Some(Offset(20)));
        assert_eq!(cache.start_offset(LeaderEpoch(2)), None);
    }
}
