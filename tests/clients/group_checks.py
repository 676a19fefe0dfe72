"""Consumer groups of kafka-python and confluent-kafka against `faultline serve` (address in $BROKER)."""

import os
import threading
import time

from confluent_kafka import Consumer as ConfluentConsumer
from confluent_kafka import Producer as ConfluentProducer
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.structs import OffsetAndMetadata

BROKER = os.environ["BROKER"]


def until(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def produce(topic, count, start=0):
    producer = KafkaProducer(bootstrap_servers=BROKER)
    for i in range(start, start + count):
        producer.send(topic, str(i).encode())
    producer.flush()
    producer.close()


class Member(threading.Thread):
    """A consumer of a group that polls until it is stopped."""

    def __init__(self, topic, group, **config):
        super().__init__(daemon=True)
        self.consumer = KafkaConsumer(
            topic, bootstrap_servers=BROKER, group_id=group, auto_offset_reset="earliest",
            heartbeat_interval_ms=200, session_timeout_ms=6000, metadata_max_age_ms=1000, **config,
        )
        # A kafka-python leader that joins before it knows the topic joins again at once, and is never assigned anything
        # if its poll times out just then.
        assert self.consumer.partitions_for_topic(topic)
        self.values, self.assigned, self.running = [], set(), True
        self.start()

    def run(self):
        while self.running:
            for records in self.consumer.poll(timeout_ms=350).values():
                self.values += [int(record.value) for record in records]
            self.assigned = self.consumer.assignment()
        self.consumer.close()

    def stop(self):
        self.running = False
        self.join(timeout=30)


def partitions_move_between_members():
    KafkaAdminClient(bootstrap_servers=BROKER).create_topics([NewTopic("shared", 4, 1)])
    produce("shared", 100)
    one = Member("shared", "sharing")
    until(lambda: len(one.assigned) == 4, "the only member owns everything")
    until(lambda: sorted(one.values) == list(range(100)), "it has read everything")
    two = Member("shared", "sharing")
    until(lambda: len(one.assigned) == len(two.assigned) == 2, "two members share")
    assert not one.assigned & two.assigned, (one.assigned, two.assigned)
    produce("shared", 100, start=100)
    until(lambda: sorted(one.values + two.values) == list(range(200)), "everything is read once")
    one.stop()
    until(lambda: len(two.assigned) == 4, "who stays takes over")
    two.stop()
    print("ok: kafka-python members share partitions, and take over from who leaves")


def cooperative_members_keep_what_they_can():
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor as Sticky

    KafkaAdminClient(bootstrap_servers=BROKER).create_topics([NewTopic("cooperative", 4, 1)])
    produce("cooperative", 40)
    members = [Member("cooperative", "cooperating", partition_assignment_strategy=[Sticky]) for _ in range(2)]
    until(lambda: sorted(len(m.assigned) for m in members) == [2, 2], "two cooperative members share")
    until(lambda: sorted(members[0].values + members[1].values) == list(range(40)), "everything is read once")
    for member in members:
        member.stop()
    print("ok: kafka-python members with the cooperative-sticky assignor")


def offsets_are_committed_and_fetched():
    partition = TopicPartition("offsets", 0)
    produce("offsets", 10)
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id="by-hand", enable_auto_commit=False)
    consumer.assign([partition])
    assert consumer.committed(partition) is None
    consumer.commit({partition: OffsetAndMetadata(7, "a note", -1)})
    consumer.close()
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id="by-hand", enable_auto_commit=False)
    consumer.assign([partition])
    assert consumer.committed(partition) == 7
    assert int(next(consumer).value) == 7
    consumer.close()
    print("ok: kafka-python commits by hand and goes on from there")


def a_static_member_comes_back_without_a_rebalance():
    produce("static", 5)
    member = Member("static", "fixed", group_instance_id="member-1")
    until(lambda: member.assigned, "a static member is assigned")
    generation = member.consumer._coordinator._generation.generation_id
    member.stop()
    member = Member("static", "fixed", group_instance_id="member-1")
    until(lambda: member.assigned, "it is assigned again")
    assert member.consumer._coordinator._generation.generation_id == generation
    member.stop()
    print("ok: a static member of kafka-python comes back in the same generation")


def groups_are_listed_described_and_deleted():
    admin = KafkaAdminClient(bootstrap_servers=BROKER)
    listed = {group["group_id"] if isinstance(group, dict) else group[0] for group in admin.list_groups()}
    assert {"sharing", "by-hand", "fixed"} <= listed, listed
    described = admin.describe_groups(["sharing"])
    assert "Empty" in str(described), described
    admin.delete_groups(["sharing"])
    listed = {group["group_id"] if isinstance(group, dict) else group[0] for group in admin.list_groups()}
    assert "sharing" not in listed, listed
    admin.close()
    print("ok: kafka-python lists, describes and deletes groups")


def confluent_subscribes():
    producer = ConfluentProducer({"bootstrap.servers": BROKER, "enable.idempotence": True})
    for i in range(20):
        producer.produce("confluent", str(i).encode())
    assert producer.flush(20) == 0
    config = {"bootstrap.servers": BROKER, "group.id": "confluent", "auto.offset.reset": "earliest"}
    for strategy in ("range", "cooperative-sticky"):
        group = {**config, "group.id": f"confluent-{strategy}", "partition.assignment.strategy": strategy}
        seen = []
        for attempt in range(2):
            consumer = ConfluentConsumer(group)
            consumer.subscribe(["confluent"])
            deadline = time.monotonic() + (20 if attempt == 0 else 4)
            read = []
            while time.monotonic() < deadline and len(read) < 20:
                message = consumer.poll(0.5)
                if message is not None:
                    assert message.error() is None, message.error()
                    read.append(int(message.value()))
            consumer.close()
            seen.append(sorted(read))
        assert seen == [list(range(20)), []], (strategy, seen)
    print("ok: confluent-kafka subscribes, commits on close and goes on from there")


partitions_move_between_members()
cooperative_members_keep_what_they_can()
offsets_are_committed_and_fetched()
a_static_member_comes_back_without_a_rebalance()
groups_are_listed_described_and_deleted()
confluent_subscribes()
