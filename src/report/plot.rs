//! Plots as SVG: records over time, and log end and high watermark of every replica over time. Floats live
//! here and nowhere else.

use std::collections::BTreeMap;

use plotters::prelude::*;
use serde::Serialize;

use super::model::FaultReport;
use crate::history::{EventType, HistoryEvent, MicroOp};
use crate::lab::outcome::{RunOutcome, TraceKind};
use crate::observe::Observation;
use crate::protocol::TopicPartition;
use crate::world::Time;

const WIDTH: u32 = 760;
const HEIGHT: u32 = 270;
/// Partitions plotted of one run.
const PARTITIONS_MAX: usize = 6;

/// Middle tones: they stand out on light and dark paper alike.
const SENT: RGBColor = RGBColor(138, 143, 152);
const ACKED: RGBColor = RGBColor(47, 126, 216);
const LOST: RGBColor = RGBColor(217, 68, 82);
const AXIS: RGBColor = RGBColor(138, 143, 152);
const FAULT: RGBColor = RGBColor(217, 132, 47);
const REPLICAS: [RGBColor; 6] = [
    RGBColor(47, 126, 216),
    RGBColor(224, 123, 57),
    RGBColor(59, 162, 114),
    RGBColor(154, 96, 180),
    RGBColor(209, 74, 97),
    RGBColor(138, 143, 152),
];

/// A plot with what its colours mean; the legend is set in HTML, so that it stays readable on a phone.
#[derive(Serialize)]
pub struct Plot {
    pub title: String,
    pub svg: String,
    /// (CSS colour, name)
    pub legend: Vec<(String, String)>,
}

struct Line {
    name: String,
    color: RGBColor,
    dashed: bool,
    /// Drawn as steps.
    points: Points,
}

/// All plots of a run.
pub fn plots(outcome: &RunOutcome, faults: &[FaultReport], lost_at: &[Time]) -> Vec<Plot> {
    let end = outcome.ended_at.since(outcome.started_at).as_secs_f64().max(0.001);
    let mut plots = vec![draw("Records over time", "records", &record_lines(outcome, lost_at), faults, end)];
    for (partition, replicas) in replicas(outcome).into_iter().take(PARTITIONS_MAX) {
        let title = format!("{partition}: log end (line) and high watermark (dashed)");
        plots.push(draw(&title, "offset", &replica_lines(replicas), faults, end));
    }
    plots
}

/// (seconds since the workloads began, value)
type Points = Vec<(f64, f64)>;

/// One replica over time.
#[derive(Default)]
struct Replica {
    log_end: Points,
    high_watermark: Points,
}

/// Every replica of every partition, exactly as its broker observed it.
fn replicas(outcome: &RunOutcome) -> BTreeMap<String, BTreeMap<&str, Replica>> {
    let mut partitions: BTreeMap<&TopicPartition, BTreeMap<&str, Replica>> = BTreeMap::new();
    for event in &outcome.trace {
        let TraceKind::Observed(observation) = &event.what else { continue };
        let (partition, log_end, high_watermark) = match observation {
            Observation::LogLoaded { partition, log_end, high_watermark, .. } => {
                (partition, Some(*log_end), Some(*high_watermark))
            }
            Observation::Appended { partition, batches, .. } => {
                (partition, batches.last().map(|batch| batch.last_offset + 1), None)
            }
            Observation::Truncated { partition, to, .. } => (partition, Some(*to), None),
            Observation::HighWatermark { partition, offset, .. } => (partition, None, Some(*offset)),
            Observation::Flushed { .. }
            | Observation::LogStartMoved { .. }
            | Observation::Compacted { .. }
            | Observation::BecameLeader { .. }
            | Observation::BecameFollower { .. }
            | Observation::IsrView { .. }
            | Observation::Acknowledged { .. }
            | Observation::Refused { .. }
            | Observation::OutOfSequence { .. }
            | Observation::BeyondSegment { .. }
            | Observation::BeforeLogEnd { .. }
            | Observation::Served { .. }
            | Observation::ReferredTo { .. }
            | Observation::LatestOffset { .. }
            | Observation::ProducersExpired { .. }
            | Observation::GroupDeleted { .. }
            | Observation::Downgraded { .. }
            | Observation::Unwatched { .. }
            | Observation::UnawaitedSync { .. }
            | Observation::RefusedJoin { .. }
            | Observation::OffsetExpired { .. }
            | Observation::Unclaimed { .. }
            | Observation::Registered { .. }
            | Observation::Fenced { .. }
            | Observation::PartitionChanged { .. }
            | Observation::LogDirFailed { .. }
            | Observation::CleanShutdown => continue,
        };
        let at = event.at.since(outcome.started_at).as_secs_f64();
        let replica = partitions.entry(partition).or_default().entry(&event.machine).or_default();
        replica.log_end.extend(log_end.map(|offset| (at, offset.0 as f64)));
        replica.high_watermark.extend(high_watermark.map(|offset| (at, offset.0 as f64)));
    }
    partitions.into_iter().map(|(partition, replicas)| (partition.to_string(), replicas)).collect()
}

fn record_lines(outcome: &RunOutcome, lost_at: &[Time]) -> Vec<Line> {
    let times = |kind: EventType| -> Vec<Time> {
        let sends = |event: &HistoryEvent| event.ops().iter().filter(|op| matches!(op, MicroOp::Send { .. })).count();
        let of_kind = outcome.history.iter().filter(|event| event.kind == kind);
        of_kind.flat_map(|event| std::iter::repeat_n(Time::from_nanos(event.time), sends(event))).collect()
    };
    let line = |name: &str, color: RGBColor, mut times: Vec<Time>| {
        times.sort_unstable();
        let count = |(n, at): (usize, &Time)| (at.since(outcome.started_at).as_secs_f64(), (n + 1) as f64);
        let points = std::iter::once((0.0, 0.0)).chain(times.iter().enumerate().map(count)).collect();
        Line { name: name.to_owned(), color, dashed: false, points }
    };
    vec![
        line("sent", SENT, times(EventType::Invoke)),
        line("acknowledged", ACKED, times(EventType::Ok)),
        line("acknowledged and lost", LOST, lost_at.to_vec()),
    ]
}

fn replica_lines(replicas: BTreeMap<&str, Replica>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (n, (broker, replica)) in replicas.into_iter().enumerate() {
        let color = REPLICAS[n % REPLICAS.len()];
        lines.push(Line { name: broker.to_owned(), color, dashed: false, points: replica.log_end });
        lines.push(Line { name: String::new(), color, dashed: true, points: replica.high_watermark });
    }
    lines
}

fn draw(title: &str, unit: &str, lines: &[Line], faults: &[FaultReport], end: f64) -> Plot {
    let mut svg = String::new();
    render(&mut svg, unit, lines, faults, end).expect("drawing into a string cannot fail");
    // Inline SVG needs no namespace, and a page without any address is easily seen to be self-contained.
    let svg = svg.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "");
    let named = lines.iter().filter(|line| !line.name.is_empty());
    let mut legend: Vec<(String, String)> = named.map(|line| (css(line.color), line.name.clone())).collect();
    if faults.iter().any(|fault| fault.at_ms.is_some()) {
        legend.push((css(FAULT), "fault".to_owned()));
    }
    Plot { title: title.to_owned(), svg, legend }
}

fn render(
    svg: &mut String,
    unit: &str,
    lines: &[Line],
    faults: &[FaultReport],
    end: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let highest = lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(1.0, f64::max);
    let root = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..end, 0.0..highest * 1.05)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(AXIS.mix(0.25))
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS)
        .label_style(("sans-serif", 13))
        .x_desc("seconds since the workloads began")
        .y_desc(unit)
        .x_labels(10)
        .y_labels(6)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for fault in faults {
        let Some(from) = fault.at_ms.map(|ms| ms as f64 / 1e3) else { continue };
        let to = fault.ended_ms.map_or(from, |ms| ms as f64 / 1e3).min(end);
        chart.draw_series([Rectangle::new([(from, 0.0), (to, highest * 1.05)], FAULT.mix(0.16).filled())])?;
        chart.draw_series([PathElement::new([(from, 0.0), (from, highest * 1.05)], FAULT.mix(0.7))])?;
    }
    for line in lines {
        let points = steps(&line.points, end);
        if line.dashed {
            chart.draw_series(DashedLineSeries::new(points, 3, 4, line.color.mix(0.9).stroke_width(1)))?;
        } else {
            chart.draw_series(LineSeries::new(points, line.color.stroke_width(2)))?;
        }
    }
    root.present()?;
    Ok(())
}

/// Thins points out and turns them into steps that reach to `end`.
fn steps(points: &[(f64, f64)], end: f64) -> Vec<(f64, f64)> {
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for column in points.chunk_by(|a, b| column(a.0, end) == column(b.0, end)) {
        for point in extremes(column) {
            if let Some(before) = steps.last().copied() {
                steps.push((point.0, before.1));
            }
            steps.push(point);
        }
    }
    if let Some(last) = steps.last().copied() {
        steps.push((end, last.1));
    }
    steps
}

/// The column of pixels that a time falls into.
fn column(at: f64, end: f64) -> u32 {
    (at / end * f64::from(WIDTH)) as u32
}

/// Of the points in one column of pixels those that can be seen: first, lowest, highest and last, in order.
fn extremes(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let by_value = |a: &usize, b: &usize| points[*a].1.total_cmp(&points[*b].1);
    let indexes = || 0..points.len();
    let mut seen: Vec<usize> = [Some(0), indexes().min_by(by_value), indexes().max_by(by_value), indexes().last()]
        .into_iter()
        .flatten()
        .collect();
    seen.sort_unstable();
    seen.dedup();
    seen.into_iter().map(|index| points[index]).collect()
}

fn css(color: RGBColor) -> String {
    format!("#{:02x}{:02x}{:02x}", color.0, color.1, color.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_a_short_dip() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|n| (f64::from(n) / 1e4, 50.0)).collect();
        points[54_321].1 = 3.0;
        let steps = steps(&points, 10.0);
        assert!(steps.len() < 8_000 && steps.contains(&(5.4321, 3.0)));
        assert_eq!(steps.last(), Some(&(10.0, 50.0)));
    }
}
