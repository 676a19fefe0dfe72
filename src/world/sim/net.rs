//! The simulated network: TCP connections that carry whole frames between machines.
//!
//! A sender computes when its frame arrives and puts it straight into the receiver's inbox; there is no task and no
//! channel per frame or connection. What a machine's kernel does without its process (accept, refuse, reset) is done
//! by one task for all machines, fed by *knocks*: packets that reach an end that is not open.
//!
//! The rules, after TCP:
//! - The frames of one direction of a connection stay in order; latency is drawn per frame from the link's stream.
//! - A packet that would arrive while its link is blocked is held, and sent again [`RETRANSMISSION_TIMEOUT`] after
//!   the link heals.
//! - A process that exits or is killed has its connections closed by its machine, after the frames already sent.
//! - A machine that loses power says nothing. Frames to it vanish, frames that it already put on the wire arrive. Its
//!   connections are half-open: once it is up again, whatever is sent or retransmitted on them is answered by a reset.
//! - Connecting to a machine whose process does not run or does not listen is refused after a round trip; to a machine
//!   without power it stays unanswered, and is retried when the power is back.
//! - A connection closed by its opener before it is established is abandoned, with what was sent on it.
//! - A message that a rule drops ends its connection: its receiver sees it closed where the message would have come, its
//!   sender a way back later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use madsim::task::NodeId;

use super::clock::Clock;
use super::digest::{Digest, Kind, fingerprint_of};
use super::disk::MachineDisk;
use super::inbox::Inbox;
use super::link::{Held, Link, RETRANSMISSION_TIMEOUT};
use super::model::{LinkConditions, Load, MachineModel, MessageEffect, SimConfig};
use super::pace::{Pace, Pull};
use super::tap::Tap;
use super::wall_clock::WallClock;
use crate::world::{Chain, ConnId, Event, HostPort, Time};

/// A machine's index, in the order they were added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct MachineId(pub(super) u32);

impl MachineId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Counts a machine's processes, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Incarnation(pub(super) u64);

/// Why a process stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// Exited or killed: the kernel closes its connections.
    Process,
    /// Nobody is left to close anything.
    PowerLoss,
}

pub(super) struct Machine {
    pub(super) name: Arc<str>,
    pub(super) disk: Arc<MachineDisk>,
    /// Set once the madsim node is built.
    pub(super) node: Option<NodeId>,
    pub(super) incarnation: Incarnation,
    pub(super) has_power: bool,
    pub(super) is_running: bool,
    listens: bool,
    inbox: Inbox<Event>,
    model: MachineModel,
    pub(super) wall_clock: Arc<WallClock>,
    /// What slows its process down; none on most machines.
    pace: Option<Box<Pace>>,
    /// The ends that its process holds.
    open: BTreeSet<ConnId>,
    /// Ends of this machine that were sent something while it had no power: the peer keeps retransmitting.
    unanswered: BTreeSet<ConnId>,
}

/// One end of a connection. The opener's id is even, the acceptor's the odd one above it.
struct End {
    machine: MachineId,
    state: EndState,
    /// When the last packet sent to this end arrives: later ones must not overtake it.
    last_arrival: Time,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EndState {
    /// The acceptor's end, before the opener's SYN arrives.
    Absent,
    /// The opener's end, until it learns the answer.
    Opening,
    Open,
    /// Closed here. `has_told`: the peer was or is being told; if not, it is told when it next sends something.
    Gone {
        has_told: bool,
    },
}

/// What travels over a link.
pub(super) enum Packet {
    /// For the process.
    Event(Event),
    /// For the kernel: a SYN, or a packet to an end that is gone.
    Knock,
}

pub(super) struct Network {
    seed: u64,
    config: SimConfig,
    clock: Clock,
    digest: Arc<Digest>,
    machines: Vec<Machine>,
    by_name: BTreeMap<Arc<str>, MachineId>,
    /// By sender, then receiver.
    links: Vec<Vec<Link>>,
    /// By connection id. Never freed: ids are not reused, and an end is small.
    ends: Vec<End>,
    /// Frames sent by an opener before it was connected.
    early: BTreeMap<ConnId, Vec<Chain>>,
    knocks: Inbox<ConnId>,
    /// What tells messages apart; none unless the supervisor wants to.
    pub(super) tap: Option<Box<Tap>>,
    frames: u64,
}

fn peer(conn: ConnId) -> ConnId {
    ConnId(conn.0 ^ 1)
}

/// The connection whose link an event travels over; none for what the machine itself tells its process.
fn travels_on(event: &Event) -> Option<ConnId> {
    match event {
        Event::Connected(conn) | Event::Frame(conn, _) | Event::Closed(conn) => Some(*conn),
        Event::Accepted(_) | Event::IoReady | Event::Terminate => None,
    }
}

// Machines and their processes.
impl Network {
    pub(super) fn new(seed: u64, config: &SimConfig, clock: Clock, digest: Arc<Digest>) -> Network {
        Network {
            seed,
            config: config.clone(),
            knocks: Inbox::new(&clock),
            tap: config.frame_reader.map(|reader| Box::new(Tap::new(reader))),
            clock,
            digest,
            machines: Vec::new(),
            by_name: BTreeMap::new(),
            links: Vec::new(),
            ends: Vec::new(),
            early: BTreeMap::new(),
            frames: 0,
        }
    }

    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    pub(super) fn machine(&self, id: MachineId) -> &Machine {
        &self.machines[id.index()]
    }

    pub(super) fn machine_mut(&mut self, id: MachineId) -> &mut Machine {
        &mut self.machines[id.index()]
    }

    /// Panics if no machine has this name: the supervisor names only what it added.
    pub(super) fn find(&self, name: &str) -> MachineId {
        *self.by_name.get(name).unwrap_or_else(|| panic!("no machine is named '{name}'"))
    }

    pub(super) fn machine_of(&self, node: NodeId) -> Option<MachineId> {
        let index = self.machines.iter().position(|machine| machine.node == Some(node))?;
        Some(MachineId(index as u32))
    }

    pub(super) fn machine_ids(&self) -> impl Iterator<Item = MachineId> + use<> {
        (0..self.machines.len() as u32).map(MachineId)
    }

    /// Adds a machine without power.
    pub(super) fn add_machine(&mut self, name: &str, listens: bool) -> MachineId {
        let id = MachineId(u32::try_from(self.machines.len()).expect("fewer than 2^32 machines"));
        let name: Arc<str> = name.into();
        let previous = self.by_name.insert(name.clone(), id);
        assert_eq!(previous, None, "machine '{name}' was already added");
        let model = self.config.machines.get(&*name).copied().unwrap_or_default();
        self.machines.push(Machine {
            disk: MachineDisk::new(id, self.digest.clone(), self.clock.clone()),
            model,
            wall_clock: Arc::new(WallClock::new(model.clock_offset_ns, model.clock_drift_ppm)),
            pace: Pace::of(model.load),
            name,
            node: None,
            incarnation: Incarnation(0),
            has_power: false,
            is_running: false,
            listens,
            inbox: Inbox::new(&self.clock),
            open: BTreeSet::new(),
            unanswered: BTreeSet::new(),
        });
        let outgoing = (0..id.0).map(|to| self.new_link(id, MachineId(to))).collect();
        self.links.push(outgoing);
        for from in 0..=id.0 {
            let link = self.new_link(MachineId(from), id);
            self.links[from as usize].push(link);
        }
        id
    }

    fn new_link(&self, from: MachineId, to: MachineId) -> Link {
        let (from, to) = (&*self.machine(from).name, &*self.machine(to).name);
        let own =
            if self.config.links.is_empty() { None } else { self.config.links.get(&(from.to_owned(), to.to_owned())) };
        Link::new(self.seed, [from, to], *own.unwrap_or(&self.config.link))
    }

    /// Powers the machine on and makes its next process the running one.
    pub(super) fn start(&mut self, id: MachineId) -> Incarnation {
        let now = self.clock.now();
        let machine = &mut self.machines[id.index()];
        assert!(!machine.is_running, "machine '{}' runs its process already", machine.name);
        machine.incarnation = Incarnation(machine.incarnation.0 + 1);
        machine.has_power = true;
        machine.is_running = true;
        machine.inbox = Inbox::new(&self.clock);
        if let Some(pace) = &mut machine.pace {
            pace.start_over();
        }
        machine.disk.admit(machine.incarnation);
        let incarnation = machine.incarnation;
        self.digest.record(Kind::ProcessStarted, id, [incarnation.0, now.as_nanos()]);
        for conn in std::mem::take(&mut machine.unanswered) {
            self.transmit_late(conn, Packet::Knock, RETRANSMISSION_TIMEOUT, now);
        }
        incarnation
    }

    /// The running process is no more. No-op if none runs.
    pub(super) fn stop(&mut self, id: MachineId, why: Stop) {
        let now = self.clock.now();
        let machine = &mut self.machines[id.index()];
        if !machine.is_running {
            return;
        }
        machine.is_running = false;
        machine.disk.fence();
        self.digest.record(Kind::ProcessStopped, id, [machine.incarnation.0, now.as_nanos(), why as u64]);
        let in_flight = machine.inbox.extract(|due| due.at > now);
        machine.inbox = Inbox::new(&self.clock);
        let open = std::mem::take(&mut machine.open);
        match why {
            Stop::Process => open.into_iter().for_each(|conn| self.close_end(conn, now)),
            Stop::PowerLoss => {
                machine.unanswered.extend(in_flight.iter().filter_map(|due| travels_on(&due.what)));
                open.into_iter().for_each(|conn| self.vanish(conn));
            }
        }
    }

    /// Cuts the machine's power: its process stops, its kernel forgets all connections.
    pub(super) fn lose_power(&mut self, id: MachineId) {
        self.stop(id, Stop::PowerLoss);
        self.machines[id.index()].has_power = false;
        self.digest.record(Kind::PowerLost, id, [self.clock.now().as_nanos()]);
        for link in &mut self.links[id.index()] {
            link.held.clear();
        }
        // A farewell may have been among the held, so every closed end answers anew when knocked at.
        for end in self.ends.iter_mut().filter(|end| end.machine == id) {
            if let EndState::Gone { has_told } = &mut end.state {
                *has_told = false;
            }
        }
    }

    /// The machine's disk goes on after a stall.
    pub(super) fn announce_io_ready(&mut self, id: MachineId) {
        let now = self.clock.now();
        let machine = &mut self.machines[id.index()];
        if machine.is_running {
            machine.inbox.push(now, Event::IoReady, now);
        }
    }

    pub(super) fn terminate(&mut self, id: MachineId) {
        let now = self.clock.now();
        let machine = &mut self.machines[id.index()];
        if machine.is_running {
            machine.inbox.push(now, Event::Terminate, now);
        }
    }
}

// What a process does. A process that is no more has no open end, so its calls find nothing to act on.
impl Network {
    fn is_alive(&self, id: MachineId, incarnation: Incarnation) -> bool {
        let machine = self.machine(id);
        machine.is_running && machine.incarnation == incarnation
    }

    pub(super) fn connect(&mut self, id: MachineId, incarnation: Incarnation, to: &HostPort) -> ConnId {
        let now = self.clock.now();
        let conn = ConnId(self.ends.len() as u64);
        let target = self.by_name.get(to.host.as_str()).copied();
        let is_alive = self.is_alive(id, incarnation);
        let (opener, acceptor) = match (is_alive, target) {
            (false, _) => (EndState::Gone { has_told: true }, EndState::Gone { has_told: true }),
            (true, None) => (EndState::Opening, EndState::Gone { has_told: true }),
            (true, Some(_)) => (EndState::Opening, EndState::Absent),
        };
        self.ends.push(End { machine: id, state: opener, last_arrival: now });
        self.ends.push(End { machine: target.unwrap_or(id), state: acceptor, last_arrival: now });
        if is_alive {
            self.machine_mut(id).open.insert(conn);
            match target {
                Some(_) => self.transmit(peer(conn), Packet::Knock, now),
                // The name does not resolve.
                None => self.machine_mut(id).inbox.push(now, Event::Closed(conn), now),
            }
        }
        conn
    }

    pub(super) fn send(&mut self, id: MachineId, conn: ConnId, frame: Chain) {
        let end = self.end(conn);
        assert_eq!(end.machine, id, "{conn:?} belongs to another machine");
        match end.state {
            EndState::Open => {
                let (to, now) = (peer(conn), self.clock.now());
                match self.effect_on(conn, frame.front(), now) {
                    None => self.transmit(to, Packet::Event(Event::Frame(to, frame)), now),
                    Some(MessageEffect::Delay(by)) => {
                        self.transmit_late(to, Packet::Event(Event::Frame(to, frame)), by, now);
                    }
                    Some(MessageEffect::Drop) => self.reset(conn, now),
                }
            }
            EndState::Opening => self.early.entry(conn).or_default().push(frame),
            EndState::Absent | EndState::Gone { .. } => {}
        }
    }

    pub(super) fn close(&mut self, id: MachineId, conn: ConnId) {
        let end = self.end(conn);
        assert_eq!(end.machine, id, "{conn:?} belongs to another machine");
        match end.state {
            EndState::Open | EndState::Opening => {
                self.machine_mut(id).open.remove(&conn);
                self.close_end(conn, self.clock.now());
            }
            EndState::Absent | EndState::Gone { .. } => {}
        }
    }

    /// The process's next event, `None` at its deadline.
    pub(super) fn poll_next(
        &mut self,
        id: MachineId,
        incarnation: Incarnation,
        deadline: Option<Time>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Event>> {
        if !self.is_alive(id, incarnation) {
            return Poll::Pending;
        }
        let now = self.clock.now();
        self.machine_mut(id).inbox.wake(now);
        if self.machine(id).pace.is_some() {
            return self.poll_next_at_its_pace(id, deadline, now, context);
        }
        while let Some(event) = self.machine_mut(id).inbox.pop_due(now) {
            if self.deliver(id, &event, now) {
                return Poll::Ready(Some(event));
            }
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Poll::Ready(None);
        }
        self.machine_mut(id).inbox.wait(deadline, context);
        Poll::Pending
    }

    /// As [`Network::poll_next`], for a process that is slowed down.
    fn poll_next_at_its_pace(
        &mut self,
        id: MachineId,
        deadline: Option<Time>,
        now: Time,
        context: &mut Context<'_>,
    ) -> Poll<Option<Event>> {
        loop {
            let Machine { inbox, pace: Some(pace), .. } = self.machine_mut(id) else {
                unreachable!("only a process with a pace comes here")
            };
            match pace.pull(inbox.peek(), deadline, now) {
                Pull::Wait(until) => {
                    inbox.wait_until(until, context);
                    return Poll::Pending;
                }
                Pull::Deadline => return Poll::Ready(None),
                Pull::Event => {
                    let event = inbox.pop_due(now).expect("it has arrived");
                    if self.deliver(id, &event, now) {
                        return Poll::Ready(Some(event));
                    }
                }
            }
        }
    }

    /// Takes note of an event that reaches its process; false if the process is not to see it any more.
    fn deliver(&mut self, id: MachineId, event: &Event, now: Time) -> bool {
        let at = now.as_nanos();
        let from = |network: &Network, conn| u64::from(network.end(peer(conn)).machine.0);
        match event {
            Event::Frame(conn, frame) => {
                if self.end(*conn).state != EndState::Open {
                    return false;
                }
                self.frames += 1;
                self.digest.record(Kind::Frame, id, [from(self, *conn), at, conn.0, fingerprint_of(frame)]);
            }
            Event::Accepted(conn) => {
                self.digest.record(Kind::Accepted, id, [from(self, *conn), at, conn.0]);
            }
            Event::Connected(conn) => {
                if self.end(*conn).state != EndState::Opening {
                    return false;
                }
                self.end_mut(*conn).state = EndState::Open;
                self.digest.record(Kind::Connected, id, [from(self, *conn), at, conn.0]);
                for frame in self.early.remove(conn).unwrap_or_default() {
                    self.send(id, *conn, frame);
                }
            }
            Event::Closed(conn) => {
                if matches!(self.end(*conn).state, EndState::Gone { .. }) {
                    return false;
                }
                self.end_mut(*conn).state = EndState::Gone { has_told: true };
                self.forget(*conn);
                self.machine_mut(id).open.remove(conn);
                self.digest.record(Kind::Closed, id, [from(self, *conn), at, conn.0]);
            }
            Event::IoReady => self.digest.record(Kind::IoReady, id, [at]),
            Event::Terminate => self.digest.record(Kind::Terminate, id, [at]),
        }
        true
    }
}

// What kernels and links do.
impl Network {
    fn end(&self, conn: ConnId) -> &End {
        &self.ends[conn.0 as usize]
    }

    fn end_mut(&mut self, conn: ConnId) -> &mut End {
        &mut self.ends[conn.0 as usize]
    }

    /// What a rule does to a frame that is sent on an open connection.
    fn effect_on(&mut self, conn: ConnId, frame: &[u8], now: Time) -> Option<MessageEffect> {
        let tap = self.tap.as_mut()?;
        let is_request = conn.0.is_multiple_of(2);
        let machines = &self.machines;
        let name = |conn: ConnId| &machines[self.ends[conn.0 as usize].machine.index()].name;
        tap.effect_on(conn, is_request, frame, [name(conn), name(peer(conn))], now)
    }

    pub(super) fn peer_host(&self, conn: ConnId) -> String {
        self.machines[self.end(peer(conn)).machine.index()].name.to_string()
    }

    /// Ends a connection in place of what its end `conn` sends.
    fn reset(&mut self, conn: ConnId, now: Time) {
        let to = peer(conn);
        self.transmit(to, Packet::Event(Event::Closed(to)), now);
        let there = self.end(to).last_arrival;
        self.transmit_late(conn, Packet::Event(Event::Closed(conn)), there - now, now);
    }

    /// What is known of a connection besides the state of its ends.
    fn forget(&mut self, conn: ConnId) {
        self.early.remove(&conn);
        if let Some(tap) = &mut self.tap {
            tap.forget(conn);
        }
    }

    /// Puts a packet for the end `to` on the wire.
    fn transmit(&mut self, to: ConnId, packet: Packet, now: Time) {
        self.transmit_late(to, packet, Duration::ZERO, now);
    }

    /// As [`Network::transmit`], but the packet arrives `lateness` later than it would.
    fn transmit_late(&mut self, to: ConnId, packet: Packet, lateness: Duration, now: Time) {
        let from = self.end(peer(to)).machine;
        let end = &mut self.ends[to.0 as usize];
        let link = &mut self.links[from.index()][end.machine.index()];
        let at = link.arrival(now, &packet, lateness).max(end.last_arrival);
        end.last_arrival = at;
        if link.is_blocked {
            link.held.push(Held { at, to, packet });
        } else {
            self.enqueue(to, packet, at, now);
        }
    }

    /// Hands a packet to its receiver: to the process if the end is open, to the kernel otherwise.
    fn enqueue(&mut self, to: ConnId, packet: Packet, at: Time, now: Time) {
        let End { machine, state, .. } = *self.end(to);
        match (packet, state) {
            (Packet::Event(event), EndState::Open | EndState::Opening) => {
                self.machine_mut(machine).inbox.push(at, event, now);
            }
            (Packet::Knock, _) | (Packet::Event(Event::Frame(..)), EndState::Gone { has_told: false }) => {
                self.knocks.push(at, to, now);
            }
            (Packet::Event(_), EndState::Absent | EndState::Gone { .. }) => {}
        }
    }

    /// Closes an end and lets its peer know, after the frames already sent.
    fn close_end(&mut self, conn: ConnId, now: Time) {
        self.end_mut(conn).state = EndState::Gone { has_told: true };
        self.forget(conn);
        let to = peer(conn);
        match self.end(to).state {
            EndState::Open | EndState::Opening => self.transmit(to, Packet::Event(Event::Closed(to)), now),
            // The opener's SYN, still on its way, will find that nobody waits for the answer.
            EndState::Absent | EndState::Gone { .. } => {}
        }
    }

    /// The machine forgets an end; nobody tells the peer.
    fn vanish(&mut self, conn: ConnId) {
        self.end_mut(conn).state = EndState::Gone { has_told: false };
        self.forget(conn);
    }

    /// The kernel of `to`'s machine gets a packet for an end that is not open.
    fn answer(&mut self, to: ConnId, now: Time) {
        let knocker = peer(to);
        if matches!(self.end(knocker).state, EndState::Gone { .. }) {
            return;
        }
        let End { machine: id, state, .. } = *self.end(to);
        let machine = &mut self.machines[id.index()];
        if !machine.has_power {
            machine.unanswered.insert(to);
            return;
        }
        let accepts = machine.is_running && machine.listens;
        match state {
            EndState::Absent if accepts => {
                machine.open.insert(to);
                machine.inbox.push(now, Event::Accepted(to), now);
                self.end_mut(to).state = EndState::Open;
                self.transmit(knocker, Packet::Event(Event::Connected(knocker)), now);
            }
            EndState::Absent | EndState::Gone { has_told: false } => {
                self.end_mut(to).state = EndState::Gone { has_told: true };
                self.transmit(knocker, Packet::Event(Event::Closed(knocker)), now);
            }
            EndState::Open | EndState::Opening | EndState::Gone { has_told: true } => {}
        }
    }

    /// Answers the knocks that have arrived, for ever.
    pub(super) fn poll_kernels(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let now = self.clock.now();
        self.knocks.wake(now);
        while let Some(to) = self.knocks.pop_due(now) {
            self.answer(to, now);
        }
        self.knocks.wait(None, context);
        Poll::Pending
    }
}

// What the nemesis does to links.
impl Network {
    /// What is in flight on the link is held like what is sent from now on.
    pub(super) fn block(&mut self, from: MachineId, to: MachineId) {
        let now = self.clock.now();
        if std::mem::replace(&mut self.links[from.index()][to.index()].is_blocked, true) {
            return;
        }
        let ends = &self.ends;
        let is_on_link =
            |conn: ConnId| ends[conn.0 as usize].machine == to && ends[peer(conn).0 as usize].machine == from;
        let events = self.machines[to.index()]
            .inbox
            .extract(|due| due.at > now && travels_on(&due.what).is_some_and(is_on_link));
        let knocks = self.knocks.extract(|due| due.at > now && is_on_link(due.what));
        let held = &mut self.links[from.index()][to.index()].held;
        held.extend(events.into_iter().filter_map(|due| {
            let to = travels_on(&due.what)?;
            Some(Held { at: due.at, to, packet: Packet::Event(due.what) })
        }));
        held.extend(knocks.into_iter().map(|due| Held { at: due.at, to: due.what, packet: Packet::Knock }));
    }

    /// What would have arrived meanwhile is retransmitted; the rest arrives as if nothing had happened, but in order.
    pub(super) fn unblock(&mut self, from: MachineId, to: MachineId) {
        let now = self.clock.now();
        let link = &mut self.links[from.index()][to.index()];
        link.is_blocked = false;
        let mut floors: BTreeMap<ConnId, Time> = BTreeMap::new();
        for Held { at, to: conn, packet } in std::mem::take(&mut link.held) {
            let link = &mut self.links[from.index()][to.index()];
            let again = if at > now { at } else { link.arrival(now, &packet, RETRANSMISSION_TIMEOUT) };
            let floor = floors.entry(conn).or_insert(Time::ZERO);
            let at = again.max(*floor);
            *floor = at;
            let end = self.end_mut(conn);
            end.last_arrival = end.last_arrival.max(at);
            self.enqueue(conn, packet, at, now);
        }
    }

    pub(super) fn set_conditions(&mut self, from: MachineId, to: MachineId, conditions: LinkConditions) {
        let names = [&*self.machines[from.index()].name, &*self.machines[to.index()].name];
        self.links[from.index()][to.index()].set_conditions(self.seed, names, conditions);
    }

    pub(super) fn heal(&mut self) {
        for from in self.machine_ids() {
            for to in self.machine_ids() {
                self.set_conditions(from, to, LinkConditions::default());
                self.unblock(from, to);
            }
        }
        if let Some(tap) = &mut self.tap {
            tap.remove_all();
        }
    }
}

// What the nemesis does to processes and wall clocks.
impl Network {
    pub(super) fn set_load(&mut self, id: MachineId, load: Load) {
        let machine = &mut self.machines[id.index()];
        let load = machine.model.load.and(load);
        match &mut machine.pace {
            Some(pace) if load != Load::default() => pace.load = load,
            Some(_) | None => machine.pace = Pace::of(load),
        }
        machine.inbox.nudge();
    }

    /// Whatever was done to the machine's wall clock is undone.
    pub(super) fn reset_clock(&mut self, id: MachineId) {
        let Machine { wall_clock, model, .. } = self.machine(id);
        wall_clock.reset(model.clock_offset_ns, model.clock_drift_ppm);
    }
}
