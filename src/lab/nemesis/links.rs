//! What the nemesis does to links: cutting them, and worsening them. Several faults may act on one link at once.

use super::Nemesis;
use crate::scenario::{Action, Links, Target};
use crate::world::sim::{LinkConditions, Ppm};

/// A directed link by the names of its machines.
pub(super) type Link = (String, String);

/// What an action adds to the links that it is aimed at; none if it does something else.
pub(super) fn conditions_of(action: &Action) -> Option<LinkConditions> {
    let none = LinkConditions::default();
    if let Action::Delay { links: _, by, jitter } = action {
        Some(LinkConditions { delay: *by, jitter: *jitter, ..none })
    } else if let Action::Throttle { links: _, bandwidth } = action {
        Some(LinkConditions { bandwidth: Some(*bandwidth), ..none })
    } else if let Action::PacketLoss { links: _, loss } = action {
        Some(LinkConditions { loss: Ppm(loss.0), ..none })
    } else {
        None
    }
}

impl Nemesis {
    pub(super) fn block(&mut self, link: &Link) {
        let count = self.blocks.entry(link.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.cluster.sim.block(&link.0, &link.1);
        }
    }

    pub(super) fn unblock(&mut self, link: &Link) {
        // Healed in between: nothing to undo.
        let Some(count) = self.blocks.get_mut(link) else { return };
        *count -= 1;
        if *count == 0 {
            self.blocks.remove(link);
            self.cluster.sim.unblock(&link.0, &link.1);
        }
    }

    /// Fault `index` adds these conditions to its links, or adds nothing any more.
    pub(super) fn set_conditions(&mut self, index: usize, conditions: Option<LinkConditions>) {
        for link in self.entries[index].links.clone() {
            let of_link = self.conditions.entry(link.clone()).or_default();
            match conditions {
                Some(conditions) => of_link.insert(index, conditions),
                None => of_link.remove(&index),
            };
            let total = of_link.values().fold(LinkConditions::default(), |sum, one| sum.and(*one));
            self.cluster.sim.set_conditions(&link.0, &link.1, total);
        }
    }

    pub(super) fn links_around(&self, targets: &[String]) -> Vec<Link> {
        let mut links = Vec::new();
        for inside in targets {
            for outside in self.everyone().into_iter().filter(|m| !targets.contains(m)) {
                links.push((inside.clone(), outside.clone()));
                links.push((outside, inside.clone()));
            }
        }
        links
    }

    /// With the machines at their ends.
    pub(super) fn links_between(&self, groups: &[Vec<Target>], one_way: bool) -> (Vec<Link>, Vec<String>) {
        let groups: Vec<Vec<String>> =
            groups.iter().map(|group| group.iter().flat_map(|t| self.resolve(t)).collect()).collect();
        let mut links = Vec::new();
        for (i, from) in groups.iter().enumerate() {
            for (j, to) in groups.iter().enumerate() {
                if i == j || (one_way && i > j) {
                    continue;
                }
                for a in from {
                    links.extend(to.iter().filter(|b| *b != a).map(|b| (a.clone(), b.clone())));
                }
            }
        }
        (links, groups.concat())
    }

    /// Each link once, with the machines at their ends.
    pub(super) fn links_of(&self, links: &Links) -> (Vec<Link>, Vec<String>) {
        let (from, to) = (self.resolve(&links.from), self.resolve(&links.to));
        let mut directed = Vec::new();
        for a in &from {
            for b in to.iter().filter(|b| *b != a) {
                directed.push((a.clone(), b.clone()));
                if links.both_ways {
                    directed.push((b.clone(), a.clone()));
                }
            }
        }
        directed.sort();
        directed.dedup();
        let mut ends = from;
        ends.extend(to.into_iter().filter(|machine| !ends.contains(machine)).collect::<Vec<_>>());
        (directed, ends)
    }
}
