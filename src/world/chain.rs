//! Bytes in pieces: what a file read hands out, and what a connection carries.

use bytes::Bytes;

/// A run of bytes that lie in several places of memory, in order; none of them is copied when it is made, cloned, or
/// put behind another. A read of a file yields the pieces of the page cache, and a frame is its envelope with those
/// pieces between (Kafka's `FileRecords` and `MultiRecordsSend`): so what is stored gets to the socket uncopied.
///
/// The pieces are a snapshot: they are never written to while somebody holds them. What a file's truncation or
/// overwriting takes away stays in the chains that were read before. Kafka's sendfile looks at the file once more when
/// the socket takes the bytes, and closes the connection if the file has been cut below them
/// (`FileRecords.writeTo`); there reading and sending are not one step.
#[derive(Clone, Default, Debug)]
pub struct Chain {
    /// All of it, as long as it is in one piece.
    first: Bytes,
    /// Never empty ones.
    rest: Vec<Bytes>,
}

impl Chain {
    pub const fn new() -> Chain {
        Chain { first: Bytes::new(), rest: Vec::new() }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.first.len() + self.rest.iter().map(Bytes::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Puts a piece behind the last.
    pub fn push(&mut self, piece: Bytes) {
        if self.first.is_empty() {
            self.first = piece;
        } else if !piece.is_empty() {
            self.rest.push(piece);
        }
    }

    /// Puts all pieces of `other` behind the last.
    pub fn append(&mut self, other: Chain) {
        self.push(other.first);
        if self.rest.is_empty() {
            self.rest = other.rest;
        } else {
            self.rest.extend(other.rest);
        }
    }

    /// Makes room for so many more pieces.
    pub fn reserve(&mut self, pieces: usize) {
        self.rest.reserve_exact(pieces);
    }

    /// The pieces, in order; none of them is empty, unless it is the only one.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// The first piece: of a frame at least the header, which is never a part of a file.
    pub fn front(&self) -> &[u8] {
        &self.first
    }

    /// Reads from the beginning on.
    pub fn reader(&self) -> ChainReader<'_> {
        ChainReader { piece: &self.first, rest: self.rest.iter() }
    }

    /// The bytes in one piece: as they lie if there is one, otherwise copied once. A receiver does this, as Kafka's
    /// (`NetworkReceive`) copies from the socket into a buffer of its own.
    pub fn to_bytes(&self) -> Bytes {
        if self.rest.is_empty() {
            return self.first.clone();
        }
        let mut gathered = Vec::with_capacity(self.len());
        self.pieces().for_each(|piece| gathered.extend_from_slice(piece));
        gathered.into()
    }

    /// As [`Chain::to_bytes`].
    pub fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.to_bytes() }
    }
}

/// See [`Chain::reader`].
pub struct ChainReader<'a> {
    piece: &'a [u8],
    rest: std::slice::Iter<'a, Bytes>,
}

impl ChainReader<'_> {
    /// Fills `buffer` with what comes next; false, at the end, if there is not so much.
    pub fn read(&mut self, mut buffer: &mut [u8]) -> bool {
        loop {
            let here = self.piece.len().min(buffer.len());
            let (read, left) = self.piece.split_at(here);
            buffer[..here].copy_from_slice(read);
            (self.piece, buffer) = (left, &mut buffer[here..]);
            if buffer.is_empty() {
                return true;
            }
            let Some(next) = self.rest.next() else { return false };
            self.piece = next;
        }
    }

    /// Passes over so many bytes, to the end at most.
    pub fn skip(&mut self, mut bytes: usize) {
        while bytes > self.piece.len() {
            bytes -= self.piece.len();
            let Some(next) = self.rest.next() else { return self.piece = &[] };
            self.piece = next;
        }
        self.piece = &self.piece[bytes..];
    }
}

impl From<Bytes> for Chain {
    fn from(bytes: Bytes) -> Chain {
        Chain { first: bytes, rest: Vec::new() }
    }
}

impl From<Vec<u8>> for Chain {
    fn from(bytes: Vec<u8>) -> Chain {
        Bytes::from(bytes).into()
    }
}

/// Equal bytes, wherever they are cut.
impl PartialEq for Chain {
    fn eq(&self, other: &Chain) -> bool {
        self.len() == other.len() && self.to_bytes() == other.to_bytes()
    }
}

impl Eq for Chain {}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(pieces: &[&'static str]) -> Chain {
        let mut chain = Chain::new();
        pieces.iter().for_each(|piece| chain.push(Bytes::from_static(piece.as_bytes())));
        chain
    }

    #[test]
    fn pieces_stay_where_they_are() {
        let (head, tail) = (Bytes::from(vec![1; 100]), Bytes::from(vec![2; 100]));
        let mut whole = Chain::from(head.clone());
        whole.append(chain(&["", "between", ""]));
        whole.push(tail.clone());
        let pieces: Vec<*const u8> = whole.pieces().map(|piece| piece.as_ptr()).collect();
        assert_eq!((pieces.len(), pieces[0], pieces[2]), (3, head.as_ptr(), tail.as_ptr()));
        assert_eq!(Chain::from(head.clone()).into_bytes().as_ptr(), head.as_ptr());
    }

    #[test]
    fn a_reader_goes_over_the_cuts() {
        let whole = chain(&["ab", "c", "defg", "h"]);
        let (mut reader, mut three) = (whole.reader(), [0; 3]);
        reader.skip(1);
        assert!(reader.read(&mut three));
        assert_eq!(&three, b"bcd");
        reader.skip(3);
        assert!(!reader.read(&mut three), "one byte is left");
        reader.skip(9);
        assert!(reader.read(&mut []) && !reader.read(&mut three[..1]));
    }

    #[test]
    fn where_it_is_cut_does_not_matter() {
        assert_eq!(chain(&["or", "ders"]), chain(&["order", "s"]));
        assert_ne!(chain(&["or", "ders"]), chain(&["or", "derz"]));
        assert_eq!(&chain(&["", "or", "", "ders"]).into_bytes()[..], b"orders");
        assert!(chain(&["", ""]).is_empty() && Chain::new().into_bytes().is_empty());
    }
}
