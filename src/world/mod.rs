//! The door to everything outside a process: time, network, disk, randomness.
//!
//! The product (`log`, `replica`, `broker`, `controller`, `client`) reaches the outside only through
//! the [`World`] handle it is given, so the same code runs over the simulated world ([`sim`]) and the
//! real one ([`real`]). The world is chosen at run time: inside a madsim runtime it is the simulated
//! one, elsewhere real tokio, `std::fs` and the operating system's clock.
//!
//! A *process* is one [`Process`] value: a synchronous state machine that owns its state and handles
//! one [`Event`] at a time. [`run`] is the only loop; it is the whole asynchronous part.
//! What it is not: it knows nothing of Kafka, except that messages are length-prefixed frames.

mod chain;
mod path;
pub mod real;
pub mod sim;
mod streams;
#[cfg(test)]
mod tests;
mod time;

use std::fmt;
use std::io;

use bytes::Bytes;

pub use chain::Chain;
pub use time::Time;

/// A named random stream. Streams are forked by name from the root seed, so that a draw in one never
/// moves another.
pub type Rng = rand_xoshiro::Xoshiro256PlusPlus;

/// Where a process listens: host name and port. In the simulated world the host is the machine's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl HostPort {
    pub fn new(host: impl Into<String>, port: u16) -> HostPort {
        HostPort { host: host.into(), port }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One connection as its owner sees it. Ids are never reused within a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// What the outside tells a process.
#[derive(Clone, Debug)]
pub enum Event {
    /// A peer connected to our listener.
    Accepted(ConnId),
    /// A connection we opened is established.
    Connected(ConnId),
    /// One whole frame (without its length prefix) arrived.
    Frame(ConnId, Chain),
    /// The connection is gone: refused, reset, or closed by the peer. No further event for this id.
    Closed(ConnId),
    /// The disk goes on after a stall, or is as fast as ever again: an [`IoWait`] may be over.
    IoReady,
    /// The operator asks for an orderly stop (SIGTERM).
    Terminate,
}

/// A process's handle to its machine: clock, disk, random streams. Cheap to clone.
#[derive(Clone)]
pub enum World {
    Sim(sim::SimWorld),
    Real(real::RealWorld),
}

impl World {
    /// Monotonic time since this world began.
    pub fn now(&self) -> Time {
        match self {
            World::Sim(w) => w.now(),
            World::Real(w) => w.now(),
        }
    }

    /// This machine's wall clock, milliseconds since the Unix epoch. May jump.
    pub fn wall_clock_ms(&self) -> i64 {
        match self {
            World::Sim(w) => w.wall_clock_ms(),
            World::Real(w) => w.wall_clock_ms(),
        }
    }

    /// A random stream, a function of (root seed, machine name, process incarnation, `stream`).
    pub fn rng(&self, stream: &str) -> Rng {
        match self {
            World::Sim(w) => w.rng(stream),
            World::Real(w) => w.rng(stream),
        }
    }

    /// Like [`World::rng`], but no other call gets the same one: for what no two parts of a process may draw alike.
    pub fn fresh_rng(&self, stream: &str) -> Rng {
        let before = match self {
            World::Sim(w) => w.fresh_streams(),
            World::Real(w) => w.fresh_streams(),
        };
        if before == 0 { self.rng(stream) } else { self.rng(&format!("{stream}-{before}")) }
    }

    /// This machine's disk. Paths are relative to the machine's root (real world: the data directory).
    pub fn disk(&self) -> Disk {
        match self {
            World::Sim(w) => Disk::Sim(w.disk()),
            World::Real(w) => Disk::Real(w.disk()),
        }
    }
}

/// The process's side of the network: one inbox for all of its connections.
pub enum Endpoint {
    Sim(sim::SimEndpoint),
    Real(real::RealEndpoint),
}

impl Endpoint {
    /// Starts a connection; [`Event::Connected`] or [`Event::Closed`] follows, or nothing at all while
    /// the peer's machine is silent. Callers bound the wait (`socket.connection.setup.timeout.ms`).
    pub fn connect(&mut self, to: &HostPort) -> ConnId {
        match self {
            Endpoint::Sim(e) => e.connect(to),
            Endpoint::Real(e) => e.connect(to),
        }
    }

    /// Queues one frame. Frames of a connection arrive in order, or the connection is `Closed`.
    /// Sending on a connection that is gone is a no-op.
    pub fn send(&mut self, conn: ConnId, frame: impl Into<Chain>) {
        match self {
            Endpoint::Sim(e) => e.send(conn, frame.into()),
            Endpoint::Real(e) => e.send(conn, frame.into()),
        }
    }

    /// Closes our side. No further event for this id is delivered to us; the peer sees `Closed` after
    /// the frames already sent.
    pub fn close(&mut self, conn: ConnId) {
        match self {
            Endpoint::Sim(e) => e.close(conn),
            Endpoint::Real(e) => e.close(conn),
        }
    }

    /// Where the peer of a connection is that was [`Event::Accepted`]: its address, in the simulated world its machine's
    /// name. Empty once the connection is gone.
    pub fn peer_host(&self, conn: ConnId) -> String {
        match self {
            Endpoint::Sim(e) => e.peer_host(conn),
            Endpoint::Real(e) => e.peer_host(conn),
        }
    }

    /// The next event, or `None` once `deadline` is reached. Events that are due come before an expired
    /// deadline.
    pub async fn next(&mut self, deadline: Option<Time>) -> Option<Event> {
        match self {
            Endpoint::Sim(e) => e.next(deadline).await,
            Endpoint::Real(e) => e.next(deadline).await,
        }
    }
}

/// A process: plain synchronous code that owns its state.
pub trait Process {
    /// Called once, before any event.
    fn start(&mut self, net: &mut Endpoint);
    /// One event from outside.
    fn on_event(&mut self, event: Event, net: &mut Endpoint);
    /// [`Process::deadline`] was reached. May be called early or more often; it looks at the clock itself.
    fn on_timer(&mut self, net: &mut Endpoint);
    /// When [`Process::on_timer`] wants to be called next.
    fn deadline(&self) -> Option<Time>;
    /// True once the process wants to exit. Its connections are then closed in an orderly way.
    fn is_finished(&self) -> bool {
        false
    }
}

/// Runs a process until it finishes.
pub async fn run(process: &mut impl Process, net: &mut Endpoint) {
    process.start(net);
    while !process.is_finished() {
        match net.next(process.deadline()).await {
            Some(event) => process.on_event(event, net),
            None => process.on_timer(net),
        }
    }
}

/// How long I/O that was done would have taken. Calls return at once, and act at once; whoever answers for them holds
/// the answer back until the I/O is over, as a thread of a real process would block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoWait {
    /// Not before this, as long as the disk is slow.
    pub until: Time,
    /// And not while the disk does nothing at all.
    pub is_stalled: bool,
}

impl IoWait {
    /// What is over when both are.
    pub fn both(one: Option<IoWait>, other: Option<IoWait>) -> Option<IoWait> {
        let (Some(a), Some(b)) = (one, other) else { return one.or(other) };
        Some(IoWait { until: a.until.max(b.until), is_stalled: a.is_stalled || b.is_stalled })
    }
}

/// A disk. All calls are synchronous and act on the page cache; only [`File::sync`] and
/// [`Disk::sync_dir`] make anything durable. Paths are `/`-separated and relative.
#[derive(Clone)]
pub enum Disk {
    Sim(sim::SimDisk),
    Real(real::RealDisk),
}

impl Disk {
    /// Opens an existing file, `NotFound` otherwise.
    pub fn open(&self, path: &str) -> io::Result<File> {
        match self {
            Disk::Sim(d) => d.open(path).map(File::Sim),
            Disk::Real(d) => d.open(path).map(File::Real),
        }
    }

    /// Creates an empty file, truncating an existing one. The parent directory must exist.
    pub fn create(&self, path: &str) -> io::Result<File> {
        match self {
            Disk::Sim(d) => d.create(path).map(File::Sim),
            Disk::Real(d) => d.create(path).map(File::Real),
        }
    }

    pub fn exists(&self, path: &str) -> bool {
        match self {
            Disk::Sim(d) => d.exists(path),
            Disk::Real(d) => d.exists(path),
        }
    }

    /// Creates a directory and its parents. Not an error if it exists.
    pub fn create_dir_all(&self, path: &str) -> io::Result<()> {
        match self {
            Disk::Sim(d) => d.create_dir_all(path),
            Disk::Real(d) => d.create_dir_all(path),
        }
    }

    /// Names of a directory's entries, sorted. `NotFound` if it does not exist.
    pub fn read_dir(&self, path: &str) -> io::Result<Vec<String>> {
        match self {
            Disk::Sim(d) => d.read_dir(path),
            Disk::Real(d) => d.read_dir(path),
        }
    }

    /// Removes a file, `NotFound` if there is none.
    pub fn remove_file(&self, path: &str) -> io::Result<()> {
        match self {
            Disk::Sim(d) => d.remove_file(path),
            Disk::Real(d) => d.remove_file(path),
        }
    }

    /// Removes a directory with all that is in it.
    pub fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        match self {
            Disk::Sim(d) => d.remove_dir_all(path),
            Disk::Real(d) => d.remove_dir_all(path),
        }
    }

    /// Renames a file or directory, replacing an existing file at `to`. Atomic in the page cache; durable
    /// once the parent directory is synced.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        match self {
            Disk::Sim(d) => d.rename(from, to),
            Disk::Real(d) => d.rename(from, to),
        }
    }

    /// What the process has to wait for since it asked last: `None` unless the disk is slow. On a real disk the calls
    /// themselves have taken the time.
    pub fn take_wait(&self) -> Option<IoWait> {
        match self {
            Disk::Sim(d) => d.take_wait(),
            Disk::Real(_) => None,
        }
    }

    /// Puts back what [`Disk::take_wait`] took, instead of what has come since: that, a thread of its own waits for.
    pub fn restore_wait(&self, wait: Option<IoWait>) {
        match self {
            Disk::Sim(d) => d.restore_wait(wait),
            Disk::Real(_) => {}
        }
    }

    /// Whether that I/O is over at `now`. While the disk is stalled nobody knows when it will be; [`Event::IoReady`] comes when
    /// the stall ends. Once nothing makes the disk slow any more, what was waiting for it takes no time.
    pub fn is_over(&self, now: Time, wait: IoWait) -> bool {
        match self {
            Disk::Sim(d) => (now >= wait.until || !d.is_slow()) && !(wait.is_stalled && d.is_stalled()),
            Disk::Real(_) => true,
        }
    }

    /// When that I/O is over, for all that is known; while it waits for a stall to end, that has no time.
    pub fn over_at(&self, wait: IoWait) -> Option<Time> {
        let is_stalled = match self {
            Disk::Sim(d) => d.is_stalled(),
            Disk::Real(_) => false,
        };
        (!(wait.is_stalled && is_stalled)).then_some(wait.until)
    }

    /// Makes the directory's entries (creations, renames, removals) durable.
    pub fn sync_dir(&self, path: &str) -> io::Result<()> {
        match self {
            Disk::Sim(d) => d.sync_dir(path),
            Disk::Real(d) => d.sync_dir(path),
        }
    }
}

/// An open file.
pub enum File {
    Sim(sim::SimFile),
    Real(real::RealFile),
}

impl File {
    /// Length in bytes, as the page cache sees it.
    pub fn len(&self) -> u64 {
        match self {
            File::Sim(f) => f.len(),
            File::Real(f) => f.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `bytes_max` bytes from `position`: fewer at the end of the file, none beyond it. Copied where the page
    /// cache has them in several pieces.
    pub fn read_at(&self, position: u64, bytes_max: usize) -> io::Result<Bytes> {
        self.read_pieces(position, bytes_max).map(Chain::into_bytes)
    }

    /// As [`File::read_at`], as the bytes lie in the simulated page cache: none is copied. The real world copies them
    /// once from the kernel's (`pread`), into one piece.
    pub fn read_pieces(&self, position: u64, bytes_max: usize) -> io::Result<Chain> {
        match self {
            File::Sim(f) => f.read_pieces(position, bytes_max),
            File::Real(f) => f.read_at(position, bytes_max).map(Chain::from),
        }
    }

    /// Appends at the end; returns the position written to.
    pub fn append(&mut self, data: &[u8]) -> io::Result<u64> {
        match self {
            File::Sim(f) => f.append(data),
            File::Real(f) => f.append(data),
        }
    }

    /// Appends both, one behind the other, as one write (`writev`); returns the position written to.
    pub fn append_both(&mut self, first: &[u8], second: &[u8]) -> io::Result<u64> {
        match self {
            File::Sim(f) => f.append_both(first, second),
            File::Real(f) => f.append(&[first, second].concat()),
        }
    }

    /// Overwrites from `position`, which must not be beyond the end.
    pub fn write_at(&mut self, position: u64, data: &[u8]) -> io::Result<()> {
        match self {
            File::Sim(f) => f.write_at(position, data),
            File::Real(f) => f.write_at(position, data),
        }
    }

    /// Cuts the file to `len` bytes. No-op if it is not longer.
    pub fn truncate(&mut self, len: u64) -> io::Result<()> {
        match self {
            File::Sim(f) => f.truncate(len),
            File::Real(f) => f.truncate(len),
        }
    }

    /// Makes the file's content and length durable (fsync): a barrier for everything written before.
    pub fn sync(&mut self) -> io::Result<()> {
        match self {
            File::Sim(f) => f.sync(),
            File::Real(f) => f.sync(),
        }
    }
}
