//! DeleteRecords (`KafkaApis.handleDeleteRecordsRequest`, `ReplicaManager.deleteRecords`, `DelayedDeleteRecords`): the
//! leader moves its log start offset at once and answers when all live replicas have followed.

use kafka_protocol::messages::DeleteRecordsRequest;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};

use super::connections::ReplyTo;
use super::delayed::Delayed;
use super::log_dirs::not_here;
use super::{Broker, Key, Partitions, Touched};
use crate::protocol::{ErrorCode, Offset, duration_of};
use crate::replica::{Environment, ReplicaError};
use crate::world::{Endpoint, Time};

/// `DeleteRecordsResponse.INVALID_LOW_WATERMARK`
const INVALID_LOW_WATERMARK: i64 = -1;

/// A request whose deletions wait for the other replicas.
pub(super) struct DelayedDeleteRecords {
    to: ReplyTo,
    response: DeleteRecordsResponse,
    pending: Vec<Pending>,
    pub deadline: Time,
}

struct Pending {
    key: Key,
    /// Position of its result: topic, partition.
    at: (usize, usize),
    required: Offset,
    is_done: bool,
}

impl DelayedDeleteRecords {
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.pending.iter().map(|p| p.key)
    }

    /// Settles what can be settled; true once nothing is pending.
    pub fn is_complete(&mut self, partitions: &Partitions, env: &Environment) -> bool {
        for pending in self.pending.iter_mut().filter(|p| !p.is_done) {
            let low_watermark = match partitions.get(&pending.key) {
                Some(hosted) => hosted.partition.low_watermark(env).ok_or(ErrorCode::NotLeaderOrFollower),
                None => Err(ErrorCode::UnknownTopicOrPartition),
            };
            let result = &mut self.response.topics[pending.at.0].partitions[pending.at.1];
            match low_watermark {
                Ok(low_watermark) if low_watermark < pending.required => continue,
                Ok(low_watermark) => {
                    result.error_code = 0;
                    result.low_watermark = low_watermark.0;
                }
                Err(error) => {
                    result.error_code = error.code();
                    result.low_watermark = INVALID_LOW_WATERMARK;
                }
            }
            pending.is_done = true;
        }
        self.pending.iter().all(|p| p.is_done)
    }
}

impl Broker {
    pub(super) fn handle_delete_records(
        &mut self,
        now: Time,
        to: ReplyTo,
        request: &DeleteRecordsRequest,
        net: &mut Endpoint,
    ) {
        let mut pending = Vec::new();
        let mut response = DeleteRecordsResponse::default();
        for topic in &request.topics {
            let id = self.env.image.topic_ids.get(topic.name.as_str()).copied();
            let mut results = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let mut result = DeleteRecordsPartitionResult::default()
                    .with_partition_index(asked.partition_index)
                    .with_low_watermark(INVALID_LOW_WATERMARK);
                match self.delete_on_leader(now, id.map(|id| (id, asked.partition_index)), Offset(asked.offset)) {
                    Ok((key, required)) => {
                        // What remains if the request expires.
                        result.error_code = ErrorCode::RequestTimedOut.code();
                        let at = (response.topics.len(), results.len());
                        pending.push(Pending { key, at, required, is_done: false });
                    }
                    Err(error) => result.error_code = error.code(),
                }
                results.push(result);
            }
            let result = DeleteRecordsTopicResult::default().with_name(topic.name.clone()).with_partitions(results);
            response.topics.push(result);
        }
        if self.is_finished {
            return;
        }
        let timeout = duration_of(request.timeout_ms);
        let mut delayed = DelayedDeleteRecords { to, response, pending, deadline: now + timeout };
        if delayed.is_complete(&self.partitions, &self.env) {
            return self.finish_delete_records(delayed, net);
        }
        let keys: Vec<Key> = delayed.keys().collect();
        let id = self.purgatory.add(Delayed::DeleteRecords(delayed));
        for key in keys {
            // Another partition of the request may have taken its directory offline since.
            match self.partitions.get_mut(&key) {
                Some(hosted) => hosted.waiting_delete.push(id),
                None => self.purgatory.orphan([id].into_iter()),
            }
        }
    }

    fn delete_on_leader(&mut self, now: Time, key: Option<Key>, up_to: Offset) -> Result<(Key, Offset), ErrorCode> {
        let key = self.known_partition(key)?;
        // Nobody deletes records of an internal topic (`ReplicaManager.deleteRecordsOnLocalLog`).
        if self.groups.is_of_topic(key) {
            return Err(ErrorCode::InvalidTopicException);
        }
        let hosted = self
            .partitions
            .get_mut(&key)
            .ok_or_else(|| not_here(&self.offline, key, ErrorCode::NotLeaderOrFollower))?;
        match hosted.partition.delete_records(now, &self.env, up_to) {
            Ok(required) => {
                self.touched.push((key, Touched::LowWatermark));
                Ok((key, required))
            }
            Err(ReplicaError::Refused(error)) => Err(error),
            Err(ReplicaError::Io(error)) => Err(self.storage_failed(now, key, error)),
        }
    }

    pub(super) fn finish_delete_records(&mut self, delayed: DelayedDeleteRecords, net: &mut Endpoint) {
        self.connections.respond::<DeleteRecordsRequest>(delayed.to, &delayed.response, net);
    }
}
