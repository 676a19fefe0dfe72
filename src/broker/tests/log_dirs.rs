//! What a broker does when one of its log directories fails, or the last one (KIP-112).

use super::*;
use crate::world::sim::{DiskFault, DiskScope, FaultId};

const DIRS: &[&str] = &["data-1", "data-2"];
const BROKER: i32 = 1;
const STORAGE_ERROR: i16 = ErrorCode::KafkaStorageError.code();

impl Client {
    /// A topic with six partitions, half of them in either directory of each broker. Of those that broker 1 leads: its id,
    /// one in `data-1`, one in `data-2`.
    async fn create_in_both_dirs(&mut self) -> (Uuid, i32, i32) {
        self.create_topic_of(6, &[]).await;
        let (mut topic_id, mut led) = (Uuid::nil(), Vec::new());
        for index in 0..6 {
            let is_up = |p: &MetadataResponsePartition| {
                p.partition_index == index && p.leader_id.0 >= 0 && p.isr_nodes.len() == 3
            };
            let (id, partition) = self.partition_when(is_up).await;
            topic_id = id;
            led.extend((partition.leader_id.0 == BROKER).then_some(index));
        }
        let in_dir = |dir: &str| {
            let names = self.simulation.disk(&host(BROKER).host).read_dir(dir).unwrap();
            let is_there = |index: &&i32| names.contains(&format!("{TOPIC}-{index}"));
            *led.iter().find(is_there).unwrap_or_else(|| panic!("none of {led:?} is in {dir}"))
        };
        (topic_id, in_dir("data-1"), in_dir("data-2"))
    }

    /// Produces one record to a partition of broker 1; the error code.
    async fn produce_in(&mut self, partition: i32, number: i64) -> Option<i16> {
        let mut request = produce_request(1, number);
        request.topic_data[0].partition_data[0].index = partition;
        let response = self.call(BROKER, 11, &request).await?;
        Some(response.responses[0].partition_responses[0].error_code)
    }

    /// Reads a partition of broker 1; the error code, and whether there are records.
    async fn fetch_in(&mut self, topic_id: Uuid, partition: i32) -> (i16, bool) {
        let mut request = fetch_request(topic_id, 0);
        request.topics[0].partitions[0].partition = partition;
        let response = self.call(BROKER, 16, &request).await.unwrap();
        let partition = &response.responses[0].partitions[0];
        (partition.error_code, partition.records.as_ref().is_some_and(|records| !records.is_empty()))
    }

    fn break_dir(&self, dir: &str, fault: DiskFault) -> FaultId {
        let scope = DiskScope { log_dir: Some(dir.to_owned()), files: None };
        self.simulation.begin_disk_fault(&host(BROKER).host, fault, scope)
    }

    fn failed_dirs(&self) -> Vec<String> {
        let observed = self.observed.lock().unwrap();
        let failed = |what: &Observation| {
            let Observation::LogDirFailed { log_dir } = what else { return None };
            Some(log_dir.clone())
        };
        observed.iter().filter_map(|(_, _, what)| failed(what)).collect()
    }

    /// Whether broker 1 is gone: it takes no connection, and its partitions have other leaders.
    async fn is_stopped(&mut self, partition: i32) -> bool {
        let has_moved =
            |p: &MetadataResponsePartition| p.partition_index == partition && ![-1, BROKER].contains(&p.leader_id.0);
        self.partition_when(has_moved).await;
        self.connections.remove(&BROKER);
        self.connect(BROKER).await.is_none()
    }
}

/// An append is what fails, or a read.
#[test]
fn partitions_of_a_failed_directory_answer_storage_error_and_those_of_the_other_go_on() {
    for fails_by_append in [true, false] {
        with_log_dirs(21, DIRS, quick(), move |mut client| async move {
            let (topic_id, whole, broken) = client.create_in_both_dirs().await;
            for partition in [whole, broken] {
                assert_eq!(client.produce_in(partition, 1).await, Some(0));
            }
            client.sleep(Duration::from_millis(500)).await;
            assert_eq!(client.fetch_in(topic_id, broken).await, (0, true));
            let fault = if fails_by_append {
                let fault = client.break_dir("data-2", DiskFault::WriteFail);
                assert_eq!(client.produce_in(broken, 2).await, Some(STORAGE_ERROR));
                fault
            } else {
                let fault = client.break_dir("data-2", DiskFault::ReadFail);
                assert_eq!(client.fetch_in(topic_id, broken).await, (STORAGE_ERROR, false));
                fault
            };
            // One operation was enough: the disk may be well again, the directory is offline.
            client.simulation.end_disk_fault(&host(BROKER).host, fault);
            assert_eq!(client.produce_in(broken, 3).await, Some(STORAGE_ERROR));
            assert_eq!(client.fetch_in(topic_id, broken).await, (STORAGE_ERROR, false));
            assert_eq!(client.produce_in(whole, 2).await, Some(0));
            assert_eq!(client.fetch_in(topic_id, whole).await, (0, true));
            assert_eq!(client.failed_dirs(), ["data-2"]);
            // The controller heard of it and elected another.
            let is_led_by_another = |p: &MetadataResponsePartition| {
                p.partition_index == broken && ![-1, BROKER].contains(&p.leader_id.0) && p.isr_nodes.len() == 2
            };
            client.partition_when(is_led_by_another).await;
            assert_eq!(client.produce_in(whole, 3).await, Some(0), "the broker leads what it has");
            assert_eq!(client.produce_in(broken, 4).await, Some(STORAGE_ERROR), "nothing but a restart mends it");
            client.order(Order::Terminate(BROKER));
            client.sleep(Duration::from_secs(2)).await;
            client.order(Order::Start(BROKER));
            client.partition_when(|p| p.partition_index == broken && p.isr_nodes.len() == 3).await;
        });
    }
}

#[test]
fn the_broker_stops_when_its_last_directory_fails() {
    with_log_dirs(22, DIRS, quick(), |mut client| async move {
        let (_, whole, broken) = client.create_in_both_dirs().await;
        client.break_dir("data-2", DiskFault::WriteFail);
        assert_eq!(client.produce_in(broken, 1).await, Some(STORAGE_ERROR));
        assert_eq!(client.produce_in(whole, 1).await, Some(0));
        client.break_dir("data-1", DiskFault::WriteFail);
        assert_eq!(client.produce_in(whole, 2).await, None, "there is nobody left to answer");
        assert_eq!(client.failed_dirs(), ["data-2", "data-1"]);
        assert!(client.is_stopped(whole).await);
    });
}

#[test]
fn the_broker_stops_when_the_directory_of_its_metadata_log_fails() {
    with_log_dirs(23, DIRS, quick(), |mut client| async move {
        let (_, in_first, in_second) = client.create_in_both_dirs().await;
        client.break_dir("data-1", DiskFault::WriteFail);
        assert_eq!(client.produce_in(in_first, 1).await, None);
        assert_eq!(client.failed_dirs(), ["data-1"]);
        assert!(client.is_stopped(in_second).await, "though its other directory is well");
    });
}

#[test]
fn a_directory_that_cannot_be_read_at_the_start_is_told_to_have_failed() {
    with_log_dirs(24, DIRS, quick(), |mut client| async move {
        let (_, whole, _) = client.create_in_both_dirs().await;
        client.order(Order::Terminate(BROKER));
        client.sleep(Duration::from_secs(2)).await;
        client.break_dir("data-2", DiskFault::ReadFail);
        client.order(Order::Start(BROKER));
        client.partition_when(|p| p.partition_index == whole && p.isr_nodes.len() == 3).await;
        assert_eq!(client.failed_dirs(), ["data-2"]);
    });
}
