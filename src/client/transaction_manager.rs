//! What makes a producer idempotent (KIP-98, KIP-360): its id and epoch, the sequences of each partition, and what to
//! do when the broker's idea of them is another. Kafka's `TransactionManager` and `TxnPartitionEntry`, without
//! transactions.
//!
//! Knows the batches by their [`ProducerState`] only: who holds them is told what becomes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use rand::RngExt;

use super::error::ClientError;
use super::metadata::{Metadata, NodeChoice};
use crate::defect::{Defect, Defects};
use crate::log::batch::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE};
use crate::protocol::ErrorCode;
use crate::protocol::rpc::{Reply, RpcClient, RpcError};
use crate::world::{Endpoint, Rng, Time};

/// InitProducerId v4: the last one before transactions version 2.
const INIT_PRODUCER_ID_VERSION: i16 = 4;

/// Index of a topic in the accumulator, and a partition of it.
pub(super) type PartitionKey = (usize, i32);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ProducerIdAndEpoch {
    pub producer_id: i64,
    pub epoch: i16,
}

impl ProducerIdAndEpoch {
    pub const NONE: ProducerIdAndEpoch = ProducerIdAndEpoch { producer_id: NO_PRODUCER_ID, epoch: NO_PRODUCER_EPOCH };
}

/// What a batch says of its producer. Ordered as Kafka orders the batches in flight of a partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ProducerState {
    pub producer: ProducerIdAndEpoch,
    pub base_sequence: i32,
}

/// A batch that was given a sequence and has not ended: in flight, or waiting to be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tracked {
    state: ProducerState,
    records: i32,
}

/// One partition (`TxnPartitionEntry`).
#[derive(Clone, Debug)]
struct PartitionEntry {
    producer: ProducerIdAndEpoch,
    next_sequence: i32,
    /// `NO_SEQUENCE`: none yet.
    last_acked_sequence: i32,
    /// In the order of their states.
    in_flight: Vec<Tracked>,
}

impl Default for PartitionEntry {
    fn default() -> Self {
        PartitionEntry {
            producer: ProducerIdAndEpoch::NONE,
            next_sequence: 0,
            last_acked_sequence: NO_SEQUENCE,
            in_flight: Vec::new(),
        }
    }
}

impl PartitionEntry {
    /// Whether the batch of this sequence is the one after the last that was acknowledged.
    fn is_next(&self, sequence: i32) -> bool {
        sequence.wrapping_sub(self.last_acked_sequence) == 1
    }

    /// `startSequencesAtBeginning`; returns the states that change.
    fn start_at_beginning(&mut self, producer: ProducerIdAndEpoch, defects: Defects) -> Vec<Reassigned> {
        let mut batches = std::mem::take(&mut self.in_flight);
        if batches.len() > 2 && defects.has(Defect::SequencesReassignedUnordered) {
            // A heap whose first was taken has the fourth of the former order before the third.
            batches.swap(1, 2);
        }
        let mut sequence = 0;
        let reassign = |Tracked { state: from, records }| {
            let to = ProducerState { producer, base_sequence: sequence };
            sequence += records;
            self.in_flight.push(Tracked { state: to, records });
            Reassigned { from, to }
        };
        let reassigned = batches.into_iter().map(reassign).collect();
        self.producer = producer;
        self.next_sequence = sequence;
        self.last_acked_sequence = NO_SEQUENCE;
        reassigned
    }
}

/// A batch that says something else of its producer from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reassigned {
    pub from: ProducerState,
    pub to: ProducerState,
}

/// `DefaultRecordBatch.incrementSequence`: they wrap from `i32::MAX` to 0.
pub(super) fn increment(sequence: i32, by: i32) -> i32 {
    ((i64::from(sequence) + i64::from(by)) % (i64::from(i32::MAX) + 1)) as i32
}

/// How the producer comes by its id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// `retry_at`: not asked for before.
    Uninitialized {
        retry_at: Time,
    },
    Initializing,
    Ready,
    FatalError(ClientError),
}

pub(super) struct TransactionManager {
    producer: ProducerIdAndEpoch,
    state: State,
    epoch_bump_required: bool,
    /// By topic and partition: looked up at every batch.
    partitions: Vec<Vec<PartitionEntry>>,
    /// Partitions where a batch expired that may or may not be in the log, and the sequence after it: nothing new is
    /// sent there before the rest has ended.
    unresolved: BTreeMap<PartitionKey, i32>,
    /// Their batches in flight begin at sequence 0 in the next epoch.
    to_rewrite: BTreeSet<PartitionKey>,
    retry_backoff: Duration,
    request_timeout: Duration,
    rng: Rng,
    defects: Defects,
}

impl TransactionManager {
    pub fn new(retry_backoff: Duration, request_timeout: Duration, rng: Rng, defects: Defects) -> TransactionManager {
        TransactionManager {
            producer: ProducerIdAndEpoch::NONE,
            state: State::Uninitialized { retry_at: Time::ZERO },
            epoch_bump_required: false,
            partitions: Vec::new(),
            unresolved: BTreeMap::new(),
            to_rewrite: BTreeSet::new(),
            retry_backoff,
            request_timeout,
            rng,
            defects,
        }
    }

    pub fn fatal_error(&self) -> Option<ClientError> {
        match self.state {
            State::FatalError(error) => Some(error),
            State::Uninitialized { .. } | State::Initializing | State::Ready => None,
        }
    }

    /// When an id is to be asked for again.
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Uninitialized { retry_at } if retry_at > Time::ZERO => Some(retry_at),
            State::Uninitialized { .. } | State::Initializing | State::Ready | State::FatalError(_) => None,
        }
    }

    /// Asks any broker for an id if there is none (`bumpIdempotentEpochAndResetIdIfNeeded`, `InitProducerIdHandler`).
    pub fn maybe_init<T>(
        &mut self,
        now: Time,
        metadata: &Metadata,
        rpc: &mut RpcClient<T>,
        tag: T,
        net: &mut Endpoint,
    ) {
        match self.state {
            State::Uninitialized { retry_at } if retry_at <= now => {}
            State::Uninitialized { .. } | State::Initializing | State::Ready | State::FatalError(_) => return,
        }
        let start = self.rng.random_range(0..=u32::MAX) as usize;
        let retry_at = match metadata.choose_node(now, start, rpc) {
            NodeChoice::Ready(peer) => {
                let request = InitProducerIdRequest::default()
                    .with_transactional_id(None)
                    .with_transaction_timeout_ms(i32::MAX)
                    .with_producer_id(NO_PRODUCER_ID.into())
                    .with_producer_epoch(NO_PRODUCER_EPOCH);
                rpc.send(now, peer, INIT_PRODUCER_ID_VERSION, &request, self.request_timeout, tag, net);
                self.state = State::Initializing;
                return;
            }
            // Its outcome is an event.
            NodeChoice::Connecting => Time::ZERO,
            NodeChoice::Connect(peer) => {
                rpc.connect(now, peer, net);
                Time::ZERO
            }
            NodeChoice::Blocked { until } => until,
        };
        self.state = State::Uninitialized { retry_at };
    }

    /// The answer to [`TransactionManager::maybe_init`]. An error that is returned fails every record that waits.
    pub fn on_init_response(&mut self, now: Time, result: Result<Reply, RpcError>) -> Option<ClientError> {
        if self.state != State::Initializing {
            return None;
        }
        let response = match result {
            Ok(reply) => reply.decode::<InitProducerIdRequest>().ok(),
            Err(RpcError::UnsupportedVersion) => {
                return self.fail(ClientError::Broker(ErrorCode::UnsupportedVersion));
            }
            Err(RpcError::Disconnected { .. } | RpcError::TimedOut { .. }) => None,
        };
        let error = response.as_ref().map(|response| ErrorCode::try_from_code(response.error_code));
        match (response, error.flatten()) {
            (Some(InitProducerIdResponse { producer_id, producer_epoch: epoch, .. }), None) => {
                self.producer = ProducerIdAndEpoch { producer_id: producer_id.0, epoch };
                self.state = State::Ready;
                None
            }
            (Some(_), Some(ErrorCode::ClusterAuthorizationFailed)) => {
                self.state = State::Uninitialized { retry_at: now + self.retry_backoff };
                Some(ClientError::Broker(ErrorCode::ClusterAuthorizationFailed))
            }
            (Some(_), Some(ErrorCode::InvalidProducerEpoch | ErrorCode::ProducerFenced)) => {
                self.fail(ClientError::Broker(ErrorCode::ProducerFenced))
            }
            (Some(_), Some(error)) if !error.is_retriable() => self.fail(ClientError::Broker(error)),
            (Some(_) | None, _) => {
                self.state = State::Uninitialized { retry_at: now + self.retry_backoff };
                None
            }
        }
    }

    fn fail(&mut self, error: ClientError) -> Option<ClientError> {
        self.state = State::FatalError(error);
        Some(error)
    }

    fn entry(&self, (topic, partition): PartitionKey) -> Option<&PartitionEntry> {
        self.partitions.get(topic)?.get(partition as usize)
    }

    fn entry_mut(&mut self, (topic, partition): PartitionKey) -> &mut PartitionEntry {
        if self.partitions.len() <= topic {
            self.partitions.resize_with(topic + 1, Vec::new);
        }
        let (entries, index) = (&mut self.partitions[topic], partition as usize);
        if entries.len() <= index {
            entries.resize_with(index + 1, PartitionEntry::default);
        }
        &mut entries[index]
    }

    /// Whether a partition's first batch may be sent now (`RecordAccumulator.shouldStopDrainBatchesForPartition`).
    /// `first`: what it says of its producer, if it was sent before: then it waits for its turn among the others that
    /// are sent again, which makes it one request in flight.
    pub fn may_drain(&self, key: PartitionKey, first: Option<ProducerState>) -> bool {
        if self.producer == ProducerIdAndEpoch::NONE || self.fatal_error().is_some() {
            return false;
        }
        let Some(entry) = self.entry(key) else { return true };
        let in_flight = entry.in_flight.first().map(|batch| batch.state);
        match (first, in_flight) {
            // In the new epoch, sequence 0 must not overtake what is on its way in the old one.
            (None, Some(_)) if entry.producer != self.producer => false,
            (None, _) => !self.unresolved.contains_key(&key),
            (Some(first), Some(in_flight)) => first.base_sequence == in_flight.base_sequence,
            (Some(_), None) => true,
        }
    }

    /// Gives a batch of so many records its sequence.
    pub fn assign(&mut self, key: PartitionKey, records: usize) -> ProducerState {
        let producer = self.producer;
        let entry = self.entry_mut(key);
        if entry.producer != producer && entry.in_flight.is_empty() {
            // `maybeUpdateProducerIdAndEpoch`: in a new epoch sequences begin at 0.
            *entry = PartitionEntry { producer, ..PartitionEntry::default() };
        }
        let records = i32::try_from(records).expect("a batch holds fewer records than a sequence counts");
        let state = ProducerState { producer, base_sequence: entry.next_sequence };
        entry.next_sequence = increment(entry.next_sequence, records);
        entry.in_flight.push(Tracked { state, records });
        state
    }

    /// A batch was too large and becomes several that share its sequences: what each says, and its records
    /// (`removeInFlightBatch`, `addInFlightBatch`).
    pub fn split(&mut self, key: PartitionKey, state: ProducerState, parts: &[(Option<ProducerState>, usize)]) {
        let in_flight = &mut self.entry_mut(key).in_flight;
        let Some(at) = in_flight.iter().position(|batch| batch.state == state) else { return };
        let tracked = |(state, records): &(Option<ProducerState>, usize)| {
            Some(Tracked { state: (*state)?, records: *records as i32 })
        };
        in_flight.splice(at..=at, parts.iter().filter_map(tracked));
    }

    /// A batch was acknowledged (`handleCompletedBatch`): in time, or after it was given up.
    pub fn complete(&mut self, key: PartitionKey, state: ProducerState, records: usize) {
        let entry = self.entry_mut(key);
        let last_sequence = increment(state.base_sequence, records as i32 - 1);
        entry.last_acked_sequence = entry.last_acked_sequence.max(last_sequence);
        entry.in_flight.retain(|batch| batch.state != state);
    }

    /// Whether a refused batch is worth another try (`canRetry`); it may be one in the next epoch. `was_reassigned`: it
    /// got another sequence after it was sent. `knows_log_start`: the answer names the log start offset.
    pub fn can_retry(
        &mut self,
        key: PartitionKey,
        state: ProducerState,
        was_reassigned: bool,
        error: ErrorCode,
        knows_log_start: bool,
    ) -> bool {
        match error {
            ErrorCode::UnknownProducerId => {
                if knows_log_start && !was_reassigned {
                    self.request_epoch_bump(key);
                }
                true
            }
            ErrorCode::OutOfOrderSequenceNumber => {
                let is_next = self.entry(key).is_none_or(|entry| entry.is_next(state.base_sequence));
                // A gap for sure: the batch follows on what was acknowledged, or on what was given up.
                let is_gap = match self.unresolved.get(&key) {
                    None => !was_reassigned && is_next,
                    Some(next) => *next == state.base_sequence,
                };
                if is_gap {
                    self.request_epoch_bump(key);
                }
                true
            }
            _ => error.is_retriable(),
        }
    }

    /// A batch has failed for good (`handleFailedBatch`). `error`: none when it expired. `adjusts`: it was refused, not
    /// out of retries, so that its sequence is free and those behind it would wait forever.
    pub fn fail_batch(&mut self, key: PartitionKey, state: ProducerState, error: Option<ErrorCode>, adjusts: bool) {
        self.entry_mut(key).in_flight.retain(|batch| batch.state != state);
        match error {
            Some(
                error @ (ErrorCode::ClusterAuthorizationFailed
                | ErrorCode::TransactionalIdAuthorizationFailed
                | ErrorCode::ProducerFenced
                | ErrorCode::UnsupportedVersion),
            ) => {
                self.state = State::FatalError(ClientError::Broker(error));
            }
            Some(ErrorCode::OutOfOrderSequenceNumber) => self.request_epoch_bump(key),
            Some(ErrorCode::UnknownProducerId) => {
                *self.entry_mut(key) = PartitionEntry::default();
                self.unresolved.remove(&key);
            }
            Some(_) if adjusts => self.request_epoch_bump(key),
            Some(_) | None => {}
        }
    }

    /// A batch expired after it was sent at least twice: nobody knows whether it is in the log.
    pub fn mark_unresolved(&mut self, key: PartitionKey, state: ProducerState, records: usize) {
        let next = state.base_sequence.saturating_add(records as i32);
        let known = self.unresolved.entry(key).or_insert(next);
        *known = next.max(*known);
    }

    fn request_epoch_bump(&mut self, key: PartitionKey) {
        self.epoch_bump_required = true;
        self.to_rewrite.insert(key);
    }

    /// Looks at the partitions that have nothing in flight any more (`maybeResolveSequences`): either what came after
    /// the batch that expired was acknowledged, or the next sequence might not be the broker's.
    pub fn resolve_sequences(&mut self) {
        let drained = |key: &PartitionKey| self.entry(*key).is_none_or(|entry| entry.in_flight.is_empty());
        let resolved: Vec<PartitionKey> = self.unresolved.keys().copied().filter(drained).collect();
        for key in resolved {
            self.unresolved.remove(&key);
            if self.entry(key).is_some_and(|entry| !entry.is_next(entry.next_sequence)) {
                self.request_epoch_bump(key);
            }
        }
    }

    /// Bumps the epoch if that is due (`bumpIdempotentProducerEpoch`). Returns whose batches in flight get another
    /// state by it, and which.
    pub fn maybe_bump_epoch(&mut self) -> Vec<(PartitionKey, Vec<Reassigned>)> {
        if !std::mem::take(&mut self.epoch_bump_required) {
            return Vec::new();
        }
        if self.defects.has(Defect::SequencesRestartInTheSameEpoch) {
            // The broker takes what comes for something that it has seen.
        } else if self.producer.epoch == i16::MAX {
            self.producer = ProducerIdAndEpoch::NONE;
            self.state = State::Uninitialized { retry_at: Time::ZERO };
        } else {
            self.producer.epoch += 1;
        }
        let (producer, defects) = (self.producer, self.defects);
        let to_rewrite = std::mem::take(&mut self.to_rewrite);
        let restart = |key| {
            self.unresolved.remove(&key);
            (key, self.entry_mut(key).start_at_beginning(producer, defects))
        };
        to_rewrite.into_iter().map(restart).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const P: PartitionKey = (0, 0);

    fn manager(defects: Defects) -> TransactionManager {
        let second = Duration::from_secs(1);
        let mut manager = TransactionManager::new(second, second, Rng::seed_from_u64(1), defects);
        manager.producer = ProducerIdAndEpoch { producer_id: 7, epoch: 0 };
        manager.state = State::Ready;
        manager
    }

    fn sequences(manager: &TransactionManager) -> Vec<(i16, i32)> {
        let in_flight = manager.entry(P).map_or(&[][..], |entry| &entry.in_flight[..]);
        in_flight.iter().map(|batch| (batch.state.producer.epoch, batch.state.base_sequence)).collect()
    }

    #[test]
    fn sequences_count_records_per_partition() {
        let mut manager = manager(Defects::NONE);
        let states: Vec<_> = [3, 2, 4].map(|records| manager.assign(P, records).base_sequence).into();
        assert_eq!(states, [0, 3, 5]);
        assert_eq!(manager.assign((0, 1), 1).base_sequence, 0);
        assert_eq!(manager.assign((2, 0), 1).base_sequence, 0);
    }

    #[test]
    fn what_is_sent_again_goes_one_by_one_in_the_order_of_sequences() {
        let mut manager = manager(Defects::NONE);
        let (first, second) = (manager.assign(P, 1), manager.assign(P, 1));
        assert!(!manager.may_drain(P, Some(second)) && manager.may_drain(P, Some(first)));
        assert!(manager.may_drain(P, None), "what is new goes on");
        manager.complete(P, first, 1);
        assert!(manager.may_drain(P, Some(second)));
    }

    #[test]
    fn out_of_order_behind_a_batch_that_is_still_open_is_no_gap() {
        let mut manager = manager(Defects::NONE);
        let (_first, second) = (manager.assign(P, 1), manager.assign(P, 1));
        assert!(manager.can_retry(P, second, false, ErrorCode::OutOfOrderSequenceNumber, true));
        assert!(manager.maybe_bump_epoch().is_empty());
    }

    #[test]
    fn out_of_order_right_behind_what_was_acknowledged_is_a_gap_and_bumps_the_epoch() {
        let mut manager = manager(Defects::NONE);
        let states = [3, 2, 4].map(|records| manager.assign(P, records));
        manager.complete(P, states[0], 3);
        assert!(manager.can_retry(P, states[1], false, ErrorCode::OutOfOrderSequenceNumber, true));
        let bumped = manager.maybe_bump_epoch();
        let to: Vec<_> = bumped[0].1.iter().map(|r| (r.to.producer.epoch, r.to.base_sequence)).collect();
        assert_eq!(bumped[0].1.iter().map(|r| r.from).collect::<Vec<_>>(), states[1..]);
        assert_eq!(to, [(1, 0), (1, 2)]);
        assert_eq!(sequences(&manager), to);
        let reassigned = bumped[0].1[1].to;
        assert!(manager.can_retry(P, reassigned, true, ErrorCode::OutOfOrderSequenceNumber, true));
        assert!(manager.maybe_bump_epoch().is_empty(), "that answer was about its former sequence");
    }

    #[test]
    fn other_partitions_change_their_epoch_once_they_have_nothing_in_flight() {
        let mut manager = manager(Defects::NONE);
        let gap = manager.assign(P, 1);
        let other = manager.assign((0, 1), 5);
        manager.can_retry(P, gap, false, ErrorCode::OutOfOrderSequenceNumber, true);
        manager.maybe_bump_epoch();
        assert!(!manager.may_drain((0, 1), None) && manager.may_drain((0, 1), Some(other)));
        manager.complete((0, 1), other, 5);
        assert!(manager.may_drain((0, 1), None));
        let next = manager.assign((0, 1), 1);
        assert_eq!((next.producer.epoch, next.base_sequence), (1, 0));
    }

    #[test]
    fn a_batch_of_unknown_fate_stops_the_partition_until_the_rest_tells_what_became_of_it() {
        for is_acknowledged in [true, false] {
            let mut manager = manager(Defects::NONE);
            let (first, second) = (manager.assign(P, 1), manager.assign(P, 1));
            manager.fail_batch(P, first, None, false);
            manager.mark_unresolved(P, first, 1);
            manager.resolve_sequences();
            assert!(!manager.may_drain(P, None));
            match is_acknowledged {
                true => manager.complete(P, second, 1),
                false => manager.fail_batch(P, second, None, false),
            }
            manager.resolve_sequences();
            assert_eq!(manager.maybe_bump_epoch().is_empty(), is_acknowledged);
            assert!(manager.may_drain(P, None));
            let next = manager.assign(P, 1);
            let expected = if is_acknowledged { (0, 2) } else { (1, 0) };
            assert_eq!((next.producer.epoch, next.base_sequence), expected);
        }
    }

    #[test]
    fn a_batch_that_is_refused_for_good_takes_its_sequence_with_it() {
        let mut manager = manager(Defects::NONE);
        let (first, _second) = (manager.assign(P, 1), manager.assign(P, 1));
        manager.fail_batch(P, first, Some(ErrorCode::MessageTooLarge), true);
        manager.maybe_bump_epoch();
        assert_eq!(sequences(&manager), [(1, 0)]);
    }

    #[test]
    fn the_defects_keep_the_epoch_and_mix_up_the_order() {
        let in_same_epoch = Defects::NONE.with(Defect::SequencesRestartInTheSameEpoch);
        let unordered = Defects::NONE.with(Defect::SequencesReassignedUnordered);
        for (defects, epoch, order) in
            [(Defects::NONE, 1, [0, 1, 2]), (in_same_epoch, 0, [0, 1, 2]), (unordered, 1, [0, 2, 1])]
        {
            let mut manager = manager(defects);
            let states = [1, 1, 1].map(|records| manager.assign(P, records));
            manager.can_retry(P, states[0], false, ErrorCode::OutOfOrderSequenceNumber, true);
            let bumped = manager.maybe_bump_epoch();
            let mut to: Vec<_> =
                bumped[0].1.iter().map(|r| (r.from, r.to.producer.epoch, r.to.base_sequence)).collect();
            to.sort();
            assert_eq!(
                to.iter().map(|(_, epoch, sequence)| (*epoch, *sequence)).collect::<Vec<_>>(),
                order.map(|at| (epoch, at))
            );
        }
    }

    #[test]
    fn an_epoch_that_cannot_be_bumped_is_left_with_a_new_id() {
        let mut manager = manager(Defects::NONE);
        manager.producer.epoch = i16::MAX;
        let state = manager.assign(P, 1);
        manager.fail_batch(P, state, Some(ErrorCode::OutOfOrderSequenceNumber), true);
        manager.maybe_bump_epoch();
        assert!(!manager.may_drain(P, None));
        assert_eq!(manager.state, State::Uninitialized { retry_at: Time::ZERO });
    }

    #[test]
    fn a_fatal_error_stops_everything() {
        let mut manager = manager(Defects::NONE);
        let state = manager.assign(P, 1);
        manager.fail_batch(P, state, Some(ErrorCode::ProducerFenced), true);
        assert_eq!(manager.fatal_error(), Some(ClientError::Broker(ErrorCode::ProducerFenced)));
        assert!(!manager.may_drain(P, None));
    }
}
