//! Was it legal? Which promise `acks`, `min.insync.replicas`, `flush.messages` and unclean election made, argued from
//! the decisive event; and the settings under which that event could not have cost the record.

use super::life::{Fate, Life, Loss, LostCopy, Snapshot};
use super::prose::{all_of, brokers, machines};
use super::settings::TopicSettings;
use super::{Remedy, Ruling, Setting};
use crate::observe::{LogStartReason, TruncationReason};
use crate::protocol::BrokerId;

/// What was promised to the producer of a record.
pub struct Promise<'a> {
    /// As configured: `0`, `1`, `all`.
    pub acks: &'a str,
    pub topic: &'a TopicSettings,
    /// The acknowledgement reached the producer.
    pub is_acknowledged: bool,
}

#[derive(Debug)]
pub struct Judged {
    pub ruling: Ruling,
    pub why: String,
    pub remedies: Vec<Remedy>,
}

impl Judged {
    fn legal(why: String, remedies: Vec<Remedy>) -> Judged {
        Judged { ruling: Ruling::Legal, why, remedies }
    }

    fn broken(why: String) -> Judged {
        Judged { ruling: Ruling::RuleBroken, why, remedies: Vec::new() }
    }
}

fn remedy(settings: &[(&'static str, &str)], why: &str) -> Remedy {
    let settings = settings.iter().map(|(key, value)| Setting { key, value: (*value).to_owned() }).collect();
    Remedy { settings, why: why.to_owned() }
}

const ACKS: (&str, &str) = ("acks", "all");
const FLUSH: (&str, &str) = ("flush.messages", "1");
const CLEAN: (&str, &str) = ("unclean.leader.election.enable", "false");
const TWO_IN_SYNC: (&str, &str) = ("min.insync.replicas", "2");

/// Judges what became of the record that `life` follows.
pub fn judge(life: &Life, promise: &Promise<'_>) -> Judged {
    match &life.fate {
        Fate::Kept => Judged {
            ruling: Ruling::Intact,
            why: "The last leader holds it: the log kept what it promised.".to_owned(),
            remedies: Vec::new(),
        },
        Fate::AppendedByDeposedLeader { .. } => deposed(life, promise),
        Fate::Election(election) if election.unclean => unclean(life, promise),
        Fate::Election(election) if election.held_once => match lost_by(life, election.leader) {
            Some(LostCopy { was_flushed: true, .. }) => untrue_disk(life, promise),
            Some(LostCopy { loss: Loss::Power { .. }, .. }) => elected_short(life, promise, election.leader),
            Some(copy) => cut(life, promise, &copy.loss),
            None => uncommitted(life, promise),
        },
        Fate::Election(_) => uncommitted(life, promise),
        Fate::CopyLost(copy) => match &copy.loss {
            Loss::Power { .. } if copy.was_flushed => untrue_disk(life, promise),
            Loss::Power { .. } => page_cache(life, promise),
            Loss::Deleted { reason, .. } => deleted(*reason),
            Loss::Compacted => Judged::legal(
                "Legal: a compacted topic keeps the latest record of each key, and a tombstone for delete.retention.ms."
                    .to_owned(),
                vec![remedy(&[("cleanup.policy", "delete")], "records are then deleted by age and size only")],
            ),
            loss @ (Loss::Truncated { .. } | Loss::Replaced { .. } | Loss::Recovery { .. }) => cut(life, promise, loss),
        },
    }
}

/// Retention and DeleteRecords keep no promise but their own; acks do not enter into it.
fn deleted(reason: LogStartReason) -> Judged {
    let (why, remedies) = match reason {
        LogStartReason::RetentionTime => (
            "a segment goes when its newest timestamp is older than retention.ms, read or not",
            vec![remedy(&[("retention.ms", "-1")], "no segment is deleted for its age")],
        ),
        LogStartReason::RetentionSize => (
            "the oldest segments go when the log is larger than retention.bytes, read or not",
            vec![remedy(&[("retention.bytes", "-1")], "no segment is deleted for the log's size")],
        ),
        LogStartReason::DeleteRecords => ("a client asked for it with DeleteRecords", Vec::new()),
        LogStartReason::Leader => ("a follower's log begins where its leader's does", Vec::new()),
    };
    Judged::legal(format!("Legal: {why}."), remedies)
}

fn lost_by(life: &Life, broker: BrokerId) -> Option<&LostCopy> {
    life.losses().filter(|copy| copy.broker == broker).last()
}

/// What was true when the producer was told, or when the leader appended it if it never was.
fn told(life: &Life) -> &Snapshot {
    life.acknowledged().map_or(&life.appended, |(_, now)| now)
}

impl Promise<'_> {
    fn waits_for_all(&self) -> bool {
        self.acks == "all"
    }

    fn min_insync_replicas(&self) -> usize {
        self.topic.min_insync_replicas.min(self.topic.replication_factor).max(1) as usize
    }

    /// What this `acks` says, for a record that not all in-sync replicas had.
    fn words(&self, life: &Life) -> String {
        let now = told(life);
        let isr = now.isr.len();
        match self.acks {
            "0" => "acks=0 promises nothing: the producer counts a record as done once it is handed to the network"
                .to_owned(),
            "1" if self.is_acknowledged => format!(
                "acks=1 promises one copy, in the log of the leader of that moment. When it was acknowledged {} of {isr} \
                 in-sync replicas had it, and the high watermark was {}{}",
                now.holders.iter().filter(|id| now.isr.contains(id)).count(),
                now.high_watermark,
                if now.high_watermark <= life.batch.last_offset { ": it was not committed" } else { "" }
            ),
            "all" if self.is_acknowledged => format!(
                "acks=all promises a copy in every replica that is in sync at that moment, and the ISR was {}; \
                 min.insync.replicas={} took that for enough",
                brokers(&now.isr),
                self.topic.min_insync_replicas
            ),
            _ => "it was never acknowledged: a record without an acknowledgement is promised to nobody".to_owned(),
        }
    }
}

fn deposed(life: &Life, promise: &Promise<'_>) -> Judged {
    if promise.waits_for_all() && promise.is_acknowledged && told(life).isr.len() > 1 {
        let why = "Not legal: acks=all was answered by a leader that had been replaced. Its high watermark cannot pass a \
                   record that the ISR does not fetch";
        return Judged::broken(why.to_owned() + ".");
    }
    let why = format!(
        "Legal: {}. A leader that the controller has replaced, and that has not heard of it, goes on appending.",
        promise.words(life)
    );
    let acks = remedy(
        &[ACKS],
        "the high watermark of a deposed leader cannot advance, its followers fetch from the new one; the producer would \
         have timed out and sent the record to the new leader",
    );
    let helps = !promise.waits_for_all() && life.committed().is_none();
    Judged::legal(why, if helps { vec![acks] } else { Vec::new() })
}

fn unclean(life: &Life, promise: &Promise<'_>) -> Judged {
    let Fate::Election(election) = &life.fate else { unreachable!("called for an election") };
    let before = &election.before;
    let why = format!(
        "Legal: unclean.leader.election.enable=true lets the controller elect a replica outside the ISR {} when no member \
         of it is alive, for availability; what that replica lacks is lost, committed or not.",
        brokers(&before.isr)
    );
    let in_sync_hold_it = before.isr.iter().all(|id| before.holders.contains(id));
    let waits = "the partition would have waited for the return of a member of the ISR, which held the record";
    let remedies = if in_sync_hold_it || promise.waits_for_all() {
        vec![remedy(&[CLEAN], waits)]
    } else {
        vec![remedy(&[ACKS, CLEAN], "every member of the ISR would have had it, and only they could have been elected")]
    };
    Judged::legal(why, remedies)
}

/// A clean election of a replica that never had it.
fn uncommitted(life: &Life, promise: &Promise<'_>) -> Judged {
    let Fate::Election(election) = &life.fate else { unreachable!("called for an election") };
    if promise.waits_for_all() && promise.is_acknowledged {
        return Judged::broken(format!(
            "Not legal: acks=all was answered, and an election from the ISR {} must then find the record in every member \
             of it (leader completeness); broker-{} did not have it.",
            brokers(&election.before.isr),
            election.leader
        ));
    }
    let committed = life.committed().is_some_and(|now| now.at < election.before.at);
    if committed && election.before.isr.contains(&election.leader) {
        return Judged::broken(format!(
            "Not legal: the high watermark had passed the record, so that every member of the ISR {} had to hold it \
             (leader completeness); broker-{} did not.",
            brokers(&election.before.isr),
            election.leader
        ));
    }
    let why = format!(
        "Legal: {}. An election asks whether a replica is in the ISR, not how far its log reaches: the ISR allows a lag \
         of replica.lag.time.max.ms.",
        promise.words(life)
    );
    let waits = "it waits until every in-sync replica has the record, broker-{} among them, before it acknowledges; \
                 otherwise the producer sends it again";
    let waits = waits.replace("{}", &election.leader.to_string());
    Judged::legal(why, if promise.waits_for_all() { Vec::new() } else { vec![remedy(&[ACKS], &waits)] })
}

/// An election of a replica that had lost its copy with its power, while others still had theirs.
fn elected_short(life: &Life, promise: &Promise<'_>, leader: BrokerId) -> Judged {
    let Fate::Election(election) = &life.fate else { unreachable!("called for an election") };
    let before = &election.before;
    let held = all_of(&before.holders);
    let why = format!(
        "Legal: Kafka acknowledges what is in page caches (flush.messages={}), and a replica keeps its place in the ISR \
         {} through a power loss, whatever it comes back with. {held} held the record but {} not in the ISR, and \
         unclean.leader.election.enable={} kept {} from leading. Eligible leader replicas (KIP-966) would have elected \
         one of them; they are not modelled.",
        flush(promise.topic.flush_messages),
        brokers(&before.isr),
        if before.holders.len() == 1 { "was" } else { "were" },
        promise.topic.unclean_leader_election,
        if before.holders.len() == 1 { "it" } else { "them" },
    );
    let outside = before.holders.iter().all(|id| !before.isr.contains(id));
    let why = if outside {
        why
    } else {
        format!(
            "Legal: Kafka acknowledges what is in page caches (flush.messages={}), and a replica keeps its place in the \
             ISR {} through a power loss, whatever it comes back with. {held} held the record too, but broker-{leader} \
             was elected.",
            flush(promise.topic.flush_messages),
            brokers(&before.isr),
        )
    };
    let flush = remedy(
        &[FLUSH],
        &format!("broker-{leader} would have had the record on its disk before it counted, and have come back with it"),
    );
    Judged::legal(why, vec![flush])
}

/// A disk lost what it had said to be durable.
fn untrue_disk(life: &Life, promise: &Promise<'_>) -> Judged {
    let why = format!(
        "Legal: {}. The log was flushed beyond the record: the disk lost what it had reported as durable, and recovery \
         keeps a log only up to the first batch that is not whole. No setting of Kafka makes a disk tell the truth.",
        promise.words(life)
    );
    let kept = told(life).isr.iter().any(|id| !life.power_lost.contains(id));
    let acks = remedy(
        &[ACKS],
        "it would not have been acknowledged before every in-sync replica had it, and one of them kept its power",
    );
    Judged::legal(why, if kept && !promise.waits_for_all() { vec![acks] } else { Vec::new() })
}

/// Every copy was in a page cache whose machine lost power.
fn page_cache(life: &Life, promise: &Promise<'_>) -> Judged {
    let now = told(life);
    let mut lost: Vec<BrokerId> = life.losses().map(|copy| copy.broker).collect();
    lost.sort();
    lost.dedup();
    let (copies, flushes) = (machines(&lost), flush(promise.topic.flush_messages));
    let page_cache = match lost.len() {
        1 => format!("its only copy was in the page cache of {copies}, which lost power"),
        n => format!("all {n} copies, on {copies}, were in page caches of machines that lost power"),
    };
    let page_cache =
        format!("Kafka leaves flushing to the operating system (flush.messages={flushes}), and {page_cache}");
    let why = format!("Legal: {}. {page_cache}.", promise.words(life));
    let flush_why = "every in-sync replica has the record on its disk before it is acknowledged";
    // Whom acks=all would have waited for: the ISR when the high watermark passed the record.
    let isr_then = if promise.waits_for_all() { Some(&now.isr) } else { life.committed().map(|then| &then.isr) };
    let refused = "the write would have been refused (NOT_ENOUGH_REPLICAS) until a second replica was in sync";
    let one_copy = "the only replica in sync, which alone could be elected, would have had it on its disk";
    let could_refuse = promise.min_insync_replicas() == 1 && promise.topic.replication_factor > 1;
    let remedies = match (promise.waits_for_all(), isr_then.map(Vec::len)) {
        (true, Some(1)) if could_refuse => vec![remedy(&[TWO_IN_SYNC], refused), remedy(&[FLUSH], one_copy)],
        (false, Some(1)) if could_refuse => vec![remedy(&[ACKS, TWO_IN_SYNC], refused), remedy(&[FLUSH], one_copy)],
        (_, Some(1)) => vec![remedy(&[FLUSH], one_copy)],
        (true, Some(_) | None) => vec![remedy(&[FLUSH], flush_why)],
        (false, Some(_)) => vec![remedy(&[ACKS, FLUSH], flush_why)],
        (false, None) if now.isr.len() < promise.min_insync_replicas() => vec![remedy(&[ACKS], refused)],
        (false, None) if now.isr.iter().any(|id| !life.power_lost.contains(id)) => vec![remedy(
            &[ACKS],
            "it would not have been acknowledged before every in-sync replica had it, and one of them kept its power",
        )],
        (false, None) => vec![remedy(&[ACKS, FLUSH], flush_why)],
    };
    Judged::legal(why, remedies)
}

/// Cut by a truncation or a recovery that no election explains.
fn cut(life: &Life, promise: &Promise<'_>, loss: &Loss) -> Judged {
    let committed = life.committed().is_some();
    match loss {
        Loss::Truncated { reason: TruncationReason::HighWatermark, to, .. } => Judged::broken(format!(
            "Not legal since KIP-101: the replica cut its log to its own high watermark ({to}), which lags behind the \
             leader's, instead of where the leader's epochs diverge{}.",
            if committed { "; the record was committed" } else { "" }
        )),
        Loss::Truncated { to, leader, leader_epoch, .. } if committed => Judged::broken(format!(
            "Not legal: the high watermark had passed the record, and following broker-{leader} in epoch {leader_epoch} \
             must not cut a log to {to}, below it (log matching)."
        )),
        Loss::Recovery { dropped_bytes } => Judged::legal(
            format!(
                "Legal: {}. Recovery keeps a log up to the first batch that is torn or whose CRC is wrong, and dropped \
                 {dropped_bytes} bytes.",
                promise.words(life)
            ),
            Vec::new(),
        ),
        Loss::Replaced { .. } => Judged::legal(
            format!(
                "Legal: {}. A disk that is replaced, or a log directory that fails, takes its copies with it.",
                promise.words(life)
            ),
            Vec::new(),
        ),
        Loss::Truncated { .. } | Loss::Power { .. } | Loss::Deleted { .. } | Loss::Compacted => Judged::legal(
            format!("Legal: {}.", promise.words(life)),
            if promise.waits_for_all() {
                Vec::new()
            } else {
                vec![remedy(&[ACKS], "it is not acknowledged before every in-sync replica has it")]
            },
        ),
    }
}

/// A record that no leader ever appended.
pub fn never_appended(promise: &Promise<'_>) -> Judged {
    if promise.is_acknowledged {
        return Judged::broken(
            "Not legal: the producer was told that the record was appended, and no leader ever appended it.".to_owned(),
        );
    }
    if promise.acks == "0" {
        return Judged::legal(
            "Legal: acks=0 promises nothing: the broker does not answer, so that the producer neither learns of an error \
             nor retries."
                .to_owned(),
            vec![remedy(&[ACKS], "the producer would have had no answer, and would have sent the record again")],
        );
    }
    Judged::legal(
        "Legal: it was never acknowledged: a record without an acknowledgement is promised to nobody.".to_owned(),
        Vec::new(),
    )
}

/// Kafka's default is `Long.MAX_VALUE`: never.
fn flush(messages: u64) -> String {
    if messages >= i64::MAX as u64 { "9223372036854775807, its default".to_owned() } else { messages.to_string() }
}
