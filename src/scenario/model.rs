//! A parsed and validated scenario: plain data, ready to run.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{BrokerConfig, ConsumerConfig, ProducerConfig};

/// One scenario file. Everything is checked: a value of this type can be run.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub struct Axis {
    pub name: String,
    pub values: Vec<String>,
}

/// One point of the matrix, with everything resolved for it.
#[derive(Clone, Debug)]
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

#[derive(Clone, Debug)]
pub struct Cluster {
    /// Brokers have node ids 1..=brokers; the controller is a node of its own with id 3000.
    pub brokers: u32,
    pub config: BrokerConfig,
    /// One-way link latency; each frame draws uniformly between the two.
    pub latency: (Duration, Duration),
}

#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    pub replication_factor: i16,
    /// Topic-level overrides, Kafka property name -> value, checked.
    pub config: BTreeMap<String, String>,
}

/// What a client does.
#[derive(Clone, Debug)]
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
        /// What the records' timestamps are ahead of the producer's clock (negative: behind).
        timestamp_offset_ms: i64,
        start: Duration,
        config: ProducerConfig,
    },
    /// A consumer with assigned partitions (all of the topic). Named `consumer-<i>`.
    Consume { name: String, topic: String, start: Duration, config: ConsumerConfig },
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
    /// Written `fault(2)`: the machines that fault 2 (1-based) resolved to.
    SameAs(usize),
}

/// What is done to the target.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Kill the process, page cache survives. With a duration: restarted after it.
    Crash,
    /// Power loss: what was not synced is gone. With a duration: power comes back after it.
    PowerLoss,
    /// Start a stopped process or machine.
    Restart,
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
    /// Add latency to the link from `from` to `to`, one direction; `both_ways` for both.
    Delay {
        from: Target,
        to: Target,
        by: Duration,
        both_ways: bool,
    },
    /// Remove all network faults.
    Heal,
    /// Orderly stop (SIGTERM): leadership moves first, logs are flushed. With a duration: started again after it.
    ControlledShutdown,
    /// Move leadership of every partition of a topic (or one partition) to its preferred replica. The file writes it
    /// `target = "orders"` or `target = "orders-0"`; [`Fault::target`] is `None`.
    ElectPreferred {
        of: String,
    },
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
