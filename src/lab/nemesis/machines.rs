//! What the nemesis does to processes and wall clocks, besides stopping them; and what it does again and again.

use std::time::Duration;

use super::{EntryState, Nemesis};
use crate::scenario::{Action, Cycle};
use crate::world::Time;
use crate::world::sim::Load;

/// Where a fault that goes on and off stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) next_at: Time,
    is_on: bool,
    /// Periods that are still to begin; `None`: without end.
    left: Option<u32>,
}

impl Nemesis {
    /// Begins the first period of fault `index`.
    pub(super) fn start_cycle(&mut self, index: usize, cycle: Cycle, now: Time) {
        self.switch(index, true, now);
        let left = cycle.count.map(|count| count - 1);
        self.entries[index].turn = Some(Turn { next_at: now + cycle.on(), is_on: true, left });
    }

    /// Fault `index` goes off, or on again; after its last period it ends.
    pub(super) fn turn(&mut self, index: usize, now: Time) {
        let entry = &self.entries[index];
        let (Some(turn), Some(cycle)) = (entry.turn, entry.fault.action.cycle()) else { return };
        self.switch(index, !turn.is_on, now);
        let next = if turn.is_on {
            Turn { next_at: now + (cycle.period - cycle.on()), is_on: false, left: turn.left }
        } else {
            Turn { next_at: now + cycle.on(), is_on: true, left: turn.left.map(|left| left - 1) }
        };
        self.entries[index].turn = Some(next);
        if !next.is_on && next.left == Some(0) {
            self.entries[index].turn = None;
            self.note_end(index, now);
        }
    }

    /// Leaves fault `index` off.
    pub(super) fn stop_cycle(&mut self, index: usize, now: Time) {
        if self.entries[index].turn.take().is_some_and(|turn| turn.is_on) {
            self.switch(index, false, now);
        }
    }

    /// The next turn of a fault that runs, if it has one, and whether it will come to an end by itself.
    pub(super) fn next_turn(&self, index: usize) -> Option<(Time, bool)> {
        let entry = &self.entries[index];
        let (EntryState::Started(until), Some(turn)) = (entry.state, entry.turn) else { return None };
        Some((turn.next_at, until.is_some() || turn.left.is_some()))
    }

    fn switch(&mut self, index: usize, on: bool, now: Time) {
        let entry = &self.entries[index];
        let (action, targets, links) = (entry.fault.action.clone(), entry.resolved.clone(), entry.links.clone());
        let sim = &self.cluster.sim;
        if let Action::ClockStrobe { by_ns, cycle: _ } = action {
            targets.iter().for_each(|machine| sim.step_clock(machine, if on { by_ns } else { -by_ns }));
        } else if action.is_of_network() {
            links.iter().for_each(|link| if on { self.block(link) } else { self.unblock(link) });
        } else if on {
            targets.iter().for_each(|machine| self.stop(machine, None, now));
        } else {
            targets.iter().for_each(|machine| self.boot(machine));
        }
    }

    /// Fault `index` adds this load to its machines, or adds nothing any more.
    pub(super) fn set_load(&mut self, index: usize, load: Option<Load>) {
        for machine in self.entries[index].resolved.clone() {
            let of_machine = self.loads.entry(machine.clone()).or_default();
            match load {
                Some(load) => of_machine.insert(index, load),
                None => of_machine.remove(&index),
            };
            let total = of_machine.values().fold(Load::default(), |sum, one| sum.and(*one));
            self.cluster.sim.set_load(&machine, total);
        }
    }

    /// Loads and clocks are as they were before any fault.
    pub(super) fn heal_machines(&mut self) {
        for machine in std::mem::take(&mut self.loads).into_keys() {
            self.cluster.sim.set_load(&machine, Load::default());
        }
        for machine in self.everyone() {
            self.cluster.sim.reset_clock(&machine);
        }
    }
}

pub(super) fn slow_cpu(by: Duration) -> Load {
    Load { event_cost: by, drain: None }
}

pub(super) fn slow_drain(bandwidth: u64) -> Load {
    Load { event_cost: Duration::ZERO, drain: Some(bandwidth) }
}
