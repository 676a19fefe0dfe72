//! What a report holds: plain data, the same for the terminal, JSON, JUnit and HTML.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::Serialize;

use crate::check::{Allowance, Evidence};
use crate::explain::Settings;
use crate::lab::groups::GroupFigures;

/// Version of the JSON.
pub const SCHEMA: u32 = 1;

/// How a run is judged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    AsExpected,
    /// An expectation failed, or an anomaly, a violation or an unfired fault is not accounted for.
    Unexpected,
    /// It did not reach its end within the bound of simulated time.
    Unfinished,
    Panicked,
}

impl Verdict {
    /// As people read it.
    pub fn text(self) -> &'static str {
        match self {
            Verdict::AsExpected => "as expected",
            Verdict::Unexpected => "unexpected",
            Verdict::Unfinished => "unfinished",
            Verdict::Panicked => "panicked",
        }
    }
}

/// Distinct values by what became of them. `sent` = `acked` + `failed` + `unknown`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    pub sent: u64,
    pub acked: u64,
    pub failed: u64,
    /// Sends without a certain outcome: timed out, disconnected, acks=0.
    pub unknown: u64,
    /// Distinct values that the final read returned.
    pub read: u64,
    /// Acknowledged, and the final read did not return it although compaction does not explain that.
    pub lost: u64,
    /// Acknowledged, and compaction may have removed it: a tombstone, or not the latest value of its record key.
    pub compacted: u64,
    /// Of the unknown ones, those that the final read did not return: with acks=0 all that is missing.
    pub sent_and_missing: u64,
}

/// All violations of one name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ViolationReport {
    pub name: &'static str,
    pub count: u64,
    /// The first one, in milliseconds since the workloads began.
    pub at_ms: u64,
    pub partition: String,
    pub detail: String,
}

/// One line of `[expect]`, judged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ExpectationReport {
    pub metric: String,
    /// `> 0`
    pub expected: String,
    pub actual: u64,
    pub passed: bool,
}

/// One entry of the fault schedule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FaultReport {
    /// Since the workloads began; `null` if it never fired.
    pub at_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    #[serde(rename = "do")]
    pub action: String,
    pub target: String,
    /// The machines that the target resolved to.
    pub resolved: String,
    /// Why the cluster refused what an administrator asked of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Line in the scenario file, 0 for a generated one.
    pub line: usize,
}

/// What became of the first lost record, and why: lines of prose, times in seconds since the workloads began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Account {
    pub partition: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    pub value: serde_json::Value,
    pub lines: Vec<String>,
}

/// One run, judged.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RunReport {
    pub scenario: String,
    pub file: String,
    pub variant: IndexMap<String, String>,
    #[serde(skip)]
    pub label: String,
    /// The claim of the scenario.
    #[serde(skip)]
    pub title: String,
    pub seed: u64,
    pub verdict: Verdict,
    /// Why the verdict is not `as-expected`, one sentence each.
    pub problems: Vec<String>,
    pub counts: Counts,
    /// Found ones, and those that an expectation names.
    pub anomalies: BTreeMap<String, u64>,
    /// Name -> the first cases.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence: BTreeMap<String, Vec<Evidence>>,
    pub violations: Vec<ViolationReport>,
    /// Records that consumers fetched from a follower (KIP-392).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_from_followers: Option<u64>,
    /// What the consumer groups did, together; none without groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupFigures>,
    /// The worst partition's time without a successful send while one was tried; see [`super::judge`].
    pub unavailable_ms: u64,
    /// False if no producer waits for acknowledgements: `unavailable_ms` is then 0 and means nothing.
    pub unavailable_measured: bool,
    pub expectations: Vec<ExpectationReport>,
    pub allowed: Vec<Allowance>,
    pub faults: Vec<FaultReport>,
    /// What the configuration promised; `explain` argues from it.
    pub settings: Settings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// Trace lines that lead up to the first violation, or to where the run got stuck.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leading_events: Vec<String>,
    pub digest: String,
    pub sim_ms: u64,
    pub wall_ms: u64,
    pub messages: u64,
    pub events: u64,
    /// Saved trace, relative to the report; `replay` compares with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Saved history, relative to the report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<String>,
}

impl RunReport {
    /// The command that runs this scenario again under the same seed; `None` for a generated scenario.
    pub fn command(&self) -> Option<String> {
        let quote = |word: &str| match word.contains(|c: char| c.is_whitespace() || c == '\'') {
            true => format!("'{}'", word.replace('\'', r"'\''")),
            false => word.to_owned(),
        };
        (!self.file.is_empty()).then(|| format!("faultline run {} --seed {}", quote(&self.file), self.seed))
    }

    /// The reason why an anomaly or violation is allowed here.
    pub fn allowance(&self, name: &str) -> Option<&'static str> {
        self.allowed.iter().find(|row| row.anomaly == name).map(|row| row.reason)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Summary {
    pub runs: usize,
    pub unexpected: usize,
}

/// Several runs, as saved in `report.json`.
#[derive(Serialize)]
pub struct Report<'a> {
    pub schema: u32,
    pub runs: &'a [RunReport],
    pub summary: Summary,
}

impl<'a> Report<'a> {
    pub fn of(runs: &'a [RunReport]) -> Report<'a> {
        let unexpected = runs.iter().filter(|run| run.verdict != Verdict::AsExpected).count();
        Report { schema: SCHEMA, runs, summary: Summary { runs: runs.len(), unexpected } }
    }

    /// The JSON, ending in a line end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has string keys and finite numbers");
        text.push('\n');
        text
    }
}
