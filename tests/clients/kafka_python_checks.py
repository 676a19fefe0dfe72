"""kafka-python's producer and an assigned consumer against `faultline serve` (address in $BROKER)."""

import json
import os

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

BROKER = os.environ["BROKER"]


def consume(topic, partitions, timeout_ms=3000, **config):
    consumer = KafkaConsumer(
        bootstrap_servers=BROKER,
        auto_offset_reset="earliest",
        consumer_timeout_ms=timeout_ms,
        group_id=None,
        enable_auto_commit=False,
        **config,
    )
    try:
        assigned = [TopicPartition(topic, p) for p in partitions]
        consumer.assign(assigned)
        return list(consumer), consumer.beginning_offsets(assigned), consumer.end_offsets(assigned)
    finally:
        consumer.close()


def produce_with_each_acks():
    for acks in (0, 1, "all"):
        topic = f"python-acks-{acks}"
        producer = KafkaProducer(
            bootstrap_servers=BROKER,
            acks=acks,
            value_serializer=lambda v: json.dumps(v).encode(),
            key_serializer=str.encode,
        )
        futures = [producer.send(topic, {"id": i}, key=f"k{i % 3}", partition=0) for i in range(50)]
        producer.flush(timeout=20)
        results = [f.get(timeout=10) for f in futures]
        producer.close()
        if acks != 0:
            assert [r.offset for r in results] == list(range(50)), [r.offset for r in results]
        records, beginning, end = consume(topic, [0])
        assert [json.loads(r.value)["id"] for r in records] == list(range(50)), records
        assert [r.key for r in records] == [f"k{i % 3}".encode() for i in range(50)]
        assert [r.offset for r in records] == list(range(50))
        partition = TopicPartition(topic, 0)
        assert beginning == {partition: 0} and end == {partition: 50}, (beginning, end)
        print(f"ok: kafka-python produces with acks={acks} and reads back by assignment")


def produce_idempotently():
    producer = KafkaProducer(bootstrap_servers=BROKER, enable_idempotence=True, acks="all", batch_size=100, linger_ms=1)
    futures = [producer.send("python-idempotent", str(i).encode(), partition=0) for i in range(200)]
    producer.flush(timeout=20)
    assert [f.get(timeout=10).offset for f in futures] == list(range(200))
    producer.close()
    records, _, _ = consume("python-idempotent", [0])
    assert [int(r.value) for r in records] == list(range(200)), records
    print("ok: kafka-python produces idempotently, in order")


def produce_with_default_configuration():
    """The program everybody writes first: no settings but the address."""
    producer = KafkaProducer(bootstrap_servers=BROKER)
    metadata = producer.send("python-default", b"hello").get(timeout=10)
    producer.close()
    assert (metadata.topic, metadata.partition, metadata.offset) == ("python-default", 0, 0), metadata
    records, _, _ = consume("python-default", [0])
    assert [r.value for r in records] == [b"hello"], records
    print("ok: kafka-python's producer works as it comes")


def seek_and_offsets_for_times():
    topic = "python-times"
    producer = KafkaProducer(bootstrap_servers=BROKER, acks="all")
    for i in range(10):
        producer.send(topic, str(i).encode(), timestamp_ms=1_700_000_000_000 + i * 1000).get(timeout=10)
    producer.close()
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id=None, consumer_timeout_ms=3000)
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    found = consumer.offsets_for_times({partition: 1_700_000_000_000 + 6500})
    assert found[partition].offset == 7, found
    consumer.seek(partition, found[partition].offset)
    assert [r.value for r in consumer] == [b"7", b"8", b"9"]
    consumer.close()
    print("ok: kafka-python finds an offset by time and seeks to it")


def too_large_is_refused():
    producer = KafkaProducer(bootstrap_servers=BROKER, acks="all", max_request_size=10_000_000, retries=0)
    try:
        producer.send("python-large", b"x" * 3_000_000).get(timeout=10)
    except KafkaError as error:
        assert "MessageSizeTooLarge" in type(error).__name__ or "RecordTooLarge" in repr(error), repr(error)
    else:
        raise AssertionError("a record above max.message.bytes was accepted")
    finally:
        producer.close()
    print("ok: a record above max.message.bytes is refused")


produce_with_each_acks()
produce_idempotently()
produce_with_default_configuration()
seek_and_offsets_for_times()
too_large_is_refused()
