//! The benchmark ledger: how fast the simulation is, beside the limit that madsim sets, measured in one
//! process. `faultline bench` and `cargo bench` print it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::outcome::{End, RunOutcome};
use super::run::run_one;
use crate::scenario::{Scenario, parse};

/// One line of the ledger.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// What was run, so that the figure can be judged.
    pub detail: String,
}

/// Collects rows: measures what is asked for, and says what is being measured.
pub struct Ledger<'a> {
    rows: Vec<Row>,
    only: &'a [String],
    announce: &'a dyn Fn(&str),
}

impl<'a> Ledger<'a> {
    /// `only`: parts of the names of the rows that are wanted; none means all.
    pub fn new(only: &'a [String], announce: &'a dyn Fn(&str)) -> Ledger<'a> {
        Ledger { rows: Vec::new(), only, announce }
    }

    /// Measures what gives the rows of these names, if one of them is wanted.
    pub fn measure(&mut self, names: &[&'static str], work: impl FnOnce() -> Vec<Row>) {
        let is_wanted = |name: &str| self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()));
        if names.iter().any(|name| is_wanted(name)) {
            (self.announce)(names[0]);
            self.rows.extend(work().into_iter().filter(|row| is_wanted(row.name)));
        }
    }

    pub fn rows(self) -> Vec<Row> {
        self.rows
    }
}

/// How fast clusters are simulated, and their logs.
pub fn measure(ledger: &mut Ledger<'_>) {
    ledger.measure(&[IDLE, FRAME_IDLE], || {
        let idle = timed(&cluster_scenario(1, 1, 2_000));
        vec![speed(IDLE, &idle), per_frame(FRAME_IDLE, &idle)]
    });
    ledger.measure(&[LIGHT], || vec![speed(LIGHT, &timed(&cluster_scenario(30_000, 100, 300)))]);
    ledger.measure(&[HEAVY, FRAME_HEAVY], || {
        let heavy = timed(&cluster_scenario(60_000, 1_000, 60));
        vec![speed(HEAVY, &heavy), per_frame(FRAME_HEAVY, &heavy)]
    });
    ledger.measure(&[GROUP], || vec![speed(GROUP, &timed(&group_scenario()))]);
    ledger.measure(&[SMALLEST], || vec![smallest_scenario()]);
    ledger.measure(&[ECHO], || vec![madsim_echo()]);
    ledger.measure(&super::bench_log::NAMES, || super::bench_log::rows(super::bench_log::BATCHES));
}

const IDLE: &str = "idle 3-broker cluster";
const FRAME_IDLE: &str = "wire frame, idle";
const LIGHT: &str = "100 unbatched records/s at acks=all";
const HEAVY: &str = "1,000 unbatched records/s at acks=all";
const FRAME_HEAVY: &str = "wire frame, 1,000 records/s";
const GROUP: &str = "a group of 100 members over 300 partitions";
const SMALLEST: &str = "smallest scenario";
const ECHO: &str = "bare madsim TCP echo";

/// The ledger as a table of text.
pub fn render(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let digits = if row.value < 100.0 { 2 } else { 0 };
        let value = format!("{:.digits$}", row.value);
        writeln!(text, "{:<40} {value:>10} {:<16} {}", row.name, row.unit, row.detail).expect("a String takes it");
    }
    text
}

struct Measured {
    outcome: RunOutcome,
    wall: Duration,
}

/// The real clock.
#[allow(clippy::disallowed_types, reason = "a benchmark reads the real clock")]
pub(crate) fn stopwatch() -> std::time::Instant {
    std::time::Instant::now()
}

fn timed(scenario: &Scenario) -> Measured {
    let clock = stopwatch();
    let outcome = run_one(scenario, 0, 1);
    let wall = clock.elapsed();
    assert_eq!(outcome.end, End::Complete, "a benchmark run must complete");
    Measured { outcome, wall }
}

/// Three brokers, one partition on all of them, one producer whose records are not batched.
fn cluster_scenario(records: u64, rate: u64, seconds: u64) -> Scenario {
    let text = format!(
        r#"# Benchmark: {records} records at {rate}/s in {seconds} s.
duration = "{seconds}s"
[cluster]
brokers = 3
[cluster.config]
"min.insync.replicas" = 2
[[topic]]
name = "orders"
partitions = 1
replication-factor = 3
[[workload]]
kind = "produce"
topic = "orders"
records = {records}
rate = {rate}
acks = "all"
config = {{ "batch.size" = 0, "linger.ms" = 0 }}
"#
    );
    parse("bench", "", &text).expect("the benchmark's scenario is valid")
}

/// A hundred members that all read one topic of 300 partitions, at Kafka's defaults.
fn group_scenario() -> Scenario {
    let mut text = "# Benchmark: 100 members over 300 partitions.\nduration = \"60s\"\n[cluster]\nbrokers = 3\n[[topic]]\n\
        name = \"orders\"\npartitions = 300\nreplication-factor = 3\n[[workload]]\nkind = \"produce\"\ntopic = \"orders\"\n\
        records = 6000\nrate = 100\nacks = \"all\"\n"
        .to_owned();
    for _ in 0..100 {
        text += "[[workload]]\nkind = \"consume\"\ntopic = \"orders\"\ngroup = \"billing\"\n\
            config = { \"auto.offset.reset\" = \"earliest\" }\n";
    }
    parse("bench", "", &text).expect("the benchmark's scenario is valid")
}

fn speed(name: &'static str, measured: &Measured) -> Row {
    let simulated = measured.outcome.ended_at.as_nanos() as f64 / 1e9;
    let wall = measured.wall.as_secs_f64();
    let frames = measured.outcome.messages;
    let detail =
        format!("{simulated:.0} simulated s, {frames} frames, {} events in {wall:.3} s", measured.outcome.events);
    Row { name, value: simulated / wall, unit: "simulated s / s", detail }
}

fn per_frame(name: &'static str, measured: &Measured) -> Row {
    let micros = measured.wall.as_secs_f64() * 1e6 / measured.outcome.messages as f64;
    Row { name, value: micros, unit: "us", detail: "wall time of the run / frames delivered".to_owned() }
}

/// One broker, ten records: what a run costs at least.
fn smallest_scenario() -> Row {
    const RUNS: u32 = 200;
    let text = "# Benchmark: the smallest run.\n[cluster]\nbrokers = 1\n[[topic]]\nname = \"t\"\npartitions = 1\n\
        replication-factor = 1\n[[workload]]\nkind = \"produce\"\ntopic = \"t\"\nrecords = 10\nrate = 100\nacks = \"1\"\n";
    let scenario = parse("bench", "", text).expect("the benchmark's scenario is valid");
    let clock = stopwatch();
    for seed in 0..RUNS {
        assert_eq!(run_one(&scenario, 0, u64::from(seed)).end, End::Complete, "a benchmark run must complete");
    }
    let value = f64::from(RUNS) / clock.elapsed().as_secs_f64();
    Row { name: SMALLEST, value, unit: "runs / s", detail: format!("{RUNS} runs, one after another") }
}

const ECHOES: u32 = 100_000;

/// Round trips over madsim's own TCP: the floor under everything that is simulated.
fn madsim_echo() -> Row {
    let wall = std::thread::spawn(|| {
        let clock = stopwatch();
        let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
        runtime.block_on(echo_both_ways());
        clock.elapsed()
    })
    .join()
    .expect("the echo does not panic");
    let value = wall.as_secs_f64() * 1e6 / f64::from(2 * ECHOES);
    Row { name: ECHO, value, unit: "us / message", detail: format!("{ECHOES} round trips") }
}

async fn echo_both_ways() {
    let handle = madsim::runtime::Handle::current();
    let address: SocketAddr = "10.0.0.1:1".parse().expect("an address");
    let server = handle.create_node().name("server").ip(address.ip()).build();
    let client = handle.create_node().name("client").ip("10.0.0.2".parse().expect("an address")).build();
    server.spawn(async move {
        let listener = madsim::net::TcpListener::bind(address).await.expect("bind");
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut byte = [0u8; 64];
        while stream.read_exact(&mut byte).await.is_ok() {
            stream.write_all(&byte).await.expect("write");
            stream.flush().await.expect("flush");
        }
    });
    madsim::time::sleep(Duration::from_secs(1)).await;
    let echoes = client.spawn(async move {
        let mut stream = madsim::net::TcpStream::connect(address).await.expect("connect");
        let mut byte = [7u8; 64];
        for _ in 0..ECHOES {
            stream.write_all(&byte).await.expect("write");
            stream.flush().await.expect("flush");
            stream.read_exact(&mut byte).await.expect("read");
        }
    });
    echoes.await.expect("the echo ends");
}
