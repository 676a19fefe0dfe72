//! The rules of replication, one by one, on real logs.
#![expect(unused_must_use, reason = "most steps only lead up to the effect that a test is about")]

mod preferred;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::defect::Defects;
use crate::log::testing::{Machine, batch_of, open_directory, orders};
use crate::log::{LogConfig, LogDirectory};
use crate::metadata::{BrokerRegistration, PartitionState};
use crate::observe::{BatchInfo, TruncationReason};
use crate::protocol::{LeaderEpoch, PartitionEpoch};
use crate::world::HostPort;

const LAG_TIME_MAX: Duration = Duration::from_secs(30);

/// Replicas of one partition on brokers 1, 2, …; each with a log of its own and its own view of the cluster.
struct Cluster {
    now: Time,
    nodes: Vec<Node>,
    partition_epoch: i32,
}

struct Node {
    env: Environment,
    partition: Partition,
    observed: Arc<Mutex<Vec<Observation>>>,
    _directory: LogDirectory,
}

fn broker_epoch(id: i32) -> BrokerEpoch {
    BrokerEpoch(100 + i64::from(id))
}

fn registration(id: i32) -> BrokerRegistration {
    BrokerRegistration {
        id: BrokerId(id),
        epoch: broker_epoch(id),
        incarnation: uuid::Uuid::from_u128(id as u128),
        endpoint: HostPort::new(format!("broker-{id}"), 9092),
        rack: None,
        fenced: false,
        in_controlled_shutdown: false,
        log_dirs: Vec::new(),
    }
}

fn node(disk: &crate::world::Disk, id: i32, brokers: i32) -> Node {
    let observed = Arc::new(Mutex::new(Vec::new()));
    let sink = observed.clone();
    let mut image = MetadataImage::default();
    image.brokers.extend((1..=brokers).map(|id| (BrokerId(id), registration(id))));
    let env = Environment {
        id: BrokerId(id),
        machine: format!("broker-{id}"),
        observer: Arc::new(move |_, _, observation| sink.lock().unwrap().push(observation.clone())),
        broker_epoch: broker_epoch(id),
        replica_lag_time_max: LAG_TIME_MAX,
        image,
    };
    disk.create_dir_all(&format!("{id}")).unwrap();
    let config = LogConfig::default();
    let open = |path: &str| {
        LogDirectory::open(disk.clone(), path, |_| config.clone(), uuid::Uuid::nil, Defects::NONE).unwrap().0
    };
    let mut directory = open(&format!("data-{id}"));
    let topic_id = uuid::Uuid::from_u128(7);
    let log = directory.create_log(&orders(), topic_id, config.clone()).unwrap();
    Node { env, partition: Partition::new(orders(), topic_id, log, 1), observed, _directory: directory }
}

fn with_cluster(brokers: i32, min_insync_replicas: i32, test: impl FnOnce(&mut Cluster)) {
    Machine::run(|machine| async move {
        let disk = machine.disk();
        drop(open_directory(&disk, &LogConfig::default()));
        let mut nodes: Vec<Node> = (1..=brokers).map(|id| node(&disk, id, brokers)).collect();
        for node in &mut nodes {
            node.partition.set_min_insync_replicas(min_insync_replicas);
        }
        test(&mut Cluster { now: Time::from_millis(1_000), nodes, partition_epoch: -1 });
    });
}

fn ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(*id)).collect()
}

impl Cluster {
    fn node(&mut self, id: i32) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    fn state(&mut self, leader: i32, epoch: i32, isr: &[i32]) -> PartitionState {
        self.partition_epoch += 1;
        PartitionState {
            replicas: (1..=self.nodes.len() as i32).map(BrokerId).collect(),
            isr: ids(isr),
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(epoch),
            partition_epoch: PartitionEpoch(self.partition_epoch),
            leader_recovering: false,
            directories: Vec::new(),
        }
    }

    /// The controller elects `leader`; only the brokers of `heard` learn of it.
    fn elect(&mut self, leader: i32, epoch: i32, isr: &[i32], heard: &[i32]) {
        let state = self.state(leader, epoch, isr);
        let now = self.now;
        for id in heard {
            let node = self.node(*id);
            let transition = node.partition.apply(now, &node.env, &state).unwrap();
            assert_ne!(transition, Transition::Stale);
        }
    }

    fn try_append(&mut self, leader: i32, acks: i16) -> Result<LeaderAppend, ReplicaError> {
        let now = self.now;
        // Every batch differs from every other.
        let batch = batch_of(1, 10, self.now.as_millis() as i64);
        self.now += Duration::from_millis(1);
        let node = self.node(leader);
        node.partition.append_as_leader(now, &node.env, &batch, acks, 0)
    }

    fn append(&mut self, leader: i32, records: usize) {
        for _ in 0..records {
            self.try_append(leader, 1).unwrap();
        }
    }

    /// `follower` fetches from `offset`, without taking in the answer.
    fn fetch_at(&mut self, leader: i32, follower: i32, offset: i64) -> Result<(FetchedData, Effects), ReplicaError> {
        let reader = Reader::Follower { id: BrokerId(follower), epoch: broker_epoch(follower) };
        self.read(leader, reader, &request(offset, None, None))
    }

    fn read(
        &mut self,
        leader: i32,
        reader: Reader,
        request: &ReadRequest,
    ) -> Result<(FetchedData, Effects), ReplicaError> {
        let now = self.now;
        let node = self.node(leader);
        node.partition.fetch(now, &node.env, reader, request, true)
    }

    /// One fetch of `follower`, answer applied.
    fn replicate_once(&mut self, leader: i32, follower: i32) -> FetchOutcome {
        let asked = self.node(follower).partition.next_fetch().expect("the follower fetches");
        let state = self.node(follower).partition.fetch_state().unwrap().clone();
        let last_fetched = Some(state.last_fetched_epoch).filter(|e| *e != LeaderEpoch::NONE);
        let reader = Reader::Follower { id: BrokerId(follower), epoch: broker_epoch(follower) };
        let request = ReadRequest {
            last_fetched_epoch: last_fetched,
            current_leader_epoch: Some(asked.leader_epoch),
            log_start: self.node(follower).partition.log().log_start(),
            ..request(asked.offset.0, None, None)
        };
        let data = match self.read(leader, reader, &request) {
            Ok((data, _)) => LeaderData {
                error: None,
                high_watermark: data.high_watermark,
                log_start: data.log_start,
                diverging_epoch: data.diverging_epoch,
                records: data.records.into_bytes(),
            },
            Err(ReplicaError::Refused(error)) => refused(error),
            Err(ReplicaError::Io(error)) => panic!("{error}"),
        };
        self.answer(follower, asked, &data)
    }

    fn answer(&mut self, follower: i32, asked: AskedFetch, data: &LeaderData) -> FetchOutcome {
        let now = self.now;
        let node = self.node(follower);
        node.partition.on_fetch_response(now, &node.env, asked, data, 0).unwrap()
    }

    /// Fetches until there is nothing new.
    fn replicate(&mut self, leader: i32, follower: i32) {
        for _ in 0..20 {
            let outcome = self.replicate_once(leader, follower);
            if outcome == (FetchOutcome::Applied { appended: false, high_watermark_changed: false }) {
                return;
            }
        }
        panic!("the follower does not come to rest");
    }

    fn high_watermark(&mut self, id: i32) -> i64 {
        self.node(id).partition.log().high_watermark().0
    }

    fn log_end(&mut self, id: i32) -> i64 {
        self.node(id).partition.log().log_end().0
    }

    fn batches(&mut self, id: i32) -> Vec<BatchInfo> {
        self.node(id).partition.log().batches()
    }

    fn isr_state(&mut self, leader: i32) -> IsrState {
        self.node(leader).partition.isr_state().unwrap().clone()
    }

    fn shrink(&mut self, leader: i32) -> Option<IsrProposal> {
        let now = self.now;
        let node = self.node(leader);
        node.partition.maybe_shrink_isr(now, &node.env).isr_proposal
    }

    fn controller_answers(&mut self, leader: i32, proposal: &IsrProposal, result: AlterPartitionResult) -> Effects {
        let now = self.now;
        let node = self.node(leader);
        node.partition.on_alter_partition(now, &node.env, proposal.clone(), result)
    }

    /// The controller accepts the proposal.
    fn controller_accepts(&mut self, leader: i32, proposal: &IsrProposal) -> Effects {
        self.partition_epoch += 1;
        let committed = CommittedIsr {
            leader_epoch: proposal.leader_epoch,
            partition_epoch: PartitionEpoch(self.partition_epoch),
            isr: proposal.isr.iter().map(|(id, _)| *id).collect(),
        };
        self.controller_answers(leader, proposal, Ok(committed))
    }
}

fn request(offset: i64, current: Option<i32>, last_fetched: Option<i32>) -> ReadRequest {
    ReadRequest {
        offset: Offset(offset),
        current_leader_epoch: current.map(LeaderEpoch),
        last_fetched_epoch: last_fetched.map(LeaderEpoch),
        log_start: UNKNOWN_OFFSET,
        bytes_max: 1 << 20,
        at_least_one: true,
    }
}

fn refused(error: ErrorCode) -> LeaderData {
    LeaderData {
        error: Some(error),
        high_watermark: Offset(-1),
        log_start: Offset(-1),
        diverging_epoch: None,
        records: bytes::Bytes::new(),
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, ReplicaError>) -> ErrorCode {
    match result.unwrap_err() {
        ReplicaError::Refused(code) => code,
        ReplicaError::Io(error) => panic!("{error}"),
    }
}

#[test]
fn high_watermark_is_the_smallest_log_end_of_the_isr() {
    with_cluster(3, 1, |c| {
        c.elect(1, 0, &[1, 2, 3], &[1]);
        c.append(1, 5);
        c.fetch_at(1, 2, 5).unwrap();
        assert_eq!(c.high_watermark(1), 0);
        let (_, effects) = c.fetch_at(1, 3, 4).unwrap();
        assert!(effects.high_watermark_advanced);
        assert_eq!(c.high_watermark(1), 4);
    });
}

#[test]
fn leader_alone_in_the_isr_commits_at_once() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1], &[1]);
        c.now += LAG_TIME_MAX * 2;
        let append = c.try_append(1, -1).unwrap();
        assert!(append.high_watermark_advanced);
        assert_eq!(c.node(1).partition.acknowledgement(Offset(1)), Acknowledgement::Done);
    });
}

#[test]
fn high_watermark_counts_a_proposed_member_that_is_not_confirmed() {
    with_cluster(3, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1]);
        let (_, effects) = c.fetch_at(1, 3, 0).unwrap();
        let proposal = effects.isr_proposal.expect("replica 3 has caught up");
        assert_eq!(proposal.isr.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [1, 2, 3]);
        c.append(1, 10);
        c.now += LAG_TIME_MAX * 2;
        c.fetch_at(1, 2, 10).unwrap();
        assert_eq!(c.high_watermark(1), 0, "the controller may elect replica 3, which is empty");
        c.fetch_at(1, 3, 10).unwrap();
        assert_eq!(c.high_watermark(1), 10);
    });
}

#[test]
fn high_watermark_waits_for_a_proposed_removal_to_be_confirmed() {
    with_cluster(3, 1, |c| {
        c.elect(1, 0, &[1, 2, 3], &[1]);
        c.append(1, 5);
        c.now += LAG_TIME_MAX + Duration::from_millis(1);
        c.fetch_at(1, 2, 5).unwrap();
        let proposal = c.shrink(1).expect("replica 3 has not fetched");
        assert_eq!(proposal.isr, [(BrokerId(1), broker_epoch(1)), (BrokerId(2), broker_epoch(2))]);
        assert_eq!(c.high_watermark(1), 0, "replica 3 may still be elected");
        let effects = c.controller_accepts(1, &proposal);
        assert!(effects.high_watermark_advanced);
        assert_eq!(c.high_watermark(1), 5);
    });
}

#[test]
fn high_watermark_stands_still_under_min_insync_replicas() {
    with_cluster(3, 2, |c| {
        c.elect(1, 0, &[1], &[1]);
        c.append(1, 5);
        c.now += LAG_TIME_MAX * 2;
        assert_eq!(c.high_watermark(1), 0);
        assert_eq!(code(c.try_append(1, -1)), ErrorCode::NotEnoughReplicas);
        let (_, effects) = c.fetch_at(1, 2, 5).unwrap();
        let proposal = effects.isr_proposal.expect("replica 2 has caught up");
        assert_eq!(c.high_watermark(1), 0, "a proposed member does not make up the number");
        c.controller_accepts(1, &proposal);
        assert_eq!(c.high_watermark(1), 5);
    });
}

#[test]
fn min_insync_replicas_is_never_more_than_there_are_replicas() {
    with_cluster(2, 3, |c| {
        c.elect(1, 0, &[1, 2], &[1]);
        c.try_append(1, -1).unwrap();
        c.fetch_at(1, 2, 1).unwrap();
        assert_eq!(c.high_watermark(1), 1);
    });
}

#[test]
fn high_watermark_waits_for_a_follower_that_keeps_up_and_may_join() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1], &[1]);
        c.now += LAG_TIME_MAX * 2;
        c.append(1, 3);
        assert_eq!(c.high_watermark(1), 3);
        c.fetch_at(1, 2, 2).unwrap();
        c.append(1, 1);
        assert_eq!(c.high_watermark(1), 4, "it never was at the log end");
        let (_, effects) = c.fetch_at(1, 2, 3).unwrap();
        assert_eq!(effects.isr_proposal, None, "below the high watermark");
        c.append(1, 1);
        assert_eq!(c.high_watermark(1), 4, "at 3 it had all that the leader had at its fetch before");
        c.fetch_at(1, 2, 5).unwrap();
        assert_eq!(c.high_watermark(1), 5);
    });
}

#[test]
fn follower_joins_only_from_the_start_of_the_leader_epoch() {
    with_cluster(3, 2, |c| {
        c.elect(1, 0, &[1, 2], &[1, 2, 3]);
        c.node(1).env.image.brokers.get_mut(&BrokerId(3)).unwrap().fenced = true;
        c.append(1, 8);
        c.replicate(1, 3);
        c.append(1, 2);
        c.replicate(1, 2);
        assert_eq!(c.high_watermark(1), 10);
        // Replica 2 takes over and does not know yet that 10 is committed.
        c.node(2).partition.log_mut().set_high_watermark(Offset(7));
        c.elect(2, 1, &[1, 2], &[2]);
        let (_, effects) = c.fetch_at(2, 3, 8).unwrap();
        assert_eq!(effects.isr_proposal, None, "8 is above the high watermark, but 8 and 9 are committed");
        let (_, effects) = c.fetch_at(2, 3, 10).unwrap();
        assert!(effects.isr_proposal.is_some());
    });
}

#[test]
fn follower_below_the_high_watermark_does_not_join() {
    with_cluster(3, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1]);
        c.append(1, 5);
        c.now += LAG_TIME_MAX * 2;
        c.fetch_at(1, 2, 5).unwrap();
        assert_eq!(c.high_watermark(1), 5);
        assert_eq!(c.fetch_at(1, 3, 4).unwrap().1.isr_proposal, None);
        assert!(c.fetch_at(1, 3, 5).unwrap().1.isr_proposal.is_some());
    });
}

#[test]
fn only_replicas_that_the_metadata_trusts_join() {
    type Change = fn(&mut BrokerRegistration);
    let cases: [(&str, Change); 4] = [
        ("fenced", |b| b.fenced = true),
        ("shutting down", |b| b.in_controlled_shutdown = true),
        ("an epoch that we have not heard of yet", |b| b.epoch = BrokerEpoch(1)),
        ("unregistered", |b| b.id = BrokerId(99)),
    ];
    for (case, change) in cases {
        with_cluster(2, 1, |c| {
            c.elect(1, 0, &[1], &[1]);
            let brokers = &mut c.node(1).env.image.brokers;
            let mut registered = brokers.remove(&BrokerId(2)).unwrap();
            change(&mut registered);
            brokers.insert(registered.id, registered);
            assert_eq!(c.fetch_at(1, 2, 0).unwrap().1.isr_proposal, None, "{case}");
        });
    }
}

#[test]
fn progress_of_an_earlier_incarnation_is_refused() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1], &[1]);
        c.node(1).env.image.brokers.get_mut(&BrokerId(2)).unwrap().epoch = BrokerEpoch(500);
        assert_eq!(code(c.fetch_at(1, 2, 0)), ErrorCode::NotLeaderOrFollower);
        let reader = Reader::Follower { id: BrokerId(2), epoch: BrokerEpoch(500) };
        let proposal = c.read(1, reader, &request(0, None, None)).unwrap().1.isr_proposal.unwrap();
        assert_eq!(proposal.isr, [(BrokerId(1), broker_epoch(1)), (BrokerId(2), BrokerEpoch(500))]);
    });
}

#[test]
fn follower_of_a_busy_leader_stays_in_sync() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1]);
        for fetched in 0..10 {
            c.append(1, 1);
            // Never at the log end, always where that was one fetch ago.
            c.fetch_at(1, 2, fetched).unwrap();
            c.now += LAG_TIME_MAX / 3;
            assert_eq!(c.shrink(1), None);
        }
        c.append(1, 1);
        c.now += LAG_TIME_MAX * 2;
        assert!(c.shrink(1).is_some(), "it has stopped");
    });
}

#[test]
fn follower_at_the_log_end_stays_in_sync_however_long_it_is_silent() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1]);
        c.append(1, 1);
        c.fetch_at(1, 2, 1).unwrap();
        c.now += LAG_TIME_MAX * 10;
        assert_eq!(c.shrink(1), None);
    });
}

#[test]
fn new_leader_grants_the_isr_its_full_lag_time() {
    with_cluster(2, 1, |c| {
        c.now += LAG_TIME_MAX * 5;
        c.elect(1, 0, &[1, 2], &[1]);
        c.append(1, 1);
        c.now += LAG_TIME_MAX - Duration::from_millis(10);
        assert_eq!(c.shrink(1), None);
        c.now += Duration::from_millis(20);
        assert!(c.shrink(1).is_some());
    });
}

#[test]
fn new_leader_forgets_what_an_earlier_leadership_knew_of_followers() {
    with_cluster(3, 1, |c| {
        c.elect(1, 0, &[1, 2, 3], &[1]);
        c.append(1, 5);
        c.fetch_at(1, 2, 5).unwrap();
        c.fetch_at(1, 3, 5).unwrap();
        c.elect(2, 1, &[2, 3], &[1]);
        c.elect(1, 2, &[1, 2, 3], &[1]);
        c.append(1, 1);
        c.fetch_at(1, 2, 6).unwrap();
        assert_eq!(c.high_watermark(1), 5, "replica 3 may have truncated since");
    });
}

#[test]
fn controller_errors_leave_the_isr_as_strict_as_it_must_be() {
    use ErrorCode::*;
    let cases = [
        (OperationNotAttempted, "committed"),
        (IneligibleReplica, "committed"),
        (UnknownTopicOrPartition, "pending"),
        (UnknownTopicId, "pending"),
        (FencedLeaderEpoch, "pending"),
        (InvalidUpdateVersion, "pending"),
        (InvalidRequest, "pending"),
        (NewLeaderElected, "pending"),
        (UnknownServerError, "retry"),
        (RequestTimedOut, "retry"),
    ];
    for (error, expected) in cases {
        with_cluster(2, 1, |c| {
            c.elect(1, 0, &[1], &[1]);
            let proposal = c.fetch_at(1, 2, 0).unwrap().1.isr_proposal.unwrap();
            let effects = c.controller_answers(1, &proposal, Err(error));
            let is_pending = c.isr_state(1).in_flight().is_some();
            let outcome = match (is_pending, effects.isr_proposal) {
                (false, None) => "committed",
                (true, None) => "pending",
                (true, Some(again)) if again == proposal => "retry",
                (is_pending, again) => panic!("{error}: {is_pending}, {again:?}"),
            };
            assert_eq!(outcome, expected, "{error}");
        });
    }
}

#[test]
fn answer_to_a_proposal_that_metadata_has_overtaken_is_ignored() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1], &[1]);
        let proposal = c.fetch_at(1, 2, 0).unwrap().1.isr_proposal.unwrap();
        c.elect(1, 1, &[1], &[1]);
        c.controller_accepts(1, &proposal);
        assert_eq!(c.isr_state(1), IsrState::Committed(ids(&[1])));
    });
}

#[test]
fn older_metadata_than_the_controllers_answer_is_ignored() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1], &[1]);
        let stale = c.state(1, 0, &[1]);
        let proposal = c.fetch_at(1, 2, 0).unwrap().1.isr_proposal.unwrap();
        c.controller_accepts(1, &proposal);
        let now = c.now;
        let node = c.node(1);
        assert_eq!(node.partition.apply(now, &node.env, &stale).unwrap(), Transition::Stale);
        assert_eq!(c.isr_state(1), IsrState::Committed(ids(&[1, 2])));
    });
}

#[test]
fn acks_all_fails_when_the_isr_shrinks_below_the_minimum_after_the_append() {
    with_cluster(3, 2, |c| {
        c.elect(1, 0, &[1, 2], &[1]);
        c.try_append(1, -1).unwrap();
        c.now += LAG_TIME_MAX * 2;
        assert_eq!(c.node(1).partition.acknowledgement(Offset(1)), Acknowledgement::Waiting);
        let proposal = c.shrink(1).unwrap();
        c.controller_accepts(1, &proposal);
        assert_eq!(c.node(1).partition.acknowledgement(Offset(1)), Acknowledgement::Waiting);
        c.node(1).partition.log_mut().set_high_watermark(Offset(1));
        let too_few = Acknowledgement::Failed(ErrorCode::NotEnoughReplicasAfterAppend);
        assert_eq!(c.node(1).partition.acknowledgement(Offset(1)), too_few);
        c.elect(2, 1, &[2], &[1]);
        let moved = Acknowledgement::Failed(ErrorCode::NotLeaderOrFollower);
        assert_eq!(c.node(1).partition.acknowledgement(Offset(1)), moved);
    });
}

#[test]
fn readers_with_another_leader_epoch_are_turned_away() {
    with_cluster(2, 1, |c| {
        c.elect(1, 3, &[1, 2], &[1, 2]);
        c.append(1, 1);
        let consumer = Reader::Consumer { only_leader: false };
        assert_eq!(code(c.read(1, consumer, &request(0, Some(2), None))), ErrorCode::FencedLeaderEpoch);
        assert_eq!(code(c.read(1, consumer, &request(0, Some(4), None))), ErrorCode::UnknownLeaderEpoch);
        assert!(c.read(1, consumer, &request(0, Some(3), None)).is_ok());
        assert!(c.read(2, consumer, &request(0, Some(3), None)).is_ok(), "followers serve consumers too");
        let old_consumer = Reader::Consumer { only_leader: true };
        assert_eq!(code(c.read(2, old_consumer, &request(0, Some(3), None))), ErrorCode::NotLeaderOrFollower);
        let stranger = Reader::Follower { id: BrokerId(9), epoch: BrokerEpoch::NONE };
        assert_eq!(code(c.read(1, stranger, &request(0, Some(3), None))), ErrorCode::UnknownLeaderEpoch);
        assert_eq!(code(c.read(1, stranger, &request(0, None, None))), ErrorCode::NotLeaderOrFollower);
    });
}

#[test]
fn consumers_read_up_to_the_high_watermark_and_followers_beyond() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1]);
        c.append(1, 3);
        c.fetch_at(1, 2, 2).unwrap();
        let count = |data: &bytes::Bytes| crate::log::batch::split(data, true).unwrap().len();
        let consumer = Reader::Consumer { only_leader: true };
        assert_eq!(count(&c.read(1, consumer, &request(0, None, None)).unwrap().0.records.into_bytes()), 2);
        assert_eq!(count(&c.fetch_at(1, 2, 0).unwrap().0.records.into_bytes()), 3);
        assert!(c.read(1, consumer, &request(3, None, None)).unwrap().0.records.is_empty());
        assert_eq!(code(c.read(1, consumer, &request(4, None, None))), ErrorCode::OffsetOutOfRange);
    });
}

#[test]
fn end_of_the_partition_is_unknown_until_the_new_leader_has_caught_up_with_its_predecessor() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1, 2]);
        c.append(1, 5);
        c.replicate(1, 2);
        c.node(2).partition.log_mut().set_high_watermark(Offset(3));
        c.elect(2, 1, &[1, 2], &[1, 2]);
        let partition = &c.node(2).partition;
        assert_eq!(code(partition.latest_offset(None, true, true)), ErrorCode::OffsetNotAvailable);
        assert_eq!(code(partition.offset_for_timestamp(i64::MAX, None, true, true)), ErrorCode::OffsetNotAvailable);
        assert_eq!(partition.latest_offset(None, false, true).unwrap().offset, Offset(5), "a replica sees all");
        assert_eq!(partition.earliest_offset(None, true).unwrap().offset, Offset(0));
        c.fetch_at(2, 1, 5).unwrap();
        assert_eq!(c.node(2).partition.latest_offset(None, true, true).unwrap().offset, Offset(5));
    });
}

#[test]
fn truncation_goes_to_where_the_logs_part() {
    // Epochs (epoch, start) of the follower, its log end, the leader's (epoch, end), where to cut.
    type Case = (&'static [(i32, i64)], i64, (i32, i64), i64, &'static str);
    let cases: [Case; 6] = [
        (&[(0, 0), (1, 5)], 9, (0, 7), 5, "ours of epoch 0 ends first"),
        (&[(0, 0), (2, 7)], 9, (0, 5), 5, "the leader's of epoch 0 ends first"),
        (&[(0, 0), (1, 5), (3, 8)], 9, (2, 7), 8, "epoch 2 unknown to us: the end of our epoch 1"),
        (&[(0, 0)], 4, (0, 9), 4, "never beyond our end"),
        (&[(5, 3)], 9, (-1, 7), 7, "a leader that does not know epochs"),
        (&[(5, 3)], 9, (3, -1), 2, "a leader without an epoch as old: the high watermark"),
    ];
    for (epochs, log_end, (leader_epoch, leader_end), expected, why) in cases {
        with_cluster(1, 1, |c| {
            let log = c.node(1).partition.log_mut();
            for (at, (epoch, start)) in epochs.iter().enumerate() {
                let end = epochs.get(at + 1).map_or(log_end, |next| next.1);
                if at == 0 {
                    log.truncate_fully_and_start_at(Offset(*start)).unwrap();
                }
                while log.log_end() < Offset(end) {
                    log.append_as_leader(&batch_of(1, 1, 0), LeaderEpoch(*epoch), 0).unwrap();
                }
            }
            let to = truncation_offset(
                log.epochs(),
                log.log_end(),
                Offset(2),
                LeaderEpoch(leader_epoch),
                Offset(leader_end),
            );
            assert_eq!(to, Offset(expected), "{why}");
        });
    }
}

/// KIP-101, scenario 1: everything is on all three, only the leader knows it is committed.
#[test]
fn new_follower_does_not_truncate_to_its_high_watermark() {
    with_cluster(3, 2, |c| {
        c.elect(1, 0, &[1, 2, 3], &[1, 2, 3]);
        c.append(1, 2);
        for follower in [2, 3] {
            c.replicate_once(1, follower);
        }
        assert_eq!((c.log_end(3), c.high_watermark(3)), (2, 0));
        c.elect(2, 1, &[2, 3], &[2, 3]);
        c.replicate_once(2, 3);
        c.elect(3, 2, &[3], &[3]);
        assert_eq!(c.log_end(3), 2, "an acknowledged record was truncated");
    });
}

/// KIP-101, scenario 2: two replicas with different records at one offset.
#[test]
fn divergent_tail_is_cut_at_the_end_of_the_shared_epoch() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1, 2]);
        c.append(1, 2);
        c.replicate(1, 2);
        c.append(1, 3);
        c.elect(2, 1, &[2], &[2]);
        c.append(2, 1);
        c.elect(2, 2, &[2], &[1, 2]);
        c.replicate(2, 1);
        assert_eq!(c.batches(1), c.batches(2));
        let observed = c.node(1).observed.lock().unwrap().clone();
        let cut = Observation::Truncated {
            partition: orders(),
            from: Offset(5),
            to: Offset(2),
            reason: TruncationReason::DivergingEpoch,
        };
        assert!(observed.contains(&cut), "{observed:?}");
    });
}

/// KIP-279 (KAFKA-6361): leadership goes back and forth, each time without the other.
#[test]
fn logs_converge_after_fast_leader_changes() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1, 2]);
        c.append(1, 1);
        c.replicate(1, 2);
        for (epoch, leader, records) in [(1, 2, 1), (2, 1, 3), (3, 2, 1), (4, 1, 2)] {
            c.elect(leader, epoch, &[leader], &[leader]);
            c.append(leader, records);
        }
        c.elect(1, 5, &[1], &[1, 2]);
        c.replicate(1, 2);
        assert_eq!(c.batches(1), c.batches(2));
    });
}

/// Leaders that never wrote leave epochs without records, on both sides.
#[test]
fn logs_converge_when_leaders_came_and_went_without_a_record() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1, 2]);
        c.append(1, 1);
        c.replicate(1, 2);
        c.elect(2, 1, &[2], &[2]);
        c.elect(1, 2, &[1], &[1]);
        c.append(1, 1);
        c.elect(2, 3, &[2], &[2]);
        c.elect(1, 4, &[1], &[1, 2]);
        c.replicate(1, 2);
        assert_eq!(c.batches(1), c.batches(2));
    });
}

/// KAFKA-7164: the follower missed the epoch in which its record was truncated elsewhere.
#[test]
fn follower_that_missed_an_epoch_truncates_although_its_leader_is_the_same() {
    with_cluster(3, 1, |c| {
        c.elect(1, 0, &[1, 2, 3], &[1, 2, 3]);
        c.append(1, 1);
        c.replicate_once(1, 3);
        c.elect(2, 1, &[1, 2], &[1, 2]);
        c.replicate(2, 1);
        assert_eq!(c.log_end(1), 0);
        c.elect(1, 2, &[1], &[1]);
        c.append(1, 1);
        c.elect(1, 2, &[1], &[1, 3]);
        c.replicate(1, 3);
        assert_eq!(c.batches(3), c.batches(1));
    });
}

#[test]
fn answer_to_an_old_question_is_ignored() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1, 2]);
        c.append(1, 1);
        let (data, _) = c.fetch_at(1, 2, 0).unwrap();
        let data = LeaderData {
            error: None,
            high_watermark: Offset(1),
            log_start: Offset(0),
            diverging_epoch: None,
            records: data.records.into_bytes(),
        };
        let asked = c.node(2).partition.next_fetch().unwrap();
        c.elect(1, 1, &[1, 2], &[1, 2]);
        assert_eq!(c.answer(2, asked, &data), FetchOutcome::Ignored, "the leader epoch has changed");
        c.replicate(1, 2);
        let behind = AskedFetch { leader_epoch: LeaderEpoch(1), offset: Offset(0) };
        assert_eq!(c.answer(2, behind, &data), FetchOutcome::Ignored, "the offset has moved on");
        assert_eq!(c.log_end(2), 1);
    });
}

#[test]
fn fenced_follower_rests_until_the_next_leader_epoch() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1, 2]);
        c.elect(1, 1, &[1, 2], &[1]);
        assert_eq!(c.replicate_once(1, 2), FetchOutcome::Failed);
        assert_eq!(c.node(2).partition.next_fetch(), None);
        c.elect(1, 1, &[1, 2], &[2]);
        c.append(1, 1);
        c.replicate(1, 2);
        assert_eq!(c.log_end(2), 1);
    });
}

#[test]
fn follower_ahead_of_its_leader_retries_until_the_leader_knows_the_epoch() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1, 2]);
        c.elect(1, 1, &[1, 2], &[2]);
        assert_eq!(c.replicate_once(1, 2), FetchOutcome::Retry);
        let (now, later) = (c.now, c.now + Duration::from_secs(1));
        let partition = &mut c.node(2).partition;
        partition.delay_fetching(later);
        partition.end_delay(now);
        assert_eq!(partition.next_fetch(), None);
        partition.end_delay(later);
        assert!(partition.next_fetch().is_some());
    });
}

#[test]
fn follower_off_the_leaders_log_goes_where_the_leader_is() {
    let asked = |offset: i64| AskedFetch { leader_epoch: LeaderEpoch(1), offset: Offset(offset) };
    let bounds = |start: i64, end: i64| LeaderOffsets { log_start: Offset(start), log_end: Offset(end) };
    for (leader, expected) in [(bounds(0, 3), (0, 3)), (bounds(8, 9), (8, 8)), (bounds(2, 9), (0, 5))] {
        with_cluster(2, 1, |c| {
            c.elect(1, 0, &[1, 2], &[1, 2]);
            c.append(1, 5);
            c.replicate(1, 2);
            c.elect(1, 1, &[1, 2], &[2]);
            let out_of_range = refused(ErrorCode::OffsetOutOfRange);
            assert_eq!(c.answer(2, asked(5), &out_of_range), FetchOutcome::OutOfRange);
            assert_eq!(c.node(2).partition.next_fetch(), None, "not before the leader's offsets are known");
            let now = c.now;
            let node = c.node(2);
            let outcome = node.partition.on_leader_offsets(now, &node.env, asked(5), leader).unwrap();
            assert_eq!(outcome, FetchOutcome::Truncated);
            let log = node.partition.log();
            assert_eq!((log.log_start().0, log.log_end().0), expected, "{leader:?}");
            let offset = log.high_watermark();
            let told = Observation::HighWatermark { partition: orders(), offset, as_leader: false };
            let is_told = node.observed.lock().unwrap().contains(&told);
            assert_eq!(is_told, expected == (8, 8), "the high watermark goes where an empty log begins");
            assert_eq!(node.partition.next_fetch(), Some(asked(expected.1)));
        });
    }
}

#[test]
fn followers_high_watermark_follows_the_leaders_even_backwards() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1, 2]);
        c.append(1, 4);
        c.replicate(1, 2);
        // The answer to the fetch that commits still carries the old high watermark.
        c.replicate(1, 2);
        assert_eq!(c.high_watermark(2), 4);
        let asked = c.node(2).partition.next_fetch().unwrap();
        let answer = |high_watermark| LeaderData {
            error: None,
            high_watermark: Offset(high_watermark),
            log_start: Offset(0),
            diverging_epoch: None,
            records: bytes::Bytes::new(),
        };
        c.answer(2, asked, &answer(2));
        assert_eq!(c.high_watermark(2), 2);
        c.answer(2, asked, &answer(9));
        assert_eq!(c.high_watermark(2), 4, "not beyond our own log end");
    });
}

#[test]
fn waiting_fetch_is_decided_by_data_leadership_and_divergence() {
    with_cluster(2, 1, |c| {
        c.elect(1, 0, &[1, 2], &[1, 2]);
        c.append(1, 2);
        let follower = Reader::Follower { id: BrokerId(2), epoch: broker_epoch(2) };
        let consumer = Reader::Consumer { only_leader: true };
        let at = |offset| request(offset, Some(0), None);
        let progress =
            |c: &mut Cluster, reader, request: &ReadRequest| c.node(1).partition.fetch_progress(reader, request, 1);
        assert_eq!(progress(c, follower, &at(2)), FetchProgress::Bytes(0));
        assert_eq!(progress(c, follower, &at(1)), FetchProgress::Bytes(1));
        assert_eq!(progress(c, consumer, &at(0)), FetchProgress::Bytes(0), "nothing is committed");
        assert_eq!(progress(c, follower, &at(3)), FetchProgress::Decided);
        assert_eq!(progress(c, follower, &request(2, Some(0), Some(5))), FetchProgress::Decided);
        let two = c.node(1).partition.fetch_progress(follower, &at(0), 1_000);
        assert_eq!(two, FetchProgress::Bytes(c.node(1).partition.log().size_bytes() as usize));
        c.elect(2, 1, &[1, 2], &[1]);
        assert_eq!(progress(c, follower, &at(2)), FetchProgress::Decided);
    });
}
