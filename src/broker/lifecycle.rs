//! Registration, heartbeats, controlled shutdown (`BrokerLifecycleManager`).

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::broker_registration_request::Listener;
use kafka_protocol::messages::{BrokerHeartbeatRequest, BrokerRegistrationRequest};
use kafka_protocol::protocol::StrBytes;
use rand::RngExt;
use uuid::Uuid;

use super::{Broker, BrokerOptions, LogDirs, rpc_config};
use crate::observe::Observation;
use crate::protocol::BrokerEpoch;
use crate::protocol::rpc::{Completion, PeerId, Reply, RpcClient, RpcError};
use crate::replica::Environment;
use crate::world::{Endpoint, Rng, Time, World};

/// `BrokerState`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BrokerState {
    /// Catching up with the cluster's metadata.
    Starting,
    /// Caught up, waiting to be unfenced.
    Recovery,
    Running,
    /// Leadership is being moved away.
    PendingControlledShutdown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    Registration,
    Heartbeat,
}

/// While starting, the next heartbeat follows soon, so that a start without recovery is quick.
const STARTING_INTERVAL: Duration = Duration::from_millis(10);
/// The second heartbeat of a controlled shutdown: most are over by then.
const SHUTDOWN_INTERVAL: Duration = Duration::from_millis(50);
/// First backoff after a failure, doubled up to the session timeout.
const RESEND_BACKOFF: Duration = Duration::from_millis(100);
/// How long a controlled shutdown may take (`Server.shutdown`'s timeout).
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(300);

pub(super) struct Lifecycle {
    pub rpc: RpcClient<Call>,
    controller: PeerId,
    /// Tells this run of the process from every other.
    incarnation: Uuid,
    /// The log directories that were online when the broker was started.
    directories: Vec<Uuid>,
    /// Those that failed since; until when the controller must know of it, where it does not.
    offline_dirs: BTreeMap<Uuid, OfflineDir>,
    previous_broker_epoch: BrokerEpoch,
    state: BrokerState,
    is_registered: bool,
    is_ready_to_unfence: bool,
    is_in_flight: bool,
    send_at: Option<Time>,
    /// When the call in flight was first made.
    called_at: Time,
    is_next_immediate: bool,
    failed_attempts: u32,
    has_shutdown_response: bool,
    shut_down_by: Option<Time>,
    session_timeout: Duration,
    heartbeat_interval: Duration,
    request_timeout: Duration,
    rng: Rng,
}

/// A log directory that failed, and what the controller knows of it.
#[derive(Clone, Copy, Debug)]
enum OfflineDir {
    Unknown {
        deadline: Time,
    },
    /// Named in the heartbeat in flight, or in one whose answer was lost.
    Told {
        deadline: Time,
    },
    Known,
}

impl OfflineDir {
    fn deadline(&self) -> Option<Time> {
        match *self {
            OfflineDir::Unknown { deadline } | OfflineDir::Told { deadline } => Some(deadline),
            OfflineDir::Known => None,
        }
    }

    /// A heartbeat that names it is sent.
    fn tell(&mut self) {
        if let OfflineDir::Unknown { deadline } = *self {
            *self = OfflineDir::Told { deadline };
        }
    }

    /// The controller has answered the heartbeat.
    fn told(&mut self) {
        if let OfflineDir::Told { .. } = *self {
            *self = OfflineDir::Known;
        }
    }
}

/// What the controller's answer means for the broker.
enum News {
    None,
    Registered(BrokerEpoch),
    Unfenced,
    ShutDown,
}

impl Lifecycle {
    pub fn new(world: &World, options: &BrokerOptions, log_dirs: &LogDirs) -> Lifecycle {
        let mut rng = world.rng("broker-lifecycle");
        let mut rpc =
            RpcClient::new(rpc_config(options, "heartbeat", Duration::from_millis(50)), world.rng("heartbeat"));
        let config = &options.config;
        Lifecycle {
            controller: rpc.peer(&options.controller),
            rpc,
            incarnation: random_uuid(&mut rng),
            directories: log_dirs.online_ids(),
            offline_dirs: BTreeMap::new(),
            previous_broker_epoch: log_dirs.previous_broker_epoch(),
            state: BrokerState::Starting,
            is_registered: false,
            is_ready_to_unfence: false,
            is_in_flight: false,
            send_at: None,
            called_at: Time::ZERO,
            is_next_immediate: false,
            failed_attempts: 0,
            has_shutdown_response: false,
            shut_down_by: None,
            session_timeout: config.broker_session_timeout,
            heartbeat_interval: config.broker_heartbeat_interval,
            // The channel's retryTimeoutMs: an answer that comes later than that is of no use.
            request_timeout: config.controller_socket_timeout.min(config.broker_session_timeout / 2),
            rng,
        }
    }

    pub fn start(&mut self, now: Time, env: &Environment, options: &BrokerOptions, net: &mut Endpoint) {
        self.communicate(now, env, options, net);
    }

    pub fn deadline(&self) -> Option<Time> {
        let send_at = self.send_at.filter(|_| !self.is_in_flight);
        self.rpc.deadline().into_iter().chain(send_at).chain(self.shut_down_by).chain(self.failure_deadline()).min()
    }

    pub fn is_in_controlled_shutdown(&self) -> bool {
        self.state == BrokerState::PendingControlledShutdown
    }

    /// The first metadata is published: we can serve as soon as the controller unfences us.
    pub fn set_ready_to_unfence(&mut self, now: Time) {
        if self.state == BrokerState::Recovery && !self.is_ready_to_unfence {
            self.is_ready_to_unfence = true;
            self.schedule(now, Duration::ZERO);
        }
    }

    fn schedule(&mut self, now: Time, after: Duration) {
        let is_immediate = std::mem::take(&mut self.is_next_immediate) || after.is_zero();
        if self.is_in_flight && is_immediate {
            self.is_next_immediate = true;
        }
        self.send_at = Some(if is_immediate { now } else { now + after });
    }

    fn schedule_after_failure(&mut self, now: Time) {
        let doubled = RESEND_BACKOFF.saturating_mul(1 << self.failed_attempts.min(16));
        let jitter_permille = self.rng.random_range(980..=1020);
        let backoff = doubled.min(self.session_timeout) * jitter_permille / 1000;
        self.failed_attempts += 1;
        self.is_next_immediate = false;
        self.schedule(now, backoff);
    }

    fn communicate(&mut self, now: Time, env: &Environment, options: &BrokerOptions, net: &mut Endpoint) {
        self.send_at = None;
        self.called_at = now;
        self.call(now, env, options, net);
    }

    fn call(&mut self, now: Time, env: &Environment, options: &BrokerOptions, net: &mut Endpoint) {
        self.is_in_flight = true;
        let timeout = (self.called_at + self.request_timeout).since(now);
        if self.is_registered {
            let request = self.heartbeat(env);
            for dir in self.offline_dirs.values_mut() {
                dir.tell();
            }
            self.rpc.send(now, self.controller, 1, &request, timeout, Call::Heartbeat, net);
        } else {
            let request = self.registration(options);
            self.rpc.send(now, self.controller, 4, &request, timeout, Call::Registration, net);
        }
    }

    fn registration(&self, options: &BrokerOptions) -> BrokerRegistrationRequest {
        let listener = Listener::default()
            .with_name(StrBytes::from_static_str("PLAINTEXT"))
            .with_host(StrBytes::from_string(options.listen.host.clone()))
            .with_port(options.listen.port);
        BrokerRegistrationRequest::default()
            .with_broker_id(options.id.0.into())
            .with_cluster_id(StrBytes::from_static_str(super::admin::CLUSTER_ID))
            .with_incarnation_id(self.incarnation)
            .with_listeners(vec![listener])
            .with_log_dirs(self.directories.clone())
            .with_rack(options.rack.clone().map(StrBytes::from_string))
            .with_previous_broker_epoch(self.previous_broker_epoch.0)
    }

    fn heartbeat(&self, env: &Environment) -> BrokerHeartbeatRequest {
        BrokerHeartbeatRequest::default()
            .with_broker_id(env.id.0.into())
            .with_broker_epoch(env.broker_epoch.0)
            .with_current_metadata_offset(env.image.next_offset - 1)
            .with_want_fence(!self.is_ready_to_unfence)
            .with_want_shut_down(self.state == BrokerState::PendingControlledShutdown)
            .with_offline_log_dirs(self.offline_dirs.keys().copied().collect())
    }

    /// Tells the controller of a log directory that failed, at once. If that does not succeed before `deadline`, the
    /// broker stops (`log.dir.failure.timeout.ms`).
    pub fn propagate_directory_failure(&mut self, now: Time, directory: Uuid, deadline: Time) {
        self.offline_dirs.insert(directory, OfflineDir::Unknown { deadline });
        if self.is_registered {
            self.schedule(now, Duration::ZERO);
        }
    }

    fn failure_deadline(&self) -> Option<Time> {
        self.offline_dirs.values().filter_map(|dir| dir.deadline()).min()
    }

    fn on_reply(&mut self, now: Time, call: Call, reply: &Reply) -> News {
        match call {
            Call::Registration => match reply.decode::<BrokerRegistrationRequest>() {
                Ok(response) if response.error_code == 0 => {
                    self.failed_attempts = 0;
                    self.is_registered = true;
                    self.schedule(now, Duration::ZERO);
                    News::Registered(BrokerEpoch(response.broker_epoch))
                }
                _ => {
                    self.schedule_after_failure(now);
                    News::None
                }
            },
            Call::Heartbeat => match reply.decode::<BrokerHeartbeatRequest>() {
                Ok(response) if response.error_code == 0 => {
                    self.failed_attempts = 0;
                    self.offline_dirs.values_mut().for_each(OfflineDir::told);
                    self.on_heartbeat(now, response.is_caught_up, response.is_fenced, response.should_shut_down)
                }
                _ => {
                    self.schedule_after_failure(now);
                    News::None
                }
            },
        }
    }

    fn on_heartbeat(&mut self, now: Time, is_caught_up: bool, is_fenced: bool, should_shut_down: bool) -> News {
        match self.state {
            BrokerState::Starting => {
                if is_caught_up {
                    self.state = BrokerState::Recovery;
                }
                self.schedule(now, STARTING_INTERVAL);
                News::None
            }
            BrokerState::Recovery => {
                self.schedule(now, self.heartbeat_interval);
                if is_fenced {
                    return News::None;
                }
                self.state = BrokerState::Running;
                News::Unfenced
            }
            BrokerState::Running => {
                self.schedule(now, self.heartbeat_interval);
                News::None
            }
            BrokerState::PendingControlledShutdown => {
                if should_shut_down {
                    return News::ShutDown;
                }
                let is_first = !std::mem::replace(&mut self.has_shutdown_response, true);
                self.schedule(now, if is_first { SHUTDOWN_INTERVAL } else { self.heartbeat_interval });
                News::None
            }
        }
    }
}

impl Broker {
    /// The operator wants us to stop: first the leaders move away, if that is wanted and possible.
    pub(super) fn begin_shutdown(&mut self, now: Time, net: &mut Endpoint) {
        if self.lifecycle.is_in_controlled_shutdown() {
            return;
        }
        let is_controlled =
            self.options.config.controlled_shutdown_enable && self.lifecycle.state == BrokerState::Running;
        if !is_controlled {
            return self.shut_down(now);
        }
        self.lifecycle.state = BrokerState::PendingControlledShutdown;
        self.lifecycle.shut_down_by = Some(now + SHUTDOWN_TIMEOUT);
        self.lifecycle.schedule(now, Duration::ZERO);
        self.on_lifecycle_timer(now, net);
    }

    pub(super) fn on_lifecycle_timer(&mut self, now: Time, net: &mut Endpoint) {
        if self.is_finished {
            return;
        }
        if self.lifecycle.shut_down_by.is_some_and(|by| by <= now) {
            return self.shut_down(now);
        }
        if self.lifecycle.failure_deadline().is_some_and(|by| by <= now) {
            tracing::error!(broker = self.env.id.0, "the controller could not be told of an offline log directory");
            return self.shut_down(now);
        }
        if !self.lifecycle.is_in_flight && self.lifecycle.send_at.is_some_and(|at| at <= now) {
            self.lifecycle.communicate(now, &self.env, &self.options, net);
        }
    }

    pub(super) fn on_lifecycle_replies(&mut self, now: Time, replies: Vec<Completion<Call>>, net: &mut Endpoint) {
        for reply in replies {
            self.lifecycle.is_in_flight = false;
            match reply.result {
                Ok(answer) => {
                    let news = self.lifecycle.on_reply(now, reply.tag, &answer);
                    self.on_lifecycle_news(now, news, net);
                }
                // The channel sends again on a new connection, within the same time.
                Err(RpcError::Disconnected { .. })
                    if now < self.lifecycle.called_at + self.lifecycle.request_timeout =>
                {
                    self.lifecycle.call(now, &self.env, &self.options, net);
                }
                Err(_) => self.lifecycle.schedule_after_failure(now),
            }
        }
        self.on_lifecycle_timer(now, net);
    }

    fn on_lifecycle_news(&mut self, now: Time, news: News, net: &mut Endpoint) {
        match news {
            News::None => {}
            News::Registered(broker_epoch) => {
                self.env.broker_epoch = broker_epoch;
                self.env.observe(now, Observation::Registered { broker_epoch });
                self.maybe_publish_metadata(now, net);
            }
            News::Unfenced => self.connections.enable(),
            News::ShutDown => return self.shut_down(now),
        }
        if self.metadata.is_published() {
            self.lifecycle.set_ready_to_unfence(now);
        }
    }
}

/// A version 4 UUID.
pub(super) fn random_uuid(rng: &mut Rng) -> Uuid {
    const VERSION_4: u128 = 0x4 << 76;
    const VARIANT_1: u128 = 0x2 << 62;
    const FREE: u128 = !(0xf << 76 | 0x3 << 62);
    Uuid::from_u128(rng.random::<u128>() & FREE | VERSION_4 | VARIANT_1)
}
