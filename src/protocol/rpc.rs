//! Requests over connections: Kafka's `NetworkClient` as a synchronous state machine.
//!
//! One [`RpcClient`] owns the outgoing connections of one part of a process (a producer, a broker's
//! replica fetchers, its channel to the controller). It connects on demand with backoff, negotiates
//! versions, matches responses to requests, and turns silence into timeouts. Used by brokers and clients.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest};
use kafka_protocol::protocol::{Request, StrBytes};
use rand::RngExt;

use super::fetch::{FetchAnswer, FetchQuestion};
use super::wire;
use crate::world::{ConnId, Endpoint, Event, HostPort, Rng, Time};

/// A destination, made by [`RpcClient::peer`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(usize);

/// How connections are made and kept.
#[derive(Clone, Debug)]
pub struct RpcConfig {
    /// `client.id` in every request header.
    pub client_id: StrBytes,
    /// `reconnect.backoff.ms`, doubled per failure up to `reconnect.backoff.max.ms`, with 20 % jitter.
    pub reconnect_backoff: Duration,
    pub reconnect_backoff_max: Duration,
    /// `socket.connection.setup.timeout.ms`
    pub connection_setup_timeout: Duration,
    /// Ask for the peer's API versions before the first request, as clients do
    /// (`NetworkClient.discoverBrokerVersions`).
    pub discover_versions: bool,
}

/// Why a request got no response.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RpcError {
    /// The connection failed before a response came. The request may have been processed, unless `sent` is false.
    #[error("disconnected")]
    Disconnected { sent: bool },
    /// No response within the request's timeout. The request may have been processed, unless `sent` is false.
    #[error("timed out")]
    TimedOut { sent: bool },
    /// The peer does not serve this version of the API.
    #[error("unsupported version")]
    UnsupportedVersion,
}

impl RpcError {
    /// Whether the request may have reached the peer.
    pub fn maybe_processed(self) -> bool {
        match self {
            RpcError::Disconnected { sent } | RpcError::TimedOut { sent } => sent,
            RpcError::UnsupportedVersion => false,
        }
    }
}

/// A response, decoded by who knows its type.
#[derive(Clone, Debug)]
pub struct Reply {
    frame: Bytes,
    api_version: i16,
}

impl Reply {
    pub fn decode<R: Request>(&self) -> Result<R::Response, wire::WireError> {
        wire::decode_response::<R>(&self.frame, self.api_version)
    }

    /// As [`Reply::decode`], of a Fetch response.
    pub fn decode_fetch(&self) -> Result<FetchAnswer, wire::WireError> {
        wire::decode_fetch_answer(&self.frame, self.api_version)
    }
}

/// The end of one request.
#[derive(Debug)]
pub struct Completion<T> {
    pub peer: PeerId,
    pub tag: T,
    pub result: Result<Reply, RpcError>,
}

struct Pending<T> {
    correlation_id: i32,
    api_key: i16,
    api_version: i16,
    frame: Bytes,
    deadline: Time,
    expects_response: bool,
    tag: T,
}

struct InFlight<T> {
    correlation_id: i32,
    api_version: i16,
    deadline: Time,
    tag: T,
}

/// How a connection stands, for callers that send only where it would go out at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// No connection; the next attempt is allowed at `retry_at` (`reconnect.backoff.ms`).
    Down {
        retry_at: Time,
    },
    Connecting,
    Ready,
}

enum Link {
    Down,
    Connecting { conn: ConnId, deadline: Time },
    Negotiating { conn: ConnId, correlation_id: i32, deadline: Time },
    Ready { conn: ConnId },
}

struct Peer<T> {
    address: HostPort,
    link: Link,
    failures: u32,
    retry_at: Time,
    /// (api key, min, max) once negotiated; empty: not asked.
    versions: Vec<(i16, i16, i16)>,
    queued: VecDeque<Pending<T>>,
    in_flight: VecDeque<InFlight<T>>,
}

impl<T> Peer<T> {
    fn conn(&self) -> Option<ConnId> {
        match self.link {
            Link::Down => None,
            Link::Connecting { conn, .. } | Link::Negotiating { conn, .. } | Link::Ready { conn } => Some(conn),
        }
    }

    fn deadline(&self) -> Option<Time> {
        let link = match self.link {
            Link::Connecting { deadline, .. } | Link::Negotiating { deadline, .. } => Some(deadline),
            Link::Down if !self.queued.is_empty() => Some(self.retry_at),
            Link::Down | Link::Ready { .. } => None,
        };
        // Asked for after every event: idle peers must cost next to nothing.
        if self.queued.is_empty() && self.in_flight.is_empty() {
            return link;
        }
        let queued = self.queued.iter().map(|p| p.deadline).min();
        let in_flight = self.in_flight.iter().map(|p| p.deadline).min();
        [link, queued, in_flight].into_iter().flatten().min()
    }

    /// Sends a request whose response is awaited.
    fn transmit(&mut self, conn: ConnId, request: Pending<T>, net: &mut Endpoint) {
        let Pending { correlation_id, api_key: _, api_version, frame, deadline, expects_response: _, tag } = request;
        net.send(conn, frame);
        self.in_flight.push_back(InFlight { correlation_id, api_version, deadline, tag });
    }

    fn serves(&self, api_key: i16, version: i16) -> bool {
        self.versions.is_empty()
            || self.versions.iter().any(|&(key, min, max)| key == api_key && (min..=max).contains(&version))
    }
}

/// Connections to any number of peers. `T` tells the caller which request a completion belongs to.
pub struct RpcClient<T> {
    config: RpcConfig,
    rng: Rng,
    peers: Vec<Peer<T>>,
    next_correlation_id: i32,
    disconnects: u64,
    /// Requests whose version the peer does not serve, found while sending: completed by the next timer.
    refused: Vec<Completion<T>>,
    /// What [`RpcClient::deadline`] found, until something happens: it is asked for after every event of a process.
    deadline: Cell<Option<Option<Time>>>,
}

impl<T> RpcClient<T> {
    pub fn new(config: RpcConfig, rng: Rng) -> RpcClient<T> {
        let (peers, refused, deadline) = (Vec::new(), Vec::new(), Cell::new(None));
        RpcClient { config, rng, peers, next_correlation_id: 0, disconnects: 0, refused, deadline }
    }

    /// The peer at `address`; the same one for the same address.
    pub fn peer(&mut self, address: &HostPort) -> PeerId {
        if let Some(i) = self.peers.iter().position(|p| p.address == *address) {
            return PeerId(i);
        }
        self.peers.push(Peer {
            address: address.clone(),
            link: Link::Down,
            failures: 0,
            retry_at: Time::ZERO,
            versions: Vec::new(),
            queued: VecDeque::new(),
            in_flight: VecDeque::new(),
        });
        PeerId(self.peers.len() - 1)
    }

    /// Requests sent or waiting to be sent to `peer`.
    pub fn in_flight(&self, peer: PeerId) -> usize {
        self.peers[peer.0].in_flight.len() + self.peers[peer.0].queued.len()
    }

    pub fn link_state(&self, peer: PeerId) -> LinkState {
        let peer = &self.peers[peer.0];
        match peer.link {
            Link::Down => LinkState::Down { retry_at: peer.retry_at },
            Link::Connecting { .. } | Link::Negotiating { .. } => LinkState::Connecting,
            Link::Ready { .. } => LinkState::Ready,
        }
    }

    /// How often a connection or an attempt at one has failed (`MetadataUpdater.handleServerDisconnect`).
    pub fn disconnects(&self) -> u64 {
        self.disconnects
    }

    /// Starts a connection ahead of the first request (`NetworkClient.ready`). No-op unless it is down and its
    /// backoff has ended.
    pub fn connect(&mut self, now: Time, peer: PeerId, net: &mut Endpoint) {
        self.deadline.set(None);
        let peer = &mut self.peers[peer.0];
        if matches!(peer.link, Link::Down) && peer.retry_at <= now {
            let conn = net.connect(&peer.address);
            peer.link = Link::Connecting { conn, deadline: now + self.config.connection_setup_timeout };
        }
    }

    /// Sends a request, or queues it until the connection stands. It completes exactly once.
    #[allow(clippy::too_many_arguments)] // what a request is made of
    pub fn send<R: Request>(
        &mut self,
        now: Time,
        peer: PeerId,
        api_version: i16,
        body: &R,
        timeout: Duration,
        tag: T,
        net: &mut Endpoint,
    ) {
        let correlation_id = self.correlation_id();
        let frame = wire::encode_request(body, api_version, correlation_id, &self.config.client_id);
        let (api_key, deadline, expects_response) = (R::KEY, now + timeout, true);
        let request = Pending { correlation_id, api_key, api_version, frame, deadline, expects_response, tag };
        self.enqueue(now, peer, request, net);
    }

    /// As [`RpcClient::send`], for a follower's Fetch in version 16.
    pub fn send_fetch(
        &mut self,
        now: Time,
        peer: PeerId,
        question: &FetchQuestion,
        timeout: Duration,
        tag: T,
        net: &mut Endpoint,
    ) {
        let correlation_id = self.correlation_id();
        let frame = wire::encode_fetch(question, correlation_id, &self.config.client_id);
        let (api_key, api_version) = (ApiKey::Fetch as i16, 16);
        let (deadline, expects_response) = (now + timeout, true);
        let request = Pending { correlation_id, api_key, api_version, frame, deadline, expects_response, tag };
        self.enqueue(now, peer, request, net);
    }

    /// Sends a request that has no response (Produce with acks=0). It completes when it is handed to the network.
    #[allow(clippy::too_many_arguments)] // what a request is made of
    pub fn send_oneway<R: Request>(
        &mut self,
        now: Time,
        peer: PeerId,
        api_version: i16,
        body: &R,
        timeout: Duration,
        tag: T,
        net: &mut Endpoint,
        out: &mut Vec<Completion<T>>,
    ) {
        let correlation_id = self.correlation_id();
        let frame = wire::encode_request(body, api_version, correlation_id, &self.config.client_id);
        let (api_key, deadline, expects_response) = (R::KEY, now + timeout, false);
        let request = Pending { correlation_id, api_key, api_version, frame, deadline, expects_response, tag };
        self.deadline.set(None);
        self.peers[peer.0].queued.push_back(request);
        self.advance(now, peer.0, net, out);
    }

    fn enqueue(&mut self, now: Time, to: PeerId, request: Pending<T>, net: &mut Endpoint) {
        self.deadline.set(None);
        let peer = &mut self.peers[to.0];
        match peer.link {
            // Nothing is queued on a connection that stands.
            Link::Ready { conn } if peer.serves(request.api_key, request.api_version) => {
                debug_assert!(peer.queued.is_empty());
                peer.transmit(conn, request, net);
            }
            Link::Down | Link::Connecting { .. } | Link::Negotiating { .. } | Link::Ready { .. } => {
                peer.queued.push_back(request);
                let mut refused = std::mem::take(&mut self.refused);
                self.advance(now, to.0, net, &mut refused);
                self.refused = refused;
            }
        }
    }

    /// Closes the connection to `peer`, if any; everything waiting on it completes as disconnected.
    pub fn disconnect(&mut self, peer: PeerId, net: &mut Endpoint, out: &mut Vec<Completion<T>>) {
        self.deadline.set(None);
        if let Some(conn) = self.peers[peer.0].conn() {
            net.close(conn);
        }
        self.peers[peer.0].link = Link::Down;
        self.fail_all(peer.0, out);
    }

    /// Handles an event if it concerns one of our connections; false if it does not.
    pub fn on_event(&mut self, now: Time, event: &Event, net: &mut Endpoint, out: &mut Vec<Completion<T>>) -> bool {
        let conn = match event {
            Event::Connected(conn) | Event::Closed(conn) | Event::Frame(conn, _) => *conn,
            Event::Accepted(_) | Event::IoReady | Event::Terminate => return false,
        };
        let Some(index) = self.peers.iter().position(|p| p.conn() == Some(conn)) else {
            return false;
        };
        self.deadline.set(None);
        match event {
            Event::Connected(_) => self.on_connected(now, index, conn, net),
            Event::Closed(_) => self.on_closed(now, index, out),
            Event::Frame(_, frame) => self.on_frame(now, index, frame.to_bytes(), net, out),
            Event::Accepted(_) | Event::IoReady | Event::Terminate => unreachable!("returned above"),
        }
        self.advance(now, index, net, out);
        true
    }

    /// Gives up on what is overdue and reconnects where a backoff has ended.
    pub fn on_timer(&mut self, now: Time, net: &mut Endpoint, out: &mut Vec<Completion<T>>) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        self.deadline.set(None);
        out.append(&mut self.refused);
        for index in 0..self.peers.len() {
            if self.peers[index].deadline().is_some_and(|d| d <= now) {
                self.expire(now, index, net, out);
                self.advance(now, index, net, out);
            }
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        if let Some(known) = self.deadline.get() {
            return known;
        }
        let refused = (!self.refused.is_empty()).then_some(Time::ZERO);
        let deadline = self.peers.iter().filter_map(Peer::deadline).chain(refused).min();
        self.deadline.set(Some(deadline));
        deadline
    }

    fn correlation_id(&mut self) -> i32 {
        self.next_correlation_id = self.next_correlation_id.wrapping_add(1) & i32::MAX;
        self.next_correlation_id
    }

    fn on_connected(&mut self, now: Time, index: usize, conn: ConnId, net: &mut Endpoint) {
        if !self.config.discover_versions {
            self.peers[index].link = Link::Ready { conn };
            self.peers[index].failures = 0;
            return;
        }
        let correlation_id = self.correlation_id();
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("faultline"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        net.send(conn, wire::encode_request(&request, 3, correlation_id, &self.config.client_id));
        let deadline = now + self.config.connection_setup_timeout;
        self.peers[index].link = Link::Negotiating { conn, correlation_id, deadline };
    }

    fn on_closed(&mut self, now: Time, index: usize, out: &mut Vec<Completion<T>>) {
        self.back_off(now, index);
        self.fail_all(index, out);
    }

    fn on_frame(&mut self, now: Time, index: usize, frame: Bytes, net: &mut Endpoint, out: &mut Vec<Completion<T>>) {
        let peer = &mut self.peers[index];
        let received = wire::response_correlation_id(&frame).ok();
        if let Link::Negotiating { conn, correlation_id, .. } = peer.link {
            let response = wire::decode_response::<ApiVersionsRequest>(&frame, 3).ok();
            match response.filter(|_| received == Some(correlation_id)) {
                Some(response) => {
                    peer.versions =
                        response.api_keys.iter().map(|k| (k.api_key, k.min_version, k.max_version)).collect();
                    peer.link = Link::Ready { conn };
                    peer.failures = 0;
                }
                None => self.drop_link(now, index, net, out),
            }
            return;
        }
        // A server answers the requests of one connection in order.
        match peer.in_flight.pop_front() {
            Some(request) if received == Some(request.correlation_id) => {
                let reply = Reply { frame, api_version: request.api_version };
                out.push(Completion { peer: PeerId(index), tag: request.tag, result: Ok(reply) });
            }
            Some(request) => {
                peer.in_flight.push_front(request);
                self.drop_link(now, index, net, out);
            }
            None => self.drop_link(now, index, net, out),
        }
    }

    /// Moves the peer as far as it goes without waiting: connect if there is something to send, send if ready.
    fn advance(&mut self, now: Time, index: usize, net: &mut Endpoint, out: &mut Vec<Completion<T>>) {
        let setup_timeout = self.config.connection_setup_timeout;
        let peer = &mut self.peers[index];
        match peer.link {
            Link::Down if !peer.queued.is_empty() && peer.retry_at <= now => {
                let conn = net.connect(&peer.address);
                peer.link = Link::Connecting { conn, deadline: now + setup_timeout };
            }
            Link::Ready { conn } => {
                while let Some(pending) = peer.queued.pop_front() {
                    let result = if !peer.serves(pending.api_key, pending.api_version) {
                        Err(RpcError::UnsupportedVersion)
                    } else if pending.expects_response {
                        peer.transmit(conn, pending, net);
                        continue;
                    } else {
                        net.send(conn, pending.frame);
                        Ok(Reply { frame: Bytes::new(), api_version: pending.api_version })
                    };
                    out.push(Completion { peer: PeerId(index), tag: pending.tag, result });
                }
            }
            Link::Down | Link::Connecting { .. } | Link::Negotiating { .. } => {}
        }
    }

    /// An overdue response or connection setup costs the connection
    /// (`NetworkClient.handleTimedOutRequests`, `handleTimedOutConnections`).
    fn expire(&mut self, now: Time, index: usize, net: &mut Endpoint, out: &mut Vec<Completion<T>>) {
        let id = PeerId(index);
        let peer = &mut self.peers[index];
        let setup_overdue = match peer.link {
            Link::Connecting { deadline, .. } | Link::Negotiating { deadline, .. } => deadline <= now,
            Link::Down | Link::Ready { .. } => false,
        };
        let overdue = peer.in_flight.iter().any(|r| r.deadline <= now);
        for request in std::mem::take(&mut peer.in_flight) {
            if request.deadline <= now {
                let result = Err(RpcError::TimedOut { sent: true });
                out.push(Completion { peer: id, tag: request.tag, result });
            } else {
                peer.in_flight.push_back(request);
            }
        }
        for request in std::mem::take(&mut peer.queued) {
            if request.deadline <= now {
                let result = Err(RpcError::TimedOut { sent: false });
                out.push(Completion { peer: id, tag: request.tag, result });
            } else {
                peer.queued.push_back(request);
            }
        }
        if overdue || setup_overdue {
            self.drop_link(now, index, net, out);
        }
    }

    fn drop_link(&mut self, now: Time, index: usize, net: &mut Endpoint, out: &mut Vec<Completion<T>>) {
        if let Some(conn) = self.peers[index].conn() {
            net.close(conn);
        }
        self.back_off(now, index);
        self.fail_all(index, out);
    }

    fn back_off(&mut self, now: Time, index: usize) {
        let peer = &mut self.peers[index];
        let doubled = self.config.reconnect_backoff.saturating_mul(1 << peer.failures.min(16));
        let backoff = doubled.min(self.config.reconnect_backoff_max);
        let jitter_permille = self.rng.random_range(800..=1200);
        peer.failures += 1;
        self.disconnects += 1;
        peer.retry_at = now + backoff * jitter_permille / 1000;
        peer.link = Link::Down;
    }

    fn fail_all(&mut self, index: usize, out: &mut Vec<Completion<T>>) {
        let id = PeerId(index);
        let peer = &mut self.peers[index];
        peer.versions.clear();
        let sent = peer.in_flight.drain(..).map(|r| (r.tag, true));
        let unsent = peer.queued.drain(..).map(|r| (r.tag, false));
        for (tag, sent) in sent.chain(unsent) {
            out.push(Completion { peer: id, tag, result: Err(RpcError::Disconnected { sent }) });
        }
    }
}
