//! A member of a consumer group as a process: the application around the product's consumer. It polls, works on what it
//! got for as long as the scenario says, commits before or after, and may stop, fail or crash on the way and come back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use serde_json::Value as Json;

use super::groups::Promise;
use super::outcome::TraceKind;
use super::recorder::{GroupPoll, ProcessId, Recorder};
use super::workload::{into_value, sample_of, sample_value};
use crate::client::{CommitId, CommitResult, Consumer, GroupError, PositionReset, RebalanceEvent};
use crate::config::{ConsumerConfig, GroupProtocol, OffsetReset};
use crate::protocol::{ErrorCode, Offset, TopicPartition};
use crate::scenario::{CommitStyle, Ending, EndingKind, Membership, Pause, PoisonReaction, Seek, SeekTo};
use crate::world::{Endpoint, Event, HostPort, Process, Time, World};

/// How long it takes until an application runs again that an exception of its consumer has ended.
const RESTART: Duration = Duration::from_secs(1);

/// What a member does.
#[derive(Clone, Debug)]
pub struct MemberSpec {
    pub name: String,
    pub topic: String,
    pub membership: Membership,
    /// With `group.id` set.
    pub config: ConsumerConfig,
    /// When the workloads began.
    pub started_at: Time,
}

impl MemberSpec {
    fn promise(&self) -> Promise {
        let Membership { commit, processing, ending, seek, poison, .. } = &self.membership;
        let batch = processing.saturating_mul(u32::try_from(self.config.max_poll_records).unwrap_or(u32::MAX));
        let commits_too_much = match commit {
            CommitStyle::Before => true,
            // On close, whatever was processed.
            CommitStyle::Automatic | CommitStyle::After => {
                self.config.enable_auto_commit && ending.is_some_and(|ending| ending.kind == EndingKind::Fail)
            }
        };
        let passes_over = poison.is_some() || seek.is_some_and(|seek| seek.to == SeekTo::End);
        let reads_all = self.config.auto_offset_reset == OffsetReset::Earliest && !passes_over;
        Promise {
            keeps_up: batch < self.config.max_poll_interval
                && poison.is_none_or(|poison| poison.reaction != PoisonReaction::Crash),
            is_at_least_once: reads_all && !commits_too_much,
        }
    }

    /// Whether it is static, and rebalances cooperatively.
    fn keeps_place(&self) -> bool {
        self.config.group_protocol == GroupProtocol::Classic
            && self.config.group_instance_id.is_some()
            && self.config.partition_assignment_strategy.is_cooperative()
    }
}

/// What the application does just now.
enum Doing {
    /// Inside of a poll.
    Polling,
    /// Waiting for a synchronous commit, with records still to be processed or not.
    Committing(CommitId),
    /// With the first record of the batch, until then.
    Processing(Time),
    /// Inside of close.
    Closing,
    /// Not there.
    Away,
}

/// Something that the application does between two polls.
#[derive(Clone, Copy)]
enum Deed {
    Pause,
    Resume,
    Seek(SeekTo),
}

/// A record with what the application needs of it.
struct Work {
    partition: TopicPartition,
    offset: Offset,
    value: Json,
    /// The `value` of a JSON record.
    sample: Option<u64>,
}

pub struct MemberProcess {
    spec: MemberSpec,
    world: World,
    recorder: Recorder,
    bootstrap: Vec<HostPort>,
    consumer: Consumer,
    process: ProcessId,
    doing: Doing,
    batch: VecDeque<Work>,
    /// The batch is to be committed when it is processed.
    is_commit_due: bool,
    endings: VecDeque<Ending>,
    /// In the order of their times.
    deeds: VecDeque<(Time, Deed)>,
    /// What it has processed since it last printed.
    window: Vec<(TopicPartition, Offset, bool)>,
    back_at: Option<Time>,
    rebalanced: Vec<Vec<TopicPartition>>,
    committed: BTreeMap<TopicPartition, Offset>,
    /// Assigned, and nothing of it was handed out since.
    fresh: BTreeSet<TopicPartition>,
    /// The generation that it has joined, and the one whose assignment it has; -1: none.
    generations: (i32, i32),
    /// How often it has joined one.
    joins: u64,
    /// How often it has left its group, or was told that it is out of it.
    memberships: u32,
}

impl MemberProcess {
    pub fn new(world: World, spec: MemberSpec, bootstrap: Vec<HostPort>, recorder: Recorder) -> MemberProcess {
        let consumer = Consumer::new(&world, spec.config.clone(), bootstrap.clone());
        let process = recorder.new_process(world.now(), &spec.name);
        let endings = spec.membership.ending.into_iter().collect();
        let deeds = deeds(&spec);
        MemberProcess {
            spec,
            world,
            recorder,
            bootstrap,
            consumer,
            process,
            doing: Doing::Polling,
            batch: VecDeque::new(),
            is_commit_due: false,
            endings,
            deeds,
            window: Vec::new(),
            back_at: None,
            rebalanced: Vec::new(),
            committed: BTreeMap::new(),
            fresh: BTreeSet::new(),
            generations: (-1, -1),
            joins: 0,
            memberships: 0,
        }
    }

    fn who(&self) -> (&str, &str) {
        (&self.spec.membership.group, &self.spec.name)
    }

    fn subscribe(&mut self) {
        let now = self.world.now();
        self.consumer.subscribe(vec![TopicName(StrBytes::from_string(self.spec.topic.clone()))]);
        let mut state = self.recorder.lock();
        let partitions: Vec<TopicPartition> = state.ghost.partitions_of(&self.spec.topic).cloned().collect();
        state.groups.announce(self.who(), &partitions, self.spec.promise(), self.spec.keeps_place());
        state.subscribed(now, self.process, &partitions, &self.spec.membership.group);
    }

    fn step(&mut self, net: &mut Endpoint) {
        let now = self.world.now();
        self.come_back(now);
        loop {
            self.take_news(now);
            self.end_if_due(now, net);
            let goes_on = match self.doing {
                Doing::Away => false,
                Doing::Closing => self.finish_closing(now),
                Doing::Committing(id) => self.finish_commit(now, id),
                Doing::Processing(until) => until <= now && self.process_next(now, net),
                Doing::Polling => self.poll(now, net),
            };
            if !goes_on {
                break;
            }
        }
    }

    /// True if there is more to do at once.
    fn poll(&mut self, now: Time, net: &mut Endpoint) -> bool {
        self.do_deeds(now);
        let records = self.consumer.poll(now, net);
        self.take_news(now);
        if records.is_empty() {
            return self.consumer.has_fetched();
        }
        let samples: Vec<Option<u64>> = match self.spec.membership.window {
            Some(_) => records.iter().map(sample_of).collect(),
            None => Vec::new(),
        };
        let records: Vec<(TopicPartition, Offset, Json)> = records.into_iter().map(into_value).collect();
        let poll = GroupPoll {
            records: &records,
            rebalanced: std::mem::take(&mut self.rebalanced),
            committed: std::mem::take(&mut self.committed),
        };
        self.recorder.lock().polled_as_member(now, self.process, poll);
        self.note_handed_out(now, &records);
        let samples = samples.into_iter().chain(std::iter::repeat(None));
        self.batch = records
            .into_iter()
            .zip(samples)
            .map(|((partition, offset, value), sample)| Work { partition, offset, value, sample })
            .collect();
        self.is_commit_due = self.spec.membership.commit == CommitStyle::After;
        self.doing = Doing::Processing(now + self.spec.membership.processing);
        if self.spec.membership.commit == CommitStyle::Before
            && let Some(id) = self.consumer.commit(now, None, true, net)
        {
            self.doing = Doing::Committing(id);
        }
        true
    }

    fn note_handed_out(&mut self, now: Time, records: &[(TopicPartition, Offset, Json)]) {
        let mut state = self.recorder.lock();
        let state = &mut *state;
        for of_partition in records.chunk_by(|a, b| a.0 == b.0) {
            let ((partition, first, _), (_, last, _)) = (&of_partition[0], &of_partition[of_partition.len() - 1]);
            state.groups.handed(&self.spec.membership.group, partition, *last + 1);
            if self.fresh.remove(partition) {
                let generation = self.consumer.generation();
                let who = (self.spec.membership.group.as_str(), self.spec.name.as_str());
                state.groups.began(now, who, generation, partition, *first, &mut state.ghost);
            }
        }
        state.trace_violations();
        if state.groups.has_ended() {
            self.recorder.notify();
        }
    }

    fn process_next(&mut self, now: Time, net: &mut Endpoint) -> bool {
        let Some(work) = self.batch.pop_front() else {
            self.doing = Doing::Polling;
            if std::mem::take(&mut self.is_commit_due)
                && let Some(id) = self.consumer.commit(now, None, true, net)
            {
                self.doing = Doing::Committing(id);
            }
            return true;
        };
        match self.spec.membership.poison.filter(|poison| work.value == poison.value).map(|poison| poison.reaction) {
            None => self.process(work),
            Some(PoisonReaction::Skip) => {}
            Some(PoisonReaction::Crash) => {
                self.back_at = Some(now + RESTART);
                self.go_away(now);
                return false;
            }
        }
        // The last one's time is over too: go on with the batch's end at once.
        let next = if self.batch.is_empty() { Duration::ZERO } else { self.spec.membership.processing };
        self.doing = Doing::Processing(now + next);
        true
    }

    fn process(&mut self, work: Work) {
        let Work { partition, offset, value, sample } = work;
        let group = &self.spec.membership.group;
        self.recorder.lock().groups.processed(group, &partition, offset);
        let (Some(size), Some(sample)) = (self.spec.membership.window, sample) else { return };
        let is_right = value.as_u64().map(sample_value) == Some(sample);
        self.window.push((partition, offset, is_right));
        if self.window.len() >= size {
            self.recorder.lock().groups.printed(group, &self.window);
            self.window.clear();
        }
    }

    /// What the scenario says to do by now.
    fn do_deeds(&mut self, now: Time) {
        while self.deeds.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, deed)) = self.deeds.pop_front() else { return };
            let assigned = self.consumer.assignment();
            match deed {
                Deed::Pause => self.consumer.pause(&assigned),
                Deed::Resume => self.consumer.resume(&assigned),
                Deed::Seek(SeekTo::End) => self.consumer.seek_to_end(&assigned),
                Deed::Seek(SeekTo::Beginning) => {
                    self.consumer.seek_to_beginning(&assigned);
                    let mut state = self.recorder.lock();
                    for partition in &assigned {
                        state.groups.sought_back(&self.spec.membership.group, partition, Offset::ZERO);
                    }
                }
            }
        }
    }

    /// The commit that is waited for has ended, one way or another: commits that fail are not tried by hand.
    fn finish_commit(&mut self, now: Time, id: CommitId) -> bool {
        if self.consumer.is_committing(id) {
            return false;
        }
        self.doing = match self.batch.is_empty() {
            true => Doing::Polling,
            false => Doing::Processing(now + self.spec.membership.processing),
        };
        true
    }

    fn finish_closing(&mut self, now: Time) -> bool {
        if self.consumer.is_closed() {
            self.go_away(now);
        }
        false
    }

    fn end_if_due(&mut self, now: Time, net: &mut Endpoint) {
        let Some(ending) = self.endings.front().copied() else { return };
        let is_due = self.spec.started_at + ending.at <= now;
        // An orderly stop lets the batch be finished.
        let is_in_batch = matches!(self.doing, Doing::Processing(_) | Doing::Committing(_));
        if !is_due || matches!(self.doing, Doing::Away | Doing::Closing) {
            return;
        }
        if ending.kind == EndingKind::Stop && is_in_batch {
            return;
        }
        self.endings.pop_front();
        self.back_at = ending.back_after.map(|after| now + after);
        self.batch.clear();
        self.is_commit_due = false;
        match ending.kind {
            EndingKind::Crash => self.go_away(now),
            EndingKind::Stop | EndingKind::Fail => {
                self.consumer.close(now, net);
                self.doing = Doing::Closing;
            }
        }
    }

    fn go_away(&mut self, now: Time) {
        self.recorder.lock().groups.gone(now, self.who());
        self.recorder.notify();
        self.doing = Doing::Away;
    }

    fn come_back(&mut self, now: Time) {
        if !matches!(self.doing, Doing::Away) || self.back_at.is_none_or(|at| at > now) {
            return;
        }
        self.back_at = None;
        self.consumer = Consumer::new(&self.world, self.spec.config.clone(), self.bootstrap.clone());
        self.process = self.recorder.new_process(now, &self.spec.name);
        self.rebalanced.clear();
        self.committed.clear();
        self.fresh.clear();
        self.window.clear();
        self.generations = (-1, -1);
        self.joins = 0;
        self.batch.clear();
        self.is_commit_due = false;
        self.doing = Doing::Polling;
        self.subscribe();
    }

    /// Names what it is in its group for as long as it is in it without a break. In the classic protocol that is its member
    /// id: whoever is out is given another one. In the consumer protocol the id is the consumer's, and whoever is fenced or
    /// has left joins again with it.
    fn membership(&self) -> String {
        let id = self.consumer.member_id();
        match self.spec.config.group_protocol {
            GroupProtocol::Classic => id.to_owned(),
            GroupProtocol::Consumer => format!("{id} ({})", self.memberships),
        }
    }

    /// What the consumer has to tell: rebalances, commits, mishaps.
    fn take_news(&mut self, now: Time) {
        let generations = (self.consumer.joined_generation(), self.consumer.generation());
        let joins = std::mem::replace(&mut self.joins, self.consumer.joins());
        if generations != self.generations || joins != self.joins {
            let (joined, stored) = generations;
            let before = std::mem::replace(&mut self.generations, generations);
            self.memberships += u32::from(before.0 >= 0 && joined < 0);
            let mut state = self.recorder.lock();
            let state = &mut *state;
            if joined >= 0 && (joined != before.0 || joins != self.joins) {
                let coordinator = self.consumer.coordinator();
                let reign = coordinator.and_then(|broker| state.ghost.reign(self.who().0, broker));
                let membership = self.membership();
                let asked_at = self.consumer.joined_asked_at();
                state.groups.joined(self.who(), (joined, &membership), reign, asked_at);
                if joined != before.0 {
                    state.push(now, &self.spec.name, TraceKind::Joined { generation: joined });
                }
            }
            state.groups.stored(now, self.who(), stored, &mut state.ghost);
            state.trace_violations();
        }
        for rebalance in self.consumer.take_rebalances() {
            self.note_rebalance(now, rebalance);
        }
        for CommitResult { offsets, result, is_retried, .. } in self.consumer.take_commits() {
            if is_retried || result.is_err() {
                let mut state = self.recorder.lock();
                for (partition, offset) in &offsets {
                    state.groups.maybe_committed(&self.spec.membership.group, partition, *offset);
                }
            }
            if result.is_ok() {
                let mut state = self.recorder.lock();
                let state = &mut *state;
                let generation = self.consumer.generation();
                for (partition, offset) in &offsets {
                    // Automatic commits are of positions: nothing may have been handed out yet.
                    if self.fresh.remove(partition) {
                        state.groups.began(now, self.who(), generation, partition, *offset, &mut state.ghost);
                    }
                    state.groups.committed(now, &self.spec.membership.group, partition, *offset);
                }
                state.trace_violations();
                self.committed.extend(offsets);
            } else if let Err(error) = result {
                let what = TraceKind::ReadFailed { error: format!("commit: {error}") };
                self.recorder.lock().push(now, &self.spec.name, what);
            }
        }
        let mut mishaps: Vec<TraceKind> = Vec::new();
        for PositionReset { partition, from, to, reason } in self.consumer.take_resets() {
            let partition = self.recorder.lock().key(&partition);
            mishaps.push(TraceKind::PositionReset { partition, from: from.0, to: to.0, reason });
        }
        mishaps.extend(self.consumer.take_errors().map(|error| TraceKind::ReadFailed { error: error.to_string() }));
        let of_group = self.consumer.take_group_errors();
        mishaps.extend(of_group.iter().map(|error| TraceKind::ReadFailed { error: error.to_string() }));
        if of_group.contains(&GroupError(ErrorCode::GroupMaxSizeReached)) {
            self.recorder.lock().groups.turned_away(&self.spec.membership.group);
        }
        for what in mishaps {
            self.recorder.lock().push(now, &self.spec.name, what);
        }
        // Its consumer will do nothing more: the exception ends the application, and whoever watches it starts it again.
        if !of_group.is_empty() && !matches!(self.doing, Doing::Away) {
            self.back_at = Some(now + RESTART);
            self.go_away(now);
        }
    }

    fn note_rebalance(&mut self, now: Time, rebalance: RebalanceEvent) {
        let mut state = self.recorder.lock();
        let partitions = match rebalance {
            RebalanceEvent::Revoked(partitions) | RebalanceEvent::Lost(partitions) => {
                state.groups.released(now, self.who(), Some(&partitions));
                partitions
            }
            RebalanceEvent::Assigned { partitions, generation } => {
                let state = &mut *state;
                state.groups.owned(now, self.who(), generation, &partitions, &mut state.ghost);
                state.trace_violations();
                self.fresh.extend(partitions.iter().cloned());
                partitions
            }
        };
        drop(state);
        self.recorder.notify();
        if !partitions.is_empty() {
            self.rebalanced.push(partitions);
        }
    }
}

fn deeds(spec: &MemberSpec) -> VecDeque<(Time, Deed)> {
    let Membership { pause, seek, .. } = &spec.membership;
    let mut deeds = Vec::new();
    if let Some(Pause { at, lasts }) = pause {
        deeds.push((spec.started_at + *at, Deed::Pause));
        deeds.push((spec.started_at + *at + *lasts, Deed::Resume));
    }
    if let Some(Seek { at, to }) = seek {
        deeds.push((spec.started_at + *at, Deed::Seek(*to)));
    }
    deeds.sort_by_key(|(at, _)| *at);
    deeds.into()
}

impl Process for MemberProcess {
    fn start(&mut self, net: &mut Endpoint) {
        self.subscribe();
        self.step(net);
    }

    fn on_event(&mut self, event: Event, net: &mut Endpoint) {
        if !matches!(self.doing, Doing::Away) {
            self.consumer.on_event(&event, net);
        }
        self.step(net);
    }

    fn on_timer(&mut self, net: &mut Endpoint) {
        if !matches!(self.doing, Doing::Away) {
            self.consumer.on_timer(net);
        }
        self.step(net);
    }

    fn deadline(&self) -> Option<Time> {
        let ending = self.endings.front().map(|ending| self.spec.started_at + ending.at);
        let (consumer, work) = match self.doing {
            Doing::Away => return self.back_at,
            Doing::Processing(until) => (self.consumer.deadline(), Some(until)),
            Doing::Polling | Doing::Committing(_) | Doing::Closing => (self.consumer.deadline(), None),
        };
        let deed = self.deeds.front().map(|(at, _)| *at).filter(|_| matches!(self.doing, Doing::Polling));
        // An ending that is due and waits for the batch is looked at with every step.
        let ending = ending.filter(|at| *at > self.world.now());
        consumer.into_iter().chain(work).chain(ending).chain(deed).min()
    }
}
