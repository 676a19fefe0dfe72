//! What an anomaly's case consists of: operations by their `index` in the history, keys, offsets, values.
//! Plain data; as JSON each case is one flat object, as text ([`std::fmt::Display`]) one readable line.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// One case of an anomaly. Which anomaly it is, is the name that it is filed under.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Evidence {
    LostWrite(LostWrite),
    Unseen(Unseen),
    Duplicate(Duplicate),
    InconsistentOffsets(InconsistentOffsets),
    AbortedRead(AbortedRead),
    PrecommittedRead(PrecommittedRead),
    Phantom(Phantom),
    Jump(Jump),
    Cycle(Cycle),
    CommittedTooFar(CommittedTooFar),
    LostLatest(LostLatest),
    TombstoneMissed(TombstoneMissed),
}

impl Evidence {
    /// The flat JSON object.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("evidence has string keys and finite numbers")
    }
}

/// `lost-write`: a committed value that nobody read although a later one was read.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LostWrite {
    pub key: String,
    pub value: Value,
    /// Where it was last known to be.
    pub offset: Option<i64>,
    pub writer: u64,
    /// The bound: what an ok operation read at or beyond the lost value.
    pub highest_read_offset: Option<i64>,
    /// The operation that read there.
    pub reader: Option<u64>,
}

/// `unseen`: a value of an ok send that no ok poll ever returned.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Unseen {
    pub key: String,
    pub value: Value,
    pub offset: Option<i64>,
    pub writer: u64,
}

/// `duplicate`: one value at several offsets of a key.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Duplicate {
    pub key: String,
    pub value: Value,
    /// Two or more, ascending.
    pub offsets: Vec<i64>,
    /// `null` if nobody is known to have sent it.
    pub writer: Option<u64>,
}

/// `inconsistent-offsets`: several values at one offset.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct InconsistentOffsets {
    pub key: String,
    pub offset: i64,
    /// Two or more.
    pub values: Vec<Value>,
    /// Per value, who sent it.
    pub writers: Vec<Option<u64>>,
    /// Per value, the first operation that read it, whatever its outcome.
    pub readers: Vec<Option<u64>>,
}

/// `aborted-read` (G1a): an ok read of a value that a failed operation sent.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct AbortedRead {
    pub key: String,
    pub value: Value,
    pub offset: Option<i64>,
    pub writer: u64,
    pub reader: u64,
}

/// `precommitted-read`: an operation read what it sent itself.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PrecommittedRead {
    pub key: String,
    pub value: Value,
    pub offset: Option<i64>,
    pub operation: u64,
}

/// `phantom`: a value read that nobody sent.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Phantom {
    pub key: String,
    pub value: Value,
    pub offset: Option<i64>,
    /// The first operation that read it.
    pub reader: u64,
}

/// A skip or a step back between two records of a key, within one operation (`int-…`) or from one operation
/// of a process to its next.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Jump {
    pub key: String,
    pub process: i64,
    /// The one operation, or both.
    pub operations: Vec<u64>,
    /// From, to.
    pub values: [Value; 2],
    pub offsets: [Option<i64>; 2],
    /// In dense indexes of the version order: 1 would be right.
    pub distance: i64,
    /// The first values passed over; empty for a step back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Value>,
}

/// `G0`, `G1c` and their variants: operations each of which happened before the next, and the last before
/// the first.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Cycle {
    /// Each once, in the order of the cycle.
    pub operations: Vec<u64>,
    /// One per operation; the last leads back to the first.
    pub steps: Vec<Dependency>,
}

/// Why one operation happened before another.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Dependency {
    pub from: u64,
    pub to: u64,
    #[serde(flatten)]
    pub because: Because,
}

/// The kinds of dependencies, Adya's names where he has one.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "edge", rename_all = "lowercase")]
pub enum Because {
    /// Write-write: `to` sent the value that follows in the key's version order.
    Ww { key: String, value: Value, next: Value },
    /// Write-read: `to` read the value.
    Wr { key: String, value: Value },
    /// One process ended `from` before it began `to`.
    Process,
    /// `from` ended before `to` began.
    Realtime,
}

/// `committed-too-far`: a committed position beyond records that the group had not been handed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct CommittedTooFar {
    pub key: String,
    /// `null`: the processes that name no group.
    pub group: Option<String>,
    /// The operation that saw or made the commit.
    pub operation: u64,
    /// Offset of the next record that the group would be handed after a restart.
    pub committed: i64,
    /// Highest offset that a member had been handed until then; `null` if none.
    pub handed: Option<i64>,
    /// How many known records lie between.
    pub passed: u64,
    /// The first of them.
    pub skipped: Vec<Value>,
}

/// `lost-latest`: the latest value of a record key, which nobody read.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LostLatest {
    pub key: String,
    pub record_key: String,
    pub value: Value,
    pub offset: i64,
    pub writer: u64,
}

/// `tombstone-missed`: a delete that a process passed over, after it had read the value.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TombstoneMissed {
    pub key: String,
    pub record_key: String,
    pub process: i64,
    /// What it read last of the record key, where, and in which operation.
    pub value: Value,
    pub offset: i64,
    pub operation: u64,
    /// What stands for the delete in the history.
    pub tombstone: Value,
    pub tombstone_offset: i64,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Evidence::LostWrite(LostWrite { key, value, offset, writer, highest_read_offset, reader }) => {
                write!(f, "{key}: operation {writer} sent {}, and nobody read it", At(value, *offset))?;
                match (reader, highest_read_offset) {
                    (Some(reader), Some(highest)) => write!(f, "; operation {reader} read offset {highest}"),
                    (Some(_), None) | (None, Some(_)) | (None, None) => Ok(()),
                }
            }
            Evidence::Unseen(Unseen { key, value, offset, writer }) => {
                write!(f, "{key}: operation {writer} sent {}, and no poll returned it", At(value, *offset))
            }
            Evidence::Duplicate(Duplicate { key, value, offsets, writer }) => {
                write!(f, "{key}: {value} is at offsets {}", List(offsets))?;
                writer.map_or(Ok(()), |writer| write!(f, "; operation {writer} sent it"))
            }
            Evidence::InconsistentOffsets(found) => inconsistent_offsets(found, f),
            Evidence::AbortedRead(AbortedRead { key, value, offset, writer, reader }) => {
                let at = At(value, *offset);
                write!(f, "{key}: operation {reader} read {at}, and operation {writer}, which sent it, failed")
            }
            Evidence::PrecommittedRead(PrecommittedRead { key, value, offset, operation }) => {
                write!(f, "{key}: operation {operation} read {}, which it had sent itself", At(value, *offset))
            }
            Evidence::Phantom(Phantom { key, value, offset, reader }) => {
                write!(f, "{key}: operation {reader} read {}, which nobody sent", At(value, *offset))
            }
            Evidence::Jump(found) => jump(found, f),
            Evidence::Cycle(Cycle { operations, steps }) => {
                let first = operations.first().copied().unwrap_or_default();
                write!(f, "operation {first}")?;
                for (i, step) in steps.iter().enumerate() {
                    write!(f, "{} {}", if i > 0 { ", which" } else { "" }, step.because.then(step.to))?;
                }
                Ok(())
            }
            Evidence::CommittedTooFar(found) => committed_too_far(found, f),
            Evidence::LostLatest(LostLatest { key, record_key, value, offset, writer }) => {
                let at = At(value, Some(*offset));
                write!(f, "{key}: operation {writer} sent {at}, the latest of {record_key}, and no poll returned it")
            }
            Evidence::TombstoneMissed(found) => tombstone_missed(found, f),
        }
    }
}

fn inconsistent_offsets(found: &InconsistentOffsets, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let InconsistentOffsets { key, offset, values, writers, readers } = found;
    write!(f, "{key}: offset {offset} holds ")?;
    for (i, value) in values.iter().enumerate() {
        let who = match (writers.get(i).copied().flatten(), readers.get(i).copied().flatten()) {
            (Some(writer), Some(reader)) => format!(" (sent by operation {writer}, read by {reader})"),
            (Some(writer), None) => format!(" (sent by operation {writer})"),
            (None, Some(reader)) => format!(" (read by operation {reader})"),
            (None, None) => String::new(),
        };
        write!(f, "{}{value}{who}", if i > 0 { " and " } else { "" })?;
    }
    Ok(())
}

fn jump(found: &Jump, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Jump { key, process, operations, values, offsets, distance, skipped } = found;
    let from = operations.first().copied().unwrap_or_default();
    write!(f, "{key}: process {process} went from {} (operation {from}) to ", At(&values[0], offsets[0]))?;
    write!(f, "{}", At(&values[1], offsets[1]))?;
    if let [_, to] = operations.as_slice() {
        write!(f, " (operation {to})")?;
    }
    match distance {
        0 => write!(f, ", the same record again"),
        back if *back < 0 => write!(f, ", {} back", records(back.unsigned_abs())),
        ahead => {
            let passed = ahead.unsigned_abs() - 1;
            write!(f, ", passing over {}: {}", records(passed), First(skipped, passed))
        }
    }
}

fn committed_too_far(found: &CommittedTooFar, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let CommittedTooFar { key, group, operation, committed, handed, passed, skipped } = found;
    let group = group.as_ref().map_or_else(String::new, |group| format!(" of group {group}"));
    write!(f, "{key}: at operation {operation} offset {committed} was committed, while the members{group} ")?;
    match handed {
        Some(handed) => write!(f, "had been handed records up to offset {handed}")?,
        None => f.write_str("had been handed nothing")?,
    }
    write!(f, "; passed over {}: {}", records(*passed), First(skipped, *passed))
}

fn tombstone_missed(found: &TombstoneMissed, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let TombstoneMissed { key, record_key, process, value, offset, operation, tombstone, tombstone_offset } = found;
    let (at, tombstone) = (At(value, Some(*offset)), At(tombstone, Some(*tombstone_offset)));
    write!(f, "{key}: process {process} read {at} of {record_key} (operation {operation}) and went on beyond ")?;
    write!(f, "the tombstone {tombstone} without reading it")
}

impl Because {
    /// How the sentence goes on to operation `to`.
    fn then(&self, to: u64) -> String {
        match self {
            Because::Ww { key, value, next } => format!("sent {value} to {key} before {next} by operation {to}"),
            Because::Wr { key, value } => format!("sent {value} to {key}, read by operation {to}"),
            Because::Process => format!("came before operation {to} of the same process"),
            Because::Realtime => format!("ended before the begin of operation {to}"),
        }
    }
}

fn records(count: u64) -> String {
    format!("{count} {}", if count == 1 { "record" } else { "records" })
}

/// `7@3`, or `7` at an unknown offset.
struct At<'a>(&'a Value, Option<i64>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(offset) => write!(f, "{}@{offset}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(i, item)| write!(f, "{}{item}", if i > 0 { ", " } else { "" }))
    }
}

/// The first values of so many.
struct First<'a>(&'a [Value], u64);

impl fmt::Display for First<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", List(self.0), if self.1 > self.0.len() as u64 { ", …" } else { "" })
    }
}
