//! Small files that are replaced as a whole, and Kafka's text format for checkpoints (`CheckpointFile`):
//! version, number of entries, one entry per line.

use std::io;

use crate::world::Disk;

const VERSION: &str = "0";

/// Replaces the file's content through a temporary file, fsync, rename and fsync of the directory
/// (`Utils.atomicMoveWithFallback`): after a power loss it holds either the old or the new content. Without the first
/// fsync (`is_durable`) it may hold neither.
pub fn replace(disk: &Disk, path: &str, content: &[u8], is_durable: bool) -> io::Result<()> {
    let temporary = format!("{path}.tmp");
    let mut file = disk.create(&temporary)?;
    file.append(content)?;
    if is_durable {
        file.sync()?;
    }
    disk.rename(&temporary, path)?;
    disk.sync_dir(parent(path))
}

/// The whole of a small file, `None` if it does not exist.
pub fn content(disk: &Disk, path: &str) -> io::Result<Option<String>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let bytes = file.read_at(0, file.len() as usize)?;
    match String::from_utf8(bytes.to_vec()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not text"))),
    }
}

/// Writes a checkpoint; durable when this returns, if `is_durable`.
pub fn write(disk: &Disk, path: &str, entries: impl Iterator<Item = String>, is_durable: bool) -> io::Result<()> {
    let mut lines = String::new();
    let mut count = 0;
    for entry in entries {
        lines.push_str(&entry);
        lines.push('\n');
        count += 1;
    }
    replace(disk, path, format!("{VERSION}\n{count}\n{lines}").as_bytes(), is_durable)
}

/// Reads a checkpoint's entries. Missing, empty or without a count: no entries. Anything else that is not
/// what [`write`] wrote is `InvalidData`.
pub fn read(disk: &Disk, path: &str) -> io::Result<Vec<String>> {
    let Some(text) = content(disk, path)? else { return Ok(Vec::new()) };
    let mut lines = text.lines();
    match lines.next() {
        None => return Ok(Vec::new()),
        Some(VERSION) => {}
        Some(other) => return Err(malformed(path, other)),
    }
    let Some(count) = lines.next() else { return Ok(Vec::new()) };
    let expected: usize = count.parse().map_err(|_| malformed(path, count))?;
    let entries: Vec<String> = lines.map(str::to_owned).collect();
    if entries.len() != expected {
        let message = format!("{path} holds {} of {expected} entries", entries.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(entries)
}

pub fn malformed(path: &str, line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed line in checkpoint {path}: {line:?}"))
}

/// The directory that holds `path`; empty for the root.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
