//! Compression of a batch's records, in Kafka's framing (`GzipCompression`, `SnappyCompression`,
//! `Lz4Compression`, `ZstdCompression`): gzip stream, snappy in xerial blocks, lz4 frame with independent
//! blocks, zstd frame. The codecs come with `kafka-protocol`, at its levels: gzip 6, lz4 4, zstd 3.

use bytes::{Bytes, BytesMut};
use kafka_protocol::compression::{Compressor, Decompressor, Gzip, Lz4, Snappy, Zstd};
pub use kafka_protocol::records::Compression;

use super::batch::BatchError;

/// Bits of a batch's attributes that hold the compression type.
const MASK: i16 = 0x07;

/// Every type, in the order of its code.
pub const ALL: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// The type in a batch's attributes; an unknown code is `Invalid`.
pub fn of_attributes(attributes: i16) -> Result<Compression, BatchError> {
    let code = usize::try_from(attributes & MASK).expect("three bits are not negative");
    ALL.get(code).copied().ok_or(BatchError::Invalid("unknown compression type"))
}

/// The attributes with another compression type.
pub fn in_attributes(attributes: i16, compression: Compression) -> i16 {
    attributes & !MASK | compression as i16
}

/// Compresses the records of a batch.
pub fn compress(compression: Compression, records: &[u8]) -> Bytes {
    let mut compressed = BytesMut::new();
    let write = |buffer: &mut BytesMut| {
        buffer.extend_from_slice(records);
        Ok(())
    };
    match compression {
        Compression::None => return Bytes::copy_from_slice(records),
        Compression::Gzip => Gzip::compress(&mut compressed, write),
        Compression::Snappy => Snappy::compress(&mut compressed, write),
        Compression::Lz4 => Lz4::compress(&mut compressed, write),
        Compression::Zstd => Zstd::compress(&mut compressed, write),
    }
    .expect("compressing into memory cannot fail");
    compressed.freeze()
}

/// The records of a batch as they were before compression; a slice of the input if there was none.
pub fn decompress(compression: Compression, mut records: Bytes) -> Result<Bytes, BatchError> {
    let take = |buffer: &mut Bytes| Ok(std::mem::take(buffer));
    match compression {
        Compression::None => return Ok(records),
        Compression::Gzip => Gzip::decompress(&mut records, take),
        Compression::Snappy => Snappy::decompress(&mut records, take),
        Compression::Lz4 => Lz4::decompress(&mut records, take),
        Compression::Zstd => Zstd::decompress(&mut records, take),
    }
    .map_err(|_| BatchError::Decompression)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text that repeats itself now and then, as records do.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![Just(b"a key and a value, ".to_vec()), proptest::collection::vec(any::<u8>(), 0..40)];
        proptest::collection::vec(word, 0..400).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(content in content(), code in 0..5usize) {
            let compressed = compress(ALL[code], &content);
            prop_assert_eq!(&compress(ALL[code], &content), &compressed, "the same bytes every time");
            prop_assert_eq!(decompress(ALL[code], compressed).unwrap(), content);
        }

        #[test]
        fn damage_ends_in_an_error_or_in_other_bytes_never_in_a_panic(
            content in proptest::collection::vec(any::<u8>(), 0..300), code in 1..5usize, at in any::<usize>(), bit in 0..8u8,
        ) {
            let mut compressed = compress(ALL[code], &content).to_vec();
            // The block lengths of snappy are believed up to 4 GiB, as in Kafka: leave the first ones alone.
            let from = if ALL[code] == Compression::Snappy { 24.min(compressed.len()) } else { 0 };
            if from < compressed.len() {
                let at = from + at % (compressed.len() - from);
                compressed[at] ^= 1 << bit;
                let _ = decompress(ALL[code], compressed.into());
            }
        }
    }

    #[test]
    fn framing_is_kafkas() {
        let of = |compression| compress(compression, &[7; 100_000]);
        assert_eq!(of(Compression::Gzip)[..3], [0x1f, 0x8b, 8]);
        assert_eq!(of(Compression::Zstd)[..4], [0x28, 0xb5, 0x2f, 0xfd]);
        // Xerial: magic, version 1, compatible with 1; then blocks of 32 KiB with their lengths.
        let snappy = of(Compression::Snappy);
        assert_eq!(snappy[..16], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
        let mut at = 16;
        let mut blocks = 0;
        while at < snappy.len() {
            at += 4 + u32::from_be_bytes(snappy[at..at + 4].try_into().unwrap()) as usize;
            blocks += 1;
        }
        assert_eq!((at, blocks), (snappy.len(), 4));
        // Lz4BlockInputStream: magic, version 1 with independent blocks and a right header checksum, which only
        // a reader can tell; blocks of 64 KiB.
        let lz4 = of(Compression::Lz4);
        assert_eq!(lz4[..4], [0x04, 0x22, 0x4d, 0x18]);
        assert_eq!(lz4[4] & 0b1110_0000, 0b0110_0000);
        assert_eq!(lz4[5], 0x40);
    }

    #[test]
    fn nothing_compressed_is_nothing_to_read() {
        for compression in &ALL[1..] {
            assert_eq!(decompress(*compression, compress(*compression, b"")).unwrap(), b"".as_slice());
        }
    }

    #[test]
    fn an_unknown_type_is_refused_and_others_keep_the_rest_of_the_attributes() {
        assert_eq!(of_attributes(0x28 | 5), Err(BatchError::Invalid("unknown compression type")));
        assert_eq!(of_attributes(0x28 | 4), Ok(Compression::Zstd));
        assert_eq!(in_attributes(0x28 | 4, Compression::Gzip), 0x28 | 1);
    }
}
