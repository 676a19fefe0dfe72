//! Tells the controller which log directory each replica is in, where it does not know (`AssignmentsManager`, KIP-858):
//! one AssignReplicasToDirs at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::AssignReplicasToDirsRequest;
use kafka_protocol::messages::assign_replicas_to_dirs_request::{DirectoryData, PartitionData, TopicData};
use uuid::Uuid;

use super::{Broker, BrokerOptions, Key, rpc_config};
use crate::protocol::rpc::{Completion, PeerId, RpcClient};
use crate::replica::Environment;
use crate::world::{Endpoint, Time, World};

/// First backoff after a failure (`AssignmentsManager`: exponential from 100 ms to 10 s; here fixed).
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

pub(super) struct Assignments {
    pub rpc: RpcClient<()>,
    controller: PeerId,
    request_timeout: Duration,
    /// What the controller has to be told.
    pending: BTreeMap<Key, Uuid>,
    in_flight: BTreeMap<Key, Uuid>,
    retry_at: Option<Time>,
}

impl Assignments {
    pub fn new(world: &World, options: &BrokerOptions) -> Assignments {
        let config = rpc_config(options, "directory-assignments", Duration::from_millis(50));
        let mut rpc = RpcClient::new(config, world.rng("directory-assignments"));
        Assignments {
            controller: rpc.peer(&options.controller),
            rpc,
            request_timeout: options.config.controller_socket_timeout,
            pending: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            retry_at: None,
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.rpc.deadline().into_iter().chain(self.retry_at).min()
    }

    /// The replica is in this directory.
    pub fn assign(&mut self, key: Key, directory: Uuid) {
        self.pending.insert(key, directory);
    }

    pub fn send_pending(&mut self, now: Time, env: &Environment, net: &mut Endpoint) {
        if self.pending.is_empty() || !self.in_flight.is_empty() || self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        self.retry_at = None;
        self.in_flight = std::mem::take(&mut self.pending);
        let mut directories: BTreeMap<Uuid, BTreeMap<Uuid, Vec<i32>>> = BTreeMap::new();
        for ((topic_id, index), directory) in &self.in_flight {
            directories.entry(*directory).or_default().entry(*topic_id).or_default().push(*index);
        }
        let partition = |index| PartitionData::default().with_partition_index(index);
        let topic = |(id, indexes): (Uuid, Vec<i32>)| {
            TopicData::default().with_topic_id(id).with_partitions(indexes.into_iter().map(partition).collect())
        };
        let directory = |(id, topics): (Uuid, BTreeMap<Uuid, Vec<i32>>)| {
            DirectoryData::default().with_id(id).with_topics(topics.into_iter().map(topic).collect())
        };
        let request = AssignReplicasToDirsRequest::default()
            .with_broker_id(env.id.0.into())
            .with_broker_epoch(env.broker_epoch.0)
            .with_directories(directories.into_iter().map(directory).collect());
        self.rpc.send(now, self.controller, 0, &request, self.request_timeout, (), net);
    }
}

impl Broker {
    pub(super) fn on_assignments_replies(&mut self, now: Time, replies: Vec<Completion<()>>) {
        for reply in replies {
            let sent = std::mem::take(&mut self.assignments.in_flight);
            let response = reply.result.ok().and_then(|r| r.decode::<AssignReplicasToDirsRequest>().ok());
            if response.is_none_or(|response| response.error_code != 0) {
                // What was assigned anew meanwhile stays.
                for (key, directory) in sent {
                    self.assignments.pending.entry(key).or_insert(directory);
                }
                self.assignments.retry_at = Some(now + RETRY_BACKOFF);
            }
            // A partition that the controller does not know, or not as ours, is about to be told to us.
        }
    }

    /// Tells the controller where a replica is, if that is not what it thinks (`maybeUpdateTopicAssignment`).
    pub(super) fn maybe_assign(&mut self, key: Key) {
        let Some(hosted) = self.partitions.get(&key) else { return };
        let known = self.env.image.topics.get(&key.0).and_then(|topic| topic.partitions.get(&key.1));
        let assigned = known.map(|state| state.directory_of(self.env.id));
        match self.log_dirs.id(hosted.dir) {
            Some(directory) if assigned != Some(directory) => self.assignments.assign(key, directory),
            Some(_) | None => {}
        }
    }
}
