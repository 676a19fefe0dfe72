//! A group that nobody is in for a while, and whose members then come back, while a clock jumps: what becomes of its
//! offsets depends on whether the coordinator looks at them before, while or after the group gathers (KIP-211,
//! KAFKA-13636). Some runs go through that besides their faults; without it offsets are never old enough, for the
//! shortest that `offsets.retention.minutes` may be is longer than a run.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use super::Shape;
use crate::config::{ConsumerConfig, GroupProtocol};
use crate::scenario::{Action, Cluster, Ending, EndingKind, Fault, Membership, Target, When, Workload};

/// Of 100 scenarios with groups.
const WEIGHT: u32 = 4;

#[derive(Clone, Debug)]
pub(super) struct Absence {
    group: String,
    kind: EndingKind,
    /// The first member ends so long after the workloads started, and the others within so long of it.
    at: Duration,
    spread: Duration,
    /// The first comes back so long after the last has left the group.
    away: Duration,
    target: Target,
    moment: Moment,
    /// How far ahead a clock jumps: beyond the shortest retention.
    ahead: Duration,
    delay: Duration,
    check: Duration,
}

/// When the clock jumps.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long before the first member ends.
    Before(Duration),
    /// So long after the first is back: members gather.
    After(Duration),
}

/// Draws nothing where there are no groups.
pub(super) fn absence(shape: &Shape) -> BoxedStrategy<Option<Absence>> {
    if shape.groups.is_empty() {
        return Just(None).boxed();
    }
    let pace = shape.pace;
    let kind = select(vec![EndingKind::Stop, EndingKind::Stop, EndingKind::Fail, EndingKind::Crash]);
    let at = (pace.seconds() * 150..pace.seconds() * 450).prop_map(Duration::from_millis);
    let times = (at, (0..100_u64).prop_map(Duration::from_millis), (50..2_000_u64).prop_map(move |ms| pace.time(ms)));
    let delay = select(vec![500, 1_000, 3_000_u64]).prop_map(Duration::from_millis);
    let check = select(vec![100, 100, 300_u64]).prop_map(Duration::from_millis);
    let before = (0..1_500_u64).prop_map(|ms| Moment::Before(Duration::from_millis(ms)));
    let after = (0..1_000_u64).prop_map(|ms| Moment::After(Duration::from_millis(ms)));
    let ahead = prop_oneof![2 => 60..70_u64, 1 => 70..7_200_u64].prop_map(Duration::from_secs);
    let jump = (prop_oneof![1 => before, 2 => after], ahead, any::<bool>());
    (select(shape.groups.clone()), kind, times, delay, check, jump, 0..100_u32)
        .prop_map(|(group, kind, (at, spread, away), delay, check, (moment, ahead, is_everywhere), draw)| {
            let target = if is_everywhere { Target::Brokers } else { Target::Coordinator(group.clone()) };
            let absence = Absence { group, kind, at, spread, away, target, moment, ahead, delay, check };
            (draw < WEIGHT).then_some(absence)
        })
        .boxed()
}

impl Absence {
    /// Another one of the same kind: what decides are instants.
    pub fn varied(&self) -> BoxedStrategy<Option<Absence>> {
        let absence = self.clone();
        let (before, after) = (0..1_500_u64, 0..1_000_u64);
        (before, after, any::<bool>())
            .prop_map(move |(before, after, is_before)| {
                let ms = Duration::from_millis;
                let moment = if is_before { Moment::Before(ms(before)) } else { Moment::After(ms(after)) };
                Some(Absence { moment, ..absence.clone() })
            })
            .boxed()
    }

    /// Before anything is allowed for the way.
    pub fn configure(&self, cluster: &mut Cluster) {
        let groups = &mut cluster.config.groups;
        groups.offsets_retention_minutes = 1;
        groups.offsets_retention_check_interval = self.check;
    }

    /// The members of the group end and come back, and the clock jumps, if that is before the `end` of the run. Sessions
    /// are as long as they will be.
    pub fn happen(&self, cluster: &mut Cluster, workloads: &mut [Workload], end: Duration) -> Option<Fault> {
        let groups = &mut cluster.config.groups;
        let check = groups.offsets_retention_check_interval;
        groups.initial_rebalance_delay = self.delay.max(check + Duration::from_millis(100));
        let mut members: Vec<_> = workloads.iter_mut().filter_map(|workload| self.member(workload)).collect();
        // Who crashes, or is static (KIP-345), is in the group until its session is over.
        let session = |config: &ConsumerConfig| match config.group_protocol {
            GroupProtocol::Classic => config.session_timeout,
            GroupProtocol::Consumer => groups.consumer_session_timeout,
        };
        let stays = |config: &ConsumerConfig| self.kind == EndingKind::Crash || config.group_instance_id.is_some();
        let sessions =
            members.iter().map(|(_, config, _)| if stays(config) { session(config) } else { Duration::ZERO });
        let back = self.at + self.spread + sessions.max().unwrap_or_default() + self.away;
        let count = u32::try_from(members.len()).expect("a few members");
        for (number, (start, _, membership)) in (0..).zip(&mut members) {
            let at = self.at + self.spread * number / count;
            **start = if **start < at { **start } else { Duration::ZERO };
            let back_after = Some(back - at + self.delay * number / (2 * count));
            membership.ending = Some(Ending { kind: self.kind, at, back_after });
        }
        let at = match self.moment {
            Moment::Before(before) => self.at.saturating_sub(before),
            Moment::After(after) => back + after,
        };
        let by_ns = i64::try_from(self.ahead.as_nanos()).expect("some hours");
        let fault = Fault {
            when: When::At(at),
            after: Duration::ZERO,
            action: Action::ClockStep { by_ns },
            target: Some(self.target.clone()),
            duration: None,
            text: (String::new(), String::new()),
            line: 0,
        };
        (at < end).then_some(fault)
    }

    /// One of the group, with when it starts.
    fn member<'a>(
        &self,
        workload: &'a mut Workload,
    ) -> Option<(&'a mut Duration, &'a ConsumerConfig, &'a mut Membership)> {
        match workload {
            Workload::Consume { start, config, membership: Some(membership), .. } if membership.group == self.group => {
                Some((start, config, membership))
            }
            Workload::Consume { .. } | Workload::Produce { .. } => None,
        }
    }
}
