//! `[expect]`: which variants, which metric, which number.

use std::ops::Range;

use super::diagnostics::Mistakes;
use super::draft::normal;
use super::expression::{self, Selector};
use super::model::{Axis, Comparison, Expectation};
use super::table::{Entry, Section, text_at, type_of};
use super::vocabulary::{METRICS, metric};

/// An expectation and the variants that it is for.
#[derive(Debug)]
pub(super) struct ExpectDraft {
    pub selector: Selector,
    pub expectation: Expectation,
    pub span: Range<usize>,
}

/// Reads `[expect]` against the final axes; `None` if they could not be read, so that no selector can be judged.
pub(super) fn read(root: &Section<'_>, axes: Option<&[Axis]>, mistakes: &mut Mistakes) -> Vec<ExpectDraft> {
    let Some(section) = root.table("expect", "[expect]", mistakes) else { return Vec::new() };
    let mut drafts = Vec::new();
    for entry in section.entries() {
        drafts.extend(selected(&entry, axes, root.file(), mistakes));
    }
    drafts
}

fn selected(entry: &Entry<'_>, axes: Option<&[Axis]>, file: &str, mistakes: &mut Mistakes) -> Vec<ExpectDraft> {
    let selector = selector(entry, axes, mistakes);
    let Some(table) = entry.item.as_table_like() else {
        mistakes
            .add(&entry.value_span(), "an expectation must be a table of metrics")
            .help(format!("write \"{}\" = {{ lost-write = 0 }}", entry.key.value));
        return Vec::new();
    };
    let section = Section::new(table, "the expectation", entry.key.span.clone(), file);
    let read = |metric: Entry<'_>| {
        let expectation = expectation(&metric, file, mistakes)?;
        Some((expectation, metric.key.span.start..metric.value_span().end))
    };
    let read: Vec<_> = section.entries().into_iter().filter_map(read).collect();
    let Some(selector) = selector else { return Vec::new() };
    let draft = |(expectation, span)| ExpectDraft { selector: selector.clone(), expectation, span };
    read.into_iter().map(draft).collect()
}

/// The selector, if its axes and values exist.
fn selector(entry: &Entry<'_>, axes: Option<&[Axis]>, mistakes: &mut Mistakes) -> Option<Selector> {
    let mut pins = match entry.key.read(expression::selector, mistakes)?.value {
        Selector::Every => return Some(Selector::Every),
        Selector::Where(pins) => pins,
    };
    let axes = axes?;
    for (name, value) in &mut pins {
        let Some(axis) = axes.iter().find(|axis| axis.name == *name) else {
            let found = mistakes.add(&entry.key.span, format!("no variant is meant: the matrix has no axis `{name}`"));
            match (name.as_str(), axes) {
                ("acks", _) => found.help("`acks` is no axis when every produce workload sets it"),
                (_, []) => found.help("the only variant is selected by \"*\""),
                (name, axes) => found.suggest(name, axes.iter().map(|axis| axis.name.as_str())),
            };
            return None;
        };
        *value = normal(name, value);
        if !axis.values.contains(value) {
            mistakes
                .add(&entry.key.span, format!("no variant is meant: `{name}` is never {value}"))
                .help(format!("its values are {}", axis.values.join(", ")));
            return None;
        }
    }
    Some(Selector::Where(pins))
}

fn expectation(entry: &Entry<'_>, file: &str, mistakes: &mut Mistakes) -> Option<Expectation> {
    let name = entry.key.value.as_str();
    if metric(name).is_none() {
        mistakes
            .add(&entry.key.span, format!("unknown metric `{name}`"))
            .suggest(name, METRICS.iter().map(|metric| metric.name));
        return None;
    }
    let (compare, value) = expected(entry, file, mistakes)?;
    if (compare, value) == (Comparison::Lt, 0) || (compare, value) == (Comparison::Ge, 0) {
        let truth = if compare == Comparison::Lt { "never" } else { "always" };
        mistakes.add(&entry.value_span(), format!("this {truth} holds: a metric is 0 or more"));
        return None;
    }
    Some(Expectation { metric: name.to_owned(), compare, value })
}

fn expected(entry: &Entry<'_>, file: &str, mistakes: &mut Mistakes) -> Option<(Comparison, u64)> {
    let span = entry.value_span();
    let Some(value) = entry.item.as_value() else {
        mistakes.add(&span, format!("`{}` must be compared with a number", entry.key.value));
        return None;
    };
    if let Some(text) = value.as_str() {
        return text_at(text, span, file).read(expression::comparison, mistakes).map(|read| read.value);
    }
    match value.as_integer().map(u64::try_from) {
        Some(Ok(number)) => Some((Comparison::Eq, number)),
        Some(Err(_)) => {
            mistakes.add(&span, "a metric is 0 or more");
            None
        }
        None => {
            let message = format!("`{}` must be an integer or a comparison, not {}", entry.key.value, type_of(value));
            mistakes.add(&span, message).help("for example 0, or \"> 0\"");
            None
        }
    }
}

/// The first expectation of one variant that cannot hold together with those before it.
pub(super) fn contradiction<'a>(expect: &[&'a ExpectDraft]) -> Option<(&'a ExpectDraft, &'a ExpectDraft)> {
    for (i, last) in expect.iter().enumerate() {
        let same: Vec<&&ExpectDraft> =
            expect[..=i].iter().filter(|e| e.expectation.metric == last.expectation.metric).collect();
        // Comparisons change their mind only next to their own numbers: trying those is trying all.
        let mut candidates = same.iter().flat_map(|e| {
            let value = e.expectation.value;
            [value.saturating_sub(1), value, value.saturating_add(1)]
        });
        let holds = |n: u64| same.iter().all(|e| e.expectation.compare.holds(n, e.expectation.value));
        if !candidates.any(holds) {
            let first = same.first().expect("`last` is among them");
            return Some((*first, *last));
        }
    }
    None
}
