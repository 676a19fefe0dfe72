//! The words that a scenario file may use. What the parser accepts, suggests and documents comes from these lists.

use super::model::{CommitStyle, EndingKind, PoisonReaction, SeekTo, ValueFormat};

/// Keys at the top of the file.
pub const TOP_KEYS: &[&str] =
    &["seed", "duration", "cluster", "link", "clock", "topic", "matrix", "workload", "fault", "expect"];
/// Keys of `[cluster]`.
pub const CLUSTER_KEYS: &[&str] = &[
    "brokers",
    "log-dirs",
    "latency",
    "jitter",
    "bandwidth",
    "loss",
    "event-cost",
    "racks",
    "rack-aware",
    "config",
    "defects",
];
/// Keys of `[[link]]`.
pub const LINK_KEYS: &[&str] = &["from", "to", "both-ways", "latency", "jitter", "bandwidth", "loss"];
/// Keys of `[[clock]]`.
pub const CLOCK_KEYS: &[&str] = &["target", "offset", "drift"];
/// Keys of `[[topic]]`.
pub const TOPIC_KEYS: &[&str] = &["name", "partitions", "replication-factor", "config"];
/// Values of `kind` in `[[workload]]`.
pub const WORKLOAD_KINDS: &[&str] = &["produce", "consume"];
/// Keys of `[[workload]]` with `kind = "produce"`.
pub const PRODUCE_KEYS: &[&str] = &[
    "kind",
    "topic",
    "records",
    "rate",
    "value-bytes",
    "keys",
    "key-prefix",
    "tombstones",
    "timestamp-offset",
    "format",
    "start",
    "acks",
    "config",
];
/// Keys of `[[workload]]` with `kind = "consume"`.
pub const CONSUME_KEYS: &[&str] = &[
    "kind",
    "topic",
    "start",
    "config",
    "group",
    "static",
    "commit",
    "processing",
    "end",
    "end-at",
    "back-after",
    "pause-at",
    "pause-for",
    "seek-at",
    "seek-to",
    "poison",
    "on-poison",
    "window",
];
/// Keys of a consumer that only a member of a group has.
pub const MEMBER_KEYS: &[&str] = &[
    "static",
    "commit",
    "processing",
    "end",
    "end-at",
    "back-after",
    "pause-at",
    "pause-for",
    "seek-at",
    "seek-to",
    "poison",
    "on-poison",
    "window",
];
/// What the value of a record is.
pub const VALUE_FORMATS: &[(&str, ValueFormat)] = &[("number", ValueFormat::Number), ("json", ValueFormat::Json)];
/// Where a member seeks to.
pub const SEEKS: &[(&str, SeekTo)] = &[("beginning", SeekTo::Beginning), ("end", SeekTo::End)];
/// What a member does about a record that it cannot process.
pub const POISON_REACTIONS: &[(&str, PoisonReaction)] =
    &[("crash", PoisonReaction::Crash), ("skip", PoisonReaction::Skip)];
/// When a member commits.
pub const COMMIT_STYLES: &[(&str, CommitStyle)] =
    &[("automatic", CommitStyle::Automatic), ("before", CommitStyle::Before), ("after", CommitStyle::After)];
/// How a member stops.
pub const ENDINGS: &[(&str, EndingKind)] =
    &[("stop", EndingKind::Stop), ("fail", EndingKind::Fail), ("crash", EndingKind::Crash)];
/// Keys that every `[[fault]]` may have.
pub const START_KEYS: &[&str] = &["do", "at", "when", "after"];
/// Keys of `[[fault]]`, whatever it does.
pub const FAULT_KEYS: &[&str] = &[
    "at",
    "when",
    "after",
    "do",
    "target",
    "for",
    "groups",
    "one-way",
    "from",
    "to",
    "by",
    "jitter",
    "bandwidth",
    "loss",
    "both-ways",
    "period",
    "duty",
    "count",
    "request",
    "direction",
    "drift",
    "config",
    "pages",
    "entries",
    "free-bytes",
    "segment",
    "batch",
    "field",
    "byte",
    "bit",
    "before-offset",
];
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
    "delete-records",
    "create-partitions",
    "throttle",
    "packet-loss",
    "flap",
    "delay-message",
    "drop-message",
    "slow-drain",
    "slow-cpu",
    "crash-loop",
    "clock-step",
    "clock-drift",
    "clock-strobe",
    "clock-freeze",
    "fsync-slow",
    "fsync-fail",
    "fsync-lie",
    "read-slow",
    "read-fail",
    "read-short",
    "write-slow",
    "write-fail",
    "write-lost",
    "write-misdirected",
    "disk-stall",
    "disk-throttle",
    "disk-full",
    "disk-replace",
    "drop-cache",
    "bit-rot",
];

/// Keys that go with an action, besides those of [`START_KEYS`]: those it needs, then those it may have.
pub fn keys_of(action: &str) -> Option<(&'static [&'static str], &'static [&'static str])> {
    Some(match action {
        "power-loss" => (&["target"], &["pages", "entries", "for"]),
        "crash" | "pause" | "isolate" | "controlled-shutdown" | "clock-freeze" => (&["target"], &["for"]),
        "restart" => (&["target"], &["config"]),
        "resume" | "elect-preferred" => (&["target"], &[]),
        "delete-records" => (&["target"], &["before-offset"]),
        "create-partitions" => (&["target", "count"], &[]),
        "partition" => (&["groups"], &["one-way", "for"]),
        "delay" => (&["from", "to", "by"], &["jitter", "both-ways", "for"]),
        "throttle" => (&["from", "to", "bandwidth"], &["both-ways", "for"]),
        "packet-loss" => (&["from", "to", "loss"], &["both-ways", "for"]),
        "flap" => (&["from", "to", "period", "duty"], &["count", "both-ways", "for"]),
        "delay-message" => (&["request", "direction", "by"], &["from", "to", "count", "for"]),
        "drop-message" => (&["request", "direction"], &["from", "to", "count", "for"]),
        "slow-drain" => (&["target", "bandwidth"], &["for"]),
        "slow-cpu" | "clock-step" => (&["target", "by"], &["for"]),
        "crash-loop" => (&["target", "period", "duty"], &["count", "for"]),
        "clock-drift" => (&["target", "drift"], &["for"]),
        "clock-strobe" => (&["target", "by", "period", "duty"], &["count", "for"]),
        "heal" => (&[], &[]),
        "fsync-slow" | "read-slow" | "write-slow" => (&["target", "by"], &["for"]),
        "fsync-fail" | "fsync-lie" | "read-fail" | "read-short" | "write-fail" | "write-lost" | "write-misdirected"
        | "disk-stall" | "disk-replace" => (&["target"], &["for"]),
        "disk-throttle" => (&["target", "bandwidth"], &["for"]),
        "disk-full" => (&["target", "free-bytes"], &["for"]),
        "drop-cache" => (&["target"], &[]),
        "bit-rot" => (&["target"], &["segment", "batch", "field", "byte", "bit"]),
        _ => return None,
    })
}

/// Values of `do` that are aimed at disks or files.
pub const DISK_ACTIONS: &[&str] = &[
    "fsync-slow",
    "fsync-fail",
    "fsync-lie",
    "read-slow",
    "read-fail",
    "read-short",
    "write-slow",
    "write-fail",
    "write-lost",
    "write-misdirected",
    "disk-stall",
    "disk-throttle",
    "disk-full",
    "disk-replace",
    "drop-cache",
    "bit-rot",
];

/// Values of `do` that are aimed at a topic or a partition.
pub const TOPIC_ACTIONS: &[&str] = &["elect-preferred", "delete-records", "create-partitions"];

/// Values of `direction` in `[[fault]]`.
pub const DIRECTIONS: &[&str] = &["request", "response"];
/// What a target can be.
pub const TARGETS: &[&str] = &[
    "broker",
    "brokers",
    "leader",
    "follower",
    "isr",
    "controller",
    "coordinator",
    "client",
    "rack",
    "machines",
    "fault",
];
/// What a fault of disks is aimed at.
pub const DISK_TARGETS: &[&str] = &["disk", "file"];
/// What a condition can ask for.
pub const CONDITIONS: &[&str] = &["sent", "acked", "committed", "isr", "leader", "fault"];
/// The axis that switches known defects on.
pub const DEFECTS_AXIS: &str = "defects";
/// Latency distributions that are written like a function.
pub const DISTRIBUTIONS: &[&str] = &["exponential", "bimodal"];
/// Units of a bandwidth, and their bytes per second.
pub const BANDWIDTH_UNITS: &[(&str, u64)] = &[
    ("B/s", 1),
    ("kB/s", 1_000),
    ("MB/s", 1_000_000),
    ("GB/s", 1_000_000_000),
    ("kbit/s", 125),
    ("Mbit/s", 125_000),
    ("Gbit/s", 125_000_000),
];
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
    metric_of("lost-latest", MetricKind::Anomaly),
    metric_of("tombstone-missed", MetricKind::Anomaly),
    metric_of("committed-too-far", MetricKind::Anomaly),
    metric_of("G0", MetricKind::Anomaly),
    metric_of("G0-process", MetricKind::Anomaly),
    metric_of("G0-realtime", MetricKind::Anomaly),
    metric_of("G1c", MetricKind::Anomaly),
    metric_of("G1c-process", MetricKind::Anomaly),
    metric_of("G1c-realtime", MetricKind::Anomaly),
    metric_of("log-matching", MetricKind::Violation),
    metric_of("leader-completeness", MetricKind::Violation),
    metric_of("one-leader-per-epoch", MetricKind::Violation),
    metric_of("high-watermark-went-back", MetricKind::Violation),
    metric_of("leader-epoch-went-back", MetricKind::Violation),
    metric_of("candidate-completeness", MetricKind::Violation),
    metric_of("strong-isr", MetricKind::Violation),
    metric_of("quorum-superset", MetricKind::Violation),
    metric_of("committed-under-min-isr", MetricKind::Violation),
    metric_of("partition-epoch-went-back", MetricKind::Violation),
    metric_of("broker-epoch-went-back", MetricKind::Violation),
    metric_of("acknowledged-incomplete", MetricKind::Violation),
    metric_of("served-uncommitted", MetricKind::Violation),
    metric_of("latest-offset-went-back", MetricKind::Violation),
    metric_of("owned-twice", MetricKind::Violation),
    metric_of("offset-rewind", MetricKind::Violation),
    metric_of("skipped-record", MetricKind::Violation),
    metric_of("stuck-group", MetricKind::Violation),
    metric_of("stuck-consumer", MetricKind::Violation),
    metric_of("unawaited-sync", MetricKind::Violation),
    metric_of("refused-join", MetricKind::Violation),
    metric_of("expired-in-rebalance", MetricKind::Violation),
    metric_of("producer-sequence", MetricKind::Violation),
    metric_of("tombstone-too-early", MetricKind::Violation),
    metric_of("liveness", MetricKind::Violation),
    metric_of("unreadable", MetricKind::Violation),
    metric_of("sent", MetricKind::Count),
    metric_of("acked", MetricKind::Count),
    metric_of("failed", MetricKind::Count),
    metric_of("unknown", MetricKind::Count),
    metric_of("read", MetricKind::Count),
    metric_of("lost", MetricKind::Count),
    metric_of("compacted", MetricKind::Count),
    metric_of("sent-and-missing", MetricKind::Count),
    metric_of("read-from-followers", MetricKind::Count),
    metric_of("processed", MetricKind::Count),
    metric_of("reprocessed", MetricKind::Count),
    metric_of("skipped", MetricKind::Count),
    metric_of("rebalances", MetricKind::Count),
    metric_of("windows", MetricKind::Count),
    metric_of("broken-windows", MetricKind::Count),
    metric_of("unowned-ms", MetricKind::Millis),
    metric_of("unavailable-ms", MetricKind::Millis),
];

/// The metric of this name.
pub fn metric(name: &str) -> Option<Metric> {
    METRICS.iter().copied().find(|metric| metric.name == name)
}
