//! Deadlines by key (`CoordinatorTimer`): setting one again moves it.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::protocol::StrBytes;

use crate::world::Time;

/// What a deadline of a shard is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum TimerKey {
    /// A member of a classic group, or one that has yet to join with its new id, must be heard of.
    Heartbeat {
        group: StrBytes,
        member: StrBytes,
    },
    /// The time to rejoin is over.
    Join {
        group: StrBytes,
    },
    /// The time to send SyncGroup is over.
    Sync {
        group: StrBytes,
    },
    /// A member of a consumer group must be heard of.
    Session {
        group: StrBytes,
        member: StrBytes,
    },
    /// A member of a consumer group must have given up what was taken from it.
    Rebalance {
        group: StrBytes,
        member: StrBytes,
    },
    /// A classic member of a consumer group must have rejoined, or sent SyncGroup.
    ClassicJoin {
        group: StrBytes,
        member: StrBytes,
    },
    ClassicSync {
        group: StrBytes,
        member: StrBytes,
    },
    /// The regular expressions of a consumer group are to be resolved.
    Regexes {
        group: StrBytes,
    },
    /// Offsets and groups are looked at for expiry (KIP-211).
    Expiration,
}

#[derive(Default)]
pub(super) struct Timers {
    at: BTreeMap<TimerKey, Time>,
    order: BTreeSet<(Time, TimerKey)>,
}

impl Timers {
    pub fn set(&mut self, key: TimerKey, at: Time) {
        self.cancel(&key);
        self.order.insert((at, key.clone()));
        self.at.insert(key, at);
    }

    pub fn set_if_absent(&mut self, key: TimerKey, at: Time) {
        if !self.at.contains_key(&key) {
            self.set(key, at);
        }
    }

    pub fn cancel(&mut self, key: &TimerKey) {
        if let Some(at) = self.at.remove(key) {
            self.order.remove(&(at, key.clone()));
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    /// The next one whose time has come; it is gone then.
    pub fn pop_due(&mut self, now: Time) -> Option<TimerKey> {
        if self.deadline()? > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.at.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_that_is_set_again_fires_once_at_the_later_time() {
        let mut timers = Timers::default();
        let key = TimerKey::Join { group: StrBytes::from_static_str("g") };
        timers.set(key.clone(), Time::from_millis(10));
        timers.set(key.clone(), Time::from_millis(20));
        timers.set(TimerKey::Expiration, Time::from_millis(15));
        assert_eq!(timers.pop_due(Time::from_millis(14)), None);
        assert_eq!(timers.pop_due(Time::from_millis(30)), Some(TimerKey::Expiration));
        assert_eq!(timers.pop_due(Time::from_millis(30)), Some(key));
        assert_eq!(timers.pop_due(Time::from_millis(30)), None);
    }
}
