//! More partitions for topics that there are (KIP-195: `ReplicationControlManager.createPartitions`, with what
//! `ControllerApis` checks before it).

use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use kafka_protocol::protocol::StrBytes;

use super::state::{ControllerState, Decision};
use super::topics::{ApiError, MAX_RECORDS_PER_USER_OP, check_replicas, error, new_partition, place_replicas};
use crate::metadata::MetadataRecord;
use crate::protocol::{BrokerId, ErrorCode};

/// Grows topics to the numbers of partitions that are asked for, each on its own.
pub fn create_partitions(
    state: &ControllerState,
    request: &CreatePartitionsRequest,
) -> Decision<CreatePartitionsResponse> {
    let mut records = Vec::new();
    let mut results: Vec<CreatePartitionsTopicResult> = Vec::new();
    for topic in &request.topics {
        if results.iter().any(|result| result.name == topic.name) {
            continue;
        }
        let is_duplicate = request.topics.iter().filter(|t| t.name == topic.name).count() > 1;
        let grown = if is_duplicate {
            error(ErrorCode::InvalidRequest, "Duplicate topic name.")
        } else {
            grow(state, topic, MAX_RECORDS_PER_USER_OP - records.len())
        };
        let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        results.push(match grown {
            Ok(new) => {
                records.extend(new);
                result.with_error_message(None)
            }
            Err((code, message)) => {
                result.with_error_code(code.code()).with_error_message(Some(StrBytes::from_string(message)))
            }
        });
    }
    if request.validate_only {
        records.clear();
    }
    Decision { records, response: CreatePartitionsResponse::default().with_results(results) }
}

fn grow(
    state: &ControllerState,
    topic: &CreatePartitionsTopic,
    records_max: usize,
) -> Result<Vec<MetadataRecord>, ApiError> {
    let name = topic.name.as_str();
    let known = state.image.topic_ids.get(name).and_then(|id| Some((*id, state.image.topics.get(id)?)));
    let Some((topic_id, existing)) = known else {
        return error(ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition.");
    };
    let count = existing.partitions.len() as i32;
    if topic.count == count {
        return error(ErrorCode::InvalidPartitions, format!("Topic already has {count} partition(s)."));
    }
    if topic.count < count {
        let message =
            format!("The topic {name} currently has {count} partition(s); {} would not be an increase.", topic.count);
        return error(ErrorCode::InvalidPartitions, message);
    }
    let additional = (topic.count - count) as usize;
    if additional > records_max {
        return error(ErrorCode::PolicyViolation, "Excessively large number of partitions per request.");
    }
    let replication_factor = existing.partitions.values().next().map_or(0, |partition| partition.replicas.len());
    let assignments = match &topic.assignments {
        Some(assignments) if assignments.len() != additional => {
            let message = format!(
                "Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.",
                assignments.len()
            );
            return error(ErrorCode::InvalidReplicaAssignment, message);
        }
        Some(assignments) => {
            let checked = |assignment: &CreatePartitionsAssignment| {
                let replicas: Vec<BrokerId> = assignment.broker_ids.iter().map(|id| BrokerId(id.0)).collect();
                check_replicas(state, &replicas, replication_factor).map(|()| replicas)
            };
            assignments.iter().map(checked).collect::<Result<Vec<_>, ApiError>>()?
        }
        None => place_replicas(state, count as usize, topic.count - count, replication_factor as i16)?,
    };
    let new = |(partition, replicas): (i32, &Vec<BrokerId>)| new_partition(state, topic_id, partition, replicas);
    (count..).zip(&assignments).map(new).collect()
}
