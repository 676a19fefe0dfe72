//! The product does not know the laboratory: every module names only the modules below it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module and what it may name, as ARCHITECTURE.md draws it.
const MAY_USE: &[(&str, &[&str])] = &[
    ("world", &[]),
    // The names of known defects; whoever decides asks whether one is on.
    ("defect", &[]),
    ("protocol", &["world"]),
    ("observe", &["protocol", "world"]),
    ("log", &["defect", "observe", "protocol", "world"]),
    ("config", &["defect", "log"]),
    ("metadata", &["protocol", "world"]),
    ("replica", &["config", "defect", "log", "metadata", "observe", "protocol", "world"]),
    ("controller", &["config", "defect", "log", "metadata", "observe", "protocol", "world"]),
    // Groups decide over record batches and their own records; the broker carries requests, answers and appends.
    ("coordinator", &["config", "defect", "log", "protocol", "world"]),
    ("broker", &["config", "coordinator", "defect", "log", "metadata", "observe", "protocol", "replica", "world"]),
    // Of the log a client knows the layout of a record batch (`log::batch`), as it is on the wire and on disk.
    ("client", &["config", "defect", "log", "protocol", "world"]),
    ("history", &[]),
    // Of the world a scenario knows what its links, clocks, messages and disks can suffer: plain data (`world::sim::model`,
    // `world::sim::disk`).
    ("scenario", &["config", "defect", "protocol", "world"]),
    (
        "lab",
        &[
            "broker",
            "client",
            "config",
            "controller",
            // Which partition of `__consumer_offsets` a group belongs to.
            "coordinator",
            "defect",
            "history",
            "log",
            "observe",
            "protocol",
            "scenario",
            "world",
        ],
    ),
    ("check", &["history", "lab", "observe", "protocol", "scenario", "config", "world"]),
    ("explain", &["check", "client", "history", "lab", "observe", "protocol", "scenario", "config", "world"]),
    ("report", &["check", "client", "explain", "history", "lab", "observe", "protocol", "scenario", "config", "world"]),
    // The name of `__consumer_offsets`.
    (
        "fuzz",
        &[
            "check",
            "config",
            "coordinator",
            "defect",
            "history",
            "lab",
            "observe",
            "protocol",
            "report",
            "scenario",
            "world",
        ],
    ),
];

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable").map(|e| e.expect("src is readable").path()) {
        if entry.is_dir() {
            rust_files(&entry, files);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            files.push(entry);
        }
    }
}

/// The top-level modules that a source text names as `crate::x`.
fn named(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut modules = BTreeSet::new();
    for line in code {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let module: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            modules.insert(module);
        }
    }
    modules.remove("");
    modules
}

#[test]
fn modules_reach_only_where_they_may() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).expect("found below src");
        let first = inside.iter().next().expect("a file has a name").to_str().expect("our names are ASCII");
        let module = first.trim_end_matches(".rs");
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            // The command line and the crate root are the top: they may name everything.
            assert!(["cli", "main", "lib"].contains(&module), "{module} has no row in MAY_USE");
            continue;
        };
        seen.insert(module.to_owned());
        // A test inside a product module may set up whatever it needs.
        let text = fs::read_to_string(&file).expect("src is readable");
        let text = text.split("#[cfg(test)]\nmod tests").next().expect("split yields one part");
        if inside.iter().any(|part| part == "tests" || part == "tests.rs") {
            continue;
        }
        for other in named(text) {
            if other != module && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{} names crate::{other}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "modules reach where they must not:\n{}", wrong.join("\n"));
    assert_eq!(seen.len(), MAY_USE.len(), "a module in MAY_USE does not exist");
}
