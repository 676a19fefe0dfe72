//! Idempotent producers on a log that is rolled, cut, deleted from and killed, against a plain model: what is known of
//! a producer is what its batches in the log say, a retry is appended once, and nothing is appended out of order.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::batch::{self, Header};
use super::testing::*;
use super::{AppendError, Log, LogConfig, LogDirectory};
use crate::observe::{BatchInfo, Sequences};
use crate::protocol::{BrokerEpoch, ErrorCode, LeaderEpoch, Offset};
use crate::world::Time;

const CASES: u32 = 120;
const PRODUCERS: i64 = 3;

#[derive(Clone, Debug)]
enum Op {
    /// The producer's next batch, of so many records.
    Next {
        producer: i64,
        records: usize,
    },
    /// Its batch so many before its last one again.
    Retry {
        producer: i64,
        back: usize,
    },
    /// A batch that skips so many sequences.
    Skip {
        producer: i64,
        sequences: i32,
    },
    BumpEpoch {
        producer: i64,
    },
    OldEpoch {
        producer: i64,
    },
    /// A batch without a producer.
    Plain,
    /// To this many hundredths of the log.
    Truncate(i64),
    Retention,
    Flush,
    Kill,
    LosePower,
    Stop,
}

fn op() -> impl Strategy<Value = Op> {
    let producer = 0..PRODUCERS;
    prop_oneof![
        12 => (producer.clone(), 1..4usize).prop_map(|(producer, records)| Op::Next { producer, records }),
        6 => (producer.clone(), 0..8usize).prop_map(|(producer, back)| Op::Retry { producer, back }),
        2 => (producer.clone(), 1..9i32).prop_map(|(producer, sequences)| Op::Skip { producer, sequences }),
        1 => producer.clone().prop_map(|producer| Op::BumpEpoch { producer }),
        1 => producer.prop_map(|producer| Op::OldEpoch { producer }),
        2 => Just(Op::Plain),
        2 => (40..=100i64).prop_map(Op::Truncate),
        1 => Just(Op::Retention),
        1 => Just(Op::Flush),
        1 => Just(Op::Kill),
        1 => Just(Op::LosePower),
        1 => Just(Op::Stop),
    ]
}

struct Run {
    machine: Machine,
    config: LogConfig,
    directory: LogDirectory,
    log: Log,
    /// Every batch in the log's segments, with what it says of its producer.
    batches: Vec<(BatchInfo, Option<Sequences>)>,
}

impl Run {
    fn new(machine: Machine) -> Run {
        let config = LogConfig { retention_bytes: 1_500, ..small_segments() };
        let (directory, log) = create(&machine.disk(), &config);
        Run { machine, config, directory, log, batches: Vec::new() }
    }

    /// The producer's batches in the log, in order.
    fn of(&self, producer: i64) -> Vec<(BatchInfo, Sequences)> {
        let of = |(info, sequences): &(BatchInfo, Option<Sequences>)| sequences.map(|sequences| (*info, sequences));
        self.batches.iter().filter_map(of).filter(|(_, said)| said.producer_id == producer).collect()
    }

    /// The epoch that the log knows, and the sequence that comes next in it.
    fn next(&self, producer: i64) -> (i16, i32) {
        let known = self.log.producers().get(producer);
        known.map_or((0, 0), |entry| (entry.epoch, entry.batches.back().map_or(0, |batch| batch.last_sequence + 1)))
    }

    fn append(&mut self, producer: i64, epoch: i16, first: i32, records: usize) -> Result<Offset, ErrorCode> {
        let plain = batch_of(records, 60, 1_000);
        let plain_header = Header::parse(&plain).unwrap();
        let header = Header { producer_id: producer, producer_epoch: epoch, base_sequence: first, ..plain_header };
        let bytes = batch::encode(&header, &plain[batch::HEADER_BYTES..]);
        let end = self.log.log_end();
        let appended = match self.log.append_from_client(&bytes, LeaderEpoch(1), 0) {
            Ok(appended) => appended,
            Err(AppendError::Producer(error)) => {
                assert_eq!(self.log.log_end(), end, "what is refused is not appended");
                return Err(error.error_code());
            }
            Err(other) => panic!("{other}"),
        };
        match appended.batches[..] {
            [] => assert_eq!(self.log.log_end(), end, "a duplicate is not appended"),
            [batch] => {
                assert_eq!((appended.base_offset, batch.base_offset), (end, end));
                self.batches.push((batch, appended.sequences));
            }
            [..] => panic!("one batch was sent"),
        }
        Ok(appended.base_offset)
    }

    async fn step(&mut self, op: &Op) {
        match *op {
            Op::Next { producer, records } => {
                let (epoch, next) = self.next(producer);
                let end = self.log.log_end();
                assert_eq!(self.append(producer, epoch, next, records), Ok(end));
            }
            Op::Retry { producer, back } => self.retry(producer, back),
            Op::Skip { producer, sequences } => {
                let (epoch, next) = self.next(producer);
                let is_known = self.log.producers().get(producer).is_some();
                let skipped = self.append(producer, epoch, next + sequences, 1);
                assert_eq!(skipped.is_err_and(|error| error == ErrorCode::OutOfOrderSequenceNumber), is_known);
            }
            Op::BumpEpoch { producer } => {
                let (epoch, _) = self.next(producer);
                let end = self.log.log_end();
                assert_eq!(self.append(producer, epoch + 1, 0, 1), Ok(end));
            }
            Op::OldEpoch { producer } => {
                let (epoch, next) = self.next(producer);
                if epoch > 0 {
                    assert_eq!(self.append(producer, epoch - 1, next, 1), Err(ErrorCode::InvalidProducerEpoch));
                }
            }
            Op::Plain => {
                let appended = self.log.append_from_client(&batch_of(1, 60, 1_000), LeaderEpoch(1), 0).unwrap();
                self.batches.push((appended.batches[0], None));
            }
            Op::Truncate(hundredths) => {
                let start = self.log.log_start();
                self.log.truncate_to(start + (self.log.log_end() - start) * hundredths / 100).unwrap();
                self.directory.checkpoint_truncation([(&orders(), &self.log)].into_iter()).unwrap();
            }
            Op::Retention => {
                self.log.set_high_watermark(self.log.log_end());
                self.log.delete_old_segments(Time::ZERO, 1_000).unwrap();
            }
            Op::Flush => drop(self.log.flush().unwrap()),
            Op::Kill => {
                self.machine.kill().await;
                self.reopen();
            }
            Op::LosePower => {
                self.machine.lose_power().await;
                self.reopen();
            }
            Op::Stop => {
                self.directory.close([(&orders(), &mut self.log)].into_iter(), BrokerEpoch(1)).unwrap();
                self.machine.kill().await;
                self.reopen();
            }
        }
        self.check();
    }

    /// Among the last five of its epoch a retry is answered as the first time; an older one is refused.
    fn retry(&mut self, producer: i64, back: usize) {
        let batches = self.of(producer);
        let Some(at) = batches.len().checked_sub(back + 1) else { return };
        let (info, said) = batches[at];
        let known = self.log.producers().get(producer).expect("who has batches in the log is known");
        let is_remembered = known.batches.iter().any(|batch| batch.last_offset == info.last_offset);
        let records = (info.last_offset - info.base_offset + 1) as usize;
        let answer = self.append(producer, said.producer_epoch, said.first, records);
        if is_remembered {
            assert_eq!(answer, Ok(info.base_offset));
        } else {
            let old = [ErrorCode::OutOfOrderSequenceNumber, ErrorCode::InvalidProducerEpoch];
            assert!(answer.is_err_and(|error| old.contains(&error)), "{said:?}");
        }
    }

    fn reopen(&mut self) {
        let (directory, log, _) = reopen(&self.machine.disk(), &self.config);
        (self.directory, self.log) = (directory, log);
    }

    /// What the log knows of each producer is what its last batches say.
    fn check(&mut self) {
        let held = self.log.batches();
        let (first, end) = (self.log.segments[0].base_offset(), self.log.log_end());
        self.batches.retain(|(batch, _)| batch.base_offset >= first && batch.base_offset < end);
        assert_eq!(held, self.batches.iter().map(|(info, _)| *info).collect::<Vec<_>>());
        for producer in 0..PRODUCERS {
            let batches = self.of(producer);
            let Some((last, said)) = batches.last() else { continue };
            let known = self.log.producers().get(producer).expect("who has batches in the log is known");
            let newest = known.batches.back().expect("its last batch");
            assert_eq!((known.epoch, newest.last_sequence), (said.producer_epoch, said.last));
            assert_eq!(newest.last_offset, last.last_offset);
            assert!(known.batches.len() <= 5);
            let in_log = known.batches.iter().filter(|batch| batch.first_offset() >= first);
            for (batch, (info, said)) in in_log.rev().zip(batches.iter().rev()) {
                assert_eq!((batch.first_offset(), batch.last_offset), (info.base_offset, info.last_offset));
                assert_eq!((batch.first_sequence(), batch.last_sequence), (said.first, said.last));
            }
        }
    }
}

#[test]
fn producers_are_known_by_their_batches_whatever_happens_to_the_log() {
    let mut config = ProptestConfig::with_cases(CASES);
    config.rng_seed = RngSeed::Fixed(1);
    config.failure_persistence = None;
    proptest!(config, |(ops in prop::collection::vec(op(), 1..80))| {
        Machine::run(|machine| async move {
            let mut run = Run::new(machine);
            for op in &ops {
                run.step(op).await;
            }
        });
    });
}
