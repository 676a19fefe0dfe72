//! Requests that wait for something to happen on a partition, or for their time to run out
//! (`DelayedOperationPurgatory`, `DelayedProduce`, `DelayedFetch`, `DelayedDeleteRecords`).

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::delete_records::DelayedDeleteRecords;
use super::fetch::DelayedFetch;
use super::produce::DelayedProduce;
use super::{Broker, Hosted, Key, Touched};
use crate::world::{Endpoint, Time};

pub(super) enum Delayed {
    Produce(DelayedProduce),
    Fetch(DelayedFetch),
    DeleteRecords(DelayedDeleteRecords),
}

impl Delayed {
    fn deadline(&self) -> Time {
        match self {
            Delayed::Produce(produce) => produce.deadline,
            Delayed::Fetch(fetch) => fetch.deadline,
            Delayed::DeleteRecords(delete) => delete.deadline,
        }
    }
}

#[derive(Default)]
pub(super) struct Purgatory {
    next_id: u64,
    operations: FxHashMap<u64, Delayed>,
    deadlines: BTreeSet<(Time, u64)>,
    /// Operations that waited for a partition which is no longer here.
    orphans: Vec<u64>,
}

impl Purgatory {
    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Adds an operation; the caller makes the partitions it waits for know its id.
    pub fn add(&mut self, operation: Delayed) -> u64 {
        self.next_id += 1;
        self.deadlines.insert((operation.deadline(), self.next_id));
        self.operations.insert(self.next_id, operation);
        self.next_id
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut Delayed> {
        self.operations.get_mut(&id)
    }

    pub fn orphan(&mut self, ids: impl Iterator<Item = u64>) {
        self.orphans.extend(ids);
    }

    pub fn pop_orphan(&mut self) -> Option<u64> {
        self.orphans.pop()
    }

    fn remove(&mut self, id: u64) -> Option<Delayed> {
        let operation = self.operations.remove(&id)?;
        self.deadlines.remove(&(operation.deadline(), id));
        Some(operation)
    }

    fn pop_expired(&mut self, now: Time) -> Option<(u64, Delayed)> {
        let (_, id) = *self.deadlines.first().filter(|(deadline, _)| *deadline <= now)?;
        Some((id, self.remove(id)?))
    }
}

impl Broker {
    /// Something changed on partition `key`: answers the requests that were waiting for it.
    pub(super) fn complete_waiting(&mut self, now: Time, key: Key, touched: Touched, net: &mut Endpoint) {
        match touched {
            Touched::LogEnd => self.complete_list(now, key, |hosted| &mut hosted.waiting_fetch, net),
            Touched::LowWatermark => self.complete_list(now, key, |hosted| &mut hosted.waiting_delete, net),
            Touched::All => {
                self.complete_list(now, key, |hosted| &mut hosted.waiting_fetch, net);
                self.complete_list(now, key, |hosted| &mut hosted.waiting_produce, net);
                self.complete_list(now, key, |hosted| &mut hosted.waiting_delete, net);
                if self.groups.is_of_topic(key) {
                    self.on_offsets_partition_touched(now, key);
                }
            }
        }
    }

    fn complete_list(&mut self, now: Time, key: Key, list: fn(&mut Hosted) -> &mut Vec<u64>, net: &mut Endpoint) {
        let Some(hosted) = self.partitions.get_mut(&key) else { return };
        if list(hosted).is_empty() {
            return;
        }
        let mut waiting = std::mem::take(list(hosted));
        waiting.retain(|&id| {
            let Some(is_complete) = self.is_complete(id) else { return false };
            if is_complete && let Some(operation) = self.purgatory.remove(id) {
                self.finish(now, id, operation, net);
            }
            !is_complete
        });
        if let Some(hosted) = self.partitions.get_mut(&key) {
            list(hosted).append(&mut waiting);
        }
    }

    /// Whether an operation can be answered; `None` if it was already.
    fn is_complete(&mut self, id: u64) -> Option<bool> {
        Some(match self.purgatory.get_mut(id)? {
            Delayed::Fetch(fetch) => fetch.is_complete(&self.partitions),
            Delayed::Produce(produce) => produce.is_complete(&self.partitions, &self.offline),
            Delayed::DeleteRecords(delete) => delete.is_complete(&self.partitions, &self.env),
        })
    }

    /// The partition that operation `id` waited for is gone: look at what is left of it.
    pub(super) fn complete_orphan(&mut self, now: Time, id: u64, net: &mut Endpoint) {
        if self.is_complete(id) == Some(true)
            && let Some(operation) = self.purgatory.remove(id)
        {
            self.finish(now, id, operation, net);
        }
    }

    /// Answers the requests whose time has run out, with what there is.
    pub(super) fn expire_waiting(&mut self, now: Time, net: &mut Endpoint) {
        while let Some((id, operation)) = self.purgatory.pop_expired(now) {
            self.finish(now, id, operation, net);
        }
    }

    fn finish(&mut self, now: Time, id: u64, operation: Delayed, net: &mut Endpoint) {
        match operation {
            Delayed::Produce(produce) => {
                self.unwatch(produce.keys(), |hosted| hosted.waiting_produce.retain(|&other| other != id));
                self.finish_produce(now, produce, net);
            }
            Delayed::Fetch(fetch) => {
                self.unwatch(fetch.keys(), |hosted| hosted.waiting_fetch.retain(|&other| other != id));
                self.finish_fetch(now, fetch, net);
            }
            Delayed::DeleteRecords(delete) => {
                self.unwatch(delete.keys(), |hosted| hosted.waiting_delete.retain(|&other| other != id));
                self.finish_delete_records(delete, net);
            }
        }
    }

    fn unwatch(&mut self, keys: impl Iterator<Item = Key>, forget: impl Fn(&mut Hosted)) {
        for key in keys {
            if let Some(hosted) = self.partitions.get_mut(&key) {
                forget(hosted);
            }
        }
    }
}
