//! Cycles of dependencies between operations, as Elle finds them for Jepsen's Kafka workload (Adya's G0 and
//! G1c): nobody can have come before himself. [`detect`] finds them, one case per strongly connected
//! component.
//!
//! Operations are numbered in the order of their completion. Dependencies of process and of real time always
//! go forward in it, so every cycle holds a write-write or write-read dependency that goes backward, and all
//! of its operations lie in the union of the stretches that such dependencies go back over. Only these
//! stretches ([`Window`]) become graphs; a healthy history has hardly any.

use std::ops::RangeInclusive;

use super::Anomalies;
use super::evidence::{Because, Cycle, Dependency, Evidence};
use super::facts::{Facts, KeyId, OpId, ValueId};
use super::graph::{Components, Edge, Link, Links, OrderedOp, Window};
use super::order::VersionOrders;
use crate::history::EventType;

/// Anomalies of one kind of cycles, each over more links than the one before: a case of one is a cycle through
/// an edge of kind `closing` that no cycle over the links before goes through.
struct Family {
    closing: Link,
    kinds: [(&'static str, Links); 3],
}

/// Process order is part of real time here, so that `-realtime` means a cycle that process order alone does
/// not close.
const FAMILIES: [Family; 2] = [
    Family {
        closing: Link::Ww,
        kinds: [
            ("G0", Links::of(&[Link::Ww])),
            ("G0-process", Links::of(&[Link::Ww, Link::Process])),
            ("G0-realtime", Links::of(&[Link::Ww, Link::Process, Link::Realtime])),
        ],
    },
    Family {
        closing: Link::Wr,
        kinds: [
            ("G1c", Links::of(&[Link::Ww, Link::Wr])),
            ("G1c-process", Links::of(&[Link::Ww, Link::Wr, Link::Process])),
            ("G1c-realtime", Links::ALL),
        ],
    },
];

/// Finds cycles. `ww_deps`: neighbours in a version order are dependencies too.
pub fn detect(facts: &Facts<'_>, orders: &VersionOrders, ww_deps: bool, anomalies: &mut Anomalies) {
    let mut edges = Vec::new();
    if ww_deps {
        write_write_edges(facts, orders, &mut edges);
    }
    write_read_edges(facts, &mut edges);
    let stretches = stretches_gone_back_over(&edges);
    let mut windows: Vec<Vec<Edge>> = vec![Vec::new(); stretches.len()];
    for edge in edges {
        let at = stretches.partition_point(|stretch| *stretch.end() < edge.from.0);
        if stretches.get(at).is_some_and(|stretch| stretch.contains(&edge.from.0) && stretch.contains(&edge.to.0)) {
            windows[at].push(edge);
        }
    }
    for (stretch, edges) in stretches.into_iter().zip(windows) {
        let window = window(facts, stretch, edges);
        let all = window.components(Links::ALL);
        for family in &FAMILIES {
            if window.edges().any(|edge| edge.link == family.closing && all.close(edge)) {
                detect_family(facts, &window, family, anomalies);
            }
        }
    }
}

fn detect_family(facts: &Facts<'_>, window: &Window, family: &Family, anomalies: &mut Anomalies) {
    let mut before: Option<Components> = None;
    for (name, links) in family.kinds {
        let components = window.components(links);
        let is_new = |edge: &Edge| components.close(edge) && !before.as_ref().is_some_and(|before| before.close(edge));
        let mut closing: Vec<(usize, &Edge)> = window
            .edges()
            .filter(|edge| edge.link == family.closing && is_new(edge))
            .map(|edge| (components.of(edge), edge))
            .collect();
        closing.sort_by_key(|(component, edge)| (*component, edge.from, edge.to));
        let mut found: Vec<Cycle> = closing
            .chunk_by(|a, b| a.0 == b.0)
            .map(|edges| {
                let edges: Vec<&Edge> = edges.iter().map(|(_, edge)| *edge).collect();
                cycle(facts, &window.shortest_cycle(&edges, links, &components))
            })
            .collect();
        found.sort_by(|a, b| a.operations.cmp(&b.operations));
        for cycle in found {
            anomalies.add(name, Evidence::Cycle(cycle));
        }
        before = Some(components);
    }
}

/// Links the writers of values that are neighbours in the version order of a key. A value at several
/// offsets, or one that shares its offset, has no place there and is passed over like a hole.
fn write_write_edges(facts: &Facts<'_>, orders: &VersionOrders, edges: &mut Vec<Edge>) {
    for key in (0..facts.keys.len() as u32).map(KeyId) {
        let mut before: Option<ValueId> = None;
        for group in orders.key(key).entries.chunk_by(|a, b| a.0 == b.0) {
            let [(_, value)] = group else { continue };
            if orders.span(*value).is_some_and(|span| span.first != span.last) {
                continue;
            }
            let writer = |value: ValueId| facts.value(value).writer;
            if let Some((from, to)) = before.and_then(writer).zip(writer(*value)).filter(|(from, to)| from != to) {
                let value_before = before.expect("it has a writer");
                edges.push(Edge { from, to, link: Link::Ww, value: value_before, next: *value });
            }
            before = Some(*value);
        }
    }
}

/// Links the writer of a value to everyone who read it, one edge per pair of operations in a row.
fn write_read_edges(facts: &Facts<'_>, edges: &mut Vec<Edge>) {
    for to in facts.op_ids() {
        let mut last = None;
        for record in facts.polls(facts.op(to)) {
            let writer = facts.value(record.value).writer.filter(|writer| *writer != to);
            if let Some(from) = writer.filter(|writer| last != Some(*writer)) {
                edges.push(Edge { from, to, link: Link::Wr, value: record.value, next: record.value });
            }
            last = writer;
        }
    }
}

/// The union of what edges go back over, as disjoint ranges of operations, ascending.
fn stretches_gone_back_over(edges: &[Edge]) -> Vec<RangeInclusive<u32>> {
    let mut back: Vec<(u32, u32)> =
        edges.iter().filter(|edge| edge.from > edge.to).map(|edge| (edge.to.0, edge.from.0)).collect();
    back.sort_unstable();
    let mut stretches: Vec<RangeInclusive<u32>> = Vec::new();
    for (first, last) in back {
        match stretches.last_mut() {
            Some(stretch) if first <= *stretch.end() => *stretch = *stretch.start()..=last.max(*stretch.end()),
            Some(_) | None => stretches.push(first..=last),
        }
    }
    stretches
}

fn window(facts: &Facts<'_>, stretch: RangeInclusive<u32>, edges: Vec<Edge>) -> Window {
    let first = OpId(*stretch.start());
    let ops = stretch.map(|id| {
        let op = facts.op(OpId(id));
        OrderedOp {
            process: op.event.process,
            invoked: op.invoked,
            completed: op.position,
            ends_for_certain: op.event.kind == EventType::Ok,
        }
    });
    Window::of(first, &ops.collect::<Vec<_>>(), edges)
}

fn cycle(facts: &Facts<'_>, edges: &[Edge]) -> Cycle {
    let text = |id: ValueId| facts.value(id).value.clone();
    let key = |id: ValueId| facts.key(facts.value(id).key).to_owned();
    let step = |edge: &Edge| Dependency {
        from: facts.index(edge.from),
        to: facts.index(edge.to),
        because: match edge.link {
            Link::Ww => Because::Ww { key: key(edge.value), value: text(edge.value), next: text(edge.next) },
            Link::Wr => Because::Wr { key: key(edge.value), value: text(edge.value) },
            Link::Process => Because::Process,
            Link::Realtime => Because::Realtime,
        },
    };
    Cycle {
        operations: edges.iter().map(|edge| facts.index(edge.from)).collect(),
        steps: edges.iter().map(step).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::evidence::{Because, Evidence};
    use super::super::testing::{found, history};
    use crate::check::{Anomalies, Options, analyze, analyze_with};

    const NOTHING: Vec<(&str, u64)> = Vec::new();

    /// The names of cycles found with write-write edges.
    fn with_ww(text: &str) -> Vec<(&'static str, u64)> {
        let anomalies = analyze_with(&history(text), Options { ww_deps: true });
        anomalies.iter().filter(|(name, _)| name.starts_with('G')).map(|(name, e)| (name, e.len() as u64)).collect()
    }

    fn operations(anomalies: &Anomalies, name: &str) -> Vec<u64> {
        match &anomalies.evidence(name)[0] {
            Evidence::Cycle(cycle) => cycle.operations.clone(),
            other => panic!("no cycle: {other}"),
        }
    }

    #[test]
    fn two_transactions_that_read_each_other_are_a_cycle() {
        let bad = "
            0 invoke txn send x:a poll
            1 invoke txn send y:b poll
            0 ok txn send x:a@0 poll y:b@0
            1 ok txn send y:b@0 poll x:a@0";
        assert_eq!(found(bad), [("G1c", 1)]);
        let near_miss = "
            0 invoke txn send x:a poll
            1 invoke txn send y:b poll
            0 ok txn send x:a@0 poll
            1 ok txn send y:b@0 poll x:a@0
            0 ok txn poll y:b@0";
        assert_eq!(found(near_miss), NOTHING);
    }

    #[test]
    fn the_evidence_is_a_shortest_cycle_with_its_reasons() {
        // 0 -> 1 -> 2 -> 3 -> 0, and the shortcut 1 -> 0.
        let bad = "
            0 ok txn send x:a poll w:d v:e
            1 ok txn send y:b v:e poll x:a
            2 ok txn send z:c poll y:b
            3 ok txn send w:d poll z:c
            9 ok poll x:a y:b z:c w:d v:e";
        let anomalies = analyze(&history(bad));
        assert_eq!(operations(&anomalies, "G1c"), [0, 1]);
        let evidence = anomalies.evidence("G1c")[0].to_json();
        let steps = serde_json::json!([
            {"from": 0, "to": 1, "edge": "wr", "key": "x", "value": "a"},
            {"from": 1, "to": 0, "edge": "wr", "key": "v", "value": "e"},
        ]);
        assert_eq!(evidence["steps"], steps);
    }

    #[test]
    fn separate_cycles_are_separate_cases() {
        let pair = "
            0 ok txn send x:a poll y:b
            1 ok txn send y:b poll x:a";
        let two = format!("{pair}\n {}", pair.replace(":a", ":c").replace(":b", ":d"));
        assert_eq!(found(&two), [("G1c", 2)]);
    }

    #[test]
    fn a_process_that_reads_what_follows_from_its_own_later_write_is_a_cycle() {
        let bad = "
            2 invoke txn send y:b poll
            1 invoke poll
            1 ok poll y:b@0
            1 invoke send x:a
            1 ok send x:a@0
            2 ok txn send y:b@0 poll x:a@0";
        assert_eq!(found(bad), [("G1c-process", 1)]);
        let steps: Vec<Because> = match &analyze(&history(bad)).evidence("G1c-process")[0] {
            Evidence::Cycle(cycle) => cycle.steps.iter().map(|step| step.because.clone()).collect(),
            other => panic!("no cycle: {other}"),
        };
        assert_eq!(steps.len(), 3);
        assert!(steps.contains(&Because::Process) && !steps.contains(&Because::Realtime));
        let in_flight_together = "
            2 invoke txn send y:b poll
            1 invoke poll
            1 invoke send x:a
            1 ok poll y:b@0
            1 ok send x:a@0
            2 ok txn send y:b@0 poll x:a@0";
        assert_eq!(found(in_flight_together), NOTHING);
    }

    #[test]
    fn a_value_read_before_its_send_began_is_a_realtime_cycle() {
        let bad = "
            1 invoke poll
            1 ok poll x:a@0
            0 invoke send x:a
            0 ok send x:a@0";
        assert_eq!(found(bad), [("G1c-realtime", 1)]);
        let near_miss = "
            1 invoke poll
            0 invoke send x:a
            1 ok poll x:a@0
            0 ok send x:a@0";
        assert_eq!(found(near_miss), NOTHING);
        assert_eq!(found("1 ok poll x:a@0\n 0 ok send x:a@0"), NOTHING, "without invocations nobody knows");
    }

    #[test]
    fn an_unknown_end_orders_nothing_after_it() {
        let text = |kind: &str| {
            format!(
                "
                2 invoke txn send y:b poll
                1 invoke poll
                1 {kind} poll y:b@0
                0 invoke send x:a
                0 ok send x:a@0
                2 ok txn send y:b@0 poll x:a@0
                9 ok poll x:a@0 y:b@0"
            )
        };
        assert_eq!(found(&text("ok")), [("G1c-realtime", 1)]);
        assert_eq!(found(&text("info")), NOTHING);
    }

    #[test]
    fn writes_that_interleave_are_a_cycle_only_with_write_write_edges() {
        let bad = "
            0 ok send x:a@0 x:c@2
            1 ok send x:b@1
            9 ok poll x:a@0 x:b@1 x:c@2";
        assert_eq!(with_ww(bad), [("G0", 1)]);
        assert_eq!(found(bad), [("int-send-skip", 1)]);
        let near_miss = "
            0 ok send x:a@0 x:b@1
            1 ok send x:c@2
            9 ok poll x:a@0 x:b@1 x:c@2";
        assert_eq!(with_ww(near_miss), NOTHING);
    }

    #[test]
    fn writes_against_the_order_of_process_or_time_are_cycles() {
        let text = |second: u8| {
            format!(
                "
                0 invoke send x:b
                0 ok send x:b@1
                {second} invoke send x:a
                {second} ok send x:a@0
                9 ok poll x:a@0 x:b@1"
            )
        };
        assert_eq!(with_ww(&text(0)), [("G0-process", 1)]);
        assert_eq!(with_ww(&text(1)), [("G0-realtime", 1)]);
    }

    #[test]
    fn a_write_read_edge_against_the_version_order_is_a_cycle() {
        let bad = "
            0 ok txn send x:a@0 poll y:c@0
            1 ok txn send x:b@1 y:c@0
            9 ok poll x:a@0 x:b@1 y:c@0";
        assert_eq!(with_ww(bad), [("G1c", 1)]);
        assert_eq!(found(bad), NOTHING);
    }

    #[test]
    fn a_value_without_one_place_orders_no_writes() {
        let duplicated = "
            0 ok send x:a@0
            1 ok send x:b@1
            9 ok poll x:a@0 x:b@1 x:a@2";
        assert_eq!(with_ww(duplicated), NOTHING);
    }

    #[test]
    fn the_order_of_twenty_thousand_operations_in_flight_together_needs_no_edge_per_pair() {
        // Quadratic edges would be 10^8 here: every send of the first half ends before any of the second begins.
        let mut text = String::from("90000 invoke txn send y:b poll\n 90001 invoke poll\n 90001 ok poll y:b\n");
        for half in 0..2 {
            for (kind, process) in ["invoke", "ok"].iter().flat_map(|kind| (0..10_000).map(move |p| (kind, p))) {
                text += &format!("{process} {kind} send x:{half}-{process}\n");
            }
        }
        text += "90002 invoke send z:c\n 90002 ok send z:c\n 90000 ok txn send y:b poll z:c\n";
        let anomalies = analyze(&history(&text));
        assert_eq!(anomalies.count("G1c-realtime"), 1);
        assert_eq!(operations(&anomalies, "G1c-realtime").len(), 3);
    }
}
