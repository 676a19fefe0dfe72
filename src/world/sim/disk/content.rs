//! The bytes of one simulated file, as the page cache holds them.

use bytes::{Bytes, BytesMut};

/// A file's bytes, for files that mostly grow at the end: an append copies its data once and moves nothing, a read
/// within one piece copies nothing.
#[derive(Default)]
pub(super) struct Content {
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

    pub(super) fn read(&mut self, position: u64, bytes_max: usize) -> Bytes {
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

    pub(super) fn truncate(&mut self, len: u64) {
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
