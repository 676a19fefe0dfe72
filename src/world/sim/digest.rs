//! The fingerprint of a run: equal for equal seeds, and almost surely different otherwise.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use super::net::MachineId;
use crate::world::Chain;

/// A rolling 64-bit digest over everything that happens, in order. Only values that are a function of the seed may
/// enter: no pointer, no hash-map order, no madsim task id (those count per process of the host), no wall time.
#[derive(Debug, Default)]
pub(super) struct Digest(AtomicU64);

impl Digest {
    /// Mixes one happening in: what, on which machine, and the rest of what tells it from others.
    pub(super) fn record<const N: usize>(&self, kind: Kind, machine: MachineId, words: [u64; N]) {
        let mut state = fold(self.value(), u64::from(machine.0) << 32 | kind as u64);
        for word in words {
            state = fold(state, word);
        }
        // One thread runs a simulation, so a load and a store lose nothing.
        self.0.store(state, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    ProcessStarted = 1,
    ProcessStopped,
    PowerLost,
    Accepted,
    Connected,
    Frame,
    Closed,
    Terminate,
    FileCreated,
    FileWritten,
    FileTruncated,
    FileSynced,
    DirCreated,
    Removed,
    Renamed,
    DirSynced,
    /// Pending changes of a file or directory outlived a power loss.
    Survived,
    Rotted,
    CacheDropped,
    DiskReplaced,
    IoReady,
}

/// Stands for the bytes of a frame, a write or a name.
pub(super) fn fingerprint(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Stands for bytes in pieces, and for where they are cut.
pub(super) fn fingerprint_of(chain: &Chain) -> u64 {
    let mut pieces = chain.pieces().map(|piece| fingerprint(piece));
    let first = pieces.next().unwrap_or_default();
    pieces.fold(first, fold)
}

/// The multiply-fold step of xxh3 and wyhash, with two of xxh3's secret words.
fn fold(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ 0x1cad_2167_5d03_6f5b) * u128::from(word.rotate_left(32) ^ 0xdb97_9083_e96d_d4de);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::{Digest, Kind};
    use crate::world::sim::net::MachineId;

    #[test]
    fn order_kind_machine_and_words_matter() {
        let of = |happenings: &[(Kind, u32, u64)]| {
            let digest = Digest::default();
            happenings.iter().for_each(|&(kind, machine, word)| digest.record(kind, MachineId(machine), [word]));
            digest.value()
        };
        let (one, two) = ((Kind::Frame, 0, 1), (Kind::Frame, 0, 2));
        assert_eq!(of(&[one, two]), of(&[one, two]));
        assert_ne!(of(&[one, two]), of(&[two, one]));
        assert_ne!(of(&[one]), of(&[(Kind::Closed, 0, 1)]));
        assert_ne!(of(&[one]), of(&[(Kind::Frame, 1, 1)]));
        assert_ne!(of(&[(Kind::Frame, 0, 0)]), of(&[]));
    }
}
