//! The move between the protocols (KIP-848, `group.consumer.migration.policy`): a classic group becomes a consumer group
//! when the first member of the new protocol joins, and is a classic one again when the last of them has left. In
//! between, members of both protocols are in one consumer group: a classic one is brought to its target by its JoinGroup
//! requests, with the member epoch for a generation.

use bytes::Bytes;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;
use std::time::Duration;

use super::advance::{Found, Update, advance};
use super::classic::{self, CONSUMER_PROTOCOL_TYPE, ClassicGroup, State};
use super::consumer::{ConsumerGroup, Member};
use super::embedded::{decode_assignment, decode_subscription, encode_assignment, owned_partitions, version_of};
use super::heartbeat::{not_a_consumer_group, records_without, refuse_if_full, static_member, unknown_member};
use super::membership::JOIN_REQUIRES_MEMBER_ID;
use super::record::{ClassicMemberMetadata, CurrentAssignment, MemberState, Partitions, Record};
use super::request::Refusal;
use super::shard::{Becomes, Group, Moment, Outcome, Shard, Then};
use super::timers::TimerKey;
use super::{Answer, GroupNews, RequestContext, Ticket};
use crate::protocol::{ErrorCode, duration_of};

impl Shard {
    /// The consumer group that a heartbeat needs and that is not there yet: a new one, or one made of a classic group
    /// (`getOrMaybeCreateConsumerGroup`). `None`: it is there.
    pub(super) fn make_consumer_group(
        &self,
        moment: Moment<'_>,
        id: &StrBytes,
        joins: bool,
        records: &mut Vec<Record>,
    ) -> Result<Option<ConsumerGroup>, Refusal> {
        match self.groups.get(id) {
            Some(Group::Consumer(_)) => Ok(None),
            None if joins => Ok(Some(ConsumerGroup::new(id.clone()))),
            Some(Group::Classic(group)) if joins && group.state == State::Empty => {
                records.push(Record::GroupMetadata { group: id.clone(), value: None });
                Ok(Some(ConsumerGroup::new(id.clone())))
            }
            Some(Group::Classic(group)) if joins && self.may_upgrade(group) => {
                let upgraded = upgraded(group, moment).ok_or_else(|| not_a_consumer_group(id))?;
                records.push(Record::GroupMetadata { group: id.clone(), value: None });
                records.extend(upgraded.records());
                Ok(Some(upgraded))
            }
            Some(Group::Classic(_)) | None => Err(not_a_consumer_group(id)),
        }
    }

    /// `validateOnlineUpgrade`
    fn may_upgrade(&self, group: &ClassicGroup) -> bool {
        self.config.consumer_migration_policy.upgrades()
            && group.uses_consumer_protocol()
            && group.members.len() <= self.config.consumer_max_size
    }

    /// A consumer group is about to take the place of a classic one: whoever waits there joins again, and is waited for.
    /// Assignments that were withdrawn count for nothing, although who had one may consume until it has joined again.
    pub(super) fn abandon_classic_group(&mut self, moment: Moment<'_>, id: &StrBytes) {
        let Some(Group::Classic(group)) = self.groups.get_mut(id) else { return };
        let mut sessions = Vec::new();
        for member in group.members.values_mut() {
            if let Some(ticket) = member.awaiting_join.take() {
                let answer = join_refused(&member.id, ErrorCode::RebalanceInProgress);
                self.answers.push((ticket, answer));
            }
            if let Some(ticket) = member.awaiting_sync.take() {
                let response = SyncGroupResponse::default().with_error_code(ErrorCode::RebalanceInProgress.code());
                self.answers.push((ticket, Answer::Sync(response)));
            }
            sessions.push((member.id.clone(), duration_of(member.session_timeout_ms)));
            for (topic, partition) in withdrawn_from(member, moment) {
                self.news.push(GroupNews::Unclaimed { group: id.clone(), topic, partition });
            }
        }
        for (member, timeout) in sessions {
            self.schedule_session(moment, id, &member, timeout);
        }
    }

    /// What happens instead of taking `member` out: the last member of the new protocol goes, and the group is a classic
    /// one again (`validateOnlineDowngradeWithFencedMember`).
    pub(super) fn maybe_downgrade_without(
        &self,
        moment: Moment<'_>,
        group: &ConsumerGroup,
        member: &StrBytes,
    ) -> Option<Outcome> {
        let stay = group.members.len() - 1;
        if !is_last_of_new_protocol(group, member)
            || stay == 0
            || stay > self.config.max_size
            || !self.config.consumer_migration_policy.downgrades()
        {
            return None;
        }
        let members = group.members.values().filter(|other| other.id != *member);
        let classic = downgraded(group, members.map(|member| (member, &member.id)), moment)?;
        let mut records = group.tombstones();
        records.push(classic.record(|member| member.assignment.clone()));
        let becomes = Some(Becomes { group: Box::new(classic), rebalances: true });
        Some(Outcome { records, becomes, ..Outcome::default() })
    }

    /// `classicGroupJoinToConsumerGroup`
    pub(super) fn join_consumer_group(
        &mut self,
        moment: Moment<'_>,
        context: &RequestContext,
        request: &JoinGroupRequest,
        new_member_id: impl FnOnce(&StrBytes) -> StrBytes,
        ticket: Ticket,
    ) -> Outcome {
        let is_unknown = request.member_id.is_empty();
        let id = if is_unknown { new_member_id(&StrBytes::default()) } else { request.member_id.clone() };
        match self.try_join_consumer_group(moment, context, request, (id, is_unknown), ticket) {
            Ok(outcome) => outcome,
            Err(refusal) => {
                self.answers.push((ticket, join_refused(&request.member_id, refusal.error)));
                Outcome::default()
            }
        }
    }

    fn try_join_consumer_group(
        &mut self,
        moment: Moment<'_>,
        context: &RequestContext,
        request: &JoinGroupRequest,
        (id, is_unknown): (StrBytes, bool),
        ticket: Ticket,
    ) -> Result<Outcome, Refusal> {
        let group_id = &request.group_id.0;
        let Some(Group::Consumer(group)) = self.groups.get(group_id) else { unreachable!("the caller looked") };
        refuse_if_full(group, &id, self.config.consumer_max_size)?;
        let protocols = classic::protocols_of(request);
        if !supports_protocols(group, &request.protocol_type, &protocols) {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        let instance = request.group_instance_id.as_ref();
        if instance.is_none() && is_unknown && context.api_version >= JOIN_REQUIRES_MEMBER_ID {
            self.answers.push((ticket, join_refused(&id, ErrorCode::MemberIdRequired)));
            return Ok(Outcome::default());
        }
        let found = match instance.map(|instance| (instance, group.static_member(instance))) {
            None | Some((_, None)) if instance.is_none() || is_unknown => {
                Found::existing(group.members.get(&id).cloned().unwrap_or_else(|| Member::new(id)))
            }
            Some((_, Some(former))) if is_unknown => Found::replacing(group, former, id),
            Some((instance, _)) => Found::existing(static_member(group, instance, &id)?.clone()),
            None => unreachable!("without an instance id the first arm holds"),
        };
        let (name, metadata) = protocols.first().expect("supported ones are at least one").clone();
        let subscription = decode_subscription(metadata).ok_or(ErrorCode::InconsistentGroupProtocol)?;
        let owned = owned_partitions(&subscription, moment.topics);
        let mut member = found.member.clone();
        member.metadata.instance_id = instance.cloned().or(member.metadata.instance_id);
        member.metadata.rack_id = subscription.rack_id.clone().or(member.metadata.rack_id);
        if request.rebalance_timeout_ms != -1 {
            member.metadata.rebalance_timeout_ms = request.rebalance_timeout_ms;
        }
        member.metadata.subscribed_topics = subscription.topics.into_iter().collect();
        member.metadata.client_id.clone_from(&context.client_id);
        member.metadata.client_host.clone_from(&context.client_host);
        let session_timeout_ms = request.session_timeout_ms;
        member.metadata.classic = Some(ClassicMemberMetadata { session_timeout_ms, protocols });

        let is_new = !group.members.contains_key(&found.member.id);
        let mut advance = advance(moment, &self.config, group, found, Update { member, owned: Some(&owned) })?;
        let member = advance.member.clone();
        // One that was taken out comes back under its id as if it were new, and is not told: what it has it has not let go
        // of (`getOrMaybeSubscribeDynamicConsumerGroupMember`).
        if is_new {
            advance.unclaimed.extend(claimed_without(group, &owned, &member));
        }
        let response = JoinGroupResponse::default()
            .with_member_id(member.id.clone())
            .with_generation_id(member.current.member_epoch)
            .with_protocol_type(Some(StrBytes::from_static_str(CONSUMER_PROTOCOL_TYPE)))
            .with_protocol_name(Some(name));
        let then = Then::Answer(ticket, Answer::Join(response));
        let records = std::mem::take(&mut advance.records);
        if let Some(outcome) = self.maybe_downgrade_with(moment, group, &member, &records) {
            return Ok(Outcome { then, ..outcome });
        }
        self.follow(moment, group_id, &advance);
        self.timers.cancel(&TimerKey::ClassicJoin { group: group_id.clone(), member: member.id.clone() });
        self.schedule_session(moment, group_id, &member.id, duration_of(session_timeout_ms));
        let syncing = TimerKey::ClassicSync { group: group_id.clone(), member: member.id.clone() };
        self.timers.set(syncing, moment.now + duration_of(request.rebalance_timeout_ms));
        Ok(Outcome { records, replay: true, then, ..Outcome::default() })
    }

    /// The last member of the new protocol is static, and back with the old one
    /// (`validateOnlineDowngradeWithReplacedMemberId`).
    fn maybe_downgrade_with(
        &self,
        moment: Moment<'_>,
        group: &ConsumerGroup,
        joining: &Member,
        records: &[Record],
    ) -> Option<Outcome> {
        let leaving = group.static_members.get(joining.metadata.instance_id.as_ref()?)?;
        if !is_last_of_new_protocol(group, leaving)
            || group.members.len() > self.config.max_size
            || !self.config.consumer_migration_policy.downgrades()
        {
            return None;
        }
        let others = group.members.values().filter(|member| member.id != *leaving).map(|member| (member, &member.id));
        let classic = downgraded(group, others.chain([(joining, leaving)]), moment)?;
        // What was written about the joining member is to go, and with it the group.
        let mut replayed = ConsumerGroup::new(group.id.clone());
        for id in group.members.keys().filter(|id| *id != leaving).chain([&joining.id]) {
            replayed.members.insert(id.clone(), Member::new(id.clone()));
        }
        let mut records = Vec::from(records);
        records.extend(replayed.tombstones());
        records.push(classic.record(|member| member.assignment.clone()));
        let becomes = Some(Becomes { group: Box::new(classic), rebalances: false });
        Some(Outcome { records, becomes, ..Outcome::default() })
    }

    /// `classicGroupSyncToConsumerGroup`
    pub(super) fn sync_consumer_group(
        &mut self,
        moment: Moment<'_>,
        request: &SyncGroupRequest,
        ticket: Ticket,
    ) -> Result<Outcome, ErrorCode> {
        let group_id = &request.group_id.0;
        let instance = request.group_instance_id.as_ref();
        let (group, member, classic) =
            self.classic_member(group_id, (&request.member_id, instance), request.generation_id)?;
        let (name, metadata) = classic.protocols.first().ok_or(ErrorCode::InconsistentGroupProtocol)?;
        if request.protocol_type.as_ref().is_some_and(|kind| kind.as_str() != CONSUMER_PROTOCOL_TYPE)
            || request.protocol_name.as_ref().is_some_and(|asked| asked != name)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        let (id, session) = (member.id.clone(), duration_of(classic.session_timeout_ms));
        // One that has yet to give something up finishes that first.
        let is_behind = group.epoch > member.current.member_epoch;
        if is_behind && member.current.state != MemberState::UnrevokedPartitions {
            let timeout = duration_of(member.metadata.rebalance_timeout_ms);
            self.expect_join(moment, group_id, &id, timeout);
            return Err(ErrorCode::RebalanceInProgress);
        }
        let assignment = encode_assignment(&member.current.assigned, version_of(metadata.clone()), moment.topics);
        self.timers.cancel(&TimerKey::ClassicSync { group: group_id.clone(), member: id.clone() });
        self.schedule_session(moment, group_id, &id, session);
        let response = SyncGroupResponse::default()
            .with_protocol_type(request.protocol_type.clone())
            .with_protocol_name(request.protocol_name.clone())
            .with_assignment(assignment);
        Ok(Outcome::answer(ticket, Answer::Sync(response)))
    }

    /// `classicGroupHeartbeatToConsumerGroup`
    pub(super) fn heartbeat_consumer_group(
        &mut self,
        moment: Moment<'_>,
        request: &HeartbeatRequest,
        ticket: Ticket,
    ) -> Result<Outcome, ErrorCode> {
        let group_id = &request.group_id.0;
        let instance = request.group_instance_id.as_ref();
        let (group, member, classic) =
            self.classic_member(group_id, (&request.member_id, instance), request.generation_id)?;
        let must_rejoin = member.current.member_epoch < group.epoch
            || match member.current.state {
                MemberState::UnrevokedPartitions => true,
                MemberState::UnreleasedPartitions => !waits_for_others(group, member),
                MemberState::Stable | MemberState::Unknown => false,
            };
        let (id, session) = (member.id.clone(), duration_of(classic.session_timeout_ms));
        let timeout = duration_of(member.metadata.rebalance_timeout_ms);
        self.schedule_session(moment, group_id, &id, session);
        let mut response = HeartbeatResponse::default();
        if must_rejoin {
            self.expect_join(moment, group_id, &id, timeout);
            response.error_code = ErrorCode::RebalanceInProgress.code();
        }
        Ok(Outcome::answer(ticket, Answer::Heartbeat(response)))
    }

    /// `classicGroupLeaveToConsumerGroup`
    pub(super) fn leave_consumer_group_as_classic(
        &mut self,
        moment: Moment<'_>,
        request: &LeaveGroupRequest,
        ticket: Ticket,
    ) -> Outcome {
        let group_id = &request.group_id.0;
        let mut left = Vec::new();
        let mut members = Vec::with_capacity(request.members.len());
        for identity in &request.members {
            let leaving = self.leaving_member(group_id, identity);
            let (id, error_code) = match leaving {
                Ok(id) => (id, 0),
                Err(error) => (identity.member_id.clone(), error.code()),
            };
            if error_code == 0 {
                left.push(id.clone());
            }
            members.push(
                MemberResponse::default()
                    .with_member_id(id)
                    .with_group_instance_id(identity.group_instance_id.clone())
                    .with_error_code(error_code),
            );
        }
        let mut records = Vec::new();
        if let Some(Group::Consumer(group)) = self.groups.get(group_id).filter(|_| !left.is_empty()) {
            records.extend(left.iter().flat_map(|member| group.member_tombstones(member)));
            records.extend(records_without(group, &left.iter().collect::<Vec<_>>(), moment));
        }
        left.iter().for_each(|member| self.cancel_member_timers(group_id, member));
        let answer = Answer::Leave(LeaveGroupResponse::default().with_members(members));
        Outcome::write(records, ticket, answer)
    }

    fn leaving_member(&self, group: &StrBytes, identity: &MemberIdentity) -> Result<StrBytes, ErrorCode> {
        let Some(Group::Consumer(group)) = self.groups.get(group) else { return Err(ErrorCode::UnknownMemberId) };
        let member = match &identity.group_instance_id {
            None => group.members.get(&identity.member_id),
            // An administrator removes a static member by its instance id alone.
            Some(instance) if identity.member_id.is_empty() => group.static_member(instance),
            Some(instance) => {
                Some(static_member(group, instance, &identity.member_id).map_err(|refusal| refusal.error)?)
            }
        };
        let member = member.filter(|member| member.uses_classic_protocol()).ok_or(ErrorCode::UnknownMemberId)?;
        Ok(member.id.clone())
    }

    /// A member of a consumer group that speaks the classic protocol, and knows the group's generation as its own epoch
    /// (`validateConsumerGroupMember`, `validateMemberEpoch`).
    fn classic_member(
        &self,
        group: &StrBytes,
        (id, instance): (&StrBytes, Option<&StrBytes>),
        generation: i32,
    ) -> Result<(&ConsumerGroup, &Member, &ClassicMemberMetadata), ErrorCode> {
        let Some(Group::Consumer(group)) = self.groups.get(group) else { return Err(ErrorCode::UnknownMemberId) };
        let member = match instance {
            None => group.members.get(id).ok_or_else(|| unknown_member(id)),
            Some(instance) => static_member(group, instance, id),
        };
        let member = member.map_err(|refusal| refusal.error)?;
        let classic = member.metadata.classic.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
        if member.current.member_epoch != generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        Ok((group, member, classic))
    }

    /// A classic member was told to rejoin, and has its rebalance timeout for that, counted from the first time.
    fn expect_join(&mut self, moment: Moment<'_>, group: &StrBytes, member: &StrBytes, timeout: Duration) {
        let key = TimerKey::ClassicJoin { group: group.clone(), member: member.clone() };
        self.timers.set_if_absent(key, moment.now + timeout);
    }
}

/// What a member has that it is not assigned, by the names of the topics.
fn claimed_without(group: &ConsumerGroup, owned: &Partitions, member: &Member) -> Vec<(StrBytes, i32)> {
    let mut claimed = Vec::new();
    for (name, topic) in &group.topics {
        let of_topic = owned.get(&topic.id).into_iter().flatten();
        let kept = |index: &&i32| !member.current.holds(&topic.id, **index);
        claimed.extend(of_topic.filter(kept).map(|index| (name.clone(), *index)));
    }
    claimed
}

fn join_refused(member: &StrBytes, error: ErrorCode) -> Answer {
    Answer::Join(JoinGroupResponse::default().with_member_id(member.clone()).with_error_code(error.code()))
}

/// `allMembersUseClassicProtocolExcept`
fn is_last_of_new_protocol(group: &ConsumerGroup, member: &StrBytes) -> bool {
    group.members.values().all(|other| other.uses_classic_protocol() != (other.id == *member))
}

/// `ConsumerGroup.supportsClassicProtocols`: one of them is known to all classic members.
fn supports_protocols(group: &ConsumerGroup, kind: &StrBytes, protocols: &classic::Protocols) -> bool {
    let classic = || group.members.values().filter_map(|member| member.metadata.classic.as_ref());
    let is_known = |name: &StrBytes| classic().all(|member| member.protocols.iter().any(|(known, _)| known == name));
    kind.as_str() == CONSUMER_PROTOCOL_TYPE && protocols.iter().any(|(name, _)| is_known(name))
}

/// Whether something that the member is to get is not free yet (`waitingOnUnreleasedPartition`).
fn waits_for_others(group: &ConsumerGroup, member: &Member) -> bool {
    let Some(target) = group.target.get(&member.id) else { return false };
    let owned = group.owned_partitions();
    target.iter().any(|(topic, of_topic)| {
        of_topic.iter().any(|index| !member.current.is_assigned(topic, *index) && owned.contains(&(*topic, *index)))
    })
}

/// `ConsumerGroup.fromClassicGroup`; `None` if the embedded protocol is malformed.
fn upgraded(classic: &ClassicGroup, moment: Moment<'_>) -> Option<ConsumerGroup> {
    let mut group = ConsumerGroup::new(classic.id.clone());
    group.epoch = classic.generation;
    group.assignment_epoch = classic.generation;
    // A group that is in its first rebalance has no protocol yet, and may have lost its members already.
    let protocol = match &classic.protocol_name {
        None if classic.members.is_empty() => None,
        None => Some(classic.select_protocol()),
        Some(known) => Some(known.clone()),
    };
    for member in classic.members.values() {
        let assigned = decode_assignment(member.assignment.clone(), moment.topics)?;
        let subscription = decode_subscription(member.metadata_of(protocol.as_ref()))?;
        let current = CurrentAssignment {
            member_epoch: classic.generation,
            previous_member_epoch: classic.generation,
            state: MemberState::Stable,
            assigned: assigned.clone(),
            pending_revocation: Partitions::new(),
        };
        let mut upgraded = Member { current, ..Member::new(member.id.clone()) };
        let metadata = &mut upgraded.metadata;
        metadata.instance_id.clone_from(&member.instance_id);
        metadata.rack_id = subscription.rack_id;
        metadata.rebalance_timeout_ms = member.rebalance_timeout_ms;
        metadata.client_id.clone_from(&member.client_id);
        metadata.client_host.clone_from(&member.client_host);
        metadata.subscribed_topics = subscription.topics.into_iter().collect();
        metadata.classic = Some(ClassicMemberMetadata {
            session_timeout_ms: member.session_timeout_ms,
            protocols: member.protocols.clone(),
        });
        if let Some(instance) = &member.instance_id {
            group.static_members.insert(instance.clone(), member.id.clone());
        }
        group.target.insert(member.id.clone(), assigned);
        group.members.insert(member.id.clone(), upgraded);
    }
    Some(group)
}

/// What a member of a classic group may consume without being assigned it any more, by the names of the topics.
fn withdrawn_from(member: &classic::Member, moment: Moment<'_>) -> Vec<(StrBytes, i32)> {
    let decode = |bytes: &Bytes| decode_assignment(bytes.clone(), moment.topics).unwrap_or_default();
    let assigned = decode(&member.assignment);
    let mut withdrawn = Vec::new();
    for (topic, partitions) in member.withdrawn.iter().flat_map(decode) {
        let Some(name) = moment.topics.name(&topic) else { continue };
        let gone = partitions.into_iter().filter(|index| !assigned.get(&topic).is_some_and(|of| of.contains(index)));
        withdrawn.extend(gone.map(|index| (name.clone(), index)));
    }
    withdrawn
}

/// `ClassicGroup.fromConsumerGroup`: a group of these members, each with the id of whose target assignment it takes over.
/// `None` if one of them does not speak the classic protocol.
fn downgraded<'a>(
    group: &ConsumerGroup,
    members: impl Iterator<Item = (&'a Member, &'a StrBytes)>,
    moment: Moment<'_>,
) -> Option<ClassicGroup> {
    let nothing = Partitions::new();
    let mut downgraded = Vec::new();
    let mut targets = Vec::new();
    for (member, target) in members {
        let classic = member.metadata.classic.as_ref()?;
        downgraded.push(classic::Member {
            id: member.id.clone(),
            instance_id: member.metadata.instance_id.clone(),
            client_id: member.metadata.client_id.clone(),
            client_host: member.metadata.client_host.clone(),
            rebalance_timeout_ms: member.metadata.rebalance_timeout_ms,
            session_timeout_ms: classic.session_timeout_ms,
            protocol_type: StrBytes::from_static_str(CONSUMER_PROTOCOL_TYPE),
            protocols: classic.protocols.clone(),
            assignment: Default::default(),
            withdrawn: Vec::new(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
        });
        targets.push((member, group.target.get(target).unwrap_or(&nothing)));
    }
    let mut classic = ClassicGroup::stable(group.id.clone(), group.epoch, downgraded, moment.wall_ms);
    let protocol = classic.protocol_name.clone();
    for (Member { id, current, .. }, target) in targets {
        let member = classic.members.get_mut(id).expect("added just now");
        let version = version_of(member.metadata_of(protocol.as_ref()));
        let encode = |partitions| encode_assignment(partitions, version, moment.topics);
        member.assignment = encode(target);
        member.withdrawn = vec![encode(&current.assigned), encode(&current.pending_revocation)];
    }
    Some(classic)
}
