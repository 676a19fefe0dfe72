//! Puts a cleaned segment in the place of those that it was made of (Kafka's `LocalLog.replaceSegments`), and
//! finishes or forgets at the next start what a crash interrupted (`LogLoader.removeTempFilesAndCollectSwapFiles`).
//!
//! 1. The cleaned segment lies beside the others, complete and durable, under `.cleaned`: a crash forgets it.
//! 2. It is renamed to `.swap`, the `.log` first: as long as a `.cleaned` file is left a crash forgets it.
//! 3. From here on it counts. The originals are removed; a crash removes the rest of them.
//! 4. The suffix goes. A crash takes the rest of it away.
//!
//! Between the steps the directory is synced, which Kafka leaves to the order that a file system's journal keeps.

use std::io;
use std::ops::Range;

use super::Rewritten;
use crate::log::Log;
use crate::log::segment::{self, EXTENSIONS, Segment};
use crate::protocol::Offset;
use crate::world::Disk;

pub const CLEANED_SUFFIX: &str = ".cleaned";
pub const SWAP_SUFFIX: &str = ".swap";

/// One call to the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Rename { from: String, to: String },
    Remove(String),
    SyncDir(String),
}

impl Step {
    pub fn run(&self, disk: &Disk) -> io::Result<()> {
        match self {
            Step::Rename { from, to } => disk.rename(from, to),
            Step::Remove(path) => disk.remove_file(path),
            Step::SyncDir(dir) => disk.sync_dir(dir),
        }
    }
}

/// Steps 2 to 4 in the log's directory `dir`: the segment at `cleaned`, durable under `.cleaned`, takes the place of
/// the segments at `originals`.
pub(super) fn steps(dir: &str, cleaned: Offset, originals: &[Offset]) -> Vec<Step> {
    let file =
        |base_offset, extension: &str, suffix: &str| format!("{}{suffix}", segment::file(dir, base_offset, extension));
    let rename = |from: &'static str, to: &'static str| {
        let one =
            move |extension| Step::Rename { from: file(cleaned, extension, from), to: file(cleaned, extension, to) };
        EXTENSIONS.into_iter().map(one)
    };
    let remove = |original: &Offset| EXTENSIONS.map(|extension| Step::Remove(file(*original, extension, "")));
    let sync = || Step::SyncDir(dir.to_owned());
    let mut steps: Vec<Step> = rename(CLEANED_SUFFIX, SWAP_SUFFIX).collect();
    steps.push(sync());
    steps.extend(originals.iter().flat_map(remove));
    steps.push(sync());
    steps.extend(rename(SWAP_SUFFIX, ""));
    steps.push(sync());
    steps
}

impl Log {
    pub(super) fn replace_segments(&mut self, originals: Range<usize>, cleaned: Segment) -> io::Result<()> {
        let offsets: Vec<Offset> = self.segments[originals.clone()].iter().map(Segment::base_offset).collect();
        for step in steps(&self.dir, cleaned.base_offset(), &offsets) {
            step.run(&self.disk)?;
        }
        self.entries_unsynced = false;
        self.segments.splice(originals, [cleaned]);
        Ok(())
    }
}

/// Finishes or forgets a swap that a crash interrupted in the log's directory `dir`, before the log is loaded.
/// Returns what was replaced.
pub fn finish_interrupted(disk: &Disk, dir: &str) -> io::Result<Option<Rewritten>> {
    let names = disk.read_dir(dir)?;
    let with_suffix = |suffix: &str| names.iter().filter_map(|name| temporary(name, suffix)).collect::<Vec<_>>();
    let (cleaned, swaps) = (with_suffix(CLEANED_SUFFIX), with_suffix(SWAP_SUFFIX));
    if cleaned.is_empty() && swaps.is_empty() {
        return Ok(None);
    }
    let first_cleaned = cleaned.iter().map(|file| file.base_offset).min();
    let (forgotten, kept): (Vec<_>, Vec<_>) =
        swaps.into_iter().partition(|file| first_cleaned.is_some_and(|cleaned| file.base_offset >= cleaned));
    for file in forgotten.iter().chain(&cleaned) {
        disk.remove_file(&format!("{dir}/{}", file.name))?;
    }
    disk.sync_dir(dir)?;
    let mut rewritten: Option<Rewritten> = None;
    for file in kept.iter().filter(|file| file.extension == "log") {
        let log = disk.open(&format!("{dir}/{}", file.name))?;
        let batches = segment::list_batches(&log, file.base_offset, false)?.batches;
        let from = file.base_offset;
        let to = batches.last().map_or(from, |last| last.info.last_offset + 1);
        let batches = batches.iter().map(|batch| batch.info);
        let whole = rewritten.get_or_insert_with(|| Rewritten { from, to, batches: Vec::new() });
        (whole.from, whole.to) = (whole.from.min(from), whole.to.max(to));
        whole.batches.extend(batches);
    }
    if let Some(Rewritten { from, to, .. }) = &rewritten {
        remove_originals(disk, dir, &names, *from..*to)?;
    }
    for file in &kept {
        let renamed = format!("{dir}/{}", file.name.trim_end_matches(SWAP_SUFFIX));
        disk.rename(&format!("{dir}/{}", file.name), &renamed)?;
    }
    disk.sync_dir(dir)?;
    Ok(rewritten)
}

/// Removes what is left of the segments that the swapped ones, which hold `offsets`, were made of.
fn remove_originals(disk: &Disk, dir: &str, names: &[String], offsets: Range<Offset>) -> io::Result<()> {
    for name in names {
        let base_offset = EXTENSIONS.iter().find_map(|extension| segment::base_offset(name, extension));
        if base_offset.is_some_and(|base_offset| offsets.contains(&base_offset)) {
            disk.remove_file(&format!("{dir}/{name}"))?;
        }
    }
    disk.sync_dir(dir)
}

/// A segment's file under a temporary name.
struct Temporary<'a> {
    name: &'a str,
    base_offset: Offset,
    extension: &'static str,
}

fn temporary<'a>(name: &'a str, suffix: &str) -> Option<Temporary<'a>> {
    let stem = name.strip_suffix(suffix)?;
    let of = |extension: &&'static str| {
        Some(Temporary { name, base_offset: segment::base_offset(stem, extension)?, extension })
    };
    EXTENSIONS.iter().find_map(of)
}
