//! Connections that clients and brokers opened to us: one request of each is processed at a time
//! (`SocketServer`: a channel is muted until its response is sent).

use std::collections::VecDeque;

use bytes::Bytes;
use kafka_protocol::protocol::Request;
use rustc_hash::FxHashMap;

use crate::protocol::wire;
use crate::world::{ConnId, Endpoint};

/// Requests that may wait on one connection. Clients keep a handful in flight; more than this is abuse, where a
/// real broker would stop reading from the socket.
const WAITING_MAX: usize = 1_000;

/// Where a response goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReplyTo {
    pub conn: ConnId,
    pub correlation_id: i32,
    pub api_version: i16,
}

#[derive(Default)]
struct Connection {
    is_muted: bool,
    waiting: VecDeque<Bytes>,
}

#[derive(Default)]
pub(super) struct Connections {
    by_id: FxHashMap<ConnId, Connection>,
    /// Not muted, with requests waiting.
    runnable: VecDeque<ConnId>,
    /// Requests are processed: the broker was unfenced once (`SocketServer.enableRequestProcessing`).
    is_enabled: bool,
}

impl Connections {
    pub fn open(&mut self, conn: ConnId) {
        self.by_id.insert(conn, Connection::default());
    }

    pub fn owns(&self, conn: ConnId) -> bool {
        self.by_id.contains_key(&conn)
    }

    pub fn forget(&mut self, conn: ConnId) {
        self.by_id.remove(&conn);
    }

    pub fn close(&mut self, conn: ConnId, net: &mut Endpoint) {
        net.close(conn);
        self.forget(conn);
    }

    pub fn enable(&mut self) {
        self.is_enabled = true;
    }

    /// Takes in a frame. Returned if it is to be processed now; its connection is muted then.
    pub fn receive(&mut self, conn: ConnId, frame: Bytes, net: &mut Endpoint) -> Option<Bytes> {
        let connection = self.by_id.get_mut(&conn)?;
        if self.is_enabled && !connection.is_muted && connection.waiting.is_empty() {
            connection.is_muted = true;
            return Some(frame);
        }
        if connection.waiting.len() == WAITING_MAX {
            self.close(conn, net);
            return None;
        }
        if !connection.is_muted && connection.waiting.is_empty() {
            self.runnable.push_back(conn);
        }
        connection.waiting.push_back(frame);
        None
    }

    /// The next waiting request whose turn it is; its connection is muted.
    pub fn next_runnable(&mut self) -> Option<(ConnId, Bytes)> {
        while self.is_enabled {
            let conn = self.runnable.pop_front()?;
            let Some(connection) = self.by_id.get_mut(&conn) else { continue };
            if let Some(frame) = connection.waiting.pop_front() {
                connection.is_muted = true;
                return Some((conn, frame));
            }
        }
        None
    }

    /// The request of `conn` is done.
    pub fn unmute(&mut self, conn: ConnId) {
        if let Some(connection) = self.by_id.get_mut(&conn) {
            connection.is_muted = false;
            if !connection.waiting.is_empty() {
                self.runnable.push_back(conn);
            }
        }
    }

    pub fn respond<R: Request>(&mut self, to: ReplyTo, body: &R::Response, net: &mut Endpoint) {
        self.respond_in_version::<R>(to, body, to.api_version, net);
    }

    /// A response in another version than the request's: ApiVersions to a client that is newer than we are.
    pub fn respond_in_version<R: Request>(
        &mut self,
        to: ReplyTo,
        body: &R::Response,
        api_version: i16,
        net: &mut Endpoint,
    ) {
        if self.owns(to.conn) {
            net.send(to.conn, wire::encode_response::<R>(body, api_version, to.correlation_id));
            self.unmute(to.conn);
        }
    }
}
