//! Typed access to TOML tables that notes every mistake with its place: unknown keys, wrong types, missing keys.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml_edit::{Item, TableLike, Value};

use super::diagnostics::{Found, Mistakes};
use super::expression::{self, Slip};

/// A value and where it stands in the file.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// A string and where its content begins, if the file spells it without escapes.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub value: String,
    pub span: Range<usize>,
    content_at: Option<usize>,
}

impl Text {
    /// Reads the string with one of the small languages; a slip becomes a mistake at its place.
    pub(super) fn read<T>(
        &self,
        parse: impl Fn(&str) -> Result<T, Slip>,
        mistakes: &mut Mistakes,
    ) -> Option<Spanned<T>> {
        match parse(&self.value) {
            Ok(value) => Some(Spanned { value, span: self.span.clone() }),
            Err(slip) => {
                self.slip(slip, mistakes);
                None
            }
        }
    }

    /// Notes a slip at its place inside the string, or at the whole string if there is nothing to underline.
    pub(super) fn slip(&self, slip: Slip, mistakes: &mut Mistakes) {
        let span = match self.content_at {
            Some(start) if !slip.at.is_empty() => start + slip.at.start..start + slip.at.end,
            Some(_) | None => self.span.clone(),
        };
        let found = mistakes.add(&span, slip.message);
        if let Some(help) = slip.help {
            found.help(help);
        }
    }
}

/// One key of a free table (configuration, matrix, expectations): name and item.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub key: Text,
    pub item: &'a Item,
}

/// A table of the file, known by `what` in messages (`[[topic]]`).
pub(super) struct Section<'a> {
    table: &'a dyn TableLike,
    what: String,
    /// The header, or the braces of an inline table.
    pub span: Range<usize>,
    file: &'a str,
}

impl<'a> Section<'a> {
    pub(super) fn new(table: &'a dyn TableLike, what: &str, span: Range<usize>, file: &'a str) -> Section<'a> {
        Section { table, what: what.to_owned(), span, file }
    }

    /// Notes every key that is not one of `known`.
    pub(super) fn allow(&self, known: &[&'static str], mistakes: &mut Mistakes) {
        for (name, item) in self.table.iter() {
            if !known.contains(&name) {
                mistakes
                    .add(&self.key_span(name, item), format!("unknown key `{name}` in {}", self.what))
                    .suggest(name, known.iter().copied());
            }
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Where key `name` stands; the header if it is absent.
    pub(super) fn span_of(&self, name: &str) -> Range<usize> {
        match self.table.get(name) {
            Some(item) => self.key_span(name, item),
            None => self.span.clone(),
        }
    }

    fn key_span(&self, name: &str, item: &Item) -> Range<usize> {
        let own = self.table.key(name).and_then(toml_edit::Key::span).or_else(|| item.span());
        first_line(own.unwrap_or_else(|| self.span.clone()), self.file)
    }

    /// Notes that `name` is absent, with an example of what to write.
    pub(super) fn missing(&self, name: &str, example: &str, mistakes: &mut Mistakes) {
        mistakes.add(&self.span, format!("`{name}` is missing in {}", self.what)).help(format!("write `{example}`"));
    }

    fn value(&self, name: &str, expected: &str, mistakes: &mut Mistakes) -> Option<(&'a Value, Range<usize>)> {
        let item = self.table.get(name)?;
        let span = self.key_span(name, item);
        match item.as_value() {
            Some(value) => Some((value, value.span().unwrap_or(span))),
            None => {
                mistakes.add(&span, format!("`{name}` must be {expected}, not a table"));
                None
            }
        }
    }

    fn wrong_type<'m>(
        &self,
        name: &str,
        expected: &str,
        value: &Value,
        span: &Range<usize>,
        mistakes: &'m mut Mistakes,
    ) -> &'m mut Found {
        mistakes.add(span, format!("`{name}` must be {expected}, not {}", type_of(value)))
    }

    pub(super) fn text(&self, name: &str, mistakes: &mut Mistakes) -> Option<Text> {
        let (value, span) = self.value(name, "a string", mistakes)?;
        match value.as_str() {
            Some(text) => Some(text_at(text, span, self.file)),
            None => {
                let written = value.to_string();
                self.wrong_type(name, "a string", value, &span, mistakes)
                    .help(format!("write {name} = \"{}\"", written.trim()));
                None
            }
        }
    }

    /// A whole number within `bounds`.
    pub(super) fn integer(
        &self,
        name: &str,
        bounds: RangeInclusive<i64>,
        mistakes: &mut Mistakes,
    ) -> Option<Spanned<i64>> {
        let (value, span) = self.value(name, "an integer", mistakes)?;
        let Some(number) = value.as_integer() else {
            let found = self.wrong_type(name, "an integer", value, &span, mistakes);
            if let Some(number) = value.as_str().and_then(|text| text.trim().parse::<i64>().ok()) {
                found.help(format!("write {name} = {number}"));
            }
            return None;
        };
        if !bounds.contains(&number) {
            let message = match *bounds.end() {
                i64::MAX => format!("`{name}` must be at least {}", bounds.start()),
                end => format!("`{name}` must be from {} to {end}", bounds.start()),
            };
            mistakes.add(&span, message);
            return None;
        }
        Some(Spanned { value: number, span })
    }

    pub(super) fn boolean(&self, name: &str, mistakes: &mut Mistakes) -> Option<Spanned<bool>> {
        let (value, span) = self.value(name, "true or false", mistakes)?;
        match value.as_bool() {
            Some(value) => Some(Spanned { value, span }),
            None => {
                self.wrong_type(name, "true or false", value, &span, mistakes);
                None
            }
        }
    }

    pub(super) fn duration(&self, name: &str, mistakes: &mut Mistakes) -> Option<Spanned<Duration>> {
        let (value, span) = self.value(name, "a duration", mistakes)?;
        match value.as_str() {
            Some(text) => text_at(text, span, self.file).read(expression::duration, mistakes),
            None => {
                self.wrong_type(name, "a duration", value, &span, mistakes)
                    .help(format!("write a string with a unit, for example {name} = \"2s\""));
                None
            }
        }
    }

    /// Milliseconds forwards or backwards, written as a duration with or without a `-`.
    pub(super) fn shift_ms(&self, name: &str, mistakes: &mut Mistakes) -> Option<Spanned<i64>> {
        let (value, span) = self.value(name, "a duration", mistakes)?;
        match value.as_str() {
            Some(text) => text_at(text, span, self.file).read(expression::shift_ms, mistakes),
            None => {
                self.wrong_type(name, "a duration", value, &span, mistakes)
                    .help(format!("write a string with a unit, for example {name} = \"-720h\""));
                None
            }
        }
    }

    /// A duration longer than nothing.
    pub(super) fn positive_duration(&self, name: &str, mistakes: &mut Mistakes) -> Option<Spanned<Duration>> {
        let duration = self.duration(name, mistakes)?;
        if duration.value.is_zero() {
            mistakes.add(&duration.span, format!("`{name}` must be longer than nothing"));
            return None;
        }
        Some(duration)
    }

    /// What `read` makes of a key that may be absent: `Some(None)` if it is, `None` if it is there and wrong.
    pub(super) fn optional<T>(
        &self,
        read: impl Fn(&Section<'a>, &str, &mut Mistakes) -> Option<T>,
        name: &str,
        mistakes: &mut Mistakes,
    ) -> Option<Option<T>> {
        if self.has(name) { read(self, name, mistakes).map(Some) } else { Some(None) }
    }

    pub(super) fn is_array(&self, name: &str) -> bool {
        self.table.get(name).is_some_and(toml_edit::Item::is_array)
    }

    /// An array, element by element.
    pub(super) fn array(&self, name: &str, expected: &str, mistakes: &mut Mistakes) -> Option<Vec<&'a Value>> {
        let (value, span) = self.value(name, expected, mistakes)?;
        match value.as_array() {
            Some(array) => Some(array.iter().collect()),
            None => {
                self.wrong_type(name, expected, value, &span, mistakes);
                None
            }
        }
    }

    /// A table or inline table under `name`.
    pub(super) fn table(&self, name: &str, what: &str, mistakes: &mut Mistakes) -> Option<Section<'a>> {
        let item = self.table.get(name)?;
        let span = self.key_span(name, item);
        match item.as_table_like() {
            Some(table) => {
                let span = item.span().map_or(span, |own| first_line(own, self.file));
                Some(Section::new(table, what, span, self.file))
            }
            None => {
                let is_list = item.is_array_of_tables();
                let found = mistakes.add(&span, format!("`{name}` must be a table"));
                if is_list {
                    found.help(format!("write [{name}], once"));
                }
                None
            }
        }
    }

    /// An array of tables under `name`: `[[topic]]`, or `topic = [{ … }]`.
    pub(super) fn tables(&self, name: &str, mistakes: &mut Mistakes) -> Vec<Section<'a>> {
        let what = format!("[[{name}]]");
        let Some(item) = self.table.get(name) else { return Vec::new() };
        let key_span = self.key_span(name, item);
        let section = |table: &'a dyn TableLike, span: Option<Range<usize>>| {
            Section::new(table, &what, first_line(span.unwrap_or_else(|| key_span.clone()), self.file), self.file)
        };
        if let Some(tables) = item.as_array_of_tables() {
            return tables.iter().map(|table| section(table, table.span())).collect();
        }
        let inline = item.as_array().map(|array| array.iter().map(Value::as_inline_table).collect::<Option<Vec<_>>>());
        if let Some(Some(tables)) = inline {
            return tables.into_iter().map(|table| section(table, table.span())).collect();
        }
        mistakes
            .add(&key_span, format!("`{name}` must be a list of tables"))
            .help(format!("write [[{name}]] with two brackets, once for each"));
        Vec::new()
    }

    /// Every key of a free table with its item, dotted keys joined: `min.insync.replicas = 2` is the same as
    /// `"min.insync.replicas" = 2`.
    pub(super) fn entries(&self) -> Vec<Entry<'a>> {
        let mut entries = Vec::new();
        self.collect("", None, self.table, &mut entries);
        entries
    }

    fn collect(&self, prefix: &str, from: Option<usize>, table: &'a dyn TableLike, entries: &mut Vec<Entry<'a>>) {
        for (name, item) in table.iter() {
            let span = table.key(name).and_then(toml_edit::Key::span).unwrap_or_else(|| self.span.clone());
            let start = from.unwrap_or(span.start);
            let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            match item.as_table_like().filter(|inner| inner.is_dotted()) {
                Some(inner) => self.collect(&path, Some(start), inner, entries),
                None => {
                    let span = start.min(span.start)..span.end;
                    let quoted = self.file.get(span.start..span.end).is_some_and(|raw| raw.len() == path.len() + 2);
                    let content_at = Some(if quoted { span.start + 1 } else { span.start });
                    entries.push(Entry { key: Text { value: path, span, content_at }, item });
                }
            }
        }
    }

    pub(super) fn file(&self) -> &'a str {
        self.file
    }
}

impl<'a> Entry<'a> {
    /// Where the value stands.
    pub(super) fn value_span(&self) -> Range<usize> {
        self.item.span().unwrap_or_else(|| self.key.span.clone())
    }
}

pub(super) fn text_at(text: &str, span: Range<usize>, file: &str) -> Text {
    // Plain quotes around exactly the content: offsets in the value are offsets in the file.
    let content_at = file.get(span.start + 1..span.end.saturating_sub(1)).filter(|raw| *raw == text);
    let content_at = content_at.map(|_| span.start + 1);
    Text { value: text.to_owned(), span, content_at }
}

/// A configuration value as Kafka's properties files would have it.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.value().clone()),
        Value::Integer(number) => Some(number.value().to_string()),
        Value::Boolean(value) => Some(value.value().to_string()),
        Value::Float(number) => Some(number.value().to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::InlineTable(_) => None,
    }
}

pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a float",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::InlineTable(_) => "a table",
    }
}

fn first_line(span: Range<usize>, file: &str) -> Range<usize> {
    let text = file.get(span.clone()).unwrap_or("");
    let length = text.find('\n').unwrap_or(text.len());
    span.start..span.start + text[..length].trim_end().len()
}
