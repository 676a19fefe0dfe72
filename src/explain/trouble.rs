//! A partition in trouble: what led to a broken invariant, and what a partition without acknowledgements waited for.

use serde_json::Value as Json;

use super::loss::{Ranked, kafka_error};
use super::prose::{brokers, seconds};
use super::{Explanation, Facts, Ruling, SameFate};
use crate::lab::outcome::{Phase, TraceKind};
use crate::observe::Observation;
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, TopicPartition};

/// A pause between two acknowledgements is told beyond this.
const UNAVAILABLE_BEYOND_NS: u64 = 1_000_000_000;
/// Violations that are about the members of a group.
const OF_GROUPS: [&str; 2] = ["owned-twice", "offset-rewind"];
/// Events told of what led to a violation.
const LEADING_MAX: usize = 12;

impl Facts<'_> {
    /// Each kind of violation of each partition, the first of it.
    pub fn explain_violations(&self) -> Vec<Explanation> {
        let mut explanations: Vec<Explanation> = Vec::new();
        for (at, event) in self.case.trace.iter().enumerate() {
            let TraceKind::Violated { name, partition, detail } = &event.what else { continue };
            match explanations.iter_mut().find(|e| e.kind == *name && e.partition == *partition) {
                Some(known) => known.same_fate.records += 1,
                None => explanations.push(self.explain_violation(at, name, partition, detail)),
            }
        }
        explanations
    }

    fn explain_violation(&self, at: usize, name: &str, partition: &str, detail: &str) -> Explanation {
        let trace = self.case.trace;
        let of_partition = |p: &TopicPartition| p.to_string() == partition;
        let is_of_group = OF_GROUPS.contains(&name);
        let unclaimed = trace[..at].iter().rposition(|event| {
            matches!(&event.what, TraceKind::Observed(Observation::Unclaimed { partition: p, .. }) if of_partition(p))
        });
        let unclaimed = unclaimed.filter(|_| is_of_group);
        let mut moments = match is_of_group {
            true => (0..at).filter_map(|at| self.group_moment(partition, detail, at)).collect(),
            false => self.partition_moments(partition, 0, at),
        };
        let skipped = moments.len().saturating_sub(LEADING_MAX);
        moments.drain(..skipped);
        let last = moments.last().map(|moment| moment.at).filter(|_| is_of_group);
        let cause = unclaimed.or(last).unwrap_or(at.saturating_sub(1));
        if moments.iter().all(|moment| moment.at != cause) {
            moments.extend(self.any_moment(partition, cause));
        }
        for moment in &mut moments {
            moment.rank = 0;
        }
        let unclean = trace[..at].iter().rposition(|event| {
            matches!(&event.what, TraceKind::Observed(Observation::PartitionChanged { partition: p, unclean: true, .. }) if of_partition(p))
        });
        let dark = trace[..at].iter().rposition(|event| event.what == TraceKind::Stopped { power_lost: true });
        let legitimate = unclean
            .map(|at| (at, "unclean election"))
            .or(dark.map(|at| (at, "power loss")))
            .filter(|_| crate::check::VIOLATIONS_OF_LOSS.contains(&name));
        let when = |at: usize| seconds(self.moment(at, String::new()).ns);
        let (ruling, why) = match legitimate {
            _ if let Some(from) = unclaimed => (
                Ruling::Legal,
                format!(
                    "At {} the group's coordinator gave the partition to another member before who may have had it said that it \
                     lets go of it: so does Kafka's when a member says what it has taken up of an earlier assignment in the epoch of \
                     a later one (CurrentAssignmentBuilder.ownsRevokedPartitions), or the group leaves KIP-848 in the middle of a \
                     rebalance (ConsumerGroup.fromClassicGroup).",
                    when(from)
                ),
            ),
            Some((from, what)) => (
                Ruling::Legal,
                format!(
                    "It follows from the {what} at {} that committed records are gone: {} is then broken by what Kafka \
                     allows.",
                    when(from),
                    rule(name)
                ),
            ),
            None => (Ruling::RuleBroken, format!("Not legal: {}.", rule(name))),
        };
        Explanation {
            kind: name.to_owned(),
            also: Vec::new(),
            partition: partition.to_owned(),
            offset: None,
            value: None,
            summary: format!("At {}: {detail}.", when(at)),
            timeline: self.slice(moments, Some(cause)),
            decision: match self.any_moment(partition, cause) {
                Some(moment) => format!("{}, which {}", who(&trace[cause].machine), moment.text),
                None => format!("what {} did at that moment", trace[cause].machine),
            },
            ruling,
            why,
            holders: None,
            isr: None,
            remedies: Vec::new(),
            same_fate: SameFate { records: 1, offsets: Vec::new() },
        }
    }

    /// The longest time that a partition went without an acknowledgement although one was waited for, if it is long.
    pub fn explain_unavailability(&self) -> Vec<Explanation> {
        let mut partitions: std::collections::BTreeMap<&str, Waiting> = std::collections::BTreeMap::new();
        for (at, event) in self.case.trace.iter().enumerate() {
            match &event.what {
                TraceKind::Sent { partition, .. } if self.acks_of(&event.machine) != "0" => {
                    let waiting = partitions.entry(partition).or_default();
                    waiting.pending += 1;
                    waiting.since.get_or_insert(at);
                }
                TraceKind::Acked { partition, offset: Some(_), .. } => {
                    let waiting = partitions.entry(partition).or_default();
                    waiting.pending = waiting.pending.saturating_sub(1);
                    waiting.end(self, at);
                    waiting.since = (waiting.pending > 0).then_some(at);
                }
                TraceKind::Failed { partition, .. } | TraceKind::Unknown { partition, .. } => {
                    let waiting = partitions.entry(partition).or_default();
                    waiting.pending = waiting.pending.saturating_sub(1);
                }
                _ => {}
            }
        }
        let spans = partitions.into_iter().filter_map(|(name, waiting)| Some((name, waiting.longest?)));
        spans.map(|(name, (from, to, _))| self.explain_span(name, from, to)).collect()
    }

    fn explain_span(&self, partition: &str, from: usize, to: usize) -> Explanation {
        let trace = self.case.trace;
        let (start, end) = (trace[from].at, trace[to].at);
        let length = seconds(u64::try_from((end - start).as_nanos()).unwrap_or(u64::MAX));
        let mut moments = self.partition_moments(partition, from, to);
        // What began it may have happened just before the last acknowledgement.
        let fault = trace[..from].iter().rposition(|event| matches!(event.what, TraceKind::FaultStarted { .. }));
        if moments.iter().all(|moment| !matches!(trace[moment.at].what, TraceKind::FaultStarted { .. }))
            && let Some(fault) = fault
        {
            moments.extend(self.any_moment(partition, fault));
        }
        let refused = trace[from..to].iter().position(|event| {
            matches!(&event.what, TraceKind::Observed(Observation::Refused { partition: p, error_code }) if *error_code != 0 && p.to_string() == partition)
        });
        let refused = refused.map(|later| from + later);
        if let Some(at) = refused
            && let TraceKind::Observed(Observation::Refused { error_code, .. }) = &trace[at].what
        {
            moments.push(Ranked::new(at, 1, format!("refused a produce request with {}", kafka_error(*error_code))));
        }
        let sent = self.successful_send(to);
        let (ended_by, by_producer) = self.what_ended(&moments, sent, to);
        if by_producer && let TraceKind::BatchSent { broker, attempt, .. } = &trace[sent].what {
            moments.push(Ranked::new(sent, 0, format!("sent to broker-{broker} (attempt {attempt})")));
        }
        moments.push(Ranked::new(from, 0, "was the last to hear of success before it"));
        moments.push(Ranked::new(to, 0, "got the first acknowledgement after it"));
        let leaderless = trace[from..to].iter().find_map(|event| match &event.what {
            TraceKind::Observed(Observation::PartitionChanged { partition: p, leader, isr, .. })
                if p.to_string() == partition && *leader == BrokerId::NONE =>
            {
                Some(brokers(isr))
            }
            _ => None,
        });
        let error = refused.and_then(|at| match &trace[at].what {
            TraceKind::Observed(Observation::Refused { error_code, .. }) => Some(kafka_error(*error_code)),
            _ => None,
        });
        let why = match (leaderless, error.as_deref()) {
            (Some(isr), _) => format!(
                "Legal: only a member of the ISR {isr} may lead, and none was alive; unclean.leader.election.enable=true \
                 would have elected another, at the price of what it lacks."
            ),
            (None, Some("NOT_ENOUGH_REPLICAS")) => format!(
                "Legal: acks=all is refused while fewer than min.insync.replicas={} replicas are in sync.",
                self.topic(partition).min_insync_replicas
            ),
            (None, _) if by_producer => {
                "Legal: the partition had a leader for a while; the producer had not heard of it, \
                                         or did not reach it: it waits request.timeout.ms for an answer, \
                                         socket.connection.setup.timeout.ms for a connection, and backs off between \
                                         attempts."
                    .to_owned()
            }
            (None, _) => {
                "Legal: a leader that is gone is replaced after broker.session.timeout.ms, one that is cut off is \
                          waited for until request.timeout.ms, and a follower that is gone is waited for until \
                          replica.lag.time.max.ms."
                    .to_owned()
            }
        };
        let told = moments.iter().find(|moment| Some(moment.at) == ended_by);
        let decision = told.map_or_else(
            || "nothing in the cluster's state: the next attempt succeeded".to_owned(),
            |moment| format!("{}, which {}: that ended it", who(&trace[moment.at].machine), moment.text),
        );
        Explanation {
            kind: "unavailable".to_owned(),
            also: Vec::new(),
            partition: partition.to_owned(),
            offset: None,
            value: None,
            summary: format!(
                "For {length}, from {} to {}, no send to {partition} was acknowledged although some were waiting.",
                seconds(self.moment(from, String::new()).ns),
                seconds(self.moment(to, String::new()).ns)
            ),
            timeline: self.slice(moments, ended_by),
            decision,
            ruling: Ruling::Legal,
            why,
            holders: None,
            isr: None,
            remedies: Vec::new(),
            same_fate: SameFate::default(),
        }
    }

    /// The attempt that the acknowledgement at event `acked` answers; `acked` itself if it is not known.
    fn successful_send(&self, acked: usize) -> usize {
        let TraceKind::Acked { partition, value, .. } = &self.case.trace[acked].what else { return acked };
        let sending = self.records.sending(partition, &Json::from(*value));
        let attempts =
            sending.map_or(&[] as &[usize], |sending| self.records.attempts(partition, sending)).iter().rev();
        let is_send = |at: &&usize| matches!(self.case.trace[**at].what, TraceKind::BatchSent { .. });
        attempts.filter(|at| **at < acked).find(is_send).copied().unwrap_or(acked)
    }

    /// What ended the wait for the send at event `sent`, acknowledged at `acked`: a change of the partition while it was
    /// on its way or shortly before it, otherwise the producer, which sent it at last.
    fn what_ended(&self, moments: &[Ranked], sent: usize, acked: usize) -> (Option<usize>, bool) {
        let trace = self.case.trace;
        let waited = |from: usize, to: usize| trace[to].at.since(trace[from].at).as_nanos();
        let long = |from: usize, to: usize| waited(from, to) > u128::from(UNAVAILABLE_BEYOND_NS);
        let until = if long(sent, acked) { acked } else { sent };
        let last = |is_it: fn(&TraceKind) -> bool| {
            moments.iter().map(|moment| moment.at).filter(|at| *at <= until && is_it(&trace[*at].what)).max()
        };
        let change = last(ends_waiting).or_else(|| last(|what| matches!(what, TraceKind::FaultEnded { .. })));
        let election = moments.iter().map(|m| m.at).filter(|at| *at <= until && self.is_election(*at)).max();
        // A new leader ends it, unless what it lacked was a quorum of replicas in sync.
        let change = election.filter(|at| !self.lacks_replicas(*at, acked)).or(change);
        match change {
            Some(at) if until == acked || !long(at, sent) => (Some(at), false),
            Some(_) | None if sent != acked => (Some(sent), true),
            Some(_) | None => (change, false),
        }
    }

    /// What decided on a partition in `from..to`: the controller, leaders, truncations, machines, faults.
    pub fn partition_moments(&self, partition: &str, from: usize, to: usize) -> Vec<Ranked> {
        (from..to).filter_map(|at| self.any_moment(partition, at)).collect()
    }

    /// What matters of an event to the members of a group that `detail` names.
    fn group_moment(&self, partition: &str, detail: &str, at: usize) -> Option<Ranked> {
        let event = &self.case.trace[at];
        match &event.what {
            TraceKind::Joined { generation } if detail.contains(&*event.machine) => {
                Some(Ranked::new(at, 0, format!("joined generation {generation}")))
            }
            TraceKind::Observed(
                Observation::Unclaimed { .. } | Observation::OffsetExpired { .. } | Observation::GroupDeleted { .. },
            )
            | TraceKind::Stopped { .. }
            | TraceKind::FaultStarted { .. }
            | TraceKind::FaultEnded { .. } => self.any_moment(partition, at),
            _ => None,
        }
    }

    fn any_moment(&self, partition: &str, at: usize) -> Option<Ranked> {
        let is_it = |p: &TopicPartition| p.to_string() == partition;
        let (rank, text) = match &self.case.trace[at].what {
            TraceKind::Observed(observation) => match observation {
                Observation::PartitionChanged { partition, leader, leader_epoch, isr, unclean, .. }
                    if is_it(partition) =>
                {
                    let how = if *unclean { " in an unclean election" } else { "" };
                    let isr = brokers(isr);
                    let before = self.epoch_before(partition, at);
                    if *leader == BrokerId::NONE {
                        (0, format!("left the partition without a leader in epoch {leader_epoch}, ISR {isr}"))
                    } else if before == Some(*leader_epoch) {
                        (0, format!("changed the ISR to {isr}"))
                    } else {
                        (0, format!("elected broker-{leader}{how} in epoch {leader_epoch}, ISR {isr}"))
                    }
                }
                Observation::BecameLeader { partition, leader_epoch, log_end, .. } if is_it(partition) => {
                    (1, format!("led in epoch {leader_epoch} from log end {log_end}"))
                }
                Observation::BecameFollower { partition, leader_epoch, leader, log_end } if is_it(partition) => {
                    if *leader == BrokerId::NONE {
                        return None;
                    }
                    (2, format!("followed broker-{leader} in epoch {leader_epoch} from log end {log_end}"))
                }
                Observation::Truncated { partition, from, to, .. } if is_it(partition) => {
                    (0, format!("cut its log from {from} to {to}"))
                }
                Observation::LogLoaded { partition, log_end, .. } if is_it(partition) => {
                    (1, format!("came back with log end {log_end}"))
                }
                Observation::HighWatermark { partition, offset, as_leader: true } if is_it(partition) => {
                    return Some(Ranked::new(at, 3, format!("moved its high watermark to {offset}"))).filter(|_| {
                        matches!(self.case.trace.get(at + 1).map(|e| &e.what), Some(TraceKind::Violated { .. }))
                    });
                }
                Observation::Unclaimed { group, partition } if is_it(partition) => {
                    (0, format!("gave the partition to another member of {group} before it was let go of"))
                }
                Observation::OffsetExpired { group, partition, offset, .. } if is_it(partition) => {
                    (0, format!("forgot the commit of {offset} by group {group}"))
                }
                Observation::GroupDeleted { group } => (1, format!("deleted group {group}")),
                Observation::Fenced { broker, fenced: true, .. } => (1, format!("fenced broker-{broker}")),
                _ => return None,
            },
            TraceKind::Stopped { power_lost: true } => (0, "lost power".to_owned()),
            TraceKind::Stopped { power_lost: false } => (0, "stopped".to_owned()),
            TraceKind::Started => (2, "started".to_owned()),
            TraceKind::FaultStarted { index, targets } => (1, self.fault_text("began", *index, targets)),
            TraceKind::FaultEnded { index, targets } => (2, self.fault_text("ended", *index, targets)),
            TraceKind::Phase(Phase::Healed) => (2, "ended all faults".to_owned()),
            _ => return None,
        };
        Some(Ranked::new(at, rank, text))
    }
}

impl Facts<'_> {
    /// The controller made someone the leader.
    fn is_election(&self, at: usize) -> bool {
        match &self.case.trace[at].what {
            TraceKind::Observed(Observation::PartitionChanged { partition, leader, leader_epoch, .. }) => {
                *leader != BrokerId::NONE && self.epoch_before(partition, at) != Some(*leader_epoch)
            }
            _ => false,
        }
    }

    /// Between the two events a produce request was refused for want of in-sync replicas.
    fn lacks_replicas(&self, from: usize, to: usize) -> bool {
        let code = ErrorCode::NotEnoughReplicas.code();
        let is_refusal = |what: &TraceKind| matches!(what, TraceKind::Observed(Observation::Refused { error_code, .. }) if *error_code == code);
        self.case.trace[from..to].iter().any(|event| is_refusal(&event.what))
    }

    /// The partition's leader epoch as the controller had it before event `at`.
    fn epoch_before(&self, of: &TopicPartition, at: usize) -> Option<LeaderEpoch> {
        self.case.trace[..at].iter().rev().find_map(|event| match &event.what {
            TraceKind::Observed(Observation::PartitionChanged { partition, leader_epoch, .. }) if partition == of => {
                Some(*leader_epoch)
            }
            _ => None,
        })
    }
}

/// Sends without an outcome, and the longest time they waited.
#[derive(Default)]
struct Waiting {
    pending: u64,
    /// The event since which something waits without success.
    since: Option<usize>,
    /// From, to, nanoseconds.
    longest: Option<(usize, usize, u64)>,
}

impl Waiting {
    fn end(&mut self, facts: &Facts<'_>, at: usize) {
        let Some(since) = self.since else { return };
        let waited = facts.case.trace[at].at.since(facts.case.trace[since].at);
        let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        if waited > UNAVAILABLE_BEYOND_NS && self.longest.is_none_or(|(.., longest)| waited > longest) {
            self.longest = Some((since, at, waited));
        }
    }
}

/// An election, or another ISR.
fn ends_waiting(what: &TraceKind) -> bool {
    matches!(what, TraceKind::Observed(Observation::PartitionChanged { leader, .. }) if *leader != BrokerId::NONE)
}

/// A machine in a sentence.
fn who(machine: &str) -> String {
    match machine {
        "controller" => "the controller".to_owned(),
        "lab" => "the laboratory".to_owned(),
        other => other.to_owned(),
    }
}

/// The rule behind the name of a violation.
fn rule(name: &str) -> &'static str {
    match name {
        "log-matching" => "log matching (replicas agree, record and epoch, below their high watermarks)",
        "leader-completeness" => "leader completeness (a leader holds everything below the true high watermark)",
        "candidate-completeness" => {
            "candidate completeness (every member of the ISR, who may be elected, holds everything below the high watermark)"
        }
        "one-leader-per-epoch" => "a leader epoch has one leader",
        "leader-epoch-went-back" => "leader epochs never go back",
        "high-watermark-went-back" => "the high watermark of a leader never goes back",
        "producer-sequence" => {
            "the committed batches of an idempotent producer follow on one another: no gap and no repeat in its sequences, \
             in an epoch records in the order of their sends, and a leader knows its latest ones again"
        }
        "unawaited-sync" => {
            "until the rebalance timeout is over a coordinator waits for the SyncGroup of every member, and for no longer"
        }
        "refused-join" => "FENCED_MEMBER_EPOCH tells a member to join with epoch 0, and is no answer to that (KIP-848)",
        "expired-in-rebalance" => {
            "what the members of a group that rebalances will subscribe to is not known: no offset of it expires (KAFKA-13636)"
        }
        "tombstone-too-early" => {
            "a tombstone stays for delete.retention.ms from the first compaction on that has kept it (KIP-534)"
        }
        "liveness" => "a cluster in which every fault has ended gets all replicas back in sync",
        "unreadable" => "a cluster in which every fault has ended can be read to the end",
        _ => "an invariant that the observer checks at every event",
    }
}
