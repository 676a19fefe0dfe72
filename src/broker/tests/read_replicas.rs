//! Consumers and the replicas of their racks (KIP-392).

use super::*;
use crate::config::ReplicaSelector;

#[test]
fn a_leader_sends_consumers_to_the_replica_in_their_rack_which_serves_them() {
    let config = BrokerConfig { replica_selector: ReplicaSelector::RackAware, ..quick() };
    with_cluster(10, config, |mut client| async move {
        let leader = client.create_topic(&[]).await;
        let (topic_id, _) = client.partition_when(|_| true).await;
        client.produce_surely(-1, 7).await;
        let near = leader % BROKERS + 1;
        let in_rack = |rack: String| fetch_request(topic_id, 0).with_rack_id(StrBytes::from_string(rack));
        // (preferred read replica, whether it got records)
        let mut asks = Vec::new();
        for rack in [format!("rack-{near}"), format!("rack-{leader}"), "elsewhere".to_owned(), String::new()] {
            let response = client.call(leader, 16, &in_rack(rack)).await.unwrap();
            let data = &response.responses[0].partitions[0];
            asks.push((data.preferred_read_replica.0, data.records.as_ref().is_some_and(|r| !r.is_empty())));
        }
        assert_eq!(asks, [(near, false), (-1, true), (-1, true), (-1, true)]);
        assert!(client.saw(|machine, what| machine == host(leader).host
            && matches!(what, Observation::ReferredTo { offset: Offset(0), replica, .. } if replica.0 == near)));
        while client.read_all(near, topic_id).await.is_empty() {
            client.sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(client.read_all(near, topic_id).await, [(0, 7)]);
    });
}

#[test]
fn without_a_selector_a_leader_serves_whoever_comes() {
    with_cluster(10, quick(), |mut client| async move {
        let leader = client.create_topic(&[]).await;
        let (topic_id, _) = client.partition_when(|_| true).await;
        client.produce_surely(-1, 7).await;
        let rack = StrBytes::from_string(format!("rack-{}", leader % BROKERS + 1));
        let response = client.call(leader, 16, &fetch_request(topic_id, 0).with_rack_id(rack)).await.unwrap();
        let data = &response.responses[0].partitions[0];
        assert_eq!(data.preferred_read_replica.0, -1);
        assert!(data.records.as_ref().is_some_and(|records| !records.is_empty()));
    });
}
