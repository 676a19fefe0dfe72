//! Whom a leader sends consumers to, and what they find there (KIP-392).

use super::*;

const CONSUMER: Reader = Reader::Consumer { only_leader: false };

/// Broker 1 stands in the first of these racks, and so on.
fn with_racks(racks: &[&str], test: impl FnOnce(&mut Cluster)) {
    with_cluster(racks.len() as i32, 1, |c| {
        for node in &mut c.nodes {
            for (broker, rack) in node.env.image.brokers.values_mut().zip(racks) {
                broker.rack = Some((*rack).to_owned());
            }
        }
        test(c);
    });
}

impl Cluster {
    fn preferred(&mut self, leader: i32, rack: &str, offset: i64) -> Option<i32> {
        let now = self.now;
        let node = self.node(leader);
        node.partition.preferred_read_replica(now, &node.env, rack, Offset(offset)).map(|id| id.0)
    }

    /// A fetch of `follower` that tells its log start too.
    fn fetch_from_log(&mut self, follower: i32, log_start: i64, log_end: i64) {
        let reader = Reader::Follower { id: BrokerId(follower), epoch: broker_epoch(follower) };
        self.read(1, reader, &ReadRequest { log_start: Offset(log_start), ..request(log_end, None, None) }).unwrap();
    }
}

#[test]
fn consumers_go_to_the_replica_of_their_rack_that_has_the_most_of_what_they_want() {
    with_racks(&["a", "b", "b"], |c| {
        c.elect(1, 0, &[1, 2, 3], &[1, 2, 3]);
        assert_eq!(c.preferred(1, "b", 0), None, "nobody has told where its log ends");
        c.append(1, 9);
        c.fetch_from_log(2, 4, 8);
        c.fetch_from_log(3, 0, 6);
        let of_b: Vec<Option<i32>> = [3, 4, 8, 9].into_iter().map(|offset| c.preferred(1, "b", offset)).collect();
        assert_eq!(of_b, [Some(3), Some(2), Some(2), None], "as far as each log goes, and the longest of them");
        c.fetch_from_log(3, 0, 8);
        assert_eq!(c.preferred(1, "b", 5), Some(3), "of logs that are as long and as fresh, that of the highest id");
        assert_eq!(c.preferred(1, "a", 5), None, "the leader stands there itself");
        assert_eq!(c.preferred(1, "c", 5), None, "nobody stands there");
        assert_eq!(c.preferred(2, "b", 5), None, "only the leader decides");
    });
}

#[test]
fn of_replicas_with_the_same_log_the_one_that_was_caught_up_last_is_preferred() {
    with_racks(&["a", "b", "b"], |c| {
        c.elect(1, 0, &[1, 2, 3], &[1]);
        c.append(1, 5);
        c.fetch_from_log(3, 0, 5);
        c.now += Duration::from_secs(1);
        c.fetch_from_log(2, 0, 5);
        assert_eq!(c.preferred(1, "b", 5), Some(2));
    });
}

#[test]
fn nobody_is_sent_to_a_replica_outside_the_isr_or_to_a_fenced_broker() {
    with_racks(&["a", "b", "c"], |c| {
        c.elect(1, 0, &[1, 2], &[1]);
        c.append(1, 5);
        c.fetch_from_log(2, 0, 5);
        c.fetch_from_log(3, 0, 2);
        assert_eq!((c.preferred(1, "b", 1), c.preferred(1, "c", 1)), (Some(2), None));
        c.node(1).env.image.brokers.get_mut(&BrokerId(2)).unwrap().fenced = true;
        assert_eq!(c.preferred(1, "b", 1), None);
    });
}

#[test]
fn who_is_sent_away_gets_no_records_and_hears_of_another_leader_epoch_first() {
    with_racks(&["a", "b"], |c| {
        c.elect(1, 3, &[1, 2], &[1]);
        c.append(1, 2);
        c.fetch_from_log(2, 0, 2);
        let partition = &c.node(1).partition;
        let data = partition.refer_to(BrokerId(2), &request(0, Some(3), None)).unwrap();
        assert!(data.records.is_empty());
        assert_eq!((data.preferred_read_replica, data.high_watermark), (Some(BrokerId(2)), Offset(2)));
        let refused = partition.refer_to(BrokerId(2), &request(0, Some(2), None));
        assert_eq!(code(refused), ErrorCode::FencedLeaderEpoch);
    });
}

#[test]
fn a_follower_serves_consumers_up_to_its_own_high_watermark() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1, 2]);
        c.append(1, 3);
        c.replicate(1, 2);
        c.append(1, 2);
        c.replicate_once(1, 2);
        assert_eq!((c.log_end(2), c.high_watermark(2)), (5, 3));
        let count = |data: &bytes::Bytes| crate::log::batch::split(data, true).unwrap().len();
        assert_eq!(count(&c.read(2, CONSUMER, &request(1, Some(0), None)).unwrap().0.records.into_bytes()), 2);
        for offset in [3, 4, 5] {
            let data = c.read(2, CONSUMER, &request(offset, Some(0), None)).unwrap().0;
            assert!(data.records.is_empty(), "offset {offset} is not committed as far as it knows");
        }
        assert_eq!(code(c.read(2, CONSUMER, &request(6, Some(0), None))), ErrorCode::OffsetOutOfRange);
        assert_eq!(code(c.read(2, CONSUMER, &request(1, Some(1), None))), ErrorCode::UnknownLeaderEpoch);
        let old = Reader::Consumer { only_leader: true };
        assert_eq!(code(c.read(2, old, &request(1, Some(0), None))), ErrorCode::NotLeaderOrFollower);
    });
}
