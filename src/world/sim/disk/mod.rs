//! The simulated disk: page cache and durable state kept apart.
//!
//! [`File::sync`](super::super::File::sync) makes a file's content durable, [`Disk::sync_dir`](super::super::Disk)
//! a directory's entries, and neither implies the other: a synced file whose entry is not durable is gone after a power
//! loss. A power loss returns every directory to its durable entries and every file to its durable content, plus what
//! [`power`] lets survive of the pending changes; a process kill loses nothing. A handle belongs to one process
//! incarnation: once that is dead, it changes nothing any more.

mod content;
mod control;
mod directory;
mod fault;
mod inode;
mod power;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use self::directory::{Directory, Node};
use self::fault::{Counts, Faults, Operation, Struck};
use self::inode::Inode;
use super::clock::Clock;
use super::digest::{Digest, Kind, fingerprint};
use super::lock;
use super::net::{Incarnation, MachineId};
use crate::world::{Chain, IoWait, path};

pub use self::control::FaultId;
pub use self::fault::{DiskFault, DiskScope};
pub use self::inode::PAGE_BYTES;
pub use self::power::{Change, Chooser, Numbers, Pending, Survival, Survivors};

/// One machine's disk.
pub(super) struct MachineDisk {
    machine: MachineId,
    digest: Arc<Digest>,
    clock: Clock,
    root: Arc<Mutex<Directory>>,
    /// The incarnation that may write; 0 while none runs.
    writer: AtomicU64,
    inodes: AtomicU64,
    faults: Mutex<Faults>,
    /// There are faults: operations have to ask them.
    is_faulty: AtomicBool,
    /// The process has something to wait for.
    has_wait: AtomicBool,
}

impl MachineDisk {
    pub(super) fn new(machine: MachineId, digest: Arc<Digest>, clock: Clock) -> Arc<MachineDisk> {
        Arc::new(MachineDisk {
            machine,
            digest,
            clock,
            root: Arc::default(),
            writer: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            faults: Mutex::default(),
            is_faulty: AtomicBool::new(false),
            has_wait: AtomicBool::new(false),
        })
    }

    pub(super) fn admit(&self, incarnation: Incarnation) {
        self.writer.store(incarnation.0, Ordering::Relaxed);
        let mut faults = lock(&self.faults);
        faults.take_wait();
        faults.set_changes_left(None);
        self.has_wait.store(false, Ordering::Relaxed);
        self.is_faulty.store(!faults.is_empty(), Ordering::Relaxed);
    }

    /// From now on no process may write.
    pub(super) fn fence(&self) {
        self.writer.store(0, Ordering::Relaxed);
    }

    /// Drops what is not durable and what `choose` does not let survive.
    pub(super) fn lose_power(&self, choose: &mut Chooser<'_>) {
        lock(&self.root).lose_power("", &mut |pending| {
            let survives = choose(pending);
            let chosen = survives.iter().fold(1, |bits: u64, &bit| bits.rotate_left(1) ^ u64::from(bit));
            if survives.contains(&true) {
                self.record(Kind::Survived, [fingerprint(pending.path.as_bytes()), chosen]);
            }
            survives
        });
    }

    /// Flips the bits of `mask` in one byte, on the medium and in the page cache. `NotFound` if there is no such file,
    /// `InvalidInput` beyond its end.
    pub(super) fn rot(self: &Arc<Self>, file: &str, position: u64, mask: u8) -> io::Result<()> {
        let observer = SimDisk { disk: self.clone(), incarnation: None };
        let file = observer.open(file)?;
        let inode = &mut *lock(&file.inode);
        if !inode.rot(position, mask) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the position is beyond the end of the file"));
        }
        self.record(Kind::Rotted, [inode.number, position, u64::from(mask)]);
        Ok(())
    }

    /// Begins a fault; returns what ends it.
    pub(super) fn begin_fault(&self, fault: DiskFault, scope: DiskScope) -> u64 {
        let used = self.used_bytes(&|path| scope.matches(path));
        self.is_faulty.store(true, Ordering::Relaxed);
        lock(&self.faults).begin(fault, scope, used)
    }

    /// After so many changes the process that runs makes no other one.
    pub(super) fn fence_after(&self, changes: u64) {
        lock(&self.faults).set_changes_left(Some(changes));
        self.is_faulty.store(true, Ordering::Relaxed);
    }

    /// Ends one fault, or all.
    pub(super) fn end_faults(&self, only: Option<u64>) {
        let mut faults = lock(&self.faults);
        match only {
            Some(id) => faults.end(id),
            None => faults.end_all(),
        }
        self.is_faulty.store(!faults.is_empty(), Ordering::Relaxed);
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.is_faulty.load(Ordering::Relaxed) && lock(&self.faults).is_stalled()
    }

    pub(super) fn is_slow(&self) -> bool {
        self.is_faulty.load(Ordering::Relaxed) && lock(&self.faults).is_slow()
    }

    /// What is in the page cache and clean is read from the medium again.
    pub(super) fn drop_clean_pages(&self) {
        lock(&self.root).for_each_file("", &mut |_, inode| inode.drop_clean_pages());
        self.record(Kind::CacheDropped, []);
    }

    /// Whether a fault that has not ended had an effect on some operation.
    pub(super) fn has_struck(&self, fault: u64) -> bool {
        lock(&self.faults).has_struck(fault)
    }

    /// An empty disk in the place of this one, or of one of its log directories. The old one's faults go with it:
    /// returns those that are over.
    pub(super) fn replace(&self, log_dir: Option<&str>) -> Vec<u64> {
        let over = {
            let mut faults = lock(&self.faults);
            let over = faults.replace(log_dir, |counts| self.used_bytes(counts));
            self.is_faulty.store(!faults.is_empty(), Ordering::Relaxed);
            over
        };
        match log_dir {
            None => *lock(&self.root) = Directory::default(),
            Some(name) => {
                let mut root = lock(&self.root);
                if root.get(name).is_some() {
                    root.remove(name);
                    root.sync();
                }
            }
        }
        self.record(Kind::DiskReplaced, [fingerprint(log_dir.unwrap_or_default().as_bytes())]);
        over
    }

    fn used_bytes(&self, counts: &Counts<'_>) -> u64 {
        let mut used = 0;
        lock(&self.root).for_each_file("", &mut |path, inode| {
            if counts(path) {
                used += inode.len();
            }
        });
        used
    }

    /// What the faults make of an operation on `path` that would grow it by `growth` bytes.
    #[cold]
    fn strike(&self, operation: Operation, path: &str, growth: Option<u64>) -> io::Result<Struck> {
        let mut faults = lock(&self.faults);
        let is_change = !matches!(operation, Operation::Read { .. });
        if is_change && !faults.allow_change() {
            self.fence();
            return Err(dead());
        }
        if let Some(growth) = growth
            && !faults.has_space(path, growth, |counts| self.used_bytes(counts))
        {
            return Err(fault::no_space());
        }
        let struck = faults.strike(self.clock.now(), operation, path);
        self.has_wait.store(faults.has_wait(), Ordering::Relaxed);
        struck
    }

    fn record<const N: usize>(&self, kind: Kind, words: [u64; N]) {
        self.digest.record(kind, self.machine, words);
    }
}

/// A machine's disk as one process incarnation, or the observer, sees it.
#[derive(Clone)]
pub struct SimDisk {
    pub(super) disk: Arc<MachineDisk>,
    /// None: the observer, who only reads.
    pub(super) incarnation: Option<Incarnation>,
}

/// Refuses the observer (`ReadOnlyFilesystem`) and a dead incarnation (`BrokenPipe`).
fn check_writer(disk: &MachineDisk, incarnation: Option<Incarnation>) -> io::Result<()> {
    match incarnation {
        None => Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the observer does not write")),
        Some(Incarnation(incarnation)) if incarnation == disk.writer.load(Ordering::Relaxed) => Ok(()),
        Some(_) => Err(dead()),
    }
}

fn dead() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "this process is dead")
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("'{path}' does not exist"))
}

impl SimDisk {
    fn dir(&self, names: &[&str]) -> io::Result<Arc<Mutex<Directory>>> {
        let mut dir = self.disk.root.clone();
        for name in names {
            let node = lock(&dir).get(name).cloned();
            dir = match node {
                Some(Node::Dir(dir)) => dir,
                Some(Node::File(_)) => {
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("'{name}' is a file")));
                }
                None => return Err(not_found(&names.join("/"))),
            };
        }
        Ok(dir)
    }

    fn node(&self, path: &str) -> io::Result<Node> {
        let names = path::components(path)?;
        match names.split_last() {
            None => Ok(Node::Dir(self.disk.root.clone())),
            Some((last, parents)) => lock(&*self.dir(parents)?).get(last).cloned().ok_or_else(|| not_found(path)),
        }
    }

    /// Asks the faults, if there are any, about an operation on a directory's entries.
    fn meet_faults(&self, operation: Operation, path: &str, growth: Option<u64>) -> io::Result<Struck> {
        if self.incarnation.is_some() && self.disk.is_faulty.load(Ordering::Relaxed) {
            return self.disk.strike(operation, path, growth);
        }
        Ok(Struck::default())
    }

    /// See [`Disk::take_wait`](super::super::Disk::take_wait).
    pub fn take_wait(&self) -> Option<IoWait> {
        if !self.disk.has_wait.load(Ordering::Relaxed) {
            return None;
        }
        self.disk.has_wait.store(false, Ordering::Relaxed);
        lock(&self.disk.faults).take_wait()
    }

    /// See [`Disk::restore_wait`](super::super::Disk::restore_wait).
    pub fn restore_wait(&self, wait: Option<IoWait>) {
        if wait.is_some() || self.disk.has_wait.load(Ordering::Relaxed) {
            lock(&self.disk.faults).restore_wait(wait);
            self.disk.has_wait.store(wait.is_some(), Ordering::Relaxed);
        }
    }

    pub(in crate::world) fn is_stalled(&self) -> bool {
        self.disk.is_stalled()
    }

    pub(in crate::world) fn is_slow(&self) -> bool {
        self.disk.is_slow()
    }

    fn file(&self, inode: Arc<Mutex<Inode>>) -> SimFile {
        SimFile { disk: self.disk.clone(), incarnation: self.incarnation, inode }
    }

    fn record(&self, kind: Kind, path: &str) {
        self.disk.record(kind, [fingerprint(path.as_bytes())]);
    }

    /// See [`Disk::open`](super::super::Disk::open).
    pub fn open(&self, path: &str) -> io::Result<SimFile> {
        match self.node(path)? {
            Node::File(inode) => Ok(self.file(inode)),
            Node::Dir(_) => Err(io::Error::new(io::ErrorKind::IsADirectory, format!("'{path}' is a directory"))),
        }
    }

    /// See [`Disk::create`](super::super::Disk::create).
    pub fn create(&self, path: &str) -> io::Result<SimFile> {
        check_writer(&self.disk, self.incarnation)?;
        let (parents, last) = path::split_last(path)?;
        let parent = self.dir(&parents)?;
        let existing = lock(&*parent).get(last).cloned();
        match existing {
            Some(Node::File(inode)) => {
                let mut file = self.file(inode);
                file.truncate(0)?;
                Ok(file)
            }
            Some(Node::Dir(_)) => Err(io::Error::new(io::ErrorKind::IsADirectory, format!("'{path}' is a directory"))),
            None => {
                self.meet_faults(Operation::Write { bytes: 0 }, path, Some(0))?;
                self.record(Kind::FileCreated, path);
                let number = self.disk.inodes.fetch_add(1, Ordering::Relaxed);
                let inode = Arc::new(Mutex::new(Inode::new(number, path)));
                lock(&*parent).create(last, Node::File(inode.clone()));
                Ok(self.file(inode))
            }
        }
    }

    /// See [`Disk::exists`](super::super::Disk::exists).
    pub fn exists(&self, path: &str) -> bool {
        self.node(path).is_ok()
    }

    /// See [`Disk::create_dir_all`](super::super::Disk::create_dir_all). Each new directory is an entry of its parent,
    /// durable once that is synced.
    pub fn create_dir_all(&self, path: &str) -> io::Result<()> {
        check_writer(&self.disk, self.incarnation)?;
        let mut dir = self.disk.root.clone();
        for name in path::components(path)? {
            let node = lock(&dir).get(name).cloned();
            dir = match node {
                Some(Node::Dir(dir)) => dir,
                Some(Node::File(_)) => {
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("'{name}' is a file")));
                }
                None => {
                    self.meet_faults(Operation::Write { bytes: 0 }, path, Some(0))?;
                    self.record(Kind::DirCreated, path);
                    let new = Arc::<Mutex<Directory>>::default();
                    lock(&dir).create(name, Node::Dir(new.clone()));
                    new
                }
            };
        }
        Ok(())
    }

    /// See [`Disk::read_dir`](super::super::Disk::read_dir).
    pub fn read_dir(&self, path: &str) -> io::Result<Vec<String>> {
        let dir = self.dir(&path::components(path)?)?;
        self.meet_faults(Operation::Read { bytes: 0 }, path, None)?;
        Ok(lock(&*dir).names().map(|name| name.to_string()).collect())
    }

    /// See [`Disk::remove_file`](super::super::Disk::remove_file). Open handles stay usable.
    pub fn remove_file(&self, path: &str) -> io::Result<()> {
        match self.node(path)? {
            Node::File(_) => self.remove(path),
            Node::Dir(_) => Err(io::Error::new(io::ErrorKind::IsADirectory, format!("'{path}' is a directory"))),
        }
    }

    /// See [`Disk::remove_dir_all`](super::super::Disk::remove_dir_all). Durable once the parent is synced; until then
    /// a power loss brings back the whole directory, as far as it was durable.
    pub fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        match self.node(path)? {
            Node::Dir(_) => self.remove(path),
            Node::File(_) => Err(io::Error::new(io::ErrorKind::NotADirectory, format!("'{path}' is a file"))),
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        check_writer(&self.disk, self.incarnation)?;
        self.meet_faults(Operation::Write { bytes: 0 }, path, None)?;
        let (parents, last) = path::split_last(path)?;
        lock(&*self.dir(&parents)?).remove(last);
        self.record(Kind::Removed, path);
        Ok(())
    }

    /// See [`Disk::rename`](super::super::Disk::rename). Between two directories a file's new entry becomes durable with
    /// the new parent and its removal with the old one; a directory stays within its parent (`Unsupported` otherwise).
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_writer(&self.disk, self.incarnation)?;
        let node = self.node(from)?;
        let ((from_parents, from_last), (to_parents, to_last)) = (path::split_last(from)?, path::split_last(to)?);
        let target = lock(&*self.dir(&to_parents)?).get(to_last).cloned();
        match (&node, &target) {
            (Node::File(_), Some(Node::Dir(_))) => {
                return Err(io::Error::new(io::ErrorKind::IsADirectory, format!("'{to}' is a directory")));
            }
            (Node::Dir(_), Some(Node::File(_))) => {
                return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("'{to}' is a file")));
            }
            (Node::Dir(from), Some(Node::Dir(to))) if !Arc::ptr_eq(from, to) && !lock(to).is_empty() => {
                return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
            }
            (Node::Dir(_), _) if from_parents != to_parents => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "a directory stays within its parent"));
            }
            (Node::File(_) | Node::Dir(_), _) => {}
        }
        self.meet_faults(Operation::Write { bytes: 0 }, to, None)?;
        if let Node::File(inode) = &node {
            lock(inode).path = to.into();
        }
        if from_parents == to_parents {
            lock(&*self.dir(&from_parents)?).rename(from_last, to_last, node);
        } else {
            lock(&*self.dir(&from_parents)?).remove(from_last);
            lock(&*self.dir(&to_parents)?).create(to_last, node);
        }
        self.disk.record(Kind::Renamed, [fingerprint(from.as_bytes()), fingerprint(to.as_bytes())]);
        Ok(())
    }

    /// See [`Disk::sync_dir`](super::super::Disk::sync_dir).
    pub fn sync_dir(&self, path: &str) -> io::Result<()> {
        check_writer(&self.disk, self.incarnation)?;
        let dir = self.dir(&path::components(path)?)?;
        let struck = self.meet_faults(Operation::Sync, path, None)?;
        if struck.sync_failed {
            return Err(fault::eio());
        }
        if !struck.lied {
            lock(&*dir).sync();
        }
        self.record(Kind::DirSynced, path);
        Ok(())
    }
}

/// An open file: a rename or removal does not disturb it.
pub struct SimFile {
    disk: Arc<MachineDisk>,
    incarnation: Option<Incarnation>,
    inode: Arc<Mutex<Inode>>,
}

impl SimFile {
    #[expect(clippy::len_without_is_empty, reason = "world::File has it")]
    pub fn len(&self) -> u64 {
        lock(&self.inode).len()
    }

    /// See [`File::read_at`](super::super::File::read_at).
    pub fn read_at(&self, position: u64, bytes_max: usize) -> io::Result<Bytes> {
        self.read_pieces(position, bytes_max).map(Chain::into_bytes)
    }

    /// See [`File::read_pieces`](super::super::File::read_pieces).
    pub fn read_pieces(&self, position: u64, bytes_max: usize) -> io::Result<Chain> {
        if self.is_faulty() {
            return self.read_through_faults(position, bytes_max);
        }
        Ok(lock(&self.inode).read(position, bytes_max))
    }

    /// Reads on after a short read, as `Utils.readFully` does.
    #[cold]
    fn read_through_faults(&self, position: u64, bytes_max: usize) -> io::Result<Chain> {
        let (mut read, mut bytes) = (Chain::new(), 0);
        loop {
            let (path, wanted) = {
                let inode = lock(&self.inode);
                let from = position + bytes as u64;
                (inode.path.clone(), inode.len().saturating_sub(from).min((bytes_max - bytes) as u64))
            };
            let struck = self.disk.strike(Operation::Read { bytes: wanted }, &path, None)?;
            let some = if struck.short { wanted.div_ceil(2) } else { wanted };
            read.append(lock(&self.inode).read(position + bytes as u64, some as usize));
            bytes += some as usize;
            if some == wanted {
                return Ok(read);
            }
        }
    }

    /// See [`File::append`](super::super::File::append).
    pub fn append(&mut self, data: &[u8]) -> io::Result<u64> {
        self.append_both(data, &[])
    }

    /// See [`File::append_both`](super::super::File::append_both).
    pub fn append_both(&mut self, first: &[u8], second: &[u8]) -> io::Result<u64> {
        check_writer(&self.disk, self.incarnation)?;
        let bytes = first.len() + second.len();
        let struck = if self.is_faulty() { self.meet_faults_of_write(bytes, None)? } else { Struck::default() };
        let inode = &mut *lock(&self.inode);
        let position = inode.len();
        let written = fingerprint(inode.append(first, second));
        if struck != Struck::default() {
            let data = [first, second].concat();
            misplace(inode, struck, position, &data);
        }
        self.disk.record(Kind::FileWritten, [inode.number, position, bytes as u64, written]);
        Ok(position)
    }

    /// See [`File::write_at`](super::super::File::write_at). `InvalidInput` beyond the end.
    pub fn write_at(&mut self, position: u64, data: &[u8]) -> io::Result<()> {
        check_writer(&self.disk, self.incarnation)?;
        let struck =
            if self.is_faulty() { self.meet_faults_of_write(data.len(), Some(position))? } else { Struck::default() };
        let inode = &mut *lock(&self.inode);
        if position > inode.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the position is beyond the end of the file"));
        }
        inode.write(position, data);
        misplace(inode, struck, position, data);
        self.disk.record(Kind::FileWritten, [inode.number, position, data.len() as u64, fingerprint(data)]);
        Ok(())
    }

    /// See [`File::truncate`](super::super::File::truncate).
    pub fn truncate(&mut self, len: u64) -> io::Result<()> {
        check_writer(&self.disk, self.incarnation)?;
        if self.is_faulty() {
            let path = lock(&self.inode).path.clone();
            self.disk.strike(Operation::Write { bytes: 0 }, &path, None)?;
        }
        let inode = &mut *lock(&self.inode);
        if len < inode.len() {
            inode.truncate(len);
            self.disk.record(Kind::FileTruncated, [inode.number, len]);
        }
        Ok(())
    }

    /// See [`File::sync`](super::super::File::sync).
    pub fn sync(&mut self) -> io::Result<()> {
        check_writer(&self.disk, self.incarnation)?;
        let mut struck = Struck::default();
        if self.is_faulty() {
            let path = lock(&self.inode).path.clone();
            struck = self.disk.strike(Operation::Sync, &path, None)?;
        }
        let inode = &mut *lock(&self.inode);
        if struck.sync_failed {
            inode.forsake_pending();
            return Err(fault::eio());
        }
        if !struck.lied {
            inode.sync();
        }
        self.disk.record(Kind::FileSynced, [inode.number]);
        Ok(())
    }

    fn is_faulty(&self) -> bool {
        self.disk.is_faulty.load(Ordering::Relaxed) && self.incarnation.is_some()
    }

    /// `position`: where it overwrites; `None` appends.
    fn meet_faults_of_write(&self, bytes: usize, position: Option<u64>) -> io::Result<Struck> {
        let (path, len) = {
            let inode = lock(&self.inode);
            (inode.path.clone(), inode.len())
        };
        let growth = (position.unwrap_or(len) + bytes as u64).saturating_sub(len);
        self.disk.strike(Operation::Write { bytes: bytes as u64 }, &path, (growth > 0).then_some(growth))
    }
}

/// What a write that is lost or misdirected does on the medium. One that would land before the file is only lost.
fn misplace(inode: &mut Inode, struck: Struck, position: u64, data: &[u8]) {
    if struck.lost || struck.misdirected {
        inode.forsake(position, data.len());
    }
    if let Some(at) = position.checked_sub(PAGE_BYTES).filter(|_| struck.misdirected) {
        inode.overwrite_medium(at, data);
    }
}
