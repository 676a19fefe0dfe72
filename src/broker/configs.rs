//! DescribeConfigs of topics and brokers (`ConfigHelper.describeConfigs`): the keys that are modelled.

use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult,
};
use kafka_protocol::protocol::StrBytes;

use super::Broker;
use super::connections::ReplyTo;
use crate::config::{Scope, modelled};
use crate::protocol::ErrorCode;
use crate::world::Endpoint;

/// `ConfigResource.Type`
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// `DescribeConfigsResponse.ConfigSource`: of this topic; of server.properties; nobody has set it.
const DYNAMIC_TOPIC_CONFIG: i8 = 1;
const STATIC_BROKER_CONFIG: i8 = 4;
const DEFAULT_CONFIG: i8 = 5;

/// A key with its value and where that is from.
type Entry = (&'static str, String, i8);

impl Broker {
    pub(super) fn handle_describe_configs(
        &mut self,
        to: ReplyTo,
        request: &DescribeConfigsRequest,
        net: &mut Endpoint,
    ) {
        let results = request.resources.iter().map(|resource| self.describe_resource(resource)).collect();
        let response = DescribeConfigsResponse::default().with_results(results);
        self.connections.respond::<DescribeConfigsRequest>(to, &response, net);
    }

    fn describe_resource(&self, resource: &DescribeConfigsResource) -> DescribeConfigsResult {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        let entries = match resource.resource_type {
            TOPIC => self.topic_entries(&resource.resource_name).ok_or(ErrorCode::UnknownTopicOrPartition),
            BROKER if resource.resource_name.as_str() == self.env.id.to_string() => Ok(self.broker_entries()),
            // The cluster's dynamic default: there is none.
            BROKER if resource.resource_name.is_empty() => Ok(Vec::new()),
            _ => Err(ErrorCode::InvalidRequest),
        };
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                let message = StrBytes::from_string(error.to_string());
                return result.with_error_code(error.code()).with_error_message(Some(message));
            }
        };
        let is_wanted = |name: &str| match &resource.configuration_keys {
            Some(keys) => keys.iter().any(|key| key.as_str() == name),
            None => true,
        };
        let wanted = entries.into_iter().filter(|(name, ..)| is_wanted(name));
        let config = |(name, value, source): Entry| {
            DescribeConfigsResourceResult::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(StrBytes::from_string(value)))
                .with_read_only(resource.resource_type == BROKER)
                .with_config_source(source)
        };
        result.with_configs(wanted.map(config).collect())
    }

    fn topic_entries(&self, name: &str) -> Option<Vec<Entry>> {
        let overrides = &self.env.image.topic(name)?.config;
        let inherited = self.broker_entries();
        let aliases = modelled(Scope::Broker);
        let entry = |key: &'static str, default: &'static str| match overrides.get(key) {
            Some(value) => (key, value.clone(), DYNAMIC_TOPIC_CONFIG),
            None => {
                let broker_key = aliases.iter().find(|other| other.alias == Some(key)).map_or(key, |other| other.name);
                match inherited.iter().find(|(name, ..)| *name == broker_key) {
                    Some((_, value, source)) => (key, value.clone(), *source),
                    None => (key, default.to_owned(), DEFAULT_CONFIG),
                }
            }
        };
        Some(modelled(Scope::Topic).iter().map(|key| entry(key.name, key.default)).collect())
    }

    fn broker_entries(&self) -> Vec<Entry> {
        let values = self.options.config.entries();
        let entry = |name: &'static str, default: &'static str| {
            let value = values.get(name).cloned().unwrap_or_else(|| default.to_owned());
            let source = if value == default { DEFAULT_CONFIG } else { STATIC_BROKER_CONFIG };
            (name, value, source)
        };
        modelled(Scope::Broker).iter().map(|key| entry(key.name, key.default)).collect()
    }
}
