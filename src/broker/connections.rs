//! Connections that clients and brokers opened to us: one request of each is processed at a time
//! (`SocketServer`: a channel is muted until its response is sent).

use std::collections::VecDeque;

use bytes::Bytes;
use kafka_protocol::protocol::{Request, StrBytes};
use rustc_hash::FxHashMap;

use crate::protocol::fetch::FetchAnswer;
use crate::protocol::wire;
use crate::world::{Chain, ConnId, Disk, Endpoint, IoWait, Time};

/// Requests that may wait on one connection. Clients keep a handful in flight; more than this is abuse, where a
/// real broker would stop reading from the socket.
const WAITING_MAX: usize = 1_000;

/// `num.io.threads`: so many requests can be blocked on the disk before no other is served.
const IO_THREADS: usize = 8;

/// Where a response goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReplyTo {
    pub conn: ConnId,
    pub correlation_id: i32,
    pub api_version: i16,
}

struct Connection {
    /// Of the client, as Kafka prints an address: `/127.0.0.1` (`InetAddress.toString`).
    client_host: StrBytes,
    is_muted: bool,
    waiting: VecDeque<Bytes>,
}

/// A response that waits until the I/O it tells of is over. A real broker's request handler thread would be blocked.
struct Held {
    conn: ConnId,
    /// None: the request has no response.
    frame: Option<Chain>,
    wait: IoWait,
}

pub(super) struct Connections {
    by_id: FxHashMap<ConnId, Connection>,
    /// Not muted, with requests waiting.
    runnable: VecDeque<ConnId>,
    /// Requests are processed: the broker was unfenced once (`SocketServer.enableRequestProcessing`).
    is_enabled: bool,
    disk: Disk,
    held: Vec<Held>,
    /// What the next response has to wait for, besides what was done on the disk since the last one.
    owed: Option<IoWait>,
}

impl Connections {
    pub fn new(disk: Disk) -> Connections {
        Connections {
            by_id: FxHashMap::default(),
            runnable: VecDeque::new(),
            is_enabled: false,
            disk,
            held: Vec::new(),
            owed: None,
        }
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What was done on the disk since the last response, for a request that is answered later.
    pub fn take_wait(&mut self) -> Option<IoWait> {
        self.disk.take_wait()
    }

    /// The next response has to wait for this too.
    pub fn owe(&mut self, wait: Option<IoWait>) {
        self.owed = IoWait::both(self.owed, wait);
    }

    /// When the disk lets a response go. One that waits for a stall to end has no time.
    pub fn deadline(&self) -> Option<Time> {
        self.held.iter().filter_map(|held| self.disk.over_at(held.wait)).min()
    }

    /// Sends the responses that the disk has let go.
    pub fn release(&mut self, now: Time, net: &mut Endpoint) {
        if self.held.is_empty() {
            return;
        }
        let (over, held): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|held| self.disk.is_over(now, held.wait));
        self.held = held;
        for Held { conn, frame, .. } in over {
            self.complete(conn, frame, net);
        }
    }

    fn is_serving(&self) -> bool {
        self.is_enabled && self.held.len() < IO_THREADS
    }

    /// Ends a request: at once, or when the disk has done what the request asked of it.
    fn finish(&mut self, conn: ConnId, frame: Option<Chain>, net: &mut Endpoint) {
        match IoWait::both(self.owed.take(), self.disk.take_wait()) {
            None => self.complete(conn, frame, net),
            Some(wait) => self.held.push(Held { conn, frame, wait }),
        }
    }

    fn complete(&mut self, conn: ConnId, frame: Option<Chain>, net: &mut Endpoint) {
        if self.owns(conn) {
            if let Some(frame) = frame {
                net.send(conn, frame);
            }
            self.unmute(conn);
        }
    }

    /// The request is done and has no response.
    pub fn finish_silently(&mut self, conn: ConnId, net: &mut Endpoint) {
        self.finish(conn, None, net);
    }

    pub fn open(&mut self, conn: ConnId, net: &Endpoint) {
        let client_host = StrBytes::from_string(format!("/{}", net.peer_host(conn)));
        self.by_id.insert(conn, Connection { client_host, is_muted: false, waiting: VecDeque::new() });
    }

    pub fn client_host(&self, conn: ConnId) -> StrBytes {
        self.by_id.get(&conn).map(|connection| connection.client_host.clone()).unwrap_or_default()
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
        let is_serving = self.is_serving();
        let connection = self.by_id.get_mut(&conn)?;
        if is_serving && !connection.is_muted && connection.waiting.is_empty() {
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
        while self.is_serving() {
            let conn = self.runnable.pop_front()?;
            let Some(connection) = self.by_id.get_mut(&conn) else { continue };
            if let Some(frame) = connection.waiting.pop_front() {
                connection.is_muted = true;
                return Some((conn, frame));
            }
        }
        None
    }

    fn unmute(&mut self, conn: ConnId) {
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
            let frame = wire::encode_response::<R>(body, api_version, to.correlation_id);
            self.finish(to.conn, Some(frame.into()), net);
        }
    }

    /// A Fetch response, which is not encoded like others: records are not copied into it.
    pub fn respond_to_fetch(&mut self, to: ReplyTo, answer: FetchAnswer, net: &mut Endpoint) {
        if self.owns(to.conn) {
            self.finish(to.conn, Some(answer.encode(to.api_version, to.correlation_id)), net);
        }
    }
}
