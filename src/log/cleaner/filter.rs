//! What remains of one batch (Kafka's `Cleaner.cleanInto`, `MemoryRecords.filterTo`).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::OffsetMap;
use crate::log::batch::{BatchError, Header};
use crate::log::compression;
use crate::log::record::{self, Record, Records, Rewrite};
use crate::protocol::Offset;

/// One cleaning's rules.
pub(super) struct Filter {
    pub map: OffsetMap,
    pub wall_clock_ms: i64,
    pub delete_retention_ms: i64,
    /// Set if the time of a segment's last change, and not a batch's horizon, decides on its tombstones: those up to here
    /// go.
    pub horizon_by_mtime: Option<i64>,
    /// When the segment at hand was changed last.
    pub modified_ms: i64,
    /// Where the cleaning ends: the last batch before it stays even if it is empty, or the next start would not know
    /// where the log ended.
    pub round_end: Offset,
    pub last_batch_of_producer: BTreeMap<i64, Offset>,
    pub records_before: u64,
    pub records_after: u64,
    /// Tombstones that went for their age.
    pub tombstones: Vec<Offset>,
}

impl Filter {
    /// The batch to be written in the place of `batch`, the same or another; `None` if nothing remains of it.
    pub fn filter(&mut self, header: &Header, batch: &Bytes) -> Result<Option<Bytes>, BatchError> {
        // Without transactions there is no telling when a marker has served its purpose.
        if header.is_control() {
            return Ok(Some(batch.clone()));
        }
        let mut opened = Records::open(header, batch)?;
        let mut retained = Vec::new();
        let mut has_tombstones = false;
        while let Some(record) = opened.next() {
            let record = record?;
            if self.retains(header, &record, &opened) {
                has_tombstones |= record.value.is_none();
                retained.push(record);
            }
        }
        let count = usize::try_from(header.records_count).unwrap_or(0);
        self.records_before += count as u64;
        self.records_after += retained.len() as u64;
        if retained.is_empty() {
            return Ok(self.is_needed_empty(header).then(|| record::empty(header)));
        }
        let begins_horizon = has_tombstones && header.delete_horizon_ms().is_none() && self.horizon_by_mtime.is_none();
        if retained.len() == count && !begins_horizon {
            return Ok(Some(batch.clone()));
        }
        let horizon_ms = self.wall_clock_ms.saturating_add(self.delete_retention_ms);
        let rewrite = Rewrite {
            compression: compression::of_attributes(header.attributes)?,
            delete_horizon_ms: if begins_horizon { Some(horizon_ms) } else { header.delete_horizon_ms() },
            renumber: false,
        };
        Ok(Some(record::rewrite(header, &opened, &retained, rewrite)))
    }

    /// `Cleaner.shouldRetainRecord`. Records without a key do not belong into a compacted log.
    fn retains(&mut self, header: &Header, record: &Record, records: &Records) -> bool {
        let offset = header.offset_of(record);
        if self.map.latest.is_none_or(|latest| offset > latest) {
            return true;
        }
        let Some(key) = record.key.clone() else { return false };
        let is_latest = self.map.latest_of.get(&records.bytes()[key]).is_none_or(|latest| offset >= *latest);
        if !is_latest || record.value.is_some() || self.retains_tombstones(header) {
            return is_latest;
        }
        self.tombstones.push(offset);
        false
    }

    /// A tombstone stays until the horizon that an earlier cleaning wrote into its batch (KIP-534).
    fn retains_tombstones(&self, header: &Header) -> bool {
        if let Some(horizon_ms) = self.horizon_by_mtime {
            return self.modified_ms > horizon_ms;
        }
        header.delete_horizon_ms().is_none_or(|horizon_ms| self.wall_clock_ms < horizon_ms)
    }

    /// Whether the header of a batch without records still tells something: a producer's last sequence, or the last
    /// offset of what is clean.
    fn is_needed_empty(&self, header: &Header) -> bool {
        let is_last_of_producer = self.last_batch_of_producer.get(&header.producer_id) == Some(&header.last_offset());
        is_last_of_producer || header.last_offset() + 1 == self.round_end
    }
}
