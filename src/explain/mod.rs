//! Why a record was lost, duplicated, reordered or wrongly read: its life, cut out of the trace.
//!
//! An [`Explanation`] is a backward slice of a run: the few events that mattered, the one that sealed the record's
//! fate, why the configuration allowed that (or which rule it broke), and the settings that would have saved it.
//! Everything is read from a [`Case`], which comes from a run just done ([`Case::of_run`]) or from what a report saved.
//! Nothing here runs or writes anything.
//!
//! - [`explain`]: `(&Case, &Wanted) -> Result<Vec<Explanation>, Unknown>`
//! - [`first_lost`]: `(&Case) -> Option<(Explanation, SameFate)>`, the first lost record and how many are, for reports.
//! - [`lines`]: `(&Scenario, variant, &RunOutcome) -> Vec<String>`, the explanations of a run in short, as plain lines
//!   to put into a comment of a scenario.

mod cases;
mod life;
mod loss;
mod prose;
mod reading;
mod records;
mod repeat;
mod replay;
mod ruling;
mod settings;
mod trouble;

use serde::Serialize;
use serde_json::Value as Json;

pub use cases::{Unknown, Wanted, explain, first_lost, lines};
pub use prose::human;
pub use settings::{ConsumerSettings, ProducerSettings, Settings, TopicSettings};

use crate::check::{self, Anomalies};
use crate::history::HistoryEvent;
use crate::lab::outcome::{Phase, RunOutcome, TraceEvent, TraceKind};
use crate::scenario::Variant;
use crate::world::Time;
use records::Records;

/// One run, as much as an explanation is made of.
pub struct Case<'a> {
    pub trace: &'a [TraceEvent],
    pub history: &'a [HistoryEvent],
    pub settings: &'a Settings,
    /// What each fault of the schedule does: `power-loss leader(orders-0)`.
    pub faults: Vec<String>,
}

impl<'a> Case<'a> {
    pub fn of_run(variant: &Variant, settings: &'a Settings, outcome: &'a RunOutcome) -> Case<'a> {
        let text = |action: &str, target: &str| format!("{action} {target}").trim_end().to_owned();
        let faults = variant.faults.iter().map(|fault| text(&fault.text.0, &fault.text.1)).collect();
        Case { trace: &outcome.trace, history: &outcome.history, settings, faults }
    }
}

/// One event of the slice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Moment {
    /// Its number in the trace, 1-based: the line of the saved one.
    pub event: usize,
    /// Since the workloads began, in nanoseconds; 0 for what was before.
    pub ns: u64,
    pub machine: String,
    pub text: String,
    /// It sealed the fate.
    pub decisive: bool,
}

/// Whether what happened was allowed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ruling {
    /// No promise of this configuration was broken.
    Legal,
    /// A rule of the protocol was: a defect.
    RuleBroken,
    /// Nothing happened to the record in the log.
    Intact,
}

/// One setting, under Kafka's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Setting {
    pub key: &'static str,
    pub value: String,
}

/// Settings that, together, would have saved the record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Remedy {
    pub settings: Vec<Setting>,
    pub why: String,
}

/// Records that ended as this one did: same decisive event, same reasons.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct SameFate {
    /// This one included.
    pub records: u64,
    /// First and last offset of each run of them, where offsets are known.
    pub offsets: Vec<(i64, i64)>,
}

/// Why one record (or one partition) came to what a checker found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Explanation {
    /// The anomaly or violation; `lost` and `sent-and-missing` as the report counts them; `unavailable`.
    pub kind: String,
    /// Other names under which records of the same fate were found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    pub partition: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Json>,
    /// What became of it, in a sentence.
    pub summary: String,
    pub timeline: Vec<Moment>,
    /// What sealed its fate, in a sentence; `timeline` has the event.
    pub decision: String,
    pub ruling: Ruling,
    /// Which promise was made and which was not, or which rule was broken.
    pub why: String,
    /// Who had the record just before the decision, and who was in sync.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holders: Option<Vec<i32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isr: Option<Vec<i32>>,
    /// Any one of them would have.
    pub remedies: Vec<Remedy>,
    pub same_fate: SameFate,
}

impl Explanation {
    /// The event that sealed the fate, by its number in the trace (1-based).
    pub fn decisive_event(&self) -> Option<usize> {
        self.timeline.iter().find(|moment| moment.decisive).map(|moment| moment.event)
    }
}

/// Everything that explanations of one run look into.
struct Facts<'a> {
    case: &'a Case<'a>,
    records: Records<'a>,
    anomalies: Anomalies,
    started_at: Time,
    final_read_at: Option<Time>,
}

impl<'a> Facts<'a> {
    fn of(case: &'a Case<'a>) -> Facts<'a> {
        let phase = |phase: Phase| case.trace.iter().find(|e| e.what == TraceKind::Phase(phase)).map(|e| e.at);
        Facts {
            case,
            records: Records::of(case.trace, case.history),
            anomalies: check::analyze(case.history),
            started_at: phase(Phase::Workload).unwrap_or(Time::ZERO),
            final_read_at: phase(Phase::FinalRead),
        }
    }

    fn moment(&self, at: usize, text: String) -> Moment {
        let event = &self.case.trace[at];
        let ns = u64::try_from(event.at.since(self.started_at).as_nanos()).unwrap_or(u64::MAX);
        Moment { event: at + 1, ns, machine: event.machine.to_string(), text, decisive: false }
    }
}

#[cfg(test)]
mod tests;
