//! One partition of `__consumer_offsets` that this broker leads (`CoordinatorRuntime`): loaded by replaying it, then
//! asked; what it decides is appended, applied, and answered once the high watermark has passed it.
//!
//! Kafka gathers appends for `group.coordinator.append.linger.ms`; here every decision is appended at once. So an append
//! fails before it has changed the state, and nothing has to be taken back.

use std::collections::VecDeque;
use std::time::Duration;

use kafka_protocol::protocol::StrBytes;

use super::record::{ConsumerRecord, Record, decode_batches, encode_batch};
use super::request::response_error;
use super::shard::{Moment, Outcome, Shard, Then};
use super::timers::TimerKey;
use super::{CoordinatorLog, GroupNews, GroupRequest, RequestContext, Ticket};
use crate::config::GroupCoordinatorConfig;
use crate::log::batch::Header;
use crate::protocol::{ErrorCode, LeaderEpoch, Offset};
use crate::world::{IoWait, Time};

/// Records of an operation that need not stay together go into batches of so many.
const SPLIT_RECORDS: usize = 1_000;
/// Until a deadline whose records could not be stored is due again (`CoordinatorTimer.schedule`).
const TIMER_RETRY_BACKOFF: Duration = Duration::from_millis(500);

pub(super) struct Runtime {
    pub partition: i32,
    pub leader_epoch: LeaderEpoch,
    pub shard: Shard,
    /// Its records are being read from the disk until this is over.
    pub loading: Option<IoWait>,
    /// Our log end, as far as it concerns groups.
    last_written: Offset,
    /// The high watermark.
    committed: Offset,
    /// In the order of their offsets, and of their deadlines.
    deferred: VecDeque<Deferred>,
}

/// What waits for the high watermark to reach an offset.
struct Deferred {
    offset: Offset,
    deadline: Time,
    then: Then,
}

impl Runtime {
    /// Replays the partition (`CoordinatorLoaderImpl`).
    pub fn load(
        moment: Moment<'_>,
        partition: i32,
        leader_epoch: LeaderEpoch,
        config: GroupCoordinatorConfig,
        log: &mut dyn CoordinatorLog,
    ) -> Result<Runtime, ErrorCode> {
        let bytes_max = config.offsets_load_buffer_size;
        let bounds = log.bounds(partition)?;
        let mut runtime = Runtime {
            partition,
            leader_epoch,
            shard: Shard::new(config),
            loading: None,
            last_written: bounds.log_end,
            committed: bounds.high_watermark,
            deferred: VecDeque::new(),
        };
        runtime.shard.offsets.set_committed(bounds.high_watermark);
        let mut next = bounds.log_start;
        while next < bounds.log_end {
            let bytes = log.read(partition, next, bytes_max)?;
            // Nothing is left, or what is there is no batch (`ByteBufferLogInputStream.nextBatchSize`).
            let Some(end) = end_of(&bytes) else {
                if bytes.is_empty() {
                    break;
                }
                return Err(ErrorCode::CorruptMessage);
            };
            for (offset, record) in decode_batches(&bytes).map_err(|_| ErrorCode::CorruptMessage)? {
                if offset >= next {
                    runtime.shard.replay(offset, record, moment.wall_ms);
                }
            }
            next = end;
        }
        runtime.loading = log.take_wait();
        Ok(runtime)
    }

    /// The records are there: deadlines begin to count.
    pub fn on_loaded(&mut self, moment: Moment<'_>, log: &mut dyn CoordinatorLog) {
        self.loading = None;
        for outcome in self.shard.on_loaded(moment) {
            self.execute(moment, log, outcome);
        }
    }

    pub fn committed(&self) -> Offset {
        self.committed
    }

    pub fn deadline(&self) -> Option<Time> {
        let deferred = self.deferred.front().map(|deferred| deferred.deadline);
        deferred.into_iter().chain(self.shard.timers.deadline()).min()
    }

    pub fn handle(
        &mut self,
        moment: Moment<'_>,
        log: &mut dyn CoordinatorLog,
        context: &RequestContext,
        request: &GroupRequest,
        new_member_id: impl FnOnce(&StrBytes) -> StrBytes,
        ticket: Ticket,
    ) {
        let shard = &mut self.shard;
        let decided = match request {
            GroupRequest::Join(request) => Ok(shard.join_group(moment, context, request, new_member_id, ticket)),
            GroupRequest::Sync(request) => shard.sync_group(moment, request, ticket),
            GroupRequest::Heartbeat(request) => shard.heartbeat(moment, request, ticket),
            GroupRequest::ConsumerHeartbeat(request) => {
                let new_member_id = || new_member_id(&Default::default());
                match shard.consumer_group_heartbeat(moment, context, request, new_member_id, ticket) {
                    Ok(outcome) => Ok(outcome),
                    Err(refusal) => {
                        shard.answers.push((ticket, refusal.into_answer()));
                        return;
                    }
                }
            }
            GroupRequest::Leave(request) => shard.leave_group(moment, request, ticket),
            GroupRequest::Commit(request) => shard.commit_offsets(moment, context.api_version, request, ticket),
            GroupRequest::OffsetDelete(request) => shard.delete_offsets(request, ticket),
            GroupRequest::Delete(groups) => {
                let ids: Vec<_> = groups.iter().map(|group| group.0.clone()).collect();
                Ok(shard.delete_groups(&ids, ticket))
            }
            GroupRequest::ConsumerDescribe(groups) => {
                let described =
                    groups.iter().map(|id| shard.describe_consumer_group(moment, &id.0, self.committed)).collect();
                shard.answers.push((ticket, super::Answer::ConsumerDescribe(described)));
                return;
            }
            // Stable offsets are all that is written, told once it is committed.
            GroupRequest::Fetch { group, require_stable } => match shard.validate_offset_fetch(group) {
                Err(error) => Err(error),
                Ok(()) if *require_stable => {
                    Ok(Outcome::answer(ticket, super::Answer::Fetch(shard.fetch_offsets(group, None))))
                }
                Ok(()) => {
                    let answer = super::Answer::Fetch(shard.fetch_offsets(group, Some(self.committed)));
                    shard.answers.push((ticket, answer));
                    return;
                }
            },
            GroupRequest::Describe(groups) => {
                let described = groups.iter().map(|id| shard.describe_group(&id.0, self.committed)).collect();
                shard.answers.push((ticket, super::Answer::Describe(described)));
                return;
            }
        };
        match decided {
            Ok(outcome) => self.execute(moment, log, outcome),
            Err(error) => self.shard.answers.push((ticket, request.failed(error))),
        }
    }

    /// Does what a step wants, and what follows from that.
    pub fn execute(&mut self, moment: Moment<'_>, log: &mut dyn CoordinatorLog, outcome: Outcome) {
        let mut next = Some(outcome);
        while let Some(Outcome { records, replay, becomes, then }) = next.take() {
            let removed = self.removed_by(&records);
            let promised = becomes.as_ref().map_or_else(Vec::new, |becomes| self.shard.promised_by(&becomes.group));
            let leaves = Shard::left_by(&records).filter(|_| !matches!(then, Then::Expired(_)));
            let appended = self.append(moment, log, records, replay);
            if let Some(becomes) = becomes.filter(|_| appended.is_ok()) {
                if becomes.rebalances {
                    let (group, generation) = (becomes.group.id.clone(), becomes.group.generation);
                    self.shard.news.push(GroupNews::Downgraded { group, generation });
                }
                self.shard.replace_group(moment, becomes, self.last_written);
                self.shard.news.extend(promised);
            }
            for (id, generation) in removed {
                // A group that only moves to the other protocol goes on counting.
                if self.shard.groups.get(&id).is_none_or(|group| group.generation() < generation) {
                    self.shard.news.push(GroupNews::Deleted(id));
                }
            }
            match appended {
                Ok(()) if matches!(then, Then::Nothing) => {}
                Ok(()) if self.last_written <= self.committed => next = Some(self.complete(moment, then, Ok(()))),
                Ok(()) => {
                    let deadline = moment.now + self.shard.config.offsets_commit_timeout;
                    self.deferred.push_back(Deferred { offset: self.last_written, deadline, then });
                }
                Err(error) => {
                    self.shard.news.extend(leaves.map(GroupNews::Unwatched));
                    if let Then::GroupCreated { group, .. } = &then {
                        self.shard.groups.remove(group);
                        self.shard.timers.cancel(&TimerKey::Join { group: group.clone() });
                    }
                    next = Some(self.complete(moment, then, Err(error)));
                }
            }
        }
    }

    /// The groups that are to be removed, with their generations.
    fn removed_by(&self, records: &[Record]) -> Vec<(StrBytes, i32)> {
        let removed = records.iter().filter_map(|record| match record {
            Record::GroupMetadata { group, value: None }
            | Record::Consumer { group, record: ConsumerRecord::Group(None) } => Some(group),
            _ => None,
        });
        removed.filter_map(|id| Some((id.clone(), self.shard.groups.get(id)?.generation()))).collect()
    }

    fn append(
        &mut self,
        moment: Moment<'_>,
        log: &mut dyn CoordinatorLog,
        records: Vec<Record>,
        replay: bool,
    ) -> Result<(), ErrorCode> {
        for records in records.chunks(SPLIT_RECORDS) {
            let base = log.append(self.partition, &encode_batch(records, moment.wall_ms))?;
            let mut offset = base;
            for record in records {
                if replay {
                    self.shard.replay(offset, record.clone(), moment.wall_ms);
                } else {
                    self.shard.note_written(offset, record);
                }
                offset = offset + 1;
            }
            self.last_written = offset;
        }
        Ok(())
    }

    /// The high watermark is at `offset`.
    pub fn on_high_watermark(&mut self, moment: Moment<'_>, log: &mut dyn CoordinatorLog, offset: Offset) {
        if offset <= self.committed {
            return;
        }
        self.committed = offset;
        self.shard.offsets.set_committed(offset);
        while self.deferred.front().is_some_and(|deferred| deferred.offset <= self.committed) {
            let Deferred { then, .. } = self.deferred.pop_front().expect("there is one");
            let follows = self.complete(moment, then, Ok(()));
            self.execute(moment, log, follows);
        }
    }

    /// Deadlines that have passed: of answers that wait for their records, and of the groups.
    pub fn on_timer(&mut self, moment: Moment<'_>, log: &mut dyn CoordinatorLog) {
        while self.deferred.front().is_some_and(|deferred| deferred.deadline <= moment.now) {
            let Deferred { then, .. } = self.deferred.pop_front().expect("there is one");
            let follows = self.complete(moment, then, Err(ErrorCode::RequestTimedOut));
            self.execute(moment, log, follows);
        }
        while let Some(key) = self.shard.timers.pop_due(moment.now) {
            let outcome = self.shard.on_timer(moment, &key);
            self.execute(moment, log, outcome);
        }
    }

    /// Another broker leads now (`CoordinatorContext.unload`).
    pub fn unload(&mut self, moment: Moment<'_>) {
        for Deferred { then, .. } in std::mem::take(&mut self.deferred) {
            match then {
                Then::Nothing => {}
                Then::Answer(ticket, answer) => {
                    self.shard.answers.push((ticket, answer.failed(ErrorCode::NotCoordinator)));
                }
                // Whoever waits is told below; groups are over here.
                Then::AssignmentStored { .. } | Then::Expired(_) => {}
                Then::StaticMemberStored(_) | Then::GroupCreated { .. } => {
                    let _ = self.complete(moment, then, Err(ErrorCode::NotCoordinator));
                }
            }
        }
        self.shard.on_unloaded();
    }

    fn complete(&mut self, moment: Moment<'_>, then: Then, result: Result<(), ErrorCode>) -> Outcome {
        let result = result.map_err(response_error);
        let shard = &mut self.shard;
        match then {
            Then::Nothing => {}
            Then::Answer(ticket, answer) => {
                let answer = match result {
                    Ok(()) => answer,
                    Err(error) => answer.failed(error),
                };
                shard.answers.push((ticket, answer));
            }
            Then::AssignmentStored { group, generation, assignments } => {
                return shard.on_assignment_stored(moment, (&group, generation), &assignments, result);
            }
            Then::StaticMemberStored(replaced) => shard.on_static_member_stored(moment, replaced, result),
            Then::Expired(key) => {
                if result.is_err_and(|error| error != ErrorCode::NotCoordinator) {
                    shard.timers.set(key, moment.now + TIMER_RETRY_BACKOFF);
                }
            }
            Then::GroupCreated { ticket, member, .. } => {
                if let Err(error) = result {
                    let response = kafka_protocol::messages::JoinGroupResponse::default();
                    let response = response.with_member_id(member).with_error_code(error.code());
                    shard.answers.push((ticket, super::Answer::Join(response)));
                }
            }
        }
        Outcome::default()
    }
}

/// The offset after the last batch.
fn end_of(bytes: &[u8]) -> Option<Offset> {
    let (mut at, mut end) = (0, None);
    while let Ok(header) = Header::parse(bytes.get(at..)?) {
        end = Some(header.last_offset() + 1);
        at += header.size_bytes;
    }
    end
}
