//! What is allowed, and why: which anomalies and violations a configuration and what happened to the
//! cluster explain. Everything that is not in the table is an error.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::expired::deletes;
use crate::config::{Acks, OffsetReset};
use crate::history::{EventType, Function, HistoryConfig, HistoryEvent, MicroOp};
use crate::lab::outcome::{Phase, RunOutcome, TraceEvent, TraceKind};
use crate::observe::Observation;
use crate::protocol::{BrokerId, LeaderEpoch, TopicPartition};
use crate::scenario::{Variant, Workload};
use crate::world::Time;

/// Violations that follow when records below the high watermark are lost for a legitimate reason.
pub const VIOLATIONS_OF_LOSS: [&str; 5] =
    ["candidate-completeness", "high-watermark-went-back", "leader-completeness", "log-matching", "strong-isr"];

/// Of records that were deleted. In a run it covers those below a log start that moved, see [`super::Expired`].
pub(super) const EXPIRED: &str = "retention removes records that nobody has read";

/// One line of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Allowance {
    /// Name of an anomaly or violation.
    pub anomaly: &'static str,
    pub reason: &'static str,
}

/// What decides on the table: configuration, and what happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Context {
    /// The weakest `acks` of any producer.
    pub acks: Acks,
    /// A producer without idempotence may have sent a batch again.
    pub retries_without_idempotence: bool,
    /// An idempotent producer sent batches again in a new epoch that may be in the log of the one before.
    pub sequences_restated: bool,
    /// A leader may have met a batch of an idempotent producer that it knew nothing of any more.
    pub producers_forgotten: bool,
    /// A producer had more than one request in flight.
    pub several_in_flight: bool,
    /// A partition got another leader, or the same one in a new leader epoch.
    pub leader_changed: bool,
    /// A leader was elected from outside the ISR (`unclean.leader.election.enable`).
    pub unclean_election: bool,
    /// Replicas of one partition that lost power and had not yet rejoined the ISR, at most at one time.
    pub lossy_crashes: u32,
    /// The only member of a partition's ISR lost power: it is elected again with what it kept, and replicas
    /// that have more cut it off. Explains broken invariants, not the loss: a scenario has to claim that.
    pub last_replica_lost_power: bool,
    pub min_insync_replicas: u32,
    /// `flush.messages=1`: nothing is acknowledged that is not on the disk.
    pub flushes_every_record: bool,
    /// `auto.offset.reset=latest`
    pub offset_reset_latest: bool,
    /// Retention may have removed records.
    pub records_expire: bool,
    /// Compaction may have.
    pub records_compacted: bool,
    /// Sends name record keys.
    pub has_record_keys: bool,
    /// Someone read every partition from its beginning.
    pub reads_from_beginning: bool,
    /// Consumers subscribe: a group rebalances between their polls.
    pub subscribes: bool,
    /// Cycles were looked for with write-write edges.
    pub ww_deps: bool,
    /// Transactions are read with `isolation.level=read_uncommitted`.
    pub read_uncommitted: bool,
}

/// The table for a context: for each name at most one reason, the weightiest.
pub fn allowed(context: &Context) -> Vec<Allowance> {
    let mut table = Table::default();
    for name in ["int-send-skip", "G0", "G0-process", "G0-realtime"] {
        table.allow(name, "Kafka does not isolate writes: sends of several producers interleave");
    }
    allow_weak_acks(context, &mut table);
    allow_loss(context, &mut table);
    if context.retries_without_idempotence {
        table.allow(
            "duplicate",
            "a retry without idempotence appends again what was appended before its response got lost",
        );
        if context.several_in_flight {
            for name in ["nonmonotonic-send", "int-nonmonotonic-send"] {
                table.allow(
                    name,
                    "a retried batch lands behind a later one that was in flight with it (no idempotence)",
                );
            }
        }
    }
    allow_lost_sequences(context, &mut table);
    if context.subscribes {
        for name in ["poll-skip", "nonmonotonic-poll"] {
            table.allow(name, "subscribed consumers are rebalanced between two polls");
        }
    }
    allow_gaps(context, &mut table);
    if context.read_uncommitted {
        for name in ["aborted-read", "precommitted-read"] {
            table.allow(name, "isolation.level=read_uncommitted hands out records of open and aborted transactions");
        }
    }
    let cycles = if context.ww_deps {
        "with write-write edges cycles follow from interleaved writes (ww_deps)"
    } else {
        "isolation.level=read_uncommitted: transactions read each other before they commit"
    };
    if context.ww_deps || context.read_uncommitted {
        for name in ["G1c", "G1c-process", "G1c-realtime"] {
            table.allow(name, cycles);
        }
    }
    if !context.has_record_keys {
        table.rows.retain(|row| row.anomaly != "lost-latest");
    }
    table.rows
}

/// Idempotence holds as long as both sides know the producer's epoch and sequences.
fn allow_lost_sequences(context: &Context, table: &mut Table) {
    if context.sequences_restated {
        let reason = "an idempotent producer that met a gap, or gave a batch up, begins a new epoch and sends anew what is in \
                      flight, in the log or not (KIP-360, KAFKA-14034)";
        for name in ["duplicate", "nonmonotonic-send", "int-nonmonotonic-send"] {
            table.allow(name, reason);
        }
    }
    if context.producers_forgotten {
        let reason = "a leader that knows nothing of a producer any more (producer.id.expiration.ms, or a restart after its \
                      records were deleted) takes any sequence";
        for name in ["duplicate", "producer-sequence"] {
            table.allow(name, reason);
        }
    }
}

/// An acknowledgement under acks=0 or 1 promises no more than that the request was sent, or appended by
/// the leader of that moment.
fn allow_weak_acks(context: &Context, table: &mut Table) {
    let reason = match context.acks {
        Acks::Zero => "acks=0 promises nothing: the send counts as done before any broker has it",
        Acks::One if context.leader_changed => {
            "acks=1 promises one copy, the leader's, and leadership changed: what only the old leader had is cut off"
        }
        Acks::One | Acks::All => return,
    };
    for name in ["lost-write", "unseen", "inconsistent-offsets", "nonmonotonic-send", "lost-latest"] {
        table.allow(name, reason);
    }
}

/// Consumers that rightly pass over records. A lost write is inferred from somebody having read beyond it,
/// which means nothing where reading beyond is no reading past; the same goes for a commit before anything
/// was handed out.
fn allow_gaps(context: &Context, table: &mut Table) {
    if context.offset_reset_latest {
        let reason = "auto.offset.reset=latest jumps to the end of the log";
        for name in ["poll-skip", "committed-too-far"] {
            table.allow(name, reason);
        }
        if !context.reads_from_beginning {
            for name in ["unseen", "lost-write", "lost-latest"] {
                table.allow(name, reason);
            }
        }
    }
    if context.records_expire {
        for name in ["poll-skip", "unseen", "lost-write", "committed-too-far", "lost-latest"] {
            table.allow(name, EXPIRED);
        }
    }
    if context.records_compacted {
        for name in ["poll-skip", "unseen", "lost-write", "committed-too-far"] {
            table.allow(name, "compaction removes records that nobody has read");
        }
        table.allow("int-poll-skip", "compaction removes records between those that one poll returns");
        table.allow("tombstone-missed", "compaction removes a tombstone after delete.retention.ms, read or not");
    }
}

/// Records that every in-sync replica had can vanish only with an unclean election or with the page caches
/// of min.insync.replicas machines.
fn allow_loss(context: &Context, table: &mut Table) {
    let reason = if context.unclean_election {
        "an unclean election made a replica outside the ISR the leader: committed records that it lacks are gone"
    } else if !context.flushes_every_record && context.lossy_crashes >= context.min_insync_replicas.max(1) {
        "as many replicas as min.insync.replicas lost power with records in their page caches (flush.messages)"
    } else if !context.flushes_every_record && context.last_replica_lost_power {
        let reason =
            "the only member of the ISR lost power and was elected again with what it kept (KIP-966 is not modelled)";
        for name in VIOLATIONS_OF_LOSS {
            table.allow(name, reason);
        }
        return;
    } else {
        return;
    };
    table.allow_loss_and_what_follows(reason);
}

/// Adds to a table what follows from a loss that the scenario itself claims (an expectation of lost writes
/// that none would not meet), for losses that the configuration alone does not explain.
pub fn allow_claimed_loss(rows: &mut Vec<Allowance>) {
    let mut table = Table { rows: std::mem::take(rows) };
    table.allow_loss_and_what_follows("the scenario expects acknowledged writes to be lost, and this follows from it");
    *rows = table.rows;
}

#[derive(Default)]
struct Table {
    rows: Vec<Allowance>,
}

impl Table {
    fn allow(&mut self, anomaly: &'static str, reason: &'static str) {
        if self.rows.iter().all(|row| row.anomaly != anomaly) {
            self.rows.push(Allowance { anomaly, reason });
        }
    }

    fn allow_loss_and_what_follows(&mut self, reason: &'static str) {
        for name in ["lost-write", "unseen", "inconsistent-offsets", "nonmonotonic-send", "lost-latest"] {
            self.allow(name, reason);
        }
        for name in ["poll-skip", "nonmonotonic-poll"] {
            self.allow(
                name,
                "the log was cut below a consumer's position: it is reset, or walks over the gap (KIP-320)",
            );
        }
        for name in VIOLATIONS_OF_LOSS {
            self.allow(name, reason);
        }
    }
}

impl Context {
    /// The context of a run: configuration from its variant, events from its trace.
    pub fn of_run(variant: &Variant, outcome: &RunOutcome) -> Context {
        let events = Events::of(&outcome.trace, outcome.started_at);
        let disturbed = !outcome.faults.is_empty() || events.retried || events.leader_changed;
        let mut context = Context {
            acks: Acks::All,
            retries_without_idempotence: false,
            sequences_restated: events.sequences_restated,
            producers_forgotten: events.producers_expired || (events.records_expired && events.restarted),
            several_in_flight: false,
            leader_changed: events.leader_changed,
            unclean_election: events.unclean_election && may_elect_uncleanly(variant),
            lossy_crashes: events.lossy_crashes,
            last_replica_lost_power: events.last_replica_lost_power,
            min_insync_replicas: min_insync_replicas(variant),
            flushes_every_record: flushes_every_record(variant),
            offset_reset_latest: false,
            records_expire: events.records_expired,
            records_compacted: events.records_compacted,
            has_record_keys: false,
            reads_from_beginning: events.read_back,
            subscribes: false,
            ww_deps: false,
            read_uncommitted: false,
        };
        for workload in &variant.workloads {
            match workload {
                Workload::Produce { config, keys, .. } => {
                    context.has_record_keys |= keys.is_some();
                    context.acks = weaker(context.acks, config.acks);
                    let may_retry = config.retries > 0 && config.acks != Acks::Zero;
                    context.retries_without_idempotence |= disturbed && may_retry && !config.enable_idempotence;
                    context.several_in_flight |= config.max_in_flight_requests_per_connection > 1;
                }
                Workload::Consume { config, .. } => {
                    context.subscribes |= config.group_id.is_some();
                    context.offset_reset_latest |= config.auto_offset_reset == OffsetReset::Latest;
                }
            }
        }
        context
    }

    /// The context of a saved history. What its configuration does not say is taken as Kafka's default
    /// (acks=all, idempotence), as transactions read committed, and as nothing having happened that a
    /// client cannot see, except a leader change.
    pub fn of_history(config: &HistoryConfig, history: &[HistoryEvent]) -> Context {
        let acks = match config.text("acks").as_deref() {
            Some("0") => Acks::Zero,
            Some("1") => Acks::One,
            Some(_) | None => Acks::All,
        };
        let either = |a: &str, b: &str| config.flag(a).or(config.flag(b));
        let idempotence = either("idempotence", "enable_idempotence").unwrap_or(acks == Acks::All);
        let retries = config.number("retries").unwrap_or(i64::from(i32::MAX));
        let in_flight = config.number("max_in_flight_requests_per_connection").or(config.number("max_in_flight"));
        let count = |key: &str| config.number(key).and_then(|n| u32::try_from(n).ok());
        let seeks = |e: &HistoryEvent| e.seek_to_beginning == Some(true) && e.kind == EventType::Ok;
        let records_compacted = config.text("cleanup_policy").is_some_and(|policy| policy.contains("compact"));
        let expires = |key: &str| config.number(key).is_some_and(|n| n >= 0);
        Context {
            acks,
            retries_without_idempotence: either("retries_without_idempotence", "duplicates_possible")
                .unwrap_or(!idempotence && retries > 0 && acks != Acks::Zero),
            sequences_restated: config.flag("sequences_restated").unwrap_or(false),
            producers_forgotten: config.flag("producers_forgotten").unwrap_or(false),
            several_in_flight: in_flight.unwrap_or(5) > 1,
            leader_changed: config.flag("leader_changed").unwrap_or(true),
            unclean_election: either("unclean_election", "unclean_leader_election_enable").unwrap_or(false),
            lossy_crashes: count("lossy_crashes").unwrap_or(0),
            last_replica_lost_power: config.flag("last_replica_lost_power").unwrap_or(false),
            min_insync_replicas: count("min_insync_replicas").unwrap_or(1),
            flushes_every_record: config.number("flush_messages") == Some(1),
            offset_reset_latest: config.text("auto_offset_reset").as_deref() == Some("latest"),
            records_expire: expires("retention_ms") || expires("retention_bytes"),
            records_compacted,
            has_record_keys: history.iter().any(names_record_key),
            reads_from_beginning: config.flag("reads_from_beginning").unwrap_or(false) || history.iter().any(seeks),
            subscribes: match config.words("sub_via") {
                Some(via) => via.iter().any(|word| word == "subscribe"),
                None => history.iter().any(|e| e.f == Function::Subscribe),
            },
            ww_deps: config.flag("ww_deps").unwrap_or(false),
            read_uncommitted: config.text("isolation_level").is_some_and(|l| l.replace('-', "_") == "read_uncommitted"),
        }
    }

    /// The configuration line of a saved history: [`Context::of_history`] gives this context back.
    pub fn to_config(&self) -> HistoryConfig {
        let Context {
            acks,
            retries_without_idempotence,
            sequences_restated,
            producers_forgotten,
            several_in_flight,
            leader_changed,
            unclean_election,
            lossy_crashes,
            last_replica_lost_power,
            min_insync_replicas,
            flushes_every_record,
            offset_reset_latest,
            records_expire,
            records_compacted,
            // Each send says it.
            has_record_keys: _,
            reads_from_beginning,
            subscribes,
            ww_deps,
            read_uncommitted,
        } = self;
        let mut config = HistoryConfig::default();
        config.set("acks", acks_name(*acks));
        config.set("idempotence", false);
        config.set("retries_without_idempotence", *retries_without_idempotence);
        config.set("sequences_restated", *sequences_restated);
        config.set("producers_forgotten", *producers_forgotten);
        config.set("max_in_flight", if *several_in_flight { 5 } else { 1 });
        config.set("leader_changed", *leader_changed);
        config.set("unclean_election", *unclean_election);
        config.set("lossy_crashes", *lossy_crashes);
        config.set("last_replica_lost_power", *last_replica_lost_power);
        config.set("min_insync_replicas", *min_insync_replicas);
        if *flushes_every_record {
            config.set("flush_messages", 1);
        }
        config.set("auto_offset_reset", if *offset_reset_latest { "latest" } else { "earliest" });
        if *records_compacted {
            config.set("cleanup_policy", "compact");
        }
        if *records_expire {
            config.set("retention_ms", 0);
        }
        config.set("reads_from_beginning", *reads_from_beginning);
        config.set("sub_via", vec![if *subscribes { "subscribe" } else { "assign" }]);
        config.set("ww_deps", *ww_deps);
        config.set("isolation_level", if *read_uncommitted { "read_uncommitted" } else { "read_committed" });
        config
    }
}

fn names_record_key(event: &HistoryEvent) -> bool {
    event.ops().iter().any(|op| matches!(op, MicroOp::Send { record_key: Some(_), .. }))
}

/// As in configuration: `0`, `1`, `all`.
pub fn acks_name(acks: Acks) -> &'static str {
    match acks {
        Acks::Zero => "0",
        Acks::One => "1",
        Acks::All => "all",
    }
}

fn weaker(a: Acks, b: Acks) -> Acks {
    match (a, b) {
        (Acks::Zero, _) | (_, Acks::Zero) => Acks::Zero,
        (Acks::One, _) | (_, Acks::One) => Acks::One,
        (Acks::All, Acks::All) => Acks::All,
    }
}

/// An unclean election is a reason only where it is allowed: elsewhere it is a defect.
fn may_elect_uncleanly(variant: &Variant) -> bool {
    let is_on = |config: &BTreeMap<String, String>| {
        config.get("unclean.leader.election.enable").map(|value| value.trim().eq_ignore_ascii_case("true"))
    };
    let of_cluster = variant.cluster.config.unclean_leader_election_enable;
    variant.topics.iter().any(|topic| is_on(&topic.config).unwrap_or(of_cluster))
}

/// The smallest of the topics, overrides included.
fn min_insync_replicas(variant: &Variant) -> u32 {
    let of_cluster = u32::try_from(variant.cluster.config.min_insync_replicas).unwrap_or(1);
    let of_topic = |config: &BTreeMap<String, String>| {
        config.get("min.insync.replicas").and_then(|value| value.parse().ok()).unwrap_or(of_cluster)
    };
    variant.topics.iter().map(|topic| of_topic(&topic.config)).min().unwrap_or(of_cluster)
}

fn flushes_every_record(variant: &Variant) -> bool {
    let of_cluster = variant.cluster.config.log.flush_messages;
    variant
        .topics
        .iter()
        .all(|topic| topic.config.get("flush.messages").and_then(|value| value.parse().ok()).unwrap_or(of_cluster) == 1)
}

/// What the trace tells of causes.
#[derive(Default)]
struct Events {
    leader_changed: bool,
    unclean_election: bool,
    /// A produce request was refused, or given up by its sender.
    retried: bool,
    read_back: bool,
    records_expired: bool,
    lossy_crashes: u32,
    last_replica_lost_power: bool,
    records_compacted: bool,
    sequences_restated: bool,
    producers_expired: bool,
    /// A broker was started during the run.
    restarted: bool,
}

/// One partition as the controller has committed it.
struct PartitionState {
    leader_epoch: LeaderEpoch,
    isr: Vec<BrokerId>,
    replicas: Vec<BrokerId>,
    /// Replicas that lost power and have not rejoined the ISR since.
    impaired: BTreeSet<BrokerId>,
}

impl Events {
    fn of(trace: &[TraceEvent], started_at: Time) -> Events {
        let mut events = Events::default();
        let mut partitions: BTreeMap<&TopicPartition, PartitionState> = BTreeMap::new();
        for event in trace {
            match &event.what {
                TraceKind::Observed(Observation::PartitionChanged {
                    partition,
                    leader_epoch,
                    isr,
                    replicas,
                    unclean,
                    ..
                }) => {
                    events.unclean_election |= unclean;
                    let state = partitions.entry(partition).or_insert_with(|| PartitionState {
                        leader_epoch: *leader_epoch,
                        isr: isr.clone(),
                        replicas: replicas.clone(),
                        impaired: BTreeSet::new(),
                    });
                    events.leader_changed |= event.at >= started_at && *leader_epoch != state.leader_epoch;
                    state.impaired.retain(|broker| state.isr.contains(broker) || !isr.contains(broker));
                    state.leader_epoch = *leader_epoch;
                    state.isr.clone_from(isr);
                    state.replicas.clone_from(replicas);
                }
                TraceKind::Observed(Observation::Refused { .. }) | TraceKind::BatchRetried { .. } => {
                    events.retried = true
                }
                TraceKind::Observed(Observation::Compacted { .. }) => events.records_compacted = true,
                TraceKind::Observed(Observation::LogStartMoved { reason, .. }) => {
                    events.records_expired |= deletes(*reason);
                }
                TraceKind::Stopped { power_lost: true } => {
                    let Some(broker) = broker_of(&event.machine) else { continue };
                    for state in partitions.values_mut().filter(|state| state.replicas.contains(&broker)) {
                        state.impaired.insert(broker);
                        events.last_replica_lost_power |= state.isr == [broker];
                        events.lossy_crashes = events.lossy_crashes.max(state.impaired.len() as u32);
                    }
                }
                TraceKind::Phase(Phase::FinalRead) => events.read_back = true,
                TraceKind::BatchSent { restated: true, .. } => events.sequences_restated = true,
                TraceKind::Observed(Observation::ProducersExpired { .. }) => events.producers_expired = true,
                TraceKind::Started => events.restarted |= event.at > started_at,
                TraceKind::Observed(_)
                | TraceKind::Sent { .. }
                | TraceKind::BatchSent { restated: false, .. }
                | TraceKind::PositionReset { .. }
                | TraceKind::ReadFailed { .. }
                | TraceKind::Process { .. }
                | TraceKind::Violated { .. }
                | TraceKind::Acked { .. }
                | TraceKind::Failed { .. }
                | TraceKind::Unknown { .. }
                | TraceKind::FaultStarted { .. }
                | TraceKind::FaultEnded { .. }
                | TraceKind::FaultHit { .. }
                | TraceKind::Stopped { power_lost: false }
                | TraceKind::Phase(Phase::Workload | Phase::Healed | Phase::Done) => {}
            }
        }
        events
    }
}

/// The id in `broker-1`.
pub(crate) fn broker_of(machine: &str) -> Option<BrokerId> {
    machine.strip_prefix("broker-")?.parse().ok().map(BrokerId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::LogStartReason;
    use crate::protocol::{Offset, PartitionEpoch};

    fn calm(acks: Acks) -> Context {
        Context {
            acks,
            retries_without_idempotence: false,
            sequences_restated: false,
            producers_forgotten: false,
            several_in_flight: true,
            leader_changed: false,
            unclean_election: false,
            lossy_crashes: 0,
            last_replica_lost_power: false,
            min_insync_replicas: 2,
            flushes_every_record: false,
            offset_reset_latest: false,
            records_expire: false,
            records_compacted: false,
            has_record_keys: false,
            reads_from_beginning: true,
            subscribes: false,
            ww_deps: false,
            read_uncommitted: false,
        }
    }

    const ALWAYS: [&str; 4] = ["int-send-skip", "G0", "G0-process", "G0-realtime"];

    fn names(context: &Context) -> Vec<&'static str> {
        allowed(context).iter().map(|row| row.anomaly).filter(|name| !ALWAYS.contains(name)).collect()
    }

    #[test]
    fn a_calm_cluster_is_allowed_nothing() {
        assert!(names(&calm(Acks::All)).is_empty());
        assert!(names(&calm(Acks::One)).is_empty());
    }

    #[test]
    fn acks_1_may_lose_once_leadership_changed() {
        let context = Context { leader_changed: true, ..calm(Acks::One) };
        assert_eq!(names(&context), ["lost-write", "unseen", "inconsistent-offsets", "nonmonotonic-send"]);
        assert!(names(&Context { acks: Acks::All, ..context }).is_empty());
    }

    #[test]
    fn acks_all_may_lose_with_the_page_caches_of_min_insync_replicas_machines() {
        let context = Context { lossy_crashes: 2, leader_changed: true, ..calm(Acks::All) };
        assert!(names(&context).contains(&"lost-write") && names(&context).contains(&"leader-completeness"));
        assert!(names(&Context { lossy_crashes: 1, ..context.clone() }).is_empty());
        assert!(names(&Context { min_insync_replicas: 3, ..context.clone() }).is_empty());
        assert!(names(&Context { flushes_every_record: true, ..context }).is_empty());
    }

    #[test]
    fn an_unclean_election_excuses_loss_but_no_duplicate() {
        let context = Context { unclean_election: true, flushes_every_record: true, ..calm(Acks::All) };
        assert!(names(&context).contains(&"lost-write") && names(&context).contains(&"log-matching"));
        assert!(!names(&context).contains(&"duplicate"));
    }

    #[test]
    fn the_last_replicas_power_loss_explains_broken_invariants_but_no_loss() {
        let context = Context { last_replica_lost_power: true, ..calm(Acks::All) };
        assert_eq!(names(&context), VIOLATIONS_OF_LOSS);
        assert!(names(&Context { flushes_every_record: true, ..context }).is_empty());
    }

    #[test]
    fn a_retry_reorders_only_with_several_requests_in_flight() {
        let context = Context { retries_without_idempotence: true, ..calm(Acks::All) };
        assert_eq!(names(&context), ["duplicate", "nonmonotonic-send", "int-nonmonotonic-send"]);
        assert_eq!(names(&Context { several_in_flight: false, ..context }), ["duplicate"]);
    }

    #[test]
    fn latest_excuses_unseen_only_if_nobody_read_from_the_beginning() {
        let context = Context { offset_reset_latest: true, ..calm(Acks::All) };
        assert_eq!(names(&context), ["poll-skip", "committed-too-far"]);
        assert_eq!(
            names(&Context { reads_from_beginning: false, ..context }),
            ["poll-skip", "committed-too-far", "unseen", "lost-write"]
        );
    }

    #[test]
    fn a_gap_within_a_poll_is_excused_by_compaction_only() {
        let retention = Context { records_expire: true, ..calm(Acks::All) };
        assert_eq!(names(&retention), ["poll-skip", "unseen", "lost-write", "committed-too-far"]);
        assert!(names(&Context { records_compacted: true, ..retention }).contains(&"int-poll-skip"));
    }

    #[test]
    fn cycles_through_reads_are_excused_by_write_write_edges_or_read_uncommitted() {
        let cycles = ["G1c", "G1c-process", "G1c-realtime"];
        assert_eq!(names(&Context { ww_deps: true, ..calm(Acks::All) }), cycles);
        let uncommitted = names(&Context { read_uncommitted: true, ..calm(Acks::All) });
        assert!(cycles.iter().all(|name| uncommitted.contains(name)) && uncommitted.contains(&"aborted-read"));
    }

    #[test]
    fn the_table_names_only_anomalies_and_violations_that_exist() {
        let everything = Context {
            acks: Acks::Zero,
            retries_without_idempotence: true,
            unclean_election: true,
            offset_reset_latest: true,
            records_expire: true,
            records_compacted: true,
            has_record_keys: true,
            reads_from_beginning: false,
            subscribes: true,
            ww_deps: true,
            read_uncommitted: true,
            ..calm(Acks::All)
        };
        for Allowance { anomaly, .. } in allowed(&everything) {
            assert!(crate::check::ANOMALIES.contains(&anomaly) || VIOLATIONS_OF_LOSS.contains(&anomaly), "{anomaly}");
        }
    }

    #[test]
    fn idempotence_ends_where_one_side_has_lost_track() {
        assert!(!names(&calm(Acks::All)).contains(&"duplicate"));
        let restated = Context { sequences_restated: true, ..calm(Acks::All) };
        assert_eq!(names(&restated), ["duplicate", "nonmonotonic-send", "int-nonmonotonic-send"]);
        let forgotten = Context { producers_forgotten: true, ..calm(Acks::All) };
        assert_eq!(names(&forgotten), ["duplicate", "producer-sequence"]);
    }

    #[test]
    fn a_context_survives_the_configuration_line_of_a_history() {
        let odd = Context {
            acks: Acks::Zero,
            retries_without_idempotence: true,
            sequences_restated: true,
            producers_forgotten: true,
            several_in_flight: false,
            leader_changed: true,
            unclean_election: true,
            lossy_crashes: 3,
            last_replica_lost_power: true,
            min_insync_replicas: 1,
            flushes_every_record: true,
            offset_reset_latest: true,
            records_expire: true,
            records_compacted: true,
            has_record_keys: false,
            reads_from_beginning: false,
            subscribes: true,
            ww_deps: true,
            read_uncommitted: true,
        };
        let expiring = Context { records_expire: true, ..calm(Acks::All) };
        for context in [calm(Acks::All), calm(Acks::One), expiring, odd] {
            assert_eq!(Context::of_history(&context.to_config(), &[]), context);
        }
    }

    #[test]
    fn a_history_without_configuration_is_held_to_kafkas_defaults() {
        let context = Context::of_history(&HistoryConfig::default(), &[]);
        assert_eq!((context.acks, context.retries_without_idempotence), (Acks::All, false));
        assert!(names(&context).is_empty());
    }

    fn events(trace: Vec<(&str, TraceKind)>) -> Events {
        let at = |(n, (machine, what)): (usize, (&str, TraceKind))| TraceEvent {
            at: Time::from_millis(n as u64),
            machine: machine.to_owned(),
            what,
        };
        Events::of(&trace.into_iter().enumerate().map(at).collect::<Vec<_>>(), Time::from_millis(1))
    }

    fn committed(leader: i32, epoch: i32, isr: &[i32]) -> (&'static str, TraceKind) {
        let brokers = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect();
        let changed = Observation::PartitionChanged {
            partition: TopicPartition::new("orders", 0),
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(epoch),
            partition_epoch: PartitionEpoch(0),
            isr: brokers(isr),
            replicas: brokers(&[1, 2, 3]),
            unclean: false,
        };
        ("controller", TraceKind::Observed(changed))
    }

    const POWER_LOST: TraceKind = TraceKind::Stopped { power_lost: true };

    #[test]
    fn power_losses_add_up_until_a_replica_is_back_in_the_isr() {
        let together = events(vec![committed(1, 0, &[1, 2, 3]), ("broker-1", POWER_LOST), ("broker-2", POWER_LOST)]);
        assert_eq!((together.lossy_crashes, together.leader_changed), (2, false));
        let in_turn = events(vec![
            committed(1, 0, &[1, 2, 3]),
            ("broker-1", POWER_LOST),
            committed(2, 1, &[2, 3]),
            committed(2, 1, &[1, 2, 3]),
            ("broker-2", POWER_LOST),
        ]);
        assert_eq!((in_turn.lossy_crashes, in_turn.leader_changed), (1, true));
        let not_fenced_yet = events(vec![
            committed(1, 0, &[1, 2, 3]),
            ("broker-1", POWER_LOST),
            committed(1, 0, &[1, 2]),
            ("broker-2", POWER_LOST),
        ]);
        assert_eq!(not_fenced_yet.lossy_crashes, 2);
    }

    #[test]
    fn records_expire_once_retention_or_a_client_moved_a_log_start() {
        let moved = |reason| {
            let (partition, from, to) = (TopicPartition::new("orders", 0), Offset(0), Offset(9));
            let moved = Observation::LogStartMoved { partition, from, to, reason };
            events(vec![("broker-1", TraceKind::Observed(moved))]).records_expired
        };
        assert!(moved(LogStartReason::RetentionSize) && moved(LogStartReason::DeleteRecords));
        assert!(!moved(LogStartReason::Leader), "a follower only follows");
    }

    #[test]
    fn only_power_lost_by_the_whole_isr_is_the_last_replicas() {
        let last = events(vec![committed(1, 0, &[1]), ("broker-1", POWER_LOST)]);
        assert!(last.last_replica_lost_power);
        let another = events(vec![committed(1, 0, &[1, 2]), ("broker-1", POWER_LOST), ("controller", POWER_LOST)]);
        assert!(!another.last_replica_lost_power);
        let killed = events(vec![committed(1, 0, &[1]), ("broker-1", TraceKind::Stopped { power_lost: false })]);
        assert_eq!((killed.last_replica_lost_power, killed.lossy_crashes), (false, 0));
    }
}
