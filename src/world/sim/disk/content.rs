//! The bytes of one simulated file, as the page cache holds them.

use bytes::{Bytes, BytesMut};

use crate::world::Chain;

/// A file's bytes, for files that mostly grow at the end: an append copies its data once, a read copies nothing.
///
/// A piece never changes: who read it may hold it. Overwriting puts another in its place, truncating drops or shortens
/// it here. When a block is full, the pieces that readers cut it into become one again, by a copy that makes each byte's
/// later reads cheap.
#[derive(Default)]
pub(super) struct Content {
    /// Adjacent and never empty.
    pieces: Vec<Piece>,
    /// Follows the last piece. Cut off as a piece when it is read or full.
    tail: BytesMut,
    tail_start: u64,
    /// Where the block that the tail belongs to begins.
    block_start: u64,
}

struct Piece {
    start: u64,
    bytes: Bytes,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// What lies here of the bytes from `start` to `end`.
    fn slice(&self, start: u64, end: u64) -> Bytes {
        let (from, to) = (start.saturating_sub(self.start), end.min(self.end()) - self.start);
        self.bytes.slice(from as usize..to as usize)
    }
}

/// The smallest and the largest block that appends share. They double with the file, as a small index or checkpoint
/// is more frequent than a large log.
const BLOCK_BYTES_MIN: u64 = 256;
const BLOCK_BYTES_MAX: u64 = 64 * 1024;

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.tail_start + self.tail.len() as u64
    }

    pub(super) fn append(&mut self, data: &[u8]) {
        self.append_both(data, &[]);
    }

    /// Both in one piece; returns them as they lie there.
    pub(super) fn append_both(&mut self, first: &[u8], second: &[u8]) -> &[u8] {
        let bytes = first.len() + second.len();
        if self.tail.capacity() - self.tail.len() < bytes {
            self.cut_tail();
            self.join_block();
            let block = self.len().clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX) as usize;
            self.tail = BytesMut::with_capacity(block.max(bytes));
        }
        self.tail.extend_from_slice(first);
        self.tail.extend_from_slice(second);
        &self.tail[self.tail.len() - bytes..]
    }

    fn cut_tail(&mut self) {
        if !self.tail.is_empty() {
            let bytes = self.tail.split().freeze();
            let start = self.tail_start;
            self.tail_start += bytes.len() as u64;
            self.pieces.push(Piece { start, bytes });
        }
    }

    /// The pieces of the block that is full become one; the next block begins.
    fn join_block(&mut self) {
        let first = self.pieces.iter().rposition(|piece| piece.start < self.block_start).map_or(0, |before| before + 1);
        if let [one, _, ..] = &self.pieces[first..] {
            let start = one.start;
            let mut joined = Vec::with_capacity((self.tail_start - start) as usize);
            self.pieces.drain(first..).for_each(|piece| joined.extend_from_slice(&piece.bytes));
            self.pieces.push(Piece { start, bytes: joined.into() });
        }
        self.block_start = self.tail_start;
    }

    /// The bytes as they lie here.
    pub(super) fn read(&mut self, position: u64, bytes_max: usize) -> Chain {
        let end = position.saturating_add(bytes_max as u64).min(self.len());
        if position >= end {
            return Chain::new();
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
            return piece.slice(position, end).into();
        }
        let mut chain = Chain::new();
        for piece in self.pieces[first..].iter().take_while(|piece| piece.start < end) {
            chain.push(piece.slice(position, end));
        }
        chain
    }

    pub(super) fn truncate(&mut self, len: u64) {
        if len >= self.tail_start {
            self.tail.truncate((len - self.tail_start) as usize);
            return;
        }
        self.tail = BytesMut::new();
        self.tail_start = len;
        self.block_start = self.block_start.min(len);
        while self.pieces.last().is_some_and(|piece| piece.start >= len) {
            self.pieces.pop();
        }
        if let Some(last) = self.pieces.last_mut() {
            last.bytes.truncate((len - last.start) as usize);
        }
    }

    /// Overwrites and, beyond the end, appends. `position` is not beyond the end.
    pub(super) fn write(&mut self, position: u64, data: &[u8]) {
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
