//! Creation and deletion of topics (the rest of Kafka's `ReplicationControlManager`,
//! with what `ControllerApis` checks before it).

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::METADATA_TOPIC;
use super::placement::{Placer, UsableBroker};
use super::state::{ControllerState, Decision};
use crate::config::{self, ConfigError, Scope};
use crate::metadata::{MetadataRecord, TOPIC_RESOURCE, directory};
use crate::protocol::{BrokerId, ErrorCode, LeaderEpoch};

/// Records of one request at most (`MAX_RECORDS_PER_USER_OP`).
pub(super) const MAX_RECORDS_PER_USER_OP: usize = 10_000;

/// Why a topic is not created, changed or deleted: an error code and a sentence for people.
pub(super) type ApiError = (ErrorCode, String);

pub(super) fn error<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, ApiError> {
    Err((code, message.into()))
}

/// Creates topics, each on its own: one that fails does not stop the others (`createTopics`). `new_topic_id` makes
/// ids.
pub fn create_topics(
    state: &ControllerState,
    request: &CreateTopicsRequest,
    mut new_topic_id: impl FnMut() -> Uuid,
) -> Decision<CreateTopicsResponse> {
    let mut records = Vec::new();
    let mut results: Vec<CreatableTopicResult> = Vec::new();
    for topic in &request.topics {
        let name = topic.name.as_str();
        if results.iter().any(|r| r.name == topic.name) {
            continue;
        }
        let is_duplicate = request.topics.iter().filter(|t| t.name == topic.name).count() > 1;
        let created = if is_duplicate {
            error(ErrorCode::InvalidRequest, "Duplicate topic name.")
        } else {
            validate_new_topic_name(state, name).and_then(|()| create_topic(state, topic, &mut new_topic_id))
        };
        let created = created.and_then(|(result, new)| {
            if records.len() + new.len() > MAX_RECORDS_PER_USER_OP {
                return error(ErrorCode::PolicyViolation, "Excessively large number of partitions per request.");
            }
            records.extend(new);
            Ok(result)
        });
        results.push(created.unwrap_or_else(|(code, message)| {
            CreatableTopicResult::default()
                .with_name(topic.name.clone())
                .with_error_code(code.code())
                .with_error_message(Some(StrBytes::from_string(message)))
                .with_configs(None)
        }));
    }
    if request.validate_only {
        records.clear();
    }
    Decision { records, response: CreateTopicsResponse::default().with_topics(results) }
}

/// `Topic.validate` and `validateNewTopicNames`.
fn validate_new_topic_name(state: &ControllerState, name: &str) -> Result<(), ApiError> {
    if name == METADATA_TOPIC {
        return error(ErrorCode::InvalidRequest, format!("Creation of internal topic {name} is prohibited."));
    }
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let reason = match name {
        "" => "the empty string is not allowed",
        "." | ".." => "'.' and '..' are not allowed",
        _ if name.len() > 249 => "it is longer than the max allowed length 249",
        _ if !name.chars().all(is_legal) => "it has characters other than ASCII alphanumerics, '.', '_' and '-'",
        _ => "",
    };
    if !reason.is_empty() {
        return error(ErrorCode::InvalidTopicException, format!("Topic name '{name}' is invalid: {reason}"));
    }
    if state.image.topic_ids.contains_key(name) {
        return error(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists."));
    }
    let unified = |name: &str| name.replace('.', "_");
    if let Some(other) = state.image.topic_ids.keys().find(|other| unified(other) == unified(name)) {
        let message = format!("Topic '{name}' collides with existing topic: {other}");
        return error(ErrorCode::InvalidTopicException, message);
    }
    Ok(())
}

/// `LogConfig.validate`: every key of a topic that Kafka has is taken, also those that nothing here acts on.
fn check_config(key: &str, value: &str) -> Result<(), ApiError> {
    let message = match config::check(Scope::Topic, key, value) {
        Ok(()) | Err(ConfigError::NotModelled { .. }) => return Ok(()),
        Err(ConfigError::Unknown { .. }) => format!("Unknown topic config name: {key}"),
        Err(ConfigError::Invalid { key, value, expected }) => {
            format!("Invalid value {value} for configuration {key}: it must be {expected}")
        }
        Err(ConfigError::Conflict { message, .. }) => message,
    };
    error(ErrorCode::InvalidConfig, message)
}

fn create_topic(
    state: &ControllerState,
    topic: &CreatableTopic,
    new_topic_id: &mut impl FnMut() -> Uuid,
) -> Result<(CreatableTopicResult, Vec<MetadataRecord>), ApiError> {
    if let Some(config) = topic.configs.iter().find(|c| c.value.is_none()) {
        let message = format!("Null value not supported for topic configs: {}", config.name);
        return error(ErrorCode::InvalidConfig, message);
    }
    for config in &topic.configs {
        check_config(&config.name, config.value.as_deref().unwrap_or_default())?;
    }
    let assignments = if topic.assignments.is_empty() {
        place_replicas(state, 0, topic.num_partitions, topic.replication_factor)?
    } else {
        manual_assignments(state, topic)?
    };
    let topic_id = new_topic_id();
    let name = topic.name.as_str().to_owned();
    let mut records = vec![MetadataRecord::Topic { name: name.clone(), id: topic_id }];
    records.extend(topic.configs.iter().map(|config| MetadataRecord::Config {
        resource_type: TOPIC_RESOURCE,
        resource_name: name.clone(),
        name: config.name.to_string(),
        value: config.value.as_ref().map(|v| v.to_string()),
    }));
    for (partition, replicas) in (0..).zip(&assignments) {
        records.push(new_partition(state, topic_id, partition, replicas)?);
    }
    let configs = topic.configs.iter().map(|config| {
        CreatableTopicConfigs::default()
            .with_name(config.name.clone())
            .with_value(config.value.clone())
            .with_config_source(DYNAMIC_TOPIC_CONFIG)
    });
    let result = CreatableTopicResult::default()
        .with_name(topic.name.clone())
        .with_topic_id(topic_id)
        .with_error_message(None)
        .with_num_partitions(assignments.len() as i32)
        .with_replication_factor(assignments[0].len() as i16)
        .with_configs(Some(configs.collect()));
    Ok((result, records))
}

/// `DescribeConfigsResponse.ConfigSource.TOPIC_CONFIG`
const DYNAMIC_TOPIC_CONFIG: i8 = 1;

/// A new partition is led by its first active replica; the ISR are the active replicas.
pub(super) fn new_partition(
    state: &ControllerState,
    topic_id: Uuid,
    partition: i32,
    replicas: &[BrokerId],
) -> Result<MetadataRecord, ApiError> {
    let isr: Vec<BrokerId> = replicas.iter().copied().filter(|b| state.is_active(*b)).collect();
    let Some(leader) = isr.first().copied() else {
        let message = format!("All replicas of partition {partition} are fenced or in controlled shutdown.");
        return error(ErrorCode::InvalidReplicaAssignment, message);
    };
    Ok(MetadataRecord::Partition {
        topic_id,
        partition,
        replicas: replicas.to_vec(),
        isr,
        leader,
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
        leader_recovering: false,
        directories: replicas.iter().map(|b| default_directory(state, *b)).collect(),
    })
}

/// `ClusterControlManager.defaultDir`
fn default_directory(state: &ControllerState, broker: BrokerId) -> Uuid {
    match state.image.brokers.get(&broker).map(|b| b.log_dirs.as_slice()) {
        Some([]) => directory::MIGRATING,
        Some([only]) => *only,
        Some(_) | None => directory::UNASSIGNED,
    }
}

/// Replicas of each new partition, spread over racks and brokers. `first`: how many partitions the topic has already; the
/// stripes go on where theirs ended.
pub(super) fn place_replicas(
    state: &ControllerState,
    first: usize,
    num_partitions: i32,
    replication_factor: i16,
) -> Result<Vec<Vec<BrokerId>>, ApiError> {
    if replication_factor < -1 || replication_factor == 0 {
        let message = "Replication factor must be larger than 0, or -1 to use the default value.";
        return error(ErrorCode::InvalidReplicationFactor, message);
    }
    if num_partitions < -1 || num_partitions == 0 {
        return error(ErrorCode::InvalidPartitions, "Number of partitions was set to an invalid non-positive value.");
    }
    let num_partitions = if num_partitions == -1 { state.config.num_partitions } else { num_partitions };
    let replication_factor = match replication_factor {
        -1 => state.config.default_replication_factor,
        given => given,
    };
    let usable = state.image.brokers.values().filter(|b| state.heartbeats.is_usable(b.id));
    let mut placer =
        Placer::new(usable.map(|b| UsableBroker { id: b.id, rack: b.rack.as_deref(), is_fenced: b.fenced }));
    let unable = |why: String| {
        let message = format!("Unable to replicate the partition {replication_factor} time(s): {why}");
        error(ErrorCode::InvalidReplicationFactor, message)
    };
    if placer.unfenced() == 0 {
        return unable("All brokers are currently fenced.".to_owned());
    }
    let total = placer.brokers();
    if replication_factor as usize > total {
        return unable(format!(
            "The target replication factor cannot be reached because only {total} broker(s) are registered."
        ));
    }
    if num_partitions as usize > MAX_RECORDS_PER_USER_OP {
        return error(ErrorCode::PolicyViolation, "Excessively large number of partitions per request.");
    }
    let stripes = std::iter::repeat_with(|| placer.place(replication_factor as usize));
    let assignments: Vec<_> = stripes.skip(first).take(num_partitions as usize).collect();
    if assignments.iter().any(|replicas| !replicas.iter().any(|b| state.is_active(*b))) {
        return unable("All brokers are currently fenced or in controlled shutdown.".to_owned());
    }
    Ok(assignments)
}

/// The operator's own assignment, partitions 0 to n-1 without gaps (`validateManualPartitionAssignment`).
fn manual_assignments(state: &ControllerState, topic: &CreatableTopic) -> Result<Vec<Vec<BrokerId>>, ApiError> {
    if topic.replication_factor != -1 || topic.num_partitions != -1 {
        let message = "A manual partition assignment was specified, but replication factor or number of partitions \
                       was not set to -1.";
        return error(ErrorCode::InvalidRequest, message);
    }
    let mut partitions = BTreeMap::new();
    let replication_factor = topic.assignments[0].broker_ids.len();
    for assignment in &topic.assignments {
        let replicas: Vec<BrokerId> = assignment.broker_ids.iter().map(|b| BrokerId(b.0)).collect();
        check_replicas(state, &replicas, replication_factor)?;
        if partitions.insert(assignment.partition_index, replicas).is_some() {
            let message = format!("Found multiple assignments for partition {}.", assignment.partition_index);
            return error(ErrorCode::InvalidReplicaAssignment, message);
        }
    }
    if !partitions.keys().copied().eq(0..partitions.len() as i32) {
        let message = "partitions should be a consecutive 0-based integer sequence";
        return error(ErrorCode::InvalidReplicaAssignment, message);
    }
    Ok(partitions.into_values().collect())
}

/// `validateManualPartitionAssignment`
pub(super) fn check_replicas(
    state: &ControllerState,
    replicas: &[BrokerId],
    replication_factor: usize,
) -> Result<(), ApiError> {
    let distinct: BTreeSet<BrokerId> = replicas.iter().copied().collect();
    if replicas.is_empty() || replicas.len() != replication_factor || distinct.len() != replicas.len() {
        let message = "Every partition needs the same number of replicas, on different brokers.";
        return error(ErrorCode::InvalidReplicaAssignment, message);
    }
    if let Some(unknown) = replicas.iter().find(|b| !state.image.brokers.contains_key(b)) {
        let message = format!("The assignment includes broker {unknown}, but no such broker is registered.");
        return error(ErrorCode::InvalidReplicaAssignment, message);
    }
    Ok(())
}

/// Deletes topics, by name or id (`ControllerApis.deleteTopics`). Answers are in the order of the request; Kafka
/// shuffles them.
pub fn delete_topics(
    state: &ControllerState,
    request: &DeleteTopicsRequest,
    api_version: i16,
) -> Decision<DeleteTopicsResponse> {
    let wanted: Vec<(Option<TopicName>, Uuid)> = if api_version >= 6 {
        request.topics.iter().map(|t| (t.name.clone(), t.topic_id)).collect()
    } else {
        request.topic_names.iter().map(|name| (Some(name.clone()), Uuid::nil())).collect()
    };
    let found: Vec<Result<Uuid, ApiError>> = wanted.iter().map(|(name, id)| find_topic(state, name, *id)).collect();
    let mut records = Vec::new();
    let mut responses: Vec<DeletableTopicResult> = Vec::new();
    for ((name, id), found_id) in wanted.iter().zip(&found) {
        if responses.iter().any(|r| r.name == *name && r.topic_id == *id) {
            continue;
        }
        let is_duplicate = |id: &Uuid| found.iter().flatten().filter(|other| *other == id).count() > 1;
        let deleted = match found_id {
            Ok(id) if is_duplicate(id) => error(ErrorCode::InvalidRequest, "Duplicate topic name or id."),
            Ok(_) | Err(_) => found_id.clone(),
        };
        let response = DeletableTopicResult::default();
        responses.push(match deleted {
            Ok(id) => {
                records.push(MetadataRecord::RemoveTopic { id });
                let name = TopicName(StrBytes::from_string(state.image.topics[&id].name.clone()));
                response.with_name(Some(name)).with_topic_id(id).with_error_message(None)
            }
            Err((code, message)) => response
                .with_name(name.clone())
                .with_topic_id(*id)
                .with_error_code(code.code())
                .with_error_message(Some(StrBytes::from_string(message))),
        });
    }
    Decision { records, response: DeleteTopicsResponse::default().with_responses(responses) }
}

fn find_topic(state: &ControllerState, name: &Option<TopicName>, id: Uuid) -> Result<Uuid, ApiError> {
    match (name, id.is_nil()) {
        (Some(name), true) => match state.image.topic_ids.get(name.as_str()) {
            Some(id) => Ok(*id),
            None => error(ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition."),
        },
        (None, false) if state.image.topics.contains_key(&id) => Ok(id),
        (None, false) => error(ErrorCode::UnknownTopicId, "This server does not host this topic ID."),
        (Some(_), false) => error(ErrorCode::InvalidRequest, "You may not specify both topic name and topic id."),
        (None, true) => error(ErrorCode::InvalidRequest, "Neither topic name nor id were specified."),
    }
}
