//! Commits and committed offsets (the offset half of `ConsumerCoordinator`).

use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::time::Duration;

use super::{Action, Call, Group, State, View};
use crate::client::error::ErrorName;
use crate::protocol::rpc::{Reply, RpcError};
use crate::protocol::{ErrorCode, LeaderEpoch, Offset, TopicPartition};
use crate::world::{Endpoint, Time};

const OFFSET_COMMIT_VERSION: i16 = 9;
const OFFSET_FETCH_VERSION: i16 = 9;
/// `default.api.timeout.ms`: how long a synchronous commit is tried.
pub(super) const API_TIMEOUT: Duration = Duration::from_secs(60);

/// Names one commit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CommitId(pub u64);

/// A position to commit: the next offset to read, and the epoch of the record before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Commit {
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
}

/// Why a commit failed, as Kafka's exceptions tell it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommitError {
    /// Not a member of the generation any more: others own the partitions (`CommitFailedException`).
    #[error("CommitFailedException")]
    CommitFailed,
    /// Poll first: the group is rebalancing (`RebalanceInProgressException`).
    #[error("RebalanceInProgressException")]
    RebalanceInProgress,
    /// Not retried, or in vain until the time was over; it may have been done.
    #[error("{}", ErrorName(*.0))]
    Broker(ErrorCode),
}

/// The end of one commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitResult {
    pub id: CommitId,
    /// The next offset to read of each partition.
    pub offsets: Vec<(TopicPartition, Offset)>,
    /// Not asked for by the application.
    pub is_automatic: bool,
    /// It was sent more than once.
    pub is_retried: bool,
    pub result: Result<(), CommitError>,
}

/// A commit under way.
pub(super) struct PendingCommit {
    id: CommitId,
    offsets: Vec<(TopicPartition, Commit)>,
    is_automatic: bool,
    /// Of one that is waited for: tried until then. Others are tried once.
    retried_until: Option<Time>,
    retry_at: Time,
    attempts: u32,
    is_in_flight: bool,
}

impl Group {
    /// Commits for the application: these offsets, or all positions. None: there is nothing to commit.
    pub fn commit(
        &mut self,
        now: Time,
        offsets: Option<Vec<(TopicPartition, Offset, LeaderEpoch)>>,
        is_sync: bool,
        net: &mut Endpoint,
        view: &View<'_>,
    ) -> Option<CommitId> {
        let offsets = match offsets {
            Some(offsets) => offsets
                .into_iter()
                .map(|(partition, offset, leader_epoch)| (partition, Commit { offset, leader_epoch }))
                .collect(),
            None => Self::positions(view),
        };
        let until = is_sync.then(|| now + API_TIMEOUT);
        self.begin_commit(now, offsets, false, until, net)
    }

    /// Commits all positions; tries again until then, or once only.
    pub(super) fn commit_positions(
        &mut self,
        now: Time,
        retried_until: Option<Time>,
        net: &mut Endpoint,
        view: &View<'_>,
    ) -> Option<CommitId> {
        self.begin_commit(now, Self::positions(view), true, retried_until, net)
    }

    fn begin_commit(
        &mut self,
        now: Time,
        offsets: Vec<(TopicPartition, Commit)>,
        is_automatic: bool,
        retried_until: Option<Time>,
        net: &mut Endpoint,
    ) -> Option<CommitId> {
        if offsets.is_empty() {
            return None;
        }
        let id = CommitId(self.next_commit);
        self.next_commit += 1;
        self.commits.push(PendingCommit {
            id,
            offsets,
            is_automatic,
            retried_until,
            retry_at: now,
            attempts: 0,
            is_in_flight: false,
        });
        self.drive_commits(now, net);
        Some(id)
    }

    pub fn is_committing(&self, id: CommitId) -> bool {
        self.commits.iter().any(|commit| commit.id == id)
    }

    pub(super) fn is_committing_by_hand(&self) -> bool {
        self.commits.iter().any(|commit| !commit.is_automatic)
    }

    /// Commits the positions when it is time (`maybeAutoCommitOffsetsAsync`): what the application got before this very
    /// poll.
    pub(super) fn auto_commit(&mut self, now: Time, net: &mut Endpoint, view: &View<'_>) {
        if !self.config.enable_auto_commit || !self.is_in_generation() || self.is_rebalancing() {
            return;
        }
        if self.auto_commit_at > now {
            return;
        }
        if self.coordinator.is_none() {
            self.auto_commit_at = now + self.config.retry_backoff;
            return;
        }
        self.auto_commit_at = now + self.config.auto_commit_interval;
        self.commit_positions(now, None, net, view);
    }

    /// Sends commits whose time has come, and ends those whose time is over.
    pub(super) fn drive_commits(&mut self, now: Time, net: &mut Endpoint) {
        let mut at = 0;
        while at < self.commits.len() {
            let commit = &self.commits[at];
            if commit.is_in_flight {
                at += 1;
                continue;
            }
            if commit.retried_until.is_some_and(|until| until <= now) {
                self.end_commit(at, Err(CommitError::Broker(ErrorCode::RequestTimedOut)));
            } else if !self.is_in_generation() {
                self.end_commit(at, Err(CommitError::CommitFailed));
            } else if self.is_rebalancing() {
                self.end_commit(at, Err(CommitError::RebalanceInProgress));
            } else if commit.retry_at > now {
                let at_latest = commit.retried_until.into_iter().chain([commit.retry_at]).min();
                self.wake_by(at_latest.expect("it is tried again"));
                at += 1;
            } else if self.coordinator.is_none() && commit.retried_until.is_none() {
                self.end_commit(at, Err(CommitError::Broker(ErrorCode::CoordinatorNotAvailable)));
            } else {
                self.send_commit(now, at, net);
                at += 1;
            }
        }
    }

    fn send_commit(&mut self, now: Time, at: usize, net: &mut Endpoint) {
        let Some(coordinator) = self.coordinator else {
            return self.commits[at].retried_until.into_iter().for_each(|until| self.wake_by(until));
        };
        let commit = &mut self.commits[at];
        commit.is_in_flight = true;
        let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
        for (TopicPartition { topic, partition }, commit) in &commit.offsets {
            let entry = OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(commit.offset.0)
                .with_committed_leader_epoch(commit.leader_epoch.0)
                .with_committed_metadata(Some(StrBytes::default()));
            match topics.iter_mut().find(|other| other.name == *topic) {
                Some(of_topic) => of_topic.partitions.push(entry),
                None => topics
                    .push(OffsetCommitRequestTopic::default().with_name(topic.clone()).with_partitions(vec![entry])),
            }
        }
        let request = OffsetCommitRequest::default()
            .with_group_id(self.id.clone())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.member_id.clone())
            .with_group_instance_id(self.instance.clone())
            .with_topics(topics);
        let call = Call::Commit(commit.id, self.life);
        self.rpc.send(now, coordinator, OFFSET_COMMIT_VERSION, &request, self.config.request_timeout, call, net);
    }

    /// `OffsetCommitResponseHandler`
    pub(super) fn on_commit(&mut self, now: Time, id: CommitId, life: u64, result: Result<Reply, RpcError>) {
        let Some(at) = self.commits.iter().position(|commit| commit.id == id) else { return };
        self.commits[at].is_in_flight = false;
        let response = result.ok().and_then(|reply| reply.decode::<OffsetCommitRequest>().ok());
        let Some(error) = response.map_or(Some(ErrorCode::NetworkException), |response| worst(&response)) else {
            return self.end_commit(at, Ok(()));
        };
        let is_same_life = life == self.life;
        if self.modern.is_some() && is_same_life && self.on_modern_commit_error(now, at, error) {
            return;
        }
        match error {
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => {
                self.end_commit(at, Err(CommitError::CommitFailed));
                if is_same_life {
                    self.reset_by(now, error);
                }
            }
            ErrorCode::RebalanceInProgress => {
                self.needs_rejoin |= is_same_life;
                self.end_commit(at, Err(CommitError::RebalanceInProgress));
            }
            ErrorCode::FencedInstanceId => {
                self.end_commit(at, Err(CommitError::CommitFailed));
                if is_same_life {
                    self.fail(error);
                }
            }
            _ => {
                let is_lost = matches!(
                    error,
                    ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator | ErrorCode::RequestTimedOut
                );
                if is_lost {
                    self.mark_coordinator_unknown();
                }
                let is_retriable = error.is_retriable() || error == ErrorCode::NetworkException;
                let commit = &mut self.commits[at];
                if commit.retried_until.is_some() && is_retriable {
                    commit.retry_at = now + self.retry_backoff.after(commit.attempts, &mut self.rng);
                    commit.attempts += 1;
                    return;
                }
                if commit.is_automatic && is_retriable {
                    self.auto_commit_at = self.auto_commit_at.min(now + self.config.retry_backoff);
                }
                self.end_commit(at, Err(CommitError::Broker(error)));
            }
        }
    }

    /// Between leaving one generation and being assigned in the next, which there is only in the classic protocol.
    fn is_rebalancing(&self) -> bool {
        self.modern.is_none() && self.state != State::Stable
    }

    /// Errors that mean something else under `group.protocol=consumer`: whether it is fenced a member learns by its
    /// heartbeat. A commit of the consumer's own tries again with the new epoch. False: an error like any other.
    fn on_modern_commit_error(&mut self, now: Time, at: usize, error: ErrorCode) -> bool {
        match error {
            ErrorCode::StaleMemberEpoch
                if self.commits[at].is_automatic && self.commits[at].retried_until.is_some() =>
            {
                let commit = &mut self.commits[at];
                commit.retry_at = now + self.retry_backoff.after(commit.attempts, &mut self.rng);
                commit.attempts += 1;
            }
            ErrorCode::StaleMemberEpoch
            | ErrorCode::UnknownMemberId
            | ErrorCode::GroupIdNotFound
            | ErrorCode::FencedInstanceId => self.end_commit(at, Err(CommitError::CommitFailed)),
            _ => return false,
        }
        true
    }

    fn end_commit(&mut self, at: usize, result: Result<(), CommitError>) {
        let PendingCommit { id, offsets, is_automatic, attempts, .. } = self.commits.remove(at);
        let offsets = offsets.into_iter().map(|(partition, commit)| (partition, commit.offset)).collect();
        self.commit_results.push(CommitResult { id, offsets, is_automatic, is_retried: attempts > 0, result });
    }

    /// Looks up what was committed for the partitions that have no position (`refreshCommittedOffsetsIfNeeded`).
    pub(super) fn fetch_committed(&mut self, now: Time, net: &mut Endpoint, view: &View<'_>) {
        let Some(coordinator) = self.coordinator else { return };
        let needs = |partition: &TopicPartition| !self.known.contains(partition) && !self.fetching.contains(partition);
        let unknown = view.partitions.iter().filter(|assigned| assigned.is_initializing());
        let wanted: Vec<TopicPartition> = unknown.map(|assigned| assigned.partition.clone()).filter(needs).collect();
        if wanted.is_empty() {
            return;
        }
        if self.fetch_at > now {
            return self.wake_by(self.fetch_at);
        }
        let mut topics: Vec<OffsetFetchRequestTopics> = Vec::new();
        for TopicPartition { topic, partition } in &wanted {
            match topics.iter_mut().find(|other| other.name == *topic) {
                Some(of_topic) => of_topic.partition_indexes.push(*partition),
                None => topics.push(
                    OffsetFetchRequestTopics::default()
                        .with_name(topic.clone())
                        .with_partition_indexes(vec![*partition]),
                ),
            }
        }
        let mut group = OffsetFetchRequestGroup::default().with_group_id(self.id.clone()).with_topics(Some(topics));
        if self.modern.is_some() {
            group.member_id = Some(self.member_id.clone());
            group.member_epoch = self.generation;
        }
        let request = OffsetFetchRequest::default().with_groups(vec![group]).with_require_stable(true);
        self.fetching.extend(wanted.iter().cloned());
        let call = Call::FetchOffsets(self.assignment, wanted);
        self.rpc.send(now, coordinator, OFFSET_FETCH_VERSION, &request, self.config.request_timeout, call, net);
    }

    /// Another assignment: answers to what was asked before tell of a time when others may still have committed.
    pub(super) fn forget_offsets(&mut self, keep: &[TopicPartition]) {
        self.known.retain(|partition| keep.contains(partition));
        self.fetching.clear();
        self.assignment += 1;
    }

    pub(super) fn on_offsets(
        &mut self,
        now: Time,
        assignment: u64,
        partitions: &[TopicPartition],
        result: Result<Reply, RpcError>,
    ) {
        if assignment != self.assignment {
            return;
        }
        partitions.iter().for_each(|partition| {
            self.fetching.remove(partition);
        });
        let response = result.ok().and_then(|reply| reply.decode::<OffsetFetchRequest>().ok());
        let group = response.and_then(|response| response.groups.into_iter().next());
        let Some(group) = group else {
            self.fetch_at = now + self.config.retry_backoff;
            return self.wake_by(self.fetch_at);
        };
        match ErrorCode::try_from_code(group.error_code) {
            None => {}
            Some(error) => {
                if matches!(error, ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable) {
                    self.mark_coordinator_unknown();
                } else if self.modern.is_some()
                    && matches!(error, ErrorCode::StaleMemberEpoch | ErrorCode::UnknownMemberId)
                {
                    // Again in the epoch that the next heartbeat tells.
                } else if !error.is_retriable() {
                    return self.fail(error);
                }
                self.fetch_at = now + self.config.retry_backoff;
                return self.wake_by(self.fetch_at);
            }
        }
        for partition in partitions {
            match committed_for(&group, partition) {
                Ok(committed) => {
                    self.known.insert(partition.clone());
                    self.actions.push(Action::Committed(partition.clone(), committed));
                }
                // UNSTABLE_OFFSET_COMMIT and its like: ask again.
                Err(_) => self.fetch_at = now + self.config.retry_backoff,
            }
        }
        self.wake_by(now);
    }
}

fn worst(response: &OffsetCommitResponse) -> Option<ErrorCode> {
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.filter_map(|partition| ErrorCode::try_from_code(partition.error_code)).next()
}

/// What was committed for a partition: none if nothing was.
fn committed_for(
    group: &OffsetFetchResponseGroup,
    partition: &TopicPartition,
) -> Result<Option<(Offset, LeaderEpoch)>, ErrorCode> {
    let name: &TopicName = &partition.topic;
    let topic = group.topics.iter().find(|topic| topic.name == *name);
    let answer = topic.and_then(|topic| topic.partitions.iter().find(|p| p.partition_index == partition.partition));
    let answer = answer.ok_or(ErrorCode::UnknownServerError)?;
    match ErrorCode::try_from_code(answer.error_code) {
        Some(error) => Err(error),
        None if answer.committed_offset < 0 => Ok(None),
        None => Ok(Some((Offset(answer.committed_offset), LeaderEpoch(answer.committed_leader_epoch)))),
    }
}
