//! What is wrong with a scenario file: every mistake found, each with its place, and the error that shows them all.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use serde::Serialize;

/// One mistake in a scenario file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Mistake {
    /// 1-based; 0 when the file could not be read at all.
    pub line: usize,
    /// 1-based, in characters; 0 when the file could not be read at all.
    pub column: usize,
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Said at the underlined place.
    #[serde(skip)]
    label: Option<String>,
    /// In bytes of the file.
    #[serde(skip)]
    span: Option<Range<usize>>,
}

impl Diagnostic for Mistake {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span.clone()?;
        let labelled = LabeledSpan::new(self.label.clone(), span.start, span.len());
        Some(Box::new(std::iter::once(labelled)))
    }
}

/// Why a scenario file was refused: all of its mistakes, in the order of the file.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {}", count(.mistakes.len()))]
pub struct ScenarioError {
    /// The path as given.
    pub file: String,
    pub mistakes: Vec<Mistake>,
    source_code: NamedSource<String>,
}

fn count(mistakes: usize) -> String {
    match mistakes {
        1 => "1 mistake".to_owned(),
        n => format!("{n} mistakes"),
    }
}

impl Diagnostic for ScenarioError {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source_code)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.mistakes.iter().map(|mistake| mistake as &dyn Diagnostic)))
    }
}

impl ScenarioError {
    /// The file could not be read.
    pub(super) fn unreadable(file: &str, error: &std::io::Error) -> ScenarioError {
        let mistake = Mistake {
            line: 0,
            column: 0,
            message: format!("{file} cannot be read: {error}"),
            help: None,
            label: None,
            span: None,
        };
        ScenarioError {
            file: file.to_owned(),
            mistakes: vec![mistake],
            source_code: NamedSource::new(file, String::new()),
        }
    }

    /// For a terminal: one snippet per mistake. Colour goes with Unicode lines; without it the output is plain ASCII
    /// lines, a function of the file and `width` alone.
    pub fn render(&self, color: bool, width: usize) -> String {
        let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::none() };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(width)
            .with_links(false)
            .with_context_lines(1)
            .without_syntax_highlighting()
            .with_break_words(false);
        let render = |mistake| {
            let mut out = String::new();
            let located = Located { mistake, source_code: &self.source_code };
            handler.render_report(&mut out, &located).expect("writing to a string does not fail");
            out
        };
        self.mistakes.iter().map(render).collect::<Vec<_>>().join("\n")
    }
}

/// A mistake together with the file that it is in.
#[derive(Debug, thiserror::Error)]
#[error("{mistake}")]
struct Located<'a> {
    mistake: &'a Mistake,
    source_code: &'a NamedSource<String>,
}

impl Diagnostic for Located<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.mistake.help()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.mistake.labels()
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source_code)
    }
}

/// A mistake in the making.
#[derive(Debug)]
pub(super) struct Found {
    span: Range<usize>,
    message: String,
    label: Option<String>,
    help: Option<String>,
}

impl Found {
    pub(super) fn label(&mut self, label: impl Into<String>) -> &mut Found {
        self.label = Some(label.into());
        self
    }

    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Found {
        self.help = Some(help.into());
        self
    }

    /// Suggests the candidate most like `word`, or lists them all.
    pub(super) fn suggest<'a>(&mut self, word: &str, candidates: impl IntoIterator<Item = &'a str>) -> &mut Found {
        let candidates: Vec<&str> = candidates.into_iter().collect();
        if candidates.is_empty() {
            return self;
        }
        let help = match crate::config::nearest(word, candidates.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", candidates.join(", ")),
        };
        self.help(help)
    }
}

/// Collects mistakes while a file is read.
#[derive(Debug, Default)]
pub(super) struct Mistakes {
    found: Vec<Found>,
}

impl Mistakes {
    pub(super) fn add(&mut self, span: &Range<usize>, message: impl Into<String>) -> &mut Found {
        self.found.push(Found { span: span.clone(), message: message.into(), label: None, help: None });
        self.found.last_mut().expect("just pushed")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// In the order of the file, each said once (the variants of a matrix can find the same one).
    pub(super) fn into_error(mut self, file: &str, text: &str) -> ScenarioError {
        self.found.sort_by_key(|found| found.span.start);
        let mut mistakes: Vec<Mistake> = Vec::new();
        for Found { span, message, label, help } in self.found {
            let (line, column) = line_and_column(text, span.start);
            if mistakes.iter().any(|m| (m.line, m.column) == (line, column) && m.message == message) {
                continue;
            }
            mistakes.push(Mistake { line, column, message, help, label, span: Some(span) });
        }
        let source_code = NamedSource::new(file, text.to_owned());
        ScenarioError { file: file.to_owned(), mistakes, source_code }
    }
}

/// 1-based line and column (in characters) of a byte offset.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset.min(text.len()))];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_from_one_and_in_characters() {
        assert_eq!(line_and_column("", 0), (1, 1));
        assert_eq!(line_and_column("ab\ncd", 4), (2, 2));
        assert_eq!(line_and_column("é = 1", 3), (1, 3));
        assert_eq!(line_and_column("é", 1), (1, 1));
        assert_eq!(line_and_column("a\n", 99), (2, 1));
    }

    #[test]
    fn mistakes_come_in_the_order_of_the_file_and_once() {
        let mut mistakes = Mistakes::default();
        mistakes.add(&(3..4), "second");
        mistakes.add(&(0..1), "first").help("do this");
        mistakes.add(&(3..4), "second");
        let error = mistakes.into_error("x.toml", "a\nb c");
        let said: Vec<_> = error.mistakes.iter().map(|m| (m.line, m.column, m.message.as_str())).collect();
        assert_eq!(said, [(1, 1, "first"), (2, 2, "second")]);
        assert_eq!(error.to_string(), "x.toml: 2 mistakes");
    }
}
