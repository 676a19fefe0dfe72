//! What decides on what is allowed: a run's configuration and events, or what the configuration line of a saved history
//! says of both.

use std::collections::BTreeMap;

use super::events::Events;
use crate::config::{Acks, OffsetReset};
use crate::history::{EventType, Function, HistoryConfig, HistoryEvent, MicroOp};
use crate::lab::outcome::RunOutcome;
use crate::scenario::{SeekTo, Variant, Workload};

/// What decides on the table: configuration, and what happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Context {
    /// The weakest `acks` of any producer.
    pub acks: Acks,
    /// A producer without idempotence may have sent a batch again.
    pub retries_without_idempotence: bool,
    /// A producer without idempotence gave up a batch that may still arrive.
    pub gave_up_without_idempotence: bool,
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

impl Context {
    /// The context of a run: configuration from its variant, events from its trace.
    pub fn of_run(variant: &Variant, outcome: &RunOutcome) -> Context {
        let events = Events::of(&outcome.trace, outcome.started_at);
        let disturbed = !outcome.faults.is_empty() || events.retried || events.leader_changed;
        let mut context = Context {
            acks: Acks::All,
            retries_without_idempotence: false,
            gave_up_without_idempotence: false,
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
                    context.gave_up_without_idempotence |=
                        events.gave_up && config.acks != Acks::Zero && !config.enable_idempotence;
                    context.several_in_flight |= config.max_in_flight_requests_per_connection > 1;
                }
                Workload::Consume { config, membership, .. } => {
                    context.subscribes |= config.group_id.is_some();
                    let seek = membership.as_ref().and_then(|membership| membership.seek);
                    // Who seeks to the end passes over what lies before it, all the same.
                    context.offset_reset_latest |= config.auto_offset_reset == OffsetReset::Latest
                        || seek.is_some_and(|seek| seek.to == SeekTo::End);
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
            gave_up_without_idempotence: config
                .flag("gave_up_without_idempotence")
                .unwrap_or(!idempotence && acks != Acks::Zero && history.iter().any(is_unknown_send)),
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
            gave_up_without_idempotence,
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
        config.set("gave_up_without_idempotence", *gave_up_without_idempotence);
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

fn is_unknown_send(event: &HistoryEvent) -> bool {
    event.kind == EventType::Info && event.f == Function::Send
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::check::allowed::allowed;

    /// Nothing happened, and nothing unusual is configured.
    pub(in crate::check) fn calm(acks: Acks) -> Context {
        Context {
            acks,
            retries_without_idempotence: false,
            gave_up_without_idempotence: false,
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

    #[test]
    fn a_context_survives_the_configuration_line_of_a_history() {
        let odd = Context {
            acks: Acks::Zero,
            retries_without_idempotence: true,
            gave_up_without_idempotence: true,
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
        assert_eq!(allowed(&context), allowed(&calm(Acks::All)));
    }
}
