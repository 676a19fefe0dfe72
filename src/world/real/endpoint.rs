//! TCP with length-prefixed frames, on tokio.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | acceptor | the listener | with the endpoint |
//! | connector, one per outgoing connection | the attempt | when it is established, fails or is closed |
//! | conversation, one per connection | both halves of the socket | when either side closes or fails |
//!
//! All of them feed the endpoint's one inbox and wait while it is full, so a process that lags behind makes its peers'
//! sockets fill up. A connection's socket is handed over through the inbox, so nothing of it overtakes its `Accepted`.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use crate::world::{Chain, ConnId, Event, HostPort, Time};

/// `socket.request.max.bytes`: a longer frame closes its connection.
const FRAME_BYTES_MAX: usize = 100 * 1024 * 1024;

/// Arrivals that wait for the process. A few per connection of a small cluster; a frame can be large, so not more.
const INBOX_LEN_MAX: usize = 256;

/// Frames that wait for one connection's socket. A client has five requests in flight unless told otherwise, so only a
/// peer that does not read gets there; its connection is closed.
const OUTBOX_LEN_MAX: usize = 1_024;

/// How long a peer may accept no bytes at all: `connections.max.idle.ms`.
const WRITE_STALL_MAX: Duration = Duration::from_secs(600);

/// How long the acceptor rests when the operating system refuses to accept, as when file descriptors run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What the endpoint's tasks report.
enum Arrival {
    Accepted(ConnId, TcpStream),
    Connected(ConnId, TcpStream),
    Frame(ConnId, Chain),
    Closed(ConnId),
}

/// A connection that is open from the process's point of view.
struct Conn {
    outbox: mpsc::Sender<Chain>,
    /// Taken when the connection is established: until then frames wait here.
    queued: Option<mpsc::Receiver<Chain>>,
    connector: Option<AbortHandle>,
    /// Of the peer.
    host: String,
}

/// The real network as one process sees it. Dropping it closes everything; frames already sent are still written as
/// long as the runtime lives.
pub struct RealEndpoint {
    conns: BTreeMap<ConnId, Conn>,
    arrivals: mpsc::Receiver<Arrival>,
    inbox: mpsc::Sender<Arrival>,
    terminate: Arc<Notify>,
    acceptor: Option<(AbortHandle, SocketAddr)>,
}

/// Asks the process behind an endpoint to stop. Cheap to clone.
#[derive(Clone)]
pub struct TerminateHandle {
    terminate: Arc<Notify>,
}

impl TerminateHandle {
    /// Delivers [`Event::Terminate`] ahead of all that waits. Calls before it is delivered count once.
    pub fn terminate(&self) {
        self.terminate.notify_one();
    }
}

/// Never reused within the operating system's process.
fn next_id() -> ConnId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    ConnId(NEXT.fetch_add(1, Ordering::Relaxed))
}

impl RealEndpoint {
    /// An endpoint that accepts connections at `listen`, if given (port 0: any free one). An error is that of binding.
    pub async fn bind(listen: Option<&HostPort>) -> io::Result<RealEndpoint> {
        let (inbox, arrivals) = mpsc::channel(INBOX_LEN_MAX);
        let acceptor = match listen {
            Some(HostPort { host, port }) => {
                let listener = TcpListener::bind((host.as_str(), *port)).await?;
                let address = listener.local_addr()?;
                Some((tokio::spawn(accept(listener, inbox.clone())).abort_handle(), address))
            }
            None => None,
        };
        Ok(RealEndpoint { conns: BTreeMap::new(), arrivals, inbox, terminate: Arc::default(), acceptor })
    }

    /// Where it listens, if it does.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.acceptor.as_ref().map(|(_, address)| *address)
    }

    pub fn terminate_handle(&self) -> TerminateHandle {
        TerminateHandle { terminate: self.terminate.clone() }
    }

    /// See [`Endpoint::connect`](super::super::Endpoint::connect).
    pub fn connect(&mut self, to: &HostPort) -> ConnId {
        let id = next_id();
        let connector = tokio::spawn(connect(id, to.clone(), self.inbox.clone())).abort_handle();
        let (outbox, queued) = mpsc::channel(OUTBOX_LEN_MAX);
        self.conns.insert(id, Conn { outbox, queued: Some(queued), connector: Some(connector), host: to.host.clone() });
        id
    }

    /// See [`Endpoint::send`](super::super::Endpoint::send).
    pub fn send(&mut self, id: ConnId, frame: Chain) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        match conn.outbox.try_send(frame) {
            // A closed outbox: the conversation is over and its `Closed` is on its way.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            // Dropping our sender lets the conversation end as soon as its socket takes the rest; the process must
            // hear of it too, without waiting for a place in the inbox that it alone can empty.
            Err(mpsc::error::TrySendError::Full(_)) => {
                let (closed, _) = mpsc::channel(1);
                conn.outbox = closed;
                let inbox = self.inbox.clone();
                tokio::spawn(async move { inbox.send(Arrival::Closed(id)).await });
            }
        }
    }

    /// See [`Endpoint::close`](super::super::Endpoint::close).
    pub fn close(&mut self, id: ConnId) {
        if let Some(Conn { connector: Some(connector), .. }) = self.conns.remove(&id) {
            connector.abort();
        }
    }

    /// See [`Endpoint::peer_host`](super::super::Endpoint::peer_host).
    pub fn peer_host(&self, id: ConnId) -> String {
        self.conns.get(&id).map_or_else(String::new, |conn| conn.host.clone())
    }

    /// See [`Endpoint::next`](super::super::Endpoint::next).
    pub async fn next(&mut self, deadline: Option<Time>) -> Option<Event> {
        let deadline = deadline.and_then(|at| super::epoch().checked_add(at - Time::ZERO));
        match deadline {
            Some(at) => tokio::time::timeout_at(at.into(), self.next_event()).await.ok(),
            None => Some(self.next_event().await),
        }
    }

    async fn next_event(&mut self) -> Event {
        loop {
            let arrival = {
                let terminate = pin!(self.terminate.notified());
                let arrival = pin!(self.arrivals.recv());
                match select(terminate, arrival).await {
                    Either::Left(((), _)) => return Event::Terminate,
                    Either::Right((arrival, _)) => arrival.expect("the endpoint holds a sender of its inbox"),
                }
            };
            if let Some(event) = self.admit(arrival) {
                return event;
            }
        }
    }

    /// Takes note of an arrival; none if the process closed the connection meanwhile.
    fn admit(&mut self, arrival: Arrival) -> Option<Event> {
        match arrival {
            Arrival::Accepted(id, stream) => {
                let (outbox, queued) = mpsc::channel(OUTBOX_LEN_MAX);
                let host = stream.peer_addr().map_or_else(|_| String::new(), |address| address.ip().to_string());
                self.conns.insert(id, Conn { outbox, queued: None, connector: None, host });
                tokio::spawn(converse(id, stream, queued, self.inbox.clone()));
                Some(Event::Accepted(id))
            }
            Arrival::Connected(id, stream) => {
                let conn = self.conns.get_mut(&id)?;
                conn.connector = None;
                let queued = conn.queued.take().expect("a connection is established once");
                tokio::spawn(converse(id, stream, queued, self.inbox.clone()));
                Some(Event::Connected(id))
            }
            Arrival::Frame(id, frame) => self.conns.contains_key(&id).then_some(Event::Frame(id, frame)),
            Arrival::Closed(id) => self.conns.remove(&id).map(|_| Event::Closed(id)),
        }
    }
}

impl Drop for RealEndpoint {
    fn drop(&mut self) {
        if let Some((acceptor, _)) = &self.acceptor {
            acceptor.abort();
        }
        for connector in self.conns.values().filter_map(|conn| conn.connector.as_ref()) {
            connector.abort();
        }
    }
}

async fn accept(listener: TcpListener, inbox: mpsc::Sender<Arrival>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if inbox.send(Arrival::Accepted(next_id(), stream)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connect(id: ConnId, to: HostPort, inbox: mpsc::Sender<Arrival>) {
    let arrival = match TcpStream::connect((to.host.as_str(), to.port)).await {
        Ok(stream) => Arrival::Connected(id, stream),
        Err(error) => {
            tracing::debug!(%error, %to, "cannot connect");
            Arrival::Closed(id)
        }
    };
    // No receiver: the endpoint was dropped.
    let _ = inbox.send(arrival).await;
}

/// Moves frames both ways until the peer closes, either direction fails, or our side has closed and all is written.
async fn converse(id: ConnId, stream: TcpStream, outbox: mpsc::Receiver<Chain>, inbox: mpsc::Sender<Arrival>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let (reader, writer) = stream.into_split();
    let is_closed_by_us = {
        let reading = pin!(read_frames(id, reader, &inbox));
        let writing = pin!(write_frames(writer, outbox));
        match select(reading, writing).await {
            Either::Left((result, _)) => {
                if let Err(error) = result {
                    tracing::debug!(%error, ?id, "cannot read from a connection");
                }
                false
            }
            Either::Right((Ok(()), _)) => true,
            Either::Right((Err(error), _)) => {
                tracing::debug!(%error, ?id, "cannot write to a connection");
                false
            }
        }
    };
    if !is_closed_by_us {
        // No receiver: the endpoint was dropped.
        let _ = inbox.send(Arrival::Closed(id)).await;
    }
}

/// Ends with `Ok` when the peer has closed its side.
async fn read_frames(id: ConnId, reader: OwnedReadHalf, inbox: &mpsc::Sender<Arrival>) -> io::Result<()> {
    let codec = LengthDelimitedCodec::builder().length_field_length(4).max_frame_length(FRAME_BYTES_MAX).new_codec();
    let mut frames = FramedRead::new(reader, codec);
    while let Some(frame) = frames.next().await {
        if inbox.send(Arrival::Frame(id, frame?.freeze().into())).await.is_err() {
            // The endpoint was dropped: what it sent before is still being written.
            std::future::pending::<()>().await;
        }
    }
    Ok(())
}

/// Ends with `Ok` when our side has closed and everything is written. Small frames that wait together leave together;
/// the pieces of a larger one go to the socket as they are (`writev`).
async fn write_frames(writer: impl AsyncWrite + Unpin, mut outbox: mpsc::Receiver<Chain>) -> io::Result<()> {
    let mut writer = BufWriter::new(writer);
    while let Some(frame) = outbox.recv().await {
        if frame.len() > FRAME_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the frame is too long to send"));
        }
        let length = u32::try_from(frame.len()).expect("FRAME_BYTES_MAX fits 32 bits").to_be_bytes();
        write_all(&mut writer, &length, &frame).await?;
        if outbox.is_empty() {
            bounded(writer.flush()).await?;
        }
    }
    bounded(writer.flush()).await?;
    bounded(writer.shutdown()).await
}

/// Linux takes so many pieces at once (`IOV_MAX`).
const PIECES_MAX: usize = 1_024;

async fn write_all(writer: &mut (impl AsyncWrite + Unpin), length: &[u8], frame: &Chain) -> io::Result<()> {
    let mut pieces = std::iter::once(length).chain(frame.pieces().map(|piece| &piece[..]));
    loop {
        let mut slices: Vec<IoSlice<'_>> = pieces.by_ref().take(PIECES_MAX).map(IoSlice::new).collect();
        if slices.is_empty() {
            return Ok(());
        }
        let mut left = &mut slices[..];
        // Drops what is empty, too.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let written = bounded(writer.write_vectored(left)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut left, written);
        }
    }
}

/// Fails when the peer takes nothing for [`WRITE_STALL_MAX`].
async fn bounded<T>(writing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(WRITE_STALL_MAX, writing).await {
        Ok(result) => result,
        Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no bytes")),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;

    use super::*;

    /// A socket that takes a little at a time, and notes where in memory it came from.
    #[derive(Default)]
    struct Socket {
        taken: Vec<u8>,
        from: Vec<*const u8>,
    }

    const TAKES: usize = 5_000;

    impl AsyncWrite for Socket {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            assert!(slices.len() <= PIECES_MAX);
            let mut left = TAKES;
            for slice in slices {
                let some = slice.len().min(left);
                self.taken.extend_from_slice(&slice[..some]);
                self.from.push(slice.as_ptr());
                left -= some;
            }
            Poll::Ready(Ok(TAKES - left))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_pieces_of_a_frame_go_to_the_socket_as_they_are() {
        let pieces: Vec<Bytes> = (0..3_000).map(|n| vec![n as u8; 10 + n % 7].into()).collect();
        let mut frame = Chain::new();
        pieces.iter().for_each(|piece| frame.push(piece.clone()));
        let (outbox, queued) = mpsc::channel(2);
        outbox.try_send(frame.clone()).unwrap();
        outbox.try_send(Bytes::from_static(b"small").into()).unwrap();
        drop(outbox);
        let mut socket = Socket::default();
        write_frames(&mut socket, queued).await.unwrap();
        let length = |len: usize| (len as u32).to_be_bytes();
        let expected = [&length(frame.len())[..], &frame.to_bytes(), &length(5), b"small"].concat();
        assert_eq!(socket.taken, expected);
        assert!(pieces.iter().all(|piece| socket.from.contains(&piece.as_ptr())), "a piece was copied first");
    }
}
