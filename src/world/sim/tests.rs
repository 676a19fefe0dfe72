//! Faults of the simulated network, disk and processes, and the determinism of it all.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng as _;

use super::super::tests::{EchoClient, EchoServer};
use super::super::{ConnId, Disk, Event, File, HostPort, run};
use super::*;

pub(super) const MS: Duration = Duration::from_millis(1);

/// Runs a simulation on a thread of its own.
fn simulate<T: Send + 'static, F: Future<Output = T>>(
    seed: u64,
    main: impl FnOnce(Simulation) -> F + Send + 'static,
) -> T {
    simulate_with(seed, SimConfig::default(), main)
}

pub(super) fn simulate_with<T: Send + 'static, F: Future<Output = T>>(
    seed: u64,
    config: SimConfig,
    main: impl FnOnce(Simulation) -> F + Send + 'static,
) -> T {
    std::thread::spawn(move || Simulation::block_on(seed, config, main))
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub(super) async fn pass(sim: &Simulation, duration: Duration) {
    sim.sleep_until(sim.now() + duration).await;
}

pub(super) enum Order {
    Connect(&'static str),
    /// On the connection that was made or accepted last.
    Send(&'static str),
    Close,
    Exit,
}

/// A process on a string: does what the test orders and writes down what it sees.
#[derive(Clone, Default)]
pub(super) struct Puppet {
    orders: Arc<Mutex<VecDeque<Order>>>,
    seen: Arc<Mutex<Vec<(Time, String)>>>,
    /// Of the last incarnation.
    world: Arc<Mutex<Option<World>>>,
}

impl Puppet {
    pub(super) fn add(sim: &Simulation, name: &str, listens: bool) -> Puppet {
        let puppet = Puppet::default();
        let strings = puppet.clone();
        sim.add_machine(name, listens, move |world, net| Box::pin(strings.clone().live(world, net)));
        puppet
    }

    async fn live(self, world: World, mut net: Endpoint) {
        *lock(&self.world) = Some(world.clone());
        let mut last = ConnId(u64::MAX);
        loop {
            while let Some(order) = { lock(&self.orders).pop_front() } {
                match order {
                    Order::Connect(host) => last = net.connect(&HostPort::new(host, 9092)),
                    Order::Send(text) => net.send(last, Bytes::from_static(text.as_bytes())),
                    Order::Close => net.close(last),
                    Order::Exit => return,
                }
            }
            let seen = match net.next(Some(world.now() + Duration::from_micros(20))).await {
                Some(Event::Accepted(conn)) => {
                    last = conn;
                    "accepted".to_owned()
                }
                Some(Event::Connected(_)) => "connected".to_owned(),
                Some(Event::Frame(_, frame)) => String::from_utf8(frame.into_bytes().to_vec()).unwrap(),
                Some(Event::Closed(_)) => "closed".to_owned(),
                Some(Event::Terminate) => "terminate".to_owned(),
                Some(Event::IoReady) => "I/O ready".to_owned(),
                None => continue,
            };
            lock(&self.seen).push((world.now(), seen));
        }
    }

    pub(super) fn order(&self, order: Order) {
        lock(&self.orders).push_back(order);
    }

    /// What was seen since the last call.
    pub(super) fn seen(&self) -> Vec<String> {
        lock(&self.seen).drain(..).map(|(_, seen)| seen).collect()
    }

    pub(super) fn times(&self) -> Vec<Time> {
        lock(&self.seen).drain(..).map(|(at, _)| at).collect()
    }

    pub(super) fn world(&self) -> World {
        lock(&self.world).clone().expect("booted")
    }
}

/// Two connected puppets, `a` the opener.
pub(super) async fn connected(sim: &Simulation) -> (Puppet, Puppet) {
    let (a, b) = (Puppet::add(sim, "a", false), Puppet::add(sim, "b", true));
    a.order(Order::Connect("b"));
    pass(sim, 3 * MS).await;
    assert_eq!((a.seen(), b.seen()), (vec!["connected".to_owned()], vec!["accepted".to_owned()]));
    (a, b)
}

pub(super) const NOTHING: [&str; 0] = [];

#[test]
fn frames_of_a_connection_stay_in_order() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        let texts = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        for _ in 0..20 {
            texts.iter().for_each(|text| a.order(Order::Send(text)));
            pass(&sim, MS / 5).await;
        }
        pass(&sim, 2 * MS).await;
        assert_eq!(b.seen(), texts.repeat(20));
    });
}

#[test]
fn latency_stays_within_its_range_and_varies() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        let mut latencies = Vec::new();
        for _ in 0..50 {
            let sent_at = sim.now();
            a.order(Order::Send("x"));
            pass(&sim, 2 * MS).await;
            latencies.push(b.times()[0] - sent_at);
        }
        // A puppet looks for orders every 20 us.
        let (min, max) = (Duration::from_micros(200), Duration::from_micros(521));
        assert!(latencies.iter().all(|latency| (min..max).contains(latency)), "{latencies:?}");
        assert!(latencies.iter().any(|latency| *latency != latencies[0]));
    });
}

#[test]
fn a_one_way_block_holds_its_direction_only_and_heals_in_order() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        sim.block("a", "b");
        a.order(Order::Send("held 1"));
        a.order(Order::Send("held 2"));
        b.order(Order::Send("passes"));
        pass(&sim, 1_000 * MS).await;
        assert_eq!(b.seen(), NOTHING);
        assert_eq!(a.seen(), ["passes"]);

        sim.unblock("a", "b");
        a.order(Order::Send("after"));
        pass(&sim, 199 * MS).await;
        assert_eq!(b.seen(), NOTHING, "the sender has yet to retransmit");
        pass(&sim, 3 * MS).await;
        assert_eq!(b.seen(), ["held 1", "held 2", "after"]);
    });
}

#[test]
fn a_block_catches_what_is_in_flight_but_not_what_arrives_after_it_is_gone() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        a.order(Order::Send("in flight"));
        pass(&sim, MS / 10).await;
        sim.block("a", "b");
        pass(&sim, 10 * MS).await;
        assert_eq!(b.seen(), NOTHING);
        sim.heal();
        pass(&sim, 210 * MS).await;
        assert_eq!(b.seen(), ["in flight"]);

        a.order(Order::Send("unharmed"));
        pass(&sim, MS / 10).await;
        sim.block("a", "b");
        pass(&sim, MS / 20).await;
        sim.unblock("a", "b");
        pass(&sim, MS).await;
        assert_eq!(b.seen(), ["unharmed"]);
    });
}

#[test]
fn a_blocked_link_silences_connects_and_closes_until_it_heals() {
    simulate(1, |sim| async move {
        let (a, b) = (Puppet::add(&sim, "a", false), Puppet::add(&sim, "b", true));
        sim.block("b", "a");
        a.order(Order::Connect("b"));
        pass(&sim, 500 * MS).await;
        assert_eq!(a.seen(), NOTHING);
        assert_eq!(b.seen(), ["accepted"], "the SYN arrived, its answer did not");
        b.order(Order::Close);
        pass(&sim, 500 * MS).await;
        sim.heal();
        pass(&sim, 210 * MS).await;
        assert_eq!(a.seen(), ["connected", "closed"]);

        sim.block("a", "b");
        a.order(Order::Connect("b"));
        pass(&sim, 500 * MS).await;
        assert_eq!((a.seen(), b.seen()), (vec![], vec![]));
        sim.heal();
        pass(&sim, 210 * MS).await;
        assert_eq!(a.seen(), ["connected"]);
    });
}

#[test]
fn a_delay_holds_for_what_is_sent_while_it_is_set() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        sim.set_conditions("a", "b", LinkConditions { delay: 50 * MS, ..LinkConditions::default() });
        a.order(Order::Send("slow"));
        pass(&sim, 49 * MS).await;
        assert_eq!(b.seen(), NOTHING);
        pass(&sim, 3 * MS).await;
        assert_eq!(b.seen(), ["slow"]);
        sim.heal();
        a.order(Order::Send("fast"));
        pass(&sim, 2 * MS).await;
        assert_eq!(b.seen(), ["fast"]);
    });
}

#[test]
fn a_kill_resets_connections_after_the_frames_already_sent() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        a.order(Order::Send("last words"));
        pass(&sim, MS / 10).await;
        sim.kill("a");
        assert!(!sim.is_running("a"));
        pass(&sim, 2 * MS).await;
        assert_eq!(b.seen(), ["last words", "closed"]);
        assert_eq!(a.seen(), NOTHING, "the dead see nothing");
    });
}

#[test]
fn an_exit_closes_connections_and_refuses_new_ones() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        b.order(Order::Send("bye"));
        b.order(Order::Exit);
        pass(&sim, 2 * MS).await;
        assert!(!sim.is_running("b"));
        assert_eq!(a.seen(), ["bye", "closed"]);
        a.order(Order::Connect("b"));
        pass(&sim, 2 * MS).await;
        assert_eq!(a.seen(), ["closed"]);
        sim.start("b");
        a.order(Order::Connect("b"));
        pass(&sim, 2 * MS).await;
        assert_eq!(a.seen(), ["connected"]);
    });
}

#[test]
fn connecting_is_refused_after_a_round_trip_by_a_machine_that_does_not_listen() {
    simulate(1, |sim| async move {
        let (a, _b) = (Puppet::add(&sim, "a", false), Puppet::add(&sim, "b", false));
        a.order(Order::Connect("b"));
        pass(&sim, 3 * MS / 10).await;
        assert_eq!(a.seen(), NOTHING);
        pass(&sim, MS).await;
        assert_eq!(a.seen(), ["closed"]);
        a.order(Order::Connect("no such host"));
        pass(&sim, MS / 10).await;
        assert_eq!(a.seen(), ["closed"]);
    });
}

#[test]
fn connecting_to_a_machine_without_power_is_silent_until_it_is_back() {
    simulate(1, |sim| async move {
        let (a, b) = (Puppet::add(&sim, "a", false), Puppet::add(&sim, "b", true));
        sim.power_off("b");
        assert!(!sim.is_running("b"));
        a.order(Order::Connect("b"));
        pass(&sim, 10_000 * MS).await;
        assert_eq!(a.seen(), NOTHING);
        sim.start("b");
        pass(&sim, 210 * MS).await;
        assert_eq!((a.seen(), b.seen()), (vec!["connected".to_owned()], vec!["accepted".to_owned()]));
    });
}

#[test]
fn a_power_loss_is_silent_and_leaves_connections_half_open() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        b.order(Order::Send("on the wire"));
        pass(&sim, MS / 10).await;
        sim.power_off("b");
        pass(&sim, 5_000 * MS).await;
        assert_eq!(a.seen(), ["on the wire"]);
        sim.start("b");
        pass(&sim, 5_000 * MS).await;
        assert_eq!(a.seen(), NOTHING, "an idle connection learns nothing");

        a.order(Order::Send("anyone there?"));
        pass(&sim, 3 * MS / 10).await;
        assert_eq!(a.seen(), NOTHING);
        pass(&sim, MS).await;
        assert_eq!(a.seen(), ["closed"], "a reset after a round trip");
        assert_eq!(b.seen(), NOTHING);
    });
}

#[test]
fn what_was_sent_into_a_power_loss_is_retransmitted_and_reset_when_the_power_is_back() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        a.order(Order::Send("in flight"));
        pass(&sim, MS / 10).await;
        sim.power_off("b");
        a.order(Order::Send("into the dark"));
        pass(&sim, 5_000 * MS).await;
        assert_eq!(a.seen(), NOTHING);
        sim.start("b");
        pass(&sim, 210 * MS).await;
        assert_eq!(a.seen(), ["closed"]);
        assert_eq!(b.seen(), NOTHING);
    });
}

#[test]
fn a_farewell_that_a_power_loss_swallowed_is_replaced_by_a_reset() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        sim.block("b", "a");
        b.order(Order::Close);
        pass(&sim, 10 * MS).await;
        sim.power_off("b");
        sim.heal();
        sim.start("b");
        pass(&sim, 1_000 * MS).await;
        assert_eq!(a.seen(), NOTHING, "nobody is left to retransmit the farewell");
        a.order(Order::Send("hello?"));
        pass(&sim, 2 * MS).await;
        assert_eq!(a.seen(), ["closed"]);
    });
}

#[test]
fn a_closed_connection_yields_no_further_event_to_its_closer() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        b.order(Order::Send("crossing"));
        pass(&sim, MS / 10).await;
        a.order(Order::Close);
        pass(&sim, 2 * MS).await;
        assert_eq!(a.seen(), NOTHING);
        assert_eq!(b.seen(), ["closed"]);
        a.order(Order::Send("ignored"));
        b.order(Order::Send("ignored"));
        pass(&sim, 2 * MS).await;
        assert_eq!((a.seen(), b.seen()), (vec![], vec![]));
    });
}

#[test]
fn frames_sent_while_connecting_follow_the_connection() {
    simulate(1, |sim| async move {
        let (a, b) = (Puppet::add(&sim, "a", false), Puppet::add(&sim, "b", true));
        a.order(Order::Connect("b"));
        a.order(Order::Send("early"));
        a.order(Order::Send("bird"));
        pass(&sim, 3 * MS).await;
        assert_eq!(a.seen(), ["connected"]);
        assert_eq!(b.seen(), ["accepted", "early", "bird"]);

        a.order(Order::Connect("b"));
        a.order(Order::Close);
        pass(&sim, 3 * MS).await;
        assert_eq!((a.seen(), b.seen()), (vec![], vec![]), "an abandoned connection leaves no trace");
    });
}

#[test]
fn a_paused_process_does_nothing_while_its_kernel_receives() {
    simulate(1, |sim| async move {
        let (a, b) = (Puppet::add(&sim, "a", false), Puppet::add(&sim, "b", true));
        pass(&sim, MS).await;
        sim.pause("b");
        assert!(sim.is_running("b"));
        a.order(Order::Connect("b"));
        pass(&sim, 2 * MS).await;
        assert_eq!(a.seen(), ["connected"]);
        a.order(Order::Send("piles"));
        a.order(Order::Send("up"));
        pass(&sim, 30_000 * MS).await;
        assert_eq!(b.seen(), NOTHING);
        sim.resume("b");
        pass(&sim, MS).await;
        assert_eq!(b.seen(), ["accepted", "piles", "up"]);
    });
}

#[test]
fn a_paused_process_can_be_killed_and_started_again() {
    simulate(1, |sim| async move {
        let (a, b) = connected(&sim).await;
        sim.pause("b");
        pass(&sim, MS).await;
        sim.kill("b");
        pass(&sim, 2 * MS).await;
        assert_eq!(a.seen(), ["closed"]);
        sim.start("b");
        a.order(Order::Connect("b"));
        pass(&sim, 2 * MS).await;
        assert_eq!((a.seen(), b.seen()), (vec!["connected".to_owned()], vec!["accepted".to_owned()]));
    });
}

#[test]
fn terminate_reaches_the_process_that_runs() {
    simulate(1, |sim| async move {
        let a = Puppet::add(&sim, "a", false);
        pass(&sim, MS).await;
        sim.terminate("a");
        pass(&sim, MS).await;
        assert_eq!(a.seen(), ["terminate"]);
        sim.kill("a");
        sim.terminate("a");
        sim.start("a");
        pass(&sim, MS).await;
        assert_eq!(a.seen(), NOTHING, "the signal went to no process");
    });
}

#[test]
fn each_incarnation_has_streams_of_its_own() {
    let draws = || {
        simulate(7, |sim| async move {
            let (a, b) = (Puppet::add(&sim, "a", false), Puppet::add(&sim, "b", false));
            pass(&sim, MS).await;
            let mut draws = vec![a.world().rng("x").next_u64(), a.world().rng("x").next_u64()];
            draws.extend([a.world().rng("y").next_u64(), b.world().rng("x").next_u64(), sim.rng("x").next_u64()]);
            sim.kill("a");
            sim.start("a");
            pass(&sim, MS).await;
            draws.push(a.world().rng("x").next_u64());
            let world = a.world();
            assert_eq!(world.fresh_rng("x").next_u64(), draws[5], "the first is the stream itself");
            draws.push(world.fresh_rng("x").next_u64());
            draws
        })
    };
    let first = draws();
    assert_eq!(first, draws());
    assert_eq!(first[0], first[1]);
    let mut distinct = first[1..].to_vec();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 6, "{first:?}");
}

#[test]
fn clocks_start_at_a_fixed_date() {
    simulate(1, |sim| async move {
        let a = Puppet::add(&sim, "a", false);
        assert_eq!(sim.now(), Time::ZERO);
        sim.sleep_until(Time::from_millis(1_500)).await;
        assert_eq!(sim.now(), Time::from_millis(1_500));
        assert_eq!(a.world().wall_clock_ms(), wall_clock::WALL_CLOCK_EPOCH_MS + 1_500);
    });
}

// Disk.

fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    disk.open(path).ok().map(|file| file.read_at(0, usize::MAX).unwrap().to_vec())
}

async fn machine_with_disk(sim: &Simulation) -> (Puppet, Disk, SimDisk) {
    let a = Puppet::add(sim, "a", false);
    pass(sim, MS).await;
    let disk = a.world().disk();
    (a, disk, sim.disk("a"))
}

#[test]
fn a_power_loss_drops_what_was_not_synced_and_a_kill_keeps_it() {
    simulate(1, |sim| async move {
        let (_a, disk, observer) = machine_with_disk(&sim).await;
        let mut file = disk.create("log").unwrap();
        disk.sync_dir("").unwrap();
        file.append(b"synced").unwrap();
        file.sync().unwrap();
        file.append(b" not synced").unwrap();
        file.write_at(0, b"S").unwrap();
        sim.kill("a");
        assert_eq!(content(&observer, "log").unwrap(), b"Synced not synced");
        sim.start("a");
        sim.power_off("a");
        assert_eq!(content(&observer, "log").unwrap(), b"synced");
    });
}

#[test]
fn a_power_loss_after_a_kill_still_drops_the_page_cache() {
    simulate(1, |sim| async move {
        let (_a, disk, observer) = machine_with_disk(&sim).await;
        let mut file = disk.create("log").unwrap();
        disk.sync_dir("").unwrap();
        file.append(b"x").unwrap();
        sim.kill("a");
        sim.power_off("a");
        assert_eq!(content(&observer, "log").unwrap(), b"");
    });
}

#[test]
fn a_synced_file_is_lost_if_its_directory_entry_is_not_durable() {
    simulate(1, |sim| async move {
        let (_a, disk, observer) = machine_with_disk(&sim).await;
        disk.create_dir_all("dir").unwrap();
        let mut file = disk.create("dir/file").unwrap();
        file.append(b"x").unwrap();
        file.sync().unwrap();
        disk.sync_dir("dir").unwrap();
        sim.power_off("a");
        assert!(!observer.exists("dir"), "the entry of 'dir' was never synced");
    });
}

#[test]
fn a_rename_is_durable_once_its_directory_is_synced() {
    simulate(1, |sim| async move {
        let (a, disk, observer) = machine_with_disk(&sim).await;
        for (name, text) in [("checkpoint", b"old"), ("checkpoint.tmp", b"new")] {
            let mut file = disk.create(name).unwrap();
            file.append(text).unwrap();
            file.sync().unwrap();
        }
        disk.sync_dir("").unwrap();
        disk.rename("checkpoint.tmp", "checkpoint").unwrap();
        assert_eq!(content(&observer, "checkpoint").unwrap(), b"new");
        sim.power_off("a");
        assert_eq!(content(&observer, "checkpoint").unwrap(), b"old");
        assert_eq!(content(&observer, "checkpoint.tmp").unwrap(), b"new");

        sim.start("a");
        pass(&sim, MS).await;
        let disk = a.world().disk();
        disk.rename("checkpoint.tmp", "checkpoint").unwrap();
        disk.sync_dir("").unwrap();
        sim.power_off("a");
        assert_eq!(content(&observer, "checkpoint").unwrap(), b"new");
        assert!(!observer.exists("checkpoint.tmp"));
    });
}

#[test]
fn a_renamed_file_that_was_not_synced_is_empty_after_a_power_loss() {
    simulate(1, |sim| async move {
        let (_a, disk, observer) = machine_with_disk(&sim).await;
        disk.create("checkpoint.tmp").unwrap().append(b"new").unwrap();
        disk.rename("checkpoint.tmp", "checkpoint").unwrap();
        disk.sync_dir("").unwrap();
        sim.power_off("a");
        assert_eq!(content(&observer, "checkpoint").unwrap(), b"");
    });
}

#[test]
fn a_removal_is_undone_by_a_power_loss_unless_its_directory_is_synced() {
    simulate(1, |sim| async move {
        let (_a, disk, observer) = machine_with_disk(&sim).await;
        disk.create_dir_all("kept").unwrap();
        disk.create_dir_all("gone").unwrap();
        let mut file = disk.create("kept/file").unwrap();
        file.append(b"x").unwrap();
        file.sync().unwrap();
        disk.sync_dir("kept").unwrap();
        disk.sync_dir("").unwrap();
        disk.remove_dir_all("gone").unwrap();
        disk.sync_dir("").unwrap();
        disk.remove_dir_all("kept").unwrap();
        sim.power_off("a");
        assert_eq!(observer.read_dir("").unwrap(), ["kept"]);
        assert_eq!(content(&observer, "kept/file").unwrap(), b"x");
    });
}

#[test]
fn truncating_an_existing_file_is_not_durable_before_its_sync() {
    simulate(1, |sim| async move {
        let (_a, disk, observer) = machine_with_disk(&sim).await;
        let mut file = disk.create("file").unwrap();
        file.append(b"durable").unwrap();
        file.sync().unwrap();
        disk.sync_dir("").unwrap();
        disk.create("file").unwrap().append(b"new").unwrap();
        assert_eq!(content(&observer, "file").unwrap(), b"new");
        sim.power_off("a");
        assert_eq!(content(&observer, "file").unwrap(), b"durable");
    });
}

#[test]
fn a_dead_incarnation_changes_nothing() {
    simulate(1, |sim| async move {
        let (a, disk, observer) = machine_with_disk(&sim).await;
        let mut file = disk.create("file").unwrap();
        file.append(b"x").unwrap();
        sim.kill("a");
        let digest = sim.digest();
        let refused = |disk: &Disk, file: &mut File| {
            let errors = [
                file.append(b"y").map(|_| ()),
                file.write_at(0, b"y"),
                file.truncate(0),
                file.sync(),
                disk.create("other").map(|_| ()),
                disk.create_dir_all("dir"),
                disk.rename("file", "other"),
                disk.remove_file("file"),
                disk.sync_dir(""),
            ];
            errors.map(|error| error.unwrap_err().kind())
        };
        assert_eq!(refused(&disk, &mut file), [ErrorKind::BrokenPipe; 9]);
        assert_eq!(sim.digest(), digest);
        sim.start("a");
        pass(&sim, MS).await;
        assert_eq!(refused(&disk, &mut file), [ErrorKind::BrokenPipe; 9], "a successor does not revive it");
        assert_eq!(content(&observer, "file").unwrap(), b"x");
        a.world().disk().open("file").unwrap().append(b"z").unwrap();
        let mut watched = observer.open("file").unwrap();
        assert_eq!(watched.append(b"y").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(content(&observer, "file").unwrap(), b"xz");
    });
}

// Determinism.

/// A run with traffic, disk changes and faults; its digest.
fn busy_run(seed: u64) -> u64 {
    simulate(seed, |sim| async move {
        for name in ["server-1", "server-2"] {
            sim.add_machine(name, true, |world, mut net| {
                Box::pin(async move {
                    let mut file = world.disk().create("boots").expect("the root exists");
                    file.append(&world.rng("boot").next_u64().to_le_bytes()).expect("we live");
                    run(&mut EchoServer::default(), &mut net).await;
                })
            });
        }
        for (name, server) in [("c1", "server-1"), ("c2", "server-1"), ("c3", "server-2"), ("c4", "server-2")] {
            sim.add_machine(name, false, move |_world, mut net| {
                let mut client = EchoClient::new(HostPort::new(server, 1), 2_000);
                client.window = 3;
                Box::pin(async move { run(&mut client, &mut net).await })
            });
        }
        let mut rng = sim.rng("nemesis");
        for _ in 0..10 {
            pass(&sim, Duration::from_micros(5_000 + rng.next_u64() % 5_000)).await;
            sim.block("c1", "server-1");
            sim.pause("c2");
            pass(&sim, 3 * MS).await;
            sim.heal();
            sim.resume("c2");
            sim.kill("server-2");
            sim.power_off("c4");
            sim.start("server-2");
            sim.start("c3");
            sim.start("c4");
        }
        pass(&sim, 3_000 * MS).await;
        assert!(sim.frames() > 5_000);
        sim.digest()
    })
}

#[test]
fn equal_seeds_give_equal_digests_in_one_busy_process_and_on_parallel_threads() {
    let digest = busy_run(1);
    assert_eq!(busy_run(1), digest);
    let parallel: Vec<_> = (0..8).map(|i| std::thread::spawn(move || busy_run(1 + i % 2))).collect();
    let parallel: Vec<u64> = parallel.into_iter().map(|run| run.join().unwrap()).collect();
    assert!(parallel.iter().step_by(2).all(|&other| other == digest), "{digest:x} {parallel:x?}");
    let other = busy_run(2);
    assert!(parallel.iter().skip(1).step_by(2).all(|&of_two| of_two == other), "{other:x} {parallel:x?}");
    assert_ne!(other, digest);
}

#[test]
fn traffic_on_one_link_does_not_move_another() {
    let arrivals = |noisy: bool| {
        simulate(3, move |sim| async move {
            if noisy {
                sim.add_machine("noise-server", true, |_world, mut net| {
                    Box::pin(async move { run(&mut EchoServer::default(), &mut net).await })
                });
                sim.add_machine("noise-client", false, |_world, mut net| {
                    let mut client = EchoClient::new(HostPort::new("noise-server", 1), 100_000);
                    client.window = 5;
                    Box::pin(async move { run(&mut client, &mut net).await })
                });
            }
            let (a, b) = connected(&sim).await;
            for _ in 0..100 {
                a.order(Order::Send("x"));
                pass(&sim, MS).await;
            }
            let noise = sim.frames();
            (b.times(), noise)
        })
    };
    let (quiet, quiet_frames) = arrivals(false);
    let (noisy, noisy_frames) = arrivals(true);
    assert_eq!(quiet, noisy);
    assert!(noisy_frames > quiet_frames + 500);
}

#[test]
fn a_panic_in_a_process_unwinds_out_of_the_simulation() {
    let result = std::thread::spawn(|| {
        Simulation::block_on(1, SimConfig::default(), |sim| async move {
            sim.add_machine("a", false, |_world, _net| Box::pin(async { panic!("a broken assertion") }));
            pass(&sim, MS).await;
        })
    })
    .join();
    assert!(result.is_err());
}

#[test]
fn the_end_of_a_simulation_drops_every_process() {
    let dropped = Arc::new(AtomicU64::new(0));
    struct Life(Arc<AtomicU64>);
    impl Drop for Life {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let lives = dropped.clone();
    simulate(1, |sim| async move {
        for name in ["a", "b"] {
            let lives = lives.clone();
            sim.add_machine(name, false, move |_world, mut net| {
                let life = Life(lives.clone());
                Box::pin(async move {
                    net.next(None).await;
                    drop(life);
                })
            });
        }
        pass(&sim, MS).await;
        sim.pause("b");
    });
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}
