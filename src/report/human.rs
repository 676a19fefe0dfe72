//! The terminal's report: one table per scenario, then what needs words.

use std::fmt::Write;

use comfy_table::{CellAlignment, LineStyle, Table, presets};

use super::judge::seconds;
use super::model::{RunReport, Verdict};

/// How the text is to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// ANSI colours: for a terminal only.
    pub color: bool,
    /// Columns to wrap prose at.
    pub width: usize,
}

impl Look {
    fn paint(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn verdict(self, verdict: Verdict) -> String {
        match verdict {
            Verdict::AsExpected => self.paint("32", verdict.text()),
            Verdict::Unexpected => self.paint("1;31", verdict.text()),
            Verdict::Unfinished | Verdict::Panicked => self.paint("1;35", verdict.text()),
        }
    }
}

/// The report on all runs, scenario by scenario, in the order of the runs.
pub fn human(runs: &[RunReport], look: Look) -> String {
    let mut text = String::new();
    for scenario in runs.chunk_by(|a, b| (&a.scenario, &a.file) == (&b.scenario, &b.file)) {
        write_scenario(&mut text, scenario, look);
        text.push('\n');
    }
    let unexpected = runs.iter().filter(|run| run.verdict != Verdict::AsExpected).count();
    let summary = match unexpected {
        0 => look.paint("32", "all as expected"),
        count => look.paint("1;31", &format!("{count} not as expected")),
    };
    let plural = if runs.len() == 1 { "" } else { "s" };
    let _ = writeln!(text, "{} run{plural}, {summary}", runs.len());
    text
}

fn write_scenario(text: &mut String, runs: &[RunReport], look: Look) {
    let first = &runs[0];
    let _ = writeln!(text, "{}", look.bold(&first.scenario));
    if !first.title.is_empty() {
        wrap(text, &first.title, "  ", look);
    }
    text.push('\n');
    let by_variant = variants(runs);
    let one_seed = by_variant.iter().all(|(_, runs)| runs.len() == 1);
    let table = if one_seed { table(runs) } else { aggregate_table(&by_variant) };
    text.push_str(&color_verdicts(&table, look));
    text.push('\n');
    for run in runs.iter().filter(|run| one_seed || run.verdict != Verdict::AsExpected) {
        write_problems(text, run, look);
        write_account(text, run, look);
    }
    write_allowed(text, &by_variant, look);
    if let Some(command) = first.command().filter(|_| one_seed) {
        let _ = writeln!(text, "\n{} {command}", look.bold("Reproduce:"));
    }
}

/// Runs by variant, in order of first appearance.
fn variants(runs: &[RunReport]) -> Vec<(&str, Vec<&RunReport>)> {
    let mut variants: Vec<(&str, Vec<&RunReport>)> = Vec::new();
    for run in runs {
        match variants.iter_mut().find(|(label, _)| *label == run.label) {
            Some((_, of_variant)) => of_variant.push(run),
            None => variants.push((&run.label, vec![run])),
        }
    }
    variants
}

fn table(runs: &[RunReport]) -> Table {
    let header = ["variant", "sent", "acked", "lost", "missing", "duplicated", "unknown", "unavailable", "verdict"];
    let mut table = new_table(&header);
    for run in runs {
        let counts = &run.counts;
        let numbers = [
            counts.sent,
            counts.acked,
            counts.lost,
            counts.sent_and_missing,
            run.anomalies.get("duplicate").copied().unwrap_or(0),
            counts.unknown,
        ];
        let mut row = vec![run.label.clone()];
        row.extend(numbers.map(|n| n.to_string()));
        row.push(if run.unavailable_measured { seconds(run.unavailable_ms) } else { "–".to_owned() });
        row.push(run.verdict.text().to_owned());
        table.add_row(row);
    }
    align(&mut table, header.len());
    table
}

fn aggregate_table(variants: &[(&str, Vec<&RunReport>)]) -> Table {
    let header = ["variant", "runs", "lost", "missing", "duplicated", "unavailable", "verdicts"];
    let mut table = new_table(&header);
    for (label, runs) in variants {
        let range = |metric: &dyn Fn(&RunReport) -> u64, show: &dyn Fn(u64) -> String| {
            let mut sorted: Vec<u64> = runs.iter().map(|run| metric(run)).collect();
            sorted.sort_unstable();
            let (low, middle, high) = (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
            if low == high { show(low) } else { format!("{} / {} / {}", show(low), show(middle), show(high)) }
        };
        let number = |n: u64| n.to_string();
        let measured = runs.iter().any(|run| run.unavailable_measured);
        table.add_row([
            (*label).to_owned(),
            runs.len().to_string(),
            range(&|run| run.counts.lost, &number),
            range(&|run| run.counts.sent_and_missing, &number),
            range(&|run| run.anomalies.get("duplicate").copied().unwrap_or(0), &number),
            if measured { range(&|run| run.unavailable_ms, &seconds) } else { "–".to_owned() },
            verdict_counts(runs),
        ]);
    }
    align(&mut table, header.len());
    table
}

/// `47 as expected, 3 unexpected`
fn verdict_counts(runs: &[&RunReport]) -> String {
    let all = [Verdict::AsExpected, Verdict::Unexpected, Verdict::Unfinished, Verdict::Panicked];
    let counted = all.map(|verdict| (verdict, runs.iter().filter(|run| run.verdict == verdict).count()));
    let parts: Vec<String> =
        counted.iter().filter(|(_, n)| *n > 0).map(|(verdict, n)| format!("{n} {}", verdict.text())).collect();
    parts.join(", ")
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header(header.iter().copied());
    table
}

fn align(table: &mut Table, columns: usize) {
    for index in 1..columns - 1 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The verdict is a row's last cell; colouring it in the finished text leaves the widths alone.
fn color_verdicts(table: &Table, look: Look) -> String {
    let mut text = String::new();
    for line in table.lines() {
        let line = line.trim_end();
        let all = [Verdict::AsExpected, Verdict::Unexpected, Verdict::Unfinished, Verdict::Panicked];
        let painted = all.iter().find_map(|verdict| {
            line.strip_suffix(verdict.text()).map(|start| format!("{start}{}", look.verdict(*verdict)))
        });
        let _ = writeln!(text, "{}", painted.unwrap_or_else(|| line.to_owned()));
    }
    text
}

fn heading(run: &RunReport) -> String {
    let label = if run.label == "-" { String::new() } else { format!("{}, ", run.label) };
    format!("{label}seed {}", run.seed)
}

fn write_problems(text: &mut String, run: &RunReport, look: Look) {
    if run.verdict == Verdict::AsExpected {
        return;
    }
    let _ = writeln!(text, "{}: {}", look.bold(&heading(run)), look.verdict(run.verdict));
    for problem in &run.problems {
        wrap(text, problem, "  - ", look);
    }
    for event in &run.leading_events {
        let _ = writeln!(text, "    {event}");
    }
    if let Some(command) = run.command() {
        let _ = writeln!(text, "  {command}");
    }
    text.push('\n');
}

fn write_account(text: &mut String, run: &RunReport, look: Look) {
    let Some(account) = &run.account else { return };
    let title = format!("{}: the first lost record", heading(run));
    let _ = writeln!(text, "{}", look.bold(&title));
    for line in &account.lines {
        wrap(text, line, "  ", look);
    }
    text.push('\n');
}

/// The table of what is allowed, one line per reason: the variants and anomalies that share it.
fn write_allowed(text: &mut String, variants: &[(&str, Vec<&RunReport>)], look: Look) {
    let mut reasons: Vec<(&str, Vec<&str>, Vec<&str>)> = Vec::new();
    for (label, runs) in variants {
        for row in runs.iter().flat_map(|run| &run.allowed) {
            let at = reasons.iter().position(|(reason, ..)| *reason == row.reason).unwrap_or_else(|| {
                reasons.push((row.reason, Vec::new(), Vec::new()));
                reasons.len() - 1
            });
            let (_, labels, anomalies) = &mut reasons[at];
            if !labels.contains(label) {
                labels.push(label);
            }
            if !anomalies.contains(&row.anomaly) {
                anomalies.push(row.anomaly);
            }
        }
    }
    let _ = writeln!(text, "{}", look.bold("Allowed, and why"));
    for (reason, labels, anomalies) in reasons {
        let who = if labels.len() == variants.len() { "all variants".to_owned() } else { labels.join(" and ") };
        wrap(text, &format!("{who}: {}: {reason}", anomalies.join(", ")), "  - ", look);
    }
}

/// Writes `prose` behind `lead`, continuation lines indented to match.
pub fn wrap(text: &mut String, prose: &str, lead: &str, look: Look) {
    let indent = " ".repeat(lead.chars().count());
    let mut line = lead.to_owned();
    let mut is_empty = true;
    for word in prose.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > look.width.max(40) {
            let _ = writeln!(text, "{line}");
            line.clone_from(&indent);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    let _ = writeln!(text, "{line}");
}
