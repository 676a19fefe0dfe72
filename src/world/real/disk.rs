//! A directory of the real file system as a disk.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::world::path;

/// The files below one directory. Cheap to clone.
#[derive(Clone)]
pub struct RealDisk {
    root: Arc<Path>,
}

impl RealDisk {
    pub(super) fn new(root: Arc<Path>) -> RealDisk {
        RealDisk { root }
    }

    fn resolve(&self, path: &str) -> io::Result<PathBuf> {
        let mut resolved = self.root.to_path_buf();
        resolved.extend(path::components(path)?);
        Ok(resolved)
    }

    /// As [`RealDisk::resolve`], for what may not be the root itself.
    fn resolve_entry(&self, path: &str) -> io::Result<PathBuf> {
        path::split_last(path)?;
        self.resolve(path)
    }

    /// See [`Disk::open`](super::super::Disk::open).
    pub fn open(&self, path: &str) -> io::Result<RealFile> {
        let file = OpenOptions::new().read(true).write(true).open(self.resolve(path)?)?;
        Ok(RealFile { file })
    }

    /// See [`Disk::create`](super::super::Disk::create).
    pub fn create(&self, path: &str) -> io::Result<RealFile> {
        let path = self.resolve_entry(path)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(RealFile { file })
    }

    /// See [`Disk::exists`](super::super::Disk::exists).
    pub fn exists(&self, path: &str) -> bool {
        self.resolve(path).is_ok_and(|path| path.exists())
    }

    /// See [`Disk::create_dir_all`](super::super::Disk::create_dir_all).
    pub fn create_dir_all(&self, path: &str) -> io::Result<()> {
        fs::create_dir_all(self.resolve(path)?)
    }

    /// See [`Disk::read_dir`](super::super::Disk::read_dir). A name that is not UTF-8 is `InvalidData`.
    pub fn read_dir(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.resolve(path)?)? {
            let name = entry?.file_name().into_string().map_err(|name| {
                io::Error::new(io::ErrorKind::InvalidData, format!("the name {name:?} is not UTF-8"))
            })?;
            names.push(name);
        }
        names.sort();
        Ok(names)
    }

    /// See [`Disk::remove_file`](super::super::Disk::remove_file).
    pub fn remove_file(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.resolve_entry(path)?)
    }

    /// See [`Disk::remove_dir_all`](super::super::Disk::remove_dir_all).
    pub fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        fs::remove_dir_all(self.resolve_entry(path)?)
    }

    /// See [`Disk::rename`](super::super::Disk::rename).
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.resolve_entry(from)?, self.resolve_entry(to)?)
    }

    /// See [`Disk::sync_dir`](super::super::Disk::sync_dir).
    pub fn sync_dir(&self, path: &str) -> io::Result<()> {
        fs::File::open(self.resolve(path)?)?.sync_all()
    }
}

/// An open file.
pub struct RealFile {
    file: fs::File,
}

impl RealFile {
    #[expect(clippy::len_without_is_empty, reason = "world::File has it")]
    pub fn len(&self) -> u64 {
        self.file.metadata().expect("fstat of an open file only fails on a broken kernel").len()
    }

    /// See [`File::read_at`](super::super::File::read_at).
    pub fn read_at(&self, position: u64, bytes_max: usize) -> io::Result<Bytes> {
        let available = usize::try_from(self.len().saturating_sub(position)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; available.min(bytes_max)];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], position + filled as u64) {
                // Cut by another handle meanwhile.
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    }

    /// See [`File::append`](super::super::File::append).
    pub fn append(&mut self, data: &[u8]) -> io::Result<u64> {
        let position = self.len();
        self.file.write_all_at(data, position)?;
        Ok(position)
    }

    /// See [`File::write_at`](super::super::File::write_at). `InvalidInput` beyond the end.
    pub fn write_at(&mut self, position: u64, data: &[u8]) -> io::Result<()> {
        if position > self.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the position is beyond the end of the file"));
        }
        self.file.write_all_at(data, position)
    }

    /// See [`File::truncate`](super::super::File::truncate).
    pub fn truncate(&mut self, len: u64) -> io::Result<()> {
        if len < self.len() { self.file.set_len(len) } else { Ok(()) }
    }

    /// See [`File::sync`](super::super::File::sync).
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}
