//! One run, from boot to verdict's input: boot, create topics, workload under faults, heal, full read.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future as _, poll_fn};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::task::Poll;
use std::time::Duration;

use super::cluster::{AdminRequest, Cluster, run as run_process};
use super::environment::sim_config;
use super::member::{MemberProcess, MemberSpec};
use super::nemesis::Nemesis;
use super::outcome::{End, Phase, RunOutcome};
use super::recorder::{Recorder, State};
use super::workload::{ConsumeProcess, ProduceProcess, ProduceSpec};
use crate::config::{ConsumerConfig, ProducerConfig};
use crate::defect::{self, Defects};
use crate::protocol::TopicPartition;
use crate::scenario::{Action, Scenario, Topic, Variant, Workload};
use crate::world::Time;
use crate::world::sim::{Alarm, Simulation};

/// The consumer that reads everything once it is healed.
const FINAL_READER: &str = "final-reader";
/// Simulated time that booting, creating topics, healing and the final read may take, each.
const PHASE_MAX: Duration = Duration::from_secs(300);
/// Simulated time that the workload phase may take beyond the last fault: a producer gives up after its
/// `delivery.timeout.ms`, so this is reached only when something hangs.
const WORKLOAD_MAX: Duration = Duration::from_secs(3600);

/// Runs variant number `variant` of a scenario with `seed` on a thread of its own. Never panics: a panic
/// inside is the run's end.
pub fn run_one(scenario: &Scenario, variant: usize, seed: u64) -> RunOutcome {
    let variant = scenario.variants[variant].clone();
    let duration = scenario.duration;
    #[allow(clippy::disallowed_types, reason = "wall time is reported, never used")]
    let clock = std::time::Instant::now();
    let recorder = Recorder::new(min_insync_replicas(&variant), records_of(&variant));
    {
        let mut state = recorder.lock();
        let minutes = variant.cluster.config.groups.offsets_retention_minutes;
        state.groups.offsets_retention = Duration::from_secs(60 * u64::from(minutes));
        let moves_clocks = variant.faults.iter().any(|fault| fault.action.is_of_clocks());
        state.ghost.moves_clocks = moves_clocks || !variant.cluster.clocks.is_empty();
    }
    let inside = recorder.clone();
    install_panic_hook();
    let thread = std::thread::Builder::new()
        .name(format!("run-{seed}"))
        .stack_size(8 << 20)
        .spawn(move || {
            let result = panic::catch_unwind(AssertUnwindSafe(|| simulate(&variant, duration, seed, inside)));
            (result.map_err(|_| panic_text()), thread_cpu_time(), defect::asked())
        })
        .expect("a thread can be spawned");
    let (result, cpu, asked) = thread.join().expect("panics are caught inside");
    let wall_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (end, facts) = match result {
        Ok((end, facts)) => (end, facts),
        Err(text) => (End::Panicked(text), Facts::default()),
    };
    let state = std::mem::take(&mut *recorder.lock());
    RunOutcome { cpu, asked, ..outcome(seed, end, facts, state, wall_ms) }
}

/// What this thread has used so far, where the system tells (Linux: the first number of `schedstat`, in nanoseconds).
pub fn thread_cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// How many records the producers send, unless the run is over before.
fn records_of(variant: &Variant) -> usize {
    let of_workload = |workload: &Workload| match workload {
        Workload::Produce { records, .. } => usize::try_from(*records).unwrap_or(usize::MAX),
        Workload::Consume { .. } => 0,
    };
    variant.workloads.iter().map(of_workload).fold(0, usize::saturating_add)
}

/// By topic, the smallest that any broker is ever configured with.
fn min_insync_replicas(variant: &Variant) -> BTreeMap<String, usize> {
    const KEY: &str = "min.insync.replicas";
    let restarted = variant
        .faults
        .iter()
        .filter_map(|fault| if let Action::Restart { config } = &fault.action { config.get(KEY) } else { None });
    let restarted: Vec<usize> = restarted.filter_map(|value| value.parse().ok()).collect();
    let of_cluster = usize::try_from(variant.cluster.config.min_insync_replicas).unwrap_or(1);
    let of_brokers = restarted.into_iter().fold(of_cluster, usize::min);
    let of_topic = |topic: &Topic| topic.config.get(KEY).and_then(|value| value.parse().ok()).unwrap_or(of_brokers);
    variant.topics.iter().map(|topic| (topic.name.clone(), of_topic(topic))).collect()
}

/// What only the supervisor knows.
#[derive(Default)]
struct Facts {
    digest: u64,
    started_at: Time,
    ended_at: Time,
    messages: u64,
}

fn outcome(seed: u64, end: End, facts: Facts, state: State, wall_ms: u64) -> RunOutcome {
    RunOutcome {
        seed,
        end,
        events: state.trace.len() as u64,
        groups: state.groups.figures(&state.history),
        history: state.history,
        trace: state.trace,
        faults: state.faults,
        violations: state.ghost.violations,
        digest: facts.digest,
        started_at: facts.started_at,
        ended_at: facts.ended_at,
        wall_ms,
        cpu: None,
        asked: Defects::NONE,
        messages: facts.messages,
    }
}

fn simulate(variant: &Variant, duration: Option<Duration>, seed: u64, recorder: Recorder) -> (End, Facts) {
    let config = sim_config(variant);
    Simulation::block_on(seed, config, |sim| supervise(sim, variant.clone(), duration, recorder))
}

/// One run's supervisor: goes through the phases and says what it waited for if one does not end.
struct Supervisor {
    sim: Simulation,
    cluster: Cluster,
    recorder: Recorder,
    variant: Variant,
    /// Wakes the supervisor at its deadlines: woken by every change, it would otherwise leave a timer behind each time.
    alarm: RefCell<Alarm>,
}

async fn supervise(sim: Simulation, variant: Variant, duration: Option<Duration>, recorder: Recorder) -> (End, Facts) {
    let cluster = Cluster::start(sim.clone(), recorder.clone(), &variant);
    let supervisor =
        Supervisor { sim: sim.clone(), cluster, recorder: recorder.clone(), variant, alarm: RefCell::new(sim.alarm()) };
    let mut facts = Facts::default();
    let end = match supervisor.phases(duration, &mut facts).await {
        Ok(()) => End::Complete,
        Err(waiting_for) => End::Unfinished(waiting_for),
    };
    facts.ended_at = sim.now();
    facts.messages = sim.frames();
    facts.digest = sim.digest();
    (end, facts)
}

impl Supervisor {
    async fn phases(&self, duration: Option<Duration>, facts: &mut Facts) -> Result<(), String> {
        self.boot().await?;
        let started_at = self.sim.now();
        facts.started_at = started_at;
        self.recorder.phase(started_at, Phase::Workload);
        let clients = self.start_workloads();
        let mut nemesis = Nemesis::new(self.cluster.clone(), &self.variant, clients, started_at);
        let until = duration.map(|d| started_at + d);
        self.workload(&mut nemesis, until).await?;
        self.recorder.phase(self.sim.now(), Phase::Healed);
        self.heal(&mut nemesis).await?;
        self.recorder.phase(self.sim.now(), Phase::FinalRead);
        self.final_read().await;
        self.recorder.phase(self.sim.now(), Phase::Done);
        Ok(())
    }

    /// Waits until `done` holds; looks again whenever the recorder says that something changed.
    async fn wait(&self, what: &str, deadline: Time, done: impl Fn(&State) -> bool) -> Result<(), String> {
        loop {
            if done(&self.recorder.lock()) {
                return Ok(());
            }
            if self.sim.now() >= deadline {
                return Err(what.to_owned());
            }
            self.changed_or(deadline).await;
        }
    }

    async fn changed_or(&self, deadline: Time) {
        let mut changed = std::pin::pin!(self.recorder.changed());
        poll_fn(|context| {
            let now = self.sim.now();
            if now >= deadline || changed.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            let mut alarm = self.alarm.borrow_mut();
            alarm.expire(now);
            alarm.arm(deadline, context.waker());
            Poll::Pending
        })
        .await;
    }

    async fn boot(&self) -> Result<(), String> {
        let deadline = self.sim.now() + PHASE_MAX;
        let brokers = self.cluster.brokers as usize;
        let active = |state: &State| state.ghost.active.values().filter(|active| **active).count();
        self.wait("every broker to be unfenced at the start", deadline, |s| active(s) == brokers).await?;
        let admin = self.cluster.administer(AdminRequest::CreateTopics(self.variant.topics.clone()));
        self.wait("the topics to be created", deadline, |s| s.admin_done.contains_key(&admin)).await?;
        if let Some(Err(error)) = self.recorder.lock().admin_done.get(&admin) {
            return Err(format!("the topics to be created: {error}"));
        }
        let partitions = self.partitions();
        self.wait("a leader for every partition at the start", deadline, |s| {
            partitions.iter().all(|p| s.ghost.is_led(p))
        })
        .await
    }

    fn start_workloads(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut producers = 0;
        for workload in &self.variant.workloads {
            let (bootstrap, recorder) = (self.cluster.bootstrap(), self.recorder.clone());
            match workload {
                Workload::Produce {
                    name,
                    topic,
                    records,
                    rate,
                    value_bytes,
                    keys,
                    key_prefix,
                    tombstones,
                    timestamp_offset_ms,
                    format,
                    start,
                    config,
                } => {
                    producers += 1;
                    let spec = ProduceSpec {
                        name: name.clone(),
                        number: producers,
                        topic: topic.clone(),
                        records: *records,
                        rate: *rate,
                        value_bytes: *value_bytes,
                        keys: *keys,
                        key_prefix: key_prefix.clone(),
                        tombstones: *tombstones,
                        timestamp_offset_ms: *timestamp_offset_ms,
                        format: *format,
                        config: ProducerConfig { defects: self.variant.cluster.defects, ..config.clone() },
                    };
                    self.recorder.lock().busy.push(name.clone());
                    names.push(name.clone());
                    let (start, sim) = (self.sim.now() + *start, self.sim.clone());
                    self.sim.add_machine(name, false, move |world, net| {
                        let (spec, bootstrap, recorder) = (spec.clone(), bootstrap.clone(), recorder.clone());
                        let sim = sim.clone();
                        Box::pin(async move {
                            sleep_until(&sim, start).await;
                            run_process(ProduceProcess::new(world, spec, bootstrap, recorder), net).await;
                        })
                    });
                }
                Workload::Consume { name, topic, start, config, membership } => {
                    names.push(name.clone());
                    let partitions: Vec<TopicPartition> =
                        self.partitions().into_iter().filter(|p| p.topic.0.as_str() == topic).collect();
                    let (start, sim, config) = (self.sim.now() + *start, self.sim.clone(), config.clone());
                    let (name, defects) = (name.clone(), self.variant.cluster.defects);
                    let (topic, membership, started_at) = (topic.clone(), membership.clone(), self.sim.now());
                    self.sim.add_machine(&name.clone(), false, move |world, net| {
                        let (name, partitions) = (name.clone(), partitions.clone());
                        let (topic, membership) = (topic.clone(), membership.clone());
                        let config = ConsumerConfig { defects, ..config.clone() };
                        let (bootstrap, recorder, sim) = (bootstrap.clone(), recorder.clone(), sim.clone());
                        Box::pin(async move {
                            sleep_until(&sim, start).await;
                            let Some(membership) = membership else {
                                let process = ConsumeProcess::new(world, name, partitions, config, bootstrap, recorder);
                                return run_process(process, net).await;
                            };
                            let spec = MemberSpec { name, topic, membership, config, started_at };
                            run_process(MemberProcess::new(world, spec, bootstrap, recorder), net).await;
                        })
                    });
                }
            }
        }
        names
    }

    /// The workloads under the schedule of faults, until both are over (or `until`, where the scenario says).
    async fn workload(&self, nemesis: &mut Nemesis, until: Option<Time>) -> Result<(), String> {
        let bound = self.sim.now() + WORKLOAD_MAX;
        loop {
            nemesis.step();
            let now = self.sim.now();
            let over = match until {
                Some(until) => now >= until,
                None => self.recorder.lock().busy.is_empty() && nemesis.is_idle(),
            };
            if over {
                return Ok(());
            }
            if now >= bound {
                return Err("the workloads to end".to_owned());
            }
            let next = [nemesis.deadline(), until].into_iter().flatten().min();
            self.changed_or(next.unwrap_or(bound)).await;
        }
    }

    /// Ends every fault and waits until the cluster is whole again. What does not recover is a violation of
    /// liveness, and the run goes on to read what can be read.
    async fn heal(&self, nemesis: &mut Nemesis) -> Result<(), String> {
        let deadline = self.sim.now() + PHASE_MAX;
        let ended_at = self.sim.now();
        {
            let mut state = self.recorder.lock();
            state.stop_sending = true;
            state.groups.end(ended_at);
        }
        loop {
            nemesis.heal_everything();
            if nemesis.is_idle() || self.sim.now() >= deadline {
                break;
            }
            self.changed_or(self.sim.now() + Duration::from_secs(1)).await;
        }
        self.wait("administrators to be answered", deadline, |s| nemesis.is_answered(s)).await?;
        nemesis.note_refusals();
        self.wait("the workloads to end after everything was healed", deadline, |s| s.busy.is_empty()).await?;
        let partitions = self.partitions();
        let whole = |state: &State| partitions.iter().all(|p| state.ghost.is_whole(p));
        if self.wait("every replica to be in sync", self.sim.now() + PHASE_MAX, whole).await.is_err() {
            let now = self.sim.now();
            let mut state = self.recorder.lock();
            for partition in partitions.iter().filter(|p| !state.ghost.is_whole(p)).cloned().collect::<Vec<_>>() {
                let detail = state.ghost.why_not_whole(&partition);
                state.ghost.violate("liveness", now, &partition, detail);
            }
            state.trace_violations();
        }
        self.settle_groups().await;
        Ok(())
    }

    /// Every group must come to rest, and then read to the end. What a group does not reach is a violation.
    async fn settle_groups(&self) {
        let settled = |state: &State| state.groups.unsettled().is_empty();
        // A JoinGroup that went to a machine without power is waited for as long as a rebalance may take.
        let longest = self.variant.workloads.iter().filter_map(|workload| match workload {
            Workload::Consume { config, membership: Some(_), .. } => Some(config.max_poll_interval),
            Workload::Consume { .. } | Workload::Produce { .. } => None,
        });
        let until = self.sim.now() + PHASE_MAX + longest.max().unwrap_or_default();
        let is_settled = self.wait("groups to come to rest", until, settled).await.is_ok();
        let is_caught_up = !is_settled || self.groups_read_to_the_end().await;
        let now = self.sim.now();
        let mut state = self.recorder.lock();
        if !is_settled {
            for (partition, detail) in state.groups.unsettled() {
                state.ghost.violate("stuck-group", now, &partition, detail);
            }
        }
        if !is_caught_up {
            for (partition, _, detail) in state.groups.behind(&state.ghost) {
                state.ghost.violate("stuck-consumer", now, &partition, detail);
            }
        }
        let State { groups, history, ghost, .. } = &mut *state;
        groups.judge(now, history, ghost);
        state.trace_violations();
    }

    /// Waits for the groups as long as they come nearer to their ends: one that commits each record over a slow way may
    /// need longer than any time that could be set here.
    async fn groups_read_to_the_end(&self) -> bool {
        let left = |state: &State| state.groups.behind(&state.ghost).iter().map(|(_, left, _)| left).sum::<u64>();
        loop {
            let before = left(&self.recorder.lock());
            let all_read = |state: &State| left(state) == 0;
            if self.wait("groups to read to the end", self.sim.now() + PHASE_MAX, all_read).await.is_ok() {
                return true;
            }
            if left(&self.recorder.lock()) >= before {
                return false;
            }
        }
    }

    /// Reads every partition from its beginning. What cannot be read to its end is a violation of its own.
    async fn final_read(&self) {
        let (bootstrap, recorder, partitions) = (self.cluster.bootstrap(), self.recorder.clone(), self.partitions());
        recorder.lock().unread = Some(partitions.iter().cloned().collect());
        self.sim.add_machine(FINAL_READER, false, move |world, net| {
            let (bootstrap, recorder, partitions) = (bootstrap.clone(), recorder.clone(), partitions.clone());
            Box::pin(async move {
                run_process(ConsumeProcess::final_reader(world, FINAL_READER, partitions, bootstrap, recorder), net)
                    .await;
            })
        });
        let is_read = |state: &State| state.unread.as_ref().is_some_and(BTreeSet::is_empty);
        let what = "the final read to reach the end of every partition";
        if self.wait(what, self.sim.now() + PHASE_MAX, is_read).await.is_err() {
            let now = self.sim.now();
            let mut state = self.recorder.lock();
            for partition in state.unread.clone().unwrap_or_default() {
                let seconds = PHASE_MAX.as_secs();
                let detail = format!("after everything was healed, a reader did not get to its end in {seconds} s");
                state.ghost.violate("unreadable", now, &partition, detail);
            }
            state.trace_violations();
        }
    }

    /// Those of the scenario's topics, as many as they have got.
    fn partitions(&self) -> Vec<TopicPartition> {
        let state = self.recorder.lock();
        self.variant.topics.iter().flat_map(|topic| state.ghost.partitions_of(&topic.name)).cloned().collect()
    }
}

async fn sleep_until(sim: &Simulation, at: Time) {
    if sim.now() < at {
        sim.sleep_until(at).await;
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic inside a run becomes the run's result instead of noise on stderr.
fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let of_a_run = std::thread::current().name().is_some_and(|name| name.starts_with("run-"));
            if of_a_run {
                PANIC.with(|p| *p.borrow_mut() = Some(info.to_string()));
            } else {
                default(info);
            }
        }));
    });
}

fn panic_text() -> String {
    PANIC.with(|p| p.borrow_mut().take()).unwrap_or_else(|| "a panic without a message".to_owned())
}
