//! Wording: lists of machines, times, and an explanation as text.

use std::fmt::Write;

use super::{Explanation, Moment, Remedy, Ruling, SameFate};
use crate::protocol::BrokerId;

/// `12.345s`
pub fn seconds(ns: u64) -> String {
    let ms = ns / 1_000_000;
    format!("{}.{:03}s", ms / 1000, ms % 1000)
}

/// `[1, 2, 3]`
pub fn brokers(ids: &[BrokerId]) -> String {
    format!("{ids:?}")
}

/// `broker-1, broker-2 and broker-3`
pub fn machines(ids: &[BrokerId]) -> String {
    let names: Vec<String> = ids.iter().map(|id| format!("broker-{id}")).collect();
    list(&names)
}

/// The same at the beginning of a sentence; `No replica` for none.
pub fn all_of(ids: &[BrokerId]) -> String {
    if ids.is_empty() { "No replica".to_owned() } else { machines(ids) }
}

/// `a, b and c`
pub fn list(names: &[String]) -> String {
    match names {
        [] => "nobody".to_owned(),
        [one] => one.clone(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

pub fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

impl Remedy {
    /// `acks=all and flush.messages=1`
    pub fn settings_text(&self) -> String {
        let settings: Vec<String> = self.settings.iter().map(|s| format!("{}={}", s.key, s.value)).collect();
        list(&settings)
    }
}

impl SameFate {
    /// `offsets 512 to 549 and 560, 39 records`; `None` for one record.
    pub fn text(&self) -> Option<String> {
        const RUNS_MAX: usize = 4;
        if self.records < 2 {
            return None;
        }
        let mut runs: Vec<String> = self.offsets.iter().take(RUNS_MAX).map(|run| run_text(*run)).collect();
        if self.offsets.len() > RUNS_MAX {
            runs.push(format!("{} more ranges", self.offsets.len() - RUNS_MAX));
        }
        let records = count(self.records, "record");
        Some(if runs.is_empty() { records } else { format!("{}, {records}", list(&runs)) })
    }
}

fn run_text((first, last): (i64, i64)) -> String {
    if first == last { first.to_string() } else { format!("{first} to {last}") }
}

impl Explanation {
    /// `lost-write orders-0@151 (value 151)`
    pub fn title(&self) -> String {
        let mut kinds = vec![self.kind.clone()];
        kinds.extend_from_slice(&self.also);
        let mut title = format!("{} {}", kinds.join(", "), self.partition);
        if let Some(offset) = self.offset {
            let _ = write!(title, "@{offset}");
        }
        if let Some(value) = &self.value {
            let _ = write!(title, " (value {value})");
        }
        title
    }

    /// `Would have saved it: acks=all: …`, one sentence per remedy.
    pub fn remedies_text(&self) -> Vec<String> {
        if self.remedies.is_empty() {
            return match self.ruling {
                Ruling::RuleBroken => vec!["No setting would have saved it: the code is at fault.".to_owned()],
                Ruling::Legal | Ruling::Intact => Vec::new(),
            };
        }
        let lead = ["Would have saved it: ", "Or: "];
        let texts = self.remedies.iter().enumerate();
        texts.map(|(at, r)| format!("{}{}: {}.", lead[at.min(1)], r.settings_text(), r.why)).collect()
    }

    /// `The same fate: offsets 151 to 183 of orders-0, 33 records.`
    pub fn same_fate_text(&self) -> Option<String> {
        self.same_fate.text().map(|text| match self.same_fate.offsets.is_empty() {
            true => format!("The same fate: {text} of {}.", self.partition),
            false => format!("The same fate: offsets {text} of {}.", self.partition),
        })
    }

    /// The whole in short lines: the time line, the decision, why, what would have saved it, how many more.
    pub fn lines(&self, moments_max: usize) -> Vec<String> {
        let mut lines = vec![self.summary.clone()];
        lines.extend(shortened(&self.timeline, moments_max).iter().map(|moment| moment_text(moment)));
        if !self.decision.is_empty() {
            lines.push(format!("Decided by {}.", self.decision));
        }
        lines.push(self.why.clone());
        lines.extend(self.remedies_text());
        lines.extend(self.same_fate_text());
        lines
    }
}

fn moment_text(moment: &Moment) -> String {
    format!("{} {} {}", seconds(moment.ns), moment.machine, moment.text)
}

/// The decisive event, and of the others the first and the last ones.
fn shortened(timeline: &[Moment], moments_max: usize) -> Vec<&Moment> {
    let keep_first = moments_max / 2;
    let keep_last = timeline.len().saturating_sub(moments_max - keep_first);
    let kept = |at: usize, moment: &Moment| moment.decisive || at < keep_first || at >= keep_last;
    timeline.iter().enumerate().filter(|(at, moment)| kept(*at, moment)).map(|(_, moment)| moment).collect()
}

/// Explanations for the terminal, wrapped at `width`.
pub fn human(explanations: &[Explanation], color: bool, width: usize) -> String {
    let mut text = String::new();
    for (at, explanation) in explanations.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        write_one(&mut text, explanation, color, width);
    }
    text
}

fn write_one(text: &mut String, explanation: &Explanation, color: bool, width: usize) {
    let paint = |code: &str, words: &str| if color { format!("\x1b[{code}m{words}\x1b[0m") } else { words.to_owned() };
    let _ = writeln!(text, "{}", paint("1", &explanation.title()));
    wrap(text, &explanation.summary, "  ", "  ", width);
    text.push('\n');
    let times: Vec<String> = explanation.timeline.iter().map(|moment| seconds(moment.ns)).collect();
    let time_width = times.iter().map(String::len).max().unwrap_or(0);
    let name_width = explanation.timeline.iter().map(|moment| moment.machine.chars().count()).max().unwrap_or(0);
    for (moment, time) in explanation.timeline.iter().zip(&times) {
        let mark = if moment.decisive { "▶" } else { " " };
        let lead = format!("  {mark} {time:>time_width$}  {:<name_width$}  ", moment.machine);
        let indent = " ".repeat(lead.chars().count());
        let before = text.len();
        wrap(text, &moment.text, &lead, &indent, width);
        if moment.decisive && color {
            let line = text.split_off(before);
            let painted: Vec<String> = line.lines().map(|line| paint("1;33", line)).collect();
            text.push_str(&painted.join("\n"));
            text.push('\n');
        }
    }
    if !explanation.timeline.is_empty() {
        text.push('\n');
    }
    if !explanation.decision.is_empty() {
        wrap(text, &format!("Decided by {}.", explanation.decision), "  ", "  ", width);
    }
    wrap(text, &explanation.why, "  ", "  ", width);
    for line in explanation.remedies_text() {
        wrap(text, &line, "  ", "  ", width);
    }
    if let Some(line) = explanation.same_fate_text() {
        wrap(text, &line, "  ", "  ", width);
    }
}

/// Writes `prose` behind `lead`, its continuation lines behind `indent`.
fn wrap(text: &mut String, prose: &str, lead: &str, indent: &str, width: usize) {
    let mut line = lead.to_owned();
    let mut is_empty = true;
    for word in prose.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > width.max(40) {
            let _ = writeln!(text, "{line}");
            indent.clone_into(&mut line);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    let _ = writeln!(text, "{}", line.trim_end());
}
