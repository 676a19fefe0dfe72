//! `faultline defects`: what can be switched on, what it does, where it comes from.

use std::fmt::Write;

use serde::Serialize;

use super::{DefectsArgs, Exit, HumanOrJson, print, stdout_look};
use crate::defect::Defect;
use crate::report::{Look, SCHEMA, wrap};

#[derive(Serialize)]
struct Listed {
    schema: u32,
    defects: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    sentence: &'static str,
    source: &'static str,
    /// Path of the scenario that shows it, from the repository; `None`: only a search finds it.
    scenario: Option<String>,
}

impl Entry {
    fn of(defect: Defect) -> Entry {
        Entry {
            name: defect.name(),
            sentence: defect.sentence(),
            source: defect.source(),
            scenario: defect.scenario().map(|stem| format!("scenarios/{stem}.toml")),
        }
    }
}

pub fn defects(args: &DefectsArgs) -> anyhow::Result<Exit> {
    let entries: Vec<Entry> = Defect::ALL.iter().map(|defect| Entry::of(*defect)).collect();
    let text = match args.format {
        HumanOrJson::Human => human(&entries, stdout_look()),
        HumanOrJson::Json => {
            let mut text = serde_json::to_string_pretty(&Listed { schema: SCHEMA, defects: entries })?;
            text.push('\n');
            text
        }
    };
    print(&text)?;
    Ok(Exit::AsExpected)
}

fn human(entries: &[Entry], look: Look) -> String {
    let mut text = String::new();
    for Entry { name, sentence, source, scenario } in entries {
        let _ = writeln!(text, "{}", if look.color { format!("\x1b[1m{name}\x1b[0m") } else { (*name).to_owned() });
        wrap(&mut text, sentence, "    ", look);
        wrap(&mut text, &format!("Source: {source}"), "    ", look);
        if let Some(scenario) = scenario {
            let _ = writeln!(text, "    Shown by {scenario}");
        }
    }
    let _ = writeln!(text, "\n{} defects. In a scenario: [cluster] defects = [\"{}\"]", entries.len(), entries[0].name);
    text
}
