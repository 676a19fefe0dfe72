//! The nemesis: plays a schedule of faults against a running cluster. Targets are resolved to machines at the
//! moment a fault starts; whatever a fault did is undone when its duration is over.

mod disk;

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::{AdminRequest, CONTROLLER, Cluster};
use super::ghost::machine_of;
use super::outcome::{FiredFault, TraceKind};
use crate::protocol::{BrokerId, TopicPartition};
use crate::scenario::{Action, Condition, Counter, DiskAction, Fault, Target, Variant, When};
use crate::world::Time;
use crate::world::sim::{FaultId, Survivors};

/// One fault of the schedule and where it stands.
struct Entry {
    fault: Fault,
    state: EntryState,
    resolved: Vec<String>,
    links: Vec<(String, String)>,
    /// Running faults of disks, by machine.
    disk_faults: Vec<(String, FaultId)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EntryState {
    /// Its condition or time has not come.
    Waiting,
    /// The condition held; it starts at this time.
    Armed(Time),
    /// Running; ends by itself at this time, if it has a duration.
    Started(Option<Time>),
    Ended,
}

/// The schedule of one run.
pub struct Nemesis {
    cluster: Cluster,
    entries: Vec<Entry>,
    clients: Vec<String>,
    topics: Vec<(String, i32)>,
    started_at: Time,
    /// How many running faults block a directed link.
    blocks: BTreeMap<(String, String), u32>,
    /// What running faults add to a directed link's latency.
    delays: BTreeMap<(String, String), Duration>,
    /// Machines that were asked to shut down in an orderly way and may still be at it.
    shutting_down: Vec<String>,
    /// Machines to boot again once their orderly shutdown is complete.
    restarts: Vec<String>,
}

impl Nemesis {
    pub fn new(cluster: Cluster, variant: &Variant, clients: Vec<String>, started_at: Time) -> Nemesis {
        let entries = variant
            .faults
            .iter()
            .map(|fault| Entry {
                fault: fault.clone(),
                state: EntryState::Waiting,
                resolved: Vec::new(),
                links: Vec::new(),
                disk_faults: Vec::new(),
            })
            .collect();
        let topics = variant.topics.iter().map(|t| (t.name.clone(), t.partitions)).collect();
        Nemesis {
            cluster,
            entries,
            clients,
            topics,
            started_at,
            blocks: BTreeMap::new(),
            delays: BTreeMap::new(),
            shutting_down: Vec::new(),
            restarts: Vec::new(),
        }
    }

    /// Starts and ends every fault whose moment has come. Call it after every change of state and at
    /// [`Nemesis::deadline`].
    pub fn step(&mut self) {
        let now = self.cluster.sim.now();
        self.boot_after_shutdown();
        // A fault may be the condition of another one: go on until nothing moves.
        while (0..self.entries.len()).any(|i| self.step_entry(i, now)) {}
    }

    /// When a fault starts or ends by the clock.
    pub fn deadline(&self) -> Option<Time> {
        let times = self.entries.iter().filter_map(|e| match (e.state, &e.fault.when) {
            (EntryState::Waiting, When::At(after)) => Some(self.started_at + *after),
            (EntryState::Armed(at), _) => Some(at),
            (EntryState::Started(until), _) => until,
            (EntryState::Waiting, When::Condition(_)) | (EntryState::Ended, _) => None,
        });
        times.min()
    }

    /// True when the schedule has nothing left that will happen by the clock.
    pub fn is_idle(&self) -> bool {
        self.deadline().is_none() && self.restarts.is_empty()
    }

    /// Ends everything: heals the network, resumes what is paused, boots what is down.
    pub fn heal_everything(&mut self) {
        let now = self.cluster.sim.now();
        for index in 0..self.entries.len() {
            if matches!(self.entries[index].state, EntryState::Started(_)) {
                self.note_end(index, now);
            }
        }
        self.blocks.clear();
        self.delays.clear();
        self.cluster.sim.heal();
        self.cluster.sim.heal_disks();
        for machine in self.cluster.server_machines().iter().chain(&self.clients) {
            self.cluster.sim.resume(machine);
        }
        // Whoever still shuts down in an orderly way is booted when that is done.
        self.restarts.append(&mut self.shutting_down);
        let with_failed_dirs = std::mem::take(&mut self.cluster.recorder.lock().ghost.with_failed_dirs);
        with_failed_dirs.iter().for_each(|machine| self.stop(machine, None, now));
        for machine in self.cluster.server_machines() {
            if !self.restarts.contains(&machine) {
                self.boot(&machine);
            }
        }
        self.boot_after_shutdown();
    }

    fn step_entry(&mut self, index: usize, now: Time) -> bool {
        match self.entries[index].state {
            EntryState::Waiting => {
                let (due, wait) = match &self.entries[index].fault.when {
                    When::At(after) => (self.started_at + *after <= now, Duration::ZERO),
                    When::Condition(condition) => (self.holds(condition), self.entries[index].fault.after),
                };
                if due {
                    self.entries[index].state = EntryState::Armed(now + wait);
                }
                due
            }
            EntryState::Armed(at) if at <= now => {
                self.begin(index, now);
                true
            }
            EntryState::Started(Some(until)) if until <= now => {
                self.end(index, now);
                true
            }
            EntryState::Armed(_) | EntryState::Started(_) | EntryState::Ended => false,
        }
    }

    fn holds(&self, condition: &Condition) -> bool {
        let state = self.cluster.recorder.lock();
        match condition {
            Condition::Count { what, of, compare, value } => {
                let count = match what {
                    Counter::Sent => state.tally(of).sent,
                    Counter::Acked => state.tally(of).acked,
                    Counter::Committed => state
                        .ghost
                        .partitions
                        .iter()
                        .filter(|(p, _)| p.is_of(of))
                        .map(|(_, g)| u64::try_from(g.true_high_watermark.0).unwrap_or(0))
                        .sum(),
                };
                compare.holds(count, *value)
            }
            Condition::Isr { partition, equals } => state.ghost.partition(partition).is_some_and(|p| {
                let mut isr: Vec<u32> = p.isr.iter().map(|b| b.0.unsigned_abs()).collect();
                let mut equals = equals.clone();
                isr.sort_unstable();
                equals.sort_unstable();
                isr == equals
            }),
            Condition::IsrSize { partition, compare, value } => {
                state.ghost.partition(partition).is_some_and(|p| compare.holds(p.isr.len() as u64, *value))
            }
            Condition::Leader { partition, negated, broker } => {
                let leader = state.ghost.partition(partition).map_or(BrokerId::NONE, |p| p.leader);
                let is = if leader == BrokerId::NONE { 0 } else { leader.0.unsigned_abs() };
                (is == *broker) != *negated
            }
            Condition::Fault { index, ended } => match self.entries[index - 1].state {
                EntryState::Waiting | EntryState::Armed(_) => false,
                EntryState::Started(_) => !ended,
                EntryState::Ended => true,
            },
        }
    }

    fn begin(&mut self, index: usize, now: Time) {
        let fault = self.entries[index].fault.clone();
        let targets = fault.target.as_ref().map(|t| self.resolve(t)).unwrap_or_default();
        let (links, resolved) = match &fault.action {
            Action::Partition { groups, one_way } => self.links_between(groups, *one_way),
            Action::Isolate => (self.links_around(&targets), targets.clone()),
            Action::Delay { from, to, both_ways, .. } => self.links_of(from, to, *both_ways),
            Action::Crash
            | Action::PowerLoss(_)
            | Action::Disk { .. }
            | Action::Restart
            | Action::Pause
            | Action::Resume
            | Action::Heal
            | Action::ControlledShutdown
            | Action::ElectPreferred { .. } => (Vec::new(), targets.clone()),
        };
        if let Action::Disk { what, on } = &fault.action {
            let places = self.break_disks(index, what, on, &targets, now);
            if places.is_empty() {
                // It never fired, as far as the verdict is concerned.
                self.entries[index].state = EntryState::Ended;
                return;
            }
            self.note_start(index, now, &places);
        } else {
            self.note_start(index, now, &resolved);
        }
        self.entries[index].resolved = resolved;
        self.entries[index].links.clone_from(&links);
        self.entries[index].state = EntryState::Started(fault.duration.map(|d| now + d));
        self.act(&fault.action, &targets, &links, now);
        if fault.duration.is_none() && !lasts(&fault.action) {
            self.note_end(index, now);
        }
    }

    fn act(&mut self, action: &Action, targets: &[String], links: &[(String, String)], now: Time) {
        let sim = self.cluster.sim.clone();
        match action {
            Action::Crash => targets.iter().for_each(|m| self.stop(m, None, now)),
            Action::PowerLoss(survivors) => targets.iter().for_each(|m| self.stop(m, Some(*survivors), now)),
            // Done before it was noted: what it hit is part of the note.
            Action::Disk { .. } => {}
            Action::Restart => {
                for machine in targets {
                    if sim.is_running(machine) {
                        self.stop(machine, None, now);
                    }
                    self.boot(machine);
                }
            }
            Action::Pause => targets.iter().for_each(|m| sim.pause(m)),
            Action::Resume => targets.iter().for_each(|m| sim.resume(m)),
            Action::Isolate | Action::Partition { .. } => links.iter().for_each(|link| self.block(link)),
            Action::Delay { by, .. } => links.iter().for_each(|link| self.delay(link, *by, true)),
            Action::Heal => {
                self.blocks.clear();
                self.delays.clear();
                sim.heal();
                for index in 0..self.entries.len() {
                    if is_network(&self.entries[index].fault.action)
                        && matches!(self.entries[index].state, EntryState::Started(_))
                    {
                        self.note_end(index, now);
                    }
                }
            }
            Action::ControlledShutdown => {
                for machine in targets {
                    sim.terminate(machine);
                    self.shutting_down.push(machine.clone());
                }
            }
            Action::ElectPreferred { of } => {
                self.cluster.administer(AdminRequest::ElectPreferred(self.partitions_of(of)));
            }
        }
    }

    /// Undoes what a fault with a duration did.
    fn end(&mut self, index: usize, now: Time) {
        let (action, targets, links) = {
            let entry = &self.entries[index];
            (entry.fault.action.clone(), entry.resolved.clone(), entry.links.clone())
        };
        match &action {
            Action::Disk { what, on: _ } => self.mend_disks(index, what, &targets),
            Action::Crash | Action::PowerLoss(_) => targets.iter().for_each(|m| self.boot(m)),
            Action::Pause => targets.iter().for_each(|m| self.cluster.sim.resume(m)),
            Action::Isolate | Action::Partition { .. } => links.iter().for_each(|link| self.unblock(link)),
            Action::Delay { by, .. } => links.iter().for_each(|link| self.delay(link, *by, false)),
            Action::ControlledShutdown => {
                self.shutting_down.retain(|machine| !targets.contains(machine));
                self.restarts.extend(targets);
                self.boot_after_shutdown();
            }
            Action::Restart | Action::Resume | Action::Heal | Action::ElectPreferred { .. } => {}
        }
        self.note_end(index, now);
    }

    fn boot_after_shutdown(&mut self) {
        let sim = self.cluster.sim.clone();
        let (ready, waiting) = std::mem::take(&mut self.restarts).into_iter().partition(|m| !sim.is_running(m));
        self.restarts = waiting;
        let ready: Vec<String> = ready;
        ready.iter().for_each(|machine| self.boot(machine));
    }

    /// Kills the process, or cuts the machine's power with what survives of its pending writes.
    fn stop(&self, machine: &str, power_loss: Option<Survivors>, now: Time) {
        match power_loss {
            None if !self.cluster.sim.is_running(machine) => return,
            None => self.cluster.sim.kill(machine),
            Some(survivors) => self.cluster.sim.power_off_leaving(machine, survivors),
        }
        let power_lost = power_loss.is_some();
        let mut state = self.cluster.recorder.lock();
        state.ghost.stopped(machine);
        state.push(now, machine, TraceKind::Stopped { power_lost });
    }

    fn boot(&self, machine: &str) {
        if self.cluster.sim.is_running(machine) {
            return;
        }
        self.cluster.recorder.lock().push(self.cluster.sim.now(), machine, TraceKind::Started);
        self.cluster.sim.start(machine);
    }

    fn block(&mut self, link: &(String, String)) {
        let count = self.blocks.entry(link.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.cluster.sim.block(&link.0, &link.1);
        }
    }

    fn unblock(&mut self, link: &(String, String)) {
        // Healed in between: nothing to undo.
        let Some(count) = self.blocks.get_mut(link) else { return };
        *count -= 1;
        if *count == 0 {
            self.blocks.remove(link);
            self.cluster.sim.unblock(&link.0, &link.1);
        }
    }

    fn delay(&mut self, link: &(String, String), by: Duration, add: bool) {
        let total = self.delays.entry(link.clone()).or_default();
        *total = if add { *total + by } else { total.saturating_sub(by) };
        self.cluster.sim.set_delay(&link.0, &link.1, *total);
    }

    fn note_start(&self, index: usize, now: Time, resolved: &[String]) {
        let mut state = self.cluster.recorder.lock();
        state.push(now, "lab", TraceKind::FaultStarted { index, targets: resolved.to_vec() });
        let at = Time::from_nanos(now.as_nanos() - self.started_at.as_nanos());
        state.faults.push(FiredFault { index, at, ended_at: None, resolved: resolved.to_vec() });
    }

    fn note_end(&mut self, index: usize, now: Time) {
        self.entries[index].state = EntryState::Ended;
        let targets = self.entries[index].resolved.clone();
        let mut state = self.cluster.recorder.lock();
        state.push(now, "lab", TraceKind::FaultEnded { index, targets });
        let at = Time::from_nanos(now.as_nanos() - self.started_at.as_nanos());
        if let Some(fired) = state.faults.iter_mut().find(|f| f.index == index) {
            fired.ended_at = Some(at);
        }
    }

    fn resolve(&self, target: &Target) -> Vec<String> {
        let state = self.cluster.recorder.lock();
        let ghost = |partition: &str| state.ghost.partition(partition);
        match target {
            Target::Broker(id) => vec![format!("broker-{id}")],
            Target::Brokers => self.cluster.broker_machines(),
            Target::Controller => vec![CONTROLLER.to_owned()],
            Target::Client(name) => vec![name.clone()],
            Target::SameAs(index) => self.entries[index - 1].resolved.clone(),
            Target::Leader(partition) => ghost(partition)
                .filter(|p| p.leader != BrokerId::NONE)
                .map(|p| machine_of(p.leader))
                .into_iter()
                .collect(),
            Target::Isr(partition) => {
                ghost(partition).map(|p| p.isr.iter().map(|b| machine_of(*b)).collect()).unwrap_or_default()
            }
            Target::Follower(partition, nth) => {
                let mut followers: Vec<BrokerId> = ghost(partition)
                    .map(|p| p.replicas.iter().copied().filter(|b| *b != p.leader).collect())
                    .unwrap_or_default();
                followers.sort_unstable();
                let followers: Vec<String> = followers.into_iter().map(machine_of).collect();
                match nth {
                    Some(n) => followers.into_iter().skip(n - 1).take(1).collect(),
                    None => followers,
                }
            }
        }
    }

    fn partitions_of(&self, of: &str) -> Vec<TopicPartition> {
        let whole = self.topics.iter().filter(|(name, _)| name == of);
        let mut partitions: Vec<TopicPartition> =
            whole.flat_map(|(name, count)| (0..*count).map(|p| TopicPartition::new(name, p))).collect();
        if partitions.is_empty() {
            partitions.extend(TopicPartition::parse(of));
        }
        partitions
    }

    fn everyone(&self) -> Vec<String> {
        let mut machines = self.cluster.server_machines();
        machines.extend(self.clients.iter().cloned());
        machines
    }

    fn links_around(&self, targets: &[String]) -> Vec<(String, String)> {
        let mut links = Vec::new();
        for inside in targets {
            for outside in self.everyone().into_iter().filter(|m| !targets.contains(m)) {
                links.push((inside.clone(), outside.clone()));
                links.push((outside, inside.clone()));
            }
        }
        links
    }

    fn links_between(&self, groups: &[Vec<Target>], one_way: bool) -> (Vec<(String, String)>, Vec<String>) {
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

    fn links_of(&self, from: &Target, to: &Target, both_ways: bool) -> (Vec<(String, String)>, Vec<String>) {
        let (from, to) = (self.resolve(from), self.resolve(to));
        let mut links = Vec::new();
        for a in &from {
            for b in to.iter().filter(|b| *b != a) {
                links.push((a.clone(), b.clone()));
                if both_ways {
                    links.push((b.clone(), a.clone()));
                }
            }
        }
        (links, [from, to].concat())
    }
}

/// Leaves a state behind that a later fault or the end of the run undoes.
fn lasts(action: &Action) -> bool {
    match action {
        Action::Disk { what: DiskAction::Fault(_) | DiskAction::Replace, on: _ }
        | Action::Crash
        | Action::PowerLoss(_)
        | Action::Pause
        | Action::Isolate
        | Action::Partition { .. }
        | Action::Delay { .. }
        | Action::ControlledShutdown => true,
        Action::Disk { what: DiskAction::BitRot(_) | DiskAction::DropCache, on: _ }
        | Action::Restart
        | Action::Resume
        | Action::Heal
        | Action::ElectPreferred { .. } => false,
    }
}

fn is_network(action: &Action) -> bool {
    match action {
        Action::Isolate | Action::Partition { .. } | Action::Delay { .. } => true,
        Action::Crash
        | Action::PowerLoss(_)
        | Action::Disk { .. }
        | Action::Restart
        | Action::Pause
        | Action::Resume
        | Action::Heal
        | Action::ControlledShutdown
        | Action::ElectPreferred { .. } => false,
    }
}
