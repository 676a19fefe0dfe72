//! The life of one stored batch, replayed from the trace: which replicas held it when, every election since, how each
//! copy was lost, and the event that sealed its fate.

use std::collections::BTreeMap;

use super::replay::Replay;
use crate::check::broker_of;
use crate::lab::outcome::{TraceEvent, TraceKind};
use crate::observe::{BatchInfo, LogStartReason, Observation, TruncationReason};
use crate::protocol::{BrokerId, LeaderEpoch, Offset, TopicPartition};

/// What the cluster looked like at one event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Index in the trace.
    pub at: usize,
    /// Who had the batch, by what each would come back with from a power loss.
    pub holders: Vec<BrokerId>,
    /// Those of them that had it on the disk.
    pub on_disk: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    pub high_watermark: Offset,
}

/// A change of leader after the append.
#[derive(Clone, Debug)]
pub struct Election {
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub unclean: bool,
    /// The leader held the batch.
    pub holds: bool,
    /// It does not, but once did.
    pub held_once: bool,
    /// Its log end when it was elected.
    pub log_end: Offset,
    /// Who held it; the ISR is the one it was elected from.
    pub before: Snapshot,
}

/// How one replica lost its copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Loss {
    /// It was in the page cache of a machine that lost power; the log was on the disk below `flushed`.
    Power { flushed: Offset, comes_back_with: Offset },
    /// It cut its log while broker `leader` led (as it believed) in `leader_epoch`.
    Truncated { from: Offset, to: Offset, reason: TruncationReason, leader: BrokerId, leader_epoch: LeaderEpoch },
    /// It is back with another log: its disk or log directory is not the one that had it.
    Replaced { log_end: Offset },
    /// Its log begins beyond it now: retention, DeleteRecords, or its leader's log.
    Deleted { to: Offset, reason: LogStartReason },
    /// Compaction found later records of all its keys.
    Compacted,
    /// Its log came back without it after a stop that keeps the page cache.
    Recovery { dropped_bytes: u64 },
}

#[derive(Clone, Debug)]
pub struct LostCopy {
    pub broker: BrokerId,
    pub loss: Loss,
    /// A power loss took it although it had been flushed.
    pub was_flushed: bool,
    /// What was left after it.
    pub after: Snapshot,
}

/// One thing that happened to the batch or decided on it.
#[derive(Clone, Debug)]
pub enum Turn {
    Replicated {
        broker: BrokerId,
    },
    Acknowledged {
        required_acks: i16,
        now: Snapshot,
    },
    /// The high watermark of a leader that held it passed it.
    Committed {
        now: Snapshot,
    },
    Served,
    IsrChanged {
        isr: Vec<BrokerId>,
        from: Vec<BrokerId>,
    },
    Elected(Election),
    Leaderless {
        isr: Vec<BrokerId>,
    },
    /// A broker that held it stopped, and did not lose it by that.
    Stopped {
        power_lost: bool,
    },
    CameBack {
        log_end: Offset,
        holds: bool,
    },
    Lost(LostCopy),
    FaultStarted {
        index: usize,
        targets: Vec<String>,
    },
    FaultEnded {
        index: usize,
        targets: Vec<String>,
    },
}

/// The event after which nothing the cluster did could bring it back.
#[derive(Clone, Debug)]
pub enum Fate {
    /// The last leader holds it.
    Kept,
    /// A leader appended it that the controller had replaced before; `now` is that election.
    AppendedByDeposedLeader { by: BrokerId, leader_epoch: LeaderEpoch, now: Snapshot },
    /// A leader was elected that did not hold it, while others did.
    Election(Election),
    /// The copy that was lost was the last one, or the leader's own.
    CopyLost(LostCopy),
}

impl Fate {
    /// Index of the decisive event in the trace.
    pub fn at(&self) -> Option<usize> {
        self.moment().map(|snapshot| snapshot.at)
    }

    /// The cluster just then. For an election: before it.
    pub fn moment(&self) -> Option<&Snapshot> {
        match self {
            Fate::Kept => None,
            Fate::AppendedByDeposedLeader { now, .. } => Some(now),
            Fate::Election(election) => Some(&election.before),
            Fate::CopyLost(copy) => Some(&copy.after),
        }
    }
}

/// A batch from its append by a leader to its end.
#[derive(Clone, Debug)]
pub struct Life {
    pub batch: BatchInfo,
    pub appended: Snapshot,
    pub leader: BrokerId,
    pub turns: Vec<(usize, Turn)>,
    /// Brokers whose power went after the append.
    pub power_lost: Vec<BrokerId>,
    pub fate: Fate,
}

impl Life {
    /// Replays `partition` and follows the batch that event `appended_at` appended.
    pub fn of(trace: &[TraceEvent], partition: &TopicPartition, batch: BatchInfo, appended_at: usize) -> Life {
        let mut replay = Replay::new(trace, partition);
        let mut deposed = None;
        for at in 0..=appended_at {
            replay.step(at);
            if deposed.is_none() && replay.leader_epoch > batch.leader_epoch && replay.leader != BrokerId::NONE {
                let now = snapshot(&replay, &batch, at);
                deposed = Some(Deposed { by: replay.leader, leader_epoch: replay.leader_epoch, now });
            }
        }
        let leader = broker_of(&trace[appended_at].machine).unwrap_or(BrokerId::NONE);
        let appended = snapshot(&replay, &batch, appended_at);
        let deposed = deposed.filter(|deposed| deposed.by != leader);
        let mut follower = Follower {
            trace,
            batch,
            leader,
            once: vec![leader],
            follows: BTreeMap::new(),
            replay,
            turns: Vec::new(),
            power_lost: Vec::new(),
            committed: false,
            served: false,
        };
        for at in appended_at + 1..trace.len() {
            follower.step(at);
        }
        let fate = follower.fate(deposed);
        Life { batch, appended, leader, turns: follower.turns, power_lost: follower.power_lost, fate }
    }

    /// The answer to the producer, with what was true at that moment.
    pub fn acknowledged(&self) -> Option<(i16, &Snapshot)> {
        self.turns.iter().find_map(|(_, turn)| {
            if let Turn::Acknowledged { required_acks, now } = turn { Some((*required_acks, now)) } else { None }
        })
    }

    /// What was true when a leader's high watermark passed it.
    pub fn committed(&self) -> Option<&Snapshot> {
        self.turns.iter().find_map(|(_, turn)| if let Turn::Committed { now } = turn { Some(now) } else { None })
    }

    pub fn losses(&self) -> impl Iterator<Item = &LostCopy> {
        self.turns.iter().filter_map(|(_, turn)| if let Turn::Lost(copy) = turn { Some(copy) } else { None })
    }
}

fn snapshot(replay: &Replay<'_>, batch: &BatchInfo, at: usize) -> Snapshot {
    let holders = replay.holders(batch);
    let on_disk = holders.iter().copied().filter(|id| replay.flushed(*id) > batch.last_offset).collect();
    Snapshot { at, holders, on_disk, isr: replay.isr.clone(), high_watermark: replay.high_watermark }
}

/// The election that had replaced a leader before it appended.
struct Deposed {
    by: BrokerId,
    leader_epoch: LeaderEpoch,
    now: Snapshot,
}

struct Follower<'a> {
    trace: &'a [TraceEvent],
    batch: BatchInfo,
    /// Who appended it.
    leader: BrokerId,
    replay: Replay<'a>,
    /// Brokers that ever held it.
    once: Vec<BrokerId>,
    /// Whom each replica last said that it follows.
    follows: BTreeMap<BrokerId, (BrokerId, LeaderEpoch)>,
    turns: Vec<(usize, Turn)>,
    power_lost: Vec<BrokerId>,
    committed: bool,
    served: bool,
}

impl Follower<'_> {
    fn step(&mut self, at: usize) {
        let event = &self.trace[at];
        let broker = broker_of(&event.machine);
        match &event.what {
            TraceKind::Observed(observation) => self.observe(at, broker, observation),
            TraceKind::Stopped { power_lost } => {
                let Some(broker) = broker else { return };
                let (had, flushed) = (self.replay.has(broker, &self.batch), self.replay.flushed(broker));
                if *power_lost {
                    self.power_lost.push(broker);
                }
                self.replay.step(at);
                let comes_back_with = self.replay.log_end(broker);
                match (had, self.replay.has(broker, &self.batch)) {
                    (true, false) => self.lost(at, broker, Loss::Power { flushed, comes_back_with }),
                    (true, true) => self.turns.push((at, Turn::Stopped { power_lost: *power_lost })),
                    (false, _) => {}
                }
            }
            TraceKind::FaultStarted { index, targets } => {
                self.turns.push((at, Turn::FaultStarted { index: *index, targets: targets.clone() }));
            }
            TraceKind::FaultEnded { index, targets } => {
                self.turns.push((at, Turn::FaultEnded { index: *index, targets: targets.clone() }));
            }
            TraceKind::Started
            | TraceKind::Sent { .. }
            | TraceKind::BatchSent { .. }
            | TraceKind::BatchRetried { .. }
            | TraceKind::Acked { .. }
            | TraceKind::Failed { .. }
            | TraceKind::Unknown { .. }
            | TraceKind::PositionReset { .. }
            | TraceKind::ReadFailed { .. }
            | TraceKind::Process { .. }
            | TraceKind::Joined { .. }
            | TraceKind::Violated { .. }
            | TraceKind::FaultHit { .. }
            | TraceKind::Phase(_) => self.replay.step(at),
        }
    }

    /// Applies an event that may take the broker's copy, and notes it if it does.
    fn step_and_lose(&mut self, at: usize, broker: Option<BrokerId>, loss: Loss) {
        let Some(broker) = broker else { return };
        let had = self.replay.has(broker, &self.batch);
        self.replay.step(at);
        if had && !self.replay.has(broker, &self.batch) {
            self.lost(at, broker, loss);
        }
    }

    fn observe(&mut self, at: usize, broker: Option<BrokerId>, observation: &Observation) {
        match observation {
            Observation::PartitionChanged { partition, leader, leader_epoch, isr, unclean, .. }
                if partition == self.replay.partition =>
            {
                self.partition_changed(at, *leader, *leader_epoch, isr, *unclean);
            }
            Observation::LogLoaded { partition, log_end, dropped_bytes, .. } if partition == self.replay.partition => {
                let Some(broker) = broker else { return };
                let had = self.replay.has(broker, &self.batch);
                self.replay.step(at);
                let holds = self.replay.has(broker, &self.batch);
                match (had, holds) {
                    (true, false) => self.lost(at, broker, Loss::Recovery { dropped_bytes: *dropped_bytes }),
                    (false | true, _) if self.once.contains(&broker) => {
                        self.turns.push((at, Turn::CameBack { log_end: *log_end, holds }));
                    }
                    (false | true, _) => {}
                }
            }
            Observation::Truncated { partition, from, to, reason } if partition == self.replay.partition => {
                let Some(broker) = broker else { return };
                let had = self.replay.has(broker, &self.batch);
                self.replay.step(at);
                if had && !self.replay.has(broker, &self.batch) {
                    let known = (self.replay.leader, self.replay.leader_epoch);
                    let (leader, leader_epoch) = self.follows.get(&broker).copied().unwrap_or(known);
                    let loss = Loss::Truncated { from: *from, to: *to, reason: *reason, leader, leader_epoch };
                    self.lost(at, broker, loss);
                }
            }
            Observation::LogStartMoved { partition, to, reason, .. } if partition == self.replay.partition => {
                self.step_and_lose(at, broker, Loss::Deleted { to: *to, reason: *reason });
            }
            Observation::Compacted { partition, .. } if partition == self.replay.partition => {
                self.step_and_lose(at, broker, Loss::Compacted);
            }
            Observation::Appended { partition, as_leader: false, batches, .. }
                if partition == self.replay.partition && batches.contains(&self.batch) =>
            {
                self.replay.step(at);
                let Some(broker) = broker else { return };
                if !self.once.contains(&broker) {
                    self.once.push(broker);
                }
                self.turns.push((at, Turn::Replicated { broker }));
            }
            Observation::HighWatermark { partition, offset, as_leader: true } if partition == self.replay.partition => {
                self.replay.step(at);
                let holds = broker.is_some_and(|id| self.replay.has(id, &self.batch));
                if holds && !self.committed && *offset > self.batch.last_offset {
                    self.committed = true;
                    let now = snapshot(&self.replay, &self.batch, at);
                    self.turns.push((at, Turn::Committed { now }));
                }
            }
            Observation::Acknowledged { partition, required_acks, base_offset, last_offset }
                if partition == self.replay.partition
                    && broker == Some(self.leader)
                    && (*base_offset, *last_offset) == (self.batch.base_offset, self.batch.last_offset)
                    && self.replay.has(self.leader, &self.batch) =>
            {
                let now = snapshot(&self.replay, &self.batch, at);
                self.turns.push((at, Turn::Acknowledged { required_acks: *required_acks, now }));
            }
            Observation::Served { partition, from, to } if partition == self.replay.partition && !self.served => {
                let holds = broker.is_some_and(|id| self.replay.has(id, &self.batch));
                if holds && *from <= self.batch.last_offset && self.batch.base_offset < *to {
                    self.served = true;
                    self.turns.push((at, Turn::Served));
                }
            }
            Observation::BecameFollower { partition, leader, leader_epoch, .. }
                if partition == self.replay.partition =>
            {
                self.follows.extend(broker.map(|id| (id, (*leader, *leader_epoch))));
                self.took_a_role(at, broker);
            }
            Observation::BecameLeader { partition, .. } if partition == self.replay.partition => {
                self.took_a_role(at, broker);
            }
            Observation::PartitionChanged { .. }
            | Observation::LogLoaded { .. }
            | Observation::Truncated { .. }
            | Observation::Appended { .. }
            | Observation::HighWatermark { .. }
            | Observation::Acknowledged { .. }
            | Observation::Served { .. }
            | Observation::BecameLeader { .. }
            | Observation::BecameFollower { .. }
            | Observation::Flushed { .. }
            | Observation::IsrView { .. }
            | Observation::Refused { .. }
            | Observation::OutOfSequence { .. }
            | Observation::BeyondSegment { .. }
            | Observation::BeforeLogEnd { .. }
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
            | Observation::LogStartMoved { .. }
            | Observation::Compacted { .. }
            | Observation::LogDirFailed { .. }
            | Observation::Registered { .. }
            | Observation::Fenced { .. }
            | Observation::CleanShutdown => self.replay.step(at),
        }
    }

    fn partition_changed(
        &mut self,
        at: usize,
        leader: BrokerId,
        leader_epoch: LeaderEpoch,
        isr: &[BrokerId],
        unclean: bool,
    ) {
        let before = snapshot(&self.replay, &self.batch, at);
        let is_election = leader_epoch != self.replay.leader_epoch;
        self.replay.step(at);
        if !is_election {
            if before.isr != isr {
                self.turns.push((at, Turn::IsrChanged { isr: isr.to_vec(), from: before.isr }));
            }
            return;
        }
        if leader == BrokerId::NONE {
            self.turns.push((at, Turn::Leaderless { isr: isr.to_vec() }));
            return;
        }
        let holds = self.replay.has(leader, &self.batch);
        let election = Election {
            leader,
            leader_epoch,
            unclean,
            holds,
            held_once: !holds && self.once.contains(&leader),
            log_end: self.replay.log_end(leader),
            before,
        };
        self.turns.push((at, Turn::Elected(election)));
    }

    /// A replica says with which log it begins to lead or follow.
    fn took_a_role(&mut self, at: usize, broker: Option<BrokerId>) {
        let had = broker.filter(|id| self.replay.has(*id, &self.batch));
        self.replay.step(at);
        if let Some(broker) = had.filter(|id| !self.replay.has(*id, &self.batch)) {
            let log_end = self.replay.log_end(broker);
            self.lost(at, broker, Loss::Replaced { log_end });
        }
    }

    fn lost(&mut self, at: usize, broker: BrokerId, loss: Loss) {
        let after = snapshot(&self.replay, &self.batch, at);
        let was_flushed = matches!(&loss, Loss::Power { flushed, .. } if *flushed > self.batch.last_offset);
        self.turns.push((at, Turn::Lost(LostCopy { broker, loss, was_flushed, after })));
    }

    fn fate(&self, deposed: Option<Deposed>) -> Fate {
        let elections: Vec<&Election> = self.turns.iter().filter_map(|(_, turn)| as_election(turn)).collect();
        let last_leader = elections.last().map_or(deposed.as_ref().map_or(self.leader, |d| d.by), |e| e.leader);
        if self.replay.has(last_leader, &self.batch) {
            return Fate::Kept;
        }
        // From here on no leader held it.
        let run = elections.iter().rposition(|election| election.holds).map_or(0, |held| held + 1);
        let of_the_leader = || self.losses().filter(|copy| copy.broker == last_leader).last().cloned();
        if run == 0
            && let Some(Deposed { by, leader_epoch, now }) = deposed
        {
            return Fate::AppendedByDeposedLeader { by, leader_epoch, now };
        }
        match elections.get(run) {
            Some(election) if !election.before.holders.is_empty() => Fate::Election((*election).clone()),
            Some(election) => {
                let earlier = self.losses().filter(|copy| copy.after.at < election.before.at);
                match earlier.last() {
                    Some(copy) => Fate::CopyLost(copy.clone()),
                    None => Fate::Election((*election).clone()),
                }
            }
            None => of_the_leader().map_or(Fate::Kept, Fate::CopyLost),
        }
    }

    fn losses(&self) -> impl Iterator<Item = &LostCopy> {
        self.turns.iter().filter_map(|(_, turn)| if let Turn::Lost(copy) = turn { Some(copy) } else { None })
    }
}

fn as_election(turn: &Turn) -> Option<&Election> {
    if let Turn::Elected(election) = turn { Some(election) } else { None }
}
