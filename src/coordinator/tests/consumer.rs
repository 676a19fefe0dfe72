//! Consumer groups (KIP-848), and the move between the protocols.

use std::collections::BTreeSet;

use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::consumer_protocol_subscription::TopicPartition as OwnedPartitions;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, ConsumerProtocolAssignment,
};
use kafka_protocol::protocol::Decodable;

use super::*;
use crate::config::MigrationPolicy;

const ORDERS: Uuid = Uuid::from_u128(11);
const PARTITIONS: i32 = 4;
/// Told by every member.
const REBALANCE_MS: i32 = 20_000;

/// A consumer that follows what it is told, unless a test says otherwise.
#[derive(Clone, Debug)]
struct Modern {
    id: String,
    instance: Option<&'static str>,
    epoch: i32,
    assigned: BTreeSet<i32>,
    /// What it consumes; it gives up what it is not assigned any more.
    owned: BTreeSet<i32>,
    /// Its next heartbeat says what it owns.
    has_news: bool,
}

impl Modern {
    fn new(id: &str) -> Modern {
        let (id, nothing) = (id.to_owned(), BTreeSet::new());
        Modern { id, instance: None, epoch: 0, assigned: nothing.clone(), owned: nothing, has_news: true }
    }

    fn fixed(id: &str, instance: &'static str) -> Modern {
        Modern { instance: Some(instance), ..Modern::new(id) }
    }

    fn request(&self) -> ConsumerGroupHeartbeatRequest {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id())
            .with_member_id(text(&self.id))
            .with_member_epoch(self.epoch)
            .with_instance_id(self.instance.map(text))
            .with_rebalance_timeout_ms(-1)
            .with_topic_partitions(self.has_news.then(|| of_orders(&self.owned)));
        match self.epoch {
            0 => request
                .with_rebalance_timeout_ms(REBALANCE_MS)
                .with_subscribed_topic_names(Some(vec![TopicName(text("orders"))])),
            _ => request,
        }
    }

    fn take_in(&mut self, response: &ConsumerGroupHeartbeatResponse) {
        self.epoch = response.member_epoch;
        self.has_news = false;
        if let Some(assignment) = &response.assignment {
            self.assigned = assignment.topic_partitions.iter().flat_map(|of| of.partitions.clone()).collect();
        }
    }

    /// Gives up what is not assigned, and takes up what is.
    fn follow(&mut self) {
        self.has_news |= self.owned != self.assigned;
        self.owned.clone_from(&self.assigned);
    }
}

fn of_orders(partitions: &BTreeSet<i32>) -> Vec<TopicPartitions> {
    if partitions.is_empty() {
        return Vec::new();
    }
    vec![TopicPartitions::default().with_topic_id(ORDERS).with_partitions(partitions.iter().copied().collect())]
}

fn orders(partitions: i32) -> [(StrBytes, TopicMetadata); 1] {
    [(text("orders"), TopicMetadata { id: ORDERS, partitions })]
}

impl Bench {
    fn modern() -> Bench {
        Bench::modern_with(GroupCoordinatorConfig::default())
    }

    fn modern_with(config: GroupCoordinatorConfig) -> Bench {
        let mut bench = Bench::with(config);
        bench.coordinator.on_topics(orders(PARTITIONS));
        bench
    }

    fn modern_fail_over(&mut self) {
        self.fail_over();
        self.coordinator.on_topics(orders(PARTITIONS));
    }

    pub(super) fn beat_with(&mut self, request: ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse {
        let ticket = self.ask_in_version(1, &GroupRequest::ConsumerHeartbeat(request));
        match &self.answers[&ticket] {
            Answer::ConsumerHeartbeat(response) => response.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// One heartbeat; its error.
    fn beat(&mut self, member: &mut Modern) -> i16 {
        let response = self.beat_with(member.request());
        if response.error_code == 0 {
            member.take_in(&response);
        }
        response.error_code
    }

    /// Heartbeats of members that follow, until nothing changes.
    fn reconcile(&mut self, members: &mut [&mut Modern]) {
        for _ in 0..6 {
            for member in members.iter_mut() {
                assert_eq!(self.beat(member), 0, "{member:?}");
                member.follow();
            }
        }
        assert_eq!(self.described().group_state.as_str(), "Stable");
    }

    fn leave_as(&mut self, member: &Modern, epoch: i32) -> i16 {
        self.beat_with(member.request().with_member_epoch(epoch).with_topic_partitions(None)).error_code
    }

    fn described(&mut self) -> DescribedGroup {
        let ticket = self.ask(&GroupRequest::ConsumerDescribe(vec![group_id()]));
        match &self.answers[&ticket] {
            Answer::ConsumerDescribe(groups) => groups[0].clone(),
            other => panic!("{other:?}"),
        }
    }

    fn fetch_as(&mut self, member: &str, epoch: i32) -> i16 {
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(group_id())
            .with_member_id(Some(text(member)))
            .with_member_epoch(epoch);
        let ticket = self.ask(&GroupRequest::Fetch { group, require_stable: true });
        match &self.answers[&ticket] {
            Answer::Fetch(response) => response.error_code,
            other => panic!("{other:?}"),
        }
    }

    /// One member with everything, another with nothing that has just joined.
    fn joined_by_a_second() -> (Bench, Modern, Modern) {
        let mut bench = Bench::modern();
        let (mut one, mut two) = (Modern::new("one"), Modern::new("two"));
        bench.reconcile(&mut [&mut one]);
        assert_eq!(bench.beat(&mut two), 0);
        (bench, one, two)
    }
}

fn set(partitions: impl IntoIterator<Item = i32>) -> BTreeSet<i32> {
    partitions.into_iter().collect()
}

#[test]
fn the_first_member_makes_the_group_and_is_given_everything_at_once() {
    let mut bench = Bench::modern();
    let mut one = Modern::new("one");
    let response = bench.beat_with(one.request());
    assert_eq!((response.error_code, response.member_epoch), (0, 1));
    assert_eq!(response.heartbeat_interval_ms, 5_000);
    one.take_in(&response);
    assert_eq!(one.assigned, set(0..PARTITIONS));
    let described = bench.described();
    assert_eq!((described.group_epoch, described.assignment_epoch), (1, 1));
    assert_eq!((described.group_state.as_str(), described.assignor_name.as_str()), ("Stable", "uniform"));
    // Told once.
    assert_eq!(bench.beat_with(one.request()).assignment, None);
}

#[test]
fn an_answer_waits_until_its_records_are_committed() {
    let mut bench = Bench::modern();
    bench.commits_at_once = false;
    let ticket = bench.ask_in_version(1, &GroupRequest::ConsumerHeartbeat(Modern::new("one").request()));
    assert!(!bench.answered(ticket));
    bench.commit_everything();
    assert!(bench.answered(ticket));
}

#[test]
fn a_second_member_gets_what_the_first_says_it_has_given_up() {
    let (mut bench, mut one, mut two) = Bench::joined_by_a_second();
    assert_eq!((two.epoch, two.assigned.clone()), (2, set([])));
    // The first one is told to give two up, and stays in its epoch until it has.
    assert_eq!(bench.beat(&mut one), 0);
    assert_eq!((one.epoch, one.assigned.len()), (1, 2));
    assert_eq!(bench.described().group_state.as_str(), "Reconciling");
    one.has_news = true;
    assert_eq!((bench.beat(&mut one), one.epoch), (0, 1));
    assert_eq!((bench.beat(&mut two), two.assigned.len()), (0, 0));
    one.follow();
    assert_eq!((bench.beat(&mut one), one.epoch), (0, 2));
    assert_eq!(bench.beat(&mut two), 0);
    assert_eq!(&one.owned | &two.assigned, set(0..PARTITIONS));
    assert!(one.owned.is_disjoint(&two.assigned));
}

#[test]
fn what_a_member_was_assigned_and_does_not_name_goes_to_others_at_once() {
    let mut bench = Bench::modern();
    let (mut one, mut two) = (Modern::new("one"), Modern::new("two"));
    // It was assigned everything, and has taken up nothing of it yet.
    assert_eq!(bench.beat(&mut one), 0);
    assert_eq!(bench.beat(&mut two), 0);
    assert_eq!(bench.coordinator.take_news(), []);
    let early = one.clone();
    one.has_news = true;
    assert_eq!((bench.beat(&mut one), one.epoch), (0, 2), "it is not asked to give anything up");
    let gone = early.assigned.difference(&one.assigned);
    let unclaimed =
        |partition: &i32| GroupNews::Unclaimed { group: group_id().0, topic: text("orders"), partition: *partition };
    assert_eq!(bench.coordinator.take_news(), gone.map(unclaimed).collect::<Vec<_>>());
    assert_eq!(bench.beat(&mut two), 0);
    assert_eq!(&one.assigned | &two.assigned, set(0..PARTITIONS));
}

#[test]
fn what_a_member_is_to_give_up_and_has_never_named_it_may_be_about_to_take_up() {
    for has_named_it in [true, false] {
        let mut bench = Bench::modern();
        let (mut one, mut two) = (Modern::new("one"), Modern::new("two"));
        assert_eq!(bench.beat(&mut one), 0);
        if has_named_it {
            one.follow();
            assert_eq!(bench.beat(&mut one), 0);
        }
        assert_eq!(bench.beat(&mut two), 0);
        // It is asked to give two up, and does not hear that: it says again what it has taken up, or follows.
        let before = one.clone();
        assert_eq!((bench.beat(&mut one), one.epoch), (0, 1));
        let mut again = if has_named_it { one.clone() } else { before };
        again.follow();
        if !has_named_it {
            again.owned.clear();
        }
        again.has_news = true;
        assert_eq!((bench.beat(&mut again), again.epoch), (0, 2));
        let gone = set(0..PARTITIONS).difference(&one.assigned).copied().collect::<Vec<_>>();
        let unclaimed = |partition: &i32| GroupNews::Unclaimed {
            group: group_id().0,
            topic: text("orders"),
            partition: *partition,
        };
        let expected = if has_named_it { Vec::new() } else { gone.iter().map(unclaimed).collect() };
        assert_eq!(bench.coordinator.take_news(), expected, "{has_named_it}");
    }
}

#[test]
fn who_does_not_give_up_in_time_is_fenced_and_loses_everything() {
    let (mut bench, mut one, mut two) = Bench::joined_by_a_second();
    assert_eq!(bench.beat(&mut one), 0);
    // It lives, and goes on consuming.
    one.has_news = true;
    for _ in 0..4 {
        assert_eq!(bench.beat(&mut one.clone()), 0);
        assert_eq!(bench.beat(&mut two), 0);
        bench.wait(Duration::from_millis(REBALANCE_MS as u64 / 4));
    }
    assert_eq!(bench.beat(&mut one), ErrorCode::UnknownMemberId.code());
    bench.reconcile(&mut [&mut two]);
    assert_eq!(two.owned, set(0..PARTITIONS));
}

#[test]
fn a_silent_member_is_fenced_after_the_session_timeout_of_the_group() {
    let (mut bench, mut one, mut two) = Bench::joined_by_a_second();
    bench.reconcile(&mut [&mut one, &mut two]);
    bench.wait(Duration::from_secs(44));
    assert_eq!(bench.beat(&mut two), 0);
    bench.wait(Duration::from_secs(1));
    bench.reconcile(&mut [&mut two]);
    assert_eq!(two.owned, set(0..PARTITIONS));
    assert_eq!(bench.beat(&mut one), ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_silent_member_is_fenced_as_soon_as_that_can_be_stored() {
    let (mut bench, mut one, mut two) = Bench::joined_by_a_second();
    bench.reconcile(&mut [&mut one, &mut two]);
    bench.log.refuses = Some(ErrorCode::NotEnoughReplicas);
    for _ in 0..5 {
        bench.wait(bench.coordinator.config().consumer_session_timeout);
        assert_eq!(bench.described().members.len(), 2);
    }
    bench.log.refuses = None;
    bench.wait(Duration::from_millis(500));
    assert_eq!(bench.described().members.len(), 0);
}

#[test]
fn a_member_that_missed_an_answer_goes_on_and_any_other_epoch_is_fenced() {
    let (mut bench, mut one, mut two) = Bench::joined_by_a_second();
    assert_eq!(bench.beat(&mut one), 0);
    one.follow();
    let before = one.clone();
    assert_eq!((bench.beat(&mut one), one.epoch), (0, 2));
    // The answer was lost: the same heartbeat again.
    let mut again = before.clone();
    assert_eq!((bench.beat(&mut again), again.epoch), (0, 2));
    // Without saying what it owns, or owning more than it was assigned.
    let fenced = ErrorCode::FencedMemberEpoch.code();
    assert_eq!(bench.beat(&mut Modern { has_news: false, ..before.clone() }), fenced);
    assert_eq!(bench.beat(&mut Modern { owned: set(0..PARTITIONS), ..before }), fenced);
    assert_eq!(bench.beat(&mut Modern { epoch: 3, ..one.clone() }), fenced);
    assert_eq!(bench.beat(&mut Modern { epoch: 7, ..Modern::new("stranger") }), ErrorCode::UnknownMemberId.code());
    bench.reconcile(&mut [&mut one, &mut two]);
}

#[test]
fn a_known_member_may_join_again_and_is_told_everything() {
    let rejoined = |defects: Defects| {
        let mut bench = Bench::modern_with(GroupCoordinatorConfig { defects, ..GroupCoordinatorConfig::default() });
        let (mut one, mut two) = (Modern::new("one"), Modern::new("two"));
        bench.reconcile(&mut [&mut one, &mut two]);
        let before = two.owned.clone();
        let mut again = Modern::new("two");
        let error = bench.beat(&mut again);
        (error, again.epoch == two.epoch && again.assigned == before, bench.coordinator.take_news())
    };
    assert_eq!(rejoined(Defects::default()), (0, true, vec![]));
    let fenced = ErrorCode::FencedMemberEpoch.code();
    let told = vec![GroupNews::RefusedJoin(group_id().0)];
    assert_eq!(rejoined([Defect::RejoinStaysFenced].into_iter().collect()), (fenced, false, told));
}

#[test]
fn a_member_that_leaves_hands_over_at_once_and_the_last_one_leaves_an_empty_group() {
    let (mut bench, mut one, mut two) = Bench::joined_by_a_second();
    bench.reconcile(&mut [&mut one, &mut two]);
    assert_eq!(bench.leave_as(&two, -1), 0);
    bench.reconcile(&mut [&mut one]);
    assert_eq!(one.owned, set(0..PARTITIONS));
    assert_eq!(bench.leave_as(&one, -1), 0);
    assert_eq!(bench.described().group_state.as_str(), "Empty");
    assert_eq!(bench.leave_as(&one, -1), ErrorCode::UnknownMemberId.code());
}

#[test]
fn offsets_are_for_members_in_their_epoch() {
    let (mut bench, mut one, mut two) = Bench::joined_by_a_second();
    let commit = |bench: &mut Bench, version: i16, member: &str, epoch: i32| {
        let ticket = bench.commit_in_version(version, member, epoch, "orders", 5);
        bench.committed(ticket)
    };
    assert_eq!(commit(&mut bench, 9, "one", one.epoch), 0);
    assert_eq!(commit(&mut bench, 9, "one", 7), ErrorCode::StaleMemberEpoch.code());
    assert_eq!(commit(&mut bench, 8, "one", one.epoch), ErrorCode::UnsupportedVersion.code());
    assert_eq!(commit(&mut bench, 9, "stranger", 1), ErrorCode::UnknownMemberId.code());
    assert_eq!(commit(&mut bench, 9, "", -1), ErrorCode::UnknownMemberId.code());
    assert_eq!(bench.fetch_as("two", two.epoch), 0);
    assert_eq!(bench.fetch_as("two", two.epoch + 1), ErrorCode::StaleMemberEpoch.code());
    assert_eq!(bench.fetch_as("stranger", 1), ErrorCode::UnknownMemberId.code());
    assert_eq!(bench.offset("orders"), 5);
    bench.reconcile(&mut [&mut one, &mut two]);
    // An administrator commits to an empty group.
    assert_eq!((bench.leave_as(&one, -1), bench.leave_as(&two, -1)), (0, 0));
    assert_eq!(commit(&mut bench, 9, "", -1), 0);
}

#[test]
fn the_next_coordinator_goes_on_in_the_middle_of_a_reconciliation() {
    let (mut bench, mut one, mut two) = Bench::joined_by_a_second();
    assert_eq!(bench.beat(&mut one), 0);
    let before = bench.described();
    bench.modern_fail_over();
    assert_eq!(bench.described(), before);
    one.has_news = true;
    assert_eq!((bench.beat(&mut one), one.epoch), (0, 1));
    one.follow();
    bench.reconcile(&mut [&mut one, &mut two]);
    assert_eq!((one.owned.len(), two.owned.len()), (2, 2));
    bench.modern_fail_over();
    // Both timeouts count from the election.
    bench.wait(Duration::from_secs(44));
    assert_eq!(bench.beat(&mut one), 0);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.beat(&mut two), ErrorCode::UnknownMemberId.code());
}

#[test]
fn what_must_be_given_up_has_its_time_after_a_failover_too() {
    let (mut bench, mut one, _) = Bench::joined_by_a_second();
    assert_eq!(bench.beat(&mut one), 0);
    bench.modern_fail_over();
    one.has_news = true;
    bench.wait(Duration::from_millis(REBALANCE_MS as u64 - 1));
    assert_eq!(bench.beat(&mut one.clone()), 0);
    bench.wait(Duration::from_millis(1));
    assert_eq!(bench.beat(&mut one), ErrorCode::UnknownMemberId.code());
}

/// The log as compaction leaves it: the last record of each key.
fn compacted(log: &TestLog) -> TestLog {
    let records = log.batches.iter().flat_map(|(_, batch)| record::decode_batches(batch).expect("our own batch"));
    let mut records: Vec<Record> = records.map(|(_, record)| record).collect();
    let mut seen = BTreeSet::new();
    records.reverse();
    records.retain(|record| seen.insert(record.key()));
    records.reverse();
    let mut compacted = TestLog::default();
    for record in records {
        let batch = record::encode_batch(&[record], 0);
        compacted.append(0, &batch).expect("it refuses nothing");
    }
    compacted.high_watermark = compacted.end;
    compacted
}

#[test]
fn a_compacted_log_makes_the_same_group() {
    let (mut bench, mut one, mut two) = Bench::joined_by_a_second();
    bench.reconcile(&mut [&mut one, &mut two]);
    let mut three = Modern::fixed("three", "i");
    for step in 0..12 {
        match step {
            1 => assert_eq!(bench.beat(&mut three), 0),
            5 => assert_eq!(bench.leave_as(&two, -1), 0),
            7 => {
                assert_eq!(bench.leave_as(&three, -2), 0);
                three = Modern::fixed("four", "i");
            }
            _ => {
                assert_eq!(bench.beat(&mut one), 0);
                one.follow();
                if (2..7).contains(&step) || step > 8 {
                    assert_eq!(bench.beat(&mut three), 0);
                    three.follow();
                }
            }
        }
        let before = bench.described();
        let mut after = Bench::modern();
        after.log = compacted(&bench.log);
        after.modern_fail_over();
        assert_eq!(after.described(), before, "after step {step}");
    }
}

#[test]
fn a_static_member_that_is_to_come_back_keeps_its_share_for_its_successor() {
    let mut bench = Bench::modern();
    let (mut one, mut two) = (Modern::fixed("one", "i1"), Modern::fixed("two", "i2"));
    bench.reconcile(&mut [&mut one]);
    assert_eq!(bench.beat(&mut two), 0);
    bench.reconcile(&mut [&mut one, &mut two]);
    let (epoch, share) = (two.epoch, two.owned.clone());
    // Nobody takes an instance id that is in use.
    let mut successor = Modern::fixed("three", "i2");
    assert_eq!(bench.beat(&mut successor), ErrorCode::UnreleasedInstanceId.code());
    assert_eq!(bench.leave_as(&two, -2), 0);
    bench.reconcile_others(&mut one);
    assert_eq!(bench.beat(&mut successor), 0);
    assert_eq!((successor.epoch, successor.assigned.clone()), (epoch, share));
    assert_eq!(bench.beat(&mut two), ErrorCode::FencedInstanceId.code());
    assert_eq!(bench.beat(&mut Modern::fixed("x", "i3").with_epoch(2)), ErrorCode::UnknownMemberId.code());
    successor.follow();
    bench.reconcile(&mut [&mut one, &mut successor]);
    assert_eq!(bench.described().group_epoch, epoch);
}

#[test]
fn a_static_member_that_does_not_come_back_is_out_after_its_session() {
    let mut bench = Bench::modern();
    let (mut one, mut two) = (Modern::new("one"), Modern::fixed("two", "i2"));
    bench.reconcile(&mut [&mut one]);
    assert_eq!(bench.beat(&mut two), 0);
    bench.reconcile(&mut [&mut one, &mut two]);
    assert_eq!(bench.leave_as(&two, -2), 0);
    bench.wait(Duration::from_secs(30));
    bench.reconcile_others(&mut one);
    bench.wait(Duration::from_secs(15));
    bench.reconcile(&mut [&mut one]);
    assert_eq!(one.owned, set(0..PARTITIONS));
}

impl Modern {
    fn with_epoch(self, epoch: i32) -> Modern {
        Modern { epoch, ..self }
    }
}

impl Bench {
    /// A member that nothing changes for, while another one is away.
    fn reconcile_others(&mut self, member: &mut Modern) {
        let before = member.clone();
        assert_eq!(self.beat(member), 0);
        assert_eq!((member.epoch, &member.assigned), (before.epoch, &before.assigned));
    }
}

#[test]
fn partitions_that_come_and_topics_that_go_are_noticed_with_the_next_heartbeat() {
    let (mut bench, mut one, mut two) = Bench::joined_by_a_second();
    bench.reconcile(&mut [&mut one, &mut two]);
    bench.coordinator.on_topics(orders(PARTITIONS + 2));
    bench.reconcile(&mut [&mut one, &mut two]);
    assert_eq!((one.owned.len(), two.owned.len()), (3, 3));
    let gone = [(ORDERS, text("orders"))];
    bench.coordinator.on_topics_deleted(bench.clock(), &gone, &mut bench.log);
    bench.reconcile(&mut [&mut one, &mut two]);
    assert_eq!((one.owned.len(), two.owned.len()), (0, 0));
    bench.coordinator.on_topics(orders(2));
    bench.reconcile(&mut [&mut one, &mut two]);
    assert_eq!((one.owned.len(), two.owned.len()), (1, 1));
}

#[test]
fn most_members_choose_the_assignor_and_an_unknown_one_is_refused() {
    let mut bench = Bench::modern();
    let one = Modern::new("one");
    let response = bench.beat_with(one.request().with_server_assignor(Some(text("range"))));
    assert_eq!((response.error_code, bench.described().assignor_name.as_str()), (0, "range"));
    let response = bench.beat_with(Modern::new("two").request().with_server_assignor(Some(text("sticky"))));
    assert_eq!(response.error_code, ErrorCode::UnsupportedAssignor.code());
    let message = "ServerAssignor sticky is not supported. Supported assignors: uniform, range.";
    assert_eq!(response.error_message.as_deref(), Some(message));
}

#[test]
fn a_request_that_makes_no_sense_is_refused_with_a_reason() {
    let mut bench = Bench::modern();
    let join = || Modern::new("one").request();
    let owned = of_orders(&set([1]));
    for (request, message) in [
        (join().with_group_id(GroupId(text(""))), "GroupId can't be empty."),
        (join().with_member_id(text("")), "MemberId can't be empty."),
        (join().with_instance_id(Some(text(""))), "InstanceId can't be empty."),
        (join().with_rebalance_timeout_ms(-1), "RebalanceTimeoutMs must be provided in first request."),
        (join().with_topic_partitions(Some(owned)), "TopicPartitions must be empty when (re-)joining."),
        (
            join().with_subscribed_topic_names(None),
            "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
        ),
        (join().with_member_epoch(-2), "InstanceId can't be null."),
        (join().with_member_epoch(-3), "MemberEpoch is invalid."),
    ] {
        let response = bench.beat_with(request);
        assert_eq!(response.error_code, ErrorCode::InvalidRequest.code(), "{message}");
        assert_eq!(response.error_message.as_deref(), Some(message));
    }
    // Before KIP-1082 the coordinator made the id.
    let request = GroupRequest::ConsumerHeartbeat(join().with_member_id(text("")));
    let ticket = bench.ask_in_version(0, &request);
    let Answer::ConsumerHeartbeat(response) = &bench.answers[&ticket] else { panic!("not the answer") };
    assert!(response.member_id.as_ref().is_some_and(|id| !id.is_empty()));
}

#[test]
fn a_full_group_takes_nobody_else() {
    let config = GroupCoordinatorConfig { consumer_max_size: 1, ..GroupCoordinatorConfig::default() };
    let mut bench = Bench::modern_with(config);
    let mut one = Modern::new("one");
    bench.reconcile(&mut [&mut one]);
    assert_eq!(bench.beat(&mut Modern::new("two")), ErrorCode::GroupMaxSizeReached.code());
    assert_eq!(bench.beat(&mut one), 0);
}

#[test]
fn consumer_groups_are_listed_by_type_and_deleted_when_they_are_empty() {
    let mut bench = Bench::modern();
    let mut one = Modern::new("one");
    bench.reconcile(&mut [&mut one]);
    let ticket = bench.commit("one", one.epoch, "orders", 5);
    assert_eq!(bench.committed(ticket), 0);
    let list = |bench: &mut Bench, states: &[&str], types: &[&str]| {
        let filter = |words: &[&str]| words.iter().map(|word| text(word)).collect::<Vec<_>>();
        let listed = bench.coordinator.list_groups(&filter(states), &filter(types)).expect("loaded");
        listed.iter().map(|group| format!("{} {}", &*group.group_type, &*group.group_state)).collect::<Vec<_>>()
    };
    assert_eq!(list(&mut bench, &[], &["Consumer"]), ["consumer Stable"]);
    assert!(list(&mut bench, &[], &["classic"]).is_empty() && list(&mut bench, &["empty"], &[]).is_empty());
    // DescribeGroups is about classic groups.
    assert_eq!(bench.state(), "Dead");
    let delete = |bench: &mut Bench| {
        let ticket = bench.ask(&GroupRequest::Delete(vec![group_id()]));
        let Answer::Delete(results) = &bench.answers[&ticket] else { panic!("not the answer") };
        results[0].error_code
    };
    assert_eq!(delete(&mut bench), ErrorCode::NonEmptyGroup.code());
    assert_eq!(bench.leave_as(&one, -1), 0);
    assert_eq!(delete(&mut bench), 0);
    assert_eq!(bench.described().error_code, ErrorCode::GroupIdNotFound.code());
    bench.modern_fail_over();
    assert!(list(&mut bench, &[], &[]).is_empty());
    assert_eq!(bench.offset("orders"), -1);
}

#[test]
fn offsets_of_a_consumer_group_expire_when_nobody_subscribes_to_the_topic() {
    let mut bench = Bench::modern();
    let mut one = Modern::new("one");
    bench.reconcile(&mut [&mut one]);
    for topic in ["orders", "other"] {
        let ticket = bench.commit("one", one.epoch, topic, 5);
        assert_eq!(bench.committed(ticket), 0);
    }
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    let until = bench.now + week + Duration::from_secs(1_200);
    while bench.now < until {
        assert_eq!(bench.beat(&mut one), 0);
        bench.wait(Duration::from_secs(40));
    }
    assert_eq!((bench.offset("orders"), bench.offset("other")), (5, -1));
}

/// A member of the classic protocol in a consumer group.
fn classic_assignment(bench: &mut Bench, member: &str, epoch: i32) -> Result<BTreeSet<i32>, i16> {
    let ticket = bench.sync(member, epoch, &[]);
    let response = bench.synced(ticket);
    if response.error_code != 0 {
        return Err(response.error_code);
    }
    let mut bytes = response.assignment;
    assert_eq!(bytes.split_to(2), Bytes::from_static(b"\0\0"), "the version of the subscription");
    let assignment = ConsumerProtocolAssignment::decode(&mut bytes, 0).expect("an assignment");
    Ok(assignment.assigned_partitions.iter().flat_map(|of| of.partitions.clone()).collect())
}

/// All partitions, as a classic leader assigns them.
const EVERYTHING: &[u8] = b"\0\0\0\0\0\x01\0\x06orders\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\xff\xff\xff\xff";

fn classic_with_everything(config: GroupCoordinatorConfig) -> (Bench, String) {
    let mut bench = Bench::modern_with(config);
    let (member, _) = bench.join_new();
    bench.wait(DELAY);
    let ticket = bench.sync(&member, 1, &[(&member, EVERYTHING)]);
    assert_eq!(bench.synced(ticket).error_code, 0);
    (bench, member)
}

#[test]
fn a_classic_group_becomes_a_consumer_group_and_a_classic_one_again() {
    let (mut bench, old) = classic_with_everything(GroupCoordinatorConfig::default());
    let mut new = Modern::new("new");
    assert_eq!(bench.beat(&mut new), 0);
    let described = bench.described();
    assert_eq!((described.error_code, described.members.len(), described.group_epoch), (0, 2, 2));
    assert_eq!((new.epoch, new.assigned.len()), (2, 0));
    // An eager member gives everything up, joins with nothing and is given its share.
    assert_eq!(bench.heartbeat(&old, 1), ErrorCode::RebalanceInProgress.code());
    let ticket = bench.join(&old);
    assert_eq!(bench.joined(ticket).generation_id, 2);
    let share = classic_assignment(&mut bench, &old, 2).expect("in its epoch");
    assert_eq!((bench.beat(&mut new), new.assigned.len()), (0, 2));
    assert_eq!(&share | &new.assigned, set(0..PARTITIONS));
    assert_eq!(bench.heartbeat(&old, 2), 0);
    assert_eq!(bench.heartbeat(&old, 1), ErrorCode::IllegalGeneration.code());
    assert_eq!(bench.heartbeat(&new.id, 2), ErrorCode::UnknownMemberId.code());
    let ticket = bench.commit(&old, 2, "orders", 3);
    assert_eq!(bench.committed(ticket), 0);
    let before = bench.described();
    bench.modern_fail_over();
    assert_eq!(bench.described(), before);

    assert_eq!(bench.leave_as(&new, -1), 0);
    assert_eq!(bench.described().error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(bench.state(), "PreparingRebalance");
    assert_eq!(bench.heartbeat(&old, 2), ErrorCode::RebalanceInProgress.code());
    let ticket = bench.join(&old);
    assert_eq!(bench.joined(ticket).generation_id, 3);
    let downgraded = GroupNews::Downgraded { group: group_id().0, generation: 2 };
    assert_eq!(bench.coordinator.take_news(), [downgraded], "its generations go on");
    bench.modern_fail_over();
    assert_eq!(bench.state(), "Stable");
    assert_eq!(bench.offset("orders"), 3);
}

#[test]
fn a_leader_that_knew_of_more_partitions_than_the_coordinator_keeps_its_group_classic_until_the_coordinator_hears() {
    let (mut bench, old) = classic_with_everything(GroupCoordinatorConfig::default());
    bench.coordinator.on_topics(orders(2));
    let mut new = Modern::new("new");
    assert_eq!(bench.beat(&mut new), ErrorCode::UnknownServerError.code());
    assert_eq!((bench.state().as_str(), bench.heartbeat(&old, 1)), ("Stable", 0), "nothing has happened");
    bench.coordinator.on_topics(orders(PARTITIONS));
    assert_eq!(bench.beat(&mut new), 0);
    assert_eq!(bench.described().members.len(), 2);
}

#[test]
fn a_group_whose_only_member_leaves_before_its_first_generation_may_be_upgraded() {
    let mut bench = Bench::modern_with(GroupCoordinatorConfig::default());
    let (gone, joining) = bench.join_new();
    assert!(!bench.answered(joining), "others are waited for");
    assert_eq!(bench.leave(&gone), 0);
    assert_eq!(bench.state(), "PreparingRebalance");
    let mut new = Modern::new("new");
    bench.reconcile(&mut [&mut new]);
    assert_eq!(new.owned, set(0..PARTITIONS));
}

#[test]
fn a_classic_member_that_was_taken_out_comes_back_with_what_it_had() {
    let (mut bench, old) = classic_with_everything(GroupCoordinatorConfig::default());
    let mut new = Modern::new("new");
    assert_eq!(bench.beat(&mut new), 0);
    // It lives, and does not join again in time.
    while bench.heartbeat(&old, 1) == ErrorCode::RebalanceInProgress.code() {
        bench.wait(SESSION / 2);
        assert_eq!(bench.beat(&mut new), 0);
    }
    assert_eq!(bench.heartbeat(&old, 1), ErrorCode::UnknownMemberId.code());
    bench.reconcile(&mut [&mut new]);
    assert_eq!(new.owned, set(0..PARTITIONS));
    assert_eq!(bench.coordinator.take_news(), []);
    let owned =
        OwnedPartitions::default().with_topic(TopicName(text("orders"))).with_partitions((0..PARTITIONS).collect());
    let subscription =
        ConsumerProtocolSubscription::default().with_topics(vec![text("orders")]).with_owned_partitions(vec![owned]);
    let mut metadata = BytesMut::new();
    metadata.put_i16(1);
    subscription.encode(&mut metadata, 1).unwrap();
    let joining = bench.join_with(&old, None, metadata.freeze());
    assert_eq!(bench.joined(joining).error_code, 0, "a classic group would tell it that it is unknown");
    let unclaimed = |partition| GroupNews::Unclaimed { group: group_id().0, topic: text("orders"), partition };
    assert_eq!(bench.coordinator.take_news(), (0..PARTITIONS).map(unclaimed).collect::<Vec<_>>());
}

#[test]
fn a_downgrade_in_the_middle_of_a_rebalance_gives_to_one_what_another_still_has() {
    let (mut bench, old) = classic_with_everything(GroupCoordinatorConfig::default());
    let mut new = Modern::new("new");
    assert_eq!(bench.beat(&mut new), 0);
    let (third, joining) = bench.join_new();
    let epoch = bench.joined(joining).generation_id;
    assert_eq!(classic_assignment(&mut bench, &third, epoch), Ok(set([])), "the first has not heard of anything");
    assert_eq!(bench.heartbeat(&old, 1), ErrorCode::RebalanceInProgress.code());
    assert_eq!(bench.coordinator.take_news(), []);
    assert_eq!(bench.leave_as(&new, -1), 0);
    let news = bench.coordinator.take_news();
    let Some((GroupNews::Downgraded { .. }, unclaimed)) = news.split_first() else { panic!("{news:?}") };
    let is_unclaimed = |news: &GroupNews| matches!(news, GroupNews::Unclaimed { .. });
    assert!(!unclaimed.is_empty() && unclaimed.iter().all(is_unclaimed), "{news:?}");
}

#[test]
fn a_downgrade_that_cannot_be_stored_has_not_happened() {
    let (mut bench, old) = classic_with_everything(GroupCoordinatorConfig::default());
    let mut new = Modern::new("new");
    assert_eq!(bench.beat(&mut new), 0);
    bench.log.refuses = Some(ErrorCode::NotEnoughReplicas);
    assert_eq!(bench.leave_as(&new, -1), ErrorCode::CoordinatorNotAvailable.code());
    assert_eq!(bench.coordinator.take_news(), [GroupNews::Unwatched(group_id().0)]);
    bench.log.refuses = None;
    assert_eq!(bench.described().members.len(), 2);
    assert_eq!(bench.leave_as(&new, -1), 0);
    assert_eq!(bench.heartbeat(&old, 1), ErrorCode::IllegalGeneration.code());
    assert_eq!(bench.heartbeat(&old, 2), ErrorCode::RebalanceInProgress.code());
}

#[test]
fn whether_groups_with_members_change_their_protocol_is_a_policy() {
    let policy = |consumer_migration_policy| GroupCoordinatorConfig {
        consumer_migration_policy,
        ..GroupCoordinatorConfig::default()
    };
    for policy in [MigrationPolicy::Disabled, MigrationPolicy::Downgrade].map(policy) {
        let (mut bench, old) = classic_with_everything(policy);
        assert_eq!(bench.beat(&mut Modern::new("new")), ErrorCode::GroupIdNotFound.code());
        assert_eq!(bench.heartbeat(&old, 1), 0);
    }
    let (mut bench, old) = classic_with_everything(policy(MigrationPolicy::Upgrade));
    let mut new = Modern::new("new");
    assert_eq!(bench.beat(&mut new), 0);
    assert_eq!(bench.leave_as(&new, -1), 0);
    let described = bench.described();
    assert_eq!((described.error_code, described.members.len()), (0, 1));
    assert_eq!(bench.heartbeat(&old, 1), ErrorCode::RebalanceInProgress.code());
}

#[test]
fn an_empty_group_takes_members_of_either_protocol() {
    let policy = MigrationPolicy::Disabled;
    let config = GroupCoordinatorConfig { consumer_migration_policy: policy, ..GroupCoordinatorConfig::default() };
    let (mut bench, old) = classic_with_everything(config);
    assert_eq!(bench.leave(&old), 0);
    let mut new = Modern::new("new");
    bench.reconcile(&mut [&mut new]);
    assert_eq!(new.owned, set(0..PARTITIONS));
    assert_eq!(bench.leave_as(&new, -1), 0);
    bench.modern_fail_over();
    assert_eq!(bench.described().group_state.as_str(), "Empty");
    let epoch = bench.described().group_epoch;
    assert!(epoch > 1, "{epoch}");
    let (_, joining) = bench.join_new();
    assert_eq!(bench.coordinator.take_news(), [GroupNews::Deleted(group_id().0)], "generations begin anew");
    bench.wait(DELAY);
    assert_eq!(bench.joined(joining).generation_id, 1);
    assert_eq!(bench.state(), "CompletingRebalance");
    bench.modern_fail_over();
    assert_eq!(bench.state(), "Empty");
}

#[test]
fn a_classic_member_that_does_not_rejoin_in_time_is_out() {
    let (mut bench, old) = classic_with_everything(GroupCoordinatorConfig::default());
    let mut new = Modern::new("new");
    assert_eq!(bench.beat(&mut new), 0);
    let mut waited = Duration::ZERO;
    while waited < REBALANCE {
        assert_eq!(bench.heartbeat(&old, 1), ErrorCode::RebalanceInProgress.code());
        assert_eq!((bench.beat(&mut new), new.assigned.len()), (0, 0));
        bench.wait(SESSION / 2);
        waited += SESSION / 2;
    }
    assert_eq!(bench.heartbeat(&old, 1), ErrorCode::UnknownMemberId.code());
    bench.reconcile(&mut [&mut new]);
    assert_eq!(new.owned, set(0..PARTITIONS));
}

#[test]
fn members_of_both_protocols_come_and_go_in_a_consumer_group() {
    let mut bench = Bench::modern();
    let mut new = Modern::new("new");
    bench.reconcile(&mut [&mut new]);
    let (old, joining) = bench.join_new();
    assert_eq!(bench.joined(joining).generation_id, 2);
    assert_eq!(classic_assignment(&mut bench, &old, 2), Ok(set([])));
    bench.beat(&mut new);
    new.follow();
    bench.beat(&mut new);
    // What it waited for is free.
    assert_eq!(bench.heartbeat(&old, 2), ErrorCode::RebalanceInProgress.code());
    let ticket = bench.join(&old);
    assert_eq!(bench.joined(ticket).generation_id, 2);
    let share = classic_assignment(&mut bench, &old, 2).expect("in its epoch");
    assert_eq!(&share | &new.owned, set(0..PARTITIONS));
    assert_eq!(bench.leave("stranger"), ErrorCode::UnknownMemberId.code());
    assert_eq!(bench.leave(&new.id), ErrorCode::UnknownMemberId.code());
    assert_eq!(bench.leave(&old), 0);
    bench.reconcile(&mut [&mut new]);
    assert_eq!(new.owned, set(0..PARTITIONS));
    // A protocol that no consumer speaks.
    let ticket = bench.ask(&GroupRequest::Join(
        JoinGroupRequest::default()
            .with_group_id(group_id())
            .with_session_timeout_ms(10_000)
            .with_protocol_type(text("connect")),
    ));
    assert_eq!(bench.joined(ticket).error_code, ErrorCode::InconsistentGroupProtocol.code());
}

#[test]
fn a_static_member_that_comes_back_with_the_classic_protocol_takes_its_place_and_the_group_with_it() {
    let mut bench = Bench::modern();
    let mut two = Modern::fixed("two", "i2");
    bench.reconcile(&mut [&mut two]);
    let joining = bench.join_as(NOT_TOLD, Some("i2"), &["orders"]);
    let joined = bench.joined(joining);
    assert_eq!((joined.error_code, joined.generation_id), (0, two.epoch));
    assert_eq!(bench.state(), "Stable");
    assert_eq!(bench.beat(&mut two), ErrorCode::GroupIdNotFound.code());
    assert_eq!(bench.heartbeat_of(&joined.member_id, Some("i2"), two.epoch), 0);
    bench.modern_fail_over();
    assert_eq!(bench.heartbeat_of(&joined.member_id, Some("i2"), two.epoch), 0);
}
