//! A group of the classic protocol (`ClassicGroup`): its members and its state, without timers and without I/O.
//! What moves it from state to state is in [`membership`](super::membership).

mod member;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Buf;
use indexmap::IndexMap;
use kafka_protocol::messages::ConsumerProtocolSubscription;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::protocol::{Decodable, StrBytes};
use rustc_hash::FxBuildHasher;

pub(super) use self::member::{Member, Protocols, protocols_of};
use super::record::{GroupMetadataValue, MemberMetadata, Record};
use crate::protocol::{ErrorCode, Offset};

/// `ConsumerProtocol.PROTOCOL_TYPE`
pub(super) const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// `ClassicGroupState`. Kafka's fifth, Dead, is that of a coordinator which has been unloaded: here it is gone then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// No members. Offsets may be there.
    Empty,
    /// Members are asked to rejoin.
    PreparingRebalance,
    /// Members have joined, the leader has yet to send the assignment.
    CompletingRebalance,
    Stable,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// Up to when an initial rebalance may be put off, and by how much it was last (`tryCompleteInitialRebalanceElseSchedule`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InitialDelay {
    pub delay_ms: u64,
    pub remaining_ms: u64,
}

#[derive(Debug)]
pub(super) struct ClassicGroup {
    pub id: StrBytes,
    pub state: State,
    pub previous_state: Option<State>,
    /// By the wall clock; what offset retention counts from (KIP-211). `None` after loading an old record.
    pub state_timestamp_ms: Option<i64>,
    pub protocol_type: Option<StrBytes>,
    /// The protocol (assignor) of the current generation.
    pub protocol_name: Option<StrBytes>,
    pub generation: i32,
    pub leader: Option<StrBytes>,
    /// In the order in which they joined.
    pub members: IndexMap<StrBytes, Member, FxBuildHasher>,
    /// Member id by `group.instance.id` (KIP-345).
    pub static_members: BTreeMap<StrBytes, StrBytes>,
    /// Told their member id, not back with it (KIP-394).
    pub pending_join: BTreeSet<StrBytes>,
    /// Joined in this generation, without SyncGroup so far.
    pub pending_sync: BTreeSet<StrBytes>,
    /// What the members subscribe to; `None` where that cannot be known.
    pub subscribed_topics: Option<BTreeSet<StrBytes>>,
    /// A member came while the initial rebalance was waiting for such.
    pub is_new_member_added: bool,
    pub initial_delay: Option<InitialDelay>,
    /// Readers of committed state see it once this is committed.
    pub visible_from: Offset,
}

impl ClassicGroup {
    pub fn new(id: StrBytes, wall_clock_ms: i64) -> ClassicGroup {
        ClassicGroup {
            id,
            state: State::Empty,
            previous_state: None,
            state_timestamp_ms: Some(wall_clock_ms),
            protocol_type: None,
            protocol_name: None,
            generation: 0,
            leader: None,
            members: IndexMap::default(),
            static_members: BTreeMap::new(),
            pending_join: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            subscribed_topics: None,
            is_new_member_added: false,
            initial_delay: None,
            visible_from: Offset(i64::MAX),
        }
    }

    /// A stable group of these members, with a protocol that all support and without assignments.
    pub fn stable(id: StrBytes, generation: i32, members: Vec<Member>, wall_clock_ms: i64) -> ClassicGroup {
        let mut group = ClassicGroup { state: State::Stable, generation, ..ClassicGroup::new(id, wall_clock_ms) };
        for member in members {
            group.add(member);
        }
        group.protocol_name = Some(group.select_protocol());
        group.subscribed_topics = group.compute_subscribed_topics();
        group
    }

    /// The group that a record tells of.
    pub fn from_record(id: StrBytes, value: GroupMetadataValue, visible_from: Offset) -> ClassicGroup {
        let mut group = ClassicGroup::new(id, 0);
        group.state = if value.members.is_empty() { State::Empty } else { State::Stable };
        group.state_timestamp_ms = (value.state_timestamp_ms != -1).then_some(value.state_timestamp_ms);
        group.protocol_type = Some(value.protocol_type).filter(|t| !t.is_empty());
        group.protocol_name.clone_from(&value.protocol);
        group.generation = value.generation;
        group.leader = value.leader;
        group.visible_from = visible_from;
        let (protocol, protocol_type) = (value.protocol.unwrap_or_default(), group.protocol_type.clone());
        for member in value.members {
            group.add(Member::from_record(member, &protocol, protocol_type.clone().unwrap_or_default()));
        }
        group.subscribed_topics = group.compute_subscribed_topics();
        group
    }

    /// The record of the group in this generation, with these assignments.
    pub fn record(&self, assignments: impl Fn(&Member) -> bytes::Bytes) -> Record {
        let member = |member: &Member| MemberMetadata {
            member_id: member.id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata_of(self.protocol_name.as_ref()),
            assignment: assignments(member),
        };
        self.record_of(self.members.values().map(member).collect())
    }

    /// The record of a group that has just been made: without the members that are about to join
    /// (`newEmptyGroupMetadataRecord`).
    pub fn empty_record(&self) -> Record {
        let value = GroupMetadataValue {
            protocol_type: StrBytes::default(),
            generation: 0,
            protocol: None,
            leader: None,
            state_timestamp_ms: self.state_timestamp_ms.unwrap_or(-1),
            members: Vec::new(),
        };
        Record::GroupMetadata { group: self.id.clone(), value: Some(value) }
    }

    fn record_of(&self, members: Vec<MemberMetadata>) -> Record {
        let value = GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol_name.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: self.state_timestamp_ms.unwrap_or(-1),
            members,
        };
        Record::GroupMetadata { group: self.id.clone(), value: Some(value) }
    }

    pub fn transition_to(&mut self, state: State, wall_clock_ms: i64) {
        let is_valid = match state {
            State::Empty | State::CompletingRebalance => self.state == State::PreparingRebalance,
            State::PreparingRebalance => self.can_rebalance(),
            State::Stable => self.state == State::CompletingRebalance,
        };
        assert!(is_valid, "group {} cannot go from {:?} to {state:?}", self.id, self.state);
        self.previous_state = Some(self.state);
        self.state = state;
        self.state_timestamp_ms = Some(wall_clock_ms);
    }

    pub fn can_rebalance(&self) -> bool {
        match self.state {
            State::Stable | State::CompletingRebalance | State::Empty => true,
            State::PreparingRebalance => false,
        }
    }

    pub fn is_leader(&self, member: &StrBytes) -> bool {
        self.leader.as_ref() == Some(member)
    }

    pub fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    /// Adds a member; the first one leads.
    pub fn add(&mut self, member: Member) {
        if let Some(instance) = &member.instance_id {
            let replaced = self.static_members.insert(instance.clone(), member.id.clone());
            assert!(replaced.is_none(), "static member {instance} is in group {} already", self.id);
        }
        if self.members.is_empty() {
            self.protocol_type = Some(member.protocol_type.clone());
        }
        self.leader.get_or_insert_with(|| member.id.clone());
        self.pending_join.remove(&member.id);
        self.members.insert(member.id.clone(), member);
    }

    /// Removes a member, or one that was yet to join. The next one leads if it was the leader.
    pub fn remove(&mut self, id: &StrBytes) {
        if let Some(member) = self.members.shift_remove(id)
            && let Some(instance) = &member.instance_id
        {
            self.static_members.remove(instance);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.pending_join.remove(id);
        self.pending_sync.remove(id);
    }

    /// Makes one who has rejoined the leader, if the leader has not. False if nobody has (`maybeElectNewJoinedLeader`).
    pub fn maybe_elect_new_joined_leader(&mut self) -> bool {
        let Some(leader) = &self.leader else { return false };
        if self.members.get(leader).is_some_and(|leader| leader.awaiting_join.is_some()) {
            return true;
        }
        match self.members.values().find(|member| member.awaiting_join.is_some()) {
            Some(member) => {
                self.leader = Some(member.id.clone());
                true
            }
            None => false,
        }
    }

    /// A static member comes back under a new id (KIP-345). Whoever waits under the old one is returned.
    pub fn replace_static_member(&mut self, instance: &StrBytes, old: &StrBytes, new: &StrBytes) -> Member {
        let (at, _, removed) = self.members.shift_remove_full(old).expect("static members are members");
        let fenced = removed.clone();
        let member = Member { id: new.clone(), awaiting_join: None, awaiting_sync: None, is_new: false, ..removed };
        self.members.shift_insert(at, new.clone(), member);
        if self.is_leader(old) {
            self.leader = Some(new.clone());
        }
        self.static_members.insert(instance.clone(), new.clone());
        fenced
    }

    pub fn has_all_members_joined(&self) -> bool {
        self.pending_join.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    pub fn awaiting_join_count(&self) -> usize {
        self.members.values().filter(|member| member.awaiting_join.is_some()).count()
    }

    /// The longest of its members'.
    pub fn rebalance_timeout_ms(&self) -> u64 {
        let longest = self.members.values().map(|member| member.rebalance_timeout_ms).max();
        u64::try_from(longest.unwrap_or(0)).unwrap_or(0)
    }

    /// `ClassicGroup.validateMember`: static members are fenced by their successors.
    pub fn validate_member(&self, member: &StrBytes, instance: Option<&StrBytes>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            match self.static_members.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(existing) if existing != member => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Whether a member with these protocols can be in the group: one of them is known to all members.
    pub fn supports_protocols(&self, protocol_type: &StrBytes, protocols: &Protocols) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_ref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.members.values().all(|member| member.supports(name)))
    }

    /// The protocol that most members prefer, of those that all support (`selectProtocol`). Kafka leaves a draw to
    /// chance; here the one that was voted for first wins.
    pub fn select_protocol(&self) -> StrBytes {
        let is_candidate = |name: &StrBytes| self.members.values().all(|member| member.supports(name));
        let mut votes: IndexMap<&StrBytes, usize, FxBuildHasher> = IndexMap::default();
        for member in self.members.values() {
            let vote = member.protocols.iter().map(|(name, _)| name).find(|name| is_candidate(name));
            *votes.entry(vote.expect("joining needs a protocol that all have")).or_default() += 1;
        }
        let most = votes.values().copied().max().expect("a group with members");
        let (name, _) = votes.into_iter().find(|(_, count)| *count == most).expect("there is a largest");
        name.clone()
    }

    /// The next generation, of the members that are there (`initNextGeneration`).
    pub fn init_next_generation(&mut self, wall_clock_ms: i64) {
        self.generation += 1;
        let state = if self.members.is_empty() { State::Empty } else { State::CompletingRebalance };
        self.protocol_name = (!self.members.is_empty()).then(|| self.select_protocol());
        self.subscribed_topics = self.compute_subscribed_topics();
        self.transition_to(state, wall_clock_ms);
        self.pending_sync.clear();
    }

    /// For the leader, who assigns.
    pub fn join_response_members(&self) -> Vec<JoinGroupResponseMember> {
        let member = |member: &Member| {
            JoinGroupResponseMember::default()
                .with_member_id(member.id.clone())
                .with_group_instance_id(member.instance_id.clone())
                .with_metadata(member.metadata_of(self.protocol_name.as_ref()))
        };
        self.members.values().map(member).collect()
    }

    pub fn is_subscribed_to(&self, topic: &StrBytes) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    fn compute_subscribed_topics(&self) -> Option<BTreeSet<StrBytes>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol_name.as_ref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            // Version 0 is the beginning of all later ones.
            let mut metadata = member.metadata_of(Some(protocol));
            if metadata.remaining() < 2 {
                return None;
            }
            metadata.advance(2);
            topics.extend(ConsumerProtocolSubscription::decode(&mut metadata, 0).ok()?.topics);
        }
        Some(topics)
    }
}
