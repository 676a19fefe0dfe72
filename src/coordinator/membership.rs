//! Joining, syncing, heartbeats and leaving under the classic protocol, and the deadlines of a rebalance
//! (`GroupMetadataManager`, its classic half; names are Kafka's).
//!
//! A rebalance: members are asked to rejoin (PreparingRebalance) until all have or the rebalance timeout is over; whoever
//! did not is out, static members excepted. All get the new generation (CompletingRebalance); the leader gets the
//! members and sends the assignment with SyncGroup; once its record is committed everybody is given a share (Stable).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::classic::{ClassicGroup, InitialDelay, Member, State};
use super::shard::{Assignments, Group, Moment, Outcome, Shard, Then};
use super::timers::{TimerKey, Timers};
use super::{Answer, GroupNews, RequestContext, Ticket};
use crate::config::GroupCoordinatorConfig;
use crate::defect::Defect;
use crate::protocol::{ErrorCode, duration_of};

/// How long a new member may wait in its first JoinGroup (`CLASSIC_GROUP_NEW_MEMBER_JOIN_TIMEOUT_MS`).
const NEW_MEMBER_JOIN_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// From this version of JoinGroup on a dynamic member is told its id first (KIP-394).
pub(super) const JOIN_REQUIRES_MEMBER_ID: i16 = 4;
/// From this version on a static leader that comes back is told not to assign (KIP-814).
const JOIN_KNOWS_SKIP_ASSIGNMENT: i16 = 9;

impl Shard {
    /// `classicGroupJoin`
    pub fn join_group(
        &mut self,
        moment: Moment<'_>,
        context: &RequestContext,
        request: &JoinGroupRequest,
        new_member_id: impl FnOnce(&StrBytes) -> StrBytes,
        ticket: Ticket,
    ) -> Outcome {
        let group_id = &request.group_id.0;
        let is_unknown = request.member_id.is_empty();
        let mut tombstones = Vec::new();
        match self.groups.get(group_id) {
            Some(Group::Consumer(group)) if !group.members.is_empty() => {
                return self.join_consumer_group(moment, context, request, new_member_id, ticket);
            }
            Some(Group::Consumer(group)) => {
                tombstones = group.tombstones();
                self.groups.remove(group_id);
                self.news.push(GroupNews::Deleted(group_id.clone()));
            }
            Some(Group::Classic(_)) | None => {}
        }
        let is_new_group = !self.groups.contains_key(group_id);
        if is_new_group && !is_unknown {
            self.answers.push((ticket, join_error(&request.member_id, ErrorCode::UnknownMemberId)));
            return Outcome::default();
        }
        if is_new_group {
            let group = ClassicGroup::new(group_id.clone(), moment.wall_ms);
            self.groups.insert(group_id.clone(), Group::Classic(group));
        }
        let mut step = self.step(moment, group_id).expect("made just now");
        let outcome = if !step.accepts(&request.member_id) {
            step.group.remove(&request.member_id);
            step.answer(ticket, join_error(&StrBytes::default(), ErrorCode::GroupMaxSizeReached));
            Outcome::default()
        } else if !step.group.supports_protocols(&request.protocol_type, &super::classic::protocols_of(request)) {
            step.answer(ticket, join_error(&request.member_id, ErrorCode::InconsistentGroupProtocol));
            Outcome::default()
        } else if is_unknown {
            let prefix = request.group_instance_id.as_ref().unwrap_or(&context.client_id);
            let member = new_member_id(prefix);
            step.join_new_member(context, request, member, ticket)
        } else {
            step.join_existing_member(context, request, ticket)
        };
        if is_new_group && outcome.is_empty() {
            tombstones.push(step.group.empty_record());
            let then = Then::GroupCreated { ticket, group: group_id.clone(), member: request.member_id.clone() };
            return Outcome { records: tombstones, then, ..Outcome::default() };
        }
        outcome
    }

    /// `classicGroupSync`
    pub fn sync_group(
        &mut self,
        moment: Moment<'_>,
        request: &SyncGroupRequest,
        ticket: Ticket,
    ) -> Result<Outcome, ErrorCode> {
        let group_id = &request.group_id.0;
        if let Some(Group::Consumer(_)) = self.groups.get(group_id) {
            return self.sync_consumer_group(moment, request, ticket);
        }
        let found = self.step(moment, group_id).filter(|step| step.group.state != State::Empty);
        let Some(mut step) = found else {
            return Err(ErrorCode::UnknownMemberId);
        };
        step.validate_sync(request)?;
        Ok(match step.group.state {
            State::Empty => unreachable!("filtered out above"),
            State::PreparingRebalance => return Err(ErrorCode::RebalanceInProgress),
            State::CompletingRebalance => step.sync_while_completing(request, ticket),
            State::Stable => {
                step.remove_pending_sync(&request.member_id);
                let answer = step.sync_response(&step.group.members[&request.member_id]);
                step.answer(ticket, answer);
                Outcome::default()
            }
        })
    }

    /// `classicGroupHeartbeat`
    pub fn heartbeat(
        &mut self,
        moment: Moment<'_>,
        request: &HeartbeatRequest,
        ticket: Ticket,
    ) -> Result<Outcome, ErrorCode> {
        if let Some(Group::Consumer(_)) = self.groups.get(&request.group_id.0) {
            return self.heartbeat_consumer_group(moment, request, ticket);
        }
        let mut step = self.step(moment, &request.group_id.0).ok_or(ErrorCode::UnknownMemberId)?;
        step.group.validate_member(&request.member_id, request.group_instance_id.as_ref())?;
        if request.generation_id != step.group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let error_code = match step.group.state {
            State::Empty => ErrorCode::UnknownMemberId.code(),
            State::PreparingRebalance => {
                step.reschedule_heartbeat(&request.member_id);
                ErrorCode::RebalanceInProgress.code()
            }
            // The sync timer has a key of its own: a heartbeat does not stand for SyncGroup (KAFKA-12890).
            State::CompletingRebalance | State::Stable => {
                step.reschedule_heartbeat(&request.member_id);
                let is_pending = step.group.pending_sync.contains(&request.member_id);
                if is_pending && step.config.defects.has(Defect::HeartbeatCompletesSyncTimer) {
                    step.remove_pending_sync(&request.member_id);
                }
                0
            }
        };
        let answer = Answer::Heartbeat(HeartbeatResponse::default().with_error_code(error_code));
        Ok(Outcome::answer(ticket, answer))
    }

    /// `classicGroupLeave`. A request below version 3 names its one member like a later one.
    pub fn leave_group(
        &mut self,
        moment: Moment<'_>,
        request: &LeaveGroupRequest,
        ticket: Ticket,
    ) -> Result<Outcome, ErrorCode> {
        if let Some(Group::Consumer(_)) = self.groups.get(&request.group_id.0) {
            return Ok(self.leave_consumer_group_as_classic(moment, request, ticket));
        }
        let mut step = self.step(moment, &request.group_id.0).ok_or(ErrorCode::UnknownMemberId)?;
        let mut has_left = false;
        let mut members = Vec::with_capacity(request.members.len());
        for member in &request.members {
            let left = step.leave(member);
            has_left |= left.is_ok();
            members.push(
                MemberResponse::default()
                    .with_member_id(member.member_id.clone())
                    .with_group_instance_id(member.group_instance_id.clone())
                    .with_error_code(left.map_or_else(|error| error.code(), |()| 0)),
            );
        }
        let outcome = match step.group.state {
            State::Stable | State::CompletingRebalance if has_left => step.maybe_prepare_rebalance_or_complete_join(),
            State::PreparingRebalance if has_left => step.maybe_complete_join_phase(),
            State::Stable | State::CompletingRebalance | State::PreparingRebalance | State::Empty => Outcome::default(),
        };
        let answer = Answer::Leave(LeaveGroupResponse::default().with_members(members));
        Ok(Outcome { then: Then::Answer(ticket, answer), ..outcome })
    }

    /// A deadline of a classic group has passed.
    pub fn on_group_timer(&mut self, moment: Moment<'_>, key: &TimerKey) -> Outcome {
        let (TimerKey::Heartbeat { group, .. } | TimerKey::Join { group } | TimerKey::Sync { group }) = key else {
            return Outcome::default();
        };
        let Some(mut step) = self.step(moment, group) else { return Outcome::default() };
        match key {
            TimerKey::Heartbeat { member, .. } => step.expire_heartbeat(member),
            TimerKey::Join { .. } => step.on_join_timer(),
            TimerKey::Sync { .. } => step.expire_pending_sync(),
            TimerKey::Session { .. }
            | TimerKey::Rebalance { .. }
            | TimerKey::ClassicJoin { .. }
            | TimerKey::ClassicSync { .. }
            | TimerKey::Regexes { .. }
            | TimerKey::Expiration => unreachable!("no classic group's"),
        }
    }

    /// The record that SyncGroup waited for is committed, or will never be.
    pub fn on_assignment_stored(
        &mut self,
        moment: Moment<'_>,
        (group, generation): (&StrBytes, i32),
        assignments: &Assignments,
        result: Result<(), ErrorCode>,
    ) -> Outcome {
        let Some(mut step) = self.step(moment, group) else { return Outcome::default() };
        // Another member may have joined meanwhile.
        if step.group.state != State::CompletingRebalance || step.group.generation != generation {
            return Outcome::default();
        }
        match result {
            Ok(()) => {
                for member in step.group.members.values_mut() {
                    member.assignment = assignments.get(&member.id).cloned().unwrap_or_default();
                    member.withdrawn.clear();
                }
                step.propagate_assignment(None);
                step.group.transition_to(State::Stable, moment.wall_ms);
                Outcome::default()
            }
            Err(error) => {
                step.reset_and_propagate_assignment(error);
                step.maybe_prepare_rebalance_or_complete_join()
            }
        }
    }

    /// The record of a static member's new id is committed, or will never be.
    pub fn on_static_member_stored(
        &mut self,
        moment: Moment<'_>,
        replaced: StaticReplacement,
        result: Result<(), ErrorCode>,
    ) {
        let StaticReplacement { group, instance, former, member, ticket, api_version, leader } = replaced;
        let Some(mut step) = self.step(moment, &group) else { return };
        if step.group.static_members.get(&instance) != Some(&member) {
            return;
        }
        if let Err(error) = result {
            step.group.replace_static_member(&instance, &member, &former.id);
            let id = former.id.clone();
            let at = step.group.members.get_mut(&id).expect("put back just now");
            *at = Member { awaiting_join: None, awaiting_sync: None, ..*former };
            step.reschedule_heartbeat(&id);
            let response = join_response(step.group, StrBytes::default(), leader).with_error_code(error.code());
            return step.answer(ticket, Answer::Join(response));
        }
        let response = if api_version >= JOIN_KNOWS_SKIP_ASSIGNMENT {
            let is_leader = step.group.is_leader(&member);
            let members = if is_leader { step.group.join_response_members() } else { Vec::new() };
            join_response(step.group, member.clone(), step.group.leader.clone())
                .with_members(members)
                .with_skip_assignment(is_leader)
        } else {
            // An old client would take itself for a leader that must assign: it is told the former one.
            join_response(step.group, member.clone(), leader)
        };
        step.complete_join(&member, response);
    }

    /// What a loaded group needs: its members must be heard of (`GroupMetadataManager.onLoaded`).
    pub fn on_group_loaded(&mut self, moment: Moment<'_>, group: &StrBytes) -> Outcome {
        let max_size = self.config.max_size;
        let Some(mut step) = self.step(moment, group) else { return Outcome::default() };
        let members: Vec<StrBytes> = step.group.members.keys().cloned().collect();
        for member in &members {
            step.reschedule_heartbeat(member);
        }
        if members.len() > max_size { step.prepare_rebalance() } else { Outcome::default() }
    }

    /// Whoever waits in a JoinGroup or SyncGroup looks for the new coordinator (`onUnloaded`).
    pub fn on_unloaded(&mut self) {
        let classic = self.groups.values_mut().filter_map(Group::classic_mut);
        for group in classic {
            for member in group.members.values_mut() {
                if let Some(ticket) = member.awaiting_join.take() {
                    self.answers.push((ticket, join_error(&member.id, ErrorCode::NotCoordinator)));
                }
                if let Some(ticket) = member.awaiting_sync.take() {
                    self.answers.push((ticket, sync_error(ErrorCode::NotCoordinator)));
                }
            }
        }
    }

    /// The group of a consumer group that has become a classic one (`convertToClassicGroup`): its members must be heard of
    /// and, unless one took another's place, share out anew.
    pub fn on_downgraded(&mut self, moment: Moment<'_>, group: &StrBytes, rebalances: bool) -> Outcome {
        let Some(mut step) = self.step(moment, group) else { return Outcome::default() };
        let members: Vec<StrBytes> = step.group.members.keys().cloned().collect();
        members.iter().for_each(|member| step.reschedule_heartbeat(member));
        if rebalances { step.prepare_rebalance() } else { Outcome::default() }
    }

    fn step<'a>(&'a mut self, moment: Moment<'a>, group: &StrBytes) -> Option<Step<'a>> {
        let group = self.groups.get_mut(group)?.classic_mut()?;
        let (timers, answers, news) = (&mut self.timers, &mut self.answers, &mut self.news);
        Some(Step { moment, group, timers, answers, config: &self.config, news })
    }
}

/// A static member that came back under a new id while the group is stable: its JoinGroup is answered when the record
/// of the new id is committed.
#[derive(Clone, Debug)]
pub(super) struct StaticReplacement {
    group: StrBytes,
    instance: StrBytes,
    /// The member as it was.
    former: Box<Member>,
    /// The new id.
    member: StrBytes,
    ticket: Ticket,
    api_version: i16,
    /// Who led before.
    leader: Option<StrBytes>,
}

fn join_error(member: &StrBytes, error: ErrorCode) -> Answer {
    Answer::Join(JoinGroupResponse::default().with_member_id(member.clone()).with_error_code(error.code()))
}

fn sync_error(error: ErrorCode) -> Answer {
    Answer::Sync(SyncGroupResponse::default().with_error_code(error.code()))
}

/// A JoinGroup response of the current generation.
fn join_response(group: &ClassicGroup, member: StrBytes, leader: Option<StrBytes>) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_member_id(member)
        .with_generation_id(group.generation)
        .with_protocol_name(group.protocol_name.clone())
        .with_protocol_type(group.protocol_type.clone())
        .with_leader(leader.unwrap_or_default())
}

/// One step of one group, with what it can reach.
struct Step<'a> {
    moment: Moment<'a>,
    group: &'a mut ClassicGroup,
    timers: &'a mut Timers,
    answers: &'a mut Vec<(Ticket, Answer)>,
    config: &'a GroupCoordinatorConfig,
    news: &'a mut Vec<GroupNews>,
}

impl Step<'_> {
    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.answers.push((ticket, answer));
    }

    /// Whether there is room (`acceptJoiningMember`). While the group prepares, only those count that wait already: the
    /// last ones to rejoin are those that are too many.
    fn accepts(&self, member: &StrBytes) -> bool {
        let group = &self.group;
        match group.state {
            State::Empty => true,
            State::PreparingRebalance => {
                group.members.get(member).is_some_and(|member| member.awaiting_join.is_some())
                    || group.awaiting_join_count() < self.config.max_size
            }
            State::CompletingRebalance | State::Stable => {
                group.members.contains_key(member) || group.members.len() < self.config.max_size
            }
        }
    }

    fn join_new_member(
        &mut self,
        context: &RequestContext,
        request: &JoinGroupRequest,
        id: StrBytes,
        ticket: Ticket,
    ) -> Outcome {
        if let Some(instance) = &request.group_instance_id {
            return match self.group.static_members.get(instance).cloned() {
                Some(existing) => self.update_static_member(context, request, &existing, &id, ticket),
                None => self.add_member(context, request, id, ticket),
            };
        }
        if context.api_version < JOIN_REQUIRES_MEMBER_ID {
            return self.add_member(context, request, id, ticket);
        }
        // KIP-394: a client that gives up and tries again must not leave a member behind each time.
        self.group.pending_join.insert(id.clone());
        self.schedule_heartbeat(&id, duration_of(request.session_timeout_ms));
        self.answer(ticket, join_error(&id, ErrorCode::MemberIdRequired));
        Outcome::default()
    }

    fn join_existing_member(
        &mut self,
        context: &RequestContext,
        request: &JoinGroupRequest,
        ticket: Ticket,
    ) -> Outcome {
        let id = &request.member_id;
        if self.group.pending_join.contains(id) {
            if request.group_instance_id.is_some() {
                // Kafka throws IllegalStateException: static members are never pending.
                self.answer(ticket, join_error(id, ErrorCode::UnknownServerError));
                return Outcome::default();
            }
            return self.add_member(context, request, id.clone(), ticket);
        }
        if let Err(error) = self.group.validate_member(id, request.group_instance_id.as_ref()) {
            self.answer(ticket, join_error(id, error));
            return Outcome::default();
        }
        let is_unchanged = self.group.members[id].protocols == super::classic::protocols_of(request);
        let is_leader = self.group.is_leader(id);
        let is_repetition = match self.group.state {
            State::PreparingRebalance => false,
            // The response may have been lost.
            State::CompletingRebalance => is_unchanged,
            // The leader rejoins to have partitions assigned anew.
            State::Stable => is_unchanged && !is_leader,
            State::Empty => {
                self.answer(ticket, join_error(id, ErrorCode::UnknownMemberId));
                return Outcome::default();
            }
        };
        if !is_repetition {
            self.group.members.get_mut(id).expect("validated above").update(request, ticket);
            return self.maybe_prepare_rebalance_or_complete_join();
        }
        let is_assigning = is_leader && self.group.state == State::CompletingRebalance;
        let members = if is_assigning { self.group.join_response_members() } else { Vec::new() };
        let response = join_response(self.group, id.clone(), self.group.leader.clone()).with_members(members);
        self.answer(ticket, Answer::Join(response));
        Outcome::default()
    }

    /// `addMemberThenRebalanceOrCompleteJoin`
    fn add_member(
        &mut self,
        context: &RequestContext,
        request: &JoinGroupRequest,
        id: StrBytes,
        ticket: Ticket,
    ) -> Outcome {
        let mut member = Member::new(id.clone(), context, request);
        member.awaiting_join = Some(ticket);
        if self.group.state == State::PreparingRebalance && self.group.previous_state == Some(State::Empty) {
            self.group.is_new_member_added = true;
        }
        self.group.add(member);
        // A new member cannot send heartbeats, and its client may be gone without us knowing.
        self.schedule_heartbeat(&id, NEW_MEMBER_JOIN_TIMEOUT);
        self.maybe_prepare_rebalance_or_complete_join()
    }

    /// A static member comes back without its id (`updateStaticMemberThenRebalanceOrCompleteJoin`).
    fn update_static_member(
        &mut self,
        context: &RequestContext,
        request: &JoinGroupRequest,
        old: &StrBytes,
        new: &StrBytes,
        ticket: Ticket,
    ) -> Outcome {
        let instance = request.group_instance_id.as_ref().expect("the caller found it by its instance");
        let leader = self.group.leader.clone();
        let former = self.group.replace_static_member(instance, old, new);
        // Whoever waits under the old id is fenced.
        if let Some(waiting) = former.awaiting_join {
            self.answer(waiting, join_error(old, ErrorCode::FencedInstanceId));
        }
        if let Some(waiting) = former.awaiting_sync {
            self.answer(waiting, sync_error(ErrorCode::FencedInstanceId));
        }
        self.reschedule_heartbeat(new);
        self.group.members.get_mut(new).expect("replaced just now").update(request, ticket);
        match self.group.state {
            State::Stable if self.group.protocol_name.as_ref() != Some(&self.group.select_protocol()) => {
                self.maybe_prepare_rebalance_or_complete_join()
            }
            // It gets what it had: no rebalance.
            State::Stable => {
                let replaced = StaticReplacement {
                    group: self.group.id.clone(),
                    instance: instance.clone(),
                    former: Box::new(former),
                    member: new.clone(),
                    ticket,
                    api_version: context.api_version,
                    leader,
                };
                let record = self.group.record(|member| member.assignment.clone());
                Outcome { records: vec![record], then: Then::StaticMemberStored(replaced), ..Outcome::default() }
            }
            State::CompletingRebalance if self.config.defects.has(Defect::StaticRejoinNoRebalance) => {
                self.group.pending_sync.remove(old);
                self.group.pending_sync.insert(new.clone());
                let members = if self.group.is_leader(new) { self.group.join_response_members() } else { Vec::new() };
                let response = join_response(self.group, new.clone(), self.group.leader.clone()).with_members(members);
                self.complete_join(new, response);
                Outcome::default()
            }
            // The leader may have its old id and assign to that (KAFKA-9801).
            State::CompletingRebalance => self.prepare_rebalance(),
            State::PreparingRebalance => self.maybe_complete_join_phase(),
            State::Empty => unreachable!("an empty group has no static members"),
        }
    }

    fn leave(&mut self, member: &MemberIdentity) -> Result<(), ErrorCode> {
        let id = if member.member_id.is_empty() {
            // An administrator removes a static member by its instance id (KIP-345).
            let instance = member.group_instance_id.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
            self.group.static_members.get(instance).cloned().ok_or(ErrorCode::UnknownMemberId)?
        } else if self.group.pending_join.contains(&member.member_id) {
            member.member_id.clone()
        } else {
            self.group.validate_member(&member.member_id, member.group_instance_id.as_ref())?;
            member.member_id.clone()
        };
        self.cancel_heartbeat(&id);
        self.fail_join(&id, ErrorCode::UnknownMemberId);
        self.group.remove(&id);
        Ok(())
    }

    fn maybe_prepare_rebalance_or_complete_join(&mut self) -> Outcome {
        if self.group.can_rebalance() { self.prepare_rebalance() } else { self.maybe_complete_join_phase() }
    }

    fn prepare_rebalance(&mut self) -> Outcome {
        if self.group.state == State::CompletingRebalance {
            self.reset_and_propagate_assignment(ErrorCode::RebalanceInProgress);
        }
        self.cancel_sync();
        let is_initial = self.group.state == State::Empty;
        self.group.transition_to(State::PreparingRebalance, self.moment.wall_ms);
        if !is_initial {
            return self.maybe_complete_join_else_schedule();
        }
        let delay = self.config.initial_rebalance_delay;
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let remaining_ms = self.group.rebalance_timeout_ms().saturating_sub(delay_ms);
        self.group.initial_delay = Some(InitialDelay { delay_ms, remaining_ms });
        self.timers.set(self.join_key(), self.moment.now + delay);
        Outcome::default()
    }

    /// The initial rebalance waits longer as long as members come (`tryCompleteInitialRebalanceElseSchedule`).
    fn on_join_timer(&mut self) -> Outcome {
        let Some(InitialDelay { delay_ms, remaining_ms }) = self.group.initial_delay.take() else {
            return self.complete_join_phase();
        };
        if !self.group.is_new_member_added || remaining_ms == 0 {
            return self.complete_join_phase();
        }
        self.group.is_new_member_added = false;
        let initial_ms = u64::try_from(self.config.initial_rebalance_delay.as_millis()).unwrap_or(u64::MAX);
        let next_ms = initial_ms.min(remaining_ms);
        let remaining_ms = remaining_ms.saturating_sub(delay_ms);
        self.group.initial_delay = Some(InitialDelay { delay_ms: next_ms, remaining_ms });
        self.timers.set(self.join_key(), self.moment.now + Duration::from_millis(next_ms));
        Outcome::default()
    }

    fn maybe_complete_join_else_schedule(&mut self) -> Outcome {
        if self.group.has_all_members_joined() {
            return self.complete_join_phase();
        }
        let timeout = Duration::from_millis(self.group.rebalance_timeout_ms());
        self.timers.set(self.join_key(), self.moment.now + timeout);
        Outcome::default()
    }

    fn maybe_complete_join_phase(&mut self) -> Outcome {
        let is_ready = self.group.state == State::PreparingRebalance
            && self.group.previous_state != Some(State::Empty)
            && self.group.has_all_members_joined();
        if is_ready { self.complete_join_phase() } else { Outcome::default() }
    }

    /// `completeClassicGroupJoin`
    fn complete_join_phase(&mut self) -> Outcome {
        self.timers.cancel(&self.join_key());
        self.group.initial_delay = None;
        let is_absent = |member: &&Member| member.awaiting_join.is_none() && member.instance_id.is_none();
        let absent: Vec<StrBytes> = self.group.members.values().filter(is_absent).map(|m| m.id.clone()).collect();
        for member in &absent {
            self.group.remove(member);
            self.cancel_heartbeat(member);
        }
        if !self.group.maybe_elect_new_joined_leader() && !self.group.members.is_empty() {
            // Only static members are left, and none of them is back: their sessions decide.
            let timeout = Duration::from_millis(self.group.rebalance_timeout_ms());
            self.timers.set(self.join_key(), self.moment.now + timeout);
            return Outcome::default();
        }
        self.group.init_next_generation(self.moment.wall_ms);
        if self.group.state == State::Empty {
            let record = self.group.record(|_| Bytes::new());
            return Outcome { records: vec![record], ..Outcome::default() };
        }
        let members: Vec<StrBytes> = self.group.members.keys().cloned().collect();
        for id in members {
            let members = if self.group.is_leader(&id) { self.group.join_response_members() } else { Vec::new() };
            let response = join_response(self.group, id.clone(), self.group.leader.clone()).with_members(members);
            self.complete_join(&id, response);
            self.reschedule_heartbeat(&id);
            self.group.members.get_mut(&id).expect("nobody left meanwhile").is_new = false;
            self.group.pending_sync.insert(id);
        }
        let timeout = Duration::from_millis(self.group.rebalance_timeout_ms());
        self.timers.set(self.sync_key(), self.moment.now + timeout);
        Outcome::default()
    }

    fn sync_while_completing(&mut self, request: &SyncGroupRequest, ticket: Ticket) -> Outcome {
        let id = &request.member_id;
        let earlier = self.group.members.get_mut(id).expect("validated").awaiting_sync.replace(ticket);
        if earlier.is_none() && !self.group.pending_sync.contains(id) {
            self.news.push(GroupNews::UnawaitedSync(self.group.id.clone()));
        }
        self.remove_pending_sync(id);
        if !self.group.is_leader(id) {
            return Outcome::default();
        }
        let sent: BTreeMap<&StrBytes, &Bytes> =
            request.assignments.iter().map(|a| (&a.member_id, &a.assignment)).collect();
        // Whom the leader forgot gets nothing.
        let share = |id: &StrBytes| sent.get(id).map(|&share| share.clone()).unwrap_or_default();
        let assignments: Assignments = self.group.members.keys().map(|id| (id.clone(), share(id))).collect();
        let record = self.group.record(|member| share(&member.id));
        let (group, generation) = (self.group.id.clone(), self.group.generation);
        Outcome {
            records: vec![record],
            then: Then::AssignmentStored { group, generation, assignments },
            ..Outcome::default()
        }
    }

    fn validate_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        self.group.validate_member(&request.member_id, request.group_instance_id.as_ref())?;
        if request.generation_id != self.group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs =
            |asked: &Option<StrBytes>, ours: &Option<StrBytes>| asked.is_some() && ours.is_some() && asked != ours;
        if differs(&request.protocol_type, &self.group.protocol_type)
            || differs(&request.protocol_name, &self.group.protocol_name)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn sync_response(&self, member: &Member) -> Answer {
        Answer::Sync(
            SyncGroupResponse::default()
                .with_protocol_type(self.group.protocol_type.clone())
                .with_protocol_name(self.group.protocol_name.clone())
                .with_assignment(member.assignment.clone()),
        )
    }

    fn reset_and_propagate_assignment(&mut self, error: ErrorCode) {
        for member in self.group.members.values_mut() {
            if !member.assignment.is_empty() {
                let withdrawn = std::mem::take(&mut member.assignment);
                member.withdrawn.push(withdrawn);
            }
        }
        self.propagate_assignment(Some(error));
    }

    /// Answers every SyncGroup that waits. Sessions begin anew: they did not count while the answer was awaited.
    fn propagate_assignment(&mut self, error: Option<ErrorCode>) {
        let members: Vec<StrBytes> = self.group.members.keys().cloned().collect();
        for id in members {
            let Some(ticket) = self.group.members.get_mut(&id).and_then(|member| member.awaiting_sync.take()) else {
                continue;
            };
            let answer = match error {
                Some(error) => sync_error(error),
                None => self.sync_response(&self.group.members[&id]),
            };
            self.answer(ticket, answer);
            self.reschedule_heartbeat(&id);
        }
    }

    fn expire_heartbeat(&mut self, member: &StrBytes) -> Outcome {
        if self.group.pending_join.contains(member) {
            self.group.remove(member);
        } else if self.group.members.get(member).is_some_and(|member| !member.has_satisfied_heartbeat()) {
            self.fail_join(member, ErrorCode::UnknownMemberId);
            self.group.remove(member);
            if matches!(self.group.state, State::Stable | State::CompletingRebalance) {
                return self.maybe_prepare_rebalance_or_complete_join();
            }
        } else {
            return Outcome::default();
        }
        if self.group.state == State::PreparingRebalance && self.group.has_all_members_joined() {
            return self.complete_join_phase();
        }
        Outcome::default()
    }

    /// Members that joined and do not sync hold up all others: they are out.
    fn expire_pending_sync(&mut self) -> Outcome {
        let is_awaited = matches!(self.group.state, State::CompletingRebalance | State::Stable);
        if !is_awaited || self.group.pending_sync.is_empty() {
            return Outcome::default();
        }
        for member in std::mem::take(&mut self.group.pending_sync) {
            self.group.remove(&member);
            self.cancel_heartbeat(&member);
        }
        self.prepare_rebalance()
    }

    fn remove_pending_sync(&mut self, member: &StrBytes) {
        self.group.pending_sync.remove(member);
        if self.group.pending_sync.is_empty() {
            self.timers.cancel(&self.sync_key());
        }
    }

    fn cancel_sync(&mut self) {
        self.group.pending_sync.clear();
        self.timers.cancel(&self.sync_key());
    }

    fn complete_join(&mut self, member: &StrBytes, response: JoinGroupResponse) {
        let ticket = self.group.members.get_mut(member).and_then(|member| member.awaiting_join.take());
        if let Some(ticket) = ticket {
            self.answer(ticket, Answer::Join(response));
        }
    }

    /// A member that goes while its JoinGroup waits: it may try again as a new one.
    fn fail_join(&mut self, member: &StrBytes, error: ErrorCode) {
        let Answer::Join(response) = join_error(&StrBytes::default(), error) else { unreachable!("made as such") };
        self.complete_join(member, response);
    }

    fn reschedule_heartbeat(&mut self, member: &StrBytes) {
        if let Some(timeout) = self.group.members.get(member).map(|member| duration_of(member.session_timeout_ms)) {
            self.schedule_heartbeat(member, timeout);
        }
    }

    fn schedule_heartbeat(&mut self, member: &StrBytes, timeout: Duration) {
        self.timers.set(self.heartbeat_key(member), self.moment.now + timeout);
    }

    fn cancel_heartbeat(&mut self, member: &StrBytes) {
        self.timers.cancel(&self.heartbeat_key(member));
    }

    fn heartbeat_key(&self, member: &StrBytes) -> TimerKey {
        TimerKey::Heartbeat { group: self.group.id.clone(), member: member.clone() }
    }

    fn join_key(&self) -> TimerKey {
        TimerKey::Join { group: self.group.id.clone() }
    }

    fn sync_key(&self) -> TimerKey {
        TimerKey::Sync { group: self.group.id.clone() }
    }
}
