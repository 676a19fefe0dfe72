//! Kafka's producer, idempotent or not (`KafkaProducer`, `Sender`): batches records, sends them to the partitions'
//! leaders, retries, and reports each record's outcome exactly once.
//!
//! `send` never blocks. Where Kafka's would (no metadata yet, `buffer.memory` full) the record waits in order,
//! for `max.block.ms` at most, as if one application thread sent everything.

use std::collections::{BTreeMap, VecDeque};
use std::vec;

use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::accumulator::{Candidate, Placement, ProducerBatch, RecordAccumulator, batch_bytes_max};
use super::backoff::ExponentialBackoff;
use super::delivery::{Attempt, DeliveryReport, Outcome, ProducerRecord, RecordId, may_have_appended};
use super::error::{ClientError, is_invalid_metadata};
use super::metadata::{Metadata, MetadataConfig};
use super::partitioner::partition_for_key;
use super::transaction_manager::{ProducerState, Reassigned, TransactionManager};
use crate::config::{Acks, Partitioner, ProducerConfig};
use crate::defect::Defect;
use crate::protocol::rpc::{Completion, LinkState, Reply, RpcClient, RpcConfig, RpcError};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, Offset, TopicPartition, millis_of};
use crate::world::{Endpoint, Event, HostPort, Time, World};

/// Produce v11: leader hints in errors (KIP-951), before transactions v2.
const PRODUCE_VERSION: i16 = 11;

enum Tag {
    Metadata,
    /// Key in `in_flight`.
    Produce(u64),
    InitProducerId,
}

struct Waiting {
    id: RecordId,
    record: ProducerRecord,
    /// `max.block.ms` after the send.
    deadline: Time,
}

/// Why a record cannot be placed yet.
enum Blocked {
    NoMetadata,
    OutOfMemory,
}

struct InFlightBatch {
    topic: usize,
    partition: i32,
    /// CRC-32C of what was sent: the batch may say something else of its producer since.
    crc: u32,
    batch: Sent,
}

enum Sent {
    Pending(ProducerBatch),
    /// Given up and reported (`delivery.timeout.ms`), although the response is still out. Of an idempotent producer:
    /// what it said, and its records.
    GivenUp(Option<(ProducerState, usize)>),
}

pub struct Producer {
    config: ProducerConfig,
    world: World,
    rpc: RpcClient<Tag>,
    metadata: Metadata,
    accumulator: RecordAccumulator,
    /// `None`: not idempotent.
    transactions: Option<TransactionManager>,
    waiting: VecDeque<Waiting>,
    /// Produce requests without their response, oldest first.
    in_flight: BTreeMap<u64, Vec<InFlightBatch>>,
    next_request: u64,
    next_record: u64,
    /// Records without a report.
    pending: usize,
    reports: Vec<DeliveryReport>,
    assigned: Vec<(RecordId, TopicPartition)>,
    attempts: Vec<Attempt>,
    is_flushing: bool,
    is_closed: bool,
    /// The first waiting record needs more of `buffer.memory`.
    waits_for_memory: bool,
    /// Where to start filling the next request to a broker, after one was cut at `max.request.size`.
    drain_from: BTreeMap<BrokerId, (usize, i32)>,
    next_check_at: Option<Time>,
    /// No batch expires before it.
    next_expiry_at: Option<Time>,
    completions: Vec<Completion<Tag>>,
    candidates: Vec<Candidate>,
}

impl Producer {
    /// `bootstrap` must not be empty.
    pub fn new(world: &World, config: ProducerConfig, bootstrap: Vec<HostPort>) -> Producer {
        let rpc_config = RpcConfig {
            client_id: StrBytes::from_string(config.client_id.clone()),
            reconnect_backoff: config.reconnect_backoff,
            reconnect_backoff_max: config.reconnect_backoff_max,
            connection_setup_timeout: config.socket_connection_setup_timeout,
            discover_versions: true,
        };
        let mut rpc = RpcClient::new(rpc_config, world.rng("producer-rpc"));
        let bootstrap = bootstrap.iter().map(|address| rpc.peer(address)).collect();
        let retry_backoff = ExponentialBackoff::new(config.retry_backoff, config.retry_backoff_max);
        let metadata_config = MetadataConfig {
            retry_backoff,
            max_age: config.metadata_max_age,
            request_timeout: config.request_timeout,
            allow_auto_topic_creation: true,
        };
        Producer {
            rpc,
            metadata: Metadata::new(metadata_config, bootstrap, world.rng("producer-metadata")),
            accumulator: RecordAccumulator::new(
                config.compression,
                config.batch_size,
                config.linger,
                retry_backoff,
                config.buffer_memory,
                world.rng("producer-accumulator"),
                config.defects,
            ),
            transactions: config.enable_idempotence.then(|| {
                let (backoff, timeout) = (config.retry_backoff, config.request_timeout);
                TransactionManager::new(backoff, timeout, world.rng("producer-id"), config.defects)
            }),
            world: world.clone(),
            config,
            waiting: VecDeque::new(),
            in_flight: BTreeMap::new(),
            next_request: 0,
            next_record: 0,
            pending: 0,
            reports: Vec::new(),
            assigned: Vec::new(),
            attempts: Vec::new(),
            is_flushing: false,
            is_closed: false,
            waits_for_memory: false,
            drain_from: BTreeMap::new(),
            next_check_at: None,
            next_expiry_at: None,
            completions: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Takes a record; its report comes later, its partition through [`Producer::take_assigned`] at once if
    /// metadata and memory are there.
    pub fn send(&mut self, now: Time, record: ProducerRecord, net: &mut Endpoint) -> RecordId {
        let id = RecordId(self.next_record);
        self.next_record += 1;
        self.pending += 1;
        let refused = if self.is_closed { Some(ClientError::Closed) } else { self.fatal_error() };
        if let Some(error) = refused {
            self.report(id, None, Outcome::Failed { error });
            return id;
        }
        let mut waiting = Waiting { id, record, deadline: now + self.config.max_block };
        if !self.waiting.is_empty() {
            self.waiting.push_back(waiting);
            return id;
        }
        match self.place(now, &mut waiting) {
            Ok(wakes_sender) if wakes_sender => self.run_once(now, net),
            Ok(_) => {}
            Err(Blocked::NoMetadata | Blocked::OutOfMemory) => {
                self.waiting.push_back(waiting);
                self.run_once(now, net);
            }
        }
        id
    }

    /// False if the event is not ours.
    pub fn on_event(&mut self, event: &Event, net: &mut Endpoint) -> bool {
        let now = self.world.now();
        let mut completions = std::mem::take(&mut self.completions);
        let is_ours = self.rpc.on_event(now, event, net, &mut completions);
        if is_ours {
            self.complete(now, &mut completions);
            self.run_once(now, net);
        }
        self.completions = completions;
        is_ours
    }

    pub fn on_timer(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        let mut completions = std::mem::take(&mut self.completions);
        self.rpc.on_timer(now, net, &mut completions);
        self.complete(now, &mut completions);
        self.completions = completions;
        self.run_once(now, net);
    }

    pub fn deadline(&self) -> Option<Time> {
        let waiting = self.waiting.front().map(|w| w.deadline);
        let producer_id = self.transactions.as_ref().and_then(TransactionManager::deadline);
        let own = [self.metadata.deadline(), self.next_check_at, self.next_expiry_at, waiting, producer_id];
        own.into_iter().flatten().chain(self.rpc.deadline()).min()
    }

    /// The reports since the last call, in the order in which the sends ended.
    pub fn take_reports(&mut self) -> vec::Drain<'_, DeliveryReport> {
        self.reports.drain(..)
    }

    /// The partitions chosen since the last call, in the order of `send`. A record that fails before that has none.
    pub fn take_assigned(&mut self) -> vec::Drain<'_, (RecordId, TopicPartition)> {
        self.assigned.drain(..)
    }

    /// The attempts begun or failed since the last call.
    pub fn take_attempts(&mut self) -> vec::Drain<'_, Attempt> {
        self.attempts.drain(..)
    }

    /// Records without a report.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Stops lingering until nothing is pending.
    pub fn flush(&mut self, now: Time, net: &mut Endpoint) {
        self.is_flushing = true;
        self.run_once(now, net);
    }

    /// Takes no more records and stops lingering (`Sender.initiateClose`). Done when nothing is pending.
    pub fn close(&mut self, net: &mut Endpoint) {
        self.is_closed = true;
        self.fail_waiting(ClientError::Closed);
        self.run_once(self.world.now(), net);
    }

    /// Gives up on everything at once (`close(timeout = 0)`): what is in flight is unknown.
    pub fn abort(&mut self) {
        self.is_closed = true;
        self.abort_batches(ClientError::Closed);
        self.fail_waiting(ClientError::Closed);
    }

    /// Gives up on every batch (`RecordAccumulator.abortBatches`).
    fn abort_batches(&mut self, error: ClientError) {
        for in_flight in std::mem::take(&mut self.in_flight).into_values().flatten() {
            if let Sent::Pending(mut batch) = in_flight.batch {
                batch.maybe_appended = true;
                self.give_up(batch, error);
            }
        }
        for batch in self.accumulator.take_all() {
            self.give_up(batch, error);
        }
    }

    fn fail_waiting(&mut self, error: ClientError) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.report(waiting.id, None, Outcome::Failed { error });
        }
    }

    fn fatal_error(&self) -> Option<ClientError> {
        self.transactions.as_ref().and_then(TransactionManager::fatal_error)
    }

    /// One round of the sender (`Sender.runOnce`): everything that can be done without waiting.
    fn run_once(&mut self, now: Time, net: &mut Endpoint) {
        self.is_flushing &= self.pending > 0;
        self.expire(now);
        self.keep_sequences(now, net);
        loop {
            self.admit_waiting(now);
            if !self.send_ready(now, net) {
                break;
            }
        }
        self.metadata.maybe_update(now, &mut self.rpc, Tag::Metadata, net);
    }

    /// What comes before sending in an idempotent producer: an id, a new epoch, or the end. It waits for no answer, so
    /// that batches expire meanwhile; Kafka's sender does nothing else until it has an id.
    fn keep_sequences(&mut self, now: Time, net: &mut Endpoint) {
        let Some(transactions) = &mut self.transactions else { return };
        if let Some(error) = transactions.fatal_error() {
            if self.pending > 0 {
                self.abort_batches(error);
                self.fail_waiting(error);
            }
            return;
        }
        transactions.resolve_sequences();
        for ((topic, partition), reassigned) in transactions.maybe_bump_epoch() {
            self.reassign(topic, partition, &reassigned);
        }
        if let Some(transactions) = &mut self.transactions {
            transactions.maybe_init(now, &self.metadata, &mut self.rpc, Tag::InitProducerId, net);
        }
    }

    /// Rewrites the batches of a partition that were sent, on their way or waiting to be sent again.
    fn reassign(&mut self, topic: usize, partition: i32, reassigned: &[Reassigned]) {
        let in_flight = self.in_flight.values_mut().flatten();
        let sent = in_flight.filter_map(|in_flight| match &mut in_flight.batch {
            Sent::Pending(batch) if (in_flight.topic, in_flight.partition) == (topic, partition) => Some(batch),
            Sent::Pending(_) | Sent::GivenUp(_) => None,
        });
        for batch in sent.chain(self.accumulator.queued_mut(topic, partition)) {
            let change = reassigned.iter().find(|change| batch.producer == Some(change.from));
            if let Some(change) = change.filter(|change| change.from != change.to) {
                batch.reassign(change.to);
            }
        }
    }

    /// Places waiting records, in order, as far as metadata and memory allow.
    fn admit_waiting(&mut self, now: Time) {
        self.waits_for_memory = false;
        while let Some(mut waiting) = self.waiting.pop_front() {
            let (error, waits_for_memory) = match self.place(now, &mut waiting) {
                Ok(_) => continue,
                Err(Blocked::NoMetadata) => (ClientError::Timeout, false),
                Err(Blocked::OutOfMemory) => (ClientError::BufferExhausted, true),
            };
            if waiting.deadline > now {
                self.waits_for_memory = waits_for_memory;
                self.waiting.push_front(waiting);
                break;
            }
            self.report(waiting.id, None, Outcome::Failed { error });
        }
    }

    /// Chooses a record's partition and appends it to the accumulator, or reports why it never can be
    /// (`KafkaProducer.doSend`). `Ok(true)`: the sender has something to do.
    fn place(&mut self, now: Time, waiting: &mut Waiting) -> Result<bool, Blocked> {
        let Waiting { id, record, .. } = waiting;
        let Some(metadata) = self.metadata.topic(&record.topic) else {
            self.metadata.add_topic(&record.topic);
            return Err(Blocked::NoMetadata);
        };
        let fatal = match metadata.error {
            Some(e @ (ErrorCode::InvalidTopicException | ErrorCode::TopicAuthorizationFailed)) => {
                Some(ClientError::Broker(e))
            }
            Some(_) | None => None,
        };
        let bytes_max = batch_bytes_max(record);
        let is_too_large = bytes_max > self.config.max_request_size || bytes_max > self.config.buffer_memory;
        if let Some(error) = fatal.or(is_too_large.then_some(ClientError::RecordTooLarge)) {
            let id = *id;
            self.report(id, None, Outcome::Failed { error });
            return Ok(false);
        }
        let count = metadata.partitions.len();
        if count == 0 || record.partition.is_some_and(|p| p < 0 || p as usize >= count) {
            self.metadata.request_update();
            return Err(Blocked::NoMetadata);
        }
        let topic = self.accumulator.topic_index(&record.topic);
        let placement = match (record.partition, &record.key, self.config.partitioner) {
            (Some(partition), _, _) => Placement::Partition(partition),
            (None, _, Partitioner::RoundRobin) => {
                // Fixed here, so that waiting for memory does not take another turn.
                let partition = self.accumulator.round_robin(topic, metadata);
                record.partition = Some(partition);
                Placement::Partition(partition)
            }
            (None, Some(key), Partitioner::Default) => Placement::Partition(partition_for_key(key, count)),
            (None, None, Partitioner::Default) => Placement::Sticky,
        };
        let timestamp = record.timestamp_ms.unwrap_or_else(|| self.world.wall_clock_ms());
        let appended = self
            .accumulator
            .append(now, topic, placement, *id, timestamp, record, metadata)
            .map_err(|_| Blocked::OutOfMemory)?;
        let partition = TopicPartition { topic: record.topic.clone(), partition: appended.partition };
        self.assigned.push((*id, partition));
        if self.next_expiry_at.is_none() {
            self.next_expiry_at = Some(now + self.config.delivery_timeout);
        }
        Ok(appended.wakes_sender)
    }

    /// Sends one request to every broker that has something ready and can take it (`Sender.sendProducerData`).
    /// True if anything was sent.
    fn send_ready(&mut self, now: Time, net: &mut Endpoint) -> bool {
        let send_all = self.is_flushing || self.is_closed || self.waits_for_memory;
        let mut candidates = std::mem::take(&mut self.candidates);
        let check = self.accumulator.ready(now, &self.metadata, send_all, &mut candidates);
        self.next_check_at = check.next_check_at;
        if check.has_unknown_leader {
            self.metadata.request_update();
        }
        let mut has_sent = false;
        for of_leader in candidates.chunk_by(|a, b| a.leader == b.leader) {
            if of_leader.iter().any(|c| c.is_sendable) {
                has_sent |= self.send_to_leader(now, of_leader, net);
            }
        }
        self.candidates = candidates;
        has_sent
    }

    fn send_to_leader(&mut self, now: Time, candidates: &[Candidate], net: &mut Endpoint) -> bool {
        let leader = candidates[0].leader;
        let Some(peer) = self.metadata.peer(leader) else {
            self.metadata.request_update();
            return false;
        };
        match self.rpc.link_state(peer) {
            LinkState::Ready => {}
            LinkState::Connecting => return false,
            LinkState::Down { retry_at } if retry_at <= now => {
                self.rpc.connect(now, peer, net);
                return false;
            }
            LinkState::Down { retry_at } => {
                self.next_check_at = Some(self.next_check_at.map_or(retry_at, |at| at.min(retry_at)));
                return false;
            }
        }
        if self.rpc.in_flight(peer) >= self.config.max_in_flight_requests_per_connection {
            return false;
        }
        let (request, batches) = self.drain(candidates);
        if batches.is_empty() {
            return false;
        }
        let tag = self.next_request;
        self.next_request += 1;
        self.in_flight.insert(tag, batches);
        let timeout = self.config.request_timeout;
        match self.config.acks {
            Acks::One | Acks::All => {
                self.rpc.send(now, peer, PRODUCE_VERSION, &request, timeout, Tag::Produce(tag), net);
                // As under acks=0, where it is what was asked for.
                if self.config.defects.has(Defect::AckBeforeAppend) {
                    let batches = self.in_flight.remove(&tag).unwrap_or_default();
                    batches.into_iter().for_each(|batch| self.complete_batch(batch, None));
                }
            }
            Acks::Zero => {
                let mut completed = Vec::new();
                let tag = Tag::Produce(tag);
                self.rpc.send_oneway(now, peer, PRODUCE_VERSION, &request, timeout, tag, net, &mut completed);
                self.complete(now, &mut completed);
            }
        }
        true
    }

    /// One batch per partition, up to `max.request.size` but at least one (`drainBatchesForOneNode`).
    fn drain(&mut self, candidates: &[Candidate]) -> (ProduceRequest, Vec<InFlightBatch>) {
        let leader = candidates[0].leader;
        let first = self
            .drain_from
            .remove(&leader)
            .map_or(0, |from| candidates.iter().position(|c| (c.topic, c.partition) >= from).unwrap_or(0));
        let keeps_order = self.config.max_in_flight_requests_per_connection == 1;
        let mut topic_data: Vec<TopicProduceData> = Vec::with_capacity(1);
        let mut batches = Vec::with_capacity(candidates.len());
        let mut bytes = 0;
        for &candidate in candidates[first..].iter().chain(&candidates[..first]) {
            let key = (candidate.topic, candidate.partition);
            let first = self.accumulator.first_batch(candidate);
            if self.transactions.as_ref().is_some_and(|transactions| !transactions.may_drain(key, first.producer)) {
                continue;
            }
            bytes += first.bytes();
            if bytes > self.config.max_request_size && !batches.is_empty() {
                self.drain_from.insert(leader, key);
                break;
            }
            let is_first_time = first.producer.is_none();
            let count = first.ids.len();
            let transactions = self.transactions.as_mut().filter(|_| is_first_time);
            let producer = transactions.map(|transactions| transactions.assign(key, count));
            let (mut batch, records) = self.accumulator.drain(candidate, keeps_order, producer);
            let restated = std::mem::take(&mut batch.was_reassigned) && batch.attempts > 0;
            let data = PartitionProduceData::default().with_index(batch.partition).with_records(Some(records));
            let name = self.accumulator.topic_name(batch.topic);
            self.attempts.push(Attempt::Sent {
                partition: TopicPartition { topic: name.clone(), partition: batch.partition },
                crc: batch.crc(),
                ids: batch.ids.clone(),
                number: batch.attempts + 1,
                broker: leader,
                restated,
            });
            match topic_data.iter_mut().find(|t| t.name == *name) {
                Some(topic) => topic.partition_data.push(data),
                None => {
                    topic_data.push(TopicProduceData::default().with_name(name.clone()).with_partition_data(vec![data]))
                }
            }
            let (topic, partition, crc) = (batch.topic, batch.partition, batch.crc());
            batches.push(InFlightBatch { topic, partition, crc, batch: Sent::Pending(batch) });
        }
        let timeout_ms = millis_of(self.config.request_timeout);
        let request = ProduceRequest::default()
            .with_acks(self.config.acks.code())
            .with_timeout_ms(timeout_ms)
            .with_topic_data(topic_data);
        (request, batches)
    }

    fn complete(&mut self, now: Time, completions: &mut Vec<Completion<Tag>>) {
        self.metadata.note_disconnects(now, &self.rpc);
        for completion in completions.drain(..) {
            match completion.tag {
                Tag::Metadata => self.metadata.on_response(now, completion.result, &mut self.rpc),
                Tag::Produce(request) => self.on_produce_response(now, request, completion.result),
                Tag::InitProducerId => self.on_init_response(now, completion.result),
            }
        }
    }

    fn on_init_response(&mut self, now: Time, result: Result<Reply, RpcError>) {
        let Some(transactions) = &mut self.transactions else { return };
        if let Some(error) = transactions.on_init_response(now, result) {
            self.abort_batches(error);
            self.fail_waiting(error);
        }
    }

    fn on_produce_response(&mut self, now: Time, request: u64, result: Result<Reply, RpcError>) {
        let Some(batches) = self.in_flight.remove(&request) else { return };
        let reply = match result {
            Ok(_) if self.config.acks == Acks::Zero => {
                batches.into_iter().for_each(|b| self.complete_batch(b, None));
                return;
            }
            Ok(reply) => reply.decode::<ProduceRequest>().map_err(|_| RpcError::Disconnected { sent: true }),
            Err(error) => Err(error),
        };
        match reply {
            Ok(response) => self.on_produce_answer(now, batches, &response),
            Err(error) => {
                let code = match error {
                    RpcError::TimedOut { .. } => ErrorCode::RequestTimedOut,
                    RpcError::Disconnected { .. } => ErrorCode::NetworkException,
                    RpcError::UnsupportedVersion => ErrorCode::UnsupportedVersion,
                };
                for batch in batches {
                    self.refuse_batch(
                        now,
                        batch,
                        Refusal { code, maybe_appended: error.maybe_processed(), log_start: -1 },
                    );
                }
            }
        }
    }

    fn on_produce_answer(&mut self, now: Time, batches: Vec<InFlightBatch>, response: &ProduceResponse) {
        for in_flight in batches {
            let topic = in_flight.topic;
            let answer = answer_for(response, self.accumulator.topic_name(topic), in_flight.partition);
            match answer.map(|a| (ErrorCode::try_from_code(a.error_code), a)) {
                Some((None, answer)) => self.complete_batch(in_flight, Some(Offset(answer.base_offset))),
                Some((Some(code), answer)) => {
                    self.learn_leader(topic, answer, response);
                    let maybe_appended = may_have_appended(code, self.config.acks);
                    let refusal = Refusal { code, maybe_appended, log_start: answer.log_start_offset };
                    self.refuse_batch(now, in_flight, refusal);
                }
                // The broker answered something else than what was asked: nothing is known.
                None => {
                    let code = ErrorCode::UnknownServerError;
                    self.refuse_batch(now, in_flight, Refusal { code, maybe_appended: true, log_start: -1 });
                }
            }
        }
    }

    /// Takes over the current leader named in an error (KIP-951).
    fn learn_leader(&mut self, topic: usize, answer: &PartitionProduceResponse, response: &ProduceResponse) {
        let leader = answer.current_leader.leader_id;
        let endpoint = response.node_endpoints.iter().find(|e| e.node_id == leader);
        let address = endpoint.and_then(|e| Some(HostPort::new(e.host.as_str(), u16::try_from(e.port).ok()?)));
        self.metadata.update_leadership(
            self.accumulator.topic_name(topic),
            answer.index,
            BrokerId(leader.0),
            LeaderEpoch(answer.current_leader.leader_epoch),
            address,
            &mut self.rpc,
        );
    }

    /// Reports every record of an acknowledged batch. `base_offset`: none under acks=0, and of a duplicate that the
    /// broker recognized by its sequence only.
    fn complete_batch(&mut self, in_flight: InFlightBatch, base_offset: Option<Offset>) {
        let InFlightBatch { topic, partition, crc: _, batch } = in_flight;
        self.accumulator.unmute(topic, partition);
        let stated = match &batch {
            Sent::Pending(batch) => batch.producer.map(|producer| (producer, batch.ids.len())),
            // Kafka counts it as acknowledged all the same.
            Sent::GivenUp(stated) => *stated,
        };
        if let (Some(transactions), Some((producer, records))) = (&mut self.transactions, stated) {
            transactions.complete((topic, partition), producer, records);
        }
        let Sent::Pending(batch) = batch else { return };
        let mut offset = base_offset.filter(|&o| o >= Offset::ZERO);
        self.accumulator.deallocate(&batch);
        self.report_batch(&batch, |_| {
            let outcome = Outcome::Ok { offset };
            offset = offset.map(|o| o + 1);
            outcome
        });
    }

    /// Retries a batch or gives it up (`Sender.completeBatch`, `canRetry`).
    fn refuse_batch(&mut self, now: Time, in_flight: InFlightBatch, refusal: Refusal) {
        let InFlightBatch { topic, partition, crc, batch } = in_flight;
        let Refusal { code, maybe_appended, log_start } = refusal;
        self.accumulator.unmute(topic, partition);
        if is_invalid_metadata(code) {
            self.metadata.request_update();
        }
        let Sent::Pending(mut batch) = batch else { return };
        batch.maybe_appended |= maybe_appended;
        // The last answer is about the last attempt alone.
        if batch.maybe_appended != maybe_appended && self.config.defects.has(Defect::RetryForgetsAttempts) {
            batch.maybe_appended = maybe_appended;
        }
        if code == ErrorCode::MessageTooLarge && batch.ids.len() > 1 {
            self.note_failed_attempt(&batch, crc, code);
            return self.split(&batch);
        }
        let has_attempts = batch.attempts < self.config.retries;
        let may_retry = has_attempts && !batch.is_expired(now, self.config.delivery_timeout);
        let key = (topic, partition);
        let can_retry = may_retry
            && match (&mut self.transactions, batch.producer) {
                (Some(transactions), Some(producer)) => {
                    transactions.can_retry(key, producer, batch.was_reassigned, code, log_start >= 0)
                }
                (None | Some(_), _) => code.is_retriable(),
            };
        if can_retry {
            self.note_failed_attempt(&batch, crc, code);
            return self.accumulator.reenqueue(now, batch);
        }
        if code == ErrorCode::DuplicateSequenceNumber {
            // It is in the log, so long ago that the broker does not know where.
            return self.complete_batch(InFlightBatch { topic, partition, crc, batch: Sent::Pending(batch) }, None);
        }
        if let (Some(transactions), Some(producer)) = (&mut self.transactions, batch.producer) {
            transactions.fail_batch(key, producer, Some(code), has_attempts);
        }
        self.give_up(batch, ClientError::Broker(code));
    }

    fn note_failed_attempt(&mut self, batch: &ProducerBatch, crc: u32, code: ErrorCode) {
        let topic = self.accumulator.topic_name(batch.topic).clone();
        self.attempts.push(Attempt::Failed {
            partition: TopicPartition { topic, partition: batch.partition },
            crc,
            number: batch.attempts + 1,
            error: ClientError::Broker(code),
        });
    }

    /// Sends the records of a batch that was too large in smaller ones, however often it was tried (KIP-126,
    /// `Sender.completeBatch`).
    fn split(&mut self, batch: &ProducerBatch) {
        let parts = self.accumulator.split(batch);
        if let (Some(transactions), Some(producer)) = (&mut self.transactions, batch.producer) {
            transactions.split((batch.topic, batch.partition), producer, &parts);
        }
        self.accumulator.deallocate(batch);
    }

    /// Gives up batches older than `delivery.timeout.ms`, in flight or not. One that is in flight may be appended.
    fn expire(&mut self, now: Time) {
        if self.next_expiry_at.is_none_or(|at| at > now) {
            return;
        }
        let timeout = self.config.delivery_timeout;
        let mut expired = Vec::new();
        let mut next: Option<Time> = None;
        for in_flight in self.in_flight.values_mut().flatten() {
            let Sent::Pending(batch) = &in_flight.batch else { continue };
            if !batch.is_expired(now, timeout) {
                let at = batch.created + timeout;
                next = Some(next.map_or(at, |n| n.min(at)));
                continue;
            }
            let stated = batch.producer.map(|producer| (producer, batch.ids.len()));
            if let Sent::Pending(mut batch) = std::mem::replace(&mut in_flight.batch, Sent::GivenUp(stated)) {
                batch.maybe_appended = true;
                expired.push(batch);
            }
        }
        let queued = self.accumulator.expired(now, timeout, &mut expired);
        self.next_expiry_at = next.into_iter().chain(queued).min();
        for batch in expired {
            if let (Some(transactions), Some(producer)) = (&mut self.transactions, batch.producer) {
                let key = (batch.topic, batch.partition);
                transactions.fail_batch(key, producer, None, false);
                if batch.attempts > 0 {
                    transactions.mark_unresolved(key, producer, batch.ids.len());
                }
            }
            self.give_up(batch, ClientError::Timeout);
        }
    }

    fn give_up(&mut self, batch: ProducerBatch, error: ClientError) {
        self.accumulator.deallocate(&batch);
        let outcome = Outcome::given_up(error, batch.maybe_appended);
        self.report_batch(&batch, |_| outcome);
    }

    fn report_batch(&mut self, batch: &ProducerBatch, mut outcome: impl FnMut(RecordId) -> Outcome) {
        let topic = self.accumulator.topic_name(batch.topic);
        let partition = TopicPartition { topic: topic.clone(), partition: batch.partition };
        self.pending -= batch.ids.len();
        self.reports.extend(batch.ids.iter().map(|&id| DeliveryReport {
            id,
            partition: Some(partition.clone()),
            outcome: outcome(id),
        }));
    }

    fn report(&mut self, id: RecordId, partition: Option<TopicPartition>, outcome: Outcome) {
        self.pending -= 1;
        self.reports.push(DeliveryReport { id, partition, outcome });
    }
}

/// What came back for a batch that was not acknowledged.
#[derive(Clone, Copy)]
struct Refusal {
    code: ErrorCode,
    /// The attempt may be in the log.
    maybe_appended: bool,
    /// The partition's log start offset, if the answer names it; -1 otherwise.
    log_start: i64,
}

fn answer_for<'a>(
    response: &'a ProduceResponse,
    topic: &TopicName,
    partition: i32,
) -> Option<&'a PartitionProduceResponse> {
    let topic = response.responses.iter().find(|t| t.name == *topic)?;
    topic.partition_responses.iter().find(|p| p.index == partition)
}
