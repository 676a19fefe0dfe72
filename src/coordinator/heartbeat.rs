//! ConsumerGroupHeartbeat and what it sets off (`GroupMetadataManager`, its consumer half): members join, change their
//! subscription, confirm what they gave up, leave, and are fenced when they are silent or keep what was taken from them.

use std::collections::BTreeSet;
use std::time::Duration;

use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions as OwnedPartitions;
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use kafka_protocol::protocol::StrBytes;

use super::advance::{Advance, Found, Update, advance};
use super::consumer::{ConsumerGroup, LEAVE_STATIC_EPOCH, Member};
use super::record::{ConsumerRecord, CurrentAssignment, MemberState, Partitions, Record};
use super::request::Refusal;
use super::shard::{Group, Moment, Outcome, Shard, Then};
use super::timers::TimerKey;
use super::{Answer, GroupNews, RequestContext, Ticket};
use crate::config::ServerAssignor;
use crate::defect::{Defect, Defects};
use crate::protocol::{ErrorCode, duration_of, millis_of};

/// From this version on a member makes its id itself (KIP-1082).
const MEMBER_MAKES_ITS_ID: i16 = 1;

impl Shard {
    /// `consumerGroupHeartbeat`
    pub fn consumer_group_heartbeat(
        &mut self,
        moment: Moment<'_>,
        context: &RequestContext,
        request: &ConsumerGroupHeartbeatRequest,
        new_member_id: impl FnOnce() -> StrBytes,
        ticket: Ticket,
    ) -> Result<Outcome, Refusal> {
        validate(request, context.api_version, &self.config.consumer_assignors.assignors())?;
        if request.member_epoch < 0 {
            return self.leave_consumer_group(moment, request, ticket);
        }
        let group_id = &request.group_id.0;
        let joins = request.member_epoch == 0;
        let mut records = Vec::new();
        let created = self.make_consumer_group(moment, group_id, joins, &mut records)?;
        let group = match (&created, self.groups.get(group_id)) {
            (Some(created), _) => created,
            (None, Some(Group::Consumer(group))) => group,
            (None, Some(Group::Classic(_)) | None) => unreachable!("refused or made above"),
        };
        let member_id = match request.member_id.is_empty() {
            true => new_member_id(),
            false => request.member_id.clone(),
        };
        refuse_if_full(group, &member_id, self.config.consumer_max_size)?;
        let owned = request.topic_partitions.as_deref().map(partitions_of);
        let found =
            find_member(group, request, member_id, owned.as_ref(), self.config.defects).inspect_err(|refusal| {
                if joins && refusal.error == ErrorCode::FencedMemberEpoch {
                    self.news.push(GroupNews::RefusedJoin(group_id.clone()));
                }
            })?;
        let update = Update { member: updated(&found.member, context, request), owned: owned.as_ref() };
        let before = found.member.current.assigned.clone();
        let advance = advance(moment, &self.config, group, found, update)?;
        let member = &advance.member;
        let is_told = is_full(request) || member.current.assigned != before;
        let response = ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(member.id.clone()))
            .with_member_epoch(member.current.member_epoch)
            .with_heartbeat_interval_ms(millis_of(self.config.consumer_heartbeat_interval))
            .with_assignment(is_told.then(|| assignment_of(&member.current.assigned)));
        if created.is_some() {
            self.abandon_classic_group(moment, group_id);
        }
        self.follow(moment, group_id, &advance);
        if let (Some(owned), Some(Group::Consumer(group))) = (owned, self.groups.get_mut(group_id)) {
            group.said.insert(member.id.clone(), owned);
        }
        self.schedule_session(moment, group_id, &member.id, self.config.consumer_session_timeout);
        records.extend(advance.records);
        Ok(Outcome::write(records, ticket, Answer::ConsumerHeartbeat(response)))
    }

    /// What is not written of an advance: when the topics are looked at next, and until when partitions must be given up.
    pub(super) fn follow(&mut self, moment: Moment<'_>, group_id: &StrBytes, advance: &Advance) {
        if let (Some(epoch), Some(Group::Consumer(group))) = (advance.looked_up, self.groups.get_mut(group_id)) {
            group.set_metadata_deadline(moment.now, epoch);
        }
        if advance.refreshes_regexes {
            // Kafka has an executor for it; this is as soon as the heartbeat is written.
            self.timers.set_if_absent(TimerKey::Regexes { group: group_id.clone() }, moment.now);
        }
        for (topic, partition) in advance.unclaimed.iter().cloned() {
            self.news.push(GroupNews::Unclaimed { group: group_id.clone(), topic, partition });
        }
        let member = &advance.member;
        if !advance.has_moved || member.uses_classic_protocol() {
            return;
        }
        match member.current.state {
            MemberState::UnrevokedPartitions => self.schedule_rebalance(moment, group_id, member),
            MemberState::Stable | MemberState::UnreleasedPartitions | MemberState::Unknown => {
                self.timers.cancel(&TimerKey::Rebalance { group: group_id.clone(), member: member.id.clone() });
            }
        }
    }

    pub(super) fn schedule_session(
        &mut self,
        moment: Moment<'_>,
        group: &StrBytes,
        member: &StrBytes,
        timeout: Duration,
    ) {
        let key = TimerKey::Session { group: group.clone(), member: member.clone() };
        self.timers.set(key, moment.now + timeout);
    }

    fn schedule_rebalance(&mut self, moment: Moment<'_>, group: &StrBytes, member: &Member) {
        let timeout = duration_of(member.metadata.rebalance_timeout_ms);
        let key = TimerKey::Rebalance { group: group.clone(), member: member.id.clone() };
        self.timers.set(key, moment.now + timeout);
    }

    /// `consumerGroupLeave`
    fn leave_consumer_group(
        &mut self,
        moment: Moment<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        ticket: Ticket,
    ) -> Result<Outcome, Refusal> {
        let Some(Group::Consumer(group)) = self.groups.get(&request.group_id.0) else {
            return Err(not_a_consumer_group(&request.group_id.0));
        };
        let member = match &request.instance_id {
            None => group.members.get(&request.member_id).ok_or_else(|| unknown_member(&request.member_id))?,
            Some(instance) => static_member(group, instance, &request.member_id)?,
        };
        let response = ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(member.id.clone()))
            .with_member_epoch(request.member_epoch);
        let then = Then::Answer(ticket, Answer::ConsumerHeartbeat(response));
        if request.member_epoch == LEAVE_STATIC_EPOCH {
            let current = CurrentAssignment {
                member_epoch: LEAVE_STATIC_EPOCH,
                pending_revocation: Partitions::new(),
                ..member.current.clone()
            };
            let record = ConsumerRecord::CurrentAssignment { member: member.id.clone(), value: Some(current) };
            return Ok(Outcome { records: vec![group.record(record)], replay: true, then, ..Outcome::default() });
        }
        let member = member.id.clone();
        Ok(Outcome { then, ..self.fence_member(moment, &request.group_id.0, &member) })
    }

    /// Takes a member out: it has left, or it is to be fenced with its next request (`consumerGroupFenceMember`).
    /// Nothing happens if it is not there.
    pub(super) fn fence_member(&mut self, moment: Moment<'_>, group_id: &StrBytes, member: &StrBytes) -> Outcome {
        let Some(Group::Consumer(group)) = self.groups.get(group_id) else { return Outcome::default() };
        if !group.members.contains_key(member) {
            return Outcome::default();
        }
        if let Some(outcome) = self.maybe_downgrade_without(moment, group, member) {
            return outcome;
        }
        let mut records = Vec::from(group.member_tombstones(member));
        records.extend(records_without(group, &[member], moment));
        self.cancel_member_timers(group_id, &member.clone());
        Outcome { records, replay: true, ..Outcome::default() }
    }

    pub(super) fn cancel_member_timers(&mut self, group: &StrBytes, member: &StrBytes) {
        let (group, member) = (|| group.clone(), || member.clone());
        for key in [
            TimerKey::Session { group: group(), member: member() },
            TimerKey::Rebalance { group: group(), member: member() },
            TimerKey::ClassicJoin { group: group(), member: member() },
            TimerKey::ClassicSync { group: group(), member: member() },
        ] {
            self.timers.cancel(&key);
        }
    }

    /// A member of a consumer group has been silent for too long, or has not given up in time what it had to.
    pub(super) fn on_member_timer(&mut self, moment: Moment<'_>, key: &TimerKey) -> Outcome {
        match key {
            TimerKey::Session { group, member }
            | TimerKey::ClassicJoin { group, member }
            | TimerKey::ClassicSync { group, member } => self.fence_member(moment, group, member),
            TimerKey::Rebalance { group, member } => match self.groups.get(group) {
                Some(Group::Consumer(of)) if of.members.get(member).is_some_and(must_revoke) => {
                    self.fence_member(moment, group, member)
                }
                Some(Group::Consumer(_) | Group::Classic(_)) | None => Outcome::default(),
            },
            TimerKey::Heartbeat { .. }
            | TimerKey::Join { .. }
            | TimerKey::Sync { .. }
            | TimerKey::Regexes { .. }
            | TimerKey::Expiration => {
                unreachable!("no member's of a consumer group")
            }
        }
    }

    /// What members subscribe to by regular expressions is looked for among the topics.
    pub(super) fn resolve_regexes(&mut self, moment: Moment<'_>, group_id: &StrBytes) -> Outcome {
        let records = match self.groups.get(group_id) {
            Some(Group::Consumer(group)) => group.resolve_regexes(moment),
            Some(Group::Classic(_)) | None => Vec::new(),
        };
        Outcome { records, replay: true, ..Outcome::default() }
    }

    /// What the members of a loaded group need: they must be heard of (`GroupMetadataManager.onLoaded`).
    pub(super) fn on_consumer_group_loaded(&mut self, moment: Moment<'_>, group_id: &StrBytes) {
        let Some(Group::Consumer(group)) = self.groups.get(group_id) else { return };
        let members: Vec<Member> = group.members.values().cloned().collect();
        for member in members {
            self.schedule_session(moment, group_id, &member.id, self.config.consumer_session_timeout);
            if must_revoke(&member) {
                self.schedule_rebalance(moment, group_id, &member);
            }
        }
    }
}

/// It has been told to give something up, and is there to do it.
fn must_revoke(member: &Member) -> bool {
    member.current.state == MemberState::UnrevokedPartitions && member.current.member_epoch >= 0
}

/// The topics without the subscriptions of members that go, and the next group epoch.
pub(super) fn records_without(group: &ConsumerGroup, members: &[&StrBytes], moment: Moment<'_>) -> Vec<Record> {
    let mut records = Vec::new();
    records.extend(group.regex_tombstones_without(members));
    let topics = group.subscription_metadata(&group.members_with(None, members), moment);
    if topics != group.topics {
        records.push(group.record(ConsumerRecord::PartitionMetadata(Some(topics))));
    }
    records.push(group.record(ConsumerRecord::Group(Some(group.epoch + 1))));
    records
}

/// `throwIfConsumerGroupHeartbeatRequestIsInvalid`
fn validate(
    request: &ConsumerGroupHeartbeatRequest,
    api_version: i16,
    assignors: &[ServerAssignor],
) -> Result<(), Refusal> {
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    let is_empty = |text: &Option<StrBytes>| text.as_ref().is_some_and(|text| text.is_empty());
    let epoch = request.member_epoch;
    if request.group_id.0.is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if is_empty(&request.instance_id) {
        return invalid("InstanceId can't be empty.");
    }
    if is_empty(&request.rack_id) {
        return invalid("RackId can't be empty.");
    }
    if request.member_id.is_empty() && (api_version >= MEMBER_MAKES_ITS_ID || epoch != 0) {
        return invalid("MemberId can't be empty.");
    }
    if epoch < LEAVE_STATIC_EPOCH {
        return invalid("MemberEpoch is invalid.");
    }
    if epoch == LEAVE_STATIC_EPOCH && request.instance_id.is_none() {
        return invalid("InstanceId can't be null.");
    }
    if epoch == 0 {
        if request.rebalance_timeout_ms == -1 {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
            return invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.");
        }
    }
    match &request.server_assignor {
        Some(name) if !assignors.iter().any(|assignor| assignor.name() == name.as_str()) => {
            let supported: Vec<&str> = assignors.iter().map(|assignor| assignor.name()).collect();
            let supported = supported.join(", ");
            let message = format!("ServerAssignor {name} is not supported. Supported assignors: {supported}.");
            Err(Refusal::new(ErrorCode::UnsupportedAssignor, &message))
        }
        Some(_) | None => Ok(()),
    }
}

/// A member that says everything wants to be told everything.
fn is_full(request: &ConsumerGroupHeartbeatRequest) -> bool {
    let subscribes = request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some();
    request.member_epoch == 0
        || (request.rebalance_timeout_ms != -1 && subscribes && request.topic_partitions.is_some())
}

/// `throwIfConsumerGroupIsFull`
pub(super) fn refuse_if_full(group: &ConsumerGroup, member: &StrBytes, max_size: usize) -> Result<(), Refusal> {
    if group.members.len() < max_size || group.members.contains_key(member) {
        return Ok(());
    }
    let message = format!("The consumer group has reached its maximum capacity of {max_size} members.");
    Err(Refusal::new(ErrorCode::GroupMaxSizeReached, &message))
}

/// The member that a heartbeat is of, or a new one.
fn find_member(
    group: &ConsumerGroup,
    request: &ConsumerGroupHeartbeatRequest,
    id: StrBytes,
    owned: Option<&Partitions>,
    defects: Defects,
) -> Result<Found, Refusal> {
    let joins = request.member_epoch == 0;
    let epoch = request.member_epoch;
    let Some(instance) = &request.instance_id else {
        let member = match group.members.get(&id) {
            Some(member) => member.clone(),
            None if joins => Member::new(id),
            None => return Err(unknown_member(&id)),
        };
        validate_epoch(&member, epoch, owned, defects)?;
        return Ok(Found::existing(member));
    };
    if !joins {
        let member = static_member(group, instance, &id)?;
        validate_epoch(member, epoch, owned, defects)?;
        return Ok(Found::existing(member.clone()));
    }
    match group.static_member(instance) {
        None => Ok(Found::existing(group.members.get(&id).cloned().unwrap_or_else(|| Member::new(id)))),
        // Its predecessor must have left: two processes with one instance id would fence each other for ever.
        Some(former) if !former.uses_classic_protocol() && former.current.member_epoch != LEAVE_STATIC_EPOCH => {
            let message = format!(
                "Static member {id} with instance id {instance} cannot join the group because the instance id is owned \
                 by {} member.",
                former.id
            );
            Err(Refusal::new(ErrorCode::UnreleasedInstanceId, &message))
        }
        Some(former) => Ok(Found::replacing(group, former, id)),
    }
}

/// The static member of an instance id: known, and this one.
pub(super) fn static_member<'a>(
    group: &'a ConsumerGroup,
    instance: &StrBytes,
    id: &StrBytes,
) -> Result<&'a Member, Refusal> {
    let unknown = || Refusal::new(ErrorCode::UnknownMemberId, &format!("Instance id {instance} is unknown."));
    let member = group.static_member(instance).ok_or_else(unknown)?;
    if member.id != *id {
        let message = format!("Static member {id} with instance id {instance} was fenced by member {}.", member.id);
        return Err(Refusal::new(ErrorCode::FencedInstanceId, &message));
    }
    Ok(member)
}

/// `throwIfConsumerGroupMemberEpochIsInvalid`: a member that joins may be known, if it was fenced or the end of its
/// membership was not heard of (KAFKA-19233); one with its previous epoch may not have got the answer that told it the new
/// one, unless it owns what it has not been assigned.
fn validate_epoch(member: &Member, epoch: i32, owned: Option<&Partitions>, defects: Defects) -> Result<(), Refusal> {
    let current = &member.current;
    let may_have_missed =
        || epoch == current.previous_member_epoch && owned.is_some_and(|owned| is_subset(owned, &current.assigned));
    let how = match epoch.cmp(&current.member_epoch) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less if may_have_missed() => return Ok(()),
        _ if epoch == 0 && !defects.has(Defect::RejoinStaysFenced) => return Ok(()),
        std::cmp::Ordering::Less => "smaller",
        std::cmp::Ordering::Greater => "greater",
    };
    let message = format!(
        "The consumer group member has a {how} member epoch ({epoch}) than the one known by the group coordinator ({}). \
         The member must abandon all its partitions and rejoin.",
        current.member_epoch
    );
    Err(Refusal::new(ErrorCode::FencedMemberEpoch, &message))
}

fn is_subset(partitions: &Partitions, of: &Partitions) -> bool {
    partitions.iter().all(|(topic, partitions)| of.get(topic).is_some_and(|of| partitions.is_subset(of)))
}

/// The member as its heartbeat describes it; what the request leaves out stays.
fn updated(member: &Member, context: &RequestContext, request: &ConsumerGroupHeartbeatRequest) -> Member {
    let mut updated = member.clone();
    let metadata = &mut updated.metadata;
    if request.instance_id.is_some() {
        metadata.instance_id.clone_from(&request.instance_id);
    }
    if request.rack_id.is_some() {
        metadata.rack_id.clone_from(&request.rack_id);
    }
    if request.rebalance_timeout_ms != -1 {
        metadata.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if request.server_assignor.is_some() {
        metadata.server_assignor.clone_from(&request.server_assignor);
    }
    if let Some(names) = &request.subscribed_topic_names {
        metadata.subscribed_topics = names.iter().map(|name| name.0.clone()).collect();
    }
    if request.subscribed_topic_regex.is_some() {
        metadata.subscribed_regex.clone_from(&request.subscribed_topic_regex);
    }
    metadata.client_id.clone_from(&context.client_id);
    metadata.client_host.clone_from(&context.client_host);
    metadata.classic = None;
    updated
}

pub(super) fn partitions_of(owned: &[OwnedPartitions]) -> Partitions {
    let mut partitions = Partitions::new();
    for of_topic in owned {
        let known: &mut BTreeSet<i32> = partitions.entry(of_topic.topic_id).or_default();
        known.extend(&of_topic.partitions);
    }
    partitions.retain(|_, of_topic| !of_topic.is_empty());
    partitions
}

fn assignment_of(partitions: &Partitions) -> Assignment {
    let of_topic = |(topic, of_topic): (&uuid::Uuid, &BTreeSet<i32>)| {
        TopicPartitions::default().with_topic_id(*topic).with_partitions(of_topic.iter().copied().collect())
    };
    Assignment::default().with_topic_partitions(partitions.iter().map(of_topic).collect())
}

pub(super) fn unknown_member(member: &StrBytes) -> Refusal {
    Refusal::new(ErrorCode::UnknownMemberId, &format!("Member {member} is not a member of the group."))
}

pub(super) fn not_a_consumer_group(group: &StrBytes) -> Refusal {
    Refusal::new(ErrorCode::GroupIdNotFound, &format!("Group {group} is not a consumer group."))
}
