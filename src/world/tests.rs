//! What holds in both worlds, stated once and run against each.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::real::{RealEndpoint, RealWorld};
use super::sim::{SimConfig, Simulation};
use super::*;

/// Sends every frame back; exits when asked to.
#[derive(Default)]
pub(super) struct EchoServer {
    is_terminated: bool,
}

impl Process for EchoServer {
    fn start(&mut self, _net: &mut Endpoint) {}

    fn on_event(&mut self, event: Event, net: &mut Endpoint) {
        match event {
            Event::Frame(conn, frame) => net.send(conn, frame),
            Event::Terminate => self.is_terminated = true,
            Event::IoReady => {}
            Event::Accepted(_) | Event::Connected(_) | Event::Closed(_) => {}
        }
    }

    fn on_timer(&mut self, _net: &mut Endpoint) {}

    fn deadline(&self) -> Option<Time> {
        None
    }

    fn is_finished(&self) -> bool {
        self.is_terminated
    }
}

/// Keeps `window` frames in flight until `rounds` have come back, in order; then closes, or waits for the server to.
pub(super) struct EchoClient {
    pub(super) server: HostPort,
    pub(super) rounds: u64,
    pub(super) window: u64,
    pub(super) frame_bytes: usize,
    pub(super) completed: Arc<AtomicU64>,
    sent: u64,
    conn: Option<ConnId>,
    is_closed: bool,
}

impl EchoClient {
    pub(super) fn new(server: HostPort, rounds: u64) -> EchoClient {
        let completed = Arc::default();
        EchoClient { server, rounds, window: 1, frame_bytes: 64, completed, sent: 0, conn: None, is_closed: false }
    }

    fn fill_window(&mut self, net: &mut Endpoint) {
        let conn = self.conn.expect("connected");
        while self.sent < self.rounds && self.sent - self.completed.load(Ordering::Relaxed) < self.window {
            net.send(conn, self.frame(self.sent));
            self.sent += 1;
        }
    }

    fn frame(&self, round: u64) -> Bytes {
        let mut frame = vec![round as u8; self.frame_bytes];
        frame[..8].copy_from_slice(&round.to_be_bytes());
        frame.into()
    }
}

impl Process for EchoClient {
    fn start(&mut self, net: &mut Endpoint) {
        self.conn = Some(net.connect(&self.server));
    }

    fn on_event(&mut self, event: Event, net: &mut Endpoint) {
        assert!(!self.is_closed, "no event follows Closed");
        match event {
            Event::Connected(_) => self.fill_window(net),
            Event::Frame(conn, frame) => {
                let completed = self.completed.load(Ordering::Relaxed);
                assert_eq!(frame.into_bytes(), self.frame(completed));
                self.completed.store(completed + 1, Ordering::Relaxed);
                if completed + 1 == self.rounds {
                    net.close(conn);
                    self.is_closed = true;
                }
                self.fill_window(net);
            }
            Event::Closed(_) => self.is_closed = true,
            Event::Accepted(_) | Event::IoReady | Event::Terminate => {}
        }
    }

    fn on_timer(&mut self, _net: &mut Endpoint) {}

    fn deadline(&self) -> Option<Time> {
        None
    }

    fn is_finished(&self) -> bool {
        self.is_closed
    }
}

/// Runs `client` against a server in the simulated world; the frames delivered.
fn run_simulated(make_client: impl Fn(HostPort) -> EchoClient + Send + Sync + 'static) -> u64 {
    std::thread::spawn(move || {
        Simulation::block_on(1, SimConfig::default(), |sim| async move {
            sim.add_machine("server", true, |_world, mut net| {
                Box::pin(async move { run(&mut EchoServer::default(), &mut net).await })
            });
            sim.add_machine("client", false, move |_world, mut net| {
                let mut client = make_client(HostPort::new("server", 9092));
                Box::pin(async move { run(&mut client, &mut net).await })
            });
            while sim.is_running("client") {
                sim.sleep_until(sim.now() + std::time::Duration::from_millis(10)).await;
            }
            sim.frames()
        })
    })
    .join()
    .expect("the simulation ends without a panic")
}

/// Runs `client` against a server over loopback.
fn run_real(make_client: impl Fn(HostPort) -> EchoClient) {
    on_tokio(async {
        let server_net = RealEndpoint::bind(Some(&HostPort::new("127.0.0.1", 0))).await.unwrap();
        let address = server_net.local_addr().unwrap();
        let terminate = server_net.terminate_handle();
        let server = tokio::spawn(async move {
            let mut net = Endpoint::Real(server_net);
            run(&mut EchoServer::default(), &mut net).await;
        });
        let mut net = Endpoint::Real(RealEndpoint::bind(None).await.unwrap());
        run(&mut make_client(HostPort::new("127.0.0.1", address.port())), &mut net).await;
        terminate.terminate();
        server.await.unwrap();
    });
}

fn on_tokio<T>(main: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(main)
}

#[test]
fn a_process_echoes_in_both_worlds() {
    let completed = Arc::new(AtomicU64::new(0));
    let client = |completed: Arc<AtomicU64>| {
        move |server| EchoClient { completed: completed.clone(), ..EchoClient::new(server, 500) }
    };
    assert_eq!(run_simulated(client(completed.clone())), 1_000);
    assert_eq!(completed.swap(0, Ordering::Relaxed), 500);
    run_real(client(completed.clone()));
    assert_eq!(completed.load(Ordering::Relaxed), 500);
}

#[test]
fn large_and_pipelined_frames_stay_whole_and_in_order_in_both_worlds() {
    let completed = Arc::new(AtomicU64::new(0));
    let client = |completed: Arc<AtomicU64>| {
        move |server| EchoClient {
            completed: completed.clone(),
            window: 50,
            frame_bytes: 100_000,
            ..EchoClient::new(server, 200)
        }
    };
    run_simulated(client(completed.clone()));
    assert_eq!(completed.swap(0, Ordering::Relaxed), 200);
    run_real(client(completed.clone()));
    assert_eq!(completed.load(Ordering::Relaxed), 200);
}

#[test]
fn a_hundred_thousand_round_trips_complete() {
    assert_eq!(run_simulated(|server| EchoClient::new(server, 100_000)), 200_000);
}

/// The disk's contract as far as no power fails.
fn check_disk(disk: &Disk) -> io::Result<()> {
    assert_eq!(disk.open("missing").map(|_| ()).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.read_dir("missing").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.remove_file("missing").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.create("missing/file").map(|_| ()).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.create("../file").map(|_| ()).unwrap_err().kind(), io::ErrorKind::InvalidInput);

    disk.create_dir_all("topic-0/inner")?;
    disk.create_dir_all("topic-0")?;
    disk.sync_dir("")?;
    assert!(disk.exists("topic-0/inner"));

    let mut file = disk.create("topic-0/b.log")?;
    assert!(file.is_empty());
    assert_eq!(file.append(b"hello ")?, 0);
    assert_eq!(file.append_both(b"wor", b"ld")?, 6);
    assert_eq!(&file.read_at(0, 100)?[..], b"hello world");
    assert_eq!(&file.read_at(3, 5)?[..], b"lo wo");
    assert_eq!(file.read_at(11, 5)?.len(), 0);
    assert_eq!(file.read_at(99, 5)?.len(), 0);
    file.write_at(9, b"LDS")?;
    assert_eq!(&file.read_at(0, 100)?[..], b"hello worLDS");
    assert_eq!(file.write_at(13, b"gap").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    file.truncate(100)?;
    assert_eq!(file.len(), 12);
    file.truncate(5)?;
    file.sync()?;
    assert_eq!(file.len(), 5);

    disk.create("topic-0/a.log")?.append(b"old")?;
    assert_eq!(disk.read_dir("topic-0")?, ["a.log", "b.log", "inner"]);
    disk.rename("topic-0/b.log", "topic-0/a.log")?;
    disk.sync_dir("topic-0")?;
    file.append(b"!")?;
    assert_eq!(&disk.open("topic-0/a.log")?.read_at(0, 9)?[..], b"hello!", "a handle follows its file");
    assert!(!disk.exists("topic-0/b.log"));
    assert_eq!(disk.create("topic-0/a.log")?.len(), 0, "create truncates");

    assert_eq!(disk.rename("missing", "any").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(disk.rename("topic-0/a.log", "topic-0/inner").is_err());
    disk.rename("topic-0", "topic-0-delete")?;
    assert_eq!(disk.read_dir("")?, ["topic-0-delete"]);
    assert!(disk.remove_file("topic-0-delete").is_err());
    disk.remove_file("topic-0-delete/a.log")?;
    disk.remove_dir_all("topic-0-delete")?;
    assert!(!disk.exists("topic-0-delete"));
    Ok(())
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    let checked = Arc::new(AtomicU64::new(0));
    let seen = checked.clone();
    std::thread::spawn(move || {
        Simulation::block_on(1, SimConfig::default(), |sim| async move {
            sim.add_machine("broker", false, move |world, _net| {
                let checked = checked.clone();
                Box::pin(async move {
                    check_disk(&world.disk()).unwrap();
                    checked.fetch_add(1, Ordering::Relaxed);
                })
            });
            sim.sleep_until(Time::from_millis(1)).await;
        })
    })
    .join()
    .unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[test]
fn the_real_disk_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::Real(RealWorld::new(dir.path().join("data")).unwrap());
    check_disk(&world.disk()).unwrap();
}

#[test]
fn real_time_and_streams_behave() {
    use rand::Rng as _;
    let dir = tempfile::tempdir().unwrap();
    let world = RealWorld::new(dir.path().to_path_buf()).unwrap();
    let earlier = world.now();
    assert!(world.now() >= earlier);
    assert!(world.wall_clock_ms() > 1_700_000_000_000);
    assert_eq!(world.rng("a").next_u64(), world.rng("a").next_u64());
    assert_ne!(world.rng("a").next_u64(), world.rng("b").next_u64());
    let other = RealWorld::new(dir.path().to_path_buf()).unwrap();
    assert_ne!(world.rng("a").next_u64(), other.rng("a").next_u64());
    let fresh = || World::Real(world.clone()).fresh_rng("a").next_u64();
    assert_ne!(fresh(), fresh());
}

mod real_network {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn listening() -> (RealEndpoint, HostPort) {
        let net = RealEndpoint::bind(Some(&HostPort::new("127.0.0.1", 0))).await.unwrap();
        let port = net.local_addr().unwrap().port();
        (net, HostPort::new("127.0.0.1", port))
    }

    #[test]
    fn a_refused_connection_is_closed() {
        on_tokio(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let mut net = RealEndpoint::bind(None).await.unwrap();
            let conn = net.connect(&HostPort::new("127.0.0.1", port));
            assert!(matches!(net.next(None).await, Some(Event::Closed(closed)) if closed == conn));
        });
    }

    #[test]
    fn an_oversized_length_closes_the_connection() {
        on_tokio(async {
            for length in [FRAME_BYTES_MAX + 1, u32::MAX] {
                let (mut net, address) = listening().await;
                let mut client = TcpStream::connect((address.host.as_str(), address.port)).await.unwrap();
                client.write_u32(length).await.unwrap();
                let Some(Event::Accepted(conn)) = net.next(None).await else { panic!("not accepted") };
                assert!(matches!(net.next(None).await, Some(Event::Closed(closed)) if closed == conn));
                assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0, "the socket is closed");
            }
        });
    }

    const FRAME_BYTES_MAX: u32 = 100 * 1024 * 1024;

    #[test]
    fn frames_sent_before_the_connection_is_established_or_right_before_close_arrive() {
        on_tokio(async {
            let (mut server, address) = listening().await;
            let mut client = RealEndpoint::bind(None).await.unwrap();
            let conn = client.connect(&address);
            client.send(conn, Bytes::from_static(b"early").into());
            assert!(matches!(client.next(None).await, Some(Event::Connected(_))));
            client.send(conn, Bytes::from_static(b"late").into());
            client.close(conn);
            let Some(Event::Accepted(accepted)) = server.next(None).await else { panic!("not accepted") };
            for expected in ["early", "late"] {
                let Some(Event::Frame(_, frame)) = server.next(None).await else { panic!("no frame") };
                assert_eq!(frame.into_bytes(), expected);
            }
            assert!(matches!(server.next(None).await, Some(Event::Closed(closed)) if closed == accepted));
            server.send(accepted, Bytes::from_static(b"to nobody").into());
        });
    }

    #[test]
    fn an_expired_deadline_yields_nothing_but_due_events_come_first() {
        on_tokio(async {
            let mut net = RealEndpoint::bind(None).await.unwrap();
            assert!(net.next(Some(Time::ZERO)).await.is_none());
            net.terminate_handle().terminate();
            assert!(matches!(net.next(Some(Time::ZERO)).await, Some(Event::Terminate)));
            assert!(net.next(Some(Time::ZERO)).await.is_none());
        });
    }

    #[test]
    fn dropping_the_endpoint_closes_connections_and_listener() {
        on_tokio(async {
            let (mut server, address) = listening().await;
            let mut client = TcpStream::connect((address.host.as_str(), address.port)).await.unwrap();
            let Some(Event::Accepted(conn)) = server.next(None).await else { panic!("not accepted") };
            server.send(conn, Bytes::from_static(b"bye").into());
            drop(server);
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.unwrap();
            assert_eq!(received, b"\0\0\0\x03bye");
            assert!(TcpStream::connect((address.host.as_str(), address.port)).await.is_err());
        });
    }

    #[test]
    fn a_peer_that_never_reads_is_closed_instead_of_queued_for_ever() {
        on_tokio(async {
            let (mut server, address) = listening().await;
            let _client = TcpStream::connect((address.host.as_str(), address.port)).await.unwrap();
            let Some(Event::Accepted(conn)) = server.next(None).await else { panic!("not accepted") };
            let frame = Bytes::from(vec![0; 64 * 1024]);
            for _ in 0..2_000 {
                server.send(conn, frame.clone().into());
            }
            assert!(matches!(server.next(None).await, Some(Event::Closed(closed)) if closed == conn));
        });
    }
}
