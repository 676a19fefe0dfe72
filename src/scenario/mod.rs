//! Scenario files: TOML in, a checked [`Scenario`] or diagnostics that point at the place out.
//!
//! A file is read into a draft that keeps every place (`draft`, `machines`, `faults`, `expect`, over the typed tables of
//! `table` and the small languages of `expression` and `quantity`), then `resolve` makes one variant per point of the matrix. Every mistake
//! is noted and reading goes on, so that one look shows them all. Nothing here runs anything.

mod diagnostics;
pub mod disk;
mod draft;
mod expect;
mod expression;
mod faults;
mod machines;
mod model;
mod quantity;
mod render;
mod resolve;
mod schema;
mod table;
pub mod vocabulary;

use std::io;
use std::path::{Path, PathBuf};

use toml_edit::Document;

pub use diagnostics::{Mistake, ScenarioError};
pub use disk::DiskAction;
pub use draft::KEY_PREFIX_DEFAULT;
pub use model::*;
pub use render::{render, written_duration};
pub use schema::schema;
pub use vocabulary::{DEFECTS_AXIS, METRICS, Metric, MetricKind, metric};

use diagnostics::Mistakes;
use table::Section;

/// Reads a scenario file; its name is the file's stem.
pub fn load(path: &Path) -> Result<Scenario, ScenarioError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ScenarioError::unreadable(&file, &error))?;
    let name = path.file_stem().map_or_else(|| file.clone(), |stem| stem.to_string_lossy().into_owned());
    parse(&name, &file, &text)
}

/// Reads a scenario from text. `file` is for messages and [`Scenario::file`].
pub fn parse(name: &str, file: &str, text: &str) -> Result<Scenario, ScenarioError> {
    let mut mistakes = Mistakes::default();
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            mistakes.add(&span, format!("this is not TOML: {}", error.message().trim_end()));
            return Err(mistakes.into_error(file, text));
        }
    };
    let root = Section::new(document.as_table(), "the scenario", 0..text.lines().next().map_or(0, str::len), text);
    let draft = draft::read(&root, &mut mistakes);
    resolve::check_axes(&draft, &mut mistakes);
    let axes = resolve::axes(&draft);
    let faults = faults::read(&root, &draft, &mut mistakes);
    let are_axes_known = draft.axes_are_complete && draft.workloads_are_complete;
    let expect = expect::read(&root, are_axes_known.then_some(&axes), &mut mistakes);
    let variants = resolve::variants(&draft, &axes, &faults, &expect, &mut mistakes);
    resolve::check_faults(&variants, &root, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(mistakes.into_error(file, text));
    }
    Ok(Scenario {
        name: name.to_owned(),
        file: file.to_owned(),
        title: draft.title,
        duration: draft.duration.map(|duration| duration.value),
        seed: draft.seed,
        matrix: axes,
        variants,
    })
}

/// A duration as scenario files write it: `2s`, `500ms`. The error says what is wrong.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    expression::duration(text).map_err(|slip| match slip.help {
        Some(help) => format!("{}: {help}", slip.message),
        None => slip.message,
    })
}

/// The scenario files that `paths` mean: files as they are, directories as all `*.toml` below them. Sorted, each once.
///
/// # Errors
/// `NotFound` for a path that does not exist and for a directory without scenario files.
pub fn find_files(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let kind = std::fs::metadata(path).map_err(|error| describe(&error, path))?;
        if !kind.is_dir() {
            found.push(path.clone());
            continue;
        }
        let before = found.len();
        collect_below(path, &mut found)?;
        if found.len() == before {
            let message = format!("{}: no scenario (*.toml) in this directory", path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn collect_below(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory).map_err(|error| describe(&error, directory))? {
        let entry = entry?;
        let path = entry.path();
        // `file_type` does not follow symbolic links, so a circle of them is not walked.
        if entry.file_type()?.is_dir() {
            collect_below(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    Ok(())
}

fn describe(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
