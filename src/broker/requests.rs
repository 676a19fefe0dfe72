//! Dispatch: which API in which versions, and who handles it (`KafkaApis.handle`, `ApiVersionManager`).

use bytes::Bytes;
use kafka_protocol::messages::api_versions_response::{
    ApiVersion, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, ElectLeadersRequest, FindCoordinatorRequest,
    InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest,
};
use kafka_protocol::protocol::{Request, StrBytes};

use super::Broker;
use super::admin::Forwarded;
use super::connections::ReplyTo;
use crate::protocol::ErrorCode;
use crate::protocol::fetch::FetchQuestion;
use crate::protocol::wire::RequestFrame;
use crate::world::{ConnId, Endpoint, Time};

/// One API that we serve.
struct ServedApi {
    key: ApiKey,
    /// What ApiVersions says. librdkafka 2.0 tells features by exact old versions, so the minimum stays 0 even
    /// where older versions are refused.
    advertised_min: i16,
    min: i16,
    max: i16,
}

const fn api(key: ApiKey, advertised_min: i16, min: i16, max: i16) -> ServedApi {
    ServedApi { key, advertised_min, min, max }
}

const SERVED: [ServedApi; 27] = [
    // Up to 11: a client that may send 12 takes us to know transactions version 2.
    api(ApiKey::Produce, 0, 3, 11),
    api(ApiKey::Fetch, 0, 4, 16),
    api(ApiKey::ListOffsets, 0, 1, 9),
    api(ApiKey::Metadata, 0, 0, 12),
    api(ApiKey::ApiVersions, 0, 0, 3),
    api(ApiKey::CreateTopics, 0, 2, 7),
    api(ApiKey::DeleteTopics, 0, 1, 6),
    api(ApiKey::CreatePartitions, 0, 0, 3),
    api(ApiKey::DeleteRecords, 0, 0, 2),
    api(ApiKey::InitProducerId, 0, 0, 4),
    api(ApiKey::OffsetForLeaderEpoch, 0, 2, 4),
    api(ApiKey::ElectLeaders, 0, 0, 2),
    api(ApiKey::DescribeConfigs, 0, 1, 4),
    api(ApiKey::FindCoordinator, 0, 0, 4),
    api(ApiKey::JoinGroup, 0, 0, 9),
    api(ApiKey::SyncGroup, 0, 0, 5),
    api(ApiKey::Heartbeat, 0, 0, 4),
    api(ApiKey::LeaveGroup, 0, 0, 5),
    api(ApiKey::OffsetCommit, 0, 2, 9),
    api(ApiKey::OffsetFetch, 0, 1, 9),
    api(ApiKey::ListGroups, 0, 0, 5),
    api(ApiKey::DescribeGroups, 0, 0, 5),
    api(ApiKey::DeleteGroups, 0, 0, 2),
    api(ApiKey::OffsetDelete, 0, 0, 0),
    api(ApiKey::DescribeCluster, 0, 0, 1),
    api(ApiKey::ConsumerGroupHeartbeat, 0, 0, 1),
    api(ApiKey::ConsumerGroupDescribe, 0, 0, 1),
];

impl Broker {
    /// Handles one request; its connection is muted until it is answered. Whatever cannot be understood costs
    /// the connection, and nothing else.
    pub(super) fn handle_request(&mut self, now: Time, conn: ConnId, frame: Bytes, net: &mut Endpoint) {
        let Ok(request) = RequestFrame::decode(frame) else {
            return self.connections.close(conn, net);
        };
        let to = ReplyTo { conn, correlation_id: request.correlation_id, api_version: request.api_version };
        let api = SERVED.iter().find(|api| api.key as i16 == request.api_key);
        match api {
            Some(api) if (api.min..=api.max).contains(&request.api_version) => {
                self.dispatch(now, api.key, to, &request, net);
            }
            // A client that is newer than we are learns what we know (KIP-511).
            Some(api) if api.key == ApiKey::ApiVersions => {
                let mut response = api_versions();
                response.error_code = ErrorCode::UnsupportedVersion.code();
                self.connections.respond_in_version::<ApiVersionsRequest>(to, &response, 0, net);
            }
            Some(_) | None => self.connections.close(conn, net),
        }
    }

    fn dispatch(&mut self, now: Time, key: ApiKey, to: ReplyTo, request: &RequestFrame, net: &mut Endpoint) {
        match key {
            ApiKey::Produce => {
                if let Some(body) = self.decode::<ProduceRequest>(to, request, net) {
                    self.handle_produce(now, to, &body, net);
                }
            }
            ApiKey::Fetch => match FetchQuestion::decode(&request.body, request.api_version) {
                Ok(question) => self.handle_fetch(now, to, question, net),
                Err(_) => self.connections.close(to.conn, net),
            },
            ApiKey::ListOffsets => {
                if let Some(body) = self.decode::<ListOffsetsRequest>(to, request, net) {
                    self.handle_list_offsets(now, to, &body, net);
                }
            }
            ApiKey::OffsetForLeaderEpoch => {
                if let Some(body) = self.decode::<OffsetForLeaderEpochRequest>(to, request, net) {
                    self.handle_offset_for_leader_epoch(to, &body, net);
                }
            }
            ApiKey::Metadata => {
                if let Some(body) = self.decode::<MetadataRequest>(to, request, net) {
                    self.handle_metadata(now, to, &body, net);
                }
            }
            ApiKey::DescribeCluster => {
                if let Some(body) = self.decode::<DescribeClusterRequest>(to, request, net) {
                    self.handle_describe_cluster(to, &body, net);
                }
            }
            ApiKey::DescribeConfigs => {
                if let Some(body) = self.decode::<DescribeConfigsRequest>(to, request, net) {
                    self.handle_describe_configs(to, &body, net);
                }
            }
            ApiKey::DeleteRecords => {
                if let Some(body) = self.decode::<DeleteRecordsRequest>(to, request, net) {
                    self.handle_delete_records(now, to, &body, net);
                }
            }
            ApiKey::InitProducerId => {
                if let Some(body) = self.decode::<InitProducerIdRequest>(to, request, net) {
                    self.handle_init_producer_id(now, to, &body, net);
                }
            }
            ApiKey::CreateTopics => {
                if let Some(body) = self.decode::<CreateTopicsRequest>(to, request, net) {
                    self.forward(now, to, Forwarded::CreateTopics(body), net);
                }
            }
            ApiKey::DeleteTopics => {
                if let Some(body) = self.decode::<DeleteTopicsRequest>(to, request, net) {
                    self.forward(now, to, Forwarded::DeleteTopics(body), net);
                }
            }
            ApiKey::CreatePartitions => {
                if let Some(body) = self.decode::<CreatePartitionsRequest>(to, request, net) {
                    self.forward(now, to, Forwarded::CreatePartitions(body), net);
                }
            }
            ApiKey::ElectLeaders => {
                if let Some(body) = self.decode::<ElectLeadersRequest>(to, request, net) {
                    self.forward(now, to, Forwarded::ElectLeaders(body), net);
                }
            }
            ApiKey::ApiVersions => self.connections.respond::<ApiVersionsRequest>(to, &api_versions(), net),
            ApiKey::FindCoordinator => {
                if let Some(body) = self.decode::<FindCoordinatorRequest>(to, request, net) {
                    self.handle_find_coordinator(now, to, &body, net);
                }
            }
            other => {
                if !self.handle_group_request(now, other, to, request, net) {
                    self.connections.close(to.conn, net);
                }
            }
        }
    }

    pub(super) fn decode<R: Request>(&mut self, to: ReplyTo, request: &RequestFrame, net: &mut Endpoint) -> Option<R> {
        let body = request.body::<R>();
        if body.is_err() {
            self.connections.close(to.conn, net);
        }
        body.ok()
    }
}

/// `group.version` 1: consumer groups (KIP-848). Kafka tells all of its features.
const GROUP_VERSION: &str = "group.version";

fn api_versions() -> ApiVersionsResponse {
    let keys = SERVED.iter().map(|api| {
        ApiVersion::default()
            .with_api_key(api.key as i16)
            .with_min_version(api.advertised_min)
            .with_max_version(api.max)
    });
    let name = || StrBytes::from_static_str(GROUP_VERSION);
    let supported = SupportedFeatureKey::default().with_name(name()).with_max_version(1);
    let finalized =
        FinalizedFeatureKey::default().with_name(name()).with_min_version_level(1).with_max_version_level(1);
    ApiVersionsResponse::default()
        .with_api_keys(keys.collect())
        .with_supported_features(vec![supported])
        .with_finalized_features_epoch(0)
        .with_finalized_features(vec![finalized])
}
