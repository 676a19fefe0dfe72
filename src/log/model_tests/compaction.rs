//! Compaction in the model: of each key the latest value stays, an offset never gets another record, and what a reader
//! has at the end of the log is what it would have had before.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::log::record::Records;
use crate::log::{Dirt, batch};

/// One record; no value: a tombstone.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub offset: Offset,
    pub timestamp: i64,
    pub key: Bytes,
    pub value: Option<Bytes>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Row { offset, timestamp, key, value } = self;
        let bytes = value.as_ref().map(Bytes::len);
        write!(f, "{offset} at {timestamp}: {key:?} with {bytes:?} bytes")
    }
}

/// One batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub info: BatchInfo,
    pub max_timestamp: i64,
    /// When its tombstones may go.
    pub horizon_ms: Option<i64>,
    pub rows: Vec<Row>,
}

impl Held {
    /// What a log's batch says.
    pub fn parse(bytes: &Bytes) -> Held {
        let header = batch::checked(bytes, true).expect("a batch of the log is whole");
        let mut records = Records::open(&header, bytes).unwrap();
        let mut rows = Vec::new();
        while let Some(record) = records.next() {
            let record = record.unwrap();
            let slice = |place| records.bytes().slice(place);
            rows.push(Row {
                offset: header.offset_of(&record),
                timestamp: header.timestamp_of(&record),
                key: slice(record.key.clone().expect("every record has a key")),
                value: record.value.clone().map(slice),
            });
        }
        let horizon_ms = header.delete_horizon_ms();
        Held { info: header.info(), max_timestamp: header.max_timestamp, horizon_ms, rows }
    }

    /// The rows that a batch of these records holds, from `base_offset` on.
    pub fn rows(records: &[(String, Option<String>)], base_offset: Offset, timestamp: i64) -> Vec<Row> {
        let row = |(at, (key, value)): (i64, &(String, Option<String>))| Row {
            offset: base_offset + at,
            timestamp: timestamp + at,
            key: key.clone().into(),
            value: value.clone().map(Bytes::from),
        };
        (0..).zip(records).map(row).collect()
    }
}

/// Every batch of the log, as it lies there.
pub(super) fn held_by(log: &Log) -> Vec<Held> {
    let segments = log.segments.iter();
    let batches = segments.flat_map(|segment| segment.batches().iter().map(|stored| segment.read_batch(stored)));
    batches.map(|bytes| Held::parse(&bytes.unwrap())).collect()
}

/// What a reader of all records from `from` on has at their end: the offset of each key's latest value.
pub(super) fn table<'a>(batches: impl Iterator<Item = &'a Held>, from: Offset) -> BTreeMap<&'a Bytes, Offset> {
    let mut table = BTreeMap::new();
    for row in batches.flat_map(|batch| &batch.rows).filter(|row| row.offset >= from) {
        match row.value {
            Some(_) => drop(table.insert(&row.key, row.offset)),
            None => drop(table.remove(&row.key)),
        }
    }
    table
}

/// One cleaning: what it may do and what it must.
pub(super) struct Cleaning {
    first_dirty: Offset,
    /// Nothing at or beyond it changes.
    to: Offset,
    wall_clock_ms: i64,
    delete_retention_ms: i64,
    /// Below `to`, where each key comes last.
    latest: BTreeMap<Bytes, Offset>,
}

impl Cleaning {
    pub fn new(model: &Model, dirt: &Dirt, config: &LogConfig) -> Cleaning {
        let rows = model.batches.iter().flat_map(|batch| &batch.rows).filter(|row| row.offset < dirt.first_uncleanable);
        Cleaning {
            first_dirty: dirt.first_dirty,
            to: dirt.first_uncleanable,
            wall_clock_ms: model.wall_clock_ms,
            delete_retention_ms: config.compaction.delete_retention.as_millis() as i64,
            latest: rows.map(|row| (row.key.clone(), row.offset)).collect(),
        }
    }

    /// Superseded, or a tombstone whose time is over.
    fn may_remove(&self, batch: &Held, row: &Row) -> bool {
        let is_expired = row.value.is_none() && batch.horizon_ms.is_some_and(|horizon| horizon <= self.wall_clock_ms);
        row.offset < self.to && (is_expired || row.offset < self.latest[&row.key])
    }

    /// Whether nothing has to remain of the batch.
    pub fn may_vanish(&self, batch: &Held) -> bool {
        batch.rows.iter().all(|row| self.may_remove(batch, row))
    }

    /// What a cleaning makes of a batch is the same, or its place with some of its records, all as they were.
    pub fn assert_reduced(&self, before: &Held, after: &Held) {
        if before == after {
            return;
        }
        let place = |held: &Held| (held.info.base_offset, held.info.last_offset, held.info.leader_epoch);
        assert_eq!(place(after), place(before));
        assert!(before.info.base_offset < self.to, "{before:?} was not to be cleaned");
        let mut rest = after.rows.iter().peekable();
        for row in &before.rows {
            if rest.next_if_eq(&row).is_none() {
                assert!(self.may_remove(before, row), "{row:?} is gone");
            }
        }
        assert_eq!(rest.next(), None, "a record that was not there");
        let has_tombstone = after.rows.iter().any(|row| row.value.is_none());
        let begun = has_tombstone.then_some(self.wall_clock_ms + self.delete_retention_ms);
        let horizon_ms = before.horizon_ms.filter(|_| !after.rows.is_empty()).or(begun);
        assert_eq!(after.horizon_ms, horizon_ms, "a horizon is set once");
        let max_timestamp = after.rows.iter().map(|row| row.timestamp).max();
        assert_eq!(after.max_timestamp, max_timestamp.unwrap_or(before.max_timestamp));
    }

    /// The whole of it, which got as far as `end`: all that is superseded from the first dirty offset on is gone too.
    fn assert_done(&self, before: &Model, after: &[Held], end: Offset) {
        let mut found = after.iter().peekable();
        let mut latest = BTreeMap::new();
        let dirty = |row: &&Row| (self.first_dirty..end).contains(&row.offset);
        for row in before.batches.iter().flat_map(|batch| &batch.rows).filter(dirty) {
            latest.insert(&row.key, row.offset);
        }
        for batch in &before.batches {
            let Some(left) = found.next_if(|left| left.info.base_offset == batch.info.base_offset) else {
                assert!(self.may_vanish(batch), "{batch:?} is gone");
                assert_ne!(batch.info.last_offset + 1, self.to, "the last batch of what is clean stays");
                continue;
            };
            self.assert_reduced(batch, left);
            for row in left.rows.iter().filter(|row| row.offset < end) {
                assert!(latest.get(&row.key).is_none_or(|latest| row.offset >= *latest), "{row:?} is superseded");
                let is_dated = row.value.is_some() || left.horizon_ms.is_some_and(|at| at > self.wall_clock_ms);
                assert!(is_dated || self.delete_retention_ms == 0, "{row:?} is to go one day");
            }
        }
        assert_eq!(found.next(), None, "a batch that was not there");
        assert_eq!(table(before.batches.iter(), before.start), table(after.iter(), before.start));
    }
}

impl Run {
    /// One round of the cleaner, as the broker does it; with memory for so many keys.
    pub(super) fn clean(&mut self, keys_max: usize) {
        let Some(dirt) = self.dirt() else { return };
        assert!(dirt.first_uncleanable <= self.log.high_watermark().max(dirt.first_dirty));
        if dirt.checkpoint_was_invalid {
            self.directory.checkpoint_cleaned(orders(), dirt.first_dirty).unwrap();
        }
        if !self.log.is_worth_cleaning(&dirt) {
            return;
        }
        let cleaning = Cleaning::new(&self.model, &dirt, &self.config);
        let cleaned = self.log.clean(&dirt, self.model.wall_clock_ms, keys_max).unwrap();
        assert!(cleaned.end > dirt.first_dirty && cleaned.end <= dirt.first_uncleanable, "a round gets somewhere");
        self.directory.checkpoint_cleaned(orders(), cleaned.end).unwrap();
        let after = held_by(&self.log);
        cleaning.assert_done(&self.model, &after, cleaned.end);
        let rewritten = cleaned
            .rewritten
            .batches
            .iter()
            .eq(after.iter().map(|held| &held.info).take_while(|info| info.base_offset < cleaned.rewritten.to));
        assert!(rewritten, "the observer is told what is there now");
        self.model.batches = after;
        self.check_reads();
    }

    /// What there is to clean, if the topic is compacted.
    pub(super) fn dirt(&self) -> Option<Dirt> {
        let compacts = self.config.cleanup_policy.compacts();
        compacts.then(|| self.log.dirt(self.directory.cleaned_to(&orders()), self.model.wall_clock_ms))
    }
}
