//! Random streams forked by name: a draw in one never moves another.

use rand::SeedableRng;
use xxhash_rust::xxh3::Xxh3Default;

use super::Rng;

/// The stream that `names` name under `seed`. Each name is hashed with its length, so that ("ab", "c") and
/// ("a", "bc") differ.
pub(super) fn fork(seed: u64, names: &[&str]) -> Rng {
    let mut hash = Xxh3Default::new();
    hash.update(&seed.to_le_bytes());
    for name in names {
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
    }
    Rng::seed_from_u64(hash.digest())
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;

    use super::fork;

    #[test]
    fn a_stream_is_a_function_of_its_seed_and_names() {
        assert_eq!(fork(1, &["a", "b"]).next_u64(), fork(1, &["a", "b"]).next_u64());
        assert_ne!(fork(1, &["a", "b"]).next_u64(), fork(2, &["a", "b"]).next_u64());
        assert_ne!(fork(1, &["a", "b"]).next_u64(), fork(1, &["ab"]).next_u64());
        assert_ne!(fork(1, &["ab", "c"]).next_u64(), fork(1, &["a", "bc"]).next_u64());
    }
}
