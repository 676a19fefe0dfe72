//! The defects, one entry each: what it is called, what it does, where it comes from.

/// A defect that can be switched on.
macro_rules! catalogue {
    ($($(#[$doc:meta])* $variant:ident = $name:literal { sentence: $sentence:literal, source: $source:literal, scenario: $scenario:expr })*) => {
        /// A defect that can be switched on; [`Defect::sentence`] says what it does. Named as in the TLA+ specifications and
        /// JIRA issues that they come from, with hyphens.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Defect {
            $($(#[$doc])* $variant),*
        }

        impl Defect {
            /// Every defect, in the order of the decisions that they spoil: replication, controller, broker, disk, groups, consumer, producer.
            pub const ALL: &'static [Defect] = &[$(Defect::$variant),*];

            /// As scenarios write it.
            pub const fn name(self) -> &'static str {
                match self { $(Defect::$variant => $name),* }
            }

            /// What goes wrong, in one sentence.
            pub const fn sentence(self) -> &'static str {
                match self { $(Defect::$variant => $sentence),* }
            }

            /// The KIP, JIRA issue, specification or class that has the rule.
            pub const fn source(self) -> &'static str {
                match self { $(Defect::$variant => $source),* }
            }

            /// The stem of the file in `scenarios/` that shows it; `None` while only a search finds it.
            pub const fn scenario(self) -> Option<&'static str> {
                match self { $(Defect::$variant => $scenario),* }
            }
        }
    };
}

catalogue! {
    TruncateToHw = "truncate-to-hw" {
        sentence: "A follower of a new leader cuts its log at its own high watermark instead of where its leader's epoch ends.",
        source: "KIP-101 scenarios 1 and 2, KAFKA-1211; KafkaTruncateToHighWatermark.tla",
        scenario: Some("truncation_to_the_high_watermark_loses_what_was_committed")
    }
    OfleV0 = "ofle-v0" {
        sentence: "The leader tells a diverging follower an end offset without the epoch that it belongs to, and the follower cuts there.",
        source: "KIP-279, KAFKA-6361: OffsetsForLeaderEpoch v0; Kip101.tla",
        scenario: Some("an_epoch_without_its_end_hides_where_two_logs_part")
    }
    SkipTruncationIfSameLeader = "skip-truncation-if-same-leader" {
        sentence: "A follower that sees the leader that it had in a later epoch fetches on from its log end without finding where the logs part.",
        source: "KAFKA-7164",
        scenario: Some("a_follower_that_missed_an_epoch_of_its_leader_diverges")
    }
    FetchNoEpochCheck = "fetch-no-epoch-check" {
        sentence: "A leader serves fetches, and counts them, whatever leader epoch the follower believes in.",
        source: "KIP-320, KAFKA-6880, KAFKA-7395; Kip320FirstTry.tla",
        scenario: Some("a_replica_that_fetches_in_an_old_epoch_diverges")
    }
    HwIsrCommitted = "hw-isr-committed" {
        sentence: "The high watermark is the smallest log end of the committed ISR; one that has been proposed for it, or is about to be, does not count.",
        source: "KIP-497; AsyncIsr.tla; Partition.maybeIncrementLeaderHW",
        scenario: Some("a_replica_that_is_about_to_join_the_isr_counts")
    }
    HwIsrBeforeCommit = "hw-isr-before-commit" {
        sentence: "A replica that the leader has proposed to remove from the ISR no longer holds the high watermark back, although the controller may still elect it.",
        source: "KIP-497: a pending removal; PendingShrinkIsr.maximalIsr",
        scenario: Some("an_isr_that_shrinks_before_the_controller_agrees_acknowledges_alone")
    }
    EqualEpochDropsPending = "equal-epoch-drops-pending" {
        sentence: "A leader that hears from the metadata log what AlterPartition has already told it forgets the ISR that it has proposed since.",
        source: "Partition.makeLeader as Kafka has it (trunk of October 2024): partition epochs that are equal are applied",
        scenario: Some("old_news_of_the_isr_do_not_undo_a_proposal")
    }
    HwFromLeaderLogEnd = "hw-from-leader-log-end" {
        sentence: "The leader takes its own log end for the high watermark.",
        source: "single-guard mutation of Partition.maybeIncrementLeaderHW",
        scenario: Some("acks_all_answered_early_is_acks_1")
    }
    IgnoreMinIsr = "ignore-min-isr" {
        sentence: "The leader accepts, commits and acknowledges acks=all writes although the ISR is smaller than min.insync.replicas.",
        source: "single-guard mutation of Partition.effectiveMinIsr; KIP-966, strict min ISR",
        scenario: Some("min_insync_replicas_keeps_acks_all_safe_from_an_unclean_election")
    }
    IsrNoLeso = "isr-no-leso" {
        sentence: "A follower joins the ISR once it reached the high watermark, although it lacks records from before the leader's epoch.",
        source: "KAFKA-7128; Kip320.tla note 4; kafka-tlaplus v3_5 CHECK line 528",
        scenario: Some("a_follower_below_the_start_of_the_leader_epoch_may_not_join")
    }
    IsrJoinBelowHw = "isr-join-below-hw" {
        sentence: "A follower joins the ISR although its log ends below the high watermark.",
        source: "kafka-tlaplus v3_5 CHECK line 526; Partition.isFollowerInSync",
        scenario: Some("a_replica_below_the_high_watermark_may_not_join_the_isr")
    }
    KeepOldFollowerState = "keep-old-follower-state" {
        sentence: "A new leader goes on with what it knew of its followers when it led before.",
        source: "kafka-tlaplus v3_5 CHECK line 346; Replica.resetReplicaState",
        scenario: Some("what_a_leader_knew_of_its_followers_ends_with_its_leadership")
    }
    KeepOldFetchSession = "keep-old-fetch-session" {
        sentence: "A follower in a new leader epoch takes the answer to the fetch that it sent in the old one.",
        source: "kafka-tlaplus v3_5 CHECK line 281",
        scenario: Some("an_answer_to_a_fetch_of_the_old_epoch_is_no_answer")
    }
    AcceptStaleFetchResponse = "accept-stale-fetch-response" {
        sentence: "A follower appends an answer whose offset is not that of its log end any more.",
        source: "kafka-tlaplus v3_5 CHECK lines 1022-1023; AbstractFetcherThread.processFetchRequest",
        scenario: Some("an_answer_to_a_fetch_from_another_offset_is_no_answer")
    }
    NoLastFetchedEpoch = "no-last-fetched-epoch" {
        sentence: "A follower does not say which epoch its last record has, so that the leader cannot see where the logs part; only a log that is too long is cut.",
        source: "KIP-595, truncation on fetch: lastFetchedEpoch taken away",
        scenario: Some("two_histories_meet_below_a_high_watermark")
    }
    NoBrokerEpochInIsr = "no-broker-epoch-in-isr" {
        sentence: "The controller takes a replica into the ISR that has started anew since the leader saw it caught up.",
        source: "KIP-903, KAFKA-14139; kafka-tlaplus functions CHECK line 449",
        scenario: Some("a_proposal_for_a_replica_that_has_started_anew_is_refused")
    }
    IsrCheckTwoReads = "isr-check-two-reads" {
        sentence: "The leader tests one incarnation of a follower and proposes another: it reads the follower's broker epoch anew after the test.",
        source: "KAFKA-15221",
        scenario: Some("a_late_fetch_of_an_earlier_incarnation_proves_nothing")
    }
    NoPartitionEpoch = "no-partition-epoch" {
        sentence: "The controller applies an AlterPartition whatever partition epoch it was made for.",
        source: "kafka-tlaplus functions CHECK line 459; KIP-497",
        scenario: Some("an_isr_proposed_for_another_state_is_refused")
    }
    ElectOutsideIsr = "elect-outside-isr" {
        sentence: "The controller elects any live replica when no in-sync one is left, whatever unclean.leader.election.enable says.",
        source: "single-guard mutation of PartitionChangeBuilder",
        scenario: Some("an_election_outside_the_isr_without_leave_loses")
    }
    AcceptStaleRegistration = "accept-stale-registration" {
        sentence: "The controller takes a registration that the broker's next incarnation has overtaken, and the living one is left with a broker epoch that is over.",
        source: "kafka-tlaplus v3_5 CHECK line 157; KIP-631 incarnation ids",
        scenario: Some("a_registration_that_was_overtaken_locks_a_broker_out")
    }
    MetadataNoFsync = "metadata-no-fsync" {
        sentence: "The controller answers before its metadata log is on the disk, and after a power loss decides anew under epochs that were used before.",
        source: "single-guard mutation of KafkaRaftClient.flushLeaderLog",
        scenario: Some("a_controller_that_answers_before_it_syncs_takes_back_what_it_said")
    }
    ReadHwTwice = "read-hw-twice" {
        sentence: "A fetch tests one bound and reads up to another: a consumer is served what no high watermark covers.",
        source: "KAFKA-9835, KAFKA-9807",
        scenario: Some("a_consumer_is_served_what_only_the_leader_has")
    }
    ListoffsetsRawHw = "listoffsets-raw-hw" {
        sentence: "A new leader answers ListOffsets with a high watermark that its predecessor's was already beyond.",
        source: "KIP-207",
        scenario: Some("the_end_of_a_partition_does_not_go_back")
    }
    AckAfterLeader = "ack-after-leader" {
        sentence: "The broker answers acks=all as soon as the leader has appended.",
        source: "single-guard mutation of ReplicaManager.appendRecords",
        scenario: Some("acks_all_answered_early_is_acks_1")
    }
    AckFromDeposedLeader = "ack-from-deposed-leader" {
        sentence: "A leader that has been deposed answers the acks=all requests that still wait with success.",
        source: "single-guard mutation of DelayedProduce.tryComplete",
        scenario: Some("a_deposed_leader_may_not_acknowledge_what_waits")
    }
    DeleteMarkerLate = "delete-marker-late" {
        sentence: "The clean-shutdown marker is deleted only when the broker next writes a checkpoint: a crash before that is taken for an orderly stop.",
        source: "KAFKA-10471",
        scenario: Some("a_marker_of_an_orderly_stop_that_stays_passes_a_torn_log_off_as_whole")
    }
    TrustTimeindexTail = "trust-timeindex-tail" {
        sentence: "The time index found on disk is believed without being held against the log: its last entry decides when retention deletes the segment.",
        source: "KAFKA-10207, KAFKA-4734, KIP-263",
        scenario: Some("a_rotten_time_index_deletes_what_all_had_acknowledged")
    }
    DeleteHorizonByMtime = "delete-horizon-by-mtime" {
        sentence: "Compaction drops a tombstone once the last clean segment's file is delete.retention.ms younger than the tombstone's, however short ago it saw it first.",
        source: "KIP-534, KAFKA-8522, KAFKA-4545; Cleaner.doClean, legacyDeleteHorizonMs",
        scenario: Some("a_tombstone_dated_by_its_segments_file_goes_before_its_time")
    }
    EpochCheckpointNoFsync = "epoch-checkpoint-no-fsync" {
        sentence: "leader-epoch-checkpoint is replaced without fsync.",
        source: "KAFKA-15046, KAFKA-16541",
        scenario: Some("epochs_that_were_never_synced_hide_where_two_logs_part")
    }
    KeepTornTail = "keep-torn-tail" {
        sentence: "Recovery keeps what lies in the file up to the first batch that is not whole, without checking a CRC.",
        source: "LogSegment.recover without its CRC check",
        scenario: Some("recovery_keeps_only_what_its_crc_vouches_for")
    }
    FlushNoFsync = "flush-no-fsync" {
        sentence: "A flush of a log counts as done without fsync.",
        source: "failure zoo D5: a disk that lies; Log.flush",
        scenario: Some("flush_messages_1_is_worth_what_fsync_is")
    }
    TruncationNoFsync = "truncation-no-fsync" {
        sentence: "A truncation is not made durable, and after a power loss the tail is back under a newer epoch.",
        source: "single-guard mutation of UnifiedLog.truncateTo",
        scenario: Some("a_truncated_tail_comes_back_with_the_power")
    }
    AppendUnchecked = "append-unchecked" {
        sentence: "A follower appends what its leader sends without checking the CRC.",
        source: "single-guard mutation of UnifiedLog.analyzeAndValidateRecords",
        scenario: Some("a_follower_does_not_copy_what_its_crc_disowns")
    }
    ServeCorruptBatch = "serve-corrupt-batch" {
        sentence: "A consumer hands out the records of a batch without checking its CRC.",
        source: "single-guard mutation of CompletedFetch.maybeEnsureValid (check.crcs)",
        scenario: Some("a_consumer_hands_out_no_batch_that_rotted")
    }
    StaticRejoinNoRebalance = "static-rejoin-no-rebalance" {
        sentence: "A static member that comes back while its group waits for the assignment is let in without a rebalance; the leader assigns to its old id, and it gets nothing.",
        source: "KAFKA-9801",
        scenario: Some("a_static_member_that_comes_back_into_a_rebalance_gets_its_share")
    }
    OwnedPartitionsNoGeneration = "owned-partitions-no-generation" {
        sentence: "A member that has fallen out of its group goes on claiming what it owned, and the sticky assignors believe the claim, however old it is.",
        source: "KAFKA-12984, KAFKA-13419, KAFKA-15170; KIP-792",
        scenario: Some("a_member_that_was_away_too_long_owns_nothing_any_more")
    }
    HeartbeatCompletesSyncTimer = "heartbeat-completes-sync-timer" {
        sentence: "A heartbeat counts as the SyncGroup that a coordinator waits for: a member that never sends one holds up its group for ever.",
        source: "KAFKA-12890",
        scenario: Some("a_member_that_never_sends_its_assignment_is_out_after_the_rebalance_timeout")
    }
    OffsetExpiryByCommit = "offset-expiry-by-commit" {
        sentence: "A committed offset expires offsets.retention.minutes after its commit, although the group is at work.",
        source: "KIP-211, KAFKA-4682",
        scenario: Some("a_group_at_work_keeps_its_offsets_however_old_they_are")
    }
    ExpireDuringRebalance = "expire-during-rebalance" {
        sentence: "While a group rebalances, offsets expire of topics that its new members are about to subscribe to.",
        source: "KAFKA-13636",
        scenario: Some("offsets_do_not_expire_while_a_group_gathers")
    }
    RejoinStaysFenced = "rejoin-stays-fenced" {
        sentence: "Under the consumer protocol a member that joins again with epoch 0 is fenced as long as the coordinator knows it in a later one.",
        source: "KAFKA-19233",
        scenario: Some("a_member_whose_leave_was_lost_joins_again_at_once")
    }
    FollowerOutOfRangeResets = "follower-out-of-range-resets" {
        sentence: "A consumer that fetches from a follower takes the follower's OFFSET_OUT_OF_RANGE for the leader's, and resets its position.",
        source: "KIP-392, FetchCollector.handleInitializeErrors; librdkafka does so below the follower's log start",
        scenario: Some("a_followers_log_start_is_not_the_leaders")
    }
    ProducerStateDropsWithRecords = "producer-state-drops-with-records" {
        sentence: "A broker forgets a producer when its last record leaves the log, and answers the producer's next batch with UNKNOWN_PRODUCER_ID.",
        source: "KIP-360, KAFKA-7190: ProducerStateManager.truncateHead until 2.5",
        scenario: Some("a_producer_is_known_longer_than_its_records_are_kept")
    }
    NoDuplicateDetection = "no-duplicate-detection" {
        sentence: "A leader does not look for a producer's batch among its last five, and refuses a retry as out of order.",
        source: "single-guard mutation of UnifiedLog.analyzeAndValidateProducerState (KIP-98)",
        scenario: Some("a_lost_acknowledgement_makes_a_duplicate_unless_the_leader_knows_the_batch_again")
    }
    SequencesRestartInTheSameEpoch = "sequences-restart-in-the-same-epoch" {
        sentence: "An idempotent producer that has lost track begins its sequences anew without bumping its epoch.",
        source: "KIP-360, before which Sender.reset kept the epoch",
        scenario: Some("an_idempotent_producer_goes_on_over_a_gap_that_it_never_tells")
    }
    SequencesReassignedUnordered = "sequences-reassigned-unordered" {
        sentence: "An idempotent producer that begins anew numbers its batches in flight in the order of a heap instead of that of their sequences.",
        source: "KAFKA-8483",
        scenario: Some("what_is_in_flight_keeps_its_order_in_a_new_producer_epoch")
    }
    RetryUnordered = "retry-unordered" {
        sentence: "A producer with one request in flight puts a batch to be retried behind the batches that wait.",
        source: "RecordAccumulator.reenqueue; P1, taken to max.in.flight.requests.per.connection=1",
        scenario: Some("one_request_in_flight_keeps_the_order_of_retries")
    }
    RetryForgetsAttempts = "retry-forgets-attempts" {
        sentence: "A producer reports a batch as definitely failed when its last attempt was, although an earlier one may be in the log.",
        source: "Jepsen's distinction of fail and info; KAFKA-14034's neighbour",
        scenario: Some("a_send_has_failed_only_if_every_attempt_has")
    }
    AckBeforeAppend = "ack-before-append" {
        sentence: "A producer reports a record as acknowledged once its request is written to the network.",
        source: "acks=0, sold as acks=1 and acks=all",
        scenario: Some("acks_all_answered_early_is_acks_1")
    }
}
