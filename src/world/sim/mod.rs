//! The simulated world, on madsim: time, network, disk and randomness as a function of one seed.
//!
//! madsim gives the executor, timers, and the killing and pausing of a machine's tasks; network and disk are ours (its
//! own have no fault model to speak of). Each machine is a madsim node and its process one task of that node. The
//! laboratory turns the world through [`Simulation`]; processes see it through `World` and `Endpoint` only.
//!
//! Equal seeds give equal runs, whatever else the host's process does. Draws are taken from streams named by their use
//! (a link, a process); madsim's own generator only orders tasks that are ready at the same instant.

mod clock;
mod digest;
mod disk;
mod endpoint;
mod inbox;
mod latency;
mod link;
#[cfg(test)]
mod link_tests;
mod model;
mod net;
mod pace;
#[cfg(test)]
mod slowness_tests;
mod tap;
#[cfg(test)]
mod tap_tests;
#[cfg(test)]
mod tests;
mod wall_clock;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use madsim::plugin::{Simulator, simulator};
use madsim::rand::GlobalRng;
use madsim::runtime::{Handle, Runtime};
use madsim::task::NodeId;
use madsim::time::TimeHandle;

use self::clock::Clock;
use self::digest::Digest;
use self::net::{Incarnation, MachineId, Network, Stop};
use self::wall_clock::WallClock;
use super::{Endpoint, Rng, Time, World, streams};

pub use self::clock::Alarm;
pub use self::disk::{
    Change, Chooser, DiskFault, DiskScope, FaultId, Numbers, PAGE_BYTES, Pending, SimDisk, SimFile, Survival, Survivors,
};
pub use self::endpoint::SimEndpoint;
pub use self::model::{
    Direction, FrameReader, Latency, LinkConditions, LinkModel, Load, MachineModel, MessageEffect, MessageRule, Ppm,
    SimConfig,
};
pub use self::tap::{Hit, RuleId};

/// The name under which the supervisor draws, as a machine does under its own.
const SUPERVISOR: &str = "lab";

/// What all handles to one simulated world share.
struct Core {
    seed: u64,
    clock: Clock,
    digest: Arc<Digest>,
    network: Mutex<Network>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a simulation ends with its first panic")
}

impl Core {
    fn new(seed: u64, config: &SimConfig) -> Core {
        let (clock, digest) = (Clock::current(), Arc::<Digest>::default());
        let network = Mutex::new(Network::new(seed, config, clock.clone(), digest.clone()));
        Core { seed, clock, digest, network }
    }

    /// For the supervisor, whose tasks look at the clock whenever they do something.
    fn network(&self) -> MutexGuard<'_, Network> {
        self.clock.look();
        lock(&self.network)
    }

    fn rng(&self, machine: &str, incarnation: Incarnation, stream: &str) -> Rng {
        streams::fork(self.seed, &["process", machine, &incarnation.0.to_string(), stream])
    }
}

/// How madsim tells us that a node was killed, whoever killed it.
struct Plugin {
    core: OnceLock<Arc<Core>>,
}

impl Simulator for Plugin {
    fn new(_rand: &GlobalRng, _time: &TimeHandle, _config: &madsim::Config) -> Plugin {
        Plugin { core: OnceLock::new() }
    }

    fn reset_node(&self, node: NodeId) {
        if let Some(core) = self.core.get() {
            let mut network = core.network();
            if let Some(machine) = network.machine_of(node) {
                network.stop(machine, Stop::Process);
            }
        }
    }
}

/// One process incarnation's handle to its machine.
#[derive(Clone)]
pub struct SimWorld {
    core: Arc<Core>,
    machine: Arc<str>,
    disk: SimDisk,
    wall_clock: Arc<WallClock>,
    incarnation: Incarnation,
    fresh_streams: Arc<AtomicU64>,
}

impl SimWorld {
    pub fn now(&self) -> Time {
        self.core.clock.now()
    }

    /// What this machine's wall clock shows; it may be wrong.
    pub fn wall_clock_ms(&self) -> i64 {
        self.wall_clock.read_ms(self.now())
    }

    pub fn rng(&self, stream: &str) -> Rng {
        self.core.rng(&self.machine, self.incarnation, stream)
    }

    /// How many calls came before.
    pub fn fresh_streams(&self) -> u64 {
        self.fresh_streams.fetch_add(1, Ordering::Relaxed)
    }

    pub fn disk(&self) -> SimDisk {
        self.disk.clone()
    }
}

/// What the lab turns: machines, links and time of one simulated world. Cheap to clone. Machines are named as they
/// were added; an unknown name is a panic.
#[derive(Clone)]
pub struct Simulation {
    core: Arc<Core>,
}

/// A process's whole life on its machine, from boot to exit.
pub type ProcessFuture = Pin<Box<dyn Future<Output = ()>>>;

// The world as a whole.
impl Simulation {
    /// Runs `main` (the supervisor: nemesis and judge) in a fresh simulated world to its end; processes that still run
    /// are then killed. A panic in any process or in `main` unwinds out of this.
    /// Call it on a fresh thread: madsim seeds std's `RandomState` once per thread.
    pub fn block_on<T, F: Future<Output = T>>(seed: u64, config: SimConfig, main: impl FnOnce(Simulation) -> F) -> T {
        let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.add_simulator::<Plugin>();
        runtime.block_on(async move {
            let core = Arc::new(Core::new(seed, &config));
            let is_first = simulator::<Plugin>().core.set(core.clone()).is_ok();
            assert!(is_first, "the runtime is fresh");
            let kernels = madsim::task::spawn({
                let core = core.clone();
                poll_fn(move |context| core.network().poll_kernels(context))
            });
            let simulation = Simulation { core };
            let result = main(simulation.clone()).await;
            simulation.kill_all();
            kernels.abort();
            result
        })
    }

    /// Has every process's future dropped while the runtime still runs; otherwise they and the runtime would keep each
    /// other alive for ever.
    fn kill_all(&self) {
        let nodes: Vec<NodeId> = {
            let network = self.core.network();
            network.machine_ids().filter_map(|id| network.machine(id).node).collect()
        };
        nodes.into_iter().for_each(|node| Handle::current().kill(node));
    }

    pub fn now(&self) -> Time {
        self.core.clock.look()
    }

    pub async fn sleep_until(&self, deadline: Time) {
        self.core.clock.sleep_until(deadline).await;
    }

    /// For a task that waits for one of several things, over and over.
    pub fn alarm(&self) -> Alarm {
        self.core.clock.alarm()
    }

    /// A stream of the supervisor's own, by name.
    pub fn rng(&self, stream: &str) -> Rng {
        self.core.rng(SUPERVISOR, Incarnation(0), stream)
    }

    /// Frames delivered so far.
    pub fn frames(&self) -> u64 {
        self.core.network().frames()
    }

    /// Rolling digest over every delivery, disk change and process start or stop so far.
    pub fn digest(&self) -> u64 {
        self.core.digest.value()
    }
}

// Machines.
impl Simulation {
    /// Adds a machine and boots its process. `boot` is called again at each start. A machine that
    /// `listens` accepts connections on any port while its process runs.
    pub fn add_machine(
        &self,
        name: &str,
        listens: bool,
        boot: impl Fn(World, Endpoint) -> ProcessFuture + Send + Sync + 'static,
    ) {
        let machine = {
            let mut network = self.core.network();
            let machine = network.add_machine(name, listens);
            network.start(machine);
            machine
        };
        let (core, boot) = (self.core.clone(), Arc::new(boot));
        let node = Handle::current()
            .create_node()
            .name(name)
            .init(move || {
                // The handles belong to the incarnation that is being started, whatever happens before its task runs.
                let (incarnation, world, endpoint) = core.handles(machine);
                let (core, boot) = (core.clone(), boot.clone());
                async move {
                    core.clock.look();
                    boot(world, endpoint).await;
                    core.exited(machine, incarnation);
                }
            })
            .build();
        self.core.network().machine_mut(machine).node = Some(node.id());
    }

    /// The process is running (paused counts as running).
    pub fn is_running(&self, name: &str) -> bool {
        let network = self.core.network();
        network.machine(network.find(name)).is_running
    }

    /// Kills the process; the page cache stays, peers' connections are reset by the machine. No-op if none runs.
    pub fn kill(&self, name: &str) {
        if let Some(node) = self.running_node(name) {
            Handle::current().kill(node);
        }
    }

    /// Cuts the machine's power: what was not synced is dropped; the machine is silent until `start`.
    pub fn power_off(&self, name: &str) {
        self.power_off_choosing(name, &mut |pending| vec![false; pending.changes.len()]);
    }

    /// As [`Simulation::power_off`], but of what was not synced some may have reached the medium: what does is drawn
    /// from a stream of the machine's.
    pub fn power_off_leaving(&self, name: &str, survivors: Survivors) {
        let mut rng = {
            let network = self.core.network();
            let machine = network.machine(network.find(name));
            self.core.rng(&machine.name, machine.incarnation, "power-loss")
        };
        self.power_off_choosing(name, &mut |pending| survivors.choose(pending, &mut rng));
    }

    /// As [`Simulation::power_off`], but `choose` says what survives of the pending changes.
    pub fn power_off_choosing(&self, name: &str, choose: &mut Chooser<'_>) {
        let node = self.running_node(name);
        {
            let mut network = self.core.network();
            let machine = network.find(name);
            network.lose_power(machine);
            network.machine(machine).disk.lose_power(choose);
        }
        if let Some(node) = node {
            Handle::current().kill(node);
        }
    }

    /// Boots the process again, with power. No-op if it runs.
    pub fn start(&self, name: &str) {
        let node = {
            let mut network = self.core.network();
            let machine = network.find(name);
            if network.machine(machine).is_running {
                return;
            }
            network.start(machine);
            network.machine(machine).node.expect("a machine that was added has its node")
        };
        Handle::current().restart(node);
    }

    /// Freezes the process until `resume`; its machine still accepts connections and receives. No-op if it does not run.
    pub fn pause(&self, name: &str) {
        if let Some(node) = self.running_node(name) {
            Handle::current().pause(node);
        }
    }

    pub fn resume(&self, name: &str) {
        if let Some(node) = self.running_node(name) {
            Handle::current().resume(node);
        }
    }

    /// Delivers [`Event::Terminate`](super::Event::Terminate) to the process. No-op if it does not run.
    pub fn terminate(&self, name: &str) {
        let mut network = self.core.network();
        let machine = network.find(name);
        network.terminate(machine);
    }

    /// Reads a machine's disk, as its page cache holds it, from outside, for the omniscient observer. Read-only.
    pub fn disk(&self, name: &str) -> SimDisk {
        let network = self.core.network();
        SimDisk { disk: network.machine(network.find(name)).disk.clone(), incarnation: None }
    }

    fn running_node(&self, name: &str) -> Option<NodeId> {
        let network = self.core.network();
        let machine = network.machine(network.find(name));
        if machine.is_running { machine.node } else { None }
    }
}

impl Core {
    /// The handles of the process that is being started on a machine.
    fn handles(self: &Arc<Core>, machine: MachineId) -> (Incarnation, World, Endpoint) {
        let network = self.network();
        let machine_state = network.machine(machine);
        let incarnation = machine_state.incarnation;
        let world = SimWorld {
            core: self.clone(),
            machine: machine_state.name.clone(),
            disk: SimDisk { disk: machine_state.disk.clone(), incarnation: Some(incarnation) },
            wall_clock: machine_state.wall_clock.clone(),
            incarnation,
            fresh_streams: Arc::default(),
        };
        let endpoint = SimEndpoint { core: self.clone(), machine, incarnation };
        (incarnation, World::Sim(world), Endpoint::Sim(endpoint))
    }

    fn exited(&self, machine: MachineId, incarnation: Incarnation) {
        let mut network = self.network();
        if network.machine(machine).incarnation == incarnation {
            network.stop(machine, Stop::Process);
        }
    }
}

// Links.
impl Simulation {
    /// Cuts the directed link: frames on it wait for retransmission until `unblock`.
    pub fn block(&self, from: &str, to: &str) {
        let mut network = self.core.network();
        let (from, to) = (network.find(from), network.find(to));
        network.block(from, to);
    }

    pub fn unblock(&self, from: &str, to: &str) {
        let mut network = self.core.network();
        let (from, to) = (network.find(from), network.find(to));
        network.unblock(from, to);
    }

    /// What faults add to the directed link, for what is sent on it from now on; it replaces what was set before.
    pub fn set_conditions(&self, from: &str, to: &str, conditions: LinkConditions) {
        let mut network = self.core.network();
        let (from, to) = (network.find(from), network.find(to));
        network.set_conditions(from, to, conditions);
    }

    /// Removes every block, condition and message rule.
    pub fn heal(&self) {
        self.core.network().heal();
    }
}

// Messages. All of it panics unless the simulation has a [`FrameReader`].
impl Simulation {
    /// From now on the rule does what it says to the messages that it names. Of several that fit, the oldest does.
    pub fn add_rule(&self, rule: MessageRule) -> RuleId {
        self.tap(|tap| tap.add(rule))
    }

    /// No-op if the rule is gone.
    pub fn remove_rule(&self, id: RuleId) {
        self.tap(|tap| tap.remove(id));
    }

    /// What rules did since the last call.
    pub fn take_hits(&self) -> Vec<Hit> {
        self.tap(tap::Tap::take_hits)
    }

    /// Has `notify` called at every hit, while the network is locked: it may wake a task, no more.
    pub fn on_hit(&self, notify: impl Fn() + Send + Sync + 'static) {
        self.tap(|tap| tap.on_hit(Arc::new(notify)));
    }

    fn tap<T>(&self, act: impl FnOnce(&mut tap::Tap) -> T) -> T {
        act(self.core.network().tap.as_mut().expect("the simulation has a frame reader"))
    }
}

// Processes and wall clocks.
impl Simulation {
    /// What faults add to the load of the machine's processes; it replaces what was set before.
    pub fn set_load(&self, name: &str, load: Load) {
        let mut network = self.core.network();
        let machine = network.find(name);
        network.set_load(machine, load);
    }

    /// Moves the machine's wall clock forward, or back.
    pub fn step_clock(&self, name: &str, by_ns: i64) {
        self.wall_clock(name).step(by_ns);
    }

    /// Makes the machine's wall clock gain so much more, or lose; what it has gained stays.
    pub fn add_clock_drift(&self, name: &str, ppm: i64) {
        self.wall_clock(name).add_drift(ppm, self.now());
    }

    /// Stops the machine's wall clock. After as many thaws it jumps to where it would be.
    pub fn freeze_clock(&self, name: &str) {
        self.wall_clock(name).freeze(self.now());
    }

    pub fn thaw_clock(&self, name: &str) {
        self.wall_clock(name).thaw();
    }

    /// Undoes everything that was done to the machine's wall clock.
    pub fn reset_clock(&self, name: &str) {
        let mut network = self.core.network();
        let machine = network.find(name);
        network.reset_clock(machine);
    }

    fn wall_clock(&self, name: &str) -> Arc<WallClock> {
        let network = self.core.network();
        network.machine(network.find(name)).wall_clock.clone()
    }
}
