//! Producer ids, which brokers get from here in blocks (Kafka's `ProducerIdControlManager`, KIP-730).

use kafka_protocol::messages::{AllocateProducerIdsRequest, AllocateProducerIdsResponse};

use super::cluster::check_broker_epoch;
use super::state::{ControllerState, Decision};
use crate::metadata::MetadataRecord;
use crate::protocol::{BrokerEpoch, BrokerId, ErrorCode};

/// `ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`
pub const BLOCK_SIZE: i32 = 1_000;

/// Gives the next block to a broker.
///
/// Errors: STALE_BROKER_EPOCH, UNKNOWN_SERVER_ERROR once the ids are used up.
pub fn allocate_producer_ids(
    state: &ControllerState,
    request: &AllocateProducerIdsRequest,
) -> Result<Decision<AllocateProducerIdsResponse>, ErrorCode> {
    let (broker, broker_epoch) = (BrokerId(request.broker_id.0), BrokerEpoch(request.broker_epoch));
    check_broker_epoch(state, broker, broker_epoch)?;
    let first = state.image.next_producer_id;
    let next_producer_id = first.checked_add(i64::from(BLOCK_SIZE)).ok_or(ErrorCode::UnknownServerError)?;
    let response =
        AllocateProducerIdsResponse::default().with_producer_id_start(first.into()).with_producer_id_len(BLOCK_SIZE);
    let records = vec![MetadataRecord::ProducerIds { broker, broker_epoch, next_producer_id }];
    Ok(Decision { records, response })
}
