//! The primitive types of Kafka's flexible message versions (KIP-482), for the few records that `kafka-protocol`
//! has no codec for: metadata records, and the coordinators' records.
//!
//! Writing goes to any [`BufMut`] and cannot fail. Reading goes through [`Reader`], which never looks beyond its
//! bytes. Tagged fields are written in ascending order of their tag; tags that the reader does not know are skipped.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// Bytes that are not what the schema says.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the bytes end inside {0}")]
    Truncated(&'static str),
    #[error("invalid {0}")]
    Invalid(&'static str),
    #[error("{0} bytes are left over")]
    Garbage(usize),
}

pub fn put_unsigned_varint(out: &mut impl BufMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub fn put_bool(out: &mut impl BufMut, value: bool) {
    out.put_u8(u8::from(value));
}

pub fn put_uuid(out: &mut impl BufMut, value: Uuid) {
    out.put_slice(value.as_bytes());
}

/// Length plus one, then UTF-8; zero stands for null.
pub fn put_compact_string(out: &mut impl BufMut, value: Option<&str>) {
    match value {
        None => put_unsigned_varint(out, 0),
        Some(text) => {
            put_unsigned_varint(out, compact_length(text.len()));
            out.put_slice(text.as_bytes());
        }
    }
}

/// Number of elements plus one, then the elements.
pub fn put_compact_array<B: BufMut, T>(out: &mut B, items: &[T], put: impl Fn(&mut B, &T)) {
    put_unsigned_varint(out, compact_length(items.len()));
    for item in items {
        put(out, item);
    }
}

fn compact_length(len: usize) -> u32 {
    u32::try_from(len + 1).expect("our own strings and arrays are far below 4 GiB")
}

/// The tagged fields at the end of a structure. Fields that have their default value are not added.
#[derive(Default)]
pub struct TaggedFields {
    fields: Vec<(u32, BytesMut)>,
}

impl TaggedFields {
    pub fn new() -> TaggedFields {
        TaggedFields::default()
    }

    /// Adds a field. Tags are added in ascending order.
    pub fn add(&mut self, tag: u32, put: impl FnOnce(&mut BytesMut)) {
        debug_assert!(self.fields.last().is_none_or(|(last, _)| *last < tag));
        let mut value = BytesMut::new();
        put(&mut value);
        self.fields.push((tag, value));
    }

    pub fn put(&self, out: &mut impl BufMut) {
        put_unsigned_varint(out, u32::try_from(self.fields.len()).expect("a handful of fields"));
        for (tag, value) in &self.fields {
            put_unsigned_varint(out, *tag);
            put_unsigned_varint(out, u32::try_from(value.len()).expect("far below 4 GiB"));
            out.put_slice(value);
        }
    }
}

/// Reads primitives off the front of its bytes.
pub struct Reader {
    bytes: Bytes,
}

impl Reader {
    pub fn new(bytes: Bytes) -> Reader {
        Reader { bytes }
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if self.bytes.len() < len {
            return Err(DecodeError::Truncated(what));
        }
        Ok(self.bytes.split_to(len))
    }

    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        Ok(self.take(1, "an int8")?.get_i8())
    }

    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        Ok(self.take(2, "an int16")?.get_i16())
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(self.take(2, "a uint16")?.get_u16())
    }

    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(self.take(4, "an int32")?.get_i32())
    }

    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(self.take(8, "an int64")?.get_i64())
    }

    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.take(1, "a bool")?.get_u8() != 0)
    }

    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        Uuid::from_slice(&self.take(16, "a uuid")?).map_err(|_| DecodeError::Invalid("uuid"))
    }

    pub fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let mut value: u32 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take(1, "an unsigned varint")?[0];
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                return Err(DecodeError::Invalid("unsigned varint"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid("unsigned varint"))
    }

    /// A string that may be null.
    pub fn compact_string(&mut self) -> Result<Option<String>, DecodeError> {
        let Some(len) = self.unsigned_varint()?.checked_sub(1) else {
            return Ok(None);
        };
        let bytes = self.take(len as usize, "a string")?;
        let text = std::str::from_utf8(&bytes).map_err(|_| DecodeError::Invalid("UTF-8"))?;
        Ok(Some(text.to_owned()))
    }

    /// A string that must not be null.
    pub fn string(&mut self) -> Result<String, DecodeError> {
        self.compact_string()?.ok_or(DecodeError::Invalid("null string"))
    }

    /// An array that may be null.
    pub fn compact_array<T>(
        &mut self,
        mut read: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(len) = self.unsigned_varint()?.checked_sub(1) else {
            return Ok(None);
        };
        // Every element takes a byte at least: a length beyond that is a lie, and must not allocate.
        if len as usize > self.bytes.len() {
            return Err(DecodeError::Truncated("an array"));
        }
        (0..len).map(|_| read(self)).collect::<Result<Vec<T>, DecodeError>>().map(Some)
    }

    /// An array that must not be null.
    pub fn array<T>(&mut self, read: impl FnMut(&mut Reader) -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
        self.compact_array(read)?.ok_or(DecodeError::Invalid("null array"))
    }

    /// A string of the versions before KIP-482, that may be null.
    pub fn nullable_string(&mut self) -> Result<Option<String>, DecodeError> {
        let Ok(len) = usize::try_from(self.i16()?) else {
            return Ok(None);
        };
        let bytes = self.take(len, "a string")?;
        let text = std::str::from_utf8(&bytes).map_err(|_| DecodeError::Invalid("UTF-8"))?;
        Ok(Some(text.to_owned()))
    }

    /// Bytes of the versions before KIP-482, that must not be null.
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let len = usize::try_from(self.i32()?).map_err(|_| DecodeError::Invalid("null bytes"))?;
        self.take(len, "bytes")
    }

    /// Bytes that must not be null.
    pub fn compact_bytes(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.unsigned_varint()?.checked_sub(1).ok_or(DecodeError::Invalid("null bytes"))?;
        self.take(len as usize, "bytes")
    }

    /// An array of the versions before KIP-482, that must not be null.
    pub fn plain_array<T>(
        &mut self,
        mut read: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let len = usize::try_from(self.i32()?).map_err(|_| DecodeError::Invalid("null array"))?;
        if len > self.bytes.len() {
            return Err(DecodeError::Truncated("an array"));
        }
        (0..len).map(|_| read(self)).collect()
    }

    /// The tagged fields: `read` gets each tag with its bytes, and ignores those that it does not know.
    pub fn tagged_fields(
        &mut self,
        mut read: impl FnMut(u32, &mut Reader) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let len = self.unsigned_varint()?;
            let bytes = self.take(len as usize, "a tagged field")?;
            read(tag, &mut Reader::new(bytes))?;
        }
        Ok(())
    }

    /// The end of a structure without tagged fields that we know.
    pub fn skip_tagged_fields(&mut self) -> Result<(), DecodeError> {
        self.tagged_fields(|_, _| Ok(()))
    }

    /// The end of the message: nothing may be left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(DecodeError::Garbage(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(put: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut out = BytesMut::new();
        put(&mut out);
        out.freeze()
    }

    #[test]
    fn unsigned_varint_uses_seven_bits_a_byte() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (300, &[0xac, 0x02]),
            (u32::MAX, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            let encoded = written(|out| put_unsigned_varint(out, value));
            assert_eq!(encoded, bytes);
            assert_eq!(Reader::new(encoded).unsigned_varint(), Ok(value));
        }
    }

    #[test]
    fn an_unsigned_varint_beyond_32_bits_is_refused() {
        let too_big = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x1f]);
        assert_eq!(Reader::new(too_big).unsigned_varint(), Err(DecodeError::Invalid("unsigned varint")));
        let too_long = Bytes::from_static(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]);
        assert_eq!(Reader::new(too_long).unsigned_varint(), Err(DecodeError::Invalid("unsigned varint")));
    }

    #[test]
    fn null_and_empty_strings_differ() {
        for (value, bytes) in [(None, &[0x00][..]), (Some(""), &[0x01]), (Some("ab"), &[0x03, b'a', b'b'])] {
            let encoded = written(|out| put_compact_string(out, value));
            assert_eq!(encoded, bytes);
            assert_eq!(Reader::new(encoded).compact_string(), Ok(value.map(str::to_owned)));
        }
        assert_eq!(Reader::new(Bytes::from_static(&[0])).string(), Err(DecodeError::Invalid("null string")));
    }

    #[test]
    fn an_array_longer_than_its_bytes_is_refused_without_allocating() {
        let lie = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2]);
        assert_eq!(Reader::new(lie).array(Reader::i8), Err(DecodeError::Truncated("an array")));
    }

    #[test]
    fn unknown_tags_are_skipped() {
        let encoded = written(|out| {
            let mut fields = TaggedFields::new();
            fields.add(1, |out| out.put_i32(7));
            fields.add(9, |out| out.put_slice(b"from the future"));
            fields.put(out);
        });
        let mut seen = None;
        let mut reader = Reader::new(encoded);
        let read = reader.tagged_fields(|tag, field| {
            if tag == 1 {
                seen = Some(field.i32()?);
            }
            Ok(())
        });
        assert_eq!((read, seen), (Ok(()), Some(7)));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn left_over_bytes_are_an_error() {
        assert_eq!(Reader::new(Bytes::from_static(&[1, 2])).finish(), Err(DecodeError::Garbage(2)));
    }
}
