//! `faultline replay`: runs again what a report names, and compares event by event.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::pool::{self, Task};
use super::saved::{self, SavedReport, SavedRun};
use super::{Exit, ReplayArgs, print};
use crate::lab::outcome::{End, TraceEvent};
use crate::lab::run::run_one;
use crate::report::trace::{self, Line};
use crate::scenario::Scenario;

pub fn replay(args: ReplayArgs) -> anyhow::Result<Exit> {
    let saved = SavedReport::read(&args.report)?;
    let Some((scenarios, tasks)) = saved::prepare(&saved.runs)? else { return Ok(Exit::Usage) };
    let results = pool::run_all(&tasks, args.jobs, |index, task| {
        compare(&saved.runs[index], &saved.directory, &scenarios[task.scenario], task)
    });
    let mut text = String::new();
    for (run, result) in saved.runs.iter().zip(&results) {
        let _ = writeln!(text, "{}: {}", run.name(), result.text);
    }
    print(&text)?;
    Ok(results.iter().map(|result| result.exit).max().unwrap_or(Exit::AsExpected))
}

struct Compared {
    exit: Exit,
    text: String,
}

fn compare(saved: &SavedRun, directory: &Path, scenario: &Scenario, task: Task) -> Compared {
    let outcome = run_one(scenario, task.variant, task.seed);
    let digest = format!("{:016x}", outcome.digest);
    if digest == saved.digest {
        return Compared { exit: Exit::AsExpected, text: format!("same digest {digest}") };
    }
    let mut text = format!("digest {digest}, the report says {}", saved.digest);
    let broke = match &outcome.end {
        End::Complete => None,
        End::Panicked(why) => Some(format!("panicked: {why}")),
        End::Unfinished(why) => Some(format!("did not finish: {why}")),
    };
    let was_broken = matches!(saved.verdict.as_str(), "panicked" | "unfinished");
    let exit = if broke.is_some() && !was_broken { Exit::Broken } else { Exit::Unexpected };
    if let Some(why) = broke {
        let _ = write!(text, "; it {why}");
    }
    match saved.trace.as_ref().map(|name| fs::read_to_string(directory.join(name))) {
        Some(Ok(lines)) => text.push_str(&first_difference(&lines, &outcome.trace)),
        Some(Err(error)) => {
            let _ = write!(text, "; its saved trace cannot be read: {error}");
        }
        None => text.push_str("; its trace was not saved"),
    }
    Compared { exit, text }
}

/// Names the first event in which a saved trace and a new one differ.
fn first_difference(saved: &str, trace: &[TraceEvent]) -> String {
    let mut saved_lines = saved.lines();
    for (number, event) in (1..).zip(trace) {
        let line = trace::saved_line(event);
        let then = saved_lines.next();
        if then != Some(line.as_str()) {
            let then = then.map_or_else(|| "the end".to_owned(), readable);
            return format!("\n  first difference at event {number}:\n  - {then}\n  + {}", readable(&line));
        }
    }
    match saved_lines.next() {
        Some(line) => {
            let (number, then) = (trace.len() + 1, readable(line));
            format!("\n  first difference at event {number}:\n  - {then}\n  + the end")
        }
        None => "; its trace is the same, so what differs is not in the trace".to_owned(),
    }
}

/// A saved line as people read it; as it is, if it is not of this build's making.
fn readable(line: &str) -> String {
    serde_json::from_str(line).map_or_else(|_| line.to_owned(), |event: TraceEvent| Line(&event).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::outcome::TraceKind;
    use crate::world::Time;

    fn event(ms: u64, what: TraceKind) -> TraceEvent {
        TraceEvent { at: Time::from_millis(ms), machine: "broker-1".into(), what }
    }

    fn saved(trace: &[TraceEvent]) -> String {
        let mut out = Vec::new();
        trace::write(&mut out, trace).expect("memory takes everything");
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn the_first_differing_event_is_named() {
        let before = [event(1, TraceKind::Started), event(2, TraceKind::Stopped { power_lost: true })];
        let after = [event(1, TraceKind::Started), event(3, TraceKind::Stopped { power_lost: true })];
        let text = first_difference(&saved(&before), &after);
        assert!(text.contains("event 2:") && text.contains("+ 0.003000s broker-1 lost power"), "{text}");
        let longer = first_difference(&saved(&before[..1]), &before);
        assert!(longer.contains("event 2:") && longer.contains("- the end"), "{longer}");
        let shorter = first_difference(&saved(&before), &before[..1]);
        assert!(shorter.contains("event 2:") && shorter.contains("+ the end"), "{shorter}");
        assert!(first_difference(&saved(&before), &before).contains("is the same"));
    }
}
