//! Group coordination (`GroupCoordinatorService` and what is below it): which members a group has, who consumes what, and
//! how far they have come. Every group belongs to one partition of `__consumer_offsets`; the broker that leads it is the
//! group's coordinator.
//!
//! Plain synchronous code: requests, deadlines and the progress of the high watermark go in; appends and answers come
//! out. By subject: `classic` (a group of the classic protocol) and `membership` (join, sync, heartbeat, leave: the
//! rebalance); `consumer` (a group of KIP-848), `heartbeat` and `advance` (what moves it), `migration` (from one protocol to
//! the other); `offsets` (commits), `shard` (the groups of one partition, their expiry), `record` (what is written),
//! `runtime` (loading, waiting for the high watermark). The broker finds coordinators, makes the topic, and carries the
//! answers.

mod advance;
mod classic;
mod consumer;
mod embedded;
mod heartbeat;
mod membership;
mod migration;
mod offsets;
mod record;
mod request;
mod runtime;
mod shard;
#[cfg(test)]
mod tests;
mod timers;
mod topics;

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::protocol::StrBytes;
use rand::RngExt;
use uuid::Uuid;

pub use self::record::{GroupMetadataValue, MemberMetadata, OffsetAndMetadata, Record, TopicMetadata};
pub use self::request::{Answer, GroupRequest, RequestContext, Ticket};
use self::runtime::Runtime;
use self::shard::Moment;
use self::topics::Topics;
use crate::config::GroupCoordinatorConfig;
use crate::protocol::{ErrorCode, LeaderEpoch, Offset};
use crate::world::{IoWait, Rng, Time};

/// `Topic.GROUP_METADATA_TOPIC_NAME`
pub const TOPIC: &str = "__consumer_offsets";

/// What an observer of groups wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupNews {
    /// The group is not there any more, or begins anew.
    Deleted(StrBytes),
    /// A partition goes to others although nobody has heard that the member of a consumer group lets go of it. It was
    /// assigned it and says what it consumes, not naming it (nor before, if it was asked to give it up), and may be about to
    /// take it up; or, of the classic protocol, it was taken out, has not heard of that, and comes back with it; or the group
    /// moves to the classic protocol while it consumes what is to be another's, and would move back
    /// with that taken for done; or a group moves to the consumer protocol in a rebalance, and what a member had before it has
    /// been withdrawn already.
    Unclaimed { group: StrBytes, topic: StrBytes, partition: i32 },
    /// A member of a consumer group leaves, which cannot be stored: it stays, and its session is not watched any more.
    Unwatched(StrBytes),
    /// A SyncGroup came of a member that had sent none in this generation, and it was not waited for any more.
    UnawaitedSync(StrBytes),
    /// A member of a consumer group that begins anew is told to begin anew.
    RefusedJoin(StrBytes),
    /// A consumer group becomes a classic one of this generation because a member is gone, and is to be shared out anew:
    /// that is nowhere written, and the next coordinator takes it for stable.
    Downgraded { group: StrBytes, generation: i32 },
    /// A commit has been kept for `offsets.retention.minutes` and is removed.
    OffsetExpired { group: StrBytes, topic: StrBytes, partition: i32, offset: i64, is_rebalancing: bool },
}

/// The partitions of `__consumer_offsets` that this broker leads (`PartitionWriter`, and what the loader reads).
pub trait CoordinatorLog {
    /// Appends a batch as its leader, with acks=all; the offset of its first record.
    fn append(&mut self, partition: i32, batch: &Bytes) -> Result<Offset, ErrorCode>;
    fn bounds(&self, partition: i32) -> Result<LogBounds, ErrorCode>;
    /// Whole batches from the one that holds `from`, at least one.
    fn read(&mut self, partition: i32, from: Offset, bytes_max: usize) -> Result<Bytes, ErrorCode>;
    /// What the disk wants waited for since the last call.
    fn take_wait(&mut self) -> Option<IoWait>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogBounds {
    pub log_start: Offset,
    pub high_watermark: Offset,
    pub log_end: Offset,
}

/// The coordinator of one broker. Every call may yield answers: [`GroupCoordinator::take_answers`].
pub struct GroupCoordinator {
    config: GroupCoordinatorConfig,
    partitions: BTreeMap<i32, Runtime>,
    topics: Topics,
    /// Answered without asking a partition.
    answers: Vec<(Ticket, Answer)>,
    /// The earliest deadline of all partitions.
    next: Option<Time>,
    is_loading: bool,
    rng: Rng,
}

impl GroupCoordinator {
    /// `rng`: for member ids.
    pub fn new(config: GroupCoordinatorConfig, rng: Rng) -> GroupCoordinator {
        GroupCoordinator {
            config,
            partitions: BTreeMap::new(),
            topics: Topics::default(),
            answers: Vec::new(),
            next: None,
            is_loading: false,
            rng,
        }
    }

    pub fn config(&self) -> &GroupCoordinatorConfig {
        &self.config
    }

    /// This broker leads `partition` since `leader_epoch`: its groups are loaded (`onElection`).
    pub fn on_election(
        &mut self,
        (now, wall_ms): (Time, i64),
        partition: i32,
        leader_epoch: LeaderEpoch,
        log: &mut dyn CoordinatorLog,
    ) {
        if self.partitions.get(&partition).is_some_and(|runtime| runtime.leader_epoch >= leader_epoch) {
            return;
        }
        self.on_resignation((now, wall_ms), partition);
        let moment = Moment { now, wall_ms, topics: &self.topics };
        match Runtime::load(moment, partition, leader_epoch, self.config.clone(), log) {
            Ok(mut runtime) => {
                if runtime.loading.is_none() {
                    runtime.on_loaded(moment, log);
                }
                self.partitions.insert(partition, runtime);
            }
            Err(error) => tracing::error!(partition, %error, "groups cannot be loaded"),
        }
    }

    /// Another broker leads `partition`, or nobody, or it is gone (`onResignation`).
    pub fn on_resignation(&mut self, (now, wall_ms): (Time, i64), partition: i32) {
        if let Some(mut runtime) = self.partitions.remove(&partition) {
            runtime.unload(Moment { now, wall_ms, topics: &self.topics });
            self.answers.append(&mut runtime.shard.answers);
        }
    }

    /// Partitions whose loading the disk still has to finish.
    pub fn loading(&self) -> impl Iterator<Item = IoWait> {
        self.partitions.values().filter_map(|runtime| runtime.loading)
    }

    /// Ends the loading of what the disk has read.
    pub fn finish_loading(
        &mut self,
        (now, wall_ms): (Time, i64),
        log: &mut dyn CoordinatorLog,
        is_over: impl Fn(IoWait) -> bool,
    ) {
        for runtime in self.partitions.values_mut().filter(|runtime| runtime.loading.is_some_and(&is_over)) {
            runtime.on_loaded(Moment { now, wall_ms, topics: &self.topics }, log);
        }
    }

    /// Asks the coordinator of `partition`, which the group of the request belongs to ([`partition_for`]).
    pub fn handle(
        &mut self,
        (now, wall_ms): (Time, i64),
        partition: i32,
        context: &RequestContext,
        request: &GroupRequest,
        ticket: Ticket,
        log: &mut dyn CoordinatorLog,
    ) {
        if let Err(error) = self.validate(request) {
            return self.answers.push((ticket, request.failed(error)));
        }
        let runtime = match self.partitions.get_mut(&partition) {
            None => return self.answers.push((ticket, request.failed(ErrorCode::NotCoordinator))),
            Some(runtime) if runtime.loading.is_some() => {
                return self.answers.push((ticket, request.failed(ErrorCode::CoordinatorLoadInProgress)));
            }
            Some(runtime) => runtime,
        };
        let rng = &mut self.rng;
        runtime.handle(
            Moment { now, wall_ms, topics: &self.topics },
            log,
            context,
            request,
            |prefix| new_member_id(prefix, rng),
            ticket,
        );
    }

    /// What Kafka checks before it asks a partition.
    fn validate(&self, request: &GroupRequest) -> Result<(), ErrorCode> {
        let needs_group = match request {
            GroupRequest::Join(_)
            | GroupRequest::Sync(_)
            | GroupRequest::Heartbeat(_)
            | GroupRequest::Leave(_)
            | GroupRequest::OffsetDelete(_) => true,
            // Once there were consumers with an empty group id.
            GroupRequest::Commit(_)
            | GroupRequest::Fetch { .. }
            | GroupRequest::Describe(_)
            | GroupRequest::ConsumerDescribe(_)
            | GroupRequest::Delete(_) => false,
            // Refused with a message.
            GroupRequest::ConsumerHeartbeat(_) => false,
        };
        if needs_group && request.group_id().is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        if let GroupRequest::Join(request) = request {
            let timeout_ms = i128::from(request.session_timeout_ms);
            let (min, max) = (self.config.min_session_timeout, self.config.max_session_timeout);
            if timeout_ms < min.as_millis() as i128 || timeout_ms > max.as_millis() as i128 {
                return Err(ErrorCode::InvalidSessionTimeout);
            }
        }
        Ok(())
    }

    /// The groups of all partitions. An error while one is being loaded.
    pub fn list_groups(&self, states: &[StrBytes], types: &[StrBytes]) -> Result<Vec<ListedGroup>, ErrorCode> {
        if self.loading().next().is_some() {
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        let of_partition = |runtime: &Runtime| runtime.shard.list_groups(states, types, runtime.committed());
        Ok(self.partitions.values().flat_map(of_partition).collect())
    }

    /// The high watermark of a partition has advanced.
    pub fn on_high_watermark(
        &mut self,
        (now, wall_ms): (Time, i64),
        partition: i32,
        offset: Offset,
        log: &mut dyn CoordinatorLog,
    ) {
        if let Some(runtime) = self.partitions.get_mut(&partition) {
            runtime.on_high_watermark(Moment { now, wall_ms, topics: &self.topics }, log, offset);
        }
    }

    /// Topics that are new or have more partitions. What has not changed is ignored.
    pub fn on_topics(&mut self, topics: impl IntoIterator<Item = (StrBytes, TopicMetadata)>) {
        let mut changed = Vec::new();
        for (name, topic) in topics {
            if self.topics.put(&name, topic) {
                changed.push(name);
            }
        }
        if !changed.is_empty() {
            self.partitions.values_mut().for_each(|runtime| runtime.shard.on_topics_changed(&changed));
        }
    }

    /// Topics are gone, and with them what was committed for them.
    pub fn on_topics_deleted(
        &mut self,
        (now, wall_ms): (Time, i64),
        deleted: &[(Uuid, StrBytes)],
        log: &mut dyn CoordinatorLog,
    ) {
        deleted.iter().for_each(|(id, _)| self.topics.remove(id));
        let topics: Vec<StrBytes> = deleted.iter().map(|(_, name)| name.clone()).collect();
        for runtime in self.partitions.values_mut() {
            runtime.shard.on_topics_changed(&topics);
        }
        for runtime in self.partitions.values_mut().filter(|runtime| runtime.loading.is_none()) {
            for topic in &topics {
                let outcome = runtime.shard.forget_topic(topic);
                runtime.execute(Moment { now, wall_ms, topics: &self.topics }, log, outcome);
            }
        }
    }

    /// The partitions that this broker coordinates.
    pub fn partitions(&self) -> impl Iterator<Item = i32> {
        self.partitions.keys().copied()
    }

    /// Whether a partition is being loaded, as of the last [`GroupCoordinator::take_answers`].
    pub fn is_loading(&self) -> bool {
        self.is_loading
    }

    /// Of what is loaded, as of the last [`GroupCoordinator::take_answers`].
    pub fn deadline(&self) -> Option<Time> {
        self.next
    }

    pub fn on_timer(&mut self, (now, wall_ms): (Time, i64), log: &mut dyn CoordinatorLog) {
        for runtime in self.partitions.values_mut() {
            if runtime.loading.is_none() && runtime.deadline().is_some_and(|at| at <= now) {
                runtime.on_timer(Moment { now, wall_ms, topics: &self.topics }, log);
            }
        }
    }

    /// Every answer since the last call; called after all others. A ticket may come more than once: the first one counts.
    pub fn take_answers(&mut self) -> Vec<(Ticket, Answer)> {
        let mut answers = std::mem::take(&mut self.answers);
        self.next = None;
        self.is_loading = self.partitions.values().any(|runtime| runtime.loading.is_some());
        for runtime in self.partitions.values_mut() {
            answers.append(&mut runtime.shard.answers);
            if runtime.loading.is_none() {
                self.next = self.next.into_iter().chain(runtime.deadline()).min();
            }
        }
        answers
    }

    /// What happened to groups since the last call.
    pub fn take_news(&mut self) -> Vec<GroupNews> {
        self.partitions.values_mut().flat_map(|runtime| std::mem::take(&mut runtime.shard.news)).collect()
    }
}

/// The partition of `__consumer_offsets` that a group belongs to (`GroupCoordinatorService.partitionFor`).
pub fn partition_for(group: &str, partitions: i32) -> i32 {
    // `String.hashCode`, then `Utils.abs`.
    let hash = group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let hash = if hash == i32::MIN { 0 } else { hash.abs() };
    hash % partitions.max(1)
}

/// The partition of each group, with the groups that it has, in their order.
pub fn by_partition(groups: &[GroupId], partitions: i32) -> BTreeMap<i32, Vec<GroupId>> {
    let mut by_partition: BTreeMap<i32, Vec<GroupId>> = BTreeMap::new();
    for group in groups {
        by_partition.entry(partition_for(&group.0, partitions)).or_default().push(group.clone());
    }
    by_partition
}

/// `<client id or instance id>-<UUID>` (`ClassicGroup.generateMemberId`)
fn new_member_id(prefix: &StrBytes, rng: &mut Rng) -> StrBytes {
    let random = rng.random::<u128>().to_be_bytes();
    let uuid = Uuid::from_bytes(random);
    StrBytes::from_string(format!("{}-{uuid}", prefix.as_str()))
}
