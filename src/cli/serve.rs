//! `faultline serve`: the same brokers on real sockets and a real directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::Exit;

use crate::broker::{Broker, BrokerOptions};
use crate::config::BrokerConfig;
use crate::controller::{Controller, ControllerConfig};
use crate::observe::Observer;
use crate::protocol::BrokerId;
use crate::world::real::{RealEndpoint, RealWorld};
use crate::world::{self, Endpoint, HostPort, World};

/// Serve real Kafka clients on this machine: the brokers that are simulated elsewhere, on real sockets and files.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  faultline serve\n  kcat -b 127.0.0.1:9092 -L\n  faultline serve --brokers 3 --listen 127.0.0.1:19092 --data-dir /tmp/three --racks a,b,c"
)]
pub struct ServeArgs {
    /// How many brokers to run; they listen on consecutive ports.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub brokers: u16,
    /// Where the first broker listens. Clients must be able to reach this very address: it is what brokers advertise.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092", value_parser = host_port)]
    pub listen: HostPort,
    /// Where logs are kept, in Kafka's file layout. Made if it does not exist; what is there is served again.
    #[arg(long, value_name = "DIR", default_value = "faultline-data")]
    pub data_dir: PathBuf,
    /// The racks of the brokers (broker.rack), in turn: `a,b` puts the first and the third into rack a. Replicas are spread
    /// over them; with --config replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector consumers
    /// read in the rack of their client.rack.
    #[arg(long, value_name = "RACK,…", value_delimiter = ',', value_parser = rack)]
    pub racks: Vec<String>,
    /// Sets one of Kafka's broker properties, such as auto.create.topics.enable=false; may be given several times.
    /// Unless set here, offsets.topic.replication.factor is the number of brokers, at most 3, and
    /// group.initial.rebalance.delay.ms is 0, as in the server.properties that Kafka comes with.
    #[arg(long, value_name = "KEY=VALUE", value_parser = property)]
    pub config: Vec<(String, String)>,
}

fn rack(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("a rack needs a name".to_owned()),
        name => Ok(name.to_owned()),
    }
}

fn property(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("expected KEY=VALUE, not `{text}`"))?;
    let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
    match BrokerConfig::default().set(&key, &value) {
        Ok(()) => Ok((key, value)),
        Err(error) => Err(error.to_string()),
    }
}

/// The brokers' configuration: Kafka's defaults but for what one machine cannot have or does not want.
fn broker_config(args: &ServeArgs) -> BrokerConfig {
    let mut config = BrokerConfig::default();
    config.groups.offsets_topic_replication_factor = i16::try_from(args.brokers).unwrap_or(i16::MAX).min(3);
    config.groups.initial_rebalance_delay = Duration::ZERO;
    for (key, value) in &args.config {
        config.set(key, value).expect("checked when it was parsed");
    }
    config
}

pub(super) fn host_port(text: &str) -> Result<HostPort, String> {
    let wrong = || format!("expected HOST:PORT, for example 127.0.0.1:9092, not `{text}`");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().map_err(|_| wrong())?;
    if host.is_empty() {
        return Err(wrong());
    }
    Ok(HostPort::new(host, port))
}

/// Runs until Ctrl-C or SIGTERM; brokers then shut down in an orderly way. The error is for the person who
/// started it: an address in use, a directory that cannot be written.
pub fn serve(args: &ServeArgs) -> anyhow::Result<Exit> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime does not start")?;
    tokio::task::LocalSet::new().block_on(&runtime, run(args))?;
    Ok(Exit::AsExpected)
}

async fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let data_dir = &args.data_dir;
    let loopback = HostPort::new("127.0.0.1", 0);
    let world = open_world(data_dir, "controller")?;
    let net = RealEndpoint::bind(Some(&loopback)).await.context("no port for the controller")?;
    let port = net.local_addr().expect("a bound endpoint has an address").port();
    let controller_address = HostPort::new("127.0.0.1", port);
    let config = broker_config(args);
    let options = ControllerConfig {
        node_id: BrokerId(3000),
        listen: controller_address.clone(),
        broker: config.clone(),
        log_dir: ".".to_owned(),
    };
    let controller = Controller::open(World::Real(world), options, observer())
        .with_context(|| format!("{}: the controller does not start", data_dir.join("controller").display()))?;
    let controller_stop = net.terminate_handle();
    let controller = spawn(controller, net);
    let mut brokers = Vec::new();
    for index in 0..args.brokers {
        let port = args.listen.port.checked_add(index).context("the brokers' ports would exceed 65535")?;
        let listen = HostPort::new(args.listen.host.clone(), port);
        let net = RealEndpoint::bind(Some(&listen)).await.with_context(|| format!("cannot listen on {listen}"))?;
        let name = format!("broker-{}", index + 1);
        let world = open_world(data_dir, &name)?;
        let options = BrokerOptions {
            id: BrokerId(i32::from(index) + 1),
            listen: listen.clone(),
            controller: controller_address.clone(),
            config: config.clone(),
            log_dirs: vec![".".to_owned()],
            rack: args.racks.iter().cycle().nth(usize::from(index)).cloned(),
        };
        let broker = Broker::open(World::Real(world), options, observer())
            .with_context(|| format!("{}: the broker does not start", data_dir.join(&name).display()))?;
        eprintln!("{name} listens on {listen}");
        brokers.push((net.terminate_handle(), spawn(broker, net)));
    }
    eprintln!("data in {}; stop with Ctrl-C", data_dir.display());
    stop_signal().await.context("signals cannot be awaited")?;
    eprintln!("stopping");
    for (stop, _) in &brokers {
        stop.terminate();
    }
    for (_, broker) in brokers {
        broker.await.context("a broker panicked")?;
    }
    controller_stop.terminate();
    controller.await.context("the controller panicked")
}

fn open_world(data_dir: &Path, name: &str) -> anyhow::Result<RealWorld> {
    let dir = data_dir.join(name);
    RealWorld::new(dir.clone()).with_context(|| dir.display().to_string())
}

/// What a process states about itself becomes a debug log line.
fn observer() -> Observer {
    std::sync::Arc::new(|_, machine, observation| tracing::debug!(machine, ?observation))
}

fn spawn(mut process: impl world::Process + 'static, net: RealEndpoint) -> tokio::task::JoinHandle<()> {
    tokio::task::spawn_local(async move { world::run(&mut process, &mut Endpoint::Real(net)).await })
}

/// Resolves on Ctrl-C or SIGTERM.
pub(super) async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let terminate = std::pin::pin!(terminate.recv());
    futures_util::future::select(interrupt, terminate).await;
    Ok(())
}
