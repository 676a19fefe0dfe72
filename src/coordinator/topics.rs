//! The cluster's topics, as far as groups need to know them (what the group coordinator keeps of Kafka's `TopicsImage`).

use std::collections::BTreeMap;

use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::record::TopicMetadata;

#[derive(Default)]
pub(super) struct Topics {
    by_name: BTreeMap<StrBytes, TopicMetadata>,
    names: BTreeMap<Uuid, StrBytes>,
    /// Goes up with every topic that is new.
    version: i64,
}

impl Topics {
    pub fn get(&self, name: &StrBytes) -> Option<TopicMetadata> {
        self.by_name.get(name).copied()
    }

    pub fn names(&self) -> impl Iterator<Item = &StrBytes> {
        self.by_name.keys()
    }

    /// What was found by a lower one may lack topics (`lastMetadataImageWithNewTopics`).
    pub fn version(&self) -> i64 {
        self.version
    }

    pub fn name(&self, id: &Uuid) -> Option<&StrBytes> {
        self.names.get(id)
    }

    /// A topic is there with so many partitions. True if that is news.
    pub fn put(&mut self, name: &StrBytes, topic: TopicMetadata) -> bool {
        let former = self.by_name.insert(name.clone(), topic);
        if former == Some(topic) {
            return false;
        }
        self.version += i64::from(former.is_none());
        if let Some(former) = former.filter(|former| former.id != topic.id) {
            self.names.remove(&former.id);
        }
        self.names.insert(topic.id, name.clone());
        true
    }

    /// A topic is gone. Its name may be that of another one already.
    pub fn remove(&mut self, id: &Uuid) {
        if let Some(name) = self.names.remove(id)
            && self.by_name.get(&name).is_some_and(|topic| topic.id == *id)
        {
            self.by_name.remove(&name);
        }
    }
}
