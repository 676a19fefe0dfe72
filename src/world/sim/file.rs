//! One simulated file: its content as the page cache holds it, and what is durable of it.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

/// A file's bytes, for files that mostly grow at the end: an append copies its data once and moves nothing, a read
/// within one piece copies nothing.
#[derive(Default)]
struct Content {
    /// Adjacent and never empty.
    pieces: Vec<Piece>,
    /// Follows the last piece. Cut off as a piece when it is read or full.
    tail: BytesMut,
    tail_start: u64,
}

struct Piece {
    start: u64,
    bytes: Bytes,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// The smallest and the largest block that appends share. They double with the file, as a small index or checkpoint
/// is more frequent than a large log.
const BLOCK_BYTES_MIN: u64 = 256;
const BLOCK_BYTES_MAX: u64 = 64 * 1024;

impl Content {
    fn len(&self) -> u64 {
        self.tail_start + self.tail.len() as u64
    }

    fn append(&mut self, data: &[u8]) {
        if self.tail.capacity() - self.tail.len() < data.len() {
            self.cut_tail();
            let block = self.len().clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX) as usize;
            self.tail = BytesMut::with_capacity(block.max(data.len()));
        }
        self.tail.extend_from_slice(data);
    }

    fn cut_tail(&mut self) {
        if !self.tail.is_empty() {
            let bytes = self.tail.split().freeze();
            let start = self.tail_start;
            self.tail_start += bytes.len() as u64;
            self.pieces.push(Piece { start, bytes });
        }
    }

    fn read(&mut self, position: u64, bytes_max: usize) -> Bytes {
        let end = position.saturating_add(bytes_max as u64).min(self.len());
        if position >= end {
            return Bytes::new();
        }
        if end > self.tail_start {
            self.cut_tail();
        }
        let first = match self.pieces.last() {
            Some(last) if last.start <= position => self.pieces.len() - 1,
            Some(_) | None => self.pieces.partition_point(|piece| piece.start <= position) - 1,
        };
        let piece = &self.pieces[first];
        if end <= piece.end() {
            return piece.bytes.slice((position - piece.start) as usize..(end - piece.start) as usize);
        }
        let mut gathered = Vec::with_capacity((end - position) as usize);
        for piece in self.pieces[first..].iter().take_while(|piece| piece.start < end) {
            let from = position.saturating_sub(piece.start) as usize;
            let to = (end.min(piece.end()) - piece.start) as usize;
            gathered.extend_from_slice(&piece.bytes[from..to]);
        }
        gathered.into()
    }

    fn truncate(&mut self, len: u64) {
        if len >= self.tail_start {
            self.tail.truncate((len - self.tail_start) as usize);
            return;
        }
        self.tail = BytesMut::new();
        self.tail_start = len;
        while self.pieces.last().is_some_and(|piece| piece.start >= len) {
            self.pieces.pop();
        }
        if let Some(last) = self.pieces.last_mut() {
            last.bytes.truncate((len - last.start) as usize);
        }
    }

    /// Overwrites and, beyond the end, appends. `position` is not beyond the end.
    fn write(&mut self, position: u64, data: &[u8]) {
        let overwritten = data.len().min((self.len() - position) as usize);
        if overwritten > 0 {
            let end = position + overwritten as u64;
            self.cut_tail();
            let from = self.split_at(position);
            let to = self.split_at(end);
            let piece = Piece { start: position, bytes: Bytes::copy_from_slice(&data[..overwritten]) };
            self.pieces.splice(from..to, [piece]);
        }
        self.append(&data[overwritten..]);
    }

    /// Makes a piece start at `position` and returns its index; the tail is empty.
    fn split_at(&mut self, position: u64) -> usize {
        let index = self.pieces.partition_point(|piece| piece.start < position);
        match index.checked_sub(1).map(|before| &mut self.pieces[before]) {
            Some(before) if before.end() > position => {
                let bytes = before.bytes.split_off((position - before.start) as usize);
                self.pieces.insert(index, Piece { start: position, bytes });
            }
            Some(_) | None => {}
        }
        index
    }
}

/// A file's content and what a power loss would leave of it.
///
/// What is durable is kept as a difference to the content: a length, and the durable bytes of the ranges that were
/// overwritten or cut since the last sync. So the common case, append and sync, copies nothing. The ranges that are
/// pending (not durable) are those of `shadow`, and from `durable_len` to the end: a power loss may keep any subset of
/// them.
pub(super) struct Inode {
    /// Counts a disk's files.
    pub(super) number: u64,
    content: Content,
    durable_len: u64,
    /// By position; disjoint, and all below `durable_len`. Every durable byte is here or unchanged in `content`.
    shadow: BTreeMap<u64, Bytes>,
}

impl Inode {
    pub(super) fn new(number: u64) -> Inode {
        Inode { number, content: Content::default(), durable_len: 0, shadow: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> u64 {
        self.content.len()
    }

    pub(super) fn read(&mut self, position: u64, bytes_max: usize) -> Bytes {
        self.content.read(position, bytes_max)
    }

    /// Returns the position written to.
    pub(super) fn append(&mut self, data: &[u8]) -> u64 {
        let position = self.content.len();
        self.content.append(data);
        position
    }

    /// `position` is not beyond the end.
    pub(super) fn write(&mut self, position: u64, data: &[u8]) {
        self.keep_durable(position, position + data.len() as u64);
        self.content.write(position, data);
    }

    /// `len` is not beyond the end.
    pub(super) fn truncate(&mut self, len: u64) {
        self.keep_durable(len, self.durable_len);
        self.content.truncate(len);
    }

    pub(super) fn sync(&mut self) {
        self.shadow.clear();
        self.durable_len = self.content.len();
    }

    /// The content becomes what is durable.
    pub(super) fn lose_power(&mut self) {
        for (position, bytes) in std::mem::take(&mut self.shadow) {
            self.content.write(position, &bytes);
        }
        self.content.truncate(self.durable_len);
    }

    /// Copies the durable bytes of a range, which is about to change, to the shadow unless they are there already.
    fn keep_durable(&mut self, start: u64, end: u64) {
        let end = end.min(self.durable_len);
        let mut at = start;
        while at < end {
            let before = self.shadow.range(..=at).next_back().map(|(start, bytes)| start + bytes.len() as u64);
            if let Some(shadow_end) = before.filter(|&shadow_end| shadow_end > at) {
                at = shadow_end;
                continue;
            }
            let next = self.shadow.range(at..).next().map_or(end, |(&start, _)| start.min(end));
            let bytes = self.content.read(at, (next - at) as usize);
            assert_eq!(bytes.len() as u64, next - at, "durable bytes are in the content or in the shadow");
            self.shadow.insert(at, bytes);
            at = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Inode;

    #[derive(Clone, Debug)]
    enum Step {
        Append(Vec<u8>),
        Write(usize, Vec<u8>),
        Truncate(usize),
        Read(usize, usize),
        Sync,
        LosePower,
    }

    fn step() -> impl Strategy<Value = Step> {
        let data = || proptest::collection::vec(any::<u8>(), 0..400);
        prop_oneof![
            4 => data().prop_map(Step::Append),
            2 => (any::<usize>(), data()).prop_map(|(at, data)| Step::Write(at, data)),
            2 => any::<usize>().prop_map(Step::Truncate),
            2 => (any::<usize>(), 0..600usize).prop_map(|(at, max)| Step::Read(at, max)),
            2 => Just(Step::Sync),
            1 => Just(Step::LosePower),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_two_byte_vectors(steps in proptest::collection::vec(step(), 1..60)) {
            let mut inode = Inode::new(1);
            let (mut current, mut durable) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Append(data) => {
                        prop_assert_eq!(inode.append(&data), current.len() as u64);
                        current.extend(&data);
                    }
                    Step::Write(at, data) => {
                        let at = at % (current.len() + 1);
                        inode.write(at as u64, &data);
                        let overwritten = data.len().min(current.len() - at);
                        current[at..at + overwritten].copy_from_slice(&data[..overwritten]);
                        current.extend(&data[overwritten..]);
                    }
                    Step::Truncate(len) => {
                        let len = len % (current.len() + 1);
                        inode.truncate(len as u64);
                        current.truncate(len);
                    }
                    Step::Read(at, max) => {
                        let at = at % (current.len() + 2);
                        let end = (at + max).min(current.len());
                        prop_assert_eq!(&inode.read(at as u64, max)[..], &current[at.min(end)..end]);
                    }
                    Step::Sync => {
                        inode.sync();
                        durable = current.clone();
                    }
                    Step::LosePower => {
                        inode.lose_power();
                        current = durable.clone();
                    }
                }
                prop_assert_eq!(inode.len(), current.len() as u64);
            }
            prop_assert_eq!(&inode.read(0, usize::MAX)[..], &current[..]);
            inode.lose_power();
            prop_assert_eq!(&inode.read(0, usize::MAX)[..], &durable[..]);
        }
    }

    #[test]
    fn a_slice_that_was_read_keeps_its_bytes() {
        let mut inode = Inode::new(1);
        inode.append(b"before");
        let read = inode.read(0, 6);
        inode.write(0, b"behind");
        inode.truncate(3);
        inode.append(b"xyz");
        assert_eq!(&read[..], b"before");
        assert_eq!(&inode.read(0, 9)[..], b"behxyz");
    }

    #[test]
    fn reads_within_an_append_share_its_memory() {
        let mut inode = Inode::new(1);
        inode.append(&[7; 1000]);
        let (a, b) = (inode.read(0, 1000), inode.read(100, 900));
        assert_eq!(a[100..].as_ptr(), b.as_ptr());
    }
}
