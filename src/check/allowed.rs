//! What is allowed, and why: which anomalies and violations a configuration and what happened to the
//! cluster explain ([`Context`]). Everything that is not in the table is an error.

use serde::Serialize;

use super::context::Context;
use crate::config::Acks;

/// Violations that follow when records below the high watermark are lost for a legitimate reason.
pub const VIOLATIONS_OF_LOSS: [&str; 5] =
    ["candidate-completeness", "high-watermark-went-back", "leader-completeness", "log-matching", "strong-isr"];

/// Violations that follow for groups when their records, or what `__consumer_offsets` held, are lost.
const VIOLATIONS_OF_GROUPS: [&str; 3] = ["offset-rewind", "skipped-record", "owned-twice"];

/// Of records that were deleted. In a run it covers those below a log start that moved, see [`super::Expired`].
pub(super) const EXPIRED: &str = "retention removes records that nobody has read";

/// One line of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Allowance {
    /// Name of an anomaly or violation.
    pub anomaly: &'static str,
    pub reason: &'static str,
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
    if context.gave_up_without_idempotence {
        for name in ["nonmonotonic-send", "int-nonmonotonic-send"] {
            table.allow(name, "a batch that was given up may still arrive, behind later ones (no idempotence)");
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
        for name in ["poll-skip", "nonmonotonic-poll", "committed-too-far"] {
            self.allow(
                name,
                "the log was cut below a consumer's position: it is reset, or walks over the gap (KIP-320)",
            );
        }
        for name in VIOLATIONS_OF_LOSS.into_iter().chain(VIOLATIONS_OF_GROUPS) {
            self.allow(name, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::context::tests::calm;

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
    fn what_was_given_up_without_idempotence_may_come_late() {
        let context = Context { gave_up_without_idempotence: true, ..calm(Acks::All) };
        assert_eq!(names(&context), ["nonmonotonic-send", "int-nonmonotonic-send"]);
        assert_eq!(names(&Context { several_in_flight: false, ..context }).len(), 2, "over a connection of its own");
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
            let is_violation = VIOLATIONS_OF_LOSS.contains(&anomaly) || VIOLATIONS_OF_GROUPS.contains(&anomaly);
            assert!(crate::check::ANOMALIES.contains(&anomaly) || is_violation, "{anomaly}");
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
}
