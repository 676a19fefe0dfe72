//! What links do to packets: latency, jitter, bandwidth and loss, as links have them and as faults add them.

use std::time::Duration;

use super::super::tests::{EchoClient, EchoServer};
use super::super::{HostPort, Time, run};
use super::tests::{MS, NOTHING, Order, Puppet, connected, pass, simulate_with};
use super::{FrameReader, Latency, LinkConditions, LinkModel, Ppm, SimConfig, Simulation};

const US: Duration = Duration::from_micros(1);

/// Links whose latency is 1 ms exactly.
fn fixed() -> LinkModel {
    LinkModel { latency: Latency::Fixed(MS), ..LinkModel::default() }
}

fn config(link: LinkModel) -> SimConfig {
    SimConfig { link, ..SimConfig::default() }
}

/// How long each of `count` messages took from `a` to `b`, sent one at a time. A puppet acts every 20 us.
async fn one_way(sim: &Simulation, (a, b): &(Puppet, Puppet), count: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..count {
        let sent_at = sim.now();
        a.order(Order::Send("x"));
        let mut seen = Vec::<Time>::new();
        while seen.is_empty() {
            pass(sim, MS / 10).await;
            seen = b.times();
        }
        took.push(seen[0] - sent_at);
    }
    took
}

#[test]
fn a_latency_of_a_microsecond_is_a_microsecond() {
    let link = LinkModel { latency: Latency::Fixed(US), ..LinkModel::default() };
    simulate_with(1, config(link), |sim| async move {
        sim.add_machine("server", true, |_world, mut net| {
            Box::pin(async move { run(&mut EchoServer::default(), &mut net).await })
        });
        sim.add_machine("client", false, |_world, mut net| {
            let mut client = EchoClient::new(HostPort::new("server", 1), 1_000);
            Box::pin(async move { run(&mut client, &mut net).await })
        });
        while sim.is_running("client") {
            pass(&sim, 10 * US).await;
        }
        // Connecting and 1,000 round trips of 2 us each.
        assert!(sim.now() <= Time::ZERO + 2_100 * US, "{}", sim.now());
    });
}

#[test]
fn one_link_can_differ_from_all_others() {
    let slow = LinkModel { latency: Latency::Fixed(40 * MS), ..fixed() };
    let links = [(("a".to_owned(), "b".to_owned()), slow)].into();
    simulate_with(1, SimConfig { links, ..config(fixed()) }, |sim| async move {
        let (a, b) = (Puppet::add(&sim, "a", false), Puppet::add(&sim, "b", true));
        a.order(Order::Connect("b"));
        pass(&sim, 50 * MS).await;
        assert_eq!((a.seen(), b.seen()), (vec!["connected".to_owned()], vec!["accepted".to_owned()]));
        b.order(Order::Send("fast"));
        a.order(Order::Send("slow"));
        pass(&sim, 2 * MS).await;
        assert_eq!((a.seen(), b.seen()), (vec!["fast".to_owned()], vec![]));
        pass(&sim, 39 * MS).await;
        assert_eq!(b.seen(), ["slow"]);
    });
}

#[test]
fn jitter_adds_up_to_itself_and_varies() {
    simulate_with(1, config(LinkModel { jitter: 5 * MS, ..fixed() }), |sim| async move {
        let pair = connected_slowly(&sim).await;
        let took = one_way(&sim, &pair, 100).await;
        assert!(took.iter().all(|t| (MS..6 * MS + 21 * US).contains(t)), "{took:?}");
        assert!(took.iter().min() < Some(&(2 * MS)) && took.iter().max() > Some(&(5 * MS)), "{took:?}");
    });
}

async fn connected_slowly(sim: &Simulation) -> (Puppet, Puppet) {
    let (a, b) = (Puppet::add(sim, "a", false), Puppet::add(sim, "b", true));
    a.order(Order::Connect("b"));
    pass(sim, 100 * MS).await;
    assert_eq!((a.seen(), b.seen()), (vec!["connected".to_owned()], vec!["accepted".to_owned()]));
    (a, b)
}

#[test]
fn bandwidth_makes_frames_queue() {
    // A frame of one byte is 45 on the wire: 45 ms at 1,000 bytes per second.
    simulate_with(1, config(fixed()), |sim| async move {
        let (a, b) = connected(&sim).await;
        sim.set_conditions("a", "b", LinkConditions { bandwidth: Some(1_000), ..LinkConditions::default() });
        let sent_at = sim.now();
        (0..3).for_each(|_| a.order(Order::Send("x")));
        b.order(Order::Send("the other way is free"));
        pass(&sim, 3 * MS).await;
        assert_eq!(a.seen(), ["the other way is free"]);
        pass(&sim, 200 * MS).await;
        let took: Vec<u128> = b.times().into_iter().map(|at| (at - sent_at).as_millis()).collect();
        assert_eq!(took, [46, 91, 136]);

        sim.set_conditions("a", "b", LinkConditions::default());
        assert!(one_way(&sim, &(a, b), 1).await[0] < 2 * MS);
    });
}

#[test]
fn loss_costs_retransmissions_that_double_and_loses_nothing() {
    simulate_with(1, config(fixed()), |sim| async move {
        let pair = connected(&sim).await;
        let loss = Ppm(250_000);
        sim.set_conditions("a", "b", LinkConditions { loss, ..LinkConditions::default() });
        let took = one_way(&sim, &pair, 200).await;
        let times = |late_ms: u64| {
            let exactly = MS + Duration::from_millis(late_ms);
            took.iter().filter(|t| (exactly..exactly + MS / 10).contains(t)).count()
        };
        let (none, one, two) = (times(0), times(200), times(600));
        assert!((130..170).contains(&none) && (20..55).contains(&one) && (3..20).contains(&two), "{none} {one} {two}");
        assert_eq!(took.len(), 200);
    });
}

#[test]
fn a_larger_frame_is_lost_more_often() {
    let late_of = |bytes: usize| {
        simulate_with(1, config(fixed()), move |sim| async move {
            let (a, b) = connected(&sim).await;
            sim.set_conditions("a", "b", LinkConditions { loss: Ppm(10_000), ..LinkConditions::default() });
            let text: &'static str = Box::leak("x".repeat(bytes).into_boxed_str());
            let mut late = 0;
            for _ in 0..100 {
                a.order(Order::Send(text));
                pass(&sim, 5 * MS).await;
                let mut seen = b.seen();
                late += u32::from(seen.is_empty());
                while seen.is_empty() {
                    pass(&sim, 200 * MS).await;
                    seen = b.seen();
                }
                assert_eq!(seen, [text]);
            }
            late
        })
    };
    let (small, large) = (late_of(10), late_of(100_000));
    // 1 segment of which 1 % is lost; 69 segments, of which at least one is lost in half of the frames.
    assert!(small < 6 && (35..65).contains(&large), "{small} {large}");
}

#[test]
fn what_one_link_suffers_does_not_move_the_draws_of_another_nor_its_own_latency() {
    let arrivals = |is_impaired: bool| {
        simulate_with(7, SimConfig::default(), move |sim| async move {
            let (a, b) = connected(&sim).await;
            let c = Puppet::add(&sim, "c", false);
            c.order(Order::Connect("b"));
            pass(&sim, 3 * MS).await;
            if is_impaired {
                let conditions = LinkConditions { jitter: MS, loss: Ppm(200_000), ..LinkConditions::default() };
                sim.set_conditions("c", "b", conditions);
                (0..20).for_each(|_| c.order(Order::Send("noise")));
                pass(&sim, 10_000 * MS).await;
                sim.set_conditions("c", "b", LinkConditions::default());
            } else {
                (0..20).for_each(|_| c.order(Order::Send("noise")));
                pass(&sim, 10_000 * MS).await;
            }
            b.times();
            let own = one_way(&sim, &(c, b.clone()), 20).await;
            (one_way(&sim, &(a, b), 20).await, own)
        })
    };
    assert_eq!(arrivals(false), arrivals(true));
}

#[test]
fn a_kill_behind_a_cut_link_is_learned_when_the_link_heals() {
    simulate_with(1, config(fixed()), |sim| async move {
        let (a, b) = connected(&sim).await;
        sim.block("b", "a");
        sim.kill("b");
        pass(&sim, 10_000 * MS).await;
        assert_eq!(a.seen(), NOTHING, "the reset is held by the partition");
        sim.unblock("b", "a");
        pass(&sim, 202 * MS).await;
        assert_eq!(a.seen(), ["closed"]);
        assert_eq!(b.seen(), NOTHING);
    });
}

#[test]
fn the_end_of_a_connection_takes_as_long_as_what_was_sent_before_it() {
    simulate_with(1, config(fixed()), |sim| async move {
        let (a, b) = connected(&sim).await;
        sim.set_conditions("b", "a", LinkConditions { delay: 80 * MS, ..LinkConditions::default() });
        b.order(Order::Send("last words"));
        pass(&sim, MS).await;
        sim.set_conditions("b", "a", LinkConditions::default());
        sim.kill("b");
        pass(&sim, 70 * MS).await;
        assert_eq!(a.seen(), NOTHING, "the reset does not overtake the frame");
        pass(&sim, 20 * MS).await;
        assert_eq!(a.seen(), ["last words", "closed"]);
    });
}

#[test]
fn an_isolated_machine_is_silent_and_its_connections_outlive_the_isolation() {
    simulate_with(1, config(fixed()), |sim| async move {
        let (a, b) = connected(&sim).await;
        sim.block("a", "b");
        sim.block("b", "a");
        a.order(Order::Send("held"));
        pass(&sim, 10_000 * MS).await;
        assert_eq!((a.seen(), b.seen()), (vec![], vec![]), "nobody is told anything");
        sim.heal();
        pass(&sim, 202 * MS).await;
        assert_eq!((a.seen(), b.seen()), (vec![], vec!["held".to_owned()]));
    });
}

#[test]
fn a_frame_reader_without_rules_changes_no_arrival() {
    let digest = |frame_reader| {
        simulate_with(3, SimConfig { frame_reader, ..SimConfig::default() }, |sim| async move {
            let pair = connected(&sim).await;
            one_way(&sim, &pair, 50).await;
            sim.digest()
        })
    };
    let request = |frame: &[u8]| Some((i16::from(frame[0]), 0));
    let reader = FrameReader { request, response: |_| Some(0) };
    assert_eq!(digest(None), digest(Some(reader)));
}
