//! How well a topic's records compress, guessed from the batches so far (KIP-126, `CompressionRatioEstimator`).

use crate::log::compression::Compression;

/// Compressed to uncompressed size, in thousandths. Follows what it sees quickly upwards, where a batch would
/// become too large, and slowly downwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CompressionRatio {
    /// `None`: nothing is compressed.
    thousandths: Option<u64>,
}

/// `COMPRESSION_RATIO_IMPROVING_STEP`, `COMPRESSION_RATIO_DETERIORATE_STEP`.
const IMPROVING_STEP: u64 = 5;
const DETERIORATING_STEP: u64 = 50;
/// `COMPRESSION_RATE_ESTIMATION_FACTOR`, in hundredths: room for error.
const ESTIMATION_FACTOR: u64 = 105;

impl CompressionRatio {
    /// At first nothing is expected of it.
    pub fn of(compression: Compression) -> CompressionRatio {
        CompressionRatio { thousandths: (compression != Compression::None).then_some(1_000) }
    }

    /// Bytes that `uncompressed` bytes of records are expected to take.
    pub fn estimate(self, uncompressed: usize) -> usize {
        match self.thousandths {
            None => uncompressed,
            Some(ratio) => (uncompressed as u64 * ratio * ESTIMATION_FACTOR / 100_000) as usize,
        }
    }

    /// Expects nothing again, or the worst that was seen: a batch of so many bytes was too large
    /// (`CompressionRatioEstimator.setEstimation`).
    pub fn reset(&mut self, uncompressed: usize, compressed: usize) {
        let Some(ratio) = &mut self.thousandths else { return };
        *ratio = seen(uncompressed, compressed).max(1_000);
    }

    /// Takes note of a batch's records, before and after.
    pub fn observe(&mut self, uncompressed: usize, compressed: usize) {
        let Some(ratio) = &mut self.thousandths else { return };
        let seen = seen(uncompressed, compressed);
        *ratio = if seen > *ratio {
            seen.max(*ratio + DETERIORATING_STEP)
        } else {
            seen.max(ratio.saturating_sub(IMPROVING_STEP))
        };
    }
}

/// In thousandths.
fn seen(uncompressed: usize, compressed: usize) -> u64 {
    compressed as u64 * 1_000 / (uncompressed as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_rises_at_once_and_falls_slowly() {
        let mut ratio = CompressionRatio::of(Compression::Lz4);
        ratio.observe(1_000, 200);
        assert_eq!(ratio.thousandths, Some(995));
        for _ in 0..1_000 {
            ratio.observe(1_000, 200);
        }
        assert_eq!(ratio.thousandths, Some(200));
        ratio.observe(1_000, 210);
        assert_eq!(ratio.thousandths, Some(250));
        ratio.observe(1_000, 900);
        assert_eq!(ratio.thousandths, Some(900));
        ratio.reset(1_000, 900);
        assert_eq!(ratio.thousandths, Some(1_000));
        ratio.reset(1_000, 1_200);
        assert_eq!(ratio.thousandths, Some(1_200));
    }

    #[test]
    fn without_compression_sizes_are_what_they_are() {
        let mut ratio = CompressionRatio::of(Compression::None);
        ratio.observe(1_000, 200);
        assert_eq!(ratio.estimate(12_345), 12_345);
        assert_eq!(CompressionRatio::of(Compression::Gzip).estimate(1_000), 1_050);
    }
}
