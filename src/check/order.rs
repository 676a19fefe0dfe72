//! The version order of every key: which values are known at which offset, and the dense index of each
//! offset. Offsets that nobody saw are holes, not errors: control records and compaction take offsets.

use super::facts::{Facts, KeyId, Record, ValueId};
use crate::history::EventType;

/// The order of one key.
#[derive(Default)]
pub struct KeyOrder {
    /// Known offsets, ascending: the position of one is its dense index.
    offsets: Vec<i64>,
    /// (offset, value), sorted, each once.
    pub entries: Vec<(i64, ValueId)>,
}

impl KeyOrder {
    fn from_entries(mut entries: Vec<(i64, ValueId)>) -> KeyOrder {
        entries.sort_unstable();
        entries.dedup();
        let mut offsets: Vec<i64> = entries.iter().map(|entry| entry.0).collect();
        offsets.dedup();
        KeyOrder { offsets, entries }
    }

    fn index_of_offset(&self, offset: i64) -> Option<usize> {
        let first = *self.offsets.first()?;
        // Without holes the index is the distance from the first offset.
        let guess = usize::try_from(offset.checked_sub(first)?).ok()?;
        if self.offsets.get(guess) == Some(&offset) {
            return Some(guess);
        }
        self.offsets.binary_search(&offset).ok()
    }

    /// The entries from offset `from` to before offset `until`.
    pub fn between(&self, from: i64, until: i64) -> &[(i64, ValueId)] {
        let first = self.entries.partition_point(|entry| entry.0 < from);
        let end = self.entries.partition_point(|entry| entry.0 < until);
        self.entries.get(first..end).unwrap_or_default()
    }

    fn values_at(&self, offset: i64) -> &[(i64, ValueId)] {
        let from = self.entries.partition_point(|entry| entry.0 < offset);
        let to = from + self.entries[from..].partition_point(|entry| entry.0 == offset);
        &self.entries[from..to]
    }
}

/// Dense indexes of a value's first and last offset.
#[derive(Clone, Copy)]
pub struct Span {
    pub first: usize,
    pub last: usize,
}

/// The orders of all keys.
pub struct VersionOrders {
    orders: Vec<KeyOrder>,
    spans: Vec<Option<Span>>,
}

impl VersionOrders {
    /// Sends count if they must have committed and their offset is known; polls count from every
    /// completion, failed ones too: a consumer must never be handed bad data.
    pub fn of(facts: &Facts<'_>) -> VersionOrders {
        let mut entries: Vec<Vec<(i64, ValueId)>> = vec![Vec::new(); facts.keys.len()];
        let mut add = |record: &Record| {
            if let Some(offset) = record.offset {
                entries[record.key.0 as usize].push((offset, record.value));
            }
        };
        for id in facts.op_ids() {
            let op = facts.op(id);
            if facts.is_committed(id) {
                facts.sends(op).iter().for_each(&mut add);
            }
            facts.polls(op).iter().for_each(&mut add);
        }
        let orders: Vec<KeyOrder> = entries.into_iter().map(KeyOrder::from_entries).collect();
        let mut spans: Vec<Option<Span>> = vec![None; facts.values.len()];
        for order in &orders {
            let mut index = 0;
            for (at, &(offset, value)) in order.entries.iter().enumerate() {
                index += usize::from(at > 0 && order.entries[at - 1].0 != offset);
                spans[value.0 as usize].get_or_insert(Span { first: index, last: index }).last = index;
            }
        }
        VersionOrders { orders, spans }
    }

    pub fn key(&self, key: KeyId) -> &KeyOrder {
        &self.orders[key.0 as usize]
    }

    /// First and last index of a value; `None` if no offset of it is known.
    pub fn span(&self, value: ValueId) -> Option<Span> {
        self.spans[value.0 as usize]
    }

    /// Index distance from `a` to `b`, records of one key: `b` follows `a` directly at 1. Taken as 1 where
    /// an index is unknown.
    pub fn distance(&self, a: &Record, b: &Record) -> i64 {
        match (self.index(a), self.index(b)) {
            (Some(a), Some(b)) => b as i64 - a as i64,
            (Some(_), None) | (None, Some(_)) | (None, None) => 1,
        }
    }

    /// The values between two records of one key, at most `values_max`.
    pub fn skipped(&self, a: &Record, b: &Record, values_max: usize) -> Vec<ValueId> {
        let (Some(from), Some(to)) = (self.index(a), self.index(b)) else { return Vec::new() };
        let order = self.key(a.key);
        let between = order.offsets.get(from + 1..to).unwrap_or_default();
        between.iter().flat_map(|offset| order.values_at(*offset)).map(|entry| entry.1).take(values_max).collect()
    }

    /// A record's own offset decides, if the order has the record there; otherwise its value's last index.
    fn index(&self, record: &Record) -> Option<usize> {
        let span = self.span(record.value)?;
        if span.first == span.last {
            return Some(span.first);
        }
        let order = self.key(record.key);
        let own = record.offset.filter(|o| order.values_at(*o).iter().any(|entry| entry.1 == record.value));
        own.and_then(|offset| order.index_of_offset(offset)).or(Some(span.last))
    }

    /// The last offset at which a record's value is known.
    pub fn last_offset(&self, record: &Record) -> Option<i64> {
        self.offset_at(record.key, self.span(record.value)?.last)
    }

    /// The offset at a dense index.
    pub fn offset_at(&self, key: KeyId, index: usize) -> Option<i64> {
        self.key(key).offsets.get(index).copied()
    }
}

/// Keys of which an ok operation read something, with the highest first index among the values read and a
/// value that has it.
pub fn read_bounds(facts: &Facts<'_>, orders: &VersionOrders) -> Vec<Option<(usize, ValueId)>> {
    let mut bounds: Vec<Option<(usize, ValueId)>> = vec![None; facts.keys.len()];
    for (position, value) in facts.values.iter().enumerate() {
        let id = ValueId(position as u32);
        debug_assert!(value.reader.is_none_or(|op| facts.op(op).event.kind == EventType::Ok));
        if let (Some(_), Some(span)) = (value.reader, orders.span(id)) {
            let bound = &mut bounds[value.key.0 as usize];
            if bound.is_none_or(|(index, _)| span.first > index) {
                *bound = Some((span.first, id));
            }
        }
    }
    bounds
}
