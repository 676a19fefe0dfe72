//! Faults of processes and of wall clocks.

use std::collections::BTreeMap;

use super::super::diagnostics::Mistakes;
use super::super::draft::settings;
use super::super::model::Action;
use super::super::quantity;
use super::super::table::Section;
use super::cycle;
use super::network::needed_bandwidth;
use crate::config::Scope;

/// What is done to a target, and what a report says about it after the target.
type Done = (Action, String);

pub(super) fn restart(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Done> {
    let before = mistakes.len();
    let settings = settings(section, "the fault's config", Scope::Broker, mistakes);
    if mistakes.len() > before {
        return None;
    }
    let config: BTreeMap<String, String> = settings.into_iter().map(|s| (s.key.value, s.value.value)).collect();
    let text = config.iter().map(|(key, value)| format!(" {key}={value}")).collect();
    Some((Action::Restart { config }, text))
}

pub(super) fn crash_loop(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Done> {
    let (cycle, rhythm) = cycle(section, mistakes)?;
    Some((Action::CrashLoop { cycle }, format!(" {rhythm}")))
}

pub(super) fn slow_drain(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Done> {
    let (bandwidth, written) = needed_bandwidth(section, mistakes)?;
    Some((Action::SlowDrain { bandwidth }, format!(" at {written}")))
}

pub(super) fn slow_cpu(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Done> {
    if !section.has("by") {
        section.missing("by", "by = \"5ms\"", mistakes);
    }
    let by = section.positive_duration("by", mistakes)?.value;
    Some((Action::SlowCpu { by }, format!(" by {by:?}")))
}

/// How far a clock is moved, with its text.
fn shift(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<(i64, String)> {
    if !section.has("by") {
        section.missing("by", "by = \"-10s\"", mistakes);
    }
    let text = section.text("by", mistakes)?;
    let by_ns = text.read(quantity::shift, mistakes)?.value;
    Some((by_ns, format!(" by {}", text.value)))
}

pub(super) fn clock_step(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Done> {
    let (by_ns, text) = shift(section, mistakes)?;
    Some((Action::ClockStep { by_ns }, text))
}

pub(super) fn clock_strobe(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Done> {
    let shift = shift(section, mistakes);
    let (cycle, rhythm) = cycle(section, mistakes)?;
    let (by_ns, text) = shift?;
    Some((Action::ClockStrobe { by_ns, cycle }, format!("{text} {rhythm}")))
}

pub(super) fn clock_drift(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Done> {
    if !section.has("drift") {
        section.missing("drift", "drift = \"200ppm\"", mistakes);
    }
    let text = section.text("drift", mistakes)?;
    let drift_ppm = text.read(quantity::drift, mistakes)?.value;
    Some((Action::ClockDrift { drift_ppm }, format!(" by {}", text.value)))
}
