//! The words that a scenario file may use. What the parser accepts, suggests and documents comes from these lists.

/// Keys at the top of the file.
pub const TOP_KEYS: &[&str] = &["seed", "duration", "cluster", "topic", "matrix", "workload", "fault", "expect"];
/// Keys of `[cluster]`.
pub const CLUSTER_KEYS: &[&str] = &["brokers", "latency", "config"];
/// Keys of `[[topic]]`.
pub const TOPIC_KEYS: &[&str] = &["name", "partitions", "replication-factor", "config"];
/// Values of `kind` in `[[workload]]`.
pub const WORKLOAD_KINDS: &[&str] = &["produce", "consume"];
/// Keys of `[[workload]]` with `kind = "produce"`.
pub const PRODUCE_KEYS: &[&str] =
    &["kind", "topic", "records", "rate", "value-bytes", "keys", "timestamp-offset", "start", "acks", "config"];
/// Keys of `[[workload]]` with `kind = "consume"`.
pub const CONSUME_KEYS: &[&str] = &["kind", "topic", "start", "config"];
/// Keys of `[[fault]]`, whatever it does.
pub const FAULT_KEYS: &[&str] =
    &["at", "when", "after", "do", "target", "for", "groups", "one-way", "from", "to", "by", "both-ways"];
/// Values of `do` in `[[fault]]`.
pub const ACTIONS: &[&str] = &[
    "crash",
    "power-loss",
    "restart",
    "pause",
    "resume",
    "isolate",
    "partition",
    "delay",
    "heal",
    "controlled-shutdown",
    "elect-preferred",
];
/// What a target can be.
pub const TARGETS: &[&str] = &["broker", "brokers", "leader", "follower", "isr", "controller", "client", "fault"];
/// What a condition can ask for.
pub const CONDITIONS: &[&str] = &["sent", "acked", "committed", "isr", "leader", "fault"];
/// Units of a duration.
pub const UNITS: &[&str] = &["us", "ms", "s", "m", "h"];

/// Where a metric's number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// How often a checker found this in the history of client operations.
    Anomaly,
    /// How often an invariant was seen broken.
    Violation,
    /// How many records met this fate.
    Count,
    /// Milliseconds of simulated time.
    Millis,
}

/// Something that `[expect]` can compare with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: MetricKind,
}

const fn metric_of(name: &'static str, kind: MetricKind) -> Metric {
    Metric { name, kind }
}

/// Every metric that an expectation may name.
pub const METRICS: &[Metric] = &[
    metric_of("lost-write", MetricKind::Anomaly),
    metric_of("unseen", MetricKind::Anomaly),
    metric_of("duplicate", MetricKind::Anomaly),
    metric_of("inconsistent-offsets", MetricKind::Anomaly),
    metric_of("phantom", MetricKind::Anomaly),
    metric_of("int-poll-skip", MetricKind::Anomaly),
    metric_of("int-nonmonotonic-poll", MetricKind::Anomaly),
    metric_of("poll-skip", MetricKind::Anomaly),
    metric_of("nonmonotonic-poll", MetricKind::Anomaly),
    metric_of("int-send-skip", MetricKind::Anomaly),
    metric_of("int-nonmonotonic-send", MetricKind::Anomaly),
    metric_of("nonmonotonic-send", MetricKind::Anomaly),
    metric_of("aborted-read", MetricKind::Anomaly),
    metric_of("precommitted-read", MetricKind::Anomaly),
    metric_of("log-matching", MetricKind::Violation),
    metric_of("leader-completeness", MetricKind::Violation),
    metric_of("one-leader-per-epoch", MetricKind::Violation),
    metric_of("high-watermark-went-back", MetricKind::Violation),
    metric_of("leader-epoch-went-back", MetricKind::Violation),
    metric_of("candidate-completeness", MetricKind::Violation),
    metric_of("liveness", MetricKind::Violation),
    metric_of("sent", MetricKind::Count),
    metric_of("acked", MetricKind::Count),
    metric_of("failed", MetricKind::Count),
    metric_of("unknown", MetricKind::Count),
    metric_of("read", MetricKind::Count),
    metric_of("lost", MetricKind::Count),
    metric_of("sent-and-missing", MetricKind::Count),
    metric_of("unavailable-ms", MetricKind::Millis),
];

/// The metric of this name.
pub fn metric(name: &str) -> Option<Metric> {
    METRICS.iter().copied().find(|metric| metric.name == name)
}
