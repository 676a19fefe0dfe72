//! Fetch, written by hand. Records must not be copied into a response, and `kafka-protocol` encodes into one buffer; and
//! nothing is sent as often as a follower's fetch. Tests hold both messages to the bytes of the library in every version.
//! Consumers and the metadata fetcher use the library's types.

mod answer;
mod fields;
mod question;

pub use answer::{FetchAnswer, PartitionAnswer, TopicAnswer};
pub use question::{FetchQuestion, PartitionQuestion, TopicQuestion};

/// What we read and write.
const VERSIONS: std::ops::RangeInclusive<i16> = 4..=16;
/// Versions from here on have compact lengths and tagged fields (KIP-482).
const FLEXIBLE: i16 = 12;
