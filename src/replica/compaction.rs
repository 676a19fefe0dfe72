//! Compaction of a replica's own log, which leader and followers do each for themselves.

use super::Environment;
use super::partition::Partition;
use crate::log::{CleanError, Dirt, OFFSET_MAP_KEYS, Rewritten};
use crate::observe::Observation;
use crate::protocol::Offset;
use crate::world::Time;

impl Partition {
    /// Compacts what `dirt` found in our log; returns up to where it is clean now.
    pub fn clean(
        &mut self,
        now: Time,
        env: &Environment,
        dirt: &Dirt,
        wall_clock_ms: i64,
    ) -> Result<Offset, CleanError> {
        let cleaned = self.log.clean(dirt, wall_clock_ms, OFFSET_MAP_KEYS)?;
        let Rewritten { from, to, batches } = cleaned.rewritten;
        let partition = self.topic_partition.clone();
        let delete_retention_ms = self.log.config().compaction.delete_retention.as_millis() as i64;
        let tombstones = cleaned.tombstones;
        env.observe(now, Observation::Compacted { partition, from, to, batches, delete_retention_ms, tombstones });
        Ok(cleaned.end)
    }
}
