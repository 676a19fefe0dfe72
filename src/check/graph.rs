//! The graph of dependencies in one stretch of operations: what is on a common cycle with what
//! ([`Window::components`]), and the shortest cycle through given edges ([`Window::shortest_cycle`]).
//!
//! Process order and real time are quadratic in the operations if every pair gets an edge. Here each order
//! has a chain of instants, one per operation that ended: the operation leads to the instant of its end,
//! instants lead to later instants, the last instant before an operation's begin leads to the operation.
//! That is linear, and an operation reaches exactly those that began after it had ended.

use std::cmp::Reverse;
use std::collections::VecDeque;

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{EdgeFiltered, EdgeRef, IntoEdgeReferences};
use rustc_hash::FxHashMap;

use super::facts::{OpId, ValueId};

/// Edges looked at while a shortest cycle is sought in one component. Beyond, the shortest found so far is
/// the evidence: a component of thousands of operations has a short cycle near any of its edges.
const EDGES_SEARCHED_MAX: usize = 4_000_000;

/// Why one operation happened before another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    Ww,
    Wr,
    Process,
    Realtime,
}

/// A set of links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Links(u8);

impl Links {
    pub const ALL: Links = Links::of(&[Link::Ww, Link::Wr, Link::Process, Link::Realtime]);

    pub const fn of(links: &[Link]) -> Links {
        let mut bits = 0;
        let mut i = 0;
        while i < links.len() {
            bits |= 1 << links[i] as u8;
            i += 1;
        }
        Links(bits)
    }

    pub fn has(self, link: Link) -> bool {
        self.0 & (1 << link as u8) != 0
    }
}

/// `from` happened before `to`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge {
    pub from: OpId,
    pub to: OpId,
    pub link: Link,
    /// Ww, Wr: the value that `from` sent.
    pub value: ValueId,
    /// Ww: the value that `to` sent; otherwise as `value`.
    pub next: ValueId,
}

/// When an operation ran: positions in the history.
#[derive(Clone, Copy, Debug)]
pub struct OrderedOp {
    pub process: i64,
    /// Without one, real time orders nothing before it, and its process did nothing else at the time.
    pub invoked: Option<usize>,
    pub completed: usize,
    /// What began later came after it: true of ok operations only.
    pub ends_for_certain: bool,
}

/// What a graph's edge stands for.
#[derive(Clone, Copy)]
struct Arc {
    link: Link,
    /// Position in [`Window::edges`]; `None` within a chain of instants.
    edge: Option<u32>,
}

/// Operations `first`, `first + 1`, … in the order of their completion, and what orders them.
pub struct Window {
    first: OpId,
    ops: usize,
    edges: Vec<Edge>,
    /// The first `ops` nodes are the operations, the others instants.
    graph: DiGraph<(), Arc>,
}

/// Strongly connected components over some links.
pub struct Components {
    first: OpId,
    /// Per node.
    component: Vec<usize>,
    links: Links,
}

impl Components {
    /// Whether a cycle over the links goes through the edge.
    pub fn close(&self, edge: &Edge) -> bool {
        self.links.has(edge.link) && self.of_op(edge.from) == self.of_op(edge.to)
    }

    pub fn of(&self, edge: &Edge) -> usize {
        self.of_op(edge.from)
    }

    fn of_op(&self, op: OpId) -> usize {
        self.component[(op.0 - self.first.0) as usize]
    }
}

impl Window {
    /// `edges`: write-write and write-read ones among `ops`, the first of which is `first`.
    pub fn of(first: OpId, ops: &[OrderedOp], edges: Vec<Edge>) -> Window {
        let mut graph = DiGraph::with_capacity(ops.len(), edges.len());
        for _ in ops {
            graph.add_node(());
        }
        let mut window = Window { first, ops: ops.len(), edges, graph };
        for at in 0..window.edges.len() {
            let Edge { from, to, link, .. } = window.edges[at];
            let (from, to) = (window.node(from), window.node(to));
            window.graph.add_edge(from, to, Arc { link, edge: Some(at as u32) });
        }
        window.add_orders(ops);
        window
    }

    pub fn edges(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter()
    }

    /// What lies on a common cycle over `links`.
    pub fn components(&self, links: Links) -> Components {
        let filtered = EdgeFiltered::from_fn(&self.graph, |arc: <&DiGraph<(), Arc> as IntoEdgeReferences>::EdgeRef| {
            links.has(arc.weight().link)
        });
        let mut component = vec![0; self.graph.node_count()];
        for (number, members) in kosaraju_scc(&filtered).into_iter().enumerate() {
            for node in members {
                component[node.index()] = number;
            }
        }
        Components { first: self.first, component, links }
    }

    /// The shortest cycle over `links` that begins with one of `closing`, all of them in one component.
    pub fn shortest_cycle(&self, closing: &[&Edge], links: Links, components: &Components) -> Vec<Edge> {
        let mut search = Search::new(self, links, components);
        let mut shortest: Option<Vec<Edge>> = None;
        for edge in closing {
            let length_max = shortest.as_ref().map_or(usize::MAX, |cycle| cycle.len() - 1);
            if length_max < 2 || (shortest.is_some() && search.edges_searched > EDGES_SEARCHED_MAX) {
                break;
            }
            if let Some(path) = search.path(edge.to, edge.from, length_max - 1) {
                shortest = Some(std::iter::once(**edge).chain(path).collect());
            }
        }
        shortest.expect("an edge inside of a strongly connected component lies on a cycle")
    }

    fn node(&self, op: OpId) -> NodeIndex {
        NodeIndex::new((op.0 - self.first.0) as usize)
    }

    fn op(&self, node: NodeIndex) -> Option<OpId> {
        (node.index() < self.ops).then(|| OpId(self.first.0 + node.index() as u32))
    }

    /// The chains of instants: one of real time, one per process.
    fn add_orders(&mut self, ops: &[OrderedOp]) {
        // (position, begins, operation): at one position an operation without invocation begins before it ends.
        let mut moments: Vec<(usize, Reverse<bool>, usize)> = Vec::with_capacity(2 * ops.len());
        for (at, op) in ops.iter().enumerate() {
            moments.push((op.invoked.unwrap_or(op.completed), Reverse(true), at));
            moments.push((op.completed, Reverse(false), at));
        }
        moments.sort_unstable();
        let mut now: Option<NodeIndex> = None;
        let mut now_of: FxHashMap<i64, NodeIndex> = FxHashMap::default();
        for (_, Reverse(begins), at) in moments {
            let (op, node) = (&ops[at], NodeIndex::new(at));
            if begins {
                if let Some(instant) = now.filter(|_| op.invoked.is_some()) {
                    self.graph.add_edge(instant, node, Arc { link: Link::Realtime, edge: None });
                }
                if let Some(instant) = now_of.get(&op.process) {
                    self.graph.add_edge(*instant, node, Arc { link: Link::Process, edge: None });
                }
            } else if op.ends_for_certain {
                now = Some(self.add_instant(node, now, Link::Realtime));
                let of_process = self.add_instant(node, now_of.get(&op.process).copied(), Link::Process);
                now_of.insert(op.process, of_process);
            }
        }
    }

    fn add_instant(&mut self, ended: NodeIndex, before: Option<NodeIndex>, link: Link) -> NodeIndex {
        let instant = self.graph.add_node(());
        self.graph.add_edge(ended, instant, Arc { link, edge: None });
        if let Some(before) = before {
            self.graph.add_edge(before, instant, Arc { link, edge: None });
        }
        instant
    }
}

/// Breadth-first searches inside of a component. A step between operations counts once, however many
/// instants it passes.
struct Search<'w> {
    window: &'w Window,
    links: Links,
    components: &'w Components,
    /// Per node.
    reached: Vec<Option<Reached>>,
    round: u32,
    edges_searched: usize,
}

#[derive(Clone, Copy)]
struct Reached {
    /// Of an earlier round: not reached yet.
    round: u32,
    /// From the start.
    steps: usize,
    /// Where from; `None` at the start.
    by: Option<(NodeIndex, Arc)>,
}

impl<'w> Search<'w> {
    fn new(window: &'w Window, links: Links, components: &'w Components) -> Search<'w> {
        let reached = vec![None; window.graph.node_count()];
        Search { window, links, components, reached, round: 0, edges_searched: 0 }
    }

    /// The shortest path, of at most `length_max` steps.
    fn path(&mut self, from: OpId, to: OpId, length_max: usize) -> Option<Vec<Edge>> {
        self.round += 1;
        let (start, goal) = (self.window.node(from), self.window.node(to));
        let component = self.components.component[start.index()];
        self.reached[start.index()] = Some(Reached { round: self.round, steps: 0, by: None });
        let mut queue = VecDeque::from([(start, 0)]);
        while let Some((node, steps)) = queue.pop_front() {
            if node == goal {
                return Some(self.steps_to(goal));
            }
            if self.steps(node) != Some(steps) {
                continue;
            }
            for arc in self.window.graph.edges(node) {
                self.edges_searched += 1;
                let (target, link) = (arc.target(), arc.weight().link);
                if !self.links.has(link) || self.components.component[target.index()] != component {
                    continue;
                }
                let steps = steps + usize::from(node.index() < self.window.ops);
                if steps > length_max || self.steps(target).is_some_and(|known| known <= steps) {
                    continue;
                }
                let by = Some((node, *arc.weight()));
                self.reached[target.index()] = Some(Reached { round: self.round, steps, by });
                if node.index() < self.window.ops {
                    queue.push_back((target, steps));
                } else {
                    queue.push_front((target, steps));
                }
            }
        }
        None
    }

    fn steps(&self, node: NodeIndex) -> Option<usize> {
        self.reached[node.index()].filter(|reached| reached.round == self.round).map(|reached| reached.steps)
    }

    /// The edges along which `goal` was reached.
    fn steps_to(&self, goal: NodeIndex) -> Vec<Edge> {
        let mut edges = Vec::new();
        let (mut node, mut to) = (goal, goal);
        while let Some((before, arc)) = self.reached[node.index()].and_then(|reached| reached.by) {
            if let Some((from, to_op)) = self.window.op(before).zip(self.window.op(to)) {
                edges.push(match arc.edge.filter(|_| node == to) {
                    Some(at) => self.window.edges[at as usize],
                    None => Edge { from, to: to_op, link: arc.link, value: ValueId(0), next: ValueId(0) },
                });
                to = before;
            }
            node = before;
        }
        edges.reverse();
        edges
    }
}
