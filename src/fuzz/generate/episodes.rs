//! Episodes: faults that only together come to what a rule is about, each at the moment that the one before has made.
//!
//! Faults drawn one by one seldom fall into the order that failures of replication and storage are made of, since each
//! of them must hit a machine and a moment that depend on the others. What the published ones have in common is not
//! their schedule but a few such orders: a broker is struck again while it comes back and word of it is still on its way
//! (KIP-903, KAFKA-15221), leadership leaves a broker that lives and returns to it (KIP-101, KIP-320), who took over is
//! struck while the former leader is away (KIP-279, KAFKA-16541), a broker is stopped in good order and its disk is not
//! the same when it starts (KAFKA-10207, KAFKA-10471). Which fault, which request, when and for how long is drawn.

use std::ops::Range;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use proptest::prelude::*;
use proptest::sample::select;

use super::aim::survivors;
use super::{Profile, Shape, disks};
use crate::scenario::{Action, Condition, Fault, Links, Messages, Target, When};
use crate::world::sim::Direction;

/// What an episode is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Episode {
    /// A broker is struck while it comes back.
    Return,
    /// Leadership leaves a broker and returns to it.
    ThereAndBack,
    /// Who took over is struck.
    Succession,
    /// A broker that is stopped in good order is switched off.
    SwitchedOff,
    /// A time index of a broker that is stopped in good order rots: nothing is recovered when it starts.
    Rot,
}

/// In a quarter of the scenarios one that this profile may have.
pub(super) fn episodes(profile: Profile, compacts: bool) -> BoxedStrategy<Option<Episode>> {
    use Episode::{Return, Rot, Succession, SwitchedOff, ThereAndBack};
    let of_profile = match profile {
        Profile::Replication => vec![Return, Return, Return, Return, ThereAndBack, ThereAndBack, Succession],
        Profile::Storage => vec![Succession, Succession, Succession, SwitchedOff, Rot, Rot, Rot],
        Profile::Groups | Profile::All => vec![Return, Return, ThereAndBack, Succession, SwitchedOff],
    };
    // The cleaner would give it a valid CRC.
    let may_be = |episode: &Episode| !compacts || *episode != Rot;
    let of_profile: Vec<Episode> = of_profile.into_iter().filter(may_be).collect();
    prop_oneof![3 => Just(None), 1 => select(of_profile).prop_map(Some)].boxed()
}

/// The faults of an episode. They refer to each other: 1 is the first of them.
pub(super) fn faults(episode: Episode, shape: &Shape) -> BoxedStrategy<Vec<Fault>> {
    let shape = shape.clone();
    select(shape.partitions())
        .prop_flat_map(move |partition| {
            let stage = Stage { shape: shape.clone(), partition };
            match episode {
                Episode::Return => stage.comes_back(),
                Episode::ThereAndBack => stage.there_and_back(),
                Episode::Succession => stage.succession(),
                Episode::SwitchedOff => {
                    let outage = (survivors(), stage.time(20..1_000));
                    stage.at_rest(
                        outage.prop_map(|(survivors, down)| (Action::PowerLoss(survivors), Some(down))).boxed(),
                    )
                }
                Episode::Rot => {
                    let rot = disks::rot_of_index(&stage.partition);
                    stage.at_rest(rot.prop_map(|(what, on)| (Action::Disk { what, on }, None)).boxed())
                }
            }
        })
        .boxed()
}

fn step((when, after): Start, action: Action, target: Option<Target>, duration: Option<Duration>) -> Fault {
    Fault { when, after, action, target, duration, text: (String::new(), String::new()), line: 0 }
}

type Start = (When, Duration);

fn at(time: Duration) -> Start {
    (When::At(time), Duration::ZERO)
}

fn on(fault: usize, ended: bool, after: Duration) -> Start {
    (When::Condition(Condition::Fault { index: fault, ended }), after)
}

/// Where an episode takes place.
#[derive(Clone)]
struct Stage {
    shape: Shape,
    partition: String,
}

impl Stage {
    fn time(&self, brisk_ms: Range<u64>) -> BoxedStrategy<Duration> {
        let pace = self.shape.pace;
        brisk_ms.prop_map(move |ms| pace.time(ms)).boxed()
    }

    /// When it begins: early enough for what follows.
    fn begin(&self) -> BoxedStrategy<Duration> {
        let latest = self.shape.pace.seconds() * 1_000 / 2;
        (100..latest).prop_map(Duration::from_millis).boxed()
    }

    fn leader(&self) -> Target {
        Target::Leader(self.partition.clone())
    }

    fn broker(&self) -> BoxedStrategy<u32> {
        let any = 1..=self.shape.brokers;
        match self.shape.focus {
            Some(focus) => prop_oneof![7 => Just(focus), 3 => any].boxed(),
            None => any.boxed(),
        }
    }

    /// A broker that has the controller, but no other broker.
    fn cut_from_brokers(&self, broker: u32) -> Option<Action> {
        let others: Vec<Target> = (1..=self.shape.brokers).filter(|id| *id != broker).map(Target::Broker).collect();
        let is_alone = others.is_empty();
        let groups = vec![vec![Target::Broker(broker)], others];
        (!is_alone).then_some(Action::Partition { groups, one_way: false })
    }

    /// A follower that gets everything late, though not so late that it leaves the ISR for it.
    fn behind(&self) -> BoxedStrategy<Option<Fault>> {
        let followers = self.shape.replicas(&self.partition) as usize - 1;
        if followers == 0 {
            return Just(None).boxed();
        }
        let (leader, partition) = (self.leader(), self.partition.clone());
        let drawn = (0..2_000_u64, 1..=followers, self.time(300..4_000), self.time(6_000..20_000));
        let late = drawn.prop_map(move |(ms, nth, by, lasts)| {
            let to = Target::Follower(partition.clone(), Some(nth));
            let links = Links { from: leader.clone(), to, both_ways: false };
            let action = Action::Delay { links, by, jitter: Duration::ZERO };
            Some(step(at(Duration::from_millis(ms)), action, None, Some(lasts)))
        });
        prop_oneof![1 => Just(None), 3 => late].boxed()
    }

    /// A broker is struck once a request of it, or about it, is on its way, and is there again, perhaps with less than it
    /// had, when that arrives. It may have been away before, so that the request is what lets it in again; and it may take
    /// a while to catch up.
    fn comes_back(&self) -> BoxedStrategy<Vec<Fault>> {
        let stage = self.clone();
        let away = (
            select(vec![Action::Crash, Action::Isolate, Action::Pause, Action::ControlledShutdown]),
            self.time(500..6_000),
            prop::bool::weighted(0.7),
        );
        let requests = prop_oneof![
            2 => Just((ApiKey::Fetch, true)),
            2 => Just((ApiKey::AlterPartition, false)),
            1 => Just((ApiKey::BrokerRegistration, true)),
        ];
        let late = (requests, prop_oneof![2 => Just(Some(1_u32)), 1 => Just(None)], self.time(2_000..15_000));
        let outage = (survivors(), 0..=60_u32, self.time(20..1_500));
        let kept_off = prop_oneof![1 => Just(None), 3 => self.time(1_000..10_000).prop_map(Some)];
        (self.broker(), self.begin(), away, late, outage, kept_off)
            .prop_map(move |(broker, begin, away, late, outage, kept_off)| {
                let ((absence, lasts, is_away), (survivors, percent, down)) = (away, outage);
                let ((key, is_of_it), count, by) = late;
                let me = Target::Broker(broker);
                let mut episode = Vec::new();
                let mut start = at(begin);
                if is_away {
                    episode.push(step(start, absence, Some(me.clone()), Some(lasts)));
                    start = on(1, true, Duration::ZERO);
                }
                let (request, direction) = ((format!("{key:?}"), key as i16), Direction::Request);
                let messages = Messages { request, direction, from: is_of_it.then(|| me.clone()), to: None, count };
                episode.push(step(start, Action::DelayMessage { messages, by }, None, Some(by * 2)));
                // That starts with the first message.
                let held = on(episode.len(), false, by * percent / 100);
                episode.push(step(held, Action::PowerLoss(survivors), Some(me), Some(down)));
                if let Some((lasts, cut)) = kept_off.zip(stage.cut_from_brokers(broker)) {
                    let struck = on(episode.len(), false, Duration::ZERO);
                    episode.push(step(struck, cut, None, Some(lasts)));
                }
                episode
            })
            .boxed()
    }

    /// Leadership leaves a broker that stays up, for one that has less, and comes back while a follower is slow.
    fn there_and_back(&self) -> BoxedStrategy<Vec<Fault>> {
        let (leader, partition) = (self.leader(), self.partition.clone());
        let from_controller =
            Action::Partition { groups: vec![vec![leader.clone()], vec![Target::Controller]], one_way: false };
        let without_it = prop_oneof![
            3 => Just((from_controller, None)),
            1 => Just((Action::Isolate, Some(leader.clone()))),
            1 => Just((Action::Pause, Some(leader))),
        ];
        let slow = (self.broker(), self.time(300..6_000), self.time(2_000..10_000));
        let slow = prop_oneof![1 => Just(None), 4 => slow.prop_map(Some)];
        let back = prop_oneof![1 => Just(Duration::ZERO), 3 => self.time(1..3_000)];
        (self.behind(), self.begin(), without_it, self.time(1_000..9_000), back, slow)
            .prop_map(move |(behind, begin, (cut, target), lasts, back, slow)| {
                let mut episode = Vec::from_iter(behind);
                episode.push(step(at(begin), cut, target, Some(lasts)));
                let elect = Action::ElectPreferred { of: partition.clone() };
                episode.push(step(on(episode.len(), true, back), elect, None, None));
                if let Some((broker, by, lasts)) = slow {
                    let request = (format!("{:?}", ApiKey::Fetch), ApiKey::Fetch as i16);
                    let from = Some(Target::Broker(broker));
                    let messages = Messages { request, direction: Direction::Request, from, to: None, count: None };
                    let elected = on(episode.len(), false, Duration::ZERO);
                    episode.push(step(elected, Action::DelayMessage { messages, by }, None, Some(lasts)));
                }
                episode
            })
            .boxed()
    }

    /// The leader goes with what a follower that is behind has not got, and who leads instead, or whoever is in sync then,
    /// is struck before it is back.
    fn succession(&self) -> BoxedStrategy<Vec<Fault>> {
        let (leader, isr) = (self.leader(), Target::Isr(self.partition.clone()));
        let by_itself = select(vec![Action::Crash, Action::Isolate]);
        let absence = prop_oneof![3 => by_itself, 1 => survivors().prop_map(Action::PowerLoss)];
        let away = (absence, self.time(4_000..18_000));
        let who = select(vec![leader.clone(), isr]);
        let outage = (who, prop::bool::weighted(0.6), survivors(), self.time(500..6_000), self.time(20..3_000));
        (self.behind(), self.begin(), away, outage)
            .prop_map(move |(behind, begin, (absence, lasts), (who, is_orderly, survivors, led, down))| {
                let mut episode = Vec::from_iter(behind);
                episode.push(step(at(begin), absence, Some(leader.clone()), Some(lasts)));
                let struck = on(episode.len(), false, led);
                let power_loss = Action::PowerLoss(survivors);
                if is_orderly {
                    episode.push(step(struck, Action::ControlledShutdown, Some(who), None));
                    let stopped = episode.len();
                    let switched_off = on(stopped, false, down);
                    episode.push(step(switched_off, power_loss, Some(Target::SameAs(stopped)), Some(down)));
                } else {
                    episode.push(step(struck, power_loss, Some(who), Some(down)));
                }
                episode
            })
            .boxed()
    }

    /// A broker is stopped in good order, and its disk is not what it was when it starts again. Later it may lead.
    fn at_rest(&self, meanwhile: BoxedStrategy<(Action, Option<Duration>)>) -> BoxedStrategy<Vec<Fault>> {
        let of = self.partition.clone();
        let back = prop_oneof![1 => Just(None), 3 => self.time(1..5_000).prop_map(Some)];
        let who = prop_oneof![2 => Just(self.leader()), 1 => self.broker().prop_map(Target::Broker)];
        (who, self.begin(), self.time(200..4_000), meanwhile, back)
            .prop_map(move |(who, begin, stopped, (meanwhile, lasts), back)| {
                let mut episode = vec![step(at(begin), Action::ControlledShutdown, Some(who), Some(stopped))];
                episode.push(step(on(1, false, stopped / 2), meanwhile, Some(Target::SameAs(1)), lasts));
                if let Some(after) = back {
                    let elect = Action::ElectPreferred { of: of.clone() };
                    episode.push(step(on(1, true, after), elect, None, None));
                }
                episode
            })
            .boxed()
    }
}
