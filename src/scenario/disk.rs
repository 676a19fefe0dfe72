//! What a scenario can do to disks: the part of the model that concerns them.

use std::fmt;

use crate::world::sim::{DiskFault, DiskScope, Numbers, Survival, Survivors};

/// What is done to the disks that [`DiskScope`] names on the machines of [`Fault::target`](super::Fault::target).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskAction {
    /// Lasts: something goes wrong with what is done on the disk.
    Fault(DiskFault),
    /// One byte of each file changes.
    BitRot(BitRot),
    /// The page cache forgets its clean pages.
    DropCache,
    /// The machine loses power and finds an empty disk, or an empty log directory. With a duration: power returns
    /// after it.
    Replace,
}

/// Which byte of a file rots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BitRot {
    /// Of the files that match: the last by name, or the first if there are others behind it. `None`: all of them.
    pub segment: Option<SegmentChoice>,
    pub place: RotPlace,
    /// 0 to 7, from the lowest.
    pub bit: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentChoice {
    Active,
    Sealed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RotPlace {
    /// From the beginning of the file, or, negative, from its end: -1 is the last.
    Byte(i64),
    /// The last byte of a field of a record batch: its lowest in a number.
    Field(BatchChoice, BatchField),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchChoice {
    First,
    Middle,
    Last,
}

/// Fields of a record batch. The CRC covers what comes behind it: not the first four.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchField {
    BaseOffset,
    BatchLength,
    LeaderEpoch,
    Magic,
    Crc,
    LastOffsetDelta,
    MaxTimestamp,
    /// The payload: the batch's last byte.
    Records,
}

impl BatchField {
    /// As scenario files name them.
    pub const NAMES: &[(&str, BatchField)] = &[
        ("base-offset", BatchField::BaseOffset),
        ("batch-length", BatchField::BatchLength),
        ("leader-epoch", BatchField::LeaderEpoch),
        ("magic", BatchField::Magic),
        ("crc", BatchField::Crc),
        ("last-offset-delta", BatchField::LastOffsetDelta),
        ("max-timestamp", BatchField::MaxTimestamp),
        ("records", BatchField::Records),
    ];

    /// Position of the field's last byte in a batch of `size_bytes`.
    pub fn last_byte(self, size_bytes: u64) -> u64 {
        match self {
            BatchField::BaseOffset => 7,
            BatchField::BatchLength => 11,
            BatchField::LeaderEpoch => 15,
            BatchField::Magic => 16,
            BatchField::Crc => 20,
            BatchField::LastOffsetDelta => 26,
            BatchField::MaxTimestamp => 42,
            BatchField::Records => size_bytes - 1,
        }
    }
}

/// As scenario files name them, besides lists of numbers.
pub const SURVIVALS: &[(&str, Survival)] = &[
    ("nothing", Survival::Nothing),
    ("prefix", Survival::Prefix),
    ("subset", Survival::Subset),
    ("everything", Survival::Everything),
];

pub const SEGMENTS: &[(&str, SegmentChoice)] = &[("active", SegmentChoice::Active), ("sealed", SegmentChoice::Sealed)];

pub const BATCHES: &[(&str, BatchChoice)] =
    &[("first", BatchChoice::First), ("middle", BatchChoice::Middle), ("last", BatchChoice::Last)];

/// The name of a value in one of these tables.
pub fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    names.iter().find(|(_, named)| named == value).map(|(name, _)| *name).expect("every value has a name")
}

/// Where a disk fault strikes, as scenario files write it: `disk(1)`, `file(leader(orders-0), "orders-0/*.log")`.
pub struct Aim<'a> {
    pub machines: &'a super::Target,
    pub scope: &'a DiskScope,
}

impl fmt::Display for Aim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machines = match self.machines {
            super::Target::Broker(id) => id.to_string(),
            role => role.to_string(),
        };
        match (&self.scope.files, &self.scope.log_dir) {
            (Some(files), _) => write!(f, "file({machines}, \"{files}\")"),
            (None, Some(log_dir)) => write!(f, "disk({machines}, {log_dir})"),
            (None, None) => write!(f, "disk({machines})"),
        }
    }
}

/// The word for it, or the list of numbers.
pub fn survival_text(survival: Survival) -> String {
    match survival {
        Survival::Chosen(numbers) => numbers_text(numbers),
        Survival::Nothing | Survival::Everything | Survival::Prefix | Survival::Subset => {
            name_of(SURVIVALS, &survival).to_owned()
        }
    }
}

/// `[0, 2]`
pub fn numbers_text(numbers: Numbers) -> String {
    format!("{:?}", numbers.iter().collect::<Vec<_>>())
}

/// What a power loss leaves, for reports: empty if it leaves nothing.
pub fn survivors_text(survivors: Survivors) -> String {
    if survivors == Survivors::NOTHING {
        return String::new();
    }
    let (pages, entries) = (survival_text(survivors.pages), survival_text(survivors.entries));
    format!(" leaving pages: {pages}, entries: {entries}")
}
