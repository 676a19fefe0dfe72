//! Requests that wait for something to happen on a partition, or for their time to run out
//! (`DelayedOperationPurgatory`, `DelayedProduce`, `DelayedFetch`).

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::fetch::DelayedFetch;
use super::produce::DelayedProduce;
use super::{Broker, Hosted, Key, Touched};
use crate::world::{Endpoint, Time};

pub(super) enum Delayed {
    Produce(DelayedProduce),
    Fetch(DelayedFetch),
}

impl Delayed {
    fn deadline(&self) -> Time {
        match self {
            Delayed::Produce(produce) => produce.deadline,
            Delayed::Fetch(fetch) => fetch.deadline,
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
        self.complete_waiting_fetches(now, key, net);
        if touched == Touched::All {
            self.complete_waiting_produces(now, key, net);
        }
    }

    fn complete_waiting_fetches(&mut self, now: Time, key: Key, net: &mut Endpoint) {
        let Some(hosted) = self.partitions.get_mut(&key) else { return };
        if hosted.waiting_fetch.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut hosted.waiting_fetch);
        waiting.retain(|&id| {
            let is_complete = match self.purgatory.get_mut(id) {
                Some(Delayed::Fetch(fetch)) => fetch.is_complete(&self.partitions),
                Some(Delayed::Produce(_)) | None => return false,
            };
            if is_complete && let Some(operation) = self.purgatory.remove(id) {
                self.finish(now, id, operation, net);
            }
            !is_complete
        });
        if let Some(hosted) = self.partitions.get_mut(&key) {
            hosted.waiting_fetch.append(&mut waiting);
        }
    }

    fn complete_waiting_produces(&mut self, now: Time, key: Key, net: &mut Endpoint) {
        let Some(hosted) = self.partitions.get_mut(&key) else { return };
        if hosted.waiting_produce.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut hosted.waiting_produce);
        waiting.retain(|&id| {
            let is_complete = match self.purgatory.get_mut(id) {
                Some(Delayed::Produce(produce)) => produce.is_complete(&self.partitions, &self.offline),
                Some(Delayed::Fetch(_)) | None => return false,
            };
            if is_complete && let Some(operation) = self.purgatory.remove(id) {
                self.finish(now, id, operation, net);
            }
            !is_complete
        });
        if let Some(hosted) = self.partitions.get_mut(&key) {
            hosted.waiting_produce.append(&mut waiting);
        }
    }

    /// The partition that operation `id` waited for is gone: look at what is left of it.
    pub(super) fn complete_orphan(&mut self, now: Time, id: u64, net: &mut Endpoint) {
        let is_complete = match self.purgatory.get_mut(id) {
            Some(Delayed::Fetch(fetch)) => fetch.is_complete(&self.partitions),
            Some(Delayed::Produce(produce)) => produce.is_complete(&self.partitions, &self.offline),
            None => false,
        };
        if is_complete && let Some(operation) = self.purgatory.remove(id) {
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
