//! Messages delayed and dropped by kind. The frames of these tests are two characters: kind and number for a request,
//! a blank and the number for a response.

use super::tests::{MS, NOTHING, Order, Puppet, connected, pass, simulate_with};
use super::{Direction, FrameReader, MessageEffect, MessageRule, SimConfig, Simulation};

fn number(frame: &[u8]) -> Option<i32> {
    frame.get(1).map(|b| i32::from(*b))
}

fn request(frame: &[u8]) -> Option<(i16, i32)> {
    Some((i16::from(*frame.first()?), number(frame)?))
}

const READER: FrameReader = FrameReader { request, response: number };

fn run<T: Send + 'static, F: Future<Output = T>>(main: impl FnOnce(Simulation) -> F + Send + 'static) -> T {
    simulate_with(1, SimConfig { frame_reader: Some(READER), ..SimConfig::default() }, main)
}

fn rule(kind: u8, direction: Direction, effect: MessageEffect, count: Option<u32>) -> MessageRule {
    MessageRule { kind: i16::from(kind), direction, from: None, to: None, effect, count }
}

fn hits(sim: &Simulation) -> Vec<(String, bool)> {
    sim.take_hits().into_iter().map(|hit| (format!("{}->{}", hit.from, hit.to), hit.is_last)).collect()
}

#[test]
fn the_next_request_of_a_kind_is_late_and_what_follows_it_waits() {
    run(|sim| async move {
        let (a, b) = connected(&sim).await;
        sim.add_rule(rule(b'F', Direction::Request, MessageEffect::Delay(100 * MS), Some(1)));
        ["P1", "F2", "P3"].iter().for_each(|text| a.order(Order::Send(text)));
        pass(&sim, 50 * MS).await;
        assert_eq!(b.seen(), ["P1"]);
        pass(&sim, 51 * MS).await;
        assert_eq!(b.seen(), ["F2", "P3"], "TCP keeps the order");
        assert_eq!(hits(&sim), [("a->b".to_owned(), true)]);
        a.order(Order::Send("F4"));
        pass(&sim, MS).await;
        assert_eq!(b.seen(), ["F4"], "one was asked for");
    });
}

#[test]
fn a_response_is_known_by_its_request_even_if_that_was_sent_before_the_rule() {
    run(|sim| async move {
        let (a, b) = connected(&sim).await;
        ["P1", "F2", "P3", "F4"].iter().for_each(|text| a.order(Order::Send(text)));
        pass(&sim, MS).await;
        let delay = MessageEffect::Delay(100 * MS);
        let id = sim.add_rule(rule(b'F', Direction::Response, delay, None));
        // The first request is one that has no response.
        b.order(Order::Send(" 2"));
        b.order(Order::Send(" 3"));
        pass(&sim, 50 * MS).await;
        assert_eq!(a.seen(), NOTHING);
        pass(&sim, 51 * MS).await;
        assert_eq!(a.seen(), [" 2", " 3"]);
        sim.remove_rule(id);
        b.order(Order::Send(" 4"));
        pass(&sim, MS).await;
        assert_eq!(a.seen(), [" 4"]);
        assert_eq!(hits(&sim), [("b->a".to_owned(), false)]);
    });
}

#[test]
fn a_dropped_message_ends_its_connection_for_both_sides() {
    run(|sim| async move {
        let (a, b) = connected(&sim).await;
        sim.add_rule(rule(b'F', Direction::Response, MessageEffect::Drop, Some(1)));
        a.order(Order::Send("F1"));
        pass(&sim, MS).await;
        b.order(Order::Send(" 1"));
        b.order(Order::Send("and more"));
        pass(&sim, 2 * MS).await;
        assert_eq!(b.seen(), ["accepted", "F1", "closed"][1..]);
        assert_eq!(a.seen(), ["closed"], "neither the response nor what followed it arrives");
        a.order(Order::Connect("b"));
        a.order(Order::Send("F2"));
        pass(&sim, 2 * MS).await;
        assert_eq!(b.seen(), ["accepted", "F2"], "it can connect again");
    });
}

#[test]
fn a_dropped_request_is_not_received() {
    run(|sim| async move {
        let (a, b) = connected(&sim).await;
        sim.add_rule(rule(b'F', Direction::Request, MessageEffect::Drop, Some(1)));
        a.order(Order::Send("P1"));
        a.order(Order::Send("F2"));
        pass(&sim, 2 * MS).await;
        assert_eq!((a.seen(), b.seen()), (vec!["closed".to_owned()], vec!["P1".to_owned(), "closed".to_owned()]));
    });
}

#[test]
fn a_rule_is_for_its_machines_only_and_heal_removes_it() {
    run(|sim| async move {
        let (a, b) = connected(&sim).await;
        let c = Puppet::add(&sim, "c", false);
        c.order(Order::Connect("b"));
        pass(&sim, 3 * MS).await;
        b.seen();
        let delay = rule(b'F', Direction::Request, MessageEffect::Delay(100 * MS), None);
        sim.add_rule(MessageRule { from: Some(vec!["c".to_owned()]), to: Some(vec!["b".to_owned()]), ..delay });
        a.order(Order::Send("F1"));
        c.order(Order::Send("F2"));
        pass(&sim, MS).await;
        assert_eq!(b.seen(), ["F1"]);
        assert_eq!(hits(&sim), [("c->b".to_owned(), false)]);
        pass(&sim, 101 * MS).await;
        assert_eq!(b.seen(), ["F2"]);
        sim.heal();
        c.order(Order::Send("F3"));
        pass(&sim, MS).await;
        assert_eq!(b.seen(), ["F3"]);
    });
}

#[test]
fn a_late_request_arrives_although_its_sender_has_hung_up() {
    run(|sim| async move {
        let (a, b) = connected(&sim).await;
        sim.add_rule(rule(b'F', Direction::Request, MessageEffect::Delay(100 * MS), Some(1)));
        a.order(Order::Send("F1"));
        pass(&sim, MS).await;
        a.order(Order::Close);
        pass(&sim, 50 * MS).await;
        assert_eq!(b.seen(), NOTHING);
        pass(&sim, 60 * MS).await;
        assert_eq!(b.seen(), ["F1", "closed"]);
    });
}
