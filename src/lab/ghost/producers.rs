//! What the committed log says of idempotent producers: no gap and no repeat in (producer id, epoch, sequence), and within
//! an epoch the records in the order in which they were sent.

use std::collections::BTreeMap;

use crate::observe::{BatchInfo, Sequences};
use crate::protocol::Offset;

#[derive(Default)]
pub(super) struct ProducerGhost {
    /// By the CRC-32C of a batch that a leader appended; none for those of other producers, from the first of these on.
    stated: BTreeMap<u32, Option<Sequences>>,
    /// By the CRC-32C of a batch that an idempotent producer sent: the number of its first record.
    sent: BTreeMap<u32, u64>,
    /// In the order of the committed log: the offset of the batch, and what it says.
    committed: Vec<(Offset, Stated)>,
    /// Of each producer what it said last.
    last: BTreeMap<i64, Stated>,
}

/// What a batch says, and the number of its first record as far as it is known.
type Stated = (Sequences, Option<u64>);

impl ProducerGhost {
    /// An idempotent producer sends a batch, whose first record is its `number`th.
    pub fn sent(&mut self, crc: u32, number: u64) {
        self.sent.insert(crc, number);
    }

    /// A leader appended a batch.
    pub fn appended(&mut self, batch: &BatchInfo, sequences: Option<Sequences>) {
        if sequences.is_some() || !self.stated.is_empty() {
            self.stated.insert(batch.crc, sequences);
        }
    }

    /// The batches are committed; returns what does not follow on what was. The first that is heard of a producer may
    /// be any sequence: so it is for a leader.
    pub fn commit(&mut self, batches: &[BatchInfo]) -> Vec<String> {
        let mut broken = Vec::new();
        if self.stated.is_empty() {
            return broken;
        }
        for batch in batches {
            let Some(stated) = self.stated.get(&batch.crc).copied() else {
                // Its leader failed while it appended: nobody heard whose it is, and it survived.
                self.last.clear();
                continue;
            };
            let Some(stated) = stated else { continue };
            let number = self.sent.get(&batch.crc).copied();
            self.committed.push((batch.base_offset, (stated, number)));
            let Some((last, earlier)) = self.last.insert(stated.producer_id, (stated, number)) else { continue };
            let expected = match stated.producer_epoch == last.producer_epoch {
                true => last.last.checked_add(1).unwrap_or(0),
                false => 0,
            };
            let Sequences { producer_id, producer_epoch, first, last: end } = stated;
            let at = batch.base_offset;
            if stated.producer_epoch == last.producer_epoch
                && number.zip(earlier).is_some_and(|(number, earlier)| number < earlier)
            {
                broken.push(format!(
                    "sequences {first} to {end} in epoch {producer_epoch} of producer {producer_id} at offset {at} are of \
                     records that were sent before those of the sequences before them"
                ));
            }
            if stated.producer_epoch < last.producer_epoch || stated.first != expected {
                let (last_epoch, last) = (last.producer_epoch, last.last);
                broken.push(format!(
                    "sequences {first} to {end} in epoch {producer_epoch} of producer {producer_id} at offset {at} \
                     follow on {last} in epoch {last_epoch}"
                ));
            }
        }
        broken
    }

    /// Committed records are lost from `from` on.
    pub fn go_on_from(&mut self, from: Offset) {
        let keep = self.committed.partition_point(|(offset, _)| *offset < from);
        if keep < self.committed.len() {
            self.committed.truncate(keep);
            self.last = self.committed.iter().map(|(_, stated)| (stated.0.producer_id, *stated)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::LeaderEpoch;

    /// (epoch, first sequence, records) of one producer's batches, in the order of the log.
    fn broken(batches: &[(i16, i32, i32)]) -> Vec<String> {
        let mut ghost = ProducerGhost::default();
        let mut offset = Offset::ZERO;
        let mut infos = Vec::new();
        for (crc, &(producer_epoch, first, records)) in (0..).zip(batches) {
            let last_offset = offset + i64::from(records - 1);
            let info = BatchInfo { base_offset: offset, last_offset, leader_epoch: LeaderEpoch(0), crc };
            let last = first.wrapping_add(records - 1);
            ghost.appended(&info, Some(Sequences { producer_id: 7, producer_epoch, first, last }));
            infos.push(info);
            offset = last_offset + 1;
        }
        ghost.commit(&infos)
    }

    #[test]
    fn sequences_follow_on_one_another_and_begin_anew_with_an_epoch() {
        assert!(broken(&[(0, 0, 3), (0, 3, 1), (1, 0, 2), (1, 2, 1)]).is_empty());
        assert!(broken(&[(0, 9, 3), (0, 12, 1)]).is_empty(), "the first may be any");
        assert!(broken(&[(0, i32::MAX, 1), (0, 0, 1)]).is_empty());
    }

    #[test]
    fn a_repeat_a_gap_and_an_old_epoch_are_found() {
        for batches in [
            &[(0, 0, 3), (0, 0, 3)][..],
            &[(0, 0, 3), (0, 4, 1)],
            &[(0, 0, 1), (0, 1, 1), (0, 0, 1)],
            &[(1, 0, 1), (0, 1, 1)],
            &[(0, 0, 1), (1, 1, 1)],
        ] {
            assert_eq!(broken(batches).len(), 1, "{batches:?}");
        }
    }

    #[test]
    fn records_of_an_epoch_stand_in_the_order_of_their_sends() {
        // (epoch, number of the record) of batches of one record each.
        let broken = |batches: &[(i16, u64)]| {
            let mut ghost = ProducerGhost::default();
            let mut sequences = BTreeMap::new();
            let mut infos = Vec::new();
            for (offset, &(producer_epoch, number)) in (0..).zip(batches) {
                let next = sequences.entry(producer_epoch).or_insert(0);
                let stated = Sequences { producer_id: 7, producer_epoch, first: *next, last: *next };
                *next += 1;
                let base_offset = Offset(i64::from(offset));
                let info =
                    BatchInfo { base_offset, last_offset: base_offset, leader_epoch: LeaderEpoch(0), crc: offset };
                ghost.sent(offset, number);
                ghost.appended(&info, Some(stated));
                infos.push(info);
            }
            ghost.commit(&infos).len()
        };
        assert_eq!(broken(&[(0, 1), (0, 2), (0, 5)]), 0);
        assert_eq!(broken(&[(0, 1), (0, 5), (0, 2)]), 1);
        assert_eq!(broken(&[(0, 1), (0, 5), (1, 2), (1, 5)]), 0, "a new epoch may say again what is in the log");
    }

    #[test]
    fn a_batch_that_nobody_heard_of_may_be_any_producers() {
        let info = |offset: i64| BatchInfo {
            base_offset: Offset(offset),
            last_offset: Offset(offset),
            leader_epoch: LeaderEpoch(0),
            crc: offset as u32,
        };
        let stated = |first| Some(Sequences { producer_id: 7, producer_epoch: 0, first, last: first });
        let gap = |middle: Option<Option<Sequences>>| {
            let mut ghost = ProducerGhost::default();
            ghost.appended(&info(0), stated(0));
            if let Some(sequences) = middle {
                ghost.appended(&info(1), sequences);
            }
            ghost.appended(&info(2), stated(2));
            ghost.commit(&[info(0), info(1), info(2)]).len()
        };
        assert_eq!(gap(None), 0);
        assert_eq!(gap(Some(None)), 1, "a producer's without sequences fills no gap");
        assert_eq!(gap(Some(stated(1))), 0);
    }

    #[test]
    fn what_is_lost_may_be_said_again() {
        let stated = |first| Sequences { producer_id: 7, producer_epoch: 0, first, last: first };
        let info = |offset, crc| BatchInfo {
            base_offset: Offset(offset),
            last_offset: Offset(offset),
            leader_epoch: LeaderEpoch(0),
            crc,
        };
        let mut ghost = ProducerGhost::default();
        for at in 0..3 {
            ghost.appended(&info(i64::from(at), at as u32), Some(stated(at)));
        }
        assert!(ghost.commit(&[info(0, 0), info(1, 1), info(2, 2)]).is_empty());
        ghost.go_on_from(Offset(1));
        assert!(ghost.commit(&[info(1, 1)]).is_empty());
        assert_eq!(ghost.commit(&[info(2, 1)]).len(), 1);
    }
}
