//! What may be wrong with disks, and with which of their files.

use glob::Pattern;
use proptest::prelude::*;
use proptest::sample::select;

use super::Shape;
use crate::scenario::disk::{BatchChoice, BatchField, BitRot, DiskAction, RotPlace, SegmentChoice};
use crate::world::sim::{DiskFault, DiskScope};

/// One of each kind of disk fault; a fault's kind picks.
#[derive(Clone, Debug)]
pub(super) struct DiskAims {
    pub slow: DiskFault,
    /// Fails, and says so.
    pub failing: DiskFault,
    /// Says that it has done what it has not.
    pub lying: DiskFault,
    pub rot: (DiskAction, DiskScope),
    /// For what is not rot.
    pub scope: DiskScope,
}

pub(super) fn aims(shape: &Shape, partition: &str) -> BoxedStrategy<DiskAims> {
    (slow(), failing(), lying(), rot(partition), scope(shape, partition))
        .prop_map(|(slow, failing, lying, rot, scope)| DiskAims { slow, failing, lying, rot, scope })
        .boxed()
}

fn slow() -> BoxedStrategy<DiskFault> {
    let by = || prop_oneof![3 => 1..100_u64, 1 => 100..2_000_u64].prop_map(std::time::Duration::from_millis);
    prop_oneof![
        by().prop_map(DiskFault::SyncSlow),
        by().prop_map(DiskFault::WriteSlow),
        by().prop_map(DiskFault::ReadSlow),
        Just(DiskFault::Stall),
        Just(DiskFault::ReadShort),
        (1_000..100_000_u64).prop_map(|bytes_per_second| DiskFault::Throttle { bytes_per_second }),
    ]
    .boxed()
}

fn failing() -> BoxedStrategy<DiskFault> {
    prop_oneof![
        2 => Just(DiskFault::SyncFail),
        1 => Just(DiskFault::ReadFail),
        1 => Just(DiskFault::WriteFail),
        2 => (0..20_000_u64).prop_map(|free_bytes| DiskFault::Full { free_bytes }),
    ]
    .boxed()
}

fn lying() -> BoxedStrategy<DiskFault> {
    prop_oneof![
        3 => Just(DiskFault::SyncLie),
        1 => Just(DiskFault::WriteLost),
        1 => Just(DiskFault::WriteMisdirected),
    ]
    .boxed()
}

/// The whole disk, one of several log directories, or some files.
fn scope(shape: &Shape, partition: &str) -> BoxedStrategy<DiskScope> {
    let log_dirs = shape.log_dirs;
    let one = (1..=log_dirs)
        .prop_map(move |n| DiskScope { log_dir: (log_dirs > 1).then(|| format!("data-{n}")), files: None });
    let of_partition =
        ["*.log", "*.timeindex", "leader-epoch-checkpoint*", "*"].map(|name| format!("{partition}/{name}"));
    let patterns = of_partition.into_iter().chain([
        "recovery-point-offset-checkpoint*".to_owned(),
        "replication-offset-checkpoint*".to_owned(),
        ".kafka_cleanshutdown".to_owned(),
    ]);
    let files = select(patterns.collect::<Vec<_>>()).prop_map(|pattern| files(&pattern));
    prop_oneof![4 => Just(DiskScope::default()), 2 => one, 2 => files].boxed()
}

fn files(pattern: &str) -> DiskScope {
    DiskScope { log_dir: None, files: Some(Pattern::new(pattern).expect("patterns are written here")) }
}

/// Rot that a CRC covers, or that makes a batch or an index unreadable. What lies in front of the CRC in a batch is
/// believed by everyone: no guard could tell what follows from it.
fn rot(partition: &str) -> BoxedStrategy<(DiskAction, DiskScope)> {
    let log = files(&format!("{partition}/*.log"));
    let segment = select(vec![None, Some(SegmentChoice::Active), Some(SegmentChoice::Sealed)]);
    let batch = select(vec![BatchChoice::First, BatchChoice::Middle, BatchChoice::Last]);
    let field = select(vec![BatchField::Records, BatchField::Records, BatchField::Magic]);
    let of_log = (segment, batch, field, 0..8_u8).prop_map(move |(segment, batch, field, bit)| {
        let rot = BitRot { segment, place: RotPlace::Field(batch, field), bit };
        (DiskAction::BitRot(rot), log.clone())
    });
    prop_oneof![of_log, rot_of_index(partition)].boxed()
}

/// In the last entry of time indexes: mostly in those bits of its timestamp that are not the same for decades or within
/// milliseconds, else anywhere, its offset included.
pub(super) fn rot_of_index(partition: &str) -> BoxedStrategy<(DiskAction, DiskScope)> {
    let time_index = files(&format!("{partition}/*.timeindex"));
    let byte = prop_oneof![3 => -10..-6_i64, 1 => -12..0_i64];
    (byte, 0..8_u8)
        .prop_map(move |(byte, bit)| {
            let rot = BitRot { segment: None, place: RotPlace::Byte(byte), bit };
            (DiskAction::BitRot(rot), time_index.clone())
        })
        .boxed()
}
