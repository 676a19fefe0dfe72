//! Leaders and ISRs (Kafka's `ReplicationControlManager`): what to do when brokers come, go and ask, and when leaders
//! ask for another ISR. Plain functions on the state; they return records and an answer.

use kafka_protocol::messages::alter_partition_request::PartitionData as AlterPartitionData;
use kafka_protocol::messages::alter_partition_response::{PartitionData, TopicData};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{
    AlterPartitionRequest, AlterPartitionResponse, AssignReplicasToDirsRequest, AssignReplicasToDirsResponse,
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerId as WireBrokerId, ElectLeadersRequest,
    ElectLeadersResponse, TopicName,
};
use kafka_protocol::messages::{assign_replicas_to_dirs_request, assign_replicas_to_dirs_response};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::cluster::check_broker_epoch;
use super::heartbeats::{BrokerControlState, Wish};
use super::partition_change::{Election, PartitionChangeBuilder};
use super::state::{ControllerState, Decision};
use crate::defect::Defect;
use crate::metadata::{MetadataRecord, PartitionState, TopicImage, directory};
use crate::protocol::{BrokerEpoch, BrokerId, ErrorCode, Offset};
use crate::world::Time;

/// Elections of one periodic check (`MAX_ELECTIONS_PER_IMBALANCE`).
pub const MAX_ELECTIONS_PER_CHECK: usize = 1_000;

/// What a heartbeat leads to. A broker that is [`BrokerControlState::ControlledShutdown`] afterwards may go once the
/// others have applied the records of this decision.
#[derive(Clone, Debug, PartialEq)]
pub struct HeartbeatAnswer {
    pub response: BrokerHeartbeatResponse,
    pub next: BrokerControlState,
}

/// Processes a heartbeat: renews the session and moves the broker between fenced, unfenced, controlled shutdown and
/// gone (`processBrokerHeartbeat`). Errors: STALE_BROKER_EPOCH, also for a broker that is not registered.
pub fn process_broker_heartbeat(
    state: &mut ControllerState,
    now: Time,
    request: &BrokerHeartbeatRequest,
) -> Result<Decision<HeartbeatAnswer>, ErrorCode> {
    let broker = BrokerId(request.broker_id.0);
    check_broker_epoch(state, broker, BrokerEpoch(request.broker_epoch))?;
    let registration_offset = state.registration_offsets[&broker];
    let metadata_offset = Offset(request.current_metadata_offset);
    let wish = Wish { want_fence: request.want_fence, want_shut_down: request.want_shut_down, metadata_offset };
    let has_leaderships = || state.has_leaderships(broker);
    let (current, next) = state.heartbeats.calculate_next_state(broker, wish, registration_offset, has_leaderships);
    let mut records = Vec::new();
    handle_directories_offline(state, broker, &request.offline_log_dirs, &mut records);
    if current != next {
        match next {
            BrokerControlState::Fenced | BrokerControlState::ShutdownNow => {
                handle_broker_fenced(state, broker, &mut records);
            }
            BrokerControlState::Unfenced => handle_broker_unfenced(state, broker, &mut records),
            BrokerControlState::ControlledShutdown => {
                handle_broker_in_controlled_shutdown(state, broker, &mut records);
            }
        }
    }
    state.heartbeats.touch(now, broker, next.is_fenced(), metadata_offset);
    let response = BrokerHeartbeatResponse::default()
        .with_is_caught_up(metadata_offset >= registration_offset)
        .with_is_fenced(next.is_fenced())
        .with_should_shut_down(next == BrokerControlState::ShutdownNow);
    Ok(Decision { records, response: HeartbeatAnswer { response, next } })
}

/// Log directories of a broker failed: their replicas leave every ISR, as if the broker were gone
/// (`handleDirectoriesOffline`, KIP-858).
fn handle_directories_offline(
    state: &ControllerState,
    broker: BrokerId,
    offline: &[Uuid],
    records: &mut Vec<MetadataRecord>,
) {
    let registration = &state.image.brokers[&broker];
    let (failed, left): (Vec<Uuid>, Vec<Uuid>) = registration.log_dirs.iter().partition(|dir| offline.contains(dir));
    if failed.is_empty() {
        return;
    }
    let concerned = state.partitions().filter(|(_, _, p)| p.isr.contains(&broker));
    let concerned = concerned.filter(|(_, _, p)| failed.contains(&p.directory_of(broker)));
    leader_and_isr_updates(state, broker, BrokerId::NONE, records, concerned);
    records.push(MetadataRecord::BrokerRegistrationChange {
        broker,
        broker_epoch: registration.epoch,
        fenced: None,
        in_controlled_shutdown: None,
        log_dirs: Some(left),
    });
}

/// A broker says in which of its log directories its replicas are (`handleAssignReplicasToDirs`). Those that are in one
/// that is offline leave the ISR. Errors: STALE_BROKER_EPOCH.
pub fn assign_replicas_to_dirs(
    state: &ControllerState,
    request: &AssignReplicasToDirsRequest,
) -> Result<Decision<AssignReplicasToDirsResponse>, ErrorCode> {
    let broker = BrokerId(request.broker_id.0);
    let registration = check_broker_epoch(state, broker, BrokerEpoch(request.broker_epoch))?;
    let mut records = Vec::new();
    let mut answers = Vec::with_capacity(request.directories.len());
    for dir in &request.directories {
        let is_online = directory::is_online(dir.id, &registration.log_dirs);
        let mut topics = Vec::with_capacity(dir.topics.len());
        for topic in &dir.topics {
            let assign = |partition: &assign_replicas_to_dirs_request::PartitionData| {
                assign_to_dir(state, broker, dir.id, is_online, topic.topic_id, partition.partition_index)
            };
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let assigned = assign(partition);
                partitions.push(
                    assign_replicas_to_dirs_response::PartitionData::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(assigned.as_ref().err().map_or(0, |error| error.code())),
                );
                records.extend(assigned.ok().flatten());
            }
            topics.push(
                assign_replicas_to_dirs_response::TopicData::default()
                    .with_topic_id(topic.topic_id)
                    .with_partitions(partitions),
            );
        }
        answers.push(assign_replicas_to_dirs_response::DirectoryData::default().with_id(dir.id).with_topics(topics));
    }
    Ok(Decision { records, response: AssignReplicasToDirsResponse::default().with_directories(answers) })
}

fn assign_to_dir(
    state: &ControllerState,
    broker: BrokerId,
    dir: Uuid,
    is_online: bool,
    topic_id: Uuid,
    index: i32,
) -> Result<Option<MetadataRecord>, ErrorCode> {
    let topic = state.image.topics.get(&topic_id).ok_or(ErrorCode::UnknownTopicId)?;
    let partition = topic.partitions.get(&index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if !partition.replicas.contains(&broker) {
        return Err(ErrorCode::NotLeaderOrFollower);
    }
    let mut assigned = partition.clone();
    let directory_of = |replica: &BrokerId| if *replica == broker { dir } else { partition.directory_of(*replica) };
    assigned.directories = partition.replicas.iter().map(directory_of).collect();
    let may_lead = |candidate| state.is_active(candidate) && state.image.has_online_dir(&assigned, candidate);
    let mut builder =
        PartitionChangeBuilder::new(partition, topic.id, index, may_lead).directories(assigned.directories.clone());
    if !is_online {
        let isr = partition.isr.iter().copied().filter(|member| *member != broker).collect();
        builder = builder.election(online_or_unclean(state, topic)).target_isr(isr);
    }
    Ok(builder.build())
}

/// Fences the broker whose session ended first, if any did.
pub fn maybe_fence_one_stale_broker(state: &mut ControllerState, now: Time) -> Vec<MetadataRecord> {
    let mut records = Vec::new();
    if let Some(broker) = state.heartbeats.find_one_stale_broker(now) {
        handle_broker_fenced(state, broker, &mut records);
        state.heartbeats.fence(broker);
    }
    records
}

/// Out of every ISR, then fenced.
fn handle_broker_fenced(state: &ControllerState, broker: BrokerId, records: &mut Vec<MetadataRecord>) {
    remove_from_isrs(state, broker, records);
    records.push(registration_change(state, broker, Some(true), None));
}

/// Unfenced, then leader of the partitions that have none and may have this one.
fn handle_broker_unfenced(state: &ControllerState, broker: BrokerId, records: &mut Vec<MetadataRecord>) {
    records.push(registration_change(state, broker, Some(false), None));
    let leaderless = state.partitions().filter(|(_, _, p)| !p.has_leader());
    leader_and_isr_updates(state, BrokerId::NONE, broker, records, leaderless);
}

/// Marked as shutting down, and out of every ISR.
fn handle_broker_in_controlled_shutdown(state: &ControllerState, broker: BrokerId, records: &mut Vec<MetadataRecord>) {
    if !state.image.brokers[&broker].in_controlled_shutdown {
        records.push(registration_change(state, broker, None, Some(true)));
    }
    remove_from_isrs(state, broker, records);
}

/// Takes a broker out of the ISRs that it is in, and elects other leaders for what it leads. The last member of an ISR
/// stays in it, and its partition has no leader.
pub fn remove_from_isrs(state: &ControllerState, broker: BrokerId, records: &mut Vec<MetadataRecord>) {
    let in_isr = state.partitions().filter(|(_, _, p)| p.isr.contains(&broker));
    leader_and_isr_updates(state, broker, BrokerId::NONE, records, in_isr);
}

fn registration_change(
    state: &ControllerState,
    broker: BrokerId,
    fenced: Option<bool>,
    in_controlled_shutdown: Option<bool>,
) -> MetadataRecord {
    let broker_epoch = state.image.brokers[&broker].epoch;
    MetadataRecord::BrokerRegistrationChange { broker, broker_epoch, fenced, in_controlled_shutdown, log_dirs: None }
}

/// `generateLeaderAndIsrUpdates`. The state still shows `removed` as active and `added` as fenced while the records
/// that change this are being made: hence the two exceptions in who may lead.
fn leader_and_isr_updates<'a>(
    state: &ControllerState,
    removed: BrokerId,
    added: BrokerId,
    records: &mut Vec<MetadataRecord>,
    partitions: impl Iterator<Item = (&'a TopicImage, i32, &'a PartitionState)>,
) {
    for (topic, index, partition) in partitions {
        let may_lead = |broker| {
            broker != removed
                && (broker == added || state.is_active(broker))
                && state.image.has_online_dir(partition, broker)
        };
        let isr = partition.isr.iter().copied().filter(|b| *b != removed).collect();
        let builder = PartitionChangeBuilder::new(partition, topic.id, index, may_lead)
            .election(online_or_unclean(state, topic))
            .target_isr(isr);
        records.extend(builder.build());
    }
}

fn online_or_unclean(state: &ControllerState, topic: &TopicImage) -> Election {
    let is_unclean = state.unclean_leader_election_enabled(topic) || state.config.defects.has(Defect::ElectOutsideIsr);
    if is_unclean { Election::Unclean } else { Election::Online }
}

/// Processes leaders' requests for another ISR, partition by partition (`alterPartition`). The one error for the whole
/// request is STALE_BROKER_EPOCH.
pub fn alter_partition(
    state: &ControllerState,
    request: &AlterPartitionRequest,
    api_version: i16,
) -> Result<Decision<AlterPartitionResponse>, ErrorCode> {
    let broker = BrokerId(request.broker_id.0);
    check_broker_epoch(state, broker, BrokerEpoch(request.broker_epoch))?;
    let mut records = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for data in &topic.partitions {
            let isr = new_isr(data, api_version);
            let answer = match alter_one_partition(state, broker, topic.topic_id, data, &isr) {
                Ok((after, record)) => {
                    records.extend(record);
                    altered(data.partition_index, &after)
                }
                Err(error) => refused(data.partition_index, error),
            };
            partitions.push(answer);
        }
        topics.push(TopicData::default().with_topic_id(topic.topic_id).with_partitions(partitions));
    }
    Ok(Decision { records, response: AlterPartitionResponse::default().with_topics(topics) })
}

/// One member of a requested ISR; no epoch before version 3 (KIP-903): not checked.
type IsrMember = (BrokerId, BrokerEpoch);

fn new_isr(data: &AlterPartitionData, api_version: i16) -> Vec<IsrMember> {
    if api_version >= 3 {
        data.new_isr_with_epochs.iter().map(|b| (BrokerId(b.broker_id.0), BrokerEpoch(b.broker_epoch))).collect()
    } else {
        data.new_isr.iter().map(|b| (BrokerId(b.0), BrokerEpoch::NONE)).collect()
    }
}

fn alter_one_partition(
    state: &ControllerState,
    broker: BrokerId,
    topic_id: Uuid,
    data: &AlterPartitionData,
    isr: &[IsrMember],
) -> Result<(PartitionState, Option<MetadataRecord>), ErrorCode> {
    let topic = state.image.topics.get(&topic_id).ok_or(ErrorCode::UnknownTopicId)?;
    let partition = topic.partitions.get(&data.partition_index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    validate_alter_partition(state, broker, partition, data, isr)?;
    let record =
        PartitionChangeBuilder::new(partition, topic.id, data.partition_index, |b| state.may_lead(partition, b))
            .election(online_or_unclean(state, topic))
            .target_isr(isr.iter().map(|(b, _)| *b).collect())
            .target_leader_recovering(data.leader_recovery_state == RECOVERING)
            .build();
    let mut after = partition.clone();
    if let Some(change) = &record {
        after.merge(change);
    }
    Ok((after, record))
}

/// `LeaderRecoveryState`
const RECOVERED: i8 = 0;
const RECOVERING: i8 = 1;

/// `validateAlterPartitionData`, in Kafka's order: the first reason counts.
fn validate_alter_partition(
    state: &ControllerState,
    broker: BrokerId,
    partition: &PartitionState,
    data: &AlterPartitionData,
    isr: &[IsrMember],
) -> Result<(), ErrorCode> {
    let (leader_epoch, partition_epoch) = (partition.leader_epoch.0, partition.partition_epoch.0);
    // A leader that knows more than we do has it from another controller.
    if data.leader_epoch > leader_epoch || data.partition_epoch > partition_epoch {
        return Err(ErrorCode::NotController);
    }
    if data.leader_epoch < leader_epoch {
        return Err(ErrorCode::FencedLeaderEpoch);
    }
    if broker != partition.leader {
        return Err(ErrorCode::InvalidRequest);
    }
    // The request speaks of an ISR that has changed since (functions:459).
    if data.partition_epoch < partition_epoch && !state.config.defects.has(Defect::NoPartitionEpoch) {
        return Err(ErrorCode::InvalidUpdateVersion);
    }
    let is_replica_once = |i: usize, member: BrokerId| {
        partition.replicas.contains(&member) && isr[..i].iter().all(|(other, _)| *other != member)
    };
    let is_valid_isr = isr.iter().enumerate().all(|(i, (member, _))| is_replica_once(i, *member));
    if !is_valid_isr || !isr.iter().any(|(member, _)| *member == partition.leader) {
        return Err(ErrorCode::InvalidRequest);
    }
    match data.leader_recovery_state {
        RECOVERED => {}
        RECOVERING if isr.len() == 1 && partition.leader_recovering => {}
        _ => return Err(ErrorCode::InvalidRequest),
    }
    if isr.iter().any(|member| !is_eligible_for_isr(state, *member)) {
        return Err(ErrorCode::IneligibleReplica);
    }
    Ok(())
}

/// Alive, and still the incarnation that caught up with the leader (KIP-841, KIP-903).
fn is_eligible_for_isr(state: &ControllerState, (broker, epoch): IsrMember) -> bool {
    let registration = state.image.brokers.get(&broker);
    let takes_any_epoch = || state.config.defects.has(Defect::NoBrokerEpochInIsr);
    let is_of_epoch = |registered| epoch == BrokerEpoch::NONE || registered == epoch || takes_any_epoch();
    state.is_active(broker) && registration.is_some_and(|b| is_of_epoch(b.epoch))
}

fn altered(partition_index: i32, after: &PartitionState) -> PartitionData {
    PartitionData::default()
        .with_partition_index(partition_index)
        .with_leader_id(WireBrokerId(after.leader.0))
        .with_leader_epoch(after.leader_epoch.0)
        .with_isr(after.isr.iter().map(|b| WireBrokerId(b.0)).collect())
        .with_leader_recovery_state(if after.leader_recovering { RECOVERING } else { RECOVERED })
        .with_partition_epoch(after.partition_epoch.0)
}

fn refused(partition_index: i32, error: ErrorCode) -> PartitionData {
    PartitionData::default().with_partition_index(partition_index).with_error_code(error.code())
}

/// `ElectionType`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElectionType {
    Preferred,
    Unclean,
}

/// Elects leaders as an operator asks (`electLeaders`). Without a list: all partitions, and only those that got or
/// should have got another leader are in the answer.
pub fn elect_leaders(
    state: &ControllerState,
    request: &ElectLeadersRequest,
) -> Result<Decision<ElectLeadersResponse>, ErrorCode> {
    let election_type = match request.election_type {
        0 => ElectionType::Preferred,
        1 => ElectionType::Unclean,
        _ => return Err(ErrorCode::InvalidRequest),
    };
    let mut records = Vec::new();
    let mut results = Vec::new();
    let mut elect = |topic: &str, partition| match elect_leader(state, topic, partition, election_type) {
        Ok(record) => {
            records.push(record);
            None
        }
        Err(error) => Some(error),
    };
    match &request.topic_partitions {
        Some(topics) => {
            for topic in topics {
                let elected = topic.partitions.iter().map(|p| (*p, elect(topic.topic.as_str(), *p)));
                results.push(election_result(topic.topic.clone(), elected));
            }
        }
        None => {
            for (name, id) in &state.image.topic_ids {
                let elected = state.image.topics[id].partitions.keys().map(|p| (*p, elect(name, *p)));
                let needed = elected.filter(|(_, error)| *error != Some(ErrorCode::ElectionNotNeeded));
                results.push(election_result(TopicName(StrBytes::from_string(name.clone())), needed));
            }
        }
    }
    Ok(Decision { records, response: ElectLeadersResponse::default().with_replica_election_results(results) })
}

fn election_result(topic: TopicName, elected: impl Iterator<Item = (i32, Option<ErrorCode>)>) -> ReplicaElectionResult {
    let results = elected.map(|(partition, error)| {
        PartitionResult::default()
            .with_partition_id(partition)
            .with_error_code(error.map_or(0, |e| e.code()))
            .with_error_message(error.map(|e| StrBytes::from_string(e.to_string())))
    });
    ReplicaElectionResult::default().with_topic(topic).with_partition_result(results.collect())
}

fn elect_leader(
    state: &ControllerState,
    topic: &str,
    index: i32,
    election_type: ElectionType,
) -> Result<MetadataRecord, ErrorCode> {
    let topic = state.image.topic(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition = topic.partitions.get(&index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let (needed, election, unavailable) = match election_type {
        ElectionType::Preferred => {
            (!partition.has_preferred_leader(), Election::Preferred, ErrorCode::PreferredLeaderNotAvailable)
        }
        ElectionType::Unclean => (!partition.has_leader(), Election::Unclean, ErrorCode::EligibleLeadersNotAvailable),
    };
    if !needed {
        return Err(ErrorCode::ElectionNotNeeded);
    }
    let builder =
        PartitionChangeBuilder::new(partition, topic.id, index, |b| state.may_lead(partition, b)).election(election);
    builder.build().ok_or(unavailable)
}

/// Moves leaderships to preferred replicas (`maybeBalancePartitionLeaders`).
pub fn maybe_balance_partition_leaders(state: &ControllerState) -> Vec<MetadataRecord> {
    let imbalanced = state.partitions().filter(|(_, _, p)| !p.has_preferred_leader());
    let changes = imbalanced.filter_map(|(topic, index, partition)| {
        PartitionChangeBuilder::new(partition, topic.id, index, |b| state.may_lead(partition, b))
            .election(Election::Preferred)
            .build()
    });
    changes.take(MAX_ELECTIONS_PER_CHECK).collect()
}

/// Elects any live replica where nobody leads and the topic allows it (`maybeElectUncleanLeaders`).
pub fn maybe_elect_unclean_leaders(state: &ControllerState) -> Vec<MetadataRecord> {
    let leaderless = state.partitions().filter(|(_, _, p)| !p.has_leader());
    let allowed = leaderless.filter(|(topic, _, _)| state.unclean_leader_election_enabled(topic));
    let changes =
        allowed.filter_map(|(topic, index, _)| elect_leader(state, &topic.name, index, ElectionType::Unclean).ok());
    changes.take(MAX_ELECTIONS_PER_CHECK).collect()
}

pub fn are_some_partitions_leaderless(state: &ControllerState) -> bool {
    state.partitions().any(|(_, _, p)| !p.has_leader())
}

pub fn are_partition_leaders_imbalanced(state: &ControllerState) -> bool {
    state.partitions().any(|(_, _, p)| !p.has_preferred_leader())
}
