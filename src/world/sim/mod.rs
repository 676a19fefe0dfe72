//! The simulated world, on madsim.
use super::{ConnId, Event, HostPort, Rng, Time};
use bytes::Bytes;
use std::io;

#[derive(Clone)]
pub struct SimWorld;
impl SimWorld {
    pub fn now(&self) -> Time {
        todo!()
    }
    pub fn wall_clock_ms(&self) -> i64 {
        todo!()
    }
    pub fn rng(&self, _stream: &str) -> Rng {
        todo!()
    }
    pub fn disk(&self) -> SimDisk {
        todo!()
    }
}
pub struct SimEndpoint;
impl SimEndpoint {
    pub fn connect(&mut self, _to: &HostPort) -> ConnId {
        todo!()
    }
    pub fn send(&mut self, _conn: ConnId, _frame: Bytes) {
        todo!()
    }
    pub fn close(&mut self, _conn: ConnId) {
        todo!()
    }
    pub async fn next(&mut self, _deadline: Option<Time>) -> Option<Event> {
        todo!()
    }
}
#[derive(Clone)]
pub struct SimDisk;
impl SimDisk {
    pub fn open(&self, _path: &str) -> io::Result<SimFile> {
        todo!()
    }
    pub fn create(&self, _path: &str) -> io::Result<SimFile> {
        todo!()
    }
    pub fn exists(&self, _path: &str) -> bool {
        todo!()
    }
    pub fn create_dir_all(&self, _path: &str) -> io::Result<()> {
        todo!()
    }
    pub fn read_dir(&self, _path: &str) -> io::Result<Vec<String>> {
        todo!()
    }
    pub fn remove_file(&self, _path: &str) -> io::Result<()> {
        todo!()
    }
    pub fn remove_dir_all(&self, _path: &str) -> io::Result<()> {
        todo!()
    }
    pub fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        todo!()
    }
    pub fn sync_dir(&self, _path: &str) -> io::Result<()> {
        todo!()
    }
}
pub struct SimFile;
impl SimFile {
    pub fn len(&self) -> u64 {
        todo!()
    }
    pub fn read_at(&self, _position: u64, _bytes_max: usize) -> io::Result<Bytes> {
        todo!()
    }
    pub fn append(&mut self, _data: &[u8]) -> io::Result<u64> {
        todo!()
    }
    pub fn write_at(&mut self, _position: u64, _data: &[u8]) -> io::Result<()> {
        todo!()
    }
    pub fn truncate(&mut self, _len: u64) -> io::Result<()> {
        todo!()
    }
    pub fn sync(&mut self) -> io::Result<()> {
        todo!()
    }
}

/// What the lab turns: machines, links and time of one simulated world. Cheap to clone.
#[derive(Clone)]
pub struct Simulation;

/// The parameters of a simulated world.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// One-way latency of every link, drawn uniformly per frame from the link's own stream.
    pub latency: std::ops::RangeInclusive<std::time::Duration>,
}

impl Default for SimConfig {
    fn default() -> Self {
        use std::time::Duration;
        SimConfig { latency: Duration::from_micros(200)..=Duration::from_micros(500) }
    }
}

/// A process's whole life on its machine, from boot to exit.
pub type ProcessFuture = std::pin::Pin<Box<dyn Future<Output = ()>>>;

impl Simulation {
    /// Runs `main` (the supervisor: nemesis and judge) in a fresh simulated world to its end.
    /// Call it on a fresh thread: madsim seeds std's `RandomState` once per thread.
    pub fn block_on<T, F: Future<Output = T>>(
        _seed: u64,
        _config: SimConfig,
        _main: impl FnOnce(Simulation) -> F,
    ) -> T {
        todo!()
    }
    pub fn now(&self) -> Time {
        todo!()
    }
    pub async fn sleep_until(&self, _deadline: Time) {
        todo!()
    }
    /// A stream of the supervisor's own, by name.
    pub fn rng(&self, _stream: &str) -> Rng {
        todo!()
    }
    /// Adds a machine and boots its process. `boot` is called again at each start. A machine that
    /// `listens` accepts connections on any port while its process runs.
    pub fn add_machine(
        &self,
        _name: &str,
        _listens: bool,
        _boot: impl Fn(super::World, super::Endpoint) -> ProcessFuture + Send + Sync + 'static,
    ) {
        todo!()
    }
    /// The process is running (paused counts as running).
    pub fn is_running(&self, _name: &str) -> bool {
        todo!()
    }
    /// Kills the process; the page cache stays, peers' connections are reset by the machine.
    pub fn kill(&self, _name: &str) {
        todo!()
    }
    /// Cuts the machine's power: what was not synced is dropped; the machine is silent until `start`.
    pub fn power_off(&self, _name: &str) {
        todo!()
    }
    /// Boots the process again. No-op if it runs.
    pub fn start(&self, _name: &str) {
        todo!()
    }
    pub fn pause(&self, _name: &str) {
        todo!()
    }
    pub fn resume(&self, _name: &str) {
        todo!()
    }
    /// Delivers [`Event::Terminate`] to the process.
    pub fn terminate(&self, _name: &str) {
        todo!()
    }
    /// Cuts the directed link: frames on it wait for retransmission until `unblock`.
    pub fn block(&self, _from: &str, _to: &str) {
        todo!()
    }
    pub fn unblock(&self, _from: &str, _to: &str) {
        todo!()
    }
    /// Adds a fixed delay to the directed link; zero removes it.
    pub fn set_delay(&self, _from: &str, _to: &str, _delay: std::time::Duration) {
        todo!()
    }
    /// Removes every block and delay.
    pub fn heal(&self) {
        todo!()
    }
    /// Reads a machine's disk from outside, for the omniscient observer.
    pub fn disk(&self, _name: &str) -> SimDisk {
        todo!()
    }
    /// Frames delivered so far.
    pub fn frames(&self) -> u64 {
        todo!()
    }
    /// Rolling digest over every delivery, disk change and process start or stop so far.
    pub fn digest(&self) -> u64 {
        todo!()
    }
}
