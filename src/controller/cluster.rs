//! Who is in the cluster: broker registrations (Kafka's `ClusterControlManager`).

use kafka_protocol::messages::{BrokerRegistrationRequest, BrokerRegistrationResponse};
use uuid::Uuid;

use super::METADATA_VERSION;
use super::replication;
use super::state::{ControllerState, Decision};
use crate::defect::Defect;
use crate::metadata::{BrokerRegistration, MetadataRecord, directory};
use crate::protocol::{BrokerEpoch, BrokerId, ErrorCode, Offset};
use crate::world::{HostPort, Time};

/// A request's broker epoch must be that of the broker's registration.
pub fn check_broker_epoch(
    state: &ControllerState,
    broker: BrokerId,
    epoch: BrokerEpoch,
) -> Result<&BrokerRegistration, ErrorCode> {
    state.image.brokers.get(&broker).filter(|b| b.epoch == epoch).ok_or(ErrorCode::StaleBrokerEpoch)
}

/// Registers a broker. The same incarnation amends its registration and keeps its epoch and state; another one gets
/// epoch `next_offset`, starts fenced, and leaves every ISR as if its predecessor had just been fenced. While that
/// predecessor's session lasts it is refused.
///
/// Errors: DUPLICATE_BROKER_REGISTRATION, INVALID_REGISTRATION, UNSUPPORTED_VERSION.
pub fn register_broker(
    state: &mut ControllerState,
    now: Time,
    next_offset: Offset,
    request: &BrokerRegistrationRequest,
) -> Result<Decision<BrokerRegistrationResponse>, ErrorCode> {
    let broker = BrokerId(request.broker_id.0);
    let existing = state.image.brokers.get(&broker);
    let amended = existing.filter(|b| b.incarnation == request.incarnation_id);
    // A request may have been overtaken by the broker's next incarnation, which is alive.
    let is_alive = state.heartbeats.has_valid_session(now, broker);
    let is_stale = existing.is_some() && amended.is_none() && is_alive;
    if is_stale && !state.config.defects.has(Defect::AcceptStaleRegistration) {
        return Err(ErrorCode::DuplicateBrokerRegistration);
    }
    let endpoint = check_registration(state, request)?;
    let (broker_epoch, fenced, in_controlled_shutdown) = match amended {
        Some(b) => (b.epoch, b.fenced, b.in_controlled_shutdown),
        None => (BrokerEpoch(next_offset.0), true, false),
    };
    let mut records = Vec::new();
    if existing.is_some() && amended.is_none() {
        replication::remove_from_isrs(state, broker, &mut records);
    }
    records.push(MetadataRecord::RegisterBroker {
        broker,
        incarnation: request.incarnation_id,
        broker_epoch,
        endpoint,
        rack: request.rack.as_ref().map(|rack| rack.to_string()),
        fenced,
        in_controlled_shutdown,
        log_dirs: request.log_dirs.clone(),
    });
    Ok(Decision { records, response: BrokerRegistrationResponse::default().with_broker_epoch(broker_epoch.0) })
}

/// What can be told from the request alone, and from the other brokers' directories. Returns the first listener.
fn check_registration(state: &ControllerState, request: &BrokerRegistrationRequest) -> Result<HostPort, ErrorCode> {
    let is_taken = |directory: &Uuid| {
        let others = state.image.brokers.values().filter(|b| b.id.0 != request.broker_id.0);
        others.into_iter().any(|b| b.log_dirs.contains(directory))
    };
    for (i, log_dir) in request.log_dirs.iter().enumerate() {
        let is_reserved = log_dir.as_u128() < directory::RESERVED_END;
        if is_reserved || request.log_dirs[..i].contains(log_dir) || is_taken(log_dir) {
            return Err(ErrorCode::InvalidRegistration);
        }
    }
    let metadata_version = request.features.iter().find(|f| f.name.as_str() == METADATA_VERSION.0);
    if metadata_version
        .is_some_and(|f| !(f.min_supported_version..=f.max_supported_version).contains(&METADATA_VERSION.1))
    {
        return Err(ErrorCode::UnsupportedVersion);
    }
    let listener = request.listeners.first().ok_or(ErrorCode::InvalidRegistration)?;
    Ok(HostPort::new(listener.host.to_string(), listener.port))
}
