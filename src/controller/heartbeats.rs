//! What the controller knows of brokers' sessions (Kafka's `BrokerHeartbeatManager`): soft state, never in the
//! metadata log. It begins anew when a controller becomes active, with a fresh session for every broker.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::protocol::{BrokerId, Offset};
use crate::world::Time;

/// One broker's session (`BrokerHeartbeatState`).
#[derive(Clone, Debug, PartialEq)]
struct Session {
    last_contact: Time,
    fenced: bool,
    /// Last metadata offset that the broker has applied, as it says; -1: none.
    metadata_offset: Offset,
    /// Offset that every active broker must have applied before this one may shut down; `None`: it is not
    /// shutting down.
    controlled_shutdown_offset: Option<Offset>,
}

/// `BrokerControlState`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BrokerControlState {
    Fenced,
    Unfenced,
    ControlledShutdown,
    ShutdownNow,
}

impl BrokerControlState {
    /// A broker that may shut down is fenced already.
    pub fn is_fenced(self) -> bool {
        match self {
            BrokerControlState::Fenced | BrokerControlState::ShutdownNow => true,
            BrokerControlState::Unfenced | BrokerControlState::ControlledShutdown => false,
        }
    }
}

/// What a heartbeat asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    pub want_fence: bool,
    pub want_shut_down: bool,
    /// Last metadata offset that the broker has applied.
    pub metadata_offset: Offset,
}

const NO_OFFSET: Offset = Offset(-1);

/// The sessions of all registered brokers.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerHeartbeatManager {
    session_timeout: Duration,
    sessions: BTreeMap<BrokerId, Session>,
}

impl BrokerHeartbeatManager {
    pub fn new(session_timeout: Duration) -> BrokerHeartbeatManager {
        BrokerHeartbeatManager { session_timeout, sessions: BTreeMap::new() }
    }

    /// Sees to it that the broker is known, and fenced or not as its registration says.
    pub fn register(&mut self, now: Time, broker: BrokerId, fenced: bool) {
        let known = self.sessions.get(&broker);
        let offset = known.filter(|s| s.fenced != fenced).map_or(NO_OFFSET, |s| s.metadata_offset);
        self.touch(now, broker, fenced, offset);
    }

    /// Notes a sign of life.
    pub fn touch(&mut self, now: Time, broker: BrokerId, fenced: bool, metadata_offset: Offset) {
        let known = self.sessions.get(&broker);
        // Being fenced ends a controlled shutdown: the next heartbeat is told to shut down at once.
        let controlled_shutdown_offset = known.filter(|_| !fenced).and_then(|s| s.controlled_shutdown_offset);
        let session = Session { last_contact: now, fenced, metadata_offset, controlled_shutdown_offset };
        self.sessions.insert(broker, session);
    }

    pub fn remove(&mut self, broker: BrokerId) {
        self.sessions.remove(&broker);
    }

    /// Stops watching the session of a broker that is being fenced.
    pub fn fence(&mut self, broker: BrokerId) {
        if let Some(session) = self.sessions.get_mut(&broker) {
            session.fenced = true;
        }
    }

    pub fn has_valid_session(&self, now: Time, broker: BrokerId) -> bool {
        self.sessions.get(&broker).is_some_and(|s| !s.fenced && !self.is_stale(now, s))
    }

    // Kafka's session is still valid in the very nanosecond of its timeout. Here it is not, so that the check that is
    // scheduled for that instant finds what it was scheduled for.
    fn is_stale(&self, now: Time, session: &Session) -> bool {
        now >= session.last_contact + self.session_timeout
    }

    /// When the oldest session ends.
    pub fn next_check(&self) -> Option<Time> {
        self.sessions.values().filter(|s| !s.fenced).map(|s| s.last_contact + self.session_timeout).min()
    }

    /// The broker whose session ended first, if any did. Brokers are fenced one by one, so that each decision sees
    /// the effects of the one before (`findOneStaleBroker`).
    pub fn find_one_stale_broker(&self, now: Time) -> Option<BrokerId> {
        let stale = self.sessions.iter().filter(|(_, s)| !s.fenced && self.is_stale(now, s));
        stale.min_by_key(|(_, s)| s.last_contact).map(|(id, _)| *id)
    }

    /// Not in the middle of a controlled shutdown (`usableBrokers`), fenced or not.
    pub fn is_usable(&self, broker: BrokerId) -> bool {
        self.sessions.get(&broker).is_some_and(|s| s.controlled_shutdown_offset.is_none())
    }

    /// Last metadata offset that every active broker has applied; `None` if no broker is active.
    fn lowest_active_offset(&self) -> Option<Offset> {
        let active = self.sessions.values().filter(|s| !s.fenced && s.controlled_shutdown_offset.is_none());
        active.map(|s| s.metadata_offset).min()
    }

    /// Begins a controlled shutdown that ends once every active broker has applied `offset`. No-op if it has begun.
    pub fn maybe_update_controlled_shutdown_offset(&mut self, broker: BrokerId, offset: Offset) {
        let session = self.sessions.get_mut(&broker).expect("only a registered broker shuts down");
        assert!(!session.fenced, "a fenced broker shuts down at once");
        session.controlled_shutdown_offset.get_or_insert(offset);
    }

    /// (current, next) state of a broker that has sent a heartbeat (`calculateNextBrokerState`).
    /// `registration_offset` is the metadata offset of its registration. Panics if the broker is not registered.
    pub fn calculate_next_state(
        &self,
        broker: BrokerId,
        wish: Wish,
        registration_offset: Offset,
        has_leaderships: impl Fn() -> bool,
    ) -> (BrokerControlState, BrokerControlState) {
        use BrokerControlState::{ControlledShutdown, Fenced, ShutdownNow, Unfenced};
        let session = self.sessions.get(&broker).expect("a registered broker has a session");
        match (session.controlled_shutdown_offset, session.fenced) {
            (Some(offset), _) => {
                let followed = self.lowest_active_offset().is_none_or(|lowest| offset <= lowest);
                let may_go = followed && !has_leaderships();
                (ControlledShutdown, if may_go { ShutdownNow } else { ControlledShutdown })
            }
            (None, true) => {
                let caught_up = wish.metadata_offset >= registration_offset;
                let next = match wish {
                    Wish { want_shut_down: true, .. } => ShutdownNow,
                    Wish { want_fence: false, .. } if caught_up => Unfenced,
                    Wish { .. } => Fenced,
                };
                (Fenced, next)
            }
            (None, false) => {
                let next = match (wish.want_fence, wish.want_shut_down) {
                    (true, true) => ShutdownNow,
                    (true, false) => Fenced,
                    (false, true) if has_leaderships() => ControlledShutdown,
                    (false, true) => ShutdownNow,
                    (false, false) => Unfenced,
                };
                (Unfenced, next)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BrokerControlState::{ControlledShutdown, Fenced, ShutdownNow, Unfenced};

    const B1: BrokerId = BrokerId(1);
    const B2: BrokerId = BrokerId(2);

    fn manager() -> BrokerHeartbeatManager {
        BrokerHeartbeatManager::new(Duration::from_millis(9_000))
    }

    fn ms(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn wish(want_fence: bool, want_shut_down: bool, metadata_offset: i64) -> Wish {
        Wish { want_fence, want_shut_down, metadata_offset: Offset(metadata_offset) }
    }

    #[test]
    fn a_fenced_broker_is_unfenced_once_it_has_applied_its_registration() {
        let mut manager = manager();
        manager.register(ms(0), B1, true);
        let next = |wish| manager.calculate_next_state(B1, wish, Offset(10), || false);
        assert_eq!(next(wish(false, false, 9)), (Fenced, Fenced));
        assert_eq!(next(wish(false, false, 10)), (Fenced, Unfenced));
        assert_eq!(next(wish(true, false, 10)), (Fenced, Fenced));
        assert_eq!(next(wish(false, true, 0)), (Fenced, ShutdownNow));
        assert_eq!(next(wish(true, true, 0)), (Fenced, ShutdownNow));
    }

    #[test]
    fn an_unfenced_broker_shuts_down_at_once_only_without_leaderships() {
        let mut manager = manager();
        manager.register(ms(0), B1, false);
        let next = |wish, leads| manager.calculate_next_state(B1, wish, Offset(0), move || leads);
        assert_eq!(next(wish(false, false, 5), true), (Unfenced, Unfenced));
        assert_eq!(next(wish(false, true, 5), false), (Unfenced, ShutdownNow));
        assert_eq!(next(wish(false, true, 5), true), (Unfenced, ControlledShutdown));
        assert_eq!(next(wish(true, false, 5), true), (Unfenced, Fenced));
        assert_eq!(next(wish(true, true, 5), true), (Unfenced, ShutdownNow));
    }

    #[test]
    fn a_controlled_shutdown_waits_until_the_other_active_brokers_have_followed() {
        let mut manager = manager();
        manager.register(ms(0), B1, false);
        manager.register(ms(0), B2, false);
        manager.touch(ms(1), B1, false, Offset(7));
        manager.touch(ms(1), B2, false, Offset(7));
        manager.maybe_update_controlled_shutdown_offset(B1, Offset(8));
        manager.maybe_update_controlled_shutdown_offset(B1, Offset(99));
        let next = |manager: &BrokerHeartbeatManager, leads| {
            manager.calculate_next_state(B1, wish(false, true, 8), Offset(0), move || leads).1
        };
        assert_eq!(next(&manager, false), ControlledShutdown);
        manager.touch(ms(2), B2, false, Offset(8));
        assert_eq!(next(&manager, false), ShutdownNow);
        assert_eq!(next(&manager, true), ControlledShutdown);
        manager.fence(B2);
        assert_eq!(next(&manager, false), ShutdownNow, "nobody else is active");
    }

    #[test]
    fn being_fenced_ends_a_controlled_shutdown() {
        let mut manager = manager();
        manager.register(ms(0), B1, false);
        manager.maybe_update_controlled_shutdown_offset(B1, Offset(8));
        assert!(!manager.is_usable(B1));
        manager.register(ms(1), B1, true);
        assert!(manager.is_usable(B1));
        let states = manager.calculate_next_state(B1, wish(false, true, 0), Offset(9), || true);
        assert_eq!(states, (Fenced, ShutdownNow));
    }

    #[test]
    fn the_check_is_due_exactly_when_it_finds_a_stale_broker() {
        let mut manager = manager();
        assert_eq!(manager.next_check(), None);
        manager.register(ms(1_000), B2, false);
        manager.register(ms(2_000), B1, false);
        let due = manager.next_check().expect("two sessions");
        assert_eq!(due, ms(10_000));
        assert_eq!(manager.find_one_stale_broker(ms(9_999)), None);
        assert!(manager.has_valid_session(ms(9_999), B2));
        assert!(!manager.has_valid_session(due, B2));
        assert_eq!(manager.find_one_stale_broker(due), Some(B2));
        manager.fence(B2);
        assert_eq!(manager.find_one_stale_broker(due), None);
        assert_eq!(manager.next_check(), Some(ms(11_000)));
        assert_eq!(manager.find_one_stale_broker(ms(20_000)), Some(B1));
    }

    #[test]
    fn fenced_brokers_have_no_session() {
        let mut manager = manager();
        manager.register(ms(0), B1, true);
        assert!(!manager.has_valid_session(ms(0), B1));
        assert_eq!(manager.next_check(), None);
    }
}
