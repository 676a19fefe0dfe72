//! Schedules of faults.
//!
//! A fault refers only to faults before it, so none waits for itself. What a fault is aimed at is mostly a role; when
//! it starts is mostly a time or shortly after the fault before it: most of the known failures of replication are two
//! or three faults that follow closely upon each other.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{Profile, Shape};
use crate::scenario::disk::DiskAction;
use crate::scenario::{Action, Comparison, Condition, Counter, Cycle, Fault, Links, Messages, Target, When};
use crate::world::sim::{Direction, DiskFault, DiskScope, Ppm, Survival, Survivors};

/// What a schedule is made of; swarm testing enables some of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Crash,
    PowerLoss,
    /// Stopped and started in one instant.
    Restart,
    ControlledShutdown,
    Pause,
    Isolate,
    Partition,
    Delay,
    Heal,
    ElectPreferred,
    PacketLoss,
    Flap,
    DelayMessage,
    DropMessage,
    SlowCpu,
    CrashLoop,
    SlowDisk,
}

impl Kind {
    const ALL: [Kind; 17] = [
        Kind::Crash,
        Kind::PowerLoss,
        Kind::Restart,
        Kind::ControlledShutdown,
        Kind::Pause,
        Kind::Isolate,
        Kind::Partition,
        Kind::Delay,
        Kind::Heal,
        Kind::ElectPreferred,
        Kind::PacketLoss,
        Kind::Flap,
        Kind::DelayMessage,
        Kind::DropMessage,
        Kind::SlowCpu,
        Kind::CrashLoop,
        Kind::SlowDisk,
    ];
    const STORAGE: [Kind; 7] = [
        Kind::Crash,
        Kind::PowerLoss,
        Kind::Restart,
        Kind::ControlledShutdown,
        Kind::ElectPreferred,
        Kind::CrashLoop,
        Kind::SlowDisk,
    ];
}

/// How many faults there are and how long they last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Regime {
    ManyShort,
    Mixed,
    FewLong,
}

pub(super) fn kinds(profile: Profile) -> BoxedStrategy<Vec<Kind>> {
    match profile {
        Profile::Storage => subsequence(Kind::STORAGE.to_vec(), 1..=Kind::STORAGE.len()).boxed(),
        Profile::Replication | Profile::All => subsequence(Kind::ALL.to_vec(), 1..=Kind::ALL.len()).boxed(),
    }
}

pub(super) fn regime() -> BoxedStrategy<Regime> {
    prop_oneof![2 => Just(Regime::ManyShort), 4 => Just(Regime::Mixed), 2 => Just(Regime::FewLong)].boxed()
}

/// A schedule for a cluster of this shape with these clients.
pub(super) fn schedule(shape: &Shape, clients: &[String]) -> BoxedStrategy<Vec<Fault>> {
    let count = match shape.regime {
        Regime::ManyShort => 6..=16_usize,
        Regime::Mixed => 2..=8,
        Regime::FewLong => 1..=4,
    };
    let draft = (start(), select(shape.kinds.clone()), aim(shape, clients), duration(shape.regime));
    let drafts = vec(draft, count);
    drafts.prop_map(assemble).boxed()
}

/// When a fault starts, before it is known which faults are before it.
#[derive(Clone, Debug)]
enum Start {
    At(Duration),
    /// So long after an earlier fault, counted backwards from this one, started or ended.
    After {
        back: usize,
        ended: bool,
        by: Duration,
    },
    On {
        state: State,
        after: Duration,
    },
}

/// A state of the first partition that a fault waits for.
#[derive(Clone, Copy, Debug)]
enum State {
    Committed(u64),
    IsrBelow(u64),
    IsrBack,
    LeaderIsNot(u32),
}

/// Everything that a fault may be aimed at; its kind picks what it needs.
#[derive(Clone, Debug)]
struct Aim {
    partition: String,
    replicas: i16,
    server: Target,
    anyone: Target,
    groups: Vec<Vec<Target>>,
    one_way: bool,
    link: (Target, Target),
    by: Duration,
    messages: (&'static str, Direction, Option<u32>),
    cycle: Cycle,
    loss: Ppm,
    survivors: Survivors,
    slowness: DiskFault,
    /// Aim at the machines of the fault before.
    again: bool,
}

fn start() -> BoxedStrategy<Start> {
    let by = prop_oneof![
        2 => Just(0),
        3 => 0..600_u64,
        2 => 0..4_000_u64,
    ];
    let state = prop_oneof![
        3 => (1..400_u64).prop_map(State::Committed),
        2 => (1..=2_u64).prop_map(State::IsrBelow),
        1 => Just(State::IsrBack),
        2 => (1..=2_u32).prop_map(State::LeaderIsNot),
    ];
    prop_oneof![
        4 => (100..26_000_u64).prop_map(|at| Start::At(ms(at))),
        5 => (1..=2_usize, any::<bool>(), by.clone()).prop_map(|(back, ended, by)| Start::After {
            back,
            ended,
            by: ms(by)
        }),
        2 => (state, by).prop_map(|(state, after)| Start::On { state, after: ms(after) }),
    ]
    .boxed()
}

fn duration(regime: Regime) -> BoxedStrategy<Option<Duration>> {
    let longest = match regime {
        Regime::ManyShort => 1_500_u64,
        Regime::Mixed => 6_000,
        Regime::FewLong => 20_000,
    };
    let length = prop_oneof![1 => 1..200_u64, 3 => 200..longest].prop_map(|length| Some(ms(length)));
    // Until another fault or the end undoes it.
    prop_oneof![12 => length, 1 => Just(None)].boxed()
}

fn aim(shape: &Shape, clients: &[String]) -> BoxedStrategy<Aim> {
    let (brokers, clients) = (shape.brokers, clients.to_vec());
    let partition = select(shape.partitions());
    let shape = shape.clone();
    let aimed = partition.prop_flat_map(move |partition| {
        let replicas = shape.replicas(&partition);
        let server = server(&partition, replicas, brokers);
        let client = select(clients.clone()).prop_map(Target::Client);
        let anyone = prop_oneof![9 => server.clone(), 1 => client.clone()].boxed();
        let groups = groups(&partition, replicas, brokers, &client.boxed());
        let by = prop_oneof![3 => 5..500_u64, 2 => 500..5_000_u64, 1 => 5_000..15_000_u64].prop_map(ms);
        let link = link(&partition, replicas, server.clone());
        let aimed = (Just(partition), Just(replicas), server, anyone, groups, any::<bool>(), link, by);
        let loss = (1..=60_u32).prop_map(|percent| Ppm(percent * 10_000));
        let details = (messages(), cycle(), loss, survivors(), slowness());
        (aimed, details, prop::bool::weighted(0.15))
    });
    aimed
        .prop_map(|((partition, replicas, server, anyone, groups, one_way, link, by), details, again)| Aim {
            messages: details.0,
            cycle: details.1,
            loss: details.2,
            survivors: details.3,
            slowness: details.4,
            partition,
            replicas,
            server,
            anyone,
            groups,
            one_way,
            link,
            by,
            again,
        })
        .boxed()
}

fn follower(partition: &str, replicas: i16) -> BoxedStrategy<Target> {
    let partition = partition.to_owned();
    if replicas < 2 {
        return Just(Target::Leader(partition)).boxed();
    }
    let all = Just(Target::Follower(partition.clone(), None));
    let one = (1..=replicas as usize - 1).prop_map(move |nth| Target::Follower(partition.clone(), Some(nth)));
    prop_oneof![1 => all, 3 => one].boxed()
}

fn server(partition: &str, replicas: i16, brokers: u32) -> BoxedStrategy<Target> {
    prop_oneof![
        8 => Just(Target::Leader(partition.to_owned())),
        8 => follower(partition, replicas),
        5 => (1..=brokers).prop_map(Target::Broker),
        1 => Just(Target::Isr(partition.to_owned())),
        1 => Just(Target::Brokers),
        1 => Just(Target::Controller),
    ]
    .boxed()
}

/// Two sides that share no machine.
fn groups(
    partition: &str,
    replicas: i16,
    brokers: u32,
    client: &BoxedStrategy<Target>,
) -> BoxedStrategy<Vec<Vec<Target>>> {
    let leader = Target::Leader(partition.to_owned());
    let follower = follower(partition, replicas).prop_map(move |target| match target {
        // A partition with one replica has no follower: its leader against the controller instead.
        Target::Leader(_) => Target::Controller,
        other => other,
    });
    let (one, two, three) = (leader.clone(), leader.clone(), leader.clone());
    let halves = (1..=brokers).prop_map(move |cut| {
        let side = |ids: std::ops::RangeInclusive<u32>| ids.map(Target::Broker).collect::<Vec<_>>();
        if cut == brokers {
            vec![side(1..=brokers), vec![Target::Controller]]
        } else {
            vec![side(1..=cut), side(cut + 1..=brokers)]
        }
    });
    prop_oneof![
        4 => follower.clone().prop_map(move |follower| vec![vec![one.clone()], vec![follower]]),
        4 => Just(vec![vec![leader], vec![Target::Controller]]),
        2 => follower.clone().prop_map(|follower| match follower {
            Target::Controller => vec![vec![Target::Brokers], vec![Target::Controller]],
            follower => vec![vec![follower], vec![Target::Controller]],
        }),
        2 => client.clone().prop_map(move |client| vec![vec![two.clone()], vec![client]]),
        2 => (follower, client.clone()).prop_map(move |(follower, client)| match follower {
            Target::Controller => vec![vec![three.clone(), client], vec![Target::Controller]],
            follower => vec![vec![three.clone(), client], vec![follower, Target::Controller]],
        }),
        2 => halves,
    ]
    .boxed()
}

fn link(partition: &str, replicas: i16, server: BoxedStrategy<Target>) -> BoxedStrategy<(Target, Target)> {
    let leader = Target::Leader(partition.to_owned());
    let (from, to) = (leader.clone(), leader.clone());
    let follower = follower(partition, replicas).prop_map(|target| match target {
        Target::Leader(_) => Target::Controller,
        other => other,
    });
    prop_oneof![
        3 => follower.clone().prop_map(move |follower| (follower, to.clone())),
        3 => follower.prop_map(move |follower| (from.clone(), follower)),
        2 => server.prop_map(|server| match server {
            Target::Controller => (Target::Brokers, Target::Controller),
            server => (server, Target::Controller),
        }),
        1 => Just((Target::Controller, leader)),
    ]
    .boxed()
}

/// What is said between brokers, the controller and clients about replication.
fn messages() -> BoxedStrategy<(&'static str, Direction, Option<u32>)> {
    let requests = ["Fetch", "Fetch", "Produce", "AlterPartition", "BrokerHeartbeat", "BrokerRegistration", "Metadata"];
    let direction = prop_oneof![Just(Direction::Request), Just(Direction::Response)];
    let count = prop_oneof![4 => (1..=3_u32).prop_map(Some), 1 => Just(None)];
    (select(requests.to_vec()), direction, count).boxed()
}

/// What a power loss leaves of what was not synced: mostly nothing, else torn, in order or not.
fn survivors() -> BoxedStrategy<Survivors> {
    let some =
        || select(vec![Survival::Nothing, Survival::Everything, Survival::Prefix, Survival::Subset, Survival::Subset]);
    let torn = (some(), some()).prop_map(|(pages, entries)| Survivors { pages, entries });
    prop_oneof![1 => Just(Survivors::NOTHING), 1 => torn].boxed()
}

/// Disks that take their time. Those that lie, fail or rot void what the guard builds on and are not drawn.
fn slowness() -> BoxedStrategy<DiskFault> {
    let by = || prop_oneof![3 => 1..100_u64, 1 => 100..2_000_u64].prop_map(ms);
    prop_oneof![
        by().prop_map(DiskFault::SyncSlow),
        by().prop_map(DiskFault::WriteSlow),
        by().prop_map(DiskFault::ReadSlow),
        Just(DiskFault::Stall),
        Just(DiskFault::ReadShort),
        (1_000..100_000_u64).prop_map(|bytes_per_second| DiskFault::Throttle { bytes_per_second }),
    ]
    .boxed()
}

fn cycle() -> BoxedStrategy<Cycle> {
    let parts = (200..4_000_u64, 10..=90_u32, prop_oneof![2 => (1..=4_u32).prop_map(Some), 1 => Just(None)]);
    parts.prop_map(|(period, percent, count)| Cycle { period: ms(period), duty: Ppm(percent * 10_000), count }).boxed()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

type Draft = (Start, Kind, Aim, Option<Duration>);

fn assemble(drafts: Vec<Draft>) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for (number, (start, kind, aim, duration)) in drafts.into_iter().enumerate() {
        let (when, after) = begin(&start, number, &aim);
        let again = (aim.again && hits_servers(&faults)).then_some(Target::SameAs(number));
        faults.push(fault(kind, aim, again, when, after, duration));
    }
    faults
}

/// Whether the last fault has machines, and they are servers: any kind of fault can be aimed at them again.
fn hits_servers(faults: &[Fault]) -> bool {
    let mut target = faults.last().and_then(|fault| fault.target.as_ref());
    while let Some(Target::SameAs(index)) = target {
        target = faults[index - 1].target.as_ref();
    }
    target.is_some_and(|target| !matches!(target, Target::Client(_) | Target::Controller))
}

/// `number`: how many faults are before this one.
fn begin(start: &Start, number: usize, aim: &Aim) -> (When, Duration) {
    match start {
        Start::At(at) => (When::At(*at), Duration::ZERO),
        Start::After { by, .. } if number == 0 => (When::At(ms(1_000) + *by), Duration::ZERO),
        Start::After { back, ended, by } => {
            let index = number - (back - 1).min(number - 1);
            (When::Condition(Condition::Fault { index, ended: *ended }), *by)
        }
        Start::On { state, after } => (When::Condition(condition(*state, aim)), *after),
    }
}

fn condition(state: State, aim: &Aim) -> Condition {
    let partition = aim.partition.clone();
    let size = u64::from(aim.replicas.unsigned_abs());
    match state {
        State::Committed(value) => {
            // A quarter: what one producer among several with several topics surely sends.
            let value = value / 4 + 1;
            let topic = partition.rsplit_once('-').map_or(partition.as_str(), |(topic, _)| topic);
            Condition::Count { what: Counter::Committed, of: topic.to_owned(), compare: Comparison::Ge, value }
        }
        State::IsrBelow(n) => {
            Condition::IsrSize { partition, compare: Comparison::Lt, value: size.saturating_sub(n).max(1) + 1 }
        }
        State::IsrBack => Condition::IsrSize { partition, compare: Comparison::Ge, value: size },
        State::LeaderIsNot(broker) => Condition::Leader { partition, negated: true, broker: broker.min(size as u32) },
    }
}

fn fault(
    kind: Kind,
    aim: Aim,
    again: Option<Target>,
    when: When,
    after: Duration,
    duration: Option<Duration>,
) -> Fault {
    let server = again.clone().filter(|_| kind != Kind::ControlledShutdown).unwrap_or_else(|| aim.server.clone());
    let anyone = again.unwrap_or(aim.anyone);
    let links = Links { from: aim.link.0, to: aim.link.1, both_ways: aim.one_way };
    let (action, target, duration) = match kind {
        Kind::Crash => (Action::Crash, Some(server), duration),
        Kind::PowerLoss => (Action::PowerLoss(aim.survivors), Some(server), duration),
        Kind::Restart => (Action::Restart { config: BTreeMap::new() }, Some(server), None),
        Kind::ControlledShutdown => {
            let target = if server == Target::Controller { Target::Leader(aim.partition) } else { server };
            (Action::ControlledShutdown, Some(target), duration)
        }
        Kind::Pause => (Action::Pause, Some(anyone), duration),
        Kind::Isolate => (Action::Isolate, Some(anyone), duration),
        Kind::Partition => (Action::Partition { groups: aim.groups, one_way: aim.one_way }, None, duration),
        Kind::Delay => (Action::Delay { links, by: aim.by, jitter: Duration::ZERO }, None, duration),
        Kind::PacketLoss => (Action::PacketLoss { links, loss: aim.loss }, None, duration),
        Kind::Flap => (Action::Flap { links, cycle: aim.cycle }, None, duration),
        Kind::DelayMessage => {
            let by = aim.by;
            (Action::DelayMessage { messages: messages_of(aim.messages, links), by }, None, duration)
        }
        Kind::DropMessage => (Action::DropMessage { messages: messages_of(aim.messages, links) }, None, duration),
        Kind::SlowCpu => (Action::SlowCpu { by: aim.by / 100 }, Some(anyone), duration),
        Kind::SlowDisk => {
            let what = DiskAction::Fault(aim.slowness);
            (Action::Disk { what, on: DiskScope::default() }, Some(server), duration)
        }
        Kind::CrashLoop => (Action::CrashLoop { cycle: aim.cycle }, Some(server), duration),
        Kind::Heal => (Action::Heal, None, None),
        Kind::ElectPreferred => (Action::ElectPreferred { of: aim.partition }, None, None),
    };
    Fault { when, after, action, target, duration, text: (String::new(), String::new()), line: 0 }
}

/// Half of the kinds of request go only one way: a filter by sender is enough to tell whose.
fn messages_of((request, direction, count): (&'static str, Direction, Option<u32>), links: Links) -> Messages {
    let key = ApiKey::iter().find(|key| format!("{key:?}") == request).expect("one of Kafka's requests");
    let sender = if links.both_ways { None } else { Some(links.from) };
    Messages { request: (request.to_owned(), key as i16), direction, from: sender, to: None, count }
}
