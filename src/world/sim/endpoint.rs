//! A simulated process's side of the network.

use std::future::poll_fn;
use std::sync::Arc;

use super::net::{Incarnation, MachineId};
use super::{Core, lock};
use crate::world::{Chain, ConnId, Event, HostPort, Time};

/// The endpoint of one process incarnation. Dropping it closes nothing: the machine closes the connections when the
/// process ends, and a killed process must not act while its state is dropped.
pub struct SimEndpoint {
    pub(super) core: Arc<Core>,
    pub(super) machine: MachineId,
    pub(super) incarnation: Incarnation,
}

impl SimEndpoint {
    /// See [`Endpoint::connect`](super::super::Endpoint::connect). The host is a machine's name; an unknown name
    /// does not resolve, and the connection is `Closed` at once.
    pub fn connect(&mut self, to: &HostPort) -> ConnId {
        lock(&self.core.network).connect(self.machine, self.incarnation, to)
    }

    /// See [`Endpoint::send`](super::super::Endpoint::send).
    pub fn send(&mut self, conn: ConnId, frame: Chain) {
        lock(&self.core.network).send(self.machine, conn, frame);
    }

    /// See [`Endpoint::close`](super::super::Endpoint::close).
    pub fn close(&mut self, conn: ConnId) {
        lock(&self.core.network).close(self.machine, conn);
    }

    /// See [`Endpoint::peer_host`](super::super::Endpoint::peer_host).
    pub fn peer_host(&self, conn: ConnId) -> String {
        lock(&self.core.network).peer_host(conn)
    }

    /// See [`Endpoint::next`](super::super::Endpoint::next).
    pub async fn next(&mut self, deadline: Option<Time>) -> Option<Event> {
        poll_fn(|context| self.core.network().poll_next(self.machine, self.incarnation, deadline, context)).await
    }
}
