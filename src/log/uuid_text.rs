//! Uuids as Kafka prints them (`Uuid.toString`): URL-safe base64 without padding, 22 characters.

use uuid::Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const CHARACTERS: u32 = 22;

pub fn encode(id: Uuid) -> String {
    let bits = id.as_u128();
    // 22 characters are 132 bits: the last one carries two bits and four zeros.
    let sextet = |at: u32| if at + 1 == CHARACTERS { bits << 4 } else { bits >> (122 - 6 * at) };
    (0..CHARACTERS).map(|at| char::from(ALPHABET[(sextet(at) & 63) as usize])).collect()
}

/// `None` if `text` is not a uuid as [`encode`] prints it.
pub fn decode(text: &str) -> Option<Uuid> {
    if text.len() != CHARACTERS as usize {
        return None;
    }
    let mut bits: u128 = 0;
    for (at, byte) in text.bytes().enumerate() {
        let sextet = ALPHABET.iter().position(|&letter| letter == byte)? as u128;
        bits = if at as u32 + 1 == CHARACTERS { bits << 2 | sextet >> 4 } else { bits << 6 | sextet };
    }
    Some(Uuid::from_u128(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_kafka_prints() {
        // Kafka's Uuid.METADATA_TOPIC_ID and ZERO_UUID.
        assert_eq!(encode(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(encode(Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(encode(Uuid::from_u128(u128::MAX)), "_____________________w");
    }

    #[test]
    fn reads_what_it_prints() {
        for bits in [0, 1, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210, u128::MAX, 1 << 127] {
            assert_eq!(decode(&encode(Uuid::from_u128(bits))), Some(Uuid::from_u128(bits)));
        }
        assert_eq!(decode("AAAAAAAAAAAAAAAAAAAAA"), None);
        assert_eq!(decode("AAAAAAAAAAAAAAAAAAAA+Q"), None);
    }
}
