//! Reads the fields of a message off its frame. What is left behind the last is not looked at, as in Kafka.

use bytes::Bytes;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::{Decodable, StrBytes};
use uuid::Uuid;

use super::FLEXIBLE;
use crate::protocol::primitives::DecodeError;

pub(super) struct Fields<'a> {
    /// What `left` is a part of: strings and records are slices of it.
    frame: &'a Bytes,
    left: &'a [u8],
    version: i16,
}

impl<'a> Fields<'a> {
    pub(super) fn new(frame: &'a Bytes, version: i16) -> Fields<'a> {
        Fields { frame, left: frame, version }
    }

    pub(super) fn version(&self) -> i16 {
        self.version
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, left) = self.left.split_at_checked(len).ok_or(DecodeError::Truncated(what))?;
        self.left = left;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, left) = self.left.split_first_chunk().ok_or(DecodeError::Truncated(what))?;
        self.left = left;
        Ok(*taken)
    }

    pub(super) fn int8(&mut self) -> Result<i8, DecodeError> {
        self.fixed("an int8").map(i8::from_be_bytes)
    }

    pub(super) fn int16(&mut self) -> Result<i16, DecodeError> {
        self.fixed("an int16").map(i16::from_be_bytes)
    }

    pub(super) fn int32(&mut self) -> Result<i32, DecodeError> {
        self.fixed("an int32").map(i32::from_be_bytes)
    }

    pub(super) fn int64(&mut self) -> Result<i64, DecodeError> {
        self.fixed("an int64").map(i64::from_be_bytes)
    }

    fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let mut value: u32 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.fixed("an unsigned varint")?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid("unsigned varint"))
    }

    /// Of an array or of bytes; `None`: null.
    fn length(&mut self) -> Result<Option<usize>, DecodeError> {
        if self.version >= FLEXIBLE {
            return Ok(self.unsigned_varint()?.checked_sub(1).map(|length| length as usize));
        }
        match self.int32()? {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| DecodeError::Invalid("length")),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Option<Bytes>, DecodeError> {
        let Some(length) = self.length()? else { return Ok(None) };
        let taken = self.take(length, "bytes")?;
        Ok(Some(self.frame.slice_ref(taken)))
    }

    /// One that may be null in no version that we know.
    pub(super) fn string(&mut self) -> Result<StrBytes, DecodeError> {
        let length = match self.version {
            FLEXIBLE.. => self.length()?,
            _ => usize::try_from(self.int16()?).ok(),
        };
        let taken = self.take(length.ok_or(DecodeError::Invalid("null string"))?, "a string")?;
        StrBytes::try_from(self.frame.slice_ref(taken)).map_err(|_| DecodeError::Invalid("UTF-8"))
    }

    /// A topic's name up to version 12, its id from then on.
    pub(super) fn topic(&mut self) -> Result<(TopicName, Uuid), DecodeError> {
        if self.version <= 12 {
            return Ok((TopicName(self.string()?), Uuid::nil()));
        }
        Ok((TopicName::default(), Uuid::from_bytes(self.fixed("a uuid")?)))
    }

    /// An array that may be null.
    pub(super) fn array<T>(
        &mut self,
        mut read: impl FnMut(&mut Fields<'a>) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(length) = self.length()? else { return Ok(None) };
        // Every element takes a byte at least: a length beyond that is a lie, and must not allocate.
        if length > self.left.len() {
            return Err(DecodeError::Truncated("an array"));
        }
        let mut items = Vec::new();
        items.reserve_exact(length.min(64));
        for _ in 0..length {
            items.push(read(self)?);
        }
        Ok(Some(items))
    }

    /// A structure that the library reads.
    pub(super) fn decoded<T: Decodable>(&mut self) -> Result<T, DecodeError> {
        let mut left = self.frame.slice_ref(self.left);
        let read = T::decode(&mut left, self.version).map_err(|_| DecodeError::Invalid("structure"))?;
        self.left = &self.left[self.left.len() - left.len()..];
        Ok(read)
    }

    /// The tagged fields, in the versions that have them: `read` gets each tag with its bytes, and ignores those that it
    /// does not know.
    pub(super) fn tagged_fields(
        &mut self,
        mut read: impl FnMut(u32, &mut Fields<'a>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        if self.version < FLEXIBLE {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            let (tag, length) = (self.unsigned_varint()?, self.unsigned_varint()?);
            let left = self.take(length as usize, "a tagged field")?;
            read(tag, &mut Fields { frame: self.frame, left, version: self.version })?;
        }
        Ok(())
    }

    pub(super) fn skip_tagged_fields(&mut self) -> Result<(), DecodeError> {
        self.tagged_fields(|_, _| Ok(()))
    }
}
