//! The clients of a run as processes: a producer that sends unique values, a consumer with assigned
//! partitions, the final reader. They drive the product's clients and write the history.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use xxhash_rust::xxh3::xxh3_64;

use super::outcome::TraceKind;
use super::recorder::{ProcessId, Recorder, Sent, State};
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

use crate::client::{
    Attempt, Consumer, ConsumerRecord, LookupId, Outcome, PositionReset, Producer, ProducerRecord, RecordHeader,
    RecordId,
};
use crate::config::{Acks, ConsumerConfig, OffsetReset, ProducerConfig};
use crate::protocol::{Offset, TopicPartition};
use crate::scenario::ValueFormat;
use crate::world::{Endpoint, Event, HostPort, Process, Time, World};

/// Values of producer n start at (n - 1) * this, so that they are unique per partition and readable.
const VALUES_PER_PRODUCER: u64 = 1_000_000;

/// What a produce workload sends.
#[derive(Clone, Debug)]
pub struct ProduceSpec {
    pub name: String,
    /// 1-based: which producer of the scenario this is.
    pub number: u64,
    pub topic: String,
    pub records: u64,
    pub rate: Option<u64>,
    pub value_bytes: usize,
    pub keys: Option<u64>,
    pub key_prefix: String,
    /// Every so manieth record of a key is a tombstone.
    pub tombstones: Option<u64>,
    /// What the records' timestamps are ahead of this machine's clock.
    pub timestamp_offset_ms: i64,
    pub format: ValueFormat,
    pub config: ProducerConfig,
}

/// Records waiting for an outcome, at most, when a workload sends as fast as it can.
const OUTSTANDING_MAX: usize = 1_000;

pub struct ProduceProcess {
    spec: ProduceSpec,
    world: World,
    recorder: Recorder,
    producer: Producer,
    topic: TopicName,
    process: ProcessId,
    started_at: Time,
    sent: u64,
    finished: bool,
    /// Record -> (what was sent, process that sent it, partition once chosen).
    outstanding: BTreeMap<RecordId, (Sent, ProcessId, Option<TopicPartition>)>,
}

impl ProduceProcess {
    pub fn new(world: World, spec: ProduceSpec, bootstrap: Vec<HostPort>, recorder: Recorder) -> ProduceProcess {
        let producer = Producer::new(&world, spec.config.clone(), bootstrap);
        let started_at = world.now();
        let process = recorder.new_process(started_at, &spec.name);
        let topic = TopicName(StrBytes::from_string(spec.topic.clone()));
        ProduceProcess {
            topic,
            spec,
            world,
            recorder,
            producer,
            process,
            started_at,
            sent: 0,
            finished: false,
            outstanding: BTreeMap::new(),
        }
    }

    /// When record number `n` is due.
    fn due(&self, n: u64) -> Time {
        match self.spec.rate {
            Some(rate) => self.started_at + Duration::from_nanos(n * 1_000_000_000 / rate.max(1)),
            None => self.started_at,
        }
    }

    /// Keys take turns.
    fn next_record(&self) -> Sent {
        let ProduceSpec { number, keys, key_prefix, tombstones, .. } = &self.spec;
        let keys = keys.map(|keys| keys.max(1));
        // The key's records so far, this one included.
        let turn = keys.map_or(0, |keys| self.sent / keys + 1);
        Sent {
            value: (number - 1) * VALUES_PER_PRODUCER + self.sent,
            record_key: keys.map(|keys| format!("{key_prefix}{}", self.sent % keys)),
            tombstone: tombstones.is_some_and(|every| turn % every.max(1) == 0),
        }
    }

    /// `None`: the producer's own clock.
    fn timestamp_ms(&self) -> Option<i64> {
        let offset = self.spec.timestamp_offset_ms;
        (offset != 0).then(|| self.world.wall_clock_ms().saturating_add(offset))
    }

    fn wants_to_send(&self) -> bool {
        self.sent < self.spec.records && (self.spec.rate.is_some() || self.outstanding.len() < OUTSTANDING_MAX)
    }

    fn step(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        if self.recorder.lock().stop_sending {
            self.spec.records = self.sent;
        }
        while self.wants_to_send() && self.due(self.sent) <= now {
            let sent = self.next_record();
            let value = match self.spec.format {
                ValueFormat::Number => payload(sent.value, self.spec.value_bytes),
                ValueFormat::Json => sample(sent.value, self.world.wall_clock_ms()),
            };
            let (value, headers) =
                if sent.tombstone { (None, vec![number_header(value)]) } else { (Some(value), Vec::new()) };
            let record = ProducerRecord {
                topic: self.topic.clone(),
                partition: None,
                key: sent.record_key.clone().map(Bytes::from),
                value,
                headers,
                timestamp_ms: self.timestamp_ms(),
            };
            let id = self.producer.send(now, record, net);
            self.outstanding.insert(id, (sent, self.process, None));
            self.sent += 1;
        }
        self.record_outcomes(now);
        if self.sent >= self.spec.records && self.outstanding.is_empty() && !self.finished {
            self.finished = true;
            self.recorder.lock().busy.retain(|name| *name != self.spec.name);
            self.recorder.notify();
        }
    }

    fn record_outcomes(&mut self, now: Time) {
        let machine = &self.spec.name;
        let mut state = self.recorder.lock();
        for (id, partition) in self.producer.take_assigned() {
            if let Some((sent, process, chosen)) = self.outstanding.get_mut(&id) {
                state.send_invoked(now, machine, *process, &partition, sent);
                *chosen = Some(partition);
            }
        }
        for attempt in self.producer.take_attempts() {
            let what = trace_of(attempt, self.spec.config.enable_idempotence, &self.outstanding, &mut state);
            state.push(now, machine, what);
        }
        let mut acked = false;
        let mut unknown = false;
        for report in self.producer.take_reports() {
            let Some((sent, process, chosen)) = self.outstanding.remove(&report.id) else { continue };
            let partition = match chosen {
                Some(partition) => partition,
                None => {
                    // It failed before a partition was chosen: the topic's metadata never came.
                    let partition = TopicPartition::new(&self.spec.topic, 0);
                    state.send_invoked(now, machine, process, &partition, &sent);
                    partition
                }
            };
            match report.outcome {
                Outcome::Ok { offset } => {
                    acked = true;
                    let is_promise = self.spec.config.acks != Acks::Zero;
                    state.send_acked(now, machine, process, &partition, &sent, offset, is_promise);
                }
                Outcome::Failed { error } => {
                    state.send_lost_contact(now, machine, process, &partition, &sent, &error.to_string(), true);
                }
                Outcome::Unknown { error } => {
                    unknown |= process == self.process;
                    state.send_lost_contact(now, machine, process, &partition, &sent, &error.to_string(), false);
                }
            }
        }
        drop(state);
        if unknown {
            self.process = self.recorder.new_process(now, &self.spec.name);
        }
        if acked {
            self.recorder.notify();
        }
    }
}

impl Process for ProduceProcess {
    fn start(&mut self, net: &mut Endpoint) {
        self.step(net);
    }

    fn on_event(&mut self, event: Event, net: &mut Endpoint) {
        self.producer.on_event(&event, net);
        self.step(net);
    }

    fn on_timer(&mut self, net: &mut Endpoint) {
        self.producer.on_timer(net);
        self.step(net);
    }

    fn deadline(&self) -> Option<Time> {
        let next_record = self.wants_to_send().then(|| self.due(self.sent));
        self.producer.deadline().into_iter().chain(next_record).min()
    }

    fn is_finished(&self) -> bool {
        self.finished
    }
}

/// An attempt with the values in it instead of the client's record numbers. A record that was given up while its
/// batch waited for an answer is in no list any more.
fn trace_of(
    attempt: Attempt,
    is_idempotent: bool,
    outstanding: &BTreeMap<RecordId, (Sent, ProcessId, Option<TopicPartition>)>,
    state: &mut State,
) -> TraceKind {
    match attempt {
        Attempt::Sent { partition, crc, ids, number, broker, restated } => {
            let values: Vec<u64> =
                ids.iter().filter_map(|id| outstanding.get(id)).map(|(sent, ..)| sent.value).collect();
            if let Some(first) = values.first().filter(|_| is_idempotent) {
                state.ghost.batch_sent(&partition, crc, *first);
            }
            TraceKind::BatchSent { partition: state.key(&partition), crc, values, attempt: number, broker, restated }
        }
        Attempt::Failed { partition, crc, number, error } => {
            let (partition, error) = (state.key(&partition), error.to_string());
            TraceKind::BatchRetried { partition, crc, attempt: number, error }
        }
    }
}

/// The value as decimal text, padded with spaces to `bytes`.
fn payload(value: u64, bytes: usize) -> Bytes {
    let mut text = value.to_string().into_bytes();
    text.resize(text.len().max(bytes), b' ');
    Bytes::from(text)
}

/// The record of the sample application that everybody starts with.
#[derive(Serialize, Deserialize)]
struct Sample {
    id: u64,
    /// 1 to 100.
    value: u64,
    timestamp: i64,
}

fn sample(id: u64, timestamp: i64) -> Bytes {
    let sample = Sample { id, value: sample_value(id), timestamp };
    Bytes::from(serde_json::to_vec(&sample).expect("numbers are JSON"))
}

/// The value of JSON record `id`: 1 to 100, all over the place, and known to whoever checks it.
pub(super) fn sample_value(id: u64) -> u64 {
    1 + xxh3_64(&id.to_le_bytes()) % 100
}

/// The value in a JSON record.
pub(super) fn sample_of(record: &ConsumerRecord) -> Option<u64> {
    Some(serde_json::from_slice::<Sample>(record.value.as_ref()?).ok()?.value)
}

/// A tombstone has no value: what tells it from others in the history travels in a header.
const NUMBER_HEADER: &str = "value";

fn number_header(value: Bytes) -> RecordHeader {
    RecordHeader { key: StrBytes::from_static_str(NUMBER_HEADER), value: Some(value) }
}

/// The value in a payload; foreign bytes are kept as text, so that a checker can call them phantoms.
fn parse_payload(payload: Option<&Bytes>) -> Json {
    let Some(payload) = payload else { return Json::Null };
    let number = std::str::from_utf8(without_padding(payload)).ok().and_then(|text| text.parse::<u64>().ok());
    let id = || serde_json::from_slice::<Sample>(payload).ok().map(|sample| sample.id);
    number.or_else(id).map_or_else(|| Json::from(String::from_utf8_lossy(payload)), Json::from)
}

/// `value` padded, or all that trimming leaves of other payloads: padding is long, and compared faster than trimmed.
fn without_padding(payload: &[u8]) -> &[u8] {
    const PADDING: [u8; 1024] = [b' '; 1024];
    let digits = payload.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (value, padding) = payload.split_at(digits);
    if padding.chunks(PADDING.len()).all(|chunk| *chunk == PADDING[..chunk.len()]) {
        value
    } else {
        payload.trim_ascii_end()
    }
}

/// A consumer with assigned partitions that polls for as long as the run lasts.
pub struct ConsumeProcess {
    world: World,
    recorder: Recorder,
    name: String,
    consumer: Consumer,
    process: ProcessId,
    partitions: Vec<TopicPartition>,
    /// The final reader: where each partition must be read up to, once known, that is not.
    until: Option<BTreeMap<TopicPartition, Option<Offset>>>,
    /// Whose ends it has asked for.
    asked: BTreeMap<LookupId, Vec<TopicPartition>>,
    finished: bool,
}

impl ConsumeProcess {
    pub fn new(
        world: World,
        name: String,
        partitions: Vec<TopicPartition>,
        config: ConsumerConfig,
        bootstrap: Vec<HostPort>,
        recorder: Recorder,
    ) -> ConsumeProcess {
        let consumer = Consumer::new(&world, config, bootstrap);
        let process = recorder.new_process(world.now(), &name);
        let asked = BTreeMap::new();
        ConsumeProcess { world, recorder, name, consumer, process, partitions, until: None, asked, finished: false }
    }

    /// A consumer that reads every partition from its beginning to its end, and then exits.
    pub fn final_reader(
        world: World,
        name: &str,
        partitions: Vec<TopicPartition>,
        bootstrap: Vec<HostPort>,
        recorder: Recorder,
    ) -> ConsumeProcess {
        // Retention may overtake it: it goes on where the log begins now.
        let auto_offset_reset = OffsetReset::Earliest;
        let config = ConsumerConfig { client_id: name.to_owned(), auto_offset_reset, ..ConsumerConfig::default() };
        let until = partitions.iter().map(|p| (p.clone(), None)).collect();
        let reader = ConsumeProcess::new(world, name.to_owned(), partitions, config, bootstrap, recorder);
        ConsumeProcess { until: Some(until), ..reader }
    }

    fn step(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        loop {
            let records = self.consumer.poll(now, net);
            if !records.is_empty() {
                let records: Vec<(TopicPartition, Offset, Json)> = records.into_iter().map(into_value).collect();
                self.recorder.lock().polled(now, self.process, &records);
            }
            if !self.consumer.has_fetched() {
                break;
            }
        }
        self.trace_mishaps(now);
        if let Some(until) = &mut self.until {
            let mut unanswered = Vec::new();
            for lookup in self.consumer.take_lookups() {
                let asked = self.asked.remove(&lookup.id).unwrap_or_default();
                match lookup.result {
                    Ok(ends) => {
                        for (partition, end) in ends {
                            until.entry(partition).and_modify(|known| *known = Some(end));
                        }
                    }
                    Err(_) => unanswered.extend(asked),
                }
            }
            // One that does not know its end holds up all that are asked for with it.
            for partition in unanswered {
                let id = self.consumer.end_offsets(now, std::slice::from_ref(&partition), net);
                self.asked.insert(id, vec![partition]);
            }
            let (consumer, state) = (&self.consumer, self.recorder.lock());
            let read: Vec<TopicPartition> = until
                .extract_if(.., |partition, end| {
                    let position = consumer.position(partition);
                    let is_read = |end, at| at >= end || state.ghost.has_nothing_from(partition, at);
                    end.zip(position).is_some_and(|(end, at)| is_read(end, at))
                })
                .map(|(partition, _)| partition)
                .collect();
            drop(state);
            // Nobody waits for more in a partition that is read, while there is some in others.
            self.consumer.pause(&read);
            if !read.is_empty() {
                self.recorder.lock().unread = Some(until.keys().cloned().collect());
                self.recorder.notify();
            }
            self.finished = until.is_empty();
        }
    }
}

impl ConsumeProcess {
    /// Positions that the consumer moved on its own, and what it cannot get past.
    fn trace_mishaps(&mut self, now: Time) {
        for PositionReset { partition, from, to, reason } in self.consumer.take_resets() {
            let mut state = self.recorder.lock();
            let partition = state.key(&partition);
            let what = TraceKind::PositionReset { partition, from: from.0, to: to.0, reason };
            state.push(now, &self.name, what);
        }
        for error in self.consumer.take_errors() {
            let what = TraceKind::ReadFailed { error: error.to_string() };
            self.recorder.lock().push(now, &self.name, what);
        }
    }
}

pub(super) fn into_value(record: ConsumerRecord) -> (TopicPartition, Offset, Json) {
    let in_header = || record.headers.iter().find(|header| header.key == *NUMBER_HEADER)?.value.as_ref();
    let value = parse_payload(record.value.as_ref().or_else(in_header));
    (record.partition, record.offset, value)
}

impl Process for ConsumeProcess {
    fn start(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        let from_beginning = self.until.is_some();
        self.consumer.assign(self.partitions.clone(), net);
        if from_beginning {
            self.consumer.seek_to_beginning(&self.partitions);
            let id = self.consumer.end_offsets(now, &self.partitions, net);
            self.asked.insert(id, self.partitions.clone());
        }
        self.recorder.lock().assigned(now, self.process, &self.partitions, from_beginning);
        self.step(net);
    }

    fn on_event(&mut self, event: Event, net: &mut Endpoint) {
        self.consumer.on_event(&event, net);
        self.step(net);
    }

    fn on_timer(&mut self, net: &mut Endpoint) {
        self.consumer.on_timer(net);
        self.step(net);
    }

    fn deadline(&self) -> Option<Time> {
        self.consumer.deadline()
    }

    fn is_finished(&self) -> bool {
        self.finished
    }
}
