//! What a heartbeat, or a JoinGroup of a classic member, means for a consumer group. Three things, as far as there is need:
//! a member that is new or has changed its subscription moves the group epoch; a group epoch beyond that of the target
//! assignment makes a new one; the member goes a step towards it.

use std::collections::BTreeMap;

use kafka_protocol::protocol::StrBytes;

use super::consumer::{
    ConsumerGroup, LeftUnassigned, Member, Subscriber, Target, assign, preferred_assignor, reconcile,
};
use super::record::{ConsumerRecord, CurrentAssignment, Partitions, Record, TopicMetadata};
use super::request::Refusal;
use super::shard::Moment;
use crate::config::GroupCoordinatorConfig;
use crate::protocol::ErrorCode;

/// The member that a request is about, as it was, and the records that it takes to have it.
pub(super) struct Found {
    pub member: Member,
    pub records: Vec<Record>,
}

impl Found {
    pub fn existing(member: Member) -> Found {
        Found { member, records: Vec::new() }
    }

    /// A static member that comes back under a new id, with what it had (`replaceMember`).
    pub fn replacing(group: &ConsumerGroup, former: &Member, id: StrBytes) -> Found {
        let current = CurrentAssignment { member_epoch: 0, previous_member_epoch: 0, ..former.current.clone() };
        let member = Member { id, metadata: former.metadata.clone(), current };
        let target = group.target.get(&former.id).cloned().unwrap_or_default();
        let mut records = Vec::from(group.member_tombstones(&former.id));
        records.push(group.member_record(&member));
        records.push(group.target_record(&member.id, &target));
        records.push(group.current_record(&member));
        Found { member, records }
    }
}

/// The member as it is from now on.
pub(super) struct Update<'a> {
    pub member: Member,
    /// What it says that it consumes, if it says so.
    pub owned: Option<&'a Partitions>,
}

/// What is to be written, and the member that it makes.
pub(super) struct Advance {
    pub records: Vec<Record>,
    pub member: Member,
    /// The group epoch that the topics were looked at for, if they were.
    pub looked_up: Option<i32>,
    /// The member's assignment, epoch or state is another one.
    pub has_moved: bool,
    /// What it was assigned, is not any more, and does not say that it consumes, nor has said before.
    pub unclaimed: Vec<(StrBytes, i32)>,
    /// The regular expressions of the group are to be resolved.
    pub refreshes_regexes: bool,
}

/// Errors: those of [`reconcile`]; INVALID_REGULAR_EXPRESSION; UNKNOWN_SERVER_ERROR, if the members have more partitions
/// than we know of.
pub(super) fn advance(
    moment: Moment<'_>,
    config: &GroupCoordinatorConfig,
    group: &ConsumerGroup,
    found: Found,
    update: Update<'_>,
) -> Result<Advance, Refusal> {
    let Found { member: before, mut records } = found;
    let Update { mut member, owned } = update;
    let mut has_changed = false;
    if member.metadata != before.metadata {
        records.push(group.member_record(&member));
        has_changed = member.metadata.subscribed_topics != before.metadata.subscribed_topics;
    }
    let members = group.members_with(Some(&member), &[]);
    let regex = group.update_regex(moment, &members, &before, &member, &mut records)?;
    has_changed |= regex.has_changed || group.epoch == 0;

    let (mut epoch, mut looked_up, mut topics) = (group.epoch, None, None);
    if has_changed || group.is_metadata_expired(moment.now) {
        let found = group.subscription_metadata(&members, moment);
        if found != group.topics {
            has_changed = true;
            records.push(group.record(ConsumerRecord::PartitionMetadata(Some(found.clone()))));
        }
        if has_changed {
            epoch += 1;
            records.push(group.record(ConsumerRecord::Group(Some(epoch))));
        }
        looked_up = Some(epoch);
        topics = Some(found);
    }

    let assigned = if epoch > group.assignment_epoch {
        let topics = topics.as_ref().unwrap_or(&group.topics);
        Some(new_target(config, group, epoch, &members, &member, topics, &mut records)?)
    } else {
        group.target_of(&member).cloned()
    };
    let assigned = assigned.unwrap_or_default();
    let target = Target { epoch: epoch.max(group.assignment_epoch), partitions: &assigned };
    let (mut has_moved, mut unclaimed) = (false, Vec::new());
    if !member.is_reconciled_to(target.epoch) {
        let taken = group.owned_partitions();
        let next = reconcile(&member.current, target, owned, |topic, index| taken.contains(&(topic, index)))?;
        has_moved = next != member.current;
        unclaimed = let_go(group, &member, &next);
        member.current = next;
        if has_moved {
            records.push(group.current_record(&member));
        }
    }
    Ok(Advance { records, member, looked_up, has_moved, unclaimed, refreshes_regexes: regex.refreshes })
}

/// What goes from one state to the next without the member having let go of it, as far as is known, by the names of the
/// topics: it has not been asked for it; or it has, and does not name it, but never named it since it was assigned it, and
/// so may not have heard that it is asked for it and be about to take it up. (A member of the classic protocol has what it
/// says that it has: it takes nothing up while it joins.)
fn let_go(group: &ConsumerGroup, member: &Member, next: &CurrentAssignment) -> Vec<(StrBytes, i32)> {
    let current = &member.current;
    let said = group.said.get(&member.id);
    let mut partitions = Vec::new();
    for (name, TopicMetadata { id, .. }) in &group.topics {
        let said = said.and_then(|said| said.get(id));
        let may_take_up =
            |index: &&i32| !member.uses_classic_protocol() && said.is_none_or(|said| !said.contains(index));
        let assigned = current.assigned.get(id).into_iter().flatten();
        let revoked = current.pending_revocation.get(id).into_iter().flatten().filter(may_take_up);
        let gone = assigned.chain(revoked).filter(|index| !next.holds(id, **index));
        partitions.extend(gone.map(|index| (name.clone(), *index)));
    }
    partitions
}

/// `updateTargetAssignment`: the records of the shares that are other than before; the share of `member`.
///
/// Errors: UNKNOWN_SERVER_ERROR.
fn new_target(
    config: &GroupCoordinatorConfig,
    group: &ConsumerGroup,
    epoch: i32,
    members: &[&Member],
    member: &Member,
    topics: &BTreeMap<StrBytes, TopicMetadata>,
    records: &mut Vec<Record>,
) -> Result<Partitions, Refusal> {
    let nothing = Partitions::new();
    let mut subscribers = Vec::with_capacity(members.len());
    for member in members {
        subscribers.push(Subscriber {
            id: &member.id,
            instance: member.metadata.instance_id.as_ref(),
            topics: group.topics_of(member).filter_map(|name| Some(topics.get(name)?.id)).collect(),
            assigned: group.target_of(member).unwrap_or(&nothing),
        });
    }
    let counts = topics.values().map(|topic| (topic.id, topic.partitions)).collect();
    let assignor =
        preferred_assignor(members.iter().copied()).unwrap_or_else(|| config.consumer_assignors.default_assignor());
    let mut target = assign(assignor, &subscribers, &counts).map_err(|LeftUnassigned| {
        let message =
            format!("Failed to compute a new target assignment for epoch {epoch}: Partitions were left unassigned");
        Refusal::new(ErrorCode::UnknownServerError, &message)
    })?;
    for (id, share) in &target {
        if group.target.get(id) != Some(share) {
            records.push(group.target_record(id, share));
        }
    }
    records.push(group.record(ConsumerRecord::TargetAssignmentEpoch(Some(epoch))));
    Ok(target.remove(&member.id).expect("an assignment names every subscriber"))
}
