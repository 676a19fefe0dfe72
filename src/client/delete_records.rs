//! One call of `Admin::delete_records`: which leaders are left to ask, and what they said (`DeleteRecordsHandler`,
//! `PartitionLeaderStrategy`).

use std::collections::BTreeMap;

use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{DeleteRecordsRequest, MetadataRequest, MetadataResponse};

use super::admin::{AdminOutcome, REQUEST_TIMEOUT};
use super::error::ClientError;
use crate::protocol::rpc::{Reply, RpcError};
use crate::protocol::{ErrorCode, Offset, TopicPartition};
use crate::world::HostPort;

/// `RecordsToDelete.beforeOffset(-1)`: everything that is committed.
pub const HIGH_WATERMARK: Offset = Offset(-1);

pub(super) struct RecordsToDelete {
    offsets: BTreeMap<TopicPartition, Offset>,
    /// Where the partitions' leaders are, as far as that is known.
    leaders: BTreeMap<TopicPartition, HostPort>,
    results: BTreeMap<TopicPartition, Result<Offset, ErrorCode>>,
}

/// What an answer leads to.
pub(super) enum Step {
    /// The next question, at once.
    Next,
    /// The same question, after the backoff.
    Again,
    End(Result<AdminOutcome, ClientError>),
}

impl RecordsToDelete {
    pub(super) fn new(offsets: BTreeMap<TopicPartition, Offset>) -> RecordsToDelete {
        RecordsToDelete { offsets, leaders: BTreeMap::new(), results: BTreeMap::new() }
    }

    /// The leader to ask next; none: ask any broker where the leaders are.
    pub(super) fn next_leader(&self) -> Option<&HostPort> {
        self.leaders.values().next()
    }

    /// What the next leader is asked.
    pub(super) fn next_request(&self) -> Option<DeleteRecordsRequest> {
        let leader = self.next_leader()?;
        let mut topics: Vec<DeleteRecordsTopic> = Vec::new();
        for (partition, _) in self.leaders.iter().filter(|(_, address)| *address == leader) {
            let asked = DeleteRecordsPartition::default()
                .with_partition_index(partition.partition)
                .with_offset(self.offsets[partition].0);
            match topics.iter_mut().rfind(|t| t.name == partition.topic) {
                Some(topic) => topic.partitions.push(asked),
                None => topics.push(
                    DeleteRecordsTopic::default().with_name(partition.topic.clone()).with_partitions(vec![asked]),
                ),
            }
        }
        let timeout_ms = REQUEST_TIMEOUT.as_millis() as i32;
        Some(DeleteRecordsRequest::default().with_topics(topics).with_timeout_ms(timeout_ms))
    }

    /// Asks where the leaders are.
    pub(super) fn lookup(&self) -> MetadataRequest {
        let mut topics: Vec<MetadataRequestTopic> = Vec::new();
        for name in self.unanswered().map(|partition| &partition.topic) {
            if topics.last().is_none_or(|last| last.name.as_ref() != Some(name)) {
                topics.push(MetadataRequestTopic::default().with_name(Some(name.clone())));
            }
        }
        MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(false)
    }

    fn unanswered(&self) -> impl Iterator<Item = &TopicPartition> {
        self.offsets.keys().filter(|partition| !self.results.contains_key(*partition))
    }

    /// The answer to what was asked last.
    pub(super) fn take_answer(&mut self, answer: Result<Reply, RpcError>) -> Step {
        let was_lookup = self.leaders.is_empty();
        let is_understood = match answer {
            Ok(reply) if was_lookup => reply.decode::<MetadataRequest>().map(|found| self.note_leaders(&found)).is_ok(),
            Ok(reply) => self.note_deleted(&reply),
            Err(RpcError::UnsupportedVersion) => {
                return Step::End(Err(ClientError::Broker(ErrorCode::UnsupportedVersion)));
            }
            Err(RpcError::Disconnected { .. } | RpcError::TimedOut { .. }) => false,
        };
        if self.unanswered().next().is_none() {
            let results = std::mem::take(&mut self.results);
            return Step::End(Ok(AdminOutcome::RecordsDeleted(results.into_iter().collect())));
        }
        if !is_understood {
            // It may lead no more.
            self.leaders.clear();
        }
        if self.leaders.is_empty() { Step::Again } else { Step::Next }
    }

    fn note_leaders(&mut self, found: &MetadataResponse) {
        for topic in &found.topics {
            for partition in &topic.partitions {
                let Some(name) = topic.name.clone() else { continue };
                let key = TopicPartition { topic: name, partition: partition.partition_index };
                let leader = found.brokers.iter().find(|broker| broker.node_id == partition.leader_id);
                let is_asked = self.offsets.contains_key(&key) && !self.results.contains_key(&key);
                if let Some(leader) = leader.filter(|_| is_asked) {
                    self.leaders.insert(key, HostPort::new(leader.host.to_string(), leader.port as u16));
                }
            }
        }
    }

    /// False if the answer is not one.
    fn note_deleted(&mut self, reply: &Reply) -> bool {
        let Ok(response) = reply.decode::<DeleteRecordsRequest>() else { return false };
        let asked = self.next_leader().cloned();
        for topic in response.topics {
            for result in topic.partitions {
                let key = TopicPartition { topic: topic.name.clone(), partition: result.partition_index };
                if self.leaders.get(&key) != asked.as_ref() {
                    continue;
                }
                match ErrorCode::try_from_code(result.error_code) {
                    Some(error) if error.is_retriable() => {}
                    Some(error) => drop(self.results.insert(key, Err(error))),
                    None => drop(self.results.insert(key, Ok(Offset(result.low_watermark)))),
                }
            }
        }
        self.leaders.retain(|_, leader| Some(&*leader) != asked.as_ref());
        true
    }
}
