//! What a coordinator decides, over a log whose high watermark the test moves.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolSubscription, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    OffsetCommitRequest, OffsetDeleteRequest, SyncGroupRequest, SyncGroupResponse, TopicName,
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use rand::SeedableRng;

use super::*;
use crate::config::GroupCoordinatorConfig;
use crate::defect::{Defect, Defects};

mod consumer;
mod regexes;

const GROUP: &str = "g";
const SESSION: Duration = Duration::from_millis(10_000);
const REBALANCE: Duration = Duration::from_millis(60_000);
/// `group.initial.rebalance.delay.ms`
const DELAY: Duration = Duration::from_millis(3_000);
const NOT_TOLD: &str = "";

/// A log with one record per offset.
#[derive(Default)]
struct TestLog {
    batches: Vec<(Offset, Bytes)>,
    end: i64,
    high_watermark: i64,
    refuses: Option<ErrorCode>,
    wait: Option<IoWait>,
}

impl CoordinatorLog for TestLog {
    fn append(&mut self, _: i32, batch: &Bytes) -> Result<Offset, ErrorCode> {
        if let Some(error) = self.refuses {
            return Err(error);
        }
        let base = Offset(self.end);
        let mut bytes = BytesMut::from(&batch[..]);
        crate::log::batch::stamp(&mut bytes, base, LeaderEpoch(0));
        self.end += i64::from(crate::log::batch::Header::parse(batch).unwrap().records_count);
        self.batches.push((base, bytes.freeze()));
        Ok(base)
    }

    fn bounds(&self, _: i32) -> Result<LogBounds, ErrorCode> {
        Ok(LogBounds {
            log_start: Offset::ZERO,
            high_watermark: Offset(self.high_watermark),
            log_end: Offset(self.end),
        })
    }

    fn read(&mut self, _: i32, from: Offset, _: usize) -> Result<Bytes, ErrorCode> {
        let at = self.batches.partition_point(|(base, _)| *base <= from);
        Ok(self.batches[at - 1].1.clone())
    }

    fn take_wait(&mut self) -> Option<IoWait> {
        self.wait.take()
    }
}

struct Bench {
    now: Time,
    log: TestLog,
    coordinator: GroupCoordinator,
    /// Records are committed as they are appended.
    commits_at_once: bool,
    tickets: u64,
    answers: BTreeMap<Ticket, Answer>,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group_id() -> GroupId {
    GroupId(text(GROUP))
}

fn subscription(topics: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    let subscription = ConsumerProtocolSubscription::default().with_topics(topics.iter().map(|t| text(t)).collect());
    subscription.encode(&mut out, 0).unwrap();
    out.freeze()
}

fn coordinator(config: &GroupCoordinatorConfig) -> GroupCoordinator {
    GroupCoordinator::new(config.clone(), Rng::seed_from_u64(7))
}

impl Bench {
    fn new() -> Bench {
        Bench::with(GroupCoordinatorConfig::default())
    }

    fn with(config: GroupCoordinatorConfig) -> Bench {
        let mut bench = Bench {
            now: Time::from_millis(1_000),
            log: TestLog::default(),
            coordinator: coordinator(&config),
            commits_at_once: true,
            tickets: 0,
            answers: BTreeMap::new(),
        };
        bench.elect(1);
        bench
    }

    fn clock(&self) -> (Time, i64) {
        (self.now, 1_000_000 + i64::try_from(self.now.as_millis()).unwrap())
    }

    fn elect(&mut self, epoch: i32) {
        self.coordinator.on_election(self.clock(), 0, LeaderEpoch(epoch), &mut self.log);
        self.settle();
    }

    /// Another broker takes over: it has nothing but the log.
    fn fail_over(&mut self) {
        let config = self.coordinator.config().clone();
        self.coordinator = coordinator(&config);
        self.elect(2);
    }

    fn settle(&mut self) {
        while self.commits_at_once && self.log.high_watermark < self.log.end {
            self.log.high_watermark = self.log.end;
            self.coordinator.on_high_watermark(self.clock(), 0, Offset(self.log.end), &mut self.log);
        }
        for (ticket, answer) in self.coordinator.take_answers() {
            self.answers.entry(ticket).or_insert(answer);
        }
    }

    fn commit_everything(&mut self) {
        self.commits_at_once = true;
        self.settle();
        self.commits_at_once = false;
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.coordinator.deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.coordinator.on_timer(self.clock(), &mut self.log);
            self.settle();
        }
        self.now = until;
    }

    fn ask_in_version(&mut self, api_version: i16, request: &GroupRequest) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let context = RequestContext { api_version, client_id: text("client"), client_host: text("/127.0.0.1") };
        self.coordinator.handle(self.clock(), 0, &context, request, ticket, &mut self.log);
        self.settle();
        ticket
    }

    fn ask(&mut self, request: &GroupRequest) -> Ticket {
        self.ask_in_version(9, request)
    }

    fn join_as(&mut self, member: &str, instance: Option<&str>, topics: &[&str]) -> Ticket {
        self.join_with(member, instance, subscription(topics))
    }

    fn join_with(&mut self, member: &str, instance: Option<&str>, subscription: Bytes) -> Ticket {
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(subscription);
        let request = JoinGroupRequest::default()
            .with_group_id(group_id())
            .with_session_timeout_ms(SESSION.as_millis() as i32)
            .with_rebalance_timeout_ms(REBALANCE.as_millis() as i32)
            .with_member_id(text(member))
            .with_group_instance_id(instance.map(text))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        self.ask(&GroupRequest::Join(request))
    }

    fn join(&mut self, member: &str) -> Ticket {
        self.join_as(member, None, &["orders"])
    }

    /// Joins as a new member, the way of KIP-394; its id and the ticket of the second JoinGroup.
    fn join_new(&mut self) -> (String, Ticket) {
        let first = self.join(NOT_TOLD);
        let told = self.joined(first);
        assert_eq!(told.error_code, ErrorCode::MemberIdRequired.code());
        let ticket = self.join(&told.member_id);
        (told.member_id.to_string(), ticket)
    }

    fn answered(&self, ticket: Ticket) -> bool {
        self.answers.contains_key(&ticket)
    }

    fn joined(&self, ticket: Ticket) -> JoinGroupResponse {
        match &self.answers[&ticket] {
            Answer::Join(response) => response.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn synced(&self, ticket: Ticket) -> SyncGroupResponse {
        match &self.answers[&ticket] {
            Answer::Sync(response) => response.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn sync(&mut self, member: &str, generation: i32, shares: &[(&str, &'static [u8])]) -> Ticket {
        let share = |(member, share): &(&str, &'static [u8])| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member))
                .with_assignment(Bytes::from_static(share))
        };
        let request = SyncGroupRequest::default()
            .with_group_id(group_id())
            .with_generation_id(generation)
            .with_member_id(text(member))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(shares.iter().map(share).collect());
        self.ask(&GroupRequest::Sync(request))
    }

    fn heartbeat(&mut self, member: &str, generation: i32) -> i16 {
        self.heartbeat_of(member, None, generation)
    }

    fn heartbeat_of(&mut self, member: &str, instance: Option<&str>, generation: i32) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id())
            .with_generation_id(generation)
            .with_member_id(text(member))
            .with_group_instance_id(instance.map(text));
        let ticket = self.ask(&GroupRequest::Heartbeat(request));
        match &self.answers[&ticket] {
            Answer::Heartbeat(response) => response.error_code,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, member: &str) -> i16 {
        let member = MemberIdentity::default().with_member_id(text(member));
        let request = LeaveGroupRequest::default().with_group_id(group_id()).with_members(vec![member]);
        let ticket = self.ask(&GroupRequest::Leave(request));
        match &self.answers[&ticket] {
            Answer::Leave(response) if response.error_code != 0 => response.error_code,
            Answer::Leave(response) => response.members[0].error_code,
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, member: &str, generation: i32, topic: &str, offset: i64) -> Ticket {
        self.commit_in_version(9, member, generation, topic, offset)
    }

    fn commit_in_version(&mut self, version: i16, member: &str, generation: i32, topic: &str, offset: i64) -> Ticket {
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(vec![partition.with_committed_leader_epoch(5)]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id())
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(text(member))
            .with_topics(vec![topic]);
        self.ask_in_version(version, &GroupRequest::Commit(request))
    }

    fn committed(&self, ticket: Ticket) -> i16 {
        match &self.answers[&ticket] {
            Answer::Commit(response) => response.topics[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    }

    fn fetch(&mut self, topic: &str, require_stable: bool) -> Ticket {
        let topics =
            OffsetFetchRequestTopics::default().with_name(TopicName(text(topic))).with_partition_indexes(vec![0]);
        let group = OffsetFetchRequestGroup::default().with_group_id(group_id()).with_topics(Some(vec![topics]));
        self.ask(&GroupRequest::Fetch { group, require_stable })
    }

    fn fetched(&self, ticket: Ticket) -> i64 {
        match &self.answers[&ticket] {
            Answer::Fetch(response) => {
                assert_eq!(response.error_code, 0);
                response.topics[0].partitions[0].committed_offset
            }
            other => panic!("{other:?}"),
        }
    }

    fn offset(&mut self, topic: &str) -> i64 {
        let ticket = self.fetch(topic, false);
        self.fetched(ticket)
    }

    fn state(&mut self) -> String {
        let ticket = self.ask(&GroupRequest::Describe(vec![group_id()]));
        match &self.answers[&ticket] {
            Answer::Describe(groups) => groups[0].group_state.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// A stable group of one member that subscribes to `orders`, in generation 1.
    fn stable(config: GroupCoordinatorConfig) -> (Bench, String) {
        let mut bench = Bench::with(config);
        let (member, joining) = bench.join_new();
        bench.wait(DELAY);
        assert_eq!(bench.joined(joining).generation_id, 1);
        let syncing = bench.sync(&member, 1, &[(&member, b"all")]);
        assert_eq!(bench.synced(syncing).error_code, 0);
        (bench, member)
    }

    /// A stable group of two, in generation 2; the first one leads.
    fn two() -> (Bench, String, String) {
        Bench::two_with(GroupCoordinatorConfig::default())
    }

    fn two_with(config: GroupCoordinatorConfig) -> (Bench, String, String) {
        let (mut bench, one) = Bench::stable(config);
        let (two, joining) = bench.join_new();
        bench.join(&one);
        assert_eq!(bench.joined(joining).generation_id, 2);
        bench.sync(&two, 2, &[]);
        bench.sync(&one, 2, &[(&one, b"1"), (&two, b"2")]);
        (bench, one, two)
    }
}

#[test]
fn a_new_member_is_told_its_id_and_waits_for_others_before_the_first_generation() {
    let mut bench = Bench::new();
    let (member, joining) = bench.join_new();
    bench.wait(DELAY - Duration::from_millis(1));
    assert!(!bench.answered(joining));
    bench.wait(Duration::from_millis(1));
    let joined = bench.joined(joining);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!((joined.leader.as_str(), joined.members.len()), (member.as_str(), 1));
    assert!(member.starts_with("client-"), "{member}");
}

#[test]
fn members_that_come_during_the_initial_delay_extend_it() {
    let mut bench = Bench::new();
    let (_, one) = bench.join_new();
    bench.wait(DELAY - Duration::from_millis(1));
    let (_, two) = bench.join_new();
    bench.wait(DELAY);
    assert!(!bench.answered(one));
    bench.wait(Duration::from_millis(1));
    assert_eq!((bench.joined(one).generation_id, bench.joined(two).generation_id), (1, 1));
    assert_eq!((bench.joined(one).members.len(), bench.joined(two).members.len()), (2, 0));
}

#[test]
fn an_assignment_is_handed_out_when_its_record_is_committed() {
    let mut bench = Bench::new();
    let (member, _) = bench.join_new();
    bench.wait(DELAY);
    bench.commits_at_once = false;
    let syncing = bench.sync(&member, 1, &[(&member, b"all")]);
    assert!(!bench.answered(syncing));
    bench.commit_everything();
    assert_eq!(bench.synced(syncing).assignment, Bytes::from_static(b"all"));
    assert_eq!(bench.state(), "Stable");
}

#[test]
fn a_second_member_makes_the_first_rejoin() {
    let (mut bench, one) = Bench::stable(GroupCoordinatorConfig::default());
    let (two, joining) = bench.join_new();
    assert!(!bench.answered(joining));
    assert_eq!(bench.heartbeat(&one, 1), ErrorCode::RebalanceInProgress.code());
    let rejoining = bench.join(&one);
    assert_eq!((bench.joined(rejoining).generation_id, bench.joined(joining).generation_id), (2, 2));
    assert_eq!((bench.joined(rejoining).members.len(), bench.joined(joining).members.len()), (2, 0));
    let two_syncing = bench.sync(&two, 2, &[]);
    assert!(!bench.answered(two_syncing));
    let one_syncing = bench.sync(&one, 2, &[(&one, b"1"), (&two, b"2")]);
    assert_eq!(&bench.synced(one_syncing).assignment[..], b"1");
    assert_eq!(&bench.synced(two_syncing).assignment[..], b"2");
    assert_eq!(bench.heartbeat(&one, 1), ErrorCode::IllegalGeneration.code());
    assert_eq!(bench.heartbeat("stranger", 2), ErrorCode::UnknownMemberId.code());
    assert_eq!(bench.heartbeat(&one, 2), 0);
}

#[test]
fn who_does_not_rejoin_in_time_is_out() {
    let (mut bench, one, two) = Bench::two();
    // The leader rejoins: a rebalance. The other one lives but does not come.
    let rejoining = bench.join(&one);
    let mut waited = Duration::ZERO;
    while waited < REBALANCE {
        assert!(!bench.answered(rejoining));
        assert_eq!(bench.heartbeat(&two, 2), ErrorCode::RebalanceInProgress.code());
        bench.wait(SESSION / 2);
        waited += SESSION / 2;
    }
    assert_eq!((bench.joined(rejoining).generation_id, bench.joined(rejoining).members.len()), (3, 1));
    assert_eq!(bench.heartbeat(&two, 2), ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_silent_member_is_out_after_its_session_and_the_others_rebalance() {
    let (mut bench, one, two) = Bench::two();
    bench.wait(SESSION / 2);
    assert_eq!(bench.heartbeat(&one, 2), 0);
    bench.wait(SESSION / 2);
    assert_eq!(bench.heartbeat(&one, 2), ErrorCode::RebalanceInProgress.code());
    assert_eq!(bench.heartbeat(&two, 2), ErrorCode::UnknownMemberId.code());
    let rejoining = bench.join(&one);
    assert_eq!((bench.joined(rejoining).generation_id, bench.joined(rejoining).members.len()), (3, 1));
}

#[test]
fn a_member_that_only_heartbeats_and_never_syncs_does_not_hold_up_the_group() {
    let (mut bench, one, two) = Bench::two();
    bench.join(&one);
    bench.join(&two);
    let syncing = bench.sync(&one, 3, &[(&one, b"1")]);
    assert_eq!(bench.synced(syncing).error_code, 0);
    let mut waited = Duration::ZERO;
    while waited < REBALANCE {
        assert_eq!((bench.heartbeat(&one, 3), bench.heartbeat(&two, 3)), (0, 0));
        bench.wait(SESSION / 2);
        waited += SESSION / 2;
    }
    assert_eq!(bench.heartbeat(&two, 3), ErrorCode::UnknownMemberId.code());
    assert_eq!(bench.heartbeat(&one, 3), ErrorCode::RebalanceInProgress.code());
}

#[test]
fn a_sync_that_was_not_waited_for_any_more_is_told() {
    let told = |defects: Defects, beats: bool| {
        let (mut bench, one, two) =
            Bench::two_with(GroupCoordinatorConfig { defects, ..GroupCoordinatorConfig::default() });
        bench.join(&one);
        bench.join(&two);
        if beats {
            assert_eq!(bench.heartbeat(&two, 3), 0);
        }
        // Again, as after a disconnect.
        bench.sync(&two, 3, &[]);
        bench.sync(&two, 3, &[]);
        bench.coordinator.take_news()
    };
    let defect: Defects = [Defect::HeartbeatCompletesSyncTimer].into_iter().collect();
    assert_eq!(told(Defects::NONE, true), []);
    assert_eq!(told(defect, false), []);
    assert_eq!(told(defect, true), [GroupNews::UnawaitedSync(group_id().0)]);
}

#[test]
fn a_member_that_leaves_hands_over_at_once() {
    let (mut bench, one, two) = Bench::two();
    assert_eq!(bench.leave(&two), 0);
    assert_eq!(bench.leave(&two), ErrorCode::UnknownMemberId.code());
    let rejoining = bench.join(&one);
    assert_eq!(bench.joined(rejoining).members.len(), 1);
    bench.sync(&one, 3, &[]);
    assert_eq!(bench.leave(&one), 0);
    assert_eq!(bench.state(), "Empty");
}

#[test]
fn a_static_member_comes_back_in_the_same_generation_and_fences_its_former_self() {
    let mut bench = Bench::new();
    let joining = bench.join_as(NOT_TOLD, Some("i"), &["orders"]);
    bench.wait(DELAY);
    let former = bench.joined(joining).member_id.to_string();
    assert!(former.starts_with("i-"), "{former}");
    bench.sync(&former, 1, &[(&former, b"all")]);
    let again = bench.join_as(NOT_TOLD, Some("i"), &["orders"]);
    let joined = bench.joined(again);
    assert_eq!((joined.error_code, joined.generation_id, joined.skip_assignment), (0, 1, true));
    assert_ne!(joined.member_id.as_str(), former);
    assert_eq!(joined.leader, joined.member_id);
    let syncing = bench.sync(&joined.member_id, 1, &[]);
    assert_eq!(&bench.synced(syncing).assignment[..], b"all");
    assert_eq!(bench.heartbeat_of(&former, Some("i"), 1), ErrorCode::FencedInstanceId.code());
    assert_eq!(bench.heartbeat_of(&joined.member_id, Some("i"), 1), 0);
    // The new id survives the coordinator.
    bench.fail_over();
    assert_eq!(bench.heartbeat_of(&joined.member_id, Some("i"), 1), 0);
}

#[test]
fn a_static_member_whose_new_id_cannot_be_stored_keeps_the_old_one() {
    let mut bench = Bench::new();
    let joining = bench.join_as(NOT_TOLD, Some("i"), &["orders"]);
    bench.wait(DELAY);
    let former = bench.joined(joining).member_id.to_string();
    bench.sync(&former, 1, &[(&former, b"all")]);
    bench.log.refuses = Some(ErrorCode::NotEnoughReplicas);
    let again = bench.join_as(NOT_TOLD, Some("i"), &["orders"]);
    assert_eq!(bench.joined(again).error_code, ErrorCode::CoordinatorNotAvailable.code());
    bench.log.refuses = None;
    assert_eq!(bench.heartbeat_of(&former, Some("i"), 1), 0);
}

#[test]
fn a_static_member_that_comes_back_before_the_assignment_makes_everybody_rejoin() {
    let mut bench = Bench::new();
    let joining = bench.join_as(NOT_TOLD, Some("i"), &["orders"]);
    let other = bench.join_as(NOT_TOLD, Some("j"), &["orders"]);
    bench.wait(DELAY * 2);
    let (leader, other) = (bench.joined(joining).member_id, bench.joined(other).member_id);
    // The leader has the list with the old id of `j` (KAFKA-9801).
    let waiting = bench.sync(&other, 1, &[]);
    let again = bench.join_as(NOT_TOLD, Some("j"), &["orders"]);
    assert_eq!(bench.synced(waiting).error_code, ErrorCode::FencedInstanceId.code());
    let late = bench.sync(&leader, 1, &[(&leader, b"1"), (&other, b"2")]);
    assert_eq!(bench.synced(late).error_code, ErrorCode::RebalanceInProgress.code());
    bench.join_as(&leader, Some("i"), &["orders"]);
    assert_eq!(bench.joined(again).generation_id, 2);
}

#[test]
fn commits_are_accepted_from_members_of_the_generation_only() {
    let (mut bench, one, two) = Bench::two();
    let accepted = bench.commit(&one, 2, "orders", 10);
    assert_eq!(bench.committed(accepted), 0);
    let late = bench.commit(&one, 1, "orders", 11);
    assert_eq!(bench.committed(late), ErrorCode::IllegalGeneration.code());
    let stranger = bench.commit("stranger", 2, "orders", 12);
    assert_eq!(bench.committed(stranger), ErrorCode::UnknownMemberId.code());
    let nobody = bench.commit(NOT_TOLD, -1, "orders", 13);
    assert_eq!(bench.committed(nobody), ErrorCode::UnknownMemberId.code());
    // Preparing: the old generation may still commit what it did. Completing: no more.
    bench.join(&one);
    let last = bench.commit(&two, 2, "orders", 14);
    assert_eq!(bench.committed(last), 0);
    bench.join(&two);
    let early = bench.commit(&two, 3, "orders", 15);
    assert_eq!(bench.committed(early), ErrorCode::RebalanceInProgress.code());
    assert_eq!(bench.offset("orders"), 14);
}

#[test]
fn a_consumer_without_membership_commits_to_an_empty_group() {
    let mut bench = Bench::new();
    let unknown = bench.commit("m", 3, "orders", 1);
    assert_eq!(bench.committed(unknown), ErrorCode::GroupIdNotFound.code());
    let unknown = bench.commit_in_version(8, "m", 3, "orders", 1);
    assert_eq!(bench.committed(unknown), ErrorCode::IllegalGeneration.code());
    let simple = bench.commit(NOT_TOLD, -1, "orders", 7);
    assert_eq!(bench.committed(simple), 0);
    assert_eq!((bench.offset("orders"), bench.offset("other")), (7, -1));
    assert_eq!(bench.state(), "Empty");
    bench.fail_over();
    assert_eq!(bench.offset("orders"), 7);
}

#[test]
fn an_offset_is_told_once_it_is_committed_and_a_stable_read_waits_for_it() {
    let mut bench = Bench::new();
    bench.commit(NOT_TOLD, -1, "orders", 7);
    bench.commits_at_once = false;
    let committing = bench.commit(NOT_TOLD, -1, "orders", 8);
    assert!(!bench.answered(committing));
    assert_eq!(bench.offset("orders"), 7);
    let stable = bench.fetch("orders", true);
    assert!(!bench.answered(stable));
    bench.commit_everything();
    assert_eq!((bench.committed(committing), bench.fetched(stable), bench.offset("orders")), (0, 8, 8));
}

#[test]
fn a_commit_that_is_not_replicated_in_time_fails() {
    let mut bench = Bench::new();
    bench.commits_at_once = false;
    let committing = bench.commit(NOT_TOLD, -1, "orders", 8);
    bench.wait(Duration::from_millis(4_999));
    assert!(!bench.answered(committing));
    bench.wait(Duration::from_millis(1));
    assert_eq!(bench.committed(committing), ErrorCode::CoordinatorNotAvailable.code());
    // It may become true all the same.
    bench.commit_everything();
    assert_eq!(bench.offset("orders"), 8);
}

#[test]
fn what_the_log_refuses_has_not_happened() {
    for (refusal, told) in [
        (ErrorCode::NotEnoughReplicas, ErrorCode::CoordinatorNotAvailable),
        (ErrorCode::NotLeaderOrFollower, ErrorCode::NotCoordinator),
        (ErrorCode::KafkaStorageError, ErrorCode::NotCoordinator),
        (ErrorCode::MessageTooLarge, ErrorCode::UnknownServerError),
    ] {
        let (mut bench, member) = Bench::stable(GroupCoordinatorConfig::default());
        bench.log.refuses = Some(refusal);
        let committing = bench.commit(&member, 1, "orders", 8);
        assert_eq!(bench.committed(committing), told.code());
        assert_eq!(bench.offset("orders"), -1);
        // An assignment that cannot be stored: the members start over.
        let rejoining = bench.join(&member);
        assert_eq!(bench.joined(rejoining).generation_id, 2);
        let syncing = bench.sync(&member, 2, &[(&member, b"all")]);
        assert_eq!(bench.synced(syncing).error_code, told.code());
        bench.log.refuses = None;
        assert_eq!(bench.heartbeat(&member, 2), ErrorCode::RebalanceInProgress.code());
    }
}

#[test]
fn a_group_that_cannot_be_stored_does_not_come_to_be() {
    let mut bench = Bench::new();
    bench.log.refuses = Some(ErrorCode::NotEnoughReplicas);
    let ticket = bench.join_as(NOT_TOLD, Some("i"), &["orders"]);
    assert_eq!(bench.joined(ticket).error_code, ErrorCode::CoordinatorNotAvailable.code());
    assert_eq!(bench.state(), "Dead");
    // Nor does anything of it remain for the one that does.
    bench.log.refuses = None;
    let told = bench.join(NOT_TOLD);
    assert_eq!(bench.joined(told).error_code, ErrorCode::MemberIdRequired.code());
    bench.wait(DELAY * 2);
    assert_eq!(bench.state(), "Empty");
}

#[test]
fn the_next_coordinator_knows_members_generation_and_offsets() {
    let (mut bench, one, two) = Bench::two();
    bench.commit(&one, 2, "orders", 10);
    bench.fail_over();
    assert_eq!(bench.state(), "Stable");
    assert_eq!((bench.heartbeat(&one, 2), bench.heartbeat(&two, 2)), (0, 0));
    assert_eq!(bench.offset("orders"), 10);
    let syncing = bench.sync(&two, 2, &[]);
    assert_eq!(&bench.synced(syncing).assignment[..], b"2");
    // Sessions begin anew with it.
    bench.wait(SESSION);
    assert_eq!(bench.heartbeat(&one, 2), ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_coordinator_that_resigns_sends_everybody_away() {
    let (mut bench, one, _) = Bench::two();
    let waiting = bench.join(&one);
    bench.commits_at_once = false;
    let committing = bench.commit(&one, 2, "orders", 10);
    bench.coordinator.on_resignation(bench.clock(), 0);
    bench.settle();
    let moved = ErrorCode::NotCoordinator.code();
    assert_eq!((bench.joined(waiting).error_code, bench.committed(committing)), (moved, moved));
    assert_eq!(bench.heartbeat(&one, 2), moved);
}

#[test]
fn while_the_disk_reads_the_groups_are_loading() {
    let (mut bench, one, _) = Bench::two();
    let until = bench.now + Duration::from_secs(1);
    bench.log.wait = Some(IoWait { until, is_stalled: false });
    bench.fail_over();
    // Members are taken to be alive meanwhile.
    assert_eq!(bench.heartbeat(&one, 2), 0);
    let rejoining = bench.join(&one);
    assert_eq!(bench.joined(rejoining).error_code, ErrorCode::CoordinatorLoadInProgress.code());
    assert!(bench.coordinator.is_loading());
    assert_eq!(bench.coordinator.list_groups(&[], &[]), Err(ErrorCode::CoordinatorLoadInProgress));
    bench.now = until;
    bench.coordinator.finish_loading(bench.clock(), &mut bench.log, |wait| wait.until <= until);
    bench.settle();
    assert_eq!(bench.coordinator.list_groups(&[], &[]).map(|groups| groups.len()), Ok(1));
    assert_eq!(bench.heartbeat(&one, 2), 0);
}

#[test]
fn what_is_no_batch_is_not_taken_for_the_end_of_the_log() {
    let (mut bench, member) = Bench::stable(GroupCoordinatorConfig::default());
    bench.commit(&member, 1, "orders", 10);
    let (_, last) = bench.log.batches.last_mut().expect("the commit");
    *last = Bytes::from(vec![0; last.len()]);
    bench.fail_over();
    let ticket = bench.fetch("orders", false);
    match &bench.answers[&ticket] {
        Answer::Fetch(response) => assert_eq!(response.error_code, ErrorCode::NotCoordinator.code()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn offsets_of_an_empty_group_expire_after_it_became_empty() {
    let config = GroupCoordinatorConfig { offsets_retention_minutes: 60, ..GroupCoordinatorConfig::default() };
    let hour = Duration::from_secs(3_600);
    let check = config.offsets_retention_check_interval;
    let (mut bench, member) = Bench::stable(config);
    bench.commit(&member, 1, "orders", 10);
    let mut waited = Duration::ZERO;
    while waited < hour * 2 {
        assert_eq!(bench.heartbeat(&member, 1), 0);
        bench.wait(SESSION / 2);
        waited += SESSION / 2;
    }
    // The commit is old, but its group is subscribed (KAFKA-4682).
    assert_eq!(bench.offset("orders"), 10);
    bench.leave(&member);
    bench.wait(hour - check);
    assert_eq!(bench.offset("orders"), 10);
    assert_eq!(bench.coordinator.take_news(), []);
    bench.wait(check * 2);
    assert_eq!(bench.offset("orders"), -1);
    assert_eq!(bench.state(), "Dead");
    let expired = GroupNews::OffsetExpired {
        group: group_id().0,
        topic: text("orders"),
        partition: 0,
        offset: 10,
        is_rebalancing: false,
    };
    assert_eq!(bench.coordinator.take_news(), [expired, GroupNews::Deleted(group_id().0)]);
    bench.fail_over();
    assert_eq!(bench.coordinator.take_news(), [], "that was told");
    assert_eq!((bench.offset("orders"), bench.state().as_str()), (-1, "Dead"));
}

#[test]
fn no_offset_expires_while_the_members_of_a_group_come_back() {
    for (defects, offset) in [(Defects::NONE, 10), (Defects::NONE.with(Defect::ExpireDuringRebalance), -1)] {
        let config = GroupCoordinatorConfig {
            offsets_retention_minutes: 60,
            offsets_retention_check_interval: DELAY / 2,
            defects,
            ..GroupCoordinatorConfig::default()
        };
        let (mut bench, member) = Bench::stable(config);
        bench.commit(&member, 1, "orders", 10);
        let committed_at = bench.now;
        while bench.now < committed_at + Duration::from_secs(2 * 3_600) {
            bench.heartbeat(&member, 1);
            bench.wait(SESSION / 2);
        }
        bench.leave(&member);
        bench.join_new();
        bench.wait(DELAY * 9 / 10);
        assert_eq!(bench.state(), "PreparingRebalance");
        assert_eq!(bench.offset("orders"), offset);
        let told = bench.coordinator.take_news();
        let is_told = |news: &GroupNews| matches!(news, GroupNews::OffsetExpired { is_rebalancing: true, .. });
        assert_eq!(told.iter().any(is_told), offset < 0, "{told:?}");
    }
}

#[test]
fn a_stable_group_loses_offsets_of_topics_that_it_left() {
    let config = GroupCoordinatorConfig { offsets_retention_minutes: 60, ..GroupCoordinatorConfig::default() };
    let (mut bench, member) = Bench::stable(config);
    bench.commit(&member, 1, "orders", 10);
    bench.commit(&member, 1, "former", 11);
    let mut waited = Duration::ZERO;
    while waited < Duration::from_secs(2 * 3_600) {
        bench.heartbeat(&member, 1);
        bench.wait(SESSION / 2);
        waited += SESSION / 2;
    }
    assert_eq!((bench.offset("orders"), bench.offset("former")), (10, -1));
    assert_eq!(bench.state(), "Stable");
}

#[test]
fn groups_with_members_are_not_deleted_and_offsets_in_use_neither() {
    let (mut bench, member) = Bench::stable(GroupCoordinatorConfig::default());
    for topic in ["orders", "former"] {
        bench.commit(&member, 1, topic, 10);
    }
    let delete = |bench: &mut Bench| {
        let ticket = bench.ask(&GroupRequest::Delete(vec![group_id()]));
        match &bench.answers[&ticket] {
            Answer::Delete(results) => results.iter().map(|r: &DeletableGroupResult| r.error_code).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(delete(&mut bench), [ErrorCode::NonEmptyGroup.code()]);
    let topic = |name: &str| {
        OffsetDeleteRequestTopic::default()
            .with_name(TopicName(text(name)))
            .with_partitions(vec![OffsetDeleteRequestPartition::default()])
    };
    let request =
        OffsetDeleteRequest::default().with_group_id(group_id()).with_topics(vec![topic("orders"), topic("former")]);
    let ticket = bench.ask(&GroupRequest::OffsetDelete(request));
    match &bench.answers[&ticket] {
        Answer::OffsetDelete(response) => {
            let errors: Vec<i16> = response.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
            assert_eq!(errors, [ErrorCode::GroupSubscribedToTopic.code(), 0]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((bench.offset("orders"), bench.offset("former")), (10, -1));
    bench.leave(&member);
    assert_eq!(delete(&mut bench), [0]);
    assert_eq!(delete(&mut bench), [ErrorCode::GroupIdNotFound.code()]);
    assert_eq!((bench.offset("orders"), bench.state().as_str()), (-1, "Dead"));
}

#[test]
fn what_was_committed_for_a_deleted_topic_goes_with_it() {
    let mut bench = Bench::new();
    bench.commit(NOT_TOLD, -1, "orders", 7);
    bench.commit(NOT_TOLD, -1, "other", 8);
    bench.coordinator.on_topics_deleted(bench.clock(), &[(Uuid::from_u128(1), text("orders"))], &mut bench.log);
    bench.settle();
    assert_eq!((bench.offset("orders"), bench.offset("other")), (-1, 8));
}

#[test]
fn a_full_group_takes_nobody_else() {
    let config = GroupCoordinatorConfig { max_size: 1, ..GroupCoordinatorConfig::default() };
    let (mut bench, member) = Bench::stable(config);
    let ticket = bench.join(NOT_TOLD);
    assert_eq!(bench.joined(ticket).error_code, ErrorCode::GroupMaxSizeReached.code());
    assert_eq!(bench.heartbeat(&member, 1), 0);
}

#[test]
fn a_session_timeout_out_of_bounds_and_an_empty_group_id_are_refused() {
    let mut bench = Bench::new();
    let request = JoinGroupRequest::default().with_group_id(group_id()).with_session_timeout_ms(5_999);
    let ticket = bench.ask(&GroupRequest::Join(request));
    assert_eq!(bench.joined(ticket).error_code, ErrorCode::InvalidSessionTimeout.code());
    let request = JoinGroupRequest::default().with_session_timeout_ms(10_000);
    let ticket = bench.ask(&GroupRequest::Join(request));
    assert_eq!(bench.joined(ticket).error_code, ErrorCode::InvalidGroupId.code());
}

#[test]
fn a_group_belongs_to_the_partition_that_kafka_gives_it() {
    // `"test-group".hashCode()` and so on, from Java.
    assert_eq!(partition_for("test-group", 50), 12);
    assert_eq!(partition_for("console-consumer-42", 50), 37);
    // Its hash code is Integer.MIN_VALUE.
    assert_eq!(partition_for("polygenelubricants", 50), 0);
}
