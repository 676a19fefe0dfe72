//! What one run yields: plain data, kept outside the runtime so that a panic still reports.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::groups::GroupFigures;
use crate::client::ResetReason;
use crate::defect::Defects;
use crate::history::HistoryEvent;
use crate::observe::Observation;
use crate::protocol::BrokerId;
use crate::world::Time;

/// One entry of the trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceEvent {
    #[serde(rename = "ns")]
    pub at: Time,
    /// Machine: `broker-1`, `controller`, `producer-1`, or `lab` for the nemesis.
    pub machine: Arc<str>,
    pub what: TraceKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceKind {
    Observed(Observation),
    /// A client's view of one record: value number `value` of producer `machine`.
    Sent {
        partition: String,
        value: u64,
    },
    Acked {
        partition: String,
        value: u64,
        offset: Option<i64>,
    },
    Failed {
        partition: String,
        value: u64,
        error: String,
    },
    Unknown {
        partition: String,
        value: u64,
        error: String,
    },
    /// A producer sent a batch that holds `values` to `broker`: its attempt number `attempt` (1-based). The CRC names
    /// the batch: every attempt sends the same bytes, and logs keep them. A `restated` batch is another one with the same
    /// records: its idempotent producer has begun a new epoch since the attempt before.
    BatchSent {
        partition: String,
        crc: u32,
        values: Vec<u64>,
        attempt: u32,
        broker: BrokerId,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        restated: bool,
    },
    /// An attempt ended with an error, and the producer will try again; with smaller batches, if it was too large.
    BatchRetried {
        partition: String,
        crc: u32,
        attempt: u32,
        error: String,
    },
    /// A consumer moved its position on its own.
    PositionReset {
        partition: String,
        from: i64,
        to: i64,
        reason: ResetReason,
    },
    /// A consumer met an error that it cannot get past.
    ReadFailed {
        error: String,
    },
    /// From here on the client's operations are those of this process of the history.
    Process {
        process: i64,
    },
    /// A member of a group has joined a generation (with KIP-848: an epoch).
    Joined {
        generation: i32,
    },
    /// The omniscient observer saw an invariant broken by the event before.
    Violated {
        name: String,
        partition: String,
        detail: String,
    },
    /// The nemesis began or ended fault `index` (0-based) of the schedule.
    FaultStarted {
        index: usize,
        targets: Vec<String>,
    },
    FaultEnded {
        index: usize,
        targets: Vec<String>,
    },
    /// Fault `index` (0-based) of the schedule did something to one thing of many: a message.
    FaultHit {
        index: usize,
        detail: String,
    },
    /// A machine's process started (recovery follows) or stopped.
    Started,
    Stopped {
        power_lost: bool,
    },
    /// The phases of a run.
    Phase(Phase),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Topics exist, workloads begin: time zero of the scenario's clock.
    Workload,
    /// Faults stopped, everything healed and restarted.
    Healed,
    /// The final full read began.
    FinalRead,
    Done,
}

/// A fault as it really happened.
#[derive(Clone, Debug, PartialEq)]
pub struct FiredFault {
    /// Index in the scenario's schedule, 0-based.
    pub index: usize,
    /// Since the workloads started.
    pub at: Time,
    pub ended_at: Option<Time>,
    /// The machines that the target resolved to: `broker-1`.
    pub resolved: Vec<String>,
    /// Why the cluster refused what an administrator asked of it.
    pub refused: Option<String>,
}

/// A broken invariant, seen by the omniscient observer.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Name: `log-matching`, `leader-completeness`, `one-leader-per-epoch`, `high-watermark-went-back`, …
    pub name: &'static str,
    pub at: Time,
    pub partition: String,
    /// One sentence with the replicas, offsets and epochs concerned.
    pub detail: String,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// Healed, read back, judged.
    Complete,
    /// It panicked: our bug. The message with its place.
    Panicked(String),
    /// It did not reach its end within the bound of simulated time; says what it was waiting for.
    Unfinished(String),
}

/// One run, complete.
#[derive(Clone, Debug)]
pub struct RunOutcome {
    pub seed: u64,
    pub end: End,
    pub history: Vec<HistoryEvent>,
    pub trace: Vec<TraceEvent>,
    pub faults: Vec<FiredFault>,
    pub violations: Vec<Violation>,
    /// Of all consumer groups together; none without groups.
    pub groups: Option<GroupFigures>,
    pub digest: u64,
    /// When the workloads began; `at` of scenario times counts from here.
    pub started_at: Time,
    pub ended_at: Time,
    pub wall_ms: u64,
    /// What the run's thread used, where the system tells.
    pub cpu: Option<Duration>,
    /// The defects that its decisions came to; any other, switched on, gives the same run ([`asked`](crate::defect::asked)).
    pub asked: Defects,
    /// Frames delivered by the network.
    pub messages: u64,
    /// Events in the trace.
    pub events: u64,
}
