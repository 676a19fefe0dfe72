//! A parsed and validated scenario: plain data, ready to run.

use std::collections::BTreeMap;
use std::time::Duration;

use super::disk::DiskAction;
use crate::config::{BrokerConfig, ConsumerConfig, EffectiveTopicConfig, ProducerConfig, TopicConfig};
use crate::defect::Defects;
use crate::world::sim::{Direction, DiskScope, Latency, LinkModel, Ppm, Survivors};

/// One scenario file. Everything is checked: a value of this type can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// File stem, e.g. `acks_1_loses_with_its_leader`.
    pub name: String,
    /// Path as given on the command line; empty for generated scenarios.
    pub file: String,
    /// The claim: the first comment line.
    pub title: String,
    /// How long the workload phase lasts at most before faults stop and everything heals. Default: until the
    /// workloads are done and the last fault's end, plus a margin.
    pub duration: Option<Duration>,
    pub seed: u64,
    /// In order of declaration; the first axis varies slowest. `acks` is always an axis unless every produce workload sets it.
    pub matrix: Vec<Axis>,
    pub variants: Vec<Variant>,
}

/// One axis of the matrix: a name (`acks`, or any Kafka configuration key) and its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    pub name: String,
    pub values: Vec<String>,
}

/// One point of the matrix, with everything resolved for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// axis name -> value, in the order of the axes.
    pub point: Vec<(String, String)>,
    pub cluster: Cluster,
    pub topics: Vec<Topic>,
    pub workloads: Vec<Workload>,
    pub faults: Vec<Fault>,
    /// Expectations that apply to this variant.
    pub expect: Vec<Expectation>,
}

impl Variant {
    /// `acks=1,min.insync.replicas=2`, or `-` for the only point of an empty matrix.
    pub fn label(&self) -> String {
        if self.point.is_empty() {
            return "-".to_owned();
        }
        self.point.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Brokers have node ids 1..=brokers; the controller is a node of its own with id 3000.
    pub brokers: u32,
    /// Log directories of each broker (`log.dirs`): `data`, or `data-1`, `data-2`, … if there are several.
    pub log_dirs: Vec<String>,
    /// Known defects that are on in every broker, controller and producer.
    pub defects: Defects,
    pub config: BrokerConfig,
    /// What every link is like.
    pub link: LinkModel,
    /// Links that differ, in the order of the file: a later one counts.
    pub links: Vec<LinkSetting>,
    /// Machines whose wall clocks are wrong from the start.
    pub clocks: Vec<ClockSetting>,
    /// Simulated time that brokers and the controller take for one event.
    pub event_cost: Duration,
    /// The rack of each broker, in the order of their ids; empty: none.
    pub racks: Vec<String>,
    /// Whether brokers know their racks (`broker.rack`), so that replicas are spread over them.
    pub rack_aware: bool,
}

/// The directed links from some machines to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    pub from: Target,
    pub to: Target,
    pub both_ways: bool,
}

/// One `[[link]]`: what it sets of the links that it names. Its targets are no roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSetting {
    pub links: Links,
    pub latency: Option<Latency>,
    pub jitter: Option<Duration>,
    /// Bytes per second.
    pub bandwidth: Option<u64>,
    pub loss: Option<Ppm>,
}

/// One `[[clock]]`. Its target is no role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockSetting {
    pub target: Target,
    /// Ahead of true time.
    pub offset_ns: i64,
    pub drift_ppm: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    pub replication_factor: i16,
    /// Topic-level overrides, Kafka property name -> value, checked.
    pub config: BTreeMap<String, String>,
}

impl Topic {
    /// Its own values where it has them, the brokers' elsewhere.
    pub fn effective_config(&self, brokers: &BrokerConfig) -> EffectiveTopicConfig {
        TopicConfig::from_map(&self.config).expect("checked when the scenario was read").effective(brokers)
    }
}

/// What a client does.
#[derive(Clone, Debug, PartialEq)]
pub enum Workload {
    /// A producer that sends `records` unique values. Named `producer-<i>` (1-based, in file order).
    Produce {
        name: String,
        topic: String,
        records: u64,
        /// Records per second of simulated time; `None`: as fast as acknowledgements come back.
        rate: Option<u64>,
        /// Size of a record's value in bytes, padded; at least 16.
        value_bytes: usize,
        /// Number of distinct keys; `None`: records without key.
        keys: Option<u64>,
        /// Keys are named by this and a number from 0 on.
        key_prefix: String,
        /// Every so manieth record of a key has no value: a tombstone.
        tombstones: Option<u64>,
        /// What the records' timestamps are ahead of the producer's clock (negative: behind).
        timestamp_offset_ms: i64,
        format: ValueFormat,
        start: Duration,
        config: ProducerConfig,
    },
    /// A consumer with assigned partitions (all of the topic), or a member of a group. Named `consumer-<i>`.
    Consume {
        name: String,
        topic: String,
        start: Duration,
        /// With a membership `group.id`, and `group.instance.id` of a static member, are set.
        config: ConsumerConfig,
        membership: Option<Membership>,
    },
}

impl Workload {
    /// Of its machine.
    pub fn name(&self) -> &String {
        let (Workload::Produce { name, .. } | Workload::Consume { name, .. }) = self;
        name
    }
}

/// What the value of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ValueFormat {
    /// The number as text.
    #[default]
    Number,
    /// `{"id": 7, "value": 42, "timestamp": 1700000000000}`: the id is the number, the value 1 to 100.
    Json,
}

/// How a member of a consumer group works.
#[derive(Clone, Debug, PartialEq)]
pub struct Membership {
    pub group: String,
    pub commit: CommitStyle,
    /// What the application needs for a record.
    pub processing: Duration,
    pub ending: Option<Ending>,
    pub pause: Option<Pause>,
    pub seek: Option<Seek>,
    pub poison: Option<Poison>,
    /// It prints average and maximum of every so many records.
    pub window: Option<usize>,
}

/// All partitions that it has are paused (`Consumer.pause`), so long after the workloads started: it polls on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    pub at: Duration,
    pub lasts: Duration,
}

/// All partitions that it has are sought, so long after the workloads started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seek {
    pub at: Duration,
    pub to: SeekTo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    Beginning,
    End,
}

/// A record whose processing always fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poison {
    /// The value of the record.
    pub value: u64,
    pub reaction: PoisonReaction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoisonReaction {
    /// The application dies of the exception, and is started again.
    Crash,
    /// It goes on with the next record.
    Skip,
}

/// When the application commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitStyle {
    /// The consumer does it: inside of later polls, and on close.
    Automatic,
    /// What a poll returned, before it is processed.
    Before,
    /// What a poll returned, once all of it is processed.
    After,
}

/// How and when a member stops, since the workloads started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    pub kind: EndingKind,
    pub at: Duration,
    /// Starts anew so long after it stopped.
    pub back_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndingKind {
    /// Finishes what the last poll returned, and closes.
    Stop,
    /// Leaves off in the middle of it, and closes: an exception, and `finally`.
    Fail,
    /// Is gone.
    Crash,
}

/// When a fault starts.
#[derive(Clone, Debug, PartialEq)]
pub enum When {
    /// Simulated time since the workloads started.
    At(Duration),
    /// As soon as the condition holds.
    Condition(Condition),
}

/// A state that triggers a fault.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// `acked(orders) >= 200`: records acknowledged so far on a topic (or one partition, `acked(orders-0)`).
    Count { what: Counter, of: String, compare: Comparison, value: u64 },
    /// `isr(orders-0) == [1]`: the controller's committed in-sync replicas, as a set.
    Isr { partition: String, equals: Vec<u32> },
    /// `isr(orders-0).size == 1`: how many replicas the controller's committed ISR holds.
    IsrSize { partition: String, compare: Comparison, value: u64 },
    /// `leader(orders-0) == 2` / `!= 2` (`none` = 0).
    Leader { partition: String, negated: bool, broker: u32 },
    /// `fault(2).ended`, `fault(2).started`: 1-based index of another fault.
    Fault { index: usize, ended: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    Sent,
    Acked,
    /// Records below the true high watermark.
    Committed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// A role or an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `broker(1)`
    Broker(u32),
    /// `brokers`: all of them, at the same instant.
    Brokers,
    /// `leader(orders-0)`
    Leader(String),
    /// `follower(orders-0)`: all replicas but the leader; `follower(orders-0, 1)`: the first of them by id, ….
    Follower(String, Option<usize>),
    /// `isr(orders-0)`: all in-sync replicas.
    Isr(String),
    Controller,
    /// `client(producer-1)`
    Client(String),
    /// `coordinator(billing)`: the broker that leads the group's partition of `__consumer_offsets`.
    Coordinator(String),
    /// `rack(a)`: the brokers of a rack, a power domain.
    Rack(String),
    /// `machines`: the brokers, the controller and the clients.
    Machines,
    /// Written `fault(2)`: the machines that fault 2 (1-based) resolved to.
    SameAs(usize),
}

impl Target {
    /// It may mean more than one machine, so that there are links from it to itself.
    pub fn may_be_several(&self) -> bool {
        match self {
            Target::Brokers
            | Target::Follower(_, None)
            | Target::Isr(_)
            | Target::Rack(_)
            | Target::Machines
            | Target::SameAs(_) => true,
            Target::Broker(_)
            | Target::Leader(_)
            | Target::Follower(_, Some(_))
            | Target::Controller
            | Target::Client(_)
            | Target::Coordinator(_) => false,
        }
    }
}

/// What is done to the target.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Kill the process, page cache survives. With a duration: restarted after it.
    Crash,
    /// Power loss: what was not synced is gone, but for what survives by chance. With a duration: power comes back
    /// after it.
    PowerLoss(Survivors),
    /// Something about disks; [`Fault::target`] says on which machines.
    Disk {
        what: DiskAction,
        on: DiskScope,
    },
    /// Start a stopped process or machine; kill one that runs and start it again.
    Restart {
        /// Broker configuration from then on, Kafka property name -> value, checked; besides what it has.
        config: BTreeMap<String, String>,
    },
    /// Kill the process, again and again: down for the first part of each cycle.
    CrashLoop {
        cycle: Cycle,
    },
    /// Stop scheduling the process (SIGSTOP, long GC); `resume` or the duration ends it.
    Pause,
    Resume,
    /// Cut the target off from every other machine, both ways.
    Isolate,
    /// Cut the links between groups: every member of one group from every member of the others.
    /// One way: only frames from the first group to the second are cut.
    Partition {
        groups: Vec<Vec<Target>>,
        one_way: bool,
    },
    /// Add latency to links, and up to `jitter` more.
    Delay {
        links: Links,
        by: Duration,
        jitter: Duration,
    },
    /// Limit links to `bandwidth` bytes per second.
    Throttle {
        links: Links,
        bandwidth: u64,
    },
    /// Lose a share of the segments on links: each costs a retransmission timeout.
    PacketLoss {
        links: Links,
        loss: Ppm,
    },
    /// Cut links, again and again: for the first part of each cycle.
    Flap {
        links: Links,
        cycle: Cycle,
    },
    /// Delay requests or responses of one kind.
    DelayMessage {
        messages: Messages,
        by: Duration,
    },
    /// Drop requests or responses of one kind, which ends their connections.
    DropMessage {
        messages: Messages,
    },
    /// The process reads `bandwidth` bytes per second from its connections.
    SlowDrain {
        bandwidth: u64,
    },
    /// The process takes so much longer for each event.
    SlowCpu {
        by: Duration,
    },
    /// Move the wall clock. With a duration: moved back after it.
    ClockStep {
        by_ns: i64,
    },
    /// The wall clock gains so much. What it has gained stays.
    ClockDrift {
        drift_ppm: i64,
    },
    /// Move the wall clock to and fro: moved for the first part of each cycle.
    ClockStrobe {
        by_ns: i64,
        cycle: Cycle,
    },
    /// The wall clock stands still, and is right again when that ends.
    ClockFreeze,
    /// Remove all network faults.
    Heal,
    /// Orderly stop (SIGTERM): leadership moves first, logs are flushed. With a duration: started again after it.
    ControlledShutdown,
    /// Move leadership of every partition of a topic (or one partition) to its preferred replica. The file writes it
    /// `target = "orders"` or `target = "orders-0"`; [`Fault::target`] is `None`.
    ElectPreferred {
        of: String,
    },
    /// CreatePartitions (KIP-195): the topic gets so many. [`Fault::target`] is `None`.
    CreatePartitions {
        topic: String,
        count: i32,
    },
    /// DeleteRecords (KIP-107) for every partition of a topic, or for one: what lies before the offset goes; without one,
    /// what lies before the high watermark. Written like [`Action::ElectPreferred`].
    DeleteRecords {
        of: String,
        before: Option<u64>,
    },
}

/// Whom an action says to be aimed at, besides [`Fault::target`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Subject<'a> {
    /// Nobody else: machines, disks or clocks of the fault's own target, or everything.
    Target,
    Links(&'a Links),
    /// The links between them.
    Groups {
        groups: &'a [Vec<Target>],
        one_way: bool,
    },
    Messages(&'a Messages),
}

impl Action {
    pub fn subject(&self) -> Subject<'_> {
        match self {
            Action::Delay { links, .. }
            | Action::Throttle { links, .. }
            | Action::PacketLoss { links, .. }
            | Action::Flap { links, .. } => Subject::Links(links),
            Action::Partition { groups, one_way } => Subject::Groups { groups, one_way: *one_way },
            Action::DelayMessage { messages, .. } | Action::DropMessage { messages } => Subject::Messages(messages),
            Action::Crash
            | Action::PowerLoss(_)
            | Action::Disk { .. }
            | Action::Restart { .. }
            | Action::CrashLoop { .. }
            | Action::Pause
            | Action::Resume
            | Action::Isolate
            | Action::SlowDrain { .. }
            | Action::SlowCpu { .. }
            | Action::ClockStep { .. }
            | Action::ClockDrift { .. }
            | Action::ClockStrobe { .. }
            | Action::ClockFreeze
            | Action::Heal
            | Action::ControlledShutdown
            | Action::ElectPreferred { .. }
            | Action::CreatePartitions { .. }
            | Action::DeleteRecords { .. } => Subject::Target,
        }
    }

    /// What `heal` ends.
    pub fn is_of_network(&self) -> bool {
        match self.subject() {
            Subject::Links(_) | Subject::Groups { .. } | Subject::Messages(_) => true,
            Subject::Target => *self == Action::Isolate,
        }
    }

    /// Makes a wall clock wrong.
    pub fn is_of_clocks(&self) -> bool {
        matches!(
            self,
            Action::ClockStep { .. } | Action::ClockDrift { .. } | Action::ClockStrobe { .. } | Action::ClockFreeze
        )
    }

    /// The rhythm of an action that goes on and off.
    pub fn cycle(&self) -> Option<Cycle> {
        if let Action::CrashLoop { cycle } | Action::Flap { cycle, .. } | Action::ClockStrobe { cycle, .. } = self {
            return Some(*cycle);
        }
        None
    }
}

/// On for the first part of each period, off for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycle {
    pub period: Duration,
    /// How much of a period it is on.
    pub duty: Ppm,
    /// How many periods; `None`: until the fault's end.
    pub count: Option<u32>,
}

impl Cycle {
    /// How long it is on.
    pub fn on(&self) -> Duration {
        self.duty.of(self.period)
    }
}

/// Which messages a fault is aimed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Messages {
    /// Kafka's name of the request, and its key.
    pub request: (String, i16),
    pub direction: Direction,
    /// Who sends them; `None`: anyone.
    pub from: Option<Target>,
    /// Who they are sent to; `None`: anyone.
    pub to: Option<Target>,
    /// How many; `None`: all until the fault's end.
    pub count: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub when: When,
    /// How long after `when` holds for the first time; zero for one that starts `at` a time.
    pub after: Duration,
    pub action: Action,
    /// For the actions that have one.
    pub target: Option<Target>,
    /// How long it lasts; `None`: until healed by another fault or the end of the run.
    pub duration: Option<Duration>,
    /// The `do` and `target` as written, for reports.
    pub text: (String, String),
    /// 1-based line in the file; 0 for generated ones.
    pub line: usize,
}

/// One line of `[expect]`: `lost-write = "> 0"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// An anomaly or violation name of checkers.md, a count of the report (`acked`, `unknown`, `sent-and-missing`, …)
    /// or `unavailable-ms`.
    pub metric: String,
    pub compare: Comparison,
    pub value: u64,
}
