//! Whose registration the controller has: that of a broker's living process, or that of a dead one whose request came
//! late.
//!
//! `ClusterControlManager.registerBroker` refuses another incarnation while the registered one has a session, and fenced
//! brokers have none (`BrokerHeartbeatManager.hasValidSession`). Between its registration and its being unfenced a broker
//! can therefore lose its place to a predecessor, and then every heartbeat of it is stale for good.

use std::collections::BTreeMap;

use crate::lab::ghost::machine_of;
use crate::protocol::{BrokerEpoch, BrokerId};

#[derive(Clone, Copy, Default)]
struct Registration {
    /// The epoch that the living process was given.
    own: Option<BrokerEpoch>,
    /// The controller's: its epoch, and whether the broker is fenced.
    held: Option<(BrokerEpoch, bool)>,
    /// What the controller holds came when the broker was fenced.
    came_while_fenced: bool,
}

/// By machine.
#[derive(Default)]
pub(super) struct Registrations(BTreeMap<String, Registration>);

impl Registrations {
    pub fn started(&mut self, machine: &str) {
        self.of(machine).own = None;
    }

    /// The broker was told its epoch.
    pub fn registered(&mut self, machine: &str, epoch: BrokerEpoch) {
        self.of(machine).own = Some(epoch);
    }

    /// The controller fenced or unfenced a broker, or registered it anew. Whether it did the latter.
    pub fn fenced(&mut self, broker: BrokerId, epoch: BrokerEpoch, fenced: bool) -> bool {
        let registration = self.of(&machine_of(broker));
        let before = registration.held.replace((epoch, fenced));
        let replaced = before.filter(|(known, _)| *known != epoch);
        if let Some((_, was_fenced)) = replaced {
            registration.came_while_fenced = was_fenced;
        }
        replaced.is_some()
    }

    /// The controller knows the machine as a process that has been dead for long, and could not tell.
    pub fn is_locked_out(&self, machine: &str) -> bool {
        let Some(Registration { own: Some(own), held: Some((held, _)), came_while_fenced }) = self.0.get(machine)
        else {
            return false;
        };
        own < held && *came_while_fenced
    }

    fn of(&mut self, machine: &str) -> &mut Registration {
        self.0.entry(machine.to_owned()).or_default()
    }
}
