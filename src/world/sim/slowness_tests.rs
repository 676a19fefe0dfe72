//! Processes that are slowed down, and wall clocks that are wrong.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::World;
use super::tests::{MS, NOTHING, Order, Puppet, connected, pass, simulate_with};
use super::{Load, MachineModel, SimConfig, Simulation, lock};

const SECOND_NS: i64 = 1_000_000_000;

fn run<T: Send + 'static, F: Future<Output = T>>(main: impl FnOnce(Simulation) -> F + Send + 'static) -> T {
    simulate_with(1, SimConfig::default(), main)
}

#[test]
fn a_slow_process_takes_its_time_for_each_event_one_after_another() {
    run(|sim| async move {
        let (a, b) = connected(&sim).await;
        sim.set_load("b", Load { event_cost: 10 * MS, drain: None });
        let sent_at = sim.now();
        (0..3).for_each(|_| a.order(Order::Send("x")));
        pass(&sim, 100 * MS).await;
        let took: Vec<u128> = b.times().into_iter().map(|at| (at - sent_at).as_millis()).collect();
        // The timer of 20 us that a puppet has costs as much as an event.
        assert!(took[0] >= 10 && took[1] >= took[0] + 10 && took[2] >= took[1] + 10, "{took:?}");
        sim.set_load("b", Load::default());
        pass(&sim, 20 * MS).await;
        a.order(Order::Send("fast again"));
        pass(&sim, MS).await;
        assert_eq!(b.seen(), ["fast again"]);
    });
}

#[test]
fn an_answer_leaves_when_its_computing_is_done() {
    run(|sim| async move {
        sim.add_machine("server", true, |_world, mut net| {
            let mut server = super::super::tests::EchoServer::default();
            Box::pin(async move { super::super::run(&mut server, &mut net).await })
        });
        sim.set_load("server", Load { event_cost: 30 * MS, drain: None });
        let a = Puppet::add(&sim, "a", false);
        a.order(Order::Connect("server"));
        pass(&sim, 2 * MS).await;
        assert_eq!(a.seen(), ["connected"], "the kernel accepts, whatever the process does");
        a.order(Order::Send("x"));
        pass(&sim, 55 * MS).await;
        assert_eq!(a.seen(), NOTHING, "30 ms for the accepted connection, 30 ms for the frame");
        pass(&sim, 10 * MS).await;
        assert_eq!(a.seen(), ["x"]);
    });
}

#[test]
fn a_slow_reader_gets_its_frames_at_its_own_rate_while_its_timers_go_on() {
    run(|sim| async move {
        let (a, b) = connected(&sim).await;
        // A frame of one byte has a length of four before it: 5 ms.
        sim.set_load("b", Load { event_cost: Duration::ZERO, drain: Some(1_000) });
        let sent_at = sim.now();
        (0..4).for_each(|_| a.order(Order::Send("x")));
        b.order(Order::Send("timers run"));
        pass(&sim, MS).await;
        assert_eq!(a.seen(), ["timers run"]);
        pass(&sim, 30 * MS).await;
        let took: Vec<u128> = b.times().into_iter().map(|at| (at - sent_at).as_millis()).collect();
        assert_eq!(took, [5, 10, 15, 20]);

        sim.set_load("b", Load { event_cost: Duration::ZERO, drain: Some(1) });
        a.order(Order::Send("x"));
        pass(&sim, 100 * MS).await;
        assert_eq!(b.seen(), NOTHING);
        sim.set_load("b", Load::default());
        pass(&sim, MS).await;
        assert_eq!(b.seen(), ["x"], "it does not go on reading at the old rate");
    });
}

#[test]
fn a_static_load_is_there_from_the_start_and_stays() {
    let load = Load { event_cost: 10 * MS, drain: None };
    let machines = [("b".to_owned(), MachineModel { load, ..MachineModel::default() })].into();
    simulate_with(1, SimConfig { machines, ..SimConfig::default() }, |sim| async move {
        let (a, b) = (Puppet::add(&sim, "a", false), Puppet::add(&sim, "b", true));
        a.order(Order::Connect("b"));
        pass(&sim, 5 * MS).await;
        assert_eq!((a.seen(), b.seen()), (vec!["connected".to_owned()], vec![]));
        pass(&sim, 20 * MS).await;
        assert_eq!(b.seen(), ["accepted"]);
        sim.set_load("b", Load::default());
        a.order(Order::Send("x"));
        pass(&sim, 5 * MS).await;
        assert_eq!(b.seen(), NOTHING, "what faults add is gone, what the machine is like is not");
    });
}

/// A machine that does nothing, and its world.
async fn idle(sim: &Simulation, name: &str) -> World {
    let world = Arc::<Mutex<Option<World>>>::default();
    let shared = world.clone();
    sim.add_machine(name, false, move |world, mut net| {
        *lock(&shared) = Some(world);
        Box::pin(async move {
            net.next(None).await;
        })
    });
    pass(sim, MS).await;
    let world = lock(&world).take();
    world.expect("booted")
}

async fn machine(sim: &Simulation) -> (World, i64) {
    let world = idle(sim, "a").await;
    let start = world.wall_clock_ms() - world.now().as_millis() as i64;
    (world, start)
}

/// How far the wall clock is ahead.
fn ahead((world, start): &(World, i64)) -> i64 {
    world.wall_clock_ms() - start - world.now().as_millis() as i64
}

#[test]
fn a_step_moves_the_wall_clock_and_nothing_else() {
    run(|sim| async move {
        let clock = machine(&sim).await;
        let before = clock.0.now();
        sim.step_clock("a", 10 * SECOND_NS);
        assert_eq!((ahead(&clock), clock.0.now()), (10_000, before));
        sim.step_clock("a", -70 * SECOND_NS);
        assert_eq!(ahead(&clock), -60_000, "it may go back");
        pass(&sim, 500 * MS).await;
        assert_eq!(ahead(&clock), -60_000);
        sim.kill("a");
        sim.start("a");
        pass(&sim, MS).await;
        assert_eq!(ahead(&clock), -60_000, "the clock is the machine's, not the process's");
        sim.reset_clock("a");
        assert_eq!(ahead(&clock), 0);
    });
}

#[test]
fn a_drift_gains_and_what_it_gained_stays() {
    run(|sim| async move {
        let clock = machine(&sim).await;
        sim.add_clock_drift("a", 1_000);
        pass(&sim, 100_000 * MS).await;
        assert_eq!(ahead(&clock), 100);
        sim.add_clock_drift("a", -3_000);
        pass(&sim, 100_000 * MS).await;
        assert_eq!(ahead(&clock), -100, "100 ms gained, 200 ms lost");
        sim.add_clock_drift("a", 2_000);
        pass(&sim, 100_000 * MS).await;
        assert_eq!(ahead(&clock), -100);
    });
}

#[test]
fn a_frozen_clock_stands_still_until_the_last_thaw_and_then_jumps() {
    run(|sim| async move {
        let clock = machine(&sim).await;
        sim.freeze_clock("a");
        let frozen = clock.0.wall_clock_ms();
        pass(&sim, 5_000 * MS).await;
        sim.freeze_clock("a");
        pass(&sim, 5_000 * MS).await;
        sim.thaw_clock("a");
        assert_eq!(clock.0.wall_clock_ms(), frozen);
        sim.thaw_clock("a");
        assert_eq!(ahead(&clock), 0);
    });
}

#[test]
fn a_drift_that_begins_or_ends_meanwhile_does_not_move_a_frozen_clock_but_counts() {
    run(|sim| async move {
        let clock = machine(&sim).await;
        sim.add_clock_drift("a", 1_000);
        pass(&sim, 100_000 * MS).await;
        sim.freeze_clock("a");
        let frozen = clock.0.wall_clock_ms();
        pass(&sim, 100_000 * MS).await;
        sim.add_clock_drift("a", -1_000);
        assert_eq!(clock.0.wall_clock_ms(), frozen, "a drift ends");
        sim.add_clock_drift("a", 10_000);
        pass(&sim, 100_000 * MS).await;
        sim.add_clock_drift("a", -10_000);
        assert_eq!(clock.0.wall_clock_ms(), frozen, "a drift came and went");
        sim.step_clock("a", 5 * SECOND_NS);
        assert_eq!(clock.0.wall_clock_ms(), frozen + 5_000, "its hands can be moved");
        sim.thaw_clock("a");
        assert_eq!(ahead(&clock), 100 + 100 + 1_000 + 5_000);
    });
}

#[test]
fn a_machine_can_start_with_a_clock_that_is_wrong() {
    let model = MachineModel { clock_offset_ns: -2 * SECOND_NS, clock_drift_ppm: 500, ..MachineModel::default() };
    let machines = [("a".to_owned(), model)].into();
    simulate_with(1, SimConfig { machines, ..SimConfig::default() }, |sim| async move {
        let (a, b) = (idle(&sim, "a").await, idle(&sim, "b").await);
        let difference = || a.wall_clock_ms() - b.wall_clock_ms();
        assert_eq!(difference(), -2_000);
        sim.step_clock("a", SECOND_NS);
        pass(&sim, 1_000_000 * MS).await;
        assert!((-501..=-499).contains(&difference()), "{}", difference());
        sim.reset_clock("a");
        assert!((-1_501..=-1_499).contains(&difference()), "only what was done to it is undone");
    });
}
