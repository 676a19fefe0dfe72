"""confluent-kafka's idempotent producer (librdkafka) against `faultline serve` (address in $BROKER)."""

import os

from confluent_kafka import Consumer, Producer, TopicPartition

BROKER = os.environ["BROKER"]
RECORDS = 500


def produce_idempotently():
    topic, offsets, errors = "confluent-idempotent", [], []
    producer = Producer({
        "bootstrap.servers": BROKER,
        "enable.idempotence": True,
        "batch.num.messages": 7,
        "linger.ms": 1,
    })

    def delivered(error, message):
        errors.append(error) if error else offsets.append(message.offset())

    for i in range(RECORDS):
        producer.produce(topic, str(i).encode(), partition=0, on_delivery=delivered)
        producer.poll(0)
    assert producer.flush(30) == 0
    assert not errors, errors
    assert offsets == list(range(RECORDS)), offsets
    print("ok: confluent-kafka produces idempotently, in order")


def read_back():
    consumer = Consumer({"bootstrap.servers": BROKER, "group.id": "unused", "enable.auto.commit": False})
    consumer.assign([TopicPartition("confluent-idempotent", 0, 0)])
    values = []
    while len(values) < RECORDS:
        message = consumer.poll(10)
        assert message is not None, f"{len(values)} records and no more"
        assert message.error() is None, message.error()
        values.append(int(message.value()))
    consumer.close()
    assert values == list(range(RECORDS)), values
    print("ok: confluent-kafka reads them back by assignment")


produce_idempotently()
read_back()
