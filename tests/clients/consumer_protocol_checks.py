"""Consumer groups of KIP-848 (librdkafka, group.protocol=consumer) against `faultline serve` (address in $BROKER)."""

import os
import threading
import time

from confluent_kafka import Consumer, ConsumerGroupType, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

BROKER = os.environ["BROKER"]
ADMIN = AdminClient({"bootstrap.servers": BROKER})


def until(condition, what, seconds=40):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def create(topic, partitions):
    for future in ADMIN.create_topics([NewTopic(topic, partitions, 1)]).values():
        future.result(30)


def produce(topic, values):
    producer = Producer({"bootstrap.servers": BROKER})
    for value in values:
        producer.produce(topic, str(value).encode())
    assert producer.flush(30) == 0


class Member(threading.Thread):
    """A member that polls until it is stopped, and keeps what happened to it."""

    def __init__(self, topics, group, protocol="consumer", **config):
        super().__init__(daemon=True)
        settings = {"bootstrap.servers": BROKER, "group.id": group, "auto.offset.reset": "earliest"}
        settings |= {"group.protocol": protocol, "auto.commit.interval.ms": 200}
        self.consumer = Consumer(settings | {name.replace("_", "."): value for name, value in config.items()})
        self.values, self.assigned, self.revoked, self.running = [], set(), 0, True
        self.consumer.subscribe(topics, on_revoke=self.on_revoke)
        self.start()

    def on_revoke(self, _, partitions):
        self.revoked += len(partitions)

    def run(self):
        while self.running:
            message = self.consumer.poll(0.1)
            if message is not None and message.error() is None:
                self.values.append(int(message.value()))
            self.assigned = {(p.topic, p.partition) for p in self.consumer.assignment()}
        self.consumer.close()

    def stop(self):
        self.running = False
        self.join(timeout=30)


def partitions_move_one_by_one():
    create("shared-848", 4)
    produce("shared-848", range(100))
    one = Member(["shared-848"], "moving-848")
    until(lambda: sorted(one.values) == list(range(100)), "the first member reads everything")
    assert len(one.assigned) == 4, one.assigned
    two = Member(["shared-848"], "moving-848")
    until(lambda: len(one.assigned) == 2 and len(two.assigned) == 2, "two members share the partitions")
    assert one.assigned.isdisjoint(two.assigned)
    assert one.revoked == 2, f"only what moves is revoked: {one.revoked}"
    two.stop()
    until(lambda: len(one.assigned) == 4, "the first member takes over")
    produce("shared-848", range(100, 150))
    until(lambda: len(one.values) + len(two.values) >= 150, "the first member goes on")
    one.stop()
    assert sorted(one.values + two.values) == list(range(150)), "offsets were committed and taken up"
    print("ok: confluent-kafka's consumers share partitions under group.protocol=consumer, and one takes over")


def the_next_consumer_goes_on():
    produce("shared-848", range(150, 160))
    later = Member(["shared-848"], "moving-848")
    until(lambda: len(later.values) == 10, "what is new is read")
    later.stop()
    assert sorted(later.values) == list(range(150, 160)), later.values
    print("ok: a consumer of the group goes on where it had committed")


def static_members_come_back_to_what_they_had():
    first = Member(["shared-848"], "static-848", group_instance_id="a")
    second = Member(["shared-848"], "static-848", group_instance_id="b")
    until(lambda: len(first.assigned) == 2 and len(second.assigned) == 2, "two static members share the partitions")
    kept, had, revoked = set(first.assigned), set(second.assigned), first.revoked
    second.stop()
    time.sleep(6)
    assert first.assigned == kept, "the group waits for the static member"
    second = Member(["shared-848"], "static-848", group_instance_id="b")
    until(lambda: second.assigned == had, "the static member gets what it had")
    assert first.revoked == revoked
    intruder = Consumer({"bootstrap.servers": BROKER, "group.id": "static-848", "group.protocol": "consumer",
                         "group.instance.id": "b", "auto.offset.reset": "earliest", "log_level": 0})
    intruder.subscribe(["shared-848"])
    try:
        for _ in range(100):
            message = intruder.poll(0.1)
            if message is not None and message.error() is not None:
                raise KafkaException(message.error())
        raise AssertionError("a second consumer with the instance id was let in")
    except KafkaException as refused:
        assert "instance ID is still used by another member" in refused.args[0].str(), refused
    finally:
        intruder.close()
    first.stop()
    second.stop()
    print("ok: a static member is waited for, and no other takes its instance id")


def assignors_and_topics():
    create("ranged-a", 2)
    create("ranged-b", 2)
    members = [Member(["ranged-a", "ranged-b"], "ranged-848", group_remote_assignor="range") for _ in range(2)]
    until(lambda: all(len(member.assigned) == 2 for member in members), "two members share two topics")
    assert all(len({partition for _, partition in member.assigned}) == 1 for member in members), "range goes together"
    group = ADMIN.list_consumer_groups(types={ConsumerGroupType.CONSUMER}).result(30)
    assert "ranged-848" in {listed.group_id for listed in group.valid}, group
    described = ADMIN.describe_consumer_groups(["ranged-848"])["ranged-848"].result(30)
    assert described.state.name == "STABLE" and described.type == ConsumerGroupType.CONSUMER, described.state
    assert described.partition_assignor == "range" and len(described.members) == 2, described.partition_assignor
    assert {member.host for member in described.members} <= {"/127.0.0.1", "/::1"}, described.members[0].host
    for member in members:
        member.stop()
    for result in ADMIN.delete_consumer_groups(["ranged-848"]).values():
        result.result(30)
    listed = ADMIN.list_consumer_groups().result(30)
    assert "ranged-848" not in {group.group_id for group in listed.valid}
    print("ok: the range assignor, ListGroups by type, ConsumerGroupDescribe and DeleteGroups")


def a_topic_that_comes_later_is_read():
    member = Member(["later-848"], "later-848", topic_metadata_refresh_interval_ms=500)
    time.sleep(2)
    create("later-848", 1)
    produce("later-848", range(5))
    until(lambda: sorted(member.values) == list(range(5)), "the topic is found")
    member.stop()
    print("ok: a topic that is made after the subscription is assigned")


def topics_are_subscribed_to_by_pattern():
    create("pattern-bills", 1)
    for protocol in ("classic", "consumer"):
        create(f"pattern-{protocol}-a", 2)
        member = Member([f"^pattern-{protocol}-.*"], f"pattern-{protocol}", protocol=protocol,
                        topic_metadata_refresh_interval_ms=500)
        until(lambda: len(member.assigned) == 2, "the topic that matches is assigned")
        # The coordinator looks for new topics no sooner than ten seconds after the last time.
        create(f"pattern-{protocol}-b", 1)
        until(lambda: len(member.assigned) == 3, "so is one that is made later")
        assert {topic for topic, _ in member.assigned} == {f"pattern-{protocol}-a", f"pattern-{protocol}-b"}
        produce(f"pattern-{protocol}-b", range(7))
        until(lambda: sorted(member.values) == list(range(7)), "and read")
        member.stop()
    refused = Consumer({"bootstrap.servers": BROKER, "group.id": "pattern-wrong", "group.protocol": "consumer"})
    refused.subscribe([r"^pattern-(a)\1"])
    deadline, message = time.monotonic() + 20, None
    while message is None and time.monotonic() < deadline:
        message = refused.poll(0.5)
    assert message is not None and message.error() is not None, "an expression that RE2 does not know is refused"
    refused.close()
    print("ok: topics are subscribed to by pattern under both group protocols, also those that come later")


def a_group_moves_from_one_protocol_to_the_other():
    create("migrated", 4)
    produce("migrated", range(40))
    classic = Member(["migrated"], "migrating", protocol="classic", session_timeout_ms=6000,
                     heartbeat_interval_ms=200, partition_assignment_strategy="cooperative-sticky")
    until(lambda: len(classic.assigned) == 4, "the classic member has everything")
    until(lambda: sorted(classic.values) == list(range(40)), "the classic member reads everything")
    modern = Member(["migrated"], "migrating")
    until(lambda: len(classic.assigned) == 2 and len(modern.assigned) == 2, "members of both protocols share")
    described = ADMIN.describe_consumer_groups(["migrating"])["migrating"].result(30)
    assert described.type == ConsumerGroupType.CONSUMER, described.type
    modern.stop()
    until(lambda: len(classic.assigned) == 4, "the classic member takes everything back")
    described = ADMIN.describe_consumer_groups(["migrating"])["migrating"].result(30)
    assert described.type == ConsumerGroupType.CLASSIC, described.type
    modern = Member(["migrated"], "migrating")
    until(lambda: len(classic.assigned) == 2 and len(modern.assigned) == 2, "members of both protocols share again")
    classic.stop()
    until(lambda: len(modern.assigned) == 4, "the member of the new protocol has everything")
    produce("migrated", range(40, 60))
    until(lambda: len(modern.values) >= 20, "what is new is read")
    modern.stop()
    assert sorted(classic.values + modern.values) == list(range(60)), "nothing is lost or read twice on the way"
    print("ok: a group goes from the classic protocol to the new one, back, and forth again")


if __name__ == "__main__":
    partitions_move_one_by_one()
    the_next_consumer_goes_on()
    static_members_come_back_to_what_they_had()
    assignors_and_topics()
    a_topic_that_comes_later_is_read()
    topics_are_subscribed_to_by_pattern()
    a_group_moves_from_one_protocol_to_the_other()
