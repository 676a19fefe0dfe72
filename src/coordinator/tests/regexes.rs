//! Members of consumer groups that subscribe by regular expression.

use std::collections::BTreeMap;

use kafka_protocol::messages::ConsumerGroupHeartbeatRequest;

use super::*;

const ORDERS: (&str, Uuid) = ("orders", Uuid::from_u128(11));
const OLD_ORDERS: (&str, Uuid) = ("orders-2019", Uuid::from_u128(12));
const BILLS: (&str, Uuid) = ("bills", Uuid::from_u128(13));

/// A member of an application that takes up and gives up at once what it is told.
struct Subscriber {
    id: &'static str,
    epoch: i32,
    names: Vec<&'static str>,
    regex: &'static str,
    /// It says what it subscribes to with its next heartbeat.
    has_news: bool,
    owned: BTreeMap<Uuid, Vec<i32>>,
}

impl Subscriber {
    fn new(id: &'static str, regex: &'static str) -> Subscriber {
        Subscriber { id, epoch: 0, names: Vec::new(), regex, has_news: true, owned: BTreeMap::new() }
    }

    fn request(&self) -> ConsumerGroupHeartbeatRequest {
        let owned = self.owned.iter().map(|(id, of)| {
            kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions::default()
                .with_topic_id(*id)
                .with_partitions(of.clone())
        });
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id())
            .with_member_id(text(self.id))
            .with_member_epoch(self.epoch)
            .with_rebalance_timeout_ms(20_000)
            .with_topic_partitions(Some(owned.collect()));
        match self.has_news {
            true => request
                .with_subscribed_topic_names(Some(self.names.iter().map(|name| TopicName(text(name))).collect()))
                .with_subscribed_topic_regex(Some(text(self.regex))),
            false => request,
        }
    }

    fn topics(&self) -> Vec<Uuid> {
        self.owned.keys().copied().collect()
    }
}

impl Bench {
    /// Heartbeats until nothing changes.
    fn follow(&mut self, members: &mut [&mut Subscriber]) {
        for _ in 0..6 {
            for member in members.iter_mut() {
                let response = self.beat_with(member.request());
                assert_eq!(response.error_code, 0, "{response:?}");
                (member.epoch, member.has_news) = (response.member_epoch, false);
                if let Some(assignment) = response.assignment {
                    member.owned =
                        assignment.topic_partitions.into_iter().map(|of| (of.topic_id, of.partitions)).collect();
                }
                self.wait(Duration::from_millis(10));
            }
        }
    }

    fn create(&mut self, (name, id): (&str, Uuid)) {
        self.coordinator.on_topics([(text(name), TopicMetadata { id, partitions: 2 })]);
    }
}

fn with_topics(topics: &[(&str, Uuid)]) -> Bench {
    let mut bench = Bench::new();
    topics.iter().for_each(|topic| bench.create(*topic));
    bench
}

#[test]
fn a_member_has_the_topics_whose_whole_name_matches_and_those_that_it_names() {
    let mut bench = with_topics(&[ORDERS, OLD_ORDERS, BILLS]);
    for (regex, names, topics) in [
        ("orders", vec![], vec![ORDERS.1]),
        ("orders.*", vec![], vec![ORDERS.1, OLD_ORDERS.1]),
        ("b.*|orders", vec![], vec![ORDERS.1, BILLS.1]),
        ("orders-[0-9]+", vec!["bills"], vec![OLD_ORDERS.1, BILLS.1]),
        ("nothing.*", vec![], vec![]),
    ] {
        let mut member = Subscriber { names, ..Subscriber::new("m", regex) };
        bench.follow(&mut [&mut member]);
        assert_eq!(member.topics(), topics, "{regex}");
        let left = member.request().with_member_epoch(-1).with_topic_partitions(None);
        assert_eq!(bench.beat_with(left).error_code, 0);
        bench.wait(Duration::from_secs(11));
    }
}

#[test]
fn a_topic_that_is_made_later_is_found_with_a_heartbeat_but_not_at_once_after_the_last_look() {
    let mut bench = with_topics(&[ORDERS]);
    let mut member = Subscriber::new("m", "orders.*");
    bench.follow(&mut [&mut member]);
    bench.create(OLD_ORDERS);
    bench.follow(&mut [&mut member]);
    assert_eq!(member.topics(), [ORDERS.1], "resolved less than ten seconds ago");
    bench.wait(Duration::from_secs(10));
    bench.follow(&mut [&mut member]);
    assert_eq!(member.topics(), [ORDERS.1, OLD_ORDERS.1]);
}

#[test]
fn what_is_no_regular_expression_is_refused_and_nothing_comes_of_it() {
    let mut bench = with_topics(&[ORDERS]);
    for regex in ["orders(", "*", "a)(b", "(?<=x)y"] {
        let response = bench.beat_with(Subscriber::new("m", regex).request());
        assert_eq!(response.error_code, ErrorCode::InvalidRegularExpression.code(), "{regex}");
        let message = response.error_message.expect("it says what is wrong");
        assert!(message.contains(regex), "{message}");
    }
    let response = bench.beat_with(Subscriber::new("m", "orders").request());
    assert_eq!((response.error_code, response.member_epoch), (0, 1), "the first member of a new group");
}

#[test]
fn two_members_share_what_their_expressions_have_in_common_and_another_subscription_moves_the_group() {
    let mut bench = with_topics(&[ORDERS, OLD_ORDERS, BILLS]);
    let (mut a, mut b) = (Subscriber::new("a", "orders.*"), Subscriber::new("b", "orders.*"));
    bench.follow(&mut [&mut a, &mut b]);
    let counts = |member: &Subscriber| member.owned.values().map(Vec::len).sum::<usize>();
    assert_eq!((counts(&a), counts(&b)), (2, 2));
    (b.regex, b.has_news) = ("bills", true);
    bench.wait(Duration::from_secs(11));
    bench.follow(&mut [&mut a, &mut b]);
    assert_eq!((a.topics(), b.topics()), (vec![ORDERS.1, OLD_ORDERS.1], vec![BILLS.1]));
    // To names, and without an expression.
    (b.regex, b.names, b.has_news) = ("", vec!["orders"], true);
    bench.follow(&mut [&mut a, &mut b]);
    assert_eq!((a.topics(), b.topics()), (vec![OLD_ORDERS.1], vec![ORDERS.1]));
}

#[test]
fn the_next_coordinator_knows_what_was_resolved() {
    let mut bench = with_topics(&[ORDERS, BILLS]);
    let mut member = Subscriber::new("m", "o.*");
    bench.follow(&mut [&mut member]);
    let epoch = member.epoch;
    bench.fail_over();
    for topic in [ORDERS, BILLS] {
        bench.create(topic);
    }
    bench.follow(&mut [&mut member]);
    assert_eq!((member.epoch, member.topics()), (epoch, vec![ORDERS.1]));
}
