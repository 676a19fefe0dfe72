//! What the configuration of a run promised, under Kafka's names. Saved in the report, so that an explanation needs
//! neither the scenario file nor another run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::acks_name;
use crate::scenario::{Variant, Workload};

/// The settings that decide what may become of a record, of every producer, consumer and topic.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    pub producers: BTreeMap<String, ProducerSettings>,
    pub consumers: BTreeMap<String, ConsumerSettings>,
    pub topics: BTreeMap<String, TopicSettings>,
    /// Known defects that are on, with what they do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub defects: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProducerSettings {
    pub acks: String,
    pub retries: u32,
    #[serde(rename = "max.in.flight.requests.per.connection")]
    pub max_in_flight: usize,
    #[serde(rename = "enable.idempotence", default)]
    pub enable_idempotence: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConsumerSettings {
    #[serde(rename = "auto.offset.reset")]
    pub auto_offset_reset: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TopicSettings {
    #[serde(rename = "replication.factor")]
    pub replication_factor: u32,
    #[serde(rename = "min.insync.replicas")]
    pub min_insync_replicas: u32,
    #[serde(rename = "flush.messages")]
    pub flush_messages: u64,
    #[serde(rename = "unclean.leader.election.enable")]
    pub unclean_leader_election: bool,
}

impl Settings {
    pub fn of(variant: &Variant) -> Settings {
        let defects = variant.cluster.defects.iter().map(|d| (d.name().to_owned(), d.sentence().to_owned()));
        let mut settings = Settings { defects: defects.collect(), ..Settings::default() };
        for workload in &variant.workloads {
            match workload {
                Workload::Produce { name, config, .. } => {
                    let producer = ProducerSettings {
                        acks: acks_name(config.acks).to_owned(),
                        retries: config.retries,
                        max_in_flight: config.max_in_flight_requests_per_connection,
                        enable_idempotence: config.enable_idempotence,
                    };
                    settings.producers.insert(name.clone(), producer);
                }
                Workload::Consume { name, config, .. } => {
                    let auto_offset_reset = format!("{:?}", config.auto_offset_reset).to_lowercase();
                    settings.consumers.insert(name.clone(), ConsumerSettings { auto_offset_reset });
                }
            }
        }
        for topic in &variant.topics {
            let effective = topic.effective_config(&variant.cluster.config);
            let topic_settings = TopicSettings {
                replication_factor: topic.replication_factor.unsigned_abs().into(),
                min_insync_replicas: effective.min_insync_replicas.unsigned_abs(),
                flush_messages: effective.log.flush_messages.min(i64::MAX as u64),
                unclean_leader_election: effective.unclean_leader_election_enable,
            };
            settings.topics.insert(topic.name.clone(), topic_settings);
        }
        settings
    }
}
