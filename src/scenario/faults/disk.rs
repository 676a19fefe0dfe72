//! Faults of disks: reads what they do and what they are aimed at.

use glob::Pattern;

use super::super::disk::{
    Aim, BATCHES, BatchChoice, BatchField, BitRot, DiskAction, RotPlace, SEGMENTS, SURVIVALS, survivors_text,
};
use super::super::expression::{self, Slip};
use super::super::model::{Action, Target};
use super::super::table::{Section, Text};
use super::super::vocabulary::DISK_TARGETS;
use super::network::needed_bandwidth;
use super::{Names, Read, note, target};
use crate::scenario::diagnostics::Mistakes;
use crate::world::sim::{DiskFault, DiskScope, Numbers, Survival, Survivors};

/// Reads an action on disks.
pub(super) fn read(
    section: &Section<'_>,
    what: &Text,
    own: usize,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<Read> {
    let (machines, scope) = aim(section, what, own, names, mistakes)?;
    let action = match what.value.as_str() {
        "fsync-slow" => DiskAction::Fault(DiskFault::SyncSlow(by(section, mistakes)?)),
        "fsync-fail" => DiskAction::Fault(DiskFault::SyncFail),
        "fsync-lie" => DiskAction::Fault(DiskFault::SyncLie),
        "read-slow" => DiskAction::Fault(DiskFault::ReadSlow(by(section, mistakes)?)),
        "read-fail" => DiskAction::Fault(DiskFault::ReadFail),
        "read-short" => DiskAction::Fault(DiskFault::ReadShort),
        "write-slow" => DiskAction::Fault(DiskFault::WriteSlow(by(section, mistakes)?)),
        "write-fail" => DiskAction::Fault(DiskFault::WriteFail),
        "write-lost" => DiskAction::Fault(DiskFault::WriteLost),
        "write-misdirected" => DiskAction::Fault(DiskFault::WriteMisdirected),
        "disk-stall" => DiskAction::Fault(DiskFault::Stall),
        "disk-throttle" => {
            let (bytes_per_second, _) = needed_bandwidth(section, mistakes)?;
            DiskAction::Fault(DiskFault::Throttle { bytes_per_second })
        }
        "disk-full" => {
            if !section.has("free-bytes") {
                section.missing("free-bytes", "free-bytes = 0", mistakes);
            }
            let free_bytes = section.integer("free-bytes", 0..=i64::MAX, mistakes)?.value.unsigned_abs();
            DiskAction::Fault(DiskFault::Full { free_bytes })
        }
        "disk-replace" => DiskAction::Replace,
        "drop-cache" => DiskAction::DropCache,
        "bit-rot" => DiskAction::BitRot(bit_rot(section, mistakes)?),
        other => unreachable!("`keys_of` knows no `{other}`"),
    };
    check_scope(section, what, &action, &scope, mistakes)?;
    let text = Aim { machines: &machines, scope: &scope }.to_string();
    Some((Action::Disk { what: action, on: scope }, Some(machines), text))
}

/// Actions that a whole disk or a whole machine suffers, and one that needs files.
fn check_scope(
    section: &Section<'_>,
    what: &Text,
    action: &DiskAction,
    scope: &DiskScope,
    mistakes: &mut Mistakes,
) -> Option<()> {
    let (message, help) = match action {
        DiskAction::Replace if scope.files.is_some() => (
            "a disk is replaced as a whole, not file by file",
            "write `disk(1)`, or `disk(1, data-2)` for one log directory",
        ),
        DiskAction::DropCache if *scope != DiskScope::default() => {
            ("a machine has one page cache for all of its files", "write `disk(1)`")
        }
        DiskAction::BitRot(_) if scope.files.is_none() => {
            ("bit rot needs a file", "for example `file(1, \"orders-0/*.log\")`")
        }
        DiskAction::Fault(_) | DiskAction::BitRot(_) | DiskAction::DropCache | DiskAction::Replace => return Some(()),
    };
    let found = mistakes.add(&section.span_of("target"), message);
    found.help(help).label(format!("target of `{}`", what.value));
    None
}

fn by(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<std::time::Duration> {
    if !section.has("by") {
        section.missing("by", "by = \"50ms\"", mistakes);
    }
    section.positive_duration("by", mistakes).map(|by| by.value)
}

fn bit_rot(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<BitRot> {
    let segment = word(section, "segment", SEGMENTS, mistakes)?;
    let batch = word(section, "batch", BATCHES, mistakes)?;
    let field = word(section, "field", BatchField::NAMES, mistakes)?;
    let bit = match section.has("bit") {
        true => section.integer("bit", 0..=7, mistakes)?.value.unsigned_abs() as u8,
        false => 0,
    };
    let place = match (section.has("byte"), field) {
        (true, Some(_)) => {
            mistakes.add(&section.span_of("byte"), "bit rot has either a `byte` or a `field` of a batch, not both");
            return None;
        }
        (true, None) => RotPlace::Byte(section.integer("byte", i64::MIN..=i64::MAX, mistakes)?.value),
        (false, Some(field)) => RotPlace::Field(batch.unwrap_or(BatchChoice::Last), field),
        (false, None) => {
            let help = "write `field = \"records\"`, or `byte = 0`";
            mistakes.add(&section.span, "what rots: a `field` of a batch, or a `byte` of the file?").help(help);
            return None;
        }
    };
    if batch.is_some() && matches!(place, RotPlace::Byte(_)) {
        mistakes.add(&section.span_of("batch"), "`batch` goes with `field`: a `byte` counts from the file's ends");
        return None;
    }
    Some(BitRot { segment, place, bit })
}

/// One of the words of a table; `Some(None)` if the key is not there.
pub(in crate::scenario) fn word<T: Copy>(
    section: &Section<'_>,
    key: &str,
    words: &'static [(&'static str, T)],
    mistakes: &mut Mistakes,
) -> Option<Option<T>> {
    if !section.has(key) {
        return Some(None);
    }
    let text = section.text(key, mistakes)?;
    match words.iter().find(|(name, _)| *name == text.value) {
        Some((_, value)) => Some(Some(*value)),
        None => {
            let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
            mistakes
                .add(&text.span, format!("`{key}` cannot be `{}`", text.value))
                .help(format!("one of {}", names.join(", ")));
            None
        }
    }
}

/// Keys of a power loss: what it leaves of the pending changes.
pub(super) fn survivors(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<(Survivors, String)> {
    let pages = survival(section, "pages", mistakes);
    let entries = survival(section, "entries", mistakes);
    let survivors = Survivors { pages: pages?, entries: entries? };
    Some((survivors, survivors_text(survivors)))
}

/// One of the words, or a list of numbers; nothing if the key is not there.
fn survival(section: &Section<'_>, key: &str, mistakes: &mut Mistakes) -> Option<Survival> {
    if !section.is_array(key) {
        return word(section, key, SURVIVALS, mistakes).map(Option::unwrap_or_default);
    }
    let numbers = section.array(key, "an array of numbers", mistakes)?;
    if numbers.is_empty() {
        mistakes
            .add(&section.span_of(key), format!("`{key}` names none: nothing would survive"))
            .help(format!("write `{key} = [0]` for the first that is pending, or leave it out"));
        return None;
    }
    let read = numbers.iter().map(|number| {
        let valid = number.as_integer().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= Numbers::MAX);
        if valid.is_none() {
            let span = number.span().unwrap_or_else(|| section.span_of(key));
            let message = format!("`{key}` counts what is pending, from 0 to {}", Numbers::MAX);
            mistakes.add(&span, message).help(format!("for example `{key} = [0, 2]`: the first and the third"));
        }
        valid
    });
    // All of them are looked at, so that every mistake is told.
    let read: Vec<Option<u32>> = read.collect();
    read.into_iter().collect::<Option<Numbers>>().map(Survival::Chosen)
}

fn aim(
    section: &Section<'_>,
    what: &Text,
    own: usize,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<(Target, DiskScope)> {
    if !section.has("target") {
        let message = format!("`{}` needs a `target`", what.value);
        mistakes.add(&what.span, message).help("for example `target = \"disk(1)\"`");
        return None;
    }
    let text = section.text("target", mistakes)?;
    if !DISK_TARGETS.iter().any(|kind| text.value.trim_start().starts_with(&format!("{kind}("))) {
        // What is no target at all gets the message for that.
        let target = target(section, "target", what, own, names, mistakes)?;
        let inner = match &target.value {
            Target::Broker(id) => id.to_string(),
            role => role.to_string(),
        };
        mistakes
            .add(&target.span, format!("`{}` is aimed at disks or files, not at machines", what.value))
            .help(format!("write `disk({inner})`, or `file({inner}, 'orders-0/*.log')`"));
        return None;
    }
    let read = text.read(disk_or_file, mistakes)?;
    let (machines, scope) = read.value;
    if let Err(dangling) = names.target(&machines, own) {
        note(dangling, &read.span, mistakes);
        return None;
    }
    if matches!(machines, Target::Client(_)) {
        mistakes.add(&read.span, "a client has no disk");
        return None;
    }
    if let Some(log_dir) = &scope.log_dir {
        let known = names.draft.cluster.log_dirs();
        if !known.contains(log_dir) {
            mistakes
                .add(&read.span, format!("there is no log directory `{log_dir}`"))
                .help(format!("`log-dirs` of [cluster] makes them: {}", known.join(", ")));
            return None;
        }
    }
    Some((machines, scope))
}

/// `disk(1)`, `disk(leader(orders-0), data-2)`, `file(1, "orders-0/*.timeindex")`.
fn disk_or_file(text: &str) -> Result<(Target, DiskScope), Slip> {
    let start = text.len() - text.trim_start().len();
    let open = text.find('(').expect("the caller saw it");
    let Some(close) = text.trim_end().strip_suffix(')').map(str::len) else {
        return Err(Slip::new(open..text.len(), "the parenthesis is not closed"));
    };
    let inside = &text[open + 1..close];
    let comma = inside.char_indices().scan(0_i32, |depth, (at, c)| {
        *depth += i32::from(c == '(') - i32::from(c == ')');
        Some((at, c, *depth))
    });
    let comma = comma.into_iter().find(|&(_, c, depth)| c == ',' && depth == 0).map(|(at, _, _)| at);
    let (first, second) = match comma {
        Some(at) => (&inside[..at], Some(inside[at + 1..].trim())),
        None => (inside, None),
    };
    let machines = match first.trim().parse::<u32>() {
        Ok(id) => Target::Broker(id),
        Err(_) => expression::target(first).map_err(|slip| slip.shifted(open + 1))?,
    };
    let rest = open + 1 + first.len()..close;
    let unquoted = second.map(|second| second.trim_matches(['"', '\'']));
    match (text[start..open].trim(), unquoted) {
        ("file", Some(pattern)) if !pattern.is_empty() => match Pattern::new(pattern) {
            Ok(files) => Ok((machines, DiskScope { log_dir: None, files: Some(files) })),
            Err(error) => Err(Slip::new(rest, format!("`{pattern}` is not a file pattern: {}", error.msg))),
        },
        ("file", _) => Err(Slip::new(open..text.len(), "`file` needs a pattern")
            .help("for example `file(1, 'orders-0/*.log')`, below the log directory")),
        (_, Some("")) => Err(Slip::new(rest, "a log directory is missing here").help("for example `disk(1, data-2)`")),
        (_, log_dir) => Ok((machines, DiskScope { log_dir: log_dir.map(str::to_owned), files: None })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_files_print_as_they_are_written() {
        for text in [
            "disk(1)",
            "disk(leader(orders-0))",
            "disk(follower(orders-0, 2), data-2)",
            "disk(controller)",
            "disk(fault(1))",
            "file(1, \"orders-0/*.timeindex\")",
            "file(leader(orders-0), \"**/*.log\")",
        ] {
            let (machines, scope) = disk_or_file(text).unwrap_or_else(|slip| panic!("{text}: {}", slip.message));
            assert_eq!(Aim { machines: &machines, scope: &scope }.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_disk_says_why() {
        for (text, message) in [
            ("disk(1", "the parenthesis is not closed"),
            ("disk(laeder(orders-0))", "unknown target `laeder`"),
            ("disk(1, )", "a log directory is missing here"),
            ("file(1)", "`file` needs a pattern"),
            ("file(1, \"\")", "`file` needs a pattern"),
            ("file(1, \"a/***\")", "`a/***` is not a file pattern: wildcards are either regular `*` or recursive `**`"),
        ] {
            assert_eq!(disk_or_file(text).unwrap_err().message, message, "{text}");
        }
    }
}
