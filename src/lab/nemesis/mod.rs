//! The nemesis: plays a schedule of faults against a running cluster. Targets are resolved to machines at the
//! moment a fault starts; whatever a fault did is undone when its duration is over. What is done is in a file by
//! subject: `links`, `messages`, `machines`.

mod disk;
mod links;
mod machines;
mod messages;

use std::collections::BTreeMap;
use std::time::Duration;

use self::links::{Link, conditions_of};
use self::machines::Turn;
use super::cluster::{AdminRequest, CONTROLLER, Cluster};
use super::ghost::machine_of;
use super::outcome::{FiredFault, TraceKind};
use super::recorder::State;
use crate::coordinator;
use crate::protocol::{BrokerId, Offset, TopicPartition};
use crate::scenario::{Action, Condition, Counter, DiskAction, Fault, Subject, Target, Variant, When};
use crate::world::Time;
use crate::world::sim::{FaultId, LinkConditions, Load, RuleId, Survivors};

pub use self::messages::{FRAME_READER, needs_frame_reader};

/// One fault of the schedule and where it stands.
struct Entry {
    fault: Fault,
    state: EntryState,
    resolved: Vec<String>,
    links: Vec<Link>,
    /// While it runs, if it goes on and off.
    turn: Option<Turn>,
    /// Running faults of disks, by machine.
    disk_faults: Vec<(String, FaultId)>,
    /// Since when, of the scenario's time, it has lasted without an effect on anything; `None`: it has fired, or does
    /// not wait for that.
    idle_since: Option<Time>,
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
    /// Of `__consumer_offsets`.
    offsets_partitions: i32,
    started_at: Time,
    /// How many running faults block a directed link.
    blocks: BTreeMap<Link, u32>,
    /// What running faults, by their index, add to a directed link.
    conditions: BTreeMap<Link, BTreeMap<usize, LinkConditions>>,
    /// What running faults, by their index, add to the load of a machine's process.
    loads: BTreeMap<String, BTreeMap<usize, Load>>,
    /// The faults, by their index, that wait for messages.
    rules: BTreeMap<RuleId, usize>,
    /// The schedule has faults that do.
    tells_messages_apart: bool,
    /// Administrators, and the fault, by its index, for which each asks.
    administrators: BTreeMap<String, usize>,
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
                turn: None,
                disk_faults: Vec::new(),
                idle_since: None,
            })
            .collect();
        let tells_messages_apart = needs_frame_reader(variant);
        if tells_messages_apart {
            let recorder = cluster.recorder.clone();
            cluster.sim.on_hit(move || recorder.notify());
        }
        Nemesis {
            cluster,
            entries,
            clients,
            offsets_partitions: variant.cluster.config.groups.offsets_topic_num_partitions,
            started_at,
            blocks: BTreeMap::new(),
            conditions: BTreeMap::new(),
            loads: BTreeMap::new(),
            rules: BTreeMap::new(),
            tells_messages_apart,
            administrators: BTreeMap::new(),
            shutting_down: Vec::new(),
            restarts: Vec::new(),
        }
    }

    /// Starts and ends every fault whose moment has come. Call it after every change of state and at
    /// [`Nemesis::deadline`].
    pub fn step(&mut self) {
        let now = self.cluster.sim.now();
        self.boot_after_shutdown();
        self.note_hits();
        self.note_strikes();
        // A fault may be the condition of another one: go on until nothing moves.
        while (0..self.entries.len()).any(|i| self.step_entry(i, now)) {}
    }

    /// When a fault starts, turns or ends by the clock.
    pub fn deadline(&self) -> Option<Time> {
        let turns = (0..self.entries.len()).filter_map(|index| self.next_turn(index)).map(|(at, _)| at);
        turns.chain(self.times()).min()
    }

    /// When faults start and end by the clock.
    fn times(&self) -> impl Iterator<Item = Time> {
        self.entries.iter().filter_map(|e| match (e.state, &e.fault.when) {
            (EntryState::Waiting, When::At(after)) => Some(self.started_at + *after),
            (EntryState::Armed(at), _) => Some(at),
            (EntryState::Started(until), _) => until,
            (EntryState::Waiting, When::Condition(_)) | (EntryState::Ended, _) => None,
        })
    }

    /// True when the schedule has nothing left that will happen by the clock and come to an end.
    pub fn is_idle(&self) -> bool {
        let turns = (0..self.entries.len()).filter_map(|index| self.next_turn(index));
        self.restarts.is_empty() && self.times().next().is_none() && !turns.into_iter().any(|(_, ends)| ends)
    }

    /// Ends everything: heals the network, resumes what is paused, boots what is down.
    pub fn heal_everything(&mut self) {
        let now = self.cluster.sim.now();
        self.forget_rules();
        self.note_strikes();
        for index in 0..self.entries.len() {
            if matches!(self.entries[index].state, EntryState::Started(_)) {
                self.note_end(index, now);
            }
            self.entries[index].turn = None;
            self.entries[index].disk_faults.clear();
        }
        self.heal_network();
        self.heal_machines();
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
            EntryState::Started(_) if self.next_turn(index).is_some_and(|(at, _)| at <= now) => {
                self.turn(index, now);
                true
            }
            EntryState::Armed(_) | EntryState::Started(_) | EntryState::Ended => false,
        }
    }

    fn heal_network(&mut self) {
        self.blocks.clear();
        self.conditions.clear();
        self.cluster.sim.heal();
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
        let (links, resolved) = match fault.action.subject() {
            Subject::Links(links) => self.links_of(links),
            Subject::Groups { groups, one_way } => self.links_between(groups, one_way),
            Subject::Messages(messages) => (Vec::new(), self.ends_of(messages)),
            Subject::Target if fault.action == Action::Isolate => (self.links_around(&targets), targets.clone()),
            Subject::Target => (Vec::new(), targets.clone()),
        };
        let places = if let Action::Disk { what, on } = &fault.action {
            self.break_disks(index, what, on, &targets, now)
        } else {
            resolved.clone()
        };
        let hits_nothing = match fault.action.subject() {
            Subject::Links(_) | Subject::Groups { .. } => links.is_empty(),
            // Who they name may never send anything: it fires with the first message.
            Subject::Messages(_) => false,
            Subject::Target => fault.target.is_some() && places.is_empty(),
        };
        if hits_nothing {
            // It never fired, as far as the verdict is concerned.
            self.entries[index].state = EntryState::Ended;
            return;
        }
        self.note_start(index, now, &places);
        self.entries[index].resolved = resolved;
        self.entries[index].links.clone_from(&links);
        self.entries[index].state = EntryState::Started(fault.duration.map(|d| now + d));
        self.act(index, &fault.action, &targets, &links, now);
        if fault.duration.is_none() && !lasts(&fault.action) {
            self.note_end(index, now);
        }
    }

    fn act(&mut self, index: usize, action: &Action, targets: &[String], links: &[Link], now: Time) {
        let sim = self.cluster.sim.clone();
        match action {
            Action::Crash => targets.iter().for_each(|m| self.stop(m, None, now)),
            Action::PowerLoss(survivors) => targets.iter().for_each(|m| self.stop(m, Some(*survivors), now)),
            // Done before it was noted: what it hit is part of the note.
            Action::Disk { .. } => {}
            Action::Restart { config } => {
                for machine in targets {
                    self.cluster.reconfigure(machine, config);
                    if sim.is_running(machine) {
                        self.stop(machine, None, now);
                    }
                    self.boot(machine);
                }
            }
            Action::Pause => targets.iter().for_each(|m| sim.pause(m)),
            Action::Resume => targets.iter().for_each(|m| sim.resume(m)),
            Action::Isolate | Action::Partition { .. } => links.iter().for_each(|link| self.block(link)),
            Action::Delay { .. } | Action::Throttle { .. } | Action::PacketLoss { .. } => {
                self.set_conditions(index, conditions_of(action));
            }
            Action::Flap { cycle, .. } | Action::CrashLoop { cycle } | Action::ClockStrobe { cycle, .. } => {
                self.start_cycle(index, *cycle, now);
            }
            Action::DelayMessage { .. } | Action::DropMessage { .. } => self.aim_at_messages(index),
            Action::SlowDrain { bandwidth } => self.set_load(index, Some(machines::slow_drain(*bandwidth))),
            Action::SlowCpu { by } => self.set_load(index, Some(machines::slow_cpu(*by))),
            Action::ClockStep { by_ns } => targets.iter().for_each(|m| sim.step_clock(m, *by_ns)),
            Action::ClockDrift { drift_ppm } => targets.iter().for_each(|m| sim.add_clock_drift(m, *drift_ppm)),
            Action::ClockFreeze => targets.iter().for_each(|m| sim.freeze_clock(m)),
            Action::Heal => {
                self.forget_rules();
                self.heal_network();
                for index in 0..self.entries.len() {
                    if self.entries[index].fault.action.is_of_network()
                        && matches!(self.entries[index].state, EntryState::Started(_))
                    {
                        self.entries[index].turn = None;
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
                self.ask(index, AdminRequest::ElectPreferred(self.partitions_of(of)));
            }
            Action::CreatePartitions { topic, count } => {
                self.ask(index, AdminRequest::CreatePartitions(topic.clone(), *count));
            }
            Action::DeleteRecords { of, before } => {
                let before = before.map(|offset| Offset(i64::try_from(offset).unwrap_or(i64::MAX)));
                self.ask(index, AdminRequest::DeleteRecords(self.partitions_of(of), before));
            }
        }
    }

    fn ask(&mut self, index: usize, request: AdminRequest) {
        let administrator = self.cluster.administer(request);
        self.administrators.insert(administrator, index);
    }

    /// Whether everything that administrators asked for was answered, or given up.
    pub fn is_answered(&self, state: &State) -> bool {
        self.administrators.keys().all(|administrator| state.admin_done.contains_key(administrator))
    }

    /// Writes down what administrators were refused.
    pub fn note_refusals(&self) {
        let state = &mut *self.cluster.recorder.lock();
        for (administrator, index) in &self.administrators {
            if let Some(Err(error)) = state.admin_done.get(administrator)
                && let Some(fired) = state.faults.iter_mut().find(|fired| fired.index == *index)
            {
                fired.refused = Some(error.clone());
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
            Action::Delay { .. } | Action::Throttle { .. } | Action::PacketLoss { .. } => {
                self.set_conditions(index, None);
            }
            Action::Flap { .. } | Action::CrashLoop { .. } | Action::ClockStrobe { .. } => self.stop_cycle(index, now),
            Action::DelayMessage { .. } | Action::DropMessage { .. } => self.stop_aiming(index),
            Action::SlowDrain { .. } | Action::SlowCpu { .. } => self.set_load(index, None),
            Action::ClockStep { by_ns } => targets.iter().for_each(|m| self.cluster.sim.step_clock(m, -by_ns)),
            Action::ClockDrift { drift_ppm } => {
                targets.iter().for_each(|m| self.cluster.sim.add_clock_drift(m, -drift_ppm));
            }
            Action::ClockFreeze => targets.iter().for_each(|m| self.cluster.sim.thaw_clock(m)),
            Action::ControlledShutdown => {
                self.shutting_down.retain(|machine| !targets.contains(machine));
                self.restarts.extend(targets);
                self.boot_after_shutdown();
            }
            Action::Restart { .. }
            | Action::Resume
            | Action::Heal
            | Action::ElectPreferred { .. }
            | Action::CreatePartitions { .. }
            | Action::DeleteRecords { .. } => {}
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

    fn note_start(&mut self, index: usize, now: Time, resolved: &[String]) {
        let mut state = self.cluster.recorder.lock();
        state.push(now, "lab", TraceKind::FaultStarted { index, targets: resolved.to_vec() });
        let at = Time::from_nanos(now.as_nanos() - self.started_at.as_nanos());
        if messages::aim(&self.entries[index].fault.action).is_some() {
            // It fires when it hits its first message.
        } else if self.entries[index].disk_faults.is_empty() {
            state.faults.push(FiredFault { index, at, ended_at: None, resolved: resolved.to_vec(), refused: None });
        } else {
            // It fires with the first operation on the disk that it has an effect on.
            self.entries[index].idle_since = Some(at);
        }
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
        let leader = |partition: &str| -> Vec<String> {
            let leader = ghost(partition).map(|p| p.leader).filter(|leader| *leader != BrokerId::NONE);
            leader.map(machine_of).into_iter().collect()
        };
        match target {
            Target::Broker(id) => vec![format!("broker-{id}")],
            Target::Brokers => self.cluster.broker_machines(),
            Target::Controller => vec![CONTROLLER.to_owned()],
            Target::Client(name) => vec![name.clone()],
            Target::Coordinator(group) => {
                let partition = coordinator::partition_for(group, self.offsets_partitions);
                leader(&format!("{}-{partition}", coordinator::TOPIC))
            }
            Target::Rack(rack) => self.cluster.rack(rack),
            Target::Machines => self.everyone(),
            Target::SameAs(index) => self.entries[index - 1].resolved.clone(),
            Target::Leader(partition) => leader(partition),
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
        let state = self.cluster.recorder.lock();
        let mut partitions: Vec<TopicPartition> = state.ghost.partitions_of(of).cloned().collect();
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
}

/// Leaves a state behind that a later fault or the end of the run undoes.
fn lasts(action: &Action) -> bool {
    match action {
        Action::Disk { what: DiskAction::Fault(_) | DiskAction::Replace, on: _ }
        | Action::Crash
        | Action::PowerLoss(_)
        | Action::CrashLoop { .. }
        | Action::Pause
        | Action::Isolate
        | Action::Partition { .. }
        | Action::Delay { .. }
        | Action::Throttle { .. }
        | Action::PacketLoss { .. }
        | Action::Flap { .. }
        | Action::DelayMessage { .. }
        | Action::DropMessage { .. }
        | Action::SlowDrain { .. }
        | Action::SlowCpu { .. }
        | Action::ClockDrift { .. }
        | Action::ClockStrobe { .. }
        | Action::ClockFreeze
        | Action::ControlledShutdown => true,
        Action::Disk { what: DiskAction::BitRot(_) | DiskAction::DropCache, on: _ }
        | Action::Restart { .. }
        | Action::Resume
        | Action::ClockStep { .. }
        | Action::Heal
        | Action::ElectPreferred { .. }
        | Action::CreatePartitions { .. }
        | Action::DeleteRecords { .. } => false,
    }
}
