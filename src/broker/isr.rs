//! ISR changes on their way to the controller: one AlterPartition request at a time, batched
//! (`AlterPartitionManager`).

use std::time::Duration;

use indexmap::IndexMap;
use kafka_protocol::messages::AlterPartitionRequest;
use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use kafka_protocol::messages::alter_partition_response::AlterPartitionResponse;

use super::{Broker, BrokerOptions, Key, Touched, rpc_config};
use crate::protocol::rpc::{Completion, PeerId, RpcClient};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch};
use crate::replica::{AlterPartitionResult, CommittedIsr, Environment, IsrProposal};
use crate::world::{Endpoint, Time, World};

/// After an error that concerns the whole request (`AlterPartitionManager`'s 50 ms).
const RETRY_BACKOFF: Duration = Duration::from_millis(50);

pub(super) struct AlterPartitionManager {
    pub rpc: RpcClient<()>,
    controller: PeerId,
    request_timeout: Duration,
    /// At most one proposal for each partition; it stays here until it is answered.
    unanswered: IndexMap<Key, IsrProposal>,
    /// What the request in flight holds.
    in_flight: Option<Vec<(Key, u64)>>,
    retry_at: Option<Time>,
}

impl AlterPartitionManager {
    pub fn new(world: &World, options: &BrokerOptions) -> AlterPartitionManager {
        let mut rpc = RpcClient::new(
            rpc_config(options, "alter-partition", Duration::from_millis(50)),
            world.rng("alter-partition"),
        );
        AlterPartitionManager {
            controller: rpc.peer(&options.controller),
            rpc,
            request_timeout: options.config.controller_socket_timeout,
            unanswered: IndexMap::new(),
            in_flight: None,
            retry_at: None,
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.rpc.deadline().into_iter().chain(self.retry_at.filter(|_| self.in_flight.is_none())).min()
    }

    /// Sends what is pending unless a request is under way.
    pub fn send_pending(&mut self, now: Time, env: &Environment, net: &mut Endpoint) {
        let must_wait = self.in_flight.is_some() || self.retry_at.is_some_and(|at| at > now);
        if must_wait || self.unanswered.is_empty() {
            return;
        }
        self.retry_at = None;
        let mut request =
            AlterPartitionRequest::default().with_broker_id(env.id.0.into()).with_broker_epoch(env.broker_epoch.0);
        for ((topic_id, index), proposal) in &self.unanswered {
            let position = request.topics.iter().position(|t| t.topic_id == *topic_id).unwrap_or_else(|| {
                request.topics.push(TopicData::default().with_topic_id(*topic_id));
                request.topics.len() - 1
            });
            request.topics[position].partitions.push(partition_data(*index, proposal));
        }
        self.in_flight = Some(self.unanswered.iter().map(|(key, proposal)| (*key, proposal.id)).collect());
        self.rpc.send(now, self.controller, 3, &request, self.request_timeout, (), net);
    }
}

fn partition_data(index: i32, proposal: &IsrProposal) -> PartitionData {
    // The leader takes itself for recovered from the start (`Partition.makeLeader`).
    const RECOVERED: i8 = 0;
    let member = |(id, epoch): &(BrokerId, crate::protocol::BrokerEpoch)| {
        BrokerState::default().with_broker_id(id.0.into()).with_broker_epoch(epoch.0)
    };
    PartitionData::default()
        .with_partition_index(index)
        .with_leader_epoch(proposal.leader_epoch.0)
        .with_new_isr_with_epochs(proposal.isr.iter().map(member).collect())
        .with_leader_recovery_state(RECOVERED)
        .with_partition_epoch(proposal.partition_epoch.0)
}

impl Broker {
    pub(super) fn submit_isr_proposal(&mut self, now: Time, key: Key, proposal: IsrProposal) {
        if self.isr.unanswered.contains_key(&key) {
            // An older proposal, of an earlier leadership, is still under way.
            return self.on_isr_result(now, key, proposal, Err(ErrorCode::OperationNotAttempted));
        }
        self.isr.unanswered.insert(key, proposal);
    }

    pub(super) fn on_isr_replies(&mut self, now: Time, replies: Vec<Completion<()>>) {
        for reply in replies {
            let Some(sent) = self.isr.in_flight.take() else { continue };
            // No answer: sent again as soon as there is a connection, for as long as it takes.
            let Some(response) = reply.result.ok().and_then(|r| r.decode::<AlterPartitionRequest>().ok()) else {
                continue;
            };
            if response.error_code != 0 {
                self.isr.retry_at = Some(now + RETRY_BACKOFF);
                continue;
            }
            for (key, id) in sent {
                let Some(result) = result_for(&response, key) else { continue };
                if self.isr.unanswered.get(&key).is_some_and(|p| p.id == id)
                    && let Some(proposal) = self.isr.unanswered.shift_remove(&key)
                {
                    self.on_isr_result(now, key, proposal, result);
                }
            }
        }
    }

    fn on_isr_result(&mut self, now: Time, key: Key, proposal: IsrProposal, result: AlterPartitionResult) {
        let Some(hosted) = self.partitions.get_mut(&key) else { return };
        let effects = hosted.partition.on_alter_partition(now, &self.env, proposal, result);
        // acks=all requests are checked against the ISR too.
        self.touched.push((key, Touched::All));
        self.apply_effects(now, key, effects);
    }
}

fn result_for(response: &AlterPartitionResponse, (topic_id, index): Key) -> Option<AlterPartitionResult> {
    let topic = response.topics.iter().find(|t| t.topic_id == topic_id)?;
    let partition = topic.partitions.iter().find(|p| p.partition_index == index)?;
    Some(match ErrorCode::try_from_code(partition.error_code) {
        Some(error) => Err(error),
        None => Ok(CommittedIsr {
            leader_epoch: LeaderEpoch(partition.leader_epoch),
            partition_epoch: PartitionEpoch(partition.partition_epoch),
            isr: partition.isr.iter().map(|id| BrokerId(id.0)).collect(),
        }),
    })
}
