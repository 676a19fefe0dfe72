//! The checkers' rows of the benchmark ledger.

use super::{Options, analyze_with};
use crate::history::{self, EventType, Function, HistoryConfig, HistoryEvent, MicroOp, Records, Value};
use crate::lab::bench::{Ledger, Row, stopwatch};

const OPERATIONS: u64 = 1_000_000;
const PRODUCERS: u64 = 8;
const KEYS: u64 = 16;
/// Of so many operations one is a poll of each consumer, and one send is acknowledged after it was read.
const ROUND: u64 = 40;
const CONSUMERS: u64 = 4;

const PLAIN: &str = "checkers";
const WRITE_WRITE: &str = "checkers with write-write edges";
const MEASUREMENTS: &str = "measurements of a history";
const READ: &str = "history read from JSON Lines";

/// How fast a history of a million operations is judged.
pub fn measure(ledger: &mut Ledger<'_>) {
    ledger.measure(&[PLAIN, WRITE_WRITE, MEASUREMENTS, READ], rows);
}

fn rows() -> Vec<Row> {
    let history = healthy_history();
    let operations = history.iter().filter(|event| event.kind != EventType::Invoke).count();
    let detail = format!("{operations} operations on {KEYS} keys by {PRODUCERS} producers, {CONSUMERS} consumers");
    let row = |name: &'static str, work: &mut dyn FnMut()| {
        let clock = stopwatch();
        work();
        let value = operations as f64 / clock.elapsed().as_secs_f64();
        Row { name, value, unit: "operations / s", detail: detail.clone() }
    };
    let mut lines = Vec::new();
    history::write(&mut lines, &HistoryConfig::default(), &history).expect("memory takes everything");
    vec![
        row(PLAIN, &mut || assert!(analyze_with(&history, Options::default()).is_empty(), "it is healthy")),
        row(WRITE_WRITE, &mut || {
            assert!(analyze_with(&history, Options { ww_deps: true }).is_empty(), "single sends do not interleave");
        }),
        row(MEASUREMENTS, &mut || assert!(super::measure(&history).realtime_lag_ms.is_some(), "polls lag")),
        row(READ, &mut || {
            let (_, events) = history::read(lines.as_slice()).expect("our own history");
            assert_eq!(events.len(), history.len());
        }),
    ]
}

/// Producers that send one value after the other, each known to the consumers at once, some before they are
/// acknowledged; every consumer reads its own keys.
fn healthy_history() -> Vec<HistoryEvent> {
    let mut teller = Teller::default();
    let mut ends = [0i64; KEYS as usize];
    let mut read = [0i64; KEYS as usize];
    let keys: Vec<String> = (0..KEYS).map(|key| format!("orders-{key}")).collect();
    let mut operation = 0;
    while operation < OPERATIONS {
        let mut late = None;
        for _ in 0..ROUND - CONSUMERS {
            let key = (operation * 7 % KEYS) as usize;
            let producer = operation % PRODUCERS;
            let send = |offset| MicroOp::send(keys[key].clone(), value_at(key, ends[key]), offset);
            teller.tell(producer, EventType::Invoke, Function::Send, vec![send(None)]);
            let acknowledged = vec![send(Some(ends[key]))];
            ends[key] += 1;
            match late {
                None => late = Some((producer, acknowledged)),
                Some(_) => teller.tell(producer, EventType::Ok, Function::Send, acknowledged),
            }
            operation += 1;
        }
        for consumer in 0..CONSUMERS {
            let mut records = Records::new();
            for key in (0..KEYS as usize).filter(|key| *key as u64 % CONSUMERS == consumer) {
                let new = (read[key]..ends[key]).map(|offset| (Some(offset), value_at(key, offset)));
                records.insert(keys[key].clone(), new.collect());
                read[key] = ends[key];
            }
            let process = PRODUCERS + consumer;
            teller.tell(process, EventType::Invoke, Function::Poll, Vec::new());
            teller.tell(process, EventType::Ok, Function::Poll, vec![MicroOp::Poll { records }]);
            operation += 1;
        }
        let (producer, acknowledged) = late.expect("the first send of the round");
        teller.tell(producer, EventType::Ok, Function::Send, acknowledged);
    }
    teller.history
}

fn value_at(key: usize, offset: i64) -> serde_json::Value {
    serde_json::Value::from(offset * KEYS as i64 + key as i64)
}

#[derive(Default)]
struct Teller {
    history: Vec<HistoryEvent>,
}

impl Teller {
    fn tell(&mut self, process: u64, kind: EventType, f: Function, ops: Vec<MicroOp>) {
        let index = self.history.len() as u64;
        self.history.push(HistoryEvent {
            index,
            process: process as i64,
            kind,
            f,
            time: index * 10_000,
            value: Some(Value::Ops(ops)),
            error: None,
            seek_to_beginning: None,
            rebalance_log: None,
            group: None,
            committed: None,
        });
    }
}
