//! What retention and DeleteRecords deleted, and so which anomalies they explain.

use std::collections::BTreeMap;

use super::Anomalies;
use super::allowed::{Allowance, EXPIRED};
use super::evidence::{CommittedTooFar, Evidence, Jump, LostLatest, LostWrite, Unseen};
use crate::lab::outcome::{TraceEvent, TraceKind};
use crate::observe::{LogStartReason, Observation};

/// By key (`orders-0`): the highest log start that retention or a client made on any replica.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expired(BTreeMap<String, i64>);

impl Expired {
    pub fn of(trace: &[TraceEvent]) -> Expired {
        let mut expired = Expired::default();
        for event in trace {
            if let TraceKind::Observed(Observation::LogStartMoved { partition, to, reason, .. }) = &event.what
                && deletes(*reason)
            {
                let highest = expired.0.entry(partition.to_string()).or_default();
                *highest = to.0.max(*highest);
            }
        }
        expired
    }

    /// Up to where some replica deleted the records of a partition (`orders-0`): an offset, exclusive.
    pub fn deleted_below(&self, key: &str) -> i64 {
        self.0.get(key).copied().unwrap_or(0)
    }

    /// Anomalies that the table excuses by deletion alone, with cases that concern a record which nobody deleted: name
    /// and how many.
    pub fn leaves(&self, anomalies: &Anomalies, table: &[Allowance]) -> Vec<(&'static str, u64)> {
        let excused = table.iter().filter(|row| row.reason == EXPIRED).map(|row| row.anomaly);
        let left = excused.map(|name| {
            let cases = anomalies.evidence(name).iter();
            (name, cases.filter(|case| !self.explains(case)).count() as u64)
        });
        left.filter(|(_, count)| *count > 0).collect()
    }

    /// Whether everything that a case misses lay below a log start. Where an offset is not known, nothing speaks
    /// against it.
    fn explains(&self, case: &Evidence) -> bool {
        let is_below =
            |key: &str, end: Option<i64>| self.0.get(key).is_some_and(|expired| end.is_none_or(|end| end <= *expired));
        let behind = |offset: i64| offset.checked_add(1);
        match case {
            Evidence::LostWrite(LostWrite { key, offset, .. }) | Evidence::Unseen(Unseen { key, offset, .. }) => {
                is_below(key, offset.and_then(behind))
            }
            Evidence::LostLatest(LostLatest { key, offset, .. }) => is_below(key, behind(*offset)),
            // What was passed over ends before the record that came next.
            Evidence::Jump(Jump { key, offsets: [_, next], .. }) => is_below(key, *next),
            Evidence::CommittedTooFar(CommittedTooFar { key, committed, .. }) => is_below(key, Some(*committed)),
            Evidence::Duplicate(_)
            | Evidence::InconsistentOffsets(_)
            | Evidence::AbortedRead(_)
            | Evidence::PrecommittedRead(_)
            | Evidence::Phantom(_)
            | Evidence::Cycle(_)
            | Evidence::TombstoneMissed(_) => false,
        }
    }
}

/// A log start that moved for this reason takes records away; a follower's only follows.
pub fn deletes(reason: LogStartReason) -> bool {
    match reason {
        LogStartReason::RetentionTime | LogStartReason::RetentionSize | LogStartReason::DeleteRecords => true,
        LogStartReason::Leader => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::{Offset, TopicPartition};
    use crate::world::Time;

    fn moved(partition: i32, to: i64, reason: LogStartReason) -> TraceEvent {
        let partition = TopicPartition::new("orders", partition);
        let moved = Observation::LogStartMoved { partition, from: Offset::ZERO, to: Offset(to), reason };
        TraceEvent { at: Time::ZERO, machine: "broker-1".into(), what: TraceKind::Observed(moved) }
    }

    fn unseen(key: &str, offset: Option<i64>) -> Evidence {
        Evidence::Unseen(Unseen { key: key.to_owned(), value: json!(1), offset, writer: 0 })
    }

    fn skip(from: i64, to: i64) -> Evidence {
        Evidence::Jump(Jump {
            key: "orders-0".to_owned(),
            process: 1,
            operations: vec![3, 4],
            values: [json!(1), json!(2)],
            offsets: [Some(from), Some(to)],
            distance: to - from,
            skipped: Vec::new(),
        })
    }

    #[test]
    fn deletion_explains_what_lay_below_a_log_start_and_nothing_else() {
        let expired = Expired::of(&[
            moved(0, 100, LogStartReason::RetentionTime),
            moved(0, 80, LogStartReason::DeleteRecords),
            moved(1, 500, LogStartReason::Leader),
        ]);
        assert!(expired.explains(&unseen("orders-0", Some(99))) && expired.explains(&unseen("orders-0", None)));
        assert!(!expired.explains(&unseen("orders-0", Some(100))), "it was there to be read");
        assert!(!expired.explains(&unseen("orders-1", Some(3))), "a follower deletes nothing of its own");
        assert!(expired.explains(&skip(10, 100)) && !expired.explains(&skip(10, 101)));
    }

    #[test]
    fn one_case_beyond_what_was_deleted_is_left_over() {
        let expired = Expired::of(&[moved(0, 100, LogStartReason::RetentionSize)]);
        let mut anomalies = Anomalies::default();
        anomalies.add("unseen", unseen("orders-0", Some(7)));
        let row = |reason| [Allowance { anomaly: "unseen", reason }];
        assert_eq!(expired.leaves(&anomalies, &row(EXPIRED)), []);
        anomalies.add("unseen", unseen("orders-0", Some(300)));
        assert_eq!(expired.leaves(&anomalies, &row(EXPIRED)), [("unseen", 1)]);
        assert_eq!(expired.leaves(&anomalies, &row("acks=0 promises nothing")), [], "another reason covers it");
    }
}
