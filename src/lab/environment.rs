//! From a variant to the parameters of its simulated world: links, clocks, and whether messages are told apart.

use std::collections::BTreeMap;

use super::cluster::CONTROLLER;
use super::ghost::machine_of;
use super::nemesis::{FRAME_READER, needs_frame_reader};
use crate::protocol::BrokerId;
use crate::scenario::{LinkSetting, Links, Target, Variant, Workload};
use crate::world::sim::{LinkModel, Load, MachineModel, SimConfig};

/// What a variant's world is like before anything happens in it.
pub fn sim_config(variant: &Variant) -> SimConfig {
    SimConfig {
        link: variant.cluster.link,
        links: links(variant),
        machines: machines(variant),
        frame_reader: needs_frame_reader(variant).then_some(FRAME_READER),
    }
}

fn links(variant: &Variant) -> BTreeMap<(String, String), LinkModel> {
    let mut models: BTreeMap<(String, String), LinkModel> = BTreeMap::new();
    for LinkSetting { links: Links { from, to, both_ways }, latency, jitter, bandwidth, loss } in &variant.cluster.links
    {
        let (from, to) = (names(from, variant), names(to, variant));
        let pairs = from.iter().flat_map(|a| to.iter().map(move |b| (a.clone(), b.clone()))).filter(|(a, b)| a != b);
        let directed: Vec<(String, String)> = if *both_ways {
            pairs.flat_map(|(a, b)| [(a.clone(), b.clone()), (b, a)]).collect()
        } else {
            pairs.collect()
        };
        for pair in directed {
            let model = models.entry(pair).or_insert(variant.cluster.link);
            model.latency = latency.unwrap_or(model.latency);
            model.jitter = jitter.unwrap_or(model.jitter);
            model.bandwidth = bandwidth.or(model.bandwidth);
            model.loss = loss.unwrap_or(model.loss);
        }
    }
    models
}

fn machines(variant: &Variant) -> BTreeMap<String, MachineModel> {
    let mut models: BTreeMap<String, MachineModel> = BTreeMap::new();
    let load = Load { event_cost: variant.cluster.event_cost, drain: None };
    if load != Load::default() {
        for server in names(&Target::Brokers, variant).into_iter().chain([CONTROLLER.to_owned()]) {
            models.entry(server).or_default().load = load;
        }
    }
    for clock in &variant.cluster.clocks {
        for name in names(&clock.target, variant) {
            let model = models.entry(name).or_default();
            model.clock_offset_ns += clock.offset_ns;
            model.clock_drift_ppm += clock.drift_ppm;
        }
    }
    models
}

/// The machines that a target means from beginning to end; none for a role.
fn names(target: &Target, variant: &Variant) -> Vec<String> {
    let broker = |id: u32| machine_of(BrokerId(i32::try_from(id).expect("a scenario has few brokers")));
    let brokers = || (1..=variant.cluster.brokers).map(broker);
    match target {
        Target::Broker(id) => vec![broker(*id)],
        Target::Brokers => brokers().collect(),
        Target::Controller => vec![CONTROLLER.to_owned()],
        Target::Client(name) => vec![name.clone()],
        Target::Rack(rack) => {
            brokers().zip(&variant.cluster.racks).filter(|(_, of)| *of == rack).map(|(broker, _)| broker).collect()
        }
        Target::Machines => {
            let clients = variant.workloads.iter().map(Workload::name).cloned();
            brokers().chain([CONTROLLER.to_owned()]).chain(clients).collect()
        }
        Target::Leader(_) | Target::Follower(..) | Target::Isr(_) | Target::Coordinator(_) | Target::SameAs(_) => {
            Vec::new()
        }
    }
}
